"""What goes in and out of the core: answers, and what a change needs from the shell that drives it.

A *change* is a generator. It commits what it intends, yields what it needs (`Need`), commits the outcome and
returns the answer. The shell carries out each need and resumes it; a failed `NodeAction` is thrown in as
`NodeFailure`. A change that is never resumed is a crash: `Coordinator.repair` settles what it left behind.
"""

from __future__ import annotations

from collections.abc import Callable, Generator
from dataclasses import dataclass, field
from typing import TypeVar

from unimem.addresses import window_of
from unimem_coordinator.rows import NodeRow, NodeState

T = TypeVar("T")


@dataclass(frozen=True, slots=True)
class NodeInfo:
    """A node as others may know it."""

    name: str
    index: int
    address: str
    state: NodeState
    incarnation: int
    platform: str
    memory_bytes: int

    @property
    def window(self) -> range:
        """The global addresses it owns."""
        return window_of(self.index)

    @classmethod
    def of(cls, row: NodeRow) -> NodeInfo:
        """What may be told of `row`."""
        return cls(
            row.name, row.index, row.address, row.state, row.incarnation, row.platform, row.memory_bytes
        )


@dataclass(frozen=True, slots=True)
class RouteTable:
    """Every node, by index, at one epoch."""

    epoch: int
    nodes: tuple[NodeInfo, ...]


@dataclass(frozen=True, slots=True)
class Registration:
    """A node's membership."""

    node: NodeInfo
    lease_token: str = field(repr=False)
    lease_ttl_ns: int
    epoch: int


@dataclass(frozen=True, slots=True)
class Lease:
    """A renewed lease."""

    ttl_ns: int
    epoch: int


@dataclass(frozen=True, slots=True)
class SessionInfo:
    """A client's process."""

    session_id: str
    token: str = field(repr=False)
    pdid: int
    domain: str
    home: NodeInfo
    ttl_ns: int


@dataclass(frozen=True, slots=True)
class GrantInfo:
    """Rights of another domain; bits of `unimem.v1.Rights`."""

    pdid: int
    rights: int
    domain: str


@dataclass(frozen=True, slots=True)
class RegionInfo:
    """A region. `lost`: its bytes are gone, or its node is."""

    gva: int
    length: int
    node: str
    pdid: int
    name: str
    lost: bool
    grants: tuple[GrantInfo, ...]


@dataclass(frozen=True, slots=True)
class Resolution:
    """What lies at an address. VA = GVA: the address is the same in the page tables of every process."""

    region: RegionInfo
    node: NodeInfo
    va: int


@dataclass(frozen=True, slots=True)
class Expired:
    """What ended because nobody renewed it."""

    nodes: tuple[str, ...]
    sessions: tuple[str, ...]


@dataclass(frozen=True, slots=True)
class OpenDomain:
    """Make domain `pdid` known on `node`; with `token`, that session may post for it there."""

    node: str
    pdid: int
    token: str = field(repr=False)


@dataclass(frozen=True, slots=True)
class CloseDomain:
    """End one session on `node`; without `token` the whole domain with its memory."""

    node: str
    pdid: int
    token: str = field(repr=False)


@dataclass(frozen=True, slots=True)
class MapRegion:
    """Put [gva, gva + length) into domain `pdid`'s page tables; `owner`: on new frames.

    Mapped already: the rights become these.
    """

    node: str
    gva: int
    length: int
    pdid: int
    rights: int
    owner: bool


@dataclass(frozen=True, slots=True)
class UnmapRegion:
    """Take the region out of domain `pdid`'s page tables; 0: out of all, and give the frames back."""

    node: str
    gva: int
    pdid: int


#: All of them are idempotent: after no answer they are repeated.
NodeAction = OpenDomain | CloseDomain | MapRegion | UnmapRegion


@dataclass(frozen=True, slots=True)
class Turn:
    """Go on when no other change holds this node; hold it until the change ends or yields one of these.

    A shell that drives one change at a time has nothing to do.
    """

    node: str


@dataclass(frozen=True, slots=True)
class Repairs:
    """Give up the turn; let `Coordinator.repair` of these nodes run side by side; go on soon in any case."""

    nodes: tuple[str, ...]


Need = Turn | Repairs | NodeAction

Change = Generator[Need, None, T]

#: Carries out an action, or raises `NodeFailure`.
Perform = Callable[[NodeAction], None]
