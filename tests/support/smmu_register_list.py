"""The registers of a ZynqMP's MMU-500 once more, typed from the manuals and not from the model's table.

Columns: name, offset of the first, how many, bytes between them, bytes each, value out of reset, bits that
hold what is written, kind, what is added to the reset value for each further one. Kinds: ``rw`` (bits outside
the mask keep their reset value), ``ro``, ``wo`` (reads as zero), ``w1c`` (the mask's bits are cleared by
writing one), ``raz`` (reads as zero, ignores writes), ``lock`` (holds until unlocked), ``pair``
(a bit for each counter of the performance monitor).

Sources: Arm IHI0062 (SMMUv2), Arm DDI0517 (MMU-500); reset values and fixed bits: Xilinx' register data.
"""

from __future__ import annotations

from typing import NamedTuple


class Row(NamedTuple):
    name: str
    offset: int
    count: int
    stride: int
    size: int
    reset: int
    mask: int
    kind: str
    step: int = 0


ALL = 0xFFFF_FFFF
ALL64 = 0xFFFF_FFFF_FFFF_FFFF
CB = 0x1_0000  # context bank 0; the next ones 4 KiB further each


def _g(
    name: str, offset: int, reset: int, mask: int, kind: str, size: int = 4, count: int = 1, step: int = 0
) -> Row:
    return Row(name, offset, count, size, size, reset, mask, kind, step)


def _cb(name: str, offset: int, reset: int, mask: int, kind: str, size: int = 4) -> Row:
    return Row("CB_" + name, CB + offset, 16, 0x1000, size, reset, mask, kind)


GLOBAL_0 = [
    # SMCFCFG is fixed at one; GSE, STALLD, GCFGFIE, GCFGFRE at zero; VMID16EN, EXIDENABLE are not offered
    _g("CR0", 0x000, 0x0020_0001, 0x7FDF_FCC7, "rw"),
    _g("CR1", 0x004, 0, ALL, "rw"),
    _g("CR2", 0x008, 0, 0xFF, "rw"),
    _g("ACR", 0x010, 0x0400_0004, 0, "lock"),
    _g("IDR0", 0x020, 0xFC01_3E30, 0, "ro"),
    _g("IDR1", 0x024, 0x3000_0F10, 0, "ro"),
    _g("IDR2", 0x028, 0x0000_5555, 0, "ro"),
    _g("IDR3", 0x02C, 0, 0, "ro"),
    _g("IDR4", 0x030, 0, 0, "ro"),
    _g("IDR5", 0x034, 0, 0, "ro"),
    _g("IDR6", 0x038, 0, 0, "ro"),
    _g("IDR7", 0x03C, 0x21, 0, "ro"),
    _g("GFAR", 0x040, 0, ALL64, "rw", size=8),
    _g("GFSR", 0x048, 0, 0x8000_01FF, "w1c"),
    _g("GFSRRESTORE", 0x04C, 0, 0, "wo"),
    _g("GFSYNR0", 0x050, 0, 0x3F, "rw"),
    _g("GFSYNR1", 0x054, 0, 0x7FFF_7FFF, "rw"),
    _g("GFSYNR2", 0x058, 0, 0, "ro"),
    _g("STLBIALL", 0x060, 0, 0, "wo"),
    _g("TLBIVMID", 0x064, 0, 0, "wo"),
    _g("TLBIALLNSNH", 0x068, 0, 0, "wo"),
    _g("TLBIALLH", 0x06C, 0, 0, "wo"),
    _g("TLBGSYNC", 0x070, 0, 0, "wo"),
    _g("TLBGSTATUS", 0x074, 0, 0, "ro"),
    _g("TLBIVAH", 0x078, 0, 0, "wo"),
    _g("DBGRPTRTBU", 0x080, 0, ALL, "rw"),
    _g("DBGRDATATBU", 0x084, 0, 0, "ro"),
    _g("DBGRPTRTCU", 0x088, 0, ALL, "rw"),
    _g("DBGRDATATCU", 0x08C, 0, 0, "ro"),
    _g("STLBIVALM", 0x0A0, 0, 0, "wo", size=8),
    _g("STLBIVAM", 0x0A8, 0, 0, "wo", size=8),
    _g("TLBIVALH64", 0x0B0, 0, 0, "wo", size=8),
    _g("TLBIVMIDS1", 0x0B8, 0, 0, "wo"),
    _g("STLBIALLM", 0x0BC, 0, 0, "wo"),
    _g("TLBIVAH64", 0x0C0, 0, 0, "wo", size=8),
    _g("GATS1UR", 0x100, 0, 0, "wo", size=8),
    _g("GATS1UW", 0x108, 0, 0, "wo", size=8),
    _g("GATS1PR", 0x110, 0, 0, "wo", size=8),
    _g("GATS1PW", 0x118, 0, 0, "wo", size=8),
    _g("GATS12UR", 0x120, 0, 0, "wo", size=8),
    _g("GATS12UW", 0x128, 0, 0, "wo", size=8),
    _g("GATS12PR", 0x130, 0, 0, "wo", size=8),
    _g("GATS12PW", 0x138, 0, 0, "wo", size=8),
    _g("GPAR", 0x180, 0, 0, "ro", size=8),
    _g("GATSR", 0x188, 0, 0, "ro"),
    _g("NSACR", 0x410, 0x0400_001C, 0, "lock"),
    _g("SMR", 0x800, 0, 0xFFFF_7FFF, "rw", count=48),
    _g("S2CR", 0xC00, 0x0002_0000, 0x3FFF_FBFF, "rw", count=48),  # EXIDVALID is not offered
    _g("PIDR4", 0xFD0, 0x04, 0, "ro"),
    _g("PIDR5", 0xFD4, 0, 0, "ro"),
    _g("PIDR6", 0xFD8, 0, 0, "ro"),
    _g("PIDR7", 0xFDC, 0, 0, "ro"),
    _g("PIDR0", 0xFE0, 0x81, 0, "ro"),
    _g("PIDR1", 0xFE4, 0xB4, 0, "ro"),
    _g("PIDR2", 0xFE8, 0x1B, 0, "ro"),
    _g("PIDR3", 0xFEC, 0x00, 0, "ro"),
    _g("CIDR0", 0xFF0, 0x0D, 0, "ro"),
    _g("CIDR1", 0xFF4, 0xF0, 0, "ro"),
    _g("CIDR2", 0xFF8, 0x05, 0, "ro"),
    _g("CIDR3", 0xFFC, 0xB1, 0, "ro"),
]

