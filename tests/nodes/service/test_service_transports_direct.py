"""The transports `tcp`, `unix` and `shm`: what every transport has to do, then what only these have."""

from __future__ import annotations

import asyncio
import os
import signal
import socket
import sys
from collections.abc import AsyncIterator, Iterator, Sequence
from contextlib import suppress
from typing import Any

import numpy as np
import pytest
import pytest_asyncio

from support.transports import Endpoint, TransportConformance, large, numbered
from unimem_node.fabric.packets import open_frame
from unimem_node.service.transports import Peer, shm, stream
from unimem_node.service.transports.best import BestTransport
from unimem_node.service.transports.door import Offer, connect, kinds_from
from unimem_node.service.transports.hello import Hello, HelloError, Word, read_hello, send_hello, unpack

KINDS = ("tcp", "unix", "shm")


class Town:
    """Nodes that find each other without gRPC."""

    def __init__(self, kind: str, **options: Any) -> None:
        self.kind, self.options = kind, options
        self.transports: dict[int, BestTransport] = {}
        self.peers: dict[int, Peer] = {}

    def add(self, sink: Any, index: int, incarnation: int = 1) -> BestTransport:
        me = Peer(index, f"n{index}", "127.0.0.1:1", incarnation)
        made = BestTransport(
            sink, me, self.ask, **{"prefer": self.kind, "connect_timeout": 1.0, **self.options}
        )
        self.transports[index], self.peers[index] = made, me
        for other in self.transports.values():
            other.set_peers(peer for peer in self.peers.values() if peer.index != other._me.index)
        return made

    async def ask(self, peer: Peer, timeout_s: float) -> Offer:
        transport = self.transports.get(peer.index)
        if transport is None or transport._closed:
            raise HelloError("nobody answers")
        kinds = tuple(kind for kind in transport.offer.kinds if kind == self.kind)
        return Offer(kinds, transport.offer.tcp_port, transport.offer.unix_socket)


class DirectWire:
    """Ends 0 and 1 on an event loop of their own, as `TransportConformance` wants them."""

    def __init__(self, kind: str, loop: str, **options: Any) -> None:
        factory = None
        if loop == "uvloop":
            factory = pytest.importorskip("uvloop").new_event_loop
        self._runner = asyncio.Runner(loop_factory=factory)
        self.ends = [Endpoint(0), Endpoint(1)]
        self._runner.run(self._start(kind, options))

    async def _start(self, kind: str, options: dict[str, Any]) -> None:
        self.town = Town(kind, **options)
        for end in self.ends:
            self.town.add(end, end.index)

    def send(self, src: int, dst: int, frame: np.ndarray) -> None:
        self.send_all(src, dst, [frame])

    def send_all(self, src: int, dst: int, frames: Sequence[np.ndarray]) -> None:
        async def on_the_loop() -> None:
            for frame in frames:
                self.town.transports[src].send(dst, frame)
            self.town.transports[src].flush()

        self._runner.run(on_the_loop())

    def settle(self) -> None:
        self._runner.run(self._quiet())

    async def _quiet(self) -> None:
        quiet, before = 0, -1
        while quiet < 40:
            await asyncio.sleep(0.001)
            heard = sum(len(end.frames) + len(end.lost) + len(end.unreachable) for end in self.ends)
            ways = [way for one in self.town.transports.values() for way in one._ways.values()]
            busy = heard != before or any(way.link is None for way in ways)
            quiet, before = 0 if busy else quiet + 1, heard

    def kill(self, index: int) -> None:
        async def stop() -> None:
            self.town.transports[index].close()
            await self.town.transports[index].wait_closed()

        self._runner.run(stop())

    def close(self) -> None:
        for index in range(2):
            self.kill(index)
        self._runner.close()


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("loop", ["asyncio", "uvloop"])
class TestDirect(TransportConformance):
    """What every transport has to do."""

    @pytest.fixture
    def wire(self, kind: str, loop: str) -> Iterator[DirectWire]:
        one = DirectWire(kind, loop)
        yield one
        one.close()


# What only these have ------------------------------------------------------------------------------------


