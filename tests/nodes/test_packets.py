"""The wire format: layouts, CRCs, and what is refused as a frame."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from unimem.wire import FRAME_HEADER, FrameError, Op, Status
from unimem_node._jit import crc32c
from unimem_node.fabric import _fast_columns as col
from unimem_node.fabric._fast_crc import LANE, ONES, header_crc, packet_crc, update
from unimem_node.fabric.packets import (
    ACK_RECORD,
    FABRIC_HEADER,
    NACK,
    PACKET,
    RESPONSE,
    PacketError,
    PacketOp,
    build_frame,
    check_packet,
    describe,
    open_frame,
    payload,
    request,
    seal_header,
)


def crc(data: bytes) -> int:
    return int(update(ONES, np.frombuffer(data, np.uint8), 0, len(data)) ^ ONES)


def frame(**header: int) -> np.ndarray:
    body = bytes(range(20))
    packets = [
        (request(PacketOp.WRITE, 4, pdid=7, va=0x20_0000_0000, token=3, time=5), body),
        (request(PacketOp.READ, 5, pdid=7, va=0x20_0000_0040, length=100), b""),
    ]
    return build_frame(packets, **{"src_node": 0, "dst_node": 1, "time": 9, **header})


@pytest.mark.parametrize(
    ("data", "value"),  # RFC 3720, appendix B.4
    [(bytes(32), 0x8A9136AA), (b"\xff" * 32, 0x62A8AB43), (bytes(range(32)), 0x46DD794E)],
)
def test_crc_of_the_rfc(data: bytes, value: int) -> None:
    assert crc(data) == value


@given(st.integers(0, 4 * LANE), st.integers(0, 9), st.randoms(use_true_random=False))
def test_three_lanes_agree_with_one(n: int, start: int, random: object) -> None:
    data = np.frombuffer(random.randbytes(n + 16), np.uint8)  # type: ignore[attr-defined]
    assert int(update(ONES, data, start, n) ^ ONES) == int(crc32c(data, start, n, 0))


def test_layouts_agree_with_the_compiled_columns() -> None:
    def offset(dtype: np.dtype, name: str) -> int:
        assert dtype.fields is not None
        return int(dtype.fields[name][1])

    assert [offset(PACKET, name) for name in ("status", "pdid", "seq", "length", "va", "token", "time")] == [
        col.X_STATUS, col.X_PDID, col.X_SEQ, col.X_LENGTH, col.X_VA, col.X_TOKEN, col.X_TIME,
    ]  # fmt: skip
    assert [offset(PACKET, name) for name in ("operand", "compare", "payload_offset", "crc")] == [
        col.X_OPERAND, col.X_COMPARE, col.X_PAYLOAD, col.X_CRC,
    ]  # fmt: skip
    assert offset(RESPONSE, "wait") == col.X_VA
    assert offset(RESPONSE, "value") == col.X_OPERAND
    assert offset(RESPONSE, "translate") == col.X_COMPARE
    assert offset(RESPONSE, "memory") == col.X_COMPARE + 4
    for name in ("op", "flags", "status", "pdid", "seq", "length", "token", "time", "crc"):
        assert offset(PACKET, name) == offset(RESPONSE, name) == offset(NACK, name)
    assert [offset(ACK_RECORD, name) for name in ("token", "time", "wait", "translate", "memory")] == [
        0, col.ACK_TIME, col.ACK_WAIT, col.ACK_TRANSLATE, col.ACK_MEMORY,
    ]  # fmt: skip
    header = ("count", "total_bytes", "src_node", "dst_node", "src_incarnation", "dst_incarnation", "number")
    assert [offset(FABRIC_HEADER, name) for name in (*header, "connection", "crc", "time")] == [
        col.H_COUNT, col.H_TOTAL, col.H_SRC, col.H_DST, col.H_SRC_INCARNATION, col.H_DST_INCARNATION,
        col.H_NUMBER, col.H_CONNECTION, col.H_CRC, col.H_TIME,
    ]  # fmt: skip
    assert all(offset(FABRIC_HEADER, name) == offset(FRAME_HEADER, name) for name in header)
    assert int.from_bytes(frame()[:8].tobytes(), "little") == col.MAGIC_VERSION_KIND


def test_packet_ops_are_those_of_work_requests() -> None:
    assert {op.name: int(PacketOp[op.name]) for op in Op} == {op.name: int(op) for op in Op}


def test_a_built_frame_opens() -> None:
    opened = open_frame(frame())
    assert len(opened.packets) == 2
    for number in range(2):
        check_packet(opened, number)
    assert payload(opened, opened.packets[0]).tobytes() == bytes(range(20))
    assert len(payload(opened, opened.packets[1])) == 0
    assert int(opened.header["time"]) == 9


def test_crc_covers_every_byte() -> None:
    """Every byte of the frame is under one of the CRCs, or is padding."""
    good = frame()
    undetected = []
    for at in range(len(good)):
        bad = good.copy()
        bad[at] ^= 0x10
        try:
            opened = open_frame(bad)
            check_packet(opened, 0)
            check_packet(opened, 1)
        except (FrameError, PacketError):
            continue
        undetected.append(at)
    assert undetected == list(range(64 + 128 + 20, 64 + 128 + 24))  # the padding of the payload


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"magic": 1}, "magic"),
        ({"version": 2}, "version"),
        ({"kind": 1}, "kind"),
        ({"count": 1 << 31}, "announced"),
        ({"count": 0}, "without packets"),
        ({"record_bytes": 32}, "records of 32"),
        ({"total_bytes": 99}, "announced"),
        ({"time": 1 << 61}, "virtual time"),
    ],
)
def test_headers_that_are_refused(change: dict[str, int], message: str) -> None:
    with pytest.raises(FrameError, match=message):
        open_frame(frame(**change))


def test_header_crc() -> None:
    bad = frame()
    bad[:64].view(FABRIC_HEADER)["src_incarnation"] = 7
    with pytest.raises(FrameError, match="CRC of the frame header"):
        open_frame(bad)
    seal_header(bad)
    assert open_frame(bad).header["src_incarnation"] == 7
    assert header_crc(bad) == bad[:64].view(FABRIC_HEADER)["crc"][0]


@pytest.mark.parametrize("n", [0, 1, 63])
def test_short_frames(n: int) -> None:
    with pytest.raises(FrameError, match="at least 64"):
        open_frame(np.zeros(n, np.uint8))


@pytest.mark.parametrize("offset", [0, 64, 128, 196, 216, 1 << 31])
def test_payloads_that_lie_elsewhere(offset: int) -> None:
    opened = open_frame(frame())
    opened.packets[0]["payload_offset"] = offset
    with pytest.raises(PacketError) as caught:
        check_packet(opened, 0)
    assert caught.value.status is Status.MALFORMED


def test_damaged_payload() -> None:
    bad = frame()
    bad[64 + 128] ^= 1
    opened = open_frame(bad)
    with pytest.raises(PacketError) as caught:
        check_packet(opened, 0)
    assert caught.value.status is Status.BAD_CRC
    check_packet(opened, 1)
    assert packet_crc(bad, 64 + 64, 0, 0) == opened.packets[1]["crc"]


def test_describe() -> None:
    assert list(describe(frame(src_incarnation=1, dst_incarnation=2))) == [
        "frame 0.1 -> 1.2 connection 1, 2 packets, 216 bytes, 9 ps",
        "  WRITE seq 4 pdid 7 20 bytes at 0x20_0000_0000",
        "  READ seq 5 pdid 7 100 bytes at 0x20_0000_0040",
    ]
    bad = frame()
    bad[64] = 77
    assert "unusable" in list(describe(bad))[1]
