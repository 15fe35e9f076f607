"""Examining a received frame, compiled: the common case of `target.Target` and `source.Source.answer_one`.

One call goes through a frame's packets up to where the reply must end: requests are checked, translated and
executed, answers settle what is in flight. The reply is built meanwhile: one ACK packet with a record for
each WRITE, a RESPONSE for each READ and atomic. Anything unusual stops at that packet with nothing of it
done, but for a refused address: then the bytes before it are in memory and C_MOVED, C_COST say how far.
"""

from __future__ import annotations

from typing import Any

from unimem_node._jit import njit, njit_inline, store64
from unimem_node.dma._fast import locate
from unimem_node.mmu._fast import ACCESS_WRITE

from . import _fast_columns as col
from ._fast_answer import settle_acks, settle_response
from ._fast_crc import header_crc, packet_crc
from ._fast_frame import (
    clear,
    close_buffer,
    gather,
    get32,
    get64,
    memory_ps,
    open_buffer,
    pad,
    scatter,
    seal,
    stop_at_fault,
)
from ._fast_handle import open_arrays, open_state
from ._fast_links import carry
from ._fast_tables import find_slot
from ._fast_window import acknowledged, due, note_seen, overtaken

MAX_U32 = 0xFFFF_FFFF


@njit_inline
def plain_header(s: Any, peer: int, frame: Any) -> Any:
    """Number of packets of a frame whose header is the common case, or -1."""
    n = frame.shape[0]
    if n < col.HEADER + col.PACKET_BYTES or get64(frame, 0) != col.MAGIC_VERSION_KIND:
        return -1
    count = get32(frame, col.H_COUNT)
    if get32(frame, col.H_COUNT + 4) != col.PACKET_BYTES or get64(frame, col.H_TOTAL) != n:
        return -1
    if count == 0 or col.HEADER + count * col.PACKET_BYTES > n:
        return -1
    if get64(frame, col.H_SRC) != s.peers[peer, col.P_INDEX] | s.node[col.N_INDEX] << 32:
        return -1
    if get32(frame, col.H_SRC_INCARNATION) != s.peers[peer, col.P_SEEN_INCARNATION]:
        return -1
    if get32(frame, col.H_DST_INCARNATION) != s.node[col.N_INCARNATION]:
        return -1
    if get32(frame, col.H_CONNECTION) != s.peers[peer, col.P_SEEN_CONNECTION]:
        return -1
    if s.node[col.N_CHECKS] == 0:
        return count
    if 0 < (get32(frame, col.H_BASE) - s.peers[peer, col.P_EXPECTED]) & col.SEQ_MASK < 1 << 31:
        return -1  # it has settled what we have not seen
    time = get64(frame, col.H_TIME)
    if time < 0 or time >= col.TIME_LIMIT or get32(frame, col.H_CRC) != header_crc(frame):
        return -1
    return count


@njit_inline
def open_reply(s: Any, frame: Any, buffer: Any) -> Any:
    """Plan the reply to the packets from C_PACKET on, as many as one frame can answer, and begin it.

    False when `buffer` is too small for it (see `open_buffer`).
    """
    cursor = s.cursor
    acks = 0
    responses = 0
    payload = 0
    room = s.node[col.N_FRAME_PAYLOAD]
    i = cursor[col.C_PACKET]
    while i < cursor[col.C_COUNT]:
        at = col.HEADER + i * col.PACKET_BYTES
        op = frame[at]
        if acknowledged(op):
            acks += 1
        elif op == col.OP_READ:
            n = get32(frame, at + col.X_LENGTH)
            if n <= room:
                if payload + n > room:
                    break
                payload += (n + 7) & ~7
                responses += 1
        elif op >= col.OP_FETCH_ADD and op <= col.OP_SWAP:
            responses += 1
        i += 1
    cursor[col.C_END] = i
    slots = responses + (1 if acks > 0 else 0)
    if not open_buffer(s, buffer, slots, acks * col.ACK_BYTES + payload):
        return False
    cursor[col.C_RECORDS] = cursor[col.C_PAYLOAD]
    cursor[col.C_PAYLOAD] += acks * col.ACK_BYTES
    cursor[col.C_PLANNED] = acks
    return True


