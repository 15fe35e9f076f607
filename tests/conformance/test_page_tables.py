"""Map, unmap, translate: every granule × input size × leaf size, both stages, neighbours before and after.

The vectors are typed from the chip facts, section 8 (Arm ARM, D8.2): start levels by TxSZ, the address bits
that each level decodes, block sizes, contiguous groups, concatenated start tables. What is built is judged by
the compiled walk, step by step.
"""

from __future__ import annotations

from collections.abc import Iterator

import pytest

from support.page_tables import TableBoard
from unimem_node.mmu import FaultCode, Geometry, Regime, WalkResult, walk
from unimem_node.mmu.regime import STAGE_2

KIB, MIB, GIB = 1 << 10, 1 << 20, 1 << 30

#: Lowest bit of the index into levels 0 to 3, and what a leaf of each level maps.
INDEX_LOW = {12: (39, 30, 21, 12), 14: (47, 36, 25, 14), 16: (55, 42, 29, 16)}
LEAF = {
    12: {1: GIB, 2: 2 * MIB, 3: 4 * KIB},
    14: {2: 32 * MIB, 3: 16 * KIB},
    16: {2: 512 * MIB, 3: 64 * KIB},
}
#: Stage 1: (first TxSZ, last TxSZ, start level).
START = {
    12: [(16, 24, 0), (25, 33, 1), (34, 39, 2)],
    14: [(16, 16, 0), (17, 27, 1), (28, 38, 2), (39, 39, 3)],
    16: [(16, 21, 1), (22, 34, 2), (35, 39, 3)],
}
#: Stage 2: (first T0SZ, last T0SZ, SL0, start level): from two entries to sixteen concatenated tables.
START_2 = {
    12: [(16, 24, 2, 0), (21, 33, 1, 1), (30, 39, 0, 2)],
    14: [(16, 27, 2, 1), (24, 38, 1, 2), (35, 39, 0, 3)],
    16: [(16, 21, 2, 1), (18, 34, 1, 2), (31, 39, 0, 3)],
}
#: Leaves of a contiguous group, and what it maps.
GROUPS = [
    (12, 3, 16, 64 * KIB), (12, 2, 16, 32 * MIB), (12, 1, 16, 16 * GIB),
    (14, 3, 128, 2 * MIB), (14, 2, 32, GIB),
    (16, 3, 32, 2 * MIB), (16, 2, 32, 16 * GIB),
]  # fmt: skip


def rows_1() -> Iterator[object]:
    for granule, ranges in START.items():
        for first, last, start in ranges:
            for txsz in range(first, last + 1):
                for level in LEAF[granule]:
                    for half in ("ttbr0", "ttbr1"):
                        if level >= start:
                            name = f"{1 << granule - 10}K-txsz{txsz}-level{level}-{half}"
                            yield pytest.param(granule, txsz, start, level, half == "ttbr1", id=name)


def rows_2() -> Iterator[object]:
    for granule, ranges in START_2.items():
        for first, last, sl0, start in ranges:
            for t0sz in range(first, last + 1):
                for level in LEAF[granule]:
                    if level >= start:
                        name = f"{1 << granule - 10}K-t0sz{t0sz}-sl0{sl0}-level{level}"
                        yield pytest.param(granule, t0sz, sl0, start, level, id=name)


def pa_of(slot: int, size: int, run: int = 0) -> int:
    """Where a slot of that size is mapped: scattered, and elsewhere in each run."""
    return (slot * 5 + 3 + run) % 97 * size


def steps_are(result: WalkResult, granule: int, bits: int, start: int, level: int) -> None:
    """The walk went from the start level to the leaf's, by the index bits of each."""
    assert [step.level for step in result.steps] == list(range(start, level + 1))
    above = bits
    for step in result.steps:
        low = INDEX_LOW[granule][step.level]
        assert step.address % (8 << (above - low)) == 8 * ((result.va >> low) % (1 << (above - low)))
        above = low


