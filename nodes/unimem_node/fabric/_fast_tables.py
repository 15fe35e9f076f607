"""Rows and lists of the interface's tables: taking, queueing, answering, completing.

Shared by the compiled paths, which inline it, and by the readable one, which calls it: there is one way to
move a row from one list to another. Every function takes the `State` (here `s`).
"""

from __future__ import annotations

from typing import Any

from unimem_node._jit import njit_inline

from . import _fast_columns as col
from ._fast_window import note_settled, window_share


@njit_inline
def take_work(s: Any) -> Any:
    """A free row of `work`; the caller has made sure that there is one."""
    row = s.node[col.N_WORK_FREE]
    if row >= 0:
        s.node[col.N_WORK_FREE] = s.work[row, col.W_NEXT]
    else:
        row = s.node[col.N_WORK_TOP]
        s.node[col.N_WORK_TOP] = row + 1
    s.node[col.N_WORK_LIVE] += 1
    return row


@njit_inline
def take_flight(s: Any) -> Any:
    """A free row of `flight` with a new token; the caller has made sure that there is one."""
    row = s.node[col.N_FLIGHT_FREE]
    if row >= 0:
        s.node[col.N_FLIGHT_FREE] = s.flight[row, col.F_NEXT]
    else:
        row = s.node[col.N_FLIGHT_TOP]
        s.node[col.N_FLIGHT_TOP] = row + 1
    s.node[col.N_FLIGHT_LIVE] += 1
    generation = (s.flight[row, col.F_TOKEN] >> 32) + 1
    s.flight[row, col.F_TOKEN] = (generation & 0x7FFF_FFFF) << 32 | row
    s.flight[row, col.F_LIVE] = 1
    return row


@njit_inline
def give_flight(s: Any, row: int) -> None:
    """Free a row of `flight`, its share of the window and its seq; answers to its token are late now."""
    peer = s.flight[row, col.F_PEER]
    if s.flight[row, col.F_STATE] == col.FLYING:
        if s.node[col.N_CHECKS] != 0:
            unlink(s, row)
    elif s.flight[row, col.F_STATE] == col.AGAIN:
        s.peers[peer, col.P_AGAIN] -= 1
    s.flight[row, col.F_LIVE] = 0
    s.flight[row, col.F_NEXT] = s.node[col.N_FLIGHT_FREE]
    s.node[col.N_FLIGHT_FREE] = row
    s.node[col.N_FLIGHT_LIVE] -= 1
    if s.node[col.N_FLIGHT_LIVE] == 0:
        s.node[col.N_TIMER] = col.NEVER  # nothing is under way that could be lost
    s.peers[peer, col.P_BYTES] -= window_share(s.flight[row, col.F_OP], s.flight[row, col.F_LENGTH])
    if s.node[col.N_CHECKS] != 0:
        note_settled(s, peer, s.flight[row, col.F_SEQ])
        slot = s.flight[row, col.F_SLOT] - 1
        if slot >= 0:
            s.peers[peer, col.P_VALUES + (slot >> 5)] ^= 1 << (slot & 31)
    if s.peers[peer, col.P_HEAD] >= 0:
        mark_ready(s, peer)


@njit_inline
def find_flight(s: Any, peer: int, token: int) -> Any:
    """Row that waits for an answer with `token` from `peer`, or -1: late, forged, or somebody else's.

    What was not sent yet has no answer.
    """
    row = token & 0xFFFF_FFFF
    if token < 0 or row >= s.flight.shape[0]:
        return -1
    if (
        s.flight[row, col.F_TOKEN] != token
        or s.flight[row, col.F_LIVE] == 0
        or s.flight[row, col.F_PEER] != peer
        or s.flight[row, col.F_SENDS] == 0
    ):
        return -1
    return row


@njit_inline
def link(s: Any, row: int, sent: int) -> None:
    """Put a packet at the end of those sent to its peer; the timer is wanted when it may be lost."""
    peer = s.flight[row, col.F_PEER]
    newest = s.peers[peer, col.P_NEWEST]
    s.flight[row, col.F_STATE] = col.FLYING
    s.flight[row, col.F_SENT] = sent
    s.flight[row, col.F_OLDER] = newest
    s.flight[row, col.F_NEWER] = -1
    if newest >= 0:
        s.flight[newest, col.F_NEWER] = row
    else:
        s.peers[peer, col.P_OLDEST] = row
        due = sent + s.peers[peer, col.P_RTO]
        s.node[col.N_TIMER] = min(s.node[col.N_TIMER], due)
    s.peers[peer, col.P_NEWEST] = row


