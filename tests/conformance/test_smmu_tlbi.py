"""Every TLB maintenance register: which entries it removes, and which must stay (SMMUv2, "TLB maintenance").

Nine banks with entries of every sort are filled; after the operation each entry is used again, and whether
that takes a walk tells if it was removed. What is expected is typed here, operation by operation.
"""

from __future__ import annotations

from dataclasses import dataclass

import pytest

from support.smmu_board import (
    CBA2R,
    CBAR,
    HPC0,
    PAGE_1,
    PAGE_2,
    TABLES,
    TTBR0,
    Board,
    RawTables,
    cb,
)

PAGE, OTHER, GLOBAL, BLOCK = 0x4000_0000, 0x4000_5000, 0x4000_6000, 0x4020_0000
NG = 1 << 11
PLACES = {"page": PAGE, "other": OTHER, "global": GLOBAL, "block": BLOCK}

#: Banks: name, index. Those with one VMID and ASID share what an operation reaches.
S1_V1_A1, S1_V1_A2, S1_V2_A1, HYP, MONITOR, S2_V1, NESTED_V1_A3, S2_V2, TWIN_V1_A1 = range(9)
STAGE_1 = (S1_V1_A1, S1_V1_A2, S1_V2_A1, HYP, MONITOR, NESTED_V1_A3, TWIN_V1_A1)
NON_HYP_1 = (S1_V1_A1, S1_V1_A2, S1_V2_A1, NESTED_V1_A3, TWIN_V1_A1)


class Population:
    """A board with an entry of each sort in each bank's TLB; the walk and IPA caches are filled along."""

    def __init__(self) -> None:
        board = self.board = Board()
        stage_1, stage_2 = RawTables(board), RawTables(board, 1)
        for va in (PAGE, OTHER):
            stage_1.put(va, va - PAGE + 0x100_0000 | PAGE_1)
        stage_1.put(GLOBAL, 0x110_0000 | PAGE_1 & ~NG)
        stage_1.put(BLOCK, 0x120_0000 | PAGE_1 & ~2, 2)
        for ipa in (PAGE, OTHER, GLOBAL):
            stage_2.put(ipa, ipa - PAGE + 0x200_0000 | PAGE_2)
        stage_2.put(BLOCK, 0x220_0000 | PAGE_2 & ~2, 2)
        stage_2.identity(TABLES, TABLES + 0x1_F000, PAGE_2)
        for block in (0x100_0000, 0x120_0000):
            stage_2.put(block, block | PAGE_2 & ~2, 2)
        self.stage_1, self.stage_2 = stage_1, stage_2
        root = stage_1.root
        board.bank(S1_V1_A1, root, vmid=1, asid=1)
        board.bank(TWIN_V1_A1, root, vmid=1, asid=1)
        board.bank(S1_V1_A2, root, vmid=1, asid=2)
        board.bank(S1_V2_A1, root, vmid=2, asid=1)
        board.bank(HYP, root, vmid=1, asid=1)
        board.write(CBAR + 4 * HYP, 1 << 16 | 1 << 10 | 1)
        board.bank(MONITOR, root, vmid=1, asid=1)
        board.write(CBA2R + 4 * MONITOR, 3)
        board.stage_2_bank(S2_V1, stage_2.root, vmid=1)
        board.stage_2_bank(S2_V2, stage_2.root, vmid=2)
        board.bank(NESTED_V1_A3, root, vmid=1, asid=3, kind=3, stage_2=S2_V1)
        for bank in range(9):
            board.stream(bank, HPC0 + bank, bank)
        board.enable()
        self.everything = {(bank, place) for bank in range(9) for place in PLACES}
        assert self.missing() == self.everything, "at first all are walked"
        assert self.missing() == set()

    def missing(self) -> set[tuple[int, str]]:
        """Use every entry; those that had to be walked."""
        found = set()
        for bank in range(9):
            for place, va in PLACES.items():
                walks = self.board.smmu.counters()["walks"]
                self.board.pa(va, 0, HPC0 + bank)
                if self.board.smmu.counters()["walks"] > walks:
                    found.add((bank, place))
        return found

    def write(self, bank: int | None, offset: int, value: int, size: int) -> None:
        at = offset if bank is None else cb(bank, offset)
        (self.board.write64 if size == 8 else self.board.write)(at, value)


