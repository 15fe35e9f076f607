"""The `memory` transport: the suite of all transports, virtual time, and nodes that go away."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import pytest

from support.rdma import Cluster
from support.transports import Endpoint, TransportConformance, numbered
from unimem.wire import CompletionFlags, Op, Status
from unimem_node.clock import Scheduler
from unimem_node.fabric import MemoryFabric
from unimem_node.fabric.impair import parse

LOCAL = 0x10_0000


class MemoryWire:
    """Two endpoints on a scheduler of their own."""

    def __init__(self) -> None:
        self.scheduler = Scheduler()
        self.fabric = MemoryFabric(self.scheduler)
        self.ends = [Endpoint(0), Endpoint(1)]
        for end in self.ends:
            self.fabric.attach(end.index, end)

    def send(self, src: int, dst: int, frame: np.ndarray) -> None:
        self.fabric.send(src, dst, frame)

    def send_all(self, src: int, dst: int, frames: Sequence[np.ndarray]) -> None:
        for frame in frames:
            self.fabric.send(src, dst, frame)

    def settle(self) -> None:
        self.scheduler.run()

    def kill(self, index: int) -> None:
        self.fabric.cut(index)


class TestMemoryFabric(TransportConformance):
    @pytest.fixture
    def wire(self) -> MemoryWire:
        return MemoryWire()


def test_frames_arrive_at_their_time_then_in_order() -> None:
    wire = MemoryWire()
    for number in (5, 3, 9):
        wire.send(0, 1, numbered(0, 1, number))
    wire.send(1, 0, numbered(1, 0, 4))
    wire.scheduler.run(until_ps=5)
    assert wire.ends[1].numbers() == [3, 5]
    assert wire.ends[0].numbers() == [4]
    wire.settle()
    assert wire.ends[1].numbers() == [3, 5, 9]
    assert wire.scheduler.now_ps == 9


def test_a_node_is_attached_once() -> None:
    wire = MemoryWire()
    with pytest.raises(ValueError, match="node 0 is attached already"):
        wire.fabric.attach(0, Endpoint(0))
    wire.kill(0)
    wire.fabric.attach(0, Endpoint(0))


def test_closing_tells_nobody() -> None:
    wire = MemoryWire()
    wire.send(0, 1, numbered(0, 1, 0))
    wire.fabric.close()
    wire.settle()
    assert wire.ends[0].lost == wire.ends[1].frames == []


def test_transfers_keep_their_time_apart() -> None:
    """No effect is seen before its time, and the scheduler stands where the answer came."""
    cluster = Cluster(2)
    cluster.nodes[0].map(7, LOCAL, 4096)
    cluster.nodes[1].map(7, cluster.gva(1), 4096)
    cluster.nodes[0].poke(7, LOCAL, b"12345678")
    cluster.post(0, Op.WRITE, src=LOCAL, dst=cluster.gva(1), length=8)
    cluster.nodes[0].pump()
    cluster.fabric.carry(0)
    cluster.scheduler.run(until_ps=1_500_000)
    assert cluster.nodes[1].peek(7, cluster.gva(1), 8) == bytes(8)
    row = cluster.one(0)
    assert row["status"] == Status.OK
    assert cluster.scheduler.now_ps == row["done_ps"]


@pytest.mark.parametrize("fast", [True, False], ids=["compiled", "readable"])
def test_a_node_that_is_cut_in_the_middle(fast: bool) -> None:
    cluster = Cluster(3, fast=fast)
    source = cluster.nodes[0]
    source.map(7, LOCAL, 1 << 20)
    for index in (1, 2):
        cluster.nodes[index].map(7, cluster.gva(index), 1 << 20)
    cluster.post(0, Op.WRITE, wr_id=1, src=LOCAL, dst=cluster.gva(1), length=1 << 20)
    cluster.post(0, Op.WRITE, wr_id=2, src=LOCAL, dst=cluster.gva(2), length=1 << 20)
    source.pump()
    cluster.fabric.carry(0)
    cluster.scheduler.run(until_ps=600_000_000)
    cluster.fabric.cut(1)
    cluster.post(0, Op.WRITE, wr_id=3, src=LOCAL, dst=cluster.gva(1), length=8)
    rows = {int(row["wr_id"]): row for row in cluster.completions(0)}
    assert rows[1]["status"] == Status.PEER_LOST
    assert 0 < rows[1]["bytes"] < 1 << 20
    assert not rows[1]["flags"] & CompletionFlags.DEFINITE
    assert rows[2]["status"] == Status.OK
    assert rows[3]["status"] == Status.PEER_UNREACHABLE
    assert rows[3]["flags"] & CompletionFlags.DEFINITE
    assert source.ni.idle


def test_the_same_run_twice_is_the_same() -> None:
    def run() -> list[tuple[int, ...]]:
        cluster = Cluster(4)
        for node in cluster.nodes:
            node.map(7, LOCAL, 1 << 16)
            node.map(7, cluster.gva(node.index), 1 << 16)
        for i in range(40):
            source, target = i % 4, (i * 7 + 1) % 4
            op = (Op.WRITE, Op.READ)[i % 2]
            src, dst = (LOCAL, cluster.gva(target)) if op is Op.WRITE else (cluster.gva(target), LOCAL)
            cluster.post(source, op, wr_id=i, src=src, dst=dst, length=1 + 1500 * i)
        cluster.run()
        rows = np.concatenate([node.ni.take_completions() for node in cluster.nodes])
        assert len(rows) == 40
        return [tuple(map(int, (row["wr_id"], row["status"], row["done_ps"]))) for row in rows]

    assert run() == run()


class Alarmed(Endpoint):
    """An end with a timer."""

    def __init__(self, index: int, wire: MemoryWire) -> None:
        super().__init__(index)
        self.wire = wire
        self.timer_ps: int | None = None
        self.rang: list[int] = []

    def on_timer(self) -> None:
        self.rang.append(self.wire.scheduler.now_ps)
        self.timer_ps = None


@pytest.fixture
def alarmed() -> tuple[MemoryWire, Alarmed]:
    wire = MemoryWire()
    wire.fabric.cut(1)
    end = Alarmed(1, wire)
    wire.ends[1] = end
    wire.fabric.attach(1, end)
    return wire, end


def test_a_timer_runs_after_everything_else_of_its_time(alarmed: tuple[MemoryWire, Alarmed]) -> None:
    wire, end = alarmed
    end.timer_ps = 5
    wire.fabric.turn(1)
    order: list[int] = []
    wire.scheduler.at(5, lambda: order.append(len(end.rang)))
    wire.send(0, 1, numbered(0, 1, 5))
    wire.settle()
    assert end.rang == [5]
    assert order == [0]
    assert end.numbers() == [5]


def test_a_timer_that_is_put_off_or_taken_back_moves_no_clock(alarmed: tuple[MemoryWire, Alarmed]) -> None:
    wire, end = alarmed
    end.timer_ps = 1000
    wire.fabric.turn(1)
    end.timer_ps = None
    wire.send(0, 1, numbered(0, 1, 7))
    wire.settle()
    assert wire.scheduler.now_ps == 7
    assert end.rang == []
    end.timer_ps = 2000
    wire.fabric.turn(1)
    end.timer_ps = 3000
    wire.settle()
    assert end.rang == [3000]
    end.timer_ps = 5000
    wire.fabric.turn(1)
    end.timer_ps = 4000
    wire.fabric.turn(1)
    wire.settle()
    assert end.rang == [3000, 4000]
    assert wire.scheduler.now_ps == 4000
    assert wire.scheduler.idle


def test_a_paused_node_takes_its_frames_when_it_goes_on(alarmed: tuple[MemoryWire, Alarmed]) -> None:
    wire, end = alarmed
    end.timer_ps = 2
    wire.fabric.turn(1)
    wire.fabric.pause(1)
    for number in (1, 2, 3):
        wire.send(0, 1, numbered(0, 1, number))
    wire.settle()
    assert end.frames == end.rang == []
    wire.fabric.resume(1)
    wire.fabric.resume(1)
    wire.settle()
    assert end.numbers() == [1, 2, 3]
    assert end.rang == [3]


def test_a_slow_node_takes_a_frame_at_a_time() -> None:
    wire = MemoryWire()
    wire.fabric.slow(1, 100)
    took: list[int] = []
    end = wire.ends[1]
    end.on_frame = lambda peer, frame: took.append(wire.scheduler.now_ps)  # type: ignore[method-assign]
    for number in (1, 2, 3):
        wire.send(0, 1, numbered(0, 1, number))
    wire.settle()
    assert took == [1, 101, 201]
    wire.fabric.slow(1, 0)
    wire.send(0, 1, numbered(0, 1, 400))
    wire.settle()
    assert took[3:] == [400]
    with pytest.raises(ValueError, match="a gap of -1 ps"):
        wire.fabric.slow(1, -1)


@pytest.mark.parametrize("oneway", [False, True])
def test_a_partition_drops_frames_until_it_is_healed(oneway: bool) -> None:
    wire = MemoryWire()
    wire.fabric.partition([0], [1], oneway=oneway)
    for number in (1, 2):
        wire.send(0, 1, numbered(0, 1, number))
        wire.send(1, 0, numbered(1, 0, number))
        wire.settle()
        wire.fabric.heal()
    assert wire.ends[1].numbers() == [2]
    assert wire.ends[0].numbers() == ([1, 2] if oneway else [2])
    assert wire.ends[0].lost == wire.ends[0].unreachable == []


def test_a_bad_network_is_what_impair_says() -> None:
    wire = MemoryWire()
    wire.fabric.impair = parse("loss=1,max_count=1;delay=1ns")
    for number in (1, 2):
        wire.send(0, 1, numbered(0, 1, number))
    wire.settle()
    assert wire.ends[1].numbers() == [2]
    assert wire.scheduler.now_ps == 1002
    wire.fabric.impair = None
    wire.send(0, 1, numbered(0, 1, 3))
    wire.settle()
    assert wire.scheduler.now_ps == 1002
    assert wire.ends[1].numbers() == [2, 3]
