"""Atomics of 4 and 8 bytes: what they do, and that they do it once, whatever the network does."""

from __future__ import annotations

from collections.abc import Iterator

import pytest

from support.lossy import LossyNet
from support.rdma import Cluster, RdmaSpec
from unimem.wire import Op, Status

SPEC = RdmaSpec(block_bytes=4096, frame_payload_bytes=4096, frame_packets=2, peer_bytes=32768)


@pytest.fixture(params=[False, True], ids=["readable", "compiled"])
def cluster(request: pytest.FixtureRequest) -> Iterator[Cluster]:
    made = Cluster(2, fast=request.param, spec=SPEC)
    made.nodes[1].map(made.pdid, made.gva(1), 4096)
    yield made
    made.close()


@pytest.mark.parametrize(
    ("op", "operand", "compare", "before", "after"),
    [
        (Op.FETCH_ADD, 3, 0, 0xFFFF_FFFE, 1),  # wraps at 32 bits
        (Op.FETCH_ADD, 0xFFFF_FFFF_FFFF_FFFF, 0, 5, 4),  # an addend's upper half does not matter
        (Op.SWAP, 7, 0, 9, 7),
        (Op.COMPARE_SWAP, 7, 9, 9, 7),
        (Op.COMPARE_SWAP, 7, 8, 9, 9),
    ],
)
def test_four_bytes_change_and_their_neighbours_do_not(
    cluster: Cluster, op: Op, operand: int, compare: int, before: int, after: int
) -> None:
    at = cluster.gva(1, 8)
    far = cluster.nodes[1]
    far.poke(cluster.pdid, at - 8, b"\xaa" * 24)
    far.poke(cluster.pdid, at + 4, before.to_bytes(4, "little"))
    cluster.post(0, op, dst=at + 4, length=4, operand=operand, compare=compare)
    row = cluster.one(0)
    assert (row["status"], row["bytes"], row["value"]) == (Status.OK, 4, before)
    wanted = b"\xaa" * 12 + after.to_bytes(4, "little") + b"\xaa" * 8
    assert far.peek(cluster.pdid, at - 8, 24) == wanted


@pytest.mark.parametrize(("length", "offset"), [(4, 2), (8, 4), (4, 1)])
def test_a_word_lies_at_a_multiple_of_its_size(cluster: Cluster, length: int, offset: int) -> None:
    cluster.post(0, Op.SWAP, dst=cluster.gva(1, offset), length=length, operand=1)
    assert cluster.one(0)["status"] == Status.MISALIGNED


@pytest.mark.parametrize("length", [1, 2, 3, 5, 12, 16])
def test_no_other_size(cluster: Cluster, length: int) -> None:
    cluster.post(0, Op.FETCH_ADD, dst=cluster.gva(1), length=length, operand=1)
    assert cluster.one(0)["status"] == Status.MALFORMED


@pytest.mark.parametrize("length", [4, 8])
@pytest.mark.parametrize("seed", range(8))
def test_each_is_executed_once(cluster: Cluster, length: int, seed: int) -> None:
    count = 60
    net = LossyNet(cluster, seed, loss=0.1, twice=0.1, reorder=0.2, damage=0.05, breaks=0.01)
    for i in range(count):
        cluster.post(0, Op.FETCH_ADD, wr_id=i, dst=cluster.gva(1, 16), length=length, operand=1)
    done = net.completions()
    assert done["wr_id"].tolist() == list(range(count))
    assert not done["status"].any()
    assert sorted(done["value"].tolist()) == list(range(count))  # each value is found by one of them
    assert cluster.nodes[1].peek(cluster.pdid, cluster.gva(1, 16), 8) == count.to_bytes(8, "little")
    assert net.frames > 2 * count / SPEC.frame_packets


def test_more_than_there_are_replay_slots(cluster: Cluster) -> None:
    """1,000 at once: 256 may be in flight; duplicates of all of them find their own answers."""
    net = LossyNet(cluster, 1, loss=0.02, twice=0.3, reorder=0.3)
    for i in range(1000):
        cluster.post(0, Op.FETCH_ADD, wr_id=i, dst=cluster.gva(1), length=8, operand=1)
    done = net.completions()
    assert sorted(done["value"].tolist()) == list(range(1000))
    assert cluster.nodes[1].peek(cluster.pdid, cluster.gva(1), 8) == (1000).to_bytes(8, "little")
