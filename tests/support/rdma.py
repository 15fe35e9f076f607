"""Nodes for tests of the fabric: memory, SMMU and network interface, and the least of a kernel.

The "kernel" programs page tables, context banks and PD slots through the bus; it knows as many processes as
there are context banks. `Cluster` puts nodes on one scheduler with a `MemoryFabric` between them.
"""

from __future__ import annotations

from dataclasses import dataclass, field, replace
from typing import Any

import numpy as np

from unimem.addresses import window_of
from unimem.wire import COMPLETION, WORK_REQUEST, Op
from unimem_node.bus import Bus
from unimem_node.bus.interrupts import InterruptController
from unimem_node.clock import EventLog, Scheduler
from unimem_node.fabric import MemoryFabric, RdmaNi, RdmaSpec
from unimem_node.memory import MemoryBank, PhysicalMemory
from unimem_node.mmu import PageTable
from unimem_node.smmu import Smmu, SmmuSpec

SMMU, NI = 0xFD80_0000, 0xA001_0000
CR0, SMR, S2CR, CBAR, CBA2R, BANK = 0x000, 0x800, 0xC00, 0x1000, 0x1800, 0x1_0000
SCTLR, TCR2, TTBR0, TCR, MAIR0, FSR, TLBIALL = 0x000, 0x010, 0x020, 0x030, 0x038, 0x058, 0x618
TLBSYNC, TLBSTATUS, RESUME = 0x7F0, 0x7F4, 0x008
FAULT_CTRL, FAULT_VERDICT, RESOLVED_PDID, RESOLVED_VA, RESOLVED_LENGTH, RESOLVED = (
    *(0x050, 0x054, 0x058, 0x060, 0x068, 0x070),
)
MISS_STATUS, MISS_PDID, PD_SLOT, PD_USED = 0x010, 0x014, 0x100, 0x200
PAGE = 4096
MEMORY_BYTES = 64 << 20

SMALL = RdmaSpec(block_bytes=4096, frame_payload_bytes=16384, frame_packets=8, peer_bytes=32768)


@dataclass
class Process:
    """A protection domain on one node."""

    pdid: int
    table: PageTable
    bank: int


