"""Every register of the MMU-500 and of SMMU_REG: reset value, access, write-one-to-clear.

The model's table and the list in `support.smmu_register_list` were typed independently; they must agree, and
the device must behave as they say, at every index.
"""

from __future__ import annotations

import logging
from collections.abc import Callable

import pytest

from support.smmu_board import BASE, Board
from support.smmu_register_list import NON_SECURE, SMMU, WRAPPER, Row
from unimem_node.bus import BusError
from unimem_node.bus.registers import Register
from unimem_node.smmu import SmmuSpec
from unimem_node.smmu.registers import smmu_table
from unimem_node.smmu.wrapper import WRAPPER_TABLE

WRAPPER_BASE = 0xFD5F_0000

#: Out of the reset state: the locks of ACR and ACTLR are off.
UNLOCKED = {"ACR": 0x0400_071C, "NSACR": 0x0400_071C, "CB_ACTLR": 0x3}


class Port:
    """A device's registers as a driver reaches them."""

    def __init__(self, base: int) -> None:
        self.board = Board()
        self.base = base

    def read(self, offset: int, size: int) -> int:
        bus = self.board.bus
        return (bus.read64 if size == 8 else bus.read32)(self.base + offset)

    def write(self, offset: int, size: int, value: int) -> None:
        bus = self.board.bus
        (bus.write64 if size == 8 else bus.write32)(self.base + offset, value)


CASES = [(BASE, row) for row in SMMU] + [(WRAPPER_BASE, row) for row in WRAPPER]


def those(wanted: Callable[[Row], bool]) -> pytest.MarkDecorator:
    """A test for each register that is wanted."""
    cases = [pytest.param(base, row, id=row.name) for base, row in CASES if wanted(row)]
    return pytest.mark.parametrize(("base", "row"), cases)


every = those(lambda row: True)


def offsets(row: Row) -> list[int]:
    return [row.offset + n * row.stride for n in range(row.count)]


def ones(row: Row) -> int:
    return (1 << 8 * row.size) - 1


@pytest.mark.parametrize(
    ("table", "rows"), [(smmu_table(SmmuSpec()), SMMU), (WRAPPER_TABLE, WRAPPER)], ids=["smmu", "smmu_reg"]
)
def test_the_table_and_the_list_name_the_same_registers(table: tuple[Register, ...], rows: list[Row]) -> None:
    def shape(of: Register) -> tuple[str, int, int, int, int]:
        return (of.name, of.offset, of.count, of.stride if of.count > 1 else 0, of.size)

    listed = {(r.name, r.offset, r.count, r.stride if r.count > 1 else 0, r.size) for r in rows}
    assert {shape(register) for register in table} == listed
    assert len(rows) == len(listed)
    assert all(register.doc for register in table)


@every
def test_reset(base: int, row: Row) -> None:
    port = Port(base)
    for n, offset in enumerate(offsets(row)):
        assert port.read(offset, row.size) == row.reset + n * row.step, f"{row.name}[{n}]"


@every
def test_what_is_written(base: int, row: Row) -> None:
    port = Port(base)
    for n, offset in enumerate(offsets(row)):
        fixed = (row.reset + n * row.step) & ~row.mask
        port.write(offset, row.size, ones(row))
        after_ones = port.read(offset, row.size)
        port.write(offset, row.size, 0)
        after_zeros = port.read(offset, row.size)
        expected = {
            "rw": (fixed | row.mask, fixed),
            "ro": (fixed, fixed),
            "wo": (0, 0),
            "lock": (row.reset, 0),  # the second write clears the lock
            "raz": (0, 0),
            "w1c": (0, 0),  # nothing to clear, and nothing is set
            "pair": (0 if row.name.endswith("CLR") else row.mask,) * 2,
        }[row.kind]
        assert (after_ones, after_zeros) == expected, f"{row.name}[{n}]"


@those(lambda row: row.kind == "rw" and row.count > 1)
def test_one_of_many_changes_alone(base: int, row: Row) -> None:
    port = Port(base)
    last = row.count - 1
    port.write(row.offset + last * row.stride, row.size, ones(row))
    for n in range(last):
        assert port.read(row.offset + n * row.stride, row.size) == row.reset + n * row.step


