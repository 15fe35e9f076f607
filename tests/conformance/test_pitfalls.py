"""N1 to N24: what other models get wrong, one test each, under the numbers they have in the project's facts.

N1 to N16 and N22 on an SMMU with memory, N13 and N17 to N24 on a whole chip with engines, through registers
and descriptors only.
"""

from __future__ import annotations

import numpy as np
import pytest

from support import bare_metal as bm
from support import zdma as z
from support.smmu_board import (
    BYPASS,
    CBFRSYNRA,
    CFIE,
    CFRE,
    FAR,
    FAULT,
    FPD_DMA,
    FSR,
    FSYNR0,
    GFAR,
    GFSR,
    GFSYNR0,
    GFSYNR1,
    HPC0,
    IPAFAR,
    PAGE_1,
    PAGE_2,
    SMCFCFG,
    TLBIVA,
    TLBIVAL,
    USFCFG,
    Board,
    RawTables,
    cb,
)
from unimem_node import Mpsoc
from unimem_node.mmu.regime import ACCESS_EXECUTE, ACCESS_READ, ACCESS_WRITE
from unimem_node.smmu._fast import translate_many

VA, PA, IPA, PAGE = 0x4000_0000, 0x100_0000, 0x80_0000, 0x1000
READ_ONLY, NO_AF = 1 << 7, 1 << 10
TF, AFF, PF, EF, ASF = 1 << 1, 1 << 2, 1 << 3, 1 << 4, 1 << 7
FAULT_BITS, MULTI, SS = 0x1FE, 1 << 31, 1 << 30
WNR, PTWF = 1 << 4, 1 << 10
SCTLR, RESUME = 0x00, 0x08
CFCFG, HUPCF = 1 << 7, 1 << 8


def one_page(descriptor: int = PA | PAGE_1) -> tuple[Board, RawTables]:
    """Stream HPC0 through bank 0, whose tables map the page at VA with `descriptor`."""
    board = Board()
    tables = RawTables(board)
    tables.put(VA, descriptor)
    board.bank(0, tables.root)
    board.stream(0, HPC0, 0)
    board.enable()
    return board, tables


def nested() -> tuple[Board, RawTables, RawTables]:
    """Bank 0 (stage 1) nested in bank 1 (stage 2), which maps the tables of stage 1 onto themselves."""
    board = Board()
    first, second = RawTables(board), RawTables(board, start=1)
    second.identity(0x10_0000, 0x13_F000, PAGE_2)
    board.stage_2_bank(1, second.root, vmid=1)
    board.bank(0, first.root, vmid=1, kind=3, stage_2=1)
    board.stream(0, HPC0, 0)
    board.enable()
    return board, first, second


def fsr(board: Board, bank: int = 0) -> int:
    return board.read(cb(bank, FSR)) & FAULT_BITS


def test_n1_every_cached_path_repeats_the_permission_check() -> None:
    board, _ = one_page(PA | PAGE_1 | READ_ONLY)
    assert board.pa(VA) == PA  # fills the TLBs
    assert board.fault(VA, ACCESS_WRITE).level == 3
    assert fsr(board) == PF
    assert board.pa(VA) == PA


def test_n2_direct_and_cached_accesses_of_engines_honour_permissions() -> None:
    board, _ = one_page(PA | PAGE_1 | READ_ONLY)
    vas, pas = np.array([VA], np.uint64), np.zeros(1, np.uint64)
    assert translate_many(board.smmu.arrays, 0, 0, vas, ACCESS_READ, pas) == 1
    assert translate_many(board.smmu.arrays, 0, 0, vas, ACCESS_WRITE, pas) == 0

    soc, driver, root = chip()
    driver.map(root, VA, 0x1000_0000, read_only=True)
    for _ in range(2):  # once with cold, once with warm TLBs
        assert simple(soc, VA, VA + 64, 64) == z.WR_DATA | z.DONE
        assert soc.memory.read(0x1000_0040, 64) == bytes(64)
        driver.clear_fault(0)


