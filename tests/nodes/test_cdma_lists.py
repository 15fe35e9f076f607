"""AXI CDMA in scatter-gather mode."""

from __future__ import annotations

from dataclasses import replace

import pytest

from support.axi import (
    BD_DEC,
    BD_INT,
    BD_SLV,
    COMPLETE,
    DEC_ERR,
    DLY,
    ERR,
    IDLE,
    INT_ERR,
    IOC,
    RESET,
    SG_DEC_ERR,
    SG_INCLUDED,
    SG_INT_ERR,
    SG_MODE,
    SG_SLV_ERR,
    SLV_ERR,
    cdma_bd,
    status_of,
)
from support.bare_metal import Driver
from unimem_node import Mpsoc
from unimem_node.dma import AxiCdma, Patience

CDMA = 0xA000_0000
CR, SR, CUR, TAIL, SA, DA, BTT = 0x00, 0x04, 0x08, 0x10, 0x18, 0x20, 0x28
READY = IDLE | SG_INCLUDED
LIST, SRC, DST = 0x2_0000, 0x10_0000, 0x30_0000
VA = 0x40_0000_0000
DATA = bytes(range(251)) * 100


@pytest.fixture(params=[True, False], ids=["fast", "readable"])
def soc(request: pytest.FixtureRequest) -> Mpsoc:
    soc = Mpsoc(memory_bytes=32 << 20, fast=request.param)
    soc.memory.write(SRC, DATA)
    return soc


def chain(soc: Mpsoc, sizes: list[int], *, at: int = LIST) -> list[int]:
    """Descriptors of `sizes` one after the other; they copy DATA to DST. Returns their addresses."""
    places = [at + 0x40 * n for n in range(len(sizes))]
    offset = 0
    for place, size in zip(places, sizes, strict=True):
        soc.memory.write(place, cdma_bd(place + 0x40, SRC + offset, DST + offset, size))
        offset += size
    return places


def launch(soc: Mpsoc, first: int, tail: int, control: int = 0) -> None:
    soc.bus.write32(CDMA + CR, 0x1_0000 | SG_MODE | control)
    soc.bus.write64(CDMA + CUR, first)
    soc.bus.write64(CDMA + TAIL, tail)


def test_a_list_is_worked_off_and_its_status_written_back(soc: Mpsoc) -> None:
    bds = chain(soc, [100, 5000, 1])
    launch(soc, bds[0], bds[-1], IOC | ERR)
    assert soc.bus.read32(CDMA + SR) & IDLE == 0
    soc.run()
    assert soc.bus.read32(CDMA + SR) == READY | IOC
    assert soc.interrupts.pending() == [89]
    assert [status_of(soc, bd) for bd in bds] == [COMPLETE] * 3
    assert soc.memory.read(DST, 5102) == DATA[:5101] + b"\0"
    assert soc.bus.read64(CDMA + CUR) == bds[-1]


def test_the_tail_goes_on_behind_the_last_one(soc: Mpsoc) -> None:
    bds = chain(soc, [10] * 6)
    launch(soc, bds[0], bds[1])
    soc.run()
    assert [bool(status_of(soc, bd)) for bd in bds] == [True, True, False, False, False, False]
    soc.bus.write64(CDMA + TAIL, bds[3])
    soc.run()
    assert soc.bus.read64(CDMA + CUR) == bds[3]
    assert soc.memory.read(DST, 41) == DATA[:40] + b"\0"
    soc.bus.write64(CDMA + TAIL, bds[4])
    soc.bus.write64(CDMA + TAIL, bds[5])  # moved while it runs
    soc.run()
    assert soc.memory.read(DST, 60) == DATA[:60]
    assert soc.bus.read32(CDMA + SR) == READY | IOC


