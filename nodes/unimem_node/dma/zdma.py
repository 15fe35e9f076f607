"""A ZDMA channel (AMD UG1085 "DMA controllers": FPD "GDMA", LPD "ADMA"; xzdma_hw.h).

*Simple mode* (CTRL0.POINT_TYPE = 0): CTRL2.EN starts the transfer that SRC/DST_DSCR_WORD0..3 describe. The
size of the source governs both directions; in write-only mode, that of the destination.

*Scatter-gather* (POINT_TYPE = 1): source and destination follow lists of their own from SRC_START and
DST_START: linear (16 bytes, the next one behind it) and linked (32 bytes) descriptors in any mixture, one
source feeding many destinations and back. Descriptors are fetched through the SMMU under the channel's
stream, one at a time, so a fetch never crosses a 4 KiB page; they are not written back. FIXED bursts and
MODE are of simple mode only and ignored here. A source's CMD says what comes after it: the next one, a pause
(STATUS 01, ISR.DMA_PAUSE) or the end. A pause is left by CTRL0.CONT = 1 while EN = 1, with the next
descriptors or (CONT_ADDR = 1) those at SRC_START and DST_START; CONT = 1 while EN = 0 disables the channel.

The channel ends with STATUS 00, or 11 after an error (encoding of xzdma_hw.h), EN falls, and ISR.DMA_DONE is
set; setting EN again starts anew from the registers. Errors: an access that got a bus error (AXI_RD_DATA,
AXI_WR_DATA, AXI_RD_SRC_DSCR, AXI_RD_DST_DSCR), and a descriptor that cannot be one: a size of zero, or not
aligned to its size (the latter two bits). TOTAL_BYTE, the CUR registers and the account counters stay as the
channel reached them. SRC_CUR_DSCR moves on when a descriptor is complete, a pause stays at its descriptor;
DST_CUR_DSCR moves on when a descriptor has been fetched, to the one that comes next (UG1085 is silent: as in
QEMU). A list that never ends is ended as a bad source descriptor when the channel has gone on for its
`Patience` with no access to its registers.

CTRL1 limits the outstanding transactions, RATE_CTRL with RATE_CNTL sets a distance between them, ARLEN and
AWLEN their length: all of it in simulated time only. OVR_FETCH (reads may go beyond the size, inside one bus
word), the coherency and QoS fields and PL flow control are stored and have no effect.
"""

from __future__ import annotations

import logging
from functools import partial

import numpy as np

from unimem_node.bus import BusError
from unimem_node.bus.interrupts import Line
from unimem_node.bus.registers import RegisterFile
from unimem_node.clock import EventLog, Scheduler
from unimem_node.dma import state as x
from unimem_node.dma import zdma_registers as regs
from unimem_node.dma.mover import Mover, Refusal
from unimem_node.dma.pace import Loads, Pace
from unimem_node.dma.port import SmmuPort
from unimem_node.dma.snoop import Snoop
from unimem_node.dma.spec import ZdmaSpec
from unimem_node.smmu import Smmu

_logger = logging.getLogger(__name__)

_COUNTER_LIMIT = 0xFF
_TOTAL_LIMIT = 1 << 32
_ADDRESS_HIGH = 0x1_FFFF

#: What a bus error, or a bad descriptor, shows in ISR, by OP_*.
_ERROR_BITS = {
    x.OP_READ: regs.AXI_RD_DATA,
    x.OP_WRITE: regs.AXI_WR_DATA,
    x.OP_FETCH_SRC: regs.RD_SRC_DSCR,
    x.OP_FETCH_DST: regs.RD_DST_DSCR,
}
#: TOTAL_BYTE, IRQ_SRC_ACCT, IRQ_DST_ACCT, and the 64-bit words they are in.
_COUNTERS = frozenset({0x188, 0x190, 0x194})
#: What a channel takes from its registers when it starts.
_SETTINGS = (
    *("ISR", "CTRL0", "CTRL1", "DATA_ATTR", "RATE_CNTL"),
    *("SRC_START_LSB", "SRC_START_MSB", "DST_START_LSB", "DST_START_MSB"),
)
_WORDS = tuple(f"{side}_DSCR_WORD{n}" for side in ("SRC", "DST") for n in range(4))
#: Registers that need no care.
_SIMPLE = regs.DEFINED - _COUNTERS
_WATCH_ALL = x.WATCH_SRC | x.WATCH_DST
_SIDES = (("SRC", x.SRC), ("DST", x.DST))


