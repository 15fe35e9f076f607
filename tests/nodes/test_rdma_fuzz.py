"""Whatever bytes arrive as a frame: no exception, no read outside it, no write that the SMMU would refuse.

Valid frames of every kind are taken from a running exchange and then mutated: bytes, fields, lengths; with
and without correct CRCs. Each is put at the very end of a mapping, before a page that nobody may touch, so
that reading beyond a frame ends the process.

Frames of several lives and connections of one node, in any order and any number of times, are compared with
a model of a few lines. Whatever is posted ends once, and what wraps around the address space or crosses the
end of a window ends at the door.
"""

from __future__ import annotations

import ctypes
import mmap
from typing import Any, NamedTuple

import numpy as np
import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st

from support.rdma import Cluster, TestNode, work
from support.rdma_invariants import check_tables
from unimem.addresses import window_of
from unimem.wire import HEADER_BYTES, CompletionFlags, Op, Status, WorkFlags
from unimem_node.fabric.packets import (
    FABRIC_HEADER,
    PACKET,
    RESPONSE,
    PacketOp,
    build_frame,
    open_frame,
    request,
    seal_header,
    seal_packet,
)

LOCAL, REGION = 0x10_0000, 4 * 4096
GUARDED = 1 << 20
PAGE = mmap.PAGESIZE


class Guard:
    """Memory that ends at a page without any access."""

    def __init__(self) -> None:
        self.map = mmap.mmap(-1, GUARDED + PAGE)
        self.bytes = np.frombuffer(self.map, np.uint8)
        libc = ctypes.CDLL(None, use_errno=True)
        address = ctypes.c_void_p(self.bytes.ctypes.data + GUARDED)
        assert libc.mprotect(address, ctypes.c_size_t(PAGE), 0) == 0, ctypes.get_errno()

    def place(self, frame: np.ndarray) -> np.ndarray:
        """The frame's bytes so that they end at the border, read-only."""
        placed = self.bytes[GUARDED - len(frame) : GUARDED]
        placed[:] = frame
        placed = placed.view()
        placed.flags.writeable = False
        return placed


GUARD = Guard()


def pair(fast: bool) -> Cluster:
    """Two small nodes with process 7: LOCAL at home, a region in each window whose last page is read-only."""
    cluster = Cluster(0)
    cluster.count = 2
    for index in range(2):
        node = TestNode(index, cluster.scheduler, fast=fast, memory_bytes=1 << 20)
        cluster.nodes.append(node)
        node.open(7)
        node.map(7, LOCAL, REGION)
        node.map(7, cluster.gva(index), REGION - 4096)
        node.map(7, cluster.gva(index, REGION - 4096), 4096, write=False)
    cluster.route()
    return cluster


def exchange(cluster: Cluster) -> dict[str, np.ndarray]:
    """A frame of each kind for node 0 or 1; the ends are in the state in which it is valid."""
    source, target = cluster.nodes
    for op in (Op.WRITE, Op.READ, Op.FETCH_ADD, Op.WRITE):
        there = cluster.gva(1, 4096)
        src, dst = (there, LOCAL) if op is Op.READ else (LOCAL, there)
        cluster.post(0, op, src=src, dst=dst, length=8 if op is Op.FETCH_ADD else 100)
    cluster.post(0, Op.WRITE, src=LOCAL, dst=cluster.gva(1, REGION), length=8)  # a NACK
    source.pump()
    ((_, requests),) = source.take_frames()
    target.on_frame(0, requests)
    (_, answers), (_, nacks) = target.take_frames()
    return {"requests": requests, "answers": answers, "nacks": nacks}


def untouchable(node: TestNode, gva: int) -> bytes:
    """Everything in memory that no packet of process 7 may change: all but its writable pages."""
    memory = np.frombuffer(node.memory.read(0, 1 << 20), np.uint8).copy()
    for base, n in ((LOCAL, REGION), (gva, REGION - 4096)):
        for at in range(base, base + n, 4096):
            leaf = node.processes[7].table.lookup(at)
            assert leaf is not None
            memory[leaf.pa : leaf.pa + 4096] = 0
    return memory.tobytes()


