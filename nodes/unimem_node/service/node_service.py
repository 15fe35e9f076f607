"""`NodeService`: what the kernel on the node does for processes, and the node's status."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

import grpc

from unimem.v1 import node_pb2, types_pb2
from unimem_node.service.rpc import Refusal, Unary, unary_service

if TYPE_CHECKING:
    from unimem_node.service.host import NodeHost

#: Most bytes of one ReadMemory, WriteMemory, Read or Write.
TRANSFER_LIMIT = 1 << 20


class NodeService:
    """The methods, on the event loop's thread; `about` is the node as the coordinator registered it."""

    def __init__(self, host: NodeHost, about: types_pb2.Node) -> None:
        self._host, self._about = host, about

    def handler(self) -> grpc.GenericRpcHandler[Any, Any]:
        """For `grpc.aio.Server.add_generic_rpc_handlers`."""
        methods: Mapping[str, Unary] = {
            "GetStatus": self.get_status,
            "OpenDomain": self.open_domain,
            "CloseDomain": self.close_domain,
            "MapRegion": self.map_region,
            "UnmapRegion": self.unmap_region,
            "MapMemory": self.map_memory,
            "UnmapMemory": self.unmap_memory,
            "ProtectMemory": self.protect_memory,
            "ReadMemory": self.read_memory,
            "WriteMemory": self.write_memory,
            "Advise": self.advise,
        }
        return unary_service(node_pb2.DESCRIPTOR.services_by_name["NodeService"], methods)

    def get_status(self, _: node_pb2.GetStatusRequest) -> node_pb2.GetStatusResponse:
        """Identity, virtual time, counters, what is open, who is connected."""
        host, node = self._host, self._host.node
        return node_pb2.GetStatusResponse(
            node=self._about,
            virtual_time_ns=node.now_ps // 1000,
            counters=node.counters(),
            resident_bytes=node.resident_bytes(),
            pdids=host.domains.pdids(),
            peers=host.transports(),
            pending_interrupts=node.interrupts.pending(),
        )

    def open_domain(self, request: node_pb2.OpenDomainRequest) -> node_pb2.OpenDomainResponse:
        """A process here for the protection domain, and a session that may post for it."""
        return node_pb2.OpenDomainResponse(asid=self._host.domains.open(request.pdid, request.token).asid)

    def close_domain(self, request: node_pb2.CloseDomainRequest) -> node_pb2.CloseDomainResponse:
        """End a session, or the process."""
        self._host.domains.close(request.pdid, request.token)
        self._host.ask_turn()
        return node_pb2.CloseDomainResponse()

    def map_region(self, request: node_pb2.MapRegionRequest) -> node_pb2.MapRegionResponse:
        """Allocate a region's frames, or map them for another domain."""
        self._host.domains.require(request.pdid)
        _positive(request.length)
        self._host.node.map_region(request.pdid, request.gva, request.length, request.rights, request.owner)
        return node_pb2.MapRegionResponse()

    def unmap_region(self, request: node_pb2.UnmapRegionRequest) -> node_pb2.UnmapRegionResponse:
        """Take a region away from one domain, or from all and free it."""
        self._host.node.unmap_region(request.gva, request.pdid)
        return node_pb2.UnmapRegionResponse()

    def map_memory(self, request: node_pb2.MapMemoryRequest) -> node_pb2.MapMemoryResponse:
        """Private memory for a process."""
        self._host.domains.require(request.pdid)
        _positive(request.length)
        va = self._host.node.map_memory(request.pdid, request.length, request.va, request.rights)
        return node_pb2.MapMemoryResponse(va=va)

    def unmap_memory(self, request: node_pb2.UnmapMemoryRequest) -> node_pb2.UnmapMemoryResponse:
        """Give private memory back."""
        self._host.domains.require(request.pdid)
        _positive(request.length)
        self._host.node.unmap_memory(request.pdid, request.va, request.length)
        return node_pb2.UnmapMemoryResponse()

    def protect_memory(self, request: node_pb2.ProtectMemoryRequest) -> node_pb2.ProtectMemoryResponse:
        """Change rights on private memory."""
        self._host.domains.require(request.pdid)
        _positive(request.length)
        self._host.node.protect_memory(request.pdid, request.va, request.length, request.rights)
        return node_pb2.ProtectMemoryResponse()

    def read_memory(self, request: node_pb2.ReadMemoryRequest) -> node_pb2.ReadMemoryResponse:
        """Read as the process' CPU does."""
        self._host.domains.require(request.pdid)
        _positive(request.length)
        within_limit(request.length)
        data = self._host.node.read_memory(request.pdid, request.va, request.length)
        return node_pb2.ReadMemoryResponse(data=bytes(data))

    def write_memory(self, request: node_pb2.WriteMemoryRequest) -> node_pb2.WriteMemoryResponse:
        """Write as the process' CPU does."""
        self._host.domains.require(request.pdid)
        _positive(len(request.data))
        within_limit(len(request.data))
        self._host.node.write_memory(request.pdid, request.va, request.data)
        return node_pb2.WriteMemoryResponse()

    def advise(self, request: node_pb2.AdviseRequest) -> node_pb2.AdviseResponse:
        """Page out, drop, collapse, lock, pin: what the kernel shall do with memory of a process."""
        self._host.domains.require(request.pdid)
        _positive(request.length)
        advice = node_pb2.Advice.Name(request.advice) if request.advice in node_pb2.Advice.values() else ""
        pages = self._host.node.advise(
            request.pdid, request.va, request.length, advice.removeprefix("ADVICE_")
        )
        self._host.ask_turn()
        return node_pb2.AdviseResponse(pages=pages)


def _positive(length: int) -> None:
    if length <= 0:
        raise ValueError("a length of 0 bytes")


def within_limit(length: int) -> None:
    """Refuse what one call may not carry."""
    if length > TRANSFER_LIMIT:
        raise Refusal(
            grpc.StatusCode.INVALID_ARGUMENT,
            "TOO_LONG",
            f"{length} bytes in one call; {TRANSFER_LIMIT} at most",
            limit=TRANSFER_LIMIT,
        )
