"""Registers of the context banks (SMMUv2: global space 1, the banks' pages) and of the performance monitor.

Two registers have more than one form. CBAR.TYPE = 3 (nested) has the index of the stage-2 bank in bits 15:8
(`CBAR_NESTED_FIELDS`), TCR of a stage-2 bank (CBAR.TYPE = 0) has SL0 and PASize (`TCR_STAGE_2_FIELDS`). The
bits of all forms store.

Without behaviour: CBAR's memory attributes and IRPTNDX (SMMUv2 has one interrupt a bank, and ZynqMP joins
them), CBA2R's and TCR's of walks, CONTEXTIDR and the fields of the AArch32 formats, ACTLR (no prefetch).
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, Final

from unimem_node.bus.registers import Register
from unimem_node.smmu.register_rows import command, field_mask, fields, ro, rw
from unimem_node.smmu.spec import SmmuSpec

CBAR_FIELDS: Final = fields(
    "31:24 IRPTNDX,23:22 WACFG,21:20 RACFG,19:18 BSU,17:16 TYPE,15:12 MEMATTR,11 FB,10 HYPC,"
    "9:8 BPSHCFG,7:0 VMID"
)
CBA2R_FIELDS: Final = fields("31:16 VMID16,1 MONC,0 VA64")
SCTLR_FIELDS: Final = fields(
    "29:28 NSCFG,27:26 WACFG,25:24 RACFG,23:22 SHCFG,21 FB,20 MTCFG,19:16 MEMATTR,13 PTW,12 ASIDPNE,10 UWXN,"
    "9 WXN,8 HUPCF,7 CFCFG,6 CFIE,5 CFRE,4 E,3 AFFD,2 AFE,1 TRE,0 M"
)
TCR_FIELDS: Final = fields(
    "31:30 TG1,29:28 SH1,27:26 ORGN1,25:24 IRGN1,23 EPD1,22 A1,21:16 T1SZ,15:14 TG0,13:12 SH0,11:10 ORGN0,"
    "9:8 IRGN0,7 EPD0,5:0 T0SZ"
)
TCR2_FIELDS: Final = fields("30 NSCFG1,17:15 SEP,14 NSCFG0,6 TBI1,5 TBI0,4 AS,2:0 PASIZE")
TTBR_FIELDS: Final = fields("63:48 ASID,47:1 BASE")
FSR_FIELDS: Final = fields("31 MULTI,30 SS,10:9 FORMAT,8 UUT,7 ASF,6 TLBLKF,5 TLBMCF,4 EF,3 PF,2 AFF,1 TF")
FSYNR0_FIELDS: Final = fields("23:16 S1CBNDX,11 AFR,10 PTWF,9 ATOF,8 NSATTR,6 IND,5 PNU,4 WNR,1:0 PLVL")
PAR_FIELDS: Final = fields("63:56 ATTR,47:12 PA,9 NS,8:7 SH,0 F")

#: Bits of FSR that are faults, and the one that says of which table format: 2 = AArch64.
FSR_FAULTS: Final = 0x0000_01FE
FSR_SS: Final = 1 << 30
FSR_MULTI: Final = 1 << 31
FSR_FORMAT: Final = 0x600
FSR_FORMAT_AARCH64: Final = 0x400

_MAIR_FIELDS = tuple(
    fields(f"31:24 ATTR{n + 3},23:16 ATTR{n + 2},15:8 ATTR{n + 1},7:0 ATTR{n}") for n in (0, 4)
)
_BY_VA = fields("63:48 ASID,43:0 VA_55_12")
_BY_IPA = fields("35:0 IPA_47_12")

#: Performance monitor
PMCGCR_FIELDS: Final = fields("27:24 CGNC,22:16 SIDG,12 X,11 E,10 CBAEN,9:8 TCEFCFG,7:0 NDX")
PMEVTYPER_FIELDS: Final = fields("31 P,30 U,29 NSP,28 NSU,15:0 EVENT")
PMCR_FIELDS: Final = fields("4 X,1 P,0 E")
_PMCR_WRITABLE: Final = 0x11
_PMCFGR_FIELDS = fields("31:24 NCG,19 UEN,16 EX,13:8 SIZE,7:0 N")
#: Registers of the banks' view of the monitor that stand for one of a group's four counters.
PM_VIEW_COUNTERS: Final = 4


def global_1(spec: SmmuSpec) -> list[Register]:
    """Attributes of the context banks."""
    banks, page = spec.context_banks, spec.page
    cba2r = field_mask(CBA2R_FIELDS) & (0xFFFF_FFFF if spec.wide_vmids else 0xFFFF)
    stream = fields("30:16 SSD_INDEX,14:0 STREAM_ID")
    return [
        rw("CBAR", page, "context bank attributes", CBAR_FIELDS, count=banks, reset=0x0002_0000),
        rw("CBFRSYNRA", page + 0x400, "stream of the fault", stream, count=banks),
        rw("CBA2R", page + 0x800, "more attributes", CBA2R_FIELDS, count=banks, writable=cba2r),
    ]


def monitor(spec: SmmuSpec) -> list[Register]:
    """The performance monitor's page: four counters for each TBU."""
    groups, page = spec.tbus, 3 * spec.page
    counters = 4 * groups
    words = -(-counters // 32)

    def switch(name: str, offset: int, doc: str, access: str) -> Register:
        """A bit for each counter; SET and CLR of a pair read alike."""
        return Register(name, page + offset, writable=0, doc=doc, count=words, access=access)

    return [
        rw("PMEVCNTR", page, "event counter", count=counters),
        rw("PMEVTYPER", page + 0x400, "event counted", PMEVTYPER_FIELDS, count=counters),
        rw(
            "PMCGCR",
            page + 0x800,
            "counter group: what it counts for whom",
            PMCGCR_FIELDS,
            count=groups,
            writable=0x1FFF,
            reset=0x0400_0000,
            reset_step=0x1_0000,
        ),
        rw("PMCGSMR", page + 0xA00, "counter group: streams", fields("30:16 MASK,14:0 ID"), count=groups),
        switch("PMCNTENSET", 0xC00, "enable counters", "W1S"),
        switch("PMCNTENCLR", 0xC20, "disable counters", "W1C"),
        switch("PMINTENSET", 0xC40, "enable overflow interrupts", "W1S"),
        switch("PMINTENCLR", 0xC60, "disable overflow interrupts", "W1C"),
        switch("PMOVSCLR", 0xC80, "clear overflows", "W1C"),
        switch("PMOVSSET", 0xCC0, "set overflows", "W1S"),
        ro("PMCFGR", page + 0xE00, spec.pm_configuration, "what the monitor has", _PMCFGR_FIELDS),
        rw("PMCR", page + 0xE04, "monitor control", PMCR_FIELDS, writable=_PMCR_WRITABLE),
        ro("PMCEID0", page + 0xE20, spec.pmceid0, "events"),
        ro("PMAUTHSTATUS", page + 0xFB8, 0x80, "authentication status"),
        ro("PMDEVTYPE", page + 0xFCC, 0x56, "a monitor of memory management"),
    ]


def context_banks(spec: SmmuSpec) -> list[Register]:
    """A page for each context bank."""

    def bank(make: Callable[..., Register], name: str, offset: int, *rest: Any, **more: Any) -> Register:
        """One register of every bank's page."""
        at = spec.bank_offset + offset
        return make(f"CB_{name}", at, *rest, count=spec.context_banks, stride=spec.page, **more)

    w1c = FSR_FAULTS | FSR_FORMAT | FSR_MULTI
    par = -1 if spec.address_translation else 0
    return [
        bank(rw, "SCTLR", 0x000, "control", SCTLR_FIELDS, reset=0x100),
        bank(rw, "ACTLR", 0x004, "auxiliary control", fields("1 CPRE,0 CMTLB"), reset=0x3),
        bank(command, "RESUME", 0x008, "retry or terminate a stalled transaction", fields("0 TNR")),
        bank(rw, "TCR2", 0x010, "more translation control", TCR2_FIELDS, reset=0x60),
        bank(rw, "TTBR0", 0x020, "tables of the lower half, or of stage 2", TTBR_FIELDS, size=8),
        bank(rw, "TTBR1", 0x028, "tables of the upper half", TTBR_FIELDS, size=8),
        bank(rw, "TCR", 0x030, "translation control", TCR_FIELDS, writable=-1),
        bank(rw, "CONTEXTIDR", 0x034, "process and ASID of the AArch32 formats"),
        bank(rw, "MAIR0", 0x038, "memory attributes 0 to 3", _MAIR_FIELDS[0]),
        bank(rw, "MAIR1", 0x03C, "memory attributes 4 to 7", _MAIR_FIELDS[1]),
        bank(rw, "PAR", 0x050, "result of ATS1", PAR_FIELDS, size=8, writable=par),
        bank(rw, "FSR", 0x058, "fault status", FSR_FIELDS, w1c=w1c, writable=w1c),
        bank(command, "FSRRESTORE", 0x05C, "sets bits of FSR", FSR_FIELDS),
        bank(rw, "FAR", 0x060, "input address of the fault", size=8),
        bank(rw, "FSYNR0", 0x068, "what the access was", FSYNR0_FIELDS),
        bank(rw, "FSYNR1", 0x06C, "implementation defined"),
        bank(rw, "IPAFAR", 0x070, "IPA of a stage-2 fault", size=8),
        bank(command, "TLBIVA", 0x600, "by VA and ASID", _BY_VA, size=8),
        bank(command, "TLBIVAA", 0x608, "by VA, all ASIDs", _BY_VA, size=8),
        bank(command, "TLBIASID", 0x610, "by ASID", fields("15:0 ASID")),
        bank(command, "TLBIALL", 0x618, "all of the bank's VMID"),
        bank(command, "TLBIVAL", 0x620, "by VA and ASID, last level", _BY_VA, size=8),
        bank(command, "TLBIVAAL", 0x628, "by VA, all ASIDs, last level", _BY_VA, size=8),
        bank(command, "TLBIIPAS2", 0x630, "stage 2 by IPA", _BY_IPA, size=8),
        bank(command, "TLBIIPAS2L", 0x638, "stage 2 by IPA, last level", _BY_IPA, size=8),
        bank(command, "TLBSYNC", 0x7F0, "wait for invalidations"),
        bank(ro, "TLBSTATUS", 0x7F4, 0, "a sync is under way", fields("0 SACTIVE")),
        *(
            bank(
                command, f"ATS1{kind}", 0x800 + 8 * i, "translate: stage 1", fields("63:12 VA_63_12"), size=8
            )
            for i, kind in enumerate(("PR", "PW", "UR", "UW"))
        ),
        bank(ro, "ATSR", 0x8F0, 0, "ATS1 under way", fields("0 ACTIVE")),
        *(
            bank(rw, f"PMEVCNTR{n}", 0xE00 + 4 * n, "event counter of the bank's group", writable=0)
            for n in range(PM_VIEW_COUNTERS)
        ),
        *(
            bank(rw, f"PMEVTYPER{n}", 0xE80 + 4 * n, "event counted", PMEVTYPER_FIELDS, writable=0)
            for n in range(PM_VIEW_COUNTERS)
        ),
        bank(ro, "PMCFGR", 0xF00, 0x0001_1F03, "what the bank's monitor has", _PMCFGR_FIELDS),
        bank(rw, "PMCR", 0xF04, "monitor control", PMCR_FIELDS, writable=0),
        bank(ro, "PMCEID", 0xF20, spec.pmceid0, "events"),
        bank(rw, "PMCNTENSET", 0xF40, "enable counters", writable=0, access="W1S"),
        bank(rw, "PMCNTENCLR", 0xF44, "disable counters", writable=0, access="W1C"),
        bank(rw, "PMINTENSET", 0xF48, "enable overflow interrupts", writable=0, access="W1S"),
        bank(rw, "PMINTENCLR", 0xF4C, "disable overflow interrupts", writable=0, access="W1C"),
        bank(rw, "PMOVSCLR", 0xF50, "clear overflows", writable=0, access="W1C"),
        bank(rw, "PMOVSSET", 0xF58, "set overflows", writable=0, access="W1S"),
        bank(ro, "PMAUTHSTATUS", 0xFB8, 0x80, "authentication status"),
    ]
