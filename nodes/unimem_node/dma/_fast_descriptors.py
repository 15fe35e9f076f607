"""Descriptors, compiled: taking one out of memory, what follows when it has ended, writing its status back.

Formats: ZDMA (UG1085 "Buffer Descriptor Format"), AXI CDMA (PG034), AXI DMA (PG021). `_fast_step` calls
these.
"""

from __future__ import annotations

from typing import Any

import numpy as np

from unimem_node._jit import load32, njit_inline, store32
from unimem_node.dma import state as x

ADDRESS = (1 << 49) - 1
#: Neither of STOP_*: it goes on.
GO_ON = -1


@njit_inline
def _word(mem8: Any, at: int) -> Any:
    value: Any = np.int64(load32(mem8, at))
    return value


@njit_inline
def _address(mem8: Any, at: int) -> Any:
    return (_word(mem8, at) | _word(mem8, at + 4) << 32) & ADDRESS


@njit_inline
def load_side(st: Any, side: int, base: int, size: int) -> None:
    st[side + x.D_BASE] = base
    st[side + x.D_SIZE] = size
    st[side + x.D_POS] = 0
    st[side + x.D_SKIP] = 0
    st[side + x.D_LOADED] = 1


@njit_inline
def decode_zdma(mem8: Any, at: int, st: Any, side: int) -> Any:
    """Take a ZDMA descriptor at place `at` of DRAM; returns 0 or BAD_*."""
    control = _word(mem8, at + 12) & 0x1F
    size = _word(mem8, at + 8) & 0x3FFF_FFFF
    here = st[side + x.D_DSCR]
    if control & x.W3_LINKED:
        if here & 31:
            return x.BAD_ALIGNMENT
        st[side + x.D_NEXT] = _address(mem8, at + 16)
    else:
        st[side + x.D_NEXT] = (here + 16) & ADDRESS
    if size == 0:
        return x.BAD_LENGTH
    st[side + x.D_WORD3] = control
    load_side(st, side, _address(mem8, at), size)
    return 0


@njit_inline
def decode_bd(mem8: Any, at: int, st: Any) -> Any:
    """Take a descriptor of an AXI engine; returns 0 or BAD_*."""
    if _word(mem8, at + x.BD_STATUS) & x.BD_COMPLETE and st[x.X_CYCLIC] == 0:
        return x.BAD_STALE
    control = _word(mem8, at + 0x18)
    length = control & st[x.X_LENGTH_MASK]
    st[x.X_CONTROL] = control
    st[x.SRC + x.D_NEXT] = _address(mem8, at)
    if length == 0:
        return x.BAD_LENGTH
    first = _address(mem8, at + 8)
    load_side(st, x.SRC, first, length)
    load_side(st, x.DST, _address(mem8, at + 16) if st[x.X_FORMAT] == x.FORMAT_CDMA else first, length)
    if st[x.X_FORMAT] == x.FORMAT_MM2S and (control & x.BD_SOF or st[x.X_OPEN] == 0):
        st[x.X_OPEN] = 1
        for i in range(5):
            st[x.X_APP + i] = _word(mem8, at + x.BD_APP + 4 * i)
    return 0


@njit_inline
def send_packet(st: Any, fifo: Any) -> None:
    """The last byte of a packet is in the FIFO: note where it ends, and its APP words."""
    row = x.F_PACKETS + (fifo[x.F_SENT] % x.MAX_PACKETS) * x.PACKET_COLS
    fifo[row] = fifo[x.F_WRITTEN]
    for i in range(5):
        fifo[row + 1 + i] = st[x.X_APP + i]
    fifo[x.F_SENT] += 1
    st[x.X_OPEN] = 0


@njit_inline
def packet_left(fifo: Any) -> Any:
    """Bytes the receiver sees up to the end of the first packet, and whether that end is in."""
    if fifo[x.F_RECEIVED] < fifo[x.F_OFFERED_PACKETS]:
        row = x.F_PACKETS + (fifo[x.F_RECEIVED] % x.MAX_PACKETS) * x.PACKET_COLS
        return fifo[row] - fifo[x.F_READ], True
    return fifo[x.F_OFFERED] - fifo[x.F_READ], False


