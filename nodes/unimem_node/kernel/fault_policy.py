"""What the kernel does about a page fault of remote DMA: the policies of arXiv 2511.21018, and some more.

`abort`: nothing; the access is refused. The others make the page present and have the access made again:
`touch_a_page` that page; `touch_ahead` also those behind it; `prefault` and `pin` expect the owner of the
memory to have touched, or pinned, it beforehand (`Node.prepare`), and treat what faults all the same as
`touch_a_page` does; `stall` lets the SMMU hold the access (SCTLR.CFCFG = 1) until the page is there (RESUME),
so that nothing is sent twice.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Final

_KINDS: Final = ("abort", "touch_a_page", "touch_ahead", "prefault", "pin", "stall")
#: Pages that `touch_ahead` touches unless it is told. [U] 64 KiB: four blocks.
DEFAULT_AHEAD: Final = 16
#: Most pages in one go; 256 MiB, as long as the longest staging buffer.
MOST_AHEAD: Final = 1 << 16


@dataclass(frozen=True, slots=True)
class FaultPolicy:
    """A policy. `pages`: touched in one go, from the one that faulted. `hupcf`: see `parse`."""

    kind: str = "abort"
    pages: int = 1
    hupcf: bool = False

    @classmethod
    def parse(cls, text: str) -> FaultPolicy:
        """Read a policy: abort, touch_a_page, touch_ahead[:pages], prefault, pin, stall[:hupcf].

        With ``stall:hupcf`` a stalled access lets those behind it pass (SCTLR.HUPCF = 1); otherwise whatever
        uses the same context bank waits. Raises `ValueError`.
        """
        kind, colon, argument = text.strip().lower().partition(":")
        if kind == "touch_ahead":
            pages = DEFAULT_AHEAD
            if colon:
                pages = int(argument) if argument.isdecimal() else 0
            if 1 <= pages <= MOST_AHEAD:
                return cls(kind, pages)
            raise ValueError(f"fault policy {text!r}: touch_ahead:N touches 1 to {MOST_AHEAD} pages")
        if kind == "stall" and argument == ("hupcf" if colon else ""):
            return cls(kind, hupcf=bool(colon))
        if kind in _KINDS and kind != "stall" and not colon:
            return cls(kind)
        raise ValueError(
            f"there is no fault policy {text!r}: abort, touch_a_page, touch_ahead[:pages], prefault, pin, "
            "stall[:hupcf]"
        )

    @property
    def resolves(self) -> bool:
        """Whether faults are resolved at all."""
        return self.kind != "abort"

    @property
    def stalls(self) -> bool:
        """Whether the SMMU holds the access meanwhile."""
        return self.kind == "stall"

    def __str__(self) -> str:
        if self.kind == "touch_ahead":
            return f"touch_ahead:{self.pages}"
        return "stall:hupcf" if self.hupcf else self.kind
