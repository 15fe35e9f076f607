from __future__ import annotations

import pytest

from support.small_cluster import SECOND, SmallCluster
from unimem_coordinator import CloseDomain, CoordinatorError, FailureKind, OpenDomain, Reason
from unimem_coordinator.core import NODE_TTL_NS, SESSION_TTL_NS
from unimem_coordinator.limits import DOMAIN_NUMBERS


@pytest.fixture
def cluster() -> SmallCluster:
    return SmallCluster()


def reason(caught: pytest.ExceptionInfo[CoordinatorError]) -> Reason:
    return caught.value.reason


def test_a_session_is_open_on_its_home_before_anybody_hears_of_it(cluster: SmallCluster) -> None:
    session = cluster.open("n1")
    assert session.home.name == "n1"
    assert cluster.machines.books["n1"].domains == {session.pdid: {session.token}}
    assert cluster.machines.books["n0"].domains == {}
    assert cluster.core.unfinished() == ()


def test_the_home_is_the_node_with_the_fewest_sessions(cluster: SmallCluster) -> None:
    assert [cluster.open("").home.name for _ in range(3)] == ["n0", "n1", "n0"]
    cluster.open("n0")
    cluster.core.deregister("n1", cluster.joined["n1"].lease_token)
    assert cluster.open("").home.name == "n0"


def test_a_silent_home_is_passed_over_unless_it_was_asked_for(cluster: SmallCluster) -> None:
    cluster.machines.failing["n0"] = FailureKind.UNREACHABLE
    assert cluster.open("").home.name == "n1"
    with pytest.raises(CoordinatorError, match="n0") as caught:
        cluster.open("n0")
    assert reason(caught) is Reason.NODE_UNREACHABLE
    cluster.machines.failing["n1"] = FailureKind.UNREACHABLE
    with pytest.raises(CoordinatorError, match="did not") as caught:
        cluster.open("")
    assert reason(caught) is Reason.NO_NODES


def test_no_node_no_session() -> None:
    cluster = SmallCluster(nodes=0)
    with pytest.raises(CoordinatorError) as caught:
        cluster.open("")
    assert reason(caught) is Reason.NO_NODES
    with pytest.raises(CoordinatorError) as caught:
        cluster.open("n0")
    assert reason(caught) is Reason.UNKNOWN_NODE


def test_a_failed_open_leaves_nothing_behind(cluster: SmallCluster) -> None:
    cluster.machines.mute.add("n0")
    with pytest.raises(CoordinatorError):
        cluster.open("n0")
    assert cluster.machines.books["n0"].domains, "it was opened: only the answer was lost"
    cluster.machines.mute.clear()
    cluster.settle()
    assert cluster.machines.books["n0"].domains == {}
    assert cluster.core.unfinished() == ()
    assert not cluster.core._tables.domains


def test_private_domains_differ_named_ones_are_shared(cluster: SmallCluster) -> None:
    a, b = cluster.open(), cluster.open()
    assert a.pdid != b.pdid
    c, d = cluster.open("n0", "team"), cluster.open("n1", "team")
    assert c.pdid == d.pdid
    assert c.token != d.token
    assert (c.domain, a.domain) == ("team", "")


def test_a_token_is_needed_and_must_fit(cluster: SmallCluster) -> None:
    a, b = cluster.open(), cluster.open()
    for call in (
        lambda: cluster.core.renew_session(a.session_id, b.token, 0),
        lambda: cluster.do(cluster.core.close_session(a.session_id, "")),
        lambda: cluster.do(cluster.core.allocate(a.session_id, b.token, "", 1)),
        lambda: cluster.do(cluster.core.free(a.session_id, "ümlaut", 1 << 36)),
        lambda: cluster.do(cluster.core.share(a.session_id, b.token, 1 << 36, domain="x", rights=1)),
    ):
        with pytest.raises(CoordinatorError) as caught:
            call()
        assert reason(caught) is Reason.ACCESS_DENIED


def test_closing_a_session_frees_its_private_domain(cluster: SmallCluster) -> None:
    session = cluster.open()
    for node in ("n0", "n1"):
        cluster.do(cluster.core.allocate(session.session_id, session.token, node, 1 << 20))
    cluster.do(cluster.core.close_session(session.session_id, session.token))
    for books in cluster.machines.books.values():
        assert (books.domains, books.owned, books.shared) == ({}, {}, {})
    assert cluster.core.regions() == ()
    assert cluster.core.unfinished() == ()
    assert not cluster.core._tables.domains
    cluster.do(cluster.core.close_session(session.session_id, session.token))  # a retry
    with pytest.raises(CoordinatorError) as caught:
        cluster.core.renew_session(session.session_id, session.token, 0)
    assert reason(caught) is Reason.SESSION_EXPIRED


def test_closing_works_while_a_node_is_away_and_is_finished_when_it_returns(cluster: SmallCluster) -> None:
    session = cluster.open("n0")
    cluster.do(cluster.core.allocate(session.session_id, session.token, "n1", 1))
    cluster.machines.failing["n1"] = FailureKind.UNREACHABLE
    cluster.do(cluster.core.close_session(session.session_id, session.token))
    assert cluster.core.regions() == ()
    assert cluster.core.unfinished() == ("n1",)
    assert session.pdid in cluster.core._tables.domains, "its number is not free while n1 knows it"
    cluster.machines.failing.clear()
    cluster.restart()
    cluster.settle()
    assert cluster.machines.books["n1"].owned == {}
    assert session.pdid not in cluster.core._tables.domains


