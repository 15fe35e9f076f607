"""Transports that do I/O: how frames travel between the processes of two nodes.

A transport connects to a peer with the first frame for it, delivers frames of a pair in order, and reports
each broken connection once. `grpc` is the reference: `FabricService.Exchange`, which any implementation of
the contract can speak.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from typing import Protocol

from unimem_node.fabric.transport import FrameSink, Transport

__all__ = ["FrameSink", "Peer", "ServiceTransport", "Transport"]


@dataclass(frozen=True, slots=True)
class Peer:
    """Another node: where it listens, and which life of it we mean."""

    index: int
    name: str
    address: str
    incarnation: int


class ServiceTransport(Transport, Protocol):
    """A transport that does I/O on the running event loop."""

    def set_peers(self, peers: Iterable[Peer]) -> None:
        """The peers that exist. A connection to another incarnation of one of them ends as lost."""

    def peers(self) -> list[int]:
        """Peers with a connection now."""

    async def wait_closed(self) -> None:
        """After `close`: until everything has ended."""
