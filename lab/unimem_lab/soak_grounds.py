"""Where a soak runs: a simulated cluster, or processes that really exchange frames.

Both have the same bad network (`unimem_node.fabric.impair` says what it can do), kernels that resolve page
faults of DMA, and nodes that stand still now and then.
"""

from __future__ import annotations

import signal
from contextlib import suppress
from os import kill
from threading import Timer
from typing import TYPE_CHECKING, Final

from unimem.errors import UnimemError
from unimem_lab.admin import Admin
from unimem_lab.processes import ProcessCluster
from unimem_lab.sim import SimCluster
from unimem_node.fabric.impair import Impair

if TYPE_CHECKING:
    from types import TracebackType

    from unimem import Client

BAD_NETWORK: Final = "loss=0.05,duplicate=0.03,reorder=0.05,corrupt=0.02"
POLICY: Final = "touch_ahead:4"


class SimGrounds:
    """A `SimCluster` with a bad network; a context manager."""

    def __init__(self, seed: int, *, nodes: int = 3, fast: bool = True, network: str = BAD_NETWORK) -> None:
        self.cluster = SimCluster(
            nodes, seed=seed, fast=fast, policy=POLICY, topology="ring", impair=f"{network},seed={seed}"
        )
        self.nodes = self.cluster.nodes
        self._impair = self.cluster.fabric.impair

    @property
    def spoilt(self) -> dict[str, int]:
        """Packets that the network lost, doubled, reordered and damaged so far."""
        assert isinstance(self._impair, Impair)
        return self._impair.counts()

    def client(self, home: str, domain: str) -> Client:
        """See `Grounds`."""
        return self.cluster.client(home=home, domain=domain)

    def pause(self, node: str, microseconds: int) -> None:
        """See `Grounds`; simulated time."""
        cluster = self.cluster
        cluster.pause(node)
        cluster.scheduler.after(microseconds * 10**6, lambda: cluster.resume(node))

    def advise(self, node: str, pdid: int, va: int, length: int, advice: str) -> None:
        """See `Grounds`."""
        with suppress(ValueError, MemoryError):
            self.cluster.node(node).advise(pdid, va, length, advice)

    def heal(self) -> None:
        """See `Grounds`."""
        self.cluster.fabric.impair = None
        self.cluster.run()

    def __enter__(self) -> SimGrounds:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.cluster.close()


class ProcessGrounds:
    """A `ProcessCluster` whose nodes spoil the frames they send; a context manager.

    The network stays bad to the end: `heal` only lets everybody run again.
    """

    def __init__(
        self, seed: int, *, nodes: int = 3, transport: str = "auto", network: str = BAD_NETWORK
    ) -> None:
        self.cluster = ProcessCluster(
            nodes, policy=POLICY, transport=transport, impair=f"{network},seed={seed}"
        )
        self.nodes = self.cluster.nodes
        self._admin = Admin(self.cluster.address)
        self._timers: list[Timer] = []

    def client(self, home: str, domain: str) -> Client:
        """See `Grounds`."""
        return self.cluster.client(home=home, domain=domain)

    def pause(self, node: str, microseconds: int) -> None:
        """See `Grounds`; SIGSTOP, then SIGCONT."""
        pid = self.cluster.pid(node)
        kill(pid, signal.SIGSTOP)
        timer = Timer(microseconds / 1e6, kill, (pid, signal.SIGCONT))
        timer.start()
        self._timers.append(timer)

    def advise(self, node: str, pdid: int, va: int, length: int, advice: str) -> None:
        """See `Grounds`."""
        with suppress(UnimemError):
            self._admin.advise(self._admin.node(node), pdid, va, length, advice)

    def heal(self) -> None:
        """See `Grounds`."""
        for timer in self._timers:
            timer.join()

    def __enter__(self) -> ProcessGrounds:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.heal()
        self._admin.__exit__(kind, error, trace)
        self.cluster.stop()
