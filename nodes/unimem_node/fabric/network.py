"""The links of a simulated cluster: one table for all interfaces, so that flows wait for each other.

A link is a server (`_fast_links`): it carries a packet's bytes one after the other at its speed, and each
packet arrives its latency later. Speed and latency are those of the interface's platform (`RdmaSpec`: a
further hop); what the first hop takes beyond that the interfaces add themselves.
"""

from __future__ import annotations

from typing import Any, Final, NamedTuple

import numpy as np

from . import _fast_columns as col
from .state import RdmaSpec
from .topology import link_count, link_ends, routes

#: Links of the longest way that an interface can use.
LONGEST: Final = col.PATH_COLS - 1


class Load(NamedTuple):
    """What a link has carried so far."""

    link: int
    src: int
    dst: int
    bytes: int
    wait_ps: int  # that packets waited for it


class Network:
    """Links of `nodes` nodes, and the ways over them: up to `paths` for each pair.

    Nodes are numbered by their place in the topology; `places` gives that of a node index (None: the same).
    Raises `ValueError` for a topology that is not one.
    """

    def __init__(
        self,
        topology: str,
        nodes: int,
        spec: RdmaSpec,
        *,
        paths: int = 1,
        places: dict[int, int] | None = None,
    ) -> None:
        if not 1 <= paths <= 4:
            raise ValueError(f"{paths} paths: an interface uses 1 to 4 to a peer")
        if topology == "ring" and nodes // 2 > LONGEST:
            raise ValueError(
                f"a ring of {nodes} nodes has ways of {nodes // 2} links, {LONGEST} at most: take torus3d"
            )
        self.topology, self.nodes, self.paths = topology, nodes, paths
        #: int64[links, LINK_COLS]; the row of a link is filled when somebody first sends over it.
        self.links: np.ndarray[Any, np.dtype[np.int64]] = np.zeros(
            (link_count(topology, nodes), col.LINK_COLS), np.int64
        )
        self._spec, self._places = spec, places

    def ways(self, index: int) -> Ways:
        """The ways that begin at the node with this index."""
        return Ways(self, self._place(index))

    def _place(self, index: int) -> int:
        return index if self._places is None else self._places[index]

    def lay(self, src: int, index: int) -> list[list[int]]:
        """The paths from the node at place `src` to the node with an index; their links are ready for use."""
        found = routes(self.topology, self.nodes, src, self._place(index), self.paths)
        found = [way for way in found if len(way) <= LONGEST]
        for way in found:
            self.links[way, col.L_PS_PER_KIB] = self._spec.link_ps_per_kib
            self.links[way, col.L_LATENCY] = self._spec.link_latency_ps
        return found

    def loads(self) -> list[Load]:
        """The links that carried anything, the busiest first."""
        used = np.flatnonzero(self.links[:, col.L_BYTES])
        rows = [
            Load(
                link,
                *link_ends(self.topology, self.nodes, link),
                int(self.links[link, col.L_BYTES]),
                int(self.links[link, col.L_WAIT]),
            )
            for link in used.tolist()
        ]
        return sorted(rows, key=lambda row: (-row.bytes, row.link))


class Ways:
    """The ways from one node, worked out when they are asked for: of a thousand nodes most never talk."""

    def __init__(self, network: Network, place: int) -> None:
        self._network, self._at = network, place

    def get(self, index: int) -> list[list[int]] | None:
        """The paths to node `index`, each a list of links; None to itself, which no link is on."""
        found = self._network.lay(self._at, index)
        return found if found[0] else None
