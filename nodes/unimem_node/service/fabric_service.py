"""`FabricService`: the answering side of the gRPC transport, and what other transports there are."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import grpc
import grpc.aio

from unimem.v1 import node_pb2
from unimem_node.service.rpc import CHANNEL_OPTIONS, stream_service
from unimem_node.service.transports import Peer
from unimem_node.service.transports.door import Offer
from unimem_node.service.transports.hello import HelloError

if TYPE_CHECKING:
    from unimem_node.service.transports.grpc import GrpcTransport

_DESCRIPTOR = node_pb2.DESCRIPTOR.services_by_name["FabricService"]


class FabricService:
    """Exchange and Describe, of node `me` with this offer."""

    def __init__(self, transport: GrpcTransport, me: Peer, offer: Offer | None = None) -> None:
        self._transport, self._me, self._offer = transport, me, offer or Offer(("grpc",))

    def handler(self) -> grpc.GenericRpcHandler[Any, Any]:
        """For `grpc.aio.Server.add_generic_rpc_handlers`."""
        return stream_service(_DESCRIPTOR, {"Exchange": self.exchange}, {"Describe": self.describe})

    async def exchange(self, _: Any, context: grpc.aio.ServicerContext[Any, Any]) -> None:
        """One peer's stream."""
        await self._transport.accept(context)

    def describe(self, _: node_pb2.DescribeRequest) -> node_pb2.DescribeResponse:
        """What this node offers."""
        offer = self._offer
        return node_pb2.DescribeResponse(
            name=self._me.name,
            incarnation=self._me.incarnation,
            transports=offer.kinds,
            tcp_port=offer.tcp_port,
            unix_socket=offer.unix_socket,
        )


async def ask(peer: Peer, timeout_s: float) -> Offer:
    """What a peer offers; nothing when it does not know the question. Raises `HelloError`: no answer."""
    async with grpc.aio.insecure_channel(peer.address, _PEER_OPTIONS) as channel:
        call: Any = channel.unary_unary(
            f"/{_DESCRIPTOR.full_name}/Describe",
            node_pb2.DescribeRequest.SerializeToString,
            node_pb2.DescribeResponse.FromString,
        )
        try:
            answer = await call(node_pb2.DescribeRequest(), timeout=timeout_s, wait_for_ready=True)
        except grpc.aio.AioRpcError as error:
            if error.code() is grpc.StatusCode.UNIMPLEMENTED:
                return Offer()
            raise HelloError(
                f"no connection to {peer.name} at {peer.address} within {timeout_s:g} s "
                f"({error.code().name}: {error.details()})"
            ) from error
    if (answer.name, answer.incarnation) != (peer.name, peer.incarnation):
        raise HelloError(
            f"{peer.name}, incarnation {peer.incarnation}, was expected at {peer.address}; "
            f"{answer.name}, incarnation {answer.incarnation}, answered"
        )
    return Offer(tuple(answer.transports), answer.tcp_port, answer.unix_socket)


#: Retried quickly within the deadline: the peer may be just starting.
_PEER_OPTIONS: list[tuple[str, Any]] = [
    *CHANNEL_OPTIONS,
    ("grpc.use_local_subchannel_pool", 1),
    ("grpc.initial_reconnect_backoff_ms", 50),
    ("grpc.min_reconnect_backoff_ms", 50),
    ("grpc.max_reconnect_backoff_ms", 500),
]
