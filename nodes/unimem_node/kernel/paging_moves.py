"""Pages that move: huge page collapse and split, migration, compaction.

Collapse as khugepaged does it (Linux mm/khugepaged.c): a free 2 MiB block, the translations of the small
pages away, TLBs invalidated, the pages copied, a block descriptor in the place of the table. Between the
removal and the block every access faults, also one to memory that mlock holds; only a pin (GUP) keeps a page
from being moved. `begin` stops in that state, so that an engine can be seen to meet it; a page fault then
waits for the collapse to end, as it would for mmap_lock.
"""

from __future__ import annotations

from collections.abc import Iterable
from contextlib import suppress
from typing import TYPE_CHECKING

import numpy as np

from unimem_node.kernel.areas import Area
from unimem_node.kernel.frames import BLOCK, PAGE
from unimem_node.kernel.paging_core import WRITE, Core, out_of_memory
from unimem_node.kernel.paging_entries import pages
from unimem_node.kernel.paging_faults import TABLES
from unimem_node.kernel.paging_memory import PAGE_SHIFT, Page, Slot
from unimem_node.kernel.reclaim import Reclaim

if TYPE_CHECKING:
    from unimem_node.kernel.processes import Process

_PAGES = BLOCK // PAGE


class Collapse:
    """A collapse that has begun: no translations, and memory for the huge page at `pa`."""

    __slots__ = ("area", "pa", "start", "views")

    def __init__(self, area: Area, start: int, pa: int, views: list[tuple[Process, Area]]) -> None:
        self.area = area
        self.start = start
        self.pa = pa
        self.views = views


class Moves:
    """Moves pages of `core`."""

    def __init__(self, core: Core, reclaim: Reclaim) -> None:
        self._core = core
        self._reclaim = reclaim

    def begin(self, process: Process, area: Area, va: int) -> Collapse | None:
        """Take the translations of the 2 MiB around `va` away; None when they cannot be collapsed.

        That is: not all of them in the area, a huge page already, a file's, or a page of them is pinned.
        Raises `MemoryError`.
        """
        core, backing, start = self._core, area.backing, va & -BLOCK
        assert backing is not None
        if area.file is not None or start < area.start or start + BLOCK > area.end:
            return None
        if process.entries.block(start):
            return None
        views: list[tuple[Process, Area]] = []
        for viewer, delta in backing.views:
            at = viewer.areas.at(start)
            if delta != area.delta or at is None or at.backing is not backing or at.end < start + BLOCK:
                return None
            views.append((viewer, at))
        first = (start - area.delta) >> PAGE_SHIFT
        small = [backing.pages.get(number) for number in range(first, first + _PAGES)]
        if any(isinstance(page, Page) and page.pins for page in small):
            return None
        self._reclaim.ensure(_PAGES + TABLES)
        pa = self._block()
        for viewer, _ in views:
            viewer.table.unmap(start, BLOCK, holes=True)
            core.flush(viewer, pages(start, _PAGES))
        return Collapse(area, start, pa, views)

    def finish(self, collapse: Collapse) -> None:
        """Copy the pages and map the block."""
        core, start, area = self._core, collapse.start, collapse.area
        backing = area.backing
        assert backing is not None
        first = (start - area.delta) >> PAGE_SHIFT
        numbers = list(range(first, first + _PAGES))
        frames = list(range(collapse.pa, collapse.pa + BLOCK, PAGE))
        dropped: list[tuple[int, Page | Slot]] = []
        for number, pa in zip(numbers, frames, strict=True):
            entry = backing.pages.pop(number, None)
            if isinstance(entry, Slot):
                core.fill(pa, core.swap.load(entry))
                core.counts["swapped_in"] += 1
            elif entry is not None:
                core.copy(entry.pa, pa)
            if entry is not None:
                dropped.append((number, entry))
        core.drop((backing, number, entry) for number, entry in dropped)
        core.enter(backing, numbers, frames)
        for viewer, at in collapse.views:
            with suppress(MemoryError):  # no page for a table: faults will map it, page by page
                viewer.table.map(start, collapse.pa, BLOCK, write=bool(at.rights & WRITE))
        core.counts["collapsed"] += 1

    def split(self, process: Process, va: int) -> bool:
        """Replace the block that maps `va` by a table of its pages; returns whether there was one."""
        start = va & -BLOCK
        if not process.entries.block(va):
            return False
        process.table.protect(start, PAGE)  # changes nothing but makes it a page of its own
        self._core.flush(process, pages(start, _PAGES))
        self._core.counts["split"] += 1
        return True

    def migrate(self, moving: Iterable[Page]) -> int:
        """Move pages to other frames; returns how many. Pinned ones stay. Raises `MemoryError`."""
        core = self._core
        wanted = [page for page in moving if not page.pins]
        if not wanted:
            return 0
        if not self._reclaim.ensure(len(wanted) + TABLES):
            raise out_of_memory(core, f"{len(wanted)} pages to migrate to")
        wanted = [page for page in wanted if page in core.inactive or page in core.active]
        with core.exclusive():
            self._relocate(wanted, core.take(len(wanted)) if wanted else [])
        return len(wanted)

    def compact(self) -> bool:
        """Make one more block free as a whole, by moving what is in the way; returns whether it could."""
        core = self._core
        movable: dict[int, list[Page]] = {}
        for page in [*core.inactive, *core.active]:
            if not page.pins:
                movable.setdefault(page.pa & -BLOCK, []).append(page)
        for block, used in sorted(core.frames.used_in_blocks().items(), key=lambda item: (item[1], item[0])):
            there = movable.get(block, [])
            rest = _PAGES - used
            if len(there) != used or core.frames.free_bytes // PAGE < rest + used + TABLES:
                continue
            reserved = core.frames.rest_of(block)
            try:
                with core.exclusive():
                    self._relocate(there, core.take(used))
            except MemoryError:
                continue
            finally:
                core.frames.free_all(reserved)
            return True
        return False

    def _relocate(self, moving: list[Page], frames: list[int]) -> None:
        core = self._core
        mapped = core.unmap(moving)
        old = [page.pa for page in moving]
        for page, pa in zip(moving, frames, strict=True):
            core.copy(page.pa, pa)
            page.pa = pa
        core.remap(mapped)
        core.give(old)
        core.counts["migrated"] += len(moving)

    def _block(self) -> int:
        """Allocate a block, after compaction if there is none."""
        core = self._core
        try:
            return core.frames.run(BLOCK, BLOCK)
        except MemoryError:
            if not self.compact():
                raise out_of_memory(core, "no 2 MiB in one piece, and none can be compacted") from None
            return core.frames.run(BLOCK, BLOCK)


def resident(process: Process, area: Area, va: int, length: int) -> list[Page]:
    """Return the pages of a range that are in memory: those of its backing, and those mapped from a file."""
    backing = area.backing
    assert backing is not None
    found: dict[Page, None] = {}
    for at in np.arange(va, va + length, PAGE).tolist():
        entry = backing.pages.get((at - area.delta) >> PAGE_SHIFT)
        if entry is None and area.file is not None:
            entry = area.file.cache.pages.get((at - area.file_delta) >> PAGE_SHIFT)
        if isinstance(entry, Page):
            found[entry] = None
    return list(found)
