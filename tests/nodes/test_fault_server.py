"""The CPU that handles faults: what waits for what, to the picosecond."""

from __future__ import annotations

from collections.abc import Iterator

import pytest

from unimem_node.clock import Scheduler
from unimem_node.kernel.fault_server import FaultServer
from unimem_node.kernel.timing import KernelTiming

#: Numbers that cannot be mistaken for each other's sums.
TIMING = KernelTiming(irq_ps=1, handler_ps=20, queue_ps=300)


class Log:
    """A server, and pieces of work that note when they come to which step."""

    def __init__(self, timing: KernelTiming = TIMING) -> None:
        self.scheduler = Scheduler()
        self.server = FaultServer(timing, self.scheduler, lambda: self.scheduler.now_ps)
        self.lines: list[tuple[int, str]] = []

    def work(self, name: str, *steps: int) -> Iterator[int]:
        for number, duration in enumerate(steps):
            self.lines.append((self.scheduler.now_ps, f"{name}{number}"))
            yield duration
        self.lines.append((self.scheduler.now_ps, f"{name} done"))

    def fault(self, name: str, *steps: int) -> None:
        self.server.interrupt()
        self.server.submit(self.work(name, *steps))

    def at(self, time_ps: int, name: str, *steps: int) -> None:
        self.scheduler.at(time_ps, lambda: self.fault(name, *steps))


def test_one_fault_takes_interrupt_handler_wake_up_and_its_steps() -> None:
    log = Log()
    log.at(1000, "a", 4000, 50_000)
    log.scheduler.run()
    assert log.lines == [(1321, "a0"), (5321, "a1"), (55_321, "a done")]
    assert log.server.busy_ps == 20 + 54_000
    assert log.server.idle


def test_faults_are_served_in_order_and_the_thread_wakes_up_once() -> None:
    log = Log()
    log.at(0, "a", 1000)
    log.at(0, "b", 1000)
    log.scheduler.run()
    # Both handlers run before the thread: 1 + 20 + 20; it was asked to run after the first.
    assert log.lines == [(321, "a0"), (1321, "a done"), (1321, "b0"), (2321, "b done")]


def test_a_handler_takes_its_time_from_the_thread() -> None:
    log = Log()
    log.at(0, "a", 1000)
    log.at(500, "b", 1000)
    log.scheduler.run()
    assert log.lines == [(321, "a0"), (1341, "a done"), (1341, "b0"), (2341, "b done")]


def test_the_thread_sleeps_and_wakes_up_again() -> None:
    log = Log()
    log.at(0, "a", 10)
    log.at(10_000, "b", 10)
    log.scheduler.run()
    assert log.lines == [(321, "a0"), (331, "a done"), (10_321, "b0"), (10_331, "b done")]


def test_a_handler_waits_for_the_one_before() -> None:
    log = Log()
    ends = [log.server.interrupt() for _ in range(3)]
    assert ends == [21, 41, 61]


def test_a_clock_ahead_of_the_schedulers_counts() -> None:
    scheduler = Scheduler()
    server = FaultServer(TIMING, scheduler, lambda: 7000)
    times: list[int] = []

    def work() -> Iterator[int]:
        times.append(scheduler.now_ps)
        yield 0

    server.interrupt()
    server.submit(work())
    scheduler.run()
    assert times == [7321]


def test_a_server_that_is_stopped_does_nothing_more() -> None:
    log = Log()
    log.at(0, "a", 1000, 1000)
    log.at(0, "b", 1000)
    log.scheduler.run(until_ps=400)
    log.server.stop()
    log.fault("c", 1000)
    log.scheduler.run()
    assert log.lines == [(321, "a0")]


def test_timing_that_cannot_be_is_refused() -> None:
    with pytest.raises(ValueError, match=r"kernel.irq_ps = -1: at least 0"):
        KernelTiming(irq_ps=-1)
    with pytest.raises(ValueError, match=r"kernel.notify_pages = 0: at least 1"):
        KernelTiming(notify_pages=0)


def test_pages_cost_what_they_need() -> None:
    timing = KernelTiming(touch_page_ps=10, present_page_ps=1, major_page_ps=1000)
    assert timing.pages_ps(3, 2, 5) == 50 + 2000 + 5
