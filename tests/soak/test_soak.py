"""Random operations over a bad network and moving pages: nothing acknowledged is lost, nothing done twice."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable

import numpy as np
import pytest

from unimem_lab.soak import Soak, SoakPlan, SoakReport
from unimem_lab.soak_grounds import ProcessGrounds, SimGrounds
from unimem_node.fabric import _fast_columns as col
from unimem_node.fabric._fast_tables import settle
from unimem_node.fabric.answers import Answers
from unimem_node.fabric.target import Target
from unimem_node.kernel.paging import Paging

SEEDS = 200
GROUP = 10
PLAN = SoakPlan(operations=60)


def failures(report: SoakReport) -> list[str]:
    """What was wrong, as lines to paste."""
    return [f"seed {report.seed}: {line}" for line in report.wrong]


def simulated(seed: int, *, fast: bool) -> tuple[SoakReport, dict[str, int]]:
    """One run; and what the network did."""
    with SimGrounds(seed, fast=fast) as grounds:
        report = Soak(grounds, seed, PLAN).run()
        return report, grounds.spoilt


@pytest.mark.parametrize("first", range(0, SEEDS, GROUP))
def test_what_was_acknowledged_is_there_and_nothing_else(first: int) -> None:
    wrong: list[str] = []
    ended: Counter[str] = Counter()
    disturbed: Counter[str] = Counter()
    spoilt: Counter[str] = Counter()
    for seed in range(first, first + GROUP):
        report, network = simulated(seed, fast=seed % 8 != 7)
        wrong += failures(report)
        ended.update(report.operations)
        disturbed.update(report.disturbances)
        spoilt.update(network)
    assert wrong == []
    assert min(spoilt[kind] for kind in ("loss", "duplicate", "reorder", "corrupt")) > GROUP
    assert disturbed.keys() >= {"pause", "unmap", "PAGEOUT", "MIGRATE", "COLLAPSE"}
    assert sum(n for name, n in ended.items() if name.endswith(" ok")) > 0.8 * ended.total()


def _executes_twice(monkeypatch: pytest.MonkeyPatch) -> None:
    """A target that does not recognise duplicates."""
    monkeypatch.setattr("unimem_node.fabric.target.due", lambda state, peer, seq: True)


def _acknowledges_first(monkeypatch: pytest.MonkeyPatch) -> None:
    """A source that takes PAGE_PENDING for an acknowledgement."""

    def come_again(self: Answers, row: int, refusal: object) -> None:
        settle(self.core.state, row, int(self.core.state.flight[row, col.F_LENGTH]))

    monkeypatch.setattr(Answers, "_come_again", come_again)


def _trusts(monkeypatch: pytest.MonkeyPatch) -> None:
    """A target that does not look at the CRC."""
    monkeypatch.setattr(Target, "trusted", lambda self, peer, frame, number: True)


def _forgets(monkeypatch: pytest.MonkeyPatch) -> None:
    """A kernel that does not invalidate the SMMU's TLBs."""
    real = Paging.__init__

    def forgetful(self: Paging, *args: object, **kwargs: object) -> None:
        real(self, *args, **kwargs)  # type: ignore[arg-type]
        self.forget_invalidations = True

    monkeypatch.setattr(Paging, "__init__", forgetful)


@pytest.mark.parametrize("mistake", [_executes_twice, _acknowledges_first, _trusts, _forgets])
def test_the_soak_finds_mistakes(
    monkeypatch: pytest.MonkeyPatch, mistake: Callable[[pytest.MonkeyPatch], None]
) -> None:
    mistake(monkeypatch)
    for seed in range(12):
        with np.errstate(all="ignore"):
            report, _ = simulated(seed, fast=False)
        if report.wrong:
            return
    pytest.fail("twelve runs, and nothing was noticed")


@pytest.mark.parametrize("transport", ["tcp", "shm"])
def test_the_same_over_processes(transport: str) -> None:
    with ProcessGrounds(7, transport=transport) as grounds:
        for seed in range(3):
            report = Soak(grounds, seed, PLAN).run()
            assert failures(report) == []
            assert report.succeeded > 0.8 * sum(report.operations.values())
