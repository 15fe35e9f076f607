"""`FakeCluster` over real gRPC in this process: a coordinator that relays, nodes with knobs to break them."""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import grpc
import numpy as np
from fakes import FakeCluster, Refused
from google.protobuf import any_pb2
from google.rpc import code_pb2, error_details_pb2, status_pb2  # type: ignore[import-untyped]

from unimem import wire
from unimem.v1 import coordinator_pb2 as pb
from unimem.v1 import node_pb2
from unimem.wire import COMPLETION, WORK_REQUEST, CompletionFlags, FrameKind, Status, WorkFlags

CODES = {
    "UNKNOWN_NODE": grpc.StatusCode.NOT_FOUND,
    "UNKNOWN_REGION": grpc.StatusCode.NOT_FOUND,
    "NO_SPACE": grpc.StatusCode.RESOURCE_EXHAUSTED,
    "NAME_TAKEN": grpc.StatusCode.ALREADY_EXISTS,
    "SESSION_EXPIRED": grpc.StatusCode.UNAUTHENTICATED,
}


def abort(context: grpc.ServicerContext, error: Refused) -> None:
    code = CODES.get(error.reason, grpc.StatusCode.FAILED_PRECONDITION)
    info = error_details_pb2.ErrorInfo(reason=error.reason, domain="unimem", metadata=error.metadata)
    detail = any_pb2.Any()
    detail.Pack(info)
    status = status_pb2.Status(code=code_pb2.UNKNOWN, message=str(error), details=[detail])
    context.set_trailing_metadata((("grpc-status-details-bin", status.SerializeToString()),))
    context.abort(code, str(error))


class FakeNode:
    """Answers Transfer streams out of the cluster's memory."""

    def __init__(self, cluster: FakeCluster, name: str) -> None:
        self.cluster, self.name = cluster, name
        self.frames: list[np.ndarray] = []  # the records of each POST frame
        self.streams: list[dict[str, str]] = []  # metadata of each
        self.gate = threading.Event()  # cleared: nothing is answered
        self.gate.set()
        self.seen = threading.Event()  # a frame has arrived
        self.on_frame: Callable[[int, grpc.ServicerContext], bytes | None] | None = None
        self.bytes_at_most = 0
        self.cancelled: list[int] = []
        self.says: str | None = name  # as initial metadata

    def transfer(self, messages: Iterator[bytes], context: grpc.ServicerContext) -> Iterator[bytes]:
        metadata = {k: str(v) for k, v in context.invocation_metadata()}
        self.streams.append(metadata)
        if metadata["unimem-token"].removeprefix("token-") not in self.cluster.sessions:
            context.abort(grpc.StatusCode.UNAUTHENTICATED, "no such token")
        if self.says is not None:
            context.send_initial_metadata((("unimem-node", self.says),))
        for message in messages:
            frame = wire.decode_bytes_field(message)
            if frame is None:
                yield self.cancel(list(node_pb2.TransferRequest.FromString(message).cancel))
                continue
            _, records, start = wire.parse_frame(frame, FrameKind.POST, WORK_REQUEST)
            self.frames.append(records.copy())
            self.bytes_at_most = max(self.bytes_at_most, len(frame))
            self.seen.set()
            if self.on_frame is not None:
                special = self.on_frame(len(self.frames), context)
                if special is not None:
                    yield special
                    continue
            self.gate.wait(20)
            yield self.answer(records, frame, start)

    def cancel(self, wr_ids: list[int]) -> bytes:
        self.cancelled += wr_ids
        rows = np.zeros(len(wr_ids), COMPLETION)
        rows["wr_id"], rows["status"] = wr_ids, Status.CANCELLED
        return wire.encode_bytes_field(wire.new_frame(FrameKind.COMPLETE, rows))

    def answer(self, records: np.ndarray, frame: np.ndarray, at: int) -> bytes:
        rows, payloads = [], []
        for wr in records:
            n, data = int(wr["length"]), None
            if wr["flags"] & WorkFlags.INLINE:
                data = memoryview(frame[at : at + n].tobytes())
                at += wire.padded(n)
            row, found = self.cluster.execute(
                int(wr["pdid"]), int(wr["op"]), int(wr["src"]), int(wr["dst"]), n, data,
                int(wr["operand"]), int(wr["compare"]), int(wr["flags"]),
            )  # fmt: skip
            row["wr_id"] = wr["wr_id"]
            if found:
                row["flags"] |= int(CompletionFlags.DATA)
                payloads.append(found + bytes(-len(found) & 7))
            rows.append(row)
        body = b"".join(payloads)
        complete = wire.new_frame(FrameKind.COMPLETE, np.concatenate(rows).astype(COMPLETION), len(body))
        if body:
            complete[-len(body) :] = np.frombuffer(body, np.uint8)
        return wire.encode_bytes_field(complete)


