"""The simulated stage: a SimCluster with the experiment's parameters and faults, guarded against no end."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from unimem_lab.experiments.stage import Clustered
from unimem_lab.faults import Injector
from unimem_lab.sim import SimCluster

if TYPE_CHECKING:
    from unimem_lab.experiments.schema import Experiment


class EndlessError(RuntimeError):
    """The run went on and on beyond `run.duration` of simulated time."""


class SimStage(Clustered):
    """See `Stage`. Time counts from the workload's begin."""

    def __init__(self, experiment: Experiment, seed: int) -> None:
        super().__init__(experiment, seed)
        system = experiment.system
        self._cluster: SimCluster = self._stack.enter_context(
            SimCluster(
                system.nodes,
                seed=seed,
                platform=self.platform,
                topology=system.topology,
                policy=system.policy,
                memory_bytes=system.memory,
                log=True,
            )
        )
        self._begin = self._cluster.scheduler.now_ps
        self._duration = experiment.run.duration
        self._guard = self._cluster.scheduler.at(self._begin + self._duration, self._over)
        self._injector = Injector(
            self._cluster,
            experiment.faults,
            seed,
            in_use=self.in_use,
            pdid=lambda: self.pdid,
            duration_ps=self._duration,
        )
        if experiment.faults:
            self._cluster.fabric.impair = self._injector.network

    def ready(self) -> None:
        """See `Stage`."""
        self._begin = self._cluster.scheduler.now_ps
        self._guard.cancel()
        self._guard = self._cluster.scheduler.at(self._begin + self._duration, self._over)
        self._injector.arm()
        self.on_op = lambda op: self._injector.ended(op.outcome == "ok")

    def _over(self) -> None:
        """Faults strike no more; what waited for the end of one has as much time again."""
        self._injector.heal()
        self._guard = self._cluster.scheduler.after(self._duration, self._too_long)

    def _too_long(self) -> None:
        if not self._cluster.scheduler.idle:
            raise EndlessError(
                f"still not at rest {self._duration / 1e12:g} s (run.duration) after the last fault"
            )

    @property
    def sim(self) -> SimCluster:
        """See `Stage`."""
        return self._cluster

    @property
    def now_ps(self) -> int:
        """See `Stage`."""
        return self._cluster.scheduler.now_ps - self._begin

    def elapse(self, ps: int) -> None:
        """See `Stage`."""
        passed: list[bool] = []
        self._cluster.scheduler.after(ps, lambda: passed.append(True))
        self._cluster.drive(lambda: bool(passed))

    def heal(self) -> None:
        """End all faults: nothing strikes any more, dead nodes are started again."""
        self._injector.heal()

    def settle(self) -> bool:
        """Let everything happen that is still going to; the run is at rest then."""
        self._guard.cancel()
        self._guard = self._cluster.scheduler.after(self._duration, self._too_long)
        self._cluster.run()
        self._guard.cancel()
        return self._cluster.scheduler.idle and all(
            self._cluster.node(name).ni.idle for name in self._cluster.nodes
        )

    def counters(self) -> dict[str, int]:
        """The nodes' counters, summed."""
        found: dict[str, int] = {}
        for name in self._cluster.nodes:
            for counter, value in self._cluster.node(name).counters().items():
                found[counter] = found.get(counter, 0) + value
        return found

    def event_lines(self) -> list[str]:
        """The log of what happened, as lines of JSON."""
        return list(self._cluster.events.lines()) if self._cluster.events is not None else []

    def faulted(self) -> list[dict[str, Any]]:
        """What struck whom, and when."""
        return self._injector.log
