"""Drivers of the DMA engines, on a chip whose SMMU still bypasses: their addresses are physical."""

from __future__ import annotations

import random

import pytest

from unimem_node.kernel.axi_dma_driver import AxiDmaDriver
from unimem_node.kernel.board import DmaNode
from unimem_node.kernel.dma_drivers import CdmaDriver, Driver, ZdmaDriver
from unimem_node.kernel.dma_lists import ListMemory, pairs
from unimem_node.mpsoc.node import board_of, boot
from unimem_node.mpsoc.soc import Mpsoc

SOURCE, DESTINATION = 0x10_0000, 0x20_0000


LISTS = ListMemory(cpu=0x8_0000, device=0x8_0000, size=0x1_0000)
MASTERS = [
    {"type": "axi_cdma", "port": "HPC0", "base": 0xA000_0000},
    {"type": "axi_dma", "port": "HP0", "base": 0xA002_0000},
    {"type": "rdma"},
]


def chip() -> Mpsoc:
    return Mpsoc(memory_bytes=16 << 20, pl_masters=MASTERS)


def driver(soc: Mpsoc, name: str) -> Driver:
    """The driver of one engine, its interrupt connected."""
    board = board_of(soc)
    kinds = ((ZdmaDriver, board.zdma), (CdmaDriver, board.cdma), (AxiDmaDriver, board.axi_dma))
    kind, node = next((kind, node) for kind, nodes in kinds for node in nodes if node.name == name)
    made = kind(soc.bus, node, LISTS)
    made.reset()
    soc.interrupts.connect_cpu(lambda spi: made.interrupt() if spi in node.spis else None)
    return made


@pytest.mark.parametrize("name", ["fpd0", "fpd7", "lpd3", "cdma0", "dma0"])
def test_a_transfer_moves_bytes_and_ends_by_interrupt(name: str) -> None:
    soc = chip()
    data = random.Random(1).randbytes(10_001)
    soc.memory.write(SOURCE + 3, data)
    request = driver(soc, name).submit(SOURCE + 3, DESTINATION + 1, len(data))
    assert not request.done
    soc.run()
    assert request.ok
    assert request.moved == len(data)
    assert soc.memory.read(DESTINATION + 1, len(data)) == data
    assert soc.memory.read(DESTINATION + 1 + len(data), 8) == bytes(8)
    assert soc.interrupts.pending() == []


@pytest.mark.parametrize("name", ["fpd0", "cdma0", "dma0"])
def test_transfers_queue_in_order(name: str) -> None:
    soc = chip()
    soc.memory.write(SOURCE, b"abcdefgh")
    dma = driver(soc, name)
    first = dma.submit(SOURCE, DESTINATION, 8)
    second = dma.submit(DESTINATION, DESTINATION + 0x1000, 8)  # needs the first one's result
    third = dma.submit(DESTINATION + 0x1000, DESTINATION + 0x2000, 4)
    soc.run()
    assert [request.ok for request in (first, second, third)] == [True] * 3
    assert third.moved == 4
    assert soc.memory.read(DESTINATION + 0x2000, 8) == b"abcd\0\0\0\0"


@pytest.mark.parametrize(
    ("name", "read_error", "write_error"),
    [
        ("fpd1", "AXI_RD_DATA", "AXI_WR_DATA"),
        ("lpd0", "AXI_RD_DATA", "AXI_WR_DATA"),
        ("cdma0", "DMADecErr", "DMADecErr"),
        ("dma0", "MM2S DMADecErr", "S2MM DMADecErr"),
    ],
)
def test_an_address_without_memory_is_an_error_and_the_next_transfer_works(
    name: str, read_error: str, write_error: str
) -> None:
    soc = chip()
    dma = driver(soc, name)
    nowhere = 0x4000_0000
    bad_read = dma.submit(nowhere, DESTINATION, 64)
    bad_write = dma.submit(SOURCE, nowhere, 64)
    soc.memory.write(SOURCE, b"good")
    good = dma.submit(SOURCE, DESTINATION, 4)
    soc.run()
    assert bad_read.done
    assert (bad_read.error, bad_write.error) == (read_error, write_error)
    assert not bad_read.ok
    assert good.ok
    assert soc.memory.read(DESTINATION, 4) == b"good"


