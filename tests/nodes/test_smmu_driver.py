"""The SMMU driver on a real chip model: bring-up, streams, banks, invalidation, faults.

What the driver did is read back through the bus, or seen by asking the SMMU what a stream's access becomes.
"""

from __future__ import annotations

from typing import Any

import pytest

from unimem_node.bus import Bus
from unimem_node.bus.interrupts import InterruptController
from unimem_node.clock import Scheduler
from unimem_node.kernel import FaultReport, NoContextBank, NoStreamMatch, SmmuDriver, StreamConflict
from unimem_node.kernel import smmu_registers as reg
from unimem_node.kernel.asids import Asids
from unimem_node.kernel.context_bank import SmmuTimeout
from unimem_node.kernel.frames import BLOCK, PAGE, FrameAllocator
from unimem_node.kernel.processes import READ, Process
from unimem_node.memory import MemoryBank, PhysicalMemory
from unimem_node.mmu.regime import ACCESS_WRITE
from unimem_node.smmu import Fault, Smmu, SmmuSpec

BASE = 0xFD80_0000
READING = 0


class Recorder:
    """A bus that writes down what the driver does to registers."""

    def __init__(self, bus: Bus) -> None:
        self.bus = bus
        self.writes: list[tuple[int, int]] = []
        self.stuck: set[int] = set()

    def __getattr__(self, name: str) -> Any:
        return getattr(self.bus, name)

    def read32(self, address: int) -> int:
        return 1 if address in self.stuck else self.bus.read32(address)

    def write32(self, address: int, value: int) -> None:
        self.writes.append((address - BASE, value))
        self.bus.write32(address, value)

    def write64(self, address: int, value: int) -> None:
        if address >= BASE:
            self.writes.append((address - BASE, value))
        self.bus.write64(address, value)


class Machine:
    """Memory, bus, SMMU and its driver, the interrupt wired to it."""

    def __init__(self) -> None:
        self.memory = PhysicalMemory([MemoryBank("dram", 0, 64 << 20)])
        self.interrupts = InterruptController()
        spec = SmmuSpec()
        self.smmu = Smmu(self.memory, spec, self.interrupts, Scheduler())
        plain = Bus(self.memory)
        plain.attach("smmu", BASE, spec.size, self.smmu)
        self.bus = Recorder(plain)
        self.frames = FrameAllocator(plain, [(PAGE, (64 << 20) - PAGE)])
        self.asids = Asids()
        self.reports: list[FaultReport] = []
        self.now = 0
        self.driver = SmmuDriver(
            self.bus,  # type: ignore[arg-type]
            BASE,
            self.frames,
            self.asids,
            on_fault=self.reports.append,
            stream_name=lambda stream: "dma0" if stream == 0x14E8 else "",
            now=lambda: self.now,
        )

    def up(self, *, strict: bool = True) -> Machine:
        self.driver.reset(strict=strict)
        self.interrupts.connect_cpu(lambda spi: self.driver.interrupt())
        return self

    def process(self, pdid: int = 7) -> Process:
        return Process(pdid, self.asids.allocate(), self.bus.bus, self.frames, self.driver.invalidate)

    def access(self, stream: int, va: int, access: int = READING) -> int | Fault:
        """The physical address, or the fault."""
        found = self.smmu.translate(stream, va, access)
        return found if isinstance(found, Fault) else found.pa

    def walks(self) -> int:
        return self.smmu.counters()["walks"]


@pytest.fixture
def machine() -> Machine:
    return Machine().up()


def test_bring_up_in_the_order_of_the_specification() -> None:
    machine = Machine()
    assert machine.access(0x14E8, 0x1234) == 0x1234  # out of reset everything bypasses
    machine.up()
    writes = machine.bus.writes
    offsets = [offset for offset, _ in writes]
    order = [
        reg.GFSR,
        reg.SMR,
        reg.S2CR + 4 * 47,
        reg.ACR,
        0x1_0000 + reg.SCTLR,
        0x1_F000 + reg.ACTLR,
        reg.TLBIALLH,
        reg.TLBIALLNSNH,
        reg.TLBGSYNC,
        reg.CR0,
    ]
    assert [offsets.index(offset) for offset in order] == sorted(offsets.index(offset) for offset in order)
    cr0 = machine.bus.read32(BASE + reg.CR0)
    assert not cr0 & reg.CR0_CLIENTPD
    assert cr0 & reg.CR0_USFCFG
    assert cr0 & reg.CR0_GFIE
    assert not machine.bus.read32(BASE + reg.ACR) & reg.ACR_CACHE_LOCK
    assert machine.bus.read32(BASE + 0x1_0000 + reg.ACTLR) & reg.ACTLR_CPRE == 0
    assert machine.driver.context_banks == 16
    assert machine.driver.match_groups == 48


