"""`unimem.client` and `unimem._core`: deadlines, flush, batches, fences, the end of a client."""

from __future__ import annotations

import threading
import warnings
from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
from fakes import FakeCluster, LoopbackPort

from unimem import Client, DeadlineExceeded, GlobalPtr, OperationBatch, TranslationFault, UsageError
from unimem._port import Batch, Work
from unimem.wire import WorkFlags


@pytest.fixture
def port() -> LoopbackPort:
    return LoopbackPort(FakeCluster())


@pytest.fixture
def um(port: LoopbackPort) -> Any:
    with Client(port) as client:  # type: ignore[arg-type]
        yield client


# -- waiting ----------------------------------------------------------------------------------------------


def deferred() -> tuple[Client, LoopbackPort]:
    port = LoopbackPort(FakeCluster(), deferred=True)
    return Client(port, timeout=0.05), port  # type: ignore[arg-type]


def test_a_deadline_takes_back_what_has_not_left() -> None:
    um, port = deferred()
    p = um.alloc(8, node="n1")
    um.nodes()
    port.frozen = True
    with pytest.raises(DeadlineExceeded, match=r"not done within 0\.05 s") as caught:
        um.put(p, b"x")
    assert caught.value.definite
    assert (caught.value.op, caught.value.gva, caught.value.node) == ("put", int(p), "n1")
    assert not port.queue
    um.close()


def test_a_deadline_of_what_has_left_is_not_definite_and_spares_the_buffer() -> None:
    um, port = deferred()
    p = um.alloc(8)
    port.frozen = True
    port.cancel = lambda work: False  # type: ignore[method-assign, assignment]
    with pytest.raises(DeadlineExceeded) as put:
        um.put(p, b"x")
    assert not put.value.definite
    out = bytearray(8)
    with pytest.raises(DeadlineExceeded) as get:
        um.get(p, out=out, timeout=0.01)
    assert get.value.definite
    port.frozen = False
    um.flush()  # waits for the two that were given up
    assert not port.queue
    assert out == bytes(8)
    assert um.get(p, 1).tobytes() == b"x"
    um.close()


def test_flush_waits_and_raises_what_nobody_saw() -> None:
    um, port = deferred()
    p = um.alloc(8)
    good = um.put_async(p, b"1")
    bad = [um.put_async(0x700_0000_0000, b"2") for _ in range(2)]
    seen = um.put_async(0x700_0000_0000, b"3")
    assert isinstance(seen.exception(), TranslationFault)
    with pytest.raises(ExceptionGroup, match="2 operations failed"):
        um.flush()
    assert good.done()
    assert all(t.done() for t in bad)
    um.flush()
    port.frozen = True
    late = um.put_async(p, b"4")
    with pytest.raises(DeadlineExceeded, match="1 of 1"):
        um.flush(timeout=0.01)
    port.frozen = False
    late.result()
    um.close()


def test_batch_waits_once_and_groups_errors(um: Client) -> None:
    p = um.alloc(64)
    with um.batch() as b:
        b.put(p, b"12345678")
        b.fence()
        found = b.get(p, 8)
        old = b.fetch_add(p + 8, 3)
        b.compare_swap(p + 8, 3, 4)
        swapped = b.swap(p + 8, 5)
        b.copy(p + 16, p, 8)
        assert len(b) == 6
    assert found.result().tobytes() == b"12345678"
    assert (old.result(), swapped.result()) == (0, 4)

    def put_nowhere_and(then: Callable[[OperationBatch], object]) -> None:
        with um.batch() as b:
            b.put(0x700_0000_0000, b"x")
            then(b)

    with pytest.raises(ExceptionGroup, match="1 of 2 operations of the batch failed"):
        put_nowhere_and(lambda b: b.put(p, b"y"))
    with pytest.raises(KeyError) as caught:
        put_nowhere_and(lambda b: {}["mine"])
    assert "1 of 1 operations" in caught.value.__notes__[0]


def test_batch_has_a_deadline() -> None:
    um, port = deferred()
    p = um.alloc(8)
    port.frozen = True
    with pytest.raises(ExceptionGroup) as caught, um.batch(timeout=0.01) as b:
        b.put(p, b"x")
    assert isinstance(caught.value.exceptions[0], DeadlineExceeded)
    um.close()


def test_put_signal_sets_the_flag_only_after_the_data(um: Client, port: LoopbackPort) -> None:
    p = um.alloc(64)
    port.log.clear()
    um.put_signal(p, b"data", p + 32, 7)
    assert um.wait_until(p + 32, 7) == 7
    (put, *_) = port.log  # one request for both
    assert isinstance(put, Work)
    assert (put.dst, put.compare, put.operand, put.flags) == (int(p), int(p) + 32, 7, WorkFlags.SIGNAL)
    with pytest.raises(TranslationFault):
        um.put_signal(0x700_0000_0000, b"data", p + 32, 8)
    assert um.wait_until(p + 32, 5, compare=">") == 7
    with pytest.raises(UsageError, match="multiple of 8"):
        um.put_signal(p, b"data", p + 33)


