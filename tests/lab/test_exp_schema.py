"""Experiment files: what they may say; what is wrong with one is said with its place and the way out."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from unimem_lab.experiments.loading import ExperimentError, from_dict, load_plan
from unimem_lab.experiments.schema import Experiment, with_values
from unimem_lab.experiments.values import parse_size, parse_time

ROOT = Path(__file__).parents[2]
PLAIN: dict[str, Any] = {"version": 1, "name": "x", "workload": {"type": "transfer"}}


def written(folder: Path, text: str, name: str = "x.yaml") -> Path:
    file = folder / name
    file.write_text(text)
    return file


def complaint(file: Path, *settings: str, on: str = "sim") -> str:
    with pytest.raises(ExperimentError) as caught:
        load_plan(file, settings, on=on)
    return str(caught.value)


def test_every_wrong_thing_is_named_with_its_line_and_the_way_out(tmp_path: Path) -> None:
    said = complaint(
        written(
            tmp_path,
            "version: 1\n"
            "name: x\n"
            "system:\n"
            "  nodes: true\n"
            "  topologi: ring\n"
            "workload: {type: transfer, bytes: 4 cows}\n"
            "faults:\n"
            "  - {type: poison}\n"
            "  - {type: loss, p: 2}\n"
            "checks:\n"
            "  - {quantity: failed}\n",
        )
    ).splitlines()
    file = tmp_path / "x.yaml"
    assert len(said) == 6
    assert said[0].startswith(f"{file}:4: system.nodes: input should be a valid integer (found True)")
    assert said[1].startswith(f"{file}:5: system.topologi: no such key; did you mean topology? there are")
    assert (
        said[2]
        == f"{file}:6: workload.bytes: '4 cows' is no size: write bytes, or 64K, 4M, 1G (found '4 cows')"
    )
    assert said[3].startswith(
        f"{file}:8: faults.0: type 'poison' is not known here; there are loss, duplicate"
    )
    assert said[4].startswith(f"{file}:9: faults.1.p: input should be less than or equal to 1")
    assert said[5] == f"{file}:11: checks.0: a check needs min, max, equals or order"


@pytest.mark.parametrize(
    ("change", "wanted"),
    [
        ({"version": 2}, "version: input should be 1"),
        ({"name": "a b"}, "name: string should match pattern"),
        ({"system": {"topology": "star"}}, "topology 'star' is unknown; there are full, pair"),
        ({"system": {"policy": "hope"}}, "there is no fault policy 'hope'"),
        ({"system": {"platform": "z80"}}, "there is no platform 'z80'; there are"),
        ({"system": {"parameters": {"kernel.nope": 1}}}, "has no 'nope' there; there are call_ps"),
        ({"system": {"parameters": {"pl.masters.ni.slots": 0}}}, "pl.masters.1.rdma"),
        ({"workload": {"type": "transfr"}}, "did you mean transfer?"),
        ({"workload": {}}, "workload: type is missing; there are"),
        ({"run": {"duration": 5}}, "run.duration: 5 is no time: write a number with ps"),
        ({"faults": [{"type": "loss", "target": "n7"}]}, "target 'n7' is no node; there are n0 to n1"),
        ({"faults": [{"type": "pause", "target": "n0"}]}, "pause needs `for`"),
        ({"faults": [{"type": "hold"}]}, "hold needs `for`"),
        ({"faults": [{"type": "crash", "target": "n0->n1"}]}, "is a link; this fault strikes a node"),
        ({"faults": [{"type": "loss", "at": "1us", "after": 3}]}, "at and after both say"),
        ({"faults": [{"type": "crash", "target": "minority"}]}, "2 nodes have no minority"),
        ({"faults": [{"type": "loss", "when": "if it rains"}]}, "is no condition"),
        (
            {"faults": [{"type": "loss", "within": "1us"}]},
            "no such key; did you mean when? there are after, at, every, for",
        ),
        ({"sweep": {"workload.bytez": [1]}}, "did you mean bytes?"),
        ({"sweep": {"faults.storm.p": [1]}}, "there is no 'storm' there"),
        ({"sweep": {"workload.bytes": []}}, "at least 1 item"),
        (
            {"published": [{"id": "E1", "what": "x", "quantity": "q", "value": 1.0, "use": "calibrated"}]},
            "published.0.source: is missing",
        ),
        ({"checks": [{"quantity": "q", "reduce": "half_point", "max": 1}]}, "along names the swept key"),
    ],
)
def test_what_is_refused(change: dict[str, Any], wanted: str) -> None:
    with pytest.raises(ExperimentError) as caught:
        from_dict({**PLAIN, **change})
    assert wanted in str(caught.value)


@pytest.mark.parametrize(
    ("text", "wanted"),
    [
        ("name: x\nname: y\n", ":2: name: here for the second time; the first is in line 1"),
        ("- 1\n", "an experiment is a mapping of keys"),
        ("name: [", "not YAML"),
        ("{}", "workload: is missing"),
        ("version: 1\nname: s\ninclude: [none.yaml]\n", ":3: include: there is no file"),
    ],
)
def test_files_that_are_none(tmp_path: Path, text: str, wanted: str) -> None:
    assert wanted in complaint(written(tmp_path, text))


def test_a_file_of_another_kind(tmp_path: Path) -> None:
    assert "a .yaml file, or a .py file" in complaint(written(tmp_path, "x", "x.txt"))
    with pytest.raises(OSError, match="nowhere"):
        load_plan(tmp_path / "nowhere.yaml")


def test_settings_of_the_command_line(tmp_path: Path) -> None:
    file = written(tmp_path, json.dumps(PLAIN))
    (experiment,) = load_plan(file, ("workload.bytes=4K", "system.nodes=3")).experiments
    assert experiment.workload.bytes == 4096
    assert experiment.system.nodes == 3
    assert "--set workload.bytes: write key=value" in complaint(file, "workload.bytes")
    assert "did you mean bytes?" in complaint(file, "workload.byte=1")


def test_processes_take_only_what_the_sdk_can_do(tmp_path: Path) -> None:
    scenario = {**PLAIN, "workload": {"type": "scenario", "id": "E1"}}
    faults = {**PLAIN, "faults": [{"type": "loss", "p": 0.1}]}
    paths = {**PLAIN, "system": {"parameters": {"kernel.irq_ps": 1}}}
    assert "reaches into the simulation" in complaint(written(tmp_path, json.dumps(scenario)), on="processes")
    assert "simulated clusters only" in complaint(written(tmp_path, json.dumps(faults)), on="processes")
    assert "system.parameters cannot be chosen" in complaint(
        written(tmp_path, json.dumps(paths)), on="processes"
    )
    assert "--on mars: write sim, processes, or a" in complaint(
        written(tmp_path, json.dumps(PLAIN)), on="mars"
    )


def test_an_experiment_built_by_python(tmp_path: Path) -> None:
    file = written(
        tmp_path,
        "from unimem_lab.experiments import Experiment\n"
        "def build():\n"
        "    return Experiment(name='built', workload={'type': 'transfer', 'bytes': '2K'},\n"
        "                      sweep={'workload.hops': [1]}, system={'nodes': 2})\n",
        "built.py",
    )
    (experiment,) = load_plan(file).experiments
    assert experiment.name == "built"
    assert experiment.workload.bytes == 2048
    assert "has no build()" in complaint(written(tmp_path, "x = 1\n", "none.py"))
    assert "build() failed: ZeroDivisionError" in complaint(
        written(tmp_path, "def build(): 1 / 0\n", "bad.py")
    )
    assert "returned a int, not an Experiment" in complaint(
        written(tmp_path, "def build(): return 1\n", "int.py")
    )


def test_points_of_a_sweep_are_all_combinations() -> None:
    experiment = from_dict(
        {**PLAIN, "sweep": {"workload.bytes": ["1K", 8], "system.topology": ["ring", "full"]}}
    )
    keys = [tuple(keys.values()) for keys, _ in experiment.points()]
    assert keys == [("1K", "ring"), ("1K", "full"), (8, "ring"), (8, "full")]


def test_what_is_dumped_reads_back_the_same() -> None:
    experiment = from_dict(
        {
            **PLAIN,
            "run": {"duration": "3ms"},
            "faults": [{"type": "delay", "target": "n0->n1", "by": "2us", "for": "1ms"}],
            "sweep": {"faults.0.by": ["1us", "5us"]},
        }
    )
    assert from_dict(json.loads(json.dumps(experiment.as_dict()))) == experiment
    assert experiment.run.duration == 3 * 10**9
    last = [Experiment.model_validate(plain) for _, plain in experiment.points()][-1]
    assert last.faults[0].by == 5 * 10**6


def test_sizes_and_times() -> None:
    assert [parse_size(text) for text in ("64", "0x10", "4K", "1MiB", "2G")] == [
        64,
        16,
        4096,
        1 << 20,
        2 << 30,
    ]
    assert [parse_time(text) for text in ("7ps", "1.5ns", "10 us", "2µs", "1s")] == [
        7,
        1500,
        10**7,
        2 * 10**6,
        10**12,
    ]


def test_values_by_dotted_key_leave_the_original_alone() -> None:
    before = {"a": [{"name": "x", "b": 1}]}
    assert with_values(before, {"a.x.b": 2, "c.d": 3}) == {"a": [{"name": "x", "b": 2}], "c": {"d": 3}}
    assert before == {"a": [{"name": "x", "b": 1}]}


@pytest.mark.parametrize("file", sorted((ROOT / "experiments").glob("*.yaml")), ids=lambda path: path.stem)
def test_our_own_files_are_valid(file: Path) -> None:
    assert load_plan(file).experiments


def test_the_suite_includes_every_experiment_with_published_figures() -> None:
    folder = ROOT / "experiments"
    published = {e.name for e in load_plan(folder / "published.yaml").experiments}
    for file in folder.glob("*.yaml"):
        if file.name != "published.yaml":
            (experiment,) = load_plan(file).experiments
            assert not experiment.published or experiment.name in published, file
