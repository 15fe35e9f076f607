"""Where runs go: `runs/<name>/<UTC>-<seed>/` in the current directory, or below `UNIMEM_RUNS`."""

from __future__ import annotations

import os
from datetime import UTC, datetime
from pathlib import Path


def runs_dir() -> Path:
    """The folder of all runs."""
    return Path(os.environ.get("UNIMEM_RUNS") or "runs")


def new_run(name: str, seed: int) -> Path:
    """A new, empty folder for one run."""
    stamp = datetime.now(UTC).strftime("%Y%m%dT%H%M%SZ")
    for attempt in range(1000):
        folder = runs_dir() / name / (f"{stamp}-{seed}" + (f".{attempt}" if attempt else ""))
        try:
            folder.mkdir(parents=True)
        except FileExistsError:
            continue
        return folder
    raise OSError(f"{runs_dir() / name} has a thousand runs of this second")
