"""Two nodes, memory that is not there, and requests that meet it: what a scenario of page faults works on.

Commands (see the files ``paging_*.txt``; an address is NAME or NAME+OFFSET, the offset in hexadecimal):

``nodes policy=P [memory=BYTES] [domains=N]``: fresh nodes n0, n1 with domains 1 to N
``region NAME node=I bytes=N [pdid=P] [lazy] [ro]``, ``memory …`` (private): memory, filled or absent
``put src=A dst=B bytes=N [from=I] [pdid=P]``, ``get``, ``add dst=B``: posted at the next ``run``
``run [us=T]``: all that happens (for T µs): completions, and faults that have ended; µs since the posting
``masked node=I us=T``: the same for T µs with the interrupts of a node off
``policy P node=I`` · ``advise A WORD [bytes=N]`` · ``prepare A HOW [bytes=N]`` · ``collapse A`` · ``fork A``
``unmap NAME`` · ``protect NAME RIGHTS`` · ``close node=I pdid=P`` · ``forget node=I`` · ``cpu A bytes=N``
``hog node=I``, ``release node=I``: all memory of a node is taken, is given back
``show A bytes=N``: what is there (and the CPU touches it) · ``count node=I NAME…``: growth of counters
"""

from __future__ import annotations

import itertools
from dataclasses import dataclass
from functools import cache
from typing import Any

import numpy as np

from support.datadriven import Command
from unimem.addresses import WINDOW_BYTES, window_of
from unimem.wire import WORK_REQUEST, CompletionFlags, Op, Side, Status
from unimem_node.clock import EventLog, Scheduler
from unimem_node.fabric import MemoryFabric
from unimem_node.kernel.fault_events import FaultEvent
from unimem_node.mpsoc.node import Node
from unimem_node.mpsoc.platform import Platform, load

#: How far ahead a link is booked.
PACING_PS = 10_000_000
#: Times of these scenarios (ps), so that they stay as they are when a platform is calibrated again.
NI_TIMES = {"issue_ps": 500_000, "hop_ps": 800_000, "further_hop_ps": 300_000, "link_ps_per_kib": 1_000_000}
SMMU_TIMES = {
    "micro_hit_ps": 0,
    "macro_hit_ps": 0,
    "descriptor_read_ps": 0,
    "memory_latency_ps": 0,
    "memory_ps_per_kib": 70_000,
    "invalidate_ps": 40_000,
    "sync_ps": 500_000,
    "status_read_ps": 100_000,
}
KERNEL_TIMES = {
    "irq_ps": 2_000_000,
    "handler_ps": 3_000_000,
    "queue_ps": 25_000_000,
    "resolve_ps": 2_000_000,
    "touch_page_ps": 2_000_000,
    "present_page_ps": 100_000,
    "major_page_ps": 60_000_000,
    "notify_ps": 500_000,
    "notify_pages": 4,
}
UP = 1
PAGE = 4096
_KINDS = {"put": Op.WRITE, "get": Op.READ, "add": Op.FETCH_ADD}


@cache
def _platform() -> Platform:
    """ZynqMP with the times above."""
    whole = load("zynqmp").model_dump()
    whole["kernel"].update(KERNEL_TIMES)
    whole["smmu"]["block"]["timing"].update(SMMU_TIMES)
    whole["dram_ports"] = None
    for master in whole["pl"]["masters"]:
        if master["type"] == "rdma":
            master.update(NI_TIMES)
    return Platform.model_validate(whole)


@dataclass
class Memory:
    """Named memory of a process."""

    name: str
    node: int
    pdid: int
    va: int
    length: int
    region: bool


