"""What a cluster of processes costs before it does anything, and how soon it does."""

from __future__ import annotations

import time
from collections.abc import Iterator

from unimem_lab import ProcessCluster
from unimem_lab.bench.result import Figure
from unimem_lab.warmup import compile_everything


def measure(quick: bool) -> Iterator[Figure]:
    """Resident memory of an idle node; seconds from `up` with four nodes to the first completed put."""
    import psutil  # noqa: PLC0415

    compile_everything()  # a node that has just compiled is larger than one that found the code
    started = time.perf_counter()
    with ProcessCluster(nodes=4) as cluster:
        resident = max(psutil.Process(cluster.pid(name)).memory_info().rss for name in cluster.nodes)
        with cluster.client() as um:
            um.put(um.alloc(4096, node="n3"), b"12345678")
        seconds = time.perf_counter() - started
    yield Figure("node_resident", resident, "B", wanted=200e6, lower=True, absolute=True)
    yield Figure("up_to_first_put", seconds, "s", note="4 nodes, compiled code in the cache")
