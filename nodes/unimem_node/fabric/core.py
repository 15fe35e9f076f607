"""What both halves of the network interface share: tables, PD slots, and ways through the SMMU.

PD slot *s* presents the *s*-th of the interface's AXI IDs on the PL port, so a protection domain becomes a
stream ID, which the SMMU turns into a context bank and so into the page tables of one process. A domain
without a slot raises the miss interrupt; the kernel's handler may program a slot before it returns.
"""

from __future__ import annotations

import sys
from collections import deque
from collections.abc import Callable, Sequence
from enum import IntEnum
from typing import Any, NamedTuple, Protocol

import numpy as np
import numpy.typing as npt

from unimem.wire import Side, Status
from unimem_node.clock import Scheduler
from unimem_node.dma import SmmuPort, Snoop
from unimem_node.dma._fast import ACCESS_READ, NO_MEMORY, NO_ROUTE, OUTSIDE, bank_run
from unimem_node.memory import PhysicalMemory
from unimem_node.mmu.regime import A_LEVEL_SHIFT
from unimem_node.smmu import Fault, Smmu
from unimem_node.smmu._fast import translate
from unimem_node.smmu.arrays import BLOCKED, T_MEMORY_LATENCY, T_MEMORY_PER_KIB
from unimem_node.smmu.stalls import Hold

from . import _fast_columns as col
from ._fast_handle import make_handle
from ._fast_tables import complete, mark_ready
from .state import RdmaSpec, State, grown, new_state

Bytes = npt.NDArray[np.uint8]

#: A route: (index, name, window base, window size, incarnation, unimem.v1.NodeState).
Route = tuple[int, str, int, int, int, int]

_UINT8 = np.dtype(np.uint8)

#: No AXI burst crosses this border, so neither does what is read as zero or dropped.
BURST_BORDER = 4096
#: Large buffers kept for frames; more are in use at once only when a transport holds many.
POOLED = 16


class Ways(Protocol):
    """Paths through the network."""

    def get(self, index: int, /) -> Sequence[Sequence[int]] | None:
        """The paths to node `index`, each a list of rows of the table of links; None: none is known."""


class Verdict(IntEnum):
    """What software makes of a refused access (register FAULT_VERDICT)."""

    NONE = 0
    PENDING = 1
    REFUSE = 2


class Record(Protocol):
    """`EventLog.record` without the node's name."""

    def __call__(self, time_ps: int, kind: str, **fields: object) -> None:
        """Record an event."""


class Refusal(NamedTuple):
    """Why a request was refused, in a completion's terms; `written`: bytes in memory all the same."""

    status: Status
    side: Side = Side.SOURCE
    stage: int = 0
    level: int = 0
    access: int = 0
    iova: int = 0
    stream_id: int = 0
    context_bank: int = 0
    fsr: int = 0
    fsynr0: int = 0
    written: int = 0
    slot: int = -1
    hold: Hold | None = None
    node: int = 0  # which node refused, + 1; 0: the one that says so


class Moved(NamedTuple):
    """How far a block came: bytes moved, time spent in translation, and why it stopped."""

    done: int
    cost_ps: int
    refusal: Refusal | None


class Stopped(NamedTuple):
    """Where compiled code met a refused address (columns C_SLOT to C_COST of the cursor)."""

    slot: int
    code: int
    level: int
    moved: int
    cost_ps: int


