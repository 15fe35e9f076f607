"""A static domain: page tables made for an engine, filled before it runs (the thesis' first way).

The engine's addresses (IOVA) mean what was inserted here, whatever any process has mapped.
"""

from __future__ import annotations

from typing import Protocol

from unimem_node.kernel.frames import FrameAllocator
from unimem_node.kernel.table_bus import TableBus
from unimem_node.mmu.tables import PageTable


class _Driver(Protocol):
    """The part of the SMMU driver that a domain needs."""

    def invalidate(self, asid: int, va: int, length: int) -> None: ...

    def release(self, domain: StaticDomain) -> None: ...


class StaticDomain:
    """The SMMU's own tables for one stream, in context bank `bank`. Made by `SmmuDriver.attach_static`."""

    def __init__(self, driver: _Driver, asid: int, tables: TableBus, frames: FrameAllocator) -> None:
        self.asid = asid
        self.bank = -1
        self.mapped_bytes = 0
        self._driver = driver
        self._frames = frames
        self._retired: list[int] = []
        self.table = PageTable(tables, frames.page, self._retired.append)

    def map(self, iova: int, pa: int, length: int, *, write: bool = True) -> None:
        """Insert a mapping of whole pages; raises `ValueError` when an address is taken, `MemoryError`."""
        self.table.map(iova, pa, length, write=write)
        self.mapped_bytes += length

    def unmap(self, iova: int, length: int) -> None:
        """Remove a mapping, and wait until the TLBs have forgotten it; raises `ValueError`."""
        self.table.unmap(iova, length)
        self.mapped_bytes -= length
        self._driver.invalidate(self.asid, iova, length)
        self._free_retired()

    def detach(self) -> None:
        """End the domain: the stream leads nowhere, bank and tables are free again."""
        self._driver.release(self)
        self.discard()

    def discard(self) -> None:
        """Free the tables, which no context bank may walk any more."""
        self.table.destroy()
        self._free_retired()

    def _free_retired(self) -> None:
        while self._retired:
            self._frames.free(self._retired.pop())