def test_n3_a_write_only_page_of_stage_2_cannot_be_read() -> None:
    board = Board()
    second = RawTables(board, start=1)
    second.put(IPA, PA | PAGE_2 & ~(1 << 6))
    board.stage_2_bank(1, second.root)
    board.stream(0, HPC0, 1)
    board.enable()
    assert board.pa(IPA, ACCESS_WRITE) == PA
    fault = board.fault(IPA, ACCESS_READ)
    assert (fault.stage, fault.level, fsr(board, 1)) == (2, 3, PF)


def test_n4_streams_can_bypass_and_fault() -> None:
    board, _ = one_page()
    board.stream(1, FPD_DMA, BYPASS)
    board.stream(2, 0x240, FAULT)
    assert board.pa(0x1234_5678, 0, FPD_DMA) == 0x1234_5678
    board.fault(0x1234_5678, 0, 0x240)
    assert board.read(GFSR) == 1 << 0  # ICF
    assert board.read64(GFAR) == 0x1234_5678
    assert board.read(GFSYNR1) == 0x240


def test_n5_unidentified_and_conflicting_streams() -> None:
    board, _ = one_page()
    board.enable(USFCFG | SMCFCFG | 1 << 1)
    board.fault(0x9000, ACCESS_WRITE, 0x777)
    assert board.read(GFSR) == 1 << 1  # USF
    assert (board.read64(GFAR), board.read(GFSYNR1), board.read(GFSYNR0)) == (0x9000, 0x777, 1 << 1)
    board.write(GFSR, 1 << 1)
    board.stream(1, HPC0 & ~0xF, 0, mask=0xF)  # a second entry that matches HPC0
    board.fault(VA)
    assert board.read(GFSR) == 1 << 2  # SMCF
    assert board.read(GFSYNR1) == HPC0
    board.write(GFSR, 1 << 2)
    board.enable(SMCFCFG)
    assert board.pa(0x9000, 0, 0x777) == 0x9000  # USFCFG = 0: bypass


def test_n6_a_stage_1_fault_in_a_nested_bank_stays_a_fault() -> None:
    board, first, _ = nested()
    first.put(VA, 0)
    fault = board.fault(VA)
    assert (fault.stage, fault.level, fault.context_bank) == (1, 3, 0)
    assert (fsr(board, 0), fsr(board, 1)) == (TF, 0)
    assert board.read64(cb(0, FAR)) == VA


def test_n7_a_table_of_stage_1_that_stage_2_does_not_map() -> None:
    board, first, second = nested()
    first.put(VA, IPA | PAGE_1)
    second.put(IPA, PA | PAGE_2)
    where = first.entry(VA)  # the last-level descriptor
    second.put(where & ~0xFFF, 0)
    fault = board.fault(VA + 5, ACCESS_WRITE)
    assert (fault.stage, fault.ptwf, fault.ipa) == (2, True, where)
    assert (fsr(board, 0), fsr(board, 1)) == (0, TF)
    assert board.read64(cb(1, IPAFAR)) == where
    assert board.read64(cb(1, FAR)) == VA + 5
    synr = board.read(cb(1, FSYNR0))
    assert synr & PTWF
    assert synr >> 16 & 0xFF == 0  # S1CBNDX: bank 0
    assert synr & 3 == 3


def test_n8_concatenated_start_tables_are_different_tables() -> None:
    board = Board()
    pages = [board.page() for _ in range(4)]
    root = next(page for page in pages if page % 0x2000 == 0)  # two tables: 8 KiB aligned
    last = [RawTables(board, start=2) for _ in range(2)]
    for n, table in enumerate(last):
        board.memory.write64(root + n * 0x1000, table.root | 3)
        table.put(0, PA + n * PAGE | PAGE_2)
    # 4 KiB, 40-bit IPA (T0SZ 24), SL0 = 1: two tables at level 1, each for 512 GiB.
    board.stage_2_bank(1, root, tcr=24 | 1 << 6 | 5 << 16)
    board.stream(0, HPC0, 1)
    board.enable()
    assert board.pa(0) == PA
    assert board.pa(1 << 39) == PA + PAGE


