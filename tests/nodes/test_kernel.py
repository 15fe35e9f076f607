"""The kernel as a whole: processes come and go, interrupts are taken or held, nothing is left behind."""

from __future__ import annotations

import pytest

from unimem_node.kernel import Kernel
from unimem_node.kernel.frames import BLOCK, PAGE
from unimem_node.kernel.kernel import KEPT_FAULTS
from unimem_node.mmu.regime import ACCESS_WRITE
from unimem_node.mpsoc.node import KERNEL_BYTES, boot
from unimem_node.mpsoc.soc import Mpsoc


@pytest.fixture
def chip() -> tuple[Mpsoc, Kernel]:
    soc = Mpsoc(memory_bytes=64 << 20)
    return soc, boot(soc)


def test_processes_are_found_by_their_domain(chip: tuple[Mpsoc, Kernel]) -> None:
    _, kernel = chip
    seven, eight, other = kernel.spawn(7), kernel.spawn(8), kernel.spawn()
    assert kernel.process(7) is seven
    assert kernel.find(9) is None
    assert kernel.processes() == [seven, eight, other]
    assert len({seven.asid, eight.asid, other.asid}) == 3
    with pytest.raises(ValueError, match="protection domain 7 has a process already"):
        kernel.spawn(7)
    with pytest.raises(ValueError, match="protection domain 9 has no process on this node"):
        kernel.process(9)
    for pdid in (-1, 1 << 16):
        with pytest.raises(ValueError, match="not in 1 to 65535"):
            kernel.spawn(pdid)
    kernel.exit(seven)
    assert kernel.find(7) is None
    assert kernel.spawn(7).asid != seven.asid


def test_the_end_of_a_process_leaves_nothing_behind(chip: tuple[Mpsoc, Kernel]) -> None:
    soc, kernel = chip
    free = kernel.frames.free_bytes
    process = kernel.spawn(7)
    va = process.map(3 * BLOCK + PAGE)
    process.write(va, b"x" * BLOCK)
    assert kernel.regions is not None
    kernel.regions.create(process, 1 << 36, 5 * PAGE, 3)
    kernel.smmu.attach(0x14E8, 0, process)
    assert kernel.rdma is not None
    kernel.rdma.attach(process)
    soc.smmu.translate(0x14E8, va, 0)
    resident = soc.memory.resident_bytes()
    kernel.exit(process)
    assert kernel.frames.free_bytes == free
    assert soc.memory.resident_bytes() < resident - BLOCK + PAGE
    assert kernel.smmu.banks() == []
    assert kernel.smmu.free_match_groups == kernel.smmu.match_groups
    assert len(kernel.regions) == 0
    assert kernel.counters()["kernel_processes"] == 0


def test_the_kernels_own_memory_is_never_given_away(chip: tuple[Mpsoc, Kernel]) -> None:
    _, kernel = chip
    extents = kernel.frames.extents(kernel.frames.free_bytes)
    assert min(pa for pa, _ in extents) == KERNEL_BYTES
    assert sum(n for _, n in extents) == (64 << 20) - KERNEL_BYTES


def test_memory_on_both_sides_of_the_hole_is_used() -> None:
    kernel = boot(Mpsoc(memory_bytes=4 << 30))
    assert kernel.frames.total_bytes == (4 << 30) - KERNEL_BYTES
    process = kernel.spawn()
    va = process.map(3 << 30)
    pas = {extent.pa >> 31 for extent in process.extents(va, 3 << 30)}
    assert pas == {0, 0x10}
    process.write(va + (3 << 30) - 4, b"last")
    kernel.exit(process)


def test_a_tiny_board_boots() -> None:
    kernel = boot(Mpsoc(memory_bytes=256 << 10))
    process = kernel.spawn(1)
    process.write(process.map(PAGE), b"fits")
    with pytest.raises(MemoryError, match="1048576 bytes asked for"):
        process.map(1 << 20)


def test_fault_reports_are_kept_told_and_limited(chip: tuple[Mpsoc, Kernel]) -> None:
    soc, kernel = chip
    process = kernel.spawn(7)
    kernel.smmu.attach(0x14E8, 0, process)
    told: list[int] = []
    kernel.on_fault = lambda report: told.append(report.number)
    for n in range(KEPT_FAULTS + 5):
        soc.smmu.translate(0x14E8, 0x5000 + n * PAGE, ACCESS_WRITE)
    assert told == list(range(1, KEPT_FAULTS + 6))
    assert len(kernel.faults) == KEPT_FAULTS
    assert (kernel.faults[0].number, kernel.faults[-1].number) == (6, KEPT_FAULTS + 5)
    assert kernel.faults[-1].stream_name == "fpd0"
    assert kernel.counters()["kernel_faults"] == KEPT_FAULTS + 5


def test_interrupts_off_holds_them_until_they_are_on(chip: tuple[Mpsoc, Kernel]) -> None:
    soc, kernel = chip
    process = kernel.spawn()
    va = process.map(2 * PAGE)
    kernel.smmu.attach(0x14E8, 0, process)
    with kernel.interrupts_off():
        request = kernel.dma["fpd0"].submit(va, va + PAGE, 64)
        refused = kernel.dma["fpd0"].submit(va, 0x9000_0000, 64)
        soc.run()
        assert not request.done  # the engine is, but nobody has looked
        assert soc.interrupts.pending() == [124]
    soc.run()
    assert request.ok
    assert refused.error == "AXI_WR_DATA"
    assert len(kernel.faults) == 1
    assert soc.interrupts.pending() == []


def test_an_interrupt_without_a_driver_is_ignored(chip: tuple[Mpsoc, Kernel]) -> None:
    soc, _ = chip
    line = soc.interrupts.line(100)
    line.set(True)
    assert soc.interrupts.pending() == [100]
    line.set(False)


def test_a_chip_without_a_network_interface_has_no_window() -> None:
    kernel = boot(Mpsoc(memory_bytes=16 << 20, pl_masters=[]))
    assert kernel.rdma is None
    process = kernel.spawn(1)
    with pytest.raises(ValueError, match="in this node's window"):
        kernel.regions.create(process, 1 << 36, PAGE, 3)
    kernel.exit(process)
    assert "kernel_pd_attached" not in kernel.counters()


def test_two_nodes_with_equal_numbers_stay_apart() -> None:
    """Same stream, ASID and address, other tables (N22)."""
    chips = [Mpsoc(memory_bytes=16 << 20, name=f"n{i}", index=i) for i in range(2)]
    processes = []
    for soc in chips:
        kernel = boot(soc)
        process = kernel.spawn(7)
        process.map((soc.index + 1) * PAGE, va=0x5000)
        kernel.smmu.attach(0x14E8, 0, process)
        processes.append(process)
    assert processes[0].asid == processes[1].asid
    results = [soc.smmu.translate(0x14E8, 0x6000, 0) for soc in chips]
    assert [type(result).__name__ for result in results] == ["Fault", "Translation"]
