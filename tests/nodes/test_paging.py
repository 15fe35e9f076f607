"""What page faults, forks, files, swap and advice do, by example; engines are real ones."""

from __future__ import annotations

from collections.abc import Callable

import pytest

from support.paging_books import check_books, check_smmu, smmu_page
from unimem_node.kernel import READ, Kernel, KernelFault, Process
from unimem_node.kernel.dma_drivers import DmaRequest
from unimem_node.kernel.frames import BLOCK, PAGE, Extent
from unimem_node.kernel.paging import PageFault, Touched
from unimem_node.mmu.regime import ACCESS_WRITE
from unimem_node.mpsoc.node import boot
from unimem_node.mpsoc.soc import Mpsoc

STREAM = 0x14E8  # fpd0, a channel of the FPD DMA
VA = 0x4000_0000
AFF = 1 << 2  # FSR: access flag fault
PF = 1 << 3  # permission fault
TF = 1 << 1  # translation fault


class Chip:
    """A chip with a process whose tables the first DMA channel walks."""

    def __init__(self, memory: int = 32 << 20) -> None:
        self.soc = Mpsoc(memory_bytes=memory)
        self.kernel: Kernel = boot(self.soc)
        self.paging = self.kernel.paging
        self.process: Process = self.kernel.spawn(1)
        self.kernel.smmu.attach(STREAM, 0, self.process)
        self.buffer = self.process.map(BLOCK, contiguous=True)  # eager: for what engines copy

    def copy(self, source: int, destination: int, n: int = 64) -> DmaRequest:
        request = self.kernel.dma["fpd0"].submit(source, destination, n)
        self.soc.run()
        return request

    def engine_reads(self, va: int, n: int = 64) -> bytes:
        assert self.copy(va, self.buffer, n).ok
        return self.process.read(self.buffer, n)

    def used(self) -> int:
        return self.kernel.frames.total_bytes - self.kernel.frames.free_bytes


@pytest.fixture
def chip() -> Chip:
    return Chip()


def fsr(chip: Chip) -> int:
    return chip.kernel.faults[-1].fsr & 0xFF


# ---- demand-zero


def test_lazy_memory_comes_when_it_is_touched(chip: Chip) -> None:
    used = chip.used()
    va = chip.process.map(1000 * PAGE, VA, lazy=True)
    assert (va, chip.used()) == (VA, used)
    assert not chip.copy(VA + 5 * PAGE, chip.buffer).ok
    assert fsr(chip) == TF
    assert chip.paging.fault(chip.process, VA + 5 * PAGE + 17, False) == PageFault("minor", 1)
    assert chip.paging.fault(chip.process, VA + 5 * PAGE, True) == PageFault("spurious", 0)
    assert chip.engine_reads(VA + 5 * PAGE) == bytes(64)
    assert chip.used() == used + 3 * PAGE  # the page and two tables


def test_faults_that_no_page_cures(chip: Chip) -> None:
    chip.process.map(PAGE, VA, rights=READ, lazy=True)
    assert chip.paging.fault(chip.process, VA + PAGE, False) == PageFault("gone", 0)
    assert chip.paging.fault(chip.process, VA, True) == PageFault("denied", 0)
    assert chip.paging.fault(chip.process, VA, False) == PageFault("minor", 1)
    with pytest.raises(KernelFault, match="read-only"):
        chip.process.write(VA, b"x")
    with pytest.raises(KernelFault, match="unmapped"):
        chip.process.read(VA + PAGE - 1, 2)


def test_touch_goes_as_far_as_the_mapping(chip: Chip) -> None:
    chip.process.map(8 * PAGE, VA, lazy=True)
    chip.process.map(8 * PAGE, VA + 8 * PAGE)
    chip.process.map(PAGE, VA + 16 * PAGE, rights=READ, lazy=True)
    paging, process = chip.paging, chip.process
    expected = Touched(8, 0, VA + 16 * PAGE)
    assert paging.survey(process, VA, 20 * PAGE, True) == expected
    assert paging.touch(process, VA, 20 * PAGE, True) == expected
    assert paging.touch(process, VA, 20 * PAGE, False) == Touched(1, 0, VA + 17 * PAGE)
    assert paging.touch(process, VA - PAGE, 2 * PAGE, False) == Touched(0, 0, VA - PAGE)


