"""Registers of the MMU-500 (SMMUv2, Arm IHI0062; MMU-500 TRM, Arm DDI0517) and of ZynqMP's wrapper.

One table gives offsets, reset values and access. Its pages: global space 0 and 1, performance monitor, and
one page for each context bank. The non-secure aliases of global space 0 (offset + 0x400) are the same
registers seen again (`ALIASED`): the bus carries no security state, and all streams are non-secure. Only
the auxiliary control register exists twice, since its reset values differ.

Present, but without behaviour of their own:

* address translation operations (GATS*, GPAR, GATSR, CB_ATS1*, CB_ATSR, CB_PAR): IDR0.ATOSNS = 1 says that
  they are not offered; they are RAZ/WI, CB_PAR stores.
* performance monitor: event counters and types store, nothing counts; the banks' view of it is RAZ/WI.
* stage 2: CBAR stores every type, but banks of type 0, 2 and 3 end in a configuration fault (`streams.py`);
  TLBIIPAS2, TLBIIPAS2L, and the hypervisor's and monitor's TLB operations find no entry to remove.
* stall: SCTLR.CFCFG is read-only zero (terminate), FSR.SS stays 0, RESUME has nothing to resume.
* security: CR1 and CR2 store and partition nothing; there is no SSD table.
"""

from __future__ import annotations

from collections.abc import Callable
from functools import lru_cache
from typing import Any, Final

from unimem_node.bus.registers import Field, Register
from unimem_node.smmu.spec import SmmuSpec

PAGE: Final = 0x1000


def _fields(text: str) -> tuple[Field, ...]:
    """Fields from ``"31 VALID, 30:16 MASK"``."""
    fields = []
    for part in text.split(","):
        bits, name = part.split()
        high, _, low = bits.partition(":")
        fields.append(Field(name, int(high), int(low or high)))
    return tuple(fields)


def _field_mask(fields: tuple[Field, ...]) -> int:
    mask = 0
    for field in fields:
        mask |= field.mask
    return mask


CR0: Final = Register(
    "CR0",
    0x000,
    reset=0x0020_0001,
    fields=_fields(
        "31 VMID16EN,30 HYPMODE,29:28 NSCFG,27:26 WACFG,25:24 RACFG,23:22 SHCFG,21 SMCFCFG,20 MTCFG,"
        "19:16 MEMATTR,15:14 BSU,13 FB,12 PTM,11 VMIDPNE,10 USFCFG,9 GSE,8 STALLD,7:6 TRANSIENTCFG,"
        "5 GCFGFIE,4 GCFGFRE,3 EXIDENABLE,2 GFIE,1 GFRE,0 CLIENTPD"
    ),
    doc="global control: bypass, reporting of global faults, unmatched and conflicting streams",
)
_ACR_FIELDS = _fields(
    "26 CACHE_LOCK,10 S2CRB_TLBEN,9 MMUDISB_TLBEN,8 SMTNMB_TLBEN,4 IPA2PA_CEN,3 S2WC2EN,2 S1WC2EN"
)
ACR: Final = Register(
    "ACR", 0x010, reset=0x0400_0004, fields=_ACR_FIELDS, doc="auxiliary control; locked by CACHE_LOCK"
)
GFSR: Final = Register(
    "GFSR",
    0x048,
    w1c=0x8000_01FF,
    writable=0x8000_01FF,
    fields=_fields("31 MULTI,8 UUT,7 PF,6 EF,5 CAF,4 UCIF,3 UCBF,2 SMCF,1 USF,0 ICF"),
    doc="global fault status",
)
GFSYNR0: Final = Register(
    "GFSYNR0",
    0x050,
    writable=0x7F,
    fields=_fields("6 ATS,5 NSATTR,4 NSSTATE,3 IND,2 PNU,1 WNR,0 NESTED"),
    doc="global fault: what the access was",
)
GFSYNR1: Final = Register(
    "GFSYNR1",
    0x054,
    writable=0x7FFF_7FFF,
    fields=_fields("30:16 SSD_INDEX,14:0 STREAM_ID"),
    doc="whose it was",
)
SMR_FIELDS: Final = _fields("31 VALID,30:16 MASK,14:0 ID")
S2CR_FIELDS: Final = _fields(
    "29:28 TRANSIENTCFG,27:26 INSTCFG,25:24 PRIVCFG,23:22 WACFG,21:20 RACFG,19:18 NSCFG,17:16 TYPE,"
    "15:12 MEMATTR,11 MTCFG,10 EXIDVALID,9:8 SHCFG,7:0 CBNDX"
)
CBAR_FIELDS: Final = _fields(
    "31:24 IRPTNDX,23:22 WACFG,21:20 RACFG,19:18 BSU,17:16 TYPE,15:12 MEMATTR,11 FB,10 HYPC,"
    "9:8 BPSHCFG,7:0 VMID"
)
CBA2R_FIELDS: Final = _fields("31:16 VMID16,1 MONC,0 VA64")
SCTLR_FIELDS: Final = _fields(
    "29:28 NSCFG,27:26 WACFG,25:24 RACFG,23:22 SHCFG,21 FB,20 MTCFG,19:16 MEMATTR,13 PTW,12 ASIDPNE,10 UWXN,"
    "9 WXN,8 HUPCF,7 CFCFG,6 CFIE,5 CFRE,4 E,3 AFFD,2 AFE,1 TRE,0 M"
)
TCR_FIELDS: Final = _fields(
    "31:30 TG1,29:28 SH1,27:26 ORGN1,25:24 IRGN1,23 EPD1,22 A1,21:16 T1SZ,15:14 TG0,13:12 SH0,11:10 ORGN0,"
    "9:8 IRGN0,7 EPD0,5:0 T0SZ"
)
TCR2_FIELDS: Final = _fields("30 NSCFG1,17:15 SEP,14 NSCFG0,6 TBI1,5 TBI0,4 AS,2:0 PASIZE")
TTBR_FIELDS: Final = _fields("63:48 ASID,47:1 BASE")
FSR_FIELDS: Final = _fields("31 MULTI,30 SS,10:9 FORMAT,8 UUT,7 ASF,6 TLBLKF,5 TLBMCF,4 EF,3 PF,2 AFF,1 TF")
FSYNR0_FIELDS: Final = _fields("23:16 S1CBNDX,11 AFR,10 PTWF,9 ATOF,8 NSATTR,6 IND,5 PNU,4 WNR,1:0 PLVL")

