"""Moving bytes by virtual address, compiled: the common case of every engine.

Each function goes page run by page run, translates a run once, and stops exactly at the first byte that
the SMMU refuses or that no memory answers for. It returns ``(done, side, code, level, cost_ps)``: bytes
moved, who was refused (`SIDE_SOURCE`, `SIDE_DESTINATION`), why (0, a bit position of CB_FSR, or
`NO_MEMORY`), the level of the walk, and the time spent in translation. Nothing is recorded here: that is
the caller's, at the simulated time at which the access would have been made.

A context bank of -1 stands for a stream that bypasses translation, `OUTSIDE` for a master that is not
behind the SMMU at all.
"""

from __future__ import annotations

from typing import Any

from unimem_node._jit import copy_bytes, njit, njit_inline
from unimem_node.mmu.regime import A_LEVEL_SHIFT, ACCESS_WRITE
from unimem_node.smmu._fast import translate

SIDE_NONE = 0
SIDE_SOURCE = 1
SIDE_DESTINATION = 2

#: Codes besides the FSR's bit positions: the interconnect finds nothing at the physical address ...
NO_MEMORY = 32
#: ... or the stream has no translation at all (see `StreamRoute.fault`).
NO_ROUTE = 33

ACCESS_READ = 0

#: In place of a context bank: physical addresses, and no SMMU that would count the access.
OUTSIDE = -2


@njit_inline
def bank_run(geometry: Any, pa: int, n: int) -> Any:
    """(offset into DRAM, bytes): what one bank holds of ``[pa, pa+n)`` from `pa` on; (-1, 0) if nothing."""
    for row in range(geometry.shape[0]):
        inside = pa - geometry[row, 0]
        if 0 <= inside < geometry[row, 1]:
            return geometry[row, 2] + inside, min(n, geometry[row, 1] - inside)
    return -1, 0


@njit_inline
def locate(arrays: Any, lane: int, cb: int, va: int, access: int, n: int) -> Any:
    """(code, syndrome, offset, bytes, cost_ps): where up to `n` bytes from `va` on lie in DRAM, unbroken."""
    pa = va
    span = n
    level = 0
    cost = 0
    if cb != OUTSIDE:
        code, info, pa, span, cost = translate(arrays, lane, cb, va, access)
        if code != 0:
            return code, info, -1, 0, cost
        level = (info >> A_LEVEL_SHIFT) & 3
    offset, run = bank_run(arrays.geometry, pa, min(span, n))
    if offset < 0:
        return NO_MEMORY, level, -1, 0, cost
    return 0, level, offset, run, cost


@njit_inline
def move(mem8: Any, to: int, of: int, n: int) -> None:
    """Copy inside DRAM; where the two overlap, byte by byte in ascending order, as beats would."""
    if to < of + n and of < to + n:
        for i in range(n):
            mem8[to + i] = mem8[of + i]
    else:
        copy_bytes(mem8, to, mem8, of, n)


@njit
def copy_translated(
    arrays: Any, src_lane: int, src_cb: int, src_va: int, dst_lane: int, dst_cb: int, dst_va: int, n: int
) -> Any:
    """Copy `n` bytes; a run's source is translated before its destination, as the read precedes the write."""
    done = 0
    cost = 0
    src = dst = src_left = dst_left = 0
    while done < n:
        if src_left == 0:
            code, level, src, src_left, ps = locate(
                arrays, src_lane, src_cb, src_va + done, ACCESS_READ, n - done
            )
            cost += ps
            if code != 0:
                return done, SIDE_SOURCE, code, level, cost
        if dst_left == 0:
            code, level, dst, dst_left, ps = locate(
                arrays, dst_lane, dst_cb, dst_va + done, ACCESS_WRITE, n - done
            )
            cost += ps
            if code != 0:
                return done, SIDE_DESTINATION, code, level, cost
        run = min(src_left, dst_left)
        move(arrays.mem8, dst, src, run)
        src += run
        dst += run
        src_left -= run
        dst_left -= run
        done += run
    return done, SIDE_NONE, 0, 0, cost


@njit
def copy_beats(
    arrays: Any,
    lane: int,
    cb: int,
    src_va: int,
    src_step: int,
    dst_va: int,
    dst_step: int,
    n: int,
    width: int,
) -> Any:
    """Copy `n` bytes beat by beat; a step of 0 keeps that side's address (AXI FIXED burst), 1 advances it."""
    done = 0
    cost = 0
    while done < n:
        beat = min(width, n - done)
        moved, side, code, level, ps = copy_translated(
            arrays, lane, cb, src_va + done * src_step, lane, cb, dst_va + done * dst_step, beat
        )
        cost += ps
        done += moved
        if code != 0:
            return done, side, code, level, cost
    return done, SIDE_NONE, 0, 0, cost


@njit
def fill_translated(arrays: Any, lane: int, cb: int, va: int, n: int, pattern: Any, phase: int) -> Any:
    """Write `n` bytes of the endlessly repeated `pattern` (uint8), beginning with its byte `phase`."""
    done = 0
    cost = 0
    size = len(pattern)
    at = phase % size
    while done < n:
        code, level, dst, run, ps = locate(arrays, lane, cb, va + done, ACCESS_WRITE, n - done)
        cost += ps
        if code != 0:
            return done, SIDE_DESTINATION, code, level, cost
        for i in range(run):
            arrays.mem8[dst + i] = pattern[at]
            at += 1
            if at == size:
                at = 0
        done += run
    return done, SIDE_NONE, 0, 0, cost


@njit
def read_translated(arrays: Any, lane: int, cb: int, va: int, n: int) -> Any:
    """Read `n` bytes and drop them: what is left is whether they could be read."""
    done = 0
    cost = 0
    while done < n:
        code, level, _, run, ps = locate(arrays, lane, cb, va + done, ACCESS_READ, n - done)
        cost += ps
        if code != 0:
            return done, SIDE_SOURCE, code, level, cost
        done += run
    return done, SIDE_NONE, 0, 0, cost