def test_the_cpu_faults_pages_in_by_itself(chip: Chip) -> None:
    chip.process.map(300 * PAGE, VA, lazy=True)
    data = bytes(range(256)) * 4096
    chip.process.write(VA + 100, data)
    assert chip.process.read(VA + 100, len(data)) == data
    assert sum(n for _, n in chip.process.runs(VA, 300 * PAGE, READ)) == 300 * PAGE
    chip.process.madvise(VA, 300 * PAGE, "PAGEOUT")
    assert chip.process.read(VA, 100) == bytes(100)
    with pytest.raises(KernelFault, match="unmapped"):
        chip.process.write(VA + 299 * PAGE, bytes(PAGE + 1))
    assert chip.process.read(VA + 100, len(data)) == data


def test_memory_of_the_kernel_is_not_paged(chip: Chip) -> None:
    staging = chip.process.map(PAGE, held=True)
    with pytest.raises(ValueError, match="is a staging buffer, memory of the kernel"):
        chip.process.madvise(staging, PAGE, "PAGEOUT")
    pa = chip.kernel.frames.page()
    chip.process.map_at(VA, [Extent(pa, PAGE)])
    with pytest.raises(ValueError, match="is memory that others own"):
        chip.process.pin(VA, PAGE)


def test_eager_memory_is_on_no_list_until_it_is_advised_on(chip: Chip) -> None:
    chip.process.map(8 * PAGE, VA)
    assert chip.paging.reclaim(100) == 0
    chip.process.write(VA, b"kept")
    assert chip.process.madvise(VA + PAGE, PAGE, "COLD") == 1
    assert chip.paging.reclaim(100) == 8  # all of the area is there now, and nothing touched it since
    assert chip.process.read(VA, 4) == b"kept"


# ---- copy on write


def test_a_child_has_a_copy_that_is_made_when_either_writes(chip: Chip) -> None:
    parent = chip.process
    parent.map(4 * PAGE, VA, lazy=True)
    parent.write(VA, b"before")
    chip.kernel.smmu.attach(STREAM + 1, 0, parent)
    child = parent.fork(2)
    page = smmu_page(chip.soc, STREAM, VA)
    assert child.entries.read(_page(VA)) == parent.entries.read(_page(VA))
    assert not chip.copy(chip.buffer, VA).ok  # an engine that writes for the parent
    assert fsr(chip) == PF
    assert chip.paging.fault(parent, VA, True) == PageFault("minor", 1)
    assert smmu_page(chip.soc, STREAM, VA) != page
    assert chip.copy(chip.buffer, VA).ok
    assert parent.read(VA, 6) == bytes(6)
    assert child.read(VA, 6) == b"before"
    copies = chip.paging.counters()["kernel_paging_copied_on_write"]
    child.write(VA, b"child")  # the last who has it needs no copy
    assert chip.paging.counters()["kernel_paging_copied_on_write"] == copies == 1
    used = chip.used()
    chip.kernel.exit(child)
    assert chip.used() < used
    assert parent.read(VA, 6) == bytes(6)
    check_books(chip.kernel)


def _page(va: int):  # type: ignore[no-untyped-def]
    from unimem_node.kernel.paging_entries import pages

    return pages(va, 1)


