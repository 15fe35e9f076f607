"""Compiled part of the memory map: from a physical address to a place in the byte array."""

from __future__ import annotations

from typing import Any

from unimem_node._jit import njit_inline


@njit_inline
def offset_of(geometry: Any, pa: int, n: int) -> int:
    """Offset of ``[pa, pa + n)`` in `PhysicalMemory.view8`, or -1 when it does not lie inside one bank.

    `geometry` is `PhysicalMemory.geometry`, int64 (4, 3). All 64-bit addresses are safe: a negative or
    huge `pa` is simply outside.
    """
    for i in range(geometry.shape[0]):
        base = geometry[i, 0]
        if pa >= base and pa - base <= geometry[i, 1] - n:
            return geometry[i, 2] + pa - base  # type: ignore[no-any-return]
    return -1


@njit_inline
def bank_of(geometry: Any, pa: int) -> tuple[int, int, int]:
    """(base, size, offset) of the bank that holds `pa`; size 0 when none does."""
    for i in range(geometry.shape[0]):
        base = geometry[i, 0]
        if pa >= base and pa - base < geometry[i, 1]:
            return base, geometry[i, 1], geometry[i, 2]
    return 0, 0, 0
