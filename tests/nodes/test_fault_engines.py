"""The chip's own DMA engines and page faults: under `stall` they wait for their pages, else they fail."""

from __future__ import annotations

import pytest

from unimem_node.kernel import Kernel, Process
from unimem_node.kernel.fault_policy import FaultPolicy
from unimem_node.mpsoc.node import boot
from unimem_node.mpsoc.soc import Mpsoc

PAGE = 4096
FPD, FPD_1, CDMA = 0x14E8, 0x14E9, 0x200


class Chip:
    """A chip, its kernel, and a process whose tables the engines' streams lead to."""

    def __init__(self, policy: str, memory_bytes: int = 64 << 20) -> None:
        self.soc = Mpsoc(memory_bytes=memory_bytes)
        self.kernel: Kernel = boot(self.soc)
        self.kernel.set_fault_policy(FaultPolicy.parse(policy))
        self.process: Process = self.kernel.spawn(7)
        for stream in (FPD, FPD_1, CDMA):
            self.kernel.smmu.attach(stream, 0, self.process)

    def outcomes(self) -> list[str]:
        return [event.outcome for event in self.kernel.fault_log]


@pytest.mark.parametrize("engine", ["fpd0", "cdma0"])
@pytest.mark.parametrize("policy", ["stall", "stall:hupcf"])
def test_an_engine_waits_for_each_page_of_its_source_and_destination(engine: str, policy: str) -> None:
    chip = Chip(policy)
    source = chip.process.map(3 * PAGE, lazy=True)
    chip.process.write(source, b"s" * 3 * PAGE)
    chip.process.madvise(source + PAGE, PAGE, "PAGEOUT")
    target = chip.process.map(3 * PAGE, lazy=True)
    request = chip.kernel.dma[engine].submit(source, target, 3 * PAGE)
    chip.soc.run()
    assert request.ok, request.error
    assert chip.process.read(target, 3 * PAGE) == b"s" * 3 * PAGE
    kinds = sorted(event.kind for event in chip.kernel.fault_log)
    assert kinds == ["major", "minor", "minor", "minor"]
    assert chip.outcomes() == ["resolved"] * 4
    assert chip.soc.now_ns > 60_000 + 4 * 34_000
    assert chip.kernel.page_faults.idle


def test_what_is_gone_ends_a_stalled_transfer() -> None:
    chip = Chip("stall")
    source = chip.process.map(2 * PAGE)
    target = chip.process.map(PAGE, lazy=True)  # and nothing behind it
    request = chip.kernel.dma["fpd0"].submit(source, target, 2 * PAGE)
    chip.soc.run()
    assert request.done
    assert request.error == "AXI_WR_DATA"
    assert chip.outcomes() == ["resolved", "gone"]
    assert chip.soc.interrupts.pending() == []


def test_two_engines_of_a_process_wait_together_and_both_come_through() -> None:
    chip = Chip("stall")
    source = chip.process.map(2 * PAGE)
    chip.process.write(source, b"x" * 2 * PAGE)
    first, second = (chip.process.map(2 * PAGE, lazy=True) for _ in range(2))
    requests = [
        chip.kernel.dma["fpd0"].submit(source, first, 2 * PAGE),
        chip.kernel.dma["fpd1"].submit(source, second, 2 * PAGE),
    ]
    chip.soc.run()
    assert [request.error for request in requests] == ["", ""]
    for target in (first, second):
        assert chip.process.read(target, 2 * PAGE) == b"x" * 2 * PAGE


def test_an_engine_that_cannot_wait_fails_at_an_absent_page() -> None:
    chip = Chip("touch_a_page")
    source, target = chip.process.map(PAGE), chip.process.map(PAGE, lazy=True)
    request = chip.kernel.dma["fpd0"].submit(source, target, PAGE)
    chip.soc.run()
    assert request.error == "AXI_WR_DATA"
    assert chip.outcomes() == ["aborted"]
    assert chip.soc.interrupts.pending() == []


def test_memory_that_does_not_suffice_ends_the_transfer() -> None:
    chip = Chip("stall", memory_bytes=4 << 20)
    source = chip.process.map(PAGE)
    target = chip.process.map(PAGE, lazy=True)
    chip.kernel.paging.set_watermarks(0, 0)
    hog = chip.kernel.frames.extents(chip.kernel.frames.free_bytes)
    request = chip.kernel.dma["fpd0"].submit(source, target, PAGE)
    chip.soc.run()
    assert request.error == "AXI_WR_DATA"
    assert chip.outcomes() == ["out_of_memory"]
    chip.kernel.frames.free_all(hog)


def test_a_stale_entry_that_no_page_cures_ends_instead_of_going_round_for_ever() -> None:
    """The kernel forgets to invalidate: read-only in the TLB, writable in the table, each retry faults."""
    chip = Chip("stall")
    source = chip.process.map(PAGE)
    target = chip.process.map(PAGE, lazy=True)
    child_of = chip.process.map(PAGE, lazy=True)
    chip.process.write(child_of, b"shared")
    chip.process.fork()
    request = chip.kernel.dma["fpd0"].submit(child_of, target, PAGE)  # the TLB learns: read-only
    chip.soc.run()
    assert request.ok
    chip.kernel.paging.forget_invalidations = True
    request = chip.kernel.dma["fpd0"].submit(source, child_of, PAGE)
    chip.soc.run()
    assert request.error == "AXI_WR_DATA"
    assert chip.outcomes()[-1] == "no_progress"
    assert chip.outcomes().count("resolved") == 1 + chip.kernel.timing.progress_rounds
    assert chip.kernel.fault_log[-2].kind == "spurious"


def test_a_process_that_ends_while_its_engine_waits() -> None:
    chip = Chip("stall")
    source, target = chip.process.map(PAGE), chip.process.map(PAGE, lazy=True)
    request = chip.kernel.dma["fpd0"].submit(source, target, PAGE)
    while not chip.kernel.fault_log:
        chip.soc.scheduler.step()
    chip.kernel.exit(chip.process)
    chip.soc.run()
    assert request.error == "AXI_WR_DATA"
    assert chip.outcomes() == ["dropped"]
    assert chip.kernel.page_faults.idle
    assert chip.kernel.smmu.banks() == []


def test_a_static_domain_never_stalls() -> None:
    chip = Chip("stall")
    domain = chip.kernel.smmu.attach_static(0x14EA)
    request = chip.kernel.dma["fpd2"].submit(0x5000, 0x6000, 64)
    chip.soc.run()
    assert request.error
    assert chip.outcomes() == []
    domain.detach()


def test_a_copy_larger_than_memory_goes_through_swap() -> None:
    """Reclaim takes pages while the engine runs; it waits for each, and no byte is lost."""
    chip = Chip("stall", memory_bytes=1 << 20)
    length = 100 * PAGE
    source, target = (chip.process.map(length, lazy=True) for _ in range(2))
    for page in range(100):
        chip.process.write(source + page * PAGE, page.to_bytes(4, "little") * (PAGE // 4))
    request = chip.kernel.dma["fpd0"].submit(source, target, length)
    chip.soc.run()
    assert request.ok, request.error
    for page in range(100):
        assert chip.process.read(target + page * PAGE, PAGE) == page.to_bytes(4, "little") * (PAGE // 4)
    counters = chip.kernel.counters()
    assert counters["kernel_paging_swapped_out"] > 50
    assert counters["kernel_fault_major"] > 0
    assert counters["kernel_fault_no_progress"] == 0
