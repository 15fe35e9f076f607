"""Drivers of the DMA engines, on a chip whose SMMU still bypasses: their addresses are physical."""

from __future__ import annotations

import random

import pytest

from unimem_node.kernel.board import DmaNode
from unimem_node.kernel.dma_drivers import CdmaDriver, ZdmaDriver
from unimem_node.mpsoc.node import board_of
from unimem_node.mpsoc.soc import Mpsoc

SOURCE, DESTINATION = 0x10_0000, 0x20_0000


def chip() -> Mpsoc:
    return Mpsoc(memory_bytes=16 << 20)


def driver(soc: Mpsoc, name: str) -> ZdmaDriver | CdmaDriver:
    """The driver of one engine, its interrupt connected."""
    board = board_of(soc)
    node = next(node for node in (*board.zdma, *board.cdma) if node.name == name)
    made = CdmaDriver(soc.bus, node) if node in board.cdma else ZdmaDriver(soc.bus, node)
    made.reset()
    soc.interrupts.connect_cpu(lambda spi: made.interrupt() if spi == node.spi else None)
    return made


@pytest.mark.parametrize("name", ["fpd0", "fpd7", "lpd3", "cdma0"])
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


@pytest.mark.parametrize("name", ["fpd0", "cdma0"])
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
    soc.run()
    assert soc.memory.read(DESTINATION, 8) == bytes(8)


def test_an_interrupt_out_of_nowhere_is_harmless() -> None:
    soc = chip()
    for name in ("fpd0", "cdma0"):
        driver(soc, name).interrupt()
    assert soc.interrupts.pending() == []


def test_the_board_knows_its_streams() -> None:
    board = board_of(chip())
    assert board.stream_name(0x14E8) == "fpd0"
    assert board.stream_name(0x86F) == "lpd7"
    assert board.stream_name(0x200) == "cdma0"
    assert board.ni is not None
    assert board.stream_name(board.ni.stream_base + 3) == "ni slot 3"
    assert board.stream_name(0x205) == "the port of cdma0, AXI ID 5"
    assert board.stream_name(0x4C4) == ""
    assert isinstance(board.zdma[0], DmaNode)
