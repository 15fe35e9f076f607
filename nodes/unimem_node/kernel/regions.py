"""Regions: memory of this node that has a global virtual address.

A region's frames are mapped at VA = GVA in the page tables of the protection domain that owns it, and in
those of every domain it is shared with. So it is the SMMU that refuses a foreign domain (translation fault),
or a write to a read-only share (permission fault); there is no second table of rights.
"""

from __future__ import annotations

from bisect import bisect_left, bisect_right, insort
from typing import TYPE_CHECKING

from unimem.addresses import align_up, fmt
from unimem_node.kernel.frames import PAGE, Extent, FrameAllocator
from unimem_node.kernel.paging_memory import Backing
from unimem_node.kernel.processes import Process, check_rights

if TYPE_CHECKING:
    from unimem_node.kernel.paging import Paging


class Region:
    """One region: its memory, its owner's PDID, and who has it mapped, with what rights.

    With a `backing` it is paged, and has no `extents`.
    """

    __slots__ = ("backing", "extents", "gva", "length", "mapped", "owner", "size")

    def __init__(self, gva: int, length: int, owner: int, extents: list[Extent]) -> None:
        self.gva = gva
        self.length = length
        self.size = align_up(length, PAGE)
        self.owner = owner
        self.extents = extents
        self.backing: Backing | None = None
        self.mapped: dict[Process, int] = {}


class Regions:
    """The regions of one node, all inside its `window` of the global address space."""

    def __init__(self, frames: FrameAllocator, window: range, paging: Paging | None = None) -> None:
        self._frames = frames
        self._paging = paging
        self._window = window
        self._regions: dict[int, Region] = {}
        self._bases: list[int] = []

    def __len__(self) -> int:
        return len(self._regions)

    def get(self, gva: int) -> Region | None:
        """Return the region that starts at `gva`."""
        return self._regions.get(gva)

    def find(self, gva: int) -> Region | None:
        """Return the region that has an address."""
        at = bisect_right(self._bases, gva) - 1
        region = self._regions[self._bases[at]] if at >= 0 else None
        return region if region is not None and gva < region.gva + region.size else None

    def create(self, process: Process, gva: int, length: int, rights: int, *, lazy: bool = False) -> None:
        """Make a region owned by `process`, cleared; the same again changes nothing but the owner's rights.

        `lazy`: its memory comes when it is touched. Raises `ValueError` when the address is not ours to give,
        or taken; `MemoryError`.
        """
        check_rights(rights)
        known = self._regions.get(gva)
        if known is not None and known.length == length and known.owner == process.pdid:
            self._map(known, process, rights)
            return
        self._check_place(process, gva, length)
        extents = [] if lazy else self._frames.extents(length, gva)
        region = Region(gva, length, process.pdid, extents)
        if lazy:
            region.backing = Backing(shared=True)
        try:
            self._map(region, process, rights)
        except BaseException:
            self._frames.free_all(region.extents)
            raise
        self._regions[gva] = region
        insort(self._bases, gva)

    def share(self, process: Process, gva: int, length: int, rights: int) -> None:
        """Map an existing region for `process`, or change its rights; raises `ValueError`, `MemoryError`."""
        check_rights(rights)
        region = self._regions.get(gva)
        if region is None or region.length != length:
            found = "there is none" if region is None else f"the one there has {region.length}"
            raise ValueError(f"no region of {length} bytes at {fmt(gva)} to share: {found}")
        self._map(region, process, rights)

    def revoke(self, process: Process, gva: int) -> None:
        """Unmap a region for one domain; its memory stays. Without effect when it is not mapped there."""
        region = self._regions.get(gva)
        if region is not None and region.mapped.pop(process, 0):
            process.unmap(gva, region.size, held=True)

    def destroy(self, gva: int) -> None:
        """Unmap a region everywhere and free its memory. Without effect when there is none."""
        region = self._regions.pop(gva, None)
        if region is None:
            return
        del self._bases[bisect_left(self._bases, gva)]
        for process in region.mapped:
            process.unmap(gva, region.size, held=True)
        if region.backing is None:
            self._frames.free_all(region.extents)
        else:
            self._pager.discard(region.backing)

    def forget(self, process: Process) -> None:
        """End of a process: what it owns is destroyed, what was shared with it is unmapped."""
        for region in list(self._regions.values()):
            if region.owner == process.pdid:
                self.destroy(region.gva)
            else:
                self.revoke(process, region.gva)

    def _map(self, region: Region, process: Process, rights: int) -> None:
        before = region.mapped.get(process, 0)
        if before == 0 and region.backing is not None:
            self._pager.areas.map_region(process, region, rights)
        elif before == 0:
            process.map_at(region.gva, region.extents, rights, held=True)
        elif before != rights:
            process.protect(region.gva, region.size, rights, held=True)
        region.mapped[process] = rights

    @property
    def _pager(self) -> Paging:
        if self._paging is None:
            raise ValueError("there is no paging here")
        return self._paging

    def _check_place(self, process: Process, gva: int, length: int) -> None:
        window = self._window
        if gva % PAGE or length <= 0 or gva < window.start or gva + length > window.stop:
            raise ValueError(
                f"process {process.pdid}: a region of {length} bytes at {fmt(gva)} is not on a page border "
                f"in this node's window, {fmt(window.start)} to {fmt(window.stop)}"
            )
        at = bisect_right(self._bases, gva)
        neighbours = self._bases[max(at - 1, 0) : at + 1]
        for other in (self._regions[base] for base in neighbours):
            if other.gva < gva + align_up(length, PAGE) and gva < other.gva + other.size:
                raise ValueError(
                    f"process {process.pdid}: a region of {length} bytes at {fmt(gva)} overlaps the one of "
                    f"{other.length} bytes at {fmt(other.gva)}, owned by process {other.owner}"
                )
