"""From a file to experiments: YAML or Python, one or a suite. Errors name file, line, key and the way out."""

from __future__ import annotations

import runpy
from dataclasses import dataclass
from difflib import get_close_matches
from pathlib import Path
from typing import Any, Final, TypeVar

import yaml
from pydantic import BaseModel, ValidationError

from unimem_lab.experiments.faults import wrong_target
from unimem_lab.experiments.platforms import platform_of
from unimem_lab.experiments.schema import Experiment, Suite, with_values
from unimem_lab.experiments.stage import NOT_ON_PROCESSES, NOT_ON_RUNNING
from unimem_node.mpsoc.platform import PlatformError

ON: Final = ("sim", "processes")

Model = TypeVar("Model", bound=BaseModel)


class ExperimentError(ValueError):
    """A file that is no experiment: one line for each thing that is wrong, with the way out."""


@dataclass(frozen=True, slots=True)
class Plan:
    """What a file asks for: its experiments, in order."""

    name: str
    title: str
    path: Path | None
    experiments: tuple[Experiment, ...]

    @property
    def seed(self) -> int:
        """The seed unless another is given: a suite's, or its first experiment's."""
        return self.experiments[0].run.seed


def load_plan(path: Path, settings: tuple[str, ...] = (), *, on: str = "sim") -> Plan:
    """Read a file; `settings`: "key=value" of the command line. Raises `ExperimentError`, `OSError`."""
    values = dict(_setting(text) for text in settings)
    plain, lines = _read(path)
    if "include" in plain:
        suite = _validated(Suite, plain, path, lines)
        experiments = []
        for number, name in enumerate(suite.include):
            file = path.parent / name
            if not file.is_file():
                raise ExperimentError(
                    f"{path}:{lines.get(('include', number), 1)}: include: there is no file {file}"
                )
            inner, at = _read(file)
            if "include" in inner:
                raise ExperimentError(f"{path}: include: {file} is a suite itself; name its experiments")
            if suite.run is not None:
                shared = suite.model_dump(mode="json", by_alias=True, exclude_unset=True)["run"]
                inner = {**inner, "run": {**inner.get("run", {}), **shared}}
            experiments.append(_experiment(inner, values, file, at, on))
        plan = Plan(suite.name, suite.title, path, tuple(experiments))
    else:
        experiment = _experiment(plain, values, path, lines, on)
        plan = Plan(experiment.name, experiment.title, path, (experiment,))
    names = [experiment.name for experiment in plan.experiments]
    if len(set(names)) < len(names):
        raise ExperimentError(f"{path}: two experiments of the suite have one name: {', '.join(names)}")
    return plan


def from_dict(plain: dict[str, Any], origin: str = "experiment") -> Experiment:
    """An experiment of a dict, as a file says it; raises `ExperimentError`."""
    return _experiment(plain, {}, Path(origin), {}, "sim")


def _experiment(
    plain: dict[str, Any],
    values: dict[str, Any],
    path: Path,
    lines: dict[tuple[Any, ...], int],
    on: str,
) -> Experiment:
    try:
        plain = with_values(plain, values)
    except KeyError as error:
        raise ExperimentError(f"--set {error.args[0]}") from None
    experiment = _validated(Experiment, plain, path, lines)
    try:
        points = list(experiment.points())
    except KeyError as error:
        raise ExperimentError(f"{path}:{lines.get(('sweep',), 1)}: sweep: {error.args[0]}") from None
    for keys, point in points:
        said = ", ".join(f"{key} = {value!r}" for key, value in keys.items())
        where = f"{path}:{lines.get(('sweep',), 1)}: sweep at {said}" if keys else str(path)
        one = experiment if not keys else _validated(Experiment, point, path, lines, where)
        _possible(one, where, on)
    return experiment


