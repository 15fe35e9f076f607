from __future__ import annotations

from collections.abc import Iterable

import pytest

from support.small_cluster import SmallCluster
from unimem.addresses import WINDOW_BYTES, fmt
from unimem_coordinator import (
    CoordinatorError,
    FailureKind,
    MapRegion,
    MemoryStore,
    OpenDomain,
    Reason,
    RegionInfo,
    SessionInfo,
    StoreError,
    UnmapRegion,
)
from unimem_coordinator.core import NODE_TTL_NS
from unimem_coordinator.rows import Row

MIB = 1 << 20


@pytest.fixture
def cluster() -> SmallCluster:
    return SmallCluster()


@pytest.fixture
def owner(cluster: SmallCluster) -> SessionInfo:
    return cluster.open("n0")


def reason(caught: pytest.ExceptionInfo[CoordinatorError]) -> Reason:
    return caught.value.reason


def allocate(
    cluster: SmallCluster, session: SessionInfo, length: int = MIB, node: str = "", name: str = ""
) -> RegionInfo:
    return cluster.do(cluster.core.allocate(session.session_id, session.token, node, length, name))


def free(cluster: SmallCluster, session: SessionInfo, gva: int) -> None:
    cluster.do(cluster.core.free(session.session_id, session.token, gva))


def share(
    cluster: SmallCluster, session: SessionInfo, gva: int, domain: str = "", *, rights: int = 1, pdid: int = 0
) -> RegionInfo:
    return cluster.do(
        cluster.core.share(session.session_id, session.token, gva, domain=domain, rights=rights, pdid=pdid)
    )


# -- allocate


def test_a_region_is_mapped_before_it_is_acknowledged(cluster: SmallCluster, owner: SessionInfo) -> None:
    region = allocate(cluster, owner, length=MIB + 1, node="n1", name="frames")
    assert region == RegionInfo(2 << 36, MIB + 1, "n1", owner.pdid, "frames", lost=False, grants=())
    assert cluster.machines.books["n1"].owned == {region.gva: (MIB + 4096, owner.pdid)}
    assert cluster.machines.books["n1"].domains == {owner.pdid: {owner.token}}
    assert cluster.core.regions() == (region,)
    assert cluster.core.unfinished() == ()


def test_no_node_means_the_home(cluster: SmallCluster, owner: SessionInfo) -> None:
    assert allocate(cluster, owner).node == "n0"


@pytest.mark.parametrize("length", [0, -1, WINDOW_BYTES + 1, 1 << 64])
def test_impossible_lengths(cluster: SmallCluster, owner: SessionInfo, length: int) -> None:
    with pytest.raises(CoordinatorError, match=str(length)) as caught:
        allocate(cluster, owner, length=length)
    assert reason(caught) is Reason.BAD_LENGTH


def test_more_than_the_memory_of_the_node(cluster: SmallCluster, owner: SessionInfo) -> None:
    with pytest.raises(CoordinatorError, match="no room") as caught:
        allocate(cluster, owner, length=(4 << 30) + 1)
    assert reason(caught) is Reason.NO_SPACE
    assert cluster.machines.books["n0"].owned == {}


def test_unknown_and_lost_nodes(cluster: SmallCluster, owner: SessionInfo) -> None:
    with pytest.raises(CoordinatorError) as caught:
        allocate(cluster, owner, node="n9")
    assert reason(caught) is Reason.UNKNOWN_NODE
    cluster.core.expire(NODE_TTL_NS)
    with pytest.raises(CoordinatorError) as caught:
        allocate(cluster, owner)
    assert reason(caught) is Reason.NODE_LOST


def test_names_are_unique_in_a_domain(cluster: SmallCluster, owner: SessionInfo) -> None:
    first = allocate(cluster, owner, name="a")
    with pytest.raises(CoordinatorError, match=fmt(first.gva)) as caught:
        allocate(cluster, owner, node="n1", name="a")
    assert reason(caught) is Reason.NAME_TAKEN
    allocate(cluster, cluster.open(), name="a")
    free(cluster, owner, first.gva)
    assert allocate(cluster, owner, name="a").gva != first.gva