def all_of(*banks: int) -> set[tuple[int, str]]:
    return {(bank, place) for bank in banks for place in PLACES}


def at(place: str, *banks: int) -> set[tuple[int, str]]:
    return {(bank, place) for bank in banks}


def not_global(*banks: int) -> set[tuple[int, str]]:
    return {(bank, place) for bank in banks for place in PLACES if place != "global"}


@dataclass(frozen=True)
class Case:
    name: str
    bank: int | None  # None: global space 0
    offset: int
    value: int
    gone: frozenset[tuple[int, str]]
    size: int = 4


def by_va(va: int, asid: int = 0) -> int:
    return asid << 48 | va >> 12


V1 = (S1_V1_A1, S1_V1_A2, NESTED_V1_A3, TWIN_V1_A1)
A1 = (S1_V1_A1, TWIN_V1_A1)
NS = (S1_V1_A1, S1_V1_A2, S1_V2_A1, S2_V1, NESTED_V1_A3, S2_V2, TWIN_V1_A1)

CASES = [
    # ---- global space 0
    ("STLBIALL", None, 0x060, 0, set(), 4),
    ("TLBIVMID-1", None, 0x064, 1, all_of(*V1, S2_V1), 4),
    ("TLBIVMID-2", None, 0x064, 2, all_of(S1_V2_A1, S2_V2), 4),
    ("TLBIVMID-3", None, 0x064, 3, set(), 4),
    ("TLBIVMID-8-bits", None, 0x064, 0x102, all_of(S1_V2_A1, S2_V2), 4),
    ("TLBIVMIDS1-1", None, 0x0B8, 1, all_of(*V1), 4),
    ("TLBIVMIDS1-2", None, 0x0B8, 2, all_of(S1_V2_A1), 4),
    ("TLBIALLNSNH", None, 0x068, 0, all_of(*NS), 4),
    ("TLBIALLH", None, 0x06C, 0, all_of(HYP), 4),
    ("STLBIALLM", None, 0x0BC, 0, all_of(MONITOR), 4),
    ("TLBIVAH", None, 0x078, PAGE | 0xFFF, at("page", HYP), 4),
    ("TLBIVAH64", None, 0x0C0, by_va(PAGE), at("page", HYP), 8),
    ("TLBIVAH64-global", None, 0x0C0, by_va(GLOBAL, 7), at("global", HYP), 8),
    ("TLBIVALH64", None, 0x0B0, by_va(BLOCK + 0x12_3000), at("block", HYP), 8),
    ("STLBIVAM", None, 0x0A8, by_va(PAGE), at("page", MONITOR), 8),
    ("STLBIVALM", None, 0x0A0, by_va(BLOCK + 0x1F_F000), at("block", MONITOR), 8),
    # ---- a stage-1 bank: all banks of its VMID
    ("TLBIVA", S1_V1_A1, 0x600, by_va(PAGE, 1), at("page", *A1), 8),
    ("TLBIVA-from-the-twin", TWIN_V1_A1, 0x600, by_va(PAGE, 1), at("page", *A1), 8),
    ("TLBIVA-other-asid", S1_V1_A1, 0x600, by_va(PAGE, 2), at("page", S1_V1_A2), 8),
    ("TLBIVA-of-nobody", S1_V1_A1, 0x600, by_va(PAGE, 9), set(), 8),
    ("TLBIVA-global", S1_V1_A1, 0x600, by_va(GLOBAL, 9), at("global", *V1), 8),
    ("TLBIVA-inside-the-block", S1_V1_A1, 0x600, by_va(BLOCK + 0x5000, 1), at("block", *A1), 8),
    ("TLBIVA-behind-the-block", S1_V1_A1, 0x600, by_va(BLOCK + 0x20_0000, 1), set(), 8),
    ("TLBIVA-nested", NESTED_V1_A3, 0x600, by_va(PAGE, 3), at("page", NESTED_V1_A3), 8),
    ("TLBIVA-vmid-2", S1_V2_A1, 0x600, by_va(PAGE, 1), at("page", S1_V2_A1), 8),
    ("TLBIVAL", S1_V1_A1, 0x620, by_va(PAGE, 1), at("page", *A1), 8),
    ("TLBIVAL-n15-inside-the-block", S1_V1_A1, 0x620, by_va(BLOCK + 0x5000, 1), at("block", *A1), 8),
    ("TLBIVAA", S1_V1_A1, 0x608, by_va(PAGE, 9), at("page", *V1), 8),
    ("TLBIVAAL", S1_V1_A1, 0x628, by_va(OTHER, 9), at("other", *V1), 8),
    ("TLBIASID", S1_V1_A1, 0x610, 1, not_global(*A1), 4),
    ("TLBIASID-2", S1_V1_A1, 0x610, 2, not_global(S1_V1_A2), 4),
    ("TLBIASID-vmid-2", S1_V2_A1, 0x610, 1, not_global(S1_V2_A1), 4),
    ("TLBIASID-nested", S1_V1_A2, 0x610, 3, not_global(NESTED_V1_A3), 4),
    ("TLBIALL", S1_V1_A2, 0x618, 0, all_of(*V1), 4),
    ("TLBIALL-vmid-2", S1_V2_A1, 0x618, 0, all_of(S1_V2_A1), 4),
    ("TLBIALL-nested", NESTED_V1_A3, 0x618, 0, all_of(*V1), 4),
    ("TLBIIPAS2-of-a-stage-1-bank", S1_V1_A1, 0x630, PAGE >> 12, set(), 8),
    # ---- hypervisor's and monitor's banks
    ("TLBIVA-hyp", HYP, 0x600, by_va(PAGE, 5), at("page", HYP), 8),
    ("TLBIVAA-monitor", MONITOR, 0x608, by_va(PAGE), at("page", MONITOR), 8),
    ("TLBIALL-hyp", HYP, 0x618, 0, all_of(HYP), 4),
    ("TLBIALL-monitor", MONITOR, 0x618, 0, all_of(MONITOR), 4),
    # ---- a stage-2 bank
    ("TLBIIPAS2", S2_V1, 0x630, PAGE >> 12, at("page", S2_V1), 8),
    ("TLBIIPAS2-block", S2_V1, 0x630, (BLOCK + 0x1_0000) >> 12, at("block", S2_V1), 8),
    ("TLBIIPAS2L", S2_V2, 0x638, GLOBAL >> 12, at("global", S2_V2), 8),
    ("TLBIALL-stage-2", S2_V1, 0x618, 0, all_of(*V1, S2_V1), 4),
    ("TLBIALL-stage-2-vmid-2", S2_V2, 0x618, 0, all_of(S1_V2_A1, S2_V2), 4),
    ("TLBIVA-of-a-stage-2-bank", S2_V1, 0x600, by_va(PAGE, 1), set(), 8),
    ("TLBIASID-of-a-stage-2-bank", S2_V1, 0x610, 1, set(), 4),
]


