"""A cluster in one process: one virtual clock, one event queue, the same bytes for the same seed.

    with SimCluster(nodes=4, seed=1) as cluster, cluster.client(home="n0") as um:
        there = um.alloc(4096, node="n2")
        um.put(there, b"hello")

Nodes are the model itself (`unimem_node.mpsoc.node.Node`), the fabric carries frames in memory, the
coordinator is its core with direct calls. Clients are the SDK's. Time is the model's: exact, and unrelated to
the wall clock.
"""

from __future__ import annotations

import gc
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from itertools import count
from struct import Struct
from typing import TYPE_CHECKING, Any, TypeVar, cast

import numpy as np

from unimem._port import Batch, Work
from unimem.async_client import AsyncClient
from unimem.client import Client
from unimem.cluster import node_info
from unimem.v1 import coordinator_pb2 as pb
from unimem.wire import COMPLETION, TIMING_PARTS, CompletionFlags, Op, Side, Status
from unimem_lab.sim_control import SimControl
from unimem_lab.sim_port import BATCH, AsyncSimPort, Doorbell, SimPort
from unimem_node.clock import EventLog, Scheduler, named_stream
from unimem_node.fabric.impair import parse
from unimem_node.fabric.memory import MemoryFabric
from unimem_node.fabric.network import Network
from unimem_node.fabric.port import Impairment
from unimem_node.fabric.topology import check_topology
from unimem_node.mpsoc.node import Node

if TYPE_CHECKING:
    from types import TracebackType

    from unimem_node.fabric import RdmaNi
    from unimem_node.mpsoc.platform import Platform

AnyClient = TypeVar("AnyClient", Client, AsyncClient)

#: Interfaces book a link no further ahead than this, so that flows that begin later get their share of it;
#: [D]: eight blocks of 16 KiB at 10 Gb/s.
LOOKAHEAD_PS = 128_000_000

_BATCH_NUMBER = 32
_POSITION = np.uint64((1 << _BATCH_NUMBER) - 1)
_ID_AND_STATUS = Struct("<QH")  # the first two fields of a COMPLETION


@contextmanager
def _no_collection() -> Iterator[None]:
    """Keep the garbage collector from looking, again and again, at thousands of objects that are all new."""
    was = gc.isenabled()
    gc.disable()
    try:
        yield
    finally:
        if was:
            gc.enable()


class _Waiting:
    """A batch under way: where it was staged, and where its reads go."""

    __slots__ = ("batch", "bell", "left", "offsets", "staged", "view")

    def __init__(self, batch: Batch, bell: Doorbell, staged: int, view: Any, offsets: np.ndarray) -> None:
        self.batch, self.bell, self.staged, self.view, self.offsets = batch, bell, staged, view, offsets
        self.left = len(batch.requests)


