"""What a walk needs to know of its translation regime: one row of integers, decoded once.

A row is int64 (`REGIME_COLS`,), one per context bank, filled by whoever owns the registers; the `R_*` names
are its columns. The fields are those of TCR, TCR2 / IPS, TTBR and SCTLR (Arm ARM, D8 "VMSAv8-64"; SMMUv2,
context bank registers). `Regime` is the same with names, for diagnosis and tests.
"""

from __future__ import annotations

from dataclasses import dataclass
from enum import IntEnum
from typing import Final

import numpy as np
import numpy.typing as npt

# --- columns of a row ---------------------------------------------------------------------------------
R_MODE: Final = 0  # MODE_*: whether accesses are translated (the walk itself does not look at it)
R_TTBR0: Final = 1  # table base, bits 47:0; the ASID is not in it. Stage 2: the start table(s)
R_TTBR1: Final = 2
R_T0SZ: Final = 3  # the TTBR0 half has 64 - T0SZ bits of input; stage 1: legal 16 to 39
R_T1SZ: Final = 4
R_GRANULE_SHIFT0: Final = 5  # 12, 14 or 16; 0 = reserved encoding, every walk faults
R_GRANULE_SHIFT1: Final = 6
R_EPD0: Final = 7  # 1 = walks through TTBR0 are disabled (translation fault)
R_EPD1: Final = 8
R_ASID: Final = 9
R_IPS_BITS: Final = 10  # bits of an output address: 32, 36, 40, 42, 44 or 48
R_AF_ENABLED: Final = 11  # 1 = a clear access flag faults (SCTLR.AFFD = 0)
R_WXN: Final = 12  # 1 = what is writable is not executable
R_TBI0: Final = 13  # 1 = bits 63:56 of the address are ignored in the TTBR0 half
R_TBI1: Final = 14
R_BIG_ENDIAN: Final = 15  # SCTLR.E: descriptors are big-endian
R_CFG: Final = 16  # CFG_* flags: what happens to a transaction that faults; the walk does not look at it
R_VMID: Final = 17
R_STAGES: Final = 18  # STAGE_1 | STAGE_2: which of them this bank's accesses go through
R_S2: Final = 19  # bank whose row describes stage 2: this one (CBAR.TYPE 0) or another (TYPE 3); else -1
R_SL0: Final = 20  # stage 2, TCR.SL0: 0 to 2 (3 is reserved)
R_SIGN_BIT: Final = 21  # bit from which an input address is sign-extended (TCR2.SEP): 31 to 48
R_PTW: Final = 22  # stage 2, SCTLR.PTW: a stage-1 table in stage-2 Device memory is a permission fault
R_MAIR: Final = 23  # MAIR1:MAIR0 as one 64-bit word
R_PA_MAX: Final = 24  # output address bits of the implementation (IDR2.OAS)
REGIME_COLS: Final = 25

# --- R_MODE -------------------------------------------------------------------------------------------
MODE_BYPASS: Final = 0  # SCTLR.M = 0 in every stage: identity
MODE_TRANSLATE: Final = 1  # the upstream bus' sign bit (48)
MODE_SIGN: Final = 2  # as 1, with another sign bit: see R_SIGN_BIT
MODE_BLOCKED: Final = 3  # HUPCF = 0 and a stalled transaction outstanding: nothing of the bank proceeds

# --- R_STAGES -----------------------------------------------------------------------------------------
STAGE_1: Final = 1
STAGE_2: Final = 2

# --- flags in R_CFG -----------------------------------------------------------------------------------
CFG_CFRE: Final = 1  # a terminated transaction gets a bus error
CFG_CFIE: Final = 2  # a recorded fault raises the interrupt
CFG_CFCFG: Final = 4  # stall instead of terminate
CFG_HUPCF: Final = 8  # other transactions proceed past an outstanding fault

# --- result codes of a walk: bit positions in FSR -----------------------------------------------------
OK: Final = 0
TF: Final = 1  # translation fault
AFF: Final = 2  # access flag fault
PF: Final = 3  # permission fault
EF: Final = 4  # external fault: no memory at a table's address
TLBMCF: Final = 5  # two TLB entries for one address
ASF: Final = 7  # address size fault
UUT: Final = 8  # unsupported upstream transaction

# --- syndrome: where a walk ended, as one int64 -------------------------------------------------------
S_LEVEL: Final = 3  # mask of the level, bits 1:0 (FSYNR0.PLVL)
S_STAGE_2: Final = 1 << 2  # the fault is stage 2's
S_PTWF: Final = 1 << 3  # ... on the fetch of a stage-1 descriptor (FSYNR0.PTWF)
S_IPA_SHIFT: Final = 4  # with S_STAGE_2: the IPA (48 bits), of the access or of the descriptor

# --- access bits --------------------------------------------------------------------------------------
ACCESS_READ: Final = 0
ACCESS_WRITE: Final = 1
ACCESS_PRIVILEGED: Final = 2
ACCESS_EXECUTE: Final = 4

