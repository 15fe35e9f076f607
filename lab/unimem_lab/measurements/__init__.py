"""Measurements of one chip, as its programmer would make them: software on the bus, simulated time.

Each function builds a bare chip, lets its DMA engines work, and returns a frozen dataclass of arrays and
numbers. Nothing here looks inside the model: times are those between a write that starts an engine and the
status that says it is done. What is calibrated and what these figures validate: `docs/timing.md`.

* `stream_ports`: bandwidth of masters that stream to DRAM at the same time (E13);
* `stride_sweep`, `walk_depth`, `walk_overlap`: TLBs, levels and slots of the SMMU (E14);
* `translation_cost`, `reach_cost`, `rdma_cost`: virtual against physical addressing.
"""

from unimem_lab.measurements.ports import PortStreams, stream_ports
from unimem_lab.measurements.translation_cost import (
    RdmaCost,
    ReachCost,
    TranslationCost,
    rdma_cost,
    reach_cost,
    translation_cost,
)
from unimem_lab.measurements.walks import (
    StrideSweep,
    WalkDepth,
    WalkOverlap,
    stride_sweep,
    walk_depth,
    walk_overlap,
)

__all__ = [
    "PortStreams",
    "RdmaCost",
    "ReachCost",
    "StrideSweep",
    "TranslationCost",
    "WalkDepth",
    "WalkOverlap",
    "rdma_cost",
    "reach_cost",
    "stream_ports",
    "stride_sweep",
    "translation_cost",
    "walk_depth",
    "walk_overlap",
]