def test_n9_stage_2_checks_its_input_range() -> None:
    board = Board()
    second = RawTables(board, start=1)
    second.put(0, PA | PAGE_2)
    board.stage_2_bank(1, second.root)  # 39 bits
    board.stream(0, HPC0, 1)
    board.enable()
    assert board.pa(0) == PA
    fault = board.fault(1 << 39)
    assert (fault.stage, fault.level, fsr(board, 1)) == (2, 0, TF)


def test_n10_each_register_tells_what_is_its_own() -> None:
    board, first, second = nested()
    first.put(VA, IPA | PAGE_1)
    board.fault(VA + PAGE + 0x10, ACCESS_WRITE)  # stage 1, level 3
    assert board.read64(cb(0, FAR)) == VA + PAGE + 0x10
    assert board.read64(cb(0, IPAFAR)) == 0, "only stage 2 knows an IPA"
    assert board.read(cb(0, FSYNR0)) == 3 | WNR
    assert board.read(CBFRSYNRA) == HPC0
    board.fault(VA + 0x20)  # stage 2: the IPA is not mapped; its tables end at level 3 of that region
    assert board.read64(cb(1, FAR)) == VA + 0x20
    assert board.read64(cb(1, IPAFAR)) & ~0xFFF == IPA
    assert board.read(cb(1, FSYNR0)) & (3 | WNR | PTWF) == 2, "a read, level 2, not on a walk"
    assert board.read(CBFRSYNRA + 4) == HPC0
    second.put(IPA, PA | PAGE_2)
    assert board.pa(VA) == PA


def test_n11_each_kind_has_its_bit_and_its_place_in_the_order() -> None:
    far = 0x1_0000_0000  # beyond the 32 bits of output that PASIZE = 0 allows
    board, tables = one_page()
    board.bank(0, tables.root, tcr2=0 | 1 << 4 | 7 << 15)
    seen = []
    # All of it wrong at once, then one thing after the other mended: the order in which they are found.
    for descriptor in (
        (far | PAGE_1 | READ_ONLY) & ~NO_AF & ~1,  # invalid, too
        (far | PAGE_1 | READ_ONLY) & ~NO_AF,
        far | PAGE_1 | READ_ONLY,
        far | PAGE_1,
    ):
        tables.put(VA, descriptor)
        board.fault(VA, ACCESS_WRITE)
        seen.append(fsr(board))
        board.write(cb(0, FSR), board.read(cb(0, FSR)))
    assert seen == [TF, AFF, PF, ASF]
    tables.put(VA, 0x7000_0000 | 3, level=2)  # a last-level table where no memory is
    board.fault(VA + PAGE, ACCESS_WRITE)
    # The walk cache still has the old table: the entry there is what is read until it is invalidated.
    board.write(cb(0, FSR), board.read(cb(0, FSR)))
    board.write64(cb(0, TLBIVA), 1 << 48 | VA >> 12)
    board.sync(0)
    board.fault(VA + PAGE, ACCESS_WRITE)
    assert fsr(board) == EF


def test_n12_a_second_fault_sets_multi_and_leaves_the_record() -> None:
    board, _ = one_page()
    board.fault(VA + PAGE)
    board.fault(VA + 2 * PAGE, ACCESS_WRITE)
    assert board.read(cb(0, FSR)) & (FAULT_BITS | MULTI) == TF | MULTI
    assert board.read64(cb(0, FAR)) == VA + PAGE
    assert board.read(cb(0, FSYNR0)) & WNR == 0
    board.write(cb(0, FSR), board.read(cb(0, FSR)))
    board.fault(VA + 3 * PAGE)
    assert board.read(cb(0, FSR)) & MULTI == 0
    assert board.read64(cb(0, FAR)) == VA + 3 * PAGE


