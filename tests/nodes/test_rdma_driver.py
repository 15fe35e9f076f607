"""Which protection domains the interface serves: slots, misses, eviction; on a real node, by loopback."""

from __future__ import annotations

import pytest

from support.nodes import Nodes
from unimem.wire import Op, Side, Status
from unimem_node.kernel.context_bank import NoContextBank, StreamConflict
from unimem_node.kernel.frames import PAGE
from unimem_node.kernel.rdma_driver import RdmaDriver
from unimem_node.mpsoc.node import Node


def driver_of(node: Node) -> RdmaDriver:
    assert node.kernel.rdma is not None
    return node.kernel.rdma


def with_domains(count: int) -> Nodes:
    """One node with `count` domains, each with a page of its own, at its number."""
    nodes = Nodes(1)
    for pdid in range(1, count + 1):
        nodes[0].open_domain(pdid)
        nodes[0].map_region(pdid, nodes.gva(0, pdid * PAGE), PAGE, 3, True)
    return nodes


def touch(nodes: Nodes, pdid: int) -> int:
    """Write to the domain's own page; returns the status."""
    row = nodes.put(0, pdid, nodes.gva(0, pdid * PAGE), pdid.to_bytes(8, "little"))
    return int(row["status"])


def test_the_window_is_read_from_the_interface() -> None:
    assert driver_of(Nodes(2)[1]).window == range(2 << 36, 3 << 36)


def test_a_domain_is_attached_at_its_first_use() -> None:
    nodes = with_domains(1)
    node, rdma = nodes[0], driver_of(nodes[0])
    process = node.kernel.process(1)
    assert rdma.slot_of(process) is None
    assert touch(nodes, 1) == Status.OK
    assert rdma.slot_of(process) == 0
    assert node.bus.read32(rdma.node.base + 0x100) == 1 << 31 | 1
    misses = node.counters()["ni_misses"]
    assert touch(nodes, 1) == Status.OK
    assert node.counters()["ni_misses"] == misses == 1
    assert rdma.attach(process) == 0
    assert (rdma.attached, rdma.evicted) == (1, 0)


def test_the_least_recently_used_domain_gives_way() -> None:
    nodes = with_domains(18)
    node, rdma = nodes[0], driver_of(nodes[0])
    for pdid in range(1, 17):
        assert touch(nodes, pdid) == Status.OK
    assert rdma.evicted == 0
    assert touch(nodes, 1) == Status.OK  # now 2 is the oldest
    assert touch(nodes, 17) == Status.OK
    slots = {pdid: rdma.slot_of(node.kernel.process(pdid)) for pdid in (1, 2, 17)}
    assert slots[2] is None
    assert slots[1] == 0
    assert slots[17] == 1
    assert touch(nodes, 18) == Status.OK
    assert rdma.slot_of(node.kernel.process(3)) is None
    for pdid in range(1, 19):  # everybody in turn, more than there are banks
        assert touch(nodes, pdid) == Status.OK
    for pdid in range(1, 19):
        gva = nodes.gva(0, pdid * PAGE)
        assert node.read_memory(pdid, gva, 8) == pdid.to_bytes(8, "little")
    assert len(node.kernel.smmu.banks()) == 16
    assert node.counters()["kernel_pd_evicted"] == rdma.evicted > 2


def test_domains_that_share_slots_and_banks_over_time_stay_apart() -> None:
    """After an eviction, the new owner of slot and bank must not hit entries of the last one (N22)."""
    nodes = with_domains(17)
    for pdid in range(1, 18):
        assert touch(nodes, pdid) == Status.OK
    row = nodes.put(0, 17, nodes.gva(0, PAGE), b"intruder")
    assert row["status"] == Status.TRANSLATION_FAULT
    assert nodes[0].read_memory(1, nodes.gva(0, PAGE), 8) == (1).to_bytes(8, "little")


def test_an_unknown_domain_stays_out() -> None:
    nodes = with_domains(1)
    va, _ = nodes[0].stage(1, 8)
    row = nodes.do(0, Op.WRITE, 99, src=va, dst=nodes.gva(0, PAGE), length=8)
    assert row["status"] == Status.ACCESS_DENIED
    assert row["side"] == Side.SOURCE
    assert driver_of(nodes[0]).attached == 0
    assert nodes[0].interrupts.pending() == []


def test_no_bank_left_is_told_to_the_poster() -> None:
    nodes = with_domains(1)
    kernel = nodes[0].kernel
    domains = [kernel.smmu.attach_static(0x240 + n) for n in range(16)]
    assert touch(nodes, 1) == Status.NO_CONTEXT_BANK
    with pytest.raises(NoContextBank, match="process 1 finds no context bank"):
        driver_of(nodes[0]).attach(kernel.process(1))
    domains[3].detach()
    assert touch(nodes, 1) == Status.OK


def test_eviction_takes_a_domain_whose_bank_comes_free() -> None:
    """Banks are short, and the oldest domain's bank is also a DMA engine's: the next oldest must go."""
    nodes = with_domains(4)
    kernel, rdma = nodes[0].kernel, driver_of(nodes[0])
    for pdid in (1, 2, 3):
        assert touch(nodes, pdid) == Status.OK
    kernel.smmu.attach(0x200, 0, kernel.process(1))
    for n in range(13):
        kernel.smmu.attach_static(0x240 + n)
    assert touch(nodes, 4) == Status.OK
    assert rdma.slot_of(kernel.process(1)) is not None
    assert rdma.slot_of(kernel.process(2)) is None
    assert rdma.slot_of(kernel.process(3)) is not None


def test_stream_entries_run_out_too() -> None:
    nodes = with_domains(3)
    kernel, rdma = nodes[0].kernel, driver_of(nodes[0])
    assert touch(nodes, 1) == Status.OK
    other = kernel.spawn()
    for n in range(kernel.smmu.free_match_groups):
        kernel.smmu.attach(0x240 + n, 0, other)
    assert touch(nodes, 2) == Status.OK
    assert rdma.slot_of(kernel.process(1)) is None
    rdma.detach(kernel.process(2))
    kernel.smmu.attach(0x300, 0, other)
    assert touch(nodes, 3) == Status.NO_CONTEXT_BANK


def test_a_slot_whose_stream_somebody_routed_is_refused() -> None:
    nodes = with_domains(1)
    kernel, rdma = nodes[0].kernel, driver_of(nodes[0])
    kernel.smmu.attach(rdma.node.stream_base, 0x0F, kernel.spawn())
    assert touch(nodes, 1) == Status.STREAM_FAULT
    with pytest.raises(StreamConflict, match="is taken"):
        rdma.attach(kernel.process(1))


def test_detach_ends_access_at_once() -> None:
    nodes = with_domains(2)
    kernel, rdma = nodes[0].kernel, driver_of(nodes[0])
    assert touch(nodes, 1) == Status.OK
    process = kernel.process(1)
    rdma.detach(process)
    rdma.detach(process)
    assert nodes[0].bus.read32(rdma.node.base + 0x100) == 0
    assert kernel.smmu.banks() == []
    assert touch(nodes, 1) == Status.OK  # comes back by a miss
    assert rdma.attached == 2
