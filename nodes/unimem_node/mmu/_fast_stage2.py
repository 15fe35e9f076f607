"""Compiled walks of stage 2, and of stage 1 nested in it (Arm ARM, D8; SMMUv2, "Nested translation").

Stage 2 takes an intermediate physical address (IPA): no halves, no hierarchical attributes, up to sixteen
concatenated start tables, S2AP instead of AP, MemAttr instead of AttrIndx. In a nested walk every stage-1
table lies at an IPA, so each fetch of a stage-1 descriptor is translated, as a read, first (PTWF when that
fails), and the output address is translated last. The result is one entry: the smaller of the two sizes, the
permissions of both.
"""

from __future__ import annotations

from typing import Any

import numpy as np

from unimem_node._jit import njit
from unimem_node.memory._fast import bank_of
from unimem_node.mmu import _fast_cache as cache
from unimem_node.mmu._fast import (
    BITS_47_0,
    F_IPA_HITS,
    F_STAGE_2,
    F_WALK_HITS,
    NO_STAGE_2,
    begin_stage1,
    byte_swapped,
    end_stage1,
    enlarged,
)
from unimem_node.mmu.regime import (
    A_AF,
    A_CONTIGUOUS,
    A_LEAF,
    A_LEVEL2_SHIFT,
    A_MAY2_SHIFT,
    A_MAY_SHIFT,
    A_MEMATTR_SHIFT,
    A_SHIFT2_SHIFT,
    A_TYPE_SHIFT,
    ACCESS_READ,
    AFF,
    ASF,
    EF,
    OK,
    PF,
    R_AF_ENABLED,
    R_BIG_ENDIAN,
    R_GRANULE_SHIFT0,
    R_IPS_BITS,
    R_PA_MAX,
    R_PTW,
    R_SL0,
    R_T0SZ,
    R_TTBR0,
    S_IPA_SHIFT,
    S_PTWF,
    S_STAGE_2,
    TF,
)

#: What stage 1 says where there is none: every access allowed, write-back.
_NO_STAGE_1 = 0xFF << A_MAY_SHIFT | 0xFF << A_TYPE_SHIFT
#: The bits of `attrs` that are stage 2's.
_STAGE_2_BITS = 3 << A_LEVEL2_SHIFT | 0xFF << A_MAY2_SHIFT | 0xF << A_MEMATTR_SHIFT | 0x3F << A_SHIFT2_SHIFT


@njit
def fetch(mem64: Any, geometry: Any, address: Any, swapped: Any) -> Any:
    """(whether there is memory, descriptor) at a physical address."""
    base, size, place = bank_of(geometry, address)
    descriptor: Any = np.int64(0)
    if size == 0:
        return False, descriptor
    descriptor = np.int64(mem64[np.uint64((address - base + place) >> 3)])
    if swapped != 0:
        descriptor = byte_swapped(descriptor)
    return True, descriptor


@njit
def begin_stage2(row: Any, ipa: Any) -> Any:
    """(code, input bits, granule, level, shift, table) of a walk's start; code 0, TF or ASF.

    The input has 25 to 48 bits, as stage 1's. The start level is SL0's. It must fit the input size (at most
    sixteen concatenated tables, more than one entry's worth of input) and exist: level 0 only with 4 KiB
    granules; levels 0 (4 KiB) and 1 (16, 64 KiB) only where the implementation has output addresses above 42,
    40 and 42 bits.
    """
    bits = 64 - row[R_T0SZ]
    granule = row[R_GRANULE_SHIFT0]
    if bits < 25 or bits > 48 or granule not in (12, 14, 16) or row[R_SL0] > 2:
        return TF, 0, 12, 0, 0, 0
    stride = granule - 3
    level = (2 if granule == 12 else 3) - row[R_SL0]
    shift = granule + (3 - level) * stride
    most = row[R_PA_MAX]
    if level == 0 and (granule != 12 or most <= 42):
        return TF, 0, 12, 0, 0, 0
    if level == 1 and ((granule == 14 and most <= 40) or (granule == 16 and most <= 42)):
        return TF, 0, 12, 0, 0, 0
    if bits <= shift or bits > shift + stride + 4 or ipa < 0 or ipa >> bits != 0:
        return TF, 0, 12, 0, 0, 0
    table = row[R_TTBR0] & BITS_47_0 & -max(8 << (bits - shift), 64)
    if table >> row[R_IPS_BITS] != 0:
        return ASF, 0, 12, 0, 0, 0
    return OK, bits, granule, level, shift, table


