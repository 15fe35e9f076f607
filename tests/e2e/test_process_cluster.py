"""Nodes and coordinators that die and come back, as real processes: what was acknowledged is there."""

from __future__ import annotations

import subprocess
import sys
import threading
from collections.abc import Iterator

import numpy as np
import psutil
import pytest

import unimem
from unimem_lab import ProcessCluster
from unimem_lab.processes import StartError

pytestmark = pytest.mark.timeout(180)


@pytest.fixture
def cluster() -> Iterator[ProcessCluster]:
    with ProcessCluster(nodes=3, topology="ring") as running:
        yield running


def test_a_node_killed_in_mid_transfer(cluster: ProcessCluster) -> None:
    with cluster.client(home="n0") as um:
        there = um.alloc(64 << 20, node="n1")
        data = np.ones(64 << 20, np.uint8)
        write = um.put_async(there, data, timeout=30)
        timer = threading.Timer(0.05, cluster.kill, ["n1"])
        timer.start()
        error = write.exception()
        timer.join()
        assert isinstance(error, unimem.UnimemError)
        assert not error.definite
        assert "n1" in str(error) or "#1" in str(error)
        # Afterwards everything is definite: nothing can have left for a node that is not there.
        with pytest.raises(unimem.UnimemError) as refused:
            um.put(there, b"x", timeout=10)
        assert refused.value.definite
        # And the others are unharmed.
        elsewhere = um.alloc(4096, node="n2")
        um.put(elsewhere, b"fine")
        assert bytes(um.get(elsewhere, 4)) == b"fine"


def test_a_node_that_comes_back_has_its_window_and_not_its_bytes(cluster: ProcessCluster) -> None:
    with cluster.client(home="n0") as um:
        there = um.alloc(4096, node="n1", name="kept")
        um.put(there, b"precious")
        before = next(n for n in um.nodes() if n.name == "n1")
        cluster.kill("n1")
        cluster.start_node("n1")
        after = next(n for n in um.nodes() if n.name == "n1")
        assert (after.window, after.incarnation) == (before.window, before.incarnation + 1)
        assert [r.state for r in um.regions(node="n1")] == ["lost"]
        with pytest.raises(unimem.UnimemError):
            um.get(there, 8, timeout=10)
        anew = um.alloc(4096, node="n1")
        um.put(anew, b"anew")
        assert bytes(um.get(anew, 4)) == b"anew"


def test_a_coordinator_that_is_killed_remembers_what_it_acknowledged(cluster: ProcessCluster) -> None:
    with cluster.client(home="n0", domain="d") as um:
        there = um.alloc(4096, node="n1", name="kept")
        um.put(there, b"precious")
        regions = um.regions()
        cluster.kill("coordinator")
        um.put(there + 8, b"meanwhile")  # it is not on the way of a transfer
        cluster.start_coordinator()
        assert um.regions() == regions
        assert bytes(um.get(there, 17)) == b"preciousmeanwhile"
        um.share(there, "friend", rights="r")
    with cluster.client(home="n2", domain="friend") as friend:
        assert bytes(friend.get(int(there), 8)) == b"precious"
        with pytest.raises(unimem.PermissionFault) as refused:
            friend.put(int(there), b"x")
        assert refused.value.definite
        assert (refused.value.stage, refused.value.level, refused.value.access) == (1, 3, "write")


def test_what_does_not_start_says_why_and_leaves_nothing_running() -> None:
    with pytest.raises(StartError, match="nosuch"):
        ProcessCluster(nodes=1, platform="nosuch")


def test_children_end_with_a_parent_that_is_killed() -> None:
    """Whatever the parent could not do any more, the system does."""
    program = (
        "from unimem_lab import ProcessCluster\n"
        "cluster = ProcessCluster(nodes=1)\n"
        "print(cluster.pid('coordinator'), cluster.pid(cluster.nodes[0]), flush=True)\n"
        "input()\n"
    )
    with subprocess.Popen(
        [sys.executable, "-c", program], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
    ) as parent:
        assert parent.stdout is not None
        pids = [int(pid) for pid in parent.stdout.readline().split()]
        assert len(pids) == 2
        parent.kill()
        parent.wait()
        ended = [psutil.Process(pid) for pid in pids if psutil.pid_exists(pid)]
        _, alive = psutil.wait_procs(ended, timeout=20)
    assert alive == []
