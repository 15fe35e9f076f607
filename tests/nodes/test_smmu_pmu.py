"""The performance monitor: groups, filters, events, overflow, and the banks' view of it."""

from __future__ import annotations

import pytest

from support.smmu_board import BYPASS, FPD_DMA, HPC0, S2CR, SPI, Board, cb
from unimem_node.smmu import SmmuSpec

VA, PAGE = 0x4000_0000, 0x1000
EVCNTR, EVTYPER, CGCR, CGSMR = 0x3000, 0x3400, 0x3800, 0x3A00
CNTENSET, CNTENCLR, INTENSET, INTENCLR, OVSCLR, OVSSET = 0x3C00, 0x3C20, 0x3C40, 0x3C60, 0x3C80, 0x3CC0
CFGR, CR, CEID0 = 0x3E00, 0x3E04, 0x3E20
E, CBAEN, BY_STREAM, BY_BANK = 1 << 11, 1 << 10, 1 << 8, 2 << 8
REFILL, REFILL_R, REFILL_W, ACCESS, ACCESS_R, ACCESS_W = 0x08, 0x09, 0x0A, 0x10, 0x11, 0x12
WRAPPER = 0xFD5F_0000


class Monitored:
    """Streams HPC0, HPC0 + 1 (banks 0, 1; TBU 0) and FPD_DMA (bank 1, TBU 5), 16 pages each."""

    def __init__(self, spec: SmmuSpec | None = None) -> None:
        self.board = board = Board(spec or SmmuSpec())
        table = board.simple(length=0x1_0000)
        board.bank(1, table.root)
        board.stream(1, HPC0 + 1, 1)
        board.stream(2, FPD_DMA, 1)

    def count(self, group: int, *events: int, how: int = 0) -> None:
        """Let the counters of a group count from now on."""
        for n, event in enumerate(events):
            self.board.write(EVTYPER + 4 * (4 * group + n), event)
        self.board.write(CGCR + 4 * group, E | how)
        self.board.write(CNTENSET, ((1 << len(events)) - 1) << 4 * group)
        self.board.write(CR, 1)

    def counters(self, group: int, n: int = 4) -> list[int]:
        return [self.board.read(EVCNTR + 4 * (4 * group + i)) for i in range(n)]

    def use(self, stream_id: int, pages: int, access: int = 0) -> None:
        for page in range(pages):
            self.board.pa(VA + page * PAGE, access, stream_id)


def test_accesses_and_refills_of_a_tbu() -> None:
    monitored = Monitored()
    monitored.count(0, ACCESS, ACCESS_R, ACCESS_W, REFILL)
    monitored.use(HPC0, 3)
    monitored.use(HPC0, 3, 1)
    monitored.use(FPD_DMA, 5)  # another TBU's
    assert monitored.counters(0) == [6, 3, 3, 3]
    assert monitored.counters(5) == [0, 0, 0, 0]


def test_refills_by_kind_of_access_and_from_the_macro_tlb() -> None:
    """A refill is one of the TBU's own TLB, from a walk or from the macro TLB."""
    monitored = Monitored()
    monitored.use(FPD_DMA, 2)  # walks
    monitored.count(0, REFILL, REFILL_R, REFILL_W, ACCESS)
    monitored.use(HPC0 + 1, 2, 1)  # macro TLB: the same bank
    monitored.use(HPC0, 3)  # walks
    monitored.use(HPC0, 3)  # hits
    assert monitored.counters(0) == [5, 3, 2, 8]


def test_a_group_for_each_tbu() -> None:
    monitored = Monitored()
    monitored.count(0, ACCESS)
    monitored.count(5, ACCESS, ACCESS_W)
    monitored.use(HPC0, 2)
    monitored.use(FPD_DMA, 4, 1)
    assert (monitored.counters(0, 2), monitored.counters(5, 2)) == ([2, 0], [4, 4])


def test_bypassed_accesses_are_accesses() -> None:
    monitored = Monitored()
    monitored.board.stream(0, HPC0, BYPASS)
    monitored.count(0, ACCESS, REFILL)
    monitored.use(HPC0, 3)
    assert monitored.counters(0, 2) == [3, 0]


def test_by_stream() -> None:
    monitored = Monitored()
    monitored.board.write(CGSMR, HPC0 + 1)
    monitored.count(0, ACCESS, how=BY_STREAM)
    monitored.use(HPC0, 3)
    monitored.use(HPC0 + 1, 2)
    assert monitored.counters(0, 1) == [2]
    monitored.board.write(CGSMR, 1 << 16 | HPC0)  # mask: either
    monitored.use(HPC0, 3)
    monitored.use(HPC0 + 1, 2)
    assert monitored.counters(0, 1) == [7], "what was counted before the change stays"


