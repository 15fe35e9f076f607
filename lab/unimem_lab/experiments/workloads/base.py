"""What a workload is, what it finds around itself, and what it leaves.

A workload is a pydantic model of its parameters with one method, `play`: it makes the traffic and returns a
function that is called when all faults are healed and everything is quiet; that one verifies and reports.
"""

from __future__ import annotations

import random
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, ClassVar, Protocol

from pydantic import BaseModel, ConfigDict

if TYPE_CHECKING:
    from unimem import Client, Transfer, UnimemError
    from unimem_lab.sim import SimCluster
    from unimem_node.kernel.fault_policy import FaultPolicy
    from unimem_node.mpsoc.platform import Platform

#: The protection domain of workloads.
DOMAIN = "experiment"


class NotHere(Exception):  # noqa: N818 - no error: a statement
    """What was to be measured does not exist here; the message says what is missing. Never a success."""


@dataclass(frozen=True, slots=True)
class Op:
    """One transfer: a row of ops.parquet. `parts_ps` follows TIMING_PARTS; `outcome`: "ok", or the error."""

    label: str
    src: str
    dst: str
    bytes: int
    outcome: str
    definite: bool
    posted_ps: int
    done_ps: int
    parts_ps: tuple[int, ...]

    @property
    def one_way_ps(self) -> int:
        """From the doorbell until the last byte is in the target's memory."""
        return self.done_ps - self.posted_ps - self.parts_ps[-1]


@dataclass(frozen=True, slots=True)
class Sample:
    """Quantities at one setting of keys that the workload itself went through, beside those of the sweep."""

    keys: Mapping[str, Any]
    quantities: Mapping[str, float]


@dataclass(slots=True)
class Outcome:
    """What was measured: quantities (the unit is the name's last part), and texts for outcomes.

    `expected`: what the workload itself expects of its quantities; a check of the same name replaces it.
    `samples`: further points (see `Sample`).
    """

    quantities: dict[str, float] = field(default_factory=dict)
    texts: dict[str, str] = field(default_factory=dict)
    expected: dict[str, float] = field(default_factory=dict)
    samples: list[Sample] = field(default_factory=list)


class Stage(Protocol):
    """Where a workload plays: a cluster, simulated or of processes."""

    @property
    def nodes(self) -> tuple[str, ...]:
        """The nodes' names."""

    @property
    def topology(self) -> str:
        """How they are wired."""

    @property
    def sim(self) -> SimCluster:
        """The simulated cluster; raises `NotHere` on processes."""

    @property
    def platform(self) -> Platform:
        """The nodes' chip, with the experiment's parameters."""

    @property
    def policy(self) -> FaultPolicy:
        """What the nodes' kernels do about page faults of DMA."""

    @property
    def pdid(self) -> int:
        """The workload's protection domain; there is one as soon as it has a client."""

    @property
    def seed(self) -> int:
        """The seed of this repetition."""

    def client(self, home: str) -> Client:
        """A client of the workload's domain; closed by the stage."""

    def random(self, name: str) -> random.Random:
        """The stream of random numbers of that name."""

    def bytes(self, name: str, n: int) -> bytes:
        """`n` bytes made from the seed."""

    def ready(self) -> None:
        """The set-up is over: simulated time, and that of faults, counts from here."""

    def wait(self, transfer: Transfer, label: str, src: str, dst: str) -> UnimemError | None:
        """Wait for a transfer and note it as an `Op`; returns its error."""

    def elapse(self, ps: int) -> None:
        """Let simulated time pass, as a computation would (on processes: nothing to do)."""

    def memory_in_use(self, node: str, gva: int, length: int) -> None:
        """Say where the workload's data is, for faults of memory."""

    @property
    def ops(self) -> list[Op]:
        """What `wait` has noted."""

    @property
    def now_ps(self) -> int:
        """Simulated time since the workload's begin; on processes the latest completion's."""


class Workload(BaseModel):
    """The parameters of a kind of workload. `anywhere`: it needs only the SDK, so processes will do."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    anywhere: ClassVar[bool] = False
    #: It builds chips of its own: no cluster is made for it.
    bare: ClassVar[bool] = False

    def play(self, stage: Stage) -> Callable[[], Outcome]:
        """Make the traffic; see the module's text."""
        raise NotImplementedError


def percentile(values: list[float], share: float) -> float:
    """The value below which `share` of `values` lie (nearest rank)."""
    ordered = sorted(values)
    return ordered[min(len(ordered) - 1, int(share * len(ordered)))]


def traffic(ops: list[Op]) -> dict[str, float]:
    """Quantities that every workload of transfers has."""
    done = [op for op in ops if op.outcome == "ok"]
    found: dict[str, float] = {
        "operations": len(ops),
        "failed": len(ops) - len(done),
        "failed_indefinite": sum(op.outcome != "ok" and not op.definite for op in ops),
    }
    if done:
        times = [(op.done_ps - op.posted_ps) / 1e6 for op in done]
        span = max(op.done_ps for op in done) - min(op.posted_ps for op in done)
        found |= {
            "mean_us": sum(times) / len(times),
            "p50_us": percentile(times, 0.50),
            "p99_us": percentile(times, 0.99),
            "total_us": span / 1e6,
            "goodput_gbps": sum(op.bytes for op in done) * 8e3 / span if span else 0.0,
        }
    return found
