"""Transports that do I/O: how frames travel between the processes of two nodes.

A transport connects to a peer with the first frame for it, delivers frames of a pair in order, and reports
each broken connection once. `grpc` is the reference: `FabricService.Exchange`, which any implementation of
the contract can speak.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from typing import Final, Protocol

from unimem_node.fabric.transport import FrameSink, Transport

__all__ = ["QUEUE_LIMIT", "FrameSink", "Peer", "ServiceSink", "ServiceTransport", "Transport"]

#: Bytes that may wait for one peer; then its connection ends. The protocol's window is far smaller.
QUEUE_LIMIT: Final = 64 << 20


@dataclass(frozen=True, slots=True)
class Peer:
    """Another node: where it listens, and which life of it we mean."""

    index: int
    name: str
    address: str
    incarnation: int


class ServiceSink(FrameSink, Protocol):
    """Who receives frames on the event loop. A frame given to `on_frame` is valid until that returns."""

    def turn(self) -> None:
        """What came together has been handed over: time to act on it."""


class ServiceTransport(Transport, Protocol):
    """A transport that does I/O on the running event loop."""

    def flush(self) -> None:
        """What was sent must leave now: until then it may wait for more."""

    def kind(self, peer: int) -> str:
        """How frames travel to a peer of `peers`: ``shm``, ``unix``, ``tcp``, ``grpc``."""

    def set_peers(self, peers: Iterable[Peer]) -> None:
        """The peers that exist. A connection to another incarnation of one of them ends as lost."""

    def peers(self) -> list[int]:
        """Peers with a connection now."""

    async def wait_closed(self) -> None:
        """After `close`: until everything has ended."""
