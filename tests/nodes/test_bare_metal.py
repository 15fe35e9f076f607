"""A driver written from the manuals, with nothing but ``soc.bus`` and ``soc.memory``, on a chip out of reset.

SMMU bring-up in Linux' order, page tables built by hand, a ZDMA channel and a PL CDMA through them, a fault
with its syndrome, and the recovery: clear FSR, map, invalidate, try again.
"""

from __future__ import annotations

import pytest

from support.bare_metal import FAR, FSR, FSYNR0, SMMU, TRANSLATION_FAULT, Driver
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
