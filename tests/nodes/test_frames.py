"""The frame allocator against a set of frames, and what it promises about runs, clearing and errors."""

from __future__ import annotations

import pytest
from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, invariant, precondition, rule

from unimem_node.kernel.frames import BLOCK, PAGE, Extent, FrameAllocator, cut, join

MIB = 1 << 20


class Cleared:
    """Stands for the bus: remembers what was cleared."""

    def __init__(self) -> None:
        self.ranges: list[tuple[int, int]] = []

    def zero(self, pa: int, n: int) -> None:
        self.ranges.append((pa, n))


def make(*ranges: tuple[int, int]) -> FrameAllocator:
    return FrameAllocator(Cleared(), ranges or ((0, 8 * MIB),))


def frames_of(extents: list[Extent]) -> set[int]:
    return {pa + i for pa, n in extents for i in range(0, n, PAGE)}


def test_every_frame_is_given_once_and_then_no_more() -> None:
    frames = make((0x1000, 3 * PAGE), (0x8_0000_0000, BLOCK))
    given = {frames.page() for _ in range(3 + 512)}
    assert len(given) == 515
    assert given == {0x1000, 0x2000, 0x3000} | {0x8_0000_0000 + i * PAGE for i in range(512)}
    assert frames.free_bytes == 0
    with pytest.raises(MemoryError, match=r"4096 bytes asked for, 0 of 2109440 bytes are free"):
        frames.page()


def test_freed_frames_are_cleared_and_come_back() -> None:
    bus = Cleared()
    frames = FrameAllocator(bus, ((0, BLOCK),))
    pa = frames.page()
    assert bus.ranges == []
    frames.free(pa)
    assert bus.ranges == [(pa, PAGE)]
    assert frames.run(BLOCK, BLOCK) == 0


def test_double_free_and_foreign_frames_are_refused_without_effect() -> None:
    bus = Cleared()
    frames = FrameAllocator(bus, ((0, BLOCK),))
    run = frames.run(4 * PAGE)
    frames.free(run + PAGE)
    before = frames.free_bytes
    with pytest.raises(ValueError, match="double free"):
        frames.free(run, 4 * PAGE)
    with pytest.raises(ValueError, match="not this allocator's"):
        frames.free(BLOCK)
    with pytest.raises(ValueError, match="not whole frames"):
        frames.free(run + 1)
    assert frames.free_bytes == before
    assert bus.ranges == [(run + PAGE, PAGE)]


@pytest.mark.parametrize("length", [PAGE, 3 * PAGE, 511 * PAGE, BLOCK, BLOCK + PAGE, 5 * BLOCK])
@pytest.mark.parametrize("align", [PAGE, 16 * PAGE, BLOCK, 4 * BLOCK])
def test_runs_are_aligned_and_whole(length: int, align: int) -> None:
    frames = make((0, 32 * MIB))
    frames.page()
    pa = frames.run(length, align)
    assert pa % align == 0
    assert pa + length <= 32 * MIB
    rest = frames_of(frames.extents(frames.free_bytes))
    assert not rest & frames_of([Extent(pa, length)])


def test_a_run_finds_the_hole_it_fits() -> None:
    frames = make((0, BLOCK))
    frames.run(BLOCK)
    frames.free(0x3000, 3 * PAGE)
    frames.free(0x8000, 5 * PAGE)
    with pytest.raises(MemoryError, match="in one piece aligned to 0x1000"):
        frames.run(6 * PAGE)
    assert frames.run(4 * PAGE) == 0x8000
    assert frames.run(2 * PAGE, 2 * PAGE) == 0x4000


def test_a_long_run_does_not_cross_banks() -> None:
    frames = make((0, 2 * BLOCK), (0x8_0000_0000, 3 * BLOCK))
    assert frames.run(3 * BLOCK) == 0x8_0000_0000
    with pytest.raises(MemoryError):
        frames.run(3 * BLOCK)
    assert frames.run(2 * BLOCK) == 0


def test_extents_match_the_address_they_are_for() -> None:
    frames = make((0, 64 * MIB))
    va = 0x10_0010_0000  # 1 MiB past a block
    pieces = frames.extents(5 * MIB, va)
    assert sum(n for _, n in pieces) == 5 * MIB
    whole = [p for p in pieces if p.length >= BLOCK]
    assert sum(n for _, n in whole) >= 2 * BLOCK
    at = va
    for pa, n in pieces:
        if n >= BLOCK and at % BLOCK == 0:
            assert pa % BLOCK == 0
        at += n


def test_extents_fall_back_to_single_frames() -> None:
    frames = make((0, 2 * BLOCK))
    pages = [frames.page()]
    frames.run(BLOCK)
    assert sum(n for _, n in frames.extents(BLOCK - PAGE)) == BLOCK - PAGE
    with pytest.raises(MemoryError, match="4096 bytes asked for, 0 of"):
        frames.extents(1)
    frames.free(pages[0])
    assert frames.extents(1) == [Extent(pages[0], PAGE)]


