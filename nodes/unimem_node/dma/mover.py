"""The part all engines share: one transfer at a time, moved at scheduler events.

An engine starts a `Job`. After the set-up time the mover moves the first `CHUNK_BYTES`, lets the time of
those bytes pass (data path and translation), moves the next, and in the end, after the memory's latency,
calls back. So the data is in memory before the engine shows a status, and a change of the SMMU's
configuration or of a page table takes effect between chunks, never inside one.

A refused access is reported to the SMMU at the simulated time at which it is made. Then

* the SMMU aborts (CFRE, GFRE = 1), or no memory is there: the transfer ends with a `Refusal`; the bytes
  before it are in memory, those after it are not;
* the SMMU does not abort: RAZ/WI. Reads give zeros and writes are dropped up to the next 4 KiB border
  (which no AXI burst crosses), and the transfer goes on.

Simplifications: a read and its write overlap perfectly, one memory latency is paid for the first read and
one for the last write, and engines do not compete for a DRAM port.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable
from dataclasses import dataclass
from typing import Any, Literal

import numpy as np
import numpy.typing as npt

from unimem.addresses import fmt
from unimem_node.clock import Event, Scheduler
from unimem_node.dma import _fast, plain
from unimem_node.dma._fast import ACCESS_READ, NO_MEMORY, NO_ROUTE, SIDE_DESTINATION, SIDE_NONE, SIDE_SOURCE
from unimem_node.dma.plain import Moved
from unimem_node.dma.port import SmmuPort
from unimem_node.dma.spec import DataPath
from unimem_node.mmu._fast import ACCESS_WRITE
from unimem_node.smmu import Fault
from unimem_node.smmu.arrays import T_MEMORY_LATENCY

#: Bytes moved by one event: long enough that an event costs nothing beside them.
CHUNK_BYTES = 1 << 20
#: No AXI burst crosses this border, so a refused one never reaches beyond it.
BURST_BORDER = 4096

_ZEROS = np.zeros(16, np.uint8)


def _moved(result: Iterable[int]) -> Moved:
    """A move's result as Python's integers: uncompiled, it has NumPy's, which overflow."""
    return Moved(*map(int, result))


@dataclass(frozen=True, slots=True)
class Job:
    """What to move: `source` None writes `pattern` over and over, `destination` None reads and drops.

    A side that is `fixed` keeps its address from beat to beat (AXI FIXED burst, CDMA keyhole).
    """

    length: int
    source: int | None = None
    destination: int | None = None
    source_fixed: bool = False
    destination_fixed: bool = False
    pattern: npt.NDArray[np.uint8] | None = None

    def source_at(self, done: int) -> int:
        """Address from which byte number `done` is read."""
        assert self.source is not None
        return self.source if self.source_fixed else self.source + done

    def destination_at(self, done: int) -> int:
        """Address to which byte number `done` is written."""
        assert self.destination is not None
        return self.destination if self.destination_fixed else self.destination + done


@dataclass(frozen=True, slots=True)
class Refusal:
    """The access that ended a transfer: a bus response, and the SMMU's fault when it was the SMMU's."""

    side: Literal["read", "write"]
    address: int
    response: Literal["SLVERR", "DECERR"]
    fault: Fault | None

    def describe(self) -> str:
        """The refusal in one line of words."""
        why = self.fault.describe() if self.fault else "no memory there"
        return f"{self.side} at {fmt(self.address)}: {self.response}, {why}"


@dataclass(frozen=True, slots=True)
class Ending:
    """How a transfer ended, and how many bytes it had moved."""

    done: int
    refusal: Refusal | None


