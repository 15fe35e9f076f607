"""Registers of a ZDMA channel (ZynqMP GDMA and ADMA; AMD UG1085 "DMA controllers", xzdma_hw.h).

Offsets, resets and masks are those of the chip. Writable masks of the descriptor words: 17 bits of address
above bit 31, 30 bits of size, CMD only at the source.
"""

from __future__ import annotations

from typing import Final

from unimem_node.bus.registers import Field, Register

#: Bytes of address space a channel answers in.
SIZE: Final = 0x1_0000

# Bits of ISR, IMR, IEN and IDS.
INV_APB: Final = 1 << 0
SRC_DSCR_DONE: Final = 1 << 1
DST_DSCR_DONE: Final = 1 << 2
BYTE_CNT_OVRFL: Final = 1 << 3
SRC_ACCT_ERR: Final = 1 << 4
DST_ACCT_ERR: Final = 1 << 5
RD_SRC_DSCR: Final = 1 << 6
RD_DST_DSCR: Final = 1 << 7
AXI_RD_DATA: Final = 1 << 8
AXI_WR_DATA: Final = 1 << 9
DMA_DONE: Final = 1 << 10
DMA_PAUSE: Final = 1 << 11
ALL_INTERRUPTS: Final = 0xFFF

# STATUS.STATE.
STATE_DONE: Final = 0
STATE_PAUSED: Final = 1
STATE_BUSY: Final = 2
STATE_ERROR: Final = 3

# CTRL0.MODE; 3 is reserved and acts as 0.
MODE_WRITE_ONLY: Final = 1
MODE_READ_ONLY: Final = 2

# CTRL0.
POINT_TYPE: Final = 1 << 6
RATE_CTRL: Final = 1 << 3
CONT_ADDR: Final = 1 << 2
CONT: Final = 1 << 1


_INTERRUPTS: Final = (
    Field("DMA_PAUSE", 11, 11),
    Field("DMA_DONE", 10, 10),
    Field("AXI_WR_DATA", 9, 9, "write refused by the SMMU or the interconnect"),
    Field("AXI_RD_DATA", 8, 8, "read refused by the SMMU or the interconnect"),
    Field("AXI_RD_DST_DSCR", 7, 7),
    Field("AXI_RD_SRC_DSCR", 6, 6),
    Field("IRQ_DST_ACCT_ERR", 5, 5, "counter of destination interrupts overflowed"),
    Field("IRQ_SRC_ACCT_ERR", 4, 4, "counter of source interrupts overflowed"),
    Field("BYTE_CNT_OVRFL", 3, 3),
    Field("DST_DSCR_DONE", 2, 2),
    Field("SRC_DSCR_DONE", 1, 1),
    Field("INV_APB", 0, 0, "access to a register that does not exist"),
)


def _address_pair(name: str, offset: int, writable: bool, doc: str) -> tuple[Register, Register]:
    """Low and high word of a 49-bit address."""
    return (
        Register(f"{name}_LSB", offset, writable=-1 if writable else 0, doc=doc),
        Register(f"{name}_MSB", offset + 4, writable=0x1_FFFF if writable else 0, doc=f"{doc}, bits 48:32"),
    )


_SRC_WORD3: Final = (
    Field("CMD", 4, 3, "scatter-gather: 0 next, 1 pause, 2 stop"),
    Field("INTR", 2, 2),
    Field("TYPE", 1, 1, "scatter-gather: 0 linear, 1 linked"),
    Field("COHRNT", 0, 0),
)

