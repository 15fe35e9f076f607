"""The bus as page-table code uses it: what it stores, the SMMU's walks see.

The walks of an SMMU with IDR0.CTTW = 0 do not ask the CPU's cache (SMMUv2, Arm IHI0062). So each store to a
table is cleaned before anything else happens, as Linux' io-pgtable does (`dma_sync_single_for_device` in
`__arm_lpae_sync_pte`): a table is complete in memory before it is linked, and an entry is invalid there
before the TLBs are told. Tables are cleared by `Bus.zero`, which reaches memory.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING, Any, cast

import numpy.typing as npt

from unimem_node.bus import Bus

if TYPE_CHECKING:
    from _typeshed import ReadableBuffer


class TableBus:
    """`bus` for page tables. `clean` = False leaves what is stored in the CPU's cache (a driver's bug)."""

    def __init__(self, bus: Bus, *, clean: bool) -> None:
        self.clean = clean
        self._bus = bus
        # The bus' own methods: the CPU's walks cost no more than without this class.
        self.read: Callable[[int, int], bytes] = bus.read
        self.read64: Callable[[int], int] = bus.read64
        self.zero: Callable[[int, int], None] = bus.zero

    def write(self, pa: int, data: ReadableBuffer | npt.NDArray[Any]) -> None:
        """Store `data` at `pa`."""
        source = memoryview(cast("ReadableBuffer", data))
        self._bus.write(pa, source)
        if self.clean:
            self._bus.clean(pa, source.nbytes)

    def write64(self, address: int, value: int) -> None:
        """Store the 64-bit word `value` at `address`."""
        self._bus.write64(address, value)
        if self.clean:
            self._bus.clean(address, 8)
