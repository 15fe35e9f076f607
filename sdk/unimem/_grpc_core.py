"""The gRPC port's inside, on one event loop: the session with the coordinator and the streams to nodes.

A node is dialled at its own address first; where that does not answer (a container's name that only its
network knows), the coordinator relays the stream. Which it was is remembered until the stream breaks.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING, Any, Final, cast

import grpc
import grpc.aio

from unimem._failures import operation_of, refusal
from unimem._grpc_errors import control_error
from unimem._grpc_stream import Call, NodeStream, NotAdmitted
from unimem.errors import SessionExpired, TransportError, UnimemError
from unimem.v1 import coordinator_pb2 as pb
from unimem.v1 import types_pb2
from unimem.v1.coordinator_pb2_grpc import CoordinatorServiceStub
from unimem.wire import FrameError, Status

if TYPE_CHECKING:
    from google.protobuf.message import Message

    from unimem._port import Batch, Work

log = logging.getLogger("unimem")

#: Seconds a node's own address gets to answer before the coordinator is asked to relay.
DIRECT_TIMEOUT: Final = 1.0
#: Seconds after which waiting for the coordinator is mentioned.
PATIENCE: Final = 1.0

OPTIONS: Final = (
    ("grpc.max_send_message_length", -1),
    ("grpc.max_receive_message_length", -1),
    ("grpc.enable_http_proxy", 0),  # addresses inside a cluster are not for a proxy
    ("grpc.initial_reconnect_backoff_ms", 100),
    ("grpc.min_reconnect_backoff_ms", 100),
    ("grpc.max_reconnect_backoff_ms", 1000),
)

_TRANSFER: Final = "/unimem.v1.DmaService/Transfer"


class GrpcCore:
    """Session, control calls and streams. Everything is called on the loop that opened it."""

    def __init__(self, endpoint: str, progress: Callable[[], None]) -> None:
        self.endpoint = endpoint
        self.session = pb.OpenSessionResponse()
        self.home = ""
        #: How each node was reached last: "direct" or "relayed".
        self.reached: dict[str, str] = {}
        self.progress = progress
        self._channel: grpc.aio.Channel = grpc.aio.insecure_channel(endpoint, options=OPTIONS)
        self._stub: Any = CoordinatorServiceStub(self._channel)  # type: ignore[no-untyped-call]
        self._nodes: dict[str, types_pb2.Node] = {}
        self._channels: dict[tuple[str, str], grpc.aio.Channel] = {}  # by node and address
        self._dialling: dict[str, asyncio.Lock] = {}
        self._streams: dict[str, NodeStream] = {}
        self._renewal: asyncio.Task[None] | None = None
        self._closed = False

    @property
    def pdid(self) -> int:
        """Protection domain of the session."""
        return self.session.pdid

    # -- the coordinator --------------------------------------------------------------------------------

    async def open(self, home: str, domain: str, allowed: float) -> None:
        """Connect and open a session; `TransportError` when nobody answers within `allowed` seconds."""
        try:
            loop = asyncio.get_running_loop()
            deadline = loop.time() + allowed
            await self._wait_for_coordinator(allowed)
            request = pb.OpenSessionRequest(home=home, domain=domain)
            left = max(deadline - loop.time(), 0.1)
            self.session = cast("pb.OpenSessionResponse", await self.control(request, left))
        except BaseException:
            await self._channel.close(None)
            raise
        self.home = self.session.home.name
        self._nodes[self.home] = self.session.home
        self._renewal = loop.create_task(self._renew(), name="unimem-session")

    async def _wait_for_coordinator(self, allowed: float) -> None:
        ready = asyncio.ensure_future(self._channel.channel_ready())
        try:
            first = min(PATIENCE, allowed)
            await asyncio.wait([ready], timeout=first)
            if not ready.done() and allowed > first:
                log.warning("waiting for the coordinator at %s (up to %g s)", self.endpoint, allowed)
                await asyncio.wait([ready], timeout=allowed - first)
            if not ready.done():
                raise TransportError(
                    f"no coordinator answers at {self.endpoint} (waited {allowed:g} s)",
                    op="connect",
                    reason="COORDINATOR_UNREACHABLE",
                    hint="start one (`unimem up`), check host and port, or pass a longer timeout=",
                )
        finally:
            ready.cancel()

    async def control(self, request: Message, allowed: float) -> Message:
        """Call the method named like `request`; the session's id and token are filled in."""
        name = type(request).__name__.removesuffix("Request")
        fields = request.DESCRIPTOR.fields_by_name
        if "session_id" in fields:
            request.session_id = self.session.session_id  # type: ignore[attr-defined]
        if "token" in fields:
            request.token = self.session.token  # type: ignore[attr-defined]
        try:
            return cast(
                "Message",
                # A coordinator that is restarting is waited for: nothing has been sent yet.
                await getattr(self._stub, name)(request, timeout=min(allowed, 1e6), wait_for_ready=True),
            )
        except grpc.aio.AioRpcError as error:
            raise control_error(request, error, self.endpoint) from None
        except grpc.aio.UsageError:
            raise TransportError(
                "the connection is closed", op=operation_of(request), retryable=False
            ) from None

    async def _renew(self) -> None:
        """Keep the session while the client lives."""
        ttl = self.session.session_ttl_ns / 1e9
        while ttl > 0:
            await asyncio.sleep(ttl / 3)
            try:
                answer = await self.control(pb.RenewSessionRequest(), ttl / 3)
                ttl = cast("pb.RenewSessionResponse", answer).session_ttl_ns / 1e9
            except SessionExpired as error:
                log.warning("the session with the coordinator at %s has ended: %s", self.endpoint, error)
                return
            except UnimemError as error:
                log.warning("could not renew the session: %s", error)

    # -- nodes ------------------------------------------------------------------------------------------

    def stream(self, node: str | None) -> NodeStream:
        """The stream to `node` (None: home); it connects when something is posted."""
        name = node or self.home
        stream = self._streams.get(name)
        if stream is None:
            stream = self._streams[name] = NodeStream(self, name)
        return stream

    def post(self, work: Work) -> None:
        """See `Port.post`."""
        self.stream(work.node).post(work)

    def post_batch(self, batch: Batch) -> None:
        """See `Port.post_batch`."""
        self.stream(batch.node).post_batch(batch)

    def cancel(self, work: Work) -> bool:
        """See `Port.cancel`."""
        return self.stream(work.node).cancel(work)

    async def dial(self, node: str) -> Call:
        """An open Transfer stream to `node`: direct if that is possible, else relayed. Raises `NotAdmitted`.

        A node says its name when it lets a stream in. Until then nothing is sent, so that a refusal, or an
        address at which somebody else answers, costs nothing.
        """
        while True:
            try:
                channel = None if self.reached.get(node) == "relayed" else await self._direct(node)
            except UnimemError as error:
                raise NotAdmitted(Status.PEER_UNREACHABLE, f"{node} could not be reached: {error}") from None
            way = "direct" if channel is not None else "relayed"
            call: Call = self._open(channel or self._channel, node if channel is None else "")
            try:
                name = await _admission(call)
                if channel is None or name in {node, ""}:
                    self.reached[node] = way
                    return call
                log.info("%s answers at the address of %s: asking the coordinator to relay", name, node)
            except grpc.aio.AioRpcError as error:
                code, words = error.code(), error.details() or error.code().name
                if code in {grpc.StatusCode.UNAUTHENTICATED, grpc.StatusCode.PERMISSION_DENIED}:
                    raise NotAdmitted(Status.ACCESS_DENIED, f"{node} refuses the session: {words}") from None
                if channel is None:
                    self.reached.pop(node, None)
                    raise NotAdmitted(
                        Status.PEER_UNREACHABLE, f"{node} could not be reached: {words}"
                    ) from None
                log.info("%s at its own address: %s: asking the coordinator to relay", node, words)
            except BaseException:
                call.cancel()
                raise
            call.cancel()
            self.reached[node] = "relayed"

    def _open(self, channel: grpc.aio.Channel, relay_to: str) -> Any:
        """Open a Transfer stream. Messages are raw bytes: no copy into protobuf objects and out again."""
        metadata = [("unimem-pdid", str(self.pdid)), ("unimem-token", self.session.token)]
        if relay_to:
            metadata.append(("unimem-node", relay_to))
        method: Any = channel.stream_stream(_TRANSFER, request_serializer=None, response_deserializer=None)
        return method(metadata=tuple(metadata))

    def broken(self, node: str, error: Exception | None) -> str:
        """In words, why the stream to `node` ended; the next one is dialled afresh."""
        way = f"{node} (relayed by the coordinator)" if self.reached.pop(node, "") == "relayed" else node
        if isinstance(error, FrameError):
            return f"{way} sent what is no completion frame: {error}"
        if isinstance(error, grpc.aio.AioRpcError):
            return f"the stream to {way} broke: {error.code().name}: {error.details()}"
        return f"{way} ended the stream"

    async def _direct(self, node: str) -> grpc.aio.Channel | None:
        """A connected channel to the node's own address, or None."""
        async with self._dialling.setdefault(node, asyncio.Lock()):
            address = await self._address(node)
            return await self._connected(node, address) if address else None

    async def _connected(self, node: str, address: str) -> grpc.aio.Channel | None:
        key = (node, address)
        channel = self._channels.get(key)
        if channel is None:
            channel = self._channels[key] = grpc.aio.insecure_channel(address, options=OPTIONS)
        deadline = asyncio.get_running_loop().time() + DIRECT_TIMEOUT
        state = channel.get_state(try_to_connect=True)
        while state != grpc.ChannelConnectivity.READY:
            left = deadline - asyncio.get_running_loop().time()
            if left <= 0 or state in {
                grpc.ChannelConnectivity.TRANSIENT_FAILURE,
                grpc.ChannelConnectivity.SHUTDOWN,
            }:
                del self._channels[key]  # so that the next dial tries afresh, without back-off
                await channel.close(None)
                return None
            changed = asyncio.ensure_future(channel.wait_for_state_change(state))
            await asyncio.wait([changed], timeout=left)
            changed.cancel()
            state = channel.get_state(try_to_connect=True)
        return channel

    async def _address(self, node: str) -> str:
        """Where `node` listens: as the coordinator knows now, or knew when it answered last."""
        request = pb.ListNodesRequest()
        try:
            answer = cast("pb.ListNodesResponse", await self.control(request, DIRECT_TIMEOUT))
            self._nodes = {n.name: n for n in answer.nodes}
        except UnimemError as error:
            log.info("no news of the nodes: %s", error)
        if node not in self._nodes:
            raise refusal(request, "UNKNOWN_NODE", f"no node is called {node!r}", metadata={"node": node})
        return self._nodes[node].address

    async def reachability(self, nodes: Sequence[str]) -> dict[str, str]:
        """See `Port.reachability`."""
        unknown = [n for n in nodes if n not in self.reached]
        channels = await asyncio.gather(*(self._direct(n) for n in unknown))
        for node, channel in zip(unknown, channels, strict=True):
            self.reached[node] = "relayed" if channel is None else "direct"
        return {n: self.reached[n] for n in nodes}

    # -- end --------------------------------------------------------------------------------------------

    async def close(self) -> None:
        """End streams and session. Idempotent; an unreachable coordinator is not waited for."""
        if self._closed:
            return
        self._closed = True
        if self._renewal is not None:
            self._renewal.cancel()
        for stream in self._streams.values():
            await stream.close()
        try:
            await self.control(pb.CloseSessionRequest(), 1.0)
        except UnimemError as error:
            log.info("the session could not be closed: %s", error)
        for channel in (*self._channels.values(), self._channel):
            await channel.close(None)


async def _admission(call: Any) -> str:
    """The name that the node at the other end says, or "" if it says none; `AioRpcError` if it refuses.

    A foreign node need not say anything before it answers, so the wait is short.
    """
    # Not cancelled when the time is over: that would cancel the call.
    said = asyncio.ensure_future(call.initial_metadata())
    await asyncio.wait([said], timeout=DIRECT_TIMEOUT)
    name = str(dict(said.result() or ()).get("unimem-node", "")) if said.done() else ""
    if not name:
        # A refusal has no initial metadata either: its status follows at once.
        await asyncio.wait([asyncio.ensure_future(call.code())], timeout=DIRECT_TIMEOUT / 4)
        await call.wait_for_connection()
    return name
