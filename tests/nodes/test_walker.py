"""The walk, case by case, on tables written by hand."""

from __future__ import annotations

import pytest

from unimem_node.memory import MemoryBank, PhysicalMemory
from unimem_node.mmu import FaultCode, Regime, WalkResult, walk
from unimem_node.mmu import descriptors as d
from unimem_node.mmu.descriptors import Rights
from unimem_node.mmu.regime import (
    A_AF,
    A_ATTR_SHIFT,
    A_LEAF,
    A_LEVEL2_SHIFT,
    A_LEVEL_SHIFT,
    A_NOT_GLOBAL,
    A_PXN,
    A_READ_ONLY,
    A_SH_SHIFT,
    A_USER,
    A_UXN,
    ACCESS_EXECUTE,
    ACCESS_PRIVILEGED,
    ACCESS_READ,
    ACCESS_WRITE,
)

DRAM = 0x8_0000_0000
L0, L1, L2, L3 = (DRAM + 0x1_0000 * n for n in range(4))
VA = 0x10_1234_5678
PAGE_PA, BLOCK_PA, GIANT_PA = 0x9_0000_5000, 0x9_0020_0000, 0x40_0000_0000
TABLE = d.VALID | d.TABLE
#: Of the attributes: what stands in the descriptor, and its level. Above are permissions and memory types.
BITS_OF_THE_LEAF = (1 << A_LEVEL2_SHIFT) - 1


@pytest.fixture
def memory() -> PhysicalMemory:
    memory = PhysicalMemory([MemoryBank("low", 0, 1 << 20), MemoryBank("dram", DRAM, 1 << 24)])
    put(memory, 0, L1 | TABLE)
    put(memory, 1, L2 | TABLE)
    put(memory, 2, L3 | TABLE)
    put(memory, 3, d.leaf(PAGE_PA, 3, Rights()))
    return memory


def put(memory: PhysicalMemory, level: int, descriptor: int, va: int = VA) -> None:
    table = (L0, L1, L2, L3)[level]
    memory.write64(table + 8 * (va >> d.level_shift(level) & 511), descriptor)


def translate(memory: PhysicalMemory, va: int = VA, access: int = ACCESS_READ, **regime: int) -> WalkResult:
    return walk(memory, Regime(**{"ttbr0": L0, **regime}), va, access)  # type: ignore[arg-type]


def faults(result: WalkResult, kind: FaultCode, level: int) -> bool:
    return (result.fault, result.level, result.pa) == (kind, level, None)


def test_a_page(memory: PhysicalMemory) -> None:
    result = translate(memory)
    assert (result.fault, result.pa, result.size, result.level) == (None, PAGE_PA + 0x678, 4096, 3)
    assert result.attrs & BITS_OF_THE_LEAF == (
        A_LEAF | A_USER | A_PXN | A_UXN | A_AF | A_NOT_GLOBAL
        | 1 << A_ATTR_SHIFT | 3 << A_SH_SHIFT | 3 << A_LEVEL_SHIFT
    )  # fmt: skip
    assert [(s.level, s.address) for s in result.steps] == [
        (0, L0), (1, L1 + 8 * 64), (2, L2 + 8 * (VA >> 21 & 511)), (3, L3 + 8 * (VA >> 12 & 511)),
    ]  # fmt: skip
    assert result.steps[0].value == L1 | TABLE


def test_a_2_mib_block(memory: PhysicalMemory) -> None:
    put(memory, 2, d.leaf(BLOCK_PA, 2, Rights()))
    result = translate(memory)
    assert (result.pa, result.size, result.level) == (BLOCK_PA | VA & 0x1F_FFFF, 2 << 20, 2)


def test_a_1_gib_block(memory: PhysicalMemory) -> None:
    put(memory, 1, d.leaf(GIANT_PA, 1, Rights()))
    result = translate(memory)
    assert (result.pa, result.size, result.level) == (GIANT_PA | VA & 0x3FFF_FFFF, 1 << 30, 1)


@pytest.mark.parametrize("level", range(4))
@pytest.mark.parametrize("descriptor", [0, 0b10, (1 << 64) - 4])
def test_an_invalid_descriptor_is_a_translation_fault_of_its_level(
    memory: PhysicalMemory, level: int, descriptor: int
) -> None:
    put(memory, level, descriptor)
    result = translate(memory)
    assert faults(result, FaultCode.TRANSLATION, level)
    assert len(result.steps) == level + 1


