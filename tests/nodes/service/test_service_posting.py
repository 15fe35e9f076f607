from __future__ import annotations

import time

import numpy as np
import pytest

from support.service_harness import post_frame, requests
from unimem.v1 import node_pb2
from unimem.wire import (
    WORK_REQUEST,
    FrameError,
    FrameKind,
    Op,
    WorkFlags,
    decode_bytes_field,
    new_frame,
    padded,
)
from unimem_node.service.posting import RETURN_LIMIT, Post, post_of_frame, post_of_messages


def post(wrs: np.ndarray, payload: bytes = b"") -> Post:
    frame = decode_bytes_field(post_frame(wrs, payload))
    assert frame is not None
    return post_of_frame(frame)


def test_payloads_and_landing_places_lie_one_after_the_other() -> None:
    wrs = requests(5, length=[3, 16, 9, 8, 100])
    wrs["op"] = [Op.WRITE, Op.READ, Op.WRITE, Op.FETCH_ADD, Op.READ]
    wrs["flags"] = [WorkFlags.INLINE, WorkFlags.RETURN, WorkFlags.INLINE, 0, WorkFlags.RETURN]
    one = post(wrs, b"abc".ljust(8, b".") + b"123456789".ljust(16, b"."))
    assert one.need(0, 5) == 8 + 16 + 16 + 104
    buffer = np.zeros(one.need(0, 5), np.uint8)
    placed, place, size = one.place(0, 5, 0x4000, buffer)
    assert buffer[:3].tobytes() == b"abc"
    assert buffer[8:17].tobytes() == b"123456789"
    assert placed["src"].tolist() == [0x4000, 0, 0x4008, 0, 0]
    assert placed["dst"].tolist() == [0, 0x4018, 0, 0, 0x4028]
    assert place[[1, 4]].tolist() == [0x18, 0x28]
    assert size.tolist() == [0, 16, 0, 0, 100]


def test_a_part_of_a_post_stands_for_itself() -> None:
    wrs = requests(4, op=Op.WRITE, flags=WorkFlags.INLINE, length=8)
    one = post(wrs, bytes(range(32)))
    buffer = np.zeros(16, np.uint8)
    placed, _, _ = one.place(1, 3, 0x100, buffer)
    assert buffer.tolist() == list(range(8, 24))
    assert placed["src"].tolist() == [0x100, 0x108]


def test_fit_takes_what_there_is_room_for_and_at_least_one() -> None:
    one = post(requests(10, op=Op.READ, flags=WorkFlags.RETURN, length=1000))
    assert one.fit(0, 3500, 100) == 3
    assert one.fit(3, 3500, 2) == 5
    assert one.fit(3, 1, 100) == 4
    assert one.fit(9, 1 << 20, 100) == 10
    nothing_to_stage = post(requests(10, op=Op.FETCH_ADD, length=8))
    assert nothing_to_stage.fit(0, 0, 100) == 10


def test_a_return_longer_than_one_completion_may_carry_is_refused_in_its_place() -> None:
    wrs = requests(3, op=Op.READ, flags=WorkFlags.RETURN, length=[8, RETURN_LIMIT + 1, 8])
    one = post(wrs)
    assert one.wrs["op"].tolist() == [Op.READ, 0, Op.READ]
    assert one.need(0, 3) == 16


@pytest.mark.parametrize(
    ("lengths", "payload", "words"),
    [
        ([8, 8], 8, "8 bytes of payload where the INLINE requests take 16"),
        ([8], 24, "24 bytes of payload"),
        ([2**64 - 1], 8, "an INLINE request of 18446744073709551615 bytes"),
        ([2**63, 2**63], 0, "an INLINE request of"),
    ],
)
def test_payloads_that_do_not_add_up_are_no_frame(lengths: list[int], payload: int, words: str) -> None:
    wrs = requests(len(lengths), op=Op.WRITE, flags=WorkFlags.INLINE, length=np.array(lengths, np.uint64))
    with pytest.raises(FrameError, match=words):
        post(wrs, bytes(payload))


