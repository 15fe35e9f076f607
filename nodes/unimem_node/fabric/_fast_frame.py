"""Writing and checking frames, compiled: headers, packets, and the addresses behind them.

Layout of a frame under construction: header, slots for as many packets as were planned, payloads (for a
reply: the ACK records first). When fewer packets than planned were written, unused slots stay as a gap
before the payloads, filled with zeros; `payload_offset` says where each payload is.
"""

from __future__ import annotations

from typing import Any

import numpy as np

from unimem_node._jit import copy_bytes, load32, load64, njit, njit_inline, store32, store64
from unimem_node.dma._fast import locate
from unimem_node.mmu._fast import ACCESS_WRITE
from unimem_node.smmu.arrays import T_MEMORY_LATENCY, T_MEMORY_PER_KIB

from . import _fast_columns as col
from ._fast_crc import header_crc, packet_crc
from ._fast_handle import open_arrays
from ._fast_links import carry
from ._fast_tables import dequeue, link, mark_ready, take_flight
from ._fast_window import gathers, returns_value, take_value_slot, window_share

ACCESS_READ = 0


@njit_inline
def get64(data: Any, at: int) -> Any:
    """64 bits as int64."""
    return np.int64(load64(data, at))


@njit_inline
def get32(data: Any, at: int) -> Any:
    """32 bits, unsigned, as int64."""
    return np.int64(load32(data, at))


@njit_inline
def open_buffer(s: Any, buffer: Any, slots: int, payload: int) -> Any:
    """Begin a frame of `slots` packets and `payload` bytes in `buffer`.

    False when it is too small: then C_STOP is STOP_NEED_BUFFER and C_NEED the size it must have.
    """
    size = col.HEADER + slots * col.PACKET_BYTES + payload
    if buffer.shape[0] < size:
        s.cursor[col.C_STOP] = col.STOP_NEED_BUFFER
        s.cursor[col.C_NEED] = size
        return False
    s.cursor[col.C_OPEN] = 1
    s.cursor[col.C_SLOTS] = slots
    s.cursor[col.C_USED] = 0
    s.cursor[col.C_PAYLOAD] = col.HEADER + slots * col.PACKET_BYTES
    s.cursor[col.C_ROOM] = size
    s.cursor[col.C_TIME] = 0
    s.cursor[col.C_ACKS] = 0
    return True


@njit_inline
def clear(buffer: Any, start: int, end: int) -> None:
    """Zeros into a gap (a multiple of 8 bytes): a frame tells nothing of what its buffer held before."""
    for at in range(start, end, 8):
        store64(buffer, at, 0)


@njit_inline
def pad(buffer: Any, end: int) -> Any:
    """Fill up with zeros to a multiple of 8; returns where that is."""
    while end & 7:
        buffer[end] = 0
        end += 1
    return end


@njit_inline
def seal(s: Any, buffer: Any, at: int, payload: int, n: int) -> None:
    """Write payload offset and CRC of a packet whose other fields are in place."""
    store64(buffer, at + col.X_PAYLOAD, payload)
    if s.node[col.N_CHECKS] != 0:
        store32(buffer, at + col.X_CRC, packet_crc(buffer, at, payload, n))


@njit_inline
def close_buffer(s: Any, buffer: Any, peer: int, incarnation: int) -> Any:
    """Finish a frame for the peer's life `incarnation`; returns its bytes, 0 if it is empty."""
    cursor = s.cursor
    total = cursor[col.C_PAYLOAD]
    cursor[col.C_OPEN] = 0
    if cursor[col.C_USED] == 0:
        return 0
    clear(
        buffer,
        col.HEADER + cursor[col.C_USED] * col.PACKET_BYTES,
        cursor[col.C_SLOTS] * col.PACKET_BYTES + col.HEADER,
    )
    s.peers[peer, col.P_FRAMES] += 1
    store64(buffer, 0, col.MAGIC_VERSION_KIND)
    store64(buffer, col.H_COUNT, cursor[col.C_USED] | col.PACKET_BYTES << 32)
    store64(buffer, col.H_TOTAL, total)
    store64(buffer, col.H_SRC, s.node[col.N_INDEX] | s.peers[peer, col.P_INDEX] << 32)
    store64(buffer, col.H_SRC_INCARNATION, s.node[col.N_INCARNATION] | incarnation << 32)
    store64(
        buffer, col.H_NUMBER, s.peers[peer, col.P_FRAMES] & col.SEQ_MASK | s.peers[peer, col.P_BASE] << 32
    )
    store64(buffer, col.H_CONNECTION, s.peers[peer, col.P_CONNECTION])
    store64(buffer, col.H_TIME, cursor[col.C_TIME])
    store32(buffer, col.H_CRC, header_crc(buffer))
    s.node[col.K_FRAMES_OUT] += 1
    s.node[col.K_PACKETS_OUT] += cursor[col.C_USED]
    return total


