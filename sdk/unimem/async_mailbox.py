"""Mailboxes for `AsyncClient`; see `unimem.mailbox`."""

from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING, Any

from unimem._arguments import seconds
from unimem._awaiting import AsyncOperation
from unimem.errors import MailboxFull
from unimem.mailbox import BaseMailbox, Patience, send_pauses
from unimem.wire import MESSAGE_BYTES

if TYPE_CHECKING:
    from unimem.async_client import AsyncClient

# `timeout=` is the verbs' own keyword.
# ruff: noqa: ASYNC109


class AsyncMailbox(BaseMailbox):
    """The same for `AsyncClient`."""

    _client: AsyncClient

    async def send(self, data: Any, *, timeout: float | None = None) -> None:
        """As `Mailbox.send`."""
        for pause in send_pauses():
            try:
                await self._client._run(self._client._send(AsyncOperation, int(self.ptr), data), timeout)
                return
            except MailboxFull:
                if pause is None:
                    raise
            await asyncio.sleep(pause)

    async def poll(self, *, timeout: float | None = None) -> bytes | None:
        """As `Mailbox.poll`."""
        client = self._client
        while True:
            head, tail = (await client.get(self.ptr, 16, dtype="<u8", timeout=timeout)).tolist()
            if head == tail:
                return None
            places, which = self._places(tail)
            around, message = await client.get_many(places, MESSAGE_BYTES, timeout=timeout)
            if await client.compare_swap(self._tail, tail, tail + 1, timeout=timeout) == tail:
                return bytes(message[: around[which]])

    async def receive(self, *, timeout: float | None = None) -> bytes:
        """As `Mailbox.receive`."""
        patience = Patience(self, self._client.timeout if timeout is None else seconds(timeout))
        while (message := await self.poll()) is None:  # noqa: ASYNC110 - it comes from another node
            await asyncio.sleep(patience.pause())
        return message

    async def free(self) -> None:
        """As `Mailbox.free`."""
        if (ptr := self._free()) is not None:
            await self._client.free(ptr)

    async def __aenter__(self) -> AsyncMailbox:
        return self

    async def __aexit__(self, *exc: object) -> None:
        await self.free()
