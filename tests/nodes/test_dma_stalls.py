"""N13 as the engines meet it: an access that the SMMU holds, retried or terminated by RESUME."""

from __future__ import annotations

import pytest

from support.bare_metal import Driver
from support.zdma import (
    CMD_STOP,
    CTRL2,
    DONE,
    DST_PYLD,
    FPD,
    RD_DATA,
    RD_DST_DSCR,
    RD_SRC_DSCR,
    SRC_PYLD,
    ST_BUSY,
    ST_DONE,
    ST_ERROR,
    STATUS,
    TOTAL_BYTE,
    WR_DATA,
    Dscr,
    put,
    result,
    start,
)
from unimem_node import Mpsoc

SCTLR, RESUME, FSR, FAR = 0x000, 0x008, 0x058, 0x060
CFRE, CFCFG, HUPCF = 1 << 5, 1 << 7, 1 << 8
SS, MULTI = 1 << 30, 1 << 31
RETRY, TERMINATE = 0, 1
VA = 0x40_0000_0000
DATA = bytes(range(251)) * 100
SRC, DST, SRC_LIST, DST_LIST = 0x10_0000, 0x30_0000, 0x2_0000, 0x4_0000
#: Page at VA + n * 4 KiB: source list, destination list, three of source, three of destination.
FRAMES = [SRC_LIST, DST_LIST, *(base + n * 0x1000 for base in (SRC, DST) for n in range(3))]
CHANNEL_1 = FPD + 0x1_0000


class Stalling:
    """A chip whose bank 0 stalls; both channels go through it."""

    def __init__(self, *, fast: bool, hole: int) -> None:
        self.soc = Mpsoc(memory_bytes=32 << 20, fast=fast)
        self.soc.memory.write(SRC, DATA)
        self.driver = driver = Driver(self.soc)
        driver.bring_up()
        driver.route(0, 0x14E8, 0, mask=1)
        self.root = driver.new_table()
        for n, frame in enumerate(FRAMES):
            driver.map(self.root, VA + n * 0x1000, frame)
        driver.unmap(self.root, VA + hole * 0x1000)
        driver.set_bank(0, self.root)
        self.hole = hole
        self.configure(CFRE | CFCFG | HUPCF)
        src, dst = VA + 0x2000, VA + 0x5000
        put(self.soc, SRC_LIST, [Dscr(src, 0x1800), Dscr(src + 0x1800, 0x1000, CMD_STOP)])
        put(self.soc, DST_LIST, [Dscr(dst, 0x2800)])

    def configure(self, bits: int) -> None:
        at = self.driver.register(0, SCTLR)
        self.soc.bus.write32(at, self.soc.bus.read32(at) & ~(CFRE | CFCFG | HUPCF) | bits)

    def go(self) -> None:
        start(self.soc, VA, VA + 0x1000)
        self.soc.run()

    def fsr(self) -> int:
        return self.soc.bus.read32(self.driver.register(0, FSR))

    def resume(self, how: int) -> None:
        self.driver.clear_fault(0)
        self.soc.bus.write32(self.driver.register(0, RESUME), how)
        self.soc.run()

    def repair(self) -> None:
        self.driver.map(self.root, VA + self.hole * 0x1000, FRAMES[self.hole])
        self.driver.invalidate(0, VA + self.hole * 0x1000)
        self.soc.run()


HOLES = pytest.mark.parametrize(
    ("hole", "bit", "moved"),
    [(0, RD_SRC_DSCR, 0), (1, RD_DST_DSCR, 0), (3, RD_DATA, 0x1000), (6, WR_DATA, 0x1000)],
    ids=["source descriptor", "destination descriptor", "read", "write"],
)


@pytest.fixture(params=[True, False], ids=["fast", "readable"])
def fast(request: pytest.FixtureRequest) -> bool:
    return bool(request.param)


