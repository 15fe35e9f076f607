"""Registers of the AXI CDMA (AMD PG034; xaxicdma_hw.h)."""

from __future__ import annotations

from typing import Final

from unimem_node.bus.registers import Field, Register

# CDMACR.
RESET: Final = 1 << 2
SG_MODE: Final = 1 << 3
KEYHOLE_READ: Final = 1 << 4
KEYHOLE_WRITE: Final = 1 << 5

# CDMASR.
IDLE: Final = 1 << 1
SG_INCLUDED: Final = 1 << 3
DMA_INT_ERR: Final = 1 << 4
DMA_SLV_ERR: Final = 1 << 5
DMA_DEC_ERR: Final = 1 << 6
SG_INT_ERR: Final = 1 << 8
SG_SLV_ERR: Final = 1 << 9
SG_DEC_ERR: Final = 1 << 10
ERRORS: Final = DMA_INT_ERR | DMA_SLV_ERR | DMA_DEC_ERR | SG_INT_ERR | SG_SLV_ERR | SG_DEC_ERR
IOC_IRQ: Final = 1 << 12
DLY_IRQ: Final = 1 << 13
ERR_IRQ: Final = 1 << 14
INTERRUPTS: Final = IOC_IRQ | DLY_IRQ | ERR_IRQ

#: Where the threshold is in the control registers of both AXI engines.
THRESHOLD_SHIFT: Final = 16

_DESCRIPTOR: Final = 0xFFFF_FFC0  # 64-byte aligned
_HIGH: Final = 0x1_FFFF


def table(length_bits: int, *, scatter_gather: bool) -> tuple[Register, ...]:
    """The registers of a build whose BTT has `length_bits` bits."""
    descriptors = (
        Register("CURDESC", 0x08, writable=_DESCRIPTOR, doc="current descriptor; needs SGMode"),
        Register("CURDESC_MSB", 0x0C, writable=_HIGH),
        Register("TAILDESC", 0x10, writable=_DESCRIPTOR, doc="last descriptor; writing it starts"),
        Register("TAILDESC_MSB", 0x14, writable=_HIGH),
    )
    return (
        Register(
            "CDMACR",
            0x00,
            reset=0x0001_0000,
            writable=0xFFFF_7030 | SG_MODE * scatter_gather,
            fields=(
                Field("IRQDelay", 31, 24, "units of time; 0: no delay interrupt"),
                Field("IRQThreshold", 23, 16, "completions; 0 is taken as 1"),
                Field("Err_IrqEn", 14, 14),
                Field("Dly_IrqEn", 13, 13),
                Field("IOC_IrqEn", 12, 12),
                Field("KeyHoleWrite", 5, 5, "the destination's address stays"),
                Field("KeyHoleRead", 4, 4, "the source's address stays"),
                Field("SGMode", 3, 3, "always 0 in a build without scatter-gather"),
                Field("Reset", 2, 2, "reads as 0: a reset is over at once"),
            ),
            doc="control",
        ),
        Register(
            "CDMASR",
            0x04,
            reset=IDLE | SG_INCLUDED * scatter_gather,
            writable=0,
            w1c=INTERRUPTS,
            fields=(
                Field("Err_Irq", 14, 14),
                Field("Dly_Irq", 13, 13),
                Field("IOC_Irq", 12, 12),
                Field("SGDecErr", 10, 10, "descriptor: no memory at the address"),
                Field("SGSlvErr", 9, 9, "descriptor: aborted by the SMMU"),
                Field("SGIntErr", 8, 8, "descriptor: complete already, or misaligned"),
                Field("DMADecErr", 6, 6, "data: no memory at the address"),
                Field("DMASlvErr", 5, 5, "data: aborted by the SMMU"),
                Field("DMAIntErr", 4, 4, "a length of zero"),
                Field("SGIncld", 3, 3),
                Field("Idle", 1, 1),
            ),
            doc="status",
        ),
        *(descriptors if scatter_gather else ()),
        Register("SA", 0x18, doc="source address, bits 31:0"),
        Register("SA_MSB", 0x1C, writable=_HIGH, doc="source address, bits 48:32"),
        Register("DA", 0x20, doc="destination address, bits 31:0"),
        Register("DA_MSB", 0x24, writable=_HIGH, doc="destination address, bits 48:32"),
        Register("BTT", 0x28, writable=(1 << length_bits) - 1, doc="bytes to transfer; writing it starts"),
    )
