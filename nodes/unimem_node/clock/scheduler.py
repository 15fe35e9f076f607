"""Virtual time: a queue of callbacks, modelled on SimPy's core (pop, set the clock, call).

Time is an integer of picoseconds. Events at one time run in the order in which they were scheduled (a
running number breaks ties), so that a run is a function of its inputs. What a callback raises ends the run
loudly; the event is gone, the rest of the queue is intact, and `run` may be called again.
"""

from __future__ import annotations

from collections.abc import Callable
from heapq import heappop, heappush


class Event:
    """A callback that will run; `cancel` it at any time before."""

    __slots__ = ("fn", "time_ps")

    def __init__(self, time_ps: int, fn: Callable[[], object]) -> None:
        self.time_ps = time_ps
        self.fn: Callable[[], object] | None = fn

    def cancel(self) -> None:
        """Do not run it; without effect when it has run or was cancelled before."""
        self.fn = None


class Scheduler:
    """The clock and the queue of one simulation (or of one node, when nodes are processes)."""

    __slots__ = ("_number", "_queue", "now_ps")

    def __init__(self) -> None:
        self.now_ps: int = 0
        self._queue: list[tuple[int, int, Event]] = []
        self._number = 0

    def at(self, time_ps: int, fn: Callable[[], object]) -> Event:
        """Call `fn` at `time_ps`, which may be now; raises `ValueError` when that is past."""
        if time_ps < self.now_ps:
            raise ValueError(f"cannot schedule at {time_ps} ps: it is {self.now_ps} ps already")
        event = Event(time_ps, fn)
        self._number += 1
        heappush(self._queue, (time_ps, self._number, event))
        return event

    def after(self, delay_ps: int, fn: Callable[[], object]) -> Event:
        """Call `fn` in `delay_ps`, zero or more."""
        return self.at(self.now_ps + delay_ps, fn)

    @property
    def idle(self) -> bool:
        """True when nothing is left to run."""
        return self.next_ps is None

    @property
    def next_ps(self) -> int | None:
        """When the next event is due, or None."""
        queue = self._queue
        while queue and queue[0][2].fn is None:
            heappop(queue)
        return queue[0][0] if queue else None

    def step(self) -> bool:
        """Run the next event; returns False when there was none."""
        queue = self._queue
        while queue:
            time_ps, _, event = heappop(queue)
            fn = event.fn
            if fn is not None:
                event.fn = None
                self.now_ps = max(self.now_ps, time_ps)  # the clock may have been advanced past it
                fn()
                return True
        return False

    def run(self, until_ps: int | None = None) -> None:
        """Run until nothing is left, or through `until_ps`; the clock then stands at `until_ps`."""
        if until_ps is None:
            while self.step():
                pass
            return
        if until_ps < self.now_ps:
            raise ValueError(f"cannot run until {until_ps} ps: it is {self.now_ps} ps already")
        while (due := self.next_ps) is not None and due <= until_ps:
            self.step()
        self.now_ps = max(self.now_ps, until_ps)

    def advance_to(self, time_ps: int) -> None:
        """Set the clock to `time_ps` unless it is later already; what became due runs at the next step."""
        self.now_ps = max(self.now_ps, time_ps)
