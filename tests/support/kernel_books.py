"""Nodes reduced to their books, for tests of the coordinator: what is open, and mapped for whom.

They are strict where a real node is: mapping for a domain that is not open, sharing what is not there, or two
regions on the same bytes is an error of the coordinator, and fails the test.
"""

from __future__ import annotations

from dataclasses import dataclass, field

from unimem_coordinator import (
    CloseDomain,
    FailureKind,
    MapRegion,
    NodeAction,
    NodeFailure,
    OpenDomain,
    UnmapRegion,
)


@dataclass
class Books:
    """One node's."""

    domains: dict[int, set[str]] = field(default_factory=dict)
    owned: dict[int, tuple[int, int]] = field(default_factory=dict)  # gva -> length, pdid
    shared: dict[tuple[int, int], int] = field(default_factory=dict)  # gva, pdid -> rights

    def carry_out(self, action: NodeAction) -> None:
        match action:
            case OpenDomain():
                tokens = self.domains.setdefault(action.pdid, set())
                if action.token:
                    tokens.add(action.token)
            case CloseDomain(token=""):
                self.domains.pop(action.pdid, None)
                assert not [gva for gva, (_, pdid) in self.owned.items() if pdid == action.pdid]
                self.shared = {key: rights for key, rights in self.shared.items() if key[1] != action.pdid}
            case CloseDomain():
                self.domains.get(action.pdid, set()).discard(action.token)
            case MapRegion(owner=True):
                assert action.pdid in self.domains, "region for a domain that is not open"
                for gva, (length, _) in self.owned.items():
                    apart = gva + length <= action.gva or action.gva + action.length <= gva
                    assert gva == action.gva or apart, "regions overlap"
                self.owned[action.gva] = (action.length, action.pdid)
            case MapRegion():
                assert action.pdid in self.domains, "share with a domain that is not open"
                assert self.owned[action.gva][0] == action.length
                self.shared[action.gva, action.pdid] = action.rights
            case UnmapRegion(pdid=0):
                self.owned.pop(action.gva, None)
                self.shared = {key: rights for key, rights in self.shared.items() if key[0] != action.gva}
            case UnmapRegion():
                self.shared.pop((action.gva, action.pdid), None)


class Machines:
    """Several nodes, and what goes wrong with them: `perform` for `drive`."""

    def __init__(self) -> None:
        self.books: dict[str, Books] = {}
        self.log: list[NodeAction] = []
        #: Nodes whose calls fail, and how.
        self.failing: dict[str, FailureKind] = {}
        #: Nodes that do what they are told, and whose answer is lost.
        self.mute: set[str] = set()

    def start(self, name: str) -> Books:
        """A node starts with empty books."""
        self.books[name] = Books()
        return self.books[name]

    def perform(self, action: NodeAction) -> None:
        self.log.append(action)
        kind = self.failing.get(action.node)
        if kind is not None:
            raise NodeFailure(kind, f"{action.node} is made to fail")
        self.books[action.node].carry_out(action)
        if action.node in self.mute:
            raise NodeFailure(FailureKind.UNREACHABLE, "the answer was lost")
