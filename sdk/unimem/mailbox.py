"""Mailboxes: a ring of 64-byte messages in one node's memory, into which anybody may send.

A message is one SEND: the node that owns the memory puts it into the next slot, exactly once, whatever the
network does. Taking one out is two reads and a compare-and-swap of the ring's `tail` (the layout is
`unimem.wire.MAILBOX`), so that any number of clients may receive: each message goes to one of them. Messages
of one sender come out in the order in which its sends were done.

    box = um.mailbox(node="n1", name="jobs")
    other.mailbox_at(box.ptr).send(b"hello")
    print(box.receive(timeout=1))
"""

from __future__ import annotations

import time
from typing import TYPE_CHECKING, Any, SupportsIndex

import numpy as np

from unimem._arguments import seconds, whole
from unimem._control import FIRST_PAUSE, LONGEST_PAUSE
from unimem.errors import DeadlineExceeded, MailboxFull, UsageError
from unimem.transfer import Operation, Transfer
from unimem.wire import (
    MAILBOX,
    MAILBOX_LENGTHS,
    MAILBOX_MAGIC,
    MAILBOX_SLOTS,
    MESSAGE_BYTES,
    mailbox_slots_at,
)

if TYPE_CHECKING:
    from collections.abc import Iterator

    from unimem.client import Client
    from unimem.pointers import GlobalPtr


#: How often `send` offers a message to a full mailbox, within some 10 ms.
SEND_TRIES = 8


def send_pauses() -> Iterator[float | None]:
    """Seconds to wait after each attempt to send; None after the last one."""
    for attempt in range(SEND_TRIES - 1):
        yield min(FIRST_PAUSE * 2**attempt, LONGEST_PAUSE)
    yield None


def slots_of(slots: SupportsIndex) -> int:
    """A number of slots, checked."""
    number = whole(slots, "slots", "mailbox")
    if not 1 <= number <= MAILBOX_SLOTS:
        raise UsageError(f"{number} slots: a mailbox has 1 to {MAILBOX_SLOTS}", op="mailbox")
    return number


def bytes_of(slots: int) -> int:
    """Bytes of memory of a mailbox."""
    return mailbox_slots_at(slots) + slots * MESSAGE_BYTES


def new_header(slots: int) -> np.ndarray:
    """What has to be written into zeroed memory to make it a mailbox."""
    header = np.zeros(1, MAILBOX)
    header["slots"], header["magic"] = slots, MAILBOX_MAGIC
    return header


class BaseMailbox:
    """Where a mailbox lies; see `Mailbox` and `unimem.async_mailbox`."""

    def __init__(self, client: Any, ptr: GlobalPtr, slots: int, *, owned: bool = False) -> None:
        self._client = client
        self.slots = slots
        self._owned = owned
        ptr.check(bytes_of(slots), "mailbox")
        self._ptr: GlobalPtr | None = ptr
        self._tail = ptr + 8

    @property
    def ptr(self) -> GlobalPtr:
        """Pointer to it, for `mailbox_at` of other clients; `UsageError` when it is freed."""
        if self._ptr is None:
            raise UsageError("the mailbox is freed", op="mailbox", reason="FREED")
        return self._ptr

    @property
    def node(self) -> str:
        """Name of the node it lies on."""
        return self.ptr.node

    def send_async(self, data: Any, *, timeout: float | None = None) -> Transfer:
        """As `send`, without waiting; offered once. `data` must not change until the transfer is done."""
        client = self._client
        transfer: Transfer = client._start(client._send(Transfer, int(self.ptr), data), timeout)
        return transfer

    def _places(self, number: int) -> tuple[list[int], int]:
        """(addresses of the 64 bytes around the length, and of the slot, of message `number`; which byte)."""
        base, slot = int(self.ptr), number % self.slots
        around = base + MAILBOX_LENGTHS + slot // MESSAGE_BYTES * MESSAGE_BYTES
        return [around, base + mailbox_slots_at(self.slots) + slot * MESSAGE_BYTES], slot % MESSAGE_BYTES

    def _free(self) -> GlobalPtr | None:
        """Forget the mailbox; its memory, when that is to be given back."""
        ptr, self._ptr = self._ptr, None
        self._client._arrays.discard(self)
        return ptr if self._owned else None

    def __repr__(self) -> str:
        where = "freed" if self._ptr is None else repr(self._ptr)
        return f"{type(self).__name__}({self.slots} slots, {where})"


class Patience:
    """Waiting for a message: pauses that grow, and an end."""

    def __init__(self, box: BaseMailbox, allowed: float) -> None:
        self._box, self._allowed = box, allowed
        self._end = time.monotonic() + allowed
        self._pause = FIRST_PAUSE

    def pause(self) -> float:
        """Seconds until the next look."""
        if time.monotonic() + self._pause > self._end:
            raise DeadlineExceeded(
                f"no message within {self._allowed:g} s",
                op="receive",
                gva=int(self._box.ptr),
                node=self._box.node,
            )
        pause, self._pause = self._pause, min(2 * self._pause, LONGEST_PAUSE)
        return pause


def checked(header: np.ndarray, ptr: GlobalPtr) -> int:
    """Slots of the mailbox whose header was read from `ptr`."""
    row = header.view(MAILBOX)[0]
    if row["magic"] != MAILBOX_MAGIC or not 1 <= row["slots"] <= MAILBOX_SLOTS:
        raise UsageError("there is no mailbox", op="mailbox_at", gva=int(ptr), node=ptr.node)
    return int(row["slots"])


class Mailbox(BaseMailbox):
    """A mailbox, made by `Client.mailbox`; freed by `free`, `with`, or when its client closes."""

    _client: Client

    def send(self, data: Any, *, timeout: float | None = None) -> None:
        """Put a message of 1 to 64 bytes into it; returns when it is there.

        `MailboxFull` when it was full `SEND_TRIES` times, each a little later than the one before.
        """
        for pause in send_pauses():
            try:
                self._client._run(self._client._send(Operation, int(self.ptr), data), timeout)
                return
            except MailboxFull:
                if pause is None:
                    raise
            time.sleep(pause)

    def poll(self, *, timeout: float | None = None) -> bytes | None:
        """The next message, or None when there is none. `timeout`: seconds for the way there and back."""
        client = self._client
        while True:
            head, tail = client.get(self.ptr, 16, dtype="<u8", timeout=timeout).tolist()
            if head == tail:
                return None
            places, which = self._places(tail)
            around, message = client.get_many(places, MESSAGE_BYTES, timeout=timeout)
            if client.compare_swap(self._tail, tail, tail + 1, timeout=timeout) == tail:
                return bytes(message[: around[which]])

    def receive(self, *, timeout: float | None = None) -> bytes:
        """Wait for the next message and take it out. It polls, at longer and longer intervals up to 5 ms."""
        patience = Patience(self, self._client.timeout if timeout is None else seconds(timeout))
        while (message := self.poll()) is None:
            time.sleep(patience.pause())
        return message

    def free(self) -> None:
        """Give the memory back. Idempotent; one that was only found (`mailbox_at`) is forgotten."""
        if (ptr := self._free()) is not None:
            self._client.free(ptr)

    def __enter__(self) -> Mailbox:
        return self

    def __exit__(self, *exc: object) -> None:
        self.free()
