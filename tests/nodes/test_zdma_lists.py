"""ZDMA scatter-gather: lists of descriptors, pause and continue, and what becomes of bad ones."""

from __future__ import annotations

from dataclasses import replace

import pytest

from support.bare_metal import Driver
from support.zdma import (
    BYTE_OVERFLOW,
    CMD_PAUSE,
    CMD_STOP,
    CONT,
    CONT_ADDR,
    CTRL0,
    CTRL2,
    DATA_ATTR,
    DONE,
    DST_ACCT,
    DST_ACCT_ERR,
    DST_DONE,
    DST_DSCR,
    DST_PYLD,
    DST_START,
    FPD,
    IEN,
    INTR,
    ISR,
    LPD,
    PAUSE,
    RD_DATA,
    RD_DST_DSCR,
    RD_SRC_DSCR,
    SG,
    SRC_ACCT,
    SRC_ACCT_ERR,
    SRC_DONE,
    SRC_DSCR,
    SRC_PYLD,
    SRC_START,
    ST_BUSY,
    ST_DONE,
    ST_ERROR,
    ST_PAUSED,
    STATUS,
    TOTAL_BYTE,
    WR_DATA,
    Dscr,
    put,
    result,
    start,
)
from unimem_node import Mpsoc
from unimem_node.dma import Loads, Patience, ZdmaChannel

DATA = bytes(range(251)) * 100
SRC, DST = 0x10_0000, 0x30_0000
SRC_LIST, DST_LIST = 0x2_0000, 0x4_0000
VA = 0x40_0000_0000


@pytest.fixture(params=[True, False], ids=["fast", "readable"])
def soc(request: pytest.FixtureRequest) -> Mpsoc:
    soc = Mpsoc(memory_bytes=32 << 20, fast=request.param)
    soc.memory.write(SRC, DATA)
    return soc


def go(soc: Mpsoc, src: list[Dscr], dst: list[Dscr], *, base: int = FPD, control: int = 0) -> None:
    put(soc, SRC_LIST, src)
    put(soc, DST_LIST, dst)
    start(soc, SRC_LIST, DST_LIST, base=base, control=control)
    soc.run()


@pytest.mark.parametrize("base", [FPD, LPD])
def test_gather_and_scatter_linear(soc: Mpsoc, base: int) -> None:
    """Three sources into two destinations, none of the borders the same."""
    go(
        soc,
        [Dscr(SRC, 1000), Dscr(SRC + 5000, 7), Dscr(SRC + 2000, 993, CMD_STOP)],
        [Dscr(DST, 300), Dscr(DST + 0x4000, 1700)],
        base=base,
    )
    assert result(soc, base) == (DONE, ST_DONE, 0)
    moved = DATA[:1000] + DATA[5000:5007] + DATA[2000:2993]
    assert soc.memory.read(DST, 301) == moved[:300] + b"\0"
    assert soc.memory.read(DST + 0x4000, 1701) == moved[300:] + b"\0"
    assert soc.bus.read32(base + TOTAL_BYTE) == 2000


def test_linked_and_linear_descriptors_mix(soc: Mpsoc) -> None:
    put(soc, 0x5000, [Dscr(SRC + 200, 100)])
    put(soc, 0x8020, [Dscr(SRC + 400, 100, CMD_STOP)])
    put(soc, 0x5020, [Dscr(SRC + 300, 100, link=0x8020)])
    put(soc, SRC_LIST, [Dscr(SRC, 100)])
    put(soc, SRC_LIST + 0x20, [Dscr(SRC + 100, 100, link=0x5000)])
    put(soc, SRC_LIST + 0x10, [Dscr(SRC + 100, 50)])
    put(soc, 0x5010, [Dscr(SRC + 350, 50)])
    put(soc, DST_LIST, [Dscr(DST, 60, link=0x9000)])
    put(soc, 0x9000, [Dscr(DST + 60, 540)])
    start(soc, SRC_LIST, DST_LIST)
    soc.run()
    assert result(soc) == (DONE, ST_DONE, 0)
    spans = [(0, 100), (100, 50), (100, 100), (200, 100), (350, 50), (300, 100), (400, 100)]
    want = b"".join(DATA[at : at + n] for at, n in spans)
    assert soc.memory.read(DST, 600) == want
    assert soc.bus.read32(FPD + TOTAL_BYTE) == 600


