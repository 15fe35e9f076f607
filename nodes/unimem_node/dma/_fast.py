"""From an address to bytes in DRAM, compiled: what every master does with one access.

Nothing is recorded here: that is the caller's, at the simulated time at which the access is made. A context
bank of -1 stands for a stream that bypasses translation, `OUTSIDE` for a master that is not behind the SMMU.
"""

from __future__ import annotations

from typing import Any

from unimem_node._jit import copy_bytes, njit_inline
from unimem_node.mmu.regime import A_LEVEL_SHIFT
from unimem_node.smmu._fast import translate

#: Codes besides the FSR's bit positions: the interconnect finds nothing at the physical address ...
NO_MEMORY = 32
#: ... or the stream has no translation at all (see `StreamRoute.fault`).
NO_ROUTE = 33

ACCESS_READ = 0

#: In place of a context bank: physical addresses, and no SMMU that would count the access.
OUTSIDE = -2


@njit_inline
def bank_run(geometry: Any, pa: int, n: int) -> Any:
    """(offset into DRAM, bytes): what one bank holds of ``[pa, pa+n)`` from `pa` on; (-1, 0) if nothing."""
    for row in range(geometry.shape[0]):
        inside = pa - geometry[row, 0]
        if 0 <= inside < geometry[row, 1]:
            return geometry[row, 2] + inside, min(n, geometry[row, 1] - inside)
    return -1, 0


@njit_inline
def locate(arrays: Any, lane: int, cb: int, va: int, access: int, n: int) -> Any:
    """(code, syndrome, offset, bytes, cost_ps): where up to `n` bytes from `va` on lie in DRAM, unbroken."""
    pa = va
    span = n
    level = 0
    cost = 0
    if cb != OUTSIDE:
        code, info, pa, span, cost = translate(arrays, lane, cb, va, access)
        if code != 0:
            return code, info, -1, 0, cost
        level = (info >> A_LEVEL_SHIFT) & 3
    offset, run = bank_run(arrays.geometry, pa, min(span, n))
    if offset < 0:
        return NO_MEMORY, level, -1, 0, cost
    return 0, level, offset, run, cost


@njit_inline
def move(mem8: Any, to: int, of: int, n: int) -> None:
    """Copy inside DRAM; where the two overlap, byte by byte in ascending order, as beats would."""
    if to < of + n and of < to + n:
        for i in range(n):
            mem8[to + i] = mem8[of + i]
    else:
        copy_bytes(mem8, to, mem8, of, n)
