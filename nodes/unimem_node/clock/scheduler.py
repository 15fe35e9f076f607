"""Virtual time: a queue of callbacks, modelled on SimPy's core (pop, set the clock, call).

Time is an integer of picoseconds. Events at one time run in the order in which they were scheduled (a
running number breaks ties), so that a run is a function of its inputs. What a callback raises ends the run
loudly; the event is gone, the rest of the queue is intact, and `run` may be called again.

Events may also be kept elsewhere, by a `Source`, as compiled code cannot call back: they share the clock, the
numbers and so the order with those here.
"""

from __future__ import annotations

from collections.abc import Callable
from heapq import heappop, heappush
from typing import Final, Protocol

#: (time, number) after every event there will ever be.
NEVER: Final = ((1 << 63) - 1, (1 << 63) - 1)


class Event:
    """A callback that will run; `cancel` it at any time before."""

    __slots__ = ("fn", "time_ps")

    def __init__(self, time_ps: int, fn: Callable[[], object]) -> None:
        self.time_ps = time_ps
        self.fn: Callable[[], object] | None = fn

    def cancel(self) -> None:
        """Do not run it; without effect when it has run or was cancelled before."""
        self.fn = None


class Source(Protocol):
    """Events that are kept elsewhere."""

    def due(self) -> tuple[int, int] | None:
        """(time, number) of its next event; it may turn out that there is nothing to do then."""

    def step(self, before: tuple[int, int]) -> bool:
        """Run its next event, and perhaps some after it, all due before `before`; False: there was none."""


class Scheduler:
    """The clock and the queue of one simulation (or of one node, when nodes are processes)."""

    __slots__ = ("_queue", "_source", "now_ps", "number")

    def __init__(self) -> None:
        self.now_ps: int = 0
        self._queue: list[tuple[int, int, Event]] = []
        self._source: Source | None = None
        self.number: int = 0  # of the event that was scheduled last

    def attach(self, source: Source) -> None:
        """Run the events of `source` among the others; raises `ValueError` when there is a source already."""
        if self._source is not None:
            raise ValueError("the scheduler has a source of events already")
        self._source = source

    def at(self, time_ps: int, fn: Callable[[], object]) -> Event:
        """Call `fn` at `time_ps`, which may be now; raises `ValueError` when that is past."""
        if time_ps < self.now_ps:
            raise ValueError(f"cannot schedule at {time_ps} ps: it is {self.now_ps} ps already")
        event = Event(time_ps, fn)
        self.number += 1
        heappush(self._queue, (time_ps, self.number, event))
        return event

    def after(self, delay_ps: int, fn: Callable[[], object]) -> Event:
        """Call `fn` in `delay_ps`, zero or more."""
        return self.at(self.now_ps + delay_ps, fn)

    @property
    def idle(self) -> bool:
        """True when nothing is left to run."""
        return self.next_ps is None

    def _own(self) -> tuple[int, int]:
        """(time, number) of the next event in the queue, or NEVER."""
        queue = self._queue
        while queue and queue[0][2].fn is None:
            heappop(queue)
        return queue[0][:2] if queue else NEVER

    @property
    def next_ps(self) -> int | None:
        """When the next event is due, or None."""
        time_ps = self._own()[0]
        if self._source is not None and (due := self._source.due()) is not None:
            time_ps = min(time_ps, due[0])
        return time_ps if time_ps < NEVER[0] else None

    def step(self, until_ps: int | None = None) -> bool:
        """Run the next event that is due by `until_ps`; returns False when there is none.

        A source may run several of its own.
        """
        own = self._own()
        source = self._source
        if source is not None:
            limit = own if until_ps is None else min(own, (until_ps + 1, 0))
            if source.step(limit):
                return True
        if own is NEVER or (until_ps is not None and own[0] > until_ps):
            return False
        time_ps, _, event = heappop(self._queue)
        fn = event.fn
        assert fn is not None
        event.fn = None
        self.now_ps = max(self.now_ps, time_ps)  # the clock may have been advanced past it
        fn()
        return True

    def run(self, until_ps: int | None = None) -> None:
        """Run until nothing is left, or through `until_ps`; the clock then stands at `until_ps`."""
        if until_ps is not None and until_ps < self.now_ps:
            raise ValueError(f"cannot run until {until_ps} ps: it is {self.now_ps} ps already")
        while self.step(until_ps):
            pass
        if until_ps is not None:
            self.now_ps = max(self.now_ps, until_ps)

    def advance_to(self, time_ps: int) -> None:
        """Set the clock to `time_ps` unless it is later already; what became due runs at the next step."""
        self.now_ps = max(self.now_ps, time_ps)