#: Bits of FSR that are faults, and the one that says of which table format: 2 = AArch64.
FSR_FAULTS: Final = 0x0000_01FE
FSR_MULTI: Final = 1 << 31
FSR_FORMAT: Final = 0x600
FSR_FORMAT_AARCH64: Final = 0x400
GFSR_FAULTS: Final = 0x0000_01FF
GFSR_MULTI: Final = 1 << 31
CACHE_LOCK: Final = 1 << 26

#: Global registers with a non-secure alias at + 0x400.
ALIAS: Final = 0x400
ALIASED: Final = frozenset(
    offset
    for first, last in ((0x000, 0x00C), (0x020, 0x05C), (0x060, 0x0CC), (0x100, 0x13C), (0x180, 0x188))
    for offset in range(first, last + 1, 4)
)


def _rw(name: str, offset: int, doc: str, fields: tuple[Field, ...] = (), **more: Any) -> Register:
    """A register software reads and writes: in its fields, when they are given."""
    if fields and "writable" not in more:
        more["writable"] = _field_mask(fields)
    return Register(name, offset, fields=fields, doc=doc, **more)


def _command(name: str, offset: int, doc: str, **more: Any) -> Register:
    """A register that only acts: reads as zero, stores nothing."""
    return Register(name, offset, writable=0, doc=doc, **more)


def _ro(name: str, offset: int, value: int, doc: str, **more: Any) -> Register:
    return Register(name, offset, reset=value, writable=0, doc=doc, **more)


