"""Requests that wait here for software: stalled by a page fault (SMMUv2 "Stalling"), or held up behind one.

A parked request keeps its bytes, so what is parked is bounded; peers are granted less meanwhile (credits),
and what does not fit is sent again later. A duplicate of a parked request is ignored. When software resumes
the access, the request is examined once more, as if it had just arrived.

One that asks for no more than to be ACCEPTED is acknowledged when it is parked. From then on it is this
node's: it outlives its connection, and is kept until it is executed or software has refused its page.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import NamedTuple

import numpy as np

from . import _fast_columns as col
from ._fast_window import gathers
from .core import Bytes, Core, Refusal
from .packets import ACCEPTED, HAS_PAYLOAD, Frame, build_frame, payload


class Parked(NamedTuple):
    """One request, in a frame of its own."""

    peer: int
    frame: Bytes
    refusal: Refusal
    accepted: bool
    rounds: int = 0  # times an accepted one was told that its page will come


class Parking:
    """The requests parked at one interface."""

    def __init__(self, core: Core) -> None:
        self._core = core
        # By row of the peer, and seq; accepted ones, whose connection may end, have a negative number.
        self._parked: dict[tuple[int, int], Parked] = {}
        self._bytes = 0
        self._accepted = 0  # so far
        self._current: Parked | None = None
        #: Called with (peer, frame, why): examine it, or end it for `why`.
        self.examine: Callable[[int, Bytes, Refusal | None], None] = lambda peer, frame, why: None

    @property
    def accepted(self) -> bool:
        """Whether the request that is being examined was accepted before: its source has its answer."""
        return self._current is not None and self._current.accepted

    @property
    def bytes(self) -> int:
        """What is parked, in bytes."""
        return self._bytes

    def holds(self, peer: int, seq: int) -> bool:
        """Whether this request is parked."""
        return (peer, seq) in self._parked

    def park(self, peer: int, frame: Frame, packet: np.void, refusal: Refusal, slot: int) -> bool:
        """Keep a request until software has decided; False: there is no room."""
        core, header = self._core, frame.header
        body = payload(frame, packet).tobytes() if packet["flags"] & HAS_PAYLOAD else b""
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
        if self._bytes + len(own) > core.spec.parked_bytes and not self.accepted:
            return False
        accepted = bool(packet["flags"] & ACCEPTED and gathers(packet["op"]))
        rounds = self._current.rounds if self._current is not None else 0
        parked = Parked(peer, own, refusal, accepted, rounds)
        key = self._file(parked, int(packet["seq"]))
        core.wait_for_bank(refusal, slot, lambda retry: self._resumed(key, parked, retry))
        return True

    def keep(self, refusal: Refusal) -> bool:
        """The accepted request that is being examined must wait for its page again; False: too often."""
        core = self._core
        assert self._current is not None
        parked = self._current._replace(refusal=refusal._replace(hold=None), rounds=self._current.rounds + 1)
        if parked.rounds > core.spec.fault_rounds:
            return False
        key = self._file(parked, 0)
        core.scheduler.after(core.spec.fault_retry_ps, lambda: self._resumed(key, parked, retry=True))
        return True

    def _file(self, parked: Parked, seq: int) -> tuple[int, int]:
        peer = parked.peer
        if parked.accepted:
            self._accepted += 1
            seq = -self._accepted
            self._core.state.peers[peer, col.P_OWED] += 1
        self._parked[peer, seq] = parked
        self._count(len(parked.frame))
        self._core.node[col.K_PARKED] += 1
        return peer, seq

    def _resumed(self, key: tuple[int, int], parked: Parked, retry: bool) -> None:
        if self._parked.get(key) is not parked:
            return  # its connection is over
        self._remove(key, parked)
        core = self._core
        core.tick()
        core.node[col.N_TARGET_FREE] = max(core.node[col.N_TARGET_FREE], core.node[col.N_CLOCK])
        self._current = parked
        try:
            self.examine(parked.peer, parked.frame, None if retry else parked.refusal)
        finally:
            self._current = None
        core.ask_turn()

    def forget(self, peer: int) -> None:
        """A peer begins a new connection; what was accepted is not its any more."""
        for key, parked in list(self._parked.items()):
            if parked.peer == peer and not parked.accepted:
                if parked.refusal.hold is not None:
                    parked.refusal.hold.cancel()
                self._remove(key, parked)

    def _remove(self, key: tuple[int, int], parked: Parked) -> None:
        del self._parked[key]
        if parked.accepted:
            self._core.state.peers[parked.peer, col.P_OWED] -= 1
        self._count(-len(parked.frame))

    def _count(self, n: int) -> None:
        self._bytes += n
        self._core.set_grant(self._bytes)
