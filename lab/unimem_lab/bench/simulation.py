"""Simulated operations a second in `SimCluster`, and what it costs in time and memory to have many nodes.

``sim_N``: 8-byte puts issued singly (`put_async`) from one node to the others in turn, 64 outstanding;
``sim_N_blocking``: the same with `put`, which returns when delivered;
``sim_N_neighbours``: every node sends 8 bytes to each of the next three nodes, five times (`copy_async`,
which the source's node carries out), four nodes at once: weak scaling, what a node does stays the same;
``sim_flat``: the dearest of these among all N over the cheapest;
``sim_64_flows``: a thousand puts of 64 KiB between random pairs of 64 nodes, all at once: MB a second of wall
time;
``sim_1000_…``: a thousand nodes in one process: seconds to start, resident bytes after every node has sent,
operations a second to neighbours.

Medians over rounds.
"""

from __future__ import annotations

import json
import random
import statistics
import subprocess
import sys
import time
from collections.abc import Callable, Iterator

from unimem_lab import SimCluster
from unimem_lab.bench.result import Figure

_OUTSTANDING = 64
_NEIGHBOURS = 3
_TIMES = 5
_AT_ONCE = 4 * _NEIGHBOURS * _TIMES
_FLOWS, _FLOW_BYTES = 1000, 64 << 10
#: Nodes, and what the project asks of puts from one of them.
_WANTED = {4: 200_000.0, 16: None, 64: None, 256: None}
_MANY = 1000
_WORD = b"12345678"


def _rate(run: Callable[[], int], seconds: float) -> float:
    """Operations a second: the median of rounds in `seconds`, after one to warm up."""
    count = run()
    rounds: list[float] = []
    end = time.perf_counter() + seconds
    while (started := time.perf_counter()) < end or not rounds:
        run()
        rounds.append(time.perf_counter() - started)
    return count / statistics.median(rounds)


def _resident() -> int:
    import psutil  # noqa: PLC0415

    return int(psutil.Process().memory_info().rss)


def one_to_all(nodes: int, seconds: float) -> dict[str, float]:
    """Puts a second from one client, singly issued and blocking."""
    with SimCluster(nodes=nodes, seed=1) as cluster, cluster.client(home="n0") as um:
        targets = [um.alloc(4096, node=name) for name in cluster.nodes[1:]]
        places = [targets[i % len(targets)] + 8 * i for i in range(_OUTSTANDING)]

        def singly() -> int:
            transfers = [um.put_async(place, _WORD) for place in places]
            for transfer in transfers:
                transfer.result()
            return len(places)

        def blocking() -> int:
            for place in places:
                um.put(place, _WORD)
            return len(places)

        return {"singly": _rate(singly, seconds), "blocking": _rate(blocking, seconds), "rss": _resident()}


def neighbours(nodes: int, seconds: float) -> dict[str, float]:
    """Copies a second by all nodes; what the nodes cost to start and to have."""
    started = time.perf_counter()
    cluster = SimCluster(nodes=nodes, seed=1)
    start = time.perf_counter() - started
    with cluster, cluster.client(home="n0") as um:
        regions = [um.alloc(4096, node=name) for name in cluster.nodes]
        ends = [
            (regions[i] + 8 * k, regions[(i + 1 + k % _NEIGHBOURS) % nodes] + 2048 + 8 * k)
            for i in range(nodes)
            for k in range(_NEIGHBOURS * _TIMES)
        ]

        def run() -> int:
            for first in range(0, len(ends), _AT_ONCE):
                for transfer in [um.copy_async(dst, src, 8) for src, dst in ends[first : first + _AT_ONCE]]:
                    transfer.result()
            return len(ends)

        return {"puts": _rate(run, seconds), "start": start, "rss": _resident()}


def flows(nodes: int, seconds: float) -> dict[str, float]:
    """MB a second of wall time in a thousand transfers at once."""
    draw = random.Random(1)
    with SimCluster(nodes=nodes, seed=1) as cluster:
        clients = [cluster.client(home=name, domain="all") for name in cluster.nodes]
        regions = [client.alloc(_FLOW_BYTES) for client in clients]
        data = bytes(_FLOW_BYTES)
        pairs = [draw.sample(range(nodes), 2) for _ in range(_FLOWS)]

        def run() -> int:
            transfers = [clients[a].put_async(regions[b], data) for a, b in pairs]
            for transfer in transfers:
                transfer.result()
            return _FLOWS * _FLOW_BYTES

        return {"mb": _rate(run, seconds) / 1e6}


def _child(what: str, nodes: int, seconds: float) -> dict[str, float]:
    """Run this module in a process of its own: no other benchmark's threads and memory beside it."""
    command = [sys.executable, "-m", __name__, what, str(nodes), str(seconds)]
    answer: dict[str, float] = json.loads(subprocess.run(command, capture_output=True, check=True).stdout)
    return answer


def measure(quick: bool) -> Iterator[Figure]:
    """4 to 256 nodes, a thousand flows, a thousand nodes."""
    seconds = 0.5 if quick else 2.0
    costs: list[float] = []
    for nodes, wanted in _WANTED.items():
        found = _child("one_to_all", nodes, seconds)
        yield Figure(f"sim_{nodes}", found["singly"], "1/s", wanted=wanted, absolute=True)
        yield Figure(f"sim_{nodes}_blocking", found["blocking"], "1/s")
        if nodes == 64:
            yield Figure("sim_64_resident", found["rss"], "B", wanted=1e9, lower=True, absolute=True)
        found = _child("neighbours", nodes, seconds)
        yield Figure(f"sim_{nodes}_neighbours", found["puts"], "1/s")
        costs.append(1 / found["puts"])
    yield Figure("sim_flat", max(costs) / min(costs), "x", wanted=1.25, lower=True)
    yield Figure("sim_64_flows", _child("flows", 64, seconds)["mb"], "MB/s")
    found = _child("neighbours", _MANY, seconds)
    yield Figure(f"sim_{_MANY}_neighbours", found["puts"], "1/s")
    yield Figure(f"sim_{_MANY}_start", found["start"], "s", wanted=10.0, lower=True, absolute=True)
    yield Figure(f"sim_{_MANY}_resident", found["rss"], "B", wanted=4e9, lower=True, absolute=True)


if __name__ == "__main__":
    run = {"one_to_all": one_to_all, "neighbours": neighbours, "flows": flows}[sys.argv[1]]
    json.dump(run(int(sys.argv[2]), float(sys.argv[3])), sys.stdout)
