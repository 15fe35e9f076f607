from __future__ import annotations

from importlib import resources
from pathlib import Path

import pytest

from unimem_node.dma import CdmaSpec
from unimem_node.fabric import RdmaSpec
from unimem_node.memory import MemoryBank
from unimem_node.mpsoc import platform as platforms
from unimem_node.mpsoc.platform import PlatformError

GIB = 1 << 30
TEXT = (resources.files("unimem_node.mpsoc") / "platforms" / "zynqmp.toml").read_text("utf-8")


@pytest.fixture
def zynqmp() -> platforms.Platform:
    return platforms.load("zynqmp")


def test_the_engines_are_where_the_chip_has_them(zynqmp: platforms.Platform) -> None:
    specs = {spec.name: spec for spec in zynqmp.zdma_specs()}
    assert len(specs) == 16
    fpd3, lpd7 = specs["fpd3"], specs["lpd7"]
    assert (fpd3.base, fpd3.spi, fpd3.stream_id, fpd3.path.width_bytes) == (0xFD53_0000, 127, 0x14EB, 16)
    assert (lpd7.base, lpd7.spi, lpd7.stream_id, lpd7.path.width_bytes) == (0xFFAF_0000, 84, 0x86F, 8)
    assert zynqmp.smmu.base == 0xFD80_0000
    assert zynqmp.smmu.block.size == 0x2_0000
    assert zynqmp.smmu.block.spi == 155


def test_default_pl_has_the_contracts_cdma_and_the_network_interface(zynqmp: platforms.Platform) -> None:
    cdma, ni = zynqmp.pl_specs(zynqmp.pl.masters)
    assert isinstance(cdma, CdmaSpec)
    assert (cdma.base, cdma.stream_id, cdma.spi) == (0xA000_0000, 0x200, 89)
    assert (cdma.path.width_bytes, cdma.path.clock_mhz) == (16, 300)
    assert isinstance(ni, RdmaSpec)
    assert (ni.base, ni.size, ni.spi, ni.stream_base, ni.slots) == (0xA001_0000, 0x1_0000, 90, 0x210, 16)


@pytest.mark.parametrize(
    ("memory_bytes", "dram"),
    [
        (4096, [MemoryBank("dram", 0, 4096)]),
        (2 * GIB, [MemoryBank("dram", 0, 2 * GIB)]),
        (4 * GIB, [MemoryBank("dram", 0, 2 * GIB), MemoryBank("dram_high", 0x8_0000_0000, 2 * GIB)]),
    ],
)
def test_memory_fills_the_low_range_first(
    zynqmp: platforms.Platform, memory_bytes: int, dram: list[MemoryBank]
) -> None:
    ocm = MemoryBank("ocm", 0xFFFC_0000, 0x4_0000)
    assert zynqmp.memory.banks(memory_bytes) == [*dram, ocm]


@pytest.mark.parametrize(
    ("memory_bytes", "nearest"), [(0, 4096), (-1, 4096), (4097, 8192), (35 * GIB, 34 * GIB)]
)
def test_memory_that_no_board_has_is_refused_with_the_nearest_size(
    zynqmp: platforms.Platform, memory_bytes: int, nearest: int
) -> None:
    with pytest.raises(PlatformError, match=rf"memory_bytes = {memory_bytes}: .*the nearest is {nearest}$"):
        zynqmp.memory.banks(memory_bytes)


def test_an_unknown_platform_lists_what_there_is() -> None:
    with pytest.raises(PlatformError, match=r"no platform 'zynq'; there are .*zynqmp.*\.toml file"):
        platforms.load("zynq")


def test_a_missing_file_is_named(tmp_path: Path) -> None:
    with pytest.raises(PlatformError, match=r"mine\.toml: No such file"):
        platforms.load(tmp_path / "mine.toml")


def test_a_platform_is_a_file(tmp_path: Path) -> None:
    path = tmp_path / "mine.toml"
    path.write_text(
        TEXT.replace('name = "zynqmp"', 'name = "mine"').replace("clock_mhz = 600", "clock_mhz = 400")
    )
    mine = platforms.load(str(path))
    assert mine.name == "mine"
    assert mine.zdma_specs()[0].path.clock_mhz == 400


@pytest.mark.parametrize(
    ("old", "new", "message"),
    [
        ("clock_mhz = 600", "clock_mhz = 0", r"platform x: dma\.0\.clock_mhz: .*greater than 0 \(found 0\)"),
        ("clock_mhz = 600", "clock_mz = 600", r"dma\.0\.clock_mz: Extra inputs"),
        ("context_banks = 16", "context_bank = 16", r"smmu\.block\.context_bank: "),
        ("tbu = 5\nwidth", "tbu = 4\nwidth", r"dma\.0: .*stream 0x14e8 is one of TBU 5, not of tbu = 4"),
        ("macro_tlb_ways = 4", "macro_tlb_ways = 3", r"smmu\.block: .*power of two"),
        ("128, 128]", "128]", r"dma fpd: tbu = 5, but smmu\.block\.micro_tlb_entries lists 5 TBUs"),
        ("first_stream = 0x0200", "first_stream = 0x0201", r"pl\.ports\.HPC0: .*multiple of 0x40 in TBU 0"),
        ("ACE = {}", "ACE = { tbu = 1 }", r"pl\.ports\.ACE: .*both tbu and first_stream, or neither"),
        ('type = "rdma"', 'type = "rmda"', r"pl\.masters\.1: .*'axi_cdma', 'axi_dma', 'rdma'"),
        (
            "axi_id = 16",
            "axi_id = 50",
            r"PL master ni: axi_id = 50 needs AXI IDs up to 65; port HPC0 has 64: take axi_id = 48 or less",
        ),
        ("axi_id = 16", "axi_id = 0", r"PL masters cdma0 .* and ni .* would both present stream 0x0200"),
        ("name =", "name", r"platform x: not TOML"),
    ],
)
def test_what_does_not_fit_is_refused_with_its_place(old: str, new: str, message: str) -> None:
    assert old in TEXT
    with pytest.raises(PlatformError, match=message):
        platforms.parse(TEXT.replace(old, new, 1), "x")


