"""Random ZDMA programs (Hypothesis): small, of any alignment, and within what both machines define.

They stay clear of what the deviations without `adjust` are about (sizes of zero, descriptors out of
alignment, commands in simple mode and so on), and of what nobody defines: source and destination do not
overlap, nor do data and descriptors, tables do not run out before STOP, burst types are FIXED or INCR.
"""

from __future__ import annotations

from typing import Final

from hypothesis import strategies as st
from hypothesis.strategies import DrawFn, SearchStrategy

from differential.programs import (
    CMD_PAUSE,
    CMD_STOP,
    COHERENT,
    CONT,
    CONT_ADDR,
    CTRL0,
    CTRL1,
    CTRL2,
    DESTINATION,
    DESTINATION_SIZE,
    DSCR_ATTR,
    DST_TABLE,
    FCI,
    FIXED_BOTH,
    FIXED_DESTINATION,
    FIXED_SOURCE,
    FPD,
    IDS,
    IEN,
    INCR,
    INTR,
    IRQ_DST_ACCT,
    IRQ_SRC_ACCT,
    ISR,
    LPD,
    OVR_FETCH,
    RATE_CNTL,
    READ_ONLY,
    READ_WRITE,
    SCATTER_GATHER,
    SOURCE,
    SOURCE_SIZE,
    SRC_START,
    SRC_TABLE,
    TOTAL_BYTE,
    WR_ONLY_WORD,
    WRITE_ONLY,
    Program,
    Read,
    Step,
    Write,
    descriptor,
    simple,
    start,
    write64,
)

#: QEMU moves data in buffers of this many bytes, and takes each for a destination's end in simple mode.
_QEMU_BUFFER: Final = 2048
_MOST_BYTES: Final = 16 << 10

_BASES = st.sampled_from(FPD + LPD)
_MASKS = st.integers(0, 0xFFF)
#: Registers that change how fast a transfer goes, not what it does.
_NO_EFFECT = st.sampled_from(
    [(CTRL1, 0x3FF), (FCI, 0x3F), (DSCR_ATTR, 0x1FF), (RATE_CNTL, 0xFFF), (WR_ONLY_WORD, 0xFFFF_FFFF)]
)


def _sizes(most: int) -> SearchStrategy[int]:
    return st.one_of(st.integers(1, 64), st.integers(1, most))


@st.composite
def _housekeeping(draw: DrawFn) -> list[Step]:
    """What software may do at any time."""
    match draw(st.integers(0, 4)):
        case 0:
            return [Write(draw(st.sampled_from([ISR, IEN, IDS])), draw(_MASKS))]
        case 1:
            return [Write(TOTAL_BYTE, draw(st.sampled_from([0xFFFF_FFFF, 0xFF, 0])))]
        case 2:
            return [Read(draw(st.sampled_from([IRQ_SRC_ACCT, IRQ_DST_ACCT])))]
        case 3:
            at, mask = draw(_NO_EFFECT)
            return [Write(at, draw(st.integers(0, 0xFFFF_FFFF)) & mask)]
        case _:
            return [Read(at) for at in (IRQ_SRC_ACCT, IRQ_DST_ACCT)]


@st.composite
def _simple_transfer(draw: DrawFn) -> list[Step]:
    mode = draw(st.sampled_from([READ_WRITE, READ_WRITE, WRITE_ONLY, READ_ONLY, 0x30]))
    attributes = draw(st.sampled_from([INCR, INCR, FIXED_SOURCE, FIXED_DESTINATION, FIXED_BOTH]))
    n = draw(_sizes(_MOST_BYTES))
    counted = n <= _QEMU_BUFFER and attributes in (INCR, FIXED_DESTINATION)
    return simple(
        n,
        source=SOURCE + draw(st.integers(0, SOURCE_SIZE - n)),
        destination=DESTINATION + draw(st.integers(0, DESTINATION_SIZE - n)),
        mode=mode,
        attributes=attributes | draw(st.sampled_from([0, 0xF << 4, 0xF << 18])),
        src_flags=draw(st.sampled_from([0, INTR, INTR | COHERENT])),
        dst_flags=draw(st.sampled_from([0, INTR, COHERENT])) if counted or mode == WRITE_ONLY else 0,
        dst_size=draw(st.sampled_from([None, 1, 9999])) if mode != WRITE_ONLY else None,
        pattern=draw(st.lists(st.integers(0, 0xFFFF_FFFF), min_size=4, max_size=4)),
    )


