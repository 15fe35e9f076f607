"""Runs experiments: every point of a sweep on a stage of its own, healed and quiet before it is verified."""

from __future__ import annotations

import hashlib
import json
import math
import traceback
from collections.abc import Callable
from typing import TYPE_CHECKING, Any

from unimem import UnimemError
from unimem_lab.experiments.results import Outcomes, Point, Result
from unimem_lab.experiments.schema import Experiment
from unimem_lab.experiments.stage import BareStage, ProcessStage, RemoteStage
from unimem_lab.experiments.workloads.base import NotHere, Outcome

if TYPE_CHECKING:
    from unimem_lab.experiments.loading import Plan

#: Takes lines of events.jsonl.
Sink = Callable[[list[str]], object]
#: Told what begins: experiment, number of the point, points.
Progress = Callable[[str, int, int], object]


def run_plan(
    plan: Plan,
    seed: int,
    *,
    on: str = "sim",
    events: Sink = lambda lines: None,
    progress: Progress = lambda name, number, count: None,
) -> Outcomes:
    """Run all experiments of a plan; what goes wrong in one is in its result, and the others are run."""
    results = [
        run_experiment(experiment, seed, on=on, events=events, progress=progress)
        for experiment in plan.experiments
    ]
    return Outcomes(plan.name, plan.title, seed, results)


def run_experiment(
    experiment: Experiment,
    seed: int,
    *,
    on: str = "sim",
    events: Sink = lambda lines: None,
    progress: Progress = lambda name, number, count: None,
) -> Result:
    """Run one experiment and judge it."""
    result = Result(experiment)
    points = list(experiment.points())
    for number, (keys, plain) in enumerate(points):
        progress(experiment.name, number, len(points))
        one = experiment if not experiment.sweep else Experiment.model_validate(plain)
        try:
            _run_point(one, keys, seed, on, result, events)
        except Exception as error:
            result.error = _said(error, keys)
            result.status = "unknown" if _learnt_nothing(error) else "broken"
            break
    result.judge()
    return result


def _learnt_nothing(error: Exception) -> bool:
    """Whether the run as such was sound, but did not come to a figure."""
    return isinstance(error, NotHere) or type(error).__name__ == "EndlessError"


def _said(error: Exception, keys: dict[str, Any]) -> str:
    where = f" at {', '.join(f'{key} = {value}' for key, value in keys.items())}" if keys else ""
    if isinstance(error, NotHere | UnimemError) or _learnt_nothing(error):
        return f"{error}{where}"
    frame = traceback.extract_tb(error.__traceback__)[-1]
    return f"{type(error).__name__}: {error}{where} ({frame.name}, line {frame.lineno})"


def _run_point(
    experiment: Experiment, keys: dict[str, Any], seed: int, on: str, result: Result, events: Sink
) -> None:
    outcomes = []
    for repetition in range(experiment.run.repeat):
        own = seed_of(seed, repetition)
        label = " ".join(f"{key.rpartition('.')[2]}={value}" for key, value in keys.items())
        with make_stage(experiment, own, on) as stage:
            report = experiment.workload.play(stage)
            stage.heal()
            if not stage.settle():
                raise NotHere("the cluster did not come to rest")
            ops = list(stage.ops)
            outcome = report()
            if experiment.outputs.events:
                head = {"experiment": experiment.name, "keys": keys, "repeat": repetition, "seed": own}
                events([json.dumps({"kind": "stage", **head}, sort_keys=True), *stage.event_lines()])
            result.ops += [(label, op) for op in ops]
            result.faults += [{"point": label, **row} for row in stage.faulted()]
        outcomes.append(outcome)
        for quantity, value in outcome.expected.items():
            result.expected[quantity] = value
    result.points += _merged(outcomes, keys)


def make_stage(experiment: Experiment, seed: int, on: str = "sim") -> BareStage:
    """The stage that an experiment needs."""
    if experiment.workload.bare:
        return BareStage(experiment, seed)
    if on == "processes":
        return ProcessStage(experiment, seed)
    if on != "sim":
        return RemoteStage(experiment, seed, on)
    from unimem_lab.experiments.sim_stage import SimStage  # noqa: PLC0415 - compiles the fast paths

    return SimStage(experiment, seed)


def seed_of(seed: int, repetition: int) -> int:
    """The seed of a repetition: the run's own, then seeds made from it."""
    if repetition == 0:
        return seed
    return int.from_bytes(hashlib.sha256(f"{seed}\0{repetition}".encode()).digest()[:6], "little")


def _merged(outcomes: list[Outcome], keys: dict[str, Any]) -> list[Point]:
    """The point of these repetitions: means; and points of what the workload went through by itself."""
    points = []
    if any(outcome.quantities for outcome in outcomes):
        texts = outcomes[0].texts
        points.append(Point(keys, _means([outcome.quantities for outcome in outcomes]), texts))
    for samples in zip(*(outcome.samples for outcome in outcomes), strict=True):
        points.append(Point({**keys, **samples[0].keys}, _means([dict(s.quantities) for s in samples])))
    return points


def _means(found: list[dict[str, float]]) -> dict[str, float]:
    names = found[0].keys()
    means = {
        name: math.fsum(q[name] for q in found if name in q) / sum(name in q for q in found) for name in names
    }
    return {name: float(value) for name, value in means.items()}