@njit_inline
def add_ack(s: Any, buffer: Any, token: int, time: int, wait: int, translate: int, memory: int) -> None:
    """Append an ACK record to the reply."""
    cursor = s.cursor
    at = cursor[col.C_RECORDS] + cursor[col.C_ACKS] * col.ACK_BYTES
    cursor[col.C_ACKS] += 1
    store64(buffer, at, token)
    store64(buffer, at + col.ACK_TIME, time)
    store64(buffer, at + col.ACK_WAIT, wait)
    store64(buffer, at + col.ACK_TRANSLATE, min(translate, MAX_U32) | min(memory, MAX_U32) << 32)
    cursor[col.C_TIME] = max(cursor[col.C_TIME], time)


@njit_inline
def add_response(
    s: Any, buffer: Any, domain: int, seq: int, n: int, carried: int, token: int, time: int, wait: int,
    value: Any, translate: int, memory: int,
) -> None:  # fmt: skip
    """Append a RESPONSE to the reply; its `carried` payload bytes are at C_PAYLOAD already."""
    cursor = s.cursor
    at = col.HEADER + cursor[col.C_USED] * col.PACKET_BYTES
    payload = cursor[col.C_PAYLOAD]
    flags = col.HAS_PAYLOAD if carried else 0
    store64(buffer, at, col.OP_RESPONSE | flags << 8 | domain << 32)
    store64(buffer, at + col.X_SEQ, seq | n << 32)
    store64(buffer, at + col.X_VA, wait)
    store64(buffer, at + col.X_TOKEN, token)
    store64(buffer, at + col.X_TIME, time)
    store64(buffer, at + col.X_OPERAND, value)
    store64(buffer, at + col.X_COMPARE, min(translate, MAX_U32) | min(memory, MAX_U32) << 32)
    seal(s, buffer, at, payload if carried else 0, carried)
    cursor[col.C_PAYLOAD] = pad(buffer, payload + carried)
    cursor[col.C_USED] += 1
    cursor[col.C_TIME] = max(cursor[col.C_TIME], time)


@njit_inline
def close_reply(s: Any, buffer: Any, peer: int) -> Any:
    """Add the ACK packet and the header; returns the reply's bytes, 0 when there is nothing to say."""
    cursor = s.cursor
    clear(
        buffer,
        cursor[col.C_RECORDS] + cursor[col.C_ACKS] * col.ACK_BYTES,
        cursor[col.C_RECORDS] + cursor[col.C_PLANNED] * col.ACK_BYTES,
    )
    if cursor[col.C_ACKS] > 0:
        at = col.HEADER + cursor[col.C_USED] * col.PACKET_BYTES
        n = cursor[col.C_ACKS] * col.ACK_BYTES
        store64(buffer, at, col.OP_ACK | col.HAS_PAYLOAD << 8)
        store64(buffer, at + col.X_SEQ, n << 32)
        store64(buffer, at + col.X_VA, 0)
        store64(buffer, at + col.X_TOKEN, 0)
        store64(buffer, at + col.X_TIME, cursor[col.C_TIME])
        store64(buffer, at + col.X_OPERAND, s.peers[peer, col.P_GRANT])
        store64(buffer, at + col.X_COMPARE, 0)
        seal(s, buffer, at, cursor[col.C_RECORDS], n)
        cursor[col.C_USED] += 1
    if cursor[col.C_PACKET] == cursor[col.C_COUNT]:
        cursor[col.C_STOP] = col.STOP_DONE
        cursor[col.C_PACKET] = 0
        cursor[col.C_COUNT] = -1
    else:
        cursor[col.C_STOP] = col.STOP_REPLY
    return close_buffer(s, buffer, peer, s.peers[peer, col.P_SEEN_INCARNATION])


@njit_inline
def serve(s: Any, peer: int, time: int, cost: int, memory: int) -> Any:
    """Occupy the target engine for a request that arrived at `time`: (wait, done), ps."""
    start = max(time, s.node[col.N_TARGET_FREE])
    done = start + cost + memory
    s.node[col.N_TARGET_FREE] = done
    return start - time, done


