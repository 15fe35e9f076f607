"""Floor 5: what does the software on the chip do? Frames, processes, drivers; it has only the bus."""

from unimem_node.kernel.board import Board, DmaNode, NiNode, SmmuNode
from unimem_node.kernel.context_bank import NoContextBank, NoStreamMatch, SmmuError, StreamConflict
from unimem_node.kernel.faults import FaultReport
from unimem_node.kernel.kernel import Kernel
from unimem_node.kernel.processes import READ, READ_WRITE, WRITE, KernelFault, Process
from unimem_node.kernel.smmu_driver import SmmuDriver
from unimem_node.kernel.static_domain import StaticDomain

__all__ = [
    "READ",
    "READ_WRITE",
    "WRITE",
    "Board",
    "DmaNode",
    "FaultReport",
    "Kernel",
    "KernelFault",
    "NiNode",
    "NoContextBank",
    "NoStreamMatch",
    "Process",
    "SmmuDriver",
    "SmmuError",
    "SmmuNode",
    "StaticDomain",
    "StreamConflict",
]
