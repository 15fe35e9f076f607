"""The coordinator as a service: one port with CoordinatorService, the relay, health and reflection."""

from __future__ import annotations

import asyncio
import secrets
import signal
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any, Final

import grpc
import grpc.aio
import structlog
from grpc_health.v1 import health, health_pb2, health_pb2_grpc
from grpc_reflection.v1alpha import reflection

from unimem_coordinator import relay, service
from unimem_coordinator.core import Coordinator
from unimem_coordinator.errors import StoreError
from unimem_coordinator.nodes_client import CALL_SECONDS, MESSAGE_LIMIT, NodeClients
from unimem_coordinator.shell import Shell
from unimem_coordinator.store import MemoryStore, SqliteStore

log = structlog.get_logger(__name__)

#: Exit code of a coordinator that could not start.
CANNOT_START: Final = 3

_STOP_SECONDS: Final = 1.0

_SERVER_OPTIONS: Final[list[tuple[str, Any]]] = [
    # Without this a second coordinator would share the port with the first, and get half of the calls.
    ("grpc.so_reuseport", 0),
    ("grpc.max_send_message_length", MESSAGE_LIMIT),
    ("grpc.max_receive_message_length", MESSAGE_LIMIT),
    # Clients and nodes ping idle connections; that is no abuse.
    ("grpc.keepalive_permit_without_calls", 1),
    ("grpc.http2.min_recv_ping_interval_without_data_ms", 5_000),
    ("grpc.http2.max_ping_strikes", 0),
]


class CannotStart(Exception):  # noqa: N818 - it says what happened
    """The coordinator cannot start; the message names what is in the way and the way out."""


class CoordinatorServer:
    """A coordinator listening on `listen` ("host:port", port 0: any free one), its state in the file `state`.

    `state` None: in memory, forgotten at the end. `node_ttl` and `session_ttl` in seconds; `node_timeout`:
    how long a node may take for one call. `enable_reflection`: list the services to tools like grpcurl.
    """

    def __init__(
        self,
        listen: str = "127.0.0.1:7400",
        state: Path | str | None = None,
        *,
        node_ttl: float = 5.0,
        session_ttl: float = 30.0,
        node_timeout: float = CALL_SECONDS,
        enable_reflection: bool = True,
    ) -> None:
        self._listen = listen
        self._state = state
        self._node_ttl_ns = round(node_ttl * 1e9)
        self._session_ttl_ns = round(session_ttl * 1e9)
        self._node_timeout = node_timeout
        self._reflection = enable_reflection
        self._store: SqliteStore | MemoryStore | None = None
        self._shell: Shell | None = None
        self._server: grpc.aio.Server | None = None
        self._health: Any = vars(health)["aio"].HealthServicer()
        self._stopped = asyncio.Event()
        self.port = 0

    @property
    def address(self) -> str:
        """Where it listens, after `start`."""
        return f"{self._listen.rpartition(':')[0]}:{self.port}"

    async def start(self) -> None:
        """Open the state, listen, serve. Raises `CannotStart` with everything let go of."""
        try:
            self._store = MemoryStore() if self._state is None else SqliteStore(self._state)
            core = Coordinator(
                self._store,
                new_token=lambda: secrets.token_hex(16),
                now_ns=time.monotonic_ns(),
                node_ttl_ns=self._node_ttl_ns,
                session_ttl_ns=self._session_ttl_ns,
            )
            nodes = NodeClients(self._node_timeout)
            self._shell = Shell(core, nodes)
            self._server = grpc.aio.server(options=_SERVER_OPTIONS)
            services = [service.SERVICE, *relay.SERVICES]
            self._server.add_generic_rpc_handlers(
                (service.handlers(self._shell), *relay.handlers(self._shell, nodes))
            )
            health_pb2_grpc.add_HealthServicer_to_server(self._health, self._server)
            if self._reflection:
                names = [*services, health.SERVICE_NAME, reflection.SERVICE_NAME]
                reflection.enable_server_reflection(names, self._server)
            self.port = self._bind(self._server)
            await self._server.start()
            for name in ("", *services):
                await self._health.set(name, health_pb2.HealthCheckResponse.SERVING)
        except (StoreError, CannotStart) as error:
            await self._let_go()
            raise CannotStart(str(error)) from error
        self._shell.start()
        routes = core.routes()
        log.info(
            "coordinator listening",
            address=self.address,
            state=str(self._state or "in memory"),
            nodes=len(routes.nodes),
            regions=len(core.regions()),
            epoch=routes.epoch,
        )

    def _bind(self, server: grpc.aio.Server) -> int:
        host, _, port = self._listen.rpartition(":")
        if not (host and port.isascii() and port.isdecimal() and int(port) < 1 << 16):
            raise CannotStart(f"cannot listen on {self._listen!r}: host:port is needed, like 127.0.0.1:7400")
        try:
            bound = server.add_insecure_port(self._listen)
        except RuntimeError as error:
            raise CannotStart(
                f"cannot listen on {self._listen}: the port is in use, or the address is not this machine's;"
                f" stop what listens there (`ss -ltnp 'sport = :{port}'` shows it), or choose with --listen"
            ) from error
        if bound == 0:
            raise CannotStart(f"cannot listen on {self._listen}: not an address of this machine")
        return bound

    async def wait(self) -> None:
        """Until `stop` has been called."""
        await self._stopped.wait()

    async def stop(self) -> None:
        """End watches and streams, finish the changes under way, close the state. Idempotent."""
        if self._shell is not None:
            self._shell.begin_stop()
        await self._let_go()
        self._stopped.set()

    async def _let_go(self) -> None:
        server, self._server = self._server, None
        shell, self._shell = self._shell, None
        store, self._store = self._store, None
        if server is not None:
            await self._health.enter_graceful_shutdown()
            await server.stop(_STOP_SECONDS)
        if shell is not None:
            await shell.stop()
        if store is not None:
            store.close()


async def _serve(server: CoordinatorServer, on_ready: Callable[[str], None] | None) -> None:
    await server.start()
    loop = asyncio.get_running_loop()
    signalled = asyncio.Event()
    for number in (signal.SIGTERM, signal.SIGINT):
        loop.add_signal_handler(number, signalled.set)
    if on_ready is not None:
        on_ready(server.address)
    await signalled.wait()
    log.info("coordinator stopping")
    await server.stop()


def run_coordinator(
    listen: str = "127.0.0.1:7400",
    state: Path | str | None = None,
    *,
    node_ttl: float = 5.0,
    session_ttl: float = 30.0,
    enable_reflection: bool = True,
    on_ready: Callable[[str], None] | None = None,
) -> int:
    """Serve until SIGTERM or SIGINT; returns the exit code: 0, or 3 with the reason on standard error.

    `on_ready` is called with the address when calls are answered.
    """

    async def main() -> None:
        await _serve(
            CoordinatorServer(
                listen,
                state,
                node_ttl=node_ttl,
                session_ttl=session_ttl,
                enable_reflection=enable_reflection,
            ),
            on_ready,
        )

    try:
        with asyncio.Runner(loop_factory=_loop_factory()) as runner:
            runner.run(main())
    except CannotStart as error:
        sys.stderr.write(f"unimem coordinator: {error}\n")
        return CANNOT_START
    return 0


def _loop_factory() -> Callable[[], asyncio.AbstractEventLoop] | None:
    try:
        import uvloop  # noqa: PLC0415 - not on every system
    except ImportError:
        return None
    return uvloop.new_event_loop
