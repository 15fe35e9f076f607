"""What a stranger, a liar or a careless poster may send: nothing raises, no other memory changes."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest

from support.rdma import SMALL, Cluster
from support.rdma_invariants import check_tables
from unimem.addresses import window_of
from unimem.wire import CompletionFlags, Op, Status, WorkFlags
from unimem_node.clock import EventLog
from unimem_node.fabric.packets import (
    ACCEPTED,
    ACK_RECORD,
    FABRIC_HEADER,
    NACK,
    PacketOp,
    build_frame,
    open_frame,
    request,
    seal_header,
)

LOCAL, REGION = 0x10_0000, 0x4000


@pytest.fixture(params=[True, False], ids=["compiled", "readable"])
def cluster(request: pytest.FixtureRequest) -> Cluster:
    found = Cluster(2, fast=request.param, spec=SMALL, log=EventLog())
    for node in found.nodes:
        node.map(7, LOCAL, REGION)
        node.map(7, found.gva(node.index), REGION)
        node.poke(7, LOCAL, bytes(range(256)) * (REGION // 256))
    return found


def frame_for(cluster: Cluster, *packets: tuple[np.void, bytes], **header: int) -> np.ndarray:
    """From node 0, life 1, connection 1, to node 1, unless `header` says otherwise."""
    fields = {"src_node": 0, "dst_node": 1, "src_incarnation": 1, "dst_incarnation": 1, **header}
    return build_frame(packets, **fields)


def write(cluster: Cluster, seq: int, data: bytes = b"liarliar", **fields: int) -> tuple[np.void, bytes]:
    return request(PacketOp.WRITE, seq, **{"pdid": 7, "va": cluster.gva(1), "token": seq + 1, **fields}), data


def give(cluster: Cluster, frame: np.ndarray, index: int = 1) -> list[str]:
    """Hand a frame to a node: its answers, as text."""
    node = cluster.nodes[index]
    node.on_frame(1 - index, frame)
    check_tables(node.ni)
    out = []
    for _, reply in node.take_frames():
        for packet in open_frame(reply).packets:
            op = PacketOp(int(packet["op"]))
            status = Status(int(packet["status"])).name if op is PacketOp.NACK else ""
            count = int(packet["length"]) // ACK_RECORD.itemsize if op is PacketOp.ACK else ""
            out.append(f"{op.name} {status}{count}".strip())
    return out


def memory(cluster: Cluster, index: int = 1, n: int = 8) -> bytes:
    return cluster.nodes[index].peek(7, cluster.gva(index), n)


def counter(cluster: Cluster, name: str, index: int = 1) -> int:
    return cluster.nodes[index].ni.counters()[name]


# ---- frames -----------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("field", "value"),
    [
        ("magic", 0x1234), ("version", 2), ("version", 0), ("kind", 1), ("kind", 77), ("count", 0),
        ("count", 2), ("count", (1 << 32) - 1),
        ("total_bytes", 1 << 40), ("record_bytes", 0), ("record_bytes", 128), ("total_bytes", 0),
        ("src_node", 5), ("time", 1 << 61), ("time", (1 << 64) - 1),
    ],
)  # fmt: skip
def test_what_is_no_frame(cluster: Cluster, field: str, value: int) -> None:
    frame = frame_for(cluster, write(cluster, 0))
    frame[:64].view(FABRIC_HEADER)[field] = value
    seal_header(frame)
    assert give(cluster, frame) == []
    assert counter(cluster, "bad_frames") == 1
    assert memory(cluster) == bytes(8)


def test_a_damaged_header(cluster: Cluster) -> None:
    for at in range(64):
        frame = frame_for(cluster, write(cluster, 0))
        frame[at] ^= 0x10
        assert give(cluster, frame) == []
    assert counter(cluster, "bad_frames") == 64
    assert memory(cluster) == bytes(8)


def test_any_damaged_byte_of_a_packet(cluster: Cluster) -> None:
    for at in range(64, 136):
        frame = frame_for(cluster, write(cluster, 0))
        frame[at] ^= 0x04
        assert give(cluster, frame) in ([], ["NACK BAD_CRC"], ["NACK MALFORMED"])
        assert memory(cluster) == bytes(8)
    assert counter(cluster, "bad_crc") == 72


@pytest.mark.parametrize("offset", [0, 8, 64, 129, 136, 1 << 16, (1 << 32) - 8])
def test_payload_that_is_elsewhere(cluster: Cluster, offset: int) -> None:
    frame = frame_for(cluster, write(cluster, 0))
    frame[64 + 56 : 64 + 60] = np.frombuffer(np.uint32(offset).tobytes(), np.uint8)
    assert give(cluster, frame) == ["NACK BAD_CRC"]
    assert memory(cluster) == bytes(8)


def test_a_past_connection_and_a_past_life(cluster: Cluster) -> None:
    assert give(cluster, frame_for(cluster, write(cluster, 0), src_incarnation=3, connection=5)) == ["ACK 1"]
    for past in ({"src_incarnation": 3, "connection": 4}, {"src_incarnation": 2, "connection": 9}):
        assert give(cluster, frame_for(cluster, write(cluster, 1, b"the past"), **past)) == []
    assert counter(cluster, "stale_frames") == 2
    assert memory(cluster) == b"liarliar"


def test_for_somebody_else(cluster: Cluster) -> None:
    for other in ({"dst_node": 7}, {"dst_incarnation": 9}, {"dst_incarnation": 0}):
        assert give(cluster, frame_for(cluster, write(cluster, 0), **other)) == ["NACK STALE_ROUTE"]
    assert memory(cluster) == bytes(8)


# ---- numbers ----------------------------------------------------------------------------------------------


def test_a_number_far_ahead_is_dropped(cluster: Cluster) -> None:
    for seq in (8192, 9000, 1 << 20, (1 << 31) - 1):
        assert give(cluster, frame_for(cluster, write(cluster, seq))) == []
    assert counter(cluster, "gaps") == 4
    assert give(cluster, frame_for(cluster, write(cluster, 8191, b"the last"))) == ["ACK 1"]
    assert memory(cluster) == b"the last"


def test_a_number_far_behind_is_a_duplicate(cluster: Cluster) -> None:
    for seq in (1 << 31, (1 << 32) - 1, (1 << 32) - 8192):
        assert give(cluster, frame_for(cluster, write(cluster, seq))) == ["ACK 1"]
    assert counter(cluster, "duplicates") == 3
    assert memory(cluster) == bytes(8)


@pytest.mark.parametrize("base", [1, 8191, 8192, 100_000, (1 << 31) - 1])
def test_a_base_of_nonsense_costs_nobody_but_its_sender(cluster: Cluster, base: int) -> None:
    assert give(cluster, frame_for(cluster, write(cluster, 5, b"executed"))) == ["ACK 1"]
    assert give(cluster, frame_for(cluster, write(cluster, 0), base=base)) == ["ACK 1"]
    assert memory(cluster) == b"executed"  # number 0 was settled by its own frame
    assert give(cluster, frame_for(cluster, write(cluster, base + 6, b"goes on!"), base=base)) == ["ACK 1"]
    assert memory(cluster) == b"goes on!"


def test_a_base_that_goes_back_brings_nothing_back(cluster: Cluster) -> None:
    give(cluster, frame_for(cluster, write(cluster, 20), base=20))
    for base in (0, 19, (1 << 32) - 1, 1 << 31):
        assert give(cluster, frame_for(cluster, write(cluster, 10, b"too late"), base=base)) == ["ACK 1"]
    assert memory(cluster) == b"liarliar"


# ---- requests ---------------------------------------------------------------------------------------------

HERE = window_of(1)


@pytest.mark.parametrize(
    ("op", "fields", "body", "answer"),
    [
        (PacketOp.WRITE, {"pdid": 99}, b"x" * 8, "ACCESS_DENIED"),
        (PacketOp.WRITE, {"pdid": 0}, b"x" * 8, "ACCESS_DENIED"),
        (PacketOp.WRITE, {"pdid": 65535}, b"x" * 8, "ACCESS_DENIED"),
        (PacketOp.WRITE, {"length": 8}, b"", "MALFORMED"),
        (PacketOp.WRITE, {"va": 0}, b"x" * 8, "STALE_ROUTE"),
        (PacketOp.WRITE, {"va": (1 << 64) - 4}, b"x" * 8, "STALE_ROUTE"),
        (PacketOp.WRITE, {"va": HERE.stop - 4}, b"x" * 8, "MALFORMED"),
        (PacketOp.WRITE, {"va": HERE.stop}, b"x" * 8, "STALE_ROUTE"),
        (PacketOp.WRITE, {"va": HERE.start + REGION}, b"x" * 8, "TRANSLATION_FAULT"),
        (PacketOp.WRITE, {"time": 1 << 61}, b"x" * 8, "MALFORMED"),
        (PacketOp.READ, {"length": 0}, b"", "MALFORMED"),
        (PacketOp.READ, {"length": (256 << 10) + 1}, b"", "MALFORMED"),
        (PacketOp.READ, {"length": (1 << 32) - 1}, b"", "MALFORMED"),
        (PacketOp.READ, {}, b"a payload", "MALFORMED"),
        (PacketOp.FETCH_ADD, {"length": 8, "replay": 0}, b"", "MALFORMED"),
        (PacketOp.FETCH_ADD, {"length": 8, "replay": 257}, b"", "MALFORMED"),
        (PacketOp.FETCH_ADD, {"length": 8, "replay": 65535}, b"", "MALFORMED"),
        (PacketOp.SWAP, {"length": 2, "replay": 1}, b"", "MALFORMED"),
        (PacketOp.SWAP, {"length": 8, "replay": 1, "va": HERE.start + 4}, b"", "MISALIGNED"),
        (PacketOp.COMPARE_SWAP, {"length": 8, "replay": 1}, b"12345678", "MALFORMED"),
        (PacketOp.SEND, {"length": 8}, b"", "MALFORMED"),
        (PacketOp.SEND, {}, b"m" * 65, "MALFORMED"),
        (PacketOp.SEND, {"va": HERE.start + 4}, b"m", "MISALIGNED"),
        (PacketOp.SEND, {}, b"no box", "MALFORMED"),
        (PacketOp.COPY, {"length": 0}, b"", "MALFORMED"),
        (PacketOp.COPY, {}, b"a payload", "MALFORMED"),
        (PacketOp.COPY, {"length": 8, "va": HERE.stop - 4, "operand": HERE.start}, b"", "MALFORMED"),
        (PacketOp.COPY, {"length": 8, "operand": (1 << 64) - 4}, b"", "NO_ROUTE"),
        (PacketOp.COPY, {"length": 8, "operand": HERE.stop - 4}, b"", "NO_ROUTE"),
    ],
)  # fmt: skip
def test_a_request_that_makes_no_sense(
    cluster: Cluster, op: PacketOp, fields: dict[str, int], body: bytes, answer: str
) -> None:
    packet = request(op, 0, **{"pdid": 7, "va": cluster.gva(1), "token": 1, **fields})
    frame = frame_for(cluster, (packet, body))
    node = cluster.nodes[1]
    node.on_frame(0, frame)
    node.pump()
    check_tables(node.ni)
    ((_, reply),) = node.take_frames()
    (nack,) = open_frame(reply).packets.view(NACK)
    assert (PacketOp(int(nack["op"])), Status(int(nack["status"])).name) == (PacketOp.NACK, answer)
    assert nack["length"] == 0
    assert memory(cluster, n=REGION) == bytes(REGION)
    # It has its verdict: again the same one, and the next request is not held up.
    node.on_frame(0, frame)
    node.pump()
    ((_, reply),) = node.take_frames()
    assert open_frame(reply).packets[0]["status"] == Status[answer]
    assert give(cluster, frame_for(cluster, write(cluster, 1))) == ["ACK 1"]


@pytest.mark.parametrize("op", [0, 8, 15, 20, 77, 255])
def test_an_operation_that_does_not_exist(cluster: Cluster, op: int) -> None:
    packet = request(PacketOp.WRITE, 0, pdid=7, va=cluster.gva(1))
    packet["op"] = op
    assert give(cluster, frame_for(cluster, (packet, b"whatever"))) in (["NACK MALFORMED"], [])
    assert memory(cluster) == bytes(8)


def test_unknown_flags_change_nothing(cluster: Cluster) -> None:
    packet, body = write(cluster, 0, flags=0xF0 | ACCEPTED)
    assert give(cluster, frame_for(cluster, (packet, body))) == ["ACK 1"]
    assert memory(cluster) == b"liarliar"


# ---- answers ----------------------------------------------------------------------------------------------


def answers(token: int, seq: int) -> dict[str, tuple[np.void, bytes]]:
    record = np.zeros(1, ACK_RECORD)
    record["token"] = token
    return {
        "ACK": (request(PacketOp.ACK, 0), record.tobytes()),
        "torn ACK": (request(PacketOp.ACK, 0), record.tobytes()[:-8]),
        "empty ACK": (request(PacketOp.ACK, 0), b""),
        "RESPONSE": (request(PacketOp.RESPONSE, seq, token=token, length=8), b"ABCDEFGH"),
        "short RESPONSE": (request(PacketOp.RESPONSE, seq, token=token, length=4), b"ABCD"),
        "value": (request(PacketOp.RESPONSE, seq, token=token, operand=5), b""),
        "NACK": (request(PacketOp.NACK, seq, token=token, status=int(Status.TRANSLATION_FAULT)), b""),
        "NACK of no status": (request(PacketOp.NACK, seq, token=token, status=0xFFFF), b""),
        "PAGE_PENDING": (request(PacketOp.NACK, seq, token=token, status=int(Status.PAGE_PENDING)), b""),
        "BAD_CRC": (request(PacketOp.NACK, seq, token=token, status=int(Status.BAD_CRC)), b""),
        "READY": (request(PacketOp.READY, seq, token=token), b""),
    }


@pytest.mark.parametrize("name", answers(0, 0))
@pytest.mark.parametrize("token", [0, 1, 63, 64, 1 << 31, 1 << 32, (1 << 63) - 1, 1 << 63, (1 << 64) - 1])
def test_an_answer_to_nothing(cluster: Cluster, name: str, token: int) -> None:
    frame = frame_for(cluster, answers(token, 0)[name], src_node=1, dst_node=0)
    assert give(cluster, frame, index=0) == []
    assert counter(cluster, "late_answers", 0) == 1
    assert cluster.nodes[0].ni.idle


@pytest.mark.parametrize("name", answers(0, 0))
@pytest.mark.parametrize("op", [Op.WRITE, Op.READ, Op.FETCH_ADD])
def test_an_answer_of_the_wrong_kind_or_a_lie(cluster: Cluster, name: str, op: Op) -> None:
    """Whatever it is, the request ends once; a READ's bytes go nowhere but where they were asked for."""
    source = cluster.nodes[0]
    there = cluster.gva(1)
    src, dst = (there, LOCAL) if op is Op.READ else (LOCAL, there)
    cluster.post(0, op, wr_id=1, src=src, dst=dst, length=8)
    source.pump()
    ((_, sent),) = source.take_frames()
    token = int(open_frame(sent).packets[0]["token"])
    before = source.peek(7, LOCAL + 8, REGION - 8)
    for seq in (1, 0):
        give(cluster, frame_for(cluster, answers(token, seq)[name], src_node=1, dst_node=0), index=0)
    cluster.nodes[1].on_frame(0, sent)
    for _, reply in cluster.nodes[1].take_frames():
        give(cluster, reply, index=0)
    cluster.run()
    rows = source.ni.take_completions()
    if name == "PAGE_PENDING" and not len(rows):
        return  # it waits for READY, or its timer
    assert len(rows) == 1
    assert source.peek(7, LOCAL + 8, REGION - 8) == before
    assert rows["parts_ps"].sum() == rows["done_ps"] - rows["posted_ps"]


