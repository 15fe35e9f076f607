"""From points to figures, checks and verdicts; what was not measured is never good."""

from __future__ import annotations

from typing import Any

import pytest

from unimem_lab.experiments.loading import from_dict
from unimem_lab.experiments.results import Outcomes, Point, Result, read
from unimem_lab.experiments.schema import Reading

CURVE = [
    Point({"workload.bytes": size}, {"gbps": rate}) for size, rate in ((8, 1.0), ("1K", 5.0), ("4K", 8.0))
]


def judged(points: list[Point], **keys: Any) -> Result:
    result = Result(from_dict({"version": 1, "name": "x", "workload": {"type": "transfer"}, **keys}))
    result.points = points
    result.judge()
    return result


def row(**changes: Any) -> dict[str, Any]:
    plain = {"id": "E5", "what": "w", "quantity": "gbps", "at": {"workload.bytes": "4K"}, "value": 8.0}
    return {**plain, "use": "validated", "source": "s", **changes}


def figure(**keys: Any) -> float | None:
    return read(Reading(**keys), CURVE)[0]


def test_figures() -> None:
    assert figure(quantity="gbps", at={"workload.bytes": 8}) == 1.0
    assert figure(quantity="gbps", at={"workload.bytes": 4096}) == 8.0  # 4K, as a size
    assert figure(quantity="gbps", reduce="max", scale=0.5) == 4.0
    assert figure(quantity="gbps", reduce="mean") == pytest.approx(14 / 3)
    assert figure(quantity="gbps", at={"workload.bytes": 8}, over={"workload.bytes": "4K"}) == 1 / 8
    assert (
        figure(quantity="gbps", at={"workload.bytes": "4K"}, minus={"workload.bytes": 8}, scale=2.0) == 14.0
    )
    # Half of 8 is reached three quarters of the way from (8, 1) to (1024, 5).
    assert figure(quantity="gbps", reduce="half_point", along="workload.bytes") == 8 + 0.75 * (1024 - 8)


@pytest.mark.parametrize(
    ("keys", "why"),
    [
        ({"quantity": "gbps"}, "3 points at no keys: say more of workload.bytes"),
        ({"quantity": "gbps", "at": {"workload.bytes": 9}}, "no point at workload.bytes = 9"),
        ({"quantity": "mbps", "at": {"workload.bytes": 8}}, "mbps was not measured; there are gbps"),
        ({"quantity": "gbps", "reduce": "half_point", "along": "hops"}, "no curve along hops"),
    ],
)
def test_figures_that_cannot_be(keys: dict[str, Any], why: str) -> None:
    assert read(Reading(**keys), CURVE) == (None, why)


@pytest.mark.parametrize(
    ("changes", "verdict", "status"),
    [
        ({"value": 7.0}, "ok", "passed"),  # 14 % off, validated rows may be 15
        ({"value": 6.9}, "off", "failed"),
        ({"value": 7.9, "use": "calibrated"}, "ok", "passed"),
        ({"value": 7.8, "use": "calibrated"}, "off", "failed"),  # 2.6 %: more than 2
        ({"value": 1.0, "use": "compare"}, "compared", "passed"),
        ({"value": 9.0, "bound": "at_most", "tolerance": 0.0}, "ok", "passed"),
        ({"value": 7.9, "bound": "at_most", "tolerance": "1 %"}, "off", "failed"),
        ({"value": 7.9, "bound": "at_least", "tolerance": 0}, "ok", "passed"),
        ({"at": {"workload.bytes": 9}}, "missing", "unknown"),
        ({"value": "data equal"}, "off", "failed"),  # an outcome is a quantity of 1
    ],
)
def test_verdicts(changes: dict[str, Any], verdict: str, status: str) -> None:
    result = judged(list(CURVE), published=[row(**changes)])
    assert result.rows[0].verdict == verdict
    assert result.status == status


def test_rows_for_json() -> None:
    rows = judged(list(CURVE), published=[row(), row(id="E16", use="compare", value=4.0)]).rows
    assert (
        rows[0].as_dict() | {"ours": 8.0, "published": 8.0, "use": "validated", "ratio": 1.0}
        == rows[0].as_dict()
    )
    assert rows[1].as_dict() | {"use": None, "tolerance": None, "ratio": 2.0} == rows[1].as_dict()


@pytest.mark.parametrize(
    ("check", "status"),
    [
        ({"quantity": "gbps", "order": {"workload.bytes": [8, "1K", "4K"]}}, "passed"),
        ({"quantity": "gbps", "order": {"workload.bytes": ["4K", 8]}}, "failed"),
        ({"quantity": "gbps", "order": {"workload.bytes": [8, 9]}}, "unknown"),
        ({"quantity": "gbps", "reduce": "max", "min": 8, "max": 8, "equals": 8}, "passed"),
        ({"quantity": "gbps", "reduce": "min", "min": 2}, "failed"),
        ({"quantity": "absent", "max": 1}, "unknown"),
    ],
)
def test_checks(check: dict[str, Any], status: str) -> None:
    assert judged(list(CURVE), checks=[check]).status == status


def test_a_figure_of_a_run_whose_checks_failed_is_void() -> None:
    result = judged(list(CURVE), published=[row()], checks=[{"quantity": "gbps", "reduce": "max", "max": 1}])
    assert result.rows[0].verdict == "void"
    assert result.status == "failed"


def test_a_run_that_measured_nothing_is_not_good() -> None:
    assert judged([]).status == "unknown"


def test_an_expectation_is_replaced_by_a_check_of_the_same_quantity() -> None:
    point = [Point({}, {"failed": 2.0})]
    plain = Result(from_dict({"version": 1, "name": "x", "workload": {"type": "transfer"}}))
    plain.points, plain.expected = point, {"failed": 0}
    plain.judge()
    assert plain.status == "failed"
    allowed = Result(
        from_dict(
            {
                "version": 1,
                "name": "x",
                "workload": {"type": "transfer"},
                "checks": [{"quantity": "failed", "max": 3}],
            }
        )
    )
    allowed.points, allowed.expected = point, {"failed": 0}
    allowed.judge()
    assert allowed.status == "passed"


def test_the_worst_experiment_counts() -> None:
    def of(*statuses: str) -> str:
        results = [judged(list(CURVE)) for _ in statuses]
        for result, status in zip(results, statuses, strict=True):
            result.status = status
        return Outcomes("x", "", 1, results).status

    assert of("passed", "passed") == "passed"
    assert of("passed", "unknown") == "unknown"
    assert of("unknown", "broken") == "broken"
    assert of("broken", "failed", "passed") == "failed"