def _possible(experiment: Experiment, where: str, on: str) -> None:
    """What only several keys together can get wrong."""
    try:
        platform_of(experiment.system.platform, experiment.system.parameters)
    except PlatformError as error:
        raise ExperimentError(f"{where}: {error}") from None
    nodes = [f"n{number}" for number in range(experiment.system.nodes)]
    for number, fault in enumerate(experiment.faults):
        wrong = wrong_target(fault.target, nodes)
        if wrong:
            raise ExperimentError(f"{where}: faults.{fault.name or number}: {wrong}")
    if on == "sim":
        return
    if on not in ON and ":" not in on:
        raise ExperimentError(f"--on {on}: write {', '.join(ON)}, or a coordinator's HOST:PORT")
    workload = experiment.workload
    if not workload.anywhere:
        raise ExperimentError(
            f"{where}: workload {workload.type} reaches into the simulation; run it with --on sim"
        )
    if experiment.faults:
        raise ExperimentError(f"{where}: faults strike simulated clusters only; run it with --on sim")
    for key in NOT_ON_PROCESSES if on == "processes" else NOT_ON_RUNNING:
        if key in experiment.system.model_fields_set:
            raise ExperimentError(f"{where}: system.{key} cannot be chosen --on {on}; run it with --on sim")


def _setting(text: str) -> tuple[str, Any]:
    """Key and value of `--set key=value`; the value is YAML."""
    key, equals, value = text.partition("=")
    if not equals or not key.strip():
        raise ExperimentError(f"--set {text}: write key=value, such as workload.bytes=4K")
    try:
        return key.strip(), yaml.safe_load(value)
    except yaml.YAMLError as error:
        raise ExperimentError(f"--set {text}: the value is no YAML: {_short(error)}") from None


# ---- files


def _read(path: Path) -> tuple[dict[str, Any], dict[tuple[Any, ...], int]]:
    """A file as a dict, and the line of each of its keys."""
    if path.suffix == ".py":
        return _built(path), {}
    if path.suffix not in {".yaml", ".yml"}:
        raise ExperimentError(f"{path}: an experiment is a .yaml file, or a .py file with build()")
    try:
        root = yaml.compose(path.read_text(encoding="utf-8"), yaml.SafeLoader)
        lines: dict[tuple[Any, ...], int] = {}
        _locate(root, (), lines, path)
        plain = yaml.safe_load(path.read_text(encoding="utf-8"))
    except UnicodeDecodeError as error:
        raise ExperimentError(f"{path}: not UTF-8 text: {error}") from None
    except yaml.YAMLError as error:
        raise ExperimentError(f"{path}: not YAML: {_short(error)}") from None
    if not isinstance(plain, dict):
        raise ExperimentError(f"{path}: an experiment is a mapping of keys; `unimem exp schema` lists them")
    return plain, lines


def _locate(
    node: yaml.Node | None, place: tuple[Any, ...], lines: dict[tuple[Any, ...], int], path: Path
) -> None:
    """Note the line of every key; YAML lets a key stand twice, and then forgets the first: refuse that."""
    if isinstance(node, yaml.MappingNode):
        for key, value in node.value:
            inner = (*place, key.value)
            if inner in lines:
                raise ExperimentError(
                    f"{path}:{key.start_mark.line + 1}: {_dotted(inner)}: here for the second time; "
                    f"the first is in line {lines[inner]}"
                )
            lines[inner] = key.start_mark.line + 1
            _locate(value, inner, lines, path)
    elif isinstance(node, yaml.SequenceNode):
        for number, item in enumerate(node.value):
            lines[(*place, number)] = item.start_mark.line + 1
            _locate(item, (*place, number), lines, path)


def _built(path: Path) -> dict[str, Any]:
    """What build() of a Python file returns, as a dict."""
    try:
        names = runpy.run_path(str(path), run_name="unimem_experiment")
        build = names.get("build")
        if not callable(build):
            raise ExperimentError(f"{path}: has no build(): define one that returns an Experiment")
        made = build()
    except ValidationError as error:
        raise ExperimentError(explain(str(path), error, Experiment, {})) from None
    except (ExperimentError, OSError):
        raise
    except Exception as error:
        raise ExperimentError(f"{path}: build() failed: {type(error).__name__}: {error}") from error
    if not isinstance(made, Experiment | Suite):
        raise ExperimentError(f"{path}: build() returned a {type(made).__name__}, not an Experiment")
    return made.model_dump(mode="json", by_alias=True, exclude_unset=True)


# ---- errors


def _validated(
    model: type[Model],
    plain: dict[str, Any],
    path: Path,
    lines: dict[tuple[Any, ...], int],
    where: str = "",
) -> Model:
    try:
        return model.model_validate(plain)
    except ValidationError as error:
        raise ExperimentError(explain(where or str(path), error, model, lines, exact=not where)) from None


