"""A node as the shells drive it: two of them joined by the memory fabric, end to end."""

from __future__ import annotations

import random

import numpy as np
import pytest

from support.nodes import Nodes
from unimem.wire import WORK_REQUEST, CompletionFlags, Op, Side, Status, WorkFlags
from unimem_node.kernel import KernelFault
from unimem_node.kernel.frames import PAGE
from unimem_node.mpsoc.node import Node
from unimem_node.mpsoc.platform import load

DOMAIN, OTHER, STRANGER = 7, 8, 9


@pytest.fixture(params=[True, False], ids=["fast", "readable"])
def nodes(request: pytest.FixtureRequest) -> Nodes:
    """Domain 7 owns 1 MiB on n1; 8 may read it, 9 has nothing. All three are processes on both nodes."""
    nodes = Nodes(2, fast=request.param)
    for node in nodes.nodes:
        for pdid in (DOMAIN, OTHER, STRANGER):
            node.open_domain(pdid)
    nodes[1].map_region(DOMAIN, nodes.gva(1), 1 << 20, 3, True)
    nodes[1].map_region(OTHER, nodes.gva(1), 1 << 20, 1, False)
    return nodes


def test_put_and_get_move_bytes_through_both_smmus(nodes: Nodes) -> None:
    data = random.Random(1).randbytes(300_000)
    gva = nodes.gva(1, 12_345)
    row = nodes.put(0, DOMAIN, gva, data)
    assert (row["status"], row["bytes"], row["side"]) == (Status.OK, len(data), Side.NONE)
    assert row["parts_ps"].sum() == row["done_ps"] - row["posted_ps"] > 0
    assert nodes[1].read_memory(DOMAIN, gva, len(data)) == data
    assert nodes[1].read_memory(OTHER, gva, len(data)) == data  # the same frames
    assert nodes[1].read_memory(DOMAIN, nodes.gva(1), 12_345) == bytes(12_345)
    for node in nodes.nodes:
        counters = node.counters()
        assert counters["walks"] > 0
        assert counters["faults"] == 0
        assert counters["ni_misses"] == 1
    row, back = nodes.get(0, OTHER, gva, len(data))
    assert row["status"] == Status.OK
    assert back == data


def test_atomics_act_on_the_targets_memory(nodes: Nodes) -> None:
    gva = nodes.gva(1, 64)
    nodes[1].write_memory(DOMAIN, gva, (40).to_bytes(8, "little"))
    row = nodes.do(0, Op.FETCH_ADD, DOMAIN, dst=gva, length=8, operand=2)
    assert (row["status"], row["value"]) == (Status.OK, 40)
    row = nodes.do(0, Op.COMPARE_SWAP, DOMAIN, dst=gva, length=8, compare=41, operand=7)
    assert (row["status"], row["value"]) == (Status.OK, 42)
    row = nodes.do(0, Op.COMPARE_SWAP, DOMAIN, dst=gva, length=8, compare=42, operand=7)
    assert (row["status"], row["value"]) == (Status.OK, 42)
    assert nodes[1].read_memory(DOMAIN, gva, 8) == (7).to_bytes(8, "little")
    row = nodes.do(0, Op.FETCH_ADD, OTHER, dst=gva, length=8, operand=1)
    assert row["status"] == Status.PERMISSION_FAULT
    assert nodes[1].read_memory(DOMAIN, gva, 8) == (7).to_bytes(8, "little")


def check_refused(nodes: Nodes, row: np.void, status: Status, gva: int, pdid: int) -> None:
    """The target's SMMU refused, and the completion says what it recorded; the kernel there reported it."""
    assert row["status"] == status
    assert row["side"] == Side.TARGET
    assert row["node"] == 1
    assert row["iova"] == gva
    report = nodes[1].faults()[-1]
    assert report.pdid == pdid
    assert report.iova == gva
    assert report.stream_id == row["stream_id"]
    assert report.context_bank == row["context_bank"]
    assert (report.fsr, report.fsynr0) == (row["fsr"], row["fsynr0"])
    assert report.stream_name.startswith("ni slot ")
    assert nodes[1].interrupts.pending() == []
    assert nodes[0].faults() == []


