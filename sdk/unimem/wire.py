"""The binary wire formats: frames of fixed-size records, then their payloads.

A gRPC message costs Python hundreds of microseconds however small it is, so what travels is a *frame*:
a 64-byte header, `count` records of one NumPy dtype, and the payloads the records point to. All fields
are little-endian. Three kinds of frame share the header:

=============  ==================  ===================  ==========================================
kind           record              between              payloads
=============  ==================  ===================  ==========================================
``POST``       `WORK_REQUEST`      SDK -> node          bytes of each INLINE write, in order
``COMPLETE``   `COMPLETION`        node -> SDK          bytes of each completion with DATA, in order
``FABRIC``     (packets)           node -> node         see `unimem_node.fabric.packets`
=============  ==================  ===================  ==========================================

Every payload starts at a multiple of 8 bytes from the frame's start. Records hold integer picoseconds
(``_ps``): they are the model's own; the protobuf messages hold nanoseconds.
"""

from __future__ import annotations

from enum import IntEnum, IntFlag
from typing import Final

import numpy as np

VERSION: Final = 1
MAGIC: Final = 0x464D_4E55  # "UNMF", little-endian

#: Bytes of a frame's header.
HEADER_BYTES: Final = 64

FRAME_HEADER: Final = np.dtype(
    [
        ("magic", "<u4"),
        ("version", "<u2"),
        ("kind", "<u2"),
        ("count", "<u4"),  # records
        ("record_bytes", "<u4"),  # size of one record: a newer peer may append fields
        ("total_bytes", "<u8"),  # the frame with header, records and payloads
        ("src_node", "<u4"),  # index of the sender, 0xFFFF_FFFF = a client
        ("dst_node", "<u4"),
        ("src_incarnation", "<u4"),
        ("dst_incarnation", "<u4"),
        ("number", "<u8"),  # counts the frames of one direction of one connection
        ("reserved", "<u8", (2,)),
    ]
)
assert FRAME_HEADER.itemsize == HEADER_BYTES


class FrameKind(IntEnum):
    """What the records of a frame are."""

    POST = 1
    COMPLETE = 2
    FABRIC = 3


class Op(IntEnum):
    """Verbs of a work request; the numbers are those of `unimem.v1.Opcode`."""

    WRITE = 1
    READ = 2
    FETCH_ADD = 3
    COMPARE_SWAP = 4
    SWAP = 5
    SEND = 6  # up to MESSAGE_BYTES bytes into the mailbox at `dst`
    COPY = 7  # by the node that owns `src`, to `dst`; both are GVAs


#: Longest message of a SEND, and bytes of a mailbox's slot.
MESSAGE_BYTES: Final = 64


class WorkFlags(IntFlag):
    """Flags of a work request."""

    INLINE = 1  # WRITE, SEND: the bytes are in the post frame; `src` is ignored, the node stages them
    RETURN = 2  # READ: `dst` is ignored, the bytes come back in the completion frame
    FENCE = 4  # starts when everything the same process posted before is complete
    ORDERED = 8  # executed at the target after everything this node sent it before
    ACCEPTED = 16  # complete when the target has every block, even if a page fault holds it up
    SIGNAL = 32  # WRITE: then `operand` into the 64-bit word at GVA `compare`, unless the write is refused


WORK_REQUEST: Final = np.dtype(
    [
        ("wr_id", "<u8"),  # the poster's, echoed by the completion
        ("op", "u1"),
        ("flags", "u1"),
        ("pdid", "<u2"),
        ("deadline_us", "<u4"),  # from the doorbell; 0: none
        ("length", "<u8"),  # bytes; atomics: 4 or 8
        ("src", "<u8"),  # WRITE, SEND: VA in the posting process; READ, COPY: GVA
        ("dst", "<u8"),  # GVA; READ: VA in the posting process
        ("operand", "<u8"),  # addend, or new value
        ("compare", "<u8"),
        ("posted_ps", "<u8"),  # doorbell, filled by the node
    ]
)
WORK_REQUEST_BYTES: Final = 64
assert WORK_REQUEST.itemsize == WORK_REQUEST_BYTES


