"""Floor 3: who asks? ZDMA channels, AXI CDMA, AXI DMA: simple transfers and scatter-gather.

An engine is a register block on the bus and a `Mover` behind it, which presents a stream ID to the SMMU and
moves bytes at scheduler events. It knows nothing of page tables: an address either translates or the SMMU
refuses it.
"""

from unimem_node.dma.axi_dma import AxiDma
from unimem_node.dma.cdma import AxiCdma
from unimem_node.dma.mover import Mover, Refusal
from unimem_node.dma.pace import Loads
from unimem_node.dma.port import SmmuPort
from unimem_node.dma.snoop import Snoop
from unimem_node.dma.spec import AxiDmaSpec, CdmaSpec, DataPath, Patience, ZdmaSpec
from unimem_node.dma.zdma import ZdmaChannel

__all__ = [
    "AxiCdma",
    "AxiDma",
    "AxiDmaSpec",
    "CdmaSpec",
    "DataPath",
    "Loads",
    "Mover",
    "Patience",
    "Refusal",
    "SmmuPort",
    "Snoop",
    "ZdmaChannel",
    "ZdmaSpec",
]
