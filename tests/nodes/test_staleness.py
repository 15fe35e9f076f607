"""E3b and what it is made of: stale descriptors, masters that pass the cache, TLBs that are not told."""

from __future__ import annotations

import doctest
import random
from collections.abc import Callable
from importlib import resources
from pathlib import Path
from typing import Any

import pytest

from support.nodes import Nodes
from unimem.wire import Op, Status
from unimem_node.dma import snoop as snoop_module
from unimem_node.dma._fast import OUTSIDE
from unimem_node.dma.snoop import Snoop
from unimem_node.kernel import Kernel, Process
from unimem_node.kernel import smmu_registers as reg
from unimem_node.memory import MemoryBank, PhysicalMemory, WriteBackCache
from unimem_node.mmu.regime import A_LEAF, A_MEMATTR_SHIFT, A_SH_SHIFT, A_TYPE_SHIFT
from unimem_node.mpsoc import scenarios, staleness
from unimem_node.mpsoc.node import boot
from unimem_node.mpsoc.platform import PlatformError, load, parse
from unimem_node.mpsoc.scenario_run import LENGTH, ScenarioRow, transfer
from unimem_node.mpsoc.soc import Mpsoc

PAGE = 4096
LINES = 1024
L2_LINES = 16_384  # 1 MiB, as large as ZynqMP's
HP0 = {"type": "axi_cdma", "name": "hp", "port": "HP0", "base": 0xA000_0000, "axi_id": 0}
HPC1 = {"type": "axi_cdma", "name": "hpc", "port": "HPC1", "base": 0xA002_0000, "axi_id": 0}
ACP = {"type": "axi_cdma", "name": "acp", "port": "ACP", "base": 0xA003_0000, "axi_id": 0}
LOOP = {"type": "axi_dma", "name": "loop", "port": "HPC0", "base": 0xA004_0000, "scatter_gather": False}


def cached_chip(lines: int = LINES, **arguments: Any) -> Mpsoc:
    return Mpsoc(load("zynqmp").with_cache(lines), memory_bytes=64 << 20, seed=1, **arguments)


def booted(lines: int = LINES, **arguments: Any) -> tuple[Mpsoc, Kernel]:
    soc = cached_chip(lines)
    return soc, boot(soc, **arguments)


# ---- E3b, row by row


@pytest.fixture(scope="module")
def chip() -> tuple[Mpsoc, Kernel]:
    return booted()


EVERY = (*staleness.BEHIND_THE_CACHE, *staleness.STALE_TLB)


@pytest.mark.parametrize("scenario", EVERY, ids=lambda scenario: scenario.__name__)
def test_a_cause_shows_and_its_cure_helps(chip: tuple[Mpsoc, Kernel], scenario: staleness.Scenario) -> None:
    soc, kernel = chip
    free = kernel.frames.free_bytes
    row = scenario(soc, kernel)
    assert row.ok, row
    assert row.scenario == "E3b"
    without, cured = row.outcome.rsplit(": ", 1)
    assert "DATA DIFFERS" in without or "DMASlvErr" in without
    assert cured == "32768 bytes, data equal"
    assert kernel.frames.free_bytes == free
    assert kernel.processes() == []
    assert kernel.smmu.banks() == []
    assert kernel.smmu.tables.clean


def do_nothing(*_: object) -> None:
    pass


def without_clean(soc: Mpsoc, kernel: Kernel, patch: pytest.MonkeyPatch) -> None:
    patch.setattr(soc.bus, "clean", do_nothing)


def without_tlbi(soc: Mpsoc, kernel: Kernel, patch: pytest.MonkeyPatch) -> None:
    patch.setattr(kernel.smmu, "invalidate", do_nothing)


def without_writes_to(register: int, soc: Mpsoc, patch: pytest.MonkeyPatch, *, after: int = 0) -> None:
    """Lose what is written to a register of context bank 0, but for the first `after` times."""
    write32, seen = soc.bus.write32, []

    def write(address: int, value: int) -> None:
        if address == 0xFD81_0000 + register:
            seen.append(value)
            if len(seen) > after:
                return
        write32(address, value)

    patch.setattr(soc.bus, "write32", write)


