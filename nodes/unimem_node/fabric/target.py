"""The serving half of the network interface, readable: requests in, answers out.

This is the specification of what `_fast_receive` does for the common case, and the only code for the rest:
packets that cannot be trusted, gaps and duplicates, stale routes, unknown domains, refused addresses.
Every request is answered exactly once, in whatever state it arrives; answers are in docs/protocol.md.
"""

from __future__ import annotations

from typing import Final, NamedTuple

import numpy as np

from unimem.wire import Op, Side, Status
from unimem_node.dma._fast import ACCESS_READ
from unimem_node.mmu._fast import ACCESS_WRITE

from . import _fast_columns as col
from . import mailbox
from ._fast_receive import add_ack, add_response, respond_read, respond_value, serve
from ._fast_window import acknowledged, due, gathers, note_seen
from .core import Bytes, Core, Refusal, Stopped
from .packets import (
    ACCEPTED,
    ACK_RECORD,
    ATOMICS,
    HAS_PAYLOAD,
    NACK,
    PACKET,
    Frame,
    PacketError,
    PacketOp,
    build_frame,
    check_packet,
    payload,
)
from .parking import Parking
from .third_party import Asked, ThirdParty

REQUESTS = frozenset(int(op) for op in Op)

#: Requests whose page is being brought, of which the sender is told when it is there.
PENDING_LIMIT: Final = 4096


class Pending(NamedTuple):
    """A request that was answered PAGE_PENDING."""

    connection: int
    token: int
    pdid: int
    iova: int


