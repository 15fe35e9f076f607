"""Distances in each topology, against a breadth-first search over the links it says there are."""

from __future__ import annotations

import itertools
from collections import deque

import pytest

from unimem_node.fabric.topology import (
    TOPOLOGIES,
    check_topology,
    grid,
    hops,
    link_count,
    link_ends,
    routes,
)


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


GRIDS = ("ring", "mesh2d", "torus3d")


def follow(topology: str, n: int, a: int, way: list[int]) -> list[int]:
    """The nodes on a way; every link begins where the one before ends."""
    nodes = [a]
    for link in way:
        start, end = link_ends(topology, n, link)
        assert start == nodes[-1]
        assert end in neighbours(topology, n, start)
        nodes.append(end)
    return nodes


@pytest.mark.parametrize("topology", TOPOLOGIES)
@pytest.mark.parametrize("n", [2, 3, 4, 7, 8, 12, 16, 27])
def test_ways_lead_there_the_first_is_the_shortest_and_all_differ(topology: str, n: int) -> None:
    for a, b in itertools.product(range(n), repeat=2):
        ways = routes(topology, n, a, b, 4)
        assert 1 <= len(ways) <= 4
        assert len({tuple(way) for way in ways}) == len(ways)
        assert len(ways[0]) == hops(topology, n, a, b)
        assert routes(topology, n, a, b) == ways[:1]
        for way in ways:
            nodes = follow(topology, n, a, way)
            assert nodes[-1] == b
            assert len(set(nodes)) == len(nodes)  # nobody twice
            assert max(way, default=0) < link_count(topology, n)


def test_how_many_ways_there_are() -> None:
    assert len(routes("full", 8, 0, 5, 4)) == 1
    assert len(routes("ring", 8, 0, 3, 4)) == 2
    assert [len(way) for way in routes("ring", 8, 0, 3, 2)] == [3, 5]
    assert len(routes("mesh2d", 16, 0, 3, 4)) == 1  # in one row
    assert len(routes("mesh2d", 16, 0, 5, 4)) == 2  # across, then down, or the reverse
    assert len(routes("torus3d", 64, 0, 21, 8)) == 8
    assert [len(way) for way in routes("torus3d", 64, 0, 21, 6)] == [3] * 6  # three dimensions, 3! orders


def test_dimension_order_by_hand() -> None:
    # mesh2d of 3 x 4: node 1 is at (0, 1), node 11 at (2, 3); columns first: 1, 2, 3, 7, 11.
    assert follow("mesh2d", 12, 1, routes("mesh2d", 12, 1, 11)[0]) == [1, 2, 3, 7, 11]
    assert follow("mesh2d", 12, 1, routes("mesh2d", 12, 1, 11, 2)[1]) == [1, 5, 9, 10, 11]
    assert follow("ring", 6, 0, routes("ring", 6, 0, 4)[0]) == [0, 5, 4]
    assert routes("full", 4, 1, 3) == [[7]]


@pytest.mark.parametrize("topology", GRIDS)
@pytest.mark.parametrize("n", [3, 8, 12, 27])
def test_two_nodes_share_no_link(topology: str, n: int) -> None:
    ends = [link_ends(topology, n, link) for link in range(link_count(topology, n))]
    assert {end for end in ends if end[0] != end[1]} == {
        (a, b) for a in range(n) for b in neighbours(topology, n, a) - {a}
    }


def test_links_that_are_not_there() -> None:
    assert link_ends("mesh2d", 4, 3) == (0, 0)  # node 0 is in the first row and column
    with pytest.raises(ValueError, match="link 16 is not among the 16"):
        link_ends("full", 4, 16)
    with pytest.raises(ValueError, match="among the 4"):
        routes("ring", 4, 0, 4)
    with pytest.raises(ValueError, match="torus3d"):
        link_count("star", 4)
