"""Group ``tcp``: see `unimem_lab.bench.wires`."""

from __future__ import annotations

from collections.abc import Iterator

from unimem_lab.bench import wires
from unimem_lab.bench.result import Figure


def measure(quick: bool) -> Iterator[Figure]:
    """Every figure of the transport `tcp`."""
    yield from wires.measure("tcp", quick)
