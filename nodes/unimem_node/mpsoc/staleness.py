"""E3b: why E3 gives stale or intermittent results, each cause shown with its cure, on one chip.

E3 (arXiv 2511.19258) lets an engine walk a process' own page tables. What the CPU last stored is then not
what the engine meets when

* a descriptor is still in the CPU's cache: the SMMU's walks do not ask it (IDR0.CTTW = 0). Cure: clean it. It
  also goes to memory by itself when other lines take its place, so that the result depends on traffic;
* the engine's accesses pass behind the cache: SMMU_CBn_MAIR says another memory type than the CPU's MAIR, or
  the port does not lead through the cache coherent interconnect. Cure: the same MAIR, a coherent port, or
  cleaning what the engine reads and invalidating what it wrote;
* a TLB still has the old descriptor (N14): nobody invalidated it, or nobody waited until that was done. Cure:
  TLBI, and TLBSYNC until TLBSTATUS says so.

Each function runs an engine without the cure and with it; its row is ok when the first goes wrong as it must
and the second does not. The first two causes need a chip whose platform models the cache
(`Platform.with_cache`). Everything here does by hand what the kernel's own code does for every mapping.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Final

from unimem.addresses import fmt
from unimem_node.kernel import smmu_registers as reg
from unimem_node.kernel.dma_drivers import DmaRequest, Driver
from unimem_node.kernel.frames import PAGE
from unimem_node.kernel.kernel import Kernel
from unimem_node.kernel.processes import Process
from unimem_node.memory import WriteBackCache
from unimem_node.mmu.descriptors import level_shift
from unimem_node.mpsoc.names import tbu_of
from unimem_node.mpsoc.scenario_run import Run, ScenarioRow, outcome_of, pl_engine, stream_of, transfer
from unimem_node.mpsoc.soc import Mpsoc

#: Pages that a scenario moves.
_PAGES: Final = 8
_LENGTH: Final = _PAGES * PAGE
_ADDRESS: Final = 0xFFFF_FFFF_F000  # of a descriptor
_NORMAL_NON_CACHEABLE: Final = 0x44  # MAIR


def descriptor_address(process: Process, soc: Mpsoc, va: int) -> int:
    """Return where the level-3 descriptor of `va` is, as the CPU's own walk finds it."""
    table = process.table.root
    for level in range(3):
        table = soc.bus.read64(_slot(table, va, level)) & _ADDRESS
    return _slot(table, va, 3)


def _slot(table: int, va: int, level: int) -> int:
    return table + 8 * (va >> level_shift(level) & 511)


@dataclass(frozen=True, slots=True)
class _Stage:
    """A process whose tables an engine walks, and a buffer to copy from, filled."""

    soc: Mpsoc
    kernel: Kernel
    driver: Driver
    process: Process
    bank: int
    source: int
    data: bytes

    def copy(self, destination: int) -> tuple[DmaRequest, bool]:
        """Let the engine copy; returns its request, and whether the CPU then sees the bytes there."""
        request = transfer(self.soc, self.driver, self.source, destination, _LENGTH)
        return request, self.process.read(destination, _LENGTH) == self.data

    def refill(self, text: str) -> _Stage:
        """Fill the source with other bytes."""
        data = self.soc.random(text).randbytes(_LENGTH)
        self.process.write(self.source, data)
        return _Stage(self.soc, self.kernel, self.driver, self.process, self.bank, self.source, data)

    def bank_page(self) -> int:
        """Return the address of the context bank's registers."""
        return self.kernel.smmu.banks()[0].page

    def row(
        self,
        run: Run,
        title: str,
        cause: str,
        stale: tuple[DmaRequest, bool],
        cure: str,
        cured: tuple[DmaRequest, bool],
    ) -> ScenarioRow:
        """Make the row: the first copy must not be right, the second must."""
        before, after = outcome_of(*stale), outcome_of(*cured)
        return run.row(
            scenario="E3b",
            title=title,
            supplied=f"a process' own; {cause}",
            smmu=run.walked(stream_of(self.driver), self.bank),
            outcome=f"{before}; {cure}: {after}",
            ok=not (stale[0].ok and stale[1]) and cured[0].ok and cured[1],
        )


@contextmanager
def _stage(soc: Mpsoc, kernel: Kernel, driver: Driver | None = None) -> Iterator[_Stage]:
    driver = driver or pl_engine(kernel)
    process = kernel.spawn()
    try:
        source = process.map(_LENGTH)
        bank = kernel.smmu.attach(stream_of(driver), 0, process)
        yield _Stage(soc, kernel, driver, process, bank, source, b"").refill("E3b")
    finally:
        kernel.exit(process)


@contextmanager
def _left_in_cache(kernel: Kernel) -> Iterator[None]:
    """The kernel forgets to clean page tables."""
    tables = kernel.smmu.tables
    before, tables.clean = tables.clean, False
    try:
        yield
    finally:
        tables.clean = before


