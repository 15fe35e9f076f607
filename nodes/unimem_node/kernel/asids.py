"""Address space identifiers: which number tags a process' TLB entries (TTBR0 bits 63:48)."""

from __future__ import annotations


class Asids:
    """Hands out 1 to ``2**bits - 2``: 0 is the kernel's, and the last is left alone (TLBs may use it inside).

    A number comes back as late as possible, so that an entry somebody forgot to invalidate rarely meets a
    new process.
    """

    def __init__(self, bits: int = 16) -> None:
        self._last = (1 << bits) - 2
        self._used: set[int] = set()
        self._next = 1

    def allocate(self) -> int:
        """Return a free number; raises `MemoryError` when there is none."""
        if len(self._used) == self._last:
            raise MemoryError(f"all {self._last} ASIDs are in use")
        while self._next in self._used:
            self._next = self._next % self._last + 1
        asid = self._next
        self._used.add(asid)
        self._next = asid % self._last + 1
        return asid

    def free(self, asid: int) -> None:
        """Take a number back; no TLB may hold entries with it."""
        self._used.remove(asid)
