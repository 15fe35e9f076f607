"""The coordinator as a process: killed and restarted, and refused what it needs to start."""

from __future__ import annotations

import os
import re
import signal
import socket
import subprocess
import sys
import threading
from collections.abc import Iterator
from concurrent import futures
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import grpc
import pytest

from unimem.v1 import coordinator_pb2 as pb
from unimem.v1 import coordinator_pb2_grpc, node_pb2_grpc, types_pb2
from unimem.v1 import node_pb2 as node_pb
from unimem_coordinator.server import CANNOT_START


class SyncNode(node_pb2_grpc.NodeServiceServicer):
    """Says yes; `hold`, when set, is waited for before it does."""

    def __init__(self) -> None:
        self.mapped: set[int] = set()
        self.arrived = threading.Event()
        self.hold: threading.Event | None = None
        self.server = grpc.server(futures.ThreadPoolExecutor(4))
        node_pb2_grpc.add_NodeServiceServicer_to_server(self, self.server)  # type: ignore[no-untyped-call]
        self.address = f"127.0.0.1:{self.server.add_insecure_port('127.0.0.1:0')}"
        self.server.start()

    def OpenDomain(self, request: Any, context: Any) -> Any:  # noqa: N802
        return node_pb.OpenDomainResponse()

    def CloseDomain(self, request: Any, context: Any) -> Any:  # noqa: N802
        return node_pb.CloseDomainResponse()

    def MapRegion(self, request: Any, context: Any) -> Any:  # noqa: N802
        self.mapped.add(request.gva)
        self.arrived.set()
        if self.hold is not None:
            self.hold.wait(10)
        return node_pb.MapRegionResponse()

    def UnmapRegion(self, request: Any, context: Any) -> Any:  # noqa: N802
        self.mapped.discard(request.gva)
        return node_pb.UnmapRegionResponse()


@pytest.fixture
def node() -> Iterator[SyncNode]:
    node = SyncNode()
    yield node
    node.server.stop(None)


def command(*arguments: str) -> list[str]:
    return [sys.executable, "-m", "unimem_coordinator", *arguments]


@contextmanager
def coordinator(*arguments: str) -> Iterator[tuple[subprocess.Popen[str], Any]]:
    """A process listening on a free port, and a stub to it. Killed at the end if it still runs."""
    process = subprocess.Popen(
        command("--listen", "127.0.0.1:0", *arguments), stderr=subprocess.PIPE, text=True
    )
    assert process.stderr is not None
    try:
        address = None
        for line in process.stderr:
            if found := re.search(r"coordinator listening.* address=(\S+)", line):
                address = found[1]
                break
        assert address, f"it ended with {process.wait()}"
        # Whatever else it says must not fill the pipe.
        threading.Thread(target=process.stderr.read, daemon=True).start()
        with grpc.insecure_channel(address) as channel:
            yield process, coordinator_pb2_grpc.CoordinatorServiceStub(channel)  # type: ignore[no-untyped-call]
    finally:
        process.kill()
        process.wait()


def test_what_was_acknowledged_survives_a_kill(tmp_path: Path, node: SyncNode) -> None:
    state = ("--state", str(tmp_path / "c.sqlite3"))
    registration = pb.RegisterNodeRequest(name="n0", address=node.address, memory_bytes=1 << 30, boot_id=7)
    with coordinator(*state) as (process, stub):
        joined = stub.RegisterNode(registration)
        owner = stub.OpenSession(pb.OpenSessionRequest(home="n0", domain="team"))
        who = {"session_id": owner.session_id, "token": owner.token}
        kept = [
            stub.AllocateRegion(pb.AllocateRegionRequest(**who, length=n + 1, name=f"r{n}")).region
            for n in range(20)
        ]
        stub.FreeRegion(pb.FreeRegionRequest(**who, gva=kept.pop(3).gva))
        share = pb.ShareRegionRequest(**who, gva=kept[0].gva, domain="friends", rights=types_pb2.RIGHTS_READ)
        kept[0] = stub.ShareRegion(share).region
        nodes = stub.ListNodes(pb.ListNodesRequest())
        # Killed with one more under way: mapped on the node, and nobody was told.
        node.hold = threading.Event()
        node.arrived.clear()
        under_way = stub.AllocateRegion.future(pb.AllocateRegionRequest(**who, length=1))
        assert node.arrived.wait(10)
        process.send_signal(signal.SIGKILL)
        process.wait()
        node.hold.set()
        assert under_way.exception() is not None
    assert len(node.mapped) == len(kept) + 1
    with coordinator(*state) as (_, stub):
        assert stub.ListNodes(pb.ListNodesRequest()) == nodes
        assert list(stub.ListRegions(pb.ListRegionsRequest()).regions) == kept
        assert stub.RenewSession(pb.RenewSessionRequest(**who)).session_ttl_ns > 0
        assert stub.RenewLease(pb.RenewLeaseRequest(name="n0", lease_token=joined.lease_token)).lease_ttl_ns
        assert stub.RegisterNode(registration).node.incarnation == 1
        # Closing the session waits for the node to be told everything, what was left half done too.
        for region in kept:
            stub.FreeRegion(pb.FreeRegionRequest(**who, gva=region.gva))
        stub.CloseSession(pb.CloseSessionRequest(**who))
        assert node.mapped == set()
        assert list(stub.ListRegions(pb.ListRegionsRequest()).regions) == []


def test_sigterm_ends_it_cleanly_and_at_once(tmp_path: Path, node: SyncNode) -> None:
    path = tmp_path / "c.sqlite3"
    with coordinator("--state", str(path)) as (process, stub):
        stub.RegisterNode(pb.RegisterNodeRequest(name="n0", address=node.address, boot_id=7))
        watch = stub.WatchRoutes(pb.WatchRoutesRequest())
        next(watch)
        process.send_signal(signal.SIGTERM)
        with pytest.raises(grpc.RpcError) as caught:
            next(watch)
        assert caught.value.code() is grpc.StatusCode.UNAVAILABLE
        assert process.wait(5) == 0
    assert not path.with_name("c.sqlite3-wal").exists()


def refused(*arguments: str) -> str:
    """Standard error of a coordinator that cannot start."""
    done = subprocess.run(command(*arguments), capture_output=True, text=True, timeout=30, check=False)
    assert done.returncode == CANNOT_START >= 3, done.stderr
    assert "Traceback" not in done.stderr
    return done.stderr


def test_a_port_in_use() -> None:
    with socket.create_server(("127.0.0.1", 0)) as taken:
        listen = f"127.0.0.1:{taken.getsockname()[1]}"
        said = refused("--listen", listen)
    assert f"cannot listen on {listen}" in said
    assert "in use" in said
    assert "--listen" in said


@pytest.mark.parametrize("listen", ["nonsense", "127.0.0.1:99999", ":7400", "127.0.0.1:", "192.0.2.1:7400"])
def test_an_address_that_cannot_be(listen: str) -> None:
    assert f"cannot listen on {listen!r}" in refused("--listen", listen).replace(
        f"on {listen}:", f"on {listen!r}:"
    )


def test_two_coordinators_on_one_file(tmp_path: Path) -> None:
    state = ("--state", str(tmp_path / "c.sqlite3"))
    with coordinator(*state):
        said = refused("--listen", "127.0.0.1:0", *state)
    assert "another coordinator holds it" in said


def test_a_state_file_that_is_none(tmp_path: Path) -> None:
    path = tmp_path / "c.sqlite3"
    path.write_bytes(os.urandom(8192))
    said = refused("--listen", "127.0.0.1:0", "--state", str(path))
    assert str(path) in said
    assert "move it away" in said
