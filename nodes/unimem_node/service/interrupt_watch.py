"""`BusService.WatchInterrupts`: the levels of interrupt lines as one caller is told of them.

Lines change within the model's work, which waits for nobody. A watch keeps what its caller has not read yet,
up to a limit; beyond it only the newest change of each interrupt is kept, so that a caller that was slow
still ends up with the right levels, and is told how much it missed.
"""

from __future__ import annotations

import asyncio
from collections import deque
from collections.abc import AsyncIterator, Callable, Collection
from typing import Final, NamedTuple

from unimem_node.bus.interrupts import InterruptController
from unimem_node.service.rpc import Refusal

#: Changes kept for a caller; more than there are interrupts, so that the newest of each always fit.
LIMIT: Final = 2048


class Change(NamedTuple):
    """`dropped`: changes left out before this one."""

    spi: int
    level: bool
    time_ps: int
    dropped: int


class InterruptWatch:
    """Watches `spis` (empty: all) of a controller until `close`. `now` is the clock (ps)."""

    def __init__(
        self,
        interrupts: InterruptController,
        spis: Collection[int],
        now: Callable[[], int],
        limit: int = LIMIT,
    ) -> None:
        self._spis, self._now, self._limit = frozenset(spis), now, limit
        self._waiting: deque[tuple[int, bool, int]] = deque()
        self._dropped = 0
        self._ready = asyncio.Event()
        self._why: Refusal | None = None
        for spi in interrupts.pending():
            self._changed(spi, True)
        self._unsubscribe = interrupts.subscribe(self._changed)

    def _changed(self, spi: int, level: bool) -> None:
        if self._spis and spi not in self._spis:
            return
        if len(self._waiting) >= self._limit:
            self._keep_the_newest()
        self._waiting.append((spi, level, self._now()))
        self._ready.set()

    def _keep_the_newest(self) -> None:
        newest = {change[0]: place for place, change in enumerate(self._waiting)}
        kept = [change for place, change in enumerate(self._waiting) if newest[change[0]] == place]
        self._dropped += len(self._waiting) - len(kept)
        self._waiting = deque(kept)

    async def changes(self) -> AsyncIterator[Change]:
        """What is asserted now, then each change as it comes; raises what `end` was given."""
        while True:
            while self._waiting:
                spi, level, time_ps = self._waiting.popleft()
                dropped, self._dropped = self._dropped, 0
                yield Change(spi, level, time_ps, dropped)
            if self._why is not None:
                raise self._why
            self._ready.clear()
            await self._ready.wait()

    def end(self, why: Refusal) -> None:
        """Let `changes` end with `why`, after what has been kept."""
        if self._why is None:
            self._why = why
            self._ready.set()

    def close(self) -> None:
        """Watch no longer."""
        self._unsubscribe()
