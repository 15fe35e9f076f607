"""AXI DMA: memory to stream, looped back, stream to memory; both builds."""

from __future__ import annotations

from dataclasses import replace

import pytest

from support.axi import (
    BD_DEC,
    BD_INT,
    BD_SLV,
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
    SG_INCLUDED,
    SG_INT_ERR,
    SG_SLV_ERR,
    SLV_ERR,
    SOF,
    dma_bd,
    status_of,
)
from support.bare_metal import Driver
from unimem_node import Mpsoc
from unimem_node.dma import AxiDma, Patience

DMA = 0xA002_0000
MM2S, S2MM = DMA, DMA + 0x30
CR, SR, CUR, TAIL, ADDR, LENGTH = 0x00, 0x04, 0x08, 0x10, 0x18, 0x28
RUN, KEYHOLE, CYCLIC = 1 << 0, 1 << 3, 1 << 4
STREAM = 0xE80  # HP0, AXI ID 0
TX_LIST, RX_LIST, SRC, DST = 0x2_0000, 0x4_0000, 0x10_0000, 0x30_0000
VA = 0x40_0000_0000
DATA = bytes(range(251)) * 1000
FIFO = 4096


def build(*, fast: bool = True, **fields: object) -> Mpsoc:
    master = {"type": "axi_dma", "port": "HP0", "base": DMA, "axi_id": 0, "fifo_bytes": FIFO, **fields}
    soc = Mpsoc(memory_bytes=32 << 20, pl_masters=[master], fast=fast)
    soc.memory.write(SRC, DATA)
    return soc


@pytest.fixture(params=[True, False], ids=["fast", "readable"])
def soc(request: pytest.FixtureRequest) -> Mpsoc:
    return build(fast=request.param)


def run_bits(soc: Mpsoc, *channels: int, bits: int = 0) -> None:
    for channel in channels or (MM2S, S2MM):
        soc.bus.write32(channel + CR, 0x1_0000 | RUN | bits)


def ring(
    soc: Mpsoc, at: int, bds: list[tuple[int, int]], app: dict[int, tuple[int, ...]] | None = None
) -> list[int]:
    """Descriptors (buffer, control) one after the other; returns their addresses."""
    places = [at + 0x40 * n for n in range(len(bds))]
    for n, (place, (buffer, control)) in enumerate(zip(places, bds, strict=True)):
        following = places[(n + 1) % len(places)]
        soc.memory.write(place, dma_bd(following, buffer, control, app=(app or {}).get(n, ())))
    return places


def launch(soc: Mpsoc, channel: int, places: list[int], bits: int = 0) -> None:
    soc.bus.write64(channel + CUR, places[0])
    run_bits(soc, channel, bits=bits)
    soc.bus.write64(channel + TAIL, places[-1])


def statuses(soc: Mpsoc, places: list[int]) -> list[int]:
    return [status_of(soc, place) for place in places]


def status(soc: Mpsoc, channel: int) -> int:
    return soc.bus.read32(channel + SR)


def test_reset_state(soc: Mpsoc) -> None:
    for channel in (MM2S, S2MM):
        assert (soc.bus.read32(channel + CR), status(soc, channel)) == (0x1_0000, HALTED | SG_INCLUDED)
        assert [soc.bus.read32(channel + at) for at in range(8, 0x30, 4)] == [0] * 10


def test_a_packet_goes_round(soc: Mpsoc) -> None:
    tx = ring(soc, TX_LIST, [(SRC, SOF | 100), (SRC + 100, 50), (SRC + 150, EOF | 850)])
    rx = ring(soc, RX_LIST, [(DST, 600), (DST + 0x1000, 600), (DST + 0x2000, 600)])
    launch(soc, S2MM, rx)
    launch(soc, MM2S, tx)
    soc.run()
    assert statuses(soc, tx) == [COMPLETE | 100, COMPLETE | 50, COMPLETE | 850]
    assert statuses(soc, rx) == [COMPLETE | SOF | 600, COMPLETE | EOF | 400, 0]
    assert soc.memory.read(DST, 600) == DATA[:600]
    assert soc.memory.read(DST + 0x1000, 401) == DATA[600:1000] + b"\0"
    assert status(soc, MM2S) == SG_INCLUDED | IDLE | IOC
    assert status(soc, S2MM) == SG_INCLUDED | IOC  # it waits for more
    assert soc.axi_dma["dma0"].busy


