"""Reclaim: what leaves memory when it runs short.

Two lists as in Linux (mm/vmscan.c). New pages begin on the inactive one. When its oldest are looked at, those
accessed since (access flag set in some table that maps them) go to the active list, the others leave: to the
swap device, to their file if it does not have them yet, or just so. Looking clears the flag, and invalidates
the TLBs so that the next access is seen: an SMMU that does not set the flag itself (no hardware update of AF)
faults then, and the kernel's fault path sets it again. The active list gives its oldest back when it is the
longer one. Each round looks at more of the lists, until enough is free or all was seen.

Watermarks as in Linux (`init_per_zone_wmark_min`): min = 4 KiB * sqrt(KiB of memory * 16) / 4 KiB, low and
high a quarter and a half above. An allocation of paging that would leave less than *low* frees up to *high*
first; every allocation that finds nothing frees what it needs.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from itertools import islice
from math import isqrt
from typing import Final

from unimem_node.kernel.frames import PAGE
from unimem_node.kernel.paging_core import Core
from unimem_node.kernel.paging_memory import Page, Slot

#: Linux' DEF_PRIORITY: the first round looks at a 4096th of the lists.
_PRIORITY: Final = 12
#: Least that is looked at in a round (Linux' SWAP_CLUSTER_MAX), and most at once.
_CLUSTER: Final = 32
_BATCH: Final = 512


class Reclaim:
    """Frees frames of `core`. `min`, `low`, `high`: watermarks, in pages."""

    def __init__(self, core: Core) -> None:
        self._core = core
        self.min = isqrt((core.frames.total_bytes >> 10) * 16) * 1024 // PAGE
        self.low = self.min + self.min // 4
        self.high = self.min + self.min // 2

    def ensure(self, count: int) -> bool:
        """See to it that `count` frames can be taken; returns whether they can."""
        free = self._core.frames.free_bytes // PAGE
        if free - count < self.low:
            self.reclaim(count + self.high - free)
        return self._core.frames.free_bytes // PAGE >= count

    def pressure(self, length: int) -> bool:
        """An allocation finds nothing: free as much; returns whether it shall look again."""
        return not self._core.busy and self.reclaim(-(-length // PAGE) + _CLUSTER) > 0

    def reclaim(self, count: int) -> int:
        """Free about `count` pages; returns how many."""
        core, freed = self._core, 0
        with core.exclusive():
            for priority in range(_PRIORITY, -1, -1):
                total = len(core.inactive) + len(core.active)
                if freed >= count or not total:
                    break
                freed += self._round(max(total >> priority, _CLUSTER), count - freed)
        return freed

    def page_out(self, pages: Iterable[Page]) -> int:
        """Write pages out and free them, whoever maps them; returns how many. Pinned and locked ones stay."""
        core = self._core
        room = core.swap.free
        leaving: list[Page] = []
        for page in pages:
            if core.pinned_or_locked(page):
                continue
            if page.owners[0][0].file is None:
                if not room:
                    continue
                room -= 1
            leaving.append(page)
        with core.exclusive():
            core.unmap(leaving)
        for page in leaving:
            backing, number = page.owners[0]
            if backing.file is not None:
                self._write_back(page)
                del backing.pages[number]
            else:
                self._swap_out(page)
            core.forget(page)
        core.give(page.pa for page in leaving)
        core.counts["reclaimed"] += len(leaving)
        return len(leaving)

    def write_back(self, pages: Iterable[Page]) -> int:
        """Write dirty pages to their files, and let the next write to them fault; returns how many.

        Pinned pages are written, and stay dirty and writable: an engine may go on writing to them.
        """
        dirty = [page for page in pages if page.dirty]
        self._core.write_protect(page for page in dirty if not page.pins)
        for page in dirty:
            self._write_back(page)
            page.dirty = page.pins > 0
        return len(dirty)

    def cold(self, pages: Sequence[Page]) -> None:
        """Make pages the next to be looked at, as not accessed."""
        core = self._core
        with core.exclusive():
            core.age(pages)
        for page in pages:
            core.forget(page)
        core.inactive = dict.fromkeys([*pages, *core.inactive])

    def _round(self, scan: int, wanted: int) -> int:
        core = self._core
        if len(core.active) > len(core.inactive):
            old = list(islice(core.active, scan))
            core.age(old)
            for page in old:
                del core.active[page]
                core.inactive[page] = None
        freed = 0
        scan = min(scan, len(core.inactive))
        while scan > 0 and freed < wanted:
            batch = list(islice(core.inactive, min(scan, _BATCH, max(wanted - freed, _CLUSTER))))
            scan -= len(batch)
            young = core.age(batch)
            old = [page for page in batch if page not in young and not core.pinned_or_locked(page)]
            leaving = old[: wanted - freed]
            freed += self.page_out(leaving)
            for page in batch:
                if page in young or (page in core.inactive and core.pinned_or_locked(page)):
                    core.activate(page)
            for page in leaving:
                if page in core.inactive:  # no room in swap: to the young end
                    del core.inactive[page]
                    core.inactive[page] = None
        return freed

    def _swap_out(self, page: Page) -> None:
        core = self._core
        slot = core.swap.store(core.bus.read(page.pa, PAGE), len(page.owners))
        assert isinstance(slot, Slot)  # room was counted before translations went
        for backing, number in page.owners:
            backing.pages[number] = slot
        core.counts["swapped_out"] += 1

    def _write_back(self, page: Page) -> None:
        backing, number = page.owners[0]
        if page.dirty and backing.file is not None:
            backing.file.write_page(number, self._core.bus.read(page.pa, PAGE))
            self._core.counts["file_writes"] += 1
