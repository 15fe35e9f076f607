"""TLBs: what is cached, what is replaced when, what an invalidation removes and what it leaves."""

from __future__ import annotations

import numpy as np
import pytest

from support.smmu_board import (
    FPD_DMA,
    HPC0,
    TLBIALL,
    TLBIASID,
    TLBIVA,
    TLBIVAA,
    TLBIVAAL,
    TLBIVAL,
    Board,
    cb,
)
from unimem_node.mmu.regime import PF
from unimem_node.smmu import Fault, SmmuSpec, Translation
from unimem_node.smmu._fast import translate, translate_many
from unimem_node.smmu._fast_tlb import OF_STAGE_1, TABLES_1, invalidate

VA = 0x4000_0000
PA = 0x100_0000
PAGE = 0x1000
MIB2 = 2 << 20
TLBIVMID, TLBIALLNSNH, TLBIALLH = 0x64, 0x68, 0x6C


def counts(board: Board, *names: str) -> tuple[int, ...]:
    counters = board.smmu.counters()
    return tuple(counters[name] for name in names)


def tlbi(board: Board, offset: int, value: int) -> None:
    """Invalidate, and wait for the sync as a driver does."""
    (board.write64 if offset & 0xFFF in range(0x600, 0x640) else board.write)(offset, value)
    board.sync()


def walks(board: Board) -> int:
    return board.smmu.counters()["walks"]


def walked(board: Board, va: int, stream_id: int = HPC0) -> bool:
    """Access `va`: whether that needed a walk."""
    before = walks(board)
    board.pa(va, 0, stream_id)
    return walks(board) > before


def test_first_access_walks_second_hits() -> None:
    board = Board()
    board.simple()
    assert board.pa(VA + 0x123) == PA + 0x123
    assert counts(board, "walks", "utlb_hits", "macro_hits") == (1, 0, 0)
    assert board.pa(VA + 0xFFF) == PA + 0xFFF
    assert counts(board, "walks", "utlb_hits", "macro_hits") == (1, 1, 0)
    assert counts(board, "reads_l0", "reads_l1", "reads_l2", "reads_l3") == (1, 1, 1, 1)
    assert counts(board, "translations", "misses") == (2, 1)


def test_another_tbu_hits_the_macro_tlb() -> None:
    board = Board()
    board.simple()
    board.stream(1, FPD_DMA, 0)
    board.pa(VA)
    board.pa(VA, 0, FPD_DMA)
    assert counts(board, "walks", "macro_hits", "utlb_hits") == (1, 1, 0)
    board.pa(VA, 0, FPD_DMA)
    assert counts(board, "walks", "macro_hits", "utlb_hits") == (1, 1, 1)


def test_a_block_is_one_entry() -> None:
    board = Board()
    board.simple(length=2 * MIB2, pa=2 * MIB2)
    assert board.pa(VA + 0x1234) == 2 * MIB2 + 0x1234
    assert not walked(board, VA + MIB2 - 1)
    assert walked(board, VA + MIB2)
    result = board.go(VA + 0x10)
    assert isinstance(result, Translation)
    assert result.span == MIB2 - 0x10


def test_costs_add_up() -> None:
    board = Board()
    board.simple()
    timing = board.spec.timing
    cold, warm = board.go(VA), board.go(VA)
    assert isinstance(cold, Translation)
    assert isinstance(warm, Translation)
    assert warm.cost_ps == timing.micro_hit_ps
    assert cold.cost_ps == timing.micro_hit_ps + timing.macro_hit_ps + 4 * timing.descriptor_read_ps


def test_micro_tlb_replaces_the_oldest() -> None:
    board = Board(SmmuSpec(micro_tlb_entries=(4,) * 6))
    board.simple()
    for page in range(4):
        board.pa(VA + page * PAGE)
    board.pa(VA)  # a hit does not make it younger: first in, first out
    board.pa(VA + 4 * PAGE)  # replaces page 0
    before = counts(board, "utlb_hits", "macro_hits")
    for page in (1, 2, 3, 4):
        board.pa(VA + page * PAGE)
    assert counts(board, "utlb_hits", "macro_hits") == (before[0] + 4, before[1])
    board.pa(VA)
    assert counts(board, "utlb_hits", "macro_hits") == (before[0] + 4, before[1] + 1)


