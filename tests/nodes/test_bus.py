from __future__ import annotations

import pytest

from unimem_node.bus import Bus, BusError
from unimem_node.bus.registers import Register, RegisterFile
from unimem_node.memory import MemoryBank, PhysicalMemory


class Probe:
    """Remembers how it was accessed; reads return the offset."""

    def __init__(self) -> None:
        self.log: list[tuple[str, int, int, int]] = []

    def read(self, offset: int, size: int) -> int:
        self.log.append(("read", offset, size, 0))
        return offset

    def write(self, offset: int, size: int, value: int) -> None:
        self.log.append(("write", offset, size, value))


class Shown:
    """A device that a debugger may look at."""

    def __init__(self, registers: RegisterFile) -> None:
        self.registers = registers
        self.read, self.write, self.inspect = registers.read, registers.write, registers.inspect


@pytest.fixture
def bus() -> Bus:
    return Bus(PhysicalMemory([MemoryBank("dram", 0, 1 << 20), MemoryBank("ocm", 0xFFFC_0000, 0x4_0000)]))


@pytest.fixture
def probe(bus: Bus) -> Probe:
    probe = Probe()
    bus.attach("probe", 0xFD80_0000, 0x1000, probe)
    return probe


def test_memory_and_devices_are_told_apart(bus: Bus, probe: Probe) -> None:
    bus.write32(0x102, 0x1234_5678)
    bus.write64(0xFD80_0008, 0x1_0000_0000_0000_0005)
    assert bus.read32(0x102) == 0x1234_5678
    assert bus.read64(0x100) == 0x1234_5678_0000
    assert bus.read32(0xFD80_0FFC) == 0xFFC
    assert probe.log == [("write", 8, 8, 5), ("read", 0xFFC, 4, 0)]


def test_written_values_are_cut_to_the_access(bus: Bus, probe: Probe) -> None:
    bus.write32(0xFD80_0000, -1)
    bus.write64(0x0, -2)
    assert probe.log == [("write", 0, 4, 0xFFFF_FFFF)]
    assert bus.read64(0x0) == (1 << 64) - 2


@pytest.mark.parametrize("address", [0x10_0000, 0xF_FFFD, 0xFD7F_FFFC, 0xFD80_1000, -4, 1 << 60])
def test_where_nobody_is_the_answer_is_a_decode_error(bus: Bus, probe: Probe, address: int) -> None:
    for access in (
        lambda: bus.read32(address),
        lambda: bus.write32(address, 0),
        lambda: bus.read(address, 4),
        lambda: bus.write(address, b"abcd"),
    ):
        with pytest.raises(BusError) as caught:
            access()
        assert (caught.value.response, caught.value.address) == ("DECERR", address)
    assert probe.log == []


def test_an_access_that_begins_in_a_device_and_ends_outside_is_refused(bus: Bus, probe: Probe) -> None:
    with pytest.raises(BusError, match="nobody"):
        bus.read64(0xFD80_0FFC)
    assert probe.log == []


@pytest.mark.parametrize(("address", "size"), [(0xFD80_0002, 4), (0xFD80_0004, 8), (0xFD80_0001, 4)])
def test_unaligned_register_accesses_are_slave_errors(
    bus: Bus, probe: Probe, address: int, size: int
) -> None:
    read, write = (bus.read32, bus.write32) if size == 4 else (bus.read64, bus.write64)
    with pytest.raises(BusError, match="probe") as caught:
        read(address)
    assert caught.value.response == "SLVERR"
    with pytest.raises(BusError) as caught:
        write(address, 0)
    assert caught.value.response == "SLVERR"
    assert probe.log == []


def test_bulk_accesses_reach_registers_word_by_word(bus: Bus, probe: Probe) -> None:
    assert bus.read(0xFD80_0010, 8) == bytes([0x10, 0, 0, 0, 0x14, 0, 0, 0])
    bus.write(0xFD80_0020, bytes(range(8)))
    assert probe.log[2:] == [("write", 0x20, 4, 0x0302_0100), ("write", 0x24, 4, 0x0706_0504)]


