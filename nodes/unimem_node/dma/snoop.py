"""Coherent masters: accesses that ask the CPU's cache, and those that pass behind its back.

Only where a platform models the CPU's write-back cache; without one every access is coherent and nothing of
this is used. An access is coherent when

* its TBU drains into the cache coherent interconnect (ZynqMP: TBU 0 to 2 into the CCI-400; TBU 3 to 5 go to
  the DDR controller, where nobody asks the cache), and
* its translation says write-back cacheable, both inner and outer, at every stage (MAIR's byte, stage 2's
  MemAttr), and inner or outer shareable (SH): that is what the MMU-500 drives as AxCACHE and AxDOMAIN.

A stream that bypasses translation keeps the attributes that its master drives. They are not modelled master
by master: `bypass_cacheable` says it for the chip, False as AXI CDMA (0b0011) and ZDMA (DATA_ATTR out of
reset) drive them. A master that does not pass the SMMU at all is on a coherent port of the CPU cluster (ACE,
ACP).

What the cache is asked to do is what the CCI asks of a CPU: a dirty line that is read goes to memory and
stays (ReadOnce; the real interconnect may leave memory as it is, until the line is evicted); a line that is
written goes to memory and is dropped (WriteUnique). Memory then is up to date, and the engine's move goes on
there. Table walks never get here: IDR0.CTTW = 0.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable
from types import FunctionType
from typing import Any

from unimem_node.dma._fast import NO_MEMORY, OUTSIDE, bank_run
from unimem_node.memory import WriteBackCache
from unimem_node.mmu.regime import (
    A_LEAF,
    A_LEVEL_SHIFT,
    A_MEMATTR_SHIFT,
    A_SH_SHIFT,
    A_TYPE_SHIFT,
    ACCESS_WRITE,
)
from unimem_node.smmu._fast import translate
from unimem_node.smmu.arrays import LANE_TBU

#: (code, syndrome, offset, bytes, cost_ps) as `_fast.locate` returns them.
Located = tuple[int, int, int, int, int]

_OUTER_OR_INNER = 2  # SH: 0 non-shareable, 1 reserved, 2 outer, 3 inner shareable
_STAGE_2_WRITE_BACK = 0xF


class Snoop:
    """What the accesses of the masters do to `cache`. `coherent_tbus`: those that drain into the CCI."""

    def __init__(
        self, cache: WriteBackCache, coherent_tbus: Iterable[int], *, bypass_cacheable: bool = False
    ) -> None:
        self._cache = cache
        self._coherent = frozenset(coherent_tbus)
        self._bypass_cacheable = bypass_cacheable

    def coherent(self, lane: int, cb: int, attrs: int) -> bool:
        """Tell whether an access asks the cache. `attrs`: A_* of its translation, 0 for a bypass."""
        if cb == OUTSIDE:
            return True
        if lane & LANE_TBU not in self._coherent:
            return False
        if not attrs & A_LEAF:
            return self._bypass_cacheable
        return (
            attrs >> A_SH_SHIFT & 3 >= _OUTER_OR_INNER
            and is_write_back(attrs >> A_TYPE_SHIFT & 0xFF)
            and attrs >> A_MEMATTR_SHIFT & 0xF == _STAGE_2_WRITE_BACK
        )

    def access(self, lane: int, cb: int, attrs: int, pa: int, n: int, access: int) -> None:
        """Ask the cache for ``[pa, pa + n)``, if the access is coherent, before memory is read or written."""
        if self.coherent(lane, cb, attrs):
            if access & ACCESS_WRITE:
                self._cache.clean_invalidate(pa, n)
            else:
                self._cache.clean(pa, n)

    def locate(self, arrays: Any, lane: int, cb: int, va: int, access: int, n: int) -> Located:
        """`_fast.locate`, readable, and the cache asked for what it found."""
        attrs, pa, span, cost = 0, va, n, 0
        if cb != OUTSIDE:
            code, attrs, pa, span, cost = map(int, translate(arrays, lane, cb, va, access))
            if code:
                return code, attrs, -1, 0, cost
        level = attrs >> A_LEVEL_SHIFT & 3
        offset, run = map(int, bank_run(arrays.geometry, pa, min(span, n)))
        if offset < 0:
            return NO_MEMORY, level, -1, 0, cost
        self.access(lane, cb, attrs, pa, run, access)
        return 0, level, offset, run, cost

    def step(self, compiled: Callable[..., Any]) -> Callable[..., Any]:
        """A mover's `step` as Python, its accesses through `locate` above: the same source, another name."""
        plain = getattr(compiled, "py_func", compiled)
        assert "locate" in plain.__code__.co_names, "every access of `step` goes through `_fast.locate`"
        return FunctionType(plain.__code__, {**plain.__globals__, "locate": self.locate}, plain.__name__)


def is_write_back(byte: int) -> bool:
    """Tell whether a byte of MAIR means normal memory, write-back inner and outer (Arm ARM, MAIR_EL1).

    Each nibble is 0b11RW, or 0b01RW (transient) with R or W set: 0b0100 is non-cacheable.

    >>> [is_write_back(byte) for byte in (0xFF, 0x77, 0x44, 0x04, 0xBB, 0xF4)]
    [True, True, False, False, False, False]
    """
    return all(nibble & 0b0100 and nibble != 0b0100 for nibble in (byte >> 4, byte & 0xF))
