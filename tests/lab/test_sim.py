"""SimCluster: the SDK's verbs on simulated nodes, dying nodes, and the same bytes for the same seed."""

from __future__ import annotations

import asyncio
import json
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

import unimem
from unimem_lab import SimCluster


def exercise(cluster: SimCluster) -> None:
    """A bit of everything, some of it refused."""
    with cluster.client(home="n0", domain="a") as um, cluster.client(home="n1", domain="b") as other:
        there = um.alloc(100_000, node="n2", name="x")
        um.put(there, np.arange(10_000))
        um.copy(um.alloc(100_000, node="n1"), there, 80_000)
        assert um.fetch_add(there, 5) == 0
        with pytest.raises(unimem.AccessDenied):  # no process of domain b on n2
            other.get(int(there), 8)
        other.alloc(4096, node="n2")
        with pytest.raises(unimem.TranslationFault):  # it has one now, which does not map the region
            other.get(int(there), 8)
        um.share(there, "b", rights="r")
        assert other.get(int(there), 8, dtype="<u8")[0] == 5
        with pytest.raises(unimem.PermissionFault):
            other.put(int(there), b"12345678")


def test_same_seed_same_events(tmp_path: Path) -> None:
    logs = []
    for run in range(2):
        with SimCluster(nodes=3, seed=7, topology="ring", log=True) as cluster:
            exercise(cluster)
            assert cluster.events is not None
            cluster.events.dump(tmp_path / f"{run}.jsonl")
        logs.append((tmp_path / f"{run}.jsonl").read_bytes())
    assert logs[0] == logs[1]
    kinds = {json.loads(line)["kind"] for line in logs[0].splitlines()}
    assert {"transfer", "interrupt", "fault_report"} <= kinds


def test_fast_and_readable_paths_agree(tmp_path: Path) -> None:
    logs, counters = [], []
    for fast in (True, False):
        with SimCluster(nodes=3, seed=7, log=True, fast=fast) as cluster:
            exercise(cluster)
            assert cluster.events is not None
            logs.append(list(cluster.events.lines()))
            counters.append([cluster.node(name).counters() for name in cluster.nodes])
    assert logs[0] == logs[1]
    assert counters[0] == counters[1]


@pytest.mark.parametrize("length", [1, 7, 8, 4095, 4097, 16384, 65537, 3 << 20])
def test_put_and_get_any_length(length: int) -> None:
    data = np.random.default_rng(length).integers(0, 256, length, np.uint8)
    with SimCluster(nodes=2) as cluster, cluster.client(home="n0") as um:
        there = um.alloc(length + 8, node="n1")
        um.put(there + 3, data)
        assert np.array_equal(um.get(there + 3, length), data)
        assert not um.get(there, 3).any()
        assert not um.get(there + 3 + length, 5).any()


def test_longer_than_a_staging_piece() -> None:
    data = np.random.default_rng(1).integers(0, 256, (16 << 20) + 12345, np.uint8)
    with SimCluster(nodes=2) as cluster, cluster.client(home="n0") as um:
        there = um.alloc(len(data), node="n1")
        transfer = um.put_async(there, data)
        transfer.result()
        assert transfer.bytes == len(data)
        assert sum(transfer.timing.values()) == pytest.approx(transfer.simulated_ns)
        assert np.array_equal(um.get(there, len(data)), data)


def test_hops_cost_time() -> None:
    with SimCluster(nodes=6, topology="ring") as cluster, cluster.client(home="n0") as um:
        times = []
        for name in ("n1", "n2", "n3", "n5"):
            there = um.alloc(64, node=name)
            um.put(there, bytes(8))
            transfer = um.put_async(there, bytes(8))
            transfer.result()
            times.append(transfer.timing["ack"])
    assert times == [767.5, 1080.0, 1392.5, 767.5]


