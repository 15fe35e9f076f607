from __future__ import annotations

import doctest
import os
import subprocess
import sys

import pytest

import unimem_node
from unimem_node import Mpsoc
from unimem_node.bus import BusError
from unimem_node.clock import EventLog, Scheduler
from unimem_node.mpsoc import soc as soc_module
from unimem_node.mpsoc.platform import PlatformError, load

FPD = 0xFD50_0000
CDMA = {"type": "axi_cdma", "port": "HPC0", "base": 0xA000_0000, "axi_id": 0}


def start_copy(soc: Mpsoc, src: int, dst: int, n: int, channel: int = 0) -> None:
    base = FPD + channel * 0x1_0000
    for at, value in ((0x128, src), (0x138, dst), (0x130, n), (0x200, 1)):
        soc.bus.write32(base + at, value)


def test_importing_the_package_loads_nothing() -> None:
    code = "import sys, unimem_node; print([m for m in ('numba', 'numpy', 'pydantic') if m in sys.modules])"
    environment = {**os.environ, "PYTHONPATH": os.pathsep.join(sys.path)}
    done = subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, check=True, env=environment
    )
    assert done.stdout.strip() == "[]"


def test_the_package_has_what_it_lists() -> None:
    assert unimem_node.Mpsoc is Mpsoc
    assert {"Mpsoc", "Node"} <= set(dir(unimem_node))
    with pytest.raises(AttributeError, match="'unimem_node' has no attribute 'Chip'"):
        _ = unimem_node.Chip


def test_the_example_in_the_documentation() -> None:
    assert doctest.testmod(soc_module).attempted >= 8
    assert doctest.testmod(soc_module).failed == 0


def test_the_bare_metal_contract_word_by_word() -> None:
    soc = Mpsoc(platform="zynqmp")
    soc.memory.write(0x1000_0000, b"...")
    assert soc.memory.read(0x1000_0000, 3) == b"..."
    soc.bus.write32(0xFD80_0000 + 0x800, 0x8000_14E8)
    assert soc.bus.read32(0xFD80_0800) == 0x8000_14E8
    soc.bus.write64(0x8_0000_0000, 0x0123_4567_89AB_CDEF)
    assert soc.bus.read64(0x8_0000_0000) == 0x0123_4567_89AB_CDEF
    soc.run()
    assert soc.interrupts.pending() == []
    assert soc.memory.resident_bytes() <= 64 << 10


def test_what_is_where() -> None:
    soc = Mpsoc(memory_bytes=1 << 20)
    where = {region.name: region.base for region in soc.bus.devices()}
    assert where == {
        "cdma0": 0xA000_0000,
        "ni": 0xA001_0000,
        **{f"fpd{n}": 0xFD50_0000 + n * 0x1_0000 for n in range(8)},
        "smmu_reg": 0xFD5F_0000,
        "smmu": 0xFD80_0000,
        **{f"lpd{n}": 0xFFA8_0000 + n * 0x1_0000 for n in range(8)},
    }
    assert set(soc.zdma) == {f"{kind}{n}" for kind in ("fpd", "lpd") for n in range(8)}
    assert set(soc.pl) == {"cdma0"}
    assert soc.ni is not None
    with pytest.raises(BusError, match="0xa002_0000"):
        soc.bus.read32(0xA002_0000)


def test_pl_masters_replace_the_platforms() -> None:
    soc = Mpsoc(memory_bytes=1 << 20, pl_masters=[CDMA | {"name": "copier", "port": "HP1"}])
    assert set(soc.pl) == {"copier"}
    assert soc.ni is None
    assert Mpsoc(memory_bytes=1 << 20, pl_masters=[]).pl == {}


