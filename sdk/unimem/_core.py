"""What `Client` and `AsyncClient` share beside their requests (`_requests`): nothing here waits.

Ordering. Work for one node is ordered by the node (`WorkFlags.FENCE`), work on several nodes is not. A fence
with everything at home is therefore one flag on the next request; a fence with a `copy` under way on another
node holds what follows back, here, until what came before it is complete. Neither blocks the caller.
"""

from __future__ import annotations

import threading
import time
import warnings
from collections import deque
from typing import TYPE_CHECKING, Any, SupportsIndex

import numpy as np

from unimem._arguments import DELIVERED, SOURCE, Address, At, flat, limit_us, locate, seconds
from unimem._failures import operation_of
from unimem._many import Many, failed_row
from unimem._port import AsyncPort, Batch, Port, Work
from unimem._requests import Requests
from unimem.addresses import index_of
from unimem.cluster import Resolved, node_info, region_info
from unimem.errors import DeadlineExceeded, NoRoute, UnimemError, UsageError
from unimem.pointers import GlobalPtr
from unimem.transfer import Early, Operation, Transfer
from unimem.wire import COMPLETION, Status, WorkFlags

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    import numpy.typing as npt
    from google.protobuf.message import Message

    from unimem.cluster import NodeInfo, RegionInfo
    from unimem.v1 import coordinator_pb2 as pb

#: Seconds an operation may take unless it says otherwise.
DEFAULT_TIMEOUT = 5.0

#: Failed transfers kept for `flush` to raise; older ones are only counted.
_KEPT = 1024


