"""The state of a DMA engine's data mover as one row of integers: what `_fast_step.step` works on.

An engine moves bytes from a source to a destination. Each *side* is memory, a pattern, a FIFO or nothing, and
has a descriptor that says where and how much; descriptors come from the registers (simple mode) or out of
memory (scatter-gather). Addresses are virtual, as the engine puts them on its port.
"""

from __future__ import annotations

from typing import Final

# --- the row: int64[STATE_COLS] ------------------------------------------------------------------------
X_FORMAT: Final = 0  # FORMAT_*: how descriptors look
X_LIST: Final = 1  # 1 = descriptors come out of memory; 0 = both sides are loaded, and that is all
X_WIDTH: Final = 2  # bytes of a beat, the data path's width
X_TAIL: Final = 3  # FORMAT_CDMA and later: address of the descriptor after which the engine is idle
X_CYCLIC: Final = 4  # 1 = neither the tail nor a descriptor's complete bit ends the list
X_WATCH: Final = 5  # ZDMA: WATCH_* sides whose INTR shall return; else: completions after which to return
X_UPDATING: Final = 6  # 1 = the descriptor's status must be written to memory next; 2 = ... and is lost (WI)
X_STATUS: Final = 7  # ... which is this
X_HALTING: Final = 8  # 1 = after that write the engine halts
X_CONTROL: Final = 9  # control word of the descriptor
X_LENGTH_MASK: Final = 10  # bits of a length
X_APP: Final = 11  # five APP words of the packet that is being sent (MM2S)
X_COMPLETED: Final = 16  # completions that count for the interrupt threshold; whoever reads it clears it
X_OPEN: Final = 17  # 1 = a packet is under way (MM2S: its SOF was sent; S2MM: its RXSOF was reported)
X_OP: Final = 18  # OP_* of the access that was refused, or of the bad descriptor
X_VA: Final = 19  # its address
X_CODE: Final = 20  # why: FSR bit position, NO_MEMORY, NO_ROUTE or BLOCKED; of a bad descriptor BAD_*
X_INFO: Final = 21  # syndrome of the walk
SRC: Final = 22  # first column of the source, ...
DST: Final = 33  # ... of the destination
STATE_COLS: Final = 44

# --- a side: columns from SRC or DST on ----------------------------------------------------------------
D_KIND: Final = 0  # KIND_*
D_BASE: Final = 1  # address of its first byte
D_POS: Final = 2  # bytes of it that are done
D_SIZE: Final = 3  # bytes it has
D_FIXED: Final = 4  # 1 = every beat goes to the same address (AXI FIXED burst, keyhole)
D_SKIP: Final = 5  # bytes that the SMMU answered by itself: read as zero, or not written (RAZ/WI)
D_LOADED: Final = 6  # 1 = there is a descriptor
D_DSCR: Final = 7  # its address
D_NEXT: Final = 8  # address of the one to fetch next
D_WORD3: Final = 9  # ZDMA: control word
D_INTRS: Final = 10  # ZDMA: ended descriptors with INTR; whoever reads it clears it

KIND_MEMORY: Final = 0
KIND_PATTERN: Final = 1  # the data path's width of bytes, over and over
KIND_NOTHING: Final = 2  # what was read is dropped
KIND_FIFO: Final = 3

# --- formats of descriptors ----------------------------------------------------------------------------
FORMAT_ZDMA: Final = 0  # 16 or 32 bytes, one list a side, not written back
FORMAT_CDMA: Final = 1  # 64 bytes, one list for both sides, status written back
FORMAT_MM2S: Final = 2  # 64 bytes, source only; the destination is the stream
FORMAT_S2MM: Final = 3

# ZDMA, word 3.
W3_LINKED: Final = 1 << 1
W3_INTR: Final = 1 << 2
CMD_SHIFT: Final = 3
CMD_PAUSE: Final = 1
CMD_STOP: Final = 2
WATCH_SRC: Final = 1
WATCH_DST: Final = 2

# AXI engines, control and status words.
BD_SOF: Final = 1 << 27
BD_EOF: Final = 1 << 26
BD_COMPLETE: Final = 1 << 31
BD_DEC_ERR: Final = 1 << 30
BD_SLV_ERR: Final = 1 << 29
BD_INT_ERR: Final = 1 << 28
BD_STATUS: Final = 0x1C
BD_APP: Final = 0x20

# --- accesses ------------------------------------------------------------------------------------------
OP_READ: Final = 0
OP_WRITE: Final = 1
OP_FETCH_SRC: Final = 2  # of FORMAT_CDMA and later the only fetch
OP_FETCH_DST: Final = 3
OP_UPDATE: Final = 4  # status written back

# --- why `step` returned ---------------------------------------------------------------------------------
STOP_BUDGET: Final = 0  # as many bytes or descriptors as were asked for; call it again
STOP_DONE: Final = 1  # the transfer, or the list, has ended
STOP_PAUSED: Final = 2  # ZDMA: CMD = PAUSE
STOP_INTR: Final = 3  # what X_WATCH waits for; call it again
STOP_REFUSED: Final = 4  # an access: X_OP, X_VA, X_CODE, X_INFO
STOP_BAD: Final = 5  # a descriptor: X_OP, X_CODE
STOP_EMPTY: Final = 6  # nothing in the FIFO
STOP_FULL: Final = 7  # no room in the FIFO
STOP_HALTED: Final = 8  # X_HALTING: the last status is written
STOP_RUNAWAY: Final = 9  # said by `Mover`: more than its patience, with nobody looking

BAD_ALIGNMENT: Final = 1
BAD_STALE: Final = 2  # its complete bit is set
BAD_LENGTH: Final = 3  # zero
BAD_OVERFLOW: Final = 4  # S2MM without list: the packet is longer than the buffer

# --- making a row ----------------------------------------------------------------------------------------
Head = tuple[int, ...]
Side = tuple[int, ...]


def head(
    layout: int, listed: bool, width: int, watch: int, cyclic: bool = False, length_mask: int = 0
) -> Head:
    """The columns before the sides, of an engine that begins."""
    return (
        layout, listed, width, 0, cyclic, watch, 0, 0, 0, 0, length_mask, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0,
    )  # fmt: skip


def side(
    kind: int = KIND_MEMORY, base: int = 0, size: int = 0, fixed: bool = False, first: int = 0, word3: int = 0
) -> Side:
    """The columns of a side: with a descriptor that has a size, or to be fetched from `first`."""
    return kind, base, 0, size, fixed, 0, size > 0, first, first, word3, 0


#: In place of a context bank: the SMMU refuses every access of the stream.
REFUSED: Final = -3

# --- the FIFO of a stream: int64[FIFO_COLS] beside its bytes -------------------------------------------
F_WRITTEN: Final = 0  # bytes that ever went in
F_READ: Final = 1  # ... and out
F_SENT: Final = 2  # packets whose last byte is in
F_RECEIVED: Final = 3  # ... and out
F_OFFERED: Final = 4  # of F_WRITTEN, what the sender's time has passed for: the receiver sees no more
F_OFFERED_PACKETS: Final = 5  # ... of F_SENT
F_PACKETS: Final = 6  # ring of packets: end as a value of F_WRITTEN, then five APP words
PACKET_COLS: Final = 6
MAX_PACKETS: Final = 64
FIFO_COLS: Final = F_PACKETS + MAX_PACKETS * PACKET_COLS
