"""`unimem.transfer`: futures, awaiting, abandoned transfers."""

from __future__ import annotations

import asyncio
import gc
import inspect
import warnings
from typing import Any

import numpy as np
import pytest
from fakes import AsyncLoopbackPort, FakeCluster, LoopbackPort

from unimem import AsyncClient, Cancelled, Client, DeadlineExceeded, Transfer, TranslationFault, UsageError
from unimem.wire import TIMING_PARTS

NOWHERE = 0x700_0000_0000


def deferred(timeout: float = 5.0) -> tuple[Client, LoopbackPort]:
    port = LoopbackPort(FakeCluster(), deferred=True)
    return Client(port, timeout=timeout), port  # type: ignore[arg-type]


def test_a_transfer_is_a_future() -> None:
    um, port = deferred()
    with um:
        p = um.alloc(64)
        t = um.put_async(p, b"12345678")
        assert (t.done(), t.bytes, t.timing, t.simulated_ns) == (False, 0, {}, 0.0)
        assert repr(t) == "<Transfer put of 8 bytes: under way>"
        assert t.result() is None
        assert (t.done(), t.bytes) == (True, 8)
        assert repr(t) == "<Transfer put of 8 bytes: done>"
        assert list(t.timing) == list(TIMING_PARTS)
        assert sum(t.timing.values()) == t.simulated_ns == 3.0
        found = um.get_async(p, 8)
        assert found.result().tobytes() == b"12345678"
        bad = um.get_async(NOWHERE, 8)
        with pytest.raises(TranslationFault):
            bad.result()
        assert isinstance(bad.exception(), TranslationFault)
        assert "failed" in repr(bad)
        assert um.get_async(p, 8).exception() is None
        assert not port.queue


def test_result_may_wait_shorter_than_the_deadline_and_go_on() -> None:
    um, port = deferred()
    with um:
        p = um.alloc(8)
        out = bytearray(4)
        t = um.get_async(p, out=out)
        um_data = um.put_async(p, b"late")
        port.queue.reverse()  # the put first
        port.frozen = True
        with pytest.raises(DeadlineExceeded, match="it goes on"):
            t.result(timeout=0.001)
        port.frozen = False
        assert t.result() is out
        assert out == b"late"
        um_data.result()


def test_its_own_deadline_gives_it_up() -> None:
    um, port = deferred()
    with um:
        p = um.alloc(8)
        port.frozen = True
        t = um.put_async(p, b"x", timeout=0.001)
        with pytest.raises(DeadlineExceeded) as caught:
            t.result()
        assert caught.value.definite
        port.frozen = False


def test_cancel() -> None:
    um, port = deferred()
    with um:
        p = um.alloc(8)
        t = um.put_async(p, b"x")
        assert t.cancel()
        assert not t.cancel()
        error = t.exception()
        assert isinstance(error, Cancelled)
        assert error.definite
        late = um.put_async(p, b"x")
        port.cancel = lambda work: False  # type: ignore[method-assign, assignment]
        assert not late.cancel()
        assert late.result() is None


def test_callbacks_are_called_once_each_and_may_raise(caplog: pytest.LogCaptureFixture) -> None:
    um, _ = deferred()
    with um:
        p = um.alloc(8)
        called: list[Transfer] = []
        t = um.put_async(p, b"x")
        t.add_done_callback(called.append)
        t.add_done_callback(called.append)
        t.result()
        t.add_done_callback(called.append)
        assert called == [t, t, t]
        um.put_async(p, b"y").add_done_callback(lambda t: {}["nothing"])
        um.flush()
    assert "a callback of <Transfer put" in caplog.text


def test_a_blocking_client_s_transfer_is_awaitable() -> None:
    async def main(um: Client, p: Any) -> Any:
        await um.put_async(p, b"12345678")
        return await um.get_async(p, 8)

    um, _ = deferred()
    with um:
        assert asyncio.run(main(um, um.alloc(8))).tobytes() == b"12345678"


def test_an_async_client_s_transfer_must_be_awaited() -> None:
    async def main() -> None:
        port = AsyncLoopbackPort(FakeCluster(), deferred=True)
        async with AsyncClient(port) as um:  # type: ignore[arg-type]
            p = await um.alloc(8)
            t = um.put_async(p, b"12345678")
            with pytest.raises(UsageError, match="await it"):
                t.result()
            await t
            assert t.result() is None
            port.frozen = True
            late = um.put_async(p, b"x", timeout=0.001)
            with pytest.raises(DeadlineExceeded):
                await late
            port.frozen = False

    asyncio.run(main())


def warned(um: Client) -> list[warnings.WarningMessage]:
    um._port.log.clear()  # type: ignore[attr-defined] # the fake remembers what was posted
    gc.collect()
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always", ResourceWarning)
        um.close()
    return [w for w in caught if "unimem" in str(w.message)]


def line() -> int:
    frame = inspect.currentframe()
    assert frame is not None
    assert frame.f_back is not None
    return frame.f_back.f_lineno


def test_abandoned_transfers_warn_with_their_source_line() -> None:
    um = Client(LoopbackPort(FakeCluster()))  # type: ignore[arg-type]
    p = um.alloc(8)
    for _ in range(3):
        here = line() + 1
        um.put_async(p, b"x")
    there = line() + 1
    um.put_async(NOWHERE, b"x")
    um.get_async(p, 1).result()
    found = {(w.filename, w.lineno): str(w.message) for w in warned(um)}
    assert set(found) == {(__file__, here), (__file__, there)}
    assert "3 transfer(s) made here were never waited for" in found[__file__, here]
    assert "it failed: put at 0x700_0000_0000" in found[__file__, there]


def test_still_under_way_at_the_end_warns() -> None:
    um, port = deferred(timeout=0.01)
    p = um.alloc(8)
    port.frozen = True
    here = line() + 1
    um.put_async(p, b"x")
    (warning,) = warned(um)
    assert warning.lineno == here
    assert "was still under way" in str(warning.message)


def test_flush_batches_callbacks_and_looking_are_enough() -> None:
    um = Client(LoopbackPort(FakeCluster()))  # type: ignore[arg-type]
    p = um.alloc(8)
    kept = [um.put_async(p, b"x") for _ in range(4)]
    um.put_async(p, b"x")
    um.flush()
    del kept
    with um.batch() as b:
        b.put(p, b"y")
    um.put_async(p, b"x").add_done_callback(lambda t: None)
    um.put_async(NOWHERE, b"x").exception()
    assert warned(um) == []


def test_many_failures_nobody_looks_at_do_not_pile_up() -> None:
    um = Client(LoopbackPort(FakeCluster()))  # type: ignore[arg-type]
    for _ in range(3000):
        um.put_async(NOWHERE, b"x")
    um._port.log.clear()  # type: ignore[attr-defined]
    gc.collect()
    assert len(um._failed) <= 1024
    with pytest.raises(ExceptionGroup):
        um.flush()
    assert warned(um) == []


def test_data_is_let_go_when_done() -> None:
    um = Client(LoopbackPort(FakeCluster()))  # type: ignore[arg-type]
    data = np.zeros(8, np.uint8)
    with um:
        t = um.put_async(um.alloc(8), data)
        t.result()
        assert t.data is None
        data.resize(16)  # raises while somebody holds the buffer
