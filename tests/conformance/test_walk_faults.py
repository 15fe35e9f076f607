"""Every fault a walk can end with: kind × stage × level × access, for each granule; and its syndrome.

Typed from the chip facts, sections 5 and 8 (Arm ARM, D8: descriptors, permissions, order of checks). Tables
are written by hand. What registers then say of a fault is the business of `test_smmu_fault_matrix` and
`test_smmu_nested_faults`.
"""

from __future__ import annotations

from dataclasses import dataclass, replace

import pytest

from unimem_node.memory import MemoryBank, PhysicalMemory
from unimem_node.mmu import FaultCode, Regime, WalkResult, walk

TF, AFF, PF = FaultCode.TRANSLATION, FaultCode.ACCESS_FLAG, FaultCode.PERMISSION
EF, ASF = FaultCode.EXTERNAL, FaultCode.ADDRESS_SIZE

R, W, PR, PW, X, PX = 0, 1, 2, 3, 4, 6
ACCESS_NAMES = {
    R: "read", W: "write", PR: "privileged-read", PW: "privileged-write", X: "fetch", PX: "privileged-fetch",
}  # fmt: skip
ACCESSES = [pytest.param(access, id=name) for access, name in ACCESS_NAMES.items()]

#: Lowest bit of the index of levels 0 to 3; the levels of 48 bits of input, by stage; those with blocks.
LOW = {12: (39, 30, 21, 12), 14: (47, 36, 25, 14), 16: (55, 42, 29, 16)}
LEVELS = {(12, 1): (0, 1, 2, 3), (14, 1): (0, 1, 2, 3), (16, 1): (1, 2, 3),
          (12, 2): (0, 1, 2, 3), (14, 2): (1, 2, 3), (16, 2): (1, 2, 3)}  # fmt: skip
BLOCKS = {12: (1, 2), 14: (2,), 16: (2,)}
GRANULES = (12, 14, 16)
SHAPES = [pytest.param(g, s, id=f"{1 << g - 10}K-stage{s}") for g in GRANULES for s in (1, 2)]

DRAM = 0x8_0000_0000
HOLE = 0x7_0000_0000  # no memory there
BEYOND = 1 << 36  # more than 36 bits
PA = 0x9_8000_0000
TABLE, AF = 3, 1 << 10
#: A leaf that allows everything: stage 1 to both privileges as far as reading goes, stage 2 all.
OPEN = {1: AF | 1 << 7 | 1 << 6, 2: AF | 1 << 7 | 1 << 6 | 0xF << 2}
USER, READ_ONLY, PXN, UXN = 1 << 6, 1 << 7, 1 << 53, 1 << 54
S2_READ, S2_WRITE, S2_XN = 1 << 6, 1 << 7, 1 << 54


@dataclass
class Raw:
    """One table a level, all on the way of `va`, and the regime that walks them."""

    granule: int
    stage: int
    memory: PhysicalMemory
    at: int = DRAM
    big_endian: bool = False

    def __post_init__(self) -> None:
        self.levels = LEVELS[self.granule, self.stage]
        self.va = sum((2 if level else 1) << low for level, low in enumerate(LOW[self.granule])
                      if level in self.levels)  # fmt: skip
        self.va += 0x568
        for level in self.levels[:-1]:
            self.put(self.table(level + 1) | TABLE, level)
        self.put(PA | OPEN[self.stage] | 3, 3)
        self.regime = Regime(
            stages=self.stage, ttbr0=self.table(self.levels[0]), t0sz=16, granule_shift0=self.granule, sl0=2,
            big_endian=self.big_endian,
        )  # fmt: skip

    def table(self, level: int) -> int:
        """Tables are 128 KiB apart: room for two concatenated."""
        return self.at + level * 0x2_0000

    def entry(self, level: int) -> int:
        """Address of the descriptor that a walk for `va` reads."""
        above = 48 if level == self.levels[0] else LOW[self.granule][level - 1]
        low = LOW[self.granule][level]
        return self.table(level) + 8 * ((self.va >> low) % (1 << above - low))

    def put(self, descriptor: int, level: int) -> None:
        order = "big" if self.big_endian else "little"
        self.memory.write(self.entry(level), descriptor.to_bytes(8, order))  # type: ignore[arg-type]

    def leaf(self, level: int, bits: int, pa: int = PA) -> None:
        """A page or block in place of what the level has."""
        low = LOW[self.granule][level]
        self.put(pa >> low << low | bits | (3 if level == 3 else 1), level)

    def go(self, access: int = R, va: int | None = None, **changes: int) -> WalkResult:
        regime = replace(self.regime, **changes)  # type: ignore[arg-type]
        return walk(self.memory, regime, self.va if va is None else va, access)

    def leaf_levels(self) -> tuple[int, ...]:
        return (*BLOCKS[self.granule], 3)


