"""The CPU's write-back data cache: what the CPU has stored and DRAM does not have yet.

Models what software can tell of a cache in front of memory (Arm ARM, "Caches and memory hierarchy" and the
DC instructions; line size as in the Cortex-A53, DDI0500): a store stays in its line until the line is
cleaned or evicted, and then the whole line is written. Whoever reads memory without asking the cache, as the
table walks of an SMMU with IDR0.CTTW = 0 do, sees what was there before; whoever writes memory that way is
not seen by the CPU while it holds the line, and its bytes are lost if the line is dirty and goes back later.

Fully associative, least recently used line out first, so that what is evicted depends on the accesses and on
nothing else. All memory is mapped write-back; pages that somebody looks at directly (`view`) are not cached,
like a driver's coherent DMA buffer, until they are given back (`zero`).
"""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Iterator
from typing import TYPE_CHECKING, Any, Final, Literal, cast

import numpy as np
import numpy.typing as npt

from unimem.addresses import align_down, align_up
from unimem_node.bus.bus import LINE_BYTES
from unimem_node.memory.physical import PAGE, PhysicalMemory

if TYPE_CHECKING:
    from _typeshed import ReadableBuffer

_LARGEST_LINE: Final = 2048  # CTR_EL0.DminLine could say so; none is longer


class _Line:
    """A line that is held; `dirty`: memory does not have these bytes."""

    __slots__ = ("data", "dirty")

    def __init__(self, data: bytearray) -> None:
        self.data = data
        self.dirty = False


