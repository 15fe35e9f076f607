"""ZDMA programs written by hand, each with what some registers hold in the end, typed from the sources.

Facts: UG1085 (descriptors, accounts, pause, disable), xzdma_hw.h (STATUS); where those are silent, QEMU.
"""

from __future__ import annotations

from dataclasses import replace

from differential.programs import (
    CMD_PAUSE,
    CMD_STOP,
    CONT,
    CONT_ADDR,
    CTRL0,
    CTRL2,
    DATA_ATTR,
    DESTINATION,
    DONE,
    DST_DONE,
    DST_START,
    DST_TABLE,
    FIXED_BOTH,
    FIXED_DESTINATION,
    FIXED_SOURCE,
    INTR,
    ISR,
    LPD,
    OVR_FETCH,
    PAUSE,
    READ_ONLY,
    SOURCE,
    SRC_DONE,
    SRC_START,
    SRC_TABLE,
    WRITE_ONLY,
    Program,
    Store,
    Write,
    descriptor,
    program,
    resume,
    simple,
    start,
    table,
    write64,
)

PATTERN = (0x0302_0100, 0x0706_0504, 0x0B0A_0908, 0x0F0E_0D0C)

SIMPLE: dict[str, tuple[Program, dict[str, int]]] = {
    "copy": (program(simple(256)), {"ISR": DONE, "TOTAL_BYTE": 256}),
    "odd addresses and size": (
        program(simple(4099, source=SOURCE + 3, destination=DESTINATION + 13)),
        {"ISR": DONE, "TOTAL_BYTE": 4099},
    ),
    "one byte": (program(simple(1, source=SOURCE + 7)), {"TOTAL_BYTE": 1}),
    "the source's size governs": (program(simple(100, dst_size=3)), {"TOTAL_BYTE": 100}),
    "high memory": (
        replace(
            program(simple(300, destination=0x8_0000_0100), simple(200, source=0x8_0000_0108)),
            windows=((0x8_0000_0000, 0x1000), (DESTINATION, 0x1000)),
        ),
        {"TOTAL_BYTE": 500},
    ),
    "on-chip memory": (
        replace(program(simple(77, destination=0xFFFC_0003)), windows=((0xFFFC_0000, 0x1000),)),
        {"TOTAL_BYTE": 77},
    ),
    "write-only": (
        program(simple(45, mode=WRITE_ONLY, destination=DESTINATION + 5, pattern=PATTERN)),
        {"ISR": DONE, "TOTAL_BYTE": 45},
    ),
    "write-only, accounts of both": (
        program(simple(5000, mode=WRITE_ONLY, pattern=PATTERN, src_flags=INTR, dst_flags=INTR)),
        {"ISR": DONE | SRC_DONE | DST_DONE},
    ),
    "read-only": (program(simple(5000, mode=READ_ONLY)), {"ISR": DONE, "TOTAL_BYTE": 5000}),
    "read-only has no destination to count": (
        program(simple(64, mode=READ_ONLY, src_flags=INTR, dst_flags=INTR)),
        {"ISR": DONE | SRC_DONE},
    ),
    "the reserved mode is read and write": (program(simple(64, mode=0x30)), {"TOTAL_BYTE": 64}),
    "fixed source": (program(simple(45, attributes=FIXED_SOURCE)), {"TOTAL_BYTE": 45}),
    "fixed destination": (program(simple(45, attributes=FIXED_DESTINATION)), {"TOTAL_BYTE": 45}),
    "fixed both": (program(simple(45, attributes=FIXED_BOTH)), {"TOTAL_BYTE": 45}),
    "fixed write-only": (
        program(simple(45, mode=WRITE_ONLY, attributes=FIXED_DESTINATION, pattern=PATTERN)),
        {"TOTAL_BYTE": 45},
    ),
    "start again": (
        program(simple(100), simple(20, source=SOURCE + 200), Write(CTRL2, 1)),
        {"ISR": DONE, "TOTAL_BYTE": 140},
    ),
    "a disabled channel does nothing": (
        program(simple(100)[:-1], Write(CTRL2, 0), Write(CTRL0, CONT), Write(CTRL0, 0)),
        {"ISR": 0, "TOTAL_BYTE": 0, "CTRL2": 0},
    ),
}


