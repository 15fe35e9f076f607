from __future__ import annotations

import random

import numpy as np
import pytest

from unimem.wire import COMPLETION, WORK_REQUEST
from unimem_node.service.ledger import Ledger


def wrs(ids: list[int]) -> np.ndarray:
    rows = np.zeros(len(ids), WORK_REQUEST)
    rows["wr_id"] = ids
    return rows


def completions(of: np.ndarray) -> np.ndarray:
    rows = np.zeros(len(of), COMPLETION)
    rows["wr_id"] = of
    return rows


def test_ids_are_the_posters_again_after_the_way_there_and_back() -> None:
    ledger = Ledger(7, capacity=2)
    posted = wrs([2**64 - 1, 0, 0, 5])
    ledger.enter(posted, 3, np.array([10, 20, 30, 40]), 8)
    assert (posted["wr_id"] >> np.uint64(32) == 7).all()
    assert len(set(posted["wr_id"].tolist())) == 4
    assert ledger.outstanding == 4
    done = completions(posted["wr_id"][::-1])
    slots = ledger.leave(done)
    assert done["wr_id"].tolist() == [5, 0, 0, 2**64 - 1]
    assert ledger.place[slots].tolist() == [40, 30, 20, 10]
    assert ledger.batch[slots].tolist() == [3] * 4
    assert ledger.outstanding == 0


def test_requests_outstanding_are_found_by_the_posters_ids() -> None:
    ledger = Ledger(7, capacity=2)
    posted = wrs([5, 6, 6, 9])
    ledger.enter(posted, 0, 0, 0)
    ids = posted["wr_id"].copy()
    assert sorted(ledger.find(np.array([6, 9, 1], np.uint64)).tolist()) == sorted(ids[1:].tolist())
    ledger.leave(completions(ids[[1, 3]]))
    assert ledger.find(np.array([6, 9], np.uint64)).tolist() == [ids[2]]


def test_any_order_of_coming_and_going_keeps_ids_apart() -> None:
    draw = random.Random(1)
    ledger = Ledger(1, capacity=1)
    under_way: dict[int, int] = {}
    number = 0
    for _ in range(300):
        if under_way and draw.random() < 0.5:
            picked = draw.sample(sorted(under_way), draw.randint(1, len(under_way)))
            rows = completions(np.array(picked, np.uint64))
            ledger.leave(rows)
            assert rows["wr_id"].tolist() == [under_way.pop(node_wide) for node_wide in picked]
        else:
            own = [number := number + 1 for _ in range(draw.randint(1, 9))]
            posted = wrs(own)
            ledger.enter(posted, 0, 0, 0)
            for node_wide, mine in zip(posted["wr_id"].tolist(), own, strict=True):
                assert node_wide not in under_way
                under_way[node_wide] = mine
        assert ledger.outstanding == len(under_way)


def test_a_request_cannot_complete_twice() -> None:
    ledger = Ledger(1)
    posted = wrs([1])
    ledger.enter(posted, 0, 0, 0)
    ledger.leave(completions(posted["wr_id"]))
    with pytest.raises(AssertionError, match="twice"):
        ledger.leave(completions(posted["wr_id"]))
