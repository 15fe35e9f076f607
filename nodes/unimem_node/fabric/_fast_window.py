"""Windows of the interface: which numbers have a verdict or are settled, what is lost, what may leave now.

Shared by the compiled paths, which inline it, and by the readable one, which calls it, like `_fast_tables`.
Every function takes the `State` (here `s`).
"""

from __future__ import annotations

from typing import Any

from unimem_node._jit import njit_inline

from . import _fast_columns as col
from ._fast_links import free_at


@njit_inline
def window_share(op: int, n: int) -> Any:
    """Bytes of a peer's window that a packet takes; a COPY, which waits for a WRITE of the peer's own, none.

    Else two nodes that copy from each other could fill their windows with what waits for room in the other's.
    """
    return 0 if op == col.OP_COPY else n + col.PACKET_BYTES


@njit_inline
def has_bit(table: Any, peer: int, seq: int) -> Any:
    """Whether `seq` is marked in a peer's window."""
    at = seq & col.WINDOW_MASK
    return table[peer, at >> 5] >> (at & 31) & 1


@njit_inline
def flip_bit(table: Any, peer: int, seq: int) -> None:
    """Mark `seq` in a peer's window, or take the mark away."""
    at = seq & col.WINDOW_MASK
    table[peer, at >> 5] ^= 1 << (at & 31)


@njit_inline
def note(s: Any, table: Any, peer: int, first: int, ahead: int, seq: int) -> None:
    """`seq` is done: the first that is not moves on if it was this one (columns `first`, `ahead`)."""
    if s.peers[peer, first] != seq:
        flip_bit(table, peer, seq)
        s.peers[peer, ahead] += 1
        return
    following = (seq + 1) & col.SEQ_MASK
    while s.peers[peer, ahead] > 0 and has_bit(table, peer, following) != 0:
        flip_bit(table, peer, following)
        s.peers[peer, ahead] -= 1
        following = (following + 1) & col.SEQ_MASK
    s.peers[peer, first] = following


@njit_inline
def note_settled(s: Any, peer: int, seq: int) -> None:
    """The request `seq` of ours is settled: its peer need not remember it."""
    note(s, s.settled, peer, col.P_BASE, col.P_SETTLED, seq)


@njit_inline
def note_seen(s: Any, peer: int, seq: int) -> None:
    """The request `seq` of a peer has its verdict, and is not executed again."""
    note(s, s.seen, peer, col.P_EXPECTED, col.P_AHEAD, seq)


@njit_inline
def due(s: Any, peer: int, seq: int) -> Any:
    """Whether a peer's request is inside its window and has no verdict yet."""
    ahead = (seq - s.peers[peer, col.P_EXPECTED]) & col.SEQ_MASK
    if ahead == 0:
        return True
    return ahead < col.WINDOW and has_bit(s.seen, peer, seq) == 0


@njit_inline
def word_from(s: Any, row: int) -> None:
    """A peer has answered a packet: it lives, and takes so long (RFC 6298; Karn: not of one repeated)."""
    peer = s.flight[row, col.F_PEER]
    sent = s.flight[row, col.F_SENT]
    s.peers[peer, col.P_TIMEOUTS] = 0
    if s.flight[row, col.F_SENDS] != 1:
        return
    s.peers[peer, col.P_RACK] = max(s.peers[peer, col.P_RACK], sent)
    sample = max(s.node[col.N_NOW] - sent, 0)
    srtt = s.peers[peer, col.P_SRTT]
    if srtt == 0:
        s.peers[peer, col.P_SRTT] = sample
        s.peers[peer, col.P_RTTVAR] = sample >> 1
    else:
        s.peers[peer, col.P_RTTVAR] += (abs(sample - srtt) - s.peers[peer, col.P_RTTVAR]) >> 2
        s.peers[peer, col.P_SRTT] = srtt + ((sample - srtt) >> 3)
    rto = s.peers[peer, col.P_SRTT] + 4 * s.peers[peer, col.P_RTTVAR]
    s.peers[peer, col.P_RTO] = min(max(rto, s.node[col.N_RTO_MIN]), s.node[col.N_RTO_MAX])


@njit_inline
def overtaken(s: Any, peer: int) -> Any:
    """Whether the oldest packet under way was sent well before one that is answered: it is lost then."""
    oldest = s.peers[peer, col.P_OLDEST]
    if oldest < 0:
        return False
    return s.flight[oldest, col.F_SENT] + (s.peers[peer, col.P_SRTT] >> 2) < s.peers[peer, col.P_RACK]


