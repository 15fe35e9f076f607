"""Random operations over a bad network and moving pages: nothing acknowledged is lost, nothing done twice."""

from __future__ import annotations

import pytest

from unimem_lab.soak import Soak, SoakPlan, SoakReport
from unimem_lab.soak_grounds import ProcessGrounds, SimGrounds

SEEDS = 200
GROUP = 10
PLAN = SoakPlan(operations=60)


def failures(report: SoakReport) -> list[str]:
    """What was wrong, as lines to paste."""
    return [f"seed {report.seed}: {line}" for line in report.wrong]


@pytest.mark.parametrize("first", range(0, SEEDS, GROUP))
def test_what_was_acknowledged_is_there_and_nothing_else(first: int) -> None:
    wrong: list[str] = []
    succeeded = operations = disturbed = 0
    for seed in range(first, first + GROUP):
        with SimGrounds(seed, fast=seed % 8 != 7) as grounds:
            report = Soak(grounds, seed, PLAN).run()
            lost = grounds.cluster.fabric_counters()
        wrong += failures(report)
        succeeded += report.succeeded
        operations += sum(report.operations.values())
        disturbed += sum(report.disturbances.values())
        assert lost["loss"] and lost["corrupt"], "the network was not bad at all"
    assert wrong == []
    assert succeeded > 0.8 * operations, "most operations survive such a network"
    assert disturbed > GROUP


@pytest.mark.parametrize("transport", ["tcp", "shm"])
def test_the_same_over_processes(transport: str) -> None:
    with ProcessGrounds(7, transport=transport) as grounds:
        for seed in range(3):
            report = Soak(grounds, seed, PLAN).run()
            assert failures(report) == []
            assert report.succeeded > 0.8 * sum(report.operations.values())