@pytest.mark.parametrize("how", ["COLD", "protect", "MIGRATE"])
def test_what_is_shared_stays_read_only_whatever_happens_to_it(chip: Chip, how: str) -> None:
    chip.process.map(PAGE, VA, lazy=True)
    chip.process.write(VA, b"both")
    child = chip.process.fork(2)
    chip.paging.touch(chip.process, chip.buffer, PAGE, True)
    if how == "protect":
        chip.process.protect(VA, PAGE, READ)
        chip.process.protect(VA, PAGE, 3)
    else:
        chip.process.madvise(VA, PAGE, how)
    assert chip.engine_reads(VA, 4) == b"both" if how != "COLD" else not chip.copy(VA, chip.buffer).ok
    chip.paging.touch(chip.process, VA, PAGE, False)
    assert smmu_page(chip.soc, STREAM, VA) is not None
    assert smmu_page(chip.soc, STREAM, VA, ACCESS_WRITE) is None
    chip.process.write(VA, b"mine")
    assert child.read(VA, 4) == b"both"


def test_a_child_inherits_neither_regions_nor_staging_nor_locks(chip: Chip) -> None:
    chip.kernel.regions.create(chip.process, 1 << 36, PAGE, 3)
    staging = chip.process.map(PAGE, held=True)
    chip.process.map(PAGE, VA)
    chip.process.mlock(VA, PAGE)
    child = chip.process.fork(2)
    for va in (1 << 36, staging):
        with pytest.raises(KernelFault, match="unmapped"):
            child.read(va, 1)
    assert child.pdid == 2
    area = child.areas.at(VA)
    assert area is not None
    assert not area.locked
    with pytest.raises(ValueError, match="protection domain 2 has a process already"):
        chip.process.fork(2)


def test_a_child_for_which_memory_does_not_suffice_leaves_nothing(chip: Chip) -> None:
    chip.process.map(16 * PAGE, VA)
    chip.process.pin(VA, 16 * PAGE)  # pinned pages are copied at once
    hog = chip.kernel.frames.extents(chip.kernel.frames.free_bytes - 12 * PAGE)
    with pytest.raises(MemoryError, match="no pages for tables of process 2"):
        chip.process.fork(2)
    assert chip.kernel.find(2) is None
    assert chip.kernel.frames.free_bytes == 12 * PAGE
    chip.kernel.frames.free_all(hog)
    check_books(chip.kernel)


# ---- files


def test_a_shared_mapping_writes_to_the_file(chip: Chip) -> None:
    file = chip.paging.files.create("data", b"abc" * 2000)  # a page and a half
    chip.process.map(4 * PAGE, VA, file="data", shared=True, lazy=True)
    assert chip.paging.fault(chip.process, VA, False) == PageFault("major", 1)
    assert chip.engine_reads(VA, 6) == b"abcabc"
    assert not chip.copy(chip.buffer, VA).ok  # the first write has to be noticed
    assert fsr(chip) == PF
    assert chip.paging.fault(chip.process, VA, True) == PageFault("minor", 1)
    chip.process.write(chip.buffer, b"engine")
    assert chip.copy(chip.buffer, VA, 6).ok
    assert file.data[:6] == b"abcabc"
    assert chip.paging.sync("data") == 1
    assert file.data[:6] == b"engine"
    assert not chip.copy(chip.buffer, VA).ok  # clean again
    chip.process.write(VA + PAGE, b"second")
    assert chip.process.madvise(VA, PAGE, "PAGEOUT") == 1  # it was clean: just dropped
    assert file.writes == 1
    assert chip.process.madvise(VA + PAGE, PAGE, "PAGEOUT") == 1
    assert file.writes == 2
    assert file.data[PAGE : PAGE + 6] == b"second"
    assert len(file.data) == 6000
    assert chip.paging.fault(chip.process, VA + 2 * PAGE, False) == PageFault("gone", 0)
    with pytest.raises(KernelFault, match="unmapped"):
        chip.process.read(VA + PAGE, 2 * PAGE)


