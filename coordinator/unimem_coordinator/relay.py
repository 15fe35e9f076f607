"""What the coordinator passes on to a node, for clients that cannot dial it (a node in a container network).

Metadata `unimem-node` names the node. Messages pass as the bytes they are, one at a time in each direction,
so that the flow control of both connections meets here; metadata and the final status are copied. Only what
clients call is relayed: opening domains and mapping regions is the coordinator's own business.
"""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import Awaitable, Callable
from typing import Any, Final, NoReturn

import grpc
import grpc.aio

from unimem.v1 import node_pb2
from unimem_coordinator.errors import CoordinatorError, Reason
from unimem_coordinator.nodes_client import NodeClients, reason_of
from unimem_coordinator.rows import NodeState
from unimem_coordinator.service import Context, refuse
from unimem_coordinator.shell import Shell
from unimem_coordinator.values import NodeInfo

#: Service -> unary methods that are relayed.
_UNARY: Final[dict[str, tuple[str, ...]]] = {
    "NodeService": (
        "GetStatus",
        "MapMemory",
        "UnmapMemory",
        "ProtectMemory",
        "ReadMemory",
        "WriteMemory",
        "Advise",
    ),
    "BusService": ("Read", "Write", "ListDevices", "DescribeDevice"),
}

#: Service -> methods with a stream in each direction, or of answers only: on the way it is the same.
_STREAMS: Final[dict[str, tuple[str, ...]]] = {
    "BusService": ("WatchInterrupts",),
    "DmaService": ("Transfer",),
}

#: Full names of the services that are relayed, at least in part.
SERVICES: Final = tuple(
    node_pb2.DESCRIPTOR.services_by_name[name].full_name for name in dict.fromkeys((*_UNARY, *_STREAMS))
)

#: Metadata that belongs to one connection.
_HOP_BY_HOP: Final = frozenset({"user-agent", "te", "content-type", "host"})
_HOP_BY_HOP_PREFIXES: Final = (":", "grpc-")

#: What `read` returns at the end of a stream; grpc-stubs does not know it.
_EOF: Final[Any] = vars(grpc.aio)["EOF"]

Metadata = tuple[tuple[str, str | bytes], ...]


def handlers(shell: Shell, nodes: NodeClients) -> list[grpc.GenericRpcHandler[Any, Any]]:
    """The relayed services, to add to a server."""
    found: dict[str, dict[str, grpc.RpcMethodHandler[Any, Any]]] = {}
    for services, wrap, relay in (
        (_UNARY, grpc.unary_unary_rpc_method_handler, _unary),
        (_STREAMS, grpc.stream_stream_rpc_method_handler, _stream),
    ):
        for service, methods in services.items():
            full = node_pb2.DESCRIPTOR.services_by_name[service].full_name
            known = found.setdefault(full, {})
            known.update({name: wrap(relay(shell, nodes, f"/{full}/{name}")) for name in methods})
    return [grpc.method_handlers_generic_handler(service, methods) for service, methods in found.items()]


def _unary(shell: Shell, nodes: NodeClients, path: str) -> Callable[[bytes, Context], Awaitable[bytes]]:
    async def relay(request: bytes, context: Context) -> bytes:
        node = await _target(shell, context)
        call = nodes.channel(node.address).unary_unary(path, None, None)(
            request, timeout=_timeout(context), metadata=_forwarded(context)
        )
        try:
            response: bytes = await call
        except grpc.aio.AioRpcError as error:
            await _pass_on(error, node, context)
        context.set_trailing_metadata(_copied(await call.trailing_metadata()))
        return response

    return relay


def _stream(shell: Shell, nodes: NodeClients, path: str) -> Callable[[Any, Context], Awaitable[None]]:
    async def relay(_: Any, context: Context) -> None:
        node = await _target(shell, context)
        call = nodes.channel(node.address).stream_stream(path, None, None)(
            None, timeout=_timeout(context), metadata=_forwarded(context)
        )
        upward = asyncio.get_running_loop().create_task(_pump_up(context, call))
        try:
            await context.send_initial_metadata(_copied(await call.initial_metadata()))
            while (message := await call.read()) is not _EOF:
                await context.write(message)
            context.set_trailing_metadata(_copied(await call.trailing_metadata()))
        except grpc.aio.AioRpcError as error:
            await _pass_on(error, node, context)
        finally:
            upward.cancel()
            call.cancel()

    return relay


async def _pump_up(context: Context, call: grpc.aio.StreamStreamCall[Any, Any]) -> None:
    # When the call to the node is over, its status reaches the client by the other direction.
    with contextlib.suppress(grpc.aio.AioRpcError, asyncio.InvalidStateError):
        while (message := await context.read()) is not _EOF:
            await call.write(message)
        await call.done_writing()


async def _target(shell: Shell, context: Context) -> NodeInfo:
    name = next(
        (str(value) for key, value in context.invocation_metadata() or () if key == "unimem-node"), ""
    )
    known = ", ".join(node.name for node in shell.routes.nodes) or "none has joined yet"
    node = shell.node(name)
    if not name:
        await refuse(
            context,
            CoordinatorError(
                Reason.BAD_ARGUMENT,
                "metadata unimem-node is missing: this is a coordinator, which relays to nodes",
                known=known,
                hint=f"name one of: {known}",
            ),
        )
    if node is None:
        await refuse(
            context,
            CoordinatorError(
                Reason.UNKNOWN_NODE,
                f"no node is called {name[:80]!r}; known: {known}",
                node=name[:80],
                known=known,
            ),
        )
    if node.state is not NodeState.UP:
        await refuse(
            context, CoordinatorError(Reason.NODE_LOST, f"node {name} is {node.state.name}", node=name)
        )
    return node


async def _pass_on(error: grpc.aio.AioRpcError, node: NodeInfo, context: Context) -> NoReturn:
    """End the client's call as the node's ended; say so when it was the way to the node that failed."""
    if error.code() is grpc.StatusCode.UNAVAILABLE and not reason_of(error):
        await refuse(
            context,
            CoordinatorError(
                Reason.NODE_UNREACHABLE,
                f"relayed call to node {node.name} at {node.address} failed: {error.details()}",
                node=node.name,
                hint="`unimem status` shows its state",
            ),
        )
    await context.abort(
        error.code(), error.details() or "", trailing_metadata=_copied(error.trailing_metadata())
    )


def _timeout(context: Context) -> float | None:
    left = context.time_remaining()
    # Without a deadline gRPC may report an enormous one, which cannot be passed on.
    return left if left is not None and left < 1e8 else None


def _forwarded(context: Context) -> Metadata:
    return _copied(context.invocation_metadata())


def _copied(metadata: Any) -> Metadata:
    return tuple(
        (key, value)
        for key, value in metadata or ()
        if key == "grpc-status-details-bin"
        or not (key in _HOP_BY_HOP or key.startswith(_HOP_BY_HOP_PREFIXES))
    )
