"""The client for asyncio: the verbs and keyword names of `Client`, as coroutines on the running loop.

`put_async`, `get_async`, `copy_async` and `fence` are plain calls, as they do not wait; a `Transfer` is
awaited. Cancelling a task that waits takes the operation back if it has not left yet.
"""

from __future__ import annotations

import asyncio
import logging
import time
from typing import TYPE_CHECKING, Any, SupportsIndex, cast

import numpy as np

from unimem import _control as control
from unimem._arguments import DELIVERED, SOURCE, Address, At, seconds
from unimem._awaiting import AsyncOperation, wait_for
from unimem._core import DEFAULT_TIMEOUT, BaseClient, all_done
from unimem._many import Many, reads, writes
from unimem.array import AsyncGlobalArray, dtype_of, shape_of
from unimem.async_mailbox import AsyncMailbox
from unimem.batching import AsyncOperationBatch
from unimem.cluster import NodeInfo, RegionInfo, Resolved, Rights, node_info, region_info
from unimem.errors import UnimemError
from unimem.mailbox import bytes_of, checked, new_header, slots_of
from unimem.pointers import GlobalPtr
from unimem.transfer import Operation, Transfer
from unimem.v1 import coordinator_pb2 as pb
from unimem.wire import MAILBOX, Op

if TYPE_CHECKING:
    from collections.abc import Callable

    import numpy.typing as npt
    from google.protobuf.message import Message

    from unimem._port import AsyncPort

# `timeout=` is the verbs' own keyword, as in `Client`.
# ruff: noqa: ASYNC109

log = logging.getLogger("unimem")