def test_a_dynamic_stream_walks_the_process_tables(machine: Machine) -> None:
    process = machine.process()
    va = process.map(3 * PAGE)
    mapped = process.table.lookup(va + PAGE)
    assert mapped is not None
    bank = machine.driver.attach(0x14E8, 0, process)
    assert machine.walks() == 0
    assert machine.access(0x14E8, va + PAGE + 5, ACCESS_WRITE) == mapped.pa + 5
    assert machine.walks() == 1
    ttbr0 = machine.bus.read64(BASE + 0x1_0000 + 0x1000 * bank + reg.TTBR0)
    assert ttbr0 == process.table.root | process.asid << 48
    # A mapping made after the attach is seen: it is the same table.
    late = process.map(PAGE, va=0x9000)
    assert isinstance(machine.access(0x14E8, late), int)


def test_streams_of_a_process_share_a_bank(machine: Machine) -> None:
    process, other = machine.process(1), machine.process(2)
    first = machine.driver.attach(0x14E8, 0, process)
    assert machine.driver.attach(0x200, 0x3F, process) == first
    assert machine.driver.attach(0x215, 0, process) == first  # inside the mask: no entry of its own
    assert machine.driver.free_match_groups == 46
    assert machine.driver.attach(0x868, 0, other) != first
    machine.driver.detach(0x200, 0x3F)
    va = process.map(PAGE)
    assert isinstance(machine.access(0x215, va), int)  # its user is still there
    machine.driver.detach(0x215)
    assert isinstance(machine.access(0x215, va), Fault)
    with pytest.raises(ValueError, match="stream 0x215 with mask 0x0 is not attached"):
        machine.driver.detach(0x215)


def test_overlapping_streams_are_refused(machine: Machine) -> None:
    process, other = machine.process(1), machine.process(2)
    machine.driver.attach(0x210, 0x0F, process)
    before = machine.bus.writes.copy()
    for stream, mask, who, text in [
        (0x213, 0, other, "is taken: it matches stream 0x210 with mask 0xf, which leads to process 1"),
        (0x200, 0x3F, process, "overlaps stream 0x210"),
        (0x218, 0x17, process, "overlaps stream 0x210"),
    ]:
        with pytest.raises(StreamConflict, match=text):
            machine.driver.attach(stream, mask, who)
    with pytest.raises(ValueError, match="15 bits"):
        machine.driver.attach(0x8000, 0, process)
    assert machine.bus.writes == before


def test_sixteen_context_banks_and_no_more(machine: Machine) -> None:
    """E15, first half."""
    processes = [machine.process(n + 1) for n in range(17)]
    banks = [machine.driver.attach(0x200 + n, 0, process) for n, process in enumerate(processes[:16])]
    assert sorted(banks) == list(range(16))
    with pytest.raises(
        NoContextBank, match=r"process 17 finds no context bank: all 16 are in use, by process 1,"
    ):
        machine.driver.attach(0x230, 0, processes[16])
    free = machine.frames.free_bytes
    with pytest.raises(NoContextBank, match="the static domain of stream 0x230 finds no context bank"):
        machine.driver.attach_static(0x230)
    assert machine.frames.free_bytes == free
    machine.driver.detach(0x203)
    assert machine.driver.attach(0x230, 0, processes[16]) == banks[3]


def test_forty_eight_stream_entries_and_no_more(machine: Machine) -> None:
    """E15, second half: 64 stream IDs of a port need a mask."""
    process = machine.process()
    for n in range(48):
        machine.driver.attach(0x200 + n, 0, process)
    with pytest.raises(
        NoStreamMatch, match=r"stream 0x230: all 48 stream match groups are in use; one entry"
    ):
        machine.driver.attach(0x230, 0, process)
    machine.driver.detach_all(process.asid)
    machine.driver.attach(0x200, 0x3F, process)
    va = process.map(PAGE)
    assert all(isinstance(machine.access(0x200 + n, va), int) for n in range(64))
    assert machine.driver.free_match_groups == 47


