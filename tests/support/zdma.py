"""A ZDMA channel over the bus: offsets, bits and descriptors, typed from UG1085 and xzdma_hw.h."""

from __future__ import annotations

from collections.abc import Iterable
from typing import NamedTuple

from unimem_node import Mpsoc

FPD, LPD = 0xFD50_0000, 0xFFA8_0000
ERR_CTRL, ISR, IMR, IEN, IDS, CTRL0, CTRL1, STATUS, DATA_ATTR = (
    0x000, 0x100, 0x104, 0x108, 0x10C, 0x110, 0x114, 0x11C, 0x120,
)  # fmt: skip
SRC_START, DST_START, SRC_PYLD, DST_PYLD, SRC_DSCR, DST_DSCR = 0x158, 0x160, 0x168, 0x170, 0x178, 0x180
TOTAL_BYTE, RATE_CNTL, SRC_ACCT, DST_ACCT, CTRL2 = 0x188, 0x18C, 0x190, 0x194, 0x200

INV_APB, SRC_DONE, DST_DONE, BYTE_OVERFLOW, SRC_ACCT_ERR, DST_ACCT_ERR = (1 << n for n in range(6))
RD_SRC_DSCR, RD_DST_DSCR, RD_DATA, WR_DATA, DONE, PAUSE = (1 << n for n in range(6, 12))
ST_DONE, ST_PAUSED, ST_BUSY, ST_ERROR = range(4)
SG, RATE, CONT_ADDR, CONT = 1 << 6, 1 << 3, 1 << 2, 1 << 1
CMD_PAUSE, CMD_STOP, INTR, LINKED = 1 << 3, 2 << 3, 1 << 2, 1 << 1


class Dscr(NamedTuple):
    """A descriptor; `link` makes it a linked one."""

    address: int
    size: int
    flags: int = 0
    link: int | None = None

    def bytes(self) -> bytes:
        flags = self.flags | (LINKED if self.link is not None else 0)
        words = [self.address & 0xFFFF_FFFF, self.address >> 32, self.size, flags]
        if self.link is not None:
            words += [self.link & 0xFFFF_FFFF, self.link >> 32, 0, 0]
        return b"".join(word.to_bytes(4, "little") for word in words)


def put(soc: Mpsoc, at: int, descriptors: Iterable[Dscr]) -> None:
    """Write descriptors one behind the other at a physical address."""
    soc.memory.write(at, b"".join(d.bytes() for d in descriptors))


def start(soc: Mpsoc, src_list: int, dst_list: int, *, base: int = FPD, control: int = 0) -> None:
    """Start scatter-gather at two lists."""
    soc.bus.write64(base + SRC_START, src_list)
    soc.bus.write64(base + DST_START, dst_list)
    soc.bus.write32(base + CTRL0, 0x80 | SG | control)
    soc.bus.write32(base + CTRL2, 1)


def result(soc: Mpsoc, base: int = FPD) -> tuple[int, int, int]:
    """(ISR, STATUS, EN)"""
    return tuple(soc.bus.read32(base + at) for at in (ISR, STATUS, CTRL2))  # type: ignore[return-value]
