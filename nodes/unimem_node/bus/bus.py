"""The system bus: decodes a physical address to memory or to a device's registers.

Accesses to memory may have any alignment and length. Registers are read and written in naturally aligned
words of 4 or 8 bytes; anything else is answered SLVERR, an address at which nobody is, DECERR.

With a cache, accesses to memory are the CPU's through it, and memory itself may hold older bytes. Without
one, which is the default, cleaning and invalidating have nothing to do.
"""

from __future__ import annotations

import logging
from bisect import bisect_right
from typing import TYPE_CHECKING, Any, Final, NamedTuple, Protocol, cast, runtime_checkable

import numpy as np
import numpy.typing as npt

from unimem.addresses import fmt
from unimem_node.bus.errors import BusError, Response

if TYPE_CHECKING:
    from _typeshed import ReadableBuffer

    from unimem_node.bus.registers import RegisterFile
    from unimem_node.memory import PhysicalMemory, WriteBackCache

#: A line of the CPU's caches (Cortex-A53, DDI0500).
LINE_BYTES: Final = 64


_log = logging.getLogger(__name__)
_LOGGED_PLACES: Final = 1024  # refused accesses are logged once for each page, up to so many


class Device(Protocol):
    """Something with registers. `size` is 4 or 8, `offset` a multiple of it, within the device's range."""

    def read(self, offset: int, size: int) -> int:
        """Return the value of the register at `offset`."""
        ...

    def write(self, offset: int, size: int, value: int) -> None:
        """Write `value` (unsigned, `size` bytes) to the register at `offset`."""
        ...


@runtime_checkable
class Inspectable(Protocol):
    """A device that a debugger may look at: it has a table of registers, and shows them without effects."""

    @property
    def registers(self) -> RegisterFile:
        """What it shows."""
        ...

    def inspect(self, offset: int, size: int) -> int:
        """Return the value of the register at `offset` as it is: nothing is cleared or set off."""
        ...


class Region(NamedTuple):
    """A device's place on the bus."""

    name: str
    base: int
    size: int
    device: Device


