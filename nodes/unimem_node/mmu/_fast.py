"""Compiled translation table walk of VMSAv8-64, stage 1 (Arm ARM, D8; granules 4, 16 and 64 KiB).

All arithmetic is int64: descriptors are read as two's complement, and every field is taken by shift and
mask, so that the sign never matters (mixing uint64 and int64 would make floats of addresses).

The order of checks is the architecture's: input range and EPD; then level by level: is the table in memory
(EF), is the descriptor valid (TF), does the next table's address fit (ASF); at the leaf: access flag (AFF),
permission (PF), output address size (ASF). `walk` does not know the access; `settle` puts the permission
into its place, between the last two.
"""

from __future__ import annotations

from typing import Any

import numpy as np

from unimem_node._jit import njit_inline
from unimem_node.memory._fast import bank_of
from unimem_node.mmu.regime import (
    A_AF,
    A_CONTIGUOUS,
    A_LEAF,
    A_LEVEL_SHIFT,
    A_NS,
    A_PXN,
    A_READ_ONLY,
    A_USER,
    A_UXN,
    ACCESS_EXECUTE,
    ACCESS_PRIVILEGED,
    ACCESS_WRITE,
    AFF,
    ASF,
    EF,
    OK,
    PF,
    R_AF_ENABLED,
    R_EPD0,
    R_GRANULE_SHIFT0,
    R_IPS_BITS,
    R_T0SZ,
    R_TBI0,
    R_TTBR0,
    TF,
)

__all__ = [
    "ACCESS_EXECUTE",
    "ACCESS_PRIVILEGED",
    "ACCESS_WRITE",
    "permitted",
    "settle",
    "walk",
]

Result = tuple[int, int, int, int, int]

_BITS_47_0 = (1 << 48) - 1
_BITS_55_0 = (1 << 56) - 1


@njit_inline
def walk(mem64: Any, geometry: Any, regime_row: Any, va: int, reads_by_level: Any) -> Result:
    """Walk the tables for `va`; returns (code, level, pa_base, shift, attrs), all int64.

    code 0, or the FSR bit of the fault; `level` where the walk ended; `pa_base` the output address of the
    page or block of ``1 << shift`` bytes; `attrs` its `A_*` bits. At an address size fault of a leaf the
    attributes are returned too, because a permission fault comes before it: see `settle`. `va` is int64
    (uint64 works as well); reads_by_level (4,) counts the descriptors fetched.
    """
    address: Any = np.int64(va)
    half = (address >> 55) & 1  # bit 55 selects the table; columns of the two halves are neighbours
    bits = 64 - regime_row[R_T0SZ + half]
    granule = regime_row[R_GRANULE_SHIFT0 + half]
    if bits < 25 or bits > 48 or granule not in (12, 14, 16):
        return TF, 0, 0, 0, 0
    top = address
    if regime_row[R_TBI0 + half] != 0:
        top = (address & _BITS_55_0) | (-half & ~_BITS_55_0)
    if (top >> bits) != -half or regime_row[R_EPD0 + half] != 0:
        return TF, 0, 0, 0, 0

    stride = granule - 3
    shift = granule
    level = 3
    while shift + stride < bits:
        shift += stride
        level -= 1
    start_bytes = max(8 << (bits - shift), 64)
    table = regime_row[R_TTBR0 + half] & _BITS_47_0 & -start_bytes
    ips = regime_row[R_IPS_BITS]
    if table >> ips != 0:
        return ASF, 0, 0, 0, 0
    index_mask = (1 << (bits - shift)) - 1
    next_mask = _BITS_47_0 & -(1 << granule)
    inherited = 0  # table attributes from above: bits 59 PXN, 60 XN, 61 APTable[0], 62 APTable[1], 63 NS
    descriptor: Any = np.int64(0)
    code = OK
    base = size = place = 0  # the bank the last table was in; most walks stay in one

    while True:
        reads_by_level[np.uint64(level)] += 1
        entry = table + (((address >> shift) & index_mask) << 3)
        if entry < base or entry - base >= size:
            base, size, place = bank_of(geometry, entry)
            if size == 0:
                code = EF
                break
        descriptor = np.int64(mem64[np.uint64((entry - base + place) >> 3)])
        if descriptor & 3 != 3 or level == 3:
            break
        table = descriptor & next_mask
        if table >> ips != 0:
            code = ASF
            break
        inherited |= descriptor >> 59
        level += 1
        shift -= stride
        index_mask = (1 << stride) - 1

    if code != OK:
        return code, level, 0, 0, 0
    if descriptor & 1 == 0:
        return TF, level, 0, 0, 0
    if level == 3:
        if descriptor & 2 == 0:
            return TF, 3, 0, 0, 0  # reserved
    elif level == 0 or (level == 1 and granule != 12):
        return TF, level, 0, 0, 0  # no block of this size

    attrs = (descriptor & 0xFFC) | A_LEAF | ((descriptor >> 52) & 7) * A_CONTIGUOUS | (level << A_LEVEL_SHIFT)
    if inherited & 0x1F:
        attrs |= (inherited & 1) * A_PXN | ((inherited >> 1) & 1) * A_UXN
        attrs = (attrs & ~(((inherited >> 2) & 1) * A_USER)) | ((inherited >> 3) & 1) * A_READ_ONLY
        attrs |= ((inherited >> 4) & 1) * A_NS
    if attrs & A_AF == 0 and regime_row[R_AF_ENABLED] != 0:
        return AFF, level, 0, shift, attrs
    pa_base = descriptor & _BITS_47_0 & -(1 << shift)
    if pa_base >> ips != 0:
        return ASF, level, 0, shift, attrs
    return OK, level, pa_base, shift, attrs


@njit_inline
def permitted(attrs: int, access: int, wxn: int) -> bool:
    """Tell whether a leaf's attributes allow an access (`ACCESS_*` bits); `wxn` is the regime's R_WXN.

    Privileged: read always, write when AP[2] = 0. Unprivileged: read when AP[1] = 1, write when AP[2] = 0
    too. Execute: XN of the privilege, and with WXN nothing that the privilege may write.
    """
    privileged = access & ACCESS_PRIVILEGED
    reachable = privileged != 0 or attrs & A_USER != 0
    if access & ACCESS_EXECUTE:
        if attrs & (A_PXN if privileged else A_UXN):
            return False
        return not (wxn != 0 and reachable and attrs & A_READ_ONLY == 0)
    return reachable and (access & ACCESS_WRITE == 0 or attrs & A_READ_ONLY == 0)


@njit_inline
def settle(code: int, attrs: int, access: int, wxn: int) -> int:
    """Return the code of a walk for an access: a permission fault replaces success and the leaf's ASF."""
    if code in (OK, ASF) and attrs & A_LEAF and not permitted(attrs, access, wxn):
        return PF
    return code
