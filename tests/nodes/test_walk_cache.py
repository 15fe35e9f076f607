"""Walk cache and IPA cache: what they save, what keeps stale in them, and the TLB entries of two stages."""

from __future__ import annotations

import pytest

from support.smmu_board import (
    FPD_DMA,
    HPC0,
    PAGE_1,
    PAGE_2,
    TLBIALL,
    TLBIASID,
    TLBIVA,
    TLBIVAL,
    Board,
    RawTables,
    cb,
)
from unimem_node.mmu.regime import ACCESS_WRITE
from unimem_node.smmu import FaultKind, SmmuSpec

VA, PA, PAGE = 0x4000_0000, 0x100_0000, 0x1000
TLBIIPAS2, TLBIIPAS2L, TLBIVMIDS1 = 0x630, 0x638, 0xB8
ACR = 0x10
S1WC2EN, S2WC2EN, IPA2PA_CEN = 1 << 2, 1 << 3, 1 << 4


def counted(board: Board, *names: str) -> tuple[int, ...]:
    counters = board.smmu.counters()
    return tuple(counters[name] for name in names)


def stage_1_reads(board: Board, va: int, stream: int = HPC0) -> int:
    """Descriptors of stage 1 that an access fetches."""
    names = tuple(f"reads_l{level}" for level in range(4))
    before = sum(counted(board, *names))
    board.go(va, 0, stream)
    return sum(counted(board, *names)) - before


def stage_2_reads(board: Board, va: int) -> int:
    names = tuple(f"reads_s2_l{level}" for level in range(4))
    before = sum(counted(board, *names))
    board.go(va)
    return sum(counted(board, *names)) - before


def test_a_neighbouring_page_costs_one_read() -> None:
    board = Board()
    board.simple()
    assert stage_1_reads(board, VA) == 4
    assert stage_1_reads(board, VA + PAGE) == 1
    assert counted(board, "walk_cache_hits") == (1,)


def test_another_table_of_the_same_gibibyte_costs_two_reads() -> None:
    board = Board()
    board.simple(pa=PA + PAGE, length=4 << 20)  # pages, since the memory is not aligned to blocks
    board.go(VA)
    assert stage_1_reads(board, VA + (2 << 20)) == 2


def test_without_it_every_walk_begins_at_the_start() -> None:
    board = Board(SmmuSpec(walk_cache_entries=0))
    board.simple()
    board.go(VA)
    assert stage_1_reads(board, VA + PAGE) == 4


def test_acr_switches_the_uses_off_and_on() -> None:
    board = Board()
    board.simple()
    board.go(VA)
    board.write(ACR, 0)  # the first write unlocks: CACHE_LOCK = 0
    board.write(ACR, board.read(ACR) & ~S1WC2EN)
    assert stage_1_reads(board, VA + PAGE) == 4
    board.write(ACR, board.read(ACR) | S1WC2EN)
    assert stage_1_reads(board, VA + 2 * PAGE) == 1


def test_n15_a_changed_table_entry_needs_the_form_that_is_not_leaf_only() -> None:
    board = Board()
    tables = RawTables(board)
    board.bank(0, tables.root)
    board.stream(0, HPC0, 0)
    board.enable()
    for page in range(3):
        tables.put(VA + page * PAGE, PA + page * PAGE | PAGE_1)
    assert board.pa(VA) == PA
    other = board.page()  # a new last-level table in place of the old one
    for page in range(3):
        board.memory.write64(other + 8 * ((VA >> 12 & 511) + page), PA + 0x10_0000 + page * PAGE | PAGE_1)
    tables.put(VA, other | 3, level=2)
    board.write64(cb(0, TLBIVAL), 1 << 48 | VA >> 12)
    board.sync(0)
    assert board.pa(VA) == PA, "the leaf's entry is gone, the old table is still in the walk cache"
    assert board.pa(VA + PAGE) == PA + PAGE
    board.write64(cb(0, TLBIVA), 1 << 48 | VA >> 12)
    board.sync(0)
    assert board.pa(VA) == PA + 0x10_0000
    assert board.pa(VA + 2 * PAGE) == PA + 0x10_2000


