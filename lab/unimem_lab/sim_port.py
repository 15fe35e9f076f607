"""A client's port into a simulated cluster: completions come while it is driven, in the caller's thread.

`post` stages the bytes in the process' memory on the home node and queues a work request; the doorbell rings
when somebody waits (`drive`) or a buffer of requests is full. No virtual time passes in between, so what a
client issues in one breath starts at one moment, as with a doorbell for each.
"""

from __future__ import annotations

import struct
from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING, Any, Final

import numpy as np

from unimem._port import Batch, Work
from unimem.v1 import coordinator_pb2 as pb
from unimem.wire import (
    COMPLETION,
    WORK_REQUEST,
    WORK_REQUEST_BYTES,
    CompletionFlags,
    Op,
    Status,
    WorkFlags,
)

if TYPE_CHECKING:
    from google.protobuf.message import Message

    from unimem_lab.sim import SimCluster
    from unimem_node.mpsoc.node import Node

#: Longest work request: what is longer goes in pieces, as staging buffers end at 256 MiB.
PIECE: Final = 16 << 20

#: Work requests that wait for their doorbell.
_ROWS: Final = 256
_ROW: Final = struct.Struct("<QBBHIQQQQQQ")
assert _ROW.size == WORK_REQUEST_BYTES

_READ = int(Op.READ)
_FENCE = int(WorkFlags.FENCE)
_FLAGS = int(WorkFlags.FENCE | WorkFlags.ORDERED | WorkFlags.ACCEPTED | WorkFlags.SIGNAL)

#: Ids from here on belong to batches: BATCH | number of the batch << 32 | position.
BATCH: Final = 1 << 63


class Doorbell:
    """The work requests of one process on one node, until they are posted."""

    __slots__ = ("_bytes", "_rows", "count", "index", "node", "pdid")

    def __init__(self, node: Node, pdid: int) -> None:
        self.node, self.pdid, self.index = node, pdid, node.index
        self._rows = np.zeros(_ROWS, WORK_REQUEST)
        self._bytes = self._rows.view(np.uint8).data
        self.count = 0

    def add(
        self,
        wr_id: int,
        op: int,
        flags: int,
        deadline_us: int,
        length: int,
        src: int,
        dst: int,
        operand: int,
        compare: int,
    ) -> None:
        """Queue one."""
        if self.count == _ROWS:
            self.ring()
        _ROW.pack_into(
            self._bytes,
            self.count * WORK_REQUEST_BYTES,
            wr_id,
            op,
            flags,
            self.pdid,
            deadline_us,
            length,
            src,
            dst,
            operand,
            compare,
            0,
        )
        self.count += 1

    def ring(self) -> None:
        """Post what is queued."""
        count, self.count = self.count, 0
        self.node.post(self._rows[:count])


class _Pieces(Work):
    """One piece of a long transfer; the last one to end reports for all."""

    __slots__ = ("group", "whole")

    def __init__(self, group: _Group, src: int, dst: int, length: int, offset: int) -> None:
        self.whole = whole = group.work
        data = whole.data[offset : offset + length] if whole.data is not None else None
        out = whole.out[offset : offset + length] if whole.out is not None else None
        super().__init__(whole.op, src, dst, length, data, out, node=whole.node)
        self.fence = whole.fence and offset == 0
        self.flags, self.deadline = whole.flags, whole.deadline
        self.group = group

    def on_done(self, status: int, rows: np.ndarray, index: int) -> None:
        self.group.ended(rows[index])


class _Group:
    """A transfer that went in pieces: one completion made of theirs, the first failure's if there was one."""

    def __init__(self, work: Work, pieces: int) -> None:
        self.work, self.left = work, pieces
        self.rows = np.zeros(1, COMPLETION)
        self.bytes = 0
        self.definite = True
        self.posted_ps = -1

    def ended(self, row: np.void) -> None:
        """One piece is complete."""
        self.left -= 1
        self.bytes += int(row["bytes"])
        self.definite &= bool(int(row["flags"]) & CompletionFlags.DEFINITE)
        posted = int(row["posted_ps"])
        self.posted_ps = posted if self.posted_ps < 0 else min(self.posted_ps, posted)
        if self.rows["status"][0] == Status.OK:
            self.rows[0] = row
        if self.left == 0:
            merged = self.rows[0]
            merged["parts_ps"][0] += int(merged["posted_ps"]) - self.posted_ps
            merged["posted_ps"], merged["bytes"] = self.posted_ps, self.bytes
            merged["flags"] = CompletionFlags.DEFINITE if self.definite and self.bytes == 0 else 0
            self.work.on_done(int(merged["status"]), self.rows, 0)


