"""8-byte puts a second node to node: issued singly with 64 outstanding, and in batches of 4,096."""

from __future__ import annotations

import asyncio
import statistics
import time
from collections import deque
from collections.abc import Iterator

from unimem_lab.bench.bare import BareStream
from unimem_lab.bench.pair import Pair, bare_server, check, node_pair, on_uvloop
from unimem_lab.bench.result import Figure

OUTSTANDING = 64
BATCH = 4096


async def singly(pair: Pair, count: int) -> float:
    """Puts a second, each posted by itself, a new one when the oldest of 64 is complete."""
    wrs = pair.writes(count, 8)
    under_way: deque[asyncio.Future[object]] = deque()
    started = time.perf_counter()
    for i in range(count):
        if len(under_way) == OUTSTANDING:
            check(await under_way.popleft())  # type: ignore[arg-type]
        under_way.append(pair.host.submit(wrs[i : i + 1]))  # type: ignore[arg-type]
    for future in under_way:
        check(await future)  # type: ignore[arg-type]
    return count / (time.perf_counter() - started)


async def batched(pair: Pair, batches: int, under_way: int = 4) -> float:
    """Puts a second in batches of 4,096, four batches under way."""
    wrs = pair.writes(BATCH, 8)
    waiting: deque[asyncio.Future[object]] = deque()
    started = time.perf_counter()
    for _ in range(batches):
        if len(waiting) == under_way:
            check(await waiting.popleft())  # type: ignore[arg-type]
        waiting.append(pair.host.submit(wrs))  # type: ignore[arg-type]
    for future in waiting:
        check(await future)  # type: ignore[arg-type]
    return batches * BATCH / (time.perf_counter() - started)


async def _measure(quick: bool) -> list[Figure]:
    rounds, count, batches = (3, 2000, 20) if quick else (7, 8000, 100)
    single: list[float] = []
    bare: list[float] = []
    many: list[float] = []
    async with node_pair(1 << 20) as pair, bare_server() as port, BareStream(port, "echo") as stream:
        await singly(pair, 500)
        await stream.rate(500, OUTSTANDING)
        await batched(pair, 8)
        for _ in range(rounds):
            single.append(await singly(pair, count))
            bare.append(await stream.rate(count, OUTSTANDING))
            many.append(await batched(pair, batches))
    yardstick = statistics.median(bare)
    return [
        Figure(
            "put_8B_rate",
            statistics.median(single),
            "1/s",
            "bare grpc.aio messages",
            yardstick,
            wanted=1.0,
            note="64 outstanding",
        ),
        Figure(
            "put_8B_rate_batched",
            statistics.median(many),
            "1/s",
            wanted=1e6,
            absolute=True,
            note=f"batches of {BATCH}, 4 under way",
        ),
    ]


def measure(quick: bool) -> Iterator[Figure]:
    """Single and batched."""
    yield from on_uvloop(_measure(quick))