def _global_0(spec: SmmuSpec) -> list[Register]:
    groups = spec.stream_match_groups
    identification = {0: spec.id_register_0, 1: spec.id_register_1, 2: spec.idr2, 7: spec.idr7}
    parts = zip(
        (0xFE0, 0xFE4, 0xFE8, 0xFEC, 0xFD0, 0xFF0, 0xFF4, 0xFF8, 0xFFC),
        ("PIDR0", "PIDR1", "PIDR2", "PIDR3", "PIDR4", "CIDR0", "CIDR1", "CIDR2", "CIDR3"),
        (0x81, 0xB4, 0x1B, 0x00, 0x04, 0x0D, 0xF0, 0x05, 0xB1),
        strict=True,
    )
    return [
        CR0,
        _rw("CR1", 0x004, "secure partition of banks, match groups and interrupts"),
        _rw("CR2", 0x008, "bypass VMID", _fields("7:0 BPVMID")),
        ACR,
        Register(
            "NSACR", 0x410, reset=0x0400_001C, fields=_ACR_FIELDS, doc="auxiliary control, non-secure copy"
        ),
        *(_ro(f"IDR{n}", 0x020 + 4 * n, identification.get(n, 0), "identification") for n in range(8)),
        _rw("GFAR", 0x040, "address of a global fault", size=8),
        GFSR,
        _command("GFSRRESTORE", 0x04C, "sets bits of GFSR"),
        GFSYNR0,
        GFSYNR1,
        _ro("GFSYNR2", 0x058, 0, "reserved on MMU-500"),
        _command("STLBIALL", 0x060, "invalidate all secure entries"),
        _command("TLBIVMID", 0x064, "invalidate by VMID"),
        _command("TLBIALLNSNH", 0x068, "invalidate all non-secure non-hypervisor entries"),
        _command("TLBIALLH", 0x06C, "invalidate all hypervisor entries"),
        _command("TLBGSYNC", 0x070, "wait for invalidations"),
        _ro("TLBGSTATUS", 0x074, 0, "bit 0: a sync is under way"),
        _command("TLBIVAH", 0x078, "hypervisor entry by VA"),
        _ro("DBGRPTRTBU", 0x080, 0, "TLB read-out"),
        _ro("DBGRDATATBU", 0x084, 0, "TLB read-out"),
        _ro("DBGRPTRTCU", 0x088, 0, "TLB read-out"),
        _ro("DBGRDATATCU", 0x08C, 0, "TLB read-out"),
        _command("STLBIVALM", 0x0A0, "monitor entry by VA, last level", size=8),
        _command("STLBIVAM", 0x0A8, "monitor entry by VA", size=8),
        _command("TLBIVALH64", 0x0B0, "hypervisor entry by VA, last level", size=8),
        _command("TLBIVMIDS1", 0x0B8, "invalidate stage 1 of a VMID"),
        _command("STLBIALLM", 0x0BC, "invalidate all monitor entries"),
        _command("TLBIVAH64", 0x0C0, "hypervisor entry by VA", size=8),
        *(
            _command(f"GATS{stages}{kind}", base + 8 * i, "address translation operation", size=8)
            for stages, base in (("1", 0x100), ("12", 0x120))
            for i, kind in enumerate(("UR", "UW", "PR", "PW"))
        ),
        _ro("GPAR", 0x180, 0, "result of GATS", size=8),
        _ro("GATSR", 0x188, 0, "bit 0: GATS under way"),
        _rw("SMR", 0x800, "stream match", SMR_FIELDS, count=groups),
        _rw("S2CR", 0xC00, "stream to context", S2CR_FIELDS, count=groups, reset=0x0002_0000),
        *(_ro(name, offset, value, "peripheral identification") for offset, name, value in parts),
    ]


def _global_1(spec: SmmuSpec) -> list[Register]:
    banks = spec.context_banks
    return [
        _rw("CBAR", PAGE, "context bank attributes", CBAR_FIELDS, count=banks, reset=0x0002_0000),
        _rw(
            "CBFRSYNRA",
            PAGE + 0x400,
            "stream of the fault",
            _fields("30:16 SSD_INDEX,14:0 STREAM_ID"),
            count=banks,
        ),
        _rw("CBA2R", PAGE + 0x800, "more attributes", CBA2R_FIELDS, count=banks),
    ]


def _monitor(spec: SmmuSpec) -> list[Register]:
    groups = spec.tbus
    page = 3 * PAGE
    return [
        _rw("PMEVCNTR", page, "event counter", count=4 * groups),
        _rw("PMEVTYPER", page + 0x400, "event counted", count=4 * groups),
        _rw("PMCGCR", page + 0x800, "counter group configuration", count=groups),
        _rw("PMCGSMR", page + 0xA00, "counter group stream match", count=groups),
        _command("PMCNTENSET", page + 0xC00, "enable counters"),
        _command("PMCNTENCLR", page + 0xC20, "disable counters"),
        _command("PMINTENSET", page + 0xC40, "enable overflow interrupts"),
        _command("PMINTENCLR", page + 0xC60, "disable overflow interrupts"),
        _command("PMOVSCLR", page + 0xC80, "clear overflows"),
        _command("PMOVSSET", page + 0xCC0, "set overflows"),
        _ro("PMCFGR", page + 0xE00, spec.pmcfgr, "what the monitor has"),
        _rw("PMCR", page + 0xE04, "monitor control", writable=0x1),
        _ro("PMCEID0", page + 0xE20, spec.pmceid0, "events"),
    ]


