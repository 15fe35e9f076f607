"""What every test shares: quiet compilation, reproducible Hypothesis runs."""

from __future__ import annotations

import os

import pytest
from hypothesis import HealthCheck, settings

os.environ.setdefault("UNIMEM_QUIET", "1")

# Examples are drawn from a fixed seed: a failure in CI is a failure here. No deadline: machines differ.
settings.register_profile(
    "unimem", derandomize=True, deadline=None, suppress_health_check=[HealthCheck.too_slow], print_blob=True
)
settings.load_profile("unimem")


def pytest_addoption(parser: pytest.Parser) -> None:
    parser.addoption(
        "--compliance",
        choices=["check", "write"],
        help="compare docs/compliance.md with the outcomes of this run (of the whole suite), or write it",
    )


def pytest_configure(config: pytest.Config) -> None:
    mode = config.getoption("--compliance")
    if mode:
        from support.compliance import Recorder

        config.pluginmanager.register(Recorder(write=mode == "write"), "compliance")
