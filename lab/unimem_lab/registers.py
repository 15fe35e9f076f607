"""Live registers, decoded by field: what `unimem regs` shows.

The node describes its devices and their registers itself (`BusService.ListDevices`, `DescribeDevice`), so
this works for every platform and every device; values are *peeked* at, page by page, which changes nothing
on the node. What the values of a field mean is read from the table's own words ("0 simple, 1 scatter-gather")
and, for the SMMU, from `meanings`.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from fnmatch import fnmatchcase
from typing import Any, Final

from unimem.addresses import fmt
from unimem.errors import UsageError
from unimem.v1 import node_pb2
from unimem_lab.admin import Link
from unimem_lab.meanings import MEANINGS, OTHER_FORMS, computed

PAGE: Final = 0x1000
_CHOICE = re.compile(r"(?:^|[,;:] )(\d+) ([^,;]+)")
_INDEXED = re.compile(r"(.+?)\[(\d+)\]")
_SMMU = "MMU-500"
_SPACE_1 = ("CBAR", "CBFRSYNRA", "CBA2R")


@dataclass(frozen=True, slots=True)
class FieldValue:
    """One field of a value; `meaning` is empty where nobody knows one."""

    name: str
    high: int
    low: int
    value: int
    meaning: str


@dataclass(frozen=True, slots=True)
class RegisterValue:
    """One register as it was found."""

    name: str
    offset: int
    address: int
    value: int
    reset: int
    access: str
    doc: str
    fields: tuple[FieldValue, ...]


@dataclass(frozen=True, slots=True)
class Query:
    """What to show: ``device``, ``device/group``, ``device:REGISTER`` (with ``*``, ``?`` and ``[n]``)."""

    device: str
    group: str = ""
    pattern: str = ""

    @classmethod
    def parse(cls, text: str) -> Query:
        """From the command line; raises `UsageError`."""
        device, colon, pattern = text.partition(":")
        device, slash, group = device.partition("/")
        if not device or (colon and not pattern) or (slash and not group):
            raise UsageError(
                f"{text!r} names no block: write smmu, smmu/cb0, smmu/smr or smmu:CB_FSR", op="regs"
            )
        return cls(device, group.lower(), pattern.upper())

    def takes(self, name: str, index: int, count: int, what: str) -> bool:
        """Whether it asks for a register (the `index`-th of `count`) of what the device is."""
        if self.group and not _in_group(self.group, name, index, count, what):
            return False
        if not self.pattern:
            return True
        indexed = _INDEXED.fullmatch(self.pattern)
        if indexed and indexed[2].isdigit():
            return index == int(indexed[2]) and fnmatchcase(name.upper(), indexed[1])
        return fnmatchcase(name.upper(), self.pattern)


def _in_group(group: str, name: str, index: int, count: int, what: str) -> bool:
    if what == _SMMU:
        bank = re.fullmatch(r"cb(\d+)", group)
        if bank:
            return name.startswith("CB") and index == int(bank[1])
        if group == "smr":
            return name in ("SMR", "S2CR")
        if group == "gr1":
            return name in _SPACE_1
        if group == "gr0":
            return not name.startswith(("CB", "PM"))
    numbered = re.fullmatch(r"(.*?)(\d+)", group)
    if numbered and numbered[1] and count > 1:
        return name.lower().startswith(numbered[1]) and index == int(numbered[2])
    return name.lower().startswith(group)


def groups_of(what: str) -> str:
    """Groups that a kind of device has besides the beginnings of its registers' names, in words."""
    return "gr0, gr1, pm, smr, cb0, cb1, ..." if what == _SMMU else ""


