"""Cutting work requests into packets, compiled: the common case of `source.Source.cut_one`.

One call makes one frame for one peer: it reads the source through the source node's SMMU, block by block,
straight into the frame. It stops at a process without a usable PD slot and at a refused address.
"""

from __future__ import annotations

from typing import Any

from unimem_node._jit import njit

from . import _fast_columns as col
from ._fast_frame import close_requests, emit_request, gather, memory_ps, open_buffer, stop_at_fault
from ._fast_handle import open_arrays, open_state
from ._fast_tables import find_slot, pop_ready
from ._fast_window import gathers, next_block, plan_frame


@njit
def cut(handle: Any, buffer: Any) -> Any:
    """Make the next frame in `buffer`, for the peer whose turn it is (C_PEER); returns its bytes. See C_STOP.

    The peer goes to the end of those that are ready, or, when nothing may leave for it now, out of them.
    """
    arrays = open_arrays(handle)
    s = open_state(handle)
    node, work, peers, cursor = s.node, s.work, s.peers, s.cursor
    if cursor[col.C_OPEN] == 0:
        packets = payload = 0
        while node[col.N_READY_HEAD] >= 0:
            if peers[node[col.N_READY_HEAD], col.P_AGAIN] > 0:
                cursor[col.C_STOP] = col.STOP_AGAIN
                cursor[col.C_PEER] = node[col.N_READY_HEAD]
                return 0
            packets, payload = plan_frame(s, node[col.N_READY_HEAD])
            if packets > 0:
                break
            pop_ready(s)
        if packets == 0:
            cursor[col.C_STOP] = col.STOP_IDLE
            return 0
        if node[col.N_FLIGHT_LIVE] + packets > s.flight.shape[0]:
            cursor[col.C_STOP] = col.STOP_NEED_FLIGHT
            cursor[col.C_NEED] = node[col.N_FLIGHT_LIVE] + packets
            return 0
        if not open_buffer(s, buffer, packets, payload):
            return 0
        cursor[col.C_PEER] = pop_ready(s)

    peer = cursor[col.C_PEER]
    slot = -1
    owner = -1
    while cursor[col.C_USED] < cursor[col.C_SLOTS]:
        n = next_block(s, peer)
        if n == 0:
            break
        row = peers[peer, col.P_HEAD]
        start = max(
            work[row, col.W_POSTED] + node[col.N_ISSUE_PS], node[col.N_SOURCE_FREE], node[col.N_CLOCK]
        )
        ready = start
        if gathers(work[row, col.W_OP]):
            at = cursor[col.C_PAYLOAD]
            if at + n > cursor[col.C_ROOM]:
                break
            domain = work[row, col.W_PDID]
            if domain != owner:
                slot = find_slot(s, domain)
                owner = domain
            if slot < 0:
                cursor[col.C_STOP] = col.STOP_DOMAIN
                return 0
            va = work[row, col.W_LOCAL] + work[row, col.W_CUT]
            moved, code, level, cost = gather(
                handle, s.slots[slot, col.S_LANE], s.slots[slot, col.S_BANK], va, n, buffer, at
            )
            if code != 0:
                stop_at_fault(s, slot, va, moved, code, level, cost)
                return 0
            memory = memory_ps(arrays, n)
            work[row, col.W_TRANSLATE] += cost
            work[row, col.W_MEMORY] += memory
            ready = start + cost + memory
        node[col.N_SOURCE_FREE] = ready
        emit_request(s, buffer, peer, n, start, ready)

    return close_requests(s, buffer, peer)
