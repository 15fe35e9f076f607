"""Driver for the AXI DMA with its stream looped back (AMD PG021): memory to stream to memory, as lists.

One request is one packet: MM2S sends it from the source's pieces, S2MM writes it to the destination's. The
request is done when S2MM says so; an error of either channel ends it and resets the engine: the only way out.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Final

from unimem_node.kernel.dma_drivers import DmaRequest, Driver
from unimem_node.kernel.dma_lists import BD_EOF, BD_LENGTH, BD_SIZE, BD_SOF, BD_STATUS, Piece, write_bds

_MM2S: Final = 0x00
_S2MM: Final = 0x30
_DMACR: Final = 0x00
_DMASR: Final = 0x04
_CURDESC: Final = 0x08
_TAILDESC: Final = 0x10
_RUN: Final = 1 << 0
_RESET: Final = 1 << 2
_THRESHOLD_1: Final = 1 << 16
_IOC: Final = 1 << 12
_ERR: Final = 1 << 14
_INTERRUPTS: Final = 7 << 12
_ERRORS: Final = (
    (1 << 4, "DMAIntErr"),
    (1 << 5, "DMASlvErr"),
    (1 << 6, "DMADecErr"),
    (1 << 8, "SGIntErr"),
    (1 << 9, "SGSlvErr"),
    (1 << 10, "SGDecErr"),
)


class AxiDmaDriver(Driver):
    """Drives one AXI DMA built with scatter-gather; give it `lists` before the first request."""

    def reset(self) -> None:
        """Reset both channels; packets and errors raise the interrupts."""
        self._bus.write32(self.node.base + _MM2S + _DMACR, _RESET)
        for channel in (_MM2S, _S2MM):
            self._bus.write32(self.node.base + channel + _DMACR, _THRESHOLD_1 | _IOC | _ERR)

    def interrupt(self) -> None:
        """Serve either channel's interrupt."""
        errors = []
        received = False
        for name, channel in (("MM2S", _MM2S), ("S2MM", _S2MM)):
            at = self.node.base + channel + _DMASR
            status = self._bus.read32(at)
            self._bus.write32(at, status & _INTERRUPTS)
            if status & _ERR:
                errors += [f"{name} {word}" for bit, word in _ERRORS if status & bit] or [f"{name} error"]
            received |= channel == _S2MM and bool(status & _IOC)
        if errors:
            self.reset()
            self._finish(" ".join(errors), None)
        elif received:
            self._finish("", self._received())

    def _received(self) -> int:
        """Bytes that S2MM says it wrote."""
        if self._running is None or self.lists is None:
            return 0
        first = self.lists.cpu + len(self._running.sources) * BD_SIZE
        return sum(
            self._bus.read32(first + n * BD_SIZE + BD_STATUS) & BD_LENGTH
            for n in range(len(self._running.destinations))
        )

    def _list_bytes(self, sources: Sequence[Piece], destinations: Sequence[Piece]) -> int:
        return (len(sources) + len(destinations)) * BD_SIZE

    def _start(self, request: DmaRequest) -> None:
        assert self.lists is not None
        last = len(request.sources) - 1
        packet = [
            (address, 0, n | BD_SOF * (i == 0) | BD_EOF * (i == last))
            for i, (address, n) in enumerate(request.sources)
        ]
        behind = len(packet) * BD_SIZE
        buffers = [(address, 0, n) for address, n in request.destinations]
        ends = {
            _MM2S: (0, write_bds(self._bus, self.lists, 0, packet)),
            _S2MM: (behind, write_bds(self._bus, self.lists, behind, buffers)),
        }
        for channel in (_S2MM, _MM2S):  # the receiver first, so that the packet has somewhere to go
            base = self.node.base + channel
            first, tail = ends[channel]
            self._bus.write32(base + _DMACR, _THRESHOLD_1 | _IOC | _ERR)  # CURDESC is written while halted
            self._bus.write64(base + _CURDESC, self.lists.device + first)
            self._bus.write32(base + _DMACR, _THRESHOLD_1 | _IOC | _ERR | _RUN)
            self._bus.write64(base + _TAILDESC, tail)
