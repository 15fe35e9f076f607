"""Areas that are paged: made, taken over from eager ones, copied for a child, changed and ended.

Eager memory (the default) has its frames from the beginning, is on no list, and costs nothing here. It is
taken over (`adopt`) by the first operation of paging that concerns it, as if it had been populated page by
page; all of a region at once, in every process that has it.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from typing import TYPE_CHECKING

import numpy as np

from unimem.addresses import fmt
from unimem_node.kernel.areas import Area
from unimem_node.kernel.files import File
from unimem_node.kernel.frames import BLOCK, PAGE, Extent
from unimem_node.kernel.paging_core import WRITE, Core, content, out_of_memory
from unimem_node.kernel.paging_entries import PRESENT, READ_ONLY, READABLE_PAGE, pages
from unimem_node.kernel.paging_faults import TABLES
from unimem_node.kernel.paging_memory import PAGE_SHIFT, Backing, Page, Slot
from unimem_node.kernel.reclaim import Reclaim

if TYPE_CHECKING:
    from unimem_node.kernel.processes import Process
    from unimem_node.kernel.regions import Region


class PagedAreas:
    """Areas of processes over pages of `core`. `region_at` finds the region an address belongs to."""

    def __init__(self, core: Core, reclaim: Reclaim, region_at: Callable[[int], Region | None]) -> None:
        self._core = core
        self._reclaim = reclaim
        self._region_at = region_at

    def map(
        self,
        process: Process,
        va: int,
        length: int,
        rights: int,
        file: File | None,
        offset: int,
        shared: bool,
    ) -> None:
        """Make an area of which nothing is present; raises `ValueError` when its place is taken."""
        delta = va - offset if file is not None else 0
        backing = file.cache if file is not None and shared else Backing()
        area = Area(
            va,
            length,
            rights,
            (),
            owned=True,
            backing=backing,
            delta=delta if shared else 0,
            file=file,
            file_delta=delta,
            shared=shared and file is not None,
        )
        self.add(process, area)

    def map_region(self, process: Process, region: Region, rights: int) -> None:
        """Make an area of a region that is paged."""
        area = Area(
            region.gva, region.size, rights, (), False, held=True, backing=region.backing, shared=True
        )
        self.add(process, area)

    def add(self, process: Process, area: Area) -> None:
        """Enter a paged area, and that it looks into its backing and its file."""
        process.areas.add(area)
        assert area.backing is not None
        area.backing.views[process, area.delta] = None
        if area.file is not None:
            area.file.cache.views[process, area.file_delta] = None

    def adopt(self, process: Process, area: Area) -> Area:
        """Return the area as a paged one; raises `ValueError` for what is not the process' to page."""
        if area.backing is not None:
            return area
        if area.held:
            region = self._region_at(area.start)
            if region is None:
                raise ValueError(
                    f"process {process.pdid}: {fmt(area.start)} is a staging buffer, memory of the kernel"
                )
            self._adopt_region(region)
            found = process.areas.at(area.start)
            assert found is not None
            return found
        if not area.owned:
            raise ValueError(f"process {process.pdid}: {fmt(area.start)} is memory that others own")
        backing = Backing()
        self._enter(backing, area.start, area.extents)
        backing.views[process, 0] = None
        paged = replace(area, extents=(), backing=backing)
        process.areas.put(paged)
        return paged

    def _adopt_region(self, region: Region) -> None:
        backing = Backing(shared=True)
        self._enter(backing, region.gva, tuple(region.extents))
        for process in region.mapped:
            backing.views[process, 0] = None
            for area in process.areas.overlapping(region.gva, region.size):
                process.areas.put(replace(area, extents=(), backing=backing, shared=True))
        region.backing, region.extents = backing, []

    def _enter(self, backing: Backing, va: int, extents: tuple[Extent, ...]) -> None:
        frames = [pa for start, length in extents for pa in range(start, start + length, PAGE)]
        first = va >> PAGE_SHIFT
        self._core.enter(backing, list(range(first, first + len(frames))), frames)

    def release(self, process: Process, part: Area) -> None:
        """An area, or a part of one, is no more, nor are its translations: free what was only its own."""
        backing = part.backing
        assert backing is not None
        if not part.shared:
            gone = [(backing, number, entry) for number, entry in content(part)]
            for _, number, _ in gone:
                del backing.pages[number]
            self._core.drop(gone)
        if not any(a.backing is backing and a.delta == part.delta for a in process.areas):
            backing.views.pop((process, part.delta), None)
        file = part.file
        if file is not None and not any(
            a.file is file and a.file_delta == part.file_delta for a in process.areas
        ):
            file.cache.views.pop((process, part.file_delta), None)

    def discard(self, backing: Backing) -> None:
        """Free all that a backing has; nothing maps it any more."""
        gone = list(backing.pages.items())
        backing.pages.clear()
        self._core.drop((backing, number, entry) for number, entry in gone)

    def protect(self, process: Process, part: Area, rights: int) -> None:
        """Let the descriptors of a part allow what `rights` say, as far as its pages may; no invalidation."""
        changed, backing = replace(part, rights=rights), part.backing
        assert backing is not None
        vas = pages(part.start, part.length // PAGE)
        words = process.entries.read(vas)
        there = words & PRESENT != 0
        vas, words = vas[there], words[there] | READ_ONLY
        if rights & WRITE:
            for i, va in enumerate(vas.tolist()):
                page = backing.pages.get((va - part.delta) >> PAGE_SHIFT)
                if isinstance(page, Page) and self._core.writable(changed, page):
                    words[i] &= ~READ_ONLY
        process.entries.write(vas, words)

    def fork(self, parent: Process, child: Process) -> None:
        """Give a child what its parent has: private pages to copy on write, shared ones as they are.

        Regions and staging buffers are not the child's (as with MADV_DONTFORK): it is another domain. Pages
        that are pinned are copied at once, so that the engine and the parent keep the same ones.
        """
        for area in list(parent.areas):
            if area.held or not area.owned:
                continue
            paged = self.adopt(parent, area)
            twin = replace(paged, locked=False, backing=paged.backing if paged.shared else Backing())
            self.add(child, twin)
            if not paged.shared:
                for start in range(paged.start & -BLOCK, paged.end, BLOCK):
                    self._fork(parent, child, paged.part(start, start + BLOCK), twin)

    def _fork(self, parent: Process, child: Process, part: Area, twin: Area) -> None:
        """Share the pages of one table's range."""
        core = self._core
        pins = sum(isinstance(entry, Page) and entry.pins > 0 for _, entry in content(part))
        if not self._reclaim.ensure(pins + TABLES + 1):
            raise out_of_memory(core, f"no pages for tables of process {child.pdid}")
        with core.exclusive():
            self._share(parent, child, part, twin)

    def _share(self, parent: Process, child: Process, part: Area, twin: Area) -> None:
        core, here, there = self._core, part.backing, twin.backing
        assert here is not None
        assert there is not None
        copied: list[int] = []
        for number, entry in content(part):
            if isinstance(entry, Slot):
                entry.users += 1
                there.pages[number] = entry
            elif entry.pins:
                (twin_page,) = core.enter(there, [number], core.take(1))
                core.copy(entry.pa, twin_page.pa)
                copied.append(number << PAGE_SHIFT)
            else:
                entry.owners.append((there, number))
                there.pages[number] = entry
        vas = pages(part.start, part.length // PAGE)
        words = parent.entries.read(vas)
        shared = (words & PRESENT != 0) & ~np.isin(vas, np.array(copied, np.int64))
        vas, words = vas[shared], words[shared] | READ_ONLY
        parent.entries.write(vas, words)
        core.flush(parent, vas)
        child.entries.write(vas, words)
        if copied:
            pas = [page.pa for va in copied if isinstance(page := there.pages[va >> PAGE_SHIFT], Page)]
            child.entries.write(np.array(copied, np.int64), np.array(pas, np.uint64) | READABLE_PAGE)
