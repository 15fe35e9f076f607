"""AXI DMA, memory to stream and stream to memory, its stream looped back (AMD PG021; xaxidma_hw.h).

MM2S reads memory and sends packets; they go through a FIFO of `AxiDmaSpec.fifo_bytes` (and 64 packets) to
S2MM, which writes them to memory. A full FIFO holds MM2S back, an empty one lets S2MM wait.

*Scatter-gather* builds: DMACR.RS = 1 lets a channel run, TAILDESC starts it at CURDESC (writable while
halted) and, when it is idle at its tail, behind there. Descriptors are 64 bytes, aligned, fetched through the
SMMU. MM2S sends from SOF to EOF as one packet, with the APP words of its first descriptor; S2MM fills its
descriptors until the packet ends and writes back RXSOF, RXEOF, the bytes that came, and with RXEOF the APP
words. Cyclic: neither tail nor Cmplt ends the list. Packets (EOF, RXEOF) count for the interrupts.

*Direct register* builds (SGIncld = 0): LENGTH starts; one transfer is one packet. S2MM's LENGTH then reads as
the bytes that came; a packet that is longer is DMAIntErr.

RS = 0 halts a channel at once: what it moved is moved, the descriptor under way stays without status, data in
the FIFO stays there. An error halts its channel too (RS falls, Err_Irq), and only a reset, which is always of
both channels and the FIFO, ends that. Error bits are as in the AXI CDMA (`cdma.py`).
"""

from __future__ import annotations

from functools import partial
from typing import Any

import numpy as np

from unimem_node.bus.interrupts import Line
from unimem_node.bus.registers import RegisterFile
from unimem_node.clock import EventLog, Scheduler
from unimem_node.dma import axi_dma_registers as regs
from unimem_node.dma import state as x
from unimem_node.dma.axi_dma_channel import Channel
from unimem_node.dma.mover import Mover
from unimem_node.dma.pace import Loads, Pace
from unimem_node.dma.port import SmmuPort
from unimem_node.dma.snoop import Snoop
from unimem_node.dma.spec import AxiDmaSpec
from unimem_node.smmu import Smmu


class AxiDma:
    """One AXI DMA: a device on the bus, a master on a PL port, two interrupt lines (MM2S, S2MM)."""

    def __init__(
        self,
        smmu: Smmu,
        scheduler: Scheduler,
        lines: tuple[Line, Line],
        spec: AxiDmaSpec,
        *,
        loads: Loads | None = None,
        node: str = "",
        fast: bool = True,
        snoop: Snoop | None = None,
        log: EventLog | None = None,
    ) -> None:
        self.spec = spec
        table = regs.table(spec.length_bits, scatter_gather=spec.scatter_gather)
        self.registers = RegisterFile(spec.name, spec.size, table)
        record = (
            None if log is None else partial(log.record, node=node, engine=spec.name, stream=spec.stream_id)
        )
        load = (loads or Loads(smmu.spec)).of(spec.stream_id)
        self._fifo: Any = np.zeros(x.FIFO_COLS, np.int64)
        buffer = np.zeros(spec.fifo_bytes, np.uint8)
        self.channels = tuple(
            Channel(prefix, self.registers, spec, scheduler, line, record, self._reset)
            for prefix, line in zip(("MM2S", "S2MM"), lines, strict=True)
        )
        for channel, peer in zip(self.channels, reversed(self.channels), strict=True):
            channel.peer = peer
            channel.fifo = self._fifo
            channel.mover = Mover(
                channel,
                SmmuPort(smmu, spec.stream_id),
                scheduler,
                load,
                Pace(spec.path),
                spec.patience,
                fast=fast,
                snoop=snoop,
                tell_all=True,
                bytes_=buffer,
                fifo=self._fifo,
            )

    @property
    def busy(self) -> bool:
        """True while a transfer is under way."""
        return any(channel.busy for channel in self.channels)

    def read(self, offset: int, size: int) -> int:
        """Read a register as the bus does."""
        self._attend()
        return self.registers.read(offset, size)

    def write(self, offset: int, size: int, value: int) -> None:
        """Write a register as the bus does."""
        self._attend()
        self.registers.write(offset, size, value)

    def inspect(self, offset: int, size: int) -> int:
        """Read a register as a debugger does: without effects."""
        return self.registers.inspect(offset, size)

    def _attend(self) -> None:
        for channel in self.channels:
            channel.mover.attended = True

    def _reset(self) -> None:
        for channel in self.channels:
            channel.reset()
        self._fifo[:] = 0
        self.registers.reset()
        for channel in self.channels:
            channel.drive_line()
