"""The gRPC port against nodes and a coordinator in this process: `unimem._grpc_*`."""

from __future__ import annotations

import asyncio
import threading
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import grpc
import numpy as np
import pytest
import unimem
from fake_grpc import FakeGrpc, FakeNode
from fakes import Refused
from unimem import (
    AccessDenied,
    Client,
    ControlError,
    DeadlineExceeded,
    NoSpace,
    PeerLost,
    PeerUnreachable,
    SessionExpired,
    TranslationFault,
    TransportError,
    UsageError,
    verbs,
    wire,
)
from unimem._grpc_stream import WINDOW_BYTES

MIB = 1 << 20


@pytest.fixture
def fake() -> Iterator[FakeGrpc]:
    with FakeGrpc() as running:
        yield running


@pytest.fixture
def um(fake: FakeGrpc) -> Iterator[Client]:
    with unimem.connect(fake.address) as client:
        yield client


@pytest.fixture
def home(fake: FakeGrpc) -> FakeNode:
    return fake.nodes["n0"]


def eventually(condition: Callable[[], bool]) -> None:
    """Wait for what another thread is about to do."""
    for _ in range(2000):
        if condition():
            return
        threading.Event().wait(0.005)
    raise AssertionError("it never happened")


def noise(n: int) -> np.ndarray:
    return np.random.default_rng(n).integers(0, 256, n, np.uint8)


def test_the_verbs_over_grpc(um: Client, fake: FakeGrpc) -> None:
    a = um.array((8, 8), "<f4", node="n1")
    a[...] = np.arange(64).reshape(8, 8)
    assert a[3].tolist() == list(range(24, 32))
    assert a[:, 1].tolist() == list(range(1, 64, 8))
    b = um.alloc(256, node="n2")
    um.copy(b, a.ptr, 256)
    assert um.get(b, 4, dtype="<f4").tolist() == [0]
    assert um.swap(b, 6) == int.from_bytes(np.arange(2, dtype="<f4").tobytes(), "little")
    assert um.fetch_add(b, 1) == 6
    assert um.compare_swap(b, 7, 9) == 7
    with pytest.raises(TranslationFault):
        um.put(0x200_0000_0000, b"x")
    um.free(b)
    assert um.reachability() == {"n0": "direct", "n1": "direct", "n2": "direct"}
    assert [len(n.streams) for n in fake.nodes.values()] == [1, 1, 0]
    assert fake.nodes["n0"].streams[0]["unimem-pdid"] == str(um.pdid)


def test_nodes_that_cannot_be_reached_are_relayed() -> None:
    with FakeGrpc(reachable=False) as fake, unimem.connect(fake.address) as um:
        a = um.alloc(64, node="n1")
        um.put(a, b"through")
        assert um.get(a, 7).tobytes() == b"through"
        assert fake.relayed == ["n0"]
        assert um.reachability() == dict.fromkeys(("n0", "n1", "n2"), "relayed")


def test_an_address_where_something_else_listens_is_relayed_next_time(fake: FakeGrpc) -> None:
    fake.cluster.addresses["n0"] = fake.serve("other", {})
    with unimem.connect(fake.address) as um:
        a = um.alloc(8)
        with pytest.raises(PeerUnreachable, match="no unimem node") as caught:
            um.put(a, b"x")
        assert caught.value.definite
        assert caught.value.retryable
        um.put(a, b"x")
        assert fake.relayed == ["n0"]


def test_long_transfers_go_in_pieces_within_the_window(um: Client, home: FakeNode) -> None:
    a = um.alloc(16 * MIB)
    data = noise(16 * MIB - 3)
    home.gate.clear()
    t = um.put_async(a, data)
    home.seen.wait(5)
    stream = um._port._core.stream(None)  # type: ignore[attr-defined]
    assert stream._weight <= WINDOW_BYTES
    home.gate.set()
    t.result()
    assert t.bytes == len(data)
    assert sum(t.timing.values()) == t.simulated_ns
    out = np.empty(len(data), np.uint8)
    um.get(a, out=out)
    assert (out == data).all()
    lengths = np.concatenate(home.frames)["length"]
    assert lengths.max() == 256 << 10
    assert home.bytes_at_most < (256 << 10) + 200
    assert stream._weight == 0


def test_what_is_posted_while_a_message_is_sent_leaves_together(um: Client, home: FakeNode) -> None:
    a = um.alloc(8192)
    um.put(a, b"warm")
    home.frames.clear()
    home.gate.clear()
    transfers = [um.put_async(a + 8 * i, bytes([i % 256]) * 8) for i in range(1000)]
    home.gate.set()
    um.flush()
    assert all(t.done() for t in transfers)
    assert sum(map(len, home.frames)) == 1000
    assert len(home.frames) < 300  # usually a handful
    assert um.get(a, 8000).tobytes() == b"".join(bytes([i % 256]) * 8 for i in range(1000))