def test_a_freed_bank_shows_nothing_of_its_last_user(machine: Machine) -> None:
    """Same stream, same address, another process: the first one's entries must be gone (N22)."""
    first, second = machine.process(1), machine.process(2)
    va = first.map(PAGE, va=0x5000)
    machine.driver.attach(0x14E8, 0, first)
    assert isinstance(machine.access(0x14E8, va), int)
    machine.driver.detach(0x14E8)
    assert isinstance(machine.access(0x14E8, va), Fault)
    machine.driver.attach(0x14E8, 0, second)
    assert isinstance(machine.access(0x14E8, va), Fault)
    second.map(2 * PAGE, va=0x5000)
    found = second.table.lookup(0x5000)
    assert found is not None
    assert machine.access(0x14E8, va) == found.pa


def test_unmapping_reaches_the_tlb(machine: Machine) -> None:
    process = machine.process()
    va = process.map(2 * BLOCK, va=BLOCK)
    machine.driver.attach(0x14E8, 0, process)
    for at in range(va, va + 2 * BLOCK, PAGE * 64):
        assert isinstance(machine.access(0x14E8, at), int)
    before = machine.walks()
    assert isinstance(machine.access(0x14E8, va), int)
    assert machine.walks() == before  # it was in the TLB
    process.unmap(va + PAGE, PAGE)  # splits the block
    assert isinstance(machine.access(0x14E8, va + PAGE), Fault)
    assert isinstance(machine.access(0x14E8, va + 2 * PAGE), int)
    process.protect(va + BLOCK, BLOCK, READ)
    assert isinstance(machine.access(0x14E8, va + BLOCK), int)
    assert isinstance(machine.access(0x14E8, va + BLOCK, ACCESS_WRITE), Fault)
    process.unmap(va + BLOCK, BLOCK)
    assert isinstance(machine.access(0x14E8, va + BLOCK + 17 * PAGE), Fault)


def test_small_ranges_are_invalidated_by_page_large_ones_by_asid(machine: Machine) -> None:
    process = machine.process()
    bank = 0x1_0000 + 0x1000 * machine.driver.attach(0x14E8, 0, process)
    machine.bus.writes.clear()
    machine.driver.invalidate(process.asid, 0x5000, 2 * PAGE)
    assert machine.bus.writes == [
        (bank + reg.TLBIVA, process.asid << 48 | 5),
        (bank + reg.TLBIVA, process.asid << 48 | 6),
        (bank + reg.TLBSYNC, 0),
    ]
    machine.bus.writes.clear()
    machine.driver.invalidate(process.asid, 0x5000, 17 * PAGE)
    assert machine.bus.writes == [(bank + reg.TLBIASID, process.asid), (bank + reg.TLBSYNC, 0)]
    machine.bus.writes.clear()
    machine.driver.invalidate(process.asid + 1, 0x5000, PAGE)  # nobody's: no bank to tell
    assert machine.bus.writes == []


def test_a_sync_that_hangs_is_reported(machine: Machine) -> None:
    process = machine.process()
    bank = machine.driver.attach(0x14E8, 0, process)
    machine.bus.stuck.add(BASE + 0x1_0000 + 0x1000 * bank + reg.TLBSTATUS)
    with pytest.raises(SmmuTimeout, match="does not end"):
        machine.driver.invalidate(process.asid, 0, PAGE)


def test_a_static_domain_has_its_own_addresses(machine: Machine) -> None:
    free = machine.frames.free_bytes
    domain = machine.driver.attach_static(0x14E8)
    domain.map(0x4000_0000, 0x20_0000, BLOCK)
    domain.map(0x5000_0000, 0x40_0000, PAGE, write=False)
    assert machine.access(0x14E8, 0x4000_0123) == 0x20_0123
    assert isinstance(machine.access(0x14E8, 0x5000_0000, ACCESS_WRITE), Fault)
    assert domain.mapped_bytes == BLOCK + PAGE
    with pytest.raises(ValueError, match="is mapped already"):
        domain.map(0x4000_0000, 0x60_0000, PAGE)
    domain.unmap(0x4000_0000, BLOCK)
    assert isinstance(machine.access(0x14E8, 0x4000_0123), Fault)
    domain.detach()
    assert machine.frames.free_bytes == free
    assert machine.driver.banks() == []
    assert machine.driver.free_match_groups == 48