def test_each_packet_begins_a_descriptor_and_carries_its_app_words(soc: Mpsoc) -> None:
    words = [(1, 2, 3, 4, 5), (6, 7, 8, 9, 0xFFFF_FFFF)]
    tx = ring(
        soc,
        TX_LIST,
        [(SRC, SOF | 30), (SRC + 30, EOF | 10), (SRC + 40, SOF | EOF | 7)],
        app={0: words[0], 1: (99,) * 5, 2: words[1]},
    )
    rx = ring(soc, RX_LIST, [(DST + 0x100 * n, 64) for n in range(2)])
    launch(soc, MM2S, tx)
    launch(soc, S2MM, rx)
    soc.run()
    assert statuses(soc, rx) == [COMPLETE | SOF | EOF | 40, COMPLETE | SOF | EOF | 7]
    for n, rx_bd in enumerate(rx):
        found = soc.memory.read(rx_bd + 0x20, 20)
        assert [int.from_bytes(found[i : i + 4], "little") for i in range(0, 20, 4)] == list(words[n])
    assert status(soc, S2MM) == SG_INCLUDED | IDLE | IOC


def test_a_full_fifo_holds_the_sender_back(soc: Mpsoc) -> None:
    tx = ring(soc, TX_LIST, [(SRC, SOF | EOF | 3 * FIFO)])
    launch(soc, MM2S, tx)
    soc.run()
    assert statuses(soc, tx) == [0]
    assert status(soc, MM2S) == SG_INCLUDED
    rx = ring(soc, RX_LIST, [(DST, 4 * FIFO)])
    launch(soc, S2MM, rx)
    soc.run()
    assert statuses(soc, tx) == [COMPLETE | 3 * FIFO]
    assert statuses(soc, rx) == [COMPLETE | SOF | EOF | 3 * FIFO]
    assert soc.memory.read(DST, 3 * FIFO + 1) == DATA[: 3 * FIFO] + b"\0"


def test_many_small_packets_fill_the_packet_queue(soc: Mpsoc) -> None:
    tx = ring(soc, TX_LIST, [(SRC + n, SOF | EOF | 1) for n in range(100)])
    launch(soc, MM2S, tx)
    soc.run()
    assert sum(map(bool, statuses(soc, tx))) == 64
    rx = ring(soc, RX_LIST, [(DST + n, 10) for n in range(100)])
    launch(soc, S2MM, rx)
    soc.run()
    assert statuses(soc, rx) == [COMPLETE | SOF | EOF | 1] * 100
    assert soc.memory.read(DST, 100) == DATA[:100]


def test_the_tail_moves_on_and_the_list_wraps(soc: Mpsoc) -> None:
    tx = ring(soc, TX_LIST, [(SRC + 16 * n, SOF | EOF | 16) for n in range(4)])
    rx = ring(soc, RX_LIST, [(DST + 16 * n, 16) for n in range(4)])
    launch(soc, S2MM, rx[:4])
    launch(soc, MM2S, tx[:2])
    soc.run()
    assert soc.bus.read64(MM2S + CUR) == tx[1]
    soc.bus.write64(MM2S + TAIL, tx[2])
    soc.run()
    assert soc.memory.read(DST, 49) == DATA[:48] + b"\0"
    ring(soc, TX_LIST, [(SRC + 500, SOF | EOF | 16), *[(SRC + 16 * n, SOF | EOF | 16) for n in range(1, 4)]])
    soc.bus.write64(MM2S + TAIL, tx[0])  # the last one, then round to the first
    soc.run()
    assert statuses(soc, rx) == [COMPLETE | SOF | EOF | 16] * 4
    assert status_of(soc, tx[0]) == COMPLETE | 16


def test_cyclic_lists_ignore_tail_and_complete_bits_until_stopped(soc: Mpsoc) -> None:
    tx = ring(soc, TX_LIST, [(SRC + 512 * n, SOF | EOF | 512) for n in range(2)])
    rx = ring(soc, RX_LIST, [(DST + 512 * n, 512) for n in range(3)])
    launch(soc, S2MM, rx, CYCLIC)
    launch(soc, MM2S, tx, CYCLIC)
    soc.run(until_ns=100_000)
    assert status(soc, MM2S) & (IDLE | HALTED) == 0
    assert statuses(soc, tx) == [COMPLETE | 512] * 2
    assert soc.memory.read(DST, 512) in (DATA[:512], DATA[512:1024])
    for channel in (MM2S, S2MM):
        soc.bus.write32(channel + CR, 0x1_0000)
        assert status(soc, channel) & (IDLE | HALTED) == HALTED
    soc.run()
    assert soc.now_ns == 100_000


