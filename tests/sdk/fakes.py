"""A cluster in a dictionary: the coordinator's calls, and memory that answers work requests.

`LoopbackPort` puts a client right on it; `fake_grpc` serves it over real gRPC. No SMMU: rights are looked up.
"""

from __future__ import annotations

import struct
import threading
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np

from unimem import wire
from unimem._failures import refusal
from unimem._many import failed_row
from unimem._port import Batch, Work
from unimem.addresses import window_of
from unimem.v1 import coordinator_pb2 as pb
from unimem.v1 import types_pb2
from unimem.wire import COMPLETION, CompletionFlags, Op, Status, WorkFlags


class Refused(Exception):  # noqa: N818 - what a coordinator does
    def __init__(self, reason: str, message: str, **metadata: str) -> None:
        super().__init__(message)
        self.reason, self.metadata = reason, metadata


@dataclass
class FakeRegion:
    gva: int
    node: str
    pdid: int
    name: str
    data: bytearray
    grants: dict[int, int] = field(default_factory=dict)

    def message(self) -> types_pb2.Region:
        grants = [types_pb2.Grant(pdid=p, rights=r) for p, r in self.grants.items()]  # type: ignore[arg-type]
        return types_pb2.Region(
            gva=self.gva, length=len(self.data), node=self.node, pdid=self.pdid, name=self.name,
            state=types_pb2.REGION_STATE_ACTIVE, grants=grants,
        )  # fmt: skip


