"""ZDMA channels, driven as a driver does: registers over the bus, data in memory."""

from __future__ import annotations

import pytest

from support.bare_metal import PERMISSION_FAULT, TRANSLATION_FAULT, Driver
from unimem_node import Mpsoc
from unimem_node.bus import BusError
from unimem_node.clock import EventLog

FPD, LPD = 0xFD50_0000, 0xFFA8_0000
ISR, IMR, IEN, IDS, CTRL0, STATUS, DATA_ATTR = 0x100, 0x104, 0x108, 0x10C, 0x110, 0x11C, 0x120
SRC, DST, WR_ONLY, SRC_PYLD, DST_PYLD = 0x128, 0x138, 0x148, 0x168, 0x170
TOTAL_BYTE, SRC_ACCT, DST_ACCT, CTRL2 = 0x188, 0x190, 0x194, 0x200

INV_APB, SRC_DONE, DST_DONE, OVERFLOW, SRC_ACCT_ERR = 1 << 0, 1 << 1, 1 << 2, 1 << 3, 1 << 4
RD_SRC_DSCR, RD_DST_DSCR, RD_DATA, WR_DATA, DONE = 1 << 6, 1 << 7, 1 << 8, 1 << 9, 1 << 10
BUSY, ERROR = 2, 3

DATA = bytes(range(251)) * 100
FIXED_READ, FIXED_WRITE = 0x0083_D20F, 0x0483_C20F


@pytest.fixture(params=[True, False], ids=["fast", "readable"])
def soc(request: pytest.FixtureRequest) -> Mpsoc:
    return Mpsoc(memory_bytes=32 << 20, fast=request.param, log=EventLog())


def program(soc: Mpsoc, base: int, src: int, dst: int, n: int) -> None:
    for at, address in ((SRC, src), (DST, dst)):
        soc.bus.write32(base + at, address & 0xFFFF_FFFF)
        soc.bus.write32(base + at + 4, address >> 32)
    soc.bus.write32(base + SRC + 8, n)
    soc.bus.write32(base + CTRL2, 1)


def copy(soc: Mpsoc, base: int, src: int, dst: int, n: int) -> None:
    program(soc, base, src, dst, n)
    soc.run()


@pytest.mark.parametrize("base", [FPD, FPD + 0x7_0000, LPD, LPD + 0x7_0000])
def test_reset_values(base: int, soc: Mpsoc) -> None:
    expected = {IMR: 0xFFF, CTRL0: 0x80, 0x114: 0x3FF, DATA_ATTR: 0x0483_D20F, 0x198: 0x100}
    offsets = [0x000, 0x004, *range(0x100, 0x1A0, 4), 0x200]
    assert {at: soc.bus.read32(base + at) for at in offsets} == {at: expected.get(at, 0) for at in offsets}


@pytest.mark.parametrize(
    ("at", "sticks"),
    [
        (0x000, 0x1), (0x004, 0xFFFF_FFFF), (IMR, 0xFFF), (CTRL0, 0xFE), (0x114, 0x3FF), (0x118, 0x3F),
        (STATUS, 0), (DATA_ATTR, 0x0FFF_FFFF), (0x124, 0x1FF), (0x128, 0xFFFF_FFFF), (0x12C, 0x1_FFFF),
        (0x130, 0x3FFF_FFFF), (0x134, 0x1F), (0x138, 0xFFFF_FFFF), (0x13C, 0x1_FFFF), (0x140, 0x3FFF_FFFF),
        (0x144, 0x7), (0x154, 0xFFFF_FFFF), (0x15C, 0x1_FFFF), (0x164, 0x1_FFFF), (SRC_PYLD, 0), (0x178, 0),
        (TOTAL_BYTE, 0), (0x18C, 0xFFF), (SRC_ACCT, 0), (0x19C, 0),
    ],
)  # fmt: skip
def test_what_software_may_write(at: int, sticks: int, soc: Mpsoc) -> None:
    soc.bus.write32(FPD + at, 0xFFFF_FFFF)
    assert soc.bus.read32(FPD + at) == sticks


