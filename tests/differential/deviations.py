"""Where QEMU's ZDMA (7.2, hw/dma/xlnx-zdma.c) and ours differ, one by one, and what decides for ours.

Sources: UG1085 (chapter on the DMA controller; the section is named), xzdma_hw.h and xzdma.h of AMD's
embeddedsw. A deviation comes with its witness, a program that shows it: the first moment at which
the machines differ must show exactly `differs`. Those that any program may meet have `adjust`, which turns
what QEMU showed into what the source demands, as narrowly as can be; random programs avoid the others.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Final

from differential import adjustments
from differential.adjustments import DONE_STATE, ERROR, PAUSED
from differential.machines import Run
from differential.programs import (
    BYTE_OVERFLOW,
    CMD_PAUSE,
    CMD_STOP,
    CTRL2,
    DATA,
    DESTINATION,
    DONE,
    DST_TABLE,
    DST_WORD,
    INTR,
    INV_APB,
    IRQ_DST_ACCT,
    LINKED,
    PAUSE,
    RD_DATA,
    RD_DST_DSCR,
    RD_SRC_DSCR,
    READ_ONLY,
    SOURCE,
    SRC_START,
    SRC_TABLE,
    WR_DATA,
    Program,
    Read,
    Write,
    descriptor,
    program,
    simple,
    start,
    table,
    write64,
)


@dataclass(frozen=True, slots=True)
class Deviation:
    """`differs`: name → (QEMU's, ours). If QEMU `hangs`, it has no answer: what ours shows in the end."""

    name: str
    qemu: str
    ours: str
    decides: str
    witness: Program
    differs: Mapping[str, tuple[object, object]]
    adjust: Callable[[Run], None] | None = field(default=None, repr=False)
    hangs: bool = False


# ---- the table

_ONE: Final = {"src": descriptor(SOURCE, 16, CMD_STOP), "dst": descriptor(DESTINATION, 16)}
_PAUSING: Final = {
    "src": table(descriptor(SOURCE, 16, CMD_PAUSE), descriptor(SOURCE, 8, CMD_STOP)),
    "dst": descriptor(DESTINATION, 24),
}
_NOWHERE: Final = 0x10_0000_0000  # a window to the PL, where nobody answers
_BAD: Final = {"STATUS": (None, ERROR), "CTRL2": (None, 0)}

_ALWAYS: Final = (
    Deviation(
        "status encoding",
        "shows the numbers of its own states: 2 when paused",
        "1 when paused, 2 when busy",
        "xzdma_hw.h: XZDMA_STS_PAUSE_MASK is 1, XZDMA_STS_BUSY_MASK 2",
        program(start(), **_PAUSING),
        {"STATUS": (2, PAUSED)},
        adjustments.status_encoding,
    ),
    Deviation(
        "payload addresses",
        "CUR_PYLD registers read 0",
        "the addresses that data has come to",
        "xzdma.h, XZDma_SrcCurPyld and XZDma_DstCurPyld: the current payload's addresses",
        program(simple(32)),
        {"SRC_CUR_PYLD_LSB": (0, SOURCE + 32), "DST_CUR_PYLD_LSB": (0, DESTINATION + 32)},
        adjustments.no_payload_address,
    ),
    Deviation(
        "descriptor address in simple mode",
        "SRC_CUR_DSCR ends 16 behind SRC_START, though no descriptor was read",
        "it stays where the start put it",
        "UG1085, Simple DMA Mode: the transfer is described by registers, nothing is fetched",
        program(write64(SRC_START, SRC_TABLE), simple(32)),
        {"SRC_CUR_DSCR_LSB": (SRC_TABLE + 16, SRC_TABLE)},
        adjustments.descriptor_address_in_simple_mode,
    ),
    Deviation(
        "enabled after an error",
        "CTRL2.EN stays 1",
        "CTRL2.EN falls",
        "UG1085, Channel Disabled: any error on an AXI channel or in descriptor programming",
        program(start(SRC_TABLE + 8), **_ONE),
        {"CTRL2": (1, 0)},
        adjustments.enabled_after_an_error,
    ),
    Deviation(
        "DONE after an error",
        "ISR shows the error alone",
        "and DMA_DONE",
        "xzdma_hw.h: XZDMA_STS_DONE_ERR_MASK, done with errors, is a way of being done",
        program(start(SRC_TABLE + 8), **_ONE),
        {"ISR": (RD_SRC_DSCR, RD_SRC_DSCR | DONE)},
        adjustments.done_after_an_error,
    ),
    Deviation(
        "destination descriptors at a start that fails",
        "the first is fetched before the first source's, and passed even if it is out of alignment",
        "the first is fetched after the first source's, and DST_CUR_DSCR shows one out of alignment",
        "UG1085, Scatter Gather DMA Mode: SRC and DST descriptors are fetched; Channel Disabled: any error",
        program(start(SRC_TABLE + 8), **_ONE),
        {"DST_CUR_DSCR_LSB": (DST_TABLE + 16, DST_TABLE)},
        adjustments.descriptor_address_after_an_error,
    ),
    Deviation(
        "pause clears DONE",
        "a pause clears a DMA_DONE that software has not cleared",
        "only software clears it",
        "xzdma.h, XZDma_IntrClear: software writes ones to clear",
        program(simple(16), start(), **_PAUSING),
        {"ISR": (PAUSE, PAUSE | DONE)},
        adjustments.pause_clears_done,
    ),
)

_AVOIDED: Final = (
    Deviation(
        "destination account in simple mode",
        "counts, and raises DST_DSCR_DONE, once in 2 KiB (and once a beat that a FIXED source gives)",
        "the one descriptor counts once",
        "UG1085, DMA Implements Interrupt Accounting Support: one a descriptor done",
        program(simple(5000, dst_flags=INTR), Read(IRQ_DST_ACCT)),
        {"read": (3, 1)},
    ),
    Deviation(
        "commands in simple mode",
        "a PAUSE in SRC_DSCR_WORD3 raises DMA_PAUSE instead of DMA_DONE, and shows paused",
        "done",
        "UG1085, Channel Disabled: in simple mode, once the transfer is done",
        program(write64(SRC_START, SRC_TABLE + 16), simple(16, src_flags=CMD_PAUSE)),
        {
            "ISR": (PAUSE, DONE),
            "STATUS": (PAUSED, DONE_STATE),
            "SRC_CUR_DSCR_LSB": (SRC_TABLE, SRC_TABLE + 16),  # QEMU's, adjusted for an end that did not come
        },
    ),
    Deviation(
        "linked type in simple mode",
        "SRC_CUR_DSCR ends as what memory has 16 behind SRC_START",
        "it stays where the start put it",
        "UG1085, Simple DMA Mode: the transfer is described by registers, nothing is fetched",
        program(
            write64(SRC_START, SRC_TABLE),
            simple(16, src_flags=LINKED),
            src=descriptor(0, 0, 0, DST_TABLE + 16),
        ),
        {"SRC_CUR_DSCR_LSB": (DST_TABLE, SRC_TABLE)},  # QEMU's, adjusted as above
    ),
    Deviation(
        "type of a destination in the register",
        "DST_DSCR_WORD3.TYPE cannot be written",
        "it can",
        "xzdma_hw.h: XZDMA_WORD3_TYPE_MASK is of the source's and the destination's word 3",
        program(Write(DST_WORD + 12, 7)),
        {"DST_WORD3": (5, 7)},
    ),
    Deviation(
        "total of bytes overflows",
        "TOTAL_BYTE wraps unnoticed",
        "ISR.BYTE_CNT_OVRFL",
        "UG1085, Total Transferred Bytes Overflow: the channel indicates this as an interrupt",
        program(simple(0x3FFF_FFFF, source=0, mode=READ_ONLY), *[Write(CTRL2, 1)] * 4),
        {"ISR": (DONE, DONE | BYTE_OVERFLOW)},
    ),
    Deviation(
        "nothing behind the last register",
        "INV_APB up to offset 0x200 only",
        "anywhere in the channel's 64 KiB where no register is",
        "UG1085, system addresses: a channel has 64 KiB; xzdma_hw.h: INV_APB, invalid APB access",
        program(Read(0x204)),
        {"ISR": (0, INV_APB)},
    ),
    Deviation(
        "a linked descriptor at 16 beyond 32",
        "taken",
        "an error of the descriptor",
        "UG1085, Buffer Descriptor Summary: aligned to their size, of which a linked one has 32 bytes",
        program(start(SRC_TABLE + 16), src=bytes(16) + descriptor(SOURCE, 8, CMD_STOP, 0), dst=_ONE["dst"]),
        {
            "ISR": (DONE, RD_SRC_DSCR | DONE),
            "STATUS": (DONE_STATE, ERROR),
            "SRC_CUR_DSCR_LSB": (0, SRC_TABLE + 16),
            "DST_CUR_DSCR_LSB": (DST_TABLE + 16, DST_TABLE),
            "TOTAL_BYTE": (8, 0),
        },
    ),
    Deviation(
        "a source of no bytes",
        "is skipped",
        "an error of the descriptor",
        "UG1085, Channel Disabled: any error in descriptor programming; no bytes are none to move (N20)",
        program(start(), src=table(descriptor(SOURCE, 0), descriptor(SOURCE, 8, CMD_STOP)), dst=_ONE["dst"]),
        {
            "ISR": (DONE, RD_SRC_DSCR | DONE),
            "STATUS": (DONE_STATE, ERROR),
            "SRC_CUR_DSCR_LSB": (SRC_TABLE + 32, SRC_TABLE),
            "DST_CUR_DSCR_LSB": (DST_TABLE + 16, DST_TABLE),
            "TOTAL_BYTE": (8, 0),
        },
    ),
    Deviation(
        "a destination of no bytes",
        "is skipped",
        "an error of the descriptor",
        "UG1085, Channel Disabled: any error in descriptor programming; no bytes are none to move (N20)",
        program(start(), src=_ONE["src"], dst=table(descriptor(DESTINATION, 0), descriptor(DESTINATION, 16))),
        {
            "ISR": (DONE, RD_DST_DSCR | DONE),
            "STATUS": (DONE_STATE, ERROR),
            "SRC_CUR_DSCR_LSB": (SRC_TABLE + 16, SRC_TABLE),
            "DST_CUR_DSCR_LSB": (DST_TABLE + 32, DST_TABLE + 16),
            "TOTAL_BYTE": (16, 0),
        },
    ),
    Deviation(
        "no bytes in simple mode",
        "done at once",
        "an error of the descriptor",
        "UG1085, Channel Disabled: any error in descriptor programming; no bytes are none to move (N20)",
        program(simple(0)),
        {"ISR": (DONE, RD_SRC_DSCR | DONE), "STATUS": (DONE_STATE, ERROR)},
    ),
    Deviation(
        "reading where no memory is",
        "zeros, and done",
        "AXI_RD_DATA, and done with an error",
        "UG1085, Channel Disabled: any error on an AXI channel; xzdma_hw.h: XZDMA_IXR_AXI_RD_DATA_MASK",
        program(simple(16, source=_NOWHERE)),
        {"ISR": (DONE, RD_DATA | DONE), "STATUS": (DONE_STATE, ERROR), "TOTAL_BYTE": (16, 0)},
    ),
    Deviation(
        "writing where no memory is",
        "dropped, and done",
        "AXI_WR_DATA, and done with an error",
        "UG1085, Channel Disabled: any error on an AXI channel; xzdma_hw.h: XZDMA_IXR_AXI_WR_DATA_MASK",
        program(simple(16, destination=_NOWHERE)),
        {"ISR": (DONE, WR_DATA | DONE), "STATUS": (DONE_STATE, ERROR), "TOTAL_BYTE": (16, 0)},
    ),
    Deviation(
        "a source descriptor where no memory is",
        "read as zeros: a size of zero, for ever",
        "AXI_RD_SRC_DSCR, and done with an error",
        "UG1085, Channel Disabled: any error on an AXI channel; xzdma_hw.h: XZDMA_IXR_AXI_RD_SRC_DSCR_MASK",
        program(start(_NOWHERE), **_ONE),
        {**_BAD, "ISR": (None, RD_SRC_DSCR | DONE)},
        hangs=True,
    ),
    Deviation(
        "a destination descriptor where no memory is",
        "read as zeros: a size of zero, for ever",
        "AXI_RD_DST_DSCR, and done with an error",
        "UG1085, Channel Disabled: any error on an AXI channel; xzdma_hw.h: XZDMA_IXR_AXI_RD_DST_DSCR_MASK",
        program(start(SRC_TABLE, _NOWHERE), **_ONE),
        {**_BAD, "ISR": (None, RD_DST_DSCR | DONE)},
        hangs=True,
    ),
    Deviation(
        "a later destination descriptor out of alignment",
        "read over and over",
        "an error of the descriptor",
        "UG1085, Buffer Descriptor Summary: descriptors must be aligned to their size",
        program(start(), src=_ONE["src"], dst=descriptor(DESTINATION, 8, 0, DST_TABLE + 0x108)),
        {**_BAD, "ISR": (None, RD_DST_DSCR | DONE), "TOTAL_BYTE": (None, 8)},
        hangs=True,
    ),
    Deviation(
        "a list without end",
        "goes round for ever, and QEMU with it",
        "is ended as a bad descriptor when nobody looks at the channel any more",
        "UG1085, Buffer Descriptor Summary: circles are allowed; software must have time to end one (N20)",
        program(
            start(),
            src=descriptor(SOURCE, 64 << 20, 0, SRC_TABLE),
            dst=descriptor(DESTINATION + (64 << 20), 64 << 20, 0, DST_TABLE),
        ),
        {**_BAD, "ISR": (None, RD_SRC_DSCR | DONE | BYTE_OVERFLOW)},  # it has gone through 16 GiB
        hangs=True,
    ),
    Deviation(
        "overlap",
        "reads up to 2 KiB before it writes them",
        "byte after byte, ascending",
        "AXI gives no order between reads and writes: both are right, and software must not rely on either",
        program(simple(32, destination=SOURCE + 3)),
        {"window 0 at 0x6": (DATA[3:19].hex(), (DATA[0:3] * 6)[:16].hex())},
    ),
)

DEVIATIONS: Final = (*_ALWAYS, *_AVOIDED)


def adjust(run: Run, *, but: str = "") -> Run:
    """Apply all deviations that have an adjustment, except the one called `but`; returns the run."""
    for deviation in DEVIATIONS:
        if deviation.adjust is not None and deviation.name != but:
            deviation.adjust(run)
    return run