#: Registers of global space 0 that show at + 0x400 too.
NON_SECURE = [
    *(
        "CR0",
        "CR1",
        "CR2",
        "IDR0",
        "IDR1",
        "IDR2",
        "IDR7",
        "GFAR",
        "GFSR",
        "GFSRRESTORE",
        "GFSYNR0",
        "GFSYNR1",
    ),
    *("TLBGSYNC", "TLBGSTATUS", "GATS1UR", "GATS1PW", "GATS12UR", "GATS12PW", "GPAR", "GATSR"),
]

GLOBAL_1 = [
    _g("CBAR", 0x1000, 0x0002_0000, ALL, "rw", count=16),
    _g("CBFRSYNRA", 0x1400, 0, 0x7FFF_7FFF, "rw", count=16),
    _g("CBA2R", 0x1800, 0, 0x3, "rw", count=16),  # 8-bit VMIDs: IDR2.VMID16S = 0
]

MONITOR = [
    _g("PMEVCNTR", 0x3000, 0, ALL, "rw", count=24),
    _g("PMEVTYPER", 0x3400, 0, 0xF000_FFFF, "rw", count=24),
    _g("PMCGCR", 0x3800, 0x0400_0000, 0x1FFF, "rw", count=6, step=0x1_0000),  # CGNC = 4, SIDG = TBU
    _g("PMCGSMR", 0x3A00, 0, 0x7FFF_7FFF, "rw", count=6),
    _g("PMCNTENSET", 0x3C00, 0, 0x00FF_FFFF, "pair"),
    _g("PMCNTENCLR", 0x3C20, 0, 0x00FF_FFFF, "pair"),
    _g("PMINTENSET", 0x3C40, 0, 0x00FF_FFFF, "pair"),
    _g("PMINTENCLR", 0x3C60, 0, 0x00FF_FFFF, "pair"),
    _g("PMOVSCLR", 0x3C80, 0, 0x00FF_FFFF, "pair"),
    _g("PMOVSSET", 0x3CC0, 0, 0x00FF_FFFF, "pair"),
    _g("PMCFGR", 0x3E00, 0x0501_1F17, 0, "ro"),
    _g("PMCR", 0x3E04, 0, 0x11, "rw"),
    _g("PMCEID0", 0x3E20, 0x0003_0303, 0, "ro"),
    _g("PMAUTHSTATUS", 0x3FB8, 0x80, 0, "ro"),
    _g("PMDEVTYPE", 0x3FCC, 0x56, 0, "ro"),
]

