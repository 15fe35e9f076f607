"""A node as a server: port, registration, model, services, telemetry: started and stopped in their order.

The port is bound before anything else (in use: nothing else has happened yet), and served only when the node
knows who it is: the coordinator gives index, window and incarnation, and the model is made for them. Whoever
dials in between waits in the port's queue.
"""

from __future__ import annotations

import asyncio
from contextlib import suppress
from typing import Any, Final

import grpc
import grpc.aio
import structlog
from grpc_health.v1 import health, health_pb2, health_pb2_grpc

from unimem.v1 import coordinator_pb2, node_pb2
from unimem_node.mpsoc.platform import PlatformError
from unimem_node.mpsoc.platform import load as load_platform
from unimem_node.service.bus_service import BusService
from unimem_node.service.config import NodeSettings, split_address
from unimem_node.service.dma_service import DmaService
from unimem_node.service.events import EventBus, make_bus
from unimem_node.service.fabric_service import FabricService, ask
from unimem_node.service.host import NodeHost
from unimem_node.service.membership import Membership
from unimem_node.service.model import Builder, Model
from unimem_node.service.node_service import NodeService
from unimem_node.service.real_time import monotonic_ps, real_time_platform
from unimem_node.service.rpc import CHANNEL_OPTIONS, Refusal
from unimem_node.service.telemetry import Telemetry
from unimem_node.service.transports import Peer
from unimem_node.service.transports.best import BestTransport
from unimem_node.service.transports.grpc import GrpcTransport
from unimem_node.service.warm import load_fast_paths

log = structlog.get_logger(__name__)

SERVICES: Final = tuple(service.full_name for service in node_pb2.DESCRIPTOR.services_by_name.values())

#: Bounds on the steps of a stop; together below the five seconds that a SIGTERM may take.
_LEAVE_S: Final = 1.0
_GRACE_S: Final = 0.5


class StartError(Exception):
    """The node cannot start; the text names the cause and the way out."""


