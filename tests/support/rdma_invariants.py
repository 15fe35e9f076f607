"""What must hold of the tables of an interface between any two calls (docs/protocol.md).

The lists are walked and everything that is counted beside them is counted again.
"""

from __future__ import annotations

import numpy as np

from unimem_node.fabric import RdmaNi
from unimem_node.fabric import _fast_columns as col


def check_tables(ni: RdmaNi) -> None:
    """Raise `AssertionError` for tables that contradict themselves."""
    core = ni._core
    cursor = core.state.cursor
    assert (cursor[col.C_OPEN], cursor[col.C_PACKET], cursor[col.C_COUNT]) == (0, 0, -1), "in a frame"
    _check_rows(core.state.work[:, col.W_STATE] != col.WORK_FREE, core.state, "work")
    _check_rows(core.state.flight[:, col.F_LIVE] == 1, core.state, "flight")
    _check_work(core)
    queued = set()
    for peer in range(len(core.peer_rows)):
        _check_source(ni, peer)
        _check_target(ni, peer)
        queued |= set(_walk(core.state.peers[peer, col.P_HEAD], core.state.work[:, col.W_NEXT]))
    assert queued == set(np.flatnonzero(core.state.work[:, col.W_STATE] == col.WORK_QUEUED).tolist())
    _check_ready(core)


def _walk(first: int, following: np.ndarray) -> list[int]:
    rows, row = [], int(first)
    while row >= 0:
        assert len(rows) <= len(following), "a list without end"
        rows.append(row)
        row = int(following[row])
    return rows


def _check_rows(live: np.ndarray, state: object, name: str) -> None:
    """A table's free list and its live rows are all rows that were ever used, each once."""
    node, table = state.node, getattr(state, name)  # type: ignore[attr-defined]
    upper = name.upper()
    link = getattr(col, f"{upper[0]}_NEXT")
    free = _walk(node[getattr(col, f"N_{upper}_FREE")], table[:, link])
    used = np.flatnonzero(live).tolist()
    top = int(node[getattr(col, f"N_{upper}_TOP")])
    assert sorted(free + used) == list(range(top)), f"{name}: a row is lost, or in two places"
    assert node[getattr(col, f"N_{upper}_LIVE")] == len(used), f"{name}: live rows are miscounted"
    assert top <= len(table), f"{name}: rows beyond the table"


def _check_work(core: object) -> None:
    state = core.state  # type: ignore[attr-defined]
    work, flight = state.work, state.flight
    states = work[:, col.W_STATE]
    for row in np.flatnonzero(states != col.WORK_FREE).tolist():
        pending = np.count_nonzero((flight[:, col.F_LIVE] == 1) & (flight[:, col.F_WORK] == row))
        assert work[row, col.W_PENDING] == pending, "blocks in flight are miscounted"
        assert states[row] != col.WORK_SENT or pending, "a work request waits for nothing"
        assert states[row] != col.WORK_HELD or not pending, "a held work request has left"
        assert 0 <= work[row, col.W_BYTES] <= work[row, col.W_CUT] <= work[row, col.W_LENGTH]
    active = states >= col.WORK_QUEUED
    held = []
    for domain in np.unique(work[states != col.WORK_FREE, col.W_PDID]).tolist():
        mine = active & (work[:, col.W_PDID] == domain)
        assert state.domains[domain, col.D_ACTIVE] == np.count_nonzero(mine), "active work is miscounted"
        behind = _walk(state.domains[domain, col.D_HEAD] - 1, work[:, col.W_NEXT])
        assert state.domains[domain, col.D_TAIL] == (behind[-1] + 1 if behind else 0)
        assert not behind or mine.any(), "a fence in front of nothing"
        held += behind
    assert sorted(held) == np.flatnonzero(states == col.WORK_HELD).tolist(), "held, but in no list"


