"""AXI CDMA: every register and every interrupt and error bit (typed from xaxicdma_hw.h and PG034)."""

from __future__ import annotations

from collections.abc import Callable

import pytest

from support.axi import (
    COMPLETE,
    DEC_ERR,
    DLY,
    ERR,
    IDLE,
    INT_ERR,
    IOC,
    RESET,
    SG_DEC_ERR,
    SG_INCLUDED,
    SG_INT_ERR,
    SG_MODE,
    SG_SLV_ERR,
    SLV_ERR,
    cdma_bd,
)
from unimem_node import Mpsoc

CDMA, SPI = 0xA000_0000, 89
CR, SR = 0x00, 0x04
SRC, DST, LIST, NOWHERE = 0x1_0000, 0x2_0000, 0x3_0000, 0x7_0000_0000
READY = IDLE | SG_INCLUDED

#: name, offset, reset, bits that software can set with SGMode = 1, bits that then can be cleared by 0
ROWS = [
    ("CDMACR", 0x00, 0x0001_0000, 0xFFFF_7038),
    ("CDMASR", 0x04, READY, READY),
    ("CURDESC", 0x08, 0, 0xFFFF_FFC0),
    ("CURDESC_MSB", 0x0C, 0, 0x0001_FFFF),
    ("TAILDESC_MSB", 0x14, 0, 0x0001_FFFF),
    ("SA", 0x18, 0, 0xFFFF_FFFF),
    ("SA_MSB", 0x1C, 0, 0x0001_FFFF),
    ("DA", 0x20, 0, 0xFFFF_FFFF),
    ("DA_MSB", 0x24, 0, 0x0001_FFFF),
    ("BTT", 0x28, 0, 0x03FF_FFFF),
    ("(none)", 0x2C, 0, 0),
]


def chip(**fields: object) -> Mpsoc:
    master = {"type": "axi_cdma", "port": "HPC0", "base": CDMA, "axi_id": 0, "spi": SPI, **fields}
    return Mpsoc(memory_bytes=1 << 20, pl_masters=[master])


@pytest.mark.parametrize(("name", "offset", "reset", "sticks"), ROWS, ids=[row[0] for row in ROWS])
def test_reset_and_what_sticks(name: str, offset: int, reset: int, sticks: int) -> None:
    soc = chip()
    assert soc.bus.read32(CDMA + offset) == reset
    soc.bus.write32(CDMA + CR, SG_MODE)
    soc.bus.write32(CDMA + offset, 0xFFFF_FFFF & ~(RESET if offset == CR else 0))
    assert soc.bus.read32(CDMA + offset) == sticks
    soc.bus.write32(CDMA + CR, RESET)
    assert soc.bus.read32(CDMA + offset) == reset


@pytest.mark.parametrize("bits", [8, 23, 26])
def test_the_width_of_btt_is_the_builds(bits: int) -> None:
    soc = chip(length_bits=bits)
    soc.bus.write32(CDMA + CR, SG_MODE)  # so that it starts nothing
    soc.bus.write32(CDMA + 0x28, 0xFFFF_FFFF)
    assert soc.bus.read32(CDMA + 0x28) == (1 << bits) - 1


def simple(soc: Mpsoc, src: int, dst: int, n: int) -> None:
    for at, value in ((0x18, src), (0x20, dst)):
        soc.bus.write64(CDMA + at, value)
    soc.bus.write32(CDMA + 0x28, n)


def listed(soc: Mpsoc, bd: bytes, first: int = LIST, *, threshold: int = 1, delay: int = 0) -> None:
    soc.memory.write(LIST, bd)
    soc.bus.write32(CDMA + CR, delay << 24 | threshold << 16 | SG_MODE)
    soc.bus.write64(CDMA + 0x08, first)
    soc.bus.write64(CDMA + 0x10, LIST)


def unroutable(soc: Mpsoc) -> None:
    """From now on the SMMU refuses the engine's stream, with a bus error."""
    soc.bus.write32(0xFD80_0000, 1 << 1 | 1 << 10)  # sCR0: GFRE, USFCFG; no CLIENTPD


GOOD = cdma_bd(0, SRC, DST, 8)
#: what happens, the error and interrupt bits then in CDMASR, the interrupt's bit
EVENTS: list[tuple[str, Callable[[Mpsoc], object], int, int]] = [
    ("IOC, simple", lambda soc: simple(soc, SRC, DST, 8), IOC, IOC),
    ("IOC, list", lambda soc: listed(soc, GOOD), IOC, IOC),
    ("Dly", lambda soc: listed(soc, GOOD, threshold=2, delay=1), DLY, DLY),
    ("DMAIntErr", lambda soc: simple(soc, SRC, DST, 0), INT_ERR | ERR, ERR),
    ("DMAIntErr, list", lambda soc: listed(soc, cdma_bd(0, SRC, DST, 0)), INT_ERR | ERR, ERR),
    ("DMASlvErr", lambda soc: (unroutable(soc), simple(soc, SRC, DST, 8)), SLV_ERR | ERR, ERR),
    ("DMADecErr, read", lambda soc: simple(soc, NOWHERE, DST, 8), DEC_ERR | ERR, ERR),
    ("DMADecErr, write", lambda soc: simple(soc, SRC, NOWHERE, 8), DEC_ERR | ERR, ERR),
    ("SGIntErr", lambda soc: listed(soc, cdma_bd(0, SRC, DST, 8, COMPLETE)), SG_INT_ERR | ERR, ERR),
    ("SGSlvErr", lambda soc: (unroutable(soc), listed(soc, GOOD)), SG_SLV_ERR | ERR, ERR),
    ("SGDecErr", lambda soc: listed(soc, GOOD, NOWHERE), SG_DEC_ERR | ERR, ERR),
]


@pytest.mark.parametrize(
    ("trigger", "bits", "irq"), [row[1:] for row in EVENTS], ids=[row[0] for row in EVENTS]
)
def test_an_interrupt_or_error_bit(trigger: Callable[[Mpsoc], object], bits: int, irq: int) -> None:
    soc = chip()
    trigger(soc)
    soc.run()
    assert soc.bus.read32(CDMA + SR) == READY | bits
    assert soc.interrupts.pending() == [], "nothing is enabled out of reset"
    control = soc.bus.read32(CDMA + CR)
    soc.bus.write32(CDMA + CR, control | irq)
    assert soc.interrupts.pending() == [SPI]
    soc.bus.write32(CDMA + SR, irq)
    assert soc.bus.read32(CDMA + SR) == READY | bits & ~irq, "error bits stay until reset"
    assert soc.interrupts.pending() == []
    soc.bus.write32(CDMA + CR, RESET)
    assert soc.bus.read32(CDMA + SR) == READY


@pytest.mark.parametrize("response", ["SLVERR", "DECERR"])
def test_what_the_smmus_abort_shows_as_is_the_platforms(response: str) -> None:
    soc = chip(abort_response=response)
    unroutable(soc)
    simple(soc, SRC, DST, 8)
    soc.run()
    assert soc.bus.read32(CDMA + SR) == READY | ERR | (SLV_ERR if response == "SLVERR" else DEC_ERR)
