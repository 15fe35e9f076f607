"""The coordinator in the caller's thread: for simulations, where nodes are objects and time is virtual."""

from __future__ import annotations

from collections.abc import Callable

from google.protobuf.message import Message

from unimem_coordinator.api import answer
from unimem_coordinator.core import Coordinator, drive
from unimem_coordinator.values import Expired, Perform


class DirectCoordinator:
    """A core, the nodes it calls (`perform`), and a clock.

    `perform` carries out a `NodeAction` or raises `NodeFailure`. It must not call back into this object.
    """

    def __init__(self, core: Coordinator, perform: Perform, now_ns: Callable[[], int]) -> None:
        self.core = core
        self._perform = perform
        self._now_ns = now_ns

    def call(self, request: Message) -> Message:
        """Answer any unary request of CoordinatorService; raises `CoordinatorError`.

        After `RegisterNodeRequest`, when the node can be called, `settle` is due.
        """
        return drive(self.core, answer(self.core, request, self._now_ns()), self._perform)

    def settle(self) -> None:
        """Tell the nodes that are UP what they have still to be told."""
        for node in self.core.unfinished():
            drive(self.core, self.core.repair(node), self._perform)

    def expire(self) -> Expired:
        """End what was not renewed in time; `core.next_deadline_ns` says when that is due."""
        expired = self.core.expire(self._now_ns())
        self.settle()
        return expired
