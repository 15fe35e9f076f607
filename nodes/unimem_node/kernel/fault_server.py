"""The CPU that handles faults, as a server: interrupts at once, resolutions one after the other.

One CPU takes the SMMU's interrupts and runs the one thread that resolves faults, like Linux' threaded handler
and a work queue with one worker. A handler interrupts the thread, which goes on later by as much. The thread
needs `queue_ps` to come to run, but none between two faults that both wait for it.

A piece of work is a generator: it yields how long its next step takes, and is asked again when that is over.
So what it changes, it changes at its time.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Iterator

from unimem_node.clock import Scheduler
from unimem_node.kernel.timing import KernelTiming

#: A piece of work: yields picoseconds.
Steps = Iterator[int]


class FaultServer:
    """One CPU. `now` is the clock (ps); it may be ahead of the scheduler's, and no work begins before it."""

    def __init__(self, timing: KernelTiming, scheduler: Scheduler, now: Callable[[], int]) -> None:
        self._timing = timing
        self._scheduler = scheduler
        self._now = now
        self._waiting: deque[Steps] = deque()
        self._running: Steps | None = None
        self._handler_end = 0
        self._step_end = 0
        self._awake = False
        self._stopped = False
        self.busy_ps = 0  # the CPU's time, in all

    @property
    def idle(self) -> bool:
        """Whether nothing waits and nothing runs."""
        return self._running is None and not self._waiting

    def interrupt(self) -> int:
        """Take an interrupt now; returns when its handler is done (ps)."""
        timing = self._timing
        begin = max(self._now() + timing.irq_ps, self._handler_end)
        self._handler_end = begin + timing.handler_ps
        self.busy_ps += timing.handler_ps
        if self._running is not None:
            self._step_end += timing.handler_ps
        return self._handler_end

    def submit(self, steps: Steps) -> None:
        """Hand a piece of work to the thread, from the handler that was entered last."""
        self._waiting.append(steps)
        if not self._awake:
            self._awake = True
            self._at(self._handler_end + self._timing.queue_ps, self._next)

    def stop(self) -> None:
        """Do nothing more: the machine is off."""
        self._stopped = True
        self._waiting.clear()
        self._running = None

    def _at(self, time_ps: int, fn: Callable[[], object]) -> None:
        self._scheduler.at(max(time_ps, self._scheduler.now_ps), fn)

    def _next(self) -> None:
        """Take the next piece of work, or sleep."""
        if self._stopped or not self._waiting:
            self._running = None
            self._awake = False
            return
        self._running = self._waiting.popleft()
        self._step_end = self._scheduler.now_ps
        self._advance()

    def _advance(self) -> None:
        """Begin the next step, unless handlers have taken time that the last one still needs."""
        if self._running is None:
            return
        if self._step_end > self._scheduler.now_ps:
            self._at(self._step_end, self._advance)
            return
        for duration in self._running:
            self.busy_ps += duration
            self._step_end = self._scheduler.now_ps + duration
            self._at(self._step_end, self._advance)
            return
        self._next()
