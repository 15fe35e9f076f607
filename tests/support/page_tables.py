"""Page tables in a memory of their own: an allocator that knows what is out, walks through what was built."""

from __future__ import annotations

from unimem_node.bus import Bus
from unimem_node.memory import MemoryBank, PhysicalMemory
from unimem_node.mmu import Geometry, PageTable, Regime, WalkResult, walk
from unimem_node.mmu.regime import STAGE_2

DRAM, DRAM_SIZE = 0x8_0000_0000, 1 << 28


class TableBoard:
    """Memory, and one table of some shape in it."""

    def __init__(self, geometry: Geometry) -> None:
        self.memory = PhysicalMemory([MemoryBank("dram", DRAM, DRAM_SIZE)])
        self.geometry = geometry
        self.out: set[int] = set()
        self._next = DRAM
        self.table = PageTable(
            Bus(self.memory),
            lambda: self.allocate(geometry.page),
            self.out.remove,  # KeyError: freed twice
            geometry=geometry,
            allocate_root=self.allocate,
        )

    def allocate(self, size: int) -> int:
        """Dirty memory, aligned to its size."""
        address = -(-self._next // size) * size
        self._next = address + size
        self.memory.write(address, b"\xff" * size)
        self.out |= set(range(address, address + size, self.geometry.page))
        return address

    def regime(self, **others: int) -> Regime:
        """The regime that walks the table."""
        shape = self.geometry
        if shape.stage == STAGE_2:
            fields = {
                "stages": STAGE_2, "ttbr0": self.table.root, "t0sz": shape.txsz, "sl0": shape.sl0,
                "granule_shift0": shape.granule_shift,
            }  # fmt: skip
        elif shape.upper:
            fields = {
                "ttbr1": self.table.root, "t1sz": shape.txsz, "granule_shift1": shape.granule_shift,
                "epd0": 1, "epd1": 0,
            }  # fmt: skip
        else:
            fields = {
                "ttbr0": self.table.root, "t0sz": shape.txsz, "granule_shift0": shape.granule_shift
            }  # fmt: skip
        return Regime(**{**fields, **others})  # type: ignore[arg-type]

    def walk(self, va: int, access: int = 0, **others: int) -> WalkResult:
        """Translate an address."""
        return walk(self.memory, self.regime(**others), va, access)