@njit_inline
def atomic_result(op: int, old: Any, operand: Any, compare: Any) -> Any:
    """What an atomic leaves in memory."""
    if op == col.OP_FETCH_ADD:
        return old + operand
    if op == col.OP_COMPARE_SWAP and old != compare:
        return old
    return operand


@njit_inline
def respond_read(
    s: Any, buffer: Any, peer: int, domain: int, seq: int, n: int, token: int, wait: int, done: int,
    cost: int, memory: int,
) -> None:  # fmt: skip
    """Answer a READ whose bytes are at C_PAYLOAD; they take their time on the link back."""
    _, _, arrival = carry(s, peer, n, done)
    add_response(s, buffer, domain, seq, n, n, token, arrival, wait, 0, cost, memory)
    s.node[col.K_BYTES_READ] += n


@njit_inline
def remember(s: Any, peer: int, slot: int, seq: int, status: int, value: Any) -> None:
    """Keep the answer of a request in its replay slot (from 1), unless a later one's is there already."""
    row = (s.peers[peer, col.P_REPLAY] - 1) * col.VALUE_SLOTS + slot - 1
    connection = s.peers[peer, col.P_SEEN_CONNECTION]
    if s.replay[row, col.A_CONNECTION] == connection:
        if (seq - s.replay[row, col.A_SEQ]) & col.SEQ_MASK >= 1 << 31:
            return
    s.replay[row, col.A_CONNECTION] = connection
    s.replay[row, col.A_SEQ] = seq
    s.replay[row, col.A_VALUE] = value
    s.replay[row, col.A_STATUS] = status


@njit_inline
def respond_value(
    s: Any, buffer: Any, peer: int, domain: int, seq: int, slot: int, token: int, n: int, wait: int,
    done: int, value: Any, cost: int, memory: int,
) -> None:  # fmt: skip
    """Answer a request that returns a value, and remember the answer for a duplicate of it."""
    add_response(
        s, buffer, domain, seq, n, 0, token, done + s.peers[peer, col.P_LATENCY], wait, value, cost, memory
    )
    if s.node[col.N_CHECKS] != 0:
        remember(s, peer, slot, seq, 0, value)


@njit_inline
def execute(
    s: Any, handle: Any, arrays: Any, peer: int, frame: Any, at: int, payload: int, n: int, buffer: Any
) -> Any:
    """Do one request whose CRC is right; False when it stops here (C_STOP)."""
    node = s.node
    head = get64(frame, at)
    op = head & 0xFF
    domain = (head >> 32) & 0xFFFF
    seq = get32(frame, at + col.X_SEQ)
    va = get64(frame, at + col.X_VA)
    time = get64(frame, at + col.X_TIME)
    carries = (head >> 8) & col.HAS_PAYLOAD != 0
    replay = (head >> 48) & 0xFFFF
    s.cursor[col.C_STOP] = col.STOP_PACKET
    flags = (head >> 8) & 0xFF
    checks = node[col.N_CHECKS] != 0
    if checks and not due(s, peer, seq):
        return False
    if flags & col.ORDERED != 0:
        if seq != s.peers[peer, col.P_EXPECTED] or s.peers[peer, col.P_OWED] != 0:
            return False
    if time < 0 or time >= col.TIME_LIMIT or node[col.N_ENABLED] == 0:
        return False
    if (
        va < node[col.N_WINDOW_BASE]
        or va >= node[col.N_WINDOW_END]
        or n > node[col.N_WINDOW_END] - va
        or n == 0
    ):
        return False
    if carries != (op == col.OP_WRITE) or flags & col.SIGNAL != 0:
        return False
    slot = find_slot(s, domain)
    if slot < 0:
        return False
    lane = s.slots[slot, col.S_LANE]
    bank = s.slots[slot, col.S_BANK]
    token = get64(frame, at + col.X_TOKEN)
    memory = memory_ps(arrays, n)
    if op == col.OP_WRITE:
        moved, code, level, cost = scatter(handle, lane, bank, va, n, frame, payload)
        if code != 0:
            stop_at_fault(s, slot, va, moved, code, level, cost)
            return False
        wait, done = serve(s, peer, time, cost, memory)
        add_ack(s, buffer, token, done + s.peers[peer, col.P_LATENCY], wait, cost, memory)
        node[col.K_BYTES_WRITTEN] += n
    elif op == col.OP_READ:
        if n > node[col.N_FRAME_PAYLOAD]:
            return False
        moved, code, level, cost = gather(handle, lane, bank, va, n, buffer, s.cursor[col.C_PAYLOAD])
        if code != 0:
            stop_at_fault(s, slot, va, moved, code, level, cost)
            return False
        wait, done = serve(s, peer, time, cost, memory)
        respond_read(s, buffer, peer, domain, seq, n, token, wait, done, cost, memory)
    else:
        if n != 8 or va & 7 != 0 or op > col.OP_SWAP:
            return False
        if checks and (s.peers[peer, col.P_REPLAY] == 0 or replay == 0 or replay > col.VALUE_SLOTS):
            return False
        code, level, offset, _, cost = locate(arrays, lane, bank, va, ACCESS_WRITE, 8)
        if code != 0:
            stop_at_fault(s, slot, va, 0, code, level, cost)
            return False
        old = get64(arrays.mem8, offset)
        operand = get64(frame, at + col.X_OPERAND)
        store64(arrays.mem8, offset, atomic_result(op, old, operand, get64(frame, at + col.X_COMPARE)))
        wait, done = serve(s, peer, time, cost, memory)
        respond_value(s, buffer, peer, domain, seq, replay, token, 8, wait, done, old, cost, memory)
        node[col.K_ATOMICS] += 1
    if checks:
        note_seen(s, peer, seq)
    node[col.K_BLOCKS_SERVED] += 1
    return True


