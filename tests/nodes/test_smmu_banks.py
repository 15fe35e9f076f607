"""From a bank's registers to its row of `Arrays.regimes`, and to what stream mapping knows of it."""

from __future__ import annotations

from typing import Any

import pytest

from support.smmu_board import (
    CBA2R,
    CBAR,
    CFCFG,
    HPC0,
    PAGE_1,
    RESUME,
    SCTLR,
    SEP_UPSTREAM,
    TCR,
    TCR2,
    TTBR0,
    TTBR1,
    Board,
    M,
    RawTables,
    cb,
)
from unimem_node.mmu.regime import (
    MODE_BLOCKED,
    MODE_BYPASS,
    MODE_SIGN,
    MODE_TRANSLATE,
    R_EPD1,
    R_GRANULE_SHIFT0,
    R_IPS_BITS,
    R_MAIR,
    R_MODE,
    R_S2,
    R_SIGN_BIT,
    R_STAGES,
    REGIME_COLS,
    STAGE_1,
    STAGE_2,
    Regime,
)
from unimem_node.smmu import GlobalFault, SmmuSpec
from unimem_node.smmu.arrays import R_CONTEXT

VA, PA = 0x4000_0000, 0x100_0000


def row(board: Board, bank: int) -> Any:
    return board.smmu.arrays.regimes[bank]


def test_stage_2_alone() -> None:
    board = Board()
    board.stage_2_bank(
        4,
        0x1234_5000,
        vmid=0x42,
        sctlr=M | 1 << 4 | 1 << 3 | 1 << 13 | 1 << 8,
        tcr=24 | 1 << 6 | 1 << 14 | 2 << 16,
    )
    expected = Regime(
        ttbr0=0x1234_5000, t0sz=24, granule_shift0=16, ips_bits=40, af_enabled=False, big_endian=True, cfg=8,
        vmid=0x42, stages=STAGE_2, s2=4, sl0=1, ptw=True,
    )  # fmt: skip
    assert row(board, 4)[:REGIME_COLS].tolist() == expected.row().tolist()
    assert row(board, 4)[R_CONTEXT] == 1 << 50 | 0x42 << 32 | 4 << 16 | 0xFFFF, (
        "an entry of stage 2, any ASID"
    )


def test_nested() -> None:
    board = Board()
    board.bank(2, 0x8000, asid=7, vmid=3, kind=3, stage_2=9)
    assert "bank 9, has CBAR.TYPE = 2" in board.smmu._banks.states[2].obstacle
    board.stage_2_bank(9, 0x9000, vmid=3)
    state = board.smmu._banks.states[2]
    assert (state.kind, state.enabled, state.obstacle) == (3, True, "")
    found = row(board, 2)
    assert (found[R_STAGES], found[R_S2], found[R_MODE]) == (STAGE_1 | STAGE_2, 9, MODE_TRANSLATE)
    assert found[R_CONTEXT] == 3 << 32 | 2 << 16 | 7
    board.write(cb(9, SCTLR), 0)
    assert (row(board, 2)[R_STAGES], row(board, 2)[R_S2]) == (STAGE_1, 9)
    board.write(cb(2, SCTLR), 0)
    assert (row(board, 2)[R_STAGES], row(board, 2)[R_MODE]) == (0, MODE_BYPASS)
    board.write(cb(9, SCTLR), M)
    assert (row(board, 2)[R_STAGES], row(board, 2)[R_MODE]) == (STAGE_2, MODE_TRANSLATE)
    assert row(board, 2)[R_CONTEXT] == 1 << 50 | 3 << 32 | 2 << 16 | 0xFFFF


