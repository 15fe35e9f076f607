"""The rows in memory, with the indexes the core asks by, and changes that are all or nothing.

`Tables.change()` opens a change: rows put and deleted in it are seen at once by whoever reads within it. At
its end the store commits them; when that, or the code in between, fails, the tables are what they were.

Everything that is iterated is a dictionary or a sorted list, so that the order is the same in every run.
"""

from __future__ import annotations

from bisect import bisect_left, bisect_right, insort
from collections import defaultdict
from collections.abc import Iterator
from contextlib import contextmanager
from typing import TypeVar

from unimem_coordinator.rows import (
    CounterRow,
    DomainRow,
    GrantRow,
    Key,
    NodeRow,
    PresenceRow,
    RegionPhase,
    RegionRow,
    Row,
    SessionRow,
)
from unimem_coordinator.store import Store

#: Name of a row: its table and key.
Ref = tuple[str, Key]

K = TypeVar("K")
V = TypeVar("V")


class Tables:
    """Everything the coordinator knows."""

    def __init__(self, store: Store) -> None:
        self._store = store
        self._rows: dict[Ref, Row] = {}
        self.counters: dict[str, int] = {}
        self.nodes: dict[str, NodeRow] = {}
        self.domains: dict[int, DomainRow] = {}
        self.sessions: dict[str, SessionRow] = {}
        self.regions: dict[int, RegionRow] = {}
        self.grants: dict[tuple[int, int], GrantRow] = {}
        self.presences: dict[tuple[str, int, str], PresenceRow] = {}
        #: Rows whose node has still to be told, by node.
        self.unsettled: dict[str, dict[Ref, None]] = defaultdict(dict)
        self._domain_by_name: dict[str, int] = {}
        self._gvas: list[int] = []  # of all regions, ascending
        self._regions_by_pdid: dict[int, dict[int, None]] = defaultdict(dict)
        self._region_by_name: dict[tuple[int, str], int] = {}
        self._grants_by_gva: dict[int, dict[int, None]] = defaultdict(dict)
        self._grants_by_pdid: dict[int, dict[int, None]] = defaultdict(dict)
        self._sessions_by_pdid: dict[int, dict[str, None]] = defaultdict(dict)
        self._sessions_by_home: dict[str, dict[str, None]] = defaultdict(dict)
        self._presences_by_pdid: dict[int, dict[tuple[str, int, str], None]] = defaultdict(dict)
        self._changed: dict[Ref, tuple[Row | None, Row | None]] | None = None  # (before, now)
        for row in store.load():
            self._insert(row)

    # -- asking

    def domain_named(self, name: str) -> DomainRow | None:
        """The domain in use under `name`."""
        pdid = self._domain_by_name.get(name)
        return None if pdid is None else self.domains[pdid]

    def region_named(self, pdid: int, name: str) -> RegionRow | None:
        """The region of domain `pdid` called `name`, whatever its phase."""
        gva = self._region_by_name.get((pdid, name))
        return None if gva is None else self.regions[gva]

    def region_at(self, address: int) -> RegionRow | None:
        """The region with the largest base that is not above `address`."""
        at = bisect_right(self._gvas, address)
        return self.regions[self._gvas[at - 1]] if at else None

    def regions_in(self, window: range) -> list[RegionRow]:
        """The regions of a node's window, ascending."""
        first, last = bisect_left(self._gvas, window.start), bisect_left(self._gvas, window.stop)
        return [self.regions[gva] for gva in self._gvas[first:last]]

    def regions_of(self, pdid: int) -> list[RegionRow]:
        """The regions that domain `pdid` owns."""
        return [self.regions[gva] for gva in self._regions_by_pdid.get(pdid, ())]

    def grants_on(self, gva: int) -> list[GrantRow]:
        """The grants on one region."""
        return [self.grants[gva, pdid] for pdid in self._grants_by_gva.get(gva, ())]

    def grants_to(self, pdid: int) -> list[GrantRow]:
        """The grants that domain `pdid` has."""
        return [self.grants[gva, pdid] for gva in self._grants_by_pdid.get(pdid, ())]

    def sessions_of(self, pdid: int) -> list[SessionRow]:
        """The sessions in domain `pdid`."""
        return [self.sessions[key] for key in self._sessions_by_pdid.get(pdid, ())]

    def sessions_at(self, home: str) -> int:
        """How many sessions have their home on a node."""
        return len(self._sessions_by_home.get(home, ()))

    def presences_of(self, pdid: int) -> list[PresenceRow]:
        """Where domain `pdid` and its sessions are open, or may be."""
        return [self.presences[key] for key in self._presences_by_pdid.get(pdid, ())]

    # -- changing

    @contextmanager
    def change(self) -> Iterator[None]:
        """One transaction; raises what the store raises, with nothing changed."""
        assert self._changed is None, "a change within a change"
        self._changed = {}
        try:
            yield
            changed = {ref: pair for ref, pair in self._changed.items() if pair[0] != pair[1]}
            if changed:
                self._store.commit(
                    put=[now for _, now in changed.values() if now is not None],
                    delete=[old for old, now in changed.values() if now is None and old is not None],
                )
        except BaseException:
            for old, now in reversed(self._changed.values()):
                if now is not None:
                    self._remove(now)
                if old is not None:
                    self._insert(old)
            raise
        finally:
            self._changed = None

    def put(self, row: Row) -> None:
        """Insert or replace a row, within a change."""
        self._replace((row.TABLE, row.key), row)

    def delete(self, row: Row) -> None:
        """Remove a row, within a change."""
        self._replace((row.TABLE, row.key), None)

    def set_counter(self, name: str, value: int) -> None:
        """Set a counter, within a change."""
        self.put(CounterRow(name, value))

    def count(self, name: str) -> None:
        """Add one to a counter, within a change."""
        self.set_counter(name, self.counters.get(name, 0) + 1)

    def get(self, ref: Ref) -> Row | None:
        """The row that `ref` names, if it is there."""
        return self._rows.get(ref)

    def _replace(self, ref: Ref, row: Row | None) -> None:
        assert self._changed is not None, "rows change within `change()` only"
        old = self._rows.get(ref)
        first = self._changed[ref][0] if ref in self._changed else old
        self._changed[ref] = (first, row)
        if old is not None:
            self._remove(old)
        if row is not None:
            self._insert(row)

    def _insert(self, row: Row) -> None:
        ref = (row.TABLE, row.key)
        self._rows[ref] = row
        match row:
            case CounterRow():
                self.counters[row.name] = row.value
            case NodeRow():
                self.nodes[row.name] = row
            case DomainRow():
                self.domains[row.pdid] = row
                if row.name and not row.closing:
                    self._domain_by_name[row.name] = row.pdid
            case SessionRow():
                self.sessions[row.session_id] = row
                self._sessions_by_pdid[row.pdid][row.session_id] = None
                self._sessions_by_home[row.home][row.session_id] = None
            case RegionRow():
                self.regions[row.gva] = row
                insort(self._gvas, row.gva)
                self._regions_by_pdid[row.pdid][row.gva] = None
                if row.name and row.phase is not RegionPhase.FREEING:
                    self._region_by_name[row.pdid, row.name] = row.gva
            case GrantRow():
                self.grants[row.gva, row.pdid] = row
                self._grants_by_gva[row.gva][row.pdid] = None
                self._grants_by_pdid[row.pdid][row.gva] = None
            case PresenceRow():
                key = (row.node, row.pdid, row.token)
                self.presences[key] = row
                self._presences_by_pdid[row.pdid][key] = None
        if isinstance(row, RegionRow | GrantRow | PresenceRow) and not row.settled:
            self.unsettled[row.node][ref] = None

    def _remove(self, row: Row) -> None:
        ref = (row.TABLE, row.key)
        del self._rows[ref]
        match row:
            case CounterRow():
                del self.counters[row.name]
            case NodeRow():
                del self.nodes[row.name]
            case DomainRow():
                del self.domains[row.pdid]
                if self._domain_by_name.get(row.name) == row.pdid:
                    del self._domain_by_name[row.name]
            case SessionRow():
                del self.sessions[row.session_id]
                _drop(self._sessions_by_pdid, row.pdid, row.session_id)
                _drop(self._sessions_by_home, row.home, row.session_id)
            case RegionRow():
                del self.regions[row.gva]
                del self._gvas[bisect_left(self._gvas, row.gva)]
                _drop(self._regions_by_pdid, row.pdid, row.gva)
                if self._region_by_name.get((row.pdid, row.name)) == row.gva:
                    del self._region_by_name[row.pdid, row.name]
            case GrantRow():
                del self.grants[row.gva, row.pdid]
                _drop(self._grants_by_gva, row.gva, row.pdid)
                _drop(self._grants_by_pdid, row.pdid, row.gva)
            case PresenceRow():
                key = (row.node, row.pdid, row.token)
                del self.presences[key]
                _drop(self._presences_by_pdid, row.pdid, key)
        if isinstance(row, RegionRow | GrantRow | PresenceRow) and not row.settled:
            _drop(self.unsettled, row.node, ref)


def _drop(index: dict[K, dict[V, None]], key: K, value: V) -> None:
    """Take `value` from under `key`; an empty entry goes too, so that what is gone costs nothing."""
    values = index[key]
    del values[value]
    if not values:
        del index[key]