def test_keyhole_keeps_the_address(soc: Mpsoc) -> None:
    tx = ring(soc, TX_LIST, [(SRC, SOF | EOF | 40)])
    rx = ring(soc, RX_LIST, [(DST, 64)])
    launch(soc, S2MM, rx)
    launch(soc, MM2S, tx, KEYHOLE)
    soc.run()
    assert soc.memory.read(DST, 41) == DATA[:16] * 2 + DATA[:8] + b"\0"


# ---- running and halting


def test_nothing_starts_while_halted(soc: Mpsoc) -> None:
    tx = ring(soc, TX_LIST, [(SRC, SOF | EOF | 16)])
    soc.bus.write64(MM2S + CUR, tx[0])
    soc.bus.write64(MM2S + TAIL, tx[0])
    soc.run()
    assert statuses(soc, tx) == [0]
    run_bits(soc, MM2S)
    assert status(soc, MM2S) == SG_INCLUDED | IDLE
    soc.bus.write64(MM2S + CUR, 0x9000)
    assert soc.bus.read64(MM2S + CUR) == tx[0]  # written while halted only
    soc.bus.write64(MM2S + TAIL, tx[0])
    soc.run()
    assert statuses(soc, tx) == [COMPLETE | 16]


def test_rs_halts_at_once_and_the_stream_keeps_its_data(soc: Mpsoc) -> None:
    tx = ring(soc, TX_LIST, [(SRC, SOF | EOF | 1000)])
    launch(soc, MM2S, tx)
    soc.run()
    rx = ring(soc, RX_LIST, [(DST, 2000)])
    launch(soc, S2MM, rx)
    soc.bus.write32(S2MM + CR, 0x1_0000)
    soc.run()
    assert statuses(soc, rx) == [0]
    launch(soc, S2MM, rx)
    soc.run()
    assert statuses(soc, rx) == [COMPLETE | SOF | EOF | 1000]


def test_a_reset_of_one_channel_is_of_both_and_of_the_stream(soc: Mpsoc) -> None:
    launch(soc, MM2S, ring(soc, TX_LIST, [(SRC, SOF | EOF | 1000)]))
    soc.run()
    soc.bus.write32(S2MM + CR, RESET)
    assert (status(soc, MM2S), soc.bus.read32(MM2S + CR)) == (HALTED | SG_INCLUDED, 0x1_0000)
    rx = ring(soc, RX_LIST, [(DST, 2000)])
    launch(soc, S2MM, rx)
    soc.run()
    assert statuses(soc, rx) == [0]


# ---- interrupts


def test_two_interrupts_counted_by_packets(soc: Mpsoc) -> None:
    tx = ring(soc, TX_LIST, [(SRC, SOF | 10), (SRC, EOF | 10), (SRC, SOF | EOF | 10), (SRC, SOF | EOF | 10)])
    rx = ring(soc, RX_LIST, [(DST, 64)] * 3)
    seen = []

    def handler(spi: int) -> None:
        channel = {89: MM2S, 90: S2MM}[spi]
        seen.append((spi, sum(map(bool, statuses(soc, tx if spi == 89 else rx)))))
        soc.bus.write32(channel + SR, IOC | DLY | ERR)

    soc.interrupts.connect_cpu(handler)
    for channel, places in ((S2MM, rx), (MM2S, tx)):
        soc.bus.write64(channel + CUR, places[0])
        soc.bus.write32(channel + CR, 2 << 16 | RUN | IOC)
        soc.bus.write64(channel + TAIL, places[-1])
    soc.run()
    assert seen == [(89, 3), (90, 2)]
    assert status(soc, MM2S) == SG_INCLUDED | IDLE


