"""An experiment, as its file says it: system, run, workload, faults, sweep, checks, published, outputs.

What every key means stands in the models' docstrings; `unimem exp schema` prints them as JSON Schema.
"""

from __future__ import annotations

from collections.abc import Iterator
from itertools import product
from typing import Annotated, Any, Literal

from pydantic import BaseModel, ConfigDict, Field, field_validator, model_validator

from unimem_lab.experiments.faults import AnyFault
from unimem_lab.experiments.values import Flag, Size, Time, Tolerance, Whole
from unimem_lab.experiments.workloads import AnyWorkload
from unimem_node.fabric.topology import check_topology
from unimem_node.kernel.fault_policy import FaultPolicy

Name = Annotated[str, Field(pattern=r"^[A-Za-z0-9][A-Za-z0-9_.-]{0,62}$")]
Use = Literal["calibrated", "validated", "compare"]
Number = Annotated[float, Field(strict=True)]

#: How far a figure may be from the published one unless its row says otherwise.
DEFAULT_TOLERANCE = {"calibrated": 0.02, "validated": 0.15}


class Part(BaseModel):
    """A table of an experiment's file: unknown keys are refused."""

    model_config = ConfigDict(frozen=True, extra="forbid")


class System(Part):
    """The machine. `parameters` replaces parameters of the platform: ``{"kernel.resolve_ps": 2000000}``.

    `memory`: DRAM of a node. `policy`: what a node's kernel does about page faults of DMA. `paths`: routes
    over which a transfer's blocks are spread.
    """

    nodes: Annotated[int, Field(strict=True, ge=1, le=1024)] = 2
    platform: str = "zynqmp"
    topology: str = "full"
    policy: str = "abort"
    memory: Size = 4 << 30
    paths: Annotated[int, Field(strict=True, ge=1, le=4)] = 1
    parameters: dict[str, int | float | str | bool] = Field(default_factory=dict)

    @field_validator("policy")
    @classmethod
    def _policy(cls, text: str) -> str:
        FaultPolicy.parse(text)
        return text

    @model_validator(mode="after")
    def _wired(self) -> System:
        check_topology(self.topology, self.nodes)
        return self


class Run(Part):
    """How it is run. `duration`: simulated time after which faults strike no more and the run must end.

    `repeat`: with so many seeds made from `seed`; quantities are means then.
    """

    seed: Whole = 1
    duration: Time = 10**13
    repeat: Annotated[int, Field(strict=True, ge=1, le=1000)] = 1


class Reading(Part):
    """A figure made of what was measured.

    `quantity`: what the workload measures. `at`: at which points of the sweep, by key. `over`: divide by the
    same at these points; `minus`: subtract the same at these points. `reduce`: of several points their `max`,
    `min`, `mean`, `sum`; `half_point`: where, `along` a swept key, the quantity reaches half of its maximum
    (interpolated); `value`: of exactly one. `scale`: multiply by it.
    """

    quantity: str
    at: dict[str, Any] = Field(default_factory=dict)
    over: dict[str, Any] | None = None
    minus: dict[str, Any] | None = None
    reduce: Literal["value", "max", "min", "mean", "sum", "half_point"] = "value"
    along: str = ""
    scale: Number = 1.0

    @model_validator(mode="after")
    def _complete(self) -> Reading:
        if (self.reduce == "half_point") != bool(self.along):
            raise ValueError("along names the swept key of a half_point, and is of no use otherwise")
        if self.over is not None and self.minus is not None:
            raise ValueError("over divides and minus subtracts: leave one out")
        return self


class Check(Reading):
    """What must hold of a figure: `min`, `max`, `equals`; or it must rise along `order`.

    `order`: a swept key with its values, in the order in which the quantity must grow. A check of a quantity
    that the workload expects something of by itself replaces that expectation.
    """

    name: str = ""
    min: Number | None = None
    max: Number | None = None
    equals: Number | None = None
    order: dict[str, list[Any]] | None = None

    @model_validator(mode="after")
    def _says_something(self) -> Check:
        if self.order is not None and (len(self.order) != 1 or any(len(v) < 2 for v in self.order.values())):
            raise ValueError("order: one swept key, and two values of it at least")
        if self.min is None and self.max is None and self.equals is None and self.order is None:
            raise ValueError("a check needs min, max, equals or order")
        return self

    @property
    def title(self) -> str:
        """What is checked, for people."""
        return self.name or self.quantity


class Published(Reading):
    """A published figure beside ours.

    `use`: `calibrated`, when a parameter was chosen so that it comes out, or was derived from it;
    `validated`, when nothing was; `compare`, when it is of other hardware or software. Only the first two
    have a `tolerance` (2 % and 15 % unless given). `bound`: ours need only be `at_most` or `at_least` so
    much. A text as `value` is an outcome: then the quantity must be 1 (it was so).
    """

    id: Annotated[str, Field(pattern=r"^[A-Z][A-Za-z0-9.-]*$")]
    what: str
    value: Number | str
    unit: str = ""
    use: Use
    tolerance: Tolerance | None = None
    bound: Literal["equal", "at_most", "at_least"] = "equal"
    source: str
    note: str = ""

    @model_validator(mode="after")
    def _tolerance_of_use(self) -> Published:
        if self.use == "compare" and self.tolerance is not None:
            raise ValueError("tolerance: a figure that is only compared has none")
        return self

    @property
    def allowed(self) -> float | None:
        """The tolerance that counts; None: nothing to keep."""
        return DEFAULT_TOLERANCE.get(self.use) if self.tolerance is None else self.tolerance


