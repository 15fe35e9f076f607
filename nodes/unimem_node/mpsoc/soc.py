"""The chip: parts of a platform wired together, in the state in which they come out of reset.

Memory map, interrupts and stream IDs are the platform's (ZynqMP: UG1085, "System addresses", "System
interrupts", table 16-13). No software runs here: a bare-metal program drives the chip through `bus` and
`memory` and lets virtual time pass with `run`; a `Node` boots the kernel model on it.

    >>> soc = Mpsoc(memory_bytes=1 << 20)
    >>> hex(soc.bus.read32(0xFD80_0000))        # sCR0: CLIENTPD = 1, everything bypasses
    '0x200001'
    >>> soc.memory.write(0x1000, b"bytes")
    >>> soc.bus.write32(0xFD50_0128, 0x1000)    # FPD DMA channel 0: source,
    >>> soc.bus.write32(0xFD50_0138, 0x2000)    # destination,
    >>> soc.bus.write32(0xFD50_0130, 5)         # bytes,
    >>> soc.bus.write32(0xFD50_0200, 1)         # CTRL2.EN
    >>> soc.run()
    >>> soc.memory.read(0x2000, 5)
    b'bytes'
"""

from __future__ import annotations

import random
from collections.abc import Callable, Iterable, Mapping
from pathlib import Path
from typing import Any

from unimem_node.bus import Bus
from unimem_node.bus.interrupts import InterruptController
from unimem_node.clock import EventLog, Scheduler, named_stream
from unimem_node.dma import AxiCdma, AxiDma, AxiDmaSpec, CdmaSpec, Loads, Snoop, ZdmaChannel
from unimem_node.fabric import RdmaNi
from unimem_node.memory import DramPorts, PhysicalMemory, WriteBackCache
from unimem_node.mpsoc import platform as platforms
from unimem_node.mpsoc.names import parts_of, streams_of
from unimem_node.mpsoc.platform import Platform, PlMaster
from unimem_node.smmu import Smmu
from unimem_node.smmu.arrays import T_MEMORY_PER_KIB, Arrays
from unimem_node.smmu.wrapper import WRAPPER_SIZE

_PS_PER_NS = 1000