def map_unmap_translate(board: TableBoard, granule: int, start: int, level: int) -> None:
    table, size = board.table, LEAF[granule][level]
    bits = board.geometry.input_bits
    base = (1 << 64) - (1 << bits) if board.geometry.upper else 0
    count = (1 << bits) // size
    slots = sorted({0, count // 2 - 1, count // 2, min(count // 2 + 1, count - 1), count - 1})
    slot = count // 2
    neighbours = [other for other in slots if other != slot]

    def check(other: int, run: int) -> None:
        va, pa = base + other * size, pa_of(other, size, run)
        for offset in (0, 8, size // 2, size - 1):
            result = board.walk(va + offset)
            assert (result.fault, result.pa, result.size, result.level) == (None, pa + offset, size, level)
            steps_are(result, granule, bits, start, level)
        found = table.lookup(va + size - 1)
        assert found is not None
        assert (found.va, found.pa, found.size, found.level) == (va, pa, size, level)

    def is_free(other: int) -> None:
        va = base + other * size
        assert table.lookup(va) is None
        for offset in (0, size - 1):
            result = board.walk(va + offset)
            assert result.fault == FaultCode.TRANSLATION
            assert start <= result.level <= level

    for other in neighbours:
        table.map(base + other * size, pa_of(other, size), size)
    is_free(slot)
    table.map(base + slot * size, pa_of(slot, size), size)
    for other in slots:
        check(other, 0)
    with pytest.raises(ValueError, match="is mapped already"):
        table.map(base + slot * size, 0, size)
    table.unmap(base + slot * size, size)
    is_free(slot)
    table.map(base + slot * size, pa_of(slot, size, 7), size)
    check(slot, 7)
    for other in neighbours:
        check(other, 0)
    for other in slots:
        table.unmap(base + other * size, size)
        is_free(other)
    root_bytes = max(8 * (1 << bits - INDEX_LOW[granule][start]), 1 << granule)
    assert board.out == set(range(table.root, table.root + root_bytes, 1 << granule))
    table.destroy()
    assert board.out == set()


@pytest.mark.parametrize(("granule", "txsz", "start", "level", "upper"), list(rows_1()))
def test_stage_1(granule: int, txsz: int, start: int, level: int, upper: bool) -> None:
    board = TableBoard(Geometry(granule, 64 - txsz, upper=upper))
    map_unmap_translate(board, granule, start, level)


@pytest.mark.parametrize(("granule", "t0sz", "sl0", "start", "level"), list(rows_2()))
def test_stage_2(granule: int, t0sz: int, sl0: int, start: int, level: int) -> None:
    geometry = Geometry(granule, 64 - t0sz, stage=2, start=start)
    assert geometry.sl0 == sl0
    map_unmap_translate(TableBoard(geometry), granule, start, level)


@pytest.mark.parametrize("granule", [12, 14, 16])
@pytest.mark.parametrize("upper", [False, True], ids=["ttbr0", "ttbr1"])
@pytest.mark.parametrize("txsz", range(16, 40))
def test_just_outside_the_window_is_a_translation_fault_of_level_0(
    granule: int, upper: bool, txsz: int
) -> None:
    """The first address that is in neither half, and the last page that is inside."""
    board = TableBoard(Geometry(granule, 64 - txsz, upper=upper))
    page, size = 1 << granule, 1 << 64 - txsz
    edge, outside = ((1 << 64) - size, (1 << 64) - size - 1) if upper else (size - page, size)
    board.table.map(edge, page, page)
    assert board.walk(edge + 1).pa == page + 1
    result = board.walk(outside)
    assert (result.fault, result.level, result.steps) == (FaultCode.TRANSLATION, 0, ())


@pytest.mark.parametrize("granule", [12, 14, 16])
@pytest.mark.parametrize("txsz", [0, 15, 40, 63])
def test_input_sizes_that_do_not_exist(granule: int, txsz: int) -> None:
    board = TableBoard(Geometry(granule, 48))
    result = board.walk(0, t0sz=txsz)
    assert (result.fault, result.level, result.steps) == (FaultCode.TRANSLATION, 0, ())
    with pytest.raises(ValueError, match="not 25 to 48"):
        Geometry(granule, 64 - txsz)


@pytest.mark.parametrize("granule", [12, 14, 16])
@pytest.mark.parametrize("sl0", range(4))
def test_stage_2_start_levels_that_do_not_exist(granule: int, sl0: int) -> None:
    """T0SZ and SL0 that do not fit: translation fault of level 0, stage 2, without a fetch."""
    board = TableBoard(Geometry(granule, 48, stage=2))
    legal = {
        t0sz
        for first, last, code, _ in START_2[granule]
        for t0sz in range(first, last + 1)
        if code == sl0
    }  # fmt: skip
    for t0sz in range(64):
        result = board.walk(0x1000, t0sz=t0sz, sl0=sl0)
        assert (result.fault, result.stage, result.ipa) == (FaultCode.TRANSLATION, 2, 0x1000)
        assert bool(result.steps) == (t0sz in legal)
        assert result.level == 0 or t0sz in legal


@pytest.mark.parametrize(
    ("granule", "bits", "sl0", "least"), [(12, 44, 2, 43), (14, 44, 2, 41), (16, 44, 2, 43)]
)
def test_stage_2_start_levels_that_need_wide_output_addresses(
    granule: int, bits: int, sl0: int, least: int
) -> None:
    """Level 0 (4 KiB) and level 1 (16, 64 KiB) exist where PAmax is above 42, 40 and 42 bits."""
    board = TableBoard(Geometry(granule, bits, stage=2, start=0 if granule == 12 else 1))
    assert board.geometry.sl0 == sl0
    board.table.map(0, 0, 1 << granule)
    for pa_max in (32, 36, 40, 42, 44, 48):
        result = board.walk(5, pa_max=pa_max)
        assert result.pa == (5 if pa_max >= least else None), pa_max


@pytest.mark.parametrize(
    ("granule", "bits", "sl0", "start", "tables"),
    [
        (12, 40, 1, 1, 2), (12, 42, 1, 1, 8), (14, 40, 1, 2, 16), (14, 48, 2, 1, 2), (16, 44, 1, 2, 4),
        (16, 32, 0, 3, 8),
    ],
)  # fmt: skip
def test_n08_concatenated_start_tables_are_different_tables(
    granule: int, bits: int, sl0: int, start: int, tables: int
) -> None:
    """N8: the same index in each of them maps something else."""
    geometry = Geometry(granule, bits, stage=2)
    assert (geometry.sl0, geometry.start_level, geometry.root_bytes) == (sl0, start, tables << granule)
    board = TableBoard(geometry)
    assert board.table.root % (tables << granule) == 0
    one = 1 << bits - tables.bit_length() + 1  # what one start table maps
    page = 1 << granule
    for n in range(tables):
        board.table.map(n * one + 3 * page, (n + 1) * page, page)
    for n in range(tables):
        result = board.walk(n * one + 3 * page + 8)
        assert result.pa == (n + 1) * page + 8
        assert result.steps[0].level == start
        assert result.steps[0].address >> granule == (board.table.root >> granule) + n
    board.table.unmap(one + 3 * page, page)
    assert board.walk(one + 3 * page).fault == FaultCode.TRANSLATION
    assert board.walk(3 * page).pa == page
    with pytest.raises(ValueError, match="needs allocate_root"):
        type(board.table)(board.table._bus, lambda: 0, print, geometry=geometry)


@pytest.mark.parametrize("stage", [1, 2])
@pytest.mark.parametrize(("granule", "level", "leaves", "size"), GROUPS)
def test_contiguous_groups(granule: int, level: int, leaves: int, size: int, stage: int) -> None:
    """A hint enlarges the entry; a part that changes takes the hint from the group and leaves the rest."""
    board = TableBoard(Geometry(granule, 48, stage=stage))
    table, leaf = board.table, size // leaves
    assert leaf == LEAF[granule][level]
    va, pa = 2 * size, 5 * size
    table.map(va - leaf, pa - leaf, size + 2 * leaf, contiguous=True)
    for at in (0, 8, leaf, size // 2, size - 1):
        result = board.walk(va + at)
        assert (result.pa, result.size, result.level) == (pa + at, size, level)
    for at in (-leaf, size):  # beside the group: too few leaves for another
        result = board.walk(va + at)
        assert (result.pa, result.size) == (pa + at, leaf)
    middle = va + leaves // 2 * leaf
    table.protect(middle, leaf, write=False)
    for n in range(leaves):
        result = board.walk(va + n * leaf, 1)
        refused = va + n * leaf == middle
        assert result.fault == (FaultCode.PERMISSION if refused else None)
        assert result.size == leaf
        assert result.pa == (None if refused else pa + n * leaf)
    table.unmap(va, leaf)
    assert board.walk(va).fault == FaultCode.TRANSLATION
    assert board.walk(va - leaf).pa == pa - leaf
    assert board.walk(va + leaf).pa == pa + leaf


@pytest.mark.parametrize(
    ("granule", "va", "pa"), [(12, 1 << 40, 1 << 39), (14, 1 << 40, 1 << 39), (16, 1 << 40, 1 << 39)]
)
@pytest.mark.parametrize("stage", [1, 2])
def test_blocks_are_split_where_a_part_changes(granule: int, va: int, pa: int, stage: int) -> None:
    """A page out of the largest block: every level of the split is there, neighbours translate as before."""
    board = TableBoard(Geometry(granule, 48, stage=stage))
    size, page = max(LEAF[granule].values()), 1 << granule
    board.table.map(va, pa, 2 * size)
    hole = va + size // 2 + 3 * page
    board.table.unmap(hole, page)
    for at in (va, hole - page, hole - 1, hole + page, va + size - 1, va + size, va + 2 * size - 1):
        assert board.walk(at).pa == pa + at - va
    for at in (hole, hole + page - 1):
        assert board.walk(at).fault == FaultCode.TRANSLATION
    sizes = sorted(LEAF[granule].values())
    assert board.walk(hole - page).size == sizes[0]
    assert board.walk(va).size == sizes[-2]
    assert board.walk(va + size).size == sizes[-1]


@pytest.mark.parametrize(
    ("granule0", "granule1"), [(a, b) for a in (12, 14, 16) for b in (12, 14, 16) if a != b]
)
def test_n16_the_two_halves_have_their_own_tables_and_granules(granule0: int, granule1: int) -> None:
    """N16: TTBR1 for the upper half; what lies between faults."""
    lower = TableBoard(Geometry(granule0, 40))
    upper = TableBoard(Geometry(granule1, 44, upper=True))
    lower.table.map(1 << 30, 1 << 39, 1 << granule0)
    top = (1 << 64) - (1 << 44) + (1 << 30)
    upper.table.map(top, 1 << 40, 1 << granule1)

    def go(board: TableBoard, va: int) -> WalkResult:
        regime = Regime(
            ttbr0=lower.table.root, t0sz=24, granule_shift0=granule0,
            ttbr1=upper.table.root, t1sz=20, granule_shift1=granule1, epd1=False,
        )  # fmt: skip
        return walk(board.memory, regime, va, 0)

    assert go(lower, (1 << 30) + 4).pa == (1 << 39) + 4
    assert go(upper, top + 4).pa == (1 << 40) + 4
    for va in (1 << 40, 1 << 55, (1 << 64) - (1 << 44) - 1):
        assert go(lower, va).fault == FaultCode.TRANSLATION
        assert go(lower, va).steps == ()


@pytest.mark.parametrize("granule", [12, 14, 16])
def test_write_only_and_memory_types_of_stage_2(granule: int) -> None:
    """N3: write-only exists in stage 2; execution needs the read permission too."""
    board = TableBoard(Geometry(granule, 40, stage=STAGE_2))
    page = 1 << granule
    board.table.map(0, 0, page, read=False, execute=True, memattr=0x5)
    board.table.map(page, 0, page, write=False, execute=True)
    read, write, execute = 0, 1, 4
    assert [board.walk(0, a).fault for a in (read, write, execute)] == [
        FaultCode.PERMISSION, None, FaultCode.PERMISSION,
    ]  # fmt: skip
    assert [board.walk(page, a).fault for a in (read, write, execute)] == [None, FaultCode.PERMISSION, None]
    board.table.protect(0, 2 * page, read=True, execute=False, memattr=0x1)
    found = board.table.lookup(page)
    assert found is not None
    assert (found.rights.read, found.rights.write, found.rights.execute) == (True, False, False)
    assert found.rights.memattr == 0x1  # type: ignore[union-attr]
