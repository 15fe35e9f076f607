"""Making page faults of DMA not happen: memory touched, or pinned, before it is used, and what that costs.

Linux' `madvise(MADV_POPULATE_WRITE)` and `get_user_pages`. A process does it on its own CPU, so the thread
that resolves faults is not kept from its work; the caller lets the time pass.
"""

from __future__ import annotations

from unimem.addresses import align_down, align_up, fmt
from unimem_node.kernel.frames import PAGE
from unimem_node.kernel.paging import Paging
from unimem_node.kernel.processes import Process
from unimem_node.kernel.timing import KernelTiming


def prepare(
    paging: Paging, timing: KernelTiming, process: Process, va: int, length: int, how: str, write: bool
) -> int:
    """Make ``[va, va + length)`` present ("prefault"), or hold it so ("pin"); returns its cost in ps.

    Raises `ValueError` for another `how`, or where nothing is mapped or may not be written: nothing has
    changed then. `MemoryError`: some pages may be present, none is pinned.
    """
    if how not in ("prefault", "pin"):
        raise ValueError(f"memory is prepared by prefault or pin, not by {how!r}")
    if length <= 0:
        raise ValueError(f"process {process.pdid}: cannot {how} {length} bytes")
    found = paging.survey(process, va, length, write)
    if found.gone_at is not None:
        verb = "written" if write else "read"
        raise ValueError(f"process {process.pdid}: cannot {how} {fmt(found.gone_at)}: it may not be {verb}")
    pages = _pages(va, length)
    if how == "pin":
        touched = process.pin(va, length, write)
        held = pages * timing.pin_page_ps
    else:
        touched = paging.touch(process, va, length, write)
        held = 0
    present = max(pages - touched.minor - touched.major, 0)
    return timing.call_ps + timing.pages_ps(touched.minor, touched.major, present) + held


def release(timing: KernelTiming, process: Process, va: int, length: int) -> int:
    """Undo a pin; returns its cost in ps. Raises `ValueError` where nothing is pinned."""
    if length <= 0:
        raise ValueError(f"process {process.pdid}: cannot unpin {length} bytes")
    start, end = align_down(va, PAGE), align_up(va + length, PAGE)
    process.unpin(start, end - start)
    return timing.call_ps + _pages(va, length) * timing.unpin_page_ps


def _pages(va: int, length: int) -> int:
    return (align_up(va + length, PAGE) - align_down(va, PAGE)) // PAGE
