"""The coordinator: the authority over the global address space, as a state machine.

It does no I/O of its own: the store, the time (`now_ns`, any monotonic clock) and the source of tokens are
given to it, and what nodes have to do is handed out to whoever drives it. Two shells do: `shell` (asyncio)
and `direct` (one thread, calls; for simulations).

Two kinds of methods:

* plain ones answer at once; what they change is committed when they return;
* *changes* (`open_session`, `close_session`, `allocate`, `free`, `share`, `repair`) are generators, see
  `values`: they do nothing until they are driven.

What holds in spite of crashes, of ours and of nodes: what was acknowledged is there; what was not is either
invisible or, where it takes something away, finished later; no two regions overlap; a domain's number and a
region's address are given again only when no node has them in its tables. `repair(node)` brings a node in
line: it is due whenever `unfinished()` names the node.
"""

from __future__ import annotations

from collections.abc import Callable, Generator
from dataclasses import replace
from typing import Final

from unimem_coordinator import limits
from unimem_coordinator.errors import CoordinatorError, FailureKind, NodeFailure, Reason
from unimem_coordinator.members import Members
from unimem_coordinator.processes import Processes
from unimem_coordinator.regions import Regions, refusal
from unimem_coordinator.rows import GrantRow, NodeState, PresencePhase, PresenceRow, RegionPhase, RegionRow
from unimem_coordinator.store import Store
from unimem_coordinator.tables import Ref, Tables
from unimem_coordinator.turns import Turns
from unimem_coordinator.values import (
    Change,
    Expired,
    Lease,
    Need,
    NodeInfo,
    Perform,
    RegionInfo,
    Registration,
    Repairs,
    Resolution,
    RouteTable,
    SessionInfo,
    T,
    Turn,
)

#: How long a node's membership lasts without renewal; nodes renew three times as often.
NODE_TTL_NS: Final = 5_000_000_000

#: How long a session lasts without renewal.
SESSION_TTL_NS: Final = 30_000_000_000


