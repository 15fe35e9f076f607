"""A driver written from the manuals, with nothing but ``soc.bus`` and ``soc.memory``, on a chip out of reset.

SMMU bring-up in Linux' order, page tables built by hand, a ZDMA channel (also with descriptor lists) and a PL
CDMA through them, faults with their syndromes, and both ways of recovery: the transfer was terminated (clear
FSR, map, invalidate, start it again), or it is stalled (map, invalidate, clear FSR, RESUME).
"""

from __future__ import annotations

import pytest

from support.bare_metal import (
    CR0,
    FAR,
    FSR,
    FSYNR0,
    GFSR,
    IDR0,
    IDR1,
    IDR2,
    MULTI,
    RETRY,
    SMMU,
    SS,
    TERMINATE,
    TRANSLATION_FAULT,
    Driver,
)
from unimem_node import Mpsoc

FPD0, CDMA = 0xFD50_0000, 0xA000_0000
VA_SRC, VA_DST = 0x12_3456_7000, 0x7F_FFFF_D000
FILE = bytes(i * i & 0xFF for i in range(3 * 4096))


@pytest.fixture
def soc() -> Mpsoc:
    soc = Mpsoc(platform="zynqmp")
    soc.memory.write(0x1000_0000, FILE)
    return soc


def zdma(soc: Mpsoc, src: int, dst: int, n: int) -> int:
    """Copy by ZDMA and wait for its interrupt; the ISR."""
    bus = soc.bus
    bus.write32(FPD0 + 0x100, 0xFFF)
    bus.write32(FPD0 + 0x108, 0xFFF)
    bus.write32(FPD0 + 0x128, src & 0xFFFF_FFFF)
    bus.write32(FPD0 + 0x12C, src >> 32)
    bus.write32(FPD0 + 0x130, n)
    bus.write32(FPD0 + 0x138, dst & 0xFFFF_FFFF)
    bus.write32(FPD0 + 0x13C, dst >> 32)
    bus.write32(FPD0 + 0x200, 1)
    soc.run()
    assert 124 in soc.interrupts.pending()
    return bus.read32(FPD0 + 0x100)


def test_reset_state_bypasses(soc: Mpsoc) -> None:
    assert soc.bus.read32(SMMU + 0x00) == 0x0020_0001
    assert zdma(soc, 0x1000_0000, 0x2000_0000, len(FILE)) == 1 << 10
    assert soc.memory.read(0x2000_0000, len(FILE)) == FILE


def test_bring_up_map_copy_fault_recover(soc: Mpsoc) -> None:
    driver = Driver(soc)
    driver.bring_up()
    root = driver.new_table()
    driver.map(root, VA_SRC, 0x1000_0000, pages=3, read_only=True)
    driver.map(root, VA_DST, 0x2000_0000)
    driver.map(root, VA_DST + 0x1000, 0x8_0000_0000)  # above 4 GiB, and the third page is missing
    driver.set_bank(0, root)
    driver.route(0, 0x14E8, 0)

    assert zdma(soc, VA_SRC, VA_DST, len(FILE)) == 1 << 9 | 1 << 10  # AXI_WR_DATA, DONE
    assert soc.bus.read32(FPD0 + 0x11C) == 3  # done with error
    assert soc.bus.read32(FPD0 + 0x188) == 0x2000  # TOTAL_BYTE
    assert soc.memory.read(0x2000_0000, 4096) == FILE[:4096]
    assert soc.memory.read(0x8_0000_0000, 4096) == FILE[4096:8192]

    assert soc.interrupts.pending() == [124, 155]
    assert soc.bus.read32(driver.register(0, FSR)) == 0x402  # AArch64, translation fault
    assert soc.bus.read64(driver.register(0, FAR)) == VA_DST + 0x2000
    assert soc.bus.read32(driver.register(0, FSYNR0)) & 0x13 == 0x13  # a write, at level 3
    assert soc.bus.read32(SMMU + 0x1400) & 0x7FFF == 0x14E8  # CBFRSYNRA0

    driver.clear_fault(0)
    assert soc.interrupts.pending() == [124]
    driver.map(root, VA_DST + 0x2000, 0x2000_5000)
    driver.invalidate(0, VA_DST + 0x2000)

    assert zdma(soc, VA_SRC + 0x2000, VA_DST + 0x2000, 4096) == 1 << 10
    assert soc.bus.read32(FPD0 + 0x11C) == 0
    assert soc.memory.read(0x2000_5000, 4096) == FILE[8192:]
    soc.bus.write32(FPD0 + 0x100, 0xFFF)
    assert soc.interrupts.pending() == []


