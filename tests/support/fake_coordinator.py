"""A coordinator that remembers what nodes say to it and does what the test tells it."""

from __future__ import annotations

import asyncio
from typing import Any

import grpc
import grpc.aio

from unimem.v1 import coordinator_pb2 as pb
from unimem.v1 import coordinator_pb2_grpc, types_pb2


class FakeCoordinator(coordinator_pb2_grpc.CoordinatorServiceServicer):
    def __init__(self, ttl_s: float = 10.0) -> None:
        self.ttl_ns = int(ttl_s * 1e9)
        self.nodes: dict[str, types_pb2.Node] = {}
        self.boots: dict[str, int] = {}
        self.tokens: dict[str, str] = {}
        self.renewed = asyncio.Event()
        self.registrations: list[pb.RegisterNodeRequest] = []
        self.deregistered: list[str] = []
        self.refuse_register: grpc.StatusCode | None = None
        self._changed = asyncio.Event()
        self._server: grpc.aio.Server | None = None
        self.address = ""

    async def start(self, address: str = "127.0.0.1:0") -> str:
        self._server = grpc.aio.server(options=[("grpc.so_reuseport", 0)])
        coordinator_pb2_grpc.add_CoordinatorServiceServicer_to_server(self, self._server)  # type: ignore[no-untyped-call]
        self.address = f"127.0.0.1:{self._server.add_insecure_port(address)}"
        await self._server.start()
        return self.address

    async def stop(self) -> None:
        if self._server is not None:
            await self._server.stop(None)

    def publish(self) -> None:
        self._changed.set()
        self._changed = asyncio.Event()

    async def RegisterNode(self, request: Any, context: Any) -> Any:  # noqa: N802
        self.registrations.append(request)
        if self.refuse_register is not None:
            await context.abort(self.refuse_register, "not you")
        name = request.name or f"n{len(self.nodes)}"
        node = self.nodes.get(name) or types_pb2.Node(index=len(self.nodes), name=name)
        if self.boots.get(name) != request.boot_id:
            node.incarnation += 1
        self.boots[name] = request.boot_id
        node.address, node.platform, node.memory_bytes = (
            request.address,
            request.platform,
            request.memory_bytes,
        )
        node.window_base, node.window_size = (node.index + 1) << 36, 1 << 36
        node.state = types_pb2.NODE_STATE_UP
        self.nodes[name] = node
        self.tokens[name] = f"lease{len(self.registrations)}"
        self.publish()
        return pb.RegisterNodeResponse(node=node, lease_token=self.tokens[name], lease_ttl_ns=self.ttl_ns)

    async def RenewLease(self, request: Any, context: Any) -> Any:  # noqa: N802
        if self.tokens.get(request.name) != request.lease_token:
            await context.abort(grpc.StatusCode.NOT_FOUND, "no such lease")
        self.renewed.set()
        return pb.RenewLeaseResponse(lease_ttl_ns=self.ttl_ns)

    async def DeregisterNode(self, request: Any, context: Any) -> Any:  # noqa: N802
        self.deregistered.append(request.name)
        self.nodes[request.name].state = types_pb2.NODE_STATE_LEFT
        self.publish()
        return pb.DeregisterNodeResponse()

    async def WatchRoutes(self, request: Any, context: Any) -> Any:  # noqa: N802
        while True:
            changed = self._changed
            yield pb.WatchRoutesResponse(epoch=1, nodes=self.nodes.values())
            await changed.wait()
