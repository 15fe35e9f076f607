"""The register space: offsets, reset values, access rules; from a list typed by hand, not from the table."""

from __future__ import annotations

import logging

import pytest

from support.smmu_board import ACTLR, BASE, FSR, FSRRESTORE, S2CR, SMR, Board, cb
from unimem_node.bus import BusError
from unimem_node.smmu import Smmu, SmmuSpec
from unimem_node.smmu.registers import smmu_table

WRAPPER = 0xFD5F_0000

#: (offset, value out of reset): facts, chip.md §§1.1 to 4.
RESET = [
    (0x000, 0x0020_0001),
    (0x400, 0x0020_0001),
    (0x010, 0x0400_0004),
    (0x410, 0x0400_001C),
    (0x020, 0xFC01_3E30),
    (0x024, 0x3000_0F10),
    (0x028, 0x0000_5555),
    (0x02C, 0),
    (0x03C, 0x21),
    (0x048, 0),
    (0x074, 0),
    (0xFE0, 0x81),
    (0xFE4, 0xB4),
    (0xFE8, 0x1B),
    (0xFEC, 0x00),
    (0xFD0, 0x04),
    (0xFF0, 0x0D),
    (0xFF4, 0xF0),
    (0xFF8, 0x05),
    (0xFFC, 0xB1),
    (0x800, 0),
    (0x8BC, 0),
    (0xC00, 0x0002_0000),
    (0xCBC, 0x0002_0000),
    (0x1000, 0x0002_0000),
    (0x103C, 0x0002_0000),
    (0x1400, 0),
    (0x1800, 0),
    (0x3E00, 0x0501_1F17),
    (0x3E20, 0x0003_0303),
    (0x1_0000, 0x100),
    (0x1_0004, 0x3),
    (0x1_0010, 0x60),
    (0x1_0030, 0),
    (0x1_F000, 0x100),
    (0x1_F004, 0x3),
]

READ_ONLY = [0x020, 0x024, 0x028, 0x03C, 0x074, 0x474, 0xFE0, 0xFFC, 0x3E00, 0x3E20, 0x1_07F4, 0x1_08F0]

#: (offset, bits that hold what is written).
STORES = [
    (0x040, 0xFFFF_FFFF),
    (0x044, 0xFFFF_FFFF),
    (0x054, 0x7FFF_7FFF),
    (0x800, 0xFFFF_7FFF),
    (0xC04, 0x3FFF_FBFF),  # EXIDVALID: IDR0.EXIDS = 0
    (0x1000, 0xFFFF_FFFF),
    (0x1400, 0x7FFF_7FFF),
    (0x1800, 0x3),  # VMID16: IDR2.VMID16S = 0
    (0x1_0000, 0x3FFF_37FF),
    (0x1_0010, 0x4003_C077),
    (0x1_0020, 0xFFFF_FFFE),
    (0x1_0024, 0xFFFF_FFFF),
    (0x1_0030, 0xFFFF_FFFF),
    (0x1_0038, 0xFFFF_FFFF),
    (0x1_003C, 0xFFFF_FFFF),
    (0x1_0060, 0xFFFF_FFFF),
    (0x1_0064, 0xFFFF_FFFF),
    (0x1_0068, 0x00FF_0F73),
]

#: Command registers, and what this depth does not offer: they read as zero whatever is written.
ZERO = [
    0x04C,
    0x060,
    0x064,
    0x068,
    0x070,
    0x100,
    0x180,
    0x188,
    0x1_0008,
    0x1_0610,
    0x1_07F0,
    0x1_0800,
    0x500,
    0x580,
]


@pytest.mark.parametrize(("offset", "value"), RESET, ids=lambda v: f"{v:#x}")
def test_reset_values(offset: int, value: int) -> None:
    assert Board().read(offset) == value


@pytest.mark.parametrize("offset", READ_ONLY, ids=lambda v: f"{v:#x}")
def test_read_only(offset: int) -> None:
    board = Board()
    before = board.read(offset)
    board.write(offset, ~before & 0xFFFF_FFFF)
    assert board.read(offset) == before


