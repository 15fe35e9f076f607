"""Descriptors of many pages at once, as `ptep_get` and `set_ptes` are to Linux.

Works on the tables that `PageTable` builds: 4 KiB granule, 48 bits, stage 1. A page inside a block is read as
if it had a descriptor of its own. Writing to it splits the block, unless the change is one of the access flag
alone, which a block has once, or all of a 2 MiB block stays what it was but for its attributes.

Invalidating TLBs is the caller's, of the pages that had a descriptor: by coverage that takes the entry of a
block along of which they were a part.
"""

from __future__ import annotations

from collections.abc import Iterator
from itertools import pairwise
from typing import Final

import numpy as np
import numpy.typing as npt

from unimem_node.kernel.frames import BLOCK, PAGE
from unimem_node.mmu.descriptors import AF, AP_READ_ONLY, TABLE, VALID, Rights
from unimem_node.mmu.table_memory import TableMemory
from unimem_node.mmu.tables import PageTable

Words = npt.NDArray[np.uint64]
Addresses = npt.NDArray[np.int64]

ADDRESS: Final = np.uint64(0xFFFF_FFFF_F000)
YOUNG: Final = np.uint64(AF)
READ_ONLY: Final = np.uint64(AP_READ_ONLY)
PRESENT: Final = np.uint64(VALID)
#: Everything but the address of a page that may be read and written, or only read.
WRITABLE_PAGE: Final = np.uint64(Rights(write=True).bits() | VALID | TABLE)
READABLE_PAGE: Final = np.uint64(Rights(write=False).bits() | VALID | TABLE)

_TABLE: Final = np.uint64(TABLE)
_BLOCK_SHIFT: Final = 21
_NUMBERS: Final = np.arange(BLOCK // PAGE, dtype=np.uint64) * np.uint64(PAGE)
_NONE: Final = np.uint64(0)


class Entries:
    """The descriptors of one process."""

    def __init__(self, table: PageTable, memory: TableMemory) -> None:
        self._table = table
        self._memory = memory

    def read(self, vas: Addresses) -> Words:
        """Return the page descriptors of ascending addresses; 0 where there is none."""
        found = np.zeros(len(vas), np.uint64)
        for low, high in _groups(vas):
            table, block = self._walk(int(vas[low]))
            if table:
                entries = np.frombuffer(self._memory.read(table, PAGE), np.uint64)
                found[low:high] = entries[vas[low:high] >> 12 & 511]
            elif block:
                found[low:high] = (np.uint64(block) + _NUMBERS)[vas[low:high] >> 12 & 511] | _TABLE
        found[found & PRESENT == 0] = 0
        return found

    def write(self, vas: Addresses, descriptors: Words) -> None:
        """Store page descriptors (0: none) at ascending addresses.

        Raises `MemoryError` when there is no page for a table; groups of 2 MiB before it are written then.
        """
        for low, high in _groups(vas):
            at, new = int(vas[low]), descriptors[low:high]
            table, block = self._walk(at)
            if block:
                if high - low == BLOCK // PAGE and not new.any():
                    self._table.unmap(at, BLOCK)
                    continue
                if self._write_block(at, block, vas[low:high], new):
                    continue
                self._table.protect(at, PAGE)  # changes nothing, and makes the page an entry of its own
                table, _ = self._walk(at)
            if not table:
                some = np.flatnonzero(new)
                if not len(some):
                    continue
                first = int(some[0])
                self._table.map_pages(int(vas[low + first]), new[first : first + 1] & ADDRESS)
                table, _ = self._walk(at)
            start, end = at >> 12 & 511, int(vas[high - 1]) >> 12 & 511
            entries = np.frombuffer(self._memory.read(table + 8 * start, 8 * (end + 1 - start)), np.uint64)
            entries = entries.copy()
            entries[(vas[low:high] >> 12 & 511) - start] = new
            self._memory.write(table + 8 * start, entries)

    def block(self, va: int) -> int:
        """Return the address of the 2 MiB block that maps `va`, or 0 when there is none of just that size."""
        mapping = self._table.lookup(va)
        return mapping.pa if mapping is not None and mapping.size == BLOCK else 0

    def _write_block(self, at: int, block: int, vas: Addresses, new: Words) -> bool:
        """Write to a block as a whole, if that says the same."""
        before = np.uint64(block) + (vas >> 12 & 511).astype(np.uint64) * np.uint64(PAGE) | _TABLE
        changed = before ^ new
        flags = changed[0]
        if (changed != flags).any() or flags & ~(YOUNG | READ_ONLY):
            return False
        if flags & READ_ONLY and len(vas) < BLOCK // PAGE:
            return False
        if flags:
            young, read_only = bool(new[0] & YOUNG), bool(new[0] & READ_ONLY)
            self._table.protect(at & -BLOCK, BLOCK, access_flag=young, write=not read_only)
        return True

    def _walk(self, va: int) -> tuple[int, int]:
        """(address of the level-3 table, 0), (0, descriptor of the block, of 2 MiB of it), or (0, 0)."""
        table = self._table.root
        for shift in (39, 30, 21):
            descriptor = self._memory.read64(table + 8 * (va >> shift & 511))
            if not descriptor & VALID:
                return 0, 0
            if not descriptor & TABLE:
                return 0, descriptor + (va & (1 << shift) - 1 & -BLOCK)
            table = descriptor & int(ADDRESS)
        return table, 0


def pages(va: int, count: int) -> Addresses:
    """Return the addresses of `count` pages from `va` on."""
    return np.arange(va, va + count * PAGE, PAGE, dtype=np.int64)


def runs(vas: Addresses) -> Iterator[tuple[int, int]]:
    """Yield (address, bytes) of pages that lie side by side in an ascending list."""
    if not len(vas):
        return
    edges = np.flatnonzero(np.diff(vas) != PAGE) + 1
    for part in np.split(vas, edges):
        yield int(part[0]), len(part) * PAGE


def _groups(vas: Addresses) -> Iterator[tuple[int, int]]:
    """Yield (first, end) of the addresses that share a table."""
    if not len(vas):
        return
    if vas[0] >> _BLOCK_SHIFT == vas[-1] >> _BLOCK_SHIFT:
        yield 0, len(vas)
        return
    edges = np.flatnonzero(np.diff(vas >> _BLOCK_SHIFT)) + 1
    bounds = [0, *edges.tolist(), len(vas)]
    yield from pairwise(bounds)
