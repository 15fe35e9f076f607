"""Every bit of ZDMA_CH_ISR: what sets it, alone or with what else; its line, mask and clearing."""

from __future__ import annotations

from collections.abc import Callable

import pytest

from support.zdma import (
    BYTE_OVERFLOW,
    CMD_PAUSE,
    CMD_STOP,
    CTRL2,
    DONE,
    DST_ACCT_ERR,
    DST_DONE,
    FPD,
    IEN,
    IMR,
    INTR,
    INV_APB,
    ISR,
    LPD,
    PAUSE,
    RD_DATA,
    RD_DST_DSCR,
    RD_SRC_DSCR,
    SRC_ACCT_ERR,
    SRC_DONE,
    ST_DONE,
    ST_ERROR,
    ST_PAUSED,
    STATUS,
    WR_DATA,
    Dscr,
    put,
    start,
)
from unimem_node import Mpsoc

SRC, DST, SRC_LIST, DST_LIST, NOWHERE = 0x1_0000, 0x2_0000, 0x3_0000, 0x4_0000, 0x7_0000_0000


def lists(soc: Mpsoc, base: int, src: list[Dscr], dst: list[Dscr]) -> None:
    put(soc, SRC_LIST, src)
    put(soc, DST_LIST, dst)
    start(soc, SRC_LIST, DST_LIST, base=base)


STOPPING, FILLED = Dscr(SRC, 8, CMD_STOP), Dscr(DST, 8)


def one(soc: Mpsoc, base: int, src: Dscr = STOPPING, dst: Dscr = FILLED) -> None:
    """A descriptor on each side."""
    lists(soc, base, [src], [dst])


def fetched_from_nowhere(soc: Mpsoc, base: int) -> None:
    put(soc, SRC_LIST, [STOPPING])
    start(soc, SRC_LIST, NOWHERE, base=base)


def overflowing(soc: Mpsoc, base: int) -> None:
    channel = next(c for c in soc.zdma.values() if c.spec.base == base)
    channel.registers.poke("TOTAL_BYTE", 0xFFFF_FFFC)
    one(soc, base)


#: bit, what sets it, the bits then in ISR, STATUS
ROWS: list[tuple[str, Callable[[Mpsoc, int], None], int, int]] = [
    ("INV_APB", lambda soc, at: soc.bus.write32(at + 0x2FC, 0), INV_APB, ST_DONE),
    ("SRC_DSCR_DONE", lambda soc, at: one(soc, at, Dscr(SRC, 8, CMD_STOP | INTR)), SRC_DONE | DONE, ST_DONE),
    ("DST_DSCR_DONE", lambda soc, at: one(soc, at, dst=Dscr(DST, 8, INTR)), DST_DONE | DONE, ST_DONE),
    ("BYTE_CNT_OVRFL", overflowing, BYTE_OVERFLOW | DONE, ST_DONE),
    (
        "IRQ_SRC_ACCT_ERR",
        lambda soc, at: lists(
            soc, at, [*[Dscr(SRC, 1, INTR)] * 255, Dscr(SRC, 1, INTR | CMD_STOP)], [Dscr(DST, 999)]
        ),
        SRC_ACCT_ERR | SRC_DONE | DONE,
        ST_DONE,
    ),
    (
        "IRQ_DST_ACCT_ERR",
        lambda soc, at: lists(soc, at, [Dscr(SRC, 256, CMD_STOP)], [Dscr(DST, 1, INTR)] * 256),
        DST_ACCT_ERR | DST_DONE | DONE,
        ST_DONE,
    ),
    ("AXI_RD_SRC_DSCR", lambda soc, at: start(soc, NOWHERE, 0, base=at), RD_SRC_DSCR | DONE, ST_ERROR),
    ("AXI_RD_DST_DSCR", fetched_from_nowhere, RD_DST_DSCR | DONE, ST_ERROR),
    ("AXI_RD_DATA", lambda soc, at: one(soc, at, Dscr(NOWHERE, 8, CMD_STOP)), RD_DATA | DONE, ST_ERROR),
    ("AXI_WR_DATA", lambda soc, at: one(soc, at, dst=Dscr(NOWHERE, 8)), WR_DATA | DONE, ST_ERROR),
    ("DMA_DONE", one, DONE, ST_DONE),
    ("DMA_PAUSE", lambda soc, at: one(soc, at, Dscr(SRC, 8, CMD_PAUSE)), PAUSE, ST_PAUSED),
]


@pytest.mark.parametrize(("base", "spi"), [(FPD, 124), (LPD + 0x3_0000, 80)], ids=["fpd0", "lpd3"])
@pytest.mark.parametrize(
    ("position", "trigger", "bits", "status"),
    [(n, *row[1:]) for n, row in enumerate(ROWS)],
    ids=[row[0] for row in ROWS],
)
def test_an_interrupt_bit(
    base: int, spi: int, position: int, trigger: Callable[[Mpsoc, int], None], bits: int, status: int
) -> None:
    soc = Mpsoc(memory_bytes=1 << 20, pl_masters=[])
    trigger(soc, base)
    soc.run()
    assert bits >> position & 1, "the row is that of its bit"
    assert soc.bus.read32(base + ISR) == bits
    assert soc.bus.read32(base + STATUS) == status
    assert soc.bus.read32(base + CTRL2) == (status == ST_PAUSED)
    assert soc.interrupts.pending() == [], "everything is masked out of reset"
    soc.bus.write32(base + IEN, 1 << position)
    assert soc.bus.read32(base + IMR) == 0xFFF & ~(1 << position)
    assert soc.interrupts.pending() == [spi]
    soc.bus.write32(base + ISR, 1 << position)
    assert soc.bus.read32(base + ISR) == bits & ~(1 << position)
    assert soc.interrupts.pending() == []