def test_a_private_mapping_does_not(chip: Chip) -> None:
    file = chip.paging.files.create("data", b"x" * 3 * PAGE)
    chip.process.map(2 * PAGE, VA, file="data", offset=PAGE)
    other = chip.kernel.spawn(2)
    other.map(3 * PAGE, VA, file="data", shared=True)
    chip.process.write(VA, b"mine")
    other.write(VA + PAGE, b"theirs")
    other.write(VA + 2 * PAGE, b"both")
    assert chip.process.read(VA, 4) == b"mine"
    assert chip.process.read(VA + PAGE, 4) == b"both"
    assert other.read(VA + PAGE, 6) == b"theirs"
    assert chip.process.madvise(VA, PAGE, "DONTNEED") == 1
    assert chip.process.read(VA, 6) == b"theirs"
    chip.kernel.exit(other)
    chip.kernel.exit(chip.process)
    assert chip.paging.sync() == 2
    assert file.data[PAGE : PAGE + 6] == b"theirs"
    check_books(chip.kernel)
    assert chip.paging.reclaim(10) == 3  # what nobody maps is dropped
    assert chip.paging.counters()["kernel_paging_inactive"] == 0


def test_bad_mappings_of_files_are_refused(chip: Chip) -> None:
    chip.paging.files.create("data", b"x")
    with pytest.raises(ValueError, match="file 'data' exists already"):
        chip.paging.files.create("data", b"")
    refused: list[tuple[str, Callable[[], object]]] = [
        ("there is no file 'other'; there are: data", lambda: chip.process.map(PAGE, file="other")),
        ("cannot map from 0x5 of data", lambda: chip.process.map(PAGE, file="data", offset=5)),
        ("cannot map from 0x1000 of no file", lambda: chip.process.map(PAGE, offset=PAGE, lazy=True)),
        ("of no file", lambda: chip.process.map(PAGE, lazy=True, shared=True)),
    ]
    for text, call in refused:
        with pytest.raises(ValueError, match=text):
            call()
    assert len(chip.process.areas) == 1  # the buffer


# ---- reclaim


def test_pages_go_to_swap_and_come_back(chip: Chip) -> None:
    chip.process.map(600 * PAGE, VA, lazy=True)
    for n in range(600):
        chip.process.write(VA + n * PAGE, n.to_bytes(4, "little"))
    used = chip.used()
    assert chip.process.madvise(VA, 600 * PAGE, "PAGEOUT") == 600
    assert chip.used() == used - 600 * PAGE
    assert chip.paging.swap.used == 600
    assert not chip.copy(VA, chip.buffer).ok
    assert chip.paging.fault(chip.process, VA, False) == PageFault("major", 1)
    assert chip.engine_reads(VA + 4, 4) == bytes(4)
    assert [chip.process.read(VA + n * PAGE, 2) for n in range(600)] == [
        n.to_bytes(2, "little") for n in range(600)
    ]
    assert chip.paging.swap.used == 0


def test_aging_makes_the_next_access_of_an_engine_fault(chip: Chip) -> None:
    """No hardware update of the access flag: AFF, and the kernel sets the flag again."""
    chip.process.map(4 * PAGE, VA, lazy=True)
    chip.process.write(VA, b"data" * 4096)
    assert chip.engine_reads(VA, 4) == b"data"
    assert chip.process.madvise(VA, 4 * PAGE, "COLD") == 4
    assert not chip.copy(VA, chip.buffer).ok
    assert fsr(chip) == AFF
    assert chip.paging.fault(chip.process, VA, False) == PageFault("minor", 1)
    assert chip.engine_reads(VA, 4) == b"data"
    assert chip.process.read(VA + PAGE, 4) == b"data"  # the CPU's access sets it too
    assert smmu_page(chip.soc, STREAM, VA + PAGE) is not None
    assert smmu_page(chip.soc, STREAM, VA + 2 * PAGE) is None