def test_a_fault_is_reported_and_cleared(machine: Machine) -> None:
    process = machine.process(7)
    va = process.map(PAGE, va=0x8000, rights=READ)
    bank = machine.driver.attach(0x14E8, 0, process)
    machine.now = 1_500_000
    fault = machine.access(0x14E8, va + 8, ACCESS_WRITE)
    assert isinstance(fault, Fault)
    (report,) = machine.reports
    assert (report.kind, report.access, report.iova) == ("permission fault", "write", 0x8008)
    assert (report.stage, report.level, report.context_bank) == (1, 3, bank)
    assert (report.pdid, report.asid, report.stream_id) == (7, process.asid, 0x14E8)
    assert (report.fsr, report.fsynr0) == (fault.fsr, fault.fsynr0)
    assert report.time_ps == 1_500_000
    assert not report.multiple
    assert str(report) == (
        f"permission fault, stage 1, level 3: write of 0x8008 by stream 0x14e8 (dma0) in context bank {bank} "
        "of process 7 [FSR 0x408 FSYNR0 0x13]"
    )
    assert machine.interrupts.pending() == []
    machine.access(0x14E8, 0x1_0000_0000)
    assert machine.reports[-1].kind == "translation fault"
    assert machine.reports[-1].number == 2
    assert machine.reports[-1].access == "read"


def test_faults_that_pile_up_are_told_as_multiple() -> None:
    machine = Machine()
    machine.driver.reset()
    process = machine.process()
    machine.driver.attach(0x14E8, 0, process)
    for va in (0x5000, 0x6000, 0x7000):
        machine.access(0x14E8, va)  # nobody serves the interrupt
    assert machine.interrupts.pending() == [155]
    machine.driver.interrupt()
    (report,) = machine.reports
    assert report.iova == 0x5000
    assert report.multiple
    assert report.text.endswith(", and more that left no record")
    assert machine.interrupts.pending() == []


def test_a_bank_that_is_not_ours_is_served_too(machine: Machine) -> None:
    """Bare-metal software may have set up a bank; its fault must not hold the line for ever."""
    page = BASE + 0x1_0000 + 0x1000 * 15
    machine.bus.write32(BASE + 0x1000 + reg.CBA2R + 4 * 15, 1)
    machine.bus.write32(BASE + 0x1000 + reg.CBAR + 4 * 15, 1 << 16)
    machine.bus.write32(page + reg.TCR, 16 | 1 << 23)
    machine.bus.write64(page + reg.TTBR0, 0x100_0000)
    machine.bus.write32(page + reg.SCTLR, reg.SCTLR_M | reg.SCTLR_CFIE | reg.SCTLR_CFRE)
    machine.bus.write32(BASE + reg.S2CR + 4 * 40, 15)
    machine.bus.write32(BASE + reg.SMR + 4 * 40, 1 << 31 | 0x868)
    assert isinstance(machine.access(0x868, 0x1000), Fault)
    (report,) = machine.reports
    assert (report.context_bank, report.pdid, report.asid) == (15, None, None)
    assert machine.interrupts.pending() == []


def test_unidentified_streams_fault_or_bypass(machine: Machine) -> None:
    """E4b."""
    fault = machine.access(0x868, 0x7000, ACCESS_WRITE)
    assert isinstance(fault, Fault)
    (report,) = machine.reports
    assert (report.kind, report.context_bank, report.level) == ("unidentified stream", None, None)
    assert (report.stream_id, report.iova, report.access) == (0x868, 0x7000, "write")
    assert str(report).startswith(
        "unidentified stream: write of 0x7000 by stream 0x868 [sGFSR 0x2 sGFSYNR0 0x"
    )
    assert machine.interrupts.pending() == []
    machine.driver.set_strict(False)
    assert machine.access(0x868, 0x7000, ACCESS_WRITE) == 0x7000
    machine.driver.set_strict(True)
    assert isinstance(machine.access(0x868, 0x7000), Fault)
    assert isinstance(Machine().up(strict=False).access(0x868, 0x7000), int)
