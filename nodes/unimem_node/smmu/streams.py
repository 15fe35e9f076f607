"""From a stream ID to a translation: stream matching and what follows (SMMUv2, "Stream mapping").

An entry n matches when SMR.VALID and ``(stream ^ SMR.ID) & ~SMR.MASK == 0``. None: USFCFG decides between
bypass and an unidentified stream fault. More than one: stream match conflict fault, also with SMCFCFG = 0,
where the specification leaves the result open. One: S2CR.TYPE says translate, bypass or fault.

A context bank can translate when it is one that this model walks: CBAR.TYPE 1 (stage 1, stage 2 bypassed),
in AArch64 format (CBA2R.VA64), with little-endian tables (SCTLR.E = 0). A bank of another kind ends in an
invalid context fault, and `StreamRoute.reason` says why: type 2 because that is its meaning ("stage 1 with
stage 2 fault"), the others because translating them as stage 1 would be wrong. S2CR's overrides of privilege
and of data or instruction (PRIVCFG, INSTCFG) are stored and have no effect.
"""

from __future__ import annotations

from collections.abc import Sequence
from enum import Enum, IntEnum
from typing import Final, NamedTuple

STREAM_BITS: Final = 15
TBU_SHIFT: Final = 10  # a stream ID is TBU number (5 bits) and the master's ID behind it (10 bits)

_VALID: Final = 1 << 31
_ID: Final = (1 << STREAM_BITS) - 1


class RouteKind(Enum):
    """What the SMMU does with a stream."""

    BYPASS = "bypass"
    TRANSLATE = "translate"
    FAULT = "fault"


class GlobalFault(IntEnum):
    """Faults that belong to no context bank, numbered as their bits in GFSR."""

    INVALID_CONTEXT = 0
    UNIDENTIFIED_STREAM = 1
    STREAM_MATCH_CONFLICT = 2
    UNIMPLEMENTED_BANK = 3
    EXTERNAL = 6
    UNSUPPORTED_TRANSACTION = 8

    @property
    def words(self) -> str:
        """The kind in words, `unidentified stream fault`."""
        return self.name.lower().replace("_", " ") + " fault"


class StreamRoute(NamedTuple):
    """Where a stream goes. `cb` is -1 unless it is translated; `fault` and `reason` say why it is refused."""

    kind: RouteKind
    tbu: int
    cb: int = -1
    fault: GlobalFault | None = None
    reason: str = ""


class BankState(NamedTuple):
    """What stream mapping needs to know of a context bank."""

    kind: int  # CBAR.TYPE
    enabled: bool  # SCTLR.M
    aarch64: bool  # CBA2R.VA64
    big_endian: bool  # SCTLR.E

    def obstacle(self) -> str:
        """Why the bank cannot translate, or an empty string."""
        if self.kind == 2:
            return "stage 1 with stage 2 fault (CBAR.TYPE = 2, the reset value)"
        if self.kind != 1:
            return f"stage 2 is not modelled (CBAR.TYPE = {self.kind})"
        if self.enabled and not self.aarch64:
            return "AArch32 table formats are not modelled (CBA2R.VA64 = 0)"
        if self.enabled and self.big_endian:
            return "big-endian tables are not modelled (SCTLR.E = 1)"
        return ""


def matches(smr: int, stream_id: int) -> bool:
    """Tell whether a stream match register (its value) matches a stream ID."""
    return bool(smr & _VALID) and not (stream_id ^ smr) & ~(smr >> 16) & _ID


def route(
    stream_id: int, smrs: Sequence[int], s2crs: Sequence[int], *, usfcfg: bool, banks: Sequence[BankState]
) -> StreamRoute:
    """Map a stream, with client port protection off (CR0.CLIENTPD = 0)."""
    tbu = stream_id >> TBU_SHIFT
    found = [n for n, smr in enumerate(smrs) if matches(smr, stream_id)]
    if not found:
        if not usfcfg:
            return StreamRoute(RouteKind.BYPASS, tbu)
        return _fault(tbu, GlobalFault.UNIDENTIFIED_STREAM, "no stream match register matches")
    if len(found) > 1:
        which = ", ".join(str(n) for n in found)
        return _fault(tbu, GlobalFault.STREAM_MATCH_CONFLICT, f"stream match registers {which} all match")
    s2cr = s2crs[found[0]]
    kind = s2cr >> 16 & 3
    if kind == 1:
        return StreamRoute(RouteKind.BYPASS, tbu)
    if kind != 0:
        return _fault(tbu, GlobalFault.INVALID_CONTEXT, f"S2CR{found[0]}.TYPE = {kind} (fault)")
    cb = s2cr & 0xFF
    if cb >= len(banks):
        reason = f"S2CR{found[0]}.CBNDX = {cb}, of {len(banks)} context banks"
        return _fault(tbu, GlobalFault.UNIMPLEMENTED_BANK, reason)
    obstacle = banks[cb].obstacle()
    if obstacle:
        return _fault(tbu, GlobalFault.INVALID_CONTEXT, f"context bank {cb}: {obstacle}")
    return StreamRoute(RouteKind.TRANSLATE, tbu, cb)


def _fault(tbu: int, fault: GlobalFault, reason: str) -> StreamRoute:
    return StreamRoute(RouteKind.FAULT, tbu, -1, fault, reason)
