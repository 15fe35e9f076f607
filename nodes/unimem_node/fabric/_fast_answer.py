"""Settling what is in flight, compiled: the common case of `source.Source.answer_one`."""

from __future__ import annotations

from typing import Any

from unimem_node._jit import njit_inline

from . import _fast_columns as col
from ._fast_frame import get32, get64, memory_ps, scatter, stop_at_fault
from ._fast_tables import answered, find_flight, find_slot, settle
from ._fast_window import acknowledged, word_from


@njit_inline
def believable(time: int) -> Any:
    """A time that a peer sent, or 0 when it cannot be one."""
    return time if time >= 0 and time < col.TIME_LIMIT else 0


@njit_inline
def settle_acks(s: Any, peer: int, frame: Any, packet: int, payload: int, n: int) -> Any:
    """An ACK packet: each record settles a WRITE. Records for anything else are late or forged: counted."""
    if n == 0 or n % col.ACK_BYTES != 0:
        return False
    s.peers[peer, col.P_CREDIT] = max(get64(frame, packet + col.X_OPERAND), 1)
    for at in range(payload, payload + n, col.ACK_BYTES):
        row = find_flight(s, peer, get64(frame, at))
        if row < 0 or not acknowledged(s.flight[row, col.F_OP]):
            s.node[col.K_LATE_ANSWERS] += 1
            continue
        s.work[s.flight[row, col.F_WORK], col.W_TOUCHED] = 1
        if s.node[col.N_CHECKS] != 0:
            word_from(s, row)
        answered(
            s,
            row,
            believable(get64(frame, at + col.ACK_TIME)),
            believable(get64(frame, at + col.ACK_WAIT)),
            get32(frame, at + col.ACK_TRANSLATE),
            get32(frame, at + col.ACK_MEMORY),
            0,
            0,
        )
        settle(s, row, s.flight[row, col.F_LENGTH])
    return True


@njit_inline
def settle_response(
    s: Any, handle: Any, arrays: Any, peer: int, frame: Any, at: int, payload: int, n: int
) -> Any:
    """A RESPONSE: the value of an atomic, or the bytes of a READ, written through the SMMU of this node."""
    row = find_flight(s, peer, get64(frame, at + col.X_TOKEN))
    if row < 0 or s.flight[row, col.F_SEQ] != get32(frame, at + col.X_SEQ):
        return False
    if s.node[col.N_CHECKS] != 0:
        word_from(s, row)
    op = s.flight[row, col.F_OP]
    length = s.flight[row, col.F_LENGTH]
    work = s.flight[row, col.F_WORK]
    time = believable(get64(frame, at + col.X_TIME))
    wait = believable(get64(frame, at + col.X_VA))
    translate = get32(frame, at + col.X_COMPARE)
    memory = get32(frame, at + col.X_COMPARE + 4)
    if op == col.OP_READ:
        if n != length or s.flight[row, col.F_STATE] == col.HERE:
            return False
        slot = find_slot(s, s.work[work, col.W_PDID])
        if slot < 0:
            return False
        va = s.work[work, col.W_LOCAL] + s.flight[row, col.F_OFFSET]
        lane = s.slots[slot, col.S_LANE]
        moved, code, level, cost = scatter(handle, lane, s.slots[slot, col.S_BANK], va, n, frame, payload)
        if code != 0:
            stop_at_fault(s, slot, va, moved, code, level, cost)
            return False
        here = memory_ps(arrays, n)
        done = max(time, s.node[col.N_TARGET_FREE]) + cost + here
        s.node[col.N_TARGET_FREE] = done
        answered(s, row, done, wait, translate, memory, cost, here)
    elif acknowledged(op) or n != 0:
        return False
    else:
        s.work[work, col.W_VALUE] = get64(frame, at + col.X_OPERAND)
        s.work[work, col.W_TOUCHED] = 1
        answered(s, row, time, wait, translate, memory, 0, 0)
    settle(s, row, length)
    return True
