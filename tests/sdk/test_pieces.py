"""`unimem._pieces` and `unimem._frames`: cutting, merging, packing."""

from __future__ import annotations

import contextlib
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from unimem import wire
from unimem._frames import Completions, batch_message, post_message
from unimem._many import PIECE_BYTES, failed_row, writes
from unimem._pieces import Pieces
from unimem._port import Work
from unimem.v1 import node_pb2
from unimem.wire import (
    COMPLETION,
    WORK_REQUEST,
    CompletionFlags,
    FrameError,
    FrameKind,
    Op,
    Status,
    WorkFlags,
)

DEFINITE = int(CompletionFlags.DEFINITE)


class Done(Work):
    __slots__ = ("calls",)

    def on_done(self, status: int, rows: np.ndarray, index: int) -> None:
        self.calls = [*getattr(self, "calls", []), (status, rows[index].copy())]


def put_of(n: int, **fields: Any) -> Done:
    return Done(int(Op.WRITE), dst=1 << 36, length=n, data=memoryview(bytes(n)), **fields)


def row(n: int, posted: int, done: int, status: int = 0, flags: int = 0) -> np.ndarray:
    rows = np.zeros(1, COMPLETION)
    rows["bytes"], rows["posted_ps"], rows["done_ps"] = n, posted, done
    rows["status"], rows["flags"] = status, flags
    rows["parts_ps"][0, 3] = done - posted
    return rows


@given(st.integers(PIECE_BYTES + 1, 5 * PIECE_BYTES), st.randoms())
def test_pieces_cover_the_whole_once_and_merge_in_any_order(n: int, random: Any) -> None:
    work = put_of(n, fence=True)
    whole = Pieces(work)
    pieces = []
    while not whole.exhausted:
        pieces.append(whole.piece())
    assert [p.fence for p in pieces] == [True] + [False] * (len(pieces) - 1)
    assert [p.dst - work.dst for p in pieces] == list(range(0, n, PIECE_BYTES))
    assert sum(p.length for p in pieces) == n
    assert all(p.data is not None and len(p.data) == p.length for p in pieces)
    order = list(range(len(pieces)))
    random.shuffle(order)
    for i in order:
        assert not hasattr(work, "calls")
        pieces[i].on_done(0, row(pieces[i].length, 100 + i, 1000 + i), 0)
    ((status, merged),) = work.calls
    assert (status, merged["bytes"]) == (0, n)
    assert (merged["posted_ps"], merged["done_ps"]) == (100, 1000 + len(pieces) - 1)
    assert merged["parts_ps"].sum() == merged["done_ps"] - merged["posted_ps"]
    assert merged["parts_ps"][0] == len(pieces) - 1  # the wait for the last piece's doorbell


def test_a_read_s_pieces_write_into_the_caller_s_buffer_until_it_is_withdrawn() -> None:
    out = bytearray(PIECE_BYTES + 10)
    work = Done(int(Op.READ), src=1 << 36, length=len(out), out=memoryview(out))
    whole = Pieces(work)
    _, second = whole.piece(), whole.piece()
    assert second.src == (1 << 36) + PIECE_BYTES
    assert second.out is not None
    second.out[:] = b"0123456789"
    assert out[-10:] == b"0123456789"
    work.out = None
    assert second.out is None


@pytest.mark.parametrize(
    ("first", "second", "definite"),
    [
        ((Status.PERMISSION_FAULT, DEFINITE), (Status.PERMISSION_FAULT, DEFINITE), True),
        ((Status.PERMISSION_FAULT, DEFINITE), (Status.PEER_LOST, 0), False),
        ((Status.PEER_LOST, 0), (Status.PERMISSION_FAULT, DEFINITE), False),
        ((Status.OK, 0), (Status.PERMISSION_FAULT, DEFINITE), False),
        ((Status.PERMISSION_FAULT, DEFINITE), (Status.OK, 0), False),
    ],
)
def test_a_failed_piece_fails_the_whole(
    first: tuple[int, int], second: tuple[int, int], definite: bool
) -> None:
    work = put_of(4 * PIECE_BYTES)
    whole = Pieces(work)
    a, b = whole.piece(), whole.piece()
    for piece, (status, flags) in ((a, first), (b, second)):
        rows = row(0 if status else piece.length, 5, 9, status, flags)
        piece.on_done(status, rows, 0)
    assert whole.exhausted  # the other two are never sent
    ((status, merged),) = work.calls
    assert status == (first[0] or second[0])
    assert bool(merged["flags"] & DEFINITE) is definite


def test_a_stream_that_breaks_half_way() -> None:
    work = put_of(3 * PIECE_BYTES)
    whole = Pieces(work)
    sent = whole.piece()
    whole.fail(failed_row(Status.PEER_LOST, definite=True), "cut")
    assert not hasattr(work, "calls")
    sent.on_done(Status.PEER_LOST, failed_row(Status.PEER_LOST, definite=False), 0)
    ((status, merged),) = work.calls
    assert (status, merged["flags"]) == (Status.PEER_LOST, 0)
    assert work.note == "cut"
    untouched = put_of(3 * PIECE_BYTES)
    Pieces(untouched).fail(failed_row(Status.PEER_LOST, definite=True), "cut")
    assert untouched.calls[0][1]["flags"] == DEFINITE


