"""Control calls: arguments to request messages and responses to values, for both clients."""

from __future__ import annotations

import operator
import time
from collections.abc import Callable
from typing import TYPE_CHECKING, Any, Final, SupportsIndex

from unimem._arguments import Address, aligned, locate, whole, word
from unimem.cluster import Rights, rights_of
from unimem.errors import DeadlineExceeded, UsageError
from unimem.v1 import coordinator_pb2 as pb

if TYPE_CHECKING:
    from unimem.cluster import RegionInfo

#: Comparisons of `wait_until`.
COMPARISONS: Final[dict[str, Callable[[int, int], bool]]] = {
    "==": operator.eq,
    "!=": operator.ne,
    "<": operator.lt,
    "<=": operator.le,
    ">": operator.gt,
    ">=": operator.ge,
}

#: Seconds between two looks of `wait_until`: the first few follow at once, then twice as long each time.
FIRST_PAUSE: Final = 50e-6
LONGEST_PAUSE: Final = 5e-3


def allocate(length: SupportsIndex, node: str | None, name: str) -> pb.AllocateRegionRequest:
    """For `alloc`."""
    size = whole(length, "length", "alloc")
    if size <= 0 or size >> 48:
        raise UsageError(f"length {size}: a region has 1 byte or more", op="alloc", reason="BAD_LENGTH")
    return pb.AllocateRegionRequest(
        node=_name(node, "node", "alloc"), length=size, name=_name(name, "name", "alloc")
    )


def free(where: Address) -> pb.FreeRegionRequest:
    """For `free`: a pointer to the region's base, its address, or a `RegionInfo`."""
    return pb.FreeRegionRequest(gva=locate(where, 1, "free"))


def share(
    where: Address, domain: str | None, pdid: int | None, rights: Rights | str | None
) -> pb.ShareRegionRequest:
    """For `share`."""
    if (domain is None) == (pdid is None):
        raise UsageError("with whom?", op="share", hint="give either domain= (a name) or pdid= (a number)")
    if pdid is not None and not 1 <= whole(pdid, "pdid", "share") <= 0xFFFF:
        raise UsageError(f"pdid {pdid}: protection domains are 1 to 65535", op="share", reason="BAD_PDID")
    return pb.ShareRegionRequest(
        gva=locate(where, 1, "share"),
        domain=_name(domain, "domain", "share"),
        pdid=pdid or 0,
        rights=int(rights_of(rights, "share")),  # type: ignore[arg-type]
    )


def resolve(where: Address) -> pb.ResolveAddressRequest:
    """For `resolve`."""
    return pb.ResolveAddressRequest(gva=locate(where, 1, "resolve"))


def list_regions(node: str | None, domain: str | None) -> pb.ListRegionsRequest:
    """For `regions`."""
    return pb.ListRegionsRequest(
        node=_name(node, "node", "regions"), domain=_name(domain, "domain", "regions")
    )


class Watch:
    """The state of one `wait_until`: what is waited for, since when, and how long to pause."""

    def __init__(
        self, flag: Address, value: SupportsIndex, compare: str, allowed: float, width: int = 8
    ) -> None:
        if compare not in COMPARISONS:
            raise UsageError(f"compare={compare!r}: choose from {', '.join(COMPARISONS)}", op="wait_until")
        self.gva = aligned(flag, width, "a flag", "wait_until")
        self.wanted = word(value, "value", "wait_until", width)
        self.compare = compare
        self.allowed = self.left = allowed
        self.seen = 0
        self._deadline = time.monotonic() + allowed
        self._pause = FIRST_PAUSE

    def holds(self, seen: int) -> bool:
        """Whether the word `seen` is what is waited for."""
        self.seen = seen
        return COMPARISONS[self.compare](seen, self.wanted)

    def pause(self) -> float:
        """Seconds until the next look; `DeadlineExceeded` when that is too late."""
        self.left = self._deadline - time.monotonic() - self._pause
        if self.left <= 0:
            raise DeadlineExceeded(
                f"the word is {self.seen}, never {self.compare} {self.wanted} within {self.allowed:g} s",
                op="wait_until",
                gva=self.gva,
            )
        pause, self._pause = self._pause, min(2 * self._pause, LONGEST_PAUSE)
        return pause


def round_end(ticket: int, participants: SupportsIndex) -> int:
    """What a barrier's counter shows when everybody of the round of `ticket` has come."""
    n = whole(participants, "participants", "barrier")
    if n < 1:
        raise UsageError(f"{n} participants: a barrier needs at least one", op="barrier")
    return (ticket // n + 1) * n


def _name(name: str | None, what: str, op: str) -> str:
    if name is None:
        return ""
    if not isinstance(name, str):
        raise UsageError(f"{what} {name!r} is not a str", op=op)
    return name


def base_of(region: RegionInfo | Any) -> Any:
    """A `RegionInfo` as a pointer to its base; anything else as it is."""
    return getattr(region, "ptr", region)