@pytest.mark.parametrize("hupcf", [False, True])
@pytest.mark.parametrize("retry", [True, False])
def test_n13_stalls_are_held_until_resume(hupcf: bool, retry: bool) -> None:
    soc, driver, root = chip()
    data = bytes(range(256)) * 16
    soc.memory.write(0x1000_0000, data)
    driver.map(root, VA, 0x1000_0000)
    driver.map(root, VA + PAGE, 0x1100_0000)
    driver.route(1, 0x200, 0)  # the CDMA shares the bank
    stall = bm.M | CFRE | CFIE | CFCFG | HUPCF * hupcf
    soc.bus.write32(driver.register(0, SCTLR), stall)

    missing = VA + 16 * PAGE
    begin(soc, VA, missing, PAGE)
    soc.run()
    status = soc.bus.read32(driver.register(0, FSR))
    assert status & SS
    assert status & FAULT_BITS == TF
    assert soc.bus.read64(driver.register(0, FAR)) == missing
    assert soc.bus.read32(z.FPD + z.STATUS) == z.ST_BUSY, "held, not ended"
    cdma(soc, VA, VA + PAGE, PAGE)
    soc.run()
    moved = soc.memory.read(0x1100_0000, PAGE) == data
    assert moved is hupcf, "HUPCF decides whether the bank's other transactions proceed"

    driver.map(root, missing, 0x1200_0000)
    driver.invalidate(0, missing)  # TLB maintenance works meanwhile
    driver.clear_fault(0)
    soc.bus.write32(driver.register(0, RESUME), 0 if retry else 1)
    soc.run()
    assert soc.bus.read32(driver.register(0, FSR)) & SS == 0
    assert soc.memory.read(0x1100_0000, PAGE) == data, "what waited has gone on"
    isr = soc.bus.read32(z.FPD + z.ISR)
    if retry:
        assert isr & (z.DONE | z.WR_DATA) == z.DONE
        assert soc.memory.read(0x1200_0000, PAGE) == data
    else:
        assert isr & z.WR_DATA
        assert soc.bus.read32(z.FPD + z.STATUS) == z.ST_ERROR
        assert soc.memory.read(0x1200_0000, PAGE) == bytes(PAGE)


def test_n14_a_changed_entry_is_stale_until_it_is_invalidated() -> None:
    board, tables = one_page()
    assert board.pa(VA) == PA
    tables.put(VA, PA + PAGE | PAGE_1)
    assert board.pa(VA) == PA
    board.write64(cb(0, TLBIVAL), 1 << 48 | VA >> 12)
    board.sync(0)
    assert board.pa(VA) == PA + PAGE


@pytest.mark.parametrize("inside", [0, PAGE, 0x1F_F000])
def test_n15_invalidation_is_by_coverage(inside: int) -> None:
    board, tables = one_page()
    block = PAGE_1 & ~2
    tables.put(0x8000_0000, 0x20_0000 | block, level=2)
    assert board.pa(0x8000_0004) == 0x20_0004
    tables.put(0x8000_0000, 0x40_0000 | block, level=2)
    board.write64(cb(0, TLBIVAL), 1 << 48 | 0x8000_0000 + inside >> 12)
    board.sync(0)
    assert board.pa(0x8000_0004) == 0x40_0004
    # A changed *table* entry: the leaf form leaves the walk cache.
    assert board.pa(VA) == PA
    other = board.page()
    board.memory.write64(other + 8 * (VA >> 12 & 511), PA + 0x10_0000 | PAGE_1)
    tables.put(VA, other | 3, level=2)
    board.write64(cb(0, TLBIVAL), 1 << 48 | VA >> 12)
    board.sync(0)
    assert board.pa(VA) == PA
    board.write64(cb(0, TLBIVA), 1 << 48 | VA >> 12)
    board.sync(0)
    assert board.pa(VA) == PA + 0x10_0000


