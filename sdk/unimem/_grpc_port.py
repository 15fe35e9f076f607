"""The ports over gRPC: `AsyncGrpcPort` on the caller's event loop, `GrpcPort` on one in its own thread."""

from __future__ import annotations

import asyncio
import atexit
import threading
import time
import weakref
from collections import deque
from collections.abc import Callable, Coroutine, Sequence
from typing import TYPE_CHECKING, Any, Final, TypeVar

from unimem._grpc_core import GrpcCore
from unimem._grpc_loop import shared
from unimem._port import Batch, Work
from unimem.errors import TransportError, UsageError

if TYPE_CHECKING:
    from google.protobuf.message import Message

T = TypeVar("T")

#: Seconds a thread sleeps at most without looking again; only infinity is longer.
_LONGEST: Final = 3600.0

_open_ports: weakref.WeakSet[GrpcPort] = weakref.WeakSet()


class GrpcPort:
    """`Port` over gRPC. Thread-safe: threads may share a client."""

    background = True

    def __init__(self, endpoint: str, home: str, domain: str, timeout: float) -> None:
        self._thread = shared()
        self._loop = self._thread.loop
        self._inbox: deque[Work | Batch] = deque()
        self._rung = False
        self._changed = threading.Condition()
        self._waiting = 0
        self._closed = False
        self._core = self._call(self._open(endpoint, home, domain, timeout), timeout + 5)
        self.pdid, self.home = self._core.pdid, self._core.home
        self.domain = self._core.session.domain
        _open_ports.add(self)

    async def _open(self, endpoint: str, home: str, domain: str, allowed: float) -> GrpcCore:
        core = GrpcCore(endpoint, self._progress)
        await core.open(home, domain, allowed)
        return core

    def control(self, request: Message, timeout: float) -> Message:
        """See `Port.control`."""
        return self._call(self._core.control(request, timeout), timeout + 5)

    def reachability(self, nodes: Sequence[str], timeout: float) -> dict[str, str]:
        """See `Port.reachability`."""
        return self._call(self._core.reachability(nodes), timeout + 5)

    # -- posting: one wake-up of the loop for whatever is posted until it looks -----------------------------

    def post(self, work: Work) -> None:
        """See `Port.post`."""
        self._inbox.append(work)
        if not self._rung:
            self._ring()

    def post_batch(self, batch: Batch) -> None:
        """See `Port.post_batch`."""
        self._inbox.append(batch)
        if not self._rung:
            self._ring()

    def _ring(self) -> None:
        self._rung = True
        self._loop.call_soon_threadsafe(self._drain)

    def _drain(self) -> None:
        self._rung = False  # first: who appends from now on rings again
        while self._inbox:
            work = self._inbox.popleft()
            if isinstance(work, Batch):
                self._core.post_batch(work)
            else:
                self._core.post(work)

    def cancel(self, work: Work) -> bool:
        """See `Port.cancel`."""

        async def take_back() -> bool:
            self._drain()
            return self._core.cancel(work)

        return not self._closed and self._call(take_back(), 5)

    # -- waiting ------------------------------------------------------------------------------------------

    def _progress(self) -> None:
        if self._waiting:  # a thread that comes now looks at done() before it sleeps
            with self._changed:
                self._changed.notify_all()

    def drive(self, done: Callable[[], bool], timeout: float) -> bool:
        """See `Port.drive`."""
        if threading.current_thread() is self._thread.thread:
            raise UsageError(
                "a callback cannot wait: it runs on the thread that makes the progress", op="wait"
            )
        deadline = time.monotonic() + timeout
        with self._changed:
            self._waiting += 1
            try:
                while not done():
                    left = deadline - time.monotonic()
                    if left <= 0:
                        return done()
                    self._changed.wait(min(left, _LONGEST))
                return True
            finally:
                self._waiting -= 1

    def _call(self, coroutine: Coroutine[Any, Any, T], timeout: float) -> T:
        """Run `coroutine` on the loop and wait for it."""
        if threading.current_thread() is self._thread.thread:
            coroutine.close()
            raise UsageError(
                "a callback cannot wait: it runs on the thread that makes the progress", op="wait"
            )
        future = asyncio.run_coroutine_threadsafe(coroutine, self._loop)
        try:
            return future.result(min(timeout, _LONGEST))
        except TimeoutError:
            if future.done():
                raise
            raise TransportError("the I/O thread does not answer", op="wait", retryable=False) from None
        finally:
            future.cancel()

    def close(self) -> None:
        """See `Port.close`."""
        if not self._closed:
            self._closed = True
            _open_ports.discard(self)
            if self._thread.thread.is_alive():
                self._call(self._core.close(), 5)


class AsyncGrpcPort:
    """`AsyncPort` over gRPC, on the loop that was running when it was opened."""

    background = True

    def __init__(self, endpoint: str) -> None:
        self._core = GrpcCore(endpoint, self._progress)
        self._waiters: list[tuple[Callable[[], bool], asyncio.Future[None]]] = []

    async def open(self, home: str, domain: str, timeout: float) -> AsyncGrpcPort:  # noqa: ASYNC109
        """Connect and open a session; returns itself."""
        await self._core.open(home, domain, timeout)
        self.pdid, self.home = self._core.pdid, self._core.home
        self.domain = self._core.session.domain
        return self

    def post(self, work: Work) -> None:
        """See `AsyncPort.post`."""
        self._core.post(work)

    def post_batch(self, batch: Batch) -> None:
        """See `AsyncPort.post_batch`."""
        self._core.post_batch(batch)

    def cancel(self, work: Work) -> bool:
        """See `AsyncPort.cancel`."""
        return self._core.cancel(work)

    async def control(self, request: Message, timeout: float) -> Message:  # noqa: ASYNC109
        """See `AsyncPort.control`."""
        return await self._core.control(request, timeout)

    async def reachability(self, nodes: Sequence[str], timeout: float) -> dict[str, str]:  # noqa: ASYNC109
        """See `AsyncPort.reachability`."""
        return await asyncio.wait_for(self._core.reachability(nodes), timeout)

    def _progress(self) -> None:
        for done, waiter in self._waiters:
            if not waiter.done() and done():
                waiter.set_result(None)

    async def drive(self, done: Callable[[], bool], timeout: float) -> bool:  # noqa: ASYNC109
        """See `AsyncPort.drive`."""
        if done():
            return True
        entry = (done, asyncio.get_running_loop().create_future())
        self._waiters.append(entry)
        try:
            await asyncio.wait([entry[1]], timeout=min(timeout, _LONGEST))
        finally:
            self._waiters.remove(entry)
        return done()

    async def close(self) -> None:
        """See `AsyncPort.close`."""
        await self._core.close()


@atexit.register
def _close_all() -> None:
    """End the sessions of clients nobody closed, while the I/O thread still runs."""
    for port in list(_open_ports):
        port.close()
