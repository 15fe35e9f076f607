"""The data mover's compiled step: against a model that moves one byte after the other, and against itself."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from support.bare_metal import Driver
from unimem_node import Mpsoc
from unimem_node.dma import state as x
from unimem_node.dma._fast import NO_MEMORY, OUTSIDE
from unimem_node.dma._fast_step import step

VA = 0x40_0000_0000
PAGE = 4096
PAGES = 6
FRAMES = 0x10_0000
LANE = 5
END = 4 << 20  # of memory
OCM = 0xFFFC_0000
NOWHERE = 0x7_0000_0000
TRANSLATION, PERMISSION = 1, 3
WIDTH = 16
PATTERN = np.arange(WIDTH, dtype=np.uint8)
FIFO = np.zeros(x.FIFO_COLS, np.int64)
Layout = list[tuple[int, bool] | None]


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

    def arrange(self, layout: Layout) -> None:
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
        self.soc.run()

    @property
    def frames(self) -> bytes:
        return self.soc.memory.read(FRAMES, PAGES * PAGE)

    def state(self) -> list[bytes]:
        arrays = self.soc.arrays
        return [self.frames, arrays.counters.tobytes(), arrays.tlb.tobytes(), arrays.tlb_state.tobytes()]


def row(
    src: int | None, dst: int | None, n: int, *, src_fixed: bool = False, dst_fixed: bool = False
) -> np.ndarray:
    """The state of a simple transfer; no source: the pattern is written; no destination: it reads."""
    state = np.zeros(x.STATE_COLS, np.int64)
    state[x.X_WIDTH] = WIDTH
    for side, base, fixed in ((x.SRC, src, src_fixed), (x.DST, dst, dst_fixed)):
        state[side + x.D_BASE] = base or 0
        state[side + x.D_SIZE] = n
        state[side + x.D_FIXED] = fixed
        state[side + x.D_LOADED] = 1
    if src is None:
        state[x.SRC + x.D_KIND] = x.KIND_PATTERN
    if dst is None:
        state[x.DST + x.D_KIND] = x.KIND_NOTHING
    return state


def run(
    board: Board, state: np.ndarray, cb: int = 0, budget: int = 1 << 20, function: Any = step
) -> tuple[int, ...]:
    """`END` bytes of memory are DRAM, the rest is on the chip."""
    return tuple(map(int, function(board.soc.arrays, state, PATTERN, FIFO, LANE, cb, 0, 1, budget, END)))


class ByteByByte:
    """What a transfer does, one byte after the other: the read is checked before the write."""

    def __init__(self, layout: Layout, frames: bytes) -> None:
        self.layout, self.frames = layout, bytearray(frames)

    def place(self, va: int, write: bool) -> tuple[int, int]:
        """(code, index into the frames) of an address."""
        page = self.layout[(va - VA) // PAGE] if 0 <= va - VA < PAGES * PAGE else None
        if page is None:
            return TRANSLATION, 0
        frame, read_only = page
        if write and read_only:
            return PERMISSION, 0
        return (0, frame * PAGE + va % PAGE) if frame < PAGES else (NO_MEMORY, 0)

    def transfer(
        self, src: int | None, dst: int | None, n: int, src_fixed: bool, dst_fixed: bool
    ) -> tuple[int, int, int]:
        """(bytes done, OP_*, code) up to the first refused one; code 0 when there is none."""
        for i in range(n):
            value = PATTERN[i % WIDTH]
            if src is not None:
                code, at = self.place(src + (i % WIDTH if src_fixed else i), False)
                if code:
                    return i, x.OP_READ, code
                value = self.frames[at]
            if dst is not None:
                code, at = self.place(dst + (i % WIDTH if dst_fixed else i), True)
                if code:
                    return i, x.OP_WRITE, code
                self.frames[at] = value
        return n, 0, 0


@pytest.fixture(scope="module")
def board() -> Board:
    return Board()


@pytest.fixture(scope="module")
def twins() -> tuple[Board, Board]:
    """Two with the same past."""
    return Board(), Board()


@st.composite
def layouts(draw: st.DrawFn) -> Layout:
    """Frames in any order, some twice; now and then a hole, a read-only page, a frame that is no memory."""
    layout: Layout = [(draw(st.integers(0, PAGES - 1)), False) for _ in range(PAGES)]
    for _ in range(draw(st.integers(0, 2))):
        odd = draw(st.sampled_from([None, (0, True), (3, True), (PAGES, False)]))
        layout[draw(st.integers(0, PAGES - 1))] = odd
    return layout


#: Anywhere, or a little before the end of a page.
starts = st.one_of(
    st.integers(0, PAGES * PAGE - 1),
    st.builds(lambda page, before: page * PAGE - before, st.integers(1, PAGES), st.integers(1, 100)),
).map(lambda offset: VA + offset)
lengths = st.one_of(st.integers(1, 64), st.integers(1, 3 * PAGE))
transfers = st.one_of(
    st.tuples(starts, starts, lengths, st.just(False), st.just(False)),
    st.tuples(starts, starts, st.integers(1, 200), st.booleans(), st.booleans()),
    st.tuples(st.none(), starts, lengths, st.just(False), st.booleans()),
    st.tuples(starts, st.none(), lengths, st.booleans(), st.just(False)),
)


@settings(max_examples=100)
@given(layouts(), st.lists(transfers, min_size=1, max_size=4), st.sampled_from([1 << 20, 7, 1000]))
def test_bytes_move_as_one_after_the_other_would(
    board: Board, layout: Layout, program: list[Any], budget: int
) -> None:
    board.arrange(layout)
    model = ByteByByte(layout, board.frames)
    for src, dst, n, src_fixed, dst_fixed in program:
        state = row(src, dst, n, src_fixed=src_fixed, dst_fixed=dst_fixed)
        moved = 0
        for _ in range(n + 1):
            stop, more, *_ = run(board, state, budget=budget)
            moved += more
            if stop != x.STOP_BUDGET:
                break
        done, op, code = model.transfer(src, dst, n, src_fixed, dst_fixed)
        assert moved == done
        assert board.frames == model.frames
        if code:
            assert (stop, state[x.X_OP], state[x.X_CODE]) == (x.STOP_REFUSED, op, code)
        else:
            assert stop == x.STOP_DONE


@settings(max_examples=60)
@given(layouts(), st.lists(transfers, min_size=1, max_size=3))
def test_compiled_and_as_python_it_does_the_same(
    twins: tuple[Board, Board], layout: Layout, program: list[Any]
) -> None:
    fast, readable = twins
    fast.arrange(layout)
    readable.arrange(layout)
    as_python = getattr(step, "py_func", step)
    for src, dst, n, src_fixed, dst_fixed in program:
        states = [row(src, dst, n, src_fixed=src_fixed, dst_fixed=dst_fixed) for _ in range(2)]
        assert run(fast, states[0]) == run(readable, states[1], function=as_python)
        assert np.array_equal(*states)
        assert fast.state() == readable.state()


def test_n17_it_stops_exactly_at_the_fault_and_goes_on_there(board: Board) -> None:
    """N17: a burst over a page border is split; the first part is done, the second is reported."""
    board.arrange([(0, False), (1, False), None, (3, False), (4, False), (5, False)])
    before = board.frames
    state = row(VA + 100, VA + 3 * PAGE, 2 * PAGE)
    stop, moved, _, cost, reads, walks, *of_dram = run(board, state)
    assert (stop, moved) == (x.STOP_REFUSED, 2 * PAGE - 100)
    assert of_dram == [moved, moved]
    assert (state[x.X_OP], state[x.X_VA], state[x.X_CODE]) == (x.OP_READ, VA + 2 * PAGE, TRANSLATION)
    assert state[x.X_INFO] & 3 == 3
    assert (walks, cost > 0) == (5, True)
    assert reads >= 5
    after = before[: 3 * PAGE] + before[100 : 2 * PAGE] + before[5 * PAGE - 100 :]
    assert board.frames == after
    board.driver.map(board.root, VA + 2 * PAGE, FRAMES + 2 * PAGE)
    assert run(board, state)[:2] == (x.STOP_DONE, 100)
    assert board.frames[5 * PAGE - 100 : 5 * PAGE] == before[2 * PAGE : 2 * PAGE + 100]


def test_a_stream_that_is_refused_never_gets_to_memory(board: Board) -> None:
    state = row(None, VA, 10)
    assert run(board, state, cb=x.REFUSED) == (x.STOP_REFUSED, 0, 0, 0, 0, 0, 0, 0)
    assert state[x.X_OP] == x.OP_WRITE


def test_outside_the_smmu_nothing_is_counted(board: Board) -> None:
    board.arrange([(n, False) for n in range(PAGES)])
    counted = board.soc.arrays.counters.copy()
    want = board.frames[:5000]
    assert run(board, row(FRAMES, FRAMES + 8000, 5000), cb=OUTSIDE) == (
        x.STOP_DONE, 5000, 0, 0, 0, 0, 5000, 5000
    )  # fmt: skip
    assert board.frames[8000:13000] == want
    assert np.array_equal(board.soc.arrays.counters, counted)


@pytest.mark.parametrize(
    ("src", "dst", "done", "op"),
    [
        (END - 10, 0, 10, x.OP_READ),
        (0, END - 10, 10, x.OP_WRITE),
        ((1 << 48) + 5, 0, 0, x.OP_READ),
        (0xFFFC_0000 - 4, 0, 0, x.OP_READ),
    ],
)
def test_memory_ends_where_its_bank_ends(board: Board, src: int, dst: int, done: int, op: int) -> None:
    state = row(src, dst, 20)
    assert run(board, state, cb=OUTSIDE)[:2] == (x.STOP_REFUSED, done)
    assert (state[x.X_OP], state[x.X_CODE]) == (op, NO_MEMORY)


@pytest.mark.parametrize("distance", [1, 7, 4096])
def test_overlap_is_copied_in_ascending_order(board: Board, distance: int) -> None:
    memory = board.soc.memory
    memory.write(0x1000, bytes(i * 7 & 0xFF for i in range(6000)))
    want = bytearray(memory.read(0x1000, 10100))
    for i in range(6000):
        want[distance + i] = want[i]
    run(board, row(0x1000, 0x1000 + distance, 6000), cb=OUTSIDE)
    assert memory.read(0x1000, 10100) == want


def test_each_page_is_translated_once(board: Board) -> None:
    board.arrange([(0, False), (2, False), (4, False), (1, False), (3, False), (5, False)])
    before = board.soc.smmu.counters()["translations"]
    run(board, row(VA, VA + 3 * PAGE, 3 * PAGE))
    assert board.soc.smmu.counters()["translations"] - before == 6
    run(board, row(VA, VA + 3 * PAGE, 100, src_fixed=True))
    assert board.soc.smmu.counters()["translations"] - before == 8


def test_what_the_smmu_answers_by_itself_reads_zero_and_is_not_written(board: Board) -> None:
    board.arrange([(n, False) for n in range(PAGES)])
    before = board.frames
    state = row(VA, VA + 3 * PAGE, 100)
    state[x.SRC + x.D_SKIP], state[x.DST + x.D_SKIP] = 40, 20
    assert run(board, state)[:2] == (x.STOP_DONE, 100)
    at = 3 * PAGE
    assert board.frames[at : at + 100] == before[at : at + 20] + bytes(20) + before[40:100]


@pytest.mark.parametrize(
    ("src", "dst", "read", "written"),
    [
        (FRAMES, FRAMES + 0x8000, 5000, 5000),
        (FRAMES, OCM, 5000, 0),
        (OCM, FRAMES, 0, 5000),
        (OCM, OCM + 0x8000, 0, 0),
        (FRAMES, None, 5000, 0),
        (None, FRAMES, 0, 5000),
    ],
)
def test_bytes_of_dram_are_counted(
    board: Board, src: int | None, dst: int | None, read: int, written: int
) -> None:
    assert run(board, row(src, dst, 5000), cb=OUTSIDE)[6:] == (read, written)