class TestNode:
    """One node. `report` = CFRE: refused accesses are bus errors."""

    __test__ = False

    def __init__(
        self,
        index: int,
        scheduler: Scheduler,
        *,
        fast: bool = True,
        spec: RdmaSpec | None = None,
        incarnation: int = 1,
        log: EventLog | None = None,
        memory_bytes: int = MEMORY_BYTES,
    ) -> None:
        self.index = index
        self.scheduler = scheduler
        self.memory = PhysicalMemory([MemoryBank("ddr", 0, memory_bytes)])
        self.bus = Bus(self.memory)
        self.interrupts = InterruptController()
        self.smmu = Smmu(self.memory, SmmuSpec(), self.interrupts, scheduler, None)
        self.bus.attach("smmu", SMMU, 0x2_0000, self.smmu)
        spec = replace(spec or RdmaSpec(), base=NI)
        self.ni = RdmaNi(
            self.smmu,
            self.memory,
            scheduler,
            self.interrupts.line(spec.spi),
            spec,
            index=index,
            incarnation=incarnation,
            fast=fast,
            log=log,
        )
        self.bus.attach("ni", NI, spec.size, self.ni)
        self.slots = spec.slots
        self.stream_base = spec.stream_base
        self.processes: dict[int, Process] = {}
        self._heap = PAGE
        self.next_va = 0x10_0000
        self.bus.write32(SMMU + CR0, 1 << 1 | 1 << 10 | 1 << 21)  # GFRE, USFCFG, SMCFCFG; clients on
        self.interrupts.connect_cpu(self._interrupt)
        self._ni_spi = spec.spi
        self._smmu_spi = SmmuSpec().spi
        #: What software says of a refused access: 1 the page will come, 2 it will not, 0 nothing.
        self.verdict = 0

    # ---- the kernel

    def _interrupt(self, spi: int) -> None:
        if spi == self._smmu_spi and self.verdict:
            self.bus.write32(NI + FAULT_VERDICT, self.verdict)
            for process in self.processes.values():
                self.clear_fault(process.pdid)
        if spi != self._ni_spi:
            return
        pdid = self.bus.read32(NI + MISS_PDID)
        if pdid in self.processes:
            used = [self.bus.read64(NI + PD_USED + 8 * s) for s in range(self.slots)]
            taken = [self.bus.read32(NI + PD_SLOT + 4 * s) >> 31 for s in range(self.slots)]
            slot = min(range(self.slots), key=lambda s: (taken[s], used[s]))
            self.bus.write32(SMMU + S2CR + 4 * slot, self.processes[pdid].bank)
            self.bus.write32(SMMU + SMR + 4 * slot, 1 << 31 | (self.stream_base + slot))
            self.bus.write32(NI + PD_SLOT + 4 * slot, 1 << 31 | pdid)
        self.bus.write32(NI + MISS_STATUS, 1)

    def page(self) -> int:
        """A zeroed page."""
        pa, self._heap = self._heap, self._heap + PAGE
        assert self._heap <= self.memory.size, "the test's memory is used up"
        return pa

    def open(self, pdid: int) -> Process:
        """A process with empty page tables and a context bank that points at them."""
        bank = len(self.processes)
        process = self.processes[pdid] = Process(pdid, PageTable(self.bus, self.page, lambda pa: None), bank)
        at = SMMU + BANK + 0x1000 * bank
        self.bus.write32(SMMU + CBA2R + 4 * bank, 1)
        self.bus.write32(SMMU + CBAR + 4 * bank, 1 << 16)
        self.bus.write32(at + TCR2, 5 | 1 << 4 | 7 << 15)  # SEP: the upstream bus
        self.bus.write32(at + TCR, 16 | 1 << 23)
        self.bus.write64(at + TTBR0, process.table.root | (bank + 1) << 48)
        self.bus.write32(at + MAIR0, 0x0004_FF44)
        self.set_reporting(pdid, True)
        return process

    def set_reporting(self, pdid: int, report: bool) -> None:
        """SCTLR: M, and CFRE when refused accesses shall be bus errors."""
        bank = self.processes[pdid].bank
        self.bus.write32(SMMU + BANK + 0x1000 * bank + SCTLR, 1 | report << 5 | 1 << 6)

    def set_stalling(self, pdid: int, *, others_go_on: bool = False) -> None:
        """SCTLR.CFCFG: accesses that fault wait for RESUME, and the interface holds them; HUPCF as said."""
        bank = self.processes[pdid].bank
        control = 1 | 1 << 5 | 1 << 6 | 1 << 7 | others_go_on << 8
        self.bus.write32(SMMU + BANK + 0x1000 * bank + SCTLR, control)
        self.bus.write32(NI + FAULT_CTRL, 2)

    def resume(self, pdid: int, *, terminate: bool = False) -> None:
        """Decide on the access that stalls the process' bank; whoever waits learns of it."""
        self.clear_fault(pdid)
        bank = SMMU + BANK + 0x1000 * self.processes[pdid].bank
        self.bus.write32(bank + RESUME, int(terminate))
        self.scheduler.run()

    def map(self, pdid: int, va: int, length: int, *, write: bool = True, scattered: bool = False) -> None:
        """Fresh frames at `va`; `scattered`: no two neighbours in a row."""
        pages = [self.page() for _ in range(-(-length // PAGE))]
        if scattered:
            pages = pages[::2] + pages[1::2]
        self.processes[pdid].table.map_pages(va, np.array(pages, np.uint64), write=write)

    def share(self, owner: int, pdid: int, va: int, length: int, *, write: bool) -> None:
        """Map the owner's frames at the same address for another process."""
        table = self.processes[owner].table
        for at in range(va, va + length, PAGE):
            leaf = table.lookup(at)
            assert leaf is not None
            self.processes[pdid].table.map(at, leaf.translate(at), PAGE, write=write)

    def unmap(self, pdid: int, va: int, length: int) -> None:
        """Unmap and invalidate."""
        process = self.processes[pdid]
        process.table.unmap(va, length)
        bank = SMMU + BANK + 0x1000 * process.bank
        self.bus.write32(bank + TLBIALL, 0)
        self.bus.write32(bank + TLBSYNC, 0)
        while self.bus.read32(bank + TLBSTATUS) & 1:
            pass

    def resolve(self, pdid: int, va: int, length: int) -> None:
        """Tell the interface that pages are there."""
        self.bus.write32(NI + RESOLVED_PDID, pdid)
        self.bus.write64(NI + RESOLVED_VA, va)
        self.bus.write64(NI + RESOLVED_LENGTH, length)
        self.bus.write32(NI + RESOLVED, 1)

    def clear_fault(self, pdid: int) -> None:
        """Clear what the process' bank has recorded."""
        self.bus.write32(SMMU + BANK + 0x1000 * self.processes[pdid].bank + FSR, 0xFFFF_FFFF)

    def forget_stream(self, slot: int) -> None:
        """Invalidate the stream match register of a slot."""
        self.bus.write32(SMMU + SMR + 4 * slot, 0)

    def fsr(self, pdid: int) -> int:
        """CB_FSR of the process' bank."""
        return self.bus.read32(SMMU + BANK + 0x1000 * self.processes[pdid].bank + FSR)

    def peek(self, pdid: int, va: int, n: int) -> bytes:
        """Bytes as the process sees them, by its page tables."""
        out = b""
        while n:
            leaf = self.processes[pdid].table.lookup(va)
            assert leaf is not None, hex(va)
            run = min(n, leaf.va + leaf.size - va)
            out += self.memory.read(leaf.translate(va), run)
            va, n = va + run, n - run
        return out

    def poke(self, pdid: int, va: int, data: bytes) -> None:
        """Store bytes as the process would."""
        while data:
            leaf = self.processes[pdid].table.lookup(va)
            assert leaf is not None, hex(va)
            run = min(len(data), leaf.va + leaf.size - va)
            self.memory.write(leaf.translate(va), data[:run])
            va, data = va + run, data[run:]

    # ---- what a transport needs

    def on_frame(self, peer: int, frame: np.ndarray) -> None:
        self.ni.on_frame(peer, frame)

    def pump(self) -> None:
        self.ni.pump()

    def take_frames(self) -> list[tuple[int, np.ndarray]]:
        return self.ni.take_frames()

    @property
    def timer_ps(self) -> int | None:
        return self.ni.timer_ps

    def on_timer(self) -> None:
        self.ni.on_timer()

    def peer_lost(self, peer: int, reason: str) -> None:
        self.ni.connection_lost(peer, reason)

    def peer_unreachable(self, peer: int, reason: str) -> None:
        self.ni.peer_unreachable(peer, reason)


def work(op: Op, **fields: Any) -> np.ndarray:
    """One work request; `wr_id`, `pdid`, `length`, `src`, `dst`, `operand`, `compare`, `flags`."""
    row = np.zeros(1, WORK_REQUEST)
    row["op"] = op
    for name, value in fields.items():
        row[name] = value
    return row


@dataclass
class Cluster:
    """Nodes of one process on one virtual clock."""

    count: int = 2
    fast: bool = True
    spec: RdmaSpec | None = None
    log: EventLog | None = None
    pdid: int = 7
    scheduler: Scheduler = field(default_factory=Scheduler)
    nodes: list[TestNode] = field(default_factory=list)

    def __post_init__(self) -> None:
        self.fabric = MemoryFabric(self.scheduler)
        for index in range(self.count):
            node = TestNode(index, self.scheduler, fast=self.fast, spec=self.spec, log=self.log)
            self.nodes.append(node)
            self.fabric.attach(index, node)
            node.open(self.pdid)
        self.route()

    def route(self, **states: int) -> None:
        """Tell every node the windows; `n1=2`: node 1 is in state 2."""
        rows = [
            (i, f"n{i}", window_of(i).start, len(window_of(i)), 1, states.get(f"n{i}", 1))
            for i in range(self.count)
        ]
        for node in self.nodes:
            node.ni.set_routes(rows)

    def gva(self, index: int, offset: int = 0) -> int:
        """An address in the window of a node."""
        return window_of(index).start + offset

    def post(self, index: int, op: Op, **fields: Any) -> None:
        """Post one request of the cluster's process on a node."""
        self.nodes[index].ni.post(work(op, **{"pdid": self.pdid, **fields}))

    def run(self) -> None:
        """Let everything happen that can happen."""
        for node in self.nodes:
            node.pump()
        self.fabric.carry()
        self.scheduler.run()

    def completions(self, index: int) -> np.ndarray:
        """What a node has completed since the last call, after everything has happened."""
        self.run()
        return self.nodes[index].ni.take_completions()

    def one(self, index: int) -> np.void:
        """The only completion of a node."""
        rows = self.completions(index)
        assert len(rows) == 1, rows
        assert rows.dtype == COMPLETION
        row: np.void = rows[0]
        return row

    def close(self) -> None:
        """Give the memory back."""
        for node in self.nodes:
            node.memory.close()
