"""What may go wrong in an experiment: one model for each type of fault that the simulation has.

`unimem_lab.faults` makes them happen. A type that is not here is refused when the file is read.
"""

from __future__ import annotations

import random
import re
from collections.abc import Sequence
from fnmatch import fnmatchcase
from typing import Annotated, Any, ClassVar, Final, Literal

from pydantic import BaseModel, ConfigDict, Field, field_validator, model_validator

from unimem_lab.experiments.values import Count, Share, Size, Time, Whole

#: Words that choose nodes by number instead of by name.
CHOICES: Final = ("one", "minority", "majority", "all")
_RANGE: Final = re.compile(r"(0[xX][0-9a-fA-F_]+)\.\.(0[xX][0-9a-fA-F_]+)")
_NAMES: Final = re.compile(r"[A-Za-z0-9_*?\[\]!.-]+")
_WHEN: Final = re.compile(r"\s*([a-z_0-9]+)\s*(<=|>=|==|<|>)\s*(\d+(?:\.\d+)?)\s*")


def parse_range(text: str) -> tuple[int, int] | None:
    """The addresses of "0x1000..0x2000" (the end is not part of it), or None for other text."""
    found = _RANGE.fullmatch(text.strip())
    return None if found is None else (int(found[1], 16), int(found[2], 16))


def parse_when(text: str) -> tuple[str, str, float]:
    """(counter, comparison, number) of "ops >= 100"; raises `ValueError`."""
    found = _WHEN.fullmatch(text)
    if found is None:
        raise ValueError(
            f"{text!r} is no condition: write a counter, a comparison and a number, such as ops >= 100"
        )
    return found[1], found[2], float(found[3])


class Fault(BaseModel):
    """What all faults have in common.

    Times count from the workload's begin. `at`: when it strikes; or `after`: once so many operations have
    ended. `for`: it is healed so long after; otherwise when the run ends. `every`: it strikes again so long
    after each time. `p`: of a link's fault the probability for each packet; of any other the probability for
    each time it would strike; 0: it is not installed. `max_count`: most times that it strikes (packets, for a
    link). `when`: it strikes only while a condition holds, of `ops`, `failed`, `time_us`, or a node counter
    (summed over the nodes). `target`: a node's name, a glob, `one`, `minority`, `majority`, `all`; for links
    also `a->b` of these; for memory also a range of global addresses.
    """

    model_config = ConfigDict(frozen=True, extra="forbid")

    places: ClassVar[frozenset[str]] = frozenset({"node"})

    name: str = ""
    target: str = "all"
    at: Time | None = None
    after: Whole | None = None
    for_: Time | None = Field(None, alias="for")
    every: Time | None = None
    p: Share = 1.0
    max_count: Count | None = None
    when: str | None = None

    @field_validator("when")
    @classmethod
    def _condition(cls, text: str | None) -> str | None:
        if text is not None:
            parse_when(text)
        return text

    @model_validator(mode="after")
    def _times(self) -> Fault:
        if self.at is not None and self.after is not None:
            raise ValueError("at and after both say when it begins: leave one out")
        if self.every is not None and self.every <= 0:
            raise ValueError("every: a time longer than none")
        if self.every is not None and self.for_ is not None and self.for_ > self.every:
            raise ValueError("for is longer than every: it would strike again before it is healed")
        self._check_target()
        return self

    def _check_target(self) -> None:
        target = self.target.strip()
        if "->" in target:
            if "link" not in self.places:
                raise ValueError(f"target {self.target!r} is a link; this fault strikes a {self._strikes()}")
            ends = [end.strip() for end in target.split("->")]
        elif parse_range(target) is not None:
            if "memory" not in self.places:
                raise ValueError(
                    f"target {self.target!r} is a range of addresses; this fault strikes a {self._strikes()}"
                )
            low, high = parse_range(target) or (0, 0)
            if low >= high:
                raise ValueError(f"target {self.target!r}: the range is empty")
            return
        else:
            ends = [target]
        for end in ends:
            if not _NAMES.fullmatch(end):
                raise ValueError(
                    f"target {self.target!r}: write a node's name, a glob, {', '.join(CHOICES)}"
                    + (", or a->b" if "link" in self.places else "")
                )

    def _strikes(self) -> str:
        return " or a ".join(sorted(self.places))


class LinkFault(Fault):
    """A fault of the links between nodes: while it lasts, it meets each packet with probability `p`."""

    places: ClassVar[frozenset[str]] = frozenset({"node", "link"})


class MemoryFault(Fault):
    """A fault of memory that the workload uses."""

    places: ClassVar[frozenset[str]] = frozenset({"node", "memory"})


