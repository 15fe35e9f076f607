"""What a process has mapped: areas of its address space, sorted, never overlapping (Linux' VMAs).

An area knows which memory lies behind it, and whose that is. What the hardware does with an address is in the
page tables, not here.
"""

from __future__ import annotations

from bisect import bisect_left, bisect_right
from collections.abc import Iterator
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING

from unimem.addresses import align_up, fmt
from unimem_node.kernel.frames import PAGE, Extent, cut

if TYPE_CHECKING:
    from unimem_node.kernel.files import File
    from unimem_node.kernel.paging_memory import Backing


@dataclass(frozen=True, slots=True)
class Area:
    """``[start, start + length)`` mapped to `extents` in order, with `rights` (READ, WRITE bits).

    `owned`: the memory is freed with the area. `held`: the kernel uses it (staging, regions), the process
    cannot change it.

    With a `backing` the area is paged: no `extents`, its memory is what the backing has, at page number
    ``(address - delta) / 4096``. `file`: what is not in the backing is in that file, from ``address -
    file_delta`` on. `shared`: others see what is written. `locked`: mlock. `huge`: what was advised.
    """

    start: int
    length: int
    rights: int
    extents: tuple[Extent, ...]
    owned: bool
    held: bool = False
    backing: Backing | None = None
    delta: int = 0
    file: File | None = None
    file_delta: int = 0
    shared: bool = False
    locked: bool = False
    huge: bool | None = None

    @property
    def end(self) -> int:
        """First address behind the area."""
        return self.start + self.length

    @property
    def end_of_file(self) -> int:
        """First address behind the last page of its file; without a file, its end."""
        return self.end if self.file is None else self.file.pages * PAGE + self.file_delta

    def part(self, start: int, end: int) -> Area:
        """Return the part of the area that lies in ``[start, end)``."""
        start, end = max(start, self.start), min(end, self.end)
        extents = tuple(cut(self.extents, start - self.start, end - start))
        return replace(self, start=start, length=end - start, extents=extents)


class Areas:
    """The areas of one process."""

    def __init__(self) -> None:
        self._areas: list[Area] = []
        self._starts: list[int] = []
        self._hint = 0

    def __iter__(self) -> Iterator[Area]:
        return iter(self._areas)

    def __len__(self) -> int:
        return len(self._areas)

    def overlapping(self, start: int, length: int) -> list[Area]:
        """Return the areas that have an address in the range, ascending."""
        first = bisect_right(self._starts, start)
        if first and self._areas[first - 1].end > start:
            first -= 1
        return self._areas[first : bisect_left(self._starts, start + length)]

    def at(self, va: int) -> Area | None:
        """Return the area that has an address, or None."""
        place = bisect_right(self._starts, va) - 1
        return self._areas[place] if place >= 0 and va < self._areas[place].end else None

    def covering(self, start: int, length: int) -> list[Area]:
        """Return the parts of areas that make up the range; raises `ValueError` where one is missing."""
        found = self.overlapping(start, length)
        at = start
        for area in found:
            if area.start > at:
                break
            at = area.end
        if at < start + length:
            raise ValueError(f"nothing is mapped at {fmt(at)}")
        return [area.part(start, start + length) for area in found]

    def add(self, area: Area) -> None:
        """Insert an area; raises `ValueError` when the range is taken."""
        taken = self.overlapping(area.start, area.length)
        if taken:
            start, end = fmt(taken[0].start), fmt(taken[0].end)
            raise ValueError(
                f"{fmt(area.start)} to {fmt(area.end)} is taken: {start} to {end} is mapped already"
            )
        at = bisect_left(self._starts, area.start)
        self._areas.insert(at, area)
        self._starts.insert(at, area.start)

    def remove(self, start: int, length: int) -> list[Area]:
        """Take the range out, splitting what reaches over its ends; returns and raises as `covering`."""
        parts = self.covering(start, length)
        whole = self.overlapping(start, length)
        end = start + length
        rest = [whole[0].part(0, start)] if whole[0].start < start else []
        if whole[-1].end > end:
            rest.append(whole[-1].part(end, whole[-1].end))
        at = bisect_left(self._starts, whole[0].start)
        self._areas[at : at + len(whole)] = rest
        self._starts[at : at + len(whole)] = [area.start for area in rest]
        return parts

    def put(self, area: Area) -> None:
        """Put an area in the place of the one with the same addresses."""
        self._areas[bisect_left(self._starts, area.start)] = area

    def gap(self, length: int, align: int, low: int, high: int) -> int:
        """Return a free range in ``[low, high)``: the next one after the last that was asked for.

        Addresses are used again as late as possible, so that a stale pointer faults. Raises `MemoryError`.
        """
        for start in (max(self._hint, low), low):
            at = align_up(start, align)
            for area in self.overlapping(at, high - at):
                if area.start - at >= length:
                    break
                at = align_up(area.end, align)
            if at + length <= high:
                self._hint = at + length
                return at
        raise MemoryError(f"no {length} bytes of addresses are free between {fmt(low)} and {fmt(high)}")