@those(lambda row: row.size == 8)
def test_a_64_bit_register_by_halves(base: int, row: Row) -> None:
    port = Port(base)
    low, high = row.mask & 0xFFFF_FFFF, row.mask >> 32
    port.write(row.offset + 4, 4, 0xFFFF_FFFF)
    assert port.read(row.offset, 8) == high << 32
    port.write(row.offset, 4, 0xFFFF_FFFF)
    assert (port.read(row.offset, 4), port.read(row.offset + 4, 4)) == (low, high)
    port.write(row.offset + 4, 4, 0)
    assert port.read(row.offset, 8) == low


#: Write-one-to-clear registers: how to set their bits, and which can be.
SETTERS: dict[str, tuple[Callable[[Port, int, int], None], int]] = {
    "GFSR": (lambda port, n, bits: port.write(0x4C, 4, bits), 0x8000_01FF),
    "CB_FSR": (lambda port, n, bits: port.write(0x1_005C + n * 0x1000, 4, bits), 0x8000_01FE),
    "ISR_0": (lambda port, n, bits: port.write(0x20, 4, bits), 0x8000_001F),
}


@those(lambda row: row.kind == "w1c")
def test_write_one_to_clear(base: int, row: Row) -> None:
    """Bit by bit: one clears it and no other, zero leaves it; the format goes with FSR's last fault."""
    port = Port(base)
    setter, settable = SETTERS[row.name]
    formats = 0x400 if row.name == "CB_FSR" else 0
    for n, offset in enumerate(offsets(row)):
        for bit in range(32):
            if not settable >> bit & 1:
                continue
            setter(port, n, settable)
            assert port.read(offset, 4) == settable | formats
            port.write(offset, 4, 0)
            assert port.read(offset, 4) == settable | formats
            port.write(offset, 4, 1 << bit)
            assert port.read(offset, 4) == (settable | formats) & ~(1 << bit)
        port.write(offset, 4, 0xFFFF_FFFF)
        assert port.read(offset, 4) == 0


@pytest.mark.parametrize(
    ("setter", "clearer"),
    [("PMCNTENSET", "PMCNTENCLR"), ("PMINTENSET", "PMINTENCLR"), ("PMOVSSET", "PMOVSCLR")],
)
def test_pairs_of_the_monitor(setter: str, clearer: str) -> None:
    rows = {row.name: row for row in SMMU}
    port, up, down = Port(BASE), rows[setter].offset, rows[clearer].offset
    port.write(up, 4, 0xFF00_0F0F)
    assert (port.read(up, 4), port.read(down, 4)) == (0x0F0F, 0x0F0F)
    port.write(up, 4, 0x10)
    assert port.read(up, 4) == 0x0F1F
    port.write(down, 4, 0x0103)
    assert (port.read(up, 4), port.read(down, 4)) == (0x0E1C, 0x0E1C)


@pytest.mark.parametrize("name", UNLOCKED)
def test_what_cache_lock_holds(name: str) -> None:
    rows = {row.name: row for row in SMMU}
    row, port = rows[name], Port(BASE)
    for copy in (0x010, 0x410):
        port.write(copy, 4, 0)
    for offset in offsets(row):
        port.write(offset, 4, 0xFFFF_FFFF)
        assert port.read(offset, 4) == UNLOCKED[name]
        if name == "CB_ACTLR":
            port.write(offset, 4, 0)
            assert port.read(offset, 4) == 0


@pytest.mark.parametrize("name", NON_SECURE)
def test_the_non_secure_alias(name: str) -> None:
    rows = {row.name: row for row in SMMU}
    row, port = rows[name], Port(BASE)
    if row.kind == "rw":
        port.write(row.offset + 0x400, row.size, ones(row))
    assert port.read(row.offset, row.size) == port.read(row.offset + 0x400, row.size)
    if row.kind == "rw":
        assert port.read(row.offset, row.size) == row.reset & ~row.mask | row.mask


