"""AXI CDMA on PL ports, driven over the bus."""

from __future__ import annotations

import pytest

from support.bare_metal import Driver
from unimem_node import Mpsoc

CDMA = 0xA000_0000
CR, SR, SA, DA, BTT = 0x00, 0x04, 0x18, 0x20, 0x28
#: Idle, in a build with scatter-gather (SGIncld).
READY = 1 << 1 | 1 << 3
IDLE, INT_ERR, SLV_ERR, DEC_ERR, IOC, ERR = 1 << 1, 1 << 4, 1 << 5, 1 << 6, 1 << 12, 1 << 14
VA = 0x40_0000_0000
DATA = bytes(range(251)) * 40


def build(port: str = "HPC0", **fields: object) -> Mpsoc:
    master = {"type": "axi_cdma", "port": port, "base": CDMA, "axi_id": 0, **fields}
    soc = Mpsoc(memory_bytes=32 << 20, pl_masters=[master])
    soc.memory.write(0x10_0000, DATA)
    return soc


@pytest.fixture(params=[True, False], ids=["fast", "readable"])
def soc(request: pytest.FixtureRequest) -> Mpsoc:
    soc = Mpsoc(memory_bytes=32 << 20, fast=request.param)
    soc.memory.write(0x10_0000, DATA)
    return soc


def copy(soc: Mpsoc, src: int, dst: int, n: int, base: int = CDMA) -> None:
    soc.bus.write64(base + SA, src)
    soc.bus.write64(base + DA, dst)
    soc.bus.write32(base + BTT, n)
    soc.run()


def test_reset_state_and_what_software_may_write(soc: Mpsoc) -> None:
    assert (soc.bus.read32(CDMA + CR), soc.bus.read32(CDMA + SR)) == (0x0001_0000, READY)
    soc.bus.write32(CDMA + CR, 0xFFFF_FFFF & ~(1 << 2))
    assert soc.bus.read32(CDMA + CR) == 0xFFFF_7038
    soc.bus.write32(CDMA + CR, 1 << 2)
    assert soc.bus.read32(CDMA + CR) == 0x0001_0000
    for at, sticks in ((0x08, 0), (0x10, 0), (SA, 0xFFFF_FFFF), (SA + 4, 0x1_FFFF), (DA + 4, 0x1_FFFF)):
        soc.bus.write32(CDMA + at, 0xFFFF_FFFF)
        assert soc.bus.read32(CDMA + at) == sticks


def test_copy_and_its_interrupt(soc: Mpsoc) -> None:
    soc.bus.write32(CDMA + CR, IOC | ERR)
    copy(soc, 0x10_0001, 0x20_0003, 5000)
    assert soc.memory.read(0x20_0003, 5001) == DATA[1:5001] + b"\0"
    assert soc.bus.read32(CDMA + SR) == READY | IOC
    assert soc.interrupts.pending() == [89]
    soc.bus.write32(CDMA + SR, IOC)
    assert (soc.bus.read32(CDMA + SR), soc.interrupts.pending()) == (READY, [])
    copy(soc, 0x10_0000, 0x20_0000, 16)
    assert soc.interrupts.pending() == [89]


