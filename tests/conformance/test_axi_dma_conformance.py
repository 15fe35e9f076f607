"""AXI DMA: every register and every interrupt and error bit of both channels (xaxidma_hw.h, PG021)."""

from __future__ import annotations

from collections.abc import Callable

import pytest

from support.axi import (
    COMPLETE,
    DEC_ERR,
    DLY,
    EOF,
    ERR,
    HALTED,
    IDLE,
    INT_ERR,
    IOC,
    RESET,
    SG_DEC_ERR,
    SG_INCLUDED,
    SG_INT_ERR,
    SG_SLV_ERR,
    SLV_ERR,
    SOF,
    dma_bd,
)
from unimem_node import Mpsoc

DMA = 0xA002_0000
MM2S, S2MM = 0x00, 0x30
SPIS = {MM2S: 95, S2MM: 96}
CR, SR, RUN = 0x00, 0x04, 1 << 0
SRC, DST, NOWHERE = 0x1_0000, 0x2_0000, 0x7_0000_0000
LISTS = {MM2S: 0x3_0000, S2MM: 0x4_0000}

#: name, offset in a channel, reset, bits that software can set while halted; a build with scatter-gather
LIST_ROWS = [
    ("DMACR", 0x00, 0x0001_0000, 0xFFFF_7019),
    ("DMASR", 0x04, HALTED | SG_INCLUDED, HALTED | SG_INCLUDED),
    ("CURDESC", 0x08, 0, 0xFFFF_FFC0),
    ("CURDESC_MSB", 0x0C, 0, 0x0001_FFFF),
    ("TAILDESC", 0x10, 0, 0xFFFF_FFC0),
    ("TAILDESC_MSB", 0x14, 0, 0x0001_FFFF),
    ("(no address)", 0x18, 0, 0),
    ("(no length)", 0x28, 0, 0),
]
#: ... and one in direct register mode
DIRECT_ROWS = [
    ("DMACR", 0x00, 0x0001_0000, 0xFFFF_7009),
    ("DMASR", 0x04, HALTED, HALTED),
    ("(no descriptor)", 0x08, 0, 0),
    ("(no tail)", 0x10, 0, 0),
    ("ADDR", 0x18, 0, 0xFFFF_FFFF),
    ("ADDR_MSB", 0x1C, 0, 0x0001_FFFF),
    ("LENGTH", 0x28, 0, 0x03FF_FFFF),
]


def chip(**fields: object) -> Mpsoc:
    ports = {"port": "HP0", "base": DMA, "axi_id": 0, "spi": SPIS[MM2S], "spi_s2mm": SPIS[S2MM]}
    return Mpsoc(memory_bytes=1 << 20, pl_masters=[{"type": "axi_dma", **ports, **fields}])


CASES = [
    pytest.param(sg, *row, id=f"{'list' if sg else 'direct'} {row[0]}")
    for sg, rows in ((True, LIST_ROWS), (False, DIRECT_ROWS))
    for row in rows
]


@pytest.mark.parametrize("channel", [MM2S, S2MM], ids=["MM2S", "S2MM"])
@pytest.mark.parametrize(("sg", "name", "offset", "reset", "sticks"), CASES)
def test_reset_and_what_sticks(
    channel: int, sg: bool, name: str, offset: int, reset: int, sticks: int
) -> None:
    soc = chip(scatter_gather=sg)
    at = DMA + channel + offset
    assert soc.bus.read32(at) == reset
    soc.bus.write32(at, 0xFFFF_FFFF & ~(RESET if offset == CR else 0))
    assert soc.bus.read32(at) == sticks
    soc.bus.write32(DMA + channel + CR, RESET)
    assert soc.bus.read32(at) == reset


def launch(soc: Mpsoc, channel: int, bd: bytes, first: int | None = None, control: int = 1 << 16) -> None:
    at = LISTS[channel]
    soc.memory.write(at, bd)
    soc.bus.write64(DMA + channel + 0x08, at if first is None else first)
    soc.bus.write32(DMA + channel + CR, control | RUN)
    soc.bus.write64(DMA + channel + 0x10, at)


def good(channel: int) -> bytes:
    """One packet, or room for one."""
    return dma_bd(0, SRC if channel == MM2S else DST, (SOF | EOF if channel == MM2S else 0) | 8)


