from __future__ import annotations

import logging
from functools import partial
from typing import Any

import pytest

from unimem_node.bus import BusError
from unimem_node.bus.registers import Field, Register, RegisterFile

STATUS = Register(
    "STATUS", 0x10, reset=0x30, writable=0xF0, w1c=0x0F,
    fields=(Field("DONE", 0, 0), Field("LEVEL", 7, 4, "how far")), doc="State of the channel",
)  # fmt: skip
TABLE = (
    Register("ID", 0x00, reset=0xCAFE, writable=0),
    Register("CTRL", 0x04),
    STATUS,
    Register("COUNT", 0x14, reset=5, writable=0, read_clear=0xFF),
    Register("BASE", 0x20, size=8, reset=0x1_0000_0002, writable=0xFFFF_FFFF_F000),
    Register("FAR", 0x28, size=8, w1c=0xFF_0000_00FF),
    Register("SLOT", 0x40, count=4, stride=0x10, reset=1),
    Register("SLOT_HI", 0x44, count=4, stride=0x10),
)


@pytest.fixture
def file() -> RegisterFile:
    return RegisterFile("dev", 0x100, TABLE)


def test_reset_values_and_reset(file: RegisterFile) -> None:
    assert [file.read(o, 4) for o in (0, 4, 0x10, 0x14, 0x20, 0x24, 0x40, 0x70)] == [
        0xCAFE, 0, 0x30, 5, 2, 1, 1, 1,
    ]  # fmt: skip
    file.write(4, 4, 7)
    file.write(0x50, 4, 9)
    file.reset()
    assert (file.peek("CTRL"), file.peek("SLOT", 1)) == (0, 1)


def test_read_only_bits_stay(file: RegisterFile) -> None:
    file.write(0, 4, 0xFFFF_FFFF)
    file.write(0x20, 8, 0xFFFF_FFFF_FFFF_FFFF)
    assert file.read(0, 4) == 0xCAFE
    assert file.read(0x20, 8) == 0xFFFF_FFFF_F002


def test_write_one_to_clear(file: RegisterFile) -> None:
    file.poke("STATUS", 0x3F)
    file.write(0x10, 4, 0x45)
    assert file.read(0x10, 4) == 0x4A  # 3:0 lose what was written as one, 7:4 are stored


def test_reading_clears_what_the_table_says(file: RegisterFile) -> None:
    file.poke("COUNT", 0x1FF)
    assert file.read(0x14, 4) == 0x1FF
    assert file.read(0x14, 4) == 0x100


def test_a_64_bit_register_is_two_halves(file: RegisterFile) -> None:
    file.write(0x24, 4, 0xABCD)
    assert file.read(0x20, 8) == 0xABCD_0000_0002
    file.write(0x20, 4, 0x5FFF)
    assert (file.read(0x20, 4), file.read(0x24, 4)) == (0x5002, 0xABCD)


def test_a_half_clears_only_its_own_bits(file: RegisterFile) -> None:
    file.poke("FAR", 0xFF_0000_00FF)
    file.write(0x28, 4, 0x0F)
    assert file.peek("FAR") == 0xFF_0000_00F0
    file.write(0x2C, 4, 0xF0)
    assert file.peek("FAR") == 0x0F_0000_00F0


def test_two_neighbours_are_one_64_bit_access(file: RegisterFile) -> None:
    file.write(0x50, 8, 0x1122_3344_5566_7788)
    assert (file.peek("SLOT", 1), file.peek("SLOT_HI", 1)) == (0x5566_7788, 0x1122_3344)
    assert file.read(0x50, 8) == 0x1122_3344_5566_7788


