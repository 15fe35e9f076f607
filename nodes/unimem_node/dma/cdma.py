"""AXI CDMA, a DMA engine in the PL, in simple mode (AMD PG034; xaxicdma_hw.h).

Writing BTT while the engine is idle copies BTT bytes from SA to DA. The build is one without scatter-gather:
CDMASR.SGIncld = 0, CDMACR.SGMode stays 0, and the descriptor registers are not there. It has the data
realignment engine, so addresses may have any alignment, and 49-bit addresses, as the PS ports.

An access that the SMMU aborts shows as DMASlvErr (which response an MMU-500 gives is the platform's:
`CdmaSpec.abort_response`), one that no memory answers as DMADecErr, BTT = 0 as DMAIntErr. After an error the
engine is idle and ignores BTT until CDMACR.Reset.
"""

from __future__ import annotations

import logging
from functools import partial
from typing import Final

from unimem_node.bus.interrupts import Line
from unimem_node.bus.registers import Field, Register, RegisterFile
from unimem_node.clock import EventLog, Scheduler
from unimem_node.dma.mover import DataMover, Ending, Job, Refusal
from unimem_node.dma.port import SmmuPort
from unimem_node.dma.spec import CdmaSpec
from unimem_node.smmu import Smmu

_logger = logging.getLogger(__name__)

RESET: Final = 1 << 2
IDLE: Final = 1 << 1
DMA_INT_ERR: Final = 1 << 4
DMA_SLV_ERR: Final = 1 << 5
DMA_DEC_ERR: Final = 1 << 6
ERRORS: Final = DMA_INT_ERR | DMA_SLV_ERR | DMA_DEC_ERR
IOC_IRQ: Final = 1 << 12
DLY_IRQ: Final = 1 << 13
ERR_IRQ: Final = 1 << 14
INTERRUPTS: Final = IOC_IRQ | DLY_IRQ | ERR_IRQ


def table(length_bits: int) -> tuple[Register, ...]:
    """The registers of a build whose BTT has `length_bits` bits."""
    return (
        Register(
            "CDMACR",
            0x00,
            reset=0x0001_0000,
            writable=0xFFFF_7030,
            fields=(
                Field("IRQDelay", 31, 24),
                Field("IRQThreshold", 23, 16),
                Field("Err_IrqEn", 14, 14),
                Field("Dly_IrqEn", 13, 13),
                Field("IOC_IrqEn", 12, 12),
                Field("KeyHoleWrite", 5, 5, "the destination's address stays"),
                Field("KeyHoleRead", 4, 4, "the source's address stays"),
                Field("SGMode", 3, 3, "always 0: no scatter-gather in this build"),
                Field("Reset", 2, 2, "reads as 0: a reset is over at once"),
            ),
            doc="control",
        ),
        Register(
            "CDMASR",
            0x04,
            reset=IDLE,
            writable=0,
            w1c=INTERRUPTS,
            fields=(
                Field("Err_Irq", 14, 14),
                Field("Dly_Irq", 13, 13),
                Field("IOC_Irq", 12, 12),
                Field("DMADecErr", 6, 6, "no memory at the address"),
                Field("DMASlvErr", 5, 5, "aborted by the SMMU"),
                Field("DMAIntErr", 4, 4, "BTT was zero"),
                Field("SGIncld", 3, 3),
                Field("Idle", 1, 1),
            ),
            doc="status",
        ),
        Register("SA", 0x18, doc="source address, bits 31:0"),
        Register("SA_MSB", 0x1C, writable=0x1_FFFF, doc="source address, bits 48:32"),
        Register("DA", 0x20, doc="destination address, bits 31:0"),
        Register("DA_MSB", 0x24, writable=0x1_FFFF, doc="destination address, bits 48:32"),
        Register("BTT", 0x28, writable=(1 << length_bits) - 1, doc="bytes to transfer; writing it starts"),
    )


class AxiCdma:
    """One CDMA: a device on the bus, a master on a PL port, an interrupt line."""

    def __init__(
        self,
        smmu: Smmu,
        scheduler: Scheduler,
        irq_line: Line,
        spec: CdmaSpec,
        *,
        node: str = "",
        fast: bool = True,
        log: EventLog | None = None,
    ) -> None:
        self.spec = spec
        self.registers = RegisterFile(spec.name, spec.size, table(spec.length_bits))
        record = (
            None if log is None else partial(log.record, node=node, engine=spec.name, stream=spec.stream_id)
        )
        port = SmmuPort(smmu, spec.stream_id)
        self._mover = DataMover(port, scheduler, spec.path, fast=fast, record=record)
        self._line = irq_line
        self.registers.on_write("CDMACR", self._control_written)
        self.registers.on_write("CDMASR", lambda *_: self._drive_line())
        self.registers.on_write("BTT", lambda *_: self._length_written())

    @property
    def busy(self) -> bool:
        """True while a transfer is under way."""
        return self._mover.busy

    def read(self, offset: int, size: int) -> int:
        """Read a register as the bus does."""
        return self.registers.read(offset, size)

    def write(self, offset: int, size: int, value: int) -> None:
        """Write a register as the bus does."""
        self.registers.write(offset, size, value)

    def _control_written(self, _index: int, _old: int, written: int) -> None:
        if written & RESET:
            self._mover.cancel()
            self.registers.reset()
        self._drive_line()

    def _drive_line(self) -> None:
        enabled = self.registers.peek("CDMACR") & self.registers.peek("CDMASR") & INTERRUPTS
        self._line.set(bool(enabled))

    def _length_written(self) -> None:
        peek = self.registers.peek
        if self._mover.busy or peek("CDMASR") & ERRORS:
            why = "busy" if self._mover.busy else "halted by an error: set CDMACR.Reset"
            _logger.warning("%s: BTT written while %s; ignored", self.spec.name, why)
            return
        length = peek("BTT")
        if length == 0:
            self._show(DMA_INT_ERR | ERR_IRQ)
            return
        control = self.registers.register("CDMACR")
        job = Job(
            length,
            peek("SA") | peek("SA_MSB") << 32,
            peek("DA") | peek("DA_MSB") << 32,
            source_fixed=bool(control.get(peek("CDMACR"), "KeyHoleRead")),
            destination_fixed=bool(control.get(peek("CDMACR"), "KeyHoleWrite")),
        )
        self.registers.poke("CDMASR", peek("CDMASR") & ~IDLE)
        self._mover.start(job, self._ended)

    def _ended(self, ending: Ending) -> None:
        """The last byte is in memory, or an access was refused: status first, then the interrupt."""
        refusal = ending.refusal
        self._show(IOC_IRQ if refusal is None else self._error_bit(refusal) | ERR_IRQ)

    def _error_bit(self, refusal: Refusal) -> int:
        aborted = refusal.response == "SLVERR"
        response = self.spec.abort_response if aborted else "DECERR"
        return DMA_SLV_ERR if response == "SLVERR" else DMA_DEC_ERR

    def _show(self, bits: int) -> None:
        """Idle again with `bits` in the status register; then the interrupt."""
        self.registers.poke("CDMASR", self.registers.peek("CDMASR") | IDLE | bits)
        self._drive_line()