def test_a_foreign_domain_is_refused_by_the_smmu(nodes: Nodes) -> None:
    row = nodes.put(0, STRANGER, nodes.gva(1, 8), b"intruder")
    check_refused(nodes, row, Status.TRANSLATION_FAULT, nodes.gva(1, 8), STRANGER)
    assert row["flags"] & CompletionFlags.DEFINITE
    assert nodes[1].read_memory(DOMAIN, nodes.gva(1, 8), 8) == bytes(8)
    row, data = nodes.get(0, STRANGER, nodes.gva(1), 64)
    check_refused(nodes, row, Status.TRANSLATION_FAULT, nodes.gva(1), STRANGER)
    assert data == bytes(64)


def test_a_write_to_a_read_only_share_is_refused(nodes: Nodes) -> None:
    row, _ = nodes.get(0, OTHER, nodes.gva(1), 64)  # fills the TLB, which must not help
    assert row["status"] == Status.OK
    row = nodes.put(0, OTHER, nodes.gva(1), b"no")
    check_refused(nodes, row, Status.PERMISSION_FAULT, nodes.gva(1), OTHER)
    assert nodes[1].read_memory(DOMAIN, nodes.gva(1), 2) == bytes(2)
    assert "permission fault, stage 1" in nodes[1].faults()[-1].text
    nodes[1].map_region(OTHER, nodes.gva(1), 1 << 20, 3, False)
    assert nodes.put(0, OTHER, nodes.gva(1), b"yes")["status"] == Status.OK
    nodes[1].map_region(OTHER, nodes.gva(1), 1 << 20, 1, False)
    assert nodes.put(0, OTHER, nodes.gva(1), b"no!")["status"] == Status.PERMISSION_FAULT
    assert nodes[1].read_memory(DOMAIN, nodes.gva(1), 3) == b"yes"


def test_an_unmapped_address_is_refused_where_the_region_ends(nodes: Nodes) -> None:
    row = nodes.put(0, DOMAIN, nodes.gva(1, (1 << 20) - 100), b"z" * 200)
    check_refused(nodes, row, Status.TRANSLATION_FAULT, nodes.gva(1, 1 << 20), DOMAIN)
    assert not row["flags"] & CompletionFlags.DEFINITE  # bytes before the end are there
    assert nodes[1].read_memory(DOMAIN, nodes.gva(1, (1 << 20) - 100), 100) == b"z" * 100


def test_what_was_unmapped_is_out_of_reach_at_once(nodes: Nodes) -> None:
    gva = nodes.gva(1)
    for pdid in (DOMAIN, OTHER):
        assert nodes.get(0, pdid, gva, 8)[0]["status"] == Status.OK
    nodes[1].unmap_region(gva, OTHER)
    assert nodes.get(0, OTHER, gva, 8)[0]["status"] == Status.TRANSLATION_FAULT
    assert nodes.get(0, DOMAIN, gva, 8)[0]["status"] == Status.OK
    nodes[1].unmap_region(gva)
    nodes[1].unmap_region(gva)
    assert nodes.put(0, DOMAIN, gva, b"late")["status"] == Status.TRANSLATION_FAULT
    nodes[1].map_region(STRANGER, gva, PAGE, 3, True)
    assert nodes.get(0, STRANGER, gva, 8)[1] == bytes(8)


def test_a_bad_source_is_the_sources_fault(nodes: Nodes) -> None:
    row = nodes.do(0, Op.WRITE, DOMAIN, src=0x1234_5000, dst=nodes.gva(1), length=8)
    assert (row["status"], row["side"], row["node"]) == (Status.TRANSLATION_FAULT, Side.SOURCE, 0)
    assert nodes[0].faults()[-1].iova == 0x1234_5000
    assert nodes[1].faults() == []


def test_a_process_writes_to_its_own_node_and_from_its_regions(nodes: Nodes) -> None:
    """Any address of the process is a source, its regions too; the target may be the poster's own node."""
    gva = nodes.gva(1)
    nodes[1].write_memory(DOMAIN, gva, b"from here")
    row = nodes.do(1, Op.WRITE, DOMAIN, src=gva, dst=gva + PAGE, length=9)
    assert row["status"] == Status.OK
    assert nodes[1].read_memory(DOMAIN, gva + PAGE, 9) == b"from here"
    nodes[0].map_region(DOMAIN, nodes.gva(0), PAGE, 3, True)
    row = nodes.do(1, Op.WRITE, DOMAIN, src=gva, dst=nodes.gva(0, 16), length=9)
    assert row["status"] == Status.OK
    assert nodes[0].read_memory(DOMAIN, nodes.gva(0, 16), 9) == b"from here"


