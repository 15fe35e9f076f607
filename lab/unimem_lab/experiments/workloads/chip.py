"""Measurements of a bare chip as workloads: DRAM ports (E13), TLBs and walks (E14).

What is measured and how is in `unimem_lab.measurements`; here it gets names for sweeps, rows and plots.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Annotated, ClassVar, Literal

from pydantic import Field

from unimem_lab import measurements as measure
from unimem_lab.experiments.values import Count, Flag
from unimem_lab.experiments.workloads.base import NotHere, Outcome, Sample, Stage, Workload
from unimem_lab.measurements.chip import MeasurementError
from unimem_node.mpsoc.platform import PlatformError

Granule = Literal["4K", "16K", "64K"]
_SHIFTS = {"4K": 12, "16K": 14, "64K": 16}
Bits = Annotated[int, Field(strict=True, ge=25, le=48)]


class _OfTheChip(Workload):
    """Measured on chips that it builds itself."""

    bare: ClassVar[bool] = True

    def play(self, stage: Stage) -> Callable[[], Outcome]:
        """See `Workload.play`."""
        try:
            outcome = self.measured(stage)
        except (MeasurementError, PlatformError, KeyError) as error:
            raise NotHere(f"{self.type}: {error}") from error  # type: ignore[attr-defined]
        return lambda: outcome

    def measured(self, stage: Stage) -> Outcome:
        """Measure."""
        raise NotImplementedError


class DramPortsWorkload(_OfTheChip):
    """`masters` stream to DRAM at once (E13): PL ports with an AXI CDMA behind them, channels such as fpd0.

    `busy_mb_per_s`: what others read, by DRAM port (a DisplayPort: ``{DDR3: 2000}``). Quantities: total_mb_s,
    of_peak (part of the data bus' peak), slowest_mb_s and fastest_mb_s of the masters.
    """

    type: Literal["dram_ports"]
    masters: Annotated[list[str], Field(min_length=1, max_length=16)]
    direction: Literal["read", "write", "copy"] = "copy"
    window_us: Count = 500
    clock_mhz: Count = 300
    busy_mb_per_s: dict[str, int] = Field(default_factory=dict)

    def measured(self, stage: Stage) -> Outcome:
        """Measure."""
        found = measure.stream_ports(
            self.masters,
            self.direction,
            window_us=self.window_us,
            clock_mhz=self.clock_mhz,
            busy_mb_per_s=self.busy_mb_per_s,
            platform=stage.platform,
        )
        each = found.per_master / 1e6
        return Outcome(
            {
                "total_mb_s": found.total / 1e6,
                "of_peak": found.of_peak,
                "slowest_mb_s": float(each.min()),
                "fastest_mb_s": float(each.max()),
                "first_mb_s": float(each[0]),
                "last_mb_s": float(each[-1]),
            }
        )


class TlbSweepWorkload(_OfTheChip):
    """Accesses a leaf apart over working sets around both TLBs' reach, again and again (E14).

    Quantities: knee_micro_ratio and knee_macro_ratio (the largest working set that costs no more than a hit,
    by entries × leaf). Samples by `working_set_kib`: access_ns beyond an untranslated one, micro_hits, walks.
    """

    type: Literal["tlb_sweep"]
    engine: str = "fpd0"
    blocks: Flag = False
    granule: Granule = "4K"

    def measured(self, stage: Stage) -> Outcome:
        """Measure."""
        sweep = measure.stride_sweep(
            granule_shift=_SHIFTS[self.granule],
            blocks=self.blocks,
            engine=self.engine,
            platform=stage.platform,
        )
        samples = [
            Sample(
                {"working_set_kib": size / 1024},
                {"access_ns": cost / 1e3, "micro_hits": hits, "walks": walks},
            )
            for size, cost, hits, walks in zip(
                sweep.working_set.tolist(),
                sweep.access_ps.tolist(),
                sweep.micro_hit_part.tolist(),
                sweep.walk_part.tolist(),
                strict=True,
            )
        ]
        sizes = sweep.working_set.tolist()
        fits = [size for size, hits in zip(sizes, sweep.micro_hit_part.tolist(), strict=True) if hits > 0.99]
        reaches = [size for size, walks in zip(sizes, sweep.walk_part.tolist(), strict=True) if walks < 0.01]
        return Outcome(
            {
                "knee_micro_ratio": max(fits, default=0) / sweep.micro_reach,
                "knee_macro_ratio": max(reaches, default=0) / sweep.macro_reach,
            },
            samples=samples,
        )


class WalkDepthWorkload(_OfTheChip):
    """One access with every cache empty, by `granule` and bits of an address (E14).

    Quantities: levels, walk_ns.
    """

    type: Literal["walk_depth"]
    granule: Granule = "4K"
    bits: Bits = 48

    def measured(self, stage: Stage) -> Outcome:
        """Measure."""
        (found,) = measure.walk_depth(((_SHIFTS[self.granule], self.bits),), platform=stage.platform)
        return Outcome({"levels": found.levels, "walk_ns": found.walk_ps / 1e3})


class WalkOverlapWorkload(_OfTheChip):
    """So many engines of one TBU walk at once (E14). Quantities: walk_ns, rounds (of one walk's time)."""

    type: Literal["walk_overlap"]
    engines: Annotated[int, Field(strict=True, ge=1, le=16)]

    def measured(self, stage: Stage) -> Outcome:
        """Measure."""
        found = measure.walk_overlap((self.engines,), platform=stage.platform)
        walk = int(found.walk_ps[0])
        return Outcome({"walk_ns": walk / 1e3, "rounds": walk / found.one_walk_ps})