class FakeGrpc:
    """A running cluster: `address` of the coordinator, `nodes` by name. A context manager."""

    def __init__(self, nodes: int = 3, *, reachable: bool = True, cluster: FakeCluster | None = None) -> None:
        self.cluster = cluster or FakeCluster(nodes)
        self.nodes = {name: FakeNode(self.cluster, name) for name in self.cluster.names}
        self.servers: dict[str, grpc.Server] = {}
        self.refuse: Refused | None = None
        self.relayed: list[str] = []
        for name, node in self.nodes.items():
            if reachable:
                self.cluster.addresses[name] = self.serve(name, {"Transfer": node.transfer})
            else:
                self.cluster.addresses[name] = "127.0.0.1:1"  # nobody listens on port 1
        self.address = self.serve("coordinator", {"Transfer": self.relay}, self.control)

    def serve(self, name: str, dma: dict[str, Any], control: Any = None, address: str = "127.0.0.1:0") -> str:
        server = grpc.server(ThreadPoolExecutor(16), options=[("grpc.so_reuseport", 0)])
        handlers = {k: grpc.stream_stream_rpc_method_handler(f) for k, f in dma.items()}
        server.add_generic_rpc_handlers(
            [grpc.method_handlers_generic_handler("unimem.v1.DmaService", handlers)]
        )
        if control is not None:
            calls = {
                m.name: grpc.unary_unary_rpc_method_handler(
                    control,
                    request_deserializer=getattr(pb, m.input_type.name).FromString,
                    response_serializer=lambda r: r.SerializeToString(),
                )
                for m in pb.DESCRIPTOR.services_by_name["CoordinatorService"].methods
            }
            generic = grpc.method_handlers_generic_handler("unimem.v1.CoordinatorService", calls)
            server.add_generic_rpc_handlers([generic])
        port = server.add_insecure_port(address)
        server.start()
        self.servers[name] = server
        return f"127.0.0.1:{port}"

    def control(self, request: Any, context: grpc.ServicerContext) -> Any:
        try:
            if self.refuse is not None:
                raise self.refuse
            return self.cluster.control(request)
        except Refused as error:
            return abort(context, error)

    def relay(self, messages: Iterator[bytes], context: grpc.ServicerContext) -> Iterator[bytes]:
        name = dict(context.invocation_metadata()).get("unimem-node", "")
        self.relayed.append(str(name))
        if name not in self.nodes or self.cluster.states[str(name)] != 1:
            abort(context, Refused("NODE_LOST", f"{name} is lost", node=str(name)))
        return self.nodes[str(name)].transfer(messages, context)

    def stop(self, name: str) -> None:
        self.servers.pop(name).stop(None).wait()

    def __enter__(self) -> FakeGrpc:
        return self

    def __exit__(self, *exc: object) -> None:
        for node in self.nodes.values():
            node.gate.set()
        for name in list(self.servers):
            self.stop(name)


MIB = 1 << 20


def eventually(condition: Callable[[], bool]) -> None:
    """Wait for what another thread is about to do."""
    for _ in range(2000):
        if condition():
            return
        threading.Event().wait(0.005)
    raise AssertionError("it never happened")


def noise(n: int) -> np.ndarray:
    return np.random.default_rng(n).integers(0, 256, n, np.uint8)
