"""Waiting awake for what comes within microseconds.

A process that sleeps in the kernel is awake again some ten to twenty microseconds after its peer has done
something: more than all the work on a small put. So after something has happened on a link the event loop
turns without sleeping for a while, looks into the rings of `shm` links, and lets the kernel say whether a
socket has something. Each turn gives the processor away first (`sched_yield`): who shall answer may be
waiting for this very one.

The while adapts. It is at most `SPIN_NS`; waiting in vain halves it, down to nothing, so that an idle node or
one whose peer is slow, burns no processor; what comes soon after we have gone to sleep restores it. With one
processor there is no waiting awake: the peer needs it.
"""

from __future__ import annotations

import asyncio
import os
import time
from collections.abc import Callable
from typing import Final, Protocol

#: Longest wait. A put there and back takes a third of it.
SPIN_NS: Final = 150_000
_LEAST_NS: Final = 2_000

_yield: Final[Callable[[], None]] = getattr(os, "sched_yield", lambda: None)


class Watched(Protocol):
    """A link, as the spinner sees it."""

    @property
    def ready(self) -> bool:
        """There is something to drain, which the event loop does not see."""

    def drain(self) -> None:
        """Take it."""

    def awake(self) -> None:
        """From now on `ready` is asked."""

    def sleep(self) -> bool:
        """No longer; False when there is something after all."""


class Spinner:
    """Keeps the running event loop awake for the links of a process, as long as that is worth it."""

    def __init__(self) -> None:
        self._loop = asyncio.get_running_loop()
        self._awake: list[Watched] = []
        self._running = False
        self._most_ns = SPIN_NS if _processors() > 1 else 0
        self._budget_ns = self._most_ns
        self._until_ns = self._slept_ns = 0

    def wake(self, link: Watched) -> None:
        """We have sent on `link`: an answer may come soon."""
        if link not in self._awake:
            link.awake()
            self._awake.append(link)
        self._until_ns = time.perf_counter_ns() + self._budget_ns
        if not self._running:
            self._running = True
            self._loop.call_soon(self._look)

    def heard(self, link: Watched) -> None:
        """Something came on `link` that the event loop has seen."""
        if self._running or time.perf_counter_ns() - self._slept_ns < self._most_ns:
            self._budget_ns = self._most_ns
        self.wake(link)

    def forget(self, link: Watched) -> None:
        """`link` is over."""
        if link in self._awake:
            self._awake.remove(link)

    def _look(self) -> None:
        """Look for a moment, then let the loop do what else there is, and come again."""
        found = [link for link in self._awake if link.ready]
        if found:
            self._budget_ns = self._most_ns
            for link in found:
                link.drain()
            self._until_ns = time.perf_counter_ns() + self._budget_ns
        elif time.perf_counter_ns() < self._until_ns:
            _yield()
        else:
            self._budget_ns //= 2
            if self._budget_ns < _LEAST_NS:
                self._budget_ns = 0
            self._awake = [link for link in self._awake if not link.sleep()]
            if not self._awake:
                self._running = False
                self._slept_ns = time.perf_counter_ns()
                return
        self._loop.call_soon(self._look)


def _processors() -> int:
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
