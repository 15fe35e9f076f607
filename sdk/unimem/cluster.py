"""What a client sees of the cluster: nodes, regions and rights, as frozen values."""

from __future__ import annotations

from dataclasses import dataclass
from enum import IntFlag
from typing import TYPE_CHECKING, Final

from unimem.addresses import fmt
from unimem.errors import UsageError
from unimem.pointers import GlobalPtr

if TYPE_CHECKING:
    from unimem.v1 import types_pb2


class Rights(IntFlag):
    """What a protection domain may do with a region."""

    NONE = 0
    READ = 1
    WRITE = 2
    READ_WRITE = 3


_WORDS: Final = {
    "": Rights.NONE,
    "none": Rights.NONE,
    "r": Rights.READ,
    "w": Rights.WRITE,
    "rw": Rights.READ_WRITE,
}


def rights_of(rights: Rights | str | None, op: str) -> Rights:
    """`Rights` from itself, from "r", "w", "rw", or from None and "" (which take them away)."""
    if isinstance(rights, Rights):
        return rights
    try:
        return _WORDS[rights or ""]
    except (KeyError, TypeError):
        raise UsageError(
            f'rights {rights!r}: choose from "r", "w", "rw" or None', op=op, reason="BAD_RIGHTS"
        ) from None


@dataclass(frozen=True, slots=True)
class NodeInfo:
    """One node as the coordinator knows it. `state` is "up", "lost" (its lease ran out) or "left"."""

    name: str
    index: int
    state: str
    address: str
    window: range  # its part of the global address space
    platform: str
    memory_bytes: int
    incarnation: int

    def __repr__(self) -> str:
        window = f"[{fmt(self.window.start)}, {fmt(self.window.stop)})"
        return f"NodeInfo({self.name!r}, {self.state}, window={window}, platform={self.platform!r})"


@dataclass(frozen=True, slots=True)
class Grant:
    """Rights on a region given to another protection domain."""

    pdid: int
    rights: Rights
    domain: str


@dataclass(frozen=True, slots=True)
class RegionInfo:
    """`length` bytes at `gva` on `node`, owned by protection domain `pdid`. `state`: "active" or "lost"."""

    gva: int
    length: int
    node: str
    pdid: int
    name: str
    state: str
    grants: tuple[Grant, ...]

    @property
    def ptr(self) -> GlobalPtr:
        """A pointer to the first byte, with the region's bounds."""
        return GlobalPtr(self.gva, base=self.gva, length=self.length, node=self.node)

    def __repr__(self) -> str:
        name = f" {self.name!r}" if self.name else ""
        return f"RegionInfo({fmt(self.gva)}, {self.length} bytes on {self.node!r}{name}, {self.state})"


@dataclass(frozen=True, slots=True)
class Resolved:
    """A global virtual address is (node, protection domain, virtual address)."""

    gva: int
    node: NodeInfo
    region: RegionInfo
    va: int

    @property
    def pdid(self) -> int:
        """The protection domain that owns the region."""
        return self.region.pdid

    @property
    def ptr(self) -> GlobalPtr:
        """A pointer to the address itself, with the region's bounds."""
        return self.region.ptr + (self.gva - self.region.gva)


_NODE_STATES: Final = ("unknown", "up", "lost", "left")
_REGION_STATES: Final = ("unknown", "active", "lost")


def node_info(node: types_pb2.Node) -> NodeInfo:
    """From the message; a state of a newer coordinator is "unknown"."""
    return NodeInfo(
        name=node.name,
        index=node.index,
        state=_NODE_STATES[node.state] if 0 <= node.state < len(_NODE_STATES) else "unknown",
        address=node.address,
        window=range(node.window_base, node.window_base + node.window_size),
        platform=node.platform,
        memory_bytes=node.memory_bytes,
        incarnation=node.incarnation,
    )


def region_info(region: types_pb2.Region) -> RegionInfo:
    """From the message."""
    return RegionInfo(
        gva=region.gva,
        length=region.length,
        node=region.node,
        pdid=region.pdid,
        name=region.name,
        state=_REGION_STATES[region.state] if 0 <= region.state < len(_REGION_STATES) else "unknown",
        grants=tuple(Grant(g.pdid, Rights(g.rights), g.domain) for g in region.grants),
    )
