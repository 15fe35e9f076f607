"""Whole nodes for tests: a cluster on the memory fabric, and the few lines that post one request."""

from __future__ import annotations

import itertools
from pathlib import Path

import numpy as np

from unimem.addresses import WINDOW_BYTES, window_of
from unimem.wire import WORK_REQUEST, Op
from unimem_node.clock import EventLog, Scheduler
from unimem_node.fabric import MemoryFabric
from unimem_node.mpsoc.node import Node

UP = 1  # unimem.v1.NodeState


class Nodes:
    """Nodes n0, n1, ... with routes to each other, on one scheduler."""

    def __init__(
        self,
        count: int = 2,
        *,
        fast: bool = True,
        memory_bytes: int = 64 << 20,
        platform: str | Path = "zynqmp",
    ) -> None:
        self.scheduler = Scheduler()
        self.log = EventLog()
        self.fabric = MemoryFabric(self.scheduler)
        self.nodes = [
            Node(
                f"n{i}",
                i,
                platform=platform,
                memory_bytes=memory_bytes,
                scheduler=self.scheduler,
                fast=fast,
                log=self.log,
            )
            for i in range(count)
        ]
        routes = [(i, f"n{i}", window_of(i).start, WINDOW_BYTES, 1, UP) for i in range(count)]
        for node in self.nodes:
            node.set_routes(routes)
            self.fabric.attach(node.index, node)
        self._ids = itertools.count(1)

    def __getitem__(self, index: int) -> Node:
        return self.nodes[index]

    def gva(self, index: int, offset: int = 0) -> int:
        """An address in the window of a node."""
        return window_of(index).start + offset

    def post(self, node: int, op: Op, pdid: int, **fields: int) -> int:
        """Ring the doorbell of a node; returns the work request's number."""
        wr = np.zeros(1, WORK_REQUEST)
        number = next(self._ids)
        for name, value in {"op": op, "pdid": pdid, "wr_id": number, **fields}.items():
            wr[name] = value
        self.nodes[node].post(wr)
        self.nodes[node].pump()
        return number

    def run(self) -> None:
        """Carry frames and let time pass until nothing is left to do."""
        self.fabric.carry()
        self.scheduler.run()

    def do(self, node: int, op: Op, pdid: int, **fields: int) -> np.void:
        """Post one request and return its completion."""
        number = self.post(node, op, pdid, **fields)
        self.run()
        rows = self.nodes[node].take_completions()
        assert rows["wr_id"].tolist() == [number]
        row: np.void = rows[0]
        return row

    def put(self, node: int, pdid: int, gva: int, data: bytes) -> np.void:
        """Write bytes from staging memory of `pdid` on a node to a global address."""
        va, view = self.nodes[node].stage(pdid, len(data))
        view[:] = np.frombuffer(data, np.uint8)
        row = self.do(node, Op.WRITE, pdid, src=va, dst=gva, length=len(data))
        self.nodes[node].unstage(pdid, va)
        return row

    def get(self, node: int, pdid: int, gva: int, n: int) -> tuple[np.void, bytes]:
        """Read bytes from a global address into staging memory of `pdid` on a node."""
        va, view = self.nodes[node].stage(pdid, n)
        row = self.do(node, Op.READ, pdid, src=gva, dst=va, length=n)
        data = view.tobytes()
        self.nodes[node].unstage(pdid, va)
        return row, data