@pytest.mark.parametrize(("offset", "mask"), STORES, ids=lambda v: f"{v:#x}")
def test_stores_exactly_its_bits(offset: int, mask: int) -> None:
    board = Board()
    board.write(offset, 0xFFFF_FFFF)
    assert board.read(offset) == mask
    board.write(offset, 0)
    assert board.read(offset) == 0


@pytest.mark.parametrize("offset", ZERO, ids=lambda v: f"{v:#x}")
def test_reads_as_zero(offset: int) -> None:
    board = Board()
    board.write(offset, 0xFFFF_FFFF)
    assert board.read(offset) == 0


def test_the_table_covers_the_facts_and_only_once() -> None:
    names = [register.name for register in smmu_table(SmmuSpec())]
    assert len(names) == len(set(names))
    for name in (
        "CR0",
        "GFSRRESTORE",
        "TLBIVAH64",
        "GATS12PW",
        "CB_TLBIIPAS2L",
        "CB_ATS1UW",
        "PMCGSMR",
        "CBA2R",
    ):
        assert name in names
    assert all(register.doc for register in smmu_table(SmmuSpec()))


def test_reset_returns_everything() -> None:
    board = Board()
    board.simple()
    board.fault(0)
    board.smmu.reset()
    for offset, value in RESET:
        assert board.read(offset) == value
    assert board.pending == []
    assert board.pa(0x1234) == 0x1234, "CLIENTPD = 1: all bypass"
    assert board.smmu.tlb.occupancy() == 0


def test_the_non_secure_alias_is_the_same_register() -> None:
    board = Board()
    board.write(0x400, 0x0020_0404)
    assert board.read(0x000) == 0x0020_0404
    board.write64(0x040, 0x1_2345_6789)
    assert board.read64(0x440) == 0x1_2345_6789
    board.write(0x04C, 1 << 1)
    assert board.read(0x448) == 1 << 1
    board.write(0x448, 1 << 1)
    assert board.read(0x048) == 0


@pytest.mark.parametrize(("group", "expected"), [(0, 0x7FFF_7FFF), (47, 0x7FFF_7FFF)])
def test_smr_probe(group: int, expected: int) -> None:
    """Linux writes all ones to ID, then to MASK, and reads back how many bits there are."""
    board = Board()
    board.write(SMR + 4 * group, 0x7FFF)
    assert board.read(SMR + 4 * group) == 0x7FFF
    board.write(SMR + 4 * group, 0x7FFF << 16)
    assert board.read(SMR + 4 * group) == 0x7FFF << 16
    board.write(SMR + 4 * group, 0x7FFF_FFFF)
    assert board.read(SMR + 4 * group) == expected


def test_beyond_the_last_group_there_is_nothing(caplog: pytest.LogCaptureFixture) -> None:
    board = Board()
    with caplog.at_level(logging.WARNING):
        for _ in range(3):
            board.write(SMR + 4 * 48, 0xFFFF_FFFF)
            assert board.read(SMR + 4 * 48) == 0
            assert board.read(S2CR + 4 * 48) == 0
    assert len(caplog.records) == 2, "logged once for each offset"


@pytest.mark.parametrize("copy", [0x010, 0x410])
def test_cache_lock_holds_the_auxiliary_registers(copy: int) -> None:
    board = Board()
    before = board.read(copy)
    board.write(copy, before | 1 << 8)
    assert board.read(copy) == before
    board.write(cb(3, ACTLR), 0)
    assert board.read(cb(3, ACTLR)) == 0x3
    board.write(copy, before & ~(1 << 26) | 1 << 8)  # unlocks, and takes the other bits along
    assert board.read(copy) == before & ~(1 << 26) | 1 << 8
    board.write(cb(3, ACTLR), 1)
    assert board.read(cb(3, ACTLR)) == 1
    board.write(copy, before)
    board.write(copy, before | 1 << 8)
    assert board.read(copy) == before, "locked again"


