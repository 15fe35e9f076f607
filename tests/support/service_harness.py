"""Node servers around fake nodes, and a foreign gRPC client's view of them."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from typing import Any

import grpc
import grpc.aio
import numpy as np
from google.rpc import error_details_pb2, status_pb2  # type: ignore[import-untyped]

from support.fake_coordinator import FakeCoordinator
from support.fake_node import FakeNode
from unimem.v1 import node_pb2_grpc
from unimem.wire import WORK_REQUEST, FrameKind, encode_bytes_field, new_frame
from unimem_node.service import NodeServer, NodeSettings

PDID, TOKEN = 5, "secret"
CREDENTIALS = (("unimem-pdid", str(PDID)), ("unimem-token", TOKEN))


class Stubs:
    """Generated stubs of one node's services, and the raw Transfer method."""

    def __init__(self, address: str) -> None:
        self.channel = grpc.aio.insecure_channel(address, [("grpc.max_receive_message_length", 8 << 20)])
        self.node: Any = node_pb2_grpc.NodeServiceStub(self.channel)  # type: ignore[no-untyped-call]
        self.bus: Any = node_pb2_grpc.BusServiceStub(self.channel)  # type: ignore[no-untyped-call]
        self.dma: Any = node_pb2_grpc.DmaServiceStub(self.channel)  # type: ignore[no-untyped-call]

    def raw(self, method: str) -> Any:
        """A bidirectional stream of raw bytes."""
        channel: Any = self.channel
        return channel.stream_stream(f"/unimem.v1.{method}")

    async def refused(self, call: Any) -> tuple[grpc.StatusCode, str, dict[str, str]]:
        """(status code, ErrorInfo reason, its metadata) of a call that must fail."""
        try:
            await call
        except grpc.aio.AioRpcError as error:
            return error.code(), *error_info(error.trailing_metadata())
        raise AssertionError("the call was not refused")


def error_info(trailing: Any) -> tuple[str, dict[str, str]]:
    for key, value in trailing or ():
        if key == "grpc-status-details-bin":
            info = error_details_pb2.ErrorInfo()
            assert status_pb2.Status.FromString(value).details[0].Unpack(info)
            assert info.domain == "unimem"
            return info.reason, dict(info.metadata)
    return "", {}


@asynccontextmanager
async def node_server(
    coordinator: FakeCoordinator, node: Callable[..., FakeNode] = FakeNode, **settings: Any
) -> AsyncIterator[tuple[NodeServer, FakeNode, Stubs]]:
    made: list[FakeNode] = []

    def build(name: str, index: int, incarnation: int) -> FakeNode:
        made.append(node(name=name, index=index, incarnation=incarnation))
        return made[-1]

    given = NodeSettings(coordinator=coordinator.address, warm=False, connect_timeout_s=1.0, **settings)
    server = NodeServer(given, build)
    await server.start()
    stubs = Stubs(server.address)
    try:
        yield server, made[0], stubs
    finally:
        await stubs.channel.close(None)
        await server.stop()


async def eventually(condition: Callable[[], bool], within_s: float = 10) -> None:
    """Wait, without blocking the loop, until `condition` holds."""
    async with asyncio.timeout(within_s):
        while not condition():  # noqa: ASYNC110 - nothing announces what tests wait for
            await asyncio.sleep(0.001)


def post_frame(wrs: np.ndarray, payload: bytes = b"") -> bytes:
    """A TransferRequest with a POST frame."""
    frame = new_frame(FrameKind.POST, wrs, len(payload))
    if payload:
        frame[-len(payload) :] = np.frombuffer(payload, np.uint8)
    return encode_bytes_field(frame)


def requests(n: int, **columns: Any) -> np.ndarray:
    """`n` work requests numbered from 0."""
    wrs = np.zeros(n, WORK_REQUEST)
    wrs["wr_id"] = np.arange(n)
    for name, value in columns.items():
        wrs[name] = value
    return wrs