@njit
def walk_stage2(
    mem64: Any, geometry: Any, row: Any, ipa: int, fetched: Any, rows: Any, state: Any, at: int, context: int
) -> Any:
    """Walk stage 2 for `ipa`; as `_fast.walk_stage1`. The syndrome has S_STAGE_2 and the IPA."""
    address: Any = np.int64(ipa)
    whose = S_STAGE_2 | (address & BITS_47_0) << S_IPA_SHIFT
    code, bits, granule, level, shift, table = begin_stage2(row, address)
    if code != OK:
        return code, whose, 0, 0, 0
    stride = granule - 3
    index_mask = (1 << (bits - shift)) - 1
    next_mask = BITS_47_0 & -(1 << granule)
    uses = state[at + cache.H_USES] & cache.USE_STAGE_2
    if uses:
        hit, level = cache.find_table(rows, state, at, cache.KIND_TABLE_2, address, granule, level, context)
        if hit >= 0:
            table = rows[hit, cache.W_VALUE]
            shift = granule + (3 - level) * stride
            index_mask = (1 << stride) - 1
            fetched[F_WALK_HITS] += 1
    while True:
        fetched[np.uint64(F_STAGE_2 + level)] += 1
        there, descriptor = fetch(
            mem64, geometry, table + (((address >> shift) & index_mask) << 3), row[R_BIG_ENDIAN]
        )
        if not there:
            return EF, whose | level, 0, 0, 0
        if descriptor & 3 != 3 or level == 3:
            break
        table = descriptor & next_mask
        if table >> row[R_IPS_BITS] != 0:
            return ASF, whose | level, 0, 0, 0
        if uses and level >= 1:
            cache.fill(rows, state, at, cache.KIND_TABLE_2, address, shift, context, table, 0)
        level += 1
        shift -= stride
        index_mask = (1 << stride) - 1

    whose |= level
    if descriptor & 1 == 0 or (level == 3 and descriptor & 2 == 0):
        return TF, whose, 0, 0, 0
    if level == 0 or (level == 1 and granule != 12):
        return TF, whose, 0, 0, 0
    attrs = (descriptor & 0x700) | A_LEAF | ((descriptor >> 52) & 1) * A_CONTIGUOUS | _NO_STAGE_1
    read = (descriptor >> 6) & 1
    write = (descriptor >> 7) & 1
    execute = read & (1 - ((descriptor >> 54) & 1))
    attrs |= (read * 0x05 | write * 0x0A | execute * 0xF0) << A_MAY2_SHIFT
    attrs |= ((descriptor >> 2) & 0xF) << A_MEMATTR_SHIFT | level << A_LEVEL2_SHIFT
    if attrs & A_AF == 0 and row[R_AF_ENABLED] != 0:
        return AFF, whose, 0, shift, attrs
    pa = descriptor & BITS_47_0 & -(1 << shift)
    if pa >> row[R_IPS_BITS] != 0:
        return ASF, whose, 0, shift, attrs
    size = enlarged(pa, address, shift, granule, level, bits) if attrs & A_CONTIGUOUS else shift
    return OK, whose, pa & -(1 << size), size, attrs | size << A_SHIFT2_SHIFT


@njit
def translate_ipa(
    mem64: Any, geometry: Any, row: Any, ipa: int, fetched: Any, rows: Any, state: Any, at: int, context: int
) -> Any:
    """(code, syndrome, pa, attrs) of one IPA, from the IPA cache or by a walk; permissions are in `attrs`."""
    granule = row[R_GRANULE_SHIFT0]
    page = (1 << granule) - 1
    uses = state[at + cache.H_USES] & cache.USE_IPA
    code, _, _, _, _, _ = begin_stage2(row, ipa)  # the range is checked whatever is cached
    if uses and code == OK:
        hit = cache.find(rows, state, at, cache.KIND_IPA, ipa, granule, context)
        if hit >= 0:
            fetched[F_IPA_HITS] += 1
            attrs = rows[hit, cache.W_ATTRS]
            whose = S_STAGE_2 | ipa << S_IPA_SHIFT | ((attrs >> A_LEVEL2_SHIFT) & 3)
            return OK, whose, rows[hit, cache.W_VALUE] | (ipa & page), attrs
    code, syndrome, base, shift, attrs = walk_stage2(
        mem64, geometry, row, ipa, fetched, rows, state, at, context
    )
    if code != OK:
        return code, syndrome, 0, attrs
    pa = base | (ipa & ((1 << shift) - 1))
    if uses:
        cache.fill(rows, state, at, cache.KIND_IPA, ipa, granule, context, pa & ~page, attrs)
    return OK, syndrome, pa, attrs


