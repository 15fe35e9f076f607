"""Registers of the MMU-500 (SMMUv2, Arm IHI0062; MMU-500 TRM, Arm DDI0517): global space 0, and all.

One table gives offsets, reset values, access and documentation. Its pages: global space 0 and 1 (here),
performance monitor and one page for each context bank (`bank_registers`). The non-secure aliases of global
space 0 (offset + 0x400) are the same registers seen again (`ALIASED`): the bus carries no security state, and
all streams are non-secure. Only the auxiliary control register exists twice, since its reset values differ.

What the MMU-500 fixes is read-only (as in Xilinx' register data): CR0.SMCFCFG is one (conflicting matches
always fault), CR0.GSE and STALLD are zero (a stall is a context bank's own choice), CR0.GCFGFRE and GCFGFIE
are zero: the configuration faults they are about (accesses of software to registers that are not its own) do
not exist. VMID16EN and EXIDENABLE need IDR2.VMID16S and IDR0.EXIDS.

Present, but without behaviour of their own: CR1 and CR2 partition nothing (security); there is no SSD table;
the TLB read-out (DBG*) finds nothing; CR0's memory attributes, shareability and broadcast fields store.
"""

from __future__ import annotations

from functools import lru_cache
from typing import Final

from unimem_node.bus.registers import Register
from unimem_node.smmu.bank_registers import context_banks, global_1, monitor
from unimem_node.smmu.register_rows import command, field_mask, fields, ro, rw
from unimem_node.smmu.spec import SmmuSpec

CR0_CLIENTPD: Final = 1 << 0
CR0_GFRE: Final = 1 << 1
CR0_GFIE: Final = 1 << 2
CR0_EXIDENABLE: Final = 1 << 3
CR0_USFCFG: Final = 1 << 10
CR0_VMID16EN: Final = 1 << 31
#: GCFGFRE, GCFGFIE, STALLD, GSE, SMCFCFG.
CR0_READ_ONLY: Final = 0x0020_0330

CR0_FIELDS: Final = fields(
    "31 VMID16EN,30 HYPMODE,29:28 NSCFG,27:26 WACFG,25:24 RACFG,23:22 SHCFG,21 SMCFCFG,20 MTCFG,"
    "19:16 MEMATTR,15:14 BSU,13 FB,12 PTM,11 VMIDPNE,10 USFCFG,9 GSE,8 STALLD,7:6 TRANSIENTCFG,"
    "5 GCFGFIE,4 GCFGFRE,3 EXIDENABLE,2 GFIE,1 GFRE,0 CLIENTPD"
)
ACR_FIELDS: Final = fields(
    "26 CACHE_LOCK,10 S2CRB_TLBEN,9 MMUDISB_TLBEN,8 SMTNMB_TLBEN,4 IPA2PA_CEN,3 S2WC2EN,2 S1WC2EN"
)
ACR_S1WC2EN: Final = 1 << 2
ACR_S2WC2EN: Final = 1 << 3
ACR_IPA2PA_CEN: Final = 1 << 4
CACHE_LOCK: Final = 1 << 26
GFSR_FIELDS: Final = fields("31 MULTI,8 UUT,7 PF,6 EF,5 CAF,4 UCIF,3 UCBF,2 SMCF,1 USF,0 ICF")
GFSYNR0_FIELDS: Final = fields("6 ATS,5 NSATTR,4 NSSTATE,3 IND,2 PNU,1 WNR,0 NESTED")
GFSYNR1_FIELDS: Final = fields("30:16 SSD_INDEX,14:0 STREAM_ID")
SMR_FIELDS: Final = fields("31 VALID,30:16 MASK,14:0 ID")
S2CR_FIELDS: Final = fields(
    "29:28 TRANSIENTCFG,27:26 INSTCFG,25:24 PRIVCFG,23:22 WACFG,21:20 RACFG,19:18 NSCFG,17:16 TYPE,"
    "15:12 MEMATTR,11 MTCFG,10 EXIDVALID,9:8 SHCFG,7:0 CBNDX"
)
GFSR_FAULTS: Final = 0x0000_01FF
GFSR_MULTI: Final = 1 << 31

