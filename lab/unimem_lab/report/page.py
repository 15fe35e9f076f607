"""From the facts of a run to one HTML file: no scripts, no fonts, nothing fetched.

The drawing is computed here (plain numbers), the markup is `page.html.j2`.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass, field
from importlib import resources
from pathlib import Path

from unimem.wire import TIMING_PARTS

#: One colour for each part of a transfer's time, in the order of TIMING_PARTS; chosen to differ in grey too.
COLOURS = dict(
    zip(
        TIMING_PARTS,
        ("#5b6770", "#e0a030", "#c8c8c8", "#f2d7d5", "#3b7dd8", "#f0e2b6", "#b5541c", "#8fbf7f", "#7a5ea8"),
        strict=True,
    )
)


@dataclass(frozen=True, slots=True)
class NodeView:
    """One node in the topology: its name, its window, and the figures under it."""

    name: str
    window: str
    lines: tuple[str, ...]


@dataclass(frozen=True, slots=True)
class Bar:
    """One transfer on the timeline. `parts_ps` follows TIMING_PARTS and adds up to end - start."""

    label: str
    route: str
    start_ps: int
    parts_ps: tuple[int, ...]
    outcome: str  # "ok" or the fault's name
    bytes: int

    @property
    def end_ps(self) -> int:
        """When the last block was answered."""
        return self.start_ps + sum(self.parts_ps)


@dataclass(frozen=True, slots=True)
class Section:
    """A table: a caption, column names, rows of text."""

    title: str
    columns: tuple[str, ...]
    rows: tuple[tuple[str, ...], ...]
    note: str = ""


@dataclass(frozen=True, slots=True)
class Figure:
    """A curve: a caption, and an <svg> element of our own making; without one, `note` says why."""

    title: str
    svg: str
    note: str = ""


@dataclass(slots=True)
class Report:
    """Everything on the page; what is empty is left out."""

    title: str
    subtitle: str
    nodes: Sequence[NodeView]
    links: Sequence[tuple[int, int, int]]  # (a, b, bytes moved between them), indices into nodes
    bars: Sequence[Bar]
    sections: Sequence[Section] = field(default_factory=list)
    facts: Sequence[tuple[str, str]] = field(default_factory=list)
    figures: Sequence[Figure] = field(default_factory=list)


@dataclass(frozen=True, slots=True)
class _Piece:
    x: float
    width: float
    colour: str
    title: str


@dataclass(frozen=True, slots=True)
class _Row:
    y: int
    bar: Bar
    pieces: tuple[_Piece, ...]
    end_x: float


def duration(ps: int) -> str:
    """Picoseconds for people."""
    for unit, scale in (("ms", 10**9), ("µs", 10**6), ("ns", 10**3)):
        if ps >= scale:
            return f"{ps / scale:.3g} {unit}" if ps / scale < 1000 else f"{ps / scale:.0f} {unit}"
    return f"{ps} ps"


def _timeline(
    bars: Sequence[Bar], left: int, width: int, row_height: int
) -> tuple[list[_Row], list[tuple[float, str]]]:
    """Rows with their pieces in user units, and the axis' ticks."""
    if not bars:
        return [], []
    begin = min(b.start_ps for b in bars)
    span = max(1, max(b.end_ps for b in bars) - begin)
    scale = width / span
    rows = []
    for i, bar in enumerate(bars):
        at, pieces = bar.start_ps, []
        for name, ps in zip(TIMING_PARTS, bar.parts_ps, strict=True):
            if ps:
                text = f"{name.replace('_', ' ')}: {duration(ps)}"
                pieces.append(_Piece(left + (at - begin) * scale, max(ps * scale, 0.6), COLOURS[name], text))
            at += ps
        rows.append(_Row(i * row_height, bar, tuple(pieces), left + (bar.end_ps - begin) * scale))
    step = 10 ** math.floor(math.log10(span / 5)) if span >= 5 else 1
    step *= next(m for m in (1, 2, 5, 10) if span / (step * m) <= 8)
    ticks = [(left + t * scale, duration(t) if t else "0") for t in range(0, span + 1, int(step))]
    return rows, ticks


def _circle(count: int, cx: float, cy: float, radius: float) -> list[tuple[float, float]]:
    """Places of the nodes: on a circle, the first at the top."""
    turn = 2 * math.pi / max(count, 1)
    return [(cx + radius * math.sin(i * turn), cy - radius * math.cos(i * turn)) for i in range(count)]


def write_report(report: Report, path: Path) -> None:
    """Render `report` into `path`; the file appears only when it is whole."""
    from jinja2 import Environment, StrictUndefined  # noqa: PLC0415 - half of this module's import time

    source = resources.files("unimem_lab.report").joinpath("page.html.j2").read_text()
    template = Environment(autoescape=True, undefined=StrictUndefined, trim_blocks=True, lstrip_blocks=True)
    row_height = 26
    rows, ticks = _timeline(report.bars, left=250, width=690, row_height=row_height)
    radius = 150 if len(report.nodes) <= 8 else 210
    size = 2 * radius + 190
    places = _circle(len(report.nodes), size / 2, size / 2, radius)
    most = max((n for _, _, n in report.links), default=1) or 1
    page = template.from_string(source).render(
        report=report,
        rows=rows,
        ticks=ticks,
        height=row_height * len(rows),
        row_height=row_height,
        colours=COLOURS,
        size=size,
        places=list(zip(report.nodes, places, strict=True)),
        lines=[(places[a], places[b], n, 1.5 + 6 * n / most) for a, b, n in report.links],
        duration=duration,
    )
    part = path.with_suffix(".part")
    part.write_text(page, encoding="utf-8")
    part.replace(path)
