"""Page frames: which 4 KiB of DRAM are free.

DRAM is handled in blocks of 2 MiB, the size of a level-2 block descriptor with the 4 KiB granule (VMSAv8-64),
so that a large region gets memory its page tables can map with few descriptors. Each block is one integer of
512 bits, a set bit for each free frame: a page is the lowest set bit of a block that is in use already, a run
of 2 MiB a block whose bits are all set; a shorter run is found by shifting a block's bits against themselves,
a longer one by looking for free blocks side by side. The order is fixed: what comes out depends on what was
asked before and on nothing else.

Freed memory is cleared before anybody gets it again: nothing of one process is ever seen by the next.
"""

from __future__ import annotations

import heapq
from bisect import bisect_right
from collections.abc import Callable, Iterable, Sequence
from typing import Final, NamedTuple, Protocol

from unimem.addresses import align_down, align_up, fmt

PAGE: Final = 4096
BLOCK: Final = 2 << 20
_PAGES: Final = BLOCK // PAGE
_FULL: Final = (1 << _PAGES) - 1


class Extent(NamedTuple):
    """`length` bytes of memory that lie side by side from physical address `pa`; both multiples of 4 KiB."""

    pa: int
    length: int


class Clears(Protocol):
    """The part of the bus that the allocator needs."""

    def zero(self, pa: int, n: int) -> None:
        """Clear memory."""


def join(extents: Iterable[Extent]) -> list[Extent]:
    """Return the same memory in the same order, neighbours made one."""
    joined: list[Extent] = []
    for pa, length in extents:
        if joined and joined[-1].pa + joined[-1].length == pa:
            joined[-1] = Extent(joined[-1].pa, joined[-1].length + length)
        else:
            joined.append(Extent(pa, length))
    return joined


def cut(extents: Iterable[Extent], start: int, length: int) -> list[Extent]:
    """Return bytes ``[start, start + length)`` of memory made of `extents`."""
    found: list[Extent] = []
    for pa, size in extents:
        low, high = max(start, 0), min(start + length, size)
        if low < high:
            found.append(Extent(pa + low, high - low))
        start -= size
    return found