@njit_inline
def unlink(s: Any, row: int) -> None:
    """Take a packet out of those that are under way."""
    peer = s.flight[row, col.F_PEER]
    older = s.flight[row, col.F_OLDER]
    newer = s.flight[row, col.F_NEWER]
    if older >= 0:
        s.flight[older, col.F_NEWER] = newer
    else:
        s.peers[peer, col.P_OLDEST] = newer
    if newer >= 0:
        s.flight[newer, col.F_OLDER] = older
    else:
        s.peers[peer, col.P_NEWEST] = older


@njit_inline
def mark_ready(s: Any, peer: int) -> None:
    """Put a peer at the end of those that have something to cut, unless it is there already."""
    if s.peers[peer, col.P_READY] != col.NOT_READY:
        return
    s.peers[peer, col.P_READY] = -1
    tail = s.node[col.N_READY_TAIL]
    if tail < 0:
        s.node[col.N_READY_HEAD] = peer
    else:
        s.peers[tail, col.P_READY] = peer
    s.node[col.N_READY_TAIL] = peer


@njit_inline
def pop_ready(s: Any) -> Any:
    """The next peer that has something to cut, or -1."""
    peer = s.node[col.N_READY_HEAD]
    if peer >= 0:
        following = s.peers[peer, col.P_READY]
        s.node[col.N_READY_HEAD] = following
        if following < 0:
            s.node[col.N_READY_TAIL] = -1
        s.peers[peer, col.P_READY] = col.NOT_READY
    return peer


@njit_inline
def enqueue(s: Any, row: int) -> None:
    """Put a work request at the end of its peer's send queue."""
    peer = s.work[row, col.W_PEER]
    s.work[row, col.W_STATE] = col.WORK_QUEUED
    s.work[row, col.W_NEXT] = -1
    tail = s.peers[peer, col.P_TAIL]
    if tail < 0:
        s.peers[peer, col.P_HEAD] = row
    else:
        s.work[tail, col.W_NEXT] = row
    s.peers[peer, col.P_TAIL] = row
    s.domains[s.work[row, col.W_PDID], col.D_ACTIVE] += 1
    mark_ready(s, peer)


@njit_inline
def dequeue(s: Any, peer: int) -> None:
    """Take the head off a peer's send queue."""
    row = s.peers[peer, col.P_HEAD]
    following = s.work[row, col.W_NEXT]
    s.peers[peer, col.P_HEAD] = following
    if following < 0:
        s.peers[peer, col.P_TAIL] = -1
    s.work[row, col.W_STATE] = col.WORK_SENT


def enqueue_early(s: Any, row: int) -> None:
    """Queue a work request that a COPY waits for: in front of the first COPY. Readable code only."""
    peer = s.work[row, col.W_PEER]
    before, at = -1, s.peers[peer, col.P_HEAD]
    while at >= 0 and s.work[at, col.W_OP] != col.OP_COPY:
        before, at = at, s.work[at, col.W_NEXT]
    if at < 0:
        enqueue(s, row)
        return
    s.work[row, col.W_STATE] = col.WORK_QUEUED
    s.work[row, col.W_NEXT] = at
    if before < 0:
        s.peers[peer, col.P_HEAD] = row
    else:
        s.work[before, col.W_NEXT] = row
    s.domains[s.work[row, col.W_PDID], col.D_ACTIVE] += 1
    mark_ready(s, peer)


def unqueue(s: Any, row: int) -> None:
    """Take a work request out of its peer's send queue, wherever it stands. Readable code only."""
    peer = s.work[row, col.W_PEER]
    if s.peers[peer, col.P_HEAD] == row:
        dequeue(s, peer)
        return
    before = s.peers[peer, col.P_HEAD]
    while s.work[before, col.W_NEXT] != row:
        before = s.work[before, col.W_NEXT]
    s.work[before, col.W_NEXT] = s.work[row, col.W_NEXT]
    if s.peers[peer, col.P_TAIL] == row:
        s.peers[peer, col.P_TAIL] = before
    s.work[row, col.W_STATE] = col.WORK_SENT


