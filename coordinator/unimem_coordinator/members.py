"""Nodes: their windows, incarnations and leases, and the versioned route table made of them.

A node is UP while it renews its lease. When the lease runs out it is LOST, but it keeps its window, and it
may come back: with the same boot ID its memory is as it was; with another one it has restarted (incarnation
+ 1). Deadlines are not stored: after a restart of the coordinator every lease runs a whole period again.
"""

from __future__ import annotations

import hmac
from collections.abc import Callable, Collection
from dataclasses import replace

from unimem.addresses import MAX_NODES, index_of, window_of
from unimem_coordinator.errors import CoordinatorError, Reason
from unimem_coordinator.rows import NodeRow, NodeState
from unimem_coordinator.tables import Tables
from unimem_coordinator.values import NodeInfo, RouteTable

_EPOCH = "epoch"


class Members:
    """The membership. What changes rows is called within `Tables.change`, unless it says otherwise."""

    def __init__(self, tables: Tables, new_token: Callable[[], str], ttl_ns: int, now_ns: int) -> None:
        self._tables = tables
        self._new_token = new_token
        self.ttl_ns = ttl_ns
        self._deadlines: dict[str, int] = {}
        self.grace(now_ns)

    # -- asking

    @property
    def epoch(self) -> int:
        """Of the route table."""
        return self._tables.counters.get(_EPOCH, 0)

    def routes(self) -> RouteTable:
        """The table as it is now."""
        rows = sorted(self._tables.nodes.values(), key=lambda row: row.index)
        return RouteTable(self.epoch, tuple(NodeInfo.of(row) for row in rows))

    def known(self, name: str) -> NodeRow:
        """The node of that name, whatever its state."""
        row = self._tables.nodes.get(name)
        if row is None:
            names = ", ".join(node.name for node in self.routes().nodes) or "none has joined yet"
            raise CoordinatorError(
                Reason.UNKNOWN_NODE, f"no node is called {name[:80]!r}", node=name[:80], known=names
            )
        return row

    def up(self, name: str) -> NodeRow:
        """The node of that name, which must be UP."""
        row = self.known(name)
        if row.state is not NodeState.UP:
            why = "its lease ran out" if row.state is NodeState.LOST else "it left"
            raise CoordinatorError(Reason.NODE_LOST, f"node {name} is {row.state.name}: {why}", node=name)
        return row

    def owner_of(self, address: int) -> NodeRow | None:
        """The node whose window holds `address`."""
        index = index_of(address)
        return next((row for row in self._tables.nodes.values() if row.index == index), None)

    def choose_home(self, exclude: Collection[str] = ()) -> str | None:
        """The UP node with the fewest sessions, the lowest index among equals."""
        candidates = [
            (self._tables.sessions_at(row.name), row.index, row.name)
            for row in self._tables.nodes.values()
            if row.state is NodeState.UP and row.name not in exclude
        ]
        return min(candidates)[2] if candidates else None

    # -- joining and leaving

    def register(
        self, name: str, address: str, platform: str, memory_bytes: int, boot_id: str
    ) -> tuple[NodeRow, bool]:
        """Take a node in, or back; returns its row and whether it has restarted (its memory is new)."""
        old = self._find(name, boot_id)
        if old is None:
            row = self._newcomer(name, address, platform, memory_bytes, boot_id)
        elif boot_id == old.replaced_boot_id:
            raise self._replaced(old)
        else:
            row = replace(
                old, address=address, platform=platform, memory_bytes=memory_bytes, state=NodeState.UP
            )
            if boot_id != old.boot_id:
                row = replace(
                    row,
                    boot_id=boot_id,
                    replaced_boot_id=old.boot_id,
                    incarnation=old.incarnation + 1,
                    lease_token=self._new_token(),
                )
        self._tables.put(row)
        if old is None or NodeInfo.of(row) != NodeInfo.of(old):
            self._tables.count(_EPOCH)
        return row, old is not None and row.incarnation != old.incarnation

    def start_lease(self, name: str, now_ns: int) -> None:
        """Run the lease of a node from now (no change of rows)."""
        self._deadlines[name] = now_ns + self.ttl_ns

    def renew(self, name: str, token: str, now_ns: int) -> None:
        """Extend a lease (no change of rows)."""
        row = self._authenticated(name, token)
        if row.state is not NodeState.UP:
            raise CoordinatorError(
                Reason.LEASE_EXPIRED,
                f"node {name} is {row.state.name}",
                node=name,
                hint="register again with the same boot_id: the regions are kept",
            )
        self.start_lease(name, now_ns)

    def deregister(self, name: str, token: str) -> None:
        """The node leaves. Idempotent."""
        row = self._authenticated(name, token)
        self._deadlines.pop(name, None)
        if row.state is not NodeState.LEFT:
            self._tables.put(replace(row, state=NodeState.LEFT))
            self._tables.count(_EPOCH)

    def expire(self, now_ns: int) -> tuple[str, ...]:
        """Turn UP nodes whose lease is over into LOST ones; returns their names."""
        over = tuple(name for name, deadline in self._deadlines.items() if deadline <= now_ns)
        for name in over:
            self._tables.put(replace(self._tables.nodes[name], state=NodeState.LOST))
        if over:
            self._tables.count(_EPOCH)
        return over

    def forget_deadlines(self, names: Collection[str]) -> None:
        """No lease runs for these any more (after `expire` was committed)."""
        for name in names:
            self._deadlines.pop(name, None)

    def grace(self, now_ns: int) -> None:
        """Let every lease run a whole period from now: nobody could renew while we were away."""
        for row in self._tables.nodes.values():
            if row.state is NodeState.UP:
                self.start_lease(row.name, now_ns)

    @property
    def next_deadline_ns(self) -> int | None:
        """When the first lease runs out."""
        return min(self._deadlines.values(), default=None)

    def _find(self, name: str, boot_id: str) -> NodeRow | None:
        if name:
            return self._tables.nodes.get(name)
        for row in self._tables.nodes.values():
            if row.boot_id == boot_id:
                return row  # a retried call of a node that does not know its name yet
        # Names that we gave are given again when their node has left and no region is left behind: otherwise
        # a few thousand restarts of unnamed nodes would use up the windows.
        vacant = [
            row
            for row in self._tables.nodes.values()
            if row.auto_named
            and row.state is NodeState.LEFT
            and not self._tables.regions_in(window_of(row.index))
        ]
        return min(vacant, key=lambda row: row.index, default=None)

    def _newcomer(self, name: str, address: str, platform: str, memory_bytes: int, boot_id: str) -> NodeRow:
        used = {row.index for row in self._tables.nodes.values()}
        index = next((i for i in range(MAX_NODES) if i not in used), None)
        if index is None:
            raise CoordinatorError(
                Reason.NO_WINDOW, f"all {MAX_NODES} windows are taken, also by nodes that left"
            )
        number = index
        while not name or (number != index and name in self._tables.nodes):
            name, number = f"n{number}", number + 1
        return NodeRow(
            name=name,
            index=index,
            address=address,
            state=NodeState.UP,
            incarnation=1,
            platform=platform,
            memory_bytes=memory_bytes,
            boot_id=boot_id,
            replaced_boot_id="",
            lease_token=self._new_token(),
            high_water=window_of(index).start,
            auto_named=number != index,
        )

    def _authenticated(self, name: str, token: str) -> NodeRow:
        row = self.known(name)
        if not hmac.compare_digest(row.lease_token.encode(), token.encode()):
            raise self._replaced(row)
        return row

    @staticmethod
    def _replaced(row: NodeRow) -> CoordinatorError:
        return CoordinatorError(
            Reason.NODE_REPLACED,
            f"another process has joined as node {row.name} (incarnation {row.incarnation}, {row.address})",
            node=row.name,
            hint="stop one of them, or give them different names",
        )