def test_fsr_is_cleared_by_writing_ones() -> None:
    board = Board()
    board.write(cb(2, FSRRESTORE), 0x8000_000A)
    assert board.read(cb(2, FSR)) == 0x8000_040A
    board.write(cb(2, FSR), 0x2)
    assert board.read(cb(2, FSR)) == 0x8000_0408
    board.write(cb(2, FSR), 0x8)
    assert board.read(cb(2, FSR)) == 0x8000_0000, "the format goes with the last fault"
    board.write(cb(2, FSR), 0x8000_0000)
    assert board.read(cb(2, FSR)) == 0
    assert board.read(cb(1, FSR)) == 0


def test_gfsr_is_cleared_by_writing_ones() -> None:
    board = Board()
    board.write(0x4C, 0x8000_0006)
    assert board.read(0x48) == 0x8000_0006
    board.write(0x48, 0x8000_0002)
    assert board.read(0x48) == 0x4


def test_64_bit_registers_by_halves_and_whole() -> None:
    board = Board()
    board.write64(cb(1, 0x20), 0x0005_0001_2345_6000)
    assert board.read(cb(1, 0x20)) == 0x2345_6000
    assert board.read(cb(1, 0x24)) == 0x0005_0001
    board.write(cb(1, 0x24), 0x0006_0000)
    assert board.read64(cb(1, 0x20)) == 0x0006_0000_2345_6000


def test_a_bad_access_is_an_answer_of_the_bus() -> None:
    board = Board()
    with pytest.raises(BusError) as error:
        board.bus.read32(BASE + 2)
    assert error.value.response == "SLVERR"
    with pytest.raises(BusError) as error:
        board.bus.read32(BASE + board.spec.size)
    assert error.value.response == "DECERR"


def test_another_platform_shows_its_own_counts() -> None:
    spec = SmmuSpec(context_banks=128, stream_match_groups=128, idr1=0x6000_0F10, micro_tlb_entries=(16, 16))
    board = Board(spec)
    assert board.read(0x20) & 0xFF == 128
    assert board.read(0x24) & 0xFF == 128
    pages = 2 << (board.read(0x24) >> 28 & 7)
    assert spec.size == 2 * pages * 0x1000
    last = (pages + 127) * 0x1000
    assert board.read(last) == 0x100
    with pytest.raises(ValueError, match="2 TBUs"):
        board.smmu.resolve(2 << 10)


def test_nodes_of_one_platform_share_the_table() -> None:
    one, other = Board().smmu, Board().smmu
    assert isinstance(one, Smmu)
    assert one.registers.table is other.registers.table


# ---- SMMU_REG


def test_wrapper_reset_and_masks() -> None:
    bus = Board().bus
    assert bus.read32(WRAPPER + 0x14) == 0x8000_001F
    bus.write32(WRAPPER + 0x18, 0x1F)
    assert bus.read32(WRAPPER + 0x14) == 0x8000_0000
    bus.write32(WRAPPER + 0x1C, 0x11)
    assert bus.read32(WRAPPER + 0x14) == 0x8000_0011
    bus.write32(WRAPPER + 0x14, 0)
    assert bus.read32(WRAPPER + 0x14) == 0x8000_0011, "IMR_0 is read-only"


def test_wrapper_triggers_and_clears() -> None:
    board = Board()
    board.bus.write32(WRAPPER + 0x20, 0x4)
    assert board.bus.read32(WRAPPER + 0x10) == 0x4
    assert board.smmu.wrapper.pending == 0
    board.bus.write32(WRAPPER + 0x18, 0x4)
    assert board.smmu.wrapper.pending == 0x4
    board.bus.write32(WRAPPER + 0x10, 0x4)
    assert board.bus.read32(WRAPPER + 0x10) == 0