def raw(granule: int, stage: int, *, big_endian: bool = False) -> Raw:
    memory = PhysicalMemory([MemoryBank("dram", DRAM, 1 << 22)])
    return Raw(granule, stage, memory, big_endian=big_endian)


def faults(result: WalkResult, kind: FaultCode, stage: int, level: int, fetches: int | None = None) -> None:
    assert (result.fault, result.stage, result.level, result.pa) == (kind, stage, level, None)
    assert (result.ptwf, result.ipa) == (False, result.va % (1 << 48) if stage == 2 else None)
    if fetches is not None:
        assert len(result.steps) == fetches


# ---- one stage: what each level can hold


@pytest.mark.parametrize("access", ACCESSES)
@pytest.mark.parametrize(("granule", "stage"), SHAPES)
def test_the_tables_of_these_tests_translate(granule: int, stage: int, access: int) -> None:
    tables = raw(granule, stage)
    allowed = access not in (W, PW) if stage == 1 else True
    for level in reversed(tables.leaf_levels()):
        tables.leaf(level, OPEN[stage])
        low = LOW[granule][level]
        result = tables.go(access)
        assert result.pa == (PA >> low << low | tables.va % (1 << low) if allowed else None)
        assert len(result.steps) == 1 + level - tables.levels[0]


@pytest.mark.parametrize("access", ACCESSES)
@pytest.mark.parametrize("descriptor", [0, 0b10, (1 << 64) - 2], ids=["00", "10", "10-all-ones"])
@pytest.mark.parametrize(("granule", "stage"), SHAPES)
def test_invalid(granule: int, stage: int, descriptor: int, access: int) -> None:
    for level in reversed(LEVELS[granule, stage]):
        tables = raw(granule, stage)
        tables.put(descriptor, level)
        faults(tables.go(access), TF, stage, level, 1 + level - tables.levels[0])


@pytest.mark.parametrize("access", ACCESSES)
@pytest.mark.parametrize(("granule", "stage"), SHAPES)
def test_reserved_and_blocks_of_no_size(granule: int, stage: int, access: int) -> None:
    """Bits 01: reserved at level 3, a block where the granule has blocks, a translation fault elsewhere."""
    for level in reversed(LEVELS[granule, stage]):
        tables = raw(granule, stage)
        tables.put(1 << 40 | OPEN[stage] | 1, level)
        if level in BLOCKS[granule]:
            assert tables.go(R).fault is None
        else:
            faults(tables.go(access), TF, stage, level)


@pytest.mark.parametrize("access", ACCESSES)
@pytest.mark.parametrize(("granule", "stage"), SHAPES)
def test_no_memory_at_a_table(granule: int, stage: int, access: int) -> None:
    tables = raw(granule, stage)
    first, *others = tables.levels
    faults(tables.go(access, ttbr0=HOLE), EF, stage, first, 1)
    for level in reversed(others):
        tables = raw(granule, stage)
        tables.put(HOLE | TABLE, level - 1)
        faults(tables.go(access), EF, stage, level, 1 + level - first)


