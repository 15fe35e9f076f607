"""The asyncio shell around the core: drives changes, keeps time, publishes the route table.

The core runs in one thread of its own, a step at a time: that is the critical section of every change, and a
slow disk stalls neither the relay's streams nor the event loop. While a node is being called the core is
free; only changes on the same node wait for each other (`Turn`). A change that has begun is carried to its
end even when its caller has gone.
"""

from __future__ import annotations

import asyncio
import time
from collections import defaultdict
from collections.abc import AsyncIterator, Callable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from functools import partial
from typing import Any, Final, Generic

import structlog
from google.protobuf.message import Message

from unimem_coordinator.api import answer
from unimem_coordinator.core import Coordinator
from unimem_coordinator.errors import CoordinatorError, NodeFailure, Reason
from unimem_coordinator.nodes_client import NodeClients
from unimem_coordinator.values import Change, Need, NodeInfo, Repairs, RouteTable, T, Turn

log = structlog.get_logger(__name__)

#: How often time is looked at: a lease ends at most this much late.
_TICK_SECONDS: Final = 0.25

#: How long after a repair failed it is tried again.
_RETRY_SECONDS: Final = 1.0

#: A node answers its registration before it can be called.
_SETTLING_SECONDS: Final = 0.05

#: Ticks further apart than this mean that this process was stopped, and could not hear renewals either.
_ASLEEP_NS: Final = 2_000_000_000


@dataclass(slots=True)
class _Step(Generic[T]):
    """Where a change stands: at a need, or at its answer."""

    need: Need | None
    answer: T | None = None


