"""The RDMA network interface: registers, slots, limits, liars, restarts; what the scenarios do not show."""

from __future__ import annotations

import os
import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from support.rdma import MISS_PDID, MISS_STATUS, NI, PD_SLOT, PD_USED, SMALL, SMMU, Cluster, TestNode, work
from unimem.addresses import window_of
from unimem.wire import WORK_REQUEST, CompletionFlags, Op, Side, Status
from unimem_node.clock import EventLog, Scheduler
from unimem_node.fabric import RdmaSpec
from unimem_node.fabric import _fast_columns as col
from unimem_node.fabric.packets import (
    ACK_RECORD,
    HAS_PAYLOAD,
    NACK,
    PACKET,
    RESPONSE,
    PacketOp,
    build_frame,
    open_frame,
    request,
    seal_packet,
)
from unimem_node.fabric.registers import IDENTITY

ROOT = Path(__file__).resolve().parents[2]
LOCAL = 0x10_0000
TO_1 = {"src_node": 0, "dst_node": 1, "src_incarnation": 1, "dst_incarnation": 1}


@pytest.fixture(params=[True, False], ids=["compiled", "readable"])
def cluster(request: pytest.FixtureRequest) -> Cluster:
    """Two nodes; 64 KiB of process 7 at LOCAL on node 0, and at the start of node 1's window."""
    made = Cluster(2, fast=request.param)
    made.nodes[0].map(7, LOCAL, 1 << 16)
    made.nodes[1].map(7, made.gva(1), 1 << 16)
    made.nodes[0].poke(7, LOCAL, bytes(range(256)) * 256)
    return made


def frames_of(node: TestNode) -> list[np.ndarray]:
    node.pump()
    return [frame for _, frame in node.take_frames()]


# ---- registers and slots


def test_registers() -> None:
    node = TestNode(3, Scheduler(), spec=RdmaSpec(slots=2))
    assert node.bus.read32(NI) == IDENTITY
    assert node.bus.read64(NI + 0x20) == window_of(3).start
    assert node.bus.read64(NI + 0x28) == len(window_of(3))
    assert node.bus.read32(NI + 0x30) == 2
    node.bus.write32(NI + PD_SLOT + 4, 0xFFFF_FFFF)
    assert node.bus.read32(NI + PD_SLOT + 4) == 0x8000_FFFF
    node.bus.write32(NI + PD_SLOT + 8, 0x8000_0007)  # a slot it has not
    assert node.bus.read32(NI + PD_SLOT + 8) == 0
    node.bus.write64(NI + PD_USED, 5)
    assert node.bus.read64(NI + PD_USED) == 0
    node.scheduler.advance_to(77)
    node.pump()
    assert node.bus.read64(NI + 0x40) == 77


def test_disabled_interface_refuses_both_ways(cluster: Cluster) -> None:
    target = cluster.nodes[1]
    target.bus.write32(NI + 8, 2)
    cluster.post(0, Op.WRITE, src=LOCAL, dst=cluster.gva(1), length=8)
    row = cluster.one(0)
    assert (row["status"], row["side"]) == (Status.ACCESS_DENIED, Side.TARGET)
    cluster.post(1, Op.WRITE, src=LOCAL, dst=cluster.gva(1), length=8)
    row = cluster.one(1)
    assert (row["status"], row["side"]) == (Status.ACCESS_DENIED, Side.SOURCE)
    target.bus.write32(NI + 8, 3)
    cluster.post(0, Op.WRITE, src=LOCAL, dst=cluster.gva(1), length=8)
    assert cluster.one(0)["status"] == Status.OK


