"""Translation as compiled code: micro TLB, macro TLB, walk (MMU-500 TRM, "TLB" and "Page table walks").

A µTLB is fully associative with first-in-first-out replacement; the macro TLB is set-associative, the set
chosen by the page number, round robin within the set. Neither policy is published for the MMU-500: sizes
and ways are the platform's. Comparing 128 tags for each access would cost more than the walk it saves, so a
hash index over the entries (512 buckets with chains) finds the one that matches; what is cached, and what is
evicted when, stays that of the associative memory.

Two entries of different sizes for one address are a TLB match conflict: software has changed a table without
break-before-make. Where stage 2 takes part, an entry is of both stages (smaller size, both permissions), and
its IPA is kept beside it for the syndrome.

Integers are int64 throughout (an int64 with a uint64 would be a float for Numba); VAs of the upper half are
negative numbers.
"""

from __future__ import annotations

from typing import Any

import numpy as np

from unimem_node._jit import njit, njit_inline
from unimem_node.mmu._fast import FETCHED, permitted, settle, walk_stage1
from unimem_node.mmu._fast_stage2 import walk_nested, walk_stage2
from unimem_node.mmu.regime import (
    A_LEVEL2_SHIFT,
    A_LEVEL_SHIFT,
    A_MAY_SHIFT,
    A_NOT_GLOBAL,
    ACCESS_WRITE,
    ASF,
    MODE_BLOCKED,
    MODE_BYPASS,
    MODE_TRANSLATE,
    OK,
    PF,
    R_MODE,
    R_S2,
    R_SIGN_BIT,
    R_STAGES,
    S_IPA_SHIFT,
    S_STAGE_2,
    STAGE_1,
    STAGE_2,
    TLBMCF,
)
from unimem_node.smmu.arrays import (
    BLOCKED,
    BUCKETS,
    C_BYPASSES,
    C_MACRO_HITS,
    C_READS,
    C_UTLB_HITS,
    C_WALKS,
    CLASS_GLOBAL,
    CLASS_SHIFT,
    GLOBAL_ASID,
    INPUT_BITS,
    LANE_TBU,
    M_CLASSES,
    M_FIRST,
    M_IPAS,
    M_LINKS,
    M_POINTERS,
    M_SET_MASK,
    M_WALKS,
    M_WAYS,
    MAX_CLASSES,
    OUTPUT_BITS,
    R_CONTEXT,
    STATE_TBU,
    T_ATTRS,
    T_CONTEXT,
    T_DESCRIPTOR_READ,
    T_MACRO_HIT,
    T_MICRO_HIT,
    T_PA,
    T_PAGE,
    U_CLASSES,
    U_COLS,
    U_ENTRIES,
    U_FIRST,
    U_HEADS,
    U_NEXT,
)

OUTPUT_END = 1 << OUTPUT_BITS
CODE_MASK = CLASS_SHIFT | CLASS_GLOBAL
BUCKET_MASK = BUCKETS - 1


@njit_inline
def bucket_of(page: int, context: int) -> Any:
    """Bucket of a tag. Folding by 9 bits brings the page numbers of 4 KiB, 2 MiB and 1 GiB down."""
    x = page >> 12
    return (x ^ (x >> 9) ^ (x >> 18) ^ (context + (context >> 11))) & BUCKET_MASK


@njit_inline
def _tag_context(context: int, code: int) -> Any:
    """The context an entry of class `code` is tagged with: global entries carry no ASID."""
    return context | GLOBAL_ASID if code & CLASS_GLOBAL else context


@njit_inline
def add_class(state: Any, classes: int, code: int) -> None:
    """Note that entries of class `code` are present (`classes`: offset of the list in `tlb_state`)."""
    n = state[classes]
    for i in range(n):
        if state[classes + 1 + i] == code:
            return
    assert n < MAX_CLASSES
    state[classes + 1 + n] = code
    state[classes] = n + 1


@njit_inline
def fill_micro(tlb: Any, state: Any, tbu: int, page: int, context: int, pa: int, attrs: int) -> Any:
    """Put an entry into a TBU's µTLB in place of the oldest; returns its row."""
    unit = STATE_TBU + tbu * U_COLS
    entry = state[unit + U_NEXT]
    following = entry + 1
    if following == state[unit + U_ENTRIES]:
        following = 0
    state[unit + U_NEXT] = following
    row = state[unit + U_FIRST] + entry
    links = state[M_LINKS]
    old = tlb[row, T_PAGE]
    if old != 0:  # take the victim out of its chain
        at = unit + U_HEADS + bucket_of(old, tlb[row, T_CONTEXT])
        while state[at] != row:
            at = links + state[at]
        state[at] = state[links + row]
    tlb[row, T_PAGE] = page
    tlb[row, T_CONTEXT] = context
    tlb[row, T_PA] = pa
    tlb[row, T_ATTRS] = attrs
    at = unit + U_HEADS + bucket_of(page, context)
    state[links + row] = state[at]
    state[at] = row
    add_class(state, unit + U_CLASSES, page & CODE_MASK)
    return row


