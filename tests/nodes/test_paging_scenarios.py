"""Page faults of remote DMA over time: scenario files, on the compiled paths and on the readable ones."""

from __future__ import annotations

from pathlib import Path

import pytest

from support.datadriven import run_file, scenario_files
from support.fault_machine import FaultMachine


@pytest.mark.parametrize("fast", [True, False], ids=["fast", "readable"])
@pytest.mark.parametrize("path", scenario_files("paging_*.txt"), ids=lambda path: path.stem)
def test_scenario(path: Path, fast: bool) -> None:
    run_file(path, FaultMachine(fast=fast).handle)
