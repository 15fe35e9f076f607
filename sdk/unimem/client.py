"""The blocking client: a process on a home node of the cluster, with the verbs of one-sided communication.

Every verb has a deadline (`timeout=` in seconds, else the client's) and raises an error of `unimem.errors`. A
verb returns when its effect is DELIVERED: visible in the target's memory. The same code runs over gRPC
(`unimem.connect`) and over a simulated cluster (`unimem_lab.SimCluster`).
"""

from __future__ import annotations

import logging
import time
import warnings
import weakref
from typing import TYPE_CHECKING, Any, SupportsIndex, cast

import numpy as np

from unimem import _control as control
from unimem._arguments import DELIVERED, SOURCE, Address, At, seconds
from unimem._core import DEFAULT_TIMEOUT, BaseClient, all_done
from unimem._many import Many, reads, writes
from unimem.array import GlobalArray, dtype_of, shape_of
from unimem.batching import OperationBatch
from unimem.cluster import NodeInfo, RegionInfo, Resolved, Rights, node_info, region_info
from unimem.errors import UnimemError
from unimem.mailbox import Mailbox, bytes_of, checked, new_header, slots_of
from unimem.pointers import GlobalPtr
from unimem.transfer import Operation, Transfer
from unimem.v1 import coordinator_pb2 as pb
from unimem.wire import MAILBOX, Op

if TYPE_CHECKING:
    from collections.abc import Callable

    import numpy.typing as npt
    from google.protobuf.message import Message

    from unimem._port import Port

log = logging.getLogger("unimem")


