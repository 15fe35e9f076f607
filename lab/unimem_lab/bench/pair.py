"""Two real nodes for measuring node to node: one in this process, one in its own, gRPC between them.

The near node is a whole `NodeServer` on this event loop; work requests are rung in at its doorbell
(`NodeHost.submit`), as a poster in the same process would. So the figures are those of the path between the
nodes, not of a client's way to its home.
"""

from __future__ import annotations

import asyncio
import subprocess
import sys
from collections.abc import AsyncIterator, Coroutine
from contextlib import asynccontextmanager
from typing import Any, TypeVar

import numpy as np

import unimem
from unimem.wire import WORK_REQUEST, Op, Status
from unimem_lab.processes import ProcessCluster
from unimem_node.service import NodeHost, NodeServer, NodeSettings
from unimem_node.service.process import configure_logging, raise_malloc_thresholds

T = TypeVar("T")


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


@asynccontextmanager
async def node_pair(size: int) -> AsyncIterator[Pair]:
    """A pair with a region and buffer of `size` bytes."""
    configure_logging("warning", as_json=False)
    cluster = await asyncio.to_thread(ProcessCluster, 1)
    try:
        server = NodeServer(NodeSettings(name="near", coordinator=cluster.address, log_level="warning"))
        await server.start()
        try:
            async with await unimem.connect_async(cluster.address, home="near") as um:
                assert server.host is not None
                region = await um.alloc(size, node="n0")
                yield Pair(server.host, um.pdid, int(region), size)
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
