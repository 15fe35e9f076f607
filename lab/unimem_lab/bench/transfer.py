"""Bandwidth node to node over the `grpc` transport, beside a bare grpc.aio stream, and memcpy.

One transfer at a time: doorbell to completion on our side; all chunks there and the reply back on the
stream's. The two take turns, so that both see the same machine.
"""

from __future__ import annotations

import statistics
import time
from collections.abc import Awaitable, Callable, Iterator
from functools import partial

import numpy as np

from unimem_lab.bench.bare import BareStream, timed
from unimem_lab.bench.pair import bare_server, node_pair, on_uvloop
from unimem_lab.bench.result import Figure

SIZES = {"64KiB": 64 << 10, "1MiB": 1 << 20, "16MiB": 16 << 20}
_WANTED = {"1MiB": 0.7}


def memcpy(size: int) -> float:
    """Bytes a second of copying `size` bytes inside one process."""
    source, target = np.ones(size, np.uint8), np.zeros(size, np.uint8)
    seconds = []
    for _ in range(max(5, (64 << 20) // size)):
        started = time.perf_counter()
        target[:] = source
        seconds.append(time.perf_counter() - started)
    return size / statistics.median(seconds)


async def _measure(quick: bool) -> list[Figure]:
    figures = []
    async with node_pair(16 << 20) as pair, bare_server() as port:
        for label, size in SIZES.items():
            data = bytes(size)
            rounds, each = (3, 4) if quick else (8, max(4, min(64, (32 << 20) // size)))
            writes, reads = pair.writes(1, size), pair.reads(1, size)
            times: dict[str, list[float]] = {"put": [], "get": [], "bare put": [], "bare get": []}
            async with BareStream(port, "put", size) as bare_put, BareStream(port, "get", size) as bare_get:
                runs: dict[str, Callable[[], Awaitable[object]]] = {
                    "put": partial(pair.run, writes),
                    "bare put": partial(bare_put.put, data),
                    "get": partial(pair.run, reads),
                    "bare get": bare_get.get,
                }
                for run in runs.values():
                    await timed(run, 3)
                for _ in range(rounds):
                    for name, run in runs.items():
                        times[name] += await timed(run, each)
            for verb in ("put", "get"):
                figures.append(
                    Figure(
                        f"{verb}_{label}",
                        size / statistics.median(times[verb]),
                        "B/s",
                        "bare grpc.aio stream",
                        size / statistics.median(times[f"bare {verb}"]),
                        wanted=_WANTED.get(label),
                        note=f"memcpy {memcpy(size) / 1e9:.3g} GB/s",
                    )
                )
    return figures


def measure(quick: bool) -> Iterator[Figure]:
    """put and get of 64 KiB, 1 MiB, 16 MiB."""
    yield from on_uvloop(_measure(quick))
