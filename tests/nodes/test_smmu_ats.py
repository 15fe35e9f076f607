"""Address translation operations: GATS1*, GATS12*, CB_ATS1*, their results and their time."""

from __future__ import annotations

import pytest

from support.smmu_board import (
    FSR,
    HPC0,
    PAGE_1,
    PAGE_2,
    SEP_UPSTREAM,
    TABLES,
    TCR,
    TCR2,
    Board,
    M,
    RawTables,
    cb,
)
from unimem_node.smmu import SmmuSpec

VA, IPA, PA = 0x4000_1000, 0x5000_2000, 0x100_3000
GPAR, GATSR = 0x180, 0x188
GATS1 = {"UR": 0x100, "UW": 0x108, "PR": 0x110, "PW": 0x118}
GATS12 = {"UR": 0x120, "UW": 0x128, "PR": 0x130, "PW": 0x138}
ATS1 = {"PR": 0x800, "PW": 0x808, "UR": 0x810, "UW": 0x818}
PAR, ATSR = 0x50, 0x8F0
PA_BITS = 0xFFFF_FFFF_F000


@pytest.fixture
def board() -> Board:
    """Bank 0: stage 1; 1: stage 2; 2: stage 1 nested in it. VA → IPA → PA."""
    board = Board(SmmuSpec(address_translation=True))
    one, alone, two = RawTables(board), RawTables(board), RawTables(board, 1)
    one.put(VA, IPA | PAGE_1)
    alone.put(VA, PA | PAGE_1)
    two.put(IPA, PA | PAGE_2)
    two.identity(TABLES, TABLES + 0x1_F000, PAGE_2)
    board.bank(0, alone.root)
    board.write(cb(0, 0x38), 0xFF00)  # MAIR attribute 1: write-back
    board.stage_2_bank(1, two.root, vmid=3)
    board.bank(2, one.root, kind=3, stage_2=1, vmid=3)
    board.one, board.two, board.alone = one, two, alone  # type: ignore[attr-defined]
    board.enable()
    return board


def gats(board: Board, register: int, va: int, bank: int) -> int:
    board.write64(register, va | bank)
    polls = 0
    while board.read(GATSR) & 1:
        polls += 1
        assert polls < 100
    return board.read64(GPAR)


def ats(board: Board, bank: int, register: int, va: int) -> int:
    board.write64(cb(bank, register), va)
    while board.read(cb(bank, ATSR)) & 1:
        pass
    return board.read64(cb(bank, PAR))


@pytest.mark.parametrize("kind", GATS1)
def test_success(board: Board, kind: str) -> None:
    """PA in 47:12, F = 0, shareability and memory type of the page."""
    for par in (
        gats(board, GATS1[kind], VA, 0),
        gats(board, GATS12[kind], VA, 0),
        ats(board, 0, ATS1[kind], VA),
    ):
        assert par & 1 == 0
        assert par & PA_BITS == PA
        assert (par >> 7 & 3, par >> 56) == (3, 0xFF)


def test_stage_1_of_a_nested_bank_gives_the_ipa(board: Board) -> None:
    assert gats(board, GATS1["UR"], VA, 2) & PA_BITS == IPA
    assert gats(board, GATS12["UR"], VA, 2) & PA_BITS == PA
    assert ats(board, 2, ATS1["UR"], VA) & PA_BITS == IPA


def test_stage_2_alone(board: Board) -> None:
    assert gats(board, GATS12["UW"], IPA, 1) & (PA_BITS | 1) == PA
    assert gats(board, GATS1["UR"], IPA, 1) & 1 == 1, "a stage-2 bank has no stage 1"


@pytest.mark.parametrize(
    ("kind", "change", "fails"),
    [
        ("UW", 1 << 7, True),
        ("PW", 1 << 7, True),
        ("UR", 1 << 7, False),
        ("UR", 1 << 6, True),
        ("PR", 1 << 6, False),
        ("PR", 1 << 10, True),
        ("PR", 1, True),
    ],
)
def test_failure_is_f_and_no_fault(board: Board, kind: str, change: int, fails: bool) -> None:
    board.alone.put(VA, PA | PAGE_1 ^ change)  # type: ignore[attr-defined]
    assert gats(board, GATS1[kind], VA, 0) & 1 == fails
    assert ats(board, 0, ATS1[kind], VA) & 1 == fails
    assert board.read(cb(0, FSR)) == 0
    assert board.pending == []
    assert board.smmu.counters()["faults"] == 0