class FrameAllocator:
    """Hands out the frames of `ranges` ((base, size) in whole pages), cleared.

    Every method that raises has changed nothing. Freeing what is not allocated is an error of the caller's
    bookkeeping and raises `ValueError`.
    """

    def __init__(self, bus: Clears, ranges: Sequence[tuple[int, int]]) -> None:
        self._bus = bus
        #: Asked for memory when there is not enough: ``fn(bytes)`` says whether to look again.
        self.pressure: Callable[[int], bool] | None = None
        self._base: list[int] = []  # of each block, ascending
        self._all: list[int] = []  # the frames of a block that are ours to give
        end = 0
        for base, size in sorted(ranges):
            if base % PAGE or size % PAGE or size <= 0:
                raise ValueError(f"memory range {fmt(base)} of {fmt(size)} bytes is not made of 4 KiB pages")
            if base < end:
                raise ValueError(f"memory ranges overlap at {fmt(base)}")
            end = base + size
            self._add_range(base, end)
        self._bits = self._all.copy()  # the frames of a block that are free
        whole = [bits == _FULL for bits in self._all]
        self._whole = [n for n, is_whole in enumerate(whole) if is_whole]  # a heap; may hold blocks in use
        self._listed = bytearray(whole)  # whether a block is in that heap
        self._partial = {n: None for n, is_whole in enumerate(whole) if not is_whole}  # free and used frames
        self.total_bytes = sum(size for _, size in ranges)
        self.free_bytes = self.total_bytes

    def _add_range(self, base: int, end: int) -> None:
        """Make blocks of a range that lies behind those before; its first may be the last one's block."""
        start = align_down(base, BLOCK)
        if start < base or end < start + BLOCK:
            stop = min(end, start + BLOCK)
            bits = _bits((base - start) // PAGE, (stop - base) // PAGE)
            if self._base and self._base[-1] == start:
                self._all[-1] |= bits
            else:
                self._base.append(start)
                self._all.append(bits)
            start += BLOCK
        whole = range(start, align_down(end, BLOCK), BLOCK)
        self._base += whole
        self._all += [_FULL] * len(whole)
        start = align_down(end, BLOCK)
        if start > base and start < end:
            self._base.append(start)
            self._all.append(_bits(0, (end - start) // PAGE))

    def page(self) -> int:
        """Allocate one frame; raises `MemoryError`."""
        if self._partial:
            number = next(iter(self._partial))
        else:
            number = self._take_whole()
            if number < 0:
                if self.pressure is not None and self.pressure(PAGE):
                    return self.page()
                raise self._exhausted(PAGE)
        bits = self._bits[number]
        lowest = bits & -bits
        self._set(number, bits ^ lowest)
        self.free_bytes -= PAGE
        return self._base[number] + (lowest.bit_length() - 1) * PAGE

    def run(self, length: int, align: int = PAGE) -> int:
        """Allocate `length` bytes (rounded up to pages) side by side, from a multiple of `align`.

        Raises `MemoryError`, also when enough is free but not in one piece; `ValueError` for a bad length.
        """
        if length <= 0 or align < PAGE or align & (align - 1):
            raise ValueError(f"a run of {length} bytes aligned to {align} bytes cannot be allocated")
        length = align_up(length, PAGE)
        find = self._short_run if length < BLOCK and align <= BLOCK else self._long_run
        pa = find(length, align)
        if pa < 0 and self.pressure is not None and self.pressure(length):
            pa = find(length, align)
        if pa < 0:
            raise self._exhausted(length, f" in one piece aligned to {fmt(align)}")
        self._mark(pa, length, free=False)
        return pa

    def extents(self, length: int, va: int = 0) -> list[Extent]:
        """Allocate `length` bytes (rounded up to pages) for a mapping at `va`, in as few pieces as will do.

        Whole 2 MiB blocks are used where `va` lets a block descriptor map them, single frames elsewhere and
        when no block is left. Raises `MemoryError` with what was asked and what is free.
        """
        if length <= 0:
            raise ValueError(f"{length} bytes cannot be allocated")
        length = align_up(length, PAGE)
        if length > self.free_bytes and self.pressure is not None:
            self.pressure(length)
        if length > self.free_bytes:
            raise self._exhausted(length)
        pieces: list[Extent] = []
        end = va + length
        while va < end:
            number = self._take_whole() if va % BLOCK == 0 and va + BLOCK <= end else -1
            if number >= 0:
                self._set(number, 0)
                self.free_bytes -= BLOCK
                pieces.append(Extent(self._base[number], BLOCK))
                va += BLOCK
            else:
                pieces.append(Extent(self.page(), PAGE))
                va += PAGE
        return join(pieces)

    def free(self, pa: int, length: int = PAGE) -> None:
        """Take back ``[pa, pa + length)``, all of it allocated, and clear it."""
        self.check(pa, length)
        self._bus.zero(pa, length)
        self._mark(pa, length, free=True)

    def free_all(self, extents: Iterable[Extent]) -> None:
        """Take back several pieces."""
        for pa, length in extents:
            self.free(pa, length)

    def check(self, pa: int, length: int = PAGE) -> None:
        """Raise `ValueError` unless all of ``[pa, pa + length)`` is allocated here."""
        if pa % PAGE or length % PAGE or length <= 0:
            raise ValueError(f"{fmt(length)} bytes at {fmt(pa)} are not whole frames")
        for number, bits in self._pieces(pa, length):
            if number < 0 or bits & ~self._all[number]:
                raise ValueError(f"frames {fmt(pa)} to {fmt(pa + length)} are not this allocator's")
            if bits & self._bits[number]:
                raise ValueError(
                    f"double free: frames {fmt(pa)} to {fmt(pa + length)} are free already, or in part"
                )

    def used_in_blocks(self) -> dict[int, int]:
        """Return how many frames are in use in each whole block that has free ones too, by its address."""
        return {
            self._base[n]: _PAGES - self._bits[n].bit_count() for n in self._partial if self._all[n] == _FULL
        }

    def rest_of(self, block: int) -> list[Extent]:
        """Allocate what is free of a block, so that nothing else of it is given away."""
        number = bisect_right(self._base, block) - 1
        rest: list[Extent] = []
        bits = self._bits[number]
        while bits:
            lowest = bits & -bits
            rest.append(Extent(self._base[number] + (lowest.bit_length() - 1) * PAGE, PAGE))
            bits ^= lowest
        rest = join(rest)
        for pa, length in rest:
            self._mark(pa, length, free=False)
        return rest

    def _take_whole(self) -> int:
        """Return the lowest block that is free as a whole, or -1; the caller marks it."""
        while self._whole:
            number = heapq.heappop(self._whole)
            self._listed[number] = 0
            if self._bits[number] == _FULL:
                return number
        return -1

    def _short_run(self, length: int, align: int) -> int:
        pages = length // PAGE
        step = _every(align // PAGE)
        for number in self._partial:
            starts = _run_starts(self._bits[number], pages) & step
            if starts:
                return self._base[number] + ((starts & -starts).bit_length() - 1) * PAGE
        number = self._take_whole()
        return self._base[number] if number >= 0 else -1

    def _long_run(self, length: int, align: int) -> int:
        """Find whole blocks side by side; the rest of the last one stays free."""
        blocks = -(-length // BLOCK)
        count = 0
        for number, base in enumerate(self._base):
            if self._bits[number] != _FULL:
                count = 0
            elif count and base == self._base[number - 1] + BLOCK:
                count += 1
            else:
                count = int(base % align == 0)
            if count == blocks:
                return self._base[number - blocks + 1]
        return -1

    def _pieces(self, pa: int, length: int) -> Iterable[tuple[int, int]]:
        """Yield (block, its frames) for a range; block -1 where no memory is."""
        end = pa + length
        while pa < end:
            start = align_down(pa, BLOCK)
            n = min(end, start + BLOCK) - pa
            number = bisect_right(self._base, start) - 1
            known = number >= 0 and self._base[number] == start
            bits = _FULL if n == BLOCK else _bits((pa - start) // PAGE, n // PAGE)
            yield (number if known else -1), bits
            pa += n

    def _mark(self, pa: int, length: int, *, free: bool) -> None:
        for number, bits in self._pieces(pa, length):
            self._set(number, self._bits[number] | bits if free else self._bits[number] & ~bits)
        self.free_bytes += length if free else -length

    def _set(self, number: int, bits: int) -> None:
        """Store a block's free frames and keep the two indices true."""
        self._bits[number] = bits
        if bits == _FULL:
            self._partial.pop(number, None)
            if not self._listed[number]:
                self._listed[number] = 1
                heapq.heappush(self._whole, number)
        elif bits:
            self._partial[number] = None
        else:
            self._partial.pop(number, None)

    def _exhausted(self, length: int, how: str = "") -> MemoryError:
        return MemoryError(
            f"out of memory: {length} bytes{how} asked for, "
            f"{self.free_bytes} of {self.total_bytes} bytes are free"
        )


def _bits(first: int, count: int) -> int:
    return ((1 << count) - 1) << first


def _every(step: int) -> int:
    """Return a block's bits at multiples of `step`, a power of two."""
    return _FULL // ((1 << step) - 1)


def _run_starts(bits: int, n: int) -> int:
    """Return the bits at which `n` set bits in a row begin, in some log(n) steps."""
    have = 1
    while have < n:
        shift = min(have, n - have)
        bits &= bits >> shift
        have += shift
    return bits
