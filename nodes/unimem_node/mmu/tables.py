"""Building page tables: VMSAv8-64, stage 1 or 2, any granule and input size (`Geometry`).

The tables are bytes in DRAM and nothing else: every operation reads what is there and writes descriptors
through the bus, a table at a time. What is asked is checked first, and pages for new tables are taken
before the first store, so an operation that raises has changed no translation.

Invalidating TLBs is the caller's: after `unmap` and `protect`, before the frames are used again. A block of
which a part changes is split into a table of the next size, and a contiguous group of which a part changes
loses its hint; the entries are made invalid before they are written anew (break before make), and a caller
whose SMMU runs meanwhile invalidates the block's or group's range after. Tables left empty are freed at once:
`free_page` must not hand them out before the TLBs were invalidated.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Final, Unpack

import numpy as np
import numpy.typing as npt

from unimem.addresses import fmt
from unimem_node.mmu import descriptors
from unimem_node.mmu.descriptors import (
    CONTIGUOUS,
    TABLE,
    VALID,
    GivenRights,
    Kind,
    NewRights,
    Rights,
    Stage2Rights,
)
from unimem_node.mmu.geometry import Geometry
from unimem_node.mmu.spans import (
    ADDRESS_MASK,
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

#: The largest output address is below this.
TOP: Final = 1 << 48

_VALID: Final = np.uint64(VALID)
_TABLE: Final = np.uint64(TABLE)
_TYPE: Final = np.uint64(VALID | TABLE)
_CONTIGUOUS: Final = np.uint64(CONTIGUOUS)


@dataclass(frozen=True, slots=True)
class Mapping:
    """A leaf: the page or block of `size` bytes at `va`, mapped to `pa`."""

    va: int
    pa: int
    size: int
    level: int
    rights: Rights | Stage2Rights
    contiguous: bool = False

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
    """The tables of one process (or one of the SMMU's own domains, or a guest's stage 2)."""

    def __init__(
        self,
        bus: TableMemory,
        allocate_page: Callable[[], int],
        free_page: Callable[[int], None],
        *,
        geometry: Geometry | None = None,
        allocate_root: Callable[[int], int] | None = None,
    ) -> None:
        """Make an empty table. `allocate_page` returns the address of a granule (`MemoryError` if none).

        `allocate_root` returns that of so many bytes, aligned to their number, where concatenated start
        tables need more than a granule; `free_page` takes their granules back one by one.
        """
        self._bus = bus
        self._allocate = allocate_page
        self._free = free_page
        self.geometry = geometry = geometry or Geometry()
        self._start, self._shifts = geometry.start_level, geometry.shifts
        if geometry.root_bytes <= geometry.page:
            self.root: int = allocate_page()
        elif allocate_root is None:
            raise ValueError(f"a root of {geometry.root_bytes} bytes needs allocate_root")
        else:
            self.root = allocate_root(geometry.root_bytes)
        bus.zero(self.root, max(geometry.root_bytes, geometry.page))

    def map(
        self,
        va: int,
        pa: int,
        length: int,
        *,
        blocks: bool = True,
        contiguous: bool = False,
        **rights: Unpack[GivenRights],
    ) -> None:
        """Map ``[va, va + length)`` to ``[pa, pa + length)``, with blocks of every size where both align.

        `rights` are the fields of `Rights`, of `Stage2Rights` in stage 2. `contiguous`: give the hint to
        whole groups that are aligned in both. Raises `ValueError` when an address or the length is no
        multiple of the granule, is out of range, or when a page is mapped already; `MemoryError` when there
        is no page for a table. Nothing is changed then.
        """
        allowed = self._rights(rights)
        at = self._check(va, length)
        page = self.geometry.page
        if pa % page or pa < 0 or pa + length > TOP:
            raise ValueError(f"cannot map to {fmt(pa)}: not a multiple of {page}, or beyond 48 bits")
        self._map(at, at + length, Linear(self.geometry, at, pa, blocks, contiguous), allowed)

    def map_pages(self, va: int, pas: npt.NDArray[np.integer], **rights: Unpack[GivenRights]) -> None:
        """Map the pages from `va` on to the frames `pas`, one granule each; `rights` and errors as `map`."""
        allowed = self._rights(rights)
        frames = np.ascontiguousarray(pas).astype(np.uint64)
        page = self.geometry.page
        at = self._check(va, len(frames) * page)
        wrong = np.flatnonzero(frames & ~np.uint64(TOP - page))
        if len(wrong):
            raise ValueError(
                f"cannot map to {fmt(frames[wrong[0]])}: not a multiple of {page}, or beyond 48 bits"
            )
        self._map(at, at + len(frames) * page, Scattered(self.geometry, at, frames), allowed)

    def unmap(self, va: int, length: int, *, holes: bool = False) -> None:
        """Unmap the range; `ValueError`, and nothing changed, when a page is not mapped (unless `holes`)."""
        at = self._check(va, length)
        if not holes:
            self._check_mapped(at, at + length, "unmap")
        self._split_at(at)
        self._split_at(at + length)
        self._clear(self.root, self._start, at, at + length)

    def protect(self, va: int, length: int, **rights: Unpack[NewRights]) -> None:
        """Change what a mapped range allows: the rights named, except None, are set. Errors as `unmap`."""
        change: Callable[..., tuple[int, int]] = (
            descriptors.stage_1_change if self.geometry.stage == 1 else descriptors.stage_2_change
        )
        mask, bits = change(**rights)
        at = self._check(va, length)
        self._check_mapped(at, at + length, "protect")
        self._split_at(at)
        self._split_at(at + length)
        self._rewrite(self.root, self._start, at, at + length, (np.uint64(mask), np.uint64(bits)))

    def lookup(self, va: int) -> Mapping | None:
        """Return the page or block that holds `va`, or None when it is not mapped."""
        at = va - self.geometry.first
        if not 0 <= at < self.geometry.size:
            return None
        _, level, descriptor = self._entry(at)
        if not descriptor & VALID:
            return None
        size = 1 << self._shifts[level]
        stage_1 = self.geometry.stage == 1
        return Mapping(
            va & -size,
            descriptors.address_of(descriptor, level, self.geometry.granule_shift),
            size,
            level,
            descriptors.rights_of(descriptor) if stage_1 else descriptors.stage_2_rights_of(descriptor),
            bool(descriptor & CONTIGUOUS),
        )

    def destroy(self) -> None:
        """Free every table, the root too; the object is of no use afterwards."""
        for table, level in self._tables_of(self.root, self._start):
            self._drop(table, level)
        for at in range(0, self.geometry.root_bytes, self.geometry.page):
            self._free(self.root + at)

    # --- checks ---------------------------------------------------------------------------------------

    def _rights(self, rights: GivenRights) -> Rights | Stage2Rights:
        kind: Callable[..., Rights | Stage2Rights] = Rights if self.geometry.stage == 1 else Stage2Rights
        return kind(**rights)  # TypeError: a right of the other stage

    def _check(self, va: int, length: int) -> int:
        """Return where the range begins in the table's half."""
        page, first, size = self.geometry.page, self.geometry.first, self.geometry.size
        if va % page or length % page:
            raise ValueError(f"range {fmt(va)} of {fmt(length)} bytes: not multiples of {page}")
        if length <= 0:
            raise ValueError(f"range at {fmt(va)} has no bytes (length {length})")
        if va < first or va + length > first + size:
            raise ValueError(
                f"range {fmt(va)} of {fmt(length)} bytes does not lie in "
                f"{fmt(first)} to {fmt(first + size - 1)}"
            )
        return va - first

    def _name(self, at: int) -> str:
        return fmt(self.geometry.first + at)

    def _check_mapped(self, va: int, end: int, verb: str) -> None:
        hole = self._first_hole(self.root, self._start, va, end)
        if hole is not None:
            raise ValueError(
                f"cannot {verb} {self._name(va)} of {fmt(end - va)} bytes: {self._name(hole)} is not mapped"
            )

    def _first_hole(self, table: int, level: int, va: int, end: int) -> int | None:
        """Return the first address of the range that is not mapped."""
        _, entries = self._part(table, level, va, end)
        shift = self._shifts[level]
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
        shift = self._shifts[level]
        if level == 3:
            taken = np.flatnonzero(entries & _VALID)
            if len(taken):
                raise ValueError(f"{self._name(va + (int(taken[0]) << shift))} is mapped already")
            return 0
        missing = 0
        for cursor, span_end, descriptor in spans(va, end, shift, entries):
            if not descriptor & VALID:
                missing += tables_below(self.geometry, level, cursor, span_end, frames)
            elif descriptor & TABLE:
                missing += self._missing_tables(next_table(descriptor), level + 1, cursor, span_end, frames)
            else:
                block = self._name(cursor & -(1 << shift))
                raise ValueError(f"{self._name(cursor)} is mapped already, by the block at {block}")
        return missing

    # --- changes --------------------------------------------------------------------------------------

    def _map(self, va: int, end: int, frames: Frames, rights: Rights | Stage2Rights) -> None:
        spare: list[int] = []
        try:
            for _ in range(self._missing_tables(self.root, self._start, va, end, frames)):
                spare.append(self._allocate())
        except MemoryError:
            for page in spare:
                self._free(page)
            raise
        spare.reverse()
        job = _Job(frames, np.uint64(rights.bits() | VALID), spare)
        self._fill(self.root, self._start, va, end, job)

    def _fill(self, table: int, level: int, va: int, end: int, job: _Job) -> None:
        """Write the leaves of the range; tables below are complete before they are linked."""
        shift = self._shifts[level]
        first, entries = self._part(table, level, va, end)
        lowest, highest = job.frames.grouped(va, end, level)
        if level == 3:
            entries[:] = job.frames.at(va, len(entries), 3) | job.bits | _TABLE
            if lowest < highest:
                entries[lowest - va >> shift : highest - va >> shift] |= _CONTIGUOUS
        else:
            for i, (cursor, span_end, descriptor) in enumerate(spans(va, end, shift, entries)):
                if whole(cursor, span_end, shift) and job.frames.fits(cursor, level):
                    entries[i] = job.frames.at(cursor, 1, level)[0] | job.bits
                    if lowest <= cursor < highest:
                        entries[i] |= _CONTIGUOUS
                    continue
                child = next_table(descriptor) if descriptor & VALID else job.spare.pop()
                if not descriptor & VALID:
                    self._bus.zero(child, self.geometry.page)
                    entries[i] = np.uint64(child) | _TYPE
                self._fill(child, level + 1, cursor, span_end, job)
        self._store(table, first, entries)

    def _clear(self, table: int, level: int, va: int, end: int) -> bool:
        """Remove the leaves of the range, and tables left empty; returns whether this one is empty now."""
        shift = self._shifts[level]
        entries = self._load(table, level)
        first, count = indices(self.geometry, level, va, end)
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
            shift = self._shifts[level]
            for i, (cursor, span_end, descriptor) in enumerate(spans(va, end, shift, entries)):
                if descriptor & TABLE:
                    self._rewrite(next_table(descriptor), level + 1, cursor, span_end, change)
                else:
                    entries[i] = (entries[i] & ~mask) | bits
        self._store(table, first, entries)

    def _split_at(self, va: int) -> None:
        """Make `va` a border between leaves and between contiguous groups; what is mapped stays mapped."""
        while va < self.geometry.size:
            address, level, descriptor = self._entry(va)
            shift = self._shifts[level]
            if not descriptor & VALID:
                return
            if descriptor & CONTIGUOUS and va % (self.geometry.group(level) << shift):
                self._break_group(address, self.geometry.group(level))
                continue
            if not va & ((1 << shift) - 1):
                return
            below = self._shifts[level + 1]
            base = np.uint64(descriptors.address_of(descriptor, level, self.geometry.granule_shift))
            kept = np.uint64(descriptor & ~int(ADDRESS_MASK) | (TABLE if level + 1 == 3 else 0))
            count = np.arange(self.geometry.entries, dtype=np.uint64)
            child = self._allocate()
            self._store(child, 0, (base + (count << np.uint64(below))) | kept)
            self._bus.write64(address, 0)  # break ...
            self._bus.write64(address, child | VALID | TABLE)  # ... before make

    def _break_group(self, address: int, count: int) -> None:
        """Clear the hint of the contiguous group that the entry at `address` belongs to."""
        first = address & -(8 * count)
        entries = np.frombuffer(self._bus.read(first, 8 * count), np.uint64) & ~_CONTIGUOUS
        self._bus.zero(first, 8 * count)  # break ...
        self._store(first, 0, entries)  # ... before make

    def _drop(self, table: int, level: int) -> None:
        """Free a table and every table below it."""
        for child, child_level in self._tables_of(table, level):
            self._drop(child, child_level)
        self._free(table)

    # --- tables in memory -----------------------------------------------------------------------------

    def _tables_of(self, table: int, level: int) -> list[tuple[int, int]]:
        """(address, level) of the tables that a table points to."""
        if level == 3:
            return []
        entries = self._load(table, level)
        return [(next_table(d), level + 1) for d in entries[entries & _TYPE == _TYPE].tolist()]

    def _entry(self, va: int) -> tuple[int, int, int]:
        """Return (address, level, value) of the descriptor at which a walk for `va` ends."""
        table = self.root
        for level in range(self._start, 4):
            index = va >> self._shifts[level] & self.geometry.entries_at(level) - 1
            address = table + 8 * index
            descriptor = self._bus.read64(address)
            if descriptors.kind_of(descriptor, level, self.geometry.granule_shift) is not Kind.TABLE:
                break
            table = next_table(descriptor)
        return address, level, descriptor

    def _load(self, table: int, level: int) -> Entries:
        return np.frombuffer(self._bus.read(table, 8 * self.geometry.entries_at(level)), np.uint64).copy()

    def _part(self, table: int, level: int, va: int, end: int) -> tuple[int, Entries]:
        """Return the first index of the entries that a range touches, and a copy of them."""
        first, count = indices(self.geometry, level, va, end)
        return first, np.frombuffer(self._bus.read(table + 8 * first, 8 * count), np.uint64).copy()

    def _store(self, table: int, first: int, entries: Entries) -> None:
        self._bus.write(table + 8 * first, entries)