def test_actions_see_index_old_and_what_was_written(file: RegisterFile) -> None:
    seen: list[tuple[str, int, int, int, int]] = []

    def note(name: str, index: int, old: int, written: int) -> None:
        seen.append((name, index, old, written, file.peek(name, index)))

    for name in ("SLOT", "STATUS", "ID"):
        file.on_write(name, partial(note, name))
    file.write(0x60, 4, 0x77)
    file.poke("STATUS", 0x33)
    file.write(0x10, 4, 0xFFFF_FF51)
    file.write(0x00, 4, 0x12)
    assert seen == [
        ("SLOT", 2, 1, 0x77, 0x77),
        ("STATUS", 0, 0x33, 0xFFFF_FF51, 0x52),
        ("ID", 0, 0xCAFE, 0x12, 0xCAFE),
    ]


def test_the_action_of_a_half_sees_the_other_half_as_stored(file: RegisterFile) -> None:
    seen: list[int] = []
    file.on_write("BASE", lambda index, old, written: seen.append(written))
    file.on_write("FAR", lambda index, old, written: seen.append(written))
    file.write(0x24, 4, 0x7)
    file.poke("FAR", 0xFF_0000_00FF)
    file.write(0x28, 4, 0x3)
    assert seen == [0x7_0000_0002, 0x3]


def test_an_action_on_reads_may_set_the_value(file: RegisterFile) -> None:
    file.on_read("SLOT", lambda index: file.poke("SLOT", 100 + index, index))
    assert [file.read(0x40 + 0x10 * i, 4) for i in range(4)] == [100, 101, 102, 103]


def test_peek_and_poke_have_no_effects(file: RegisterFile) -> None:
    file.on_write("COUNT", lambda *_: pytest.fail("action ran"))
    file.on_read("COUNT", lambda *_: pytest.fail("action ran"))
    file.poke("COUNT", 0x1_0000_00AA)
    assert file.peek("COUNT") == file.peek("COUNT") == 0xAA


def test_undefined_offsets_read_as_zero_and_ignore_writes_and_say_so_once(
    file: RegisterFile, caplog: pytest.LogCaptureFixture
) -> None:
    with caplog.at_level(logging.WARNING):
        file.write(0x80, 4, 5)
        assert file.read(0x80, 4) == file.read(0x80, 8) == 0
        assert file.read(0x84, 4) == 0
    assert [record.getMessage() for record in caplog.records] == [
        "dev: write of undefined register at offset 0x80 (RAZ/WI)",
        "dev: read of undefined register at offset 0x84 (RAZ/WI)",
    ]


@pytest.mark.parametrize(("offset", "size"), [(1, 4), (0, 2), (0x24, 8), (0, 1)])
def test_impossible_accesses_are_slave_errors(file: RegisterFile, offset: int, size: int) -> None:
    with pytest.raises(BusError) as caught:
        file.read(offset, size)
    assert caught.value.response == "SLVERR"
    with pytest.raises(BusError):
        file.write(offset, size, 0)


def test_fields() -> None:
    assert STATUS.get(0x35, "LEVEL") == 3
    assert STATUS.set(0x35, LEVEL=9, DONE=0) == 0x94
    assert STATUS.set(LEVEL=2) == 0x20
    with pytest.raises(ValueError, match=r"LEVEL \(7:4\)"):
        STATUS.set(LEVEL=16)
    with pytest.raises(KeyError, match="STATUS has no field NOPE"):
        STATUS.get(0, "NOPE")


def test_offsets_of_arrays() -> None:
    slot = next(r for r in TABLE if r.name == "SLOT")
    assert [slot.at(i) for i in range(4)] == [0x40, 0x50, 0x60, 0x70]
    with pytest.raises(IndexError, match=r"SLOT\[4\]"):
        slot.at(4)


def test_the_table_describes_itself(file: RegisterFile) -> None:
    rows = {row.name: row for row in file.describe()}
    assert list(rows) == ["ID", "CTRL", "STATUS", "COUNT", "BASE", "FAR", "SLOT", "SLOT_HI"]
    status = rows["STATUS"]
    assert (status.access, status.fields, status.doc) == (
        "RW/W1C",
        "0 DONE · 7:4 LEVEL",
        "State of the channel",
    )
    assert [rows[n].access for n in ("ID", "CTRL", "COUNT")] == ["RO/WO", "RW", "RO/WO, clears on read"]