# ---- work requests ----------------------------------------------------------------------------------------


def ended(cluster: Cluster, op: Op, **fields: Any) -> tuple[str, bool]:
    cluster.post(0, op, **fields)
    row = cluster.one(0)
    for node in cluster.nodes:
        check_tables(node.ni)
    return Status(int(row["status"])).name, bool(row["flags"] & CompletionFlags.DEFINITE)


@pytest.mark.parametrize(
    ("src", "dst", "length", "status"),
    [
        (LOCAL, (1 << 64) - 4, 8, "NO_ROUTE"),
        (LOCAL, (1 << 63) - 4, 8, "NO_ROUTE"),
        (LOCAL, HERE.stop - 4, 8, "NO_ROUTE"),
        (LOCAL, HERE.start, (1 << 64) - 1, "MALFORMED"),
        (LOCAL, HERE.start, 0, "MALFORMED"),
        ((1 << 64) - 4, HERE.start, 8, "MALFORMED"),
        ((1 << 63) - 4, HERE.start, 8, "MALFORMED"),
        ((1 << 49) - 4, HERE.start, 8, "MALFORMED"),
    ],
)
@pytest.mark.parametrize("op", [Op.WRITE, Op.READ])
def test_a_request_that_wraps_around(
    cluster: Cluster, op: Op, src: int, dst: int, length: int, status: str
) -> None:
    ends = {"src": src, "dst": dst} if op is Op.WRITE else {"src": dst, "dst": src}
    assert ended(cluster, op, length=length, **ends) == (status, True)


