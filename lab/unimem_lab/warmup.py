"""Compile every fast path by using it: once for each machine, or in the image's build."""

from __future__ import annotations

from pathlib import Path

import numpy as np

from unimem_lab.sim import SimCluster
from unimem_node import Mpsoc
from unimem_node._jit import cache_dir
from unimem_node.smmu._fast import translate_many


def compile_everything() -> Path:
    """Run each compiled function with the argument types that real work has; returns the cache's folder."""
    with SimCluster(nodes=2) as cluster, cluster.client(home="n0") as um:
        far = um.alloc(1 << 20, node="n1")
        um.put(far, np.arange(1 << 17))
        um.get(far, 1 << 20)
        um.put_many(np.arange(8) * 8 + int(far), np.arange(8))
        um.fetch_add(far, 1)
        um.compare_swap(far, 0, 1)
        um.copy(um.alloc(4096), far, 4096)
    soc = Mpsoc(memory_bytes=1 << 20)
    for name, base in (("zdma", 0xFD50_0000), ("cdma", 0xA000_0000)):
        soc.memory.write(0x1000, name.encode())
        if name == "zdma":
            for offset, value in ((0x128, 0x1000), (0x138, 0x2000), (0x130, 64), (0x200, 1)):
                soc.bus.write32(base + offset, value)
        else:
            for offset, value in ((0x18, 0x1000), (0x20, 0x2000), (0x28, 64)):
                soc.bus.write32(base + offset, value)
        soc.run()
    addresses = np.zeros(1, np.uint64)
    translate_many(soc.arrays, 0, -1, addresses, 0, np.empty_like(addresses))
    soc.close()
    return cache_dir()
