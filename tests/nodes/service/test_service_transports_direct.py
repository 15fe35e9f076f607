"""The transports `tcp`, `unix` and `shm`: what every transport has to do, then what only these have."""

from __future__ import annotations

import asyncio
from collections.abc import Iterator
from typing import Any

import numpy as np
import pytest

from support.transports import Endpoint, TransportConformance
from unimem_node.service.transports import Peer
from unimem_node.service.transports.best import BestTransport
from unimem_node.service.transports.door import Offer
from unimem_node.service.transports.hello import HelloError

KINDS = ("tcp", "unix", "shm")


class Town:
    """Nodes that find each other without gRPC."""

    def __init__(self, kind: str, **options: Any) -> None:
        self.kind, self.options = kind, options
        self.transports: dict[int, BestTransport] = {}
        self.peers: dict[int, Peer] = {}

    def add(self, sink: Any, index: int, incarnation: int = 1) -> BestTransport:
        me = Peer(index, f"n{index}", "127.0.0.1:1", incarnation)
        made = BestTransport(
            sink, me, self.ask, **{"prefer": self.kind, "connect_timeout": 1.0, **self.options}
        )
        self.transports[index], self.peers[index] = made, me
        for other in self.transports.values():
            other.set_peers(peer for peer in self.peers.values() if peer.index != other._me.index)
        return made

    async def ask(self, peer: Peer, timeout_s: float) -> Offer:
        transport = self.transports.get(peer.index)
        if transport is None or transport._closed:
            raise HelloError("nobody answers")
        kinds = tuple(kind for kind in transport.offer.kinds if kind == self.kind)
        return Offer(kinds, transport.offer.tcp_port, transport.offer.unix_socket)


class DirectWire:
    """Ends 0 and 1 on an event loop of their own, as `TransportConformance` wants them."""

    def __init__(self, kind: str, loop: str, **options: Any) -> None:
        factory = None
        if loop == "uvloop":
            factory = pytest.importorskip("uvloop").new_event_loop
        self._runner = asyncio.Runner(loop_factory=factory)
        self.ends = [Endpoint(0), Endpoint(1)]
        self._runner.run(self._start(kind, options))

    async def _start(self, kind: str, options: dict[str, Any]) -> None:
        self.town = Town(kind, **options)
        for end in self.ends:
            self.town.add(end, end.index)

    def send(self, src: int, dst: int, frame: np.ndarray) -> None:
        async def on_the_loop() -> None:
            self.town.transports[src].send(dst, frame)
            self.town.transports[src].flush()

        self._runner.run(on_the_loop())

    def settle(self) -> None:
        self._runner.run(self._quiet())

    async def _quiet(self) -> None:
        quiet, before = 0, -1
        while quiet < 40:
            await asyncio.sleep(0.001)
            heard = sum(len(end.frames) + len(end.lost) + len(end.unreachable) for end in self.ends)
            ways = [way for one in self.town.transports.values() for way in one._ways.values()]
            busy = heard != before or any(way.link is None for way in ways)
            quiet, before = 0 if busy else quiet + 1, heard

    def kill(self, index: int) -> None:
        async def stop() -> None:
            self.town.transports[index].close()
            await self.town.transports[index].wait_closed()

        self._runner.run(stop())

    def close(self) -> None:
        for index in range(2):
            self.kill(index)
        self._runner.close()


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("loop", ["asyncio", "uvloop"])
class TestDirect(TransportConformance):
    """What every transport has to do."""

    @pytest.fixture
    def wire(self, kind: str, loop: str) -> Iterator[DirectWire]:
        one = DirectWire(kind, loop)
        yield one
        one.close()
