"""The authority over the global address space: nodes, windows, domains, sessions, regions and rights."""

from unimem_coordinator.core import NODE_TTL_NS, SESSION_TTL_NS, Coordinator, drive
from unimem_coordinator.direct import DirectCoordinator
from unimem_coordinator.errors import CoordinatorError, FailureKind, NodeFailure, Reason, StoreError
from unimem_coordinator.store import MemoryStore, SqliteStore, Store
from unimem_coordinator.values import (
    CloseDomain,
    MapRegion,
    NodeAction,
    NodeInfo,
    OpenDomain,
    RegionInfo,
    RouteTable,
    SessionInfo,
    UnmapRegion,
)

__all__ = [
    "NODE_TTL_NS",
    "SESSION_TTL_NS",
    "CloseDomain",
    "Coordinator",
    "CoordinatorError",
    "DirectCoordinator",
    "FailureKind",
    "MapRegion",
    "MemoryStore",
    "NodeAction",
    "NodeFailure",
    "NodeInfo",
    "OpenDomain",
    "Reason",
    "RegionInfo",
    "RouteTable",
    "SessionInfo",
    "SqliteStore",
    "Store",
    "StoreError",
    "UnmapRegion",
    "drive",
]