class Plot(Part):
    """A curve: quantities `y` over the swept key `x`, one line for each value of `lines`.

    `published`: points to draw beside it. `log`: axes with a logarithmic scale.
    """

    title: str
    x: str
    y: str | list[str]
    lines: str = ""
    at: dict[str, Any] = Field(default_factory=dict)
    x_label: str = ""
    y_label: str = ""
    log: Literal["", "x", "y", "xy"] = ""
    published: list[tuple[float, float]] = Field(default_factory=list)

    @property
    def quantities(self) -> list[str]:
        """The names of `y`."""
        return [self.y] if isinstance(self.y, str) else self.y


class Outputs(Part):
    """What a run leaves, besides manifest.json and results.json."""

    events: Flag = True
    ops: Flag = True
    trace: Flag = True
    report: Flag = True
    plots: list[Plot] = Field(default_factory=list)


class Experiment(Part):
    """One experiment, version 1 of the format."""

    version: Literal[1] = 1
    name: Name
    title: str = ""
    system: System = Field(default_factory=System)
    run: Run = Field(default_factory=Run)
    workload: AnyWorkload
    faults: list[AnyFault] = Field(default_factory=list)
    sweep: dict[str, Annotated[list[Any], Field(min_length=1)]] = Field(default_factory=dict)
    checks: list[Check] = Field(default_factory=list)
    published: list[Published] = Field(default_factory=list)
    outputs: Outputs = Field(default_factory=Outputs)

    @model_validator(mode="after")
    def _names(self) -> Experiment:
        names = [fault.name for fault in self.faults if fault.name]
        for kind, found in (("faults", names), ("published rows", [row.id for row in self.published])):
            twice = sorted({name for name in found if found.count(name) > 1})
            if twice:
                raise ValueError(f"two {kind} are called {', '.join(twice)}")
        return self

    def as_dict(self) -> dict[str, Any]:
        """The experiment as its file could say it."""
        return self.model_dump(mode="json", by_alias=True, exclude_unset=True)

    def points(self) -> Iterator[tuple[dict[str, Any], dict[str, Any]]]:
        """Each point of the sweep: its keys, and the experiment (as a dict, without sweep) with them set."""
        plain = {key: value for key, value in self.as_dict().items() if key != "sweep"}
        for values in product(*self.sweep.values()):
            keys = dict(zip(self.sweep, values, strict=True))
            yield keys, with_values(plain, keys)


class Suite(Part):
    """Several experiments as one: `include` names their files, relative to this one's folder."""

    version: Literal[1] = 1
    name: Name
    title: str = ""
    include: Annotated[list[str], Field(min_length=1)]
    run: Run | None = None


def with_values(plain: dict[str, Any], values: dict[str, Any]) -> dict[str, Any]:
    """A copy of an experiment's dict with values set by dotted key: ``{"workload.bytes": "4K"}``.

    Elements of lists go by their name, id or position: ``faults.storm.p``. Raises `KeyError` with a message
    for a key that leads nowhere; whether the last part of a key is known is for the schema to say.
    """
    result: dict[str, Any] = _copied(plain)
    for key, value in values.items():
        *way, last = _steps(key)
        at: Any = result
        for part in way:
            at = _step(at, part, key)
        if isinstance(at, list):
            at[_position(at, last, key)] = value
        else:
            at[last] = value
    return result


#: Tables whose keys may have dots in them.
_DOTTED = ("sweep", "system.parameters")
_LISTS = frozenset({"faults", "checks", "published", "plots"})


def _steps(key: str) -> list[str]:
    for table in _DOTTED:
        if key.startswith(f"{table}."):
            return [*table.split("."), key.removeprefix(f"{table}.")]
    return key.split(".")


def _copied(value: Any) -> Any:
    if isinstance(value, dict):
        return {key: _copied(item) for key, item in value.items()}
    return [_copied(item) for item in value] if isinstance(value, list) else value


def _step(at: Any, part: str, key: str) -> Any:
    if isinstance(at, list):
        return at[_position(at, part, key)]
    if isinstance(at, dict):
        return at.setdefault(part, [] if part in _LISTS else {})
    raise KeyError(f"{key}: there is no {part!r} there")


def _position(at: list[Any], part: str, key: str) -> int:
    names = [item.get("name", item.get("id")) if isinstance(item, dict) else None for item in at]
    if part in names:
        return names.index(part)
    if part.isdecimal() and int(part) < len(at):
        return int(part)
    raise KeyError(f"{key}: there is no {part!r} there")
