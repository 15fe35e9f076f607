"""Register files: one table drives decoding, reset, access rules and documentation.

A device describes its registers as `Register` rows (name, offset, reset value, what is writable, what is
write-one-to-clear, what reading clears) and attaches actions by name. Undefined offsets read as zero and
ignore writes (RAZ/WI), as Arm peripherals do, and are logged once.
"""

from __future__ import annotations

import functools
import logging
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from typing import Final

from unimem.addresses import fmt
from unimem_node.bus.errors import BusError

_log = logging.getLogger(__name__)

#: ``fn(index, old, written)`` after a write was masked and stored.
WriteAction = Callable[[int, int, int], None]
#: ``fn(index)`` before a value is returned.
ReadAction = Callable[[int], None]

_WORD: Final = 0xFFFF_FFFF


@dataclass(frozen=True, slots=True)
class Field:
    """Bits `high` down to `low` of a register."""

    name: str
    high: int
    low: int
    doc: str = ""

    def __post_init__(self) -> None:
        if not 0 <= self.low <= self.high < 64:
            raise ValueError(f"field {self.name}: bits {self.high}:{self.low}")

    @property
    def mask(self) -> int:
        """The field's bits, in place."""
        return (1 << (self.high + 1)) - (1 << self.low)

    def get(self, value: int) -> int:
        """Extract the field."""
        return (value & self.mask) >> self.low

    def put(self, value: int, field: int) -> int:
        """Return `value` with the field replaced; raises `ValueError` when it does not fit."""
        if field < 0 or (field << self.low) & ~self.mask:
            raise ValueError(f"{field:#x} does not fit field {self.name} ({self.high}:{self.low})")
        return (value & ~self.mask) | (field << self.low)


@dataclass(frozen=True, slots=True)
class Register:
    """One register, or `count` of them `stride` bytes apart.

    `writable` are the bits software can store (-1: all), `w1c` those cleared by writing one (never stored),
    `read_clear` those cleared by reading. ``writable=0`` with an action on writes is a command register.
    `reset` is that of the first, the next ones have `reset_step` more each. `low_acts`: the action of a
    64-bit command runs when its lower half is written; an upper half written alone before is kept for it.
    `access`: the manuals' letters, where they do not follow from the rest.
    """

    name: str
    offset: int
    size: int = 4
    reset: int = 0
    writable: int = -1
    w1c: int = 0
    read_clear: int = 0
    count: int = 1
    stride: int = 4
    fields: tuple[Field, ...] = ()
    doc: str = ""
    reset_step: int = 0
    low_acts: bool = False
    access: str = ""

    def __post_init__(self) -> None:
        if self.size not in (4, 8) or self.offset % self.size:
            raise ValueError(f"register {self.name}: size {self.size} at offset {self.offset:#x}")
        if self.count < 1 or (self.count > 1 and (self.stride < self.size or self.stride % self.size)):
            raise ValueError(f"register {self.name}: {self.count} of stride {self.stride}")
        if not 0 <= self.reset <= self.mask:
            raise ValueError(
                f"register {self.name}: reset value {self.reset:#x} has more than {self.size} bytes"
            )

    @property
    def mask(self) -> int:
        """All bits the register has."""
        return (1 << (8 * self.size)) - 1

    def reset_of(self, index: int = 0) -> int:
        """Value of the `index`-th of an array of registers out of reset."""
        return self.reset + index * self.reset_step

    def at(self, index: int = 0) -> int:
        """Offset of the `index`-th of an array of registers."""
        if not 0 <= index < self.count:
            raise IndexError(f"register {self.name}[{index}] of {self.count}")
        return self.offset + index * self.stride

    def field(self, name: str) -> Field:
        """Return the field called `name`; raises `KeyError` naming both."""
        for field in self.fields:
            if field.name == name:
                return field
        raise KeyError(f"register {self.name} has no field {name}")

    def get(self, value: int, name: str) -> int:
        """Extract a field from a value of this register."""
        return self.field(name).get(value)

    def set(self, value: int = 0, /, **fields: int) -> int:
        """Return `value` with the named fields replaced."""
        for name, field in fields.items():
            value = self.field(name).put(value, field)
        return value