@pytest.mark.parametrize("access", ACCESSES)
@pytest.mark.parametrize(("granule", "stage"), SHAPES)
def test_a_table_beyond_the_output_size(granule: int, stage: int, access: int) -> None:
    """The level is that of the descriptor that has the address; TTBR's counts as level 0."""
    tables = raw(granule, stage)
    faults(tables.go(access, ttbr0=BEYOND, ips_bits=36), ASF, stage, 0, 0)
    faults(tables.go(access, ttbr0=BEYOND, ips_bits=40), EF, stage, tables.levels[0])
    for level in reversed(tables.levels[:-1]):
        tables = raw(granule, stage)
        tables.put(BEYOND | TABLE, level)
        faults(tables.go(access, ips_bits=36), ASF, stage, level, 1 + level - tables.levels[0])
        faults(tables.go(access, ips_bits=40), EF, stage, level + 1)


@pytest.mark.parametrize("bits", [32, 36, 40, 42, 44])
@pytest.mark.parametrize(("granule", "stage"), SHAPES)
def test_an_output_address_beyond_the_output_size(granule: int, stage: int, bits: int) -> None:
    for level in reversed((*BLOCKS[granule], 3)):
        tables = Raw(granule, stage, PhysicalMemory([MemoryBank("low", 1 << 20, 1 << 22)]), at=1 << 20)
        tables.leaf(level, OPEN[stage], 1 << bits)
        faults(tables.go(R, ips_bits=bits), ASF, stage, level)
        assert tables.go(R, ips_bits=48).fault is None
        last = (1 << bits) - (1 << LOW[granule][level])
        if last > 0:
            tables.leaf(level, OPEN[stage], last)
            assert tables.go(R, ips_bits=bits).fault is None


@pytest.mark.parametrize("access", ACCESSES)
@pytest.mark.parametrize(("granule", "stage"), SHAPES)
def test_access_flag(granule: int, stage: int, access: int) -> None:
    """Before permission, before output size; not at all with SCTLR.AFFD."""
    for level in reversed((*BLOCKS[granule], 3)):
        tables = raw(granule, stage)
        tables.leaf(level, 0, BEYOND)
        faults(tables.go(access, ips_bits=36), AFF, stage, level)
        off = tables.go(access, ips_bits=36, af_enabled=False)
        refused = stage == 2 or access in (R, W)
        faults(off, PF if refused else ASF, stage, level)


@pytest.mark.parametrize(("granule", "stage"), SHAPES)
def test_dirty_bit_modifier_has_no_effect(granule: int, stage: int) -> None:
    """DBM (bit 51) with AP[2] = 1 or S2AP = read-only: a write stays refused."""
    for level in (*BLOCKS[granule], 3):
        tables = raw(granule, stage)
        bits = AF | USER | READ_ONLY if stage == 1 else AF | S2_READ
        tables.leaf(level, bits | 1 << 51)
        faults(tables.go(W), PF, stage, level)
        assert tables.go(R).fault is None


@pytest.mark.parametrize(("granule", "stage"), SHAPES)
def test_big_endian_tables(granule: int, stage: int) -> None:
    """SCTLR.E: descriptors are read in the other order; read in the wrong one they are something else."""
    tables = raw(granule, stage, big_endian=True)
    assert tables.go(R).pa == PA + tables.va % (1 << granule)
    assert tables.go(R, big_endian=False).fault is not None
    assert raw(granule, stage).go(R, big_endian=True).fault is not None


# ---- range checks


