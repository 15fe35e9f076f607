"""The reference transport: `FabricService.Exchange`, one bidirectional stream between two nodes.

**Who dials.** The first frame for a peer dials it. The peer answers on the same stream's response
direction, so that a request and its acknowledgement are one round trip on one HTTP/2 stream. When both dial
at once there are two streams, and each node goes on writing to the one it dialled: frames of one direction
never change their stream while a connection lives, hence never overtake each other. Both streams then live
and end together.

**What is said first.** Metadata of the call: ``unimem-node`` (name) and ``unimem-incarnation`` of the
caller, ``unimem-stream`` (the caller's running number of streams to this peer) and ``unimem-ended`` (the
number of the peer's last stream which the caller has seen end, 0 = none). The answerer sends its own
``unimem-node`` and ``unimem-incarnation`` as initial metadata at once: then the connection is made.
``unimem-ended`` tells a node, which has not noticed yet, that its own stream is dead and this is no
simultaneous dial.

**What ends it.** Any end of any of its streams, a new incarnation of the peer, a malformed frame. The sink
hears `peer_lost` once for a connection that was made, `peer_unreachable` once for one that was not within
the deadline. The next frame dials again.
"""

from __future__ import annotations

import asyncio
from collections import deque
from collections.abc import Awaitable, Callable, Iterable
from typing import Any, Final

import grpc
import grpc.aio
import numpy as np

from unimem.v1 import node_pb2
from unimem.wire import HEADER_BYTES, FrameError, decode_bytes_field
from unimem_node.service.framing import bytes_field, split_fabric
from unimem_node.service.rpc import CHANNEL_OPTIONS, EOF, Refusal, metadata_of
from unimem_node.service.transports import QUEUE_LIMIT, Peer, ServiceSink

METHOD: Final = "/unimem.v1.FabricService/Exchange"

#: Frames that wait are put into one message up to this size.
MESSAGE_BYTES: Final = 1 << 20

#: A connection of its own for each peer, retried quickly within the deadline: the peer may be just starting.
_PEER_OPTIONS: Final[list[tuple[str, Any]]] = [
    *CHANNEL_OPTIONS,
    ("grpc.use_local_subchannel_pool", 1),
    ("grpc.initial_reconnect_backoff_ms", 100),
    ("grpc.min_reconnect_backoff_ms", 100),
    ("grpc.max_reconnect_backoff_ms", 500),
]

Context = grpc.aio.ServicerContext[Any, Any]
Write = Callable[[bytes], Awaitable[None]]


class _Link:
    """The connection to one peer, or the attempt to make it."""

    def __init__(self, peer: Peer, number: int) -> None:
        self.peer, self.number = peer, number
        self.queue: deque[np.ndarray] = deque()
        self.queued = 0
        self.ready = asyncio.Event()
        self.made = False
        self.over = False
        self.dialling: asyncio.Task[None] | None = None
        self.writing: asyncio.Task[None] | None = None
        self.accepted: asyncio.Task[Any] | None = None
        self.accepted_number = 0
        self.respond: Write | None = None  # the response direction of the accepted stream


