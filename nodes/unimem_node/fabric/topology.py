"""How many links a packet crosses: the distance between two nodes of a EuroEXA-class network.

Nodes are numbered from 0. Routes are dimension-ordered and shortest, so only the distance matters here; links
are not shared in this model (contention belongs to a later one).
"""

from __future__ import annotations

import math
from typing import Final

TOPOLOGIES: Final = ("full", "pair", "ring", "mesh2d", "torus3d")


def grid(nodes: int, dimensions: int) -> tuple[int, ...]:
    """The most cube-like grid with exactly `nodes` places: grid(12, 2) = (3, 4), grid(7, 2) = (1, 7)."""
    sides = []
    left = nodes
    for remaining in range(dimensions, 1, -1):
        limit = round(left ** (1 / remaining)) if remaining > 2 else math.isqrt(left)
        side = next(s for s in range(max(limit, 1), 0, -1) if left % s == 0)
        sides.append(side)
        left //= side
    return (*sides, left)


def _ring(a: int, b: int, n: int) -> int:
    around = abs(a - b)
    return min(around, n - around)


def check_topology(topology: str, nodes: int) -> None:
    """Raise ValueError, with the way out, for a name that is unknown or a count that it cannot wire."""
    if topology not in TOPOLOGIES:
        raise ValueError(f"topology {topology!r} is unknown; there are {', '.join(TOPOLOGIES)}")
    if topology == "pair" and nodes > 2:
        raise ValueError(f"topology 'pair' wires two nodes, not {nodes}; take 'full' or 'ring'")


def hops(topology: str, nodes: int, a: int, b: int) -> int:
    """Links between nodes `a` and `b` of `nodes`; 0 for a node to itself.

    A cluster of processes grows while it runs: a `pair` that a third node has joined is wired as `full`.
    """
    if topology not in TOPOLOGIES:
        check_topology(topology, nodes)
    if not (0 <= a < nodes and 0 <= b < nodes):
        raise ValueError(f"nodes {a} and {b} are not both among the {nodes} there are")
    if a == b:
        return 0
    if topology == "ring":
        return _ring(a, b, nodes)
    if topology == "mesh2d":
        _, width = grid(nodes, 2)
        return abs(a // width - b // width) + abs(a % width - b % width)
    if topology == "torus3d":
        total = 0
        for side in reversed(grid(nodes, 3)):
            total += _ring(a % side, b % side, side)
            a, b = a // side, b // side
        return total
    return 1
