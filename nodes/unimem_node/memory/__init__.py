"""Physical memory: bytes at physical addresses, in banks, on one sparse anonymous mapping."""

from unimem_node.memory.physical import MemoryBank, PhysicalMemory

__all__ = ["MemoryBank", "PhysicalMemory"]
