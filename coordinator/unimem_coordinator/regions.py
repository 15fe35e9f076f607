"""Regions and rights on them: allocate, free, share, and what lies where.

Each change is two steps around a call to the node. Allocate: PENDING, map, ACTIVE. Free: FREEING, unmap,
gone. Share: the rights wanted, map or unmap, the rights. The caller hears of success after the second step.
When the node does not answer, an allocation is taken back, while a free or a share stays on record and is
finished as soon as the node answers (`Coordinator.repair`); either way the caller is told that it did not.
"""

from __future__ import annotations

from collections.abc import Generator
from contextlib import suppress
from dataclasses import replace

from unimem.addresses import fmt, window_of
from unimem_coordinator import limits
from unimem_coordinator.errors import CoordinatorError, FailureKind, NodeFailure, Reason
from unimem_coordinator.members import Members
from unimem_coordinator.processes import Processes
from unimem_coordinator.rows import DomainRow, GrantRow, NodeState, RegionPhase, RegionRow, SessionRow
from unimem_coordinator.tables import Tables
from unimem_coordinator.turns import Turns
from unimem_coordinator.values import (
    Change,
    GrantInfo,
    MapRegion,
    Need,
    NodeInfo,
    RegionInfo,
    Resolution,
    Turn,
    UnmapRegion,
)
from unimem_coordinator.window import end_of, mapped_bytes, place


