"""How figures are judged and written; the measuring itself is `make bench`."""

from __future__ import annotations

import json
import sys
from collections.abc import Iterator
from pathlib import Path
from types import ModuleType

import pytest

from unimem_lab.bench import runner
from unimem_lab.bench.result import Figure
from unimem_lab.bench.runner import number, run_bench


@pytest.mark.parametrize(
    ("figure", "ratio", "reached"),
    [
        (Figure("a", 6, "1/s", "C", 10, wanted=0.5), 0.6, True),
        (Figure("a", 4, "1/s", "C", 10, wanted=0.5), 0.4, False),
        (Figure("a", 30, "µs", "bare", 10, wanted=2, lower=True), 3.0, False),
        (Figure("a", 15, "µs", "bare", 10, wanted=2, lower=True), 1.5, True),
        (Figure("a", 50_001, "1/s", wanted=50_000, absolute=True), None, True),
        (Figure("a", 201e6, "B", wanted=200e6, lower=True, absolute=True), None, False),
        (Figure("a", 1, "1/s", "no C compiler here", wanted=0.5), None, None),
        (Figure("a", 1, "1/s"), None, None),
    ],
)
def test_judgement(figure: Figure, ratio: float | None, reached: bool | None) -> None:
    assert figure.ratio == (None if ratio is None else pytest.approx(ratio))
    assert figure.reached is reached


def test_numbers_for_people() -> None:
    assert number(155e6, "1/s") == "155 M1/s"
    assert number(0.5, "s") == "0.5 s"


def test_one_run_writes_json_and_fails_when_a_bound_is_not_kept(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def measure(quick: bool) -> Iterator[Figure]:
        yield Figure("slow", 1, "1/s", "C", 10, wanted=0.5 if quick else 0.05)

    module = ModuleType("unimem_lab.bench.fake")
    module.measure = measure  # type: ignore[attr-defined]
    monkeypatch.setitem(sys.modules, module.__name__, module)
    monkeypatch.setitem(runner.GROUPS, "fake", "fake")
    assert run_bench("fake", output_dir=tmp_path, quick=True) == 1
    assert run_bench("fake", output_dir=tmp_path, quick=False) == 0
    (result,) = json.loads((tmp_path / "fake-latest.json").read_text())["results"]
    assert (result["name"], result["ratio"], result["reached"]) == ("slow", 0.1, True)
    assert run_bench("nosuch", output_dir=None, quick=True) == 3
