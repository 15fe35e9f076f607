"""E13 and E14 on a bare chip: who competes for DRAM with whom, and what the SMMU's caches and slots do."""

from __future__ import annotations

import numpy as np
import pytest

from unimem_lab.measurements import stream_ports, stride_sweep, walk_depth, walk_overlap
from unimem_lab.measurements.chip import Chip, MeasurementError, variant
from unimem_node.mpsoc.platform import PlatformError

KIB = 1 << 10
#: Bytes a second: a 128-bit port of the PL at 300 MHz, one of the DDR controller at 533 MHz, the controller.
PL_PORT, DDR_PORT, CONTROLLER = 16 * 300e6, 16 * 533e6, 0.75 * 19.2e9
#: Picoseconds, from the platform's file: macro TLB, a descriptor.
MACRO, READ = 20_000, 150_000


# ---- E13


@pytest.mark.parametrize(
    ("masters", "total"),
    [
        (["HP0"], PL_PORT),
        (["HP0", "HP1"], 2 * PL_PORT),  # ports of their own
        (["HP1", "HP2"], DDR_PORT),
        (["HP3", "fpd0"], DDR_PORT),
        (["HP0", "HP1", "HP2", "HP3"], CONTROLLER),
        (["HPC0", "HPC1"], 2 * PL_PORT),  # the CCI has two
    ],
)
def test_masters_that_read_get_what_their_ddr_port_has(masters: list[str], total: float) -> None:
    found = stream_ports(masters, "read", window_us=200)
    assert found.total == pytest.approx(total, rel=0.01)
    assert found.peak == pytest.approx(19.2e9, rel=1e-4)


@pytest.mark.parametrize("direction", ["read", "write", "copy"])
def test_four_ports_get_three_quarters_of_the_peak_and_the_same_each(direction: str) -> None:
    found = stream_ports(["HP0", "HP1", "HP2", "HP3"], direction, window_us=500)  # type: ignore[arg-type]
    assert found.of_peak == pytest.approx(0.75, abs=0.01)
    assert found.per_master.max() / found.per_master.min() < 1.01


def test_a_display_takes_of_the_port_of_hp0_only() -> None:
    busy = {"DDR3": 6000}
    assert stream_ports(["HP0"], "read", busy_mb_per_s=busy, window_us=200).total == pytest.approx(
        DDR_PORT - 6e9, rel=0.02
    )
    assert stream_ports(["HP1"], "read", busy_mb_per_s=busy, window_us=200).total == pytest.approx(
        PL_PORT, rel=0.01
    )


def test_streams_that_cannot_be() -> None:
    with pytest.raises(MeasurementError, match="no engine 'HP9'"):
        stream_ports(["HP9"])
    with pytest.raises(MeasurementError, match="cdma0 has not moved anything"):
        stream_ports(["HP0"], window_us=1)
    with pytest.raises(MeasurementError, match="says nothing of its DRAM ports"):
        stream_ports(["NOC_NSU0"], platform="versal")
    with pytest.raises(KeyError):
        variant("zynqmp", busy_mb_per_s={"DDR9": 1})
    with pytest.raises(PlatformError, match="has no port"):
        Chip("zynqmp", ["HP9"])


# ---- E14


@pytest.mark.parametrize(("engine", "entries"), [("fpd0", 128), ("lpd0", 32)])
def test_the_knees_are_at_entries_times_page_size(engine: str, entries: int) -> None:
    micro, macro = entries * 4 * KIB, 512 * 4 * KIB
    margin = 16 * KIB
    sets = [micro // 2, micro, micro + margin, macro - margin, 2 * macro]
    sweep = stride_sweep(sets, engine=engine)
    assert (sweep.micro_reach, sweep.macro_reach) == (micro, macro)
    assert sweep.access_ps.tolist() == [0, 0, MACRO, MACRO, MACRO + READ]
    assert sweep.micro_hit_part.tolist() == [1, 1, 0, 0, 0]
    assert sweep.walk_part.tolist() == [0, 0, 0, 0, 1]


@pytest.mark.parametrize(("granule_shift", "blocks", "leaf"), [(16, False, 64 * KIB), (12, True, 2048 * KIB)])
def test_larger_leaves_move_the_knees(granule_shift: int, blocks: bool, leaf: int) -> None:
    sets = [128 * leaf, 132 * leaf]
    sweep = stride_sweep(sets, granule_shift=granule_shift, blocks=blocks)
    assert sweep.leaf_bytes == leaf
    assert sweep.access_ps.tolist() == [0, MACRO]


def test_several_accesses_a_page_share_its_miss() -> None:
    sweep = stride_sweep([640 * KIB], stride=2 * KIB)
    assert sweep.access_ps.tolist() == [MACRO / 2]


@pytest.mark.parametrize(("input_bits", "levels"), [(48, 4), (39, 3)])
def test_without_a_walk_cache_every_miss_reads_all_levels(input_bits: int, levels: int) -> None:
    sweep = stride_sweep([4096 * KIB], input_bits=input_bits, walk_cache=False)
    assert sweep.access_ps.tolist() == [MACRO + levels * READ]


def test_a_cold_access_reads_a_descriptor_a_level() -> None:
    found = {(row.granule_shift, row.input_bits): (row.levels, row.walk_ps) for row in walk_depth()}
    assert found == {
        (12, 48): (4, MACRO + 4 * READ),
        (12, 39): (3, MACRO + 3 * READ),
        (12, 30): (2, MACRO + 2 * READ),
        (16, 48): (3, MACRO + 3 * READ),
        (16, 42): (2, MACRO + 2 * READ),
    }


def test_more_than_eight_walks_block() -> None:
    found = walk_overlap((1, 2, 8, 9, 16))
    walk = 4 * READ
    np.testing.assert_array_equal(found.walk_ps - MACRO, [walk, walk, walk, 2 * walk, 2 * walk])
    assert (found.one_walk_ps, found.walk_slots) == (walk, 8)
