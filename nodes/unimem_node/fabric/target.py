"""The serving half of the network interface, readable: requests in, answers out.

This is the specification of what `_fast_receive` does for the common case, and the only code for the rest:
packets that cannot be trusted, gaps and duplicates, stale routes, unknown domains, refused addresses.
Every request is answered exactly once, in whatever state it arrives; answers are in docs/protocol.md.
"""

from __future__ import annotations

import numpy as np

from unimem.wire import Op, Side, Status
from unimem_node.dma._fast import ACCESS_READ
from unimem_node.mmu._fast import ACCESS_WRITE
from unimem_node.smmu.arrays import T_MEMORY_LATENCY, T_MEMORY_PER_KIB

from . import _fast_columns as col
from ._fast_receive import add_ack, add_response, remember, respond_atomic, respond_read, serve
from .core import Bytes, Core, Refusal, Stopped
from .packets import (
    ATOMICS,
    HAS_PAYLOAD,
    NACK,
    Frame,
    PacketError,
    PacketOp,
    build_frame,
    check_packet,
    payload,
)

REQUESTS = frozenset(int(op) for op in Op)


class Target:
    """Requests of other nodes (and, looped back, of this one) against this node's memory."""

    def __init__(self, core: Core) -> None:
        self.core = core
        self.nacks: list[np.void] = []  # of the frame that is being examined

    def trusted(self, peer: int, frame: Frame, number: int) -> bool:
        """Whether packet `number` is what its sender wrote; if not, refuse it as far as one can tell to whom.

        Transports keep order and lose nothing, so a damaged packet takes the place of the request that was
        due, if it still looks like it. Otherwise nobody can be told; the gap it leaves will tell.
        """
        try:
            check_packet(frame, number)
        except PacketError as error:
            core, packet = self.core, frame.packets[number]
            core.node[col.K_BAD_CRC] += 1
            core.record(core.node[col.N_CLOCK], "bad_packet", reason=str(error))
            if packet["op"] in REQUESTS and packet["seq"] == core.state.peers[peer, col.P_EXPECTED]:
                connection = int(core.state.peers[peer, col.P_SEEN_CONNECTION])
                self._consume(peer, packet, Refusal(error.status, Side.TARGET), expected=connection)
            return False
        return True

    def serve_one(
        self, peer: int, frame: Frame, number: int, stale: bool, reply: Bytes, stopped: Stopped | None = None
    ) -> None:
        """Execute one trusted request packet, or refuse it. `stale`: the frame is for somebody else."""
        core, packet = self.core, frame.packets[number]
        state = core.state
        if stale:
            self._refuse(
                peer, packet, Refusal(Status.STALE_ROUTE, Side.TARGET, iova=_signed(packet["va"])), 0
            )
            return
        expected = int(state.peers[peer, col.P_EXPECTED])
        ahead = (int(packet["seq"]) - expected) & col.SEQ_MASK
        if ahead:
            if ahead < 1 << 31:
                core.node[col.K_GAPS] += 1
                self._refuse(peer, packet, Refusal(Status.SEQUENCE_GAP, Side.TARGET), 0, expected=expected)
            else:
                self._duplicate(peer, packet, reply)
            return
        refusal = self._refused_at_the_door(packet)
        slot: int | Status = -1
        if refusal is None:
            slot = stopped.slot if stopped else core.slot_of(int(packet["pdid"]))
            if isinstance(slot, Status):
                refusal = Refusal(slot, Side.TARGET, iova=_signed(packet["va"]))
        if refusal is not None:
            self._consume(peer, packet, refusal)
            return
        assert not isinstance(slot, Status)
        self._execute(peer, frame, packet, slot, reply, stopped)

    def nack_frame(self, peer: int) -> Bytes:
        """What was refused of the frame that was examined, as a frame of its own."""
        nacks, self.nacks = self.nacks, []
        node, row = self.core.node, self.core.state.peers[peer]
        row[col.P_FRAMES] += 1
        node[col.K_FRAMES_OUT] += 1
        node[col.K_PACKETS_OUT] += len(nacks)
        frame = build_frame(
            [(nack, b"") for nack in nacks],
            src_node=self.core.index,
            dst_node=int(row[col.P_INDEX]),
            src_incarnation=node[col.N_INCARNATION],
            dst_incarnation=int(row[col.P_SEEN_INCARNATION]),
            number=int(row[col.P_FRAMES]),
            connection=int(row[col.P_CONNECTION]),
            time=max(int(nack["time"]) for nack in nacks),
        )
        frame.setflags(write=False)
        return frame

    def _refused_at_the_door(self, packet: np.void) -> Refusal | None:
        core = self.core
        op, n, va = int(packet["op"]), int(packet["length"]), int(packet["va"])
        carries = bool(packet["flags"] & HAS_PAYLOAD)
        status = Status.OK
        if not core.node[col.N_ENABLED]:
            status = Status.ACCESS_DENIED
        elif op not in REQUESTS or n == 0 or carries != (op == Op.WRITE) or packet["time"] >= col.TIME_LIMIT:
            status = Status.MALFORMED
        elif not core.node[col.N_WINDOW_BASE] <= va < core.node[col.N_WINDOW_END]:
            status = Status.STALE_ROUTE
        elif va + n > core.node[col.N_WINDOW_END] or (op == Op.READ and n > core.node[col.N_FRAME_PAYLOAD]):
            status = Status.MALFORMED
        elif op in ATOMICS and (n != 8 or va % 8):
            status = Status.MALFORMED if n != 8 else Status.MISALIGNED
        return Refusal(status, Side.TARGET, iova=_signed(packet["va"])) if status else None

    def _execute(
        self, peer: int, frame: Frame, packet: np.void, slot: int, reply: Bytes, stopped: Stopped | None
    ) -> None:
        """Translate, move, answer: a request that is in order."""
        core, cursor = self.core, self.core.cursor
        op, n, va = int(packet["op"]), int(packet["length"]), int(packet["va"])
        if op == Op.READ:
            at = cursor[col.C_PAYLOAD]
            data, access = reply[at : at + n], ACCESS_READ
        elif op == Op.WRITE:
            data, access = payload(frame, packet), ACCESS_WRITE
        else:
            data, access = np.zeros(8, np.uint8), ACCESS_WRITE
        if op in ATOMICS:
            moved_cost, old, refusal = self._atomic(slot, packet, va, stopped)
        else:
            _, moved_cost, refusal = core.move(slot, access, va, data, stopped)
        time = int(packet["time"])
        if refusal is not None:
            _, done = serve(core.state, peer, time, moved_cost, 0)
            self._refuse(peer, packet, refusal._replace(side=Side.TARGET), int(done))
            remember(core.state, peer, int(packet["seq"]), int(refusal.status), refusal.written)
            return
        timing = core.arrays.timing
        memory = int(timing[T_MEMORY_LATENCY]) + (n * int(timing[T_MEMORY_PER_KIB]) >> 10)
        wait, done = map(int, serve(core.state, peer, time, moved_cost, memory))
        core.node[col.K_BLOCKS_SERVED] += 1
        ids = (int(packet["pdid"]), int(packet["seq"]))
        token = _signed(packet["token"])
        if op == Op.WRITE:
            latency = int(core.state.peers[peer, col.P_LATENCY])
            add_ack(core.state, reply, token, done + latency, wait, moved_cost, memory)
            core.node[col.K_BYTES_WRITTEN] += n
        elif op == Op.READ:
            respond_read(core.state, reply, peer, *ids, n, token, wait, done, moved_cost, memory)
        else:
            respond_atomic(core.state, reply, peer, *ids, token, wait, done, old, moved_cost, memory)

    def _atomic(
        self, slot: int, packet: np.void, va: int, stopped: Stopped | None
    ) -> tuple[int, int, Refusal | None]:
        """(translation ps, value before as int64, refusal) of an aligned 8-byte read-modify-write."""
        core, mask = self.core, (1 << 64) - 1
        code, level, offset, _, cost = (
            (stopped.code, stopped.level, -1, 0, stopped.cost_ps)
            if stopped
            else core.locate(slot, va, ACCESS_WRITE, 8)
        )
        if code:
            return cost, 0, core.refuse(slot, va, ACCESS_WRITE, code, level)
        word = core.memory.view8[offset : offset + 8].view("<u8")
        old, operand = int(word[0]), int(packet["operand"])
        if packet["op"] == Op.FETCH_ADD:
            word[0] = (old + operand) & mask
        elif packet["op"] == Op.SWAP or old == packet["compare"]:
            word[0] = operand
        return cost, int(word.dtype.type(old).view(np.int64)), None

    def _consume(self, peer: int, packet: np.void, refusal: Refusal, expected: int = 0) -> None:
        """Refuse the request that was due; the next one is due now."""
        row = self.core.state.peers[peer]
        row[col.P_EXPECTED] = (row[col.P_EXPECTED] + 1) & col.SEQ_MASK
        self._refuse(peer, packet, refusal, 0, expected)
        remember(self.core.state, peer, int(packet["seq"]), int(refusal.status), 0)

    def _duplicate(self, peer: int, packet: np.void, reply: Bytes) -> None:
        """A request that was here before: answer it again, without its effect.

        A READ has none, but what it asked for may be gone; its sender has had one answer and needs no second.
        """
        core, state = self.core, self.core.state
        core.node[col.K_DUPLICATES] += 1
        seq, token = int(packet["seq"]), _signed(packet["token"])
        time = core.node[col.N_CLOCK] + int(state.peers[peer, col.P_LATENCY])
        replay = state.replay
        known = np.flatnonzero(
            (replay[:, col.A_CONNECTION] == state.peers[peer, col.P_SEEN_CONNECTION])
            & (replay[:, col.A_PEER] == peer)
            & (replay[:, col.A_SEQ] == seq)
        )
        status = Status(int(replay[known[0], col.A_STATUS])) if len(known) else Status.OK
        value = int(replay[known[0], col.A_VALUE]) if len(known) else 0
        if status:
            refusal = Refusal(status, Side.TARGET, iova=_signed(packet["va"]), written=value)
            self._refuse(peer, packet, refusal, 0)
        elif packet["op"] == Op.WRITE:
            add_ack(state, reply, token, time, 0, 0, 0)
        elif packet["op"] in ATOMICS and len(known):
            add_response(state, reply, int(packet["pdid"]), seq, 8, 0, token, time, 0, value, 0, 0)

    def _refuse(self, peer: int, packet: np.void, refusal: Refusal, done_ps: int, expected: int = 0) -> None:
        """Answer with a NACK; `done_ps`: when the engine was done with it, 0 for one it never got."""
        core = self.core
        core.node[col.K_REFUSED] += 1
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
        row["expected"] = expected
        self.nacks.append(row)
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