@pytest.mark.parametrize(
    ("offset", "value", "kept"),
    [
        (cb(0, TLBIVA), 1 << 48 | VA >> 12, False),
        (cb(0, TLBIVA), 2 << 48 | VA >> 12, True),
        (cb(0, TLBIVA), 1 << 48 | VA + (1 << 30) >> 12, True),
        (cb(0, TLBIVAL), 1 << 48 | VA >> 12, True),
        (cb(0, TLBIASID), 1, False),
        (cb(0, TLBIASID), 2, True),
        (cb(0, TLBIALL), 0, False),
        (0x64, 1, False),  # TLBIVMID
        (0x64, 2, True),
        (TLBIVMIDS1, 1, False),
        (0x68, 0, False),  # TLBIALLNSNH
        (0x6C, 0, True),  # TLBIALLH
    ],
)
def test_what_an_operation_does_to_the_walk_cache(offset: int, value: int, kept: bool) -> None:
    board = Board()
    board.simple()
    board.go(VA)
    assert board.smmu.tlb.walk_cache_occupancy() == 2
    (board.write64 if offset & 0xFFF in range(0x600, 0x640) else board.write)(offset, value)
    board.sync()
    assert stage_1_reads(board, VA + PAGE) == (1 if kept else 4)


def test_the_walk_cache_replaces_round_robin_in_its_set() -> None:
    board = Board(SmmuSpec(walk_cache_entries=4, walk_cache_ways=4))
    board.simple(pa=PA + PAGE, length=16 << 20)
    for table in range(8):  # more last-level tables than ways, each a row besides the one above it
        board.go(VA + table * (2 << 20))
    assert board.smmu.tlb.walk_cache_occupancy() == 4
    assert stage_1_reads(board, VA + PAGE) > 1, "the first was replaced"


class Nested(Board):
    """Stream HPC0 through bank 0 (stage 1) nested in bank 1 (stage 2); both VMID 1."""

    def __post_init__(self) -> None:
        super().__post_init__()
        self.first, self.second = RawTables(self), RawTables(self, start=1)
        for page in range(0x10_0000, 0x14_0000, PAGE):  # where the tables are: mapped onto themselves
            self.second.put(page, page | PAGE_2)
        self.stage_2_bank(1, self.second.root, vmid=1)
        self.bank(0, self.first.root, vmid=1, kind=3, stage_2=1)
        self.stream(0, HPC0, 0)
        self.enable()

    def map(self, va: int, ipa: int, pa: int, *, stage_1: int = PAGE_1, stage_2: int = PAGE_2) -> None:
        self.first.put(va, ipa | stage_1)
        self.second.put(ipa, pa | stage_2)


IPA = 0x80_0000


def test_a_nested_translation_takes_both_stages() -> None:
    board = Nested()
    board.map(VA, IPA, PA)
    assert board.pa(VA + 0x123) == PA + 0x123
    assert counted(board, "utlb_hits", "walks") == (0, 1)
    assert board.pa(VA + 0x456) == PA + 0x456
    assert counted(board, "utlb_hits", "walks") == (1, 1), "one entry holds both"


def test_the_ipa_cache_saves_the_walks_of_stage_2() -> None:
    board = Nested()
    board.map(VA, IPA, PA)
    board.map(VA + PAGE, IPA + PAGE, PA + PAGE)
    assert stage_2_reads(board, VA) > 3
    # The table of stage 1 is known by the walk cache, its page by the IPA cache: only the new IPA is walked.
    assert stage_2_reads(board, VA + PAGE) == 1
    assert counted(board, "ipa_cache_hits")[0] >= 1


def test_the_smaller_of_two_sizes_is_the_entry() -> None:
    board = Nested()
    block = 1 | 1 << 2 | 1 << 6 | 3 << 8 | 1 << 10 | 1 << 11
    board.first.put(VA, 0x80_0000 | block, level=2)  # 2 MiB by stage 1,
    for page in range(3):  # whose pages stage 2 scatters
        board.second.put(0x80_0000 + page * PAGE, PA + 2 * page * PAGE | PAGE_2)
    assert [board.pa(VA + page * PAGE + 4) for page in range(3)] == [PA + 2 * n * PAGE + 4 for n in range(3)]
    assert counted(board, "walks") == (3,)


@pytest.mark.parametrize("cached", [False, True])
def test_permissions_of_both_stages_hold_on_hits_too(cached: bool) -> None:
    board = Nested()
    read_only_2 = PAGE_2 & ~(1 << 7)
    board.map(VA, IPA, PA, stage_2=read_only_2)
    board.map(VA + PAGE, IPA + PAGE, PA + PAGE, stage_1=PAGE_1 | 1 << 7)
    if cached:
        board.pa(VA)
        board.pa(VA + PAGE)
    fault = board.fault(VA + 8, ACCESS_WRITE)
    assert (fault.kind, fault.stage, fault.level, fault.ipa) == (FaultKind.PERMISSION, 2, 3, IPA + 8)
    fault = board.fault(VA + PAGE, ACCESS_WRITE)
    assert (fault.kind, fault.stage, fault.level, fault.ipa) == (FaultKind.PERMISSION, 1, 3, None)


