"""The SMMU driver on a real chip model: bring-up, streams, banks, invalidation, faults.

What the driver did is read back through the bus, or seen by asking the SMMU what a stream's access becomes.
"""

from __future__ import annotations

from collections import Counter
from typing import Any

import pytest

from unimem_node.bus import Bus
from unimem_node.bus.interrupts import InterruptController
from unimem_node.clock import Scheduler
from unimem_node.kernel import FaultReport, NoContextBank, NoStreamMatch, SmmuDriver, StreamConflict
from unimem_node.kernel import smmu_registers as reg
from unimem_node.kernel.asids import Asids
from unimem_node.kernel.context_bank import SmmuTimeout, SmmuUnsuited
from unimem_node.kernel.frames import BLOCK, PAGE, FrameAllocator
from unimem_node.kernel.processes import READ, Process
from unimem_node.memory import MemoryBank, PhysicalMemory
from unimem_node.mmu.regime import ACCESS_WRITE
from unimem_node.smmu import Blocked, Fault, Smmu, SmmuSpec

BASE = 0xFD80_0000
READING = 0


class Recorder:
    """A bus that writes down what the driver does to registers."""

    def __init__(self, bus: Bus) -> None:
        self.bus = bus
        self.writes: list[tuple[int, int]] = []
        self.trace: list[tuple[int | str, int]] = []  # stores to memory too
        self.polls: Counter[int] = Counter()
        self.stuck: set[int] = set()

    def __getattr__(self, name: str) -> Any:
        return getattr(self.bus, name)

    def read32(self, address: int) -> int:
        self.polls[address] += 1
        return 1 if address in self.stuck else self.bus.read32(address)

    def write32(self, address: int, value: int) -> None:
        self._note(address, value)
        self.bus.write32(address, value)

    def write64(self, address: int, value: int) -> None:
        self._note(address, value)
        self.bus.write64(address, value)

    def write(self, address: int, data: Any) -> None:
        self._note(address, 0)
        self.bus.write(address, data)

    def _note(self, address: int, value: int) -> None:
        self.trace.append((address - BASE if address >= BASE else "memory", value))
        if address >= BASE:
            self.writes.append((address - BASE, value))


class Machine:
    """Memory, bus, SMMU and its driver, the interrupt wired to it."""

    def __init__(self, spec: SmmuSpec | None = None) -> None:
        self.memory = PhysicalMemory([MemoryBank("dram", 0, 64 << 20)])
        self.interrupts = InterruptController()
        self.clock = Scheduler()
        spec = spec or SmmuSpec()
        self.smmu = Smmu(self.memory, spec, self.interrupts, self.clock)
        plain = Bus(self.memory)
        plain.attach("smmu", BASE, spec.size, self.smmu)
        self.bus = Recorder(plain)
        self.frames = FrameAllocator(plain, [(PAGE, (64 << 20) - PAGE)])
        self.asids = Asids()
        self.reports: list[FaultReport] = []
        self.now = 0
        self.hold = False  # what the driver is told about stalled accesses
        self.driver = SmmuDriver(
            self.bus,  # type: ignore[arg-type]
            BASE,
            self.frames,
            self.asids,
            on_fault=self._report,
            stream_name=lambda stream: "dma0" if stream == 0x14E8 else "",
            now=lambda: self.now,
        )

    def _report(self, report: FaultReport) -> bool:
        self.reports.append(report)
        return self.hold

    def up(self, *, strict: bool = True) -> Machine:
        self.driver.reset(strict=strict)
        self.interrupts.connect_cpu(lambda spi: self.driver.interrupt())
        return self

    def process(self, pdid: int = 7) -> Process:
        return Process(pdid, self.asids.allocate(), self.bus.bus, self.frames, self.driver.invalidate)

    def access(self, stream: int, va: int, access: int = READING) -> int | Fault:
        """The physical address, or the fault."""
        found = self.smmu.translate(stream, va, access)
        assert not isinstance(found, Blocked)
        return found if isinstance(found, Fault) else found.pa

    def walks(self) -> int:
        return self.smmu.counters()["walks"]


@pytest.fixture
def machine() -> Machine:
    return Machine().up()


