"""Faults of an experiment, made to happen: when, to whom, and how they are undone.

The models of `unimem_lab.experiments.faults` say what may happen. Here each of them strikes a simulated
cluster at its virtual times; what is drawn (targets, probabilities, which bit) is drawn from a stream of the
fault's own, so that the same seed gives the same run, whatever other faults there are.
"""

from __future__ import annotations

import random
from collections.abc import Callable, Mapping, Sequence
from typing import TYPE_CHECKING, Any, Final

from unimem_lab.experiments import faults as model
from unimem_lab.fault_kinds import STRIKES, Links, Network, Undo
from unimem_node.clock import named_stream
from unimem_node.kernel.frames import PAGE

if TYPE_CHECKING:
    from unimem_lab.sim import SimCluster
    from unimem_node.clock import Event

#: A workload's data: (node, global address, length).
InUse = Sequence[tuple[str, int, int]]


class FaultError(ValueError):
    """A fault that cannot be made to happen: says why."""


class Injector:
    """Makes the faults of one run of `cluster` happen; `arm` says that it begins.

    `in_use`: where the workload's data is, for faults of memory; `pdid()`: its domain. `log`: what struck
    whom, and when it was healed.
    """

    def __init__(
        self,
        cluster: SimCluster,
        faults: Sequence[Any],
        seed: int,
        *,
        in_use: InUse,
        pdid: Callable[[], int],
        duration_ps: int,
    ) -> None:
        self.cluster = cluster
        self._in_use, self.pdid = in_use, pdid
        self._begin = self._end = cluster.scheduler.now_ps
        self._duration_ps = duration_ps
        self.network = Network()
        self.names = {cluster.node(name).index: name for name in cluster.nodes}
        self.log: list[dict[str, Any]] = []
        self.failed = 0
        self.done = 0
        self._armed = [
            Armed(fault, f"{fault.type}{number}" if not fault.name else fault.name, seed)
            for number, fault in enumerate(faults)
            if fault.p > 0
        ]

    def arm(self) -> None:
        """The run begins now: times count from here."""
        self._begin = self.cluster.scheduler.now_ps
        self._end = self._begin + self._duration_ps
        for armed in self._armed:
            if armed.fault.after is None:
                self._at(armed, self._begin + (armed.fault.at or 0))

    def ended(self, ok: bool) -> None:
        """An operation has ended: faults that wait for so many of them may be due."""
        self.done += 1
        self.failed += not ok
        for armed in self._armed:
            if armed.fault.after is not None and not armed.begun and self.done >= armed.fault.after:
                self._at(armed, self.cluster.scheduler.now_ps)

    def heal(self) -> None:
        """End everything; nothing strikes any more."""
        for armed in self._armed:
            armed.over = True
            for event in armed.events:
                event.cancel()
            armed.events.clear()
            self._healed(armed)

    # ---- one fault

    def _at(self, armed: Armed, time_ps: int) -> None:
        armed.begun = True
        if time_ps <= self._end:
            scheduler = self.cluster.scheduler
            at = max(time_ps, scheduler.now_ps)
            armed.events.append(scheduler.at(at, lambda: self._strike(armed)))

    def _strike(self, armed: Armed) -> None:
        fault, now = armed.fault, self.cluster.scheduler.now_ps
        if armed.over:
            return
        most = fault.max_count
        if fault.every is not None and (most is None or armed.count < most):
            self._at(armed, now + fault.every)
        of_links = isinstance(fault, model.LinkFault)
        if not of_links and ((most is not None and armed.count >= most) or armed.draw.random() >= fault.p):
            return
        if fault.when is not None and not self._holds(fault.when):
            return
        self._healed(armed)
        try:
            struck, undo = STRIKES[fault.type](self, armed)
        except LookupError as error:  # its target is down, or owns nothing
            self._note(armed, "passed over", str(error).strip("'\""))
            return
        armed.count += 1
        self._note(armed, "struck", struck)
        armed.undo = undo
        if fault.for_ is not None and undo is not None:
            armed.events.append(
                self.cluster.scheduler.at(now + fault.for_, lambda: self._healed(armed, undo))
            )

    def _healed(self, armed: Armed, undo: Undo | None = None) -> None:
        if armed.undo is not None and undo in {None, armed.undo}:
            undo, armed.undo = armed.undo, None
            undo()
            self._note(armed, "healed", "")

    def _note(self, armed: Armed, what: str, target: str) -> None:
        now = self.cluster.scheduler.now_ps
        row = {"time_us": (now - self._begin) / 1e6, "fault": armed.name, "type": armed.fault.type}
        self.log.append({**row, "what": what, "target": target})
        if self.cluster.events is not None:
            self.cluster.events.record(
                now, "", "fault_injection", fault=armed.name, type=armed.fault.type, what=what, target=target
            )

    def _holds(self, text: str) -> bool:
        name, comparison, number = model.parse_when(text)
        now = self.cluster.scheduler.now_ps
        known = {"ops": self.done, "failed": self.failed, "time_us": (now - self._begin) / 1e6}
        if name not in known:
            counters = [self.cluster.node(node).counters() for node in self.running()]
            if not any(name in found for found in counters):
                raise FaultError(
                    f"when: {name} is no counter; there are {', '.join([*known, *sorted(counters[0])])}"
                )
            known[name] = sum(found.get(name, 0) for found in counters)
        return _COMPARE[comparison](known[name], number)

    # ---- targets

    def running(self) -> list[str]:
        """The nodes that run now."""
        found = []
        for name in self.cluster.nodes:
            try:
                self.cluster.node(name)
            except LookupError:
                continue
            found.append(name)
        return found

    def index(self, name: str) -> int:
        """The index of a node, which it keeps when it is started again."""
        return next(index for index, other in self.names.items() if other == name)

    def nodes(self, armed: Armed) -> list[str]:
        """The nodes meant this time; raises `LookupError` when none of them runs."""
        running = self.running()
        chosen = [n for n in model.choose(armed.fault.target, self.cluster.nodes, armed.draw) if n in running]
        if not chosen:
            raise LookupError(f"{armed.fault.target}: none of them runs")
        return chosen

    def links(self, armed: Armed) -> Links:
        """The directed links meant: between the target nodes and the others, or the one that is named."""
        nodes, target = self.cluster.nodes, armed.fault.target
        if "->" in target:
            ends = [model.choose(end, nodes, armed.draw) for end in target.split("->")]
            return frozenset((a, b) for a in ends[0] for b in ends[1] if a != b)
        chosen = set(model.choose(target, nodes, armed.draw))
        return frozenset((a, b) for a in nodes for b in nodes if a != b and (a in chosen or b in chosen))

    def region(self, armed: Armed) -> tuple[str, int, int]:
        """(node, address, length) of memory that is meant; raises `LookupError` when there is none."""
        found = model.parse_range(armed.fault.target)
        if found is not None:
            low, high = found
            for node, gva, length in self._in_use:
                if gva < high and low < gva + length:
                    return node, max(gva, low), min(gva + length, high) - max(gva, low)
            raise LookupError(f"{armed.fault.target}: the workload has no memory there")
        chosen = set(self.nodes(armed))
        there = [entry for entry in self._in_use if entry[0] in chosen]
        if not there:
            raise LookupError(f"{armed.fault.target}: the workload has no memory there")
        return there[armed.draw.randrange(len(there))]

    def part(self, armed: Armed, length: int) -> tuple[str, int, int]:
        """Some pages of memory that is meant, of `length` bytes at most."""
        node, gva, whole = self.region(armed)
        pages = -(-whole // PAGE)
        some = min(pages, -(-length // PAGE))
        first = armed.draw.randrange(pages - some + 1)
        return node, (gva & -PAGE) + first * PAGE, some * PAGE


class Armed:
    """One fault of a run."""

    def __init__(self, fault: Any, name: str, seed: int) -> None:
        self.fault, self.name = fault, name
        self.draw: random.Random = named_stream(seed, f"fault {name}")
        self.count = 0
        self.begun = self.over = False
        self.undo: Undo | None = None
        self.events: list[Event] = []


_COMPARE: Final[Mapping[str, Callable[[float, float], bool]]] = {
    "<": lambda a, b: a < b,
    "<=": lambda a, b: a <= b,
    "==": lambda a, b: a == b,
    ">=": lambda a, b: a >= b,
    ">": lambda a, b: a > b,
}
