"""`docs/compliance.md` from test results: what of the chip the model has, lacks, and does otherwise.

``docs/compliance.toml`` lists the features and, for each, the tests that show it (prefixes of pytest node
IDs, below ``tests/``). A run with ``--compliance write`` writes the document from the outcomes;
``--compliance check`` fails when a listed test did not pass, when a prefix matches no test, or when the
committed document is not the one this run gives. So a claim without a passing test cannot stand.
"""

from __future__ import annotations

import tomllib
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

ROOT: Final = Path(__file__).resolve().parents[2]
FEATURES: Final = ROOT / "docs" / "compliance.toml"
DOCUMENT: Final = ROOT / "docs" / "compliance.md"

#: A feature is had (shown by tests), done otherwise than the specification says (shown too), or lacking.
STATES: Final = ("has", "deviates", "lacks")


@dataclass(frozen=True, slots=True)
class Feature:
    """One line of the document. `tests` are prefixes of node IDs; a lacking feature may have none."""

    area: str
    name: str
    source: str
    state: str
    note: str
    tests: tuple[str, ...]


class BadFeature(ValueError):  # noqa: N818 - says what is bad
    """A row of compliance.toml does not make sense."""


def load(text: str) -> list[Feature]:
    """The features, in their order; raises `BadFeature`."""
    features = []
    for row in tomllib.loads(text)["feature"]:
        unknown = set(row) - {"area", "name", "source", "state", "note", "tests"}
        feature = Feature(
            row["area"],
            row["name"],
            row["source"],
            row["state"],
            row.get("note", ""),
            tuple(row.get("tests", ())),
        )
        where = f"{feature.area}: {feature.name}"
        if unknown or feature.state not in STATES:
            raise BadFeature(f"{where}: unknown {sorted(unknown) or feature.state!r}")
        if feature.state != "lacks" and not feature.tests:
            raise BadFeature(f"{where}: a feature that is {feature.state!r} needs tests that show it")
        if feature.state != "has" and not feature.note:
            raise BadFeature(f"{where}: say in `note` what is missing or other, and why")
        features.append(feature)
    return features


def belongs(node_id: str, prefix: str) -> bool:
    """Whether a prefix names this test: a file, a function, a class, or one case of a function."""
    path = node_id.removeprefix("tests/")
    return path == prefix or path.startswith((f"{prefix}::", f"{prefix}["))


def judge(features: Iterable[Feature], outcomes: Mapping[str, str]) -> tuple[str, list[str]]:
    """(document, what is wrong) for the outcomes (``passed``, ``failed``, ``skipped``) by node ID."""
    wrong: list[str] = []
    lines = [
        "# Compliance",
        "",
        "What of the MMU-500, of VMSAv8-64 and of the DMA engines this model has, does otherwise, or lacks.",
        "Generated from test results by `make compliance` (`docs/compliance.toml` names the tests):",
        "a feature stands as *has* because its tests passed.",
    ]
    area = ""
    for feature in features:
        passed = 0
        for prefix in feature.tests:
            found = [node_id for node_id in outcomes if belongs(node_id, prefix)]
            if not found:
                wrong.append(f"{feature.name}: no test is called {prefix}")
            failed = [node_id for node_id in found if outcomes[node_id] == "failed"]
            wrong += [f"{feature.name}: {node_id} failed" for node_id in failed]
            passed += sum(outcomes[node_id] == "passed" for node_id in found)
            if found and not any(outcomes[node_id] == "passed" for node_id in found):
                wrong.append(f"{feature.name}: nothing of {prefix} was run")
        if feature.area != area:
            area = feature.area
            lines += ["", f"## {area}", "", "| feature | source | state | tests | |", "|---|---|---|---|---|"]
        shown = ", ".join(f"`{prefix}`" for prefix in feature.tests) or "–"
        count = f"{passed}: {shown}" if feature.tests else shown
        cells = (feature.name, feature.source, f"**{feature.state}**", count, feature.note)
        lines.append(f"| {' | '.join(cells)} |")
    return "\n".join(lines) + "\n", wrong


class Recorder:
    """The pytest plugin: keeps the outcome of each test, judges at the end."""

    def __init__(self, write: bool) -> None:
        self.write = write
        self.outcomes: dict[str, str] = {}
        self.wrong: list[str] = []

    def pytest_runtest_logreport(self, report: Any) -> None:
        """A test fails when any of its phases does; one that was skipped shows nothing."""
        before = self.outcomes.get(report.nodeid)
        if report.failed:
            self.outcomes[report.nodeid] = "failed"
        elif report.skipped and before is None:
            self.outcomes[report.nodeid] = "skipped"
        elif report.when == "call" and before is None:
            self.outcomes[report.nodeid] = "passed"

    def pytest_sessionfinish(self, session: Any) -> None:
        """Write or compare the document; a difference fails the run."""
        document, self.wrong = judge(load(FEATURES.read_text()), self.outcomes)
        if self.write and not self.wrong:
            DOCUMENT.write_text(document)
        elif not self.wrong and (not DOCUMENT.exists() or DOCUMENT.read_text() != document):
            self.wrong.append("docs/compliance.md is not what this run says: make compliance, and commit it")
        if self.wrong and session.exitstatus == 0:
            session.exitstatus = 1

    def pytest_terminal_summary(self, terminalreporter: Any) -> None:
        """Say what is wrong."""
        for line in self.wrong:
            terminalreporter.write_line(f"compliance: {line}", red=True)
