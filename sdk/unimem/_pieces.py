"""Transfers longer than a frame takes: cut into pieces of 256 KiB, whose completions become one again.

The merged completion: bytes summed; status, syndrome and value of the first piece that failed, if any did
(the failure is then definite only if no piece was delivered and every failed one is definite); time from the
first doorbell to the last completion; parts of the piece that was last to complete, with the time from the
first doorbell to that piece's own added to `issue`, so that they still add up to the whole.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from unimem._many import PIECE_BYTES
from unimem._port import Work
from unimem.wire import CompletionFlags, Op

if TYPE_CHECKING:
    import numpy as np


_ALL_BUT_DEFINITE = 0xFF & ~int(CompletionFlags.DEFINITE)


class Piece(Work):
    """Up to `PIECE_BYTES` of a `Pieces`; to the stream it is a work request like any other."""

    __slots__ = ("offset", "whole")

    def __init__(self, whole: Pieces, offset: int, length: int) -> None:
        self.whole = whole
        self.offset = offset
        work = whole.work
        read = work.op == Op.READ
        super().__init__(
            work.op,
            src=work.src + offset if read else work.src,
            dst=work.dst if read else work.dst + offset,
            length=length,
            data=work.data[offset : offset + length] if work.data is not None else None,
            fence=work.fence and offset == 0,
            flags=work.flags,
            deadline=work.deadline,
        )

    @property
    def out(self) -> memoryview | None:
        """This piece's part of the caller's buffer, unless it has been withdrawn."""
        room = self.whole.work.out
        return None if room is None else room[self.offset : self.offset + self.length]

    @out.setter
    def out(self, value: memoryview | None) -> None:
        """Only the whole work's buffer can be set."""

    def on_done(self, status: int, rows: np.ndarray, index: int) -> None:
        """See `Work.on_done`."""
        self.whole.ended(self, rows[index : index + 1])


class Pieces:
    """A long WRITE or READ on its way: hands out pieces one by one and merges what comes back."""

    __slots__ = ("failed", "first_ps", "last", "left", "next", "total", "work")

    def __init__(self, work: Work) -> None:
        self.work = work
        self.next = 0  # offset of the piece to hand out
        self.left = -(-work.length // PIECE_BYTES)
        self.total = 0
        self.first_ps = 1 << 64
        self.last: np.ndarray | None = None
        self.failed: np.ndarray | None = None

    def piece(self) -> Piece:
        """The next piece. Call it only while `exhausted` is false."""
        offset = self.next
        self.next = offset + min(PIECE_BYTES, self.work.length - offset)
        return Piece(self, offset, self.next - offset)

    @property
    def exhausted(self) -> bool:
        """True when every piece has been handed out, or there is no use in more: one has failed."""
        return self.next >= self.work.length or self.failed is not None

    def fail(self, row: np.ndarray, note: str) -> None:
        """No more pieces will leave; `row` says why. Those under way still complete."""
        if self.left == 0:
            return
        if self.failed is None:
            self.failed = row.copy()
            self.work.note = note
        if self.last is None:
            self.last = row
        self.left -= -(-(self.work.length - self.next) // PIECE_BYTES)
        self.next = self.work.length
        if self.left == 0:
            self._merge()

    def ended(self, piece: Piece, row: np.ndarray) -> None:
        """`piece` is complete."""
        self.left -= 1
        self.total += int(row["bytes"][0])
        if row["posted_ps"][0]:  # a failure invented by the port has no simulated time
            self.first_ps = min(self.first_ps, int(row["posted_ps"][0]))
        if self.last is None or row["done_ps"][0] >= self.last["done_ps"][0]:
            self.last = row
        if row["status"][0]:
            if self.failed is not None:
                self.failed["flags"] &= row["flags"] | _ALL_BUT_DEFINITE
            else:
                self.fail(row, piece.note)
                return
        if self.left == 0:
            self._merge()

    def _merge(self) -> None:
        assert self.last is not None
        merged = (self.last if self.failed is None else self.failed).copy()
        merged["bytes"] = self.total
        if self.failed is not None and self.total and self.work.op == Op.WRITE:
            merged["flags"] &= _ALL_BUT_DEFINITE
        last = self.last
        if last["posted_ps"][0]:
            merged["posted_ps"], merged["done_ps"] = self.first_ps, last["done_ps"]
            merged["parts_ps"] = last["parts_ps"]
            merged["parts_ps"][0, 0] += int(last["posted_ps"][0]) - self.first_ps
        self.work.on_done(int(merged["status"][0]), merged, 0)
