"""Experiments: a file says the machine, the traffic, what goes wrong, and what must come out.

`load_plan` reads files, `run_plan` runs them; the `unimem exp` commands are `unimem_lab.cli.exp`. A Python
file of an experiment has a function `build()` that returns an `Experiment`. Guide: `docs/experiments.md`.
"""

from unimem_lab.experiments.schema import Experiment, Suite

__all__ = ["Experiment", "Suite"]
