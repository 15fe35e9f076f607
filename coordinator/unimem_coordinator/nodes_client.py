"""Calls from the coordinator to nodes, over channels kept by address."""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import Collection
from typing import Any, Final

import grpc
import grpc.aio
import structlog
from google.protobuf.message import Message
from google.rpc import error_details_pb2, status_pb2  # type: ignore[import-untyped]

from unimem.v1 import node_pb2 as pb
from unimem.v1 import types_pb2
from unimem_coordinator.errors import FailureKind, NodeFailure
from unimem_coordinator.limits import RIGHTS_READ, RIGHTS_READ_WRITE
from unimem_coordinator.values import (
    CloseDomain,
    MapRegion,
    NodeAction,
    NodeInfo,
    OpenDomain,
    UnmapRegion,
)

log = structlog.get_logger(__name__)

#: How long a node may take for one call.
CALL_SECONDS: Final = 3.0

#: How long a call is repeated while nobody listens at the address: a node registers a moment before it
#: serves, and a dead one is to be noticed before our caller's deadline.
_PATIENCE_SECONDS: Final = 1.0
_FIRST_PAUSE_SECONDS: Final = 0.05

#: Frames pass through the relay: the same limit as the nodes'.
MESSAGE_LIMIT: Final = 8 << 20

CHANNEL_OPTIONS: Final[list[tuple[str, Any]]] = [
    ("grpc.max_send_message_length", MESSAGE_LIMIT),
    ("grpc.max_receive_message_length", MESSAGE_LIMIT),
    ("grpc.enable_http_proxy", 0),  # nodes are never behind the web proxy of the environment
    ("grpc.initial_reconnect_backoff_ms", 50),
    ("grpc.max_reconnect_backoff_ms", 1000),
    ("grpc.keepalive_time_ms", 10_000),
    ("grpc.keepalive_timeout_ms", 5_000),
]

_RIGHTS: Final = {
    RIGHTS_READ: types_pb2.RIGHTS_READ,
    RIGHTS_READ_WRITE: types_pb2.RIGHTS_READ_WRITE,
}

_NO_ANSWER: Final = frozenset(
    {grpc.StatusCode.UNAVAILABLE, grpc.StatusCode.DEADLINE_EXCEEDED, grpc.StatusCode.CANCELLED}
)


class NodeClients:
    """Channels to nodes, and the four calls the coordinator makes on them."""

    def __init__(self, call_seconds: float = CALL_SECONDS) -> None:
        self.call_seconds = call_seconds
        self._channels: dict[str, grpc.aio.Channel] = {}
        self._calls: set[Any] = set()
        self._closed = False

    def channel(self, address: str) -> grpc.aio.Channel:
        """The channel to `address`; made on first use, connected when something is sent."""
        if address not in self._channels:
            self._channels[address] = grpc.aio.insecure_channel(address, options=CHANNEL_OPTIONS)
        return self._channels[address]

    async def perform(self, action: NodeAction, node: NodeInfo) -> None:
        """Have `node` carry out `action`; raises `NodeFailure`."""
        method, request = _call_of(action)
        call = self.channel(node.address).unary_unary(
            f"/unimem.v1.NodeService/{method}",
            request_serializer=lambda message: message.SerializeToString(),
            response_deserializer=None,  # the answers are empty
        )
        metadata = (("unimem-node", node.name), ("unimem-incarnation", str(node.incarnation)))
        loop = asyncio.get_running_loop()
        began = loop.time()
        pause = _FIRST_PAUSE_SECONDS
        while True:
            if self._closed:
                raise NodeFailure(FailureKind.UNREACHABLE, "the coordinator is stopping")
            left = self.call_seconds - (loop.time() - began)
            under_way = call(request, timeout=max(left, 0.001), metadata=metadata)
            self._calls.add(under_way)
            try:
                await under_way
                return
            except asyncio.CancelledError:
                if self._closed:
                    raise NodeFailure(FailureKind.UNREACHABLE, "the coordinator is stopping") from None
                raise
            except grpc.aio.AioRpcError as error:
                refused = error.code() is grpc.StatusCode.UNAVAILABLE
                if not refused or loop.time() - began + pause > min(_PATIENCE_SECONDS, self.call_seconds):
                    failure = failure_of(error)
                    log.warning(
                        "node call failed",
                        node=node.name,
                        address=node.address,
                        method=method,
                        failure=failure.kind.value,
                        text=failure.message,
                    )
                    raise failure from error
            finally:
                self._calls.discard(under_way)
            await asyncio.sleep(pause)
            pause *= 2

    async def retain(self, addresses: Collection[str]) -> None:
        """Close the channels to addresses at which no node is any more."""
        gone = [address for address in self._channels if address not in addresses]
        for channel in [self._channels.pop(address) for address in gone]:
            await channel.close(None)

    def give_up(self) -> None:
        """Every call fails, from now on and those under way: the coordinator is stopping."""
        self._closed = True
        for call in self._calls:
            call.cancel()

    async def close(self) -> None:
        """Close every channel."""
        self.give_up()
        await self.retain(())


def _call_of(action: NodeAction) -> tuple[str, Message]:
    match action:
        case OpenDomain():
            return "OpenDomain", pb.OpenDomainRequest(pdid=action.pdid, token=action.token)
        case CloseDomain():
            return "CloseDomain", pb.CloseDomainRequest(pdid=action.pdid, token=action.token)
        case MapRegion():
            return "MapRegion", pb.MapRegionRequest(
                gva=action.gva,
                length=action.length,
                pdid=action.pdid,
                rights=_RIGHTS[action.rights],
                owner=action.owner,
            )
        case UnmapRegion():
            return "UnmapRegion", pb.UnmapRegionRequest(gva=action.gva, pdid=action.pdid)


def failure_of(error: grpc.aio.AioRpcError) -> NodeFailure:
    """What a node's error status means."""
    text = error.details() or error.code().name
    if error.code() in _NO_ANSWER:
        return NodeFailure(FailureKind.UNREACHABLE, text)
    if error.code() is grpc.StatusCode.RESOURCE_EXHAUSTED:
        return NodeFailure(FailureKind.NO_MEMORY, text)
    return NodeFailure(FailureKind.REFUSED, f"{reason_of(error) or error.code().name}: {text}")


def reason_of(error: grpc.aio.AioRpcError) -> str:
    """The reason of the ErrorInfo in an error status, or nothing."""
    status = status_pb2.Status()
    info = error_details_pb2.ErrorInfo()
    trailing: Any = error.trailing_metadata()
    for key, value in trailing or ():
        if key == "grpc-status-details-bin" and isinstance(value, bytes):
            with contextlib.suppress(ValueError):  # DecodeError, from a foreign node
                status.ParseFromString(value)
    for detail in status.details:
        if detail.Unpack(info):
            return str(info.reason)
    return ""