def test_a_failed_allocation_changes_nothing() -> None:
    frames = make((0, 2 * BLOCK))
    frames.page()
    before = frames.free_bytes
    with pytest.raises(MemoryError, match="4194304 bytes asked for, 4190208 of 4194304"):
        frames.extents(2 * BLOCK)
    assert frames.free_bytes == before
    assert frames.run(BLOCK, BLOCK) == BLOCK


@pytest.mark.parametrize("length", [0, -1])
def test_bad_lengths_are_refused(length: int) -> None:
    with pytest.raises(ValueError, match="bytes"):
        make().extents(length)
    with pytest.raises(ValueError, match="bytes"):
        make().run(length)


def test_bad_ranges_are_refused() -> None:
    with pytest.raises(ValueError, match="not made of 4 KiB pages"):
        make((1, PAGE))
    with pytest.raises(ValueError, match="overlap at 0x1000"):
        make((0, 2 * PAGE), (PAGE, PAGE))


def test_join_and_cut() -> None:
    pieces = [Extent(0x1000, 0x1000), Extent(0x2000, 0x2000), Extent(0x9000, 0x1000)]
    assert join(pieces) == [Extent(0x1000, 0x3000), Extent(0x9000, 0x1000)]
    assert cut(join(pieces), 0x2000, 0x2000) == [Extent(0x3000, 0x1000), Extent(0x9000, 0x1000)]
    assert cut(pieces, 0x4000, 0x1000) == []


class Reference(RuleBasedStateMachine):
    """Random use against a plain set of free frames."""

    def __init__(self) -> None:
        super().__init__()
        ranges = ((0x5000, 3 * BLOCK), (0x8_0000_0000, 4 * BLOCK))
        self.frames = FrameAllocator(Cleared(), ranges)
        self.free = {pa for base, size in ranges for pa in range(base, base + size, PAGE)}
        self.held: list[Extent] = []

    def took(self, extents: list[Extent]) -> None:
        pages = frames_of(extents)
        assert pages <= self.free
        assert len(pages) * PAGE == sum(n for _, n in extents)
        self.free -= pages
        self.held += extents

    @rule(count=st.integers(1, 600))
    def pages(self, count: int) -> None:
        for _ in range(min(count, len(self.free))):
            self.took([Extent(self.frames.page(), PAGE)])

    @rule(pages=st.integers(1, 1500), align=st.sampled_from([PAGE, 8 * PAGE, BLOCK]))
    def run_of(self, pages: int, align: int) -> None:
        try:
            pa = self.frames.run(pages * PAGE, align)
        except MemoryError:
            return
        assert pa % align == 0
        self.took([Extent(pa, pages * PAGE)])

    @rule(pages=st.integers(1, 2000), va=st.integers(0, 1024))
    def extents(self, pages: int, va: int) -> None:
        if pages > len(self.free):
            with pytest.raises(MemoryError):
                self.frames.extents(pages * PAGE, va * PAGE)
        else:
            self.took(self.frames.extents(pages * PAGE, va * PAGE))

    @precondition(lambda self: self.held)
    @rule(data=st.data())
    def give_back(self, data: st.DataObject) -> None:
        extent = self.held.pop(data.draw(st.integers(0, len(self.held) - 1)))
        pages = extent.length // PAGE
        first = data.draw(st.integers(0, pages - 1))
        count = data.draw(st.integers(1, pages - first))
        piece = cut([extent], first * PAGE, count * PAGE)
        self.frames.free_all(piece)
        self.free |= frames_of(piece)
        self.held += cut([extent], 0, first * PAGE)
        self.held += cut([extent], (first + count) * PAGE, extent.length)
        with pytest.raises(ValueError, match="double free"):
            self.frames.free(piece[0].pa)

    @invariant()
    def counts_agree(self) -> None:
        assert self.frames.free_bytes == len(self.free) * PAGE


TestReference = Reference.TestCase
TestReference.settings = settings(max_examples=40, stateful_step_count=25)


@pytest.mark.parametrize(
    "ranges",
    [
        [(0, PAGE)],
        [(PAGE, BLOCK)],
        [(BLOCK - PAGE, 2 * PAGE)],
        [(BLOCK - PAGE, PAGE), (BLOCK, PAGE)],
        [(PAGE, PAGE), (3 * PAGE, PAGE), (5 * PAGE, 2 * BLOCK)],
        [(0x8_0000_0000, BLOCK), (0, 3 * BLOCK + PAGE)],
    ],
)
def test_every_frame_of_odd_ranges_is_given(ranges: list[tuple[int, int]]) -> None:
    frames = make(*ranges)
    every = {pa for base, size in ranges for pa in range(base, base + size, PAGE)}
    assert frames.total_bytes == frames.free_bytes == len(every) * PAGE
    given = {frames.page() for _ in every}
    assert given == every
    for pa in given:
        frames.free(pa)
    assert frames.free_bytes == frames.total_bytes
    for foreign in every ^ {pa & -BLOCK for pa in every} ^ {pa + PAGE for pa in every}:
        if foreign not in every:
            with pytest.raises(ValueError, match="not this allocator's"):
                frames.free(foreign)
