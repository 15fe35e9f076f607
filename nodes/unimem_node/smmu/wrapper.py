"""ZynqMP's SMMU_REG block: collects the SMMU's interrupts (Xilinx' QEMU model, xilinx-smmu_reg.c).

Its own interrupt output is not connected here: software waits on the SMMU's combined line, which is a SPI of
its own. A status bit latches when its source rises; clearing it by writing one does not last while the source
is still high. An access to an offset at which nothing is latches ADDR_DECODE_ERR; with MISC_CTRL bit 0 it is
answered by an error besides. QREQN stores and has no effect.
"""

from __future__ import annotations

from typing import Final

from unimem.addresses import fmt
from unimem_node.bus.errors import BusError
from unimem_node.bus.registers import RegisterFile
from unimem_node.smmu.register_rows import command, field_mask, fields, rw

WRAPPER_SIZE: Final = 0x1_0000
ISR_COMBINED_NS: Final = 1 << 0
ISR_PERFORMANCE: Final = 1 << 2
ISR_GLOBAL_NS: Final = 1 << 4
ISR_DECODE_ERROR: Final = 1 << 31

#: ISR_0, and IMR_0, IER_0, IDR_0, ITR_0 alike.
ISR_FIELDS: Final = fields(
    "31 ADDR_DECODE_ERR,4 GLOBAL_NS,3 GLOBAL_S,2 COMBINED_PERF,1 COMBINED_S,0 COMBINED_NS"
)
ISR_MASK: Final = field_mask(ISR_FIELDS)

WRAPPER_TABLE: Final = (
    rw("MISC_CTRL", 0x00, "what undefined offsets answer", fields("0 SLVERR_ENABLE")),
    rw("ISR_0", 0x10, "interrupt status", ISR_FIELDS, w1c=ISR_MASK),
    rw("IMR_0", 0x14, "interrupt mask: 1 = masked", ISR_FIELDS, reset=ISR_MASK, writable=0, access="RO"),
    command("IER_0", 0x18, "clears bits of the mask", ISR_FIELDS),
    command("IDR_0", 0x1C, "sets bits of the mask", ISR_FIELDS),
    command("ITR_0", 0x20, "raises interrupts, for tests", ISR_FIELDS),
    rw("QREQN", 0x40, "power-down requests to the TBUs and the TCU"),
)


class SmmuWrapper:
    """The device at 0xFD5F_0000 on ZynqMP."""

    def __init__(self) -> None:
        self.registers = RegisterFile("smmu_reg", WRAPPER_SIZE, WRAPPER_TABLE)
        self._sources = 0
        self.registers.on_write("ISR_0", lambda index, old, written: self.drive(self._sources))
        self.registers.on_write("IER_0", self._enable)
        self.registers.on_write("IDR_0", self._disable)
        self.registers.on_write("ITR_0", self._trigger)
        self.registers.on_undefined(self._undefined)

    def read(self, offset: int, size: int) -> int:
        """Read as the bus does."""
        return self.registers.read(offset, size)

    def write(self, offset: int, size: int, value: int) -> None:
        """Write as the bus does."""
        self.registers.write(offset, size, value)

    def inspect(self, offset: int, size: int) -> int:
        """Read a register as a debugger does: without effects."""
        return self.registers.inspect(offset, size)

    def reset(self) -> None:
        """Reset state: nothing latched, everything masked."""
        self._sources = 0
        self.registers.reset()

    def drive(self, sources: int) -> None:
        """Take over the levels of the interrupt sources (ISR_* bits)."""
        self._sources = sources
        self._latch(sources)

    @property
    def pending(self) -> int:
        """Status bits that are not masked."""
        return self.registers.peek("ISR_0") & ~self.registers.peek("IMR_0")

    def _latch(self, bits: int) -> None:
        self.registers.poke("ISR_0", self.registers.peek("ISR_0") | (bits & ISR_MASK))

    def _enable(self, index: int, old: int, written: int) -> None:
        self.registers.poke("IMR_0", self.registers.peek("IMR_0") & ~written)

    def _disable(self, index: int, old: int, written: int) -> None:
        self.registers.poke("IMR_0", self.registers.peek("IMR_0") | (written & ISR_MASK))

    def _trigger(self, index: int, old: int, written: int) -> None:
        self._latch(written)

    def _undefined(self, offset: int) -> None:
        self._latch(ISR_DECODE_ERROR)
        if self.registers.peek("MISC_CTRL") & 1:
            raise BusError(offset, "SLVERR", f"smmu_reg: nothing is at offset {fmt(offset)}")
