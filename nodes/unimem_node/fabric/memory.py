"""The `memory` transport: frames between nodes of one process, delivered at their virtual time.

All nodes share one scheduler. A frame is delivered when the last of its packets has arrived (the sender's
link model says when, in the frame's header), so no effect is seen before its time; two frames that arrive
at the same time are delivered in the order in which they were sent. That makes a run a function of its
inputs. What a frame causes at its receiver (acknowledgements, further blocks) is carried on at once.
"""

from __future__ import annotations

import struct
from functools import partial
from typing import Final

import numpy as np
import numpy.typing as npt

from unimem_node.clock import Scheduler

from ._fast_columns import H_TIME, HEADER
from .transport import FrameSource

_arrival: Final = struct.Struct("<Q").unpack_from


class Port:
    """A node's place in the fabric; `node` is None once it has been cut."""

    __slots__ = ("index", "node", "spoken")

    def __init__(self, index: int, node: FrameSource) -> None:
        self.index = index
        self.node: FrameSource | None = node
        self.spoken: set[int] = set()  # peers a frame went to


class MemoryFabric:
    """Connects the nodes of one process."""

    name = "memory"

    def __init__(self, scheduler: Scheduler) -> None:
        self._scheduler = scheduler
        self._ports: dict[int, Port] = {}

    def attach(self, index: int, node: FrameSource) -> None:
        """Connect a node; an index whose node was cut may be attached again."""
        port = self._ports.get(index)
        if port is not None and port.node is not None:
            raise ValueError(f"node {index} is attached already")
        self._ports[index] = Port(index, node)

    def carry(self, index: int | None = None) -> None:
        """Take the frames of node `index` (None: of all nodes) and put them on their way."""
        for port in self._ports.values() if index is None else (self._ports[index],):
            if port.node is not None:
                for peer, frame in port.node.take_frames():
                    self._send(port, peer, frame)

    def send(self, src: int, peer: int, frame: npt.NDArray[np.uint8]) -> None:
        """Put one frame on its way, as if node `src` had sent it; raises `ValueError` for an empty one."""
        self._send(self._ports[src], peer, frame)

    def _send(self, port: Port, peer: int, frame: npt.NDArray[np.uint8]) -> None:
        if len(frame) < HEADER:
            raise ValueError(f"a frame of {len(frame)} bytes from node {port.index} has no header")
        scheduler = self._scheduler
        to = self._ports.get(peer)
        if to is None or to.node is None:
            # Told at once, but not from inside the sender's own call.
            scheduler.at(scheduler.now_ps, lambda: self._unreachable(port, peer))
            return
        (arrival,) = _arrival(frame.data, H_TIME)
        port.spoken.add(peer)
        now = scheduler.now_ps
        scheduler.at(arrival if arrival > now else now, partial(self._deliver, port.index, to, frame))

    def _deliver(self, src: int, port: Port, frame: npt.NDArray[np.uint8]) -> None:
        node = port.node
        if node is not None:
            node.on_frame(src, frame)
            node.pump()
            for peer, reply in node.take_frames():
                self._send(port, peer, reply)

    def _unreachable(self, port: Port, peer: int) -> None:
        if port.node is not None:
            port.node.peer_unreachable(peer, f"node {peer} is not attached")
            port.node.pump()
            self.carry(port.index)

    def cut(self, index: int, reason: str = "the node was cut off") -> None:
        """End a node: what is under way to it is dropped, and everybody it has spoken with loses it.

        Frames it has sent before still arrive.
        """
        port = self._ports[index]
        if port.node is None:
            return
        port.node = None
        for other in list(self._ports.values()):
            if other.node is not None and (index in other.spoken or other.index in port.spoken):
                other.spoken.discard(index)
                other.node.peer_lost(index, reason)
                other.node.pump()
                self.carry(other.index)

    def close(self) -> None:
        """Detach all nodes; frames under way are dropped and nobody is told."""
        for port in self._ports.values():
            port.node = None
        self._ports.clear()
