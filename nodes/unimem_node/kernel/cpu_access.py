"""How the CPU reaches memory of a process: through its page tables, with a page fault where they say no.

The Cortex-A53 sets no access flags itself (Armv8.0 has no hardware update): a page whose flag is clear faults
as an absent one does.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from typing import TYPE_CHECKING, Final

from unimem.addresses import align_down, fmt
from unimem_node.kernel.frames import PAGE, Extent

if TYPE_CHECKING:
    from unimem_node.kernel.processes import Process

READ: Final = 1
WRITE: Final = 2
READ_WRITE: Final = READ | WRITE

#: Bytes that are made present in one go where some are not.
_WINDOW: Final = 64 * PAGE


class KernelFault(ValueError):  # noqa: N818 - a fault is called a fault
    """The CPU touched an address of a process that it may not: `va`, and `kind` ("unmapped", "read-only")."""

    def __init__(self, pdid: int, va: int, kind: str, access: str) -> None:
        super().__init__(f"process {pdid} cannot {access} {fmt(va)}: {kind}")
        self.pdid = pdid
        self.va = va
        self.kind = kind


def runs(process: Process, va: int, n: int, rights: int) -> Iterator[Extent]:
    """Return the memory behind a range, all of it present; raises `KernelFault`, `MemoryError`."""
    for _ in range(2):
        try:
            return iter(list(_walk(process, va, n, rights)))
        except KernelFault:
            if process.paging is None:
                raise
            _check(process, va, n, rights)
            process.paging.touch(process, va, n, bool(rights & WRITE))
    try:
        return iter(list(_walk(process, va, n, rights)))
    except KernelFault as fault:
        raise MemoryError(f"out of memory: {n} bytes cannot be present at once ({fault})") from None


def parts(process: Process, va: int, n: int, rights: int) -> Iterable[Extent]:
    """Return memory as `runs` does, in parts each of which is used before the next is asked for.

    What no page fault would cure is found before the first part.
    """
    try:
        return list(_walk(process, va, n, rights))
    except KernelFault:
        if process.paging is None:
            raise
    _check(process, va, n, rights)
    return _faulting(process, va, n, rights)


def _faulting(process: Process, va: int, n: int, rights: int) -> Iterator[Extent]:
    end = va + n
    while va < end:
        stop = min(end, align_down(va, _WINDOW) + _WINDOW)
        try:
            yield from runs(process, va, stop - va, rights)
        except MemoryError:  # page by page, then; each fits, or nothing does
            while va < stop:
                step = min(stop, align_down(va, PAGE) + PAGE)
                yield from runs(process, va, step - va, rights)
                va = step
        va = stop


def _check(process: Process, va: int, n: int, rights: int) -> None:
    """Raise `KernelFault` for the first address that no page fault would cure."""
    access = "write" if rights & WRITE else "read"
    end = va + n
    while va < end:
        area = process.areas.at(va)
        if area is None or area.end_of_file <= va:
            raise KernelFault(process.pdid, va, "unmapped", access)
        if rights & WRITE and not area.rights & WRITE:
            raise KernelFault(process.pdid, va, "read-only", access)
        va = min(area.end, area.end_of_file)


def _walk(process: Process, va: int, n: int, rights: int) -> Iterator[Extent]:
    if n < 0 or va < 0:
        raise ValueError(f"process {process.pdid}: {n} bytes at {fmt(va)} cannot be accessed")
    access = "write" if rights & WRITE else "read"
    end = va + n
    while va < end:
        found = process.table.lookup(va) if va >> 48 == 0 else None
        if found is None or not found.rights.access_flag:
            raise KernelFault(process.pdid, va, "unmapped", access)
        if rights & WRITE and not found.rights.write:
            raise KernelFault(process.pdid, va, "read-only", access)
        length = min(end, found.va + found.size) - va
        yield Extent(found.translate(va), length)
        va += length