class Regions:
    """The global address space. Changes make their own transactions."""

    def __init__(self, tables: Tables, members: Members, processes: Processes, turns: Turns) -> None:
        self._tables = tables
        self._members = members
        self._processes = processes
        self._turns = turns

    # -- asking

    def info(self, row: RegionRow) -> RegionInfo:
        """What may be told of a region. While its node is not UP it counts as lost."""
        up = self._tables.nodes[row.node].state is NodeState.UP
        grants = tuple(
            GrantInfo(grant.pdid, grant.rights, self._tables.domains[grant.pdid].name)
            for grant in sorted(self._tables.grants_on(row.gva), key=lambda grant: grant.pdid)
            if grant.rights and not self._tables.domains[grant.pdid].closing
        )
        lost = row.phase is RegionPhase.LOST or not up
        return RegionInfo(row.gva, row.length, row.node, row.pdid, row.name, lost, grants)

    def select(self, node: str, domain: str) -> tuple[RegionInfo, ...]:
        """The regions on one node (empty: all), of one named domain (empty: all), by address."""
        if node:
            self._members.known(node)
        owner = self._tables.domain_named(domain) if domain else None
        if domain and owner is None:
            return ()
        rows = self._tables.regions_of(owner.pdid) if owner else list(self._tables.regions.values())
        found = [row for row in rows if row.visible and node in ("", row.node)]
        return tuple(self.info(row) for row in sorted(found, key=lambda row: row.gva))

    def resolve(self, address: int) -> Resolution:
        """What lies at an address; it need not be a region's first."""
        limits.global_address(address)
        row = self._containing(address)
        if row is None or not row.visible:
            raise self._unknown(address)
        return Resolution(self.info(row), NodeInfo.of(self._tables.nodes[row.node]), address)

    # -- allocate

    def allocate(self, session_id: str, token: str, node: str, length: int, name: str) -> Change[RegionInfo]:
        """`length` bytes on `node` (empty: the session's home) that the domain can read and write."""
        limits.region_length(length)
        limits.label(name, "region")
        node = node or self._processes.authenticate(session_id, token).home
        self._members.up(node)
        yield Turn(node)
        with self._turns.working(node):
            session = self._processes.authenticate(session_id, token)
            row = self._reserve(session, node, length, name)
            try:
                yield from self._processes.open_wanted(node, row.pdid)
                yield from self._processes.ask(
                    MapRegion(
                        node, row.gva, mapped_bytes(length), row.pdid, limits.RIGHTS_READ_WRITE, owner=True
                    )
                )
            except NodeFailure as failure:
                yield from self._take_back(row.gva, failure)
                raise refusal(failure, node) from failure
            if self._tables.regions[row.gva].phase is not RegionPhase.PENDING:
                with suppress(NodeFailure):
                    yield from self.unmap(row.gva)
                raise CoordinatorError(
                    Reason.SESSION_EXPIRED, "the session ended while the region was mapped"
                )
            with self._tables.change():
                self._tables.put(replace(row, phase=RegionPhase.ACTIVE))
            return self.info(self._tables.regions[row.gva])

    def _reserve(self, session: SessionRow, node: str, length: int, name: str) -> RegionRow:
        owner = self._members.up(node)
        taken = self._tables.region_named(session.pdid, name) if name else None
        if taken is not None:
            lost = " (lost: its node restarted)" if taken.phase is RegionPhase.LOST else ""
            raise CoordinatorError(
                Reason.NAME_TAKEN,
                f"the domain has a region {name!r} at {fmt(taken.gva)} on {taken.node}{lost}",
                node=taken.node,
                gva=fmt(taken.gva),
                hint="free it, or choose another name",
            )
        window = window_of(owner.index)
        gva = None
        if not owner.memory_bytes or length <= owner.memory_bytes:
            gva = place(window, owner.high_water, self._tables.regions_in(window), length)
        if gva is None:
            memory = f"{owner.memory_bytes} bytes of memory and " if owner.memory_bytes else ""
            raise CoordinatorError(
                Reason.NO_SPACE,
                f"no room for {length} bytes on {node}: it has {memory}a window of {len(window)}",
                node=node,
                hint="free regions, or allocate on another node",
            )
        row = RegionRow(gva, length, node, session.pdid, name, RegionPhase.PENDING)
        with self._tables.change():
            self._tables.put(row)
            self._tables.put(replace(owner, high_water=max(owner.high_water, end_of(row))))
            self._processes.ensure_present(node, session.pdid)
        return row

    def _take_back(self, gva: int, failure: NodeFailure) -> Generator[Need, None, None]:
        row = self._tables.regions.get(gva)
        if row is None:
            return  # the node restarted meanwhile: nothing is left to undo
        with self._tables.change():
            self._tables.put(replace(row, phase=RegionPhase.FREEING))
        if failure.kind is not FailureKind.UNREACHABLE:  # else it would only wait for no answer once more
            with suppress(NodeFailure):
                yield from self.unmap(gva)

    # -- free

    def free(self, session_id: str, token: str, gva: int) -> Change[None]:
        """Give back the region at `gva`. Asked again before the node has answered, it is tried again."""
        row = self._owned(session_id, token, gva, also_freeing=True)
        yield Turn(row.node)
        with self._turns.working(row.node):
            row = self._owned(session_id, token, gva, also_freeing=True)
            with self._tables.change():
                if row.phase is RegionPhase.LOST:
                    self._processes.drop_region(gva)
                else:
                    self._tables.put(replace(row, phase=RegionPhase.FREEING))
            if row.phase is RegionPhase.LOST or self._tables.nodes[row.node].state is not NodeState.UP:
                return  # nobody can reach it; should its node come back, that is told before anything else
            try:
                yield from self.unmap(gva)
            except NodeFailure as failure:
                if gva in self._tables.regions:
                    raise refusal(failure, row.node, "the region is freed as soon as it does") from failure

    def unmap(self, gva: int) -> Generator[Need, None, None]:
        """Take a FREEING region off its node, and forget it."""
        yield from self._processes.ask(UnmapRegion(self._tables.regions[gva].node, gva, 0))
        with self._tables.change():
            self._processes.drop_region(gva)

    # -- share

    def share(
        self, session_id: str, token: str, gva: int, *, domain: str, pdid: int, rights: int
    ) -> Change[RegionInfo]:
        """Give a domain (by name, made if need be, or by number) rights on a region; 0: take them."""
        limits.rights(rights)
        limits.label(domain, "domain")
        if bool(domain) == bool(pdid):
            raise CoordinatorError(Reason.BAD_ARGUMENT, "either the name or the number of a domain is needed")
        node = self._owned(session_id, token, gva).node
        yield Turn(node)
        with self._turns.working(node):
            row = self._owned(session_id, token, gva)
            if row.phase is RegionPhase.LOST:
                raise CoordinatorError(
                    Reason.REGION_LOST,
                    f"the region at {fmt(gva)} is lost: {node} restarted",
                    node=node,
                    gva=fmt(gva),
                    hint="free it and allocate it again",
                )
            self._members.up(node)
            target = self._intend(row, domain, pdid, rights)
            if target is None:
                return self.info(row)  # nobody of that name: nothing to take away
            yield from self._carry_out(row, target)
            if gva not in self._tables.regions:
                raise self._unknown(gva)
            return self.info(self._tables.regions[gva])

    def _intend(self, row: RegionRow, name: str, pdid: int, rights: int) -> int | None:
        """Put the rights wanted on record; returns whose they are, None for a name that nobody has."""
        with self._tables.change():
            target = self._domain(name, pdid, make=bool(rights))
            if target is None:
                return None
            if target.pdid == row.pdid:
                raise CoordinatorError(
                    Reason.BAD_ARGUMENT, f"domain {target.pdid} owns the region at {fmt(row.gva)}"
                )
            old = self._tables.grants.get((row.gva, target.pdid))
            if old is not None:
                self._tables.put(replace(old, wanted=rights))
            elif rights:
                self._tables.put(GrantRow(row.gva, target.pdid, row.node, rights=0, wanted=rights))
            if rights:
                self._processes.ensure_present(row.node, target.pdid)
            return target.pdid

    def _carry_out(self, row: RegionRow, pdid: int) -> Generator[Need, None, None]:
        try:
            yield from self.settle_grant(row.gva, pdid)
        except NodeFailure as failure:
            grant = self._tables.grants.get((row.gva, pdid))
            if grant is None:
                raise refusal(failure, row.node) from failure
            if failure.kind is FailureKind.UNREACHABLE or not grant.wanted:
                raise refusal(failure, row.node, "the rights change as soon as it does") from failure
            with self._tables.change():
                self._tables.put(replace(grant, wanted=grant.rights))
                if not grant.rights:
                    self._tables.delete(grant)
                    self._processes.tidy(pdid)
            raise refusal(failure, row.node) from failure

    def settle_grant(self, gva: int, pdid: int) -> Generator[Need, None, None]:
        """Tell the node what rights are wanted, and keep that."""
        grant = self._tables.grants.get((gva, pdid))
        if grant is None or grant.settled:
            return
        if grant.wanted:
            yield from self._processes.open_wanted(grant.node, pdid)
            length = mapped_bytes(self._tables.regions[gva].length)
            yield from self._processes.ask(
                MapRegion(grant.node, gva, length, pdid, grant.wanted, owner=False)
            )
        else:
            yield from self._processes.ask(UnmapRegion(grant.node, gva, pdid))
        current = self._tables.grants.get((gva, pdid))
        if current is None or current.wanted != grant.wanted:
            return  # the domain is closing: what it wants now is on record
        with self._tables.change():
            if grant.wanted:
                self._tables.put(replace(current, rights=grant.wanted))
            else:
                self._tables.delete(current)
                self._processes.tidy(pdid)

    # -- a node's restart

    def forget_node(self, node: str) -> None:
        """The node restarted (within a change): what it held is lost, what was under way there is over."""
        for gva in [row.gva for row in self._tables.regions.values() if row.node == node]:
            row = self._tables.regions.get(gva)
            if row is None:
                continue  # went with its domain, which went with another region
            if not row.visible:
                self._processes.drop_region(row.gva)
                continue
            self._tables.put(replace(row, phase=RegionPhase.LOST))
            for grant in self._tables.grants_on(row.gva):
                if grant.rights and grant.wanted:
                    self._tables.put(replace(grant, wanted=grant.rights))
                else:
                    self._tables.delete(grant)
                    self._processes.tidy(grant.pdid)

    # -- finding

    def _containing(self, address: int) -> RegionRow | None:
        row = self._tables.region_at(address)
        return row if row is not None and address < row.gva + row.length else None

    def _owned(self, session_id: str, token: str, gva: int, *, also_freeing: bool = False) -> RegionRow:
        session = self._processes.authenticate(session_id, token)
        limits.global_address(gva)
        row = self._containing(gva)
        freeing = row is not None and row.phase is RegionPhase.FREEING and row.pdid == session.pdid
        if row is None or not (row.visible or (also_freeing and freeing and row.gva == gva)):
            raise self._unknown(gva)
        if row.pdid != session.pdid:
            raise CoordinatorError(
                Reason.ACCESS_DENIED,
                f"{fmt(gva)} belongs to protection domain {row.pdid}, yours is {session.pdid}",
                node=row.node,
                gva=fmt(gva),
            )
        if row.gva != gva:
            raise CoordinatorError(
                Reason.NOT_REGION_BASE,
                f"{fmt(gva)} lies {gva - row.gva} bytes into the region at {fmt(row.gva)}",
                node=row.node,
                gva=fmt(gva),
                base=fmt(row.gva),
                hint=f"give the region's first address, {fmt(row.gva)}",
            )
        return row

    def _domain(self, name: str, pdid: int, *, make: bool) -> DomainRow | None:
        if name:
            return self._processes.named(name) if make else self._tables.domain_named(name)
        found = self._tables.domains.get(limits.domain_number(pdid))
        if found is None or found.closing:
            raise CoordinatorError(Reason.UNKNOWN_DOMAIN, f"no protection domain has number {pdid}")
        return found

    def _unknown(self, address: int) -> CoordinatorError:
        owner = self._members.owner_of(address)
        if owner is None:
            why = f"{fmt(address)} lies in the window of no node"
        elif address >= owner.high_water:
            why = f"nothing was ever allocated at {fmt(address)} on {owner.name}"
        else:
            why = f"no region is at {fmt(address)} on {owner.name}: freed, or between two regions"
        known = {"node": owner.name} if owner else {}
        return CoordinatorError(Reason.UNKNOWN_REGION, why, gva=fmt(address), **known)


def refusal(failure: NodeFailure, node: str, promise: str = "") -> CoordinatorError:
    """What to answer a caller when a node failed; `promise`: what happens all the same."""
    if failure.kind is FailureKind.NO_MEMORY:
        return CoordinatorError(
            Reason.NO_SPACE, failure.message, node=node, hint="free regions, or allocate on another node"
        )
    if failure.kind is FailureKind.REFUSED:
        return CoordinatorError(Reason.NODE_REFUSED, f"node {node} refused: {failure.message}", node=node)
    hint = promise or "try again, or use another node"
    return CoordinatorError(
        Reason.NODE_UNREACHABLE, f"node {node} did not answer: {failure.message}", node=node, hint=hint
    )
