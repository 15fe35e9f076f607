"""Processes, their areas, staging buffers and regions, over real page tables in real (simulated) DRAM."""

from __future__ import annotations

import random

import numpy as np
import pytest

from unimem_node.bus import Bus
from unimem_node.kernel.areas import Area, Areas
from unimem_node.kernel.asids import Asids
from unimem_node.kernel.frames import BLOCK, PAGE, Extent, FrameAllocator
from unimem_node.kernel.processes import READ, READ_WRITE, KernelFault, Process
from unimem_node.kernel.regions import Regions
from unimem_node.kernel.staging import LIMIT, Staging
from unimem_node.memory import MemoryBank, PhysicalMemory

WINDOW = range(1 << 36, 2 << 36)


class Machine:
    """A bus with DRAM, an allocator, and a record of what was invalidated when."""

    def __init__(self, size: int = 64 << 20) -> None:
        self.memory = PhysicalMemory([MemoryBank("dram", 0, size)])
        self.bus = Bus(self.memory)
        self.frames = FrameAllocator(self.bus, [(PAGE, size - PAGE)])
        self.invalidated: list[tuple[int, int, int]] = []
        self.free_at_invalidation: list[int] = []

    def invalidate(self, asid: int, va: int, length: int) -> None:
        self.invalidated.append((asid, va, length))
        self.free_at_invalidation.append(self.frames.free_bytes)

    def process(self, pdid: int = 7) -> Process:
        return Process(pdid, pdid, self.bus, self.frames, self.invalidate)


@pytest.fixture
def machine() -> Machine:
    return Machine()


def test_fresh_memory_is_zero_and_keeps_what_is_written(machine: Machine) -> None:
    process = machine.process()
    va = process.map(3 * PAGE + 5)
    assert process.read(va, 4 * PAGE) == bytes(4 * PAGE)
    data = random.Random(1).randbytes(2 * PAGE)
    process.write(va + PAGE - 100, data)
    assert process.read(va + PAGE - 100, len(data)) == data
    assert process.read(va, PAGE - 100) == bytes(PAGE - 100)


def test_what_the_tables_say_is_what_the_cpu_sees(machine: Machine) -> None:
    """The bytes are where the descriptors in DRAM point, nowhere else."""
    process = machine.process()
    va = process.map(PAGE)
    process.write(va, b"here")
    mapping = process.table.lookup(va)
    assert mapping is not None
    assert machine.memory.read(mapping.pa, 4) == b"here"


def test_faults_of_the_cpu_name_address_and_kind(machine: Machine) -> None:
    process = machine.process()
    va = process.map(PAGE, va=0x5000, rights=READ)
    assert va == 0x5000
    with pytest.raises(KernelFault, match="process 7 cannot write 0x5008: read-only") as caught:
        process.write(0x5008, b"x")
    assert (caught.value.va, caught.value.kind) == (0x5008, "read-only")
    with pytest.raises(KernelFault, match="process 7 cannot read 0x6000: unmapped"):
        process.read(0x5FFF, 2)
    with pytest.raises(KernelFault):
        process.read(1 << 60, 1)


def test_a_write_that_faults_changes_nothing(machine: Machine) -> None:
    process = machine.process()
    va = process.map(PAGE)
    with pytest.raises(KernelFault):
        process.write(va + PAGE - 2, b"abcd")
    assert process.read(va + PAGE - 2, 2) == b"\0\0"


def test_unmap_invalidates_before_the_memory_is_free(machine: Machine) -> None:
    process = machine.process()
    keep = process.map(PAGE)
    before = machine.frames.free_bytes
    va = process.map(5 * PAGE)
    after = machine.frames.free_bytes
    machine.invalidated.clear()
    machine.free_at_invalidation.clear()
    process.unmap(va, 5 * PAGE)
    assert machine.invalidated == [(7, va, 5 * PAGE)]
    assert machine.free_at_invalidation == [after]
    assert machine.frames.free_bytes == before
    assert process.read(keep, 1) == b"\0"


def test_protect_and_partial_unmap_split_areas_and_blocks(machine: Machine) -> None:
    process = machine.process()
    va = process.map(2 * BLOCK, va=BLOCK)
    process.write(va, bytes([3]) * (2 * BLOCK))
    process.protect(va + PAGE, PAGE, READ)
    assert machine.invalidated[-1] == (7, va + PAGE, PAGE)
    process.write(va, b"a")
    process.write(va + 2 * PAGE, b"c")
    with pytest.raises(KernelFault, match="read-only"):
        process.write(va + PAGE, b"b")
    free = machine.frames.free_bytes
    process.unmap(va + BLOCK - PAGE, 2 * PAGE)
    assert machine.frames.free_bytes >= free + PAGE  # two frames back, perhaps one for a table
    assert process.read(va + BLOCK - 2 * PAGE, 1) == b"\3"
    assert process.read(va + BLOCK + PAGE, 1) == b"\3"
    for hole in (va + BLOCK - PAGE, va + BLOCK):
        with pytest.raises(KernelFault, match="unmapped"):
            process.read(hole, 1)
    with pytest.raises(
        ValueError, match="process 7: cannot unmap 4194304 bytes at 0x20_0000: nothing is mapped at 0x3f_f000"
    ):
        process.unmap(va, 2 * BLOCK)
    process.protect(va + PAGE, PAGE, READ_WRITE)
    process.write(va + PAGE, b"b")


