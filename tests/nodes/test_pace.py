"""How long transfers take: widths, outstanding transactions, rate control, and walks that wait for a slot."""

from __future__ import annotations

import pytest

from support.bare_metal import Driver
from support.zdma import CTRL0, CTRL1, CTRL2, DATA_ATTR, FPD, ISR, RATE, RATE_CNTL
from unimem_node import Mpsoc
from unimem_node.dma import DataPath
from unimem_node.dma.pace import Loads, Pace, TbuLoad
from unimem_node.memory import DramPorts, DramSpec
from unimem_node.smmu import SmmuSpec

VA = 0x40_0000_0000
WALK = 600_000  # four descriptor reads of 150 ns


# ---- the slots for walks of one TBU


def tbu(walk_slots: int = 8, outstanding: int = 128) -> TbuLoad:
    return TbuLoad(walk_slots, outstanding, DramPorts(DramSpec(71_112)))


def test_eight_engines_walk_at_once_and_a_ninth_waits() -> None:
    load = tbu()
    assert [load.walk(0, WALK, 1) for _ in range(8)] == [WALK] * 8
    assert load.walk(0, WALK, 1) == 2 * WALK
    assert load.walk(WALK, WALK, 1) == WALK  # seven slots are free by then


def test_walks_of_one_engine_overlap_up_to_its_limit_and_the_slots() -> None:
    for parallel, time in ((1, 16 * WALK), (4, 4 * WALK), (8, 2 * WALK), (31, 2 * WALK)):
        assert tbu().walk(0, 16 * WALK, parallel) == time


def test_engines_that_both_want_all_slots_are_served_one_after_the_other() -> None:
    load = tbu()
    assert load.walk(0, 8 * WALK, 8) == WALK
    assert load.walk(0, 8 * WALK, 8) == 2 * WALK
    assert load.walk(0, WALK, 1) == 3 * WALK
    assert load.walk(10 * WALK, 8 * WALK, 8) == WALK


def test_some_slots_are_left_for_others() -> None:
    load = tbu()
    assert load.walk(0, 6 * WALK, 6) == WALK
    assert load.walk(0, 2 * WALK, 2) == WALK
    assert load.walk(0, WALK, 1) == 2 * WALK


def test_the_outstanding_transactions_of_a_tbu_are_shared() -> None:
    load = tbu()
    shares = []
    for active in (0, 1, 2, 5, 200):
        load.active = active
        shares.append(load.share())
    assert shares == [128, 128, 64, 25, 1]


def test_engines_of_one_tbu_share_its_load_and_others_have_their_own() -> None:
    loads = Loads(SmmuSpec())
    assert loads.of(0x14E8) is loads.of(0x1740)  # FPD DMA and HP3: TBU 5
    assert loads.of(0x14E8) is not loads.of(0x0868)
    assert loads.of(None) is not loads.of(None)


# ---- the data path


def test_the_slowest_of_width_flight_and_rate_decides() -> None:
    pace = Pace(DataPath(16, 1000, burst_beats=16, outstanding=4))  # 16 bytes a nanosecond
    assert pace.data_ps(4096, 0, 128) == 256_000
    assert pace.data_ps(4097, 0, 128) == 257_000
    assert pace.data_ps(4096, 100_000, 128) == 16 * 100_000 // 4
    assert pace.data_ps(4096, 100_000, 2) == 16 * 100_000 // 2
    pace.configure(4, 4, 256, 1000)
    assert pace.data_ps(4096, 100_000, 128) == 16 * 1_000_000


def elapsed(soc: Mpsoc, base: int = FPD) -> int:
    """Simulated time of a copy of 64 KiB, picoseconds."""
    for at, value in ((0x128, 0x10_0000), (0x138, 0x20_0000)):
        soc.bus.write64(base + at, value)
    soc.bus.write32(base + 0x130, 0x1_0000)
    before = soc.scheduler.now_ps
    soc.bus.write32(base + CTRL2, 1)
    soc.run()
    assert soc.bus.read32(base + ISR) == 1 << 10
    soc.bus.write32(base + ISR, 0xFFF)
    return soc.scheduler.now_ps - before


def test_more_issue_is_faster_until_the_width_limits() -> None:
    soc = Mpsoc(memory_bytes=32 << 20)
    times = []
    for issue in (1, 2, 4, 8, 16, 31):
        soc.bus.write32(FPD + CTRL1, issue | issue << 5)
        times.append(elapsed(soc))
    assert times == sorted(times, reverse=True)
    assert times[0] > times[1] > times[2]
    assert times[3] == times[4] == times[5]  # 256 bytes · 8 in 150 ns is more than 16 bytes a cycle
    latency = soc.platform.smmu.block.timing.memory_latency_ps
    assert times[0] - times[1] == 256 * latency - 128 * latency


def test_short_bursts_need_more_of_them() -> None:
    soc = Mpsoc(memory_bytes=32 << 20)
    soc.bus.write32(FPD + CTRL1, 4 | 4 << 5)
    long = elapsed(soc)
    soc.bus.write32(FPD + DATA_ATTR, 0x0480_D200)  # ARLEN = AWLEN = 0: one beat
    assert elapsed(soc) > 8 * long


def test_rate_control_slows_the_issue_of_transactions() -> None:
    soc = Mpsoc(memory_bytes=32 << 20)
    free = elapsed(soc)
    soc.bus.write32(FPD + RATE_CNTL, 0x100)
    assert elapsed(soc) == free  # RATE_CTRL is off
    soc.bus.write32(FPD + CTRL0, 0x80 | RATE)
    cycles = 256 * 0x100  # 256 transactions of 256 bytes
    dram = 2 * 64 * soc.platform.smmu.block.timing.memory_ps_per_kib  # what limits without it
    assert elapsed(soc) - free == -(-cycles * 1_000_000 // 600) - dram


@pytest.mark.parametrize("channels", [1, 2])
def test_cold_transfers_of_one_tbu_wait_for_each_others_walks(channels: int) -> None:
    soc = Mpsoc(memory_bytes=32 << 20)
    driver = Driver(soc)
    driver.bring_up()
    driver.route(0, 0x14E8, 0, mask=7)
    root = driver.new_table()
    driver.map(root, VA, 0x10_0000, pages=256)
    driver.set_bank(0, root)
    timing = soc.platform.smmu.block.timing

    def run(*numbers: int) -> int:
        driver.invalidate(0, VA)
        soc.bus.write32(driver.register(0, 0x618), 0)  # TLBIALL
        soc.run()
        before = soc.scheduler.now_ps
        for n in numbers:
            base = FPD + n * 0x1_0000
            soc.bus.write64(base + 0x128, VA + n * 0x2_0000)
            soc.bus.write64(base + 0x138, VA + 0x8_0000 + n * 0x2_0000)
            soc.bus.write32(base + 0x130, 0x1_0000)
            soc.bus.write32(base + CTRL2, 1)
        soc.run()
        return soc.scheduler.now_ps - before

    alone = run(0)
    assert alone < 36 * timing.descriptor_read_ps + 20_000_000  # its walks overlap
    if channels == 2:
        assert run(0, 1) > alone
    else:
        soc.bus.write32(FPD + CTRL1, 1 | 1 << 5)
        assert run(0) > alone + 16 * timing.descriptor_read_ps  # one at a time now
