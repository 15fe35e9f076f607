"""The data mover of every DMA engine, compiled: descriptors, data and status, as far as it goes by itself.

`step` works on the row of `state.py` until something needs the engine's registers: an access that is
refused, a bad descriptor, the end, a pause, an interrupt, a FIFO that is empty or full, or its budget. What
it did until then is done: bytes before a refused access are in memory, those behind it are not, and the row
says where it stands, so that calling it again goes on exactly there. Uncompiled (``NUMBA_DISABLE_JIT=1``, or
an engine built with ``fast=False``) the same source runs as Python.

An access is translated where it begins and at every page border. What is contiguous in DRAM on both sides is
copied in one piece, but never beyond the next descriptor's fetch or status: so a list that overwrites itself
is read as it then stands. Page tables may be read up to one call ahead of the bytes copied.
"""

from __future__ import annotations

from typing import Any

import numpy as np

from unimem_node._jit import copy_bytes, njit, njit_inline
from unimem_node.dma import state as x
from unimem_node.dma._fast import NO_ROUTE, locate, move
from unimem_node.dma._fast_descriptors import (
    decode_bd,
    decode_zdma,
    ended_bd,
    ended_simple,
    ended_zdma,
    packet_left,
    updated,
)
from unimem_node.smmu.arrays import C_READS, C_WALKS

#: Descriptors fetched in one call at most.
FETCHES = 1024


@njit_inline
def _next_op(st: Any, src_run: int, dst_run: int) -> Any:
    """The access that is needed before a byte can move, or -1."""
    if st[x.X_UPDATING]:
        return x.OP_UPDATE
    if st[x.SRC + x.D_LOADED] == 0:
        return x.OP_FETCH_SRC
    if st[x.DST + x.D_LOADED] == 0:
        return x.OP_FETCH_DST
    if st[x.SRC + x.D_KIND] == x.KIND_MEMORY and src_run == 0 and st[x.SRC + x.D_SKIP] == 0:
        return x.OP_READ
    if st[x.DST + x.D_KIND] == x.KIND_MEMORY and dst_run == 0 and st[x.DST + x.D_SKIP] == 0:
        return x.OP_WRITE
    return -1


@njit_inline
def _clipped(st: Any, side: int, run: int, n: int) -> Any:
    """Bytes of `n` that a side can take or give in one piece."""
    n = min(n, st[side + x.D_SIZE] - st[side + x.D_POS])
    if st[side + x.D_SKIP]:
        return min(n, st[side + x.D_SKIP])
    return min(n, run) if st[side + x.D_KIND] == x.KIND_MEMORY else n


@njit_inline
def _advance(st: Any, side: int, n: int) -> None:
    st[side + x.D_POS] += n
    if st[side + x.D_SKIP]:
        st[side + x.D_SKIP] -= n


@njit_inline
def _fill(mem8: Any, to: int, n: int, st: Any, buf: Any) -> None:
    """Write what does not come from memory: zeros of a refused read, or the pattern."""
    if st[x.SRC + x.D_KIND] != x.KIND_PATTERN:
        for i in range(n):
            mem8[to + i] = 0
        return
    at = st[x.SRC + x.D_POS] % st[x.X_WIDTH]
    for i in range(n):
        mem8[to + i] = buf[at]
        at += 1
        if at == st[x.X_WIDTH]:
            at = 0


