"""Every register of a ZDMA channel: reset, what sticks, what clears it (typed from xzdma_hw.h, UG1085)."""

from __future__ import annotations

import pytest

from support.zdma import FPD, LPD
from unimem_node import Mpsoc

#: name, offset, reset, bits that software can set
ROWS = [
    ("ERR_CTRL", 0x000, 0, 0x1),
    ("CH_ECO", 0x004, 0, 0xFFFF_FFFF),
    ("ISR", 0x100, 0, 0),
    ("IMR", 0x104, 0xFFF, 0),
    ("IEN", 0x108, 0, 0),
    ("IDS", 0x10C, 0, 0),
    ("CTRL0", 0x110, 0x80, 0xFE),
    ("CTRL1", 0x114, 0x3FF, 0x3FF),
    ("FCI", 0x118, 0, 0x3F),
    ("STATUS", 0x11C, 0, 0),
    ("DATA_ATTR", 0x120, 0x0483_D20F, 0x0FFF_FFFF),
    ("DSCR_ATTR", 0x124, 0, 0x1FF),
    ("SRC_DSCR_WORD0", 0x128, 0, 0xFFFF_FFFF),
    ("SRC_DSCR_WORD1", 0x12C, 0, 0x0001_FFFF),
    ("SRC_DSCR_WORD2", 0x130, 0, 0x3FFF_FFFF),
    ("SRC_DSCR_WORD3", 0x134, 0, 0x1F),
    ("DST_DSCR_WORD0", 0x138, 0, 0xFFFF_FFFF),
    ("DST_DSCR_WORD1", 0x13C, 0, 0x0001_FFFF),
    ("DST_DSCR_WORD2", 0x140, 0, 0x3FFF_FFFF),
    ("DST_DSCR_WORD3", 0x144, 0, 0x7),
    ("WR_ONLY_WORD0", 0x148, 0, 0xFFFF_FFFF),
    ("WR_ONLY_WORD1", 0x14C, 0, 0xFFFF_FFFF),
    ("WR_ONLY_WORD2", 0x150, 0, 0xFFFF_FFFF),
    ("WR_ONLY_WORD3", 0x154, 0, 0xFFFF_FFFF),
    ("SRC_START_LSB", 0x158, 0, 0xFFFF_FFFF),
    ("SRC_START_MSB", 0x15C, 0, 0x0001_FFFF),
    ("DST_START_LSB", 0x160, 0, 0xFFFF_FFFF),
    ("DST_START_MSB", 0x164, 0, 0x0001_FFFF),
    ("SRC_CUR_PYLD_LSB", 0x168, 0, 0),
    ("SRC_CUR_PYLD_MSB", 0x16C, 0, 0),
    ("DST_CUR_PYLD_LSB", 0x170, 0, 0),
    ("DST_CUR_PYLD_MSB", 0x174, 0, 0),
    ("SRC_CUR_DSCR_LSB", 0x178, 0, 0),
    ("SRC_CUR_DSCR_MSB", 0x17C, 0, 0),
    ("DST_CUR_DSCR_LSB", 0x180, 0, 0),
    ("DST_CUR_DSCR_MSB", 0x184, 0, 0),
    ("TOTAL_BYTE", 0x188, 0, 0),
    ("RATE_CNTL", 0x18C, 0, 0xFFF),
    ("IRQ_SRC_ACCT", 0x190, 0, 0),
    ("IRQ_DST_ACCT", 0x194, 0, 0),
    ("DBG0", 0x198, 0x100, 0),
    ("DBG1", 0x19C, 0, 0),
    ("CTRL2", 0x200, 0, 0),  # EN falls again at once: a size of zero is an error
]
CHANNELS = [("fpd0", FPD), ("fpd7", FPD + 0x7_0000), ("lpd0", LPD), ("lpd7", LPD + 0x7_0000)]


@pytest.fixture(scope="module")
def soc() -> Mpsoc:
    return Mpsoc(memory_bytes=1 << 20, pl_masters=[])


@pytest.mark.parametrize(("name", "offset", "reset", "sticks"), ROWS, ids=[row[0] for row in ROWS])
@pytest.mark.parametrize("channel", [channel for _, channel in CHANNELS], ids=[name for name, _ in CHANNELS])
def test_reset_and_what_sticks(
    soc: Mpsoc, channel: int, name: str, offset: int, reset: int, sticks: int
) -> None:
    soc = Mpsoc(memory_bytes=1 << 20, pl_masters=[])
    assert soc.bus.read32(channel + offset) == reset
    soc.bus.write32(channel + offset, 0xFFFF_FFFF)
    unmasks = {"IEN": 0, "IDS": 0}
    kept = 0 if sticks else reset
    assert soc.bus.read32(channel + offset) == unmasks.get(name, sticks | kept)
    soc.bus.write32(channel + offset, 0)
    assert soc.bus.read32(channel + offset) == kept


def test_the_model_has_these_registers_and_no_others(soc: Mpsoc) -> None:
    words = {
        register.at(n): register.name
        for register in soc.zdma["fpd0"].registers.table
        for n in range(register.count)
    }
    assert sorted(words) == sorted(offset for _, offset, _, _ in ROWS)


def test_ien_and_ids_change_the_mask_bit_by_bit(soc: Mpsoc) -> None:
    for bit in range(12):
        soc.bus.write32(FPD + 0x108, 1 << bit)
        assert soc.bus.read32(FPD + 0x104) == 0xFFF & ~(1 << bit)
        soc.bus.write32(FPD + 0x10C, 1 << bit)
        assert soc.bus.read32(FPD + 0x104) == 0xFFF
    soc.bus.write32(FPD + 0x108, 0xFFFF_F000)
    assert soc.bus.read32(FPD + 0x104) == 0xFFF


@pytest.mark.parametrize("bit", range(12))
def test_each_isr_bit_is_cleared_by_writing_one(soc: Mpsoc, bit: int) -> None:
    registers = soc.zdma["fpd1"].registers
    registers.poke("ISR", 0xFFF)
    soc.bus.write32(FPD + 0x1_0100, 1 << bit)
    assert soc.bus.read32(FPD + 0x1_0100) == 0xFFF & ~(1 << bit)


def test_counters_are_cleared_as_the_manual_says(soc: Mpsoc) -> None:
    registers = soc.zdma["fpd2"].registers
    base = FPD + 0x2_0000
    for name, offset in (("IRQ_SRC_ACCT", 0x190), ("IRQ_DST_ACCT", 0x194)):
        registers.poke(name, 0xAB)
        soc.bus.write32(base + offset, 0xFFFF_FFFF)
        assert [soc.bus.read32(base + offset) for _ in range(2)] == [0xAB, 0]
    registers.poke("TOTAL_BYTE", 0x1234_5678)
    soc.bus.write32(base + 0x188, 0x0000_FFFF)
    assert soc.bus.read32(base + 0x188) == 0x1234_0000
    assert soc.bus.read32(base + 0x188) == 0x1234_0000
