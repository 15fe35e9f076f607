"""Compiled translation table walks of VMSAv8-64: stage 1 (Arm ARM, D8).

All arithmetic is int64: descriptors are read as two's complement, and every field is taken by shift and
mask, so that the sign never matters (mixing uint64 and int64 would make floats of addresses).

The order of checks is the architecture's: input range and EPD; then level by level: is the table in memory
(EF), is the descriptor valid (TF), does the next table's address fit (ASF); at the leaf: access flag (AFF),
permission (PF), output address size (ASF), then stage 2. A walk does not know the access: it returns for each
kind of access whether it is allowed (`A_MAY_SHIFT`), and `settle` puts a permission fault into its place.

Stage 2 and nested walks: `_fast_stage2`. The caches of walks: `_fast_cache`.
"""

from __future__ import annotations

from typing import Any

import numpy as np

from unimem_node._jit import njit, njit_inline
from unimem_node.memory._fast import bank_of
from unimem_node.mmu import _fast_cache as cache
from unimem_node.mmu.regime import (
    A_AF,
    A_CONTIGUOUS,
    A_LEAF,
    A_LEVEL2_SHIFT,
    A_LEVEL_SHIFT,
    A_MAY2_SHIFT,
    A_MAY_SHIFT,
    A_MEMATTR_SHIFT,
    A_NS,
    A_PXN,
    A_READ_ONLY,
    A_TYPE_SHIFT,
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
    R_BIG_ENDIAN,
    R_EPD0,
    R_GRANULE_SHIFT0,
    R_IPS_BITS,
    R_MAIR,
    R_T0SZ,
    R_TBI0,
    R_TTBR0,
    R_WXN,
    S_STAGE_2,
    TF,
)

__all__ = [
    "ACCESS_EXECUTE",
    "ACCESS_PRIVILEGED",
    "ACCESS_WRITE",
    "permitted",
    "settle",
    "walk",
    "walk_stage1",
]

Result = tuple[int, int, int, int, int]

BITS_47_0 = (1 << 48) - 1
_BITS_55_0 = (1 << 56) - 1
_BYTES_EVEN = 0x00FF_00FF_00FF_00FF
_HALVES_EVEN = 0x0000_FFFF_0000_FFFF

#: Permissions and attributes of a stage 2 that is not there: everything, write-back.
NO_STAGE_2 = 0xFF << A_MAY2_SHIFT | 0xF << A_MEMATTR_SHIFT

# What a walk counts: vector of ten. Descriptor fetches by level of stage 1, then of stage 2; hits.
F_STAGE_2 = 4
F_WALK_HITS = 8
F_IPA_HITS = 9
FETCHED = 10


@njit_inline
def byte_swapped(value: Any) -> Any:
    """64 bits in the other byte order."""
    x: Any = np.int64(value)
    x = ((x >> 8) & _BYTES_EVEN) | ((x & _BYTES_EVEN) << 8)
    x = ((x >> 16) & _HALVES_EVEN) | ((x & _HALVES_EVEN) << 16)
    return ((x >> 32) & 0xFFFF_FFFF) | (x << 32)


@njit_inline
def group_bits(granule: int, level: int) -> Any:
    """log2 of the entries of a contiguous group: 16 (4 KiB granule), 128 and 32 (16 KiB), 32 (64 KiB)."""
    if granule == 12:
        return 4
    return 7 if granule == 14 and level == 3 else 5


@njit_inline
def enlarged(pa: Any, address: Any, shift: int, granule: int, level: int, bits: int) -> Any:
    """log2 of what the TLB entry of a leaf with the contiguous hint may cover: its group, if it is one."""
    more = group_bits(granule, level)
    if shift + more > bits or ((pa ^ address) >> shift) & ((1 << more) - 1) != 0:
        return shift
    return shift + more


def may_by_stage_1(user: int, read_only: int, pxn: int, uxn: int, wxn: int) -> int:
    """Eight bits: bit n set = stage 1 allows an access with ACCESS_* bits n (Arm ARM, D8.4).

    Privileged: read always, write when AP[2] = 0. Unprivileged: read when AP[1] = 1, write when AP[2] = 0
    too. Execute: XN of the privilege; with WXN nothing that the privilege may write; privileged never what is
    writable unprivileged.
    """
    write = 1 - read_only
    user_write = user & write
    user_execute = (1 - uxn) & (1 - (wxn & user_write))
    execute = (1 - pxn) & (1 - (wxn & write)) & (1 - user_write)
    return user | user_write << 1 | 4 | write << 3 | user_execute * 0x30 | execute * 0xC0