class Status(IntEnum):
    """How a work request ended. 1-15: an SMMU refused (numbers 1-7 are the FSR's bit positions)."""

    OK = 0
    TRANSLATION_FAULT = 1  # FSR.TF
    ACCESS_FLAG_FAULT = 2  # FSR.AFF
    PERMISSION_FAULT = 3  # FSR.PF
    EXTERNAL_ABORT = 4  # FSR.EF: memory that is not there, on a walk or on the access
    TLB_CONFLICT = 5  # FSR.TLBMCF
    ADDRESS_SIZE_FAULT = 7  # FSR.ASF
    STREAM_FAULT = 9  # GFSR: unidentified, in conflict, or S2CR type fault
    BANK_BLOCKED = 10  # a stalled transaction holds up the context bank (SCTLR.HUPCF = 0)
    ACCESS_DENIED = 16  # the target knows no such protection domain
    STALE_ROUTE = 17  # the target no longer owns the address
    NO_ROUTE = 18  # no node owns the address
    BAD_CRC = 19
    SEQUENCE_GAP = 20
    MALFORMED = 21  # op, length or alignment that no engine accepts
    MISALIGNED = 22  # an atomic not on a multiple of its size
    PEER_LOST = 23  # the connection broke with the request under way
    PEER_UNREACHABLE = 24  # never connected: nothing was sent
    NO_CONTEXT_BANK = 25  # every context bank of the target's SMMU is taken
    CANCELLED = 26
    TIMED_OUT = 27
    UNRESOLVED_FAULT = 28  # a page fault was handled again and again, and stayed
    MAILBOX_FULL = 29  # each time the message was offered
    PAGE_PENDING = 48  # between nodes only: send it again when the page is there
    OUT_OF_ORDER = 49  # between nodes only: something before it is missing


class Side(IntEnum):
    """Where a request was refused."""

    NONE = 0
    SOURCE = 1
    TARGET = 2


class CompletionFlags(IntFlag):
    """Flags of a completion."""

    DEFINITE = 1  # of a failure: it certainly did not happen, not even in part
    DATA = 2  # a READ's bytes are in the frame's payloads


#: The parts of a transfer's simulated time, in the order in which they are spent.
TIMING_PARTS: Final = (
    "issue",  # doorbell to engine
    "source_translate",  # the source SMMU, all blocks
    "source_memory",  # reading the source's DRAM, all blocks
    "link_wait",  # the link was busy with others' packets
    "wire",  # serialisation and hops
    "target_wait",  # the target engine was busy
    "target_translate",
    "target_memory",
    "ack",  # the way back
)

COMPLETION: Final = np.dtype(
    [
        ("wr_id", "<u8"),
        ("status", "<u2"),
        ("side", "u1"),
        ("op", "u1"),
        ("flags", "u1"),
        ("stage", "u1"),
        ("level", "u1"),
        ("access", "u1"),  # 0 read, 1 write
        ("bytes", "<u8"),  # delivered
        ("value", "<u8"),  # atomics: what was there before
        ("iova", "<u8"),  # FAR
        ("stream_id", "<u4"),
        ("context_bank", "<u4"),
        ("fsr", "<u4"),
        ("fsynr0", "<u4"),
        ("node", "<u4"),  # index of the node that refused
        ("pdid", "<u4"),
        ("posted_ps", "<u8"),
        ("done_ps", "<u8"),
        ("parts_ps", "<u8", (len(TIMING_PARTS),)),
        ("reserved", "<u8"),
    ]
)
COMPLETION_BYTES: Final = 160
assert COMPLETION.itemsize == COMPLETION_BYTES


#: The start of a mailbox in its owner's memory. A SEND writes message number `head` into slot `head % slots`,
#: its length into the table of lengths, then counts `head` up; a receiver takes number `tail` and counts that
#: up. Behind the header: one byte of length for each slot, from `MAILBOX_LENGTHS` on, padded to a multiple of
#: `MESSAGE_BYTES`; then the slots of `MESSAGE_BYTES` each.
MAILBOX: Final = np.dtype(
    [
        ("head", "<u8"),  # messages sent
        ("tail", "<u8"),  # messages taken out
        ("slots", "<u4"),  # 1 to MAILBOX_SLOTS
        ("magic", "<u4"),  # MAILBOX_MAGIC: a SEND to anything else is MALFORMED
        ("reserved", "<u8", (5,)),
    ]
)
MAILBOX_MAGIC: Final = 0x424D_4E55  # "UNMB", little-endian
MAILBOX_LENGTHS: Final = 64
MAILBOX_SLOTS: Final = 1 << 16
assert MAILBOX.itemsize == MAILBOX_LENGTHS