def test_copy_out_of_reset(soc: Mpsoc) -> None:
    soc.memory.write(0x1003, DATA)
    copy(soc, FPD, 0x1003, 0x2_0101, len(DATA))
    assert soc.memory.read(0x2_0100, len(DATA) + 2) == b"\0" + DATA + b"\0"
    assert soc.bus.read32(FPD + ISR) == DONE
    assert soc.bus.read32(FPD + STATUS) == 0
    assert soc.bus.read32(FPD + CTRL2) == 0
    assert soc.bus.read32(FPD + TOTAL_BYTE) == len(DATA)
    assert soc.bus.read64(FPD + SRC_PYLD) == 0x1003 + len(DATA)
    assert soc.bus.read64(FPD + DST_PYLD) == 0x2_0101 + len(DATA)
    assert soc.smmu.counters()["bypasses"] > 0


def test_high_memory_and_ocm() -> None:
    soc = Mpsoc(memory_bytes=(2 << 30) + (1 << 20))
    soc.memory.write(0x8_0000_0000, DATA)
    copy(soc, LPD, 0x8_0000_0000, 0xFFFC_0000, len(DATA))
    assert soc.memory.read(0xFFFC_0000, len(DATA)) == DATA


def test_more_than_one_chunk_shows_its_progress(soc: Mpsoc) -> None:
    n = (2 << 20) + 5
    soc.memory.write(0, b"\xa5" * n)
    program(soc, FPD, 0, 0x80_0000, n)
    soc.run(until_ns=150_000)  # 1 MiB takes 109 µs on 128 bit at 600 MHz
    assert soc.bus.read32(FPD + STATUS) == BUSY
    assert soc.bus.read64(FPD + SRC_PYLD) == 2 << 20
    assert soc.bus.read32(FPD + ISR) == 0
    soc.run()
    assert soc.memory.read(0x80_0000, n + 1) == b"\xa5" * n + b"\0"


