"""What an address means: VMSAv8-64 descriptors, the walk through them, and building tables of them."""

from unimem_node.mmu.geometry import Geometry
from unimem_node.mmu.regime import FaultCode, Regime
from unimem_node.mmu.tables import Mapping, PageTable
from unimem_node.mmu.walker import WalkResult, WalkStep, walk

__all__ = ["FaultCode", "Geometry", "Mapping", "PageTable", "Regime", "WalkResult", "WalkStep", "walk"]