numbers = st.one_of(
    st.integers(0, 200),
    st.sampled_from([8191, 8192, 8193, *(1 << bit for bit in (16, 31, 32, 36, 37, 61, 63))]),
    st.sampled_from([(1 << 31) - 1, (1 << 32) - 1, (2 << 36) + 4096, (1 << 64) - 8]),
    st.integers(0, (1 << 64) - 1),
)
mutations = st.lists(
    st.one_of(
        st.tuples(st.just("byte"), st.integers(0, 2000), st.integers(1, 255)),
        st.tuples(st.just("packet"), st.sampled_from(PACKET.names), numbers),
        st.tuples(st.just("header"), st.sampled_from(FABRIC_HEADER.names), numbers),
        st.tuples(st.just("cut"), st.integers(0, 500), st.just(0)),
        st.tuples(st.just("swap"), st.integers(0, 4), st.integers(0, 4)),
    ),
    min_size=1,
    max_size=5,
)


def mutate(frame: np.ndarray, changes: list[tuple[str, Any, int]], packet: int, seal: bool) -> np.ndarray:
    frame = frame.copy()
    count = int(frame[:HEADER_BYTES].view(FABRIC_HEADER)["count"][0])
    packets = frame[HEADER_BYTES : HEADER_BYTES + 64 * count].view(PACKET)
    end = len(frame)
    for kind, what, value in changes:
        if kind == "byte":
            frame[what % len(frame)] ^= value
        elif kind == "packet":
            field = packets[packet % count]
            field[what] = value & ((1 << 8 * field[what].itemsize) - 1)
        elif kind == "header":
            header = frame[:HEADER_BYTES].view(FABRIC_HEADER)[0]
            header[what] = value & ((1 << 8 * header[what].itemsize) - 1)
        elif kind == "cut":
            end = max(end - what, 0)
        else:
            a, b = what % count, value % count
            packets[[a, b]] = packets[[b, a]]
    if seal:
        for number in range(count):
            packet_row = packets[number]
            n = int(packet_row["length"]) if packet_row["flags"] & 1 else 0
            if int(packet_row["payload_offset"]) + n <= len(frame):
                seal_packet(frame, number)
        if end >= HEADER_BYTES and end != len(frame):
            frame[:HEADER_BYTES].view(FABRIC_HEADER)["total_bytes"] = end
        seal_header(frame)
    return frame[:end]


@pytest.mark.parametrize("fast", [True, False], ids=["compiled", "readable"])
@settings(max_examples=150)
@given(
    kind=st.sampled_from(["requests", "answers", "nacks"]),
    changes=mutations,
    packet=st.integers(0, 4),
    seal=st.booleans(),
    first=st.booleans(),
)
def test_any_bytes(fast: bool, kind: str, changes: list[Any], packet: int, seal: bool, first: bool) -> None:
    cluster = pair(fast)
    frames = exchange(cluster)
    receiver, peer = (cluster.nodes[1], 0) if kind == "requests" else (cluster.nodes[0], 1)
    if kind == "requests" and first:  # to a node that has not seen the original
        receiver = pair(fast).nodes[1]
        receiver.on_frame(0, build_frame([(request(PacketOp.READ, 9, pdid=7), b"")], src_node=0, dst_node=1,
                                         src_incarnation=1, dst_incarnation=1))  # fmt: skip
        receiver.take_frames()
    gva = cluster.gva(receiver.index)
    before = untouchable(receiver, gva)
    frame = mutate(frames[kind], changes, packet, seal)
    receiver.on_frame(peer, GUARD.place(frame))
    receiver.pump()
    check_tables(receiver.ni)
    sent = receiver.take_frames()
    done = receiver.ni.take_completions()
    assert untouchable(receiver, gva) == before
    assert len(done) <= 5
    for _, reply in sent:
        assert len(reply) <= 8 * len(frame) + (300 << 10)
    # Whatever it was, both go on working.
    fresh = pair(fast)
    fresh.nodes[1 - peer] = receiver
    receiver.peer_lost(peer, "a test")
    again = build_frame(
        [(request(PacketOp.WRITE, 0, pdid=7, va=gva, token=1), b"still here")],
        src_node=peer, dst_node=receiver.index, src_incarnation=(1 << 32) - 1, dst_incarnation=1,
        connection=(1 << 32) - 1,
    )  # fmt: skip
    receiver.on_frame(peer, GUARD.place(again))
    assert receiver.peek(7, gva, 10) == b"still here"


