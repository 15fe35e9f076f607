"""The initiating half of the network interface, readable: work requests out, answers in.

This is the specification of what `_fast_post`, `_fast_cut` and `_fast_answer` do for the common case, and
the only code for everything else: requests refused at the door, processes without a slot, refused
addresses, NACKs, lost peers. Both work on the same tables; a test runs every scenario with either.
"""

from __future__ import annotations

from typing import Final

import numpy as np

from unimem.wire import Op, Side, Status, WorkFlags
from unimem_node.dma._fast import ACCESS_READ
from unimem_node.mmu._fast import ACCESS_WRITE
from unimem_node.smmu.arrays import T_MEMORY_LATENCY, T_MEMORY_PER_KIB

from . import _fast_columns as col
from . import mailbox
from ._fast_frame import emit_packet, take_block
from ._fast_tables import (
    acknowledged,
    answered,
    dequeue,
    enqueue_early,
    find_flight,
    find_route,
    gathers,
    give_flight,
    next_block,
    release,
    settle,
    submit,
    take_work,
    unhold,
    unlink,
    unqueue,
    word_from,
)
from .core import Bytes, Core, Moved, Refusal, Stopped
from .internal import Internal
from .packets import ACK_RECORD, ATOMICS, NACK, RESPONSE, Frame, PacketOp, payload
from .signals import Signals

#: log2 of the longest wait for word of a page, in `fault_retry_ps`.
_LONGEST_WAIT: Final = 6

_OPS = frozenset(Op)


