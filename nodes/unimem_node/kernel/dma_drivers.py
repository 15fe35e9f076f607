"""Drivers for the DMA engines: ZDMA channels (AMD UG1085, xzdma_hw.h) and AXI CDMA (AMD PG034).

A driver programs one transfer at a time and queues the rest. The interrupt tells it the end; nothing is
polled. A transfer of one piece uses the engine's simple mode; one of several is written as a descriptor list
into the driver's `lists`. What an address means is not its concern: physical, or whatever the stream's
context bank makes of it.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Sequence
from typing import Final

from unimem.addresses import fmt
from unimem_node.bus import Bus
from unimem_node.kernel.board import DmaNode
from unimem_node.kernel.dma_lists import (
    BD_SIZE,
    ZDMA_SIZE,
    ListMemory,
    Piece,
    pairs,
    total,
    write_bds,
    write_zdma,
)

# ZDMA: offsets and bits
_ISR: Final = 0x100
_IEN: Final = 0x108
_IDS: Final = 0x10C
_CTRL0: Final = 0x110
_CTRL0_RESET: Final = 0x80  # simple mode, read and write
_POINT_TYPE: Final = 1 << 6  # scatter-gather
_SRC_START: Final = 0x158
_DST_START: Final = 0x160
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
_SG_MODE: Final = 1 << 3
_CURDESC: Final = 0x08
_TAILDESC: Final = 0x10
_DLY: Final = 1 << 13
_IDLE: Final = 1 << 1
_LARGEST_THRESHOLD: Final = 255
_THRESHOLD_SHIFT: Final = 16
_SHORTEST_DELAY: Final = 1 << 24
_SA: Final = 0x18  # + 4: high
_DA: Final = 0x20
_BTT: Final = 0x28
_IOC: Final = 1 << 12  # the same bit enables it and shows it
_ERR: Final = 1 << 14
_CDMA_ERRORS: Final = (
    (1 << 4, "DMAIntErr"),
    (1 << 5, "DMASlvErr"),
    (1 << 6, "DMADecErr"),
    (1 << 8, "SGIntErr"),
    (1 << 9, "SGSlvErr"),
    (1 << 10, "SGDecErr"),
)


class DmaRequest:
    """A transfer. `done` once the engine has ended it; then `error` is empty, or what the engine reported.

    `moved` are the bytes that arrived, as far as the engine counts them (None: it does not).
    """

    __slots__ = ("destinations", "done", "error", "length", "moved", "sources")

    def __init__(self, sources: Sequence[Piece], destinations: Sequence[Piece]) -> None:
        self.sources = tuple(sources)
        self.destinations = tuple(destinations)
        self.length = total(self.sources)
        self.done = False
        self.error = ""
        self.moved: int | None = None

    @property
    def simple(self) -> bool:
        """Whether one piece goes to one piece."""
        return len(self.sources) == len(self.destinations) == 1

    @property
    def ok(self) -> bool:
        """Whether it is done, and well."""
        return self.done and not self.error


class Driver:
    """What all drivers share: the queue, and the end of a transfer. `lists`: memory for descriptors."""

    def __init__(self, bus: Bus, node: DmaNode, lists: ListMemory | None = None) -> None:
        self.node = node
        self.lists = lists
        self._bus = bus
        self._queue: deque[DmaRequest] = deque()
        self._running: DmaRequest | None = None

    def reset(self) -> None:
        """Set the engine up: its end and its errors raise the interrupt."""
        raise NotImplementedError

    def interrupt(self) -> None:
        """Serve the engine's interrupt."""
        raise NotImplementedError

    def submit(self, source: int, destination: int, length: int) -> DmaRequest:
        """Copy `length` bytes: now, or when what was submitted before has ended. Raises `ValueError`."""
        return self.submit_list([(source, length)], [(destination, length)])

    def submit_list(self, sources: Sequence[Piece], destinations: Sequence[Piece]) -> DmaRequest:
        """Copy pieces, (address, bytes) each, to pieces of the same total; as `submit`."""
        for address, n in (*sources, *destinations):
            if not 0 < n <= self.node.max_length:
                raise ValueError(f"{self.node.name} moves 1 to {self.node.max_length} bytes at once, not {n}")
            if address < 0 or (address + n - 1) >> 49:
                raise ValueError(f"{self.node.name}: {n} bytes at {fmt(address)} exceed 49 bits of address")
        if not sources or total(sources) != total(destinations):
            raise ValueError(
                f"{self.node.name}: sources have {total(sources)} bytes, destinations {total(destinations)}"
            )
        request = DmaRequest(sources, destinations)
        needed = self._list_bytes(sources, destinations)
        if needed > (self.lists.size if self.lists is not None else 0):
            raise ValueError(
                f"{self.node.name}: the list needs {needed} bytes of descriptors; `lists` has "
                f"{self.lists.size if self.lists is not None else 'not been given'}"
            )
        self._queue.append(request)
        self._next()
        return request

    def _list_bytes(self, sources: Sequence[Piece], destinations: Sequence[Piece]) -> int:
        """Bytes of `lists` that a request takes; 0 when none are needed."""
        raise NotImplementedError

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