class ZdmaChannel:
    """One channel: a device on the bus, a master with its own stream ID, an interrupt line."""

    def __init__(
        self,
        smmu: Smmu,
        scheduler: Scheduler,
        irq_line: Line,
        spec: ZdmaSpec,
        *,
        loads: Loads | None = None,
        node: str = "",
        fast: bool = True,
        snoop: Snoop | None = None,
        log: EventLog | None = None,
    ) -> None:
        self.spec = spec
        self.registers = RegisterFile(spec.name, spec.size, regs.TABLE)
        self._record = (
            None if log is None else partial(log.record, node=node, engine=spec.name, stream=spec.stream_id)
        )
        load = (loads or Loads(smmu.spec)).of(spec.stream_id)
        self._pattern = np.zeros(spec.path.width_bytes, np.uint8)
        self._mover = Mover(
            self,
            SmmuPort(smmu, spec.stream_id),
            scheduler,
            load,
            Pace(spec.path),
            spec.patience,
            fast=fast,
            snoop=snoop,
            bytes_=self._pattern,
        )
        self._line = irq_line
        self._paused = False
        self._accounts = False  # whether a descriptor of this run may have INTR
        self._ran = 0  # bytes since EN was set
        registers = self.registers
        registers.on_write("ISR", lambda *_: self._drive_line())
        registers.on_write("IEN", lambda _i, _old, bits: self._mask(clear=bits))
        registers.on_write("IDS", lambda _i, _old, bits: self._mask(set_=bits))
        registers.on_write("CTRL0", lambda *_: self._control_written())
        registers.on_write("CTRL2", self._enable_written)
        for name in ("SRC_CUR_PYLD", "DST_CUR_PYLD", "SRC_CUR_DSCR", "DST_CUR_DSCR"):
            registers.on_read(f"{name}_LSB", lambda _: self._show_progress(), refreshes=True)
            registers.on_read(f"{name}_MSB", lambda _: self._show_progress(), refreshes=True)

    @property
    def busy(self) -> bool:
        """True while a transfer is under way; a pause is not."""
        return self._mover.busy

    def read(self, offset: int, size: int) -> int:
        """Read a register as the bus does; an offset without one sets INV_APB."""
        self._check_offset(offset, size)
        return self.registers.read(offset, size)

    def write(self, offset: int, size: int, value: int) -> None:
        """Write a register as the bus does; an offset without one sets INV_APB."""
        if size == 4 and offset in _SIMPLE:
            self._mover.attended = True
        else:
            self._check_offset(offset, size)
        self.registers.write(offset, size, value)

    def inspect(self, offset: int, size: int) -> int:
        """Read a register as a debugger does: without effects."""
        return self.registers.inspect(offset, size)

    def _check_offset(self, offset: int, size: int) -> None:
        self._mover.attended = True
        if offset in _COUNTERS:  # they count while the channel is under way
            bits = self._count()
            if bits:
                self._raise(bits)
        if offset in regs.DEFINED and (size == 4 or offset + 4 in regs.DEFINED):
            return
        if size in (4, 8) and offset % size == 0:  # else the bus refuses it
            self._raise(regs.INV_APB)
            if self.registers.peek("ERR_CTRL"):
                raise BusError(self.spec.base + offset, "SLVERR")

    # ---- interrupts

    def _mask(self, *, set_: int = 0, clear: int = 0) -> None:
        imr = self.registers.peek("IMR")
        self.registers.poke("IMR", (imr | set_ & regs.ALL_INTERRUPTS) & ~clear)
        self._drive_line()

    def _raise(self, bits: int) -> None:
        registers = self.registers
        isr = registers.peek("ISR") | bits
        registers.poke("ISR", isr)
        self._line.set(isr & ~registers.peek("IMR") != 0)

    def _drive_line(self) -> None:
        self._line.set(bool(self.registers.peek("ISR") & ~self.registers.peek("IMR")))

    # ---- start, pause, stop

    def _enable_written(self, _index: int, _old: int, written: int) -> None:
        """EN: 1 starts an idle channel; 0 stops a busy one where it stands, without DONE."""
        if self._paused:
            self._control_written()
        elif written & 1:
            if not self._mover.busy:
                self._start()
        elif self._mover.busy:
            self._mover.cancel()
            self._raise(self._count())
            self._set_state(regs.STATE_DONE)

    def _control_written(self) -> None:
        """CONT: leave a pause."""
        control = self.registers.peek("CTRL0")
        if not self._paused or not control & regs.CONT:
            return
        self._paused = False
        if not self.registers.peek("CTRL2"):
            self._set_state(regs.STATE_DONE)
            return
        self.registers.poke("CTRL0", control & ~regs.CONT)
        st = self._mover.st
        if control & regs.CONT_ADDR:
            self._load_starts()
        else:
            st[x.SRC + x.D_DSCR] = st[x.SRC + x.D_NEXT]
        self._set_state(regs.STATE_BUSY)
        self._mover.go_on()

    def _start(self) -> None:
        """Take a transfer, or the beginnings of the lists, from the registers; begin."""
        isr, control, limits, attributes, rate, *starts = self.registers.peek_all(_SETTINGS)
        width = self.spec.path.width_bytes
        self._ran = 0
        self._mover.pace.configure(
            limits & 0x1F or 1,
            limits >> 5 or 1,
            (min(attributes >> 14 & 0xF, attributes & 0xF) + 1) * width,
            rate if control & regs.RATE_CTRL else 0,
        )
        src_start = starts[0] | starts[1] << 32
        dst_start = starts[2] | starts[3] << 32
        watch = ~isr >> 1 & _WATCH_ALL
        if control & regs.POINT_TYPE:
            self._accounts = True
            head = x.head(x.FORMAT_ZDMA, True, width, watch)
            self._mover.load(head, x.side(first=src_start), x.side(first=dst_start))
        else:
            src, src_high, size, src_word3, dst, dst_high, dst_size, dst_word3 = self.registers.peek_all(
                _WORDS
            )
            src_kind = dst_kind = x.KIND_MEMORY
            mode = control >> 4 & 3
            if mode == regs.MODE_WRITE_ONLY:
                size = dst_size
                src_kind = x.KIND_PATTERN
                words = np.array([self.registers.peek("WR_ONLY_WORD", i) for i in range(4)], "<u4")
                self._pattern[:] = words.view(np.uint8)[:width]
            elif mode == regs.MODE_READ_ONLY:
                dst_kind = x.KIND_NOTHING
                dst_word3 = 0  # no destination ends, whatever its INTR says
            self._accounts = (src_word3 | dst_word3) & x.W3_INTR != 0
            self._mover.load(
                x.head(x.FORMAT_ZDMA, False, width, watch),
                x.side(src_kind, src | src_high << 32, size, not attributes >> 26 & 3, src_start, src_word3),
                x.side(dst_kind, dst | dst_high << 32, size, not attributes >> 12 & 3, dst_start, dst_word3),
            )
            if not size:
                self._stop(
                    regs.STATE_ERROR, regs.RD_DST_DSCR if mode == regs.MODE_WRITE_ONLY else regs.RD_SRC_DSCR
                )
                return
        self.registers.poke("STATUS", regs.STATE_BUSY)
        self._mover.start()

    def _load_starts(self) -> None:
        """The lists go on at SRC_START and DST_START."""
        st = self._mover.st
        for name, side in _SIDES:
            first = self.registers.peek(f"{name}_START_LSB") | self.registers.peek(f"{name}_START_MSB") << 32
            st[side + x.D_DSCR] = st[side + x.D_NEXT] = first
            st[side + x.D_LOADED] = 0

    def _watched(self) -> int:
        """Sides of which an INTR shall be told at once: those whose ISR bit is not set yet."""
        return ~self.registers.peek("ISR") >> 1 & _WATCH_ALL

    # ---- what the mover reports

    def stopped(self, mover: Mover, stop: int) -> None:
        """Bytes are in memory; status first, then the interrupt."""
        bits = self._count()
        if stop == x.STOP_INTR:
            mover.go_on()  # first, so that a handler may stop it
            self._raise(bits)
            mover.st[x.X_WATCH] = self._watched()
        elif stop == x.STOP_PAUSED:
            self._paused = True
            self._set_state(regs.STATE_PAUSED)
            self._raise(bits | regs.DMA_PAUSE)
        elif stop == x.STOP_DONE:
            if self._record is not None:
                self._log("dma.done", None)
            self._stop(regs.STATE_DONE, bits)
        elif stop == x.STOP_BAD:
            op = int(mover.st[x.X_OP])
            side = "source" if op == x.OP_FETCH_SRC else "destination"
            why = {x.BAD_ALIGNMENT: "not aligned to its size", x.BAD_LENGTH: "a size of zero"}
            self._log("dma.refused", f"{side} descriptor: {why[int(mover.st[x.X_CODE])]}")
            self._stop(regs.STATE_ERROR, bits | _ERROR_BITS[op])
        else:
            reason = "the list does not end, and nobody looks at the channel"
            _logger.warning("%s: %s; stopped", self.spec.name, reason)
            self._log("dma.refused", reason)
            self._stop(regs.STATE_ERROR, bits | regs.RD_SRC_DSCR)

    def refused(self, mover: Mover, refusal: Refusal) -> None:
        """An access got a bus error: the channel is disabled."""
        bits = self._count() | _ERROR_BITS[refusal.op]
        self._log("dma.refused", refusal.describe())
        self._stop(regs.STATE_ERROR, bits)

    def _count(self) -> int:
        """Bring TOTAL_BYTE and the account counters up to date; the ISR bits to raise."""
        mover, registers = self._mover, self.registers
        bits = 0
        moved = mover.moved
        if moved:
            mover.moved = 0
            self._ran += moved
            total = registers.peek("TOTAL_BYTE") + moved
            registers.poke("TOTAL_BYTE", total % _TOTAL_LIMIT)
            if total >= _TOTAL_LIMIT:
                bits = regs.BYTE_CNT_OVRFL
        return bits | self._account_all() if self._accounts else bits

    def _account_all(self) -> int:
        """Count the descriptors with INTR that have ended since; the ISR bits to raise."""
        take = self._mover.take
        bits = 0
        ended = take(x.SRC + x.D_INTRS)
        if ended:
            bits |= self._account("IRQ_SRC_ACCT", ended, regs.SRC_DSCR_DONE, regs.SRC_ACCT_ERR)
        ended = take(x.DST + x.D_INTRS)
        if ended:
            bits |= self._account("IRQ_DST_ACCT", ended, regs.DST_DSCR_DONE, regs.DST_ACCT_ERR)
        return bits

    def _account(self, counter: str, ended: int, done_bit: int, overflow_bit: int) -> int:
        """Count descriptors that have INTR set; the ISR bits to raise."""
        count = self.registers.peek(counter) + ended
        self.registers.poke(counter, count & _COUNTER_LIMIT)
        return done_bit | (overflow_bit if count > _COUNTER_LIMIT else 0)

    def _stop(self, state: int, bits: int) -> None:
        """Disable the channel: STATUS, then ISR, then the line."""
        poke = self.registers.poke
        poke("CTRL2", 0)
        poke("STATUS", state)
        self._raise(bits | regs.DMA_DONE)

    def _set_state(self, state: int) -> None:
        self.registers.poke("STATUS", state)

    def _show_progress(self) -> None:
        """Put the addresses reached into the CUR registers, for whoever reads them."""
        poke, st = self.registers.poke, self._mover.st
        for name, side in _SIDES:
            kind = st[side + x.D_KIND]
            payload = self._mover.address(side) if kind == x.KIND_MEMORY else 0
            descriptor = int(st[side + (x.D_DSCR if side == x.SRC else x.D_NEXT)])
            for what, address in (("PYLD", payload), ("DSCR", descriptor)):
                poke(f"{name}_CUR_{what}_LSB", address & 0xFFFF_FFFF)
                poke(f"{name}_CUR_{what}_MSB", address >> 32 & _ADDRESS_HIGH)

    def _log(self, kind: str, reason: str | None) -> None:
        self._mover.log(self._record, kind, self._ran, reason)