#: CR0 after bring-up: SMCFCFG (fixed), PTM, VMIDPNE, USFCFG, GCFGFIE, GCFGFRE, GFIE, GFRE; CLIENTPD = 0.
CR0_UP = 1 << 21 | 1 << 12 | 1 << 11 | 1 << 10 | 1 << 5 | 1 << 4 | 1 << 2 | 1 << 1
EVERY = 0x7FFF


def test_bring_up_in_the_order_of_the_specification() -> None:
    """Every write, in the order of Linux' driver (facts, chip.md, section 9)."""
    machine = Machine()
    assert machine.access(0x14E8, 0x1234) == 0x1234  # out of reset everything bypasses
    machine.up()
    banks = [0x1_0000 + 0x1000 * n for n in range(16)]
    assert machine.bus.writes == [
        (0x048, 0),  # 1 GFSR, written back
        *(write for n in range(48) for write in ((0x800 + 4 * n, 0), (0xC00 + 4 * n, 2 << 16))),  # 2
        *((0x800, value) for value in (EVERY, EVERY << 16, 0)),  # which bits of SMR stick
        *(write for bank in banks for write in ((bank, 0), (bank + 0x58, 0x8000_01FE))),  # 3 SCTLR, FSR
        *((0x010, 0x4 | 1 << 8 | 1 << 10), (0x410, 0x1C | 1 << 8 | 1 << 10)),  # 4 both copies of ACR
        *((bank + 0x004, 1) for bank in banks),  # ACTLR without CPRE
        *((0x06C, 0), (0x068, 0)),  # 5 TLBIALLH, TLBIALLNSNH
        (0x070, 0),  # 6 TLBGSYNC
        (0x000, CR0_UP),  # 7
    ]
    assert machine.bus.read32(BASE) == CR0_UP & ~(3 << 4)  # MMU-500: GCFGFRE, GCFGFIE read as zero
    assert machine.bus.read32(BASE + 0x010) == 0x504  # CACHE_LOCK is open, so the writes have stuck
    assert machine.bus.read32(BASE + 0x1_F004) == 1


def test_the_sync_of_the_bring_up_takes_time() -> None:
    machine = Machine()
    machine.up()
    assert machine.clock.now_ps >= 2 * 40_000 + 500_000
    assert machine.bus.polls[BASE + reg.TLBGSTATUS] > 1


def test_what_the_identification_registers_say() -> None:
    features = Machine().driver.features
    assert (features.major, features.minor) == (2, 1)
    assert (features.match_groups, features.context_banks, features.stage_2_banks) == (48, 16, 0)
    assert (features.page, features.banks_at) == (0x1000, 0x1_0000)
    assert (features.input_bits, features.output_bits, features.upstream_bits) == (48, 48, 49)
    assert features.granules == (12, 16)  # no 16 KiB
    assert all((features.stage_1, features.stage_2, features.nested, features.stream_matching))
    assert not features.coherent_walks
    assert not features.translation_operations  # ATOSNS = 1
    spec = SmmuSpec(address_translation=True, idr0=0xFC01_7E30, idr2=0x0000_7254)
    features = Machine(spec).driver.features
    assert features.coherent_walks
    assert features.translation_operations
    assert (features.input_bits, features.output_bits, features.upstream_bits) == (44, 48, 40)
    assert features.granules == (12, 14, 16)


@pytest.mark.parametrize(
    ("idr0", "idr2"),
    [(0xBC01_3E30, 0x5555), (0xF401_3E30, 0x5555), (0xFC01_3E30, 0x4555)],
    ids=["no stage 1", "no stream matching", "no 4 KiB granule"],
)
def test_an_smmu_that_the_driver_cannot_drive_is_refused(idr0: int, idr2: int) -> None:
    with pytest.raises(SmmuUnsuited, match="needs stage 1, stream matching and 4 KiB granules"):
        Machine(SmmuSpec(idr0=idr0, idr2=idr2))


def test_stream_ids_have_the_bits_that_stick() -> None:
    machine = Machine(SmmuSpec(stream_id_bits=10, micro_tlb_entries=(128,))).up()
    process = machine.process()
    machine.driver.attach(0x3FF, 0, process)
    for stream, mask in ((0x400, 0), (0, 0x400)):
        with pytest.raises(ValueError, match="stream IDs have 10 bits"):
            machine.driver.attach(stream, mask, process)


