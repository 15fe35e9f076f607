"""What building page tables needs of memory: a part of the bus."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, Protocol

import numpy.typing as npt

if TYPE_CHECKING:
    from _typeshed import ReadableBuffer


class TableMemory(Protocol):
    """Memory by physical address, as the CPU reads it and as table walks shall see it."""

    def read(self, pa: int, n: int, /) -> bytes:
        """Return `n` bytes from `pa`."""
        ...

    def read64(self, address: int, /) -> int:
        """Return the 64-bit word at `address`."""
        ...

    def write(self, pa: int, data: ReadableBuffer | npt.NDArray[Any], /) -> None:
        """Store `data` at `pa`."""
        ...

    def write64(self, address: int, value: int, /) -> None:
        """Store the 64-bit word `value` at `address`."""
        ...

    def zero(self, pa: int, n: int, /) -> None:
        """Clear ``[pa, pa + n)``."""
        ...
