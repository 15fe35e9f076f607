"""State of the network interface: everything it remembers, as a few int64 tables.

The compiled paths and the readable one work on the same tables (columns: `_fast_columns`), so either can
take over from the other at any packet. Tables start small and grow by doubling: what a node costs depends
on the work in flight and the peers it talks to. Rows are recycled through free lists.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, Final, NamedTuple

import numpy as np

from unimem.addresses import WINDOW_BYTES, window_of

from . import _fast_columns as col


@dataclass(frozen=True, slots=True)
class RdmaSpec:
    """What a platform says about its network interface; times in picoseconds."""

    name: str = "ni"
    base: int = 0xA001_0000
    size: int = 0x1000
    spi: int = 90  # PL-PS interrupt 1
    stream_base: int = 0x210  # HPC0 (TBU 0), AXI ID 16: slot s presents this + s
    slots: int = 16
    block_bytes: int = 16 << 10  # unit of acknowledgement
    frame_payload_bytes: int = 256 << 10
    frame_packets: int = 4096
    peer_bytes: int = 4 << 20  # in flight to one peer; the rest waits
    parked_bytes: int = 1 << 20  # stalled writes that are held here; beyond it they are sent again
    paths: int = 1  # routes to a peer that blocks are spread over, 1 to 4
    cell_bytes: int = 256  # [U] a switch passes a packet on once it has so much of it
    rto_min_ps: int = 50_000_000  # bounds of the time after which a packet is taken for lost
    rto_max_ps: int = 10_000_000_000
    rto_first_ps: int = 200_000_000  # before the first answer has told how long one takes
    retries: int = 8  # time-outs in a row without a word from the peer, then it is given up
    fault_rounds: int = 16  # PAGE_PENDING answers to one packet, then UNRESOLVED_FAULT
    fault_retry_ps: int = 2_000_000_000  # a page fault of which nobody tells the end is tried again
    order_retry_ps: int = 5_000_000  # [U] an ordered packet that came too early is sent again
    checks: bool = True  # False: no CRC, window or timers (a yardstick)
    issue_ps: int = 470_000  # interface and library (arXiv 2307.09371, E9)
    hop_ps: int = 830_000  # first hop (E9)
    further_hop_ps: int = 312_500  # each hop after it (E9: 2.55 µs at five hops)
    link_ps_per_kib: int = 999_024  # 10 Gb/s, 82 % usable (E10)

    def __post_init__(self) -> None:
        if not 1 <= self.slots <= 64:
            raise ValueError(f"{self.slots} PD slots: a PL port has 64 AXI IDs")
        if self.block_bytes % 8 or not 64 <= self.block_bytes <= self.frame_payload_bytes:
            raise ValueError(
                f"blocks of {self.block_bytes} bytes: a multiple of 8 from 64 to frame_payload_bytes, "
                f"{self.frame_payload_bytes}"
            )
        if self.frame_payload_bytes > 16 << 20 or not 1 <= self.frame_packets <= 65536:
            raise ValueError(
                f"frames of {self.frame_payload_bytes} payload bytes and {self.frame_packets} packets: "
                "at most 16 MiB and 65536"
            )
        if not 1 <= self.paths <= 4:
            raise ValueError(f"{self.paths} paths to a peer: 1 to 4")
        if not 0 < self.rto_min_ps <= self.rto_first_ps <= self.rto_max_ps:
            raise ValueError("rto_min_ps, rto_first_ps and rto_max_ps are positive and in this order")
        if self.peer_bytes < self.block_bytes:
            raise ValueError(f"{self.peer_bytes} bytes in flight hold no block of {self.block_bytes} bytes")

    @property
    def link_latency_ps(self) -> int:
        """Latency of each link of a path: with the serialisation of the smallest packet, `further_hop_ps`."""
        return max(0, self.further_hop_ps - (col.LINK_MINIMUM * self.link_ps_per_kib >> 10))

    @property
    def entry_ps(self) -> int:
        """What a packet's first hop takes besides: the interfaces' share of `hop_ps`, once a packet."""
        return max(0, self.hop_ps - self.link_latency_ps)


class State(NamedTuple):
    """The tables. As one argument of compiled code they would cost a microsecond: pass them one by one."""

    node: Any  # int64[NODE_COLS]
    work: Any  # int64[n, WORK_COLS]: work requests
    flight: Any  # int64[n, FLIGHT_COLS]: packets that wait for an answer
    peers: Any  # int64[n, PEER_COLS]
    domains: Any  # int64[65536, DOMAIN_COLS] by PDID; only touched pages are real
    slots: Any  # int64[slots, SLOT_COLS]
    routes: Any  # int64[n, ROUTE_COLS]
    replay: Any  # int64[blocks * VALUE_SLOTS, REPLAY_COLS]: a block for each peer that asks for values
    seen: Any  # int64[peers, WINDOW_WORDS]: which of a peer's requests after P_EXPECTED have a verdict
    settled: Any  # int64[peers, WINDOW_WORDS]: which of ours after P_BASE are settled
    links: Any  # int64[n, LINK_COLS]
    paths: Any  # int64[n, PATH_COLS]
    done: Any  # int64[n, DONE_COLS]: completions that wait to be taken
    cursor: Any  # int64[CURSOR_COLS]


FIRST_ROWS: Final = 64

#: Names of the counters, from column K_POSTED on.
COUNTERS: Final = tuple(
    name.removeprefix("K_").lower()
    for name, value in sorted(vars(col).items(), key=lambda item: item[1] if isinstance(item[1], int) else 0)
    if name.startswith("K_")
)


def new_state(spec: RdmaSpec, index: int, incarnation: int) -> State:
    """Tables of an idle interface of node `index`."""
    node = np.zeros(col.NODE_COLS, np.int64)
    node[col.N_INDEX], node[col.N_INCARNATION] = index, incarnation
    node[col.N_WINDOW_BASE] = window_of(index).start
    node[col.N_WINDOW_END] = window_of(index).start + WINDOW_BYTES
    node[col.N_ENABLED] = 1
    node[col.N_ISSUE_PS], node[col.N_BLOCK_BYTES] = spec.issue_ps, spec.block_bytes
    node[col.N_FRAME_PAYLOAD], node[col.N_FRAME_PACKETS] = spec.frame_payload_bytes, spec.frame_packets
    node[col.N_PEER_BYTES] = spec.peer_bytes + spec.peer_bytes // spec.block_bytes * col.PACKET_BYTES
    node[col.N_CHECKS], node[col.N_CELL_BYTES] = spec.checks, spec.cell_bytes
    node[col.N_RTO_MIN], node[col.N_RTO_MAX] = spec.rto_min_ps, spec.rto_max_ps
    node[col.N_ENTRY_PS] = spec.entry_ps
    for never in (col.N_TIMER, col.N_PACED, col.N_DEADLINE, col.N_ALARM):
        node[never] = col.NEVER
    for head in (col.N_WORK_FREE, col.N_FLIGHT_FREE, col.N_READY_HEAD, col.N_READY_TAIL):
        node[head] = -1
    cursor = np.zeros(col.CURSOR_COLS, np.int64)
    cursor[col.C_COUNT] = -1
    return State(
        node,
        np.zeros((FIRST_ROWS, col.WORK_COLS), np.int64),
        np.zeros((FIRST_ROWS, col.FLIGHT_COLS), np.int64),
        np.zeros((4, col.PEER_COLS), np.int64),
        np.zeros((1 << 16, col.DOMAIN_COLS), np.int64),
        np.zeros((spec.slots, col.SLOT_COLS), np.int64),
        np.zeros((0, col.ROUTE_COLS), np.int64),
        np.zeros((1, col.REPLAY_COLS), np.int64),
        np.zeros((4, col.WINDOW_WORDS), np.int64),
        np.zeros((4, col.WINDOW_WORDS), np.int64),
        np.zeros((0, col.LINK_COLS), np.int64),
        np.zeros((1, col.PATH_COLS), np.int64),
        np.zeros((FIRST_ROWS, col.DONE_COLS), np.int64),
        cursor,
    )


def grown(table: np.ndarray, rows: int) -> np.ndarray:
    """A copy of `table` with room for at least `rows` rows, doubled until they fit; new rows are zero."""
    capacity = len(table)
    while capacity < rows:
        capacity *= 2
    larger = np.zeros((capacity, table.shape[1]), np.int64)
    larger[: len(table)] = table
    return larger