def test_by_context_bank() -> None:
    monitored = Monitored()
    monitored.count(0, ACCESS, how=BY_BANK | 1)
    monitored.use(HPC0, 3)
    monitored.use(HPC0 + 1, 2)
    monitored.board.write(S2CR, 1)  # HPC0 leads to bank 1 from now on
    monitored.use(HPC0, 4)
    assert monitored.counters(0, 1) == [6]


def test_a_reserved_filter_counts_nothing() -> None:
    monitored = Monitored()
    monitored.count(0, ACCESS, how=3 << 8)
    monitored.use(HPC0, 3)
    assert monitored.counters(0, 1) == [0]


@pytest.mark.parametrize("missing", ["PMCR.E", "PMCGCR.E", "PMCNTENSET"])
def test_all_three_switches_are_needed(missing: str) -> None:
    monitored = Monitored()
    monitored.count(0, ACCESS)
    off = {"PMCR.E": (CR, 0), "PMCGCR.E": (CGCR, 0), "PMCNTENSET": (CNTENCLR, 1)}
    monitored.use(HPC0, 1)
    monitored.board.write(*off[missing])
    monitored.use(HPC0, 5)
    assert monitored.counters(0, 1) == [1]
    monitored.count(0, ACCESS)
    monitored.use(HPC0, 2)
    assert monitored.counters(0, 1) == [3], "what happened while it was off is not counted"


