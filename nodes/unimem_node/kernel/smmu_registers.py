"""The SMMU driver's header: SMMUv2 / MMU-500 registers as software knows them (Arm IHI0062, Arm DDI0517).

Offsets from the SMMU's base; the second page is global space 1, context bank n has a page of its own behind
the global pages. Names are the specification's.
"""

from __future__ import annotations

from typing import Final

# Global space 0
CR0: Final = 0x000
CR0_CLIENTPD: Final = 1 << 0
CR0_GFRE: Final = 1 << 1
CR0_GFIE: Final = 1 << 2
CR0_GCFGFRE: Final = 1 << 4
CR0_GCFGFIE: Final = 1 << 5
CR0_USFCFG: Final = 1 << 10
CR0_VMIDPNE: Final = 1 << 11
CR0_PTM: Final = 1 << 12
CR0_FB: Final = 1 << 13
CR0_BSU: Final = 3 << 14
CR0_SMCFCFG: Final = 1 << 21
ACR: Final = 0x010
NSACR: Final = 0x410  # the non-secure copy: the one that counts for non-secure streams
ACR_SMTNMB_TLBEN: Final = 1 << 8
ACR_S2CRB_TLBEN: Final = 1 << 10
ACR_CACHE_LOCK: Final = 1 << 26
IDR0: Final = 0x020
IDR0_S1TS: Final = 1 << 30
IDR0_S2TS: Final = 1 << 29
IDR0_NTS: Final = 1 << 28
IDR0_SMS: Final = 1 << 27
IDR0_ATOSNS: Final = 1 << 26  # address translation operations are not offered
IDR0_CTTW: Final = 1 << 14  # table walks are coherent with the CPU's caches
IDR1: Final = 0x024
IDR1_PAGESIZE: Final = 1 << 31  # pages of 64 KiB
IDR2: Final = 0x028
#: PTFSv8: which granules there are, and log2 of their sizes.
IDR2_GRANULES: Final = ((1 << 12, 12), (1 << 13, 14), (1 << 14, 16))
IDR7: Final = 0x03C
GFAR: Final = 0x040  # 64 bits
GFSR: Final = 0x048
GFSYNR0: Final = 0x050
GFSYNR0_WNR: Final = 1 << 1
GFSYNR0_PNU: Final = 1 << 2
GFSYNR0_IND: Final = 1 << 3
GFSYNR1: Final = 0x054
TLBIALLNSNH: Final = 0x068
TLBIALLH: Final = 0x06C
TLBGSYNC: Final = 0x070
TLBGSTATUS: Final = 0x074
SMR: Final = 0x800  # + 4 n
SMR_VALID: Final = 1 << 31
SMR_MASK_SHIFT: Final = 16
S2CR: Final = 0xC00  # + 4 n
S2CR_TRANSLATE: Final = 0 << 16
S2CR_FAULT: Final = 2 << 16

#: Bits of a stream ID.
STREAM_MASK: Final = 0x7FFF

# Global space 1, offsets from its page
CBAR: Final = 0x000  # + 4 n
CBAR_TYPE: Final = 3 << 16
CBAR_STAGE_2: Final = 0 << 16
CBAR_S1_S2_BYPASS: Final = 1 << 16
CBAR_NESTED: Final = 3 << 16
CBAR_CBNDX_SHIFT: Final = 8  # of a nested bank: which bank is its stage 2
CBAR_BPSHCFG_NON: Final = 3 << 8
CBAR_MEMATTR_WB: Final = 0xF << 12
CBFRSYNRA: Final = 0x400
CBA2R: Final = 0x800
CBA2R_VA64: Final = 1 << 0

# A context bank's page
SCTLR: Final = 0x000
SCTLR_M: Final = 1 << 0
SCTLR_TRE: Final = 1 << 1
SCTLR_AFE: Final = 1 << 2
SCTLR_CFRE: Final = 1 << 5
SCTLR_CFIE: Final = 1 << 6
SCTLR_CFCFG: Final = 1 << 7  # stall instead of terminate
SCTLR_HUPCF: Final = 1 << 8  # others may pass a stalled access
SCTLR_ASIDPNE: Final = 1 << 12
ACTLR: Final = 0x004
ACTLR_CPRE: Final = 1 << 1
RESUME: Final = 0x008
RESUME_RETRY: Final = 0 << 0
RESUME_TERMINATE: Final = 1 << 0
TCR2: Final = 0x010
TCR2_AS: Final = 1 << 4  # 16-bit ASIDs
TCR2_SEP_UPSTREAM: Final = 7 << 15
TTBR0: Final = 0x020  # 64 bits
TTBR1: Final = 0x028  # 64 bits
TTBR_ASID_SHIFT: Final = 48
TCR: Final = 0x030
TCR_T0SZ_48_BITS: Final = 16
TCR_IRGN0_WBWA: Final = 1 << 8
TCR_ORGN0_WBWA: Final = 1 << 10
TCR_SH0_INNER: Final = 3 << 12
TCR_EPD1: Final = 1 << 23
MAIR0: Final = 0x038
MAIR1: Final = 0x03C
#: Attribute 0 normal non-cacheable, 1 write-back, 2 device nGnRE: what Linux programs, and our tables use.
MAIR0_VALUE: Final = 0x0004_FF44
FSR: Final = 0x058
FAR: Final = 0x060  # 64 bits
FSYNR0: Final = 0x068
FSYNR0_PLVL: Final = 0x3
FSYNR0_WNR: Final = 1 << 4
FSYNR0_PNU: Final = 1 << 5
FSYNR0_IND: Final = 1 << 6
FSYNR0_PTWF: Final = 1 << 10  # stage 2 refused a walk of stage 1
FSYNR0_S1CBNDX_SHIFT: Final = 16
IPAFAR: Final = 0x070  # 64 bits
TLBIVA: Final = 0x600  # 64 bits
TLBIASID: Final = 0x610
TLBSYNC: Final = 0x7F0
TLBSTATUS: Final = 0x7F4

FSR_SS: Final = 1 << 30  # a transaction is stalled, and waits for RESUME
MULTI: Final = 1 << 31
#: Fault bits of FSR, most telling first where two are set, and the fault's name.
FSR_KINDS: Final = (
    (1 << 1, "translation fault"),
    (1 << 2, "access flag fault"),
    (1 << 3, "permission fault"),
    (1 << 4, "external abort"),
    (1 << 7, "address size fault"),
    (1 << 5, "TLB conflict"),
    (1 << 6, "TLB lock fault"),
    (1 << 8, "unsupported transaction"),
)
#: The same for sGFSR.
GFSR_KINDS: Final = (
    (1 << 1, "unidentified stream"),
    (1 << 2, "stream match conflict"),
    (1 << 0, "invalid context"),
    (1 << 3, "unimplemented context bank"),
    (1 << 4, "unimplemented interrupt"),
    (1 << 5, "configuration access fault"),
    (1 << 6, "external abort"),
    (1 << 7, "permission fault"),
    (1 << 8, "unsupported transaction"),
)
FSR_FAULTS: Final = sum(bit for bit, _ in FSR_KINDS)
GFSR_FAULTS: Final = sum(bit for bit, _ in GFSR_KINDS)