@st.composite
def simple_programs(draw: DrawFn) -> Program:
    """One to four transfers by registers, and what software does between them."""
    steps: list[Step] = []
    for _ in range(draw(st.integers(1, 4))):
        for more in draw(st.lists(_housekeeping(), max_size=2)):
            steps += more
        steps += draw(_simple_transfer())
    steps += [Read(IRQ_SRC_ACCT), Read(IRQ_DST_ACCT)]
    return Program(tuple(steps), base=draw(_BASES))


@st.composite
def _placed(
    draw: DrawFn, at: int, parts: list[tuple[int, int, int]]
) -> tuple[list[tuple[int, bytes]], list[int]]:
    """Descriptors (address, size, flags) as linear arrays chained by links: (memory, their addresses)."""
    links = [draw(st.integers(0, 3)) == 0 for _ in parts]
    places: list[int] = []
    cursor = at + 16 * draw(st.integers(0, 3))
    for n in range(len(parts)):
        linked = links[n] = links[n] and cursor % 32 == 0
        places.append(cursor)
        cursor += 32 if linked else 16
        if linked:  # somewhere else, so that nobody takes the address behind it
            cursor += 16 * draw(st.integers(0, 9))
    memory = []
    for n, (place, part) in enumerate(zip(places, parts, strict=True)):
        memory.append((place, descriptor(*part, (places[n + 1 :] or [at])[0] if links[n] else None)))
    return memory, places


@st.composite
def scatter_gather_programs(draw: DrawFn) -> Program:
    """A list of sources with pauses, destinations that hold them all, and up to eight acts of software."""
    sizes = draw(
        st.lists(_sizes(4000), min_size=1, max_size=7).filter(lambda sizes: sum(sizes) <= _MOST_BYTES)
    )
    room = draw(st.lists(_sizes(6000), min_size=0, max_size=6))
    room = [n for i, n in enumerate(room) if sum(room[:i]) < sum(sizes)]
    if sum(room) < sum(sizes):
        room.append(sum(sizes) - sum(room) + draw(st.integers(0, 40)))
    flags = st.sampled_from([0, 0, INTR, INTR, COHERENT])
    commands = [draw(st.sampled_from([0, 0, CMD_PAUSE])) for _ in sizes[1:]] + [CMD_STOP]
    sources = [
        (SOURCE + draw(st.integers(0, SOURCE_SIZE - n)), n, draw(flags) | command)
        for n, command in zip(sizes, commands, strict=True)
    ]
    destinations = [
        (
            DESTINATION + draw(st.integers(0, DESTINATION_SIZE - n)),
            n,
            draw(flags) | draw(st.sampled_from([0, 0, CMD_STOP])),
        )
        for n in room
    ]
    src_memory, src_places = draw(_placed(SRC_TABLE, sources))
    dst_memory, dst_places = draw(_placed(DST_TABLE, destinations))
    control = draw(st.sampled_from([0, OVR_FETCH, OVR_FETCH | CONT_ADDR]))
    steps: list[Step] = []
    for more in draw(st.lists(_housekeeping(), max_size=2)):
        steps += more
    steps += start(src_places[0], dst_places[0], control=control)
    for _ in range(draw(st.integers(0, 8))):
        steps += draw(
            st.one_of(
                st.just([Write(CTRL0, SCATTER_GATHER | CONT | control)]),
                st.just([Write(CTRL0, SCATTER_GATHER | CONT | control)]),
                st.sampled_from(
                    [
                        [Write(CTRL0, SCATTER_GATHER | CONT | CONT_ADDR)],
                        [Write(CTRL0, SCATTER_GATHER)],
                        [Write(CTRL2, 0)],
                        [Write(CTRL2, 1)],
                    ]
                ),
                st.sampled_from(src_places).map(lambda place: write64(SRC_START, place)),
                _housekeeping(),
            )
        )
    steps += [Read(IRQ_SRC_ACCT), Read(IRQ_DST_ACCT)]
    return Program(tuple(steps), (*src_memory, *dst_memory), draw(_BASES))
