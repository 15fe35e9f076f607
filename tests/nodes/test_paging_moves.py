"""Huge pages, migration, compaction: what moves, what does not, and what engines see of it."""

from __future__ import annotations

from contextlib import suppress

import pytest

from support.paging_books import check_books, smmu_page
from unimem_node.kernel import READ, Kernel, Process
from unimem_node.kernel.frames import BLOCK, PAGE, Extent
from unimem_node.kernel.paging import PageFault
from unimem_node.mpsoc.node import boot
from unimem_node.mpsoc.soc import Mpsoc

STREAM = 0x14E8
VA = 64 * BLOCK
PAGES = BLOCK // PAGE


class Chip:
    def __init__(self, memory: int = 32 << 20) -> None:
        self.soc = Mpsoc(memory_bytes=memory)
        self.kernel: Kernel = boot(self.soc)
        self.paging = self.kernel.paging
        self.process: Process = self.kernel.spawn(1)
        self.kernel.smmu.attach(STREAM, 0, self.process)

    def small_pages(self, process: Process | None = None) -> None:
        """2 MiB of small pages, every second one with something in it, the others absent."""
        process = process or self.process
        process.map(BLOCK, VA, lazy=True)
        for n in range(0, PAGES, 2):
            process.write(VA + n * PAGE, n.to_bytes(4, "little"))

    def contents(self, process: Process | None = None) -> list[int]:
        process = process or self.process
        return [int.from_bytes(process.read(VA + n * PAGE, 4), "little") for n in range(PAGES)]


EXPECTED = [0 if n % 2 else n for n in range(PAGES)]


@pytest.fixture
def chip() -> Chip:
    return Chip()


def size_at(process: Process, va: int) -> int:
    found = process.table.lookup(va)
    return 0 if found is None else found.size


def test_small_pages_become_a_huge_one(chip: Chip) -> None:
    chip.small_pages()
    chip.process.madvise(VA + 100 * PAGE, 50 * PAGE, "PAGEOUT")
    old = smmu_page(chip.soc, STREAM, VA)
    assert chip.paging.collapse(chip.process, VA + 5 * PAGE)
    assert size_at(chip.process, VA) == BLOCK
    pa = smmu_page(chip.soc, STREAM, VA)
    assert pa != old
    assert pa is not None
    assert pa % BLOCK == 0
    assert chip.contents() == EXPECTED
    assert chip.paging.swap.used == 0
    assert not chip.paging.collapse(chip.process, VA)  # it is one
    check_books(chip.kernel)


def test_a_huge_page_is_split_where_it_must_be(chip: Chip) -> None:
    chip.small_pages()
    assert chip.process.madvise(VA, BLOCK, "COLLAPSE") == PAGES
    pa = smmu_page(chip.soc, STREAM, VA + 9 * PAGE)
    assert chip.process.madvise(VA, BLOCK, "SPLIT") == PAGES
    assert chip.process.madvise(VA, BLOCK, "SPLIT") == 0
    assert size_at(chip.process, VA) == PAGE
    assert smmu_page(chip.soc, STREAM, VA + 9 * PAGE) == pa  # the memory is the same
    assert chip.paging.collapse(chip.process, VA)
    assert chip.process.madvise(VA + 8 * PAGE, PAGE, "PAGEOUT") == 1
    assert size_at(chip.process, VA + 8 * PAGE) == 0
    assert size_at(chip.process, VA + 9 * PAGE) == PAGE
    assert chip.contents() == EXPECTED
    check_books(chip.kernel)


def test_aging_a_huge_page_does_not_split_it(chip: Chip) -> None:
    chip.small_pages()
    chip.paging.collapse(chip.process, VA)
    chip.process.madvise(VA, BLOCK, "COLD")
    assert smmu_page(chip.soc, STREAM, VA + 5 * PAGE) is None
    assert chip.paging.fault(chip.process, VA + 5 * PAGE, True) == PageFault("minor", 1)
    assert smmu_page(chip.soc, STREAM, VA) is not None
    assert size_at(chip.process, VA) == BLOCK


