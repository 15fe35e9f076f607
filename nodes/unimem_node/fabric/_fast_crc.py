"""CRC-32C of packets, three lanes at a time.

The processor's CRC32C step has a latency of three cycles and a throughput of one, so a single chain uses a
third of it. Runs of three lanes are computed side by side and joined by tables: appending `LANE` zero
bytes to a message is a linear map of its CRC register over GF(2).

CRC of a packet: its 64 header bytes with the field `crc` zero, then its payload.
"""

from __future__ import annotations

from typing import Any

import numpy as np

from unimem_node._jit import _TABLE, _crc32c_8, load64, njit_inline

from ._fast_columns import H_CONNECTION, H_TIME, X_PAYLOAD

LANE = 1360  # bytes; three lanes and two words are a page
ONES = np.uint64(0xFFFF_FFFF)


def _after_zeros(n: int) -> np.ndarray:
    """``T[k, b]``: the CRC register after `n` zero bytes, from ``b << 8 * k``; by repeated squaring."""
    table = _TABLE.astype(np.int64)
    step = [
        int(table[(1 << i) & 0xFF]) ^ ((1 << i) >> 8) for i in range(32)
    ]  # one zero byte, by basis vector
    result = [1 << i for i in range(32)]

    def apply(columns: list[int], vector: int) -> int:
        value = 0
        for i in range(32):
            if vector >> i & 1:
                value ^= columns[i]
        return value

    while n:
        if n & 1:
            result = [apply(step, column) for column in result]
        step = [apply(step, column) for column in step]
        n >>= 1
    return np.array([[apply(result, b << 8 * k) for b in range(256)] for k in range(4)], np.uint64)


_SHIFT = _after_zeros(LANE)


@njit_inline
def _shift(crc: Any) -> Any:
    """The register after LANE zero bytes."""
    return (
        _SHIFT[0, np.int64(crc & np.uint64(255))]
        ^ _SHIFT[1, np.int64(crc >> np.uint64(8) & np.uint64(255))]
        ^ _SHIFT[2, np.int64(crc >> np.uint64(16) & np.uint64(255))]
        ^ _SHIFT[3, np.int64(crc >> np.uint64(24) & np.uint64(255))]
    )


@njit_inline
def update(crc: Any, data: Any, start: int, n: int) -> Any:
    """Continue the CRC *register* (uint64, not inverted) over ``data[start:start+n]`` (uint8)."""
    i = start
    end = start + n
    while i + 3 * LANE <= end:
        b = np.uint64(0)
        c = np.uint64(0)
        for j in range(i, i + LANE, 8):
            crc = _crc32c_8(crc, load64(data, j))
            b = _crc32c_8(b, load64(data, j + LANE))
            c = _crc32c_8(c, load64(data, j + 2 * LANE))
        crc = _shift(_shift(crc) ^ b) ^ c
        i += 3 * LANE
    while i + 8 <= end:
        crc = _crc32c_8(crc, load64(data, i))
        i += 8
    while i < end:
        crc = _TABLE[np.int64((crc ^ np.uint64(data[i])) & np.uint64(0xFF))] ^ (crc >> np.uint64(8))
        i += 1
    return crc


@njit_inline
def packet_crc(frame: Any, at: int, payload: int, n: int) -> Any:
    """CRC-32C of the packet at `at` with the `n` payload bytes at `payload`; an int64 < 2**32."""
    crc = ONES
    for i in range(at, at + X_PAYLOAD, 8):
        crc = _crc32c_8(crc, load64(frame, i))
    crc = _crc32c_8(crc, load64(frame, at + X_PAYLOAD) & ONES)
    return np.int64(update(crc, frame, payload, n) ^ ONES)


@njit_inline
def header_crc(frame: Any) -> Any:
    """CRC-32C of the frame's 64 header bytes with the field `crc` zero; an int64 < 2**32."""
    crc = ONES
    for i in range(0, H_CONNECTION, 8):
        crc = _crc32c_8(crc, load64(frame, i))
    crc = _crc32c_8(crc, load64(frame, H_CONNECTION) & ONES)
    return np.int64(_crc32c_8(crc, load64(frame, H_TIME)) ^ ONES)
