"""What all of paging stands on: pages and frames, the two lists, taking translations away.

The order is the same everywhere, and Linux' (`ptep_clear_flush`, mmu notifiers): descriptors first, then the
TLBs forget and say so, and only then is a frame copied, written out or free. `forget_invalidations` leaves
the second step out, to show what happens then.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager, suppress
from operator import itemgetter
from typing import TYPE_CHECKING, Final, NamedTuple

import numpy as np

from unimem.addresses import fmt
from unimem_node.bus import Bus
from unimem_node.kernel import paging_entries
from unimem_node.kernel.areas import Area
from unimem_node.kernel.files import File
from unimem_node.kernel.frames import BLOCK, PAGE, Extent, FrameAllocator, join
from unimem_node.kernel.paging_entries import ADDRESS, PRESENT, YOUNG, Addresses, Words
from unimem_node.kernel.paging_memory import PAGE_SHIFT, Backing, Page, Slot
from unimem_node.kernel.swap import Swap

if TYPE_CHECKING:
    from unimem_node.kernel.processes import Process

WRITE: Final = 2
#: Up to so many pages are invalidated where they are; more of them as one range.
_SINGLE_PAGES: Final = 16

COUNTERS: Final = (
    "minor_faults",
    "major_faults",
    "copied_on_write",
    "swapped_out",
    "swapped_in",
    "file_reads",
    "file_writes",
    "reclaimed",
    "collapsed",
    "split",
    "migrated",
)


class Mapped(NamedTuple):
    """Where a page was mapped, and how."""

    page: Page
    process: Process
    va: int
    descriptor: int


class Core:
    """Pages of one node. `inactive` and `active`: the lists of reclaim, oldest first."""

    def __init__(
        self, bus: Bus, frames: FrameAllocator, invalidate: Callable[[int, int, int], None], swap: Swap
    ) -> None:
        self.bus = bus
        self.frames = frames
        self.swap = swap
        self.forget_invalidations = False
        self.inactive: dict[Page, None] = {}
        self.active: dict[Page, None] = {}
        self.counts = dict.fromkeys(COUNTERS, 0)
        #: Books and tables disagree for a moment: nothing may be reclaimed.
        self.busy = False
        self._invalidate = invalidate

    @contextmanager
    def exclusive(self) -> Iterator[None]:
        """Change books and tables, in which nothing may be reclaimed meanwhile: allocations just fail."""
        before, self.busy = self.busy, True
        try:
            yield
        finally:
            self.busy = before

    # ---- frames

    def take(self, count: int) -> list[int]:
        """Allocate cleared frames, anywhere; raises `MemoryError`."""
        pas: list[int] = []
        for pa, length in self.frames.extents(count * PAGE):
            pas += range(pa, pa + length, PAGE)
        return pas

    def give(self, pas: Iterable[int]) -> None:
        """Free frames that nothing maps."""
        self.frames.free_all(join(Extent(pa, PAGE) for pa in sorted(pas)))

    def copy(self, source: int, target: int) -> None:
        """Copy a frame; an engine that does not snoop the CPU's cache sees it too."""
        self.bus.write(target, self.bus.read(source, PAGE))
        self.bus.clean(target, PAGE)

    def fill(self, pa: int, content: bytes) -> None:
        """Put bytes into a cleared frame."""
        if content.count(0) < PAGE:
            self.bus.write(pa, content)
            self.bus.clean(pa, PAGE)

    # ---- pages

    def enter(self, backing: Backing, numbers: list[int], pas: list[int]) -> list[Page]:
        """Make frames the content of a backing."""
        fresh = [Page(pa, backing, number) for pa, number in zip(pas, numbers, strict=True)]
        backing.pages.update(zip(numbers, fresh, strict=True))
        self.inactive.update(dict.fromkeys(fresh))
        return fresh

    def forget(self, page: Page) -> None:
        """Take a page off the lists."""
        self.inactive.pop(page, None)
        self.active.pop(page, None)

    def activate(self, page: Page) -> None:
        """Put a page on the young end of the active list."""
        self.forget(page)
        self.active[page] = None

    def drop(self, dropped: Iterable[tuple[Backing, int, Page | Slot]]) -> None:
        """Content leaves its backing, of which it is no part any more; free what nobody else has.

        Frames that are pinned stay until they are not.
        """
        free: list[int] = []
        for backing, number, entry in dropped:
            if isinstance(entry, Slot):
                self.swap.drop(entry)
                continue
            entry.owners.remove((backing, number))
            if not entry.owners:
                self.forget(entry)
                if not entry.pins:
                    free.append(entry.pa)
        self.give(free)

    def read_in(self, file: File, number: int) -> tuple[Page, bool]:
        """Return a page of a file's cache, and whether it had to be read."""
        page = file.cache.pages.get(number)
        if isinstance(page, Page):
            return page, False
        (page,) = self.enter(file.cache, [number], self.take(1))
        self.fill(page.pa, file.read_page(number))
        self.counts["file_reads"] += 1
        return page, True

    def swap_in(self, backing: Backing, number: int, slot: Slot) -> Page:
        """Bring a page back from swap."""
        (page,) = self.enter(backing, [number], self.take(1))
        self.fill(page.pa, self.swap.load(slot))
        self.swap.drop(slot)
        self.counts["swapped_in"] += 1
        return page

    @staticmethod
    def writable(area: Area, page: Page) -> bool:
        """Whether a page's descriptor in this area may allow writes now.

        Not where somebody else has the page too (copy on write), and not a page of a file that counts as
        clean (its first write has to be noticed).
        """
        if not area.rights & WRITE or area.backing is None:
            return False
        if area.backing.file is not None:
            return page.dirty
        return area.shared or len(page.owners) == 1

    def pinned_or_locked(self, page: Page) -> bool:
        """Whether reclaim has to leave a page alone."""
        if page.pins:
            return True
        for process, va in page.spots():
            area = process.areas.at(va)
            if area is not None and area.locked:
                return True
        return False

    # ---- translations

    def invalidate(self, asid: int, va: int, length: int) -> None:
        """Make the TLBs forget a range, and wait until they have; unless that is forgotten."""
        if not self.forget_invalidations:
            self._invalidate(asid, va, length)

    def flush(self, process: Process, vas: Addresses) -> None:
        """Invalidate pages; then tables that became empty are free."""
        if len(vas) > _SINGLE_PAGES:
            first = int(vas[0])
            self.invalidate(process.asid, first, int(vas[-1]) + PAGE - first)
        else:
            for va, length in paging_entries.runs(vas):
                self.invalidate(process.asid, va, length)
        process.free_retired()

    def erase(self, process: Process, vas: Addresses) -> None:
        """Take the translations of pages away. Without memory to split a block, all of it goes."""
        nothing = np.zeros(len(vas), np.uint64)
        try:
            process.entries.write(vas, nothing)
        except MemoryError:
            for block in sorted({va & -BLOCK for va in vas.tolist() if process.entries.block(va)}):
                process.table.unmap(block, BLOCK)
                self.invalidate(process.asid, block, BLOCK)
            process.entries.write(vas, nothing)
        self.flush(process, vas)

    def unmap(self, pages: Iterable[Page]) -> list[Mapped]:
        """Take the translations of pages away from all processes; returns what they were."""
        found: list[Mapped] = []
        for process, vas, words, there in self._mapped(pages):
            self.erase(process, vas)
            found += map(Mapped, there, [process] * len(there), vas.tolist(), words.tolist())
        return found

    def age(self, pages: Iterable[Page]) -> set[Page]:
        """Return the pages that were accessed since the last time, and clear their access flags."""
        young: set[Page] = set()
        for process, vas, words, there in self._mapped(pages):
            used = words & YOUNG != 0
            young.update(page for page, is_used in zip(there, used.tolist(), strict=True) if is_used)
            if used.any():
                with suppress(MemoryError):  # a block of 1 GiB that cannot be split: it stays young
                    process.entries.write(vas[used], words[used] & ~YOUNG)
                self.flush(process, vas[used])
        return young

    def write_protect(self, pages: Iterable[Page]) -> None:
        """Let the next write to pages fault."""
        for process, vas, words, _ in self._mapped(pages):
            process.entries.write(vas, words | paging_entries.READ_ONLY)
            self.flush(process, vas)

    def remap(self, mapped: Iterable[Mapped]) -> None:
        """Let translations that were taken away lead to where their pages are now."""
        by_process: dict[Process, dict[int, int]] = {}
        for page, process, va, descriptor in mapped:
            by_process.setdefault(process, {})[va] = descriptor & ~int(ADDRESS) | page.pa
        for process, words in by_process.items():
            vas = sorted(words)
            process.entries.write(np.array(vas, np.int64), np.array([words[va] for va in vas], np.uint64))

    def _mapped(self, pages: Iterable[Page]) -> Iterator[tuple[Process, Addresses, Words, list[Page]]]:
        """(process, addresses, descriptors, pages) of where pages are mapped: the reverse map, looked up."""
        spots: dict[Process, list[tuple[int, Page]]] = {}
        for page in pages:
            for process, va in page.spots():
                spots.setdefault(process, []).append((va, page))
        for process, places in spots.items():
            places.sort(key=itemgetter(0))  # two at one address: a page of a file, and a private copy of it
            vas = np.array([va for va, _ in places], np.int64)
            there = [page for _, page in places]
            words = process.entries.read(vas)
            frames = np.array([page.pa for page in there], np.uint64)
            mine = (words & PRESENT != 0) & (words & ADDRESS == frames)
            if mine.any():
                kept = [page for page, is_mine in zip(there, mine.tolist(), strict=True) if is_mine]
                yield process, vas[mine], words[mine], kept


