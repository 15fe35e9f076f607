"""Every kind of context fault × stage × level × access: what FSR, FAR, FSYNR0, IPAFAR and CBFRSYNRA say.

Expectations from SMMUv2 ("Fault handling") and the Arm ARM (D8, order of checks), typed here: bits of FSR are
TF 1, AFF 2, PF 3, EF 4, ASF 7; of FSYNR0 PLVL 1:0, WNR 4, PNU 5, IND 6, PTWF 10, S1CBNDX 23:16.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import pytest

from support.smmu_board import (
    CBFRSYNRA,
    FAR,
    FPD_DMA,
    FSR,
    FSYNR0,
    HPC0,
    IPAFAR,
    PAGE_1,
    PAGE_2,
    SCTLR,
    SEP_UPSTREAM,
    SPI,
    TCR,
    TCR2,
    TTBR0,
    Board,
    RawTables,
    cb,
)
from unimem_node.smmu import Fault, FaultKind

TF, AFF, PF, EF, ASF = 1, 2, 3, 4, 7
READ, WRITE, PRIV_READ, PRIV_WRITE, FETCH, PRIV_FETCH = 0, 1, 2, 3, 4, 6
ACCESSES = (READ, WRITE, PRIV_READ, PRIV_WRITE, FETCH, PRIV_FETCH)

#: An input address with another index at each level: 1, 2, 3, 4; and where its page lies.
INPUT = 1 << 39 | 2 << 30 | 3 << 21 | 4 << 12
OFFSET = 0x568
PA = 0x100_0000
HOLE = 0x7_0000_0000  # no memory
BEYOND = 1 << 35  # more than 32 bits
SIZE_MASK = {1: (1 << 30) - 1, 2: (1 << 21) - 1, 3: (1 << 12) - 1}

AF, READ_ONLY, USER, UXN, PXN = 1 << 10, 1 << 7, 1 << 6, 1 << 54, 1 << 53
S2_READ, S2_WRITE, S2_XN = 1 << 6, 1 << 7, 1 << 54

SCTLR_ON = 1 | 1 << 5 | 1 << 6


@dataclass(frozen=True)
class Wrong:
    """One way to be wrong: what is in the tables, the fault, its level, and for which accesses."""

    name: str
    kind: int
    level: int
    break_it: Callable[[RawTables], None]
    accesses: tuple[int, ...] = ACCESSES
    size: int = 48  # output address bits
    root: int | None = None


def leaf(bits: int, level: int, to: int = PA) -> int:
    """A page, or a block of the level."""
    descriptor = (to & ~SIZE_MASK[level]) | bits
    return descriptor if level == 3 else descriptor & ~2


def ways(page: int, permissions: list[tuple[str, int, tuple[int, ...]]]) -> list[Wrong]:
    """All that can be wrong in the tables of a stage; `permissions`: what changes, who is refused."""
    found = []
    for level in range(4):
        found.append(Wrong(f"invalid-l{level}", TF, level, lambda t, n=level: t.put(INPUT, 0, n)))
        found.append(
            Wrong(
                f"invalid-with-bits-l{level}",
                TF,
                level,
                lambda t, n=level: t.put(INPUT, 0xFFFF_FFFF_FFFE, n),
            )
        )
    found.append(Wrong("reserved-l3", TF, 3, lambda t: t.put(INPUT, PA | page & ~2, 3)))
    found.append(Wrong("block-l0", TF, 0, lambda t: t.put(INPUT, PA | page & ~2, 0)))
    found.append(Wrong("root-missing", EF, 0, lambda t: None, root=HOLE))
    found.append(Wrong("root-beyond", ASF, 0, lambda t: None, size=32, root=BEYOND))
    for level in (1, 2, 3):
        found.append(
            Wrong(f"table-missing-l{level}", EF, level, lambda t, n=level: t.put(INPUT, HOLE | 3, n - 1))
        )
        found.append(
            Wrong(
                f"table-beyond-l{level - 1}",
                ASF,
                level - 1,
                lambda t, n=level: t.put(INPUT, BEYOND | 3, n - 1),
                size=32,
            )
        )
        found.append(
            Wrong(
                f"no-access-flag-l{level}",
                AFF,
                level,
                lambda t, n=level: t.put(INPUT, leaf(page & ~AF, n), n),
            )
        )
        found.append(
            Wrong(
                f"output-beyond-l{level}",
                ASF,
                level,
                lambda t, n=level: t.put(INPUT, leaf(page, n, BEYOND), n),
                ACCESSES[:4],
                32,
            )
        )
        for name, change, accesses in permissions:
            found.append(
                Wrong(
                    f"{name}-l{level}",
                    PF,
                    level,
                    lambda t, n=level, c=change: t.put(INPUT, leaf(page ^ c, n), n),
                    accesses,
                )
            )
    return found


STAGE_1 = ways(
    PAGE_1,
    [
        ("privileged-only", USER, (READ, WRITE)),
        ("read-only", READ_ONLY, (WRITE, PRIV_WRITE)),
        ("uxn", UXN, (FETCH,)),
        ("pxn", PXN | READ_ONLY, (PRIV_FETCH,)),
    ],
)
STAGE_2 = ways(
    PAGE_2,
    [
        ("not-readable", S2_READ, (READ, PRIV_READ)),
        ("not-writable", S2_WRITE, (WRITE, PRIV_WRITE)),
        ("xn", S2_XN, (FETCH, PRIV_FETCH)),
    ],
)


def cases(of: list[Wrong]) -> list[object]:
    return [
        pytest.param(wrong, access, id=f"{wrong.name}-{access}") for wrong in of for access in wrong.accesses
    ]


def tcr_stage_2(size: int) -> int:
    """48 bits from level 0, 4 KiB."""
    return 16 | 2 << 6 | {48: 5, 32: 0}[size] << 16


def tcr2_stage_1(size: int) -> int:
    return {48: 5, 32: 0}[size] | 1 << 4 | SEP_UPSTREAM


def expect(
    board: Board,
    fault: Fault,
    *,
    kind: int,
    stage: int,
    level: int,
    access: int,
    va: int,
    bank: int,
    s1_bank: int = 0,
    ipa: int = 0,
    ptwf: bool = False,
    stream_id: int = HPC0,
) -> None:
    """The registers of `bank` tell of this fault, those of all others of none."""
    assert board.read(cb(bank, FSR)) == 0x400 | 1 << kind
    assert board.read64(cb(bank, FAR)) == va
    syndrome = level | (access & 1) << 4 | (access >> 1 & 1) << 5 | (access >> 2 & 1) << 6
    assert board.read(cb(bank, FSYNR0)) == syndrome | ptwf << 10 | s1_bank << 16
    assert board.read(CBFRSYNRA + 4 * bank) == stream_id
    assert board.read64(cb(bank, IPAFAR)) == ipa
    assert [n for n in range(16) if board.read(cb(n, FSR))] == [bank]
    assert board.read(0x48) == 0
    assert board.pending == [SPI]
    assert (fault.kind, fault.stage, fault.level, fault.context_bank) == (FaultKind(kind), stage, level, bank)
    assert (fault.ipa or 0, fault.ptwf, fault.aborts, fault.stalls) == (ipa, ptwf, True, False)


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
