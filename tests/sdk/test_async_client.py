"""`unimem.async_client`: the same verbs, as coroutines."""

from __future__ import annotations

import asyncio
import inspect
from collections.abc import Awaitable, Callable
from typing import Any

import numpy as np
import pytest
from fakes import AsyncLoopbackPort, FakeCluster

from unimem import AsyncClient, Client, DeadlineExceeded, NoRoute, TranslationFault, UsageError

PLAIN = {"fence", "put_async", "get_async", "copy_async", "batch"}


def public(kind: type) -> dict[str, Any]:
    return {k: v for k, v in inspect.getmembers(kind) if not k.startswith("_")}


def test_both_clients_have_the_same_verbs_and_keywords() -> None:
    sync, async_ = public(Client), public(AsyncClient)
    assert set(sync) == set(async_)
    for name, member in sync.items():
        if not inspect.isfunction(member):
            continue
        other = async_[name]
        assert list(inspect.signature(member).parameters.values()) == list(
            inspect.signature(other).parameters.values()
        ), name
        assert inspect.iscoroutinefunction(other) == (name not in PLAIN), name


def run(test: Callable[[AsyncClient, AsyncLoopbackPort], Awaitable[None]], **options: Any) -> None:
    async def main() -> None:
        port = AsyncLoopbackPort(FakeCluster(), **options)
        async with AsyncClient(port) as um:  # type: ignore[arg-type]
            await test(um, port)
        assert port.closed == 1

    asyncio.run(main())


@pytest.mark.parametrize("deferred", [False, True])
def test_the_verbs(deferred: bool) -> None:
    async def body(um: AsyncClient, port: AsyncLoopbackPort) -> None:
        p, q = await um.alloc(64, node="n1"), await um.alloc(64, node="n2")
        await um.put(p, b"12345678")
        assert (await um.get(p, 8)).tobytes() == b"12345678"
        await um.copy(q, p, 8)
        assert (await um.get(q, out=bytearray(8))) == b"12345678"
        assert await um.fetch_add(p + 8, 3) == 0
        assert await um.compare_swap(p + 8, 3, 9) == 3
        assert await um.swap(p + 8, 1) == 9
        await um.put_many([int(p) + 16, int(p) + 32], np.array([5, 6], "u8"))
        assert (await um.get_many([int(p) + 32], 8)).view("u8").tolist() == [[6]]
        await um.put_signal(p, b"x", q + 8)
        assert await um.wait_until(q + 8, 1) == 1
        await um.barrier(q + 16, 1)
        um.fence()
        t = um.put_async(p, b"y")
        await um.flush()
        assert t.done()
        async with um.batch() as b:
            found = b.get(p, 1)
        assert found.result().tobytes() == b"y"
        assert [n.name for n in await um.nodes()] == ["n0", "n1", "n2", "n3"]
        assert (await um.resolve(p)).node.name == "n1"
        assert len(await um.regions()) == 2
        await um.share(p, pdid=9, rights="r")
        assert await um.pointer(int(p) + 1) == p + 1
        assert (await um.array_at(int(p), 4)).shape == (4,)
        assert (await um.reachability("n1")) == {"n1": "simulated"}
        await um.free(p)
        await um.free(await um.array(8))

    run(body, deferred=deferred)


def test_errors_and_deadlines() -> None:
    async def body(um: AsyncClient, port: AsyncLoopbackPort) -> None:
        p = await um.alloc(8)
        with pytest.raises(TranslationFault):
            await um.put(0x700_0000_0000, b"x")
        with pytest.raises(ExceptionGroup):
            await um.put_many([0x700_0000_0000], [1])
        with pytest.raises(NoRoute):
            await um.copy(p, 0x700_0000_0000, 8)
        um.put_async(0x700_0000_0000, b"x")
        with pytest.raises(ExceptionGroup):
            await um.flush()
        port.frozen = True
        for call in (
            um.put(p, b"x", timeout=0.01),
            um.put_many([int(p)], [1], timeout=0.01),
            um.wait_until(p, 5, timeout=0.01),
        ):
            with pytest.raises(DeadlineExceeded):
                await call
        um.put_async(p, b"x")
        with pytest.raises(DeadlineExceeded):
            await um.flush(timeout=0.01)
        port.frozen = False
        await um.flush()
        with pytest.raises(UsageError):
            await um.wait_until(p, 5, compare="~")
        with pytest.raises(UsageError):
            await um.put(p, b"x", at=7)  # type: ignore[arg-type]

    run(body, deferred=True)


def test_a_closed_client_says_so() -> None:
    async def main() -> None:
        um = AsyncClient(AsyncLoopbackPort(FakeCluster()))  # type: ignore[arg-type]
        p = await um.alloc(8)
        await um.close()
        await um.close()
        for call in (um.put(p, b"x"), um.nodes()):
            with pytest.raises(UsageError, match="closed"):
                await call

    asyncio.run(main())
