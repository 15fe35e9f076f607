"""ZDMA programs that run on any machine with ZynqMP's channels: what memory holds, and what software does.

Offsets and bits are typed here from xzdma_hw.h and UG1085 (tables 19-1 to 19-3), not taken from the model.
"""

from __future__ import annotations

import struct
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from typing import Final

FPD: Final = tuple(0xFD50_0000 + (n << 16) for n in range(8))
LPD: Final = tuple(0xFFA8_0000 + (n << 16) for n in range(8))
SPI: Final = {base: spi + n for bases, spi in ((FPD, 124), (LPD, 77)) for n, base in enumerate(bases)}

ERR_CTRL, ISR, IMR, IEN, IDS, CTRL0, CTRL1, FCI, STATUS = (
    0x000, 0x100, 0x104, 0x108, 0x10C, 0x110, 0x114, 0x118, 0x11C,
)  # fmt: skip
DATA_ATTR, DSCR_ATTR, SRC_WORD, DST_WORD, WR_ONLY_WORD = 0x120, 0x124, 0x128, 0x138, 0x148
SRC_START, DST_START, SRC_CUR_PYLD, DST_CUR_PYLD, SRC_CUR_DSCR, DST_CUR_DSCR = (
    0x158, 0x160, 0x168, 0x170, 0x178, 0x180,
)  # fmt: skip
TOTAL_BYTE, RATE_CNTL, IRQ_SRC_ACCT, IRQ_DST_ACCT, CTRL2 = 0x188, 0x18C, 0x190, 0x194, 0x200

NAMES: Final = {
    0x000: "ERR_CTRL", 0x100: "ISR", 0x104: "IMR", 0x108: "IEN", 0x10C: "IDS", 0x110: "CTRL0",
    0x114: "CTRL1", 0x118: "FCI", 0x11C: "STATUS", 0x120: "DATA_ATTR", 0x124: "DSCR_ATTR",
    0x128: "SRC_WORD0", 0x12C: "SRC_WORD1", 0x130: "SRC_WORD2", 0x134: "SRC_WORD3", 0x138: "DST_WORD0",
    0x13C: "DST_WORD1", 0x140: "DST_WORD2", 0x144: "DST_WORD3", 0x148: "WR_ONLY_WORD0",
    0x14C: "WR_ONLY_WORD1", 0x150: "WR_ONLY_WORD2", 0x154: "WR_ONLY_WORD3", 0x158: "SRC_START_LSB",
    0x15C: "SRC_START_MSB", 0x160: "DST_START_LSB", 0x164: "DST_START_MSB", 0x168: "SRC_CUR_PYLD_LSB",
    0x16C: "SRC_CUR_PYLD_MSB", 0x170: "DST_CUR_PYLD_LSB", 0x174: "DST_CUR_PYLD_MSB",
    0x178: "SRC_CUR_DSCR_LSB", 0x17C: "SRC_CUR_DSCR_MSB", 0x180: "DST_CUR_DSCR_LSB",
    0x184: "DST_CUR_DSCR_MSB", 0x188: "TOTAL_BYTE", 0x18C: "RATE_CNTL", 0x190: "IRQ_SRC_ACCT",
    0x194: "IRQ_DST_ACCT", 0x198: "DBG0", 0x19C: "DBG1", 0x200: "CTRL2",
}  # fmt: skip

INV_APB, SRC_DONE, DST_DONE, BYTE_OVERFLOW, SRC_ACCT_ERR, DST_ACCT_ERR = (1 << n for n in range(6))
RD_SRC_DSCR, RD_DST_DSCR, RD_DATA, WR_DATA, DONE, PAUSE = (1 << n for n in range(6, 12))

OVR_FETCH, SCATTER_GATHER, CONT_ADDR, CONT = 0x80, 0x40, 0x04, 0x02
READ_WRITE, WRITE_ONLY, READ_ONLY = 0x00, 0x10, 0x20

#: DATA_ATTR after reset (both sides INCR), and with a FIXED side.
INCR, FIXED_SOURCE, FIXED_DESTINATION, FIXED_BOTH = 0x0483_D20F, 0x0083_D20F, 0x0483_C20F, 0x0083_C20F

#: Fields of a descriptor's word 3.
COHERENT, LINKED, INTR, CMD_PAUSE, CMD_STOP = 0x01, 0x02, 0x04, 0x08, 0x10

#: Where programs keep things; outside is nothing to compare.
SOURCE, DESTINATION, SRC_TABLE, DST_TABLE = 0x10_0000, 0x11_0000, 0x12_0000, 0x12_4000
SOURCE_SIZE, DESTINATION_SIZE, TABLE_SIZE = 0x5000, 0x6000, 0x2000
DATA: Final = bytes((7 * n + (n >> 8) * 31) & 0xFF for n in range(SOURCE_SIZE))


