"""A ZDMA channel in simple register mode (AMD UG1085 "DMA controllers": FPD "GDMA", LPD "ADMA").

Writing CTRL2.EN = 1 starts the transfer that SRC/DST_DSCR_WORD0..3 describe. The size of the source governs
both directions; in write-only mode, that of the destination. The channel stops, EN falls and STATUS shows
00 or, after a refused access, 11 (the encoding of xzdma_hw.h). Setting EN again starts anew.

Not a transfer, and answered as a bad descriptor (ISR.AXI_RD_SRC_DSCR or AXI_RD_DST_DSCR, STATUS 11, no byte
moved): scatter-gather (CTRL0.POINT_TYPE = 1), which this model's channels do not fetch descriptors for, and
a size of zero. Rate control, outstanding limits and PL flow control are stored and have no effect.
"""

from __future__ import annotations

from functools import partial

import numpy as np

from unimem_node.bus import BusError
from unimem_node.bus.interrupts import Line
from unimem_node.bus.registers import RegisterFile
from unimem_node.clock import EventLog, Scheduler
from unimem_node.dma import zdma_registers as regs
from unimem_node.dma.mover import DataMover, Ending, Job
from unimem_node.dma.port import SmmuPort
from unimem_node.dma.spec import ZdmaSpec
from unimem_node.smmu import Smmu

_COUNTER_LIMIT = 0xFF
_TOTAL_LIMIT = 1 << 32