def test_a_removed_page_works_until_it_is_invalidated(soc: Mpsoc) -> None:
    driver = Driver(soc)
    driver.bring_up()
    root = driver.new_table()
    driver.map(root, VA_SRC, 0x1000_0000, pages=2)
    driver.map(root, VA_DST, 0x2000_0000, pages=2)
    driver.set_bank(0, root)
    driver.route(0, 0x14E8, 0)
    assert zdma(soc, VA_SRC, VA_DST, 16) == 1 << 10
    driver.unmap(root, VA_SRC)
    assert zdma(soc, VA_SRC, VA_DST, 16) == 1 << 10  # stale, as on the chip
    driver.invalidate(0, VA_SRC)
    assert zdma(soc, VA_SRC, VA_DST, 16) == 1 << 8 | 1 << 10
    assert soc.bus.read32(driver.register(0, FSR)) & 0x1FF == TRANSLATION_FAULT


def test_the_pl_and_the_ps_engine_have_their_own_tables(soc: Mpsoc) -> None:
    driver = Driver(soc)
    driver.bring_up()
    for bank, (stream, pa) in enumerate(((0x14E8, 0x2000_0000), (0x200, 0x3000_0000))):
        root = driver.new_table()
        driver.map(root, VA_SRC, 0x1000_0000, pages=3)
        driver.map(root, VA_DST, pa, pages=2)
        driver.set_bank(bank, root)
        driver.route(bank, stream, bank)
    assert zdma(soc, VA_SRC, VA_DST, 8192) == 1 << 10
    soc.bus.write32(CDMA + 0x00, 1 << 12)
    soc.bus.write64(CDMA + 0x18, VA_SRC + 4096)
    soc.bus.write64(CDMA + 0x20, VA_DST)
    soc.bus.write32(CDMA + 0x28, 8192)
    soc.run()
    assert soc.interrupts.pending() == [89, 124]
    assert soc.memory.read(0x2000_0000, 8192) == FILE[:8192]
    assert soc.memory.read(0x3000_0000, 8192) == FILE[4096:]


def test_a_stream_without_an_entry_is_named(soc: Mpsoc) -> None:
    Driver(soc).bring_up()
    assert zdma(soc, 0x1000_0000, 0x2000_0000, 16) == 1 << 8 | 1 << 10
    assert soc.bus.read32(SMMU + 0x48) == 1 << 1  # sGFSR.USF
    assert soc.bus.read64(SMMU + 0x40) == 0x1000_0000  # sGFAR
    assert soc.bus.read32(SMMU + 0x54) & 0x7FFF == 0x14E8  # sGFSYNR1.StreamID
    assert soc.interrupts.pending() == [124, 155]
    soc.bus.write32(SMMU + 0x48, 1 << 1)
    assert soc.interrupts.pending() == [124]


def test_what_a_driver_finds_before_it_starts(soc: Mpsoc) -> None:
    bus, driver = soc.bus, Driver(soc)
    assert bus.read32(SMMU + IDR0) & 0xFF == 48
    assert bus.read32(SMMU + IDR0) >> 14 & 1 == 0  # CTTW: walks are not coherent
    assert bus.read32(SMMU + IDR0) >> 26 & 1 == 1  # ATOSNS: no ATS
    assert bus.read32(SMMU + IDR1) & 0xFF == 16
    assert bus.read32(SMMU + IDR2) >> 12 & 7 == 0b101  # 4 KiB and 64 KiB
    assert driver.probe_stream_bits() == (0x7FFF, 0x7FFF)
    driver.bring_up()
    assert soc.bus.read32(SMMU + CR0) == 1 << 21 | 1 << 12 | 1 << 11 | 1 << 10 | 1 << 2 | 1 << 1
    assert soc.bus.read32(SMMU + GFSR) == 0
    assert soc.now_ns > 500  # a sync takes time, and polling for it lets it pass


