"""Work requests, queue pairs, completion queues and counters, for those who port verbs code.

Thin: `QueuePair.post` hands an array of `WORK_REQUEST` records to the node as it is, thousands in one frame,
and `CompletionQueue.poll` gives back `COMPLETION` records, failures included: nothing here raises for what
happened at a node. Ordering is the node's: `WorkFlags.FENCE` in a request waits for all posted before it.

    cq = verbs.CompletionQueue(um)
    qp = verbs.QueuePair(um, cq)
    requests, payload = verbs.write_requests(gvas, values)
    requests["wr_id"] = np.arange(len(requests))
    qp.post(requests, payload)
    done = cq.poll(len(requests), timeout=5)
"""

from __future__ import annotations

from collections import deque
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, SupportsIndex

import numpy as np

from unimem import _many
from unimem._many import PIECE_BYTES, Many
from unimem.addresses import ADDRESS_BITS, GLOBAL_BASE, fmt
from unimem.errors import UsageError
from unimem.wire import COMPLETION, MESSAGE_BYTES, WORK_REQUEST, Op, Status, WorkFlags

if TYPE_CHECKING:
    from unimem.client import Client

__all__ = [
    "COMPLETION",
    "MESSAGE_BYTES",
    "PIECE_BYTES",
    "WORK_REQUEST",
    "CompletionQueue",
    "Counters",
    "Op",
    "QueuePair",
    "Status",
    "WorkFlags",
    "read_requests",
    "write_requests",
]

_LAST_OP = max(Op)
_ATOMICS = (Op.FETCH_ADD, Op.COMPARE_SWAP, Op.SWAP)
#: The flags that are the poster's.
_FLAGS = int(WorkFlags.FENCE | WorkFlags.ORDERED | WorkFlags.ACCEPTED | WorkFlags.SIGNAL)
#: Longest COPY: an answer of the fabric counts its bytes in 32 bits.
_COPY_BYTES = 1 << 30


@dataclass(slots=True)
class Counters:
    """What a queue pair has done so far."""

    posted: int = 0
    completed: int = 0
    failed: int = 0
    bytes: int = 0

    @property
    def outstanding(self) -> int:
        """Posted and not complete."""
        return self.posted - self.completed


def write_requests(gvas: Any, values: Any) -> tuple[np.ndarray, np.ndarray]:
    """(requests, payload) that write `values[i]`, each at most 256 KiB, to `gvas[i]`."""
    return _many.writes(gvas, values, "write_requests")


def read_requests(gvas: Any, n: SupportsIndex) -> tuple[np.ndarray, np.ndarray]:
    """(requests, out) that read `n` bytes, at most 256 KiB, from each of `gvas` into the rows of `out`."""
    return _many.reads(gvas, n, "read_requests")


class CompletionQueue:
    """Completions of one or more queue pairs, in the order in which they arrived."""

    def __init__(self, client: Client) -> None:
        self._client = client
        self._arrived: deque[np.ndarray] = deque()

    def __len__(self) -> int:
        return sum(map(len, self._arrived))

    def poll(self, at_most: int = 4096, *, timeout: float = 0.0) -> np.ndarray:
        """Up to `at_most` COMPLETION records; `timeout`: seconds to wait until there are that many.

        With 0 it returns what is there. A `wr_id` is the poster's own.
        """
        if timeout > 0:
            self._client._drive(lambda: len(self) >= at_most, timeout)
        elif not self._client._port.background:
            self._client._drive(lambda: bool(self._arrived), 1e-9)
        taken: list[np.ndarray] = []
        room = at_most
        while room > 0 and self._arrived:
            rows = self._arrived.popleft()
            if len(rows) > room:
                self._arrived.appendleft(rows[room:])
                rows = rows[:room]
            taken.append(rows)
            room -= len(rows)
        return np.concatenate(taken) if taken else np.empty(0, COMPLETION)


class _Posted(Many):
    """A posted array, whose completions get the poster's `wr_id` back and go to the queue."""

    __slots__ = ("ids", "pair")

    def __init__(
        self, pair: QueuePair, requests: np.ndarray, payload: np.ndarray, out: np.ndarray | None
    ) -> None:
        super().__init__(pair._client, "post", requests.copy(), payload, out)
        self.pair = pair
        self.ids = requests["wr_id"].copy()

    def on_rows(self, rows: np.ndarray, positions: np.ndarray) -> None:
        """See `Batch.on_rows`."""
        rows["wr_id"] = self.ids[positions]
        counters = self.pair.counters
        counters.completed += len(rows)
        counters.failed += int(np.count_nonzero(rows["status"]))
        counters.bytes += int(rows["bytes"].sum())
        self.pair.queue._arrived.append(rows)
        super().on_rows(rows, positions)