def test_an_engine_meets_a_collapse_although_the_memory_is_locked(chip: Chip) -> None:
    """E17: mlock keeps pages in memory, not their translations."""
    chip.small_pages()
    chip.process.mlock(VA, BLOCK)
    assert smmu_page(chip.soc, STREAM, VA) is not None
    collapse = chip.paging.begin_collapse(chip.process, VA)
    assert collapse is not None
    assert smmu_page(chip.soc, STREAM, VA) is None
    assert chip.paging.survey(chip.process, VA, PAGE, True).minor == 1
    assert chip.paging.fault(chip.process, VA, True) == PageFault("spurious", 0)  # it waited for the end
    assert smmu_page(chip.soc, STREAM, VA) == collapse.pa
    assert chip.contents() == EXPECTED
    check_books(chip.kernel)


@pytest.mark.parametrize("how", ["unmap", "protect", "fork", "advice", "reclaim", "pin", "exit", "split"])
def test_whatever_changes_mappings_waits_for_a_collapse(chip: Chip, how: str) -> None:
    chip.small_pages()
    assert chip.paging.begin_collapse(chip.process, VA) is not None
    match how:
        case "unmap":
            chip.process.unmap(VA, PAGE)
        case "protect":
            chip.process.protect(VA, PAGE, READ)
        case "fork":
            assert chip.contents(chip.process.fork(2)) == EXPECTED
        case "advice":
            chip.process.madvise(VA, BLOCK, "WILLNEED")
        case "reclaim":
            chip.paging.reclaim(PAGES)
        case "pin":
            chip.process.pin(VA, BLOCK)
        case "split":
            assert chip.paging.split(chip.process, VA)
        case _:
            chip.kernel.exit(chip.process)
    check_books(chip.kernel)
    if how not in ("unmap", "exit"):
        assert chip.contents() == EXPECTED


def test_what_cannot_be_collapsed(chip: Chip) -> None:
    chip.small_pages()
    chip.process.pin(VA + 3 * PAGE, PAGE)
    assert not chip.paging.collapse(chip.process, VA)
    chip.process.unpin(VA + 3 * PAGE, PAGE)
    chip.process.protect(VA + 3 * PAGE, PAGE, READ)  # an area of its own
    assert not chip.paging.collapse(chip.process, VA)
    chip.paging.files.create("data", bytes(BLOCK))
    chip.process.map(BLOCK, VA + BLOCK, file="data", lazy=True)
    assert not chip.paging.collapse(chip.process, VA + BLOCK)
    with pytest.raises(ValueError, match="nothing is mapped"):
        chip.paging.collapse(chip.process, VA - BLOCK)
    assert chip.contents() == EXPECTED


def test_a_region_is_collapsed_for_all_who_have_it(chip: Chip) -> None:
    gva, other = 1 << 36, chip.kernel.spawn(2)
    chip.kernel.regions.create(chip.process, gva, BLOCK + PAGE, 3, lazy=True)
    chip.kernel.regions.share(other, gva, BLOCK + PAGE, READ)
    chip.process.write(gva + 7 * PAGE, b"seven")
    chip.kernel.smmu.attach(STREAM + 1, 0, other)
    assert chip.paging.collapse(other, gva)
    assert size_at(chip.process, gva) == size_at(other, gva) == BLOCK
    assert smmu_page(chip.soc, STREAM, gva) == smmu_page(chip.soc, STREAM + 1, gva)
    assert other.read(gva + 7 * PAGE, 5) == b"seven"
    leaf = other.table.lookup(gva)
    assert leaf is not None
    assert not leaf.rights.write  # type: ignore[union-attr]
    check_books(chip.kernel)