# --- attributes of a translation, packed in one integer: bits 11:2 stand where the descriptor has them ---
A_LEAF: Final = 1 << 0  # always set once a block or page was found; attrs = 0 means none was
A_ATTR_SHIFT: Final = 2  # AttrIndx, 3 bits
A_NS: Final = 1 << 5
A_USER: Final = 1 << 6  # AP[1]: unprivileged accesses are allowed
A_READ_ONLY: Final = 1 << 7  # AP[2]
A_SH_SHIFT: Final = 8  # shareability, 2 bits
A_AF: Final = 1 << 10
A_NOT_GLOBAL: Final = 1 << 11  # nG: tag with the ASID
A_CONTIGUOUS: Final = 1 << 12
A_PXN: Final = 1 << 13
A_UXN: Final = 1 << 14
A_LEVEL_SHIFT: Final = 16  # level of the stage-1 leaf, 2 bits
A_LEVEL2_SHIFT: Final = 18  # level of the stage-2 leaf, 2 bits
A_MAY_SHIFT: Final = 20  # stage 1: bit n set = an access with ACCESS_* bits n is allowed; 8 bits
A_MAY2_SHIFT: Final = 28  # the same of stage 2; all set when there is none
A_MEMATTR_SHIFT: Final = 36  # stage-2 MemAttr, 4 bits; 0xF (write-back) when there is none
A_TYPE_SHIFT: Final = 40  # the stage-1 memory type: MAIR's byte for AttrIndx, 8 bits
A_SHIFT2_SHIFT: Final = 48  # log2 of the stage-2 leaf's size, 6 bits; 0 when there is none

# --- encodings ----------------------------------------------------------------------------------------
#: log2 of the granule by TCR.TG0 (0 = reserved).
TG0_SHIFTS: Final = (12, 16, 14, 0)
#: log2 of the granule by TCR.TG1, which is coded differently.
TG1_SHIFTS: Final = (0, 14, 12, 16)
#: Output address bits by TCR2.PASize / IPS; reserved codes behave as the largest.
IPS_BITS: Final = (32, 36, 40, 42, 44, 48, 48, 48)


class FaultCode(IntEnum):
    """Kinds of fault, numbered as their bits in FSR."""

    TRANSLATION = TF
    ACCESS_FLAG = AFF
    PERMISSION = PF
    EXTERNAL = EF
    TLB_CONFLICT = TLBMCF
    ADDRESS_SIZE = ASF
    UNSUPPORTED = UUT

    @property
    def words(self) -> str:
        """The kind in words, `translation fault`."""
        if self is FaultCode.TLB_CONFLICT:
            return "TLB conflict"
        return self.name.lower().replace("_", " ") + " fault"


@dataclass(frozen=True, slots=True, kw_only=True)
class Regime:
    """A translation regime by names; the defaults are what the kernel of a node uses.

    One of stage 2 (`stages` = STAGE_2) has its start tables in `ttbr0`, its input size in `t0sz`.
    """

    ttbr0: int = 0
    ttbr1: int = 0
    t0sz: int = 16
    t1sz: int = 16
    granule_shift0: int = 12
    granule_shift1: int = 12
    epd0: bool = False
    epd1: bool = True
    asid: int = 0
    ips_bits: int = 48
    af_enabled: bool = True
    wxn: bool = False
    tbi0: bool = False
    tbi1: bool = False
    big_endian: bool = False
    mode: int = MODE_TRANSLATE
    cfg: int = 0
    vmid: int = 0
    stages: int = STAGE_1
    s2: int = -1
    sl0: int = 0
    sign_bit: int = 48
    ptw: bool = False
    mair: int = 0
    pa_max: int = 48

    def row(self) -> npt.NDArray[np.int64]:
        """Return the regime as compiled code wants it."""
        row = np.zeros(REGIME_COLS, np.int64)
        row[R_MODE] = self.mode
        row[R_TTBR0] = self.ttbr0 & 0xFFFF_FFFF_FFFF
        row[R_TTBR1] = self.ttbr1 & 0xFFFF_FFFF_FFFF
        row[R_T0SZ] = self.t0sz
        row[R_T1SZ] = self.t1sz
        row[R_GRANULE_SHIFT0] = self.granule_shift0
        row[R_GRANULE_SHIFT1] = self.granule_shift1
        row[R_EPD0] = self.epd0
        row[R_EPD1] = self.epd1
        row[R_ASID] = self.asid
        row[R_IPS_BITS] = self.ips_bits
        row[R_AF_ENABLED] = self.af_enabled
        row[R_WXN] = self.wxn
        row[R_TBI0] = self.tbi0
        row[R_TBI1] = self.tbi1
        row[R_BIG_ENDIAN] = self.big_endian
        row[R_CFG] = self.cfg
        row[R_VMID] = self.vmid
        row[R_STAGES] = self.stages
        row[R_S2] = self.s2
        row[R_SL0] = self.sl0
        row[R_SIGN_BIT] = self.sign_bit
        row[R_PTW] = self.ptw
        row[R_MAIR] = signed(self.mair)
        row[R_PA_MAX] = self.pa_max
        return row


def signed(address: int) -> int:
    """Return the 64-bit address as compiled code takes it: two's complement int64."""
    address &= (1 << 64) - 1
    return address - (1 << 64) if address >> 63 else address