@pytest.mark.parametrize(
    ("kind", "expected"),
    [
        (FailureKind.NO_MEMORY, Reason.NO_SPACE),
        (FailureKind.REFUSED, Reason.NODE_REFUSED),
        (FailureKind.UNREACHABLE, Reason.NODE_UNREACHABLE),
    ],
)
def test_a_failed_allocation_leaves_nothing(
    cluster: SmallCluster, owner: SessionInfo, kind: FailureKind, expected: Reason
) -> None:
    cluster.machines.failing["n0"] = kind
    with pytest.raises(CoordinatorError, match="n0 is made to fail") as caught:
        allocate(cluster, owner, name="a")
    assert reason(caught) is expected
    assert cluster.core.regions() == ()
    cluster.machines.failing.clear()
    cluster.settle()
    assert cluster.core.unfinished() == ()
    assert not cluster.core._tables.regions
    allocate(cluster, owner, name="a")


def test_an_allocation_whose_answer_was_lost_is_unmapped(cluster: SmallCluster, owner: SessionInfo) -> None:
    cluster.machines.mute.add("n0")
    with pytest.raises(CoordinatorError) as caught:
        allocate(cluster, owner)
    assert reason(caught) is Reason.NODE_UNREACHABLE
    assert cluster.machines.books["n0"].owned
    cluster.machines.mute.clear()
    cluster.settle()
    assert cluster.machines.books["n0"].owned == {}


@pytest.mark.parametrize("steps", [1, 2])
def test_a_crash_while_allocating_leaves_nothing(
    cluster: SmallCluster, owner: SessionInfo, steps: int
) -> None:
    change = cluster.core.allocate(owner.session_id, owner.token, "n0", MIB)
    for _ in range(steps):
        next(change)
    mapped = next(change) if steps == 1 else None
    if isinstance(mapped, MapRegion | OpenDomain):
        cluster.machines.perform(mapped)
    cluster.restart()
    assert cluster.core.regions() == ()
    cluster.settle()
    assert cluster.machines.books["n0"].owned == {}
    assert not cluster.core._tables.regions


def test_a_session_that_ends_while_it_allocates(cluster: SmallCluster, owner: SessionInfo) -> None:
    change = cluster.core.allocate(owner.session_id, owner.token, "n0", MIB)
    next(change)
    action = next(change)
    assert isinstance(action, MapRegion)
    close = cluster.core.close_session(owner.session_id, owner.token)
    next(close)  # wants n0 repaired, which is the allocation's turn
    cluster.machines.perform(action)
    unmap = next(change)
    assert isinstance(unmap, UnmapRegion)
    cluster.machines.perform(unmap)
    with pytest.raises(CoordinatorError) as caught:
        next(change)
    assert reason(caught) is Reason.SESSION_EXPIRED
    cluster.settle()
    assert cluster.machines.books["n0"].owned == {}
    assert not cluster.core._tables.domains


def test_a_node_that_restarts_while_it_maps(cluster: SmallCluster, owner: SessionInfo) -> None:
    change = cluster.core.allocate(owner.session_id, owner.token, "n0", MIB)
    next(change)
    next(change)
    cluster.join("n0")
    with pytest.raises(CoordinatorError, match="restarted") as caught:
        next(change)
    assert reason(caught) is Reason.NODE_UNREACHABLE
    assert not cluster.core._tables.regions


def test_two_changes_at_once_on_a_node_are_an_error_of_the_shell(
    cluster: SmallCluster, owner: SessionInfo
) -> None:
    first = cluster.core.allocate(owner.session_id, owner.token, "n0", MIB)
    second = cluster.core.allocate(owner.session_id, owner.token, "n0", MIB)
    next(first)
    next(second)
    next(first)
    with pytest.raises(AssertionError, match="Turn"):
        next(second)
    first.close()
    allocate(cluster, owner)


def test_a_freed_address_is_not_given_again_soon(cluster: SmallCluster, owner: SessionInfo) -> None:
    first = allocate(cluster, owner)
    free(cluster, owner, first.gva)
    cluster.restart()
    assert allocate(cluster, owner).gva > first.gva