def test_collapse_ends_sharing_with_a_child(chip: Chip) -> None:
    chip.small_pages()
    child = chip.process.fork(2)
    assert chip.paging.collapse(chip.process, VA)
    chip.process.write(VA, b"parent")
    assert chip.contents(child) == EXPECTED
    check_books(chip.kernel)


def test_a_fault_brings_a_huge_page_where_that_was_advised(chip: Chip) -> None:
    chip.process.map(3 * BLOCK, VA, lazy=True)
    chip.process.madvise(VA, 2 * BLOCK, "HUGEPAGE")
    assert chip.paging.fault(chip.process, VA + 9 * PAGE, False) == PageFault("minor", PAGES)
    assert size_at(chip.process, VA) == BLOCK
    chip.process.madvise(VA + BLOCK, BLOCK, "NOHUGEPAGE")
    assert chip.paging.fault(chip.process, VA + BLOCK, False) == PageFault("minor", 1)
    chip.process.madvise(VA, BLOCK, "DONTNEED")
    assert chip.paging.touch(chip.process, VA, BLOCK, True).minor == PAGES
    assert size_at(chip.process, VA) == BLOCK
    check_books(chip.kernel)


def test_pages_move_to_other_frames_everywhere(chip: Chip) -> None:
    chip.small_pages()
    child = chip.process.fork(2)
    chip.kernel.smmu.attach(STREAM + 1, 0, child)
    old = smmu_page(chip.soc, STREAM, VA)
    assert chip.paging.migrate(chip.process, VA + 4, PAGE) == 1
    new = smmu_page(chip.soc, STREAM, VA)
    assert new not in (None, old)
    assert smmu_page(chip.soc, STREAM + 1, VA) == new
    with pytest.raises(ValueError, match="double free"):
        chip.kernel.frames.check(old)  # type: ignore[arg-type]
    assert chip.paging.migrate(chip.process, VA, BLOCK) == PAGES // 2
    assert chip.contents() == chip.contents(child) == EXPECTED
    check_books(chip.kernel)


def test_compaction_makes_a_block_for_a_huge_page(chip: Chip) -> None:
    hole = chip.process.map(6 * BLOCK, 128 * BLOCK, lazy=True)
    chip.paging.touch(chip.process, hole, 6 * BLOCK, True)  # a whole block each time, without page tables
    chip.small_pages()
    hog = []
    while chip.kernel.frames.free_bytes >= 3 * BLOCK:
        hog.append(chip.kernel.frames.run(BLOCK, BLOCK))
    for n in range(6 * PAGES):
        if n % 3:
            chip.process.madvise(hole + n * PAGE, PAGE, "DONTNEED")
    chip.paging.set_watermarks(0, 0)
    chip.kernel.frames.pressure = None
    rest = _all_blocks(chip.kernel)  # none is free as a whole any more, while much is
    assert chip.kernel.frames.free_bytes > 2 * BLOCK
    assert chip.paging.collapse(chip.process, VA)
    assert chip.paging.counters()["kernel_paging_migrated"] > 0
    assert chip.contents() == EXPECTED
    chip.kernel.frames.free_all([Extent(pa, BLOCK) for pa in [*hog, *rest]])
    check_books(chip.kernel)


def _all_blocks(kernel: Kernel) -> list[int]:
    taken = []
    with suppress(MemoryError):
        while True:
            taken.append(kernel.frames.run(BLOCK, BLOCK))
    return taken


def test_without_a_block_there_is_no_huge_page() -> None:
    chip = Chip(4 << 20)
    chip.process.map(BLOCK, VA, lazy=True)
    chip.process.pin(VA, BLOCK - 8 * PAGE)
    chip.process.map(BLOCK, VA + BLOCK, lazy=True)
    chip.process.write(VA + BLOCK, b"kept")
    with pytest.raises(MemoryError, match="no 2 MiB in one piece, and none can be compacted"):
        chip.paging.collapse(chip.process, VA + BLOCK)
    assert chip.process.read(VA + BLOCK, 4) == b"kept"
    check_books(chip.kernel)