@njit_inline
def fill_macro(tlb: Any, state: Any, page: int, context: int, pa: int, attrs: int) -> Any:
    """Put an entry into the macro TLB: the next way of its set, round robin; returns its row."""
    index = (page >> (page & CLASS_SHIFT)) & state[M_SET_MASK]
    pointer = state[M_POINTERS] + index
    way = state[pointer]
    following = way + 1
    if following == state[M_WAYS]:
        following = 0
    state[pointer] = following
    row = state[M_FIRST] + index * state[M_WAYS] + way
    tlb[row, T_PAGE] = page
    tlb[row, T_CONTEXT] = context
    tlb[row, T_PA] = pa
    tlb[row, T_ATTRS] = attrs
    add_class(state, M_CLASSES, page & CODE_MASK)
    return row


@njit_inline
def find_micro(tlb: Any, state: Any, unit: int, context: int, va: int) -> Any:
    """Row of the µTLB entry for `va`, 0 if there is none, -1 if there are two (of different sizes)."""
    found = 0
    for i in range(state[unit + U_CLASSES]):
        code = state[unit + U_CLASSES + 1 + i]
        shift = code & CLASS_SHIFT
        page = (va >> shift << shift) | code
        wanted = _tag_context(context, code)
        row = state[unit + U_HEADS + bucket_of(page, wanted)]
        while row != 0:
            if tlb[row, T_PAGE] == page and tlb[row, T_CONTEXT] == wanted:
                if found != 0:
                    return -1
                found = row
                break
            row = state[state[M_LINKS] + row]
    return found


@njit_inline
def find_macro(tlb: Any, state: Any, context: int, va: int) -> Any:
    """Row of the macro TLB entry for `va`, 0 if there is none, -1 if there are two (of different sizes)."""
    ways = state[M_WAYS]
    found = 0
    for i in range(state[M_CLASSES]):
        code = state[M_CLASSES + 1 + i]
        shift = code & CLASS_SHIFT
        page = (va >> shift << shift) | code
        wanted = _tag_context(context, code)
        first = state[M_FIRST] + ((va >> shift) & state[M_SET_MASK]) * ways
        for row in range(first, first + ways):
            if tlb[row, T_PAGE] == page and tlb[row, T_CONTEXT] == wanted:
                if found != 0:
                    return -1
                found = row
                break
    return found


@njit_inline
def upper_half(va: int) -> Any:
    """The 64-bit address of an input of 49 bits, whose bit 48 is its sign (TRM5, CB_TCR2.SEP = 7)."""
    return va - (1 << INPUT_BITS) if va >> OUTPUT_BITS == 1 else va


@njit_inline
def sign_extended(va: int, bit: int) -> Any:
    """The 64-bit address of an input whose sign is `bit` (CB_TCR2.SEP); what lies above it is ignored."""
    return va << (63 - bit) >> (63 - bit)


@njit_inline
def descriptor_reads(counts: Any, lane: int) -> Any:
    """Descriptors fetched through a lane so far, both stages."""
    total = 0
    for column in range(C_READS, C_READS + 8):
        total += counts[lane, column]
    return total


@njit
def _walk_two_stages(arrays: Any, lane: int, cb: int, va: int) -> Any:
    """Walk of a bank with stage 2: (code, syndrome, pa, shift, attrs, ipa); all but the TLBs are filled."""
    row = arrays.regimes[cb]
    row2 = arrays.regimes[row[R_S2]]
    fetched = arrays.counters[lane, C_READS : C_READS + FETCHED]
    address = upper_half(va)
    if row[R_STAGES] & STAGE_1 == 0:
        code, syndrome, pa, shift, attrs = walk_stage2(
            arrays.mem64, arrays.geometry, row2, address, fetched, arrays.tlb, arrays.tlb_state, M_WALKS,
            row2[R_CONTEXT],
        )  # fmt: skip
        return code, syndrome, pa, shift, attrs, address & -(1 << shift)
    return walk_nested(
        arrays.mem64, arrays.geometry, row, row2, address, fetched, arrays.tlb, arrays.tlb_state, M_WALKS,
        row[R_CONTEXT], row2[R_CONTEXT],
    )  # fmt: skip