@pytest.mark.parametrize(
    ("bank", "offset", "value", "gone", "size"), [pytest.param(*case[1:], id=case[0]) for case in CASES]
)
def test_what_goes_and_what_stays(
    bank: int | None, offset: int, value: int, gone: set[tuple[int, str]], size: int
) -> None:
    population = Population()
    population.write(bank, offset, value, size)
    assert population.missing() == set(), "it takes time"
    population.board.sync(bank)
    assert population.missing() == gone


def test_the_list_is_complete() -> None:
    """Each TLBI register of the table is written by a case."""
    registers = {
        row.name.removeprefix("CB_")
        for row in Population().board.smmu.registers.table
        if row.name.lstrip("S").removeprefix("CB_").startswith("TLBI")
    }
    assert registers == {case[0].split("-")[0] for case in CASES}


# ---- last-level forms against the walk cache: a table entry is changed


class Rehung:
    """Two level-3 tables; the level-2 entry points to the first, a page was used, then to the second."""

    def __init__(self, world: int = 0) -> None:
        board = self.board = Board()
        tables = RawTables(board)
        tables.put(PAGE, 0x100_0000 | PAGE_1)
        other = RawTables(board)
        other.put(PAGE, 0x200_0000 | PAGE_1)
        board.bank(0, tables.root, vmid=1, asid=1)
        if world == 1:
            board.write(CBAR, 1 << 16 | 1 << 10 | 1)
        elif world == 2:
            board.write(CBA2R, 3)
        board.stream(0, HPC0, 0)
        board.enable()
        assert board.pa(PAGE) == 0x100_0000
        board.memory.write64(tables.entry(PAGE, 2), other.entry(PAGE) & ~0xFFF | 3)

    def after(self, bank: int | None, offset: int, value: int, size: int = 8) -> int:
        at_ = offset if bank is None else cb(bank, offset)
        (self.board.write64 if size == 8 else self.board.write)(at_, value)
        self.board.sync(bank)
        return self.board.pa(PAGE)


