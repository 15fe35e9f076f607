"""A small driver for ZynqMP's SMMU and DMA engines, as ``docs/programming-model.md`` explains it.

It has nothing but `bus` and `memory` of an `Mpsoc`: copy it beside your own program and change it. The
kernel's driver (``nodes/unimem_node/kernel/smmu_driver.py``) does the same with bookkeeping and errors.
"""

from __future__ import annotations

from typing import Any

SMMU = 0xFD80_0000
CR0, ACR, IDR0, IDR1, GFAR, GFSR, GFSYNR1 = 0x000, 0x010, 0x020, 0x024, 0x040, 0x048, 0x054
TLBIALLNSNH, TLBIALLH, TLBGSYNC, SMR, S2CR = 0x068, 0x06C, 0x070, 0x800, 0xC00
CBAR, CBFRSYNRA, CBA2R = 0x1000, 0x1400, 0x1800
SCTLR, ACTLR, RESUME, TCR2, TTBR0, TTBR1, TCR, MAIR0 = 0x000, 0x004, 0x008, 0x010, 0x020, 0x028, 0x030, 0x038
FSR, FAR, FSYNR0, IPAFAR = 0x058, 0x060, 0x068, 0x070
TLBIVA, TLBIASID, TLBIVAL, TLBIIPAS2, TLBSYNC = 0x600, 0x610, 0x620, 0x630, 0x7F0
M, CFRE, CFIE, CFCFG, HUPCF = 1 << 0, 1 << 5, 1 << 6, 1 << 7, 1 << 8
PAGE = 3 | 1 << 2 | 1 << 6 | 3 << 8 | 1 << 10 | 1 << 11  # page, AttrIndx 1, AP[1], inner shareable, AF, nG
READ_ONLY = 1 << 7  # AP[2]
FPD0 = 0xFD50_0000


def cb(bank: int, offset: int) -> int:
    """Address of a context bank's register."""
    return SMMU + 0x1_0000 + 0x1000 * bank + offset


def sync(bus: Any, command: int) -> None:
    """Wait until all invalidations are done: the status register is the next one."""
    bus.write32(command, 0)
    while bus.read32(command + 4) & 1:
        pass


def bring_up(bus: Any, *, unmatched_fault: bool = True) -> None:
    """From reset to translation, in the order of Linux' `arm_smmu_device_reset`."""
    bus.write32(SMMU + GFSR, bus.read32(SMMU + GFSR))
    for n in range(bus.read32(SMMU + IDR0) & 0xFF):  # NUMSMRG
        bus.write32(SMMU + SMR + 4 * n, 0)
        bus.write32(SMMU + S2CR + 4 * n, 2 << 16)  # TYPE: fault
    banks = range(bus.read32(SMMU + IDR1) & 0xFF)  # NUMCB
    for n in banks:
        bus.write32(cb(n, SCTLR), 0)
        bus.write32(cb(n, FSR), 0xFFFF_FFFF)
    for copy in (ACR, ACR + 0x400):  # clear CACHE_LOCK; SMTNMB_TLBEN, S2CRB_TLBEN
        bus.write32(SMMU + copy, bus.read32(SMMU + copy) & ~(1 << 26) | 1 << 8 | 1 << 10)
    for n in banks:
        bus.write32(cb(n, ACTLR), bus.read32(cb(n, ACTLR)) & ~2)  # no prefetch (CPRE)
    bus.write32(SMMU + TLBIALLH, 0)
    bus.write32(SMMU + TLBIALLNSNH, 0)
    sync(bus, SMMU + TLBGSYNC)
    # CLIENTPD = 0; GFRE, GFIE, VMIDPNE, PTM; USFCFG: what a stream without an entry gets
    bus.write32(SMMU + CR0, 1 << 1 | 1 << 2 | 1 << 11 | 1 << 12 | unmatched_fault << 10)


class Tables:
    """Stage-1 tables of 4 KiB granules for 48 bits of address, in memory from `at` on."""

    def __init__(self, memory: Any, at: int) -> None:
        self.memory = memory
        self.free = at
        self.root = self.page()

    def page(self) -> int:
        """Take a cleared page."""
        self.free += 0x1000
        self.memory.write(self.free - 0x1000, bytes(0x1000))
        return self.free - 0x1000

    def slot(self, va: int, level: int = 3) -> int:
        """Address of the descriptor of `va` at a level; tables on the way are made."""
        table = self.root
        for shift in (39, 30, 21)[:level]:
            at = table + (va >> shift & 511) * 8
            entry = int.from_bytes(self.memory.read(at, 8), "little")
            if not entry & 1:
                entry = self.page() | 3  # a table
                self.put(at, entry)
            table = entry & 0xFFFF_FFFF_F000
        return table + (va >> 39 - 9 * level & 511) * 8

    def put(self, at: int, descriptor: int) -> None:
        """Write a descriptor."""
        self.memory.write(at, descriptor.to_bytes(8, "little"))

    def map(self, va: int, pa: int, pages: int = 1, bits: int = PAGE) -> None:
        """Map pages, one after the other."""
        for n in range(pages):
            self.put(self.slot(va + 0x1000 * n), pa + 0x1000 * n | bits)

    def unmap(self, va: int) -> None:
        """Remove a page; the TLBs still have it (see `invalidate`)."""
        self.put(self.slot(va), 0)


