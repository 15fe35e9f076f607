"""AXI CDMA, a DMA engine in the PL (AMD PG034; xaxicdma_hw.h; Linux' xilinx_dma.c).

*Simple mode* (CDMACR.SGMode = 0): writing BTT while the engine is idle copies BTT bytes from SA to DA.

*Scatter-gather* (SGMode = 1): software writes CURDESC while the engine is idle and starts with TAILDESC (both
registers read as zero and ignore writes in simple mode). Descriptors are 64 bytes, aligned, fetched through
the SMMU; a completed one gets its status word written back (Cmplt), and after the one at TAILDESC the engine
is idle. Writing TAILDESC again goes on behind it. Threshold and delay timer decide which completions raise
interrupts (`coalescer.py`); in simple mode each does.

Errors set Err_Irq; the engine is idle and ignores BTT and TAILDESC until CDMACR.Reset. Data: aborted by the
SMMU = DMASlvErr (which response an MMU-500 gives is the platform's: `CdmaSpec.abort_response`), no memory =
DMADecErr, a length of zero = DMAIntErr; in a list the descriptor gets the same as its status, without Cmplt.
Descriptors: SGSlvErr and SGDecErr in the same way, for the fetch and for the status; SGIntErr for one whose
Cmplt is set already, and for a misaligned one; CURDESC shows which. A list that goes on for the engine's
`Patience` with no access to its registers ends as SGIntErr.

The build has the data realignment engine, so data addresses may have any alignment; addresses have 49 bits.
"""

from __future__ import annotations

import logging
from functools import partial

from unimem_node.bus.interrupts import Line
from unimem_node.bus.registers import RegisterFile
from unimem_node.clock import EventLog, Scheduler
from unimem_node.dma import cdma_registers as regs
from unimem_node.dma import state as x
from unimem_node.dma.coalescer import Coalescer
from unimem_node.dma.mover import Mover, Refusal
from unimem_node.dma.pace import Loads, Pace
from unimem_node.dma.port import SmmuPort
from unimem_node.dma.snoop import Snoop
from unimem_node.dma.spec import CdmaSpec
from unimem_node.smmu import Smmu

_logger = logging.getLogger(__name__)