def test_n16_the_upper_half_has_its_own_tables_and_coding() -> None:
    board = Board()
    low, high = RawTables(board), RawTables(board)
    low.put(VA, PA | PAGE_1)
    upper = (1 << 64) - (1 << 48) + VA
    high.put(VA, PA + PAGE | PAGE_1)
    # T0SZ = T1SZ = 16; 4 KiB is TG0 = 0, but TG1 = 2.
    board.bank(0, low.root, tcr=16 | 16 << 16 | 2 << 30, tcr2=5 | 1 << 4 | 7 << 15)
    board.write64(cb(0, 0x28), high.root)
    board.stream(0, HPC0, 0)
    board.enable()
    assert board.pa(VA) == PA
    on_the_bus = upper & (1 << 49) - 1  # 49 bits; the 49th says: upper half
    assert board.pa(on_the_bus) == PA + PAGE
    board.write(cb(0, 0x30), 17 | 17 << 16 | 2 << 30)  # 47 bits each: between the halves is a hole
    low_tables, high_tables = RawTables(board), RawTables(board)
    board.write64(cb(0, 0x20), 9 << 48 | low_tables.root)
    board.write64(cb(0, 0x28), high_tables.root)
    for hole in (1 << 47, (1 << 49) - (1 << 48)):
        assert board.fault(hole).level == 0
        assert fsr(board) == TF
    board.write(cb(0, 0x30), 16 | 16 << 16 | 0 << 30)  # TG1 = 0 is reserved: not 4 KiB
    board.write64(cb(0, 0x28), high.root)
    board.fault(on_the_bus)
    # TBI0: the top byte is ignored; without it the address lies in the hole.
    board.bank(0, low.root, asid=8, tcr2=5 | 1 << 4 | 1 << 5 | 7 << 15)
    tagged = 0xAB << 56 | VA
    assert board.pa(tagged) == PA
    board.bank(0, low.root, asid=10)
    board.fault(tagged)


# ---- a whole chip


def chip() -> tuple[Mpsoc, bm.Driver, int]:
    """A chip with its SMMU up, FPD DMA channel 0 through bank 0, and the bank's empty tables."""
    soc = Mpsoc()
    driver = bm.Driver(soc)
    driver.bring_up()
    root = driver.new_table()
    driver.set_bank(0, root)
    driver.route(0, FPD_DMA, 0)
    return soc, driver, root


def begin(soc: Mpsoc, src: int, dst: int, n: int, base: int = z.FPD) -> None:
    """Start a simple transfer with all interrupts enabled and the status clear."""
    bus = soc.bus
    bus.write32(base + z.ISR, 0xFFF)
    bus.write32(base + z.IEN, 0xFFF)
    bus.write32(base + z.CTRL0, 0x80)
    bus.write64(base + 0x128, src)
    bus.write32(base + 0x130, n)
    bus.write64(base + 0x138, dst)
    bus.write32(base + z.CTRL2, 1)


def simple(soc: Mpsoc, src: int, dst: int, n: int, base: int = z.FPD) -> int:
    """A simple transfer to its end; the ISR."""
    begin(soc, src, dst, n, base)
    soc.run()
    return soc.bus.read32(base + z.ISR)


CDMA = 0xA000_0000


def cdma(soc: Mpsoc, src: int, dst: int, n: int) -> None:
    soc.bus.write64(CDMA + 0x18, src)
    soc.bus.write64(CDMA + 0x20, dst)
    soc.bus.write32(CDMA + 0x28, n)