def test_the_delay_interrupt(soc: Mpsoc) -> None:
    tx = ring(soc, TX_LIST, [(SRC, SOF | EOF | 10)])
    soc.bus.write64(MM2S + CUR, tx[0])
    soc.bus.write32(MM2S + CR, 5 << 24 | 9 << 16 | RUN | DLY)
    soc.bus.write64(MM2S + TAIL, tx[0])
    soc.run()
    assert status(soc, MM2S) == SG_INCLUDED | IDLE | DLY
    assert soc.interrupts.pending() == [89]
    soc.bus.write32(MM2S + SR, DLY)
    assert soc.interrupts.pending() == []


# ---- errors


@pytest.mark.parametrize(
    ("descriptor", "bits", "word"),
    [
        (dma_bd(0, SRC, SOF | EOF), INT_ERR, BD_INT),
        (dma_bd(0, SRC, SOF | EOF | 8, COMPLETE), SG_INT_ERR, COMPLETE),
        (dma_bd(0, 0x7_0000_0000, SOF | EOF | 8), DEC_ERR, BD_DEC),
        (dma_bd(0, (32 << 20) - 4, SOF | EOF | 8), DEC_ERR, BD_DEC | 4),
    ],
    ids=["length zero", "stale", "no memory", "memory ends"],
)
@pytest.mark.parametrize("channel", [MM2S, S2MM], ids=["MM2S", "S2MM"])
def test_n18_n20_an_error_halts_its_channel_until_reset(
    soc: Mpsoc, channel: int, descriptor: bytes, bits: int, word: int
) -> None:
    lists = {MM2S: (TX_LIST, SRC), S2MM: (RX_LIST, DST)}
    for each, (at, buffer) in lists.items():
        places = ring(soc, at, [(buffer, SOF | EOF | 8)])
        if each == channel:
            soc.memory.write(at, descriptor)
        launch(soc, each, places, ERR)
    soc.run()
    assert status(soc, channel) == SG_INCLUDED | HALTED | bits | ERR
    assert soc.bus.read32(channel + CR) & RUN == 0
    assert soc.interrupts.pending() == [89 if channel == MM2S else 90]
    assert status_of(soc, lists[channel][0]) == word
    assert soc.bus.read64(channel + CUR) == lists[channel][0]
    other = S2MM if channel == MM2S else MM2S
    assert status(soc, other) & HALTED == 0
    run_bits(soc, channel)
    assert status(soc, channel) & HALTED
    soc.bus.write32(channel + CR, RESET)
    assert status(soc, channel) == SG_INCLUDED | HALTED


@pytest.fixture
def driver(soc: Mpsoc) -> Driver:
    driver = Driver(soc)
    driver.bring_up()
    driver.route(0, STREAM, 0)
    return driver


@pytest.mark.parametrize(
    ("hole", "channel", "bits"),
    [(0, MM2S, SG_SLV_ERR), (1, S2MM, SG_SLV_ERR), (3, MM2S, SLV_ERR), (6, S2MM, SLV_ERR)],
    ids=["fetch", "S2MM fetch", "read", "write"],
)
def test_through_the_smmu_with_one_stream(
    soc: Mpsoc, driver: Driver, hole: int, channel: int, bits: int
) -> None:
    root = driver.new_table()
    data = [base + n * 0x1000 for base in (SRC, DST) for n in range(3)]
    for n, frame in enumerate([TX_LIST, RX_LIST, *data]):
        if n != hole:
            driver.map(root, VA + n * 0x1000, frame)
    driver.set_bank(0, root)
    soc.memory.write(TX_LIST, dma_bd(VA, VA + 0x2000, SOF | EOF | 0x1800))
    soc.memory.write(RX_LIST, dma_bd(VA + 0x1000, VA + 0x5000, 0x2000))
    launch(soc, S2MM, [VA + 0x1000])
    launch(soc, MM2S, [VA])
    soc.run()
    assert status(soc, channel) == SG_INCLUDED | HALTED | bits | ERR
    if hole == 6:
        assert status_of(soc, RX_LIST) == BD_SLV | 0x1000
        assert soc.memory.read(DST, 0x1001) == DATA[:0x1000] + b"\0"
    driver.map(root, VA + hole * 0x1000, ([TX_LIST, RX_LIST, *data])[hole])
    soc.bus.write32(MM2S + CR, RESET)
    soc.memory.write(TX_LIST, dma_bd(VA, VA + 0x2000, SOF | EOF | 0x1800))
    soc.memory.write(RX_LIST, dma_bd(VA + 0x1000, VA + 0x5000, 0x2000))
    launch(soc, S2MM, [VA + 0x1000])
    launch(soc, MM2S, [VA])
    soc.run()
    assert status_of(soc, RX_LIST) == COMPLETE | SOF | EOF | 0x1800
    assert soc.memory.read(DST, 0x1800) == DATA[:0x1800]


