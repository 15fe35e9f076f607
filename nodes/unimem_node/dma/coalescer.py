"""Interrupt coalescing of the AXI engines: threshold and delay timer (AMD PG034, PG021: CDMACR / DMACR).

Completions count down from the threshold; at zero the engine shows IOC_Irq and the count begins anew. While
completions are counted but the threshold is not reached, a timer runs that each new completion restarts;
when it ends (``delay`` units without a completion) the engine shows Dly_Irq and the count begins anew.
"""

from __future__ import annotations

from collections.abc import Callable

from unimem_node.clock import Event, Scheduler


class Coalescer:
    """Counts completions; tells when IOC_Irq is due, and calls `delayed` when Dly_Irq is."""

    __slots__ = ("_delayed", "_event", "_scheduler", "_unit_ps", "delay", "left", "threshold")

    def __init__(self, scheduler: Scheduler, unit_ps: int, delayed: Callable[[], None]) -> None:
        self._scheduler = scheduler
        self._unit_ps = unit_ps
        self._delayed = delayed
        self._event: Event | None = None
        self.threshold = self.left = 1
        self.delay = 0

    def configure(self, threshold: int, delay: int) -> None:
        """Software wrote the control register; a changed threshold begins a new count."""
        if threshold != self.threshold:
            self.threshold = self.left = threshold
        self.delay = delay
        if not delay:
            self._stop()

    @property
    def watch(self) -> int:
        """Completions after which the engine must be told: all, where a timer measures their distance."""
        return 1 if self.delay else self.left

    def completed(self, n: int) -> bool:
        """Count `n` completions; whether the threshold was reached."""
        if n == 0:
            return False
        self._stop()
        self.left -= n
        reached = self.left <= 0
        if reached:
            self.left = self.threshold - -self.left % self.threshold
        if self.left != self.threshold and self.delay:
            self._event = self._scheduler.after(self.delay * self._unit_ps, self._run_out)
        return reached

    def reset(self) -> None:
        """As out of reset: threshold 1, no delay."""
        self._stop()
        self.threshold = self.left = 1
        self.delay = 0

    def _stop(self) -> None:
        if self._event is not None:
            self._event.cancel()
            self._event = None

    def _run_out(self) -> None:
        self._event = None
        self.left = self.threshold
        self._delayed()