@pytest.mark.parametrize(
    ("va", "length", "text"),
    [
        (0x5008, PAGE, "not private memory"),
        ((1 << 36) - PAGE, 2 * PAGE, "not private memory"),
        (1 << 36, PAGE, "not private memory"),
        (0x5000, 0, "cannot map 0 bytes"),
        (0x7000, PAGE, "0x7000 to 0x8000 is taken: 0x6000 to 0x9000 is mapped already"),
    ],
)
def test_bad_mappings_are_refused(machine: Machine, va: int, length: int, text: str) -> None:
    process = machine.process()
    process.map(3 * PAGE, va=0x6000)
    free = machine.frames.free_bytes
    with pytest.raises(ValueError, match=text):
        process.map(length, va=va)
    with pytest.raises(ValueError, match="rights 2"):
        process.map(PAGE, rights=2)
    with pytest.raises(ValueError, match="not whole pages"):
        process.unmap(0x6001, PAGE)
    assert machine.frames.free_bytes == free


def test_out_of_memory_leaves_nothing_behind(machine: Machine) -> None:
    process = machine.process()
    free = machine.frames.free_bytes
    with pytest.raises(MemoryError, match="asked for"):
        process.map(1 << 30)
    hog = machine.frames.extents(machine.frames.free_bytes - 8 * PAGE)
    with pytest.raises(MemoryError):
        process.map(8 * PAGE, va=3 << 30)  # no frame is left for its tables
    assert machine.frames.free_bytes == 8 * PAGE
    process.map(4 * PAGE, va=3 << 30)
    machine.frames.free_all(hog)
    process.unmap(3 << 30, 4 * PAGE)
    assert machine.frames.free_bytes == free


