"""Every timing parameter is in the platform's file, with where it comes from; docs/timing.md repeats them."""

from __future__ import annotations

import os
from dataclasses import fields
from pathlib import Path

import pytest

from unimem_lab.timing_table import markdown, platform_text, timing_values
from unimem_node.fabric import RdmaSpec
from unimem_node.kernel.timing import KernelTiming
from unimem_node.mpsoc import platform as platforms
from unimem_node.mpsoc.masters import RdmaPart
from unimem_node.smmu.spec import SmmuTiming

DOCUMENT = Path(__file__).resolve().parents[2] / "docs" / "timing.md"
BEGIN, END = "<!-- from zynqmp.toml: UNIMEM_REGENERATE=1 rewrites it -->\n", "\n<!-- end -->"


@pytest.mark.parametrize("name", platforms.available())
def test_each_value_says_where_it_comes_from(name: str) -> None:
    values = timing_values(platform_text(name))
    assert len(values) > 15
    assert [(value.table, value.name) for value in values if not value.status] == []


def test_zynqmps_file_has_every_parameter_there_is() -> None:
    """None is left to a default in the code, where nobody says what it is."""
    given = {value.name for value in timing_values(platform_text("zynqmp"))}
    for owner in (SmmuTiming, KernelTiming):
        assert {field.name for field in fields(owner)} <= given, owner.__name__
    times = {name for name in RdmaPart.model_fields if name.endswith(("_ps", "_per_kib"))}
    assert times <= given
    in_spec = {field.name for field in fields(RdmaSpec) if field.name.endswith(("_ps", "_per_kib"))}
    assert in_spec <= given, "a time of the network interface that no platform can set"


def test_the_status_of_a_value() -> None:
    text = """
[a]
name = "chip"
x_ps = 1 # [U] a guess
y_ps = 2 # calibrated (E9), from [D]
z_ps = 3 # DDI0517
line_bytes = 64
base = 0x10
w_ps = 4 # it feels right
v_ps = 5
"""
    values = timing_values(text)
    assert [(v.table, v.name, v.value, v.status) for v in values] == [
        ("a chip", "x_ps", "1", "assumed"),
        ("a chip", "y_ps", "2", "calibrated"),
        ("a chip", "z_ps", "3", "sourced"),
        ("a chip", "w_ps", "4", ""),
        ("a chip", "v_ps", "5", ""),
    ]


def test_the_document_repeats_the_file() -> None:
    text = DOCUMENT.read_text(encoding="utf-8")
    before, rest = text.split(BEGIN)
    table, after = rest.split(END)
    wanted = markdown(timing_values(platform_text("zynqmp")))
    if os.environ.get("UNIMEM_REGENERATE") == "1":
        DOCUMENT.write_text(before + BEGIN + wanted + END + after, encoding="utf-8")
    else:
        assert table == wanted, "docs/timing.md is not what zynqmp.toml says: UNIMEM_REGENERATE=1"
