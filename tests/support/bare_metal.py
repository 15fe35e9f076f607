"""A driver on bare metal: the SMMU and page tables through nothing but ``soc.bus`` and ``soc.memory``.

Register offsets and descriptor bits are typed here once more, from the manuals and not from the model, so
that a test that uses them checks the model's.
"""

from __future__ import annotations

from unimem_node import Mpsoc

SMMU = 0xFD80_0000
CR0, ACR, IDR0, IDR1, IDR2, GFSR, TLBIALLNSNH, TLBIALLH, TLBGSYNC, TLBGSTATUS, NSACR = (
    0x000, 0x010, 0x020, 0x024, 0x028, 0x048, 0x068, 0x06C, 0x070, 0x074, 0x410,
)  # fmt: skip
SMR, S2CR, CBAR, CBA2R = 0x800, 0xC00, 0x1000, 0x1800
BANKS = 0x1_0000
SCTLR, ACTLR, RESUME, TCR2, TTBR0, TTBR1, TCR, MAIR0, MAIR1, FSR, FAR, FSYNR0 = (
    0x000, 0x004, 0x008, 0x010, 0x020, 0x028, 0x030, 0x038, 0x03C, 0x058, 0x060, 0x068,
)  # fmt: skip
TLBIVA, TLBIASID, TLBSYNC, TLBSTATUS = 0x600, 0x610, 0x7F0, 0x7F4

M, TRE, AFE, CFRE, CFIE, CFCFG, HUPCF, ASIDPNE = (1 << n for n in (0, 1, 2, 5, 6, 7, 8, 12))
SS, MULTI = 1 << 30, 1 << 31
RETRY, TERMINATE = 0, 1
TRANSLATION_FAULT, PERMISSION_FAULT = 1 << 1, 1 << 3


