"""Caches of walks, compiled: pointers to tables (walk cache) and stage-2 translations (IPA cache).

The MMU-500 keeps both in one RAM of four ways (Arm DDI0517); ACR.S1WC2EN, S2WC2EN and IPA2PA_CEN enable its
three uses. A row is laid out as one of the TLB's: tag, context, value, attributes. The tag is the address
with its low bits replaced by ``kind | log2(bytes covered)``; a table's row covers all that its table maps,
holds the table's address, and as attributes what was inherited on the way. An IPA row covers one granule of
IPA and holds its physical page and the attributes of the stage-2 leaf, whose size they tell.

`state[at:]` is the header: H_* below. An empty place is taken before one in use; else round robin in the set.
"""

from __future__ import annotations

from typing import Any, Final

import numpy as np

from unimem_node._jit import njit_inline

# Header
H_FIRST: Final = 0  # first row
H_WAYS: Final = 1
H_SET_MASK: Final = 2  # sets - 1
H_USES: Final = 3  # USE_* that are enabled
H_POINTERS: Final = 4  # offset in `state` of the replacement pointers, one a set
HEADER: Final = 5

USE_STAGE_1: Final = 1
USE_STAGE_2: Final = 2
USE_IPA: Final = 4

# Kinds of row, in the tag beside the six bits of size
KIND_TABLE_1: Final = 1 << 7
KIND_TABLE_2: Final = 2 << 7
KIND_IPA: Final = 3 << 7
KIND: Final = 3 << 7
SIZE: Final = 63

# Columns
W_TAG: Final = 0
W_CONTEXT: Final = 1
W_VALUE: Final = 2
W_ATTRS: Final = 3

#: `rows` and `state` of a walk without any cache: its header enables no use.
NO_ROWS: Final = np.zeros((1, 4), np.int64)
NO_STATE: Final = np.zeros(HEADER, np.int64)


@njit_inline
def _first_of_set(state: Any, at: int, page: int, context: int) -> Any:
    index = (page ^ context ^ (context >> 16) ^ (context >> 32)) & state[at + H_SET_MASK]
    return state[at + H_FIRST] + index * state[at + H_WAYS]


@njit_inline
def find(rows: Any, state: Any, at: int, kind: int, address: int, shift: int, context: int) -> Any:
    """Row that covers `address` with ``1 << shift`` bytes, or -1."""
    first = _first_of_set(state, at, address >> shift, context)
    tag = (address >> shift << shift) | kind | shift
    for row in range(first, first + state[at + H_WAYS]):
        if rows[row, W_TAG] == tag and rows[row, W_CONTEXT] == context:
            return row
    return -1


@njit_inline
def find_table(
    rows: Any, state: Any, at: int, kind: int, address: int, granule: int, level: int, context: int
) -> Any:
    """(row, level) of the deepest table known on the way of `address` below `level`; row -1 if none is."""
    stride = granule - 3
    for depth in range(2):
        deep = 3 - depth
        if deep <= level:
            break
        row = find(rows, state, at, kind, address, granule + (depth + 1) * stride, context)
        if row >= 0:
            return row, deep
    return -1, level


@njit_inline
def fill(
    rows: Any, state: Any, at: int, kind: int, address: int, shift: int, context: int, value: int, attrs: int
) -> None:
    """Keep a table's address or a stage-2 translation."""
    first = _first_of_set(state, at, address >> shift, context)
    ways = state[at + H_WAYS]
    tag = (address >> shift << shift) | kind | shift
    place = -1
    for row in range(first, first + ways):
        if rows[row, W_TAG] == tag and rows[row, W_CONTEXT] == context:
            place = row  # walked although it was there: the use was switched off meanwhile
            break
        if rows[row, W_TAG] == 0 and place < 0:
            place = row
    if place < 0:
        pointer = state[at + H_POINTERS] + (first - state[at + H_FIRST]) // ways
        way = state[pointer]
        state[pointer] = way + 1 if way + 1 < ways else 0
        place = first + way
    rows[place, W_TAG] = tag
    rows[place, W_CONTEXT] = context
    rows[place, W_VALUE] = value
    rows[place, W_ATTRS] = attrs