class Client(BaseClient):
    """One-sided access to the global address space; a context manager. Made by `unimem.connect`."""

    _port: Port

    def __init__(self, port: Port, *, timeout: float = DEFAULT_TIMEOUT) -> None:
        super().__init__(port, timeout=timeout)
        self._finalizer = weakref.finalize(self, port.close)

    # -- moving bytes -----------------------------------------------------------------------------------

    def put(self, dst: Address, data: Any, *, at: At = DELIVERED, timeout: float | None = None) -> None:
        """Write the bytes of `data` (anything `memoryview()` takes, C-contiguous) at `dst`.

        `at`: when it returns. SOURCE: at once, with a copy of `data` under way; ACCEPTED: when the target has
        all of it; DELIVERED: when it is in memory. What fails after that is raised by `flush`.
        """
        if at is DELIVERED:
            self._run(self._put(Operation, dst, data), timeout)
        elif at is SOURCE:
            self._put_early(dst, data, timeout)
        else:
            self._run(self._put_level(Operation, dst, data, at), timeout)

    def get(
        self,
        src: Address,
        n: SupportsIndex | None = None,
        *,
        out: Any = None,
        dtype: npt.DTypeLike | None = None,
        timeout: float | None = None,
    ) -> Any:
        """Read `n` bytes at `src`: a new uint8 array, or one of `dtype`; or into `out`, which is returned.

        Without `n` and `out`, `src` is a GlobalArray and comes with its shape and dtype.
        """
        op = self._get(Operation, src, n, out, dtype)
        self._run(op, timeout)
        return op.array

    def copy(
        self,
        dst: Address,
        src: Address,
        n: SupportsIndex,
        *,
        at: At = DELIVERED,
        timeout: float | None = None,
    ) -> None:
        """Move `n` bytes from `src` to `dst`, both global: the engine of the source's node does it.

        A source is known to be free when the target has all of it: SOURCE is as good as ACCEPTED.
        """
        self._run(self._copy(Operation, dst, src, n, self._node(src), at), timeout)

    def fetch_add(
        self, dst: Address, value: SupportsIndex = 1, *, width: int = 8, timeout: float | None = None
    ) -> int:
        """Add to the word of `width` bytes (4 or 8) at `dst`, wrapping; return what was there before."""
        return cast(
            "int",
            self._run(self._atomic(Operation, "fetch_add", Op.FETCH_ADD, dst, value, 0, width), timeout),
        )

    def compare_swap(
        self,
        dst: Address,
        compare: SupportsIndex,
        value: SupportsIndex,
        *,
        width: int = 8,
        timeout: float | None = None,
    ) -> int:
        """Replace the word at `dst` by `value` if it is `compare`; return what was there before."""
        op = self._atomic(Operation, "compare_swap", Op.COMPARE_SWAP, dst, value, compare, width)
        return cast("int", self._run(op, timeout))

    def swap(
        self, dst: Address, value: SupportsIndex, *, width: int = 8, timeout: float | None = None
    ) -> int:
        """Replace the word at `dst` by `value`; return what was there before."""
        return cast("int", self._run(self._atomic(Operation, "swap", Op.SWAP, dst, value, 0, width), timeout))

    def put_many(self, gvas: Any, values: Any, *, timeout: float | None = None) -> None:
        """Write `values[i]` (each at most 256 KiB) at `gvas[i]`; one array of work requests for all of them.

        `gvas`: integers. `values`: an array with a value, or a row, for each. Raises an `ExceptionGroup` with
        the first errors when some were refused; the others are delivered.
        """
        requests, payload = writes(gvas, values, "put_many")
        self._run_many(Many(self, "put_many", requests, payload), timeout)

    def get_many(self, gvas: Any, n: SupportsIndex, *, timeout: float | None = None) -> np.ndarray:
        """Read `n` bytes (at most 256 KiB) from each of `gvas`: a uint8 array of shape (addresses, n)."""
        requests, out = reads(gvas, n, "get_many")
        self._run_many(Many(self, "get_many", requests, np.empty(0, np.uint8), out), timeout)
        return out

    # -- ordering and signalling --------------------------------------------------------------------------

    def flush(self, *, timeout: float | None = None) -> None:
        """Wait until everything issued is delivered; raise what failed unseen as an `ExceptionGroup`."""
        allowed = self.timeout if timeout is None else seconds(timeout)
        waiting = self._unfinished()
        if not self._drive(all_done(waiting), allowed):
            raise self._not_flushed(waiting, allowed)
        errors = self._settled()
        if errors:
            raise ExceptionGroup(f"{len(errors)} operations failed", errors)

    def batch(self, *, timeout: float | None = None) -> OperationBatch:
        """`with um.batch() as b: b.put(...); b.get(...)`: issues many, waits once; see `OperationBatch`."""
        return OperationBatch(self, timeout)

    def put_signal(
        self,
        dst: Address,
        data: Any,
        flag: Address,
        value: SupportsIndex = 1,
        *,
        timeout: float | None = None,
    ) -> None:
        """Put `data` and, once delivered, set the 64-bit word at `flag`: who sees `value` sees the data.

        The flag is not touched when the data is refused. Up to 256 KiB for one node leave together, flag and
        all; a longer put is delivered up to its last piece first.
        """
        allowed = self.timeout if timeout is None else seconds(timeout)
        deadline = time.monotonic() + allowed
        for operation in self._signalled(Operation, dst, data, flag, value):
            self._run(operation, allowed)
            allowed = max(deadline - time.monotonic(), 1e-6)

    def wait_until(
        self,
        flag: Address,
        value: SupportsIndex,
        *,
        compare: str = "==",
        width: int = 8,
        timeout: float | None = None,
    ) -> int:
        """Look at the word of `width` bytes at `flag` until `word compare value` holds; return the word.

        `compare`: one of == != < <= > >=. It polls with gets, at longer and longer intervals up to 5 ms.
        """
        allowed = self.timeout if timeout is None else seconds(timeout)
        watch = control.Watch(flag, value, compare, allowed, width)
        while True:
            if watch.holds(int(self.get(watch.gva, width, dtype=f"<u{width}", timeout=watch.left)[0])):
                return watch.seen
            time.sleep(watch.pause())

    def barrier(self, counter: Address, participants: SupportsIndex, *, timeout: float | None = None) -> None:
        """Wait until all `participants` have called it with the same `counter`, a 64-bit word, zero at first.

        The word only grows, so one serves for any number of rounds. A participant that does not come leaves
        the others with `DeadlineExceeded`, and the counter out of step: set it to zero before using it again.
        """
        control.round_end(0, participants)
        ticket = self.fetch_add(counter, 1, timeout=timeout)
        self.wait_until(counter, control.round_end(ticket, participants), compare=">=", timeout=timeout)

    # -- memory and cluster -------------------------------------------------------------------------------

    def alloc(self, length: SupportsIndex, *, node: str | None = None, name: str = "") -> GlobalPtr:
        """A new region of zeros on `node` (None: at home), freed by `free` or with its private domain.

        `name` is unique in the domain and can be found by `regions(domain=...)`.
        """
        response = self._control(control.allocate(length, node, name))
        return self._learn(region_info(cast("pb.AllocateRegionResponse", response).region)).ptr

    def array(
        self,
        shape: SupportsIndex | tuple[SupportsIndex, ...] | list[SupportsIndex],
        dtype: npt.DTypeLike = "u1",
        *,
        node: str | None = None,
        name: str = "",
        keep: bool = False,
    ) -> GlobalArray:
        """A new array of zeros; freed by `with`, by `free`, or when the client closes unless `keep`."""
        size = int(np.prod(shape_of(shape), dtype=object)) * dtype_of(dtype).itemsize
        ptr = self.alloc(size, node=node, name=name)
        array = GlobalArray(self, ptr, shape, dtype, owned=True, name=name)
        if not keep:
            self._arrays.add(array)
        return array

    def array_at(
        self,
        where: Address | RegionInfo,
        shape: SupportsIndex | tuple[SupportsIndex, ...] | list[SupportsIndex],
        dtype: npt.DTypeLike = "u1",
    ) -> GlobalArray:
        """Look at memory that is there already as an array; `free` on it only forgets it."""
        return GlobalArray(self, self.pointer(where), shape, dtype)

    def mailbox(self, *, node: str | None = None, slots: SupportsIndex = 64, name: str = "") -> Mailbox:
        """A new mailbox of 64-byte messages on `node` (None: at home); freed by `free`, or when closing."""
        count = slots_of(slots)
        ptr = self.alloc(bytes_of(count), node=node, name=name)
        self.put(ptr, new_header(count))
        box = Mailbox(self, ptr, count, owned=True)
        self._arrays.add(box)
        return box

    def mailbox_at(self, where: Address | RegionInfo) -> Mailbox:
        """The mailbox at an address: send to it, or take messages out of it."""
        ptr = self.pointer(where)
        return Mailbox(self, ptr, checked(self.get(ptr, MAILBOX.itemsize), ptr))

    def pointer(self, where: Address | RegionInfo) -> GlobalPtr:
        """A pointer with the bounds of the region around `where`; asks the coordinator for a bare address."""
        found = control.base_of(where)
        return found if isinstance(found, GlobalPtr) else self.resolve(found).ptr

    def free(self, where: Address | RegionInfo) -> None:
        """Free the region whose base this is. Its address may be given to another region."""
        if isinstance(where, GlobalArray | Mailbox) and where._owned:
            where.free()
        else:
            self._control(control.free(control.base_of(where)))

    def share(
        self,
        where: Address | RegionInfo,
        domain: str | None = None,
        *,
        pdid: int | None = None,
        rights: Rights | str | None = "rw",
    ) -> RegionInfo:
        """Give `rights` ("r", "w", "rw") on the whole region to another domain; None takes them away."""
        response = self._control(control.share(control.base_of(where), domain, pdid, rights))
        return region_info(cast("pb.ShareRegionResponse", response).region)

    def resolve(self, where: Address) -> Resolved:
        """Which node, protection domain and region an address belongs to."""
        request = control.resolve(where)
        return self._resolved(request.gva, cast("pb.ResolveAddressResponse", self._control(request)))

    def nodes(self) -> list[NodeInfo]:
        """The nodes of the cluster, by index."""
        response = cast("pb.ListNodesResponse", self._control(pb.ListNodesRequest()))
        return self._learn_nodes([node_info(n) for n in response.nodes])

    def regions(self, *, node: str | None = None, domain: str | None = None) -> list[RegionInfo]:
        """The regions, of one node or one domain if given, by address."""
        response = self._control(control.list_regions(node, domain))
        regions = [region_info(r) for r in cast("pb.ListRegionsResponse", response).regions]
        return sorted(regions, key=lambda r: r.gva)

    def reachability(self, *nodes: str) -> dict[str, str]:
        """How each node (all that are up, unless named) is reached: "direct", "relayed" or "simulated"."""
        names = nodes or tuple(n.name for n in self.nodes() if n.state == "up")
        return self._port.reachability(names, self.timeout)

    # -- end ----------------------------------------------------------------------------------------------

    def close(self) -> None:
        """Wait for what is under way (until the deadline), free this client's arrays, end the session."""
        if self._closed:
            return
        self._drive(all_done(self._worth_waiting_for()), self.timeout)
        for array in list(self._arrays):
            try:
                array.free()
            except UnimemError as error:
                log.warning("could not free %r: %s", array, error)
        self._closed = self._ordering = True
        self._warn_of_abandoned()
        self._finalizer()

    def __enter__(self) -> Client:
        return self

    def __exit__(self, *exc: object) -> None:
        self.close()

    def __del__(self) -> None:
        if not getattr(self, "_closed", True):
            warnings.warn(f"unclosed {self!r}", ResourceWarning, stacklevel=1, source=self)

    def __repr__(self) -> str:
        state = "closed" if self._closed else f"home {self.home!r}, domain {self.domain!r} ({self.pdid})"
        return f"<unimem.Client: {state}>"

    # -- waiting ------------------------------------------------------------------------------------------

    def _run(self, op: Operation, timeout: float | None) -> Any:
        if timeout is not None:
            seconds(timeout)
        if timeout is not None or self._port.background:
            op.deadline = self._limit(timeout)
        if self._ordering:
            self._post_in_order(op)
        else:
            self._port.post(op)
        if op.status:  # under way, or failed
            if op.status < 0:
                allowed = self.timeout if timeout is None else timeout
                if not self._port.drive(op.done, allowed) and op.status < 0:
                    raise op.overdue(allowed)
            if op.status:
                raise op.error()
        return op.outcome() if op.op > Op.READ else None

    def _run_many(self, many: Many, timeout: float | None) -> None:
        allowed = self.timeout if timeout is None else seconds(timeout)
        many.requests["deadline_us"] = self._limit(timeout)
        self._post_many(many)
        if not self._drive(many.done, allowed):
            raise many.overdue(allowed)
        if many.bad:
            raise many.error()

    def _drive(self, done: Callable[[], bool], allowed: float) -> bool:
        return done() or self._port.drive(done, allowed)

    async def _wait_on_loop(self, transfer: Transfer, allowed: float) -> None:
        """For `await transfer`: without blocking the loop where completions come by themselves."""
        if not self._port.background:
            self._port.drive(transfer.done, allowed)
            return
        from unimem._awaiting import wait_from_other_thread  # noqa: PLC0415 - asyncio is not needed otherwise

        await wait_from_other_thread(transfer, allowed)

    def _control(self, request: Message) -> Message:
        self._check_open(request)
        return self._port.control(request, self.timeout)

    def _node(self, src: Address) -> str:
        if self._node_of(src, "copy") is None:
            self.nodes()
        return super()._node(src)
