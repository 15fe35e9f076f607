"""The top floor of Unimem: clusters to run, the demo, benchmarks, the `unimem` command.

Names are loaded on first use: `unimem healthcheck` must not pay for a simulator.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from unimem_lab.processes import ProcessCluster as ProcessCluster
    from unimem_lab.sim import SimCluster as SimCluster

__all__ = ["ProcessCluster", "SimCluster"]

_WHERE = {"SimCluster": "unimem_lab.sim", "ProcessCluster": "unimem_lab.processes"}


def __getattr__(name: str) -> Any:
    if name in _WHERE:
        from importlib import import_module  # noqa: PLC0415

        return getattr(import_module(_WHERE[name]), name)
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
