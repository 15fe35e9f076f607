"""Floor 3: who asks? ZDMA channels and AXI CDMA, in simple register mode.

An engine is a register block on the bus and a `DataMover` behind it, which presents a stream ID to the
SMMU and moves bytes at scheduler events. It knows nothing of page tables: an address either translates
or the SMMU refuses it.
"""

from unimem_node.dma.cdma import AxiCdma
from unimem_node.dma.mover import DataMover, Ending, Job, Refusal
from unimem_node.dma.port import SmmuPort
from unimem_node.dma.spec import CdmaSpec, DataPath, ZdmaSpec
from unimem_node.dma.zdma import ZdmaChannel

__all__ = [
    "AxiCdma",
    "CdmaSpec",
    "DataMover",
    "DataPath",
    "Ending",
    "Job",
    "Refusal",
    "SmmuPort",
    "ZdmaChannel",
    "ZdmaSpec",
]
