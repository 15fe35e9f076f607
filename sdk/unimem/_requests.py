"""From a verb's arguments to work requests: what cannot work is refused here, before anything is sent."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, SupportsIndex

import numpy as np

from unimem._arguments import (
    DELIVERED,
    Address,
    At,
    aligned,
    at_least_one,
    flat,
    level,
    locate,
    typed,
    whole,
    word,
    writable,
)
from unimem._many import PIECE_BYTES
from unimem.addresses import index_of
from unimem.array import BaseArray
from unimem.errors import UsageError
from unimem.wire import MESSAGE_BYTES, Op, WorkFlags

if TYPE_CHECKING:
    from collections.abc import Callable

    import numpy.typing as npt

    from unimem._port import AsyncPort, Port
    from unimem.transfer import Operation


class Requests:
    """The part of a client that makes its operations; `kind` is their class."""

    _port: Port | AsyncPort

    def _put(self, kind: Callable[..., Operation], dst: Address, data: Any, verb: str = "put") -> Operation:
        view = flat(data, verb)
        n = view.nbytes
        gva = locate(dst, n, verb)
        return kind(self, verb, 1, gva, 0, gva, n, view)

    def _put_level(self, kind: Callable[..., Operation], dst: Address, data: Any, at: At) -> Operation:
        """A put that is done at `at`, which is not SOURCE."""
        operation = self._put(kind, dst, data)
        if level(at) is At.ACCEPTED:
            operation.flags = int(WorkFlags.ACCEPTED)
        return operation

    def _get(
        self,
        kind: Callable[..., Operation],
        src: Address,
        n: SupportsIndex | None,
        out: Any,
        dtype: npt.DTypeLike | None,
    ) -> Operation:
        if out is not None:
            view = writable(out, "get")
            size = view.nbytes if n is None else whole(n, "n", "get")
            if dtype is not None or size > view.nbytes:
                raise UsageError(
                    f"{size} bytes of {dtype or 'any'} type into out=, which has {view.nbytes}",
                    op="get",
                    hint="give n= up to its size, and no dtype=",
                )
            gva = locate(src, at_least_one(size, "get"), "get")
            return kind(self, "get", 2, gva, gva, 0, size, None, view[:size], out)
        shape: tuple[int, ...] | None = None
        if n is not None:
            size = at_least_one(whole(n, "n", "get"), "get")
        elif isinstance(src, BaseArray):
            size = src.nbytes
            if dtype is None:
                dtype, shape = src.dtype, src.shape
        else:
            raise UsageError("how many bytes?", op="get", hint="give n=, out=, or a GlobalArray")
        gva = locate(src, size, "get")  # before memory is taken for an absurd length
        raw = np.empty(size, np.uint8)
        array = raw if dtype is None else typed(raw, dtype, shape)
        return kind(self, "get", 2, gva, gva, 0, size, None, raw.data, array)

    def _atomic(
        self,
        kind: Callable[..., Operation],
        verb: str,
        op: Op,
        dst: Address,
        operand: SupportsIndex,
        compare: SupportsIndex,
        width: SupportsIndex,
    ) -> Operation:
        gva = aligned(dst, width, "an atomic", verb)
        size = int(width)
        new, old = word(operand, "operand", verb, size), word(compare, "compare", verb, size)
        return kind(self, verb, int(op), gva, 0, gva, size, None, None, None, new, old)

    def _copy(
        self,
        kind: Callable[..., Operation],
        dst: Address,
        src: Address,
        n: SupportsIndex,
        node: str | None,
        at: At = DELIVERED,
    ) -> Operation:
        size = at_least_one(whole(n, "n", "copy"), "copy")
        source, target = locate(src, size, "copy"), locate(dst, size, "copy")
        where = None if node == self._port.home else node
        operation = kind(self, "copy", 1, target, source, target, size, node=where)
        if at is not DELIVERED and level(at) is not DELIVERED:  # nobody tells when a copy's source is free
            operation.flags = int(WorkFlags.ACCEPTED)
        return operation

    def _signalled(
        self, kind: Callable[..., Operation], dst: Address, data: Any, flag: Address, value: SupportsIndex
    ) -> list[Operation]:
        """The operations of a `put_signal`, each to be waited for before the next: mostly one.

        What is longer than a node takes at once is put before its last piece, and a flag on another node than
        the data after it: then there is a round trip in between.
        """
        verb = "put_signal"
        gva = aligned(flag, 8, "a flag", verb)
        new = word(value, "value", verb)
        last = self._put(kind, dst, data, verb)
        if index_of(gva) != index_of(last.gva):
            word_of_flag = memoryview(new.to_bytes(8, "little"))
            return [last, kind(self, verb, 1, gva, 0, gva, 8, word_of_flag)]
        view = last.data
        assert view is not None
        before = (last.length - 1) // PIECE_BYTES * PIECE_BYTES
        operations = []
        if before:
            operations.append(kind(self, verb, 1, last.gva, 0, last.gva, before, view[:before]))
            there = last.gva + before
            last = kind(self, verb, 1, there, 0, there, last.length - before, view[before:])
        last.flags, last.operand, last.compare = int(WorkFlags.SIGNAL), new, gva
        return [*operations, last]

    def _send(self, kind: Callable[..., Operation], mailbox: int, data: Any) -> Operation:
        view = flat(data, "send")
        if view.nbytes > MESSAGE_BYTES:
            raise UsageError(
                f"a message of {view.nbytes} bytes; a mailbox takes at most {MESSAGE_BYTES}",
                op="send",
                gva=mailbox,
                reason="BAD_LENGTH",
                hint="put() the data, and send where it lies",
            )
        return kind(self, "send", int(Op.SEND), mailbox, 0, mailbox, view.nbytes, view)
