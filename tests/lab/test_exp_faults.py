"""Faults of experiments: each type strikes whom and when it says, and is undone."""

from __future__ import annotations

from typing import Any

import pytest

from unimem_lab.experiments.faults import choose, parse_range, parse_when
from unimem_lab.experiments.loading import from_dict
from unimem_lab.experiments.results import Result
from unimem_lab.experiments.runner import run_experiment
from unimem_node.clock import named_stream

NODES = ["n0", "n1", "n2", "n3", "n4"]


def run(*faults: dict[str, Any], seed: int = 1, nodes: int = 3, **workload: Any) -> Result:
    plain = {
        "version": 1,
        "name": "x",
        "system": {"nodes": nodes},
        "workload": {"type": "put_get", "operations": 60, "bytes": 2048, **workload},
        "faults": list(faults),
        "run": {"duration": "20ms"},
    }
    return run_experiment(from_dict(plain), seed)


def struck(result: Result, what: str = "struck") -> list[tuple[float, str]]:
    return [(row["time_us"], row["target"]) for row in result.faults if row["what"] == what]


def figures(result: Result) -> dict[str, float]:
    assert not result.error
    return dict(result.points[0].quantities)


def test_when_it_strikes_and_is_healed() -> None:
    result = run(
        {
            "type": "slow",
            "target": "n1",
            "by": "1ns",
            "at": "2us",
            "for": "3us",
            "every": "7us",
            "max_count": 3,
        }
    )
    assert struck(result) == [(2.0, "n1"), (9.0, "n1"), (16.0, "n1")]
    assert [time for time, _ in struck(result, "healed")] == [5.0, 12.0, 19.0]


def test_after_so_many_operations_and_only_while_a_condition_holds() -> None:
    after = run({"type": "slow", "target": "n1", "by": "1ns", "after": 30})
    (one,) = struck(after)
    assert one[0] > 2
    never = run({"type": "slow", "target": "n1", "by": "1ns", "every": "1us", "when": "failed > 0"})
    assert struck(never) == []
    counted = run(
        {"type": "slow", "target": "n1", "by": "1ns", "every": "1us", "when": "walks > 0", "max_count": 1}
    )
    assert len(struck(counted)) == 1
    assert (
        "when: rain is no counter; there are ops, failed"
        in run({"type": "slow", "by": "1ns", "when": "rain > 1"}).error
    )


def test_a_probability_of_nought_is_not_installed() -> None:
    result = run({"type": "loss", "p": 0}, {"type": "crash", "p": 0})
    assert result.status == "passed"
    assert result.faults == []


def test_half_the_times_is_half_the_times() -> None:
    result = run({"type": "slow", "target": "all", "by": "1ns", "every": "100ns", "p": 0.5}, operations=200)
    times = len(struck(result))
    whole = len(struck(run({"type": "slow", "target": "all", "by": "1ns", "every": "100ns"}, operations=200)))
    assert 0.35 < times / whole < 0.65


def test_a_node_that_stands_still_takes_its_time() -> None:
    plain = figures(run())
    paused = figures(run({"type": "pause", "target": "n1", "at": "1us", "for": "300us"}))
    assert plain["p99_us"] < 100
    assert paused["p99_us"] > 250
    assert paused["failed"] == paused["wrong_bytes"] == 0


def test_a_slow_link_is_slow_and_others_are_not() -> None:
    def round_trip(*faults: dict[str, Any]) -> float:
        plain = {
            "version": 1,
            "name": "x",
            "system": {"nodes": 3},
            "workload": {"type": "transfer"},
            "faults": list(faults),
        }
        return float(run_experiment(from_dict(plain), 1).points[0].quantities["round_trip_us"])

    def delay(target: str) -> float:
        return round_trip({"type": "delay", "target": target, "by": "5us"})

    assert delay("n0->n1") - round_trip() == pytest.approx(5.0)
    assert delay("n1") - round_trip() == pytest.approx(10.0)  # there and back
    assert delay("n1->n2") == round_trip()


def test_a_stale_translation_leads_to_the_wrong_place() -> None:
    forget = {"type": "stale_tlb", "target": "n1"}
    move = {"type": "migrate", "target": "n1", "after": 20, "length": "64K"}
    assert figures(run(move, nodes=2, reads=0))["wrong_bytes"] == 0
    stale = run(forget, move, nodes=2, reads=0)
    assert figures(stale)["wrong_bytes"] > 0
    assert stale.status == "failed"


def test_a_region_unmapped_under_traffic_is_a_clean_refusal() -> None:
    result = run({"type": "unmap", "target": "n1", "after": 20})
    found = figures(result)
    assert found["failed"] > 0
    assert found["wrong_bytes"] == 0


def test_a_crash_loses_memory_and_is_noticed() -> None:
    result = run({"type": "crash", "target": "n2", "after": 20, "for": "50us"})
    assert [target for _, target in struck(result)] == ["n2"]
    found = figures(result)
    assert found["failed"] + found["unreadable"] + found["wrong_bytes"] > 0
    assert result.status == "failed"


def test_faults_too_are_a_function_of_the_seed() -> None:
    faults = (
        {"type": "pause", "target": "one", "every": "5us", "for": "2us", "p": 0.5},
        {"type": "delay", "target": "minority", "by": "1us", "jitter": "2us", "p": 0.3},
    )
    first, again, other = (run(*faults, seed=seed) for seed in (3, 3, 4))
    assert first.as_dict() == again.as_dict()
    assert first.faults != other.faults


def test_targets() -> None:
    draw = named_stream(1, "targets")
    assert choose("n3", NODES, draw) == ["n3"]
    assert choose("n[12]", NODES, draw) == ["n1", "n2"]
    assert choose("all", NODES, draw) == NODES
    assert [len(choose(word, NODES, draw)) for word in ("one", "minority", "majority")] == [1, 2, 3]
    assert {choose("one", NODES, draw)[0] for _ in range(100)} == set(NODES)
    assert parse_range("0x1000..0x1_2000") == (0x1000, 0x12000)
    assert parse_range("n1") is None
    assert parse_when(" ops >= 10 ") == ("ops", ">=", 10.0)
