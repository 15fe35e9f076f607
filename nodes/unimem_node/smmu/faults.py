"""Faults as values: what kind, where in the walk, whose access, and what the registers say of it.

A fault is built where it is recorded (`recorder`). Context faults carry FSR and FSYNR0 of the bank that
records them, faults of no bank GFSR and GFSYNR0 (SMMUv2, "Fault handling"; bit layouts in `registers`).
"""

from __future__ import annotations

from dataclasses import dataclass, field
from enum import IntEnum
from typing import Final

from unimem.addresses import fmt
from unimem_node.mmu.regime import (
    ACCESS_EXECUTE,
    ACCESS_PRIVILEGED,
    ACCESS_WRITE,
    S_IPA_SHIFT,
    S_LEVEL,
    S_PTWF,
    S_STAGE_2,
)
from unimem_node.smmu.bank_registers import FSR_FORMAT_AARCH64
from unimem_node.smmu.stalls import Hold
from unimem_node.smmu.streams import TBU_SHIFT, GlobalFault

FAR_MASK: Final = (1 << 64) - 1
_IPA_MASK: Final = (1 << 48) - 1


class FaultKind(IntEnum):
    """Kinds of fault: those of a context bank have the number of their FSR bit."""

    TRANSLATION = 1
    ACCESS_FLAG = 2
    PERMISSION = 3
    EXTERNAL = 4
    TLB_MATCH_CONFLICT = 5
    TLB_LOCK = 6
    ADDRESS_SIZE = 7
    UNSUPPORTED_TRANSACTION = 8
    STREAM = 9  # no context bank was reached: see `Fault.global_fault`

    @property
    def words(self) -> str:
        """The kind in words, `translation fault`."""
        return self.name.lower().replace("_", " ") + " fault"


def access_words(access: int) -> str:
    """An access in words: `privileged write`."""
    verb = "execute" if access & ACCESS_EXECUTE else "write" if access & ACCESS_WRITE else "read"
    return "privileged " + verb if access & ACCESS_PRIVILEGED else verb


def fsynr0(level: int, access: int, *, ptwf: bool = False, s1_bank: int = -1) -> int:
    """CB_FSYNR0: PLVL, WNR, PNU, IND, PTWF, S1CBNDX."""
    nested = s1_bank << 16 if s1_bank >= 0 else 0
    return level & 3 | _wnr_pnu_ind(access) << 4 | ptwf << 10 | nested


def gfsynr0(access: int) -> int:
    """GFSYNR0: WNR, PNU, IND."""
    return _wnr_pnu_ind(access) << 1


def _wnr_pnu_ind(access: int) -> int:
    """Write, privileged, instruction: three neighbouring bits in either syndrome register."""
    return (
        bool(access & ACCESS_WRITE)
        | bool(access & ACCESS_PRIVILEGED) << 1
        | bool(access & ACCESS_EXECUTE) << 2
    )


@dataclass(frozen=True, slots=True)
class Fault:
    """One refused access.

    `fsr` and `fsynr0` describe this fault even when the registers kept an earlier one (`multiple`). `aborts`:
    when the transaction ends, the master gets a bus error (SLVERR); otherwise it reads zeros and its writes
    are lost. `stalls`: it does not end yet: `Smmu.hold` tells when software has decided.
    """

    kind: FaultKind
    stage: int  # 1 or 2, or 0 when no context bank was reached
    level: int
    access: int  # ACCESS_* bits
    stream_id: int
    context_bank: int  # the bank that records; -1 when none was reached
    iova: int
    fsr: int
    fsynr0: int
    aborts: bool
    multiple: bool = False
    global_fault: GlobalFault | None = None
    reason: str = ""
    ptwf: bool = False  # stage 2, on the fetch of a stage-1 descriptor
    ipa: int | None = None  # stage 2: of the access, or of the descriptor
    s1_bank: int = -1  # the bank whose stage 1 is nested in the one that records
    stalls: bool = False
    hold: Hold | None = field(default=None, compare=False, repr=False)

    def describe(self) -> str:
        """The fault in one line, for people."""
        stream = f"stream {self.stream_id:#x} (TBU {self.stream_id >> TBU_SHIFT})"
        outcome = self._outcome()
        what = f"{access_words(self.access)} of {fmt(self.iova)}"
        if self.global_fault is not None:
            why = f": {self.reason}" if self.reason else ""
            return (
                f"{self.global_fault.words}, {what} by {stream}{why} "
                f"[GFSR {self.fsr:#x} GFSYNR0 {self.fsynr0:#x}; {outcome}]"
            )
        bank = f"context bank {self.context_bank}"
        if self.s1_bank >= 0:
            bank += f" for bank {self.s1_bank}"
        if self.ptwf:
            what += f" (stage-1 descriptor at IPA {fmt(self.ipa or 0)})"
        elif self.s1_bank >= 0:
            what += f" (IPA {fmt(self.ipa or 0)})"
        return (
            f"{self.kind.words}, stage {self.stage} level {self.level}, {what} by {stream}, {bank} "
            f"[FSR {self.fsr:#x} FSYNR0 {self.fsynr0:#x}; {outcome}]"
        )

    def _outcome(self) -> str:
        if self.stalls:
            after = ["stalled: waits for RESUME"]
        else:
            after = ["bus error" if self.aborts else "no bus error: reads zeros, drops writes"]
        if self.multiple:
            after.append("an earlier fault is still recorded")
        return "; ".join(after)


def context_fault(
    kind: FaultKind,
    syndrome: int,
    access: int,
    stream_id: int,
    bank: int,
    va: int,
    *,
    s1_bank: int,
    aborts: bool,
    multiple: bool,
    hold: Hold | None,
) -> Fault:
    """A fault that a context bank records. `syndrome` is that of the walk (S_*)."""
    level, ptwf = syndrome & S_LEVEL, bool(syndrome & S_PTWF)
    second = bool(syndrome & S_STAGE_2)
    return Fault(
        kind=kind,
        stage=2 if second else 1,
        level=level,
        access=access,
        stream_id=stream_id,
        context_bank=bank,
        iova=va & FAR_MASK,
        fsr=FSR_FORMAT_AARCH64 | 1 << kind,
        fsynr0=fsynr0(level, access, ptwf=ptwf, s1_bank=s1_bank),
        aborts=aborts,
        multiple=multiple,
        ptwf=ptwf,
        ipa=syndrome >> S_IPA_SHIFT & _IPA_MASK if second else None,
        s1_bank=s1_bank,
        stalls=hold is not None,
        hold=hold,
    )


def global_fault(
    which: GlobalFault,
    kind: FaultKind,
    access: int,
    stream_id: int,
    va: int,
    *,
    aborts: bool,
    multiple: bool,
    reason: str,
) -> Fault:
    """A fault of a stream that reached no context bank."""
    return Fault(
        kind=kind,
        stage=0,
        level=0,
        access=access,
        stream_id=stream_id,
        context_bank=-1,
        iova=va & FAR_MASK,
        fsr=1 << which,
        fsynr0=gfsynr0(access),
        aborts=aborts,
        multiple=multiple,
        global_fault=which,
        reason=reason,
    )
