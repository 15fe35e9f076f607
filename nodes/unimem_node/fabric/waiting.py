"""Packets that wait for a page, at home or at their target, and for how long."""

from __future__ import annotations

from typing import Final

from unimem.wire import Side, Status

from . import _fast_columns as col
from .core import Core, Refusal
from .ends import Ends

#: log2 of the longest wait for word of a page, in `fault_retry_ps`.
_LONGEST_WAIT: Final = 6


class Waiting:
    """Packets of one interface that are not under way until something has happened."""

    def __init__(self, core: Core, ends: Ends) -> None:
        self.core, self._ends = core, ends
        #: Waiting for a page at home, by token: row, PDID, address, when to try anyway.
        self.here: dict[int, tuple[int, int, int, int]] = {}
        self.away: dict[int, tuple[int, int]] = {}  # for the target, by token: row, when to try anyway
        self.rounds: dict[int, tuple[tuple[int, int], int]] = {}  # by row: (token, address), faults there

    @staticmethod
    def may_wait(refusal: Refusal) -> bool:
        """Whether a refused access at home may be tried again later."""
        return refusal.hold is not None or refusal.status in (Status.PAGE_PENDING, Status.BANK_BLOCKED)

    def wait_here(self, row: int, refusal: Refusal, slot: int) -> None:
        """A packet whose page at home is not there: send it, or ask again, when it is."""
        core, flight = self.core, self.core.state.flight[row]
        core.node[col.K_DEFERRED] += 1
        flight[col.F_STATE] = col.HERE
        token = int(flight[col.F_TOKEN])
        if refusal.status == Status.PAGE_PENDING and self.too_often(row, refusal.iova):
            self.unresolved(row, refusal)
        elif refusal.status == Status.PAGE_PENDING:
            pdid = int(core.state.work[flight[col.F_WORK], col.W_PDID])
            due = core.node[col.N_NOW] + self.patience_ps(row)
            self.here[token] = (row, pdid, refusal.iova, due)
            core.alarm(due)
        else:
            core.wait_for_bank(refusal, slot, lambda retry: self._resumed(row, token, refusal, retry))

    def _resumed(self, row: int, token: int, refusal: Refusal, retry: bool) -> None:
        """Software has decided on a stalled access of ours."""
        core, flight = self.core, self.core.state.flight[row]
        if flight[col.F_TOKEN] != token or not flight[col.F_LIVE] or flight[col.F_STATE] != col.HERE:
            return
        core.tick()
        if retry:
            core.send_again(row)
        else:
            self._ends.failed(row, refusal._replace(hold=None), core.index, core.node[col.N_CLOCK])
        core.ask_turn()

    def resolved(self, pdid: int, va: int, length: int) -> None:
        """Pages of a process are there: what waits for them here is sent."""
        for token, (row, owner, page, _) in list(self.here.items()):
            if owner == pdid and va <= page < va + length:
                del self.here[token]
                self.retry(row, token, col.HERE)

    def retry(self, row: int, token: int, state: int) -> None:
        """Send a packet again, if it is still the one that waits in this state."""
        flight = self.core.state.flight[row]
        if flight[col.F_LIVE] and flight[col.F_TOKEN] == token and flight[col.F_STATE] == state:
            self.core.send_again(row)

    def retry_overdue(self, now: int) -> None:
        """Nobody has said that a page is there: try all the same. Sets the next alarm."""
        flights = self.core.state.flight
        self.rounds = {
            row: (key, count)
            for row, (key, count) in self.rounds.items()
            if flights[row, col.F_TOKEN] == key[0]
        }
        for table, state in ((self.here, col.HERE), (self.away, col.AWAY)):
            for token, entry in list(table.items()):
                if entry[-1] <= now:
                    del table[token]
                    self.retry(entry[0], token, state)
                else:
                    self.core.alarm(entry[-1])

    def too_often(self, row: int, iova: int) -> bool:
        """Count another fault at one address; True when that is too often."""
        flight = self.core.state.flight[row]
        token = int(flight[col.F_TOKEN])
        before, count = self.rounds.get(row, (None, 0))
        count = count + 1 if before == (token, iova) else 1
        self.rounds[row] = ((token, iova), count)
        return count > self.core.spec.fault_rounds

    def patience_ps(self, row: int) -> int:
        """How long to wait for word of a page: longer each time, for a kernel may have hundreds to bring."""
        (token, _), count = self.rounds.get(row, ((-1, 0), 1))
        again = count - 1 if token == self.core.state.flight[row, col.F_TOKEN] else 0
        return self.core.spec.fault_retry_ps << min(again, _LONGEST_WAIT)

    def unresolved(self, row: int, refusal: Refusal) -> None:
        """A page fault was handled again and again and stays: end it, loudly."""
        core = self.core
        work = int(core.state.flight[row, col.F_WORK])
        if core.state.flight[row, col.F_SENDS]:
            core.state.work[work, col.W_TOUCHED] = 1
        final = refusal._replace(status=Status.UNRESOLVED_FAULT, hold=None)
        node = (
            core.index
            if refusal.side == Side.SOURCE
            else int(core.state.peers[core.state.flight[row, col.F_PEER], col.P_INDEX])
        )
        core.record(core.node[col.N_CLOCK], "no_progress", iova=refusal.iova, rounds=core.spec.fault_rounds)
        self._ends.failed(row, final, node, core.node[col.N_CLOCK])