class Target:
    """Requests of other nodes (and, looped back, of this one) against this node's memory."""

    def __init__(self, core: Core, third_party: ThirdParty) -> None:
        self.core = core
        self.third_party = third_party
        third_party.answer = self.copied
        #: Answers that wait for a frame of their own, with their payloads, by row of the peer.
        self.nacks: dict[int, list[tuple[np.void, bytes]]] = {}
        self.refusals: dict[int, dict[int, Refusal]] = {}  # final ones that may be asked for again, by seq
        #: Requests whose page is being brought, by row of the peer and seq.
        self.pending: dict[tuple[int, int], Pending] = {}
        self.parking = Parking(core)

    def trusted(self, peer: int, frame: Frame, number: int) -> bool:
        """Whether packet `number` is what its sender wrote; if not, its sender is given a hint."""
        try:
            check_packet(frame, number, crc=bool(self.core.node[col.N_CHECKS]))
        except PacketError as error:
            core, packet = self.core, frame.packets[number]
            core.node[col.K_BAD_CRC] += 1
            core.record(core.node[col.N_CLOCK], "bad_packet", reason=str(error))
            if packet["op"] in REQUESTS:
                connection = int(core.state.peers[peer, col.P_SEEN_CONNECTION])
                self._nack(peer, packet, Refusal(Status.BAD_CRC, Side.TARGET), 0, expected=connection)
            return False
        return True

    def serve_one(
        self, peer: int, frame: Frame, number: int, stale: bool, reply: Bytes, stopped: Stopped | None = None
    ) -> None:
        """Execute one trusted request packet, or refuse it. `stale`: the frame is for somebody else."""
        core, packet = self.core, frame.packets[number]
        if stale:
            stale_route = Refusal(Status.STALE_ROUTE, Side.TARGET, iova=_signed(packet["va"]))
            core.node[col.K_REFUSED] += 1
            self._nack(peer, packet, stale_route, 0)
            return
        seq, expected = int(packet["seq"]), int(core.state.peers[peer, col.P_EXPECTED])
        ahead = (seq - expected) & col.SEQ_MASK
        if core.node[col.N_CHECKS] and not self.parking.accepted:
            if col.WINDOW <= ahead < 1 << 31:  # no sender of ours goes so far
                core.node[col.K_GAPS] += 1
                return
            if not due(core.state, peer, seq):
                self._duplicate(peer, packet, frame, reply)
                return
            if self.parking.holds(peer, seq):
                core.node[col.K_DUPLICATES] += 1
                return
            if packet["flags"] & col.ORDERED and (ahead or core.state.peers[peer, col.P_OWED]):
                core.node[col.K_OUT_OF_ORDER] += 1
                self._nack(peer, packet, Refusal(Status.OUT_OF_ORDER, Side.TARGET), 0)
                return
        refusal = self._refused_at_the_door(peer, packet)
        if refusal is None and packet["flags"] & col.SIGNAL and self._data_refused(peer, packet):
            refusal = Refusal(Status.CANCELLED, Side.TARGET, iova=_signed(packet["va"]))
        slot: int | Status = -1
        if refusal is None:
            slot = stopped.slot if stopped else core.slot_of(int(packet["pdid"]))
            if isinstance(slot, Status):
                refusal = Refusal(slot, Side.TARGET, iova=_signed(packet["va"]))
        if refusal is not None and refusal.status is Status.PAGE_PENDING:  # a bank will come free
            self._postpone(peer, packet, refusal, 0)
        elif refusal is not None:
            self._refuse(peer, packet, refusal, 0)
        else:
            assert not isinstance(slot, Status)
            self._execute(peer, frame, packet, slot, reply, stopped)

    def resolved(self, pdid: int, va: int, length: int) -> None:
        """Pages of a process are there: tell who asked for them."""
        core = self.core
        for (peer, seq), wait in list(self.pending.items()):
            if wait.pdid != pdid or not va <= wait.iova < va + length:
                continue
            del self.pending[peer, seq]
            if wait.connection == core.state.peers[peer, col.P_SEEN_CONNECTION]:
                row = np.zeros(1, NACK)[0]
                row["op"], row["seq"], row["token"] = PacketOp.READY, seq, wait.token
                row["time"] = core.node[col.N_CLOCK] + int(core.state.peers[peer, col.P_LATENCY])
                self.nacks.setdefault(peer, []).append((row, b""))

    def end_parked(self, peer: int, packet: np.void, refusal: Refusal) -> None:
        """Software has terminated a stalled access."""
        if self.parking.accepted or due(self.core.state, peer, int(packet["seq"])):
            self._refuse(peer, packet, refusal, 0)

    def forget_below(self, peer: int, base: int) -> None:
        """The peer has settled everything before `base`: it is not executed, and not asked for, any more."""
        state = self.core.state
        row, seen = state.peers[peer], state.seen[peer]
        expected = int(row[col.P_EXPECTED])
        if 0 < (base - expected) & col.SEQ_MASK < 1 << 31:
            if (base - expected) & col.SEQ_MASK >= col.WINDOW:
                seen[:] = 0
                row[col.P_AHEAD], row[col.P_EXPECTED] = 0, base
            else:
                while int(row[col.P_EXPECTED]) != base and (
                    (base - int(row[col.P_EXPECTED])) & col.SEQ_MASK < 1 << 31
                ):
                    note_seen(state, peer, int(row[col.P_EXPECTED]))

    def forget(self, peer: int) -> None:
        """A peer begins a new connection: its requests are counted from 0 again."""
        row = self.core.state.peers[peer]
        row[col.P_EXPECTED] = row[col.P_AHEAD] = 0
        self.core.state.seen[peer] = 0
        if row[col.P_REPLAY]:  # another life may count its connections as the last one did
            first = (int(row[col.P_REPLAY]) - 1) * col.VALUE_SLOTS
            self.core.state.replay[first : first + col.VALUE_SLOTS] = 0
        self.refusals.pop(peer, None)
        self.pending = {key: wait for key, wait in self.pending.items() if key[0] != peer}
        self.parking.forget(peer)

    def nack_frame(self, peer: int) -> Bytes:
        """The answers that wait for it, as a frame."""
        answers = self.nacks.pop(peer)
        node, row = self.core.node, self.core.state.peers[peer]
        row[col.P_FRAMES] += 1
        node[col.K_FRAMES_OUT] += 1
        node[col.K_PACKETS_OUT] += len(answers)
        frame = build_frame(
            answers,
            src_node=self.core.index,
            dst_node=int(row[col.P_INDEX]),
            src_incarnation=node[col.N_INCARNATION],
            dst_incarnation=int(row[col.P_SEEN_INCARNATION]),
            number=int(row[col.P_FRAMES]) & col.SEQ_MASK,
            base=int(row[col.P_BASE]),
            connection=int(row[col.P_CONNECTION]),
            time=max(int(answer["time"]) for answer, _ in answers),
        )
        frame.setflags(write=False)
        return frame

    def _refused_at_the_door(self, peer: int, packet: np.void) -> Refusal | None:
        core = self.core
        op, n, va = int(packet["op"]), int(packet["length"]), int(packet["va"])
        carries = bool(packet["flags"] & HAS_PAYLOAD)
        status = Status.OK
        if not core.node[col.N_ENABLED]:
            status = Status.ACCESS_DENIED
        elif op not in REQUESTS or n == 0 or carries != bool(gathers(op)) or packet["time"] >= col.TIME_LIMIT:
            status = Status.MALFORMED
        elif not core.node[col.N_WINDOW_BASE] <= va < core.node[col.N_WINDOW_END]:
            status = Status.STALE_ROUTE
        elif va + n > core.node[col.N_WINDOW_END] or (op == Op.READ and n > core.node[col.N_FRAME_PAYLOAD]):
            status = Status.MALFORMED
        elif op in ATOMICS and (n not in (4, 8) or va % n):
            status = Status.MALFORMED if n not in (4, 8) else Status.MISALIGNED
        elif op == Op.SEND:
            status = mailbox.refused_at_the_door(va, n)
        elif op in ATOMICS and core.node[col.N_CHECKS] and not 1 <= packet["replay"] <= col.VALUE_SLOTS:
            status = Status.MALFORMED
        return Refusal(status, Side.TARGET, iova=_signed(packet["va"])) if status else None

    def _execute(
        self, peer: int, frame: Frame, packet: np.void, slot: int, reply: Bytes, stopped: Stopped | None
    ) -> None:
        """Translate, move, answer: a request that is in order."""
        core, cursor = self.core, self.core.cursor
        op, n, va = int(packet["op"]), int(packet["length"]), int(packet["va"])
        if op == Op.COPY:
            if core.node[col.N_CHECKS]:
                note_seen(core.state, peer, int(packet["seq"]))
            self.third_party.begin(peer, packet)
            return
        if op == Op.READ:
            at = cursor[col.C_PAYLOAD]
            data, access = reply[at : at + n], ACCESS_READ
        else:
            data, access = payload(frame, packet), ACCESS_WRITE
        if op == Op.SEND:
            moved_cost, refusal = mailbox.deliver(core, slot, va, data)
        elif op in ATOMICS:
            moved_cost, old, refusal = self._atomic(slot, packet, va, stopped)
        else:
            _, moved_cost, refusal = core.move(slot, access, va, data, stopped)
        time = int(packet["time"])
        if refusal is not None:
            refusal = refusal._replace(side=Side.TARGET)
            _, done = serve(core.state, peer, time, moved_cost, 0)
            waits = refusal.hold is not None or (refusal.status is Status.BANK_BLOCKED and core.holds())
            if waits and self.parking.park(peer, frame, packet, refusal, slot):
                if packet["flags"] & ACCEPTED and gathers(op):
                    self._accept(peer, packet, int(done), reply)
                return
            if waits:
                if refusal.hold is not None:
                    refusal.hold.cancel()
                refusal = refusal._replace(status=Status.PAGE_PENDING, hold=None)
            if refusal.status is Status.PAGE_PENDING:
                self._postpone(peer, packet, refusal, int(done))
            else:
                self._refuse(peer, packet, refusal, int(done))
            return
        memory = core.memory_ps(n)
        wait, done = map(int, serve(core.state, peer, time, moved_cost, memory))
        core.node[col.K_BLOCKS_SERVED] += 1
        ids = (int(packet["pdid"]), int(packet["seq"]))
        token = _signed(packet["token"])
        if acknowledged(op):
            if not self.parking.accepted:
                latency = int(core.state.peers[peer, col.P_LATENCY])
                add_ack(core.state, reply, token, done + latency, wait, moved_cost, memory)
            core.node[col.K_BYTES_WRITTEN] += n
        elif op == Op.READ:
            respond_read(core.state, reply, peer, *ids, n, token, wait, done, moved_cost, memory)
        else:
            core.replay_block(peer)
            replay = int(packet["replay"])
            respond_value(
                core.state, reply, peer, *ids, replay, token, n, wait, done, old, moved_cost, memory
            )
            core.node[col.K_ATOMICS] += 1
        if core.node[col.N_CHECKS] and not self.parking.accepted and due(core.state, peer, ids[1]):
            note_seen(core.state, peer, ids[1])

    def _atomic(
        self, slot: int, packet: np.void, va: int, stopped: Stopped | None
    ) -> tuple[int, int, Refusal | None]:
        """(translation ps, value before, refusal) of an aligned read-modify-write of 4 or 8 bytes."""
        core, n = self.core, int(packet["length"])
        mask = (1 << 8 * n) - 1
        code, level, offset, _, cost = (
            (stopped.code, stopped.level, -1, 0, stopped.cost_ps)
            if stopped
            else core.locate(slot, va, ACCESS_WRITE, n)
        )
        if code:
            return cost, 0, core.refuse(slot, va, ACCESS_WRITE, code, level)
        word = core.memory.view8[offset : offset + n].view(f"<u{n}")
        old, operand = int(word[0]), int(packet["operand"]) & mask
        if packet["op"] == Op.FETCH_ADD:
            word[0] = (old + operand) & mask
        elif packet["op"] == Op.SWAP or old == int(packet["compare"]) & mask:
            word[0] = operand
        return cost, int(np.uint64(old).view(np.int64)), None

    def _accept(self, peer: int, packet: np.void, done_ps: int, reply: Bytes) -> None:
        """A request is parked whose sender is content with that: acknowledge it, but once."""
        core = self.core
        if self.parking.accepted:
            return
        if core.node[col.N_CHECKS]:
            note_seen(core.state, peer, int(packet["seq"]))
        time = done_ps + int(core.state.peers[peer, col.P_LATENCY])
        add_ack(core.state, reply, _signed(packet["token"]), time, 0, 0, 0)

    def _postpone(self, peer: int, packet: np.void, refusal: Refusal, done_ps: int) -> None:
        """Not yet: the sender is told again when the page is there."""
        core = self.core
        if self.parking.accepted:
            if not self.parking.keep(refusal):
                self._refuse(peer, packet, refusal._replace(status=Status.UNRESOLVED_FAULT), done_ps)
            return
        core.node[col.K_PENDING] += 1
        key = (peer, int(packet["seq"]))
        if key in self.pending or len(self.pending) < PENDING_LIMIT:  # beyond it the sender tries by itself
            connection = int(core.state.peers[peer, col.P_SEEN_CONNECTION])
            self.pending[key] = Pending(connection, int(packet["token"]), int(packet["pdid"]), refusal.iova)
        self._nack(peer, packet, refusal, done_ps)

    def _duplicate(self, peer: int, packet: np.void, frame: Frame, reply: Bytes) -> None:
        """A request that was here before: answer it again, without its effect.

        A READ has none, so it is read again. What nobody remembers is settled, and needs no answer.
        """
        core, state = self.core, self.core.state
        core.node[col.K_DUPLICATES] += 1
        if self.third_party.busy(peer, int(packet["seq"])):
            self._nack(peer, packet, Refusal(Status.OUT_OF_ORDER, Side.TARGET), 0)
            return
        seq, token, op = int(packet["seq"]), _signed(packet["token"]), int(packet["op"])
        refusal = self.refusals.get(peer, {}).get(seq)
        time = core.node[col.N_CLOCK] + int(state.peers[peer, col.P_LATENCY])
        if refusal is not None:
            self._nack(peer, packet, refusal, 0)
        elif acknowledged(op):
            add_ack(state, reply, token, time, 0, 0, 0)
        elif op == Op.READ:
            slot = core.slot_of(int(packet["pdid"]))
            if self._refused_at_the_door(peer, packet) is None and not isinstance(slot, Status):
                self._execute(peer, frame, packet, slot, reply, None)
        elif op in REQUESTS and state.peers[peer, col.P_REPLAY] and 1 <= packet["replay"] <= col.VALUE_SLOTS:
            row = (int(state.peers[peer, col.P_REPLAY]) - 1) * col.VALUE_SLOTS + int(packet["replay"]) - 1
            known = state.replay[row]
            connection = state.peers[peer, col.P_SEEN_CONNECTION]
            if known[col.A_CONNECTION] == connection and known[col.A_SEQ] == seq:
                pdid, n = int(packet["pdid"]), int(packet["length"])
                add_response(state, reply, pdid, seq, n, 0, token, time, 0, int(known[col.A_VALUE]), 0, 0)

    def copied(self, asked: Asked, done_ps: int, refusal: Refusal | None) -> None:
        """A COPY is over: acknowledge or refuse it."""
        core = self.core
        if refusal is not None:
            packet = np.zeros(1, PACKET)[0]
            for name in ("seq", "pdid", "va", "token"):
                packet[name] = getattr(asked, name)
            if core.node[col.N_CHECKS]:
                self._remember_refusal(asked.peer, asked.seq, refusal)
            core.node[col.K_REFUSED] += 1
            self._nack(asked.peer, packet, refusal, done_ps)
            return
        core.node[col.K_BLOCKS_SERVED] += 1
        row = core.state.peers[asked.peer]
        record = np.zeros(1, ACK_RECORD)
        record["token"], record["wait"] = asked.token, max(done_ps - asked.arrived_ps, 0)
        record["time"] = done_ps + int(row[col.P_LATENCY])
        ack = np.zeros(1, PACKET)[0]
        ack["op"], ack["time"], ack["operand"] = PacketOp.ACK, record["time"][0], row[col.P_GRANT]
        self.nacks.setdefault(asked.peer, []).append((ack, record.tobytes()))

    def _data_refused(self, peer: int, packet: np.void) -> bool:
        """Whether anything was refused that the peer has sent since the data began that this signals."""
        seq = int(packet["seq"])
        since = (seq - int(packet["compare"])) & col.SEQ_MASK
        return any(0 < (seq - refused) & col.SEQ_MASK <= since for refused in self.refusals.get(peer, ()))

    def _refuse(self, peer: int, packet: np.void, refusal: Refusal, done_ps: int) -> None:
        """Refuse a request for good; a duplicate of it is refused likewise."""
        seq = int(packet["seq"])
        core, state = self.core, self.core.state
        if self.parking.accepted:  # nobody is told but who reads the log
            index = int(state.peers[peer, col.P_INDEX])
            status, iova = refusal.status.name, refusal.iova
            core.record(core.node[col.N_CLOCK], "accepted_lost", peer=index, status=status, iova=iova)
            return
        if core.node[col.N_CHECKS] and due(state, peer, seq):
            note_seen(state, peer, seq)
            self._remember_refusal(peer, seq, refusal._replace(hold=None))
        core.node[col.K_REFUSED] += 1
        self._nack(peer, packet, refusal, done_ps)

    def _remember_refusal(self, peer: int, seq: int, refusal: Refusal) -> None:
        """Keep a final refusal for a duplicate, until it is so long past that its source has settled it."""
        known = self.refusals.setdefault(peer, {})
        known[seq] = refusal
        if len(known) > 2 * col.WINDOW:
            expected = int(self.core.state.peers[peer, col.P_EXPECTED])
            for old in [old for old in known if col.WINDOW < (expected - old) & col.SEQ_MASK < 1 << 31]:
                del known[old]

    def _nack(self, peer: int, packet: np.void, refusal: Refusal, done_ps: int, expected: int = 0) -> None:
        """Answer with a NACK; `done_ps`: when the engine was done with it, 0 for one it never got."""
        core = self.core
        time = int(packet["time"])
        done = done_ps or max(core.node[col.N_CLOCK], time if time < col.TIME_LIMIT else 0)
        row = np.zeros(1, NACK)[0]
        row["op"], row["status"], row["pdid"] = PacketOp.NACK, refusal.status, packet["pdid"]
        row["stage"], row["level_access"] = refusal.stage, refusal.level << 4 | refusal.access
        row["seq"], row["token"], row["length"] = packet["seq"], packet["token"], refusal.written
        row["iova"] = refusal.iova & (1 << 64) - 1
        row["time"] = done + int(core.state.peers[peer, col.P_LATENCY])
        row["fsr"], row["fsynr0"] = refusal.fsr, refusal.fsynr0
        row["stream_id"], row["context_bank"] = refusal.stream_id, refusal.context_bank
        row["expected"] = expected or refusal.node
        self.nacks.setdefault(peer, []).append((row, b""))
        core.record(
            done,
            "refused",
            peer=int(core.state.peers[peer, col.P_INDEX]),
            pdid=int(packet["pdid"]),
            status=refusal.status.name,
            iova=refusal.iova,
            stream_id=refusal.stream_id,
        )


def _signed(value: np.generic) -> int:
    """The 64 bits of a wire field as the tables hold them."""
    return int(value.view(np.int64))