def test_curdesc_begins_a_new_list_and_is_kept_while_running(soc: Mpsoc) -> None:
    bds = chain(soc, [10, 20])
    launch(soc, bds[0], bds[1])
    soc.bus.write64(CDMA + CUR, 0x9000)
    assert soc.bus.read64(CDMA + CUR) == bds[0]
    soc.run()
    other = chain(soc, [500], at=0x5_0000)
    soc.bus.write64(CDMA + CUR, other[0])
    soc.bus.write64(CDMA + TAIL, other[0])
    soc.run()
    assert soc.memory.read(DST, 500) == DATA[:500]
    assert soc.bus.read32(CDMA + SR) == READY | IOC


def test_descriptor_registers_need_sg_mode(soc: Mpsoc) -> None:
    for at in (CUR, CUR + 4, TAIL, TAIL + 4):
        soc.bus.write32(CDMA + at, 0xFFFF_FFFF)
        assert soc.bus.read32(CDMA + at) == 0
    soc.bus.write32(CDMA + CR, SG_MODE)
    for at, sticks in ((CUR, 0xFFFF_FFC0), (CUR + 4, 0x1_FFFF)):
        soc.bus.write32(CDMA + at, 0xFFFF_FFFF)
        assert soc.bus.read32(CDMA + at) == sticks
    soc.bus.write32(CDMA + CR, 0)
    assert soc.bus.read64(CDMA + CUR) == 0


def test_btt_does_nothing_in_sg_mode_and_the_mode_stays_while_busy(soc: Mpsoc) -> None:
    bds = chain(soc, [10])
    launch(soc, bds[0], bds[0])
    soc.bus.write32(CDMA + CR, 0)
    assert soc.bus.read32(CDMA + CR) & SG_MODE
    soc.run()
    soc.bus.write64(CDMA + SA, SRC)
    soc.bus.write64(CDMA + DA, DST + 0x1000)
    soc.bus.write32(CDMA + BTT, 16)
    soc.run()
    assert soc.memory.read(DST + 0x1000, 16) == bytes(16)


def test_keyhole_holds_in_lists(soc: Mpsoc) -> None:
    bds = chain(soc, [40])
    launch(soc, bds[0], bds[0], 1 << 4)
    soc.run()
    assert soc.memory.read(DST, 40) == DATA[:16] * 2 + DATA[:8]


# ---- interrupts


def test_the_threshold_counts_completions(soc: Mpsoc) -> None:
    seen = []

    def handler(spi: int) -> None:
        seen.append(sum(bool(status_of(soc, bd)) for bd in bds))
        soc.bus.write32(CDMA + SR, IOC)

    bds = chain(soc, [1000] * 10)
    soc.interrupts.connect_cpu(handler)
    soc.bus.write32(CDMA + CR, 3 << 16 | SG_MODE | IOC)
    soc.bus.write64(CDMA + CUR, bds[0])
    soc.bus.write64(CDMA + TAIL, bds[-1])
    soc.run()
    assert seen == [3, 6, 9]
    assert soc.bus.read32(CDMA + SR) == READY  # the tenth is not enough, and no timer runs


def test_the_delay_timer_tells_of_the_rest(soc: Mpsoc) -> None:
    bds = chain(soc, [100] * 4)
    soc.bus.write32(CDMA + CR, 10 << 24 | 3 << 16 | SG_MODE | IOC | DLY)
    soc.bus.write64(CDMA + CUR, bds[0])
    soc.bus.write64(CDMA + TAIL, bds[-1])
    soc.run()
    assert soc.bus.read32(CDMA + SR) == READY | IOC | DLY
    units = 10 * 125 * 1_000_000 // 300
    assert soc.scheduler.now_ps > units


def test_a_threshold_of_zero_is_one(soc: Mpsoc) -> None:
    soc.bus.write32(CDMA + CR, SG_MODE)
    assert soc.bus.read32(CDMA + CR) == 0x1_0000 | SG_MODE


# ---- errors


