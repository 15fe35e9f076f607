"""The generator of docs/compliance.md refuses claims that no passing test shows."""

from __future__ import annotations

import pytest

from support.compliance import FEATURES, BadFeature, belongs, judge, load

ROW = """
[[feature]]
area = "A"
name = "blocks"
source = "DDI0487 D8"
state = "has"
tests = ["nodes/test_x.py::test_blocks"]
"""
NODE = "tests/nodes/test_x.py::test_blocks"


def test_a_passing_test_makes_a_line() -> None:
    document, wrong = judge(load(ROW), {NODE: "passed", f"{NODE}[a]": "passed", f"{NODE}_too": "failed"})
    assert wrong == []
    assert "| blocks | DDI0487 D8 | **has** | 2: `nodes/test_x.py::test_blocks` |  |" in document


@pytest.mark.parametrize(
    ("outcomes", "complaint"),
    [({}, "no test is called"), ({NODE: "failed"}, "failed"), ({NODE: "skipped"}, "was run")],
)
def test_a_claim_without_a_passing_test_is_refused(outcomes: dict[str, str], complaint: str) -> None:
    _, wrong = judge(load(ROW), outcomes)
    assert any(complaint in line for line in wrong)


@pytest.mark.parametrize(
    ("change", "complaint"),
    [
        (('state = "has"', 'state = "partly"'), "partly"),
        (('tests = ["nodes/test_x.py::test_blocks"]', ""), "needs tests"),
        (('state = "has"', 'state = "lacks"'), "say in `note`"),
        (('source = "DDI0487 D8"', 'source = ""\nsorce = ""'), "sorce"),
    ],
)
def test_a_row_that_makes_no_sense_is_refused(change: tuple[str, str], complaint: str) -> None:
    with pytest.raises(BadFeature, match=complaint):
        load(ROW.replace(*change))


def test_a_prefix_is_a_whole_name() -> None:
    assert belongs("tests/a/test_b.py::test_c[1]", "a/test_b.py::test_c")
    assert belongs("tests/a/test_b.py::test_c", "a/test_b.py")
    assert not belongs("tests/a/test_b.py::test_cd", "a/test_b.py::test_c")
    assert not belongs("tests/a/test_bb.py::test_c", "a/test_b.py")


def test_the_list_of_features_can_be_read() -> None:
    assert len(load(FEATURES.read_text())) > 40
