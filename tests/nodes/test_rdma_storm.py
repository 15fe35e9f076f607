"""Everything at once, step by step: the tables agree with themselves after each, and in the end all is over.

Frames are lost, repeated and overtake each other; pages come and go at both ends, with and without a stall;
requests are cancelled, run out of time, or stand behind fences; connections break, peers are given up.
"""

from __future__ import annotations

from collections import defaultdict
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from support.rdma import NI, SMALL, Cluster
from support.rdma_invariants import check_tables
from unimem.wire import Op, WorkFlags

LOCAL, PAGES = 0x10_0000, 12
REGION = PAGES * 4096
FLAGS = [0, 0, 0, WorkFlags.FENCE, WorkFlags.ORDERED, WorkFlags.ACCEPTED, WorkFlags.SIGNAL]

posts = st.tuples(
    st.just("post"),
    st.sampled_from([Op.WRITE, Op.WRITE, Op.WRITE, Op.READ, Op.FETCH_ADD, Op.SEND, Op.COPY]),
    st.integers(0, 1),  # to the other node, or to itself
    st.integers(0, PAGES - 1),
    st.integers(0, PAGES - 1),
    st.sampled_from([8, 8, 64, 4096, 9000, 20000, 45000]),
    st.sampled_from(FLAGS),
    st.sampled_from([0, 0, 0, 1, 30, 3000]),
)
deliveries = st.tuples(
    st.just("deliver"), st.integers(0, 3), st.sampled_from(["once", "once", "twice", "never", "damaged"])
)
steps = st.one_of(
    posts,
    posts,
    st.tuples(st.sampled_from(["pump", "run a little"])),
    deliveries,
    deliveries,
    st.tuples(st.sampled_from(["unmap", "bring"]), st.integers(0, 1), st.integers(0, PAGES - 1)),
    st.tuples(st.just("verdict"), st.integers(0, 1), st.integers(0, 2)),
    st.tuples(st.just("stall"), st.integers(0, 1), st.booleans()),
    st.tuples(st.just("resume"), st.integers(0, 1), st.booleans()),
    st.tuples(st.just("cancel"), st.integers(1, 12)),
    st.tuples(st.sampled_from(["timer", "timer", "lose", "gone", "unreachable", "no slot"]),
              st.integers(0, 1)),
)  # fmt: skip


