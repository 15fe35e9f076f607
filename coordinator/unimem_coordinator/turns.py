"""The rule that at most one change is at work on a node, asserted."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager


class Turns:
    """Which nodes a change is at work on.

    A change yields `Turn` first; a shell that lets another one past it while this one waits for its node has
    broken the contract, and is told so before anything is mapped twice.
    """

    def __init__(self) -> None:
        self._busy: set[str] = set()

    @contextmanager
    def working(self, node: str) -> Iterator[None]:
        """Hold `node` within the block."""
        assert node not in self._busy, f"two changes at once on node {node}: the shell did not honour Turn"
        self._busy.add(node)
        try:
            yield
        finally:
            self._busy.discard(node)