@HOLES
def test_n13_a_stalled_access_is_held_and_retried_exactly_there(
    fast: bool, hole: int, bit: int, moved: int
) -> None:
    chip = Stalling(fast=fast, hole=hole)
    soc = chip.soc
    chip.go()
    assert chip.fsr() & (SS | 1 << 1) == SS | 1 << 1
    assert soc.bus.read64(chip.driver.register(0, FAR)) == VA + hole * 0x1000
    assert result(soc) == (0, ST_BUSY, 1)  # the channel does not know that it waits
    assert soc.bus.read32(FPD + TOTAL_BYTE) == moved
    assert soc.memory.read(DST, moved + 1) == DATA[:moved] + b"\0"
    if moved:
        assert soc.bus.read64(FPD + SRC_PYLD) == VA + 0x3000
        assert soc.bus.read64(FPD + DST_PYLD) == VA + 0x6000
    chip.repair()  # TLBI works while a transaction is stalled
    assert soc.bus.read32(FPD + STATUS) == ST_BUSY
    chip.resume(RETRY)
    assert result(soc) == (DONE, ST_DONE, 0)
    assert soc.memory.read(DST, 0x2800) == DATA[:0x2800]
    assert soc.bus.read32(FPD + TOTAL_BYTE) == 0x2800
    assert chip.fsr() & SS == 0


@HOLES
def test_n13_terminate_gives_the_engine_a_bus_error(fast: bool, hole: int, bit: int, moved: int) -> None:
    chip = Stalling(fast=fast, hole=hole)
    chip.go()
    chip.resume(TERMINATE)
    assert result(chip.soc) == (bit | DONE, ST_ERROR, 0)
    assert chip.soc.bus.read32(FPD + TOTAL_BYTE) == moved


def test_terminate_without_cfre_reads_zeros(fast: bool) -> None:
    chip = Stalling(fast=fast, hole=3)
    chip.configure(CFCFG | HUPCF)
    chip.go()
    chip.resume(TERMINATE)
    assert result(chip.soc) == (0, ST_BUSY, 1)  # the next descriptor begins in the same page
    assert chip.fsr() & SS
    chip.resume(TERMINATE)
    assert result(chip.soc) == (DONE, ST_DONE, 0)
    want = DATA[:0x1000] + bytes(0x1000) + DATA[0x2000:0x2800]
    assert chip.soc.memory.read(DST, 0x2800) == want


def test_a_retry_that_finds_nothing_stalls_again(fast: bool) -> None:
    chip = Stalling(fast=fast, hole=6)
    chip.go()
    chip.resume(RETRY)
    assert chip.fsr() & SS
    assert result(chip.soc) == (0, ST_BUSY, 1)
    chip.repair()
    chip.resume(RETRY)
    assert result(chip.soc) == (DONE, ST_DONE, 0)


def test_disabling_the_channel_drops_the_access_that_is_held(fast: bool) -> None:
    chip = Stalling(fast=fast, hole=3)
    soc = chip.soc
    chip.go()
    soc.bus.write32(FPD + CTRL2, 0)
    assert result(soc) == (0, ST_DONE, 0)
    chip.repair()
    chip.resume(RETRY)
    assert result(soc) == (0, ST_DONE, 0)
    assert soc.memory.read(DST + 0x1000, 0x1800) == bytes(0x1800)
    start(soc, VA, VA + 0x1000)
    soc.run()
    assert result(soc) == (DONE, ST_DONE, 0)


def other_channel(chip: Stalling) -> None:
    """Channel 1 copies inside pages that are mapped, through the same bank."""
    soc = chip.soc
    for at, value in ((0x128, VA + 0x2000), (0x138, VA + 0x7000)):
        soc.bus.write64(CHANNEL_1 + at, value)
    soc.bus.write32(CHANNEL_1 + 0x130, 100)
    soc.bus.write32(CHANNEL_1 + CTRL2, 1)
    soc.run()


def test_hupcf_lets_other_transactions_pass(fast: bool) -> None:
    chip = Stalling(fast=fast, hole=3)
    chip.go()
    other_channel(chip)
    assert result(chip.soc, CHANNEL_1) == (DONE, ST_DONE, 0)
    assert chip.soc.memory.read(DST + 0x2000, 100) == DATA[:100]


