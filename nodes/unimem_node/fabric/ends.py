"""How work requests end that are not done: refused, given up, cancelled, out of time, their peer lost."""

from __future__ import annotations

import numpy as np

from unimem.wire import Side, Status

from . import _fast_columns as col
from ._fast_tables import answered, dequeue, give_flight, release, settle, unhold, unqueue
from .core import Core, Refusal


class Ends:
    """Ends work requests, packets and connections of one interface."""

    def __init__(self, core: Core) -> None:
        self.core = core

    def reconnect(self, peer: int) -> None:
        """Begin a new connection: whatever of the old one still arrives is dropped by its number."""
        state = self.core.state
        self.core.again.pop(peer, None)
        row = state.peers[peer]
        row[col.P_CONNECTION] += 1
        row[[col.P_SEQ, col.P_BASE, col.P_SETTLED, col.P_TIMEOUTS, col.P_CREDIT, col.P_RACK, col.P_SRTT]] = 0
        row[col.P_RTO] = self.core.spec.rto_first_ps
        row[col.P_VALUES : col.P_VALUES + col.VALUE_WORDS] = 0
        state.settled[peer] = 0

    def flying(self, peer: int) -> list[int]:
        """Rows that wait for an answer of a peer, by seq."""
        flight = self.core.state.flight
        rows = np.flatnonzero((flight[:, col.F_LIVE] == 1) & (flight[:, col.F_PEER] == peer))
        since = (flight[rows, col.F_SEQ] - self.core.state.peers[peer, col.P_BASE]) & col.SEQ_MASK
        return [int(row) for row in rows[np.argsort(since, kind="stable")]]

    def failed(self, row: int, refusal: Refusal, node: int, time_ps: int) -> None:
        """One packet came to nothing, or not to all: blame its work request and settle the packet.

        Of a refused request the target tells no parts: what lies between its arrival and the answer's
        departure is counted as translation.
        """
        core, state = self.core, self.core.state
        flight = state.flight[row]
        work = int(flight[col.F_WORK])
        core.blame(work, refusal, node)
        if refusal.written:
            state.work[work, col.W_TOUCHED] = 1
        if flight[col.F_SENDS]:
            latency = int(state.peers[flight[col.F_PEER], col.P_LATENCY])
            translate = max(time_ps - latency - int(flight[col.F_ARRIVAL]), 0)
            answered(state, row, time_ps, 0, translate, 0, 0, 0)
        self.drop_rest(work)
        settle(state, row, 0)

    def drop_rest(self, work: int) -> None:
        """Send no more of a failed work request."""
        state = self.core.state
        if state.work[work, col.W_STATE] != col.WORK_QUEUED:
            return
        unqueue(state, work)

    def end(self, work: int, status: Status, handed: int) -> None:
        """End a work request before its time; what was sent of it may or may not be executed."""
        core, state = self.core, self.core.state
        row = state.work[work]
        if row[col.W_STATE] == col.WORK_FREE:  # it has ended with its data
            return
        core.blame(work, Refusal(status, Side.NONE), core.index)
        if row[col.W_STATE] == col.WORK_HELD:
            unhold(state, work)
            core.end_now(work, core.node[col.N_CLOCK])
            if state.domains[row[col.W_PDID], col.D_ACTIVE] == 0:
                release(state, int(row[col.W_PDID]))
            return
        self.drop_rest(work)
        for flight in np.flatnonzero(
            (state.flight[:, col.F_LIVE] == 1) & (state.flight[:, col.F_WORK] == work)
        ):
            self.abandon(int(flight), handed)
        if row[col.W_PENDING] == 0:
            core.end_now(work, core.node[col.N_CLOCK])

    def abandon(self, row: int, handed: int) -> None:
        """Wait no longer for the answer to a packet.

        `handed` < 0: there was no connection, so that only what an earlier one was given may be executed.
        """
        state, flight = self.core.state, self.core.state.flight[row]
        work = int(flight[col.F_WORK])
        at_once = state.peers[flight[col.F_PEER], col.P_INDEX] == self.core.index  # no transport in between
        if (
            flight[col.F_EVER]
            or (flight[col.F_SENDS] and at_once)
            or (flight[col.F_SENDS] and flight[col.F_FRAME] <= handed)
            or (flight[col.F_SENDS] > 1 and handed >= 0)
        ):
            state.work[work, col.W_TOUCHED] = 1
            self.core.node[col.K_LOST] += 1
        state.work[work, col.W_PENDING] -= 1
        give_flight(state, row)

    def peer_lost(self, peer: int, status: Status, handed: int) -> None:
        """Fail everything that is in flight to a peer or queued for it; the connection begins anew.

        A packet in one of the frames up to number `handed`, which the transport has been given, may or may
        not have been executed; so may one that an earlier connection was given.
        """
        core, state = self.core, self.core.state
        index, now = int(state.peers[peer, col.P_INDEX]), core.node[col.N_CLOCK]
        refusal, lost = Refusal(status, Side.NONE), Refusal(Status.PEER_LOST, Side.NONE)
        for row in self.flying(peer):
            flight = state.flight[row]
            if not flight[col.F_LIVE]:  # a signal, gone with its data
                continue
            work = int(flight[col.F_WORK])
            core.blame(work, lost if flight[col.F_EVER] else refusal, index)
            self.drop_rest(work)
            self.abandon(row, handed)
            if state.work[work, col.W_PENDING] == 0:
                core.end_now(work, now)
        while (work := int(state.peers[peer, col.P_HEAD])) >= 0:
            core.blame(work, refusal, index)
            dequeue(state, peer)
            core.end_now(work, now)
        core.node[col.K_GIVEN_UP] += 1
        self.reconnect(peer)