def unroutable(soc: Mpsoc) -> None:
    """From now on the SMMU refuses the engine's stream, with a bus error."""
    soc.bus.write32(0xFD80_0000, 1 << 1 | 1 << 10)  # sCR0: GFRE, USFCFG; no CLIENTPD


def refused_data(soc: Mpsoc, channel: int) -> None:
    """The list is mapped, the data is not."""
    if channel == S2MM:
        launch(soc, MM2S, good(MM2S))
        soc.run()
        soc.bus.write32(DMA + MM2S + SR, IOC)
    launch(soc, channel, dma_bd(0, 0x8_0000, SOF | EOF | 8))
    root = 0x5_0000
    soc.memory.write(root, bytes(0x4000))
    tables = [(root, 0x5_1003), (0x5_1000, 0x5_2003), (0x5_2000, 0x5_3003)]
    pages = [(0x5_3000 + 8 * (at >> 12), at | 0x743) for at in LISTS.values()]
    for place, entry in (*tables, *pages):
        soc.memory.write(place, entry.to_bytes(8, "little"))
    for offset, value in (
        (0x800, 1 << 31 | 0xE80), (0xC00, 0), (0x1000, 1 << 16), (0x1800, 1), (0x1_0010, 5),
        (0x1_0030, 16 | 1 << 23), (0x1_0020, root), (0x1_0000, 1 | 1 << 5), (0x000, 1 << 1 | 1 << 10),
    ):  # fmt: skip
        soc.bus.write32(0xFD80_0000 + offset, value)


#: what happens, the bits then in DMASR beside Idle and Halted, the interrupt's bit, whether it halts
EVENTS: list[tuple[str, Callable[[Mpsoc, int], object], int, int, bool]] = [
    ("IOC", lambda soc, ch: [launch(soc, each, good(each)) for each in (S2MM, MM2S)], IOC, IOC, False),
    (
        "Dly",
        lambda soc, ch: [launch(soc, each, good(each), control=1 << 24 | 2 << 16) for each in (S2MM, MM2S)],
        DLY,
        DLY,
        False,
    ),
    ("DMAIntErr", lambda soc, ch: launch(soc, ch, dma_bd(0, SRC, SOF | EOF)), INT_ERR | ERR, ERR, True),
    ("DMASlvErr", refused_data, SLV_ERR | ERR, ERR, True),
    (
        "DMADecErr",
        lambda soc, ch: [
            launch(soc, each, dma_bd(0, NOWHERE if each == ch else SRC, SOF | EOF | 8))
            for each in (S2MM, MM2S)
        ],
        DEC_ERR | ERR,
        ERR,
        True,
    ),
    ("SGIntErr", lambda soc, ch: launch(soc, ch, dma_bd(0, SRC, 8, COMPLETE)), SG_INT_ERR | ERR, ERR, True),
    ("SGSlvErr", lambda soc, ch: (unroutable(soc), launch(soc, ch, good(ch))), SG_SLV_ERR | ERR, ERR, True),
    ("SGDecErr", lambda soc, ch: launch(soc, ch, good(ch), NOWHERE), SG_DEC_ERR | ERR, ERR, True),
]


@pytest.mark.parametrize("channel", [MM2S, S2MM], ids=["MM2S", "S2MM"])
@pytest.mark.parametrize(
    ("trigger", "bits", "irq", "halts"), [row[1:] for row in EVENTS], ids=[row[0] for row in EVENTS]
)
def test_an_interrupt_or_error_bit(
    channel: int, trigger: Callable[[Mpsoc, int], object], bits: int, irq: int, halts: bool
) -> None:
    soc = chip()
    trigger(soc, channel)
    soc.run()
    state = SG_INCLUDED | (HALTED if halts else IDLE)
    assert soc.bus.read32(DMA + channel + SR) == state | bits
    assert soc.bus.read32(DMA + channel + CR) & RUN == (not halts)
    assert soc.interrupts.pending() == [], "nothing is enabled out of reset"
    soc.bus.write32(DMA + channel + CR, soc.bus.read32(DMA + channel + CR) | irq)
    assert soc.interrupts.pending() == [SPIS[channel]]
    soc.bus.write32(DMA + channel + SR, irq)
    assert soc.bus.read32(DMA + channel + SR) == state | bits & ~irq, "error bits stay until reset"
    assert soc.interrupts.pending() == []
    soc.bus.write32(DMA + channel + CR, RESET)
    assert soc.bus.read32(DMA + channel + SR) == SG_INCLUDED | HALTED