class SimCluster:
    """`nodes` simulated MPSoCs, named n0, n1, …, and a coordinator. Not for use by several threads.

    `paths`: how many ways (1 to 4) the blocks to one peer are spread over, where the topology has them.
    `policy`: what kernels do about page faults of DMA. `impair`: what the network does to packets, in the
    language of `unimem_node.fabric.impair` (its seed, unless given there, is the cluster's). `log=True`
    records completions, faults and interrupts in `events`. `fast=False` runs the readable paths.
    Raises ValueError for a topology that cannot wire so many nodes.
    """

    def __init__(
        self,
        nodes: int = 4,
        *,
        seed: int = 1,
        platform: str | Platform = "zynqmp",
        topology: str = "full",
        paths: int = 1,
        policy: str = "abort",
        impair: str | Impairment | None = None,
        memory_bytes: int = 4 << 30,
        fast: bool = True,
        log: bool = False,
    ) -> None:
        check_topology(topology, nodes)
        self.seed, self.topology = seed, topology
        self.scheduler = Scheduler()
        self.events: EventLog | None = EventLog() if log else None
        self._options: dict[str, Any] = {
            "platform": platform,
            "policy": policy,
            "memory_bytes": memory_bytes,
            "seed": seed,
            "fast": fast,
        }
        self._platform = platform if isinstance(platform, str) else platform.name
        self.fabric = MemoryFabric(self.scheduler, fast=fast)
        #: The links, and what they have carried.
        self.network: Network | None = None
        self._paths = paths
        self._nodes: dict[str, Node] = {}
        self._tokens: dict[str, str] = {}
        self._boots = named_stream(seed, "boot")
        secrets = named_stream(seed, "tokens")
        self.control = SimControl(self._nodes, lambda: f"{secrets.getrandbits(128):032x}", self._now_ns)
        self._ids = count(1)
        self._batch_numbers = count(0)
        self._works: dict[int, tuple[Work, Doorbell, int, Any]] = {}
        self._batches: dict[int, _Waiting] = {}
        #: Doorbells with something queued, in the order in which that happened.
        self.rung: dict[Doorbell, None] = {}
        self.nodes_changed = False
        self.nodes: tuple[str, ...] = tuple(f"n{i}" for i in range(nodes))
        with _no_collection():
            for name in self.nodes:
                self._start(name)
            self._announce()
        if isinstance(impair, str):
            impair = parse(impair, seed)
            impair.name_of = {node.index: name for name, node in self._nodes.items()}.__getitem__
        self.fabric.impair = impair

    def _now_ns(self) -> int:
        return self.scheduler.now_ps // 1000

    # -- nodes

    def _start(self, name: str) -> None:
        request = pb.RegisterNodeRequest(
            name=name,
            address=f"{name}:7410",
            platform=self._platform,
            memory_bytes=self._options["memory_bytes"],
            boot_id=self._boots.getrandbits(64) | 1,
        )
        registered = cast("pb.RegisterNodeResponse", self.control.call(request))
        info = registered.node
        self._tokens[name] = registered.lease_token
        node = Node(
            name,
            info.index,
            incarnation=info.incarnation,
            scheduler=self.scheduler,
            topology=self.topology,
            log=self.events,
            **self._options,
        )
        self._nodes[name] = node
        if self.network is None:
            self.network = Network(self.topology, len(self.nodes), node.ni.spec, paths=self._paths)
        node.ni.set_network(self.network.links, self.network.ways(info.index))
        node.ni.set_pacing(LOOKAHEAD_PS)
        self.fabric.attach(info.index, node.ni)

    def _announce(self) -> None:
        """Give everybody the route table, and nodes what the coordinator has for them."""
        table = self._table()
        rows = [(n.index, n.name, n.window_base, n.window_size, n.incarnation, n.state) for n in table.nodes]
        for node in self._nodes.values():
            node.set_routes(rows)
        self.control.settle()

    def node(self, name: str) -> Node:
        """The model of a running node. Raises LookupError with the names there are."""
        try:
            return self._nodes[name]
        except KeyError:
            raise LookupError(f"node {name} is not running; running are {', '.join(self._nodes)}") from None

    def kill(self, name: str) -> None:
        """A node dies with its memory: peers lose it, its own work is PEER_LOST, the coordinator is told."""
        self.ring()
        node = self.node(name)
        del self._nodes[name]
        self.nodes_changed = True
        self.fabric.cut(node.index, f"node {name} was killed")
        self.control.call(pb.DeregisterNodeRequest(name=name, lease_token=self._tokens[name]))
        self._drop(node, f"node {name} was killed")
        self._announce()
        node.close()

    def restart(self, name: str) -> None:
        """Start a killed node again: the same window, a new incarnation, empty memory."""
        if name in self._nodes or name not in self.nodes:
            raise ValueError(f"node {name} is running, or was never there")
        self._start(name)
        self.nodes_changed = True
        self._announce()

    def pause(self, name: str) -> None:
        """Let a node's interface stand still: frames to it wait, nothing leaves, its timers do not run."""
        self.ring()
        self.fabric.pause(self.node(name).index)

    def resume(self, name: str) -> None:
        """End `pause`: what has come meanwhile is taken at once, in order."""
        self.fabric.resume(self.node(name).index)

    def slow(self, name: str, gap_ns: float) -> None:
        """Let a node's interface take a frame in `gap_ns` at most; 0 ends that."""
        self.fabric.slow(self.node(name).index, round(gap_ns * 1000))

    def partition(self, names: Iterable[str], others: Iterable[str], *, oneway: bool = False) -> None:
        """Drop what the nodes of one group send to those of the other, and (not `oneway`) the reverse."""
        groups = [[self.node(name).index for name in group] for group in (names, others)]
        self.ring()
        self.fabric.partition(*groups, oneway=oneway)

    def heal(self) -> None:
        """End all partitions."""
        self.fabric.heal()

    def _drop(self, node: Node, why: str) -> None:
        """What was posted on a node that died: its client cannot know how it ended."""
        for wr_id, (work, bell, _, _) in list(self._works.items()):
            if bell.node is node:
                del self._works[wr_id]
                rows = np.zeros(1, COMPLETION)
                rows["status"] = Status.PEER_LOST
                rows["flags"] = CompletionFlags.DEFINITE if work.op == Op.READ else 0
                work.note = why
                work.on_done(Status.PEER_LOST, rows, 0)
        for number, waiting in list(self._batches.items()):
            if waiting.bell.node is node:
                del self._batches[number]
                rows = np.zeros(len(waiting.batch.requests), COMPLETION)
                rows["status"] = Status.PEER_LOST
                waiting.batch.note = why
                waiting.batch.on_rows(rows, np.arange(len(rows)))

    # -- clients

    def client(self, home: str | None = None, domain: str | None = None) -> Client:
        """A client on `home` (None: the coordinator chooses); close it, or use it as a context manager."""
        return self._introduced(Client(self._port(home, domain)))

    def async_client(self, home: str | None = None, domain: str | None = None) -> AsyncClient:
        """The same with awaitable verbs."""
        return self._introduced(AsyncClient(AsyncSimPort(self._port(home, domain))))

    def _introduced(self, client: AnyClient) -> AnyClient:
        """Tell a client the nodes' names, as `unimem.connect` does, so that its errors can say them."""
        client._learn_nodes([node_info(node) for node in self._table().nodes])
        return client

    def _table(self) -> pb.ListNodesResponse:
        return cast("pb.ListNodesResponse", self.control.call(pb.ListNodesRequest()))

    def _port(self, home: str | None, domain: str | None) -> SimPort:
        request = pb.OpenSessionRequest(home=home or "", domain=domain or "")
        return SimPort(self, cast("pb.OpenSessionResponse", self.control.call(request)))

    # -- what ports use

    def expect(self, work: Work, bell: Doorbell, staged: int, view: Any) -> int:
        """An id for `work`, whose completion is awaited from now on."""
        wr_id = next(self._ids)
        self._works[wr_id] = (work, bell, staged, view)
        return wr_id

    def cancel(self, work: Work) -> bool:
        """End `work` now, with all its pieces; True when it certainly did not happen."""
        mine = [i for i, entry in self._works.items() if work in (entry[0], getattr(entry[0], "whole", None))]
        nodes = {}
        for wr_id in mine:
            bell = self._works[wr_id][1]
            if bell.count:
                bell.ring()  # nothing leaves before the node has its turn
            bell.node.cancel(wr_id)
            nodes[bell.index] = bell
        for index in nodes:
            self.fabric.turn(index)
        self._collect()
        rows: Any = getattr(work, "rows", None)
        if rows is None or rows["status"][work.index] != Status.CANCELLED:  # type: ignore[attr-defined]
            return False
        return bool(rows["flags"][work.index] & CompletionFlags.DEFINITE)  # type: ignore[attr-defined]

    def wait_on(self, node: Node) -> None:
        """Look for completions of `node` from now on."""
        self.fabric.watch(node.index)

    def expect_batch(
        self, batch: Batch, bell: Doorbell, staged: int, view: Any, offsets: np.ndarray
    ) -> np.ndarray:
        """Ids for the requests of `batch`."""
        number = next(self._batch_numbers)
        self._batches[number] = _Waiting(batch, bell, staged, view, offsets)
        return np.arange(len(batch.requests), dtype=np.uint64) + np.uint64(BATCH | number << _BATCH_NUMBER)

    def ring(self) -> None:
        """Ring the doorbells: everything queued is posted, and what can be done at once is done."""
        rung = self.rung
        while rung:
            for bell in list(rung):
                del rung[bell]
                node = bell.node
                if self._nodes.get(node.name) is not node:
                    continue  # it died; its work has been completed as lost
                if bell.count:
                    bell.ring()
                self.fabric.turn(bell.index)
            self._collect()

    def drive(self, done: Callable[[], bool]) -> bool:
        """Let things happen until `done()`, or until nothing is left to happen; returns `done()`."""
        self.ring()
        step = self.scheduler.step
        while not done():
            if not step():
                return done()
            self._collect()
            if self.rung:
                self.ring()
        return True

    def run(self) -> None:
        """Let everything happen that is going to."""
        self.drive(lambda: False)

    def _collect(self) -> None:
        """Give completions to whom they belong."""
        ended = self.fabric.ended
        while ended:
            ni = cast("RdmaNi", ended.pop(0))
            rows = ni.take_completions()
            if len(rows):
                if self.events is not None:
                    self._record(ni.name, rows)
                self._deliver(rows)

    def _deliver(self, rows: np.ndarray) -> None:
        if len(rows) == 1:  # what an operation waited for gives: two fields, read without NumPy's ceremony
            wr_id, status = _ID_AND_STATUS.unpack_from(rows)  # type: ignore[arg-type]  # a buffer
            if wr_id < BATCH:
                self._finish(wr_id, status, rows, 0)
                return
        ids = rows["wr_id"]
        if self._batches:
            batched = ids >= np.uint64(BATCH)
            numbers = (ids[batched] ^ np.uint64(BATCH)) >> np.uint64(_BATCH_NUMBER)
            for number in np.unique(numbers).tolist():
                self._deliver_batch(number, rows[batched][numbers == number])
            rows = rows[~batched]
            ids = rows["wr_id"]
        for i, (wr_id, status) in enumerate(zip(ids.tolist(), rows["status"].tolist(), strict=True)):
            self._finish(wr_id, status, rows, i)

    def _finish(self, wr_id: int, status: int, rows: np.ndarray, i: int) -> None:
        """One work request of its own: its bytes to where they go, its buffer back, its owner told."""
        work, bell, staged, view = self._works.pop(wr_id)
        if staged:
            out = work.out
            if out is not None and status == 0:
                out[:] = view.data
            bell.node.unstage(bell.pdid, staged)
        work.on_done(status, rows, i)

    def _deliver_batch(self, number: int, rows: np.ndarray) -> None:
        """Rows of one batch."""
        waiting = self._batches[number]
        positions = (rows["wr_id"] & _POSITION).astype(np.int64)
        out = waiting.batch.out
        if out is not None:
            for row, position in zip(rows, positions.tolist(), strict=True):
                if row["status"] == Status.OK and row["op"] == Op.READ:
                    length, at = (
                        int(waiting.batch.requests["length"][position]),
                        int(waiting.offsets[position]),
                    )
                    out[position, :length] = waiting.view[at : at + length]
        waiting.left -= len(rows)
        if waiting.left == 0:
            del self._batches[number]
            if waiting.staged:
                waiting.bell.node.unstage(waiting.bell.pdid, waiting.staged)
        waiting.batch.on_rows(rows, positions)

    def _record(self, node: str, rows: np.ndarray) -> None:
        assert self.events is not None
        for row in rows:
            self.events.record(
                int(row["done_ps"]),
                node,
                "transfer",
                op=Op(row["op"]).name if row["op"] in _OPS else int(row["op"]),
                wr_id=int(row["wr_id"]),
                pdid=int(row["pdid"]),
                status=Status(row["status"]).name,
                side=Side(row["side"]).name,
                bytes=int(row["bytes"]),
                posted_ps=int(row["posted_ps"]),
                parts_ps=dict(zip(TIMING_PARTS, row["parts_ps"].tolist(), strict=True)),
            )

    # -- end

    def close(self) -> None:
        """Give all simulated memory back; idempotent."""
        self.fabric.close()
        for node in self._nodes.values():
            node.close()
        self._nodes.clear()

    def __enter__(self) -> SimCluster:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()


_OPS = frozenset(Op)
