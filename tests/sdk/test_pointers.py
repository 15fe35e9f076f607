"""`unimem.pointers`."""

from __future__ import annotations

import copy
import doctest
import pickle

import pytest
from hypothesis import given
from hypothesis import strategies as st

from unimem import GlobalPtr, OutOfBounds, UsageError, pointers

BASE = 0x20_0000_3000


def ptr(at: int = 0, length: int = 256) -> GlobalPtr:
    return GlobalPtr(BASE + at, base=BASE, length=length, node="n1")


@given(st.integers(0, 256), st.integers(-400, 400))
def test_arithmetic_is_that_of_integers_within_the_bounds(at: int, n: int) -> None:
    p = ptr(at)
    if 0 <= at + n <= 256:
        q = p + n
        assert int(q) == int(p) + n
        assert (q.base, q.end, q.node) == (p.base, p.end, "n1")
        assert q - p == n
        assert q - n == p
        assert n + p == q
    else:
        with pytest.raises(OutOfBounds, match="leaves the region"):
            p + n


def test_frozen_hashable_ordered() -> None:
    p = ptr()
    with pytest.raises(AttributeError, match="frozen"):
        p.gva = 0
    with pytest.raises(AttributeError, match="frozen"):
        del p.gva
    assert {p: 1}[ptr()] == 1
    assert p != ptr(8)
    assert p != BASE
    assert sorted([ptr(8), ptr(0)]) == [ptr(0), ptr(8)]
    assert p < ptr(8) and ptr(8) > p and p <= ptr() and p >= ptr()  # noqa: PT018
    assert hex(p) == hex(BASE)
    assert not hasattr(p, "__dict__")
    assert pickle.loads(pickle.dumps(ptr(8))) == ptr(8)
    assert copy.deepcopy(ptr(8)) == ptr(8)


def test_access_is_checked_against_the_end() -> None:
    assert ptr(248).check(8, "put") == BASE + 248
    with pytest.raises(OutOfBounds, match="only 8 are left") as caught:
        ptr(248).check(9, "put")
    assert caught.value.op == "put"
    assert caught.value.gva == BASE + 248
    assert ptr(248).left == 8
    assert ptr(248).length == 256


@pytest.mark.parametrize("gva", [-1, 0, (1 << 36) - 1, 1 << 48, 1 << 70])
def test_what_is_no_global_address(gva: int) -> None:
    with pytest.raises(UsageError) as caught:
        GlobalPtr(gva)
    assert caught.value.reason == "BAD_ADDRESS"


def test_a_bare_pointer_ends_with_its_window_and_bounds_must_fit() -> None:
    assert GlobalPtr(BASE).end == 0x30_0000_0000
    with pytest.raises(OutOfBounds, match="outside"):
        GlobalPtr(BASE - 1, base=BASE, length=8)
    with pytest.raises(UsageError, match="run past the end"):
        GlobalPtr((1 << 48) - 8, base=(1 << 48) - 8, length=9)


def test_examples() -> None:
    assert doctest.testmod(pointers).failed == 0
