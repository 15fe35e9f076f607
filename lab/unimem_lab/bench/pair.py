"""Two real nodes for measuring node to node: one in this process, one in its own, any transport between them.

The near node is a whole `NodeServer` on this event loop; work requests are rung in at its doorbell
(`NodeHost.submit`), as a poster in the same process would. So the figures are those of the path between the
nodes, not of a client's way to its home.
"""

from __future__ import annotations

import asyncio
import os
import subprocess
import sys
from collections.abc import AsyncIterator, Coroutine, Iterator
from contextlib import asynccontextmanager, contextmanager, suppress
from pathlib import Path
from typing import Any, TypeVar

import numpy as np

import unimem
from unimem.wire import WORK_REQUEST, Op, Status
from unimem_lab.processes import ProcessCluster
from unimem_node.service import NodeHost, NodeServer, NodeSettings
from unimem_node.service.process import configure_logging, raise_malloc_thresholds

T = TypeVar("T")

#: What the groups that are not named after a transport use; ``--transport`` changes it.
default_transport = "grpc"


class Pair:
    """The near node's doorbell, a region on the far node, and a staged buffer to send from and to."""

    def __init__(self, host: NodeHost, pdid: int, gva: int, size: int) -> None:
        self.host, self.pdid, self.gva, self.size = host, pdid, gva, size
        self.va, self.buffer = host.node.stage(pdid, size)
        self.buffer[:] = np.random.default_rng(1).integers(0, 256, size, np.uint8)

    def writes(self, count: int, length: int) -> np.ndarray:
        """`count` writes of `length` bytes each, one after the other in buffer and region."""
        wrs = np.zeros(count, WORK_REQUEST)
        offsets = np.arange(count, dtype=np.uint64) * np.uint64(length) % np.uint64(self.size - length + 1)
        wrs["op"], wrs["pdid"], wrs["length"] = Op.WRITE, self.pdid, length
        wrs["src"], wrs["dst"] = np.uint64(self.va) + offsets, np.uint64(self.gva) + offsets
        return wrs

    def reads(self, count: int, length: int) -> np.ndarray:
        """The same as reads."""
        wrs = self.writes(count, length)
        wrs["op"] = Op.READ
        wrs["src"], wrs["dst"] = wrs["dst"].copy(), wrs["src"].copy()
        return wrs

    async def run(self, wrs: np.ndarray) -> np.ndarray:
        """Post and wait. Raises AssertionError when one is not OK: failures are no figures."""
        rows = await self.host.submit(wrs)
        check(rows)
        return rows


def check(rows: np.ndarray) -> None:
    """Every completion is OK."""
    bad = rows[rows["status"] != Status.OK]
    if len(bad):
        raise AssertionError(f"{len(bad)} of {len(rows)} completions failed: {Status(bad['status'][0]).name}")


def pin(pid: int, place: int) -> None:
    """Let all threads of a process run on the `place`-th of our processors only, if there are that many.

    Two ends that a scheduler moves about, or puts on one processor, give figures of the scheduler.
    """
    if not hasattr(os, "sched_setaffinity"):
        return
    processors = sorted(os.sched_getaffinity(os.getppid()))
    if len(processors) < 2:
        return
    _restrict(pid, {processors[place]})


def _restrict(pid: int, processors: set[int]) -> None:
    for thread in Path(f"/proc/{pid}/task").iterdir():
        with suppress(OSError):  # it has ended meanwhile
            os.sched_setaffinity(int(thread.name), processors)


@contextmanager
def pinned() -> Iterator[None]:
    """This process on the first processor, for a while."""
    before = os.sched_getaffinity(0) if hasattr(os, "sched_getaffinity") else None
    pin(os.getpid(), 0)
    try:
        yield
    finally:
        if before is not None:
            _restrict(os.getpid(), before)


@asynccontextmanager
async def node_pair(
    size: int, transport: str | None = None, *, pinned_down: bool = False, platform: str = "zynqmp"
) -> AsyncIterator[Pair]:
    """A pair with a region and buffer of `size` bytes; `pinned_down`: each on a processor of its own.

    Raises AssertionError when the transport is not the one that was asked for.
    """
    transport = transport or default_transport
    configure_logging("warning", as_json=False)
    cluster = await asyncio.to_thread(ProcessCluster, 1, transport=transport, platform=platform)
    try:
        server = NodeServer(
            NodeSettings(
                name="near",
                coordinator=cluster.address,
                log_level="warning",
                transport=transport,  # type: ignore[arg-type]
                platform=platform,
            )
        )
        await server.start()
        try:
            async with await unimem.connect_async(cluster.address, home="near") as um:
                assert server.host is not None
                region = await um.alloc(size, node="n0")
                pair = Pair(server.host, um.pdid, int(region), size)
                await pair.run(pair.writes(1, 8))
                in_use = server.host.transports()["n0"]
                if transport not in ("auto", in_use):
                    raise AssertionError(f"{transport} was asked for, {in_use} is in use")
                if not pinned_down:
                    yield pair
                else:
                    pin(cluster.pid("n0"), 1)
                    with pinned():
                        yield pair
        finally:
            await server.stop()
    finally:
        await asyncio.to_thread(cluster.stop)


@asynccontextmanager
async def bare_server() -> AsyncIterator[int]:
    """The yardstick's far end in a process of its own; yields its port."""
    child = subprocess.Popen(  # noqa: ASYNC220 - once, before anything is timed
        [sys.executable, "-m", "unimem_lab.bench.bare"],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        stderr=subprocess.DEVNULL,
        text=True,
    )
    assert child.stdin is not None
    assert child.stdout is not None
    try:
        yield int(await asyncio.to_thread(child.stdout.readline))
    finally:
        child.stdin.close()
        child.wait()


def on_uvloop(main: Coroutine[Any, Any, T]) -> T:
    """Run as a node process runs: uvloop, and malloc told not to give every buffer back."""
    import uvloop  # noqa: PLC0415

    raise_malloc_thresholds()
    with asyncio.Runner(loop_factory=uvloop.new_event_loop) as runner:
        return runner.run(main)
