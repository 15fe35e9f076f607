"""VMSAv8-64 descriptors of both stages: building and reading them (Arm ARM, D8.3; chip facts, section 8)."""

from __future__ import annotations

from dataclasses import dataclass
from enum import Enum
from typing import Final, TypedDict

from unimem.addresses import fmt
from unimem_node.mmu.geometry import BLOCK_LEVELS, level_shift

__all__ = [
    "GivenRights",
    "Kind",
    "NewRights",
    "Rights",
    "Stage2Rights",
    "address_of",
    "describe",
    "kind_of",
    "leaf",
    "level_shift",
    "rights_of",
    "stage_1_change",
    "stage_2_change",
    "stage_2_rights_of",
]

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

# Stage 2 where it differs.
MEMATTR_SHIFT: Final = 2  # MemAttr, bits 5:2
S2AP_READ: Final = 1 << 6
S2AP_WRITE: Final = 1 << 7
S2_XN: Final = 1 << 54

_BITS_47_0: Final = (1 << 48) - 1
_MEMATTR_WORDS: Final = {0x0: "Device-nGnRnE", 0x1: "Device-nGnRE", 0x5: "Non-cacheable", 0xF: "Write-back"}


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


@dataclass(frozen=True, slots=True)
class Stage2Rights:
    """What a stage-2 leaf allows, and its memory type.

    Write-only exists here. Execution needs `read` too. MemAttr: 0xF write-back, 0x5 non-cacheable, 1 device.
    """

    read: bool = True
    write: bool = True
    execute: bool = False
    access_flag: bool = True
    memattr: int = 0xF

    def __post_init__(self) -> None:
        if not 0 <= self.memattr <= 0xF:
            raise ValueError(f"memattr {self.memattr}: MemAttr has four bits")

    def bits(self) -> int:
        """Return the descriptor bits besides the address and the type."""
        return (
            (self.memattr << MEMATTR_SHIFT)
            | (S2AP_READ if self.read else 0)
            | (S2AP_WRITE if self.write else 0)
            | SH_INNER
            | (AF if self.access_flag else 0)
            | (0 if self.execute else S2_XN)
        )


class GivenRights(TypedDict, total=False):
    """Fields of `Rights`, or of `Stage2Rights`, as keyword arguments."""

    read: bool
    write: bool
    execute: bool
    access_flag: bool
    user: bool
    global_: bool
    attr_index: int
    memattr: int


class NewRights(TypedDict, total=False):
    """The same for a change; None leaves a property as it is."""

    read: bool | None
    write: bool | None
    execute: bool | None
    access_flag: bool | None
    user: bool | None
    global_: bool | None
    attr_index: int | None
    memattr: int | None


def kind_of(descriptor: int, level: int, granule_shift: int = 12) -> Kind:
    """Tell what a descriptor is at `level` of tables with that granule."""
    if not descriptor & VALID:
        return Kind.INVALID
    if level == 3:
        return Kind.PAGE if descriptor & TABLE else Kind.RESERVED
    if descriptor & TABLE:
        return Kind.TABLE
    return Kind.BLOCK if level in BLOCK_LEVELS[granule_shift] else Kind.RESERVED


def address_of(descriptor: int, level: int, granule_shift: int = 12) -> int:
    """Return the address in a descriptor: the next table's, the block's or the page's."""
    leaf = kind_of(descriptor, level, granule_shift) is not Kind.TABLE
    shift = level_shift(level, granule_shift) if leaf else granule_shift
    return descriptor & _BITS_47_0 & -(1 << shift)


def leaf(pa: int, level: int, rights: Rights | Stage2Rights, granule_shift: int = 12) -> int:
    """Return a block or page descriptor; `pa` must be aligned to what it maps."""
    if pa & ((1 << level_shift(level, granule_shift)) - 1) or pa >> 48:
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


def stage_2_rights_of(descriptor: int) -> Stage2Rights:
    """Return what a stage-2 leaf allows."""
    return Stage2Rights(
        read=bool(descriptor & S2AP_READ),
        write=bool(descriptor & S2AP_WRITE),
        execute=not descriptor & S2_XN,
        access_flag=bool(descriptor & AF),
        memattr=(descriptor >> MEMATTR_SHIFT) & 0xF,
    )


def stage_1_change(
    *,
    read: bool | None = None,
    write: bool | None = None,
    execute: bool | None = None,
    user: bool | None = None,
    access_flag: bool | None = None,
    global_: bool | None = None,
    attr_index: int | None = None,
) -> tuple[int, int]:
    """(mask, bits) that change what a stage-1 leaf allows; None leaves a property as it is."""
    if write and read is False:
        raise ValueError("write without read: stage 1 has no write-only pages")
    mask, bits = _change(
        (AP_USER, user if read is None else read and user is not False, False),
        (AP_READ_ONLY, write, True),
        (PXN | UXN, execute, True),
        (AF, access_flag, False),
        (NOT_GLOBAL, global_, True),
    )
    if attr_index is not None:
        if not 0 <= attr_index <= 7:
            raise ValueError(f"attr_index {attr_index}: MAIR has entries 0 to 7")
        mask |= 7 << ATTR_SHIFT
        bits |= attr_index << ATTR_SHIFT
    return mask, bits


def stage_2_change(
    *,
    read: bool | None = None,
    write: bool | None = None,
    execute: bool | None = None,
    access_flag: bool | None = None,
    memattr: int | None = None,
) -> tuple[int, int]:
    """(mask, bits) that change what a stage-2 leaf allows; None leaves a property as it is."""
    mask, bits = _change(
        (S2AP_READ, read, False), (S2AP_WRITE, write, False), (S2_XN, execute, True), (AF, access_flag, False)
    )
    if memattr is not None:
        mask |= 0xF << MEMATTR_SHIFT
        bits |= Stage2Rights(memattr=memattr).bits() & 0xF << MEMATTR_SHIFT
    return mask, bits


def _change(*flags: tuple[int, bool | None, bool]) -> tuple[int, int]:
    """(mask, bits) of (flag, value or None, whether the flag says the opposite)."""
    mask = bits = 0
    for flag, value, inverted in flags:
        if value is not None:
            mask |= flag
            bits |= flag if value != inverted else 0
    return mask, bits


def describe(descriptor: int, level: int, granule_shift: int = 12, stage: int = 1) -> str:
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
        return " ".join(words + [name for bit, name in flags.items() if descriptor & bit and stage == 1])
    words += _stage_1_words(descriptor) if stage == 1 else _stage_2_words(descriptor)
    if descriptor & CONTIGUOUS:
        words.append("contiguous")
    return " ".join(words)


def _stage_1_words(descriptor: int) -> list[str]:
    words = ["read-only" if descriptor & AP_READ_ONLY else "read-write"]
    words.append("user" if descriptor & AP_USER else "privileged")
    words += [name for bit, name in {PXN: "PXN", UXN: "UXN", NOT_GLOBAL: "nG"}.items() if descriptor & bit]
    words.append("AF" if descriptor & AF else "AF=0")
    words.append(f"Attr{(descriptor >> ATTR_SHIFT) & 7}")
    return words


def _stage_2_words(descriptor: int) -> list[str]:
    read, write = descriptor & S2AP_READ, descriptor & S2AP_WRITE
    words = [("read-write" if read else "write-only") if write else "read-only" if read else "no-access"]
    words += ["XN"] if descriptor & S2_XN else []
    words.append("AF" if descriptor & AF else "AF=0")
    memattr = descriptor >> MEMATTR_SHIFT & 0xF
    words.append(_MEMATTR_WORDS.get(memattr, f"MemAttr={memattr:#x}"))
    return words