def parse(message: bytes) -> tuple[np.ndarray, np.ndarray, int]:
    packed = node_pb2.TransferRequest.FromString(message).packed
    frame = wire.decode_bytes_field(message)
    assert frame is not None
    assert frame.tobytes() == packed
    _, records, start = wire.parse_frame(frame, FrameKind.POST, WORK_REQUEST)
    return records, frame, start


def test_post_frames_are_what_wire_says() -> None:
    write = Work(int(Op.WRITE), dst=0x20_0000_0000, length=5, data=memoryview(b"hello"), fence=True)
    read = Work(int(Op.READ), src=0x30_0000_0000, length=9, out=memoryview(bytearray(9)))
    copy = Work(int(Op.WRITE), src=0x20_0000_0000, dst=0x30_0000_0000, length=7)
    swap = Work(int(Op.COMPARE_SWAP), dst=0x20_0000_0008, length=8, operand=2**64 - 1, compare=6)
    second = Work(int(Op.WRITE), dst=0x20_0000_0040, length=16, data=memoryview(bytes(range(16))))
    records, frame, at = parse(post_message(list(enumerate([write, read, copy, swap, second], 10)), 77, 3))
    assert records["wr_id"].tolist() == [10, 11, 12, 13, 14]
    assert records["op"].tolist() == [1, 2, 1, 4, 1]
    inline, returned, fence = (int(f) for f in (WorkFlags.INLINE, WorkFlags.RETURN, WorkFlags.FENCE))
    assert records["flags"].tolist() == [inline | fence, returned, 0, 0, inline]
    assert set(records["pdid"].tolist()) == {77}
    assert records["length"].tolist() == [5, 9, 7, 8, 16]
    assert records["src"].tolist() == [0, 0x30_0000_0000, 0x20_0000_0000, 0, 0]
    assert records["dst"][3] == 0x20_0000_0008
    assert (records["operand"][3], records["compare"][3]) == (2**64 - 1, 6)
    assert frame[at:].tobytes() == b"hello\0\0\0" + bytes(range(16))


@pytest.mark.parametrize("n", [1, 8, 13])
def test_batch_frames(n: int) -> None:
    values = np.arange(3 * n, dtype=np.uint8).reshape(3, n)
    requests, payload = writes((1 << 36) + 16 * np.arange(3), values, "test")
    records, frame, at = parse(batch_message(requests, payload, 1))
    assert (records == requests).all()
    for i in range(3):
        begin = at + i * wire.padded(n)
        assert frame[begin : begin + n].tobytes() == values[i].tobytes()


def complete(flags: list[int], payload: bytes, n: int = 3) -> np.ndarray:
    rows = np.zeros(len(flags), COMPLETION)
    rows["wr_id"], rows["flags"], rows["bytes"] = np.arange(len(flags)), flags, n
    frame = wire.new_frame(FrameKind.COMPLETE, rows, len(payload))
    if payload:
        frame[-len(payload) :] = np.frombuffer(payload, np.uint8)
    return frame


def test_completions_with_and_without_data() -> None:
    data = int(CompletionFlags.DATA)
    message = wire.encode_bytes_field(complete([data, 0, data], b"abc\0\0\0\0\0def\0\0\0\0\0"))
    completions = Completions(message)
    assert [completions.data(i).tobytes() for i in range(3)] == [b"abc", b"", b"def"]
    assert completions.rows.base is None  # may be kept: it does not hold the message
    plain = Completions(wire.encode_bytes_field(complete([0, 0], b"")))
    assert not plain.has_data
    other = node_pb2.TransferResponse(packed=complete([0], b"").tobytes())
    other.completions.add(wr_id=1)
    assert len(Completions(other.SerializeToString()).rows) == 1


@pytest.mark.parametrize(
    "message",
    [
        b"",
        b"\xff\xff\xff",
        node_pb2.TransferResponse().SerializeToString(),
        wire.encode_bytes_field(b"too short"),
        wire.encode_bytes_field(wire.new_frame(FrameKind.POST, np.zeros(1, WORK_REQUEST))),
        wire.encode_bytes_field(complete([2], b"")),
        wire.encode_bytes_field(complete([2, 2], b"abc\0\0\0\0\0")),
        wire.encode_bytes_field(complete([2], b"abc\0\0\0\0\0", n=1 << 63)),
    ],
)
def test_garbage_is_a_frame_error(message: bytes) -> None:
    with pytest.raises(FrameError):
        Completions(message)


@given(st.binary(max_size=400))
def test_no_bytes_raise_anything_else(message: bytes) -> None:
    with contextlib.suppress(FrameError):
        Completions(message)


@given(st.data())
def test_nor_do_frames_with_flipped_bytes(data: st.DataObject) -> None:
    message = bytearray(wire.encode_bytes_field(complete([2, 0], b"abc\0\0\0\0\0")))
    for _ in range(3):
        message[data.draw(st.integers(0, len(message) - 1))] = data.draw(st.integers(0, 255))
    try:
        completions = Completions(bytes(message))
    except FrameError:
        return
    for i in range(len(completions.rows)):
        completions.data(i)
