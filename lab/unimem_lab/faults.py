"""Faults of an experiment, made to happen: when, to whom, and how they are undone.

The models of `unimem_lab.experiments.faults` say what may happen. Here each of them strikes a simulated
cluster at its virtual times; what is drawn (targets, probabilities, which bit) is drawn from a stream of the
fault's own, so that the same seed gives the same run, whatever other faults there are.
"""

from __future__ import annotations

import random
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Final

from unimem_lab.experiments import faults as model
from unimem_node.clock import named_stream
from unimem_node.fabric.impair_rules import Impair, Rule
from unimem_node.kernel.frames import PAGE

if TYPE_CHECKING:
    import numpy as np

    from unimem_lab.sim import SimCluster
    from unimem_node.clock import Event

Undo = Callable[[], object]
Links = frozenset[tuple[str, str]]
#: A workload's data: (node, global address, length).
InUse = Sequence[tuple[str, int, int]]


class FaultError(ValueError):
    """A fault that cannot be made to happen: says why."""


@dataclass(frozen=True, slots=True)
class LinkRule(Rule):
    """A rule of some directed links, by the names of their ends."""

    links: Links = frozenset()

    def matches(self, src: str, dst: str) -> bool:
        """See `Rule.matches`."""
        return (src, dst) in self.links


class Network:
    """What the fabric asks for each frame: the link faults that are active, one after the other."""

    def __init__(self) -> None:
        self._active: list[Impair] = []

    def add(self, impair: Impair) -> Undo:
        """Begin; returns what ends it."""
        self._active.append(impair)
        return lambda: self._active.remove(impair) if impair in self._active else None

    def __bool__(self) -> bool:
        return bool(self._active)

    def apply(self, frame: np.ndarray, now_ps: int) -> list[tuple[int, np.ndarray]]:
        """See `Impair.apply`."""
        arriving = [(0, frame)]
        for impair in self._active:
            arriving = [
                (delay + more, piece)
                for delay, whole in arriving
                for more, piece in impair.apply(whole, now_ps)
            ]
        return arriving


