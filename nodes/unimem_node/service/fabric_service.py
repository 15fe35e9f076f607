"""`FabricService.Exchange`: the answering side of the gRPC transport."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import grpc
import grpc.aio

from unimem.v1 import node_pb2
from unimem_node.service.rpc import stream_service

if TYPE_CHECKING:
    from unimem_node.service.transports.grpc import GrpcTransport


class FabricService:
    """The one method."""

    def __init__(self, transport: GrpcTransport) -> None:
        self._transport = transport

    def handler(self) -> grpc.GenericRpcHandler[Any, Any]:
        """For `grpc.aio.Server.add_generic_rpc_handlers`."""
        return stream_service(
            node_pb2.DESCRIPTOR.services_by_name["FabricService"], {"Exchange": self.exchange}
        )

    async def exchange(self, _: Any, context: grpc.aio.ServicerContext[Any, Any]) -> None:
        """One peer's stream."""
        await self._transport.accept(context)