@pytest.mark.parametrize("level", [0, 3])
def test_reserved_encodings_are_translation_faults(memory: PhysicalMemory, level: int) -> None:
    put(memory, level, PAGE_PA | 1)
    assert faults(translate(memory), FaultCode.TRANSLATION, level)


@pytest.mark.parametrize("va", [1 << 48, 1 << 63, (1 << 64) - 1, 0xFFFF << 48, 1 << 55])
def test_outside_both_windows_is_a_translation_fault_of_level_0_without_a_read(
    memory: PhysicalMemory, va: int
) -> None:
    result = translate(memory, va)
    assert faults(result, FaultCode.TRANSLATION, 0)
    assert result.steps == ()


@pytest.mark.parametrize(
    "regime", [{"t0sz": 15}, {"t0sz": 40}, {"t0sz": 0}, {"granule_shift0": 0}, {"epd0": True}]
)
def test_regimes_that_cannot_walk(memory: PhysicalMemory, regime: dict[str, int]) -> None:
    put(memory, 0, L1 | TABLE, va=0)
    for va in (VA, 0):
        result = translate(memory, va, **regime)
        assert faults(result, FaultCode.TRANSLATION, 0)
        assert result.steps == ()


@pytest.mark.parametrize("level", range(3))
def test_a_table_where_no_memory_is_is_an_external_fault(memory: PhysicalMemory, level: int) -> None:
    put(memory, level, 0x7_0000_0000 | TABLE)
    result = translate(memory)
    assert faults(result, FaultCode.EXTERNAL, level + 1)
    assert result.steps[-1].value is None


def test_a_root_where_no_memory_is(memory: PhysicalMemory) -> None:
    assert faults(translate(memory, ttbr0=0x7_0000_0000), FaultCode.EXTERNAL, 0)


@pytest.mark.parametrize("table", [DRAM + (1 << 24), DRAM - 0x1000, 1 << 20])
def test_a_table_next_to_memory_is_not_in_it(memory: PhysicalMemory, table: int) -> None:
    put(memory, 1, table | TABLE)
    assert faults(translate(memory), FaultCode.EXTERNAL, 2)


def test_tables_may_lie_in_different_banks(memory: PhysicalMemory) -> None:
    memory.write64(0x4000 + 8 * (VA >> 21 & 511), L3 | TABLE)
    put(memory, 1, 0x4000 | TABLE)
    assert translate(memory).pa == PAGE_PA + 0x678


@pytest.mark.parametrize("level", range(3))
def test_a_table_address_that_is_too_large_is_an_address_size_fault(
    memory: PhysicalMemory, level: int
) -> None:
    put(memory, level, 0x80_0000_0000 | TABLE)
    assert faults(translate(memory, ips_bits=36), FaultCode.ADDRESS_SIZE, level)
    assert faults(translate(memory, ips_bits=40), FaultCode.EXTERNAL, level + 1)


def test_a_root_that_is_too_large_is_an_address_size_fault_of_level_0(memory: PhysicalMemory) -> None:
    result = translate(memory, ttbr0=1 << 40, ips_bits=40)
    assert faults(result, FaultCode.ADDRESS_SIZE, 0)
    assert result.steps == ()


def test_an_output_address_that_is_too_large(memory: PhysicalMemory) -> None:
    put(memory, 3, d.leaf(0x80_0000_0000, 3, Rights()))
    assert faults(translate(memory, ips_bits=36), FaultCode.ADDRESS_SIZE, 3)
    assert translate(memory, ips_bits=40).pa == 0x80_0000_0678
    put(memory, 3, d.leaf(1 << 36, 3, Rights()))  # the first address that does not fit
    assert faults(translate(memory, ips_bits=36), FaultCode.ADDRESS_SIZE, 3)


def test_access_flag_comes_before_permission_and_permission_before_output_size(
    memory: PhysicalMemory,
) -> None:
    far = 0x80_0000_0000
    put(memory, 3, d.leaf(far, 3, Rights(write=False, access_flag=False)))
    assert faults(translate(memory, access=ACCESS_WRITE, ips_bits=36), FaultCode.ACCESS_FLAG, 3)
    off = translate(memory, access=ACCESS_WRITE, ips_bits=36, af_enabled=False)
    assert faults(off, FaultCode.PERMISSION, 3)
    assert faults(translate(memory, ips_bits=36, af_enabled=False), FaultCode.ADDRESS_SIZE, 3)
    assert translate(memory, af_enabled=False).pa == far + 0x678