#: `may_by_stage_1` by AP[2:1], then PXN and UXN, then WXN: one load instead of thirty instructions a walk.
_MAY = np.array(
    [may_by_stage_1(i & 1, i >> 1 & 1, i >> 2 & 1, i >> 3 & 1, i >> 4) << A_MAY_SHIFT for i in range(32)],
    np.int64,
)


@njit_inline
def begin_stage1(row: Any, address: Any) -> Any:
    """(code, input bits, granule, level, shift, table) of a walk's start; code 0, TF or ASF."""
    half = (address >> 55) & 1  # bit 55 selects the table; columns of the two halves are neighbours
    bits = 64 - row[R_T0SZ + half]
    granule = row[R_GRANULE_SHIFT0 + half]
    if bits < 25 or bits > 48 or granule not in (12, 14, 16):
        return TF, 0, 12, 0, 0, 0
    top = address
    if row[R_TBI0 + half] != 0:
        top = (address & _BITS_55_0) | (-half & ~_BITS_55_0)
    if (top >> bits) != -half or row[R_EPD0 + half] != 0:
        return TF, 0, 12, 0, 0, 0
    stride = granule - 3
    shift = granule
    level = 3
    while shift + stride < bits:
        shift += stride
        level -= 1
    table = row[R_TTBR0 + half] & BITS_47_0 & -max(8 << (bits - shift), 64)
    if table >> row[R_IPS_BITS] != 0:
        return ASF, 0, 12, 0, 0, 0
    return OK, bits, granule, level, shift, table


@njit_inline
def end_stage1(
    row: Any, descriptor: Any, inherited: int, address: Any, level: int, shift: int, granule: int, bits: int
) -> Any:
    """(code, level, pa_base, shift, attrs) of a walk whose last descriptor is no table."""
    if descriptor & 1 == 0:
        return TF, level, 0, 0, 0
    if level == 3:
        if descriptor & 2 == 0:
            return TF, 3, 0, 0, 0  # reserved
    elif level == 0 or (level == 1 and granule != 12):
        return TF, level, 0, 0, 0  # no block of this size

    attrs = (descriptor & 0xFFC) | A_LEAF | ((descriptor >> 52) & 7) * A_CONTIGUOUS
    attrs |= (level << A_LEVEL_SHIFT) | NO_STAGE_2
    if inherited & 0x1F:
        attrs |= (inherited & 1) * A_PXN | ((inherited >> 1) & 1) * A_UXN
        attrs = (attrs & ~(((inherited >> 2) & 1) * A_USER)) | ((inherited >> 3) & 1) * A_READ_ONLY
        attrs |= ((inherited >> 4) & 1) * A_NS
    attrs |= _MAY[((attrs >> 6) & 3) | ((attrs >> 11) & 0xC) | row[R_WXN] << 4]  # A_USER, A_READ_ONLY, XN
    attrs |= ((row[R_MAIR] >> ((attrs << 1) & 0x38)) & 0xFF) << A_TYPE_SHIFT  # AttrIndx, in bits 4:2, times 8
    if attrs & A_AF == 0 and row[R_AF_ENABLED] != 0:
        return AFF, level, 0, shift, attrs
    pa = descriptor & BITS_47_0 & -(1 << shift)
    if pa >> row[R_IPS_BITS] != 0:
        return ASF, level, 0, shift, attrs
    if attrs & A_CONTIGUOUS == 0:  # apart, so that the size does not wait for the descriptor
        return OK, level, pa, shift, attrs
    size = enlarged(pa, address, shift, granule, level, bits)
    return OK, level, pa & -(1 << size), size, attrs