class FaultMachine:
    """Runs the commands of one scenario file."""

    def __init__(self, *, fast: bool = True) -> None:
        self._fast = fast

    def handle(self, command: Command) -> str:
        """Do one block."""
        return str(getattr(self, f"do_{command.name}")(command) or "")

    # ---- nodes and memory

    def do_nodes(self, command: Command) -> None:
        self.scheduler = Scheduler()
        self.log = EventLog()
        self.fabric = MemoryFabric(self.scheduler)
        self.nodes = [
            Node(
                f"n{i}",
                i,
                platform=_platform(),
                memory_bytes=command.integer("memory", 64 << 20),
                scheduler=self.scheduler,
                fast=self._fast,
                policy=command.text("policy"),
                log=self.log,
            )
            for i in range(2)
        ]
        routes = [(i, f"n{i}", window_of(i).start, WINDOW_BYTES, 1, UP) for i in range(2)]
        for node in self.nodes:
            node.set_routes(routes)
            node.ni.set_pacing(PACING_PS)  # a frame holds a block or so: each meets what those before did
            self.fabric.attach(node.index, node)
            for pdid in range(1, command.integer("domains", 1) + 1):
                node.open_domain(pdid)
        self.named: dict[str, Memory] = {}
        self._next = [window_of(i).start for i in range(2)]
        self._ids = itertools.count(1)
        self._posts: list[tuple[int, np.ndarray]] = []
        self._shown: dict[int, int] = {}
        self._seen = [0, 0]
        self._ended: list[tuple[int, FaultEvent]] = []
        self._counted = [node.counters() for node in self.nodes]
        self._start: int | None = None

    def do_region(self, command: Command) -> None:
        self._memory(command, region=True)

    def do_memory(self, command: Command) -> None:
        self._memory(command, region=False)

    def _memory(self, command: Command, *, region: bool) -> None:
        index, pdid, length = command.integer("node"), command.integer("pdid", 1), command.integer("bytes")
        node, rights, lazy = self.nodes[index], 1 if command.has("ro") else 3, command.has("lazy")
        process = node.kernel.process(pdid)
        if region:
            va = self._next[index]
            self._next[index] += (length + PAGE) // PAGE * PAGE + PAGE
            node.kernel.regions.create(process, va, length, rights, lazy=lazy)
        else:
            va = process.map(length, rights=rights, lazy=lazy)
        name = command.text(0)
        self.named[name] = Memory(name, index, pdid, va, length, region)
        if not lazy and not command.has("ro") and not region:
            process.write(va, np.arange(length, dtype=np.uint8).tobytes())

    def _at(self, text: str) -> tuple[Memory, int]:
        name, _, offset = text.partition("+")
        memory = self.named[name]
        return memory, memory.va + int(offset or "0", 16)

    def _name(self, index: int, va: int) -> str:
        for beyond in (0, PAGE):
            for memory in self.named.values():
                if memory.node == index and memory.va <= va < memory.va + memory.length + beyond:
                    return f"{memory.name}+{va - memory.va:#x}"
        return f"{va:#x}"

    # ---- requests

    def do_put(self, command: Command) -> None:
        self._post(command)

    def do_get(self, command: Command) -> None:
        self._post(command)

    def do_add(self, command: Command) -> None:
        self._post(command)

    def _post(self, command: Command) -> None:
        op = _KINDS[command.name]
        row = np.zeros(1, WORK_REQUEST)
        row["op"], row["wr_id"] = op, next(self._ids)
        row["pdid"] = command.integer("pdid", 1)
        row["length"] = command.integer("bytes", 8)
        row["dst"] = self._at(command.text("dst"))[1]
        if op is Op.FETCH_ADD:
            row["operand"] = 1
        else:
            row["src"] = self._at(command.text("src"))[1]
        self._posts.append((command.integer("from", 0), row))

    def do_run(self, command: Command) -> str:
        until = command.options.get("us")
        self._begin()
        self.scheduler.run(None if until is None else self.scheduler.now_ps + int(float(until) * 1e6))
        return self._happened()

    def do_masked(self, command: Command) -> str:
        with self.nodes[command.integer("node")].kernel.interrupts_off():
            self._begin()
            self.scheduler.run(self.scheduler.now_ps + int(float(command.text("us")) * 1e6))
        return self._happened()

    def _begin(self) -> None:
        """Post what was collected, all at once."""
        posts, self._posts = self._posts, []
        if posts:
            self._start = max(node.now_ps for node in self.nodes)
            self.scheduler.advance_to(self._start)
        for index in range(2):
            rows = [row for poster, row in posts if poster == index]
            if rows:
                self.nodes[index].post(np.concatenate(rows))
                self.nodes[index].pump()
        self.fabric.carry()

    def _happened(self) -> str:
        lines: list[tuple[int, str]] = []
        for index, node in enumerate(self.nodes):
            log = list(node.kernel.fault_log)
            for number, event in enumerate(log):
                if event.outcome != "pending" and (index << 32 | number) not in self._shown:
                    self._shown[index << 32 | number] = 1
                    lines.append((max(event.resolved_ps, event.time_ps), self._event(index, event)))
            lines += [(int(row["done_ps"]), self._completion(index, row)) for row in node.take_completions()]
        shown = []
        for text, group in itertools.groupby(sorted(lines), lambda line: line[1]):
            times = [at for at, _ in group]
            shown.append(f"{self._us(times[0])} {text}")
            if len(times) > 1:
                shown.append(f"{self._us(times[-1])} … {len(times) - 1} more such, this the last")
        return "\n".join(shown)

    def _us(self, at_ps: int) -> str:
        assert self._start is not None
        return f"{(at_ps - self._start) / 1e6:7.1f}"

    def _event(self, index: int, event: FaultEvent) -> str:
        text = f"n{index} {event.access} of {self._name(index, event.va)} {event.outcome}"
        if event.outcome == "resolved":
            text += f": {event.kind}"
            more = event.minor + event.major - (event.kind != "spurious")
            text += f" and {more} more" if more > 0 else ""
            text += f" after {(event.resolved_ps - event.time_ps) / 1e6:.1f}"
        text += ", stalled" if event.stalled else ""
        text += f", {event.duplicates} more wait for it" if event.duplicates else ""
        return text + (", others left no record" if event.lost else "")

    def _completion(self, index: int, row: np.void) -> str:
        text = f"n{index} #{row['wr_id']} {Status(int(row['status'])).name}"
        if row["status"] == Status.OK:
            return text + (f" value={row['value']}" if row["op"] == Op.FETCH_ADD else "")
        where = f" at the {Side(int(row['side'])).name.lower()}" if row["side"] else ""
        definite = "definite" if row["flags"] & CompletionFlags.DEFINITE else "indefinite"
        name = self._name(int(row["node"]), int(row["iova"]))
        return f"{text}{where}, {name}, {definite}"

    # ---- what happens to memory and nodes

    def do_policy(self, command: Command) -> None:
        self.nodes[command.integer("node")].set_fault_policy(command.text(0))

    def do_advise(self, command: Command) -> str:
        memory, va = self._at(command.text(0))
        process = self.nodes[memory.node].kernel.process(memory.pdid)
        return f"{process.madvise(va, command.integer('bytes', memory.length), command.text(1))} pages"

    def do_prepare(self, command: Command) -> str:
        memory, va = self._at(command.text(0))
        node = self.nodes[memory.node]
        length = command.integer("bytes", memory.length)
        if command.text(1) == "release":
            return f"{node.release(memory.pdid, va, length) / 1e6:.1f} µs"
        return f"{node.prepare(memory.pdid, va, length, command.text(1)) / 1e6:.1f} µs"

    def do_forget(self, command: Command) -> None:
        self.nodes[command.integer("node")].kernel.paging.forget_invalidations = True

    def do_collapse(self, command: Command) -> str:
        """Begin a collapse and leave it there, as it is while khugepaged copies."""
        memory, va = self._at(command.text(0))
        kernel = self.nodes[memory.node].kernel
        begun = kernel.paging.begin_collapse(kernel.process(memory.pdid), va)
        return "begun" if begun is not None else "not possible"

    def do_fork(self, command: Command) -> None:
        memory = self.named[command.text(0)]
        self.nodes[memory.node].kernel.process(memory.pdid).fork()

    def do_unmap(self, command: Command) -> None:
        memory = self.named[command.text(0)]
        node = self.nodes[memory.node]
        if memory.region:
            node.unmap_region(memory.va)
        else:
            node.unmap_memory(memory.pdid, memory.va, memory.length)

    def do_protect(self, command: Command) -> None:
        memory = self.named[command.text(0)]
        process = self.nodes[memory.node].kernel.process(memory.pdid)
        process.protect(memory.va, memory.length, command.integer(1), held=memory.region)

    def do_close(self, command: Command) -> None:
        self.nodes[command.integer("node")].close_domain(command.integer("pdid"))

    def do_hog(self, command: Command) -> None:
        """Something else takes all memory of a node."""
        frames = self.nodes[command.integer("node")].kernel.frames
        self._hogged = frames.extents(frames.free_bytes)

    def do_release(self, command: Command) -> None:
        self.nodes[command.integer("node")].kernel.frames.free_all(self._hogged)

    def do_cpu(self, command: Command) -> None:
        """The CPU writes a byte to each page of a range."""
        memory, va = self._at(command.text(0))
        process = self.nodes[memory.node].kernel.process(memory.pdid)
        for at in range(va, va + command.integer("bytes"), PAGE):
            process.write(at, b"\xcc")

    # ---- what can be seen

    def do_show(self, command: Command) -> str:
        """Runs of bytes that continue the pattern of private memory, are zero, or are something else."""
        memory, va = self._at(command.text(0))
        node = self.nodes[memory.node]
        process = node.kernel.process(memory.pdid)
        data = np.frombuffer(process.read(va, command.integer("bytes")), np.uint8)
        runs: list[list[Any]] = []
        for start in range(0, len(data), 64):
            chunk = data[start : start + 64]
            pattern = np.arange(va + start, va + start + len(chunk)).astype(np.uint8)
            kind = "zero" if not chunk.any() else "data" if (chunk == pattern).all() else "other"
            if runs and runs[-1][0] == kind:
                runs[-1][1] += len(chunk)
            else:
                runs.append([kind, len(chunk)])
        return ", ".join(f"{n:#x} {kind}" for kind, n in runs)

    def do_count(self, command: Command) -> str:
        index = command.integer("node")
        counters, before = self.nodes[index].counters(), self._counted[index]
        self._counted[index] = counters
        grown = {name: counters[name] - before[name] for name in counters}
        return ", ".join(f"{name} {grown[name]}" for name in command.words)