def test_a_full_window_gives_freed_addresses_again() -> None:
    cluster = SmallCluster(nodes=0)
    cluster.machines.start("big")
    cluster.core.register_node("big", address="h:1", platform="", memory_bytes=0, boot_id=1, now_ns=0)
    owner = cluster.open("big")
    half = allocate(cluster, owner, length=WINDOW_BYTES // 2)
    allocate(cluster, owner, length=WINDOW_BYTES // 2 - 2 * MIB)
    with pytest.raises(CoordinatorError, match="window") as caught:
        allocate(cluster, owner, length=2 * MIB)
    assert reason(caught) is Reason.NO_SPACE
    free(cluster, owner, half.gva)
    assert allocate(cluster, owner, length=2 * MIB).gva == half.gva


def test_a_store_that_fails_changes_nothing(cluster: SmallCluster, owner: SessionInfo) -> None:
    class Full(MemoryStore):
        def commit(self, put: Iterable[Row], delete: Iterable[Row]) -> None:
            raise StoreError("disk full")

    good = cluster.core._tables._store
    cluster.core._tables._store = Full()
    calls = len(cluster.machines.log)
    with pytest.raises(StoreError):
        allocate(cluster, owner)
    assert len(cluster.machines.log) == calls, "no node is told what is not on record"
    cluster.core._tables._store = good
    assert cluster.core.regions() == ()
    allocate(cluster, owner)


# -- resolve


def test_resolve_finds_every_byte_of_a_region_and_no_other(cluster: SmallCluster, owner: SessionInfo) -> None:
    region = allocate(cluster, owner, length=5000)
    found = cluster.core.resolve(region.gva + 4999)
    assert (found.region, found.node.name, found.va) == (region, "n0", region.gva + 4999)
    for address, why in [
        (region.gva + 5000, "freed, or between"),
        (region.gva + (1 << 30), "nothing was ever allocated"),
        (77 << 36, "window of no node"),
    ]:
        with pytest.raises(CoordinatorError, match=why) as caught:
            cluster.core.resolve(address)
        assert reason(caught) is Reason.UNKNOWN_REGION
        assert caught.value.metadata["gva"] == fmt(address)


@pytest.mark.parametrize("address", [0, (1 << 36) - 1, 1 << 48, (1 << 64) - 1])
def test_addresses_that_are_not_global(cluster: SmallCluster, address: int) -> None:
    with pytest.raises(CoordinatorError) as caught:
        cluster.core.resolve(address)
    assert reason(caught) is Reason.BAD_ADDRESS


def test_regions_can_be_selected(cluster: SmallCluster, owner: SessionInfo) -> None:
    team = cluster.open("n0", "team")
    a = allocate(cluster, owner, node="n1")
    b = allocate(cluster, team, node="n1")
    c = allocate(cluster, team, node="n0")
    assert cluster.core.regions() == (c, a, b)
    assert cluster.core.regions(node="n1") == (a, b)
    assert cluster.core.regions(domain="team") == (c, b)
    assert cluster.core.regions(node="n1", domain="team") == (b,)
    assert cluster.core.regions(domain="nobody") == ()
    with pytest.raises(CoordinatorError) as caught:
        cluster.core.regions(node="n9")
    assert reason(caught) is Reason.UNKNOWN_NODE


# -- free


def test_only_the_owner_frees_and_only_at_the_base(cluster: SmallCluster, owner: SessionInfo) -> None:
    region = allocate(cluster, owner)
    other = cluster.open()
    share(cluster, owner, region.gva, pdid=other.pdid, rights=3)
    with pytest.raises(CoordinatorError) as caught:
        free(cluster, other, region.gva)
    assert reason(caught) is Reason.ACCESS_DENIED
    with pytest.raises(CoordinatorError) as caught:
        free(cluster, owner, region.gva + 1)
    assert reason(caught) is Reason.NOT_REGION_BASE
    assert caught.value.metadata["base"] == fmt(region.gva)
    free(cluster, owner, region.gva)
    assert (cluster.machines.books["n0"].owned, cluster.machines.books["n0"].shared) == ({}, {})
    with pytest.raises(CoordinatorError, match="freed") as caught:
        free(cluster, owner, region.gva)
    assert reason(caught) is Reason.UNKNOWN_REGION


@pytest.mark.parametrize("switch", ["failing", "mute"])
def test_a_free_without_an_answer_is_finished_later(
    cluster: SmallCluster, owner: SessionInfo, switch: str
) -> None:
    region = allocate(cluster, owner, name="a")
    if switch == "mute":
        cluster.machines.mute.add("n0")
    else:
        cluster.machines.failing["n0"] = FailureKind.UNREACHABLE
    for _ in range(2):  # asking again is no error of its own
        with pytest.raises(CoordinatorError, match="is freed as soon as") as caught:
            free(cluster, owner, region.gva)
        assert reason(caught) is Reason.NODE_UNREACHABLE
    assert cluster.core.regions() == ()
    with pytest.raises(CoordinatorError):
        cluster.core.resolve(region.gva)
    cluster.restart()
    assert cluster.core.unfinished() == ("n0",)
    cluster.machines.mute.clear()
    cluster.machines.failing.clear()
    again = allocate(cluster, owner, name="a")
    assert again.gva != region.gva
    cluster.settle()
    assert list(cluster.machines.books["n0"].owned) == [again.gva]


def test_freeing_on_a_lost_node_is_told_to_it_when_it_returns(cluster: SmallCluster) -> None:
    cluster.join("m", boot_id=5)
    cluster.machines.start("m")
    owner = cluster.open("m")
    region = allocate(cluster, owner, node="m")
    cluster.core.expire(NODE_TTL_NS)
    free(cluster, owner, region.gva)
    assert cluster.core.regions() == ()
    assert cluster.core.unfinished() == ()
    cluster.join("m", boot_id=5)
    assert cluster.core.unfinished() == ("m",)
    cluster.settle()
    assert cluster.machines.books["m"].owned == {}
    assert not cluster.core._tables.regions


# -- a node's restart


def test_a_restarted_node_has_lost_its_regions(cluster: SmallCluster, owner: SessionInfo) -> None:
    here, there = allocate(cluster, owner, name="a"), allocate(cluster, owner, node="n1")
    share(cluster, owner, here.gva, "team")
    cluster.join("n0")
    cluster.settle()
    lost, kept = cluster.core.regions()
    assert (lost.gva, lost.lost) == (here.gva, True)
    assert kept == there
    assert cluster.core.resolve(here.gva).region.lost
    assert cluster.machines.books["n0"].owned == {}
    with pytest.raises(CoordinatorError, match="lost") as caught:
        allocate(cluster, owner, name="a")
    assert reason(caught) is Reason.NAME_TAKEN
    with pytest.raises(CoordinatorError) as caught:
        share(cluster, owner, here.gva, "team", rights=3)
    assert reason(caught) is Reason.REGION_LOST
    calls = len(cluster.machines.log)
    free(cluster, owner, here.gva)
    assert len(cluster.machines.log) == calls, "the node knows nothing of it"
    assert allocate(cluster, owner, name="a").gva > here.gva


def test_a_lost_node_that_returns_has_its_regions(cluster: SmallCluster) -> None:
    cluster.machines.start("m")
    cluster.join("m", boot_id=5)
    owner = cluster.open("m")
    region = allocate(cluster, owner)
    cluster.core.expire(NODE_TTL_NS)
    assert cluster.core.regions()[0].lost
    cluster.join("m", boot_id=5)
    assert cluster.core.regions() == (region,)


def test_what_was_being_freed_is_gone_with_a_restart(cluster: SmallCluster, owner: SessionInfo) -> None:
    region = allocate(cluster, owner)
    cluster.machines.failing["n0"] = FailureKind.UNREACHABLE
    with pytest.raises(CoordinatorError):
        free(cluster, owner, region.gva)
    cluster.machines.failing.clear()
    cluster.join("n0")
    assert not cluster.core._tables.regions


# -- share


def test_sharing_maps_the_region_for_the_other_domain(cluster: SmallCluster, owner: SessionInfo) -> None:
    region = allocate(cluster, owner, node="n1")
    friend = cluster.open("n0", "team")
    shared = share(cluster, owner, region.gva, "team")
    (grant,) = shared.grants
    assert (grant.pdid, grant.rights, grant.domain) == (friend.pdid, 1, "team")
    books = cluster.machines.books["n1"]
    assert books.shared == {(region.gva, friend.pdid): 1}
    assert books.domains[friend.pdid] == {friend.token}, "the friend may post on n1 too"
    assert share(cluster, owner, region.gva, "team", rights=3).grants[0].rights == 3
    assert books.shared == {(region.gva, friend.pdid): 3}
    assert share(cluster, owner, region.gva, "team", rights=0).grants == ()
    assert books.shared == {}
    assert cluster.core.regions(node="n1")[0].grants == ()


def test_rights_can_be_given_to_a_domain_that_nobody_is_in_yet(
    cluster: SmallCluster, owner: SessionInfo
) -> None:
    region = allocate(cluster, owner, node="n1")
    (grant,) = share(cluster, owner, region.gva, "later").grants
    assert cluster.machines.books["n1"].domains[grant.pdid] == set()
    friend = cluster.open("n0", "later")
    assert friend.pdid == grant.pdid
    assert cluster.machines.books["n1"].domains[grant.pdid] == {friend.token}
    cluster.do(cluster.core.close_session(friend.session_id, friend.token))
    assert cluster.core.regions()[0].grants == (grant,), "rights are the domain's, not the session's"
    share(cluster, owner, region.gva, "later", rights=0)
    cluster.settle()
    assert list(cluster.core._tables.domains) == [owner.pdid]


def test_taking_rights_from_nobody_makes_nobody(cluster: SmallCluster, owner: SessionInfo) -> None:
    region = allocate(cluster, owner)
    calls = len(cluster.machines.log)
    assert share(cluster, owner, region.gva, "nobody", rights=0) == region
    assert list(cluster.core._tables.domains) == [owner.pdid]
    assert len(cluster.machines.log) == calls


def test_private_domains_are_shared_with_by_number(cluster: SmallCluster, owner: SessionInfo) -> None:
    region = allocate(cluster, owner)
    friend = cluster.open()
    assert share(cluster, owner, region.gva, pdid=friend.pdid).grants[0].pdid == friend.pdid
    cluster.do(cluster.core.close_session(friend.session_id, friend.token))
    assert cluster.core.regions()[0].grants == ()
    assert cluster.machines.books["n0"].shared == {}
    assert list(cluster.core._tables.domains) == [owner.pdid]


def test_a_domain_that_ends_while_it_gets_rights(cluster: SmallCluster, owner: SessionInfo) -> None:
    region = allocate(cluster, owner)
    friend = cluster.open()
    change = cluster.core.share(owner.session_id, owner.token, region.gva, pdid=friend.pdid, rights=1)
    next(change)
    action = next(change)
    assert isinstance(action, MapRegion)
    next(cluster.core.close_session(friend.session_id, friend.token))
    cluster.machines.perform(action)
    with pytest.raises(StopIteration) as stop:
        next(change)
    assert stop.value.value.grants == (), "nothing is said of a domain that is closing"
    assert cluster.machines.books["n0"].shared, "it was mapped all the same"
    cluster.settle()
    assert cluster.machines.books["n0"].shared == {}
    assert cluster.core.regions() == (region,)
    assert list(cluster.core._tables.domains) == [owner.pdid]


@pytest.mark.parametrize(
    ("fields", "expected"),
    [
        ({"domain": ""}, Reason.BAD_ARGUMENT),
        ({"domain": "x", "pdid": 7}, Reason.BAD_ARGUMENT),
        ({"pdid": 60000}, Reason.UNKNOWN_DOMAIN),
        ({"pdid": 1 << 16}, Reason.BAD_ARGUMENT),
        ({"pdid": 1}, Reason.BAD_ARGUMENT),  # the owner's own
        ({"domain": "x", "rights": 2}, Reason.BAD_RIGHTS),
        ({"domain": "x", "rights": -1}, Reason.BAD_RIGHTS),
        ({"domain": "x", "rights": 99}, Reason.BAD_RIGHTS),
        ({"domain": "x" * 129}, Reason.BAD_NAME),
    ],
)
def test_shares_that_cannot_be(
    cluster: SmallCluster, owner: SessionInfo, fields: dict[str, object], expected: Reason
) -> None:
    assert owner.pdid == 1
    region = allocate(cluster, owner)
    with pytest.raises(CoordinatorError) as caught:
        share(cluster, owner, region.gva, **fields)  # type: ignore[arg-type]
    assert reason(caught) is expected
    assert cluster.core.regions() == (region,)
    assert list(cluster.core._tables.domains) == [owner.pdid]


def test_only_the_owner_shares(cluster: SmallCluster, owner: SessionInfo) -> None:
    region = allocate(cluster, owner)
    other = cluster.open()
    with pytest.raises(CoordinatorError) as caught:
        share(cluster, other, region.gva, "team")
    assert reason(caught) is Reason.ACCESS_DENIED
    with pytest.raises(CoordinatorError) as caught:
        share(cluster, owner, region.gva + 8, "team")
    assert reason(caught) is Reason.NOT_REGION_BASE


def test_a_refused_share_is_as_it_was(cluster: SmallCluster, owner: SessionInfo) -> None:
    region = allocate(cluster, owner)
    cluster.machines.failing["n0"] = FailureKind.REFUSED
    with pytest.raises(CoordinatorError) as caught:
        share(cluster, owner, region.gva, "team")
    assert reason(caught) is Reason.NODE_REFUSED
    cluster.machines.failing.clear()
    cluster.settle()
    assert cluster.core.regions() == (region,)
    assert list(cluster.core._tables.domains) == [owner.pdid]
    before = share(cluster, owner, region.gva, "team", rights=1)
    cluster.machines.failing["n0"] = FailureKind.REFUSED
    with pytest.raises(CoordinatorError):
        share(cluster, owner, region.gva, "team", rights=3)
    assert cluster.core.regions() == (before,)


@pytest.mark.parametrize("rights", [0, 3])
def test_a_share_without_an_answer_is_finished_later(
    cluster: SmallCluster, owner: SessionInfo, rights: int
) -> None:
    region = allocate(cluster, owner)
    before = share(cluster, owner, region.gva, "team", rights=1)
    cluster.machines.failing["n0"] = FailureKind.UNREACHABLE
    with pytest.raises(CoordinatorError, match="as soon as") as caught:
        share(cluster, owner, region.gva, "team", rights=rights)
    assert reason(caught) is Reason.NODE_UNREACHABLE
    assert cluster.core.regions() == (before,), "until the node has answered nothing is different"
    cluster.restart()
    cluster.machines.failing.clear()
    cluster.settle()
    pdid = before.grants[0].pdid
    expected = {(region.gva, pdid): rights} if rights else {}
    assert cluster.machines.books["n0"].shared == expected
    assert [grant.rights for grant in cluster.core.regions()[0].grants] == ([rights] if rights else [])


def test_a_restart_of_the_node_settles_what_rights_were_becoming(
    cluster: SmallCluster, owner: SessionInfo
) -> None:
    region = allocate(cluster, owner)
    share(cluster, owner, region.gva, "kept")
    share(cluster, owner, region.gva, "going")
    cluster.machines.failing["n0"] = FailureKind.UNREACHABLE
    for domain, rights in [("going", 0), ("coming", 1), ("kept", 3)]:
        with pytest.raises(CoordinatorError):
            share(cluster, owner, region.gva, domain, rights=rights)
    cluster.machines.failing.clear()
    cluster.join("n0")
    cluster.settle()
    assert cluster.core.unfinished() == ()
    (lost,) = cluster.core.regions()
    assert [(grant.domain, grant.rights) for grant in lost.grants] == [("kept", 1)]
    names = [domain.name for domain in cluster.core._tables.domains.values()]
    assert sorted(names) == ["", "kept"]
