"""Page faults of a node that is a process: the kernel's work takes virtual time and no turn of the loop."""

from __future__ import annotations

import asyncio
import itertools

import numpy as np
import pytest

from nodes.service.test_service_host import Recorder
from unimem.addresses import WINDOW_BYTES, window_of
from unimem.wire import WORK_REQUEST, Op, Status
from unimem_node.mpsoc.node import Node
from unimem_node.service import NodeHost
from unimem_node.service.real_time import monotonic_ps

pytestmark = pytest.mark.asyncio

PAGE, DOMAIN = 4096, 7


class Wire(Recorder):
    """Hands frames to the host at the other end, on the loop."""

    def __init__(self, here: int) -> None:
        super().__init__()
        self.here = here
        self.other: NodeHost | None = None

    def send(self, peer: int, frame: np.ndarray) -> None:
        super().send(peer, frame)
        asyncio.get_running_loop().call_soon(self._deliver, frame.copy())

    def _deliver(self, frame: np.ndarray) -> None:
        assert self.other is not None
        self.other.on_frame(self.here, frame)
        self.other.turn()


def pair(policy: str) -> tuple[list[Node], list[NodeHost]]:
    nodes = [
        Node(f"n{i}", i, memory_bytes=64 << 20, fast=False, policy=policy, timer=monotonic_ps)
        for i in range(2)
    ]
    hosts = [NodeHost(node) for node in nodes]
    wires = [Wire(0), Wire(1)]
    for index, (node, host) in enumerate(zip(nodes, hosts, strict=True)):
        node.set_routes([(i, f"n{i}", window_of(i).start, WINDOW_BYTES, 1, 1) for i in range(2)])
        wires[index].other = hosts[1 - index]
        host.connect(wires[index])
        node.open_domain(DOMAIN)
    return nodes, hosts


@pytest.mark.parametrize("policy", ["touch_a_page", "touch_ahead:8", "stall"])
async def test_absent_pages_at_both_ends(policy: str) -> None:
    nodes, hosts = pair(policy)
    source = nodes[0].kernel.process(DOMAIN)
    va = source.map(4 * PAGE, lazy=True)
    source.write(va, b"far" * 1000)
    source.madvise(va, 4 * PAGE, "PAGEOUT")
    gva = window_of(1).start
    nodes[1].kernel.regions.create(nodes[1].kernel.process(DOMAIN), gva, 16 * PAGE, 3, lazy=True)
    wrs = np.zeros(3, WORK_REQUEST)
    wrs["op"], wrs["pdid"] = [Op.WRITE, Op.FETCH_ADD, Op.FETCH_ADD], DOMAIN
    wrs["src"], wrs["length"] = va, [3 * PAGE, 8, 8]
    wrs["dst"], wrs["operand"] = [gva + 100, gva + 8 * PAGE, gva + 8 * PAGE], [0, 5, 5]
    rows = await asyncio.wait_for(hosts[0].submit(wrs), 20)
    assert [Status(int(status)).name for status in rows["status"]] == ["OK"] * 3
    assert nodes[1].read_memory(DOMAIN, gva + 100, 3000) == b"far" * 1000
    assert nodes[1].read_memory(DOMAIN, gva + 8 * PAGE, 8) == (10).to_bytes(8, "little")
    for node in nodes:
        assert {event.outcome for event in node.kernel.fault_log} == {"resolved"}
        assert node.soc.scheduler.idle
    assert sum(event.major for event in nodes[0].kernel.fault_log) == 1  # of four pages one had been written
    for host in hosts:
        host.close()
    for node in nodes:
        node.close()


async def test_a_page_that_is_gone_is_an_error_at_once() -> None:
    nodes, hosts = pair("touch_a_page")
    va, _ = nodes[0].stage(DOMAIN, 64)
    wrs = np.zeros(1, WORK_REQUEST)
    for name, value in zip(
        ("op", "pdid", "src", "dst", "length"), (Op.WRITE, DOMAIN, va, window_of(1).start, 64), strict=True
    ):
        wrs[name] = value
    rows = await asyncio.wait_for(hosts[0].submit(wrs), 5)
    assert rows["status"][0] == Status.TRANSLATION_FAULT
    assert next(itertools.islice(nodes[1].kernel.fault_log, 1)).outcome == "gone"
    for host in hosts:
        host.close()
    for node in nodes:
        node.close()