@njit_inline
def close_requests(s: Any, buffer: Any, peer: int) -> Any:
    """Finish a frame of requests and give the peer its next turn; returns the frame's bytes, 0 for none."""
    if s.peers[peer, col.P_HEAD] >= 0:
        mark_ready(s, peer)
    if s.cursor[col.C_USED] > 0:
        s.node[col.N_FRAMES] += 1
    s.cursor[col.C_STOP] = col.STOP_DONE
    return close_buffer(s, buffer, peer, s.peers[peer, col.P_ROUTE_INCARNATION])


@njit
def gather(handle: Any, lane: int, bank: int, va: int, n: int, buffer: Any, at: int) -> Any:
    """Read `n` bytes at `va` into ``buffer[at:]``: (bytes, 0 or why it stopped, level, translation ps)."""
    arrays = open_arrays(handle)
    moved = 0
    cost = 0
    while moved < n:
        code, level, offset, run, ps = locate(arrays, lane, bank, va + moved, ACCESS_READ, n - moved)
        cost += ps
        if code != 0:
            return moved, code, level, cost
        copy_bytes(buffer, at + moved, arrays.mem8, offset, run)
        moved += run
    return moved, 0, 0, cost


@njit
def scatter(handle: Any, lane: int, bank: int, va: int, n: int, frame: Any, at: int) -> Any:
    """Write ``frame[at:at+n]`` to `va`: (bytes, 0 or why it stopped, level, translation ps)."""
    arrays = open_arrays(handle)
    moved = 0
    cost = 0
    while moved < n:
        code, level, offset, run, ps = locate(arrays, lane, bank, va + moved, ACCESS_WRITE, n - moved)
        cost += ps
        if code != 0:
            return moved, code, level, cost
        copy_bytes(arrays.mem8, offset, frame, at + moved, run)
        moved += run
    return moved, 0, 0, cost


@njit_inline
def stop_at_fault(s: Any, slot: int, va: int, moved: int, code: int, level: int, cost: int) -> None:
    """Leave what is known of a refused address for the readable path to report."""
    s.cursor[col.C_STOP] = col.STOP_FAULT
    s.cursor[col.C_SLOT] = slot
    s.cursor[col.C_CODE] = code
    s.cursor[col.C_LEVEL] = level
    s.cursor[col.C_VA] = va + moved
    s.cursor[col.C_MOVED] = moved
    s.cursor[col.C_COST] = cost


@njit_inline
def memory_ps(arrays: Any, n: int) -> Any:
    """Time DRAM takes for a block of `n` bytes."""
    return arrays.timing[T_MEMORY_LATENCY] + (n * arrays.timing[T_MEMORY_PER_KIB] >> 10)


@njit_inline
def emit_request(s: Any, buffer: Any, peer: int, n: int, start: int, ready: int) -> None:
    """Send the next `n` bytes of the head of `peer`'s queue: time, row of `flight`, packet.

    `start`: when the source engine began with the block, `ready`: when it was done. A WRITE's payload is
    already at C_PAYLOAD.
    """
    row = take_block(s, peer, n, start)
    op = s.flight[row, col.F_OP]
    emit_packet(s, buffer, row, n if gathers(op) else 0, ready)


@njit_inline
def packet_flags(flags: int) -> Any:
    """Of WorkFlags, those that the target has to know."""
    ordered = col.ORDERED if flags & col.FLAG_ORDERED else 0
    signal = col.SIGNAL if flags & col.FLAG_SIGNAL else 0
    accepted = col.ACCEPTED if flags & col.FLAG_ACCEPTED else 0
    return ordered | signal | accepted