class Shell:
    """Runs a `Coordinator`. `start` and `stop` in the same event loop; everything else in between."""

    def __init__(
        self,
        core: Coordinator,
        nodes: NodeClients,
        *,
        clock: Callable[[], int] = time.monotonic_ns,
    ) -> None:
        self._core = core
        self._nodes = nodes
        self._clock = clock
        self._thread = ThreadPoolExecutor(1, thread_name_prefix="coordinator-core")
        self._turns: dict[str, asyncio.Lock] = defaultdict(asyncio.Lock)
        self._tasks: set[asyncio.Task[Any]] = set()
        self._begun: set[asyncio.Task[Any]] = set()
        self._retry_at: dict[str, float] = {}  # node -> loop time before which a tick leaves it alone
        self._table = core.routes()
        self._by_name = {node.name: node for node in self._table.nodes}
        self._changed = asyncio.Event()
        self._look = asyncio.Event()
        self._stopping = False

    # -- life

    def start(self) -> None:
        """Begin to keep time."""
        self._spawn(self._keep_time())

    def begin_stop(self) -> None:
        """End watches, call no node any more: what is under way ends soon."""
        self._stopping = True
        self._nodes.give_up()
        self._changed.set()
        self._look.set()

    async def stop(self) -> None:
        """Wait for what is under way, and let go of the core's thread and the channels."""
        self.begin_stop()
        while self._tasks:
            await asyncio.gather(*self._tasks, return_exceptions=True)
        await asyncio.get_running_loop().run_in_executor(None, self._thread.shutdown)
        await self._nodes.close()

    # -- what the service asks

    @property
    def routes(self) -> RouteTable:
        """The table published last."""
        return self._table

    def node(self, name: str) -> NodeInfo | None:
        """A node by name, from the table published last."""
        return self._by_name.get(name)

    async def call(self, request: Message) -> Message:
        """Answer a unary request of CoordinatorService; raises `CoordinatorError`, `StoreError`."""
        if self._stopping:
            raise CoordinatorError(Reason.STOPPING, "the coordinator is stopping")
        response = await self.run(answer(self._core, request, self._clock()))
        if request.DESCRIPTOR.name == "RegisterNodeRequest":
            asyncio.get_running_loop().call_later(_SETTLING_SECONDS, self._look.set)
        return response

    async def watch(self, known_epoch: int) -> AsyncIterator[RouteTable]:
        """The table now, unless its epoch is `known_epoch`, and after each change; of several the last."""
        while not self._stopping:
            table, changed = self._table, self._changed
            if table.epoch != known_epoch:
                yield table
                known_epoch = table.epoch
            else:
                await changed.wait()

    async def run(self, change: Change[T]) -> T:
        """Drive a change. When the caller is cancelled while it waits for its turn, nothing has happened."""
        task = self._spawn(self._drive(change))
        try:
            return await asyncio.shield(task)
        except asyncio.CancelledError:
            if task not in self._begun:
                task.cancel()
            raise

    # -- driving

    async def _drive(self, change: Change[T]) -> T:
        this = asyncio.current_task()
        assert this is not None
        turn: asyncio.Lock | None = None
        failure: NodeFailure | None = None
        try:
            while True:
                step = await self._in_core(partial(_resume, change, failure))
                failure = None
                if step.need is None:
                    return step.answer  # type: ignore[return-value]  # None is an answer where T allows it
                if turn is not None and isinstance(step.need, Turn | Repairs):
                    turn.release()
                    turn = None
                match step.need:
                    case Turn(node):
                        await self._turns[node].acquire()
                        turn = self._turns[node]
                        self._begun.add(this)
                    case Repairs(nodes):
                        self._begun.add(this)
                        await asyncio.wait(
                            [self._repair(node) for node in nodes], timeout=self._nodes.call_seconds
                        )
                    case action:
                        try:
                            await self._nodes.perform(action, self._by_name[action.node])
                        except NodeFailure as error:
                            failure = error
        finally:
            # In the core's thread, where a step of it may still be at work if this task was cancelled.
            self._thread.submit(change.close)
            if turn is not None:
                turn.release()
            self._begun.discard(this)

    async def _in_core(self, step: Callable[[], T]) -> T:
        loop = asyncio.get_running_loop()

        def work() -> T:
            try:
                return step()
            finally:
                if self._core.epoch != self._table.epoch:
                    loop.call_soon_threadsafe(self._publish, self._core.routes())

        return await loop.run_in_executor(self._thread, work)

    def _publish(self, table: RouteTable) -> None:
        if table.epoch <= self._table.epoch:
            return
        self._table = table
        self._by_name = {node.name: node for node in table.nodes}
        changed, self._changed = self._changed, asyncio.Event()
        changed.set()
        self._spawn(self._nodes.retain({node.address for node in table.nodes}))
        log.info("routes changed", epoch=table.epoch, **{node.name: node.state.name for node in table.nodes})

    def _repair(self, node: str) -> asyncio.Task[bool]:
        return self._spawn(self._repaired(node))

    async def _repaired(self, node: str) -> bool:
        self._retry_at[node] = float("inf")
        fine = False
        try:
            fine = await self._drive(self._core.repair(node))
        except Exception:  # what the node was to be told is still on record
            log.exception("repair failed", node=node)
        now = asyncio.get_running_loop().time()
        self._retry_at[node] = now if fine else now + _RETRY_SECONDS
        return fine

    def _spawn(self, work: Any) -> asyncio.Task[Any]:
        task: asyncio.Task[Any] = asyncio.get_running_loop().create_task(work)
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)
        # Whoever waits for it hears of its failure; nobody may be waiting any more.
        task.add_done_callback(lambda done: done.cancelled() or done.exception())
        return task

    # -- time

    async def _keep_time(self) -> None:
        last = self._clock()
        while not self._stopping:
            try:
                async with asyncio.timeout(_TICK_SECONDS):
                    await self._look.wait()
            except TimeoutError:
                pass
            self._look.clear()
            now = self._clock()
            try:
                await self._tick(now, asleep=now - last > _ASLEEP_NS)
            except Exception:  # the next tick may do better; without ticks no lease would ever end
                log.exception("keeping time failed")
            last = now

    async def _tick(self, now_ns: int, *, asleep: bool) -> None:
        if asleep:
            log.warning("this process was stopped for a while: leases and sessions start anew")
            await self._in_core(partial(self._core.grace, now_ns))
        expired = await self._in_core(partial(self._core.expire, now_ns))
        for node in expired.nodes:
            log.warning("lease ran out", node=node)
        if expired.sessions:
            log.info("sessions ran out", count=len(expired.sessions))
        loop = asyncio.get_running_loop()
        for node in await self._in_core(self._core.unfinished):
            if self._retry_at.get(node, 0.0) <= loop.time():
                self._repair(node)


def _resume(change: Change[T], failure: NodeFailure | None) -> _Step[T]:
    """Take a change to its next need, or to its answer."""
    try:
        return _Step(change.throw(failure) if failure is not None else next(change))
    except StopIteration as stop:
        return _Step(None, stop.value)