def test_the_least_recently_used_slot_is_evicted() -> None:
    cluster = Cluster(2, spec=RdmaSpec(slots=2))
    target = cluster.nodes[1]
    for pdid in (7, 8, 9):
        for node in cluster.nodes:
            if pdid not in node.processes:
                node.open(pdid)
        cluster.nodes[0].map(pdid, LOCAL, 4096)
        target.map(pdid, cluster.gva(1, pdid << 16), 4096)
    for pdid in (7, 8, 7, 9, 7):
        cluster.post(0, Op.WRITE, pdid=pdid, src=LOCAL, dst=cluster.gva(1, pdid << 16), length=8)
        assert cluster.one(0)["status"] == Status.OK
    assert sorted(target.bus.read32(NI + PD_SLOT + 4 * s) & 0xFFFF for s in range(2)) == [7, 9]
    assert target.ni.counters()["misses"] == 3  # 7, 8, 9; 7 was never evicted
    cluster.post(0, Op.WRITE, pdid=8, src=LOCAL, dst=cluster.gva(1, 8 << 16), length=8)
    assert cluster.one(0)["status"] == Status.OK
    assert target.bus.read32(NI + MISS_PDID) == 8


def test_a_miss_nobody_serves_keeps_the_line_up(cluster: Cluster) -> None:
    target = cluster.nodes[1]
    target.interrupts.connect_cpu(lambda spi: None)
    cluster.post(0, Op.WRITE, src=LOCAL, dst=cluster.gva(1), length=8)
    assert cluster.one(0)["status"] == Status.ACCESS_DENIED
    assert target.interrupts.pending() == [RdmaSpec().spi]
    target.bus.write32(NI + MISS_STATUS, 1)
    assert target.interrupts.pending() == []


def test_the_driver_may_say_why_it_refuses(cluster: Cluster) -> None:
    target = cluster.nodes[1]

    def handler(spi: int) -> None:
        target.bus.write32(NI + 0x18, Status.NO_CONTEXT_BANK)
        target.bus.write32(NI + MISS_STATUS, 1)

    target.interrupts.connect_cpu(handler)
    cluster.post(0, Op.WRITE, src=LOCAL, dst=cluster.gva(1), length=8)
    row = cluster.one(0)
    assert row["status"] == Status.NO_CONTEXT_BANK
    assert row["flags"] & CompletionFlags.DEFINITE


def test_a_new_mapping_is_used_after_the_table_changed(cluster: Cluster) -> None:
    """The SMMU's epoch: what was resolved before a TLBI or a rerouted stream is not used after."""
    cluster.post(0, Op.WRITE, src=LOCAL, dst=cluster.gva(1), length=8)
    assert cluster.one(0)["status"] == Status.OK
    cluster.nodes[1].unmap(7, cluster.gva(1), 4096)
    cluster.post(0, Op.WRITE, src=LOCAL, dst=cluster.gva(1), length=8)
    assert cluster.one(0)["status"] == Status.TRANSLATION_FAULT
    cluster.nodes[1].map(7, cluster.gva(1), 4096)
    cluster.post(0, Op.WRITE, src=LOCAL, dst=cluster.gva(1), length=8)
    assert cluster.one(0)["status"] == Status.OK


# ---- amounts