def test_one_source_feeds_many_destinations_and_back(soc: Mpsoc) -> None:
    go(soc, [Dscr(SRC, 640, CMD_STOP)], [Dscr(DST + 0x1000 * n, 64) for n in range(10)])
    for n in range(10):
        assert soc.memory.read(DST + 0x1000 * n, 65) == DATA[64 * n : 64 * n + 64] + b"\0"
    go(
        soc,
        [Dscr(DST + 0x1000 * n, 64, CMD_STOP * (n == 9)) for n in range(10)],
        [Dscr(DST + 0x10_0000, 640)],
    )
    assert soc.memory.read(DST + 0x10_0000, 640) == DATA[:640]


def test_descriptors_are_not_written_back(soc: Mpsoc) -> None:
    src, dst = [Dscr(SRC, 10, CMD_STOP | INTR)], [Dscr(DST, 10, INTR)]
    go(soc, src, dst)
    assert soc.memory.read(SRC_LIST, 16) == src[0].bytes()
    assert soc.memory.read(DST_LIST, 16) == dst[0].bytes()


def test_the_current_registers_follow_the_list(soc: Mpsoc) -> None:
    go(soc, [Dscr(SRC, 16), Dscr(SRC + 0x100, 32, CMD_STOP)], [Dscr(DST, 24), Dscr(DST + 0x100, 100)])
    read64 = soc.bus.read64
    assert (read64(FPD + SRC_PYLD), read64(FPD + DST_PYLD)) == (SRC + 0x120, DST + 0x100 + 24)
    assert (read64(FPD + SRC_DSCR), read64(FPD + DST_DSCR)) == (SRC_LIST + 0x20, DST_LIST + 0x20)


def test_mode_and_fixed_bursts_are_of_simple_mode(soc: Mpsoc) -> None:
    soc.bus.write32(FPD + DATA_ATTR, 0)  # FIXED on both sides
    go(soc, [Dscr(SRC, 100, CMD_STOP)], [Dscr(DST, 100)], control=2 << 4)  # read-only
    assert soc.memory.read(DST, 100) == DATA[:100]


# ---- pause and continue


def test_a_pause_keeps_everything_and_continues_behind_it(soc: Mpsoc) -> None:
    go(
        soc,
        [Dscr(SRC, 100, CMD_PAUSE), Dscr(SRC + 100, 50, CMD_STOP)],
        [Dscr(DST, 120), Dscr(DST + 0x1000, 99)],
    )
    assert result(soc) == (PAUSE, ST_PAUSED, 1)
    assert soc.memory.read(DST, 101) == DATA[:100] + b"\0"
    assert soc.bus.read64(FPD + SRC_DSCR) == SRC_LIST  # it stays at the descriptor that paused
    soc.run()
    assert soc.bus.read32(FPD + STATUS) == ST_PAUSED
    soc.bus.write32(FPD + CTRL2, 1)  # EN without CONT changes nothing
    soc.run()
    assert soc.bus.read32(FPD + STATUS) == ST_PAUSED
    soc.bus.write32(FPD + CTRL0, 0x80 | SG | CONT)
    assert soc.bus.read32(FPD + CTRL0) == 0x80 | SG  # CONT clears itself
    assert soc.bus.read32(FPD + STATUS) == ST_BUSY
    soc.run()
    assert result(soc) == (PAUSE | DONE, ST_DONE, 0)
    assert soc.memory.read(DST, 120) == DATA[:120]
    assert soc.memory.read(DST + 0x1000, 31) == DATA[120:150] + b"\0"
    assert soc.bus.read32(FPD + TOTAL_BYTE) == 150