def test_batches_of_thousands(um: Client, home: FakeNode) -> None:
    p = um.alloc(80_000)
    gvas = int(p) + 8 * np.random.default_rng(1).permutation(10_000)
    um.put_many(gvas, np.arange(10_000, dtype="<u8"))
    assert max(map(len, home.frames)) == 4096
    assert um.get_many(gvas, 8).view("<u8").reshape(-1).tolist() == list(range(10_000))
    pair = verbs.QueuePair(um, verbs.CompletionQueue(um))
    requests, payload = verbs.write_requests(gvas[:100], np.zeros(100, "<u8"))
    pair.post(requests, payload)
    single = um.put_async(p, b"x")  # single ones and batches at once
    assert len(pair.queue.poll(100, timeout=5)) == 100
    single.result()
    with pytest.raises(ExceptionGroup):
        um.put_many([int(p), 0x200_0000_0000], [1, 2])


def test_large_rows_of_a_batch_fill_frames_by_bytes(um: Client, home: FakeNode) -> None:
    p = um.alloc(16 * MIB)
    values = noise(12 * MIB).reshape(96, -1)
    gvas = int(p) + np.arange(96) * values.shape[1]
    um.put_many(gvas, values)
    assert home.bytes_at_most <= (256 << 10) + 4096
    assert (um.get_many(gvas, values.shape[1]) == values).all()


def test_a_stream_that_breaks_with_work_under_way(um: Client, home: FakeNode) -> None:
    p = um.alloc(16 * MIB)
    um.put(p, b"first")
    arrived = threading.Event()

    def cut(number: int, context: grpc.ServicerContext) -> bytes | None:
        arrived.set()
        home.gate.wait(5)
        context.abort(grpc.StatusCode.UNAVAILABLE, "the node died")
        return None

    home.on_frame = cut
    home.gate.clear()
    write = um.put_async(p, b"second")
    arrived.wait(5)
    read = um.get_async(p, 5)
    long = um.put_async(p + 8, noise(12 * MIB))
    home.gate.set()
    errors = [t.exception() for t in (write, read, long)]
    assert [type(e) for e in errors] == [PeerLost] * 3
    assert [e.definite for e in errors if e is not None] == [False, True, False]
    assert "the node died" in str(errors[0])
    assert errors[0] is not None
    assert errors[0].node == "n0"
    home.on_frame = None
    um.put(p, b"again")  # a new stream
    assert um.get(p, 5).tobytes() == b"again"


def test_what_was_never_sent_is_definite(um: Client, home: FakeNode) -> None:
    p = um.alloc(16 * MIB)
    um.put(p, b"first")
    home.gate.clear()

    def cut(number: int, context: grpc.ServicerContext) -> bytes | None:
        home.gate.wait(5)
        context.abort(grpc.StatusCode.UNAVAILABLE, "the node died")
        return None

    home.on_frame = cut
    filling = um.put_async(p, noise(WINDOW_BYTES))  # the window is full: what follows is not sent
    waiting = um.put_async(p, b"never")
    requests, payload = verbs.write_requests([int(p)], np.ones(1, "u8"))
    pair = verbs.QueuePair(um, verbs.CompletionQueue(um))
    pair.post(requests, payload)
    home.gate.set()
    first, second = filling.exception(), waiting.exception()
    assert isinstance(first, PeerLost)
    assert not first.definite
    assert isinstance(second, PeerLost)
    assert second.definite
    rows = pair.queue.poll(1, timeout=5)
    assert (rows["status"][0], rows["flags"][0]) == (wire.Status.PEER_LOST, wire.CompletionFlags.DEFINITE)


def test_a_batch_under_way_when_the_stream_breaks(um: Client, home: FakeNode) -> None:
    p = um.alloc(80_000)
    um.put(p, b"first")
    count = len(home.frames)

    def cut(number: int, context: grpc.ServicerContext) -> bytes | None:
        if number > count + 1:
            context.abort(grpc.StatusCode.INTERNAL, "boom")
        return None

    home.on_frame = cut
    with pytest.raises(ExceptionGroup, match="of put_many failed") as caught:
        um.put_many(int(p) + 8 * np.arange(10_000), np.ones(10_000, "u8"))
    first = caught.value.exceptions[0]
    assert isinstance(first, PeerLost)
    assert not first.definite
    assert "boom" in str(first)


