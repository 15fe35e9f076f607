"""One client's `Transfer` stream: its outstanding work, its staged bytes, its completions on the way out.

Bytes of INLINE writes are copied once, from the message into DRAM; bytes of RETURN reads once, from DRAM
into the completion message. A staging buffer serves a whole post and is given back when the last of its
requests is complete and, for reads, its bytes are in a message. While a client has more than `STAGED_LIMIT`
bytes staged, or `WORK_LIMIT` requests not yet answered, its stream is not read: it waits, not the node.

A client that goes away leaves work behind which the network interface still does: the stream stays a poster
until the last completion, and drops them.
"""

from __future__ import annotations

import asyncio
from collections import deque
from collections.abc import Awaitable, Callable
from typing import TYPE_CHECKING, Any, Final

import numpy as np

from unimem.v1 import node_pb2
from unimem.wire import (
    COMPLETION,
    COMPLETION_BYTES,
    FRAME_HEADER,
    HEADER_BYTES,
    TIMING_PARTS,
    CompletionFlags,
    FrameKind,
    Status,
    WorkFlags,
    decode_bytes_field,
    new_frame,
)
from unimem_node.service.framing import bytes_field
from unimem_node.service.ledger import Ledger
from unimem_node.service.posting import Post, post_of_frame, post_of_messages
from unimem_node.service.rows import at, by_value, joined

if TYPE_CHECKING:
    from unimem_node.service.domains import Domain
    from unimem_node.service.host import NodeHost
    from unimem_node.service.rpc import Refusal

#: Bytes a stream may have staged before it is read no further.
STAGED_LIMIT: Final = 8 << 20
#: Requests a stream may have outstanding or unanswered before it is read no further.
WORK_LIMIT: Final = 1 << 16
#: A completion message takes no further completions once it has this many bytes.
MESSAGE_BYTES: Final = 1 << 20

_DATA: Final = np.uint8(CompletionFlags.DATA)
#: What is staged is an address like any other: INLINE and RETURN end here.
_FLAGS: Final = np.uint8(WorkFlags.FENCE | WorkFlags.ORDERED | WorkFlags.ACCEPTED | WorkFlags.SIGNAL)


class _Batch:
    """One staged part of a post: its buffer, and how many of its requests still need it."""

    __slots__ = ("as_messages", "remaining", "size", "va", "view")

    def __init__(
        self, remaining: int, va: int, view: np.ndarray | None, size: int, as_messages: bool
    ) -> None:
        self.remaining, self.va, self.view, self.size, self.as_messages = (
            remaining,
            va,
            view,
            size,
            as_messages,
        )


class _Answer:
    """Completions of one batch that wait for their message; `pieces` are views of the batch's buffer."""

    __slots__ = ("batch", "number", "pieces", "rows", "size")

    def __init__(
        self, number: int, batch: _Batch, rows: np.ndarray, pieces: list[memoryview], size: int
    ) -> None:
        self.number, self.batch, self.rows, self.pieces, self.size = number, batch, rows, pieces, size