class Ear:
    """A sink that remembers words and waits for them."""

    def __init__(self, index: int) -> None:
        self.index = index
        self.heard: list[tuple[int, Any]] = []
        self.reasons: list[str] = []
        self.kept: list[np.ndarray] = []
        self.keeps = False
        self.news = asyncio.Event()

    def on_frame(self, peer: int, frame: np.ndarray) -> None:
        if self.keeps:
            self.kept.append(frame)
        self._hear(peer, int(open_frame(frame).header["number"]))

    def turn(self) -> None:
        pass

    def peer_lost(self, peer: int, reason: str) -> None:
        self.reasons.append(reason)
        self._hear(peer, "lost")

    def peer_unreachable(self, peer: int, reason: str) -> None:
        self.reasons.append(reason)
        self._hear(peer, "unreachable")

    def _hear(self, peer: int, what: Any) -> None:
        self.heard.append((peer, what))
        self.news.set()

    async def hears(self, n: int) -> list[tuple[int, Any]]:
        async with asyncio.timeout(10):
            while len(self.heard) < n:
                self.news.clear()
                await self.news.wait()
        return self.heard


@pytest_asyncio.fixture(params=KINDS)
async def pair(request: pytest.FixtureRequest) -> AsyncIterator[tuple[Town, Ear, Ear]]:
    town, ears = Town(request.param), (Ear(0), Ear(1))
    for ear in ears:
        town.add(ear, ear.index)
    yield town, *ears
    await close(town)


async def close(town: Town) -> None:
    for transport in town.transports.values():
        transport.close()
        await transport.wait_closed()


def say(town: Town, src: int, dst: int, *numbers: int) -> None:
    for number in numbers:
        town.transports[src].send(dst, numbered(src, dst, number))
    town.transports[src].flush()


@pytest.mark.asyncio
async def test_both_dial_at_once(pair: tuple[Town, Ear, Ear]) -> None:
    town, one, other = pair
    for _ in range(5):
        before = len(one.heard)
        say(town, 0, 1, *range(50))
        say(town, 1, 0, *range(50))
        assert (await one.hears(before + 50))[before:] == [(1, n) for n in range(50)]
        assert (await other.hears(before + 50))[before:] == [(0, n) for n in range(50)]
        assert [t.kind(1 - i) for i, t in town.transports.items()] == [town.kind] * 2
        town.transports[0]._down(town.transports[0]._ways[1], "for the test")
        await one.hears(before + 51)
        await other.hears(before + 51)
    assert [what for _, what in one.heard].count("lost") == 5


@pytest.mark.asyncio
async def test_a_new_incarnation_ends_the_old_connection(pair: tuple[Town, Ear, Ear]) -> None:
    town, one, other = pair
    say(town, 0, 1, 1)
    await other.hears(1)
    town.transports[0].set_peers([Peer(1, "n1", "127.0.0.1:1", 2)])
    assert await one.hears(1) == [(1, "lost")]
    say(town, 0, 1, 2)  # who answers there is still the old one
    assert await one.hears(2) == [(1, "lost"), (1, "unreachable")]
    assert "incarnation 1" in one.reasons[1]
    assert (0, 2) not in other.heard


@pytest.mark.asyncio
async def test_a_caller_that_joined_a_moment_ago_is_waited_for(pair: tuple[Town, Ear, Ear]) -> None:
    town, _, other = pair
    town.transports[1].set_peers([])
    say(town, 0, 1, 1)
    await asyncio.sleep(0.05)
    assert other.heard == []
    town.transports[1].set_peers([town.peers[0]])
    assert await other.hears(1) == [(0, 1)]


def bad_hellos() -> list[tuple[str, bytes]]:
    good = Hello("n0", 1, "n1", 1, number=1).pack()
    return [
        ("magic", b"GET / HTTP/1.1\r\n\r\n" + bytes(400)),
        ("version", good[:8] + b"\x09\x00" + good[10:]),
        ("length", good[:10] + b"\x00\x01" + good[12:]),
        ("half", good[:100]),
        ("word", good[:13] + b"\x77" + good[14:]),
        ("kind", good[:12] + b"\x05" + good[13:]),
        ("unknown node", Hello("n7", 1, "n1", 1).pack()),
        ("old life", Hello("n0", 0, "n1", 1).pack()),
        ("another's", Hello("n0", 1, "n2", 1).pack()),
        ("rings without a file", Hello("n0", 1, "n1", 1, kind=1, ring_bytes=1 << 20).pack()),
        ("nothing", b""),
    ]