@njit_inline
def walk_stage1(
    mem64: Any, geometry: Any, row: Any, va: int, fetched: Any, rows: Any, state: Any, at: int, context: int
) -> Any:
    """Walk stage 1 for `va`; returns (code, syndrome, pa_base, shift, attrs, reads), all int64.

    code 0, or the FSR bit of the fault; the syndrome is the level where the walk ended; `pa_base` the output
    address of the page, block or contiguous group of ``1 << shift`` bytes; `attrs` its `A_*` bits. At an
    access flag or address size fault of a leaf the attributes are returned too: see `settle`. `va` is int64
    (uint64 works as well); `fetched` (10,) counts (F_*), `reads` the descriptors of this walk. `rows`,
    `state`, `at`: the cache of walks.
    """
    address: Any = np.int64(va)
    code, bits, granule, level, shift, table = begin_stage1(row, address)
    if code != OK:
        return code, 0, 0, 0, 0, 0
    stride = granule - 3
    index_mask = (1 << (bits - shift)) - 1
    ips = row[R_IPS_BITS]
    next_mask = BITS_47_0 & -(1 << granule)
    inherited = 0  # table attributes from above: bits 0 PXN, 1 XN, 2 APTable[0], 3 APTable[1], 4 NS
    uses = state[at + cache.H_USES] & cache.USE_STAGE_1
    if uses:
        hit, level = cache.find_table(rows, state, at, cache.KIND_TABLE_1, address, granule, level, context)
        if hit >= 0:
            table = rows[hit, cache.W_VALUE]
            inherited = rows[hit, cache.W_ATTRS]
            shift = granule + (3 - level) * stride
            index_mask = (1 << stride) - 1
            fetched[F_WALK_HITS] += 1
    descriptor: Any = np.int64(0)
    base = size = place = 0  # the bank the last table was in; most walks stay in one

    reads = 0
    while True:
        fetched[np.uint64(level)] += 1
        reads += 1
        entry = table + (((address >> shift) & index_mask) << 3)
        if entry < base or entry - base >= size:
            base, size, place = bank_of(geometry, entry)
            if size == 0:
                return EF, level, 0, 0, 0, reads
        descriptor = np.int64(mem64[np.uint64((entry - base + place) >> 3)])
        if row[R_BIG_ENDIAN] != 0:
            descriptor = byte_swapped(descriptor)
        if descriptor & 3 != 3 or level == 3:
            break
        table = descriptor & next_mask
        if table >> ips != 0:
            return ASF, level, 0, 0, 0, reads
        inherited |= (descriptor >> 59) & 0x1F
        if uses and level >= 1:
            cache.fill(rows, state, at, cache.KIND_TABLE_1, address, shift, context, table, inherited)
        level += 1
        shift -= stride
        index_mask = (1 << stride) - 1
    code, level, pa, shift, attrs = end_stage1(
        row, descriptor, inherited, address, level, shift, granule, bits
    )
    return code, level, pa, shift, attrs, reads


@njit_inline
def permitted(attrs: int, access: int) -> bool:
    """Tell whether both stages allow an access (`ACCESS_*` bits)."""
    return (attrs >> (A_MAY_SHIFT + access)) & (attrs >> (A_MAY2_SHIFT + access)) & 1 != 0


@njit_inline
def settle(code: int, syndrome: int, attrs: int, access: int) -> Any:
    """(code, syndrome) of a walk for one kind of access: a permission fault of the leaf in its place.

    That of stage 1 comes before the leaf's address size fault and before all that stage 2 says of the output
    address; an access flag fault of stage 1 comes before it.
    """
    if attrs & A_LEAF and (attrs >> (A_MAY_SHIFT + access)) & 1 == 0:
        if code in (OK, ASF) or syndrome & S_STAGE_2:
            return PF, (attrs >> A_LEVEL_SHIFT) & 3
    if (
        code == ASF
        and syndrome & S_STAGE_2
        and attrs & A_LEAF
        and (attrs >> (A_MAY2_SHIFT + access)) & 1 == 0
    ):
        return PF, (syndrome & ~3) | ((attrs >> A_LEVEL2_SHIFT) & 3)
    return code, syndrome


@njit
def _walk(mem64: Any, geometry: Any, row: Any, va: int, fetched: Any, rows: Any, state: Any) -> Any:
    return walk_stage1(mem64, geometry, row, va, fetched, rows, state, 0, 0)


def walk(mem64: Any, geometry: Any, row: Any, va: int, fetched: Any) -> Result:
    """Walk stage 1 without caches; see `walk_stage1`. For diagnosis and tests: a call from Python."""
    code, level, pa, shift, attrs, _ = _walk(mem64, geometry, row, va, fetched, cache.NO_ROWS, cache.NO_STATE)
    return code, level, pa, shift, attrs