R, W, X = ACCESS_READ, ACCESS_WRITE, ACCESS_EXECUTE
PR, PW, PX = (a | ACCESS_PRIVILEGED for a in (R, W, X))


@pytest.mark.parametrize(
    ("bits", "wxn", "allowed"),
    [
        (d.AP_USER, False, {R, W, X, PR, PW}),  # what is writable unprivileged is never executed privileged
        (d.AP_USER | d.AP_READ_ONLY, False, {R, X, PR, PX}),
        (0, False, {X, PR, PW, PX}),
        (d.AP_READ_ONLY, False, {X, PR, PX}),
        (d.AP_USER | d.UXN, False, {R, W, PR, PW}),
        (d.AP_USER | d.AP_READ_ONLY | d.UXN, False, {R, PR, PX}),
        (d.AP_USER | d.AP_READ_ONLY | d.PXN, False, {R, X, PR}),
        (d.AP_USER | d.PXN, False, {R, W, X, PR, PW}),
        (d.AP_USER, True, {R, W, PR, PW}),
        (d.AP_USER | d.AP_READ_ONLY, True, {R, X, PR, PX}),
        (0, True, {X, PR, PW}),
    ],
)
def test_permissions(memory: PhysicalMemory, bits: int, wxn: bool, allowed: set[int]) -> None:
    put(memory, 3, PAGE_PA | d.AF | TABLE | bits)
    results = {access: translate(memory, access=access, wxn=wxn) for access in (R, W, X, PR, PW, PX)}
    assert {access for access, result in results.items() if result.fault is None} == allowed
    for access in results.keys() - allowed:
        assert faults(results[access], FaultCode.PERMISSION, 3)


@pytest.mark.parametrize("level", range(3))
@pytest.mark.parametrize(
    ("table_bits", "sets", "clears"),
    [
        (d.AP_TABLE_READ_ONLY, A_READ_ONLY, 0),
        (d.AP_TABLE_NO_USER, 0, A_USER),
        (d.XN_TABLE, A_UXN, 0),
        (d.PXN_TABLE, A_PXN, 0),
    ],
)
def test_what_a_table_denies_no_leaf_below_grants(
    memory: PhysicalMemory, level: int, table_bits: int, sets: int, clears: int
) -> None:
    put(memory, 3, PAGE_PA | d.AF | TABLE | d.AP_USER)
    plain = translate(memory).attrs & BITS_OF_THE_LEAF
    put(memory, level, (L1, L2, L3)[level] | TABLE | table_bits)
    assert translate(memory, access=PR).attrs & BITS_OF_THE_LEAF == (plain | sets) & ~clears


def test_the_upper_half_uses_ttbr1_with_its_own_granule(memory: PhysicalMemory) -> None:
    # T1SZ 25, granule 64 KiB: 39 bits of input, start level 2 (29 and up)
    root, leaves = DRAM + 0x10_0000, DRAM + 0x20_0000
    va = (1 << 64) - (1 << 39) + (5 << 29) + (7 << 16) + 0x42
    memory.write64(root + 8 * 5, leaves | TABLE)
    memory.write64(leaves + 8 * 7, 0x9_0003_0000 | TABLE | d.AF | d.AP_USER)
    regime = {"ttbr1": root, "t1sz": 25, "granule_shift1": 16, "epd1": False}
    result = translate(memory, va, **regime)
    assert (result.pa, result.size) == (0x9_0003_0042, 1 << 16)
    assert [step.level for step in result.steps] == [2, 3]
    assert faults(translate(memory, va - (1 << 39), **regime), FaultCode.TRANSLATION, 0)
    assert faults(translate(memory, va, **{**regime, "epd1": True}), FaultCode.TRANSLATION, 0)
    assert translate(memory, **regime).pa == PAGE_PA + 0x678