class Core:
    """Tables of one interface and the operations on them that need the SMMU, the kernel or more room."""

    def __init__(
        self,
        smmu: Smmu,
        memory: PhysicalMemory,
        scheduler: Scheduler,
        spec: RdmaSpec,
        *,
        index: int,
        incarnation: int,
        record: Record,
        snoop: Snoop | None = None,
        timer: Callable[[], int] | None = None,
    ) -> None:
        self.smmu, self.memory, self.scheduler, self.spec, self.record = smmu, memory, scheduler, spec, record
        self.index = index
        self._snoop = snoop
        self.arrays = smmu.arrays
        self.state: State = new_state(spec, index, incarnation)
        # Scalars through memoryviews: half the time of an index into an array, and plain integers.
        self.node = memoryview(self.state.node)
        self.cursor = memoryview(self.state.cursor)
        self._timer = timer
        self.node[col.N_VIRTUAL] = timer is None
        #: Called when the interface wants `pump` although nobody has called it.
        self.wake: Callable[[], object] | None = None
        self.ports = [SmmuPort(smmu, spec.stream_base + slot) for slot in range(spec.slots)]
        self.withdraw: Any = lambda work: None  # the source half ends a request of the interface's own
        self.miss: Any = lambda domain: Status.ACCESS_DENIED  # the register block raises the interrupt
        self.verdict: Any = lambda refuse: Verdict.REFUSE  # ... and says what the handler has decided
        self.holds: Any = lambda: False  # whether stalled accesses wait for software (FAULT_CTRL.HOLD)
        self.ways: Ways | None = None  # paths by peer, asked when a peer's row is made
        self.again: dict[int, deque[int]] = {}  # tokens of packets to send again, by row of the peer
        self.peer_rows: dict[int, int] = {}  # by node index
        self.peer_indices: list[int] = []  # by row
        self.links: dict[int, tuple[int, int]] = {index: (0, 0)}  # (latency, ps per KiB) by peer
        #: The same for all others, asked when a peer's row is made.
        self.far: Callable[[int], tuple[int, int]] = lambda index: (spec.hop_ps, spec.link_ps_per_kib)
        self._now = -1
        self._epoch = smmu.epoch
        self.grant = self.node[col.N_PEER_BYTES]
        self.scratch: Bytes = np.empty(col.SMALL_FRAME, np.uint8)
        self._scratch_bytes = self.scratch.data
        self._pool: list[Bytes] = []
        self.handle: Any = None
        #: Called when `handle` was replaced: compiled code of the shell knows tables by their addresses.
        self.on_handle: Callable[[], object] = lambda: None
        self._refresh()

    def _refresh(self, **tables: np.ndarray) -> None:
        """Replace tables, and the handle by which compiled code finds them."""
        self.state = self.state._replace(**tables)
        self._work_rows, self._done_rows = len(self.state.work), len(self.state.done)
        self.handle = make_handle(self.arrays, self.state)
        self.on_handle()

    # ---- room -----------------------------------------------------------------------------------------

    def room_for_work(self, n: int) -> None:
        """Make room for `n` more work requests and the completions of all there are."""
        live = self.node[col.N_WORK_LIVE] + n
        if live > self._work_rows:
            self._refresh(work=grown(self.state.work, live))
        if live + self.node[col.N_DONE] > self._done_rows:
            self._refresh(done=grown(self.state.done, live + self.node[col.N_DONE]))

    def room_for_flight(self, rows: int) -> None:
        """Make room for `rows` packets in flight."""
        if rows > len(self.state.flight):
            self._refresh(flight=grown(self.state.flight, rows))

    def buffer(self, size: int) -> Bytes:
        """A buffer for a large frame: one that nobody refers to any more, or a new one.

        The allocator's fresh pages would cost more than filling them.
        """
        for pooled in self._pool:
            # Two references: the pool's and this loop's. A frame, or a view of one, would be a third.
            if len(pooled) >= size and sys.getrefcount(pooled) == _UNUSED:
                return pooled
        fresh = np.empty(max(size, self.spec.frame_payload_bytes + (64 << 10)), np.uint8)
        if len(self._pool) == POOLED:
            self._pool.pop(0)
        self._pool.append(fresh)
        return fresh

    def finished(self, buffer: Bytes, size: int) -> Bytes:
        """The first `size` bytes of a buffer as a frame, read-only."""
        if buffer is self.scratch:
            return np.frombuffer(self._scratch_bytes[:size].tobytes(), _UINT8)
        frame = buffer[:size]
        frame.setflags(write=False)
        return frame

    # ---- peers ----------------------------------------------------------------------------------------

    def peer_row(self, index: int) -> int:
        """Row of the peer with this node index; made on first use."""
        row = self.peer_rows.get(index)
        if row is None:
            row = self.peer_rows[index] = len(self.peer_rows)
            self.peer_indices.append(index)
            if row >= len(self.state.peers):
                self._refresh(
                    peers=grown(self.state.peers, row + 1),
                    seen=grown(self.state.seen, row + 1),
                    settled=grown(self.state.settled, row + 1),
                )
            peer = self.state.peers[row]
            peer[col.P_OLDEST] = peer[col.P_NEWEST] = -1
            peer[col.P_RTO] = self.spec.rto_first_ps
            peer[col.P_GRANT] = self.grant
            peer[col.P_INDEX] = index
            peer[col.P_HEAD] = peer[col.P_TAIL] = -1
            peer[col.P_READY] = col.NOT_READY
            peer[col.P_CONNECTION] = 1
            latency, ps_per_kib = self.links.get(index) or self.far(index)
            peer[col.P_LATENCY], peer[col.P_PS_PER_KIB] = latency, ps_per_kib
            self._route_peer(index, row)
            self.lay_paths(index, row)
        return row

    def lay_paths(self, index: int, row: int) -> None:
        """Enter the paths to a peer, if the network has any."""
        found = self.ways.get(index) if self.ways is not None else None
        if not found:
            return
        first = len(self.state.paths)
        paths = np.zeros((first + len(found), col.PATH_COLS), np.int64)
        paths[:first] = self.state.paths
        for at, path in enumerate(found, first):
            if len(path) >= col.PATH_COLS:
                raise ValueError(f"a path of {len(path)} links: {col.PATH_COLS - 1} at most")
            paths[at, 0], paths[at, 1 : 1 + len(path)] = len(path), path
        self._refresh(paths=paths)
        peer = self.state.peers[row]
        peer[col.P_PATHS], peer[col.P_PATH_COUNT], peer[col.P_NEXT_PATH] = first + 1, len(found), 0

    def set_links(self, links: np.ndarray, ways: Ways) -> None:
        """Use this table of links (shared, not copied) and these paths."""
        self.ways = ways
        self._refresh(links=links)
        for index, row in self.peer_rows.items():
            self.lay_paths(index, row)

    def replay_block(self, peer: int) -> None:
        """Make room for the answers a peer may ask for again."""
        if self.state.peers[peer, col.P_REPLAY] == 0:
            block = self.node[col.N_REPLAYS]
            self.node[col.N_REPLAYS] = block + 1
            rows = (block + 1) * col.VALUE_SLOTS
            if rows > len(self.state.replay):
                self._refresh(replay=grown(self.state.replay, rows))
            self.state.peers[peer, col.P_REPLAY] = block + 1

    def set_grant(self, parked: int) -> None:
        """Tell peers with the next ACK how much they may send, with so many bytes parked here."""
        header = col.PACKET_BYTES + self.spec.block_bytes
        free = max(self.spec.parked_bytes - parked, 0)
        self.grant = max(self.node[col.N_PEER_BYTES] * free // self.spec.parked_bytes, header)
        self.state.peers[: len(self.peer_rows), col.P_GRANT] = self.grant

    def send_again(self, row: int) -> None:
        """Queue a packet that is not under way (any more) to be sent once more."""
        peer, token = int(self.state.flight[row, col.F_PEER]), int(self.state.flight[row, col.F_TOKEN])
        self.state.flight[row, col.F_STATE] = col.AGAIN
        self.state.peers[peer, col.P_AGAIN] += 1
        self.again.setdefault(peer, deque()).append(token)
        mark_ready(self.state, peer)

    def wait_for_bank(self, refusal: Refusal, slot: int, resumed: Callable[[bool], None]) -> None:
        """Have `resumed(retry)` called when software has decided on a stalled access, or freed its bank."""
        if refusal.hold is not None:
            refusal.hold.attach(resumed)
        else:
            self.smmu.wait(int(self.state.slots[slot, col.S_BANK]), resumed)

    def wake_queues(self) -> None:
        """Peers with something to send may have their turn again: a link is free enough."""
        for row in range(len(self.peer_rows)):
            if self.state.peers[row, col.P_HEAD] >= 0:
                mark_ready(self.state, row)

    def ask_turn(self) -> None:
        """Somebody outside any call of the shell has given us something to do."""
        if self.wake is not None:
            self.wake()

    def alarm(self, time_ps: int) -> None:
        """`on_timer` is wanted at `time_ps`, on the timer's clock."""
        self.node[col.N_ALARM] = min(self.node[col.N_ALARM], time_ps)

    def set_routes(self, rows: Sequence[Route]) -> None:
        """Take over a table of routes, sorted by address."""
        routes = np.full((len(rows), col.ROUTE_COLS), -1, np.int64)
        if rows:
            routes[:, : col.R_PEER] = [
                (base, base + size, index, incarnation, state)
                for index, _, base, size, incarnation, state in rows
            ]
        self._refresh(routes=routes)
        self.node[col.N_ROUTES] = len(rows)
        for index, row in self.peer_rows.items():
            self._route_peer(index, row)

    def _route_peer(self, index: int, row: int) -> None:
        """Connect a peer's row with its routes."""
        routes = self.state.routes
        for route in np.flatnonzero(routes[:, col.R_INDEX] == index):
            routes[route, col.R_PEER] = row
            self.state.peers[row, col.P_ROUTE_INCARNATION] = routes[route, col.R_INCARNATION]

    # ---- PD slots and the SMMU ----------------------------------------------------------------------------

    def memory_ps(self, n: int) -> int:
        """Time DRAM takes for a block of `n` bytes."""
        timing = self.arrays.timing
        return int(timing[T_MEMORY_LATENCY]) + (n * int(timing[T_MEMORY_PER_KIB]) >> 10)

    def tick(self) -> None:
        """Begin a piece of work: our clock is not behind the scheduler's; ways are those in force."""
        self.smmu.pmu.poll()  # what the piece before has made may overflow a counter
        now, epoch = self.scheduler.now_ps, self.smmu.epoch
        if self._timer is not None:
            self.node[col.N_NOW] = max(self.node[col.N_NOW], self._timer())
        if now != self._now:
            self._now = now
            if self._timer is None:
                self.node[col.N_NOW] = max(self.node[col.N_NOW], now)
            if now > self.node[col.N_CLOCK]:  # noqa: PLR1730 - `max` would store each time
                self.node[col.N_CLOCK] = now
        if epoch != self._epoch:
            self._epoch = epoch
            self.state.slots[:, col.S_ROUTE] = col.ROUTE_UNKNOWN

    @property
    def settled(self) -> bool:
        """Whether a piece of work could begin without `tick`: nothing but the clock has changed since."""
        return self._epoch == self.smmu.epoch and not self.smmu.pmu.counting

    def slot_of(self, domain: int) -> int | Status:
        """PD slot of a protection domain, asking the kernel if need be; else what to answer."""
        if not self.node[col.N_ENABLED]:
            return Status.ACCESS_DENIED
        for attempt in range(2):
            for slot in range(self.spec.slots):
                if domain and self.state.slots[slot, col.S_PDID] == domain:
                    self._resolve(slot)
                    self.state.slots[slot, col.S_USED] = self.node[col.N_CLOCK]
                    return slot
            if attempt == 0:
                self.node[col.K_MISSES] += 1
                self.record(self.node[col.N_CLOCK], "pd_miss", pdid=domain)
                denied: Status = self.miss(domain)
                self.tick()  # the handler has most likely changed the SMMU
        return denied

    def _resolve(self, slot: int) -> None:
        """Look up where the SMMU sends a slot's stream, unless that is known."""
        row = self.state.slots[slot]
        if row[col.S_ROUTE] == col.ROUTE_UNKNOWN:
            way = self.ports[slot].way()
            row[col.S_LANE], row[col.S_BANK] = way.lane, way.cb
            row[col.S_ROUTE] = col.ROUTE_OPEN if way.open else col.ROUTE_REFUSED

    def locate(self, slot: int, va: int, access: int, n: int) -> tuple[int, int, int, int, int]:
        """(code, syndrome, offset into DRAM, bytes, ps): see `unimem_node.dma._fast.locate`."""
        row = self.state.slots[slot]
        if row[col.S_ROUTE] != col.ROUTE_OPEN:
            return NO_ROUTE, 0, -1, 0, 0
        lane, bank = int(row[col.S_LANE]), int(row[col.S_BANK])
        if self._snoop is not None:
            return self._snoop.locate(self.arrays, lane, bank, va, access, n)
        pa, span, level, cost = va, n, 0, 0
        if bank != OUTSIDE:
            code, info, pa, span, cost = map(int, translate(self.arrays, lane, bank, va, access))
            if code:
                return code, info, -1, 0, cost
            level = (info >> A_LEVEL_SHIFT) & 3
        offset, run = map(int, bank_run(self.memory.geometry, pa, min(span, n)))
        return (0 if offset >= 0 else NO_MEMORY), level, offset, run, cost

    def move(self, slot: int, access: int, va: int, data: Bytes, stopped: Stopped | None = None) -> Moved:
        """Read `va` into `data`, or write `data` to `va`, run by run, up to the first refused address.

        `stopped`: compiled code has come this far. A fault that the SMMU does not report to the master (CFRE
        = 0) is RAZ/WI: zeros are read, or bytes dropped, up to the next 4 KiB border.
        """
        done, cost = (stopped.moved, stopped.cost_ps) if stopped else (0, 0)
        while done < len(data):
            if stopped:
                code, level, offset, run, stopped = stopped.code, stopped.level, -1, 0, None
            else:
                code, level, offset, run, ps = self.locate(slot, va + done, access, len(data) - done)
                cost += ps
            if code:
                refusal = self.refuse(slot, va + done, access, code, level)
                if refusal is not None:
                    return Moved(done, cost, refusal._replace(written=0 if access == ACCESS_READ else done))
                run = min(len(data) - done, BURST_BORDER - (va + done) % BURST_BORDER)
                if access == ACCESS_READ:
                    data[done : done + run] = 0
            elif access == ACCESS_READ:
                data[done : done + run] = self.memory.view8[offset : offset + run]
            else:
                self.memory.view8[offset : offset + run] = data[done : done + run]
            done += run
        return Moved(done, cost, None)

    def refuse(self, slot: int, va: int, access: int, code: int, level: int) -> Refusal | None:
        """Have the SMMU record a refused access; None when the master is not told of it.

        The interrupt handler has run when this returns: the status is PAGE_PENDING when it says that the
        page will come. `hold` of the refusal: the access is stalled, or held up by one that is.
        """
        port = self.ports[slot]
        fault: Fault | None
        if code == BLOCKED:  # nothing is recorded
            return Refusal(
                Status.BANK_BLOCKED, iova=va, access=access & 1, stream_id=port.stream_id or 0, slot=slot
            )
        verdict, hold = Verdict.REFUSE, None
        if code == NO_MEMORY:
            fault = port.no_memory(va, access, level)
            if fault is None:
                return Refusal(
                    Status.EXTERNAL_ABORT, iova=va, access=access & 1, stream_id=port.stream_id or 0
                )
        else:
            faults: list[Fault] = []

            def refused() -> None:
                faults.append(port.refused(va, access, 0 if code == NO_ROUTE else code, level))

            verdict = self.verdict(refused)
            fault = faults[0]
            hold = fault.hold
            if hold is not None and not self.holds():
                hold.cancel()
                hold = None
            if hold is None and not fault.aborts and verdict != Verdict.PENDING:
                return None
        status = _status(code)
        if verdict == Verdict.PENDING and hold is None:
            status = Status.PAGE_PENDING
        return Refusal(
            status,
            stage=fault.stage,
            level=fault.level,
            access=access & 1,
            iova=va,
            stream_id=fault.stream_id,
            context_bank=max(fault.context_bank, 0),
            fsr=fault.fsr,
            fsynr0=fault.fsynr0,
            slot=slot,
            hold=hold,
        )

    # ---- ending work requests -------------------------------------------------------------------------

    def blame(self, work: int, refusal: Refusal, node: int) -> None:
        """Note the first thing that refused a work request; `node`: the index of the node that did."""
        row = self.state.work[work]
        if row[col.W_STATUS] == 0:
            row[col.W_STATUS : col.W_NODE + 1] = (*refusal[:10], node)
        signal = int(row[col.W_SIGNAL]) - 1
        if signal >= 0:  # the next serial number: it is still the same one
            row[col.W_SIGNAL] = 0
            if self.state.work[signal, col.W_ORIGIN] == row[col.W_ORIGIN] - 1:
                self.withdraw(signal)

    def end_now(self, work: int, time_ps: int) -> None:
        """Complete a blamed work request that is in no list and has nothing in flight.

        Its time, unless an answer has set it, went into waiting for the link.
        """
        row = self.state.work[work]
        done = max(time_ps, int(row[col.W_POSTED]))
        if done >= row[col.W_DONE]:
            row[col.W_PARTS : col.W_PARTS + col.PARTS] = 0
            row[col.W_PARTS + col.PART_LINK_WAIT] = done - row[col.W_POSTED]
            row[col.W_DONE] = done
        complete(self.state, work)


def _status(code: int) -> Status:
    if code == NO_MEMORY:
        return Status.EXTERNAL_ABORT
    return Status(code) if code in _FSR_STATUS else Status.STREAM_FAULT


_FSR_STATUS = frozenset({1, 2, 3, 4, 5, 7})


def _unused_references() -> int:
    """References `sys.getrefcount` sees of an array that only a list and a loop over it hold."""
    for array in [np.empty(0, np.uint8)]:
        return sys.getrefcount(array)
    raise AssertionError


_UNUSED = _unused_references()
