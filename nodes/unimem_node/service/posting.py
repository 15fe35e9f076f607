"""From what a client sent to arrays of work requests: post frames and `WorkRequest` messages.

Payloads of INLINE writes and the landing places of RETURN reads of a whole post lie in one staging buffer;
where each of them starts is a running sum, so thousands of requests cost a dozen array operations.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, Final

import numpy as np

from unimem.wire import WORK_REQUEST, FrameError, FrameKind, Op, WorkFlags, padded, parse_frame
from unimem_node.service.rows import copied

#: Longest READ whose bytes come back in the completion frame. Longer ones are refused as MALFORMED:
#: ask for them in pieces.
RETURN_LIMIT: Final = 4 << 20

#: No engine knows this operation: the network interface completes it as MALFORMED, in its order among the
#: others.
_REFUSED: Final = 0

_INLINE: Final = np.uint8(WorkFlags.INLINE)  # an IntFlag would make the arrays int64
_RETURN: Final = np.uint8(WorkFlags.RETURN)


class Post:
    """One post: `wrs` (WORK_REQUEST, ours to change) and where their bytes are.

    `inline`, `lands`: int64[n + 1], running sums of the padded bytes of INLINE writes in `payload` and of
    RETURN reads in the landing area. `returns`: bool[n]. `as_messages`: the answer goes as `Completion`
    messages.
    """

    __slots__ = ("_room", "as_messages", "inline", "lands", "payload", "returns", "wrs")

    def __init__(self, wrs: np.ndarray, payload: np.ndarray, *, as_messages: bool) -> None:
        op, flags, length = wrs["op"], wrs["flags"], wrs["length"]
        sends = _carries(op) & (flags & _INLINE != 0)
        returns = (op == Op.READ) & (flags & _RETURN != 0)
        n = len(wrs)
        if (length[sends] > len(payload)).any():
            raise FrameError(
                f"an INLINE request of {int(length[sends].max())} bytes; the payloads have {len(payload)}"
            )
        too_long = returns & (length > RETURN_LIMIT)
        if too_long.any():
            op[too_long] = _REFUSED
            returns &= ~too_long
        room = (length + np.uint64(7) & ~np.uint64(7)).astype(np.int64)
        self.inline = np.zeros(n + 1, np.int64)
        np.cumsum(np.where(sends, room, 0), out=self.inline[1:])
        self.lands = np.zeros(n + 1, np.int64)
        np.cumsum(np.where(returns, room, 0), out=self.lands[1:])
        if not self.inline[-1] - 7 <= len(payload) <= self.inline[-1]:
            raise FrameError(
                f"{len(payload)} bytes of payload where the INLINE requests take {self.inline[-1]}"
            )
        self._room = self.inline + self.lands
        self.wrs, self.payload, self.returns, self.as_messages = wrs, payload, returns, as_messages

    def fit(self, start: int, room: int, count: int) -> int:
        """The end of the part from `start` that needs at most `room` bytes and has at most `count` requests.

        At least one request, whatever it needs.
        """
        end = int(np.searchsorted(self._room, self._room[start] + room, "right")) - 1
        return max(start + 1, min(end, start + count, len(self.wrs)))

    def need(self, start: int, end: int) -> int:
        """Bytes of staging for the requests from `start` to `end`."""
        return int(self._room[end] - self._room[start])

    def place(
        self, start: int, end: int, va: int, view: np.ndarray
    ) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
        """Put the payloads of a part into the buffer at `va` (bytes: `view`) and point the requests there.

        Returns (requests, place, size): where in the buffer a RETURN read lands, and its bytes (0: lands
        nowhere).
        """
        wrs, returns = self.wrs[start:end], self.returns[start:end]
        first, last = int(self.inline[start]), int(self.inline[end])
        if last > first:
            piece = self.payload[first:last]
            view[: len(piece)] = piece
            sends = (wrs["flags"] & _INLINE != 0) & _carries(wrs["op"])
            wrs["src"][sends] = (self.inline[start:end][sends] + (va - first)).astype(np.uint64)
        place = self.lands[start:end] + (last - first - int(self.lands[start]))
        size = np.zeros(end - start, np.int64)
        if self.lands[end] > self.lands[start]:
            wrs["dst"][returns] = (place[returns] + va).astype(np.uint64)
            size[returns] = wrs["length"][returns].astype(np.int64)
        return wrs, place, size


def _carries(op: np.ndarray) -> np.ndarray:
    """Which requests take bytes with them."""
    found: np.ndarray = (op == Op.WRITE) | (op == Op.SEND)
    return found


def post_of_frame(frame: np.ndarray) -> Post:
    """The post in a POST frame. Raises `FrameError`."""
    _, records, end = parse_frame(frame, FrameKind.POST, WORK_REQUEST)
    return Post(copied(records), frame[end:], as_messages=False)


def post_of_messages(work: Sequence[Any]) -> Post:
    """The post in `WorkRequest` messages. One that contradicts itself is refused, not the whole post."""
    wrs = np.zeros(len(work), WORK_REQUEST)
    pieces = []
    for row, message in zip(wrs, work, strict=True):
        op, flags, length = message.opcode, WorkFlags(0), message.length
        if message.data and op in (Op.WRITE, Op.SEND):
            flags |= WorkFlags.INLINE
            if length not in (0, len(message.data)):
                op = _REFUSED
            else:
                length = len(message.data)
                pieces.append(message.data.ljust(padded(length), b"\0"))
        elif op == Op.READ and message.dst == 0:
            flags |= WorkFlags.RETURN
        for asked, flag in (
            (message.fence, WorkFlags.FENCE),
            (message.ordered, WorkFlags.ORDERED),
            (message.accepted, WorkFlags.ACCEPTED),
            (message.signal, WorkFlags.SIGNAL),
        ):
            if asked:
                flags |= flag
        if op not in range(len(Op) + 1):
            op = _REFUSED
        row["wr_id"], row["op"], row["flags"], row["length"] = message.wr_id, op, flags, length
        row["src"], row["dst"] = message.src, message.dst
        row["operand"], row["compare"] = message.operand, message.signal or message.compare
        row["deadline_us"] = message.deadline_us
    return Post(wrs, np.frombuffer(b"".join(pieces), np.uint8), as_messages=True)
