"""unimem exp as people use it: exit codes, JSON, the folder of a run, the same again for the same seed."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pyarrow.parquet as pq
import pytest

from unimem_lab.cli.app import app

EXPERIMENT = """
version: 1
name: small
title: A small one
system: {nodes: 3, topology: ring}
workload: {type: put_get, operations: 30, bytes: 2K, outstanding: 3}
outputs:
  plots: [{title: times, x: workload.reads, y: [mean_us, p99_us]}]
sweep: {workload.reads: [0.2, 0.6]}
published:
  - {id: E99, what: something, quantity: mean_us, at: {workload.reads: 0.2}, value: 9.0, use: compare,
     source: nobody}
"""


@pytest.fixture(autouse=True)
def runs(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("UNIMEM_RUNS", str(tmp_path / "runs"))
    return tmp_path / "runs"


def exp(*arguments: object) -> int:
    return int(app(["exp", *map(str, arguments)], standalone_mode=False) or 0)


def answer(capsys: pytest.CaptureFixture[str], *arguments: object) -> tuple[int, dict[str, Any]]:
    code = exp(*arguments, "--json")
    found: dict[str, Any] = json.loads(capsys.readouterr().out)
    return code, found


def written(folder: Path, text: str = EXPERIMENT, name: str = "small.yaml") -> Path:
    (folder / name).write_text(text)
    return folder / name


def test_a_run_and_what_it_leaves(tmp_path: Path, runs: Path, capsys: pytest.CaptureFixture[str]) -> None:
    code, found = answer(capsys, "run", written(tmp_path), "--seed", 7)
    assert code == 0
    assert found["valid"] is True
    (row,) = found["results"]
    assert (row["id"], row["published"], row["use"], row["verdict"]) == ("E99", 9.0, None, "compared")
    assert row["ours"] > 0
    folder = Path(found["folder"])
    assert folder.name.endswith("-7")
    assert (runs / "latest").resolve() == folder.resolve()
    names = {"manifest.json", "results.json", "events.jsonl", "ops.parquet", "trace.json", "report.html"}
    assert {path.name for path in folder.iterdir()} == names
    table = pq.read_table(folder / "ops.parquet").to_pydict()
    assert len(table["posted_ps"]) == 60
    parts = [sum(table[f"{name}_ps"][0] for name in ("issue", "wire", "ack")) <= table["done_ps"][0]]
    assert all(parts)
    trace = json.loads((folder / "trace.json").read_text())
    whole = [event for event in trace["traceEvents"] if event["ph"] == "X" and "args" in event]
    assert len(whole) == 60
    html = (folder / "report.html").read_text()
    assert "E99" in html
    assert html.count("<svg") == 2  # a curve, and the timeline
    assert "http://" not in html.replace("http://www.w3.org", "")
    assert "--seed 7" in json.loads((folder / "manifest.json").read_text())["reproduce"]


def test_same_seed_same_bytes_other_seed_other_bytes(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    file = written(tmp_path)
    folders = [Path(answer(capsys, "run", file, "--seed", seed)[1]["folder"]) for seed in (3, 3, 4)]
    for name in ("results.json", "events.jsonl"):
        first, second, other = ((folder / name).read_bytes() for folder in folders)
        assert first == second
        assert first != other
    assert answer(capsys, "replay", folders[0])[0] == 0
    assert answer(capsys, "compare", folders[0], folders[1])[0] == 0
    code, found = answer(capsys, "compare", folders[0], folders[2])
    assert code == 1
    assert found["results"]
    assert exp("compare", folders[0], folders[2], "--tolerance", 1000) == 0


def test_a_replay_that_differs_is_not_called_the_same(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    folder = Path(answer(capsys, "run", written(tmp_path))[1]["folder"])
    results = folder / "results.json"
    results.write_text(results.read_text().replace('"seed": 1', '"seed": 2'))
    assert answer(capsys, "replay", folder)[0] == 1


def test_a_failure_ends_with_the_line_to_paste(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    file = written(tmp_path, EXPERIMENT + "checks: [{quantity: mean_us, reduce: max, max: 0.001}]\n")
    assert exp("run", file, "--set", "workload.operations=10") == 1
    last = capsys.readouterr().out.strip().splitlines()[-1]
    assert last == f"reproduce: unimem exp run {file} --seed 1 --set workload.operations=10"


def test_what_could_not_be_measured_is_neither_good_nor_bad(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    text = "version: 1\nname: far\nsystem: {nodes: 2}\nworkload: {type: transfer, hops: 5}\n"
    code, found = answer(capsys, "run", written(tmp_path, text))
    assert code == 2
    assert found["valid"] is False
    assert "no node is 5 hops from n0" in found["experiments"][0]["error"]


def test_what_is_no_experiment_could_not_run(
    tmp_path: Path, runs: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    code, found = answer(capsys, "run", written(tmp_path, "version: 1\nname: x\n"))
    assert code == 3
    assert "workload: is missing" in found["error"]["message"]
    assert not runs.exists()
    assert exp("run", written(tmp_path), "--seeds", "9..1") == 3
    assert exp("show", tmp_path) == 3
    assert exp("replay", tmp_path) == 3


def test_many_seeds(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    file = written(tmp_path, EXPERIMENT + "checks: [{quantity: operations, reduce: max, max: 9}]\n")
    code, found = answer(capsys, "run", file, "--seeds", "4..6", "--set", "workload.operations=9")
    assert code == 0
    assert [run["seed"] for run in found["runs"]] == [4, 5, 6]
    assert len(found["results"]) == 3
    assert exp("run", file, "--seeds", "4,5") == 1
    out = capsys.readouterr().out
    assert "0 of 2 seeds passed" in out
    assert f"reproduce: unimem exp run {file} --seed 5" in out


def test_repetitions_are_averaged(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    def mean(*more: object) -> float:
        found = answer(capsys, "run", written(tmp_path), "--set", "sweep.workload.reads=[0.2]", *more)[1]
        return float(found["results"][0]["ours"])

    assert mean() != mean("--set", "run.repeat=3")


def test_schema_and_show(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert exp("schema") == 0
    schema = json.loads(capsys.readouterr().out)
    assert {"Experiment", "Suite", "Loss", "TransferWorkload"} <= schema["$defs"].keys()
    code, found = answer(capsys, "show", written(tmp_path))
    assert code == 0
    assert found["experiments"][0]["workload"]["operations"] == 30
    assert exp("run", written(tmp_path)) == 0
    capsys.readouterr()
    assert exp("show") == 0
    assert "E99" in capsys.readouterr().out
