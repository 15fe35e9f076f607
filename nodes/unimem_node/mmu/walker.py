"""A walk one can read: which descriptors were fetched, what stood in them, how it ended.

The verdict is the compiled walk's own (`_fast`, `_fast_stage2`); the steps are retraced from memory for
diagnosis. In a nested walk every fetch of a stage-1 descriptor is preceded by the stage-2 steps that
translate its address, and the stage-2 steps of the output address come last.
"""

from __future__ import annotations

from collections.abc import Generator
from dataclasses import dataclass
from itertools import islice

import numpy as np
import numpy.typing as npt

from unimem.addresses import fmt
from unimem_node.memory import PhysicalMemory
from unimem_node.mmu import _fast, _fast_stage2, descriptors
from unimem_node.mmu._fast_cache import NO_ROWS, NO_STATE
from unimem_node.mmu.geometry import level_shift, start_level
from unimem_node.mmu.regime import (
    A_LEAF,
    A_LEVEL2_SHIFT,
    ACCESS_EXECUTE,
    ACCESS_PRIVILEGED,
    ACCESS_WRITE,
    OK,
    PF,
    R_BIG_ENDIAN,
    R_GRANULE_SHIFT0,
    R_SL0,
    R_STAGES,
    R_T0SZ,
    R_TTBR0,
    S_IPA_SHIFT,
    S_LEVEL,
    S_PTWF,
    S_STAGE_2,
    STAGE_1,
    STAGE_2,
    FaultCode,
    Regime,
    signed,
)

Row = npt.NDArray[np.int64]

_BITS_47_0 = (1 << 48) - 1


@dataclass(frozen=True, slots=True)
class WalkStep:
    """One descriptor fetch. `value` is None when no memory is at the address."""

    level: int
    address: int
    value: int | None
    stage: int = 1
    granule_shift: int = 12

    def describe(self) -> str:
        """Say where and what."""
        shown = "no memory there"
        if self.value is not None:
            shown = descriptors.describe(self.value, self.level, self.granule_shift, self.stage)
        return f"level {self.level} at {fmt(self.address)}: {shown}"


@dataclass(frozen=True, slots=True)
class WalkResult:
    """The outcome of one walk.

    `fault` is None on success; `pa` is then the address translated, `size` that of its TLB entry (page,
    block or contiguous group; the smaller of both stages). `level` is that of the leaf (stage 1's in a
    nested walk) or of the fault, which is `stage`'s: one of stage 2 has its `ipa`, and `ptwf` if it was met
    on the way to a stage-1 descriptor. A nested walk that succeeds has the `ipa` that stage 1 gave. `attrs`
    are the `A_*` bits of the leaf, 0 when none was reached.
    """

    va: int
    access: int
    fault: FaultCode | None
    level: int
    pa: int | None
    size: int
    attrs: int
    steps: tuple[WalkStep, ...]
    stage: int = 1
    ptwf: bool = False
    ipa: int | None = None

    def describe(self) -> str:
        """Say what happened in one line for each step and one for the end."""
        nested = len({step.stage for step in self.steps}) > 1
        lines = [f"  {f'stage {step.stage} ' if nested else ''}{step.describe()}" for step in self.steps]
        verb = access_words(self.access)
        if self.fault is None:
            by = "" if self.ipa is None else f" by IPA {fmt(self.ipa)}"
            return "\n".join([f"{verb} of {fmt(self.va)} goes to {fmt(self.pa or 0)}{by}", *lines])
        end = f"{verb} of {fmt(self.va)}: {self.fault.words} at level {self.level}"
        if self.stage == STAGE_2:
            what = "stage-1 descriptor" if self.ptwf else "IPA"
            end += f" of stage 2, {what} {fmt(self.ipa or 0)}"
        return "\n".join([end, *lines])


def access_words(access: int) -> str:
    """Name an access: `write`, `privileged read`, `execute`."""
    verb = "execute" if access & ACCESS_EXECUTE else "write" if access & ACCESS_WRITE else "read"
    return f"privileged {verb}" if access & ACCESS_PRIVILEGED else verb


