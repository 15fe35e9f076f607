"""Descriptor lists in memory, as the drivers of the DMA engines write them (UG1085, PG034, PG021).

A driver writes descriptors where the CPU reaches them and tells the engine where *it* finds them: the two
addresses differ when the engine's stream is translated. Descriptors lie one behind the other.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Final

from unimem_node.bus import Bus

#: (address, bytes): a stretch of memory as an engine sees it.
Piece = tuple[int, int]

ZDMA_SIZE: Final = 16
ZDMA_STOP: Final = 2 << 3
BD_SIZE: Final = 64
BD_STATUS: Final = 0x1C
BD_COMPLETE: Final = 1 << 31
BD_SOF: Final = 1 << 27
BD_EOF: Final = 1 << 26
BD_LENGTH: Final = (1 << 26) - 1


@dataclass(frozen=True, slots=True)
class ListMemory:
    """Memory for descriptors: `cpu` is its address on the bus, `device` the engine's; 64-byte aligned."""

    cpu: int
    device: int
    size: int


def total(pieces: Sequence[Piece]) -> int:
    """Bytes of a list."""
    return sum(n for _, n in pieces)


def pairs(sources: Sequence[Piece], destinations: Sequence[Piece]) -> Iterator[tuple[int, int, int]]:
    """(source, destination, bytes): both lists cut at each other's borders; they have equal totals.

    >>> list(pairs([(0x1000, 6)], [(0x20, 2), (0x40, 4)]))
    [(4096, 32, 2), (4098, 64, 4)]
    """
    left = iter(destinations)
    at, room = 0, 0
    for address, n in sources:
        done = 0
        while done < n:
            if not room:
                at, room = next(left)
                continue
            size = min(n - done, room)
            yield address + done, at, size
            done += size
            at += size
            room -= size


def write_zdma(bus: Bus, cpu: int, pieces: Sequence[Piece], *, stop: bool) -> None:
    """Write linear ZDMA descriptors; the last one of a source list stops the channel."""
    words = bytearray()
    for n, (address, size) in enumerate(pieces):
        control = ZDMA_STOP if stop and n == len(pieces) - 1 else 0
        words += address.to_bytes(8, "little") + size.to_bytes(4, "little") + control.to_bytes(4, "little")
    bus.write(cpu, bytes(words))


def write_bds(bus: Bus, memory: ListMemory, first: int, entries: Sequence[tuple[int, int, int]]) -> int:
    """Write descriptors of an AXI engine, (address, second address, control) each, from offset `first` on.

    Each points to the next, the last one to the first. Returns the device address of the last.
    """
    block = bytearray()
    for n, (address, second, control) in enumerate(entries):
        following = memory.device + first + (n + 1) % len(entries) * BD_SIZE
        addresses = (following, address, second)
        block += b"".join(a.to_bytes(8, "little") for a in addresses)
        block += control.to_bytes(4, "little") + bytes(BD_SIZE - 28)
    bus.write(memory.cpu + first, bytes(block))
    return memory.device + first + (len(entries) - 1) * BD_SIZE
