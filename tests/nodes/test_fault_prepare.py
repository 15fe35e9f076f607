"""Touching and pinning beforehand: what it costs, and what it keeps from happening."""

from __future__ import annotations

import pytest

from unimem_node.kernel.timing import KernelTiming
from unimem_node.mpsoc.node import Node

PAGE = 4096
TIMING = KernelTiming()
CALL, TOUCH, PRESENT, MAJOR = (
    TIMING.call_ps,
    TIMING.touch_page_ps,
    TIMING.present_page_ps,
    TIMING.major_page_ps,
)


@pytest.fixture
def node() -> Node:
    node = Node("n0", 0, memory_bytes=64 << 20)
    node.open_domain(5)
    return node


def lazy(node: Node, pages: int, rights: int = 3) -> int:
    return node.kernel.process(5).map(pages * PAGE, rights=rights, lazy=True)


def test_a_page_is_touched_once(node: Node) -> None:
    va = lazy(node, 8)
    assert node.prepare(5, va + 100, 2 * PAGE) == CALL + 3 * TOUCH  # three pages have a byte of it
    assert node.prepare(5, va, 4 * PAGE) == CALL + TOUCH + 3 * PRESENT
    assert node.now_ps == Node("n1", 1, memory_bytes=64 << 20).now_ps, "no time has passed"


def test_a_page_in_swap_costs_reading_it(node: Node) -> None:
    va = lazy(node, 2)
    process = node.kernel.process(5)
    process.write(va, b"first")
    process.madvise(va, PAGE, "PAGEOUT")
    assert node.prepare(5, va, 2 * PAGE) == CALL + 2 * TOUCH + MAJOR
    assert process.read(va, 5) == b"first"


def test_a_pinned_page_stays_and_a_released_one_may_go(node: Node) -> None:
    va = lazy(node, 4)
    process = node.kernel.process(5)
    pinned = CALL + 4 * TOUCH + 4 * TIMING.pin_page_ps
    assert node.prepare(5, va, 4 * PAGE, "pin") == pinned
    process.madvise(va, 4 * PAGE, "PAGEOUT")
    assert node.kernel.paging.survey(process, va, 4 * PAGE, True).minor == 0
    assert node.prepare(5, va, 4 * PAGE) == CALL + 4 * PRESENT
    assert node.release(5, va, 4 * PAGE) == CALL + 4 * TIMING.unpin_page_ps
    process.madvise(va, 4 * PAGE, "PAGEOUT")
    assert node.prepare(5, va, 4 * PAGE) > CALL + 4 * PRESENT
    with pytest.raises(ValueError, match="pin"):
        node.release(5, va, PAGE)


def test_what_cannot_be_prepared_is_refused_with_nothing_changed(node: Node) -> None:
    va = lazy(node, 4)
    readable = lazy(node, 1, rights=1)
    process = node.kernel.process(5)
    for how in ("prefault", "pin"):
        with pytest.raises(ValueError, match=rf"process 5: cannot {how} 0x.* it may not be written"):
            node.prepare(5, va + 3 * PAGE, 1 << 30, how)
        with pytest.raises(ValueError, match="may not be written"):
            node.prepare(5, readable, PAGE, how)
        with pytest.raises(ValueError, match=f"cannot {how} 0 bytes"):
            node.prepare(5, va, 0, how)
    assert node.kernel.paging.survey(process, va, 4 * PAGE, True).minor == 4
    assert node.prepare(5, readable, PAGE, write=False) == CALL + TOUCH
    with pytest.raises(ValueError, match="by prefault or pin, not by 'hope'"):
        node.prepare(5, va, PAGE, "hope")
    with pytest.raises(ValueError, match="cannot unpin -1 bytes"):
        node.release(5, va, -1)
    with pytest.raises(ValueError, match="has no process"):
        node.prepare(6, va, PAGE)


def test_memory_that_does_not_suffice(node: Node) -> None:
    va = lazy(node, 1 << 16)  # four times what there is
    with pytest.raises(MemoryError):
        node.prepare(5, va, PAGE << 16, "pin")
    process = node.kernel.process(5)
    assert not process.pins