@njit
def _refused(code: int, syndrome: int, attrs: int, access: int) -> Any:
    """(code, syndrome) of stage 2 for one kind of access: the permission comes before the address size."""
    if (code in (OK, ASF)) and attrs & A_LEAF and (attrs >> (A_MAY2_SHIFT + access)) & 1 == 0:
        return PF, (syndrome & ~3) | ((attrs >> A_LEVEL2_SHIFT) & 3)
    return code, syndrome


@njit
def walk_nested(
    mem64: Any,
    geometry: Any,
    row: Any,
    row2: Any,
    va: int,
    fetched: Any,
    rows: Any,
    state: Any,
    at: int,
    context: int,
    context2: int,
) -> Any:
    """Walk stage 1 (`row`) nested in stage 2 (`row2`): (code, syndrome, pa_base, shift, attrs, ipa_base).

    The attributes are returned with a fault of stage 2 on the output address too: see `_fast.settle`.
    """
    address: Any = np.int64(va)
    code, bits, granule, level, shift, table = begin_stage1(row, address)
    if code != OK:
        return code, 0, 0, 0, 0, 0
    stride = granule - 3
    index_mask = (1 << (bits - shift)) - 1
    next_mask = BITS_47_0 & -(1 << granule)
    inherited = 0
    uses = state[at + cache.H_USES] & cache.USE_STAGE_1
    if uses:
        hit, level = cache.find_table(rows, state, at, cache.KIND_TABLE_1, address, granule, level, context)
        if hit >= 0:
            table = rows[hit, cache.W_VALUE]
            inherited = rows[hit, cache.W_ATTRS]
            shift = granule + (3 - level) * stride
            index_mask = (1 << stride) - 1
            fetched[F_WALK_HITS] += 1
    while True:
        where = table + (((address >> shift) & index_mask) << 3)
        code, syndrome, pa, attrs2 = translate_ipa(
            mem64, geometry, row2, where, fetched, rows, state, at, context2
        )
        code, syndrome = _refused(code, syndrome, attrs2, ACCESS_READ)
        if code == OK and row2[R_PTW] != 0 and (attrs2 >> (A_MEMATTR_SHIFT + 2)) & 3 == 0:
            code = PF  # a table in Device memory
            syndrome = (syndrome & ~3) | ((attrs2 >> A_LEVEL2_SHIFT) & 3)
        if code != OK:
            return code, syndrome | S_PTWF, 0, 0, 0, 0
        fetched[np.uint64(level)] += 1
        there, descriptor = fetch(mem64, geometry, pa, row[R_BIG_ENDIAN])
        if not there:
            return EF, level, 0, 0, 0, 0
        if descriptor & 3 != 3 or level == 3:
            break
        table = descriptor & next_mask
        if table >> row[R_IPS_BITS] != 0:
            return ASF, level, 0, 0, 0, 0
        inherited |= (descriptor >> 59) & 0x1F
        if uses and level >= 1:
            cache.fill(rows, state, at, cache.KIND_TABLE_1, address, shift, context, table, inherited)
        level += 1
        shift -= stride
        index_mask = (1 << stride) - 1
    code, level, base, size, attrs = end_stage1(
        row, descriptor, inherited, address, level, shift, granule, bits
    )
    if code != OK:
        return code, level, 0, size, attrs, 0
    ipa = base | (address & ((1 << size) - 1))
    code, syndrome, pa, attrs2 = translate_ipa(mem64, geometry, row2, ipa, fetched, rows, state, at, context2)
    if attrs2 & A_LEAF == 0:
        attrs2 = NO_STAGE_2  # no leaf, so no permission of stage 2 that `settle` could find refused
    attrs = (attrs & ~_STAGE_2_BITS) | (attrs2 & _STAGE_2_BITS)
    if code != OK:
        return code, syndrome, 0, size, attrs, ipa
    size = min(size, (attrs2 >> A_SHIFT2_SHIFT) & 0x3F)
    return OK, level, pa & -(1 << size), size, attrs, ipa & -(1 << size)