def test_a_closed_domain_is_refused_and_its_memory_is_free(nodes: Nodes) -> None:
    assert nodes.put(0, DOMAIN, nodes.gva(1), b"here")["status"] == Status.OK
    free = nodes[1].counters()["kernel_free_bytes"]
    nodes[1].close_domain(DOMAIN)
    nodes[1].close_domain(DOMAIN)
    assert nodes[1].counters()["kernel_free_bytes"] >= free + (1 << 20)
    row = nodes.put(0, DOMAIN, nodes.gva(1), b"late")
    assert (row["status"], row["side"], row["node"]) == (Status.ACCESS_DENIED, Side.TARGET, 1)
    assert nodes.get(0, OTHER, nodes.gva(1), 4)[0]["status"] == Status.TRANSLATION_FAULT  # its share went too
    nodes[1].open_domain(DOMAIN)
    assert nodes.put(0, DOMAIN, nodes.gva(1), b"late")["status"] == Status.TRANSLATION_FAULT


def test_a_node_that_dies_is_reported(nodes: Nodes) -> None:
    assert nodes.put(0, DOMAIN, nodes.gva(1), b"here")["status"] == Status.OK
    va, _ = nodes[0].stage(DOMAIN, 8)
    nodes.post(0, Op.WRITE, DOMAIN, src=va, dst=nodes.gva(1), length=8)
    nodes.fabric.carry()
    nodes.fabric.cut(1)
    nodes.run()  # it is sent again, and there is nobody
    rows = nodes[0].take_completions()
    assert rows["status"].tolist() == [Status.PEER_LOST]
    assert not rows["flags"][0] & CompletionFlags.DEFINITE


def test_many_requests_in_one_post(nodes: Nodes) -> None:
    count = 200
    va, view = nodes[0].stage(DOMAIN, 8 * count)
    values = np.arange(count, dtype=np.uint64) * 3
    view[:] = values.view(np.uint8)
    wrs = np.zeros(count, WORK_REQUEST)
    wrs["op"], wrs["pdid"], wrs["length"] = Op.WRITE, DOMAIN, 8
    wrs["wr_id"] = np.arange(count)
    wrs["src"] = va + 8 * np.arange(count)
    wrs["dst"] = nodes.gva(1) + 4096 * (np.arange(count) % 256) + 8
    wrs["flags"][-1] = WorkFlags.FENCE
    nodes[0].post(wrs)
    nodes[0].pump()
    nodes.run()
    rows = nodes[0].take_completions()
    assert sorted(rows["wr_id"]) == list(range(count))
    assert not rows["status"].any()
    for n in range(count):
        assert nodes[1].read_memory(DOMAIN, nodes.gva(1, 4096 * n + 8), 8) == values[n].tobytes()


def test_both_paths_agree() -> None:
    """The readable and the compiled path leave the same counters, times and events."""
    results = []
    for fast in (True, False):
        nodes = Nodes(2, fast=fast)
        for node in nodes.nodes:
            node.open_domain(DOMAIN)
        nodes[1].map_region(DOMAIN, nodes.gva(1), 1 << 20, 3, True)
        rows = [
            nodes.put(0, DOMAIN, nodes.gva(1, 100), b"q" * 50_000),
            nodes.get(0, DOMAIN, nodes.gva(1), 50_000)[0],
            nodes.put(0, DOMAIN, nodes.gva(1, 1 << 20), b"q"),
        ]
        results.append(
            (
                [row.tobytes() for row in rows],
                [node.counters() for node in nodes.nodes],
                list(nodes.log.lines()),
            )
        )
    assert results[0] == results[1]
    assert any('"kind":"fault_report"' in line for line in results[0][2])


# ---- one node alone


@pytest.fixture
def node() -> Node:
    return Node("n0", 0, memory_bytes=64 << 20)


