"""SimCluster's network: nodes that stand still, partitions, and what happens to packets on their way."""

from __future__ import annotations

import gc

import pytest

import unimem
from unimem_lab import SimCluster


def done_after(cluster: SimCluster, transfer: unimem.Transfer) -> bool:
    cluster.run()
    return transfer.done()


def test_a_paused_node_answers_when_it_goes_on() -> None:
    with SimCluster(nodes=3) as cluster, cluster.client(home="n0") as um:
        there = um.alloc(4096, node="n1")
        um.put(there, b"before")
        cluster.pause("n1")
        stuck = um.put_async(there, b"within")
        um.put(um.alloc(64, node="n2"), b"others go on")
        assert not stuck.done()
        cluster.resume("n1")
        assert done_after(cluster, stuck)
        assert bytes(um.get(there, 6)) == b"within"


def test_a_paused_home_sends_nothing() -> None:
    with SimCluster(nodes=2) as cluster, cluster.client(home="n0") as um:
        there = um.alloc(4096, node="n1")
        cluster.pause("n0")
        stuck = um.put_async(there, b"x")
        assert not done_after(cluster, stuck)
        cluster.resume("n0")
        assert done_after(cluster, stuck)


def test_a_slow_node_takes_its_time() -> None:
    def took(gap_ns: float) -> float:
        with SimCluster(nodes=2) as cluster, cluster.client(home="n0") as um:
            there = um.alloc(4096, node="n1")
            um.put(there, b"x")
            cluster.slow("n1", gap_ns)
            start = cluster.scheduler.now_ps
            for _ in range(3):
                um.put(there, b"x")
            return (cluster.scheduler.now_ps - start) / 1000

    assert took(0) < 3 * 5_000 < 2 * 100_000 < took(100_000)


def test_impairments_by_name_with_the_clusters_seed() -> None:
    def run(seed: int) -> int:
        impair = "n0->n1: jitter=50us"
        with SimCluster(nodes=3, seed=seed, impair=impair) as cluster, cluster.client(home="n0") as um:
            first, second = um.alloc(64, node="n1"), um.alloc(64, node="n2")
            start = cluster.scheduler.now_ps
            um.put(second, b"12345678")
            assert cluster.scheduler.now_ps - start < 10_000_000
            um.put(first, b"12345678")
            return cluster.scheduler.now_ps - start

    assert run(1) == run(1)
    assert run(1) != run(2)


def test_a_bad_text_is_refused() -> None:
    with pytest.raises(ValueError, match="'lost=1' is unknown"):
        SimCluster(nodes=2, impair="lost=1")


def test_unknown_nodes_are_named() -> None:
    with SimCluster(nodes=2) as cluster:
        for call in (
            lambda: cluster.pause("n7"),
            lambda: cluster.slow("n7", 1),
            lambda: cluster.partition(["n0"], ["n7"]),
        ):
            with pytest.raises(LookupError, match="node n7 is not running; running are n0, n1"):
                call()


def test_starting_leaves_the_garbage_collector_as_it_was() -> None:
    assert gc.isenabled()
    SimCluster(nodes=2).close()
    assert gc.isenabled()
    gc.disable()
    try:
        SimCluster(nodes=2).close()
        assert not gc.isenabled()
    finally:
        gc.enable()
