"""All that can be wrong in page tables, and what the fault registers must then say.

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
    FSR,
    FSYNR0,
    HPC0,
    IPAFAR,
    PAGE_1,
    PAGE_2,
    SEP_UPSTREAM,
    SPI,
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
