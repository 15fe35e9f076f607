"""`BusService`: a bare-metal console. Registers and physical memory by physical address.

A write to a register may start an engine: after each write the node does what it can until it is idle, so
that a driver which polls for the end of a transfer finds it ended, and interrupts have been raised.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import grpc

from unimem.v1 import node_pb2
from unimem_node.service.node_service import within_limit
from unimem_node.service.rpc import Refusal, unary_service

if TYPE_CHECKING:
    from unimem_node.service.host import NodeHost

_WORD, _DOUBLE = 4, 8


class BusService:
    """The two methods."""

    def __init__(self, host: NodeHost) -> None:
        self._host = host

    def handler(self) -> grpc.GenericRpcHandler[Any, Any]:
        """For `grpc.aio.Server.add_generic_rpc_handlers`."""
        return unary_service(
            node_pb2.DESCRIPTOR.services_by_name["BusService"], {"Read": self.read, "Write": self.write}
        )

    def read(self, request: node_pb2.ReadRequest) -> node_pb2.ReadResponse:
        """A register (`width` 4 or 8), or `length` bytes."""
        bus = self._host.node.bus
        if request.width and request.length:
            raise ValueError("either width (a register) or length (memory), not both")
        if request.length:
            within_limit(request.length)
            return node_pb2.ReadResponse(data=bytes(bus.read(request.address, request.length)))
        _check_width(request.width)
        read = bus.read64 if request.width == _DOUBLE else bus.read32
        return node_pb2.ReadResponse(value=int(read(request.address)))

    def write(self, request: node_pb2.WriteRequest) -> node_pb2.WriteResponse:
        """A register (`width` and `value`), or bytes (`data`)."""
        bus = self._host.node.bus
        if request.width and request.data:
            raise ValueError("either width and value (a register) or data (memory), not both")
        if request.data:
            within_limit(len(request.data))
            bus.write(request.address, request.data)
        else:
            _check_width(request.width)
            if request.width == _WORD and request.value >> 32:
                raise ValueError(f"{request.value:#x} does not fit a register of 4 bytes")
            write = bus.write64 if request.width == _DOUBLE else bus.write32
            write(request.address, request.value)
        self._host.settle()
        return node_pb2.WriteResponse()


def _check_width(width: int) -> None:
    if width not in (_WORD, _DOUBLE):
        raise Refusal(
            grpc.StatusCode.INVALID_ARGUMENT,
            "BAD_WIDTH",
            f"a register access has 4 or 8 bytes, not {width}; for memory give length or data",
            width=width,
        )
