"""The initiating half of the network interface, readable: work requests are accepted, and cut into packets.

This and its parts (`answers`, `waiting`, `ends`) are the specification of what `_fast_post`, `_fast_cut` and
`_fast_answer` do for the common case, and the only code for everything else: requests refused at the door,
processes without a slot, refused addresses, NACKs, lost peers. Both work on the same tables; a test runs
every scenario with either.
"""

from __future__ import annotations

import numpy as np

from unimem.wire import Op, Status, WorkFlags
from unimem_node.dma._fast import ACCESS_READ

from . import _fast_columns as col
from . import mailbox
from ._fast_frame import emit_packet, take_block
from ._fast_tables import dequeue, enqueue_early, find_route, submit, take_work
from ._fast_window import gathers, next_block
from .answers import Answers
from .core import Bytes, Core, Refusal, Stopped
from .ends import Ends
from .internal import Internal
from .packets import ATOMICS
from .signals import Signals
from .waiting import Waiting

_OPS = frozenset(Op)


class Source:
    """Work requests of the processes on this node."""

    def __init__(self, core: Core, internal: Internal) -> None:
        self.core = core
        self.signals = Signals(core, self, internal)
        self.ends = Ends(core)
        self.waiting = Waiting(core, self.ends)
        self.answers = Answers(core, self.ends, self.waiting)
        core.withdraw = lambda work: self.ends.end(work, Status.CANCELLED, core.node[col.N_HANDED])

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
        if refusal is None or self.waiting.may_wait(refusal):
            # A block that waits takes none of the frame's slots: there may be more of them than it has.
            slots = cursor[col.C_SLOTS] - cursor[col.C_USED]
            core.room_for_flight(core.node[col.N_FLIGHT_LIVE] + 1 + slots)
            flight = int(take_block(core.state, peer, n, start))
            core.node[col.N_SOURCE_FREE] = ready
            if refusal is None:
                emit_packet(core.state, buffer, flight, n, ready)
            else:
                self.waiting.wait_here(flight, refusal, slot)
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
            elif self.waiting.may_wait(refusal):
                self.waiting.wait_here(row, refusal, slot)
            else:
                self.ends.failed(row, refusal, core.index, ready)
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
        memory = core.memory_ps(n)
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