def test_across_the_end_of_a_region(cluster: Cluster) -> None:
    """The bytes up to the border are there, none beyond; at the source, what lies before it was sent."""
    assert ended(cluster, Op.WRITE, src=LOCAL, dst=cluster.gva(1, REGION - 4), length=8) == (
        "TRANSLATION_FAULT",
        False,
    )
    assert cluster.nodes[1].peek(7, cluster.gva(1, REGION - 4), 4) == bytes(range(4))
    cluster.nodes[0].clear_fault(7)
    status, _ = ended(cluster, Op.WRITE, src=LOCAL + REGION - 0x1000, dst=cluster.gva(1), length=0x2000)
    assert status == "TRANSLATION_FAULT"
    assert cluster.nodes[1].peek(7, cluster.gva(1, 0x1000), 0x1000) == bytes(0x1000)


def test_two_writes_to_the_same_bytes(cluster: Cluster) -> None:
    """Each byte is one's or the other's."""
    cluster.nodes[0].poke(7, LOCAL, b"\xaa" * 0x2000 + b"\x55" * 0x2000)
    cluster.post(0, Op.WRITE, wr_id=1, src=LOCAL, dst=cluster.gva(1), length=0x2000)
    cluster.post(0, Op.WRITE, wr_id=2, src=LOCAL + 0x2000, dst=cluster.gva(1, 0x800), length=0x2000)
    rows = cluster.completions(0)
    assert rows["status"].tolist() == [0, 0]
    there = memory(cluster, n=0x2800)
    assert there[:0x800] == b"\xaa" * 0x800
    assert set(there[0x800:0x2000]) <= {0xAA, 0x55}
    assert there[0x2000:] == b"\x55" * 0x800


