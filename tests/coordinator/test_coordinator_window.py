from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from unimem.addresses import window_of
from unimem_coordinator.rows import RegionPhase, RegionRow
from unimem_coordinator.window import BLOCK_BYTES, GUARD_BYTES, PAGE_BYTES, end_of, mapped_bytes, place

WINDOW = window_of(0)


def region(gva: int, length: int) -> RegionRow:
    return RegionRow(gva, length, "n0", 1, "", RegionPhase.ACTIVE)


def test_the_first_region_starts_the_window() -> None:
    assert place(WINDOW, WINDOW.start, [], 1) == WINDOW.start


def test_large_regions_start_on_a_block() -> None:
    assert place(WINDOW, WINDOW.start + PAGE_BYTES, [], BLOCK_BYTES - PAGE_BYTES) == WINDOW.start + PAGE_BYTES
    assert place(WINDOW, WINDOW.start + PAGE_BYTES, [], BLOCK_BYTES) == WINDOW.start + BLOCK_BYTES
    # What is mapped decides: one byte less than a block is a block.
    assert place(WINDOW, WINDOW.start + PAGE_BYTES, [], BLOCK_BYTES - 1) == WINDOW.start + BLOCK_BYTES


def test_a_freed_address_waits_until_the_window_has_no_other() -> None:
    high_water = WINDOW.start + 10 * PAGE_BYTES
    assert place(WINDOW, high_water, [], PAGE_BYTES) == high_water
    full = WINDOW.stop
    assert place(WINDOW, full, [], PAGE_BYTES) == WINDOW.start
    kept = region(WINDOW.start, 1)
    assert place(WINDOW, full, [kept], PAGE_BYTES) == WINDOW.start + PAGE_BYTES + GUARD_BYTES


def test_first_fit_leaves_a_guard_page_before_the_next_region() -> None:
    kept = region(WINDOW.start + 2 * PAGE_BYTES, PAGE_BYTES)
    assert place(WINDOW, WINDOW.stop, [kept], PAGE_BYTES) == WINDOW.start
    assert place(WINDOW, WINDOW.stop, [kept], 2 * PAGE_BYTES) == end_of(kept)


def test_the_whole_window_fits_once() -> None:
    size = len(WINDOW)
    assert place(WINDOW, WINDOW.start, [], size) == WINDOW.start
    everything = region(WINDOW.start, size)
    assert place(WINDOW, end_of(everything), [everything], 1) is None
    assert place(WINDOW, end_of(everything), [], size) == WINDOW.start


@pytest.mark.parametrize("length", [1, PAGE_BYTES, PAGE_BYTES + 1])
def test_mapped_bytes_are_whole_pages(length: int) -> None:
    assert mapped_bytes(length) % PAGE_BYTES == 0
    assert 0 <= mapped_bytes(length) - length < PAGE_BYTES


SIZES = st.integers(1, 3 * BLOCK_BYTES) | st.integers(1 << 30, 1 << 35)


@given(st.lists(st.tuples(SIZES, st.booleans()), max_size=40))
def test_regions_never_touch(steps: list[tuple[int, bool]]) -> None:
    """Fill, free and refill a window: every region lies inside, aligned, a guard page from its neighbours."""
    regions: list[RegionRow] = []
    high_water = WINDOW.start
    for length, drop in steps:
        gva = place(WINDOW, high_water, regions, length)
        if gva is None:
            assert sum(mapped_bytes(row.length) for row in regions) + length > len(WINDOW) // 8
        else:
            added = region(gva, length)
            assert WINDOW.start <= gva
            assert gva + mapped_bytes(length) <= WINDOW.stop
            assert gva % (BLOCK_BYTES if length > BLOCK_BYTES - PAGE_BYTES else PAGE_BYTES) == 0
            assert all(gva >= end_of(row) or end_of(added) <= row.gva for row in regions)
            regions = sorted([*regions, added], key=lambda row: row.gva)
            high_water = max(high_water, end_of(added))
        if drop and regions:
            regions.pop(len(regions) // 2)
