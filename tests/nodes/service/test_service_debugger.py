"""What a debugger asks of BusService: peeks, the devices, their register tables."""

from __future__ import annotations

from collections.abc import AsyncIterator
from typing import Any

import grpc
import pytest
import pytest_asyncio

from support.fake_coordinator import FakeCoordinator
from support.service_harness import node_server
from unimem.v1 import node_pb2 as pb
from unimem_node.bus.registers import Field, Register, RegisterFile

pytestmark = pytest.mark.asyncio
DEVICE, PLAIN = 0x9000_0000, 0x9001_0000
TABLE = (
    Register("COUNT", 0x10, writable=0, read_clear=0xFF, doc="cleared by reading"),
    Register("LONG", 0x08, size=8, reset=0x1_0000_0002, fields=(Field("HALF", 63, 32, "the upper half"),)),
    Register("LIVE", 0x18, writable=0),
    Register("SLOT", 0x20, count=3, stride=8, reset=5, w1c=1, writable=1),
)


class Device:
    """Counts what it does; its LIVE register shows what it has come to."""

    def __init__(self) -> None:
        self.registers = RegisterFile("device", 0x1000, TABLE)
        self.registers.poke("COUNT", 7)
        self.acted = 0
        self.registers.on_read("LONG", self._act)
        self.registers.on_read("LIVE", lambda _: self.registers.poke("LIVE", 42), refreshes=True)

    def _act(self, index: int) -> None:
        self.acted += 1

    def read(self, offset: int, size: int) -> int:
        return self.registers.read(offset, size)

    def write(self, offset: int, size: int, value: int) -> None:
        self.registers.write(offset, size, value)

    def inspect(self, offset: int, size: int) -> int:
        return self.registers.inspect(offset, size)


class Plain:
    def read(self, offset: int, size: int) -> int:
        return 0

    def write(self, offset: int, size: int, value: int) -> None:
        pass


@pytest_asyncio.fixture
async def served() -> AsyncIterator[tuple[Any, Device]]:
    coordinator = FakeCoordinator()
    await coordinator.start()
    async with node_server(coordinator) as (_, node, stubs):
        device = Device()
        node.soc.bus.attach("device", DEVICE, 0x1000, device)
        node.soc.bus.attach("plain", PLAIN, 0x1000, Plain())
        yield stubs, device
    await coordinator.stop()


async def peek(stubs: Any, address: int, **what: int) -> Any:
    return await stubs.bus.Read(pb.ReadRequest(address=address, peek=True, **what))


async def test_a_peek_has_no_effects(served: tuple[Any, Device]) -> None:
    stubs, device = served
    for _ in range(2):
        assert (await peek(stubs, DEVICE + 0x10, width=4)).value == 7
    assert (await stubs.bus.Read(pb.ReadRequest(address=DEVICE + 0x10, width=4))).value == 7
    assert (await peek(stubs, DEVICE + 0x10, width=4)).value == 0  # the read has cleared it
    assert (await peek(stubs, DEVICE + 0x08, width=8)).value == 0x1_0000_0002
    assert device.acted == 0
    await stubs.bus.Read(pb.ReadRequest(address=DEVICE + 0x08, width=8))
    assert device.acted == 1


async def test_a_peek_sees_what_a_read_would_bring_up_to_date(served: tuple[Any, Device]) -> None:
    stubs, _ = served
    assert (await peek(stubs, DEVICE + 0x18, width=4)).value == 42


async def test_a_page_of_registers_is_one_peek(served: tuple[Any, Device]) -> None:
    stubs, _ = served
    page = (await peek(stubs, DEVICE, length=0x1000)).data
    words = {n: int.from_bytes(page[n : n + 4], "little") for n in range(0, 0x1000, 4)}
    expected = {0x08: 2, 0x0C: 1, 0x10: 7, 0x18: 42, 0x20: 5, 0x28: 5, 0x30: 5}
    assert {n: word for n, word in words.items() if word} == expected