class QueuePair:
    """Posts work requests for the client's process on its home node; completions go to `queue`."""

    def __init__(self, client: Client, queue: CompletionQueue) -> None:
        self._client = client
        self.queue = queue
        self.counters = Counters()

    def post(
        self, requests: np.ndarray, payload: np.ndarray | None = None, out: np.ndarray | None = None
    ) -> None:
        """Post an array of `WORK_REQUEST`; returns at once.

        `op`, `length`, `src` of READ and COPY, `dst` of all but READ, `operand`, `compare`, `deadline_us`,
        `wr_id` and the flags FENCE, ORDERED, ACCEPTED and SIGNAL are yours. `payload`: uint8, the bytes of
        WRITE and SEND in order, each padded to a multiple of 8; it must not change until they are complete.
        `out`: uint8 of shape (requests, longest READ), for READ.
        `UsageError`, before anything is sent, for a request that no node could accept.
        """
        payload = np.empty(0, np.uint8) if payload is None else payload
        _check(requests, payload, out)
        posted = _Posted(self, requests, payload, out)
        flags = posted.requests["flags"]
        flags &= _FLAGS
        flags[_carries(requests["op"])] |= int(WorkFlags.INLINE)
        flags[requests["op"] == Op.READ] |= int(WorkFlags.RETURN)
        self.counters.posted += len(requests)
        self._client._post_many(posted)


def _carries(op: np.ndarray) -> np.ndarray:
    """Which requests bring their bytes."""
    found: np.ndarray = (op == Op.WRITE) | (op == Op.SEND)
    return found


def _outside(gva: np.ndarray, length: np.ndarray | int) -> np.ndarray:
    """Which of [gva, gva + length) are not global."""
    found: np.ndarray = (gva < GLOBAL_BASE) | (gva > (1 << ADDRESS_BITS) - length)
    return found


def _check(requests: np.ndarray, payload: np.ndarray, out: np.ndarray | None) -> None:
    if requests.dtype != WORK_REQUEST or requests.ndim != 1 or not len(requests):
        raise UsageError("requests are a one-dimensional, non-empty array of WORK_REQUEST", op="post")
    if payload.dtype != np.uint8 or payload.ndim != 1 or not payload.flags.c_contiguous:
        raise UsageError("the payload is a flat, contiguous array of uint8", op="post")
    op, length = requests["op"], requests["length"]
    read, copy = op == Op.READ, op == Op.COPY
    gva = np.where(read, requests["src"], requests["dst"])
    signal = (requests["flags"] & int(WorkFlags.SIGNAL)) != 0
    limit = np.where(copy, _COPY_BYTES, np.where(op == Op.SEND, MESSAGE_BYTES, PIECE_BYTES))
    word = (length == 4) | (length == 8)
    for bad, problem in (
        ((op < Op.WRITE) | (op > _LAST_OP), "no such operation"),
        (
            (length == 0) | (length > limit),
            f"a length is 1 to {PIECE_BYTES}, of SEND {MESSAGE_BYTES}, of COPY {_COPY_BYTES}",
        ),
        (
            np.isin(op, _ATOMICS) & (~word | (gva % np.where(word, length, 1) != 0)),
            "an atomic has 4 or 8 bytes at a multiple of its size",
        ),
        (_outside(gva, length) | copy & _outside(requests["src"], length), "not a global address"),
        (
            signal & ((op != Op.WRITE) | (requests["compare"] % 8 != 0) | _outside(requests["compare"], 8)),
            "only a WRITE signals, a global 64-bit word at a multiple of 8",
        ),
    ):
        if bad.any():
            i = int(bad.argmax())
            raise UsageError(
                f"request {i} of {len(requests)} (op {op[i]}, {length[i]} bytes at {fmt(gva[i])}): {problem}",
                op="post",
            )
    need = int(((length[_carries(op)] + 7) & ~np.uint64(7)).sum())
    if need != len(payload):
        raise UsageError(
            f"the requests have {need} bytes of padded payload, but {len(payload)} came", op="post"
        )
    if read.any() and (
        out is None
        or out.dtype != np.uint8
        or out.ndim != 2
        or len(out) != len(requests)
        or out.shape[1] < length[read].max()
    ):
        raise UsageError("reads need out=, uint8 of shape (requests, longest read)", op="post")
