"""A real coordinator and two real node processes, seen by a foreign gRPC client with generated stubs."""

from __future__ import annotations

import asyncio
import signal
import socket
from collections.abc import AsyncIterator
from contextlib import AsyncExitStack, asynccontextmanager
from dataclasses import dataclass
from typing import Any

import grpc
import grpc.aio
import pytest
import pytest_asyncio

from support.node_process import Process
from unimem.v1 import coordinator_pb2 as pb
from unimem.v1 import coordinator_pb2_grpc, node_pb2, node_pb2_grpc, types_pb2
from unimem.wire import Status

pytestmark = [pytest.mark.asyncio, pytest.mark.timeout(300)]

MIB = 1 << 20


@dataclass
class Machine:
    """The three processes, and a session at home on n0."""

    coordinator: str
    nodes: dict[str, Process]
    control: Any
    session: Any

    async def address(self, name: str) -> str:
        listed = await self.control.ListNodes(pb.ListNodesRequest())
        return next(str(node.address) for node in listed.nodes if node.name == name)

    async def region(self, node: str, length: int) -> int:
        request = pb.AllocateRegionRequest(node=node, length=length)
        request.session_id, request.token = self.session.session_id, self.session.token
        gva: int = (await self.control.AllocateRegion(request)).region.gva
        return gva

    @asynccontextmanager
    async def transfer(self, node: str = "n0") -> AsyncIterator[Any]:
        """A Transfer stream of the session."""
        credentials = (("unimem-pdid", str(self.session.pdid)), ("unimem-token", self.session.token))
        options = [("grpc.max_receive_message_length", 8 * MIB), ("grpc.max_send_message_length", 8 * MIB)]
        async with grpc.aio.insecure_channel(await self.address(node), options) as channel:
            stub: Any = node_pb2_grpc.DmaServiceStub(channel)  # type: ignore[no-untyped-call]
            call = stub.Transfer(metadata=credentials)
            yield call
            call.cancel()

    async def status(self, node: str) -> Any:
        async with grpc.aio.insecure_channel(await self.address(node)) as channel:
            stub: Any = node_pb2_grpc.NodeServiceStub(channel)  # type: ignore[no-untyped-call]
            return await stub.GetStatus(node_pb2.GetStatusRequest(), timeout=10)


def free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port: int = probe.getsockname()[1]
        return port


async def start_coordinator(address: str) -> Process:
    # Nobody renews the session: a node that has to compile first may take its time.
    return await Process.start(
        "unimem_coordinator", "--listen", address, "--session-ttl", "600", "--node-ttl", "3"
    )


async def start_node(name: str, coordinator: str, *flags: str) -> Process:
    given = ["--name", name, "--coordinator", coordinator, "--memory-bytes", "256MiB", *flags]
    return await Process.start("unimem_node.service", *given)


@pytest_asyncio.fixture
async def machine() -> AsyncIterator[Machine]:
    address = f"127.0.0.1:{free_port()}"
    async with AsyncExitStack() as stack:
        await stack.enter_async_context(await start_coordinator(address))
        nodes = {}
        for name in ("n0", "n1"):
            nodes[name] = await stack.enter_async_context(await start_node(name, address))
        for process in nodes.values():
            assert (await process.line(within_s=200)).startswith("listening on 127.0.0.1:")
        channel = await stack.enter_async_context(grpc.aio.insecure_channel(address))
        control: Any = coordinator_pb2_grpc.CoordinatorServiceStub(channel)  # type: ignore[no-untyped-call]
        session = await control.OpenSession(pb.OpenSessionRequest(home="n0"))
        yield Machine(address, nodes, control, session)


async def exchange(call: Any, *work: node_pb2.WorkRequest) -> list[node_pb2.Completion]:
    """Post single requests in one message; their completions, by wr_id."""
    await call.write(node_pb2.TransferRequest(work=work))
    done: list[node_pb2.Completion] = []
    async with asyncio.timeout(60):
        while len(done) < len(work):
            done += (await call.read()).completions
    return sorted(done, key=lambda completion: completion.wr_id)


def write(wr_id: int, dst: int, data: bytes) -> node_pb2.WorkRequest:
    return node_pb2.WorkRequest(wr_id=wr_id, opcode=node_pb2.OPCODE_WRITE, dst=dst, data=data)


def read(wr_id: int, src: int, length: int) -> node_pb2.WorkRequest:
    return node_pb2.WorkRequest(wr_id=wr_id, opcode=node_pb2.OPCODE_READ, src=src, length=length, fence=True)


def fetch_add(wr_id: int, dst: int, operand: int) -> node_pb2.WorkRequest:
    opcode = node_pb2.OPCODE_FETCH_ADD
    return node_pb2.WorkRequest(wr_id=wr_id, opcode=opcode, dst=dst, length=8, operand=operand)


