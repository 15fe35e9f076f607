"""Compile every fast path by using it: once for each machine, or in the image's build."""

from __future__ import annotations

from pathlib import Path

import numpy as np

from unimem import Transfer
from unimem_lab.sim import SimCluster
from unimem_node import Mpsoc
from unimem_node._jit import cache_dir
from unimem_node.smmu._fast import translate_many


def compile_everything() -> Path:
    """Run each compiled function with the argument types that real work has; returns the cache's folder."""
    for fast in (True, False):  # the readable paths, which handle what is uncommon, call some directly
        _exercise(fast)
    _exercise_engines()
    return cache_dir()


def _exercise(fast: bool) -> None:
    """Every kind of transfer, and every kind of refusal."""
    with (
        SimCluster(nodes=2, fast=fast) as cluster,
        cluster.client(home="n0", domain="owner") as um,
        cluster.client(home="n0", domain="other") as other,
    ):
        far = um.alloc(1 << 16, node="n1")
        um.put(far, np.arange(1 << 13))
        um.get(far, 1 << 16)
        um.put_many(np.arange(8) * 8 + int(far), np.arange(8))
        um.get_many(np.arange(8) * 8 + int(far), 8)
        um.fetch_add(far, 1)
        um.compare_swap(far, 0, 1)
        um.swap(far, 2)
        um.copy(um.alloc(4096), far, 4096)
        nowhere = int(far) + (1 << 33)
        _must_be_refused(um.get_async(nowhere, 8), um.put_async(nowhere, b"x"))
        _must_be_refused(other.get_async(int(far), 8))
        um.share(far, "other", rights="r")
        _must_be_refused(other.put_async(int(far), bytes(1 << 15)))


def _must_be_refused(*transfers: Transfer) -> None:
    for transfer in transfers:
        if transfer.exception() is None:
            raise AssertionError(f"{transfer!r} must be refused, and was not")


def _exercise_engines() -> None:
    """The DMA engines, and the bulk translation of the benchmarks."""
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