def set_bank(bus: Any, bank: int, root: int, asid: int, *, control: int = M | CFRE | CFIE) -> None:
    """Let a bank walk tables, in the order of Linux' `arm_smmu_write_context_bank`; SCTLR is the last."""
    bus.write32(SMMU + CBA2R + 4 * bank, 1)  # VA64: AArch64 tables
    bus.write32(SMMU + CBAR + 4 * bank, 1 << 16)  # TYPE 1: stage 1, stage 2 bypassed
    bus.write32(cb(bank, TCR2), 5 | 1 << 4 | 7 << 15)  # PASize 48 bits, 16-bit ASIDs, SEP
    bus.write32(cb(bank, TCR), 16 | 1 << 8 | 1 << 10 | 3 << 12 | 1 << 23)  # T0SZ 16, walks' attributes, EPD1
    bus.write64(cb(bank, TTBR0), asid << 48 | root)
    bus.write64(cb(bank, TTBR1), 0)
    bus.write64(cb(bank, MAIR0), 0x0004_FF44)  # AttrIndx 0 non-cacheable, 1 write-back, 2 device
    bus.write32(cb(bank, SCTLR), control)


def route(bus: Any, group: int, stream: int, bank: int, mask: int = 0) -> None:
    """Lead a stream to a bank: S2CR first, since SMR makes the entry valid."""
    bus.write32(SMMU + S2CR + 4 * group, bank)
    bus.write32(SMMU + SMR + 4 * group, 1 << 31 | mask << 16 | stream)


def invalidate(bus: Any, bank: int, va: int, asid: int, *, leaf: bool = False) -> None:
    """Make the TLBs forget an address, and wait until they have."""
    bus.write64(cb(bank, TLBIVAL if leaf else TLBIVA), asid << 48 | va >> 12)
    sync(bus, cb(bank, TLBSYNC))


def zdma(soc: Any, source: int, destination: int, n: int, base: int = FPD0) -> str:
    """Copy with a ZDMA channel in simple mode and wait for its end."""
    bus = soc.bus
    bus.write32(base + 0x100, 0xFFF)  # ISR: clear
    bus.write32(base + 0x110, 0x80)  # CTRL0: simple
    bus.write64(base + 0x128, source)
    bus.write32(base + 0x130, n)
    bus.write64(base + 0x138, destination)
    bus.write32(base + 0x140, n)
    bus.write32(base + 0x188, 0xFFFF_FFFF)  # TOTAL_BYTE: clear
    bus.write32(base + 0x200, 1)  # CTRL2.EN
    soc.run()
    state = ("done", "paused", "busy", "error")[bus.read32(base + 0x11C) & 3]
    return f"{state}, {bus.read32(base + 0x188)} bytes"


def describe(bus: Any, bank: int) -> str:
    """Read a bank's fault record."""
    fsr, synr = bus.read32(cb(bank, FSR)), bus.read32(cb(bank, FSYNR0))
    names = {1: "translation", 2: "access flag", 3: "permission", 4: "external abort", 5: "TLB conflict"}
    names |= {6: "TLB lock", 7: "address size", 8: "unsupported"}
    kinds = " ".join(name for bit, name in names.items() if fsr >> bit & 1)
    if not kinds:
        return "no fault"
    line = f"FSR {fsr:#x}: {kinds}, level {synr & 3}, {'write' if synr >> 4 & 1 else 'read'}"
    line += f" of {bus.read64(cb(bank, FAR)):#x} by stream {bus.read32(SMMU + CBFRSYNRA + 4 * bank):#x}"
    if bus.read32(SMMU + CBAR + 4 * bank) >> 16 & 3 == 0:  # a bank of stage 2
        line += f", IPA {bus.read64(cb(bank, IPAFAR)):#x}" + (", walking stage 1" if synr >> 10 & 1 else "")
    return line + (", stalled" if fsr >> 30 & 1 else "") + (", and more" if fsr >> 31 else "")
