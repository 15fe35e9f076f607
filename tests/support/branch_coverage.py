"""Fails when one of the packages that model the chip has less than 95 % of its branches covered.

``python tests/support/branch_coverage.py coverage.json`` after a run of pytest with ``--cov-report=json``.
The compiled paths are covered as Python: the run needs ``NUMBA_DISABLE_JIT=1``.
"""

from __future__ import annotations

import json
import sys
from pathlib import Path

PACKAGES = ("mmu", "smmu", "dma")
WANTED = 95.0


def main(report: str) -> int:
    """Print a line for each package; 1 when one is below the bound."""
    files = json.loads(Path(report).read_text())["files"]
    status = 0
    for package in PACKAGES:
        mine = {name: f for name, f in files.items() if f"unimem_node/{package}/" in name}
        covered = sum(f["summary"]["covered_branches"] for f in mine.values())
        branches = sum(f["summary"]["num_branches"] for f in mine.values())
        percent = 100 * covered / branches
        print(f"{package}: {covered} of {branches} branches, {percent:.1f} % (wanted {WANTED:g} %)")
        if percent < WANTED:
            status = 1
            for name, f in sorted(mine.items()):
                for start, end in f["missing_branches"]:
                    print(f"  {name}: {start} -> {end}")
    return status


if __name__ == "__main__":
    sys.exit(main(sys.argv[1]))
