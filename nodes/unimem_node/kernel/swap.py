"""A swap device: pages that were anonymous, outside the simulated memory."""

from __future__ import annotations

from unimem_node.kernel.frames import PAGE
from unimem_node.kernel.paging_memory import Slot

_ZERO = bytes(PAGE)


class Swap:
    """Room for `slots` pages. A page of zeros takes a slot, and no memory of the host."""

    def __init__(self, slots: int) -> None:
        self.slots = slots
        self.used = 0
        self.reads = 0  # pages
        self.writes = 0

    @property
    def free(self) -> int:
        """Pages that still fit."""
        return self.slots - self.used

    def store(self, content: bytes, users: int) -> Slot | None:
        """Write a page out for so many backings, or return None when there is no room."""
        if self.used >= self.slots:
            return None
        self.used += 1
        self.writes += 1
        return Slot(b"" if content == _ZERO else content, users)

    def load(self, slot: Slot) -> bytes:
        """Read a page."""
        self.reads += 1
        return slot.data or _ZERO

    def drop(self, slot: Slot) -> None:
        """One backing does not need a slot any more; the last one frees it."""
        slot.users -= 1
        if slot.users == 0:
            self.used -= 1
