from __future__ import annotations

import numpy as np
import pytest

from unimem_node.bus import BusError
from unimem_node.memory import MemoryBank, PhysicalMemory
from unimem_node.memory._fast import bank_of, offset_of
from unimem_node.mmu.regime import signed

LOW, HIGH, OCM = 0x0, 0x8_0000_0000, 0xFFFC_0000
BANKS = [
    MemoryBank("low", LOW, 2 << 30),
    MemoryBank("high", HIGH, 2 << 30),
    MemoryBank("ocm", OCM, 256 << 10),
]


@pytest.fixture
def memory() -> PhysicalMemory:
    return PhysicalMemory(BANKS)


def test_bytes_come_back_in_every_bank(memory: PhysicalMemory) -> None:
    for n, bank in enumerate(BANKS):
        memory.write(bank.base, bytes([n, 1, 2]))
        memory.write(bank.base + bank.size - 3, bytes([n, 3, 4]))
    for n, bank in enumerate(BANKS):
        assert memory.read(bank.base, 4) == bytes([n, 1, 2, 0])
        assert memory.read(bank.base + bank.size - 3, 3) == bytes([n, 3, 4])


def test_words_are_little_endian_at_any_alignment(memory: PhysicalMemory) -> None:
    memory.write64(HIGH + 3, 0x0807_0605_0403_0201)
    assert memory.read(HIGH + 3, 8) == bytes(range(1, 9))
    assert memory.read32(HIGH + 5) == 0x0605_0403
    memory.write32(HIGH + 3, 0x1_FFFF_FFFF)
    assert memory.read64(HIGH + 3) == 0x0807_0605_FFFF_FFFF
    memory.write64(HIGH, -1)
    assert memory.read64(HIGH) == 0xFFFF_FFFF_FFFF_FFFF


def test_views_are_the_bytes_themselves(memory: PhysicalMemory) -> None:
    view = memory.view(HIGH + 8, 8)
    view[:] = 0xAB
    assert memory.read64(HIGH + 8) == 0xABAB_ABAB_ABAB_ABAB
    assert int(memory.view64[memory.offset(HIGH + 8) >> 3]) == 0xABAB_ABAB_ABAB_ABAB
    memory.write64(HIGH + 8, 1)
    assert view[0] == 1


@pytest.mark.parametrize(
    ("pa", "n"),
    [
        (2 << 30, 1),
        ((2 << 30) - 4, 8),
        (HIGH - 1, 2),
        (OCM + (256 << 10), 1),
        (-8, 8),
        (1 << 63, 8),
        (LOW, -1),
    ],
)
def test_outside_or_across_the_edge_of_a_bank_is_a_decode_error(
    memory: PhysicalMemory, pa: int, n: int
) -> None:
    with pytest.raises(BusError) as caught:
        memory.offset(pa, n)
    assert (caught.value.response, caught.value.address) == ("DECERR", pa)
    with pytest.raises(BusError):
        memory.read(pa, n)
    if n > 0:
        with pytest.raises(BusError):
            memory.write(pa, bytes(n))
        assert memory.find(pa, n) == -1
        assert offset_of(memory.geometry, signed(pa), n) == -1


def test_a_refused_write_stores_nothing(memory: PhysicalMemory) -> None:
    with pytest.raises(BusError):
        memory.write((2 << 30) - 2, b"abcd")
    assert memory.read((2 << 30) - 2, 2) == b"\0\0"


def test_compiled_and_readable_offsets_agree(memory: PhysicalMemory) -> None:
    edges = [b.base + d for b in BANKS for d in (-1, 0, 1, b.size - 8, b.size - 7, b.size - 1, b.size)]
    for pa in edges:
        for n in (1, 8):
            assert offset_of(memory.geometry, pa, n) == memory.find(pa, n)
        base, size, place = bank_of(memory.geometry, pa)
        found = memory.find(pa)
        assert (size == 0) == (found < 0)
        assert size == 0 or pa - base + place == found


def test_memory_costs_only_what_is_touched(memory: PhysicalMemory) -> None:
    start = memory.resident_bytes()
    memory.write(HIGH + (1 << 30), b"x")
    memory.write(LOW + (1 << 20), bytes(8192))
    assert memory.resident_bytes() - start == 3 * 4096


def test_clearing_gives_whole_pages_back_and_keeps_the_neighbours(memory: PhysicalMemory) -> None:
    memory.write(HIGH, b"\xff" * (4 * 4096))
    before = memory.resident_bytes()
    memory.zero(HIGH + 100, 2 * 4096 + 200)
    assert memory.read(HIGH, 100) == b"\xff" * 100
    assert memory.resident_bytes() == before - 4096  # the only page that was covered whole
    assert memory.read(HIGH + 100, 2 * 4096 + 200) == bytes(2 * 4096 + 200)
    assert memory.read(HIGH + 300 + 2 * 4096, 8) == b"\xff" * 8


def test_clearing_within_a_page_is_a_store(memory: PhysicalMemory) -> None:
    memory.write(HIGH, b"\xff" * 64)
    memory.zero(HIGH + 8, 16)
    assert memory.read(HIGH, 32) == b"\xff" * 8 + bytes(16) + b"\xff" * 8


def test_closing_gives_everything_back_while_views_live(memory: PhysicalMemory) -> None:
    view = memory.view(HIGH, 4096)
    view[:] = 1
    memory.close()
    assert memory.resident_bytes() == 0
    assert not view.any()


@pytest.mark.parametrize(
    ("banks", "message"),
    [
        ([], "1 to 4"),
        ([MemoryBank(str(i), i << 20, 4096) for i in range(5)], "1 to 4"),
        ([MemoryBank("odd", 0x100, 4096)], "bank odd"),
        ([MemoryBank("empty", 0, 0)], "bank empty"),
        ([MemoryBank("far", 1 << 48, 4096)], "far ends beyond 48 bits"),
        ([MemoryBank("b", 0x1000, 0x2000), MemoryBank("a", 0, 0x2000)], "a and b overlap at 0x1000"),
    ],
)
def test_banks_that_cannot_be_laid_out_are_named(banks: list[MemoryBank], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        PhysicalMemory(banks)


def test_writes_take_any_contiguous_buffer(memory: PhysicalMemory) -> None:
    memory.write(HIGH, np.arange(4, dtype=np.uint32))
    memory.write(HIGH + 16, memoryview(b"ab"))
    memory.write(HIGH + 18, bytearray(b"cd"))
    assert memory.read(HIGH, 20) == np.arange(4, dtype=np.uint32).tobytes() + b"abcd"
