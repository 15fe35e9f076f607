"""The report: whole, self-contained, and drawn to scale."""

from __future__ import annotations

import re
from pathlib import Path
from xml.etree import ElementTree as ET

import pytest

from unimem.wire import TIMING_PARTS
from unimem_lab.report import Bar, NodeView, Report, Section, write_report
from unimem_lab.report.page import duration


def page(tmp_path: Path, **changes: object) -> str:
    bars = [
        Bar("put", "n0 → n1", 0, (100, 0, 0, 0, 300, 0, 0, 0, 100), "ok", 8),
        Bar("<get>", "n0 → n1", 500, (100, 0, 0, 0, 300, 0, 0, 0, 100), "TRANSLATION_FAULT", 0),
    ]
    nodes = [NodeView(f"n{i}", "0x10_0000_0000", ("1 fault",)) for i in range(4)]
    report = Report(
        "A run", "of a test", nodes, [(0, 1, 64)], bars, [Section("T", ("a", "b"), (("1", "<2>"),))]
    )
    for name, value in changes.items():
        setattr(report, name, value)
    path = tmp_path / "report.html"
    write_report(report, path)
    return path.read_text()


def test_self_contained_and_escaped(tmp_path: Path) -> None:
    html = page(tmp_path)
    assert "<script" not in html
    assert not re.search(r'(src|href)="', html)
    assert "&lt;get&gt;" in html
    assert "&lt;2&gt;" in html
    assert [p.name for p in tmp_path.iterdir()] == ["report.html"]


def test_the_timeline_is_to_scale(tmp_path: Path) -> None:
    html = page(tmp_path)
    timeline = ET.fromstring(re.findall(r"<svg.*?</svg>", html, re.S)[1])
    pieces = [float(r.get("width", "0")) for r in timeline.findall(".//rect")]
    assert len(pieces) == 6
    assert pieces[1] == pytest.approx(3 * pieces[0], rel=0.01)
    starts = [float(r.get("x", "0")) for r in timeline.findall(".//rect")]
    assert starts[3] - starts[0] == pytest.approx(690 / 2, rel=0.01)


def test_nothing_happened(tmp_path: Path) -> None:
    assert "Topology" in page(tmp_path, bars=[], links=[])


def test_one_part_for_each_colour(tmp_path: Path) -> None:
    html = page(tmp_path)
    assert all(part.replace("_", " ") in html for part in TIMING_PARTS)


@pytest.mark.parametrize(
    ("ps", "text"), [(0, "0 ps"), (999, "999 ps"), (1500, "1.5 ns"), (2_500_000, "2.5 µs")]
)
def test_durations(ps: int, text: str) -> None:
    assert duration(ps) == text