@pytest.mark.parametrize(
    ("masters", "message"),
    [
        ([CDMA, CDMA | {"base": 0xA008_0000}], r"cdma0 .* and cdma1 .* would both present stream 0x0200"),
        ([CDMA, CDMA | {"axi_id": 1}], "cdma1 at 0xa000_0000 overlaps cdma0"),
        ([CDMA | {"base": 0xFD80_0000}], "cdma0 at 0xfd80_0000 overlaps smmu"),
        ([CDMA | {"type": "axi_vdma"}], "pl_masters: 0: .*'axi_cdma', 'axi_dma', 'rdma'"),
    ],
)
def test_masters_that_do_not_fit(masters: list[dict[str, object]], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        Mpsoc(memory_bytes=1 << 20, pl_masters=masters)


def test_unknown_platform_and_memory_that_cannot_be() -> None:
    with pytest.raises(PlatformError, match=r"there are stratix10, versal, zynqmp, or name a \.toml"):
        Mpsoc(platform="imx8")
    with pytest.raises(PlatformError, match="multiple of the page size"):
        Mpsoc(memory_bytes=1000)


def test_a_platform_object_is_a_platform() -> None:
    platform = load("zynqmp").model_copy(update={"name": "mine", "dma": ()})
    soc = Mpsoc(platform, memory_bytes=1 << 20)
    assert soc.platform.name == "mine"
    assert soc.zdma == {}


def test_run_goes_on_until_idle_or_stops_earlier() -> None:
    soc = Mpsoc(memory_bytes=1 << 20)
    start_copy(soc, 0, 0x1000, 64)
    soc.run(until_ns=10)
    assert soc.now_ns == 10
    assert soc.bus.read32(FPD + 0x11C) == 2
    soc.run()
    assert 10 < soc.now_ns < 1000
    assert soc.bus.read32(FPD + 0x11C) == 0


def test_chips_on_one_clock_do_not_see_each_other() -> None:
    clock = Scheduler()
    one, two = (Mpsoc(memory_bytes=1 << 20, scheduler=clock, name=name) for name in ("n0", "n1"))
    one.memory.write(0, b"one")
    two.memory.write(0, b"two")
    for soc in (one, two):
        soc.bus.write32(FPD + 0x108, 0x400)
        start_copy(soc, 0, 0x1000, 3)
    one.run()
    assert (one.memory.read(0x1000, 3), two.memory.read(0x1000, 3)) == (b"one", b"two")
    two.bus.write32(FPD + 0x100, 0xFFF)
    assert (one.interrupts.pending(), two.interrupts.pending()) == ([124], [])


def test_channels_run_side_by_side() -> None:
    alone = Mpsoc(memory_bytes=1 << 20)
    start_copy(alone, 0, 0x8000, 4096)
    alone.run()
    soc = Mpsoc(memory_bytes=1 << 20)
    for n in range(8):
        start_copy(soc, 0, 0x8000 + n * 4096, 4096, channel=n)
    soc.run()
    dram_ns = 8 * 2 * 4 * 71.112  # each reads and writes 4 KiB; set-up and latency pass at the same time
    assert dram_ns < soc.now_ns < dram_ns + alone.now_ns


def test_interrupts_are_in_the_log() -> None:
    log = EventLog()
    soc = Mpsoc(memory_bytes=1 << 20, name="n3", log=log)
    soc.bus.write32(FPD + 0x108, 0x400)
    start_copy(soc, 0, 0x1000, 64)
    soc.run()
    row = next(row for row in log.rows if row.kind == "interrupt")
    assert (row.node, row.fields, row.time_ps) == ("n3", {"spi": 124, "level": True}, soc.scheduler.now_ps)


def test_randomness_is_the_seeds_the_chips_and_the_purposes() -> None:
    def draw(seed: int, name: str, purpose: str) -> float:
        return Mpsoc(memory_bytes=4096, seed=seed, name=name).random(purpose).random()

    first = draw(1, "n0", "x")
    assert first == draw(1, "n0", "x")
    assert len({first, draw(2, "n0", "x"), draw(1, "n1", "x"), draw(1, "n0", "y")}) == 4


def test_counters_name_the_smmus_and_the_network_interfaces() -> None:
    counters = Mpsoc(memory_bytes=1 << 20).counters()
    assert counters["walks"] == 0
    assert any(name.startswith("ni_") for name in counters)


def test_memory_goes_back_to_the_host() -> None:
    soc = Mpsoc(memory_bytes=16 << 20)
    soc.memory.write(0, b"\xff" * (8 << 20))
    assert soc.memory.resident_bytes() >= 8 << 20
    soc.close()
    assert soc.memory.resident_bytes() == 0


def test_a_transfer_overflows_a_counter_and_raises_the_interrupt() -> None:
    """No performance register is touched meanwhile: the master lets the monitor notice."""
    soc, monitor = Mpsoc(), 0xFD80_3000
    write = soc.bus.write32
    counter = 4 * 5  # group 5: the TBU of the FPD DMA
    write(monitor + 4 * counter, 0xFFFF_FFFF)
    write(monitor + 0x400 + 4 * counter, 0x10)  # accesses, all
    write(monitor + 0x800 + 4 * 5, 1 << 11)  # PMCGCR5.E
    write(monitor + 0xC00, 1 << counter)  # PMCNTENSET0
    write(monitor + 0xC40, 1 << counter)  # PMINTENSET0
    write(monitor + 0xE04, 1)  # PMCR.E
    write(0xFD50_0128, 0x1000)
    write(0xFD50_0138, 0x2000)
    write(0xFD50_0130, 64)
    write(0xFD50_0200, 1)
    soc.run()
    assert soc.interrupts.pending() == [155]
    assert soc.bus.read32(0xFD5F_0010) & 1 << 2  # ISR_0: combined performance
    write(monitor + 0xC80, 1 << counter)  # PMOVSCLR0
    assert soc.interrupts.pending() == []