class Mpsoc:
    """One MPSoC out of reset.

    `platform` names a platform, or a ``.toml`` file, or is one. `pl_masters` replaces what the platform
    builds in the PL (mappings as in the platform file); without one of type ``rdma`` there is no network
    interface and `ni` is None; `timer` is the clock (ps) of its time-outs, the scheduler's unless given.
    `scheduler` may be shared by many chips. `fast=False` runs the readable paths, and so does a platform with
    a modelled cache. `memory` are the bytes themselves, as a debugger sees them.

    Raises `ValueError` (mostly `PlatformError`) for a platform, memory size or PL that does not fit together.
    """

    def __init__(
        self,
        platform: str | Path | Platform = "zynqmp",
        *,
        memory_bytes: int = 4 << 30,
        scheduler: Scheduler | None = None,
        name: str = "n0",
        index: int = 0,
        incarnation: int = 1,
        seed: int = 0,
        fast: bool = True,
        timer: Callable[[], int] | None = None,
        log: EventLog | None = None,
        pl_masters: Iterable[Mapping[str, Any] | PlMaster] | None = None,
    ) -> None:
        self.platform = platform if isinstance(platform, Platform) else platforms.load(platform)
        self.name = name
        self.index = index
        self._seed = seed
        self._log = log
        self.scheduler = scheduler if scheduler is not None else Scheduler()
        masters = self.platform.pl.masters if pl_masters is None else platforms.parse_masters(pl_masters)
        pl_specs = self.platform.pl_specs(masters)
        #: The devices on the bus: what they are, their interrupts and streams.
        self.parts = parts_of(self.platform, pl_specs)
        #: Whose the stream IDs are; ranges may lie in one another.
        self.streams = streams_of(self.platform, self.parts)
        self.memory = PhysicalMemory(self.platform.memory.banks(memory_bytes))
        cpu = self.platform.cpu
        #: The CPU's write-back cache, if the platform models one; `bus` is what the CPU sees through it.
        self.cache: WriteBackCache | None = None
        snoop: Snoop | None = None
        if cpu.write_back_cache is not None:
            shape = cpu.write_back_cache
            self.cache = WriteBackCache(self.memory, shape.lines, shape.line_bytes)
            snoop = Snoop(self.cache, cpu.coherent_tbus, bypass_cacheable=cpu.bypass_cacheable)
        self.bus = Bus(self.memory, self.cache)
        self.interrupts = InterruptController()
        if log is not None:
            self.interrupts.subscribe(self._record_interrupt)

        place = self.platform.smmu
        self.smmu = Smmu(self.memory, place.block, self.interrupts, self.scheduler, log, node=name)
        self.bus.attach("smmu", place.base, place.block.size, self.smmu)
        if place.wrapper is not None:
            self.bus.attach("smmu_reg", place.wrapper, WRAPPER_SIZE, self.smmu.wrapper)

        #: What the masters share of DRAM's bandwidth.
        self.dram_ports = DramPorts(self.platform.dram_spec(), size=memory_bytes)
        self.dram_ports.show(self.smmu.arrays.timing, T_MEMORY_PER_KIB)
        loads = Loads(place.block, self.dram_ports)
        self.zdma: dict[str, ZdmaChannel] = {}
        for zdma in self.platform.zdma_specs():
            line = self.interrupts.line(zdma.spi)
            channel = ZdmaChannel(
                self.smmu, self.scheduler, line, zdma, loads=loads, node=name, fast=fast, snoop=snoop, log=log
            )
            self.bus.attach(zdma.name, zdma.base, zdma.size, channel)
            self.zdma[zdma.name] = channel

        self.pl: dict[str, AxiCdma] = {}
        self.axi_dma: dict[str, AxiDma] = {}
        self.ni: RdmaNi | None = None
        for spec in pl_specs:
            line = self.interrupts.line(spec.spi)
            if isinstance(spec, CdmaSpec):
                cdma = AxiCdma(
                    self.smmu,
                    self.scheduler,
                    line,
                    spec,
                    loads=loads,
                    node=name,
                    fast=fast,
                    snoop=snoop,
                    log=log,
                )
                self.pl[spec.name] = cdma
                self.bus.attach(spec.name, spec.base, spec.size, cdma)
            elif isinstance(spec, AxiDmaSpec):
                lines = line, self.interrupts.line(spec.spi_s2mm)
                dma = AxiDma(
                    self.smmu,
                    self.scheduler,
                    lines,
                    spec,
                    loads=loads,
                    node=name,
                    fast=fast,
                    snoop=snoop,
                    log=log,
                )
                self.axi_dma[spec.name] = dma
                self.bus.attach(spec.name, spec.base, spec.size, dma)
            else:
                self.ni = RdmaNi(
                    self.smmu,
                    self.memory,
                    self.scheduler,
                    line,
                    spec,
                    index=index,
                    incarnation=incarnation,
                    fast=fast,
                    snoop=snoop,
                    timer=timer,
                    name=name,
                    log=log,
                )
                self.bus.attach(spec.name, spec.base, spec.size, self.ni)

    @property
    def arrays(self) -> Arrays:
        """The chip as compiled code sees it."""
        return self.smmu.arrays

    @property
    def now_ns(self) -> float:
        """Virtual time."""
        return self.scheduler.now_ps / _PS_PER_NS

    def run(self, until_ns: float | None = None) -> None:
        """Let virtual time pass until nothing is left to do, or to `until_ns` (counted from the start).

        A transaction that waits for software, as a stalled one, is nothing left to do.
        """
        self.scheduler.run(None if until_ns is None else int(until_ns * _PS_PER_NS))

    def counters(self) -> dict[str, int]:
        """The SMMU's counters and, prefixed by its name, the network interface's."""
        counters = dict(self.smmu.counters())
        if self.ni is not None:
            counters.update({f"ni_{name}": value for name, value in self.ni.counters().items()})
        return counters

    def random(self, purpose: str) -> random.Random:
        """The chip's seeded random numbers for one purpose: the same for the same seed and chip name."""
        return named_stream(self._seed, f"{self.name}/{purpose}")

    def close(self) -> None:
        """Give the simulated memory back to the host."""
        self.memory.close()

    def _record_interrupt(self, spi: int, level: bool) -> None:
        assert self._log is not None
        self._log.record(self.scheduler.now_ps, self.name, "interrupt", spi=spi, level=level)
