"""The operating system model: what runs on the chip's CPUs, as far as DMA is concerned.

Processes with page tables in DRAM, drivers for the SMMU, the DMA engines and the network interface, and the
interrupt handler that ties them together. It reaches hardware through the bus and nothing else; whatever it
can do, a bare-metal program can do.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Final

from unimem_node.bus import Bus
from unimem_node.bus.interrupts import InterruptController
from unimem_node.clock import Scheduler
from unimem_node.kernel.asids import Asids
from unimem_node.kernel.axi_dma_driver import AxiDmaDriver
from unimem_node.kernel.board import Board
from unimem_node.kernel.dma_drivers import CdmaDriver, Driver, ZdmaDriver
from unimem_node.kernel.fault_events import FaultEvent
from unimem_node.kernel.fault_handler import FaultHandler
from unimem_node.kernel.fault_policy import FaultPolicy
from unimem_node.kernel.faults import FaultReport
from unimem_node.kernel.frames import FrameAllocator
from unimem_node.kernel.paging import Paging
from unimem_node.kernel.processes import Process
from unimem_node.kernel.rdma_driver import RdmaDriver
from unimem_node.kernel.regions import Regions
from unimem_node.kernel.smmu_driver import SmmuDriver
from unimem_node.kernel.timing import KernelTiming

#: Fault reports that are kept; older ones are dropped (`FaultReport.number` shows the gap).
KEPT_FAULTS: Final = 1000
LARGEST_PDID: Final = 0xFFFF


class Kernel:
    """The kernel, booted: drivers are up, no process exists.

    `now` is the clock (ps); what takes the kernel time is done by events of `scheduler`, and takes `timing`.
    `strict`: a stream without a route faults instead of bypassing the SMMU.
    `clean_tables` = False: page tables are left in the CPU's cache even where the SMMU does not look there.
    """

    def __init__(
        self,
        bus: Bus,
        interrupts: InterruptController,
        board: Board,
        *,
        now: Callable[[], int] = lambda: 0,
        scheduler: Scheduler | None = None,
        timing: KernelTiming | None = None,
        strict: bool = True,
        clean_tables: bool = True,
    ) -> None:
        self.bus = bus
        self.board = board
        self.timing = timing or KernelTiming()
        self.faults: deque[FaultReport] = deque(maxlen=KEPT_FAULTS)
        #: Called with each fault report, after it was kept.
        self.on_fault: Callable[[FaultReport], None] | None = None
        self._fault_count = 0
        self._processes: list[Process] = []
        self._by_pdid: dict[int, Process] = {}
        self._by_asid: dict[int, Process] = {}
        self._asids = Asids()
        self.frames = FrameAllocator(bus, board.memory)
        self.smmu = SmmuDriver(
            bus,
            board.smmu.base,
            self.frames,
            self._asids,
            on_fault=self._faulted,
            stream_name=board.stream_name,
            now=now,
            clean_tables=clean_tables,
        )
        self.smmu.reset(strict=strict)
        self.dma: dict[str, Driver] = {}
        for node in board.zdma:
            self.dma[node.name] = ZdmaDriver(bus, node)
        for node in board.cdma:
            self.dma[node.name] = CdmaDriver(bus, node)
        for node in board.axi_dma:
            self.dma[node.name] = AxiDmaDriver(bus, node)
        self.rdma: RdmaDriver | None = None
        self.paging = Paging(bus, self.frames, self.smmu.invalidate, spawn=self.spawn, end=self.exit)
        self.regions = Regions(self.frames, range(0), self.paging)
        self._handlers: dict[int, list[Callable[[], None]]] = {board.smmu.spi: [self.smmu.interrupt]}
        for driver in self.dma.values():
            driver.reset()
            for spi in driver.node.spis:
                self._handlers.setdefault(spi, []).append(driver.interrupt)
        if board.ni is not None:
            self.rdma = RdmaDriver(bus, board.ni, self.smmu, self.find)
            self.rdma.reset()
            self.regions = Regions(self.frames, self.rdma.window, self.paging)
            self._handlers.setdefault(board.ni.spi, []).append(self.rdma.interrupt)
        self.paging.regions = self.regions
        #: What is done about page faults of DMA.
        self.page_faults = FaultHandler(
            self.timing,
            scheduler or Scheduler(),
            now,
            find=self._by_asid.get,
            pager=self.paging,
            smmu=self.smmu,
            ni=self.rdma,
        )
        self._interrupts = interrupts
        self._masked = False
        interrupts.connect_cpu(self._interrupt)

    # ---- processes

    def spawn(self, pdid: int = 0) -> Process:
        """Make a process for a protection domain, or (0) one outside the global address space.

        Raises `ValueError` when the domain has one already or there is no such number, `MemoryError`.
        """
        if not 0 <= pdid <= LARGEST_PDID:
            raise ValueError(f"protection domain {pdid} is not in 1 to {LARGEST_PDID}")
        if pdid in self._by_pdid:
            raise ValueError(f"protection domain {pdid} has a process already")
        asid = self._asids.allocate()
        try:
            process = Process(
                pdid, asid, self.bus, self.frames, self.paging.invalidate, self.smmu.tables, self.paging
            )
        except BaseException:
            self._asids.free(asid)
            raise
        self._processes.append(process)
        self._by_asid[asid] = process
        if pdid:
            self._by_pdid[pdid] = process
        return process

    def find(self, pdid: int) -> Process | None:
        """Return the process of a protection domain, or None."""
        return self._by_pdid.get(pdid)

    def process(self, pdid: int) -> Process:
        """Return the process of a protection domain; raises `ValueError` when there is none."""
        process = self._by_pdid.get(pdid)
        if process is None:
            raise ValueError(f"protection domain {pdid} has no process on this node")
        return process

    def processes(self) -> list[Process]:
        """Return all processes, oldest first."""
        return list(self._processes)

    def exit(self, process: Process) -> None:
        """End a process: no engine reaches its tables any more, then everything it had is free."""
        self._processes.remove(process)
        self._by_pdid.pop(process.pdid, None)
        del self._by_asid[process.asid]
        self.page_faults.forget(process)
        if self.rdma is not None:
            self.rdma.detach(process)
        self.smmu.detach_all(process.asid)
        self.regions.forget(process)
        process.destroy()
        self._asids.free(process.asid)

    def counters(self) -> dict[str, int]:
        """Return what the kernel counted, by name."""
        counters = {
            "kernel_processes": len(self._processes),
            "kernel_regions": len(self.regions),
            "kernel_free_bytes": self.frames.free_bytes,
            "kernel_faults": self._fault_count,
            "kernel_tlb_syncs": self.smmu.syncs,
        }
        counters.update(self.page_faults.counters())
        counters.update(self.paging.counters())
        if self.rdma is not None:
            counters["kernel_pd_attached"] = self.rdma.attached
            counters["kernel_pd_evicted"] = self.rdma.evicted
        return counters

    # ---- page faults of DMA

    @property
    def fault_policy(self) -> FaultPolicy:
        """What is done about page faults of DMA."""
        return self.page_faults.policy

    def set_fault_policy(self, policy: FaultPolicy) -> None:
        """Treat faults that come from now on by `policy`; those that are queued are resolved all the same."""
        self.page_faults.policy = policy
        self.smmu.set_stall(policy.stalls, hupcf=policy.hupcf)
        if self.rdma is not None:
            self.rdma.set_faults(retry=policy.resolves, hold=policy.stalls)

    @property
    def fault_log(self) -> deque[FaultEvent]:
        """What became of page faults of DMA, oldest first; the last ten thousand."""
        return self.page_faults.log

    # ---- interrupts

    @contextmanager
    def interrupts_off(self) -> Iterator[None]:
        """Take no interrupts (PSTATE.I = 1) for a while; what is asserted at the end is served then."""
        self._masked = True
        try:
            yield
        finally:
            self._masked = False
            for spi in self._interrupts.pending():
                self._interrupt(spi)

    def _interrupt(self, spi: int) -> None:
        if self._masked:
            return
        for handler in self._handlers.get(spi, ()):
            handler()

    def _faulted(self, report: FaultReport) -> bool:
        self._fault_count += 1
        self.faults.append(report)
        if self.on_fault is not None:
            self.on_fault(report)
        return self.page_faults.faulted(report)