def _cache_of(soc: Mpsoc) -> WriteBackCache:
    if soc.cache is None:
        raise ValueError(
            f"platform {soc.platform.name} models no CPU cache, and without one every store is in memory at "
            "once: give it a table [cpu.write_back_cache], or use Platform.with_cache"
        )
    return soc.cache


def e3b_descriptor_in_cache(soc: Mpsoc, kernel: Kernel) -> ScenarioRow:
    """E3b, first cause: new descriptors are in the CPU's cache only, and the walk finds none in memory."""
    _cache_of(soc)
    with _stage(soc, kernel) as stage:
        with _left_in_cache(kernel):
            destination = stage.process.map(_LENGTH)
        run = Run(soc, kernel)
        stale = stage.copy(destination)
        first = descriptor_address(stage.process, soc, destination)
        soc.bus.clean(first, 8 * _PAGES)
        cured = stage.copy(destination)
        return stage.row(
            run,
            "descriptors still in the CPU's cache",
            f"{fmt(destination)} mapped, its descriptors at {fmt(first)} not cleaned",
            stale,
            "cleaned",
            cured,
        )


def e3b_descriptor_changed_in_cache(soc: Mpsoc, kernel: Kernel) -> ScenarioRow:
    """E3b, first cause: a page has moved, TLBs are invalidated, but the walk finds the old descriptor."""
    _cache_of(soc)
    with _stage(soc, kernel) as stage, _moved(stage) as move:
        run = Run(soc, kernel)
        move.change(move.others)
        kernel.smmu.invalidate(stage.process.asid, move.va, _LENGTH)
        stale = stage.copy(move.va)
        soc.bus.clean(move.descriptors, 8 * _PAGES)
        kernel.smmu.invalidate(stage.process.asid, move.va, _LENGTH)
        cured = stage.copy(move.va)
        return stage.row(
            run,
            "changed descriptors still in the CPU's cache",
            f"{fmt(move.va)} moved to other frames, TLBs invalidated, descriptors not cleaned",
            stale,
            "cleaned and invalidated again",
            cured,
        )