_IDR_FIELDS: Final = {
    0: fields(
        "31 SES,30 S1TS,29 S2TS,28 NTS,27 SMS,26 ATOSNS,25:24 PTFS,23:16 NUMIRPT,14 CTTW,13 BTM,12:9 NUMSIDB,"
        "8 EXIDS,7:0 NUMSMRG"
    ),
    1: fields("31 PAGESIZE,30:28 NUMPAGENDXB,23:16 NUMS2CB,15 SMCD,13:12 SSDTP,11:8 NUMSSDNDXB,7:0 NUMCB"),
    2: fields("15 VMID16S,14 PTFSV8_64K,13 PTFSV8_16K,12 PTFSV8_4K,11:8 UBS,7:4 OAS,3:0 IAS"),
    7: fields("7:4 MAJOR,3:0 MINOR"),
}
#: Operands of operations by address, and of address translation.
_BY_VA = fields("63:48 ASID,43:0 VA_55_12")
_PRIVILEGES = (("U", "unprivileged"), ("P", "privileged"))
_ACCESSES = (("R", "read"), ("W", "write"))
_GATS = fields("63:12 VA_63_12,11:0 NDX")

#: Global registers with a non-secure alias at + 0x400.
ALIAS: Final = 0x400
ALIASED: Final = frozenset(
    offset
    for first, last in ((0x000, 0x00C), (0x020, 0x05C), (0x060, 0x0CC), (0x100, 0x13C), (0x180, 0x188))
    for offset in range(first, last + 1, 4)
)


def _control(spec: SmmuSpec) -> list[Register]:
    fixed = CR0_READ_ONLY
    fixed |= 0 if spec.wide_vmids else CR0_VMID16EN
    fixed |= 0 if spec.extended_ids else CR0_EXIDENABLE
    identification = {0: spec.id_register_0, 1: spec.id_register_1, 2: spec.idr2, 7: spec.idr7}
    return [
        rw(
            "CR0",
            0x000,
            "global control: bypass, reporting of global faults, unmatched streams",
            CR0_FIELDS,
            reset=0x0020_0001,
            writable=field_mask(CR0_FIELDS) & ~fixed,
        ),
        rw("CR1", 0x004, "secure partition of banks, match groups and interrupts"),
        rw("CR2", 0x008, "bypass VMID", fields("7:0 BPVMID")),
        rw("ACR", 0x010, "auxiliary control; locked by CACHE_LOCK", ACR_FIELDS, reset=0x0400_0004),
        rw("NSACR", 0x410, "auxiliary control, non-secure copy", ACR_FIELDS, reset=0x0400_001C),
        *(
            ro(f"IDR{n}", 0x020 + 4 * n, identification.get(n, 0), "identification", _IDR_FIELDS.get(n, ()))
            for n in range(8)
        ),
    ]


def _faults() -> list[Register]:
    every = GFSR_FAULTS | GFSR_MULTI
    return [
        rw("GFAR", 0x040, "address of a global fault", size=8),
        rw("GFSR", 0x048, "global fault status", GFSR_FIELDS, w1c=every, writable=every),
        command("GFSRRESTORE", 0x04C, "sets bits of GFSR", GFSR_FIELDS),
        rw("GFSYNR0", 0x050, "global fault: what the access was", GFSYNR0_FIELDS, writable=0x3F),
        rw("GFSYNR1", 0x054, "global fault: whose it was", GFSYNR1_FIELDS),
        ro("GFSYNR2", 0x058, 0, "reserved on MMU-500"),
    ]


