"""One `DmaService.Transfer` stream: work requests out, completions in.

A message costs hundreds of microseconds however small it is, so whatever is posted while one is being sent
leaves together in the next: up to `RECORDS` requests and `FRAME_BYTES` of payload. `WINDOW_BYTES` bound what
is under way, and so the memory of both ends.

When the stream breaks, what is under way ends as PEER_LOST: a write that was sent may have happened, one that
was not sent, and any read, certainly did not. The next post opens a new stream.
"""

from __future__ import annotations

import asyncio
import logging
from collections import deque
from typing import TYPE_CHECKING, Any, Final, Protocol

import numpy as np
from grpc.aio import EOF  # type: ignore[attr-defined]

from unimem._frames import Completions, batch_message, post_message
from unimem._many import PIECE_BYTES, failed_row
from unimem._pieces import Piece, Pieces
from unimem._port import Batch, Work
from unimem.v1 import node_pb2
from unimem.wire import COMPLETION, CompletionFlags, Op, Status, WorkFlags, padded

if TYPE_CHECKING:
    from unimem._grpc_core import GrpcCore

log = logging.getLogger("unimem")

#: Requests in one frame.
RECORDS: Final = 4096
#: Bytes of payload in one frame, unless a single request has more (a piece never has).
FRAME_BYTES: Final = PIECE_BYTES
#: Bytes of payload, both ways, and of records under way.
WINDOW_BYTES: Final = 8 << 20
#: What a request weighs beside its payload.
_WEIGHT: Final = 64
#: wr_id of a batch's requests; single ones count from 1.
_BATCH: Final = 1 << 63


class Call(Protocol):
    """The part of grpc.aio's stream-stream call that is used."""

    async def write(self, request: bytes) -> None:
        """Send one message."""

    async def read(self) -> Any:
        """The next message, or `grpc.aio.EOF`."""

    def cancel(self) -> bool:
        """End the call."""


class NotAdmitted(Exception):  # noqa: N818 - no mistake: it becomes the outcome of what was to be sent
    """A stream could not be opened: nothing was sent. `status` and `str()` are for the completions."""

    def __init__(self, status: Status, words: str) -> None:
        super().__init__(words)
        self.status = status


class _Cursor:
    """A batch on its way through the stream."""

    __slots__ = ("base", "batch", "ends", "next", "unanswered", "weights")

    def __init__(self, batch: Batch, base: int, pdid: int) -> None:
        requests = batch.requests
        requests["wr_id"] = np.arange(base, base + len(requests), dtype=np.uint64)
        requests["pdid"] = pdid
        self.batch = batch
        self.base = base
        self.next = 0
        self.unanswered = np.ones(len(requests), np.bool_)
        inline = (requests["flags"] & int(WorkFlags.INLINE)) != 0
        lengths = requests["length"].astype(np.int64)
        self.ends = np.cumsum(np.where(inline, (lengths + 7) & ~7, 0))  # of each payload
        self.weights = np.cumsum(lengths + _WEIGHT)

    def take(self, room: int) -> tuple[np.ndarray, np.ndarray, int]:
        """The next (requests, payload, weight) that fit in a frame and in `room` bytes of the window."""
        i = self.next
        start, spent = (int(self.ends[i - 1]), int(self.weights[i - 1])) if i else (0, 0)
        j = min(
            i + RECORDS,
            int(np.searchsorted(self.ends, start + FRAME_BYTES, side="right")),
            int(np.searchsorted(self.weights, spent + room, side="right")),
        )
        j = max(j, i + 1)
        self.next = j
        end = int(self.ends[j - 1])
        return self.batch.requests[i:j], self.batch.payload[start:end], int(self.weights[j - 1]) - spent

    def answered(self, rows: np.ndarray, chosen: np.ndarray, completions: Completions) -> int:
        """Hand the rows numbered `chosen` to the batch; returns their weight."""
        positions = (rows["wr_id"] - np.uint64(self.base)).astype(np.int64)
        out = self.batch.out
        if out is not None and completions.has_data:
            for index, position in zip(chosen.tolist(), positions.tolist(), strict=True):
                data = completions.data(index)
                out[position, : len(data)] = data
        self.unanswered[positions] = False
        weight = int(self.batch.requests["length"][positions].sum()) + _WEIGHT * len(rows)
        self.batch.on_rows(rows, positions)
        return weight