def test_a_context_bank_is_written_in_the_order_of_linux(machine: Machine) -> None:
    process = machine.process()
    machine.bus.writes.clear()
    assert machine.driver.attach(0x14E8, 0, process) == 0
    asid = process.asid << 48
    assert machine.bus.writes == [
        (0x1800, 1),  # CBA2R: AArch64 tables
        (0x1000, 1 << 16 | 3 << 8 | 0xF << 12),  # CBAR: stage 1, bypass of stage 2
        (0x1_0010, 5 | 1 << 4 | 7 << 15),  # TCR2: 48 bits out, 16-bit ASID, SEP
        (0x1_0030, 16 | 1 << 8 | 1 << 10 | 3 << 12 | 1 << 23),  # TCR: T0SZ, walks' attributes, EPD1
        (0x1_0020, asid | process.table.root),  # TTBR0
        (0x1_0028, asid),  # TTBR1
        (0x1_0038, 0x0004_FF44),  # MAIR0
        (0x1_003C, 0),  # MAIR1
        (0x1_0000, 1 | 1 << 1 | 1 << 2 | 1 << 5 | 1 << 6 | 1 << 12),  # SCTLR: M TRE AFE CFRE CFIE ASIDPNE
        (0xC00, 0),  # S2CR: translate, bank 0
        (0x800, 1 << 31 | 0x14E8),  # SMR, last: it makes the entry valid
    ]


def test_unmapping_in_the_order_of_the_specification(machine: Machine) -> None:
    """Descriptor, TLBIVA for each page, TLBSYNC, polls until SACTIVE = 0; only then the frames are free."""
    process = Process(7, machine.asids.allocate(), machine.bus, machine.frames, machine.driver.invalidate)  # type: ignore[arg-type]
    va = process.map(2 * PAGE)
    page = 0x1_0000 + 0x1000 * machine.driver.attach(0x14E8, 0, process)
    machine.access(0x14E8, va)
    machine.bus.trace.clear()
    started = machine.clock.now_ps
    process.unmap(va, 2 * PAGE)
    trace = machine.bus.trace
    first = trace.index((page + reg.TLBIVA, process.asid << 48 | va >> 12))
    assert any(where == "memory" for where, _ in trace[:first])  # the descriptors went first
    assert trace[first + 1 :] == [
        (page + reg.TLBIVA, process.asid << 48 | (va >> 12) + 1),
        (page + reg.TLBSYNC, 0),
    ]
    assert machine.clock.now_ps - started >= 2 * 40_000 + 500_000
    assert machine.bus.polls[BASE + page + reg.TLBSTATUS] > 1


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


def test_a_stalled_access_is_reported_and_terminated(machine: Machine) -> None:
    """In a bank that somebody else made stall: nobody but the driver would end the wait."""
    process = machine.process()
    page = BASE + 0x1_0000 + 0x1000 * machine.driver.attach(0x14E8, 0, process)
    machine.bus.write32(page + reg.SCTLR, machine.bus.read32(page + reg.SCTLR) | 1 << 7)
    fault = machine.access(0x14E8, 0x5000)
    assert isinstance(fault, Fault)
    assert fault.stalls
    told: list[bool] = []
    machine.smmu.hold(fault, told.append)
    machine.clock.run()
    assert told == [False]  # terminated
    (report,) = machine.reports
    assert report.stalled
    assert report.text.endswith(" [FSR 0x4000_0402 FSYNR0 0x0], stalled")
    assert machine.bus.read32(page + reg.FSR) == 0
    assert machine.interrupts.pending() == []


