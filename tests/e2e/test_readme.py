"""The README's Python examples, as they stand, against a cluster of processes on the port they name."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

from unimem_lab import ProcessCluster

BLOCKS = re.findall(
    r"```python\n(.*?)```", (Path(__file__).resolve().parents[2] / "README.md").read_text(), re.S
)


def run(block: str) -> None:
    exec(compile(block, "README.md", "exec"), {})


def test_there_are_four_examples() -> None:
    assert len(BLOCKS) == 4


@pytest.mark.timeout(180)
def test_the_client_example(capsys: pytest.CaptureFixture[str]) -> None:
    with ProcessCluster(nodes=4, port=7400):
        run(BLOCKS[0])
    printed = capsys.readouterr().out
    assert "target_translate" in printed
    assert "0x10_dead_0000" in printed


def test_the_simulation_example() -> None:
    run(BLOCKS[1])


def test_the_paging_example(capsys: pytest.CaptureFixture[str]) -> None:
    run(BLOCKS[2])
    assert "page faults of DMA" in capsys.readouterr().out


def test_the_bare_metal_example(capsys: pytest.CaptureFixture[str]) -> None:
    run(BLOCKS[3])
    assert capsys.readouterr().out.splitlines() == ["0xfc013e30", "[]"]