@pytest.mark.parametrize(
    ("descriptor", "bits", "status"),
    [
        (cdma_bd(0, SRC, DST, 0), INT_ERR, BD_INT),
        (cdma_bd(0, SRC, DST, 8, COMPLETE), SG_INT_ERR, COMPLETE),
        (cdma_bd(0, 0x7_0000_0000, DST, 8), DEC_ERR, BD_DEC),
        (cdma_bd(0, SRC, 0x7_0000_0000, 8), DEC_ERR, BD_DEC),
    ],
    ids=["length zero", "stale", "no memory to read", "no memory to write"],
)
def test_n18_n20_errors_halt_until_reset(soc: Mpsoc, descriptor: bytes, bits: int, status: int) -> None:
    bds = chain(soc, [16, 16, 16])
    soc.memory.write(bds[1], descriptor)
    launch(soc, bds[0], bds[2], ERR)
    soc.run()
    assert soc.bus.read32(CDMA + SR) & ~IOC == READY | bits | ERR
    assert soc.interrupts.pending() == [89]
    assert soc.bus.read64(CDMA + CUR) == bds[1]
    assert [status_of(soc, bd) for bd in bds] == [COMPLETE, status, 0]
    soc.bus.write64(CDMA + TAIL, bds[2])
    soc.run()
    assert status_of(soc, bds[2]) == 0
    soc.bus.write32(CDMA + CR, RESET)
    assert soc.bus.read32(CDMA + SR) == READY
    soc.memory.write(bds[0], cdma_bd(0, SRC, DST, 16))
    launch(soc, bds[0], bds[0])
    soc.run()
    assert soc.bus.read32(CDMA + SR) == READY | IOC


def test_a_misaligned_descriptor_and_one_in_no_memory(soc: Mpsoc) -> None:
    bds = chain(soc, [16])
    for following, bit in ((LIST + 0x48, SG_INT_ERR), (0x7_0000_0000, SG_DEC_ERR)):
        soc.memory.write(bds[0], cdma_bd(following, SRC, DST, 16))
        launch(soc, bds[0], 0x9000)
        soc.run()
        assert soc.bus.read32(CDMA + SR) & ~IOC == READY | bit | ERR
        assert soc.bus.read64(CDMA + CUR) == following & ~0x3F
        soc.bus.write32(CDMA + CR, RESET)


@pytest.mark.parametrize(
    ("hole", "bits", "statuses"),
    [
        (0, SG_SLV_ERR, [0, 0]),
        (3, SLV_ERR, [COMPLETE, BD_SLV]),
        (6, SLV_ERR, [COMPLETE, BD_SLV]),
    ],
    ids=["fetch", "read", "write"],
)
def test_through_the_smmu(soc: Mpsoc, hole: int, bits: int, statuses: list[int]) -> None:
    driver = Driver(soc)
    driver.bring_up()
    driver.route(0, 0x200, 0)
    root = driver.new_table()
    frames = [LIST, LIST, *(SRC + n * 0x1000 for n in range(3)), *(DST + n * 0x1000 for n in range(3))]
    for n, frame in enumerate(frames):
        if n != hole:
            driver.map(root, VA + n * 0x1000, frame)
    driver.set_bank(0, root)
    source, destination = VA + 0x2000, VA + 0x5000
    soc.memory.write(LIST, cdma_bd(VA + 0x40, source, destination, 0x800))
    soc.memory.write(LIST + 0x40, cdma_bd(VA, source + 0x800, destination + 0x800, 0x1000))
    launch(soc, VA, VA + 0x40, ERR)
    soc.run()
    assert soc.bus.read32(CDMA + SR) & ~IOC == READY | bits | ERR
    assert [status_of(soc, LIST + 0x40 * n) for n in range(2)] == statuses
    done = 0x1000 if statuses[0] else 0
    assert soc.memory.read(DST, done + 1) == DATA[:done] + b"\0"


