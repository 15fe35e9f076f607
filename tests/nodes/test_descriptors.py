from __future__ import annotations

import pytest

from unimem_node.mmu import descriptors as d
from unimem_node.mmu.descriptors import Kind, Rights


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
