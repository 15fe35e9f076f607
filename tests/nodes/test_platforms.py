"""The platforms that come with the package, and some that are nothing but a file, under one software."""

from __future__ import annotations

import random
from importlib import resources
from pathlib import Path
from typing import Any

import pytest

from support.nodes import Nodes
from unimem.wire import Side, Status
from unimem_node import Mpsoc
from unimem_node.bus import Inspectable
from unimem_node.kernel.dma_drivers import CdmaDriver, ZdmaDriver
from unimem_node.kernel.kernel import Kernel
from unimem_node.memory import MemoryBank
from unimem_node.mpsoc import platform as platforms
from unimem_node.mpsoc.node import Node, boot
from unimem_node.mpsoc.platform import PlatformError
from unimem_node.mpsoc.scenarios import refusals, thesis

SHIPPED = ("stratix10", "versal", "zynqmp")
GIB = 1 << 30
DOMAIN = 7
PAGE = 4096
#: IDR0 to IDR2 and IDR7 as software must find them, typed from the platforms' sources.
IDENTITY = {
    "zynqmp": (0xFC01_3E30, 0x3000_0F10, 0x0000_5555, 0x21),
    "versal": (0xFC01_3E40, 0x4000_0F20, 0x0000_5555, 0x24),
    "stratix10": (0xFC01_3E40, 0x4000_0F20, 0x0000_5555, 0x20),
}


def text_of(name: str) -> str:
    return (resources.files("unimem_node.mpsoc") / "platforms" / f"{name}.toml").read_text("utf-8")


def test_these_are_shipped() -> None:
    assert platforms.available() == list(SHIPPED)


@pytest.mark.parametrize("name", SHIPPED)
def test_the_smmu_identifies_itself_as_this_chips(name: str) -> None:
    soc = Mpsoc(platform=name, memory_bytes=1 << 20)
    base = soc.platform.smmu.base
    assert tuple(soc.bus.read32(base + at) for at in (0x20, 0x24, 0x28, 0x3C)) == IDENTITY[name]
    banks_at = base + (2 << (IDENTITY[name][1] >> 28 & 7)) * 0x1000
    last = banks_at + ((IDENTITY[name][1] & 0xFF) - 1) * 0x1000
    assert soc.bus.read32(last) == 0x100  # CB_SCTLR of the last bank: HUPCF
    soc.close()


@pytest.mark.parametrize(
    ("name", "device", "base", "spi", "stream"),
    [
        ("versal", "smmu", 0xFD80_0000, 107, None),
        ("versal", "smmu_reg", 0xFD5F_0000, None, None),
        ("versal", "lpd0", 0xFFA8_0000, 60, 0x210),
        ("versal", "lpd7", 0xFFAF_0000, 67, 0x21E),
        ("versal", "cdma0", 0xA400_0000, 84, 0x840),
        ("stratix10", "smmu", 0xFA00_0000, 129, None),
        ("stratix10", "cdma1", 0x8001_0000, 18, 0x041),
        ("zynqmp", "fpd7", 0xFD57_0000, 131, 0x14EF),
    ],
)
def test_what_is_where(name: str, device: str, base: int, spi: int | None, stream: int | None) -> None:
    soc = Mpsoc(platform=name, memory_bytes=1 << 20)
    assert soc.bus.device(device).base == base
    part = next(part for part in soc.parts if part.name == device)
    assert part.spis == (() if spi is None else (spi,))
    assert [streams.first for streams in part.streams] == ([] if stream is None else [stream])
    soc.close()


def test_memory_of_a_four_gigabyte_board() -> None:
    banks = {name: platforms.load(name).memory.banks(4 * GIB) for name in SHIPPED}
    assert banks["versal"] == banks["zynqmp"]
    assert banks["stratix10"] == [
        MemoryBank("dram", 0, 2 * GIB),
        MemoryBank("dram_high", 0x1_8000_0000, 2 * GIB),
        MemoryBank("ocm", 0xFFE0_0000, 0x4_0000),
    ]


@pytest.mark.parametrize("name", SHIPPED)
def test_a_debugger_may_look_at_every_device(name: str) -> None:
    soc = Mpsoc(platform=name, memory_bytes=1 << 20)
    regions = soc.bus.devices()
    assert sorted(region.name for region in regions) == sorted(part.name for part in soc.parts)
    for region in regions:
        assert isinstance(region.device, Inspectable), region.name
        for register in region.device.registers.table:
            if register.size == 4:
                found = soc.bus.peek32(region.base + register.offset)
                assert found == region.device.registers.peek(register.name), register.name
    soc.close()


def engine(kernel: Kernel) -> ZdmaDriver | CdmaDriver:
    node = (*kernel.board.zdma, *kernel.board.cdma)[-1]
    return kernel.dma[node.name]


