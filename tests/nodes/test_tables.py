"""Building tables: what is mapped, what is refused, and that the neighbours of every change stay."""

from __future__ import annotations

from dataclasses import dataclass, replace
from itertools import pairwise

import numpy as np
import pytest
from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, invariant, rule

from support.page_tables import TableBoard
from unimem_node.bus import Bus
from unimem_node.memory import MemoryBank, PhysicalMemory
from unimem_node.mmu import Geometry, Mapping, PageTable, Regime, walk
from unimem_node.mmu.descriptors import Rights, Stage2Rights
from unimem_node.mmu.regime import ACCESS_EXECUTE, ACCESS_READ, ACCESS_WRITE

DRAM, TABLES = 0x8_0000_0000, 0x8_1000_0000
KIB4, MIB2, GIB = 1 << 12, 1 << 21, 1 << 30
VA, PA = 0x10_0000_0000, 0x40_0000_0000


class Pages:
    """An allocator that hands out dirty pages and knows what is out."""

    def __init__(self, memory: PhysicalMemory, limit: int = 1 << 16) -> None:
        self.memory, self.limit, self.next = memory, limit, TABLES
        self.out: set[int] = set()
        self.spare: list[int] = []

    def allocate(self) -> int:
        if len(self.out) >= self.limit:
            raise MemoryError("no page for a table")
        page = self.spare.pop() if self.spare else self.next
        self.next = max(self.next, page + KIB4)
        self.memory.write(page, b"\xff" * KIB4)
        self.out.add(page)
        return page

    def free(self, page: int) -> None:
        self.out.remove(page)  # KeyError: freed twice
        self.memory.write(page, b"\xff" * KIB4)
        self.spare.append(page)


@dataclass
class Machine:
    memory: PhysicalMemory
    pages: Pages
    table: PageTable

    def translate(self, va: int, access: int = ACCESS_READ) -> int | None:
        return walk(self.memory, Regime(ttbr0=self.table.root), va, access).pa


def make() -> Machine:
    memory = PhysicalMemory([MemoryBank("dram", DRAM, 1 << 30)])
    pages = Pages(memory)
    return Machine(memory, pages, PageTable(Bus(memory), pages.allocate, pages.free))


@pytest.fixture
def machine() -> Machine:
    return make()


@pytest.fixture
def table(machine: Machine) -> PageTable:
    return machine.table


def sizes(table: PageTable, va: int, end: int) -> list[int]:
    """Sizes of the leaves of a range, in order."""
    found = []
    while va < end:
        mapping = table.lookup(va)
        assert mapping is not None
        found.append(mapping.size)
        va = mapping.va + mapping.size
    return found


# --- mapping ------------------------------------------------------------------------------------------


def test_a_fresh_table_maps_nothing(machine: Machine, table: PageTable) -> None:
    assert machine.memory.read(table.root, KIB4) == bytes(KIB4)
    assert table.lookup(VA) is None
    assert table.lookup(-1) is table.lookup(1 << 48) is None


def test_one_page(machine: Machine, table: PageTable) -> None:
    table.map(VA, PA, KIB4)
    assert machine.translate(VA + 0x123) == PA + 0x123
    assert machine.translate(VA - 1) is machine.translate(VA + KIB4) is None
    assert table.lookup(VA + 5) == Mapping(VA, PA, KIB4, 3, Rights())
    assert len(machine.pages.out) == 4


