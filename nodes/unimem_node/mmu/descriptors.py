"""VMSAv8-64 stage-1 descriptors: building them and reading them (Arm ARM, D8.3; chip facts, section 8)."""

from __future__ import annotations

from dataclasses import dataclass
from enum import Enum
from typing import Final

from unimem.addresses import fmt

VALID: Final = 1 << 0
TABLE: Final = 1 << 1  # below level 3: a table; at level 3: a page
ATTR_SHIFT: Final = 2  # AttrIndx, bits 4:2
NS: Final = 1 << 5
AP_USER: Final = 1 << 6  # AP[1]
AP_READ_ONLY: Final = 1 << 7  # AP[2]
SH_INNER: Final = 3 << 8
AF: Final = 1 << 10
NOT_GLOBAL: Final = 1 << 11
CONTIGUOUS: Final = 1 << 52
PXN: Final = 1 << 53
UXN: Final = 1 << 54
PXN_TABLE: Final = 1 << 59
XN_TABLE: Final = 1 << 60
AP_TABLE_NO_USER: Final = 1 << 61
AP_TABLE_READ_ONLY: Final = 1 << 62
NS_TABLE: Final = 1 << 63

_BITS_47_0: Final = (1 << 48) - 1


class Kind(Enum):
    """What a descriptor is at its level."""

    INVALID = "invalid"
    RESERVED = "reserved"
    TABLE = "table"
    BLOCK = "block"
    PAGE = "page"


@dataclass(frozen=True, slots=True)
class Rights:
    """What a leaf allows, and how it is cached.

    Stage 1 has no write-only: ``write`` without ``read`` raises `ValueError`. ``read=False`` clears AP[1],
    which refuses unprivileged accesses; a privileged read cannot be refused.
    """

    read: bool = True
    write: bool = True
    execute: bool = False
    user: bool = True
    access_flag: bool = True
    global_: bool = False
    attr_index: int = 1

    def __post_init__(self) -> None:
        if self.write and not self.read:
            raise ValueError("write without read: stage 1 has no write-only pages")
        if not 0 <= self.attr_index <= 7:
            raise ValueError(f"attr_index {self.attr_index}: MAIR has entries 0 to 7")

    def bits(self) -> int:
        """Return the descriptor bits besides the address and the type."""
        return (
            (self.attr_index << ATTR_SHIFT)
            | (AP_USER if self.user and self.read else 0)
            | (0 if self.write else AP_READ_ONLY)
            | SH_INNER
            | (AF if self.access_flag else 0)
            | (0 if self.global_ else NOT_GLOBAL)
            | (0 if self.execute else PXN | UXN)
        )


def kind_of(descriptor: int, level: int, granule_shift: int = 12) -> Kind:
    """Tell what a descriptor is at `level` of tables with that granule."""
    if not descriptor & VALID:
        return Kind.INVALID
    if level == 3:
        return Kind.PAGE if descriptor & TABLE else Kind.RESERVED
    if descriptor & TABLE:
        return Kind.TABLE
    return Kind.BLOCK if level == 2 or (level == 1 and granule_shift == 12) else Kind.RESERVED


def level_shift(level: int, granule_shift: int = 12) -> int:
    """Return the lowest address bit that a table of `level` decodes: 39, 30, 21, 12 for 4 KiB granules."""
    return granule_shift + (3 - level) * (granule_shift - 3)


def address_of(descriptor: int, level: int, granule_shift: int = 12) -> int:
    """Return the address in a descriptor: the next table's, the block's or the page's."""
    leaf = kind_of(descriptor, level, granule_shift) is not Kind.TABLE
    shift = level_shift(level, granule_shift) if leaf else granule_shift
    return descriptor & _BITS_47_0 & -(1 << shift)


def leaf(pa: int, level: int, rights: Rights) -> int:
    """Return a block (levels 1, 2) or page (level 3) descriptor; `pa` must be aligned to what it maps."""
    if pa & ((1 << level_shift(level)) - 1) or pa >> 48:
        raise ValueError(f"{fmt(pa)} cannot be mapped at level {level}: not aligned or beyond 48 bits")
    return pa | rights.bits() | VALID | (TABLE if level == 3 else 0)


def rights_of(descriptor: int) -> Rights:
    """Return what a leaf descriptor of our own making allows (tables above it not considered).

    A user page that may not be read and a privileged page have the same bits; it is told as the latter.
    """
    return Rights(
        write=not descriptor & AP_READ_ONLY,
        execute=not descriptor & UXN,
        user=bool(descriptor & AP_USER),
        access_flag=bool(descriptor & AF),
        global_=not descriptor & NOT_GLOBAL,
        attr_index=(descriptor >> ATTR_SHIFT) & 7,
    )


def describe(descriptor: int, level: int, granule_shift: int = 12) -> str:
    """Put a descriptor into words, for diagnosis."""
    kind = kind_of(descriptor, level, granule_shift)
    if kind in (Kind.INVALID, Kind.RESERVED):
        return str(kind.value)
    words: list[str] = [kind.value, fmt(address_of(descriptor, level, granule_shift))]
    if kind is Kind.TABLE:
        flags = {
            PXN_TABLE: "PXNTable",
            XN_TABLE: "XNTable",
            AP_TABLE_NO_USER: "APTable[0]",
            AP_TABLE_READ_ONLY: "APTable[1]",
            NS_TABLE: "NSTable",
        }
        return " ".join(words + [name for bit, name in flags.items() if descriptor & bit])
    words.append("read-only" if descriptor & AP_READ_ONLY else "read-write")
    words.append("user" if descriptor & AP_USER else "privileged")
    words += [name for bit, name in {PXN: "PXN", UXN: "UXN", NOT_GLOBAL: "nG"}.items() if descriptor & bit]
    words.append("AF" if descriptor & AF else "AF=0")
    words.append(f"Attr{(descriptor >> ATTR_SHIFT) & 7}")
    return " ".join(words)
