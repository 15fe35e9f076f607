"""`unimem.mailbox`: rings of messages on a loopback port."""

from __future__ import annotations

import asyncio
import threading
from typing import Any

import numpy as np
import pytest
from fakes import AsyncLoopbackPort, FakeCluster, LoopbackPort

from unimem import AsyncClient, Client, DeadlineExceeded, MailboxFull, UsageError
from unimem.wire import MAILBOX, MAILBOX_MAGIC, Op, mailbox_slots_at


@pytest.fixture
def port() -> LoopbackPort:
    return LoopbackPort(FakeCluster())


@pytest.fixture
def um(port: LoopbackPort) -> Any:
    with Client(port) as client:  # type: ignore[arg-type]
        yield client


def test_messages_come_out_whole_and_in_order(um: Client) -> None:
    box = um.mailbox(node="n1", slots=3, name="jobs")
    assert (box.slots, box.node, box.poll()) == (3, "n1", None)
    for turn in range(3):  # the ring goes round
        for i in range(3):
            box.send(bytes([turn, i]) * (1 + 15 * i))
        with pytest.raises(MailboxFull) as full:
            box.send(b"one too many")
        assert full.value.retryable
        assert (full.value.op, full.value.gva) == ("send", int(box.ptr))
        assert [box.receive() for _ in range(3)] == [bytes([turn, i]) * (1 + 15 * i) for i in range(3)]
    assert box.poll() is None


def test_the_ring_lies_where_the_layout_says(um: Client) -> None:
    box = um.mailbox(slots=70)
    box.send(b"abc")
    raw = um.get(box.ptr, mailbox_slots_at(70) + 64)
    header = raw[:64].view(MAILBOX)[0]
    assert (header["head"], header["tail"], header["slots"], header["magic"]) == (1, 0, 70, MAILBOX_MAGIC)
    assert mailbox_slots_at(70) == 64 + 128
    assert raw[64] == 3
    assert raw[192:195].tobytes() == b"abc"


def test_a_message_is_one_request_of_its_own_bytes(um: Client, port: LoopbackPort) -> None:
    box = um.mailbox()
    port.log.clear()
    box.send(np.arange(8, dtype="<u8"))
    (sent,) = port.log
    assert (sent.op, sent.length, sent.dst) == (Op.SEND, 64, int(box.ptr))  # type: ignore[union-attr]
    transfer = box.send_async(b"x")
    assert transfer.result() is None
    assert transfer.bytes == 1
    for data in (bytes(65), b""):
        with pytest.raises(UsageError):
            box.send(data)


def test_a_full_mailbox_is_tried_a_few_times(um: Client, port: LoopbackPort) -> None:
    box = um.mailbox(slots=1)
    box.send(b"first")
    port.log.clear()
    with pytest.raises(MailboxFull):
        box.send(b"second")
    assert len(port.log) == 8
    with pytest.raises(MailboxFull):
        box.send_async(b"second").result()
    assert len(port.log) == 9
    real, calls = port.post, 0

    def post(work: Any) -> None:
        nonlocal calls
        calls += 1
        if calls == 3:
            assert box.poll() == b"first"
        real(work)

    port.post = post  # type: ignore[method-assign]
    box.send(b"second")
    port.post = real  # type: ignore[method-assign]
    assert box.receive() == b"second"


def test_another_client_finds_it_by_its_pointer(um: Client, port: LoopbackPort) -> None:
    box = um.mailbox(slots=2)
    with Client(LoopbackPort(port.cluster)) as other:  # type: ignore[arg-type]
        um.share(box.ptr, pdid=other.pdid)
        found = other.mailbox_at(box.ptr)
        assert found.slots == 2
        found.send(b"from afar")
        assert box.receive() == b"from afar"
        other.mailbox_at(int(box.ptr)).send(b"by its address")
        found.free()  # forgets it
        assert box.receive() == b"by its address"
    nothing = um.alloc(4096)
    with pytest.raises(UsageError, match="there is no mailbox"):
        um.mailbox_at(nothing)


def test_several_receivers_share_the_messages(um: Client) -> None:
    box = um.mailbox(slots=64)
    taken: list[bytes] = []

    def receive() -> None:
        for _ in range(20):
            taken.append(box.receive(timeout=10))

    threads = [threading.Thread(target=receive) for _ in range(3)]
    for thread in threads:
        thread.start()
    for i in range(60):
        box.send(i.to_bytes(2, "little"))
    for thread in threads:
        thread.join()
    assert sorted(taken) == sorted(i.to_bytes(2, "little") for i in range(60))


def test_waiting_ends(um: Client) -> None:
    box = um.mailbox()
    with pytest.raises(DeadlineExceeded, match=r"no message within 0\.02 s"):
        box.receive(timeout=0.02)


def test_a_mailbox_is_freed_like_an_array(um: Client, port: LoopbackPort) -> None:
    with um.mailbox(slots=1) as box:
        assert len(port.cluster.regions) == 1
    assert not port.cluster.regions
    with pytest.raises(UsageError, match="is freed"):
        box.send(b"x")
    um.free(um.mailbox())
    assert not port.cluster.regions
    for slots in (0, 65537, 1.5):
        with pytest.raises(UsageError):
            um.mailbox(slots=slots)  # type: ignore[arg-type]


def test_the_same_with_awaits() -> None:
    async def main() -> None:
        port = AsyncLoopbackPort(FakeCluster())
        async with AsyncClient(port) as um, await um.mailbox(slots=2) as box:  # type: ignore[arg-type]
            await box.send(b"one")
            await (await um.mailbox_at(box.ptr)).send(b"two")
            with pytest.raises(MailboxFull):
                await box.send_async(b"three")
            assert [await box.receive(), await box.poll(), await box.poll()] == [b"one", b"two", None]
            with pytest.raises(DeadlineExceeded):
                await box.receive(timeout=0.01)

    asyncio.run(main())
