"""Faults of nested translation: of which stage, in which bank, PTWF, IPAFAR, S1CBNDX (N6, N7, N10)."""

from __future__ import annotations

import pytest

from support.smmu_board import (
    CBFRSYNRA,
    FPD_DMA,
    FSR,
    FSYNR0,
    HPC0,
    PAGE_1,
    PAGE_2,
    SCTLR,
    SEP_UPSTREAM,
    TCR,
    TCR2,
    TTBR0,
    Board,
    RawTables,
    cb,
)
from support.smmu_wrong import (
    ACCESSES,
    AF,
    AFF,
    ASF,
    FETCH,
    INPUT,
    OFFSET,
    PA,
    PF,
    PRIV_FETCH,
    PRIV_READ,
    PRIV_WRITE,
    READ,
    READ_ONLY,
    S2_READ,
    S2_WRITE,
    SCTLR_ON,
    STAGE_2,
    TF,
    USER,
    UXN,
    WRITE,
    Wrong,
    cases,
    expect,
    tcr2_stage_1,
    tcr_stage_2,
)
from unimem_node.smmu import FaultKind

# ---- nested: stage 1 in bank 3, stage 2 in bank 5

S1, S2 = 3, 5
VA = 0x4_0123_4000
ALIAS = 1 << 39  # stage-1 tables lie at this IPA above their physical address


class Nested:
    """Both stages; the stage-1 tables are seen at their physical address + ALIAS, the page of VA at INPUT."""

    def __init__(self, *, s2_sctlr: int = SCTLR_ON) -> None:
        self.board = board = Board()
        self.one, self.two = RawTables(board), RawTables(board)
        self.input = INPUT | 1 << 40  # apart from the tables' IPAs at stage 2's level 0
        self.one.put(VA, self.input | PAGE_1)
        entries = [self.one.entry(VA, level) for level in range(4)]
        self.tables = [entry & ~0xFFF for entry in entries]  # of the levels 0 to 3
        for entry, below in zip(entries, self.tables[1:], strict=False):
            board.memory.write64(entry, below | ALIAS | 3)
        for table in self.tables:
            self.two.put(table | ALIAS, table | PAGE_2)
        self.two.put(self.input, PA | PAGE_2)
        board.bank(S1, self.one.root | ALIAS, kind=3, stage_2=S2, vmid=9, tcr2=tcr2_stage_1(48))
        board.stage_2_bank(S2, self.two.root, vmid=9, tcr=tcr_stage_2(48), sctlr=s2_sctlr)
        board.stream(0, HPC0, S1)
        board.enable()

    def descriptor(self, level: int) -> int:
        """Physical address of stage 1's descriptor for VA."""
        shift = 39 - 9 * level
        return self.tables[level] + (VA >> shift & 511) * 8


def test_nested_translates() -> None:
    nested = Nested()
    for access in (READ, WRITE, PRIV_READ, PRIV_WRITE, FETCH):
        assert nested.board.pa(VA | OFFSET, access) == PA | OFFSET


@pytest.mark.parametrize("level", range(4))
@pytest.mark.parametrize("access", ACCESSES)
def test_n06_a_stage_1_fault_in_a_nested_bank_stays_one(level: int, access: int) -> None:
    nested = Nested()
    nested.board.memory.write64(nested.descriptor(level), 0)
    fault = nested.board.fault(VA | OFFSET, access)
    va = VA | OFFSET
    expect(nested.board, fault, kind=TF, stage=1, level=level, access=access, va=va, bank=S1)