def test_a_status_that_cannot_be_written_is_a_descriptor_error(soc: Mpsoc) -> None:
    driver = Driver(soc)
    driver.bring_up()
    driver.route(0, 0x200, 0)
    root = driver.new_table()
    driver.map(root, VA, LIST, read_only=True)
    driver.map(root, VA + 0x1000, SRC)
    driver.map(root, VA + 0x2000, DST)
    driver.set_bank(0, root)
    soc.memory.write(LIST, cdma_bd(VA, VA + 0x1000, VA + 0x2000, 64))
    launch(soc, VA, VA)
    soc.run()
    assert soc.bus.read32(CDMA + SR) == READY | SG_SLV_ERR | ERR
    assert status_of(soc, LIST) == 0
    assert soc.memory.read(DST, 64) == DATA[:64]
    soc.bus.write32(CDMA + CR, RESET)
    driver.set_bank(0, root, abort=False)  # the write is dropped, nobody is told
    launch(soc, VA, VA)
    soc.run()
    assert soc.bus.read32(CDMA + SR) == READY | IOC


def test_both_errors_show_when_the_errors_status_cannot_be_written(soc: Mpsoc) -> None:
    driver = Driver(soc)
    driver.bring_up()
    driver.route(0, 0x200, 0)
    root = driver.new_table()
    driver.map(root, VA, LIST, read_only=True)
    driver.set_bank(0, root)
    soc.memory.write(LIST, cdma_bd(VA, VA + 0x1000, VA + 0x2000, 64))
    launch(soc, VA, VA)
    soc.run()
    assert soc.bus.read32(CDMA + SR) == READY | SLV_ERR | SG_SLV_ERR | ERR


def test_reset_ends_a_list_under_way(soc: Mpsoc) -> None:
    bds = chain(soc, [4000] * 3)
    launch(soc, bds[0], bds[-1])
    soc.bus.write32(CDMA + CR, RESET)
    soc.run()
    assert (soc.bus.read32(CDMA + SR), soc.bus.read64(CDMA + CUR)) == (READY, 0)
    assert status_of(soc, bds[0]) == 0


def test_a_list_without_end_stops_at_what_it_has_completed(soc: Mpsoc) -> None:
    bds = chain(soc, [8, 8])
    soc.memory.write(bds[1], cdma_bd(bds[0], SRC, DST, 8))
    launch(soc, bds[0], 0x9000)
    soc.run()
    assert soc.bus.read32(CDMA + SR) == READY | IOC | SG_INT_ERR | ERR
    assert soc.bus.read64(CDMA + CUR) == bds[0]


def test_patience_ends_a_very_long_list(soc: Mpsoc) -> None:
    spec = replace(
        soc.pl["cdma0"].spec, name="impatient", base=0xB000_0000, patience=Patience(descriptors=1500)
    )
    cdma = AxiCdma(soc.smmu, soc.scheduler, soc.interrupts.line(spec.spi), spec)
    bds = chain(soc, [1] * 3000, at=0x20_0000)
    cdma.write(CR, 4, 0x1_0000 | SG_MODE)
    cdma.write(CUR, 8, bds[0])
    cdma.write(TAIL, 8, bds[-1])
    soc.run()
    assert cdma.read(SR, 4) & (SG_INT_ERR | ERR) == SG_INT_ERR | ERR


def test_a_build_without_scatter_gather() -> None:
    master = {"type": "axi_cdma", "port": "HPC0", "base": CDMA, "scatter_gather": False}
    soc = Mpsoc(memory_bytes=32 << 20, pl_masters=[master])
    assert soc.bus.read32(CDMA + SR) == IDLE
    soc.bus.write32(CDMA + CR, SG_MODE)
    assert soc.bus.read32(CDMA + CR) == 0x1_0000
    soc.bus.write32(CDMA + TAIL, 0x1000)
    assert soc.bus.read32(CDMA + TAIL) == 0
