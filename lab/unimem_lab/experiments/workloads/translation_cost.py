"""What virtual addressing costs, by engine, size, granule, depth and reach (`unimem_lab.measurements`)."""

from __future__ import annotations

from collections.abc import Callable
from typing import Annotated, ClassVar, Final, Literal

from pydantic import Field

from unimem_lab.experiments.values import Count, Flag, Size
from unimem_lab.experiments.workloads.base import NotHere, Outcome, Sample, Stage, Workload
from unimem_lab.measurements import rdma_cost, reach_cost, translation_cost
from unimem_lab.measurements.chip import MeasurementError
from unimem_lab.measurements.translation_cost import KIB, MIB, SIZES

_PS_PER_US: Final = 1_000_000
_SHIFTS: Final = {"4K": 12, "16K": 14, "64K": 16}
Granule = Literal["4K", "16K", "64K"]
Shape = tuple[Granule, Annotated[int, Field(strict=True, ge=25, le=48)]]


class TranslationCostWorkload(Workload):
    """The same transfer by physical and by virtual addresses, with empty TLBs (`cold`) and again (`warm`).

    `measure`: `size`: single transfers of `sizes` by `engines` (channels of the PS, PL ports), for `shapes`
    (granule, bits of an address), `blocks`: with block leaves; `reach`: transfers of `transfer` bytes at
    random places of `working_sets`, for the granules of `shapes`, with 48 bits; `rdma`: puts of `sizes`
    between two nodes. Points have the keys `engine`, `bytes`, `leaf_bytes`, `levels`, `state`,
    `working_set_kib` as far as they apply; quantities are physical_us, virtual_us, cost_us, ratio, of `reach`
    also walks.
    """

    bare: ClassVar[bool] = True

    type: Literal["translation_cost"]
    measure: Literal["size", "reach", "rdma"] = "size"
    engines: tuple[str, ...] = ("fpd0", "HP0")
    sizes: tuple[Size, ...] = SIZES
    shapes: tuple[Shape, ...] = (
        ("4K", 48),
        ("4K", 39),
        ("16K", 47),
        ("16K", 36),
        ("64K", 48),
        ("64K", 42),
    )
    blocks: Flag = False
    working_sets: tuple[Size, ...] = (256 * KIB, MIB, 4 * MIB, 64 * MIB, 512 * MIB)
    transfer: Size = 4 * KIB
    transfers: Count = 300

    def play(self, stage: Stage) -> Callable[[], Outcome]:
        """See `Workload.play`."""
        measure = {"size": self._by_size, "reach": self._by_reach, "rdma": self._by_rdma}[self.measure]
        try:
            samples = measure(stage)
        except MeasurementError as error:
            raise NotHere(f"translation_cost: {error}") from error
        return lambda: Outcome(samples=samples)

    def _by_size(self, stage: Stage) -> list[Sample]:
        shapes = [(_SHIFTS[granule], bits) for granule, bits in self.shapes]
        rows = translation_cost(self.sizes, shapes, self.engines, blocks=self.blocks, platform=stage.platform)
        return [
            _sample(
                row.physical_ps,
                row.virtual_ps,
                engine=row.engine,
                bytes=row.size,
                leaf_bytes=row.leaf_bytes,
                levels=row.levels,
                state=row.state,
            )
            for row in rows
        ]

    def _by_reach(self, stage: Stage) -> list[Sample]:
        granules = sorted({_SHIFTS[granule] for granule, _ in self.shapes})
        found = []
        for engine in self.engines:
            for row in reach_cost(
                self.working_sets,
                granules,
                size=self.transfer,
                transfers=self.transfers,
                engine=engine,
                seed=stage.seed,
                platform=stage.platform,
            ):
                sample = _sample(
                    row.physical_ps,
                    row.virtual_ps,
                    engine=engine,
                    bytes=row.size,
                    leaf_bytes=row.leaf_bytes,
                    working_set_kib=row.working_set >> 10,
                )
                found.append(Sample(sample.keys, {**sample.quantities, "walks": row.walks}))
        return found

    def _by_rdma(self, stage: Stage) -> list[Sample]:
        return [
            _sample(row.free_ps, row.virtual_ps, engine="ni", bytes=row.size, state=row.state)
            for row in rdma_cost(self.sizes, platform=stage.platform)
        ]


def _sample(physical_ps: float, virtual_ps: float, **keys: str | int) -> Sample:
    return Sample(
        keys,
        {
            "physical_us": physical_ps / _PS_PER_US,
            "virtual_us": virtual_ps / _PS_PER_US,
            "cost_us": (virtual_ps - physical_ps) / _PS_PER_US,
            "ratio": virtual_ps / physical_ps,
        },
    )