def test_n17_a_burst_over_a_border_is_split() -> None:
    soc, driver, root = chip()
    driver.map(root, VA, 0x1000_0000)
    driver.map(root, VA + 2 * PAGE, 0x1100_0000)
    driver.map(root, VA + 3 * PAGE, 0x1200_0000, read_only=True)
    soc.memory.write(0x1000_0000, b"\xa5" * 256)
    isr = simple(soc, VA, VA + 3 * PAGE - 100, 256)
    assert isr & z.WR_DATA
    assert soc.memory.read(0x1100_0000 + PAGE - 100, 100) == b"\xa5" * 100
    assert soc.memory.read(0x1200_0000, 156) == bytes(156)
    assert soc.bus.read64(driver.register(0, FAR)) == VA + 3 * PAGE
    assert soc.bus.read32(driver.register(0, FSR)) & FAULT_BITS == PF
    assert soc.bus.read32(z.FPD + z.TOTAL_BYTE) == 100
    assert soc.bus.read64(z.FPD + z.DST_PYLD) == VA + 3 * PAGE


def test_n18_the_engine_shows_the_abort() -> None:
    soc, driver, root = chip()
    driver.map(root, VA, 0x1000_0000)
    for src, dst, bit in ((VA + PAGE, VA, z.RD_DATA), (VA, VA + PAGE, z.WR_DATA)):
        assert simple(soc, src, dst, 64) & (z.RD_DATA | z.WR_DATA) == bit
        assert soc.bus.read32(z.FPD + z.STATUS) == z.ST_ERROR
        assert soc.bus.read32(z.FPD + z.CTRL2) == 0, "disabled"
        assert 124 in soc.interrupts.pending()
        driver.clear_fault(0)
    driver.route(1, 0x200, 0)
    soc.bus.write32(CDMA, 1 << 14)  # Err_IrqEn
    cdma(soc, VA, VA + PAGE, 64)
    soc.run()
    assert soc.bus.read32(CDMA + 4) & 0x70 == 1 << 5  # DMASlvErr
    assert 89 in soc.interrupts.pending()
    driver.clear_fault(0)
    cdma(soc, VA, VA + 64, 64)  # halted: ignored until it is reset
    soc.run()
    assert soc.bus.read32(CDMA + 4) & 0x70 == 1 << 5
    soc.bus.write32(CDMA, 1 << 2)
    soc.memory.write(0x1000_0000, b"again" + bytes(59))
    cdma(soc, VA, VA + 64, 64)
    soc.run()
    assert soc.memory.read(0x1000_0040, 5) == b"again"


def test_n19_status_and_account_counters_of_zdma() -> None:
    soc = Mpsoc()
    status = z.FPD + z.STATUS
    assert soc.bus.read32(status) == z.ST_DONE
    src, dst = 0x1_0000, 0x2_0000
    z.put(soc, 0x3_0000, [z.Dscr(src, 64, z.CMD_PAUSE), z.Dscr(src, 64, z.CMD_STOP)])
    z.put(soc, 0x4_0000, [z.Dscr(dst, 128)])
    z.start(soc, 0x3_0000, 0x4_0000)
    assert soc.bus.read32(status) == z.ST_BUSY
    soc.run()
    assert soc.bus.read32(status) == z.ST_PAUSED
    soc.bus.write32(z.FPD + z.CTRL0, 0x80 | z.SG | z.CONT)
    soc.run()
    assert soc.bus.read32(status) == z.ST_DONE
    assert simple(soc, 0x7_0000_0000, dst, 64) & z.RD_DATA  # nothing there
    assert soc.bus.read32(status) == z.ST_ERROR

    count = 300
    soc.bus.write32(z.FPD + z.ISR, 0xFFF)
    z.put(soc, 0x3_0000, [z.Dscr(src, 8, z.INTR)] * (count - 1) + [z.Dscr(src, 8, z.INTR | z.CMD_STOP)])
    z.put(soc, 0x4_0000, [z.Dscr(dst, 8 * count, z.INTR)])
    z.start(soc, 0x3_0000, 0x4_0000)
    soc.run()
    isr = soc.bus.read32(z.FPD + z.ISR)
    assert isr & (z.SRC_DONE | z.SRC_ACCT_ERR | z.DST_DONE | z.DST_ACCT_ERR) == (
        z.SRC_DONE | z.SRC_ACCT_ERR | z.DST_DONE
    )
    assert isr & z.DONE, "an overflow is not fatal"
    assert soc.bus.read32(z.FPD + z.SRC_ACCT) == count % 256
    assert soc.bus.read32(z.FPD + z.SRC_ACCT) == 0, "cleared by reading"
    assert soc.bus.read32(z.FPD + z.DST_ACCT) == 1


