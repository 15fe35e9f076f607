"""Who may ask, and through which tables? The SMMU (MMU-500): streams, banks, TLBs, faults, registers."""

from unimem_node.smmu.arrays import Arrays
from unimem_node.smmu.faults import Fault, FaultKind
from unimem_node.smmu.smmu import Blocked, Smmu, Translation
from unimem_node.smmu.spec import SmmuSpec, SmmuTiming
from unimem_node.smmu.stalls import Hold
from unimem_node.smmu.streams import GlobalFault, RouteKind, StreamRoute
from unimem_node.smmu.wrapper import SmmuWrapper

__all__ = [
    "Arrays",
    "Blocked",
    "Fault",
    "FaultKind",
    "GlobalFault",
    "Hold",
    "RouteKind",
    "Smmu",
    "SmmuSpec",
    "SmmuTiming",
    "SmmuWrapper",
    "StreamRoute",
    "Translation",
]