class BaseClient(Requests):
    """State and verbs without waiting; see `Client` and `AsyncClient`."""

    _blocking = True
    _port: Port | AsyncPort

    def __init__(self, port: Port | AsyncPort, *, timeout: float = DEFAULT_TIMEOUT) -> None:
        self._port = port
        #: Deadline in seconds of every operation that is not given its own.
        self.timeout = seconds(timeout)
        self._names: dict[int, str] = {}
        self._arrays: set[Any] = set()
        self._under_way: set[Transfer | Many] = set()
        self._overdue: list[Operation] = []
        self._failed: list[Transfer] = []
        self._forgotten: dict[tuple[str, int], int] = {}
        self._flushed = 0.0
        self._closed = False
        # Set while a fence or a closed client keeps `_post` from being one call:
        self._ordering = False
        self._fence = False
        self._before: list[Operation | Many] = []
        self._held: deque[Work | Many | None] = deque()  # None: a fence
        self._releasing = False
        self._lock = threading.RLock()

    def _drive(self, done: Callable[[], bool], allowed: float) -> Any:
        raise NotImplementedError

    async def _wait_on_loop(self, operation: Any, allowed: float) -> None:
        raise NotImplementedError

    @property
    def home(self) -> str:
        """Name of the home node: where this client is a process."""
        return self._port.home

    @property
    def domain(self) -> str:
        """Name of the protection domain; empty or the coordinator's own for a private one."""
        return self._port.domain

    @property
    def pdid(self) -> int:
        """Number of the protection domain."""
        return self._port.pdid

    @property
    def closed(self) -> bool:
        """True after `close`."""
        return self._closed

    # -- what it knows of the cluster ---------------------------------------------------------------------

    def _learn(self, region: RegionInfo) -> RegionInfo:
        """Remember which node the region's window belongs to."""
        index = index_of(region.gva)
        if index is not None and region.node:
            self._names[index] = region.node
        return region

    def _learn_nodes(self, nodes: list[NodeInfo]) -> list[NodeInfo]:
        self._names.update((n.index, n.name) for n in nodes)
        return sorted(nodes, key=lambda n: n.index)

    def _resolved(self, gva: int, response: pb.ResolveAddressResponse) -> Resolved:
        region = self._learn(region_info(response.region))
        return Resolved(gva=gva, node=node_info(response.node), region=region, va=response.va)

    def _node(self, src: Address) -> str:
        """Name of the node whose engine reads `src`; `NoRoute` when it is not known."""
        name = self._node_of(src, "copy")
        if name is None:
            raise NoRoute("no known node owns the source's address", op="copy", gva=locate(src, 1, "copy"))
        return name

    def _node_of(self, src: Address, op: str) -> str | None:
        """As `_node`, or None when the coordinator has to be asked."""
        pointer = getattr(src, "ptr", src)
        if isinstance(pointer, GlobalPtr) and pointer.node:
            return pointer.node
        index = index_of(locate(src, 1, op))
        return None if index is None else self._names.get(index)

    def _node_name(self, index: int | None) -> str | None:
        return None if index is None else self._names.get(index, f"node #{index}")

    # -- posting ----------------------------------------------------------------------------------------

    def _post(self, work: Work) -> None:
        if self._ordering:
            self._post_in_order(work)
        else:
            self._port.post(work)

    def _start(self, transfer: Operation, timeout: float | None, depth: int = 3) -> Transfer:
        """Post for an `_async` verb; `depth` frames up is the caller's line."""
        assert isinstance(transfer, Transfer)
        transfer.started(self.timeout if timeout is None else seconds(timeout), depth)
        transfer.deadline = self._limit(timeout)
        self._under_way.add(transfer)
        self._post(transfer)
        return transfer

    def _put_early(self, dst: Address, data: Any, timeout: float | None, depth: int = 3) -> Transfer:
        """A put at level SOURCE: a transfer that is done. `flush` waits for what goes on, and raises it."""
        going = self._start(self._put(Early, dst, bytes(flat(data, "put"))), timeout, depth + 1)
        staged = Transfer(self, "put", 1, going.gva, 0, going.gva, going.length)
        staged._seen = True
        staged.on_done(Status.OK, np.zeros(1, COMPLETION), 0)
        return staged

    def _limit(self, timeout: float | None) -> int:
        """The deadline that travels with an operation, µs.

        A simulation's clock is the model's: there only what was asked for counts, not the default.
        """
        if timeout is None:
            if not self._port.background:
                return 0
            timeout = self.timeout
        return limit_us(timeout, early=self._port.background)

    def _post_many(self, many: Many) -> None:
        self._under_way.add(many)
        if self._ordering:
            self._post_in_order(many)
        else:
            self._port.post_batch(many)

    def _post_in_order(self, work: Work | Many) -> None:
        if self._closed:
            self._under_way.discard(work)
            raise UsageError("the client is closed", op=getattr(work, "verb", "post"), reason="CLOSED")
        with self._lock:
            before = self._before = [w for w in self._before if not w.done()]
            if self._held or (before and (work.node or any(w.node for w in before))):
                self._held.append(work)
                return
            if not before:
                self._ordering = self._fence = False
            elif self._fence:
                self._fence = False
                if isinstance(work, Batch):
                    work.requests["flags"][0] |= int(WorkFlags.FENCE)
                else:
                    work.fence = True
            self._hand_over(work)  # under the lock: nothing may overtake the fenced one

    def _hand_over(self, work: Work | Many) -> None:
        if isinstance(work, Batch):
            self._port.post_batch(work)
        else:
            self._port.post(work)

    def _release(self) -> None:
        """Hand over what a fence held back, as far as everything before it is complete."""
        with self._lock:
            if self._releasing:  # a simulation completes within `post`, and so comes back here
                return
            self._releasing = True
            while self._held and all(w.done() for w in self._before):
                group: list[Operation | Many] = []
                while self._held:
                    work = self._held.popleft()
                    if work is None:  # another fence
                        break
                    group.append(work)  # type: ignore[arg-type]
                    self._hand_over(work)
                self._before = group
            if not self._held:
                self._ordering = self._fence = bool(self._before)
            self._releasing = False

    # -- verbs that do not wait -------------------------------------------------------------------------

    def put_async(
        self, dst: Address, data: Any, *, at: At = DELIVERED, timeout: float | None = None
    ) -> Transfer:
        """As `put`, without waiting. `data` must not change until it is done (with SOURCE: it is)."""
        if at is DELIVERED:
            return self._start(self._put(Transfer, dst, data), timeout)
        if at is SOURCE:
            return self._put_early(dst, data, timeout)
        return self._start(self._put_level(Transfer, dst, data, at), timeout)

    def get_async(
        self,
        src: Address,
        n: SupportsIndex | None = None,
        *,
        out: Any = None,
        dtype: npt.DTypeLike | None = None,
        timeout: float | None = None,
    ) -> Transfer:
        """As `get`, without waiting; the array is the transfer's result."""
        return self._start(self._get(Transfer, src, n, out, dtype), timeout)

    def copy_async(
        self,
        dst: Address,
        src: Address,
        n: SupportsIndex,
        *,
        at: At = DELIVERED,
        timeout: float | None = None,
    ) -> Transfer:
        """As `copy`, without waiting. An `AsyncClient` must know the node of a bare address (`nodes`)."""
        return self._start(self._copy(Transfer, dst, src, n, self._node(src), at), timeout)

    def fence(self) -> None:
        """Everything issued before completes before anything issued from now on starts.

        Ordering only: it returns at once. `flush` waits.
        """
        with self._lock:
            if self._held:
                self._held.append(None)
            else:
                self._before = self._unfinished()
                self._fence = self._ordering = bool(self._before)

    def _cancel(self, work: Operation) -> bool:
        with self._lock:
            held = work in self._held
            if held:
                self._held.remove(work)
        if held:
            work.on_done(Status.CANCELLED, failed_row(Status.CANCELLED, definite=True), 0)
            return True
        return self._port.cancel(work)

    # -- completing -------------------------------------------------------------------------------------

    def _ended(self, work: Transfer | Many) -> None:
        """A tracked operation is complete; called by whoever completes it."""
        self._under_way.discard(work)
        if isinstance(work, Transfer) and work.status:
            if len(self._failed) >= _KEPT:  # the oldest go, and are counted by `_abandoned`
                self._failed = [t for t in self._failed if not t._seen][1 - _KEPT :]
            self._failed.append(work)
        if self._held:
            self._release()

    def _late(self, work: Operation) -> None:
        """A blocking verb gave up on `work`, which is still under way: `flush` will wait for it."""
        if not isinstance(work, Transfer):
            self._overdue = [w for w in self._overdue if not w.done()]
            self._overdue.append(work)

    def _unfinished(self) -> list[Operation | Many]:
        return [w for w in (*self._under_way, *self._overdue) if not w.done()]

    def _worth_waiting_for(self) -> list[Operation | Many]:
        """What `close` waits for: not what has missed its deadline, as its owner has been told."""
        return [w for w in list(self._under_way) if not isinstance(w, Transfer) or w._left() > 0]

    def _settled(self) -> list[UnimemError]:
        """Everything issued has been waited for: forget it, and return the errors nobody has seen."""
        self._flushed = time.monotonic()
        failed, self._failed = [t for t in self._failed if not t._seen], []
        for transfer in failed:
            transfer._seen = True
        self._forgotten.clear()
        return [t.error() for t in failed]

    def _not_flushed(self, waiting: list[Operation | Many], allowed: float) -> DeadlineExceeded:
        late = sum(not w.done() for w in waiting)
        return DeadlineExceeded(
            f"{late} of {len(waiting)} operations not done within {allowed:g} s", op="flush", definite=False
        )

    def _check_open(self, request: Message) -> None:
        if self._closed:
            raise UsageError("the client is closed", op=operation_of(request), reason="CLOSED")

    def _abandoned(self, transfer: Transfer) -> None:
        """Nobody looked at how `transfer` ended, and now nobody can."""
        if transfer._started >= self._flushed:
            self._forgotten[transfer._line] = self._forgotten.get(transfer._line, 0) + 1

    def _warn_of_abandoned(self) -> None:
        """When closing: a `ResourceWarning` for each source line that made transfers nobody waited for."""
        for work in list(self._under_way):
            if isinstance(work, Transfer) and not work._seen:
                work._seen = True
                _warn(
                    work._line,
                    f"{work.verb} of {work.length} bytes was still under way when the client closed",
                )
        for transfer in self._failed:
            if not transfer._seen:
                transfer._seen = True
                _warn(transfer._line, f"nobody waited for this transfer, and it failed: {transfer.error()}")
        for line, count in self._forgotten.items():
            _warn(line, f"{count} transfer(s) made here were never waited for; call result() or flush()")
        self._failed, self._forgotten = [], {}


def _warn(line: tuple[str, int], text: str) -> None:
    warnings.warn_explicit(f"unimem: {text}", ResourceWarning, *line)


def all_done(works: Sequence[Operation | Many]) -> Callable[[], bool]:
    """A function that says whether all `works` are done; it never looks twice at one that is."""
    waiting = list(works)

    def done() -> bool:
        while waiting and waiting[-1].done():
            waiting.pop()
        return not waiting

    return done
