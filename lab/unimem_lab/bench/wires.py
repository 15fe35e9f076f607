"""The transports `tcp` and `shm`, node to node, beside bare sockets, memcpy and UCX in the same run.

Groups ``tcp`` and ``shm``. Each end is pinned to a processor of its own, ours, the sockets' and UCX' alike;
ours and the sockets take turns. A blocking put is from doorbell to completion. Names are those of the other
groups with the transport in front; ``..._over_ucx`` is the same figure beside UCX over the same medium.
"""

from __future__ import annotations

import statistics
import tempfile
from collections.abc import Iterator
from contextlib import AsyncExitStack, contextmanager
from importlib.resources import files
from pathlib import Path

from unimem_lab.bench.bare import timed
from unimem_lab.bench.latency import quantile
from unimem_lab.bench.pair import Pair, node_pair, on_uvloop
from unimem_lab.bench.rate import BATCH, batched, singly
from unimem_lab.bench.result import Figure
from unimem_lab.bench.sockets import BareSockets
from unimem_lab.bench.transfer import SIZES, memcpy
from unimem_lab.bench.ucx import measure_ucx

_LARGEST = 16 << 20


class _Times:
    """Seconds of each thing measured, by name."""

    def __init__(self) -> None:
        self._of: dict[str, list[float]] = {}

    def add(self, name: str, seconds: list[float]) -> None:
        self._of.setdefault(name, []).extend(seconds)

    def p(self, name: str, q: float = 0.5) -> float:
        return quantile(self._of[name], q)


async def _measure(kind: str, quick: bool) -> tuple[_Times, dict[str, float]]:
    """(seconds of puts and gets of ours and of bare sockets, rates)."""
    times = _Times()
    rounds = 5 if quick else 15
    rates: dict[str, list[float]] = {"singly": [], "batched": []}
    sizes = {"8B": 8, **SIZES}
    async with AsyncExitStack() as stack:
        pair = await stack.enter_async_context(node_pair(_LARGEST, kind, pinned_down=True))
        tcp, unix = stack.enter_context(BareSockets("tcp")), stack.enter_context(BareSockets("unix"))
        for turn in range(-1, rounds):
            for label, size in sizes.items():
                each = max(2, min(400, (16 << 20) // size))
                puts = await _puts(pair, size, each)
                gets = await _gets(pair, size, each) if size > 8 else []
                bare, bare_unix = tcp.puts(size, each), unix.puts(size, each)
                if turn >= 0:  # the first is for warming up
                    times.add(f"put_{label}", puts)
                    times.add(f"get_{label}", gets)
                    times.add(f"bare_{label}", bare)
                    times.add(f"bare_unix_{label}", bare_unix)
            one, many = await singly(pair, 2000), await batched(pair, 40)
            if turn >= 0:
                rates["singly"].append(one)
                rates["batched"].append(many)
    with _unchecked() as platform:  # not beside the others: two pairs on two processors disturb each other
        async with node_pair(_LARGEST, kind, pinned_down=True, platform=platform) as trusting:
            for turn in range(-1, rounds):
                for label, size in sizes.items():
                    puts = await _puts(trusting, size, max(2, min(400, (16 << 20) // size)))
                    if turn >= 0:
                        times.add(f"unchecked_{label}", puts)
    return times, {name: statistics.median(values) for name, values in rates.items()}


@contextmanager
def _unchecked() -> Iterator[str]:
    """A platform file like `zynqmp` whose network interface leaves out CRC, window and timers."""
    text = (files("unimem_node.mpsoc") / "platforms" / "zynqmp.toml").read_text()
    with tempfile.TemporaryDirectory(prefix="unimem-") as folder:
        path = Path(folder) / "unchecked.toml"
        path.write_text(text.replace('type = "rdma"\n', 'type = "rdma"\nchecks = false\n'))
        yield str(path)


async def _puts(pair: Pair, size: int, times: int) -> list[float]:
    wrs = pair.writes(1, size)
    return await timed(lambda: pair.run(wrs), times)


async def _gets(pair: Pair, size: int, times: int) -> list[float]:
    wrs = pair.reads(1, size)
    return await timed(lambda: pair.run(wrs), times)


def measure(kind: str, quick: bool) -> Iterator[Figure]:
    """Every figure of one transport."""
    times, rates = on_uvloop(_measure(kind, quick))
    ucx = measure_ucx(kind, 3 if quick else 7)
    beside = f"UCX over {kind}" if ucx else "UCX is not installed"
    shm = kind == "shm"

    def per_second(name: str, size: int) -> float:
        return size / times.p(name)

    for label, size in SIZES.items():
        copied = memcpy(size)
        for verb in ("put", "get"):
            value = per_second(f"{verb}_{label}", size)
            wanted = (0.5 if shm else 0.8) if (verb, label) == ("put", "1MiB") else None
            yield Figure(
                f"{kind}_{verb}_{label}",
                value,
                "B/s",
                "memcpy" if shm else "bare sockets",
                copied if shm else per_second(f"bare_{label}", size),
                wanted,
                note=f"bare sockets {per_second(f'bare_{label}', size) / 1e9:.3g}, over a Unix socket "
                f"{per_second(f'bare_unix_{label}', size) / 1e9:.3g}, memcpy {copied / 1e9:.3g} GB/s",
            )
        yield Figure(
            f"{kind}_put_{label}_over_ucx",
            per_second(f"put_{label}", size),
            "B/s",
            beside,
            size / ucx[f"put_{label}"] if ucx else None,
            1.5 if label == "1MiB" and not shm else None,
        )
    for name, q in (("p50", 0.5), ("p99", 0.99)):
        yield Figure(
            f"{kind}_put_8B_{name}",
            times.p("put_8B", q) * 1e6,
            "µs",
            "bare TCP ping-pong",
            times.p("bare_8B", q) * 1e6,
            (1.0 if shm else 3.0) if name == "p50" else None,
            lower=True,
            note=f"ping-pong over a Unix socket {times.p('bare_unix_8B', q) * 1e6:.3g} µs",
        )
    yield Figure(
        f"{kind}_put_8B_over_ucx",
        times.p("put_8B") * 1e6,
        "µs",
        beside + " with flush" if ucx else beside,
        ucx["put_8B"] * 1e6 if ucx else None,
        lower=True,
    )
    for label in ("8B", *SIZES):
        yield Figure(
            f"{kind}_put_{label}_checks",
            times.p(f"put_{label}") * 1e6,
            "µs",
            "without CRC, window and timers",
            times.p(f"unchecked_{label}") * 1e6,
            1.1,
            lower=True,
        )
    yield Figure(f"{kind}_put_8B_rate", rates["singly"], "1/s", note="64 outstanding")
    yield Figure(
        f"{kind}_put_8B_rate_batched",
        rates["batched"],
        "1/s",
        wanted=2e6,
        absolute=True,
        note=f"batches of {BATCH}, 4 under way",
    )
    yield Figure(
        f"{kind}_put_8B_rate_over_ucx",
        rates["batched"],
        "1/s",
        beside + ", best of 64 and 4,096 between flushes" if ucx else beside,
        max(ucx["rate_64"], ucx["rate_4096"]) if ucx else None,
        None if shm else 10.0,
    )