def test_continue_with_cont_addr_takes_both_lists_from_the_start_registers(soc: Mpsoc) -> None:
    go(soc, [Dscr(SRC, 100, CMD_PAUSE), Dscr(SRC, 0)], [Dscr(DST, 120)])
    put(soc, 0x5000, [Dscr(SRC + 500, 10, CMD_STOP)])
    put(soc, 0x6000, [Dscr(DST + 0x1000, 20)])
    soc.bus.write64(FPD + SRC_START, 0x5000)
    soc.bus.write64(FPD + DST_START, 0x6000)
    soc.bus.write32(FPD + CTRL0, 0x80 | SG | CONT | CONT_ADDR)
    assert soc.bus.read32(FPD + CTRL0) == 0x80 | SG | CONT_ADDR
    soc.run()
    assert result(soc) == (PAUSE | DONE, ST_DONE, 0)
    assert soc.memory.read(DST + 0x1000, 11) == DATA[500:510] + b"\0"
    assert soc.memory.read(DST + 100, 20) == bytes(20)


def test_continue_while_disabled_ends_the_pause_and_the_next_start_is_anew(soc: Mpsoc) -> None:
    go(soc, [Dscr(SRC, 100, CMD_PAUSE), Dscr(SRC, 100, CMD_STOP)], [Dscr(DST, 1000)])
    soc.bus.write32(FPD + CTRL2, 0)
    assert soc.bus.read32(FPD + STATUS) == ST_PAUSED
    soc.bus.write32(FPD + CTRL0, 0x80 | SG | CONT)
    assert soc.bus.read32(FPD + STATUS) == ST_DONE
    soc.run()
    assert soc.bus.read32(FPD + TOTAL_BYTE) == 100
    soc.bus.write32(FPD + ISR, 0xFFF)
    soc.bus.write32(FPD + CTRL2, 1)
    soc.run()
    assert result(soc) == (PAUSE, ST_PAUSED, 1)  # it began at SRC_START again
    assert soc.bus.read32(FPD + TOTAL_BYTE) == 200


def test_enable_with_cont_set_before_leaves_the_pause(soc: Mpsoc) -> None:
    go(soc, [Dscr(SRC, 100, CMD_PAUSE), Dscr(SRC + 100, 1, CMD_STOP)], [Dscr(DST, 1000)], control=CONT)
    assert soc.bus.read32(FPD + STATUS) == ST_PAUSED  # CONT of before the pause does not count
    soc.bus.write32(FPD + CTRL2, 1)
    soc.run()
    assert result(soc) == (PAUSE | DONE, ST_DONE, 0)
    assert soc.memory.read(DST, 101) == DATA[:101]


def test_n24_a_pause_interrupt_handler_continues(soc: Mpsoc) -> None:
    """N24: resumed from PAUSE by CONT while enabled; data before status, status before interrupt."""
    seen = []

    def handler(spi: int) -> None:
        isr = soc.bus.read32(FPD + ISR)
        seen.append((isr, soc.bus.read32(FPD + STATUS), soc.memory.read(DST, 300).rstrip(b"\0")))
        soc.bus.write32(FPD + ISR, isr)
        if isr & PAUSE:
            soc.bus.write32(FPD + CTRL0, 0x80 | SG | CONT)

    soc.interrupts.connect_cpu(handler)
    soc.bus.write32(FPD + IEN, PAUSE | DONE)
    go(
        soc,
        [Dscr(SRC + 1, 100, CMD_PAUSE), Dscr(SRC + 101, 100, CMD_PAUSE), Dscr(SRC + 201, 10, CMD_STOP)],
        [Dscr(DST, 1000)],
    )
    assert seen == [
        (PAUSE, ST_PAUSED, DATA[1:101]),
        (PAUSE, ST_PAUSED, DATA[1:201]),
        (DONE, ST_DONE, DATA[1:211]),
    ]


# ---- interrupts and counters


