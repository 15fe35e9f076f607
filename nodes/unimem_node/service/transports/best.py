"""The transport of a node: to each peer the best that both have.

**Choice.** `shm`, `unix`, `tcp`, `grpc`, in this order. Before the first frame for a peer leaves, the peer is
asked what it offers (`FabricService.Describe`, on its gRPC address); the kinds that both have are tried in
order, and what fails is told in one line of the log. gRPC is always last: it needs no offer, and it is how
nodes of other makes are reached, which do not know the question. The option ``--transport`` names the best
kind that may be used; to fall below a kind that was asked for is a warning.

**Who dials.** Whoever has the first frame. The connection carries both directions. When both dial at once
the dial of the node with the lower index stands: it answers the other's with `busy`, and the other takes its.
Hellos carry numbers (see `hello`) by which a node knows a dial that only crossed its own from one of a peer
that has lost the connection and begins anew.

**What ends a connection.** Any end of its socket, a new incarnation of the peer, what is no frame. The sink
hears `peer_lost` once for a connection that was made, `peer_unreachable` once when none could be made in
time. Frames that were under way may be lost with it; the next frame dials again.
"""

from __future__ import annotations

import asyncio
import socket
from collections.abc import Awaitable, Callable, Iterable
from typing import Any, Final

import numpy as np
import structlog

from unimem.wire import HEADER_BYTES
from unimem_node.service.transports import QUEUE_LIMIT, Peer, ServiceSink, ServiceTransport
from unimem_node.service.transports.door import Door, Offer, connect, kinds_from
from unimem_node.service.transports.hello import (
    RINGS,
    STREAM,
    BusyError,
    Hello,
    HelloError,
    Word,
    close_files,
    read_hello,
    send_hello,
)
from unimem_node.service.transports.shm import RING_BYTES, ShmLink, make_memory, map_memory
from unimem_node.service.transports.spinner import Spinner
from unimem_node.service.transports.stream import StreamLink

log = structlog.get_logger(__name__)

Link = StreamLink | ShmLink

#: A dial gets this long even when asking has taken all the time there was.
_LEAST_S: Final = 0.1

#: Asks a peer what it offers; raises `HelloError` when it does not answer in time.
Ask = Callable[[Peer, float], Awaitable[Offer]]


class _Way:
    """The way to one peer: a link, or the attempt to make one."""

    def __init__(self, peer: Peer) -> None:
        self.peer = peer
        self.queue: list[np.ndarray] = []
        self.queued = 0
        self.connecting: asyncio.Task[None] | None = None
        self.dialling = False  # our hello is out
        self.link: Link | None = None
        self.ours = False  # we dialled the link
        self.number = 0  # of the dial that made it
        self.arrived = asyncio.Event()  # of a link


