"""unimem exp: run experiments, look at runs, repeat and compare them."""

from __future__ import annotations

import json
import re
import sys
from collections.abc import Iterator
from concurrent.futures import ProcessPoolExecutor
from contextlib import contextmanager
from multiprocessing import get_context
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final

from unimem_lab.cli import output

if TYPE_CHECKING:
    from unimem_lab.experiments.loading import Plan
    from unimem_lab.experiments.results import Outcomes

_SEEDS: Final = re.compile(r"(\d+)\.\.(\d+)|(\d+(?:,\d+)*)")
#: Most seeds in one go.
_MOST: Final = 100_000


def run_file(
    file: Path, *, seed: int | None, seeds: str | None, jobs: int, settings: tuple[str, ...], on: str
) -> int:
    """`unimem exp run`: the exit code is 0 passed, 1 failed, 2 unknown, 3 could not run."""
    from unimem_lab.experiments.loading import ExperimentError, load_plan  # noqa: PLC0415

    try:
        plan = load_plan(file, settings, on=on)
        if seeds is None:
            return _run_one(plan, plan.seed if seed is None else seed, settings, on)
        if seed is not None:
            return output.fail("--seed and --seeds: leave one out", reason="USAGE")
        return _run_many(file, plan, parse_seeds(seeds), jobs, settings, on)
    except ExperimentError as error:
        return output.fail(str(error), reason="EXPERIMENT")


def parse_seeds(text: str) -> list[int]:
    """Seeds of "0..999" (both included) or "1,5,8"; raises `ExperimentError`."""
    from unimem_lab.experiments.loading import ExperimentError  # noqa: PLC0415

    found = _SEEDS.fullmatch(text.strip())
    if found is not None and found[3]:
        return [int(part) for part in found[3].split(",")]
    if found is not None and int(found[1]) <= int(found[2]) < int(found[1]) + _MOST:
        return list(range(int(found[1]), int(found[2]) + 1))
    raise ExperimentError(f"--seeds {text}: write a range such as 0..99, or a list such as 1,5,8")


@contextmanager
def _progress() -> Iterator[Any]:
    """A bar on a terminal, a line for each experiment elsewhere (on stderr), nothing with --json."""
    if output.as_json():
        yield lambda name, number, count: None
        return
    if not output.errors.is_terminal:
        yield (
            lambda name, number, count: (
                output.errors.print(f"{name} …", markup=False) if number == 0 else None
            )
        )
        return
    from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeElapsedColumn  # noqa: PLC0415

    columns = (TextColumn("{task.description}"), BarColumn(), MofNCompleteColumn(), TimeElapsedColumn())
    with Progress(*columns, console=output.errors, transient=True) as bar:
        task = bar.add_task("", total=None)
        yield lambda name, number, count: bar.update(task, description=name, completed=number, total=count)


def _run_one(plan: Plan, seed: int, settings: tuple[str, ...], on: str) -> int:
    from unimem_lab.experiments.artifacts import Folder  # noqa: PLC0415
    from unimem_lab.experiments.results import EXIT  # noqa: PLC0415
    from unimem_lab.experiments.runner import run_plan  # noqa: PLC0415

    folder = Folder(plan, seed, on=on, settings=settings)
    with _progress() as progress:
        outcomes = run_plan(plan, seed, on=on, events=folder.events, progress=progress)
    folder.write(outcomes)
    if output.as_json():
        output.answer({**summary(outcomes), "folder": str(folder.path), "reproduce": folder.reproduce})
    else:
        show(outcomes)
        output.say(f"\n{_verdict(outcomes)} {folder.path / 'report.html'}")
        if outcomes.status != "passed":
            output.say(f"reproduce: {folder.reproduce}")
    return EXIT[outcomes.status]


def summary(outcomes: Outcomes) -> dict[str, Any]:
    """What --json prints of a run, without its points."""
    plain = outcomes.as_dict()
    experiments = [{k: v for k, v in e.items() if k != "points"} for e in plain["experiments"]]
    return {**plain, "experiments": experiments}


def _one_seed(file: str, seed: int, settings: tuple[str, ...], on: str) -> dict[str, Any]:
    """One of many seeds, in a process of its own."""
    from unimem_lab.experiments.artifacts import Folder  # noqa: PLC0415
    from unimem_lab.experiments.loading import load_plan  # noqa: PLC0415
    from unimem_lab.experiments.runner import run_plan  # noqa: PLC0415

    plan = load_plan(Path(file), settings, on=on)
    folder = Folder(plan, seed, on=on, settings=settings)
    outcomes = run_plan(plan, seed, on=on, events=folder.events)
    folder.write(outcomes)
    return {**summary(outcomes), "folder": str(folder.path), "reproduce": folder.reproduce}


