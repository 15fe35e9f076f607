"""Floor 4: how does a request reach another node? Packets, the RDMA network interface, transports.

`RdmaNi` is the device: work requests in, completions out, frames to and from peers. A transport carries the
frames; `MemoryFabric` is the one for nodes of one process. docs/protocol.md is the specification.
"""

from unimem_node.fabric.core import Route
from unimem_node.fabric.memory import MemoryFabric
from unimem_node.fabric.ni import RdmaNi
from unimem_node.fabric.state import RdmaSpec
from unimem_node.fabric.transport import FrameSink, FrameSource, Transport

__all__ = ["FrameSink", "FrameSource", "MemoryFabric", "RdmaNi", "RdmaSpec", "Route", "Transport"]
