from __future__ import annotations

import asyncio
import contextlib
from collections.abc import AsyncIterator, Callable
from pathlib import Path
from typing import Any

import grpc
import grpc.aio
import pytest
import structlog
from google.rpc import error_details_pb2, status_pb2  # type: ignore[import-untyped]
from grpc_health.v1 import health_pb2, health_pb2_grpc
from grpc_reflection.v1alpha import reflection_pb2, reflection_pb2_grpc

from support.grpc_books import Context, Rig, rig
from unimem.v1 import coordinator_pb2 as pb
from unimem.v1 import types_pb2
from unimem_coordinator import nodes_client, shell
from unimem_coordinator.service import SERVICE

pytestmark = pytest.mark.asyncio


@pytest.fixture(autouse=True)
def quiet() -> Any:
    with structlog.testing.capture_logs() as logs:
        yield logs


@contextlib.contextmanager
def refused(code: grpc.StatusCode, reason: str) -> Any:
    """Expect a status and the reason of its ErrorInfo; gives the ErrorInfo."""
    info = error_details_pb2.ErrorInfo()
    with pytest.raises(grpc.aio.AioRpcError) as caught:
        yield info
    details = dict(caught.value.trailing_metadata())["grpc-status-details-bin"]
    status = status_pb2.Status.FromString(details)
    assert status.details[0].Unpack(info)
    assert (caught.value.code(), info.reason, info.domain) == (code, reason, "unimem")
    assert status.message == caught.value.details()
    assert status.code == code.value[0]


async def session(cluster: Rig, home: str = "", domain: str = "") -> pb.OpenSessionResponse:
    answer = await cluster.stub.OpenSession(pb.OpenSessionRequest(home=home, domain=domain))
    assert isinstance(answer, pb.OpenSessionResponse)
    return answer


def allocation(owner: pb.OpenSessionResponse, node: str = "", length: int = 4096) -> pb.AllocateRegionRequest:
    return pb.AllocateRegionRequest(session_id=owner.session_id, token=owner.token, node=node, length=length)


async def test_the_whole_life_of_a_region() -> None:
    async with rig("n0", "n1") as cluster:
        owner = await session(cluster, home="n0")
        friend = await session(cluster, home="n1", domain="team")
        assert owner.home.window_base == 1 << 36
        region = (await cluster.stub.AllocateRegion(allocation(owner, "n1", 10_000))).region
        assert region == types_pb2.Region(
            gva=2 << 36, length=10_000, node="n1", pdid=owner.pdid, state=types_pb2.REGION_STATE_ACTIVE
        )
        books = cluster.nodes[1].books
        assert books.owned == {region.gva: (12288, owner.pdid)}
        assert cluster.nodes[1].metadata["unimem-incarnation"] == "1"
        shared = await cluster.stub.ShareRegion(
            pb.ShareRegionRequest(
                session_id=owner.session_id,
                token=owner.token,
                gva=region.gva,
                domain="team",
                rights=types_pb2.RIGHTS_READ,
            )
        )
        assert list(shared.region.grants) == [
            types_pb2.Grant(pdid=friend.pdid, rights=types_pb2.RIGHTS_READ, domain="team")
        ]
        assert books.shared == {(region.gva, friend.pdid): 1}
        found = await cluster.stub.ResolveAddress(pb.ResolveAddressRequest(gva=region.gva + 5))
        assert (found.region, found.node.name, found.va) == (shared.region, "n1", region.gva + 5)
        listed = await cluster.stub.ListRegions(pb.ListRegionsRequest(node="n1"))
        assert list(listed.regions) == [shared.region]
        await cluster.stub.FreeRegion(
            pb.FreeRegionRequest(session_id=owner.session_id, token=owner.token, gva=region.gva)
        )
        assert (books.owned, books.shared) == ({}, {})
        renewed = await cluster.stub.RenewSession(
            pb.RenewSessionRequest(session_id=owner.session_id, token=owner.token)
        )
        assert renewed.session_ttl_ns == owner.session_ttl_ns
        await cluster.stub.CloseSession(
            pb.CloseSessionRequest(session_id=owner.session_id, token=owner.token)
        )
        assert all(owner.pdid not in node.books.domains for node in cluster.nodes)


