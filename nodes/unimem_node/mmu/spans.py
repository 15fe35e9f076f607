"""Ranges of addresses cut at the borders of table entries, and where their frames lie (4 KiB granule)."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Final, Protocol

import numpy as np
import numpy.typing as npt

from unimem_node.mmu.descriptors import level_shift

PAGE: Final = 4096
ENTRIES: Final = 512

#: Bits 47:12 of a descriptor.
ADDRESS_MASK: Final = np.uint64(0xFFFF_FFFF_F000)

Entries = npt.NDArray[np.uint64]


class Frames(Protocol):
    """Where the addresses of a range lie in memory."""

    def fits(self, va: int, level: int) -> bool:
        """Tell whether a leaf of `level` can map its whole span from `va`."""
        ...

    def at(self, va: int, count: int, level: int) -> Entries:
        """Return the frames of `count` leaves of `level` from `va`."""
        ...


@dataclass(frozen=True, slots=True)
class Linear:
    """One run of memory."""

    va: int
    pa: int
    blocks: bool

    def fits(self, va: int, level: int) -> bool:
        """Allow blocks where the memory is aligned too."""
        return level == 3 or (
            self.blocks and level > 0 and not (self.pa + va - self.va) % (1 << level_shift(level))
        )

    def at(self, va: int, count: int, level: int) -> Entries:
        """Count on from the frame of `va`."""
        first = np.uint64(self.pa + va - self.va)
        return first + (np.arange(count, dtype=np.uint64) << np.uint64(level_shift(level)))


@dataclass(frozen=True, slots=True)
class Scattered:
    """A page of memory for each page."""

    va: int
    pas: Entries

    def fits(self, va: int, level: int) -> bool:
        """Allow pages only."""
        return level == 3

    def at(self, va: int, count: int, level: int) -> Entries:
        """Return the frames given for these pages."""
        first = (va - self.va) // PAGE
        return self.pas[first : first + count]


def indices(level: int, va: int, end: int) -> tuple[int, int]:
    """(first index, number) of a table's entries that ``[va, end)`` touches; it lies within that table."""
    shift = level_shift(level)
    return va >> shift & ENTRIES - 1, (end - 1 >> shift) - (va >> shift) + 1


def spans(va: int, end: int, shift: int, entries: Entries) -> Iterator[tuple[int, int, int]]:
    """Cut a range at the borders of entries: (first address, end, descriptor) of each part."""
    for descriptor in entries.tolist():
        span_end = min(end, ((va >> shift) + 1) << shift)
        yield va, span_end, descriptor
        va = span_end


def whole(va: int, end: int, shift: int) -> bool:
    """Tell whether a part is an entry's whole span."""
    return end - va == 1 << shift


def next_table(descriptor: int) -> int:
    """Address of the table a table descriptor points to."""
    return descriptor & int(ADDRESS_MASK)


def tables_below(level: int, va: int, end: int, frames: Frames) -> int:
    """Count the tables that map the span of one empty entry at `level`."""
    if level == 3 or (whole(va, end, level_shift(level)) and frames.fits(va, level)):
        return 0
    if level == 2:
        return 1
    below = level_shift(level + 1)
    count, cursor = 1, va
    while cursor < end:
        span_end = min(end, ((cursor >> below) + 1) << below)
        count += tables_below(level + 1, cursor, span_end, frames)
        cursor = span_end
    return count
