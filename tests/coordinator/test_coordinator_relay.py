from __future__ import annotations

import asyncio
from typing import Any

import grpc
import grpc.aio
import pytest
import structlog
from google.rpc import error_details_pb2, status_pb2  # type: ignore[import-untyped]

from support.grpc_books import Rig, rig
from unimem.v1 import coordinator_pb2 as pb
from unimem.v1 import node_pb2, node_pb2_grpc

pytestmark = pytest.mark.asyncio


@pytest.fixture(autouse=True)
def quiet() -> Any:
    with structlog.testing.capture_logs() as logs:
        yield logs


def to(node: str) -> Any:
    return (("unimem-node", node), ("unimem-token", "!"), ("unimem-pdid", "1"))


def transfer(cluster: Rig, node: str, **options: Any) -> Any:
    stub: Any = node_pb2_grpc.DmaServiceStub(cluster.channel)  # type: ignore[no-untyped-call]
    return stub.Transfer(metadata=to(node), **options)


def reason(error: grpc.aio.AioRpcError) -> str:
    status = status_pb2.Status.FromString(dict(error.trailing_metadata())["grpc-status-details-bin"])  # type: ignore[call-overload]
    info = error_details_pb2.ErrorInfo()
    assert status.details[0].Unpack(info)
    return str(info.reason)


async def test_a_stream_passes_in_both_directions_with_its_metadata() -> None:
    async with rig("n0", "n1") as cluster:
        call = transfer(cluster, "n1")
        big = bytes(3 << 20)
        for packed in (b"one", b"", big):
            await call.write(node_pb2.TransferRequest(packed=packed))
            assert (await call.read()).packed == packed + b"!"
        assert dict(await call.initial_metadata())["unimem-served-by"] == "n1"
        await call.done_writing()
        assert await call.read() is vars(grpc.aio)["EOF"]
        assert await call.code() is grpc.StatusCode.OK
        assert dict(await call.trailing_metadata())["unimem-bye"] == "n1"


async def test_many_messages_may_be_under_way() -> None:
    async with rig("n0") as cluster:
        call = transfer(cluster, "n0")

        async def write() -> None:
            for number in range(500):
                await call.write(node_pb2.TransferRequest(packed=b"%d" % number))
            await call.done_writing()

        writing = asyncio.ensure_future(write())
        assert [answer.packed async for answer in call] == [b"%d!" % number for number in range(500)]
        await writing


async def test_the_nodes_status_is_passed_on() -> None:
    async with rig("n0") as cluster:
        call = transfer(cluster, "n0")
        await call.write(node_pb2.TransferRequest(packed=b"refuse"))
        with pytest.raises(grpc.aio.AioRpcError) as caught:
            await call.read()
        assert (caught.value.code(), caught.value.details()) == (grpc.StatusCode.PERMISSION_DENIED, "no")
        assert dict(caught.value.trailing_metadata())["unimem-why"] == "because"  # type: ignore[call-overload]


async def test_a_node_that_dies_under_a_stream_is_named() -> None:
    async with rig("n0") as cluster:
        call = transfer(cluster, "n0")
        await call.write(node_pb2.TransferRequest(packed=b"die"))
        with pytest.raises(grpc.aio.AioRpcError, match="n0") as caught:
            await call.read()
        assert caught.value.code() is grpc.StatusCode.UNAVAILABLE
        assert reason(caught.value) == "NODE_UNREACHABLE"


async def test_a_client_that_goes_ends_the_nodes_stream() -> None:
    async with rig("n0") as cluster:
        ended = asyncio.Event()
        inner = cluster.nodes[0].Transfer

        async def watched(requests: Any, context: Any) -> Any:
            context.add_done_callback(lambda _: ended.set())
            async for answer in inner(requests, context):
                yield answer

        cluster.nodes[0].Transfer = watched  # type: ignore[method-assign]
        await cluster.nodes[0].stop()
        await cluster.nodes[0].start()
        call = transfer(cluster, "n0")
        await call.write(node_pb2.TransferRequest(packed=b"x"))
        await call.read()
        call.cancel()
        async with asyncio.timeout(5):
            await ended.wait()


async def test_the_callers_deadline_goes_along() -> None:
    async with rig("n0") as cluster:
        call = transfer(cluster, "n0", timeout=0.3)
        await call.write(node_pb2.TransferRequest(packed=b"x"))
        await call.read()
        with pytest.raises(grpc.aio.AioRpcError) as caught:
            await call.read()
        assert caught.value.code() is grpc.StatusCode.DEADLINE_EXCEEDED


async def test_status_is_relayed() -> None:
    async with rig("n0", "n1") as cluster:
        stub: Any = node_pb2_grpc.NodeServiceStub(cluster.channel)  # type: ignore[no-untyped-call]
        call = stub.GetStatus(node_pb2.GetStatusRequest(), metadata=to("n1"))
        status = await call
        assert (status.node.name, status.virtual_time_ns) == ("n1", 42)
        assert dict(await call.trailing_metadata())["unimem-served-by"] == "n1"


@pytest.mark.parametrize("method", ["OpenDomain", "CloseDomain", "MapRegion", "UnmapRegion"])
async def test_what_only_the_coordinator_may_ask_is_not_relayed(method: str) -> None:
    async with rig("n0") as cluster:
        call = cluster.channel.unary_unary(f"/unimem.v1.NodeService/{method}", None, None)
        with pytest.raises(grpc.aio.AioRpcError) as caught:
            await call(b"", metadata=to("n0"))
        assert caught.value.code() is grpc.StatusCode.UNIMPLEMENTED
        assert cluster.nodes[0].calls == []


@pytest.mark.parametrize(
    ("metadata", "code", "why"),
    [
        (to("n9"), grpc.StatusCode.NOT_FOUND, "UNKNOWN_NODE"),
        ((), grpc.StatusCode.INVALID_ARGUMENT, "BAD_ARGUMENT"),
        (to("gone"), grpc.StatusCode.UNAVAILABLE, "NODE_LOST"),
        (to("dead"), grpc.StatusCode.UNAVAILABLE, "NODE_UNREACHABLE"),
    ],
)
async def test_relaying_to_nobody(metadata: Any, code: grpc.StatusCode, why: str) -> None:
    async with rig("n0", "dead") as cluster:
        await cluster.nodes[1].stop()
        request = pb.RegisterNodeRequest(name="gone", address="127.0.0.1:9", boot_id=1)
        joined = await cluster.stub.RegisterNode(request)
        await cluster.stub.DeregisterNode(
            pb.DeregisterNodeRequest(name="gone", lease_token=joined.lease_token)
        )
        stub: Any = node_pb2_grpc.NodeServiceStub(cluster.channel)  # type: ignore[no-untyped-call]
        with pytest.raises(grpc.aio.AioRpcError) as caught:
            await stub.GetStatus(node_pb2.GetStatusRequest(), metadata=metadata)
        assert (caught.value.code(), reason(caught.value)) == (code, why)
        dma: Any = node_pb2_grpc.DmaServiceStub(cluster.channel)  # type: ignore[no-untyped-call]
        call = dma.Transfer(metadata=metadata)
        with pytest.raises(grpc.aio.AioRpcError) as caught:
            await call.read()
        assert (caught.value.code(), reason(caught.value)) == (code, why)
        if why in ("UNKNOWN_NODE", "BAD_ARGUMENT"):
            assert "n0, dead, gone" in str(caught.value.trailing_metadata()) + str(caught.value.details())