def test_what_an_engine_cannot_do_is_refused_before_it_is_asked() -> None:
    soc = chip()
    dma = driver(soc, "fpd0")
    for length in (0, -1, 1 << 30):
        with pytest.raises(ValueError, match="fpd0 moves 1 to 1073741823 bytes at once"):
            dma.submit(SOURCE, DESTINATION, length)
    with pytest.raises(ValueError, match="49 bits"):
        dma.submit((1 << 49) - 4, DESTINATION, 8)
    with pytest.raises(ValueError, match="sources have 8 bytes, destinations 9"):
        dma.submit_list([(SOURCE, 8)], [(DESTINATION, 9)])
    with pytest.raises(ValueError, match="65552 bytes of descriptors"):
        dma.submit_list([(SOURCE + n, 1) for n in range(4096)], [(DESTINATION, 4096)])
    dma.lists = None
    with pytest.raises(ValueError, match="not been given"):
        dma.submit_list([(SOURCE, 1)] * 2, [(DESTINATION, 2)])
    soc.run()
    assert soc.memory.read(DESTINATION, 8) == bytes(8)


@pytest.mark.parametrize("name", ["fpd2", "lpd1", "cdma0", "dma0"])
@pytest.mark.parametrize("pieces", [3, 300])
def test_lists_gather_and_scatter(name: str, pieces: int) -> None:
    soc = chip()
    data = random.Random(2).randbytes(64 * pieces)
    soc.memory.write(SOURCE, data)
    order = random.Random(3).sample(range(pieces), pieces)
    sources = [(SOURCE + 64 * n, 64) for n in order]
    destinations = [(DESTINATION, 100), (DESTINATION + 0x1_0000, 64 * pieces - 100)]
    dma = driver(soc, name)
    first = dma.submit_list(sources, destinations)
    second = dma.submit(SOURCE, DESTINATION + 0x4_0000, 40)  # simple mode again, and a list after it
    third = dma.submit_list([(SOURCE, 8), (SOURCE + 8, 8)], [(DESTINATION + 0x5_0000, 16)])
    soc.run()
    assert [request.ok for request in (first, second, third)] == [True] * 3
    assert first.moved == 64 * pieces
    moved = b"".join(data[64 * n : 64 * n + 64] for n in order)
    assert soc.memory.read(DESTINATION, 101) == moved[:100] + b"\0"
    assert soc.memory.read(DESTINATION + 0x1_0000, len(moved) - 100) == moved[100:]
    assert soc.memory.read(DESTINATION + 0x4_0000, 41) == data[:40] + b"\0"
    assert soc.memory.read(DESTINATION + 0x5_0000, 16) == data[:16]
    assert soc.interrupts.pending() == []


def test_the_kernel_drives_an_axi_dma_it_finds() -> None:
    soc = Mpsoc(memory_bytes=64 << 20, pl_masters=MASTERS)
    kernel = boot(soc, strict=False)
    dma = kernel.dma["dma0"]
    dma.lists = LISTS
    soc.memory.write(SOURCE, b"round")
    request = dma.submit(SOURCE, DESTINATION, 5)
    soc.run()
    assert request.ok
    assert soc.memory.read(DESTINATION, 5) == b"round"


def test_pieces_are_cut_at_each_others_borders() -> None:
    assert list(pairs([(0, 3), (10, 5)], [(100, 1), (200, 7)])) == [
        (0, 100, 1), (1, 200, 2), (10, 202, 5),
    ]  # fmt: skip


def test_an_interrupt_out_of_nowhere_is_harmless() -> None:
    soc = chip()
    for name in ("fpd0", "cdma0", "dma0"):
        driver(soc, name).interrupt()
    assert soc.interrupts.pending() == []


def test_the_board_knows_its_streams() -> None:
    board = board_of(chip())
    assert board.stream_name(0x14E8) == "fpd0"
    assert board.stream_name(0x86F) == "lpd7"
    assert board.stream_name(0x200) == "cdma0"
    assert board.stream_name(0xE80) == "dma0"
    assert board.ni is not None
    assert board.stream_name(board.ni.stream_base + 3) == "ni slot 3"
    assert board.stream_name(0x205) == "the port of cdma0, AXI ID 5"
    assert board.stream_name(0x4C4) == ""
    assert isinstance(board.zdma[0], DmaNode)
