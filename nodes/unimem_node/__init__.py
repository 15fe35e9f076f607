"""One simulated ARMv8 MPSoC: memory, MMU, SMMU, DMA engines, fabric, a small kernel, and its service.

`Mpsoc` is the chip out of reset for bare-metal software, `Node` the same chip with a kernel booted on it.
Both are loaded on first use, so that importing the package (for a version, for a floor) costs nothing.
"""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from unimem_node.mpsoc.node import Node
    from unimem_node.mpsoc.soc import Mpsoc

__all__ = ["Mpsoc", "Node"]

_HOMES = {"Mpsoc": "unimem_node.mpsoc.soc", "Node": "unimem_node.mpsoc.node"}


def __getattr__(name: str) -> Any:
    home = _HOMES.get(name)
    if home is None:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    value = getattr(import_module(home), name)
    globals()[name] = value
    return value


def __dir__() -> list[str]:
    return sorted([*globals(), *__all__])
