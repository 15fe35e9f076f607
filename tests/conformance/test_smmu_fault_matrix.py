"""Every kind of context fault × stage × level × access: what FSR, FAR, FSYNR0, IPAFAR and CBFRSYNRA say."""

from __future__ import annotations

import pytest

from support.smmu_board import (
    HPC0,
    PAGE_1,
    PAGE_2,
    Board,
    RawTables,
)
from support.smmu_wrong import (
    ACCESSES,
    INPUT,
    OFFSET,
    PA,
    STAGE_1,
    STAGE_2,
    TF,
    Wrong,
    cases,
    expect,
    tcr2_stage_1,
    tcr_stage_2,
)

# ---- one stage


@pytest.mark.parametrize(("wrong", "access"), cases(STAGE_1))
def test_stage_1(wrong: Wrong, access: int) -> None:
    board = Board()
    tables = RawTables(board)
    tables.put(INPUT, PA | PAGE_1)
    wrong.break_it(tables)
    root = tables.root if wrong.root is None else wrong.root
    board.bank(2, root, tcr2=tcr2_stage_1(wrong.size))
    board.stream(0, HPC0, 2)
    board.enable()
    fault = board.fault(INPUT | OFFSET, access)
    expect(
        board, fault, kind=wrong.kind, stage=1, level=wrong.level, access=access, va=INPUT | OFFSET, bank=2
    )


@pytest.mark.parametrize(("wrong", "access"), cases(STAGE_2))
def test_stage_2(wrong: Wrong, access: int) -> None:
    """N9, N10: FAR and IPAFAR are the input address."""
    board = Board()
    tables = RawTables(board)
    tables.put(INPUT, PA | PAGE_2)
    wrong.break_it(tables)
    board.stage_2_bank(2, tables.root if wrong.root is None else wrong.root, tcr=tcr_stage_2(wrong.size))
    board.stream(0, HPC0, 2)
    board.enable()
    fault = board.fault(INPUT | OFFSET, access)
    level, va = wrong.level, INPUT | OFFSET
    expect(board, fault, kind=wrong.kind, stage=2, level=level, access=access, va=va, bank=2, ipa=va)


@pytest.mark.parametrize("access", ACCESSES)
@pytest.mark.parametrize(
    ("va", "tcr"),
    [
        pytest.param(1 << 47, 17 | 1 << 23, id="above-t0sz"),
        pytest.param(0xFFFF_FFFF_FFFF_F000, 16 | 1 << 23, id="epd1"),
        pytest.param(0x1000, 16 | 1 << 7 | 1 << 23, id="epd0"),
        pytest.param(0x1000, 40 | 1 << 23, id="t0sz-too-large"),
        pytest.param(0x1000, 15 | 1 << 23, id="t0sz-too-small"),
        pytest.param(0x1000, 16 | 3 << 14 | 1 << 23, id="reserved-granule"),
        pytest.param(0x1000, 16 | 2 << 14 | 1 << 23, id="16k-granule-not-offered"),
    ],
)
def test_stage_1_range(va: int, tcr: int, access: int) -> None:
    board = Board()
    tables = RawTables(board)
    board.bank(0, tables.root, tcr=tcr)
    board.stream(0, HPC0, 0)
    board.enable()
    expect(board, board.fault(va, access), kind=TF, stage=1, level=0, access=access, va=va, bank=0)


@pytest.mark.parametrize("access", ACCESSES)
@pytest.mark.parametrize(
    ("ipa", "tcr"),
    [
        pytest.param(1 << 39, 25 | 1 << 6 | 5 << 16, id="n09-above-t0sz"),
        pytest.param(0x1000, 25 | 3 << 6 | 5 << 16, id="sl0-reserved"),
        pytest.param(0x1000, 16 | 1 << 6 | 5 << 16, id="more-than-16-tables"),
        pytest.param(0x1000, 34 | 1 << 6 | 5 << 16, id="less-than-one-entry"),
        pytest.param(0x1000, 25 | 1 << 6 | 2 << 14 | 5 << 16, id="16k-granule-not-offered"),
    ],
)
def test_stage_2_range(ipa: int, tcr: int, access: int) -> None:
    board = Board()
    tables = RawTables(board, 1)
    board.stage_2_bank(0, tables.root, tcr=tcr)
    board.stream(0, HPC0, 0)
    board.enable()
    expect(board, board.fault(ipa, access), kind=TF, stage=2, level=0, access=access, va=ipa, bank=0, ipa=ipa)
