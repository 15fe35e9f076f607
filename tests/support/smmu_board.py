"""A chip with nothing but memory, a bus and an SMMU on it, for tests of the SMMU.

Everything is done as bare-metal software would: registers through the bus at ZynqMP's addresses, descriptors
in DRAM. `Board.bank` programs a context bank in the order Linux does (facts, chip.md §9).
"""

from __future__ import annotations

from dataclasses import dataclass, field

from unimem_node.bus import Bus
from unimem_node.bus.interrupts import InterruptController
from unimem_node.clock import EventLog, Scheduler
from unimem_node.memory import MemoryBank, PhysicalMemory
from unimem_node.mmu.tables import PageTable
from unimem_node.smmu import Blocked, Fault, Smmu, SmmuSpec, Translation

BASE = 0xFD80_0000
GR1 = 0x1000
SPI = 155

CR0, GFAR, GFSR, GFSYNR0, GFSYNR1 = 0x0, 0x40, 0x48, 0x50, 0x54
STLBIALL, TLBIVMID, TLBIALLNSNH, TLBIALLH, TLBGSYNC, TLBGSTATUS = 0x60, 0x64, 0x68, 0x6C, 0x70, 0x74
SMR, S2CR = 0x800, 0xC00
CBAR, CBFRSYNRA, CBA2R = GR1, GR1 + 0x400, GR1 + 0x800
SCTLR, ACTLR, TCR2, TTBR0, TTBR1, TCR = 0x0, 0x4, 0x10, 0x20, 0x28, 0x30
FSR, FSRRESTORE, FAR, FSYNR0, IPAFAR = 0x58, 0x5C, 0x60, 0x68, 0x70
TLBIVA, TLBIVAA, TLBIASID, TLBIALL, TLBIVAL, TLBIVAAL = 0x600, 0x608, 0x610, 0x618, 0x620, 0x628
TLBIIPAS2, TLBIIPAS2L, TLBSYNC, TLBSTATUS, RESUME = 0x630, 0x638, 0x7F0, 0x7F4, 0x8

M, CFRE, CFIE, CFCFG, HUPCF = 1 << 0, 1 << 5, 1 << 6, 1 << 7, 1 << 8
SEP_UPSTREAM = 7 << 15
RETRY, TERMINATE = 0, 1
BYPASS, FAULT = 1 << 16, 2 << 16
CLIENTPD, GFRE, GFIE, USFCFG, SMCFCFG = 1 << 0, 1 << 1, 1 << 2, 1 << 10, 1 << 21

#: A stream on each TBU of ZynqMP that a test may use (facts, chip.md §7).
HPC0 = 0x200
FPD_DMA = 0x14E8

TABLES = 0x0010_0000  # page tables are made from here upwards
DRAM = 64 << 20


def cb(bank: int, offset: int = 0) -> int:
    """Offset of a context bank's register."""
    return (16 + bank) * 0x1000 + offset


def occupancy(smmu: Smmu) -> int:
    """Entries in all TLBs."""
    return smmu.tlb.occupancy() + sum(smmu.tlb.occupancy(tbu) for tbu in range(smmu.spec.tbus))


class RawTables:
    """Tables of 4 KiB granules, of either stage, in which a test writes what it likes.

    `start` is the level of the root; a range of input addresses needs no more than one table there.
    """

    def __init__(self, board: Board, start: int = 0) -> None:
        self.board = board
        self.start = start
        self.root = self._fresh()

    def _fresh(self) -> int:
        page = self.board.page()
        self.board.memory.write(page, bytes(0x1000))
        return page

    def entry(self, address: int, level: int = 3) -> int:
        """Address of the descriptor for `address` at a level; tables on the way are made."""
        table = self.root
        for at in range(self.start, level):
            where = table + (address >> 39 - 9 * at & 511) * 8
            descriptor = self.board.memory.read64(where)
            if not descriptor & 1:
                descriptor = self._fresh() | 3
                self.board.memory.write64(where, descriptor)
            table = descriptor & 0xFFFF_FFFF_F000
        return table + (address >> 39 - 9 * level & 511) * 8

    def put(self, address: int, descriptor: int, level: int = 3) -> None:
        """Write the descriptor for `address` at a level."""
        self.board.memory.write64(self.entry(address, level), descriptor)

    def identity(self, first: int, last: int, bits: int) -> None:
        """Map pages ``[first, last]`` onto themselves, with the attributes `bits`."""
        for page in range(first, last + 1, 0x1000):
            self.put(page, page | bits)


#: Page descriptors. Stage 1: AttrIndx 1, unprivileged access, inner shareable, AF, nG. Stage 2: write-back,
#: readable and writable, inner shareable, AF.
PAGE_1 = 3 | 1 << 2 | 1 << 6 | 3 << 8 | 1 << 10 | 1 << 11
PAGE_2 = 3 | 0xF << 2 | 3 << 6 | 3 << 8 | 1 << 10