async def test_refusals_carry_reason_and_details() -> None:
    async with rig("n0") as cluster:
        owner = await session(cluster)
        with refused(grpc.StatusCode.NOT_FOUND, "UNKNOWN_NODE") as info:
            await cluster.stub.AllocateRegion(allocation(owner, "n9"))
        assert dict(info.metadata) == {"node": "n9", "known": "n0"}
        with refused(grpc.StatusCode.INVALID_ARGUMENT, "BAD_LENGTH"):
            await cluster.stub.AllocateRegion(allocation(owner, length=(1 << 64) - 1))
        with refused(grpc.StatusCode.INVALID_ARGUMENT, "BAD_RIGHTS") as info:
            await cluster.stub.ShareRegion(
                pb.ShareRegionRequest(
                    session_id=owner.session_id, token=owner.token, gva=1, domain="x", rights=-7
                )
            )
        assert "write-only" in info.metadata["hint"]
        with refused(grpc.StatusCode.UNAUTHENTICATED, "SESSION_EXPIRED"):
            await cluster.stub.FreeRegion(pb.FreeRegionRequest(session_id="?", token="?", gva=1))
        with refused(grpc.StatusCode.PERMISSION_DENIED, "ACCESS_DENIED"):
            await cluster.stub.CloseSession(pb.CloseSessionRequest(session_id=owner.session_id))


async def test_garbage_is_answered_and_the_service_lives_on() -> None:
    async with rig("n0") as cluster:
        for method in ("RegisterNode", "AllocateRegion", "WatchRoutes", "ResolveAddress"):
            for garbage in (b"\xff" * 20, b"\x0a\xff\xff\xff\xff\x0f", b"\x12\x05ab", b"\x08"):
                path = f"/{SERVICE}/{method}"
                with refused(grpc.StatusCode.INVALID_ARGUMENT, "BAD_ARGUMENT"):
                    if method == "WatchRoutes":
                        await cluster.channel.unary_stream(path, None, None)(garbage).read()
                    else:
                        await cluster.channel.unary_unary(path, None, None)(garbage)
        with pytest.raises(grpc.aio.AioRpcError) as caught:
            await cluster.channel.unary_unary(f"/{SERVICE}/NoSuchMethod", None, None)(b"")
        assert caught.value.code() is grpc.StatusCode.UNIMPLEMENTED
        assert len((await cluster.stub.ListNodes(pb.ListNodesRequest())).nodes) == 1


async def test_watchers_get_the_table_at_once_and_after_each_change() -> None:
    async with rig("n0") as cluster:
        watch = cluster.stub.WatchRoutes(pb.WatchRoutesRequest())
        first = await watch.read()
        assert [node.name for node in first.nodes] == ["n0"]
        # Who knows the epoch hears of it only when it changes.
        late = cluster.stub.WatchRoutes(pb.WatchRoutesRequest(known_epoch=first.epoch))
        pending = asyncio.ensure_future(late.read())
        await cluster.stub.ListNodes(pb.ListNodesRequest())
        assert not pending.done()
        await cluster.add_node("n1")
        for table in (await watch.read(), await pending):
            assert [node.name for node in table.nodes] == ["n0", "n1"]
            assert table.epoch == first.epoch + 1


async def test_a_slow_watcher_gets_only_the_latest() -> None:
    async with rig("n0") as cluster:
        inner = cluster.server._shell
        assert inner is not None
        watch = inner.watch(known_epoch=0)
        first = await anext(watch)
        for boot in range(1, 6):
            await cluster.stub.RegisterNode(cluster.nodes[0].registration(boot_id=boot))
        second = await anext(watch)
        assert second.epoch == first.epoch + 5
        waiting = asyncio.ensure_future(anext(watch))
        await cluster.stub.ListNodes(pb.ListNodesRequest())
        assert not waiting.done()
        waiting.cancel()


async def test_a_node_that_does_not_renew_is_lost() -> None:
    async with rig("n0", node_ttl=0.2) as cluster:
        watch = cluster.stub.WatchRoutes(pb.WatchRoutesRequest())
        states = []
        async with asyncio.timeout(10):
            while types_pb2.NODE_STATE_LOST not in states:
                states.append((await watch.read()).nodes[0].state)
        assert states == [types_pb2.NODE_STATE_UP, types_pb2.NODE_STATE_LOST]
        with refused(grpc.StatusCode.UNAVAILABLE, "NODE_LOST"):
            await session(cluster, home="n0")
        joined = await cluster.stub.RegisterNode(cluster.nodes[0].registration(boot_id=9))
        lease = pb.RenewLeaseRequest(name="n0", lease_token=joined.lease_token)
        assert (await cluster.stub.RenewLease(lease)).lease_ttl_ns == 200_000_000
        await cluster.stub.DeregisterNode(pb.DeregisterNodeRequest(name="n0", lease_token=joined.lease_token))
        assert (await cluster.stub.ListNodes(pb.ListNodesRequest())).nodes[
            0
        ].state == types_pb2.NODE_STATE_LEFT


