"""The folder of a run: manifest, results, events, operations, trace, report; and `runs/latest`.

What is in results.json and events.jsonl is a function of experiment and seed; what depends on the clock and
the machine is in manifest.json.
"""

from __future__ import annotations

import json
import os
import platform
import shutil
from collections.abc import Sequence
from datetime import UTC, datetime
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import IO, TYPE_CHECKING, Any

from unimem.wire import TIMING_PARTS
from unimem_lab.runs import new_run, runs_dir

if TYPE_CHECKING:
    from unimem_lab.experiments.loading import Plan
    from unimem_lab.experiments.results import Outcomes
    from unimem_lab.experiments.workloads.base import Op

#: Operations drawn in trace.json: more make viewers slow.
TRACED = 20_000


class Folder:
    """Where one run writes; `events` is open from the beginning, so that a run that breaks leaves its log."""

    def __init__(self, plan: Plan, seed: int, *, on: str, settings: Sequence[str]) -> None:
        self.path = new_run(plan.name, seed)
        self._plan, self._seed, self._on, self._settings = plan, seed, on, tuple(settings)
        self._events: IO[str] | None = None
        self._started = datetime.now(UTC)
        self._manifest("running")

    def events(self, lines: list[str]) -> None:
        """Append lines to events.jsonl."""
        if self._events is None:
            self._events = (self.path / "events.jsonl").open("w", encoding="utf-8", newline="\n")
        self._events.writelines(line + "\n" for line in lines)

    @property
    def reproduce(self) -> str:
        """The command that does the same again."""
        file = self._plan.path or Path(f"{self._plan.name}.yaml")
        parts = ["unimem exp run", _quoted(str(file)), f"--seed {self._seed}"]
        parts += [f"--set {_quoted(setting)}" for setting in self._settings]
        parts += [f"--on {self._on}"] if self._on != "sim" else []
        return " ".join(parts)

    def write(self, outcomes: Outcomes) -> None:
        """Write everything that the experiments' outputs ask for; then `runs/latest` points here."""
        if self._events is not None:
            self._events.close()
        write_json(self.path / "results.json", outcomes.as_dict())
        shown = [result for result in outcomes.results if result.experiment.outputs.ops]
        write_ops(
            [(r.experiment.name, point, op) for r in shown for point, op in r.ops],
            self.path / "ops.parquet",
        )
        traced = [result for result in outcomes.results if result.experiment.outputs.trace]
        write_trace(
            [(f"{r.experiment.name} {point}".strip(), op) for r in traced for point, op in r.ops],
            self.path / "trace.json",
        )
        if any(experiment.outputs.report for experiment in outcomes.experiments):
            from unimem_lab.experiments.report import write_report_of  # noqa: PLC0415 - matplotlib

            write_report_of(outcomes, self.path / "report.html", self.reproduce)
        self._manifest(outcomes.status)
        point_latest(self.path)

    def _manifest(self, status: str) -> None:
        now = datetime.now(UTC)
        write_json(
            self.path / "manifest.json",
            {
                "name": self._plan.name,
                "seed": self._seed,
                "status": status,
                "file": None if self._plan.path is None else str(self._plan.path.resolve()),
                "settings": list(self._settings),
                "on": self._on,
                "reproduce": self.reproduce,
                "started": self._started.isoformat(timespec="seconds"),
                "finished": None if status == "running" else now.isoformat(timespec="seconds"),
                "seconds": round((now - self._started).total_seconds(), 3),
                "experiments": [experiment.as_dict() for experiment in self._plan.experiments],
                "versions": {"unimem": _version(), "python": platform.python_version()},
            },
        )


def write_json(path: Path, value: dict[str, Any]) -> None:
    """One JSON object, its keys in order."""
    path.write_text(json.dumps(value, indent=2, sort_keys=True) + "\n", encoding="utf-8")


def point_latest(folder: Path) -> None:
    """Let runs/latest point to a run's folder."""
    latest = runs_dir() / "latest"
    fresh = latest.with_name(f"latest.{os.getpid()}")
    fresh.unlink(missing_ok=True)
    fresh.symlink_to(folder.relative_to(runs_dir()), target_is_directory=True)
    if latest.exists() and not latest.is_symlink():
        shutil.rmtree(latest)
    fresh.replace(latest)


def write_ops(rows: Sequence[tuple[str, str, Op]], path: Path) -> None:
    """One row for each operation: (experiment, point, operation), times in ps."""
    import pyarrow as pa  # noqa: PLC0415 - 60 ms
    import pyarrow.parquet as pq  # noqa: PLC0415

    columns: dict[str, Any] = {
        "experiment": pa.array([name for name, _, _ in rows], pa.string()),
        "point": pa.array([point for _, point, _ in rows], pa.string()),
    }
    for name, kind in (
        ("label", pa.string()),
        ("src", pa.string()),
        ("dst", pa.string()),
        ("bytes", pa.uint64()),
        ("outcome", pa.string()),
        ("definite", pa.bool_()),
        ("posted_ps", pa.uint64()),
        ("done_ps", pa.uint64()),
    ):
        columns[name] = pa.array([getattr(op, name) for _, _, op in rows], kind)
    for position, part in enumerate(TIMING_PARTS):
        columns[f"{part}_ps"] = pa.array([op.parts_ps[position] for _, _, op in rows], pa.uint64())
    pq.write_table(pa.table(columns), path)


def write_trace(rows: Sequence[tuple[str, Op]], path: Path) -> None:
    """Operations as a trace for Perfetto or chrome://tracing: a process a source node, lanes, parts nested.

    Format: "Trace Event Format", complete events ("X") with times in µs.
    """
    events: list[dict[str, Any]] = []
    processes: dict[str, int] = {}
    lanes: dict[int, list[int]] = {}
    for place, op in sorted(rows[:TRACED], key=lambda row: (row[0], row[1].posted_ps)):
        name = f"{place}: {op.src}" if place else op.src
        pid = processes.setdefault(name, len(processes) + 1)
        free = lanes.setdefault(pid, [])
        lane = next((n for n, end in enumerate(free) if end <= op.posted_ps), len(free))
        free[lane : lane + 1] = [op.done_ps]
        common = {"pid": pid, "tid": lane + 1, "ph": "X"}
        about = {"bytes": op.bytes, "to": op.dst, "outcome": op.outcome}
        events.append(
            {
                **common,
                "name": f"{op.label} → {op.dst}",
                "ts": op.posted_ps / 1e6,
                "dur": (op.done_ps - op.posted_ps) / 1e6,
                "args": about,
            }
        )
        at = op.posted_ps
        for part, length in zip(TIMING_PARTS, op.parts_ps, strict=True):
            if length:
                events.append({**common, "name": part, "ts": at / 1e6, "dur": length / 1e6})
            at += length
    names = [
        {"ph": "M", "pid": pid, "name": "process_name", "args": {"name": name}}
        for name, pid in processes.items()
    ]
    trace = {
        "displayTimeUnit": "ns",
        "otherData": {"operations": len(rows), "shown": min(len(rows), TRACED)},
        "traceEvents": names + events,
    }
    path.write_text(json.dumps(trace, ensure_ascii=False, separators=(",", ":")), encoding="utf-8")


def _quoted(text: str) -> str:
    import shlex  # noqa: PLC0415

    return shlex.quote(text)


def _version() -> str:
    try:
        return version("unimem")
    except PackageNotFoundError:
        return "unknown"
