"""A node server's life: start, lease, routes, stop, and what can go wrong with each."""

from __future__ import annotations

import asyncio
import socket
from collections.abc import AsyncIterator
from typing import Any

import grpc
import grpc.aio
import pytest
import pytest_asyncio
import structlog
from grpc_health.v1 import health_pb2, health_pb2_grpc
from grpc_reflection.v1alpha import reflection_pb2, reflection_pb2_grpc

from support.fake_coordinator import FakeCoordinator
from support.fake_node import FakeNode
from support.service_harness import CREDENTIALS, PDID, TOKEN, eventually, node_server, post_frame, requests
from unimem.v1 import node_pb2 as pb
from unimem.wire import Op
from unimem_node.service import JoinError, NodeServer, NodeSettings, StartError
from unimem_node.service.server import SERVICES

pytestmark = pytest.mark.asyncio


@pytest_asyncio.fixture
async def coordinator() -> AsyncIterator[FakeCoordinator]:
    one = FakeCoordinator()
    await one.start()
    yield one
    await one.stop()


def fake(name: str, index: int, incarnation: int) -> FakeNode:
    return FakeNode(name, index, incarnation)


def free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port: int = probe.getsockname()[1]
        return port


async def test_it_registers_what_it_is_and_deregisters(coordinator: FakeCoordinator) -> None:
    async with node_server(coordinator, name="left", platform="zynqmp", memory_bytes="64MiB") as (
        server,
        node,
        _,
    ):
        (request,) = coordinator.registrations
        assert (request.name, request.address, request.memory_bytes) == ("left", server.address, 64 << 20)
        assert request.boot_id
        assert (node.name, node.index, node.incarnation) == ("left", 0, 1)
        assert list(node.routes) == [(0, "left", 1 << 36, 1 << 36, 1, 1)]
    assert coordinator.deregistered == ["left"]


async def test_the_coordinator_may_name_it_and_routes_are_followed(coordinator: FakeCoordinator) -> None:
    async with node_server(coordinator) as (first, node, _), node_server(coordinator) as (second, _, _):
        await eventually(lambda: len(node.routes) == 2)
        assert [row[1] for row in node.routes] == ["n0", "n1"]
        assert first.address != second.address


async def test_two_servers_carry_a_write_between_them(coordinator: FakeCoordinator) -> None:
    async with node_server(coordinator) as (_, _, stubs), node_server(coordinator) as (_, there, others):
        await stubs.node.OpenDomain(pb.OpenDomainRequest(pdid=PDID, token=TOKEN))
        call = stubs.dma.Transfer(metadata=CREDENTIALS)
        work = pb.WorkRequest(wr_id=1, opcode=pb.OPCODE_WRITE, dst=there.base + 16, data=b"over there")
        await call.write(pb.TransferRequest(work=[work]))
        (done,) = (await call.read()).completions
        assert (done.status, done.bytes) == (0, 10)
        assert there.region[16:26].tobytes() == b"over there"
        status = await stubs.node.GetStatus(pb.GetStatusRequest())
        assert dict(status.peers) == {"n1": "shm"}
        status = await others.node.GetStatus(pb.GetStatusRequest())
        assert dict(status.peers) == {"n0": "shm"}


async def test_a_lost_lease_is_taken_again_as_the_same_incarnation() -> None:
    coordinator = FakeCoordinator(ttl_s=0.3)
    await coordinator.start()
    async with node_server(coordinator) as (server, _, _):
        coordinator.tokens["n0"] = "gone"
        await eventually(lambda: len(coordinator.registrations) >= 2)
        coordinator.renewed.clear()
        await asyncio.wait_for(coordinator.renewed.wait(), 5)
        first, again = coordinator.registrations[:2]
        assert (first.name, again.name) == ("", "n0")  # the name it was given is its own now
        assert first.boot_id == again.boot_id
        assert coordinator.nodes["n0"].incarnation == 1
        assert not server.ended.done()
    await coordinator.stop()


async def test_a_coordinator_that_forgot_the_node_ends_this_life() -> None:
    coordinator = FakeCoordinator(ttl_s=0.3)
    await coordinator.start()
    async with node_server(coordinator) as (server, _, _):
        coordinator.tokens["n0"] = "gone"
        coordinator.boots["n0"] = 0
        why, again = await asyncio.wait_for(server.ended, 5)
        assert again
        assert "new incarnation, 2" in why
    await coordinator.stop()


async def test_a_coordinator_that_restarts_is_found_again(coordinator: FakeCoordinator) -> None:
    async with node_server(coordinator) as (_, node, stubs):
        await coordinator.stop()
        assert (await stubs.node.GetStatus(pb.GetStatusRequest())).node.name == "n0"
        reborn = FakeCoordinator()
        reborn.nodes, reborn.boots, reborn.tokens = coordinator.nodes, coordinator.boots, coordinator.tokens
        reborn.nodes["n1"] = type(reborn.nodes["n0"])(name="n1", index=1)
        await reborn.start(coordinator.address)
        await eventually(lambda: len(node.routes) == 2)
        await reborn.stop()