@pytest.mark.parametrize("access", ACCESSES)
@pytest.mark.parametrize("granule", GRANULES)
@pytest.mark.parametrize(
    ("va", "changes"),
    [
        (1 << 48, {}), (1 << 55, {}), (1 << 56, {}), (1 << 63, {}),
        ((1 << 64) - (1 << 48) - 1, {"epd1": False}),
        ((1 << 64) - (1 << 47) - 1, {"epd1": False, "t1sz": 17}),
        ((1 << 64) - 8, {"epd1": True}),
        (0x568, {"epd0": True}),
        (1 << 39, {"t0sz": 25}),
        (0x568, {"t0sz": 15}), (0x568, {"t0sz": 40}), (0x568, {"granule_shift0": 0}),
        (1 << 47, {"t0sz": 16, "tbi0": True, "epd0": True}),
    ],
)  # fmt: skip
def test_stage_1_windows(granule: int, va: int, changes: dict[str, int], access: int) -> None:
    """TTBR0's, TTBR1's, the hole between them, EPD0 and EPD1, sizes and granules that do not exist."""
    faults(raw(granule, 1).go(access, va, **changes), TF, 1, 0, 0)


@pytest.mark.parametrize("access", ACCESSES)
@pytest.mark.parametrize("granule", GRANULES)
def test_n09_stage_2_checks_its_input_range(granule: int, access: int) -> None:
    """N9: T0SZ of 17 takes half of what the start tables could."""
    tables = raw(granule, 2)
    faults(tables.go(access, 1 << 48), TF, 2, 0, 0)
    faults(tables.go(access, 1 << 47, t0sz=17), TF, 2, 0, 0)
    faults(tables.go(access, tables.va, sl0=3), TF, 2, 0, 0)
    faults(tables.go(access, tables.va, t0sz=15), TF, 2, 0, 0)
    faults(tables.go(access, 0x568, t0sz=40), TF, 2, 0, 0)


@pytest.mark.parametrize("granule", GRANULES)
def test_the_top_byte_is_ignored_where_tbi_says_so(granule: int) -> None:
    tables = raw(granule, 1)
    tagged = tables.va | 0xA5 << 56
    assert tables.go(R, tagged, tbi0=True).pa == tables.go(R).pa
    faults(tables.go(R, tagged), TF, 1, 0, 0)
    faults(tables.go(R, tagged, tbi1=True), TF, 1, 0, 0)
    faults(tables.go(R, tagged | 1 << 55, tbi0=True), TF, 1, 0, 0)


# ---- permissions: stage 1

#: APTable[1:0] of the tables above, AP[2:1] of the leaf: data accesses that are allowed.
DATA = {
    (0b00, 0b00): {PR, PW}, (0b00, 0b01): {R, W, PR, PW}, (0b00, 0b10): {PR}, (0b00, 0b11): {R, PR},
    (0b01, 0b00): {PR, PW}, (0b01, 0b01): {PR, PW}, (0b01, 0b10): {PR}, (0b01, 0b11): {PR},
    (0b10, 0b00): {PR}, (0b10, 0b01): {R, PR}, (0b10, 0b10): {PR}, (0b10, 0b11): {R, PR},
    (0b11, 0b00): {PR}, (0b11, 0b01): {PR}, (0b11, 0b10): {PR}, (0b11, 0b11): {PR},
}  # fmt: skip
#: AP[2:1], WXN: who may execute when neither UXN nor PXN is set.
EXECUTE = {
    (0b00, 0): {X, PX}, (0b00, 1): {X}, (0b01, 0): {X}, (0b01, 1): set[int](),
    (0b10, 0): {X, PX}, (0b10, 1): {X, PX}, (0b11, 0): {X, PX}, (0b11, 1): {X, PX},
}  # fmt: skip


def judge(tables: Raw, allowed: set[int], stage: int, level: int, **changes: int) -> None:
    """Exactly these accesses pass; the others meet a permission fault of this stage and level."""
    for access in (R, W, PR, PW, X, PX):
        result = tables.go(access, **changes)
        if access in allowed:
            assert result.fault is None, access
        else:
            faults(result, PF, stage, level)