def test_cycles() -> None:
    """500 MHz: 2 ns each."""
    monitored = Monitored()
    monitored.board.scheduler.advance_to(1_000)
    monitored.count(1, 0x00, 0x01, 0x77)
    monitored.board.scheduler.advance_to(1_000_000)
    assert monitored.counters(1, 3) == [500, 500 // 64, 0], "an event that is none counts nothing"
    monitored.board.scheduler.advance_to(1_001_000)
    assert monitored.counters(1, 2) == [500, 7]
    monitored.board.scheduler.advance_to(1_002_000)
    assert monitored.counters(1, 2) == [501, 7]


def test_a_counter_can_be_set_and_all_can_be_cleared() -> None:
    monitored = Monitored()
    monitored.count(0, ACCESS, ACCESS)
    monitored.use(HPC0, 2)
    monitored.board.write(EVCNTR, 100)
    monitored.use(HPC0, 3)
    assert monitored.counters(0, 2) == [103, 5]
    monitored.board.write(CR, 1 | 1 << 1)  # P
    assert monitored.counters(0, 2) == [0, 0]
    assert monitored.board.read(CR) == 1, "P reads as zero"


def test_overflow() -> None:
    monitored = Monitored()
    board = monitored.board
    monitored.count(0, ACCESS, ACCESS)
    board.write(EVCNTR, 0xFFFF_FFFE)
    board.write(INTENSET, 1)
    monitored.use(HPC0, 1)
    board.smmu.pmu.poll()
    assert (board.read(OVSCLR), board.pending) == (0, [])
    monitored.use(HPC0, 3)
    assert board.pending == [], "nobody has looked yet"
    board.smmu.pmu.poll()
    assert board.pending == [SPI]
    assert board.bus.read32(WRAPPER + 0x10) == 1 << 2, "combined performance interrupt"
    assert (board.read(OVSCLR), board.read(OVSSET)) == (1, 1)
    assert monitored.counters(0, 2) == [2, 4]
    board.write(OVSCLR, 1)
    assert (board.read(OVSCLR), board.pending) == (0, [])


def test_the_interrupt_is_of_enabled_counters() -> None:
    board = Monitored().board
    board.write(OVSSET, 0b110)
    assert board.pending == []
    board.write(INTENSET, 0b010)
    assert board.pending == [SPI]
    board.write(INTENCLR, 0b010)
    assert board.pending == []
    board.write(INTENSET, 0b100)
    board.write(OVSCLR, 0b110)
    assert (board.pending, board.read(INTENSET)) == ([], 0b100)


def test_many_streams_of_a_tbu_share_a_lane() -> None:
    """The first fifteen are told apart; the rest counts without a filter only."""
    monitored = Monitored()
    board = monitored.board
    board.stream(0, HPC0, 0, mask=0x3F)
    board.write(0x804, 0)
    monitored.count(0, ACCESS)
    board.write(EVTYPER + 4, ACCESS)
    for axi_id in range(20):
        monitored.use(HPC0 + axi_id, 1)
    assert monitored.counters(0, 1) == [20]
    lanes = [board.smmu.lane_of(HPC0 + axi_id) for axi_id in range(20)]
    assert lanes == [32 * k for k in range(1, 16)] + [0] * 5
    assert board.smmu.lane_of(FPD_DMA) == 5 + 32
    board.write(CGSMR, HPC0 | 0x3F << 16)
    board.write(CGCR, E | BY_STREAM)
    for axi_id in range(20):
        monitored.use(HPC0 + axi_id, 1)
    assert monitored.counters(0, 1) == [35]


def test_poll_costs_nothing_while_nothing_is_enabled() -> None:
    monitored = Monitored()
    monitored.use(HPC0, 3)
    monitored.board.smmu.pmu.poll()
    assert monitored.counters(0) == [0, 0, 0, 0]


def test_reset() -> None:
    monitored = Monitored()
    board = monitored.board
    monitored.count(0, ACCESS)
    board.write(INTENSET, 1)
    board.write(OVSSET, 1)
    board.smmu.reset()
    assert (board.pending, board.read(CNTENSET), board.read(OVSSET), board.read(CR)) == ([], 0, 0, 0)
    board.pa(VA, 0, HPC0)
    assert monitored.counters(0, 1) == [0]


# ---- the view from a bank's page


def view(bank: int, offset: int) -> int:
    return cb(bank, offset)


def test_a_bank_sees_the_group_it_was_given() -> None:
    monitored = Monitored()
    board = monitored.board
    board.write(CGCR + 4 * 5, E | CBAEN | BY_BANK | 1)
    board.write(view(1, 0xE80), ACCESS)
    board.write(view(1, 0xE84), ACCESS_W)
    board.write(view(1, 0xF40), 0xFF)
    assert board.read(CNTENSET) == 0xF << 20, "its own four, no more"
    assert (board.read(view(1, 0xF40)), board.read(view(1, 0xF44))) == (0xF, 0xF)
    monitored.use(FPD_DMA, 2)
    assert board.read(view(1, 0xE00)) == 0, "PMCR of the view is off"
    board.write(view(1, 0xF04), 1)
    assert (board.read(view(1, 0xF04)), board.read(CR)) == (1, 0)
    monitored.use(FPD_DMA, 3, 1)
    monitored.use(HPC0 + 1, 7)  # the bank's traffic through another TBU
    assert [board.read(view(1, 0xE00 + 4 * n)) for n in range(2)] == [3, 3]
    assert monitored.counters(5, 2) == [3, 3]
    board.write(view(1, 0xE00), 0xFFFF_FFFF)
    board.write(view(1, 0xF48), 0x1)
    monitored.use(FPD_DMA, 1)
    assert board.read(view(1, 0xF50)) == 1
    assert board.read(OVSCLR) == 1 << 20
    assert board.pending == [SPI]
    board.write(view(1, 0xF50), 1)
    assert board.pending == []
    board.write(view(1, 0xF58), 2)
    assert board.read(OVSSET) == 2 << 20
    board.write(view(1, 0xF4C), 1)
    board.write(view(1, 0xF44), 1)
    assert (board.read(INTENSET), board.read(CNTENSET)) == (0, 0xE << 20)
    board.write(view(1, 0xF04), 1 | 1 << 1)
    assert monitored.counters(5, 2) == [0, 0]
    board.write(view(1, 0xF04), 0)
    monitored.use(FPD_DMA, 1)
    assert monitored.counters(5, 2) == [0, 0]


def test_other_banks_see_nothing() -> None:
    monitored = Monitored()
    board = monitored.board
    board.write(CGCR, E | CBAEN | BY_BANK | 1)
    for offset in (0xE00, 0xE80, 0xF04, 0xF40, 0xF48, 0xF50):
        board.write(view(0, offset), 0xFFFF_FFFF)
        assert board.read(view(0, offset)) == 0
    assert (board.read(CNTENSET), board.read(EVTYPER), board.read(CR)) == (0, 0, 0)


def test_a_debugger_sees_counters_as_they_are() -> None:
    monitored = Monitored()
    monitored.count(0, ACCESS)
    monitored.use(HPC0, 3)
    assert monitored.board.bus.peek32(0xFD80_0000 + EVCNTR) == 3
