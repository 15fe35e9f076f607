"""What a platform says about a DMA engine: where its registers are, its stream, its data path, its speed."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

#: Picoseconds in a microsecond: a clock of m MHz has a period of this / m.
_PS_PER_US = 1_000_000


@dataclass(frozen=True, slots=True)
class DataPath:
    """The AXI side of an engine: width, clock, and the cycles from the start bit to the first request.

    `burst_beats` and `outstanding` (transactions a direction) hold where no register of the engine says.
    """

    width_bytes: int
    clock_mhz: int
    setup_cycles: int = 0
    burst_beats: int = 16
    outstanding: int = 8

    def cycles_ps(self, cycles: int) -> int:
        """Time of `cycles` clocks, rounded up to a picosecond."""
        return -(-cycles * _PS_PER_US // self.clock_mhz)

    @property
    def setup_ps(self) -> int:
        """From the write that starts a transfer to its first request."""
        return self.cycles_ps(self.setup_cycles)


@dataclass(frozen=True, slots=True)
class Patience:
    """How far an engine goes with nobody looking at its registers, before it ends with an error.

    A cyclic list runs for ever; a simulation that waits for its end must not. Every access to the engine's
    registers starts the count anew, so a list that software attends to is never ended by this.
    """

    descriptors: int = 1 << 20
    bytes: int = 1 << 34


@dataclass(frozen=True, slots=True)
class ZdmaSpec:
    """One ZDMA channel (FPD: GDMA, 128 bit; LPD: ADMA, 64 bit)."""

    name: str
    base: int
    size: int
    spi: int
    stream_id: int
    path: DataPath
    patience: Patience = Patience()


@dataclass(frozen=True, slots=True)
class CdmaSpec:
    """One AXI CDMA in the PL. `stream_id` is None on a port that does not pass the SMMU.

    `delay_cycles`: clocks of one unit of the delay interrupt's timer.
    """

    name: str
    base: int
    size: int
    spi: int
    stream_id: int | None
    path: DataPath
    length_bits: int = 26
    abort_response: Literal["SLVERR", "DECERR"] = "SLVERR"
    scatter_gather: bool = True
    delay_cycles: int = 125
    patience: Patience = Patience()


@dataclass(frozen=True, slots=True)
class AxiDmaSpec:
    """One AXI DMA in the PL, its stream looped back from MM2S to S2MM through a FIFO of `fifo_bytes`.

    Both channels and their descriptors present the same stream ID. `scatter_gather` False is a build in
    direct register mode.
    """

    name: str
    base: int
    size: int
    spi: int  # MM2S
    spi_s2mm: int
    stream_id: int | None
    path: DataPath
    length_bits: int = 26
    abort_response: Literal["SLVERR", "DECERR"] = "SLVERR"
    scatter_gather: bool = True
    fifo_bytes: int = 1 << 16
    delay_cycles: int = 125
    patience: Patience = Patience()
