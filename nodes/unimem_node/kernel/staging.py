"""Staging buffers: where the bytes of a transfer wait in the memory of the process that posts it.

A pool for each process. Buffers are powers of two in 2 MiB blocks that are mapped on demand by one block
descriptor each, so that the NI's gather meets one TLB entry. A buffer that comes back is lent again with its
view: after the first time, lending one costs a list and a dictionary operation. Longer buffers are runs of
their own.

Buffers are not cleared between uses: they never leave their process.
"""

from __future__ import annotations

from typing import Final, NamedTuple

import numpy as np
import numpy.typing as npt

from unimem.addresses import align_up, fmt
from unimem_node.bus import Bus
from unimem_node.kernel.frames import BLOCK
from unimem_node.kernel.processes import Process

Bytes = npt.NDArray[np.uint8]

#: Longest buffer.
LIMIT: Final = 256 << 20
#: Bytes of long buffers that are kept for the next use.
_KEEP: Final = 64 << 20
_SMALLEST: Final = 3  # log2
_BLOCK_KIND: Final = 21  # log2 of BLOCK
_SLAB_KIND: Final = 12  # up to this size, buffers of one size share a slab, so that alignment wastes nothing
_SLAB: Final = 64 << 10


class _Buffer(NamedTuple):
    """A buffer: its address, its bytes, and the list it goes back to (log2 of its size, or 0: long)."""

    va: int
    view: Bytes
    kind: int


class _Piece:
    """Memory that is being carved up: so many bytes of it are used."""

    __slots__ = ("used", "va", "view")

    def __init__(self, va: int, view: Bytes) -> None:
        self.va = va
        self.view = view
        self.used = 0

    def cut(self, size: int) -> tuple[int, Bytes]:
        """Take the next `size` bytes, aligned to their size."""
        at = align_up(self.used, size)
        self.used = at + size
        return self.va + at, self.view[at : at + size]


class Staging:
    """The staging buffers of one process."""

    def __init__(self, process: Process, bus: Bus) -> None:
        self._process = process
        self._bus = bus
        self._free: list[list[_Buffer]] = [[] for _ in range(_BLOCK_KIND + 1)]
        self._free[:_SMALLEST] = [self._free[_SMALLEST]] * _SMALLEST
        self._long: list[_Buffer] = []
        self._lent: dict[int, _Buffer] = {}
        self._block = _Piece(0, np.empty(0, np.uint8))  # being carved up
        self._slabs = [self._block] * (_SLAB_KIND + 1)

    @property
    def lent(self) -> int:
        """Number of buffers that are in use."""
        return len(self._lent)

    def take(self, n: int) -> tuple[int, Bytes]:
        """Lend a buffer of `n` bytes, 1 to `LIMIT`: (address in the process, its bytes in DRAM).

        Raises `ValueError` for a bad length, `MemoryError`.
        """
        # A cluster in one process makes 50,000 of these calls a second: tuples, no attributes.
        if 0 < n <= BLOCK:
            kind = (n - 1).bit_length()
            free = self._free[kind]
            buffer = free.pop() if free else self._carve(max(kind, _SMALLEST))
        else:
            buffer = self._take_long(n)
        va, view, _ = buffer
        self._lent[va] = buffer
        return va, view if len(view) == n else view[:n]

    def give(self, va: int) -> None:
        """Take the buffer at `va` back; raises `ValueError` when none is lent there."""
        buffer = self._lent.pop(va, None)
        if buffer is None:
            raise ValueError(f"process {self._process.pdid}: no staging buffer is in use at {fmt(va)}")
        kind = buffer[2]
        if kind:
            self._free[kind].append(buffer)
        else:
            self._give_long(buffer)

    def _carve(self, kind: int) -> _Buffer:
        """Make a new buffer of 2**kind bytes."""
        size = 1 << kind
        if kind > _SLAB_KIND:
            return _Buffer(*self._cut(size), kind)
        slab = self._slabs[kind]
        if slab.used == len(slab.view):
            slab = self._slabs[kind] = _Piece(*self._cut(_SLAB))
        return _Buffer(*slab.cut(size), kind)

    def _cut(self, size: int) -> tuple[int, Bytes]:
        """Take `size` bytes (a power of two) from the current block, or from a new one."""
        if align_up(self._block.used, size) + size > len(self._block.view):
            va = self._process.map(BLOCK, align=BLOCK, contiguous=True, held=True)
            self._block = _Piece(va, self._view(va, BLOCK))
        return self._block.cut(size)

    def _take_long(self, n: int) -> _Buffer:
        if not 0 < n <= LIMIT:
            raise ValueError(
                f"process {self._process.pdid}: a staging buffer has 1 to {LIMIT} bytes, not {n}"
            )
        size = align_up(n, BLOCK)
        for number, buffer in enumerate(self._long):
            if size <= len(buffer.view) <= 2 * size:
                return self._long.pop(number)
        try:
            va = self._process.map(size, align=BLOCK, contiguous=True, held=True)
        except MemoryError:
            if not self._long:
                raise
            self._drop_long(0)
            va = self._process.map(size, align=BLOCK, contiguous=True, held=True)
        return _Buffer(va, self._view(va, size), 0)

    def _give_long(self, buffer: _Buffer) -> None:
        self._long.append(buffer)
        self._drop_long(_KEEP)

    def _drop_long(self, keep: int) -> None:
        """Unmap long buffers, the oldest first, until `keep` bytes of them are left."""
        while sum(len(buffer.view) for buffer in self._long) > keep:
            buffer = self._long.pop(0)
            self._process.unmap(buffer.va, len(buffer.view), held=True)

    def _view(self, va: int, length: int) -> Bytes:
        return self._bus.view(self._process.extents(va, length)[0].pa, length)