@dataclass(frozen=True, slots=True)
class Write:
    """Software writes a register of the channel."""

    at: int
    value: int

    def __str__(self) -> str:
        return f"{NAMES.get(self.at, hex(self.at))} := {self.value:#x}"


@dataclass(frozen=True, slots=True)
class Read:
    """Software reads a register of the channel, which may have an effect."""

    at: int

    def __str__(self) -> str:
        return f"read {NAMES.get(self.at, hex(self.at))}"


@dataclass(frozen=True, slots=True)
class Store:
    """Software writes memory."""

    address: int
    data: bytes

    def __str__(self) -> str:
        return f"memory {self.address:#x} := {len(self.data)} bytes"


Step = Write | Read | Store


@dataclass(frozen=True, slots=True)
class Program:
    """What software does with the channel at `base`, out of reset, after `memory` was set.

    `windows` are compared at the end, beside the registers; programs keep their data in them.
    """

    steps: tuple[Step, ...]
    memory: tuple[tuple[int, bytes], ...] = ()
    base: int = FPD[0]
    windows: tuple[tuple[int, int], ...] = field(
        default=(
            (SOURCE, SOURCE_SIZE),
            (DESTINATION, DESTINATION_SIZE),
            (SRC_TABLE, TABLE_SIZE),
            (DST_TABLE, TABLE_SIZE),
        ),
        repr=False,
    )

    @property
    def width(self) -> int:
        """Bytes of a beat: GDMA 128, ADMA 64 bit."""
        return 16 if self.base in FPD else 8

    def __str__(self) -> str:
        lines = [f"channel {self.base:#x}"]
        lines += [f"memory {address:#x}: {data.hex()}" for address, data in self.memory]
        return "\n".join([*lines, *map(str, self.steps)])


# ---- how software does things


def write64(at: int, value: int) -> list[Step]:
    return [Write(at, value & 0xFFFF_FFFF), Write(at + 4, value >> 32)]


def simple(
    n: int,
    *,
    source: int = SOURCE,
    destination: int = DESTINATION,
    mode: int = READ_WRITE,
    attributes: int = INCR,
    src_flags: int = 0,
    dst_flags: int = 0,
    dst_size: int | None = None,
    pattern: Sequence[int] = (),
) -> list[Step]:
    """A transfer by registers. The size goes where `mode` takes it from; `dst_size` to the other side too."""
    return [
        Write(CTRL0, OVR_FETCH | mode),
        Write(DATA_ATTR, attributes),
        *write64(SRC_WORD, source),
        Write(SRC_WORD + 8, n if mode != WRITE_ONLY else 0),
        Write(SRC_WORD + 12, src_flags),
        *write64(DST_WORD, destination),
        Write(DST_WORD + 8, n if dst_size is None else dst_size),
        Write(DST_WORD + 12, dst_flags),
        *(Write(WR_ONLY_WORD + 4 * i, word) for i, word in enumerate(pattern)),
        Write(CTRL2, 1),
    ]


def start(src: int = SRC_TABLE, dst: int = DST_TABLE, *, control: int = OVR_FETCH) -> list[Step]:
    """Scatter-gather from two tables."""
    return [
        *write64(SRC_START, src),
        *write64(DST_START, dst),
        Write(CTRL0, SCATTER_GATHER | control),
        Write(CTRL2, 1),
    ]


def resume(control: int = OVR_FETCH) -> Write:
    """Go on after a pause."""
    return Write(CTRL0, SCATTER_GATHER | CONT | control)


def accounts() -> list[Step]:
    """Read, and so clear, the interrupt accounts."""
    return [Read(IRQ_SRC_ACCT), Read(IRQ_DST_ACCT)]


def descriptor(address: int, size: int, flags: int = 0, following: int | None = None) -> bytes:
    """16 bytes, or 32 of one that is linked to `following`."""
    if following is None:
        return struct.pack("<QII", address, size, flags)
    return struct.pack("<QIIQQ", address, size, flags | LINKED, following, 0)


def table(*descriptors: bytes) -> bytes:
    return b"".join(descriptors)


def program(*parts: Step | Iterable[Step], src: bytes = b"", dst: bytes = b"", base: int = FPD[0]) -> Program:
    """A program of steps and lists of them, with descriptors at SRC_TABLE and DST_TABLE."""
    steps: list[Step] = []
    for part in parts:
        steps += [part] if isinstance(part, Write | Read | Store) else list(part)
    memory = tuple((at, data) for at, data in ((SRC_TABLE, src), (DST_TABLE, dst)) if data)
    return Program(tuple(steps), memory, base)
