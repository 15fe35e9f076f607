"""The compiled path and the readable one do the same: memory, counters, completions, times, every frame.

Random programs run on two clusters that differ in nothing else; what single operations leave in memory is
checked against plain byte strings too.
"""

from __future__ import annotations

import hashlib
from typing import Any

import numpy as np
from hypothesis import given, settings
from hypothesis import strategies as st

from support.rdma import SMALL, Cluster
from unimem.wire import CompletionFlags, Op, Status, WorkFlags

LOCAL, REGION = 0x10_0000, 5 * 4096  # bytes mapped, in each process and each window
HOLE = REGION - 4096 + 100  # straddles the end
PDIDS = (7, 8, 9, 55)  # 8 has a read-only share, 9 is known at home only, 55 nowhere

requests = st.fixed_dictionaries(
    {
        "node": st.integers(0, 2),
        "target": st.integers(0, 3),
        "op": st.sampled_from([*Op, Op.WRITE, Op.READ, 0, 77]),
        "pdid": st.sampled_from([7, 7, 7, 7, *PDIDS]),
        "local": st.sampled_from([0, 1, 8, 4090, 8192, HOLE, 1 << 40, (1 << 64) - 9]),
        "remote": st.sampled_from([0, 0, 8, 16, 4088, 4091, 12288, HOLE, REGION + 4096, 1 << 35]),
        "length": st.sampled_from([8, 8, 8, 0, 1, 7, 64, 4096, 4097, 9000, 20000, 1 << 50]),
        "operand": st.sampled_from([0, 1, 5, (1 << 64) - 1]),
        "compare": st.sampled_from([0, 1, 5]),
        "fence": st.booleans(),
    }
)
steps = st.one_of(
    st.lists(requests, min_size=1, max_size=12),
    st.sampled_from(["run", "unmap", "remap", "disable", "enable", "quiet", "loud", "evict", "lose"]),
)


def build(fast: bool) -> Cluster:
    cluster = Cluster(3, fast=fast, spec=SMALL)
    for node in cluster.nodes:
        node.open(8)
        node.map(7, LOCAL, REGION, scattered=True)
        node.map(8, LOCAL, REGION)
        node.map(7, cluster.gva(node.index), REGION, scattered=True)
        node.share(7, 8, cluster.gva(node.index), REGION, write=False)
        for pdid in (7, 8):
            node.poke(pdid, LOCAL, np.random.default_rng(node.index * 10 + pdid).bytes(REGION))
    cluster.nodes[0].open(9)
    cluster.nodes[0].map(9, LOCAL, REGION)
    return cluster


class Observer:
    """Runs steps on a cluster and notes everything that can be seen."""

    def __init__(self, fast: bool) -> None:
        self.cluster = build(fast)
        self.seen: list[Any] = []
        self.number = 0
        self.mapped = True
        for node in self.cluster.nodes:
            self.watch(node)

    def watch(self, node: Any) -> None:
        take = node.take_frames

        def taking() -> list[tuple[int, np.ndarray]]:
            frames: list[tuple[int, np.ndarray]] = take()
            self.seen += [(node.index, peer, hashlib.sha256(frame).hexdigest()) for peer, frame in frames]
            return frames

        node.take_frames = taking

    def step(self, step: Any) -> None:
        target = self.cluster.nodes[1]
        base = self.cluster.gva(1)
        if isinstance(step, list):
            for fields in step:
                self.post(**fields)
        elif step == "run":
            self.run()
        elif step in ("unmap", "remap"):
            if self.mapped:
                target.unmap(7, base, REGION)
            self.mapped = step == "remap"
            if self.mapped:
                target.map(7, base, REGION)
        elif step in ("disable", "enable"):
            target.bus.write32(0xA001_0008, 3 if step == "enable" else 2)
        elif step in ("quiet", "loud"):
            target.set_reporting(7, step == "loud")
        elif step == "evict":
            for slot in range(16):
                target.bus.write32(0xA001_0100 + 4 * slot, 0)
        else:
            self.cluster.nodes[0].pump()
            self.cluster.nodes[0].peer_lost(1, "a test")

    def post(
        self, node: int, target: int, op: int, local: int, remote: int, fence: bool, **fields: int
    ) -> None:
        self.number += 1
        there = self.cluster.gva(target, remote)
        here = (LOCAL + local) % (1 << 64)
        src, dst = (there, here) if op == Op.READ else (here, there)
        flags = int(WorkFlags.FENCE) if fence else 0
        self.cluster.post(node, op, wr_id=self.number, src=src, dst=dst, flags=flags, **fields)  # type: ignore[arg-type]

    def run(self) -> None:
        self.cluster.run()
        for node in self.cluster.nodes:
            rows = node.ni.take_completions()
            assert (rows["parts_ps"].sum(axis=1) == rows["done_ps"] - rows["posted_ps"]).all()
            self.seen.append(rows.tobytes())

    def finish(self) -> list[Any]:
        self.run()
        for node in self.cluster.nodes:
            assert node.ni.idle
            self.seen += [
                node.ni.counters(),
                node.smmu.counters(),
                node.ni.clock_ps,
                hashlib.sha256(node.memory.read(0, 1 << 20)).hexdigest(),
                [node.fsr(pdid) for pdid in node.processes],
            ]
        self.cluster.close()
        return self.seen


