"""Descriptors of many pages at once agree with those one by one."""

from __future__ import annotations

import numpy as np
import pytest

from unimem_node.bus import Bus
from unimem_node.kernel.frames import BLOCK, PAGE, FrameAllocator
from unimem_node.kernel.paging_entries import (
    READ_ONLY,
    WRITABLE_PAGE,
    YOUNG,
    Entries,
    pages,
    runs,
)
from unimem_node.memory import MemoryBank, PhysicalMemory
from unimem_node.mmu.tables import PageTable

VA = 1 << 30


class Tables:
    def __init__(self) -> None:
        self.memory = PhysicalMemory([MemoryBank("dram", 0, 8 << 20)])
        bus = Bus(self.memory)
        self.frames = FrameAllocator(bus, [(PAGE, (8 << 20) - PAGE)])
        self.retired: list[int] = []
        self.table = PageTable(bus, self.frames.page, self.retired.append)
        self.entries = Entries(self.table, bus)


@pytest.fixture
def tables() -> Tables:
    return Tables()


def test_what_is_written_is_what_a_lookup_finds(tables: Tables) -> None:
    vas = pages(VA + BLOCK - 3 * PAGE, 6)[[0, 2, 3, 5]]  # holes, and two tables
    words = np.array([0x10_0000, 0x20_0000, 0x30_0000, 0x40_0000], np.uint64) | WRITABLE_PAGE
    words[2] |= READ_ONLY
    tables.entries.write(vas, words)
    for va, word in zip(vas.tolist(), words.tolist(), strict=True):
        leaf = tables.table.lookup(va)
        assert leaf is not None
        assert leaf.pa == word & 0xFFFF_FFFF_F000
        assert leaf.rights.write == (va != vas[2])
    assert tables.entries.read(pages(VA + BLOCK - 3 * PAGE, 6)).tolist() == [
        words[0], 0, words[1], words[2], 0, words[3]
    ]  # fmt: skip
    tables.entries.write(vas[1:3], np.zeros(2, np.uint64))
    assert tables.table.lookup(int(vas[1])) is None
    assert tables.table.lookup(int(vas[3])) is not None


def test_nothing_is_allocated_to_read_or_clear_what_is_not_there(tables: Tables) -> None:
    free = tables.frames.free_bytes
    vas = pages(VA, 2000)
    assert not tables.entries.read(vas).any()
    tables.entries.write(vas, np.zeros(2000, np.uint64))
    assert tables.frames.free_bytes == free


@pytest.mark.parametrize("size", [BLOCK, 1 << 30])
def test_pages_of_a_block_have_descriptors_as_if_they_were_small(tables: Tables, size: int) -> None:
    tables.table.map(VA, 4 << 30, size)
    vas = pages(VA + 5 * PAGE, 3)
    words = tables.entries.read(vas)
    assert words.tolist() == [(4 << 30) + n * PAGE | int(WRITABLE_PAGE) for n in (5, 6, 7)]
    assert tables.entries.block(VA) == (4 << 30 if size == BLOCK else 0)
    tables.entries.write(vas, words & ~YOUNG)  # a block has one access flag
    leaf = tables.table.lookup(VA + 9 * PAGE)
    assert leaf is not None
    assert (leaf.size, leaf.rights.access_flag) == (BLOCK, False)
    tables.entries.write(vas[:1], np.zeros(1, np.uint64))
    assert tables.table.lookup(VA + 5 * PAGE) is None
    split = tables.table.lookup(VA + 9 * PAGE)
    assert split is not None
    assert (split.size, split.pa) == (PAGE, (4 << 30) + 9 * PAGE)


def test_a_whole_block_changes_its_rights_as_a_block(tables: Tables) -> None:
    tables.table.map(VA, BLOCK, BLOCK)
    vas = pages(VA, 512)
    tables.entries.write(vas, tables.entries.read(vas) | READ_ONLY)
    leaf = tables.table.lookup(VA)
    assert leaf is not None
    assert (leaf.size, leaf.rights.write) == (BLOCK, False)
    free = tables.frames.free_bytes
    tables.entries.write(vas[3:5], tables.entries.read(vas[3:5]))  # no change
    assert tables.frames.free_bytes == free
    tables.entries.write(vas[3:5], tables.entries.read(vas[3:5]) & ~READ_ONLY)
    assert tables.frames.free_bytes == free - PAGE


def test_a_whole_block_goes_without_a_table_to_split_it_into(tables: Tables) -> None:
    free = tables.frames.free_bytes
    tables.table.map(VA, BLOCK, 2 * BLOCK)
    hog = tables.frames.extents(tables.frames.free_bytes)
    tables.entries.write(pages(VA, 512), np.zeros(512, np.uint64))
    with pytest.raises(MemoryError):
        tables.entries.write(pages(VA + BLOCK, 511), np.zeros(511, np.uint64))
    assert tables.table.lookup(VA) is None
    tables.entries.write(pages(VA + BLOCK, 512), np.zeros(512, np.uint64))
    tables.frames.free_all(hog)
    for page in tables.retired:
        tables.frames.free(page)
    assert tables.frames.free_bytes == free


def test_runs_of_pages() -> None:
    assert list(runs(pages(VA, 5)[[0, 1, 3, 4]])) == [(VA, 2 * PAGE), (VA + 3 * PAGE, 2 * PAGE)]
    assert list(runs(pages(VA, 0))) == []