class Storm:
    """Two nodes, their frames in our hands."""

    def __init__(self, fast: bool) -> None:
        self.cluster = Cluster(2, fast=fast, spec=SMALL)
        self.nodes = self.cluster.nodes
        self.wires: dict[tuple[int, int], list[np.ndarray]] = defaultdict(list)
        self.missing: list[set[int]] = [
            set(),
            set(),
        ]  # pages, by node; node 0's at home, node 1's in its window
        self.posted = 0
        self.ended: list[int] = []
        for node in self.nodes:
            node.map(7, LOCAL, REGION)
            node.map(7, self.cluster.gva(node.index), REGION)

    def base(self, index: int) -> int:
        return LOCAL if index == 0 else self.cluster.gva(1)

    def step(self, name: str, *arguments: Any) -> None:
        getattr(self, name.replace(" ", "_"))(*arguments)
        for node in self.nodes:
            node.pump()
            for peer, frame in node.take_frames():
                self.wires[node.index, peer].append(frame)
            self.ended += node.ni.take_completions()["wr_id"].tolist()
            check_tables(node.ni)

    def post(self, op: Op, own: int, at: int, to: int, n: int, flags: WorkFlags, deadline: int) -> None:
        self.posted += 1
        there = self.cluster.gva(0 if own else 1, 4096 * to)
        here = LOCAL + 4096 * at
        src, dst = (there, here) if op in (Op.READ, Op.COPY) else (here, there)
        if op is Op.COPY:
            dst = self.cluster.gva(0)
        n = 8 if op not in (Op.WRITE, Op.READ, Op.COPY) else n
        if flags == WorkFlags.SIGNAL and op is not Op.WRITE:
            flags = WorkFlags(0)
        fields = {"compare": there & ~0xFFFF_FFFF | 8, "operand": 1} if flags == WorkFlags.SIGNAL else {}
        self.cluster.post(
            0,
            op,
            wr_id=self.posted,
            src=src,
            dst=dst,
            length=n,
            flags=int(flags),
            deadline_us=deadline,
            **fields,
        )

    def pump(self) -> None:
        pass

    def run_a_little(self) -> None:
        self.cluster.scheduler.advance_to(self.cluster.scheduler.now_ps + 40_000_000)
        self.cluster.scheduler.run()

    def deliver(self, which: int, how: str) -> None:
        for (source, target), wire in self.wires.items():
            if wire:
                frame = wire.pop(min(which, len(wire) - 1))
                if how == "never":
                    continue
                if how == "damaged":
                    frame = frame.copy()
                    frame[-1] ^= 1
                if how == "twice":
                    wire.append(frame)
                self.nodes[target].on_frame(source, frame)
                check_tables(self.nodes[target].ni)

    def unmap(self, index: int, page: int) -> None:
        if page not in self.missing[index]:
            self.missing[index].add(page)
            self.nodes[index].unmap(7, self.base(index) + 4096 * page, 4096)

    def bring(self, index: int, page: int) -> None:
        if page in self.missing[index]:
            self.missing[index].remove(page)
            self.nodes[index].map(7, self.base(index) + 4096 * page, 4096)
            self.nodes[index].resolve(7, self.base(index) + 4096 * page, 4096)

    def verdict(self, index: int, verdict: int) -> None:
        self.nodes[index].verdict = verdict

    def stall(self, index: int, others: bool) -> None:
        self.nodes[index].set_stalling(7, others_go_on=others)

    def resume(self, index: int, terminate: bool) -> None:
        self.nodes[index].resume(7, terminate=terminate)

    def cancel(self, number: int) -> None:
        self.nodes[0].ni.cancel(number)

    def timer(self, index: int) -> None:
        node = self.nodes[index]
        if node.timer_ps is not None:
            self.cluster.scheduler.advance_to(max(node.timer_ps, self.cluster.scheduler.now_ps))
            node.on_timer()

    def lose(self, index: int) -> None:
        self.nodes[index].peer_lost(1 - index, "a test")

    def gone(self, index: int) -> None:
        self.nodes[index].ni.peer_gone(1 - index, "a test")

    def unreachable(self, index: int) -> None:
        self.nodes[index].peer_unreachable(1 - index, "a test")

    def no_slot(self, index: int) -> None:
        for slot in range(16):
            self.nodes[index].bus.write32(NI + 0x100 + 4 * slot, 0)

    def heal(self) -> None:
        """All pages are there, nothing is lost any more: all that was posted ends."""
        for node in self.nodes:
            for page in list(self.missing[node.index]):
                self.bring(node.index, page)
            node.verdict = 0
            node.set_reporting(7, True)
            for _ in range(20):
                self.step("resume", node.index, False)
        for _ in range(1500):
            if self.nodes[0].ni.idle and self.nodes[1].ni.idle and not any(self.wires.values()):
                break
            self.step("deliver", 0, "once")
            if not any(self.wires.values()):
                for index in range(2):
                    self.step("timer", index)
        assert [node.ni.idle for node in self.nodes] == [True, True]
        assert sorted(self.ended) == list(range(1, self.posted + 1)), "each request ends once"


@pytest.mark.parametrize("fast", [True, False], ids=["compiled", "readable"])
@settings(max_examples=100, deadline=None)
@given(program=st.lists(steps, min_size=5, max_size=40))
def test_a_storm(fast: bool, program: list[tuple[Any, ...]]) -> None:
    storm = Storm(fast)
    for step in program:
        storm.step(*step)
    storm.heal()
    storm.cluster.close()