class Driver:
    """Tables from `heap` upward; bank n has ASID n + 1."""

    def __init__(self, soc: Mpsoc, heap: int = 0x0080_0000) -> None:
        self.bus, self.memory = soc.bus, soc.memory
        self._heap = heap

    # ---- SMMU (bring-up order of Linux' arm_smmu_device_reset)

    def bring_up(self, *, unmatched_fault: bool = True) -> None:
        bus = self.bus
        bus.write32(SMMU + GFSR, bus.read32(SMMU + GFSR))
        groups, banks = bus.read32(SMMU + IDR0) & 0xFF, bus.read32(SMMU + IDR1) & 0xFF
        for n in range(groups):
            bus.write32(SMMU + SMR + 4 * n, 0)
            bus.write32(SMMU + S2CR + 4 * n, 2 << 16)
        for n in range(banks):
            bus.write32(self.register(n, SCTLR), 0)
            bus.write32(self.register(n, FSR), 0xFFFF_FFFF)
        for copy in (ACR, NSACR):
            bus.write32(SMMU + copy, (bus.read32(SMMU + copy) & ~(1 << 26)) | 1 << 8 | 1 << 10)
        for n in range(banks):
            bus.write32(self.register(n, ACTLR), bus.read32(self.register(n, ACTLR)) & ~2)
        bus.write32(SMMU + TLBIALLH, 0xFFFF_FFFF)
        bus.write32(SMMU + TLBIALLNSNH, 0xFFFF_FFFF)
        bus.write32(SMMU + TLBGSYNC, 0xFFFF_FFFF)
        while bus.read32(SMMU + TLBGSTATUS) & 1:
            pass
        bus.write32(SMMU + CR0, 1 << 1 | 1 << 2 | unmatched_fault << 10 | 1 << 11 | 1 << 12 | 1 << 21)

    def probe_stream_bits(self) -> tuple[int, int]:
        """The bits of ID and MASK that SMR0 keeps: all ones are written."""
        bus = self.bus
        bus.write32(SMMU + SMR, 0x7FFF)
        ids = bus.read32(SMMU + SMR) & 0x7FFF
        bus.write32(SMMU + SMR, ids << 16)
        mask = bus.read32(SMMU + SMR) >> 16 & 0x7FFF
        bus.write32(SMMU + SMR, 0)
        return ids, mask

    def register(self, bank: int, offset: int) -> int:
        """Address of a register of a context bank."""
        return SMMU + BANKS + 0x1000 * bank + offset

    def set_bank(self, bank: int, root: int, *, abort: bool = True, stall: bool = False) -> None:
        """Stage 1, AArch64, 48-bit addresses, 4 KiB granule; `stall`: others pass what waits (HUPCF)."""
        bus = self.bus
        bus.write32(SMMU + CBA2R + 4 * bank, 1)
        bus.write32(SMMU + CBAR + 4 * bank, 1 << 16)
        bus.write32(self.register(bank, TCR2), 5 | 1 << 4 | 7 << 15)
        bus.write32(self.register(bank, TCR), 16 | 1 << 8 | 1 << 10 | 3 << 12 | 1 << 23)
        bus.write64(self.register(bank, TTBR0), root | (bank + 1) << 48)
        bus.write64(self.register(bank, TTBR1), 0)
        bus.write32(self.register(bank, MAIR0), 0x0004_FF44)
        bus.write32(self.register(bank, MAIR1), 0)
        sctlr = CFIE | AFE | TRE | M | ASIDPNE | (CFRE if abort else 0) | (CFCFG | HUPCF if stall else 0)
        bus.write32(self.register(bank, SCTLR), sctlr)

    def route(self, group: int, stream: int, bank: int, mask: int = 0) -> None:
        """Let `stream` go to `bank`."""
        self.bus.write32(SMMU + S2CR + 4 * group, bank)
        self.bus.write32(SMMU + SMR + 4 * group, 1 << 31 | mask << 16 | stream)

    def invalidate(self, bank: int, va: int) -> None:
        self.bus.write64(self.register(bank, TLBIVA), va >> 12 | (bank + 1) << 48)
        self.bus.write32(self.register(bank, TLBSYNC), 0xFFFF_FFFF)
        while self.bus.read32(self.register(bank, TLBSTATUS)) & 1:
            pass

    def clear_fault(self, bank: int) -> None:
        self.bus.write32(self.register(bank, FSR), self.bus.read32(self.register(bank, FSR)))

    def resume(self, bank: int, how: int) -> None:
        """FSR is cleared first, so that a fault of the retried access is recorded."""
        self.clear_fault(bank)
        self.bus.write32(self.register(bank, RESUME), how)

    # ---- page tables

    def new_table(self) -> int:
        table, self._heap = self._heap, self._heap + 0x1000
        self.memory.write(table, bytes(0x1000))
        return table

    def map(self, root: int, va: int, pa: int, *, read_only: bool = False, pages: int = 1) -> None:
        """4 KiB pages: AF, inner shareable, unprivileged access, AttrIndx 1."""
        bits = 0x3 | 1 << 2 | 1 << 6 | read_only << 7 | 3 << 8 | 1 << 10 | 1 << 11
        for n in range(pages):
            self._write_entry(self._leaf(root, va + (n << 12)), (pa + (n << 12)) | bits)

    def unmap(self, root: int, va: int) -> None:
        self._write_entry(self._leaf(root, va), 0)

    def _leaf(self, root: int, va: int) -> int:
        table = root
        for shift in (39, 30, 21):
            at = table + (va >> shift & 0x1FF) * 8
            entry = int.from_bytes(self.memory.read(at, 8), "little")
            if not entry & 1:
                entry = self.new_table() | 3
                self._write_entry(at, entry)
            table = entry & 0xFFFF_FFFF_F000
        return table + (va >> 12 & 0x1FF) * 8

    def _write_entry(self, at: int, entry: int) -> None:
        self.memory.write(at, entry.to_bytes(8, "little"))