@pytest.mark.asyncio
@pytest.mark.parametrize(
    ("what", "data"), bad_hellos(), ids=lambda value: value if isinstance(value, str) else ""
)
async def test_who_is_no_node_is_not_let_in(pair: tuple[Town, Ear, Ear], what: str, data: bytes) -> None:
    town, _, other = pair
    sock = await connect("tcp" if town.kind == "tcp" else "unix", "127.0.0.1", town.transports[1].offer)
    loop = asyncio.get_running_loop()
    if data:
        await loop.sock_sendall(sock, data)
    if what == "half":
        sock.shutdown(socket.SHUT_WR)
    async with asyncio.timeout(5):
        answer = b""
        with suppress(ConnectionResetError):  # it has not read all that we have said
            while piece := await loop.sock_recv(sock, 4096):
                answer += piece
    sock.close()
    if answer:
        assert unpack(answer[:12], answer[12:]).word is Word.REFUSED
    assert other.heard == []
    say(town, 0, 1, 3)  # and nobody minds
    assert await other.hears(1) == [(0, 3)]


async def introduced(town: Town) -> socket.socket:
    """A socket to node 1 that has introduced itself as node 0."""
    sock = await connect(town.kind, "127.0.0.1", town.transports[1].offer)
    send_hello(sock, Hello("n0", 1, "n1", 1, number=1))
    answer, _ = await read_hello(sock)
    assert answer.word is Word.ACCEPTED
    return sock


def garbage() -> list[bytes]:
    frame = numbered(0, 1, 1).tobytes()
    huge = bytearray(frame)
    huge[16:24] = (1 << 40).to_bytes(8, "little")
    tiny = bytearray(frame)
    tiny[16:24] = (8).to_bytes(8, "little")
    return [bytes(64), frame[:4] + b"\x63" + frame[5:], numbered(3, 1, 1).tobytes(), bytes(huge), bytes(tiny)]


@pytest.mark.asyncio
@pytest.mark.parametrize("kind", ["tcp", "unix"])
@pytest.mark.parametrize("data", garbage(), ids=["zeros", "version", "sender", "huge", "tiny"])
async def test_what_is_no_frame_ends_the_connection(kind: str, data: bytes) -> None:
    town, ear = Town(kind), Ear(1)
    town.add(Ear(0), 0)
    town.add(ear, 1)
    sock = await introduced(town)
    loop = asyncio.get_running_loop()
    await loop.sock_sendall(sock, numbered(0, 1, 5).tobytes() + data)
    assert await ear.hears(2) == [(0, 5), (0, "lost")]
    assert "no frame" in ear.reasons[0]
    assert await loop.sock_recv(sock, 1) == b""
    sock.close()
    await close(town)


@pytest.mark.asyncio
@pytest.mark.parametrize("kind", ["tcp", "unix"])
async def test_half_a_connection_is_none(kind: str) -> None:
    town, ear = Town(kind), Ear(1)
    town.add(Ear(0), 0)
    town.add(ear, 1)
    sock = await introduced(town)
    sock.shutdown(socket.SHUT_WR)
    assert await ear.hears(1) == [(0, "lost")]
    sock.close()
    await close(town)