class FakeCluster:
    """Nodes n0, n1, ...; regions page by page; sessions with a private domain or a named one."""

    def __init__(self, nodes: int = 4) -> None:
        self.names = [f"n{i}" for i in range(nodes)]
        self.addresses = dict.fromkeys(self.names, "")
        self.states = dict.fromkeys(self.names, types_pb2.NODE_STATE_UP)
        self.regions: dict[int, FakeRegion] = {}
        self.next = {name: window_of(i).start for i, name in enumerate(self.names)}
        self.sessions: dict[str, int] = {}
        self.domains: dict[str, int] = {}
        self.pdids = 0
        self.calls: list[str] = []
        self.lock = threading.Lock()

    # -- coordinator ----------------------------------------------------------------------------------

    def node(self, name: str) -> types_pb2.Node:
        if name not in self.names:
            raise Refused("UNKNOWN_NODE", f"no node is called {name!r}", node=name)
        index = self.names.index(name)
        window = window_of(index)
        return types_pb2.Node(
            name=name, index=index, address=self.addresses[name], state=self.states[name],
            window_base=window.start, window_size=len(window), incarnation=1, platform="zynqmp",
            memory_bytes=4 << 30,
        )  # fmt: skip

    def control(self, request: object) -> object:
        name = type(request).__name__.removesuffix("Request")
        self.calls.append(name)
        session = getattr(request, "session_id", "")
        if session and session not in self.sessions:
            raise Refused("SESSION_EXPIRED", "the session has ended")
        return getattr(self, name)(request)

    def ListNodes(self, _: pb.ListNodesRequest) -> pb.ListNodesResponse:  # noqa: N802
        return pb.ListNodesResponse(nodes=[self.node(n) for n in self.names], epoch=1)

    def OpenSession(self, request: pb.OpenSessionRequest) -> pb.OpenSessionResponse:  # noqa: N802
        home = self.node(request.home or self.names[0])
        if request.domain not in self.domains or not request.domain:
            self.pdids += 1
            self.domains[request.domain or f"private-{self.pdids}"] = self.pdids
        pdid = self.domains.get(request.domain, self.pdids)
        session = f"s{len(self.sessions) + 1}"
        self.sessions[session] = pdid
        return pb.OpenSessionResponse(
            session_id=session, token=f"token-{session}", pdid=pdid, home=home, session_ttl_ns=30 * 10**9,
            domain=request.domain,
        )  # fmt: skip

    def RenewSession(self, _: pb.RenewSessionRequest) -> pb.RenewSessionResponse:  # noqa: N802
        return pb.RenewSessionResponse(session_ttl_ns=30 * 10**9)

    def CloseSession(self, request: pb.CloseSessionRequest) -> pb.CloseSessionResponse:  # noqa: N802
        self.sessions.pop(request.session_id, None)
        return pb.CloseSessionResponse()

    def AllocateRegion(self, request: pb.AllocateRegionRequest) -> pb.AllocateRegionResponse:  # noqa: N802
        pdid = self.sessions[request.session_id]
        node = request.node or self.names[0]
        self.node(node)
        if request.length > 1 << 30:
            raise Refused("NO_SPACE", f"{node} has no {request.length} bytes left", node=node)
        if request.name and any(r.name == request.name and r.pdid == pdid for r in self.regions.values()):
            raise Refused("NAME_TAKEN", f"a region is called {request.name!r} already")
        gva = self.next[node]
        self.next[node] += (request.length + 4095) & ~4095
        region = FakeRegion(gva, node, pdid, request.name, bytearray(request.length))
        self.regions[gva] = region
        return pb.AllocateRegionResponse(region=region.message())

    def FreeRegion(self, request: pb.FreeRegionRequest) -> pb.FreeRegionResponse:  # noqa: N802
        if request.gva not in self.regions:
            inside = self.find(request.gva, 1) is not None
            reason = "NOT_REGION_BASE" if inside else "UNKNOWN_REGION"
            raise Refused(reason, "that is no region's base")
        del self.regions[request.gva]
        return pb.FreeRegionResponse()

    def ShareRegion(self, request: pb.ShareRegionRequest) -> pb.ShareRegionResponse:  # noqa: N802
        region = self.regions[request.gva]
        region.grants[request.pdid or self.domains[request.domain]] = int(request.rights)
        return pb.ShareRegionResponse(region=region.message())

    def ResolveAddress(self, request: pb.ResolveAddressRequest) -> pb.ResolveAddressResponse:  # noqa: N802
        region = self.find(request.gva, 1)
        if region is None:
            raise Refused("UNKNOWN_REGION", "no region has that address")
        return pb.ResolveAddressResponse(region=region.message(), node=self.node(region.node), va=request.gva)

    def ListRegions(self, request: pb.ListRegionsRequest) -> pb.ListRegionsResponse:  # noqa: N802
        found = [r.message() for r in self.regions.values() if request.node in {"", r.node}]
        return pb.ListRegionsResponse(regions=found)

    # -- memory ---------------------------------------------------------------------------------------

    def find(self, gva: int, n: int) -> FakeRegion | None:
        for region in self.regions.values():
            if region.gva <= gva and gva + n <= region.gva + len(region.data):
                return region
        return None

    def view(self, pdid: int, gva: int, n: int, write: bool) -> tuple[int, memoryview]:
        region = self.find(gva, n)
        if region is None:
            return Status.TRANSLATION_FAULT, memoryview(b"")
        rights = 3 if region.pdid == pdid else region.grants.get(pdid, 0)
        if not rights:
            return Status.TRANSLATION_FAULT, memoryview(b"")
        if not rights & (2 if write else 1):
            return Status.PERMISSION_FAULT, memoryview(b"")
        start = gva - region.gva
        return Status.OK, memoryview(region.data)[start : start + n]

    def execute(self, *arguments: Any) -> tuple[np.ndarray, bytes]:
        """One work request: (COMPLETION array of one row, bytes of a READ)."""
        with self.lock:  # atomics of several threads
            return self._execute(*arguments)

    def _execute(
        self,
        pdid: int,
        op: int,
        src: int,
        dst: int,
        n: int,
        data: memoryview | None,
        operand: int,
        compare: int,
        flags: int = 0,
    ) -> tuple[np.ndarray, bytes]:
        rows = np.zeros(1, COMPLETION)
        row = rows[0]
        row["op"], row["pdid"] = op, pdid
        row["posted_ps"], row["done_ps"] = 1_000, 4_000
        row["parts_ps"][0], row["parts_ps"][8] = 1_000, 2_000
        gva, write = (src, False) if op == Op.READ else (dst, True)
        status, memory = self.view(pdid, gva, n, write)
        found = b""
        if status == Status.OK and op == Op.WRITE and data is None:
            status, source = self.view(pdid, src, n, False)
            data = memoryview(bytes(source))
            gva, write = (src, False) if status else (gva, write)
        if status:
            row["status"], row["flags"], row["side"] = status, CompletionFlags.DEFINITE, wire.Side.TARGET
            row["stage"], row["level"], row["access"], row["stream_id"] = 1, 3, write, 0x200
            row["iova"], row["node"] = gva, (gva >> 36) - 1
            return rows, b""
        row["bytes"] = n
        if op == Op.WRITE:
            assert data is not None
            memory[:] = data
            if flags & WorkFlags.SIGNAL:
                self.view(pdid, compare, 8, True)[1][:] = operand.to_bytes(8, "little")
        elif op == Op.COPY:
            memory[:] = self.view(pdid, src, n, False)[1]
        elif op == Op.SEND:
            assert data is not None
            row["status"], row["node"] = self._deliver(dst, bytes(data)), (dst >> 36) - 1
        elif op == Op.READ:
            found = bytes(memory)
        else:
            old = int.from_bytes(memory, "little")
            row["value"] = old
            new = {Op.FETCH_ADD: old + operand, Op.SWAP: operand}.get(
                Op(op), operand if old == compare else old
            )
            memory[:] = (new % (1 << 8 * n)).to_bytes(n, "little")
        return rows, found

    def _deliver(self, gva: int, data: bytes) -> Status:
        """A SEND, as the layout in `unimem.wire` says."""
        region = self.find(gva, 64)
        assert region is not None
        memory = memoryview(region.data)[gva - region.gva :]
        head, tail = struct.unpack_from("<QQ", memory, 0)
        slots = struct.unpack_from("<I", memory, 16)[0]
        if head - tail == slots:
            return Status.MAILBOX_FULL
        at = 64 + -(-slots // 64) * 64 + head % slots * 64
        memory[at : at + len(data)] = data
        memory[64 + head % slots] = len(data)
        struct.pack_into("<Q", memory, 0, head + 1)
        return Status.OK


class LoopbackPort:
    """A client right on a `FakeCluster`. `deferred`: work waits until `step` or `drive` does it."""

    background = False

    def __init__(
        self, cluster: FakeCluster, home: str = "", domain: str = "", *, deferred: bool = False
    ) -> None:
        self.cluster = cluster
        self.deferred = deferred
        self.frozen = False  # drive makes no progress: deadlines pass
        self.queue: list[Work | Batch] = []
        self.log: list[Work | Batch] = []
        self.closed = 0
        session = cluster.control(pb.OpenSessionRequest(home=home, domain=domain))
        assert isinstance(session, pb.OpenSessionResponse)
        self.session = session
        self.pdid, self.home, self.domain = session.pdid, session.home.name, session.domain

    def control(self, request: object, timeout: float) -> object:
        for name in ("session_id", "token"):
            if name in request.DESCRIPTOR.fields_by_name:  # type: ignore[attr-defined]
                setattr(request, name, getattr(self.session, name))
        try:
            return self.cluster.control(request)
        except Refused as error:
            raise refusal(request, error.reason, str(error), metadata=error.metadata) from None  # type: ignore[arg-type]

    def post(self, work: Work) -> None:
        self.log.append(work)
        if self.deferred:
            self.queue.append(work)
        else:
            self._do(work)

    def post_batch(self, batch: Batch) -> None:
        self.log.append(batch)
        if self.deferred:
            self.queue.append(batch)
        else:
            self._do_batch(batch)

    def step(self) -> None:
        work = self.queue.pop(0)
        self._do_batch(work) if isinstance(work, Batch) else self._do(work)

    def drive(self, done: Callable[[], bool], timeout: float) -> bool:
        while not done() and self.queue and not self.frozen:
            self.step()
        return done()

    def cancel(self, work: Work) -> bool:
        if work not in self.queue:
            return False
        self.queue.remove(work)
        work.on_done(Status.CANCELLED, failed_row(Status.CANCELLED, definite=True), 0)
        return True

    def reachability(self, nodes: Sequence[str], timeout: float) -> dict[str, str]:
        return dict.fromkeys(nodes, "simulated")

    def close(self) -> None:
        self.closed += 1
        if self.closed == 1:
            self.cluster.control(pb.CloseSessionRequest(session_id=self.session.session_id))
            for work in [w for w in self.queue if isinstance(w, Work)]:
                self.cancel(work)

    def _do(self, work: Work) -> None:
        rows, found = self.cluster.execute(
            self.pdid,
            work.op,
            work.src,
            work.dst,
            work.length,
            work.data,
            work.operand,
            work.compare,
            work.flags,
        )
        if found and work.out is not None:
            work.out[:] = found
        work.on_done(int(rows["status"][0]), rows, 0)

    def _do_batch(self, batch: Batch) -> None:
        answers, at = [], 0
        for i, wr in enumerate(batch.requests):
            n = int(wr["length"])
            data = None
            if wr["flags"] & WorkFlags.INLINE:
                data = memoryview(batch.payload[at : at + n])
                at += wire.padded(n)
            rows, found = self.cluster.execute(
                self.pdid, int(wr["op"]), int(wr["src"]), int(wr["dst"]), n, data,
                int(wr["operand"]), int(wr["compare"]), int(wr["flags"]),
            )  # fmt: skip
            if found and batch.out is not None:
                batch.out[i, :n] = np.frombuffer(found, np.uint8)
            answers.append(rows)
        batch.on_rows(np.concatenate(answers), np.arange(len(batch.requests)))


class AsyncLoopbackPort(LoopbackPort):
    """The same for `AsyncClient`."""

    async def control(self, request: object, timeout: float) -> object:  # type: ignore[override] # noqa: ASYNC109
        return super().control(request, timeout)

    async def drive(self, done: Callable[[], bool], timeout: float) -> bool:  # type: ignore[override] # noqa: ASYNC109
        return super().drive(done, timeout)

    async def reachability(self, nodes: Sequence[str], timeout: float) -> dict[str, str]:  # type: ignore[override] # noqa: ASYNC109
        return super().reachability(nodes, timeout)

    async def close(self) -> None:  # type: ignore[override]
        super().close()