@pytest.mark.parametrize(("address", "n"), [(0xFD80_0000, 6), (0xFD80_0002, 4)])
def test_registers_have_no_bytes(bus: Bus, probe: Probe, address: int, n: int) -> None:
    with pytest.raises(BusError) as caught:
        bus.read(address, n)
    assert caught.value.response == "SLVERR"
    with pytest.raises(BusError):
        bus.write(address, bytes(n))
    assert probe.log == []


def test_memory_is_viewed_and_cleared_through_the_bus(bus: Bus, probe: Probe) -> None:
    bus.write(0x1000, b"\xff" * 32)
    bus.view(0x1000, 4)[:] = 7
    bus.zero(0x1010, 8)
    assert bus.read(0x1000, 32) == b"\x07" * 4 + b"\xff" * 12 + bytes(8) + b"\xff" * 8
    with pytest.raises(BusError):
        bus.view(0xFD80_0000, 4)


def test_devices_are_listed_by_address(bus: Bus, probe: Probe) -> None:
    bus.attach("early", 0x4000_0000, 0x100, probe)
    assert [(r.name, r.base, r.size) for r in bus.devices()] == [
        ("early", 0x4000_0000, 0x100),
        ("probe", 0xFD80_0000, 0x1000),
    ]


@pytest.mark.parametrize(
    ("base", "size", "message"),
    [
        (0xFD80_0FF8, 0x10, "overlaps probe at 0xfd80_0000"),
        (0xFD7F_FFF8, 0x10, "overlaps probe"),
        (0xFD00_0000, 0x100_0000, "overlaps probe"),
        (0xF_F000, 0x2000, "overlaps memory bank dram"),
        (0x4000_0000, 0, "device new"),
        (0x4000_0004, 8, "multiples of 8"),
    ],
)
def test_a_place_that_is_taken_or_bad_is_refused(
    bus: Bus, probe: Probe, base: int, size: int, message: str
) -> None:
    with pytest.raises(ValueError, match=message):
        bus.attach("new", base, size, probe)
    assert len(bus.devices()) == 1


def test_a_peek_of_registers_changes_nothing(bus: Bus) -> None:
    table = (Register("COUNT", 0, writable=0, read_clear=0xF), Register("LONG", 8, size=8, reset=1 << 40 | 2))
    registers = RegisterFile("device", 0x1000, table)
    registers.poke("COUNT", 5)
    bus.attach("device", 0xFD50_0000, 0x1000, Shown(registers))
    assert bus.peek32(0xFD50_0000) == 5
    assert bus.peek(0xFD50_0000, 16) == bytes([5, 0, 0, 0, 0, 0, 0, 0, 2, 0, 0, 0, 0, 1, 0, 0])
    assert bus.read32(0xFD50_0000) == 5
    assert bus.peek32(0xFD50_0000) == 0
    bus.write(0x100, b"memory")
    assert bus.peek(0x100, 6) == b"memory"


def test_what_cannot_be_looked_at_says_so(bus: Bus, probe: Probe) -> None:
    with pytest.raises(BusError, match="probe at 0xfd80_0000 cannot be looked at without effects") as caught:
        bus.peek32(0xFD80_0004)
    assert caught.value.response == "SLVERR"
    assert probe.log == []
    for address, n in ((0xFD80_0001, 4), (0xFD80_0000, 3)):
        with pytest.raises(BusError, match="in words"):
            bus.peek(address, n)
    with pytest.raises(BusError, match="nobody answers"):
        bus.peek32(0xFD7F_0000)


def test_devices_are_found_by_name(bus: Bus, probe: Probe) -> None:
    assert bus.device("probe").base == 0xFD80_0000
    with pytest.raises(KeyError, match="no device is called 'prob'; there are probe"):
        bus.device("prob")
