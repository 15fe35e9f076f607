"""Taking work requests from the doorbell, compiled: the common case of `source.Source.accept_one`.

Stops at the first request that is refused at the door, or that goes to a node not talked to before.
"""

from __future__ import annotations

from typing import Any

from unimem_node._jit import njit

from . import _fast_columns as col
from ._fast_handle import open_state
from ._fast_tables import find_route, submit, take_work


@njit
def accept(handle: Any, requests: Any, first: int, count: int) -> Any:
    """Queue ``requests`` (int64: rows of 8 words) from row `first` on; returns where it stopped."""
    s = open_state(handle)
    node, work, routes, cursor = s.node, s.work, s.routes, s.cursor
    clock = node[col.N_CLOCK]
    route = -1
    cursor[col.C_STOP] = col.STOP_WORK
    for i in range(first, count):
        at = 8 * i
        head = requests[at + 1]
        op = head & 0xFF
        length = requests[at + 2]
        if op == col.OP_READ:
            remote = requests[at + 3]
            local = requests[at + 4]
        else:
            remote = requests[at + 4]
            local = requests[at + 3]
        if op >= col.OP_WRITE and op <= col.OP_READ:
            if length <= 0 or local < 0 or local >= col.LOCAL_LIMIT or length > col.LOCAL_LIMIT - local:
                return i
        elif op >= col.OP_FETCH_ADD and op <= col.OP_SWAP:
            if length & ~8 != 0 or remote & 7 != 0:
                return i
            length = 8
        else:
            return i
        if remote < 0 or node[col.N_ENABLED] == 0 or head & col.FLAG_SIGNAL << 8 != 0:
            return i
        if route < 0 or remote < routes[route, col.R_BASE] or remote >= routes[route, col.R_END]:
            route = find_route(s, remote)
            if route < 0:
                return i
        if length > routes[route, col.R_END] - remote or routes[route, col.R_STATE] != col.NODE_UP:
            return i
        peer = routes[route, col.R_PEER]
        if peer < 0:
            cursor[col.C_STOP] = col.STOP_PEER
            cursor[col.C_NEED] = route
            return i
        row = take_work(s)
        work[row, col.W_ID] = requests[at]
        work[row, col.W_OP] = op
        work[row, col.W_FLAGS] = (head >> 8) & 0xFF
        work[row, col.W_PDID] = (head >> 16) & 0xFFFF
        work[row, col.W_LENGTH] = length
        work[row, col.W_LOCAL] = local
        work[row, col.W_REMOTE] = remote
        work[row, col.W_OPERAND] = requests[at + 5]
        work[row, col.W_COMPARE] = requests[at + 6]
        work[row, col.W_POSTED] = clock
        work[row, col.W_PEER] = peer
        for column in range(col.W_CUT, col.W_DONE + 1):
            work[row, column] = 0
        work[row, col.W_STATUS] = 0
        work[row, col.W_ORIGIN] = 0
        work[row, col.W_SIGNAL] = 0
        work[row, col.W_DEADLINE] = 0
        if head >> 32 != 0:
            deadline = node[col.N_NOW] + ((head >> 32) & 0xFFFF_FFFF) * 1_000_000
            work[row, col.W_DEADLINE] = deadline
            node[col.N_DEADLINE] = min(node[col.N_DEADLINE], deadline)
        node[col.K_POSTED] += 1
        submit(s, row)
    cursor[col.C_STOP] = col.STOP_DONE
    return count
