"""`unimem._connect`: addresses, and a coordinator that is not there."""

from __future__ import annotations

import asyncio
import logging
import socket
import threading

import pytest
from fake_grpc import FakeGrpc

import unimem
from unimem import TransportError, UnknownNode, UsageError
from unimem._connect import parse_endpoint


@pytest.mark.parametrize("address", ["localhost:7400", "10.0.0.1:1", "[::1]:65535", "coordinator.example:80"])
def test_good_addresses(address: str) -> None:
    assert parse_endpoint(address) == address


@pytest.mark.parametrize(
    "address",
    [
        "", "localhost", "localhost:", ":7400", "localhost:0", "localhost:65536", "localhost:x", "a b:7",
        "http://localhost:7400", "::1:7400", "[::1:7400", "user@host:7", 7400, None, "localhost:٧",
    ],
)  # fmt: skip
def test_bad_addresses(address: str) -> None:
    for connect in (unimem.connect, unimem.connect_async):
        with pytest.raises(UsageError) as caught:
            connect(address)
        assert caught.value.reason == "BAD_ADDRESS"


@pytest.mark.parametrize("timeout", [0, -1, float("nan"), "5", None])
def test_bad_timeouts(timeout: float) -> None:
    with pytest.raises(UsageError):
        unimem.connect("localhost:7400", timeout=timeout)


@pytest.fixture
def free_port() -> str:
    with socket.socket() as s:
        s.bind(("127.0.0.1", 0))
        port = s.getsockname()[1]
    return f"127.0.0.1:{port}"


def test_no_coordinator_waits_says_so_and_gives_up(
    free_port: str, caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("unimem._grpc_core.PATIENCE", 0.05)
    with caplog.at_level(logging.WARNING, "unimem"), pytest.raises(TransportError) as caught:
        unimem.connect(free_port, timeout=0.3)
    assert caught.value.reason == "COORDINATOR_UNREACHABLE"
    assert free_port in str(caught.value)
    assert "Hint: start one" in str(caught.value)
    assert caught.value.definite
    assert f"waiting for the coordinator at {free_port} (up to 0.3 s)" in caplog.text

    async def main() -> None:
        async with unimem.connect_async(free_port, timeout=0.1):
            pass

    with pytest.raises(TransportError):
        asyncio.run(main())


def test_a_coordinator_that_comes_up_late_is_found(free_port: str) -> None:
    fake = FakeGrpc()
    timer = threading.Timer(0.3, lambda: fake.serve("late", {}, fake.control, free_port))
    with fake:
        timer.start()
        with unimem.connect(free_port, timeout=20) as um:
            assert um.home == "n0"
        timer.join()


def test_something_else_answers() -> None:
    with FakeGrpc() as fake:
        node = fake.cluster.addresses["n0"]
        with pytest.raises(TransportError, match="not as a unimem coordinator"):
            unimem.connect(node)


def test_an_unknown_home_is_refused() -> None:
    with FakeGrpc() as fake:
        with pytest.raises(UnknownNode, match="connect on n9"):
            unimem.connect(fake.address, home="n9")
        with unimem.connect(fake.address, home="n1", domain="shared") as um:
            assert (um.home, um.domain) == ("n1", "shared")