@pytest.mark.parametrize(
    ("va", "pa", "length", "expected"),
    [
        (VA, PA, GIB, [GIB]),
        (VA, PA, MIB2, [MIB2]),
        (VA, PA + MIB2, GIB, [MIB2] * 512),
        (VA, PA + KIB4, MIB2, [KIB4] * 512),
        (VA + MIB2, PA + MIB2, GIB, [MIB2] * 511 + [MIB2]),
        (VA + MIB2 - KIB4, PA + MIB2 - KIB4, MIB2 + 2 * KIB4, [KIB4, MIB2, KIB4]),
        (VA + GIB - MIB2, PA + GIB - MIB2, GIB + 2 * MIB2, [MIB2, GIB, MIB2]),
        ((512 << 30) - GIB, PA, 2 * GIB, [GIB, GIB]),
        (VA, PA, MIB2 + 3 * KIB4, [MIB2] + [KIB4] * 3),
    ],
)
def test_blocks_where_both_addresses_are_aligned(
    machine: Machine, va: int, pa: int, length: int, expected: list[int]
) -> None:
    table = machine.table
    table.map(va, pa, length)
    assert sizes(table, va, va + length) == expected
    for probe in (va, va + KIB4, va + length // 2, va + length - 1):
        assert machine.translate(probe) == pa + probe - va
    assert machine.translate(va - 1) is machine.translate(va + length) is None


def test_pages_only_when_blocks_are_not_wanted(table: PageTable) -> None:
    table.map(VA, PA, MIB2, blocks=False)
    assert sizes(table, VA, VA + MIB2) == [KIB4] * 512


def test_scattered_pages(machine: Machine, table: PageTable) -> None:
    frames = PA + KIB4 * np.random.default_rng(1).permutation(1500)
    table.map_pages(VA + MIB2 - 7 * KIB4, frames, write=False)
    for n in (0, 6, 7, 518, 519, 1499):
        assert machine.translate(VA + MIB2 + (n - 7) * KIB4 + 1) == frames[n] + 1
    assert table.lookup(VA + MIB2) == Mapping(VA + MIB2, int(frames[7]), KIB4, 3, Rights(write=False))
    assert machine.translate(VA + MIB2 + 1493 * KIB4) is None


def test_the_last_page_of_the_address_space(machine: Machine, table: PageTable) -> None:
    top = (1 << 48) - KIB4
    table.map(top, PA, KIB4)
    table.protect(top, KIB4, write=False)
    assert machine.translate(top + 1) == PA + 1
    table.unmap(top, KIB4)
    assert table.lookup(top) is None


@pytest.mark.parametrize(
    ("rights", "allowed"),
    [
        ({}, {ACCESS_READ, ACCESS_WRITE}),
        ({"write": False}, {ACCESS_READ}),
        ({"execute": True}, {ACCESS_READ, ACCESS_WRITE, ACCESS_EXECUTE}),
        ({"user": False}, set()),
        ({"read": False, "write": False}, set()),
        ({"access_flag": False}, set()),
    ],
)
@pytest.mark.parametrize("length", [KIB4, MIB2, GIB])
def test_rights(
    machine: Machine, table: PageTable, rights: dict[str, bool], allowed: set[int], length: int
) -> None:
    table.map(VA, PA, length, **rights)
    accesses = (ACCESS_READ, ACCESS_WRITE, ACCESS_EXECUTE)
    assert {a for a in accesses if machine.translate(VA + 8, a) is not None} == allowed


# --- refusals: nothing may change ---------------------------------------------------------------------


def image(machine: Machine) -> tuple[set[int], list[bytes]]:
    out = set(machine.pages.out)
    return out, [machine.memory.read(page, KIB4) for page in sorted(out)]


@pytest.mark.parametrize(
    ("va", "pa", "length", "message"),
    [
        (VA + 1, PA, KIB4, "0x10_0000_0001 of 0x1000 bytes: not multiples of 4096"),
        (VA, PA, KIB4 + 8, "not multiples of 4096"),
        (VA, PA + 8, KIB4, "cannot map to 0x40_0000_0008"),
        (VA, PA, 0, "no bytes"),
        (VA, PA, -KIB4, "no bytes"),
        (-KIB4, PA, KIB4, "does not lie in 0x0 to 0xffff_ffff_ffff"),
        ((1 << 48) - KIB4, PA, 2 * KIB4, "does not lie in"),
        (VA, (1 << 48) - KIB4, 2 * KIB4, "beyond 48 bits"),
        (VA, -KIB4, KIB4, "cannot map to"),
        (VA + GIB - KIB4, PA, 2 * KIB4, "0x10_4000_0000 is mapped already, by the block at 0x10_4000_0000"),
        (VA + 3 * GIB - KIB4, PA, 2 * KIB4, "0x10_c000_0000 is mapped already"),
        (VA + 3 * GIB - GIB, PA, 2 * GIB, "0x10_c000_0000 is mapped already"),
    ],
)
def test_a_refused_map_changes_nothing(machine: Machine, va: int, pa: int, length: int, message: str) -> None:
    table = machine.table
    table.map(VA + GIB, PA, GIB)
    table.map(VA + 3 * GIB, PA, KIB4)
    before = image(machine)
    with pytest.raises(ValueError, match=message):
        table.map(va, pa, length)
    assert image(machine) == before


def test_map_pages_names_the_frame_that_is_wrong(machine: Machine, table: PageTable) -> None:
    before = image(machine)
    with pytest.raises(ValueError, match="0x40_0000_0010"):
        table.map_pages(VA, np.array([PA, PA + 0x10]))
    with pytest.raises(ValueError, match="no bytes"):
        table.map_pages(VA, np.array([], np.int64))
    assert image(machine) == before


@pytest.mark.parametrize("spare", range(6))
def test_when_no_page_is_left_for_a_table_nothing_is_changed(
    machine: Machine, table: PageTable, spare: int
) -> None:
    table.map(VA, PA, KIB4)
    before = image(machine)
    machine.pages.limit = len(machine.pages.out) + spare
    with pytest.raises(MemoryError):
        table.map(VA + GIB - KIB4, PA, (512 << 30) + 2 * KIB4, blocks=True)
    assert image(machine) == before


@pytest.mark.parametrize("verb", ["unmap", "protect"])
@pytest.mark.parametrize(
    ("va", "length", "hole"),
    [
        (VA - KIB4, 2 * KIB4, VA - KIB4),
        (VA, MIB2 + 2 * KIB4, VA + MIB2 + KIB4),
        (VA + 512 * GIB, KIB4, VA + 512 * GIB),
        (VA + KIB4, GIB, VA + MIB2 + KIB4),
    ],
)
def test_a_hole_is_named_and_nothing_is_changed(
    machine: Machine, verb: str, va: int, length: int, hole: int
) -> None:
    table = machine.table
    table.map(VA, PA, MIB2 + KIB4)
    before = image(machine)
    with pytest.raises(ValueError, match=rf"cannot {verb} .*: {hole:#_x} is not mapped"):
        table.unmap(va, length) if verb == "unmap" else table.protect(va, length, write=False)
    assert image(machine) == before


def test_rights_that_do_not_exist_are_refused(machine: Machine, table: PageTable) -> None:
    table.map(VA, PA, KIB4)
    before = image(machine)
    with pytest.raises(ValueError, match="write-only"):
        table.map(VA + KIB4, PA, KIB4, read=False)
    with pytest.raises(ValueError, match="write-only"):
        table.protect(VA, KIB4, read=False, write=True)
    with pytest.raises(ValueError, match="attr_index 9"):
        table.protect(VA, KIB4, attr_index=9)
    assert image(machine) == before


# --- unmapping and protecting -------------------------------------------------------------------------


def test_tables_left_empty_are_freed(machine: Machine, table: PageTable) -> None:
    table.map(VA, PA, GIB, blocks=False)
    table.map(VA + GIB, PA, KIB4)
    assert len(machine.pages.out) == 2 + 1 + 512 + 2
    table.unmap(VA, GIB)
    assert len(machine.pages.out) == 2 + 2
    table.unmap(VA + GIB, KIB4)
    assert machine.pages.out == {table.root}


@pytest.mark.parametrize("length", [KIB4, MIB2, 3 * KIB4 + MIB2])
@pytest.mark.parametrize("at", [0, KIB4, MIB2 - KIB4, 5 * MIB2, GIB - MIB2 - 3 * KIB4])
def test_unmapping_a_part_of_a_block_splits_it(
    machine: Machine, table: PageTable, length: int, at: int
) -> None:
    table.map(VA - KIB4, PA - KIB4, GIB + 2 * KIB4)
    table.unmap(VA + at, length)
    for va in (VA - KIB4, VA + at - KIB4, VA + at + length, VA + GIB - KIB4, VA + GIB):
        if not VA + at <= va < VA + at + length:
            assert machine.translate(va + 9) == PA + va - VA + 9
    for va in (VA + at, VA + at + length - 1):
        assert machine.translate(va) is None
    table.map(VA + at, PA + GIB, length)
    assert machine.translate(VA + at) == PA + GIB


def test_splitting_keeps_every_right(table: PageTable) -> None:
    rights = Rights(write=False, execute=True, user=False, access_flag=True, global_=True, attr_index=5)
    table.map(VA, PA, GIB, write=False, execute=True, user=False, global_=True, attr_index=5)
    table.unmap(VA + MIB2 + KIB4, KIB4)
    for va, size in ((VA, MIB2), (VA + MIB2, KIB4), (VA + MIB2 + 2 * KIB4, KIB4), (VA + GIB - MIB2, MIB2)):
        assert table.lookup(va) == Mapping(va, PA + va - VA, size, 2 if size == MIB2 else 3, rights)


def test_a_block_is_broken_before_its_table_is_made() -> None:
    """Break before make: the entry is seen invalid between the block and the table (Arm ARM, D8.16)."""
    machine = make()
    machine.table.map(VA, PA, MIB2)
    writes: list[tuple[int, int]] = []
    bus = machine.table._bus
    original = bus.write64

    def spy(address: int, value: int) -> None:
        writes.append((address, value & 3))
        original(address, value)

    bus.write64 = spy  # type: ignore[method-assign]
    machine.table.unmap(VA, KIB4)
    assert len(writes) == 2
    assert writes[0][0] == writes[1][0]
    assert [kind for _, kind in writes] == [0, 3]


def test_protect_changes_what_is_asked_and_nothing_else(machine: Machine, table: PageTable) -> None:
    table.map(VA, PA, 2 * MIB2)
    table.protect(VA + MIB2 - KIB4, 2 * KIB4, write=False, attr_index=3)
    for va, rights in (
        (VA + MIB2 - 2 * KIB4, Rights()),
        (VA + MIB2 - KIB4, Rights(write=False, attr_index=3)),
        (VA + MIB2, Rights(write=False, attr_index=3)),
        (VA + MIB2 + KIB4, Rights()),
    ):
        mapping = table.lookup(va)
        assert mapping is not None
        assert (mapping.rights, mapping.pa, mapping.size) == (rights, PA + va - VA, KIB4)
    table.protect(VA, 2 * MIB2, write=True)
    assert machine.translate(VA + MIB2, ACCESS_WRITE) == PA + MIB2
    mapping = table.lookup(VA + MIB2)
    assert mapping is not None
    assert mapping.rights == Rights(attr_index=3)


def test_protecting_a_whole_block_does_not_split_it(table: PageTable) -> None:
    table.map(VA, PA, GIB)
    table.protect(VA, GIB, write=False)
    assert sizes(table, VA, VA + GIB) == [GIB]
    table.protect(VA, MIB2, write=True)
    assert sizes(table, VA, VA + GIB) == [MIB2] * 512


@pytest.mark.parametrize("verb", ["unmap", "protect"])
@pytest.mark.parametrize("spare", [0, 1, 2, 3])
def test_when_a_split_finds_no_page_translations_stay(machine: Machine, verb: str, spare: int) -> None:
    table = machine.table
    table.map(VA, PA, 2 * GIB)
    machine.pages.limit = len(machine.pages.out) + spare  # both ends need two tables each
    args = (VA + 5 * KIB4, GIB)
    with pytest.raises(MemoryError):
        table.unmap(*args) if verb == "unmap" else table.protect(*args, write=False)
    for va in (VA, VA + 5 * KIB4, VA + MIB2, VA + GIB - 1, VA + GIB + 5 * KIB4, VA + 2 * GIB - 1):
        assert machine.translate(va, ACCESS_WRITE) == PA + va - VA


def test_destroying_frees_every_table(machine: Machine, table: PageTable) -> None:
    table.map(VA, PA, GIB + MIB2 + KIB4)
    table.map(0, PA, MIB2, blocks=False)
    table.unmap(VA + KIB4, KIB4)
    table.destroy()
    assert machine.pages.out == set()


# --- other shapes -------------------------------------------------------------------------------------


def test_errors_name_addresses_of_the_upper_half() -> None:
    board = TableBoard(Geometry(16, 42, upper=True))
    first, page = (1 << 64) - (1 << 42), 1 << 16
    board.table.map(first, PA, page)
    assert board.table.lookup(first + 5) == Mapping(first, PA, page, 3, Rights())
    assert board.table.lookup(first - 1) is board.table.lookup(1 << 64) is None
    for va, length, message in (
        (first, page, "0xffff_fc00_0000_0000 is mapped already"),
        (first - page, page, "does not lie in 0xffff_fc00_0000_0000 to 0xffff_ffff_ffff_ffff"),
        (first + KIB4, page, "not multiples of 65536"),
        ((1 << 64) - page, 2 * page, "does not lie in"),
    ):
        with pytest.raises(ValueError, match=message):
            board.table.map(va, PA, length)
    with pytest.raises(
        ValueError, match=r"cannot unmap 0xffff_fc00_0000_0000 .* 0xffff_fc00_0001_0000 is not"
    ):
        board.table.unmap(first, 2 * page)
    with pytest.raises(ValueError, match=r"cannot map to .* not a multiple of 65536"):
        board.table.map(first + page, PA + KIB4, page)
    with pytest.raises(ValueError, match="cannot map to 0x1000: not a multiple of 65536"):
        board.table.map_pages(first + page, np.array([KIB4]))


def test_rights_of_the_other_stage_are_refused() -> None:
    one, two = TableBoard(Geometry()), TableBoard(Geometry(stage=2, input_bits=40))
    with pytest.raises(TypeError, match="memattr"):
        one.table.map(VA, PA, KIB4, memattr=5)
    with pytest.raises(TypeError, match="user"):
        two.table.map(VA, PA, KIB4, user=False)
    two.table.map(VA, PA, KIB4)
    with pytest.raises(TypeError, match="attr_index"):
        two.table.protect(VA, KIB4, attr_index=2)
    with pytest.raises(ValueError, match="memattr 16"):
        two.table.protect(VA, KIB4, memattr=16)
    assert two.table.lookup(VA) == Mapping(VA, PA, KIB4, 3, Stage2Rights())


def test_splitting_keeps_every_right_of_stage_2() -> None:
    table = TableBoard(Geometry(14, 40, stage=2)).table
    rights = Stage2Rights(read=False, execute=True, memattr=5)
    size, page = 32 << 20, 1 << 14
    table.map(VA, PA, size, read=False, execute=True, memattr=5)
    table.protect(VA + page, page, read=True, write=None, execute=False)
    for va, expected in ((VA, rights), (VA + page, Stage2Rights(memattr=5)), (VA + 2 * page, rights)):
        assert table.lookup(va) == Mapping(va, PA + va - VA, page, 3, expected)


def test_hints_only_where_both_addresses_are_aligned_to_the_group(machine: Machine, table: PageTable) -> None:
    group = 16 * KIB4

    def hints(va: int, count: int) -> list[bool]:
        found = [table.lookup(va + n * KIB4) for n in range(count)]
        return [m is not None and m.contiguous for m in found]

    table.map(VA, PA + KIB4, group, contiguous=True)
    assert hints(VA, 16) == [False] * 16
    table.map(VA + 3 * group - KIB4, PA + 3 * group - KIB4, 2 * group + 2 * KIB4, contiguous=True)
    assert hints(VA + 3 * group - KIB4, 34) == [False] + [True] * 32 + [False]
    table.map(VA + 8 * group, PA + 8 * group, group)
    assert hints(VA + 8 * group, 16) == [False] * 16
    table.map(VA + MIB2, PA + MIB2, 16 * MIB2, contiguous=True)  # whole 2 MiB blocks, the group not aligned
    assert not any(m.contiguous for m in map(table.lookup, range(VA + MIB2, VA + 17 * MIB2, MIB2)) if m)


def test_a_root_with_fewer_entries_than_a_group_gives_no_hint() -> None:
    board = TableBoard(Geometry(12, 33))  # level 1 with eight entries
    assert board.geometry.root_entries == 8
    board.table.map(0, 0, 8 * GIB, contiguous=True)
    found = board.table.lookup(GIB)
    assert found is not None
    assert (found.size, found.contiguous) == (GIB, False)
    assert board.walk(3 * GIB + 7).size == GIB


@pytest.mark.parametrize("level", [2, 3])
def test_a_contiguous_group_is_broken_before_it_is_made_anew(level: int) -> None:
    """Break before make: all its entries are invalid between the old and the new (Arm ARM, D8.16)."""
    machine = make()
    leaf = MIB2 if level == 2 else KIB4
    machine.table.map(VA, PA, 16 * leaf, contiguous=True)
    cleared: list[tuple[int, int]] = []
    stored: list[tuple[int, list[int]]] = []
    bus = machine.table._bus
    zero, write = bus.zero, bus.write

    def spy_zero(pa: int, n: int) -> None:
        cleared.append((pa, n))
        zero(pa, n)

    def spy_write(pa: int, data: np.ndarray) -> None:
        stored.append((pa, data.tolist()))
        write(pa, data)

    bus.zero, bus.write = spy_zero, spy_write  # type: ignore[method-assign,assignment]
    machine.table.protect(VA + 3 * leaf, leaf, write=False)
    assert len(cleared) == 1
    assert cleared[0][1] == 16 * 8
    assert stored[0][0] == cleared[0][0]
    assert [entry >> 52 & 1 for entry in stored[0][1]] == [0] * 16
    assert [machine.translate(VA + n * leaf, ACCESS_WRITE) for n in (2, 3, 4)] == [
        PA + 2 * leaf, None, PA + 4 * leaf,
    ]  # fmt: skip
    assert sizes(machine.table, VA, VA + 16 * leaf) == [leaf] * 16


def test_a_whole_group_that_changes_keeps_its_hint(machine: Machine, table: PageTable) -> None:
    group = 16 * KIB4
    table.map(VA, PA, 2 * group, contiguous=True)
    table.protect(VA, group, write=False)
    assert [m.contiguous for m in map(table.lookup, (VA, VA + group)) if m] == [True, True]
    table.unmap(VA, group)
    assert machine.translate(VA + group) == PA + group
    found = table.lookup(VA + group)
    assert found is not None
    assert found.contiguous


# --- against a model ----------------------------------------------------------------------------------


@dataclass(frozen=True)
class Run:
    """A run of pages mapped to a run of memory."""

    va: int
    end: int
    pa: int
    rights: Rights

    def cut(self, va: int, end: int) -> Run:
        return replace(self, va=va, end=end, pa=self.pa + va - self.va)


class Model:
    """Page tables as a list of runs; obviously right."""

    def __init__(self) -> None:
        self.runs: list[Run] = []

    def overlaps(self, va: int, end: int) -> list[Run]:
        return [r for r in self.runs if r.va < end and va < r.end]

    def covered(self, va: int, end: int) -> bool:
        return sum(min(r.end, end) - max(r.va, va) for r in self.overlaps(va, end)) == end - va

    def remove(self, va: int, end: int) -> list[Run]:
        taken = []
        for run in self.overlaps(va, end):
            self.runs.remove(run)
            taken.append(run.cut(max(run.va, va), min(run.end, end)))
            self.runs += [run.cut(a, b) for a, b in ((run.va, va), (end, run.end)) if a < b]
        return taken

    def at(self, va: int) -> tuple[int, Rights] | None:
        for run in self.runs:
            if run.va <= va < run.end:
                return run.pa + va - run.va, run.rights
        return None


# Offsets and lengths around the borders of pages, 2 MiB and 1 GiB blocks, in pages.
offsets = st.builds(
    lambda a, b, c: (a << 18) + (b << 9) + c, st.integers(0, 2), st.integers(0, 3), st.integers(-2, 2)
)
lengths = st.builds(
    lambda a, b, c: max(1, (a << 18) + (b << 9) + c),
    st.sampled_from([0, 0, 0, 1]), st.integers(0, 2), st.integers(-2, 3),
)  # fmt: skip


class TablesAgainstRuns(RuleBasedStateMachine):
    """Random maps, unmaps and protects; after each, both sides of every border are compared."""

    def __init__(self) -> None:
        super().__init__()
        self.machine = make()
        self.table = self.machine.table
        self.model = Model()
        self.probes = {VA}

    def range(self, offset: int, pages: int) -> tuple[int, int]:
        va, end = VA + offset * KIB4, VA + (offset + pages) * KIB4
        self.probes |= {va, end}
        return va, end

    @rule(
        offset=offsets,
        pages=lengths,
        shift=st.sampled_from([0, 0, 1 << 18, 1 << 9, 1]),
        flags=st.tuples(*[st.booleans()] * 4),
    )
    def map(self, offset: int, pages: int, shift: int, flags: tuple[bool, bool, bool, bool]) -> None:
        write, execute, blocks, contiguous = flags
        va, end = self.range(offset, pages)
        pa = PA + (offset + shift) * KIB4
        blocks = blocks or pages > 4096
        if taken := self.model.overlaps(va, end):
            first = max(va, min(run.va for run in taken))
            with pytest.raises(ValueError, match=f"{first:#_x} is mapped already"):
                self.table.map(va, pa, end - va, write=write, execute=execute, blocks=blocks)
            return
        self.table.map(va, pa, end - va, write=write, execute=execute, blocks=blocks, contiguous=contiguous)
        self.model.runs.append(Run(va, end, pa, Rights(write=write, execute=execute)))

    @rule(offset=offsets, pages=lengths, seed=st.integers(0, 99))
    def map_pages(self, offset: int, pages: int, seed: int) -> None:
        pages = min(pages, 1030)
        va, end = self.range(offset, pages)
        if self.model.overlaps(va, end):
            return
        frames = PA + KIB4 * np.random.default_rng(seed).permutation(pages)
        self.table.map_pages(va, frames)
        self.model.runs += [
            Run(va + i * KIB4, va + (i + 1) * KIB4, int(pa), Rights()) for i, pa in enumerate(frames)
        ]
        self.probes.add(va + pages // 2 * KIB4)

    @rule(offset=offsets, pages=lengths)
    def unmap(self, offset: int, pages: int) -> None:
        va, end = self.range(offset, pages)
        if not self.model.covered(va, end):
            with pytest.raises(ValueError, match="is not mapped"):
                self.table.unmap(va, end - va)
            return
        self.table.unmap(va, end - va)
        self.model.remove(va, end)

    @rule(offset=offsets, pages=lengths, write=st.sampled_from([None, True, False]), execute=st.booleans())
    def protect(self, offset: int, pages: int, write: bool | None, execute: bool) -> None:
        va, end = self.range(offset, pages)
        if not self.model.covered(va, end):
            with pytest.raises(ValueError, match="is not mapped"):
                self.table.protect(va, end - va, write=write, execute=execute)
            return
        self.table.protect(va, end - va, write=write, execute=execute)
        for run in self.model.remove(va, end):
            rights = replace(run.rights, execute=execute, write=run.rights.write if write is None else write)
            self.model.runs.append(replace(run, rights=rights))

    @invariant()
    def both_sides_of_every_border_agree(self) -> None:
        for border in self.probes:
            for va in (border - KIB4, border, border + KIB4):
                expected, mapping = self.model.at(va), self.table.lookup(va)
                found = None if mapping is None else (mapping.translate(va), mapping.rights)
                assert found == expected, hex(va)
                assert self.machine.translate(va + 5) == (None if expected is None else expected[0] + 5)

    @invariant()
    def no_table_is_empty_or_lost(self) -> None:
        root = self.table.root
        found = {root}
        stack = [(root, 0)]
        while stack:
            page, level = stack.pop()
            entries = np.frombuffer(self.machine.memory.read(page, KIB4), np.uint64)
            assert entries.any() or page == root
            if level < 3:
                below = [int(e) & 0xFFFF_FFFF_F000 for e in entries if int(e) & 3 == 3]
                assert not found & set(below)
                found |= set(below)
                stack += [(child, level + 1) for child in below]
        assert found == self.machine.pages.out


TestTablesAgainstRuns = TablesAgainstRuns.TestCase
TestTablesAgainstRuns.settings = settings(max_examples=60, stateful_step_count=12)


def test_gib_of_pages_is_mapped_by_whole_tables() -> None:
    """The number of bus writes, not the time, is what keeps large maps fast: one for each table."""
    machine = make()
    writes: list[int] = []
    bus = machine.table._bus
    original = bus.write

    def count(pa: int, data: bytes) -> None:
        writes.append(pa)
        original(pa, data)

    bus.write = count  # type: ignore[method-assign,assignment]
    machine.table.map_pages(VA, PA + KIB4 * np.arange(1 << 18))
    assert len(writes) == 1 + 1 + 1 + 512
    assert [machine.translate(va) for va in (VA, VA + GIB - 1)] == [PA, PA + GIB - 1]
    assert all(a != b for a, b in pairwise(writes))