def _run_many(file: Path, plan: Plan, seeds: list[int], jobs: int, settings: tuple[str, ...], on: str) -> int:
    """Every seed; the exit code of the worst."""
    from unimem_lab.experiments.results import EXIT  # noqa: PLC0415

    found: list[dict[str, Any]] = []
    with _progress() as progress:
        if jobs <= 1 or len(seeds) == 1:
            for number, seed in enumerate(seeds):
                progress(plan.name, number, len(seeds))
                found.append(_one_seed(str(file), seed, settings, on))
        else:
            with ProcessPoolExecutor(min(jobs, len(seeds)), mp_context=get_context("spawn")) as pool:
                waiting = [pool.submit(_one_seed, str(file), seed, settings, on) for seed in seeds]
                for number, future in enumerate(waiting):
                    progress(plan.name, number, len(seeds))
                    found.append(future.result())
    bad = [run for run in found if not run["valid"]]
    worst = next((s for s in ("failed", "broken", "unknown") if any(r["status"] == s for r in bad)), "passed")
    if output.as_json():
        output.answer(
            {
                "name": plan.name,
                "valid": not bad,
                "status": worst,
                "results": [{**row, "seed": run["seed"]} for run in found for row in run["results"]],
                "runs": [{k: run[k] for k in ("seed", "status", "folder", "reproduce")} for run in found],
            }
        )
        return EXIT[worst]
    output.say(f"{plan.name}: {len(found) - len(bad)} of {len(found)} seeds passed")
    for run in bad:
        why = [check for e in run["experiments"] for check in e["checks"] if check["ok"] is False]
        errors = [e["error"] for e in run["experiments"] if e["error"]]
        said = "; ".join([f"{c['name']} is {c['ours']}, not {c['wanted']}" for c in why] + errors)
        output.say(f"seed {run['seed']}: {run['status']}: {said or 'see ' + run['folder']}")
        output.say(f"reproduce: {run['reproduce']}")
    return EXIT[worst]


def _verdict(outcomes: Outcomes) -> str:
    words = {
        "passed": "Everything is as it must be.",
        "failed": "NOT everything is as it must be.",
        "unknown": "Something could not be measured.",
        "broken": "Something could not be run.",
    }
    return words[outcomes.status]


def show(outcomes: Outcomes) -> None:
    """A run for people: published rows, then what is not as it must be, then notes."""
    from unimem_lab.experiments.report import ROW_COLUMNS, figure_of, row_cells  # noqa: PLC0415

    if outcomes.rows:
        output.table(ROW_COLUMNS, map(row_cells, outcomes.rows), title=outcomes.title or outcomes.name)
    for result in outcomes.results:
        name = result.experiment.name
        if result.error:
            output.say(f"{name}: {result.status}: {result.error}")
        bad = [verdict for verdict in result.verdicts if verdict.ok is not True]
        shown = result.verdicts if len(outcomes.results) == 1 else bad
        if shown:
            words = {True: "ok", False: "NOT ok", None: "not measured"}
            output.table(
                ["check", "wanted", "ours", "verdict"],
                [(v.name, v.wanted, v.ours, words[v.ok]) for v in shown],
                title=f"\n{name}: checks",
            )
    if len(outcomes.results) == 1 and not outcomes.rows:
        for point in outcomes.results[0].points:
            keys = ", ".join(f"{key} = {value}" for key, value in point.keys.items())
            figures = ", ".join(f"{name} {figure_of(value)}" for name, value in point.quantities.items())
            output.say(f"{keys}: {figures}" if keys else figures)
    noted = [row for row in outcomes.rows if row.verdict == "off" and row.row.note]
    for row in noted:
        output.say(f"{row.row.id}: {row.row.note}")


# ---- other commands


def show_schema() -> int:
    """`unimem exp schema`: JSON Schema of an experiment's file."""
    from unimem_lab.experiments.schema import Experiment, Suite  # noqa: PLC0415

    schema = Experiment.model_json_schema(by_alias=True)
    suite = Suite.model_json_schema(by_alias=True)
    definitions = {**schema.pop("$defs", {}), **suite.pop("$defs", {}), "Experiment": schema, "Suite": suite}
    whole = {
        "$schema": "https://json-schema.org/draft/2020-12/schema",
        "title": "Unimem experiment",
        "anyOf": [{"$ref": "#/$defs/Experiment"}, {"$ref": "#/$defs/Suite"}],
        "$defs": definitions,
    }
    json.dump(whole, sys.stdout, indent=2)
    sys.stdout.write("\n")
    return 0


def show_thing(what: Path | None) -> int:
    """`unimem exp show`: a run's results, or what a file would run."""
    from unimem_lab.experiments.loading import ExperimentError, load_plan  # noqa: PLC0415
    from unimem_lab.runs import runs_dir  # noqa: PLC0415

    if what is not None and what.is_file():
        try:
            plan = load_plan(what)
        except ExperimentError as error:
            return output.fail(str(error), reason="EXPERIMENT")
        return _show_plan(plan)
    folder = what or runs_dir() / "latest"
    results = _results_of(folder)
    if isinstance(results, str):
        return output.fail(results, reason="NO_RUN")
    if output.as_json():
        output.answer(results)
        return 0
    output.say(f"{results['title'] or results['name']}, seed {results['seed']}: {results['status']}")
    if results["results"]:
        output.table(
            ["id", "what", "published", "ours", "use", "verdict"],
            [
                (r["id"], r["what"], r["published"], r["ours"], r["use"] or "–", r["verdict"])
                for r in results["results"]
            ],
        )
    checks = [(e["name"], c) for e in results["experiments"] for c in e["checks"]]
    if checks:
        output.table(
            ["experiment", "check", "wanted", "ours", "ok"],
            [(name, c["name"], c["wanted"], c["ours"], c["ok"]) for name, c in checks],
        )
    output.say(f"{folder}")
    return 0


