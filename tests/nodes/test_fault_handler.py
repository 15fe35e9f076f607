"""What is decided on a fault, and who is told what when: the handler alone, among fakes of its neighbours."""

from __future__ import annotations

from itertools import pairwise
from types import SimpleNamespace
from typing import Any, NamedTuple, cast

import pytest

from unimem_node.clock import Scheduler
from unimem_node.kernel.areas import Area, Areas
from unimem_node.kernel.fault_handler import FaultHandler
from unimem_node.kernel.fault_policy import FaultPolicy
from unimem_node.kernel.faults import FaultReport
from unimem_node.kernel.frames import Extent
from unimem_node.kernel.processes import READ, READ_WRITE, Process
from unimem_node.kernel.timing import KernelTiming

PAGE = 4096
VA = 0x4000_0000
NI, DMA = 0x210, 0x14E8
TRANSLATION, ACCESS_FLAG, PERMISSION, EXTERNAL = (1 << bit for bit in (1, 2, 3, 4))
EVERYWHERE = (0, 1 << 48)
TIMING = KernelTiming(
    irq_ps=10,
    handler_ps=20,
    queue_ps=300,
    resolve_ps=1000,
    touch_page_ps=100_000,
    present_page_ps=1,
    major_page_ps=10_000_000,
    notify_ps=5,
    notify_pages=4,
    refuse_ps=50_000_000,
    progress_ps=1_000_000,
    progress_rounds=3,
)
#: A minor fault of one page, alone: from the interrupt to the interface being told.
MINOR = 10 + 20 + 300 + 1000 + 100_000 + 5


class Touched(NamedTuple):
    minor: int
    major: int
    gone_at: int | None


