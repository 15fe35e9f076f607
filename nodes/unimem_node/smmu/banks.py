"""From a context bank's registers to what a walk and stream mapping need (SMMUv2, context bank registers).

The ASID comes from TTBR0, or TTBR1 with TCR.A1; it has 8 bits unless TCR2.AS = 1. Granules that IDR2 does not
offer are decoded as reserved, so that every walk with them ends in a translation fault.
"""

from __future__ import annotations

from unimem_node.bus.registers import RegisterFile
from unimem_node.mmu.regime import (
    CFG_CFIE,
    CFG_CFRE,
    CFG_HUPCF,
    IPS_BITS,
    REGIME_COLS,
    TG0_SHIFTS,
    TG1_SHIFTS,
    Regime,
)
from unimem_node.smmu.arrays import R_CONTEXT
from unimem_node.smmu.spec import SmmuSpec
from unimem_node.smmu.streams import BankState
from unimem_node.smmu.tlb import Int64s, context_of

#: Registers of a bank, and of global space 1, that take part in translation.
CONFIGURATION = ("CB_SCTLR", "CB_TCR", "CB_TCR2", "CB_TTBR0", "CB_TTBR1", "CBAR", "CBA2R")


def vmid_of(registers: RegisterFile, bank: int) -> int:
    """VMID of a bank's entries."""
    return registers.register("CBAR").get(registers.peek("CBAR", bank), "VMID")


def asid_mask(registers: RegisterFile, bank: int) -> int:
    """Bits of an ASID that count: 16 with TCR2.AS, else 8."""
    return 0xFFFF if registers.register("CB_TCR2").get(registers.peek("CB_TCR2", bank), "AS") else 0xFF


def decode(registers: RegisterFile, bank: int, spec: SmmuSpec, row: Int64s) -> BankState:
    """Fill a bank's row of `Arrays.regimes` and return what stream mapping needs to know of it."""

    def field(register: str, name: str) -> int:
        return registers.register(register).get(registers.peek(register, bank), name)

    def granule(shift: int) -> int:
        return shift if shift in spec.granules else 0

    asid = field("CB_TTBR1" if field("CB_TCR", "A1") else "CB_TTBR0", "ASID") & asid_mask(registers, bank)
    enabled = bool(field("CB_SCTLR", "M"))
    big_endian = bool(field("CB_SCTLR", "E"))
    cfg = (
        CFG_CFRE * field("CB_SCTLR", "CFRE")
        | CFG_CFIE * field("CB_SCTLR", "CFIE")
        | CFG_HUPCF * field("CB_SCTLR", "HUPCF")
    )
    regime = Regime(
        ttbr0=registers.peek("CB_TTBR0", bank),
        ttbr1=registers.peek("CB_TTBR1", bank),
        t0sz=field("CB_TCR", "T0SZ"),
        t1sz=field("CB_TCR", "T1SZ"),
        granule_shift0=granule(TG0_SHIFTS[field("CB_TCR", "TG0")]),
        granule_shift1=granule(TG1_SHIFTS[field("CB_TCR", "TG1")]),
        epd0=bool(field("CB_TCR", "EPD0")),
        epd1=bool(field("CB_TCR", "EPD1")),
        asid=asid,
        ips_bits=IPS_BITS[field("CB_TCR2", "PASIZE")],
        af_enabled=not field("CB_SCTLR", "AFFD"),
        wxn=bool(field("CB_SCTLR", "WXN")),
        tbi0=bool(field("CB_TCR2", "TBI0")),
        tbi1=bool(field("CB_TCR2", "TBI1")),
        big_endian=big_endian,
        enabled=enabled,
        cfg=cfg,
        vmid=vmid_of(registers, bank),
    )
    row[:REGIME_COLS] = regime.row()
    row[R_CONTEXT] = context_of(regime.vmid, bank, asid)
    return BankState(field("CBAR", "TYPE"), enabled, bool(field("CBA2R", "VA64")), big_endian)