def unhold(s: Any, row: int) -> None:
    """Take a work request out of the list behind a fence. Readable code only."""
    domain = s.work[row, col.W_PDID]
    following = s.work[row, col.W_NEXT]
    before = s.domains[domain, col.D_HEAD] - 1
    if before == row:
        s.domains[domain, col.D_HEAD] = following + 1
        if following < 0:
            s.domains[domain, col.D_TAIL] = 0
    else:
        while s.work[before, col.W_NEXT] != row:
            before = s.work[before, col.W_NEXT]
        s.work[before, col.W_NEXT] = following
        if s.domains[domain, col.D_TAIL] == row + 1:
            s.domains[domain, col.D_TAIL] = before + 1


@njit_inline
def submit(s: Any, row: int) -> None:
    """Queue a work request, or hold it: behind a fence, or as a fence behind work under way."""
    domain = s.work[row, col.W_PDID]
    held = s.domains[domain, col.D_HEAD] != 0
    fenced = s.work[row, col.W_FLAGS] & col.FLAG_FENCE != 0 and s.domains[domain, col.D_ACTIVE] > 0
    if not held and not fenced:
        enqueue(s, row)
        return
    s.work[row, col.W_STATE] = col.WORK_HELD
    s.work[row, col.W_NEXT] = -1
    if held:
        s.work[s.domains[domain, col.D_TAIL] - 1, col.W_NEXT] = row
    else:
        s.domains[domain, col.D_HEAD] = row + 1
    s.domains[domain, col.D_TAIL] = row + 1


@njit_inline
def release(s: Any, domain: int) -> None:
    """All before the fence is complete: queue the fenced request and what follows, up to the next fence."""
    row = s.domains[domain, col.D_HEAD] - 1
    while row >= 0 and (
        s.domains[domain, col.D_ACTIVE] == 0 or s.work[row, col.W_FLAGS] & col.FLAG_FENCE == 0
    ):
        following = s.work[row, col.W_NEXT]
        enqueue(s, row)
        row = following
    s.domains[domain, col.D_HEAD] = row + 1
    if row < 0:
        s.domains[domain, col.D_TAIL] = 0


@njit_inline
def answered(
    s: Any, row: int, done: int, wait: int, translate: int, memory: int, here_translate: int, here_memory: int
) -> None:
    """Note the times of an answer; the parts are those of the way of the block that is answered last.

    `wait`, `translate`, `memory` are the target's, `here_*` what a READ's bytes cost at home. The ACK part is
    what is left of the time, so that the parts add up exactly.
    """
    work = s.flight[row, col.F_WORK]
    earliest = s.flight[row, col.F_ARRIVAL] + wait + translate + memory + here_translate + here_memory
    done = max(done, earliest)
    if done < s.work[work, col.W_DONE]:
        return
    s.work[work, col.W_DONE] = done
    s.work[work, col.W_PARTS + col.PART_ISSUE] = s.work[work, col.W_ISSUE]
    s.work[work, col.W_PARTS + col.PART_SOURCE_TRANSLATE] = s.flight[row, col.F_TRANSLATE] + here_translate
    s.work[work, col.W_PARTS + col.PART_SOURCE_MEMORY] = s.flight[row, col.F_MEMORY] + here_memory
    s.work[work, col.W_PARTS + col.PART_LINK_WAIT] = s.flight[row, col.F_LINK_WAIT]
    s.work[work, col.W_PARTS + col.PART_WIRE] = s.flight[row, col.F_WIRE]
    s.work[work, col.W_PARTS + col.PART_TARGET_WAIT] = wait
    s.work[work, col.W_PARTS + col.PART_TARGET_TRANSLATE] = translate
    s.work[work, col.W_PARTS + col.PART_TARGET_MEMORY] = memory
    s.work[work, col.W_PARTS + col.PART_ACK] = done - earliest