def test_a_node_that_dies(um: Client, fake: FakeGrpc, home: FakeNode) -> None:
    p = um.alloc(8)
    um.put(p, b"x")
    fake.stop("n0")
    fake.cluster.states["n0"] = 2
    eventually(lambda: "n0" not in um._port._core.reached)  # type: ignore[attr-defined]
    with pytest.raises(PeerUnreachable, match="n0 is lost") as caught:
        um.put(p, b"y")
    assert caught.value.definite
    fake.cluster.states["n0"] = 1
    fake.cluster.addresses["n0"] = fake.serve("n0", {"Transfer": home.transfer})  # back, elsewhere
    um.put(p, b"z")
    assert um.reachability("n0") == {"n0": "direct"}


@pytest.mark.parametrize("garbage", [b"\xff\xff", b"", wire.encode_bytes_field(bytes(100))])
def test_garbage_from_a_node_breaks_the_stream_and_nothing_else(
    um: Client, home: FakeNode, garbage: bytes
) -> None:
    p = um.alloc(8)
    home.on_frame = lambda number, context: garbage if number == 1 else None
    with pytest.raises(PeerLost, match="no completion frame"):
        um.put(p, b"x")
    um.put(p, b"x")


def test_completions_nobody_waits_for_are_ignored(um: Client, home: FakeNode) -> None:
    p = um.alloc(8)
    rows = np.zeros(2, wire.COMPLETION)
    rows["wr_id"] = [12345, (1 << 63) + 7]
    stray = wire.encode_bytes_field(wire.new_frame(wire.FrameKind.COMPLETE, rows))
    answers = home.answer
    home.answer = lambda *a: stray if home.frames and len(home.frames) == 1 else answers(*a)  # type: ignore[method-assign]
    with pytest.raises(DeadlineExceeded):
        um.put(p, b"x", timeout=0.2)
    um.put(p, b"y")


def test_a_deadline_while_the_node_is_silent(um: Client, home: FakeNode) -> None:
    p = um.alloc(64)
    um.put(p, b"old")
    home.gate.clear()
    with pytest.raises(DeadlineExceeded) as caught:
        um.put(p, b"new", timeout=0.1)
    assert not caught.value.definite
    out = bytearray(3)
    with pytest.raises(DeadlineExceeded):
        um.get(p, out=out, timeout=0.1)
    home.gate.set()
    um.flush()
    assert out == bytes(3)  # withdrawn: a late answer does not touch it
    assert um.get(p, 3).tobytes() == b"new"


def test_cancel_takes_back_what_the_window_keeps(um: Client, home: FakeNode) -> None:
    p = um.alloc(16 * MIB)
    home.gate.clear()
    filling = um.put_async(p, noise(WINDOW_BYTES))
    home.seen.wait(5)
    waiting, long = um.put_async(p, b"x"), um.put_async(p, noise(MIB))
    assert waiting.cancel()
    assert long.cancel()
    assert not filling.cancel()
    home.gate.set()
    um.flush()
    assert isinstance(waiting.exception(), unimem.Cancelled)


@pytest.mark.parametrize(
    ("reason", "kind"),
    [("NO_SPACE", NoSpace), ("SESSION_EXPIRED", SessionExpired), ("QUOTA", ControlError)],
)
def test_error_info_decides(um: Client, fake: FakeGrpc, reason: str, kind: type[Exception]) -> None:
    fake.refuse = Refused(reason, "no", node="n1", hint="try later")
    with pytest.raises(kind) as caught:
        um.alloc(8)
    error: Any = caught.value
    assert (error.reason, error.node, error.hint, error.definite) == (reason, "n1", "try later", True)
    fake.refuse = None


@pytest.mark.parametrize(
    ("code", "kind"),
    [
        (grpc.StatusCode.INVALID_ARGUMENT, UsageError),
        (grpc.StatusCode.PERMISSION_DENIED, AccessDenied),
        (grpc.StatusCode.RESOURCE_EXHAUSTED, NoSpace),
        (grpc.StatusCode.INTERNAL, ControlError),
        (grpc.StatusCode.UNAVAILABLE, TransportError),
    ],
)
def test_without_error_info_the_code_decides(
    um: Client, fake: FakeGrpc, monkeypatch: pytest.MonkeyPatch, code: Any, kind: type[Exception]
) -> None:
    def fail(request: object) -> None:
        raise RuntimeError

    monkeypatch.setattr("fake_grpc.abort", lambda context, error: context.abort(code, "as it is"))
    fake.refuse = Refused("IGNORED", "x")
    with pytest.raises(kind, match="as it is"):
        um.alloc(8)
    fake.refuse = None


