"""The links of a EuroEXA-class network, and the ways of packets over them.

Nodes are numbered from 0. Routes are dimension-ordered and shortest (Dally, Towles: Principles and Practices
of Interconnection Networks, 2004, chapter 8); alternatives for traffic over several paths take the dimensions
in another order, or go round a ring the other way. A link is one direction between two neighbours; its number
tells who sends over it: in a grid, node a has 2 for each dimension, `2 * dimensions * a + 2 * dimension` up
and the next one down; fully wired, node a sends to b over link `nodes * a + b`.
"""

from __future__ import annotations

import math
from itertools import permutations, product
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


def _sides(topology: str, nodes: int) -> tuple[tuple[int, ...], bool]:
    """(sides of the grid, whether its lines are closed)."""
    if topology == "ring":
        return (nodes,), True
    if topology == "mesh2d":
        return grid(nodes, 2), False
    return grid(nodes, 3), True


def link_count(topology: str, nodes: int) -> int:
    """How many numbers of links there are; some belong to no link, as those at the border of a mesh."""
    check_topology(topology, 1)
    if topology in ("full", "pair"):
        return nodes * nodes
    return 2 * len(_sides(topology, nodes)[0]) * nodes


def link_ends(topology: str, nodes: int, link: int) -> tuple[int, int]:
    """(sender, receiver) of a link; both are the same for a number that belongs to none."""
    if not 0 <= link < link_count(topology, nodes):
        raise ValueError(f"link {link} is not among the {link_count(topology, nodes)} there are")
    if topology in ("full", "pair"):
        return divmod(link, nodes)
    sides, closed = _sides(topology, nodes)
    node, way = divmod(link, 2 * len(sides))
    place = _place(sides, node)
    axis, step = way >> 1, -1 if way & 1 else 1
    to = place[axis] + step
    if not closed and not 0 <= to < sides[axis]:
        return node, node
    place[axis] = to % sides[axis]
    return node, _number(sides, place)


def _place(sides: tuple[int, ...], node: int) -> list[int]:
    place = []
    for side in reversed(sides):
        node, at = divmod(node, side)
        place.append(at)
    return place[::-1]


def _number(sides: tuple[int, ...], place: list[int]) -> int:
    node = 0
    for side, at in zip(sides, place, strict=True):
        node = node * side + at
    return node


def routes(topology: str, nodes: int, a: int, b: int, paths: int = 1) -> list[list[int]]:
    """Up to `paths` different ways from node `a` to another, each a list of links in order.

    The first is the shortest in order of dimensions, last dimension first. There are as many as the topology
    has: one when fully wired, two on a ring (the second is the longer way round), in a grid one for each
    order of the dimensions that the nodes differ in, then those that go round a ring the other way.
    """
    hops(topology, nodes, a, b)  # refuses what does not exist
    if a == b:
        return [[]]
    if topology in ("full", "pair"):
        return [[a * nodes + b]]
    sides, closed = _sides(topology, nodes)
    here, there = _place(sides, a), _place(sides, b)
    axes = [axis for axis in reversed(range(len(sides))) if here[axis] != there[axis]]
    steps = {axis: _steps(sides[axis], closed, there[axis] - here[axis]) for axis in axes}
    found: list[list[int]] = []
    for turned in sorted(product(*(range(len(steps[axis])) for axis in axes)), key=sum):
        chosen = {axis: steps[axis][which] for axis, which in zip(axes, turned, strict=True)}
        for order in permutations(axes):
            way = _walk(sides, here, [(axis, chosen[axis]) for axis in order])
            if way not in found:
                found.append(way)
                if len(found) == paths:
                    return found
    return found


def _steps(side: int, closed: bool, distance: int) -> list[int]:
    """Steps along one dimension, negative for down: the shortest first, then the other way round."""
    if not closed:
        return [distance]
    up = distance % side
    return sorted((up, up - side), key=lambda steps: (abs(steps), -steps))


def _walk(sides: tuple[int, ...], here: list[int], legs: list[tuple[int, int]]) -> list[int]:
    place, way = list(here), []
    for axis, steps in legs:
        for _ in range(abs(steps)):
            way.append(2 * len(sides) * _number(sides, place) + 2 * axis + (steps < 0))
            place[axis] = (place[axis] + (1 if steps > 0 else -1)) % sides[axis]
    return way