def sources(*parts: tuple[int, int], flags: int = 0, end: int = CMD_STOP) -> bytes:
    """A linear array of sources of (offset in DATA, size)."""
    words = [flags] * (len(parts) - 1) + [flags | end]
    return table(*(descriptor(SOURCE + at, n, word) for (at, n), word in zip(parts, words, strict=True)))


def destinations(*parts: tuple[int, int], flags: int = 0) -> bytes:
    return table(*(descriptor(DESTINATION + at, n, flags) for at, n in parts))


TWO_PAUSES = {
    "src": table(
        descriptor(SOURCE, 40, CMD_PAUSE | INTR),
        descriptor(SOURCE + 100, 60, CMD_PAUSE),
        descriptor(SOURCE + 200, 20, CMD_STOP),
    ),
    "dst": destinations((0, 50), (101, 500), flags=INTR),
}

LISTS: dict[str, tuple[Program, dict[str, int]]] = {
    "one": (
        program(start(), src=sources((0, 16)), dst=destinations((5, 16))),
        {"ISR": DONE, "TOTAL_BYTE": 16, "CTRL2": 0, "SRC_CUR_DSCR_LSB": SRC_TABLE + 16},
    ),
    "linear": (
        program(start(), src=sources((0, 100), (333, 1), (7, 2050)), dst=destinations((3, 100), (200, 2051))),
        {"ISR": DONE, "TOTAL_BYTE": 2151},
    ),
    "linked": (
        replace(
            program(start()),
            memory=(
                (SRC_TABLE, descriptor(SOURCE, 64, 0, SRC_TABLE + 0x400)),
                (SRC_TABLE + 0x400, descriptor(SOURCE + 99, 32, INTR, SRC_TABLE + 0x40)),
                (SRC_TABLE + 0x40, descriptor(SOURCE + 3, 5, CMD_STOP, SRC_TABLE)),
                (DST_TABLE, descriptor(DESTINATION, 70, INTR, DST_TABLE + 0x1000)),
                (DST_TABLE + 0x1000, descriptor(DESTINATION + 0x1000, 31, INTR, DST_TABLE)),
            ),
        ),
        {"ISR": DONE | SRC_DONE | DST_DONE, "TOTAL_BYTE": 101, "SRC_CUR_DSCR_LSB": SRC_TABLE},
    ),
    "mixed": (
        replace(
            program(start(SRC_TABLE + 0x10, DST_TABLE + 0xFE0)),
            memory=(
                (SRC_TABLE + 0x10, descriptor(SOURCE, 10)),
                (SRC_TABLE + 0x20, descriptor(SOURCE + 10, 20, 0, SRC_TABLE + 0x1FD0)),
                (SRC_TABLE + 0x1FD0, descriptor(SOURCE + 30, 30)),
                (SRC_TABLE + 0x1FE0, descriptor(SOURCE + 60, 40, CMD_STOP, 0)),
                (DST_TABLE + 0xFE0, descriptor(DESTINATION, 50)),
                (DST_TABLE + 0xFF0, descriptor(DESTINATION + 77, 25)),
                (DST_TABLE + 0x1000, descriptor(DESTINATION + 300, 25, INTR)),  # across a page
            ),
        ),
        {"ISR": DONE | DST_DONE, "TOTAL_BYTE": 100},
    ),
    "one source, many destinations": (
        program(
            start(),
            src=sources((1, 1000), flags=INTR),
            dst=destinations(*((n * 64, 41 + n) for n in range(20)), flags=INTR),
        ),
        {"ISR": DONE | SRC_DONE | DST_DONE, "TOTAL_BYTE": 1000},
    ),
    "many sources, one destination": (
        program(
            start(),
            src=sources(*((n * 64, 40 + n) for n in range(20)), flags=INTR),
            dst=destinations((9, 990), flags=INTR),
        ),
        {"ISR": DONE | SRC_DONE | DST_DONE, "TOTAL_BYTE": 990},
    ),
    "a destination that is not filled counts nothing": (
        program(start(), src=sources((0, 30)), dst=destinations((0, 20), (50, 11), flags=INTR), base=LPD[2]),
        {"ISR": DONE | DST_DONE, "TOTAL_BYTE": 30},
    ),
    "commands of destinations are reserved": (
        program(start(), src=sources((0, 30)), dst=destinations((0, 20), (50, 10), flags=CMD_STOP)),
        {"ISR": DONE, "TOTAL_BYTE": 30},
    ),
    "modes and bursts are of simple mode": (
        program(
            Write(DATA_ATTR, FIXED_BOTH),
            start(control=WRITE_ONLY),
            start(control=READ_ONLY),
            src=sources((0, 100)),
            dst=destinations((0, 100)),
        ),
        {"ISR": DONE, "TOTAL_BYTE": 200},
    ),
    "pause": (
        program(start(), **TWO_PAUSES),
        {"ISR": PAUSE | SRC_DONE, "STATUS": 1, "CTRL2": 1, "TOTAL_BYTE": 40, "SRC_CUR_DSCR_LSB": SRC_TABLE},
    ),
    "continue to the end": (
        program(start(), resume(), Write(ISR, 0xFFF), resume(), **TWO_PAUSES),
        {"ISR": DONE, "STATUS": 0, "CTRL2": 0, "CTRL0": 0xC0, "TOTAL_BYTE": 120},
    ),
    "continue from other addresses": (
        program(
            start(),
            write64(SRC_START, SRC_TABLE + 32),
            write64(DST_START, DST_TABLE + 16),
            resume(OVR_FETCH | CONT_ADDR),
            **TWO_PAUSES,
        ),
        {"ISR": DONE | PAUSE | SRC_DONE, "TOTAL_BYTE": 60, "CTRL0": 0xC4, "DST_CUR_DSCR_LSB": DST_TABLE + 32},
    ),
    "the next set of descriptors, written in the pause": (
        program(
            start(),
            Store(SRC_TABLE + 16, descriptor(SOURCE + 0x700, 11, CMD_STOP)),
            resume(),
            **TWO_PAUSES,
        ),
        {"TOTAL_BYTE": 51, "STATUS": 0},
    ),
    "only CONT ends a pause": (
        program(start(), Write(CTRL2, 1), Write(CTRL0, 0xC0), Write(CTRL2, 0), Write(CTRL2, 1), **TWO_PAUSES),
        {"STATUS": 1, "CTRL2": 1, "TOTAL_BYTE": 40},
    ),
    "CONT with EN = 0 disables": (
        program(start(), Write(CTRL2, 0), resume(), **TWO_PAUSES),
        {"STATUS": 0, "CTRL2": 0, "CTRL0": 0xC2, "TOTAL_BYTE": 40, "ISR": PAUSE | SRC_DONE},
    ),
    "and a start then begins at the beginning": (
        program(start(), Write(CTRL2, 0), resume(), Write(CTRL0, 0xC0), Write(CTRL2, 1), **TWO_PAUSES),
        {"STATUS": 1, "CTRL2": 1, "TOTAL_BYTE": 80},
    ),
    "CONT before the pause waits for a write": (
        program(start(control=OVR_FETCH | CONT), Write(CTRL2, 1), **TWO_PAUSES),
        {"STATUS": 1, "TOTAL_BYTE": 100, "CTRL0": 0xC0},
    ),
    "simple mode after scatter-gather": (
        program(start(), simple(10), src=sources((0, 16)), dst=destinations((5, 16))),
        {"ISR": DONE, "TOTAL_BYTE": 26},
    ),
    "registers of simple mode are left alone": (
        program(simple(12, src_flags=INTR), start(), src=sources((0, 16)), dst=destinations((5, 16))),
        {"SRC_WORD0": SOURCE, "SRC_WORD2": 12, "SRC_WORD3": INTR, "DST_WORD0": DESTINATION, "TOTAL_BYTE": 28},
    ),
    "a source descriptor out of alignment": (
        program(start(SRC_TABLE + 8), src=sources((0, 16)), dst=destinations((5, 16))),
        {"STATUS": 3, "TOTAL_BYTE": 0},
    ),
    "a destination descriptor out of alignment": (
        program(start(SRC_TABLE, DST_TABLE + 4), src=sources((0, 16)), dst=destinations((5, 16))),
        {"STATUS": 3, "TOTAL_BYTE": 0},
    ),
}
