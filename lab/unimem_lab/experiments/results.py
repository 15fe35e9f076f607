"""What came out of an experiment, and what follows from it: figures, checks, published rows, verdicts.

A figure that could not be measured is *missing*, never good: the run is then `unknown`, not `passed`.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from itertools import pairwise
from typing import Any, Final

from unimem_lab.experiments.schema import Check, Experiment, Published, Reading
from unimem_lab.experiments.values import parse_size
from unimem_lab.experiments.workloads.base import Op

#: How a run, or an experiment of it, ended; the exit code of `unimem exp run`.
EXIT: Final = {"passed": 0, "failed": 1, "unknown": 2, "broken": 3}


@dataclass(frozen=True, slots=True)
class Point:
    """What was measured at one point: keys of the sweep (and of samples), quantities, texts."""

    keys: Mapping[str, Any]
    quantities: Mapping[str, float]
    texts: Mapping[str, str] = field(default_factory=dict)

    def at(self, keys: Mapping[str, Any]) -> bool:
        """Whether it is at these keys."""
        return all(name in self.keys and _same(self.keys[name], value) for name, value in keys.items())


@dataclass(frozen=True, slots=True)
class Verdict:
    """A check or an expectation, and what became of it. `ok` None: there was nothing to check."""

    name: str
    wanted: str
    ours: str
    ok: bool | None

    def as_dict(self) -> dict[str, Any]:
        """For JSON."""
        return {"name": self.name, "wanted": self.wanted, "ours": self.ours, "ok": self.ok}


@dataclass(frozen=True, slots=True)
class Row:
    """A published figure beside ours.

    `verdict`: ok, off, compared (nothing to keep); missing (not measured); void (a check of the run failed).
    """

    row: Published
    experiment: str
    ours: float | str | None
    verdict: str
    why: str = ""

    @property
    def ratio(self) -> float | None:
        """Ours by the published."""
        published, ours = self.row.value, self.ours
        if isinstance(published, str) or not isinstance(ours, float) or published == 0:
            return None
        return ours / published

    def as_dict(self) -> dict[str, Any]:
        """For JSON: `use` is null for what is only compared, or is an outcome and no figure."""
        row = self.row
        figure = row.use in {"calibrated", "validated"} and not isinstance(row.value, str)
        return {
            "id": row.id,
            "experiment": self.experiment,
            "what": row.what,
            "ours": self.ours,
            "published": row.value,
            "unit": row.unit,
            "ratio": self.ratio,
            "use": row.use if figure else None,
            "tolerance": row.allowed if figure else None,
            "bound": row.bound,
            "verdict": self.verdict,
            "why": self.why,
            "source": row.source,
            "note": row.note,
        }


def _void(row: Row) -> Row:
    """A row of a run whose own checks failed: its figure says nothing."""
    return row if row.verdict == "missing" else replace(row, verdict="void", why="a check failed")


@dataclass(slots=True)
class Result:
    """One experiment's outcome. `error`: why it could not be run, or not to its end."""

    experiment: Experiment
    points: list[Point] = field(default_factory=list)
    verdicts: list[Verdict] = field(default_factory=list)
    rows: list[Row] = field(default_factory=list)
    ops: list[tuple[str, Op]] = field(default_factory=list)
    faults: list[dict[str, Any]] = field(default_factory=list)
    expected: dict[str, float] = field(default_factory=dict)
    error: str = ""
    status: str = "unknown"

    def judge(self) -> None:
        """Fill in checks, rows and the status, now that everything was measured that could be."""
        checked = {check.quantity for check in self.experiment.checks}
        for quantity, value in self.expected.items():
            if quantity not in checked:
                self.verdicts.append(_expectation(quantity, value, self.points))
        self.verdicts += [_checked(check, self.points) for check in self.experiment.checks]
        self.rows = [self._row(row) for row in self.experiment.published]
        if any(verdict.ok is False for verdict in self.verdicts):
            self.rows = [_void(row) for row in self.rows]
        if self.error:
            return
        bad = any(verdict.ok is False for verdict in self.verdicts)
        bad |= any(row.verdict in {"off", "void"} for row in self.rows)
        missing = not self.points or any(verdict.ok is None for verdict in self.verdicts)
        missing |= any(row.verdict == "missing" for row in self.rows)
        self.status = "failed" if bad else "unknown" if missing else "passed"

    def _row(self, row: Published) -> Row:
        value, why = read(row, self.points)
        name = self.experiment.name
        if value is None:
            return Row(row, name, None, "missing", self.error or why)
        if isinstance(row.value, str):
            texts = [point.texts[row.quantity] for point in self.points if row.quantity in point.texts]
            return Row(row, name, "; ".join(texts) or f"{value:g}", "ok" if value == 1 else "off")
        allowed = row.allowed
        if allowed is None:
            return Row(row, name, value, "compared")
        low, high = row.value * (1 - allowed), row.value * (1 + allowed)
        kept = (row.bound == "at_most" or value >= low) and (row.bound == "at_least" or value <= high)
        return Row(row, name, value, "ok" if kept else "off")

    def as_dict(self) -> dict[str, Any]:
        """For JSON; nothing in it depends on the wall clock or the machine."""
        return {
            "name": self.experiment.name,
            "title": self.experiment.title,
            "status": self.status,
            "error": self.error,
            "points": [
                {"keys": dict(p.keys), "quantities": dict(p.quantities), "texts": dict(p.texts)}
                for p in self.points
            ],
            "checks": [verdict.as_dict() for verdict in self.verdicts],
            "faults": self.faults,
        }


