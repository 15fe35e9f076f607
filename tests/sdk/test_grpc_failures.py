"""The gRPC port when nodes, streams or the coordinator fail: `unimem._grpc_*`."""

from __future__ import annotations

import threading
from typing import Any

import grpc
import numpy as np
import pytest
from fake_grpc import MIB, FakeGrpc, FakeNode, eventually, noise
from fakes import Refused

import unimem
from unimem import (
    AccessDenied,
    Cancelled,
    Client,
    ControlError,
    DeadlineExceeded,
    NoSpace,
    PeerLost,
    PeerUnreachable,
    SessionExpired,
    TransportError,
    UsageError,
    verbs,
    wire,
)
from unimem._grpc_stream import WINDOW_BYTES
from unimem.wire import COMPLETION, FrameKind


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
    with pytest.raises(SessionExpired, match="n0 refuses the session: no such token") as caught:
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


def silence() -> bytes:
    """A completion frame without completions."""
    return wire.encode_bytes_field(wire.new_frame(FrameKind.COMPLETE, np.empty(0, COMPLETION)))


def test_what_has_left_is_cancelled_at_its_node(um: Client, home: FakeNode) -> None:
    p = um.alloc(64)
    home.on_frame = lambda number, context: silence()
    t = um.put_async(p, b"x", timeout=20)
    eventually(lambda: bool(home.frames))
    assert not t.cancel()
    error = t.exception(timeout=10)
    assert isinstance(error, Cancelled)
    assert not error.definite
    assert home.cancelled == home.frames[-1]["wr_id"].tolist()
    home.on_frame = None
    um.put(p, b"goes on")
    assert um.get(p, 7).tobytes() == b"goes on"


def test_a_long_transfer_is_cancelled_with_all_its_pieces(um: Client, home: FakeNode) -> None:
    p = um.alloc(16 * MIB)
    home.on_frame = lambda number, context: silence()
    t = um.put_async(p, noise(16 * MIB), timeout=20)
    eventually(lambda: sum(map(len, home.frames)) == WINDOW_BYTES // (256 << 10) - 1)
    assert not t.cancel()
    assert isinstance(t.exception(timeout=10), Cancelled)
    assert len(home.cancelled) == sum(map(len, home.frames))  # no further piece has left


def test_a_deadline_travels_and_stops_the_node(um: Client, home: FakeNode) -> None:
    p = um.alloc(8)
    home.on_frame = lambda number, context: silence()
    with pytest.raises(DeadlineExceeded):
        um.put(p, b"x", timeout=0.2)
    assert home.frames[-1]["deadline_us"].tolist() == [150_000]
    eventually(lambda: home.cancelled == home.frames[-1]["wr_id"].tolist())
