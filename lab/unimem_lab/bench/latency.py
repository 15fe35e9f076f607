"""Latency of one 8-byte put, node to node, beside a bare grpc.aio ping-pong of 8 bytes."""

from __future__ import annotations

from collections.abc import Iterator

from unimem_lab.bench.bare import BareStream, timed
from unimem_lab.bench.pair import bare_server, node_pair, on_uvloop
from unimem_lab.bench.result import Figure


def quantile(values: list[float], q: float) -> float:
    """The `q` quantile by rank."""
    return sorted(values)[min(len(values) - 1, int(q * len(values)))]


async def _measure(quick: bool) -> list[Figure]:
    rounds, each = (4, 100) if quick else (10, 400)
    ours: list[float] = []
    bare: list[float] = []
    async with node_pair(4096) as pair, bare_server() as port, BareStream(port, "echo") as stream:
        wrs = pair.writes(1, 8)
        await timed(lambda: pair.run(wrs), 100)
        await timed(stream.ping, 100)
        for _ in range(rounds):
            ours += await timed(lambda: pair.run(wrs), each)
            bare += await timed(stream.ping, each)
    return [
        Figure(
            f"put_8B_{name}",
            quantile(ours, q) * 1e6,
            "µs",
            "bare grpc.aio ping-pong",
            quantile(bare, q) * 1e6,
            wanted=2.0 if name == "p50" else None,
            lower=True,
        )
        for name, q in (("p50", 0.5), ("p99", 0.99))
    ]


def measure(quick: bool) -> Iterator[Figure]:
    """p50 and p99."""
    yield from on_uvloop(_measure(quick))
