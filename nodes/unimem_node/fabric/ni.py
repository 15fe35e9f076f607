"""The RDMA network interface: a device on the bus, and the state machine of the fabric (docs/protocol.md).

Work requests come in by `post`, frames by `on_frame`; `pump` does what can be done now; frames and
completions are taken out. Nothing here waits, and nothing a peer sends makes it raise: what is no frame is
counted and dropped, what is no acceptable request is answered with a NACK.

The common case runs compiled, a frame a call (`_fast_*`); it stops at what is uncommon, which `Source` and
`Target` handle, packet by packet, on the same tables. With ``fast=False`` they handle everything.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Iterable
from itertools import pairwise
from typing import NamedTuple

import numpy as np
import numpy.typing as npt

from unimem.wire import COMPLETION, FrameError, Status
from unimem_node.bus.interrupts import Line
from unimem_node.bus.registers import RegisterFile
from unimem_node.clock import EventLog, Scheduler
from unimem_node.dma import Snoop
from unimem_node.memory import PhysicalMemory
from unimem_node.smmu import Smmu

from . import _fast_columns as col
from ._fast_columns import C_NEED, C_PEER, C_STOP, N_READY_HEAD, STOP_DONE
from ._fast_cut import cut
from ._fast_frame import close_requests, open_buffer
from ._fast_post import accept
from ._fast_receive import close_reply, open_reply, receive
from ._fast_tables import mark_ready, pop_ready
from ._fast_window import overtaken, plan_frame
from .core import Bytes, Core, Refusal, Route, Stopped, Ways
from .internal import Internal
from .packets import Frame, PacketOp, open_frame
from .registers import NiRegisters
from .retransmit import Retransmit
from .source import Source
from .state import COUNTERS, RdmaSpec
from .target import Target
from .third_party import ThirdParty

_INT64 = np.dtype(np.int64)
_NO_COMPLETIONS: npt.NDArray[np.void] = np.empty(0, COMPLETION)
_ANSWERS = frozenset({PacketOp.ACK, PacketOp.RESPONSE, PacketOp.NACK, PacketOp.READY})


class _Entered(NamedTuple):
    """A frame whose header is accepted."""

    frame: Frame
    stale: bool  # it is for an earlier incarnation of this node, or for another node


class RdmaNi:
    """One node's interface. `irq_line` is the miss interrupt; `log` gets what is refused or lost.

    With a `snoop` the readable paths run, and accesses ask the CPU's cache.
    """

    def __init__(
        self,
        smmu: Smmu,
        memory: PhysicalMemory,
        scheduler: Scheduler,
        irq_line: Line,
        spec: RdmaSpec | None = None,
        *,
        index: int,
        incarnation: int = 1,
        fast: bool = True,
        snoop: Snoop | None = None,
        name: str = "",
        log: EventLog | None = None,
        timer: Callable[[], int] | None = None,
    ) -> None:
        self.spec = spec or RdmaSpec()
        self.index, self.incarnation, self.name = index, incarnation, name or f"n{index}"
        self._log = log
        self._core = Core(
            smmu,
            memory,
            scheduler,
            self.spec,
            index=index,
            incarnation=incarnation,
            record=self._record,
            snoop=snoop,
            timer=timer,
        )
        self._registers = NiRegisters(self._core, irq_line)
        self._internal = Internal(self._core)
        self._source = Source(self._core, self._internal)
        self._target = Target(self._core, ThirdParty(self._core, self._source, self._internal))
        self._retransmit = Retransmit(self._core, self._source, self._give_up)
        self._target.parking.examine = self._examine_parked
        self._registers.on_resolved = self._resolved
        self._fast = fast and snoop is None
        self._node, self._cursor = self._core.node, self._core.cursor
        self._outbox: list[tuple[int, Bytes]] = []
        self._loop: deque[Bytes] = deque()

    def _record(self, time_ps: int, kind: str, **fields: object) -> None:
        if self._log is not None:
            self._log.record(time_ps, self.name, f"rdma.{kind}", **fields)

    # ---- a device on the bus --------------------------------------------------------------------------

    def read(self, offset: int, size: int) -> int:
        """A register, as the bus reads it."""
        return self._registers.file.read(offset, size)

    def write(self, offset: int, size: int, value: int) -> None:
        """A register, as the bus writes it."""
        self._registers.file.write(offset, size, value)

    def inspect(self, offset: int, size: int) -> int:
        """A register, as a debugger reads it: without effects."""
        return self._registers.file.inspect(offset, size)

    @property
    def registers(self) -> RegisterFile:
        """The register block."""
        return self._registers.file

    # ---- configuration ------------------------------------------------------------------------------

    def set_routes(self, rows: Iterable[Route]) -> None:
        """Take over the route table. What is in flight to an earlier incarnation of a peer is lost."""
        core = self._core
        core.tick()
        ordered = sorted(rows, key=lambda row: row[2])
        for before, after in pairwise(ordered):
            if before[2] + before[3] > after[2]:
                raise ValueError(f"the windows of {before[1]} and {after[1]} overlap")
        for index, _, _, _, incarnation, _ in ordered:
            row = core.peer_rows.get(index)
            if row is not None and 0 < core.state.peers[row, col.P_ROUTE_INCARNATION] < incarnation:
                self._forget(index, row, Status.PEER_LOST, "it has a new incarnation")
        core.set_routes(ordered)

    def set_link(self, peer: int, latency_ps: int, ps_per_kib: int) -> None:
        """Time of the way to a peer: hops, and serialisation of a KiB."""
        core = self._core
        core.links[peer] = (latency_ps, ps_per_kib)
        row = core.peer_rows.get(peer)
        if row is not None:
            core.state.peers[row, [col.P_LATENCY, col.P_PS_PER_KIB]] = latency_ps, ps_per_kib

    def set_links(self, far: Callable[[int], tuple[int, int]]) -> None:
        """As `set_link` for every peer that has none: `far` is asked when something is to be sent to it."""
        core = self._core
        core.far = far
        for index, row in core.peer_rows.items():
            if index not in core.links:
                core.state.peers[row, [col.P_LATENCY, col.P_PS_PER_KIB]] = far(index)

    # ---- work requests --------------------------------------------------------------------------------

    def post(self, wrs: npt.NDArray[np.void]) -> None:
        """Ring the doorbell for an array of WORK_REQUEST. Each gets exactly one completion, some at once."""
        core, count = self._core, len(wrs)
        core.tick()
        core.room_for_work(count)
        if not self._fast:
            for wr in wrs:
                self._source.accept_one(wr)
            return
        words = np.frombuffer(wrs.tobytes(), _INT64)  # the quickest copy of a structured array
        first = 0
        while (first := accept(core.handle, words, first, count)) < count:
            if self._cursor[C_STOP] == col.STOP_PEER:
                core.peer_row(int(core.state.routes[self._cursor[C_NEED], col.R_INDEX]))
            else:
                self._source.accept_one(wrs[first])
                first += 1

    def pump(self, frames: int = 0) -> bool:
        """Cut whatever may leave now into frames; frames for this node itself are examined at once.

        With `frames` it stops when so many wait to be taken; returns whether it has stopped so: a shell that
        sends one frame while the next is cut is quicker.
        """
        node = self._node
        if node[col.N_WAKES]:
            node[col.N_WAKES] = 0
            self._internal.collect()
        if self._target.nacks:
            self._core.tick()
            self._notify()
        while node[N_READY_HEAD] >= 0 or self._loop:
            self._core.tick()
            while node[N_READY_HEAD] >= 0:
                self._cut_frame()
                if frames and len(self._outbox) >= frames:
                    return True
            if self._loop:
                self.on_frame(self.index, self._loop.popleft())
                if node[col.N_WAKES]:
                    node[col.N_WAKES] = 0
                    self._internal.collect()
                if self._target.nacks:
                    self._notify()
        return False

    def _cut_frame(self, size: int = -1) -> None:
        """One frame for the peer whose turn it is, if anything may leave. `size` >= 0: `cut` has stopped."""
        core, cursor = self._core, self._cursor
        buffer = core.scratch
        while True:
            if size < 0:
                size = cut(core.handle, buffer) if self._fast else self._cut_readable(buffer)
            stop = cursor[C_STOP]
            if stop == STOP_DONE:
                if size:
                    self._send(cursor[C_PEER], core.finished(buffer, size))
                return
            if stop == col.STOP_IDLE:
                return
            if stop == col.STOP_NEED_BUFFER:
                buffer = core.buffer(cursor[C_NEED])
            elif stop == col.STOP_NEED_FLIGHT:
                core.room_for_flight(cursor[C_NEED])
            elif stop == col.STOP_AGAIN:
                self._cut_again(cursor[C_PEER])
                return
            else:
                self._source.cut_one(cursor[C_PEER], buffer, self._stopped())
            size = -1

    def _cut_readable(self, buffer: Bytes) -> int:
        """The readable `_fast_cut.cut`."""
        core, cursor = self._core, self._cursor
        packets = payload = 0
        while packets == 0 and (peer := self._node[N_READY_HEAD]) >= 0:
            if core.state.peers[peer, col.P_AGAIN]:
                cursor[C_STOP], cursor[C_PEER] = col.STOP_AGAIN, peer
                return 0
            packets, payload = plan_frame(core.state, peer)
            if packets == 0:
                pop_ready(core.state)
        if packets == 0:
            cursor[C_STOP] = col.STOP_IDLE
            return 0
        core.room_for_flight(self._node[col.N_FLIGHT_LIVE] + packets)
        if not open_buffer(core.state, buffer, packets, payload):
            return 0
        cursor[C_PEER] = pop_ready(core.state)
        while self._source.cut_one(peer, buffer):
            pass
        return int(close_requests(core.state, buffer, peer))

    def _cut_again(self, peer: int) -> None:
        """The peer whose turn it is has packets to be sent again: they go first."""
        core = self._core
        buffer = core.scratch
        size = self._retransmit.size_of(peer)
        if size > len(buffer):
            buffer = core.buffer(size)
        pop_ready(core.state)
        size = self._retransmit.cut_frame(peer, buffer)
        if core.state.peers[peer, col.P_AGAIN] or core.state.peers[peer, col.P_HEAD] >= 0:
            mark_ready(core.state, peer)
        if size:
            self._send(peer, core.finished(buffer, size))

    def _stopped(self) -> Stopped | None:
        """What compiled code knows of the refused address it stopped at."""
        if self._cursor[col.C_STOP] != col.STOP_FAULT:
            return None
        columns = (col.C_SLOT, col.C_CODE, col.C_LEVEL, col.C_MOVED, col.C_COST)
        return Stopped(*(self._cursor[column] for column in columns))

    def _send(self, peer: int, frame: Bytes) -> None:
        index = self._core.peer_indices[peer]
        if index == self.index:
            self._loop.append(frame)
        else:
            self._outbox.append((index, frame))

    # ---- frames -------------------------------------------------------------------------------------

    def on_frame(self, peer_index: int, frame: Bytes) -> None:
        """Examine a frame from a peer (uint8, any alignment): execute requests, settle answers, reply."""
        core, cursor = self._core, self._cursor
        core.tick()
        peer = core.peer_rows.get(peer_index)
        if peer is None:
            peer = core.peer_row(peer_index)
        if frame.flags.writeable:  # compiled code is made for one type of array
            frame = frame.view()
            frame.setflags(write=False)
        if self._fast:
            size = receive(core.handle, peer, frame, core.scratch)
            if cursor[C_STOP] != STOP_DONE:
                self._examine_rest(peer, peer_index, frame, size)
            elif size:
                self._send(peer, core.finished(core.scratch, size))
        elif (entered := self._enter(peer, peer_index, frame)) is not None:
            self._examine_readable(peer, entered)

    def _examine_rest(self, peer: int, peer_index: int, frame: Bytes, size: int) -> None:
        """Go on where compiled code stopped, with the same frame."""
        core, cursor = self._core, self._cursor
        entered: _Entered | None = None
        buffer = core.scratch
        while True:
            stop = cursor[C_STOP]
            if size:
                self._send(peer, core.finished(buffer, size))
                buffer = core.scratch
            if stop == STOP_DONE:
                break
            if stop == col.STOP_NEED_BUFFER:
                buffer = core.buffer(cursor[C_NEED])
            elif stop == col.STOP_HEADER:
                entered = self._enter(peer, peer_index, frame)
                if entered is None:
                    return
                if entered.stale:
                    self._examine_readable(peer, entered)
                    return
            elif stop != col.STOP_REPLY:
                entered = entered or _Entered(open_frame(frame), stale=False)
                self._examine(peer, entered, buffer, self._stopped())
            size = receive(core.handle, peer, frame, buffer)
        self._after(peer)

    def _examine_readable(self, peer: int, entered: _Entered) -> None:
        """The readable `_fast_receive.receive`, of a whole frame whose header is accepted."""
        core, cursor = self._core, self._cursor
        cursor[C_STOP] = col.STOP_REPLY
        while cursor[C_STOP] != STOP_DONE:
            buffer = core.scratch
            if not open_reply(core.state, entered.frame.data, buffer):
                buffer = core.buffer(cursor[C_NEED])
                open_reply(core.state, entered.frame.data, buffer)
            while cursor[col.C_PACKET] < cursor[col.C_END]:
                self._examine(peer, entered, buffer, None)
            size = int(close_reply(core.state, buffer, peer))
            if size:
                self._send(peer, core.finished(buffer, size))
        self._after(peer)

    def _after(self, peer: int) -> None:
        """What only an unusual frame leaves to do."""
        if self._node[col.N_CHECKS] and overtaken(self._core.state, peer):
            self._node[col.N_TIMER] = min(self._node[col.N_TIMER], self._node[col.N_NOW])
        if self._target.nacks:
            self._notify()

    def _notify(self) -> None:
        """Send the NACKs and READYs that wait."""
        for peer in list(self._target.nacks):
            self._send(peer, self._target.nack_frame(peer))

    def _examine_parked(self, peer: int, frame: Bytes, why: Refusal | None) -> None:
        """Software has decided on a parked request: execute it now, or refuse it."""
        core = self._core
        opened = open_frame(frame)
        if why is not None:
            self._target.end_parked(peer, opened.packets[0], why)
            return
        assert core.cursor[col.C_COUNT] < 0, "not in the middle of a frame"
        core.cursor[col.C_COUNT] = 1
        self._examine_readable(peer, _Entered(opened, stale=False))

    def _resolved(self, pdid: int, va: int, length: int) -> None:
        """Software has brought pages of a process."""
        self._core.tick()
        self._source.waiting.resolved(pdid, va, length)
        self._target.resolved(pdid, va, length)
        self._core.ask_turn()

    def _enter(self, peer: int, peer_index: int, frame: Bytes) -> _Entered | None:
        """Look at a frame's header; None for what is no frame, or comes from a past connection: dropped."""
        node, row = self._node, self._core.state.peers[peer]
        try:
            opened = open_frame(frame)
            header = opened.header
            if header["src_node"] != peer_index:
                raise FrameError(f"a frame of node {header['src_node']}, brought by node {peer_index}")
        except FrameError as error:
            node[col.K_BAD_FRAMES] += 1
            self._record(node[col.N_CLOCK], "bad_frame", peer=peer_index, reason=str(error))
            return None
        now = (int(header["src_incarnation"]), int(header["connection"]))
        seen = (int(row[col.P_SEEN_INCARNATION]), int(row[col.P_SEEN_CONNECTION]))
        if now < seen:
            node[col.K_STALE_FRAMES] += 1
            return None
        if now > seen:
            row[col.P_SEEN_INCARNATION], row[col.P_SEEN_CONNECTION] = now
            self._target.forget(peer)
        restarted = seen[0] > 0 and now[0] > seen[0] and now[0] > row[col.P_ROUTE_INCARNATION]
        stale = header["dst_node"] != self.index or header["dst_incarnation"] != self.incarnation
        if not stale:
            self._target.forget_below(peer, int(header["base"]))
        if node[col.N_VIRTUAL]:
            node[col.N_NOW] = max(node[col.N_NOW], int(header["time"]))
        self._cursor[col.C_COUNT] = len(opened.packets)
        node[col.N_CLOCK] = max(node[col.N_CLOCK], int(header["time"]))
        node[col.K_FRAMES_IN] += 1
        node[col.K_PACKETS_IN] += len(opened.packets)
        if restarted:  # before anything of this frame is answered: what waits to leave is for the last life
            self._forget(peer_index, peer, Status.PEER_LOST, "it has restarted")
        return _Entered(opened, bool(stale))

    def _examine(self, peer: int, entered: _Entered, reply: Bytes, stopped: Stopped | None) -> None:
        """The packet at C_PACKET, whatever it is."""
        number = self._cursor[col.C_PACKET]
        frame = entered.frame
        if self._target.trusted(peer, frame, number):
            if frame.packets[number]["op"] in _ANSWERS:
                if entered.stale:  # tokens of an earlier life may look like ours
                    self._node[col.K_LATE_ANSWERS] += 1
                else:
                    self._source.answers.answer_one(peer, frame, number, stopped)
            else:
                self._target.serve_one(peer, frame, number, entered.stale, reply, stopped)
        self._cursor[col.C_PACKET] = number + 1

    # ---- a shell that runs `receive` and `cut` by itself (`_fast_network`) ---------------------------------

    @property
    def direct(self) -> Core | None:
        """What compiled code of the shell may work on; None: this interface runs the readable paths."""
        return self._core if self._fast else None

    def go_on_receiving(self, peer_index: int, frame: Bytes, size: int) -> None:
        """`receive` has stopped at something unusual, with `size` bytes of reply: go on from there."""
        self._core.tick()
        self._examine_rest(self._core.peer_rows[peer_index], peer_index, frame, size)

    def go_on_cutting(self, size: int) -> None:
        """`cut` has stopped at something unusual: go on from there."""
        self._core.tick()
        self._cut_frame(size)

    def forward(self, peer: int, size: int) -> None:
        """The frame of `size` bytes in the scratch buffer is for the peer in row `peer`: send it."""
        self._send(peer, self._core.finished(self._core.scratch, size))

    # ---- timers -------------------------------------------------------------------------------------

    @property
    def timer_ps(self) -> int | None:
        """When `on_timer` is wanted, on the timer's clock; None: not at all."""
        return self._retransmit.due_ps

    def on_timer(self) -> None:
        """Do what is due by now; `pump` then sends it."""
        self._core.tick()
        self._retransmit.on_timer()
        self._internal.collect()

    @property
    def wake(self) -> Callable[[], object] | None:
        """Called when `pump` is wanted although nobody has called anything."""
        return self._core.wake

    @wake.setter
    def wake(self, fn: Callable[[], object] | None) -> None:
        self._core.wake = fn

    def set_network(self, links: np.ndarray, ways: Ways) -> None:
        """Send over these links (int64[n, LINK_COLS], shared with whoever uses them), by these paths."""
        self._core.set_links(links, ways)

    def set_pacing(self, lookahead_ps: int) -> None:
        """Cut nothing for a link that is booked further ahead than that; 0: always cut."""
        self._node[col.N_LOOKAHEAD] = lookahead_ps

    def cancel(self, wr_id: int) -> bool:
        """End a work request now, CANCELLED; False when it is not under way (any more)."""
        core = self._core
        core.tick()
        work = core.state.work
        found = np.flatnonzero(
            (work[:, col.W_STATE] != col.WORK_FREE)
            & (work[:, col.W_ORIGIN] <= 0)  # a COPY's WRITE is nobody's
            & (work[:, col.W_ID] == np.uint64(wr_id).view(np.int64))
        )
        for row in found.tolist():
            self._source.ends.end(row, Status.CANCELLED, self._node[col.N_HANDED])
        return len(found) > 0

    # ---- peers that are gone ------------------------------------------------------------------------------

    def connection_lost(self, peer_index: int, reason: str) -> None:
        """The transport's connection broke: what is unanswered is sent again over the next one."""
        row = self._core.peer_rows.get(peer_index)
        self._core.tick()
        if row is not None:
            self._record(self._node[col.N_CLOCK], "connection_lost", peer=peer_index, reason=reason)
            self._retransmit.connection_lost(row)

    def peer_lost(self, peer_index: int, reason: str) -> None:
        """As `FrameSink` calls it: the connection broke, which is not the peer's end."""
        self.connection_lost(peer_index, reason)

    def peer_gone(self, peer_index: int, reason: str) -> None:
        """The peer is no more. What was handed to the transport may have happened; the rest did not."""
        row = self._core.peer_rows.get(peer_index)
        self._core.tick()
        if row is not None:
            self._forget(peer_index, row, Status.PEER_LOST, reason)

    def _give_up(self, peer: int, reason: str) -> None:
        self._forget(self._core.peer_indices[peer], peer, Status.PEER_LOST, reason)

    def peer_unreachable(self, peer_index: int, reason: str) -> None:
        """There was no connection: nothing was sent, whatever the transport had been handed."""
        row = self._core.peer_rows.get(peer_index)
        self._core.tick()
        if row is not None:
            self._forget(peer_index, row, Status.PEER_UNREACHABLE, reason)

    def _forget(self, peer_index: int, row: int, status: Status, reason: str) -> None:
        """End a connection: nothing of it leaves any more, and everything that waits for it ends."""
        clock = self._node[col.N_CLOCK]
        self._record(clock, "peer", peer=peer_index, status=status.name, reason=reason)
        self._outbox = [entry for entry in self._outbox if entry[0] != peer_index]
        sent = status is Status.PEER_LOST
        self._source.ends.peer_lost(row, status, self._node[col.N_HANDED] if sent else -1)

    # ---- what comes out -----------------------------------------------------------------------------

    def take_frames(self) -> list[tuple[int, Bytes]]:
        """(peer index, frame) in order: from now on they count as sent."""
        frames = self._outbox
        if frames:
            self._outbox = []
            self._node[col.N_HANDED] = self._node[col.N_FRAMES]
            return frames
        return []

    def take_completions(self) -> npt.NDArray[np.void]:
        """COMPLETION rows since the last call."""
        self._internal.collect()
        n = self._node[col.N_DONE]
        if n == 0:
            return _NO_COMPLETIONS
        self._node[col.N_DONE] = 0
        return np.frombuffer(bytearray(self._core.state.done[:n].tobytes()), COMPLETION)

    @property
    def clock_ps(self) -> int:
        """Virtual time of this node, ps."""
        self._core.tick()
        return self._node[col.N_CLOCK]

    @property
    def idle(self) -> bool:
        """Nothing is queued, in flight, or waiting to be taken."""
        return not (self._node[col.N_WORK_LIVE] or self._node[col.N_DONE] or self._outbox or self._loop)

    def counters(self) -> dict[str, int]:
        """What was counted since the start, by name."""
        return {name: self._node[col.K_POSTED + i] for i, name in enumerate(COUNTERS)}