class WriteBackCache:
    """`lines` lines of `line_bytes` (a power of two) in front of `memory`; has the memory's own methods.

    Addresses that are not memory raise `BusError`, as memory does; cleaning or invalidating what is not held
    is without effect. `hits` and `misses` count lines accessed, `write_backs` lines written to memory.
    """

    def __init__(self, memory: PhysicalMemory, lines: int, line_bytes: int = LINE_BYTES) -> None:
        if lines < 1:
            raise ValueError(f"a cache has one line or more, not {lines}")
        if not 8 <= line_bytes <= _LARGEST_LINE or line_bytes & (line_bytes - 1):
            raise ValueError(
                f"line_bytes = {line_bytes}: lines have a power of two from 8 to {_LARGEST_LINE} bytes"
            )
        self.memory = memory
        self.lines = lines
        self.line_bytes = line_bytes
        self.hits = self.misses = self.write_backs = 0
        self._lines: OrderedDict[int, _Line] = OrderedDict()  # by number, the least recently used first
        self._uncached: set[int] = set()  # numbers of pages

    # ---- the CPU's accesses

    def read(self, pa: int, n: int) -> bytes:
        """Return `n` bytes from `pa` as the CPU sees them."""
        self.memory.offset(pa, n)
        return b"".join(self._load(*piece) for piece in self._pieces(pa, n))

    def write(self, pa: int, data: ReadableBuffer | npt.NDArray[Any]) -> None:
        """Store `data` (any C-contiguous buffer) at `pa`: into lines, which are dirty then."""
        source = memoryview(cast("ReadableBuffer", data)).cast("B")
        self.memory.offset(pa, len(source))
        at = 0
        for number, start, end in self._pieces(pa, len(source)):
            piece = source[at : at + end - start]
            at += end - start
            if self._is_uncached(number):
                self.memory.write(number * self.line_bytes + start, piece)
                continue
            line = self._hold(number, fill=end - start < self.line_bytes)
            line.data[start:end] = piece
            line.dirty = True

    def read64(self, pa: int) -> int:
        """Return the 64-bit word at `pa`, any alignment."""
        return int.from_bytes(self.read(pa, 8), "little")

    def write64(self, pa: int, value: int) -> None:
        """Store the low 64 bits of `value` at `pa`, any alignment."""
        self.write(pa, (value & 0xFFFF_FFFF_FFFF_FFFF).to_bytes(8, "little"))

    def read32(self, pa: int) -> int:
        """Return the 32-bit word at `pa`, any alignment."""
        return int.from_bytes(self.read(pa, 4), "little")

    def write32(self, pa: int, value: int) -> None:
        """Store the low 32 bits of `value` at `pa`, any alignment."""
        self.write(pa, (value & 0xFFFF_FFFF).to_bytes(4, "little"))

    def view(self, pa: int, n: int) -> npt.NDArray[np.uint8]:
        """Return memory's bytes ``[pa, pa + n)`` themselves: their pages are not cached from now on."""
        view = self.memory.view(pa, n)
        start, end = align_down(pa, PAGE), align_up(pa + n, PAGE)
        self.clean_invalidate(start, end - start)
        self._uncached.update(range(start // PAGE, end // PAGE))
        return view

    def zero(self, pa: int, n: int) -> None:
        """Clear ``[pa, pa + n)`` in memory too; its whole pages are given back, and are cached again."""
        self.clean_invalidate(pa, n)
        self.memory.zero(pa, n)
        if self._uncached:
            self._uncached.difference_update(range(align_up(pa, PAGE) // PAGE, (pa + n) // PAGE))

    # ---- a debugger's

    def peek(self, pa: int, n: int) -> bytes:
        """Return what `read` would, and leave the cache as it is."""
        found = bytearray(self.memory.read(pa, n))
        for number in self._held(pa, n):
            base = number * self.line_bytes
            start, end = max(base, pa), min(base + self.line_bytes, pa + n)
            found[start - pa : end - pa] = self._lines[number].data[start - base : end - base]
        return bytes(found)

    def state(self, pa: int) -> Literal["absent", "clean", "dirty"]:
        """Tell how the line of `pa` is held."""
        line = self._lines.get(pa // self.line_bytes)
        if line is None:
            return "absent"
        return "dirty" if line.dirty else "clean"

    # ---- maintenance: the CPU's instructions, and the snoops of coherent masters

    def clean(self, pa: int, n: int) -> None:
        """Write the dirty lines of ``[pa, pa + n)`` to memory; they stay, clean (DC CVAC)."""
        for number in self._held(pa, n):
            self._write_back(number, self._lines[number])

    def invalidate(self, pa: int, n: int) -> None:
        """Drop the lines of ``[pa, pa + n)``, whole lines, with what memory does not have (DC IVAC)."""
        for number in self._held(pa, n):
            del self._lines[number]

    def clean_invalidate(self, pa: int, n: int) -> None:
        """Write the dirty lines of ``[pa, pa + n)`` to memory and drop all of its lines (DC CIVAC)."""
        self.clean(pa, n)
        self.invalidate(pa, n)

    def clean_all(self) -> None:
        """Write every dirty line to memory (DC CSW over all sets and ways)."""
        for number, line in self._lines.items():
            self._write_back(number, line)

    # ---- lines

    def _pieces(self, pa: int, n: int) -> Iterator[tuple[int, int, int]]:
        """Cut a range at the borders of lines: (number of the line, first byte in it, end in it)."""
        size, end = self.line_bytes, pa + n
        while pa < end:
            number, start = divmod(pa, size)
            stop = min(size, start + end - pa)
            yield number, start, stop
            pa += stop - start

    def _held(self, pa: int, n: int) -> list[int]:
        """Return the numbers of the lines of a range that are held, without looking at every address."""
        if n <= 0:
            return []
        first, last = pa // self.line_bytes, (pa + n - 1) // self.line_bytes
        if last - first < len(self._lines):
            return [number for number in range(first, last + 1) if number in self._lines]
        return sorted(number for number in self._lines if first <= number <= last)

    def _is_uncached(self, number: int) -> bool:
        return bool(self._uncached) and number * self.line_bytes // PAGE in self._uncached

    def _load(self, number: int, start: int, end: int) -> bytes | bytearray:
        if self._is_uncached(number):
            return self.memory.read(number * self.line_bytes + start, end - start)
        return self._hold(number, fill=True).data[start:end]

    def _hold(self, number: int, *, fill: bool) -> _Line:
        """Return a line, taking it in if need be; without `fill` the caller writes every byte of it."""
        line = self._lines.get(number)
        if line is not None:
            self.hits += 1
            self._lines.move_to_end(number)
            return line
        self.misses += 1
        if len(self._lines) == self.lines:
            self._write_back(*self._lines.popitem(last=False))
        size = self.line_bytes
        line = _Line(bytearray(self.memory.read(number * size, size) if fill else size))
        self._lines[number] = line
        return line

    def _write_back(self, number: int, line: _Line) -> None:
        if line.dirty:
            self.memory.write(number * self.line_bytes, line.data)
            line.dirty = False
            self.write_backs += 1