class SimPort:
    """See `unimem._port.Port`; made by `SimCluster.client`."""

    background = False

    def __init__(self, cluster: SimCluster, session: pb.OpenSessionResponse) -> None:
        self._cluster, self._session = cluster, session
        self.pdid, self.home, self.domain = session.pdid, session.home.name, session.domain
        self._bells: dict[str | None, Doorbell] = {}
        self._closed = False

    def control(self, request: Message, timeout: float) -> Message:
        """Answered by the coordinator's core, at once."""
        self._cluster.ring()
        return self._call(request)

    def _call(self, request: Message) -> Message:
        if "token" in request.DESCRIPTOR.fields_by_name:
            who: Any = request
            who.session_id, who.token = self._session.session_id, self._session.token
        return self._cluster.control.call(request)

    def _bell(self, name: str | None) -> Doorbell:
        cluster = self._cluster
        bell = self._bells.get(name)
        node = cluster.node(name or self.home)
        if bell is None or bell.node is not node:
            bell = self._bells[name] = Doorbell(node, self.pdid)
            cluster.wait_on(node)
            node.open_domain(self.pdid)
        return bell

    def post(self, work: Work) -> None:
        """Stage and queue; see the module's text."""
        cluster = self._cluster
        bell = self._bells.get(work.node)
        if bell is None or cluster.nodes_changed:
            try:
                bell = self._bell(work.node)
            except LookupError as error:
                self.fail(work, Status.PEER_UNREACHABLE, str(error))
                return
        length = work.length
        if length > PIECE:
            self._post_pieces(work)
            return
        op, data, out = work.op, work.data, work.out
        src, dst, staged, view = work.src, work.dst, 0, None
        if data is not None:
            staged, view = bell.node.stage(self.pdid, length)
            view.data[:] = data
            src = staged
        elif op == _READ and out is not None:
            staged, view = bell.node.stage(self.pdid, length)
            dst = staged
        wr_id = cluster.expect(work, bell, staged, view)
        flags = work.flags | _FENCE if work.fence else work.flags
        bell.add(wr_id, op, flags, work.deadline, length, src, dst, work.operand, work.compare)
        cluster.rung[bell] = None

    def _post_pieces(self, work: Work) -> None:
        offsets = range(0, work.length, PIECE)
        group = _Group(work, len(offsets))
        for offset in offsets:
            src = work.src + offset if work.data is None else 0
            dst = work.dst + offset if work.out is None else 0
            self.post(_Pieces(group, src, dst, min(PIECE, work.length - offset), offset))

    def post_batch(self, batch: Batch) -> None:
        """Stage the payload once, address it by offsets, post the array."""
        cluster, requests = self._cluster, batch.requests.copy()
        try:
            bell = self._bell(batch.node)
        except LookupError as error:
            batch.note = str(error)
            rows = np.zeros(len(requests), COMPLETION)
            rows["status"], rows["flags"] = Status.PEER_UNREACHABLE, CompletionFlags.DEFINITE
            batch.on_rows(rows, np.arange(len(requests)))
            return
        bell.ring()
        node = bell.node
        is_read = requests["op"] == _READ
        lengths = requests["length"]
        room = np.where(
            (requests["flags"] & (WorkFlags.INLINE | WorkFlags.RETURN)) != 0, (lengths + 7) & ~np.uint64(7), 0
        )
        offsets = np.cumsum(room) - room
        total = int(room.sum())
        staged, view = node.stage(self.pdid, total) if total else (0, None)
        writes = (requests["flags"] & WorkFlags.INLINE) != 0
        if view is not None and len(batch.payload):
            taken = np.flatnonzero(writes)
            if len(taken) == len(requests):
                view[: len(batch.payload)] = batch.payload
            else:
                at = 0
                for i in taken.tolist():
                    n = int(room[i])
                    view[int(offsets[i]) : int(offsets[i]) + n] = batch.payload[at : at + n]
                    at += n
        requests["src"][writes] = np.uint64(staged) + offsets[writes]
        requests["dst"][is_read] = np.uint64(staged) + offsets[is_read]
        requests["flags"] &= _FLAGS
        requests["pdid"] = self.pdid
        requests["wr_id"] = cluster.expect_batch(batch, bell, staged, view, offsets)
        node.post(requests)
        cluster.rung[bell] = None

    @staticmethod
    def fail(work: Work, status: Status, note: str) -> None:
        """Complete `work` as a failure of the port's own: it certainly never left."""
        rows = np.zeros(1, COMPLETION)
        rows["status"], rows["flags"] = status, CompletionFlags.DEFINITE
        work.note = note
        work.on_done(int(status), rows, 0)

    def cancel(self, work: Work) -> bool:
        """Take `work` back: before its doorbell has rung it has not left, afterwards its node ends it."""
        return self._cluster.cancel(work)

    def drive(self, done: Callable[[], bool], timeout: float) -> bool:
        """Run the cluster until `done()`, or until nothing is left to happen: nothing times out here."""
        return self._cluster.drive(done)

    def reachability(self, nodes: Sequence[str], timeout: float) -> dict[str, str]:
        """Everything here is simulated."""
        return dict.fromkeys(nodes, "simulated")

    def close(self) -> None:
        """End the session; what is under way is carried to its end first."""
        if not self._closed:
            self._closed = True
            self._cluster.drive(lambda: False)
            self._call(pb.CloseSessionRequest())


class AsyncSimPort:
    """The same for `AsyncClient`: nothing here ever waits for anything but the simulation itself."""

    background = False

    def __init__(self, port: SimPort) -> None:
        self._port = port
        self.pdid, self.home, self.domain = port.pdid, port.home, port.domain
        self.post, self.post_batch, self.cancel = port.post, port.post_batch, port.cancel

    async def control(self, request: Message, timeout: float) -> Message:  # noqa: ASYNC109
        """As `SimPort.control`."""
        return self._port.control(request, timeout)

    async def drive(self, done: Callable[[], bool], timeout: float) -> bool:  # noqa: ASYNC109
        """As `SimPort.drive`."""
        return self._port.drive(done, timeout)

    async def reachability(self, nodes: Sequence[str], timeout: float) -> dict[str, str]:  # noqa: ASYNC109
        """As `SimPort.reachability`."""
        return self._port.reachability(nodes, timeout)

    async def close(self) -> None:
        """As `SimPort.close`."""
        self._port.close()
