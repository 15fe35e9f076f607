"""One transfer at a time, over so many links: latency and bandwidth by size and distance (E9, E10).

Latency is one way: from the doorbell until the last byte is in the target's memory, library and interface
included, as arXiv 2307.09371 counts it. The first transfer finds no translation in any TLB and is left out,
as a benchmark's first rounds are.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import ClassVar, Literal

from unimem.wire import TIMING_PARTS
from unimem_lab.experiments.values import Count, Size, Whole
from unimem_lab.experiments.workloads.base import NotHere, Outcome, Stage, Workload, traffic
from unimem_node.fabric.topology import hops


class TransferWorkload(Workload):
    """`samples` transfers of `bytes` to the nearest node that is `hops` links away, after `warm_up` others.

    Quantities: round_trip_us, of puts one_way_us, gbps (bytes by one way; of gets by the round trip), and
    <part>_us, all of the mean.
    """

    anywhere: ClassVar[bool] = True

    type: Literal["transfer"]
    bytes: Size = 8
    hops: Count = 1
    op: Literal["put", "get"] = "put"
    samples: Count = 4
    warm_up: Whole = 1

    def play(self, stage: Stage) -> Callable[[], Outcome]:
        """See `Workload.play`."""
        home = stage.nodes[0]
        far = self._far(stage)
        um = stage.client(home)
        data = stage.bytes("data", self.bytes)
        there = um.alloc(self.bytes, node=far)
        stage.memory_in_use(far, int(there), self.bytes)
        if self.op == "get":
            um.put(there, data)
        stage.ready()
        for number in range(self.warm_up + self.samples):
            label = self.op if number >= self.warm_up else f"{self.op} (warm-up)"
            transfer = um.put_async(there, data) if self.op == "put" else um.get_async(there, self.bytes)
            stage.wait(transfer, label, home, far)

        def report() -> Outcome:
            ops = [op for op in stage.ops if op.label == self.op and op.outcome == "ok"]
            quantities = traffic([op for op in stage.ops if op.label == self.op])
            quantities["failed"] = sum(op.outcome != "ok" for op in stage.ops)
            arrived = bytes(um.get(there, self.bytes)) if quantities["failed"] == 0 else data
            quantities["wrong_bytes"] = sum(a != b for a, b in zip(arrived, data, strict=True))
            if ops:
                whole = sum(op.done_ps - op.posted_ps for op in ops) / len(ops)
                one_way = sum(op.one_way_ps for op in ops) / len(ops)
                quantities["round_trip_us"] = whole / 1e6
                if self.op == "put":
                    quantities["one_way_us"] = one_way / 1e6
                quantities["gbps"] = self.bytes * 8e3 / (one_way if self.op == "put" else whole)
                for position, part in enumerate(TIMING_PARTS):
                    quantities[f"{part}_us"] = sum(op.parts_ps[position] for op in ops) / len(ops) / 1e6
            return Outcome(quantities, expected={"failed": 0, "wrong_bytes": 0})

        return report

    def _far(self, stage: Stage) -> str:
        topology = stage.topology
        for place, name in enumerate(stage.nodes):
            if place and hops(topology, len(stage.nodes), 0, place) == self.hops:
                return name
        raise NotHere(
            f"no node is {self.hops} hops from {stage.nodes[0]} in a {topology} of "
            f"{len(stage.nodes)}: take more nodes, or another topology"
        )