@pytest.mark.parametrize("granule", GRANULES)
@pytest.mark.parametrize(("ap_table", "ap"), DATA)
def test_data_permissions(granule: int, ap_table: int, ap: int) -> None:
    """Whatever level says so: APTable accumulates downwards."""
    effective = (ap & ~(ap_table & 1)) | (ap_table & 2)
    for level in reversed((*BLOCKS[granule], 3)):
        for above in [n for n in LEVELS[granule, 1] if n < level]:
            tables = raw(granule, 1)
            tables.put(tables.table(above + 1) | TABLE | ap_table << 61, above)
            tables.leaf(level, AF | ap << 6)
            judge(tables, DATA[ap_table, ap] | EXECUTE[effective, 0], 1, level)


def test_ap_table_bits_of_two_levels_add_up() -> None:
    tables = raw(12, 1)
    tables.put(tables.table(1) | TABLE | 1 << 61, 0)
    tables.put(tables.table(3) | TABLE | 1 << 62, 2)
    tables.leaf(3, AF | USER)
    judge(tables, DATA[0b11, 0b01] | EXECUTE[0b10, 0], 1, 3)


@pytest.mark.parametrize("granule", GRANULES)
@pytest.mark.parametrize(("ap", "wxn"), EXECUTE)
@pytest.mark.parametrize("never", range(4))
def test_execute_permissions(granule: int, ap: int, wxn: int, never: int) -> None:
    """UXN and PXN of the leaf, XNTable and PXNTable above it, WXN."""
    pxn, uxn = never & 1, never >> 1
    allowed = EXECUTE[ap, wxn] - ({PX} if pxn else set()) - ({X} if uxn else set())
    for level in reversed((*BLOCKS[granule], 3)):
        tables = raw(granule, 1)
        tables.leaf(level, AF | ap << 6 | pxn << 53 | uxn << 54)
        judge(tables, DATA[0, ap] | allowed, 1, level, wxn=wxn)
        for above in [n for n in LEVELS[granule, 1] if n < level]:
            tables = raw(granule, 1)
            tables.put(tables.table(above + 1) | TABLE | pxn << 59 | uxn << 60, above)
            tables.leaf(level, AF | ap << 6)
            judge(tables, DATA[0, ap] | allowed, 1, level, wxn=wxn)


# ---- permissions: stage 2


@pytest.mark.parametrize("granule", GRANULES)
@pytest.mark.parametrize(
    ("bits", "allowed"),
    [
        (0, set()),
        (S2_READ, {R, PR, X, PX}),
        (S2_WRITE, {W, PW}),
        (S2_READ | S2_WRITE, {R, PR, W, PW, X, PX}),
        (S2_XN, set()),
        (S2_READ | S2_XN, {R, PR}),
        (S2_WRITE | S2_XN, {W, PW}),
        (S2_READ | S2_WRITE | S2_XN, {R, PR, W, PW}),
    ],
)
def test_stage_2_permissions(granule: int, bits: int, allowed: set[int]) -> None:
    """S2AP and XN; privilege makes no difference, WXN and table attributes are stage 1's."""
    for level in reversed((*BLOCKS[granule], 3)):
        tables = raw(granule, 2)
        tables.put(tables.table(level) | TABLE | 0x1F << 59, level - 1) if level > tables.levels[0] else None
        tables.leaf(level, AF | bits)
        judge(tables, allowed, 2, level, wxn=True)


# ---- nested


