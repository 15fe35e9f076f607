"""Load (or, once for a machine, compile) the fast paths before the node joins.

Compiled code is loaded function by function at its first call, some tens of milliseconds each, and compiled
where the cache has none. That time would be taken from the node's first transfers, with the event loop
standing still; so two throw-away nodes exchange one of each kind of request first. Of many node processes
that start at once on a machine whose cache is empty one compiles, and the others wait for it.
"""

from __future__ import annotations

import fcntl
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import numpy as np

from unimem.addresses import WINDOW_BYTES, window_of
from unimem.v1 import types_pb2
from unimem.wire import WORK_REQUEST, Op
from unimem_node._jit import cache_dir
from unimem_node.mpsoc.node import Node

_PDID = 1
_BYTES = 64
#: What compiled code does; messages and copies between two others are set up in Python.
_OPS = (Op.WRITE, Op.READ, Op.FETCH_ADD, Op.COMPARE_SWAP, Op.SWAP)


def load_fast_paths(platform: str, memory_bytes: int = 64 << 20) -> int:
    """Exchange a write, a read and each atomic between two nodes of `platform`; returns the failures (0)."""
    with _alone_if_compiling(cache_dir()):
        return _exchange(platform, memory_bytes)


@contextmanager
def _alone_if_compiling(folder: Path) -> Iterator[None]:
    """Hold the cache's lock, unless somebody has been through this with the same code before."""
    done = folder / "complete"
    try:
        if done.exists():
            raise FileExistsError(done)
        folder.mkdir(parents=True, exist_ok=True)
        lock = (folder / "lock").open("w")
    except OSError:  # complete, or not ours to write: Numba copes with either
        yield
        return
    with lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        yield
        done.touch()


def _exchange(platform: str, memory_bytes: int) -> int:
    nodes = [Node(f"warm{i}", i, platform=platform, memory_bytes=memory_bytes) for i in range(2)]
    up = int(types_pb2.NODE_STATE_UP)
    rows = [(n.index, n.name, window_of(n.index).start, WINDOW_BYTES, 1, up) for n in nodes]
    gva = window_of(1).start
    for node in nodes:
        node.set_routes(rows)
        node.open_domain(_PDID)
    nodes[1].map_region(_PDID, gva, 1 << 20, types_pb2.RIGHTS_READ_WRITE, True)
    here, _ = nodes[0].stage(_PDID, _BYTES)
    wrs = np.zeros(len(_OPS), WORK_REQUEST)
    for wr, op in zip(wrs, _OPS, strict=True):
        wr["op"], wr["pdid"], wr["wr_id"] = op, _PDID, op
        wr["length"] = _BYTES if op in (Op.WRITE, Op.READ) else 8
        wr["src"], wr["dst"] = (gva, here) if op is Op.READ else (here if op is Op.WRITE else 0, gva)
    failed, left = 0, len(wrs)
    nodes[0].post(wrs)
    while left:  # nobody else takes part: every request completes within two rounds
        for node in nodes:
            node.pump()
            for peer, frame in node.take_frames():
                nodes[peer].on_frame(node.index, frame)
        done = nodes[0].take_completions()
        failed, left = failed + int((done["status"] != 0).sum()), left - len(done)
    for node in nodes:
        node.close()
    return failed
