"""Paging: memory that comes when it is touched, and goes when it is short.

What Linux does on arm64 (mm/memory.c, vmscan.c, khugepaged.c, migrate.c, gup.c), as far as an engine can tell
that translates through the process' tables: demand-zero and file-backed areas, copy on write after fork,
reclaim to swap, mlock, pins, advice, huge pages, migration. Each change takes translations away first,
invalidates the SMMU as every other change of a table does, and then touches frames. The bytes of pages are
in DRAM; swap and files are devices outside it. Staging buffers and page tables are the kernel's own and
never paged.

Simplifications: no page of zeros is shared (a read gets a page of its own), no swap cache (after swap-in of a
page that a fork shares, each has its own), a huge page is a block descriptor over 512 pages that are aged and
written out one by one.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING, Final

from unimem.addresses import align_up
from unimem_node.bus import Bus
from unimem_node.kernel.areas import Area
from unimem_node.kernel.files import Files
from unimem_node.kernel.frames import BLOCK, PAGE, FrameAllocator
from unimem_node.kernel.paging_advice import Advice
from unimem_node.kernel.paging_areas import PagedAreas
from unimem_node.kernel.paging_core import WRITE, Core
from unimem_node.kernel.paging_faults import Faults, PageFault, Touched
from unimem_node.kernel.paging_memory import Backing, Page
from unimem_node.kernel.paging_moves import Collapse, Moves, resident
from unimem_node.kernel.reclaim import Reclaim
from unimem_node.kernel.swap import Swap

if TYPE_CHECKING:
    from unimem_node.kernel.processes import Process
    from unimem_node.kernel.regions import Region, Regions

__all__ = ["Collapse", "PageFault", "Paging", "Touched"]

_PAGES: Final = BLOCK // PAGE


class Paging:
    """Paging of one node.

    `invalidate`: the SMMU driver's. `spawn`, `end`: the kernel's, for `fork`. `swap_bytes`: size of the swap
    device, as much as there is memory unless given.
    """

    def __init__(
        self,
        bus: Bus,
        frames: FrameAllocator,
        invalidate: Callable[[int, int, int], None],
        *,
        spawn: Callable[[int], Process],
        end: Callable[[Process], None],
        swap_bytes: int | None = None,
    ) -> None:
        self.swap = Swap((frames.total_bytes if swap_bytes is None else swap_bytes) // PAGE)
        self.files = Files()
        self.regions: Regions | None = None
        self._spawn = spawn
        self._end = end
        self._core = Core(bus, frames, invalidate, self.swap)
        self._reclaim = Reclaim(self._core)
        self._faults = Faults(self._core, self._reclaim)
        self._moves = Moves(self._core, self._reclaim)
        self.areas = PagedAreas(self._core, self._reclaim, self._region_at)
        self.advice = Advice(self, self._core, self._reclaim, self._faults, self.areas)
        self._collapses: list[Collapse] = []
        frames.pressure = self._reclaim.pressure

    @property
    def forget_invalidations(self) -> bool:
        """Whether changes of page tables leave the TLBs as they are: a bug, to see what it does."""
        return self._core.forget_invalidations

    @forget_invalidations.setter
    def forget_invalidations(self, forget: bool) -> None:
        self._core.forget_invalidations = forget

    @property
    def watermarks(self) -> tuple[int, int, int]:
        """Pages at *min*, *low* and *high*; below *low* an allocation reclaims up to *high*."""
        return self._reclaim.min, self._reclaim.low, self._reclaim.high

    def set_watermarks(self, low: int, high: int) -> None:
        """Reclaim when fewer than `low` pages are free, until `high` are."""
        if not 0 <= low <= high:
            raise ValueError(f"watermarks low {low}, high {high}: not in order")
        self._reclaim.min, self._reclaim.low, self._reclaim.high = low, low, high

    def counters(self) -> dict[str, int]:
        """What was counted, and how long the lists are, by name."""
        return {
            **{f"kernel_paging_{name}": n for name, n in self._core.counts.items()},
            "kernel_paging_active": len(self._core.active),
            "kernel_paging_inactive": len(self._core.inactive),
            "kernel_paging_swap_used": self.swap.used,
        }

    def invalidate(self, asid: int, va: int, length: int) -> None:
        """Make the TLBs forget a range of an ASID, and wait until they have; unless that is forgotten."""
        self._core.invalidate(asid, va, length)

    # ---- faults

    def survey(self, process: Process, va: int, length: int, write: bool) -> Touched:
        """Say what `touch` would do, and do nothing."""
        return self._faults.survey(process, va, length, write)

    def touch(self, process: Process, va: int, length: int, write: bool) -> Touched:
        """Make all pages of a range present that can be; raises `MemoryError`, with some of them present."""
        self.settle()
        return self._faults.touch(process, va, length, write)

    def fault(self, process: Process, va: int, write: bool) -> PageFault:
        """Do what a page fault needs; raises `MemoryError`.

        Kinds: "minor" (nothing was read), "major" (from swap or a file), "spurious" (present by now), "gone"
        (nothing is mapped there), "denied" (the mapping forbids it).
        """
        area = process.areas.at(va)
        if area is None:
            return PageFault("gone", 0)
        if write and not area.rights & WRITE:
            return PageFault("denied", 0)
        touched = self.touch(process, va, 1, write)
        if touched.gone_at is not None:  # behind the end of its file
            return PageFault("gone", 0)
        kind = "major" if touched.major else "minor" if touched.minor else "spurious"
        return PageFault(kind, touched.minor + touched.major)

    # ---- reclaim

    def reclaim(self, pages: int) -> int:
        """Free about so many pages, the least used first; returns how many. Eager memory is on no list."""
        self.settle()
        return self._reclaim.reclaim(pages)

    def sync(self, name: str | None = None) -> int:
        """Write the dirty pages of a file, or of all, to its device; returns how many."""
        files = list(self.files) if name is None else [self.files.open(name)]
        cached = [page for file in files for page in file.cache.pages.values() if isinstance(page, Page)]
        return self._reclaim.write_back(cached)

    # ---- pages that move

    def collapse(self, process: Process, va: int) -> bool:
        """Make the 2 MiB around `va` one huge page; returns whether they are one now, and were not before.

        Not what is pinned or a file's, nor where the area does not hold all of it. Raises `ValueError` where
        nothing is mapped, `MemoryError`.
        """
        found = self.begin_collapse(process, va)
        self.settle()
        return found is not None

    def begin_collapse(self, process: Process, va: int) -> Collapse | None:
        """Begin a collapse and leave it there: translations gone, nothing copied. `settle` ends it.

        So does whatever has to wait for it: a page fault, a change of a mapping. Returns and raises as
        `collapse`; None: nothing has begun.
        """
        self.settle()
        area = self._adopted(process, va)
        found = self._moves.begin(process, area, va)
        if found is not None:
            self._collapses.append(found)
        return found

    def settle(self) -> None:
        """Let collapses that have begun come to their end."""
        while self._collapses:
            self._moves.finish(self._collapses.pop())

    def split(self, process: Process, va: int) -> bool:
        """Map the huge page around `va` by small ones; returns whether there was one."""
        self.settle()
        return self._moves.split(process, va)

    def migrate(self, process: Process, va: int, length: int = PAGE) -> int:
        """Move the pages of a range to other frames; returns how many. Huge pages are split for it.

        Pinned pages stay, locked ones do not. Raises `ValueError` where nothing is mapped, `MemoryError`.
        """
        self.settle()
        moved = 0
        for part in self.parts(process, va & -PAGE, align_up(va + length, PAGE) - (va & -PAGE)):
            moved += self._moves.migrate(resident(process, part, part.start, part.length))
        return moved

    def compact(self) -> bool:
        """Make one more 2 MiB block of memory free as a whole; returns whether pages could be moved so."""
        self.settle()
        return self._moves.compact()

    # ---- areas

    def fork(self, parent: Process, pdid: int = 0) -> Process:
        """Make a child of a process; raises `ValueError`, `MemoryError` with nothing left behind."""
        self.settle()
        child = self._spawn(pdid)
        try:
            self.areas.fork(parent, child)
        except BaseException:
            self._end(child)
            raise
        return child

    def parts(self, process: Process, va: int, length: int) -> list[Area]:
        """Return what is mapped in a range, all of it, as paged areas cut to it; raises `ValueError`."""
        process.areas.covering(va, length)
        for area in process.areas.overlapping(va, length):
            self.areas.adopt(process, area)
        return process.areas.covering(va, length)

    def ended(self, process: Process) -> None:
        """A process has ended: what it had pinned is not any more."""
        self.settle()
        self.advice.unpin_all(process)

    def discard(self, backing: Backing) -> None:
        """Free the memory of a region."""
        self.settle()
        self.areas.discard(backing)

    def _adopted(self, process: Process, va: int) -> Area:
        (part,) = self.parts(process, va & -PAGE, PAGE)
        area = process.areas.at(part.start)
        assert area is not None
        return area

    def _region_at(self, va: int) -> Region | None:
        return None if self.regions is None else self.regions.find(va)