@pytest.mark.parametrize("case", ["zero source", "zero destination", "misaligned", "cyclic and empty"])
def test_n20_descriptors_that_lead_nowhere_end_in_an_error(case: str) -> None:
    soc = Mpsoc()
    src, dst = [z.Dscr(0x1_0000, 64, z.CMD_STOP)], [z.Dscr(0x2_0000, 64)]
    lists = [0x3_0000, 0x4_0000]
    expected = z.RD_SRC_DSCR
    if case == "zero source":
        src = [z.Dscr(0x1_0000, 0), *src]
    elif case == "zero destination":
        dst, expected = [z.Dscr(0x2_0000, 0), *dst], z.RD_DST_DSCR
    elif case == "misaligned":
        lists[0] += 8
    else:
        src = [z.Dscr(0x1_0000, 0, link=0x3_0000)]
    z.put(soc, lists[0], src)
    z.put(soc, lists[1], dst)
    z.start(soc, *lists)
    soc.run(until_ns=10_000_000)
    assert soc.bus.read32(z.FPD + z.ISR) & (z.RD_SRC_DSCR | z.RD_DST_DSCR) == expected
    assert z.result(soc)[1:] == (z.ST_ERROR, 0)
    soc.memory.write(0x1_0000, b"alive")
    assert simple(soc, 0x1_0000, 0x5_0000, 5) & z.DONE
    assert soc.memory.read(0x5_0000, 5) == b"alive"


def test_n21_garbage_of_one_stream_disturbs_no_other() -> None:
    """Programs at random are in test_*_any_program; this is one with all of it at once, beside a good one."""
    soc, driver, root = chip()
    driver.map(root, VA, 0x1000_0000)
    soc.memory.write(0x1000_0000, b"good")
    bad = driver.new_table()
    soc.memory.write(bad, b"\xff" * PAGE)  # every descriptor a table in the clouds
    driver.set_bank(1, bad)
    for value in (0xFFFF_FFFF, 0x8000_003F, 0):
        soc.bus.write32(driver.register(1, bm.TCR), value)
        soc.bus.write32(driver.register(1, bm.TCR2), value | 7 << 15)
        soc.bus.write64(driver.register(1, bm.TTBR0), value << 32 | value)
        driver.route(1, FPD_DMA + 1, 1)
        begin(soc, (1 << 49) - 1, 1 << 48, 0x3FFF_FFFF, base=z.FPD + 0x1_0000)
        assert simple(soc, VA, VA + 8, 4) == z.DONE
        assert soc.memory.read(0x1000_0008, 4) == b"good"
        assert soc.bus.read32(z.FPD + 0x1_0000 + z.STATUS) != z.ST_BUSY
    assert soc.bus.read32(driver.register(0, FSR)) == 0


def test_n22_same_stream_asid_and_va_on_two_nodes_and_in_two_banks() -> None:
    boards = [Board(node=f"n{n}") for n in range(2)]
    for n, board in enumerate(boards):
        for bank in (0, 1):
            tables = RawTables(board)
            tables.put(VA, PA + (2 * n + bank) * PAGE | PAGE_1)
            board.bank(bank, tables.root, asid=5, vmid=5)
            board.stream(bank, HPC0 + bank, bank)
        board.enable()
    seen = [board.pa(VA, 0, HPC0 + bank) for _ in range(2) for board in boards for bank in (0, 1)]
    assert seen == [PA, PA + PAGE, PA + 2 * PAGE, PA + 3 * PAGE] * 2


