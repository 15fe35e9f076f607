"""Where in a node's window a new region goes.

Addresses that were never given out come first; a freed address is used again only when the window has none
left, so that a stale pointer meets a translation fault and not somebody else's bytes. Regions of a block
(2 MiB) and more start on a block, so that the node can map them with block descriptors (VMSAv8-64, 4 KiB
granule, level 2). One page after each region stays unmapped: running off its end faults too.
"""

from __future__ import annotations

from collections.abc import Iterable
from typing import Final

from unimem.addresses import align_up
from unimem_coordinator.rows import RegionRow

PAGE_BYTES: Final = 4 << 10
BLOCK_BYTES: Final = 2 << 20
GUARD_BYTES: Final = PAGE_BYTES


def mapped_bytes(length: int) -> int:
    """What the node maps for a region of `length` bytes: whole pages."""
    return align_up(length, PAGE_BYTES)


def place(window: range, high_water: int, regions: Iterable[RegionRow], length: int) -> int | None:
    """The address for a region of `length` bytes, or None when there is no room.

    `high_water`: first address never given out. `regions`: those that have an address, ascending.
    """
    span = mapped_bytes(length)
    unit = BLOCK_BYTES if span >= BLOCK_BYTES else PAGE_BYTES
    fresh = align_up(high_water, unit)
    if fresh + span <= window.stop:
        return fresh
    at = window.start
    for region in regions:
        candidate = align_up(at, unit)
        if candidate + span + GUARD_BYTES <= region.gva:
            return candidate
        at = end_of(region)
    candidate = align_up(at, unit)
    return candidate if candidate + span <= window.stop else None


def end_of(region: RegionRow) -> int:
    """The first address after a region and its guard page."""
    return region.gva + mapped_bytes(region.length) + GUARD_BYTES