def _context_banks(spec: SmmuSpec) -> list[Register]:
    def bank(make: Callable[..., Register], name: str, offset: int, *rest: Any, **more: Any) -> Register:
        """One register of every bank's page."""
        at = spec.bank_offset + offset
        return make(f"CB_{name}", at, *rest, count=spec.context_banks, stride=PAGE, **more)

    sctlr_writable = _field_mask(SCTLR_FIELDS) & ~(1 << 7)  # CFCFG: terminate only
    return [
        bank(_rw, "SCTLR", 0x000, "control", SCTLR_FIELDS, reset=0x100, writable=sctlr_writable),
        bank(_rw, "ACTLR", 0x004, "auxiliary control", _fields("1 CPRE,0 CMTLB"), reset=0x3),
        bank(_command, "RESUME", 0x008, "retry or terminate a stalled transaction"),
        bank(_rw, "TCR2", 0x010, "more translation control", TCR2_FIELDS, reset=0x60),
        bank(_rw, "TTBR0", 0x020, "tables of the lower half", TTBR_FIELDS, size=8),
        bank(_rw, "TTBR1", 0x028, "tables of the upper half", TTBR_FIELDS, size=8),
        bank(_rw, "TCR", 0x030, "translation control", TCR_FIELDS, writable=-1),
        bank(_rw, "CONTEXTIDR", 0x034, "process and ASID of the AArch32 formats"),
        bank(_rw, "MAIR0", 0x038, "memory attributes 0 to 3"),
        bank(_rw, "MAIR1", 0x03C, "memory attributes 4 to 7"),
        bank(_rw, "PAR", 0x050, "result of ATS1", size=8),
        bank(_rw, "FSR", 0x058, "fault status", FSR_FIELDS, w1c=0x8000_07FE, writable=0x8000_07FE),
        bank(_command, "FSRRESTORE", 0x05C, "sets bits of FSR"),
        bank(_rw, "FAR", 0x060, "input address of the fault", size=8),
        bank(_rw, "FSYNR0", 0x068, "what the access was", FSYNR0_FIELDS),
        bank(_rw, "FSYNR1", 0x06C, "implementation defined"),
        bank(_rw, "IPAFAR", 0x070, "IPA of a stage-2 fault", size=8),
        bank(_command, "TLBIVA", 0x600, "by VA and ASID", size=8),
        bank(_command, "TLBIVAA", 0x608, "by VA, all ASIDs", size=8),
        bank(_command, "TLBIASID", 0x610, "by ASID"),
        bank(_command, "TLBIALL", 0x618, "all of the bank's VMID"),
        bank(_command, "TLBIVAL", 0x620, "by VA and ASID, last level", size=8),
        bank(_command, "TLBIVAAL", 0x628, "by VA, all ASIDs, last level", size=8),
        bank(_command, "TLBIIPAS2", 0x630, "stage 2 by IPA", size=8),
        bank(_command, "TLBIIPAS2L", 0x638, "stage 2 by IPA, last level", size=8),
        bank(_command, "TLBSYNC", 0x7F0, "wait for invalidations"),
        bank(_ro, "TLBSTATUS", 0x7F4, 0, "bit 0: a sync is under way"),
        *(
            bank(_command, f"ATS1{kind}", 0x800 + 8 * i, "address translation operation", size=8)
            for i, kind in enumerate(("PR", "PW", "UR", "UW"))
        ),
        bank(_ro, "ATSR", 0x8F0, 0, "bit 0: ATS1 under way"),
    ]


@lru_cache(maxsize=16)
def smmu_table(spec: SmmuSpec) -> tuple[Register, ...]:
    """Every register of an SMMU of this shape; nodes of one platform share the table."""
    return (*_global_0(spec), *_global_1(spec), *_monitor(spec), *_context_banks(spec))


#: ISR_0 of the wrapper (IMR_0, IER_0, IDR_0, ITR_0 alike).
_ISR_FIELDS = _fields("31 ADDR_DECODE_ERR,4 GLOBAL_NS,3 GLOBAL_S,2 COMBINED_PERF,1 COMBINED_S,0 COMBINED_NS")
ISR_MASK: Final = _field_mask(_ISR_FIELDS)

#: SMMU_REG (0xFD5F_0000), from Xilinx' QEMU model.
WRAPPER_TABLE: Final = (
    _rw("MISC_CTRL", 0x00, "bit 0: answer undefined offsets with an error", writable=0x1),
    _rw("ISR_0", 0x10, "interrupt status", _ISR_FIELDS, w1c=ISR_MASK),
    Register("IMR_0", 0x14, reset=ISR_MASK, writable=0, fields=_ISR_FIELDS, doc="interrupt mask: 1 = masked"),
    _command("IER_0", 0x18, "clears bits of the mask"),
    _command("IDR_0", 0x1C, "sets bits of the mask"),
    _command("ITR_0", 0x20, "raises interrupts, for tests"),
    _rw("QREQN", 0x40, "power-down requests to the TBUs and the TCU"),
)
