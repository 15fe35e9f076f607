"""Page faults of DMA: from the SMMU driver's report to the access that is made again, or refused.

In the interrupt handler it is decided what the network interface, or the SMMU, is told: that the access may
come again (PENDING; a stalled one stays held), or that it may not (REFUSE; a stalled one is terminated). What
is not mapped, or forbids the access, is refused there and then. The rest is queued for the thread that makes
pages present (`FaultServer`), which then tells the interface (RESOLVED registers) or the SMMU (RESUME).

Between PENDING and RESOLVED further faults of the same pages need nothing of their own. Of accesses that left
no record (FSR.MULTI) nobody knows the address: when the recorded one is resolved, all accesses of its process
are called again. A page that cannot be had after all is called again too, and then refused in the handler.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Iterable, Iterator
from typing import Any, Final, Protocol

from unimem.addresses import align_down
from unimem_node.clock import Scheduler
from unimem_node.kernel.areas import Area
from unimem_node.kernel.fault_events import FaultEvent
from unimem_node.kernel.fault_policy import FaultPolicy
from unimem_node.kernel.fault_server import FaultServer
from unimem_node.kernel.faults import FaultReport
from unimem_node.kernel.frames import PAGE
from unimem_node.kernel.processes import WRITE, Process
from unimem_node.kernel.rdma_driver import EVERYWHERE
from unimem_node.kernel.timing import KernelTiming

#: Events that are kept.
KEPT_EVENTS: Final = 10_000
#: Pages whose past is remembered (rounds, refusals); beyond it what is old enough is forgotten.
_REMEMBERED: Final = 4096
#: Kinds of fault (bits of FSR) that a page may cure: translation, access flag, permission.
_CURABLE: Final = 1 << 1 | 1 << 2 | 1 << 3
#: An ASID and a page.
_Key = tuple[int, int]


class Touched(Protocol):
    """What touching pages did: how many were made present, and where the mapping ends (`gone_at`)."""

    @property
    def minor(self) -> int:
        """Pages that needed no reading."""

    @property
    def major(self) -> int:
        """Pages read from swap or a file."""

    @property
    def gone_at(self) -> int | None:
        """The first address that is not mapped, or may not be accessed so."""


class Pager(Protocol):
    """The part of paging that faults need."""

    def survey(self, process: Process, va: int, length: int, write: bool) -> Touched:
        """Say what `touch` would do, and do nothing."""

    def touch(self, process: Process, va: int, length: int, write: bool) -> Touched:
        """Make pages present; raises `MemoryError`."""


class Masters(Protocol):
    """What has to be told: the network interface."""

    def owns(self, stream_id: int) -> bool:
        """Whether a stream is the interface's."""

    def pending(self) -> None:
        """The access that was refused last may come again."""

    def refuse(self) -> None:
        """It may not."""

    def resolved(self, pdid: int, pages: range) -> None:
        """Accesses of `pages` that wait may come again."""


class Stalls(Protocol):
    """What has to be told: the SMMU driver."""

    def resume(self, asid: int, *, retry: bool) -> None:
        """Let the access that is stalled in the bank of `asid` try again, or end."""


class _Work:
    """Pages of one process to make present: ``[at, end)`` is left. `page` faulted."""

    __slots__ = ("at", "end", "event", "page", "process", "stalled", "write")

    def __init__(self, process: Process, page: int, end: int, write: bool, event: FaultEvent) -> None:
        self.process = process
        self.page = self.at = page
        self.end = end
        self.write = write
        self.stalled = event.stalled
        self.event = event