def mailbox_slots_at(slots: int) -> int:
    """Where the slots of a mailbox begin, in bytes from its header."""
    return MAILBOX_LENGTHS + (slots + MESSAGE_BYTES - 1) // MESSAGE_BYTES * MESSAGE_BYTES


class FrameError(ValueError):
    """Bytes that are no frame of ours: wrong magic, version, kind, or lengths that do not add up."""


def padded(n: int) -> int:
    """Bytes a payload of `n` bytes takes in a frame."""
    return (n + 7) & ~7


def new_frame(kind: FrameKind, records: np.ndarray, payload_bytes: int = 0, **fields: int) -> np.ndarray:
    """A frame (uint8 array) with header and `records` in place and room for `payload_bytes` behind them."""
    start = HEADER_BYTES + records.nbytes
    frame = np.empty(start + payload_bytes, np.uint8)
    header = frame[:HEADER_BYTES].view(FRAME_HEADER)[0]
    frame[:HEADER_BYTES] = 0
    header["magic"], header["version"], header["kind"] = MAGIC, VERSION, kind
    header["count"], header["record_bytes"] = len(records), records.dtype.itemsize
    header["total_bytes"] = len(frame)
    for name, value in fields.items():
        header[name] = value
    frame[HEADER_BYTES:start] = records.view(np.uint8).reshape(-1)
    return frame


def parse_frame(frame: np.ndarray, kind: FrameKind, record: np.dtype) -> tuple[np.void, np.ndarray, int]:
    """(header, records, offset of the first payload) of a frame of `kind`, as views.

    Raises `FrameError` when the bytes cannot be such a frame; never reads past their end.
    """
    if len(frame) < HEADER_BYTES:
        raise FrameError(f"a frame has at least {HEADER_BYTES} bytes, this has {len(frame)}")
    header = frame[:HEADER_BYTES].view(FRAME_HEADER)[0]
    if header["magic"] != MAGIC:
        raise FrameError(f"magic is {int(header['magic']):#010x}, not {MAGIC:#010x}: not a unimem frame")
    if header["version"] != VERSION:
        raise FrameError(f"frame version {int(header['version'])}; this end speaks {VERSION}")
    if header["kind"] != kind:
        raise FrameError(f"frame kind {int(header['kind'])} where {kind.name} ({int(kind)}) was expected")
    if header["record_bytes"] != record.itemsize:
        raise FrameError(f"records of {int(header['record_bytes'])} bytes; this end has {record.itemsize}")
    end = HEADER_BYTES + int(header["count"]) * record.itemsize
    if header["total_bytes"] != len(frame) or end > len(frame):
        raise FrameError(
            f"{int(header['count'])} records and {int(header['total_bytes'])} bytes announced, "
            f"{len(frame)} arrived"
        )
    return header, frame[HEADER_BYTES:end].view(record), end


def encode_bytes_field(frame: np.ndarray | bytes) -> bytes:
    """The protobuf message whose field 1 (bytes) is `frame`, made with one copy.

    TransferRequest, TransferResponse, ExchangeRequest and ExchangeResponse all carry their frame in field 1,
    so that raw-bytes serialisers and generated code meet on the wire.
    """
    n = len(frame)
    prefix = bytearray(b"\x0a")
    while n > 0x7F:
        prefix.append(n & 0x7F | 0x80)
        n >>= 7
    prefix.append(n)
    return b"".join((prefix, frame.data if isinstance(frame, np.ndarray) else frame))


def decode_bytes_field(message: bytes) -> np.ndarray | None:
    """The frame in field 1 of a message as a view, or None for a message of another shape (parse it then)."""
    if len(message) < 2 or message[0] != 0x0A:
        return None
    n = shift = 0
    for i in range(1, min(len(message), 7)):
        n |= (message[i] & 0x7F) << shift
        if message[i] < 0x80:
            return np.frombuffer(message, np.uint8, n, i + 1) if i + 1 + n == len(message) else None
        shift += 7
    return None
