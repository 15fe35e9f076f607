"""More processes than context banks, with faults outstanding: who may be evicted, and who comes back."""

from __future__ import annotations

import pytest

from support.nodes import Nodes
from unimem.wire import Op, Status
from unimem_node.kernel.context_bank import NoContextBank
from unimem_node.kernel.rdma_driver import RdmaDriver
from unimem_node.mmu.regime import ACCESS_WRITE
from unimem_node.mpsoc.node import Node
from unimem_node.smmu import Fault

PAGE = 4096


def driver_of(node: Node) -> RdmaDriver:
    assert node.kernel.rdma is not None
    return node.kernel.rdma


def with_domains(count: int, policy: str, *, nodes: int = 1) -> Nodes:
    """Nodes with `count` domains; on the last, each has a lazy page at its number, and one that is there."""
    cluster = Nodes(nodes)
    target = cluster[nodes - 1]
    for node in cluster.nodes:
        node.set_fault_policy(policy)
        for pdid in range(1, count + 1):
            node.open_domain(pdid)
    for pdid in range(1, count + 1):
        process = target.kernel.process(pdid)
        target.kernel.regions.create(process, page_of(cluster, nodes - 1, pdid), PAGE, 3, lazy=True)
        target.kernel.regions.create(process, page_of(cluster, nodes - 1, pdid + 100), PAGE, 3)
    return cluster


def page_of(cluster: Nodes, node: int, number: int) -> int:
    return cluster.gva(node, 2 * number * PAGE)


def stall(cluster: Nodes, pdid: int) -> None:
    """An access of the domain stalls in its bank, now."""
    node = cluster[0]
    rdma = driver_of(node)
    slot = rdma.attach(node.kernel.process(pdid))
    fault = node.soc.smmu.translate(rdma.node.stream_base + slot, page_of(cluster, 0, pdid), ACCESS_WRITE)
    assert isinstance(fault, Fault)
    assert fault.stalls


def test_a_bank_in_which_an_access_is_stalled_does_not_give_way() -> None:
    cluster = with_domains(17, "stall")
    node, rdma = cluster[0], driver_of(cluster[0])
    for pdid in range(1, 17):
        rdma.attach(node.kernel.process(pdid))
    stall(cluster, 1)  # the one that would go next
    stall(cluster, 2)
    rdma.attach(node.kernel.process(17))
    assert rdma.slot_of(node.kernel.process(1)) == 0
    assert rdma.slot_of(node.kernel.process(3)) is None
    assert node.kernel.smmu.stalled(node.kernel.process(1).asid)


def test_when_all_are_stalled_a_domain_waits_until_one_goes_on() -> None:
    cluster = with_domains(17, "stall")
    node, rdma = cluster[0], driver_of(cluster[0])
    for pdid in range(1, 17):
        stall(cluster, pdid)
    with pytest.raises(NoContextBank, match="process 17: an access is stalled in the bank of every PD slot"):
        rdma.attach(node.kernel.process(17))
    row = cluster.put(0, 17, page_of(cluster, 0, 117), b"patience")
    assert row["status"] == Status.OK
    assert node.read_memory(17, page_of(cluster, 0, 117), 8) == b"patience"
    assert [event.outcome for event in node.kernel.fault_log] == ["resolved"] * 16


