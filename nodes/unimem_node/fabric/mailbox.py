"""SEND at its target: a message of up to 64 bytes into the ring at its address (`unimem.wire.MAILBOX`).

The interface reads the ring's header through the SMMU, as the sender's protection domain, writes slot and
length, and last of all counts `head` up: a receiver that sees the new `head` sees the message, and an access
refused on the way leaves the ring as it was, so that the request can be made again. The engine serves one
request after the other: nothing comes between reading `head` and writing it.

The ring is this model's own design [D]: of the published machine it is known that it has mailboxes and
messages of up to 64 bytes, not how they lie in memory.
"""

from __future__ import annotations

from typing import NamedTuple

import numpy as np

from unimem.wire import (
    MAILBOX,
    MAILBOX_LENGTHS,
    MAILBOX_MAGIC,
    MAILBOX_SLOTS,
    MESSAGE_BYTES,
    Status,
    mailbox_slots_at,
)
from unimem_node.dma._fast import ACCESS_READ
from unimem_node.mmu._fast import ACCESS_WRITE

from . import _fast_columns as col
from .core import Bytes, Core, Refusal

#: `head`, `tail`, `slots` and `magic` of the header.
_HEADER_BYTES = 24


class Delivered(NamedTuple):
    """What became of a message: ps spent in translation, and why it is not there."""

    cost_ps: int
    refusal: Refusal | None


def refused_at_the_door(va: int, length: int) -> Status:
    """What no mailbox takes, whatever is at the address; OK for the rest."""
    if length > MESSAGE_BYTES:
        return Status.MALFORMED
    return Status.MISALIGNED if va % 8 else Status.OK


def deliver(core: Core, slot: int, va: int, message: Bytes) -> Delivered:
    """Put `message` into the mailbox at `va`, in the name of PD slot `slot`. All of it, or nothing."""
    header = np.zeros(MAILBOX.itemsize, np.uint8)
    moved = core.move(slot, ACCESS_READ, va, header[:_HEADER_BYTES])
    cost = moved.cost_ps
    if moved.refusal is not None:
        return Delivered(cost, moved.refusal)
    row = header.view(MAILBOX)[0]
    head, slots = int(row["head"]), int(row["slots"])
    if row["magic"] != MAILBOX_MAGIC or not 1 <= slots <= MAILBOX_SLOTS:
        return Delivered(cost, Refusal(Status.MALFORMED, iova=va))
    if va + mailbox_slots_at(slots) + slots * MESSAGE_BYTES > core.node[col.N_WINDOW_END]:
        return Delivered(cost, Refusal(Status.MALFORMED, iova=va))
    if head - int(row["tail"]) & _WORD >= slots:
        return Delivered(cost, Refusal(Status.MAILBOX_FULL, iova=va))
    number = head % slots
    for at, data in (
        (va + mailbox_slots_at(slots) + number * MESSAGE_BYTES, message),
        (va + MAILBOX_LENGTHS + number, np.array([len(message)], np.uint8)),
        (va, np.array([head + 1 & _WORD], "<u8").view(np.uint8)),
    ):
        moved = core.move(slot, ACCESS_WRITE, at, data)
        cost += moved.cost_ps
        if moved.refusal is not None:  # the message does not count: `head` is written last
            return Delivered(cost, moved.refusal._replace(written=0))
    return Delivered(cost, None)


_WORD = (1 << 64) - 1
