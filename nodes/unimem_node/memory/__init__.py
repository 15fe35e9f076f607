"""Physical memory: bytes at physical addresses, in banks on one sparse mapping; and the CPU's cache."""

from unimem_node.memory.cache import WriteBackCache
from unimem_node.memory.physical import MemoryBank, PhysicalMemory

__all__ = ["MemoryBank", "PhysicalMemory", "WriteBackCache"]