async def test_a_port_in_use_is_named_with_the_way_out(coordinator: FakeCoordinator) -> None:
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        taken.listen()
        port = taken.getsockname()[1]
        server = NodeServer(
            NodeSettings(coordinator=coordinator.address, warm=False, listen=f"127.0.0.1:{port}"), fake
        )
        with pytest.raises(StartError, match=rf"port {port}.*another program.*--listen 127.0.0.1:0"):
            await server.start()
    assert coordinator.registrations == []


async def test_two_nodes_do_not_share_a_port(coordinator: FakeCoordinator) -> None:
    async with node_server(coordinator) as (server, _, _):
        second = NodeServer(
            NodeSettings(coordinator=coordinator.address, warm=False, listen=server.address), fake
        )
        with pytest.raises(StartError):
            await second.start()


async def test_a_coordinator_that_is_down_is_waited_for_then_given_up() -> None:
    port = free_port()
    settings = NodeSettings(coordinator=f"127.0.0.1:{port}", coordinator_timeout_s=1.5, warm=False)
    with (
        structlog.testing.capture_logs() as logs,
        pytest.raises(
            JoinError, match=f"no coordinator at 127.0.0.1:{port} within 1.5 s.*unimem coordinator"
        ),
    ):
        await NodeServer(settings, fake).start()
    assert any(line["event"] == "waiting for the coordinator" for line in logs)


async def test_a_coordinator_that_comes_late_is_joined() -> None:
    coordinator = FakeCoordinator()
    settings = NodeSettings(coordinator=f"127.0.0.1:{free_port()}", coordinator_timeout_s=20, warm=False)
    server = NodeServer(settings, fake)
    starting = asyncio.create_task(server.start())
    await asyncio.sleep(0.1)
    assert not starting.done()
    await coordinator.start(settings.coordinator)
    await starting
    await server.stop()
    await coordinator.stop()


async def test_a_refusal_is_not_waited_out(coordinator: FakeCoordinator) -> None:
    coordinator.refuse_register = grpc.StatusCode.ALREADY_EXISTS
    server = NodeServer(NodeSettings(coordinator=coordinator.address, warm=False), fake)
    with pytest.raises(JoinError, match="refused this node: not you"):
        await server.start()
    assert len(coordinator.registrations) == 1


async def test_health_and_reflection(coordinator: FakeCoordinator) -> None:
    async with node_server(coordinator, reflection=True) as (_, _, stubs):
        health: Any = health_pb2_grpc.HealthStub(stubs.channel)
        for service in ("", *SERVICES):
            answer = await health.Check(health_pb2.HealthCheckRequest(service=service))
            assert answer.status == health_pb2.HealthCheckResponse.SERVING
        reflection: Any = reflection_pb2_grpc.ServerReflectionStub(stubs.channel)
        call = reflection.ServerReflectionInfo()
        await call.write(reflection_pb2.ServerReflectionRequest(list_services=""))
        listed = {service.name for service in (await call.read()).list_services_response.service}
        assert set(SERVICES) <= listed
        await call.done_writing()
    async with node_server(coordinator) as (_, _, stubs):
        reflection = reflection_pb2_grpc.ServerReflectionStub(stubs.channel)
        call = reflection.ServerReflectionInfo()
        await call.done_writing()
        assert await call.code() is grpc.StatusCode.UNIMPLEMENTED


async def test_stopping_ends_streams_with_a_reason_and_in_time(coordinator: FakeCoordinator) -> None:
    async with node_server(coordinator) as (server, node, stubs):
        await stubs.node.OpenDomain(pb.OpenDomainRequest(pdid=PDID, token=TOKEN))
        node.hold = True
        call = stubs.raw("DmaService/Transfer")(metadata=CREDENTIALS)
        await call.write(post_frame(requests(1, op=Op.SWAP, length=8, dst=node.base)))
        await call.initial_metadata()
        await coordinator.stop()  # nobody to say goodbye to
        await asyncio.wait_for(server.stop(), 5)
        assert await call.code() is grpc.StatusCode.UNAVAILABLE


async def test_a_model_that_fails_ends_the_node_loudly(coordinator: FakeCoordinator) -> None:
    async with node_server(coordinator) as (server, node, stubs):
        await stubs.node.OpenDomain(pb.OpenDomainRequest(pdid=PDID, token=TOKEN))
        node.take_frames = lambda: 1 // 0  # type: ignore[method-assign,assignment,return-value]
        call = stubs.raw("DmaService/Transfer")(metadata=CREDENTIALS)
        await call.write(post_frame(requests(1, op=Op.SWAP, length=8, dst=node.base)))
        why, again = await asyncio.wait_for(server.ended, 5)
        assert "ZeroDivisionError" in why
        assert not again
