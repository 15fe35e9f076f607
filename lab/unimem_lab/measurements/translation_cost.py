"""What virtual addressing costs a DMA: the thesis' open question, by size, TLB reach, granule and depth.

The same engine moves the same bytes between the same places twice: with its stream bypassing the SMMU
(physical addresses), and translated by page tables of a given granule and depth. Once with every cache of the
SMMU empty (*cold*: a buffer that is used for the first time), once right after such a transfer (*warm*).

* `translation_cost`: one transfer of each size, in a contiguous buffer;
* `reach_cost`: transfers at random places of a working set, beyond the reach of the TLBs;
* `rdma_cost`: puts between two nodes, against a chip whose SMMU takes no time.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Final, Literal

import numpy as np

from unimem_lab.measurements.chip import DATA, VA, Chip, Engine, variant
from unimem_node import Mpsoc
from unimem_node.mmu.geometry import Geometry
from unimem_node.mpsoc.platform import Platform, load

KIB: Final = 1 << 10
MIB: Final = 1 << 20
SIZES: Final = (64, KIB, 4 * KIB, 16 * KIB, 64 * KIB, 256 * KIB, MIB, 4 * MIB)
#: log2 of the granule, bits of an address: each granule at its deepest and one level less; 4 KiB with both.
SHAPES: Final = ((12, 48), (12, 39), (14, 47), (14, 36), (16, 48), (16, 42))
_STATES: Final[tuple[Literal["cold", "warm"], ...]] = ("cold", "warm")
#: Pages after which a TLB has forgotten those before: more than any has entries.
_REMEMBERED: Final = 1024
#: From the data's place to where it is copied.
_DISTANCE: Final = 1 << 30


@dataclass(frozen=True, slots=True)
class TranslationCost:
    """One transfer: picoseconds from start to end, by physical and by virtual addresses."""

    engine: str
    size: int
    leaf_bytes: int
    levels: int
    state: Literal["cold", "warm"]
    physical_ps: int
    virtual_ps: int

    @property
    def cost_ps(self) -> int:
        """What translation adds."""
        return self.virtual_ps - self.physical_ps

    @property
    def ratio(self) -> float:
        """Virtual to physical."""
        return self.virtual_ps / self.physical_ps


def translation_cost(
    sizes: Sequence[int] = SIZES,
    shapes: Sequence[tuple[int, int]] = SHAPES,
    engines: Sequence[str] = ("fpd0", "HP0"),
    *,
    blocks: bool = False,
    platform: str | Platform = "zynqmp",
) -> list[TranslationCost]:
    """Measure every combination. `engines`: channels of the PS, or PL ports with an AXI CDMA behind them.

    `shapes`: (log2 of the granule, bits of an address); 14 is a granule that ZynqMP's SMMU does not offer, so
    that a variant of the chip is measured. `blocks`: map with blocks where the granule has any (2 MiB of 4
    KiB). Raises `MeasurementError` for an engine off the SMMU.
    """
    found = []
    for granule_shift, input_bits in shapes:
        geometry = Geometry(granule_shift=granule_shift, input_bits=input_bits)
        leaf = 1 << geometry.shifts[2] if blocks else geometry.page
        for name in engines:
            chip, engine = _chip(name, variant(platform, granule_shift=granule_shift))
            physical = [chip.time(engine, DATA, DATA + _DISTANCE, size) for size in sizes]
            table = chip.translate([engine.stream_id], geometry)
            length = -(-max(sizes) // leaf) * leaf
            for offset in (0, _DISTANCE):
                table.map(VA + offset, DATA + offset, length, blocks=blocks)
            for size, untranslated in zip(sizes, physical, strict=True):
                chip.cold()
                for state in _STATES:
                    took = chip.time(engine, VA, VA + _DISTANCE, size)
                    levels = (3 if blocks else 4) - geometry.start_level
                    found.append(TranslationCost(name, size, leaf, levels, state, untranslated, took))
            chip.close()
    return found


def _chip(name: str, platform: Platform) -> tuple[Chip, Engine]:
    """A chip and its engine: a channel, or a CDMA behind the port of that name."""
    if name in platform.pl.ports:
        chip = Chip(platform, [name])
        return chip, chip.cdma(0)
    chip = Chip(platform)
    return chip, chip.zdma(name)


@dataclass(frozen=True, slots=True)
class ReachCost:
    """Mean of many transfers of `size` bytes at random places of a working set, in the steady state."""

    engine: str
    size: int
    working_set: int
    leaf_bytes: int
    physical_ps: float
    virtual_ps: float
    walks: float  # page table walks a transfer

    @property
    def ratio(self) -> float:
        """Virtual to physical."""
        return self.virtual_ps / self.physical_ps


def reach_cost(
    working_sets: Sequence[int] = (256 * KIB, MIB, 4 * MIB, 64 * MIB, 512 * MIB),
    granules: Sequence[int] = (12, 16),
    *,
    size: int = 4 * KIB,
    transfers: int = 300,
    engine: str = "fpd0",
    seed: int = 1,
    platform: str | Platform = "zynqmp",
) -> list[ReachCost]:
    """Copy `size` bytes from random places of a working set to one place, `transfers` times.

    Before that every table and then every leaf of the working set is used once, as far as the SMMU could
    remember. Places are multiples of `size`, working sets too. `granules`: log2 of them, with 48 bits of
    address.
    """
    found = []
    for granule_shift in granules:
        chip, mover = _chip(engine, variant(platform, granule_shift=granule_shift))
        geometry = Geometry(granule_shift=granule_shift)
        sink = DATA + _DISTANCE
        untranslated = float(np.mean([chip.time(mover, DATA, sink, size) for _ in range(2)]))
        table = chip.translate([mover.stream_id], geometry)
        table.map(VA, DATA, max(working_sets), blocks=False)
        table.map(VA + _DISTANCE, sink, max(size, geometry.page), blocks=False)
        for working_set in working_sets:
            chip.cold()
            for step in (geometry.page << geometry.granule_shift - 3, max(geometry.page, size)):
                for place in range(0, working_set, step)[-_REMEMBERED:]:
                    chip.time(mover, VA + place, VA + _DISTANCE, size)
            places = np.random.default_rng(seed).integers(0, working_set // size, transfers) * size
            before = chip.soc.counters()["walks"]
            took = sum(chip.time(mover, VA + place, VA + _DISTANCE, size) for place in places.tolist())
            walks = chip.soc.counters()["walks"] - before
            found.append(
                ReachCost(
                    engine,
                    size,
                    working_set,
                    geometry.page,
                    untranslated,
                    took / transfers,
                    walks / transfers,
                )
            )
        chip.close()
    return found


@dataclass(frozen=True, slots=True)
class RdmaCost:
    """A blocking put between two nodes: picoseconds with the SMMU's times, and with none."""

    size: int
    state: Literal["cold", "warm"]
    free_ps: int
    virtual_ps: int

    @property
    def ratio(self) -> float:
        """With translation to without."""
        return self.virtual_ps / self.free_ps