@njit
def receive(handle: Any, peer: int, frame: Any, buffer: Any) -> Any:
    """Go through the packets of `frame` (read-only) up to C_END; returns the reply's bytes. See C_STOP."""
    arrays = open_arrays(handle)
    s = open_state(handle)
    node, cursor = s.node, s.cursor
    if cursor[col.C_COUNT] < 0:
        count = plain_header(s, peer, frame)
        if count < 0:
            cursor[col.C_STOP] = col.STOP_HEADER
            return 0
        cursor[col.C_COUNT] = count
        node[col.N_CLOCK] = max(node[col.N_CLOCK], get64(frame, col.H_TIME))
        if node[col.N_VIRTUAL] != 0:
            node[col.N_NOW] = max(node[col.N_NOW], get64(frame, col.H_TIME))
        node[col.K_FRAMES_IN] += 1
        node[col.K_PACKETS_IN] += count
    if cursor[col.C_OPEN] == 0:
        if not open_reply(s, frame, buffer):
            return 0
    records_end = col.HEADER + cursor[col.C_COUNT] * col.PACKET_BYTES
    while cursor[col.C_PACKET] < cursor[col.C_END]:
        at = col.HEADER + cursor[col.C_PACKET] * col.PACKET_BYTES
        head = get64(frame, at)
        op = head & 0xFF
        n = get32(frame, at + col.X_LENGTH)
        carried = n if (head >> 8) & col.HAS_PAYLOAD != 0 else 0
        payload = 0
        cursor[col.C_STOP] = col.STOP_PACKET
        if carried > 0:
            payload = get32(frame, at + col.X_PAYLOAD)
            if payload & 7 != 0 or payload < records_end or payload + carried > frame.shape[0]:
                return 0
        if node[col.N_CHECKS] != 0 and packet_crc(frame, at, payload, carried) != get32(
            frame, at + col.X_CRC
        ):
            return 0
        if op >= col.OP_WRITE and op <= col.OP_SWAP:
            if not execute(s, handle, arrays, peer, frame, at, payload, n, buffer):
                return 0
        elif op == col.OP_ACK:
            if not settle_acks(s, peer, frame, at, payload, carried):
                return 0
        elif op == col.OP_RESPONSE:
            if not settle_response(s, handle, arrays, peer, frame, at, payload, carried):
                return 0
        else:
            return 0
        cursor[col.C_PACKET] += 1
    if node[col.N_CHECKS] != 0 and overtaken(s, peer):
        node[col.N_TIMER] = min(node[col.N_TIMER], node[col.N_NOW])
    return close_reply(s, buffer, peer)