@dataclass
class Board:
    """Memory at 0 (64 MiB), a second bank at 0x8_0000_0000, and the SMMU at its place."""

    spec: SmmuSpec = field(default_factory=SmmuSpec)
    node: str = "n0"

    def __post_init__(self) -> None:
        self.memory = PhysicalMemory([MemoryBank("low", 0, DRAM), MemoryBank("high", 0x8_0000_0000, DRAM)])
        self.bus = Bus(self.memory)
        self.interrupts = InterruptController()
        self.log = EventLog()
        self.scheduler = Scheduler()
        self.smmu = Smmu(self.memory, self.spec, self.interrupts, self.scheduler, self.log, node=self.node)
        self.bus.attach("smmu", BASE, self.spec.size, self.smmu)
        self.bus.attach("smmu_reg", 0xFD5F_0000, 0x1_0000, self.smmu.wrapper)
        self._next = TABLES
        self._free: list[int] = []

    def read(self, offset: int) -> int:
        return self.bus.read32(BASE + offset)

    def write(self, offset: int, value: int) -> None:
        self.bus.write32(BASE + offset, value)

    def read64(self, offset: int) -> int:
        return self.bus.read64(BASE + offset)

    def write64(self, offset: int, value: int) -> None:
        self.bus.write64(BASE + offset, value)

    def page(self) -> int:
        """A fresh 4 KiB page for tables."""
        if self._free:
            return self._free.pop()
        self._next += 0x1000
        return self._next - 0x1000

    def table(self) -> PageTable:
        return PageTable(self.bus, self.page, self._free.append)

    def enable(self, flags: int = USFCFG | SMCFCFG) -> None:
        """Let the SMMU translate (CLIENTPD = 0)."""
        self.write(CR0, flags)

    def stream(self, group: int, stream_id: int, s2cr: int, mask: int = 0) -> None:
        """Map a stream: `s2cr` is the bank to translate with, or BYPASS or FAULT."""
        self.write(S2CR + 4 * group, s2cr)
        self.write(SMR + 4 * group, 1 << 31 | mask << 16 | stream_id)

    def bank(
        self,
        bank: int,
        root: int,
        *,
        asid: int | None = None,
        vmid: int | None = None,
        sctlr: int = M | CFRE | CFIE,
        tcr: int = 16 | 1 << 23,  # T0SZ = 16, 4 KiB, EPD1
        tcr2: int = 5 | 1 << 4 | SEP_UPSTREAM,  # 48 bits out, 16-bit ASIDs
        kind: int = 1,
        stage_2: int = 0,
    ) -> None:
        """Program a context bank: stage 1 over the tables at `root`; `stage_2`: the bank it nests in."""
        asid = bank + 1 if asid is None else asid
        vmid = bank + 1 if vmid is None else vmid
        self.write(CBA2R + 4 * bank, 1)
        self.write(CBAR + 4 * bank, kind << 16 | stage_2 << 8 | vmid)
        self.write(cb(bank, TCR2), tcr2)
        self.write(cb(bank, TCR), tcr)
        self.write64(cb(bank, TTBR0), asid << 48 | root)
        self.write64(cb(bank, TTBR1), 0)
        self.write(cb(bank, SCTLR), sctlr)

    def stage_2_bank(
        self,
        bank: int,
        root: int,
        *,
        vmid: int | None = None,
        sctlr: int = M | CFRE | CFIE,
        tcr: int = 25 | 1 << 6 | 5 << 16,  # T0SZ = 25: 39 bits from level 1, 4 KiB, 48 bits out
    ) -> None:
        """Program a context bank: stage 2 alone, AArch64, over the tables at `root`."""
        self.write(CBA2R + 4 * bank, 1)
        self.write(CBAR + 4 * bank, bank + 1 if vmid is None else vmid)
        self.write(cb(bank, TCR), tcr)
        self.write64(cb(bank, TTBR0), root)
        self.write(cb(bank, SCTLR), sctlr)

    def sync(self, bank: int | None = None) -> int:
        """Wait for invalidations, as a driver does; the number of polls."""
        sync, status = (TLBGSYNC, TLBGSTATUS) if bank is None else (cb(bank, TLBSYNC), cb(bank, TLBSTATUS))
        self.write(sync, 0)
        polls = 1
        while self.read(status) & 1:
            polls += 1
            assert polls < 10_000, "the sync does not end"
        return polls

    def run(self) -> None:
        """Let time pass until nothing is left to do."""
        self.scheduler.run()

    def simple(
        self, va: int = 0x4000_0000, pa: int = 0x100_0000, length: int = 0x10_0000, **rights: bool
    ) -> PageTable:
        """Stream HPC0 to bank 0, with one range mapped; returns the tables."""
        table = self.table()
        table.map(va, pa, length, **rights)
        self.bank(0, table.root)
        self.stream(0, HPC0, 0)
        self.enable()
        return table

    def go(self, va: int, access: int = 0, stream_id: int = HPC0) -> Translation | Blocked | Fault:
        return self.smmu.translate(stream_id, va, access)

    def pa(self, va: int, access: int = 0, stream_id: int = HPC0) -> int:
        """The physical address; a fault fails the test with its description."""
        result = self.go(va, access, stream_id)
        assert isinstance(result, Translation), (
            result.describe() if isinstance(result, Fault) else f"{va:#x} is blocked"
        )
        return result.pa

    def fault(self, va: int, access: int = 0, stream_id: int = HPC0) -> Fault:
        """The fault; a translation fails the test."""
        result = self.go(va, access, stream_id)
        assert isinstance(result, Fault), f"{va:#x}: {result}"
        return result

    @property
    def pending(self) -> list[int]:
        return self.interrupts.pending()