class Source:
    """Work requests of the processes on this node."""

    def __init__(self, core: Core, internal: Internal) -> None:
        self.core = core
        self.signals = Signals(core, self, internal)
        core.withdraw = lambda work: self.end(work, Status.CANCELLED, core.node[col.N_HANDED])
        self.here: dict[
            int, tuple[int, int, int, int]
        ] = {}  # by token: row, PDID, address, when to try anyway
        self.away: dict[int, tuple[int, int]] = {}  # by token: row, when to try anyway
        self.rounds: dict[int, tuple[tuple[int, int], int]] = {}  # by row: (token, address), faults there

    # ---- the doorbell -----------------------------------------------------------------------------------

    def accept_one(self, wr: np.void, origin: int = 0, refused: Status = Status.OK) -> int:
        """Check one work request and queue it: its row; -1 when it is complete, with what is wrong with it.

        `origin`: the serial number of one that the interface posts itself. `refused`: what is wrong with it.
        """
        if not origin and wr["flags"] & WorkFlags.SIGNAL:
            self.signals.accept(wr)
            return -1
        core = self.core
        op, length = int(wr["op"]), int(wr["length"])
        if op in ATOMICS:
            length = length or 8
        remote, local = int(wr["dst"]), int(wr["src"])
        if op in (Op.READ, Op.COPY):
            remote, local = local, remote
        route = find_route(core.state, remote) if remote < 1 << 63 else -1
        status = refused or self._refused_at_the_door(op, length, local, remote, int(route))
        peer = -1 if status else core.peer_row(int(core.state.routes[route, col.R_INDEX]))
        work = take_work(core.state)
        row = core.state.work[work]
        row[: col.W_STATUS + 1] = 0
        row[col.W_DEADLINE : col.W_SIGNAL + 1] = 0
        row[col.W_ORIGIN] = origin
        row[col.W_ID] = wr["wr_id"].view(np.int64)
        row[col.W_OP], row[col.W_FLAGS], row[col.W_PDID] = op, wr["flags"], wr["pdid"]
        row[col.W_LENGTH] = wr["length"].view(np.int64) if status else length
        row[col.W_LOCAL], row[col.W_REMOTE] = np.array([local, remote], np.uint64).view(np.int64)
        row[col.W_OPERAND] = wr["dst" if op == Op.COPY else "operand"].view(np.int64)
        row[col.W_COMPARE] = wr["compare"].view(np.int64)
        row[col.W_POSTED] = core.node[col.N_CLOCK]
        if wr["deadline_us"]:
            row[col.W_DEADLINE] = core.node[col.N_NOW] + int(wr["deadline_us"]) * 1_000_000
            core.node[col.N_DEADLINE] = min(core.node[col.N_DEADLINE], int(row[col.W_DEADLINE]))
        row[col.W_PEER] = peer
        core.node[col.K_POSTED] += 1
        if status:
            core.blame(work, Refusal(status, iova=int(row[col.W_REMOTE])), core.index)
            core.end_now(work, 0)
            return -1
        if origin > 0:  # nobody's: a fence may be waiting for what it is a part of
            enqueue_early(core.state, work)
        else:
            submit(core.state, work)
        return int(work)

    def _refused_at_the_door(self, op: int, length: int, local: int, remote: int, route: int) -> Status:
        if not self.core.node[col.N_ENABLED]:
            return Status.ACCESS_DENIED
        if op not in _OPS or length <= 0 or length > col.LOCAL_LIMIT:
            return Status.MALFORMED
        if op in ATOMICS:
            if length not in (4, 8):
                return Status.MALFORMED
            if remote % length:
                return Status.MISALIGNED
        elif op == Op.SEND and (status := mailbox.refused_at_the_door(remote, length)):
            return status
        elif op == Op.COPY and not self.same_window(local, length, local):
            return Status.NO_ROUTE  # whether that node is there finds out the one that writes
        elif local + length > col.LOCAL_LIMIT:
            return Status.MALFORMED
        routes = self.core.state.routes
        if route < 0 or remote + length > routes[route, col.R_END]:
            return Status.NO_ROUTE  # nobody's, or across the end of a node's window
        state = int(routes[route, col.R_STATE])
        if state == col.NODE_LOST:
            return Status.PEER_UNREACHABLE
        return Status.OK if state == col.NODE_UP else Status.NO_ROUTE

    def same_window(self, address: int, n: int, other: int) -> bool:
        """Whether `n` bytes at `address` lie in the window of the node that owns the address `other`."""
        state = self.core.state
        if address >= 1 << 63 or other >= 1 << 63:
            return False
        route = int(find_route(state, address))
        return (
            route >= 0 and address + n <= state.routes[route, col.R_END] and route == find_route(state, other)
        )

    # ---- cutting ----------------------------------------------------------------------------------------

    def cut_one(self, peer: int, buffer: Bytes, stopped: Stopped | None = None) -> bool:
        """Put the next block for `peer` into the frame under construction; False when none fits or may leave.

        A block whose page at home is not there yet becomes a row of `flight` without a packet, and a work
        request whose source is refused leaves the queue: that is progress too.
        """
        core, cursor = self.core, self.core.cursor
        n = int(next_block(core.state, peer))
        if n == 0 or cursor[col.C_USED] == cursor[col.C_SLOTS]:
            return False
        work = int(core.state.peers[peer, col.P_HEAD])
        row = core.state.work[work]
        start = self._start(int(row[col.W_POSTED]))
        carried = n if gathers(row[col.W_OP]) else 0
        if cursor[col.C_PAYLOAD] + carried > cursor[col.C_ROOM]:
            return False
        if not carried:
            flight = int(take_block(core.state, peer, n, start))
            core.node[col.N_SOURCE_FREE] = start
            emit_packet(core.state, buffer, flight, 0, start)
            return True
        va = int(row[col.W_LOCAL] + row[col.W_CUT])
        refusal, slot, ready = self._gather(work, va, n, buffer, start, stopped)
        if refusal is None or self._waits(refusal):
            # A block that waits takes none of the frame's slots: there may be more of them than it has.
            slots = cursor[col.C_SLOTS] - cursor[col.C_USED]
            core.room_for_flight(core.node[col.N_FLIGHT_LIVE] + 1 + slots)
            flight = int(take_block(core.state, peer, n, start))
            core.node[col.N_SOURCE_FREE] = ready
            if refusal is None:
                emit_packet(core.state, buffer, flight, n, ready)
            else:
                self.wait_here(flight, refusal, slot)
        else:
            self._give_up(peer, work, refusal, ready)
        return True

    def cut_again(self, row: int, buffer: Bytes) -> bool:
        """Put a packet that may be lost into the frame under construction once more; False: no room."""
        core, cursor, flight = self.core, self.core.cursor, self.core.state.flight[row]
        n, work = int(flight[col.F_LENGTH]), int(flight[col.F_WORK])
        carried = n if gathers(flight[col.F_OP]) else 0
        if cursor[col.C_USED] == cursor[col.C_SLOTS] or cursor[col.C_PAYLOAD] + carried > cursor[col.C_ROOM]:
            return False
        peer = int(flight[col.F_PEER])
        core.state.peers[peer, col.P_AGAIN] -= 1
        flight[col.F_STATE] = col.HERE
        start = self._start(int(core.state.work[work, col.W_POSTED]))
        if not carried:
            emit_packet(core.state, buffer, row, 0, start)
        else:
            va = int(core.state.work[work, col.W_LOCAL] + flight[col.F_OFFSET])
            refusal, slot, ready = self._gather(work, va, n, buffer, start, None)
            core.node[col.N_SOURCE_FREE] = ready
            if refusal is None:
                emit_packet(core.state, buffer, row, n, ready)
            elif self._waits(refusal):
                self.wait_here(row, refusal, slot)
            else:
                self._failed(row, refusal, core.index, ready)
                return True
        if flight[col.F_SENDS] > 1:
            core.node[col.K_RESENT] += 1
        return True

    def _start(self, posted: int) -> int:
        """When the source engine can begin with a block."""
        node = self.core.node
        return max(posted + node[col.N_ISSUE_PS], node[col.N_SOURCE_FREE], node[col.N_CLOCK])

    def _gather(
        self, work: int, va: int, n: int, buffer: Bytes, start: int, stopped: Stopped | None
    ) -> tuple[Refusal | None, int, int]:
        """Read a block to C_PAYLOAD: (why not, PD slot, when that was done). Its costs are the request's."""
        core, row = self.core, self.core.state.work[work]
        slot = stopped.slot if stopped else core.slot_of(int(row[col.W_PDID]))
        if isinstance(slot, Status):
            return Refusal(slot, iova=va), -1, start
        at = core.cursor[col.C_PAYLOAD]
        moved = core.move(slot, ACCESS_READ, va, buffer[at : at + n], stopped)
        row[col.W_TRANSLATE] += moved.cost_ps
        if moved.refusal is not None:
            return moved.refusal, slot, start + moved.cost_ps
        memory = self._memory_ps(n)
        row[col.W_MEMORY] += memory
        return None, slot, start + moved.cost_ps + memory

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

    # ---- packets that wait for a page ---------------------------------------------------------------------

    @staticmethod
    def _waits(refusal: Refusal) -> bool:
        """Whether a refused access at home may be tried again later."""
        return refusal.hold is not None or refusal.status in (Status.PAGE_PENDING, Status.BANK_BLOCKED)

    def wait_here(self, row: int, refusal: Refusal, slot: int) -> None:
        """A packet whose page at home is not there: send it, or ask again, when it is."""
        core, flight = self.core, self.core.state.flight[row]
        core.node[col.K_DEFERRED] += 1
        flight[col.F_STATE] = col.HERE
        token = int(flight[col.F_TOKEN])
        if refusal.status == Status.PAGE_PENDING and self._rounds(row, refusal.iova):
            self._unresolved(row, refusal)
        elif refusal.status == Status.PAGE_PENDING:
            pdid = int(core.state.work[flight[col.F_WORK], col.W_PDID])
            due = core.node[col.N_NOW] + self._patience_ps(row)
            self.here[token] = (row, pdid, refusal.iova, due)
            core.alarm(due)
        else:
            core.wait_for_bank(refusal, slot, lambda retry: self._resumed(row, token, refusal, retry))

    def _resumed(self, row: int, token: int, refusal: Refusal, retry: bool) -> None:
        """Software has decided on a stalled access of ours."""
        core, flight = self.core, self.core.state.flight[row]
        if flight[col.F_TOKEN] != token or not flight[col.F_LIVE] or flight[col.F_STATE] != col.HERE:
            return
        core.tick()
        if retry:
            core.send_again(row)
        else:
            self._failed(row, refusal._replace(hold=None), core.index, core.node[col.N_CLOCK])
        core.ask_turn()

    def resolved(self, pdid: int, va: int, length: int) -> None:
        """Pages of a process are there: what waits for them here is sent."""
        for token, (row, owner, page, _) in list(self.here.items()):
            if owner == pdid and va <= page < va + length:
                del self.here[token]
                self._retry(row, token, col.HERE)

    def _retry(self, row: int, token: int, state: int) -> None:
        flight = self.core.state.flight[row]
        if flight[col.F_LIVE] and flight[col.F_TOKEN] == token and flight[col.F_STATE] == state:
            self.core.send_again(row)

    def retry_overdue(self, now: int) -> None:
        """Nobody has said that a page is there: try all the same. Sets the next alarm."""
        flights = self.core.state.flight
        self.rounds = {
            row: (key, count)
            for row, (key, count) in self.rounds.items()
            if flights[row, col.F_TOKEN] == key[0]
        }
        for table, state in ((self.here, col.HERE), (self.away, col.AWAY)):
            for token, entry in list(table.items()):
                if entry[-1] <= now:
                    del table[token]
                    self._retry(entry[0], token, state)
                else:
                    self.core.alarm(entry[-1])

    def _rounds(self, row: int, iova: int) -> bool:
        """Count another fault at one address; True when that is too often."""
        flight = self.core.state.flight[row]
        token = int(flight[col.F_TOKEN])
        before, count = self.rounds.get(row, (None, 0))
        count = count + 1 if before == (token, iova) else 1
        self.rounds[row] = ((token, iova), count)
        return count > self.core.spec.fault_rounds

    def _patience_ps(self, row: int) -> int:
        """How long to wait for word of a page: longer each time, for a kernel may have hundreds to bring."""
        (token, _), count = self.rounds.get(row, ((-1, 0), 1))
        again = count - 1 if token == self.core.state.flight[row, col.F_TOKEN] else 0
        return self.core.spec.fault_retry_ps << min(again, _LONGEST_WAIT)

    def _unresolved(self, row: int, refusal: Refusal) -> None:
        """A page fault was handled again and again and stays: end it, loudly."""
        core = self.core
        work = int(core.state.flight[row, col.F_WORK])
        if core.state.flight[row, col.F_SENDS]:
            core.state.work[work, col.W_TOUCHED] = 1
        final = refusal._replace(status=Status.UNRESOLVED_FAULT, hold=None)
        node = (
            core.index
            if refusal.side == Side.SOURCE
            else int(core.state.peers[core.state.flight[row, col.F_PEER], col.P_INDEX])
        )
        core.record(core.node[col.N_CLOCK], "no_progress", iova=refusal.iova, rounds=core.spec.fault_rounds)
        self._failed(row, final, node, core.node[col.N_CLOCK])

    # ---- answers ----------------------------------------------------------------------------------------

    def answer_one(self, peer: int, frame: Frame, number: int, stopped: Stopped | None = None) -> None:
        """Settle what a checked ACK, RESPONSE, NACK or READY packet answers."""
        packet = frame.packets[number]
        op = packet["op"]
        if op == PacketOp.ACK:
            self._acknowledged(peer, packet, payload(frame, packet))
        elif op == PacketOp.NACK:
            self._refused(peer, packet.view(NACK))
        elif op == PacketOp.READY:
            self._ready(peer, packet.view(NACK))
        else:
            self._responded(peer, packet.view(RESPONSE), payload(frame, packet), stopped)

    def _late(self) -> None:
        """An answer to nothing that is in flight, or one that cannot be right: counted, otherwise ignored."""
        self.core.node[col.K_LATE_ANSWERS] += 1

    def _in_flight(self, peer: int, token: int) -> int:
        return int(find_flight(self.core.state, peer, token)) if token < 1 << 63 else -1

    def _acknowledged(self, peer: int, packet: np.void, body: Bytes) -> None:
        state = self.core.state
        if len(body) == 0 or len(body) % ACK_RECORD.itemsize:
            self._late()
            return
        state.peers[peer, col.P_CREDIT] = max(int(packet["operand"].view(np.int64)), 1)
        for record in body.view(ACK_RECORD):
            row = self._in_flight(peer, int(record["token"]))
            if row < 0 or not acknowledged(state.flight[row, col.F_OP]):
                self._late()
                continue
            state.work[state.flight[row, col.F_WORK], col.W_TOUCHED] = 1
            self._word_from(row)
            times = (_believable(record["time"]), _believable(record["wait"]))
            answered(state, row, *times, int(record["translate"]), int(record["memory"]), 0, 0)
            settle(state, row, int(state.flight[row, col.F_LENGTH]))

    def _word_from(self, row: int) -> None:
        if self.core.node[col.N_CHECKS]:
            word_from(self.core.state, row)

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
        if acknowledged(op) or len(body) != (length if op == Op.READ else 0):
            self._late()
            return
        self._word_from(row)
        if op == Op.READ:
            if (
                state.flight[row, col.F_STATE] == col.HERE
            ):  # its page is not there yet: it is asked again then
                return
            slot = stopped.slot if stopped else core.slot_of(int(state.work[work, col.W_PDID]))
            va = int(state.work[work, col.W_LOCAL] + state.flight[row, col.F_OFFSET])
            start = max(time, core.node[col.N_TARGET_FREE])
            moved = (
                Moved(0, 0, Refusal(slot, iova=va))
                if isinstance(slot, Status)
                else core.move(slot, ACCESS_WRITE, va, body, stopped)
            )
            core.node[col.N_TARGET_FREE] = start + moved.cost_ps
            if moved.refusal is not None:
                if self._waits(moved.refusal):
                    self._ground(row)
                    self.wait_here(row, moved.refusal, -1 if isinstance(slot, Status) else slot)
                else:
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

    def _ground(self, row: int) -> None:
        """A packet is not under way any more, and not to be sent again before something happens."""
        flight = self.core.state.flight[row]
        if flight[col.F_STATE] == col.FLYING and self.core.node[col.N_CHECKS]:
            unlink(self.core.state, row)
        elif flight[col.F_STATE] == col.AGAIN:
            self.core.state.peers[flight[col.F_PEER], col.P_AGAIN] -= 1

    def _refused(self, peer: int, nack: np.void) -> None:
        """A NACK: final, or for now."""
        core, state = self.core, self.core.state
        status = Status(int(nack["status"])) if int(nack["status"]) in _STATUSES else Status.MALFORMED
        row = self._in_flight(peer, int(nack["token"]))
        if status is Status.BAD_CRC:
            self._damaged(peer, row, nack)
            return
        if row < 0 or state.flight[row, col.F_SEQ] != nack["seq"]:
            self._late()
            return
        self._word_from(row)
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
        if status in (Status.PAGE_PENDING, Status.OUT_OF_ORDER):
            self._come_again(row, refusal)
            return
        core.node[col.K_REFUSALS] += 1
        if nack["expected"] and state.flight[row, col.F_OP] == Op.COPY:  # which node refused
            index = int(nack["expected"]) - 1
        if status is Status.STALE_ROUTE and nack["expected"] == 0 and state.flight[row, col.F_SENDS] > 1:
            state.work[state.flight[row, col.F_WORK], col.W_TOUCHED] = 1  # an earlier life may have done it
        self._failed(row, refusal, index, time)

    def _come_again(self, row: int, refusal: Refusal) -> None:
        """The target cannot execute a packet yet."""
        core, flight = self.core, self.core.state.flight[row]
        if flight[col.F_STATE] == col.AWAY:
            return
        self._ground(row)
        flight[col.F_STATE] = col.AWAY
        if refusal.written:
            core.state.work[flight[col.F_WORK], col.W_TOUCHED] = 1
        pending = refusal.status is Status.PAGE_PENDING
        if pending and self._rounds(row, refusal.iova):
            self._unresolved(row, refusal)
            return
        # The target tells when a page is there, or a COPY over. For the rest, ask less and less often.
        wait = self._patience_ps(row)
        if not pending and (flight[col.F_FLAGS] & col.ORDERED or flight[col.F_OP] != Op.COPY):
            wait = min(core.spec.order_retry_ps << min(int(flight[col.F_ROUNDS]), 16), wait)
            flight[col.F_ROUNDS] += 1
        due = core.node[col.N_NOW] + wait
        self.away[int(flight[col.F_TOKEN])] = (row, due)
        core.alarm(due)

    def _ready(self, peer: int, packet: np.void) -> None:
        """The page a packet waits for is there."""
        token = int(packet["token"])
        row = self._in_flight(peer, token)
        if row < 0 or self.core.state.flight[row, col.F_SEQ] != packet["seq"]:
            self._late()
        elif self.away.pop(token, None) is not None:
            self._retry(row, token, col.AWAY)

    def _damaged(self, peer: int, row: int, nack: np.void) -> None:
        """A packet arrived damaged: send it again at once, if what is left of it tells which it was.

        `row`: the packet of its token. That may be what was damaged: then the number on the connection named.
        """
        core, flight = self.core, self.core.state.flight
        if row < 0 and nack["expected"] == core.state.peers[peer, col.P_CONNECTION]:
            row = next((r for r in self.flying(peer) if flight[r, col.F_SEQ] == nack["seq"]), -1)
        if row < 0:
            self._late()
        elif flight[row, col.F_STATE] == col.FLYING:
            self._ground(row)
            core.send_again(row)

    def reconnect(self, peer: int) -> None:
        """Begin a new connection: whatever of the old one still arrives is dropped by its number."""
        state = self.core.state
        self.core.again.pop(peer, None)
        row = state.peers[peer]
        row[col.P_CONNECTION] += 1
        row[[col.P_SEQ, col.P_BASE, col.P_SETTLED, col.P_TIMEOUTS, col.P_CREDIT, col.P_RACK, col.P_SRTT]] = 0
        row[col.P_RTO] = self.core.spec.rto_first_ps
        row[col.P_VALUES : col.P_VALUES + col.VALUE_WORDS] = 0
        state.settled[peer] = 0

    def flying(self, peer: int) -> list[int]:
        """Rows that wait for an answer of a peer, by seq."""
        flight = self.core.state.flight
        rows = np.flatnonzero((flight[:, col.F_LIVE] == 1) & (flight[:, col.F_PEER] == peer))
        since = (flight[rows, col.F_SEQ] - self.core.state.peers[peer, col.P_BASE]) & col.SEQ_MASK
        return [int(row) for row in rows[np.argsort(since, kind="stable")]]

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
        if flight[col.F_SENDS]:
            latency = int(state.peers[flight[col.F_PEER], col.P_LATENCY])
            translate = max(time_ps - latency - int(flight[col.F_ARRIVAL]), 0)
            answered(state, row, time_ps, 0, translate, 0, 0, 0)
        self.drop_rest(work)
        settle(state, row, 0)

    def drop_rest(self, work: int) -> None:
        """Send no more of a failed work request."""
        state = self.core.state
        if state.work[work, col.W_STATE] != col.WORK_QUEUED:
            return
        unqueue(state, work)

    # ---- the end ------------------------------------------------------------------------------------------

    def end(self, work: int, status: Status, handed: int) -> None:
        """End a work request before its time; what was sent of it may or may not be executed."""
        core, state = self.core, self.core.state
        row = state.work[work]
        if row[col.W_STATE] == col.WORK_FREE:  # it has ended with its data
            return
        core.blame(work, Refusal(status, Side.NONE), core.index)
        if row[col.W_STATE] == col.WORK_HELD:
            unhold(state, work)
            core.end_now(work, core.node[col.N_CLOCK])
            if state.domains[row[col.W_PDID], col.D_ACTIVE] == 0:
                release(state, int(row[col.W_PDID]))
            return
        self.drop_rest(work)
        for flight in np.flatnonzero(
            (state.flight[:, col.F_LIVE] == 1) & (state.flight[:, col.F_WORK] == work)
        ):
            self._abandon(int(flight), handed)
        if row[col.W_PENDING] == 0:
            core.end_now(work, core.node[col.N_CLOCK])

    def _abandon(self, row: int, handed: int) -> None:
        """Wait no longer for the answer to a packet."""
        state, flight = self.core.state, self.core.state.flight[row]
        work = int(flight[col.F_WORK])
        at_once = state.peers[flight[col.F_PEER], col.P_INDEX] == self.core.index  # no transport in between
        if (
            flight[col.F_EVER]
            or (flight[col.F_SENDS] and at_once)
            or (flight[col.F_SENDS] and flight[col.F_FRAME] <= handed)
            or flight[col.F_SENDS] > 1
        ):
            state.work[work, col.W_TOUCHED] = 1
            self.core.node[col.K_LOST] += 1
        state.work[work, col.W_PENDING] -= 1
        give_flight(state, row)

    def peer_lost(self, peer: int, status: Status, handed: int) -> None:
        """Fail everything that is in flight to a peer or queued for it; the connection begins anew.

        A packet in one of the frames up to number `handed`, which the transport has been given, may or may
        not have been executed; so may one that an earlier connection was given.
        """
        core, state = self.core, self.core.state
        index, now = int(state.peers[peer, col.P_INDEX]), core.node[col.N_CLOCK]
        refusal, lost = Refusal(status, Side.NONE), Refusal(Status.PEER_LOST, Side.NONE)
        for row in self.flying(peer):
            flight = state.flight[row]
            if not flight[col.F_LIVE]:  # a signal, gone with its data
                continue
            work = int(flight[col.F_WORK])
            core.blame(work, lost if flight[col.F_EVER] else refusal, index)
            self.drop_rest(work)
            self._abandon(row, handed)
            if state.work[work, col.W_PENDING] == 0:
                core.end_now(work, now)
        while (work := int(state.peers[peer, col.P_HEAD])) >= 0:
            core.blame(work, refusal, index)
            dequeue(state, peer)
            core.end_now(work, now)
        core.node[col.K_GIVEN_UP] += 1
        self.reconnect(peer)


_STATUSES = frozenset(int(status) for status in Status if status)


def _believable(time: np.generic) -> int:
    """A time that a peer sent, or 0 when it cannot be one."""
    value = int(time.item())
    return value if value < col.TIME_LIMIT else 0