def _maintenance() -> list[Register]:
    vmid, active = fields("15:0 VMID"), fields("0 GSACTIVE")
    return [
        command("STLBIALL", 0x060, "invalidate all secure entries"),
        command("TLBIVMID", 0x064, "invalidate by VMID", vmid),
        command("TLBIALLNSNH", 0x068, "invalidate all non-secure non-hypervisor entries"),
        command("TLBIALLH", 0x06C, "invalidate all hypervisor entries"),
        command("TLBGSYNC", 0x070, "wait for invalidations"),
        ro("TLBGSTATUS", 0x074, 0, "a sync is under way", active),
        command("TLBIVAH", 0x078, "hypervisor entry by VA", fields("31:12 VA_31_12")),
        rw("DBGRPTRTBU", 0x080, "TLB read-out: pointer"),
        ro("DBGRDATATBU", 0x084, 0, "TLB read-out: data"),
        rw("DBGRPTRTCU", 0x088, "TLB read-out: pointer"),
        ro("DBGRDATATCU", 0x08C, 0, "TLB read-out: data"),
        command("STLBIVALM", 0x0A0, "monitor entry by VA, last level", _BY_VA, size=8),
        command("STLBIVAM", 0x0A8, "monitor entry by VA", _BY_VA, size=8),
        command("TLBIVALH64", 0x0B0, "hypervisor entry by VA, last level", _BY_VA, size=8),
        command("TLBIVMIDS1", 0x0B8, "invalidate stage 1 of a VMID", vmid),
        command("STLBIALLM", 0x0BC, "invalidate all monitor entries"),
        command("TLBIVAH64", 0x0C0, "hypervisor entry by VA", _BY_VA, size=8),
    ]


def _operations() -> list[Register]:
    kinds = [(p + a, f"{privilege} {access}") for p, privilege in _PRIVILEGES for a, access in _ACCESSES]
    rows = [
        command(f"GATS{stages}{kind}", base + 8 * i, f"translate as {words}: {what}", _GATS, size=8)
        for stages, base, what in (("1", 0x100, "stage 1"), ("12", 0x120, "both stages"))
        for i, (kind, words) in enumerate(kinds)
    ]
    return [
        *rows,
        ro("GPAR", 0x180, 0, "result of GATS", fields("63:56 ATTR,47:12 PA,9 NS,8:7 SH,0 F"), size=8),
        ro("GATSR", 0x188, 0, "GATS under way", fields("0 ACTIVE")),
    ]


def _streams(spec: SmmuSpec) -> list[Register]:
    groups = spec.stream_match_groups
    stick = (1 << spec.stream_id_bits) - 1
    s2cr = field_mask(S2CR_FIELDS) & ~(0 if spec.extended_ids else 1 << 10)
    return [
        rw("SMR", 0x800, "stream match", SMR_FIELDS, count=groups, writable=1 << 31 | stick << 16 | stick),
        rw("S2CR", 0xC00, "stream to context", S2CR_FIELDS, count=groups, reset=0x0002_0000, writable=s2cr),
    ]


def _parts() -> list[Register]:
    names = [f"PIDR{n}" for n in (4, 5, 6, 7, 0, 1, 2, 3)] + [f"CIDR{n}" for n in range(4)]
    values = (0x04, 0, 0, 0, 0x81, 0xB4, 0x1B, 0x00, 0x0D, 0xF0, 0x05, 0xB1)
    return [
        ro(name, 0xFD0 + 4 * n, value, "peripheral identification")
        for n, (name, value) in enumerate(zip(names, values, strict=True))
    ]


@lru_cache(maxsize=16)
def smmu_table(spec: SmmuSpec) -> tuple[Register, ...]:
    """Every register of an SMMU of this shape; nodes of one platform share the table."""
    return (
        *_control(spec),
        *_faults(),
        *_maintenance(),
        *_operations(),
        *_streams(spec),
        *_parts(),
        *global_1(spec),
        *monitor(spec),
        *context_banks(spec),
    )