@pytest.mark.parametrize(("base", "width", "mhz"), [(FPD, 16, 600), (LPD, 8, 500)])
def test_a_transfer_takes_its_time(soc: Mpsoc, base: int, width: int, mhz: int) -> None:
    timing = soc.platform.smmu.block.timing
    copy(soc, base, 0, 0x10_0000, 4096)
    setup = -(-40 * 1_000_000 // mhz)
    data = -(-4096 // width * 1_000_000 // mhz)
    dram = 2 * 4 * timing.memory_ps_per_kib  # the controller reads 4 KiB and writes as much
    data = max(data, dram)
    assert soc.scheduler.now_ps == setup + data + 2 * timing.micro_hit_ps + 2 * timing.memory_latency_ps


def test_n24_data_then_status_then_interrupt(soc: Mpsoc) -> None:
    seen = []
    soc.memory.write(0x1000, DATA)

    def handler(spi: int) -> None:
        seen.append(
            (spi, soc.bus.read32(FPD + STATUS), soc.bus.read32(FPD + ISR), soc.memory.read(0x8000, len(DATA)))
        )
        soc.bus.write32(FPD + ISR, 0xFFF)

    soc.interrupts.connect_cpu(handler)
    soc.bus.write32(FPD + IEN, DONE)
    program(soc, FPD, 0x1000, 0x8000, len(DATA))
    while soc.scheduler.step():
        if soc.bus.read32(FPD + STATUS) != BUSY:
            assert soc.memory.read(0x8000, len(DATA)) == DATA
    assert seen == [(124, 0, DONE, DATA)]
    assert soc.interrupts.pending() == []


@pytest.mark.parametrize(
    ("base", "spi"), [(FPD, 124), (FPD + 0x5_0000, 129), (LPD, 77), (LPD + 0x7_0000, 84)]
)
def test_the_line_is_isr_without_imr(soc: Mpsoc, base: int, spi: int) -> None:
    copy(soc, base, 0, 0x1000, 16)
    assert soc.interrupts.pending() == []
    soc.bus.write32(base + IEN, DONE)
    assert (soc.interrupts.pending(), soc.bus.read32(base + IMR)) == ([spi], 0xFFF & ~DONE)
    soc.bus.write32(base + IDS, DONE)
    assert (soc.interrupts.pending(), soc.bus.read32(base + IMR)) == ([], 0xFFF)
    soc.bus.write32(base + IEN, DONE)
    soc.bus.write32(base + ISR, DONE)
    assert (soc.interrupts.pending(), soc.bus.read32(base + ISR)) == ([], 0)


def test_the_sources_size_governs_both_directions(soc: Mpsoc) -> None:
    soc.memory.write(0x1000, DATA)
    soc.bus.write32(FPD + DST + 8, 7)
    copy(soc, FPD, 0x1000, 0x8000, 100)
    assert soc.memory.read(0x8000, 101) == DATA[:100] + b"\0"


@pytest.mark.parametrize(("base", "width"), [(FPD, 16), (LPD, 8)])
def test_write_only_mode_repeats_the_pattern(soc: Mpsoc, base: int, width: int) -> None:
    pattern = bytes(range(1, 17))
    for n in range(4):
        soc.bus.write32(base + WR_ONLY + 4 * n, int.from_bytes(pattern[4 * n : 4 * n + 4], "little"))
    soc.bus.write32(base + CTRL0, 0x10)
    soc.bus.write32(base + DST + 8, 45)
    copy(soc, base, 0xDEAD_BEEF, 0x8003, 3)
    assert soc.memory.read(0x8003, 46) == (pattern[:width] * 6)[:45] + b"\0"
    assert soc.bus.read32(base + TOTAL_BYTE) == 45


def test_read_only_mode_writes_nothing(soc: Mpsoc) -> None:
    soc.memory.write(0x1000, DATA)
    soc.bus.write32(FPD + CTRL0, 0x20)
    copy(soc, FPD, 0x1000, 0x8000, 200)
    assert soc.memory.read(0x8000, 200) == bytes(200)
    assert (soc.bus.read32(FPD + ISR), soc.bus.read32(FPD + TOTAL_BYTE)) == (DONE, 200)


def test_fixed_source_repeats_one_beat(soc: Mpsoc) -> None:
    soc.memory.write(0x1000, DATA)
    soc.bus.write32(FPD + DATA_ATTR, FIXED_READ)
    copy(soc, FPD, 0x1000, 0x8000, 40)
    assert soc.memory.read(0x8000, 41) == DATA[:16] * 2 + DATA[:8] + b"\0"


def test_fixed_destination_keeps_the_last_beats(soc: Mpsoc) -> None:
    soc.memory.write(0x1000, DATA)
    soc.bus.write32(FPD + DATA_ATTR, FIXED_WRITE)
    copy(soc, FPD, 0x1000, 0x8000, 40)
    assert soc.memory.read(0x8000, 17) == DATA[32:40] + DATA[24:32] + b"\0"
    assert soc.bus.read64(FPD + DST_PYLD) == 0x8000


def test_fixed_write_only(soc: Mpsoc) -> None:
    soc.bus.write32(FPD + DATA_ATTR, FIXED_WRITE)
    soc.bus.write32(FPD + CTRL0, 0x10)
    soc.bus.write32(FPD + WR_ONLY, 0x0403_0201)
    soc.bus.write32(FPD + DST + 8, 1 << 20)
    copy(soc, FPD, 0, 0x8000, 0)
    assert soc.memory.read(0x8000, 17) == b"\1\2\3\4" + bytes(13)


def test_overlapping_ranges_move_in_ascending_order(soc: Mpsoc) -> None:
    soc.memory.write(0x1000, b"abc")
    copy(soc, FPD, 0x1000, 0x1003, 6)
    assert soc.memory.read(0x1000, 9) == b"abcabcabc"


@pytest.mark.parametrize(
    ("ctrl0", "src_size", "bit"),
    [(0x40, 16, RD_SRC_DSCR), (0x00, 0, RD_SRC_DSCR), (0x10, 16, RD_DST_DSCR)],
    ids=["scatter-gather", "zero size", "zero size, write-only"],
)
def test_a_bad_descriptor_is_an_error_at_once(soc: Mpsoc, ctrl0: int, src_size: int, bit: int) -> None:
    soc.bus.write32(FPD + CTRL0, ctrl0)
    copy(soc, FPD, 0x1000, 0x8000, src_size)
    assert soc.bus.read32(FPD + ISR) == bit | DONE
    assert (soc.bus.read32(FPD + STATUS), soc.bus.read32(FPD + CTRL2)) == (ERROR, 0)
    assert soc.bus.read32(FPD + TOTAL_BYTE) == 0
    soc.bus.write32(FPD + CTRL0, 0)
    soc.bus.write32(FPD + ISR, 0xFFF)
    copy(soc, FPD, 0x1000, 0x8000, 16)
    assert (soc.bus.read32(FPD + ISR), soc.bus.read32(FPD + STATUS)) == (DONE, 0)


def test_total_byte_adds_up_and_is_written_to_clear(soc: Mpsoc) -> None:
    copy(soc, FPD, 0, 0x8000, 100)
    copy(soc, FPD, 0, 0x8000, 20)
    assert soc.bus.read32(FPD + TOTAL_BYTE) == 120
    soc.bus.write32(FPD + TOTAL_BYTE, 0xFFFF_FFFF)
    assert soc.bus.read32(FPD + TOTAL_BYTE) == 0


def test_total_byte_overflows(soc: Mpsoc) -> None:
    soc.zdma["fpd0"].registers.poke("TOTAL_BYTE", 0xFFFF_FFF0)
    copy(soc, FPD, 0, 0x8000, 0x20)
    assert soc.bus.read32(FPD + ISR) == DONE | OVERFLOW
    assert soc.bus.read32(FPD + TOTAL_BYTE) == 0x10


def test_n19_account_counters_clear_on_read_and_overflow_at_eight_bits(soc: Mpsoc) -> None:
    soc.bus.write32(FPD + SRC + 12, 4)
    soc.bus.write32(FPD + DST + 12, 4)
    copy(soc, FPD, 0, 0x8000, 16)
    assert soc.bus.read32(FPD + ISR) == DONE | SRC_DONE | DST_DONE
    copy(soc, FPD, 0, 0x8000, 16)
    assert [soc.bus.read32(FPD + SRC_ACCT) for _ in range(2)] == [2, 0]
    assert soc.bus.read32(FPD + DST_ACCT) == 2
    soc.zdma["fpd0"].registers.poke("IRQ_SRC_ACCT", 0xFF)
    copy(soc, FPD, 0, 0x8000, 16)
    assert soc.bus.read32(FPD + ISR) & SRC_ACCT_ERR
    assert soc.bus.read32(FPD + SRC_ACCT) == 0


def test_a_register_that_is_not_there(soc: Mpsoc) -> None:
    assert soc.bus.read32(FPD + 0x300) == 0
    assert soc.bus.read32(FPD + ISR) == INV_APB
    soc.bus.write32(FPD + 0x000, 1)
    with pytest.raises(BusError, match="SLVERR at 0xfd50_0008"):
        soc.bus.write32(FPD + 0x008, 1)


def test_clearing_enable_stops_a_transfer(soc: Mpsoc) -> None:
    program(soc, FPD, 0, 0x80_0000, 3 << 20)
    soc.run(until_ns=50_000)
    soc.bus.write32(FPD + CTRL2, 0)
    soc.run()
    assert soc.now_ns == 50_000
    assert (soc.bus.read32(FPD + STATUS), soc.bus.read32(FPD + ISR)) == (0, 0)
    assert soc.bus.read32(FPD + TOTAL_BYTE) == 1 << 20
    copy(soc, FPD, 0, 0x80_0000, 16)
    assert soc.bus.read32(FPD + ISR) == DONE


def test_enable_while_busy_changes_nothing(soc: Mpsoc) -> None:
    program(soc, FPD, 0, 0x80_0000, 64)
    program(soc, FPD, 0, 0x90_0000, 64)
    soc.run()
    assert soc.bus.read32(FPD + TOTAL_BYTE) == 64


def test_memory_that_is_not_there(soc: Mpsoc) -> None:
    end = 32 << 20
    soc.memory.write(end - 100, DATA[:100])
    copy(soc, FPD, end - 100, 0x8000, 300)
    assert soc.bus.read32(FPD + ISR) == RD_DATA | DONE
    assert soc.bus.read32(FPD + STATUS) == ERROR
    assert soc.memory.read(0x8000, 101) == DATA[:100] + b"\0"
    assert soc.bus.read64(FPD + SRC_PYLD) == end
    copy(soc, FPD, 0x8000, 0x7_0000_0000, 16)
    assert soc.bus.read32(FPD + ISR) == RD_DATA | WR_DATA | DONE


# ---- through the SMMU

VA = 0x40_0000_0000


@pytest.fixture
def driver(soc: Mpsoc) -> Driver:
    driver = Driver(soc)
    driver.bring_up()
    driver.route(0, 0x14E8, 0)
    soc.memory.write(0x10_0000, DATA)
    return driver


def test_pages_are_found_wherever_they_are(soc: Mpsoc, driver: Driver) -> None:
    root = driver.new_table()
    driver.map(root, VA, 0x10_0000, pages=8, read_only=True)
    for n, pa in enumerate((0x30_5000, 0x30_1000, 0x30_9000)):
        driver.map(root, VA + 0x10_0000 + (n << 12), pa)
    driver.set_bank(0, root)
    copy(soc, FPD, VA + 16, VA + 0x10_0800, 9000)
    assert soc.bus.read32(FPD + ISR) == DONE
    moved = b"".join(
        soc.memory.read(pa, n)
        for pa, n in ((0x30_5800, 0x800), (0x30_1000, 0x1000), (0x30_9000, 9000 - 0x1800))
    )
    assert moved == DATA[16:9016]


@pytest.mark.parametrize(("hole", "bit", "wnr"), [(VA, RD_DATA, 0), (VA + 0x10_0000, WR_DATA, 1 << 4)])
def test_n18_a_fault_stops_the_channel_where_it_is(
    soc: Mpsoc, driver: Driver, hole: int, bit: int, wnr: int
) -> None:
    root = driver.new_table()
    driver.map(root, VA, 0x10_0000, pages=3)
    driver.map(root, VA + 0x10_0000, 0x30_0000, pages=3)
    driver.unmap(root, hole + 0x1000)
    driver.set_bank(0, root)
    soc.bus.write32(FPD + IEN, 0xFFF)
    copy(soc, FPD, VA + 4, VA + 0x10_0004, 0x2800)
    assert soc.bus.read32(FPD + ISR) == bit | DONE
    assert soc.bus.read32(FPD + STATUS) == ERROR
    assert soc.interrupts.pending() == [124, 155]
    assert soc.memory.read(0x30_0004, 0x1000) == DATA[4:0x1000] + bytes(4)
    assert soc.bus.read32(FPD + TOTAL_BYTE) == 0xFFC
    assert soc.bus.read64(FPD + SRC_PYLD) == VA + 0x1000
    assert soc.bus.read32(driver.register(0, 0x58)) & 0x1FF == TRANSLATION_FAULT
    assert soc.bus.read64(driver.register(0, 0x60)) == hole + 0x1000
    assert soc.bus.read32(driver.register(0, 0x68)) & (0x3 | 1 << 4) == 3 | wnr


def test_without_abort_reads_give_zeros_and_writes_are_ignored(soc: Mpsoc, driver: Driver) -> None:
    root = driver.new_table()
    driver.map(root, VA, 0x10_0000, pages=4)
    driver.map(root, VA + 0x10_0000, 0x30_0000, pages=4)
    driver.unmap(root, VA + 0x1000)
    driver.map(root, VA + 0x10_2000, 0x30_2000, read_only=True)
    soc.memory.write(0x30_0000, b"\xff" * 0x4000)
    driver.set_bank(0, root, abort=False)
    copy(soc, FPD, VA, VA + 0x10_0000, 0x3800)
    assert soc.bus.read32(FPD + ISR) == DONE
    assert soc.bus.read32(FPD + STATUS) == 0
    assert soc.bus.read32(FPD + TOTAL_BYTE) == 0x3800
    expected = DATA[:0x1000] + bytes(0x1000) + b"\xff" * 0x1000 + DATA[0x3000:0x3800] + b"\xff" * 0x800
    assert soc.memory.read(0x30_0000, 0x4000) == expected
    assert soc.bus.read32(driver.register(0, 0x58)) & (0x1FF | 1 << 31) == TRANSLATION_FAULT | 1 << 31


def test_a_read_only_page_is_not_written_though_it_was_read_before(soc: Mpsoc, driver: Driver) -> None:
    root = driver.new_table()
    driver.map(root, VA, 0x10_0000, read_only=True)
    driver.set_bank(0, root)
    soc.bus.write32(FPD + CTRL0, 0x20)
    copy(soc, FPD, VA, 0, 16)
    assert soc.bus.read32(FPD + STATUS) == 0
    soc.bus.write32(FPD + CTRL0, 0)
    copy(soc, FPD, VA, VA + 0x800, 16)
    assert soc.bus.read32(FPD + STATUS) == ERROR
    assert soc.bus.read32(driver.register(0, 0x58)) & 0x1FF == PERMISSION_FAULT
    assert soc.memory.read(0x10_0800, 16) == DATA[0x800:0x810]


def test_n17_a_transfer_over_a_border_to_a_page_with_other_rights(soc: Mpsoc, driver: Driver) -> None:
    root = driver.new_table()
    driver.map(root, VA, 0x10_0000, pages=2)
    driver.map(root, VA + 0x10_0000, 0x30_0000)
    driver.map(root, VA + 0x10_1000, 0x30_1000, read_only=True)
    driver.set_bank(0, root)
    copy(soc, FPD, VA, VA + 0x10_0FC0, 128)  # one burst of 256 bytes would hold it
    assert soc.bus.read32(FPD + ISR) == WR_DATA | DONE
    assert soc.memory.read(0x30_0FC0, 128) == DATA[:64] + bytes(64)
    assert soc.bus.read32(FPD + TOTAL_BYTE) == 64
    assert soc.bus.read32(driver.register(0, 0x58)) & 0x1FF == PERMISSION_FAULT
    assert soc.bus.read64(driver.register(0, 0x60)) == VA + 0x10_1000


def test_n19_status_codes(soc: Mpsoc, driver: Driver) -> None:
    soc.bus.write32(0xFD80_0000, 1)  # bypass
    program(soc, FPD, 0, 0x8000, 64)
    assert soc.bus.read32(FPD + STATUS) == 2  # busy
    soc.run()
    assert soc.bus.read32(FPD + STATUS) == 0  # done
    copy(soc, FPD, 0x7_0000_0000, 0x8000, 64)
    assert soc.bus.read32(FPD + STATUS) == 3  # done, with an error
    soc.memory.write(0x9000, bytes(8) + b"\4\0\0\0" + b"\x08\0\0\0")
    soc.memory.write(0xA000, bytes(8) + b"\4\0\0\0" + bytes(4))
    for at, value in ((0x158, 0x9000), (0x160, 0xA000)):
        soc.bus.write64(FPD + at, value)
    soc.bus.write32(FPD + CTRL0, 0x40)
    soc.bus.write32(FPD + CTRL2, 1)
    soc.run()
    assert soc.bus.read32(FPD + STATUS) == 1  # paused: CMD of the source's descriptor


def test_each_channel_has_its_own_stream(soc: Mpsoc, driver: Driver) -> None:
    roots = [driver.new_table() for _ in range(3)]
    for n, stream in enumerate((0x14E8, 0x14EA, 0x86F)):
        driver.map(roots[n], VA, 0x10_0000)
        driver.map(roots[n], VA + 0x1000, 0x40_0000 + (n << 12))
        driver.set_bank(n, roots[n])
        driver.route(n, stream, n)
    for base in (FPD, FPD + 0x2_0000, LPD + 0x7_0000):
        copy(soc, base, VA, VA + 0x1000, 32)
        assert soc.bus.read32(base + ISR) == DONE
    assert soc.memory.read(0x40_0000, 0x2020) == (DATA[:32] + bytes(0x1000 - 32)) * 2 + DATA[:32]


def test_a_stream_nobody_routed(soc: Mpsoc, driver: Driver) -> None:
    copy(soc, FPD + 0x1_0000, 0x10_0000, 0x8000, 16)
    assert soc.bus.read32(FPD + 0x1_0000 + ISR) == RD_DATA | DONE
    assert soc.bus.read32(0xFD80_0048) == 1 << 1
    assert soc.bus.read32(0xFD80_0054) & 0x7FFF == 0x14E9
    assert soc.memory.read(0x8000, 16) == bytes(16)


def test_a_mapping_to_no_memory_is_an_external_fault(soc: Mpsoc, driver: Driver) -> None:
    root = driver.new_table()
    driver.map(root, VA, 0x10_0000)
    driver.map(root, VA + 0x1000, 0x7_0000_0000)
    driver.set_bank(0, root)
    copy(soc, FPD, VA, VA + 0x1000, 16)
    assert soc.bus.read32(FPD + ISR) == WR_DATA | DONE
    assert soc.bus.read32(driver.register(0, 0x58)) & 0x1FF == 1 << 4


def test_a_change_after_the_access_was_refused_does_not_alter_what_is_recorded(
    soc: Mpsoc, driver: Driver
) -> None:
    driver.set_bank(0, driver.new_table())
    program(soc, FPD, VA, 0x8000, 16)
    soc.scheduler.step()  # the walk is made and has failed; its time has yet to pass
    assert soc.bus.read32(FPD + STATUS) == BUSY
    soc.bus.write32(0xFD80_0C00, 2 << 16)  # S2CR0.TYPE = fault
    soc.run()
    assert soc.bus.read32(driver.register(0, 0x58)) & 0x1FF == TRANSLATION_FAULT
    assert soc.bus.read32(0xFD80_0048) == 0
    program(soc, FPD, VA, 0x8000, 16)
    soc.scheduler.step()
    driver.route(0, 0x14E8, 0)
    soc.run()
    assert soc.bus.read32(0xFD80_0048) == 1  # sGFSR.ICF, of the route that was in force


def test_a_stream_that_faults_without_abort_reads_zeros_in_bounded_time(soc: Mpsoc, driver: Driver) -> None:
    soc.bus.write32(0xFD80_0000, 1 << 10)  # USFCFG, but neither GFRE nor GFIE
    soc.memory.write(0x8000, b"\xff" * 64)
    copy(soc, FPD + 0x1_0000, 0x10_0000, 0x8000, 3 << 20)
    assert soc.bus.read32(FPD + 0x1_0000 + ISR) == DONE
    assert soc.memory.read(0x8000, 64) == b"\xff" * 64
    assert soc.interrupts.pending() == []


def test_the_log_says_how_transfers_ended() -> None:
    log = EventLog()
    soc = Mpsoc(memory_bytes=1 << 20, name="n7", log=log)
    copy(soc, FPD, 0, 0x1000, 16)
    copy(soc, FPD, 0x10_0000, 0x1000, 16)
    rows = [row for row in log.rows if row.kind.startswith("dma.")]
    assert [(row.node, row.kind, row.fields["engine"], row.fields["bytes"]) for row in rows] == [
        ("n7", "dma.done", "fpd0", 16),
        ("n7", "dma.refused", "fpd0", 0),
    ]
    assert rows[1].fields["reason"] == "read at 0x10_0000: DECERR, no memory there"
