"""The gRPC transport: what every transport has to do, then what only this one has."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Callable, Iterator, Sequence
from typing import Any

import grpc
import grpc.aio
import numpy as np
import pytest
import pytest_asyncio

from support.service_harness import error_info
from support.transports import Endpoint, TransportConformance
from unimem.wire import FrameError, FrameKind, encode_bytes_field, new_frame
from unimem_node.service.fabric_service import FabricService
from unimem_node.service.rpc import CHANNEL_OPTIONS
from unimem_node.service.transports import Peer
from unimem_node.service.transports.grpc import METHOD, GrpcTransport

WORD = np.dtype("<u8")
BAD = 2**40  # the sink refuses this one


class End:
    """One end: a transport behind a server, and a sink that keeps what it hears."""

    def __init__(self, index: int, incarnation: int = 1) -> None:
        self.me = Peer(index, f"n{index}", "", incarnation)
        self.transport = GrpcTransport(self, self.me, connect_timeout=1.0)
        self.heard: list[tuple[int, Any]] = []
        self.news = asyncio.Event()
        self.reply: Callable[[int, int], None] = lambda peer, word: None
        self._server: grpc.aio.Server | None = None

    async def start(self) -> None:
        self._server = grpc.aio.server(options=CHANNEL_OPTIONS)
        self._server.add_generic_rpc_handlers((FabricService(self.transport, self.me).handler(),))
        port = self._server.add_insecure_port("127.0.0.1:0")
        self.me = Peer(self.me.index, self.me.name, f"127.0.0.1:{port}", self.me.incarnation)
        await self._server.start()

    async def stop(self) -> None:
        self.transport.close()
        await self.transport.wait_closed()
        if self._server is not None:
            await self._server.stop(None)

    def knows(self, *others: End) -> None:
        self.transport.set_peers(end.me for end in others)

    def send(self, to: End, word: int) -> None:
        records = np.array([word], WORD)
        self.transport.send(to.me.index, new_frame(FrameKind.FABRIC, records, src_node=self.me.index))

    # The sink
    def on_frame(self, peer_index: int, frame: np.ndarray) -> None:
        peer = peer_index
        assert not frame.flags.writeable
        word = int.from_bytes(frame[64:72].tobytes(), "little")
        if word == BAD:
            raise FrameError("a frame that the model refuses")
        self._hear(peer, word)
        self.reply(peer, word)

    def turn(self) -> None:
        pass

    def peer_lost(self, peer_index: int, reason: str) -> None:
        self._hear(peer_index, "lost")

    def peer_unreachable(self, peer_index: int, reason: str) -> None:
        self._hear(peer_index, "unreachable")

    def _hear(self, peer: int, what: Any) -> None:
        self.heard.append((peer, what))
        self.news.set()

    async def hears(self, n: int) -> list[tuple[int, Any]]:
        async with asyncio.timeout(10):
            while len(self.heard) < n:
                self.news.clear()
                await self.news.wait()
        return self.heard


@pytest_asyncio.fixture
async def pair() -> AsyncIterator[tuple[End, End]]:
    ends = End(0), End(1)
    for end in ends:
        await end.start()
    ends[0].knows(ends[1])
    ends[1].knows(ends[0])
    yield ends
    for end in ends:
        await end.stop()


async def settle() -> None:
    """Let whatever is under way in this process arrive."""
    for _ in range(200):
        await asyncio.sleep(0.001)


class GrpcWire:
    """Ends 0 and 1 on an event loop of their own, as `TransportConformance` wants them."""

    def __init__(self) -> None:
        self._runner = asyncio.Runner()
        self.ends = [Endpoint(0), Endpoint(1)]
        self._runner.run(self._start())

    async def _start(self) -> None:
        self._nodes = [End(0), End(1)]
        for node, end in zip(self._nodes, self.ends, strict=True):
            node.transport._sink = end
            await node.start()
        self._nodes[0].knows(self._nodes[1])
        self._nodes[1].knows(self._nodes[0])

    def send(self, src: int, dst: int, frame: np.ndarray) -> None:
        self.send_all(src, dst, [frame])

    def send_all(self, src: int, dst: int, frames: Sequence[np.ndarray]) -> None:
        async def on_the_loop() -> None:
            for frame in frames:
                self._nodes[src].transport.send(dst, frame)

        self._runner.run(on_the_loop())

    def settle(self) -> None:
        self._runner.run(self._quiet())

    async def _quiet(self) -> None:
        """Until nothing has happened for a while, and nobody is dialling."""
        quiet, before = 0, -1
        while quiet < 50:
            await asyncio.sleep(0.002)
            links = [link for node in self._nodes for link in node.transport._links.values()]
            heard = sum(len(end.frames) + len(end.lost) + len(end.unreachable) for end in self.ends)
            busy = heard != before or any(link.queue or not link.made for link in links)
            quiet, before = 0 if busy else quiet + 1, heard

    def kill(self, index: int) -> None:
        self._runner.run(self._nodes[index].stop())

    def close(self) -> None:
        for index in range(2):
            self.kill(index)
        self._runner.close()


class TestGrpc(TransportConformance):
    """What every transport has to do."""

    @pytest.fixture
    def wire(self) -> Iterator[GrpcWire]:
        one = GrpcWire()
        yield one
        one.close()


# What only this one has, or what takes an event loop to see ---------------------------------------------


@pytest.mark.asyncio
async def test_both_directions_at_once_from_the_first_frame(pair: tuple[End, End]) -> None:
    one, other = pair
    for word in range(300):
        one.send(other, word)
        other.send(one, word)
        if word % 100 == 0:
            await asyncio.sleep(0)
    assert await other.hears(300) == [(0, word) for word in range(300)]
    assert await one.hears(300) == [(1, word) for word in range(300)]
    assert one.transport.peers() == [1]
    assert other.transport.peers() == [0]


@pytest.mark.asyncio
async def test_answers_from_within_the_sink(pair: tuple[End, End]) -> None:
    one, other = pair
    other.reply = lambda peer, word: other.send(one, word + 1)
    one.reply = lambda peer, word: one.send(other, word + 1) if word < 100 else None
    one.send(other, 0)
    heard = await one.hears(51)
    assert [word for _, word in heard] == list(range(1, 102, 2))


@pytest.mark.asyncio
async def test_a_peer_that_never_was_is_unreachable_once_for_all_frames() -> None:
    one, ghost = End(0), End(1)
    ghost.me = Peer(1, "n1", "127.0.0.1:1", 1)
    one.knows(ghost)
    for word in range(5):
        one.send(ghost, word)
    assert await one.hears(1) == [(1, "unreachable")]
    one.send(End(9), 1)
    assert await one.hears(2) == [(1, "unreachable"), (9, "unreachable")]
    await one.stop()


@pytest.mark.asyncio
async def test_after_a_loss_the_next_frame_connects_again(pair: tuple[End, End]) -> None:
    one, other = pair
    one.send(other, 1)
    await other.hears(1)
    other.transport._down(other.transport._links[0], "for the test")
    await one.hears(1)
    for end, to, word in ((one, other, 3), (other, one, 4)):
        end.send(to, word)
    await other.hears(3)
    await one.hears(2)
    await settle()
    assert other.heard == [(0, 1), (0, "lost"), (0, 3)]
    assert one.heard == [(1, "lost"), (1, 4)]


@pytest.mark.asyncio
async def test_a_peer_starting_within_the_deadline_is_reached() -> None:
    one, late = End(0), End(1)
    probe = grpc.aio.server()
    port = probe.add_insecure_port("127.0.0.1:0")
    late.me = Peer(1, "n1", f"127.0.0.1:{port}", 1)
    one.knows(late)
    late.knows(one)
    one.send(late, 5)
    await asyncio.sleep(0.05)
    await probe.start()
    await probe.stop(None)
    server = grpc.aio.server()
    server.add_generic_rpc_handlers((FabricService(late.transport, late.me).handler(),))
    assert server.add_insecure_port(f"127.0.0.1:{port}") == port
    await server.start()
    assert await late.hears(1) == [(0, 5)]
    await one.stop()
    await late.stop()
    await server.stop(None)


@pytest.mark.asyncio
async def test_a_new_incarnation_ends_the_old_connection(pair: tuple[End, End]) -> None:
    one, other = pair
    one.send(other, 1)
    await other.hears(1)
    one.transport.set_peers([Peer(1, "n1", other.me.address, 2)])
    assert await one.hears(1) == [(1, "lost")]
    one.send(other, 2)  # who answers there is still the old one
    assert await one.hears(2) == [(1, "lost"), (1, "unreachable")]
    await settle()
    assert (0, 2) not in other.heard


@pytest.mark.asyncio
async def test_a_caller_that_joined_a_moment_ago_is_waited_for() -> None:
    one, other = End(0), End(1)
    for end in (one, other):
        await end.start()
    one.knows(other)
    one.send(other, 1)
    await asyncio.sleep(0.05)
    assert other.heard == []
    other.knows(one)
    assert await other.hears(1) == [(0, 1)]
    for end in (one, other):
        await end.stop()


@pytest.mark.asyncio
@pytest.mark.parametrize(
    ("metadata", "code", "reason"),
    [
        ((), grpc.StatusCode.UNAUTHENTICATED, "MISSING_CREDENTIALS"),
        (
            (("unimem-node", "n0"), ("unimem-incarnation", "x")),
            grpc.StatusCode.UNAUTHENTICATED,
            "MISSING_CREDENTIALS",
        ),
        (
            (("unimem-node", "n7"), ("unimem-incarnation", "1")),
            grpc.StatusCode.FAILED_PRECONDITION,
            "UNKNOWN_NODE",
        ),
        (
            (("unimem-node", "n0"), ("unimem-incarnation", "0")),
            grpc.StatusCode.FAILED_PRECONDITION,
            "STALE_ROUTE",
        ),
    ],
)
async def test_callers_that_are_not_known(
    pair: tuple[End, End], metadata: Any, code: grpc.StatusCode, reason: str
) -> None:
    async with grpc.aio.insecure_channel(pair[1].me.address) as channel:
        call: Any = channel.stream_stream(METHOD, None, None)
        call = call(metadata=metadata)
        assert await call.code() is code
        assert error_info(await call.trailing_metadata())[0] == reason


@pytest.mark.asyncio
@pytest.mark.parametrize(
    "garbage",
    [
        b"\xff\xff\xff",
        b"\x0a\x03abc",
        b"\x0a\x00",
        encode_bytes_field(bytes(64)),
        encode_bytes_field(new_frame(FrameKind.POST, np.zeros(1, WORD))),
        encode_bytes_field(new_frame(FrameKind.FABRIC, np.zeros(1, WORD), src_node=3)),
        encode_bytes_field(new_frame(FrameKind.FABRIC, np.zeros(1, WORD), total_bytes=1 << 40)),
        encode_bytes_field(new_frame(FrameKind.FABRIC, np.zeros(1, WORD), total_bytes=0)),
        encode_bytes_field(new_frame(FrameKind.FABRIC, np.zeros(1, WORD)).tobytes() + b"tail"),
        encode_bytes_field(new_frame(FrameKind.FABRIC, np.array([BAD], WORD))),
    ],
)
async def test_garbage_ends_the_connection_and_nothing_else(pair: tuple[End, End], garbage: bytes) -> None:
    one, other = pair
    async with grpc.aio.insecure_channel(other.me.address) as channel:
        exchange: Any = channel.stream_stream(METHOD, None, None)
        call = exchange(metadata=(("unimem-node", "n0"), ("unimem-incarnation", "1")))
        await call.write(garbage)
        assert await call.code() is grpc.StatusCode.INVALID_ARGUMENT
        assert error_info(await call.trailing_metadata())[0] == "MALFORMED_FRAME"
    assert other.heard[-1] == (0, "lost")
    n = len(other.heard)
    one.send(other, 8)
    assert (await other.hears(n + 1))[-1] == (0, 8)
