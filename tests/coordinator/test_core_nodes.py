from __future__ import annotations

from dataclasses import replace

import pytest

from support.small_cluster import SECOND, SmallCluster
from unimem.addresses import MAX_NODES, window_of
from unimem_coordinator import CoordinatorError, Reason
from unimem_coordinator.core import NODE_TTL_NS
from unimem_coordinator.rows import NodeState


@pytest.fixture
def cluster() -> SmallCluster:
    return SmallCluster()


def reason(caught: pytest.ExceptionInfo[CoordinatorError]) -> Reason:
    return caught.value.reason


def state(cluster: SmallCluster, name: str) -> NodeState:
    return next(node.state for node in cluster.core.nodes() if node.name == name)


def test_windows_follow_indices(cluster: SmallCluster) -> None:
    windows = [node.window for node in cluster.core.nodes()]
    assert windows == [range(1 << 36, 2 << 36), range(2 << 36, 3 << 36)]


def test_a_retried_registration_is_the_same_membership(cluster: SmallCluster) -> None:
    first = cluster.join("n7", boot_id=77)
    assert cluster.join("n7", boot_id=77) == first


def test_a_restarted_node_keeps_its_window_and_gets_a_new_incarnation(cluster: SmallCluster) -> None:
    before = cluster.joined["n0"]
    after = cluster.join("n0")
    assert after.node == replace(before.node, incarnation=2)
    assert after.lease_token != before.lease_token
    assert after.epoch == before.epoch + 2  # n1 joined in between


def test_a_moved_node_is_the_same_incarnation_at_another_address(cluster: SmallCluster) -> None:
    joined = cluster.core.register_node(
        "m", address="old:1", platform="", memory_bytes=0, boot_id=5, now_ns=0
    )
    moved = cluster.core.register_node("m", address="new:1", platform="", memory_bytes=0, boot_id=5, now_ns=0)
    assert moved.node == replace(joined.node, address="new:1")
    assert moved.epoch == joined.epoch + 1
    assert moved.lease_token == joined.lease_token


def test_a_replaced_process_cannot_come_back(cluster: SmallCluster) -> None:
    old = cluster.join("m", boot_id=1)
    cluster.join("m", boot_id=2)
    with pytest.raises(CoordinatorError) as caught:
        cluster.join("m", boot_id=1)
    assert reason(caught) is Reason.NODE_REPLACED
    with pytest.raises(CoordinatorError) as caught:
        cluster.core.renew("m", old.lease_token, 0)
    assert reason(caught) is Reason.NODE_REPLACED


def test_unnamed_nodes_are_named_by_index(cluster: SmallCluster) -> None:
    cluster.join("n3", boot_id=1)  # index 2, but the name of index 3
    joined = cluster.join("", boot_id=2)
    assert (joined.node.name, joined.node.index) == ("n4", 3)
    assert cluster.join("", boot_id=2) == joined, "a retry, before the node knew its name"


def test_the_name_of_an_unnamed_node_that_left_is_given_again(cluster: SmallCluster) -> None:
    first = cluster.join("", boot_id=1)
    lost = cluster.join("", boot_id=2)
    cluster.core.deregister(first.node.name, first.lease_token)
    cluster.now += NODE_TTL_NS
    cluster.core.expire(cluster.now)
    second = cluster.join("", boot_id=3)
    assert second.node == replace(first.node, incarnation=2)
    assert cluster.join("", boot_id=4).node.index > lost.node.index, "a lost node may come back"


def test_a_name_that_was_chosen_is_never_given_away(cluster: SmallCluster) -> None:
    cluster.core.deregister("n0", cluster.joined["n0"].lease_token)
    assert cluster.join("", boot_id=9).node.index == 2


def test_a_lease_that_is_not_renewed_ends(cluster: SmallCluster) -> None:
    epoch = cluster.core.epoch
    cluster.core.renew("n1", cluster.joined["n1"].lease_token, 3 * SECOND)
    assert cluster.core.next_deadline_ns == NODE_TTL_NS
    assert cluster.core.expire(NODE_TTL_NS - 1).nodes == ()
    assert cluster.core.expire(NODE_TTL_NS).nodes == ("n0",)
    assert cluster.core.expire(NODE_TTL_NS).nodes == ()
    assert cluster.core.epoch == epoch + 1
    assert (state(cluster, "n0"), state(cluster, "n1")) == (NodeState.LOST, NodeState.UP)
    with pytest.raises(CoordinatorError) as caught:
        cluster.core.renew("n0", cluster.joined["n0"].lease_token, NODE_TTL_NS)
    assert reason(caught) is Reason.LEASE_EXPIRED