def rdma_cost(sizes: Sequence[int] = SIZES, *, platform: str | Platform = "zynqmp") -> list[RdmaCost]:
    """Put each size from one node of a pair to the other: first use of both buffers, then once more.

    The yardstick is the same pair whose SMMUs translate in no time: an interface with physical addresses.
    """
    chip = load(platform) if isinstance(platform, str) else platform
    block = chip.smmu.block
    timing = replace(block.timing, micro_hit_ps=0, macro_hit_ps=0, descriptor_read_ps=0)
    smmu = chip.smmu.model_copy(update={"block": replace(block, timing=timing)})
    times = [_puts(each, sizes) for each in (chip, chip.model_copy(update={"smmu": smmu}))]
    return [
        RdmaCost(size, state, untranslated, translated)
        for (size, state, translated), (_, _, untranslated) in zip(*times, strict=True)
    ]


def _puts(platform: Platform, sizes: Sequence[int]) -> list[tuple[int, Literal["cold", "warm"], int]]:
    """(size, state, picoseconds) of two puts of each size, each size between buffers of its own."""
    from unimem_lab.sim import SimCluster  # noqa: PLC0415 - a cluster, for this function only

    times: list[tuple[int, Literal["cold", "warm"], int]] = []
    with SimCluster(nodes=2, platform=platform) as cluster, cluster.client(home="n0") as um:
        for size in sizes:
            there = um.alloc(size, node="n1")
            for state in _STATES:
                for name in cluster.nodes if state == "cold" else ():
                    _empty(cluster.node(name).soc)
                transfer = um.put_async(there, bytes(size))
                transfer.result(timeout=None)
                times.append((size, state, round(transfer.simulated_ns * 1000)))
    return times


def _empty(soc: Mpsoc) -> None:
    """Invalidate all TLBs and the walk cache."""
    base = soc.platform.smmu.base
    soc.bus.write32(base + 0x068, 0)  # TLBIALLNSNH
    soc.bus.write32(base + 0x070, 0)  # sTLBGSYNC
    while soc.bus.read32(base + 0x074) & 1:  # sTLBGSTATUS
        pass
