"""report.html of a run: published rows, checks, curves, faults, some transfers by part."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any, Final

from unimem_lab.experiments.faults import described
from unimem_lab.experiments.plots import draw
from unimem_lab.report import Bar, Figure, Report, Section, write_report

if TYPE_CHECKING:
    from unimem_lab.experiments.results import Outcomes, Result, Row

#: Transfers on the timeline of one experiment's report.
_BARS: Final = 32
#: Lines of a table of points.
_POINTS: Final = 200
_WORDS: Final = {
    "passed": "everything is as it must be",
    "failed": "NOT everything is as it must be",
    "unknown": "something could not be measured",
    "broken": "something could not be run",
}


def figure_of(value: float | str | None) -> str:
    """A figure for people."""
    if value is None:
        return "–"
    return value if isinstance(value, str) else f"{value:.4g}"


def row_cells(row: Row) -> tuple[str, ...]:
    """A published row as cells: id, what, published, ours, ratio, use, verdict."""
    spec = row.row
    sign = {"equal": "", "at_most": "≤ ", "at_least": "≥ "}[spec.bound]
    unit = f" {spec.unit}" if spec.unit else ""
    ratio = "" if row.ratio is None else f"{row.ratio:.3f}"
    text = isinstance(spec.value, str)
    ours = figure_of(row.ours)
    return (
        spec.id,
        spec.what,
        f"{sign}{figure_of(spec.value)}{unit}",
        ours if row.ours is None or text else f"{ours}{unit}",
        ratio,
        "outcome" if text else spec.use,
        row.verdict if not row.why else f"{row.verdict}: {row.why}",
    )


ROW_COLUMNS: Final = ("id", "what", "published", "ours", "ratio", "use", "verdict")


def write_report_of(outcomes: Outcomes, path: Path, reproduce: str) -> None:
    """Write the page."""
    sections = []
    if outcomes.rows:
        sections.append(
            Section(
                "Published and ours",
                (*ROW_COLUMNS, "source, note"),
                tuple((*row_cells(row), _sources(row)) for row in outcomes.rows),
                "calibrated: a parameter was chosen, or derived, so that the figure comes out. "
                "validated: no parameter was fitted to it. compare: other hardware or software. Where a "
                "published figure is an abstract's, the details behind it are not known.",
            )
        )
    for result in outcomes.results:
        sections += _sections(result)
    lone = outcomes.results[0] if len(outcomes.results) == 1 else None
    shown = lone.ops[:_BARS] if lone is not None else []
    bars = [
        Bar(
            f"{point} {op.label}".strip(),
            f"{op.src} → {op.dst}",
            op.posted_ps,
            op.parts_ps,
            op.outcome,
            op.bytes,
        )
        for point, op in shown
    ]
    figures = []
    for result in outcomes.results:
        if not result.experiment.outputs.report:
            continue
        for number, plot in enumerate(result.experiment.outputs.plots):
            svg = draw(plot, result.points, f"{result.experiment.name}{number}")
            title = f"{result.experiment.name}: {plot.title}"
            figures.append(Figure(title, svg or "", "" if svg else result.error or "nothing was measured"))
    write_report(
        Report(
            f"Unimem experiment: {outcomes.title or outcomes.name}",
            f"{outcomes.name}, seed {outcomes.seed}: {_WORDS[outcomes.status]}. Again: {reproduce}",
            (),
            (),
            bars,
            sections,
            _facts(outcomes),
            figures,
        ),
        path,
    )


def _sources(row: Row) -> str:
    return f"{row.row.source}. {row.row.note}" if row.row.note else row.row.source


def _facts(outcomes: Outcomes) -> list[tuple[str, str]]:
    counts = dict.fromkeys(_WORDS, 0)
    for result in outcomes.results:
        counts[result.status] += 1
    found = ", ".join(f"{n} {status}" for status, n in counts.items() if n)
    facts = [("experiments", found), ("seed", str(outcomes.seed))]
    if len(outcomes.results) == 1:
        system = outcomes.results[0].experiment.system
        facts += [
            ("nodes", str(system.nodes)),
            ("platform", system.platform),
            ("topology", system.topology),
            ("fault policy", system.policy),
        ]
    return facts


def _sections(result: Result) -> list[Section]:
    experiment = result.experiment
    title = experiment.title or experiment.name
    found = []
    if result.error:
        found.append(
            Section(f"{experiment.name}: not run to its end", ("what happened",), ((result.error,),), title)
        )
    if result.verdicts:
        words = {True: "ok", False: "NOT ok", None: "not measured"}
        rows = tuple((v.name, v.wanted, v.ours, words[v.ok]) for v in result.verdicts)
        found.append(
            Section(f"{experiment.name}: checks", ("check", "wanted", "ours", "verdict"), rows, title)
        )
    if experiment.faults:
        struck = [row for row in result.faults if row["what"] == "struck"]
        struck_rows = tuple(
            (described(fault), str(sum(row["type"] == fault.type for row in struck)))
            for fault in experiment.faults
        )
        found.append(Section(f"{experiment.name}: faults", ("fault", "struck"), struck_rows))
    if result.points and experiment.outputs.report:
        found.append(_points(result))
        texts = [item for point in result.points for item in point.texts.items()]
        if texts:
            found.append(Section(f"{experiment.name}: what happened", ("what", "outcome"), tuple(texts)))
    return found


def _points(result: Result) -> Section:
    """All quantities, a line a point."""
    shown = result.points[:_POINTS]
    keys = list(dict.fromkeys(key for point in shown for key in point.keys))
    names = list(dict.fromkeys(name for point in shown for name in point.quantities))
    rows = tuple(
        (
            *(str(point.keys.get(key, "")) for key in keys),
            *(figure_of(_maybe(point.quantities.get(name))) for name in names),
        )
        for point in shown
    )
    columns = (*(key.rpartition(".")[2] for key in keys), *(name.replace("_", " ") for name in names))
    more = len(result.points) - len(shown)
    note = f"{more} more are in results.json." if more else ""
    return Section(f"{result.experiment.name}: what was measured", columns, rows, note)


def _maybe(value: Any) -> float | None:
    return None if value is None else float(value)
