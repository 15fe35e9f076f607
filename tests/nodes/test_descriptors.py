from __future__ import annotations

import pytest

from unimem_node.mmu import descriptors as d
from unimem_node.mmu.descriptors import Kind, Rights, Stage2Rights


@pytest.mark.parametrize(
    ("low_bits", "kinds"),
    [
        (0b00, [Kind.INVALID] * 4),
        (0b10, [Kind.INVALID] * 4),
        (0b01, [Kind.RESERVED, Kind.BLOCK, Kind.BLOCK, Kind.RESERVED]),
        (0b11, [Kind.TABLE, Kind.TABLE, Kind.TABLE, Kind.PAGE]),
    ],
)
def test_kinds_by_level(low_bits: int, kinds: list[Kind]) -> None:
    assert [d.kind_of(0x1000 | low_bits, level) for level in range(4)] == kinds


@pytest.mark.parametrize("granule", [14, 16])
def test_larger_granules_have_blocks_at_level_2_only(granule: int) -> None:
    assert [d.kind_of(1, level, granule) for level in range(4)] == [
        Kind.RESERVED, Kind.RESERVED, Kind.BLOCK, Kind.RESERVED,
    ]  # fmt: skip


@pytest.mark.parametrize(
    ("granule", "shifts"), [(12, [39, 30, 21, 12]), (14, [47, 36, 25, 14]), (16, [55, 42, 29, 16])]
)
def test_index_bits_of_each_level(granule: int, shifts: list[int]) -> None:
    assert [d.level_shift(level, granule) for level in range(4)] == shifts


def test_a_leaf_as_linux_writes_it() -> None:
    # io-pgtable-arm: nG | AF | SH inner | AP[1] | AttrIndx 1, with XN because it is not executable
    page = d.leaf(0x8_0000_1000, 3, Rights())
    assert page == 0x8_0000_1000 | (3 << 53) | (1 << 11) | (1 << 10) | (3 << 8) | (1 << 6) | (1 << 2) | 3
    block = d.leaf(
        0x8_0020_0000, 2, Rights(write=False, execute=True, user=False, global_=True, attr_index=2)
    )
    assert block == 0x8_0020_0000 | (1 << 10) | (3 << 8) | (1 << 7) | (2 << 2) | 1


@pytest.mark.parametrize("level", [1, 2, 3])
@pytest.mark.parametrize("flags", range(32))
def test_rights_come_back(level: int, flags: int) -> None:
    write, execute, user, af, global_ = (bool(flags >> i & 1) for i in range(5))
    rights = Rights(
        write=write, execute=execute, user=user, access_flag=af, global_=global_, attr_index=flags % 8
    )
    descriptor = d.leaf(0x40_0000_0000, level, rights)
    assert d.rights_of(descriptor) == rights
    assert d.address_of(descriptor, level) == 0x40_0000_0000


def test_no_read_clears_ap1() -> None:
    assert not d.leaf(0, 3, Rights(read=False, write=False)) & d.AP_USER


@pytest.mark.parametrize(
    ("rights", "message"),
    [
        ({"read": False}, "write-only"),
        ({"attr_index": 8}, "attr_index 8"),
        ({"attr_index": -1}, "attr_index -1"),
    ],
)
def test_rights_that_do_not_exist(rights: dict[str, int], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        Rights(**rights)  # type: ignore[arg-type]


@pytest.mark.parametrize(("pa", "level"), [(0x1000, 2), (0x20_0000, 1), (0x800, 3), (1 << 48, 3)])
def test_a_leaf_must_be_aligned_to_what_it_maps(pa: int, level: int) -> None:
    with pytest.raises(ValueError, match=f"level {level}"):
        d.leaf(pa, level, Rights())


def test_addresses_drop_what_is_not_address() -> None:
    ones = (1 << 64) - 1
    assert d.address_of(ones, 0) == 0xFFFF_FFFF_F000
    assert d.address_of(ones & ~2, 1) == 0xFFFF_C000_0000
    assert d.address_of(ones, 3, 16) == 0xFFFF_FFFF_0000


def test_descriptions() -> None:
    assert d.describe(0, 0) == "invalid"
    assert d.describe(0x1001, 3) == "reserved"
    assert d.describe(0x8_0000_2003 | d.AP_TABLE_READ_ONLY | d.XN_TABLE, 1) == (
        "table 0x8_0000_2000 XNTable APTable[1]"
    )
    assert d.describe(d.leaf(0x20_0000, 2, Rights(write=False, access_flag=False)), 2) == (
        "block 0x20_0000 read-only user PXN UXN nG AF=0 Attr1"
    )


@pytest.mark.parametrize("flags", range(16))
@pytest.mark.parametrize("memattr", [0x0, 0x1, 0x5, 0xF])
def test_rights_of_stage_2_come_back(flags: int, memattr: int) -> None:
    read, write, execute, af = (bool(flags >> i & 1) for i in range(4))
    rights = Stage2Rights(read=read, write=write, execute=execute, access_flag=af, memattr=memattr)
    descriptor = d.leaf(0x40_0000_0000, 2, rights, 16)
    assert d.stage_2_rights_of(descriptor) == rights
    expected = read << 6 | write << 7 | (not execute) << 54 | af << 10 | memattr << 2 | 3 << 8 | 1
    assert descriptor == 0x40_0000_0000 | expected


def test_memattr_has_four_bits() -> None:
    with pytest.raises(ValueError, match="memattr -1"):
        Stage2Rights(memattr=-1)


def test_changes_are_a_mask_and_bits() -> None:
    assert d.stage_1_change() == d.stage_2_change() == (0, 0)
    assert d.stage_1_change(write=False, execute=True) == (d.AP_READ_ONLY | d.PXN | d.UXN, d.AP_READ_ONLY)
    assert d.stage_1_change(read=False) == (d.AP_USER, 0)
    assert d.stage_1_change(read=True, user=False) == (d.AP_USER, 0)
    assert d.stage_1_change(global_=False, attr_index=0) == (d.NOT_GLOBAL | 7 << 2, d.NOT_GLOBAL)
    assert d.stage_2_change(read=False, write=True) == (d.S2AP_READ | d.S2AP_WRITE, d.S2AP_WRITE)
    assert d.stage_2_change(execute=False, memattr=5) == (d.S2_XN | 0xF << 2, d.S2_XN | 5 << 2)
    assert d.stage_2_change(access_flag=True) == (d.AF, d.AF)


def test_descriptions_of_stage_2() -> None:
    leaf = d.leaf(0x20_0000, 2, Stage2Rights(read=False, memattr=1))
    assert d.describe(leaf, 2, stage=2) == "block 0x20_0000 write-only XN AF Device-nGnRE"
    leaf = d.leaf(0x2000, 3, Stage2Rights(read=False, write=False, execute=True, memattr=9)) | d.CONTIGUOUS
    assert d.describe(leaf, 3, stage=2) == "page 0x2000 no-access AF MemAttr=0x9 contiguous"
    leaf = d.leaf(0x2000, 3, Stage2Rights(write=False, access_flag=False))
    assert d.describe(leaf, 3, stage=2) == "page 0x2000 read-only XN AF=0 Write-back"
    assert d.describe(0x2003 | d.XN_TABLE, 1, stage=2) == "table 0x2000"
