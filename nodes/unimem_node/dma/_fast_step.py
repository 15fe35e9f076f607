"""The data mover of every DMA engine, compiled: descriptors, data and status, as far as it goes by itself.

`step` works on the row of `state.py` until something needs the engine's registers: an access that is
refused, a bad descriptor, the end, a pause, an interrupt, a FIFO that is empty or full, or its budget. What
it did until then is done: bytes before a refused access are in memory, those behind it are not, and the row
says where it stands, so that calling it again goes on exactly there. Uncompiled (``NUMBA_DISABLE_JIT=1``, or
an engine built with ``fast=False``) the same source runs as Python.

An access is translated where it begins and at every page border, and copied up to there at once: pages that
lie one behind the other in DRAM are not joined, as that was measured to be no faster in the processor's cache
and slower outside. So a list, or a page table, that the engine overwrites is read as it then stands.
"""

from __future__ import annotations

from typing import Any

import numpy as np

from unimem_node._jit import copy_bytes, njit, njit_inline
from unimem_node.dma import state as x
from unimem_node.dma._fast import NO_ROUTE, locate, move
from unimem_node.dma._fast_descriptors import (
    GO_ON,
    decode_bd,
    decode_zdma,
    ended_bd,
    ended_simple,
    ended_zdma,
    packet_left,
    updated,
)
from unimem_node.smmu.arrays import C_READS, C_WALKS

#: Descriptors fetched in one call at most; bytes of FIXED bursts, which are copied beat by beat.
FETCHES = 1024
FIXED_BYTES = 1 << 16


@njit_inline
def _list_op(st: Any) -> Any:
    """The access to the list that is needed before data can move, or -1."""
    if st[x.X_UPDATING]:
        return x.OP_UPDATE
    if st[x.SRC + x.D_LOADED] == 0:
        return x.OP_FETCH_SRC
    return x.OP_FETCH_DST if st[x.DST + x.D_LOADED] == 0 else -1


@njit_inline
def _stream_room(st: Any, buf: Any, fifo: Any) -> Any:
    """(bytes that the FIFO gives or takes in one piece, STOP_* if that is none)."""
    if st[x.SRC + x.D_KIND] == x.KIND_FIFO:
        left, _ = packet_left(fifo)
        return min(left, buf.shape[0] - fifo[x.F_READ] % buf.shape[0]), x.STOP_EMPTY
    room = buf.shape[0] - (fifo[x.F_WRITTEN] - fifo[x.F_READ])
    if fifo[x.F_SENT] - fifo[x.F_RECEIVED] == x.MAX_PACKETS:
        room = 0
    return min(room, buf.shape[0] - fifo[x.F_WRITTEN] % buf.shape[0]), x.STOP_FULL


@njit_inline
def _left(st: Any, side: int) -> Any:
    """Bytes of a side's descriptor, or of what the SMMU answers in its place."""
    left = st[side + x.D_SIZE] - st[side + x.D_POS]
    return min(left, st[side + x.D_SKIP]) if st[side + x.D_SKIP] else left


@njit_inline
def _skipped(st: Any, n: int) -> None:
    """Bytes that the SMMU answered by itself are done."""
    for side in (x.SRC, x.DST):
        if st[side + x.D_SKIP]:
            st[side + x.D_SKIP] -= n


@njit_inline
def _fill(mem8: Any, to: int, n: int, st: Any, buf: Any, fifo: Any) -> None:
    """Write what does not come from memory: the stream, the pattern, or zeros for a refused read."""
    kind = st[x.SRC + x.D_KIND]
    if kind == x.KIND_FIFO:
        copy_bytes(mem8, to, buf, fifo[x.F_READ] % buf.shape[0], n)
    elif kind == x.KIND_PATTERN:
        at = st[x.SRC + x.D_POS] % st[x.X_WIDTH]
        for i in range(n):
            mem8[to + i] = buf[at]
            at += 1
            if at == st[x.X_WIDTH]:
                at = 0
    else:
        for i in range(n):
            mem8[to + i] = 0