def test_a_free_place_is_used_before_an_entry_is_replaced() -> None:
    board = Board(SmmuSpec(micro_tlb_entries=(4,) * 6))
    board.simple()
    for page in range(4):
        board.pa(VA + page * PAGE)
    tlbi(board, cb(0, TLBIVA), 1 << 48 | (VA + PAGE) >> 12)
    board.pa(VA + 9 * PAGE)
    before = counts(board, "utlb_hits")[0]
    for page in (0, 2, 3, 9):
        board.pa(VA + page * PAGE)
    assert counts(board, "utlb_hits")[0] == before + 4
    board.pa(VA + 10 * PAGE)  # full again: the oldest goes, page 0
    before = counts(board, "utlb_hits")[0]
    for page in (2, 3, 9, 10, 0):
        board.pa(VA + page * PAGE)
    assert counts(board, "utlb_hits")[0] == before + 4


def test_macro_tlb_has_ways_for_each_set() -> None:
    spec = SmmuSpec(micro_tlb_entries=(1,) * 6, macro_tlb_entries=32, macro_tlb_ways=4)  # 8 sets
    board = Board(spec)
    board.simple(length=64 * PAGE)
    same_set = [VA + 8 * i * PAGE for i in range(5)]
    for va in same_set[:4]:
        assert walked(board, va)
    for va in same_set[:4]:
        assert not walked(board, va)
    assert walked(board, same_set[4])  # replaces the first
    assert not walked(board, same_set[1])
    assert walked(board, same_set[0])


def test_asids_do_not_mix() -> None:
    board = Board()
    tables = [board.table(), board.table()]
    for n, table in enumerate(tables):
        table.map(VA, PA + n * 0x10_0000, PAGE)
    board.simple(va=0x5000_0000)
    for asid, table in enumerate(tables):
        board.bank(0, table.root, asid=asid)  # rewritten without any invalidation
        assert board.pa(VA) == PA + asid * 0x10_0000
    board.bank(0, tables[0].root, asid=0)
    assert not walked(board, VA)  # its entry is still there
    assert board.pa(VA) == PA


def test_global_pages_serve_every_asid() -> None:
    board = Board()
    board.simple(global_=True)
    board.pa(VA)
    root = board.smmu.registers.peek("CB_TTBR0") & 0xFFFF_FFFF_FFFF
    board.bank(0, root, asid=9)
    assert not walked(board, VA)
    tlbi(board, cb(0, TLBIASID), 9)  # an operation by ASID leaves them
    assert not walked(board, VA)
    tlbi(board, cb(0, TLBIVA), 9 << 48 | VA >> 12)  # one by VA does not
    assert walked(board, VA)


def test_an_asid_has_8_bits_unless_tcr2_says_16() -> None:
    board = Board()
    table = board.simple()
    board.bank(0, table.root, asid=0x101, tcr2=5)
    board.pa(VA)
    board.bank(0, table.root, asid=0x201, tcr2=5)
    assert not walked(board, VA)
    board.bank(0, table.root, asid=0x201)
    assert walked(board, VA)


def test_the_asid_may_come_from_ttbr1() -> None:
    board = Board()
    table = board.simple()
    board.pa(VA)
    board.bank(0, table.root, asid=1, tcr=16 | 1 << 23 | 1 << 22)  # A1, and TTBR1 has ASID 0
    assert walked(board, VA)
    board.write64(cb(0, 0x28), 1 << 48)
    assert not walked(board, VA)


def test_n14_a_stale_entry_lives_until_it_is_invalidated() -> None:
    board = Board()
    table = board.simple()
    other = PA + 0x20_0000
    assert board.pa(VA) == PA
    table.unmap(VA, PAGE)
    assert board.pa(VA) == PA, "the entry is stale, and that is visible"
    table.map(VA, other, PAGE)
    assert board.pa(VA) == PA
    tlbi(board, cb(0, TLBIVA), 1 << 48 | VA >> 12)
    assert board.pa(VA) == other