def test_a_block_onto_itself(cluster: Cluster) -> None:
    """A node's window is memory of its own, too. A block is read before it is written."""
    here, data = cluster.gva(0), bytes(range(256)) * 16
    node = cluster.nodes[0]
    for op in (Op.READ, Op.WRITE):
        node.poke(7, here, data)
        assert ended(cluster, op, src=here, dst=here + 8, length=len(data)) == ("OK", False)
        assert node.peek(7, here, len(data) + 8) == data[:8] + data


@pytest.mark.parametrize("fence", [False, True])
def test_deadlines_none_and_tiny(cluster: Cluster, fence: bool) -> None:
    """0 is none; 1 µs is over before the answer is there: it ends, once, also behind a fence."""
    flags = int(WorkFlags.FENCE) if fence else 0
    cluster.post(0, Op.WRITE, wr_id=1, src=LOCAL, dst=cluster.gva(1), length=8, deadline_us=0)
    cluster.post(0, Op.WRITE, wr_id=2, src=LOCAL, dst=cluster.gva(1, 8), length=8, deadline_us=1, flags=flags)
    cluster.post(0, Op.WRITE, wr_id=3, src=LOCAL, dst=cluster.gva(1, 16), length=8)
    rows = cluster.completions(0)
    found = {int(row["wr_id"]): Status(int(row["status"])).name for row in rows}
    assert found == {1: "OK", 2: "TIMED_OUT", 3: "OK"}
    for node in cluster.nodes:
        check_tables(node.ni)
    assert cluster.nodes[0].ni.idle


def test_what_was_accepted_and_then_refused_is_in_the_log(cluster: Cluster) -> None:
    node = cluster.nodes[1]
    node.set_stalling(7)
    packet, body = write(cluster, 0, va=cluster.gva(1, REGION), flags=ACCEPTED)
    assert give(cluster, frame_for(cluster, (packet, body))) == ["ACK 1"]
    node.resume(7, terminate=True)
    assert cluster.log is not None
    lost = [row for row in cluster.log.rows if row.kind == "rdma.accepted_lost"]
    assert [(row.node, row.fields["peer"], row.fields["status"]) for row in lost] == [
        ("n1", 0, "TRANSLATION_FAULT")
    ]
    assert node.take_frames() == []