def explain(
    origin: str,
    error: ValidationError,
    model: type[BaseModel],
    lines: dict[tuple[Any, ...], int],
    *,
    exact: bool = True,
) -> str:
    """One line for each thing that is wrong: file, line, key, what, what was found, the way out."""
    said = []
    for item in error.errors(include_url=False):
        place = _place(item["loc"])
        line = next((lines[place[:n]] for n in range(len(place), 0, -1) if place[:n] in lines), None)
        start = f"{origin}:{line}" if line is not None and exact else origin
        said.append(f"{start}: {_dotted(place) or '(as a whole)'}: {_message(item, model)}")
    return "\n".join(said)


def _place(loc: tuple[Any, ...]) -> tuple[Any, ...]:
    """Where it stands in the file: pydantic's places without the names of types in between."""
    place: list[Any] = []
    for number, step in enumerate(loc):
        if isinstance(step, str) and number and _is_tag(loc, number):
            continue
        place.append(step)
    return tuple(place)


def _is_tag(loc: tuple[Any, ...], number: int) -> bool:
    """A step that pydantic adds: the type of a workload or fault, or the branch of a union."""
    before = loc[number - 1]
    return (
        before == "workload"
        or (number >= 2 and loc[number - 2] == "faults" and isinstance(before, int))
        or loc[number] in {"float", "int", "str", "bool", "list[str]", "constrained-str"}
        or "function-" in str(loc[number])
    )


def _message(item: Any, model: type[BaseModel]) -> str:
    context = item.get("ctx", {})
    if item["type"] == "extra_forbidden":
        known = _keys_at(model, item["loc"][:-1])
        near = get_close_matches(str(item["loc"][-1]), known, 1)
        hint = f"did you mean {near[0]}? " if near else ""
        return f"no such key; {hint}there are {', '.join(known)}" if known else "no such key"
    if item["type"] in {"union_tag_invalid", "union_tag_not_found"}:
        tags = str(context.get("expected_tags", "")).replace("'", "")
        if item["type"] == "union_tag_not_found":
            return f"type is missing; there are {', '.join(_tags_at(model, item['loc']))}"
        near = get_close_matches(str(context.get("tag")), tags.split(", "), 1)
        hint = f"did you mean {near[0]}? " if near else ""
        return f"type {context.get('tag')!r} is not known here; {hint}there are {tags}"
    if item["type"] == "missing":
        return "is missing"
    message = str(item["msg"]).removeprefix("Value error, ")
    message = message[:1].lower() + message[1:]
    found = item.get("input")
    return message + (f" (found {found!r})" if isinstance(found, int | float | str) else "")


def _keys_at(model: type[BaseModel], loc: tuple[Any, ...]) -> list[str]:
    """The keys that the table at `loc` may have."""
    return sorted(_schema_at(model, loc).get("properties", {}))


def _tags_at(model: type[BaseModel], loc: tuple[Any, ...]) -> list[str]:
    """The types that the table at `loc` may be of."""
    return sorted(_schema_at(model, loc).get("discriminator", {}).get("mapping", {}))


def _schema_at(model: type[BaseModel], loc: tuple[Any, ...]) -> Any:
    schema = model.model_json_schema(by_alias=True)
    definitions = schema.get("$defs", {})
    at: Any = schema
    for step in loc:
        at = _inner(at, step, definitions)
        if at is None:
            return {}
    return _resolved(at, definitions)


def _inner(schema: Any, step: Any, definitions: dict[str, Any]) -> Any:
    schema = _resolved(schema, definitions)
    if "discriminator" in schema:
        target = schema["discriminator"]["mapping"].get(step)
        return None if target is None else {"$ref": target}
    if isinstance(step, int):
        return schema.get("items")
    found = schema.get("properties", {}).get(step)
    if found is not None and "anyOf" in found:
        found = next((part for part in found["anyOf"] if "$ref" in part or "properties" in part), found)
    return found


def _resolved(schema: Any, definitions: dict[str, Any]) -> Any:
    while "$ref" in schema:
        schema = definitions[schema["$ref"].rsplit("/", 1)[1]]
    return schema


def _dotted(place: tuple[Any, ...]) -> str:
    return ".".join(str(step) for step in place)


def _short(error: yaml.YAMLError) -> str:
    mark = getattr(error, "problem_mark", None)
    problem = getattr(error, "problem", None) or str(error)
    return f"{problem} (line {mark.line + 1}, column {mark.column + 1})" if mark is not None else problem
