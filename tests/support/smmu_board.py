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
from unimem_node.smmu import Fault, Smmu, SmmuSpec, Translation

BASE = 0xFD80_0000
GR1 = 0x1000
SPI = 155

CR0, GFAR, GFSR, GFSYNR0, GFSYNR1 = 0x0, 0x40, 0x48, 0x50, 0x54
SMR, S2CR = 0x800, 0xC00
CBAR, CBFRSYNRA, CBA2R = GR1, GR1 + 0x400, GR1 + 0x800
SCTLR, ACTLR, TCR2, TTBR0, TTBR1, TCR = 0x0, 0x4, 0x10, 0x20, 0x28, 0x30
FSR, FSRRESTORE, FAR, FSYNR0, IPAFAR = 0x58, 0x5C, 0x60, 0x68, 0x70
TLBIVA, TLBIVAA, TLBIASID, TLBIALL, TLBIVAL, TLBIVAAL = 0x600, 0x608, 0x610, 0x618, 0x620, 0x628

M, CFRE, CFIE = 1 << 0, 1 << 5, 1 << 6
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
        self.smmu = Smmu(self.memory, self.spec, self.interrupts, Scheduler(), self.log, node=self.node)
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
        tcr2: int = 5 | 1 << 4,  # 48 bits out, 16-bit ASIDs
        kind: int = 1,
    ) -> None:
        """Program a context bank: stage 1, AArch64, over the tables at `root`."""
        asid = bank + 1 if asid is None else asid
        vmid = bank + 1 if vmid is None else vmid
        self.write(CBA2R + 4 * bank, 1)
        self.write(CBAR + 4 * bank, kind << 16 | vmid)
        self.write(cb(bank, TCR2), tcr2)
        self.write(cb(bank, TCR), tcr)
        self.write64(cb(bank, TTBR0), asid << 48 | root)
        self.write64(cb(bank, TTBR1), 0)
        self.write(cb(bank, SCTLR), sctlr)

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

    def go(self, va: int, access: int = 0, stream_id: int = HPC0) -> Translation | Fault:
        return self.smmu.translate(stream_id, va, access)

    def pa(self, va: int, access: int = 0, stream_id: int = HPC0) -> int:
        """The physical address; a fault fails the test with its description."""
        result = self.go(va, access, stream_id)
        assert isinstance(result, Translation), result.describe()
        return result.pa

    def fault(self, va: int, access: int = 0, stream_id: int = HPC0) -> Fault:
        """The fault; a translation fails the test."""
        result = self.go(va, access, stream_id)
        assert isinstance(result, Fault), f"{va:#x} translated to {result.pa:#x}"
        return result

    @property
    def pending(self) -> list[int]:
        return self.interrupts.pending()