@given(data=st.binary(max_size=400), fast=st.booleans())
def test_noise(data: bytes, fast: bool) -> None:
    node = pair(fast).nodes[0]
    node.on_frame(1, GUARD.place(np.frombuffer(data, np.uint8)))
    assert node.take_frames() == []
    assert node.ni.counters()["bad_frames"] == 1


class Sent(NamedTuple):
    """An atomic that counts one up, as a frame of some life of node 0."""

    incarnation: int
    connection: int
    seq: int
    base: int


class Counter:
    """What node 1 must do with them: docs/protocol.md, "Frames" and "Its window"."""

    def __init__(self) -> None:
        self.life = (0, 0)
        self.expected = 0
        self.seen: set[int] = set()
        self.found: dict[int, int] = {}
        self.value = 0

    def serve(self, frame: Sent) -> list[int]:
        """The values that it answers."""
        life = (frame.incarnation, frame.connection)
        if life < self.life:
            return []
        if life > self.life:
            self.life, self.expected, self.seen, self.found = life, 0, set(), {}
        self.expected = max(self.expected, frame.base)
        while self.expected in self.seen:
            self.expected += 1
        if frame.seq >= self.expected + 8192:
            return []
        if frame.seq >= self.expected and frame.seq not in self.seen:
            self.seen.add(frame.seq)
            self.found[frame.seq] = self.value
            self.value += 1
            while self.expected in self.seen:
                self.expected += 1
        return [self.found[frame.seq]] if frame.seq in self.found else []


frames_of_lives = st.lists(
    st.builds(
        Sent,
        st.integers(1, 3),
        st.integers(1, 2),
        st.one_of(st.integers(0, 6), st.sampled_from([300, 8191, 8192, 8197, 8204])),
        st.one_of(st.just(0), st.integers(0, 7)),
    ),
    max_size=25,
)


@settings(max_examples=150)
@given(frames=frames_of_lives)
@example(frames=[Sent(1, 1, 300, 0), Sent(2, 1, 44, 0), Sent(2, 1, 44, 0)])
def test_lives_and_connections_in_any_order(frames: list[Sent]) -> None:
    """Exactly once in the life and connection that is the newest; the compiled code does as the readable."""
    for fast in (True, False):
        node, model = pair(fast).nodes[1], Counter()
        gva = window_of(1).start
        for sent in frames:
            packet = request(
                PacketOp.FETCH_ADD, sent.seq, pdid=7, va=gva, length=8, operand=1, replay=sent.seq % 256 + 1
            )
            frame = build_frame(
                [(packet, b"")], src_node=0, dst_node=1, src_incarnation=sent.incarnation, dst_incarnation=1,
                connection=sent.connection, base=sent.base,
            )  # fmt: skip
            node.on_frame(0, GUARD.place(frame))
            node.pump()
            answers = [
                int(row["value"])
                for _, reply in node.take_frames()
                for row in open_frame(reply).packets.view(RESPONSE)
            ]
            assert answers == model.serve(sent), sent
            check_tables(node.ni)
        assert node.peek(7, gva, 8) == model.value.to_bytes(8, "little")