@dataclass(slots=True)
class Outcomes:
    """Everything that one `unimem exp run` of one seed found."""

    name: str
    title: str
    seed: int
    results: list[Result]

    @property
    def status(self) -> str:
        """The worst of the experiments': failed before broken before unknown."""
        found = {result.status for result in self.results}
        return next((s for s in ("failed", "broken", "unknown") if s in found), "passed")

    @property
    def rows(self) -> list[Row]:
        """All published rows, in order."""
        return [row for result in self.results for row in result.rows]

    @property
    def experiments(self) -> Iterable[Experiment]:
        """What was run."""
        return (result.experiment for result in self.results)

    def as_dict(self) -> dict[str, Any]:
        """The contents of results.json: the same for the same seed."""
        return {
            "name": self.name,
            "title": self.title,
            "seed": self.seed,
            "valid": self.status == "passed",
            "status": self.status,
            "results": [row.as_dict() for row in self.rows],
            "experiments": [result.as_dict() for result in self.results],
        }


# ---- figures


def read(reading: Reading, points: Sequence[Point]) -> tuple[float | None, str]:
    """The figure that a reading means, or None and why there is none."""
    value, why = _reduced(reading, points, reading.at)
    other = reading.minus if reading.over is None else reading.over
    if value is None or other is None:
        return (None if value is None else value * reading.scale), why
    second, why = _reduced(reading, points, {**reading.at, **other})
    if second is None:
        return None, why
    if reading.minus is not None:
        return (value - second) * reading.scale, ""
    if second == 0:
        return None, f"{reading.quantity} is 0 at {_keys(other)}"
    return value / second * reading.scale, ""


def _reduced(reading: Reading, points: Sequence[Point], at: Mapping[str, Any]) -> tuple[float | None, str]:
    there = [point for point in points if point.at(at)]
    if not there:
        return None, f"no point at {_keys(at)}" if at else "nothing was measured"
    found = [point for point in there if reading.quantity in point.quantities]
    if not found:
        known = sorted({name for point in there for name in point.quantities})
        return None, f"{reading.quantity} was not measured; there are {', '.join(known)}"
    values = [float(point.quantities[reading.quantity]) for point in found]
    match reading.reduce:
        case "max":
            return max(values), ""
        case "min":
            return min(values), ""
        case "mean":
            return math.fsum(values) / len(values), ""
        case "sum":
            return math.fsum(values), ""
        case "half_point":
            return half_point(reading, found)
    if len(values) > 1:
        varied = sorted({key for point in found for key in point.keys if key not in at})
        return None, f"{len(values)} points at {_keys(at) or 'no keys'}: say more of {', '.join(varied)}"
    return values[0], ""


def half_point(reading: Reading, points: Sequence[Point]) -> tuple[float | None, str]:
    """Where the quantity first reaches half of its maximum, between two points along a straight line."""
    curve = sorted(
        (float(parse_size(point.keys[reading.along])), float(point.quantities[reading.quantity]))
        for point in points
        if reading.along in point.keys
    )
    if len(curve) < 2:
        return None, f"no curve along {reading.along}"
    half = max(y for _, y in curve) / 2
    for (x0, y0), (x1, y1) in pairwise(curve):
        if y0 <= half <= y1 and y1 > y0:
            return x0 + (x1 - x0) * (half - y0) / (y1 - y0), ""
    return None, f"the curve of {reading.quantity} does not begin below half of its maximum"


def _same(a: Any, b: Any) -> bool:
    if a == b:
        return True
    try:
        return bool(parse_size(a) == parse_size(b))
    except ValueError:
        return False


def _keys(keys: Mapping[str, Any]) -> str:
    return ", ".join(f"{key} = {value}" for key, value in keys.items())


# ---- checks


def _expectation(quantity: str, value: float, points: Sequence[Point]) -> Verdict:
    """What a workload expects of itself, at every point."""
    found = [point.quantities[quantity] for point in points if quantity in point.quantities]
    wrong = [other for other in found if other != value]
    ours = f"{wrong[0]:g} at {len(wrong)} of {len(found)} points" if wrong else f"{value:g}"
    return Verdict(quantity, f"{value:g}", ours if found else "not measured", not wrong if found else None)


def _checked(check: Check, points: Sequence[Point]) -> Verdict:
    if check.order is not None:
        return _ordered(check, points)
    wanted = [
        f"{sign} {bound:g}"
        for sign, bound in (("≥", check.min), ("≤", check.max), ("=", check.equals))
        if bound is not None
    ]
    value, why = read(check, points)
    if value is None:
        return Verdict(check.title, " and ".join(wanted), why, None)
    ok = (check.min is None or value >= check.min) and (check.max is None or value <= check.max)
    ok &= check.equals is None or value == check.equals
    return Verdict(check.title, " and ".join(wanted), f"{value:.6g}", ok)


def _ordered(check: Check, points: Sequence[Point]) -> Verdict:
    assert check.order is not None
    ((key, values),) = check.order.items()
    found: list[float] = []
    for value in values:
        one = check.model_copy(update={"at": {**check.at, key: value}})
        figure, why = read(one, points)
        if figure is None:
            return Verdict(check.title, f"rises along {key}", why, None)
        found.append(figure)
    ok = all(a < b for a, b in pairwise(found))
    listed = ", ".join(f"{value}: {figure:.4g}" for value, figure in zip(values, found, strict=True))
    return Verdict(check.title, f"rises along {key}: {', '.join(map(str, values))}", listed, ok)
