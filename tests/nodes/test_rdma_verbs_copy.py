"""COPY: the node that owns the source moves the bytes to a third one, and answers when they are there."""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np
import pytest

from support.lossy import LossyNet
from support.rdma import Cluster, RdmaSpec
from unimem.wire import CompletionFlags, Op, Side, Status, WorkFlags

SPEC = RdmaSpec(block_bytes=4096, frame_payload_bytes=4096, frame_packets=2, peer_bytes=32768)
BYTES = 10 * 4096


@pytest.fixture(params=[False, True], ids=["readable", "compiled"])
def cluster(request: pytest.FixtureRequest) -> Iterator[Cluster]:
    """Three nodes: the poster is on n0, the source on n1, the destination on n2."""
    made = Cluster(3, fast=request.param, spec=SPEC)
    made.nodes[1].map(made.pdid, made.gva(1), BYTES)
    made.nodes[2].map(made.pdid, made.gva(2), BYTES)
    made.nodes[1].poke(made.pdid, made.gva(1), pattern())
    yield made
    made.close()


def pattern() -> bytes:
    return np.random.default_rng(4).integers(0, 256, BYTES, np.uint8).tobytes()


def copy(cluster: Cluster, n: int = BYTES, at: int = 0, to: int = 0, **fields: int) -> None:
    request = {"src": cluster.gva(1, at), "dst": cluster.gva(2, to), "length": n, **fields}
    cluster.post(0, Op.COPY, **request)


@pytest.mark.parametrize(
    ("n", "at", "to"), [(1, 0, 0), (64, 5, 3), (4096, 0, 0), (BYTES - 40, 7, 33), (BYTES, 0, 0)]
)
def test_bytes_go_from_one_to_another(cluster: Cluster, n: int, at: int, to: int) -> None:
    copy(cluster, n, at, to, wr_id=77)
    row = cluster.one(0)
    assert (row["status"], row["wr_id"], row["op"], row["bytes"]) == (Status.OK, 77, Op.COPY, n)
    assert cluster.nodes[2].peek(cluster.pdid, cluster.gva(2, to), n) == pattern()[at : at + n]
    assert row["parts_ps"].sum() == row["done_ps"] - row["posted_ps"]
    assert cluster.nodes[0].ni.counters()["bytes_written"] == 0  # it went straight


def test_nobody_hears_of_the_write_within(cluster: Cluster) -> None:
    copy(cluster)
    cluster.run()
    assert [len(node.ni.take_completions()) for node in cluster.nodes] == [1, 0, 0]
    assert all(node.ni.idle for node in cluster.nodes)


def test_source_and_destination_on_one_node_or_at_home(cluster: Cluster) -> None:
    copy(cluster, 100, dst=cluster.gva(1, 0x5000))
    assert cluster.one(0)["status"] == Status.OK
    assert cluster.nodes[1].peek(cluster.pdid, cluster.gva(1, 0x5000), 100) == pattern()[:100]
    cluster.nodes[0].map(cluster.pdid, cluster.gva(0), 4096)
    copy(cluster, 100, dst=cluster.gva(0))  # back to the poster
    assert cluster.one(0)["status"] == Status.OK
    copy(cluster, 100, src=cluster.gva(0), dst=cluster.gva(2, 0x5000))  # from the poster
    assert cluster.one(0)["status"] == Status.OK
    assert cluster.nodes[2].peek(cluster.pdid, cluster.gva(2, 0x5000), 100) == pattern()[:100]


def test_time_counts_both_ways(cluster: Cluster) -> None:
    copy(cluster, 4096)
    both = cluster.one(0)
    cluster.nodes[0].map(cluster.pdid, 0x10_0000, 4096)
    cluster.post(0, Op.WRITE, src=0x10_0000, dst=cluster.gva(2), length=4096)
    one = cluster.one(0)
    assert both["done_ps"] - both["posted_ps"] > one["done_ps"] - one["posted_ps"] + 2 * SPEC.hop_ps