@njit_inline
def take_block(s: Any, peer: int, n: int, start: int) -> Any:
    """The next `n` bytes of the head of `peer`'s queue as a row of `flight`, with a seq of its own."""
    work = s.peers[peer, col.P_HEAD]
    offset = s.work[work, col.W_CUT]
    if offset == 0:
        s.work[work, col.W_ISSUE] = start - s.work[work, col.W_POSTED]
    row = take_flight(s)
    op = s.work[work, col.W_OP]
    seq = s.peers[peer, col.P_SEQ]
    s.peers[peer, col.P_SEQ] = (seq + 1) & col.SEQ_MASK
    s.peers[peer, col.P_BYTES] += window_share(op, n)
    s.flight[row, col.F_WORK] = work
    s.flight[row, col.F_PEER] = peer
    s.flight[row, col.F_SEQ] = seq
    s.flight[row, col.F_OP] = op
    s.flight[row, col.F_OFFSET] = offset
    s.flight[row, col.F_LENGTH] = n
    s.flight[row, col.F_SENDS] = 0
    s.flight[row, col.F_ROUNDS] = 0
    s.flight[row, col.F_STATE] = col.HERE
    s.flight[row, col.F_FRAME] = 0
    s.flight[row, col.F_SLOT] = 0
    s.flight[row, col.F_EVER] = 0
    if returns_value(op) and s.node[col.N_CHECKS] != 0:
        s.flight[row, col.F_SLOT] = take_value_slot(s, peer)
    s.flight[row, col.F_FLAGS] = packet_flags(s.work[work, col.W_FLAGS])
    if offset == 0 and s.work[work, col.W_SIGNAL] > 0:  # its signal says where its data begins
        s.work[s.work[work, col.W_SIGNAL] - 1, col.W_COMPARE] = seq
    s.work[work, col.W_PENDING] += 1
    s.work[work, col.W_CUT] = offset + n
    if s.work[work, col.W_CUT] == s.work[work, col.W_LENGTH]:
        dequeue(s, peer)
    return row


@njit_inline
def emit_packet(s: Any, buffer: Any, row: int, carried: int, ready: int) -> None:
    """Write the packet of a row of `flight` whose `carried` payload bytes are at C_PAYLOAD, and send it."""
    cursor = s.cursor
    peer = s.flight[row, col.F_PEER]
    work = s.flight[row, col.F_WORK]
    n = s.flight[row, col.F_LENGTH]
    departure, leaves, arrival = carry(s, peer, carried, ready)
    cursor[col.C_TIME] = max(cursor[col.C_TIME], arrival)
    spent = s.work[work, col.W_ISSUE] + s.work[work, col.W_TRANSLATE] + s.work[work, col.W_MEMORY]
    s.flight[row, col.F_LINK_WAIT] = departure - s.work[work, col.W_POSTED] - spent
    s.flight[row, col.F_WIRE] = arrival - departure
    s.flight[row, col.F_ARRIVAL] = arrival
    s.flight[row, col.F_TRANSLATE] = s.work[work, col.W_TRANSLATE]
    s.flight[row, col.F_MEMORY] = s.work[work, col.W_MEMORY]
    s.flight[row, col.F_FRAME] = s.node[col.N_FRAMES] + 1
    s.flight[row, col.F_SENDS] += 1
    s.flight[row, col.F_STATE] = col.FLYING
    if s.node[col.N_CHECKS] != 0:
        link(s, row, leaves if s.node[col.N_VIRTUAL] != 0 else s.node[col.N_NOW])

    at = col.HEADER + cursor[col.C_USED] * col.PACKET_BYTES
    payload = cursor[col.C_PAYLOAD]
    flags = s.flight[row, col.F_FLAGS] | (col.HAS_PAYLOAD if carried else 0)
    slot = s.flight[row, col.F_SLOT]
    head = s.flight[row, col.F_OP] | flags << 8 | s.work[work, col.W_PDID] << 32 | slot << 48
    store64(buffer, at, head)
    store64(buffer, at + col.X_SEQ, s.flight[row, col.F_SEQ] | n << 32)
    store64(buffer, at + col.X_VA, s.work[work, col.W_REMOTE] + s.flight[row, col.F_OFFSET])
    store64(buffer, at + col.X_TOKEN, s.flight[row, col.F_TOKEN])
    store64(buffer, at + col.X_TIME, arrival)
    operand = s.work[work, col.W_OPERAND]
    if s.flight[row, col.F_OP] == col.OP_COPY:  # where the block goes
        operand += s.flight[row, col.F_OFFSET]
    store64(buffer, at + col.X_OPERAND, operand)
    store64(buffer, at + col.X_COMPARE, s.work[work, col.W_COMPARE])
    seal(s, buffer, at, payload if carried else 0, carried)
    cursor[col.C_PAYLOAD] = pad(buffer, payload + carried)
    cursor[col.C_USED] += 1
