"""Work requests that the interface posts to itself, and what they are parts of.

A COPY is carried out by a WRITE that no process has posted; a WRITE with a signal is two requests, whose
poster hears of one. Such a request has a serial number in `W_ORIGIN`; its completion carries it where those
of posters have zero: positive for what nobody has posted, negative for a part of what somebody has. `collect`
takes these completions out of the table before anybody else sees them and gives each to who waits for it.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import TypeAlias

import numpy as np

from . import _fast_columns as col
from .core import Core

#: Takes a completion (a row of `done`, its own) and returns what a poster is to see of it, if anything.
Waiter: TypeAlias = Callable[[np.ndarray], "np.ndarray | None"]


class Internal:
    """Who waits for what."""

    def __init__(self, core: Core) -> None:
        self._core = core
        self._waiters: dict[int, Waiter] = {}
        self._count = 0

    def expect(self, waiter: Waiter, *, posted: bool) -> int:
        """A serial number for a request whose completion goes to `waiter`; the next is one further from 0.

        `posted`: it is a part of what a poster has posted.
        """
        self._count += 1
        serial = -self._count if posted else self._count
        self._waiters[serial] = waiter
        return serial

    def collect(self) -> None:
        """Give internal completions to their waiters, which may post and complete others."""
        core = self._core
        while self._waiters:
            done, count = core.state.done, core.node[col.N_DONE]
            mine = np.flatnonzero(done[:count, col.DONE_ORIGIN])
            if not len(mine):
                return
            rows = done[mine]
            done[: count - len(mine)] = np.delete(done[:count], mine, axis=0)
            core.node[col.N_DONE] = count - len(mine)
            for row in rows:
                serial = int(row[col.DONE_ORIGIN])
                row[col.DONE_ORIGIN] = 0
                shown = self._waiters.pop(serial)(row)
                if shown is not None:
                    core.room_for_work(1)
                    core.state.done[core.node[col.N_DONE]] = shown
                    core.node[col.N_DONE] += 1