def test_refused_at_the_source_or_at_the_destination(cluster: Cluster) -> None:
    pdid = cluster.pdid
    cluster.nodes[1].unmap(pdid, cluster.gva(1, 0x3000), 4096)
    copy(cluster, 0x5000)
    row = cluster.one(0)
    assert (row["status"], row["node"], row["side"]) == (Status.TRANSLATION_FAULT, 1, Side.TARGET)
    assert row["iova"] == cluster.gva(1, 0x3000)
    assert not row["flags"] & CompletionFlags.DEFINITE  # the blocks before it may have been written
    assert cluster.nodes[2].peek(pdid, cluster.gva(2), 0x1000) in {pattern()[:0x1000], bytes(0x1000)}
    cluster.nodes[1].clear_fault(pdid)
    cluster.nodes[2].unmap(pdid, cluster.gva(2, 0x8000), 4096)
    copy(cluster, 64, to=0x8010)
    row = cluster.one(0)
    assert (row["status"], row["node"]) == (Status.TRANSLATION_FAULT, 2)
    assert row["flags"] & CompletionFlags.DEFINITE
    assert row["iova"] == cluster.gva(2, 0x8010)


@pytest.mark.parametrize(
    ("fields", "status"),
    [
        ({"n": 0}, Status.MALFORMED),
        ({"src": 0x40}, Status.NO_ROUTE),
        ({"dst": 0x40}, Status.NO_ROUTE),
        ({"dst": 0x40_0000_0000}, Status.NO_ROUTE),  # a window that nobody has
        ({"pdid": 9}, Status.ACCESS_DENIED),
    ],
)
def test_what_cannot_be_copied(cluster: Cluster, fields: dict[str, int], status: Status) -> None:
    copy(cluster, **{"n": 64, **fields})
    row = cluster.one(0)
    assert row["status"] == status
    assert row["flags"] & CompletionFlags.DEFINITE


@pytest.mark.parametrize("seed", range(10))
def test_each_block_is_copied_once(cluster: Cluster, seed: int) -> None:
    """Into a word that an atomic then changes: a block copied again would undo that."""
    pdid = cluster.pdid
    net = LossyNet(cluster, seed, loss=0.1, twice=0.15, reorder=0.25, damage=0.05, breaks=0.01)
    for i in range(10):
        copy(cluster, 4096, 4096 * i, 4096 * i, wr_id=i)
    rows = net.completions()
    assert rows["wr_id"].tolist() == list(range(10))
    assert not rows["status"].any()
    assert cluster.nodes[2].peek(pdid, cluster.gva(2), BYTES) == pattern()
    cluster.nodes[2].poke(pdid, cluster.gva(2), bytes(BYTES))
    net.run()
    assert cluster.nodes[2].peek(pdid, cluster.gva(2), BYTES) == bytes(BYTES)  # nothing comes late
    assert all(node.ni.idle for node in cluster.nodes)


def test_a_third_node_that_is_gone(cluster: Cluster) -> None:
    net = LossyNet(cluster, dead={2})
    copy(cluster, 64, wr_id=1)
    (row,) = net.completions()
    assert row["status"] == Status.PEER_LOST
    assert not row["flags"] & CompletionFlags.DEFINITE
    assert row["node"] == 2


def test_the_middle_restarts(cluster: Cluster) -> None:
    """What it was asked is lost with it: in doubt, as for any request under way."""
    home = cluster.nodes[0]
    copy(cluster, 64, wr_id=1)
    home.pump()
    home.take_frames()
    home.ni.peer_gone(1, "it crashed")
    row = cluster.one(0)
    assert row["status"] == Status.PEER_LOST
    assert not row["flags"] & CompletionFlags.DEFINITE


@pytest.mark.parametrize("fast", [True, False], ids=["compiled", "readable"])
def test_two_nodes_copy_from_each_other_and_fence(fast: bool) -> None:
    """More than a window of copies each way, each followed by a fence: neither waits for the other."""
    cluster = Cluster(2, fast=fast, spec=SPEC)
    size = 4 * SPEC.peer_bytes
    for node in cluster.nodes:
        node.map(7, cluster.gva(node.index), 2 * size)
        node.poke(7, cluster.gva(node.index), bytes([node.index + 1]) * size)
    for index in (0, 1):
        there, here = cluster.gva(1 - index), cluster.gva(index, size)
        cluster.post(index, Op.COPY, wr_id=1, src=there, dst=here, length=size)
        fence = int(WorkFlags.FENCE)
        cluster.post(index, Op.FETCH_ADD, wr_id=2, dst=there, length=8, operand=0, flags=fence)
    for index in (0, 1):
        rows = cluster.completions(index)
        assert rows["status"].tolist() == [0, 0]
        assert cluster.nodes[index].peek(7, cluster.gva(index, size), size) == bytes([2 - index]) * size
    cluster.close()
