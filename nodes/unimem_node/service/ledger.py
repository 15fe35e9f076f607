"""Outstanding work requests of one poster, as arrays: node-wide ids out, the poster's own ids back.

Several streams post to one network interface, and each numbers its requests as it likes. The id that the
interface sees is ``poster number << 32 | slot``; the slot holds what the poster wants to know again when the
completion comes. Thousands of requests are entered and leave with a handful of array operations.
"""

from __future__ import annotations

from typing import Final

import numpy as np

#: Low bits of a node-wide id: the slot in the poster's ledger.
SLOT_BITS: Final = 32
SLOT_MASK: Final = np.uint64((1 << SLOT_BITS) - 1)


class Ledger:
    """Slots of poster `number`; grows by doubling and keeps its size.

    Columns by slot: `batch` (number of the post the request came with), `place` and `size` (int64, the
    poster's own use: where in the batch's buffer a READ lands, and how many bytes).
    """

    def __init__(self, number: int, capacity: int = 64) -> None:
        self._base = np.uint64(number << SLOT_BITS)
        self._free = np.arange(capacity, dtype=np.int64)
        self._top = capacity  # _free[:_top] are free slots
        self.wr_id = np.zeros(capacity, np.uint64)
        self.batch = np.zeros(capacity, np.int64)
        self.place = np.zeros(capacity, np.int64)
        self.size = np.zeros(capacity, np.int64)

    @property
    def outstanding(self) -> int:
        """Requests that have entered and not left."""
        return len(self._free) - self._top

    def enter(self, wrs: np.ndarray, batch: int, place: np.ndarray | int, size: np.ndarray | int) -> None:
        """Take a slot for each of `wrs` (WORK_REQUEST, writable) and give it its node-wide id."""
        n = len(wrs)
        while n > self._top:
            self._grow()
        self._top -= n
        slots = self._free[self._top : self._top + n].copy()  # the stack's place is overwritten by `leave`
        self.wr_id[slots] = wrs["wr_id"]
        self.batch[slots] = batch
        self.place[slots] = place
        self.size[slots] = size
        wrs["wr_id"] = self._base | slots.astype(np.uint64)

    def find(self, wr_ids: np.ndarray) -> np.ndarray:
        """Node-wide ids (uint64) of the requests outstanding that the poster calls by one of `wr_ids`."""
        outstanding = np.ones(len(self._free), np.bool_)
        outstanding[self._free[: self._top]] = False
        slots = np.flatnonzero(outstanding & np.isin(self.wr_id, wr_ids))
        return self._base | slots.astype(np.uint64)

    def leave(self, rows: np.ndarray) -> np.ndarray:
        """The slots of `rows` (COMPLETION, writable), freed; the rows get the poster's own ids back."""
        slots = (rows["wr_id"] & SLOT_MASK).astype(np.int64)
        n = len(slots)
        assert self._top + n <= len(self._free), "a work request completed twice"
        self._free[self._top : self._top + n] = slots
        self._top += n
        rows["wr_id"] = self.wr_id[slots]
        return slots

    def _grow(self) -> None:
        old = len(self._free)
        free = np.empty(2 * old, np.int64)
        free[: self._top] = self._free[: self._top]
        free[self._top : self._top + old] = np.arange(old, 2 * old)
        self._free, self._top = free, self._top + old
        for column in ("wr_id", "batch", "place", "size"):
            before = getattr(self, column)
            after = np.zeros(2 * old, before.dtype)
            after[:old] = before
            setattr(self, column, after)