@njit_inline
def settle(s: Any, row: int, n: int) -> None:
    """The packet in `row` is answered, `n` bytes delivered: free it, and complete what it completes."""
    work = s.flight[row, col.F_WORK]
    s.work[work, col.W_BYTES] += n
    s.work[work, col.W_PENDING] -= 1
    give_flight(s, row)
    if s.work[work, col.W_PENDING] == 0 and s.work[work, col.W_STATE] == col.WORK_SENT:
        complete(s, work)


@njit_inline
def complete(s: Any, row: int) -> None:
    """Write the completion of a work request that is in no list any more, and free its row.

    The time stands in W_DONE and W_PARTS, a failure in W_STATUS and the columns after it.
    """
    out = s.node[col.N_DONE]
    s.node[col.N_DONE] = out + 1
    status = s.work[row, col.W_STATUS]
    op = s.work[row, col.W_OP]
    for i in range(3, 8):
        s.done[out, i] = 0
    s.done[out, 0] = s.work[row, col.W_ID]
    head = status | op << 24
    if status != 0:
        s.node[col.K_FAILED] += 1
        if op == col.OP_READ or s.work[row, col.W_TOUCHED] == 0:
            head |= col.FLAG_DEFINITE << 32
        head |= s.work[row, col.W_SIDE] << 16
        head |= (
            s.work[row, col.W_STAGE] << 40 | s.work[row, col.W_LEVEL] << 48 | s.work[row, col.W_ACCESS] << 56
        )
        s.done[out, 4] = s.work[row, col.W_IOVA]
        s.done[out, 5] = s.work[row, col.W_STREAM] | s.work[row, col.W_BANK] << 32
        s.done[out, 6] = s.work[row, col.W_FSR] | s.work[row, col.W_FSYNR0] << 32
        s.done[out, 7] = s.work[row, col.W_NODE]
    s.done[out, 1] = head
    s.done[out, 2] = s.work[row, col.W_BYTES]
    s.done[out, 3] = s.work[row, col.W_VALUE]
    s.done[out, 7] |= s.work[row, col.W_PDID] << 32
    done = s.work[row, col.W_DONE]
    s.done[out, 8] = s.work[row, col.W_POSTED]
    s.done[out, 9] = done
    for i in range(col.PARTS):
        s.done[out, 10 + i] = s.work[row, col.W_PARTS + i]
    origin = s.work[row, col.W_ORIGIN]
    s.done[out, col.DONE_ORIGIN] = origin
    if origin != 0:
        s.node[col.N_WAKES] += 1
        s.work[row, col.W_ORIGIN] = 0
        s.work[row, col.W_SIGNAL] = 0
    s.node[col.N_CLOCK] = max(s.node[col.N_CLOCK], done)
    s.node[col.K_COMPLETED] += 1
    s.node[col.K_BYTES_DELIVERED] += s.work[row, col.W_BYTES]

    domain = s.work[row, col.W_PDID]
    active = s.work[row, col.W_STATE] >= col.WORK_QUEUED
    s.work[row, col.W_STATE] = col.WORK_FREE
    s.work[row, col.W_NEXT] = s.node[col.N_WORK_FREE]
    s.node[col.N_WORK_FREE] = row
    s.node[col.N_WORK_LIVE] -= 1
    if active:
        s.domains[domain, col.D_ACTIVE] -= 1
        if s.domains[domain, col.D_ACTIVE] == 0 and s.domains[domain, col.D_HEAD] != 0:
            release(s, domain)


@njit_inline
def find_slot(s: Any, domain: int) -> Any:
    """PD slot of a process with a known way through the SMMU, its stamp renewed; -1: ask first."""
    for slot in range(s.slots.shape[0]):
        if s.slots[slot, col.S_PDID] == domain:
            if s.slots[slot, col.S_ROUTE] != col.ROUTE_OPEN:
                return -1
            s.slots[slot, col.S_USED] = s.node[col.N_CLOCK]
            return slot
    return -1


@njit_inline
def find_route(s: Any, gva: int) -> Any:
    """Row of the route whose range holds `gva`, or -1."""
    low = 0
    high = s.node[col.N_ROUTES]
    while low < high:
        middle = (low + high) >> 1
        if s.routes[middle, col.R_END] <= gva:
            low = middle + 1
        else:
            high = middle
    if low < s.node[col.N_ROUTES] and s.routes[low, col.R_BASE] <= gva:
        return low
    return -1