def _check_source(ni: RdmaNi, peer: int) -> None:
    core = ni._core
    state, row = core.state, core.state.peers[peer]
    flight = state.flight
    mine = np.flatnonzero((flight[:, col.F_LIVE] == 1) & (flight[:, col.F_PEER] == peer))
    sizes = (flight[mine, col.F_LENGTH] + col.PACKET_BYTES) * (flight[mine, col.F_OP] != col.OP_COPY)
    assert row[col.P_BYTES] == sizes.sum(), "bytes in flight are miscounted"
    states = flight[mine, col.F_STATE]
    again = [int(flight[r, col.F_TOKEN]) for r in mine[states == col.AGAIN]]
    assert row[col.P_AGAIN] == len(again), "packets to send again are miscounted"
    assert set(again) <= set(core.again.get(peer, ())), "a packet to send again is in no list"
    if not ni.spec.checks:
        return
    flying = _walk(row[col.P_OLDEST], flight[:, col.F_NEWER])
    assert sorted(flying) == mine[states == col.FLYING].tolist(), "a packet under way is in no list"
    assert row[col.P_NEWEST] == (flying[-1] if flying else -1)
    for older, newer in zip([-1, *flying], flying, strict=False):
        assert flight[newer, col.F_OLDER] == older, "the list of packets under way is torn"
    base, seq = int(row[col.P_BASE]), int(row[col.P_SEQ])
    ahead = (seq - base) & col.SEQ_MASK
    assert ahead <= col.WINDOW, "more than the window"
    settled = _marked(state.settled[peer], base)
    assert row[col.P_SETTLED] == len(settled), "settled packets are miscounted"
    unsettled = {int(s - base) & col.SEQ_MASK for s in flight[mine, col.F_SEQ]}
    assert len(unsettled) == len(mine), "two packets with one number"
    assert unsettled | settled == set(range(ahead)), "a number is neither settled nor in flight"
    assert not unsettled & settled
    slots = sorted(int(s) - 1 for s in flight[mine, col.F_SLOT] if s)
    taken = row[col.P_VALUES : col.P_VALUES + col.VALUE_WORDS]
    bits = [
        word * 32 + bit for word in range(col.VALUE_WORDS) for bit in range(32) if int(taken[word]) >> bit & 1
    ]
    assert slots == bits, "replay slots are miscounted"


def _check_target(ni: RdmaNi, peer: int) -> None:
    state, target = ni._core.state, ni._target
    row = state.peers[peer]
    ahead = _marked(state.seen[peer], int(row[col.P_EXPECTED]))
    assert row[col.P_AHEAD] == len(ahead), "requests executed ahead are miscounted"
    assert 0 not in ahead, "the request that is due is done"
    parked = [p for p in target.parking._parked.values() if p.peer == peer]
    assert row[col.P_OWED] == sum(p.accepted for p in parked), "accepted requests are miscounted"
    everything = target.parking._parked.values()
    assert target.parking.bytes == sum(len(p.frame) for p in everything) <= ni.spec.parked_bytes


def _marked(words: np.ndarray, first: int) -> set[int]:
    """Distances from `first` of the numbers that are marked in a window."""
    bits = [
        word * 32 + bit for word in np.flatnonzero(words) for bit in range(32) if int(words[word]) >> bit & 1
    ]
    return {(int(at) - first) & col.WINDOW_MASK for at in bits}


def _check_ready(core: object) -> None:
    state = core.state  # type: ignore[attr-defined]
    ready = _walk(state.node[col.N_READY_HEAD], state.peers[:, col.P_READY])
    assert state.node[col.N_READY_TAIL] == (ready[-1] if ready else -1)
    rows = len(core.peer_rows)  # type: ignore[attr-defined]
    marked = np.flatnonzero(state.peers[:rows, col.P_READY] != col.NOT_READY)
    assert sorted(ready) == marked.tolist(), "ready, but in no list"
    again = np.flatnonzero(state.peers[:rows, col.P_AGAIN]).tolist()
    assert set(again) <= set(ready), "a packet to send again will not have its turn"
