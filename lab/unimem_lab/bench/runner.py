"""Runs the groups of benchmarks, prints one table, writes one JSON file."""

from __future__ import annotations

import json
import os
import platform
from collections.abc import Callable, Iterator
from datetime import UTC, datetime
from importlib import import_module
from pathlib import Path
from typing import Any

from unimem_lab.bench.result import Figure
from unimem_lab.cli import output

#: Group -> module of this package with `measure(quick) -> Iterator[Figure]`.
GROUPS = {
    "translation": "translation",
    "dma": "dma",
    "transfer": "transfer",
    "latency": "latency",
    "rate": "rate",
    "tcp": "tcp",
    "shm": "shm",
    "sim": "simulation",
    "footprint": "footprint",
}


def machine() -> dict[str, Any]:
    """Where the figures come from."""
    model = platform.processor() or platform.machine()
    cpuinfo = Path("/proc/cpuinfo")
    if cpuinfo.exists():
        model = next(
            (
                line.split(":", 1)[1].strip()
                for line in cpuinfo.read_text().splitlines()
                if line.startswith("model name")
            ),
            model,
        )
    return {
        "cpu": model,
        "cores": os.cpu_count(),
        "python": platform.python_version(),
        "date": datetime.now(UTC).isoformat(timespec="seconds"),
    }


def number(value: float, unit: str) -> str:
    """A figure for people: three digits and the unit's prefix."""
    for scale, prefix in ((1e9, "G"), (1e6, "M"), (1e3, "k")):
        if unit in {"1/s", "B/s", "B"} and abs(value) >= scale:
            return f"{value / scale:.3g} {prefix}{unit}"
    return f"{value:.3g} {unit}"


def _row(figure: Figure) -> tuple[str, ...]:
    wanted = ""
    if figure.wanted is not None:
        bound = number(figure.wanted, figure.unit) if figure.absolute else f"{figure.wanted:g}"
        wanted = ("≤ " if figure.lower else "≥ ") + bound
    reached = {True: "yes", False: "NO", None: ""}[figure.reached]
    yardstick = (
        f"{number(figure.yardstick_value, figure.unit)} {figure.yardstick}"
        if figure.yardstick_value
        else figure.yardstick
    )
    ratio = f"{figure.ratio:.2f}" if figure.ratio is not None else ""
    return figure.name, number(figure.value, figure.unit), yardstick, ratio, wanted, reached, figure.note


def run_bench(what: str, *, output_dir: Path | None, quick: bool, transport: str = "grpc") -> int:
    """Measure group `what` or all; returns the exit code: FAILED when a wanted bound is not kept.

    `transport`: what transfer, latency and rate use between the nodes.
    """
    from unimem_lab.bench import pair  # noqa: PLC0415 - loads the node's model

    pair.default_transport = transport
    if what not in {*GROUPS, "all"}:
        return output.fail(f"no benchmark {what!r}; there are {', '.join(GROUPS)} and all", reason="USAGE")
    figures: list[Figure] = []
    for group in GROUPS if what == "all" else [what]:
        measure: Callable[[bool], Iterator[Figure]] = import_module(
            f"unimem_lab.bench.{GROUPS[group]}"
        ).measure
        output.errors.print(f"measuring {group} …", style="dim")
        figures += measure(quick)
    report = {"machine": machine(), "results": [f.as_dict() for f in figures]}
    if output_dir is not None:
        output_dir.mkdir(parents=True, exist_ok=True)
        stamp = datetime.now(UTC).strftime("%Y%m%dT%H%M%SZ")
        for name in (f"{what}-{stamp}.json", f"{what}-latest.json"):
            (output_dir / name).write_text(json.dumps(report, indent=2) + "\n")
    if output.as_json():
        output.answer(report)
    else:
        about = machine()
        title = f"{about['cpu']}, {about['cores']} cores, Python {about['python']}, {about['date']}"
        output.table(
            ["figure", "value", "yardstick", "ratio", "wanted", "kept", "note"],
            map(_row, figures),
            title=title,
        )
    return output.FAILED if any(f.reached is False for f in figures) else 0
