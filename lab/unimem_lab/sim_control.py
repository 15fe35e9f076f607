"""The coordinator of a simulated cluster: the same core, with direct calls instead of the wire."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import TYPE_CHECKING

from unimem._failures import refusal
from unimem_coordinator.core import Coordinator
from unimem_coordinator.direct import DirectCoordinator
from unimem_coordinator.errors import CoordinatorError, FailureKind, NodeFailure
from unimem_coordinator.store import MemoryStore
from unimem_coordinator.values import CloseDomain, MapRegion, NodeAction, OpenDomain, UnmapRegion

if TYPE_CHECKING:
    from google.protobuf.message import Message

    from unimem_node.mpsoc.node import Node


class SimControl:
    """Requests in, responses out, or the client's errors; what nodes have to do is done before it returns."""

    def __init__(
        self, nodes: Mapping[str, Node], new_token: Callable[[], str], now_ns: Callable[[], int]
    ) -> None:
        self._nodes = nodes
        self._direct = DirectCoordinator(
            Coordinator(MemoryStore(), new_token=new_token), self._perform, now_ns
        )
        self.settle = self._direct.settle

    def call(self, request: Message) -> Message:
        """Answer a request of CoordinatorService; raises the errors of `unimem.errors`."""
        try:
            return self._direct.call(request)
        except CoordinatorError as error:
            raise refusal(request, error.reason.value, error.message, metadata=error.metadata) from None

    def _perform(self, action: NodeAction) -> None:
        node = self._nodes.get(action.node)
        if node is None:
            raise NodeFailure(FailureKind.UNREACHABLE, f"node {action.node} is not running")
        try:
            match action:
                case OpenDomain():
                    node.open_domain(action.pdid)
                case CloseDomain(token=""):
                    node.close_domain(action.pdid)
                case CloseDomain():
                    pass  # one session's end: nodes of a simulation know no tokens
                case MapRegion():
                    node.map_region(action.pdid, action.gva, action.length, action.rights, action.owner)
                case UnmapRegion():
                    node.unmap_region(action.gva, action.pdid)
        except MemoryError as error:
            raise NodeFailure(FailureKind.NO_MEMORY, str(error)) from error
        except ValueError as error:
            raise NodeFailure(FailureKind.REFUSED, str(error)) from error