# ---- the build in direct register mode


@pytest.fixture(params=[True, False], ids=["fast", "readable"])
def direct(request: pytest.FixtureRequest) -> Mpsoc:
    return build(fast=request.param, scatter_gather=False, length_bits=16)


def transfer(soc: Mpsoc, channel: int, address: int, n: int) -> None:
    soc.bus.write64(channel + ADDR, address)
    soc.bus.write32(channel + LENGTH, n)


def test_direct_transfers(direct: Mpsoc) -> None:
    soc = direct
    assert status(soc, MM2S) == HALTED
    transfer(soc, MM2S, SRC, 100)  # halted: nothing
    run_bits(soc)
    assert status(soc, S2MM) == 0
    transfer(soc, S2MM, DST, 5000)
    transfer(soc, MM2S, SRC + 1, 4500)
    soc.run()
    assert (status(soc, MM2S), status(soc, S2MM)) == (IDLE | IOC, IDLE | IOC)
    assert soc.bus.read32(S2MM + LENGTH) == 4500
    assert soc.memory.read(DST, 4501) == DATA[1:4501] + b"\0"
    soc.bus.write32(S2MM + LENGTH, 0)  # starts nothing
    soc.run()
    assert status(soc, S2MM) == IDLE | IOC


def test_a_direct_packet_that_is_too_long_is_an_internal_error(direct: Mpsoc) -> None:
    soc = direct
    run_bits(soc)
    transfer(soc, S2MM, DST, 50)
    transfer(soc, MM2S, SRC, 100)
    soc.run()
    assert status(soc, S2MM) == HALTED | INT_ERR | ERR
    assert soc.memory.read(DST, 51) == DATA[:50] + b"\0"


def test_a_direct_transfer_that_the_interconnect_refuses(direct: Mpsoc) -> None:
    soc = direct
    run_bits(soc)
    transfer(soc, MM2S, 0x7_0000_0000, 100)
    soc.run()
    assert status(soc, MM2S) == HALTED | DEC_ERR | ERR


def test_the_registers_of_the_other_build_are_not_there(direct: Mpsoc, soc: Mpsoc) -> None:
    for chip, absent in ((direct, (CUR, TAIL)), (soc, (ADDR, LENGTH))):
        for channel in (MM2S, S2MM):
            for at in absent:
                chip.bus.write32(channel + at, 0xFFFF_FFFF)
                assert chip.bus.read32(channel + at) == 0
    direct.bus.write32(MM2S + LENGTH, 0xFFFF_FFFF)
    assert direct.bus.read32(MM2S + LENGTH) == 0xFFFF


def test_large_transfers_alternate_through_the_fifo(direct: Mpsoc) -> None:
    soc = direct
    run_bits(soc)
    transfer(soc, S2MM, DST, 60_000)
    transfer(soc, MM2S, SRC, 60_000)
    soc.run()
    assert soc.memory.read(DST, 60_000) == DATA[:60_000]


def test_a_ring_nobody_looks_at_ends(soc: Mpsoc) -> None:
    spec = replace(soc.axi_dma["dma0"].spec, name="impatient", patience=Patience(descriptors=500))
    lines = soc.interrupts.line(91), soc.interrupts.line(92)
    dma = AxiDma(soc.smmu, soc.scheduler, lines, spec)
    tx = ring(soc, TX_LIST, [(SRC, SOF | EOF | 1)])
    rx = ring(soc, RX_LIST, [(DST, 1)])
    for channel, places in ((0x30, rx), (0x00, tx)):
        dma.write(channel + CUR, 8, places[0])
        dma.write(channel + CR, 4, 0x1_0000 | RUN | CYCLIC)
        dma.write(channel + TAIL, 8, places[0])
    soc.run()
    assert dma.read(SR, 4) & (HALTED | SG_INT_ERR) == HALTED | SG_INT_ERR
    assert dma.read(CR, 4) & RUN == 0