@pytest.mark.parametrize(
    ("kind", "bits", "access"),
    [
        (AFF, PAGE_1 & ~AF, READ),
        (PF, PAGE_1 | READ_ONLY, WRITE),
        (PF, PAGE_1 & ~USER, READ),
        (PF, PAGE_1 | UXN, FETCH),
        (ASF, PAGE_1 | 1 << 44, WRITE),
    ],
)
@pytest.mark.parametrize("mapped", [True, False], ids=["s2-maps", "s2-faults-too"])
def test_stage_1_comes_before_the_stage_2_of_the_output(
    kind: int, bits: int, access: int, mapped: bool
) -> None:
    nested = Nested()
    board = nested.board
    board.write(cb(S1, TCR2), 3 | 1 << 4 | SEP_UPSTREAM)  # 42 bits out: the tables' IPAs fit
    board.memory.write64(nested.descriptor(3), nested.input | bits)
    if not mapped:
        nested.two.put(nested.input, 0)
    fault = board.fault(VA, access)
    expect(board, fault, kind=kind, stage=1, level=3, access=access, va=VA, bank=S1)


NESTED_2 = [wrong for wrong in STAGE_2 if wrong.size == 48 and wrong.root is None]


@pytest.mark.parametrize(("wrong", "access"), cases(NESTED_2))
def test_nested_stage_2_of_the_output(wrong: Wrong, access: int) -> None:
    """N10: recorded in the stage-2 bank, with VA in FAR, IPA in IPAFAR, and S1CBNDX."""
    nested = Nested()
    board = nested.board
    allowed = PAGE_1 | (READ_ONLY if access == PRIV_FETCH else 0)  # by stage 1
    board.memory.write64(nested.descriptor(3), 1 << 41 | INPUT | allowed)
    moved = Shifted(nested.two, 1 << 41)
    moved.put(INPUT, PA | PAGE_2)
    wrong.break_it(moved)
    fault = board.fault(VA | OFFSET, access)
    expect(
        board, fault, kind=wrong.kind, stage=2, level=wrong.level, access=access, va=VA | OFFSET, bank=S2,
        s1_bank=S1, ipa=1 << 41 | INPUT | OFFSET,
    )  # fmt: skip
    assert fault.s1_bank == S1
    assert f"context bank {S2} for bank {S1}" in fault.describe()


class Shifted(RawTables):
    """The same tables, for input addresses that lie higher."""

    def __init__(self, tables: RawTables, by: int) -> None:
        self.board, self.start, self.root, self.by = tables.board, tables.start, tables.root, by

    def entry(self, address: int, level: int = 3) -> int:
        return super().entry(address | self.by, level)


PTW_KINDS = [
    (TF, 0),
    (AFF, PAGE_2 & ~AF),
    (PF, PAGE_2 & ~S2_READ),
    (PF, PAGE_2 & ~S2_READ & ~S2_WRITE),
]


@pytest.mark.parametrize("level", range(4))
@pytest.mark.parametrize(("kind", "bits"), PTW_KINDS)
@pytest.mark.parametrize("access", ACCESSES)
def test_n07_a_stage_1_table_that_stage_2_refuses(level: int, kind: int, bits: int, access: int) -> None:
    """PTWF, IPAFAR = the descriptor's IPA, S1CBNDX; PLVL is stage 2's."""
    nested = Nested()
    table = nested.tables[level]
    nested.two.put(table | ALIAS, table | bits if bits else 0)
    fault = nested.board.fault(VA | OFFSET, access)
    expect(
        nested.board, fault, kind=kind, stage=2, level=3, access=access, va=VA | OFFSET, bank=S2, s1_bank=S1,
        ipa=nested.descriptor(level) | ALIAS, ptwf=True,
    )  # fmt: skip
    assert "stage-1 descriptor at IPA" in fault.describe()


@pytest.mark.parametrize("level", range(3))
def test_n07_plvl_is_that_of_the_stage_2_walk(level: int) -> None:
    nested = Nested()
    nested.two.put(nested.one.root | ALIAS, 0, level)
    fault = nested.board.fault(VA, WRITE)
    expect(
        nested.board, fault, kind=TF, stage=2, level=level, access=WRITE, va=VA, bank=S2, s1_bank=S1,
        ipa=nested.descriptor(0) | ALIAS, ptwf=True,
    )  # fmt: skip


