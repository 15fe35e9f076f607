"""The node's place in the cluster: registering with the coordinator, the lease, the route table.

The coordinator is never on the path of a transfer. While it is away the node serves on with the routes it
has; when it is back, the lease is renewed, or, if it ran out, the node registers again under the same boot
id, which is the same incarnation: its memory is still there.
"""

from __future__ import annotations

import asyncio
import secrets
from collections.abc import Callable, Iterable
from typing import Any, Final

import grpc
import grpc.aio
import structlog

from unimem.v1 import coordinator_pb2, coordinator_pb2_grpc, types_pb2
from unimem_node.service.rpc import CHANNEL_OPTIONS, reason_of

log = structlog.get_logger(__name__)

_CALL_S: Final = 5.0
_FIRST_DELAY_S: Final = 0.2
_LONGEST_DELAY_S: Final = 5.0
_SAY_EVERY_S: Final = 3.0

#: Answers that another attempt does not change.
_FINAL: Final = frozenset(
    {
        grpc.StatusCode.INVALID_ARGUMENT,
        grpc.StatusCode.ALREADY_EXISTS,
        grpc.StatusCode.PERMISSION_DENIED,
        grpc.StatusCode.RESOURCE_EXHAUSTED,
        grpc.StatusCode.OUT_OF_RANGE,
        grpc.StatusCode.UNIMPLEMENTED,
    }
)
#: Answers to a renewal that mean: there is no such lease.
_NO_LEASE: Final = frozenset(
    {
        grpc.StatusCode.NOT_FOUND,
        grpc.StatusCode.FAILED_PRECONDITION,
        grpc.StatusCode.PERMISSION_DENIED,
        grpc.StatusCode.UNAUTHENTICATED,
        grpc.StatusCode.ABORTED,
    }
)


class JoinError(Exception):
    """The node could not join: the coordinator was not there in time, or said no. The text says which."""