async def test_memory_can_be_peeked_at(served: tuple[Any, Device]) -> None:
    stubs, _ = served
    await stubs.bus.Write(pb.WriteRequest(address=0x123, data=b"in memory"))
    assert (await peek(stubs, 0x123, length=9)).data == b"in memory"


@pytest.mark.parametrize(
    ("address", "what", "reason", "text"),
    [
        (PLAIN, {"width": 4}, "BUS_SLVERR", "plain at 0x9001_0000 cannot be looked at"),
        (0x5000_0000, {"width": 4}, "BUS_DECERR", "nobody answers at 0x5000_0000"),
        (DEVICE + 2, {"width": 4}, "INVALID_ARGUMENT", "not aligned to 4 bytes"),
        (DEVICE + 4, {"width": 8}, "INVALID_ARGUMENT", "not aligned to 8 bytes"),
        (DEVICE + 2, {"length": 4}, "BUS_SLVERR", "in words"),
        (DEVICE, {"length": 6}, "BUS_SLVERR", "not 6 bytes"),
        (DEVICE + 0xFFC, {"length": 8}, "BUS_DECERR", "nobody answers"),
        (DEVICE, {"width": 2}, "BAD_WIDTH", "4 or 8 bytes, not 2"),
    ],
)
async def test_peeks_that_cannot_be(
    served: tuple[Any, Device], address: int, what: dict[str, int], reason: str, text: str
) -> None:
    stubs, _ = served
    with pytest.raises(grpc.aio.AioRpcError, match=text):
        await peek(stubs, address, **what)
    assert (await stubs.refused(peek(stubs, address, **what)))[1] == reason


async def test_devices_are_listed_with_what_they_are(served: tuple[Any, Device]) -> None:
    stubs, _ = served
    listed = await stubs.bus.ListDevices(pb.ListDevicesRequest())
    assert listed.platform == "fake"
    assert [(d.name, d.base, d.size, d.what, list(d.spis)) for d in listed.devices] == [
        ("device", DEVICE, 0x1000, "a device", [155]),
        ("plain", PLAIN, 0x1000, "", []),
    ]
    assert [(s.first, s.count, s.name, s.member) for s in listed.streams] == [(0x210, 16, "device", "slot")]


async def test_a_device_describes_its_registers_by_offset(served: tuple[Any, Device]) -> None:
    stubs, _ = served
    about = await stubs.bus.DescribeDevice(pb.DescribeDeviceRequest(name="device"))
    assert about.device.base == DEVICE
    assert [r.name for r in about.registers] == ["LONG", "COUNT", "LIVE", "SLOT"]
    long, count, live, slot = about.registers
    assert (long.offset, long.size, long.reset, long.access) == (8, 8, 0x1_0000_0002, "RW")
    assert [(f.name, f.high, f.low, f.doc) for f in long.fields] == [("HALF", 63, 32, "the upper half")]
    assert (count.doc, "clears on read" in count.access) == ("cleared by reading", True)
    assert (slot.count, slot.stride, slot.reset, slot.access) == (3, 8, 5, "W1C")
    assert live.access.startswith("RO")


@pytest.mark.parametrize(
    ("name", "code", "reason", "text"),
    [
        ("nosuch", grpc.StatusCode.NOT_FOUND, "UNKNOWN_DEVICE", "'nosuch'; there are device, plain"),
        ("", grpc.StatusCode.NOT_FOUND, "UNKNOWN_DEVICE", "there are device, plain"),
        ("plain", grpc.StatusCode.FAILED_PRECONDITION, "NO_REGISTER_TABLE", "plain has no table"),
    ],
)
async def test_devices_that_cannot_be_described(
    served: tuple[Any, Device], name: str, code: grpc.StatusCode, reason: str, text: str
) -> None:
    stubs, _ = served
    call = stubs.bus.DescribeDevice(pb.DescribeDeviceRequest(name=name))
    with pytest.raises(grpc.aio.AioRpcError, match=text):
        await call
    again = stubs.bus.DescribeDevice(pb.DescribeDeviceRequest(name=name))
    assert (await stubs.refused(again))[:2] == (code, reason)