def numbers_of(area: Area) -> range:
    """The page numbers of an area in its backing."""
    return range((area.start - area.delta) >> PAGE_SHIFT, (area.end - area.delta) >> PAGE_SHIFT)


def content(area: Area) -> list[tuple[int, Page | Slot]]:
    """What the backing of an area has of it, by number."""
    assert area.backing is not None
    pages, numbers = area.backing.pages, numbers_of(area)
    if len(pages) < len(numbers):
        return sorted((number, entry) for number, entry in pages.items() if number in numbers)
    return [(number, pages[number]) for number in numbers if number in pages]


def out_of_memory(core: Core, what: str) -> MemoryError:
    """Say what is short, and why nothing more could be had."""
    frames, swap = core.frames, core.swap
    held = sum(map(core.pinned_or_locked, [*core.inactive, *core.active]))
    return MemoryError(
        f"out of memory: {what}; {frames.free_bytes} of {frames.total_bytes} bytes are free, "
        f"{len(core.inactive) + len(core.active)} pages are on the lists of reclaim, {held} of them pinned "
        f"or locked, {swap.used} of {swap.slots} pages of swap are in use"
    )


def place(process: Process, va: int) -> str:
    """Name an address of a process."""
    return f"process {process.pdid}, {fmt(va)}"