@pytest.mark.parametrize(
    ("sep", "bit", "mode"),
    [
        (0, 31, MODE_SIGN),
        (1, 35, MODE_SIGN),
        (2, 39, MODE_SIGN),
        (3, 41, MODE_SIGN),
        (4, 43, MODE_SIGN),
        (5, 47, MODE_SIGN),
        (6, 48, MODE_TRANSLATE),
        (7, 48, MODE_TRANSLATE),
    ],
)
def test_sep(sep: int, bit: int, mode: int) -> None:
    """TCR2.SEP: the bit from which an input address is sign-extended; 7 is that of the upstream bus."""
    board = Board()
    lower, upper = RawTables(board), RawTables(board)
    lower.put(VA, PA | PAGE_1)
    high = -1 << bit & 0xFFFF_FFFF_FFFF
    upper.put(high | 0x1000, PA + 0x1000 | PAGE_1)
    board.bank(0, lower.root, tcr=16 | 16 << 16 | 2 << 30, tcr2=5 | 1 << 4 | sep << 15)
    board.write64(cb(0, TTBR1), upper.root)
    board.stream(0, HPC0, 0)
    board.enable()
    assert (row(board, 0)[R_SIGN_BIT], row(board, 0)[R_MODE]) == (bit, mode)
    for _ in range(2):
        assert board.pa(VA) == PA
        assert board.pa(1 << bit | 0x1000) == PA + 0x1000
    if mode == MODE_SIGN:
        assert board.pa(VA | 2 << bit) == PA, "what lies above the sign is ignored"


def test_sep_7_follows_the_upstream_bus() -> None:
    board = Board(SmmuSpec(idr2=0x5455))  # UBS = 4: 44 bits
    board.bank(0, 0x8000)
    assert (row(board, 0)[R_SIGN_BIT], row(board, 0)[R_MODE]) == (43, MODE_SIGN)


@pytest.mark.parametrize(
    ("pasize", "oas", "bits"),
    [(0, 5, 32), (1, 5, 36), (2, 5, 40), (3, 5, 42), (4, 5, 44), (5, 5, 48), (7, 5, 48), (5, 2, 40)],
)
def test_output_size(pasize: int, oas: int, bits: int) -> None:
    """No larger than IDR2.OAS."""
    board = Board(SmmuSpec(idr2=0x5505 | oas << 4))
    board.bank(0, 0x8000, tcr2=pasize | 1 << 4 | SEP_UPSTREAM)
    board.stage_2_bank(1, 0x9000, tcr=25 | 1 << 6 | pasize << 16)
    assert row(board, 0)[R_IPS_BITS] == row(board, 1)[R_IPS_BITS] == bits


@pytest.mark.parametrize(("cbar", "cba2r", "world"), [(1 << 10, 1, 1), (0, 3, 2), (1 << 10, 3, 2)])
def test_hypervisor_and_monitor(cbar: int, cba2r: int, world: int) -> None:
    """They use TTBR0 only, and have neither VMID nor ASID."""
    board = Board()
    board.bank(0, 0x8000, asid=5, vmid=6, tcr=16)
    board.write(CBAR, 1 << 16 | cbar | 6)
    board.write(CBA2R, cba2r)
    assert row(board, 0)[R_CONTEXT] == world << 48
    assert row(board, 0)[R_EPD1] == 1


def test_hypc_is_a_bit_of_type_1_alone() -> None:
    board = Board()
    board.stage_2_bank(4, 0x9000, vmid=6)
    board.bank(0, 0x8000, asid=5, vmid=6, kind=3, stage_2=4)  # bit 10 of CBAR is bank 4's
    assert row(board, 0)[R_CONTEXT] == 6 << 32 | 5


def test_a1_takes_the_asid_from_ttbr1() -> None:
    board = Board()
    board.bank(0, 0x8000, asid=5, vmid=1)
    board.write64(cb(0, TTBR1), 9 << 48)
    board.write(cb(0, TCR), 16 | 1 << 22)
    assert row(board, 0)[R_CONTEXT] & 0xFFFF == 9
    board.write64(cb(0, TTBR1), 0x1209 << 48)
    board.write(cb(0, TCR2), 5)
    assert row(board, 0)[R_CONTEXT] & 0xFFFF == 9, "8 bits without TCR2.AS"