class Loss(LinkFault):
    """Packets do not arrive."""

    type: Literal["loss"]


class Duplicate(LinkFault):
    """Packets arrive twice."""

    type: Literal["duplicate"]


class Corrupt(LinkFault):
    """Packets arrive with wrong bits."""

    type: Literal["corrupt"]


class Reorder(LinkFault):
    """Packets are overtaken: each that it meets arrives up to `within` later."""

    type: Literal["reorder"]
    within: Time = 20_000_000


class Delay(LinkFault):
    """Packets arrive `by` later, and by up to `jitter` more."""

    type: Literal["delay"]
    by: Time
    jitter: Time = 0


class Bandwidth(LinkFault):
    """Links carry only this share of their bandwidth."""

    type: Literal["bandwidth"]
    share: Annotated[float, Field(gt=0, le=1)]


class Hold(LinkFault):
    """Packets are kept back, and arrive, in order, when it is healed: `for` says when."""

    type: Literal["hold"]

    @model_validator(mode="after")
    def _ends(self) -> Hold:
        if self.for_ is None:
            raise ValueError("hold needs `for`: how long packets are kept back")
        return self


class Partition(LinkFault):
    """Nothing passes between the target nodes and the others, in either direction."""

    type: Literal["partition"]


class PartitionOneway(LinkFault):
    """Nothing from the target nodes reaches the others; the other way is open."""

    type: Literal["partition_oneway"]


class Crash(Fault):
    """A node ends with its memory; with `for` it is started again, empty, so long after."""

    type: Literal["crash"]


class Pause(Fault):
    """A node stands still for a while: what comes waits until it goes on. `for` says how long."""

    type: Literal["pause"]

    @model_validator(mode="after")
    def _ends(self) -> Pause:
        if self.for_ is None:
            raise ValueError("pause needs `for`: how long the node stands still")
        return self


class Slow(Fault):
    """A node takes in a frame only `by` after the one before."""

    type: Literal["slow"]
    by: Time


class StaleTlb(Fault):
    """The kernel forgets to invalidate the SMMU when it changes page tables."""

    type: Literal["stale_tlb"]


class Bitflip(MemoryFault):
    """A bit of the memory behind a region changes."""

    type: Literal["bitflip"]


class Reclaim(Fault):
    """The kernel reclaims pages, the least recently used first, to swap."""

    type: Literal["reclaim"]
    pages: Count = 16


class PageMove(MemoryFault):
    """The kernel does something to a few pages of a region.

    `page_out`: to swap. `drop`: private pages lose their content (MADV_DONTNEED). `migrate`: to other frames.
    `collapse`: 2 MiB become one block. `split`: a block becomes pages again.
    """

    type: Literal["page_out", "drop", "migrate", "collapse", "split"]
    length: Size = 16384


class Unmap(MemoryFault):
    """A region is freed while it is used."""

    type: Literal["unmap"]


AnyFault = Annotated[
    Loss
    | Duplicate
    | Corrupt
    | Reorder
    | Delay
    | Bandwidth
    | Hold
    | Partition
    | PartitionOneway
    | Crash
    | Pause
    | Slow
    | StaleTlb
    | Bitflip
    | Reclaim
    | PageMove
    | Unmap,
    Field(discriminator="type"),
]


def choose(target: str, nodes: Sequence[str], draw: random.Random) -> list[str]:
    """The nodes that a target means: a name, a glob, or one, minority, majority, all of them."""
    target = target.strip()
    sizes = {"one": 1, "minority": (len(nodes) - 1) // 2, "majority": len(nodes) // 2 + 1, "all": len(nodes)}
    if target in sizes:
        chosen = set(draw.sample(range(len(nodes)), min(sizes[target], len(nodes))))
        return [name for place, name in enumerate(nodes) if place in chosen]
    return [name for name in nodes if fnmatchcase(name, target)]


def wrong_target(target: str, nodes: Sequence[str]) -> str:
    """Why a target means none of these nodes, or nothing."""
    if parse_range(target) is not None:
        return ""
    for end in map(str.strip, target.split("->")):
        if end == "minority" and len(nodes) < 3:
            return f"{len(nodes)} nodes have no minority: take one, or more nodes"
        if end not in CHOICES and not any(fnmatchcase(node, end) for node in nodes):
            return f"target {end!r} is no node; there are {nodes[0]} to {nodes[-1]}, and {', '.join(CHOICES)}"
    return ""


def described(fault: Any) -> str:
    """A fault for people: its type, target and time."""
    text = f"{fault.name or fault.type}: {fault.type} of {fault.target}"
    return text + (f", p = {fault.p:g}" if fault.p < 1 else "")
