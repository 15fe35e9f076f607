"""One channel of an AXI DMA: its registers, its descriptors, its end of the stream (see `axi_dma.py`)."""

from __future__ import annotations

import logging
from collections.abc import Callable
from functools import partial
from typing import Any

from unimem_node.bus.interrupts import Line
from unimem_node.bus.registers import RegisterFile
from unimem_node.clock import Scheduler
from unimem_node.dma import axi_dma_registers as regs
from unimem_node.dma import cdma_registers as bits
from unimem_node.dma import state as x
from unimem_node.dma.coalescer import Coalescer
from unimem_node.dma.mover import Mover, Refusal
from unimem_node.dma.spec import AxiDmaSpec

_logger = logging.getLogger(__name__)


class Channel:
    """One direction: its registers begin with `prefix`, its memory side is `side`."""

    def __init__(
        self,
        prefix: str,
        registers: RegisterFile,
        spec: AxiDmaSpec,
        scheduler: Scheduler,
        line: Line,
        record: Callable[..., None] | None,
        reset: Callable[[], None],
    ) -> None:
        self.prefix = prefix
        self.spec = spec
        self._registers = registers
        self._scheduler = scheduler
        self._line = line
        self._record = record
        self._reset_engine = reset
        self.format = x.FORMAT_MM2S if prefix == "MM2S" else x.FORMAT_S2MM
        self.side = x.SRC if prefix == "MM2S" else x.DST
        self.mover: Mover  # these are set by the engine
        self.fifo: Any
        self.peer: Channel
        self._waiting = False  # for the FIFO
        self._following = False
        self._pending = 0
        self._ran = 0
        unit = spec.path.cycles_ps(spec.delay_cycles)
        self._coalescer = Coalescer(scheduler, unit, lambda: self.show(bits.DLY_IRQ))
        registers.on_write(f"{prefix}_DMACR", lambda _i, _old, written: self._control_written(written))
        registers.on_write(f"{prefix}_DMASR", lambda *_: self.drive_line())
        if spec.scatter_gather:
            for half in ("CURDESC", "CURDESC_MSB"):
                registers.on_write(f"{prefix}_{half}", partial(self._fix, half))
                registers.on_read(f"{prefix}_{half}", lambda _: self._show_current(), refreshes=True)
            registers.on_write(f"{prefix}_TAILDESC", lambda *_: self._tail_written(starts=True))
            registers.on_write(f"{prefix}_TAILDESC_MSB", lambda *_: self._tail_written(starts=False))
        else:
            registers.on_write(f"{prefix}_LENGTH", lambda *_: self._length_written())

    def peek(self, name: str) -> int:
        """A register of this channel."""
        return self._registers.peek(f"{self.prefix}_{name}")

    def poke(self, name: str, value: int) -> None:
        """Set a register of this channel."""
        self._registers.poke(f"{self.prefix}_{name}", value)

    @property
    def busy(self) -> bool:
        """True while a transfer is under way, also while it waits for the stream."""
        return self._waiting or self.mover.busy

    def reset(self) -> None:
        """As out of reset, but for the registers."""
        self.mover.cancel()
        self.mover.st[:] = 0
        self._coalescer.reset()
        self._waiting = self._following = False
        self._pending = 0

    # ---- what software writes

    def _control_written(self, written: int) -> None:
        if written & regs.RESET:
            self._reset_engine()
            return
        control = self.peek("DMACR")
        if not control >> bits.THRESHOLD_SHIFT & 0xFF:
            control |= 1 << bits.THRESHOLD_SHIFT
        status = self.peek("DMASR")
        if status & bits.ERRORS:
            control &= ~regs.RUN
        self.poke("DMACR", control)
        self._coalescer.configure(control >> bits.THRESHOLD_SHIFT & 0xFF, control >> 24)
        self.mover.st[x.X_CYCLIC] = bool(control & regs.CYCLIC)
        if control & regs.RUN and status & regs.HALTED:
            self.poke("DMASR", status & ~regs.HALTED | (bits.IDLE if self.spec.scatter_gather else 0))
        elif not control & regs.RUN and self._pending:
            self._error(0, None)  # whose status would have been written next
        elif not control & regs.RUN:
            self._halt()
            self.peer.stream_moved()
        self.drive_line()

    def _halt(self) -> None:
        self.mover.cancel()
        self._account()
        self._show_current()
        self._waiting = self._following = False
        self.poke("DMASR", self.peek("DMASR") & ~bits.IDLE | regs.HALTED)
        self.poke("DMACR", self.peek("DMACR") & ~regs.RUN)

    def _fix(self, name: str, _index: int, old: int, _written: int) -> None:
        """CURDESC is written while the channel is halted, else it keeps its value."""
        if not self.peek("DMASR") & regs.HALTED:
            self.poke(name, old)

    def _tail_written(self, *, starts: bool) -> None:
        tail = self.peek("TAILDESC") | self.peek("TAILDESC_MSB") << 32
        st = self.mover.st
        if self.busy:
            st[x.X_TAIL] = tail
        elif starts and self._runs("TAILDESC"):
            if not self._following:
                self._prepare()
                first = self.peek("CURDESC") | self.peek("CURDESC_MSB") << 32
                st[x.SRC + x.D_NEXT] = st[x.SRC + x.D_DSCR] = first
            st[x.X_TAIL] = tail
            self._following = True
            self._begin()

    def _length_written(self) -> None:
        length = self.peek("LENGTH")
        if self.busy or not length or not self._runs("LENGTH"):
            return
        self._prepare()
        st = self.mover.st
        st[x.SRC + x.D_SIZE] = st[x.DST + x.D_SIZE] = length
        st[x.SRC + x.D_LOADED] = st[x.DST + x.D_LOADED] = 1
        st[self.side + x.D_BASE] = self.peek("ADDR") | self.peek("ADDR_MSB") << 32
        self._begin()

    def _runs(self, what: str) -> bool:
        if not self.peek("DMASR") & regs.HALTED:
            return True
        _logger.warning("%s: %s_%s written while halted; ignored", self.spec.name, self.prefix, what)
        return False

    def _prepare(self) -> None:
        """A clean state row, with what the control register says."""
        self._ran = 0
        head = x.head(
            self.format,
            self.spec.scatter_gather,
            self.spec.path.width_bytes,
            self._coalescer.watch,
            cyclic=bool(self.peek("DMACR") & regs.CYCLIC),
            length_mask=(1 << self.spec.length_bits) - 1,
        )
        sending = self.side == x.SRC
        source = x.side(x.KIND_MEMORY if sending else x.KIND_FIFO)
        self.mover.load(head, source, x.side(x.KIND_FIFO if sending else x.KIND_MEMORY))

    def _begin(self) -> None:
        st = self.mover.st
        st[self.side + x.D_FIXED] = bool(self.peek("DMACR") & regs.KEYHOLE)
        st[x.X_WATCH] = self._coalescer.watch
        self.poke("DMASR", self.peek("DMASR") & ~bits.IDLE)
        self.mover.start()

    # ---- the stream

    def stream_moved(self) -> None:
        """The other end of the stream has moved: go on if this one waits for it."""
        if self._waiting and self._stream_ready():
            self._waiting = False
            self.mover.go_on()

    def _stream_ready(self) -> bool:
        """Whether the FIFO has data, or room."""
        fifo = self.fifo
        if self.format == x.FORMAT_S2MM:
            return bool(fifo[x.F_OFFERED] > fifo[x.F_READ])
        used = fifo[x.F_WRITTEN] - fifo[x.F_READ]
        packets = fifo[x.F_SENT] - fifo[x.F_RECEIVED]
        return bool(used < self.spec.fifo_bytes and packets < x.MAX_PACKETS)

    def _account(self) -> None:
        """The time of a chunk has passed: what was sent in it is there for the receiver."""
        self._ran += self.mover.take_moved()
        if self.format == x.FORMAT_MM2S:
            self.fifo[x.F_OFFERED] = self.fifo[x.F_WRITTEN]
            self.fifo[x.F_OFFERED_PACKETS] = self.fifo[x.F_SENT]

    # ---- what the mover reports

    def stopped(self, mover: Mover, stop: int) -> None:
        """Bytes and descriptors' status are in memory; status first, then the interrupt."""
        st = mover.st
        self._account()
        if stop in (x.STOP_BUDGET, x.STOP_INTR):
            mover.go_on()
            self._completed()
        elif stop in (x.STOP_EMPTY, x.STOP_FULL):
            self._waiting = True
            self._completed()
            self.stream_moved()  # the other end may have moved while this one's time passed
        elif stop == x.STOP_DONE:
            self._done()
        elif stop == x.STOP_HALTED:
            self._error(0, None)
        elif stop == x.STOP_BAD and st[x.X_CODE] == x.BAD_LENGTH:
            self._log("dma.refused", "a descriptor's length of zero")
            self._mark(bits.DMA_INT_ERR, x.BD_INT_ERR)
        elif stop == x.STOP_BAD and st[x.X_CODE] == x.BAD_OVERFLOW:
            self._error(bits.DMA_INT_ERR, "the packet is longer than LENGTH")
        elif stop == x.STOP_BAD:
            stale = st[x.X_CODE] == x.BAD_STALE
            self._error(
                bits.SG_INT_ERR, "descriptor complete already" if stale else "descriptor not 64-byte aligned"
            )
        else:
            self._error(bits.SG_INT_ERR, "the list does not end, and nobody looks at the engine")
        self.peer.stream_moved()

    def _done(self) -> None:
        self._log("dma.done", None)
        self.poke("DMASR", self.peek("DMASR") | bits.IDLE)
        if self.mover.st[x.X_LIST]:
            self._completed()
            return
        if self.format == x.FORMAT_S2MM:
            self.poke("LENGTH", int(self.mover.st[x.DST + x.D_POS]))
        self.show(bits.IOC_IRQ)

    def refused(self, mover: Mover, refusal: Refusal) -> None:
        """An access got a bus error: the channel halts."""
        self._account()
        self.peer.stream_moved()
        slave = refusal.response == "SLVERR" and self.spec.abort_response == "SLVERR"
        if refusal.op not in (x.OP_READ, x.OP_WRITE):
            self._error(bits.SG_SLV_ERR if slave else bits.SG_DEC_ERR, refusal.describe())
            return
        bit = bits.DMA_SLV_ERR if slave else bits.DMA_DEC_ERR
        if mover.st[x.X_LIST]:
            self._log("dma.refused", refusal.describe())
            self._mark(bit, x.BD_SLV_ERR if slave else x.BD_DEC_ERR)
        else:
            self._error(bit, refusal.describe())

    def _mark(self, bit: int, status: int) -> None:
        """Halt with an error of the data: its bit is seen when the descriptor's status is in memory."""
        st = self.mover.st
        st[x.X_STATUS] = status | int(st[x.DST + x.D_POS] if st[x.SRC + x.D_LOADED] else 0)
        st[x.X_UPDATING] = st[x.X_HALTING] = 1
        st[x.SRC + x.D_LOADED] = 1
        self._pending = bit
        self.mover.go_on()

    def _completed(self) -> None:
        """Count packets; interrupt where the threshold is reached."""
        reached = self._coalescer.completed(self.mover.take(x.X_COMPLETED))
        self.mover.st[x.X_WATCH] = self._coalescer.watch
        if reached:
            self.show(bits.IOC_IRQ)

    def _error(self, bit: int, why: str | None) -> None:
        self._coalescer.completed(self.mover.take(x.X_COMPLETED))
        if why is not None:
            self._log("dma.refused", why)
        self._halt()
        shown = bit | self._pending | bits.ERR_IRQ
        self._pending = 0
        self.show(shown)

    def show(self, what: int) -> None:
        """Set bits in the status register; then the interrupt."""
        self.poke("DMASR", self.peek("DMASR") | what)
        self.drive_line()

    def drive_line(self) -> None:
        """Drive the interrupt as status and control say."""
        self._line.set(bool(self.peek("DMACR") & self.peek("DMASR") & bits.INTERRUPTS))

    def _show_current(self) -> None:
        if self._following:
            current = int(self.mover.st[x.SRC + x.D_DSCR])
            self.poke("CURDESC", current & 0xFFFF_FFC0)
            self.poke("CURDESC_MSB", current >> 32)

    def _log(self, kind: str, reason: str | None) -> None:
        if self._record is not None:
            address = int(self.mover.st[self.side + x.D_BASE])
            self._record(
                time_ps=self._scheduler.now_ps,
                kind=kind,
                channel=self.prefix,
                source=address if self.side == x.SRC else None,
                destination=address if self.side == x.DST else None,
                bytes=self._ran,
                reason=reason,
            )
