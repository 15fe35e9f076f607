"""The compiled moves and the readable ones: same bytes, same results, same counters, same TLB."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from support.bare_metal import Driver
from unimem_node import Mpsoc
from unimem_node.dma import _fast, plain
from unimem_node.dma._fast import NO_MEMORY, OUTSIDE, SIDE_DESTINATION, SIDE_SOURCE

VA = 0x40_0000_0000
PAGE = 4096
PAGES = 6
FRAMES = 0x10_0000
TBU = 5
END = 4 << 20  # of memory
NOWHERE = 0x7_0000_0000


class Board:
    """A chip whose context bank 0 translates `PAGES` pages from VA on, remapped for each example."""

    def __init__(self) -> None:
        self.soc = Mpsoc(memory_bytes=END, pl_masters=[])
        self.driver = Driver(self.soc, heap=0x20_0000)
        self.driver.bring_up()
        self.root = self.driver.new_table()
        self.driver.map(self.root, VA, FRAMES, pages=PAGES)
        self.driver.set_bank(0, self.root)
        self.driver.route(0, 0x14E8, 0)

    def arrange(self, layout: list[tuple[int, bool] | None]) -> None:
        """Map each page to a frame, perhaps read-only, or to nothing; fill the frames; invalidate."""
        frames = np.arange(PAGES * PAGE, dtype=np.uint32)
        self.soc.memory.write(FRAMES, (frames * 2654435761 >> 13).astype(np.uint8).tobytes())
        for n, page in enumerate(layout):
            if page is None:
                self.driver.unmap(self.root, VA + n * PAGE)
            else:
                frame, read_only = page
                pa = FRAMES + frame * PAGE if frame < PAGES else NOWHERE
                self.driver.map(self.root, VA + n * PAGE, pa, read_only=read_only)
            self.driver.invalidate(0, VA + n * PAGE)

    def state(self) -> list[bytes]:
        arrays = self.soc.arrays
        memory = self.soc.memory.read(FRAMES, PAGES * PAGE)
        return [memory, arrays.counters.tobytes(), arrays.tlb.tobytes(), arrays.tlb_state.tobytes()]


@pytest.fixture(scope="module")
def boards() -> tuple[Board, Board]:
    return Board(), Board()


@st.composite
def layouts(draw: st.DrawFn) -> list[tuple[int, bool] | None]:
    """Frames in any order, some twice; now and then a hole, a read-only page, a frame that is no memory."""
    layout: list[tuple[int, bool] | None] = [(draw(st.integers(0, PAGES - 1)), False) for _ in range(PAGES)]
    for _ in range(draw(st.integers(0, 2))):
        odd = draw(st.sampled_from([None, (0, True), (3, True), (PAGES, False)]))
        layout[draw(st.integers(0, PAGES - 1))] = odd
    return layout


#: Anywhere, or a little before the end of a page.
starts = st.one_of(
    st.integers(0, PAGES * PAGE - 1),
    st.builds(lambda page, before: page * PAGE - before, st.integers(1, PAGES), st.integers(1, 100)),
)
lengths = st.one_of(st.integers(0, 64), st.integers(0, 3 * PAGE))
moves = st.one_of(
    st.tuples(st.just("copy"), starts, starts, lengths),
    st.tuples(st.just("beats"), starts, starts, st.integers(0, 200), st.booleans(), st.booleans()),
    st.tuples(st.just("fill"), starts, lengths, st.integers(0, 40)),
    st.tuples(st.just("read"), starts, lengths),
)
PATTERN = np.arange(16, dtype=np.uint8)


def apply(module: Any, arrays: Any, move: Any) -> tuple[int, ...]:
    match move:
        case "copy", src, dst, n:
            result = module.copy_translated(arrays, TBU, 0, VA + src, TBU, 0, VA + dst, n)
        case "beats", src, dst, n, source_fixed, destination_fixed:
            steps = int(not source_fixed), int(not destination_fixed)
            result = module.copy_beats(arrays, TBU, 0, VA + src, steps[0], VA + dst, steps[1], n, 16)
        case "fill", dst, n, phase:
            result = module.fill_translated(arrays, TBU, 0, VA + dst, n, PATTERN, phase)
        case "read", src, n:
            result = module.read_translated(arrays, TBU, 0, VA + src, n)
        case _:
            raise AssertionError(move)
    return tuple(map(int, result))


@settings(max_examples=200)
@given(layouts(), st.lists(moves, min_size=1, max_size=4))
def test_fast_and_readable_agree(
    boards: tuple[Board, Board], layout: list[tuple[int, bool] | None], program: list[Any]
) -> None:
    fast, readable = boards
    fast.arrange(layout)
    readable.arrange(layout)
    for move in program:
        assert apply(_fast, fast.soc.arrays, move) == apply(plain, readable.soc.arrays, move)
        assert fast.state() == readable.state()


@pytest.fixture(params=[_fast, plain], ids=["fast", "readable"])
def module(request: pytest.FixtureRequest) -> Any:
    return request.param


def outside(module: Any, board: Board, src: int, dst: int, n: int) -> tuple[int, ...]:
    result = module.copy_translated(board.soc.arrays, 0, OUTSIDE, src, 0, OUTSIDE, dst, n)
    return tuple(map(int, result))


def test_it_stops_exactly_at_the_fault(module: Any, boards: tuple[Board, Board]) -> None:
    board = boards[0]
    board.arrange([(0, False), (1, False), None, (3, True), (4, False), (5, False)])
    arrays, memory = board.soc.arrays, board.soc.memory
    before = memory.read(FRAMES, PAGES * PAGE)
    done, side, code, level, cost = apply(module, arrays, ("copy", 100, 4 * PAGE, 3 * PAGE))
    assert (done, side, code, level) == (2 * PAGE - 100, SIDE_SOURCE, 1, 3)
    assert cost > 0
    after = memory.read(FRAMES, PAGES * PAGE)
    assert after == before[: 4 * PAGE] + before[100 : 2 * PAGE] + before[6 * PAGE - 100 :]
    done, side, code, level, _ = apply(module, arrays, ("copy", 0, 3 * PAGE + 5, 10))
    assert (done, side, code, level) == (0, SIDE_DESTINATION, 3, 3)


def test_the_read_comes_before_the_write(module: Any, boards: tuple[Board, Board]) -> None:
    boards[0].arrange([None, None, *[(0, False)] * 4])
    assert apply(module, boards[0].soc.arrays, ("copy", 0, PAGE, 10))[1] == SIDE_SOURCE


def test_outside_the_smmu_nothing_is_counted(module: Any, boards: tuple[Board, Board]) -> None:
    board = boards[0]
    board.arrange([(n, False) for n in range(PAGES)])
    counted = board.soc.arrays.counters.copy()
    want = board.soc.memory.read(FRAMES, 5000)
    assert outside(module, board, FRAMES, FRAMES + 8000, 5000) == (5000, 0, 0, 0, 0)
    assert board.soc.memory.read(FRAMES + 8000, 5000) == want
    assert np.array_equal(board.soc.arrays.counters, counted)


def test_memory_ends_where_its_bank_ends(module: Any, boards: tuple[Board, Board]) -> None:
    assert outside(module, boards[0], END - 10, 0, 20)[:3] == (10, SIDE_SOURCE, NO_MEMORY)
    assert outside(module, boards[0], 0, END - 10, 20)[:3] == (10, SIDE_DESTINATION, NO_MEMORY)
    assert outside(module, boards[0], 1 << 48, 0, 20)[:3] == (0, SIDE_SOURCE, NO_MEMORY)
    assert outside(module, boards[0], 0xFFFC_0000 - 4, 0, 20)[:3] == (0, SIDE_SOURCE, NO_MEMORY)


@pytest.mark.parametrize("distance", [1, 7, 4096])
def test_overlap_is_copied_in_ascending_order(
    module: Any, boards: tuple[Board, Board], distance: int
) -> None:
    memory = boards[0].soc.memory
    memory.write(0x1000, bytes(i * 7 & 0xFF for i in range(6000)))
    want = bytearray(memory.read(0x1000, 10100))
    for i in range(6000):
        want[distance + i] = want[i]
    outside(module, boards[0], 0x1000, 0x1000 + distance, 6000)
    assert memory.read(0x1000, 10100) == want


def test_a_pattern_goes_on_across_pages(module: Any, boards: tuple[Board, Board]) -> None:
    board = boards[0]
    board.arrange([(2, False), (0, False), None, None, None, None])
    before = board.soc.memory.read(FRAMES, PAGES * PAGE)
    assert apply(module, board.soc.arrays, ("fill", PAGE - 21, 2 * PAGE, 3))[:4] == (
        PAGE + 21,
        SIDE_DESTINATION,
        1,
        3,
    )
    pattern = (bytes(range(16)) * 300)[3 : 3 + PAGE + 21]
    first = 3 * PAGE - 21
    want = pattern[21:] + before[PAGE:first] + pattern[:21] + before[3 * PAGE :]
    assert board.soc.memory.read(FRAMES, PAGES * PAGE) == want


def test_each_page_is_translated_once(module: Any, boards: tuple[Board, Board]) -> None:
    board = boards[0]
    board.arrange([(0, False), (2, False), (4, False), (1, False), (3, False), (5, False)])
    before = board.soc.smmu.counters()["translations"]
    apply(module, board.soc.arrays, ("copy", 0, 3 * PAGE, 3 * PAGE))
    assert board.soc.smmu.counters()["translations"] - before == 6