@pytest.mark.asyncio
@pytest.mark.parametrize("kind", ["tcp", "unix"])
async def test_a_peer_that_does_not_read_is_given_up_with_bounded_memory(
    kind: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(stream, "QUEUE_LIMIT", 8 << 20)
    town, ear = Town(kind), Ear(1)
    town.add(Ear(0), 0)
    town.add(ear, 1)
    sock = await introduced(town)
    link = town.transports[1]._ways[0].link
    assert isinstance(link, stream.StreamLink)
    frame = large(1, 0, 1, 1 << 20)
    for _ in range(64):
        if ear.heard:
            break
        town.transports[1].send(0, frame)
        town.transports[1].flush()
        assert link._transport.get_write_buffer_size() < 10 << 20
        await asyncio.sleep(0)
    assert await ear.hears(1) == [(0, "lost")]
    assert "does not read" in ear.reasons[0]
    sock.close()
    await close(town)


@pytest.mark.asyncio
async def test_rings_that_are_not_emptied_are_given_up(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(shm, "QUEUE_LIMIT", 8 << 20)
    town, one, other = Town("shm", ring_bytes=1 << 20), Ear(0), Ear(1)
    town.add(one, 0)
    town.add(other, 1)
    say(town, 0, 1, 0)
    await other.hears(1)
    monkeypatch.setattr(town.transports[1]._ways[0].link, "drain", lambda: None)
    frame = large(0, 1, 1, 1 << 20)
    for _ in range(12):
        town.transports[0].send(1, frame)
    assert await one.hears(1) == [(1, "lost")]
    assert "does not read" in one.reasons[0]
    await close(town)


@pytest.mark.asyncio
async def test_a_sink_that_keeps_a_frame_of_a_ring_is_found_out() -> None:
    town, one, other = Town("shm"), Ear(0), Ear(1)
    town.add(one, 0)
    town.add(other, 1)
    other.keeps = True
    say(town, 0, 1, 0)
    assert await other.hears(2) == [(0, 0), (0, "lost")]
    assert "kept" in other.reasons[0]
    await close(town)


@pytest.mark.asyncio
@pytest.mark.parametrize("kind", KINDS)
async def test_a_peer_killed_in_the_middle_of_a_frame(kind: str) -> None:
    town, ear = Town(kind), Ear(1)
    there = town.add(ear, 1)
    there.set_peers([Peer(0, "n0", "127.0.0.1:1", 1)])
    offer = there.offer
    program = f"import support.dying_peer as it; it.run({kind!r}, {offer.tcp_port}, {offer.unix_socket!r})"
    child = await asyncio.create_subprocess_exec(
        sys.executable, "-c", program, env=os.environ | {"PYTHONPATH": os.pathsep.join(sys.path)}
    )
    assert (await ear.hears(11))[:11] == [*((0, number) for number in range(10)), (0, "lost")]
    assert await child.wait() == -signal.SIGKILL
    await close(town)


@pytest.mark.asyncio
async def test_what_fails_is_told_and_the_next_is_taken(capsys: pytest.CaptureFixture[str]) -> None:
    town, one, other = Town("auto"), Ear(0), Ear(1)

    async def ask(peer: Peer, timeout_s: float) -> Offer:
        offer = town.transports[peer.index].offer
        return Offer(offer.kinds, offer.tcp_port, "@unimem-not-here")

    town.ask = ask  # type: ignore[method-assign]
    town.add(one, 0)
    town.add(other, 1)
    say(town, 0, 1, 1)
    assert await other.hears(1) == [(0, 1)]
    assert town.transports[0].kind(1) == town.transports[1].kind(0) == "tcp"
    said = capsys.readouterr()
    assert "on another host" in said.out + said.err
    await close(town)


class Reference:
    """Stands for gRPC."""

    name = "grpc"

    def __init__(self) -> None:
        self.sent: list[tuple[int, int]] = []
        self.known: list[Peer] = []

    def set_peers(self, peers: Any) -> None:
        self.known = list(peers)

    def send(self, peer: int, frame: np.ndarray) -> None:
        self.sent.append((peer, int(open_frame(frame).header["number"])))

    def flush(self) -> None:
        pass

    def peers(self) -> list[int]:
        return sorted({peer for peer, _ in self.sent})

    def kind(self, peer: int) -> str:
        return "grpc"

    def close(self) -> None:
        pass

    async def wait_closed(self) -> None:
        pass


@pytest.mark.asyncio
async def test_a_node_of_another_make_is_reached_by_grpc() -> None:
    town, ear = Town("auto"), Ear(0)

    async def ask(peer: Peer, timeout_s: float) -> Offer:
        return Offer()

    town.ask = ask  # type: ignore[method-assign]
    here = town.add(ear, 0)
    here.reference = reference = Reference()
    here.set_peers([Peer(1, "n1", "127.0.0.1:1", 1), Peer(2, "n2", "127.0.0.1:2", 1)])
    say(town, 0, 1, 4, 5)
    await asyncio.sleep(0.05)
    say(town, 0, 1, 6)
    assert reference.sent == [(1, 4), (1, 5), (1, 6)]
    assert (here.peers(), here.kind(1)) == ([1], "grpc")
    here.reference_sink.on_frame(2, numbered(2, 0, 9))  # who calls by gRPC is answered there
    say(town, 0, 2, 7)
    assert reference.sent[-1] == (2, 7)
    here.reference_sink.peer_lost(1, "broke")
    here.reference_sink.peer_unreachable(2, "gone")
    assert ear.heard == [(2, 9), (1, "lost"), (2, "unreachable")]
    await close(town)


@pytest.mark.parametrize(
    ("prefer", "kinds"),
    [
        ("auto", ("shm", "unix", "tcp", "grpc")),
        ("shm", ("shm", "unix", "tcp", "grpc")),
        ("unix", ("unix", "tcp", "grpc")),
        ("tcp", ("tcp", "grpc")),
        ("grpc", ("grpc",)),
    ],
)
def test_what_an_option_allows(prefer: str, kinds: tuple[str, ...]) -> None:
    assert kinds_from(prefer) == kinds
