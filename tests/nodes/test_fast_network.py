"""The compiled event loop against the readable one: the same run, event for event and byte for byte."""

from __future__ import annotations

import hashlib
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from support.rdma import TestNode, work
from unimem.addresses import window_of
from unimem.wire import Op, WorkFlags
from unimem_node._jit import COMPILED
from unimem_node.clock import Scheduler
from unimem_node.fabric import MemoryFabric, RdmaSpec, memory
from unimem_node.fabric import _fast_network as loop
from unimem_node.fabric.impair import parse
from unimem_node.fabric.network import Network

pytestmark = pytest.mark.skipif(not COMPILED, reason="there is no compiled loop")

LOCAL, BYTES, PDID = 0x10_0000, 1 << 16, 7
SPEC = RdmaSpec(block_bytes=4096, frame_payload_bytes=1 << 15, frame_packets=64, peer_bytes=1 << 16)


class Bed:
    """Nodes whose interfaces are attached themselves, as `SimCluster` does."""

    def __init__(
        self, count: int, *, fast: bool, spec: RdmaSpec = SPEC, topology: str = "full", impair: str = ""
    ) -> None:
        self.scheduler = Scheduler()
        self.fabric = MemoryFabric(self.scheduler, fast=fast)
        self.fabric.impair = parse(impair) if impair else None
        self.network = Network(topology, count, spec, paths=2)
        self.nodes = [TestNode(i, self.scheduler, spec=spec, memory_bytes=1 << 20) for i in range(count)]
        self.seen: list[tuple[Any, ...]] = []
        self.gone: set[int] = set()
        rows = [(i, f"n{i}", window_of(i).start, len(window_of(i)), 1, 1) for i in range(count)]
        for i, node in enumerate(self.nodes):
            node.ni.set_network(self.network.links, self.network.ways(i))
            node.ni.set_pacing(30_000_000)
            self.fabric.attach(i, node.ni)
            self.fabric.watch(i)
            node.ni.set_routes(rows)
            for pdid in (PDID, PDID + 1):
                node.open(pdid)
                node.map(pdid, LOCAL + 0x100_0000 * (pdid - PDID), BYTES)
            node.map(PDID, self.gva(i), BYTES)
            data = np.random.default_rng(i).bytes(BYTES)
            node.poke(PDID, LOCAL, data)

    def gva(self, index: int, offset: int = 0) -> int:
        return window_of(index).start + offset

    def collect(self) -> None:
        """Note completions of the nodes that say they have some, in the order in which they say it."""
        for ni in self.fabric.ended:
            self.note(ni)
        self.fabric.ended.clear()

    def note(self, ni: Any) -> None:
        for row in ni.take_completions():
            self.seen.append((self.scheduler.now_ps, ni.index, row.tobytes()))

    def run(self, until_ps: int | None = None) -> None:
        self.scheduler.run(until_ps)
        self.fabric.ended.clear()
        for node in self.nodes:
            self.note(node.ni)

    def post(self, index: int, rows: np.ndarray) -> None:
        self.nodes[index].ni.post(rows)
        self.fabric.turn(index)
        self.collect()

    def step(self) -> bool:
        moved = self.scheduler.step()
        self.collect()
        return moved

    def state(self) -> list[Any]:
        found: list[Any] = [self.scheduler.now_ps, self.scheduler.number, self.seen]
        found.append(self.network.links.tolist())
        for i, node in enumerate(self.nodes):
            if i in self.gone:
                continue
            found.append(node.ni.counters())
            found.append(node.ni.clock_ps)
            found.append(node.smmu.counters())
            found.append(hashlib.sha256(node.memory.read(0, node.memory.size)).hexdigest())
        return found

    def close(self) -> None:
        self.fabric.close()
        for node in self.nodes:
            node.memory.close()