def test_writing_the_length_starts_it_and_it_takes_its_time(soc: Mpsoc) -> None:
    soc.bus.write64(CDMA + SA, 0x10_0000)
    soc.bus.write64(CDMA + DA, 0x20_0000)
    soc.bus.write32(CDMA + BTT, 4800)
    assert soc.bus.read32(CDMA + SR) == READY & ~IDLE
    soc.run()
    timing = soc.platform.smmu.block.timing
    clocks = (20, 300)  # set-up, beats of 16 bytes
    data = sum(-(-n * 1_000_000 // 300) for n in clocks)
    assert soc.scheduler.now_ps == data + 2 * timing.micro_hit_ps + 2 * timing.memory_latency_ps
    assert soc.interrupts.pending() == []  # not enabled


def test_a_length_of_zero_is_an_internal_error_that_only_reset_ends(soc: Mpsoc) -> None:
    soc.bus.write32(CDMA + CR, ERR)
    copy(soc, 0x10_0000, 0x20_0000, 0)
    assert soc.bus.read32(CDMA + SR) == READY | INT_ERR | ERR
    assert soc.interrupts.pending() == [89]
    copy(soc, 0x10_0000, 0x20_0000, 16)
    assert soc.memory.read(0x20_0000, 16) == bytes(16)
    soc.bus.write32(CDMA + CR, 1 << 2)
    assert (soc.bus.read32(CDMA + SR), soc.interrupts.pending()) == (READY, [])
    copy(soc, 0x10_0000, 0x20_0000, 16)
    assert soc.memory.read(0x20_0000, 16) == DATA[:16]


def test_a_length_written_while_busy_is_ignored(soc: Mpsoc) -> None:
    soc.bus.write64(CDMA + SA, 0x10_0000)
    soc.bus.write64(CDMA + DA, 0x20_0000)
    soc.bus.write32(CDMA + BTT, 16)
    soc.bus.write32(CDMA + BTT, 32)
    soc.run()
    assert soc.memory.read(0x20_0000, 32) == DATA[:16] + bytes(16)


def test_reset_ends_a_transfer_under_way(soc: Mpsoc) -> None:
    soc.bus.write32(CDMA + BTT, 16)
    soc.bus.write32(CDMA + CR, 1 << 2)
    assert soc.bus.read32(CDMA + SR) == READY
    soc.run()
    assert soc.bus.read32(CDMA + SR) == READY


def test_keyhole(soc: Mpsoc) -> None:
    soc.bus.write32(CDMA + CR, 1 << 4)
    copy(soc, 0x10_0000, 0x20_0000, 40)
    assert soc.memory.read(0x20_0000, 40) == DATA[:16] * 2 + DATA[:8]
    soc.bus.write32(CDMA + CR, 1 << 5)
    copy(soc, 0x10_0000, 0x30_0000, 32)
    assert soc.memory.read(0x30_0000, 32) == DATA[16:32] + bytes(16)


def test_no_memory_is_a_decode_error(soc: Mpsoc) -> None:
    copy(soc, 0x10_0000, 0x7_0000_0000, 16)
    assert soc.bus.read32(CDMA + SR) == READY | DEC_ERR | ERR


@pytest.mark.parametrize(("response", "bit"), [("SLVERR", SLV_ERR), ("DECERR", DEC_ERR)])
def test_n18_an_smmu_abort_shows_as_the_platform_says(response: str, bit: int) -> None:
    soc = build(abort_response=response)
    driver = Driver(soc)
    driver.bring_up()
    root = driver.new_table()
    driver.map(root, VA, 0x10_0000)
    driver.map(root, VA + 0x10_0000, 0x20_0000, pages=2)
    driver.set_bank(0, root)
    driver.route(0, 0x200, 0)
    soc.bus.write32(CDMA + CR, IOC | ERR)
    copy(soc, VA + 0xF00, VA + 0x10_0000, 512)
    assert soc.bus.read32(CDMA + SR) == READY | bit | ERR
    assert soc.interrupts.pending() == [89, 155]
    assert soc.memory.read(0x20_0000, 512) == DATA[0xF00:0x1000] + bytes(256)


@pytest.mark.parametrize(
    ("port", "axi_id", "stream"),
    [("HPC0", 9, 0x209), ("HPC1", 0, 0x240), ("HP0", 1, 0xE81), ("HP3", 63, 0x177F)],
)
def test_the_stream_is_the_ports_and_the_axi_ids(port: str, axi_id: int, stream: int) -> None:
    soc = build(port, axi_id=axi_id)
    driver = Driver(soc)
    driver.bring_up()
    root = driver.new_table()
    driver.map(root, VA, 0x10_0000)
    driver.map(root, VA + 0x1000, 0x20_0000)
    driver.set_bank(0, root)
    driver.route(0, stream, 0)
    copy(soc, VA, VA + 0x1000, 64)
    assert soc.bus.read32(CDMA + SR) == READY | IOC
    assert soc.memory.read(0x20_0000, 64) == DATA[:64]
    driver.route(0, stream ^ 1, 0)  # the wrong AXI ID: the most frequent mistake
    copy(soc, VA, VA + 0x1000, 64)
    assert soc.bus.read32(CDMA + SR) & SLV_ERR
    assert soc.bus.read32(0xFD80_0054) & 0x7FFF == stream


@pytest.mark.parametrize("port", ["ACE", "ACP"])
def test_ports_that_do_not_pass_the_smmu(port: str) -> None:
    soc = build(port)
    Driver(soc).bring_up()  # unmatched streams fault; this one has none
    copy(soc, 0x10_0000, 0x20_0000, 64)
    assert soc.memory.read(0x20_0000, 64) == DATA[:64]
    assert soc.smmu.counters()["bypasses"] == 0
    copy(soc, 0x7_0000_0000, 0x20_0000, 64)
    assert soc.bus.read32(CDMA + SR) & DEC_ERR
