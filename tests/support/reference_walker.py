"""VMSAv8-64 translation as the book says it: stage 1, stage 2, and stage 1 nested in stage 2.

Written from the architecture's rules (Arm ARM, D8; chip facts, sections 5 and 8), not from the compiled walk,
of which it shares nothing but `Regime`, the names of the fields. It looks at one access, stops at the first
thing that is wrong, and says what and where: value and syndrome. Short before fast.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace

from unimem_node.mmu.regime import Regime

TF, AFF, PF, EF, ASF = 1, 2, 3, 4, 7  # bit positions in FSR
WRITE, PRIVILEGED, EXECUTE = 1, 2, 4  # of an access; a read has none of them

#: Levels whose leaves may be blocks.
BLOCK_LEVELS = {12: (1, 2), 14: (2,), 16: (2,)}
#: Entries of a contiguous group by (granule, level).
GROUPS = {(12, 1): 16, (12, 2): 16, (12, 3): 16, (14, 2): 32, (14, 3): 128, (16, 2): 32, (16, 3): 32}

#: The 64-bit word at a physical address, little-endian, or None where no memory is.
Memory = Callable[[int], int | None]


@dataclass(frozen=True)
class Fault:
    """What is wrong: `ipa` and `ptwf` are those of a stage-2 fault."""

    kind: int
    stage: int
    level: int
    ipa: int | None = None
    ptwf: bool = False


@dataclass(frozen=True)
class Found:
    """Where an access goes. The entry covers `size` bytes at least, `largest` at most (contiguous hint)."""

    pa: int
    size: int
    largest: int
    level: int
    memory_type: int = 0xFF  # stage 1: MAIR's byte
    level2: int = 0
    memattr: int = 0xF  # stage 2
    global_: bool = True
    ns: bool = False


class Stop(Exception):  # noqa: N818 - not an error: how a walk ends
    """The walk has met a fault."""

    def __init__(self, fault: Fault) -> None:
        super().__init__(fault)
        self.fault = fault


def translate(
    memory: Memory, va: int, access: int, *, s1: Regime | None = None, s2: Regime | None = None
) -> Found | Fault:
    """Translate an access through stage 1, stage 2, or both; `va` is the IPA when there is no stage 1."""
    try:
        if s1 is None:
            assert s2 is not None
            return stage_2(memory, s2, va, access)
        found = stage_1(memory, s1, s2, va, access)
        if s2 is None:
            return found
        second = stage_2(memory, s2, found.pa, access)
        return replace(
            found, pa=second.pa, level2=second.level2, memattr=second.memattr,
            size=min(found.size, second.size), largest=min(found.largest, second.largest),
        )  # fmt: skip
    except Stop as stop:
        return stop.fault


def level_shift(g: int, level: int) -> int:
    """The lowest address bit that a table of this level decodes."""
    return g + (3 - level) * (g - 3)


def base_of(ttbr: int, n: int, shift: int) -> int:
    """The start table's address: aligned to its own size, 64 bytes at least."""
    size = max(8 << (n - shift), 64)
    return ttbr % (1 << 48) // size * size


def descriptor_at(memory: Memory, pa: int, big_endian: bool) -> int | None:
    """A descriptor as the regime reads it."""
    word = memory(pa)
    if word is None or not big_endian:
        return word
    return int.from_bytes(word.to_bytes(8, "little"), "big")


def is_leaf(descriptor: int, g: int, level: int) -> bool | None:
    """True: block or page; False: table; None: invalid or reserved."""
    kind = descriptor & 3
    if kind == 3:
        return level == 3
    return True if kind == 1 and level in BLOCK_LEVELS[g] else None


def largest_of(descriptor: int, g: int, level: int, n: int) -> int:
    """What an entry may cover: with the contiguous hint the whole group, if the input has room for it."""
    size = 1 << level_shift(g, level)
    group = size * GROUPS[g, level]
    return group if descriptor >> 52 & 1 and group <= 1 << n else size