def test_domains_are_opened_once(node: Node) -> None:
    asid = node.open_domain(5)
    assert node.open_domain(5) == asid
    assert node.open_domain(6) != asid
    assert node.pdids() == [5, 6]
    node.close_domain(5)
    assert node.pdids() == [6]
    for pdid in (0, -1, 1 << 16):
        with pytest.raises(ValueError, match="protection domain"):
            node.open_domain(pdid)


def test_regions_want_an_open_domain_and_sensible_arguments(node: Node) -> None:
    gva = 1 << 36
    with pytest.raises(ValueError, match="protection domain 5 has no process"):
        node.map_region(5, gva, PAGE, 3, True)
    node.open_domain(5)
    node.open_domain(6)
    node.map_region(5, gva, PAGE, 3, True)
    node.map_region(5, gva, PAGE, 3, True)
    with pytest.raises(ValueError, match="overlaps"):
        node.map_region(6, gva, PAGE, 3, True)
    with pytest.raises(ValueError, match="to share: there is none"):
        node.map_region(6, gva + PAGE, PAGE, 3, False)
    with pytest.raises(ValueError, match="rights 2"):
        node.map_region(6, gva, PAGE, 2, False)
    with pytest.raises(ValueError, match="in this node's window"):
        node.map_region(5, 2 << 36, PAGE, 3, True)
    with pytest.raises(MemoryError, match="bytes asked for"):
        node.map_region(5, gva + PAGE, 1 << 30, 3, True)
    node.unmap_region(gva + PAGE)
    node.unmap_region(gva, 77)


def test_private_memory_belongs_to_its_process(node: Node) -> None:
    node.open_domain(5)
    node.open_domain(6)
    va = node.map_memory(5, 100)
    node.write_memory(5, va, b"mine")
    with pytest.raises(KernelFault, match="process 6 cannot read"):
        node.read_memory(6, va, 4)
    assert node.map_memory(6, PAGE, va=va) == va
    assert node.read_memory(6, va, 4) == bytes(4)
    node.protect_memory(5, va, 100, 1)
    with pytest.raises(KernelFault, match="read-only"):
        node.write_memory(5, va, b"x")
    node.unmap_memory(5, va, 100)
    with pytest.raises(ValueError, match="nothing is mapped"):
        node.unmap_memory(5, va, 100)
    with pytest.raises(ValueError, match="has no process"):
        node.read_memory(9, va, 1)


def test_staging_is_memory_of_the_domain(node: Node) -> None:
    node.open_domain(5)
    va, view = node.stage(5, 300)
    view[:] = 7
    assert node.read_memory(5, va, 300) == b"\7" * 300
    with pytest.raises(ValueError, match="is a region, or a staging buffer"):
        node.unmap_memory(5, va & -PAGE, PAGE)
    node.unstage(5, va)
    with pytest.raises(ValueError, match="no staging buffer"):
        node.unstage(5, va)
    with pytest.raises(ValueError, match="protection domain 6 has no process on node n0"):
        node.stage(6, 8)
    node.close_domain(5)
    node.unstage(5, va)  # went with its domain


def test_an_idle_node_is_small(node: Node) -> None:
    assert node.resident_bytes() < 1 << 20
    assert node.now_ps == 600_000, "six polls of the first TLB sync"
    assert node.take_frames() == []
    assert len(node.take_completions()) == 0
    node.close()


def test_a_platform_without_a_network_interface_is_no_node() -> None:
    bare = load("zynqmp").model_copy(update={"pl": load("zynqmp").pl.model_copy(update={"masters": ()})})
    with pytest.raises(ValueError, match="node n0: platform zynqmp has no RDMA network interface"):
        Node("n0", 0, platform=bare, memory_bytes=16 << 20)


# ---- page faults, and what the reliable interface can do


