"""Removing entries from the TLBs and from the walk and IPA cache, compiled: one pass over all rows.

The survivors in the TLBs close up: their state after a removal is that of TLBs which were filled with the
survivors alone, oldest first: free places are used before an entry is replaced, and the hash index and the
list of classes hold nothing stale.
"""

from __future__ import annotations

from typing import Any, Final

from unimem_node._jit import njit
from unimem_node.mmu._fast_cache import (
    H_FIRST,
    H_POINTERS,
    H_SET_MASK,
    H_WAYS,
    KIND,
    KIND_IPA,
    KIND_TABLE_1,
    SIZE,
)
from unimem_node.mmu.regime import A_SHIFT2_SHIFT
from unimem_node.smmu._fast import CODE_MASK, add_class, bucket_of
from unimem_node.smmu.arrays import (
    BUCKETS,
    CLASS_GLOBAL,
    CLASS_SHIFT,
    CONTEXT_STAGE_2,
    GLOBAL_ASID,
    INPUT_BITS,
    M_CLASSES,
    M_FIRST,
    M_IPAS,
    M_LINKS,
    M_POINTERS,
    M_ROWS,
    M_SET_MASK,
    M_TBUS,
    M_WALKS,
    M_WAYS,
    STATE_TBU,
    T_ATTRS,
    T_CONTEXT,
    T_PAGE,
    TLB_COLS,
    U_CLASSES,
    U_COLS,
    U_ENTRIES,
    U_FIRST,
    U_HEADS,
    U_NEXT,
)

# What an operation may reach
OF_STAGE_1: Final = 1  # TLB entries of stage 1, alone or combined with stage 2
OF_STAGE_2: Final = 2  # TLB entries of stage 2 alone
TABLES_1: Final = 4  # walk cache, stage 1
TABLES_2: Final = 8  # walk cache, stage 2
IPAS: Final = 16  # IPA cache
EVERYTHING: Final = 31


@njit
def _close_up(tlb: Any, ipas: int, first: int, size: int, oldest: int, scratch: Any) -> Any:
    """Bring the entries of ``tlb[first:first+size]``, a ring from `oldest` on, to its front; their number."""
    kept = 0
    for i in range(size):
        at = oldest + i
        if at >= size:
            at -= size
        if tlb[first + at, T_PAGE] != 0:
            for column in range(TLB_COLS):
                scratch[kept, column] = tlb[first + at, column]
            scratch[kept, TLB_COLS] = tlb[ipas + first + at, 0]
            kept += 1
    for i in range(size):
        for column in range(TLB_COLS):
            tlb[first + i, column] = scratch[i, column] if i < kept else 0
        tlb[ipas + first + i, 0] = scratch[i, TLB_COLS] if i < kept else 0
    return kept


@njit
def _rebuild_micro(tlb: Any, state: Any, tbu: int, scratch: Any) -> None:
    unit = STATE_TBU + tbu * U_COLS
    first = state[unit + U_FIRST]
    size = state[unit + U_ENTRIES]
    kept = _close_up(tlb, state[M_IPAS], first, size, state[unit + U_NEXT], scratch)
    state[unit + U_NEXT] = kept if kept < size else 0
    state[unit + U_CLASSES] = 0
    for i in range(BUCKETS):
        state[unit + U_HEADS + i] = 0
    links = state[M_LINKS]
    for row in range(first, first + kept):
        at = unit + U_HEADS + bucket_of(tlb[row, T_PAGE], tlb[row, T_CONTEXT])
        state[links + row] = state[at]
        state[at] = row
        add_class(state, unit + U_CLASSES, tlb[row, T_PAGE] & CODE_MASK)


@njit
def _rebuild_macro(tlb: Any, state: Any, scratch: Any) -> None:
    ways = state[M_WAYS]
    state[M_CLASSES] = 0
    for index in range(state[M_SET_MASK] + 1):
        first = state[M_FIRST] + index * ways
        pointer = state[M_POINTERS] + index
        kept = _close_up(tlb, state[M_IPAS], first, ways, state[pointer], scratch)
        state[pointer] = kept if kept < ways else 0
        for row in range(first, first + kept):
            add_class(state, M_CLASSES, tlb[row, T_PAGE] & CODE_MASK)


@njit
def _clear_walks(
    tlb: Any, state: Any, reach: int, mask: int, value: int, by_address: bool, address: int
) -> Any:
    """Remove what matches from the walk and IPA cache; the number of rows. A set left empty starts anew."""
    header = M_WALKS
    ways = state[header + H_WAYS]
    removed = 0
    for index in range(state[header + H_SET_MASK] + 1 if ways else 0):
        first = state[header + H_FIRST] + index * ways
        left = 0
        for row in range(first, first + ways):
            tag = tlb[row, T_PAGE]
            if tag == 0:
                continue
            kind = tag & KIND
            shift = tag & SIZE
            if kind == KIND_IPA:
                wanted = IPAS
                shift = (tlb[row, T_ATTRS] >> A_SHIFT2_SHIFT) & 0x3F  # all that the leaf covers goes with it
            else:
                wanted = TABLES_1 if kind == KIND_TABLE_1 else TABLES_2
            matches = reach & wanted != 0 and (tlb[row, T_CONTEXT] ^ value) & mask == 0
            if by_address and ((tag ^ address) >> shift) & ((1 << (INPUT_BITS - shift)) - 1):
                matches = False
            if matches:
                tlb[row, T_PAGE] = 0
                removed += 1
            else:
                left += 1
        if left == 0:
            state[state[header + H_POINTERS] + index] = 0
    return removed


@njit
def invalidate(
    tlb: Any,
    state: Any,
    scratch: Any,
    reach: int,
    mask: int,
    value: int,
    by_address: bool,
    address: int,
    globals_too: bool,
) -> Any:
    """Remove what matches and return how many entries that were; `scratch` holds the largest µTLB or set.

    `reach` says of what kinds. An entry matches when its context equals `value` in the bits of `mask` (for a
    global entry without the ASID's, and only with `globals_too`), and, `by_address`, when its page or block
    covers `address`.
    """
    removed = 0
    for row in range(1, state[M_ROWS]):
        page = tlb[row, T_PAGE]
        if page == 0:
            continue
        relevant = mask
        stage2 = tlb[row, T_CONTEXT] & CONTEXT_STAGE_2
        if reach & (OF_STAGE_2 if stage2 else OF_STAGE_1) == 0:
            continue
        if page & CLASS_GLOBAL:
            if not globals_too:
                continue
            relevant &= ~GLOBAL_ASID
        if (tlb[row, T_CONTEXT] ^ value) & relevant:
            continue
        shift = page & CLASS_SHIFT
        if by_address and ((page ^ address) >> shift) & ((1 << (INPUT_BITS - shift)) - 1):
            continue
        tlb[row, T_PAGE] = 0
        removed += 1
    if removed:
        for tbu in range(state[M_TBUS]):
            _rebuild_micro(tlb, state, tbu, scratch)
        _rebuild_macro(tlb, state, scratch)
    return removed + _clear_walks(tlb, state, reach, mask, value, by_address, address)