def test_a_coordinator_that_goes_away_and_comes_back(um: Client, fake: FakeGrpc) -> None:
    p = um.alloc(8)
    fake.stop("coordinator")
    um.put(p, b"x")  # never on the path of a transfer
    um.timeout = 0.2
    with pytest.raises((TransportError, DeadlineExceeded)) as caught:
        um.alloc(8)
    assert not caught.value.definite
    fake.serve("coordinator", {}, fake.control, fake.address)
    um.timeout = 20
    assert um.alloc(8) != p


def test_a_session_the_node_does_not_know(um: Client, fake: FakeGrpc) -> None:
    p = um.alloc(8)
    saved = dict(fake.cluster.sessions)
    fake.cluster.sessions.clear()
    with pytest.raises(AccessDenied, match="does not know this session") as caught:
        um.put(p, b"x")
    assert caught.value.definite
    fake.cluster.sessions.update(saved)


def test_sessions_are_renewed(fake: FakeGrpc, monkeypatch: pytest.MonkeyPatch) -> None:
    renewed = threading.Event()
    opening, renewing = fake.cluster.OpenSession, fake.cluster.RenewSession

    def open_session(request: Any) -> Any:
        answer = opening(request)
        answer.session_ttl_ns = 60_000_000
        return answer

    def renew_session(request: Any) -> Any:
        assert request.token
        renewed.set()
        return renewing(request)

    monkeypatch.setattr(fake.cluster, "OpenSession", open_session)
    monkeypatch.setattr(fake.cluster, "RenewSession", renew_session)
    with unimem.connect(fake.address):
        assert renewed.wait(5)


def test_closing_with_work_under_way(fake: FakeGrpc, home: FakeNode) -> None:
    um = unimem.connect(fake.address)
    um.timeout = 0.1
    p = um.alloc(8)
    home.gate.clear()
    t = um.put_async(p, b"x")
    with pytest.warns(ResourceWarning, match="still under way"):
        um.close()
    error = t.exception()
    assert isinstance(error, unimem.Cancelled)
    assert not error.definite
    assert not fake.cluster.sessions


def test_threads_share_a_client(um: Client) -> None:
    p = um.alloc(8 * 64)

    def work(i: int) -> int:
        for _ in range(10):
            um.fetch_add(p, 1)
            um.put(p + 8 * (i + 1), bytes([i]) * 8)
        return int(um.get(p + 8 * (i + 1), 1)[0])

    with ThreadPoolExecutor(8) as pool:
        assert list(pool.map(work, range(8))) == list(range(8))
    assert um.fetch_add(p, 0) == 80


def test_a_callback_must_not_wait(um: Client) -> None:
    p = um.alloc(8)
    errors: list[BaseException] = []
    called = threading.Event()

    def callback(transfer: Any) -> None:
        for call in (lambda: um.put(p, b"x"), um.nodes):
            try:
                call()
            except UsageError as error:
                errors.append(error)
        called.set()

    um.put_async(p, b"y").add_done_callback(callback)
    assert called.wait(5)
    assert len(errors) == 2
    um.flush()


def test_the_async_client_over_grpc(fake: FakeGrpc) -> None:
    async def main() -> None:
        async with unimem.connect_async(fake.address, home="n1") as um:
            assert um.home == "n1"
            p = await um.alloc(2 * MIB, node="n2")
            data = noise(2 * MIB)
            await um.put(p, data)
            assert ((await um.get(p, 2 * MIB)) == data).all()
            await asyncio.gather(*(um.fetch_add(p, 1) for _ in range(64)))
            transfers = [um.put_async(p + 8 * i, b"x") for i in range(10)]
            for t in transfers:
                await t
            await um.put_many([int(p)], [7])
            async with um.batch() as b:
                found = b.get(p, 8, dtype="<u8")
            assert found.result().tolist() == [7]
            assert await um.reachability() == dict.fromkeys(("n0", "n1", "n2"), "direct")
            node = fake.nodes["n1"]
            node.gate.clear()
            with pytest.raises(DeadlineExceeded):
                await um.put(p, b"late", timeout=0.05)
            waiting = asyncio.ensure_future(um.put(p, b"late"))
            await asyncio.sleep(0)
            waiting.cancel()
            with pytest.raises(asyncio.CancelledError):
                await waiting
            node.gate.set()
            await um.flush()

    asyncio.run(main())
    assert not fake.cluster.sessions


def test_awaiting_a_blocking_client_s_transfer_over_grpc(um: Client, home: FakeNode) -> None:
    async def main() -> None:
        p = um.alloc(8)
        await um.put_async(p, b"12345678")
        assert (await um.get_async(p, 8)).tobytes() == b"12345678"
        home.gate.clear()
        with pytest.raises(DeadlineExceeded):
            await um.put_async(p, b"x", timeout=0.05)
        home.gate.set()

    asyncio.run(main())