@njit_inline
def _refill(arrays: Any, lane: int, cb: int, va: int, write: int) -> Any:
    """After a µTLB miss: ``(code, syndrome, row of the µTLB, attrs, cost_ps)`` from the macro TLB or a walk.

    Faults are not cached. The permission check is the caller's, for hits and walks alike.
    """
    tlb = arrays.tlb
    state = arrays.tlb_state
    counters = arrays.counters
    tbu = lane & LANE_TBU
    context = arrays.regimes[cb, R_CONTEXT]
    staged = arrays.regimes[cb, R_STAGES] & STAGE_2
    cost = arrays.timing[T_MACRO_HIT]
    row = find_macro(tlb, state, context, va)
    if row < 0:
        return TLBMCF, 0, 0, 0, cost
    if row != 0:
        counters[lane, C_MACRO_HITS + write] += 1
        attrs = tlb[row, T_ATTRS]
        micro = fill_micro(tlb, state, tbu, tlb[row, T_PAGE], tlb[row, T_CONTEXT], tlb[row, T_PA], attrs)
        if staged:
            tlb[state[M_IPAS] + micro, 0] = tlb[state[M_IPAS] + row, 0]
        return OK, 0, micro, attrs, cost
    counters[lane, C_WALKS + write] += 1
    ipa = 0
    if staged:
        before = descriptor_reads(counters, lane)
        code, syndrome, pa, shift, attrs, ipa = _walk_two_stages(arrays, lane, cb, va)
        reads = descriptor_reads(counters, lane) - before
    else:
        fetched = counters[lane, C_READS : C_READS + FETCHED]
        code, syndrome, pa, shift, attrs, reads = walk_stage1(
            arrays.mem64, arrays.geometry, arrays.regimes[cb], upper_half(va), fetched, tlb, state, M_WALKS,
            context,
        )  # fmt: skip
    cost += reads * arrays.timing[T_DESCRIPTOR_READ]
    if code != OK:
        return code, syndrome, 0, attrs, cost
    kind = shift if attrs & A_NOT_GLOBAL else shift | CLASS_GLOBAL
    page = (va >> shift << shift) | kind
    wanted = _tag_context(context, kind)
    row = fill_macro(tlb, state, page, wanted, pa, attrs)
    micro = fill_micro(tlb, state, tbu, page, wanted, pa, attrs)
    if staged:
        tlb[state[M_IPAS] + row, 0] = ipa
        tlb[state[M_IPAS] + micro, 0] = ipa
    return OK, syndrome, micro, attrs, cost


@njit_inline
def refused(arrays: Any, row: int, attrs: int, va: int, access: int) -> Any:
    """Syndrome of a permission fault by a TLB entry: stage 1's, if it refuses, comes first."""
    if (attrs >> (A_MAY_SHIFT + access)) & 1 == 0:
        return (attrs >> A_LEVEL_SHIFT) & 3
    within = va & ((1 << (arrays.tlb[row, T_PAGE] & CLASS_SHIFT)) - 1)
    ipa = arrays.tlb[arrays.tlb_state[M_IPAS] + row, 0] | within
    return ((attrs >> A_LEVEL2_SHIFT) & 3) | S_STAGE_2 | ipa << S_IPA_SHIFT


@njit_inline
def translate(arrays: Any, lane: int, cb: int, va: int, access: int) -> Any:
    """One access: ``(code, info, pa, span, cost_ps)``. Records no fault: `Smmu.fault` does.

    `lane`: see `arrays.LANES`; `cb` -1 is a bypass stream. `code` is 0, the FSR bit position, or BLOCKED.
    `info` is the entry's attributes (A_*, 0 for a bypass) or, of a fault, its syndrome (S_*). `span`: the
    bytes from `va` to the end of its page or block, contiguous from `pa`. `access`: ACCESS_* bits of floor 1.
    """
    cost = arrays.timing[T_MICRO_HIT]
    write = access & ACCESS_WRITE
    if cb < 0 or arrays.regimes[cb, R_MODE] == MODE_BYPASS:
        arrays.counters[lane, C_BYPASSES + write] += 1
        if va < 0 or va >= OUTPUT_END:
            return ASF, 0, 0, 0, cost
        return 0, 0, va, OUTPUT_END - va, cost
    address: Any = np.int64(va)
    mode = arrays.regimes[cb, R_MODE]
    if mode != MODE_TRANSLATE:
        if mode == MODE_BLOCKED:
            return BLOCKED, 0, 0, 0, 0
        address = sign_extended(address, arrays.regimes[cb, R_SIGN_BIT])
    row = find_micro(
        arrays.tlb,
        arrays.tlb_state,
        STATE_TBU + (lane & LANE_TBU) * U_COLS,
        arrays.regimes[cb, R_CONTEXT],
        address,
    )
    if row > 0:
        arrays.counters[lane, C_UTLB_HITS + write] += 1
        attrs = arrays.tlb[row, T_ATTRS]
    else:
        if row < 0:
            return TLBMCF, 0, 0, 0, cost
        code, syndrome, row, attrs, extra = _refill(arrays, lane, cb, address, write)
        cost += extra
        if code != OK:
            code, syndrome = settle(code, syndrome, attrs, access)
            return code, syndrome, 0, 0, cost
    if not permitted(attrs, access):
        return PF, refused(arrays, row, attrs, address, access), 0, 0, cost
    size = 1 << (arrays.tlb[row, T_PAGE] & CLASS_SHIFT)
    within = address & (size - 1)
    return 0, attrs, arrays.tlb[row, T_PA] | within, size - within, cost


@njit
def translate_many(arrays: Any, lane: int, cb: int, vas: Any, access: int, pas_out: Any) -> Any:
    """Translate ``vas`` (uint64[:]) into ``pas_out`` (uint64[:]); the number done before the first fault."""
    for i in range(vas.shape[0]):
        va: Any = np.int64(vas[i])
        code, _, pa, _, _ = translate(arrays, lane, cb, va, access)
        if code != 0:
            return i
        pas_out[i] = pa
    return vas.shape[0]
