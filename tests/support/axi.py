"""Descriptors and bits of the AXI CDMA and the AXI DMA, typed from PG034, PG021 and their drivers."""

from __future__ import annotations

from unimem_node import Mpsoc

RESET, SG_MODE = 1 << 2, 1 << 3
HALTED, IDLE, SG_INCLUDED = 1 << 0, 1 << 1, 1 << 3
INT_ERR, SLV_ERR, DEC_ERR = 1 << 4, 1 << 5, 1 << 6
SG_INT_ERR, SG_SLV_ERR, SG_DEC_ERR = 1 << 8, 1 << 9, 1 << 10
IOC, DLY, ERR = 1 << 12, 1 << 13, 1 << 14
COMPLETE, BD_DEC, BD_SLV, BD_INT = 1 << 31, 1 << 30, 1 << 29, 1 << 28
SOF, EOF = 1 << 27, 1 << 26


def cdma_bd(following: int, source: int, destination: int, control: int, status: int = 0) -> bytes:
    """A descriptor of the CDMA."""
    head = b"".join(address.to_bytes(8, "little") for address in (following, source, destination))
    return (head + control.to_bytes(4, "little") + status.to_bytes(4, "little")).ljust(64, b"\0")


def dma_bd(following: int, buffer: int, control: int, status: int = 0, app: tuple[int, ...] = ()) -> bytes:
    """A descriptor of the AXI DMA."""
    head = following.to_bytes(8, "little") + buffer.to_bytes(8, "little") + bytes(8)
    words = (control, status, *app)
    return (head + b"".join(word.to_bytes(4, "little") for word in words)).ljust(64, b"\0")


def status_of(soc: Mpsoc, bd: int) -> int:
    """The status word of a descriptor at a physical address."""
    return int.from_bytes(soc.memory.read(bd + 0x1C, 4), "little")
