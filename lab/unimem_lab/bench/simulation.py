"""Simulated operations a second in `SimCluster`, and what it costs in memory.

``sim_N``: 8-byte puts issued singly (`put_async`) from one node to the others in turn, 64 outstanding;
``sim_N_blocking``: the same with `put`, which returns when delivered. Medians over rounds of 64.
"""

from __future__ import annotations

import json
import statistics
import subprocess
import sys
import time
from collections.abc import Iterator

from unimem_lab import SimCluster
from unimem_lab.bench.result import Figure

_OUTSTANDING = 64
#: What the project asks: 50,000 at 4 nodes, half of that at 64.
_WANTED = {4: 50_000.0, 16: None, 64: 25_000.0}


def rates(nodes: int, seconds: float) -> tuple[float, float]:
    """(singly issued, blocking) puts a second with `nodes` nodes."""
    with SimCluster(nodes=nodes, seed=1) as cluster, cluster.client(home="n0") as um:
        targets = [um.alloc(4096, node=name) for name in cluster.nodes[1:]]
        places = [
            target + 8 * (i % 512) for i in range(_OUTSTANDING) for target in (targets[i % len(targets)],)
        ]
        word = b"12345678"

        def singly() -> None:
            transfers = [um.put_async(place, word) for place in places]
            for transfer in transfers:
                transfer.result()

        def blocking() -> None:
            for place in places:
                um.put(place, word)

        found = []
        for run in (singly, blocking):
            run()
            rounds: list[float] = []
            end = time.perf_counter() + seconds
            while (started := time.perf_counter()) < end:
                run()
                rounds.append(time.perf_counter() - started)
            found.append(len(places) / statistics.median(rounds))
        return found[0], found[1]


def measure(quick: bool) -> Iterator[Figure]:
    """4, 16 and 64 nodes; then the resident memory of a process with 64."""
    for nodes, wanted in _WANTED.items():
        single, blocking = rates(nodes, 0.5 if quick else 2.0)
        yield Figure(f"sim_{nodes}", single, "1/s", wanted=wanted, absolute=True)
        yield Figure(f"sim_{nodes}_blocking", blocking, "1/s")
    # In a process of its own: this one has already grown.
    child = subprocess.run([sys.executable, "-m", __name__], capture_output=True, text=True, check=True)
    rss = json.loads(child.stdout)["rss"]
    yield Figure("sim_64_resident", rss, "B", wanted=1e9, lower=True, absolute=True)


if __name__ == "__main__":
    import psutil

    with SimCluster(nodes=64, seed=1) as cluster, cluster.client(home="n0") as um:
        for name in cluster.nodes:
            um.put(um.alloc(4096, node=name), b"12345678")
        json.dump({"rss": psutil.Process().memory_info().rss}, sys.stdout)
