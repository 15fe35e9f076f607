"""Functional scenarios of one chip, E1 to E4b and E15 (E3b with a CPU cache): as published, or not.

The scenarios are `unimem_node.mpsoc.scenarios` and `unimem_node.mpsoc.staleness`; each proves its row with
counters read before and after.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import ClassVar, Literal

from unimem_lab.experiments.workloads.base import NotHere, Outcome, Stage, Workload
from unimem_node import Mpsoc
from unimem_node.mpsoc import scenarios, staleness
from unimem_node.mpsoc.node import boot
from unimem_node.mpsoc.scenarios import ScenarioRow

#: Of the write-back cache in front of DRAM: 64 KiB. E3b's first two causes need one.
_CACHE_LINES = 1024

_OF: dict[str, tuple[scenarios.Scenario, ...]] = {
    "E1": (scenarios.e1_ps_static,),
    "E2": (scenarios.e2_pl_static,),
    "E3": (scenarios.e3_pl_dynamic,),
    "E3b": (*staleness.BEHIND_THE_CACHE, *staleness.STALE_TLB),
    "E4": (scenarios.e4_unmapped, scenarios.e4_read_only),
    "E4b": (scenarios.e4b_unknown_stream, scenarios.e4b_bypass, scenarios.e4b_reset_state),
    "E15": (scenarios.e15_context_banks, scenarios.e15_stream_entries),
}


class ScenarioWorkload(Workload):
    """The scenario `id` on one chip with its kernel booted.

    Quantities: as_published (1 when every case came out as it must), cases, walks, faults.
    """

    bare: ClassVar[bool] = True

    type: Literal["scenario"]
    id: Literal["E1", "E2", "E3", "E3b", "E4", "E4b", "E15"]

    def play(self, stage: Stage) -> Callable[[], Outcome]:
        """See `Workload.play`."""
        platform = stage.platform
        if self.id == "E3b":
            platform = platform.with_cache(_CACHE_LINES)
        soc = Mpsoc(platform, seed=stage.seed)
        try:
            kernel = boot(soc)
            if not kernel.board.zdma and self.id in {"E1", "E4", "E4b"}:
                raise NotHere(f"{self.id} needs a DMA engine of the PS; platform {platform.name} has none")
            rows = [run(soc, kernel) for run in _OF[self.id]]
        finally:
            soc.close()
        return lambda: _outcome(rows)


def _outcome(rows: list[ScenarioRow]) -> Outcome:
    good = sum(row.ok for row in rows)
    quantities = {
        "as_published": float(good == len(rows)),
        "cases": len(rows),
        "cases_as_published": good,
        "walks": sum(row.delta("walks") for row in rows),
        "faults": sum(row.delta("faults") for row in rows),
        "mapped_before_bytes": sum(row.mapped_before for row in rows),
    }
    wrong = [f"{row.title}: {row.outcome}" for row in rows if not row.ok]
    short = rows[0].outcome if len(rows) == 1 else f"{good} of {len(rows)} cases so"
    texts = {row.title: f"{row.smmu}; {row.outcome}" for row in rows}
    texts["as_published"] = "; ".join([short, *wrong])
    return Outcome(quantities, texts, {"as_published": 1.0})