def check_a_transfer_and_a_fault(soc: Mpsoc) -> None:
    """The kernel brings the SMMU up; an engine copies by virtual address, and runs into an unmapped page."""
    kernel = boot(soc)
    driver = engine(kernel)
    stream = driver.node.stream_id
    assert stream is not None
    process = kernel.spawn()
    source, destination = process.map(3 * PAGE), process.map(2 * PAGE)
    data = random.Random(1).randbytes(3 * PAGE)
    process.write(source, data)
    kernel.smmu.attach(stream, 0, process)
    request = driver.submit(source + 100, destination + 1000, 2 * PAGE - 2000)
    soc.run()
    assert request.ok
    assert process.read(destination + 1000, 2 * PAGE - 2000) == data[100 : 2 * PAGE - 1900]
    assert soc.counters()["walks"] > 0
    faulty = driver.submit(source, destination, 3 * PAGE)
    soc.run()
    assert faulty.done
    assert not faulty.ok
    (report,) = kernel.faults
    assert (report.kind, report.iova, report.stream_id) == (
        "translation fault",
        destination + 2 * PAGE,
        stream,
    )
    assert report.stream_name == driver.node.name
    assert process.read(destination, 2 * PAGE) == data[: 2 * PAGE]  # what came before it has arrived
    assert soc.interrupts.pending() == []
    kernel.exit(process)


def check_a_remote_put(platform: str | Path) -> None:
    nodes = Nodes(2, platform=platform)
    for node in nodes.nodes:
        node.open_domain(DOMAIN)
    nodes[1].map_region(DOMAIN, nodes.gva(1), 1 << 20, 3, True)
    data = random.Random(2).randbytes(100_000)
    gva = nodes.gva(1, 12_345)
    row = nodes.put(0, DOMAIN, gva, data)
    assert (row["status"], row["bytes"]) == (Status.OK, len(data))
    assert nodes[1].read_memory(DOMAIN, gva, len(data)) == data
    refused = nodes.put(0, DOMAIN, nodes.gva(1, 2 << 20), b"nothing is mapped here")
    assert (refused["status"], refused["side"]) == (Status.TRANSLATION_FAULT, Side.TARGET)
    assert nodes[1].faults()[-1].stream_name.startswith("ni slot ")
    for node in nodes.nodes:
        assert node.counters()["walks"] > 0
        node.close()


@pytest.mark.parametrize("name", SHIPPED)
def test_bring_up_a_transfer_and_a_fault(name: str) -> None:
    soc = Mpsoc(platform=name, memory_bytes=16 << 20)
    check_a_transfer_and_a_fault(soc)
    soc.close()


@pytest.mark.parametrize("name", SHIPPED)
def test_a_remote_put_between_two_nodes(name: str) -> None:
    check_a_remote_put(name)


@pytest.mark.parametrize("name", SHIPPED)
def test_the_thesis_scenarios(name: str) -> None:
    soc = Mpsoc(platform=name, memory_bytes=64 << 20)
    kernel = boot(soc)
    rows = [*thesis(soc, kernel), *refusals(soc, kernel)]
    assert [row.title for row in rows if not row.ok] == []
    shown = {row.scenario for row in rows}
    assert {"E2", "E3", "E15"} <= shown
    assert ("E1" in shown) == bool(kernel.board.zdma)
    soc.close()


#: Nothing of ours: one memory range, no on-chip memory, no wrapper, no DMA controller, 8 banks, 16 match
#: groups, one TBU, 16 KiB granule allowed, a port of 32 streams.
TINY = """
name = "tiny"
title = "A chip nobody made"
[memory]
dram = [{ base = 0x4000_0000, size = 0x1000_0000 }]
[smmu]
base = 0x1000_0000
[smmu.block]
context_banks = 8
stream_match_groups = 16
micro_tlb_entries = [16]
macro_tlb_entries = 32
macro_tlb_ways = 2
spi = 7
idr1 = 0x2000_0F08
idr2 = 0x0000_7555
[smmu.block.timing]
micro_hit_ps = 1_000
[pl]
spis = [40, 41]
width_bits = 64
clock_mhz = 100
[pl.ports]
S0 = { tbu = 0, first_stream = 0x20, axi_ids = 32 }
S1 = { tbu = 0, first_stream = 0x40 }
[[pl.masters]]
type = "axi_cdma"
port = "S0"
base = 0x2000_0000
size = 0x1000
axi_id = 31
abort_response = "DECERR"
[[pl.masters]]
type = "rdma"
port = "S0"
base = 0x2000_1000
size = 0x1000
axi_id = 0
slots = 4
"""


@pytest.fixture
def tiny(tmp_path: Path) -> Path:
    path = tmp_path / "tiny.toml"
    path.write_text(TINY)
    return path