class Coordinator:
    """The state machine. Not for concurrent use: one call, or one step of a change, at a time.

    `new_token` returns an unguessable string at each call (in a simulation: any that does not repeat).
    Raises `StoreError` when the store cannot be read.
    """

    def __init__(
        self,
        store: Store,
        *,
        new_token: Callable[[], str],
        now_ns: int = 0,
        node_ttl_ns: int = NODE_TTL_NS,
        session_ttl_ns: int = SESSION_TTL_NS,
    ) -> None:
        self._tables = Tables(store)
        self._turns = Turns()
        self._members = Members(self._tables, new_token, node_ttl_ns, now_ns)
        self._processes = Processes(self._tables, new_token, session_ttl_ns, now_ns)
        self._regions = Regions(self._tables, self._members, self._processes, self._turns)
        self._take_back_unacknowledged()

    # -- nodes

    def register_node(
        self, name: str, *, address: str, platform: str, memory_bytes: int, boot_id: int, now_ns: int
    ) -> Registration:
        """A node joins, or comes back; `name` empty: it gets one. Afterwards `repair` may be due."""
        if name:
            limits.node_name(name)
        limits.host_port(address)
        limits.label(platform, "platform")
        limits.memory_bytes(memory_bytes)
        boot = limits.boot_id(boot_id)
        with self._tables.change():
            row, restarted = self._members.register(name, address, platform, memory_bytes, boot)
            if restarted:
                self._regions.forget_node(row.name)
                self._processes.forget_node(row.name)
        self._members.start_lease(row.name, now_ns)
        return Registration(NodeInfo.of(row), row.lease_token, self._members.ttl_ns, self._members.epoch)

    def renew(self, name: str, lease_token: str, now_ns: int) -> Lease:
        """A node is still there."""
        self._members.renew(name, lease_token, now_ns)
        return Lease(self._members.ttl_ns, self._members.epoch)

    def deregister(self, name: str, lease_token: str) -> None:
        """A node leaves of its own will. Idempotent."""
        with self._tables.change():
            self._members.deregister(name, lease_token)

    @property
    def epoch(self) -> int:
        """Of the route table: grows with every change of it."""
        return self._members.epoch

    def routes(self) -> RouteTable:
        """Every node that ever joined, by index."""
        return self._members.routes()

    def nodes(self) -> tuple[NodeInfo, ...]:
        """As `routes`."""
        return self.routes().nodes

    # -- time

    def expire(self, now_ns: int) -> Expired:
        """End what was not renewed. Afterwards `repair` may be due."""
        with self._tables.change():
            nodes = self._members.expire(now_ns)
            sessions = tuple(row.session_id for row in self._processes.expired(now_ns))
            for session_id in sessions:
                self._processes.end(self._tables.sessions[session_id])
        self._members.forget_deadlines(nodes)
        for session_id in sessions:
            self._processes.forget_deadline(session_id)
        return Expired(nodes, sessions)

    @property
    def next_deadline_ns(self) -> int | None:
        """When `expire` will next have something to do, if nobody renews."""
        found = (self._members.next_deadline_ns, self._processes.next_deadline_ns)
        return min((at for at in found if at is not None), default=None)

    def grace(self, now_ns: int) -> None:
        """Start all leases and sessions anew: for a shell that finds it was asleep itself."""
        self._members.grace(now_ns)
        self._processes.grace(now_ns)

    # -- sessions

    def open_session(self, home: str, domain: str, now_ns: int) -> Change[SessionInfo]:
        """A client becomes a process on `home` (empty: we choose) in `domain` (empty: one of its own)."""
        limits.label(domain, "domain")
        silent: list[str] = []
        while True:
            chosen = home or self._members.choose_home(exclude=silent)
            if chosen is None:
                more = f" that answers ({', '.join(silent)} did not)" if silent else ""
                raise CoordinatorError(
                    Reason.NO_NODES, f"no node is UP{more}", hint="start one with `unimem node`"
                )
            try:
                session = yield from self._open_at(chosen, domain, now_ns)
                break
            except CoordinatorError as error:
                if home or error.reason not in (Reason.NODE_UNREACHABLE, Reason.NODE_LOST):
                    raise
                silent.append(chosen)
        yield from self._repair_for(session.pdid)
        return session

    def renew_session(self, session_id: str, token: str, now_ns: int) -> int:
        """A client is still there; returns for how long (ns)."""
        self._processes.renew(session_id, token, now_ns)
        return self._processes.ttl_ns

    def close_session(self, session_id: str, token: str) -> Change[None]:
        """A client ends, and with it its private domain and the regions in it. Idempotent."""
        if session_id not in self._tables.sessions:
            return
        session = self._processes.authenticate(session_id, token)
        with self._tables.change():
            self._processes.end(session)
        self._processes.forget_deadline(session_id)
        yield from self._repair_for(session.pdid)

    # -- regions

    def allocate(
        self, session_id: str, token: str, node: str, length: int, name: str = ""
    ) -> Change[RegionInfo]:
        """`length` bytes on `node` (empty: the session's home); `name` is unique in the domain."""
        return self._regions.allocate(session_id, token, node, length, name)

    def free(self, session_id: str, token: str, gva: int) -> Change[None]:
        """Give back the region whose first address is `gva`."""
        return self._regions.free(session_id, token, gva)

    def share(
        self, session_id: str, token: str, gva: int, *, domain: str = "", pdid: int = 0, rights: int
    ) -> Change[RegionInfo]:
        """Give a domain rights on the region at `gva` (1 read, 3 read and write), or take them (0)."""
        return self._regions.share(session_id, token, gva, domain=domain, pdid=pdid, rights=rights)

    def resolve(self, gva: int) -> Resolution:
        """What lies at a global virtual address."""
        return self._regions.resolve(gva)

    def regions(self, node: str = "", domain: str = "") -> tuple[RegionInfo, ...]:
        """The regions on one node, of one named domain; empty: all."""
        return self._regions.select(node, domain)

    # -- repairs

    def unfinished(self) -> tuple[str, ...]:
        """The UP nodes that have still to be told something."""
        return tuple(
            name for name in self._tables.unsettled if self._tables.nodes[name].state is NodeState.UP
        )

    def repair(self, node: str) -> Change[bool]:
        """Tell a node what it has still to be told; returns whether that was all.

        A node that refuses or does not answer is no error here: it stays in `unfinished()`.
        """
        yield Turn(node)
        with self._turns.working(node):
            if self._members.known(node).state is not NodeState.UP:
                return False
            for ref in sorted(self._tables.unsettled.get(node, ()), key=self._priority):
                try:
                    yield from self._settle(ref)
                except NodeFailure as failure:
                    if failure.kind is FailureKind.UNREACHABLE:
                        return False
            return node not in self._tables.unsettled

    def _settle(self, ref: Ref) -> Generator[Need, None, None]:
        match self._tables.get(ref):
            case RegionRow(settled=False) as region:
                yield from self._regions.unmap(region.gva)
            case GrantRow(settled=False) as grant:
                yield from self._regions.settle_grant(grant.gva, grant.pdid)
            case PresenceRow(phase=PresencePhase.WANTED) as presence:
                yield from self._processes.open_wanted(presence.node, presence.pdid)
            case PresenceRow(phase=PresencePhase.CLOSING) as presence:
                yield from self._processes.close_presence(presence)

    def _priority(self, ref: Ref) -> int:
        """What takes away goes first; rights are given when their domain is open."""
        match self._tables.get(ref):
            case RegionRow():
                return 0
            case GrantRow(wanted=0):
                return 1
            case PresenceRow(phase=PresencePhase.CLOSING):
                return 2
            case PresenceRow():
                return 3
        return 4

    # -- inside

    def _open_at(self, home: str, domain: str, now_ns: int) -> Change[SessionInfo]:
        self._members.up(home)
        yield Turn(home)
        with self._turns.working(home):
            self._members.up(home)
            with self._tables.change():
                session = self._processes.begin(home, domain)
            try:
                yield from self._processes.open_wanted(home, session.pdid)
            except NodeFailure as failure:
                with self._tables.change():
                    self._processes.end(session)
                raise refusal(failure, home) from failure
            with self._tables.change():
                self._tables.put(replace(session, acknowledged=True))
            self._processes.start_lease(session.session_id, now_ns)
            return SessionInfo(
                session.session_id,
                session.token,
                session.pdid,
                domain,
                NodeInfo.of(self._tables.nodes[home]),
                self._processes.ttl_ns,
            )

    def _repair_for(self, pdid: int) -> Generator[Need, None, None]:
        nodes = self._processes.unsettled_nodes(pdid)
        if nodes:
            yield Repairs(nodes)

    def _take_back_unacknowledged(self) -> None:
        """After a crash: sessions and regions nobody was told of go; their nodes are told by `repair`."""
        with self._tables.change():
            for region in list(self._tables.regions.values()):
                if region.phase is RegionPhase.PENDING:
                    self._tables.put(replace(region, phase=RegionPhase.FREEING))
            for session in list(self._tables.sessions.values()):
                if not session.acknowledged:
                    self._processes.end(session)


def drive(core: Coordinator, change: Change[T], perform: Perform) -> T:
    """Run a change to its end in the caller's thread, with `perform` for what nodes have to do.

    Returns its answer, or raises its `CoordinatorError`.
    """
    failure: NodeFailure | None = None
    while True:
        try:
            need = change.throw(failure) if failure is not None else next(change)
        except StopIteration as stop:
            answer: T = stop.value
            return answer
        failure = None
        match need:
            case Turn():
                pass  # one change at a time is being driven
            case Repairs(nodes):
                for node in nodes:
                    drive(core, core.repair(node), perform)
            case _:
                try:
                    perform(need)
                except NodeFailure as error:
                    failure = error