class NodeServer:
    """One node, from `start` to `stop`.

    `ended` is done when this life is over by itself: (why, start again?).
    """

    def __init__(
        self, settings: NodeSettings, build: Builder | None = None, bus: EventBus | None = None
    ) -> None:
        self.settings = settings
        self._build = build or self._model
        self._bus = bus
        self._server: grpc.aio.Server | None = None
        self._membership: Membership | None = None
        self._transport: BestTransport | None = None
        self._telemetry: Telemetry | None = None
        self._bus_service: BusService | None = None
        self._health: Any = vars(health)["aio"].HealthServicer()
        self.host: NodeHost | None = None
        self.port = 0
        self.address = ""
        self.ended: asyncio.Future[tuple[str, bool]] = asyncio.get_running_loop().create_future()

    async def start(self) -> None:
        """Bind, join, make the model, serve.

        Raises `StartError` or `JoinError`; then nothing is left running.
        """
        try:
            await self._start()
        except BaseException:
            await self.stop()
            raise

    async def _start(self) -> None:
        settings = self.settings
        _check_chip(settings)
        # No SO_REUSEPORT: two nodes would share a port, and each would get half of the other's calls.
        server = self._server = grpc.aio.server(options=[*_SERVER_OPTIONS, ("grpc.so_reuseport", 0)])
        self.port = bind(server, settings.listen)
        self.address = settings.advertised(self.port)
        request = coordinator_pb2.RegisterNodeRequest(
            name=settings.node_name(),
            address=self.address,
            platform=settings.platform,
            memory_bytes=settings.memory_bytes,
        )
        if settings.warm and settings.fast:
            load_fast_paths(settings.platform)
        self._membership = Membership(settings.coordinator, request, self._on_routes, self._on_end)
        about = await self._membership.join(settings.coordinator_timeout_s)
        structlog.contextvars.bind_contextvars(node=about.name)

        host = self.host = NodeHost(self._build(about.name, about.index, about.incarnation))
        host.failed.add_done_callback(
            lambda failed: self._on_end(f"its model failed: {failed.result()}", False)
        )
        me = Peer(about.index, about.name, about.address, about.incarnation)
        transport = self._transport = BestTransport(
            host,
            me,
            ask,
            prefer=settings.transport,
            listen=split_address(settings.listen)[0],
            connect_timeout=settings.connect_timeout_s,
        )
        reference = GrpcTransport(transport.reference_sink, me, connect_timeout=settings.connect_timeout_s)
        transport.reference = reference
        host.connect(transport, settings.impair)
        host.set_routes([about])
        self._bus_service = BusService(host)
        server.add_generic_rpc_handlers(
            (
                NodeService(host, about).handler(),
                self._bus_service.handler(),
                DmaService(host).handler(),
                FabricService(reference, me, transport.offer).handler(),
            )
        )
        health_pb2_grpc.add_HealthServicer_to_server(self._health, server)
        names = [*SERVICES, health.SERVICE_NAME]
        if settings.reflection:
            from grpc_reflection.v1alpha import reflection  # noqa: PLC0415 - a megabyte, by flag only

            reflection.enable_server_reflection([*names, reflection.SERVICE_NAME], server)
        await server.start()
        for name in SERVICES:
            await self._health.set(name, health_pb2.HealthCheckResponse.SERVING)
        self._membership.start()
        bus = self._bus or make_bus(settings.mqtt, settings.cluster, about.name)
        self._telemetry = Telemetry(bus, host, about, settings.counters_interval_s)
        await self._telemetry.start()
        log.info(
            "node is up",
            index=about.index,
            incarnation=about.incarnation,
            address=self.address,
            window=f"{about.window_base:#x}+{about.window_size:#x}",
        )

    async def stop(self) -> None:
        """Leave the cluster, end the streams, stop: within five seconds, whoever answers or does not."""
        await self._health.enter_graceful_shutdown()
        if self._membership is not None:
            await self._membership.leave(_LEAVE_S)
        if self.host is not None:
            stopping = Refusal(
                grpc.StatusCode.UNAVAILABLE, "STOPPING", f"node {self.host.node.name} is stopping"
            )
            self.host.domains.end_all(stopping)
            if self._bus_service is not None:
                self._bus_service.end_all(stopping)
        if self.host is not None:
            self.host.close()
        if self._transport is not None:
            self._transport.close()
            await self._transport.wait_closed()
        if self._server is not None:
            await self._server.stop(_GRACE_S)
        if self._telemetry is not None:
            await self._telemetry.stop()
        self._server = self._membership = self._transport = self._telemetry = None
        structlog.contextvars.unbind_contextvars("node")

    def _model(self, name: str, index: int, incarnation: int) -> Model:
        from unimem_node.mpsoc.node import Node  # noqa: PLC0415 - compiled paths are loaded here

        settings = self.settings
        return Node(
            name,
            index,
            platform=real_time_platform(settings.platform),
            memory_bytes=settings.memory_bytes,
            timer=monotonic_ps,
            incarnation=incarnation,
            seed=settings.seed,
            fast=settings.fast,
            topology=settings.topology,
            policy=settings.policy,
        )

    def _on_routes(self, nodes: Any) -> None:
        if self.host is not None:
            self.host.set_routes(nodes)

    def _on_end(self, why: str, again: bool) -> None:
        if not self.ended.done():
            self.ended.set_result((why, again))


_SERVER_OPTIONS: Final[list[tuple[str, Any]]] = [
    *CHANNEL_OPTIONS,
    ("grpc.http2.min_recv_ping_interval_without_data_ms", 5_000),
    ("grpc.http2.max_ping_strikes", 0),
]


def _check_chip(settings: NodeSettings) -> None:
    """Refuse a platform or a memory size that cannot be, before anybody has heard of the node."""
    try:
        load_platform(settings.platform).memory.banks(settings.memory_bytes)
    except PlatformError as error:
        raise StartError(f"--platform {settings.platform}: {error}") from None


def bind(server: grpc.aio.Server, listen: str) -> int:
    """Bind `server` to ``host:port``; returns the port. Raises `StartError` when it cannot be had."""
    host, port = split_address(listen)
    with suppress(RuntimeError):
        bound = server.add_insecure_port(listen)
        if bound:
            return bound
    raise StartError(
        f"cannot listen on {host} port {port}: another program uses it, or it is no address of this machine. "
        f"Stop that program (`ss -ltnp 'sport = :{port}'` shows it), or choose another port: "
        f"--listen {host}:0 takes a free one"
    )