@pytest.mark.parametrize(
    ("world", "bank", "offset", "operand", "new"),
    [
        pytest.param(0, 0, 0x600, by_va(PAGE, 1), True, id="TLBIVA"),
        pytest.param(0, 0, 0x608, by_va(PAGE), True, id="TLBIVAA"),
        pytest.param(0, 0, 0x620, by_va(PAGE, 1), False, id="n15-TLBIVAL"),
        pytest.param(0, 0, 0x628, by_va(PAGE), False, id="n15-TLBIVAAL"),
        pytest.param(0, 0, 0x610, 1, True, id="TLBIASID"),
        pytest.param(0, 0, 0x618, 0, True, id="TLBIALL"),
        pytest.param(0, None, 0x064, 1, True, id="TLBIVMID"),
        pytest.param(0, None, 0x0B8, 1, True, id="TLBIVMIDS1"),
        pytest.param(0, None, 0x068, 0, True, id="TLBIALLNSNH"),
        pytest.param(0, None, 0x06C, 0, False, id="TLBIALLH-leaves-it"),
        pytest.param(1, None, 0x0C0, by_va(PAGE), True, id="TLBIVAH64"),
        pytest.param(1, None, 0x0B0, by_va(PAGE), False, id="TLBIVALH64"),
        pytest.param(1, None, 0x06C, 0, True, id="TLBIALLH"),
        pytest.param(2, None, 0x0A8, by_va(PAGE), True, id="STLBIVAM"),
        pytest.param(2, None, 0x0A0, by_va(PAGE), False, id="STLBIVALM"),
        pytest.param(2, None, 0x0BC, 0, True, id="STLBIALLM"),
    ],
)
def test_the_walk_cache(world: int, bank: int | None, offset: int, operand: int, new: bool) -> None:
    """A changed table entry needs the form that is not last-level: the other leaves the pointer to it."""
    size = 8 if offset in (0x600, 0x608, 0x620, 0x628, 0xA0, 0xA8, 0xB0, 0xC0) else 4
    assert Rehung(world).after(bank, offset, operand, size) == (0x200_0000 if new else 0x100_0000)