def test_wrapper_shows_the_interrupts_of_the_smmu() -> None:
    board = Board()
    board.simple()
    board.fault(0)
    assert board.bus.read32(WRAPPER + 0x10) == 0x1
    board.bus.write32(WRAPPER + 0x10, 0x1)
    assert board.bus.read32(WRAPPER + 0x10) == 0x1, "the source is still high"
    board.write(cb(0, FSR), 0xFFFF_FFFF)
    assert board.bus.read32(WRAPPER + 0x10) == 0x1, "latched"
    board.bus.write32(WRAPPER + 0x10, 0x1)
    assert board.bus.read32(WRAPPER + 0x10) == 0
    board.write(0x000, 0x0020_0404)
    board.fault(0, 0, 0x3FF)
    assert board.bus.read32(WRAPPER + 0x10) == 0x11


def test_wrapper_latches_accesses_to_nothing() -> None:
    board = Board()
    assert board.bus.read32(WRAPPER + 0x100) == 0
    assert board.bus.read32(WRAPPER + 0x10) == 1 << 31
    board.bus.write32(WRAPPER + 0x10, 1 << 31)
    board.bus.write32(WRAPPER + 0x04, 1)
    assert board.bus.read32(WRAPPER + 0x10) == 1 << 31
    board.bus.write32(WRAPPER, 1)  # MISC_CTRL: answer with an error
    with pytest.raises(BusError) as error:
        board.bus.read32(WRAPPER + 0x100)
    assert error.value.response == "SLVERR"
    board.smmu.reset()
    assert (board.bus.read32(WRAPPER + 0x10), board.bus.read32(WRAPPER)) == (0, 0)


def test_wrapper_shows_overflows_of_counters() -> None:
    board = Board()
    board.write(0x3C40, 1)
    board.write(0x3CC0, 1)
    assert board.bus.read32(WRAPPER + 0x10) == 1 << 2
    assert board.pending == [155]


@pytest.mark.parametrize(
    ("write", "s1", "s2", "ipa"),
    [
        ((0x410, 0x1C), True, True, True),
        ((0x410, 0x18), False, True, True),
        ((0x410, 0x14), True, False, True),
        ((0x410, 0x0C), True, True, False),
        ((0x010, 0), False, True, True),
    ],
)
def test_acr_switches_the_walk_caches(write: tuple[int, int], s1: bool, s2: bool, ipa: bool) -> None:
    """NSACR's bits count, all streams being non-secure; S1WC2EN must be set in both copies."""
    board = Board()
    seen: list[dict[str, bool]] = []
    board.smmu.tlb.set_walk_caches = lambda **uses: seen.append(uses)  # type: ignore[method-assign]
    board.write(*write)
    assert seen == [{"stage1": s1, "stage2": s2, "ipa": ipa}]


def test_the_walk_cache_can_be_switched_off() -> None:
    board = Board()
    board.simple()
    board.write(0x410, 0x18)
    for va in (0x4000_0000, 0x4000_1000):
        board.pa(va)
    counters = board.smmu.counters()
    assert (counters["walks"], sum(counters[f"reads_l{n}"] for n in range(4))) == (2, 8)


@pytest.mark.parametrize(
    ("more", "message"),
    [
        ({"stream_id_bits": 16}, "at most 15"),
        ({"stream_id_bits": 0}, "stream IDs of 0 bits"),
        ({"stream_id_bits": 12}, "enough for 6 TBUs"),
    ],
)
def test_shapes_that_make_no_sense_are_refused(more: dict[str, int], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        SmmuSpec(**more)


def test_64_kib_pages() -> None:
    """IDR1.PAGESIZE = 1: the same registers, farther apart."""
    board = Board(SmmuSpec(idr1=0xB000_0F10))
    assert board.spec.size == 0x20_0000
    assert board.read(0x10_0000) == 0x100
    board.write(0x1_0000, 1 << 16 | 5)
    assert board.read(0x1_0000) == 1 << 16 | 5
    assert board.read(0x3_3E00 - 0x3000) == 0x0501_1F17
    assert board.read(0x1F_0000) == 0x100
