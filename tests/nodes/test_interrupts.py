from __future__ import annotations

import pytest

from unimem_node.bus.interrupts import InterruptController


def test_pending_is_what_is_high_sorted() -> None:
    gic = InterruptController()
    high, low = gic.line(155), gic.line(77)
    high.set(True)
    low.set(True)
    assert gic.pending() == [77, 155]
    high.set(False)
    assert gic.pending() == [77]


def test_a_shared_interrupt_is_high_while_any_line_is() -> None:
    gic = InterruptController()
    seen: list[tuple[int, bool]] = []
    gic.subscribe(lambda spi, level: seen.append((spi, level)))
    one, two = gic.line(155), gic.line(155)
    one.set(True)
    two.set(True)
    one.set(False)
    assert gic.pending() == [155]
    two.set(False)
    assert gic.pending() == []
    assert seen == [(155, True), (155, False)]


def test_setting_a_level_again_changes_nothing() -> None:
    gic = InterruptController()
    taken: list[int] = []
    gic.connect_cpu(taken.append)
    line = gic.line(1)
    line.set(True)
    line.set(True)
    assert taken == [1]
    line.set(False)
    line.set(False)
    line.set(True)
    assert taken == [1, 1]


def test_what_rises_in_a_handler_is_taken_after_it() -> None:
    gic = InterruptController()
    lines = {spi: gic.line(spi) for spi in (1, 2, 3)}
    trace: list[str] = []

    def handler(spi: int) -> None:
        trace.append(f"enter {spi}")
        if spi == 1:
            lines[3].set(True)
            lines[2].set(True)
        lines[spi].set(False)
        trace.append(f"leave {spi}")

    gic.connect_cpu(handler)
    lines[1].set(True)
    assert trace == ["enter 1", "leave 1", "enter 3", "leave 3", "enter 2", "leave 2"]
    assert gic.pending() == []


def test_what_fell_before_it_could_be_taken_is_not() -> None:
    gic = InterruptController()
    one, two = gic.line(1), gic.line(2)
    taken: list[int] = []

    def handler(spi: int) -> None:
        taken.append(spi)
        two.set(True)
        two.set(False)

    gic.connect_cpu(handler)
    one.set(True)
    assert taken == [1]


def test_a_cpu_that_connects_takes_what_is_asserted() -> None:
    gic = InterruptController()
    gic.line(9).set(True)
    gic.line(4).set(True)
    taken: list[int] = []
    gic.connect_cpu(taken.append)
    assert taken == [4, 9]


def test_a_handler_that_raises_does_not_block_the_next_interrupt() -> None:
    gic = InterruptController()
    taken: list[int] = []

    def handler(spi: int) -> None:
        taken.append(spi)
        if spi == 1:
            raise RuntimeError("driver bug")

    gic.connect_cpu(handler)
    with pytest.raises(RuntimeError, match="driver bug"):
        gic.line(1).set(True)
    gic.line(2).set(True)
    assert taken == [1, 2]


def test_observers_hear_it_before_the_cpu() -> None:
    gic = InterruptController()
    order: list[str] = []
    gic.subscribe(lambda spi, level: order.append("observer"))
    gic.connect_cpu(lambda spi: order.append("cpu"))
    gic.line(5).set(True)
    assert order == ["observer", "cpu"]


@pytest.mark.parametrize("spi", [-1, 988])
def test_numbers_a_gic_does_not_have_are_refused(spi: int) -> None:
    with pytest.raises(ValueError, match=f"SPI {spi}"):
        InterruptController().line(spi)


def test_an_observer_that_has_left_hears_nothing() -> None:
    gic = InterruptController()
    one: list[bool] = []
    two: list[bool] = []
    leave = gic.subscribe(lambda spi, level: one.append(level))
    gic.subscribe(lambda spi, level: two.append(level))
    line = gic.line(5)
    line.set(True)
    leave()
    line.set(False)
    assert (one, two) == ([True], [True, False])


def test_an_observer_may_leave_while_it_is_told() -> None:
    gic = InterruptController()
    heard: list[str] = []

    def once(spi: int, level: bool) -> None:
        heard.append("once")
        leave()

    leave = gic.subscribe(once)
    gic.subscribe(lambda spi, level: heard.append("always"))
    line = gic.line(5)
    line.set(True)
    line.set(False)
    assert heard == ["once", "always", "always"]