class Nested:
    """Bank 3, stage 1, nested in bank 5, stage 2; tables at fixed places, stream 0x14E8."""

    def __init__(self, machine: Machine) -> None:
        self.machine = machine
        bus = machine.bus.bus
        for bank, kind in ((3, 3 << 16 | 5 << 8), (5, 0)):
            bus.write32(BASE + 0x1800 + 4 * bank, 1)
            bus.write32(BASE + 0x1000 + 4 * bank, kind)
        one, two = BASE + 0x1_3000, BASE + 0x1_5000
        bus.write32(one + reg.TCR2, 5 | 1 << 4 | 7 << 15)
        bus.write32(one + reg.TCR, 25 | 1 << 23)
        bus.write64(one + reg.TTBR0, 0x20_0000)
        bus.write32(two + reg.TCR, 25 | 1 << 6 | 5 << 16)
        bus.write64(two + reg.TTBR0, 0x10_0000)
        for page in (one, two):
            bus.write32(page + reg.SCTLR, 1 | 1 << 5 | 1 << 6)
        bus.write32(BASE + 0xC00, 3)
        bus.write32(BASE + 0x800, 1 << 31 | 0x14E8)
        # stage 1: one block of 1 GiB, the first, mapped to itself; stage 2: that of the tables, of 2 MiB
        bus.write64(0x20_0000, 1 | 1 << 2 | 1 << 6 | 1 << 10)
        bus.write64(0x10_0000, 0x10_1000 | 3)
        self.tables = 0x10_1000 + 8
        bus.write64(self.tables, 0x20_0000 | 1 | 0xF << 2 | 3 << 6 | 3 << 8 | 1 << 10)


def test_faults_of_nested_translation_in_words(machine: Machine) -> None:
    nested = Nested(machine)
    machine.access(0x14E8, 0x70_0010, ACCESS_WRITE)
    (report,) = machine.reports
    assert (report.stage, report.context_bank, report.stage_1_bank) == (2, 5, 3)
    assert (report.ipa, report.walk) == (0x70_0010, False)
    assert report.text == (
        "translation fault, stage 2, level 2: write of 0x70_0010 (IPA 0x70_0010) by stream 0x14e8 (dma0) in "
        "context bank 5 under bank 3 [FSR 0x402 FSYNR0 0x3_0012]"
    )
    machine.bus.bus.write64(nested.tables, 0)
    machine.bus.bus.write32(BASE + reg.TLBIALLNSNH, 0)
    machine.clock.run()
    machine.access(0x14E8, 0x70_0010)
    report = machine.reports[-1]
    assert (report.ipa, report.walk, report.access) == (0x20_0000, True, "read")
    assert report.text.startswith(
        "translation fault, stage 2, level 2, walking stage 1: read of 0x70_0010 (IPA 0x20_0000)"
    )
    # a stream of stage 2 alone: S1CBNDX is zero, and bank 0 does not nest
    machine.bus.bus.write32(BASE + 0xC00, 5)
    machine.access(0x14E8, 0x70_0010)
    report = machine.reports[-1]
    assert (report.stage, report.ipa, report.stage_1_bank) == (2, 0x70_0010, None)


@pytest.mark.parametrize(
    ("bits", "words"),
    [
        (1 << 1, "translation fault"),
        (1 << 2, "access flag fault"),
        (1 << 3, "permission fault"),
        (1 << 4, "external abort"),
        (1 << 5, "TLB conflict"),
        (1 << 6, "TLB lock fault"),
        (1 << 7, "address size fault"),
        (1 << 8, "unsupported transaction"),
        (1 << 1 | 1 << 4, "translation fault and external abort"),
    ],
)
def test_every_bit_of_fsr_has_its_words(machine: Machine, bits: int, words: str) -> None:
    """FSRRESTORE sets what no access can make the model set."""
    page = BASE + 0x1_0000 + 0x1000 * machine.driver.attach(0x14E8, 0, machine.process())
    machine.bus.write32(page + 0x5C, bits)
    (report,) = machine.reports
    assert report.kind == words
    assert machine.bus.read32(page + reg.FSR) == 0


@pytest.mark.parametrize(
    ("bits", "words"),
    [
        (1 << 0, "invalid context"),
        (1 << 1, "unidentified stream"),
        (1 << 2, "stream match conflict"),
        (1 << 3, "unimplemented context bank"),
        (1 << 4, "unimplemented interrupt"),
        (1 << 5, "configuration access fault"),
        (1 << 6, "external abort"),
        (1 << 7, "permission fault"),
        (1 << 8, "unsupported transaction"),
        (1 << 1 | 1 << 31, "unidentified stream"),
    ],
)
def test_every_bit_of_gfsr_has_its_words(machine: Machine, bits: int, words: str) -> None:
    machine.bus.write32(BASE + 0x4C, bits)
    (report,) = machine.reports
    assert (report.kind, report.multiple) == (words, bool(bits >> 31))
    assert machine.bus.read32(BASE + reg.GFSR) == 0
