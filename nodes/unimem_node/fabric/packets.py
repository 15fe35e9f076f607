"""Packets and frames between nodes: the wire format of the fabric (docs/protocol.md).

A FABRIC frame of `unimem.wire` holds `count` packets of 64 bytes, then payloads at multiples of 8 bytes.
The header's reserved words carry the number of the connection, a CRC of the header, and the virtual time at
which the whole frame has arrived. One packet layout serves every request; answers use the same 64 bytes
with some fields renamed (`RESPONSE`, `NACK`). An ACK packet's payload is an array of `ACK_RECORD`, so that
thousands of small writes are acknowledged by one packet.

Everything here is for the readable path, for tests and for other implementations; compiled code uses the
same offsets from `_fast_columns`.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from enum import IntEnum
from typing import Any, Final, NamedTuple

import numpy as np

from unimem.addresses import fmt
from unimem.wire import FRAME_HEADER, HEADER_BYTES, FrameError, FrameKind, Status, padded, parse_frame

from . import _fast_columns as col
from ._fast_crc import header_crc, packet_crc


class PacketOp(IntEnum):
    """What a packet asks or answers; requests have the numbers of `unimem.wire.Op`."""

    WRITE = col.OP_WRITE
    READ = col.OP_READ
    FETCH_ADD = col.OP_FETCH_ADD
    COMPARE_SWAP = col.OP_COMPARE_SWAP
    SWAP = col.OP_SWAP
    SEND = col.OP_SEND
    COPY = col.OP_COPY
    ACK = col.OP_ACK  # WRITEs that were done, many in one packet
    RESPONSE = col.OP_RESPONSE  # a READ's bytes, or what an atomic found
    NACK = col.OP_NACK  # one request that was refused
    READY = col.OP_READY  # the page of a PAGE_PENDING request is there: send it again


ATOMICS: Final = frozenset({PacketOp.FETCH_ADD, PacketOp.COMPARE_SWAP, PacketOp.SWAP})

#: Packet flag: `length` payload bytes are at `payload_offset`.
HAS_PAYLOAD: Final = col.HAS_PAYLOAD
#: Packet flag: acknowledge it when it is parked; it is executed later.
ACCEPTED: Final = col.ACCEPTED

PACKET: Final = np.dtype(
    [
        ("op", "u1"),
        ("flags", "u1"),
        ("status", "<u2"),  # NACK
        ("pdid", "<u2"),
        ("replay", "<u2"),  # of a request that returns a value: where its answer is kept, from 1
        ("seq", "<u4"),  # requests count, per direction of a connection; answers echo
        ("length", "<u4"),  # bytes asked for or carried
        ("va", "<u8"),  # at the target
        ("token", "<u8"),  # the sender's handle, echoed by the answer
        ("time", "<u8"),  # virtual ps at which the packet arrives
        ("operand", "<u8"),
        ("compare", "<u8"),
        ("payload_offset", "<u4"),  # from the frame's start
        ("crc", "<u4"),  # CRC-32C of header (this field zero) and payload
    ]
)

#: RESPONSE: the same bytes.
RESPONSE: Final = np.dtype(
    [
        ("op", "u1"),
        ("flags", "u1"),
        ("status", "<u2"),
        ("pdid", "<u2"),
        ("reserved", "<u2"),
        ("seq", "<u4"),
        ("length", "<u4"),
        ("wait", "<u8"),  # ps the request waited for the target's engine
        ("token", "<u8"),
        ("time", "<u8"),
        ("value", "<u8"),  # what an atomic found
        ("translate", "<u4"),  # ps
        ("memory", "<u4"),  # ps
        ("payload_offset", "<u4"),
        ("crc", "<u4"),
    ]
)

#: NACK: the same bytes. `length` is what was written before the refusal.
NACK: Final = np.dtype(
    [
        ("op", "u1"),
        ("flags", "u1"),
        ("status", "<u2"),
        ("pdid", "<u2"),
        ("stage", "u1"),
        ("level_access", "u1"),  # level << 4 | access (0 read, 1 write)
        ("seq", "<u4"),
        ("length", "<u4"),
        ("iova", "<u8"),
        ("token", "<u8"),
        ("time", "<u8"),
        ("fsr", "<u4"),
        ("fsynr0", "<u4"),
        ("stream_id", "<u4"),
        ("context_bank", "<u4"),
        ("expected", "<u4"),  # SEQUENCE_GAP: the seq that was due; BAD_CRC: the connection it arrived on
        ("crc", "<u4"),
    ]
)

ACK_RECORD: Final = np.dtype(
    [
        ("token", "<u8"),
        ("time", "<u8"),  # ps at which the answer arrives
        ("wait", "<u8"),  # ps
        ("translate", "<u4"),
        ("memory", "<u4"),
    ]
)

#: The frame header as FABRIC frames use it.
FABRIC_HEADER: Final = np.dtype(
    [
        (name, FRAME_HEADER[name].str)
        for name in FRAME_HEADER.names or ()
        if name not in ("number", "reserved")
    ]
    + [
        ("number", "<u4"),  # counts the frames to this peer
        ("base", "<u4"),  # the sender's oldest request on this connection that it has not settled
        ("connection", "<u4"),
        ("crc", "<u4"),
        ("time", "<u8"),
    ]
)

for _dtype in (PACKET, RESPONSE, NACK):
    assert _dtype.itemsize == col.PACKET_BYTES
assert ACK_RECORD.itemsize == col.ACK_BYTES
assert FABRIC_HEADER.itemsize == HEADER_BYTES


class Frame(NamedTuple):
    """A received frame, as views of its bytes."""

    header: np.void
    packets: np.ndarray  # PACKET[count]
    data: np.ndarray  # uint8: the whole frame


def open_frame(data: np.ndarray) -> Frame:
    """Check a frame's header; raises `FrameError`. The packets are still unchecked (see `check_packet`)."""
    _, packets, _ = parse_frame(data, FrameKind.FABRIC, PACKET)
    header = data[:HEADER_BYTES].view(FABRIC_HEADER)[0]
    if header_crc(data) != header["crc"]:
        raise FrameError(
            f"CRC of the frame header is {int(header['crc']):#010x}, not {header_crc(data):#010x}"
        )
    if len(packets) == 0:
        raise FrameError("a frame without packets")
    if header["time"] >= col.TIME_LIMIT:
        raise FrameError(f"virtual time {int(header['time'])} ps is beyond the limit {col.TIME_LIMIT}")
    return Frame(header, packets, data)


