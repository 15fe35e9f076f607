"""Virtual against physical addressing: what each part of the cost must be, by hand."""

from __future__ import annotations

import pytest

from unimem_lab.measurements import rdma_cost, reach_cost, translation_cost

KIB = 1 << 10
MIB = 1 << 20
#: Picoseconds, from the platform's file: micro-TLB, macro TLB, a descriptor.
MICRO, MACRO, READ = 4_000, 20_000, 150_000


@pytest.mark.parametrize("engine", ["fpd0", "HP0"])
@pytest.mark.parametrize(
    ("shape", "leaf", "levels"),
    [((12, 48), 4 * KIB, 4), ((12, 39), 4 * KIB, 3), ((14, 36), 16 * KIB, 2), ((16, 42), 64 * KIB, 2)],
)
def test_a_small_transfer_pays_for_its_first_walk(
    engine: str, shape: tuple[int, int], leaf: int, levels: int
) -> None:
    """Two pages a gibibyte apart: both look the macro TLB up, then walk all levels at the same time."""
    cold, warm = translation_cost([64], [shape], [engine])
    assert (cold.engine, cold.size, cold.leaf_bytes, cold.levels) == (engine, 64, leaf, levels)
    assert (cold.state, warm.state) == ("cold", "warm")
    assert cold.cost_ps == 2 * MACRO + levels * READ
    assert warm.cost_ps == 0
    assert cold.ratio > 1.8


def test_a_large_transfer_pays_a_macro_look_up_and_a_walk_a_page() -> None:
    (cold, warm) = translation_cost([4 * MIB], [(12, 48)], ["fpd0"])
    pages = 2 * 1024
    assert warm.cost_ps == pytest.approx(pages * (MICRO + MACRO + READ / 8), rel=0.02)  # beyond all TLBs
    assert cold.cost_ps == pytest.approx(warm.cost_ps, rel=0.01)


def test_what_fits_into_the_macro_tlb_does_not_walk_again() -> None:
    (_, warm) = translation_cost([MIB], [(12, 48)], ["HP0"])
    assert warm.cost_ps == pytest.approx(512 * (MICRO + MACRO), rel=0.02)


def test_blocks_cost_next_to_nothing() -> None:
    (cold, warm) = translation_cost([4 * MIB], [(12, 48)], ["fpd0"], blocks=True)
    assert (cold.leaf_bytes, cold.levels) == (2 * MIB, 3)
    assert cold.ratio < 1.01
    assert warm.ratio < 1.001


def test_random_places_cost_what_the_reach_leaves() -> None:
    near, far = reach_cost([256 * KIB, 256 * MIB], [12], transfers=60)
    assert (near.walks, near.virtual_ps) == (0, near.physical_ps)
    assert far.walks == pytest.approx(1, abs=0.1)
    assert far.virtual_ps - far.physical_ps >= MACRO + READ


def test_puts_pay_for_translation_once_and_large_ones_hide_it_behind_the_wire() -> None:
    small_cold, small_warm, large_cold, large_warm = rdma_cost([64, MIB])
    assert (small_cold.size, small_cold.state, large_warm.state) == (64, "cold", "warm")
    assert small_cold.virtual_ps - small_cold.free_ps >= 2 * 3 * READ  # both ends walk
    assert small_warm.virtual_ps - small_warm.free_ps <= 2 * (MICRO + MACRO)
    assert large_cold.ratio < 1.01
    assert large_warm.ratio < 1.001
