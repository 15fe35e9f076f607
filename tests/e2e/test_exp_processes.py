"""Experiments on real processes: the same files, the real transports, every byte checked."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from unimem_lab import ProcessCluster
from unimem_lab.cli.app import app


@pytest.fixture(scope="module")
def cluster() -> Iterator[ProcessCluster]:
    with ProcessCluster(nodes=2) as running:
        yield running


@pytest.mark.parametrize(
    "workload",
    [
        {"type": "put_get", "operations": 60, "bytes": "4K"},
        {"type": "flows", "flows": 6, "puts": 3, "bytes": "4K"},
        {"type": "transfer", "bytes": "64K"},
    ],
    ids=lambda workload: str(workload["type"]),
)
def test_a_workload_on_a_cluster_that_runs(
    cluster: ProcessCluster,
    workload: dict[str, Any],
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    monkeypatch.setenv("UNIMEM_RUNS", str(tmp_path / "runs"))
    file = tmp_path / "x.yaml"
    file.write_text(json.dumps({"version": 1, "name": "x", "workload": workload}))
    code = app(["exp", "run", str(file), "--on", cluster.address, "--json"], standalone_mode=False)
    found = json.loads(capsys.readouterr().out)
    assert (code or 0) == 0
    assert found["valid"] is True
    assert f"--on {cluster.address}" in found["reproduce"]


def test_more_nodes_than_there_are(
    cluster: ProcessCluster,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    monkeypatch.setenv("UNIMEM_RUNS", str(tmp_path / "runs"))
    file = tmp_path / "x.yaml"
    file.write_text("version: 1\nname: x\nsystem: {nodes: 9}\nworkload: {type: put_get}\n")
    assert app(["exp", "run", str(file), "--on", cluster.address], standalone_mode=False) == 2
    assert "has 2 nodes that are up, not 9" in capsys.readouterr().out
