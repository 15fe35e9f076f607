from __future__ import annotations

import numpy as np
import pytest

from unimem.wire import COMPLETION, WORK_REQUEST
from unimem_node.service.rows import at, by_value, copied, joined, picked


def rows(n: int, dtype: np.dtype = COMPLETION) -> np.ndarray:
    made = np.zeros(n, dtype)
    made["wr_id"] = np.arange(n)
    made["pdid"] = 7
    return made


@pytest.mark.parametrize("n", [1, 5, 1000])
@pytest.mark.parametrize("dtype", [WORK_REQUEST, COMPLETION])
def test_copies_are_equal_writable_and_apart(n: int, dtype: np.dtype) -> None:
    original = rows(n, dtype)
    original.flags.writeable = False
    copy = copied(original)
    assert (copy == original).all()
    copy["wr_id"] = 99
    assert original["wr_id"].tolist() == list(range(n))
    order = np.arange(n)[::-1]
    assert picked(original, order)["wr_id"].tolist() == order.tolist()


def test_joined() -> None:
    one, other = rows(3), rows(2)
    assert joined([one]) is one
    both = joined([one, other])
    assert both["wr_id"].tolist() == [0, 1, 2, 0, 1]
    assert both["pdid"].tolist() == [7] * 5


@pytest.mark.parametrize("keys", [[3], [3, 3, 3], [1, 1, 2, 1], [5, 4], list(range(40)) * 3, [1, 2] * 30])
def test_by_value_finds_every_row_once_and_keeps_the_order_of_each_key(keys: list[int]) -> None:
    array = np.array(keys, np.int64)
    some = rows(len(keys))
    found: dict[int, list[int]] = {}
    for key, where in by_value(array):
        assert (array[where] == key).all()
        found.setdefault(key, []).extend(at(some, where)["wr_id"].tolist())
    assert found == {key: [i for i, k in enumerate(keys) if k == key] for key in set(keys)}