def test_the_last_payload_may_come_without_its_padding() -> None:
    one = post(requests(2, op=Op.WRITE, flags=WorkFlags.INLINE, length=[8, 3]), b"12345678abc")
    buffer = np.zeros(one.need(0, 2), np.uint8)
    one.place(0, 2, 0, buffer)
    assert buffer.tobytes() == b"12345678abc\0\0\0\0\0"


def test_messages_become_the_same_requests() -> None:
    one = post_of_messages(
        [
            node_pb2.WorkRequest(wr_id=1, opcode=node_pb2.OPCODE_WRITE, dst=0x1000000000, data=b"hello"),
            node_pb2.WorkRequest(wr_id=2, opcode=node_pb2.OPCODE_WRITE, src=0x40, dst=0x1000000000, length=7),
            node_pb2.WorkRequest(wr_id=3, opcode=node_pb2.OPCODE_READ, src=0x1000000000, length=5),
            node_pb2.WorkRequest(wr_id=4, opcode=node_pb2.OPCODE_READ, src=1, dst=0x40, length=5, fence=True),
            node_pb2.WorkRequest(wr_id=5, opcode=node_pb2.OPCODE_WRITE, length=4, data=b"hello"),
            node_pb2.WorkRequest(wr_id=6),
        ]
    )
    assert one.as_messages
    assert one.wrs["op"].tolist() == [1, 1, 2, 2, 0, 0]
    assert one.wrs["flags"].tolist()[:4] == [WorkFlags.INLINE, 0, WorkFlags.RETURN, WorkFlags.FENCE]
    assert one.wrs["length"].tolist()[:4] == [5, 7, 5, 5]
    assert one.payload.tobytes() == b"hello\0\0\0"


def test_messages_may_ask_for_everything_a_frame_may() -> None:
    one = post_of_messages(
        [
            node_pb2.WorkRequest(opcode=node_pb2.OPCODE_SEND, dst=0x1000000000, data=b"hello", ordered=True),
            node_pb2.WorkRequest(opcode=node_pb2.OPCODE_COPY, src=0x1000000000, dst=0x2000000000, length=9),
            node_pb2.WorkRequest(
                opcode=node_pb2.OPCODE_WRITE,
                dst=0x1000000000,
                data=b"x",
                accepted=True,
                deadline_us=250,
                signal=0x1000000008,
                operand=7,
            ),
        ]
    )
    inline = WorkFlags.INLINE
    assert one.wrs["op"].tolist() == [Op.SEND, Op.COPY, Op.WRITE]
    assert one.wrs["flags"].tolist() == [
        inline | WorkFlags.ORDERED,
        0,
        inline | WorkFlags.ACCEPTED | WorkFlags.SIGNAL,
    ]
    assert one.wrs["deadline_us"].tolist() == [0, 0, 250]
    assert (one.wrs["operand"][2], one.wrs["compare"][2]) == (7, 0x1000000008)
    buffer = np.zeros(16, np.uint8)
    one.place(0, 3, 0x4000, buffer)
    assert one.wrs["src"].tolist() == [0x4000, 0x1000000000, 0x4008]
    assert buffer.tobytes() == b"hello\0\0\0x" + bytes(7)


def test_thousands_of_small_writes_cost_well_under_a_microsecond_each() -> None:
    n = 4096
    wrs = requests(n, op=Op.WRITE, flags=WorkFlags.INLINE, length=8)
    frame = new_frame(FrameKind.POST, wrs, n * padded(8))
    assert wrs.dtype == WORK_REQUEST
    buffer = np.zeros(n * 8, np.uint8)
    best = 1.0
    for _ in range(20):
        start = time.perf_counter()
        one = post_of_frame(frame)
        one.place(0, one.fit(0, 8 << 20, 1 << 16), 0x1000, buffer)
        best = min(best, time.perf_counter() - start)
    assert best / n < 1e-6
