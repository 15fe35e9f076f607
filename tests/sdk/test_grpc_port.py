"""The gRPC port against nodes and a coordinator in this process: `unimem._grpc_*`."""

from __future__ import annotations

import asyncio
import threading
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import numpy as np
import pytest
from fake_grpc import MIB, FakeGrpc, FakeNode, noise

import unimem
from unimem import (
    Client,
    DeadlineExceeded,
    TranslationFault,
    UsageError,
    verbs,
)
from unimem._grpc_stream import WINDOW_BYTES


def test_the_verbs_over_grpc(um: Client, fake: FakeGrpc) -> None:
    a = um.array((8, 8), "<f4", node="n1")
    a[...] = np.arange(64).reshape(8, 8)
    assert a[3].tolist() == list(range(24, 32))
    assert a[:, 1].tolist() == list(range(1, 64, 8))
    b = um.alloc(256, node="n2")
    um.copy(b, a.ptr, 256)
    assert um.get(b, 4, dtype="<f4").tolist() == [0]
    assert um.swap(b, 6) == int.from_bytes(np.arange(2, dtype="<f4").tobytes(), "little")
    assert um.fetch_add(b, 1) == 6
    assert um.compare_swap(b, 7, 9) == 7
    with pytest.raises(TranslationFault):
        um.put(0x200_0000_0000, b"x")
    um.free(b)
    assert um.reachability() == {"n0": "direct", "n1": "direct", "n2": "direct"}
    assert [len(n.streams) for n in fake.nodes.values()] == [1, 1, 0]
    assert fake.nodes["n0"].streams[0]["unimem-pdid"] == str(um.pdid)


def test_nodes_that_cannot_be_reached_are_relayed() -> None:
    with FakeGrpc(reachable=False) as fake, unimem.connect(fake.address) as um:
        a = um.alloc(64, node="n1")
        um.put(a, b"through")
        assert um.get(a, 7).tobytes() == b"through"
        assert fake.relayed == ["n0"]
        assert um.reachability() == dict.fromkeys(("n0", "n1", "n2"), "relayed")


def test_an_address_where_something_else_listens_is_relayed(fake: FakeGrpc) -> None:
    fake.cluster.addresses["n0"] = fake.serve("other", {})
    with unimem.connect(fake.address) as um:
        um.put(um.alloc(8), b"x")
    assert fake.relayed == ["n0"]


def test_an_address_where_another_node_listens_is_relayed(fake: FakeGrpc) -> None:
    fake.cluster.addresses["n0"] = fake.cluster.addresses["n1"]
    with unimem.connect(fake.address) as um:
        um.put(um.alloc(8), b"x")
        assert um.reachability("n0") == {"n0": "relayed"}
    assert fake.relayed == ["n0"]
    assert not fake.nodes["n1"].frames


