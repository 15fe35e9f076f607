"""Posting from inside the node's process: a future for each post.

Single requests and batches are two posters: a single one needs neither a ledger nor a place in a result, only
its future, and what a blocking put costs here adds to its latency.
"""

from __future__ import annotations

import asyncio
from collections.abc import Sequence
from typing import TYPE_CHECKING, NamedTuple

import numpy as np

from unimem.wire import COMPLETION
from unimem_node.service.ledger import SLOT_BITS, SLOT_MASK, Ledger
from unimem_node.service.rows import at, by_value, copied, plain

if TYPE_CHECKING:
    from unimem_node.service.host import NodeHost

Completions = asyncio.Future[np.ndarray]


class LocalPoster:
    """Posts of this process to `host`."""

    def __init__(self, host: NodeHost) -> None:
        self._host = host
        self._loop = asyncio.get_running_loop()
        self._singles = _Singles(host)
        self._batches = _Batches(host)

    def post(self, batches: Sequence[np.ndarray]) -> list[Completions]:
        """Post each of `batches` (WORK_REQUEST); the futures hold their completions in their order."""
        futures = []
        for batch in batches:
            future: Completions = self._loop.create_future()
            futures.append(future)
            if len(batch) == 1:
                self._singles.post(copied(batch), future)
            elif len(batch):
                self._batches.post(copied(batch), future)
            else:
                future.set_result(np.empty(0, COMPLETION))
        return futures


class _Singles:
    """Posts of one request: (its own id, its future) by running number."""

    def __init__(self, host: NodeHost) -> None:
        self._host = host
        self._base = host.enroll(self) << SLOT_BITS
        self._next = 0
        self._waiting: dict[int, tuple[np.uint64, Completions]] = {}

    def post(self, wr: np.ndarray, future: Completions) -> None:
        number = self._next
        self._next = number + 1 & int(SLOT_MASK)
        ids = wr["wr_id"]
        self._waiting[number] = ids[0], future
        ids[0] = self._base | number
        self._host.post(wr)

    def complete(self, rows: np.ndarray) -> None:
        ids = rows["wr_id"]
        for i, number in enumerate((ids & SLOT_MASK).tolist()):
            ids[i], future = self._waiting.pop(number)
            if not future.done():
                future.set_result(rows[i : i + 1])


class _Batch(NamedTuple):
    rows: np.ndarray
    future: Completions


class _Batches:
    """Posts of many requests."""

    def __init__(self, host: NodeHost) -> None:
        self._host = host
        self._ledger = Ledger(host.enroll(self))
        self._waiting: dict[int, _Batch] = {}
        self._left: dict[int, int] = {}
        self._next = 0

    def post(self, wrs: np.ndarray, future: Completions) -> None:
        self._ledger.enter(wrs, self._next, np.arange(len(wrs)), 0)
        self._waiting[self._next] = _Batch(np.empty(len(wrs), COMPLETION), future)
        self._left[self._next] = len(wrs)
        self._next += 1
        self._host.post(wrs)

    def complete(self, rows: np.ndarray) -> None:
        slots = self._ledger.leave(rows)
        for number, where in by_value(self._ledger.batch[slots]):
            self._collect(number, at(rows, where), slots[where])

    def _collect(self, number: int, rows: np.ndarray, slots: np.ndarray) -> None:
        batch = self._waiting[number]
        plain(batch.rows)[self._ledger.place[slots]] = plain(rows)
        self._left[number] -= len(rows)
        if self._left[number] == 0:
            del self._waiting[number], self._left[number]
            if not batch.future.done():
                batch.future.set_result(batch.rows)
