"""Registers of the AXI DMA (AMD PG021; xaxidma_hw.h): the same block for MM2S at 0x00 and S2MM at 0x30.

The bits of DMASR from 4 up are those of the AXI CDMA (`cdma_registers.py`).
"""

from __future__ import annotations

from typing import Final

from unimem_node.bus.registers import Field, Register
from unimem_node.dma.cdma_registers import IDLE, INTERRUPTS, SG_INCLUDED

S2MM_OFFSET: Final = 0x30

# DMACR.
RUN: Final = 1 << 0
RESET: Final = 1 << 2
KEYHOLE: Final = 1 << 3
CYCLIC: Final = 1 << 4

# DMASR.
HALTED: Final = 1 << 0

_DESCRIPTOR: Final = 0xFFFF_FFC0
_HIGH: Final = 0x1_FFFF


def channel_table(prefix: str, base: int, length_bits: int, *, scatter_gather: bool) -> tuple[Register, ...]:
    """The registers of one channel; a build has either the descriptor or the direct registers."""
    if scatter_gather:
        work: tuple[Register, ...] = (
            Register(f"{prefix}_CURDESC", base + 0x08, writable=_DESCRIPTOR, doc="while halted: the first"),
            Register(f"{prefix}_CURDESC_MSB", base + 0x0C, writable=_HIGH),
            Register(f"{prefix}_TAILDESC", base + 0x10, writable=_DESCRIPTOR, doc="writing it starts"),
            Register(f"{prefix}_TAILDESC_MSB", base + 0x14, writable=_HIGH),
        )
    else:
        work = (
            Register(f"{prefix}_ADDR", base + 0x18, doc="address in memory, bits 31:0"),
            Register(f"{prefix}_ADDR_MSB", base + 0x1C, writable=_HIGH, doc="bits 48:32"),
            Register(
                f"{prefix}_LENGTH",
                base + 0x28,
                writable=(1 << length_bits) - 1,
                doc="bytes; writing it starts; S2MM: then the bytes that came",
            ),
        )
    return (
        Register(
            f"{prefix}_DMACR",
            base,
            reset=0x0001_0000,
            writable=0xFFFF_7009 | (CYCLIC if scatter_gather else 0),
            fields=(
                Field("IRQDelay", 31, 24, "units of time; 0: no delay interrupt"),
                Field("IRQThreshold", 23, 16, "packets; 0 is taken as 1"),
                Field("Err_IrqEn", 14, 14),
                Field("Dly_IrqEn", 13, 13),
                Field("IOC_IrqEn", 12, 12),
                Field("Cyclic", 4, 4, "the list is a ring without end"),
                Field("Keyhole", 3, 3, "the address in memory stays"),
                Field("Reset", 2, 2, "of both channels; reads as 0"),
                Field("RS", 0, 0, "run"),
            ),
            doc="control",
        ),
        Register(
            f"{prefix}_DMASR",
            base + 0x04,
            reset=HALTED | (SG_INCLUDED if scatter_gather else 0),
            writable=0,
            w1c=INTERRUPTS,
            fields=(
                Field("Err_Irq", 14, 14),
                Field("Dly_Irq", 13, 13),
                Field("IOC_Irq", 12, 12),
                Field("SGDecErr", 10, 10),
                Field("SGSlvErr", 9, 9),
                Field("SGIntErr", 8, 8, "descriptor: complete already, or misaligned"),
                Field("DMADecErr", 6, 6),
                Field("DMASlvErr", 5, 5),
                Field("DMAIntErr", 4, 4, "a length of zero; S2MM: a packet longer than LENGTH"),
                Field("SGIncld", 3, 3),
                Field("Idle", 1, 1),
                Field("Halted", 0, 0),
            ),
            doc="status",
        ),
        *work,
    )


def table(length_bits: int, *, scatter_gather: bool) -> tuple[Register, ...]:
    """The registers of both channels."""
    return (
        *channel_table("MM2S", 0, length_bits, scatter_gather=scatter_gather),
        *channel_table("S2MM", S2MM_OFFSET, length_bits, scatter_gather=scatter_gather),
    )


__all__ = ["CYCLIC", "HALTED", "IDLE", "KEYHOLE", "RESET", "RUN", "S2MM_OFFSET", "channel_table", "table"]
