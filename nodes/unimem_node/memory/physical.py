"""The DRAM and on-chip memory of one node.

All banks lie back to back in one anonymous private mapping, reserved but not committed, so that 4 GiB cost
only the pages touched. Everything that hardware would read from memory (page tables, descriptors, data) is
bytes here and nothing else. Huge pages are refused: one touched byte shall cost 4 KiB, not 2 MiB.

Compiled code sees three arrays: `view8` and `view64` (the same bytes) and `geometry` (where each bank is).
Words are little-endian, as on the chip and on every host that runs this.
"""

from __future__ import annotations

import ctypes
import itertools
import mmap
import struct
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any, Final, NamedTuple, cast

import numpy as np
import numpy.typing as npt

from unimem.addresses import align_down, align_up, fmt
from unimem_node.bus.errors import BusError

if TYPE_CHECKING:
    from _typeshed import ReadableBuffer

MAX_BANKS: Final = 4
PAGE: Final = 4096

_MAP_NORESERVE: Final = 0x4000  # the same on every Linux we run on; `mmap` has no name for it before 3.13
_MINCORE_STEP: Final = 1 << 30

_U32 = struct.Struct("<I")
_U64 = struct.Struct("<Q")


class MemoryBank(NamedTuple):
    """A range of physical addresses that memory answers; `base` and `size` are multiples of 4096."""

    name: str
    base: int
    size: int