def test_intr_descriptors_are_counted_and_raise_their_bits(soc: Mpsoc) -> None:
    go(
        soc,
        [Dscr(SRC, 10, INTR), Dscr(SRC, 10), Dscr(SRC, 10, INTR | CMD_STOP)],
        [Dscr(DST, 5, INTR), Dscr(DST, 25, INTR), Dscr(DST, 9, INTR)],
    )
    assert soc.bus.read32(FPD + ISR) == DONE | SRC_DONE | DST_DONE
    assert [soc.bus.read32(FPD + SRC_ACCT) for _ in range(2)] == [2, 0]
    assert [soc.bus.read32(FPD + DST_ACCT) for _ in range(2)] == [2, 0]


def test_n19_the_account_counters_overflow_at_eight_bits(soc: Mpsoc) -> None:
    go(
        soc,
        [Dscr(SRC, 1, INTR | CMD_STOP * (n == 256)) for n in range(257)],
        [Dscr(DST, 257)],
    )
    assert soc.bus.read32(FPD + ISR) == DONE | SRC_DONE | SRC_ACCT_ERR
    assert soc.bus.read32(FPD + SRC_ACCT) == 1
    soc.bus.write32(FPD + ISR, 0xFFF)
    go(soc, [Dscr(SRC, 256, CMD_STOP)], [Dscr(DST, 1, INTR)] * 256)
    assert soc.bus.read32(FPD + ISR) == DONE | DST_DONE | DST_ACCT_ERR
    assert soc.bus.read32(FPD + DST_ACCT) == 0


def test_a_descriptors_interrupt_comes_when_its_data_is_there_not_at_the_end(soc: Mpsoc) -> None:
    seen = []

    def handler(spi: int) -> None:
        seen.append((soc.bus.read32(FPD + SRC_ACCT), soc.memory.read(DST, 0x2000).rstrip(b"\0"), soc.now_ns))
        soc.bus.write32(FPD + ISR, 0xFFF)

    soc.interrupts.connect_cpu(handler)
    soc.bus.write32(FPD + IEN, SRC_DONE)
    go(
        soc,
        [Dscr(SRC, 250, INTR), Dscr(SRC + 250, 3000), Dscr(SRC + 3250, 10, INTR), Dscr(SRC, 4000, CMD_STOP)],
        [Dscr(DST, 0x4000)],
    )
    assert [(count, len(data)) for count, data, _ in seen] == [(1, 250), (1, 3260)]
    assert seen[0][2] < seen[1][2] < soc.now_ns
    assert result(soc)[0] == DONE


def test_an_interrupt_handler_may_stop_the_channel(soc: Mpsoc) -> None:
    soc.interrupts.connect_cpu(lambda _: (soc.bus.write32(FPD + CTRL2, 0), soc.bus.write32(FPD + ISR, 0xFFF)))
    soc.bus.write32(FPD + IEN, SRC_DONE)
    go(soc, [Dscr(SRC, 10, INTR), Dscr(SRC, 10, CMD_STOP)], [Dscr(DST, 100)])
    assert result(soc) == (0, ST_DONE, 0)
    assert soc.bus.read32(FPD + TOTAL_BYTE) == 10


def test_the_byte_counter_overflows(soc: Mpsoc) -> None:
    soc.zdma["fpd0"].registers.poke("TOTAL_BYTE", 0xFFFF_FFFF)
    go(soc, [Dscr(SRC, 3), Dscr(SRC, 4, CMD_STOP)], [Dscr(DST, 100)])
    assert soc.bus.read32(FPD + ISR) == DONE | BYTE_OVERFLOW
    assert soc.bus.read32(FPD + TOTAL_BYTE) == 6


# ---- N20: what cannot be a list ends in bounded time


