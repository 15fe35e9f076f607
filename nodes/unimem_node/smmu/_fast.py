"""Translation as compiled code: micro TLB, macro TLB, walk (MMU-500 TRM, "TLB" and "Page table walks").

A µTLB is fully associative with first-in-first-out replacement; the macro TLB is set-associative, the set
chosen by the page number, round robin within the set. Neither policy is published for the MMU-500: sizes
and ways are the platform's. Comparing 128 tags for each access would cost more than the walk it saves, so a
hash index over the entries (512 buckets with chains) finds the one that matches; what is cached, and what is
evicted when, stays that of the associative memory.

Integers are int64 throughout (an int64 with a uint64 would be a float for Numba); VAs of the upper half are
negative numbers.
"""

from __future__ import annotations

from typing import Any

import numpy as np

from unimem_node._jit import njit, njit_inline
from unimem_node.mmu._fast import permitted, settle, walk
from unimem_node.mmu.regime import A_LEVEL_SHIFT, A_NOT_GLOBAL, ASF, OK, PF, R_ENABLED, R_WXN
from unimem_node.smmu.arrays import (
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
    M_CLASSES,
    M_FIRST,
    M_LINKS,
    M_POINTERS,
    M_SET_MASK,
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
def fill_micro(tlb: Any, state: Any, tbu: int, page: int, context: int, pa: int, attrs: int) -> None:
    """Put an entry into a TBU's µTLB in place of the oldest."""
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


@njit_inline
def fill_macro(tlb: Any, state: Any, page: int, context: int, pa: int, attrs: int) -> None:
    """Put an entry into the macro TLB: the next way of its set, round robin."""
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


@njit_inline
def find_micro(tlb: Any, state: Any, unit: int, context: int, va: int) -> Any:
    """Row of the µTLB entry for `va`, or 0."""
    for i in range(state[unit + U_CLASSES]):
        code = state[unit + U_CLASSES + 1 + i]
        shift = code & CLASS_SHIFT
        page = (va >> shift << shift) | code
        wanted = _tag_context(context, code)
        row = state[unit + U_HEADS + bucket_of(page, wanted)]
        while row != 0:
            if tlb[row, T_PAGE] == page and tlb[row, T_CONTEXT] == wanted:
                return row
            row = state[state[M_LINKS] + row]
    return 0


@njit_inline
def find_macro(tlb: Any, state: Any, context: int, va: int) -> Any:
    """Row of the macro TLB entry for `va`, or 0."""
    ways = state[M_WAYS]
    for i in range(state[M_CLASSES]):
        code = state[M_CLASSES + 1 + i]
        shift = code & CLASS_SHIFT
        page = (va >> shift << shift) | code
        wanted = _tag_context(context, code)
        first = state[M_FIRST] + ((va >> shift) & state[M_SET_MASK]) * ways
        for row in range(first, first + ways):
            if tlb[row, T_PAGE] == page and tlb[row, T_CONTEXT] == wanted:
                return row
    return 0


@njit_inline
def sign_extended(va: int) -> Any:
    """An input address has 49 bits; bit 48 says that it is of the upper half (TRM5, CB_TCR2.SEP = 7)."""
    return va - (1 << INPUT_BITS) if va >> OUTPUT_BITS == 1 else va


@njit_inline
def _refill(arrays: Any, tbu: int, cb: int, va: int) -> Any:
    """After a µTLB miss: ``(code, level, page's pa, shift, attrs, cost_ps)`` from the macro TLB or a walk.

    Faults are not cached. The permission check is the caller's, for hits and walks alike.
    """
    tlb = arrays.tlb
    state = arrays.tlb_state
    counters = arrays.counters
    context = arrays.regimes[cb, R_CONTEXT]
    cost = arrays.timing[T_MACRO_HIT]
    row = find_macro(tlb, state, context, va)
    if row != 0:
        counters[tbu, C_MACRO_HITS] += 1
        page = tlb[row, T_PAGE]
        pa = tlb[row, T_PA]
        attrs = tlb[row, T_ATTRS]
        fill_micro(tlb, state, tbu, page, tlb[row, T_CONTEXT], pa, attrs)
        return 0, 0, pa, page & CLASS_SHIFT, attrs, cost
    counters[tbu, C_WALKS] += 1
    reads = counters[tbu, C_READS : C_READS + 4]
    before = reads[0] + reads[1] + reads[2] + reads[3]
    code, level, pa, shift, attrs = walk(
        arrays.mem64, arrays.geometry, arrays.regimes[cb], sign_extended(va), reads
    )
    cost += (reads[0] + reads[1] + reads[2] + reads[3] - before) * arrays.timing[T_DESCRIPTOR_READ]
    if code == OK:
        kind = shift if attrs & A_NOT_GLOBAL else shift | CLASS_GLOBAL
        page = (va >> shift << shift) | kind
        wanted = _tag_context(context, kind)
        fill_macro(tlb, state, page, wanted, pa, attrs)
        fill_micro(tlb, state, tbu, page, wanted, pa, attrs)
    return code, level, pa, shift, attrs, cost


@njit_inline
def translate(arrays: Any, tbu: int, cb: int, va: int, access: int) -> Any:
    """One access: ``(code, level, pa, span, cost_ps)``. Records no fault: `Smmu.fault` does.

    `cb` -1 is a bypass stream. `code` is 0 or the FSR bit position; `level` that of the walk; `span` the
    bytes from `va` to the end of its page or block, contiguous from `pa`. `access`: ACCESS_* bits of floor 1.
    """
    cost = arrays.timing[T_MICRO_HIT]
    if cb < 0 or arrays.regimes[cb, R_ENABLED] == 0:
        arrays.counters[tbu, C_BYPASSES] += 1
        if va < 0 or va >= OUTPUT_END:
            return ASF, 0, 0, 0, cost
        return 0, 0, va, OUTPUT_END - va, cost
    row = find_micro(
        arrays.tlb, arrays.tlb_state, STATE_TBU + tbu * U_COLS, arrays.regimes[cb, R_CONTEXT], va
    )
    if row != 0:
        arrays.counters[tbu, C_UTLB_HITS] += 1
        pa = arrays.tlb[row, T_PA]
        shift = arrays.tlb[row, T_PAGE] & CLASS_SHIFT
        attrs = arrays.tlb[row, T_ATTRS]
    else:
        code, level, pa, shift, attrs, extra = _refill(arrays, tbu, cb, va)
        cost += extra
        if code != OK:
            return settle(code, attrs, access, arrays.regimes[cb, R_WXN]), level, 0, 0, cost
    if not permitted(attrs, access, arrays.regimes[cb, R_WXN]):
        return PF, (attrs >> A_LEVEL_SHIFT) & 3, 0, 0, cost
    within = va & ((1 << shift) - 1)
    return 0, (attrs >> A_LEVEL_SHIFT) & 3, pa | within, (1 << shift) - within, cost


@njit
def translate_many(arrays: Any, tbu: int, cb: int, vas: Any, access: int, pas_out: Any) -> Any:
    """Translate ``vas`` (uint64[:]) into ``pas_out`` (uint64[:]); the number done before the first fault."""
    for i in range(vas.shape[0]):
        va: Any = np.int64(vas[i])
        code, _, pa, _, _ = translate(arrays, tbu, cb, va, access)
        if code != 0:
            return i
        pas_out[i] = pa
    return vas.shape[0]