def test_16_bit_vmids() -> None:
    board = Board(SmmuSpec(idr2=0xD555))
    board.bank(0, 0x8000, vmid=6)
    board.write(CBA2R, 0xABCD << 16 | 1)
    assert row(board, 0)[R_CONTEXT] >> 32 == 6
    board.enable(1 << 31)
    assert row(board, 0)[R_CONTEXT] >> 32 == 0xABCD


def test_mair() -> None:
    board = Board()
    board.write(cb(1, 0x38), 0x4404_00FF)
    board.write(cb(1, 0x3C), 0xF0F0_F0F0)
    assert int(row(board, 1)[R_MAIR]) & (1 << 64) - 1 == 0xF0F0_F0F0_4404_00FF


@pytest.mark.parametrize(
    ("idr0", "kind", "reason"),
    [
        (0xDC01_3E30, 0, "has no such stage"),
        (0xBC01_3E30, 1, "has no such stage"),
        (0xEC01_3E30, 3, "nests no stages"),
    ],
)
def test_what_the_smmu_has_not(idr0: int, kind: int, reason: str) -> None:
    board = Board(SmmuSpec(idr0=idr0))
    board.stage_2_bank(1, 0x9000)
    if kind == 0:
        board.stream(0, HPC0, 1)
    else:
        board.bank(0, 0x8000, kind=kind, stage_2=1 if kind == 3 else 0)
        board.stream(0, HPC0, 0)
    board.enable()
    fault = board.fault(VA)
    assert fault.global_fault is GlobalFault.INVALID_CONTEXT
    assert reason in fault.reason


def test_an_obstacle_of_the_stage_2_bank_is_one_of_those_that_nest_in_it() -> None:
    board = Board()
    board.stage_2_bank(1, 0x9000)
    board.bank(0, 0x8000, kind=3, stage_2=1)
    board.write(CBA2R + 4, 0)
    board.stream(0, HPC0, 0)
    board.enable()
    assert "its stage 2, bank 1: AArch32" in board.fault(VA).reason
    assert row(board, 0)[R_GRANULE_SHIFT0] == 0, "who had the way before finds nothing"
    board.write(cb(1, SCTLR), 0)
    assert board.smmu._banks.states[0].obstacle == "", "no tables are walked: their format does not matter"


def test_a_stall_blocks_rows_until_resume() -> None:
    board = Board()
    tables = RawTables(board)
    board.bank(0, tables.root, sctlr=M | CFCFG)
    board.stream(0, HPC0, 0)
    board.enable()
    epoch = board.smmu.epoch
    assert board.fault(VA).stalls
    assert row(board, 0)[R_MODE] == MODE_BLOCKED
    assert board.smmu.epoch > epoch
    board.write(cb(0, TTBR0), tables.root)
    assert row(board, 0)[R_MODE] == MODE_BLOCKED, "other writes do not free it"
    board.write(cb(0, RESUME), 1)
    assert row(board, 0)[R_MODE] == MODE_TRANSLATE


# ---- N23


@pytest.mark.parametrize(
    ("offset", "value", "size"),
    [
        (cb(0, TTBR0), 2 << 48 | 0x20_0000, 8),
        (cb(0, TCR), 25 | 1 << 23, 4),
        (cb(0, TCR2), 2 | SEP_UPSTREAM, 4),
        (CBAR, 1 << 16 | 9, 4),
        (cb(0, SCTLR), M | 1 << 9, 4),
    ],
)
def test_n23_a_write_changes_a_row_as_a_whole(offset: int, value: int, size: int) -> None:
    """Before and after the write of one register the row is what the registers say; nobody looks between."""
    board = Board()
    board.simple()
    seen: list[list[int]] = []
    changed = board.smmu._mapping_changed

    def observe() -> None:
        seen.append(row(board, 0).tolist())
        changed()

    board.smmu._mapping_changed = observe  # type: ignore[method-assign]
    before = row(board, 0).tolist()
    (board.write64 if size == 8 else board.write)(offset, value)
    after = row(board, 0).tolist()
    assert before != after
    assert seen == [after], "whoever is told of the change sees the new configuration"