@pytest.mark.parametrize(("offset", "new"), [(0x630, True), (0x638, False)], ids=["TLBIIPAS2", "TLBIIPAS2L"])
def test_the_walk_cache_of_stage_2(offset: int, new: bool) -> None:
    board = Board()
    tables, other = RawTables(board, 1), RawTables(board, 1)
    tables.put(PAGE, 0x100_0000 | PAGE_2)
    other.put(PAGE, 0x200_0000 | PAGE_2)
    board.stage_2_bank(0, tables.root)
    board.stream(0, HPC0, 0)
    board.enable()
    assert board.pa(PAGE) == 0x100_0000
    board.memory.write64(tables.entry(PAGE, 2), other.entry(PAGE) & ~0xFFF | 3)
    board.write64(cb(0, offset), PAGE >> 12)
    board.sync(0)
    assert board.pa(PAGE) == (0x200_0000 if new else 0x100_0000)


# ---- nested: what stage 2 says is kept twice


class Moved:
    """Two VAs lead to one IPA; both stages were walked for the first, then stage 2's page moves."""

    def __init__(self) -> None:
        board = self.board = Board()
        one, self.two = RawTables(board), RawTables(board, 1)
        one.put(PAGE, 0x5000_0000 | PAGE_1)
        one.put(OTHER, 0x5000_0000 | PAGE_1)
        self.two.identity(TABLES, TABLES + 0x1_F000, PAGE_2)
        self.two.put(0x5000_0000, 0x100_0000 | PAGE_2)
        board.stage_2_bank(1, self.two.root, vmid=1)
        board.bank(0, one.root, kind=3, stage_2=1, vmid=1, asid=1)
        board.stream(0, HPC0, 0)
        board.enable()
        assert board.pa(PAGE) == 0x100_0000
        self.two.put(0x5000_0000, 0x200_0000 | PAGE_2)

    def write(self, bank: int | None, offset: int, value: int, size: int) -> None:
        at_ = offset if bank is None else cb(bank, offset)
        (self.board.write64 if size == 8 else self.board.write)(at_, value)
        self.board.sync(bank)


def test_the_ipa_cache_is_stale_until_tlbiipas2() -> None:
    moved = Moved()
    assert moved.board.pa(OTHER) == 0x100_0000, "another VA, the same IPA: from the IPA cache"
    moved.write(0, 0x600, by_va(OTHER, 1), 8)
    assert moved.board.pa(OTHER) == 0x100_0000, "operations on stage 1 leave it"


@pytest.mark.parametrize("offset", [0x630, 0x638])
def test_combined_entries_stay_when_stage_2_is_invalidated_by_ipa(offset: int) -> None:
    moved = Moved()
    moved.write(1, offset, 0x5000_0000 >> 12, 8)
    assert moved.board.pa(PAGE) == 0x100_0000, "the combined entry holds no IPA to compare"
    assert moved.board.pa(OTHER) == 0x200_0000, "the IPA cache is clean"
    moved.write(None, 0x0B8, 1, 4)  # TLBIVMIDS1, as the architecture demands after it
    assert moved.board.pa(PAGE) == 0x200_0000


def test_stage_1_alone_invalidated_is_not_enough() -> None:
    moved = Moved()
    moved.write(None, 0x0B8, 1, 4)
    assert moved.board.pa(PAGE) == 0x100_0000, "from the IPA cache"
    moved.write(None, 0x064, 1, 4)
    assert moved.board.pa(PAGE) == 0x200_0000


# ---- time


def test_operations_complete_one_after_another() -> None:
    """40 ns each, then 500 ns for the sync; a poll costs 100 ns."""
    population = Population()
    board = population.board
    start = board.scheduler.now_ps
    for va in (PAGE, OTHER):
        board.write64(cb(0, 0x600), by_va(va, 1))
    board.scheduler.run(start + 39_999)
    assert population.missing() == set()
    board.scheduler.run(start + 40_000)
    assert population.missing() == at("page", *A1)
    board.scheduler.run(start + 80_000)
    assert population.missing() == at("other", *A1)
    board.write(cb(0, 0x7F0), 0)
    assert board.sync(0) == 5, "500 ns after the write, polls at 100 ns"
    assert board.scheduler.now_ps == start + 80_000 + 500_000


