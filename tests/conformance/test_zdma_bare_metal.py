"""A bare-metal program with nothing but `bus` and `memory`: SMMU bring-up, a static map, ZDMA lists, a fault.

What a driver does on the board: bring the SMMU up in the order of Linux' driver, map buffers and descriptor
lists for the channel's stream, let the channel scatter and gather through it, take the fault of a hole in the
map by its registers, repair the map, invalidate, and run the same list again.
"""

from __future__ import annotations

from support.bare_metal import FAR, FSR, FSYNR0, TRANSLATION_FAULT, Driver
from support.zdma import (
    CMD_STOP,
    CTRL2,
    DONE,
    FPD,
    IEN,
    INTR,
    ISR,
    SRC_DONE,
    SRC_DSCR,
    ST_DONE,
    ST_ERROR,
    TOTAL_BYTE,
    WR_DATA,
    Dscr,
    put,
    result,
    start,
)
from unimem_node import Mpsoc

CHANNEL, STREAM, SPI, SMMU_SPI = FPD + 0x5_0000, 0x14ED, 129, 155
IOVA = 0x12_3450_0000
LISTS, SOURCE, DESTINATION = IOVA, IOVA + 0x10_0000, IOVA + 0x20_0000
PAGES = 8


def test_scatter_gather_fault_and_recovery() -> None:
    soc = Mpsoc(memory_bytes=32 << 20)
    driver = Driver(soc)
    driver.bring_up()
    root = driver.new_table()
    frames = {LISTS: 0x40_0000, LISTS + 0x1000: 0x47_0000}
    frames |= {SOURCE + n * 0x1000: 0x50_0000 + (n * 5 % PAGES) * 0x1000 for n in range(PAGES)}
    frames |= {DESTINATION + n * 0x1000: 0x60_0000 + (n * 3 % PAGES) * 0x1000 for n in range(PAGES)}
    for va, pa in frames.items():
        driver.map(root, va, pa)
    hole = DESTINATION + 3 * 0x1000
    driver.unmap(root, hole)
    driver.set_bank(5, root)
    driver.route(7, STREAM, 5)

    data = bytes(i * 31 & 0xFF for i in range(PAGES * 0x1000))
    for n in range(PAGES):
        soc.memory.write(frames[SOURCE + n * 0x1000], data[n * 0x1000 : (n + 1) * 0x1000])

    def at(va: int) -> int:
        return frames[va & ~0xFFF] + (va & 0xFFF)

    # gather odd pieces, backwards; scatter them into two stretches; the second list page is a linked one
    pieces = [(SOURCE + n * 0x1000 + 0x80 * n, 0x900) for n in reversed(range(PAGES - 1))]
    sources = [Dscr(va, size, INTR) for va, size in pieces]
    sources[-1] = sources[-1]._replace(flags=INTR | CMD_STOP)
    put(soc, at(LISTS), sources[:3])
    put(soc, at(LISTS + 0x40), [sources[3]._replace(link=LISTS + 0x1000)])
    put(soc, at(LISTS + 0x30), [Dscr(SOURCE, 0x10)])
    put(soc, at(LISTS + 0x1000), sources[4:])
    total = sum(size for _, size in pieces) + 0x10
    destinations = [Dscr(DESTINATION + 0x10, 0x1FF0), Dscr(DESTINATION + 0x2000, total - 0x1FF0, INTR)]
    put(soc, at(LISTS + 0x800), destinations)
    moved = b"".join(data[va - SOURCE : va - SOURCE + size] for va, size in pieces[:3])
    moved += data[:0x10]
    moved += b"".join(data[va - SOURCE : va - SOURCE + size] for va, size in pieces[3:])

    def arrived() -> bytes:
        pages = [soc.memory.read(at(DESTINATION + n * 0x1000), 0x1000) for n in range(PAGES)]
        return b"".join(pages)[0x10 : 0x10 + total]

    served: list[int] = []

    def interrupt(spi: int) -> None:
        served.append(spi)
        if spi == SPI:
            soc.bus.write32(CHANNEL + ISR, soc.bus.read32(CHANNEL + ISR) & SRC_DONE)
            soc.bus.write32(CHANNEL + 0x10C, DONE)  # IDS: the end is looked at below

    soc.interrupts.connect_cpu(interrupt)
    soc.bus.write32(CHANNEL + IEN, SRC_DONE | DONE)
    start(soc, LISTS, LISTS + 0x800, base=CHANNEL)
    soc.run()

    # the fault: the bank's registers say where, the channel's what became of it
    assert SMMU_SPI in served
    assert SPI in served
    assert soc.bus.read32(driver.register(5, FSR)) & 0x1FF == TRANSLATION_FAULT
    assert soc.bus.read64(driver.register(5, FAR)) == hole
    assert soc.bus.read32(driver.register(5, FSYNR0)) & (1 << 4 | 3) == 1 << 4 | 3  # a write, level 3
    assert soc.bus.read32(0xFD80_1400 + 4 * 5) & 0x7FFF == STREAM
    isr, status, enabled = result(soc, CHANNEL)
    assert isr & (WR_DATA | DONE) == WR_DATA | DONE
    assert (status, enabled) == (ST_ERROR, 0)
    done = soc.bus.read32(CHANNEL + TOTAL_BYTE)
    assert done == hole - DESTINATION - 0x10
    assert arrived() == moved[:done] + bytes(total - done)
    assert LISTS <= soc.bus.read64(CHANNEL + SRC_DSCR) < LISTS + 0x2000

    # recovery: map what was missing, clear the fault, and run the list again
    driver.map(root, hole, frames[hole])
    driver.invalidate(5, hole)
    driver.clear_fault(5)
    soc.bus.write32(CHANNEL + ISR, 0xFFF)
    soc.bus.write32(CHANNEL + TOTAL_BYTE, 0xFFFF_FFFF)
    soc.bus.write32(CHANNEL + CTRL2, 1)
    soc.run()
    isr, status, enabled = result(soc, CHANNEL)
    assert (isr & ~SRC_DONE & ~(1 << 2), status, enabled) == (DONE, ST_DONE, 0)
    assert arrived() == moved
    assert soc.bus.read32(CHANNEL + TOTAL_BYTE) == total
    assert soc.bus.read32(driver.register(5, FSR)) & 0x1FF == 0