def test_a_node_that_dies_takes_its_memory_along() -> None:
    with SimCluster(nodes=3) as cluster, cluster.client(home="n0") as um:
        there = um.alloc(4096, node="n1")
        um.put(there, b"before")
        cluster.kill("n1")
        with pytest.raises(unimem.UnimemError) as lost:
            um.put(there, b"after")
        assert lost.value.definite
        cluster.restart("n1")
        with pytest.raises(unimem.UnimemError):
            um.get(there, 6)  # nobody reads zeroes for what was lost
        assert {r.state for r in um.regions(node="n1")} == {"lost"}
        again = um.alloc(4096, node="n1")
        um.put(again, b"anew")
        assert bytes(um.get(again, 4)) == b"anew"


def test_a_node_that_dies_in_mid_transfer() -> None:
    with SimCluster(nodes=2) as cluster, cluster.client(home="n0") as um:
        there = um.alloc(1 << 20, node="n1")
        write, read = um.put_async(there, bytes(1 << 20)), um.get_async(there, 1 << 20)
        cluster.ring()
        cluster.kill("n1")
        lost, waiting = write.exception(), read.exception()
        assert isinstance(lost, unimem.PeerLost)
        assert not lost.definite
        assert isinstance(waiting, unimem.PeerUnreachable)  # behind the write, it had not left yet
        assert waiting.definite


def test_a_home_that_dies_leaves_its_clients_an_answer() -> None:
    with SimCluster(nodes=2) as cluster:
        um = cluster.client(home="n0")
        there = um.alloc(4096, node="n1")
        transfer = um.put_async(there, b"x")
        cluster.kill("n0")
        assert isinstance(transfer.exception(), unimem.TransportError)
        with pytest.raises(unimem.TransportError):
            um.put(there, b"x")
        um.close()


def test_batches_of_many() -> None:
    with SimCluster(nodes=2) as cluster, cluster.client(home="n0") as um:
        there = um.alloc(1 << 16, node="n1")
        places = int(there) + 8 * np.random.default_rng(1).permutation(8192)
        um.put_many(places, np.arange(8192))
        assert np.array_equal(um.get_many(places, 8).view("<i8").reshape(-1), np.arange(8192))
        with pytest.raises(ExceptionGroup) as refused:
            um.put_many([int(there), int(there) + (1 << 20)], np.arange(2))
        assert isinstance(refused.value.exceptions[0], unimem.TranslationFault)


def test_async_client() -> None:
    async def main() -> bytes:
        with SimCluster(nodes=2) as cluster:
            async with cluster.async_client(home="n0") as um:
                there = await um.alloc(64, node="n1")
                await um.put(there, b"awaited")
                await um.put_async(there + 7, b"!")
                return bytes(await um.get(there, 8))

    assert asyncio.run(main()) == b"awaited!"


@given(st.lists(st.tuples(st.integers(0, 4000), st.binary(min_size=1, max_size=96)), max_size=20))
def test_memory_is_what_was_written(writes: list[tuple[int, bytes]]) -> None:
    reference = bytearray(4096)
    with SimCluster(nodes=2) as cluster, cluster.client(home="n0") as um:
        there = um.alloc(4096, node="n1")
        for at, data in writes:
            um.put_async(there + at, data)
            reference[at : at + len(data)] = data
        um.flush()
        assert bytes(um.get(there, 4096)) == bytes(reference)


def test_bad_topologies_are_refused() -> None:
    with pytest.raises(ValueError, match="torus3d"):
        SimCluster(nodes=4, topology="star")
    with pytest.raises(ValueError, match="two nodes"):
        SimCluster(nodes=3, topology="pair")


def test_unknown_names_say_what_there_is() -> None:
    with SimCluster(nodes=2) as cluster:
        with pytest.raises(LookupError, match="n0, n1"):
            cluster.node("n7")
        with pytest.raises(unimem.UnknownNode):
            cluster.client(home="n7")
        with pytest.raises(ValueError, match="running"):
            cluster.restart("n1")