def test_a_signal_on_another_node_or_after_a_long_put_comes_later(um: Client, port: LoopbackPort) -> None:
    p, q = um.alloc(1 << 20, node="n1"), um.alloc(8, node="n2")
    port.log.clear()
    um.put_signal(p, b"data", q, 1)
    assert [w.dst for w in port.log if isinstance(w, Work)] == [int(p), int(q)]
    port.log.clear()
    um.put_signal(p, bytes(600_000), p + 0x9_8000, 2)
    sent = [(w.dst - int(p), w.length, w.flags) for w in port.log if isinstance(w, Work)]
    assert sent == [(0, 2 * 262_144, 0), (2 * 262_144, 600_000 - 2 * 262_144, WorkFlags.SIGNAL)]
    assert um.wait_until(p + 0x9_8000, 2) == 2


def test_wait_until_gives_up_and_says_what_it_saw(um: Client) -> None:
    p = um.alloc(8)
    with pytest.raises(DeadlineExceeded, match="the word is 0, never == 1"):
        um.wait_until(p, 1, timeout=0.02)
    with pytest.raises(UsageError, match="choose from"):
        um.wait_until(p, 1, compare="=")
    for compare, value in ((">=", 0), ("<=", 0), ("<", 1), ("!=", 3)):
        assert um.wait_until(p, value, compare=compare) == 0


def test_barrier_holds_until_all_have_come(port: LoopbackPort) -> None:
    with Client(port) as um:  # type: ignore[arg-type]
        counter = um.alloc(8)
        passed: list[int] = []

        def take_part(rounds: int) -> None:
            for i in range(rounds):
                um.barrier(counter, 3)
                passed.append(i)

        threads = [threading.Thread(target=take_part, args=(4,)) for _ in range(2)]
        for thread in threads:
            thread.start()
        for i in range(4):
            assert passed.count(i) == 0
            um.barrier(counter, 3)
        for thread in threads:
            thread.join()
        assert sorted(passed) == [0, 0, 1, 1, 2, 2, 3, 3]
        with pytest.raises(UsageError):
            um.barrier(counter, 0)
        with pytest.raises(DeadlineExceeded):
            um.barrier(counter, 2, timeout=0.02)


# -- ordering ---------------------------------------------------------------------------------------------


def test_a_fence_at_home_is_one_flag() -> None:
    um, port = deferred()
    p = um.alloc(64)
    um.fence()  # nothing before it: nothing to do
    um.put_async(p, b"1")
    um.fence()
    um.put_async(p, b"2")
    um.put_async(p, b"3")
    assert [w.fence for w in port.queue if isinstance(w, Work)] == [False, True, False]
    um.fence()
    um.put_many([int(p)], np.ones(1, "u8"))
    batch = port.log[-1]
    assert isinstance(batch, Batch)
    assert batch.requests["flags"][0] & WorkFlags.FENCE
    um.flush()
    um.close()


def test_a_fence_across_nodes_holds_back_without_blocking() -> None:
    um, port = deferred()
    a, b = um.alloc(64, node="n1"), um.alloc(64, node="n2")
    um.copy_async(b, a, 8)
    um.fence()
    um.put_async(b, b"after")
    um.fence()
    um.copy_async(a, b, 5)
    last = um.put_async(a + 8, b"x")
    assert len(port.queue) == 1
    port.step()
    assert len(port.queue) == 1  # the put, released by the copy; the second fence holds the rest
    port.step()
    assert len(port.queue) == 2
    um.flush()
    assert last.done()
    assert um.get(a, 5).tobytes() == b"after"
    um.put(a, b"y")
    um.close()


def test_what_a_fence_holds_can_be_cancelled_and_waited_for() -> None:
    um, port = deferred()
    a, b = um.alloc(64, node="n1"), um.alloc(64, node="n2")
    um.copy_async(b, a, 8)
    um.fence()
    held = um.put_async(b, b"z")
    assert held.cancel()
    assert held.done()
    um.put(b, b"w")  # held, then released while it waits
    assert um.get(b, 1).tobytes() == b"w"
    um.flush()
    um.close()
    assert not port.queue


# -- life and end -----------------------------------------------------------------------------------------


def test_close_flushes_and_is_idempotent() -> None:
    um, port = deferred()
    p = um.alloc(8)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", ResourceWarning)
        um.put_async(p, b"late")
        um.close()
        um.close()
    assert port.closed == 1
    assert bytes(port.cluster.regions[int(p)].data[:4]) == b"late"
    for call in (
        lambda: um.put(p, b"x"),
        lambda: um.put_async(p, b"x"),
        lambda: um.put_many([int(p)], [1]),
        um.nodes,
    ):
        with pytest.raises(UsageError, match="the client is closed"):
            call()
    assert um.closed
    assert repr(um) == "<unimem.Client: closed>"


def test_a_forgotten_client_warns_and_ends_its_session() -> None:
    port = LoopbackPort(FakeCluster())
    um = Client(port)  # type: ignore[arg-type]
    assert "home 'n0'" in repr(um)
    with pytest.warns(ResourceWarning, match=r"unclosed <unimem\.Client"):
        del um
    assert port.closed == 1


def test_pointers_of_the_client_are_pointers(um: Client) -> None:
    assert isinstance(um.alloc(8), GlobalPtr)
    with pytest.raises(UsageError):
        Client(LoopbackPort(FakeCluster()), timeout=-1)  # type: ignore[arg-type]
