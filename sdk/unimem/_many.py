"""Many operations as one array of work requests: `put_many`, `get_many` and strided slices."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, SupportsIndex

import numpy as np

from unimem._arguments import whole
from unimem._failures import completion_error
from unimem._port import Batch
from unimem.addresses import ADDRESS_BITS, GLOBAL_BASE, fmt
from unimem.errors import DeadlineExceeded, UnimemError, UsageError
from unimem.wire import COMPLETION, WORK_REQUEST, CompletionFlags, Op, Status, WorkFlags, padded

if TYPE_CHECKING:
    from unimem._core import BaseClient

#: Bytes of one INLINE write or returned read; what is longer goes in several pieces.
PIECE_BYTES = 256 << 10

#: Errors listed in an exception group; the rest is counted.
LISTED = 16


class Many(Batch):
    """A batch on its way, counting what is still missing."""

    __slots__ = ("bad", "left", "owner", "verb")

    def __init__(
        self,
        owner: BaseClient,
        verb: str,
        requests: np.ndarray,
        payload: np.ndarray,
        out: np.ndarray | None = None,
    ) -> None:
        super().__init__(requests, payload, out)
        self.owner = owner
        self.verb = verb
        self.left = len(requests)
        self.bad: list[tuple[np.ndarray, np.ndarray]] = []

    def on_rows(self, rows: np.ndarray, positions: np.ndarray) -> None:
        """See `Batch.on_rows`."""
        status = rows["status"]
        if status.any():
            self.bad.append((rows[status != 0], positions[status != 0]))
        self.left -= len(rows)
        if self.left <= 0:
            self.owner._ended(self)

    def done(self) -> bool:
        """True when every request has ended."""
        return self.left <= 0

    def overdue(self, waited: float) -> DeadlineExceeded:
        """The exception for a deadline that has passed; `out` is not touched any more."""
        self.out = None
        return DeadlineExceeded(
            f"{self.left} of {len(self.requests)} not done within {waited:g} s",
            op=self.verb,
            definite=self.verb == "get_many",
        )

    @property
    def failures(self) -> int:
        """How many ended badly so far."""
        return sum(len(rows) for rows, _ in self.bad)

    def error(self) -> ExceptionGroup[UnimemError]:
        """What went wrong: the first errors in full, all of them counted."""
        errors: list[UnimemError] = []
        for rows, positions in self.bad:
            for row, position in zip(rows[: LISTED - len(errors)], positions, strict=False):
                request = self.requests[position]
                gva = int(request["src"] if request["op"] == Op.READ else request["dst"])
                node = self.owner.home if self.note else self.owner._node_name(int(row["node"]))
                errors.append(completion_error(row, op=self.verb, gva=gva, node=node, note=self.note))
        more = f"; the first {len(errors)} follow" if self.failures > len(errors) else ""
        return ExceptionGroup(
            f"{self.failures} of {len(self.requests)} operations of {self.verb} failed{more}", errors
        )


def addresses(gvas: Any, length: int, op: str) -> np.ndarray:
    """`gvas` as a uint64 array in which every [gva, gva + length) is global; else `UsageError`."""
    array = np.ascontiguousarray(gvas)
    if array.ndim != 1 or not len(array) or array.dtype.kind not in "ui":
        raise UsageError("addresses are a one-dimensional, non-empty array of integers", op=op)
    if array.dtype.kind == "i" and array.min() < 0:
        raise UsageError(f"{array.min()} is not an address", op=op, reason="BAD_ADDRESS")
    array = array.astype(np.uint64, copy=False)
    bad = (array < np.uint64(GLOBAL_BASE)) | (array > np.uint64((1 << ADDRESS_BITS) - length))
    if bad.any():
        i = int(bad.argmax())
        raise UsageError(
            f"{fmt(array[i])}, number {i} of {len(array)}, is no global address of {length} bytes",
            op=op,
            reason="BAD_ADDRESS",
        )
    return array


def writes(gvas: Any, values: Any, op: str) -> tuple[np.ndarray, np.ndarray]:
    """(requests, payload) that write `values[i]` to `gvas[i]`; no copy of values of 8, 16, ... bytes."""
    array = np.ascontiguousarray(values)
    if array.dtype.hasobject or array.ndim == 0 or not array.size:
        raise UsageError("values are an array of at least one plain value for each address", op=op)
    length = array.nbytes // len(array)
    target = addresses(gvas, length, op)
    if len(target) != len(array):
        raise UsageError(f"{len(target)} addresses, but {len(array)} values", op=op)
    _check_piece(length, op)
    requests = np.zeros(len(array), WORK_REQUEST)
    requests["op"], requests["flags"] = Op.WRITE, WorkFlags.INLINE
    requests["length"], requests["dst"] = length, target
    payload = array.reshape(-1).view(np.uint8)
    if length % 8:
        rows = np.zeros((len(array), padded(length)), np.uint8)
        rows[:, :length] = payload.reshape(len(array), length)
        payload = rows.reshape(-1)
    return requests, payload


def reads(gvas: Any, n: SupportsIndex, op: str) -> tuple[np.ndarray, np.ndarray]:
    """(requests, out) that read `n` bytes from each of `gvas` into the rows of `out`."""
    length = whole(n, "n", op)
    if length <= 0:
        raise UsageError(f"length {length}: it must be at least 1 byte", op=op, reason="BAD_LENGTH")
    _check_piece(length, op)
    source = addresses(gvas, length, op)
    requests = np.zeros(len(source), WORK_REQUEST)
    requests["op"], requests["flags"] = Op.READ, WorkFlags.RETURN
    requests["length"], requests["src"] = length, source
    return requests, np.empty((len(source), length), np.uint8)


def _check_piece(length: int, op: str) -> None:
    if length > PIECE_BYTES:
        raise UsageError(
            f"{length} bytes each; a batched operation has at most {PIECE_BYTES}",
            op=op,
            reason="BAD_LENGTH",
            hint="use put() or get() in a batch() for longer ones",
        )


def failed_row(status: Status, *, definite: bool) -> np.ndarray:
    """A COMPLETION array of one row, for a failure that a port, not a node, has found."""
    rows = np.zeros(1, COMPLETION)
    rows["status"] = status
    rows["flags"] = CompletionFlags.DEFINITE if definite else 0
    return rows