@pytest.mark.parametrize("where", [0, PAGE, MIB2 // 2 + 0x678, MIB2 - 1])
@pytest.mark.parametrize("operation", [TLBIVA, TLBIVAA, TLBIVAL, TLBIVAAL])
def test_n15_any_address_inside_a_block_removes_it(operation: int, where: int) -> None:
    board = Board()
    board.simple(length=2 * MIB2, pa=2 * MIB2)
    board.stream(1, FPD_DMA, 0)
    for stream in (HPC0, FPD_DMA):
        board.pa(VA + 8, 0, stream)
        board.pa(VA + MIB2, 0, stream)
    tlbi(board, cb(0, operation), 1 << 48 | (VA + where) >> 12)
    assert not walked(board, VA + MIB2), "the neighbour stays"
    assert not walked(board, VA + MIB2, FPD_DMA), "the neighbour stays in the other TBU"
    assert walked(board, VA + 16)
    before = counts(board, "utlb_hits")
    assert not walked(board, VA + 16, FPD_DMA)
    assert counts(board, "utlb_hits") == before, "the entry of the other TBU's micro TLB is gone too"


def test_n15_an_address_just_outside_leaves_the_block() -> None:
    board = Board()
    board.simple(va=VA + MIB2, length=MIB2, pa=2 * MIB2)
    board.pa(VA + MIB2)
    for outside in (VA + MIB2 - 1, VA + 2 * MIB2):
        tlbi(board, cb(0, TLBIVAL), 1 << 48 | outside >> 12)
    assert not walked(board, VA + MIB2)


def two_banks(board: Board, vmids: tuple[int, int], asids: tuple[int, int]) -> None:
    table = board.table()
    table.map(VA, PA, 4 * PAGE)
    for bank in (0, 1):
        board.bank(bank, table.root, vmid=vmids[bank], asid=asids[bank])
        board.stream(bank, HPC0 + bank, bank)
    board.enable()
    for bank in (0, 1):
        for page in range(2):
            board.pa(VA + page * PAGE, 0, HPC0 + bank)


@pytest.mark.parametrize(
    ("offset", "value", "removed"),
    [
        # which of (bank 0 page 0, bank 0 page 1, bank 1 page 0, bank 1 page 1) an operation removes
        (cb(0, TLBIVA), 1 << 48 | VA >> 12, (1, 0, 0, 0)),
        (cb(0, TLBIVA), 2 << 48 | VA >> 12, (0, 0, 0, 0)),
        (cb(0, TLBIVAL), 1 << 48 | VA >> 12, (1, 0, 0, 0)),
        (cb(0, TLBIVAA), VA >> 12, (1, 0, 0, 0)),
        (cb(0, TLBIVAAL), VA >> 12, (1, 0, 0, 0)),
        (cb(1, TLBIVAA), VA + PAGE >> 12, (0, 0, 0, 1)),
        (cb(0, TLBIASID), 1, (1, 1, 0, 0)),
        (cb(0, TLBIASID), 2, (0, 0, 0, 0)),
        (cb(0, TLBIALL), 0, (1, 1, 0, 0)),
        (TLBIVMID, 8, (0, 0, 1, 1)),
        (TLBIVMID, 9, (0, 0, 0, 0)),
        (TLBIALLNSNH, 0, (1, 1, 1, 1)),
        (TLBIALLNSNH + 0x400, 0, (1, 1, 1, 1)),
        (TLBIALLH, 0, (0, 0, 0, 0)),
        (cb(0, 0x630), VA >> 12, (0, 0, 0, 0)),  # TLBIIPAS2
    ],
)
def test_each_operation_removes_exactly_its_entries(
    offset: int, value: int, removed: tuple[int, ...]
) -> None:
    board = Board()
    two_banks(board, vmids=(7, 8), asids=(1, 1))
    tlbi(board, offset, value)
    seen = tuple(int(walked(board, VA + page * PAGE, HPC0 + bank)) for bank in (0, 1) for page in (0, 1))
    assert seen == removed


def test_banks_of_one_vmid_are_invalidated_together() -> None:
    board = Board()
    two_banks(board, vmids=(7, 7), asids=(1, 1))
    tlbi(board, cb(0, TLBIASID), 1)
    assert walked(board, VA, HPC0 + 1)


def test_an_invalidation_grows_the_epoch() -> None:
    board = Board()
    board.simple()
    before = board.smmu.epoch
    tlbi(board, cb(0, TLBIALL), 0)
    assert board.smmu.epoch > before
    assert board.smmu.counters()["invalidations"] == 1


def test_faults_are_not_cached() -> None:
    board = Board()
    table = board.simple()
    board.fault(VA - PAGE)
    table.map(VA - PAGE, PA, PAGE)
    assert board.pa(VA - PAGE) == PA


def test_bulk_translation_stops_at_the_first_fault() -> None:
    board = Board()
    board.simple(length=4 * PAGE)
    vas = np.array([VA, VA + PAGE, VA + 4 * PAGE, VA + 2 * PAGE], np.uint64)
    pas = np.zeros(4, np.uint64)
    assert translate_many(board.smmu.arrays, 0, 0, vas, 0, pas) == 2
    assert pas.tolist() == [PA, PA + PAGE, 0, 0]
    assert board.read(cb(0, 0x58)) == 0, "it records nothing"


def test_n02_the_compiled_path_honours_permissions() -> None:
    board = Board()
    board.simple(write=False)
    arrays = board.smmu.arrays
    for _ in range(2):  # cold, then cached
        code, level, _, _, _ = translate(arrays, 0, 0, VA, 1)
        assert (code, level) == (PF, 3)
        assert translate(arrays, 0, 0, VA, 0)[0] == 0
    assert translate_many(arrays, 0, 0, np.array([VA], np.uint64), 1, np.zeros(1, np.uint64)) == 0


def test_invalidation_uncompiled_agrees() -> None:
    """The same source as Python, on the state that the compiled code left."""
    boards = [Board(), Board()]
    for board in boards:
        two_banks(board, vmids=(7, 8), asids=(1, 2))
    plain = getattr(invalidate, "py_func", invalidate)
    tlb = boards[1].smmu.tlb
    boards[0].smmu.tlb.invalidate_asid(7, 1)
    reach = OF_STAGE_1 | TABLES_1
    world_vmid_asid = 3 << 48 | 0xFFFF_0000_FFFF
    plain(
        tlb.rows,
        tlb.state,
        np.zeros((128, 5), np.int64),
        reach,
        world_vmid_asid,
        7 << 32 | 1,
        False,
        0,
        False,
    )
    assert (boards[0].smmu.tlb.rows == tlb.rows).all()
    assert (boards[0].smmu.tlb.state == tlb.state).all()


@pytest.mark.parametrize(
    "spec",
    [
        {"macro_tlb_entries": 12, "macro_tlb_ways": 4},
        {"macro_tlb_entries": 10, "macro_tlb_ways": 4},
        {"macro_tlb_ways": 0},
        {"micro_tlb_entries": ()},
        {"micro_tlb_entries": (129,)},
        {"micro_tlb_entries": (0,)},
        {"context_banks": 17},
        {"stream_match_groups": 129},
    ],
)
def test_impossible_shapes_are_refused(spec: dict[str, object]) -> None:
    with pytest.raises(ValueError, match=r"TLB|context banks"):
        SmmuSpec(**spec)  # type: ignore[arg-type]


def test_occupancy() -> None:
    board = Board()
    board.simple()
    assert isinstance(board.go(VA), Translation)
    assert isinstance(board.go(0), Fault)
    assert (board.smmu.tlb.occupancy(0), board.smmu.tlb.occupancy(1), board.smmu.tlb.occupancy()) == (1, 0, 1)