@njit_inline
def take_value_slot(s: Any, peer: int) -> Any:
    """A replay slot at the peer for a request that returns a value, + 1; 0: all are in use."""
    for word in range(col.VALUE_WORDS):
        taken = s.peers[peer, col.P_VALUES + word]
        if taken != 0xFFFF_FFFF:
            for bit in range(32):
                if taken >> bit & 1 == 0:
                    s.peers[peer, col.P_VALUES + word] = taken | 1 << bit
                    return word * 32 + bit + 1
    return 0


@njit_inline
def window_bytes(s: Any, peer: int) -> Any:
    """Bytes that may be in flight to a peer, headers included: our limit, or what it grants."""
    granted = s.peers[peer, col.P_CREDIT]
    return min(s.node[col.N_PEER_BYTES], granted) if granted > 0 else s.node[col.N_PEER_BYTES]


@njit_inline
def window_packets(s: Any, peer: int) -> Any:
    """Packets that may still be sent to a peer before it has to remember more than its window holds."""
    return col.WINDOW - ((s.peers[peer, col.P_SEQ] - s.peers[peer, col.P_BASE]) & col.SEQ_MASK)


@njit_inline
def booked(s: Any, peer: int) -> Any:
    """Whether the way to a peer is taken so far ahead that nothing is cut for it now; then a timer is set."""
    ahead = s.node[col.N_LOOKAHEAD]
    if ahead == 0:
        return False
    wake = free_at(s, peer) - ahead
    if wake <= s.node[col.N_CLOCK]:
        return False
    s.node[col.N_PACED] = min(s.node[col.N_PACED], wake)
    return True


@njit_inline
def gathers(op: int) -> Any:
    """Whether a request takes bytes from its source along."""
    return op in (col.OP_WRITE, col.OP_SEND)


@njit_inline
def acknowledged(op: int) -> Any:
    """Whether a request is answered by a record of an ACK."""
    return op in (col.OP_WRITE, col.OP_SEND, col.OP_COPY)


@njit_inline
def returns_value(op: int) -> Any:
    """Whether the answer of a request is remembered in a replay slot."""
    return col.OP_FETCH_ADD <= op <= col.OP_SWAP


@njit_inline
def next_block(s: Any, peer: int) -> Any:
    """Bytes of the next block for `peer`; 0 when its queue is empty, its window full or its link booked."""
    row = s.peers[peer, col.P_HEAD]
    if row < 0:
        return 0
    n = min(s.node[col.N_BLOCK_BYTES], s.work[row, col.W_LENGTH] - s.work[row, col.W_CUT])
    op = s.work[row, col.W_OP]
    under_way = s.peers[peer, col.P_BYTES]
    if under_way > 0 and under_way + window_share(op, n) > window_bytes(s, peer) and op != col.OP_COPY:
        return 0
    if s.node[col.N_CHECKS] != 0:
        room = window_packets(s, peer)
        if room <= (col.WINDOW - col.COPY_SPAN if op == col.OP_COPY else 0):
            return 0
        if returns_value(op) and no_value_slot(s, peer):
            return 0
    return 0 if booked(s, peer) else n


@njit_inline
def no_value_slot(s: Any, peer: int) -> Any:
    """Whether all replay slots at a peer are in use."""
    for word in range(col.VALUE_WORDS):
        if s.peers[peer, col.P_VALUES + word] != 0xFFFF_FFFF:
            return False
    return True


@njit_inline
def plan_frame(s: Any, peer: int) -> Any:
    """(packets, payload bytes) of the next frame for `peer`, within limits and window; (0, 0): none.

    An upper bound: `next_block` has the last word on each block.
    """
    packets = 0
    payload = 0
    block = s.node[col.N_BLOCK_BYTES]
    most = s.node[col.N_FRAME_PACKETS]
    if s.node[col.N_CHECKS] != 0:
        most = min(most, window_packets(s, peer))
    room = s.node[col.N_FRAME_PAYLOAD]
    limit = window_bytes(s, peer)
    under_way = s.peers[peer, col.P_BYTES]
    row = s.peers[peer, col.P_HEAD]
    if next_block(s, peer) == 0:
        return 0, 0
    while row >= 0:
        left = s.work[row, col.W_LENGTH] - s.work[row, col.W_CUT]
        op = s.work[row, col.W_OP]
        carries = gathers(op)
        while left > 0:
            n = min(block, left)
            if packets >= most or (carries and payload + n > room):
                return packets, payload
            share = window_share(op, n)
            if under_way > 0 and under_way + share > limit and share > 0:
                return packets, payload
            under_way += share
            packets += 1
            if carries:
                payload += (n + 7) & ~7
            left -= n
        row = s.work[row, col.W_NEXT]
    return packets, payload