@dataclass(frozen=True, slots=True)
class RegisterRow:
    """A line of a device's documentation."""

    name: str
    offset: int
    size: int
    count: int
    stride: int
    reset: int
    access: str
    fields: str
    doc: str


@dataclass(frozen=True, slots=True)
class _Word:
    """What answers at one 32-bit offset: 32 bits of a register, from bit `shift` on."""

    register: Register
    index: int
    shift: int


@functools.lru_cache(maxsize=64)
def _decode(size: int, table: tuple[Register, ...]) -> dict[int, _Word]:
    """Map each word offset to its register; nodes with equal tables share the map (nobody changes it)."""
    words: dict[int, _Word] = {}
    for register in table:
        for index in range(register.count):
            start = register.at(index)
            for shift in range(0, 8 * register.size, 32):
                offset = start + shift // 8
                if not 0 <= offset <= size - 4:
                    raise ValueError(
                        f"register {register.name}[{index}] at {offset:#x} lies outside {size:#x}"
                    )
                if offset in words:
                    other = words[offset].register.name
                    raise ValueError(f"registers {register.name} and {other} share offset {offset:#x}")
                words[offset] = _Word(register, index, shift)
    return words


class RegisterFile:
    """A `Device` made of a table of registers.

    The device side uses `peek` and `poke`, which have no effects; the bus side `read` and `write`, which run
    the actions. A 64-bit register may be reached as two 32-bit halves, two neighbours as one 64-bit access.
    """

    def __init__(self, name: str, size: int, table: Sequence[Register]) -> None:
        self.name = name
        self.size = size
        self.table: tuple[Register, ...] = tuple(table)
        self._words = _decode(size, self.table)
        self._by_name: dict[str, Register] = {}
        for register in self.table:
            if register.name in self._by_name:
                raise ValueError(f"{name}: two registers are called {register.name}")
            self._by_name[register.name] = register
        self._values: dict[str, list[int]] = {}
        self._on_write: dict[str, WriteAction] = {}
        self._on_read: dict[str, ReadAction] = {}
        self._refreshing: set[str] = set()
        self._on_undefined: Callable[[int], None] | None = None
        self._logged: set[tuple[int, int]] = set()
        self._upper: dict[tuple[str, int], int] = {}  # upper halves of commands written alone
        self.reset()

    def reset(self) -> None:
        """Put every register to its reset value; no actions run."""
        for register in self.table:
            self._values[register.name] = [register.reset_of(index) for index in range(register.count)]
        self._upper.clear()

    def register(self, name: str) -> Register:
        """Return the row called `name`; raises `KeyError`."""
        return self._by_name[name]

    def peek(self, name: str, index: int = 0) -> int:
        """Return a register's value as it is, without effects."""
        return self._values[name][index]

    def peek_all(self, names: Iterable[str]) -> list[int]:
        """Return the values of several registers at once, as `peek` does."""
        values = self._values
        return [values[name][0] for name in names]

    def poke(self, name: str, value: int, index: int = 0) -> None:
        """Set a register's value, without effects and whatever software may write."""
        self._values[name][index] = value & self._by_name[name].mask

    def on_write(self, name: str, fn: WriteAction) -> None:
        """Run ``fn(index, old, written)`` after each write of `name`.

        `written` is what software wrote, before masking. When only a half of a 64-bit register was written,
        the other half of `written` is what is stored there, without write-one-to-clear bits.
        """
        if name in self._on_write:
            raise ValueError(f"{self.name}: {name} has an action on writes already")
        self._on_write[self._by_name[name].name] = fn

    def on_read(self, name: str, fn: ReadAction, *, refreshes: bool = False) -> None:
        """Run ``fn(index)`` before each read of `name`; it may `poke` what shall be returned.

        `refreshes`: the action does nothing else, so that `inspect` may run it too.
        """
        if name in self._on_read:
            raise ValueError(f"{self.name}: {name} has an action on reads already")
        self._on_read[self._by_name[name].name] = fn
        if refreshes:
            self._refreshing.add(name)

    def on_undefined(self, fn: Callable[[int], None]) -> None:
        """Run ``fn(offset)`` at each access to a word that no register is at; it may raise `BusError`."""
        self._on_undefined = fn

    def read(self, offset: int, size: int) -> int:
        """Read as the bus does."""
        word = self._lookup(offset, size, "read")
        if size == 8:
            if word is not None and word.register.size == 8 and word.shift == 0:
                return self._read(word.register, word.index, word.register.mask)
            return self.read(offset, 4) | self.read(offset + 4, 4) << 32
        if word is None:
            return 0
        return self._read(word.register, word.index, _WORD << word.shift) >> word.shift

    def write(self, offset: int, size: int, value: int) -> None:
        """Write as the bus does."""
        word = self._lookup(offset, size, "write")
        if size == 8:
            if word is not None and word.register.size == 8 and word.shift == 0:
                self._write(word.register, word.index, value, word.register.mask)
            else:
                self.write(offset, 4, value & _WORD)
                self.write(offset + 4, 4, value >> 32)
        elif word is not None:
            self._write(word.register, word.index, value << word.shift, _WORD << word.shift)

    def inspect(self, offset: int, size: int) -> int:
        """Read as a debugger does: nothing is cleared, set off or logged; where no register is, zero."""
        if size not in (4, 8) or offset % size:
            raise BusError(offset, "SLVERR", f"{self.name}: {size}-byte peek at offset {fmt(offset)}")
        if size == 8:
            return self.inspect(offset, 4) | self.inspect(offset + 4, 4) << 32
        word = self._words.get(offset)
        if word is None:
            return 0
        name = word.register.name
        if name in self._refreshing:
            self._on_read[name](word.index)
        return self._values[name][word.index] >> word.shift & _WORD

    def describe(self) -> list[RegisterRow]:
        """Return the table for documentation, by offset."""
        rows = []
        for r in sorted(self.table, key=lambda register: register.offset):
            bits = [f"{f.high}:{f.low}" if f.high > f.low else f"{f.low}" for f in r.fields]
            fields = " · ".join(f"{b} {f.name}" for b, f in zip(bits, r.fields, strict=True))
            rows.append(
                RegisterRow(r.name, r.offset, r.size, r.count, r.stride, r.reset, access_of(r), fields, r.doc)
            )
        return rows

    def _lookup(self, offset: int, size: int, verb: str) -> _Word | None:
        """Return what is at a word offset; refuses sizes and alignments registers do not have."""
        if size not in (4, 8) or offset % size:
            if (offset, size) not in self._logged:
                self._logged.add((offset, size))
                _log.warning("%s: %d-byte %s at offset %s (SLVERR)", self.name, size, verb, fmt(offset))
            raise BusError(offset, "SLVERR", f"{self.name}: {size}-byte {verb} at offset {fmt(offset)}")
        word = self._words.get(offset)
        if word is None and size == 4:
            if (offset, size) not in self._logged:
                self._logged.add((offset, size))
                _log.warning(
                    "%s: %s of undefined register at offset %s (RAZ/WI)", self.name, verb, fmt(offset)
                )
            if self._on_undefined is not None:
                self._on_undefined(offset)
        return word

    def _read(self, register: Register, index: int, lanes: int) -> int:
        action = self._on_read.get(register.name)
        if action is not None:
            action(index)
        values = self._values[register.name]
        value = values[index]
        if register.read_clear:
            values[index] = value & ~(register.read_clear & lanes)
        return value & lanes

    def _write(self, register: Register, index: int, value: int, lanes: int) -> None:
        values = self._values[register.name]
        old = values[index]
        stored = register.writable & ~register.w1c & register.mask & lanes
        cleared = register.w1c & lanes & value
        values[index] = (old & ~stored & ~cleared) | (value & stored)
        action = self._on_write.get(register.name)
        if action is None:
            return
        if not register.low_acts:
            action(index, old, value | (old & ~lanes & ~register.w1c & register.mask))
        elif not lanes & 1:
            self._upper[register.name, index] = value
        else:
            upper = self._upper.pop((register.name, index), 0)
            action(index, old, value if lanes == register.mask else value | upper)


def access_of(register: Register) -> str:
    """How software may use a register, in the manuals' letters."""
    if register.access:
        return register.access
    if register.w1c:
        return "W1C" if not register.writable & ~register.w1c & register.mask else "RW/W1C"
    access = "RW" if register.writable else "RO/WO"
    return f"{access}, clears on read" if register.read_clear else access