def test_n23_an_observer_sees_the_old_or_the_new_configuration() -> None:
    """Between any two register writes an access goes by the old tables or by the new ones, or is refused."""
    soc, driver, old = chip()
    new = driver.new_table()
    driver.map(old, VA, 0x1000_0000)
    driver.map(new, VA, 0x1100_0000)
    driver.map(old, VA + PAGE, 0x1200_0000)
    driver.map(new, VA + PAGE, 0x1200_0000)
    soc.memory.write(0x1000_0000, b"old!")
    soc.memory.write(0x1100_0000, b"new!")
    seen: list[bytes] = []

    def observe() -> None:
        soc.memory.write(0x1200_0000, b"none")
        simple(soc, VA, VA + PAGE, 4)
        seen.append(soc.memory.read(0x1200_0000, 4))
        driver.clear_fault(0)
        driver.clear_fault(2)

    observe()
    driver.set_bank(2, new)  # a bank beside it, then one write turns the stream over
    observe()
    soc.bus.write32(bm.SMMU + bm.S2CR, 2)
    observe()
    soc.bus.write64(driver.register(2, bm.TTBR0), old | 7 << 48)  # with an ASID of its own
    observe()
    soc.bus.write32(driver.register(2, bm.TTBR0), new & 0xFFFF_FFFF)  # half a register: the new root, ASID 7
    soc.bus.write64(driver.register(2, 0x618), 0)  # TLBIALL
    soc.run()
    observe()
    soc.bus.write32(bm.SMMU + bm.CBAR + 8, 2 << 16)  # CBAR2: stage 1 with stage 2 fault
    observe()
    soc.bus.write32(bm.SMMU + bm.CBAR + 8, 1 << 16)
    observe()
    assert seen == [b"old!", b"old!", b"new!", b"old!", b"new!", b"none", b"new!"]


def test_n24_continue_while_enabled_and_what_is_visible_when() -> None:
    soc = Mpsoc()
    data = bytes(range(128))
    soc.memory.write(0x1_0000, data)
    z.put(soc, 0x3_0000, [z.Dscr(0x1_0000, 64, z.CMD_PAUSE), z.Dscr(0x1_0040, 64, z.CMD_STOP)])
    z.put(soc, 0x4_0000, [z.Dscr(0x2_0000, 128)])
    soc.bus.write32(z.FPD + z.IEN, 0xFFF)
    seen: list[tuple[bytes, int, int]] = []

    def risen(spi: int, level: bool) -> None:
        if level:
            seen.append(
                (
                    soc.memory.read(0x2_0000, 128),
                    soc.bus.read32(z.FPD + z.STATUS),
                    soc.bus.read32(z.FPD + z.ISR) & (z.PAUSE | z.DONE),
                )
            )

    soc.interrupts.subscribe(risen)
    z.start(soc, 0x3_0000, 0x4_0000)
    soc.run()
    soc.bus.write32(z.FPD + z.ISR, 0xFFF)
    assert soc.bus.read32(z.FPD + z.CTRL2) == 1, "paused, and still enabled"
    soc.bus.write32(z.FPD + z.CTRL0, 0x80 | z.SG | z.CONT)
    assert soc.bus.read32(z.FPD + z.CTRL0) & z.CONT == 0, "it clears itself"
    soc.run()
    assert seen == [
        (data[:64] + bytes(64), z.ST_PAUSED, z.PAUSE),
        (data, z.ST_DONE, z.DONE),
    ], "data before status, status before interrupt"


def test_execution_needs_its_permission() -> None:
    """Not numbered in the facts: an instruction fetch of a page that is writable unprivileged."""
    board, _ = one_page(PA | PAGE_1)
    assert board.pa(VA, ACCESS_EXECUTE) == PA
    board, _ = one_page(PA | PAGE_1 | 1 << 54)
    board.fault(VA, ACCESS_EXECUTE)
    assert fsr(board) == PF
    assert board.read(cb(0, FSYNR0)) & 1 << 6  # IND
