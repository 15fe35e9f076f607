"""What a process may ask of paging: madvise, mlock, and pins as drivers take them (GUP)."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from typing import TYPE_CHECKING, Final

from unimem.addresses import align_down, align_up, fmt
from unimem_node.kernel.areas import Area
from unimem_node.kernel.frames import BLOCK, PAGE
from unimem_node.kernel.paging_areas import PagedAreas
from unimem_node.kernel.paging_core import WRITE, Core, content, out_of_memory
from unimem_node.kernel.paging_entries import pages
from unimem_node.kernel.paging_faults import Faults, Touched
from unimem_node.kernel.paging_memory import PAGE_SHIFT, Page, Slot
from unimem_node.kernel.paging_moves import resident
from unimem_node.kernel.reclaim import Reclaim

if TYPE_CHECKING:
    from unimem_node.kernel.paging import Paging
    from unimem_node.kernel.processes import Process

#: Pages that are touched and pinned in one go, so that reclaim does not take them in between.
_PIN_STEP: Final = 64


class Advice:
    """Does what processes ask for."""

    def __init__(
        self, paging: Paging, core: Core, reclaim: Reclaim, faults: Faults, areas: PagedAreas
    ) -> None:
        self._paging = paging
        self._core = core
        self._reclaim = reclaim
        self._faults = faults
        self._areas = areas
        self._advice: dict[str, Callable[[Process, int, int], int]] = {
            "DONTNEED": self._dont_need,
            "WILLNEED": self._will_need,
            "PAGEOUT": self._page_out,
            "COLD": self._cold,
            "HUGEPAGE": lambda process, va, length: self._set(process, va, length, huge=True),
            "NOHUGEPAGE": lambda process, va, length: self._set(process, va, length, huge=False),
            "COLLAPSE": self._collapse,
            "SPLIT": self._split,
            "MIGRATE": paging.migrate,
            "LOCK": self.lock,
            "UNLOCK": self.unlock,
            "PIN": self._pin_all,
            "UNPIN": self.unpin,
        }

    def advise(self, process: Process, va: int, length: int, advice: str) -> int:
        """Do what `advice` says with ``[va, va + length)``, made whole pages; returns the pages concerned.

        Raises `ValueError` for an unknown advice, where nothing is mapped, for memory of the kernel, and for
        what the advice may not be given for; `MemoryError`.
        """
        act = self._advice.get(advice)
        if act is None:
            known = ", ".join(sorted(self._advice))
            raise ValueError(f"advice {advice!r} is unknown; known: {known}")
        if length <= 0:
            raise ValueError(f"process {process.pdid}: {advice} for {length} bytes at {fmt(va)}")
        self._paging.settle()
        start = align_down(va, PAGE)
        return act(process, start, align_up(va + length, PAGE) - start)

    # ---- madvise

    def _dont_need(self, process: Process, va: int, length: int) -> int:
        """Throw content away: private memory, and a region for whose owner it is that; others only unmap."""
        parts = self._paging.parts(process, va, length)
        for part in parts:
            if part.locked:
                raise ValueError(f"process {process.pdid}: {fmt(part.start)} is locked in memory")
        dropped = 0
        for part in parts:
            with self._core.exclusive():
                dropped += self._drop(process, part)
        return dropped

    def _drop(self, process: Process, part: Area) -> int:
        core, backing = self._core, part.backing
        assert backing is not None
        if part.shared and not self._owns(process, part):
            core.erase(process, pages(part.start, part.length // PAGE))
            return part.length // PAGE
        gone = content(part)
        if part.shared:
            core.unmap(entry for _, entry in gone if isinstance(entry, Page))
        else:
            core.erase(process, pages(part.start, part.length // PAGE))
        for number, _ in gone:
            del backing.pages[number]
        core.drop((backing, number, entry) for number, entry in gone)
        return part.length // PAGE

    def _owns(self, process: Process, part: Area) -> bool:
        regions = self._paging.regions
        region = regions.find(part.start) if part.held and regions is not None else None
        return region is not None and region.owner == process.pdid

    def _will_need(self, process: Process, va: int, length: int) -> int:
        """Read what is in swap or in a file; what was never touched stays so."""
        read = 0
        for part in self._paging.parts(process, va, length):
            assert part.backing is not None
            if part.file is not None:
                read += self._faults.touch(process, part.start, part.length, False).major
                continue
            for number, entry in content(part):
                if isinstance(entry, Slot):
                    at = (number << PAGE_SHIFT) + part.delta
                    read += self._faults.touch(process, at, PAGE, False).major
        return read

    def _page_out(self, process: Process, va: int, length: int) -> int:
        return self._reclaim.page_out(self._resident(process, va, length))

    def _cold(self, process: Process, va: int, length: int) -> int:
        cold = self._resident(process, va, length)
        self._reclaim.cold(cold)
        return len(cold)

    def _collapse(self, process: Process, va: int, length: int) -> int:
        """Collapse each 2 MiB that the range has something of; returns pages that are part of new ones."""
        process.areas.covering(va, length)
        done = 0
        for start in range(va & -BLOCK, va + length, BLOCK):
            done += self._paging.collapse(process, max(start, va))
        return done * (BLOCK // PAGE)

    def _split(self, process: Process, va: int, length: int) -> int:
        process.areas.covering(va, length)
        done = 0
        for start in range(va & -BLOCK, va + length, BLOCK):
            done += self._paging.split(process, max(start, va))
        return done * (BLOCK // PAGE)

    # ---- mlock

    def lock(self, process: Process, va: int, length: int) -> int:
        """Make pages present and keep reclaim away from them. They may still be collapsed and migrated."""
        self._set(process, va, length, locked=True)
        parts = process.areas.covering(va, length)
        try:
            for part in parts:
                write = bool(part.rights & WRITE) and part.file is None
                self._faults.touch(process, part.start, part.length, write)
        except MemoryError:
            self._set(process, va, length, locked=False)
            raise
        return length // PAGE

    def unlock(self, process: Process, va: int, length: int) -> int:
        """Undo `lock`."""
        return self._set(process, va, length, locked=False)

    # ---- pins

    def pin(self, process: Process, va: int, length: int, write: bool) -> Touched:
        """Make pages present, for writing where `write`, and hold on to them until `unpin`.

        Pins count. Raises `ValueError` where nothing is mapped or it may not be written, `MemoryError`;
        nothing is pinned then.
        """
        self._paging.settle()
        start, end = align_down(va, PAGE), align_up(va + length, PAGE)
        minor = major = 0
        at = start
        try:
            while at < end:
                step = min(end - at, _PIN_STEP * PAGE)
                self._paging.parts(process, at, step)
                touched = self._faults.touch(process, at, step, write)
                if touched.gone_at is not None:
                    raise ValueError(f"process {process.pdid}: {fmt(touched.gone_at)} cannot be pinned so")
                self._hold(process, at, step)
                minor, major, at = minor + touched.minor, major + touched.major, at + step
        except BaseException:
            if at > start:
                self.unpin(process, start, at - start)
            raise
        return Touched(minor, major)

    def _pin_all(self, process: Process, va: int, length: int) -> int:
        """Pin for writing where writing is allowed."""
        rights = [part.rights for part in process.areas.covering(va, length)]
        self.pin(process, va, length, all(right & WRITE for right in rights))
        return length // PAGE

    def _hold(self, process: Process, va: int, length: int) -> None:
        held: list[tuple[int, Page]] = []
        for part in process.areas.covering(va, length):
            for at in range(part.start, part.end, PAGE):
                page = resident(process, part, at, PAGE)
                if not page:  # memory is so short that one page took the place of the other
                    raise out_of_memory(self._core, f"{fmt(length)} bytes to pin at {fmt(va)}")
                held.append((at, page[0]))
        for at, one in held:
            one.pins += 1
            process.pins.setdefault(at, []).append(one)

    def unpin(self, process: Process, va: int, length: int) -> int:
        """Undo one `pin` of each page, also of pages that are mapped no more.

        Raises `ValueError` where nothing is pinned, and changes nothing.
        """
        start, end = align_down(va, PAGE), align_up(va + length, PAGE)
        for at in range(start, end, PAGE):
            if at not in process.pins:
                raise ValueError(f"process {process.pdid}: {fmt(at)} is not pinned")
        for at in range(start, end, PAGE):
            held = process.pins[at]
            self._let_go(held.pop())
            if not held:
                del process.pins[at]
        return (end - start) // PAGE

    def unpin_all(self, process: Process) -> None:
        """End of a process: its pins end too."""
        for held in process.pins.values():
            for page in held:
                self._let_go(page)
        process.pins.clear()

    def _let_go(self, page: Page) -> None:
        page.pins -= 1
        if not page.owners and not page.pins:
            self._core.give([page.pa])

    # ---- helpers

    def _resident(self, process: Process, va: int, length: int) -> list[Page]:
        found: dict[Page, None] = {}
        for part in self._paging.parts(process, va, length):
            found |= dict.fromkeys(resident(process, part, part.start, part.length))
        return list(found)

    def _set(
        self, process: Process, va: int, length: int, *, locked: bool | None = None, huge: bool | None = None
    ) -> int:
        """Change flags of areas, which are cut at the ends of the range."""
        self._paging.parts(process, va, length)
        for part in process.areas.remove(va, length):
            changed = replace(part, huge=part.huge if huge is None else huge)
            process.areas.add(changed if locked is None else replace(changed, locked=locked))
        return length // PAGE
