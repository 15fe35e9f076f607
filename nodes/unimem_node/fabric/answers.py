"""Answers of other nodes to what is in flight: acknowledged, refused, come again."""

from __future__ import annotations

import numpy as np

from unimem.wire import Op, Side, Status
from unimem_node.mmu._fast import ACCESS_WRITE

from . import _fast_columns as col
from ._fast_tables import answered, find_flight, settle, unlink
from ._fast_window import acknowledged, word_from
from .core import Bytes, Core, Moved, Refusal, Stopped
from .ends import Ends
from .packets import ACK_RECORD, NACK, RESPONSE, Frame, PacketOp, payload
from .waiting import Waiting


class Answers:
    """What they do to the packets and work requests of one interface."""

    def __init__(self, core: Core, ends: Ends, waiting: Waiting) -> None:
        self.core, self._ends, self._waiting = core, ends, waiting

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
                if self._waiting.may_wait(moved.refusal):
                    self._ground(row)
                    self._waiting.wait_here(row, moved.refusal, -1 if isinstance(slot, Status) else slot)
                else:
                    self._ends.failed(row, moved.refusal, core.index, start + moved.cost_ps)
                return
            memory = core.memory_ps(length)
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
        self._ends.failed(row, refusal, index, time)

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
        if pending and self._waiting.too_often(row, refusal.iova):
            self._waiting.unresolved(row, refusal)
            return
        # The target tells when a page is there, or a COPY over. For the rest, ask less and less often.
        wait = self._waiting.patience_ps(row)
        if not pending and (flight[col.F_FLAGS] & col.ORDERED or flight[col.F_OP] != Op.COPY):
            wait = min(core.spec.order_retry_ps << min(int(flight[col.F_ROUNDS]), 16), wait)
            flight[col.F_ROUNDS] += 1
        due = core.node[col.N_NOW] + wait
        self._waiting.away[int(flight[col.F_TOKEN])] = (row, due)
        core.alarm(due)

    def _ready(self, peer: int, packet: np.void) -> None:
        """The page a packet waits for is there."""
        token = int(packet["token"])
        row = self._in_flight(peer, token)
        if row < 0 or self.core.state.flight[row, col.F_SEQ] != packet["seq"]:
            self._late()
        elif self._waiting.away.pop(token, None) is not None:
            self._waiting.retry(row, token, col.AWAY)

    def _damaged(self, peer: int, row: int, nack: np.void) -> None:
        """A packet arrived damaged: send it again at once, if what is left of it tells which it was.

        `row`: the packet of its token. That may be what was damaged: then the number on the connection named.
        """
        core, flight = self.core, self.core.state.flight
        if row < 0 and nack["expected"] == core.state.peers[peer, col.P_CONNECTION]:
            row = next((r for r in self._ends.flying(peer) if flight[r, col.F_SEQ] == nack["seq"]), -1)
        if row < 0:
            self._late()
        elif flight[row, col.F_STATE] == col.FLYING:
            self._ground(row)
            core.send_again(row)


_STATUSES = frozenset(int(status) for status in Status if status)


def _believable(time: np.generic) -> int:
    """A time that a peer sent, or 0 when it cannot be one."""
    value = int(time.item())
    return value if value < col.TIME_LIMIT else 0