@settings(max_examples=60)
@given(st.lists(steps, min_size=1, max_size=8))
def test_compiled_and_readable_agree(program: list[Any]) -> None:
    compiled, readable = Observer(True), Observer(False)
    for step in program:
        compiled.step(step)
        readable.step(step)
    one, two = compiled.finish(), readable.finish()
    assert len(one) == len(two)
    for a, b in zip(one, two, strict=True):
        assert a == b


@settings(max_examples=40)
@given(st.lists(requests, min_size=1, max_size=25), st.booleans())
def test_memory_is_what_the_completions_say(program: list[dict[str, Any]], fast: bool) -> None:
    """One operation at a time, against byte strings: OK means done, definite means untouched."""
    observer = Observer(fast)
    cluster = observer.cluster
    regions = [bytearray(REGION) for _ in cluster.nodes]
    locals_ = {(n.index, p): bytearray(n.peek(p, LOCAL, REGION)) for n in cluster.nodes for p in (7, 8)}
    for fields in program:
        observer.post(**fields)
        (row,) = cluster.completions(fields["node"])
        home = locals_.get((fields["node"], fields["pdid"]))
        at, n = fields["remote"], fields["length"]
        if row["status"] == Status.OK:
            assert home is not None
            target = regions[fields["target"]]
            if fields["op"] == Op.WRITE:
                target[at : at + n] = home[fields["local"] : fields["local"] + n]
            elif fields["op"] == Op.READ:
                home[fields["local"] : fields["local"] + n] = target[at : at + n]
            else:
                old = int.from_bytes(target[at : at + 8], "little")
                assert row["value"] == old
                new = fields["operand"]
                if fields["op"] == Op.FETCH_ADD:
                    new = (old + new) % (1 << 64)
                elif fields["op"] == Op.COMPARE_SWAP and old != fields["compare"]:
                    new = old
                target[at : at + 8] = new.to_bytes(8, "little")
            assert row["bytes"] == (n if fields["op"] in (Op.WRITE, Op.READ) else 8)
        elif fields["op"] == Op.READ and home is not None:
            home[:] = cluster.nodes[fields["node"]].peek(fields["pdid"], LOCAL, REGION)  # in part, perhaps
        elif not row["flags"] & CompletionFlags.DEFINITE:
            node = cluster.nodes[fields["target"]]
            regions[fields["target"]][:] = node.peek(7, cluster.gva(node.index), REGION)
        for node in cluster.nodes:
            assert node.peek(7, cluster.gva(node.index), REGION) == regions[node.index]
            for pdid in (7, 8):
                assert node.peek(pdid, LOCAL, REGION) == locals_[node.index, pdid]
    cluster.close()