#: IOVA of everything a scatter-gather run needs, a page each but for the buffers.
LISTS, GATHER, SCATTER = 0x40_0000_0000, 0x40_0010_0000, 0x40_0020_0000
FRAMES = {LISTS: 0x2800_0000}
FRAMES |= {GATHER + n * 0x1000: 0x2900_0000 + (3 - n) * 0x3000 for n in range(4)}
FRAMES |= {SCATTER + n * 0x1000: 0x2A00_0000 + (n ^ 1) * 0x5000 for n in range(4)}
HOLE = SCATTER + 0x2000
PIECES = [(GATHER + 0x10, 0x1800), (GATHER + 0x3800, 0x700), (GATHER + 0x2001, 0xFFF)]
TOTAL = sum(size for _, size in PIECES)
CONTENT = bytes((n * 7 + (n >> 8)) & 0xFF for n in range(0x4000))
GATHERED = b"".join(CONTENT[va - GATHER : va - GATHER + size] for va, size in PIECES)


def zdma_descriptor(address: int, size: int, control: int = 0) -> bytes:
    """A linear descriptor of 16 bytes: address, size, CMD | INTR | TYPE."""
    return address.to_bytes(8, "little") + size.to_bytes(4, "little") + control.to_bytes(4, "little")


def prepare(soc: Mpsoc, *, stall: bool) -> tuple[Driver, int]:
    """Bring-up, a static map with a hole in it, data, lists; the channel is started and has met the hole."""
    driver = Driver(soc)
    driver.bring_up()
    root = driver.new_table()
    for va, pa in FRAMES.items():
        if va != HOLE:
            driver.map(root, va, pa)
    driver.set_bank(4, root, stall=stall)
    driver.route(9, 0x14E8, 4)
    for n in range(4):
        soc.memory.write(FRAMES[GATHER + n * 0x1000], CONTENT[n * 0x1000 : (n + 1) * 0x1000])
    sources = [zdma_descriptor(va, size) for va, size in PIECES[:-1]]
    sources.append(zdma_descriptor(*PIECES[-1], 2 << 3))  # CMD: stop
    soc.memory.write(FRAMES[LISTS], b"".join(sources))
    soc.memory.write(
        FRAMES[LISTS] + 0x800, zdma_descriptor(SCATTER, 0x20) + zdma_descriptor(SCATTER + 0x40, TOTAL - 0x20)
    )
    soc.bus.write32(FPD0 + 0x108, 1 << 10)  # IEN: DONE
    start_lists(soc)
    return driver, root


def start_lists(soc: Mpsoc) -> None:
    bus = soc.bus
    bus.write32(FPD0 + 0x100, 0xFFF)
    bus.write32(FPD0 + 0x188, 0xFFFF_FFFF)
    bus.write32(FPD0 + 0x110, 0x80 | 1 << 6)  # CTRL0: POINT_TYPE, scatter-gather
    bus.write64(FPD0 + 0x158, LISTS)
    bus.write64(FPD0 + 0x160, LISTS + 0x800)
    bus.write32(FPD0 + 0x200, 1)
    soc.run()


def scattered(soc: Mpsoc) -> bytes:
    """What is in the destination, the gap between its two pieces left out."""
    pages = b"".join(soc.memory.read(FRAMES[SCATTER + n * 0x1000], 0x1000) for n in range(4))
    return pages[:0x20] + pages[0x40 : 0x40 + TOTAL - 0x20]


#: Bytes that fit before the hole: the second piece begins at 0x40.
BEFORE = 0x20 + (HOLE - SCATTER - 0x40)


def check_record(soc: Mpsoc, driver: Driver, fsr: int) -> None:
    bus = soc.bus
    assert bus.read32(driver.register(4, FSR)) == fsr
    assert bus.read64(driver.register(4, FAR)) == HOLE
    assert bus.read32(driver.register(4, FSYNR0)) == 1 << 4 | 3  # a write, level 3
    assert bus.read32(SMMU + 0x1400 + 4 * 4) & 0x7FFF == 0x14E8
    assert scattered(soc)[:BEFORE] == GATHERED[:BEFORE]
    assert not any(scattered(soc)[BEFORE:])
    assert bus.read32(FPD0 + 0x188) == BEFORE  # TOTAL_BYTE


def repair(driver: Driver, root: int) -> None:
    driver.map(root, HOLE, FRAMES[HOLE])
    driver.invalidate(4, HOLE)