class PacketError(ValueError):
    """A packet that cannot be trusted: `status` is what it is answered with, where an answer makes sense."""

    def __init__(self, status: Status, text: str) -> None:
        super().__init__(text)
        self.status = status


def payload_bytes(packet: np.void) -> int:
    """Bytes of payload a packet says it has."""
    return int(packet["length"]) if packet["flags"] & HAS_PAYLOAD else 0


def check_packet(frame: Frame, number: int, *, crc: bool = True) -> None:
    """Raise `PacketError` when a packet's payload is not inside the frame or, with `crc`, that is wrong."""
    packet = frame.packets[number]
    n, start = payload_bytes(packet), int(packet["payload_offset"])
    records_end = HEADER_BYTES + frame.packets.nbytes
    if n and (start % 8 or start < records_end or start + n > len(frame.data)):
        raise PacketError(
            Status.MALFORMED, f"payload of {n} bytes at {start} in a frame of {len(frame.data)} bytes"
        )
    if not crc:
        return
    found = packet_crc(frame.data, HEADER_BYTES + number * PACKET.itemsize, start if n else 0, n)
    if found != packet["crc"]:
        raise PacketError(Status.BAD_CRC, f"CRC {int(packet['crc']):#010x}, not {found:#010x}")


def payload(frame: Frame, packet: np.void) -> np.ndarray:
    """The payload of a checked packet, as a view."""
    start = int(packet["payload_offset"])
    return frame.data[start : start + payload_bytes(packet)]