async def test_a_session_that_is_not_renewed_is_closed_on_its_nodes() -> None:
    async with rig("n0", session_ttl=0.2) as cluster:
        owner = await session(cluster)
        await cluster.stub.AllocateRegion(allocation(owner))
        books = cluster.nodes[0].books
        await cluster.nodes[0].until(lambda: not books.domains)
        assert books.owned == {}


async def hang(_: Context) -> None:
    await asyncio.Event().wait()


async def test_a_hanging_node_holds_up_only_its_own_callers() -> None:
    async with rig("n0", "n1", node_timeout=2.0) as cluster:
        owner = await session(cluster, home="n0")
        cluster.nodes[1].obstacle = hang
        stuck = asyncio.ensure_future(cluster.stub.AllocateRegion(allocation(owner, "n1")))
        await cluster.nodes[1].called("OpenDomain")
        queued = asyncio.ensure_future(cluster.stub.AllocateRegion(allocation(owner, "n1"), timeout=0.2))
        for _ in range(3):
            await cluster.stub.AllocateRegion(allocation(owner, "n0"))
        assert len((await cluster.stub.ListRegions(pb.ListRegionsRequest())).regions) == 3
        with pytest.raises(grpc.aio.AioRpcError) as caught:
            await queued
        assert caught.value.code() is grpc.StatusCode.DEADLINE_EXCEEDED
        assert not stuck.done()
        with refused(grpc.StatusCode.UNAVAILABLE, "NODE_UNREACHABLE") as info:
            await stuck
        assert info.metadata["node"] == "n1"
        # The one that gave up while it waited for its turn has left nothing to do.
        assert cluster.nodes[1].calls == ["OpenDomain"]


async def test_a_dead_node_is_noticed_before_the_callers_deadline() -> None:
    async with rig("n0", "n1") as cluster:
        owner = await session(cluster, home="n0")
        await cluster.nodes[1].stop()
        async with asyncio.timeout(3):
            with refused(grpc.StatusCode.UNAVAILABLE, "NODE_UNREACHABLE"):
                await cluster.stub.AllocateRegion(allocation(owner, "n1"))
        # It comes back at its address, with its memory: what was left half done there is undone.
        await cluster.nodes[1].start()
        books = cluster.nodes[1].books
        await cluster.nodes[1].called("UnmapRegion")
        assert books.owned == {}
        await cluster.stub.AllocateRegion(allocation(owner, "n1"))


async def test_a_node_may_begin_to_listen_after_it_registered(monkeypatch: pytest.MonkeyPatch) -> None:
    turned_away = asyncio.Event()
    sleep = asyncio.sleep

    async def pause(seconds: float) -> None:
        turned_away.set()
        await sleep(seconds)

    monkeypatch.setattr(asyncio, "sleep", pause)
    async with rig("n0") as cluster:
        node = cluster.nodes[0]
        await node.stop()
        opening = asyncio.ensure_future(session(cluster))
        await turned_away.wait()
        await node.start()
        assert (await opening).home.name == "n0"


async def test_nodes_answers_become_reasons() -> None:
    async with rig("n0") as cluster:
        owner = await session(cluster)

        def answer(code: grpc.StatusCode) -> Callable[[Context], Any]:
            async def obstacle(context: Context) -> None:
                cluster.nodes[0].obstacle = None
                await context.abort(code, "not today")

            return obstacle

        cluster.nodes[0].obstacle = answer(grpc.StatusCode.RESOURCE_EXHAUSTED)
        with refused(grpc.StatusCode.RESOURCE_EXHAUSTED, "NO_SPACE"):
            await cluster.stub.AllocateRegion(allocation(owner))
        cluster.nodes[0].obstacle = answer(grpc.StatusCode.INVALID_ARGUMENT)
        with refused(grpc.StatusCode.FAILED_PRECONDITION, "NODE_REFUSED"):
            await cluster.stub.AllocateRegion(allocation(owner))
        assert cluster.nodes[0].books.owned == {}


async def test_a_change_whose_caller_has_gone_is_carried_to_its_end() -> None:
    async with rig("n0") as cluster:
        owner = await session(cluster)
        may_go = asyncio.Event()
        cluster.nodes[0].obstacle = lambda _: may_go.wait()
        call = cluster.stub.AllocateRegion(allocation(owner))
        await cluster.nodes[0].called("MapRegion")
        call.cancel()
        may_go.set()
        second = (await cluster.stub.AllocateRegion(allocation(owner))).region
        regions = (await cluster.stub.ListRegions(pb.ListRegionsRequest())).regions
        assert len(regions) == 2
        assert regions[1] == second
        assert len(cluster.nodes[0].books.owned) == 2