def test_what_was_used_stays_longer(chip: Chip) -> None:
    chip.process.map(64 * PAGE, VA, lazy=True)
    chip.process.write(VA, b"x" * 64 * PAGE)
    chip.process.madvise(VA, 64 * PAGE, "COLD")
    for n in range(0, 64, 4):
        chip.process.read(VA + n * PAGE, 1)
    assert chip.paging.reclaim(48) == 48
    resident = [n for n in range(64) if chip.process.table.lookup(VA + n * PAGE)]
    assert resident == list(range(0, 64, 4))


def test_memory_that_is_short_is_reclaimed_for_who_asks() -> None:
    chip = Chip(8 << 20)
    low, high = chip.paging.watermarks[1:]
    pages = chip.kernel.frames.free_bytes // PAGE & -64
    va = chip.process.map(pages * 3 // 2 * PAGE, lazy=True)
    for at in range(0, pages * 3 // 2, 32):
        chip.process.write(va + at * PAGE, at.to_bytes(4, "little") * (32 * PAGE // 4))
    assert low <= chip.kernel.frames.free_bytes // PAGE + 70
    assert chip.paging.swap.used > pages // 2
    for at in range(0, pages * 3 // 2, 32):
        assert chip.process.read(va + at * PAGE + 8, 4) == at.to_bytes(4, "little")
    assert low < high
    chip.kernel.spawn(2).map(2 << 20)  # eager memory takes from paged memory too
    check_books(chip.kernel)


def test_out_of_memory_says_why() -> None:
    chip = Chip(8 << 20)
    pages = chip.kernel.frames.free_bytes // PAGE
    chip.process.map(2 * pages * PAGE, VA, lazy=True)
    with pytest.raises(
        MemoryError, match=r"out of memory: .* of them pinned or locked, 0 of .* pages of swap"
    ):
        chip.process.mlock(VA, 2 * pages * PAGE)
    chip.process.madvise(VA, 2 * pages * PAGE, "PAGEOUT")
    chip.paging.swap.slots = chip.paging.swap.used
    chip.process.write(VA, bytes(64))
    with pytest.raises(MemoryError, match="no page for process 1, 0x"):
        chip.paging.touch(chip.process, VA, 2 * pages * PAGE, True)
    check_books(chip.kernel)


def test_an_access_that_does_not_fit_at_once() -> None:
    chip = Chip(8 << 20)
    pages = chip.kernel.frames.free_bytes // PAGE
    chip.process.map(2 * pages * PAGE, VA, lazy=True)
    with pytest.raises(MemoryError, match="bytes cannot be present at once"):
        chip.process.runs(VA, 2 * pages * PAGE, READ)
    assert chip.process.read(VA, 2 * pages * PAGE) == bytes(2 * pages * PAGE)


# ---- locks and pins


def test_what_is_locked_or_pinned_stays(chip: Chip) -> None:
    chip.process.map(12 * PAGE, VA, lazy=True)
    chip.process.mlock(VA, 4 * PAGE)
    assert chip.process.pin(VA + 4 * PAGE, 4 * PAGE) == Touched(4, 0)
    chip.process.write(VA + 8 * PAGE, bytes(4 * PAGE))
    assert chip.paging.reclaim(100) == 4
    assert chip.process.madvise(VA, 12 * PAGE, "PAGEOUT") == 0
    with pytest.raises(ValueError, match="is locked in memory"):
        chip.process.madvise(VA, 12 * PAGE, "DONTNEED")
    assert chip.process.madvise(VA, 8 * PAGE, "MIGRATE") == 4  # the locked ones
    chip.process.munlock(VA, 4 * PAGE)
    assert chip.process.madvise(VA, 12 * PAGE, "PAGEOUT") == 4
    chip.process.pin(VA + 5 * PAGE, PAGE)
    chip.process.unpin(VA + 4 * PAGE, 4 * PAGE)
    assert chip.process.madvise(VA, 12 * PAGE, "PAGEOUT") == 3  # one is pinned once more
    with pytest.raises(ValueError, match="0x4000_4000 is not pinned"):
        chip.process.unpin(VA + 4 * PAGE, 2 * PAGE)
    chip.process.unpin(VA + 5 * PAGE, PAGE)


def test_pinned_frames_outlive_their_mapping(chip: Chip) -> None:
    chip.process.map(2 * PAGE, VA, lazy=True)
    chip.process.pin(VA, 2 * PAGE)
    used = chip.used()
    chip.process.unmap(VA, 2 * PAGE)
    assert chip.used() == used - 2 * PAGE  # the process' tables; the frames are held
    check_books(chip.kernel)
    chip.process.unpin(VA, PAGE)
    assert chip.used() == used - 3 * PAGE
    chip.kernel.exit(chip.process)  # its pins end with it
    assert chip.used() == 0


def test_pins_break_sharing_and_are_not_shared(chip: Chip) -> None:
    chip.process.map(2 * PAGE, VA)
    child = chip.process.fork(2)
    chip.process.pin(VA, PAGE)
    page = smmu_page(chip.soc, STREAM, VA, ACCESS_WRITE)
    assert page is not None
    grandchild = chip.process.fork(3)
    assert smmu_page(chip.soc, STREAM, VA, ACCESS_WRITE) == page  # no fault: the engine goes on
    chip.soc.memory.write(page, b"dma")
    assert [p.read(VA, 3) for p in (chip.process, child, grandchild)] == [b"dma", bytes(3), bytes(3)]


def test_a_pin_that_cannot_be_had_pins_nothing(chip: Chip) -> None:
    chip.process.map(100 * PAGE, VA, lazy=True)
    chip.process.map(PAGE, VA + 100 * PAGE, rights=READ)
    with pytest.raises(ValueError, match="0x4006_4000 cannot be pinned so"):
        chip.process.pin(VA, 101 * PAGE)
    assert chip.process.pins == {}
    assert chip.process.pin(VA, 101 * PAGE, write=False) == Touched(0, 0)


# ---- advice


def test_unknown_advice_and_unmapped_ranges_are_refused(chip: Chip) -> None:
    chip.process.map(PAGE, VA)
    with pytest.raises(ValueError, match="advice 'FREE' is unknown; known: COLD, COLLAPSE"):
        chip.process.madvise(VA, PAGE, "FREE")
    for advice in ("DONTNEED", "PAGEOUT", "LOCK", "PIN", "COLLAPSE", "SPLIT", "MIGRATE", "HUGEPAGE"):
        with pytest.raises(ValueError, match="nothing is mapped at 0x4000_1000"):
            chip.process.madvise(VA, 2 * PAGE, advice)
        with pytest.raises(ValueError, match="for 0 bytes"):
            chip.process.madvise(VA, 0, advice)


def test_will_need_reads_what_is_in_swap_and_nothing_else(chip: Chip) -> None:
    chip.process.map(8 * PAGE, VA, lazy=True)
    chip.process.write(VA, bytes(4 * PAGE))
    chip.process.madvise(VA, 8 * PAGE, "PAGEOUT")
    assert chip.process.madvise(VA, 8 * PAGE, "WILLNEED") == 4
    assert chip.process.table.lookup(VA + 3 * PAGE) is not None
    assert chip.process.table.lookup(VA + 4 * PAGE) is None


def test_a_region_is_paged_in_every_domain_at_once(chip: Chip) -> None:
    gva, other = 1 << 36, chip.kernel.spawn(2)
    chip.kernel.smmu.attach(STREAM + 1, 0, other)
    chip.kernel.regions.create(chip.process, gva, 4 * PAGE, 3)
    chip.kernel.regions.share(other, gva, 4 * PAGE, READ)
    chip.process.write(gva, b"region")
    assert smmu_page(chip.soc, STREAM + 1, gva) is not None
    assert other.madvise(gva, 4 * PAGE, "PAGEOUT") == 4
    for process, stream in ((chip.process, STREAM), (other, STREAM + 1)):
        assert smmu_page(chip.soc, stream, gva) is None
        assert process.table.lookup(gva) is None
    assert chip.paging.fault(other, gva, False) == PageFault("major", 1)
    assert chip.paging.fault(chip.process, gva, True) == PageFault("minor", 1)  # it is in memory by now
    assert check_smmu(chip.soc, other, STREAM + 1, gva) == check_smmu(chip.soc, chip.process, STREAM, gva)
    chip.kernel.regions.share(other, gva, 4 * PAGE, 3)
    assert other.madvise(gva, 4 * PAGE, "DONTNEED") == 4  # not its owner: unmapped there, content kept
    assert other.read(gva, 6) == b"region"
    assert chip.process.madvise(gva, 4 * PAGE, "DONTNEED") == 4
    assert other.read(gva, 6) == bytes(6)
    chip.kernel.exit(chip.process)
    with pytest.raises(KernelFault, match="unmapped"):
        other.read(gva, 1)
    check_books(chip.kernel)


def test_a_lazy_region(chip: Chip) -> None:
    gva, other = 1 << 36, chip.kernel.spawn(2)
    used = chip.used()
    chip.kernel.regions.create(chip.process, gva, 100 * PAGE, 3, lazy=True)
    chip.kernel.regions.share(other, gva, 100 * PAGE, READ)
    assert chip.used() == used
    other.read(gva, 1)
    chip.process.write(gva, b"x")
    assert other.read(gva, 1) == b"x"
    chip.kernel.regions.create(chip.process, gva, 100 * PAGE, READ, lazy=True)
    with pytest.raises(KernelFault, match="read-only"):
        chip.process.write(gva, b"y")
    chip.kernel.regions.destroy(gva)
    assert chip.used() == used


# ---- what happens when the SMMU is not told


@pytest.mark.parametrize("how", ["PAGEOUT", "MIGRATE", "COLLAPSE", "DONTNEED", "unmap"])
@pytest.mark.parametrize("forget", [False, True])
def test_an_engine_with_an_old_translation_reads_somebody_elses_memory(
    chip: Chip, how: str, forget: bool
) -> None:
    start = VA
    chip.process.map(BLOCK, start, lazy=True)
    chip.process.write(start, b"mine")
    assert chip.engine_reads(start, 4) == b"mine"
    page = smmu_page(chip.soc, STREAM, start)
    assert page is not None
    chip.paging.forget_invalidations = forget
    if how == "unmap":
        chip.process.unmap(start, BLOCK)
    else:
        chip.process.madvise(start, BLOCK, how)
    taken = chip.kernel.frames.extents(chip.kernel.frames.free_bytes)  # somebody has all that is free
    freed = any(pa <= page < pa + n for pa, n in taken)  # or it is a page of a table by now
    if freed:
        chip.soc.memory.write(page, b"theirs")
    stale = smmu_page(chip.soc, STREAM, start)
    if forget:
        assert stale == page
        assert chip.engine_reads(start, 6) == (b"theirs" if freed else chip.soc.memory.read(page, 6))
        assert chip.engine_reads(start, 4) != b"mine"
    else:
        assert stale != page
        assert (stale is not None) == (how in ("MIGRATE", "COLLAPSE"))
        if stale is not None:
            assert chip.engine_reads(start, 4) == b"mine"


def test_a_forgotten_invalidation_after_fork_lets_an_engine_write_to_the_child(chip: Chip) -> None:
    chip.process.map(PAGE, VA)
    chip.process.write(VA, b"before")
    assert chip.copy(chip.buffer + 64, VA + 64).ok  # the SMMU knows the page as writable
    chip.process.write(chip.buffer, b"stale!")
    chip.paging.forget_invalidations = True
    child = chip.process.fork(2)
    assert chip.copy(chip.buffer, VA, 6).ok
    assert child.read(VA, 6) == b"stale!"
