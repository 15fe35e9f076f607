"""From stream ID to context bank: where an access of a master goes (SMMUv2, "Stream mapping").

An entry n matches when SMR.VALID and ``(stream ^ SMR.ID) & ~SMR.MASK == 0``. None: USFCFG decides between
bypass and an unidentified stream fault. More than one: stream match conflict fault, always (the MMU-500 fixes
SMCFCFG at one). One: S2CR.TYPE says translate, bypass or fault; a bank that is not there ends in an
unimplemented bank fault, one that cannot translate (`banks`) in an invalid context fault, as does TYPE =
fault. `StreamRoute.reason` says why.

S2CR.PRIVCFG and INSTCFG replace what the master says of privilege, and of data or instruction (reads only);
`StreamRoute.access` applies them.
"""

from __future__ import annotations

from collections.abc import Sequence
from enum import Enum, IntEnum
from typing import TYPE_CHECKING, Final, NamedTuple

from unimem_node.mmu.regime import ACCESS_EXECUTE, ACCESS_PRIVILEGED, ACCESS_WRITE
from unimem_node.smmu.arrays import LANE_TBU, LANES

if TYPE_CHECKING:
    from unimem_node.smmu.banks import BankState

STREAM_BITS: Final = 15
LANES_OF_TBU: Final = LANES // (LANE_TBU + 1)
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
    privilege: int = 0  # S2CR.PRIVCFG: 2 unprivileged, 3 privileged
    instruction: int = 0  # S2CR.INSTCFG: 2 data, 3 instruction

    def access(self, access: int) -> int:
        """What an access (ACCESS_* bits) counts as for the SMMU."""
        if self.privilege & 2:
            access = access & ~ACCESS_PRIVILEGED | ACCESS_PRIVILEGED * (self.privilege & 1)
        if self.instruction & 2:
            fetch = self.instruction & 1 and not access & ACCESS_WRITE
            access = access & ~ACCESS_EXECUTE | (ACCESS_EXECUTE if fetch else 0)
        return access


class Lanes:
    """Ways through the TBUs for the counters (`arrays.LANES`): TBU + 32 k, k from 1 for the streams in turn.

    A TBU's streams after the fifteenth share its lane k = 0.
    """

    def __init__(self) -> None:
        self._of: dict[int, int] = {}
        self._used: dict[int, int] = {}  # TBU: lanes given away
        #: Whose the lanes are; shared ones are not in it.
        self.streams: dict[int, int] = {}

    def of(self, stream_id: int) -> int:
        """The lane of a stream; a new one at its first sight."""
        lane = self._of.get(stream_id)
        if lane is not None:
            return lane
        tbu = stream_id >> TBU_SHIFT
        k = self._used.get(tbu, 0) + 1
        if k < LANES_OF_TBU:
            self._used[tbu] = k
            lane = tbu + 32 * k
            self.streams[lane] = stream_id
        else:
            lane = tbu
        self._of[stream_id] = lane
        return lane


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
    obstacle = banks[cb].obstacle
    if obstacle:
        return _fault(tbu, GlobalFault.INVALID_CONTEXT, f"context bank {cb}: {obstacle}")
    return StreamRoute(RouteKind.TRANSLATE, tbu, cb, privilege=s2cr >> 24 & 3, instruction=s2cr >> 26 & 3)


def _fault(tbu: int, fault: GlobalFault, reason: str) -> StreamRoute:
    return StreamRoute(RouteKind.FAULT, tbu, -1, fault, reason)
