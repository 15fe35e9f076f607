"""Distances in each topology, against a breadth-first search over the links it says there are."""

from __future__ import annotations

import itertools
from collections import deque

import pytest

from unimem_node.fabric.topology import TOPOLOGIES, check_topology, grid, hops


def neighbours(topology: str, n: int, a: int) -> set[int]:
    if topology in {"full", "pair"}:
        return set(range(n)) - {a}
    if topology == "ring":
        return {(a + 1) % n, (a - 1) % n}
    sides = grid(n, 2 if topology == "mesh2d" else 3)
    places = list(itertools.product(*map(range, sides)))
    here = places[a]
    found = set()
    for axis, side in enumerate(sides):
        for step in (-1, 1):
            to = here[axis] + step
            if topology == "torus3d":
                to %= side
            elif not 0 <= to < side:
                continue
            found.add(places.index((*here[:axis], to, *here[axis + 1 :])))
    return found


def search(topology: str, n: int, start: int) -> dict[int, int]:
    far, queue = {start: 0}, deque([start])
    while queue:
        a = queue.popleft()
        for b in neighbours(topology, n, a):
            if b not in far:
                far[b] = far[a] + 1
                queue.append(b)
    return far


@pytest.mark.parametrize("topology", TOPOLOGIES)
@pytest.mark.parametrize("n", [1, 2, 3, 4, 7, 8, 12, 16, 27])
def test_distance_is_the_shortest_way(topology: str, n: int) -> None:
    for a in range(n):
        assert {b: hops(topology, n, a, b) for b in range(n)} == search(topology, n, a)


def test_grids_are_compact_and_whole() -> None:
    assert grid(12, 2) == (3, 4)
    assert grid(7, 2) == (1, 7)
    assert grid(64, 3) == (4, 4, 4)


def test_errors_say_the_way_out() -> None:
    with pytest.raises(ValueError, match="torus3d"):
        hops("star", 4, 0, 1)
    with pytest.raises(ValueError, match="two nodes"):
        check_topology("pair", 3)
    with pytest.raises(ValueError, match="among the 4"):
        hops("ring", 4, 0, 4)