def test_top_byte_ignore(memory: PhysicalMemory) -> None:
    tagged = VA | 0xA5 << 56
    assert translate(memory, tagged, tbi0=True).pa == PAGE_PA + 0x678
    assert faults(translate(memory, tagged), FaultCode.TRANSLATION, 0)
    assert faults(translate(memory, tagged | 1 << 50, tbi0=True), FaultCode.TRANSLATION, 0)
    memory.write64(L0 + 8 * 511, L1 | TABLE)
    upper = (0xFFFF_FF80 << 32) | VA & (1 << 39) - 1
    regime = {"ttbr1": L0, "epd1": False}
    assert translate(memory, upper, **regime).pa == PAGE_PA + 0x678
    assert faults(translate(memory, upper & ~(0xFF << 56), **regime), FaultCode.TRANSLATION, 0)
    assert translate(memory, upper & ~(0xFF << 56), tbi1=True, **regime).pa == PAGE_PA + 0x678


@pytest.mark.parametrize(
    ("granule", "starts"),
    [
        (12, {16: 0, 24: 0, 25: 1, 33: 1, 34: 2, 39: 2}),
        (14, {16: 0, 17: 1, 27: 1, 28: 2, 38: 2, 39: 3}),
        (16, {16: 1, 21: 1, 22: 2, 34: 2, 35: 3, 39: 3}),
    ],
)
def test_start_levels(memory: PhysicalMemory, granule: int, starts: dict[int, int]) -> None:
    for t0sz, level in starts.items():
        result = translate(memory, 0, ttbr0=DRAM + 0x80_0000, t0sz=t0sz, granule_shift0=granule)
        assert faults(result, FaultCode.TRANSLATION, level)  # the table is empty


def test_low_bits_of_the_base_are_ignored_by_the_size_of_the_start_table(memory: PhysicalMemory) -> None:
    # T0SZ 25, 4 KiB: start level 1 with 512 entries; T0SZ 30: 16 entries of 128 bytes
    put(memory, 1, d.leaf(GIANT_PA, 1, Rights()), va=3 << 30)
    assert translate(memory, 3 << 30, ttbr0=L1 + 0xFF8, t0sz=25).pa == GIANT_PA
    assert translate(memory, 3 << 30, ttbr0=L1 + 0x78, t0sz=30).pa == GIANT_PA
    assert faults(translate(memory, 3 << 30, ttbr0=L1 + 0x80, t0sz=30), FaultCode.TRANSLATION, 1)


@pytest.mark.parametrize("granule", [14, 16])
def test_larger_granules_have_no_level_1_blocks(memory: PhysicalMemory, granule: int) -> None:
    memory.write64(DRAM + 0x80_0000, 0x9_0000_0000 | d.VALID | d.AF | d.AP_USER)
    result = translate(memory, 0, ttbr0=DRAM + 0x80_0000, t0sz=20, granule_shift0=granule)
    assert faults(result, FaultCode.TRANSLATION, 1)


def test_a_walk_in_words(memory: PhysicalMemory) -> None:
    lines = translate(memory).describe().splitlines()
    assert lines[0] == "read of 0x10_1234_5678 goes to 0x9_0000_5678"
    assert lines[1] == "  level 0 at 0x8_0000_0000: table 0x8_0001_0000"
    assert lines[4] == "  level 3 at 0x8_0003_0a28: page 0x9_0000_5000 read-write user PXN UXN nG AF Attr1"
    put(memory, 2, 0x7_0000_0000 | TABLE)
    lines = translate(memory, access=ACCESS_WRITE | ACCESS_PRIVILEGED).describe().splitlines()
    assert lines[0] == "privileged write of 0x10_1234_5678: external fault at level 3"
    assert lines[4] == "  level 3 at 0x7_0000_0a28: no memory there"


def test_the_row_of_a_regime_serves_as_well(memory: PhysicalMemory) -> None:
    regime = Regime(ttbr0=L0)
    assert walk(memory, regime.row(), VA, ACCESS_READ) == walk(memory, regime, VA, ACCESS_READ)


def test_kinds_of_fault_are_the_bits_of_fsr() -> None:
    assert {k.name: int(k) for k in FaultCode} == {
        "TRANSLATION": 1, "ACCESS_FLAG": 2, "PERMISSION": 3, "EXTERNAL": 4, "TLB_CONFLICT": 5,
        "ADDRESS_SIZE": 7, "UNSUPPORTED": 8,
    }  # fmt: skip
    assert FaultCode.ACCESS_FLAG.words == "access flag fault"
    assert FaultCode.TLB_CONFLICT.words == "TLB conflict"
