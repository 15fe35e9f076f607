"""Where the microseconds of one put go, by part, at both ends: ``python -m unimem_lab.bench.profile tcp``.

A put of 16 MiB (or ``--bytes``) from a node in this process to one in its own, each pinned. The calls between
the service and the model, and those of the transport, are timed from outside, by wrapping them: a few tenths
of a microsecond a call, a few hundred calls. What a loop spends in the kernel waiting is the rest. The two
ends work at the same time, so their columns do not add up to the duration; each column does.
"""

from __future__ import annotations

import argparse
import asyncio
import functools
import json
import os
import signal
import subprocess
import sys
import time
from collections import defaultdict
from collections.abc import Callable
from typing import Any

import unimem
from unimem_lab.bench.pair import Pair, on_uvloop, pin, pinned
from unimem_lab.processes import ProcessCluster
from unimem_node.service import NodeHost, NodeServer, NodeSettings
from unimem_node.service.process import configure_logging
from unimem_node.service.transports import stream
from unimem_node.service.transports.ring import Receiver, Sender
from unimem_node.service.transports.shm import ShmLink

#: (class, method, part)
PARTS = (
    (NodeHost, "post", "post: work requests into the interface"),
    (NodeHost, "on_frame", "examine frames: CRC, translate, copy to or from DRAM, make answers"),
    (NodeHost, "_deliver", "completions to their posters"),
    (stream.StreamLink, "flush", "send: sendmsg"),
    (Sender, "put", "send: copy into the ring"),
    (Receiver, "get", "receive: look into the ring"),
    (ShmLink, "_ring", "send: doorbell"),
)
CUT = "cut: translate, copy from DRAM, CRC, frame"


class Stopwatch:
    """Seconds and calls by part; a part that runs inside another is not counted twice."""

    def __init__(self) -> None:
        self.seconds: dict[str, float] = defaultdict(float)
        self.calls: dict[str, int] = defaultdict(int)
        self._inner = [0.0]

    def wrap(self, fn: Callable[..., Any], part: str) -> Callable[..., Any]:
        """`fn`, timed."""

        @functools.wraps(fn)
        def timed(*args: Any, **kwargs: Any) -> Any:
            self._inner.append(0.0)
            started = time.perf_counter()
            try:
                return fn(*args, **kwargs)
            finally:
                spent = time.perf_counter() - started
                self.seconds[part] += spent - self._inner.pop()
                self.calls[part] += 1
                self._inner[-1] += spent

        return timed

    def install(self) -> None:
        """Wrap the parts."""
        from unimem_node.mpsoc.node import Node  # noqa: PLC0415 - loads compiled code

        for owner, method, part in (*PARTS, (Node, "pump", CUT)):
            setattr(owner, method, self.wrap(getattr(owner, method), part))

    def clear(self) -> None:
        """Begin again."""
        self.seconds.clear()
        self.calls.clear()


def _far(arguments: list[str]) -> int:
    """The far end: a node that says what it has spent when it is told to stop; SIGUSR1 begins again."""
    from unimem_node.service.config import parse_flags  # noqa: PLC0415
    from unimem_node.service.process import run_node  # noqa: PLC0415

    watch = Stopwatch()
    watch.install()
    signal.signal(signal.SIGUSR1, lambda *_: watch.clear())
    code = run_node(parse_flags(arguments), lambda address: print(address, flush=True))  # noqa: T201
    print(json.dumps({"seconds": watch.seconds, "calls": watch.calls}), flush=True)  # noqa: T201
    return code


async def _profile(transport: str, size: int, times: int) -> dict[str, Any]:
    watch = Stopwatch()
    watch.install()
    configure_logging("error", as_json=False)
    cluster = await asyncio.to_thread(ProcessCluster, 0)
    flags = ["--name", "far", "--coordinator", cluster.address, "--transport", transport]
    far = subprocess.Popen(  # noqa: ASYNC220 - once, before anything is timed
        [sys.executable, "-m", "unimem_lab.bench.profile", "--far", *flags, "--log-level", "error"],
        stdout=subprocess.PIPE,
        text=True,
    )
    assert far.stdout is not None
    try:
        await asyncio.to_thread(far.stdout.readline)
        settings = NodeSettings.model_validate(
            {"name": "near", "coordinator": cluster.address, "transport": transport}
        )
        server = NodeServer(settings)
        await server.start()
        async with await unimem.connect_async(cluster.address, home="near") as um:
            assert server.host is not None
            region = await um.alloc(size, node="far")
            pair = Pair(server.host, um.pdid, int(region), size)
            wrs = pair.writes(1, size)
            pin(far.pid, 1)
            with pinned():
                for _ in range(5):
                    await pair.run(wrs)
                far.send_signal(signal.SIGUSR1)
                await asyncio.sleep(0.2)
                watch.clear()
                started = time.perf_counter()
                for _ in range(times):
                    await pair.run(wrs)
                took = time.perf_counter() - started
                near = {"seconds": dict(watch.seconds), "calls": dict(watch.calls)}
            far.send_signal(signal.SIGTERM)
            said = json.loads(await asyncio.to_thread(far.stdout.readline))
        await server.stop()
    finally:
        far.kill()
        far.wait()
        await asyncio.to_thread(cluster.stop)
    return {"took": took, "near": near, "far": said}


def table(result: dict[str, Any], times: int) -> str:
    """Both columns, microseconds of one put."""
    lines = ["| part | near, µs | calls | far, µs | calls |", "|---|---:|---:|---:|---:|"]
    near, far = result["near"], result["far"]
    for part in sorted({*near["seconds"], *far["seconds"]}, key=lambda part: -near["seconds"].get(part, 0)):
        cells = [
            cell
            for side in (near, far)
            for cell in (
                f"{side['seconds'].get(part, 0) / times * 1e6:.0f}",
                f"{side['calls'].get(part, 0) / times:.3g}",
            )
        ]
        lines.append(f"| {part} | {' | '.join(cells)} |")
    took = result["took"] / times * 1e6
    rest = [f"{took - sum(side['seconds'].values()) / times * 1e6:.0f}" for side in (near, far)]
    lines.append(
        f"| the rest: receiving from the kernel, the event loop, waiting for the other end "
        f"| {rest[0]} | | {rest[1]} | |"
    )
    lines.append(f"| **all** | **{took:.0f}** | | **{took:.0f}** | |")
    return "\n".join(lines)


def main() -> int:
    """Profile one transport, print a table for docs/performance.md."""
    if sys.argv[1:2] == ["--far"]:
        return _far(sys.argv[2:])
    parser = argparse.ArgumentParser(prog="python -m unimem_lab.bench.profile", description=__doc__)
    parser.add_argument("transport", choices=("tcp", "unix", "shm", "grpc"))
    parser.add_argument("--bytes", type=int, default=16 << 20)
    parser.add_argument("--times", type=int, default=20)
    given = parser.parse_args()
    result = on_uvloop(_profile(given.transport, given.bytes, given.times))
    size_mib = given.bytes / (1 << 20)
    print(f"put of {size_mib:g} MiB over {given.transport}, mean of {given.times}, {os.cpu_count()} cores\n")  # noqa: T201
    print(table(result, given.times))  # noqa: T201
    return 0


if __name__ == "__main__":
    sys.exit(main())
