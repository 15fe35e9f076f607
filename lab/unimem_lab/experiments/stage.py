"""The stages that workloads play on: a simulated cluster, a cluster of processes, or no cluster at all."""

from __future__ import annotations

import random
from contextlib import ExitStack
from typing import TYPE_CHECKING, Any, Final

from unimem import UnimemError
from unimem.wire import TIMING_PARTS
from unimem_lab.experiments.platforms import platform_of
from unimem_lab.experiments.workloads.base import DOMAIN, NotHere, Op
from unimem_node.clock import named_stream
from unimem_node.kernel.fault_policy import FaultPolicy
from unimem_node.mpsoc.platform import Platform

if TYPE_CHECKING:
    from collections.abc import Callable
    from types import TracebackType

    from unimem import Client, Transfer
    from unimem_lab.experiments.schema import Experiment, System
    from unimem_lab.sim import SimCluster

#: Keys of `system` that only a simulated cluster can be given.
NOT_ON_PROCESSES: Final = ("parameters", "paths")
#: Keys that nobody can choose any more where a cluster runs already.
NOT_ON_RUNNING: Final = (*NOT_ON_PROCESSES, "platform", "policy", "memory")
_NO_PARTS: Final = (0,) * len(TIMING_PARTS)


class BareStage:
    """No cluster: for workloads that build chips themselves. What needs a cluster raises `NotHere`."""

    def __init__(self, experiment: Experiment, seed: int) -> None:
        self._system: System = experiment.system
        self.seed = seed
        self.ops: list[Op] = []
        #: Called with each operation that ended, after it was noted.
        self.on_op: Callable[[Op], object] | None = None
        #: (node, global address, length) of the workload's data.
        self.in_use: list[tuple[str, int, int]] = []

    @property
    def nodes(self) -> tuple[str, ...]:
        """See `Stage`."""
        raise NotHere("this workload has no cluster")

    @property
    def topology(self) -> str:
        """See `Stage`."""
        return self._system.topology

    @property
    def sim(self) -> SimCluster:
        """See `Stage`."""
        raise NotHere("this workload needs a simulated cluster: run it with --on sim")

    @property
    def platform(self) -> Platform:
        """See `Stage`."""
        return platform_of(self._system.platform, dict(self._parameters()))

    def _parameters(self) -> dict[str, Any]:
        parameters = dict(self._system.parameters)
        if "paths" in self._system.model_fields_set:
            parameters["pl.masters.ni.paths"] = self._system.paths
        return parameters

    @property
    def policy(self) -> FaultPolicy:
        """See `Stage`."""
        return FaultPolicy.parse(self._system.policy)

    @property
    def pdid(self) -> int:
        """See `Stage`."""
        raise NotHere("this workload has no cluster")

    @property
    def now_ps(self) -> int:
        """See `Stage`."""
        return 0

    def client(self, home: str) -> Client:
        """See `Stage`."""
        raise NotHere("this workload has no cluster")

    def random(self, name: str) -> random.Random:
        """See `Stage`."""
        return named_stream(self.seed, name)

    def bytes(self, name: str, n: int) -> bytes:
        """See `Stage`."""
        return named_stream(self.seed, f"bytes of {name}").randbytes(n)

    def ready(self) -> None:
        """See `Stage`."""

    def elapse(self, ps: int) -> None:
        """See `Stage`."""

    def memory_in_use(self, node: str, gva: int, length: int) -> None:
        """See `Stage`."""
        self.in_use.append((node, gva, length))

    def wait(self, transfer: Transfer, label: str, src: str, dst: str) -> UnimemError | None:
        """See `Stage`."""
        try:
            error = transfer.exception()
        except UnimemError as overdue:  # nothing that could end it is left to happen
            now = self.now_ps
            op = Op(label, src, dst, 0, type(overdue).__name__, bool(overdue.definite), now, now, _NO_PARTS)
            return self._noted(op, overdue)
        row = transfer.rows[transfer.index]
        op = Op(
            label,
            src,
            dst,
            int(row["bytes"]),
            "ok" if error is None else type(error).__name__,
            error is None or bool(error.definite),
            int(row["posted_ps"]),
            int(row["done_ps"]),
            tuple(int(ps) for ps in row["parts_ps"]),
        )
        return self._noted(op, error)

    def _noted(self, op: Op, error: UnimemError | None) -> UnimemError | None:
        self.ops.append(op)
        if self.on_op is not None:
            self.on_op(op)
        return error

    def heal(self) -> None:
        """End all faults."""

    def settle(self) -> bool:
        """Let everything happen that is still going to; returns whether it came to rest."""
        return True

    def counters(self) -> dict[str, int]:
        """The nodes' counters, summed."""
        return {}

    def event_lines(self) -> list[str]:
        """The log of what happened, as lines of JSON."""
        return []

    def faulted(self) -> list[dict[str, Any]]:
        """What was done to the system, for the report."""
        return []

    def __enter__(self) -> BareStage:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        return None


