"""What the values of SMMU register fields mean, in a word or two (SMMUv2, Arm IHI0062; MMU-500, DDI0517).

For people who read a dump of registers; the tables of the model have names and places only.
"""

from __future__ import annotations

from typing import Final

_SHARE = "0 non-shareable, 2 outer shareable, 3 inner shareable"
_CACHE = "0 non-cacheable, 1 write-back write-allocate, 2 write-through, 3 write-back"
_ACCESS = "0 read, 1 write"

#: ``REGISTER.FIELD`` -> ``value word, value word``.
MEANINGS: Final[dict[str, str]] = {
    "CR0.CLIENTPD": "1 everything bypasses",
    "CR0.USFCFG": "0 unmatched streams bypass, 1 unmatched streams fault",
    "CR0.SMCFCFG": "1 match conflicts fault",
    "CR0.GFRE": "1 global faults abort",
    "CR0.GFIE": "1 global faults interrupt",
    "CR0.GCFGFRE": "1 configuration faults abort",
    "CR0.GCFGFIE": "1 configuration faults interrupt",
    "ACR.CACHE_LOCK": "1 ACR and ACTLR are locked",
    "NSACR.CACHE_LOCK": "1 ACR and ACTLR are locked",
    "GFSR.ICF": "1 invalid context fault",
    "GFSR.USF": "1 unidentified stream",
    "GFSR.SMCF": "1 stream match conflict",
    "GFSR.UCBF": "1 unimplemented context bank",
    "GFSR.UCIF": "1 unimplemented interrupt",
    "GFSR.CAF": "1 configuration access fault",
    "GFSR.EF": "1 external abort",
    "GFSR.PF": "1 permission fault",
    "GFSR.UUT": "1 unsupported transaction",
    "GFSR.MULTI": "1 more faults than recorded",
    "GFSYNR0.WNR": _ACCESS,
    "S2CR.TYPE": "0 translate, 1 bypass, 2 fault",
    "CBAR.TYPE": "0 stage 2, 1 stage 1 with stage-2 bypass, 2 stage 1 with stage-2 fault, 3 stage 1 nested",
    "CBA2R.VA64": "0 AArch32 tables, 1 AArch64 tables",
    "CB_SCTLR.M": "1 translates",
    "CB_SCTLR.E": "1 big-endian tables",
    "CB_SCTLR.CFRE": "1 faults abort",
    "CB_SCTLR.CFIE": "1 faults interrupt",
    "CB_SCTLR.CFCFG": "0 faults terminate, 1 faults stall",
    "CB_SCTLR.HUPCF": "1 others go on past a fault",
    "CB_SCTLR.AFFD": "1 no access flag faults",
    "CB_SCTLR.WXN": "1 writable is not executable",
    "CB_ACTLR.CPRE": "1 prefetches",
    "CB_TCR.TG0": "0 4 KiB, 1 64 KiB, 2 16 KiB",
    "CB_TCR.TG1": "1 16 KiB, 2 4 KiB, 3 64 KiB",
    "CB_TCR.SH0": _SHARE,
    "CB_TCR.SH1": _SHARE,
    "CB_TCR.IRGN0": _CACHE,
    "CB_TCR.ORGN0": _CACHE,
    "CB_TCR.IRGN1": _CACHE,
    "CB_TCR.ORGN1": _CACHE,
    "CB_TCR.EPD0": "1 no walks by TTBR0",
    "CB_TCR.EPD1": "1 no walks by TTBR1",
    "CB_TCR.A1": "0 ASID of TTBR0, 1 ASID of TTBR1",
    "CB_TCR2.AS": "0 8-bit ASIDs, 1 16-bit ASIDs",
    "CB_TCR2.TBI0": "1 top byte ignored",
    "CB_TCR2.TBI1": "1 top byte ignored",
    "CB_FSR.TF": "1 translation fault",
    "CB_FSR.AFF": "1 access flag fault",
    "CB_FSR.PF": "1 permission fault",
    "CB_FSR.EF": "1 external abort",
    "CB_FSR.TLBMCF": "1 TLB match conflict",
    "CB_FSR.TLBLKF": "1 TLB lock fault",
    "CB_FSR.ASF": "1 address size fault",
    "CB_FSR.UUT": "1 unsupported transaction",
    "CB_FSR.FORMAT": "0 AArch32 short, 1 AArch32 long, 2 AArch64",
    "CB_FSR.SS": "1 a transaction is stalled",
    "CB_FSR.MULTI": "1 more faults than recorded",
    "CB_FSYNR0.PLVL": "0 level 0, 1 level 1, 2 level 2, 3 level 3",
    "CB_FSYNR0.WNR": _ACCESS,
    "CB_FSYNR0.PNU": "0 unprivileged, 1 privileged",
    "CB_FSYNR0.IND": "0 data, 1 instruction",
    "CB_FSYNR0.PTWF": "1 by the walk of stage 1",
    "TLBGSTATUS.GSACTIVE": "1 a sync is under way",
    "CB_TLBSTATUS.SACTIVE": "1 a sync is under way",
}

#: Fields (name, high, low) of registers that have another form, by CBAR.TYPE of the bank.
OTHER_FORMS: Final[dict[tuple[str, int], tuple[tuple[str, int, int], ...]]] = {
    ("CBAR", 3): (("IRPTNDX", 31, 24), ("TYPE", 17, 16), ("CBNDX", 15, 8), ("VMID", 7, 0)),
    ("CB_TCR", 0): (
        ("PASIZE", 18, 16),
        ("TG0", 15, 14),
        ("SH0", 13, 12),
        ("ORGN0", 11, 10),
        ("IRGN0", 9, 8),
        ("SL0", 7, 6),
        ("T0SZ", 5, 0),
    ),
}

_SIZES: Final = (32, 36, 40, 42, 44, 48)


def computed(register: str, field: str, value: int) -> str:
    """What a field means where a list of values would be too long; empty for others."""
    if register == "CB_TCR" and field in ("T0SZ", "T1SZ"):
        return f"{64 - value}-bit input" if 16 <= value <= 39 else ""
    if field == "PASIZE" and value < len(_SIZES):
        return f"{_SIZES[value]}-bit output"
    if register == "CB_TCR2" and field == "SEP":
        return "sign from the upstream bus' top bit" if value == 7 else ""
    return ""
