"""The books of paging, held against each other: frames, lists, owners, slots, descriptors, the SMMU."""

from __future__ import annotations

from unimem_node.kernel import Kernel
from unimem_node.kernel.frames import PAGE
from unimem_node.kernel.paging_memory import Backing, Page, Slot
from unimem_node.kernel.processes import Process
from unimem_node.mmu.regime import ACCESS_WRITE
from unimem_node.mpsoc.soc import Mpsoc
from unimem_node.smmu.smmu import OK, signed, translate


def tables_of(process: Process) -> int:
    """Pages that the tables of a process take."""
    table = process.table

    def below(at: int, level: int) -> int:
        return 1 + sum(below(child, deeper) for child, deeper in table._tables_of(at, level))

    return below(table.root, 0)


def backings_of(kernel: Kernel) -> list[Backing]:
    found: dict[Backing, None] = {}
    for process in kernel.processes():
        for area in process.areas:
            if area.backing is not None:
                found[area.backing] = None
    for file in kernel.paging.files:
        found[file.cache] = None
    for region in kernel.regions._regions.values():
        if region.backing is not None:
            found[region.backing] = None
    return list(found)


def check_books(kernel: Kernel) -> None:
    """Every frame has one use, every page its owners and one list, every slot its users."""
    core = kernel.paging._core
    pages: dict[Page, int] = {}
    slots: dict[Slot, int] = {}
    for backing in backings_of(kernel):
        for number, entry in backing.pages.items():
            if isinstance(entry, Slot):
                slots[entry] = slots.get(entry, 0) + 1
            else:
                assert (backing, number) in entry.owners
                pages[entry] = pages.get(entry, 0) + 1
    for page, owners in pages.items():
        assert owners == len(page.owners)
        assert (page in core.active) + (page in core.inactive) == 1
    assert len(core.active) + len(core.inactive) == len(pages)
    assert all(slot.users == users for slot, users in slots.items())
    assert kernel.paging.swap.used == len(slots)
    pins: dict[Page, int] = {}
    for process in kernel.processes():
        for held in process.pins.values():
            for page in held:
                pins[page] = pins.get(page, 0) + 1
    assert all(page.pins == n for page, n in pins.items())
    assert sum(page.pins for page in pages) == sum(n for page, n in pins.items() if page.owners)
    orphans = {page for page in pins if not page.owners}
    frames = {page.pa for page in [*pages, *orphans]}
    assert len(frames) == len(pages) + len(orphans)
    for pa in frames:
        kernel.frames.check(pa)
    eager = sum(
        extent.length for process in kernel.processes() for area in process.areas if area.owned
        for extent in area.extents
    )  # fmt: skip
    eager += sum(extent.length for region in kernel.regions._regions.values() for extent in region.extents)
    tables = sum(tables_of(process) for process in kernel.processes())
    used = kernel.frames.total_bytes - kernel.frames.free_bytes
    assert used == eager + (len(frames) + tables) * PAGE


def smmu_page(soc: Mpsoc, stream: int, va: int, access: int = 0) -> int | None:
    """Where an engine's access to a page goes, or None when it faults; nothing is recorded of it."""
    way = soc.smmu.resolve(stream)
    code, _, pa, _, _ = translate(
        soc.smmu.arrays, soc.smmu.lane_of(stream), way.cb, signed(va), way.access(access)
    )
    return int(pa) if code == OK else None


def check_smmu(soc: Mpsoc, process: Process, stream: int, va: int) -> bytes | None:
    """The engine and the tables say the same of a page, for reading and writing; returns what is there."""
    leaf = process.table.lookup(va)
    present = leaf is not None and leaf.rights.access_flag
    expected = leaf.translate(va) if leaf is not None and present else None
    assert smmu_page(soc, stream, va) == expected
    writable = leaf is not None and leaf.rights.write
    assert smmu_page(soc, stream, va, ACCESS_WRITE) == (expected if writable else None)
    return None if expected is None else soc.memory.read(expected, PAGE)