@njit
def step(
    arrays: Any, st: Any, buf: Any, fifo: Any, lane: int, cb: int, reading: int, writing: int, budget: int
) -> Any:
    """Go on from `st` for up to `budget` bytes; ``(STOP_*, bytes moved, cost_ps, descriptor reads, walks)``.

    `lane`, `cb`: the way through the SMMU; `reading`, `writing`: what its accesses count as (ACCESS_* bits).
    `st`: see `state.py`. `buf` (uint8): the pattern, or the bytes of the FIFO; `fifo`: its state. `cost_ps`
    is the sum of all translations, of which each descriptor read of a walk is T_DESCRIPTOR_READ.
    """
    mem8 = arrays.mem8
    counters = arrays.counters
    walks = -counters[lane, C_WALKS] - counters[lane, C_WALKS + 1]
    reads: Any = np.int64(0)
    for column in range(C_READS, C_READS + 8):
        reads -= counters[lane, column]
    cost: Any = np.int64(0)
    moved: Any = np.int64(0)
    fetched = 0
    src_place: Any = np.int64(0)  # where the translated bytes of a side are in DRAM, and how many are left
    src_run: Any = np.int64(0)
    dst_place: Any = np.int64(0)
    dst_run: Any = np.int64(0)
    keep_src: Any = np.int64(0)  # of a FIXED side: place of its address, and bytes of a beat
    keep_src_run: Any = np.int64(0)
    keep_dst: Any = np.int64(0)
    keep_dst_run: Any = np.int64(0)
    held_from: Any = np.int64(0)  # accepted on both sides and not yet copied
    held_to: Any = np.int64(0)
    held: Any = np.int64(0)
    width = st[x.X_WIDTH]
    stop = x.STOP_BUDGET
    while True:
        if st[x.X_LIST] == 0:
            ended = ended_simple(st, fifo)
            if ended >= 0:
                stop = ended
                break
        elif st[x.X_FORMAT] == x.FORMAT_ZDMA:
            ended = ended_zdma(st)
            if ended >= 0:
                stop = ended
                break
        else:
            ended_bd(st, fifo)
        if moved >= budget or fetched >= FETCHES:
            break

        op = _next_op(st, src_run, dst_run)
        n = budget - moved
        if op <= x.OP_WRITE:  # data
            if st[x.SRC + x.D_KIND] == x.KIND_FIFO:
                left, _ = packet_left(fifo)
                n = min(n, left, buf.shape[0] - fifo[x.F_READ] % buf.shape[0])
                if n == 0:
                    stop = x.STOP_EMPTY
                    break
            elif st[x.DST + x.D_KIND] == x.KIND_FIFO:
                room = buf.shape[0] - (fifo[x.F_WRITTEN] - fifo[x.F_READ])
                if fifo[x.F_SENT] - fifo[x.F_RECEIVED] == x.MAX_PACKETS:
                    room = 0
                n = min(n, room, buf.shape[0] - fifo[x.F_WRITTEN] % buf.shape[0])
                if n == 0:
                    stop = x.STOP_FULL
                    break
            if op == x.OP_READ and keep_src_run > 0 and st[x.SRC + x.D_POS] % width == 0:
                src_place = keep_src
                src_run = min(keep_src_run, width)
                continue
            if op == x.OP_WRITE and keep_dst_run > 0 and st[x.DST + x.D_POS] % width == 0:
                dst_place = keep_dst
                dst_run = min(keep_dst_run, width)
                continue

        if op >= 0:  # an access: what it needs, its translation, what it does
            side = x.DST if op in (x.OP_WRITE, x.OP_FETCH_DST) else x.SRC
            access = reading
            if op <= x.OP_WRITE:
                at = st[side + x.D_POS]
                want = st[side + x.D_SIZE] - at
                if st[side + x.D_FIXED]:
                    at %= width
                    want = min(want, width - at)
                va = st[side + x.D_BASE] + at
                if op == x.OP_WRITE:
                    access = writing
            elif op == x.OP_UPDATE:
                va = st[x.SRC + x.D_DSCR] + x.BD_STATUS
                want = 24
                access = writing
            else:
                va = st[side + x.D_NEXT]
                st[side + x.D_DSCR] = va
                want = 16 if st[x.X_FORMAT] == x.FORMAT_ZDMA else 64
                if va & (want - 1):
                    st[x.X_OP] = op
                    st[x.X_CODE] = x.BAD_ALIGNMENT
                    stop = x.STOP_BAD
                    break
            place: Any = np.int64(-1)
            run: Any = np.int64(0)
            if op != x.OP_UPDATE or st[x.X_UPDATING] == 1:
                if cb == x.REFUSED:
                    code, info = NO_ROUTE, 0
                else:
                    code, info, place, run, ps = locate(arrays, lane, cb, va, access, want)
                    cost += ps
                if code != 0:
                    st[x.X_OP] = op
                    st[x.X_VA] = va
                    st[x.X_CODE] = code
                    st[x.X_INFO] = info
                    stop = x.STOP_REFUSED
                    break
            if op == x.OP_READ:
                src_place = place
                src_run = run
                if st[x.SRC + x.D_FIXED] and st[x.SRC + x.D_POS] % width == 0:
                    keep_src = place
                    keep_src_run = run
                continue
            if op == x.OP_WRITE:
                dst_place = place
                dst_run = run
                if st[x.DST + x.D_FIXED] and st[x.DST + x.D_POS] % width == 0:
                    keep_dst = place
                    keep_dst_run = run
                continue
            if held:
                move(mem8, held_to, held_from, held)
                held = 0
            if op == x.OP_UPDATE:
                ended = updated(mem8, place, run, st, fifo)
                if ended >= 0:
                    stop = ended
                    break
                continue
            fetched += 1
            if op == x.OP_FETCH_SRC:
                src_run = 0
            if op == x.OP_FETCH_DST or st[x.X_FORMAT] != x.FORMAT_ZDMA:
                dst_run = 0
            keep_src_run = 0
            keep_dst_run = 0
            if st[x.X_FORMAT] == x.FORMAT_ZDMA:
                bad = decode_zdma(mem8, place, st, side)
            else:
                bad = decode_bd(mem8, place, st)
            if bad:
                st[x.X_OP] = op
                st[x.X_CODE] = bad
                stop = x.STOP_BAD
                break
            continue

        n = _clipped(st, x.DST, dst_run, _clipped(st, x.SRC, src_run, n))
        from_memory = st[x.SRC + x.D_KIND] == x.KIND_MEMORY and st[x.SRC + x.D_SKIP] == 0
        from_fifo = st[x.SRC + x.D_KIND] == x.KIND_FIFO
        if st[x.DST + x.D_KIND] == x.KIND_MEMORY and st[x.DST + x.D_SKIP] == 0:
            if from_memory and held and held_from + held == src_place and held_to + held == dst_place:
                held += n
            else:
                if held:
                    move(mem8, held_to, held_from, held)
                    held = 0
                if from_memory:
                    held_from = src_place
                    held_to = dst_place
                    held = n
                elif from_fifo:
                    copy_bytes(mem8, dst_place, buf, fifo[x.F_READ] % buf.shape[0], n)
                else:
                    _fill(mem8, dst_place, n, st, buf)
            dst_place += n
            dst_run -= n
        elif st[x.DST + x.D_KIND] == x.KIND_FIFO:
            to = fifo[x.F_WRITTEN] % buf.shape[0]
            if from_memory:
                copy_bytes(buf, to, mem8, src_place, n)
            else:
                for i in range(n):
                    buf[to + i] = 0
            fifo[x.F_WRITTEN] += n
        if from_memory:
            src_place += n
            src_run -= n
        if from_fifo:
            fifo[x.F_READ] += n
        _advance(st, x.SRC, n)
        _advance(st, x.DST, n)
        moved += n

    if held:
        move(mem8, held_to, held_from, held)
    st[x.X_MOVED] += moved
    st[x.X_FETCHED] += fetched
    walks += counters[lane, C_WALKS] + counters[lane, C_WALKS + 1]
    for column in range(C_READS, C_READS + 8):
        reads += counters[lane, column]
    return stop, moved, cost, reads, walks
