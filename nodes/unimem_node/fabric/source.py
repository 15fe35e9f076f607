"""The initiating half of the network interface, readable: work requests out, answers in.

This is the specification of what `_fast_post`, `_fast_cut` and `_fast_answer` do for the common case, and
the only code for everything else: requests refused at the door, processes without a slot, refused
addresses, NACKs, lost peers. Both work on the same tables; a test runs every scenario with either.
"""

from __future__ import annotations

import numpy as np

from unimem.wire import Op, Side, Status
from unimem_node.dma._fast import ACCESS_READ
from unimem_node.mmu._fast import ACCESS_WRITE
from unimem_node.smmu.arrays import T_MEMORY_LATENCY, T_MEMORY_PER_KIB

from . import _fast_columns as col
from ._fast_frame import emit_request
from ._fast_tables import (
    answered,
    dequeue,
    find_flight,
    find_route,
    give_flight,
    next_block,
    settle,
    submit,
    take_work,
)
from .core import Bytes, Core, Refusal, Stopped
from .packets import ACK_RECORD, ATOMICS, NACK, RESPONSE, Frame, PacketOp, payload

_OPS = frozenset(Op)


class Source:
    """Work requests of the processes on this node."""

    def __init__(self, core: Core) -> None:
        self.core = core

    # ---- the doorbell -----------------------------------------------------------------------------------

    def accept_one(self, wr: np.void) -> None:
        """Check one work request and queue it, or complete it with what is wrong with it."""
        core = self.core
        op, length = int(wr["op"]), int(wr["length"])
        if op in ATOMICS:
            length = length or 8
        remote, local = int(wr["dst"]), int(wr["src"])
        if op == Op.READ:
            remote, local = local, remote
        route = find_route(core.state, remote) if remote < 1 << 63 else -1
        status = self._refused_at_the_door(op, length, local, remote, int(route))
        peer = -1 if status else core.peer_row(int(core.state.routes[route, col.R_INDEX]))
        work = take_work(core.state)
        row = core.state.work[work]
        row[: col.W_STATUS + 1] = 0
        row[col.W_ID] = wr["wr_id"].view(np.int64)
        row[col.W_OP], row[col.W_FLAGS], row[col.W_PDID] = op, wr["flags"], wr["pdid"]
        row[col.W_LENGTH] = wr["length"].view(np.int64) if status else length
        row[col.W_LOCAL], row[col.W_REMOTE] = np.array([local, remote], np.uint64).view(np.int64)
        row[col.W_OPERAND] = wr["operand"].view(np.int64)
        row[col.W_COMPARE] = wr["compare"].view(np.int64)
        row[col.W_POSTED] = core.node[col.N_CLOCK]
        row[col.W_PEER] = peer
        core.node[col.K_POSTED] += 1
        if status:
            core.blame(work, Refusal(status, iova=int(row[col.W_REMOTE])), core.index)
            core.end_now(work, 0)
        else:
            submit(core.state, work)

    def _refused_at_the_door(self, op: int, length: int, local: int, remote: int, route: int) -> Status:
        if not self.core.node[col.N_ENABLED]:
            return Status.ACCESS_DENIED
        if op not in _OPS or length <= 0 or length > col.LOCAL_LIMIT:
            return Status.MALFORMED
        if op in ATOMICS:
            if length != 8:
                return Status.MALFORMED
            if remote % 8:
                return Status.MISALIGNED
        elif local + length > col.LOCAL_LIMIT:
            return Status.MALFORMED
        routes = self.core.state.routes
        if route < 0 or remote + length > routes[route, col.R_END]:
            return Status.NO_ROUTE  # nobody's, or across the end of a node's window
        state = int(routes[route, col.R_STATE])
        if state == col.NODE_LOST:
            return Status.PEER_UNREACHABLE
        return Status.OK if state == col.NODE_UP else Status.NO_ROUTE

    # ---- cutting ----------------------------------------------------------------------------------------

    def cut_one(self, peer: int, buffer: Bytes, stopped: Stopped | None = None) -> bool:
        """Put the next block for `peer` into the frame under construction; False when none fits or may leave.

        A work request whose source is refused leaves the queue instead; that is progress too.
        """
        core, cursor, node = self.core, self.core.cursor, self.core.node
        n = int(next_block(core.state, peer))
        if n == 0 or cursor[col.C_USED] == cursor[col.C_SLOTS]:
            return False
        work = int(core.state.peers[peer, col.P_HEAD])
        row = core.state.work[work]
        start = max(
            int(row[col.W_POSTED]) + node[col.N_ISSUE_PS],
            node[col.N_SOURCE_FREE],
            node[col.N_CLOCK],
        )
        ready = start
        if row[col.W_OP] == Op.WRITE:
            at = cursor[col.C_PAYLOAD]
            if at + n > cursor[col.C_ROOM]:
                return False
            slot = stopped.slot if stopped else core.slot_of(int(row[col.W_PDID]))
            if isinstance(slot, Status):
                self._give_up(peer, work, Refusal(slot, iova=int(row[col.W_LOCAL])), start)
                return True
            va = int(row[col.W_LOCAL] + row[col.W_CUT])
            moved = core.move(slot, ACCESS_READ, va, buffer[at : at + n], stopped)
            if moved.refusal is not None:
                row[col.W_TRANSLATE] += moved.cost_ps
                self._give_up(peer, work, moved.refusal, start + moved.cost_ps)
                return True
            memory = self._memory_ps(n)
            row[col.W_TRANSLATE] += moved.cost_ps
            row[col.W_MEMORY] += memory
            ready = start + moved.cost_ps + memory
        node[col.N_SOURCE_FREE] = ready
        emit_request(core.state, buffer, peer, n, start, ready)
        return True

    def _give_up(self, peer: int, work: int, refusal: Refusal, time_ps: int) -> None:
        """The rest of a work request is not sent; it ends when what was sent is answered."""
        core = self.core
        row = core.state.work[work]
        core.blame(work, refusal, core.index)
        core.node[col.N_SOURCE_FREE] = max(core.node[col.N_SOURCE_FREE], time_ps)
        if row[col.W_CUT] == 0:
            row[col.W_ISSUE] = time_ps - row[col.W_POSTED] - row[col.W_TRANSLATE]
        if time_ps > row[col.W_DONE]:
            row[col.W_DONE] = time_ps
            spent = row[col.W_ISSUE] + row[col.W_TRANSLATE] + row[col.W_MEMORY]
            row[col.W_PARTS : col.W_PARTS + col.PARTS] = 0
            row[col.W_PARTS : col.W_PARTS + col.PART_WIRE] = (
                row[col.W_ISSUE],
                row[col.W_TRANSLATE],
                row[col.W_MEMORY],
                time_ps - row[col.W_POSTED] - spent,
            )
        dequeue(core.state, peer)
        if row[col.W_PENDING] == 0:
            core.end_now(work, 0)

    def _memory_ps(self, n: int) -> int:
        timing = self.core.arrays.timing
        return int(timing[T_MEMORY_LATENCY]) + (n * int(timing[T_MEMORY_PER_KIB]) >> 10)

    # ---- answers ----------------------------------------------------------------------------------------

    def answer_one(self, peer: int, frame: Frame, number: int, stopped: Stopped | None = None) -> None:
        """Settle what a checked ACK, RESPONSE or NACK packet answers."""
        packet = frame.packets[number]
        if packet["op"] == PacketOp.ACK:
            self._acknowledged(peer, payload(frame, packet))
        elif packet["op"] == PacketOp.NACK:
            self._refused(peer, packet.view(NACK))
        else:
            self._responded(peer, packet.view(RESPONSE), payload(frame, packet), stopped)

    def _late(self) -> None:
        """An answer to nothing that is in flight, or one that cannot be right: counted, otherwise ignored."""
        self.core.node[col.K_LATE_ANSWERS] += 1

    def _in_flight(self, peer: int, token: int) -> int:
        return int(find_flight(self.core.state, peer, token)) if token < 1 << 63 else -1

    def _acknowledged(self, peer: int, body: Bytes) -> None:
        state = self.core.state
        if len(body) == 0 or len(body) % ACK_RECORD.itemsize:
            self._late()
            return
        for record in body.view(ACK_RECORD):
            row = self._in_flight(peer, int(record["token"]))
            if row < 0 or state.flight[row, col.F_OP] != Op.WRITE:
                self._late()
                continue
            state.work[state.flight[row, col.F_WORK], col.W_TOUCHED] = 1
            times = (_believable(record["time"]), _believable(record["wait"]))
            answered(state, row, *times, int(record["translate"]), int(record["memory"]), 0, 0)
            settle(state, row, int(state.flight[row, col.F_LENGTH]))

    def _responded(self, peer: int, packet: np.void, body: Bytes, stopped: Stopped | None) -> None:
        core, state = self.core, self.core.state
        row = self._in_flight(peer, int(packet["token"]))
        if row < 0 or state.flight[row, col.F_SEQ] != packet["seq"]:
            self._late()
            return
        op, length = int(state.flight[row, col.F_OP]), int(state.flight[row, col.F_LENGTH])
        work = int(state.flight[row, col.F_WORK])
        time, wait = _believable(packet["time"]), _believable(packet["wait"])
        spent = (int(packet["translate"]), int(packet["memory"]))
        if op == Op.WRITE or len(body) != (length if op == Op.READ else 0):
            self._late()
            return
        if op == Op.READ:
            slot = stopped.slot if stopped else core.slot_of(int(state.work[work, col.W_PDID]))
            va = int(state.work[work, col.W_LOCAL] + state.flight[row, col.F_OFFSET])
            start = max(time, core.node[col.N_TARGET_FREE])
            if isinstance(slot, Status):
                self._failed(row, Refusal(slot, iova=va), core.index, start)
                return
            moved = core.move(slot, ACCESS_WRITE, va, body, stopped)
            core.node[col.N_TARGET_FREE] = start + moved.cost_ps
            if moved.refusal is not None:
                self._failed(row, moved.refusal, core.index, start + moved.cost_ps)
                return
            memory = self._memory_ps(length)
            core.node[col.N_TARGET_FREE] += memory
            answered(state, row, start + moved.cost_ps + memory, wait, *spent, moved.cost_ps, memory)
        else:
            state.work[work, col.W_VALUE] = packet["value"].view(np.int64)
            state.work[work, col.W_TOUCHED] = 1
            answered(state, row, time, wait, *spent, 0, 0)
        settle(state, row, length)

    def _refused(self, peer: int, nack: np.void) -> None:
        """A NACK. Of a sequence gap: everything from the missing packet on is refused with it.

        Its numbers are not used again on this connection, for a copy of an old packet would then be executed.
        """
        core, state = self.core, self.core.state
        status = Status(int(nack["status"])) if int(nack["status"]) in _STATUSES else Status.MALFORMED
        row = self._in_flight(peer, int(nack["token"]))
        if row < 0 or state.flight[row, col.F_SEQ] != nack["seq"]:
            row = self._damaged(peer, nack) if status is Status.BAD_CRC else -1
        if row < 0:
            self._late()
            return
        core.node[col.K_REFUSALS] += 1
        index, time = int(state.peers[peer, col.P_INDEX]), _believable(nack["time"])
        refusal = Refusal(
            status,
            Side.TARGET,
            int(nack["stage"]),
            int(nack["level_access"]) >> 4,
            int(nack["level_access"]) & 1,
            int(nack["iova"].view(np.int64)),
            int(nack["stream_id"]),
            int(nack["context_bank"]),
            int(nack["fsr"]),
            int(nack["fsynr0"]),
            int(nack["length"]),
        )
        if status is not Status.SEQUENCE_GAP:
            self._failed(row, refusal, index, time)
            return
        for other in self._flying(peer):
            since = int(state.flight[other, col.F_SEQ]) - int(nack["expected"])
            if other == row or since & col.SEQ_MASK < 1 << 31:
                self._failed(other, refusal, index, time)
        self._reconnect(peer)

    def _damaged(self, peer: int, nack: np.void) -> int:
        """The packet that arrived damaged, token and all: by its number, on the connection that is named."""
        if nack["expected"] != self.core.state.peers[peer, col.P_CONNECTION]:
            return -1
        return next(
            (r for r in self._flying(peer) if self.core.state.flight[r, col.F_SEQ] == nack["seq"]), -1
        )

    def _reconnect(self, peer: int) -> None:
        """Begin a new connection: whatever of the old one still arrives is dropped by its number."""
        row = self.core.state.peers[peer]
        row[col.P_CONNECTION] += 1
        row[col.P_SEQ] = 0

    def _flying(self, peer: int) -> list[int]:
        """Rows in flight to a peer, in the order in which they were sent."""
        flight = self.core.state.flight
        rows = np.flatnonzero((flight[:, col.F_LIVE] == 1) & (flight[:, col.F_PEER] == peer))
        sent = (flight[rows, col.F_SEQ] - self.core.state.peers[peer, col.P_SEQ]) & col.SEQ_MASK
        return [int(row) for row in rows[np.argsort(sent, kind="stable")]]

    def _failed(self, row: int, refusal: Refusal, node: int, time_ps: int) -> None:
        """One packet came to nothing, or not to all: blame its work request and settle the packet.

        Of a refused request the target tells no parts: what lies between its arrival and the answer's
        departure is counted as translation.
        """
        core, state = self.core, self.core.state
        flight = state.flight[row]
        work = int(flight[col.F_WORK])
        core.blame(work, refusal, node)
        if refusal.written:
            state.work[work, col.W_TOUCHED] = 1
        latency = int(state.peers[flight[col.F_PEER], col.P_LATENCY])
        translate = max(time_ps - latency - int(flight[col.F_ARRIVAL]), 0)
        answered(state, row, time_ps, 0, translate, 0, 0, 0)
        self._drop_rest(work)
        settle(state, row, 0)

    def _drop_rest(self, work: int) -> None:
        """Send no more of a failed work request."""
        state = self.core.state
        if state.work[work, col.W_STATE] != col.WORK_QUEUED:
            return
        peer = int(state.work[work, col.W_PEER])
        assert state.peers[peer, col.P_HEAD] == work, "only the head of a queue has blocks in flight"
        dequeue(state, peer)

    # ---- peers that are gone ------------------------------------------------------------------------------

    def peer_lost(self, peer: int, status: Status, handed: int) -> None:
        """Fail everything that is in flight to a peer or queued for it; the connection begins anew.

        A packet in one of the frames up to number `handed`, which the transport has been given, may or may
        not have been executed.
        """
        core, state = self.core, self.core.state
        index, now = int(state.peers[peer, col.P_INDEX]), core.node[col.N_CLOCK]
        refusal = Refusal(status, Side.NONE)
        for row in self._flying(peer):
            flight = state.flight[row]
            work = int(flight[col.F_WORK])
            if flight[col.F_FRAME] <= handed:
                state.work[work, col.W_TOUCHED] = 1
                core.node[col.K_LOST] += 1
            core.blame(work, refusal, index)
            self._drop_rest(work)
            state.work[work, col.W_PENDING] -= 1
            give_flight(state, row)
            if state.work[work, col.W_PENDING] == 0:
                core.end_now(work, now)
        while (work := int(state.peers[peer, col.P_HEAD])) >= 0:
            core.blame(work, refusal, index)
            dequeue(state, peer)
            core.end_now(work, now)
        self._reconnect(peer)


_STATUSES = frozenset(int(status) for status in Status if status)


def _believable(time: np.generic) -> int:
    """A time that a peer sent, or 0 when it cannot be one."""
    value = int(time.item())
    return value if value < col.TIME_LIMIT else 0
