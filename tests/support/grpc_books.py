"""A node of `kernel_books` behind real gRPC, for tests of the coordinator as a service."""

from __future__ import annotations

import asyncio
import itertools
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from typing import Any

import grpc
import grpc.aio
from google.protobuf.message import Message

from support.kernel_books import Books
from unimem.v1 import coordinator_pb2 as pb
from unimem.v1 import coordinator_pb2_grpc, node_pb2, node_pb2_grpc, types_pb2
from unimem_coordinator import CloseDomain, MapRegion, OpenDomain, UnmapRegion
from unimem_coordinator.server import CoordinatorServer

Context = grpc.aio.ServicerContext[Any, Any]

_boot_ids = itertools.count(1 << 40)


class GrpcNode(node_pb2_grpc.NodeServiceServicer, node_pb2_grpc.DmaServiceServicer):  # type: ignore[misc]
    """Keeps books; `obstacle`, when set, is awaited before each call of the coordinator."""

    def __init__(self, name: str) -> None:
        self.name = name
        self.books = Books()
        self.calls: list[str] = []
        self._progress = asyncio.Condition()
        self.metadata: dict[str, str] = {}
        self.obstacle: Callable[[Context], Any] | None = None
        self.address = ""
        self.server: grpc.aio.Server | None = None

    async def start(self) -> None:
        self.server = grpc.aio.server(options=[("grpc.so_reuseport", 0)])
        node_pb2_grpc.add_NodeServiceServicer_to_server(self, self.server)  # type: ignore[no-untyped-call]
        node_pb2_grpc.add_DmaServiceServicer_to_server(self, self.server)  # type: ignore[no-untyped-call]
        port = self.server.add_insecure_port(self.address or "127.0.0.1:0")
        self.address = f"127.0.0.1:{port}"
        await self.server.start()

    async def stop(self) -> None:
        assert self.server is not None
        await self.server.stop(None)

    def registration(self, boot_id: int | None = None) -> pb.RegisterNodeRequest:
        return pb.RegisterNodeRequest(
            name=self.name,
            address=self.address,
            platform="zynqmp",
            memory_bytes=4 << 30,
            boot_id=boot_id or next(_boot_ids),
        )

    async def until(self, true: Callable[[], bool]) -> None:
        """Until something is true of the calls or the books."""
        async with asyncio.timeout(10), self._progress:
            await self._progress.wait_for(true)

    async def called(self, method: str) -> None:
        """Until the coordinator has called this method."""
        await self.until(lambda: method in self.calls)

    async def _carry_out(self, action: Any, context: Context) -> None:
        self.calls.append(type(action).__name__)
        async with self._progress:
            self._progress.notify_all()
        self.metadata = {key: str(value) for key, value in context.invocation_metadata() or ()}
        if self.obstacle is not None:
            await self.obstacle(context)
        self.books.carry_out(action)
        async with self._progress:
            self._progress.notify_all()

    async def OpenDomain(self, request: Any, context: Context) -> Message:  # noqa: N802
        await self._carry_out(OpenDomain(self.name, request.pdid, request.token), context)
        return node_pb2.OpenDomainResponse()

    async def CloseDomain(self, request: Any, context: Context) -> Message:  # noqa: N802
        await self._carry_out(CloseDomain(self.name, request.pdid, request.token), context)
        return node_pb2.CloseDomainResponse()

    async def MapRegion(self, request: Any, context: Context) -> Message:  # noqa: N802
        action = MapRegion(
            self.name, request.gva, request.length, request.pdid, request.rights, request.owner
        )
        await self._carry_out(action, context)
        return node_pb2.MapRegionResponse()

    async def UnmapRegion(self, request: Any, context: Context) -> Message:  # noqa: N802
        await self._carry_out(UnmapRegion(self.name, request.gva, request.pdid), context)
        return node_pb2.UnmapRegionResponse()

    async def GetStatus(self, _: Any, context: Context) -> Message:  # noqa: N802
        context.set_trailing_metadata((("unimem-served-by", self.name),))
        return node_pb2.GetStatusResponse(node=types_pb2.Node(name=self.name), virtual_time_ns=42)

    async def Transfer(self, requests: AsyncIterator[Any], context: Context) -> AsyncIterator[Message]:  # noqa: N802
        """Echo `packed`; "refuse" and "die" end the stream in their ways."""
        metadata = dict(context.invocation_metadata() or ())
        await context.send_initial_metadata((("unimem-served-by", self.name),))
        async for request in requests:
            if request.packed == b"refuse":
                await context.abort(
                    grpc.StatusCode.PERMISSION_DENIED, "no", trailing_metadata=(("unimem-why", "because"),)
                )
            if request.packed == b"die":
                assert self.server is not None
                asyncio.get_running_loop().create_task(self.server.stop(None))
                await asyncio.Event().wait()
            yield node_pb2.TransferResponse(packed=request.packed + str(metadata["unimem-token"]).encode())
        context.set_trailing_metadata((("unimem-bye", self.name),))


class Rig:
    """A coordinator, a stub to it, and nodes."""

    def __init__(self, server: CoordinatorServer) -> None:
        self.server = server
        self.channel = grpc.aio.insecure_channel(server.address)
        self.stub: Any = coordinator_pb2_grpc.CoordinatorServiceStub(self.channel)  # type: ignore[no-untyped-call]
        self.nodes: list[GrpcNode] = []

    async def add_node(self, name: str) -> GrpcNode:
        node = GrpcNode(name)
        await node.start()
        self.nodes.append(node)
        await self.stub.RegisterNode(node.registration())
        return node


@asynccontextmanager
async def rig(*names: str, **options: Any) -> AsyncIterator[Rig]:
    """A running coordinator with registered nodes of these names."""
    server = CoordinatorServer("127.0.0.1:0", **options)
    await server.start()
    built = Rig(server)
    try:
        for name in names:
            await built.add_node(name)
        yield built
    finally:
        for node in built.nodes:
            await node.stop()
        await built.channel.close(None)
        await server.stop()