CDMA = {"type": "axi_cdma", "port": "HPC0", "base": 0xA000_0000}


def specs(platform: platforms.Platform, *masters: dict[str, object]) -> list[CdmaSpec | RdmaSpec]:
    return platform.pl_specs(platforms.parse_masters(masters))


def test_masters_on_one_port_are_told_apart_by_axi_id(zynqmp: platforms.Platform) -> None:
    one, two = specs(zynqmp, CDMA | {"axi_id": 5}, CDMA | {"axi_id": 6, "base": 0xA010_0000})
    assert isinstance(one, CdmaSpec)
    assert isinstance(two, CdmaSpec)
    assert (one.name, one.stream_id, one.spi) == ("cdma0", 0x205, 89)
    assert (two.name, two.stream_id, two.spi) == ("cdma1", 0x206, 90)


@pytest.mark.parametrize(
    ("port", "stream"),
    [
        ("HPC1", 0x243),
        ("HP0", 0xE83),
        ("HP1", 0x12C3),
        ("HP2", 0x1303),
        ("HP3", 0x1743),
        ("ACE", None),
        ("ACP", None),
    ],
)
def test_each_port_has_its_streams(zynqmp: platforms.Platform, port: str, stream: int | None) -> None:
    (cdma,) = specs(zynqmp, CDMA | {"port": port, "axi_id": 3})
    assert isinstance(cdma, CdmaSpec)
    assert cdma.stream_id == stream


@pytest.mark.parametrize(
    ("masters", "message"),
    [
        (
            [CDMA | {"name": "a", "axi_id": 7}, CDMA | {"name": "b", "axi_id": 7}],
            r"PL masters a \(port HPC0, AXI ID 7\) and b \(port HPC0, AXI ID 7\) would both present "
            "stream 0x0207: give b another axi_id or another port",
        ),
        (
            [CDMA | {"axi_id": 20}, {"type": "rdma"}],
            r"cdma0 .*AXI ID 20.* and ni .*AXI ID 16 to 31.* stream 0x0214",
        ),
        (
            [CDMA | {"axi_id": 64}],
            r"cdma0: axi_id = 64 needs AXI IDs up to 64; port HPC0 has 64: take axi_id = 63 or less",
        ),
        ([CDMA | {"axid": 1}], r"0\.axi_cdma\.axid: Extra inputs"),
        ([CDMA | {"port": "HPC2"}], r"cdma0: platform zynqmp has no port 'HPC2'; it has HPC0, HPC1, HP0"),
        ([CDMA | {"spi": 91}, {"type": "rdma", "spi": 91}], "PL masters cdma0 and ni both drive SPI 91"),
        ([CDMA | {"spi": 155}], r"cdma0: spi = 155; the PL's interrupts are \(89, "),
        ([CDMA | {"name": "x"}, CDMA | {"name": "x", "axi_id": 1}], "two PL masters are called x"),
        ([{"type": "rdma"}, {"type": "rdma", "name": "ni2"}], "two PL masters of type rdma"),
        ([{"type": "rdma", "port": "ACP"}], "ni: port ACP does not pass the SMMU"),
        ([CDMA | {"axi_id": n} for n in range(17)], "cdma16: all 16 interrupts of the PL are taken"),
    ],
)
def test_masters_in_each_others_way_are_refused_by_name(
    zynqmp: platforms.Platform, masters: list[dict[str, object]], message: str
) -> None:
    with pytest.raises(PlatformError, match=message):
        specs(zynqmp, *masters)


def test_every_parameter_of_the_network_interface_reaches_it() -> None:
    """Set each to something else: none may be parsed and ignored."""
    (ni,) = platforms.parse_masters([{"type": "rdma"}])
    plain = ni.model_dump(exclude={"type", "name", "port", "base", "size", "axi_id", "spi"})
    odd: dict[str, object] = {
        name: not value if isinstance(value, bool) else 2 if name == "paths" else value + value // 2
        for name, value in plain.items()
    }
    changed = {"type": "rdma", **odd, "block_bytes": 32 << 10, "slots": 8}
    (spec,) = platforms.load("zynqmp").pl_specs(platforms.parse_masters([changed]))
    assert {name: getattr(spec, name) for name in plain} == {**odd, "block_bytes": 32 << 10, "slots": 8}


def test_times_out_of_order_are_refused_with_the_masters_name() -> None:
    masters = platforms.parse_masters([{"type": "rdma", "rto_min_ps": 2_000, "rto_max_ps": 1_000}])
    with pytest.raises(PlatformError, match=r"PL master ni: rto_min_ps, rto_first_ps and rto_max_ps"):
        platforms.load("zynqmp").pl_specs(masters)
