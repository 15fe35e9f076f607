"""A bus master's way into memory: its stream ID, and what the SMMU makes of it.

Models the stream side of the MMU-500 as an engine meets it: the stream ID is a property of the master's
port (ZynqMP: TBU number and master ID; for the PL also the AXI ID it drives), and which translation applies
is looked up in the SMMU, again after every change of its configuration.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import NamedTuple

from unimem_node.dma._fast import OUTSIDE
from unimem_node.mmu.regime import ACCESS_READ, ACCESS_WRITE
from unimem_node.smmu import Fault, Hold, RouteKind, Smmu, StreamRoute
from unimem_node.smmu.arrays import Arrays

#: CB_FSR.EF: memory that is not there, on a walk or on the access itself.
EXTERNAL_FAULT = 4


class Way(NamedTuple):
    """Where accesses go, as compiled code takes it. `open` is False when the SMMU refuses them all."""

    lane: int
    cb: int
    open: bool
    route: StreamRoute | None  # None: a master that does not pass the SMMU
    read: int = ACCESS_READ  # what its reads and writes count as (S2CR.PRIVCFG, INSTCFG)
    write: int = ACCESS_WRITE


class SmmuPort:
    """One master behind the SMMU, or (`stream_id` None) one on a port that does not pass it."""

    def __init__(self, smmu: Smmu, stream_id: int | None) -> None:
        self._smmu = smmu
        self.stream_id = stream_id
        self.arrays: Arrays = smmu.arrays
        self._epoch = -1
        self._way = Way(0, OUTSIDE, True, None)

    def way(self) -> Way:
        """The translation in force now; looked up again only after the SMMU's configuration has changed."""
        if self.stream_id is not None and self._epoch != self._smmu.epoch:
            route = self._smmu.resolve(self.stream_id)
            self._way = Way(
                self._smmu.lane_of(self.stream_id),
                route.cb,
                route.kind is not RouteKind.FAULT,
                route,
                route.access(ACCESS_READ),
                route.access(ACCESS_WRITE),
            )
            self._epoch = self._smmu.epoch
        return self._way

    def moved(self) -> None:
        """Accesses were made: let the performance monitor notice a counter that overflows."""
        self._smmu.pmu.poll()

    def refused(self, address: int, access: int, code: int, syndrome: int, way: Way | None = None) -> Fault:
        """Let the SMMU record an access that it refused; the fault says what the master sees.

        `way`: the translation in force when the access was made, if that was not now.
        """
        route = (way or self.way()).route
        assert route is not None, "only the SMMU refuses, and this master does not pass it"
        assert self.stream_id is not None
        return self._smmu.fault(self.stream_id, route, address, access, code, syndrome)

    def no_memory(self, address: int, access: int, syndrome: int, way: Way | None = None) -> Fault | None:
        """Nothing answers at the output address: an external fault of the context bank, if one translated."""
        way = way or self.way()
        if way.cb < 0:
            return None
        return self.refused(address, access, EXTERNAL_FAULT, syndrome, way)

    def hold(self, fault: Fault, resumed: Callable[[bool], None]) -> Hold:
        """Let the SMMU hold the access that stalled; ``resumed(retry)`` when software has decided."""
        return self._smmu.hold(fault, resumed)

    def wait(self, way: Way, resumed: Callable[[bool], None]) -> Hold:
        """Wait for a bank that a stalled access blocks; ``resumed(True)`` when it is free."""
        return self._smmu.wait(way.cb, resumed)