class ZdmaDriver(Driver):
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

    def _list_bytes(self, sources: Sequence[Piece], destinations: Sequence[Piece]) -> int:
        pieces = len(sources) + len(destinations)
        return 0 if pieces == 2 else pieces * ZDMA_SIZE

    def _start(self, request: DmaRequest) -> None:
        base = self.node.base
        if request.simple:
            self._bus.write32(base + _CTRL0, _CTRL0_RESET)
            self._write_address(_SRC_WORD0, request.sources[0][0])
            self._write_address(_DST_WORD0, request.destinations[0][0])
            self._bus.write32(base + _SRC_WORD0 + 8, request.length)
            self._bus.write32(base + _DST_WORD0 + 8, request.length)
        else:
            assert self.lists is not None
            behind = len(request.sources) * ZDMA_SIZE
            write_zdma(self._bus, self.lists.cpu, request.sources, stop=True)
            write_zdma(self._bus, self.lists.cpu + behind, request.destinations, stop=False)
            self._bus.write32(base + _CTRL0, _CTRL0_RESET | _POINT_TYPE)
            self._write_address(_SRC_START, self.lists.device)
            self._write_address(_DST_START, self.lists.device + behind)
        self._bus.write32(base + _TOTAL_BYTE, 0xFFFF_FFFF)  # write one to clear
        self._bus.write32(base + _CTRL2, _EN)


class CdmaDriver(Driver):
    """Drives one AXI CDMA."""

    def reset(self) -> None:
        """Reset the engine; the end and errors raise the interrupt."""
        self._bus.write32(self.node.base + _CDMACR, _CDMACR_RESET)
        self._bus.write32(self.node.base + _CDMACR, _IOC | _ERR)

    def interrupt(self) -> None:
        """Serve the engine's interrupt."""
        base = self.node.base
        status = self._bus.read32(base + _CDMASR)
        self._bus.write32(base + _CDMASR, status & (_IOC | _DLY | _ERR))
        if status & _ERR:
            self.reset()  # an error halts the engine until it is reset
            self._finish(" ".join(name for bit, name in _CDMA_ERRORS if status & bit) or "error", None)
        elif status & (_IOC | _DLY) and status & _IDLE:
            self._finish("", self._running.length if self._running is not None else None)

    def _list_bytes(self, sources: Sequence[Piece], destinations: Sequence[Piece]) -> int:
        pieces = len(list(pairs(sources, destinations)))
        return 0 if len(sources) == len(destinations) == 1 else pieces * BD_SIZE

    def _start(self, request: DmaRequest) -> None:
        base = self.node.base
        if request.simple:
            self._bus.write32(base + _CDMACR, 1 << _THRESHOLD_SHIFT | _IOC | _ERR)
            self._write_address(_SA, request.sources[0][0])
            self._write_address(_DA, request.destinations[0][0])
            self._bus.write32(base + _BTT, request.length)
            return
        assert self.lists is not None
        entries = list(pairs(request.sources, request.destinations))
        tail = write_bds(self._bus, self.lists, 0, entries)
        # one interrupt for the list; of one that is longer than the threshold can be, the timer tells the end
        threshold = min(len(entries), _LARGEST_THRESHOLD) << _THRESHOLD_SHIFT
        control = _SHORTEST_DELAY | threshold | _IOC | _DLY | _ERR
        self._bus.write32(base + _CDMACR, control | _SG_MODE)
        self._write_address(_CURDESC, self.lists.device)
        self._write_address(_TAILDESC, tail)