def test_many_small_writes(cluster: Cluster) -> None:
    """More than a frame holds, more than the tables had room for."""
    n = 6000
    wrs = np.zeros(n, WORK_REQUEST)
    wrs["op"], wrs["pdid"], wrs["length"] = Op.WRITE, 7, 8
    wrs["wr_id"] = np.arange(n)
    wrs["src"] = LOCAL + 8 * (np.arange(n) % 32)
    wrs["dst"] = cluster.gva(1) + 8 * np.arange(n)
    cluster.nodes[0].ni.post(wrs)
    rows = cluster.completions(0)
    assert sorted(rows["wr_id"]) == list(range(n))
    assert (rows["status"] == Status.OK).all()
    assert (rows["parts_ps"].sum(axis=1) == rows["done_ps"] - rows["posted_ps"]).all()
    assert cluster.nodes[1].peek(7, cluster.gva(1), 8 * n) == (bytes(range(256)) * (n // 32 + 1))[: 8 * n]
    counters = cluster.nodes[1].ni.counters()
    assert counters["frames_in"] == 2
    assert counters["frames_out"] == 2
    assert cluster.nodes[0].ni.idle


def test_a_transfer_larger_than_the_window() -> None:
    cluster = Cluster(2)
    n = 6 << 20
    cluster.nodes[0].map(7, LOCAL, n, scattered=True)
    cluster.nodes[1].map(7, cluster.gva(1), n, scattered=True)
    data = np.random.default_rng(1).bytes(n)
    cluster.nodes[0].poke(7, LOCAL, data)
    cluster.post(0, Op.WRITE, src=LOCAL, dst=cluster.gva(1), length=n)
    row = cluster.one(0)
    assert (row["status"], row["bytes"]) == (Status.OK, n)
    assert cluster.nodes[1].peek(7, cluster.gva(1), n) == data
    wire = (n >> 10) * RdmaSpec().link_ps_per_kib
    assert wire < row["done_ps"] - row["posted_ps"] < 1.02 * wire  # the link is what limits it
    assert row["parts_ps"].sum() == row["done_ps"] - row["posted_ps"]
    cluster.nodes[0].poke(7, LOCAL, bytes(n))
    cluster.post(0, Op.READ, src=cluster.gva(1), dst=LOCAL, length=n)
    row = cluster.one(0)
    assert (row["status"], row["bytes"]) == (Status.OK, n)
    assert cluster.nodes[0].peek(7, LOCAL, n) == data


def test_many_reads_are_answered_in_several_frames(cluster: Cluster) -> None:
    n = 40
    for i in range(n):
        cluster.post(1, Op.READ, wr_id=i, src=cluster.gva(0), dst=cluster.gva(1), length=16384)
    cluster.nodes[0].map(7, cluster.gva(0), 16384)
    rows = cluster.completions(1)
    assert len(rows) == n
    assert (rows["status"] == Status.OK).all()
    assert cluster.nodes[0].ni.counters()["frames_out"] == -(-n * 16384 // (256 << 10))


def test_frames_keep_their_bytes_while_somebody_holds_them(cluster: Cluster) -> None:
    """Buffers are reused only when nothing refers to them: not a frame, not a view of one."""
    source = cluster.nodes[0]
    held = []
    for i in range(40):
        source.poke(7, LOCAL, bytes([i]) * 65536)
        cluster.post(0, Op.WRITE, src=LOCAL, dst=cluster.gva(1), length=65536)
        frame = frames_of(source)[0]
        assert not frame.flags.writeable
        held.append(frame.data[1000:])
        del frame
    assert all(bytes(view[-64000:]) == bytes([i]) * 64000 for i, view in enumerate(held))
    pool = source.ni._core._pool
    held.clear()
    before = {id(buffer) for buffer in pool}
    cluster.post(0, Op.READ, src=cluster.gva(1), dst=LOCAL, length=8)
    cluster.post(0, Op.WRITE, src=LOCAL, dst=cluster.gva(1), length=65536)
    frames_of(source)
    assert {id(buffer) for buffer in pool} == before  # reused


def test_a_frame_tells_nothing_of_what_its_buffer_held_before(cluster: Cluster) -> None:
    """A request whose source faults leaves a gap; unused room is zero."""
    source = cluster.nodes[0]
    source.ni.post(np.concatenate([
        work(Op.WRITE, pdid=7, src=LOCAL, dst=cluster.gva(1), length=65536, wr_id=1),
        work(Op.WRITE, pdid=7, src=LOCAL + 65536 - 4096, dst=cluster.gva(1), length=65536, wr_id=2),
    ]))  # fmt: skip
    frame = frames_of(source)[0]
    count = len(open_frame(frame).packets)
    assert count == 4
    gap = frame[64 + 64 * count : int(open_frame(frame).packets[0]["payload_offset"])]
    assert len(gap) == 4 * 64
    assert not gap.any()


# ---- liars


def in_flight(cluster: Cluster, op: Op, length: int = 8) -> np.void:
    """Post one request on node 0 and return its packet, which is on its way to node 1."""
    if op is Op.READ:
        cluster.post(0, op, src=cluster.gva(1), dst=LOCAL, length=length)
    else:
        cluster.post(0, op, src=LOCAL, dst=cluster.gva(1), length=length)
    packet: np.void = open_frame(frames_of(cluster.nodes[0])[0]).packets[0].copy()
    return packet


def answer(cluster: Cluster, *packets: tuple[np.void, bytes], peer: int = 1) -> np.ndarray:
    """Give node 0 a frame of answers from `peer`; returns what it completes."""
    node = cluster.nodes[0]
    node.on_frame(
        peer,
        build_frame(packets, src_node=peer, dst_node=0, src_incarnation=1, dst_incarnation=1, time=5_000_000),
    )
    done: np.ndarray = node.ni.take_completions()
    return done


def ack(*tokens: int) -> tuple[np.void, bytes]:
    records = np.zeros(len(tokens), ACK_RECORD)
    records["token"] = tokens
    records["time"] = 5_000_000
    return request(PacketOp.ACK, 0), records.tobytes()


def response(packet: np.void, **fields: int) -> np.void:
    row = np.zeros(1, RESPONSE)
    row["op"], row["token"], row["seq"] = PacketOp.RESPONSE, packet["token"], packet["seq"]
    row["length"] = packet["length"]
    for name, value in fields.items():
        row[name] = value
    one: np.void = row[0]
    return one


def nack(packet: np.void, **fields: int) -> np.void:
    row = np.zeros(1, NACK)
    row["op"], row["token"], row["seq"] = PacketOp.NACK, packet["token"], packet["seq"]
    for name, value in fields.items():
        row[name] = value
    one: np.void = row[0]
    return one


def test_tokens_are_not_guessed(cluster: Cluster) -> None:
    token = int(in_flight(cluster, Op.WRITE)["token"])
    for forged in (token + 1, token ^ 1 << 32, token | 1 << 63, token & 0xFFFF_FFFF, (1 << 64) - 1, 1 << 40):
        assert len(answer(cluster, ack(forged))) == 0
    assert cluster.nodes[0].ni.counters()["late_answers"] == 6
    assert len(answer(cluster, ack(token), peer=0)) == 0  # not the peer it was sent to
    assert answer(cluster, ack(token))["status"] == [Status.OK]
    assert len(answer(cluster, ack(token))) == 0  # late
    assert (
        int(in_flight(cluster, Op.WRITE)["token"]) & 0xFFFF_FFFF == token & 0xFFFF_FFFF
    )  # the row is used again
    assert len(answer(cluster, ack(token))) == 0


def test_a_read_is_not_answered_by_an_ack_or_a_wrong_length(cluster: Cluster) -> None:
    packet = in_flight(cluster, Op.READ, 16)
    before = cluster.nodes[0].peek(7, LOCAL, 4096)
    assert len(answer(cluster, ack(int(packet["token"])))) == 0
    assert len(answer(cluster, (response(packet), bytes(8)))) == 0
    assert len(answer(cluster, (response(packet), bytes(24)))) == 0
    assert len(answer(cluster, (response(packet, flags=0), b""))) == 0
    assert len(answer(cluster, (response(packet, seq=9), bytes(16)))) == 0
    assert cluster.nodes[0].peek(7, LOCAL, 4096) == before
    assert answer(cluster, (response(packet), b"x" * 16))["bytes"] == [16]
    assert cluster.nodes[0].peek(7, LOCAL, 17) == b"x" * 16 + before[16:17]


def test_an_atomic_is_not_answered_by_an_ack(cluster: Cluster) -> None:
    packet = in_flight(cluster, Op.SWAP)
    assert len(answer(cluster, ack(int(packet["token"])))) == 0
    rows = answer(cluster, (response(packet, value=(1 << 64) - 2), b""))
    assert rows["value"] == [(1 << 64) - 2]


def test_ack_records_that_do_not_fit(cluster: Cluster) -> None:
    token = int(in_flight(cluster, Op.WRITE)["token"])
    row, body = ack(token)
    assert len(answer(cluster, (row, body[:-1]))) == 0
    assert len(answer(cluster, (row, b""))) == 0
    assert len(answer(cluster, (row, body))) == 1


def test_impossible_times_are_not_believed(cluster: Cluster) -> None:
    packet = in_flight(cluster, Op.WRITE)
    record = np.zeros(1, ACK_RECORD)
    record["token"], record["time"], record["wait"] = packet["token"], (1 << 64) - 1, 1 << 63
    row = answer(cluster, (request(PacketOp.ACK, 0), record.tobytes()))[0]
    assert row["parts_ps"].sum() == row["done_ps"] - row["posted_ps"]
    assert row["done_ps"] < 10_000_000


@pytest.mark.parametrize("expected", [0, 1, 5, (1 << 32) - 1])
def test_a_gap_that_makes_no_sense_refuses_only_the_packet_it_names(cluster: Cluster, expected: int) -> None:
    packet = in_flight(cluster, Op.WRITE)
    rows = answer(cluster, (nack(packet, status=Status.SEQUENCE_GAP, expected=expected), b""))
    assert rows["status"] == [Status.SEQUENCE_GAP]
    assert rows["flags"] == [CompletionFlags.DEFINITE]


@pytest.mark.parametrize("status", [0, 99, 65535])
def test_a_nack_with_a_status_nobody_knows(cluster: Cluster, status: int) -> None:
    rows = answer(cluster, (nack(in_flight(cluster, Op.WRITE), status=status), b""))
    assert rows["status"] == [Status.MALFORMED]


# ---- requests that lie


@pytest.mark.parametrize(
    ("fields", "body", "status"),
    [
        ({"op": Op.WRITE}, b"", Status.MALFORMED),  # no payload
        ({"op": Op.WRITE, "length": 8}, b"", Status.MALFORMED),
        ({"op": Op.READ, "length": 0}, b"", Status.MALFORMED),
        ({"op": Op.READ, "length": (1 << 32) - 1}, b"", Status.MALFORMED),
        ({"op": Op.READ}, b"12345678", Status.MALFORMED),  # with payload
        ({"op": Op.SWAP, "length": 4}, b"", Status.MALFORMED),
        ({"op": Op.SWAP, "length": 8, "va_offset": 4}, b"", Status.MISALIGNED),
        ({"op": 0, "length": 8}, b"", Status.MALFORMED),
        ({"op": 200, "length": 8}, b"", Status.MALFORMED),
        ({"op": Op.READ, "length": 8, "va": 0x1000}, b"", Status.STALE_ROUTE),
        ({"op": Op.READ, "length": 8, "va": (1 << 64) - 8}, b"", Status.STALE_ROUTE),
        ({"op": Op.READ, "length": 16, "va_offset": (1 << 36) - 8}, b"", Status.MALFORMED),
        ({"op": Op.READ, "length": 8, "time": 1 << 61}, b"", Status.MALFORMED),
        ({"op": Op.READ, "length": 8, "pdid": 0}, b"", Status.ACCESS_DENIED),
        ({"op": Op.READ, "length": 8, "pdid": 99}, b"", Status.ACCESS_DENIED),
    ],
)
def test_requests_that_are_refused(
    cluster: Cluster, fields: dict[str, int], body: bytes, status: Status
) -> None:
    target = cluster.nodes[1]
    fields = {"pdid": 7, "seq": 0, "va": cluster.gva(1) + fields.get("va_offset", 0), **fields}
    fields.pop("va_offset", None)
    packet = request(token=5, **fields)  # type: ignore[arg-type]
    before = target.memory.read(0, 1 << 20)
    target.on_frame(0, build_frame([(packet, body)], **TO_1))
    (frame,) = frames_of(target)
    answered = open_frame(frame).packets[0].view(NACK)
    assert (answered["op"], Status(int(answered["status"])), answered["token"]) == (PacketOp.NACK, status, 5)
    if status is not Status.ACCESS_DENIED:  # then the kernel has looked for the process
        assert target.memory.read(0, 1 << 20) == before
    # The connection goes on behind it.
    good = request(PacketOp.READ, 1, pdid=7, va=cluster.gva(1), length=8, token=6)
    target.on_frame(0, build_frame([(good, b"")], **TO_1))
    (frame,) = frames_of(target)
    assert open_frame(frame).packets[0]["op"] == PacketOp.RESPONSE


def test_payloads_may_overlap_but_stay_inside(cluster: Cluster) -> None:
    """Two packets may name one payload: strange, but harmless."""
    target = cluster.nodes[1]
    rows = [request(PacketOp.WRITE, i, pdid=7, va=cluster.gva(1) + 8 * i, token=i) for i in range(2)]
    frame = build_frame([(rows[0], b"12345678"), (rows[1], b"abcdefgh")], **TO_1)
    packets = frame[64:192].view(PACKET)
    packets[1]["payload_offset"] = packets[0]["payload_offset"]
    seal_packet(frame, 1)
    target.on_frame(0, frame)
    assert target.peek(7, cluster.gva(1), 16) == b"1234567812345678"


# ---- incarnations


def test_frames_for_an_earlier_life_are_refused(cluster: Cluster) -> None:
    target = TestNode(1, Scheduler(), fast=cluster.fast, incarnation=2)
    target.open(7)
    target.map(7, cluster.gva(1), 4096)
    cluster.post(0, Op.WRITE, src=LOCAL, dst=cluster.gva(1), length=8)
    (frame,) = frames_of(cluster.nodes[0])
    target.on_frame(0, frame)
    assert target.peek(7, cluster.gva(1), 8) == bytes(8)
    (reply,) = frames_of(target)
    cluster.nodes[0].on_frame(1, reply)
    (row,) = cluster.nodes[0].ni.take_completions()
    assert (row["status"], row["flags"]) == (Status.STALE_ROUTE, CompletionFlags.DEFINITE)


def test_answers_for_an_earlier_life_settle_nothing(cluster: Cluster) -> None:
    """Tokens begin anew with each life: an old answer would fit by accident."""
    token = int(in_flight(cluster, Op.WRITE)["token"])
    node = cluster.nodes[0]
    node.on_frame(1, build_frame([ack(token)], src_node=1, dst_node=0, src_incarnation=1, dst_incarnation=0))
    assert len(node.ni.take_completions()) == 0
    assert node.ni.counters()["late_answers"] == 1
    assert len(answer(cluster, ack(token))) == 1


def test_a_restarted_peer_answers_nothing_of_before(cluster: Cluster) -> None:
    """What was in flight to its earlier life ends when its new life is first heard of."""
    source = cluster.nodes[0]
    cluster.post(0, Op.WRITE, wr_id=1, src=LOCAL, dst=cluster.gva(1), length=8)
    cluster.run()
    source.ni.take_completions()
    cluster.post(0, Op.WRITE, wr_id=2, src=LOCAL, dst=cluster.gva(1), length=8)
    frames_of(source)
    reborn = TestNode(1, Scheduler(), fast=cluster.fast, incarnation=2)
    reborn.open(7)
    reborn.map(7, LOCAL, 4096)
    reborn.ni.set_routes([(0, "n0", window_of(0).start, len(window_of(0)), 1, 1)])
    reborn.ni.post(work(Op.WRITE, pdid=7, src=LOCAL, dst=cluster.gva(0), length=8))
    source.on_frame(1, frames_of(reborn)[0])
    (row,) = source.ni.take_completions()
    assert (row["wr_id"], row["status"], row["flags"]) == (2, Status.PEER_LOST, 0)
    # Frames of the earlier life are dropped from now on.
    cluster.post(1, Op.WRITE, src=LOCAL, dst=cluster.gva(0), length=8)
    cluster.nodes[1].map(7, LOCAL, 4096)
    source.on_frame(1, frames_of(cluster.nodes[1])[0])
    assert source.ni.counters()["stale_frames"] == 1


def test_a_route_with_a_new_incarnation_ends_what_is_in_flight(cluster: Cluster) -> None:
    source = cluster.nodes[0]
    cluster.post(0, Op.WRITE, wr_id=1, src=LOCAL, dst=cluster.gva(1), length=8)
    source.pump()  # cut, but not taken: certainly not executed
    source.ni.set_routes([(1, "n1", window_of(1).start, len(window_of(1)), 2, 1)])
    (row,) = source.ni.take_completions()
    assert (row["status"], row["flags"]) == (Status.PEER_LOST, CompletionFlags.DEFINITE)
    assert source.take_frames() == []
    cluster.post(0, Op.WRITE, wr_id=2, src=LOCAL, dst=cluster.gva(1), length=8)
    header = open_frame(frames_of(source)[0]).header
    assert (header["dst_incarnation"], header["connection"]) == (2, 2)


def test_overlapping_routes_are_refused() -> None:
    node = TestNode(0, Scheduler())
    with pytest.raises(ValueError, match="the windows of a and b overlap"):
        node.ni.set_routes([(0, "a", 1 << 36, 1 << 36, 1, 1), (1, "b", 3 << 35, 1 << 36, 1, 1)])


def test_frames_that_are_none(cluster: Cluster) -> None:
    node = cluster.nodes[1]
    good = build_frame([(request(PacketOp.READ, 0), b"")], **TO_1)
    bad = [np.zeros(0, np.uint8), np.zeros(64, np.uint8), np.full(500, 255, np.uint8), good[:-1]]
    for frame in bad:
        node.on_frame(0, frame)
    node.on_frame(5, good)  # brought by another node than it says
    assert node.ni.counters()["bad_frames"] == 5
    assert frames_of(node) == []


# ---- odds and ends


def test_sequence_numbers_wrap(cluster: Cluster) -> None:
    """32 bits, modulo: what is lost across the end is sent again, and everything is executed once."""
    cluster.post(0, Op.FETCH_ADD, dst=cluster.gva(1), operand=1)
    assert cluster.one(0)["status"] == Status.OK
    source, target = (node.ni._core.state.peers for node in cluster.nodes)
    last = (1 << 32) - 2
    source[0, [col.P_SEQ, col.P_BASE]] = target[0, col.P_EXPECTED] = last
    for i, lost in enumerate((False, True, False)):
        cluster.post(0, Op.FETCH_ADD, wr_id=i, dst=cluster.gva(1), operand=1)
        if lost:
            frames_of(cluster.nodes[0])
        else:
            cluster.nodes[0].pump()
            cluster.fabric.carry()
    rows = cluster.completions(0)
    assert sorted(rows["wr_id"]) == [0, 1, 2]
    assert (rows["status"] == Status.OK).all()
    assert cluster.nodes[1].peek(7, cluster.gva(1), 1) == b"\x04"
    assert (source[0, col.P_CONNECTION], source[0, col.P_SEQ], source[0, col.P_BASE]) == (1, 1, 1)
    assert (target[0, col.P_EXPECTED], target[0, col.P_AHEAD]) == (1, 0)


def test_what_is_refused_is_logged() -> None:
    log = EventLog()
    cluster = Cluster(2, log=log)
    cluster.post(0, Op.READ, src=cluster.gva(1), dst=LOCAL, length=8)
    cluster.run()
    kinds = [(row.node, row.kind) for row in log.rows]
    assert kinds == [("n1", "rdma.pd_miss"), ("n1", "rdma.refused")]
    assert log.rows[1].fields["status"] == "TRANSLATION_FAULT"


def test_links_have_their_own_latency_and_width(cluster: Cluster) -> None:
    for node in cluster.nodes:
        node.ni.set_link(1 - node.index, 1_000_000, 2_000_000)
    cluster.post(0, Op.WRITE, src=LOCAL, dst=cluster.gva(1), length=1024)
    row = cluster.one(0)
    assert row["parts_ps"][4] == 3_000_000  # wire
    assert row["parts_ps"][8] == 1_000_000  # ack


def test_a_process_may_not_have_more_than_there_is_room_for() -> None:
    for wrong in (
        {"block_bytes": 100},
        {"block_bytes": 1 << 20},
        {"slots": 0},
        {"slots": 65},
        {"peer_bytes": 100},
        {"frame_payload_bytes": 1 << 30},
    ):
        with pytest.raises(ValueError, match=r"bytes|slots"):
            replace(RdmaSpec(), **wrong)  # type: ignore[arg-type]


def test_an_idle_interface_is_small() -> None:
    """64 nodes fit into one process: the tables of an idle one are a few pages."""
    state = TestNode(0, Scheduler()).ni._core.state
    assert sum(table.nbytes for name, table in state._asdict().items() if name != "domains") < 200_000


def test_small_windows_never_stall() -> None:
    """Blocks as large as the window, both directions at once."""
    spec = replace(SMALL, peer_bytes=4096)
    cluster = Cluster(2, spec=spec)
    for node in cluster.nodes:
        node.map(7, LOCAL, 1 << 16)
        node.map(7, cluster.gva(node.index), 1 << 16)
    for i in range(8):
        for index in (0, 1):
            cluster.post(index, Op.WRITE, wr_id=i, src=LOCAL, dst=cluster.gva(1 - index), length=30000)
            cluster.post(index, Op.READ, wr_id=i, src=cluster.gva(1 - index), dst=LOCAL, length=30000)
    cluster.run()
    for node in cluster.nodes:
        rows = node.ni.take_completions()
        assert len(rows) == 16
        assert (rows["status"] == Status.OK).all()


def test_the_token_flag_is_the_wires() -> None:
    assert HAS_PAYLOAD == col.HAS_PAYLOAD == 1


def test_compiled_code_also_runs_as_python() -> None:
    """NUMBA_DISABLE_JIT=1: the same source, the same scenario."""
    outcome = subprocess.run(
        [
            sys.executable,
            "-m",
            "pytest",
            "-q",
            "-x",
            "tests/nodes/test_rdma_scenarios.py",
            "-k",
            "compiled and verbs",
        ],
        cwd=ROOT,
        env={**os.environ, "NUMBA_DISABLE_JIT": "1", "PYTHONPATH": os.pathsep.join(sys.path)},
        capture_output=True,
        text=True,
        check=False,
    )
    assert outcome.returncode == 0, outcome.stdout + outcome.stderr
    assert "1 passed" in outcome.stdout


@pytest.mark.parametrize("hupcf", [False, True])
def test_a_bank_that_stalls_refuses_and_keeps_nothing(cluster: Cluster, hupcf: bool) -> None:
    """The interface cannot hold a request: what faults is refused, what is behind it blocked or refused."""
    target = cluster.nodes[1]
    bank = SMMU + 0x1_0000 + 0x1000 * target.processes[7].bank
    target.bus.write32(bank, 1 | 1 << 5 | 1 << 6 | 1 << 7 | hupcf << 8)  # M, CFRE, CFIE, CFCFG, HUPCF
    nowhere = cluster.gva(1) + (1 << 20)
    statuses = []
    for gva in (nowhere, nowhere + 4096, cluster.gva(1)):
        cluster.post(0, Op.WRITE, src=LOCAL, dst=gva, length=8)
        statuses.append(Status(int(cluster.one(0)["status"])))
    behind = [Status.TRANSLATION_FAULT, Status.OK] if hupcf else [Status.BANK_BLOCKED] * 2
    assert statuses == [Status.TRANSLATION_FAULT, *behind]
    assert target.bus.read32(bank + 0x58) & 1 << 30, "SS until software says RESUME"
    target.bus.write32(bank + 0x58, 0xFFFF_FFFF)
    target.bus.write32(bank + 0x08, 1)  # RESUME: terminate what nobody holds any more
    assert target.bus.read32(bank + 0x58) == 0
    cluster.post(0, Op.WRITE, src=LOCAL, dst=cluster.gva(1), length=8)
    assert cluster.one(0)["status"] == Status.OK


@pytest.mark.parametrize("fast", [True, False], ids=["compiled", "readable"])
def test_without_the_checks_everything_still_arrives(fast: bool) -> None:
    """What the protocol costs is measured against this; nothing repairs a loss then."""
    cluster = Cluster(fast=fast, spec=RdmaSpec(checks=False))
    cluster.nodes[0].map(7, LOCAL, 1 << 16)
    cluster.nodes[1].map(7, cluster.gva(1), 1 << 16)
    cluster.nodes[0].poke(7, LOCAL, b"abcdefgh" * 5000)
    for i in range(300):
        cluster.post(0, Op.WRITE, wr_id=i, src=LOCAL + 8 * i, dst=cluster.gva(1) + 8 * i, length=8)
    cluster.post(0, Op.WRITE, src=LOCAL, dst=cluster.gva(1), length=40000)
    assert (cluster.completions(0)["status"] == Status.OK).all()
    cluster.post(0, Op.READ, src=cluster.gva(1), dst=LOCAL + 8, length=40000)
    cluster.post(0, Op.FETCH_ADD, dst=cluster.gva(1), operand=1)
    assert list(cluster.completions(0)["status"]) == [Status.OK] * 2
    assert cluster.nodes[0].peek(7, LOCAL + 8, 40000) == b"abcdefgh" * 5000
    assert cluster.nodes[1].peek(7, cluster.gva(1), 8) == b"bbcdefgh"
    assert cluster.nodes[0].ni.timer_ps is None
    cluster.close()
