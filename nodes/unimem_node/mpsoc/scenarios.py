"""The thesis' scenarios on one chip, and what it refuses: functions that return a row of a table each.

E1, E2 and E3 are those of arXiv 2511.19258: a DMA engine given virtual addresses, mapped for it beforehand
(*static*: the SMMU's own tables) or not at all (*dynamic*: the context bank walks the tables of a user
process). E4, E4b and E15 are what the SMMU and its driver refuse. Every function takes a chip and the kernel
booted on it, leaves both as it found them, and proves its row with counters read before and after.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable
from typing import Final

from unimem.addresses import fmt
from unimem_node.kernel import smmu_registers as reg
from unimem_node.kernel.board import AXI_ID_MASK
from unimem_node.kernel.context_bank import NoContextBank, NoStreamMatch, SmmuError
from unimem_node.kernel.dma_drivers import Driver
from unimem_node.kernel.frames import PAGE
from unimem_node.kernel.kernel import Kernel
from unimem_node.kernel.processes import READ, Process
from unimem_node.mpsoc.scenario_run import (
    LENGTH,
    Run,
    ScenarioRow,
    free_port_streams,
    idle_engines,
    outcome_of,
    pl_engine,
    stream_of,
    transfer,
)
from unimem_node.mpsoc.soc import Mpsoc

__all__ = ["REFUSALS", "THESIS", "Scenario", "ScenarioRow", "refusals", "thesis"]

_SOURCE_IOVA: Final = 0x4000_0000
_DESTINATION_IOVA: Final = 0x5000_0000


def e1_ps_static(soc: Mpsoc, kernel: Kernel) -> ScenarioRow:
    """E1: a DMA engine of the PS, addresses mapped beforehand in the SMMU's own tables."""
    return _static("E1", "PS DMA, mapped beforehand", soc, kernel, kernel.dma[kernel.board.zdma[0].name])


def e2_pl_static(soc: Mpsoc, kernel: Kernel) -> ScenarioRow:
    """E2: a DMA engine in the PL, addresses mapped beforehand in the SMMU's own tables."""
    return _static("E2", "PL DMA, mapped beforehand", soc, kernel, pl_engine(kernel))


def e3_pl_dynamic(soc: Mpsoc, kernel: Kernel) -> ScenarioRow:
    """E3: a DMA engine in the PL, TTBR0 = the tables of a user process; nothing is mapped for the engine."""
    driver = pl_engine(kernel)
    stream = stream_of(driver)
    process = kernel.spawn()
    try:
        source, destination = process.map(LENGTH), process.map(LENGTH)
        data = soc.random("E3").randbytes(LENGTH)
        process.write(source, data)
        bank = kernel.smmu.attach(stream, 0, process)
        run = Run(soc, kernel)
        request = transfer(soc, driver, source, destination)
        equal = process.read(destination, LENGTH) == data
        return run.row(
            scenario="E3",
            title="PL DMA, user process' page tables",
            supplied=f"a process' own; TTBR0 = its table, {fmt(process.table.root)}, ASID {process.asid}",
            smmu=run.walked(stream, bank),
            outcome=outcome_of(request, equal),
            ok=request.ok and equal and run.grown("walks") > 0 and run.grown("faults") == 0,
        )
    finally:
        kernel.exit(process)


def e4_unmapped(soc: Mpsoc, kernel: Kernel) -> ScenarioRow:
    """E4: writes that run into an unmapped page are terminated there; a second fault leaves FAR alone."""
    first, second = idle_engines(kernel, 2)
    process = kernel.spawn()
    try:
        source, destination = process.map(2 * PAGE), process.map(PAGE)
        data = soc.random("E4").randbytes(2 * PAGE)
        process.write(source, data)
        for driver in (first, second):
            kernel.smmu.attach(stream_of(driver), 0, process)
        run = Run(soc, kernel)
        with kernel.interrupts_off():  # so that the second fault meets the first one's record
            request = first.submit(source, destination, 2 * PAGE)
            soc.run()
            later = second.submit(source, destination + 2 * PAGE, 8)
            soc.run()
        reports = run.reports()
        kept = len(reports) == 1 and reports[0].multiple and reports[0].iova == destination + PAGE
        before_it = process.read(destination, PAGE) == data[:PAGE]
        return run.row(
            scenario="E4",
            title="write to an unmapped page",
            supplied=f"{fmt(destination)} of a process, of which only {PAGE} bytes are mapped",
            smmu="terminated: FSR.TF; a second fault set MULTI, FAR kept the first address",
            outcome=f"{first.node.name}: {request.error} after {request.moved} bytes; "
            f"{second.node.name}: {later.error}",
            ok=kept
            and before_it
            and reports[0].kind == "translation fault"
            and (request.error, request.moved, later.error) == ("AXI_WR_DATA", PAGE, "AXI_WR_DATA"),
        )
    finally:
        kernel.exit(process)