def test_a_fault_policy_is_a_nodes_own_and_its_faults_are_in_the_event_log(nodes: Nodes) -> None:
    assert nodes[1].fault_policy == "abort"
    lazy = nodes.gva(1, 8 << 20)
    nodes[1].kernel.regions.create(nodes[1].kernel.process(DOMAIN), lazy, 4 * PAGE, 3, lazy=True)
    assert nodes.put(0, DOMAIN, lazy, b"early")["status"] == Status.TRANSLATION_FAULT
    nodes[1].set_fault_policy("touch_ahead:2")
    assert (nodes[0].fault_policy, nodes[1].fault_policy) == ("abort", "touch_ahead:2")
    assert nodes.put(0, DOMAIN, lazy, b"later")["status"] == Status.OK
    assert nodes[1].read_memory(DOMAIN, lazy, 5) == b"later"
    (row,) = [row for row in nodes.log.rows if row.kind == "page_fault"]
    assert row.node == "n1"
    assert (row.fields["outcome"], row.fields["fault_kind"], row.fields["minor"]) == ("resolved", "minor", 2)
    assert (row.fields["va"], row.fields["policy"]) == (lazy, "touch_ahead:2")
    assert row.time_ps > row.fields["faulted_ps"]
    assert nodes[1].counters()["kernel_fault_resolved"] == 1
    with pytest.raises(ValueError, match="there is no fault policy 'hope'"):
        nodes[1].set_fault_policy("hope")
    with pytest.raises(ValueError, match="there is no fault policy"):
        Node("n9", 9, memory_bytes=16 << 20, policy="hope")


def test_a_request_that_waits_for_a_page_can_be_cancelled(nodes: Nodes) -> None:
    nodes[0].set_fault_policy("touch_a_page")
    va = nodes[0].kernel.process(DOMAIN).map(PAGE, lazy=True)
    number = nodes.post(0, Op.WRITE, DOMAIN, src=va, dst=nodes.gva(1), length=8)
    assert nodes[0].cancel(number)
    assert not nodes[0].cancel(number)
    rows = nodes[0].take_completions()
    assert rows["status"].tolist() == [Status.CANCELLED]
    assert rows["flags"][0] & CompletionFlags.DEFINITE  # it never left
    nodes.run()
    assert nodes[1].read_memory(DOMAIN, nodes.gva(1), 8) == bytes(8)


def test_an_authority_ends_what_waits_for_a_peer(nodes: Nodes) -> None:
    va, _ = nodes[0].stage(DOMAIN, 8)
    nodes.post(0, Op.WRITE, DOMAIN, src=va, dst=nodes.gva(1), length=8)
    nodes.fabric.carry()
    nodes[0].peer_gone(1, "it left")
    assert nodes[0].take_completions()["status"].tolist() == [Status.PEER_LOST]


def test_time_outs_are_on_the_clock_that_is_given() -> None:
    clock = [5_000]
    node = Node("n0", 0, memory_bytes=16 << 20, timer=lambda: clock[0])
    assert node.timer_ps is None
    asked: list[str] = []
    node.wake = lambda: asked.append("turn")
    assert node.wake is not None
    node.open_domain(DOMAIN)
    node.set_routes([(0, "n0", 1 << 36, 1 << 36, 1, 1), (1, "n1", 2 << 36, 1 << 36, 1, 1)])
    va, _ = node.stage(DOMAIN, 8)
    wr = np.zeros(1, WORK_REQUEST)
    for name, value in {"op": Op.WRITE, "pdid": DOMAIN, "src": va, "dst": 2 << 36, "length": 8}.items():
        wr[name] = value
    node.post(wr)
    node.pump()
    node.take_frames()
    due = node.timer_ps
    assert due is not None
    assert due > 5_000
    clock[0] = due + node.ni.spec.rto_first_ps
    node.on_timer()
    node.pump()
    assert len(node.take_frames()) == 1, "sent again"


def test_a_node_that_is_closed_while_its_kernel_is_at_work(nodes: Nodes) -> None:
    """The scheduler is shared and goes on; the memory is gone."""
    nodes[1].set_fault_policy("touch_a_page")
    lazy = nodes.gva(1, 8 << 20)
    nodes[1].kernel.regions.create(nodes[1].kernel.process(DOMAIN), lazy, PAGE, 3, lazy=True)
    va, _ = nodes[0].stage(DOMAIN, 8)
    nodes.post(0, Op.WRITE, DOMAIN, src=va, dst=lazy, length=8)
    nodes.fabric.carry()
    while not nodes[1].kernel.fault_log:
        nodes.scheduler.step()
    nodes.fabric.cut(1)
    nodes[1].close()
    nodes.run()
    assert nodes[0].take_completions()["status"].tolist() == [Status.PEER_LOST]
