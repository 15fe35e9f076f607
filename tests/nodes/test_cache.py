"""The CPU's write-back cache alone: what memory has when, and what the CPU sees."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, invariant, rule

from unimem_node.bus import Bus, BusError
from unimem_node.memory import MemoryBank, PhysicalMemory, WriteBackCache

DRAM, OCM = 0x8000_0000, 0xFFFC_0000
SIZE = 0x1_0000


def memory() -> PhysicalMemory:
    return PhysicalMemory([MemoryBank("dram", DRAM, SIZE), MemoryBank("ocm", OCM, 0x1000)])


def cached(lines: int = 4, line_bytes: int = 64) -> tuple[PhysicalMemory, WriteBackCache]:
    ram = memory()
    return ram, WriteBackCache(ram, lines, line_bytes)


def test_a_store_is_in_memory_only_when_its_line_was_cleaned() -> None:
    ram, cache = cached()
    cache.write64(DRAM + 8, 0x1122_3344_5566_7788)
    assert cache.read64(DRAM + 8) == 0x1122_3344_5566_7788
    assert ram.read64(DRAM + 8) == 0
    assert cache.state(DRAM) == "dirty"
    cache.clean(DRAM + 63, 1)  # any byte of the line
    assert ram.read64(DRAM + 8) == 0x1122_3344_5566_7788
    assert cache.state(DRAM + 63) == "clean"
    assert cache.state(DRAM + 64) == "absent"
    cache.write32(DRAM + 8, 1)
    assert ram.read32(DRAM + 8) == 0x5566_7788
    cache.clean_all()
    assert (ram.read32(DRAM + 8), cache.state(DRAM)) == (1, "clean")


def test_what_others_write_is_seen_only_after_an_invalidation() -> None:
    ram, cache = cached()
    assert cache.read(DRAM, 4) == bytes(4)
    ram.write(DRAM, b"news")
    assert cache.read(DRAM, 4) == bytes(4)
    cache.invalidate(DRAM, 4)
    assert cache.read(DRAM, 4) == b"news"


def test_an_invalidation_drops_whole_lines_with_what_was_stored_in_them() -> None:
    ram, cache = cached()
    cache.write(DRAM, b"a" * 128)
    cache.invalidate(DRAM + 10, 1)
    assert cache.read(DRAM, 128) == bytes(64) + b"a" * 64
    cache.clean_invalidate(DRAM + 64, 64)
    assert cache.state(DRAM + 64) == "absent"
    assert ram.read(DRAM, 128) == bytes(64) + b"a" * 64


def test_a_line_goes_back_as_a_whole_over_what_others_wrote_meanwhile() -> None:
    ram, cache = cached()
    cache.write(DRAM, b"mine")
    ram.write(DRAM + 32, b"theirs")
    cache.clean(DRAM, 1)
    assert ram.read(DRAM, 64) == b"mine" + bytes(60)


def test_the_least_recently_used_line_goes_first() -> None:
    ram, cache = cached(lines=2)
    cache.write(DRAM, b"A")
    cache.write(DRAM + 64, b"B")
    cache.read(DRAM, 1)
    cache.write(DRAM + 128, b"C")  # B's turn
    assert [ram.read(DRAM + at, 1) for at in (0, 64, 128)] == [b"\0", b"B", b"\0"]
    assert [cache.state(DRAM + at) for at in (0, 64, 128)] == ["dirty", "absent", "dirty"]
    cache.clean(DRAM, 64)
    before = cache.write_backs
    cache.read(DRAM + 192, 1)  # A's turn, which is clean
    assert cache.state(DRAM) == "absent"
    assert cache.write_backs == before
    assert (cache.hits, cache.misses) == (1, 4)


def test_accesses_over_the_borders_of_lines_and_banks() -> None:
    ram, cache = cached(lines=3)
    data = bytes(range(200))
    cache.write(DRAM + 60, data)
    assert cache.read(DRAM + 60, 200) == data
    cache.clean(DRAM, SIZE)  # far more lines than are held
    assert ram.read(DRAM + 60, 200) == data
    end = DRAM + SIZE
    cache.write(end - 4, b"last")
    assert cache.read(end - 4, 4) == b"last"
    assert cache.read(DRAM, 0) == b""
    for access in (lambda: cache.read(end - 2, 4), lambda: cache.write(end - 2, b"four")):
        with pytest.raises(BusError, match="no memory"):
            access()
    assert cache.read(end - 4, 4) == b"last"
    cache.write(DRAM, np.arange(4, dtype="<u4"))
    assert cache.read32(DRAM + 12) == 3


def test_words_are_little_endian_and_cut() -> None:
    _, cache = cached()
    cache.write64(DRAM + 61, -2)  # over a border
    assert cache.read(DRAM + 61, 8) == b"\xfe" + b"\xff" * 7
    cache.write32(DRAM, -2)
    assert cache.read32(DRAM) == 0xFFFF_FFFE
    assert cache.read64(DRAM) == 0xFFFF_FFFE


def test_a_debugger_looks_without_leaving_a_trace() -> None:
    ram, cache = cached(lines=2)
    ram.write(DRAM, b"x" * 256)
    cache.write(DRAM + 70, b"yy")
    before = (cache.hits, cache.misses, cache.write_backs)
    assert cache.peek(DRAM + 60, 80) == b"x" * 10 + b"yy" + b"x" * 68
    assert cache.peek(DRAM + 71, 1) == b"y"
    assert (cache.hits, cache.misses, cache.write_backs) == before
    assert cache.state(DRAM) == "absent"
    assert ram.read(DRAM + 70, 2) == b"xx"


def test_a_view_is_coherent_with_the_cpu_until_its_page_is_given_back() -> None:
    ram, cache = cached()
    cache.write(DRAM + 4096, b"stored")
    view = cache.view(DRAM + 4096 + 2, 4)
    assert view.tobytes() == b"ored"
    view[:] = np.frombuffer(b"seen", np.uint8)
    assert cache.read(DRAM + 4096, 6) == b"stseen"
    cache.write(DRAM + 4096 + 2, b"both")
    assert view.tobytes() == b"both"
    assert cache.state(DRAM + 4096) == "absent"
    cache.write(DRAM, b"other pages are cached")
    assert cache.state(DRAM) == "dirty"
    cache.zero(DRAM + 4096, 4095)  # not the whole page
    cache.write(DRAM + 4096, b"1")
    assert ram.read(DRAM + 4096, 1) == b"1"
    cache.zero(DRAM + 4096, 4096)
    cache.write(DRAM + 4096, b"2")
    assert (ram.read(DRAM + 4096, 1), cache.read(DRAM + 4096, 2)) == (b"\0", b"2\0")


def test_clearing_reaches_memory_and_spares_the_neighbours_in_a_line() -> None:
    ram, cache = cached()
    ram.write(DRAM, b"o" * 192)
    cache.write(DRAM, b"n" * 192)
    cache.zero(DRAM + 10, 100)
    expected = b"n" * 10 + bytes(100) + b"n" * 82
    assert cache.read(DRAM, 192) == expected
    assert ram.read(DRAM, 128) == expected[:128]


@pytest.mark.parametrize(("lines", "line_bytes"), [(0, 64), (-1, 64), (4, 48), (4, 4), (4, 4096)])
def test_a_cache_of_no_sensible_shape_is_refused(lines: int, line_bytes: int) -> None:
    with pytest.raises(ValueError, match="line"):
        WriteBackCache(memory(), lines, line_bytes)


def test_the_bus_is_the_cpus_view() -> None:
    ram, cache = cached()
    bus = Bus(ram, cache)
    bus.write32(DRAM, 1)
    bus.write64(DRAM + 8, 2)
    bus.write(DRAM + 16, b"three")
    assert (bus.read32(DRAM), bus.read64(DRAM + 8), bus.read(DRAM + 16, 5)) == (1, 2, b"three")
    assert bus.peek(DRAM + 16, 5) == b"three"
    assert ram.read(DRAM, 21) == bytes(21)
    bus.clean(DRAM, 1)
    assert ram.read32(DRAM) == 1
    ram.write32(DRAM, 7)
    bus.invalidate(DRAM, 4)
    assert bus.read32(DRAM) == 7
    bus.write32(DRAM, 8)
    bus.clean_invalidate(DRAM, 4)
    assert (cache.state(DRAM), ram.read32(DRAM)) == ("absent", 8)
    bus.write32(DRAM, 9)
    assert bus.view(DRAM, 1)[0] == 9
    bus.zero(DRAM, 4096)
    assert (ram.read32(DRAM), bus.read32(DRAM)) == (0, 0)


def test_a_bus_without_a_cache_has_nothing_to_maintain() -> None:
    ram = memory()
    bus = Bus(ram)
    bus.write32(DRAM, 5)
    assert ram.read32(DRAM) == 5
    for maintain in (bus.clean, bus.invalidate, bus.clean_invalidate):
        maintain(DRAM, 4)
        assert bus.read32(DRAM) == 5
    assert bus.cache is None


class Coherence(RuleBasedStateMachine):
    """One CPU alone never notices its cache; memory differs from what it sees in dirty lines only."""

    SPAN = 1024
    places = st.tuples(st.integers(0, SPAN - 1), st.integers(0, 300)).map(
        lambda place: (place[0], min(place[1], Coherence.SPAN - place[0]))
    )

    def __init__(self) -> None:
        super().__init__()
        self.ram, self.cache = cached(lines=3, line_bytes=32)
        self.seen = bytearray(self.SPAN)

    @rule(place=places, fill=st.integers(1, 255))
    def write(self, place: tuple[int, int], fill: int) -> None:
        at, n = place
        self.cache.write(DRAM + at, bytes([fill]) * n)
        self.seen[at : at + n] = bytes([fill]) * n

    @rule(place=places)
    def read(self, place: tuple[int, int]) -> None:
        at, n = place
        assert self.cache.read(DRAM + at, n) == self.seen[at : at + n]

    @rule(place=places)
    def clean(self, place: tuple[int, int]) -> None:
        at, n = place
        self.cache.clean(DRAM + at, n)
        assert self.ram.read(DRAM + at, n) == self.seen[at : at + n]

    @rule(place=places)
    def clean_invalidate(self, place: tuple[int, int]) -> None:
        at, n = place
        self.cache.clean_invalidate(DRAM + at, n)
        assert all(self.cache.state(DRAM + i) == "absent" for i in range(at, at + n))

    @rule()
    def clean_all(self) -> None:
        self.cache.clean_all()
        assert self.ram.read(DRAM, self.SPAN) == self.seen

    @rule(place=places)
    def zero(self, place: tuple[int, int]) -> None:
        at, n = place
        self.cache.zero(DRAM + at, n)
        self.seen[at : at + n] = bytes(n)

    @rule(at=st.integers(0, SPAN - 8))
    def device(self, at: int) -> None:
        """A master that does not snoop, with the maintenance that a driver does for it."""
        self.cache.clean_invalidate(DRAM + at, 8)
        self.ram.write(DRAM + at, b"external")
        self.seen[at : at + 8] = b"external"

    @invariant()
    def only_dirty_lines_differ(self) -> None:
        assert self.cache.peek(DRAM, self.SPAN) == self.seen
        states = [self.cache.state(DRAM + at) for at in range(self.SPAN)]
        assert sum(state != "absent" for state in states) <= 3 * 32
        memory_has = self.ram.read(DRAM, self.SPAN)
        assert all(state == "dirty" or memory_has[at] == self.seen[at] for at, state in enumerate(states))


TestCoherence = Coherence.TestCase
