"""Random histories of a coordinator whose process may die at any point, against a short reference model.

The model knows only what was acknowledged. A change may be cut off after any number of steps (the process was
killed), or run while a node is silent or loses its answers; then the store's file is opened by a new core.
Whatever was acknowledged must be there, whatever was taken away must be gone, and when every node has been
repaired, the nodes' books hold exactly the visible regions and rights, and no domain is left over.
"""

from __future__ import annotations

import itertools
import shutil
import tempfile
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from hypothesis import Phase, settings
from hypothesis import strategies as st
from hypothesis.stateful import (
    RuleBasedStateMachine,
    initialize,
    invariant,
    precondition,
    rule,
)

from support.small_cluster import SmallCluster
from unimem_coordinator import CoordinatorError, FailureKind, NodeFailure, SessionInfo, SqliteStore
from unimem_coordinator.core import NODE_TTL_NS, SESSION_TTL_NS
from unimem_coordinator.rows import NodeState, RegionPhase
from unimem_coordinator.values import Change, Repairs, Turn
from unimem_coordinator.window import mapped_bytes

NODES = ("n0", "n1", "n2")
DOMAINS = ("", "blue", "red")
PICK = st.integers(0, 99)

#: What befalls a change: its process is killed after so many steps, a node restarts after so
#: many calls, or all nodes fail in one way or another.
Trouble = tuple[str, int]
_FAILURES = {"silent": FailureKind.UNREACHABLE, "refusing": FailureKind.REFUSED}
TROUBLE = st.one_of(
    st.just(("none", 0)),
    st.tuples(st.sampled_from(["killed", "node restarts"]), st.integers(0, 6)),
    st.tuples(st.sampled_from(["silent", "refusing", "mute"]), st.just(0)),
)


@dataclass
class Expected:
    """An acknowledged region."""

    node: str
    length: int
    pdid: int
    lost: bool = False


class Killed(Exception):  # noqa: N818 - it is no error
    """The coordinator's process ended within a change."""


