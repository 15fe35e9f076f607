"""`client.batch()`: issue many operations, wait once, hear of every failure."""

from __future__ import annotations

import time
from typing import TYPE_CHECKING, Any, SupportsIndex

from unimem._arguments import seconds
from unimem._core import all_done
from unimem.errors import UnimemError
from unimem.transfer import Transfer
from unimem.wire import Op

if TYPE_CHECKING:
    import numpy.typing as npt

    from unimem._arguments import Address
    from unimem.async_client import AsyncClient
    from unimem.client import Client


class BaseBatch:
    """The verbs of a batch, each returning a `Transfer`, whose result is there after the `with` block."""

    def __init__(self, client: Client | AsyncClient, timeout: float | None) -> None:
        self._client = client
        self._allowed = client.timeout if timeout is None else seconds(timeout)
        self._transfers: list[Transfer] = []

    def __len__(self) -> int:
        return len(self._transfers)

    def put(self, dst: Address, data: Any) -> Transfer:
        """As `Client.put`."""
        return self._add(self._client._put(Transfer, dst, data))

    def get(
        self,
        src: Address,
        n: SupportsIndex | None = None,
        *,
        out: Any = None,
        dtype: npt.DTypeLike | None = None,
    ) -> Transfer:
        """As `Client.get`."""
        return self._add(self._client._get(Transfer, src, n, out, dtype))

    def copy(self, dst: Address, src: Address, n: SupportsIndex) -> Transfer:
        """As `Client.copy`."""
        return self._add(self._client._copy(Transfer, dst, src, n, self._client._node(src)))

    def fetch_add(self, dst: Address, value: SupportsIndex = 1, *, width: int = 8) -> Transfer:
        """As `Client.fetch_add`."""
        return self._add(self._client._atomic(Transfer, "fetch_add", Op.FETCH_ADD, dst, value, 0, width))

    def compare_swap(
        self, dst: Address, compare: SupportsIndex, value: SupportsIndex, *, width: int = 8
    ) -> Transfer:
        """As `Client.compare_swap`."""
        return self._add(
            self._client._atomic(Transfer, "compare_swap", Op.COMPARE_SWAP, dst, value, compare, width)
        )

    def swap(self, dst: Address, value: SupportsIndex, *, width: int = 8) -> Transfer:
        """As `Client.swap`."""
        return self._add(self._client._atomic(Transfer, "swap", Op.SWAP, dst, value, 0, width))

    def fence(self) -> None:
        """As `Client.fence`: what follows starts when what came before is complete."""
        self._client.fence()

    def _add(self, operation: Any) -> Transfer:
        transfer = self._client._start(operation, self._allowed, depth=4)
        self._transfers.append(transfer)
        return transfer

    def _finish(self, raised: BaseException | None, started: float) -> None:
        """All have ended or their time is over: raise what went wrong, unless the block itself `raised`."""
        errors: list[UnimemError] = []
        for transfer in self._transfers:
            transfer._seen = True
            if transfer.status < 0:
                errors.append(transfer.overdue(round(time.monotonic() - started, 3)))
            elif transfer.status:
                errors.append(transfer.error())
        if not errors:
            return
        text = f"{len(errors)} of {len(self._transfers)} operations of the batch failed"
        if raised is None:
            raise ExceptionGroup(text, errors)
        raised.add_note(f"{text}, the first: {errors[0]}")


class OperationBatch(BaseBatch):
    """`with um.batch() as b:`: operations leave as they are issued; the end of the block waits for all.

    Errors come as one `ExceptionGroup`, after everything has ended.
    """

    _client: Client

    def __enter__(self) -> OperationBatch:
        return self

    def __exit__(self, kind: object, raised: BaseException | None, trace: object) -> None:
        started = time.monotonic()
        self._client._drive(all_done(self._transfers), self._allowed)
        self._finish(raised, started)


class AsyncOperationBatch(BaseBatch):
    """`async with um.batch() as b:`; the verbs are plain calls that return awaitable transfers."""

    _client: AsyncClient

    async def __aenter__(self) -> AsyncOperationBatch:
        return self

    async def __aexit__(self, kind: object, raised: BaseException | None, trace: object) -> None:
        started = time.monotonic()
        await self._client._drive(all_done(self._transfers), self._allowed)
        self._finish(raised, started)
