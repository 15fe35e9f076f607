"""Looking at a cluster without becoming a process of it: who is there, what is allocated, what nodes count.

`unimem status` must work when no node is up, and must not take a protection domain: it asks the coordinator,
and each node directly, or through the coordinator's relay where this machine cannot reach it.
"""

from __future__ import annotations

from types import TracebackType
from typing import Any

import grpc

from unimem.cluster import NodeInfo, RegionInfo, node_info, region_info
from unimem.errors import TransportError
from unimem.v1 import coordinator_pb2 as pb
from unimem.v1 import node_pb2
from unimem.v1.coordinator_pb2_grpc import CoordinatorServiceStub
from unimem.v1.node_pb2_grpc import NodeServiceStub

#: Seconds a node gets to answer directly before the relay is asked.
_DIRECT = 1.0


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

    def regions(self) -> list[RegionInfo]:
        """All regions, by address."""
        found = self._call(self._coordinator.ListRegions, pb.ListRegionsRequest()).regions
        return sorted((region_info(region) for region in found), key=lambda region: region.gva)

    def node_status(self, node: NodeInfo) -> tuple[node_pb2.GetStatusResponse | None, str]:
        """(what the node says, how it was reached: direct, relayed or unreachable)."""
        try:
            with grpc.insecure_channel(node.address) as channel:
                stub: Any = NodeServiceStub(channel)  # type: ignore[no-untyped-call]
                reply = stub.GetStatus(node_pb2.GetStatusRequest(), timeout=_DIRECT)
                if reply.node.name == node.name:  # and not a stranger at the same address
                    return reply, "direct"
        except grpc.RpcError:
            pass
        try:
            relay: Any = NodeServiceStub(self._channel)  # type: ignore[no-untyped-call]
            metadata = (("unimem-node", node.name),)
            return relay.GetStatus(
                node_pb2.GetStatusRequest(), timeout=self._timeout, metadata=metadata
            ), "relayed"
        except grpc.RpcError:
            return None, "unreachable"


def _words(error: grpc.RpcError) -> str:
    return str(error.details()) if isinstance(error, grpc.Call) else str(error)