class Injector:
    """Arms the faults of one run of `cluster`, which began at its present time.

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
        self._cluster = cluster
        self._in_use, self._pdid = in_use, pdid
        self._begin = cluster.scheduler.now_ps
        self._end = self._begin + duration_ps
        self.network = Network()
        self.log: list[dict[str, Any]] = []
        self.failed = 0
        self.done = 0
        self._armed = [
            _Armed(fault, f"{fault.type}{number}" if not fault.name else fault.name, seed)
            for number, fault in enumerate(faults)
            if fault.p > 0
        ]
        for armed in self._armed:
            if armed.fault.after is None:
                self._at(armed, self._begin + (armed.fault.at or 0))

    def ended(self, ok: bool) -> None:
        """An operation has ended: faults that wait for so many of them may be due."""
        self.done += 1
        self.failed += not ok
        for armed in self._armed:
            if armed.fault.after is not None and not armed.begun and self.done >= armed.fault.after:
                self._at(armed, self._cluster.scheduler.now_ps)

    def heal(self) -> None:
        """End everything; nothing strikes any more."""
        for armed in self._armed:
            armed.over = True
            for event in armed.events:
                event.cancel()
            armed.events.clear()
            self._healed(armed)

    # ---- one fault

    def _at(self, armed: _Armed, time_ps: int) -> None:
        armed.begun = True
        if time_ps <= self._end:
            scheduler = self._cluster.scheduler
            at = max(time_ps, scheduler.now_ps)
            armed.events.append(scheduler.at(at, lambda: self._strike(armed)))

    def _strike(self, armed: _Armed) -> None:
        fault, now = armed.fault, self._cluster.scheduler.now_ps
        if armed.over:
            return
        most = fault.max_count
        if fault.every is not None:
            self._at(armed, now + fault.every)
        of_links = isinstance(fault, model.LinkFault)
        if not of_links and ((most is not None and armed.count >= most) or armed.draw.random() >= fault.p):
            return
        if fault.when is not None and not self._holds(fault.when):
            return
        self._healed(armed)
        try:
            struck, undo = _STRIKES[fault.type](self, armed)
        except LookupError as error:  # its target is down, or owns nothing
            self._note(armed, "passed over", str(error).strip("'\""))
            return
        armed.count += 1
        self._note(armed, "struck", struck)
        armed.undo = undo
        if fault.for_ is not None and undo is not None:
            armed.events.append(
                self._cluster.scheduler.at(now + fault.for_, lambda: self._healed(armed, undo))
            )

    def _healed(self, armed: _Armed, undo: Undo | None = None) -> None:
        if armed.undo is not None and undo in {None, armed.undo}:
            undo, armed.undo = armed.undo, None
            undo()
            self._note(armed, "healed", "")

    def _note(self, armed: _Armed, what: str, target: str) -> None:
        now = self._cluster.scheduler.now_ps
        row = {"time_us": (now - self._begin) / 1e6, "fault": armed.name, "type": armed.fault.type}
        self.log.append({**row, "what": what, "target": target})
        if self._cluster.events is not None:
            self._cluster.events.record(
                now, "", "fault_injection", fault=armed.name, type=armed.fault.type, what=what, target=target
            )

    def _holds(self, text: str) -> bool:
        name, comparison, number = model.parse_when(text)
        now = self._cluster.scheduler.now_ps
        known = {"ops": self.done, "failed": self.failed, "time_us": (now - self._begin) / 1e6}
        if name not in known:
            counters = [self._cluster.node(node).counters() for node in self._running()]
            if not any(name in found for found in counters):
                raise FaultError(
                    f"when: {name} is no counter; there are {', '.join([*known, *sorted(counters[0])])}"
                )
            known[name] = sum(found.get(name, 0) for found in counters)
        return _COMPARE[comparison](known[name], number)

    # ---- targets

    def _running(self) -> list[str]:
        found = []
        for name in self._cluster.nodes:
            try:
                self._cluster.node(name)
            except LookupError:
                continue
            found.append(name)
        return found

    def _nodes(self, armed: _Armed) -> list[str]:
        """The nodes meant this time; raises `LookupError` when none of them runs."""
        running = self._running()
        chosen = [
            n for n in model.choose(armed.fault.target, self._cluster.nodes, armed.draw) if n in running
        ]
        if not chosen:
            raise LookupError(f"{armed.fault.target}: none of them runs")
        return chosen

    def _links(self, armed: _Armed, *, to: bool = True, back: bool = True) -> Links:
        """The directed links meant: between the target nodes and the others, or the one that is named."""
        nodes, target = self._cluster.nodes, armed.fault.target
        if "->" in target:
            ends = [model.choose(end, nodes, armed.draw) for end in target.split("->")]
            return frozenset((a, b) for a in ends[0] for b in ends[1] if a != b)
        chosen = set(model.choose(target, nodes, armed.draw))
        found = set()
        for a in nodes:
            for b in nodes:
                if a != b and ((back and a in chosen) or (to and b in chosen)):
                    found.add((a, b))
        return frozenset(found)

    def _region(self, armed: _Armed) -> tuple[str, int, int]:
        """(node, address, length) of memory that is meant; raises `LookupError` when there is none."""
        found = model.parse_range(armed.fault.target)
        if found is not None:
            low, high = found
            for node, gva, length in self._in_use:
                if gva < high and low < gva + length:
                    return node, max(gva, low), min(gva + length, high) - max(gva, low)
            raise LookupError(f"{armed.fault.target}: the workload has no memory there")
        chosen = set(self._nodes(armed))
        there = [entry for entry in self._in_use if entry[0] in chosen]
        if not there:
            raise LookupError(f"{armed.fault.target}: the workload has no memory there")
        return there[armed.draw.randrange(len(there))]

    def _part(self, armed: _Armed, length: int) -> tuple[str, int, int]:
        """Some pages of memory that is meant, of `length` bytes at most."""
        node, gva, whole = self._region(armed)
        pages = -(-whole // PAGE)
        some = min(pages, -(-length // PAGE))
        first = armed.draw.randrange(pages - some + 1)
        return node, (gva & -PAGE) + first * PAGE, some * PAGE

    # ---- what they do: (whom it struck, what undoes it)

    def _impair(self, armed: _Armed, links: Links, *rules: tuple[str, int]) -> tuple[str, Undo]:
        fault = armed.fault
        now = self._cluster.scheduler.now_ps
        until = None if fault.for_ is None else now + fault.for_
        made = [
            LinkRule(
                kind,
                fault.p if isinstance(fault, model.LinkFault) else 1.0,
                value,
                until_ps=until,
                max_count=fault.max_count if isinstance(fault, model.LinkFault) else None,
                links=links,
            )
            for kind, value in rules
        ]
        names = {self._cluster.node(name).index: name for name in self._running()}
        impair = Impair(made, armed.draw.getrandbits(63), lambda index: names.get(index, f"node {index}"))
        return _named(links), self.network.add(impair)

    def _packets(self, armed: _Armed) -> tuple[str, Undo]:
        fault = armed.fault
        value = fault.within if fault.type == "reorder" else 0
        return self._impair(armed, self._links(armed), (fault.type, value))

    def _delay(self, armed: _Armed) -> tuple[str, Undo]:
        rules = [("delay", armed.fault.by)] + ([("jitter", armed.fault.jitter)] if armed.fault.jitter else [])
        return self._impair(armed, self._links(armed), *rules)

    def _bandwidth(self, armed: _Armed) -> tuple[str, Undo]:
        spec = self._cluster.node(self._running()[0]).ni.spec
        full = 1024 * 8 * 10**12 // spec.link_ps_per_kib
        return self._impair(armed, self._links(armed), ("bandwidth", max(1, round(full * armed.fault.share))))

    def _cut(self, armed: _Armed) -> tuple[str, Undo]:
        """Partitions: links between the target nodes and the others, not those among themselves."""
        nodes = self._cluster.nodes
        if "->" in armed.fault.target:
            links = self._links(armed)
        else:
            inside = set(model.choose(armed.fault.target, nodes, armed.draw))
            links = frozenset((a, b) for a in inside for b in nodes if b not in inside)
        if armed.fault.type == "partition":
            links |= frozenset((b, a) for a, b in links)
        return self._impair(armed, links, ("loss", 0))

    def _pause(self, armed: _Armed) -> tuple[str, Undo]:
        return self._impair(armed, self._links(armed), ("hold", 0))

    def _slow(self, armed: _Armed) -> tuple[str, Undo]:
        return self._impair(armed, self._links(armed, back=False), ("delay", armed.fault.by))

    def _crash(self, armed: _Armed) -> tuple[str, Undo]:
        names = self._nodes(armed)
        for name in names:
            self._cluster.kill(name)

        def undo() -> None:
            for name in names:
                self._cluster.restart(name)

        return ", ".join(names), undo

    def _stale_tlb(self, armed: _Armed) -> tuple[str, Undo]:
        names = self._nodes(armed)
        for name in names:
            self._cluster.node(name).kernel.paging.forget_invalidations = True

        def undo() -> None:
            for name in names:
                if name in self._running():
                    kernel = self._cluster.node(name).kernel
                    kernel.paging.forget_invalidations = False
                    kernel.smmu.invalidate(kernel.process(self._pdid()).asid, 0, 1 << 48)

        return ", ".join(names), undo

    def _bitflip(self, armed: _Armed) -> tuple[str, None]:
        name, gva, length = self._region(armed)
        node = self._cluster.node(name)
        at = gva + armed.draw.randrange(length)
        (extent, *_) = node.kernel.process(self._pdid()).extents(at & -PAGE, PAGE)
        where = extent.pa + (at & PAGE - 1)
        bit = 1 << armed.draw.randrange(8)
        node.soc.memory.write(where, bytes([node.soc.memory.read(where, 1)[0] ^ bit]))
        return f"{name}: {at:#x} bit {bit.bit_length() - 1}", None

    def _reclaim(self, armed: _Armed) -> tuple[str, None]:
        names = self._nodes(armed)
        for name in names:
            self._cluster.node(name).kernel.paging.reclaim(armed.fault.pages)
        return ", ".join(names), None

    def _pages(self, armed: _Armed) -> tuple[str, None]:
        name, at, length = self._part(armed, armed.fault.length)
        kernel = self._cluster.node(name).kernel
        process = kernel.process(self._pdid())
        match armed.fault.type:
            case "page_out":
                process.madvise(at, length, "PAGEOUT")
            case "drop":
                process.madvise(at, length, "DONTNEED")
            case "migrate":
                for page in range(at, at + length, PAGE):
                    kernel.paging.migrate(process, page)
            case "collapse":
                kernel.paging.collapse(process, at)
            case "split":
                kernel.paging.split(process, at)
        return f"{name}: {at:#x}, {length} bytes", None

    def _unmap(self, armed: _Armed) -> tuple[str, None]:
        name, gva, length = self._region(armed)
        self._cluster.node(name).unmap_region(gva)
        return f"{name}: {gva:#x}, {length} bytes", None


class _Armed:
    """One fault of a run."""

    def __init__(self, fault: Any, name: str, seed: int) -> None:
        self.fault, self.name = fault, name
        self.draw: random.Random = named_stream(seed, f"fault {name}")
        self.count = 0
        self.begun = self.over = False
        self.undo: Undo | None = None
        self.events: list[Event] = []


def _named(links: Links) -> str:
    listed = sorted(links)
    text = ", ".join(f"{a}->{b}" for a, b in listed[:4])
    return text + (f" and {len(listed) - 4} more" if len(listed) > 4 else "")


_COMPARE: Final[Mapping[str, Callable[[float, float], bool]]] = {
    "<": lambda a, b: a < b,
    "<=": lambda a, b: a <= b,
    "==": lambda a, b: a == b,
    ">=": lambda a, b: a >= b,
    ">": lambda a, b: a > b,
}

_STRIKES: Final[Mapping[str, Callable[[Injector, _Armed], tuple[str, Undo | None]]]] = {
    "loss": Injector._packets,
    "duplicate": Injector._packets,
    "corrupt": Injector._packets,
    "reorder": Injector._packets,
    "hold": Injector._packets,
    "delay": Injector._delay,
    "bandwidth": Injector._bandwidth,
    "partition": Injector._cut,
    "partition_oneway": Injector._cut,
    "crash": Injector._crash,
    "pause": Injector._pause,
    "slow": Injector._slow,
    "stale_tlb": Injector._stale_tlb,
    "bitflip": Injector._bitflip,
    "reclaim": Injector._reclaim,
    "page_out": Injector._pages,
    "drop": Injector._pages,
    "migrate": Injector._pages,
    "collapse": Injector._pages,
    "split": Injector._pages,
    "unmap": Injector._unmap,
}
