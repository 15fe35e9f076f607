"""Memory of real node processes is paged out, dropped, locked and collapsed under the eyes of remote DMA."""

from __future__ import annotations

from collections.abc import Iterator

import pytest

import unimem
from unimem_lab import ProcessCluster
from unimem_lab.admin import Admin, Link

pytestmark = pytest.mark.timeout(180)
LENGTH = 2 << 20


@pytest.fixture(scope="module")
def cluster() -> Iterator[ProcessCluster]:
    with ProcessCluster(nodes=2, policy="touch_ahead:64") as running:
        yield running


@pytest.fixture
def link(cluster: ProcessCluster) -> Iterator[Link]:
    with Admin(cluster.address) as admin, admin.reach(admin.node("n1")) as link:
        yield link


def test_what_was_paged_out_is_there_for_the_next_transfer(cluster: ProcessCluster, link: Link) -> None:
    data = bytes(range(256)) * (LENGTH // 256)
    with cluster.client(home="n0") as um:
        there = um.alloc(LENGTH, node="n1")
        um.put(there, data)
        for advice, pages in [("PAGEOUT", 512), ("COLD", 0), ("WILLNEED", 512), ("COLLAPSE", 512)]:
            assert link.advise(um.pdid, int(there), LENGTH, advice) == pages
        assert link.advise(um.pdid, int(there), LENGTH, "PAGEOUT") == 512
        assert bytes(um.get(there, LENGTH)) == data
        um.put(there + 8192, b"again")
        assert link.advise(um.pdid, int(there), LENGTH, "LOCK") == 512
        assert link.advise(um.pdid, int(there), LENGTH, "PAGEOUT") == 0
        assert link.advise(um.pdid, int(there), LENGTH, "UNLOCK") == 512
        assert link.advise(um.pdid, int(there), LENGTH, "DONTNEED") == 512
        assert bytes(um.get(there, 16384)) == bytes(16384)


def test_what_the_kernel_refuses_is_told(cluster: ProcessCluster, link: Link) -> None:
    with cluster.client(home="n0") as um:
        there = um.alloc(4096, node="n1")
        with pytest.raises(unimem.UsageError, match="nothing is mapped"):
            link.advise(um.pdid, int(there), 8192, "PAGEOUT")
        with pytest.raises(unimem.UsageError, match="advice 'FREE' is unknown"):
            link.advise(um.pdid, int(there), 4096, "FREE")
        with pytest.raises(unimem.UsageError, match=r"0x.* is not pinned"):
            link.advise(um.pdid, int(there), 4096, "UNPIN")