class NodeStream:
    """Everything posted to one node. Lives on one event loop; nothing here is thread-safe."""

    def __init__(self, core: GrpcCore, node: str) -> None:
        self.node = node
        self._core = core
        self._pending: deque[Work | Pieces | _Cursor] = deque()
        self._singles: dict[int, Work] = {}
        self._batches: list[_Cursor] = []
        self._cancelled: list[int] = []  # what the node is to be told not to go on with
        self._next_id = 1
        self._next_base = _BATCH
        self._weight = 0  # under way
        self._number = 0
        self._closed = False
        self._task: asyncio.Task[None] | None = None
        self._idle: asyncio.Future[None] | None = None

    # -- posting ----------------------------------------------------------------------------------------

    def post(self, work: Work) -> None:
        """Queue `work`; long ones go in pieces, unless the node itself holds the bytes (a copy)."""
        long = work.length > PIECE_BYTES and (work.data is not None or work.out is not None)
        self._pending.append(Pieces(work) if long else work)
        self._wake()

    def post_batch(self, batch: Batch) -> None:
        """Queue a batch."""
        cursor = _Cursor(batch, self._next_base, self._core.pdid)
        self._next_base += len(batch.requests)
        self._batches.append(cursor)
        self._pending.append(cursor)
        self._wake()

    def cancel(self, work: Work) -> bool:
        """Take back what has not left at all; have the node stop what has."""
        for item in self._pending:
            if item is work or (isinstance(item, Pieces) and item.work is work and item.next == 0):
                self._pending.remove(item)
                work.on_done(Status.CANCELLED, failed_row(Status.CANCELLED, definite=True), 0)
                self._core.progress()
                return True
            if isinstance(item, Pieces) and item.work is work:
                item.fail(failed_row(Status.CANCELLED, definite=True), "")
                break
        self._cancelled += [
            wr_id
            for wr_id, sent in self._singles.items()
            if sent is work or (isinstance(sent, Piece) and sent.whole.work is work)
        ]
        if self._cancelled:
            self._wake_writer()
        return False

    def _wake(self) -> None:
        if self._task is None or self._task.done():
            self._task = asyncio.get_running_loop().create_task(self._run(), name=f"unimem-{self.node}")
        elif self._idle is not None and not self._idle.done():
            self._idle.set_result(None)

    # -- the stream -------------------------------------------------------------------------------------

    async def _run(self) -> None:
        while self._pending and not self._closed:
            await self._session()

    async def _session(self) -> None:
        """Open the stream, write until it breaks, and fail what was under way."""
        try:
            call = await self._core.dial(self.node)
        except NotAdmitted as error:
            self._fail(error.status, str(error))
            return
        self._number = 0
        reader = asyncio.ensure_future(self._read(call))
        reader.add_done_callback(lambda _: self._wake_writer())
        try:
            await self._write(call, reader)
        except Exception as error:  # gRPC has no one class for a failed write
            log.debug("writing to %s: %r", self.node, error)
        finally:
            if not self._closed:
                await asyncio.wait([reader], timeout=1)  # it knows why
            reader.cancel()
            call.cancel()
        note = self._core.broken(
            self.node, reader.result() if not reader.cancelled() and reader.done() else None
        )
        log.info("%s", note)
        self._fail(Status.PEER_LOST, note)

    async def _write(self, call: Call, reader: asyncio.Future[Exception | None]) -> None:
        """Send what is posted, as it comes, until the reader ends."""
        # When a write fails, `call.write` replaces the status with which the server ended the call by an
        # "Internal error from Core" (grpc/grpc#36066). What it wraps does not.
        send = getattr(getattr(call, "_cython_call", None), "send_serialized_message", call.write)
        while not reader.done():
            message = self._fill()
            if message is not None:
                await send(message)
            else:
                self._idle = asyncio.get_running_loop().create_future()
                await self._idle

    def _wake_writer(self) -> None:
        if self._idle is not None and not self._idle.done():
            self._idle.set_result(None)

    def _fill(self) -> bytes | None:
        """The next message, or None when there is nothing to send or no room in the window."""
        if self._cancelled:
            cancelled, self._cancelled = self._cancelled, []
            message: bytes = node_pb2.TransferRequest(cancel=cancelled).SerializeToString()
            return message
        pending = self._pending
        works: list[tuple[int, Work]] = []
        payload = 0
        while pending and len(works) < RECORDS:
            room = WINDOW_BYTES - self._weight
            item = pending[0]
            if isinstance(item, _Cursor):
                if works or (room < FRAME_BYTES and self._weight):
                    break
                requests, data, weight = item.take(max(room, FRAME_BYTES))
                if item.next == len(item.batch.requests):
                    pending.popleft()
                self._weight += weight
                self._number += 1
                return batch_message(requests, data, self._number)
            if isinstance(item, Pieces):
                if item.exhausted:
                    pending.popleft()
                    continue
                length = min(PIECE_BYTES, item.work.length - item.next)
                sends = item.work.data is not None
            else:
                length, sends = item.length, item.data is not None
            if self._weight and room < length + _WEIGHT:
                break
            if sends and payload and payload + length > FRAME_BYTES:
                break
            if isinstance(item, Pieces):
                work: Work = item.piece()
                if item.exhausted:
                    pending.popleft()
            else:
                work = item
                pending.popleft()
            payload += padded(length) if sends else 0
            self._weight += length + _WEIGHT
            works.append((self._next_id, work))
            self._singles[self._next_id] = work
            self._next_id += 1
        if not works:
            return None
        self._number += 1
        return post_message(works, self._core.pdid, self._number)

    async def _read(self, call: Call) -> Exception | None:
        """Deliver completions until the stream ends; returns why it did."""
        try:
            while (message := await call.read()) is not EOF:
                self._deliver(Completions(message))
                self._wake_writer()
                self._core.progress()
        except (
            Exception
        ) as error:  # an AioRpcError or a FrameError; whatever it is, it is the end of this stream
            return error
        return None

    def _deliver(self, completions: Completions) -> None:
        rows = completions.rows
        if self._batches:
            batched = rows["wr_id"] >= _BATCH
            if batched.any():
                self._deliver_batches(completions)
            if batched.all():
                return
        singles = self._singles
        for index, (wr_id, status) in enumerate(
            zip(rows["wr_id"].tolist(), rows["status"].tolist(), strict=True)
        ):
            work = singles.pop(wr_id, None)
            if work is None:
                continue  # a batch's
            self._weight -= work.length + _WEIGHT
            if completions.has_data:
                data = completions.data(index)
                out = work.out
                if out is not None and len(data):
                    out[: len(data)] = data.data
            work.on_done(status, rows, index)

    def _deliver_batches(self, completions: Completions) -> None:
        rows = completions.rows
        ids = rows["wr_id"]
        for cursor in list(self._batches):
            base, end = np.uint64(cursor.base), np.uint64(cursor.base + len(cursor.batch.requests))
            chosen = np.flatnonzero((ids >= base) & (ids < end))
            if len(chosen):
                mine = rows if len(chosen) == len(rows) else rows[chosen]
                self._weight -= cursor.answered(mine, chosen, completions)
                if not cursor.unanswered.any():
                    self._batches.remove(cursor)

    # -- the end ----------------------------------------------------------------------------------------

    def _fail(self, status: Status, note: str) -> None:
        """Complete everything with `status`: what was not sent, and reads, certainly did not happen."""
        never = failed_row(status, definite=True)
        perhaps = failed_row(status, definite=False)
        pending, self._pending = list(self._pending), deque()
        singles, self._singles = list(self._singles.values()), {}
        self._cancelled = []
        batches, self._batches = self._batches, []
        self._weight = 0
        for item in pending:
            if isinstance(item, Pieces):
                item.fail(never, note)
            elif isinstance(item, Work):
                item.note = note
                item.on_done(int(status), never.copy(), 0)
        for work in singles:
            work.note = note
            work.on_done(int(status), (never if work.op == Op.READ else perhaps).copy(), 0)
        for cursor in batches:
            batch = cursor.batch
            batch.note = note
            missing = np.flatnonzero(cursor.unanswered)
            definite = (missing >= cursor.next) | (batch.requests["op"][missing] == Op.READ)
            rows = np.zeros(len(missing), COMPLETION)
            rows["status"] = status
            rows["flags"] = np.where(definite, int(CompletionFlags.DEFINITE), 0)
            batch.on_rows(rows, missing)
        self._core.progress()

    async def close(self) -> None:
        """End the stream; what is under way is CANCELLED."""
        self._closed = True
        self._fail(Status.CANCELLED, "the client was closed")
        if self._task is not None and not self._task.done():
            self._task.cancel()
            await asyncio.wait([self._task], timeout=1)
