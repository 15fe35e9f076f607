"""What every scenario needs: a row of the table, counters around a run, and engines to run.

See `unimem_node.mpsoc.scenarios`.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Final

from unimem_node.kernel.board import AXI_ID_MASK
from unimem_node.kernel.dma_drivers import DmaRequest, Driver, ZdmaDriver
from unimem_node.kernel.faults import FaultReport
from unimem_node.kernel.kernel import Kernel
from unimem_node.mpsoc.soc import Mpsoc

#: Bytes that a scenario moves: some pages, and a part of one.
LENGTH: Final = 64 * 1024 + 100


@dataclass(frozen=True, slots=True)
class ScenarioRow:
    """What happened in one scenario, and what was expected.

    `supplied`: how the engine came by its addresses. `smmu`: what the SMMU did with them. `ok`: everything
    was as the publication says. `mapped_before`: bytes that were mapped for the engine before it ran.
    `before`, `after`: the chip's counters around the engine's run. `reports`: what the SMMU reported.
    """

    scenario: str
    title: str
    supplied: str
    smmu: str
    outcome: str
    ok: bool
    mapped_before: int
    before: Mapping[str, int]
    after: Mapping[str, int]
    reports: tuple[str, ...] = ()

    def delta(self, counter: str) -> int:
        """Return by how much a counter grew."""
        return self.after[counter] - self.before[counter]


class Run:
    """One use of the chip: counters and fault reports from its making on."""

    def __init__(self, soc: Mpsoc, kernel: Kernel) -> None:
        self.soc = soc
        self.kernel = kernel
        self.before = soc.counters()
        self.first_report = kernel.faults[-1].number + 1 if kernel.faults else 1

    def reports(self) -> list[FaultReport]:
        """Return the fault reports since."""
        return [report for report in self.kernel.faults if report.number >= self.first_report]

    def row(
        self,
        *,
        scenario: str,
        title: str,
        supplied: str,
        smmu: str,
        outcome: str,
        ok: bool,
        mapped_before: int = 0,
    ) -> ScenarioRow:
        """Make the row, now that everything has happened."""
        return ScenarioRow(
            scenario=scenario,
            title=title,
            supplied=supplied,
            smmu=smmu,
            outcome=outcome,
            ok=ok,
            mapped_before=mapped_before,
            before=self.before,
            after=self.soc.counters(),
            reports=tuple(report.text for report in self.reports()),
        )

    def grown(self, counter: str) -> int:
        """Return by how much a counter has grown."""
        return self.soc.counters()[counter] - self.before[counter]

    def walked(self, stream: int, bank: int) -> str:
        """Say what the SMMU did with an engine that it let through."""
        hits = self.grown("utlb_hits") + self.grown("macro_hits")
        reads = sum(self.grown(f"reads_l{level}") for level in range(4))
        return (
            f"stream {stream:#x} to context bank {bank}: {self.grown('walks')} walks ({reads} descriptor "
            f"reads), {hits} TLB hits, {self.grown('faults')} faults"
        )


def transfer(soc: Mpsoc, driver: Driver, source: int, destination: int, length: int = LENGTH) -> DmaRequest:
    """Copy, and let time pass until it is done."""
    request = driver.submit(source, destination, length)
    soc.run()
    return request


def outcome_of(request: DmaRequest, equal: bool) -> str:
    """Say how a transfer ended, and whether the bytes arrived as they were."""
    if not request.ok:
        return f"refused: {request.error}" if request.done else "not done"
    return f"{request.moved} bytes, {'data equal' if equal else 'DATA DIFFERS'}"


def stream_of(driver: Driver) -> int:
    """Return the stream ID of an engine; raises `ValueError` for one that does not pass the SMMU."""
    stream = driver.node.stream_id
    if stream is None:
        raise ValueError(f"{driver.node.name} does not pass the SMMU")
    return stream


def idle_engines(kernel: Kernel, count: int) -> list[ZdmaDriver]:
    """Return the last channels of the PS, whose streams nobody uses."""
    found = [kernel.dma[node.name] for node in kernel.board.zdma[-count:]]
    return [driver for driver in found if isinstance(driver, ZdmaDriver)]


def pl_engine(kernel: Kernel) -> Driver:
    """Return the first engine in the PL that is behind the SMMU; raises `ValueError` when there is none."""
    for node in kernel.board.cdma:
        if node.stream_id is not None:
            return kernel.dma[node.name]
    raise ValueError("no DMA engine is built in the PL behind the SMMU; add a PL master of type axi_cdma")


def free_port_streams(soc: Mpsoc, count: int = 1) -> list[int]:
    """Return `count` streams or more that no master of this chip presents, in 64s of a PL port each."""
    taken = {
        stream | AXI_ID_MASK
        for part in soc.parts
        for streams in part.streams
        for stream in range(streams.first, streams.first + streams.count)
    }
    found: list[int] = []
    for port in soc.platform.pl.ports.values():
        for first in range(port.streams.start, port.streams.stop, AXI_ID_MASK + 1):
            if len(found) < count and first | AXI_ID_MASK not in taken:
                found += range(first, min(first + AXI_ID_MASK + 1, port.streams.stop))
    return found
