"""Protection domains and sessions, and on which nodes they are open.

A session is a client; a domain is a process on each node it touches. A session's token is known on its home,
and where its domain owns a region or has rights on one, so that the client may post copies there.
A private domain ends with its session; a named one when nothing refers to it any more.
"""

from __future__ import annotations

import hmac
from collections.abc import Callable, Generator
from dataclasses import replace

from unimem_coordinator import limits
from unimem_coordinator.errors import CoordinatorError, FailureKind, NodeFailure, Reason
from unimem_coordinator.rows import (
    DomainRow,
    GrantRow,
    NodeState,
    PresencePhase,
    PresenceRow,
    RegionPhase,
    RegionRow,
    SessionRow,
)
from unimem_coordinator.tables import Tables
from unimem_coordinator.values import CloseDomain, Need, NodeAction, OpenDomain

_PDID = "pdid"


class Processes:
    """Domains and sessions. What changes rows is called within `Tables.change`, unless it says otherwise."""

    def __init__(self, tables: Tables, new_token: Callable[[], str], ttl_ns: int, now_ns: int) -> None:
        self._tables = tables
        self._new_token = new_token
        self.ttl_ns = ttl_ns
        self._deadlines: dict[str, int] = {}
        self.grace(now_ns)

    # -- sessions

    def authenticate(self, session_id: str, token: str) -> SessionRow:
        """The session that these belong to."""
        row = self._tables.sessions.get(session_id)
        if row is None or not row.acknowledged:
            raise CoordinatorError(
                Reason.SESSION_EXPIRED, "no such session: it was closed or not renewed in time"
            )
        if not hmac.compare_digest(row.token.encode(), token.encode()):
            raise CoordinatorError(Reason.ACCESS_DENIED, "the token is not that of the session")
        return row

    def renew(self, session_id: str, token: str, now_ns: int) -> None:
        """Extend a session (no change of rows)."""
        self.start_lease(self.authenticate(session_id, token).session_id, now_ns)

    def start_lease(self, session_id: str, now_ns: int) -> None:
        """Run a session's time from now (no change of rows)."""
        self._deadlines[session_id] = now_ns + self.ttl_ns

    def begin(self, home: str, domain: str) -> SessionRow:
        """A session, not acknowledged yet, and whatever must be opened for it on nodes."""
        pdid = (self.named(domain) if domain else self._create("")).pdid
        session = SessionRow(self._new_token(), self._new_token(), pdid, home)
        self._tables.put(session)
        nodes = {home: None}
        nodes |= {row.node: None for row in self._tables.regions_of(pdid) if row.phase is RegionPhase.ACTIVE}
        nodes |= {row.node: None for row in self._tables.grants_to(pdid) if row.wanted}
        for node in nodes:
            self.ensure_present(node, pdid)
        return session

    def end(self, session: SessionRow) -> None:
        """Take a session away, and its domain when that was private or is not used any more."""
        self._tables.delete(session)
        for row in self._tables.presences_of(session.pdid):
            if row.token == session.token:
                self._tables.put(replace(row, phase=PresencePhase.CLOSING))
        self.tidy(session.pdid)

    def expired(self, now_ns: int) -> list[SessionRow]:
        """The sessions that nobody renewed."""
        over = [key for key, deadline in self._deadlines.items() if deadline <= now_ns]
        return [self._tables.sessions[key] for key in over]

    def forget_deadline(self, session_id: str) -> None:
        """The session has ended (after that was committed)."""
        self._deadlines.pop(session_id, None)

    def grace(self, now_ns: int) -> None:
        """Let every session run a whole period from now: nobody could renew while we were away."""
        for row in self._tables.sessions.values():
            if row.acknowledged:
                self.start_lease(row.session_id, now_ns)

    @property
    def next_deadline_ns(self) -> int | None:
        """When the first session runs out."""
        return min(self._deadlines.values(), default=None)

    # -- domains

    def named(self, name: str) -> DomainRow:
        """The domain called `name`, made if there is none."""
        return self._tables.domain_named(name) or self._create(name)

    def tidy(self, pdid: int) -> None:
        """Begin to close a domain that nothing needs, finish one that no node knows any more."""
        domain = self._tables.domains.get(pdid)
        if domain is None:
            return
        if not domain.closing:
            used = self._tables.regions_of(pdid) or self._tables.grants_to(pdid)
            if self._tables.sessions_of(pdid) or (domain.name and used):
                return
            domain = replace(domain, closing=True)
            self._tables.put(domain)
            self._close_everything_of(pdid)
        tables = self._tables
        if not (tables.regions_of(pdid) or tables.grants_to(pdid) or tables.presences_of(pdid)):
            tables.delete(domain)

    def drop_region(self, gva: int) -> None:
        """Forget a region and the rights on it: no node has it mapped."""
        region = self._tables.regions[gva]
        grants = self._tables.grants_on(gva)
        self._tables.delete(region)
        for grant in grants:
            self._tables.delete(grant)
        for pdid in (region.pdid, *(grant.pdid for grant in grants)):
            self.tidy(pdid)

    def _create(self, name: str) -> DomainRow:
        numbers = limits.DOMAIN_NUMBERS
        last = self._tables.counters.get(_PDID, 0)
        # The number after the one given last: numbers come round as late as they can.
        for step in range(len(numbers)):
            pdid = numbers[(last + step) % len(numbers)]
            if pdid not in self._tables.domains:
                self._tables.set_counter(_PDID, pdid)
                row = DomainRow(pdid, name)
                self._tables.put(row)
                return row
        raise CoordinatorError(
            Reason.NO_DOMAIN, f"all {len(numbers)} protection domains are in use", hint="close clients"
        )

    def _close_everything_of(self, pdid: int) -> None:
        for region in self._tables.regions_of(pdid):
            if region.phase is RegionPhase.LOST:
                self.drop_region(region.gva)
            else:
                self._tables.put(replace(region, phase=RegionPhase.FREEING))
        for grant in self._tables.grants_to(pdid):
            # Rights never acknowledged may be in the node's page tables all the same: `rights` says they are.
            self._tables.put(replace(grant, rights=grant.rights or grant.wanted, wanted=0))
        for presence in self._tables.presences_of(pdid):
            self._tables.put(replace(presence, phase=PresencePhase.CLOSING))

    # -- presence on nodes

    def ensure_present(self, node: str, pdid: int) -> None:
        """Have the domain, and the sessions in it, opened on `node`."""
        for token in ("", *(session.token for session in self._tables.sessions_of(pdid))):
            if (node, pdid, token) not in self._tables.presences:
                self._tables.put(PresenceRow(node, pdid, token))

    def ask(self, action: NodeAction) -> Generator[Need, None, None]:
        """Have a node do something; an answer from before its restart is none (no change of rows)."""
        before = self._tables.nodes[action.node].incarnation
        yield action
        if self._tables.nodes[action.node].incarnation != before:
            raise NodeFailure(FailureKind.UNREACHABLE, f"node {action.node} restarted")

    def open_wanted(self, node: str, pdid: int) -> Generator[Need, None, None]:
        """Open on `node` what is wanted there of one domain. Makes its own change."""
        wanted = [
            row
            for row in self._tables.presences_of(pdid)
            if row.node == node and row.phase is PresencePhase.WANTED
        ]
        # Opening a session opens its domain.
        for row in [row for row in wanted if row.token] or wanted:
            yield from self.ask(OpenDomain(node, pdid, row.token))
        with self._tables.change():
            for row in wanted:
                if self._tables.get((row.TABLE, row.key)) == row:
                    self._tables.put(replace(row, phase=PresencePhase.OPEN))

    def close_presence(self, row: PresenceRow) -> Generator[Need, None, None]:
        """Close what is CLOSING on a node. Makes its own change."""
        anchor = self._tables.presences.get((row.node, row.pdid, ""))
        whole = anchor is not None and anchor.phase is PresencePhase.CLOSING
        yield from self.ask(CloseDomain(row.node, row.pdid, "" if whole else row.token))
        with self._tables.change():
            for other in self._tables.presences_of(row.pdid):
                if other.node == row.node and (whole or other.token == row.token):
                    self._tables.delete(other)
            self.tidy(row.pdid)

    def forget_node(self, node: str) -> None:
        """The node restarted: nothing is open there, and only the sessions at home there are wanted again."""
        rows = [row for row in self._tables.presences.values() if row.node == node]
        at_home = {session.pdid: None for session in self._tables.sessions.values() if session.home == node}
        tokens = {session.token for session in self._tables.sessions.values() if session.home == node}
        for row in rows:
            keep = row.token in tokens if row.token else row.pdid in at_home
            if row.phase is not PresencePhase.CLOSING and keep:
                self._tables.put(replace(row, phase=PresencePhase.WANTED))
            else:
                self._tables.delete(row)
        for row in rows:
            self.tidy(row.pdid)

    def unsettled_nodes(self, pdid: int) -> tuple[str, ...]:
        """The UP nodes that have still to be told something about a domain."""
        tables = self._tables
        rows: list[RegionRow | GrantRow | PresenceRow]
        rows = [*tables.regions_of(pdid), *tables.grants_to(pdid), *tables.presences_of(pdid)]
        nodes = {row.node: None for row in rows if not row.settled}
        return tuple(node for node in nodes if tables.nodes[node].state is NodeState.UP)