def walk(
    memory: PhysicalMemory,
    regime: Regime | Row,
    va: int,
    access: int,
    *,
    stage_2: Regime | Row | None = None,
) -> WalkResult:
    """Translate `va` through the tables in `memory`, for an access (`ACCESS_*` bits).

    A regime whose `stages` are STAGE_2 alone takes `va` for an IPA; one of stage 1 is nested in `stage_2`
    where that is given.
    """
    row = _row_of(regime)
    row2 = None if stage_2 is None else _row_of(stage_2)
    alone = int(row[R_STAGES]) == STAGE_2
    fetched = np.zeros(_fast.FETCHED, np.int64)
    va &= (1 << 64) - 1
    mem, place, at = memory.view64, memory.geometry, signed(va)
    ipa_base = 0
    if alone:
        found = _fast_stage2.walk_stage2(mem, place, row, at, fetched, NO_ROWS, NO_STATE, 0, 0)
    elif row2 is not None:
        *found, ipa_base = _fast_stage2.walk_nested(
            mem, place, row, row2, at, fetched, NO_ROWS, NO_STATE, 0, 0, 0
        )
    else:
        found = _fast.walk(mem, place, row, at, fetched)
    code, syndrome, base, shift, attrs = map(int, found)  # NumPy's integers when nothing is compiled
    offset = va & (1 << shift) - 1
    ipa = va if alone else int(ipa_base) | offset
    code, syndrome = map(int, _fast.settle(code, syndrome, attrs, access))
    if code == OK and not _fast.permitted(attrs, access):  # stage 1 allows it, or `settle` had said so
        code = PF
        syndrome = S_STAGE_2 | ipa << S_IPA_SHIFT | attrs >> A_LEVEL2_SHIFT & 3
    if code and syndrome & S_STAGE_2:
        ipa = syndrome >> S_IPA_SHIFT & _BITS_47_0
    trace = _trace_stage2(memory, row, va) if alone else _trace_stage1(memory, row, row2, va)
    steps = list(islice(trace, int(fetched[:8].sum())))
    if code and not syndrome & S_STAGE_2:
        while steps and steps[-1].stage != STAGE_1:  # a walk that knows the access stops at stage 1's leaf
            steps.pop()
    return WalkResult(
        va=va,
        access=access,
        fault=FaultCode(code) if code else None,
        level=syndrome & S_LEVEL,
        pa=base | offset if code == OK else None,
        size=1 << shift if attrs & A_LEAF else 0,
        attrs=attrs,
        steps=tuple(steps),
        stage=2 if alone or (code and syndrome & S_STAGE_2) else 1,
        ptwf=bool(code and syndrome & S_PTWF),
        ipa=ipa if (code and syndrome & S_STAGE_2) or (code == OK and row2 is not None) else None,
    )


def _row_of(regime: Regime | Row) -> Row:
    return regime.row() if isinstance(regime, Regime) else regime


#: Steps as they are fetched; returns the last descriptor's output address, None where it has none.
Trace = Generator[WalkStep, None, int | None]


def _trace_stage1(memory: PhysicalMemory, row: Row, row2: Row | None, va: int) -> Trace:
    """Every fetch of stage 1, each with the stage-2 fetches before it, then stage 2's of the output.

    It goes on as long as there are tables: the caller takes as many steps as the walk took.
    """
    half = va >> 55 & 1
    granule, bits = int(row[R_GRANULE_SHIFT0 + half]), 64 - int(row[R_T0SZ + half])
    level = start_level(granule, bits)
    table = int(row[R_TTBR0 + half])
    output = yield from _trace(memory, row, row2, va, (1, granule, bits, level, table))
    if row2 is not None and output is not None:
        output = yield from _trace_stage2(memory, row2, output)
    return output


def _trace_stage2(memory: PhysicalMemory, row: Row, ipa: int) -> Trace:
    """Every fetch of stage 2."""
    granule, bits = int(row[R_GRANULE_SHIFT0]), 64 - int(row[R_T0SZ])
    level = (2 if granule == 12 else 3) - int(row[R_SL0])
    return (yield from _trace(memory, row, None, ipa, (2, granule, bits, level, int(row[R_TTBR0]))))


def _trace(
    memory: PhysicalMemory, row: Row, row2: Row | None, va: int, start: tuple[int, int, int, int, int]
) -> Trace:
    stage, granule, bits, level, table = start
    width = bits - level_shift(level, granule)
    table &= _BITS_47_0 & -max(8 << width, 64)
    while True:
        shift = level_shift(level, granule)
        address: int | None = table + 8 * (va >> shift & (1 << width) - 1)
        if row2 is not None and address is not None:
            address = yield from _trace_stage2(memory, row2, address)
        if address is None:
            return None
        value = memory.read64(address) if memory.find(address, 8) >= 0 else None
        if value is not None and row[R_BIG_ENDIAN]:
            value = int.from_bytes(value.to_bytes(8, "little"), "big")
        yield WalkStep(level, address, value, stage, granule)
        if value is None:
            return None
        kind = descriptors.kind_of(value, level, granule)
        table = descriptors.address_of(value, level, granule)
        if kind is not descriptors.Kind.TABLE:
            leaf = kind in (descriptors.Kind.BLOCK, descriptors.Kind.PAGE)
            return table | va & (1 << shift) - 1 if leaf else None
        level, width = level + 1, granule - 3