class DataMover:
    """Moves one job at a time through a port. `record` is told of each ending (`EventLog.record`)."""

    def __init__(
        self,
        port: SmmuPort,
        scheduler: Scheduler,
        path: DataPath,
        *,
        fast: bool = True,
        record: Callable[..., None] | None = None,
    ) -> None:
        self._port = port
        self._scheduler = scheduler
        self._path = path
        self._moves: Any = _fast if fast else plain
        self._record = record
        self._event: Event | None = None
        self._job = Job(0)
        self._way = port.way()
        self._ended: Callable[[Ending], None] = lambda _: None
        self.done = 0
        self._zeros_until = 0  # bytes before this one are read as zero: RAZ

    @property
    def busy(self) -> bool:
        """True from the start of a job to its end."""
        return self._event is not None

    @property
    def job(self) -> Job:
        """The job under way, or the last one."""
        return self._job

    def start(self, job: Job, ended: Callable[[Ending], None]) -> None:
        """Begin `job`; `ended` is called once, at the scheduler event at which it ends."""
        assert not self.busy, "an engine has one transfer at a time"
        self._job, self._ended, self.done, self._zeros_until = job, ended, 0, 0
        self._event = self._scheduler.after(self._path.setup_ps, self._advance)

    def cancel(self) -> None:
        """Stop; bytes moved so far stay where they are, and `ended` is not called."""
        if self._event is not None:
            self._event.cancel()
            self._event = None

    def _advance(self) -> None:
        """Move the next chunk, then wait for as long as it takes."""
        moved = self._move(min(CHUNK_BYTES, self._job.length - self.done))
        self.done += moved.done
        spent = self._path.data_ps(moved.done) + moved.cost_ps
        if moved.code:
            self._event = self._scheduler.after(spent, lambda: self._stopped(moved))
        elif self.done < self._job.length:
            self._event = self._scheduler.after(spent, self._advance)
        else:
            sides = (self._job.source is not None) + (self._job.destination is not None)
            latency = sides * int(self._port.arrays.timing[T_MEMORY_LATENCY])
            self._event = self._scheduler.after(spent + latency, self._finish)

    def _finish(self, refusal: Refusal | None = None) -> None:
        self._event = None
        if self._record is not None:
            self._record(
                time_ps=self._scheduler.now_ps,
                kind="dma.done" if refusal is None else "dma.refused",
                source=self._job.source,
                destination=self._job.destination,
                bytes=self.done,
                reason=None if refusal is None else refusal.describe(),
            )
        self._ended(Ending(self.done, refusal))

    def _stopped(self, moved: Moved) -> None:
        """An access was refused: have it recorded, then end the transfer or go on as RAZ/WI."""
        reading = moved.side == SIDE_SOURCE
        address = self._job.source_at(self.done) if reading else self._job.destination_at(self.done)
        access = ACCESS_READ if reading else ACCESS_WRITE
        side: Literal["read", "write"] = "read" if reading else "write"
        if moved.code == NO_MEMORY:
            fault = self._port.no_memory(address, access, moved.level, self._way)
            self._finish(Refusal(side, address, "DECERR", fault))
            return
        code = 0 if moved.code == NO_ROUTE else moved.code
        fault = self._port.refused(address, access, code, moved.level, self._way)
        if fault.aborts:
            self._finish(Refusal(side, address, "SLVERR", fault))
            return
        within_burst = min(self._to_border(), self._job.length - self.done)
        if reading and self._job.destination is not None:
            self._zeros_until = self.done + within_burst
        else:
            self.done += within_burst
        self._advance()

    def _to_border(self) -> int:
        """Bytes to the nearest 4 KiB border of a side whose address advances."""
        job = self._job
        addresses = [0]
        if job.source is not None and not job.source_fixed:
            addresses.append(job.source_at(self.done))
        if job.destination is not None and not job.destination_fixed:
            addresses.append(job.destination_at(self.done))
        return min(BURST_BORDER - address % BURST_BORDER for address in addresses)

    def _move(self, n: int) -> Moved:
        """Move up to `n` bytes from where the job stands, as far as they are accepted."""
        job, done, arrays = self._job, self.done, self._port.arrays
        way = self._way = self._port.way()
        if n == 0:
            return Moved(0, SIDE_NONE, 0, 0, 0)
        if not way.open:
            side = SIDE_DESTINATION if job.source is None or done < self._zeros_until else SIDE_SOURCE
            return Moved(0, side, NO_ROUTE, 0, 0)
        lane, cb = way.lane, way.cb
        if job.destination is None:
            fixed = min(n, self._path.width_bytes) if job.source_fixed else n
            moved = _moved(self._moves.read_translated(arrays, lane, cb, job.source_at(done), fixed))
            return moved if moved.code else moved._replace(done=n)
        if job.source is None or done < self._zeros_until:
            return self._fill(lane, cb, n)
        if job.source_fixed or job.destination_fixed:
            src, dst = job.source_at(done), job.destination_at(done)
            steps = (0 if job.source_fixed else 1, 0 if job.destination_fixed else 1)
            width = self._path.width_bytes
            result = self._moves.copy_beats(arrays, lane, cb, src, steps[0], dst, steps[1], n, width)
        else:
            src, dst = job.source_at(done), job.destination_at(done)
            result = self._moves.copy_translated(arrays, lane, cb, src, lane, cb, dst, n)
        return _moved(result)

    def _fill(self, lane: int, cb: int, n: int) -> Moved:
        """Write the pattern of a write-only job, or the zeros of a refused read."""
        job, done = self._job, self.done
        pattern = job.pattern if job.source is None else _ZEROS
        if done < self._zeros_until:
            n = min(n, self._zeros_until - done)
        assert pattern is not None
        written, phase = n, done
        if job.destination_fixed:  # holds the last beat in the end, and every beat is the same
            written, phase = min(n, self._path.width_bytes), 0
        address = job.destination_at(done)
        moved = _moved(
            self._moves.fill_translated(self._port.arrays, lane, cb, address, written, pattern, phase)
        )
        return moved if moved.code else moved._replace(done=n)
