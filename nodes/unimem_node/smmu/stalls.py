"""Transactions that wait for software: stalled by a fault, or held up behind one (SMMUv2, "Stalling").

With SCTLR.CFCFG = 1 a transaction that faults is held, and FSR.SS tells software so. RESUME decides on the
transaction that set SS: retry or terminate. Those that came behind it, faulted themselves (HUPCF = 1) or were
held up (HUPCF = 0), are retried after it, oldest first; one that faults again becomes the outstanding one.

A transaction learns of it in an event of its own, in the order described: a write of RESUME never runs an
engine. It is remembered if RESUME comes, from the handler of the fault's interrupt, before the engine has
asked to be told.
"""

from __future__ import annotations

from collections.abc import Callable

from unimem_node.clock import Scheduler
from unimem_node.clock.scheduler import Event

#: ``fn(retry)``: whether to try again or to end as a terminated transaction does.
Resumed = Callable[[bool], None]


class Hold:
    """One transaction that waits."""

    __slots__ = ("_cancelled", "_decision", "_event", "_resumed", "_scheduler", "faulted")

    def __init__(self, scheduler: Scheduler, *, faulted: bool) -> None:
        self._scheduler = scheduler
        self._resumed: Resumed | None = None
        self._decision: bool | None = None
        self._event: Event | None = None
        self._cancelled = False
        self.faulted = faulted

    @property
    def waiting(self) -> bool:
        """True until it is decided, or cancelled."""
        return self._decision is None and not self._cancelled

    def attach(self, resumed: Resumed) -> None:
        """Say whom to tell."""
        self._resumed = resumed
        self._tell()

    def release(self, retry: bool) -> None:
        """Decide."""
        self._decision = retry
        self._tell()

    def cancel(self) -> None:
        """Forget it: the engine it belongs to was reset. Without effect once it was told."""
        self._cancelled = True
        if self._event is not None:
            self._event.cancel()

    def _tell(self) -> None:
        resumed, decision = self._resumed, self._decision
        if resumed is not None and decision is not None and not self._cancelled:
            self._event = self._scheduler.after(0, lambda: resumed(decision))


class Stalls:
    """What waits in each context bank."""

    def __init__(self, scheduler: Scheduler, banks: int) -> None:
        self._scheduler = scheduler
        self._first: list[Hold | None] = [None] * banks  # the transaction that set SS
        self._behind: list[list[Hold]] = [[] for _ in range(banks)]

    def outstanding(self, bank: int) -> bool:
        """FSR.SS: whether a stalled transaction waits for RESUME."""
        return self._first[bank] is not None

    def fault(self, bank: int) -> Hold:
        """A transaction faults, and stalls."""
        hold = Hold(self._scheduler, faulted=True)
        if self._first[bank] is None:
            self._first[bank] = hold
        else:
            self._queue(bank, hold)
        return hold

    def wait(self, bank: int, resumed: Resumed) -> Hold:
        """A transaction is held up behind the outstanding one; if that is gone, it goes on at once."""
        hold = Hold(self._scheduler, faulted=False)
        hold.attach(resumed)
        if self._first[bank] is None:
            hold.release(True)
        else:
            self._queue(bank, hold)
        return hold

    def resume(self, bank: int, retry: bool) -> None:
        """RESUME: decide on the outstanding transaction, and let those behind it try."""
        first, behind = self._first[bank], self._behind[bank]
        self._first[bank], self._behind[bank] = None, []
        if first is not None:
            first.release(retry)
        for hold in behind:
            hold.release(True)

    def unblock(self, bank: int) -> None:
        """HUPCF was set: those that were only held up go on; those that faulted wait for RESUME."""
        behind = self._behind[bank]
        self._behind[bank] = [hold for hold in behind if hold.faulted]
        for hold in behind:
            if not hold.faulted:
                hold.release(True)

    def reset(self) -> None:
        """The SMMU is reset: all end."""
        for bank, first in enumerate(self._first):
            if first is not None:
                first.release(False)
            for hold in self._behind[bank]:
                hold.release(False)
            self._first[bank], self._behind[bank] = None, []

    def _queue(self, bank: int, hold: Hold) -> None:
        behind = self._behind[bank]
        behind[:] = [other for other in behind if other.waiting]
        behind.append(hold)
