from __future__ import annotations

import asyncio

import numpy as np
import pytest

from support.fake_node import FakeNode
from support.service_harness import requests
from unimem.v1 import types_pb2
from unimem.wire import Op, Status
from unimem_node.service import NodeHost
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