class Membership:
    """One node's registration. `on_routes` hears each route table, `on_end` (once) that this life is over.

    It is over when another process has registered under the node's name (``again`` is False: two of a name
    would push each other out for ever), or when the coordinator has forgotten the node and gave it a new
    index or incarnation (``again``: nothing of its memory belongs to anybody any more, so it starts anew).
    """

    def __init__(
        self,
        coordinator: str,
        request: coordinator_pb2.RegisterNodeRequest,
        on_routes: Callable[[Iterable[types_pb2.Node]], None],
        on_end: Callable[[str, bool], None],
    ) -> None:
        self._address, self._request = coordinator, request
        self._request.boot_id = secrets.randbits(64)
        self._on_routes, self._on_end = on_routes, on_end
        options = [
            *CHANNEL_OPTIONS,
            ("grpc.initial_reconnect_backoff_ms", 200),
            ("grpc.max_reconnect_backoff_ms", 2000),
        ]
        self._channel = grpc.aio.insecure_channel(coordinator, options)
        self._stub: Any = coordinator_pb2_grpc.CoordinatorServiceStub(self._channel)  # type: ignore[no-untyped-call]
        self._token, self._ttl_s = "", 1.0
        self._tasks: list[asyncio.Task[None]] = []
        self.node = types_pb2.Node()

    async def join(self, within_s: float) -> types_pb2.Node:
        """Register; waits up to `within_s` seconds for the coordinator, saying so. Raises `JoinError`."""
        loop = asyncio.get_running_loop()
        start = loop.time()
        said, delay = start - _SAY_EVERY_S + 1.0, _FIRST_DELAY_S
        while True:
            try:
                await self._register(min(_CALL_S, max(0.5, start + within_s - loop.time())))
            except grpc.aio.AioRpcError as error:
                waited = loop.time() - start
                if error.code() in _FINAL:
                    raise JoinError(
                        f"the coordinator at {self._address} refused this node: {error.details()}"
                    ) from error
                if waited >= within_s:
                    raise JoinError(
                        f"no coordinator at {self._address} within {within_s:g} s ({error.code().name}: "
                        f"{error.details()}). Start it (`unimem coordinator --listen {self._address}`), "
                        "or give its address with --coordinator"
                    ) from error
                if loop.time() - said >= _SAY_EVERY_S:
                    said = loop.time()
                    log.warning(
                        "waiting for the coordinator",
                        coordinator=self._address,
                        waited_s=round(waited, 1),
                        giving_up_after_s=within_s,
                        status=error.code().name,
                    )
                await asyncio.sleep(min(delay, max(0.0, within_s - waited)))
                delay = min(2 * delay, 1.0)
            else:
                return self.node

    def start(self) -> None:
        """Keep the lease and follow the routes, until `leave`."""
        self._tasks = [asyncio.create_task(self._keep_lease()), asyncio.create_task(self._follow_routes())]

    async def leave(self, within_s: float) -> None:
        """Deregister if the coordinator can be reached within `within_s` seconds, and stop."""
        for task in self._tasks:
            task.cancel()
        await asyncio.gather(*self._tasks, return_exceptions=True)
        if self._token:
            request = coordinator_pb2.DeregisterNodeRequest(name=self.node.name, lease_token=self._token)
            try:
                await self._stub.DeregisterNode(request, timeout=within_s)
            except grpc.aio.AioRpcError as error:
                log.warning("leaving without the coordinator's knowledge", status=error.code().name)
        await self._channel.close(None)

    async def _register(self, within_s: float = _CALL_S) -> None:
        answer = await self._stub.RegisterNode(self._request, timeout=within_s)
        self._token, self._ttl_s = answer.lease_token, max(0.1, answer.lease_ttl_ns / 1e9)
        self._request.name = answer.node.name  # a name given to us stays ours
        before, self.node = self.node, answer.node
        if before.name and (before.index, before.incarnation) != (self.node.index, self.node.incarnation):
            self._on_end(
                f"the coordinator gave {self.node.name} a new incarnation, {self.node.incarnation}", True
            )

    async def _keep_lease(self) -> None:
        delay = 0.0
        while True:
            await asyncio.sleep(delay or self._ttl_s / 3)
            try:
                request = coordinator_pb2.RenewLeaseRequest(name=self.node.name, lease_token=self._token)
                answer = await self._stub.RenewLease(request, timeout=min(_CALL_S, self._ttl_s))
                self._ttl_s, delay = max(0.1, answer.lease_ttl_ns / 1e9), 0.0
                continue
            except grpc.aio.AioRpcError as error:
                if reason_of(error) == "NODE_REPLACED":
                    self._token = ""
                    self._on_end(f"another process has joined as {self.node.name}: {error.details()}", False)
                    return
                if error.code() not in _NO_LEASE:
                    log.warning(
                        "the lease could not be renewed", status=error.code().name, error=error.details()
                    )
                    delay = min(self._ttl_s / 6, 1.0)
                    continue
            try:
                log.warning("the lease is lost: registering again", node=self.node.name)
                await self._register()
                delay = 0.0
            except grpc.aio.AioRpcError as error:
                log.error("registering again failed", status=error.code().name, error=error.details())
                delay = min(self._ttl_s / 3, 1.0)

    async def _follow_routes(self) -> None:
        delay = _FIRST_DELAY_S
        while True:
            try:
                # Always the whole table: a coordinator whose state was lost may count its epochs from anew.
                async for table in self._stub.WatchRoutes(coordinator_pb2.WatchRoutesRequest(known_epoch=0)):
                    delay = _FIRST_DELAY_S
                    self._on_routes(table.nodes)
            except grpc.aio.AioRpcError as error:
                log.warning("routes are not followed", status=error.code().name, retry_in_s=delay)
            await asyncio.sleep(delay)
            delay = min(2 * delay, _LONGEST_DELAY_S)
