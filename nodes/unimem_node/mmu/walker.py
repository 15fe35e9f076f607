"""A walk one can read: which tables were visited, what stood in them, how it ended.

The verdict is the compiled walk's own (`_fast`); the steps are retraced from memory for diagnosis.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from unimem.addresses import fmt
from unimem_node.memory import PhysicalMemory
from unimem_node.mmu import _fast, descriptors
from unimem_node.mmu.regime import (
    A_LEAF,
    ACCESS_EXECUTE,
    ACCESS_PRIVILEGED,
    ACCESS_WRITE,
    R_GRANULE_SHIFT0,
    R_T0SZ,
    R_TTBR0,
    R_WXN,
    FaultCode,
    Regime,
    signed,
)


@dataclass(frozen=True, slots=True)
class WalkStep:
    """One descriptor fetch. `value` is None when no memory is at the address."""

    level: int
    address: int
    value: int | None


@dataclass(frozen=True, slots=True)
class WalkResult:
    """The outcome of one walk.

    `fault` is None on success; `pa` is then the address translated, `size` that of its block or page.
    `attrs` are the `A_*` bits of the leaf, 0 when none was reached.
    """

    va: int
    access: int
    fault: FaultCode | None
    level: int
    pa: int | None
    size: int
    attrs: int
    steps: tuple[WalkStep, ...]
    granule_shift: int

    def describe(self) -> str:
        """Say what happened in one line for each step and one for the end."""
        lines = []
        for step in self.steps:
            shown = "no memory there"
            if step.value is not None:
                shown = descriptors.describe(step.value, step.level, self.granule_shift)
            lines.append(f"  level {step.level} at {fmt(step.address)}: {shown}")
        verb = access_words(self.access)
        if self.fault is None:
            end = f"{verb} of {fmt(self.va)} goes to {fmt(self.pa or 0)}"
        else:
            end = f"{verb} of {fmt(self.va)}: {self.fault.words} at level {self.level}"
        return "\n".join([end, *lines])


def access_words(access: int) -> str:
    """Name an access: `write`, `privileged read`, `execute`."""
    verb = "execute" if access & ACCESS_EXECUTE else "write" if access & ACCESS_WRITE else "read"
    return f"privileged {verb}" if access & ACCESS_PRIVILEGED else verb


def walk(memory: PhysicalMemory, regime: Regime | npt.NDArray[np.int64], va: int, access: int) -> WalkResult:
    """Translate `va` through the tables in `memory`, for an access (`ACCESS_*` bits)."""
    row = regime.row() if isinstance(regime, Regime) else regime
    reads = np.zeros(4, np.int64)
    va &= (1 << 64) - 1
    found = _fast.walk(memory.view64, memory.geometry, row, signed(va), reads)
    code, level, base, shift, attrs = map(int, found)  # NumPy's integers when nothing is compiled
    code = _fast.settle(code, attrs, access, int(row[R_WXN]))
    half = va >> 55 & 1
    size = 1 << shift if attrs & A_LEAF else 0
    return WalkResult(
        va=va,
        access=access,
        fault=FaultCode(code) if code else None,
        level=level,
        pa=base | (va & (size - 1)) if code == 0 else None,
        size=size,
        attrs=attrs,
        steps=_retrace(memory, row, va, half, reads),
        granule_shift=int(row[R_GRANULE_SHIFT0 + half]),
    )


def _retrace(
    memory: PhysicalMemory, row: npt.NDArray[np.int64], va: int, half: int, reads: npt.NDArray[np.int64]
) -> tuple[WalkStep, ...]:
    """Visit the levels that were read, from the start table down."""
    levels = [level for level in range(4) if reads[level]]
    if not levels:
        return ()
    granule, bits = int(row[R_GRANULE_SHIFT0 + half]), 64 - int(row[R_T0SZ + half])
    top = bits - descriptors.level_shift(levels[0], granule)
    table = int(row[R_TTBR0 + half]) & -max(8 << top, 64)
    width = top
    steps = []
    for level in levels:
        index = va >> descriptors.level_shift(level, granule) & (1 << width) - 1
        address = table + 8 * index
        value = memory.read64(address) if memory.find(address, 8) >= 0 else None
        steps.append(WalkStep(level, address, value))
        if value is None:
            break
        table, width = descriptors.address_of(value, level, granule), granule - 3
    return tuple(steps)
