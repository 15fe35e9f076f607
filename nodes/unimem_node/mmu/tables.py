"""Building page tables: VMSAv8-64 stage 1, 4 KiB granule, 48 bits of input, four levels.

The tables are bytes in DRAM and nothing else: every operation reads what is there and writes descriptors
through the bus, a table at a time. What is asked is checked first, and pages for new tables are taken
before the first store, so an operation that raises has changed no translation.

Invalidating TLBs is the caller's: after `unmap` and `protect`, before the frames are used again. A block of
which a part changes is split into a table of the next size; its entry is made invalid before the table is
linked (break before make), and a caller whose SMMU runs meanwhile invalidates the block's range after.
Tables left empty are freed at once: `free_page` must not hand them out before the TLBs were invalidated.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Final

import numpy as np
import numpy.typing as npt

from unimem.addresses import fmt
from unimem_node.mmu import descriptors
from unimem_node.mmu.descriptors import TABLE, VALID, Kind, Rights, level_shift
from unimem_node.mmu.spans import (
    ADDRESS_MASK,
    ENTRIES,
    PAGE,
    Entries,
    Frames,
    Linear,
    Scattered,
    indices,
    next_table,
    spans,
    tables_below,
    whole,
)
from unimem_node.mmu.table_memory import TableMemory

TOP: Final = 1 << 48

_VALID: Final = np.uint64(VALID)
_TABLE: Final = np.uint64(TABLE)
_TYPE: Final = np.uint64(VALID | TABLE)


@dataclass(frozen=True, slots=True)
class Mapping:
    """A leaf: the page or block of `size` bytes at `va`, mapped to `pa`."""

    va: int
    pa: int
    size: int
    level: int
    rights: Rights

    def translate(self, va: int) -> int:
        """Return where an address inside this mapping goes."""
        return self.pa + va - self.va


@dataclass(frozen=True, slots=True)
class _Job:
    """What `map` fills in: frames, the other bits of every leaf, and pages for new tables."""

    frames: Frames
    bits: np.uint64
    spare: list[int]


class PageTable:
    """The tables of one process (or one of the SMMU's own domains)."""

    def __init__(
        self, bus: TableMemory, allocate_page: Callable[[], int], free_page: Callable[[int], None]
    ) -> None:
        """Make an empty table. `allocate_page` returns the address of 4 KiB (`MemoryError` if none)."""
        self._bus = bus
        self._allocate = allocate_page
        self._free = free_page
        self.root: int = allocate_page()
        bus.zero(self.root, PAGE)

    def map(
        self,
        va: int,
        pa: int,
        length: int,
        *,
        read: bool = True,
        write: bool = True,
        execute: bool = False,
        user: bool = True,
        access_flag: bool = True,
        global_: bool = False,
        attr_index: int = 1,
        blocks: bool = True,
    ) -> None:
        """Map ``[va, va + length)`` to ``[pa, pa + length)``, with 1 GiB and 2 MiB blocks where both align.

        Raises `ValueError` when an address or the length is no multiple of 4096, is out of range, or when a
        page is mapped already; `MemoryError` when there is no page for a table. Nothing is changed then.
        """
        rights = Rights(read, write, execute, user, access_flag, global_, attr_index)
        self._check(va, length)
        if pa % PAGE or pa < 0 or pa + length > TOP:
            raise ValueError(f"cannot map to {fmt(pa)}: not a multiple of 4096, or beyond 48 bits")
        self._map(va, va + length, Linear(va, pa, blocks), rights)

    def map_pages(
        self,
        va: int,
        pas: npt.NDArray[np.integer],
        *,
        read: bool = True,
        write: bool = True,
        execute: bool = False,
        user: bool = True,
        access_flag: bool = True,
        global_: bool = False,
        attr_index: int = 1,
    ) -> None:
        """Map the pages from `va` on to the frames `pas`, one 4 KiB page each; errors as `map`."""
        rights = Rights(read, write, execute, user, access_flag, global_, attr_index)
        frames = np.ascontiguousarray(pas).astype(np.uint64)
        self._check(va, len(frames) * PAGE)
        wrong = np.flatnonzero(frames & ~ADDRESS_MASK)
        if len(wrong):
            raise ValueError(
                f"cannot map to {fmt(frames[wrong[0]])}: not a multiple of 4096, or beyond 48 bits"
            )
        self._map(va, va + len(frames) * PAGE, Scattered(va, frames), rights)

    def unmap(self, va: int, length: int) -> None:
        """Unmap the range; raises `ValueError`, changing nothing, when some page of it is not mapped."""
        self._check(va, length)
        self._check_mapped(va, va + length, "unmap")
        self._split_at(va)
        self._split_at(va + length)
        self._clear(self.root, 0, va, va + length)

    def protect(
        self,
        va: int,
        length: int,
        *,
        read: bool | None = None,
        write: bool | None = None,
        execute: bool | None = None,
        user: bool | None = None,
        access_flag: bool | None = None,
        global_: bool | None = None,
        attr_index: int | None = None,
    ) -> None:
        """Change what a mapped range allows; None leaves a property as it is. Errors as `unmap`."""
        if write and read is False:
            raise ValueError("write without read: stage 1 has no write-only pages")
        mask = bits = 0
        for flag, value, inverted in (
            (descriptors.AP_USER, user if read is None else read and user is not False, False),
            (descriptors.AP_READ_ONLY, write, True),
            (descriptors.PXN | descriptors.UXN, execute, True),
            (descriptors.AF, access_flag, False),
            (descriptors.NOT_GLOBAL, global_, True),
        ):
            if value is not None:
                mask |= flag
                bits |= flag if value != inverted else 0
        if attr_index is not None:
            if not 0 <= attr_index <= 7:
                raise ValueError(f"attr_index {attr_index}: MAIR has entries 0 to 7")
            mask |= 7 << descriptors.ATTR_SHIFT
            bits |= attr_index << descriptors.ATTR_SHIFT
        self._check(va, length)
        self._check_mapped(va, va + length, "protect")
        self._split_at(va)
        self._split_at(va + length)
        self._rewrite(self.root, 0, va, va + length, (np.uint64(mask), np.uint64(bits)))

    def lookup(self, va: int) -> Mapping | None:
        """Return the page or block that holds `va`, or None when it is not mapped."""
        if not 0 <= va < TOP:
            return None
        _, level, descriptor = self._entry(va)
        if not descriptor & VALID:
            return None
        size = 1 << level_shift(level)
        return Mapping(
            va & -size,
            descriptors.address_of(descriptor, level),
            size,
            level,
            descriptors.rights_of(descriptor),
        )

    def destroy(self) -> None:
        """Free every table, the root too; the object is of no use afterwards."""
        self._drop(self.root, 0)

    # --- checks ---------------------------------------------------------------------------------------

    @staticmethod
    def _check(va: int, length: int) -> None:
        if va % PAGE or length % PAGE:
            raise ValueError(f"range {fmt(va)} of {fmt(length)} bytes: not multiples of 4096")
        if length <= 0:
            raise ValueError(f"range at {fmt(va)} has no bytes (length {length})")
        if va < 0 or va + length > TOP:
            raise ValueError(
                f"range {fmt(va)} of {fmt(length)} bytes does not lie in {fmt(0)} to {fmt(TOP - 1)}"
            )

    def _check_mapped(self, va: int, end: int, verb: str) -> None:
        hole = self._first_hole(self.root, 0, va, end)
        if hole is not None:
            raise ValueError(f"cannot {verb} {fmt(va)} of {fmt(end - va)} bytes: {fmt(hole)} is not mapped")

    def _first_hole(self, table: int, level: int, va: int, end: int) -> int | None:
        """Return the first address of the range that is not mapped."""
        _, entries = self._part(table, level, va, end)
        shift = level_shift(level)
        if level == 3:
            holes = np.flatnonzero(entries & _TYPE != _TYPE)
            return va + (int(holes[0]) << shift) if len(holes) else None
        for cursor, span_end, descriptor in spans(va, end, shift, entries):
            if not descriptor & VALID:
                return cursor
            if descriptor & TABLE:
                hole = self._first_hole(next_table(descriptor), level + 1, cursor, span_end)
                if hole is not None:
                    return hole
        return None

    def _missing_tables(self, table: int, level: int, va: int, end: int, frames: Frames) -> int:
        """Count the tables a mapping needs that are not there; `ValueError` where one is in its way."""
        _, entries = self._part(table, level, va, end)
        shift = level_shift(level)
        if level == 3:
            taken = np.flatnonzero(entries & _VALID)
            if len(taken):
                raise ValueError(f"{fmt(va + (int(taken[0]) << shift))} is mapped already")
            return 0
        missing = 0
        for cursor, span_end, descriptor in spans(va, end, shift, entries):
            if not descriptor & VALID:
                missing += tables_below(level, cursor, span_end, frames)
            elif descriptor & TABLE:
                missing += self._missing_tables(next_table(descriptor), level + 1, cursor, span_end, frames)
            else:
                raise ValueError(
                    f"{fmt(cursor)} is mapped already, by the block at {fmt(cursor & -(1 << shift))}"
                )
        return missing

    # --- changes --------------------------------------------------------------------------------------

    def _map(self, va: int, end: int, frames: Frames, rights: Rights) -> None:
        spare: list[int] = []
        try:
            for _ in range(self._missing_tables(self.root, 0, va, end, frames)):
                spare.append(self._allocate())
        except MemoryError:
            for page in spare:
                self._free(page)
            raise
        spare.reverse()
        self._fill(self.root, 0, va, end, _Job(frames, np.uint64(rights.bits() | VALID), spare))

    def _fill(self, table: int, level: int, va: int, end: int, job: _Job) -> None:
        """Write the leaves of the range; tables below are complete before they are linked."""
        shift = level_shift(level)
        first, entries = self._part(table, level, va, end)
        if level == 3:
            entries[:] = job.frames.at(va, len(entries), 3) | job.bits | _TABLE
        else:
            for i, (cursor, span_end, descriptor) in enumerate(spans(va, end, shift, entries)):
                if whole(cursor, span_end, shift) and job.frames.fits(cursor, level):
                    entries[i] = job.frames.at(cursor, 1, level)[0] | job.bits
                    continue
                child = next_table(descriptor) if descriptor & VALID else job.spare.pop()
                if not descriptor & VALID:
                    self._bus.zero(child, PAGE)
                    entries[i] = np.uint64(child) | _TYPE
                self._fill(child, level + 1, cursor, span_end, job)
        self._store(table, first, entries)

    def _clear(self, table: int, level: int, va: int, end: int) -> bool:
        """Remove the leaves of the range, and tables left empty; returns whether this one is empty now."""
        shift = level_shift(level)
        entries = self._load(table)
        first, count = indices(level, va, end)
        dropped: list[tuple[int, int]] = []  # (table, level), freed after nothing points at them
        if level == 3:
            entries[first : first + count] = 0
        else:
            part = entries[first : first + count]
            for i, (cursor, span_end, descriptor) in enumerate(spans(va, end, shift, part)):
                if not descriptor & TABLE:
                    part[i] = 0
                elif whole(cursor, span_end, shift):
                    part[i] = 0
                    dropped.append((next_table(descriptor), level + 1))
                elif self._clear(next_table(descriptor), level + 1, cursor, span_end):
                    part[i] = 0
                    dropped.append((next_table(descriptor), 3))  # empty: nothing below it
        self._store(table, first, entries[first : first + count])
        for child, child_level in dropped:
            self._drop(child, child_level)
        return not entries.any()

    def _rewrite(
        self, table: int, level: int, va: int, end: int, change: tuple[np.uint64, np.uint64]
    ) -> None:
        """Replace the masked bits of every leaf of the range, which begins and ends at borders of leaves."""
        mask, bits = change
        first, entries = self._part(table, level, va, end)
        if level == 3:
            entries[:] = (entries & ~mask) | bits
        else:
            for i, (cursor, span_end, descriptor) in enumerate(spans(va, end, level_shift(level), entries)):
                if descriptor & TABLE:
                    self._rewrite(next_table(descriptor), level + 1, cursor, span_end, change)
                else:
                    entries[i] = (entries[i] & ~mask) | bits
        self._store(table, first, entries)

    def _split_at(self, va: int) -> None:
        """Make `va` a border between leaves; what is mapped stays mapped, with the same rights."""
        while va < TOP:
            address, level, descriptor = self._entry(va)
            shift = level_shift(level)
            if not descriptor & VALID or not va & ((1 << shift) - 1):
                return
            below = level_shift(level + 1)
            base = np.uint64(descriptors.address_of(descriptor, level))
            kept = np.uint64(descriptor & ~int(ADDRESS_MASK) | (TABLE if level + 1 == 3 else 0))
            child = self._allocate()
            self._store(child, 0, (base + (np.arange(ENTRIES, dtype=np.uint64) << np.uint64(below))) | kept)
            self._bus.write64(address, 0)  # break ...
            self._bus.write64(address, child | VALID | TABLE)  # ... before make

    def _drop(self, table: int, level: int) -> None:
        """Free a table and every table below it."""
        if level < 3:
            entries = self._load(table)
            for descriptor in entries[entries & _TYPE == _TYPE].tolist():
                self._drop(next_table(descriptor), level + 1)
        self._free(table)

    # --- tables in memory -----------------------------------------------------------------------------

    def _entry(self, va: int) -> tuple[int, int, int]:
        """Return (address, level, value) of the descriptor at which a walk for `va` ends."""
        table = self.root
        for level in range(4):
            address = table + 8 * (va >> level_shift(level) & ENTRIES - 1)
            descriptor = self._bus.read64(address)
            if descriptors.kind_of(descriptor, level) is not Kind.TABLE:
                break
            table = next_table(descriptor)
        return address, level, descriptor

    def _load(self, table: int) -> Entries:
        return np.frombuffer(self._bus.read(table, PAGE), np.uint64).copy()

    def _part(self, table: int, level: int, va: int, end: int) -> tuple[int, Entries]:
        """Return the first index of the entries that a range touches, and a copy of them."""
        first, count = indices(level, va, end)
        return first, np.frombuffer(self._bus.read(table + 8 * first, 8 * count), np.uint64).copy()

    def _store(self, table: int, first: int, entries: Entries) -> None:
        self._bus.write(table + 8 * first, entries)
