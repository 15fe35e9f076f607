"""Transfers whose pages are absent, and what helps: faults handled, pages touched or pinned beforehand.

E5 to E7, E16: `pagefaults`. E17: `collapse`. The pages of a buffer are made absent as a kernel would do it
(MADV_DONTNEED for minor faults, page-out to swap for major ones): the next access of an engine faults.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING, Literal

import numpy as np

from unimem_lab.experiments.values import Count, Size, Whole
from unimem_lab.experiments.workloads.base import Outcome, Stage, Workload, traffic

if TYPE_CHECKING:
    from unimem_node.kernel.kernel import Kernel
    from unimem_node.kernel.processes import Process


#: Bytes of a huge page.
HUGE = 2 << 20
PAGE = 4096


def owner(stage: Stage, node: str) -> tuple[Kernel, Process]:
    """The kernel of a node, and the workload's process there."""
    kernel = stage.sim.node(node).kernel
    return kernel, kernel.process(stage.pdid)


def vacate(stage: Stage, node: str, gva: int, length: int, *, kind: str = "minor") -> None:
    """Make pages absent: the next access takes a `kind` fault ("minor": content lost; "major": in swap)."""
    _, process = owner(stage, node)
    process.madvise(gva, -(-length // PAGE) * PAGE, "DONTNEED" if kind == "minor" else "PAGEOUT")


def pin(stage: Stage, node: str, gva: int, length: int, *, how: str = "pin") -> int:
    """Pin (or touch) pages on a node; returns how long its CPU takes for it, ps."""
    took: int = stage.sim.node(node).prepare(stage.pdid, gva, length, how=how)
    return took


def unpin(stage: Stage, node: str, gva: int, length: int) -> int:
    """Undo `pin`; returns how long that takes, ps."""
    took: int = stage.sim.node(node).release(stage.pdid, gva, length)
    return took


class PagefaultsWorkload(Workload):
    """`samples` transfers of `bytes`, each with its pages absent at the source, the target, both or neither.

    The nodes' kernels do about faults what `system.policy` says; with `pin` and `prefault` the pages are
    pinned, or touched, before each transfer, and what that takes counts. Bytes go from memory of the first
    node to memory of the second, by the first one's engine, as in a zero-copy library.

    Quantities, means: latency_us (doorbell to the last byte in memory, and what was done beforehand),
    prepare_us (that part), completion_us, wire_us, faults (that the kernels resolved, a transfer), minor,
    major (pages). `kind`: "major": pages are in swap.
    """

    type: Literal["pagefaults"]
    bytes: Size = 8
    where: Literal["none", "source", "target", "both"] = "target"
    kind: Literal["minor", "major"] = "minor"
    samples: Count = 1
    warm_up: Whole = 1

    def play(self, stage: Stage) -> Callable[[], Outcome]:
        """See `Workload.play`."""
        home, far = stage.nodes[:2]
        um = stage.client(home)
        source, target = um.alloc(self.bytes, node=home), um.alloc(self.bytes, node=far)
        stage.memory_in_use(far, int(target), self.bytes)
        data = stage.bytes("data", self.bytes)
        absent = {
            "none": (),
            "source": ((home, source),),
            "target": ((far, target),),
            "both": ((home, source), (far, target)),
        }[self.where]
        policy = stage.policy.kind
        prepared: list[int] = []
        before: dict[str, int] = {}
        wrong = 0
        um.put(source, data)
        stage.ready()
        for number in range(self.warm_up + self.samples):
            measured = number >= self.warm_up
            for node, where in absent:
                vacate(stage, node, int(where), self.bytes, kind=self.kind)
            if number == self.warm_up:
                before = _kernel_counters(stage)
            cost = 0
            if policy in {"pin", "prefault"} and absent:
                # The two nodes' CPUs do it at the same time; the message that asks for it is not counted.
                cost = max(pin(stage, node, int(where), self.bytes, how=policy) for node, where in absent)
                stage.elapse(cost)
            if measured:
                prepared.append(cost)
            transfer = um.copy_async(target, source, self.bytes)
            error = stage.wait(transfer, "transfer" if measured else "warm-up", home, far)
            if policy == "pin":
                for node, where in absent:
                    unpin(stage, node, int(where), self.bytes)
            if error is None:
                sent = np.frombuffer(data, np.uint8)
                if self.kind == "minor" and self.where in {"source", "both"}:
                    sent = np.zeros(self.bytes, np.uint8)  # a page that was dropped is a page of zeros
                wrong += int(np.count_nonzero(um.get(target, self.bytes) != sent))
        return lambda: self._report(stage, prepared, before, wrong)

    def _report(self, stage: Stage, prepared: list[int], before: dict[str, int], wrong: int) -> Outcome:
        ops = [op for op in stage.ops if op.label == "transfer"]
        quantities = traffic(ops)
        quantities["wrong_bytes"] = wrong
        good = [(op, cost) for op, cost in zip(ops, prepared, strict=True) if op.outcome == "ok"]
        if good:
            n = len(good)
            quantities |= {
                "latency_us": sum(op.one_way_ps + cost for op, cost in good) / n / 1e6,
                "prepare_us": sum(cost for _, cost in good) / n / 1e6,
                "completion_us": sum(op.done_ps - op.posted_ps + cost for op, cost in good) / n / 1e6,
                "wire_us": sum(op.one_way_ps for op, _ in good) / n / 1e6,
            }
            after = _kernel_counters(stage)
            for name in ("resolved", "minor", "major"):
                key = f"kernel_fault_{name}"
                grown = after.get(key, 0) - before.get(key, 0)
                quantities["faults" if name == "resolved" else name] = grown / len(ops)
        return Outcome(quantities, expected={"failed": 0, "wrong_bytes": 0})


def _kernel_counters(stage: Stage) -> dict[str, int]:
    """The nodes' kernel counters, summed."""
    found: dict[str, int] = {}
    for node in stage.nodes:
        for name, value in stage.sim.node(node).counters().items():
            if name.startswith("kernel_"):
                found[name] = found.get(name, 0) + value
    return found


class CollapseWorkload(Workload):
    """E17: a buffer that is locked in memory is collapsed into a huge page, and a transfer faults.

    2 MiB of small pages are locked (mlock) and put to. Then the kernel begins to collapse them, which takes
    their translations away while it copies, and a put comes in between: it faults, though nothing was ever
    paged out. `hold`: `lock`, or `pin`, which keeps the kernel from collapsing. Quantities: faults_before and
    faults_during (of the target's SMMU), collapses (begun), as_published (1: none before, some during).
    """

    type: Literal["collapse"]
    bytes: Size = 64
    hold: Literal["lock", "pin"] = "lock"

    def play(self, stage: Stage) -> Callable[[], Outcome]:
        """See `Workload.play`."""
        home, far = stage.nodes[:2]
        um = stage.client(home)
        target = um.alloc(HUGE, node=far)
        kernel, process = owner(stage, far)
        kernel.paging.split(process, int(target))
        if self.hold == "lock":
            process.mlock(int(target), HUGE)
        else:
            process.pin(int(target), HUGE)
        data = [stage.bytes(f"put {n}", self.bytes) for n in range(2)]
        stage.ready()
        counts = [stage.sim.node(far).counters()["faults"]]
        stage.wait(um.put_async(target, data[0]), "before", home, far)
        counts.append(stage.sim.node(far).counters()["faults"])
        begun = kernel.paging.begin_collapse(process, int(target)) is not None
        error = stage.wait(um.put_async(target + 8192, data[1]), "during", home, far)
        counts.append(stage.sim.node(far).counters()["faults"])
        kernel.paging.settle()

        def report() -> Outcome:
            arrived = (bytes(um.get(target, self.bytes)), bytes(um.get(target + 8192, self.bytes)))
            before, during = counts[1] - counts[0], counts[2] - counts[1]
            ok = before == 0 and during > 0
            text = f"no fault before; {during} while it was collapsed"
            quantities = traffic(stage.ops) | {
                "faults_before": before,
                "faults_during": during,
                "collapses": float(begun),
                "wrong_bytes": sum(a != b for a, b in zip(arrived[0], data[0], strict=True)),
                "as_published": float(ok),
            }
            if error is None:
                quantities["wrong_bytes"] += sum(a != b for a, b in zip(arrived[1], data[1], strict=True))
            else:
                text += f", refused: {type(error).__name__}"
            return Outcome(quantities, {"as_published": text}, {"wrong_bytes": 0, "failed": 0})

        return report