def test_destroy_gives_everything_back_cleared(machine: Machine) -> None:
    free = machine.frames.free_bytes
    process = machine.process()
    va = process.map(3 * BLOCK + PAGE)
    process.write(va, b"secret" * 1000)
    process.destroy()
    assert machine.frames.free_bytes == free
    other = machine.process(8)
    va = other.map(machine.frames.free_bytes // 2)
    assert b"secret" not in other.read(va, BLOCK)


def test_random_mappings_against_a_dictionary(machine: Machine) -> None:
    """Map, unmap, protect and access pages at random; a dictionary of pages says what must happen."""
    rng = random.Random(5)
    process = machine.process()
    free = machine.frames.free_bytes
    pages: dict[int, tuple[int, int]] = {}  # va -> (rights, the byte in it)
    for _ in range(400):
        va = BLOCK + rng.randrange(1200) * PAGE
        count = rng.choice([1, 2, 9, 512])
        span = [va + i * PAGE for i in range(count)]
        match rng.randrange(4):
            case 0:
                rights = rng.choice([READ, READ_WRITE])
                if any(page in pages for page in span):
                    with pytest.raises(ValueError, match="taken"):
                        process.map(count * PAGE, va=va, rights=rights)
                else:
                    process.map(count * PAGE, va=va, rights=rights)
                    pages |= dict.fromkeys(span, (rights, 0))
            case 1:
                if all(page in pages for page in span):
                    process.unmap(va, count * PAGE)
                    for page in span:
                        del pages[page]
                else:
                    with pytest.raises(ValueError, match="nothing is mapped"):
                        process.unmap(va, count * PAGE)
            case 2:
                if all(page in pages for page in span):
                    rights = rng.choice([READ, READ_WRITE])
                    process.protect(va, count * PAGE, rights)
                    pages |= {page: (rights, pages[page][1]) for page in span}
            case _:
                rights, value = pages.get(va, (0, 0))
                if rights:
                    assert process.read(va, PAGE) == bytes([value]) * PAGE
                if rights & 2:
                    value = rng.randrange(256)
                    process.write(va, bytes([value]) * PAGE)
                    pages[va] = (rights, value)
                else:
                    with pytest.raises(KernelFault):
                        process.write(va, b"x")
    for va, (_, value) in pages.items():
        assert process.read(va, PAGE) == bytes([value]) * PAGE
    for va in pages:
        process.unmap(va, PAGE)
    assert machine.frames.free_bytes == free


def test_areas_choose_addresses_late() -> None:
    areas = Areas()
    first = areas.gap(PAGE, PAGE, 0x10000, 0x14000)
    areas.add(Area(first, PAGE, 3, (Extent(0, PAGE),), True))
    areas.remove(first, PAGE)
    assert areas.gap(PAGE, PAGE, 0x10000, 0x14000) == first + PAGE
    assert areas.gap(2 * PAGE, PAGE, 0x10000, 0x14000) == first + 2 * PAGE
    assert areas.gap(PAGE, PAGE, 0x10000, 0x14000) == first
    with pytest.raises(MemoryError, match="no 20480 bytes of addresses"):
        areas.gap(5 * PAGE, PAGE, 0x10000, 0x14000)


def test_asids_are_unique_and_come_back_late() -> None:
    asids = Asids(bits=3)
    given = [asids.allocate() for _ in range(6)]
    assert given == [1, 2, 3, 4, 5, 6]
    with pytest.raises(MemoryError, match="all 6 ASIDs"):
        asids.allocate()
    asids.free(2)
    assert asids.allocate() == 2
    asids.free(3)
    asids.free(6)
    assert asids.allocate() == 3


# ---- staging


@pytest.mark.parametrize("n", [1, 8, 9, 64, 4096, 4097, 1 << 20, BLOCK, BLOCK + 1])
def test_a_staging_buffer_is_memory_of_the_process(machine: Machine, n: int) -> None:
    process = machine.process()
    staging = Staging(process, machine.bus)
    va, view = staging.take(n)
    assert len(view) == n
    assert va + n <= 1 << 36
    view[:] = np.arange(n, dtype=np.uint64).astype(np.uint8)
    assert process.read(va, n) == view.tobytes()
    assert sum(e.length for e in process.runs(va, n, READ_WRITE)) == n
    assert len(process.extents(va & -PAGE, PAGE)) == 1


def test_staging_buffers_never_overlap_and_are_lent_again(machine: Machine) -> None:
    staging = Staging(machine.process(), machine.bus)
    rng = random.Random(3)
    lent: dict[int, tuple[int, np.ndarray]] = {}
    for _ in range(2000):
        if lent and rng.random() < 0.5:
            va = rng.choice(list(lent))
            mark, view = lent.pop(va)
            assert (view == mark).all()
            staging.give(va)
        else:
            n = rng.choice([1, 8, 40, 100, 3000, 70_000])
            va, view = staging.take(n)
            mark = rng.randrange(256)
            view[:] = mark
            lent[va] = (mark, view)
    assert staging.lent == len(lent)
    assert all((view == mark).all() for mark, view in lent.values())
    va, _ = staging.take(8)
    staging.give(va)
    assert staging.take(8)[0] == va


def test_staging_refuses_what_it_cannot_do(machine: Machine) -> None:
    staging = Staging(machine.process(), machine.bus)
    for n in (0, -1, LIMIT + 1):
        with pytest.raises(ValueError, match="1 to 268435456 bytes"):
            staging.take(n)
    va, _ = staging.take(8)
    staging.give(va)
    with pytest.raises(ValueError, match="no staging buffer is in use"):
        staging.give(va)
    with pytest.raises(MemoryError, match="in one piece"):
        staging.take(LIMIT)


def test_long_staging_buffers_are_kept_and_given_up_under_pressure() -> None:
    machine = Machine(256 << 20)
    staging = Staging(machine.process(), machine.bus)
    first, _ = staging.take(40 << 20)
    staging.give(first)
    assert staging.take(39 << 20)[0] == first
    staging.give(first)
    va, _ = staging.take(180 << 20)  # only fits when the first is given up
    staging.give(va)
    free = machine.frames.free_bytes
    assert free > 240 << 20


# ---- regions


def test_a_region_is_one_memory_in_every_domain(machine: Machine) -> None:
    regions = Regions(machine.frames, WINDOW)
    owner, reader, stranger = machine.process(1), machine.process(2), machine.process(3)
    gva = WINDOW.start + 0x40_0000
    regions.create(owner, gva, 3 * PAGE + 8, READ_WRITE)
    regions.share(reader, gva, 3 * PAGE + 8, READ)
    owner.write(gva + PAGE, b"shared")
    assert reader.read(gva + PAGE, 6) == b"shared"
    with pytest.raises(KernelFault, match="read-only"):
        reader.write(gva, b"x")
    with pytest.raises(KernelFault, match="unmapped"):
        stranger.read(gva, 1)
    machine.invalidated.clear()
    regions.share(reader, gva, 3 * PAGE + 8, READ_WRITE)
    assert machine.invalidated == [(2, gva, 4 * PAGE)]
    reader.write(gva, b"x")
    assert owner.read(gva, 1) == b"x"
    regions.revoke(reader, gva)
    regions.revoke(reader, gva)
    with pytest.raises(KernelFault, match="unmapped"):
        reader.read(gva, 1)
    assert owner.read(gva, 1) == b"x"


def test_regions_are_idempotent_and_refuse_overlap(machine: Machine) -> None:
    regions = Regions(machine.frames, WINDOW)
    owner, other = machine.process(1), machine.process(2)
    gva = WINDOW.start + 16 * PAGE
    regions.create(owner, gva, 2 * PAGE, READ_WRITE)
    owner.write(gva, b"kept")
    free = machine.frames.free_bytes
    regions.create(owner, gva, 2 * PAGE, READ_WRITE)
    assert owner.read(gva, 4) == b"kept"
    for process, base, length in [
        (owner, gva, PAGE),
        (owner, gva + PAGE, PAGE),
        (owner, gva - PAGE, 2 * PAGE),
        (other, gva - PAGE, 9 * PAGE),
        (other, gva, 2 * PAGE),
    ]:
        with pytest.raises(
            ValueError, match=r"overlaps the one of 8192 bytes at 0x10_0001_0000, owned by process 1"
        ):
            regions.create(process, base, length, READ_WRITE)
    for base in (WINDOW.start - PAGE, WINDOW.stop, WINDOW.start + 1, 0):
        with pytest.raises(ValueError, match=r"in this node.s window"):
            regions.create(owner, base, PAGE, READ_WRITE)
    with pytest.raises(ValueError, match="the one there has 8192"):
        regions.share(other, gva, PAGE, READ)
    with pytest.raises(ValueError, match="there is none"):
        regions.share(other, gva + PAGE, PAGE, READ)
    assert machine.frames.free_bytes == free
    assert len(regions) == 1


def test_destroyed_regions_are_gone_everywhere_and_cleared(machine: Machine) -> None:
    regions = Regions(machine.frames, WINDOW)
    owner, other = machine.process(1), machine.process(2)
    free = machine.frames.free_bytes
    gva = WINDOW.start
    regions.create(owner, gva, 3 * BLOCK, READ_WRITE)
    regions.share(other, gva, 3 * BLOCK, READ_WRITE)
    owner.write(gva + BLOCK, b"secret")
    machine.invalidated.clear()
    regions.destroy(gva)
    regions.destroy(gva)
    assert {asid for asid, _, _ in machine.invalidated} == {1, 2}
    assert machine.frames.free_bytes == free
    for process in (owner, other):
        with pytest.raises(KernelFault):
            process.read(gva, 1)
    regions.create(other, gva, 3 * BLOCK, READ_WRITE)
    assert other.read(gva, 3 * BLOCK) == bytes(3 * BLOCK)


def test_a_process_that_ends_takes_its_regions_along(machine: Machine) -> None:
    regions = Regions(machine.frames, WINDOW)
    free = machine.frames.free_bytes
    owner, other = machine.process(1), machine.process(2)
    tables = machine.frames.free_bytes
    regions.create(owner, WINDOW.start, PAGE, READ_WRITE)
    regions.create(other, WINDOW.start + PAGE, PAGE, READ_WRITE)
    regions.share(other, WINDOW.start, PAGE, READ)
    regions.share(owner, WINDOW.start + PAGE, PAGE, READ)
    regions.forget(owner)
    owner.destroy()
    assert len(regions) == 1
    with pytest.raises(KernelFault):
        other.read(WINDOW.start, 1)
    other.write(WINDOW.start + PAGE, b"alive")
    regions.forget(other)
    assert machine.frames.free_bytes == tables + PAGE
    other.destroy()
    assert machine.frames.free_bytes == free


def test_a_region_that_finds_no_memory_leaves_none_behind(machine: Machine) -> None:
    regions = Regions(machine.frames, WINDOW)
    owner = machine.process(1)
    free = machine.frames.free_bytes
    with pytest.raises(MemoryError, match="1073741824 bytes asked for"):
        regions.create(owner, WINDOW.start, 1 << 30, READ_WRITE)
    assert machine.frames.free_bytes == free
    assert regions.get(WINDOW.start) is None
    regions.create(owner, WINDOW.start, PAGE, READ_WRITE)


def test_a_process_cannot_change_what_the_kernel_holds(machine: Machine) -> None:
    regions = Regions(machine.frames, WINDOW)
    process = machine.process()
    regions.create(process, WINDOW.start, PAGE, READ_WRITE)
    va, _ = Staging(process, machine.bus).take(8)
    for held in (WINDOW.start, va & -PAGE):
        with pytest.raises(ValueError, match="is a region, or a staging buffer"):
            process.unmap(held, PAGE)
        with pytest.raises(ValueError, match="is a region, or a staging buffer"):
            process.protect(held, PAGE, READ)
        process.write(held, b"still there")
