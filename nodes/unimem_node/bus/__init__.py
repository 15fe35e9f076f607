"""The bus of one node: who answers at a physical address, and how devices show registers and interrupts."""

from unimem_node.bus.bus import Bus, Device, Inspectable, Region
from unimem_node.bus.errors import BusError, Response

__all__ = ["Bus", "BusError", "Device", "Inspectable", "Region", "Response"]