class Board:
    """A handler, a process with areas, and everybody it talks to."""

    def __init__(self, policy: str = "touch_a_page", timing: KernelTiming = TIMING) -> None:
        self.scheduler = Scheduler()
        self.areas = Areas()
        self.areas.add(Area(VA, 32 * PAGE, READ_WRITE, (Extent(0, 32 * PAGE),), owned=True))
        self.areas.add(Area(VA + 64 * PAGE, PAGE, READ, (Extent(0, PAGE),), owned=True))
        self.process = cast("Process", SimpleNamespace(pdid=7, asid=3, areas=self.areas))
        self.present: set[int] = set()
        self.swapped: set[int] = set()
        self.frames = 1000
        self.told: list[tuple[int, str, Any]] = []
        self.handler = FaultHandler(
            timing,
            self.scheduler,
            lambda: self.scheduler.now_ps,
            find={3: self.process}.get,
            pager=self,
            smmu=self,
            ni=self,
        )
        self.handler.policy = FaultPolicy.parse(policy)
        self._reports = 0

    def note(self, what: str, detail: Any = None) -> None:
        self.told.append((self.scheduler.now_ps, what, detail))

    # ---- paging

    def survey(self, process: Process, va: int, length: int, write: bool) -> Touched:
        pages = range(va, va + length, PAGE)
        areas = self.areas.overlapping(va, length)
        gone = next((p for p in pages if not any(a.start <= p < a.end for a in areas)), None)
        absent = [p for p in pages if (gone is None or p < gone) and p not in self.present]
        major = sum(p in self.swapped for p in absent)
        return Touched(len(absent) - major, major, gone)

    def touch(self, process: Process, va: int, length: int, write: bool) -> Touched:
        touched = self.survey(process, va, length, write)
        if touched.minor + touched.major > self.frames:
            raise MemoryError
        self.frames -= touched.minor + touched.major
        end = va + length if touched.gone_at is None else touched.gone_at
        self.present.update(range(va, end, PAGE))
        self.note("touch", (va - VA) // PAGE)
        return touched

    # ---- network interface, SMMU

    def owns(self, stream_id: int) -> bool:
        return stream_id == NI

    def pending(self) -> None:
        self.note("pending")

    def refuse(self) -> None:
        self.note("refuse")

    def resolved(self, pdid: int, pages: range) -> None:
        assert pdid == 7
        everywhere = (pages.start, pages.stop) == EVERYWHERE
        first, last = (pages.start - VA) // PAGE, (pages.stop - VA) // PAGE
        self.note("resolved", "all" if everywhere else (first, last))

    def resume(self, asid: int, *, retry: bool) -> None:
        assert asid == 3
        self.note("resume", retry)

    # ---- faults

    def fault(
        self,
        page: int,
        access: str = "write",
        *,
        stream: int = NI,
        fsr: int = TRANSLATION,
        asid: int | None = 3,
        multiple: bool = False,
        stalled: bool = False,
        stage: int = 1,
    ) -> bool:
        """An access to page number `page`, counted from VA, faults now; returns whether it stays held."""
        self._reports += 1
        return self.handler.faulted(
            FaultReport(
                kind="",
                access=access,
                iova=VA + page * PAGE + 8,
                stream_id=stream,
                context_bank=0,
                stage=stage,
                level=3,
                privileged=False,
                multiple=multiple,
                fsr=fsr,
                fsynr0=0,
                number=self._reports,
                time_ps=self.scheduler.now_ps,
                asid=asid,
                pdid=None if asid is None else 7,
                stalled=stalled,
            )
        )

    def outcomes(self) -> list[str]:
        return [event.outcome for event in self.handler.log]

    def run(self) -> list[tuple[int, str, Any]]:
        """Let everything happen; returns what was told since the last call."""
        self.scheduler.run()
        told, self.told = self.told, []
        return told


def test_a_minor_fault_is_pending_then_touched_then_told() -> None:
    board = Board()
    assert board.fault(2)
    assert board.run() == [(0, "pending", None), (MINOR, "touch", 2), (MINOR, "resolved", (2, 3))]
    (event,) = board.handler.log
    assert (event.outcome, event.kind, event.minor, event.major) == ("resolved", "minor", 1, 0)
    assert (event.time_ps, event.resolved_ps, event.policy) == (0, MINOR, "touch_a_page")
    assert (event.pdid, event.va, event.access) == (7, VA + 2 * PAGE + 8, "write")
    assert event.text == (
        "process 7: write of 0x4000_2008 faulted, touch_a_page: "
        "resolved (minor; 1 minor, 0 major) after 0.1 µs"
    )
    assert board.handler.idle


def test_a_major_fault_takes_as_much_longer_as_reading_the_page() -> None:
    board = Board()
    board.swapped.add(VA)
    board.fault(0)
    assert board.run()[-1] == (MINOR + 10_000_000, "resolved", (0, 1))
    assert board.handler.log[0].kind == "major"


def test_a_page_that_is_there_by_now_is_told_of_at_once() -> None:
    board = Board()
    board.present.add(VA)
    board.fault(0, "read")
    assert board.run()[-1] == (10 + 20 + 300 + 1000 + 1 + 5, "resolved", (0, 1))
    assert board.handler.log[0].kind == "spurious"


@pytest.mark.parametrize("policy", ["touch_a_page", "touch_ahead:8", "prefault", "pin", "stall"])
def test_what_is_gone_or_forbidden_is_refused_in_the_handler(policy: str) -> None:
    board = Board(policy)
    stalled = policy == "stall"
    assert not board.fault(32, stalled=stalled)  # behind the area
    assert not board.fault(64, "write", stalled=stalled)  # read-only
    assert not board.fault(0, fsr=EXTERNAL, stalled=stalled)
    assert not board.fault(0, stage=2, stalled=stalled)
    assert board.run() == [(0, "refuse", None)] * 4
    assert board.outcomes() == ["gone", "denied", "unsuited", "unsuited"]
    assert board.fault(64, "read", stalled=stalled)


@pytest.mark.parametrize("kind", [TRANSLATION, ACCESS_FLAG, PERMISSION])
def test_kinds_of_fault_that_a_page_may_cure(kind: int) -> None:
    board = Board()
    assert board.fault(0, fsr=kind | 0x400)
    board.run()
    assert board.outcomes() == ["resolved"]


def test_abort_tells_nobody_and_touches_nothing() -> None:
    board = Board("abort")
    assert not board.fault(0)
    assert board.run() == []
    assert board.outcomes() == ["aborted"]


def test_an_engine_that_cannot_wait_is_not_waited_for() -> None:
    board = Board()
    assert not board.fault(0, stream=DMA)
    assert not board.fault(0, asid=None)
    assert board.run() == []
    assert board.outcomes() == ["aborted"]


def test_touch_ahead_tells_of_each_block_when_it_is_there() -> None:
    board = Board("touch_ahead:10")
    board.present.add(VA + 5 * PAGE)
    board.fault(1)
    first = 10 + 20 + 300 + 1000 + 4 * 100_000 + 5
    second = first + 3 * 100_000 + 1 + 5
    third = second + 2 * 100_000 + 5
    assert board.run() == [
        (0, "pending", None),
        (first, "touch", 1),
        (first, "resolved", (1, 5)),
        (second, "touch", 5),
        (second, "resolved", (5, 9)),
        (third, "touch", 9),
        (third, "resolved", (9, 11)),
    ]
    (event,) = board.handler.log
    assert (event.minor, event.resolved_ps) == (9, first)


def test_touch_ahead_ends_with_its_area() -> None:
    board = Board("touch_ahead:1000")
    board.fault(29)
    assert board.run()[-1][1:] == ("resolved", (29, 32))
    assert board.handler.log[0].minor == 3


def test_faults_of_pages_that_are_waited_for_need_nothing_of_their_own() -> None:
    board = Board("touch_ahead:8")
    board.fault(0)
    board.fault(0, "read")
    board.fault(5)
    board.scheduler.at(500_000, lambda: board.fault(6))  # the first block is there, this one not yet
    told = board.run()
    assert [line[1] for line in told].count("pending") == 4
    assert [line[2] for line in told if line[1] == "resolved"] == [(0, 4), (4, 8)]
    (event,) = board.handler.log
    assert event.duplicates == 3
    assert board.handler.counters()["kernel_fault_duplicates"] == 3


def test_a_read_that_waits_is_made_a_write_if_one_comes() -> None:
    board = Board()
    writes: list[bool] = []
    touch = board.touch
    board.touch = lambda p, va, n, write: (writes.append(write), touch(p, va, n, write))[1]  # type: ignore[method-assign]
    board.fault(0, "read")
    board.fault(0, "write")
    board.run()
    assert writes == [True]


def test_a_storm_is_served_in_order_one_after_the_other() -> None:
    board = Board()
    for page in range(20):
        board.fault(page)
    told = [line for line in board.run() if line[1] == "resolved"]
    assert [line[2][0] for line in told] == list(range(20))
    assert {b[0] - a[0] for a, b in pairwise(told)} == {1000 + 100_000 + 5}
    assert board.outcomes() == ["resolved"] * 20


def test_accesses_without_a_record_are_called_with_the_recorded_one() -> None:
    board = Board()
    board.fault(1, multiple=True)
    assert board.run()[-1][1:] == ("resolved", "all")
    assert board.handler.counters()["kernel_fault_lost"] == 1


def test_a_page_that_memory_does_not_suffice_for_is_called_and_refused() -> None:
    board = Board()
    board.frames = 0
    assert board.fault(3)
    assert board.run()[-1][1:] == ("resolved", (3, 4))
    assert board.outcomes() == ["out_of_memory"]
    assert not board.fault(3)
    assert [line[1] for line in board.run()] == ["refuse"]
    board.frames = 1
    board.scheduler.advance_to(board.scheduler.now_ps + 50_000_000)  # refuse_ps later it is tried again
    assert board.fault(3)
    board.run()
    assert board.outcomes() == ["out_of_memory", "out_of_memory", "resolved"]


def test_touching_ahead_stops_where_memory_does() -> None:
    board = Board("touch_ahead:16")
    board.frames = 5
    board.fault(0)
    assert [line[2] for line in board.run() if line[1] == "resolved"] == [(0, 4)]
    assert board.outcomes() == ["resolved"]
    board.frames = 2
    board.fault(8)  # not even its block fits
    assert [line[2] for line in board.run() if line[1] == "resolved"] == [(8, 9)]
    assert board.outcomes() == ["resolved", "resolved"]


def test_an_area_that_goes_while_its_fault_is_queued() -> None:
    board = Board()
    board.fault(3)
    board.areas.remove(VA, 32 * PAGE)
    assert [line[1:] for line in board.run()][-1] == ("resolved", (3, 4))
    assert board.outcomes() == ["gone"]
    assert not board.fault(3)
    assert board.run()[-1][1] == "refuse"


def test_a_page_that_is_resolved_again_and_again_makes_no_progress() -> None:
    board = Board()
    for _ in range(3):
        assert board.fault(0)
        board.run()
        board.present.clear()  # whatever takes it away
    assert [event.rounds for event in board.handler.log] == [1, 2, 3]
    assert not board.fault(0)
    assert board.run()[-1][1] == "refuse"
    assert board.outcomes() == ["resolved"] * 3 + ["no_progress"]
    assert board.fault(1)  # another page is another matter
    board.run()
    board.scheduler.advance_to(board.scheduler.now_ps + 1_000_000)
    assert board.fault(0)
    board.run()
    assert board.handler.log[-1].rounds == 1


# ---- stalled accesses


def test_a_stalled_access_is_held_and_resumed() -> None:
    board = Board("stall")
    assert board.fault(0, stalled=True)
    assert board.run() == [
        (0, "pending", None),
        (MINOR, "touch", 0),
        (MINOR, "resume", True),
        (MINOR, "resolved", (0, 1)),
    ]
    assert board.handler.log[0].stalled


def test_a_stalled_engine_that_is_not_the_interface_is_resumed_too() -> None:
    board = Board("stall")
    assert board.fault(0, stream=DMA, stalled=True)
    assert [line[1] for line in board.run()] == ["touch", "resume", "resolved"]


def test_a_stalled_access_ends_when_its_page_cannot_be_had() -> None:
    board = Board("stall")
    board.frames = 0
    assert board.fault(0, stalled=True)
    assert [line[1:] for line in board.run()] == [
        ("pending", None),
        ("resume", False),
        ("resolved", (0, 1)),
    ]


def test_a_stalled_access_to_a_page_that_is_waited_for_goes_on_with_it() -> None:
    board = Board()
    board.fault(0)
    board.handler.policy = FaultPolicy.parse("stall")
    assert board.fault(0, stalled=True)
    assert [line[1] for line in board.run()] == ["pending", "pending", "touch", "resume", "resolved"]


def test_a_process_that_ends_takes_its_faults_along() -> None:
    board = Board("touch_ahead:8")
    ended: list[str] = []
    board.handler.on_event = lambda event: ended.append(event.outcome)
    board.fault(0)
    board.fault(16)
    board.scheduler.run(until_ps=500_000)  # the first block of the first fault is there
    assert board.present == {VA, VA + PAGE, VA + 2 * PAGE, VA + 3 * PAGE}
    board.handler.forget(board.process)
    assert board.run()[-1][1:] == ("resolved", "all")
    assert board.outcomes() == ended == ["dropped", "dropped"]
    assert len(board.present) == 4
    assert board.handler.idle
