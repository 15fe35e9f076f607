"""What is sent again, and when (docs/protocol.md, "Loss"): the readable half of reliable delivery.

A packet is taken for lost when one that was sent well after it has been answered (as RACK does, RFC 8985),
or when no answer has come for the peer's time-out (RFC 6298: SRTT + 4 RTTVAR, doubled with each time-out in a
row). It is then read from the source's memory and sent again, with the same number. A peer from which no
word comes through `retries` time-outs is given up.
"""

from __future__ import annotations

from collections.abc import Callable

import numpy as np

from unimem.wire import Status

from . import _fast_columns as col
from ._fast_frame import close_requests, open_buffer
from ._fast_tables import unlink
from ._fast_window import gathers, overtaken
from .core import Bytes, Core
from .source import Source


class Retransmit:
    """Timers of one interface. `give_up(peer row, reason)` ends a connection."""

    def __init__(self, core: Core, source: Source, give_up: Callable[[int, str], None]) -> None:
        self._core, self._source, self._give_up = core, source, give_up

    @property
    def due_ps(self) -> int | None:
        """When `on_timer` is wanted, on the timer's clock; None: never."""
        node = self._core.node
        if node[col.N_WORK_LIVE] == 0:
            return None
        due = min(node[col.N_TIMER], node[col.N_PACED], node[col.N_DEADLINE], node[col.N_ALARM])
        return None if due == col.NEVER else due

    def on_timer(self) -> None:
        """Do what is due by now: nothing, perhaps, for the times are lower bounds."""
        core, node = self._core, self._core.node
        now = node[col.N_NOW]
        if node[col.N_ALARM] <= now:
            node[col.N_ALARM] = col.NEVER
            self._source.waiting.retry_overdue(now)
        if node[col.N_DEADLINE] <= now:
            self._expire(now)
        if node[col.N_PACED] <= now:
            node[col.N_PACED] = col.NEVER
            core.wake_queues()
        if node[col.N_TIMER] <= now:
            node[col.N_TIMER] = col.NEVER
            for peer in range(len(core.peer_rows)):
                self._look_at(peer, now)

    def _look_at(self, peer: int, now: int) -> None:
        """Find what is lost of the packets under way to a peer, and when to look again."""
        core, state = self._core, self._core.state
        row = state.peers[peer]
        while overtaken(state, peer):
            self._lost(int(row[col.P_OLDEST]))
        oldest = int(row[col.P_OLDEST])
        if oldest < 0:
            return
        # What is under way takes its time on the link, and perhaps as long on the way back.
        queue = 2 * (int(row[col.P_BYTES]) * int(row[col.P_PS_PER_KIB]) >> 10)
        patience = min(int(row[col.P_RTO]) << min(int(row[col.P_TIMEOUTS]), 20), core.spec.rto_max_ps) + queue
        since = self._waiting_since(oldest)
        if since + patience <= now:
            core.node[col.K_TIMEOUTS] += 1
            row[col.P_TIMEOUTS] += 1
            if row[col.P_TIMEOUTS] > core.spec.retries:
                self._give_up(peer, f"no word from it through {core.spec.retries} time-outs")
                return
            while oldest >= 0 and since + patience <= now:
                frame = state.flight[oldest, col.F_FRAME]
                self._lost(oldest)
                oldest = int(row[col.P_OLDEST])
                if oldest >= 0 and state.flight[oldest, col.F_FRAME] != frame:  # else it has waited as long
                    since = self._waiting_since(oldest)
            patience = min(2 * (patience - queue), core.spec.rto_max_ps) + queue
        if oldest >= 0:
            core.node[col.N_TIMER] = min(core.node[col.N_TIMER], since + patience)

    def _waiting_since(self, row: int) -> int:
        """When the wait for an answer began: in virtual time a frame arrives with the last of its packets."""
        flight = self._core.state.flight
        since = int(flight[row, col.F_SENT])
        if self._core.node[col.N_VIRTUAL]:
            frame = flight[row, col.F_FRAME]
            while row >= 0 and flight[row, col.F_FRAME] == frame:
                since = max(since, int(flight[row, col.F_ARRIVAL]))
                row = int(flight[row, col.F_NEWER])
        return since

    def _lost(self, row: int) -> None:
        unlink(self._core.state, row)
        self._core.send_again(row)

    def connection_lost(self, peer: int) -> None:
        """The transport's connection broke: everything unanswered goes over the next one."""
        core, state = self._core, self._core.state
        for row in self._source.ends.flying(peer):
            flight = state.flight[row]
            if flight[col.F_SENDS] and flight[col.F_FRAME] <= core.node[col.N_HANDED]:
                flight[col.F_EVER] = 1
            if flight[col.F_STATE] == col.FLYING and flight[col.F_SENDS]:
                self._lost(row)

    def _expire(self, now: int) -> None:
        core, state = self._core, self._core.state
        live = (state.work[:, col.W_STATE] != col.WORK_FREE) & (state.work[:, col.W_DEADLINE] > 0)
        for work in np.flatnonzero(live & (state.work[:, col.W_DEADLINE] <= now)).tolist():
            self._source.ends.end(work, Status.TIMED_OUT, core.node[col.N_HANDED])
        left = state.work[live & (state.work[:, col.W_DEADLINE] > now), col.W_DEADLINE]
        core.node[col.N_DEADLINE] = int(left.min()) if len(left) else col.NEVER

    def cut_frame(self, peer: int, buffer: Bytes) -> int:
        """A frame of packets for `peer` that are sent again; its bytes, 0 when nothing is left of them.

        `buffer` has room for as much as `size_of` says.
        """
        core, state = self._core, self._core.state
        queue = core.again.get(peer)
        slots, payload = self._plan(peer)
        if not queue or slots == 0:
            state.peers[peer, col.P_AGAIN] = 0
            return 0
        opened = open_buffer(state, buffer, slots, payload)
        assert opened, "the buffer was made for it"
        core.cursor[col.C_PEER] = peer
        while queue:
            row = queue[0] & 0xFFFF_FFFF
            flight = state.flight[row]
            alive = (
                flight[col.F_TOKEN] == queue[0] and flight[col.F_LIVE] and flight[col.F_STATE] == col.AGAIN
            )
            if alive and not self._source.cut_again(row, buffer):
                break
            queue.popleft()
        return int(close_requests(state, buffer, peer))

    def _plan(self, peer: int) -> tuple[int, int]:
        """(packets, payload bytes) of the next such frame."""
        core, flight = self._core, self._core.state.flight
        slots = payload = 0
        for token in self._core.again.get(peer, ()):
            row = flight[token & 0xFFFF_FFFF]
            if row[col.F_TOKEN] != token or not row[col.F_LIVE] or row[col.F_STATE] != col.AGAIN:
                continue
            n = (int(row[col.F_LENGTH]) + 7) & ~7 if gathers(row[col.F_OP]) else 0
            if slots == core.spec.frame_packets or (slots and payload + n > core.spec.frame_payload_bytes):
                break
            slots, payload = slots + 1, payload + n
        return slots, payload

    def size_of(self, peer: int) -> int:
        """Bytes of the frame that `cut_frame` would make."""
        slots, payload = self._plan(peer)
        return col.HEADER + slots * col.PACKET_BYTES + payload