@pytest.mark.parametrize(
    ("src", "dst", "bit", "moved"),
    [
        ([Dscr(SRC, 0, CMD_STOP)], [Dscr(DST, 8)], RD_SRC_DSCR, 0),
        ([Dscr(SRC, 8), Dscr(SRC, 0, CMD_STOP)], [Dscr(DST, 8)], RD_SRC_DSCR, 8),
        ([Dscr(SRC, 16, CMD_STOP)], [Dscr(DST, 8), Dscr(DST, 0)], RD_DST_DSCR, 8),
        ([Dscr(SRC, 8, link=SRC_LIST + 8)], [Dscr(DST, 8)], RD_SRC_DSCR, 8),
        ([Dscr(SRC, 8), Dscr(SRC, 8, CMD_STOP, link=0)], [Dscr(DST, 80)], RD_SRC_DSCR, 8),
        ([Dscr(SRC, 80, CMD_STOP)], [Dscr(DST, 8, link=DST_LIST + 4)], RD_DST_DSCR, 8),
    ],
    ids=[
        "zero",
        "zero later",
        "zero destination",
        "misaligned",
        "linked at 16 mod 32",
        "destination",
    ],
)
def test_n20_a_bad_descriptor_ends_the_channel_where_it_is(
    soc: Mpsoc, src: list[Dscr], dst: list[Dscr], bit: int, moved: int
) -> None:
    go(soc, src, dst)
    assert result(soc) == (bit | DONE, ST_ERROR, 0)
    assert soc.bus.read32(FPD + TOTAL_BYTE) == moved
    assert soc.memory.read(DST, moved + 1) == DATA[:8][:moved] + b"\0"
    go(soc, [Dscr(SRC, 16, CMD_STOP)], [Dscr(DST + 64, 16)])  # and the channel works again
    assert soc.memory.read(DST + 64, 16) == DATA[:16]


def cyclic(soc: Mpsoc, patience: Patience) -> ZdmaChannel:
    """A channel of its own with little patience, in place of FPD channel 1; its list is a ring."""
    spec = replace(soc.zdma["fpd1"].spec, name="impatient", base=0xFE00_0000, patience=patience)
    channel = ZdmaChannel(
        soc.smmu, soc.scheduler, soc.interrupts.line(spec.spi), spec, loads=Loads(soc.smmu.spec)
    )
    soc.bus.attach(spec.name, spec.base, spec.size, channel)
    put(soc, SRC_LIST, [Dscr(SRC, 100, link=SRC_LIST)])
    put(soc, DST_LIST, [Dscr(DST, 64, link=DST_LIST)])
    start(soc, SRC_LIST, DST_LIST, base=spec.base)
    return channel


def test_n20_a_ring_runs_until_nobody_has_looked_for_long(soc: Mpsoc) -> None:
    channel = cyclic(soc, Patience(descriptors=5000, bytes=1 << 40))
    soc.run()
    assert result(soc, channel.spec.base) == (RD_SRC_DSCR | DONE, ST_ERROR, 0)
    moved = soc.bus.read32(channel.spec.base + TOTAL_BYTE)
    assert 5000 // 3 * 100 < moved < 8000 // 2 * 100


def test_a_ring_that_is_looked_at_runs_for_ever_and_stops_when_told(soc: Mpsoc) -> None:
    channel = cyclic(soc, Patience(descriptors=10_000, bytes=1 << 40))
    base = channel.spec.base
    before = 0
    for n in range(1, 15):
        soc.run(until_ns=n * 50_000)
        moved = soc.bus.read32(base + TOTAL_BYTE)
        assert moved > before
        before = moved
    assert before > 10_000 // 3 * 100  # longer than it would go unattended
    assert soc.bus.read32(base + STATUS) == ST_BUSY
    soc.bus.write32(base + CTRL2, 0)
    soc.run()
    assert soc.now_ns == 700_000
    assert result(soc, base) == (0, ST_DONE, 0)


def test_bytes_run_out_of_patience_too(soc: Mpsoc) -> None:
    channel = cyclic(soc, Patience(descriptors=1 << 40, bytes=50_000))
    soc.run()
    assert channel.registers.peek("STATUS") == ST_ERROR


# ---- through the SMMU: descriptors are accesses of the channel's stream