def e4_read_only(soc: Mpsoc, kernel: Kernel) -> ScenarioRow:
    """E4 for rights: a write to a read-only page; the TLB entry that a read has made does not help."""
    (driver,) = idle_engines(kernel, 1)
    process = kernel.spawn()
    try:
        source, destination = process.map(PAGE), process.map(PAGE)
        process.write(source, b"new" * 100)
        process.write(destination, b"old" * 100)
        process.protect(destination, PAGE, READ)
        kernel.smmu.attach(stream_of(driver), 0, process)
        run = Run(soc, kernel)
        reading = driver.submit(destination, source + 2048, 300)
        request = driver.submit(source, destination, 300)
        soc.run()
        reports = run.reports()
        untouched = process.read(destination, 300) == b"old" * 100
        return run.row(
            scenario="E4",
            title="write to a read-only page",
            supplied=f"{fmt(destination)} of a process, mapped read-only",
            smmu="read allowed; write terminated: FSR.PF",
            outcome=f"{driver.node.name}: {request.error} after {request.moved} bytes",
            ok=reading.ok
            and untouched
            and request.error == "AXI_WR_DATA"
            and [report.kind for report in reports] == ["permission fault"],
        )
    finally:
        kernel.exit(process)


def e4b_unknown_stream(soc: Mpsoc, kernel: Kernel) -> ScenarioRow:
    """E4b, USFCFG = 1: a stream that nobody routed is refused before any table is looked at."""
    (driver,) = idle_engines(kernel, 1)
    source = kernel.frames.run(2 * PAGE)
    try:
        soc.bus.write(source, b"bytes")
        run = Run(soc, kernel)
        request = transfer(soc, driver, source, source + PAGE, 5)
        reports = run.reports()
        untouched = soc.bus.read(source + PAGE, 5) == bytes(5)
        return run.row(
            scenario="E4b",
            title="unknown stream, USFCFG = 1",
            supplied=f"physical address {fmt(source)}, no stream entry for {stream_of(driver):#x}",
            smmu="terminated: sGFSR.USF",
            outcome=f"{driver.node.name}: {request.error}",
            ok=untouched
            and request.error == "AXI_RD_DATA"
            and [report.kind for report in reports] == ["unidentified stream"]
            and run.grown("walks") == 0,
        )
    finally:
        kernel.frames.free(source, 2 * PAGE)


def e4b_bypass(soc: Mpsoc, kernel: Kernel) -> ScenarioRow:
    """E4b, USFCFG = 0: a stream that nobody routed bypasses the SMMU; its address is physical."""
    kernel.smmu.set_strict(False)
    try:
        return _bypass("unknown stream, USFCFG = 0", soc, kernel)
    finally:
        kernel.smmu.set_strict(True)


def e4b_reset_state(soc: Mpsoc, kernel: Kernel) -> ScenarioRow:
    """E4b, CLIENTPD = 1, as out of reset: everything bypasses the SMMU."""
    cr0 = kernel.board.smmu.base + reg.CR0
    value = soc.bus.read32(cr0)
    soc.bus.write32(cr0, value | reg.CR0_CLIENTPD)
    try:
        return _bypass("any stream, CLIENTPD = 1 (reset)", soc, kernel)
    finally:
        soc.bus.write32(cr0, value)


def e15_context_banks(soc: Mpsoc, kernel: Kernel) -> ScenarioRow:
    """E15: more processes than context banks: the driver refuses, and says who has them."""
    run = Run(soc, kernel)
    streams = free_port_streams(soc, kernel.smmu.context_banks + 1)
    processes: list[Process] = []
    error: SmmuError | None = None
    try:
        while error is None and len(processes) <= kernel.smmu.context_banks:
            processes.append(kernel.spawn())
            try:
                kernel.smmu.attach(streams[len(processes) - 1], 0, processes[-1])
            except NoContextBank as refusal:
                error = refusal
        full = len(kernel.smmu.banks()) == kernel.smmu.context_banks
        return run.row(
            scenario="E15",
            title=f"{len(processes)} processes at once",
            supplied="one stream and one process each",
            smmu=f"{len(kernel.smmu.banks())} of {kernel.smmu.context_banks} context banks in use",
            outcome=str(error) if error is not None else "not refused",
            ok=full and error is not None,
        )
    finally:
        for process in processes:
            kernel.exit(process)