def test_a_lost_node_that_did_not_restart_returns_as_it_was(cluster: SmallCluster) -> None:
    joined = cluster.join("m", boot_id=5)
    cluster.core.expire(NODE_TTL_NS)
    cluster.now = NODE_TTL_NS
    assert cluster.join("m", boot_id=5).node == joined.node
    assert cluster.core.expire(2 * NODE_TTL_NS - 1).nodes == ()


def test_leaving_is_idempotent_and_ends_the_lease(cluster: SmallCluster) -> None:
    token = cluster.joined["n0"].lease_token
    cluster.core.deregister("n0", token)
    epoch = cluster.core.epoch
    cluster.core.deregister("n0", token)
    assert cluster.core.epoch == epoch
    assert state(cluster, "n0") is NodeState.LEFT
    assert cluster.core.expire(NODE_TTL_NS).nodes == ("n1",)
    assert state(cluster, "n0") is NodeState.LEFT


def test_a_restarted_coordinator_gives_every_lease_a_whole_period(cluster: SmallCluster) -> None:
    cluster.now = NODE_TTL_NS - 1
    before = cluster.core.routes()
    cluster.restart()
    assert cluster.core.routes() == before
    assert cluster.core.expire(cluster.now + NODE_TTL_NS - 1).nodes == ()
    cluster.core.renew("n0", cluster.joined["n0"].lease_token, cluster.now + 1)
    assert cluster.core.expire(cluster.now + NODE_TTL_NS).nodes == ("n1",)


def test_grace_starts_leases_anew_but_raises_nobody(cluster: SmallCluster) -> None:
    cluster.core.renew("n1", cluster.joined["n1"].lease_token, SECOND)
    cluster.core.expire(NODE_TTL_NS)
    cluster.core.grace(10 * SECOND)
    assert state(cluster, "n0") is NodeState.LOST
    assert cluster.core.next_deadline_ns == 10 * SECOND + NODE_TTL_NS


@pytest.mark.parametrize("name", ["", "-x", "a b", "ä", "x" * 64, "a\nb", "n0/../n1"])
def test_bad_names_are_refused(cluster: SmallCluster, name: str) -> None:
    if name:
        with pytest.raises(CoordinatorError) as caught:
            cluster.join(name, boot_id=1)
        assert reason(caught) is Reason.BAD_NAME
    with pytest.raises(CoordinatorError) as caught:
        cluster.core.renew(name, "", 0)
    assert reason(caught) is Reason.UNKNOWN_NODE
    assert caught.value.metadata["known"] == "n0, n1"


@pytest.mark.parametrize(
    ("field", "value", "expected"),
    [
        ("address", "nowhere", Reason.BAD_ARGUMENT),
        ("address", ":7400", Reason.BAD_ARGUMENT),
        ("address", "host:", Reason.BAD_ARGUMENT),
        ("address", "host:0", Reason.BAD_ARGUMENT),
        ("address", "host:65536", Reason.BAD_ARGUMENT),
        ("address", "ho st:1", Reason.BAD_ARGUMENT),
        ("address", "host:" + "1" * 5000, Reason.BAD_ARGUMENT),
        ("platform", "x" * 200, Reason.BAD_NAME),
        ("memory_bytes", (1 << 36) + 1, Reason.BAD_ARGUMENT),
        ("boot_id", 0, Reason.BAD_ARGUMENT),
    ],
)
def test_bad_registrations_are_refused(
    cluster: SmallCluster, field: str, value: object, expected: Reason
) -> None:
    before = cluster.core.routes()
    fields = {"address": "h:1", "platform": "p", "memory_bytes": 1, "boot_id": 1, "now_ns": 0, field: value}
    with pytest.raises(CoordinatorError) as caught:
        cluster.core.register_node("x", **fields)  # type: ignore[arg-type]
    assert reason(caught) is expected
    assert cluster.core.routes() == before


def test_windows_run_out_with_a_clear_error(cluster: SmallCluster, monkeypatch: pytest.MonkeyPatch) -> None:
    assert window_of(MAX_NODES - 1).stop == 1 << 48
    monkeypatch.setattr("unimem_coordinator.members.MAX_NODES", 3)
    cluster.join("", boot_id=1)
    with pytest.raises(CoordinatorError) as caught:
        cluster.join("", boot_id=1 << 63)
    assert reason(caught) is Reason.NO_WINDOW
