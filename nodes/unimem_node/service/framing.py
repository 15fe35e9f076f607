"""Frames in gRPC messages: field 1 of the message, without a protobuf object and with one copy.

A fabric message may hold several frames back to back (each announces its own length): a message costs
hundreds of microseconds however small it is, so what has gathered while the last one was on its way leaves
as one. A post or completion message holds exactly one frame.
"""

from __future__ import annotations

import struct
from collections.abc import Iterator, Sequence
from typing import Final

import numpy as np

from unimem.wire import HEADER_BYTES, MAGIC, VERSION, FrameError, FrameKind

# magic, version, kind, count, record_bytes, total_bytes, src_node, dst_node, src_incarnation
_HEADER: Final = struct.Struct("<IHHIIQIII")

#: More than any frame of an interface (16 MiB of payload, 65,536 packets, their ACK records).
LARGEST_FRAME: Final = 32 << 20


def bytes_field(parts: Sequence[bytes | memoryview], total: int) -> bytes:
    """The message whose field 1 is `parts` one after the other, `total` bytes in all."""
    prefix = bytearray(b"\x0a")
    while total > 0x7F:
        prefix.append(total & 0x7F | 0x80)
        total >>= 7
    prefix.append(total)
    return b"".join((prefix, *parts))


def fabric_total(view: memoryview, at: int, sender: int) -> int:
    """Bytes of the fabric frame of node `sender` whose header is at `at`. Raises `FrameError`."""
    magic, version, kind, _, _, total, source, _, _ = _HEADER.unpack_from(view, at)
    if magic != MAGIC or version != VERSION or kind != FrameKind.FABRIC:
        raise FrameError(
            f"magic {magic:#010x}, version {version}, kind {kind}: no fabric frame of this version"
        )
    if source != sender:
        raise FrameError(f"a frame of node {source} on a connection of node {sender}")
    if not HEADER_BYTES <= total <= LARGEST_FRAME:
        raise FrameError(f"a frame announces {total} bytes; from {HEADER_BYTES} to {LARGEST_FRAME} may be")
    return int(total)


def split_fabric(frames: np.ndarray, sender: int) -> Iterator[np.ndarray]:
    """The fabric frames lying back to back in `frames`, which came from node `sender`.

    Raises `FrameError` at the first that is none, or that names another sender; what came before it stands.
    """
    view, at, end = frames.data, 0, len(frames)
    while True:
        if end - at < HEADER_BYTES:
            raise FrameError(f"{end - at} bytes where a frame of at least {HEADER_BYTES} was expected")
        total = fabric_total(view, at, sender)
        if total > end - at:
            raise FrameError(f"a frame announces {total} bytes, {end - at} arrived")
        if at == 0 and total == end:
            yield frames
            return
        yield frames[at : at + total]
        at += total
        if at == end:
            return