class Clustered(BareStage):
    """A stage with a cluster: clients are closed with it."""

    def __init__(self, experiment: Experiment, seed: int) -> None:
        super().__init__(experiment, seed)
        self._stack = ExitStack()
        self._clients: dict[str, Client] = {}
        self._cluster: Any = None

    @property
    def nodes(self) -> tuple[str, ...]:
        """See `Stage`."""
        names: tuple[str, ...] = self._cluster.nodes
        return names

    def client(self, home: str) -> Client:
        """See `Stage`: one client for each home."""
        if home not in self._clients:
            self._clients[home] = self._stack.enter_context(self._cluster.client(home=home, domain=DOMAIN))
        return self._clients[home]

    @property
    def pdid(self) -> int:
        """See `Stage`."""
        if not self._clients:
            raise NotHere("the workload's domain has no client yet")
        return int(next(iter(self._clients.values()))._port.pdid)

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._stack.close()


class ProcessStage(Clustered):
    """A cluster of processes of this machine. Simulated times are those of its nodes' clocks."""

    def __init__(self, experiment: Experiment, seed: int) -> None:
        super().__init__(experiment, seed)
        from unimem_lab.processes import ProcessCluster  # noqa: PLC0415

        system = experiment.system
        self._cluster = self._stack.enter_context(
            ProcessCluster(
                system.nodes,
                platform=system.platform,
                topology=system.topology,
                policy=system.policy,
                memory=str(system.memory),
            )
        )

    @property
    def now_ps(self) -> int:
        """See `Stage`."""
        return max((op.done_ps for op in self.ops), default=0)


class RemoteStage(Clustered):
    """A cluster that runs already, by its coordinator's HOST:PORT; the first `system.nodes` of its nodes."""

    def __init__(self, experiment: Experiment, seed: int, address: str) -> None:
        super().__init__(experiment, seed)
        import unimem  # noqa: PLC0415

        self._address, self._connect = address, unimem.connect
        with unimem.connect(address) as um:
            names = [node.name for node in um.nodes() if node.state == "up"]
        wanted = experiment.system.nodes
        if len(names) < wanted:
            raise NotHere(f"the cluster at {address} has {len(names)} nodes that are up, not {wanted}")
        self._names = tuple(names[:wanted])

    @property
    def nodes(self) -> tuple[str, ...]:
        """See `Stage`."""
        return self._names

    def client(self, home: str) -> Client:
        """See `Stage`: one client for each home."""
        if home not in self._clients:
            client = self._connect(self._address, home=home, domain=f"{DOMAIN}-{self.seed}")
            self._clients[home] = self._stack.enter_context(client)
        return self._clients[home]

    @property
    def now_ps(self) -> int:
        """See `Stage`."""
        return max((op.done_ps for op in self.ops), default=0)
