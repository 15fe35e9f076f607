"""Node processes over each transport, on a good and on a bad network."""

from __future__ import annotations

import numpy as np
import pytest

from unimem_lab import ProcessCluster
from unimem_lab.admin import Admin

BAD = "loss=0.05,duplicate=0.02,reorder=0.02,corrupt=0.01,seed=7"


@pytest.mark.parametrize(
    ("transport", "impair"), [("auto", ""), ("shm", BAD), ("unix", ""), ("tcp", BAD), ("grpc", BAD)]
)
def test_bytes_and_atomics(transport: str, impair: str) -> None:
    rng = np.random.default_rng(5)
    with ProcessCluster(nodes=2, transport=transport, impair=impair, memory="256M") as cluster:
        with cluster.client(home="n0") as um:
            region = um.alloc(1 << 20, node="n1")
            data = rng.bytes(1 << 20)
            um.put(region, data)
            assert bytes(um.get(region, 1 << 20)) == data
            um.put(region, bytes(8))
            assert [um.fetch_add(region, 1) for _ in range(50)] == list(range(50))
        with Admin(cluster.address, 10) as admin:
            status, _ = admin.node_status(admin.node("n0"))
            assert status is not None
            assert dict(status.peers) == {"n1": "shm" if transport == "auto" else transport}
