"""Whatever bytes arrive as a frame: no exception, no read outside it, no write that the SMMU would refuse.

Valid frames of every kind are taken from a running exchange and then mutated: bytes, fields, lengths; with
and without correct CRCs. Each is put at the very end of a mapping, before a page that nobody may touch, so
that reading beyond a frame ends the process.
"""

from __future__ import annotations

import ctypes
import mmap
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from support.rdma import Cluster, TestNode
from unimem.wire import HEADER_BYTES, Op
from unimem_node.fabric.packets import (
    FABRIC_HEADER,
    PACKET,
    PacketOp,
    build_frame,
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
    st.sampled_from(
        [1 << 16, 1 << 31, 1 << 32, 1 << 36, 1 << 37, (2 << 36) + 4096, 1 << 61, 1 << 63, (1 << 64) - 8]
    ),
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