class GrpcTransport:
    """Frames of node `me` over `FabricService.Exchange`; `accept` is the service's side of it."""

    name = "grpc"

    def __init__(self, sink: ServiceSink, me: Peer, *, connect_timeout: float = 2.0) -> None:
        self._sink, self._me, self._timeout = sink, me, connect_timeout
        self._peers: dict[int, Peer] = {}
        self._links: dict[int, _Link] = {}
        self._dialled: dict[int, int] = {}  # streams dialled so far, by peer
        self._ended: dict[int, int] = {}  # number of the last accepted stream that ended, by peer
        self._loop = asyncio.get_running_loop()
        self._changed = asyncio.Event()
        self._closed = False
        self._ending: list[asyncio.Task[Any]] = []

    # Transport -----------------------------------------------------------------------------------------

    def set_peers(self, peers: Iterable[Peer]) -> None:
        """See `ServiceTransport`."""
        before, self._peers = self._peers, {peer.index: peer for peer in peers}
        for index, peer in self._peers.items():
            if index in before and before[index].incarnation != peer.incarnation:
                self._ended.pop(index, None)  # its streams are numbered from 1 again
        for link in list(self._links.values()):
            now = self._peers.get(link.peer.index)
            if now is None or now.incarnation != link.peer.incarnation:
                self._down(
                    link, f"{link.peer.name} has a new incarnation" if now else f"{link.peer.name} is gone"
                )
        self._changed.set()
        self._changed = asyncio.Event()

    def send(self, peer: int, frame: np.ndarray) -> None:
        """See `Transport`."""
        if len(frame) < HEADER_BYTES:
            raise ValueError(f"{len(frame)} bytes are less than a frame's header")
        link = self._links.get(peer)
        if link is None:
            known = self._peers.get(peer)
            if known is None or self._closed:
                self._sink.peer_unreachable(
                    peer, "no address is known" if known is None else "the node stops"
                )
                return
            self._dialled[peer] = number = self._dialled.get(peer, 0) + 1
            link = self._links[peer] = _Link(known, number)
            link.dialling = asyncio.create_task(self._dial(link))
        link.queue.append(frame)
        link.queued += len(frame)
        link.ready.set()
        if link.queued > QUEUE_LIMIT:
            self._loop.call_soon(self._down, link, f"{link.peer.name} does not read")

    def flush(self) -> None:
        """See `ServiceTransport`; the writing task sends what it finds."""

    def peers(self) -> list[int]:
        """See `ServiceTransport`."""
        return sorted(index for index, link in self._links.items() if link.made)

    def kind(self, peer: int) -> str:
        """See `ServiceTransport`."""
        return self.name

    def close(self) -> None:
        """See `Transport`."""
        self._closed = True
        for link in list(self._links.values()):
            self._ending += [t for t in (link.dialling, link.writing, link.accepted) if t is not None]
            self._down(link, "this node stops", report=False)

    async def wait_closed(self) -> None:
        """See `ServiceTransport`."""
        await asyncio.gather(*self._ending, return_exceptions=True)

    # Dialling ------------------------------------------------------------------------------------------

    async def _dial(self, link: _Link) -> None:
        peer = link.peer
        async with grpc.aio.insecure_channel(peer.address, _PEER_OPTIONS) as channel:
            exchange: Any = channel.stream_stream(METHOD, None, None)
            call = exchange(
                metadata=(
                    *self._introduction(),
                    ("unimem-stream", str(link.number)),
                    ("unimem-ended", str(self._ended.get(peer.index, 0))),
                ),
                wait_for_ready=True,
            )
            try:
                why = await self._made(call, peer)
                if why:
                    self._not_made(link, why)
                    return
                link.made = True
                link.writing = asyncio.create_task(self._write(link, call.write))
                while (message := await call.read()) is not EOF:
                    self._receive(link, message)
                self._down(link, f"{peer.name} closed the connection")
            except grpc.aio.AioRpcError as error:
                self._down(link, f"{error.code().name}: {error.details()}")
            except ValueError as error:
                self._down(link, f"{peer.name} sent what is no frame: {error}")
            finally:
                call.cancel()
                if link.dialling is asyncio.current_task():  # not handed over to the peer's stream
                    self._down(link, "the connection ended")

    async def _made(self, call: Any, peer: Peer) -> str:
        """Wait until the peer has introduced itself; returns what is wrong, or nothing."""
        try:
            async with asyncio.timeout(self._timeout):
                said = dict(await call.initial_metadata() or ())
                if "unimem-node" not in said:  # the call was refused
                    return f"{peer.address} refused: {(await call.code()).name}: {await call.details()}"
        except TimeoutError:
            return f"no connection to {peer.name} at {peer.address} within {self._timeout:g} s"
        if (said["unimem-node"], said.get("unimem-incarnation")) != (peer.name, str(peer.incarnation)):
            return (
                f"{peer.name}, incarnation {peer.incarnation}, was expected at {peer.address}; "
                f"{said['unimem-node']}, incarnation {said.get('unimem-incarnation')}, answered"
            )
        return ""

    def _not_made(self, link: _Link, why: str) -> None:
        """Our dial failed. When the peer has dialled us meanwhile, its stream carries both directions."""
        if link.respond is not None and not link.over:
            link.dialling = None
            link.writing = asyncio.create_task(self._write(link, link.respond))
        else:
            self._down(link, why)

    # Accepting -----------------------------------------------------------------------------------------

    async def accept(self, context: Context) -> None:
        """One `Exchange` call to us, until it ends."""
        said = metadata_of(context)
        peer = await self._identify(said)
        link = self._links.get(peer.index)
        if link is not None and (link.accepted or link.number == int(said.get("unimem-ended") or 0)):
            self._down(link, f"{peer.name} made a new connection")
            link = None
        if link is None:
            link = self._links[peer.index] = _Link(peer, 0)
        link.accepted, link.accepted_number = asyncio.current_task(), int(said.get("unimem-stream") or 0)
        try:
            await context.send_initial_metadata(self._introduction())
            link.made, link.respond = True, context.write
            if link.dialling is None:
                link.writing = asyncio.create_task(self._write(link, context.write))
            while (message := await context.read()) is not EOF:
                self._receive(link, message)
            self._down(link, f"{peer.name} closed the connection")
        except ValueError as error:
            self._down(link, f"{peer.name} sent what is no frame: {error}")
            raise Refusal(
                grpc.StatusCode.INVALID_ARGUMENT, "MALFORMED_FRAME", str(error), node=self._me.name
            ) from error
        except asyncio.CancelledError:
            if not link.over:  # by gRPC: the caller is gone
                raise
        finally:
            self._ended[peer.index] = link.accepted_number
            self._down(link, f"the connection from {peer.name} broke")

    async def _identify(self, said: dict[str, str]) -> Peer:
        """The peer that calls. It may have joined so recently that our route table is older."""
        name, incarnation = said.get("unimem-node", ""), said.get("unimem-incarnation", "")
        numbers = (incarnation, said.get("unimem-stream") or "0", said.get("unimem-ended") or "0")
        if not name or not all(number.isdecimal() for number in numbers):
            raise Refusal(
                grpc.StatusCode.UNAUTHENTICATED,
                "MISSING_CREDENTIALS",
                "metadata unimem-node (name) and unimem-incarnation (decimal) of the calling node are needed",
            )
        try:
            async with asyncio.timeout(self._timeout):
                while True:
                    peer = next((peer for peer in self._peers.values() if peer.name == name), None)
                    if peer is not None and peer.incarnation >= int(incarnation):
                        break
                    await self._changed.wait()
        except TimeoutError:
            peer = None
        if peer is None or peer.incarnation != int(incarnation):
            raise Refusal(
                grpc.StatusCode.FAILED_PRECONDITION,
                "STALE_ROUTE" if peer else "UNKNOWN_NODE",
                f"{name}, incarnation {incarnation}, is not a node that {self._me.name} knows",
                node=name,
                known_incarnation=peer.incarnation if peer else "none",
            )
        return peer

    # Both ----------------------------------------------------------------------------------------------

    def _introduction(self) -> tuple[tuple[str, str], ...]:
        return (("unimem-node", self._me.name), ("unimem-incarnation", str(self._me.incarnation)))

    def _receive(self, link: _Link, message: bytes) -> None:
        frames = decode_bytes_field(message)
        if frames is None:
            try:
                frames = np.frombuffer(node_pb2.ExchangeRequest.FromString(message).frame, np.uint8)
            except Exception as error:
                raise FrameError(f"not an Exchange message: {error}") from error
        for frame in split_fabric(frames, link.peer.index):
            self._sink.on_frame(link.peer.index, frame)
        self._sink.turn()

    async def _write(self, link: _Link, write: Write) -> None:
        """The only writer of a link: whatever waits leaves together."""
        queue = link.queue
        try:
            while True:
                while queue:
                    frame = queue.popleft()
                    parts, size = [frame.data], len(frame)
                    while queue and size + len(queue[0]) <= MESSAGE_BYTES:
                        parts.append(queue.popleft().data)
                        size += len(parts[-1])
                    link.queued -= size
                    await write(bytes_field(parts, size))
                link.ready.clear()
                await link.ready.wait()
        except Exception as error:  # gRPC raises several kinds when a stream is over
            self._down(link, f"writing failed: {error}")

    def _down(self, link: _Link, why: str, *, report: bool = True) -> None:
        """End a link, once: its tasks, its place in the table, and a word to the sink."""
        if link.over:
            return
        link.over = True
        index = link.peer.index
        if self._links.get(index) is link:
            del self._links[index]
        if link.accepted_number:
            self._ended[index] = link.accepted_number
        me = asyncio.current_task()
        for task in (link.dialling, link.writing, link.accepted):
            if task is not None and task is not me:
                task.cancel()
        if not report:
            return
        if link.made:
            self._sink.peer_lost(index, why)
        else:
            self._sink.peer_unreachable(index, why)