class Block:
    """A device of a node, and its registers as they are now."""

    def __init__(self, link: Link, query: Query) -> None:
        listed: node_pb2.ListDevicesResponse = link.bus("ListDevices", node_pb2.ListDevicesRequest())
        about: node_pb2.DescribeDeviceResponse = link.bus(
            "DescribeDevice", node_pb2.DescribeDeviceRequest(name=query.device)
        )
        self.device = about.device
        self.streams = list(listed.streams)
        self.chosen = [
            (register, index)
            for register in about.registers
            for index in range(register.count)
            if query.takes(register.name, index, register.count, self.device.what)
        ]
        if not self.chosen:
            groups = groups_of(self.device.what)
            raise UsageError(
                f"{query.device} has no register {(query.pattern or query.group)!r}",
                op="regs",
                node=link.node.name,
                hint=(f"its groups are {groups}; " if groups else "")
                + f"its registers: {_some([r.name for r in about.registers])}",
            )
        self._by_name = {register.name: register for register in about.registers}
        self._pages: dict[int, bytes] = {}
        self._link = link

    def values(self) -> list[RegisterValue]:
        """Every register that was asked for, by offset."""
        found = [self._value(register, index) for register, index in self.chosen]
        return sorted(found, key=lambda value: value.offset)

    def _value(self, register: node_pb2.RegisterInfo, index: int) -> RegisterValue:
        offset = register.offset + index * register.stride
        value = self._peek(register, index)
        name = f"{register.name}[{index}]" if register.count > 1 else register.name
        return RegisterValue(
            name=name,
            offset=offset,
            address=self.device.base + offset,
            value=value,
            reset=register.reset + index * register.reset_step,
            access=register.access,
            doc=register.doc,
            fields=tuple(
                FieldValue(
                    field.name,
                    field.high,
                    field.low,
                    of(value, field),
                    self._meaning(register.name, field, value),
                )
                for field in self._fields(register, index)
            ),
        )

    def _peek(self, register: node_pb2.RegisterInfo, index: int) -> int:
        offset = register.offset + index * register.stride
        page = offset & -PAGE
        if page not in self._pages:
            length = min(PAGE, self.device.size - page)
            request = node_pb2.ReadRequest(address=self.device.base + page, length=length, peek=True)
            self._pages[page] = bytes(self._link.bus("Read", request).data)
        at = offset - page
        return int.from_bytes(self._pages[page][at : at + register.size], "little")

    def _fields(self, register: node_pb2.RegisterInfo, index: int) -> Sequence[node_pb2.FieldInfo]:
        """Fields of a register; two of the SMMU's have another form for other kinds of bank."""
        if self.device.what == _SMMU and register.name in ("CBAR", "CB_TCR"):
            kind = self._peek(self._by_name["CBAR"], index) >> 16 & 3
            form = OTHER_FORMS.get((register.name, kind))
            if form:
                return [node_pb2.FieldInfo(name=name, high=high, low=low) for name, high, low in form]
        return register.fields

    def _meaning(self, name: str, field: node_pb2.FieldInfo, value: int) -> str:
        part = of(value, field)
        if self.device.what == _SMMU:
            if field.name == "STREAM_ID" and value:
                return stream_words(self.streams, part)
            if name == "SMR" and field.name == "ID" and value >> 31:
                return _matched(self.streams, part, value >> 16 & 0x7FFF)
            if field.name in ("BASE", "PA"):
                return fmt(part << field.low)
            words = computed(name, field.name, part)
            if words:
                return words
        return choice(field.doc or MEANINGS.get(f"{name}.{field.name}", ""), part)


def _some(names: Sequence[str]) -> str:
    return ", ".join(names[:30]) + (", ..." if len(names) > 30 else "")


def of(value: int, field: node_pb2.FieldInfo) -> int:
    """A field of a register's value."""
    part: int = value >> field.low & ((1 << (field.high - field.low + 1)) - 1)
    return part


def choice(doc: str, value: int) -> str:
    """What `value` means in a text like ``0 simple, 1 scatter-gather``; empty when it does not say."""
    choices: dict[int, str] = {int(number): words.strip() for number, words in _CHOICE.findall(doc)}
    return choices.get(value, "")


def stream_words(streams: Iterable[node_pb2.StreamRange], stream: int) -> str:
    """Whose stream that is: ``cdma0 (port HPC0 AXI ID 0)``."""
    inner = sorted((s for s in streams if s.first <= stream < s.first + s.count), key=lambda s: s.count)
    words: list[str] = [f"{s.name} {s.member} {stream - s.first}" if s.member else s.name for s in inner]
    if not words:
        return "nobody's stream"
    return words[0] if len(words) == 1 else f"{words[0]} ({', '.join(words[1:])})"


def _matched(streams: Sequence[node_pb2.StreamRange], stream: int, mask: int) -> str:
    """Whose the streams are that an entry matches."""
    if not mask:
        return stream_words(streams, stream)
    names = [s.name for s in streams if _touches(s, stream, mask)]
    shown = ", ".join(names[:4]) + (", ..." if len(names) > 4 else "")
    return f"streams of {shown}" if names else "nobody's streams"


def _touches(streams: node_pb2.StreamRange, stream: int, mask: int) -> bool:
    ids = range(streams.first, streams.first + streams.count)
    return any((id_ ^ stream) & ~mask & 0x7FFF == 0 for id_ in ids)


def as_json(value: RegisterValue) -> dict[str, Any]:
    """A register for --json."""
    return {
        "name": value.name,
        "offset": value.offset,
        "address": value.address,
        "value": value.value,
        "reset": value.reset,
        "access": value.access,
        "doc": value.doc,
        "fields": [
            {
                "name": f.name,
                "high": f.high,
                "low": f.low,
                "value": f.value,
                **({"meaning": f.meaning} if f.meaning else {}),
            }
            for f in value.fields
        ],
    }


def field_words(value: RegisterValue) -> str:
    """The fields that say something: those that are not zero, and zeros that mean something."""
    shown = []
    for field in value.fields:
        if not field.value and not (field.meaning and field.high > field.low and value.value != value.reset):
            continue
        number = hex(field.value) if field.high - field.low > 3 else str(field.value)
        words = f"{field.name}={number}" if field.high > field.low else field.name
        shown.append(f"{words} ({field.meaning})" if field.meaning else words)
    return " · ".join(shown)
