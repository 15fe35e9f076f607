"""How the SMMU's register tables are written down: a line each, its fields as the manuals list them."""

from __future__ import annotations

from typing import Any

from unimem_node.bus.registers import Field, Register


def fields(text: str) -> tuple[Field, ...]:
    """Fields from ``"31 VALID, 30:16 MASK"``."""
    found = []
    for part in text.split(","):
        bits, name = part.split()
        high, _, low = bits.partition(":")
        found.append(Field(name, int(high), int(low or high)))
    return tuple(found)


def field_mask(of: tuple[Field, ...]) -> int:
    """All bits that belong to a field."""
    mask = 0
    for field in of:
        mask |= field.mask
    return mask


def rw(name: str, offset: int, doc: str, of: tuple[Field, ...] = (), **more: Any) -> Register:
    """A register software reads and writes: in its fields, when they are given."""
    if of and "writable" not in more:
        more["writable"] = field_mask(of)
    return Register(name, offset, fields=of, doc=doc, **more)


def command(name: str, offset: int, doc: str, of: tuple[Field, ...] = (), **more: Any) -> Register:
    """A register that only acts: reads as zero, stores nothing. One of 64 bits acts on its lower half."""
    low_acts = more.get("size", 4) == 8
    return Register(name, offset, writable=0, fields=of, doc=doc, access="WO", low_acts=low_acts, **more)


def ro(name: str, offset: int, value: int, doc: str, of: tuple[Field, ...] = (), **more: Any) -> Register:
    """A register that software only reads."""
    return Register(name, offset, reset=value, writable=0, fields=of, doc=doc, access="RO", **more)
