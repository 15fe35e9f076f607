"""Drivers for the DMA engines: ZDMA channels (AMD UG1085, xzdma_hw.h) and AXI CDMA (AMD PG034), simple modes.

A driver programs one transfer at a time and queues the rest. The interrupt tells it the end; nothing is
polled. What an address means is not its concern: physical, or whatever the stream's context bank makes of it.
"""

from __future__ import annotations

from collections import deque
from typing import Final

from unimem.addresses import fmt
from unimem_node.bus import Bus
from unimem_node.kernel.board import DmaNode

# ZDMA: offsets and bits
_ISR: Final = 0x100
_IEN: Final = 0x108
_IDS: Final = 0x10C
_CTRL0: Final = 0x110
_CTRL0_RESET: Final = 0x80  # simple mode, read and write
_STATUS: Final = 0x11C
_STATUS_ERROR: Final = 3
_SRC_WORD0: Final = 0x128  # + 4: address high, + 8: size
_DST_WORD0: Final = 0x138
_TOTAL_BYTE: Final = 0x188
_CTRL2: Final = 0x200
_EN: Final = 1
_ALL: Final = 0xFFF
_DONE: Final = 1 << 10
_AXI_WR_DATA: Final = 1 << 9
_AXI_RD_DATA: Final = 1 << 8
_RD_DST_DSCR: Final = 1 << 7
_RD_SRC_DSCR: Final = 1 << 6
_ZDMA_ERRORS: Final = (
    (_AXI_RD_DATA, "AXI_RD_DATA"),
    (_AXI_WR_DATA, "AXI_WR_DATA"),
    (_RD_SRC_DSCR, "RD_SRC_DSCR"),
    (_RD_DST_DSCR, "RD_DST_DSCR"),
)

# AXI CDMA: offsets and bits
_CDMACR: Final = 0x00
_CDMACR_RESET: Final = 1 << 2
_CDMASR: Final = 0x04
_SA: Final = 0x18  # + 4: high
_DA: Final = 0x20
_BTT: Final = 0x28
_IOC: Final = 1 << 12  # the same bit enables it and shows it
_ERR: Final = 1 << 14
_CDMA_ERRORS: Final = ((1 << 4, "DMAIntErr"), (1 << 5, "DMASlvErr"), (1 << 6, "DMADecErr"))


class DmaRequest:
    """A transfer. `done` once the engine has ended it; then `error` is empty, or what the engine reported.

    `moved` are the bytes that arrived, as far as the engine counts them (None: it does not).
    """

    __slots__ = ("destination", "done", "error", "length", "moved", "source")

    def __init__(self, source: int, destination: int, length: int) -> None:
        self.source = source
        self.destination = destination
        self.length = length
        self.done = False
        self.error = ""
        self.moved: int | None = None

    @property
    def ok(self) -> bool:
        """Whether it is done, and well."""
        return self.done and not self.error


class _Driver:
    """What both kinds of driver share: the queue, and the end of a transfer."""

    def __init__(self, bus: Bus, node: DmaNode) -> None:
        self.node = node
        self._bus = bus
        self._queue: deque[DmaRequest] = deque()
        self._running: DmaRequest | None = None

    def submit(self, source: int, destination: int, length: int) -> DmaRequest:
        """Copy `length` bytes: now, or when what was submitted before has ended. Raises `ValueError`."""
        if not 0 < length <= self.node.max_length:
            raise ValueError(
                f"{self.node.name} moves 1 to {self.node.max_length} bytes at once, not {length}"
            )
        for address in (source, destination):
            if address < 0 or (address + length - 1) >> 49:
                raise ValueError(
                    f"{self.node.name}: {length} bytes at {fmt(address)} exceed 49 bits of address"
                )
        request = DmaRequest(source, destination, length)
        self._queue.append(request)
        self._next()
        return request

    def _next(self) -> None:
        if self._running is None and self._queue:
            self._running = self._queue.popleft()
            self._start(self._running)

    def _finish(self, error: str, moved: int | None) -> None:
        request = self._running
        if request is not None:
            self._running = None
            request.error = error
            request.moved = moved
            request.done = True
        self._next()

    def _start(self, request: DmaRequest) -> None:
        raise NotImplementedError

    def _write_address(self, offset: int, address: int) -> None:
        self._bus.write32(self.node.base + offset, address & 0xFFFF_FFFF)
        self._bus.write32(self.node.base + offset + 4, address >> 32)


class ZdmaDriver(_Driver):
    """Drives one ZDMA channel."""

    def reset(self) -> None:
        """Set the channel up: simple mode, its end and its errors raise the interrupt."""
        base = self.node.base
        self._bus.write32(base + _IDS, _ALL)
        self._bus.write32(base + _ISR, _ALL)
        self._bus.write32(base + _CTRL0, _CTRL0_RESET)
        self._bus.write32(base + _IEN, _DONE)  # an error ends the transfer too

    def interrupt(self) -> None:
        """Serve the channel's interrupt."""
        base = self.node.base
        isr = self._bus.read32(base + _ISR)
        self._bus.write32(base + _ISR, isr)
        if isr & _DONE:
            error = ""
            if self._bus.read32(base + _STATUS) & 3 == _STATUS_ERROR:
                error = " ".join(name for bit, name in _ZDMA_ERRORS if isr & bit) or "error"
            self._finish(error, self._bus.read32(base + _TOTAL_BYTE))

    def _start(self, request: DmaRequest) -> None:
        base = self.node.base
        self._write_address(_SRC_WORD0, request.source)
        self._write_address(_DST_WORD0, request.destination)
        self._bus.write32(base + _SRC_WORD0 + 8, request.length)
        self._bus.write32(base + _DST_WORD0 + 8, request.length)
        self._bus.write32(base + _TOTAL_BYTE, 0xFFFF_FFFF)  # write one to clear
        self._bus.write32(base + _CTRL2, _EN)


class CdmaDriver(_Driver):
    """Drives one AXI CDMA."""

    def reset(self) -> None:
        """Reset the engine; the end and errors raise the interrupt."""
        self._bus.write32(self.node.base + _CDMACR, _CDMACR_RESET)
        self._bus.write32(self.node.base + _CDMACR, _IOC | _ERR)

    def interrupt(self) -> None:
        """Serve the engine's interrupt."""
        base = self.node.base
        status = self._bus.read32(base + _CDMASR)
        self._bus.write32(base + _CDMASR, status & (_IOC | _ERR))
        if status & _ERR:
            self.reset()  # an error halts the engine until it is reset
            self._finish(" ".join(name for bit, name in _CDMA_ERRORS if status & bit) or "error", None)
        elif status & _IOC:
            self._finish("", self._running.length if self._running is not None else None)

    def _start(self, request: DmaRequest) -> None:
        self._write_address(_SA, request.source)
        self._write_address(_DA, request.destination)
        self._bus.write32(self.node.base + _BTT, request.length)
