"""A process: page tables in DRAM, an ASID, and what is mapped where.

Virtual addresses below 2^36 are private to the process; above lies the global address space, where a region
has the same address in every process (VA = GVA). Whatever changes a translation that an engine may have used
goes in this order: descriptors, TLB invalidation and sync, and only then is the memory free for others.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from dataclasses import replace
from typing import TYPE_CHECKING, Any, Final

import numpy as np

from unimem.addresses import GLOBAL_BASE, align_up, fmt
from unimem_node.bus import Bus
from unimem_node.kernel import cpu_access
from unimem_node.kernel.areas import Area, Areas
from unimem_node.kernel.cpu_access import READ, READ_WRITE, WRITE, KernelFault
from unimem_node.kernel.frames import BLOCK, PAGE, Extent, FrameAllocator, join
from unimem_node.kernel.paging_entries import Entries
from unimem_node.mmu.table_memory import TableMemory
from unimem_node.mmu.tables import PageTable

if TYPE_CHECKING:
    from unimem_node.kernel.paging import Paging, Touched
    from unimem_node.kernel.paging_memory import Page

__all__ = ["READ", "READ_WRITE", "WRITE", "Invalidate", "KernelFault", "Process", "check_rights"]

#: Where the kernel puts mappings for which the process names no address.
MAP_BASE: Final = 1 << 32

#: ``fn(asid, va, length)``: make the hardware forget translations, and wait until it has.
Invalidate = Callable[[int, int, int], None]


def check_rights(rights: int) -> None:
    """Refuse what stage-1 tables cannot say; raises `ValueError`."""
    if rights not in (READ, READ_WRITE):
        raise ValueError(f"rights {rights}: memory is mapped for reading (1) or reading and writing (3)")


class Process:
    """One process. Every method that raises has changed nothing.

    `pdid` is the protection domain, 0 for a process outside the global address space. `tables`: memory for
    page tables that others walk too, if that is not just the bus. `paging`: without it all memory is there
    from the beginning, and stays.
    """

    def __init__(
        self,
        pdid: int,
        asid: int,
        bus: Bus,
        frames: FrameAllocator,
        invalidate: Invalidate,
        tables: TableMemory | None = None,
        paging: Paging | None = None,
    ) -> None:
        self.pdid = pdid
        self.asid = asid
        self.areas = Areas()
        self._bus = bus
        self._frames = frames
        self._invalidate = invalidate
        self._retired: list[int] = []  # table pages that TLBs and walk caches may still know
        self.paging = paging
        self.table = PageTable(tables or bus, frames.page, self._retired.append)
        self.entries = Entries(self.table, tables or bus)
        self.pins: dict[int, list[Page]] = {}  # by address; `Advice` keeps them

    def map(
        self,
        length: int,
        va: int = 0,
        rights: int = READ_WRITE,
        *,
        align: int = PAGE,
        contiguous: bool = False,
        held: bool = False,
        lazy: bool = False,
        file: str | None = None,
        offset: int = 0,
        shared: bool = False,
    ) -> int:
        """Map `length` bytes (rounded up to pages) of fresh, cleared memory; returns the address.

        `va` = 0 lets the kernel choose a multiple of `align`; `contiguous` memory lies side by side in DRAM;
        `held`: only `unmap` with `held` changes it again. `lazy`: memory comes when it is touched. `file`:
        the content is that of a file (`Paging.files`) from `offset` on, and what is written goes there
        (`shared`) or stays private; unless `lazy` it is read at once.
        Raises `ValueError` for a bad or taken address, `MemoryError` when there is no memory.
        """
        if length <= 0:
            raise ValueError(f"process {self.pdid}: cannot map {length} bytes")
        length = align_up(length, PAGE)
        if va:
            self._check_private(va, length)
        else:
            va = self.areas.gap(length, max(align, BLOCK if length >= BLOCK else PAGE), MAP_BASE, GLOBAL_BASE)
        self._check_free(va, length, rights)
        if lazy or file is not None:
            self._map_paged(va, length, rights, lazy, file, offset, shared)
            return va
        if contiguous:
            extents = [Extent(self._frames.run(length, max(align, PAGE)), length)]
        else:
            extents = self._frames.extents(length, va)
        try:
            self.map_at(va, extents, rights, owned=True, held=held)
        except BaseException:
            self._frames.free_all(extents)
            raise
        return va

    def map_at(
        self,
        va: int,
        extents: Iterable[Extent],
        rights: int = READ_WRITE,
        *,
        owned: bool = False,
        held: bool = False,
    ) -> None:
        """Map given memory at `va`, any address of the 48-bit space; errors as `map`.

        `owned`: the memory is freed when it is unmapped, unless this raises.
        """
        extents = tuple(extents)
        length = sum(extent.length for extent in extents)
        self._check_free(va, length, rights)
        at = va
        try:
            for pieces in _alike(extents):
                at += self._map_pieces(at, pieces, rights)
        except BaseException:
            if at > va:
                self.table.unmap(va, at - va)
                self._settle(va, at - va)
            self.free_retired()  # table pages that were taken and never linked
            raise
        self.areas.add(Area(va, length, rights, extents, owned, held))

    def unmap(self, va: int, length: int, *, held: bool = False) -> None:
        """Unmap ``[va, va + length)``, all of it mapped, and free what of its memory is the process' own."""
        length = align_up(length, PAGE)
        if self.paging is not None:
            self.paging.settle()
        parts = self._parts(va, length, "unmap", held)
        self.table.unmap(va, length, holes=any(part.backing for part in parts))
        self.areas.remove(va, length)
        self._settle(va, length)
        self._release(parts)

    def protect(self, va: int, length: int, rights: int, *, held: bool = False) -> None:
        """Change the rights of ``[va, va + length)``, all of it mapped."""
        length = align_up(length, PAGE)
        check_rights(rights)
        if self.paging is not None:
            self.paging.settle()
        parts = self._parts(va, length, "protect", held)
        if not any(part.backing for part in parts):
            self.table.protect(va, length, write=bool(rights & WRITE))
        else:
            self._protect(parts, rights)
        self._settle(va, length)
        self.areas.remove(va, length)
        for part in parts:
            self.areas.add(replace(part, rights=rights))

    def read(self, va: int, n: int) -> bytes:
        """Read as the CPU does, through the page tables; raises `KernelFault` at a page it may not."""
        return b"".join(self._bus.read(pa, length) for pa, length in cpu_access.parts(self, va, n, READ))

    def write(self, va: int, data: Any) -> None:
        """Write any C-contiguous buffer as the CPU does; all of it, or `KernelFault` and nothing."""
        source = memoryview(data).cast("B")
        at = 0
        for pa, length in cpu_access.parts(self, va, len(source), WRITE):
            self._bus.write(pa, source[at : at + length])
            at += length

    def sync_for_device(self, va: int, n: int) -> None:
        """Hand a buffer to an engine that does not snoop the CPU's cache: what the CPU stored is in memory.

        Also before such an engine writes, so that no dirty line goes back over its bytes. Linux calls it so.
        """
        for pa, length in list(self.runs(va, n, READ)):
            self._bus.clean(pa, length)

    def sync_for_cpu(self, va: int, n: int) -> None:
        """Take back a buffer that such an engine has written: the CPU reads it from memory.

        Lines that reach over an end of the buffer are cleaned first, for the sake of what else is in them.
        """
        line = self._bus.line_bytes
        for pa, length in list(self.runs(va, n, READ)):
            for edge in (pa, pa + length):
                if edge % line:
                    self._bus.clean_invalidate(edge, 1)
            self._bus.invalidate(pa, length)

    def runs(self, va: int, n: int, rights: int) -> Iterator[Extent]:
        """Yield the memory behind ``[va, va + n)``, read from the page tables; raises `KernelFault`.

        Pages that are absent are made present first; `MemoryError` when they cannot be all at once.
        """
        return cpu_access.runs(self, va, n, rights)

    def destroy(self) -> None:
        """Free everything; no engine may know the tables any more."""
        areas = list(self.areas)
        self.areas = Areas()
        if self.paging is not None:
            self.paging.ended(self)
        self.table.destroy()
        self.free_retired()
        self._release(areas)

    def extents(self, va: int, length: int) -> list[Extent]:
        """Return the memory behind a mapped range, from the kernel's own books; raises `ValueError`."""
        return join(
            extent
            for part in self.areas.covering(va, length)
            for extent in (self.runs(part.start, part.length, READ) if part.backing else part.extents)
        )

    # ---- paging

    def fork(self, pdid: int = 0) -> Process:
        """Make a child with the same private memory, copied when either writes; as `Kernel.spawn`.

        Regions and staging buffers are not the child's. Raises `ValueError`, `MemoryError`.
        """
        return self._pager.fork(self, pdid)

    def madvise(self, va: int, length: int, advice: str) -> int:
        """Give advice on a range; returns the pages concerned. See `Advice.advise`."""
        return self._pager.advice.advise(self, va, length, advice)

    def mlock(self, va: int, length: int) -> None:
        """Make pages present, and keep reclaim away from them; they may be collapsed and migrated."""
        self._pager.advice.advise(self, va, length, "LOCK")

    def munlock(self, va: int, length: int) -> None:
        """Undo `mlock`."""
        self._pager.advice.advise(self, va, length, "UNLOCK")

    def pin(self, va: int, length: int, write: bool = True) -> Touched:
        """Make pages present and hold on to them, as a driver does for DMA; see `Advice.pin`."""
        return self._pager.advice.pin(self, va, length, write)

    def unpin(self, va: int, length: int) -> None:
        """Undo a `pin`."""
        self._pager.advice.unpin(self, va, length)

    @property
    def _pager(self) -> Paging:
        if self.paging is None:
            raise ValueError(f"process {self.pdid} has no paging")
        return self.paging

    def _map_paged(
        self, va: int, length: int, rights: int, lazy: bool, file: str | None, offset: int, shared: bool
    ) -> None:
        paging = self._pager
        if offset < 0 or offset % PAGE or (offset and file is None) or (shared and file is None):
            raise ValueError(f"process {self.pdid}: cannot map from {fmt(offset)} of {file or 'no file'}")
        opened = None if file is None else paging.files.open(file)
        paging.areas.map(self, va, length, rights, opened, offset, shared)
        if not lazy:
            try:
                paging.touch(self, va, length, False)
            except BaseException:
                self.unmap(va, length)
                raise

    def _release(self, parts: Iterable[Area]) -> None:
        """Free what of the memory of areas is the process' own; they are no more."""
        for part in parts:
            if part.backing is not None:
                self._pager.areas.release(self, part)
            elif part.owned:
                self._frames.free_all(part.extents)

    def _protect(self, parts: Iterable[Area], rights: int) -> None:
        for part in parts:
            if part.backing is not None:
                self._pager.areas.protect(self, part, rights)
            else:
                self.table.protect(part.start, part.length, write=bool(rights & WRITE))

    def _map_pieces(self, va: int, pieces: list[Extent], rights: int) -> int:
        """Map pieces of one kind (see `_alike`); returns their bytes."""
        write = bool(rights & WRITE)
        if pieces[0].length >= BLOCK:
            self.table.map(va, pieces[0].pa, pieces[0].length, write=write)
            return pieces[0].length
        pages = [np.arange(pa, pa + length, PAGE, dtype=np.uint64) for pa, length in pieces]
        self.table.map_pages(va, np.concatenate(pages), write=write)
        return sum(length for _, length in pieces)

    def _settle(self, va: int, length: int) -> None:
        """Invalidate after a change, then give table pages back that it made empty."""
        self._invalidate(self.asid, va, length)
        self.free_retired()

    def free_retired(self) -> None:
        """Free table pages that became empty; the TLBs have forgotten them."""
        while self._retired:
            self._frames.free(self._retired.pop())

    def _check_private(self, va: int, length: int) -> None:
        if va < PAGE or va % PAGE or va + length > GLOBAL_BASE:
            raise ValueError(
                f"process {self.pdid}: {length} bytes at {fmt(va)} are not private memory: whole pages from "
                f"{fmt(PAGE)} to {fmt(GLOBAL_BASE)}"
            )

    def _check_free(self, va: int, length: int, rights: int) -> None:
        check_rights(rights)
        if va % PAGE or va < PAGE or (va + length) >> 48:
            raise ValueError(f"process {self.pdid}: cannot map {length} bytes at {fmt(va)}")
        taken = self.areas.overlapping(va, length)
        if taken:
            raise ValueError(
                f"process {self.pdid}: {fmt(va)} to {fmt(va + length)} is taken: "
                f"{fmt(taken[0].start)} to {fmt(taken[0].end)} is mapped already"
            )

    def _parts(self, va: int, length: int, what: str, held: bool) -> list[Area]:
        """Return what is mapped in a range, all of it; refuse what the caller may not change."""
        refused = f"process {self.pdid}: cannot {what} {length} bytes at {fmt(va)}: "
        if va % PAGE or va < 0 or length <= 0:
            raise ValueError(refused + "not whole pages")
        try:
            parts = self.areas.covering(va, length)
        except ValueError as error:
            raise ValueError(refused + str(error)) from None
        for part in parts:
            if part.held and not held:
                raise ValueError(refused + f"{fmt(part.start)} is a region, or a staging buffer")
        return parts


def _alike(extents: Iterable[Extent]) -> Iterator[list[Extent]]:
    """Group memory by how it is mapped: long pieces one by one, short ones in a row together."""
    short: list[Extent] = []
    for extent in extents:
        if extent.length < BLOCK:
            short.append(extent)
            continue
        if short:
            yield short
            short = []
        yield [extent]
    if short:
        yield short
