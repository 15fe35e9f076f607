"""The shape of translation tables: granule, input size, start level, root (Arm ARM, D8.2; facts, section 8).

A granule of ``1 << g`` bytes holds ``1 << (g - 3)`` descriptors, so each level decodes g - 3 bits. The start
level is the one whose table still decodes a bit of the input. Stage 2 may start one level lower and lay up to
sixteen tables side by side ("concatenated"); software tells it by TCR.SL0.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Final

#: Levels at which a leaf may be a block, by the granule's shift.
BLOCK_LEVELS: Final = {12: (1, 2), 14: (2,), 16: (2,)}

#: log2 of the entries of a contiguous group, by the granule's shift and the level.
_GROUP_BITS: Final = {
    (12, 1): 4, (12, 2): 4, (12, 3): 4,
    (14, 2): 5, (14, 3): 7,
    (16, 2): 5, (16, 3): 5,
}  # fmt: skip


def level_shift(level: int, granule_shift: int = 12) -> int:
    """Return the lowest address bit that a table of `level` decodes: 39, 30, 21, 12 for 4 KiB granules."""
    return granule_shift + (3 - level) * (granule_shift - 3)


def start_level(granule_shift: int, input_bits: int) -> int:
    """Return the start level without concatenation: ``4 - ceil((n - g) / (g - 3))``."""
    return 4 + (granule_shift - input_bits) // (granule_shift - 3)


@dataclass(frozen=True, slots=True)
class Geometry:
    """A legal shape; the default is a node's kernel's: 4 KiB, 48 bits, stage 1, the TTBR0 half.

    Raises `ValueError` for shapes that the architecture does not have. `start` is given for stage 2 only,
    where None asks for as few levels as concatenation allows.
    """

    granule_shift: int = 12
    input_bits: int = 48
    stage: int = 1
    upper: bool = False  # the TTBR1 half: addresses whose upper bits are all ones
    start: int | None = None

    start_level: int = field(init=False)
    page: int = field(init=False)  # bytes of a granule
    shifts: tuple[int, ...] = field(init=False)  # by level
    root_entries: int = field(init=False)
    first: int = field(init=False)  # the lowest address

    def __post_init__(self) -> None:
        g, n = self.granule_shift, self.input_bits
        if g not in (12, 14, 16):
            raise ValueError(f"granule_shift {g}: granules have 12, 14 or 16 bits")
        if not 25 <= n <= 48:
            raise ValueError(f"input_bits {n}: not 25 to 48")
        if self.stage not in (1, 2) or (self.stage == 2 and self.upper):
            raise ValueError(f"stage {self.stage}, upper {self.upper}: stage 1 has two halves, stage 2 one")
        shifts = tuple(level_shift(level, g) for level in range(4))
        plain = start_level(g, n)
        start = plain if self.start is None else self.start
        if self.stage == 1 and start != plain:
            raise ValueError(f"start {start}: stage 1 of {n} bits starts at level {plain}")
        if self.stage == 2:
            low = 0 if g == 12 else 1  # SL0 is 0 to 2
            if self.start is None and plain < low + 2 and n - shifts[plain + 1] <= g - 3 + 4:
                start = plain + 1
            if not low <= start <= low + 2 or not 1 <= n - shifts[start] <= g - 3 + 4:
                raise ValueError(f"start {start}: stage 2 of {n} bits cannot start there")
        for name, value in (
            ("start_level", start),
            ("page", 1 << g),
            ("shifts", shifts),
            ("root_entries", 1 << (n - shifts[start])),
            ("first", (1 << 64) - (1 << n) if self.upper else 0),
        ):
            object.__setattr__(self, name, value)

    @property
    def size(self) -> int:
        """Bytes of input."""
        return 1 << self.input_bits

    @property
    def entries(self) -> int:
        """Descriptors of a table below the root."""
        return self.page >> 3

    @property
    def root_bytes(self) -> int:
        """Bytes of the start table or tables, which are aligned to as much (64 at least)."""
        return 8 * self.root_entries

    @property
    def txsz(self) -> int:
        """TCR.T0SZ or T1SZ."""
        return 64 - self.input_bits

    @property
    def sl0(self) -> int:
        """TCR.SL0 of stage 2."""
        return (2 if self.granule_shift == 12 else 3) - self.start_level

    def entries_at(self, level: int) -> int:
        """Descriptors of a table of `level`."""
        return self.root_entries if level == self.start_level else self.page >> 3

    def has_blocks(self, level: int) -> bool:
        """Tell whether a leaf of `level` may be a block."""
        return level in BLOCK_LEVELS[self.granule_shift]

    def group(self, level: int) -> int:
        """Leaves of a contiguous group of `level`; 1 where a table is too small for one."""
        entries = 1 << _GROUP_BITS[self.granule_shift, level]
        return entries if entries <= self.entries_at(level) else 1