async def test_many_callers_at_once_get_different_addresses(tmp_path: Path) -> None:
    async with rig("n0", "n1", state=tmp_path / "c.sqlite3") as cluster:
        owner = await session(cluster)
        calls = [cluster.stub.AllocateRegion(allocation(owner, f"n{i % 2}")) for i in range(40)]
        regions = [(await call).region for call in calls]
        assert len({region.gva for region in regions}) == 40
        assert sum(len(node.books.owned) for node in cluster.nodes) == 40


async def test_stopping_ends_watches_and_refuses_calls() -> None:
    async with rig("n0") as cluster:
        watch = cluster.stub.WatchRoutes(pb.WatchRoutesRequest())
        await watch.read()
        inner = cluster.server._shell
        assert inner is not None
        inner.begin_stop()
        with refused(grpc.StatusCode.UNAVAILABLE, "STOPPING"):
            await watch.read()
        with refused(grpc.StatusCode.UNAVAILABLE, "STOPPING"):
            await cluster.stub.ListNodes(pb.ListNodesRequest())
        async with asyncio.timeout(5):
            await cluster.server.stop()
            await cluster.server.wait()


async def test_stopping_does_not_wait_for_a_hanging_node() -> None:
    async with rig("n0") as cluster:
        owner = await session(cluster)
        cluster.nodes[0].obstacle = hang
        stuck = asyncio.ensure_future(cluster.stub.AllocateRegion(allocation(owner)))
        await cluster.nodes[0].called("MapRegion")
        async with asyncio.timeout(nodes_client.CALL_SECONDS - 0.5):
            await cluster.server.stop()
        with pytest.raises(grpc.aio.AioRpcError):
            await stuck


async def test_a_store_that_fails_is_no_acknowledgement(tmp_path: Path) -> None:
    async with rig("n0", state=tmp_path / "c.sqlite3") as cluster:
        owner = await session(cluster)
        store: Any = cluster.server._store
        store._db.execute("PRAGMA max_page_count = 1")
        with refused(grpc.StatusCode.UNAVAILABLE, "STORE_FAILED") as info:
            for _ in range(200):
                await cluster.stub.AllocateRegion(allocation(owner))
        assert info.reason
        store._db.execute("PRAGMA max_page_count = 1000000")
        before = len((await cluster.stub.ListRegions(pb.ListRegionsRequest())).regions)
        await cluster.stub.AllocateRegion(allocation(owner))
        assert len((await cluster.stub.ListRegions(pb.ListRegionsRequest())).regions) == before + 1


async def test_a_bug_is_answered_and_logged(monkeypatch: pytest.MonkeyPatch, quiet: Any) -> None:
    async with rig("n0") as cluster:
        assert cluster.server._shell is not None
        monkeypatch.setattr(cluster.server._shell._core, "routes", lambda: 1 / 0)
        with refused(grpc.StatusCode.INTERNAL, "INTERNAL"):
            await cluster.stub.ListNodes(pb.ListNodesRequest())
        monkeypatch.undo()
        assert [entry for entry in quiet if entry["event"] == "call failed" and entry["exc_info"]]
        await cluster.stub.ListNodes(pb.ListNodesRequest())


async def test_health_and_reflection() -> None:
    async with rig() as cluster:
        health: Any = health_pb2_grpc.HealthStub(cluster.channel)
        for name in ("", SERVICE, "unimem.v1.DmaService"):
            found = await health.Check(health_pb2.HealthCheckRequest(service=name))
            assert found.status == health_pb2.HealthCheckResponse.SERVING

        async def ask() -> AsyncIterator[Any]:
            yield reflection_pb2.ServerReflectionRequest(list_services="")

        stub: Any = reflection_pb2_grpc.ServerReflectionStub(cluster.channel)
        async for answer in stub.ServerReflectionInfo(ask()):
            names = {service.name for service in answer.list_services_response.service}
        assert {SERVICE, "unimem.v1.DmaService", "grpc.health.v1.Health"} <= names


async def test_a_process_that_was_stopped_expires_nobody() -> None:
    async with rig("n0") as cluster:
        inner = cluster.server._shell
        assert inner is not None
        late = inner._clock() + 60_000_000_000
        await inner._tick(late, asleep=True)
        assert (await cluster.stub.ListNodes(pb.ListNodesRequest())).nodes[0].state == types_pb2.NODE_STATE_UP
        assert shell._ASLEEP_NS < 60_000_000_000
        await inner._tick(late + 10_000_000_000, asleep=False)
        state = (await cluster.stub.ListNodes(pb.ListNodesRequest())).nodes[0].state
        assert state == types_pb2.NODE_STATE_LOST