@pytest.mark.parametrize(("ptw", "memattr", "faults"), [(1, 0x1, True), (1, 0xF, False), (0, 0x1, False)])
def test_ptw_refuses_tables_in_device_memory(ptw: int, memattr: int, faults: bool) -> None:
    nested = Nested(s2_sctlr=SCTLR_ON | ptw << 13)
    for table in nested.tables:
        nested.two.put(table | ALIAS, table | PAGE_2 & ~(0xF << 2) | memattr << 2)
    if not faults:
        assert nested.board.pa(VA) == PA
        return
    fault = nested.board.fault(VA)
    expect(
        nested.board, fault, kind=PF, stage=2, level=3, access=READ, va=VA, bank=S2, s1_bank=S1,
        ipa=nested.descriptor(0) | ALIAS, ptwf=True,
    )  # fmt: skip


def test_n03_write_only_in_stage_2() -> None:
    nested = Nested()
    nested.two.put(nested.input, PA | PAGE_2 & ~S2_READ)
    assert nested.board.pa(VA, WRITE) == PA
    fault = nested.board.fault(VA, READ)
    assert (fault.kind, fault.stage, fault.ipa) == (FaultKind.PERMISSION, 2, nested.input), (
        "by the TLB's entry"
    )
    assert nested.board.pa(VA, WRITE) == PA


def test_one_stage_of_a_pair_switched_off_leaves_the_other() -> None:
    nested = Nested()
    board = nested.board
    board.write(cb(S2, SCTLR), 0)  # stage 1 alone: its tables and its output are physical
    board.write64(cb(S1, TTBR0), nested.one.root)
    for level in range(3):
        board.memory.write64(nested.descriptor(level), nested.tables[level + 1] | 3)
    assert board.pa(VA | OFFSET) == nested.input | OFFSET
    board.write(cb(S2, SCTLR), SCTLR_ON)
    board.write(cb(S1, SCTLR), 0)  # stage 2 alone: the input is an IPA
    assert board.pa(nested.input | OFFSET) == PA | OFFSET
    fault = board.fault(VA)
    assert (fault.stage, fault.context_bank, fault.s1_bank, fault.ipa) == (2, S2, S1, VA)
    board.write(cb(S2, SCTLR), 0)
    assert board.pa(VA | OFFSET) == VA | OFFSET, "neither: identity"


def test_the_bank_that_records_decides_on_abort_and_interrupt() -> None:
    nested = Nested(s2_sctlr=1)
    nested.two.put(nested.input, 0)
    fault = nested.board.fault(VA)
    assert not fault.aborts
    assert nested.board.read(cb(S2, FSR)) == 0x402
    assert nested.board.pending == [], "bank 5 has CFIE = 0, though bank 3 has it"


def test_two_banks_nest_in_one() -> None:
    """Each has its own record of stage 1; of stage 2 the first is kept, MULTI tells of the other."""
    nested = Nested()
    board = nested.board
    board.bank(4, nested.one.root | ALIAS, kind=3, stage_2=S2, vmid=9)
    board.stream(1, FPD_DMA, 4)
    nested.two.put(nested.input, 0)
    board.fault(VA, WRITE, FPD_DMA)
    second = board.fault(VA, READ)
    assert second.multiple
    assert board.read(cb(S2, FSR)) == 0x8000_0402
    assert board.read(cb(S2, FSYNR0)) == 3 | 1 << 4 | 4 << 16
    assert board.read(CBFRSYNRA + 4 * S2) == FPD_DMA


def test_a_change_of_the_stage_2_bank_reaches_those_that_nest_in_it() -> None:
    nested = Nested()
    board = nested.board
    assert board.pa(VA) == PA
    board.write(cb(S2, TCR), 16 | 2 << 6 | 2 << 14 | 5 << 16)  # 16 KiB: not offered
    board.write(0x68, 0)
    board.sync()
    assert board.fault(VA).kind is FaultKind.TRANSLATION
    board.write(0x1000 + 4 * S2, 1 << 16)  # no stage-2 bank any more
    assert "has CBAR.TYPE = 1" in board.fault(VA).reason