@njit_inline
def ended_simple(st: Any, fifo: Any) -> Any:
    """Without list: the side that has the size governs."""
    side = x.SRC if st[x.SRC + x.D_KIND] == x.KIND_MEMORY else x.DST
    full = st[side + x.D_POS] == st[side + x.D_SIZE]
    if st[x.X_FORMAT] == x.FORMAT_S2MM:
        left, known = packet_left(fifo)
        if known and left == 0 and st[side + x.D_POS] > 0:
            fifo[x.F_RECEIVED] += 1
            return x.STOP_DONE
        if full:
            st[x.X_OP] = x.OP_WRITE
            st[x.X_CODE] = x.BAD_OVERFLOW
            return x.STOP_BAD
    if not full:
        return GO_ON
    if st[x.X_FORMAT] == x.FORMAT_MM2S:
        send_packet(st, fifo)
    for each in (x.SRC, x.DST):
        if st[each + x.D_WORD3] & x.W3_INTR:
            st[each + x.D_INTRS] += 1
    return x.STOP_DONE


@njit_inline
def ended_zdma(st: Any) -> Any:
    """End descriptors whose last byte is done: INTR counts, the source's CMD decides."""
    noticed = 0
    if st[x.DST + x.D_LOADED] and st[x.DST + x.D_POS] == st[x.DST + x.D_SIZE]:
        st[x.DST + x.D_LOADED] = 0
        if st[x.DST + x.D_WORD3] & x.W3_INTR:
            st[x.DST + x.D_INTRS] += 1
            noticed |= x.WATCH_DST
    if st[x.SRC + x.D_LOADED] and st[x.SRC + x.D_POS] == st[x.SRC + x.D_SIZE]:
        st[x.SRC + x.D_LOADED] = 0
        if st[x.SRC + x.D_WORD3] & x.W3_INTR:
            st[x.SRC + x.D_INTRS] += 1
            noticed |= x.WATCH_SRC
        command = st[x.SRC + x.D_WORD3] >> x.CMD_SHIFT & 3
        if command == x.CMD_PAUSE:
            return x.STOP_PAUSED
        st[x.SRC + x.D_DSCR] = st[x.SRC + x.D_NEXT]
        if command == x.CMD_STOP:
            return x.STOP_DONE
    if noticed & st[x.X_WATCH]:
        return x.STOP_INTR
    return GO_ON


@njit_inline
def ended_bd(st: Any, fifo: Any) -> None:
    """If the descriptor's last byte is done, or a packet's: have its status written."""
    if st[x.SRC + x.D_LOADED] == 0 or st[x.X_UPDATING]:
        return
    done = st[x.DST + x.D_POS]
    if st[x.X_FORMAT] == x.FORMAT_S2MM:
        left, known = packet_left(fifo)
        last = known and left == 0 and done > 0
        if not last and done < st[x.DST + x.D_SIZE]:
            return
        st[x.X_STATUS] = x.BD_COMPLETE | done | (0 if st[x.X_OPEN] else x.BD_SOF) | (x.BD_EOF if last else 0)
        st[x.X_OPEN] = 0 if last else 1
    else:
        if done < st[x.DST + x.D_SIZE]:
            return
        st[x.X_STATUS] = x.BD_COMPLETE
        if st[x.X_FORMAT] == x.FORMAT_MM2S:
            st[x.X_STATUS] |= done
            if st[x.X_CONTROL] & x.BD_EOF:
                send_packet(st, fifo)
    st[x.X_UPDATING] = 1


@njit_inline
def updated(mem8: Any, at: int, room: int, st: Any, fifo: Any) -> Any:
    """Write the status (`at` -1: it is dropped); returns STOP_* or that it goes on."""
    status = st[x.X_STATUS]
    packet = x.F_PACKETS + (fifo[x.F_RECEIVED] % x.MAX_PACKETS) * x.PACKET_COLS
    received = st[x.X_FORMAT] == x.FORMAT_S2MM and status & x.BD_EOF and st[x.X_HALTING] == 0
    if at >= 0:
        store32(mem8, at, status)
        if received and room >= 24:
            for i in range(5):
                store32(mem8, at + x.BD_APP - x.BD_STATUS + 4 * i, fifo[packet + 1 + i])
    st[x.X_UPDATING] = 0
    st[x.SRC + x.D_LOADED] = 0
    st[x.DST + x.D_LOADED] = 0
    if st[x.X_HALTING]:
        return x.STOP_HALTED
    if received:
        fifo[x.F_RECEIVED] += 1
    if (
        st[x.X_FORMAT] == x.FORMAT_CDMA
        or (status if st[x.X_FORMAT] == x.FORMAT_S2MM else st[x.X_CONTROL]) & x.BD_EOF
    ):
        st[x.X_COMPLETED] += 1
    if st[x.SRC + x.D_DSCR] == st[x.X_TAIL] and st[x.X_CYCLIC] == 0:
        return x.STOP_DONE
    if st[x.X_COMPLETED] >= st[x.X_WATCH]:
        return x.STOP_INTR
    return GO_ON