class PhysicalMemory:
    """Bytes at physical addresses.

    Every access must lie inside one bank; otherwise it raises `BusError` (DECERR) and does nothing.
    """

    def __init__(self, banks: Sequence[MemoryBank]) -> None:
        self.banks: tuple[MemoryBank, ...] = tuple(MemoryBank(*bank) for bank in banks)
        _check(self.banks)
        self.size: int = sum(bank.size for bank in self.banks)
        self.geometry: npt.NDArray[np.int64] = np.zeros((MAX_BANKS, 3), np.int64)
        offset = 0
        for row, bank in zip(self.geometry, self.banks, strict=False):
            row[:] = bank.base, bank.size, offset
            offset += bank.size
        self._rows: list[tuple[int, int, int]] = [
            (b, b + n, o - b) for b, n, o in self.geometry[: len(self.banks)].tolist()
        ]
        try:
            self._map = mmap.mmap(-1, self.size, mmap.MAP_PRIVATE | mmap.MAP_ANONYMOUS | _MAP_NORESERVE)
        except OSError as error:  # an address space limit, or strict overcommit
            raise MemoryError(f"the host does not reserve {self.size >> 20} MiB of address space") from error
        if hasattr(mmap, "MADV_NOHUGEPAGE"):
            self._map.madvise(mmap.MADV_NOHUGEPAGE)
        self.view8: npt.NDArray[np.uint8] = np.frombuffer(self._map, np.uint8)
        self.view64: npt.NDArray[np.uint64] = self.view8.view(np.uint64)
        self._bytes = memoryview(self._map)

    def find(self, pa: int, n: int = 1) -> int:
        """Offset of ``[pa, pa + n)`` in `view8`, or -1 when it does not lie inside one bank."""
        for base, end, shift in self._rows:
            if base <= pa and pa + n <= end:
                return pa + shift
        return -1

    def offset(self, pa: int, n: int = 1) -> int:
        """Offset of ``[pa, pa + n)`` in `view8`; raises `BusError` (DECERR) when not inside one bank."""
        for base, end, shift in self._rows:
            if base <= pa and pa + n <= end and n >= 0:
                return pa + shift
        raise BusError(pa, "DECERR", f"no memory at {fmt(pa)} for {n} bytes")

    def read(self, pa: int, n: int) -> bytes:
        """Return `n` bytes from `pa` as a copy."""
        offset = self.offset(pa, n)
        return self._bytes[offset : offset + n].tobytes()

    def write(self, pa: int, data: ReadableBuffer | npt.NDArray[Any]) -> None:
        """Store `data` (any C-contiguous buffer) at `pa`."""
        source = memoryview(cast("ReadableBuffer", data)).cast("B")
        offset = self.offset(pa, len(source))
        self._bytes[offset : offset + len(source)] = source

    def read64(self, pa: int) -> int:
        """Return the 64-bit word at `pa`, any alignment."""
        return int(_U64.unpack_from(self._bytes, self.offset(pa, 8))[0])

    def write64(self, pa: int, value: int) -> None:
        """Store the low 64 bits of `value` at `pa`, any alignment."""
        _U64.pack_into(self._bytes, self.offset(pa, 8), value & 0xFFFF_FFFF_FFFF_FFFF)

    def read32(self, pa: int) -> int:
        """Return the 32-bit word at `pa`, any alignment."""
        return int(_U32.unpack_from(self._bytes, self.offset(pa, 4))[0])

    def write32(self, pa: int, value: int) -> None:
        """Store the low 32 bits of `value` at `pa`, any alignment."""
        _U32.pack_into(self._bytes, self.offset(pa, 4), value & 0xFFFF_FFFF)

    def view(self, pa: int, n: int) -> npt.NDArray[np.uint8]:
        """Return the bytes ``[pa, pa + n)`` themselves: a writable uint8 array, no copy."""
        offset = self.offset(pa, n)
        return self.view8[offset : offset + n]

    def zero(self, pa: int, n: int) -> None:
        """Clear ``[pa, pa + n)``; whole pages are given back to the host instead of being stored to."""
        start = self.offset(pa, n)
        end = start + n
        first, last = align_up(start, PAGE), align_down(end, PAGE)
        if first >= last:
            self.view8[start:end] = 0
            return
        self.view8[start:first] = 0
        self.view8[last:end] = 0
        self._map.madvise(mmap.MADV_DONTNEED, first, last - first)  # private: reads as zero from now on

    def resident_bytes(self) -> int:
        """Bytes of host memory behind this memory: the pages that were touched and not cleared since."""
        libc = ctypes.CDLL(None, use_errno=True)
        base = self.view8.ctypes.data
        pages = 0
        for start in range(0, self.size, _MINCORE_STEP):
            n = min(_MINCORE_STEP, self.size - start)
            present = np.zeros(n // PAGE, np.uint8)
            failed = libc.mincore(
                ctypes.c_void_p(base + start), ctypes.c_size_t(n), ctypes.c_void_p(present.ctypes.data)
            )
            if failed:
                raise OSError(ctypes.get_errno(), "mincore of the simulated DRAM")
            pages += int(np.count_nonzero(present & 1))
        return pages * PAGE

    def close(self) -> None:
        """Give all bytes back to the host; views taken before stay valid and read as zero."""
        self._map.madvise(mmap.MADV_DONTNEED)


def _check(banks: Sequence[MemoryBank]) -> None:
    """Refuse banks that cannot be laid out, naming the one that is wrong."""
    if not 1 <= len(banks) <= MAX_BANKS:
        raise ValueError(f"a node has 1 to {MAX_BANKS} memory banks, not {len(banks)}")
    for bank in banks:
        if bank.size <= 0 or bank.base < 0 or bank.size % PAGE or bank.base % PAGE:
            raise ValueError(
                f"memory bank {bank.name}: base {fmt(bank.base)} and size {fmt(bank.size)} "
                f"must be multiples of {PAGE}, and the size above zero"
            )
        if bank.base + bank.size > 1 << 48:
            raise ValueError(f"memory bank {bank.name} ends beyond 48 bits: {fmt(bank.base + bank.size)}")
    for low, high in itertools.pairwise(sorted(banks, key=lambda bank: bank.base)):
        if low.base + low.size > high.base:
            raise ValueError(f"memory banks {low.name} and {high.name} overlap at {fmt(high.base)}")