def test_without_hupcf_the_bank_is_held_up_until_resume(fast: bool) -> None:
    chip = Stalling(fast=fast, hole=3)
    chip.configure(CFRE | CFCFG)
    chip.go()
    other_channel(chip)
    assert result(chip.soc, CHANNEL_1) == (0, ST_BUSY, 1)
    assert chip.fsr() & MULTI == 0  # it has not faulted, it only waits
    chip.repair()
    chip.resume(RETRY)
    assert result(chip.soc) == (DONE, ST_DONE, 0)
    assert result(chip.soc, CHANNEL_1) == (DONE, ST_DONE, 0)
    assert chip.soc.memory.read(DST + 0x2000, 100) == DATA[:100]  # the one held first went first


def test_a_channel_that_only_waits_can_be_disabled(fast: bool) -> None:
    chip = Stalling(fast=fast, hole=3)
    chip.configure(CFRE | CFCFG)
    chip.go()
    other_channel(chip)
    chip.soc.bus.write32(CHANNEL_1 + CTRL2, 0)
    chip.repair()
    chip.resume(RETRY)
    assert result(chip.soc) == (DONE, ST_DONE, 0)
    assert result(chip.soc, CHANNEL_1) == (0, ST_DONE, 0)


def test_resetting_the_smmu_lets_go_of_everything(fast: bool) -> None:
    chip = Stalling(fast=fast, hole=3)
    chip.configure(CFRE | CFCFG)
    chip.go()
    other_channel(chip)
    chip.soc.smmu.reset()
    chip.soc.run()
    assert not chip.soc.zdma["fpd0"].busy
    assert not chip.soc.zdma["fpd1"].busy


# ---- an AXI CDMA, its descriptors' status included

CDMA = 0xA000_0000
CR, SR, CUR, TAIL = 0x00, 0x04, 0x08, 0x10
IDLE, SG_MODE, SG_SLV_ERR, SLV_ERR, IOC, ERR = 1 << 1, 1 << 3, 1 << 9, 1 << 5, 1 << 12, 1 << 14


@pytest.mark.parametrize(
    ("read_only", "status"), [(False, SG_SLV_ERR), (True, SG_SLV_ERR)], ids=["fetch", "status"]
)
def test_a_cdmas_descriptor_is_held_too(fast: bool, read_only: bool, status: int) -> None:
    chip = Stalling(fast=fast, hole=0)
    soc, driver = chip.soc, chip.driver
    driver.route(1, 0x200, 0)
    bd = b"".join((w & (1 << 64) - 1).to_bytes(8, "little") for w in (VA, VA + 0x2000, VA + 0x5000))
    bd += (0x800).to_bytes(4, "little") + bytes(36)
    soc.memory.write(SRC_LIST, bd)
    if read_only:
        driver.map(chip.root, VA, SRC_LIST, read_only=True)

    def launch() -> None:
        soc.bus.write32(CDMA + CR, SG_MODE)
        soc.bus.write64(CDMA + CUR, VA)
        soc.bus.write64(CDMA + TAIL, VA)
        soc.run()

    launch()
    assert soc.bus.read32(CDMA + SR) & (IDLE | IOC | ERR) == 0
    assert chip.fsr() & SS
    assert soc.memory.read(DST, 0x800) == (DATA[:0x800] if read_only else bytes(0x800))
    chip.resume(TERMINATE)
    assert soc.bus.read32(CDMA + SR) & (IDLE | status | ERR) == IDLE | status | ERR
    soc.bus.write32(CDMA + CR, 1 << 2)
    launch()
    chip.repair()
    chip.resume(RETRY)
    assert soc.bus.read32(CDMA + SR) & (IDLE | IOC | ERR) == IDLE | IOC
    assert soc.memory.read(SRC_LIST + 0x1C, 4) == (1 << 31).to_bytes(4, "little")
    assert soc.memory.read(DST, 0x801) == DATA[:0x800] + b"\0"
