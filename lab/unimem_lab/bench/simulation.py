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


def figures(nodes: int, seconds: float) -> dict[str, float]:
    """Puts a second with `nodes` nodes, singly issued and blocking, and the process' resident bytes."""
    import psutil  # noqa: PLC0415

    with SimCluster(nodes=nodes, seed=1) as cluster, cluster.client(home="n0") as um:
        targets = [um.alloc(4096, node=name) for name in cluster.nodes[1:]]
        places = [targets[i % len(targets)] + 8 * i for i in range(_OUTSTANDING)]
        word = b"12345678"

        def singly() -> None:
            transfers = [um.put_async(place, word) for place in places]
            for transfer in transfers:
                transfer.result()

        def blocking() -> None:
            for place in places:
                um.put(place, word)

        found: dict[str, float] = {}
        for run in (singly, blocking):
            run()
            rounds: list[float] = []
            end = time.perf_counter() + seconds
            while (started := time.perf_counter()) < end:
                run()
                rounds.append(time.perf_counter() - started)
            found[run.__name__] = len(places) / statistics.median(rounds)
        for target in targets:  # every node has its share of state before it is weighed
            um.put(target, word)
        return found | {"rss": psutil.Process().memory_info().rss}


def _child(nodes: int, seconds: float) -> dict[str, float]:
    """Run this module in a process of its own: no other benchmark's threads and memory beside it."""
    command = [sys.executable, "-m", __name__, str(nodes), str(seconds)]
    answer: dict[str, float] = json.loads(subprocess.run(command, capture_output=True, check=True).stdout)
    return answer


def measure(quick: bool) -> Iterator[Figure]:
    """4, 16 and 64 nodes; then the resident memory of a process with 64."""
    for nodes, wanted in _WANTED.items():
        found = _child(nodes, 0.5 if quick else 2.0)
        yield Figure(f"sim_{nodes}", found["singly"], "1/s", wanted=wanted, absolute=True)
        yield Figure(f"sim_{nodes}_blocking", found["blocking"], "1/s")
    yield Figure("sim_64_resident", found["rss"], "B", wanted=1e9, lower=True, absolute=True)


if __name__ == "__main__":
    json.dump(figures(int(sys.argv[1]), float(sys.argv[2])), sys.stdout)
