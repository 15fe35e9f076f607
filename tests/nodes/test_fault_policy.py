"""The text of a policy, and what it means."""

from __future__ import annotations

import pytest

from unimem_node.kernel.fault_policy import FaultPolicy


@pytest.mark.parametrize(
    ("text", "kind", "pages", "hupcf"),
    [
        ("abort", "abort", 1, False),
        ("touch_a_page", "touch_a_page", 1, False),
        ("touch_ahead", "touch_ahead", 16, False),
        ("touch_ahead:1024", "touch_ahead", 1024, False),
        (" Prefault ", "prefault", 1, False),
        ("pin", "pin", 1, False),
        ("stall", "stall", 1, False),
        ("stall:hupcf", "stall", 1, True),
    ],
)
def test_policies(text: str, kind: str, pages: int, hupcf: bool) -> None:
    policy = FaultPolicy.parse(text)
    assert (policy.kind, policy.pages, policy.hupcf) == (kind, pages, hupcf)
    assert FaultPolicy.parse(str(policy)) == policy
    assert policy.resolves == (kind != "abort")
    assert policy.stalls == (kind == "stall")


@pytest.mark.parametrize("text", ["", "touch", "abort:1", "pin:now", "stall:", "stall:8", "touch_a_page:"])
def test_what_is_none_is_refused_with_those_there_are(text: str) -> None:
    with pytest.raises(ValueError, match=r"no fault policy '.*': abort, touch_a_page, touch_ahead\[:pages\]"):
        FaultPolicy.parse(text)


@pytest.mark.parametrize("text", ["touch_ahead:", "touch_ahead:0", "touch_ahead:-3", "touch_ahead:65537"])
def test_pages_ahead_are_limited(text: str) -> None:
    with pytest.raises(ValueError, match="touches 1 to 65536 pages"):
        FaultPolicy.parse(text)
