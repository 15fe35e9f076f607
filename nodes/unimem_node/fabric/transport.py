"""What carries frames between nodes, seen from the fabric.

A transport takes frames from a node's `take_frames` and hands them to the peer's `FrameSink`. It promises,
per pair of nodes and as long as a connection lives:

* order: frames of one direction arrive in the order in which they were sent;
* nothing lost, nothing doubled, nothing changed (the protocol detects all three, but does not repair them);
* an end is told: `peer_lost` once for a connection that was made, `peer_unreachable` once for one that could
  not be made, to everybody who had something to do with it. The next frame makes a new connection.

Transports that do I/O (`unimem_node.service.transports`) and `MemoryFabric` are tested by one suite
(`tests/support/transports.py`).
"""

from __future__ import annotations

from typing import Protocol

import numpy as np
import numpy.typing as npt


class FrameSink(Protocol):
    """Who receives frames: a node."""

    def on_frame(self, peer_index: int, frame: npt.NDArray[np.uint8]) -> None:
        """Take a frame from a peer; the array is read-only and the sink's to keep."""

    def peer_lost(self, peer_index: int, reason: str) -> None:
        """A connection broke: frames handed over may or may not have arrived."""

    def peer_unreachable(self, peer_index: int, reason: str) -> None:
        """There was no connection: nothing has left."""


class FrameSource(FrameSink, Protocol):
    """A node as the simulation shell drives it: frames are taken from it after everything it was told."""

    @property
    def timer_ps(self) -> int | None:
        """When `on_timer` is wanted, by the shell's clock."""

    def on_timer(self) -> None:
        """Look at what is due; without effect when nothing is."""

    def pump(self) -> object:
        """Do what can be done now."""

    def take_frames(self) -> list[tuple[int, npt.NDArray[np.uint8]]]:
        """Frames to send, as (peer index, frame), in order for each peer."""


class Transport(Protocol):
    """Carries frames to peers; never blocks."""

    name: str

    def send(self, peer: int, frame: npt.NDArray[np.uint8]) -> None:
        """Queue `frame` for node `peer`; raises `ValueError` for an empty one."""

    def close(self) -> None:
        """End all connections; reports nothing any more."""