def play(fast: bool, seed: int, count: int, actions: int, **options: Any) -> list[Any]:
    """A random run: posts of all kinds, some of them refused; nodes stand still, are parted, and die."""
    rng = np.random.default_rng(seed)
    bed = Bed(count, fast=fast, **options)
    number = 0
    for _ in range(actions):
        choice = int(rng.integers(0, 24))
        here = int(rng.integers(0, count))
        draws = rng.integers(0, 1 << 30, 40).tolist()  # the same for both, whatever is skipped
        if choice < 12:
            rows = []
            for k in range(1 + draws[0] % 6):
                number += 1
                a, b, c, d = draws[1 + 4 * k : 5 + 4 * k]
                op = (Op.WRITE, Op.WRITE, Op.WRITE, Op.READ, Op.FETCH_ADD, Op.COMPARE_SWAP, Op.SWAP)[a % 7]
                length = (8, 1, 100, 4096, 5000, 20000)[b % 6] if op <= Op.READ else 8
                there = self_or_other(here, c, count)
                offset = d % (BYTES - length) & ~7
                if c % 29 == 0:
                    offset += BYTES  # partly or wholly unmapped
                pdid = PDID + (d % 31 == 0)
                local = LOCAL + 0x100_0000 * (pdid - PDID) + (a % (BYTES - length) & ~7)
                src, dst = local, bed.gva(there, offset)
                if op is Op.READ:
                    src, dst = dst, src
                flags = WorkFlags.FENCE if b % 11 == 0 else 0
                rows.append(
                    work(op, wr_id=number, pdid=pdid, length=length, src=src, dst=dst, operand=a, flags=flags)
                )
            if here not in bed.gone:
                bed.post(here, np.concatenate(rows))
        elif choice < 17:  # a client that waits for some completions, then goes on
            wanted = len(bed.seen) + draws[0] % 5
            while len(bed.seen) < wanted and bed.step():
                pass
        elif choice < 19:
            bed.run(bed.scheduler.now_ps + draws[0] % 10_000_000)
        elif choice < 21:
            if here not in bed.gone:
                (bed.fabric.pause, bed.fabric.resume)[draws[0] & 1](here)
        elif choice < 22:
            bed.fabric.slow(here, (0, 1_000_000)[draws[0] & 1])
        elif choice < 23:
            if draws[0] & 1:
                bed.fabric.heal()
            else:
                bed.fabric.partition([here], [(here + 1) % count], oneway=bool(draws[0] & 2))
        elif draws[0] % 4 == 0 and here not in bed.gone and len(bed.gone) < count - 2:
            bed.gone.add(here)
            bed.fabric.cut(here)
            bed.collect()
    bed.fabric.heal()
    for index in set(range(count)) - bed.gone:
        bed.fabric.resume(index)
    bed.run()
    state = bed.state()
    bed.close()
    return state


def self_or_other(here: int, draw: int, count: int) -> int:
    """Mostly another node."""
    return here if draw % 13 == 0 else (here + 1 + draw % max(count - 1, 1)) % count


@pytest.mark.parametrize("seed", range(6))
def test_random_runs_are_the_same(seed: int) -> None:
    slow = play(False, seed, 5, 80)
    assert len(slow[2]) > 50
    assert play(True, seed, 5, 80) == slow


@settings(max_examples=15, deadline=None)
@given(st.integers(10, 1 << 30), st.integers(2, 6), st.integers(1, 40))
def test_any_run_is_the_same(seed: int, count: int, actions: int) -> None:
    assert play(True, seed, count, actions) == play(False, seed, count, actions)


def test_larger_frames_than_blocks_are_pythons() -> None:
    spec = RdmaSpec()
    assert play(True, 1, 3, 60, spec=spec) == play(False, 1, 3, 60, spec=spec)


@pytest.mark.parametrize("topology", ["ring", "mesh2d", "torus3d"])
def test_over_shared_links_and_two_paths(topology: str) -> None:
    assert play(True, 5, 6, 60, topology=topology) == play(False, 5, 6, 60, topology=topology)


@pytest.mark.parametrize("seed", [1, 2])
def test_over_a_bad_network(seed: int) -> None:
    impair = f"loss=0.05,duplicate=0.05,reorder=0.05,corrupt=0.05,seed={seed}"
    assert play(True, seed, 3, 50, impair=impair) == play(False, seed, 3, 50, impair=impair)


def test_the_common_case_never_leaves_the_compiled_loop(monkeypatch: pytest.MonkeyPatch) -> None:
    stops: list[int] = []

    def run(net: Any) -> int:
        stops.append(int(loop.run(net)))
        return stops[-1]

    bed = Bed(2, fast=True)
    row = work(Op.WRITE, pdid=PDID, length=8, src=LOCAL, dst=bed.gva(1))
    bed.post(0, row)
    bed.run()  # the first frame to a node, its first process: Python's
    monkeypatch.setattr(memory, "fast", SimpleNamespace(**{**vars(loop), "run": run}))
    for _ in range(10):
        bed.post(0, row)
    bed.run()
    assert stops == [loop.STOP_COMPLETION] * 10 + [loop.STOP_LIMIT]  # and timers that nobody wants any more
    assert len(bed.seen) == 11
    bed.close()