def test_nothing_is_between_the_registers(caplog: pytest.LogCaptureFixture) -> None:
    """Reserved words read as zero, ignore writes, and are logged once each."""
    port = Port(BASE)
    known = {offset + 4 * half for row in SMMU for offset in offsets(row) for half in range(row.size // 4)}
    known |= {offset + 0x400 for offset in known if offset < 0x200} | {0x410}
    reserved = [offset for offset in range(0, 0x2_0000, 4) if offset not in known][::7]
    with caplog.at_level(logging.WARNING):
        for _ in range(2):
            for offset in reserved:
                port.write(offset, 4, 0xFFFF_FFFF)
                assert port.read(offset, 4) == 0
    assert len(caplog.records) == len(reserved)


@pytest.mark.parametrize(("offset", "size"), [(2, 4), (1, 4), (0x44, 8), (0x1_0021, 8)])
def test_a_misaligned_access_is_a_slave_error(offset: int, size: int) -> None:
    port = Port(BASE)
    for act in (lambda: port.read(offset, size), lambda: port.write(offset, size, 0)):
        with pytest.raises(BusError) as caught:
            act()
        assert caught.value.response == "SLVERR"


def test_refused_accesses_are_logged_once(caplog: pytest.LogCaptureFixture) -> None:
    port = Port(BASE)
    with caplog.at_level(logging.WARNING):
        for _ in range(3):
            for offset in (2, 0x2_0000):
                with pytest.raises(BusError):
                    port.read(offset, 4)
    assert [record.getMessage() for record in caplog.records] == [
        "smmu: 4-byte read at 0xfd80_0002 is not aligned (SLVERR)",
        "nobody answers at 0xfd82_0000 (DECERR)",
    ]


def test_behind_the_last_page_nobody_answers() -> None:
    with pytest.raises(BusError) as caught:
        Port(BASE).read(0x2_0000, 4)
    assert caught.value.response == "DECERR"


# ---- identification that depends on the platform


@pytest.mark.parametrize(
    ("spec", "offset", "expected"),
    [
        (SmmuSpec(address_translation=True), 0x020, 0xF801_3E30),
        (SmmuSpec(stream_match_groups=128), 0x020, 0xFC01_3E80),
        (SmmuSpec(stream_id_bits=12, micro_tlb_entries=(8,)), 0x020, 0xFC01_3830),
        (SmmuSpec(context_banks=8), 0x024, 0x3000_0F08),
        (SmmuSpec(idr2=0x7555), 0x028, 0x7555),
        (SmmuSpec(micro_tlb_entries=(8,) * 2), 0x3E00, 0x0101_1F07),
        (SmmuSpec(micro_tlb_entries=(8,) * 16), 0x3E00, 0x0F01_1F3F),
        (SmmuSpec(pmceid0=0x0007_0703), 0x3E20, 0x0007_0703),
    ],
)
def test_identification_follows_the_platform(spec: SmmuSpec, offset: int, expected: int) -> None:
    assert Board(spec).read(offset) == expected


@pytest.mark.parametrize("bits", [15, 12, 10])
def test_linux_probe_of_the_match_registers(bits: int) -> None:
    """All ones to ID, read back; to MASK, read back: the width of stream IDs (`arm_smmu_test_smr_masks`)."""
    board = Board(SmmuSpec(stream_id_bits=bits, micro_tlb_entries=(8,)))
    everything = (1 << bits) - 1
    board.write(0x800, 0x7FFF)
    assert board.read(0x800) & 0x7FFF == everything
    board.write(0x800, everything << 16)
    assert board.read(0x800) >> 16 & 0x7FFF == everything
    board.write(0x800, 0xFFFF_FFFF)
    assert board.read(0x800) == 1 << 31 | everything << 16 | everything


def test_what_idr2_and_idr0_offer_can_be_enabled() -> None:
    board = Board(SmmuSpec(idr0=0xFC01_3F30, idr2=0xD555))
    board.write(0x000, 0xFFFF_FFFF)
    assert board.read(0x000) == 0xFFFF_FCCF, "VMID16EN and EXIDENABLE"
    board.write(0x1800, 0xFFFF_FFFF)
    assert board.read(0x1800) == 0xFFFF_0003
    board.write(0xC00, 0xFFFF_FFFF)
    assert board.read(0xC00) == 0x3FFF_FFFF


def test_counters_beyond_32_have_a_second_word() -> None:
    board = Board(SmmuSpec(micro_tlb_entries=(8,) * 10))
    board.write(0x3C04, 0xFFFF_FFFF)
    assert (board.read(0x3C00), board.read(0x3C04), board.read(0x3C24)) == (0, 0xFF, 0xFF)