class TransferStream:
    """The poster behind one stream. `end` tells it to stop (the session was closed, the node stops)."""

    def __init__(self, host: NodeHost, domain: Domain) -> None:
        self._host, self._domain = host, domain
        self.number = host.enroll(self)
        self._ledger = Ledger(self.number)
        self._batches: dict[int, _Batch] = {}
        self._next_batch = 0
        self._staged = 0
        self._unanswered = 0
        self._answers: deque[_Answer] = deque()
        self._written = asyncio.Event()  # there may be room again
        self._ready = asyncio.Event()  # there are answers
        self._task = asyncio.current_task()
        self._left = False
        self.why: Refusal | None = None

    # In ------------------------------------------------------------------------------------------------

    async def take(self, message: bytes) -> None:
        """Post, as there is room, or cancel what `message` says. FrameError or DecodeError on garbage."""
        frame = decode_bytes_field(message)
        if frame is not None:
            await self._post(post_of_frame(frame))
            return
        request = node_pb2.TransferRequest.FromString(message)
        if request.packed:
            await self._post(post_of_frame(np.frombuffer(request.packed, np.uint8)))
        if request.work:
            await self._post(post_of_messages(request.work))
        if request.cancel:
            for wr_id in self._ledger.find(np.array(request.cancel, np.uint64)).tolist():
                self._host.node.cancel(wr_id)
            self._host.ask_turn()

    async def _post(self, post: Post) -> None:
        start, n = 0, len(post.wrs)
        while start < n:
            while self._staged >= STAGED_LIMIT or self._unanswered >= WORK_LIMIT:
                self._written.clear()
                await self._written.wait()
            end = post.fit(start, STAGED_LIMIT - self._staged, WORK_LIMIT - self._unanswered)
            self._post_part(post, start, end)
            start = end

    def _post_part(self, post: Post, start: int, end: int) -> None:
        size = post.need(start, end)
        place: np.ndarray | int = 0
        sizes: np.ndarray | int = 0
        va, view = self._host.node.stage(self._domain.pdid, size) if size else (0, None)
        if view is None:
            wrs = post.wrs[start:end]
        else:
            wrs, place, sizes = post.place(start, end, va, view)
        wrs["pdid"] = self._domain.pdid
        wrs["flags"] &= _FLAGS
        number = self._next_batch
        self._next_batch += 1
        self._ledger.enter(wrs, number, place, sizes)
        self._batches[number] = _Batch(end - start, va, view, size, post.as_messages)
        self._staged += size
        self._unanswered += end - start
        self._host.post(wrs)

    # Out -----------------------------------------------------------------------------------------------

    def complete(self, rows: np.ndarray) -> None:
        """Completions of this poster (COMPLETION, ours to change), from the host."""
        slots = self._ledger.leave(rows)
        numbers = self._ledger.batch[slots]
        places, sizes = self._ledger.place[slots], self._ledger.size[slots]
        for number, where in by_value(numbers):
            self._collect(number, at(rows, where), places[where], sizes[where])
        if self._left and not self._batches:
            self._host.dismiss(self.number)

    def _collect(self, number: int, rows: np.ndarray, places: np.ndarray, sizes: np.ndarray) -> None:
        batch = self._batches[number]
        if self._left:
            self._release(number, batch, len(rows))
            return
        has_data = (sizes > 0) & (rows["status"] == Status.OK)
        if not has_data.any():
            for i in range(0, len(rows), MESSAGE_BYTES // COMPLETION_BYTES):
                part = rows[i : i + MESSAGE_BYTES // COMPLETION_BYTES]
                self._answers.append(_Answer(number, batch, part, [], part.nbytes))
        else:
            rows["flags"][has_data] |= _DATA
            sizes = np.where(has_data, sizes + 7 & ~7, 0)
            weights = np.cumsum(sizes + COMPLETION_BYTES)
            start = 0
            while start < len(rows):  # a message each, of about MESSAGE_BYTES
                before = int(weights[start - 1]) if start else 0
                end = max(start + 1, int(np.searchsorted(weights, before + MESSAGE_BYTES, "right")))
                pieces = _pieces(batch.view, places[start:end], sizes[start:end])
                size = int(weights[end - 1]) - before
                self._answers.append(_Answer(number, batch, rows[start:end], pieces, size))
                start = end
        self._ready.set()

    def _release(self, number: int, batch: _Batch, count: int) -> None:
        batch.remaining -= count
        if batch.remaining == 0:
            del self._batches[number]
            if batch.size:
                self._staged -= batch.size
                if not self._domain.closed:
                    self._host.node.unstage(self._domain.pdid, batch.va)

    async def write_to(self, write: Callable[[bytes], Awaitable[None]]) -> None:
        """Send completions as they come, until cancelled: whatever is ready leaves together."""
        while True:
            while self._answers:
                await write(self._next_message())
                self._written.set()
            self._ready.clear()
            await self._ready.wait()

    def _next_message(self) -> bytes:
        answers = [self._answers.popleft()]
        size = answers[0].size
        while self._answers and size + self._answers[0].size <= MESSAGE_BYTES:
            if self._answers[0].batch.as_messages != answers[0].batch.as_messages:
                break
            answers.append(self._answers.popleft())
            size += answers[-1].size
        message = self._as_messages(answers) if answers[0].batch.as_messages else self._as_frame(answers)
        for answer in answers:
            self._unanswered -= len(answer.rows)
            self._release(answer.number, answer.batch, len(answer.rows))
        return message

    def _as_frame(self, answers: list[_Answer]) -> bytes:
        rows = joined([answer.rows for answer in answers])
        pieces = [piece for answer in answers for piece in answer.pieces]
        frame = new_frame(FrameKind.COMPLETE, rows, 0, src_node=self._host.node.index)
        total = len(frame) + sum(len(piece) for piece in pieces)
        frame[:HEADER_BYTES].view(FRAME_HEADER)["total_bytes"] = total
        return bytes_field([frame.data, *pieces], total)

    def _as_messages(self, answers: list[_Answer]) -> bytes:
        response = node_pb2.TransferResponse()
        for answer in answers:
            data, at = b"".join(answer.pieces), 0
            for row in answer.rows:
                completion = completion_message(row, self._host.name_of(int(row["node"])))
                if row["flags"] & CompletionFlags.DATA:
                    n = int(row["bytes"])
                    completion.data = data[at : at + n]
                    at += n + 7 & ~7
                response.completions.append(completion)
        message: bytes = response.SerializeToString()
        return message

    # Life ----------------------------------------------------------------------------------------------

    async def drained(self) -> None:
        """Wait until everything posted is answered."""
        while self._unanswered:
            self._written.clear()
            await self._written.wait()

    def end(self, why: Refusal) -> None:
        """Make the stream end with `why`."""
        if self.why is None and not self._left:
            self.why = why
            if self._task is not None:
                self._task.cancel()

    def leave(self) -> None:
        """The stream is over. What is still under way completes unseen."""
        self._left = True
        for answer in self._answers:
            self._release(answer.number, answer.batch, len(answer.rows))
        self._answers.clear()
        if not self._batches:
            self._host.dismiss(self.number)


def _pieces(view: np.ndarray | None, places: np.ndarray, sizes: np.ndarray) -> list[memoryview]:
    """The bytes at `places` in `view`, in order; neighbours that lie one after the other as one piece."""
    assert view is not None
    landed = sizes > 0
    places, sizes = places[landed], sizes[landed]
    ends = places + sizes
    breaks = np.flatnonzero(places[1:] != ends[:-1]) + 1
    starts = [0, *breaks.tolist()]
    stops = [*breaks.tolist(), len(places)]
    data = view.data
    return [data[int(places[i]) : int(ends[j - 1])] for i, j in zip(starts, stops, strict=True) if j > i]


def completion_message(row: Any, node: str) -> node_pb2.Completion:
    """One COMPLETION row as a message: nanoseconds for picoseconds, names for numbers.

    The parts are rounded so that they still add up to the whole.
    """
    status = int(row["status"])
    posted, done = int(row["posted_ps"]) // 1000, int(row["done_ps"]) // 1000
    message = node_pb2.Completion(
        wr_id=int(row["wr_id"]),
        status=status,
        reason=Status(status).name if status in Status._value2member_map_ else f"STATUS_{status}",
        bytes=int(row["bytes"]),
        value=int(row["value"]),
        definite=bool(row["flags"] & CompletionFlags.DEFINITE),
        node=node if status else "",
        posted_ns=posted,
        completed_ns=done,
    )
    if 0 < status < 16:
        message.syndrome.iova = int(row["iova"])
        message.syndrome.stream_id = int(row["stream_id"])
        message.syndrome.context_bank = int(row["context_bank"])
        message.syndrome.stage = int(row["stage"])
        message.syndrome.level = int(row["level"])
        message.syndrome.write = bool(row["access"])
        message.syndrome.fsr = int(row["fsr"])
        message.syndrome.fsynr0 = int(row["fsynr0"])
    running = int(row["posted_ps"])
    before = posted
    for name, part in zip(TIMING_PARTS, row["parts_ps"].tolist(), strict=True):
        running += part
        after = running // 1000
        message.timing_ns[name] = after - before
        before = after
    return message


assert COMPLETION.itemsize == COMPLETION_BYTES