def e15_stream_entries(soc: Mpsoc, kernel: Kernel) -> ScenarioRow:
    """E15: the streams of a PL port exceed the stream match groups; one entry with a mask covers them."""
    run = Run(soc, kernel)
    streams = free_port_streams(soc, kernel.smmu.match_groups + 1)
    where = "a PL port" if len(streams) <= AXI_ID_MASK + 1 else "PL ports"
    process = kernel.spawn()
    error: SmmuError | None = None
    try:
        for stream in streams:
            try:
                kernel.smmu.attach(stream, 0, process)
            except NoStreamMatch as refusal:
                error = refusal
                break
        kernel.smmu.detach_all(process.asid)
        free = kernel.smmu.free_match_groups
        kernel.smmu.attach(streams[0], AXI_ID_MASK, process)
        used = free - kernel.smmu.free_match_groups
        return run.row(
            scenario="E15",
            title=f"{len(streams)} streams of {where}",
            supplied="one stream entry each; then one with mask 0x3f",
            smmu=f"refused at stream {streams.index(stream)}; with the mask, {used} entry covers them",
            outcome=str(error) if error is not None else "not refused",
            ok=error is not None and used == 1,
        )
    finally:
        kernel.exit(process)


def thesis(soc: Mpsoc, kernel: Kernel) -> list[ScenarioRow]:
    """Run E1, E2 and E3: the thesis' table."""
    return _all(THESIS, soc, kernel)


def refusals(soc: Mpsoc, kernel: Kernel) -> list[ScenarioRow]:
    """Run E4, E4b and E15."""
    return _all(REFUSALS, soc, kernel)


Scenario = Callable[[Mpsoc, Kernel], ScenarioRow]
THESIS: Final[tuple[Scenario, ...]] = (e1_ps_static, e2_pl_static, e3_pl_dynamic)
REFUSALS: Final[tuple[Scenario, ...]] = (
    e4_unmapped,
    e4_read_only,
    e4b_unknown_stream,
    e4b_bypass,
    e4b_reset_state,
    e15_context_banks,
    e15_stream_entries,
)


#: Scenarios that run a DMA channel of the PS; a chip without any shows the others.
_OF_THE_PS: Final[frozenset[Scenario]] = frozenset(
    (e1_ps_static, e4_unmapped, e4_read_only, e4b_unknown_stream, e4b_bypass, e4b_reset_state)
)


def _all(scenarios: Iterable[Scenario], soc: Mpsoc, kernel: Kernel) -> list[ScenarioRow]:
    return [run(soc, kernel) for run in scenarios if kernel.board.zdma or run not in _OF_THE_PS]


def _static(scenario: str, title: str, soc: Mpsoc, kernel: Kernel, driver: Driver) -> ScenarioRow:
    """Copy between addresses that were mapped for the engine's stream beforehand."""
    stream = stream_of(driver)
    size = -(-LENGTH // PAGE) * PAGE
    source = kernel.frames.run(2 * size)
    destination = source + size
    domain = kernel.smmu.attach_static(stream)
    try:
        data = soc.random(scenario).randbytes(LENGTH)
        soc.bus.write(source, data)
        soc.bus.clean(source, LENGTH)  # for an engine that does not snoop the CPU's cache
        domain.map(_SOURCE_IOVA, source, size, write=False)
        domain.map(_DESTINATION_IOVA, destination, size)
        run = Run(soc, kernel)
        mapped = domain.mapped_bytes
        request = transfer(soc, driver, _SOURCE_IOVA, _DESTINATION_IOVA)
        soc.bus.invalidate(destination, LENGTH)
        equal = soc.bus.read(destination, LENGTH) == data
        return run.row(
            scenario=scenario,
            title=title,
            supplied=f"{fmt(_SOURCE_IOVA)} and {fmt(_DESTINATION_IOVA)}, inserted into the SMMU's own tables",
            smmu=run.walked(stream, domain.bank),
            outcome=outcome_of(request, equal),
            ok=request.ok and equal and run.grown("walks") > 0 and run.grown("faults") == 0,
            mapped_before=mapped,
        )
    finally:
        domain.detach()
        kernel.frames.free(source, 2 * size)


def _bypass(title: str, soc: Mpsoc, kernel: Kernel) -> ScenarioRow:
    (driver,) = idle_engines(kernel, 1)
    source = kernel.frames.run(2 * PAGE)
    try:
        soc.bus.write(source, b"bytes")
        soc.bus.clean(source, 5)
        run = Run(soc, kernel)
        request = transfer(soc, driver, source, source + PAGE, 5)
        soc.bus.invalidate(source + PAGE, 5)
        equal = soc.bus.read(source + PAGE, 5) == b"bytes"
        return run.row(
            scenario="E4b",
            title=title,
            supplied=f"physical address {fmt(source)}",
            smmu=f"stream {stream_of(driver):#x} bypasses: {run.grown('bypasses')} accesses untranslated",
            outcome=outcome_of(request, equal),
            ok=request.ok and equal and run.grown("bypasses") > 0 and run.grown("walks") == 0,
        )
    finally:
        kernel.frames.free(source, 2 * PAGE)
