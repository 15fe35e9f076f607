"""`BusService`: a bare-metal console. Registers and physical memory by physical address, interrupts.

A write to a register may start an engine: after each write the node does what it can until it is idle, so
that a driver which polls for the end of a transfer finds it ended, and interrupts have been raised. A *peek*
is what a debugger does: nothing is cleared or set off by it.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any, Final

import grpc
import grpc.aio

from unimem.v1 import node_pb2
from unimem_node.bus import Inspectable, Region
from unimem_node.bus.registers import Register, access_of
from unimem_node.service.interrupt_watch import InterruptWatch
from unimem_node.service.node_service import within_limit
from unimem_node.service.rpc import Refusal, unary_service

if TYPE_CHECKING:
    from unimem_node.mpsoc.names import ChipPart
    from unimem_node.service.host import NodeHost

_WORD, _DOUBLE = 4, 8
#: First number that is no SPI of a GICv2.
_SPIS: Final = 988
#: Callers of WatchInterrupts at once; each costs every interrupt a little.
WATCHES: Final = 256


class BusService:
    """The methods, on the event loop's thread."""

    def __init__(self, host: NodeHost) -> None:
        self._host = host
        self._watches: set[InterruptWatch] = set()
        self._ended: Refusal | None = None

    def handler(self) -> grpc.GenericRpcHandler[Any, Any]:
        """For `grpc.aio.Server.add_generic_rpc_handlers`."""
        return unary_service(
            node_pb2.DESCRIPTOR.services_by_name["BusService"],
            {
                "Read": self.read,
                "Write": self.write,
                "ListDevices": self.list_devices,
                "DescribeDevice": self.describe_device,
            },
            {"WatchInterrupts": self.watch_interrupts},
        )

    def end_all(self, why: Refusal) -> None:
        """End every watch with `why`, and each that begins later."""
        self._ended = why
        for watch in self._watches:
            watch.end(why)

    # ---- registers and memory

    def read(self, request: node_pb2.ReadRequest) -> node_pb2.ReadResponse:
        """A register (`width` 4 or 8), or `length` bytes; `peek`: without effects."""
        bus = self._host.node.bus
        if request.width and request.length:
            raise ValueError("either width (a register) or length (memory), not both")
        if request.length:
            within_limit(request.length)
            read = bus.peek if request.peek else bus.read
            return node_pb2.ReadResponse(data=bytes(read(request.address, request.length)))
        _check_width(request.width)
        if request.peek:
            if request.address % request.width:
                raise ValueError(f"{request.address:#x} is not aligned to {request.width} bytes")
            value = int.from_bytes(bus.peek(request.address, request.width), "little")
        else:
            value = int((bus.read64 if request.width == _DOUBLE else bus.read32)(request.address))
        return node_pb2.ReadResponse(value=value)

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

    # ---- what there is

    def list_devices(self, _: node_pb2.ListDevicesRequest) -> node_pb2.ListDevicesResponse:
        """The devices by address, and whose the stream IDs are."""
        soc = self._host.node.soc
        streams = [
            node_pb2.StreamRange(first=r.first, count=r.count, name=r.name, member=r.member)
            for r in soc.streams
        ]
        devices = [_device(region, soc.parts) for region in self._host.node.bus.devices()]
        return node_pb2.ListDevicesResponse(platform=soc.platform.name, devices=devices, streams=streams)

    def describe_device(self, request: node_pb2.DescribeDeviceRequest) -> node_pb2.DescribeDeviceResponse:
        """The register table of a device."""
        try:
            region = self._host.node.bus.device(request.name)
        except KeyError as error:
            raise Refusal(
                grpc.StatusCode.NOT_FOUND, "UNKNOWN_DEVICE", error.args[0], device=request.name[:80]
            ) from None
        device = region.device
        if not isinstance(device, Inspectable):
            raise Refusal(
                grpc.StatusCode.FAILED_PRECONDITION,
                "NO_REGISTER_TABLE",
                f"{region.name} has no table of registers to show",
                device=region.name,
            )
        table = sorted(device.registers.table, key=lambda register: register.offset)
        return node_pb2.DescribeDeviceResponse(
            device=_device(region, self._host.node.soc.parts), registers=[_register(r) for r in table]
        )

    # ---- interrupts

    async def watch_interrupts(
        self, request: node_pb2.WatchInterruptsRequest, context: grpc.aio.ServicerContext[Any, Any]
    ) -> None:
        """What is asserted, then every change."""
        for spi in request.spis:
            if spi >= _SPIS:
                raise ValueError(f"SPI {spi} does not exist (0 to {_SPIS - 1})")
        if self._ended is not None:
            raise self._ended
        if len(self._watches) >= WATCHES:
            raise Refusal(
                grpc.StatusCode.RESOURCE_EXHAUSTED,
                "TOO_MANY_WATCHES",
                f"{WATCHES} callers watch this node's interrupts already",
                limit=WATCHES,
            )
        node = self._host.node
        watch = InterruptWatch(node.interrupts, request.spis, lambda: node.now_ps)
        self._watches.add(watch)
        try:
            await context.send_initial_metadata((("unimem-node", node.name),))
            async for change in watch.changes():
                message = node_pb2.WatchInterruptsResponse(
                    spi=change.spi,
                    level=change.level,
                    virtual_time_ns=change.time_ps // 1000,
                    dropped=change.dropped,
                )
                await context.write(message.SerializeToString())
        finally:
            self._watches.discard(watch)
            watch.close()


def _check_width(width: int) -> None:
    if width not in (_WORD, _DOUBLE):
        raise Refusal(
            grpc.StatusCode.INVALID_ARGUMENT,
            "BAD_WIDTH",
            f"a register access has 4 or 8 bytes, not {width}; for memory give length or data",
            width=width,
        )


def _device(region: Region, parts: Sequence[ChipPart]) -> node_pb2.BusDevice:
    part = next((part for part in parts if part.name == region.name), None)
    return node_pb2.BusDevice(
        name=region.name,
        base=region.base,
        size=region.size,
        what=part.what if part else "",
        spis=part.spis if part else (),
    )


def _register(register: Register) -> node_pb2.RegisterInfo:
    return node_pb2.RegisterInfo(
        name=register.name,
        offset=register.offset,
        size=register.size,
        count=register.count,
        stride=register.stride,
        reset=register.reset,
        reset_step=register.reset_step,
        access=access_of(register),
        doc=register.doc,
        fields=[node_pb2.FieldInfo(name=f.name, high=f.high, low=f.low, doc=f.doc) for f in register.fields],
    )
