"""Looking at a cluster without becoming a process of it: who is there, what is allocated, what nodes count.

`unimem status` must work when no node is up, and must not take a protection domain: it asks the coordinator,
and each node directly, or through the coordinator's relay where this machine cannot reach it.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from types import TracebackType
from typing import Any

import grpc

from unimem.cluster import NodeInfo, RegionInfo, node_info, region_info
from unimem.errors import TransportError, UsageError
from unimem.v1 import coordinator_pb2 as pb
from unimem.v1 import node_pb2
from unimem.v1.coordinator_pb2_grpc import CoordinatorServiceStub
from unimem.v1.node_pb2_grpc import BusServiceStub, NodeServiceStub

#: Seconds a node gets to answer directly before the relay is asked.
_DIRECT = 1.0


@dataclass(frozen=True, slots=True)
class Link:
    """A way to a node's services; `how` is direct or relayed, `status` what the node said first."""

    node: NodeInfo
    how: str
    status: node_pb2.GetStatusResponse
    _bus: Any
    _metadata: tuple[tuple[str, str], ...]
    _timeout: float
    _kernel: Any

    def bus(self, method: str, request: Any) -> Any:
        """Call a unary method of `BusService`. Raises `UsageError` when refused, `TransportError` else."""
        return self._call(getattr(self._bus, method), request, "regs")

    def advise(self, pdid: int, va: int, length: int, advice: str) -> int:
        """Have the node's kernel do something with a process' memory there; returns the pages concerned.

        `advice`: DONTNEED, WILLNEED, PAGEOUT, COLD, HUGEPAGE, NOHUGEPAGE, COLLAPSE, SPLIT, MIGRATE, LOCK,
        UNLOCK, PIN or UNPIN. Raises as `bus`.
        """
        try:
            request = node_pb2.AdviseRequest(pdid=pdid, va=va, length=length, advice=f"ADVICE_{advice}")
        except ValueError:
            raise UsageError(f"advice {advice!r} is unknown", op="advise", node=self.node.name) from None
        return int(self._call(self._kernel.Advise, request, "advise").pages)

    def _call(self, method: Any, request: Any, op: str) -> Any:
        try:
            return method(request, timeout=self._timeout, metadata=self._metadata)
        except grpc.RpcError as error:
            if isinstance(error, grpc.Call) and error.code() in _REFUSALS:
                raise UsageError(_words(error), op=op, node=self.node.name) from None
            raise TransportError(
                f"node {self.node.name} does not answer: {_words(error)}", op=op, node=self.node.name
            ) from None


#: Codes of answers that say no to what was asked.
_REFUSALS = (
    grpc.StatusCode.INVALID_ARGUMENT,
    grpc.StatusCode.NOT_FOUND,
    grpc.StatusCode.OUT_OF_RANGE,
    grpc.StatusCode.FAILED_PRECONDITION,
)


class Admin:
    """Calls to the coordinator at `address`; a context manager. Every call raises `TransportError`."""

    def __init__(self, address: str, timeout: float = 5.0) -> None:
        self._address, self._timeout = address, timeout
        self._channel = grpc.insecure_channel(address)
        self._coordinator: Any = CoordinatorServiceStub(self._channel)  # type: ignore[no-untyped-call]

    def __enter__(self) -> Admin:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._channel.close()

    def _call(self, method: Any, request: Any) -> Any:
        try:
            return method(request, timeout=self._timeout)
        except grpc.RpcError as error:
            raise TransportError(
                f"the coordinator at {self._address} does not answer: {_words(error)}",
                op="status",
                hint="`unimem up` starts a cluster on this machine; --on names another coordinator",
            ) from None

    def nodes(self) -> list[NodeInfo]:
        """Every node that ever joined, by index."""
        found = self._call(self._coordinator.ListNodes, pb.ListNodesRequest()).nodes
        return [node_info(node) for node in found]

    def node(self, name: str) -> NodeInfo:
        """The node of that name; raises `UsageError` naming those there are."""
        nodes = self.nodes()
        for node in nodes:
            if node.name == name:
                return node
        known = ", ".join(sorted(node.name for node in nodes)) or "none has joined yet"
        raise UsageError(f"no node is called {name!r}; known: {known}", op="node")

    def regions(self) -> list[RegionInfo]:
        """All regions, by address."""
        found = self._call(self._coordinator.ListRegions, pb.ListRegionsRequest()).regions
        return sorted((region_info(region) for region in found), key=lambda region: region.gva)

    @contextmanager
    def reach(self, node: NodeInfo) -> Iterator[Link]:
        """A way to `node`: direct, else through the coordinator; `TransportError` when there is none."""
        with grpc.insecure_channel(node.address) as channel:
            status = self._status(channel, (), _DIRECT)
            if status is not None and status.node.name == node.name:  # and not a stranger at that address
                yield Link(node, "direct", status, _bus(channel), (), self._timeout, _kernel(channel))
                return
        metadata = (("unimem-node", node.name),)
        status = self._status(self._channel, metadata, self._timeout)
        if status is None:
            raise TransportError(
                f"node {node.name} at {node.address} is {node.state} and cannot be reached, "
                "neither directly nor through the coordinator",
                op="reach",
                node=node.name,
            )
        channel = self._channel
        yield Link(node, "relayed", status, _bus(channel), metadata, self._timeout, _kernel(channel))

    def advise(self, node: NodeInfo, pdid: int, va: int, length: int, advice: str) -> int:
        """`Link.advise` on a node, however it is reached."""
        with self.reach(node) as link:
            return link.advise(pdid, va, length, advice)

    def node_status(self, node: NodeInfo) -> tuple[node_pb2.GetStatusResponse | None, str]:
        """(what the node says, how it was reached: direct, relayed or unreachable)."""
        try:
            with self.reach(node) as link:
                return link.status, link.how
        except TransportError:
            return None, "unreachable"

    def _status(
        self, channel: grpc.Channel, metadata: tuple[tuple[str, str], ...], timeout: float
    ) -> node_pb2.GetStatusResponse | None:
        try:
            status: node_pb2.GetStatusResponse = _kernel(channel).GetStatus(
                node_pb2.GetStatusRequest(), timeout=timeout, metadata=metadata
            )
        except grpc.RpcError:
            return None
        return status


def _kernel(channel: grpc.Channel) -> Any:
    return NodeServiceStub(channel)  # type: ignore[no-untyped-call]


def _bus(channel: grpc.Channel) -> Any:
    return BusServiceStub(channel)  # type: ignore[no-untyped-call]


def _words(error: grpc.RpcError) -> str:
    return str(error.details()) if isinstance(error, grpc.Call) else str(error)
