"""The thesis' scenarios on a booted chip: each row is right, can be wrong, and leaves the chip as it was."""

from __future__ import annotations

import dataclasses

import pytest

from unimem_node.kernel import Kernel
from unimem_node.mpsoc import scenarios
from unimem_node.mpsoc.node import Node, boot
from unimem_node.mpsoc.scenario_run import LENGTH
from unimem_node.mpsoc.soc import Mpsoc


@pytest.fixture(scope="module")
def booted() -> tuple[Mpsoc, Kernel]:
    soc = Mpsoc(memory_bytes=64 << 20, seed=1)
    return soc, boot(soc)


@pytest.mark.parametrize(
    "scenario", [*scenarios.THESIS, *scenarios.REFUSALS], ids=lambda scenario: scenario.__name__
)
def test_scenario(booted: tuple[Mpsoc, Kernel], scenario: scenarios.Scenario) -> None:
    soc, kernel = booted
    free, banks = kernel.frames.free_bytes, kernel.smmu.free_match_groups
    row = scenario(soc, kernel)
    assert row.ok, row
    assert row.scenario in {"E1", "E2", "E3", "E4", "E4b", "E15"}
    assert all(isinstance(text, str) and text for text in (row.title, row.supplied, row.smmu, row.outcome))
    assert kernel.frames.free_bytes == free
    assert kernel.smmu.free_match_groups == banks
    assert kernel.smmu.banks() == []
    assert kernel.processes() == []
    assert soc.interrupts.pending() == []
    with pytest.raises(dataclasses.FrozenInstanceError):
        row.ok = False  # type: ignore[misc]


def test_the_table_of_the_thesis(booted: tuple[Mpsoc, Kernel]) -> None:
    e1, e2, e3 = scenarios.thesis(*booted)
    assert "stream 0x14e8 to context bank" in e1.smmu
    assert "stream 0x200 to context bank" in e2.smmu
    assert "stream 0x200 to context bank" in e3.smmu
    assert e1.mapped_before == e2.mapped_before == 2 * 17 * 4096
    assert e3.mapped_before == 0
    for row in (e1, e2, e3):
        assert row.delta("walks") > 0
        assert row.delta("reads_l3") > 0
        assert row.delta("faults") == 0
        assert row.outcome == f"{LENGTH} bytes, data equal"
        assert row.reports == ()


def test_each_refusal_tells_why(booted: tuple[Mpsoc, Kernel]) -> None:
    rows = scenarios.refusals(*booted)
    unmapped, read_only, unknown, bypass, reset, banks, entries = rows
    assert unmapped.reports[0].startswith("translation fault, stage 1, level 3: write of 0x1_")
    assert unmapped.reports[0].endswith("and more that left no record")
    assert unmapped.delta("faults") == 2
    assert unmapped.outcome == "lpd6: AXI_WR_DATA after 4096 bytes; lpd7: AXI_WR_DATA"
    assert read_only.reports[0].startswith("permission fault, stage 1, level 3: write of")
    assert "of a process (ASID " in read_only.reports[0]
    assert unknown.reports[0].startswith("unidentified stream: read of")
    assert "stream 0x86f (lpd7)" in unknown.reports[0]
    assert bypass.delta("bypasses") > 0
    assert reset.delta("bypasses") > 0
    assert "finds no context bank: all 16 are in use" in banks.outcome
    assert banks.title == "17 processes at once"
    assert "all 48 stream match groups are in use" in entries.outcome
    assert entries.smmu == "refused at stream 48; with the mask, 1 entry covers them"


def test_a_scenario_can_fail(booted: tuple[Mpsoc, Kernel], monkeypatch: pytest.MonkeyPatch) -> None:
    """An engine that writes nothing, and one whose bytes are wrong, must not give a green row."""
    soc, kernel = booted
    read = soc.bus.read
    with monkeypatch.context() as patch:
        patch.setattr(soc.bus, "read", lambda pa, n: bytes(n) if n == LENGTH else read(pa, n))
        row = scenarios.e1_ps_static(soc, kernel)
    assert not row.ok
    assert "DATA DIFFERS" in row.outcome
    with monkeypatch.context() as patch:
        patch.setattr(soc, "run", lambda: None)
        row = scenarios.e2_pl_static(soc, kernel)
    assert (row.ok, row.outcome) == (False, "not done")
    soc.run()


def test_the_scenarios_run_on_a_busy_node_and_on_the_readable_paths() -> None:
    node = Node("n3", 3, memory_bytes=64 << 20, fast=False)
    node.open_domain(5)
    node.kernel.rdma.attach(node.kernel.process(5))  # type: ignore[union-attr]
    rows = [*scenarios.thesis(node.soc, node.kernel), *scenarios.refusals(node.soc, node.kernel)]
    assert [row.scenario for row in rows if not row.ok] == []
    assert "16 processes at once" in [row.title for row in rows]


def test_the_same_seed_gives_the_same_rows() -> None:
    def rows(seed: int) -> list[scenarios.ScenarioRow]:
        soc = Mpsoc(memory_bytes=64 << 20, seed=seed)
        kernel = boot(soc)
        return [*scenarios.thesis(soc, kernel), *scenarios.refusals(soc, kernel)]

    assert rows(1) == rows(1)


@pytest.mark.parametrize("masters", [[], [{"type": "axi_cdma", "port": "ACP", "base": 0xA000_0000}]])
def test_a_chip_without_a_translated_engine_in_the_pl_says_so(masters: list[dict[str, object]]) -> None:
    soc = Mpsoc(memory_bytes=16 << 20, pl_masters=masters)
    kernel = boot(soc)
    assert scenarios.e1_ps_static(soc, kernel).ok
    with pytest.raises(ValueError, match="no DMA engine is built in the PL behind the SMMU"):
        scenarios.e2_pl_static(soc, kernel)
    with pytest.raises(ValueError, match="no DMA engine"):
        scenarios.e3_pl_dynamic(soc, kernel)
    assert all(row.ok for row in scenarios.refusals(soc, kernel))
