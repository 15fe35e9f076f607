"""What the memory fabric knows of each node, and what it asks of a bad network."""

from __future__ import annotations

from collections import deque
from typing import TYPE_CHECKING, Any, Protocol

import numpy as np
import numpy.typing as npt

from ._fast_network import NEVER
from .transport import FrameSource

if TYPE_CHECKING:
    from unimem_node.clock import Event

Bytes = npt.NDArray[np.uint8]


class Impairment(Protocol):
    """What a bad network does to a frame: `unimem_node.fabric.impair.Impair`, or several in a row."""

    def __bool__(self) -> bool:
        """Whether it does anything at all."""

    def apply(self, frame: Bytes, now_ps: int) -> list[tuple[int, Bytes]]:
        """The frames that arrive instead, and how much later (ps)."""


class Port:
    """A node's place in the fabric; `node` is None once it has been cut."""

    __slots__ = (
        "armed_ps",
        "core",
        "drain",
        "free_ps",
        "gap_ps",
        "index",
        "node",
        "paused",
        "queue",
        "row",
        "spoken",
        "watched",
    )

    def __init__(self, index: int, node: FrameSource, row: int) -> None:
        self.index = index
        self.node: FrameSource | None = node
        self.row = row  # number of the attachment: orders timers of one time
        self.spoken: set[int] = set()  # peers a frame went to
        self.queue: deque[tuple[int, Bytes]] = deque()  # frames that wait for the node
        self.paused = False
        self.gap_ps = 0  # between two frames that it takes
        self.free_ps = 0  # when it takes the next
        self.drain: Event | None = None  # takes the first of the queue
        self.armed_ps = NEVER  # when its timer is in the queue
        self.watched = False
        self.core: Any = None  # what compiled code works on
