"""Requests that wait here for software: stalled by a page fault (SMMUv2 "Stalling"), or held up behind one.

A parked request keeps its bytes, so what is parked is bounded; peers are granted less meanwhile (credits),
and what does not fit is sent again later. A duplicate of a parked request is ignored. When software resumes
the access, the request is examined once more, as if it had just arrived.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import NamedTuple

import numpy as np

from . import _fast_columns as col
from .core import Bytes, Core, Refusal
from .packets import HAS_PAYLOAD, Frame, build_frame, payload


class Parked(NamedTuple):
    """One request, in a frame of its own."""

    peer: int
    frame: Bytes
    refusal: Refusal


class Parking:
    """The requests parked at one interface."""

    def __init__(self, core: Core) -> None:
        self._core = core
        self._parked: dict[tuple[int, int], Parked] = {}  # by row of the peer, and seq
        self._bytes = 0
        #: Called with (peer, frame, why): examine it, or end it for `why`.
        self.examine: Callable[[int, Bytes, Refusal | None], None] = lambda peer, frame, why: None

    def holds(self, peer: int, seq: int) -> bool:
        """Whether this request is parked."""
        return (peer, seq) in self._parked

    def park(self, peer: int, frame: Frame, packet: np.void, refusal: Refusal, slot: int) -> bool:
        """Keep a request until software has decided; False: there is no room."""
        core, header = self._core, frame.header
        body = payload(frame, packet).tobytes() if packet["flags"] & HAS_PAYLOAD else b""
        if self._bytes + len(body) + col.PACKET_BYTES > core.spec.parked_bytes:
            return False
        own = build_frame(
            [(packet.copy(), body)],
            src_node=int(header["src_node"]),
            dst_node=int(header["dst_node"]),
            src_incarnation=int(header["src_incarnation"]),
            dst_incarnation=int(header["dst_incarnation"]),
            connection=int(header["connection"]),
            base=int(header["base"]),
            time=int(packet["time"]),
        )
        own.setflags(write=False)
        key = (peer, int(packet["seq"]))
        parked = self._parked[key] = Parked(peer, own, refusal)
        self._count(len(own))
        core.node[col.K_PARKED] += 1
        core.wait_for_bank(refusal, slot, lambda retry: self._resumed(key, parked, retry))
        return True

    def _resumed(self, key: tuple[int, int], parked: Parked, retry: bool) -> None:
        if self._parked.get(key) is not parked:
            return  # its connection is over
        del self._parked[key]
        self._count(-len(parked.frame))
        core = self._core
        core.tick()
        core.node[col.N_TARGET_FREE] = max(core.node[col.N_TARGET_FREE], core.node[col.N_CLOCK])
        self.examine(parked.peer, parked.frame, None if retry else parked.refusal)
        core.ask_turn()

    def forget(self, peer: int) -> None:
        """A peer begins a new connection."""
        for key, parked in list(self._parked.items()):
            if parked.peer == peer:
                if parked.refusal.hold is not None:
                    parked.refusal.hold.cancel()
                del self._parked[key]
                self._count(-len(parked.frame))

    def _count(self, n: int) -> None:
        self._bytes += n
        self._core.set_grant(self._bytes)
