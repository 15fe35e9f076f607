"""What each type of fault does to a simulated cluster, and what undoes it.

A function takes the injector and the fault, and returns whom it struck, in words, and what undoes it (None:
nothing does). It raises `LookupError` when what it means is not there now: then it is passed over.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Final

from unimem_lab.experiments import faults as model
from unimem_node.fabric.impair_rules import Impair, Rule
from unimem_node.kernel.frames import PAGE

if TYPE_CHECKING:
    import numpy as np

    from unimem_lab.faults import Armed, Injector

Undo = Callable[[], object]
Links = frozenset[tuple[str, str]]


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


def _impair(injector: Injector, armed: Armed, links: Links, *rules: tuple[str, int]) -> tuple[str, Undo]:
    fault = armed.fault
    now = injector.cluster.scheduler.now_ps
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
    impair = Impair(made, armed.draw.getrandbits(63), lambda index: injector.names.get(index, ""))
    return _named(links), injector.network.add(impair)


def _packets(injector: Injector, armed: Armed) -> tuple[str, Undo]:
    fault = armed.fault
    value = fault.within if fault.type == "reorder" else 0
    return _impair(injector, armed, injector.links(armed), (fault.type, value))


def _delay(injector: Injector, armed: Armed) -> tuple[str, Undo]:
    rules = [("delay", armed.fault.by)] + ([("jitter", armed.fault.jitter)] if armed.fault.jitter else [])
    return _impair(injector, armed, injector.links(armed), *rules)


def _bandwidth(injector: Injector, armed: Armed) -> tuple[str, Undo]:
    spec = injector.cluster.node(injector.running()[0]).ni.spec
    full = 1024 * 8 * 10**12 // spec.link_ps_per_kib
    return _impair(
        injector, armed, injector.links(armed), ("bandwidth", max(1, round(full * armed.fault.share)))
    )


def _cut(injector: Injector, armed: Armed) -> tuple[str, Undo]:
    """Partitions: links between the target nodes and the others, not those among themselves."""
    nodes = injector.cluster.nodes
    if "->" in armed.fault.target:
        links = injector.links(armed)
    else:
        inside = set(model.choose(armed.fault.target, nodes, armed.draw))
        links = frozenset((a, b) for a in inside for b in nodes if b not in inside)
    if armed.fault.type == "partition":
        links |= frozenset((b, a) for a, b in links)
    return _impair(injector, armed, links, ("loss", 0))


def _pause(injector: Injector, armed: Armed) -> tuple[str, Undo]:
    names = injector.nodes(armed)
    fabric, indices = injector.cluster.fabric, [injector.index(name) for name in names]
    for index in indices:
        fabric.pause(index)

    def undo() -> None:
        for index in indices:
            fabric.resume(index)

    return ", ".join(names), undo


def _slow(injector: Injector, armed: Armed) -> tuple[str, Undo]:
    names = injector.nodes(armed)
    fabric, indices = injector.cluster.fabric, [injector.index(name) for name in names]
    for index in indices:
        fabric.slow(index, armed.fault.by)

    def undo() -> None:
        for index in indices:
            fabric.slow(index, 0)

    return ", ".join(names), undo


def _crash(injector: Injector, armed: Armed) -> tuple[str, Undo]:
    names = injector.nodes(armed)
    for name in names:
        injector.cluster.kill(name)

    def undo() -> None:
        for name in names:
            injector.cluster.restart(name)

    return ", ".join(names), undo


def _stale_tlb(injector: Injector, armed: Armed) -> tuple[str, Undo]:
    names = injector.nodes(armed)
    for name in names:
        injector.cluster.node(name).kernel.paging.forget_invalidations = True

    def undo() -> None:
        for name in names:
            if name in injector.running():
                kernel = injector.cluster.node(name).kernel
                kernel.paging.forget_invalidations = False
                kernel.smmu.invalidate(kernel.process(injector.pdid()).asid, 0, 1 << 48)

    return ", ".join(names), undo


def _bitflip(injector: Injector, armed: Armed) -> tuple[str, None]:
    name, gva, length = injector.region(armed)
    node = injector.cluster.node(name)
    at = gva + armed.draw.randrange(length)
    (extent, *_) = node.kernel.process(injector.pdid()).extents(at & -PAGE, PAGE)
    where = extent.pa + (at & PAGE - 1)
    bit = 1 << armed.draw.randrange(8)
    node.soc.memory.write(where, bytes([node.soc.memory.read(where, 1)[0] ^ bit]))
    return f"{name}: {at:#x} bit {bit.bit_length() - 1}", None


def _reclaim(injector: Injector, armed: Armed) -> tuple[str, None]:
    names = injector.nodes(armed)
    for name in names:
        injector.cluster.node(name).kernel.paging.reclaim(armed.fault.pages)
    return ", ".join(names), None


def _pages(injector: Injector, armed: Armed) -> tuple[str, None]:
    name, at, length = injector.part(armed, armed.fault.length)
    kernel = injector.cluster.node(name).kernel
    process = kernel.process(injector.pdid())
    match armed.fault.type:
        case "page_out":
            process.madvise(at, length, "PAGEOUT")
        case "drop":
            process.madvise(at, length, "DONTNEED")
        case "migrate":
            kernel.paging.migrate(process, at, length)
        case "collapse":
            kernel.paging.collapse(process, at)
        case "split":
            kernel.paging.split(process, at)
    return f"{name}: {at:#x}, {length} bytes", None


def _unmap(injector: Injector, armed: Armed) -> tuple[str, None]:
    name, gva, length = injector.region(armed)
    injector.cluster.node(name).unmap_region(gva)
    return f"{name}: {gva:#x}, {length} bytes", None


def _named(links: Links) -> str:
    listed = sorted(links)
    text = ", ".join(f"{a}->{b}" for a, b in listed[:4])
    return text + (f" and {len(listed) - 4} more" if len(listed) > 4 else "")


STRIKES: Final[Mapping[str, Callable[[Injector, Armed], tuple[str, Undo | None]]]] = {
    "loss": _packets,
    "duplicate": _packets,
    "corrupt": _packets,
    "reorder": _packets,
    "hold": _packets,
    "delay": _delay,
    "bandwidth": _bandwidth,
    "partition": _cut,
    "partition_oneway": _cut,
    "crash": _crash,
    "pause": _pause,
    "slow": _slow,
    "stale_tlb": _stale_tlb,
    "bitflip": _bitflip,
    "reclaim": _reclaim,
    "page_out": _pages,
    "drop": _pages,
    "migrate": _pages,
    "collapse": _pages,
    "split": _pages,
    "unmap": _unmap,
}
