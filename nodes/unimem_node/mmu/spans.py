"""Ranges of input addresses cut at the borders of table entries, and where their frames lie.

Addresses here count from the beginning of the table's half (`Geometry.first`).
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Final, Protocol

import numpy as np
import numpy.typing as npt

from unimem_node.mmu.geometry import Geometry

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

    def grouped(self, va: int, end: int, level: int) -> tuple[int, int]:
        """Return the part of ``[va, end)`` of which leaves of `level` get the contiguous hint."""
        ...


@dataclass(frozen=True, slots=True)
class Linear:
    """One run of memory."""

    geometry: Geometry
    va: int
    pa: int
    blocks: bool
    contiguous: bool

    def fits(self, va: int, level: int) -> bool:
        """Allow blocks where the memory is aligned too."""
        return level == 3 or (
            self.blocks
            and self.geometry.has_blocks(level)
            and not (self.pa + va - self.va) % (1 << self.geometry.shifts[level])
        )

    def at(self, va: int, count: int, level: int) -> Entries:
        """Count on from the frame of `va`."""
        first = np.uint64(self.pa + va - self.va)
        return first + (np.arange(count, dtype=np.uint64) << np.uint64(self.geometry.shifts[level]))

    def grouped(self, va: int, end: int, level: int) -> tuple[int, int]:
        """Take the whole groups in it, if the memory is aligned to groups too."""
        if not self.contiguous or not (level == 3 or self.geometry.has_blocks(level)):
            return va, va
        size = self.geometry.group(level) << self.geometry.shifts[level]
        if (self.pa - self.va) % size or size == 1 << self.geometry.shifts[level]:
            return va, va
        return -(-va // size) * size, end // size * size


@dataclass(frozen=True, slots=True)
class Scattered:
    """A page of memory for each page."""

    geometry: Geometry
    va: int
    pas: Entries

    def fits(self, va: int, level: int) -> bool:
        """Allow pages only."""
        return level == 3

    def at(self, va: int, count: int, level: int) -> Entries:
        """Return the frames given for these pages."""
        first = (va - self.va) >> self.geometry.granule_shift
        return self.pas[first : first + count]

    def grouped(self, va: int, end: int, level: int) -> tuple[int, int]:
        """Give no hints."""
        return va, va


def indices(geometry: Geometry, level: int, va: int, end: int) -> tuple[int, int]:
    """(first index, number) of a table's entries that ``[va, end)`` touches; it lies within that table."""
    shift = geometry.shifts[level]
    return va >> shift & geometry.entries_at(level) - 1, (end - 1 >> shift) - (va >> shift) + 1


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


def tables_below(geometry: Geometry, level: int, va: int, end: int, frames: Frames) -> int:
    """Count the tables that map the span of one empty entry at `level`."""
    if level == 3 or (whole(va, end, geometry.shifts[level]) and frames.fits(va, level)):
        return 0
    if level == 2:
        return 1
    below = geometry.shifts[level + 1]
    count, cursor = 1, va
    while cursor < end:
        span_end = min(end, ((cursor >> below) + 1) << below)
        count += tables_below(geometry, level + 1, cursor, span_end, frames)
        cursor = span_end
    return count