class ZdmaChannel:
    """One channel: a device on the bus, a master with its own stream ID, an interrupt line."""

    def __init__(
        self,
        smmu: Smmu,
        scheduler: Scheduler,
        irq_line: Line,
        spec: ZdmaSpec,
        *,
        node: str = "",
        fast: bool = True,
        log: EventLog | None = None,
    ) -> None:
        self.spec = spec
        self.registers = RegisterFile(spec.name, spec.size, regs.TABLE)
        record = (
            None if log is None else partial(log.record, node=node, engine=spec.name, stream=spec.stream_id)
        )
        port = SmmuPort(smmu, spec.stream_id)
        self._mover = DataMover(port, scheduler, spec.path, fast=fast, record=record)
        self._line = irq_line
        self.registers.on_write("ISR", lambda *_: self._drive_line())
        self.registers.on_write("IEN", lambda _i, _old, bits: self._mask(clear=bits))
        self.registers.on_write("IDS", lambda _i, _old, bits: self._mask(set_=bits))
        self.registers.on_write("CTRL2", self._enable_written)
        for name in ("SRC_CUR_PYLD", "DST_CUR_PYLD"):
            self.registers.on_read(f"{name}_LSB", lambda _: self._show_progress())
            self.registers.on_read(f"{name}_MSB", lambda _: self._show_progress())

    @property
    def busy(self) -> bool:
        """True while a transfer is under way."""
        return self._mover.busy

    def read(self, offset: int, size: int) -> int:
        """Read a register as the bus does; an offset without one sets INV_APB."""
        self._check_offset(offset, size)
        return self.registers.read(offset, size)

    def write(self, offset: int, size: int, value: int) -> None:
        """Write a register as the bus does; an offset without one sets INV_APB."""
        self._check_offset(offset, size)
        self.registers.write(offset, size, value)

    def _check_offset(self, offset: int, size: int) -> None:
        if all(word in regs.DEFINED for word in range(offset, offset + size, 4)):
            return
        self._raise(regs.INV_APB)
        if self.registers.peek("ERR_CTRL"):
            raise BusError(self.spec.base + offset, "SLVERR")

    def _mask(self, *, set_: int = 0, clear: int = 0) -> None:
        imr = self.registers.peek("IMR")
        self.registers.poke("IMR", (imr | set_ & regs.ALL_INTERRUPTS) & ~clear)
        self._drive_line()

    def _raise(self, bits: int) -> None:
        self.registers.poke("ISR", self.registers.peek("ISR") | bits)
        self._drive_line()

    def _drive_line(self) -> None:
        self._line.set(bool(self.registers.peek("ISR") & ~self.registers.peek("IMR")))

    def _enable_written(self, _index: int, _old: int, written: int) -> None:
        """EN: 1 starts an idle channel; 0 stops a busy one where it stands, without DONE."""
        if not written & 1:
            if self._mover.busy:
                self._count_bytes(self._mover.done)
                self._mover.cancel()
                self._set_state(regs.STATE_DONE)
        elif not self._mover.busy:
            self._start()

    def _start(self) -> None:
        peek = self.registers.peek
        for side in ("SRC", "DST"):
            for half in ("LSB", "MSB"):
                self.registers.poke(f"{side}_CUR_DSCR_{half}", peek(f"{side}_START_{half}"))
        ctrl0 = self.registers.register("CTRL0")
        mode = ctrl0.get(peek("CTRL0"), "MODE")
        side = "DST" if mode == regs.MODE_WRITE_ONLY else "SRC"
        length = peek(f"{side}_DSCR_WORD2")
        if ctrl0.get(peek("CTRL0"), "POINT_TYPE"):
            self._stop(regs.STATE_ERROR, regs.RD_SRC_DSCR)
        elif length == 0:
            self._stop(regs.STATE_ERROR, regs.RD_DST_DSCR if side == "DST" else regs.RD_SRC_DSCR)
        else:
            self._set_state(regs.STATE_BUSY)
            self._mover.start(self._job(mode, length), self._ended)

    def _job(self, mode: int, length: int) -> Job:
        peek = self.registers.peek
        attributes = self.registers.register("DATA_ATTR")
        pattern = None
        if mode == regs.MODE_WRITE_ONLY:
            words = np.array([peek("WR_ONLY_WORD", i) for i in range(4)], "<u4")
            pattern = words.view(np.uint8)[: self.spec.path.width_bytes]
        return Job(
            length,
            None if mode == regs.MODE_WRITE_ONLY else self._address("SRC"),
            None if mode == regs.MODE_READ_ONLY else self._address("DST"),
            source_fixed=attributes.get(peek("DATA_ATTR"), "ARBURST") == regs.BURST_FIXED,
            destination_fixed=attributes.get(peek("DATA_ATTR"), "AWBURST") == regs.BURST_FIXED,
            pattern=pattern,
        )

    def _address(self, side: str) -> int:
        return self.registers.peek(f"{side}_DSCR_WORD0") | self.registers.peek(f"{side}_DSCR_WORD1") << 32

    def _show_progress(self) -> None:
        """Put the addresses reached, or at which it ended, into SRC/DST_CUR_PYLD, for whoever reads them."""
        job, done = self._mover.job, self._mover.done
        sides = [("SRC", job.source_at)] if job.source is not None else []
        if job.destination is not None:
            sides.append(("DST", job.destination_at))
        for side, address_at in sides:
            address = address_at(done)
            self.registers.poke(f"{side}_CUR_PYLD_LSB", address)
            self.registers.poke(f"{side}_CUR_PYLD_MSB", address >> 32 & 0x1_FFFF)

    def _ended(self, ending: Ending) -> None:
        """The last byte is in memory, or an access was refused: status first, then the interrupt."""
        bits = self._count_bytes(ending.done)
        refusal = ending.refusal
        if refusal is None:
            bits |= self._account("SRC", regs.SRC_DSCR_DONE, regs.SRC_ACCT_ERR)
            bits |= self._account("DST", regs.DST_DSCR_DONE, regs.DST_ACCT_ERR)
        else:
            bits |= regs.AXI_RD_DATA if refusal.side == "read" else regs.AXI_WR_DATA
        self._stop(regs.STATE_DONE if refusal is None else regs.STATE_ERROR, bits)

    def _count_bytes(self, n: int) -> int:
        """Add to TOTAL_BYTE; the ISR bit to raise when its 32 bits overflow."""
        total = self.registers.peek("TOTAL_BYTE") + n
        self.registers.poke("TOTAL_BYTE", total % _TOTAL_LIMIT)
        return regs.BYTE_CNT_OVRFL if total >= _TOTAL_LIMIT else 0

    def _account(self, side: str, done_bit: int, overflow_bit: int) -> int:
        """Count a descriptor that has INTR set; the ISR bits to raise."""
        if not self.registers.register(f"{side}_DSCR_WORD3").get(
            self.registers.peek(f"{side}_DSCR_WORD3"), "INTR"
        ):
            return 0
        count = self.registers.peek(f"IRQ_{side}_ACCT") + 1
        self.registers.poke(f"IRQ_{side}_ACCT", count & _COUNTER_LIMIT)
        return done_bit | (overflow_bit if count > _COUNTER_LIMIT else 0)

    def _stop(self, state: int, bits: int) -> None:
        """Disable the channel: STATUS, then ISR, then the line."""
        self.registers.poke("CTRL2", 0)
        self._set_state(state)
        self._raise(bits | regs.DMA_DONE)

    def _set_state(self, state: int) -> None:
        self.registers.poke("STATUS", state)