def test_a_sync_waits_for_operations_before_it() -> None:
    board = Board()
    start = board.scheduler.now_ps
    for _ in range(10):
        board.write(cb(3, 0x618), 0)
    polls = board.sync(3)
    assert polls == 9, "10 × 40 ns + 500 ns, in polls of 100 ns"
    assert board.scheduler.now_ps == start + 900_000
    assert board.sync() == 5, "the global one is another"
    assert board.read(cb(3, 0x7F4)) == 0


def test_the_status_shows_what_is_under_way_without_a_poll() -> None:
    board = Board()
    registers = board.smmu.registers
    board.write(0x70, 0)
    assert (registers.peek("TLBGSTATUS"), registers.peek("CB_TLBSTATUS", 0)) == (1, 0)
    board.run()
    assert registers.peek("TLBGSTATUS") == 0
    assert board.scheduler.now_ps == 500_000


def test_operands_are_those_of_the_write() -> None:
    """VMID and ASID width are taken when the operation is written, not when it completes."""
    population = Population()
    board = population.board
    board.write(cb(S1_V1_A1, 0x618), 0)
    board.write(CBAR + 4 * S1_V1_A1, 1 << 16 | 2)
    board.sync(S1_V1_A1)
    board.write(CBAR + 4 * S1_V1_A1, 1 << 16 | 1)
    assert population.missing() == all_of(*V1)


def test_two_halves_are_one_operation() -> None:
    """A 32-bit driver writes the upper half first; the lower half acts."""
    population = Population()
    board = population.board
    before = board.smmu.counters()["invalidations"]
    board.write(cb(0, 0x604), by_va(PAGE, 1) >> 32)
    board.write(cb(0, 0x600), by_va(PAGE, 1) & 0xFFFF_FFFF)
    board.sync(0)
    assert board.smmu.counters()["invalidations"] == before + 1
    assert population.missing() == at("page", *A1)


def test_reset_forgets_what_is_under_way() -> None:
    board = Board()
    board.simple()
    board.write(cb(0, 0x618), 0)
    board.smmu.reset()
    epoch = board.smmu.epoch
    board.run()
    assert board.smmu.epoch == epoch
    assert board.scheduler.now_ps == 0, "nothing was left to do"


def test_8_bit_asids() -> None:
    population = Population()
    board = population.board
    for bank in (S1_V1_A1, TWIN_V1_A1, S1_V1_A2, NESTED_V1_A3):
        board.write(cb(bank, 0x10), 5 | 7 << 15)  # AS = 0
    board.write64(cb(S1_V1_A1, 0x600), by_va(PAGE, 0x4401))
    board.sync(0)
    assert population.missing() == at("page", *A1)


def test_16_bit_vmids() -> None:
    """CR0.VMID16EN: the VMID of a bank is CBA2R's, and that of TLBIVMID has 16 bits."""
    from unimem_node.smmu import SmmuSpec

    board = Board(SmmuSpec(idr2=0xD555))
    tables = RawTables(board)
    tables.put(PAGE, 0x100_0000 | PAGE_1)
    board.bank(0, tables.root, vmid=2)
    board.write(CBA2R, 0x1234 << 16 | 1)
    board.stream(0, HPC0, 0)
    board.enable(1 << 31)
    board.pa(PAGE)
    for vmid, left in ((2, 1), (0x34, 1), (0x1234, 0)):
        board.write(0x064, vmid)
        board.sync()
        assert board.smmu.tlb.occupancy() == left
    assert board.read64(cb(0, TTBR0)) & 0xFFFF_FFFF_FFFF == tables.root