class CoordinatorMachine(RuleBasedStateMachine):
    def __init__(self) -> None:
        super().__init__()
        self.folder = Path(tempfile.mkdtemp())
        self.cluster = SmallCluster(SqliteStore(self.folder / "c.sqlite3"), nodes=0)
        self.boots = itertools.count(1)
        self.boot: dict[str, int] = {}
        self.sessions: list[SessionInfo] = []
        self.regions: dict[int, Expected] = {}
        self.asked: dict[tuple[int, str], set[int]] = {}  # what the rights may be now
        self.steps_to_live: int | None = None
        self.calls_to_restart: int | None = None

    def teardown(self) -> None:
        try:
            self.in_the_end_the_books_agree()
        finally:
            self.cluster.store.close()
            shutil.rmtree(self.folder)

    # -- the process under test

    def run(self, change: Change[Any]) -> Any:
        """Drive a change like `drive`, but die when the steps are used up."""
        failure = None
        while True:
            if self.steps_to_live is not None:
                if self.steps_to_live == 0:
                    raise Killed
                self.steps_to_live -= 1
            try:
                need = change.throw(failure) if failure else next(change)
            except StopIteration as stop:
                return stop.value
            failure = None
            if isinstance(need, Repairs):
                for node in need.nodes:
                    self.run(self.cluster.core.repair(node))
            elif not isinstance(need, Turn):
                try:
                    self.cluster.machines.perform(need)
                except NodeFailure as error:
                    failure = error
                if self.calls_to_restart is not None:
                    self.calls_to_restart -= 1
                    if self.calls_to_restart < 0:
                        self.calls_to_restart = None
                        self.restart(need.node)

    def attempt(self, change: Change[Any], trouble: Trouble) -> tuple[str, Any]:
        """("done", answer), ("refused", error) or ("killed", None); after the last a new process runs."""
        kind, number = trouble
        self.steps_to_live = number if kind == "killed" else None
        self.calls_to_restart = number if kind == "node restarts" else None
        for name in NODES if kind in _FAILURES else ():
            self.cluster.machines.failing[name] = _FAILURES[kind]
        if kind == "mute":
            self.cluster.machines.mute.update(NODES)
        try:
            return "done", self.run(change)
        except CoordinatorError as error:
            return "refused", error
        except Killed:
            self.reopen()
            return "killed", None
        finally:
            self.steps_to_live = self.calls_to_restart = None
            self.cluster.machines.failing.clear()
            self.cluster.machines.mute.clear()

    def reopen(self) -> None:
        self.cluster.store.close()
        self.cluster.store = SqliteStore(self.folder / "c.sqlite3")
        self.cluster.restart()

    # -- what happens

    @initialize()
    def begin(self) -> None:
        for name in NODES:
            self.boot_node(name)
        self.sessions = [self.cluster.open(home, domain) for home, domain in zip(NODES, DOMAINS, strict=True)]

    def boot_node(self, name: str) -> None:
        self.boot[name] = next(self.boots)
        self.cluster.machines.start(name)
        self.cluster.join(name, boot_id=self.boot[name])

    @rule(
        name=st.sampled_from(NODES), event=st.sampled_from(["restarts", "is lost", "returns", "coordinator"])
    )
    def somebody_goes_or_comes(self, name: str, event: str) -> None:
        match event:
            case "restarts":
                self.restart(name)
            case "is lost":
                self.lose(name)
            case "returns":
                self.cluster.join(name, boot_id=self.boot[name])
            case "coordinator":
                self.reopen()

    def restart(self, name: str) -> None:
        self.boot_node(name)
        for expected in self.regions.values():
            if expected.node == name:
                expected.lost = True

    def lose(self, name: str) -> None:
        core = self.cluster.core
        self.cluster.now += NODE_TTL_NS
        for other in core.nodes():
            if other.name != name and other.state is NodeState.UP:
                core.renew(other.name, self.cluster.joined[other.name].lease_token, self.cluster.now)
        for session in self.sessions:
            core.renew_session(session.session_id, session.token, self.cluster.now)
        assert set(core.expire(self.cluster.now).nodes) <= {name}

    @rule(trouble=TROUBLE)
    def repair(self, trouble: Trouble) -> None:
        for node in self.cluster.core.unfinished():
            if self.attempt(self.cluster.core.repair(node), trouble)[0] == "killed":
                break

    @rule(home=st.sampled_from(["", *NODES]), domain=st.sampled_from(DOMAINS), trouble=TROUBLE)
    def open_session(self, home: str, domain: str, trouble: Trouble) -> None:
        if len(self.sessions) < 6:
            outcome, session = self.attempt(
                self.cluster.core.open_session(home, domain, self.cluster.now), trouble
            )
            if outcome == "done":
                self.sessions.append(session)

    def session(self, pick: int) -> SessionInfo:
        return self.sessions[pick % len(self.sessions)]

    @property
    def held(self) -> list[tuple[SessionInfo, int]]:
        """Regions and a session in their domain."""
        return [(s, gva) for gva, e in self.regions.items() for s in self.sessions if s.pdid == e.pdid]

    @precondition(lambda self: len(self.sessions) > 2)
    @rule(pick=PICK, trouble=TROUBLE)
    def close_session(self, pick: int, trouble: Trouble) -> None:
        session = self.session(pick)
        outcome, error = self.attempt(
            self.cluster.core.close_session(session.session_id, session.token), trouble
        )
        assert outcome != "refused", error
        if outcome == "killed" and session.session_id in self.cluster.core._tables.sessions:
            return
        self.sessions.remove(session)
        if not session.domain:
            self.regions = {g: e for g, e in self.regions.items() if e.pdid != session.pdid}

    @precondition(lambda self: len(self.regions) < 12)
    @rule(
        pick=PICK,
        trouble=TROUBLE,
        node=st.sampled_from(["", *NODES]),
        length=st.sampled_from([1, 4096, 5000, 1 << 21, 3 << 20, 1 << 32]),
    )
    def allocate(self, pick: int, node: str, length: int, trouble: Trouble) -> None:
        session = self.session(pick)
        outcome, region = self.attempt(
            self.cluster.core.allocate(session.session_id, session.token, node, length), trouble
        )
        if outcome == "done":
            assert region.gva not in self.regions
            self.regions[region.gva] = Expected(region.node, length, session.pdid)

    @precondition(lambda self: self.held)
    @rule(pick=PICK, trouble=TROUBLE)
    def free(self, pick: int, trouble: Trouble) -> None:
        session, gva = self.held[pick % len(self.held)]
        outcome, error = self.attempt(self.cluster.core.free(session.session_id, session.token, gva), trouble)
        visible = gva in {region.gva for region in self.cluster.core.regions()}
        # Once it has begun it is finished some time; before that nothing has happened.
        if outcome == "refused":
            assert not visible, error
        if outcome == "done" or not visible:
            del self.regions[gva]

    @precondition(lambda self: self.held)
    @rule(
        pick=PICK,
        trouble=TROUBLE,
        domain=st.sampled_from(DOMAINS[1:]),
        rights=st.sampled_from([0, 1, 3]),
    )
    def share(self, pick: int, domain: str, rights: int, trouble: Trouble) -> None:
        session, gva = self.held[pick % len(self.held)]
        if session.domain == domain:
            return
        outcome, answer = self.attempt(
            self.cluster.core.share(session.session_id, session.token, gva, domain=domain, rights=rights),
            trouble,
        )
        if outcome == "done":
            found = {grant.domain: grant for grant in answer.grants}
            assert (found[domain].rights if domain in found else 0) == rights
            self.asked[gva, domain] = {rights}
        else:  # it may come to pass at any time
            self.asked.setdefault((gva, domain), {0}).add(rights)

    # -- what must hold

    @invariant()
    def acknowledged_regions_are_there_and_no_others(self) -> None:
        core = self.cluster.core
        up = {node.name for node in core.nodes() if node.state is NodeState.UP}
        found = {
            region.gva: (region.node, region.length, region.pdid, region.lost) for region in core.regions()
        }
        assert found == {
            gva: (e.node, e.length, e.pdid, e.lost or e.node not in up) for gva, e in self.regions.items()
        }

    @invariant()
    def rights_are_those_asked_for(self) -> None:
        for region in self.cluster.core.regions():
            for domain in DOMAINS[1:]:
                now = sum(grant.rights for grant in region.grants if grant.domain == domain)
                assert now in self.asked.get((region.gva, domain), {0})

    @invariant()
    def regions_do_not_touch(self) -> None:
        rows = sorted(self.cluster.core._tables.regions.values(), key=lambda row: row.gva)
        for one, other in itertools.pairwise(rows):
            assert one.gva + mapped_bytes(one.length) < other.gva

    @invariant()
    def nothing_half_made_is_left(self) -> None:
        tables = self.cluster.core._tables
        assert all(row.phase is not RegionPhase.PENDING for row in tables.regions.values())
        assert all(row.acknowledged for row in tables.sessions.values())

    @invariant()
    def sessions_are_there(self) -> None:
        for session in self.sessions:
            self.cluster.core.renew_session(session.session_id, session.token, self.cluster.now)

    @invariant()
    def memory_is_what_the_disk_says(self) -> None:
        assert dict(self.cluster.core._tables._rows) == {
            (row.TABLE, row.key): row for row in self.cluster.store.load()
        }

    def in_the_end_the_books_agree(self) -> None:
        """Sessions no client ever heard of expire, every node comes back, all is repaired: compare."""
        core = self.cluster.core
        self.cluster.now += SESSION_TTL_NS
        for session in self.sessions:
            core.renew_session(session.session_id, session.token, self.cluster.now)
        core.expire(self.cluster.now)
        for name in NODES:
            self.cluster.join(name, boot_id=self.boot[name])
        self.cluster.settle()
        assert core.unfinished() == ()
        regions = core.regions()
        for name, books in self.cluster.machines.books.items():
            here = [region for region in regions if region.node == name and not region.lost]
            assert books.owned == {region.gva: (mapped_bytes(region.length), region.pdid) for region in here}
            assert books.shared == {
                (region.gva, grant.pdid): grant.rights for region in here for grant in region.grants
            }
        for session in self.sessions:
            books = self.cluster.machines.books[session.home.name]
            assert session.token in books.domains[session.pdid]
        tokens = {session.token for session in self.sessions}
        for books in self.cluster.machines.books.values():
            assert all(open_here <= tokens for open_here in books.domains.values())
        needed = {session.pdid for session in self.sessions}
        for region in regions:
            needed |= {region.pdid} | {grant.pdid for grant in region.grants}
        assert set(core._tables.domains) == needed


TestCoordinatorMachine = CoordinatorMachine.TestCase
TestCoordinatorMachine.settings = settings(
    max_examples=60,
    stateful_step_count=40,
    # Shrinking would take minutes; the steps are short enough to read.
    phases=(Phase.explicit, Phase.reuse, Phase.generate),
)