class AxiCdma:
    """One CDMA: a device on the bus, a master on a PL port, an interrupt line."""

    def __init__(
        self,
        smmu: Smmu,
        scheduler: Scheduler,
        irq_line: Line,
        spec: CdmaSpec,
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
        self._record = (
            None if log is None else partial(log.record, node=node, engine=spec.name, stream=spec.stream_id)
        )
        load = (loads or Loads(smmu.spec)).of(spec.stream_id)
        port = SmmuPort(smmu, spec.stream_id)
        self._mover = Mover(
            self, port, scheduler, load, Pace(spec.path), spec.patience, fast=fast, snoop=snoop
        )
        self._line = irq_line
        self._following = False  # CURDESC is where the list stands: TAILDESC goes on behind it
        self._ran = 0
        self._pending = 0  # an error of the data, shown when the descriptor's status is written
        unit = spec.path.cycles_ps(spec.delay_cycles)
        self._coalescer = Coalescer(scheduler, unit, lambda: self._show(regs.DLY_IRQ))
        registers = self.registers
        registers.on_write("CDMACR", self._control_written)
        registers.on_write("CDMASR", lambda *_: self._drive_line())
        registers.on_write("BTT", lambda *_: self._length_written())
        if spec.scatter_gather:
            registers.on_write("CURDESC", self._current_written)
            registers.on_write("CURDESC_MSB", self._current_written)
            registers.on_write("TAILDESC", lambda *_: self._tail_written(starts=True))
            registers.on_write("TAILDESC_MSB", lambda *_: self._tail_written(starts=False))
            for name in ("CURDESC", "CURDESC_MSB"):
                registers.on_read(name, lambda _: self._show_current(), refreshes=True)

    @property
    def busy(self) -> bool:
        """True while a transfer is under way."""
        return self._mover.busy

    def read(self, offset: int, size: int) -> int:
        """Read a register as the bus does."""
        self._mover.attended = True
        return self.registers.read(offset, size)

    def write(self, offset: int, size: int, value: int) -> None:
        """Write a register as the bus does."""
        self._mover.attended = True
        self.registers.write(offset, size, value)

    def inspect(self, offset: int, size: int) -> int:
        """Read a register as a debugger does: without effects."""
        return self.registers.inspect(offset, size)

    # ---- what software writes

    def _control_written(self, _index: int, old: int, written: int) -> None:
        registers = self.registers
        if written & regs.RESET:
            self._mover.cancel()
            self._mover.st[:] = 0
            self._coalescer.reset()
            self._following = False
            self._pending = 0
            registers.reset()
        else:
            control = registers.peek("CDMACR")
            if not control >> regs.THRESHOLD_SHIFT & 0xFF:
                control |= 1 << regs.THRESHOLD_SHIFT
            if self._mover.busy:  # SGMode cannot change under way
                control = control & ~regs.SG_MODE | old & regs.SG_MODE
            registers.poke("CDMACR", control)
            self._coalescer.configure(control >> regs.THRESHOLD_SHIFT & 0xFF, control >> 24)
            if not control & regs.SG_MODE:
                self._clear_descriptors()
        self._drive_line()

    def _clear_descriptors(self) -> None:
        if self.spec.scatter_gather:
            for name in ("CURDESC", "CURDESC_MSB", "TAILDESC", "TAILDESC_MSB"):
                self.registers.poke(name, 0)
            self._following = False

    def _current_written(self, _index: int, old: int, _written: int) -> None:
        """CURDESC: software chooses where the list begins, while the engine is idle."""
        if not self._sg_mode:
            self._clear_descriptors()
        elif self._mover.busy:
            self._show_current()
        else:
            self._following = False

    def _tail_written(self, *, starts: bool) -> None:
        """TAILDESC: move the end of the list; its low half starts, unless the engine runs."""
        if not self._sg_mode:
            self._clear_descriptors()
            return
        st, peek = self._mover.st, self.registers.peek
        tail = peek("TAILDESC") | peek("TAILDESC_MSB") << 32
        if self._mover.busy:
            st[x.X_TAIL] = tail
            return
        if not starts or self._halted("TAILDESC"):
            return
        following = int(st[x.SRC + x.D_NEXT])
        self._prepare()
        st[x.X_TAIL] = tail
        first = following if self._following else peek("CURDESC") | peek("CURDESC_MSB") << 32
        st[x.SRC + x.D_NEXT] = st[x.SRC + x.D_DSCR] = first
        self._following = True
        self._begin()

    def _length_written(self) -> None:
        peek = self.registers.peek
        if self._sg_mode or self._halted("BTT"):
            return
        if self._mover.busy:
            _logger.warning("%s: BTT written while busy; ignored", self.spec.name)
            return
        length = peek("BTT")
        if length == 0:
            self._end(regs.DMA_INT_ERR | regs.ERR_IRQ, "a length of zero")
            return
        self._prepare()
        st = self._mover.st
        for side, name in ((x.SRC, "SA"), (x.DST, "DA")):
            st[side + x.D_BASE] = peek(name) | peek(f"{name}_MSB") << 32
            st[side + x.D_SIZE] = length
            st[side + x.D_LOADED] = 1
        self._begin()

    @property
    def _sg_mode(self) -> bool:
        return bool(self.registers.peek("CDMACR") & regs.SG_MODE)

    def _halted(self, what: str) -> bool:
        if not self.registers.peek("CDMASR") & regs.ERRORS:
            return False
        _logger.warning(
            "%s: %s written while halted by an error; ignored: set CDMACR.Reset", self.spec.name, what
        )
        return True

    def _prepare(self) -> None:
        """A clean state row, with what the control register says."""
        control = self.registers.peek("CDMACR")
        self._ran = 0
        head = x.head(
            x.FORMAT_CDMA,
            bool(control & regs.SG_MODE),
            self.spec.path.width_bytes,
            self._coalescer.watch,
            length_mask=(1 << self.spec.length_bits) - 1,
        )
        source = x.side(fixed=bool(control & regs.KEYHOLE_READ))
        self._mover.load(head, source, x.side(fixed=bool(control & regs.KEYHOLE_WRITE)))

    def _begin(self) -> None:
        self.registers.poke("CDMASR", self.registers.peek("CDMASR") & ~regs.IDLE)
        self._mover.start()

    # ---- what the mover reports

    def stopped(self, mover: Mover, stop: int) -> None:
        """Bytes and descriptors' status are in memory; status first, then the interrupt."""
        st = mover.st
        self._ran += mover.take_moved()
        if stop == x.STOP_INTR:
            mover.go_on()
            self._completed()
        elif stop == x.STOP_DONE:
            self._log("dma.done", None)
            self.registers.poke("CDMASR", self.registers.peek("CDMASR") | regs.IDLE)
            if st[x.X_LIST]:
                self._completed()
            else:
                self._show(regs.IOC_IRQ)
        elif stop == x.STOP_HALTED:
            self._end(regs.ERR_IRQ, None)
        elif stop == x.STOP_BAD and st[x.X_CODE] == x.BAD_LENGTH:
            self._log("dma.refused", "a descriptor's length of zero")
            self._mark(regs.DMA_INT_ERR, x.BD_INT_ERR)
        else:
            why = "the list does not end, and nobody looks at the engine"
            if stop == x.STOP_BAD:
                stale = st[x.X_CODE] == x.BAD_STALE
                why = "descriptor complete already" if stale else "descriptor not 64-byte aligned"
            self._end(regs.SG_INT_ERR | regs.ERR_IRQ, why)

    def refused(self, mover: Mover, refusal: Refusal) -> None:
        """An access got a bus error: the engine halts until it is reset."""
        self._ran += mover.take_moved()
        slave = refusal.response == "SLVERR" and self.spec.abort_response == "SLVERR"
        if refusal.op in (x.OP_READ, x.OP_WRITE):
            bit = regs.DMA_SLV_ERR if slave else regs.DMA_DEC_ERR
            if mover.st[x.X_LIST]:
                self._log("dma.refused", refusal.describe())
                self._mark(bit, x.BD_SLV_ERR if slave else x.BD_DEC_ERR)
            else:
                self._end(bit | regs.ERR_IRQ, refusal.describe())
        else:
            self._end((regs.SG_SLV_ERR if slave else regs.SG_DEC_ERR) | regs.ERR_IRQ, refusal.describe())

    def _mark(self, bit: int, status: int) -> None:
        """Halt with an error of the data: its bit is seen when the descriptor's status is in memory."""
        st = self._mover.st
        st[x.X_STATUS] = status
        st[x.X_UPDATING] = st[x.X_HALTING] = 1
        st[x.SRC + x.D_LOADED] = 1
        self._pending = bit
        self._mover.go_on()

    def _completed(self) -> None:
        """Count completions of descriptors; interrupt where the threshold is reached."""
        reached = self._coalescer.completed(self._mover.take(x.X_COMPLETED))
        self._mover.st[x.X_WATCH] = self._coalescer.watch
        if reached:
            self._show(regs.IOC_IRQ)

    def _end(self, bits: int, why: str | None) -> None:
        """Idle, with an error."""
        self._coalescer.completed(self._mover.take(x.X_COMPLETED))
        bits |= self._pending
        self._pending = 0
        if why is not None:
            self._log("dma.refused", why)
        self._following = False
        self._show(bits | regs.IDLE)

    def _show(self, bits: int) -> None:
        """Set `bits` in the status register; then the interrupt."""
        self.registers.poke("CDMASR", self.registers.peek("CDMASR") | bits)
        self._drive_line()

    def _drive_line(self) -> None:
        enabled = self.registers.peek("CDMACR") & self.registers.peek("CDMASR") & regs.INTERRUPTS
        self._line.set(bool(enabled))

    def _show_current(self) -> None:
        if self._following or self.registers.peek("CDMASR") & regs.ERRORS:
            current = int(self._mover.st[x.SRC + x.D_DSCR])
            self.registers.poke("CURDESC", current & 0xFFFF_FFC0)
            self.registers.poke("CURDESC_MSB", current >> 32)

    def _log(self, kind: str, reason: str | None) -> None:
        self._mover.log(self._record, kind, self._ran, reason)