@pytest.mark.parametrize(
    ("table", "message"),
    [
        ((Register("A", 0), Register("A", 4)), "two registers are called A"),
        ((Register("A", 0, size=8), Register("B", 4)), "B and A share offset 0x4"),
        ((Register("A", 0x100),), "outside"),
        ((Register("A", 0xF8, count=3),), r"A\[2\]"),
    ],
)
def test_tables_that_contradict_themselves_are_refused(table: tuple[Register, ...], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        RegisterFile("dev", 0x100, table)


@pytest.mark.parametrize(
    "fields",
    [
        {"offset": 2},
        {"offset": 4, "size": 8},
        {"offset": 0, "size": 2},
        {"offset": 0, "reset": 1 << 32},
        {"offset": 0, "count": 2, "stride": 0},
    ],
)
def test_rows_that_make_no_sense_are_refused(fields: dict[str, Any]) -> None:
    with pytest.raises(ValueError, match="register X"):
        Register("X", **fields)


def test_one_action_for_a_register(file: RegisterFile) -> None:
    file.on_write("CTRL", lambda *_: None)
    with pytest.raises(ValueError, match="CTRL has an action on writes already"):
        file.on_write("CTRL", lambda *_: None)
    with pytest.raises(KeyError):
        file.on_read("NOPE", lambda *_: None)


def test_files_of_one_table_are_apart() -> None:
    one, two = RegisterFile("a", 0x100, TABLE), RegisterFile("b", 0x100, TABLE)
    one.write(4, 4, 1)
    assert two.read(4, 4) == 0


def test_resets_of_an_array_may_rise() -> None:
    rising = RegisterFile("dev", 0x20, (Register("G", 0, count=3, reset=0x10, reset_step=0x100),))
    assert [rising.read(4 * n, 4) for n in range(3)] == [0x10, 0x110, 0x210]
    rising.write(4, 4, 7)
    rising.reset()
    assert rising.read(4, 4) == 0x110


def test_a_64_bit_command_acts_on_its_lower_half() -> None:
    """As 32-bit drivers write them: upper half first."""
    command = Register("CMD", 0, size=8, writable=0, count=2, stride=8, low_acts=True, access="WO")
    device = RegisterFile("dev", 0x20, (command,))
    seen: list[tuple[int, int]] = []
    device.on_write("CMD", lambda index, old, written: seen.append((index, written)))
    device.write(4, 4, 0x1234)
    device.write(12, 4, 0x77)
    assert seen == []
    device.write(0, 4, 0x5678)
    assert seen == [(0, 0x1234_0000_5678)]
    device.write(0, 4, 0x9)
    assert seen[1:] == [(0, 0x9)], "an upper half is used once"
    device.write(8, 8, 0xAAAA_0000_BBBB)
    assert seen[2:] == [(1, 0xAAAA_0000_BBBB)], "a whole write has no use for the half kept"
    device.reset()
    device.write(8, 4, 1)
    assert seen[3:] == [(1, 1)]
    assert device.describe()[0].access == "WO"


def test_a_device_may_answer_for_undefined_offsets(file: RegisterFile) -> None:
    seen: list[int] = []
    file.on_undefined(seen.append)
    file.read(0x80, 4)
    file.write(0x88, 8, 1)
    file.read(0x10, 4)
    assert seen == [0x80, 0x88, 0x8C]


def test_bad_accesses_are_logged_once(file: RegisterFile, caplog: pytest.LogCaptureFixture) -> None:
    with caplog.at_level(logging.WARNING):
        for _ in range(3):
            with pytest.raises(BusError):
                file.read(0x11, 4)
    assert [record.getMessage() for record in caplog.records] == ["dev: 4-byte read at offset 0x11 (SLVERR)"]
