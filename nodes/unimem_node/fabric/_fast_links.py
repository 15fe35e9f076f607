"""The way of a packet through the network, compiled: links are servers, in picoseconds.

A packet takes each link of its path in turn. A link is busy for as long as the packet's bytes take on it; a
switch passes the packet on as soon as it has a cell of it (cut-through), so that a long packet pays for its
length once. Who shares the table of links shares the links: in a simulation all nodes do, so that flows
wait for each other; a node that is a process of its own knows only its own way out.

Without a path (`RdmaNi.set_network` was not called) a peer is behind one link of its own.
"""

from __future__ import annotations

from typing import Any

from unimem_node._jit import njit_inline

from . import _fast_columns as col


@njit_inline
def first_link(s: Any, peer: int) -> Any:
    """Row of `links` that the next packet to a peer takes first; -1: the peer's own."""
    if s.peers[peer, col.P_PATHS] == 0:
        return -1
    return s.paths[s.peers[peer, col.P_PATHS] - 1 + s.peers[peer, col.P_NEXT_PATH], 1]


@njit_inline
def free_at(s: Any, peer: int) -> Any:
    """When the next packet to a peer could leave."""
    link = first_link(s, peer)
    return s.peers[peer, col.P_LINK_FREE] if link < 0 else s.links[link, col.L_FREE]


@njit_inline
def carry(s: Any, peer: int, n: int, ready: int) -> Any:
    """Send `n` payload bytes that are ready at `ready`: (departure, when it has left, arrival), ps."""
    size = max(n, col.LINK_MINIMUM)
    if s.peers[peer, col.P_PATHS] == 0:
        departure = max(ready, s.peers[peer, col.P_LINK_FREE])
        leaves = departure + (size * s.peers[peer, col.P_PS_PER_KIB] >> 10)
        s.peers[peer, col.P_LINK_FREE] = leaves
        arrival = max(leaves + s.peers[peer, col.P_LATENCY], s.peers[peer, col.P_LAST_ARRIVAL])
        s.peers[peer, col.P_LAST_ARRIVAL] = arrival
        return departure, leaves, arrival
    turn = s.peers[peer, col.P_NEXT_PATH]
    path = s.peers[peer, col.P_PATHS] - 1 + turn
    s.peers[peer, col.P_NEXT_PATH] = (turn + 1) % s.peers[peer, col.P_PATH_COUNT]
    cell = min(size, s.node[col.N_CELL_BYTES])
    t = ready + s.node[col.N_ENTRY_PS]
    departure = t
    leaves = t
    for i in range(1, 1 + s.paths[path, 0]):
        link = s.paths[path, i]
        start = max(t, s.links[link, col.L_FREE])
        busy = size * s.links[link, col.L_PS_PER_KIB] >> 10
        s.links[link, col.L_WAIT] += start - t
        s.links[link, col.L_BYTES] += size
        s.links[link, col.L_FREE] = start + busy
        if i == 1:
            departure = start - s.node[col.N_ENTRY_PS]
            leaves = start + busy
        if i == s.paths[path, 0]:
            t = start + busy + s.links[link, col.L_LATENCY]
        else:
            t = start + (cell * s.links[link, col.L_PS_PER_KIB] >> 10) + s.links[link, col.L_LATENCY]
    return departure, leaves, t
