"""Making pages present: what a page fault needs, for one page or for many at once.

Of an absent page: nothing there yet, a cleared frame; in swap or on a file's device, read (a major fault); in
memory already, mapped. Of a write to a page that is mapped read-only: a page that somebody else has too is
copied (its descriptor is invalid meanwhile: break before make), one of a shared file becomes dirty, and
another is just made writable. Of a page whose access flag was cleared: it is set.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import TYPE_CHECKING, Final

import numpy as np

from unimem.addresses import align_down, align_up
from unimem_node.kernel.areas import Area
from unimem_node.kernel.frames import BLOCK, PAGE
from unimem_node.kernel.paging_core import WRITE, Core, out_of_memory, place
from unimem_node.kernel.paging_entries import (
    ADDRESS,
    PRESENT,
    READ_ONLY,
    READABLE_PAGE,
    WRITABLE_PAGE,
    YOUNG,
    Addresses,
    Words,
    pages,
)
from unimem_node.kernel.paging_memory import PAGE_SHIFT, Backing, Page, Slot
from unimem_node.kernel.reclaim import Reclaim

if TYPE_CHECKING:
    from unimem_node.kernel.processes import Process

#: Page tables that a window may need besides its pages.
TABLES: Final = 4

_Window = Callable[["Process", Area, Addresses, bool], tuple[int, int]]


@dataclass(frozen=True, slots=True)
class Touched:
    """What touching pages did: pages made present, `minor` without reading and `major` with it.

    `gone_at`: the first address that is not mapped, or may not be accessed so; nothing behind it was touched.
    """

    minor: int
    major: int
    gone_at: int | None = None


@dataclass(frozen=True, slots=True)
class PageFault:
    """What a fault was ("minor", "major", "spurious", "gone", "denied"), and the pages it made present."""

    kind: str
    pages: int


class Faults:
    """Makes pages of `core` present."""

    def __init__(self, core: Core, reclaim: Reclaim) -> None:
        self._core = core
        self._reclaim = reclaim

    def survey(self, process: Process, va: int, length: int, write: bool) -> Touched:
        """Say what `touch` would do, and do nothing."""
        return self._each(process, va, length, write, self._look)

    def touch(self, process: Process, va: int, length: int, write: bool) -> Touched:
        """Make the pages of a range present; raises `MemoryError`, with pages before it present."""
        return self._each(process, va, length, write, self._window)

    def _each(self, process: Process, va: int, length: int, write: bool, window: _Window) -> Touched:
        at, end = align_down(va, PAGE), align_up(va + length, PAGE)
        minor = major = 0
        for area in process.areas.overlapping(at, end - at):
            if area.start > at or (write and not area.rights & WRITE):
                break
            stop = min(area.end, end)
            if area.backing is not None:
                last = min(stop, max(at, area.end_of_file))
                while at < last:
                    n = min(BLOCK - at % BLOCK, last - at) // PAGE
                    few, many = window(process, area, pages(at, n), write)
                    minor, major, at = minor + few, major + many, at + n * PAGE
                if last < stop:
                    break
            at = stop
        return Touched(minor, major, at if at < end else None)

    def _look(self, process: Process, area: Area, vas: Addresses, write: bool) -> tuple[int, int]:
        assert area.backing is not None
        wrong = _wrong(process.entries.read(vas), write)
        major = 0
        for va in vas[wrong].tolist():
            entry = area.backing.pages.get((va - area.delta) >> PAGE_SHIFT)
            if entry is None and area.file is not None:
                major += (va - area.file_delta) >> PAGE_SHIFT not in area.file.cache.pages
            else:
                major += isinstance(entry, Slot)
        return len(wrong) - major, major

    def _window(self, process: Process, area: Area, vas: Addresses, write: bool) -> tuple[int, int]:
        """Make pages of one table present."""
        core = self._core
        if not len(_wrong(process.entries.read(vas), write)):
            return 0, 0
        count = len(vas)
        if not self._reclaim.ensure((2 if area.file is not None else 1) * count + TABLES):
            if count == 1:
                raise out_of_memory(core, f"no page for {place(process, int(vas[0]))}")
            minor = major = 0
            for part in (vas[: count // 2], vas[count // 2 :]):
                few, many = self._window(process, area, part, write)
                minor, major = minor + few, major + many
            return minor, major
        with core.exclusive():
            minor, major = self._fill(process, area, vas, write)
        core.counts["minor_faults"] += minor
        core.counts["major_faults"] += major
        return minor, major

    def _fill(self, process: Process, area: Area, vas: Addresses, write: bool) -> tuple[int, int]:
        core, backing, entries = self._core, area.backing, process.entries
        assert backing is not None
        before = entries.read(vas)
        wrong = _wrong(before, write)
        if area.huge and self._huge(process, area, int(vas[0])):
            return BLOCK // PAGE, 0
        vas, before = vas[wrong], before[wrong]
        numbers = ((vas - area.delta) >> PAGE_SHIFT).tolist()
        found = [backing.pages.get(number) for number in numbers]
        if area.file is None and not any(found):
            core.enter(backing, numbers, core.take(len(numbers)))
            frames = np.array([backing.pages[n].pa for n in numbers], np.uint64)  # type: ignore[union-attr]
            entries.write(vas, frames | (WRITABLE_PAGE if area.rights & WRITE else READABLE_PAGE))
            return len(numbers), 0
        major = 0
        after = np.zeros(len(vas), np.uint64)
        for i, (number, entry) in enumerate(zip(numbers, found, strict=True)):
            page, read = self._page(area, number, entry, int(vas[i]), write)
            major += read
            if write and backing.file is not None:
                page.dirty = True
            mine = backing.pages.get(number) is page
            kind = WRITABLE_PAGE if mine and core.writable(area, page) else READABLE_PAGE
            after[i] = np.uint64(page.pa) | kind
        self._store(process, vas, before, after)
        return len(numbers) - major, major

    def _store(self, process: Process, vas: Addresses, before: Words, after: Words) -> None:
        """Write descriptors, in the order that is right for what they were."""
        core, entries = self._core, process.entries
        was = before & PRESENT != 0
        moved = was & ((before ^ after) & ADDRESS != 0)
        if moved.any():
            core.erase(process, vas[moved])
        entries.write(vas, after)
        upgraded = was & ~moved & ((before & ~after) & READ_ONLY != 0)
        if upgraded.any():
            core.flush(process, vas[upgraded])

    def _page(
        self, area: Area, number: int, entry: Page | Slot | None, va: int, write: bool
    ) -> tuple[Page, bool]:
        """Return the page to map, and whether it had to be read."""
        core, backing = self._core, area.backing
        assert backing is not None
        if isinstance(entry, Slot):
            return core.swap_in(backing, number, entry), True
        if entry is None and area.file is not None:
            cached, read = core.read_in(area.file, (va - area.file_delta) >> PAGE_SHIFT)
            if area.shared or not write:
                return cached, read
            return self._copy(backing, number, cached), read
        if entry is None:
            return core.enter(backing, [number], core.take(1))[0], False
        if write and not area.shared and len(entry.owners) > 1:
            entry.owners.remove((backing, number))
            return self._copy(backing, number, entry), False
        return entry, False

    def _copy(self, backing: Backing, number: int, source: Page) -> Page:
        core = self._core
        (page,) = core.enter(backing, [number], core.take(1))
        core.copy(source.pa, page.pa)
        core.counts["copied_on_write"] += 1
        return page

    def _huge(self, process: Process, area: Area, va: int) -> bool:
        """Map a huge page where nothing is yet, if that was advised and one can be had."""
        core, backing, start = self._core, area.backing, va & -BLOCK
        assert backing is not None
        if area.file is not None or area.shared or start < area.start or start + BLOCK > area.end:
            return False
        first = (start - area.delta) >> PAGE_SHIFT
        numbers = list(range(first, first + BLOCK // PAGE))
        if any(number in backing.pages for number in numbers):
            return False
        try:
            pa = core.frames.run(BLOCK, BLOCK)
        except MemoryError:
            return False
        process.table.unmap(start, BLOCK, holes=True)  # a table that maps nothing
        core.flush(process, pages(start, 1))
        process.table.map(start, pa, BLOCK, write=bool(area.rights & WRITE))
        core.enter(backing, numbers, list(range(pa, pa + BLOCK, PAGE)))
        return True


def _wrong(words: Words, write: bool) -> Addresses:
    """Return the indices of descriptors that an access faults at."""
    right = words & (PRESENT | YOUNG) == PRESENT | YOUNG
    if write:
        right &= words & READ_ONLY == 0
    return np.flatnonzero(~right)