class AsyncClient(BaseClient):
    """`Client` for asyncio; an async context manager. Made by `unimem.connect_async`."""

    _blocking = False
    _port: AsyncPort

    def __init__(self, port: AsyncPort, *, timeout: float = DEFAULT_TIMEOUT) -> None:
        super().__init__(port, timeout=timeout)

    # -- moving bytes -----------------------------------------------------------------------------------

    async def put(self, dst: Address, data: Any, *, at: At = DELIVERED, timeout: float | None = None) -> None:
        """As `Client.put`."""
        if at is DELIVERED:
            await self._run(self._put(AsyncOperation, dst, data), timeout)
        elif at is SOURCE:
            self._put_early(dst, data, timeout)
        else:
            await self._run(self._put_level(AsyncOperation, dst, data, at), timeout)

    async def get(
        self,
        src: Address,
        n: SupportsIndex | None = None,
        *,
        out: Any = None,
        dtype: npt.DTypeLike | None = None,
        timeout: float | None = None,
    ) -> Any:
        """As `Client.get`."""
        return await self._run(self._get(AsyncOperation, src, n, out, dtype), timeout)

    async def copy(
        self,
        dst: Address,
        src: Address,
        n: SupportsIndex,
        *,
        at: At = DELIVERED,
        timeout: float | None = None,
    ) -> None:
        """As `Client.copy`."""
        if self._node_of(src, "copy") is None:
            await self.nodes()
        await self._run(self._copy(AsyncOperation, dst, src, n, self._node(src), at), timeout)

    async def fetch_add(
        self, dst: Address, value: SupportsIndex = 1, *, width: int = 8, timeout: float | None = None
    ) -> int:
        """As `Client.fetch_add`."""
        op = self._atomic(AsyncOperation, "fetch_add", Op.FETCH_ADD, dst, value, 0, width)
        return cast("int", await self._run(op, timeout))

    async def compare_swap(
        self,
        dst: Address,
        compare: SupportsIndex,
        value: SupportsIndex,
        *,
        width: int = 8,
        timeout: float | None = None,
    ) -> int:
        """As `Client.compare_swap`."""
        op = self._atomic(AsyncOperation, "compare_swap", Op.COMPARE_SWAP, dst, value, compare, width)
        return cast("int", await self._run(op, timeout))

    async def swap(
        self, dst: Address, value: SupportsIndex, *, width: int = 8, timeout: float | None = None
    ) -> int:
        """As `Client.swap`."""
        op = self._atomic(AsyncOperation, "swap", Op.SWAP, dst, value, 0, width)
        return cast("int", await self._run(op, timeout))

    async def put_many(self, gvas: Any, values: Any, *, timeout: float | None = None) -> None:
        """As `Client.put_many`."""
        requests, payload = writes(gvas, values, "put_many")
        await self._run_many(Many(self, "put_many", requests, payload), timeout)

    async def get_many(self, gvas: Any, n: SupportsIndex, *, timeout: float | None = None) -> np.ndarray:
        """As `Client.get_many`."""
        requests, out = reads(gvas, n, "get_many")
        await self._run_many(Many(self, "get_many", requests, np.empty(0, np.uint8), out), timeout)
        return out

    # -- ordering and signalling --------------------------------------------------------------------------

    async def flush(self, *, timeout: float | None = None) -> None:
        """As `Client.flush`."""
        allowed = self.timeout if timeout is None else seconds(timeout)
        waiting = self._unfinished()
        if not await self._drive(all_done(waiting), allowed):
            raise self._not_flushed(waiting, allowed)
        errors = self._settled()
        if errors:
            raise ExceptionGroup(f"{len(errors)} operations failed", errors)

    def batch(self, *, timeout: float | None = None) -> AsyncOperationBatch:
        """As `Client.batch`, with `async with`."""
        return AsyncOperationBatch(self, timeout)

    async def put_signal(
        self,
        dst: Address,
        data: Any,
        flag: Address,
        value: SupportsIndex = 1,
        *,
        timeout: float | None = None,
    ) -> None:
        """As `Client.put_signal`."""
        allowed = self.timeout if timeout is None else seconds(timeout)
        deadline = time.monotonic() + allowed
        for operation in self._signalled(AsyncOperation, dst, data, flag, value):
            await self._run(operation, allowed)
            allowed = max(deadline - time.monotonic(), 1e-6)

    async def wait_until(
        self,
        flag: Address,
        value: SupportsIndex,
        *,
        compare: str = "==",
        width: int = 8,
        timeout: float | None = None,
    ) -> int:
        """As `Client.wait_until`."""
        allowed = self.timeout if timeout is None else seconds(timeout)
        watch = control.Watch(flag, value, compare, allowed, width)
        while True:
            word = await self.get(watch.gva, width, dtype=f"<u{width}", timeout=watch.left)
            if watch.holds(int(word[0])):
                return watch.seen
            await asyncio.sleep(watch.pause())

    async def barrier(
        self, counter: Address, participants: SupportsIndex, *, timeout: float | None = None
    ) -> None:
        """As `Client.barrier`."""
        control.round_end(0, participants)
        ticket = await self.fetch_add(counter, 1, timeout=timeout)
        end = control.round_end(ticket, participants)
        await self.wait_until(counter, end, compare=">=", timeout=timeout)

    # -- memory and cluster -------------------------------------------------------------------------------

    async def alloc(self, length: SupportsIndex, *, node: str | None = None, name: str = "") -> GlobalPtr:
        """As `Client.alloc`."""
        response = await self._control(control.allocate(length, node, name))
        return self._learn(region_info(cast("pb.AllocateRegionResponse", response).region)).ptr

    async def array(
        self,
        shape: SupportsIndex | tuple[SupportsIndex, ...] | list[SupportsIndex],
        dtype: npt.DTypeLike = "u1",
        *,
        node: str | None = None,
        name: str = "",
        keep: bool = False,
    ) -> AsyncGlobalArray:
        """As `Client.array`."""
        size = int(np.prod(shape_of(shape), dtype=object)) * dtype_of(dtype).itemsize
        ptr = await self.alloc(size, node=node, name=name)
        array = AsyncGlobalArray(self, ptr, shape, dtype, owned=True, name=name)
        if not keep:
            self._arrays.add(array)
        return array

    async def array_at(
        self,
        where: Address | RegionInfo,
        shape: SupportsIndex | tuple[SupportsIndex, ...] | list[SupportsIndex],
        dtype: npt.DTypeLike = "u1",
    ) -> AsyncGlobalArray:
        """As `Client.array_at`."""
        return AsyncGlobalArray(self, await self.pointer(where), shape, dtype)

    async def mailbox(
        self, *, node: str | None = None, slots: SupportsIndex = 64, name: str = ""
    ) -> AsyncMailbox:
        """As `Client.mailbox`."""
        count = slots_of(slots)
        ptr = await self.alloc(bytes_of(count), node=node, name=name)
        await self.put(ptr, new_header(count))
        box = AsyncMailbox(self, ptr, count, owned=True)
        self._arrays.add(box)
        return box

    async def mailbox_at(self, where: Address | RegionInfo) -> AsyncMailbox:
        """As `Client.mailbox_at`."""
        ptr = await self.pointer(where)
        return AsyncMailbox(self, ptr, checked(await self.get(ptr, MAILBOX.itemsize), ptr))

    async def pointer(self, where: Address | RegionInfo) -> GlobalPtr:
        """As `Client.pointer`."""
        found = control.base_of(where)
        return found if isinstance(found, GlobalPtr) else (await self.resolve(found)).ptr

    async def free(self, where: Address | RegionInfo) -> None:
        """As `Client.free`."""
        if isinstance(where, AsyncGlobalArray | AsyncMailbox) and where._owned:
            await where.free()
        else:
            await self._control(control.free(control.base_of(where)))

    async def share(
        self,
        where: Address | RegionInfo,
        domain: str | None = None,
        *,
        pdid: int | None = None,
        rights: Rights | str | None = "rw",
    ) -> RegionInfo:
        """As `Client.share`."""
        response = await self._control(control.share(control.base_of(where), domain, pdid, rights))
        return region_info(cast("pb.ShareRegionResponse", response).region)

    async def resolve(self, where: Address) -> Resolved:
        """As `Client.resolve`."""
        request = control.resolve(where)
        return self._resolved(request.gva, cast("pb.ResolveAddressResponse", await self._control(request)))

    async def nodes(self) -> list[NodeInfo]:
        """As `Client.nodes`."""
        response = cast("pb.ListNodesResponse", await self._control(pb.ListNodesRequest()))
        return self._learn_nodes([node_info(n) for n in response.nodes])

    async def regions(self, *, node: str | None = None, domain: str | None = None) -> list[RegionInfo]:
        """As `Client.regions`."""
        response = await self._control(control.list_regions(node, domain))
        regions = [region_info(r) for r in cast("pb.ListRegionsResponse", response).regions]
        return sorted(regions, key=lambda r: r.gva)

    async def reachability(self, *nodes: str) -> dict[str, str]:
        """As `Client.reachability`."""
        names = nodes or tuple(n.name for n in await self.nodes() if n.state == "up")
        return await self._port.reachability(names, self.timeout)

    # -- end ----------------------------------------------------------------------------------------------

    async def close(self) -> None:
        """As `Client.close`."""
        if self._closed:
            return
        await self._drive(all_done(self._worth_waiting_for()), self.timeout)
        for array in list(self._arrays):
            try:
                await array.free()
            except UnimemError as error:
                log.warning("could not free %r: %s", array, error)
        self._closed = self._ordering = True
        self._warn_of_abandoned()
        await self._port.close()

    async def __aenter__(self) -> AsyncClient:
        return self

    async def __aexit__(self, *exc: object) -> None:
        await self.close()

    # -- waiting ------------------------------------------------------------------------------------------

    async def _run(self, op: Operation, timeout: float | None) -> Any:
        allowed = self.timeout if timeout is None else seconds(timeout)
        op.deadline = self._limit(timeout)
        self._post(op)
        if op.status < 0:
            try:
                await self._wait_on_loop(op, allowed)
            except BaseException:  # the task is cancelled: nobody wants it any more
                op.out = None
                self._cancel(op)
                raise
            if op.status < 0:
                raise op.overdue(allowed)
        if op.status:
            raise op.error()
        return op.outcome()

    async def _run_many(self, many: Many, timeout: float | None) -> None:
        allowed = self.timeout if timeout is None else seconds(timeout)
        many.requests["deadline_us"] = self._limit(timeout)
        self._post_many(many)
        if not await self._drive(many.done, allowed):
            raise many.overdue(allowed)
        if many.bad:
            raise many.error()

    async def _drive(self, done: Callable[[], bool], allowed: float) -> bool:
        return done() or await self._port.drive(done, allowed)

    async def _wait_on_loop(self, operation: Operation, allowed: float) -> None:
        if not self._port.background:
            await self._port.drive(operation.done, allowed)
        else:
            await wait_for(cast("Transfer", operation), allowed)

    async def _control(self, request: Message) -> Message:
        self._check_open(request)
        return await self._port.control(request, self.timeout)