def test_an_invalidation_by_ipa_leaves_the_combined_entry() -> None:
    board = Nested()
    board.map(VA, IPA, PA)
    board.map(VA + PAGE, IPA, PA)  # the same IPA again
    board.pa(VA)
    board.second.put(IPA, PA + 0x10_0000 | PAGE_2)
    board.write64(cb(1, TLBIIPAS2L), IPA >> 12)
    board.sync(1)
    assert board.pa(VA) == PA, "an entry of both stages holds no IPA to compare"
    assert board.pa(VA + PAGE) == PA + 0x10_0000, "the IPA cache has forgotten"
    board.write64(cb(0, TLBIVAL), 1 << 48 | VA >> 12)
    board.sync(0)
    assert board.pa(VA) == PA + 0x10_0000


def test_without_an_invalidation_by_ipa_the_ipa_cache_is_stale() -> None:
    board = Nested()
    board.map(VA, IPA, PA)
    board.map(VA + PAGE, IPA, PA)
    board.pa(VA)
    board.second.put(IPA, PA + 0x10_0000 | PAGE_2)
    assert board.pa(VA + PAGE) == PA


def test_two_entries_for_one_address_are_a_conflict() -> None:
    """A block made of pages without break-before-make: old page entries and the new block's overlap."""
    board = Board(SmmuSpec(walk_cache_entries=0))  # with it, the old table would be walked on
    tables = RawTables(board)
    board.bank(0, tables.root)
    board.stream(0, HPC0, 0)
    board.stream(1, FPD_DMA, 0)
    board.enable()
    tables.put(VA, PA | PAGE_1)
    board.pa(VA)
    tables.put(VA, 0x20_0000 | (PAGE_1 & ~2), level=2)  # now a block, and the page's entry was not removed
    assert board.pa(VA + PAGE) == 0x20_0000 + PAGE
    fault = board.fault(VA)
    assert fault.kind is FaultKind.TLB_MATCH_CONFLICT
    assert board.read(cb(0, 0x58)) & 0x1FE == 1 << 5
    board.write64(cb(0, TLBIVAL), 1 << 48 | VA >> 12)
    board.sync(0)
    assert board.pa(VA) == 0x20_0000


def test_a_contiguous_group_is_one_entry() -> None:
    board = Board()
    tables = RawTables(board)
    board.bank(0, tables.root)
    board.stream(0, HPC0, 0)
    board.enable()
    for page in range(16):
        tables.put(VA + page * PAGE, PA + page * PAGE | PAGE_1 | 1 << 52)
    assert board.pa(VA + 5 * PAGE + 1) == PA + 5 * PAGE + 1
    assert board.pa(VA + 15 * PAGE + 2) == PA + 15 * PAGE + 2
    assert counted(board, "walks", "utlb_hits") == (1, 1)


def test_a_hint_that_lies_is_not_believed() -> None:
    board = Board()
    tables = RawTables(board)
    board.bank(0, tables.root)
    board.stream(0, HPC0, 0)
    board.enable()
    tables.put(VA, PA + 3 * PAGE | PAGE_1 | 1 << 52)  # not where a group's first page would lie
    tables.put(VA + PAGE, PA | PAGE_1)
    assert board.pa(VA) == PA + 3 * PAGE
    assert board.pa(VA + PAGE) == PA


def test_stage_2_alone_is_invalidated_by_ipa() -> None:
    board = Board()
    second = RawTables(board, start=1)
    second.put(IPA, PA | PAGE_2)
    board.stage_2_bank(1, second.root, vmid=9)
    board.stream(0, HPC0, 1)
    board.enable()
    assert board.pa(IPA + 4) == PA + 4
    second.put(IPA, PA + PAGE | PAGE_2)
    board.write64(cb(1, TLBIIPAS2), IPA + PAGE >> 12)
    board.sync(1)
    assert board.pa(IPA) == PA, "another IPA"
    board.write(TLBIVMIDS1, 9)
    board.sync()
    assert board.pa(IPA) == PA, "stage 1 of the VMID only"
    board.write64(cb(1, TLBIIPAS2), IPA >> 12)
    board.sync(1)
    assert board.pa(IPA) == PA + PAGE