@pytest.mark.parametrize("policy", ["touch_a_page", "touch_ahead:4", "stall", "stall:hupcf"])
def test_twenty_four_domains_fault_at_once_at_both_ends(policy: str) -> None:
    """Their requests, faults and banks overlap; each domain's bytes end in its own page, once."""
    count = 24
    cluster = with_domains(count, policy, nodes=2)
    source, target = cluster[0], cluster[1]
    for pdid in range(1, count + 1):
        va = source.kernel.process(pdid).map(PAGE, va=pdid << 20, lazy=True)
        source.write_memory(pdid, va, pdid.to_bytes(8, "little"))
        if pdid % 2:
            source.kernel.process(pdid).madvise(va, PAGE, "PAGEOUT")
        for _ in range(2):
            cluster.post(0, Op.FETCH_ADD, pdid, dst=page_of(cluster, 1, pdid) + 64, length=8, operand=pdid)
        cluster.post(0, Op.WRITE, pdid, src=va, dst=page_of(cluster, 1, pdid), length=8)
    cluster.run()
    rows = source.take_completions()
    assert sorted(rows["wr_id"]) == list(range(1, 3 * count + 1))
    assert [Status(int(status)).name for status in set(rows["status"])] == ["OK"]
    for pdid in range(1, count + 1):
        gva = page_of(cluster, 1, pdid)
        assert target.read_memory(pdid, gva, 8) == pdid.to_bytes(8, "little")
        assert target.read_memory(pdid, gva + 64, 8) == (2 * pdid).to_bytes(8, "little")
    assert driver_of(target).evicted >= count - 16
    outcomes = {event.outcome for node in cluster.nodes for event in node.kernel.fault_log}
    assert outcomes == {"resolved"}
    assert all(node.kernel.page_faults.idle for node in cluster.nodes)
    assert all(node.interrupts.pending() == [] for node in cluster.nodes)


@pytest.mark.parametrize(("policy", "count"), [("touch_a_page", 600), ("touch_ahead:16", 600), ("stall", 60)])
def test_a_storm_that_takes_longer_than_the_interfaces_patience(policy: str, count: int) -> None:
    """Hundreds of pages from swap, 60 µs each, asked for at once by two nodes: nobody gives up meanwhile."""
    cluster = Nodes(3)
    for node in cluster.nodes:
        node.set_fault_policy(policy)
        node.open_domain(1)
    target = cluster[2]
    gva = cluster.gva(2)
    process = target.kernel.process(1)
    target.kernel.regions.create(process, gva, count * PAGE, 3, lazy=True)
    for page in range(count):
        process.write(gva + page * PAGE, page.to_bytes(4, "little"))
    process.madvise(gva, count * PAGE, "PAGEOUT")
    for source in (0, 1):
        for page in range(source, count, 2):
            cluster.post(source, Op.FETCH_ADD, 1, dst=gva + page * PAGE, length=8, operand=1 << 32)
    cluster.run()
    for source in (0, 1):
        rows = cluster[source].take_completions()
        assert [Status(int(status)).name for status in set(rows["status"])] == ["OK"]
        assert len(rows) == count // 2
    for page in range(count):
        assert process.read(gva + page * PAGE, 8) == (page | 1 << 32).to_bytes(8, "little")
    majors = sum(event.major for event in target.kernel.fault_log)
    assert majors == count
    assert target.now_ps > count * target.kernel.timing.major_page_ps


@pytest.mark.parametrize("policy", ["touch_a_page", "stall", "stall:hupcf"])
def test_many_blocks_wait_for_pages_at_their_source(policy: str) -> None:
    """With HUPCF each RESUME lets all of them try again, which is no lack of progress of any."""
    count = 40
    cluster = Nodes(2)
    for node in cluster.nodes:
        node.set_fault_policy(policy)
        node.open_domain(1)
    cluster[1].map_region(1, cluster.gva(1), count * PAGE, 3, True)
    source = cluster[0].kernel.process(1)
    va = source.map(count * PAGE, lazy=True)
    for page in range(count):
        source.write(va + page * PAGE, page.to_bytes(4, "little"))
    source.madvise(va, count * PAGE, "PAGEOUT")
    for page in range(count):
        cluster.post(0, Op.WRITE, 1, src=va + page * PAGE, dst=cluster.gva(1, page * PAGE), length=4)
    cluster.run()
    rows = cluster[0].take_completions()
    assert [Status(int(status)).name for status in set(rows["status"])] == ["OK"]
    assert len(rows) == count
    for page in range(count):
        assert cluster[1].read_memory(1, cluster.gva(1, page * PAGE), 4) == page.to_bytes(4, "little")
    assert cluster[0].kernel.counters()["kernel_fault_major"] == count