def test_a_node_that_does_not_say_its_name_is_trusted(
    fake: FakeGrpc, home: FakeNode, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("unimem._grpc_core.DIRECT_TIMEOUT", 0.05)
    home.says = None
    with unimem.connect(fake.address) as um:
        p = um.alloc(8)
        um.put(p, b"x")
        assert um.get(p, 1).tobytes() == b"x"


def test_long_transfers_go_in_pieces_within_the_window(um: Client, home: FakeNode) -> None:
    a = um.alloc(16 * MIB)
    data = noise(16 * MIB - 3)
    home.gate.clear()
    t = um.put_async(a, data)
    home.seen.wait(5)
    stream = um._port._core.stream(None)  # type: ignore[attr-defined]
    assert stream._weight <= WINDOW_BYTES
    home.gate.set()
    t.result()
    assert t.bytes == len(data)
    assert sum(t.timing.values()) == t.simulated_ns
    out = np.empty(len(data), np.uint8)
    um.get(a, out=out)
    assert (out == data).all()
    lengths = np.concatenate(home.frames)["length"]
    assert lengths.max() == 256 << 10
    assert home.bytes_at_most < (256 << 10) + 200
    assert stream._weight == 0


def test_what_is_posted_while_a_message_is_sent_leaves_together(um: Client, home: FakeNode) -> None:
    a = um.alloc(8192)
    um.put(a, b"warm")
    home.frames.clear()
    home.gate.clear()
    transfers = [um.put_async(a + 8 * i, bytes([i % 256]) * 8) for i in range(1000)]
    home.gate.set()
    um.flush()
    assert all(t.done() for t in transfers)
    assert sum(map(len, home.frames)) == 1000
    assert len(home.frames) < 300  # usually a handful
    assert um.get(a, 8000).tobytes() == b"".join(bytes([i % 256]) * 8 for i in range(1000))


def test_batches_of_thousands(um: Client, home: FakeNode) -> None:
    p = um.alloc(80_000)
    gvas = int(p) + 8 * np.random.default_rng(1).permutation(10_000)
    um.put_many(gvas, np.arange(10_000, dtype="<u8"))
    assert max(map(len, home.frames)) == 4096
    assert um.get_many(gvas, 8).view("<u8").reshape(-1).tolist() == list(range(10_000))
    pair = verbs.QueuePair(um, verbs.CompletionQueue(um))
    requests, payload = verbs.write_requests(gvas[:100], np.zeros(100, "<u8"))
    pair.post(requests, payload)
    single = um.put_async(p, b"x")  # single ones and batches at once
    assert len(pair.queue.poll(100, timeout=5)) == 100
    single.result()
    with pytest.raises(ExceptionGroup):
        um.put_many([int(p), 0x200_0000_0000], [1, 2])


def test_large_rows_of_a_batch_fill_frames_by_bytes(um: Client, home: FakeNode) -> None:
    p = um.alloc(16 * MIB)
    values = noise(12 * MIB).reshape(96, -1)
    gvas = int(p) + np.arange(96) * values.shape[1]
    um.put_many(gvas, values)
    assert home.bytes_at_most <= (256 << 10) + 4096
    assert (um.get_many(gvas, values.shape[1]) == values).all()


def test_threads_share_a_client(um: Client) -> None:
    p = um.alloc(8 * 64)

    def work(i: int) -> int:
        for _ in range(10):
            um.fetch_add(p, 1)
            um.put(p + 8 * (i + 1), bytes([i]) * 8)
        return int(um.get(p + 8 * (i + 1), 1)[0])

    with ThreadPoolExecutor(8) as pool:
        assert list(pool.map(work, range(8))) == list(range(8))
    assert um.fetch_add(p, 0) == 80


def test_a_callback_must_not_wait(um: Client) -> None:
    p = um.alloc(8)
    errors: list[BaseException] = []
    called = threading.Event()

    def callback(transfer: Any) -> None:
        for call in (lambda: um.put(p, b"x"), um.nodes):
            try:
                call()
            except UsageError as error:
                errors.append(error)
        called.set()

    um.put_async(p, b"y").add_done_callback(callback)
    assert called.wait(5)
    assert len(errors) == 2
    um.flush()


def test_the_async_client_over_grpc(fake: FakeGrpc) -> None:
    async def main() -> None:
        async with unimem.connect_async(fake.address, home="n1") as um:
            assert um.home == "n1"
            p = await um.alloc(2 * MIB, node="n2")
            data = noise(2 * MIB)
            await um.put(p, data)
            assert ((await um.get(p, 2 * MIB)) == data).all()
            await asyncio.gather(*(um.fetch_add(p, 1) for _ in range(64)))
            transfers = [um.put_async(p + 8 * i, b"x") for i in range(10)]
            for t in transfers:
                await t
            await um.put_many([int(p)], [7])
            async with um.batch() as b:
                found = b.get(p, 8, dtype="<u8")
            assert found.result().tolist() == [7]
            assert await um.reachability() == dict.fromkeys(("n0", "n1", "n2"), "direct")
            node = fake.nodes["n1"]
            node.gate.clear()
            with pytest.raises(DeadlineExceeded):
                await um.put(p, b"late", timeout=0.05)
            waiting = asyncio.ensure_future(um.put(p, b"late"))
            await asyncio.sleep(0)
            waiting.cancel()
            with pytest.raises(asyncio.CancelledError):
                await waiting
            node.gate.set()
            await um.flush()

    asyncio.run(main())
    assert not fake.cluster.sessions


def test_awaiting_a_blocking_client_s_transfer_over_grpc(um: Client, home: FakeNode) -> None:
    async def main() -> None:
        p = um.alloc(8)
        await um.put_async(p, b"12345678")
        assert (await um.get_async(p, 8)).tobytes() == b"12345678"
        home.gate.clear()
        with pytest.raises(DeadlineExceeded):
            await um.put_async(p, b"x", timeout=0.05)
        home.gate.set()

    asyncio.run(main())
