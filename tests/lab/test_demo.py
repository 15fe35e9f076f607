"""The demo as a user runs it: what it proves, what it writes, and that it can fail."""

from __future__ import annotations

import dataclasses
import hashlib
import json
from pathlib import Path

import pytest

import unimem
from unimem_lab.demo import Demo, run_demo, show_demo


@pytest.fixture(autouse=True)
def runs(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("UNIMEM_RUNS", str(tmp_path / "runs"))
    return tmp_path / "runs"


def demo(file: Path | None = None, seed: int = 3) -> Demo:
    return run_demo(file=file, nodes=3, seed=seed, platform="zynqmp", topology="ring")


def test_a_file_of_the_users(tmp_path: Path, runs: Path, capsys: pytest.CaptureFixture[str]) -> None:
    file = tmp_path / "payload.bin"
    file.write_bytes(b"some bytes " * 5000)
    done = demo(file)
    assert done.ok
    assert done.sha256_got == hashlib.sha256(file.read_bytes()).hexdigest()
    assert done.way == ["n0", "n1", "n2", "n0"]
    assert [row.scenario for row in done.scenarios[:3]] == ["E1", "E2", "E3"]
    e3 = done.scenarios[2]
    assert e3.mapped_before == 0
    assert e3.delta("walks") > 0
    assert [r.error for r in done.refusals] == ["TranslationFault", "PermissionFault", "TranslationFault"]
    assert all("FSR 0x4" in r.syndrome for r in done.refusals)
    html = (runs / "latest" / "report.html").read_text()
    assert done.sha256_got in html
    assert json.loads((runs / "latest" / "results.json").read_text())["ok"]
    show_demo(done)
    assert "Everything is as it must be" in capsys.readouterr().out


def test_same_seed_same_events_byte_for_byte() -> None:
    first, second, other = (demo(seed=seed).folder for seed in (5, 5, 6))
    assert (first / "events.jsonl").read_bytes() == (second / "events.jsonl").read_bytes()
    assert first != second
    assert (
        json.loads((other / "results.json").read_text())["file"]
        != json.loads((first / "results.json").read_text())["file"]
    )


def test_what_went_wrong_is_not_called_right(capsys: pytest.CaptureFixture[str]) -> None:
    done = demo()
    for change in (
        {"sha256_got": "0" * 64},
        {"refusals": done.refusals[:2]},
        {"scenarios": [dataclasses.replace(done.scenarios[0], ok=False)]},
    ):
        assert not dataclasses.replace(done, **change).ok  # type: ignore[arg-type]
    show_demo(dataclasses.replace(done, sha256_got="0" * 64))
    assert "NOT everything" in capsys.readouterr().out


def test_files_that_cannot_be_moved(tmp_path: Path, runs: Path) -> None:
    with pytest.raises(FileNotFoundError):
        demo(tmp_path / "nosuch")
    (tmp_path / "empty").touch()
    with pytest.raises(unimem.UsageError, match="empty"):
        demo(tmp_path / "empty")
    assert not runs.exists()