CONTEXT_BANK = [
    _cb("SCTLR", 0x000, 0x100, 0x3FFF_37FF, "rw"),
    _cb("ACTLR", 0x004, 0x3, 0, "rw"),  # locked by ACR
    _cb("RESUME", 0x008, 0, 0, "wo"),
    _cb("TCR2", 0x010, 0x60, 0x4003_C077, "rw"),
    _cb("TTBR0", 0x020, 0, ALL64 - 1, "rw", size=8),
    _cb("TTBR1", 0x028, 0, ALL64 - 1, "rw", size=8),
    _cb("TCR", 0x030, 0, ALL, "rw"),
    _cb("CONTEXTIDR", 0x034, 0, ALL, "rw"),
    _cb("MAIR0", 0x038, 0, ALL, "rw"),
    _cb("MAIR1", 0x03C, 0, ALL, "rw"),
    _cb("PAR", 0x050, 0, 0, "raz", size=8),  # IDR0.ATOSNS = 1
    _cb("FSR", 0x058, 0, 0x8000_07FE, "w1c"),
    _cb("FSRRESTORE", 0x05C, 0, 0, "wo"),
    _cb("FAR", 0x060, 0, ALL64, "rw", size=8),
    _cb("FSYNR0", 0x068, 0, 0x00FF_0F73, "rw"),
    _cb("FSYNR1", 0x06C, 0, ALL, "rw"),
    _cb("IPAFAR", 0x070, 0, ALL64, "rw", size=8),
    _cb("TLBIVA", 0x600, 0, 0, "wo", size=8),
    _cb("TLBIVAA", 0x608, 0, 0, "wo", size=8),
    _cb("TLBIASID", 0x610, 0, 0, "wo"),
    _cb("TLBIALL", 0x618, 0, 0, "wo"),
    _cb("TLBIVAL", 0x620, 0, 0, "wo", size=8),
    _cb("TLBIVAAL", 0x628, 0, 0, "wo", size=8),
    _cb("TLBIIPAS2", 0x630, 0, 0, "wo", size=8),
    _cb("TLBIIPAS2L", 0x638, 0, 0, "wo", size=8),
    _cb("TLBSYNC", 0x7F0, 0, 0, "wo"),
    _cb("TLBSTATUS", 0x7F4, 0, 0, "ro"),
    _cb("ATS1PR", 0x800, 0, 0, "wo", size=8),
    _cb("ATS1PW", 0x808, 0, 0, "wo", size=8),
    _cb("ATS1UR", 0x810, 0, 0, "wo", size=8),
    _cb("ATS1UW", 0x818, 0, 0, "wo", size=8),
    _cb("ATSR", 0x8F0, 0, 0, "ro"),
    # the banks' view of the monitor: nothing, until a group is given to the bank
    *(_cb(f"PMEVCNTR{n}", 0xE00 + 4 * n, 0, 0, "raz") for n in range(4)),
    *(_cb(f"PMEVTYPER{n}", 0xE80 + 4 * n, 0, 0, "raz") for n in range(4)),
    _cb("PMCFGR", 0xF00, 0x0001_1F03, 0, "ro"),
    _cb("PMCR", 0xF04, 0, 0, "raz"),
    _cb("PMCEID", 0xF20, 0x0003_0303, 0, "ro"),
    _cb("PMCNTENSET", 0xF40, 0, 0, "raz"),
    _cb("PMCNTENCLR", 0xF44, 0, 0, "raz"),
    _cb("PMINTENSET", 0xF48, 0, 0, "raz"),
    _cb("PMINTENCLR", 0xF4C, 0, 0, "raz"),
    _cb("PMOVSCLR", 0xF50, 0, 0, "raz"),
    _cb("PMOVSSET", 0xF58, 0, 0, "raz"),
    _cb("PMAUTHSTATUS", 0xFB8, 0x80, 0, "ro"),
]

SMMU = [*GLOBAL_0, *GLOBAL_1, *MONITOR, *CONTEXT_BANK]

WRAPPER = [
    _g("MISC_CTRL", 0x00, 0, 0x1, "rw"),
    _g("ISR_0", 0x10, 0, 0x8000_001F, "w1c"),
    _g("IMR_0", 0x14, 0x8000_001F, 0, "ro"),
    _g("IER_0", 0x18, 0, 0, "wo"),
    _g("IDR_0", 0x1C, 0, 0, "wo"),
    _g("ITR_0", 0x20, 0, 0, "wo"),
    _g("QREQN", 0x40, 0, ALL, "rw"),
]