def check_end(soc: Mpsoc, driver: Driver) -> None:
    assert soc.bus.read32(FPD0 + 0x100) == 1 << 10  # DONE, and no error
    assert soc.bus.read32(FPD0 + 0x11C) == 0
    assert soc.bus.read32(FPD0 + 0x188) == TOTAL
    assert scattered(soc) == GATHERED
    assert soc.bus.read32(driver.register(4, FSR)) == 0
    assert soc.interrupts.pending() == [124]
    soc.bus.write32(FPD0 + 0x100, 0xFFF)
    assert soc.interrupts.pending() == []


def test_scatter_gather_terminated_and_started_again(soc: Mpsoc) -> None:
    driver, root = prepare(soc, stall=False)
    check_record(soc, driver, 0x402)
    assert soc.bus.read32(FPD0 + 0x100) == 1 << 9 | 1 << 10  # AXI_WR_DATA, DONE
    assert soc.bus.read32(FPD0 + 0x11C) == 3  # done with error
    assert soc.bus.read32(FPD0 + 0x200) == 0  # the channel is off
    assert soc.interrupts.pending() == [124, 155]
    repair(driver, root)
    driver.clear_fault(4)
    start_lists(soc)
    check_end(soc, driver)


def test_scatter_gather_stalled_and_resumed(soc: Mpsoc) -> None:
    driver, root = prepare(soc, stall=True)
    check_record(soc, driver, 0x402 | SS)
    assert soc.bus.read32(FPD0 + 0x100) == 0  # the channel does not know
    assert soc.bus.read32(FPD0 + 0x11C) == 2  # busy
    assert soc.interrupts.pending() == [155]
    repair(driver, root)
    soc.run()
    assert soc.bus.read32(FPD0 + 0x11C) == 2  # mapping alone wakes nobody
    driver.resume(4, RETRY)
    soc.run()
    check_end(soc, driver)


def test_scatter_gather_stalled_and_resumed_too_early(soc: Mpsoc) -> None:
    """A retry without a mapping faults again, and is recorded again, since FSR was clear."""
    driver, root = prepare(soc, stall=True)
    driver.resume(4, RETRY)
    soc.run()
    check_record(soc, driver, 0x402 | SS)
    soc.bus.write32(driver.register(4, 0x008), RETRY)  # FSR not cleared: MULTI
    soc.run()
    check_record(soc, driver, 0x402 | SS | MULTI)
    repair(driver, root)
    driver.resume(4, RETRY)
    soc.run()
    check_end(soc, driver)


def test_scatter_gather_stalled_and_terminated(soc: Mpsoc) -> None:
    driver, root = prepare(soc, stall=True)
    driver.resume(4, TERMINATE)
    soc.run()
    assert soc.bus.read32(FPD0 + 0x100) == 1 << 9 | 1 << 10
    assert soc.bus.read32(FPD0 + 0x11C) == 3
    assert scattered(soc)[:BEFORE] == GATHERED[:BEFORE]
    assert not any(scattered(soc)[BEFORE:])
    assert soc.interrupts.pending() == [124]
    repair(driver, root)
    start_lists(soc)
    check_end(soc, driver)


def test_a_fault_is_served_from_the_interrupt(soc: Mpsoc) -> None:
    """A handler of the SMMU's interrupt pages in what is missing, while the channel waits."""
    driver, root = Driver(soc), 0
    paged: list[int] = []

    def handler(spi: int) -> None:
        if spi == 155:
            va = soc.bus.read64(driver.register(4, FAR)) & ~0xFFF
            paged.append(va)
            driver.map(root, va, 0x3000_0000 + (va - SCATTER))
            driver.resume(4, RETRY)

    driver.bring_up()
    root = driver.new_table()
    for va, pa in FRAMES.items():
        if va < SCATTER:
            driver.map(root, va, pa)
    soc.memory.write(FRAMES[LISTS], zdma_descriptor(GATHER, 0x1000, 2 << 3))
    soc.memory.write(FRAMES[LISTS] + 0x800, zdma_descriptor(SCATTER + 0xF00, 0x1000))
    soc.memory.write(FRAMES[GATHER], CONTENT[:0x1000])
    driver.set_bank(4, root, stall=True)
    driver.route(9, 0x14E8, 4)
    soc.interrupts.connect_cpu(handler)
    soc.bus.write32(FPD0 + 0x108, 1 << 10)
    start_lists(soc)
    assert paged == [SCATTER, SCATTER + 0x1000]
    assert soc.memory.read(0x3000_0F00, 0x1000) == CONTENT[:0x1000]
    assert soc.bus.read32(FPD0 + 0x100) == 1 << 10