class Nested:
    """Stage 1 whose tables lie at IPAs; stage 2 maps them, and the output, page by page or by block."""

    def __init__(self, granule1: int, granule2: int) -> None:
        self.memory = PhysicalMemory([MemoryBank("dram", DRAM, 1 << 26)])
        self.one = Raw(granule1, 1, self.memory)
        for level in self.one.levels[:-1]:
            self.one.put(self.apart(level + 1) + self.one.table(level + 1) | TABLE, level)
        self.output = 5 << 42
        self.one.put(self.output | AF | USER | READ_ONLY | 3, 3)
        self.granule2 = granule2
        self.spare = DRAM + (1 << 24)
        self.root2 = self.page2(2)
        for level in self.one.levels:
            self.map2(self.ipa(level), self.one.entry(level))
        self.map2(self.output, PA)
        first = self.one.levels[0]
        self.s1 = replace(self.one.regime, ttbr0=self.apart(first) + self.one.table(first))
        self.s2 = Regime(stages=2, ttbr0=self.root2, t0sz=16, granule_shift0=granule2, sl0=2)

    @staticmethod
    def apart(level: int) -> int:
        """Add this to a stage-1 table's address for its IPA: each has its own entries in stage-2 tables."""
        return (level << 42) + (1 << 38)

    def page2(self, pages: int = 1) -> int:
        size = pages << self.granule2
        self.spare = -(-self.spare // size) * size + size
        return self.spare - size

    def ipa(self, level: int) -> int:
        """Where stage 1 says that its descriptor of this level is."""
        return self.apart(level) + self.one.entry(level)

    def where2(self, ipa: int, level: int) -> int:
        """Address of the stage-2 descriptor of this level; tables on the way are made."""
        table, above = self.root2, 48
        for n in LEVELS[self.granule2, 2]:
            low = LOW[self.granule2][n]
            at = table + 8 * ((ipa >> low) % (1 << above - low))
            if n == level:
                return at
            if self.memory.read64(at) & 3 != 3:
                self.memory.write64(at, self.page2() | TABLE)
            table, above = self.memory.read64(at) & 0xFFFF_FFFF_F000, low
        raise AssertionError(level)

    def map2(self, ipa: int, pa: int, bits: int = OPEN[2], level: int = 3) -> None:
        low = LOW[self.granule2][level]
        self.memory.write64(self.where2(ipa, level), pa >> low << low | bits | (3 if level == 3 else 1))

    def go(self, access: int = R, *, s1: Regime | None = None, s2: Regime | None = None) -> WalkResult:
        return walk(self.memory, s1 or self.s1, self.one.va, access, stage_2=s2 or self.s2)


BOTH = [(a, b) for a in GRANULES for b in GRANULES]


def refused(result: WalkResult, kind: FaultCode, level: int, ipa: int, *, ptwf: bool) -> None:
    assert (result.fault, result.stage, result.level, result.ipa, result.ptwf, result.pa) == (
        kind, 2, level, ipa, ptwf, None,
    )  # fmt: skip


@pytest.mark.parametrize(("granule1", "granule2"), BOTH)
def test_nested_walks_translate(granule1: int, granule2: int) -> None:
    """Every fetch of stage 1 is preceded by stage 2's; the entry is the smaller of both."""
    nested = Nested(granule1, granule2)
    result = nested.go()
    small = min(granule1, granule2)
    assert (result.fault, result.stage, result.level) == (None, 1, 3)
    assert result.pa == PA + nested.one.va % (1 << granule1)
    assert result.size == 1 << small
    assert result.ipa == nested.output + nested.one.va % (1 << granule1)
    stage_2 = [(2, level) for level in LEVELS[granule2, 2]]
    expected = [step for level in nested.one.levels for step in (*stage_2, (1, level))] + stage_2
    assert [(step.stage, step.level) for step in result.steps] == expected


@pytest.mark.parametrize("access", ACCESSES)
@pytest.mark.parametrize(("granule1", "granule2"), BOTH)
def test_n07_stage_2_faults_on_the_walk_of_stage_1(granule1: int, granule2: int, access: int) -> None:
    """N7: PTWF, the IPA of the descriptor, the level of stage 2; the fetch is a read, whatever the access."""
    for level in LEVELS[granule1, 1]:
        for level2 in LEVELS[granule2, 2]:
            nested = Nested(granule1, granule2)
            at, ipa = nested.where2(nested.ipa(level), level2), nested.ipa(level)
            nested.memory.write64(at, 0)
            refused(nested.go(access), TF, level2, ipa, ptwf=True)
            if level2 != 3 and level2 not in BLOCKS[granule2]:
                continue
            for bits, kind in (
                (OPEN[2] & ~AF, AFF),
                (OPEN[2] & ~S2_READ, PF),
                (OPEN[2] & ~S2_READ & ~AF, AFF),
            ):
                nested.map2(ipa, nested.one.entry(level), bits, level2)
                refused(nested.go(access), kind, level2, ipa, ptwf=True)
            nested.map2(ipa, 1 << 44, OPEN[2], level2)
            refused(nested.go(access, s2=replace(nested.s2, ips_bits=44)), ASF, level2, ipa, ptwf=True)
            nested.map2(ipa, 1 << 44, OPEN[2], level2)
            result = nested.go(access)  # stage 2 translates to where no memory is: stage 1's fetch fails
            assert (result.fault, result.stage, result.level, result.ptwf) == (EF, 1, level, False)


@pytest.mark.parametrize(("granule1", "granule2"), BOTH)
def test_stage_2_tables_that_fail_on_the_walk_of_stage_1(granule1: int, granule2: int) -> None:
    for level in LEVELS[granule1, 1]:
        for level2 in LEVELS[granule2, 2][:-1]:
            nested = Nested(granule1, granule2)
            at, ipa = nested.where2(nested.ipa(level), level2), nested.ipa(level)
            nested.memory.write64(at, HOLE | TABLE)
            refused(nested.go(), EF, level2 + 1, ipa, ptwf=True)
            nested.memory.write64(at, 1 << 44 | TABLE)
            refused(nested.go(s2=replace(nested.s2, ips_bits=44)), ASF, level2, ipa, ptwf=True)


@pytest.mark.parametrize("memattr", range(16))
def test_ptw_refuses_stage_1_tables_in_device_memory(memattr: int) -> None:
    """SCTLR.PTW of stage 2: MemAttr 0b00xx is Device."""
    for level in range(4):
        nested = Nested(12, 12)
        nested.map2(nested.ipa(level), nested.one.entry(level), OPEN[2] & ~(0xF << 2) | memattr << 2)
        assert nested.go().fault is None
        result = nested.go(s2=replace(nested.s2, ptw=True))
        if memattr < 4:
            refused(result, PF, 3, nested.ipa(level), ptwf=True)
        else:
            assert result.fault is None


@pytest.mark.parametrize("access", ACCESSES)
@pytest.mark.parametrize(("granule1", "granule2"), BOTH)
def test_stage_2_faults_of_the_output_address(granule1: int, granule2: int, access: int) -> None:
    """The IPA is the access's own; a permission fault of stage 1 comes first."""
    first = access in (W, PW)  # the stage-1 page is read-only
    for level2 in LEVELS[granule2, 2]:
        nested = Nested(granule1, granule2)
        ipa = nested.output + nested.one.va % (1 << granule1)

        def check(kind: FaultCode, nested: Nested = nested, ipa: int = ipa, level2: int = level2) -> None:
            for s2 in (nested.s2, replace(nested.s2, ips_bits=44)):
                result = nested.go(access, s2=s2)
                if first:
                    assert (result.fault, result.stage, result.level, result.ipa) == (PF, 1, 3, None)
                elif kind != ASF or s2.ips_bits == 44:
                    refused(result, kind, level2, ipa, ptwf=False)

        nested.memory.write64(nested.where2(ipa, level2), 0)
        check(TF)
        if level2 == 3 or level2 in BLOCKS[granule2]:
            for bits, kind in ((OPEN[2] & ~AF, AFF), (AF | S2_WRITE, PF), (OPEN[2], ASF)):
                nested.map2(ipa, 1 << 44 if kind == ASF else PA, bits, level2)
                check(kind)
        if level2 != 3:
            nested.memory.write64(nested.where2(ipa, level2), 1 << 44 | TABLE)
            check(ASF)
            nested.memory.write64(nested.where2(ipa, level2), HOLE | TABLE)
            check(EF, level2=level2 + 1)


@pytest.mark.parametrize("bits1", range(16))
def test_nested_permissions_are_those_of_both(bits1: int) -> None:
    """Stage 1 AND stage 2; where both refuse, stage 1's fault is the one recorded."""
    ap, pxn, uxn = bits1 & 3, bits1 >> 2 & 1, bits1 >> 3
    by_1 = DATA[0, ap] | (EXECUTE[ap, 0] - ({PX} if pxn else set()) - ({X} if uxn else set()))
    for bits2 in range(8):
        read, write, xn = bits2 & 1, bits2 >> 1 & 1, bits2 >> 2
        by_2 = ({R, PR} if read else set()) | ({W, PW} if write else set())
        by_2 |= {X, PX} if read and not xn else set()
        nested = Nested(12, 14)
        nested.one.put(nested.output | AF | ap << 6 | pxn << 53 | uxn << 54 | 3, 3)
        nested.map2(nested.output, PA, AF | 0xF << 2 | read << 6 | write << 7 | xn << 54)
        for access in (R, W, PR, PW, X, PX):
            result = nested.go(access)
            stage = 1 if access not in by_1 else 2 if access not in by_2 else 0
            assert result.fault == (PF if stage else None), (access, bits2)
            if stage:
                assert (result.stage, result.level, result.ptwf) == (stage, 3, False)
                ipa = nested.output + nested.one.va % (1 << 12)
                assert result.ipa == (ipa if stage == 2 else None)


@pytest.mark.parametrize("access", ACCESSES)
def test_n06_faults_of_stage_1_in_a_nested_walk_stay_stage_1s(access: int) -> None:
    """N6: kinds and levels as without stage 2."""
    for level in range(4):
        nested = Nested(12, 12)
        nested.one.put(0, level)
        result = nested.go(access)
        assert (result.fault, result.stage, result.level, result.ipa) == (TF, 1, level, None)
    nested = Nested(12, 12)
    nested.one.put(nested.output | USER | 3, 3)
    assert (nested.go(access).fault, nested.go(access).stage) == (AFF, 1)
    nested.one.put(1 << 44 | AF | USER | 3, 3)
    result = nested.go(access, s1=replace(nested.s1, ips_bits=44))
    kind = PF if access == PX else ASF  # writable by user: never executed by the privileged
    assert (result.fault, result.stage, result.level) == (kind, 1, 3)
    nested.one.put(1 << 44 | TABLE, 1)
    result = nested.go(access, s1=replace(nested.s1, ips_bits=44))
    assert (result.fault, result.stage, result.level) == (ASF, 1, 1)


def test_a_nested_walk_in_words() -> None:
    """Stage 2's steps are shown with stage 1's; the end says which stage and which address."""
    nested = Nested(16, 16)
    lines = nested.go().describe().splitlines()
    assert lines[0] == (
        f"read of {nested.one.va:#_x} goes to {PA + nested.one.va % 65536:#_x} "
        f"by IPA {nested.output + nested.one.va % 65536:#_x}"
    )
    assert len(lines) == 1 + 3 * 4 + 3
    assert lines[3].endswith("read-write AF Write-back")
    assert lines[4].startswith("  stage 1 level 1 at 0x8_0002_0010: table 0x848_0004_0000")
    assert lines[-1].startswith("  stage 2 level 3 at ")
    nested.map2(nested.ipa(2), nested.one.entry(2), AF | S2_WRITE)
    lines = nested.go(W).describe().splitlines()
    assert lines[0] == (
        f"write of {nested.one.va:#_x}: permission fault at level 3 of stage 2, "
        f"stage-1 descriptor {nested.ipa(2):#_x}"
    )
    assert lines[-1].endswith("write-only AF Device-nGnRnE")
    nested = Nested(16, 16)
    nested.map2(nested.output, PA, AF | S2_WRITE)
    assert nested.go(R).describe().splitlines()[0] == (
        f"read of {nested.one.va:#_x}: permission fault at level 3 of stage 2, "
        f"IPA {nested.output + nested.one.va % 65536:#_x}"
    )
