"""What the kernel is told about the board it runs on: a device tree, as far as the drivers need one."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Final

#: Bits of a stream ID that the AXI ID of a PL master decides.
AXI_ID_MASK: Final = 0x3F


@dataclass(frozen=True, slots=True)
class SmmuNode:
    """The SMMU: registers at `base`, all interrupts combined on one SPI."""

    base: int
    spi: int


@dataclass(frozen=True, slots=True)
class DmaNode:
    """A DMA engine; it moves at most `max_length` bytes at once. `stream_id` is None off the SMMU.

    `spi_s2mm`: the second interrupt of an AXI DMA, whose first is MM2S'.
    """

    name: str
    base: int
    spi: int
    stream_id: int | None
    max_length: int
    spi_s2mm: int | None = None

    @property
    def spis(self) -> tuple[int, ...]:
        """Its interrupts."""
        return (self.spi,) if self.spi_s2mm is None else (self.spi, self.spi_s2mm)


@dataclass(frozen=True, slots=True)
class NiNode:
    """The RDMA network interface: PD slot *s* presents stream ``stream_base + s``."""

    name: str
    base: int
    spi: int
    stream_base: int
    slots: int


@dataclass(frozen=True, slots=True)
class Board:
    """A board: DRAM as (base, size) ranges that the kernel may use, the SMMU, and the masters behind it."""

    memory: tuple[tuple[int, int], ...]
    smmu: SmmuNode
    zdma: tuple[DmaNode, ...] = ()
    cdma: tuple[DmaNode, ...] = ()
    axi_dma: tuple[DmaNode, ...] = ()
    ni: NiNode | None = None

    def stream_name(self, stream_id: int) -> str:
        """Say whose stream that is; empty when no master of this board presents it."""
        for engine in (*self.zdma, *self.cdma, *self.axi_dma):
            if engine.stream_id == stream_id:
                return engine.name
        if self.ni is not None and 0 <= stream_id - self.ni.stream_base < self.ni.slots:
            return f"{self.ni.name} slot {stream_id - self.ni.stream_base}"
        for engine in (*self.cdma, *self.axi_dma):
            if engine.stream_id is not None and (engine.stream_id ^ stream_id) & ~AXI_ID_MASK == 0:
                return f"the port of {engine.name}, AXI ID {stream_id & AXI_ID_MASK}"
        return ""