@njit_inline
def _send(mem8: Any, place: int, n: int, buf: Any, fifo: Any) -> None:
    """Put bytes into the FIFO: those at `place`, or zeros (-1)."""
    to = fifo[x.F_WRITTEN] % buf.shape[0]
    if place >= 0:
        copy_bytes(buf, to, mem8, place, n)
    else:
        for i in range(n):
            buf[to + i] = 0
    fifo[x.F_WRITTEN] += n


@njit
def step(
    arrays: Any, st: Any, buf: Any, fifo: Any, lane: int, cb: int, reading: int, writing: int, budget: int,
    dram_end: int,
) -> Any:  # fmt: skip
    """Go on from `st` for up to `budget` bytes.

    Returns ``(STOP_*, bytes moved, descriptors fetched, cost_ps, descriptor reads of walks, walks, bytes read
    from DRAM, bytes written to it)``; places from `dram_end` on are memory on the chip.
    `lane`, `cb`: the way through the SMMU; `reading`, `writing`: what its accesses count as (ACCESS_* bits).
    `st`: see `state.py`. `buf` (uint8): the pattern, or the bytes of the FIFO; `fifo`: its state. `cost_ps`
    is the sum of all translations, of which each descriptor read of a walk is T_DESCRIPTOR_READ.

    The loop alternates between the list (what has ended, what must be fetched or written back) and a
    *stretch* of data, in which nothing but the translations changes. Every access of either is translated in
    the one place that is behind them: `translate` is compiled in, and large.
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
    dram_read: Any = np.int64(0)
    dram_written: Any = np.int64(0)
    stretch: Any = np.int64(0)  # bytes left of it, and its sides
    from_memory = to_memory = skipping = False
    src_fixed = dst_fixed = False
    src_va: Any = np.int64(0)
    dst_va: Any = np.int64(0)
    src_place: Any = np.int64(0)  # where the translated bytes of a side are in DRAM, and how many are left
    src_run: Any = np.int64(0)
    dst_place: Any = np.int64(0)
    dst_run: Any = np.int64(0)
    keep_src: Any = np.int64(0)  # of a FIXED side: place of its address, and bytes of a beat
    keep_src_run: Any = np.int64(0)
    keep_dst: Any = np.int64(0)
    keep_dst_run: Any = np.int64(0)
    width = st[x.X_WIDTH]
    zdma = st[x.X_FORMAT] == x.FORMAT_ZDMA
    if st[x.SRC + x.D_FIXED] or st[x.DST + x.D_FIXED]:  # beat by beat
        budget = min(budget, FIXED_BYTES)
    stop = x.STOP_BUDGET
    while True:
        if stretch == 0:  # ---- the list
            ended = GO_ON
            if st[x.X_LIST] == 0:
                ended = ended_simple(st, fifo)
            elif zdma:
                ended = ended_zdma(st)
            else:
                ended_bd(st, fifo)
            if ended >= 0:
                stop = ended
                break
            if moved >= budget or fetched >= FETCHES:
                break
            op = _list_op(st)
            if op < 0:
                stretch = min(budget - moved, _left(st, x.SRC), _left(st, x.DST))
                if st[x.SRC + x.D_KIND] == x.KIND_FIFO or st[x.DST + x.D_KIND] == x.KIND_FIFO:
                    room, stop_without = _stream_room(st, buf, fifo)
                    stretch = min(stretch, room)
                    if stretch == 0:
                        stop = stop_without
                        break
                from_memory = st[x.SRC + x.D_KIND] == x.KIND_MEMORY and st[x.SRC + x.D_SKIP] == 0
                to_memory = st[x.DST + x.D_KIND] == x.KIND_MEMORY and st[x.DST + x.D_SKIP] == 0
                skipping = st[x.SRC + x.D_SKIP] + st[x.DST + x.D_SKIP] != 0
                src_fixed = st[x.SRC + x.D_FIXED] != 0
                dst_fixed = st[x.DST + x.D_FIXED] != 0
                src_va = st[x.SRC + x.D_BASE] + st[x.SRC + x.D_POS]
                dst_va = st[x.DST + x.D_BASE] + st[x.DST + x.D_POS]
                continue
            side = x.DST if op == x.OP_FETCH_DST else x.SRC
            access = reading
            if op == x.OP_UPDATE:
                va = st[x.SRC + x.D_DSCR] + x.BD_STATUS
                want = 24
                access = writing
            else:
                va = st[side + x.D_NEXT]
                st[side + x.D_DSCR] = va
                want = 16 if zdma else 64
                if va & (want - 1):
                    st[x.X_OP] = op
                    st[x.X_CODE] = x.BAD_ALIGNMENT
                    stop = x.STOP_BAD
                    break
        elif from_memory and src_run == 0:  # ---- data: an address of the source is needed
            op = x.OP_READ
            side = x.SRC
            access = reading
            va = src_va
            want = st[x.SRC + x.D_SIZE] - st[x.SRC + x.D_POS]
            if src_fixed:
                at = st[x.SRC + x.D_POS] % width
                if at == 0 and keep_src_run:
                    src_place = keep_src
                    src_run = keep_src_run
                    continue
                va = st[x.SRC + x.D_BASE] + at
                want = width - at
        elif to_memory and dst_run == 0:  # ---- ... of the destination
            op = x.OP_WRITE
            side = x.DST
            access = writing
            va = dst_va
            want = st[x.DST + x.D_SIZE] - st[x.DST + x.D_POS]
            if dst_fixed:
                at = st[x.DST + x.D_POS] % width
                if at == 0 and keep_dst_run:
                    dst_place = keep_dst
                    dst_run = keep_dst_run
                    continue
                va = st[x.DST + x.D_BASE] + at
                want = width - at
        else:
            op = -1

        if op >= 0:  # ---- the access
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
                if src_fixed and va == st[x.SRC + x.D_BASE]:
                    keep_src = place
                    keep_src_run = run
                if to_memory and dst_run == 0:
                    continue
            elif op == x.OP_WRITE:
                dst_place = place
                dst_run = run
                if dst_fixed and va == st[x.DST + x.D_BASE]:
                    keep_dst = place
                    keep_dst_run = run
            else:
                if op == x.OP_UPDATE:
                    if place < dram_end:
                        dram_written += run
                    ended = updated(mem8, place, run, st, fifo)
                    if ended >= 0:
                        stop = ended
                        break
                    continue
                fetched += 1
                if place < dram_end:
                    dram_read += want
                if op == x.OP_FETCH_SRC:
                    src_run = 0
                if op == x.OP_FETCH_DST or not zdma:
                    dst_run = 0
                keep_src_run = 0
                keep_dst_run = 0
                bad = decode_zdma(mem8, place, st, side) if zdma else decode_bd(mem8, place, st)
                if bad:
                    st[x.X_OP] = op
                    st[x.X_CODE] = bad
                    stop = x.STOP_BAD
                    break
                continue

        # ---- both sides have an address: move
        n = stretch
        if from_memory:
            n = min(n, src_run)
        if to_memory:
            n = min(n, dst_run)
            if from_memory:
                move(mem8, dst_place, src_place, n)
            else:
                _fill(mem8, dst_place, n, st, buf, fifo)
            if dst_place < dram_end:
                dram_written += n
            dst_place += n
            dst_run -= n
        elif st[x.DST + x.D_KIND] == x.KIND_FIFO:
            _send(mem8, src_place if from_memory else -1, n, buf, fifo)
        if from_memory:
            if src_place < dram_end:
                dram_read += n
            src_place += n
            src_run -= n
        elif st[x.SRC + x.D_KIND] == x.KIND_FIFO:
            fifo[x.F_READ] += n
        st[x.SRC + x.D_POS] += n
        st[x.DST + x.D_POS] += n
        if skipping:
            _skipped(st, n)
        src_va += n
        dst_va += n
        moved += n
        stretch -= n

    walks += counters[lane, C_WALKS] + counters[lane, C_WALKS + 1]
    for column in range(C_READS, C_READS + 8):
        reads += counters[lane, column]
    return stop, moved, fetched, cost, reads, walks, dram_read, dram_written
