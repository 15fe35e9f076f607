"""The SMMU's caches and walks, seen from an engine (E14; Arm DDI0517).

* `stride_sweep`: mean time of an access over a working set. While its pages fit into the micro-TLB every
  access hits there; beyond that each asks the macro TLB, and beyond the macro TLB each walks. The knees are
  at entries × page size. Both replace the oldest entry, so a working set a little too large misses always.
* `walk_depth`: an access with everything empty, by granule and input size: one descriptor read a level.
* `walk_overlap`: as many single accesses at once as there are engines, each of which walks: up to
  `walk_slots` (8) at the price of one, then in rounds.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Final

import numpy as np
import numpy.typing as npt

from unimem_lab.measurements.chip import DATA, VA, Chip, variant
from unimem_node.mmu.geometry import Geometry
from unimem_node.mpsoc.platform import Platform

_BEAT: Final = 16  # bytes of an access
#: Behind TBU 5, where the FPD DMA is too.
_WALKING_PORT: Final = "HP3"


@dataclass(frozen=True, slots=True)
class StrideSweep:
    """Working sets in bytes, and what their accesses cost in the steady state, beyond untranslated ones.

    `micro_reach`, `macro_reach`: entries × bytes a leaf; where the knees belong.
    """

    stride: int
    leaf_bytes: int
    working_set: npt.NDArray[np.int64]
    access_ps: npt.NDArray[np.float64]
    micro_reach: int
    macro_reach: int
    micro_hit_part: npt.NDArray[np.float64]
    walk_part: npt.NDArray[np.float64]


def stride_sweep(
    working_sets: Sequence[int] | None = None,
    *,
    stride: int | None = None,
    granule_shift: int = 12,
    input_bits: int = 48,
    blocks: bool = False,
    walk_cache: bool = True,
    engine: str = "fpd0",
    platform: str | Platform = "zynqmp",
) -> StrideSweep:
    """Read 16 bytes at every `stride` of a working set, over and over; the second of two rounds counts.

    `working_sets` in bytes (None: around both knees); `stride` None: a leaf. `blocks`: leaves are blocks (2
    MiB of 4 KiB granules). `engine`: whose TBU it is (``"lpd0"``: TBU 2). Raises `MeasurementError` for a
    channel that is none.
    """
    chip = Chip(variant(platform, granule_shift=granule_shift, walk_cache=walk_cache))
    geometry = Geometry(granule_shift=granule_shift, input_bits=input_bits)
    leaf = 1 << geometry.shifts[2] if blocks else geometry.page
    stride = stride or leaf
    reader = chip.zdma(engine)
    block = chip.soc.platform.smmu.block
    assert reader.stream_id is not None
    reaches = block.micro_tlb_entries[reader.stream_id >> 10] * leaf, block.macro_tlb_entries * leaf
    sets = sorted(working_sets) if working_sets is not None else _around(*reaches, leaf)
    untranslated = chip.time(reader, DATA, None, _BEAT)
    table = chip.translate([reader.stream_id], geometry)
    table.map(VA, DATA, -(-max(sets) // leaf) * leaf, blocks=blocks)
    costs, hits, walks = [], [], []
    for size in sets:
        chip.cold()
        addresses = range(VA, VA + size, stride)
        for address in addresses:
            chip.time(reader, address, None, _BEAT)
        before = chip.soc.counters()
        took = sum(chip.time(reader, address, None, _BEAT) for address in addresses)
        counted = {name: value - before[name] for name, value in chip.soc.counters().items()}
        costs.append(took / len(addresses) - untranslated)
        hits.append(counted["utlb_hits"] / len(addresses))
        walks.append(counted["walks"] / len(addresses))
    chip.close()
    return StrideSweep(
        stride, leaf, np.array(sets, np.int64), np.array(costs), *reaches, np.array(hits), np.array(walks)
    )


def _around(micro_reach: int, macro_reach: int, leaf: int) -> list[int]:
    """Working sets below, at and above both knees."""
    sets = {
        reach * part // 8 // leaf * leaf
        for reach in (micro_reach, macro_reach)
        for part in (4, 6, 7, 9, 10, 12)
    }
    return sorted(sets | {micro_reach, micro_reach + leaf, macro_reach, macro_reach + leaf, 2 * macro_reach})


@dataclass(frozen=True, slots=True)
class WalkDepth:
    """One access with everything empty: levels walked, and its time beyond an untranslated one."""

    granule_shift: int
    input_bits: int
    levels: int
    walk_ps: int


def walk_depth(
    shapes: Sequence[tuple[int, int]] = ((12, 48), (12, 39), (12, 30), (16, 48), (16, 42)),
    *,
    platform: str | Platform = "zynqmp",
) -> list[WalkDepth]:
    """Time a cold access for each (log2 of the granule, bits of an address); pages, no blocks.

    With 30 bits the lowest addresses are used. 14 (16 KiB) is a granule that ZynqMP's SMMU does not offer: a
    variant of the chip is measured.
    """
    found = []
    for granule_shift, input_bits in shapes:
        chip = Chip(variant(platform, granule_shift=granule_shift))
        geometry = Geometry(granule_shift=granule_shift, input_bits=input_bits)
        reader = chip.zdma("fpd0")
        untranslated = chip.time(reader, DATA, None, _BEAT)
        va = min(VA, (1 << input_bits) - (1 << 16))
        chip.translate([reader.stream_id], geometry).map(va, DATA, geometry.page, blocks=False)
        chip.cold()
        took = chip.time(reader, va, None, _BEAT) - untranslated
        found.append(WalkDepth(granule_shift, input_bits, 4 - geometry.start_level, took))
        chip.close()
    return found


@dataclass(frozen=True, slots=True)
class WalkOverlap:
    """Engines of one TBU that walk at once; from the start to the end of the last, beyond their TLB hits."""

    engines: npt.NDArray[np.int64]
    walk_ps: npt.NDArray[np.int64]
    one_walk_ps: int
    walk_slots: int


def walk_overlap(
    engines: Sequence[int] = tuple(range(1, 17)), *, platform: str | Platform = "zynqmp"
) -> WalkOverlap:
    """Start so many AXI CDMAs of one TBU at once, each with a page of its own and every cache empty.

    The walk cache is left out, so that each walk reads all four levels, whoever walked before it.
    """
    most = max(engines)
    spec = variant(platform, walk_cache=False)
    chip = Chip(spec, [_WALKING_PORT] * most)
    cdmas = [chip.cdma(n) for n in range(most)]
    table = chip.translate([cdma.stream_id for cdma in cdmas], Geometry())
    table.map(VA, DATA, most * 4096, blocks=False)
    times = []
    for count in engines:
        chip.cold()
        times.append(_together(chip, count) - _together(chip, count))
    chip.close()
    block = spec.smmu.block
    return WalkOverlap(
        np.array(engines), np.array(times), 4 * block.timing.descriptor_read_ps, block.timing.walk_slots
    )


def _together(chip: Chip, count: int) -> int:
    """Picoseconds until the first `count` CDMAs have each copied 64 bytes inside their page."""
    before = chip.now_ps
    for n in range(count):
        page = VA + n * 4096
        chip.start(chip.cdma(n), page, page + 2048, 64)
    chip.soc.run()
    for n in range(count):
        chip.done(chip.cdma(n))
    return chip.now_ps - before