class Bus:
    """Physical addresses of one node, as its CPU sees them: `memory` through `cache`, if there is one."""

    def __init__(self, memory: PhysicalMemory, cache: WriteBackCache | None = None) -> None:
        self.memory = memory
        self.cache = cache
        self._bytes: PhysicalMemory | WriteBackCache = memory if cache is None else cache
        self._regions: list[Region] = []  # sorted by base
        self._bases: list[int] = []
        self._logged: set[int] = set()

    def attach(self, name: str, base: int, size: int, device: Device) -> None:
        """Let `device` answer at ``[base, base + size)``; raises `ValueError` on overlap or a bad range."""
        if size <= 0 or base < 0 or base % 8 or size % 8:
            raise ValueError(f"device {name}: base {fmt(base)} and size {fmt(size)} must be multiples of 8")
        others: list[tuple[str, int, int]] = [(r.name, r.base, r.size) for r in self._regions]
        others += [(f"memory bank {b.name}", b.base, b.size) for b in self.memory.banks]
        for other, start, length in others:
            if base < start + length and start < base + size:
                raise ValueError(f"device {name} at {fmt(base)} overlaps {other} at {fmt(start)}")
        at = bisect_right(self._bases, base)
        self._bases.insert(at, base)
        self._regions.insert(at, Region(name, base, size, device))

    def devices(self) -> list[Region]:
        """Return what is attached, by address."""
        return list(self._regions)

    def read32(self, address: int) -> int:
        """Return the 32-bit word at `address`."""
        if self.memory.find(address, 4) >= 0:
            return self._bytes.read32(address)
        return self._device_read(address, 4)

    def read64(self, address: int) -> int:
        """Return the 64-bit word at `address`."""
        if self.memory.find(address, 8) >= 0:
            return self._bytes.read64(address)
        return self._device_read(address, 8)

    def write32(self, address: int, value: int) -> None:
        """Write the low 32 bits of `value` at `address`."""
        if self.memory.find(address, 4) >= 0:
            self._bytes.write32(address, value)
        else:
            self._device_write(address, 4, value & 0xFFFF_FFFF)

    def write64(self, address: int, value: int) -> None:
        """Write the low 64 bits of `value` at `address`."""
        if self.memory.find(address, 8) >= 0:
            self._bytes.write64(address, value)
        else:
            self._device_write(address, 8, value & 0xFFFF_FFFF_FFFF_FFFF)

    def read(self, pa: int, n: int) -> bytes:
        """Return `n` bytes from `pa`: memory, or whole 32-bit registers one after the other."""
        if self.memory.find(pa, n) >= 0:
            return self._bytes.read(pa, n)
        self._check_words(pa, n)
        return b"".join(self._device_read(pa + i, 4).to_bytes(4, "little") for i in range(0, n, 4))

    def write(self, pa: int, data: ReadableBuffer | npt.NDArray[Any]) -> None:
        """Write `data` at `pa`: memory, or whole 32-bit registers one after the other.

        Nothing is written when memory refuses; registers before the one that refuses have been written.
        """
        source = memoryview(cast("ReadableBuffer", data)).cast("B")
        n = len(source)
        if self.memory.find(pa, n) >= 0:
            self._bytes.write(pa, source)
            return
        self._check_words(pa, n)
        for i in range(0, n, 4):
            self._device_write(pa + i, 4, int.from_bytes(source[i : i + 4], "little"))

    def peek32(self, address: int) -> int:
        """Return the 32-bit word at `address` as a debugger sees it: without effects on a device."""
        return int.from_bytes(self.peek(address, 4), "little")

    def peek(self, pa: int, n: int) -> bytes:
        """Return `n` bytes from `pa` without effects: memory, or whole 32-bit registers.

        Raises `BusError` as `read` does, and SLVERR for a device that cannot be looked at.
        """
        if self.memory.find(pa, n) >= 0:
            return self.memory.read(pa, n) if self.cache is None else self.cache.peek(pa, n)
        self._check_words(pa, n)
        region = self._region(pa, n)
        device = region.device
        if not isinstance(device, Inspectable):
            raise BusError(
                pa, "SLVERR", f"{region.name} at {fmt(region.base)} cannot be looked at without effects"
            )
        start = pa - region.base
        words = (device.inspect(start + i, 4) for i in range(0, n, 4))
        return b"".join(word.to_bytes(4, "little") for word in words)

    def device(self, name: str) -> Region:
        """Return the device called `name`; raises `KeyError` naming those there are."""
        for region in self._regions:
            if region.name == name:
                return region
        known = ", ".join(region.name for region in self._regions) or "none"
        raise KeyError(f"no device is called {name!r}; there are {known}")

    def view(self, pa: int, n: int) -> npt.NDArray[np.uint8]:
        """Return memory's bytes ``[pa, pa + n)`` themselves; registers cannot be viewed (DECERR).

        Their pages are not cached from now on, until they are cleared.
        """
        return self._bytes.view(pa, n)

    def zero(self, pa: int, n: int) -> None:
        """Clear memory ``[pa, pa + n)`` and give its whole pages back to the host."""
        self._bytes.zero(pa, n)

    @property
    def line_bytes(self) -> int:
        """Bytes of a line of the CPU's cache, also of one that is not modelled (CTR_EL0.DminLine)."""
        return LINE_BYTES if self.cache is None else self.cache.line_bytes

    def clean(self, pa: int, n: int) -> None:
        """Write what the CPU's cache has of ``[pa, pa + n)`` to memory: DC CVAC on each line, and DSB."""
        if self.cache is not None:
            self.cache.clean(pa, n)

    def invalidate(self, pa: int, n: int) -> None:
        """Let the CPU read ``[pa, pa + n)`` from memory next: DC IVAC on each line, and DSB.

        Lines are dropped as a whole, with what the CPU has stored in them and memory does not have.
        """
        if self.cache is not None:
            self.cache.invalidate(pa, n)

    def clean_invalidate(self, pa: int, n: int) -> None:
        """Clean and then invalidate ``[pa, pa + n)``: DC CIVAC on each line, and DSB."""
        if self.cache is not None:
            self.cache.clean_invalidate(pa, n)

    def _check_words(self, pa: int, n: int) -> None:
        self._region(pa, 1)
        if n < 0 or n % 4 or pa % 4:
            raise BusError(
                pa, "SLVERR", f"registers at {fmt(pa)} are read and written in words, not {n} bytes"
            )

    def _region(self, address: int, size: int) -> Region:
        at = bisect_right(self._bases, address) - 1
        if at >= 0:
            region = self._regions[at]
            if address + size <= region.base + region.size:
                return region
        raise self._refusal(address, "DECERR", f"nobody answers at {fmt(address)}")

    def _refusal(self, address: int, response: Response, message: str) -> BusError:
        """The answer to an access that fails; logged once for each page."""
        if address >> 12 not in self._logged and len(self._logged) < _LOGGED_PLACES:
            self._logged.add(address >> 12)
            _log.warning("%s (%s)", message, response)
        return BusError(address, response, message)

    def _device_read(self, address: int, size: int) -> int:
        region = self._region(address, size)
        if address % size:
            raise self._refusal(
                address, "SLVERR", f"{region.name}: {size}-byte read at {fmt(address)} is not aligned"
            )
        return region.device.read(address - region.base, size)

    def _device_write(self, address: int, size: int, value: int) -> None:
        region = self._region(address, size)
        if address % size:
            raise self._refusal(
                address, "SLVERR", f"{region.name}: {size}-byte write at {fmt(address)} is not aligned"
            )
        region.device.write(address - region.base, size, value)
