"""`connect` and `connect_async`: from an address to a client."""

from __future__ import annotations

from typing import TYPE_CHECKING

from unimem._arguments import seconds
from unimem.client import Client
from unimem.errors import UsageError

if TYPE_CHECKING:
    from collections.abc import Generator
    from typing import Any

    from unimem.async_client import AsyncClient


def parse_endpoint(address: str) -> str:
    """Check a "host:port" (host name, IPv4, or IPv6 in brackets) and return it; else `UsageError`."""
    host, colon, port = address.rpartition(":") if isinstance(address, str) else ("", "", "")
    problem = ""
    if not colon or not host:
        problem = "it is not host:port"
    elif not (port.isascii() and port.isdigit() and 0 < int(port) < 65536):
        problem = f"port {port!r} is not a number from 1 to 65535"
    elif host.startswith("[") != host.endswith("]") or (":" in host and not host.startswith("[")):
        problem = "an IPv6 address stands in brackets"
    elif any(c.isspace() or c in "/,@" for c in host):
        problem = f"{host!r} is not a host name"
    if problem:
        raise UsageError(
            f"address {address!r}: {problem}",
            op="connect",
            reason="BAD_ADDRESS",
            hint="for example localhost:7400",
        )
    return address


def connect(
    address: str, *, home: str | None = None, domain: str | None = None, timeout: float = 5.0
) -> Client:
    """Become a process on a node of the cluster whose coordinator is at `address` ("host:port").

    `home`: the node; None lets the coordinator choose. `domain`: name of a protection domain shared with
    other clients, whose regions outlive them; None is a private one, freed at the end. `timeout`: seconds to
    wait for the coordinator (it says so, by `logging`, after one second); then `TransportError`.
    """
    endpoint, allowed = parse_endpoint(address), seconds(timeout)
    # gRPC takes 100 ms to import, and a simulation has no use for it.
    from unimem._grpc_port import GrpcPort  # noqa: PLC0415

    client = Client(GrpcPort(endpoint, home or "", domain or "", allowed))
    try:
        client.nodes()
    except BaseException:
        client.close()
        raise
    return client


def connect_async(
    address: str, *, home: str | None = None, domain: str | None = None, timeout: float = 5.0
) -> Connecting:
    """As `connect`, for asyncio: `async with unimem.connect_async(address) as um:`, or `um = await ...`."""
    return Connecting(parse_endpoint(address), home or "", domain or "", seconds(timeout))


class Connecting:
    """What `connect_async` returns: await it, or use it as an async context manager. Once."""

    def __init__(self, endpoint: str, home: str, domain: str, timeout: float) -> None:
        self._endpoint = endpoint
        self._session = (home, domain, timeout)
        self._client: AsyncClient | None = None

    async def _open(self) -> AsyncClient:
        from unimem._grpc_port import AsyncGrpcPort  # noqa: PLC0415
        from unimem.async_client import AsyncClient  # noqa: PLC0415

        client = AsyncClient(await AsyncGrpcPort(self._endpoint).open(*self._session))
        try:
            await client.nodes()
        except BaseException:
            await client.close()
            raise
        self._client = client
        return client

    def __await__(self) -> Generator[Any, None, AsyncClient]:
        return self._open().__await__()

    async def __aenter__(self) -> AsyncClient:
        return await self._open()

    async def __aexit__(self, *exc: object) -> None:
        if self._client is not None:
            await self._client.close()