WINDOW_END = (2 << 36) + len(window_of(1))
addresses = st.one_of(
    st.sampled_from([0, LOCAL, LOCAL + REGION - 8, 1 << 48, (1 << 49) - 8, (1 << 63) - 8, 1 << 63]),
    st.sampled_from([base + at for base in (1 << 36, 2 << 36, 3 << 36) for at in (0, 4, 4096, REGION - 8)]),
    st.sampled_from([WINDOW_END - 8, WINDOW_END - 1, (1 << 64) - 8, (1 << 64) - 1]),
    st.integers(0, (1 << 64) - 1),
)
requests = st.lists(
    st.fixed_dictionaries(
        {
            "op": st.one_of(st.sampled_from(sorted(Op)), st.integers(0, 255)),
            "flags": st.one_of(st.just(0), st.sampled_from([4, 8, 16, 32, 36, 63])),
            "pdid": st.sampled_from([7, 7, 7, 0, 9, 65535]),
            "length": st.one_of(
                st.sampled_from([0, 1, 4, 8, 9, 64, 65, 4096, 40_000, 1 << 36, 1 << 49, (1 << 64) - 1]),
                st.integers(0, (1 << 64) - 1),
            ),
            "src": addresses,
            "dst": addresses,
            "operand": st.integers(0, (1 << 64) - 1),
            "compare": addresses,
        }
    ),
    min_size=1,
    max_size=6,
)


def carry(cluster: Cluster) -> None:
    """Everything that can happen, a few seconds of timers included."""
    for _ in range(200):
        busy = False
        for node in cluster.nodes:
            node.pump()
            for peer, frame in node.take_frames():
                busy = True
                cluster.nodes[peer].on_frame(node.index, frame)
            check_tables(node.ni)
        if not busy:
            due = [node.timer_ps for node in cluster.nodes if node.timer_ps is not None]
            if not due:
                return
            cluster.scheduler.advance_to(max(min(due), cluster.scheduler.now_ps))
            for node in cluster.nodes:
                node.on_timer()
    raise AssertionError("it goes on and on")


def crosses(row: dict[str, int]) -> bool:
    """Whether a WRITE, READ or atomic has a remote end that is not inside one window of the two."""
    at = row["src"] if row["op"] == Op.READ else row["dst"]
    n = (row["length"] or 8) if row["op"] > Op.READ else row["length"]
    return not any(base <= at and at + n <= base + len(window_of(0)) for base in (1 << 36, 2 << 36))


@pytest.mark.parametrize("fast", [True, False], ids=["compiled", "readable"])
@settings(max_examples=150)
@given(rows=requests)
@example(rows=[{"op": 1, "flags": 0, "pdid": 7, "length": 16, "src": LOCAL, "dst": (1 << 64) - 8,
                "operand": 0, "compare": 0}])  # fmt: skip
@example(rows=[{"op": 1, "flags": 0, "pdid": 7, "length": 16, "src": (1 << 64) - 8, "dst": 2 << 36,
                "operand": 0, "compare": 0}])  # fmt: skip
@example(rows=[{"op": 1, "flags": 0, "pdid": 7, "length": 16, "src": LOCAL, "dst": WINDOW_END - 8,
                "operand": 0, "compare": 0}])  # fmt: skip
def test_whatever_is_posted_ends_once(fast: bool, rows: list[dict[str, int]]) -> None:
    cluster = pair(fast)
    before = [untouchable(node, cluster.gva(node.index)) for node in cluster.nodes]
    for number, row in enumerate(rows, 1):
        posted = work(Op.WRITE, **{name: value for name, value in row.items() if name != "op"}, wr_id=number)
        posted["op"] = row["op"]
        cluster.nodes[0].ni.post(posted)
    carry(cluster)
    done = cluster.nodes[0].ni.take_completions()
    assert sorted(done["wr_id"]) == list(range(1, len(rows) + 1))
    assert len(cluster.nodes[1].ni.take_completions()) == 0
    for completion in done:
        row = rows[int(completion["wr_id"]) - 1]
        assert int(completion["parts_ps"].sum()) == completion["done_ps"] - completion["posted_ps"]
        plain = row["op"] in range(Op.WRITE, Op.SEND) and not row["flags"] & WorkFlags.SIGNAL
        if plain and crosses(row):
            assert completion["status"] in (Status.NO_ROUTE, Status.MALFORMED, Status.MISALIGNED)
            assert completion["flags"] & CompletionFlags.DEFINITE
            assert completion["bytes"] == 0
    assert before == [untouchable(node, cluster.gva(node.index)) for node in cluster.nodes]
    assert all(node.ni.idle for node in cluster.nodes)