def test_a_platform_is_a_file_and_no_code(tiny: Path) -> None:
    soc = Mpsoc(platform=tiny, memory_bytes=16 << 20)
    assert [(r.name, r.base, r.size) for r in soc.bus.devices()] == [
        ("smmu", 0x1000_0000, 0x1_0000),  # 8 global pages, as many for banks
        ("cdma0", 0x2000_0000, 0x1000),
        ("ni", 0x2000_1000, 0x1000),
    ]
    assert soc.bus.read32(0x1000_0000 + 0x20) & 0xFF == 16
    assert soc.bus.read32(0x1000_0000 + 0x24) == 0x2000_0F08
    assert soc.platform.smmu.block.granules == {12, 14, 16}
    assert [bank.base for bank in soc.memory.banks] == [0x4000_0000]
    check_a_transfer_and_a_fault(soc)
    soc.close()
    check_a_remote_put(tiny)


def test_its_limits_are_those_of_the_file(tiny: Path) -> None:
    node = Node("n0", 0, platform=str(tiny), memory_bytes=16 << 20)
    assert node.kernel.smmu.context_banks == 8
    rows = refusals(node.soc, node.kernel)
    assert [(row.scenario, row.ok) for row in rows] == [("E15", True), ("E15", True)]
    node.close()


@pytest.mark.parametrize(
    ("old", "new", "message"),
    [
        ("0x4000_0000, size = 0x1000_0000", "0x4000_0800, size = 0x1000_0000", r"dram\.0: .*page size, 4096"),
        ("dram = [{ base = 0x4000_0000, size = 0x1000_0000 }]", "dram = []", r"memory\.dram: .*at least 1"),
        ("base = 0x2000_1000", "base = 0x2000_0800", "ni at 0x2000_0800 overlaps cdma0 at 0x2000_0000"),
        ("base = 0x2000_0000", "base = 0x1000_8000", "cdma0 at 0x1000_8000 overlaps smmu at 0x1000_0000"),
        ("base = 0x1000_0000", "base = 0x4100_0000", r"smmu at 0x4100_0000 overlaps memory\.dram\.0"),
        ("spis = [40, 41]", "spis = [40]", "ni: all 1 interrupts of the PL are taken"),
        ("spis = [40, 41]", "spis = [40, 988]", r"pl\.spis\.1: .*less than 988"),
        (
            "slots = 4",
            "slots = 33",
            "ni: .*IDs up to 32; port S0 has 32: take fewer slots",
        ),
        ("axi_id = 31", "axi_id = 32", "cdma0: axi_id = 32 .*port S0 has 32: take axi_id = 31 or less"),
        ("axi_ids = 32", "axi_ids = 33", r"pl\.ports\.S0: .*power of two"),
        ("first_stream = 0x20", "first_stream = 0x10", r"pl\.ports\.S0: .*multiple of 0x20 in TBU 0"),
        (
            "tbu = 0, first_stream = 0x20",
            "tbu = 1, first_stream = 0x420",
            r"pl\.ports\.S0: tbu = 1, .*1 TBUs",
        ),
        ("context_banks = 8", "context_banks = 9", r"smmu\.block: .*9 context banks \(IDR1\.NUMPAGENDXB"),
        (
            "first_stream = 0x40 }",
            "first_stream = 0x30, axi_ids = 16 }",
            "ports S0 and S1 would both have stream 0x0030",
        ),
        ('name = "tiny"', 'name = "../tiny"', "name: String should match pattern"),
        ('type = "rdma"', 'type = "rdma"\nname = "smmu"', "two parts of platform tiny are called smmu"),
        ("width_bits = 64", "width_bits = 48", r"pl\.width_bits: .*32, 64 or 128"),
    ],
)
def test_a_file_that_does_not_fit_together_says_where(old: str, new: str, message: str) -> None:
    assert old in TINY
    with pytest.raises(PlatformError, match=message):
        platforms.parse(TINY.replace(old, new, 1), "tiny.toml")


def test_a_file_of_something_else_is_refused(tmp_path: Path) -> None:
    path = tmp_path / "picture.toml"
    path.write_bytes(b"\xff\xd8\xff\xe0")
    with pytest.raises(PlatformError, match=r"picture\.toml: not UTF-8 text"):
        platforms.load(path)
    with pytest.raises(PlatformError, match="Is a directory"):
        platforms.load(make_folder(tmp_path))


def make_folder(tmp_path: Path) -> Path:
    folder = tmp_path / "folder.toml"
    folder.mkdir()
    return folder


def test_channels_may_share_an_interrupt_and_lie_apart() -> None:
    text = text_of("versal").replace("stream_step = 2", "stream_step = 4\nspi_step = 0")
    specs = platforms.parse(text, "x").zdma_specs()
    assert [(spec.spi, spec.stream_id) for spec in specs] == [(60, 0x210 + 4 * n) for n in range(8)]


@pytest.mark.parametrize("name", SHIPPED)
def test_every_port_is_good_for_a_master(name: str) -> None:
    platform = platforms.load(name)
    for port, part in platform.pl.ports.items():
        master: dict[str, Any] = {"type": "axi_cdma", "port": port, "base": 0x9000_0000, "axi_id": 5}
        (spec,) = platform.pl_specs(platforms.parse_masters([master]))
        expected = None if part.first_stream is None else part.first_stream + 5
        assert getattr(spec, "stream_id", None) == expected