def _show_plan(plan: Plan) -> int:
    if output.as_json():
        output.answer({"name": plan.name, "experiments": [e.as_dict() for e in plan.experiments]})
        return 0
    output.table(
        ["experiment", "title", "workload", "nodes", "points", "faults", "checks", "published"],
        [
            (
                e.name,
                e.title,
                e.workload.type,
                "–" if e.workload.bare else e.system.nodes,
                len(list(e.points())),
                len(e.faults),
                len(e.checks),
                len(e.published),
            )
            for e in plan.experiments
        ],
        title=plan.title or plan.name,
    )
    return 0


def _results_of(folder: Path) -> dict[str, Any] | str:
    """results.json of a run, or what is wrong."""
    try:
        found = json.loads((folder / "results.json").read_text(encoding="utf-8"))
        if not isinstance(found, dict) or not {"name", "seed", "experiments", "results"} <= found.keys():
            return f"{folder} is no run of an experiment"
    except OSError:
        return f"{folder} has no results.json: name a run's folder, or run one with unimem exp run"
    except json.JSONDecodeError as error:
        return f"{folder / 'results.json'} is damaged: {error}"
    return found


def replay(run: Path) -> int:
    """`unimem exp replay`: run it again from its manifest, and compare results.json byte for byte."""
    from unimem_lab.experiments.artifacts import Folder  # noqa: PLC0415
    from unimem_lab.experiments.loading import ExperimentError, Plan, from_dict  # noqa: PLC0415
    from unimem_lab.experiments.runner import run_plan  # noqa: PLC0415

    try:
        manifest = json.loads((run / "manifest.json").read_text(encoding="utf-8"))
        before = (run / "results.json").read_bytes()
        experiments = tuple(from_dict(e, str(run / "manifest.json")) for e in manifest["experiments"])
        name, seed, file, settings, on = (manifest[k] for k in ("name", "seed", "file", "settings", "on"))
    except FileNotFoundError as error:
        return output.fail(f"{error.filename} is not there: name the folder of a run", reason="NO_RUN")
    except (json.JSONDecodeError, KeyError, ExperimentError) as error:
        return output.fail(f"{run} is no run that can be repeated: {error}", reason="NO_RUN")
    title = json.loads(before).get("title", "")
    plan = Plan(name, title, None if file is None else Path(file), experiments)
    folder = Folder(plan, seed, on=on, settings=settings)
    with _progress() as progress:
        outcomes = run_plan(plan, seed, on=on, events=folder.events, progress=progress)
    folder.write(outcomes)
    equal = (folder.path / "results.json").read_bytes() == before
    if output.as_json():
        output.answer({"valid": equal, "identical": equal, "run": str(run), "folder": str(folder.path)})
    else:
        output.say(f"{'identical' if equal else 'DIFFERENT'}: {run / 'results.json'} and {folder.path}")
    return 0 if equal else output.FAILED


def compare(a: Path, b: Path, tolerance: float) -> int:
    """`unimem exp compare`: figures of two runs side by side; 1 when some differ by more."""
    runs = []
    for folder in (a, b):
        results = _results_of(folder)
        if isinstance(results, str):
            return output.fail(results, reason="NO_RUN")
        runs.append(_figures(results))
    rows: list[tuple[str, float | None, float | None, bool]] = []
    for name in dict.fromkeys([*runs[0], *runs[1]]):
        x, y = runs[0].get(name), runs[1].get(name)
        equal = x is not None and y is not None and abs(x - y) <= tolerance * max(abs(x), abs(y))
        rows.append((name, x, y, equal))
    different = [row for row in rows if not row[3]]
    if output.as_json():
        output.answer(
            {
                "valid": not different,
                "compared": len(rows),
                "results": [{"id": n, "a": x, "b": y, "equal": equal} for n, x, y, equal in different],
            }
        )
    elif different:
        output.table(
            ["figure", str(a), str(b), "ratio"],
            [(n, _cell(x), _cell(y), f"{y / x:.4f}" if x and y else "") for n, x, y, _ in different],
            title=f"{len(different)} of {len(rows)} figures differ by more than {tolerance:.1%}",
        )
    else:
        output.say(f"all {len(rows)} figures are equal within {tolerance:.1%}")
    return output.FAILED if different else 0


def _cell(value: float | None) -> str:
    return "–" if value is None else f"{value:.6g}"


def _figures(results: dict[str, Any]) -> dict[str, float]:
    found: dict[str, float] = {}
    for experiment in results["experiments"]:
        for point in experiment["points"]:
            keys = " ".join(f"{k.rpartition('.')[2]}={v}" for k, v in sorted(point["keys"].items()))
            for name, value in point["quantities"].items():
                found[" ".join(filter(None, (experiment["name"], keys, name)))] = float(value)
    return found