def test_a_session_that_is_not_renewed_ends(cluster: SmallCluster) -> None:
    kept, ended = cluster.open(), cluster.open()
    cluster.do(cluster.core.allocate(ended.session_id, ended.token, "n1", 1))
    cluster.core.renew_session(kept.session_id, kept.token, SECOND)
    for name, joined in cluster.joined.items():
        cluster.core.renew(name, joined.lease_token, SESSION_TTL_NS)
    expired = cluster.core.expire(SESSION_TTL_NS)
    assert expired.sessions == (ended.session_id,)
    cluster.settle()
    assert cluster.machines.books["n1"].owned == {}
    assert cluster.machines.books["n0"].domains == {kept.pdid: {kept.token}}


def test_sessions_survive_a_restart_with_a_whole_period(cluster: SmallCluster) -> None:
    session = cluster.open()
    cluster.now = SESSION_TTL_NS - 1
    cluster.restart()
    assert cluster.core.expire(2 * SESSION_TTL_NS - 2).sessions == ()
    cluster.core.renew_session(session.session_id, session.token, cluster.now)
    assert cluster.core.expire(2 * SESSION_TTL_NS).sessions == (session.session_id,)


def test_regions_of_a_named_domain_outlive_its_sessions(cluster: SmallCluster) -> None:
    first = cluster.open("n0", "team")
    region = cluster.do(cluster.core.allocate(first.session_id, first.token, "n1", 1))
    cluster.do(cluster.core.close_session(first.session_id, first.token))
    assert cluster.core.regions() == (region,)
    second = cluster.open("n0", "team")
    assert second.pdid == first.pdid
    # It may post on n1 too, at once: its domain owns memory there.
    assert cluster.machines.books["n1"].domains == {second.pdid: {second.token}}
    cluster.do(cluster.core.free(second.session_id, second.token, region.gva))
    cluster.do(cluster.core.close_session(second.session_id, second.token))
    assert not cluster.core._tables.domains, "a named domain that nothing needs goes too"
    assert cluster.machines.books["n1"].domains == {}


def test_opening_waits_for_no_node_but_the_home(cluster: SmallCluster) -> None:
    first = cluster.open("n0", "team")
    cluster.do(cluster.core.allocate(first.session_id, first.token, "n1", 1))
    cluster.machines.failing["n1"] = FailureKind.UNREACHABLE
    second = cluster.open("n0", "team")
    assert cluster.core.unfinished() == ("n1",)
    cluster.machines.failing.clear()
    cluster.settle()
    assert cluster.machines.books["n1"].domains == {first.pdid: {first.token, second.token}}


def test_an_unacknowledged_session_is_taken_back_after_a_crash(cluster: SmallCluster) -> None:
    change = cluster.core.open_session("n0", "", 0)
    next(change)  # its turn
    action = next(change)
    assert isinstance(action, OpenDomain)
    cluster.machines.perform(action)
    cluster.restart()
    assert not cluster.core._tables.sessions
    cluster.settle()
    assert isinstance(cluster.machines.log[-1], CloseDomain)
    assert cluster.machines.books["n0"].domains == {}
    assert not cluster.core._tables.domains


def test_a_restarted_node_opens_the_sessions_at_home_there_again(cluster: SmallCluster) -> None:
    home = cluster.open("n0")
    away = cluster.open("n1")
    cluster.do(cluster.core.allocate(away.session_id, away.token, "n0", 1))
    cluster.join("n0")
    cluster.settle()
    assert cluster.machines.books["n0"].domains == {home.pdid: {home.token}}
    cluster.do(cluster.core.close_session(away.session_id, away.token))
    assert cluster.core.unfinished() == ()


def test_a_node_that_restarts_while_a_session_opens_is_no_answer(cluster: SmallCluster) -> None:
    change = cluster.core.open_session("n0", "", 0)
    next(change)
    action = next(change)
    assert isinstance(action, OpenDomain)
    cluster.join("n0")
    with pytest.raises(CoordinatorError, match="restarted") as caught:
        next(change)
    assert reason(caught) is Reason.NODE_UNREACHABLE
    cluster.settle()
    assert not cluster.core._tables.domains


def test_numbers_of_domains_come_round_late(cluster: SmallCluster) -> None:
    first = cluster.open()
    cluster.do(cluster.core.close_session(first.session_id, first.token))
    second = cluster.open()
    assert second.pdid != first.pdid
    cluster.do(cluster.core.close_session(second.session_id, second.token))
    cluster.restart()
    assert cluster.open().pdid not in (first.pdid, second.pdid)


def test_numbers_of_domains_run_out_with_a_clear_error(
    cluster: SmallCluster, monkeypatch: pytest.MonkeyPatch
) -> None:
    assert (DOMAIN_NUMBERS.start, DOMAIN_NUMBERS.stop) == (1, 65536)
    monkeypatch.setattr("unimem_coordinator.limits.DOMAIN_NUMBERS", range(1, 4))
    sessions = [cluster.open() for _ in range(3)]
    with pytest.raises(CoordinatorError) as caught:
        cluster.open()
    assert reason(caught) is Reason.NO_DOMAIN
    cluster.do(cluster.core.close_session(sessions[1].session_id, sessions[1].token))
    assert cluster.open().pdid == sessions[1].pdid


@pytest.mark.parametrize("domain", ["x" * 129, " x", "x ", "a\tb", "\0"])
def test_bad_domain_names_are_refused(cluster: SmallCluster, domain: str) -> None:
    with pytest.raises(CoordinatorError) as caught:
        cluster.open("n0", domain)
    assert reason(caught) is Reason.BAD_NAME


def test_a_lost_home_refuses_sessions(cluster: SmallCluster) -> None:
    cluster.core.expire(NODE_TTL_NS)
    with pytest.raises(CoordinatorError) as caught:
        cluster.open("n0")
    assert reason(caught) is Reason.NODE_LOST
    with pytest.raises(CoordinatorError) as caught:
        cluster.open("")
    assert reason(caught) is Reason.NO_NODES