TABLE: Final[tuple[Register, ...]] = (
    Register(
        "ERR_CTRL", 0x000, writable=0x1, fields=(Field("APB_ERR_RES", 0, 0, "answer INV_APB with SLVERR"),)
    ),
    Register("CH_ECO", 0x004),
    Register("ISR", 0x100, writable=0, w1c=ALL_INTERRUPTS, fields=_INTERRUPTS, doc="interrupt status"),
    Register("IMR", 0x104, reset=0xFFF, writable=0, fields=_INTERRUPTS, doc="1 = masked"),
    Register("IEN", 0x108, writable=0, fields=_INTERRUPTS, doc="writing 1 unmasks; reads as 0"),
    Register("IDS", 0x10C, writable=0, fields=_INTERRUPTS, doc="writing 1 masks; reads as 0"),
    Register(
        "CTRL0",
        0x110,
        reset=0x80,
        writable=0xFE,
        fields=(
            Field("OVR_FETCH", 7, 7),
            Field("POINT_TYPE", 6, 6, "0 simple, 1 scatter-gather"),
            Field("MODE", 5, 4, "0 read and write, 1 write-only, 2 read-only"),
            Field("RATE_CTRL", 3, 3),
            Field("CONT_ADDR", 2, 2),
            Field("CONT", 1, 1),
        ),
    ),
    Register(
        "CTRL1",
        0x114,
        reset=0x3FF,
        writable=0x3FF,
        fields=(Field("DST_ISSUE", 9, 5), Field("SRC_ISSUE", 4, 0)),
        doc="outstanding transactions",
    ),
    Register(
        "FCI",
        0x118,
        writable=0x3F,
        fields=(Field("PROG_CELL_CNT", 5, 2), Field("SIDE", 1, 1), Field("EN", 0, 0)),
        doc="flow control by the PL",
    ),
    Register(
        "STATUS",
        0x11C,
        writable=0,
        fields=(Field("STATE", 1, 0, "0 done, 1 paused, 2 busy, 3 done with error"),),
    ),
    Register(
        "DATA_ATTR",
        0x120,
        reset=0x0483_D20F,
        writable=0x0FFF_FFFF,
        fields=(
            Field("ARBURST", 27, 26, "0 FIXED, 1 INCR"),
            Field("ARCACHE", 25, 22),
            Field("ARQOS", 21, 18),
            Field("ARLEN", 17, 14),
            Field("AWBURST", 13, 12, "0 FIXED, 1 INCR"),
            Field("AWCACHE", 11, 8),
            Field("AWQOS", 7, 4),
            Field("AWLEN", 3, 0),
        ),
    ),
    Register(
        "DSCR_ATTR",
        0x124,
        writable=0x1FF,
        fields=(Field("AXCOHRNT", 8, 8), Field("AXCACHE", 7, 4), Field("AXQOS", 3, 0)),
    ),
    Register("SRC_DSCR_WORD0", 0x128, doc="source address, bits 31:0"),
    Register("SRC_DSCR_WORD1", 0x12C, writable=0x1_FFFF, doc="source address, bits 48:32"),
    Register("SRC_DSCR_WORD2", 0x130, writable=0x3FFF_FFFF, doc="bytes; also those of the destination"),
    Register("SRC_DSCR_WORD3", 0x134, writable=0x1F, fields=_SRC_WORD3),
    Register("DST_DSCR_WORD0", 0x138, doc="destination address, bits 31:0"),
    Register("DST_DSCR_WORD1", 0x13C, writable=0x1_FFFF, doc="destination address, bits 48:32"),
    Register("DST_DSCR_WORD2", 0x140, writable=0x3FFF_FFFF, doc="bytes, in write-only mode"),
    Register("DST_DSCR_WORD3", 0x144, writable=0x7, fields=_SRC_WORD3[1:]),
    Register(
        "WR_ONLY_WORD", 0x148, count=4, doc="pattern of write-only mode; a 64-bit channel uses two words"
    ),
    *_address_pair("SRC_START", 0x158, True, "first source descriptor"),
    *_address_pair("DST_START", 0x160, True, "first destination descriptor"),
    *_address_pair("SRC_CUR_PYLD", 0x168, False, "source address reached"),
    *_address_pair("DST_CUR_PYLD", 0x170, False, "destination address reached"),
    *_address_pair("SRC_CUR_DSCR", 0x178, False, "current source descriptor"),
    *_address_pair("DST_CUR_DSCR", 0x180, False, "current destination descriptor"),
    Register("TOTAL_BYTE", 0x188, writable=0, w1c=0xFFFF_FFFF, doc="bytes moved since it was cleared"),
    Register("RATE_CNTL", 0x18C, writable=0xFFF),
    Register("IRQ_SRC_ACCT", 0x190, writable=0, read_clear=0xFF, doc="source descriptors with INTR"),
    Register("IRQ_DST_ACCT", 0x194, writable=0, read_clear=0xFF, doc="destination descriptors with INTR"),
    Register(
        "DBG0", 0x198, reset=0x100, writable=0, doc="free cells of the common buffer: all, between transfers"
    ),
    Register("DBG1", 0x19C, writable=0, doc="occupied cells of the common buffer"),
    Register(
        "CTRL2", 0x200, writable=0x1, fields=(Field("EN", 0, 0, "starts the channel; falls when it stops"),)
    ),
)

#: Offsets at which a register is; all others set INV_APB.
DEFINED: Final = frozenset(register.at(index) for register in TABLE for index in range(register.count))