async def test_a_foreign_client_writes_reads_and_counts(machine: Machine) -> None:
    gva = await machine.region("n1", 4 * MIB)
    big = bytes(range(256)) * (3 * MIB // 256)
    async with machine.transfer() as call:
        done = await exchange(
            call,
            write(1, gva, b"a foreign client"),
            read(2, gva, 16),
            fetch_add(3, gva + 64, 41),
            fetch_add(4, gva + 64, 1),
        )
        assert [one.reason for one in done] == ["OK"] * 4
        assert done[1].data == b"a foreign client"
        assert sorted([done[2].value, done[3].value]) == [0, 41]
        for one in done:
            assert one.completed_ns - one.posted_ns == sum(one.timing_ns.values()) > 0
        assert done[0].timing_ns["wire"] > 0
        written, back = await exchange(call, write(5, gva + MIB, big), read(6, gva + MIB, len(big)))
        assert written.bytes == len(big)
        assert back.data == big
    # The target's SMMU translated every block through the page tables in its DRAM.
    target = await machine.status("n1")
    assert target.counters["walks"] > 0
    assert target.peers["n0"] in ("shm", "unix")  # they share a host
    assert target.pdids == [machine.session.pdid]


async def test_refused_accesses_say_who_refused_and_why(machine: Machine) -> None:
    gva = await machine.region("n1", 4096)
    async with machine.transfer() as call:
        (unmapped,) = await exchange(call, write(1, gva + MIB, b"nothing is mapped here"))
        assert (unmapped.reason, unmapped.node) == ("TRANSLATION_FAULT", "n1")
        assert unmapped.definite
        assert unmapped.syndrome.iova == gva + MIB
        assert unmapped.syndrome.write
        (nowhere,) = await exchange(call, write(2, 1 << 44, b"no node has this window"))
        assert (nowhere.reason, nowhere.definite) == ("NO_ROUTE", True)
        (fine,) = await exchange(call, write(3, gva, b"still fine"))
        assert fine.reason == "OK"


async def test_a_node_killed_in_mid_transfer_is_lost_and_comes_back(machine: Machine) -> None:
    gva = await machine.region("n1", 4 * MIB)
    data = bytes(2 * MIB)
    async with machine.transfer() as call:
        (first,) = await exchange(call, write(0, gva, data))
        assert first.reason == "OK"
        work = [write(i, gva, data) for i in range(1, 41)]
        posting = asyncio.create_task(post_each(call, work))
        done = list((await call.read()).completions)  # the stream of writes is under way
        assert await machine.nodes["n1"].end(signal.SIGKILL) == -signal.SIGKILL
        async with asyncio.timeout(60):
            while len(done) < len(work):
                done += (await call.read()).completions
        await posting
        outcomes = {one.wr_id: one for one in done}
        assert sorted(outcomes) == list(range(1, 41))
        reasons = [outcomes[i].reason for i in sorted(outcomes)]
        assert reasons[0] == "OK"
        assert "PEER_LOST" in reasons
        assert set(reasons) <= {"OK", "PEER_LOST", "PEER_UNREACHABLE", "STALE_ROUTE"}
        lost = [one for one in done if one.status == Status.PEER_LOST]
        assert not all(one.definite for one in lost)  # what was on its way may have happened

        # The survivor goes on, and meets the node's next life.
        (here,) = await exchange(call, write(50, await machine.region("n0", 4096), b"at home"))
        assert here.reason == "OK"
        async with await start_node("n1", machine.coordinator) as again:
            await again.line(within_s=200)
            (stale,) = await exchange(call, write(51, gva, b"to a region that died with its node"))
            assert stale.reason != "OK"
            (fresh,) = await exchange(call, write(52, await machine.region("n1", 4096), b"hello again"))
            assert fresh.reason == "OK"
            assert (await machine.status("n1")).node.incarnation == 2


async def post_each(call: Any, work: list[node_pb2.WorkRequest]) -> None:
    for one in work:
        await call.write(node_pb2.TransferRequest(work=[one]))


async def test_a_node_leaves_in_time_and_says_so(machine: Machine) -> None:
    start = asyncio.get_running_loop().time()
    assert await machine.nodes["n1"].end(signal.SIGTERM) == 0
    assert asyncio.get_running_loop().time() - start < 5
    listed = await machine.control.ListNodes(pb.ListNodesRequest())
    assert {node.name: node.state for node in listed.nodes} == {"n0": 1, "n1": 3}


async def test_what_cannot_start_says_why_and_exits_with_its_own_code(machine: Machine) -> None:
    taken = await machine.address("n0")
    async with await start_node("n7", machine.coordinator, "--listen", taken) as node:
        assert await node.end(None, within_s=60) == 3
        assert f"port {taken.rpartition(':')[2]}" in "".join(node.log)
    async with await start_node("n7", machine.coordinator, "--platform", "zynq7") as node:
        assert await node.end(None, within_s=60) == 3
        assert "no platform 'zynq7'; there are stratix10, versal, zynqmp" in "".join(node.log)
        assert "Traceback" not in "".join(node.log)
    async with await start_node("n7", machine.coordinator, "--memory-bytes", "35GiB") as node:
        assert await node.end(None, within_s=60) == 3
        assert "from 4096 to" in "".join(node.log)
    nobody = f"127.0.0.1:{free_port()}"
    async with await start_node("n7", nobody, "--coordinator-timeout-s", "0.5") as node:
        assert await node.end(None, within_s=60) == 4
        assert f"no coordinator at {nobody}" in "".join(node.log)


async def test_a_node_that_stood_still_takes_its_lease_again_with_its_memory(machine: Machine) -> None:
    gva = await machine.region("n1", 4096)
    async with machine.transfer() as call:
        await exchange(call, write(1, gva, b"before the pause"))
        machine.nodes["n1"].send(signal.SIGSTOP)
        assert await until_state(machine, "n1", "NODE_STATE_LOST")
        machine.nodes["n1"].send(signal.SIGCONT)
        node = await until_state(machine, "n1", "NODE_STATE_UP")
        assert node.incarnation == 1
        async with asyncio.timeout(20):
            while True:  # the home node may hear of it a little later
                (back,) = await exchange(call, read(2, gva, 16))
                if back.reason == "OK":
                    break
                assert back.definite
        assert back.data == b"before the pause"


async def until_state(machine: Machine, name: str, state: str) -> Any:
    """The node as the coordinator lists it, once it is in `state`."""
    async with asyncio.timeout(30):
        while True:
            listed = await machine.control.ListNodes(pb.ListNodesRequest())
            node = next(node for node in listed.nodes if node.name == name)
            if types_pb2.NodeState.Name(node.state) == state:
                return node
            await asyncio.sleep(0.05)