def seal_packet(data: np.ndarray, number: int) -> None:
    """Fill the CRC of packet `number` of a frame whose bytes are otherwise complete."""
    at = HEADER_BYTES + number * PACKET.itemsize
    packet = data[at : at + PACKET.itemsize].view(PACKET)[0]
    n = payload_bytes(packet)
    packet["crc"] = packet_crc(data, at, int(packet["payload_offset"]) if n else 0, n)


def seal_header(data: np.ndarray) -> None:
    """Fill the CRC of the frame header."""
    data[:HEADER_BYTES].view(FABRIC_HEADER)["crc"] = header_crc(data)


def build_frame(packets: Iterable[tuple[np.void, bytes]], **header: int) -> np.ndarray:
    """A sealed frame of `packets` with their payloads; `header` are fields of FABRIC_HEADER."""
    rows = list(packets)
    start = HEADER_BYTES + len(rows) * PACKET.itemsize
    data = np.zeros(start + sum(padded(len(body)) for _, body in rows), np.uint8)
    table = data[HEADER_BYTES:start].view(PACKET)
    for number, (row, body) in enumerate(rows):
        table[number] = row.view(PACKET)
        packet = table[number]
        if body:
            packet["flags"] |= HAS_PAYLOAD
            packet["length"], packet["payload_offset"] = len(body), start
            data[start : start + len(body)] = np.frombuffer(body, np.uint8)
            start += padded(len(body))
        seal_packet(data, number)
    fields: dict[str, Any] = {
        "magic": col.MAGIC_VERSION_KIND & 0xFFFF_FFFF,
        "version": 1,
        "kind": FrameKind.FABRIC,
        "count": len(rows),
        "record_bytes": PACKET.itemsize,
        "total_bytes": len(data),
        "connection": 1,
        **header,
    }
    for name, value in fields.items():
        data[:HEADER_BYTES].view(FABRIC_HEADER)[name] = value
    seal_header(data)
    return data


def request(op: PacketOp, seq: int, **fields: int) -> np.void:
    """A packet row with the given fields."""
    row: np.void = np.zeros(1, PACKET)[0]
    for name, value in {"op": op, "seq": seq, **fields}.items():
        row[name] = value
    return row


def describe(data: np.ndarray) -> Iterator[str]:
    """One line for the frame, one for each packet: for logs and scenario files."""
    frame = open_frame(data)
    header = frame.header
    ends = [f"{header[f'{end}_node']}.{header[f'{end}_incarnation']}" for end in ("src", "dst")]
    yield (
        f"frame {ends[0]} -> {ends[1]} connection {header['connection']}, {len(frame.packets)} packets, "
        f"{len(data)} bytes, {header['time']} ps"
    )
    for number, packet in enumerate(frame.packets):
        yield f"  {_describe_packet(frame, number, packet)}"


def _describe_packet(frame: Frame, number: int, packet: np.void) -> str:
    try:
        check_packet(frame, number)
        op = PacketOp(int(packet["op"]))
    except ValueError as error:
        return f"unusable: {error}"
    if op is PacketOp.ACK:
        return f"ACK of {int(packet['length']) // ACK_RECORD.itemsize}"
    text = f"{op.name} seq {packet['seq']}"
    if op is PacketOp.READY:
        return text
    if op is PacketOp.NACK:
        nack = packet.view(NACK)
        return (
            f"{text} {Status(int(nack['status'])).name} at {fmt(nack['iova'])} after {nack['length']} bytes"
        )
    if op is PacketOp.RESPONSE:
        return f"{text} {packet['length']} bytes, value {int(packet.view(RESPONSE)['value']):#x}"
    return f"{text} pdid {packet['pdid']} {packet['length']} bytes at {fmt(packet['va'])}"