@pytest.fixture
def driver(soc: Mpsoc) -> Driver:
    driver = Driver(soc)
    driver.bring_up()
    driver.route(0, 0x14E8, 0)
    return driver


def mapped(driver: Driver, *, skip: int = -1) -> int:
    """Pages at VA: 0 source list, 1 destination list, 2 to 4 source, 5 to 7 destination; returns the root."""
    root = driver.new_table()
    frames = [
        SRC_LIST,
        DST_LIST,
        *(SRC + n * 0x1000 for n in range(3)),
        *(DST + n * 0x1000 for n in range(3)),
    ]
    for n, frame in enumerate(frames):
        if n != skip:
            driver.map(root, VA + n * 0x1000, frame, read_only=n < 5)
    driver.set_bank(0, root)
    return root


def go_virtual(soc: Mpsoc, sizes: tuple[int, ...] = (0x1800, 0x1000)) -> None:
    src, dst = VA + 0x2000, VA + 0x5000
    put(soc, SRC_LIST, [Dscr(src, sizes[0]), Dscr(src + sizes[0], sizes[1], CMD_STOP)])
    put(soc, DST_LIST, [Dscr(dst, sum(sizes))])
    start(soc, VA, VA + 0x1000)
    soc.run()


def test_lists_and_data_by_virtual_addresses(soc: Mpsoc, driver: Driver) -> None:
    mapped(driver)  # lists and source are read-only: a fetch is a read
    go_virtual(soc)
    assert result(soc) == (DONE, ST_DONE, 0)
    assert soc.memory.read(DST, 0x2800) == DATA[:0x2800]
    assert soc.smmu.counters()["faults"] == 0


@pytest.mark.parametrize(
    ("hole", "bit", "moved", "far"),
    [
        (0, RD_SRC_DSCR, 0, VA),
        (1, RD_DST_DSCR, 0, VA + 0x1000),
        (3, RD_DATA, 0x1000, VA + 0x3000),
        (6, WR_DATA, 0x1000, VA + 0x6000),
    ],
)
def test_n18_a_fault_ends_the_channel_and_the_registers_say_where(
    soc: Mpsoc, driver: Driver, hole: int, bit: int, moved: int, far: int
) -> None:
    mapped(driver, skip=hole)
    go_virtual(soc)
    assert result(soc) == (bit | DONE, ST_ERROR, 0)
    assert soc.bus.read32(FPD + TOTAL_BYTE) == moved
    assert soc.memory.read(DST, moved + 1) == DATA[:moved] + b"\0"
    assert soc.bus.read64(driver.register(0, 0x60)) == far
    assert soc.bus.read32(driver.register(0, 0x68)) >> 4 & 1 == (hole == 6)
    assert soc.bus.read64(FPD + SRC_DSCR) == VA
    if moved:
        assert soc.bus.read64(FPD + SRC_PYLD) == VA + 0x3000
        assert soc.bus.read64(FPD + DST_PYLD) == VA + 0x6000


def test_a_descriptor_that_the_smmu_answers_with_zeros_is_bad(soc: Mpsoc, driver: Driver) -> None:
    root = mapped(driver, skip=0)
    driver.set_bank(0, root, abort=False)  # CFRE = 0: reads give zeros
    go_virtual(soc)
    assert result(soc) == (RD_SRC_DSCR | DONE, ST_ERROR, 0)


def test_a_list_in_no_memory(soc: Mpsoc) -> None:
    start(soc, 0x7_0000_0000, DST_LIST)
    soc.run()
    assert result(soc) == (RD_SRC_DSCR | DONE, ST_ERROR, 0)


def test_long_lists_are_moved_in_batches(soc: Mpsoc) -> None:
    n = 3000  # more than one call fetches
    go(soc, [Dscr(SRC + 8 * i, 8, CMD_STOP * (i == n - 1)) for i in range(n)], [Dscr(DST, 1 << 20)])
    assert result(soc) == (DONE, ST_DONE, 0)
    assert soc.memory.read(DST, 8 * n + 1) == DATA[: 8 * n] + b"\0"
