"""The SDK's verbs on a simulated cluster, down to the network interface."""

from __future__ import annotations

import asyncio
from collections.abc import Iterator

import numpy as np
import pytest

from unimem import ACCEPTED, SOURCE, Cancelled, DeadlineExceeded, MailboxFull, TranslationFault, verbs
from unimem.wire import Op, WorkFlags
from unimem_lab import SimCluster


@pytest.fixture
def cluster() -> Iterator[SimCluster]:
    with SimCluster(nodes=3, memory_bytes=256 << 20, fast=False) as made:
        yield made


def test_messages_between_clients_of_different_nodes(cluster: SimCluster) -> None:
    with cluster.client(home="n0", domain="d") as one, cluster.client(home="n1", domain="d") as two:
        box = one.mailbox(node="n2", slots=4)
        there = two.mailbox_at(box.ptr)
        for i in range(4):
            (there if i % 2 else box).send(bytes([i]) * (16 * i + 16))
        with pytest.raises(MailboxFull) as full:
            there.send(b"full")
        assert full.value.definite
        assert full.value.node == "n2"
        assert [box.receive() for _ in range(4)] == [bytes([i]) * (16 * i + 16) for i in range(4)]
        assert there.poll() is None


def test_a_signal_goes_with_its_data(cluster: SimCluster) -> None:
    with cluster.client(home="n0") as um:
        data = np.random.default_rng(1).integers(0, 256, 1_000_000, np.uint8)
        p = um.alloc(1 << 20, node="n1")
        flag = um.alloc(8, node="n1")
        elsewhere = um.alloc(8, node="n2")
        for size in (1, 64, 200_000, 1_000_000):
            um.put_signal(p, data[:size], flag, size)
            assert um.wait_until(flag, size) == size
            assert (um.get(p, size) == data[:size]).all()
        um.put_signal(p, b"x", elsewhere, 3)
        assert um.wait_until(elsewhere, 3) == 3
        with pytest.raises(TranslationFault):
            um.put_signal(int(p) + (1 << 20) - 4096, data[:8192], flag, 9)
        assert um.wait_until(flag, 0, compare="!=") == 1_000_000


def test_one_round_trip_for_data_and_signal(cluster: SimCluster) -> None:
    with cluster.client(home="n0") as um:
        p = um.alloc(4096, node="n1")
        um.put(p, b"x" * 64)
        start = cluster.scheduler.now_ps
        um.put(p, b"x" * 64)
        alone = cluster.scheduler.now_ps - start
        start = cluster.scheduler.now_ps
        um.put_signal(p, b"x" * 64, p + 64, 1)
        assert cluster.scheduler.now_ps - start < 1.5 * alone


@pytest.mark.parametrize("width", [4, 8])
def test_atomics_of_either_width(cluster: SimCluster, width: int) -> None:
    with cluster.client(home="n0") as um:
        p = um.alloc(64, node="n1")
        um.put(p, b"\xff" * 16)
        top = (1 << 8 * width) - 1
        assert um.fetch_add(p + width, 2, width=width) == top
        assert um.compare_swap(p + width, 1, 5, width=width) == 1
        assert um.swap(p + width, 6, width=width) == 5
        assert um.get(p, 16).tobytes() == (6).to_bytes(width, "little").join(
            (b"\xff" * width, b"\xff" * (16 - 2 * width))
        )


def test_copy_as_a_verb(cluster: SimCluster) -> None:
    with cluster.client(home="n0") as um:
        a, b = um.alloc(1 << 20, node="n1"), um.alloc(1 << 20, node="n2")
        data = np.random.default_rng(2).integers(0, 256, 1 << 20, np.uint8)
        um.put(a, data)
        queue = verbs.CompletionQueue(um)
        pair = verbs.QueuePair(um, queue)
        requests = np.zeros(1, verbs.WORK_REQUEST)
        requests["op"], requests["src"], requests["dst"], requests["length"] = (
            Op.COPY,
            int(a),
            int(b),
            1 << 20,
        )
        pair.post(requests)
        (row,) = queue.poll(1, timeout=5)
        assert (row["status"], row["bytes"]) == (0, 1 << 20)
        assert (um.get(b, 1 << 20) == data).all()


def test_levels(cluster: SimCluster) -> None:
    with cluster.client(home="n0") as um:
        p = um.alloc(64, node="n1")
        data = bytearray(b"one")
        um.put(p, data, at=SOURCE)
        data[:] = b"two"
        um.flush()
        assert um.get(p, 3).tobytes() == b"one"
        um.put(p, data, at=ACCEPTED)
        assert um.get(p, 3).tobytes() == b"two"


def test_a_deadline_in_simulated_time(cluster: SimCluster) -> None:
    """16 MiB take 16 ms of simulated time; after 1 ms the interface has stopped, and says what it knows."""
    with cluster.client(home="n0") as um:
        p = um.alloc(16 << 20, node="n1")
        with pytest.raises(DeadlineExceeded) as caught:
            um.put(p, bytes(16 << 20), timeout=1e-3)
        assert not caught.value.definite
        um.put(p, b"goes on", timeout=1)  # behind what is on the link already


def test_cancelling(cluster: SimCluster) -> None:
    with cluster.client(home="n0") as um:
        p = um.alloc(16 << 20, node="n1")
        t = um.put_async(p, b"x" * 4096)
        assert t.cancel()  # its doorbell has not rung
        assert isinstance(t.exception(), Cancelled)
        assert um.get(p, 1)[0] == 0
        t = um.put_async(p, bytes(16 << 20))
        cluster.ring()
        assert not t.cancel()  # on its way
        error = t.exception()
        assert isinstance(error, Cancelled)
        assert not error.definite
        um.put(p, b"goes on")


def test_the_same_with_awaits(cluster: SimCluster) -> None:
    async def main() -> None:
        async with cluster.async_client(home="n0") as um:
            box = await um.mailbox(node="n1")
            await box.send(b"hello")
            assert await box.receive() == b"hello"
            p = await um.alloc(64, node="n1")
            await um.put_signal(p, b"data", p + 8, 5)
            assert await um.wait_until(p + 8, 5) == 5

    asyncio.run(main())


def test_flags_reach_the_interface(cluster: SimCluster) -> None:
    with cluster.client(home="n0") as um:
        p = um.alloc(64, node="n1")
        queue = verbs.CompletionQueue(um)
        pair = verbs.QueuePair(um, queue)
        requests, payload = verbs.write_requests([int(p), int(p) + 8], np.arange(2, dtype="u8"))
        requests["flags"] = WorkFlags.ORDERED | WorkFlags.ACCEPTED
        pair.post(requests, payload)
        assert not queue.poll(2, timeout=5)["status"].any()
        assert um.get(p, 16, dtype="u8").tolist() == [0, 1]
