"""The coordinator's state as rows: what a store keeps, one frozen dataclass for each table.

A row is *settled* when the nodes agree with it. A row that is not says what is still to be done on its node
(map, unmap, open, close); it is written before the node is called and settled after the node has answered, so
that a crash at any point leaves the work itself on record. Settling is idempotent.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from enum import IntEnum
from typing import ClassVar, Final

Key = tuple[str | int, ...]


class NodeState(IntEnum):
    """Of a node; the numbers are those of `unimem.v1.NodeState`."""

    UP = 1
    LOST = 2
    LEFT = 3


class RegionPhase(IntEnum):
    """Of a region. Only ACTIVE and LOST ones are visible; the others were not acknowledged, or were freed."""

    PENDING = 1  # has an address, the node may have mapped it
    ACTIVE = 2
    FREEING = 3  # has still an address, the node may not have unmapped it
    LOST = 4  # its node restarted: the bytes are gone, the address and the name are still taken


class PresencePhase(IntEnum):
    """Of a domain or session on one node."""

    WANTED = 1
    OPEN = 2
    CLOSING = 3


class Record:
    """What every row has: the name of its table, and its primary key."""

    __slots__ = ()
    TABLE: ClassVar[str]
    KEY: ClassVar[tuple[str, ...]]

    @property
    def key(self) -> Key:
        """The values of the primary key's columns."""
        return tuple(getattr(self, name) for name in self.KEY)


@dataclass(frozen=True, slots=True)
class CounterRow(Record):
    """A number: ``epoch`` of the route table (only grows), ``pdid`` of the domain made last (comes round)."""

    TABLE = "counters"
    KEY = ("name",)
    name: str
    value: int


@dataclass(frozen=True, slots=True)
class NodeRow(Record):
    """A node that has joined once. Its name keeps its index, and so its window, for ever."""

    TABLE = "nodes"
    KEY = ("name",)
    name: str
    index: int
    address: str
    state: NodeState
    incarnation: int
    platform: str
    memory_bytes: int
    boot_id: str  # of this incarnation, 16 hexadecimal digits
    replaced_boot_id: str  # of the one before: it must not come back
    lease_token: str = field(repr=False)
    high_water: int  # first address of the window that was never given out
    auto_named: bool


@dataclass(frozen=True, slots=True)
class DomainRow(Record):
    """A protection domain. Named ones live while anything refers to them, private ones as their session."""

    TABLE = "domains"
    KEY = ("pdid",)
    pdid: int
    name: str  # empty: private
    closing: bool = False  # its number is free again when no node knows it any more


@dataclass(frozen=True, slots=True)
class SessionRow(Record):
    """A client: a process on `home` in domain `pdid`."""

    TABLE = "sessions"
    KEY = ("session_id",)
    session_id: str
    token: str = field(repr=False)
    pdid: int
    home: str
    acknowledged: bool = False


@dataclass(frozen=True, slots=True)
class RegionRow(Record):
    """`length` bytes (as asked for) at `gva` on `node`."""

    TABLE = "regions"
    KEY = ("gva",)
    gva: int
    length: int
    node: str
    pdid: int
    name: str
    phase: RegionPhase

    @property
    def settled(self) -> bool:
        """Nothing is to be done on the node."""
        return self.phase in (RegionPhase.ACTIVE, RegionPhase.LOST)

    @property
    def visible(self) -> bool:
        """Acknowledged and not freed."""
        return self.phase in (RegionPhase.ACTIVE, RegionPhase.LOST)


@dataclass(frozen=True, slots=True)
class GrantRow(Record):
    """`rights` of domain `pdid` on the region at `gva`; `wanted`: what they are becoming."""

    TABLE = "grants"
    KEY = ("gva", "pdid")
    gva: int
    pdid: int
    node: str  # of the region
    rights: int  # acknowledged, bits of `unimem.v1.Rights`; 0: none yet
    wanted: int

    @property
    def settled(self) -> bool:
        """The node has these rights in its page tables."""
        return self.rights == self.wanted


@dataclass(frozen=True, slots=True)
class PresenceRow(Record):
    """Domain `pdid` on `node`: the domain itself (`token` empty), or a session that may post there."""

    TABLE = "presences"
    KEY = ("node", "pdid", "token")
    node: str
    pdid: int
    token: str = field(repr=False)
    phase: PresencePhase = PresencePhase.WANTED

    @property
    def settled(self) -> bool:
        """The node knows it."""
        return self.phase is PresencePhase.OPEN


Row = CounterRow | NodeRow | DomainRow | SessionRow | RegionRow | GrantRow | PresenceRow

#: Every table, in the order in which rows are loaded.
TABLES: Final[tuple[type[Row], ...]] = (
    CounterRow,
    NodeRow,
    DomainRow,
    SessionRow,
    RegionRow,
    GrantRow,
    PresenceRow,
)