def e3b_intermittent(soc: Mpsoc, kernel: Kernel) -> ScenarioRow:
    """E3b, first cause: nobody cleans, but other lines push the descriptors out: sooner or later it works."""
    cache = _cache_of(soc)
    size = -(-cache.lines * cache.line_bytes // PAGE) * PAGE
    traffic = kernel.frames.run(size)
    try:
        with _stage(soc, kernel) as stage:
            with _left_in_cache(kernel):
                destination = stage.process.map(_LENGTH)
            first = descriptor_address(stage.process, soc, destination)
            run = Run(soc, kernel)
            lines = cache.lines // 2
            for line in range(lines):
                soc.bus.read(traffic + line * cache.line_bytes, 1)
            stale = transfer(soc, stage.driver, stage.source, destination, _LENGTH), False
            while cache.state(first) != "absent":
                soc.bus.read(traffic + lines * cache.line_bytes, 1)
                lines += 1
            cured = stage.copy(destination)
            return stage.row(
                run,
                "descriptors evicted by other traffic",
                f"{fmt(destination)} mapped, its descriptors not cleaned; the CPU then reads other lines",
                stale,
                f"after {lines} lines, of a cache of {cache.lines}",
                cured,
            )
    finally:
        kernel.frames.free(traffic, size)


def e3b_other_memory_type(soc: Mpsoc, kernel: Kernel) -> ScenarioRow:
    """E3b, second cause: the bank's MAIR says non-cacheable where the CPU's mapping is write-back."""
    _cache_of(soc)
    with _stage(soc, kernel) as stage:
        destination = stage.process.map(_LENGTH)
        run = Run(soc, kernel)
        mair0 = stage.bank_page() + reg.MAIR0
        soc.bus.write32(mair0, reg.MAIR0_VALUE & ~0xFF00 | _NORMAL_NON_CACHEABLE << 8)
        stale = stage.copy(destination)
        soc.bus.write32(mair0, reg.MAIR0_VALUE)
        kernel.smmu.invalidate(stage.process.asid, 0, 1 << 32)  # the memory type is in the TLBs too
        cured = stage.copy(destination)
        return stage.row(
            run,
            "a MAIR that differs from the CPU's",
            "Attr1 non-cacheable in the bank, write-back for the CPU",
            stale,
            "with the same MAIR",
            cured,
        )


def e3b_buffer_not_cleaned(soc: Mpsoc, kernel: Kernel) -> ScenarioRow:
    """E3b, second cause: a port that leads past the interconnect needs its buffers cleaned, by any MAIR."""
    _cache_of(soc)
    driver = past_the_cache(soc, kernel)
    with _stage(soc, kernel, driver) as stage:
        destination = stage.process.map(_LENGTH)
        run = Run(soc, kernel)
        stale = stage.copy(destination)
        stage.process.sync_for_device(stage.source, _LENGTH)
        stage.process.sync_for_device(destination, _LENGTH)
        request = transfer(soc, driver, stage.source, destination, _LENGTH)
        stage.process.sync_for_cpu(destination, _LENGTH)
        cured = request, stage.process.read(destination, _LENGTH) == stage.data
        return stage.row(
            run,
            "a port that does not snoop",
            f"{driver.node.name} behind TBU {tbu_of(stream_of(driver))}, buffers written and read by the CPU",
            stale,
            "source cleaned, destination invalidated",
            cured,
        )


def past_the_cache(soc: Mpsoc, kernel: Kernel) -> Driver:
    """Return an engine whose TBU does not drain into the interconnect; raises `ValueError`."""
    for driver in kernel.dma.values():
        stream = driver.node.stream_id
        if stream is not None and tbu_of(stream) not in soc.platform.cpu.coherent_tbus:
            return driver
    raise ValueError(f"platform {soc.platform.name}: every DMA engine is behind a coherent TBU")


def e3b_missing_invalidation(soc: Mpsoc, kernel: Kernel) -> ScenarioRow:
    """E3b, third cause (N14): descriptors have changed, in memory too, but TLBs still have the old ones."""
    with _stage(soc, kernel) as stage, _moved(stage) as move:
        run = Run(soc, kernel)
        move.change(move.others)
        soc.bus.clean(move.descriptors, 8 * _PAGES)
        stale = stage.copy(move.va)
        kernel.smmu.invalidate(stage.process.asid, move.va, _LENGTH)
        cured = stage.copy(move.va)
        return stage.row(
            run,
            "no TLB invalidation",
            f"{fmt(move.va)} moved to other frames, nobody told the SMMU",
            stale,
            "invalidated and synchronised",
            cured,
        )


def e3b_missing_sync(soc: Mpsoc, kernel: Kernel) -> ScenarioRow:
    """E3b, third cause: TLB invalidations are on their way, and the engine starts before they are done."""
    with _stage(soc, kernel) as stage, _moved(stage) as move:
        page = stage.bank_page()

        def change(frames: int) -> None:
            move.change(frames)
            soc.bus.clean(move.descriptors, 8 * _PAGES)
            for va in range(move.va, move.va + _LENGTH, PAGE):
                soc.bus.write64(page + reg.TLBIVA, stage.process.asid << reg.TTBR_ASID_SHIFT | va >> 12)

        run = Run(soc, kernel)
        change(move.others)
        stale = stage.copy(move.va)
        arrived = stage.process.read(move.va, _LENGTH)
        new = sum(arrived[at : at + PAGE] == stage.data[at : at + PAGE] for at in range(0, _LENGTH, PAGE))
        stage.copy(move.va)  # by now they are done; every TLB entry is in use again
        change(move.frames)
        again = stage.refill("E3b, back")
        soc.bus.write32(page + reg.TLBSYNC, 0)
        while soc.bus.read32(page + reg.TLBSTATUS) & 1:
            pass
        cured = again.copy(move.va)
        return stage.row(
            run,
            "no TLB sync",
            f"{fmt(move.va)} moved to other frames, {_PAGES} invalidations begun, {new} done when it ran",
            stale,
            "moved back and synchronised",
            cured,
        )


class _Move:
    """A mapped buffer that the engine has used once, and `others`: frames that it may move to."""

    def __init__(self, stage: _Stage) -> None:
        self._bus = stage.soc.bus
        self.va = stage.process.map(_LENGTH, contiguous=True)
        self.frames = stage.process.extents(self.va, _LENGTH)[0].pa
        self.others = stage.kernel.frames.run(_LENGTH)
        self.descriptors = descriptor_address(stage.process, stage.soc, self.va)
        stage.copy(self.va)

    def change(self, frames: int) -> None:
        """Lead the pages to `frames`: stores to the table, and nothing else."""
        for n in range(_PAGES):
            rest = self._bus.read64(self.descriptors + 8 * n) & ~_ADDRESS
            self._bus.write64(self.descriptors + 8 * n, frames + n * PAGE | rest)


@contextmanager
def _moved(stage: _Stage) -> Iterator[_Move]:
    move = _Move(stage)
    try:
        yield move
    finally:
        stage.kernel.smmu.detach_all(stage.process.asid)  # before the other frames are free
        stage.kernel.frames.free(move.others, _LENGTH)


Scenario = Callable[[Mpsoc, Kernel], ScenarioRow]
#: What needs a modelled cache ...
BEHIND_THE_CACHE: Final[tuple[Scenario, ...]] = (
    e3b_descriptor_in_cache,
    e3b_descriptor_changed_in_cache,
    e3b_intermittent,
    e3b_other_memory_type,
    e3b_buffer_not_cleaned,
)
#: ... and what every chip shows.
STALE_TLB: Final[tuple[Scenario, ...]] = (e3b_missing_invalidation, e3b_missing_sync)


def staleness(soc: Mpsoc, kernel: Kernel) -> list[ScenarioRow]:
    """Run E3b: everything with a modelled cache, otherwise what stale TLBs do."""
    scenarios = STALE_TLB if soc.cache is None else (*BEHIND_THE_CACHE, *STALE_TLB)
    return [scenario(soc, kernel) for scenario in scenarios]
