"""Physical memory: bytes at physical addresses, in banks on one sparse mapping; its ports; a CPU's cache."""

from unimem_node.memory.cache import WriteBackCache
from unimem_node.memory.dram_ports import DramPorts, DramPortSpec, DramSpec, DramStream
from unimem_node.memory.physical import MemoryBank, PhysicalMemory

__all__ = [
    "DramPortSpec",
    "DramPorts",
    "DramSpec",
    "DramStream",
    "MemoryBank",
    "PhysicalMemory",
    "WriteBackCache",
]
