"""Removing entries from the TLBs, compiled: one pass over all rows, then the survivors close up.

The state after a removal is that of TLBs which were filled with the survivors alone, oldest first: free
places are used before an entry is replaced, and the hash index and the list of classes hold nothing stale.
"""

from __future__ import annotations

from typing import Any

from unimem_node._jit import njit
from unimem_node.smmu._fast import CODE_MASK, add_class, bucket_of
from unimem_node.smmu.arrays import (
    BUCKETS,
    CLASS_GLOBAL,
    CLASS_SHIFT,
    GLOBAL_ASID,
    INPUT_BITS,
    M_CLASSES,
    M_FIRST,
    M_LINKS,
    M_POINTERS,
    M_SET_MASK,
    M_TBUS,
    M_WAYS,
    STATE_TBU,
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


@njit
def _close_up(tlb: Any, first: int, size: int, oldest: int, scratch: Any) -> Any:
    """Bring the entries of ``tlb[first:first+size]``, a ring from `oldest` on, to its front; their number."""
    kept = 0
    for i in range(size):
        at = oldest + i
        if at >= size:
            at -= size
        if tlb[first + at, T_PAGE] != 0:
            for column in range(TLB_COLS):
                scratch[kept, column] = tlb[first + at, column]
            kept += 1
    for i in range(size):
        for column in range(TLB_COLS):
            tlb[first + i, column] = scratch[i, column] if i < kept else 0
    return kept


@njit
def _rebuild_micro(tlb: Any, state: Any, tbu: int, scratch: Any) -> None:
    unit = STATE_TBU + tbu * U_COLS
    first = state[unit + U_FIRST]
    size = state[unit + U_ENTRIES]
    kept = _close_up(tlb, first, size, state[unit + U_NEXT], scratch)
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
        kept = _close_up(tlb, first, ways, state[pointer], scratch)
        state[pointer] = kept if kept < ways else 0
        for row in range(first, first + kept):
            add_class(state, M_CLASSES, tlb[row, T_PAGE] & CODE_MASK)


@njit
def invalidate(
    tlb: Any, state: Any, scratch: Any, mask: int, value: int, by_va: bool, va: int, globals_too: bool
) -> Any:
    """Remove what matches and return how many entries that were; `scratch` holds the largest µTLB or set.

    An entry matches when its context equals `value` in the bits of `mask` (for a global entry without the
    ASID's, and only with `globals_too`), and, `by_va`, when its page or block covers `va`.
    """
    removed = 0
    for row in range(1, tlb.shape[0]):
        page = tlb[row, T_PAGE]
        if page == 0:
            continue
        relevant = mask
        if page & CLASS_GLOBAL:
            if not globals_too:
                continue
            relevant &= ~GLOBAL_ASID
        if (tlb[row, T_CONTEXT] ^ value) & relevant:
            continue
        shift = page & CLASS_SHIFT
        if by_va and ((page ^ va) >> shift) & ((1 << (INPUT_BITS - shift)) - 1):
            continue
        tlb[row, T_PAGE] = 0
        removed += 1
    if removed:
        for tbu in range(state[M_TBUS]):
            _rebuild_micro(tlb, state, tbu, scratch)
        _rebuild_macro(tlb, state, scratch)
    return removed