def without_the_same_mair(soc: Mpsoc, kernel: Kernel, patch: pytest.MonkeyPatch) -> None:
    without_writes_to(reg.MAIR0, soc, patch, after=2)  # the driver's and the scenario's first


def without_sync(soc: Mpsoc, kernel: Kernel, patch: pytest.MonkeyPatch) -> None:
    without_writes_to(reg.TLBSYNC, soc, patch)


def without_sync_for_device(soc: Mpsoc, kernel: Kernel, patch: pytest.MonkeyPatch) -> None:
    patch.setattr(Process, "sync_for_device", do_nothing)


def without_sync_for_cpu(soc: Mpsoc, kernel: Kernel, patch: pytest.MonkeyPatch) -> None:
    patch.setattr(Process, "sync_for_cpu", do_nothing)


@pytest.mark.parametrize(
    ("scenario", "forget"),
    [
        (staleness.e3b_descriptor_in_cache, without_clean),
        (staleness.e3b_descriptor_changed_in_cache, without_clean),
        (staleness.e3b_descriptor_changed_in_cache, without_tlbi),
        (staleness.e3b_other_memory_type, without_the_same_mair),
        (staleness.e3b_other_memory_type, without_tlbi),  # the memory type is in the TLB
        (staleness.e3b_buffer_not_cleaned, without_sync_for_device),
        (staleness.e3b_buffer_not_cleaned, without_sync_for_cpu),
        (staleness.e3b_missing_invalidation, without_tlbi),
        (staleness.e3b_missing_sync, without_sync),
    ],
    ids=lambda part: part.__name__,
)
def test_without_its_cure_a_scenario_does_not_end_well(
    scenario: staleness.Scenario,
    forget: Callable[[Mpsoc, Kernel, pytest.MonkeyPatch], None],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    soc, kernel = booted()
    with monkeypatch.context() as patch:
        forget(soc, kernel, patch)
        row = scenario(soc, kernel)
    assert not row.ok
    assert not row.outcome.endswith("data equal")


def test_whether_it_works_depends_on_traffic_and_on_nothing_else() -> None:
    rows: list[ScenarioRow] = [staleness.e3b_intermittent(*booted()) for _ in range(2)]
    assert rows[0] == rows[1]
    lines = int(rows[0].outcome.split("after ")[1].split()[0])
    assert LINES // 2 < lines <= LINES
    assert rows[0].reports[0].startswith("translation fault, stage 1, level 3")


def test_a_stale_tlb_needs_no_cache_to_be_modelled_and_the_rest_says_what_it_needs() -> None:
    soc = Mpsoc(memory_bytes=32 << 20, seed=1)
    kernel = boot(soc)
    rows = staleness.staleness(soc, kernel)
    assert [row.title for row in rows] == ["no TLB invalidation", "no TLB sync"]
    assert all(row.ok for row in rows)
    for scenario in staleness.BEHIND_THE_CACHE:
        with pytest.raises(ValueError, match="models no CPU cache"):
            scenario(soc, kernel)
    assert kernel.processes() == []


def test_everything_runs_on_one_chip_with_a_cache(chip: tuple[Mpsoc, Kernel]) -> None:
    assert [row.ok for row in staleness.staleness(*chip)] == [True] * 7
    rows = [*scenarios.thesis(*chip), *scenarios.refusals(*chip)]
    assert [row.title for row in rows if not row.ok] == []


# ---- E3, and the kernel that cleans or forgets to


def test_e3_works_because_the_kernel_cleans_its_tables() -> None:
    row = scenarios.e3_pl_dynamic(*booted(L2_LINES))
    assert (row.ok, row.outcome) == (True, f"{LENGTH} bytes, data equal")
    row = scenarios.e3_pl_dynamic(*booted(L2_LINES, clean_tables=False))
    assert (row.ok, row.outcome) == (False, "refused: DMASlvErr")
    assert row.reports[0].startswith("translation fault, stage 1, level 0: read of")
    # In a small cache the 64 KiB that the process wrote have pushed the tables out: it happens to work.
    assert scenarios.e3_pl_dynamic(*booted(LENGTH // 64 // 2, clean_tables=False)).ok


def test_forgetting_to_clean_does_not_matter_without_a_cache_or_with_coherent_walks() -> None:
    soc = Mpsoc(memory_bytes=32 << 20, seed=1)
    assert scenarios.e3_pl_dynamic(soc, boot(soc, clean_tables=False)).ok
    whole = load("zynqmp").model_dump()
    whole["smmu"]["block"]["idr0"] |= 1 << 14  # CTTW
    coherent = type(load("zynqmp")).model_validate(whole)
    assert not boot(Mpsoc(coherent, memory_bytes=32 << 20)).smmu.tables.clean
    assert boot(soc).smmu.tables.clean
    with pytest.raises(PlatformError, match="CTTW = 1"):
        coherent.with_cache(LINES)


def test_every_change_of_a_table_is_in_memory_at_once() -> None:
    """Map, protect, split a block, unmap: what the CPU reads of the tables is what memory has."""
    soc, kernel = booted()
    process = kernel.spawn()
    for change in (
        lambda: process.map(4 << 20, va=0x4000_0000),
        lambda: process.protect(0x4020_0000, PAGE, 1),
        lambda: process.unmap(0x4000_0000, PAGE),
        lambda: process.map(PAGE, va=0x5000_0000),
    ):
        change()
        assert soc.cache is not None
        dirty = [pa for pa in range(kernel.board.memory[0][0], 8 << 20, 64) if soc.cache.state(pa) == "dirty"]
        assert dirty == []


def test_a_process_hands_over_buffers_that_share_lines_with_others() -> None:
    soc, kernel = booted()
    process = kernel.spawn()
    va = process.map(PAGE)
    (extent,) = process.extents(va, PAGE)
    process.write(va, b"a" * 192)
    process.sync_for_device(va + 70, 100)
    assert soc.memory.read(extent.pa, 192) == bytes(64) + b"a" * 128
    soc.memory.write(extent.pa + 70, b"d" * 100)  # the device
    process.sync_for_cpu(va + 70, 100)
    assert process.read(va, 192) == b"a" * 70 + b"d" * 100 + b"a" * 22
    process.write(va, b"n" * 192)  # neighbours, and the buffer itself, are dirty
    process.sync_for_cpu(va + 64, 100)  # begins with a line: that one is dropped, the last is shared
    assert process.read(va, 64) == b"n" * 64
    assert process.read(va + 64, 64) == b"a" * 6 + b"d" * 58
    assert process.read(va + 128, 64) == b"n" * 64


# ---- who asks the cache


WRITE_BACK, INNER, OUTER, NONE = 0xFF, 3, 2, 0


def attributes(kind: int = WRITE_BACK, shareability: int = INNER, stage2: int = 0xF) -> int:
    return A_LEAF | kind << A_TYPE_SHIFT | shareability << A_SH_SHIFT | stage2 << A_MEMATTR_SHIFT


@pytest.mark.parametrize(
    ("lane", "cb", "attrs", "coherent"),
    [
        (0, 3, attributes(), True),
        (2 + 32 * 7, 3, attributes(), True),  # TBU 2, by the low five bits
        (3, 3, attributes(), False),  # straight to the DDR controller
        (5 + 32, 3, attributes(), False),
        (0, 3, attributes(shareability=OUTER), True),
        (0, 3, attributes(shareability=NONE), False),
        (0, 3, attributes(0x44), False),  # normal non-cacheable
        (0, 3, attributes(0x04), False),  # Device-nGnRE
        (0, 3, attributes(0xBB), False),  # write-through
        (0, 3, attributes(0x4F), False),  # outer non-cacheable
        (0, 3, attributes(0x77), True),  # write-back transient
        (0, 3, attributes(stage2=0x5), False),
        (0, -1, 0, False),  # bypass: as the master drives it
        (0, OUTSIDE, 0, True),  # ACE, ACP
        (9, OUTSIDE, 0, True),
    ],
)
def test_an_access_is_coherent_by_its_way_and_its_memory_type(
    lane: int, cb: int, attrs: int, coherent: bool
) -> None:
    cache = WriteBackCache(PhysicalMemory([MemoryBank("dram", 0, PAGE)]), 4)
    snoop = Snoop(cache, (0, 1, 2))
    assert snoop.coherent(lane, cb, attrs) is coherent
    cache.write(0, b"dirty")
    snoop.access(lane, cb, attrs, 0, 1, 0)
    assert cache.memory.read(0, 5) == (b"dirty" if coherent else bytes(5))
    assert cache.state(0) == ("clean" if coherent else "dirty")
    cache.write(0, b"again")
    snoop.access(lane, cb, attrs, 63, 1, 1)
    assert cache.state(0) == ("absent" if coherent else "dirty")
    assert cache.memory.read(0, 5) == (b"again" if coherent else bytes(5))


def test_untranslated_accesses_can_be_declared_cacheable() -> None:
    cache = WriteBackCache(PhysicalMemory([MemoryBank("dram", 0, PAGE)]), 4)
    snoop = Snoop(cache, (0,), bypass_cacheable=True)
    assert snoop.coherent(0, -1, 0)
    assert not snoop.coherent(3, -1, 0)


def test_the_examples_of_the_snoop_are_true() -> None:
    found = doctest.testmod(snoop_module)
    assert (found.attempted, found.failed) == (1, 0)


@pytest.mark.parametrize(
    ("name", "coherent"), [("hp", False), ("hpc", True), ("fpd3", False), ("lpd3", True)]
)
def test_simple_transfers_by_port(name: str, coherent: bool) -> None:
    """Source dirty, destination held by the CPU: only a coherent port reads and writes what the CPU sees."""
    soc = cached_chip(pl_masters=[HP0, HPC1])
    kernel = boot(soc)
    process = kernel.spawn()
    driver = kernel.dma[name]
    assert driver.node.stream_id is not None
    kernel.smmu.attach(driver.node.stream_id, 0, process)
    source, destination = process.map(3 * PAGE), process.map(3 * PAGE)
    data = random.Random(2).randbytes(2 * PAGE)
    process.write(source + 1000, data)
    process.write(destination, b"o" * 3 * PAGE)
    assert transfer(soc, driver, source + 1000, destination + 100, len(data)).ok
    seen = process.read(destination, 3 * PAGE)
    new = b"o" * 100 + data + b"o" * (PAGE - 100)
    assert seen == (new if coherent else b"o" * 3 * PAGE)
    (extent,) = process.extents(destination, 3 * PAGE)
    in_memory = soc.memory.read(extent.pa + 100, len(data))
    assert in_memory == (data if coherent else bytes(len(data)))


def test_a_port_beside_the_smmu_is_coherent() -> None:
    soc = cached_chip(pl_masters=[ACP])
    kernel = boot(soc)
    pa = kernel.frames.run(2 * PAGE)
    soc.bus.write(pa, b"dirty")
    assert soc.bus.read(pa + PAGE, 5) == bytes(5)
    assert transfer(soc, kernel.dma["acp"], pa, pa + PAGE, 5).ok
    assert soc.bus.read(pa + PAGE, 5) == b"dirty"
    nowhere = transfer(soc, kernel.dma["acp"], 64 << 20, pa, 5)
    assert nowhere.error == "DMADecErr"


def buffer_descriptors(soc: Mpsoc, process: Process, va: int, pairs: list[tuple[int, int, int]]) -> None:
    """Write an AXI CDMA's list of (source, destination, length) at `va`, as the CPU does."""
    for n, (source, destination, length) in enumerate(pairs):
        words = [va + 64 * (n + 1), source, destination]
        flat = b"".join(word.to_bytes(8, "little") for word in words)
        process.write(va + 64 * n, flat + length.to_bytes(4, "little") + bytes(64 - 28))


@pytest.mark.parametrize(("port", "coherent"), [(HP0, False), (HPC1, True)], ids=["HP0", "HPC1"])
def test_descriptor_lists_are_fetched_and_written_back_by_the_same_rule(
    port: dict[str, object], coherent: bool
) -> None:
    soc = cached_chip(pl_masters=[port])
    kernel = boot(soc)
    process = kernel.spawn()
    engine = kernel.dma[str(port["name"])]
    base, stream = engine.node.base, engine.node.stream_id
    assert stream is not None
    kernel.smmu.attach(stream, 0, process)
    table, source, destination = (process.map(PAGE) for _ in range(3))
    process.write(source, b"payload!" * 8)
    pairs = [(source, destination, 32), (source + 32, destination + 2048, 32)]

    def run() -> list[int]:
        """Start the list from the beginning; returns the descriptors' status words as the CPU sees them."""
        buffer_descriptors(soc, process, table, pairs)
        if not coherent and cleaned:
            process.sync_for_device(table, 128)
            process.sync_for_device(source, 64)
        soc.bus.write32(base, 1 << 2)  # CDMACR.Reset
        soc.bus.write32(base, 1 << 3)  # SGMode
        soc.bus.write32(base + 0x08, table & 0xFFFF_FFFF)  # CURDESC
        soc.bus.write32(base + 0x0C, table >> 32)
        soc.bus.write32(base + 0x14, table >> 32)
        soc.bus.write32(base + 0x10, table + 64 & 0xFFFF_FFFF)  # TAILDESC
        soc.run()
        if not coherent and cleaned:
            process.sync_for_cpu(table, 128)
            process.sync_for_cpu(destination, PAGE)
        return [int.from_bytes(process.read(table + 64 * n + 0x1C, 4), "little") >> 31 for n in (0, 1)]

    cleaned = False
    assert run() == ([1, 1] if coherent else [0, 0])  # HP0 has fetched zeros
    cleaned = True
    assert run() == [1, 1]
    assert process.read(destination, 32) == process.read(destination + 2048, 32) == b"payload!" * 4


def test_a_stream_looped_back_through_a_coherent_port() -> None:
    """AXI DMA: MM2S reads what is dirty, S2MM's bytes are seen by the CPU that held the lines."""
    soc = cached_chip(pl_masters=[LOOP])
    kernel = boot(soc)
    process = kernel.spawn()
    dma = soc.axi_dma["loop"]
    kernel.smmu.attach(dma.spec.stream_id or 0, 0, process)
    source, destination = process.map(PAGE), process.map(PAGE)
    process.write(source, b"round " * 100)
    process.write(destination, b"x" * PAGE)
    base = dma.spec.base
    for channel, address in ((0x30, destination), (0x00, source)):
        soc.bus.write32(base + channel, 1)  # DMACR.RS
        soc.bus.write32(base + channel + 0x18, address & 0xFFFF_FFFF)
        soc.bus.write32(base + channel + 0x1C, address >> 32)
        soc.bus.write32(base + channel + 0x28, 600)  # LENGTH
    soc.run()
    assert process.read(destination, 601) == b"round " * 100 + b"x"


def test_lines_that_the_cpu_shares_with_a_device_lose_its_bytes() -> None:
    """The CPU's line goes back as a whole, over what a port past the cache wrote into the same 64 bytes."""
    soc = cached_chip(pl_masters=[HP0])
    kernel = boot(soc)
    pa = kernel.frames.run(2 * PAGE)
    soc.bus.write(pa, b"from device")
    soc.bus.clean(pa, PAGE)
    soc.bus.write(pa + PAGE + 32, b"neighbour")
    kernel.smmu.set_strict(False)  # HP0 bypasses the SMMU
    assert transfer(soc, kernel.dma["hp"], pa, pa + PAGE, 11).ok
    assert soc.memory.read(pa + PAGE, 11) == b"from device"
    soc.bus.clean(pa + PAGE, 64)
    assert soc.memory.read(pa + PAGE, 11) == bytes(11)


# ---- nodes


def test_nodes_with_a_cache_put_get_and_share_memory_with_the_cpu() -> None:
    nodes = Nodes(2, platform=load("zynqmp").with_cache(LINES))  # type: ignore[arg-type]
    for node in nodes.nodes:
        node.open_domain(7)
    nodes[1].map_region(7, nodes.gva(1), 1 << 20, 3, True)
    gva = nodes.gva(1, 12_345)
    data = random.Random(1).randbytes(100_000)
    nodes[1].write_memory(7, nodes.gva(1), b"x" * 150_000)  # the CPU holds lines there
    row = nodes.put(0, 7, gva, data)
    assert (row["status"], row["bytes"]) == (Status.OK, len(data))
    assert nodes[1].read_memory(7, gva, len(data)) == data
    assert nodes[1].read_memory(7, gva - 5, 5) == b"x" * 5
    row, back = nodes.get(0, 7, gva, len(data))
    assert row["status"] == Status.OK
    assert back == data
    nodes[1].write_memory(7, gva, b"by the CPU")  # dirty in its cache when the get arrives
    row, back = nodes.get(0, 7, gva, 10)
    assert back == b"by the CPU"
    counter = nodes.gva(1, 64)
    nodes[1].write_memory(7, counter, (40).to_bytes(8, "little"))
    row = nodes.do(0, Op.FETCH_ADD, 7, dst=counter, length=8, operand=2)
    assert (row["status"], row["value"]) == (Status.OK, 40)
    assert nodes[1].read_memory(7, counter, 8) == (42).to_bytes(8, "little")
    for node in nodes.nodes:
        assert node.counters()["faults"] == 0
        assert node.soc.cache is not None
        assert node.soc.cache.write_backs > 0


def test_staging_buffers_are_the_same_bytes_for_the_cpu_and_for_whoever_views_them() -> None:
    nodes = Nodes(1, platform=load("zynqmp").with_cache(LINES))  # type: ignore[arg-type]
    node = nodes[0]
    node.open_domain(7)
    va, view = node.stage(7, 1000)
    view[:] = 7
    assert node.read_memory(7, va, 1000) == bytes([7]) * 1000
    view[:] = 8
    assert node.read_memory(7, va, 1000) == bytes([8]) * 1000
    node.write_memory(7, va, bytes([9]) * 1000)
    assert set(view.tolist()) == {9}


# ---- platforms


def test_no_platform_has_a_cache_unless_its_file_says_so() -> None:
    for name in ("zynqmp", "versal", "stratix10"):
        platform = load(name)
        assert platform.cpu.write_back_cache is None
        assert Mpsoc(platform, memory_bytes=1 << 20).cache is None
    assert load("zynqmp").cpu.coherent_tbus == (0, 1, 2)


def test_a_platform_file_gives_a_chip_a_cache(tmp_path: Path) -> None:
    packaged = resources.files("unimem_node.mpsoc") / "platforms" / "zynqmp.toml"
    text = packaged.read_text("utf-8")
    path = tmp_path / "cached.toml"
    path.write_text(text + "\n[cpu.write_back_cache]\nlines = 8\nline_bytes = 32\n", "utf-8")
    soc = Mpsoc(path, memory_bytes=1 << 20)
    assert soc.cache is not None
    assert (soc.cache.lines, soc.cache.line_bytes, soc.bus.line_bytes) == (8, 32, 32)
    soc.bus.write32(0x1000, 5)
    assert (soc.memory.read32(0x1000), soc.bus.read32(0x1000)) == (0, 5)
    with pytest.raises(PlatformError, match=r"cpu\.write_back_cache\.lines"):
        load("zynqmp").with_cache(0)
    with pytest.raises(PlatformError, match=r"cpu\.coherent_tbus: tbu = 6"):
        parse(text.replace("coherent_tbus = [0, 1, 2]", "coherent_tbus = [6]"), "wrong")