def test_failure_in_stage_2(board: Board) -> None:
    board.two.put(IPA, PA | PAGE_2 & ~(1 << 7))  # type: ignore[attr-defined]
    assert gats(board, GATS12["UW"], VA, 2) & 1
    assert not gats(board, GATS12["UR"], VA, 2) & 1
    assert not gats(board, GATS1["UW"], VA, 2) & 1
    board.two.put(TABLES, 0)  # type: ignore[attr-defined]
    assert gats(board, GATS12["UR"], VA, 2) & 1


@pytest.mark.parametrize("bank", [3, 15, 16, 0xFFF])
def test_a_bank_that_cannot(board: Board, bank: int) -> None:
    assert gats(board, GATS12["UR"], VA, bank) & 1


def test_a_bank_that_is_off_is_an_identity(board: Board) -> None:
    board.write(cb(0), 0x60)
    assert gats(board, GATS1["UR"], VA, 0) == VA
    board.write(cb(0), M)
    assert gats(board, GATS1["UR"], VA, 0) & PA_BITS == PA


def test_what_is_cached_does_not_matter(board: Board) -> None:
    board.stream(0, HPC0, 0)
    assert board.pa(VA) == PA
    board.alone.put(VA, PA + 0x1000 | PAGE_1)  # type: ignore[attr-defined]
    assert board.pa(VA) == PA
    assert gats(board, GATS1["UR"], VA, 0) & PA_BITS == PA + 0x1000


def test_it_takes_the_time_of_the_walk(board: Board) -> None:
    """Four descriptors of 60 ns and 30 ns to the TCU; the result is there then, not before."""
    board.write64(GATS1["UR"], VA)
    assert board.smmu.registers.peek("GATSR") == 1
    board.scheduler.run(269_999)
    assert board.read64(GPAR) == 0
    board.scheduler.run(270_000)
    assert board.read64(GPAR) & PA_BITS == PA
    assert board.smmu.registers.peek("GATSR") == 0


def test_polling_ends_it(board: Board) -> None:
    board.write64(cb(0, ATS1["PR"]), VA)
    assert [board.read(cb(0, ATSR)) for _ in range(3)] == [1, 1, 0], "270 ns, in polls of 100 ns"
    assert board.scheduler.now_ps == 300_000


def test_a_second_operation_replaces_the_first(board: Board) -> None:
    board.write64(GATS1["UR"], VA)
    board.write64(GATS1["UR"], 0x7000_0000)
    board.run()
    assert board.read64(GPAR) & 1


@pytest.mark.parametrize("va", [0xFFFF_FFFF_8000_1000, 0x1_FFFF_8000_1000])
def test_the_upper_half(board: Board, va: int) -> None:
    upper = RawTables(board)
    upper.put(0xFFFF_8000_1000, PA | PAGE_1)
    board.write(cb(0, TCR), 16 | 16 << 16 | 2 << 30)
    board.write64(cb(0, 0x28), upper.root)
    assert gats(board, GATS1["UR"], va, 0) & (PA_BITS | 1) == PA


def test_another_sign_bit(board: Board) -> None:
    board.write(cb(0, TCR2), 5 | 1 << 4 | 0 << 15)  # SEP = 0: bit 31
    assert gats(board, GATS1["UR"], VA | 1 << 32, 0) & (PA_BITS | 1) == PA, "what lies above is ignored"
    assert gats(board, GATS1["UR"], VA | 1 << 31, 0) & 1, "the upper half, which EPD1 closes"
    board.write(cb(0, TCR2), 5 | 1 << 4 | SEP_UPSTREAM)
    assert gats(board, GATS1["UR"], VA | 1 << 32, 0) & 1


def test_reset_forgets_what_is_under_way(board: Board) -> None:
    board.write64(GATS1["UR"], VA)
    board.smmu.reset()
    board.run()
    assert (board.read64(GPAR), board.read(GATSR)) == (0, 0)


def test_the_non_secure_alias(board: Board) -> None:
    board.write64(0x500, VA)
    while board.read(0x588) & 1:
        pass
    assert board.read64(0x580) & PA_BITS == PA


def test_not_offered_with_atosns() -> None:
    """IDR0.ATOSNS = 1: RAZ/WI, and no time passes."""
    board = Board()
    board.simple()
    for register, value in ((GATS1["UR"], VA), (cb(0, ATS1["UR"]), VA), (cb(0, PAR), 0xFFFF)):
        board.write64(register, value)
    assert [board.read64(at) for at in (GPAR, cb(0, PAR))] == [0, 0]
    assert board.read(GATSR) == board.read(cb(0, ATSR)) == 0
    assert board.scheduler.now_ps == 0


def test_par_stores(board: Board) -> None:
    board.write64(cb(3, PAR), 0x1234_5678_9ABC_DEF0)
    assert board.read64(cb(3, PAR)) == 0x1234_5678_9ABC_DEF0
