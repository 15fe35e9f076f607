"""A node: a chip with its software, the thing that both shells (simulation, service) drive.

Calls in, actions out, no I/O: work requests and frames come in by `post` and `on_frame`, frames to send and
completions are taken out. The kernel does what the coordinator asks (domains, regions); the network interface
does the transfers; whether an access is allowed is decided by the SMMU and by page tables in DRAM.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final

import numpy as np
import numpy.typing as npt

from unimem_node.bus import Bus
from unimem_node.bus.interrupts import InterruptController
from unimem_node.clock import EventLog, Scheduler
from unimem_node.fabric.topology import check_topology, hops
from unimem_node.kernel.board import Board, DmaNode, NiNode, SmmuNode
from unimem_node.kernel.fault_policy import FaultPolicy
from unimem_node.kernel.fault_prepare import prepare, release
from unimem_node.kernel.faults import FaultReport
from unimem_node.kernel.kernel import Kernel
from unimem_node.kernel.staging import Staging
from unimem_node.mpsoc.platform import Platform
from unimem_node.mpsoc.soc import Mpsoc

if TYPE_CHECKING:
    from unimem_node.fabric import RdmaNi

#: The kernel's own image, at the start of DRAM; as far as Linux' text offset on arm64.
KERNEL_BYTES: Final = 0x8_0000
#: Most that one ZDMA descriptor moves: its size field has 30 bits.
_ZDMA_LIMIT: Final = (1 << 30) - 1


def board_of(soc: Mpsoc) -> Board:
    """Describe a chip to the kernel, as a device tree would."""
    memory: list[tuple[int, int]] = []
    for bank in soc.memory.banks:
        if bank.name.startswith("dram"):
            reserved = 0 if memory else min(KERNEL_BYTES, bank.size // 2 & -4096)
            memory.append((bank.base + reserved, bank.size - reserved))
    ni = None
    if soc.ni is not None:
        spec = soc.ni.spec
        ni = NiNode(spec.name, spec.base, spec.spi, spec.stream_base, spec.slots)
    return Board(
        memory=tuple(memory),
        smmu=SmmuNode(soc.platform.smmu.base, soc.platform.smmu.block.spi),
        zdma=tuple(
            DmaNode(
                channel.spec.name, channel.spec.base, channel.spec.spi, channel.spec.stream_id, _ZDMA_LIMIT
            )
            for channel in soc.zdma.values()
        ),
        cdma=tuple(
            DmaNode(
                engine.spec.name,
                engine.spec.base,
                engine.spec.spi,
                engine.spec.stream_id,
                (1 << engine.spec.length_bits) - 1,
            )
            for engine in soc.pl.values()
        ),
        axi_dma=tuple(
            DmaNode(
                dma.spec.name,
                dma.spec.base,
                dma.spec.spi,
                dma.spec.stream_id,
                (1 << dma.spec.length_bits) - 1,
                dma.spec.spi_s2mm,
            )
            for dma in soc.axi_dma.values()
            if dma.spec.scatter_gather  # the kernel has no driver for direct register builds
        ),
        ni=ni,
    )


def boot(soc: Mpsoc, *, strict: bool = True, clean_tables: bool = True) -> Kernel:
    """Boot the kernel on a chip. `strict`: a stream that nobody routed faults instead of bypassing.

    `clean_tables` = False: the kernel forgets to clean page tables, for a chip with a cache to show it.
    """
    return Kernel(
        soc.bus,
        soc.interrupts,
        board_of(soc),
        now=lambda: clock_of(soc),
        scheduler=soc.scheduler,
        timing=soc.platform.kernel,
        strict=strict,
        clean_tables=clean_tables,
    )


def clock_of(soc: Mpsoc) -> int:
    """Return a chip's virtual time (ps): the later of its scheduler's and of what came over the fabric."""
    now = soc.scheduler.now_ps
    return now if soc.ni is None else max(now, soc.ni.clock_ps)


class Node:
    """One node of a cluster. `fast=False` runs the readable paths instead of the compiled ones.

    `policy`: what the kernel does about page faults of remote DMA (`FaultPolicy.parse`). `timer`: the clock
    (ps) of time-outs and deadlines, the scheduler's unless given.

    Bad arguments raise `ValueError` (`KernelFault` for an address the CPU may not touch), lack of memory
    `MemoryError`; either way nothing has changed. What goes wrong with a transfer is in its completion.
    """

    def __init__(
        self,
        name: str,
        index: int,
        *,
        platform: str | Path | Platform = "zynqmp",
        memory_bytes: int = 4 << 30,
        scheduler: Scheduler | None = None,
        incarnation: int = 1,
        seed: int = 0,
        fast: bool = True,
        topology: str = "full",
        policy: str = "abort",
        timer: Callable[[], int] | None = None,
        log: EventLog | None = None,
    ) -> None:
        check_topology(topology, 1)
        parsed = FaultPolicy.parse(policy)
        self._topology = topology
        self.name = name
        self.index = index
        self.incarnation = incarnation
        self.soc = Mpsoc(
            platform,
            memory_bytes=memory_bytes,
            scheduler=scheduler,
            name=name,
            index=index,
            incarnation=incarnation,
            seed=seed,
            fast=fast,
            timer=timer,
            log=log,
        )
        if self.soc.ni is None:
            raise ValueError(
                f"node {name}: platform {self.soc.platform.name} has no RDMA network interface; "
                "add a PL master of type rdma"
            )
        self.ni: RdmaNi = self.soc.ni
        self.kernel = boot(self.soc)
        if parsed.resolves:
            self.kernel.set_fault_policy(parsed)
        if log is not None:
            self.kernel.page_faults.on_event = lambda event: event.record(log, name)
            self.kernel.on_fault = lambda report: log.record(
                report.time_ps, name, "fault_report", number=report.number, pdid=report.pdid, text=report.text
            )
        self._staging: dict[int, Staging] = {}

    @property
    def fault_policy(self) -> str:
        """What the kernel does about page faults of remote DMA."""
        return str(self.kernel.fault_policy)

    def set_fault_policy(self, policy: str) -> None:
        """Treat faults that come from now on by another policy."""
        self.kernel.set_fault_policy(FaultPolicy.parse(policy))

    @property
    def bus(self) -> Bus:
        """The chip's registers and memory by physical address."""
        return self.soc.bus

    @property
    def interrupts(self) -> InterruptController:
        """The chip's interrupt controller."""
        return self.soc.interrupts

    @property
    def now_ps(self) -> int:
        """The node's virtual clock: the later of its scheduler's and what has arrived."""
        return clock_of(self.soc)

    # ---- what the coordinator asks for

    def open_domain(self, pdid: int) -> int:
        """Make the process of a protection domain unless there is one; returns its ASID."""
        process = self.kernel.find(pdid)
        if process is None:
            if pdid == 0:
                raise ValueError("protection domain 0 is none")
            process = self.kernel.spawn(pdid)
            self._staging[pdid] = Staging(process, self.soc.bus)
        return process.asid

    def close_domain(self, pdid: int) -> None:
        """End a domain's process, if there is one: its memory is free again, its regions are gone."""
        process = self.kernel.find(pdid)
        if process is not None:
            self._staging.pop(pdid, None)
            self.kernel.exit(process)

    def pdids(self) -> list[int]:
        """Return the domains that are open, ascending."""
        return sorted(self._staging)

    def map_region(self, pdid: int, gva: int, length: int, rights: int, owner: bool) -> None:
        """Allocate a region (`owner`), or map an existing one for another domain with `rights`, at VA = GVA.

        The same call again is without effect; other rights replace those before.
        """
        process = self.kernel.process(pdid)
        if owner:
            self.kernel.regions.create(process, gva, length, rights)
        else:
            self.kernel.regions.share(process, gva, length, rights)

    def unmap_region(self, gva: int, pdid: int = 0) -> None:
        """Unmap the region at `gva`, if it is mapped, for one domain or (0) for all, and free it then."""
        if pdid == 0:
            self.kernel.regions.destroy(gva)
            return
        process = self.kernel.find(pdid)
        if process is not None:
            self.kernel.regions.revoke(process, gva)

    # ---- a process' private memory, and the CPU's view of it

    def map_memory(self, pdid: int, length: int, va: int = 0, rights: int = 3) -> int:
        """Map fresh, cleared private memory; returns its address (`va`, or the kernel's choice for 0)."""
        return self.kernel.process(pdid).map(length, va, rights)

    def unmap_memory(self, pdid: int, va: int, length: int) -> None:
        """Unmap private memory, all of it mapped, and free it."""
        self.kernel.process(pdid).unmap(va, length)

    def protect_memory(self, pdid: int, va: int, length: int, rights: int) -> None:
        """Change the rights of private memory."""
        self.kernel.process(pdid).protect(va, length, rights)

    def prepare(self, pdid: int, va: int, length: int, how: str = "prefault", *, write: bool = True) -> int:
        """Touch memory of a process so that DMA does not fault ("prefault"), or pin it so that it never will.

        Returns what that costs (ps) and lets no time pass: the process' CPU does it, and whoever calls this
        waits so long before the memory is used. Errors as `unimem_node.kernel.fault_prepare.prepare`.
        """
        process = self.kernel.process(pdid)
        return prepare(self.kernel.paging, self.kernel.timing, process, va, length, how, write)

    def release(self, pdid: int, va: int, length: int) -> int:
        """Undo a pin; returns what that costs (ps). Raises `ValueError` where nothing is pinned."""
        return release(self.kernel.timing, self.kernel.process(pdid), va, length)

    def advise(self, pdid: int, va: int, length: int, advice: str) -> int:
        """Have the kernel do something with memory of a process, regions included; returns pages concerned.

        `advice` and errors as `unimem_node.kernel.paging_advice.Advice.advise`.
        """
        return self.kernel.process(pdid).madvise(va, length, advice)

    def read_memory(self, pdid: int, va: int, n: int) -> bytes:
        """Read as the CPU does, through the page tables of the process."""
        return self.kernel.process(pdid).read(va, n)

    def write_memory(self, pdid: int, va: int, data: Any) -> None:
        """Write as the CPU does, through the page tables of the process; all of `data`, or nothing."""
        self.kernel.process(pdid).write(va, data)

    def stage(self, pdid: int, n: int) -> tuple[int, npt.NDArray[np.uint8]]:
        """Lend a buffer of `n` bytes (1 to 256 MiB) in the process: its address, and its bytes in DRAM."""
        staging = self._staging.get(pdid)
        if staging is None:
            raise ValueError(f"protection domain {pdid} has no process on node {self.name}")
        return staging.take(n)

    def unstage(self, pdid: int, va: int) -> None:
        """Take a staging buffer back; nothing may use it any more."""
        staging = self._staging.get(pdid)
        if staging is not None:  # a domain that was closed took its buffers along
            staging.give(va)

    # ---- transfers

    def set_routes(self, rows: Iterable[Any]) -> None:
        """Take over the route table: rows of (index, name, base, size, incarnation, state).

        The way to a peer is as long as the topology says, with the nodes in the order of their indices.
        """
        table = sorted(rows)
        self.ni.set_routes(table)
        places = {row[0]: place for place, row in enumerate(table)}
        here, spec = places.get(self.index), self.ni.spec

        def far(index: int) -> tuple[int, int]:
            place = places.get(index)
            further = (
                hops(self._topology, len(table), here, place) - 1
                if here is not None and place is not None
                else 0
            )
            return spec.hop_ps + further * spec.further_hop_ps, spec.link_ps_per_kib

        self.ni.set_links(far)

    def post(self, wrs: np.ndarray) -> None:
        """Ring the doorbell for WORK_REQUEST rows."""
        self.ni.post(wrs)

    def on_frame(self, peer_index: int, frame: npt.NDArray[np.uint8]) -> None:
        """Take a frame from a peer (uint8, any alignment)."""
        self.ni.on_frame(peer_index, frame)

    def peer_lost(self, peer_index: int, reason: str) -> None:
        """The connection to a peer broke: what is unanswered is sent again over the next one."""
        self.ni.connection_lost(peer_index, reason)

    def peer_gone(self, peer_index: int, reason: str) -> None:
        """An authority says that a peer is no more: what waits for it ends, PEER_LOST."""
        self.ni.peer_gone(peer_index, reason)

    def peer_unreachable(self, peer_index: int, reason: str) -> None:
        """There never was a connection to a peer: nothing has left."""
        self.ni.peer_unreachable(peer_index, reason)

    def cancel(self, wr_id: int) -> bool:
        """End a work request now, CANCELLED; False when it is not under way (any more)."""
        return self.ni.cancel(wr_id)

    @property
    def timer_ps(self) -> int | None:
        """When `on_timer` is wanted, on the clock given as `timer`; None: not at all."""
        return self.ni.timer_ps

    @property
    def wake(self) -> Callable[[], object] | None:
        """What is called when `pump` is wanted although nobody has called anything: a page has come."""
        return self.ni.wake

    @wake.setter
    def wake(self, fn: Callable[[], object] | None) -> None:
        self.ni.wake = fn

    def on_timer(self) -> None:
        """Do what is due by now."""
        self.ni.on_timer()

    def pump(self, frames: int = 0) -> bool:
        """Do what can be done now; with `frames`, stop when so many wait to be taken (returns whether so)."""
        return self.ni.pump(frames)

    def take_frames(self) -> list[tuple[int, npt.NDArray[np.uint8]]]:
        """Take the frames to send, in order for each peer."""
        return self.ni.take_frames()

    def take_completions(self) -> np.ndarray:
        """Take the COMPLETION rows since the last call."""
        return self.ni.take_completions()

    # ---- what is going on

    def counters(self) -> dict[str, int]:
        """Return everything counted: the SMMU's, the interface's (`ni_...`), the kernel's (`kernel_...`)."""
        return {**self.soc.counters(), **self.kernel.counters()}

    def faults(self) -> list[FaultReport]:
        """Return what the SMMU reported, oldest first, the last thousand."""
        return list(self.kernel.faults)

    def resident_bytes(self) -> int:
        """Bytes of host memory behind the simulated memory: the pages touched."""
        return self.soc.memory.resident_bytes()

    def close(self) -> None:
        """Give the simulated memory back to the host."""
        self.kernel.page_faults.server.stop()  # a shared scheduler goes on
        self.soc.close()