class BestTransport:
    """Frames of node `me` by the best kind there is, from `prefer` (an option of ``--transport``) down.

    `reference` is the gRPC transport; without it there is no falling back to it. Its sink must be
    `reference_sink`.
    """

    name = "auto"

    def __init__(
        self,
        sink: ServiceSink,
        me: Peer,
        ask: Ask,
        *,
        prefer: str = "auto",
        listen: str = "127.0.0.1",
        connect_timeout: float = 2.0,
        ring_bytes: int = RING_BYTES,
    ) -> None:
        self._sink, self._me, self._ask, self._timeout = sink, me, ask, connect_timeout
        self._prefer, self._ring_bytes = prefer, ring_bytes
        self._peers: dict[int, Peer] = {}
        self._ways: dict[int, _Way] = {}
        self._open: dict[int, Callable[[np.ndarray], None]] = {}
        self._dirty: set[Link] = set()
        self._dialled: dict[int, int] = {}  # dials so far, by peer
        self._seen: dict[int, int] = {}  # the last of the peer's dials that became a link
        self._changed = asyncio.Event()
        self._closed = False
        self._tasks: set[asyncio.Task[Any]] = set()
        self._spinner = Spinner()
        self.reference: ServiceTransport | None = None
        self.reference_sink = _ReferenceSink(self)
        self._door = Door(self._on_guest)
        self._door.open(kinds_from(prefer), listen)

    @property
    def offer(self) -> Offer:
        """What to answer to who asks."""
        return self._door.offer

    # Transport -----------------------------------------------------------------------------------------

    def set_peers(self, peers: Iterable[Peer]) -> None:
        """See `ServiceTransport`."""
        before, self._peers = self._peers, {peer.index: peer for peer in peers}
        for index, peer in self._peers.items():
            if index in before and before[index].incarnation != peer.incarnation:
                self._dialled.pop(index, None)  # both count from 1 again
                self._seen.pop(index, None)
        for index, way in list(self._ways.items()):
            now = self._peers.get(index)
            if now is None or now.incarnation != way.peer.incarnation:
                self._down(
                    way, f"{way.peer.name} has a new incarnation" if now else f"{way.peer.name} is gone"
                )
        if self.reference is not None:
            self.reference.set_peers(self._peers.values())
        self._changed.set()
        self._changed = asyncio.Event()

    def send(self, peer: int, frame: np.ndarray) -> None:
        """See `Transport`."""
        send = self._open.get(peer)
        if send is not None:
            send(frame)
            return
        if len(frame) < HEADER_BYTES:
            raise ValueError(f"{len(frame)} bytes are less than a frame's header")
        way = self._ways.get(peer)
        if way is None:
            known = self._peers.get(peer)
            if known is None or self._closed:
                why = "no address is known" if known is None else "the node stops"
                self._sink.peer_unreachable(peer, why)
                return
            way = self._ways[peer] = _Way(known)
            way.connecting = self._task(self._connect(way))
        way.queue.append(frame)
        way.queued += len(frame)
        if way.queued > QUEUE_LIMIT:
            self._down(way, f"{way.queued} bytes wait for a connection to {way.peer.name}")

    def flush(self) -> None:
        """See `ServiceTransport`."""
        for link in self._dirty:
            link.flush()
        self._dirty.clear()
        if self.reference is not None:
            self.reference.flush()

    def peers(self) -> list[int]:
        """See `ServiceTransport`."""
        direct = {index for index, way in self._ways.items() if way.link is not None}
        return sorted(direct.union(self.reference.peers() if self.reference is not None else ()))

    def kind(self, peer: int) -> str:
        """See `ServiceTransport`."""
        way = self._ways.get(peer)
        return way.link.kind if way is not None and way.link is not None else "grpc"

    def close(self) -> None:
        """See `Transport`."""
        self._closed = True
        self._door.close()
        for way in list(self._ways.values()):
            self._down(way, "this node stops", report=False)
        if self.reference is not None:
            self.reference.close()
        for task in self._tasks:
            task.cancel()

    async def wait_closed(self) -> None:
        """See `ServiceTransport`."""
        await asyncio.gather(*self._tasks, return_exceptions=True)
        if self.reference is not None:
            await self.reference.wait_closed()

    def _task(self, work: Any) -> asyncio.Task[Any]:
        task = asyncio.create_task(work)
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)
        return task

    # Dialling ------------------------------------------------------------------------------------------

    async def _connect(self, way: _Way) -> None:
        peer = way.peer
        loop = asyncio.get_running_loop()
        until = loop.time() + self._timeout
        failed: list[str] = []
        try:
            offer = await self._ask(peer, self._timeout)
            for kind in self._door.offer.kinds:
                if kind == "grpc":
                    break
                if kind not in offer.kinds:
                    failed.append(f"{kind}: {peer.name} does not offer it")
                    continue
                try:
                    await self._dial(way, kind, offer, until)
                except (HelloError, OSError, ValueError) as error:
                    failed.append(f"{kind}: {error or type(error).__name__}")
                else:
                    return self._say(peer, kind, failed)
            if self.reference is None:
                return self._down(way, "; ".join(failed) or f"{peer.name} has no transport that we have")
            self._say(peer, "grpc", failed)
            self._use_reference(way)
        except HelloError as error:
            self._down(way, str(error))

    def _say(self, peer: Peer, kind: str, failed: list[str]) -> None:
        fell = bool(failed) and self._prefer not in ("auto", kind)
        tell = log.warning if fell else log.info
        tell("connected", peer=peer.name, transport=kind, instead_of="; ".join(failed) or None)

    async def _dial(self, way: _Way, kind: str, offer: Offer, until: float) -> None:
        """Make a link of one kind, or find that the peer has made one."""
        loop = asyncio.get_running_loop()
        while True:
            try:
                async with asyncio.timeout_at(max(until, loop.time() + _LEAST_S)):
                    await self._dial_once(way, kind, offer)
                return
            except TimeoutError:
                raise HelloError(f"no answer within {self._timeout:g} s") from None
            except BusyError:
                try:
                    async with asyncio.timeout_at(max(until, loop.time() + _LEAST_S)):
                        await way.arrived.wait()
                    return
                except TimeoutError:
                    raise HelloError("it is dialling us, and does not come") from None

    async def _dial_once(self, way: _Way, kind: str, offer: Offer) -> None:
        peer = way.peer
        host = peer.address.rpartition(":")[0]
        sock = await connect(kind, host, offer)
        files: list[int] = []
        try:
            number = self._dialled[peer.index] = self._dialled.get(peer.index, 0) + 1
            ring_bytes = 0
            if kind == "shm":
                file, ring_bytes = make_memory(self._ring_bytes)
                files.append(file)
            hello = Hello(
                self._me.name,
                self._me.incarnation,
                peer.name,
                peer.incarnation,
                RINGS if kind == "shm" else STREAM,
                Word.DIAL,
                number,
                self._seen.get(peer.index, 0),
                ring_bytes,
            )
            way.dialling = True
            send_hello(sock, hello, files)
            answer, extra = await read_hello(sock)
            close_files(extra)
            if answer.word is Word.BUSY:
                raise BusyError(answer.text)
            if answer.word is not Word.ACCEPTED:
                raise HelloError(f"it refused: {answer.text}")
            if (answer.name, answer.incarnation, answer.number) != (peer.name, peer.incarnation, number):
                raise HelloError(
                    f"{peer.name}, incarnation {peer.incarnation}, was expected; "
                    f"{answer.name}, incarnation {answer.incarnation}, answered"
                )
            link = self._link(way, kind, sock, files[0] if files else -1, ring_bytes, dialler=True)
        except BaseException:
            sock.close()
            raise
        finally:
            way.dialling = False
            close_files(files)
        await self._adopt(way, link, ours=True, number=number)

    # Answering -----------------------------------------------------------------------------------------

    def _on_guest(self, sock: socket.socket, is_unix: bool) -> None:
        self._task(self._welcome(sock, is_unix))

    async def _welcome(self, sock: socket.socket, is_unix: bool) -> None:
        files: list[int] = []
        try:
            async with asyncio.timeout(self._timeout):
                hello, files = await read_hello(sock)
                word, text = await self._judge(hello, is_unix, files)
            if word is not Word.ACCEPTED:
                log.debug("a dial was not taken", peer=hello.name, why=text)
                send_hello(sock, hello.answer(word, text))
                sock.close()
                return
            peer = next(p for p in self._peers.values() if p.name == hello.name)
            way = self._ways.get(peer.index)
            if way is not None and way.link is not None:
                self._down(way, f"{peer.name} made a new connection")
                way = self._ways.get(peer.index)
            if way is None:
                way = self._ways[peer.index] = _Way(peer)
            if way.connecting is not None:
                way.connecting.cancel()
                way.connecting = None
            self._seen[peer.index] = hello.number
            kind = "shm" if hello.kind == RINGS else "unix" if is_unix else "tcp"
            link = self._link(way, kind, sock, files[0] if files else -1, hello.ring_bytes, dialler=False)
            send_hello(sock, hello.answer(Word.ACCEPTED))
            await self._adopt(way, link, ours=False, number=hello.number)
            log.info("connected", peer=peer.name, transport=kind, dialled_by=peer.name)
        except (HelloError, TimeoutError, OSError) as error:
            why = str(error) or "no hello came in time"
            log.warning("a connection was no node's", why=why)
            sock.close()
        except BaseException:
            sock.close()
            raise
        finally:
            close_files(files)

    async def _judge(self, hello: Hello, is_unix: bool, files: list[int]) -> tuple[Word, str]:
        """Whether a dial is taken, and if not, why."""
        if (hello.to_name, hello.to_incarnation) != (self._me.name, self._me.incarnation):
            return Word.REFUSED, f"this is {self._me.name}, incarnation {self._me.incarnation}"
        if hello.word is not Word.DIAL or hello.kind not in (STREAM, RINGS):
            return Word.REFUSED, "this is no dial"
        if hello.kind == RINGS:
            if not is_unix or len(files) != 1 or "shm" not in self.offer.kinds:
                return Word.REFUSED, "shared memory takes a Unix socket and one file"
            try:
                map_memory(files[0], hello.ring_bytes).close()
            except (OSError, ValueError) as error:
                return Word.REFUSED, str(error)
        peer = await self._identify(hello)
        if peer is None:
            return Word.REFUSED, f"{hello.name}, incarnation {hello.incarnation}, is not known here"
        way = self._ways.get(peer.index)
        if way is None:
            return Word.ACCEPTED, ""
        if way.link is None:
            if way.dialling and self._me.index < peer.index:
                return Word.BUSY, "our own dial is under way"
        elif way.ours:
            if hello.seen < way.number:
                return Word.BUSY, "our own dial has been taken"
        elif hello.number <= way.number:
            return Word.REFUSED, "an old dial"
        return Word.ACCEPTED, ""

    async def _identify(self, hello: Hello) -> Peer | None:
        """The peer that calls. It may have joined so recently that our route table is older."""
        while True:
            peer = next((peer for peer in self._peers.values() if peer.name == hello.name), None)
            if peer is not None and peer.incarnation >= hello.incarnation:
                return peer if peer.incarnation == hello.incarnation else None
            try:
                async with asyncio.timeout(self._timeout / 2):
                    await self._changed.wait()
            except TimeoutError:
                return None

    # Links ---------------------------------------------------------------------------------------------

    def _link(
        self, way: _Way, kind: str, sock: socket.socket, file: int, ring_bytes: int, *, dialler: bool
    ) -> Link:
        def over(link: Link, why: str) -> None:
            if way.link is link:
                self._down(way, f"{way.peer.name}: {why}")

        if kind == "shm":
            memory = map_memory(file, ring_bytes)
            return ShmLink(memory, sock, way.peer.index, self._sink, over, self._spinner, dialler=dialler)
        return StreamLink(kind, sock, way.peer.index, self._sink, over, self._spinner)

    async def _adopt(self, way: _Way, link: Link, *, ours: bool, number: int) -> None:
        """Use a link from now on; what has waited for it goes first."""
        index = way.peer.index
        way.link, way.ours, way.number = link, ours, number
        if isinstance(link, ShmLink):
            send: Callable[[np.ndarray], None] = link.send
        else:
            dirty = self._dirty.add

            def send(frame: np.ndarray) -> None:
                link.send(frame)
                dirty(link)

        self._open[index] = send
        for frame in way.queue:
            send(frame)
        way.queue.clear()
        way.arrived.set()
        await link.start()
        self.flush()

    def _use_reference(self, way: _Way) -> None:
        """Send to a peer by gRPC from now on."""
        assert self.reference is not None
        index = way.peer.index
        self._ways.pop(index, None)
        self._by_reference(index)
        for frame in way.queue:
            self.reference.send(index, frame)

    def _by_reference(self, index: int) -> None:
        reference = self.reference
        assert reference is not None
        self._open[index] = lambda frame: reference.send(index, frame)

    def _down(self, way: _Way, why: str, *, report: bool = True) -> None:
        """End a way, once: its tasks, its link, its place in the tables, and a word to the sink."""
        index = way.peer.index
        if self._ways.get(index) is not way:
            return
        del self._ways[index]
        self._open.pop(index, None)
        if way.connecting is not None and way.connecting is not asyncio.current_task():
            way.connecting.cancel()
        link = way.link
        if link is not None:
            link.close()
            self._dirty.discard(link)
        if not report:
            return
        if link is not None:
            self._sink.peer_lost(index, why)
        else:
            self._sink.peer_unreachable(index, why)

    # What comes by gRPC --------------------------------------------------------------------------------

    def reference_came(self, index: int) -> None:
        """A peer has sent by gRPC: it is answered there, unless there is a better way already."""
        if index not in self._open and index not in self._ways:
            self._by_reference(index)

    def reference_over(self, index: int) -> bool:
        """gRPC's connection to a peer has ended, or was never made; whether another way is open."""
        way = self._ways.get(index)
        if way is None:
            self._open.pop(index, None)
        return way is not None and way.link is not None


class _ReferenceSink:
    """Hears the gRPC transport, and tells the sink."""

    def __init__(self, owner: BestTransport) -> None:
        self._owner = owner

    def on_frame(self, peer_index: int, frame: np.ndarray) -> None:
        """A frame by gRPC."""
        self._owner.reference_came(peer_index)
        self._owner._sink.on_frame(peer_index, frame)

    def turn(self) -> None:
        """See `ServiceSink`."""
        self._owner._sink.turn()

    def peer_lost(self, peer_index: int, reason: str) -> None:
        """A stream broke."""
        self._owner.reference_over(peer_index)
        self._owner._sink.peer_lost(peer_index, reason)

    def peer_unreachable(self, peer_index: int, reason: str) -> None:
        """No stream could be made. With another way open this is no more than a loss."""
        if self._owner.reference_over(peer_index):
            self._owner._sink.peer_lost(peer_index, reason)
        else:
            self._owner._sink.peer_unreachable(peer_index, reason)
