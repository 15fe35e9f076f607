from __future__ import annotations

import asyncio

import numpy as np
import pytest

from support.fake_node import FakeNode
from support.service_harness import eventually, requests
from support.transports import numbered
from unimem.v1 import types_pb2
from unimem.wire import Op, Status
from unimem_node.service import NodeHost
from unimem_node.service.real_time import monotonic_ps
from unimem_node.service.transports import Peer

pytestmark = pytest.mark.asyncio


class Recorder:
    """A transport that keeps what it is given."""

    name = "recorder"

    def __init__(self) -> None:
        self.sent: list[tuple[int, np.ndarray]] = []
        self.known: list[Peer] = []

    def set_peers(self, peers: object) -> None:
        self.known = list(peers)  # type: ignore[call-overload]

    def send(self, peer: int, frame: np.ndarray) -> None:
        self.sent.append((peer, frame))

    def flush(self) -> None:
        pass

    def peers(self) -> list[int]:
        return []

    def kind(self, peer: int) -> str:
        return "recorder"

    def close(self) -> None:
        pass

    async def wait_closed(self) -> None:
        pass


async def test_submit_answers_in_the_order_of_the_requests() -> None:
    node = FakeNode(hold=True)
    host = NodeHost(node)
    wrs = requests(3, op=Op.FETCH_ADD, dst=node.base, length=8, operand=[1, 10, 100])
    wrs["wr_id"] = [30, 20, 10]
    before = wrs.copy()
    future = host.submit(wrs)
    node._held[0] = node._held[0][::-1]  # completions come the other way round
    node.release()
    host.ask_turn()
    rows = await future
    assert rows["wr_id"].tolist() == [30, 20, 10]
    assert rows["value"].tolist() == [110, 100, 0]
    assert (wrs == before).all()


async def test_many_batches_complete_each_by_itself() -> None:
    node = FakeNode(hold=True)
    host = NodeHost(node)
    first, second, empty = host.post_many(
        [requests(2, op=Op.SWAP, dst=node.base, length=8), requests(1, op=99), requests(0)]
    )
    assert (await empty).shape == (0,)
    node.hold = False
    node._held.reverse()
    node._held, rest = node._held[:1], node._held[1:]
    node.release()
    host.ask_turn()
    assert (await second)["status"].tolist() == [Status.MALFORMED]
    assert not first.done()
    node._held = rest
    node.release()
    host.ask_turn()
    assert (await first)["status"].tolist() == [0, 0]


async def test_what_is_posted_together_takes_one_turn() -> None:
    node = FakeNode()
    host = NodeHost(node)
    transport = Recorder()
    host.connect(transport)
    taken = 0

    def count() -> None:
        nonlocal taken
        taken += 1

    host.observe(count)
    there = node.base + (1 << 36)  # the window of node 1
    futures = [host.submit(requests(1, op=Op.FETCH_ADD, dst=there, length=8)) for _ in range(64)]
    await asyncio.sleep(0)
    await asyncio.sleep(0)
    assert taken == 1
    assert [peer for peer, _ in transport.sent] == [1] * 64
    host.peer_lost(1, "for the test")
    rows = np.concatenate(await asyncio.gather(*futures))
    assert set(rows["status"].tolist()) == {Status.PEER_LOST}


async def test_without_a_transport_a_peer_is_unreachable() -> None:
    node = FakeNode()
    host = NodeHost(node)
    (row,) = await host.submit(requests(1, op=Op.FETCH_ADD, dst=node.base + (1 << 36), length=8))
    assert row["status"] == Status.PEER_UNREACHABLE


async def test_routes_reach_model_and_transport() -> None:
    node = FakeNode()
    host = NodeHost(node)
    transport = Recorder()
    host.connect(transport)
    host.set_routes(
        [
            types_pb2.Node(
                name="n0",
                index=0,
                window_base=1 << 36,
                window_size=1 << 36,
                incarnation=1,
                state="NODE_STATE_UP",
            ),
            types_pb2.Node(
                name="n1", index=1, address="h:1", window_base=2 << 36, incarnation=4, state="NODE_STATE_LOST"
            ),
        ]
    )
    assert list(node.routes)[1] == (1, "n1", 2 << 36, 0, 4, 2)
    assert transport.known == [Peer(1, "n1", "h:1", 4)]
    assert (host.name_of(1), host.name_of(9)) == ("n1", "node 9")


async def test_a_timer_rings_when_the_node_wants_it_and_not_before() -> None:
    node = FakeNode()
    host = NodeHost(node)
    turns = 0

    def count() -> None:
        nonlocal turns
        turns += 1

    host.observe(count)
    node.timer_ps = monotonic_ps() + 30_000_000_000  # 30 ms
    host.ask_turn()
    await asyncio.sleep(0.005)
    assert (node.timers, turns) == (0, 1)
    await eventually(lambda: node.timers == 1)
    assert turns == 2
    assert host._timer is None


async def test_a_timer_that_moves_back_rings_later_and_one_that_moves_forward_earlier() -> None:
    node = FakeNode()
    host = NodeHost(node)
    node.timer_ps = monotonic_ps() + 10_000_000_000
    host.ask_turn()
    await asyncio.sleep(0)
    node.timer_ps = late = monotonic_ps() + 60_000_000_000
    await asyncio.sleep(0.03)
    assert node.timers == 0
    await eventually(lambda: node.timers == 1)
    assert monotonic_ps() >= late
    node.timer_ps = monotonic_ps() + 10_000_000_000_000  # ten seconds
    host.ask_turn()
    await asyncio.sleep(0)
    node.timer_ps = monotonic_ps() + 1_000_000_000
    host.ask_turn()
    await eventually(lambda: node.timers == 2, 2)
    node.timer_ps = monotonic_ps() + 1_000_000_000
    host.ask_turn()
    await asyncio.sleep(0)
    host.close()
    await asyncio.sleep(0.01)
    assert node.timers == 2


async def test_events_of_the_kernel_take_their_turn_and_so_does_what_they_wake() -> None:
    node = FakeNode()
    host = NodeHost(node)
    happened = []
    node.soc.scheduler.after(5, lambda: happened.append("handled"))
    node.wake()
    await asyncio.sleep(0)
    assert happened == ["handled"]
    assert node.soc.scheduler.idle
    assert host.transports() == {}


async def test_a_bad_network_loses_what_it_says() -> None:
    node = FakeNode()
    host = NodeHost(node)
    transport = Recorder()
    host.connect(transport, "loss=1,max_count=3;seed=7")
    for number in range(5):
        host._send(1, numbered(0, 1, number))
    assert len(transport.sent) == 2
    assert host.impairments() == {"loss": 3}
    host.connect(transport, "delay=5ms")
    host._send(1, numbered(0, 1, 9))
    assert len(transport.sent) == 2
    await eventually(lambda: len(transport.sent) == 3)
    with pytest.raises(ValueError, match="unknown"):
        host.connect(transport, "rain=1")
