"""Waiting on an event loop: for `AsyncClient`, and for transfers of a blocking client that are awaited."""

from __future__ import annotations

import asyncio
import contextlib
from typing import TYPE_CHECKING

from unimem.transfer import Operation, Transfer

if TYPE_CHECKING:
    import numpy as np

#: Deadlines longer than this (infinity, for one) are not put on the loop's clock.
_FOREVER = 1e8


class AsyncOperation(Operation):
    """An operation that one coroutine waits for, on the loop on which it completes."""

    __slots__ = ("waiter",)

    waiter: asyncio.Future[None] | None

    def on_done(self, status: int, rows: np.ndarray, index: int) -> None:
        """See `Work.on_done`."""
        super().on_done(status, rows, index)
        waiter = getattr(self, "waiter", None)
        if waiter is not None and not waiter.done():
            waiter.set_result(None)


async def wait_for(operation: AsyncOperation | Transfer, allowed: float) -> None:
    """Wait until `operation`, completed by this loop, is done or `allowed` seconds are over."""
    waiter: asyncio.Future[None] = asyncio.get_running_loop().create_future()
    if isinstance(operation, Transfer):
        operation.add_done_callback(lambda _: wake(waiter))
    else:
        operation.waiter = waiter
    await within(waiter, allowed)


async def wait_from_other_thread(transfer: Transfer, allowed: float) -> None:
    """Wait until `transfer`, completed by some other thread, is done or `allowed` seconds are over."""
    loop = asyncio.get_running_loop()
    waiter: asyncio.Future[None] = loop.create_future()

    def woken(_: Transfer) -> None:
        with contextlib.suppress(RuntimeError):  # the loop is closed: nobody waits any more
            loop.call_soon_threadsafe(wake, waiter)

    transfer.add_done_callback(woken)
    await within(waiter, allowed)


async def within(waiter: asyncio.Future[None], allowed: float) -> None:
    """Wait for `waiter`, at most `allowed` seconds; cheaper than `asyncio.timeout`, and raises nothing."""
    timer = asyncio.get_running_loop().call_later(allowed, wake, waiter) if allowed < _FOREVER else None
    try:
        await waiter
    finally:
        if timer is not None:
            timer.cancel()


def wake(waiter: asyncio.Future[None]) -> None:
    """Complete `waiter`, once."""
    if not waiter.done():
        waiter.set_result(None)