class FaultHandler:
    """Decides on faults by `policy` and has them resolved. `find` tells the process with an ASID."""

    def __init__(
        self,
        timing: KernelTiming,
        scheduler: Scheduler,
        now: Callable[[], int],
        *,
        find: Callable[[int], Process | None],
        pager: Pager,
        smmu: Stalls,
        ni: Masters | None,
    ) -> None:
        self.policy = FaultPolicy()
        self.log: deque[FaultEvent] = deque(maxlen=KEPT_EVENTS)
        #: Called with each event when its outcome is known.
        self.on_event: Callable[[FaultEvent], None] | None = None
        self.server = FaultServer(timing, scheduler, now)
        self._timing = timing
        self._now = now
        self._find = find
        self._pager = pager
        self._smmu = smmu
        self._ni = ni
        self._work: list[_Work] = []  # queued or being done
        self._rounds: dict[_Key, tuple[int, int]] = {}  # when resolved last, how often in a row
        self._refused: dict[_Key, tuple[int, str]] = {}  # until when, why
        self._counts = dict.fromkeys(_COUNTERS, 0)

    @property
    def idle(self) -> bool:
        """Whether no fault waits to be resolved."""
        return self.server.idle

    def counters(self) -> dict[str, int]:
        """Faults by outcome, pages made present, duplicates, records lost, the CPU's time."""
        return {
            **{f"kernel_fault_{name}": n for name, n in self._counts.items()},
            "kernel_fault_busy_ps": self.server.busy_ps,
        }

    # ---- in the interrupt handler

    def faulted(self, report: FaultReport) -> bool:
        """Decide on a fault; returns whether a stalled access stays held."""
        self.server.interrupt()
        process = self._find(report.asid) if report.asid is not None else None
        if process is None or report.pdid is None:
            return False
        event = FaultEvent(
            number=report.number,
            time_ps=report.time_ps,
            pdid=report.pdid,
            va=report.iova,
            access=report.access,
            policy=str(self.policy),
            lost=report.multiple,
            stalled=report.stalled,
        )
        from_ni = self._ni is not None and self._ni.owns(report.stream_id)
        if not (report.stalled or (from_ni and self.policy.resolves)):
            self.log.append(event)
            self._end(event, "aborted")
            return False
        page = align_down(report.iova, PAGE)
        area, why = self._area(process, page, report)
        if area is None:
            self.log.append(event)
            self._end(event, why)
            if from_ni and self._ni is not None:
                self._ni.refuse()
            return False
        if from_ni and self._ni is not None:
            self._ni.pending()
        self._queue(process, page, area, event)
        return True

    def _area(self, process: Process, page: int, report: FaultReport) -> tuple[Area | None, str]:
        """The area that a fault is in, if a page could cure it; otherwise why not."""
        if not report.fsr & _CURABLE or report.stage != 1:
            return None, "unsuited"
        until, why = self._refused.get((process.asid, page), (-1, ""))
        if self._now() < until:
            return None, why
        areas = process.areas.overlapping(page, PAGE)
        if not areas:
            return None, "gone"
        if report.access == "write" and not areas[0].rights & WRITE:
            return None, "denied"
        last, rounds = self._rounds.get((process.asid, page), (0, 0))
        if rounds >= self._timing.progress_rounds and self._now() < last + self._timing.progress_ps:
            return None, "no_progress"
        return areas[0], ""

    def _queue(self, process: Process, page: int, area: Area, event: FaultEvent) -> None:
        """Have a page made present, unless that is under way."""
        write = event.access == "write"
        for work in self._work:
            if work.process is not process or not work.at <= page < work.end:
                continue
            if page == work.page or not event.stalled:
                work.event.duplicates += 1
                work.event.lost |= event.lost
                work.stalled |= event.stalled
                work.write |= write
                self._counts["duplicates"] += 1
                self._counts["lost"] += event.lost
                return
        self._counts["lost"] += event.lost
        self.log.append(event)
        end = min(page + self.policy.pages * PAGE, area.end)
        work = _Work(process, page, end, write, event)
        self._work.append(work)
        self.server.submit(self._resolve(work))

    # ---- in the thread

    def _resolve(self, work: _Work) -> Iterator[int]:
        """Make the pages of a piece of work present, some at a time."""
        timing, event = self._timing, work.event
        yield timing.resolve_ps
        step = timing.notify_pages * PAGE
        while event.outcome != "dropped" and work.at < work.end:
            length = min(step, work.end - work.at)
            if work.at == work.page:
                event.kind = _kind(self._pager.survey(work.process, work.page, PAGE, work.write))
            found = self._pager.survey(work.process, work.at, length, work.write)
            present = length // PAGE - found.minor - found.major
            yield timing.pages_ps(found.minor, found.major, max(present, 0)) + timing.notify_ps
            if event.outcome == "dropped":
                break
            try:
                touched = self._pager.touch(work.process, work.at, length, work.write)
            except MemoryError:
                if length > PAGE:  # those ahead may be too much, the one that faulted not
                    work.end = work.at + (PAGE if work.at == work.page else 0)
                    continue
                self._cannot(work, "out_of_memory")
                return
            minor, major = touched.minor - found.minor, touched.major - found.major
            if minor > 0 or major > 0:  # a huge page, say
                yield timing.pages_ps(max(minor, 0), max(major, 0), 0)
            stop = work.at + length if touched.gone_at is None else touched.gone_at
            if stop <= work.page:
                self._cannot(work, self._missing(work))
                return
            self._present(work, stop, touched)
        self._done(work)

    def _present(self, work: _Work, stop: int, touched: Touched) -> None:
        """Pages up to `stop` are present: say so."""
        event, first = work.event, work.at == work.page
        event.minor += touched.minor
        event.major += touched.major
        self._counts["minor"] += touched.minor
        self._counts["major"] += touched.major
        pages = range(work.at, stop)
        work.at = stop
        if touched.gone_at is not None:
            work.end = stop
        if first:
            event.rounds = self._round(work)
            event.resolved_ps = self._now()
            if work.stalled:
                work.stalled = False
                self._smmu.resume(work.process.asid, retry=True)
        self._call(work, pages)

    def _cannot(self, work: _Work, why: str) -> None:
        """The page that faulted cannot be had: a stalled access ends; others come again and are refused."""
        key = (work.process.asid, work.page)
        _prune(self._refused, self._now())
        self._refused[key] = (self._now() + self._timing.refuse_ps, why)
        if work.stalled:
            work.stalled = False
            self._smmu.resume(work.process.asid, retry=False)
        self._call(work, range(work.page, work.end))
        work.event.resolved_ps = self._now()
        self._work.remove(work)
        self._end(work.event, why)

    def _done(self, work: _Work) -> None:
        if work.event.outcome == "dropped":
            return
        self._work.remove(work)
        self._end(work.event, "resolved")

    def _missing(self, work: _Work) -> str:
        """Why nothing could be touched: the mapping went, or changed, while the fault was queued."""
        return "denied" if work.process.areas.overlapping(work.page, PAGE) else "gone"

    def _call(self, work: _Work, pages: range) -> None:
        """Have accesses come again that wait for `pages`, or that left no record of what they wait for."""
        if self._ni is not None and work.process.pdid:
            self._ni.resolved(work.process.pdid, EVERYWHERE if work.event.lost else pages)

    def _round(self, work: _Work) -> int:
        """Count that a page was resolved; returns how often in a row."""
        now, key = self._now(), (work.process.asid, work.page)
        _prune(self._rounds, now - self._timing.progress_ps)
        last, rounds = self._rounds.get(key, (0, 0))
        rounds = rounds + 1 if now < last + self._timing.progress_ps else 1
        self._rounds[key] = (now, rounds)
        return rounds

    def _end(self, event: FaultEvent, outcome: str) -> None:
        event.outcome = outcome
        self._counts[outcome] += 1
        if self.on_event is not None:
            self.on_event(event)

    # ---- processes end

    def forget(self, process: Process) -> None:
        """A process ends: nothing more is done for it. What is stalled in its bank ends with the bank."""
        dropped = [work for work in self._work if work.process is process]
        for work in dropped:
            self._work.remove(work)
            self._end(work.event, "dropped")
        if dropped and self._ni is not None and process.pdid:
            self._ni.resolved(process.pdid, EVERYWHERE)  # who waits is refused when it comes again
        _drop(self._rounds, [key for key in self._rounds if key[0] == process.asid])
        _drop(self._refused, [key for key in self._refused if key[0] == process.asid])


_COUNTERS: Final = (
    "resolved",
    "aborted",
    "gone",
    "denied",
    "unsuited",
    "out_of_memory",
    "no_progress",
    "dropped",
    "duplicates",
    "lost",
    "minor",
    "major",
)


def _kind(page: Touched) -> str:
    """What one page needs."""
    return "major" if page.major else "minor" if page.minor else "spurious"


def _prune(table: dict[_Key, Any], before_ps: int) -> None:
    """Forget what is over."""
    if len(table) >= _REMEMBERED:
        _drop(table, [key for key, entry in table.items() if entry[0] < before_ps])


def _drop(table: dict[_Key, Any], keys: Iterable[_Key]) -> None:
    for key in keys:
        del table[key]