def stage_1(memory: Memory, r: Regime, s2: Regime | None, va: int, access: int) -> Found:
    """Translate a VA; every descriptor lies at an IPA, which `s2` translates if it is there."""

    def stop(kind: int, level: int) -> Stop:
        return Stop(Fault(kind, 1, level))

    upper = va >> 55 & 1
    n = 64 - (r.t1sz if upper else r.t0sz)
    g = r.granule_shift1 if upper else r.granule_shift0
    if r.tbi1 if upper else r.tbi0:
        va = va % (1 << 56) + (0xFF << 56 if upper else 0)
    if g not in (12, 14, 16) or not 25 <= n <= 48:
        raise stop(TF, 0)
    if va >> n != ((1 << (64 - n)) - 1 if upper else 0) or (r.epd1 if upper else r.epd0):
        raise stop(TF, 0)
    level = 4 - -(-(n - g) // (g - 3))
    table = base_of(r.ttbr1 if upper else r.ttbr0, n, level_shift(g, level))
    if table >> r.ips_bits:
        raise stop(ASF, 0)
    width = n - level_shift(g, level)
    pxn = xn = ap1_off = ap2 = ns = 0
    while True:
        where = table + 8 * ((va >> level_shift(g, level)) % (1 << width))
        if s2 is not None:
            where = translated_table(memory, s2, where)
        descriptor = descriptor_at(memory, where, r.big_endian)
        if descriptor is None:
            raise stop(EF, level)
        leaf = is_leaf(descriptor, g, level)
        if leaf is None:
            raise stop(TF, level)
        if leaf:
            break
        table = descriptor % (1 << 48) >> g << g
        if table >> r.ips_bits:
            raise stop(ASF, level)
        pxn |= descriptor >> 59 & 1
        xn |= descriptor >> 60 & 1
        ap1_off |= descriptor >> 61 & 1
        ap2 |= descriptor >> 62 & 1
        ns |= descriptor >> 63
        level, width = level + 1, g - 3
    if not descriptor >> 10 & 1 and r.af_enabled:
        raise stop(AFF, level)
    user = bool(descriptor >> 6 & 1) and not ap1_off
    writable = not (ap2 or descriptor >> 7 & 1)
    pxn |= descriptor >> 53 & 1
    xn |= descriptor >> 54 & 1
    if not stage_1_allows(access, user=user, writable=writable, pxn=pxn, xn=xn, wxn=r.wxn):
        raise stop(PF, level)
    shift = level_shift(g, level)
    pa = descriptor % (1 << 48) >> shift << shift
    if pa >> r.ips_bits:
        raise stop(ASF, level)
    return Found(
        pa=pa + va % (1 << shift), size=1 << shift, largest=largest_of(descriptor, g, level, n), level=level,
        memory_type=r.mair >> 8 * (descriptor >> 2 & 7) & 0xFF,
        global_=not descriptor >> 11 & 1, ns=bool(ns or descriptor >> 5 & 1),
    )  # fmt: skip


def stage_1_allows(access: int, *, user: bool, writable: bool, pxn: int, xn: int, wxn: bool) -> bool:
    """The permission table, with hierarchical attributes applied already."""
    if access & EXECUTE:
        if access & PRIVILEGED:
            return not pxn and not (user and writable) and not (wxn and writable)
        return not xn and not (wxn and user and writable)
    if not access & PRIVILEGED and not user:
        return False
    return writable or not access & WRITE


def translated_table(memory: Memory, s2: Regime, ipa: int) -> int:
    """Where a stage-1 descriptor lies: stage 2 must let the walk read it."""
    try:
        found = stage_2(memory, s2, ipa, 0)
        if s2.ptw and found.memattr >> 2 == 0:  # Device memory
            raise Stop(Fault(PF, 2, found.level2, ipa))
    except Stop as stop:
        raise Stop(replace(stop.fault, ptwf=True)) from None
    return found.pa


def stage_2_start(r: Regime) -> int | None:
    """The start level that SL0 and T0SZ ask for, or None when there is no such."""
    n, g, sl0 = 64 - r.t0sz, r.granule_shift0, r.sl0
    if g not in (12, 14, 16) or not 25 <= n <= 48 or sl0 == 3:
        return None
    level = (2 if g == 12 else 3) - sl0
    if level == 0 and (g != 12 or r.pa_max <= 42):
        return None
    if level == 1 and g != 12 and r.pa_max <= (40 if g == 14 else 42):
        return None
    entries_bits = n - level_shift(g, level)  # log2 of the entries of all start tables
    return level if 1 <= entries_bits <= g - 3 + 4 else None


def stage_2(memory: Memory, r: Regime, ipa: int, access: int) -> Found:
    """Translate an IPA."""

    def stop(kind: int, level: int) -> Stop:
        return Stop(Fault(kind, 2, level, ipa % (1 << 48)))

    n, g = 64 - r.t0sz, r.granule_shift0
    start = stage_2_start(r)
    if start is None or ipa >> n:
        raise stop(TF, 0)
    level = start
    table = base_of(r.ttbr0, n, level_shift(g, level))
    if table >> r.ips_bits:
        raise stop(ASF, 0)
    width = n - level_shift(g, level)
    while True:
        descriptor = descriptor_at(
            memory, table + 8 * ((ipa >> level_shift(g, level)) % (1 << width)), r.big_endian
        )
        if descriptor is None:
            raise stop(EF, level)
        leaf = is_leaf(descriptor, g, level)
        if leaf is None:
            raise stop(TF, level)
        if leaf:
            break
        table = descriptor % (1 << 48) >> g << g
        if table >> r.ips_bits:
            raise stop(ASF, level)
        level, width = level + 1, g - 3
    if not descriptor >> 10 & 1 and r.af_enabled:
        raise stop(AFF, level)
    read, write, xn = descriptor >> 6 & 1, descriptor >> 7 & 1, descriptor >> 54 & 1
    if not (read and not xn if access & EXECUTE else write if access & WRITE else read):
        raise stop(PF, level)
    shift = level_shift(g, level)
    pa = descriptor % (1 << 48) >> shift << shift
    if pa >> r.ips_bits:
        raise stop(ASF, level)
    return Found(
        pa=pa + ipa % (1 << shift), size=1 << shift, largest=largest_of(descriptor, g, level, n), level=level,
        level2=level, memattr=descriptor >> 2 & 15,
    )  # fmt: skip
