"""The same moves as `_fast`, readable: one translation at a time and NumPy slices.

Same results, same translations in the same order, so memory, counters and times must agree; a test runs
both. Engines use it when they are built with ``fast=False``.
"""

from __future__ import annotations

from typing import NamedTuple

import numpy as np

from unimem_node.dma._fast import (
    ACCESS_READ,
    NO_MEMORY,
    OUTSIDE,
    SIDE_DESTINATION,
    SIDE_NONE,
    SIDE_SOURCE,
)
from unimem_node.mmu.regime import A_LEVEL_SHIFT, ACCESS_WRITE
from unimem_node.smmu._fast import translate
from unimem_node.smmu.arrays import Arrays


class Moved(NamedTuple):
    """How far a move came: bytes done, and where and why it stopped (code 0: it did not)."""

    done: int
    side: int
    code: int
    level: int
    cost_ps: int


class _Run:
    """One side of a move: the translated bytes that are left before the next translation is due."""

    def __init__(self, arrays: Arrays, side: int, lane: int, cb: int) -> None:
        self.arrays, self.side, self.lane, self.cb = arrays, side, lane, cb
        self.access = ACCESS_READ if side == SIDE_SOURCE else ACCESS_WRITE
        self.offset = self.left = self.code = self.level = self.cost_ps = 0

    def renew(self, va: int, n: int) -> bool:
        """Translate at `va` if nothing is left; False when the access is refused."""
        if self.left:
            return True
        pa, span = va, n
        if self.cb != OUTSIDE:
            self.code, info, pa, span, cost_ps = map(
                int, translate(self.arrays, self.lane, self.cb, va, self.access)
            )
            self.cost_ps += cost_ps
            self.level = info if self.code else (info >> A_LEVEL_SHIFT) & 3
            if self.code:
                return False
        for base, size, offset in self.arrays.geometry.tolist():
            if base <= pa < base + size:
                self.offset, self.left = offset + pa - base, min(n, span, base + size - pa)
                return True
        self.code = NO_MEMORY
        return False

    def take(self, n: int) -> slice:
        """The next `n` bytes of DRAM."""
        start = self.offset
        self.offset += n
        self.left -= n
        return slice(start, start + n)


def copy_translated(
    arrays: Arrays, src_lane: int, src_cb: int, src_va: int, dst_lane: int, dst_cb: int, dst_va: int, n: int
) -> Moved:
    """See `_fast.copy_translated`."""
    source = _Run(arrays, SIDE_SOURCE, src_lane, src_cb)
    destination = _Run(arrays, SIDE_DESTINATION, dst_lane, dst_cb)
    done = 0
    while done < n:
        for side, va in ((source, src_va), (destination, dst_va)):
            if not side.renew(va + done, n - done):
                return Moved(done, side.side, side.code, side.level, source.cost_ps + destination.cost_ps)
        run = min(source.left, destination.left)
        _move(arrays.mem8, destination.take(run), source.take(run))
        done += run
    return Moved(done, SIDE_NONE, 0, 0, source.cost_ps + destination.cost_ps)


def _move(mem8: np.ndarray, to: slice, of: slice) -> None:
    """Copy a run; ascending byte by byte where the two overlap."""
    if to.start < of.stop and of.start < to.stop:
        for i in range(of.stop - of.start):
            mem8[to.start + i] = mem8[of.start + i]
    else:
        mem8[to] = mem8[of]


def copy_beats(
    arrays: Arrays,
    lane: int,
    cb: int,
    src_va: int,
    src_step: int,
    dst_va: int,
    dst_step: int,
    n: int,
    width: int,
) -> Moved:
    """See `_fast.copy_beats`."""
    done = cost_ps = 0
    while done < n:
        source, destination = src_va + done * src_step, dst_va + done * dst_step
        beat = copy_translated(arrays, lane, cb, source, lane, cb, destination, min(width, n - done))
        done += beat.done
        cost_ps += beat.cost_ps
        if beat.code:
            return beat._replace(done=done, cost_ps=cost_ps)
    return Moved(done, SIDE_NONE, 0, 0, cost_ps)


def fill_translated(
    arrays: Arrays, lane: int, cb: int, va: int, n: int, pattern: np.ndarray, phase: int
) -> Moved:
    """See `_fast.fill_translated`."""
    destination = _Run(arrays, SIDE_DESTINATION, lane, cb)
    done = 0
    while done < n:
        if not destination.renew(va + done, n - done):
            return Moved(done, SIDE_DESTINATION, destination.code, destination.level, destination.cost_ps)
        run = destination.left
        arrays.mem8[destination.take(run)] = np.resize(np.roll(pattern, -(phase + done)), run)
        done += run
    return Moved(done, SIDE_NONE, 0, 0, destination.cost_ps)


def read_translated(arrays: Arrays, lane: int, cb: int, va: int, n: int) -> Moved:
    """See `_fast.read_translated`."""
    source = _Run(arrays, SIDE_SOURCE, lane, cb)
    done = 0
    while done < n:
        if not source.renew(va + done, n - done):
            return Moved(done, SIDE_SOURCE, source.code, source.level, source.cost_ps)
        run = source.left
        source.take(run)
        done += run
    return Moved(done, SIDE_NONE, 0, 0, source.cost_ps)
