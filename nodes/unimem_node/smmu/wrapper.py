"""ZynqMP's SMMU_REG block: collects the SMMU's interrupts (Xilinx' QEMU model, xilinx-smmu_reg.c).

Its own interrupt output is not connected here: software waits on the SMMU's combined line, which is a SPI of
its own. A status bit latches when its source rises; clearing it by writing one does not last while the source
is still high. MISC_CTRL and QREQN store and have no effect.
"""

from __future__ import annotations

from typing import Final

from unimem_node.bus.registers import RegisterFile
from unimem_node.smmu.registers import ISR_MASK, WRAPPER_TABLE

WRAPPER_SIZE: Final = 0x1_0000
ISR_COMBINED_NS: Final = 1 << 0
ISR_GLOBAL_NS: Final = 1 << 4


class SmmuWrapper:
    """The device at 0xFD5F_0000 on ZynqMP."""

    def __init__(self) -> None:
        self.registers = RegisterFile("smmu_reg", WRAPPER_SIZE, WRAPPER_TABLE)
        self._sources = 0
        self.registers.on_write("ISR_0", lambda index, old, written: self.drive(self._sources))
        self.registers.on_write("IER_0", self._enable)
        self.registers.on_write("IDR_0", self._disable)
        self.registers.on_write("ITR_0", self._trigger)

    def read(self, offset: int, size: int) -> int:
        """Read as the bus does."""
        return self.registers.read(offset, size)

    def write(self, offset: int, size: int, value: int) -> None:
        """Write as the bus does."""
        self.registers.write(offset, size, value)

    def inspect(self, offset: int, size: int) -> int:
        """Read a register as a debugger does: without effects."""
        return self.registers.inspect(offset, size)

    def drive(self, sources: int) -> None:
        """Take over the levels of the interrupt sources (ISR_* bits)."""
        self._sources = sources
        self.registers.poke("ISR_0", self.registers.peek("ISR_0") | sources)

    @property
    def pending(self) -> int:
        """Status bits that are not masked."""
        return self.registers.peek("ISR_0") & ~self.registers.peek("IMR_0")

    def _enable(self, index: int, old: int, written: int) -> None:
        self.registers.poke("IMR_0", self.registers.peek("IMR_0") & ~written)

    def _disable(self, index: int, old: int, written: int) -> None:
        self.registers.poke("IMR_0", self.registers.peek("IMR_0") | (written & ISR_MASK))

    def _trigger(self, index: int, old: int, written: int) -> None:
        self.registers.poke("ISR_0", self.registers.peek("ISR_0") | (written & ISR_MASK))
