"""Operations under way: what a blocking verb waits for, and the `Transfer` that an `_async` verb returns.

A `Transfer` is a future (`result`, `exception`, `done`, `cancel`, `add_done_callback`) and awaitable,
whichever client made it. It remembers the source line that made it: a transfer nobody waited for, neither by
itself nor by `flush`, is reported as a `ResourceWarning` for that line when the client closes, with its error
if it failed.
"""

from __future__ import annotations

import logging
import sys
import time
from collections.abc import Callable, Generator
from typing import TYPE_CHECKING, Any

from unimem._failures import completion_error
from unimem._port import Work
from unimem.addresses import index_of
from unimem.errors import DeadlineExceeded, UnimemError, UsageError
from unimem.wire import TIMING_PARTS, Op

if TYPE_CHECKING:
    import numpy as np

    from unimem._core import BaseClient

log = logging.getLogger("unimem")

#: `Operation.status` while it is under way.
UNDER_WAY = -1

_ATOMICS = frozenset({Op.FETCH_ADD, Op.COMPARE_SWAP, Op.SWAP})


class Operation(Work):
    """One verb's work request and, when done, its completion. The blocking verbs use it bare."""

    __slots__ = ("array", "gva", "index", "owner", "rows", "status", "verb")

    def __init__(
        self,
        owner: BaseClient,
        verb: str,
        op: int,
        gva: int,
        src: int,
        dst: int,
        length: int,
        data: memoryview | None = None,
        out: memoryview | None = None,
        array: np.ndarray | None = None,
        operand: int = 0,
        compare: int = 0,
        node: str | None = None,
    ) -> None:
        self.owner = owner
        self.verb = verb
        self.op = op
        self.gva = gva
        self.src = src
        self.dst = dst
        self.length = length
        self.data = data
        self.out = out
        self.array = array
        self.operand = operand
        self.compare = compare
        self.node = node
        self.fence = False
        self.flags = 0
        self.deadline = 0
        self.status = UNDER_WAY

    def on_done(self, status: int, rows: np.ndarray, index: int) -> None:
        """See `Work.on_done`. `status` is stored last: it is what waiting threads look at."""
        self.rows = rows
        self.index = index
        self.data = None
        self.status = status
        if self.owner._held:
            self.owner._release()

    def done(self) -> bool:
        """True when it has ended, well or not."""
        return self.status >= 0

    def outcome(self) -> Any:
        """What the verb returns: an ndarray for a get, the old value for an atomic, else None."""
        if self.op == Op.READ:
            return self.array
        if self.op not in _ATOMICS:
            return None
        return int(self.rows["value"][self.index])

    def error(self) -> UnimemError:
        """The exception of an operation that ended badly."""
        row = self.rows[self.index]
        note = getattr(self, "note", "")
        node = (self.node or self.owner.home) if note else self.owner._node_name(int(row["node"]))
        return completion_error(row, op=self.verb, gva=self.gva, node=node, note=note)

    def overdue(self, waited: float) -> DeadlineExceeded:
        """The exception for a deadline that has passed; nothing of `out` is touched any more.

        What has not left yet is taken back, and then certainly did not happen.
        """
        self.out = None
        definite = self.owner._cancel(self) or self.op == Op.READ
        if self.status < 0:
            self.owner._late(self)
        where = self.owner._node_name(index_of(self.gva))
        return DeadlineExceeded(
            f"not done within {waited:g} s", op=self.verb, gva=self.gva, node=where, definite=definite
        )


class Transfer(Operation):
    """An operation somebody may wait for later: a future, and awaitable."""

    __slots__ = ("__weakref__", "_allowed", "_callbacks", "_line", "_seen", "_started")

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        self._callbacks: list[Callable[[Transfer], object]] | None = None
        self._started = 0.0
        self._allowed = 0.0
        self._line = ("", 0)
        self._seen = False

    def started(self, allowed: float, depth: int) -> Transfer:
        """Note the deadline, and the source line `depth` frames up (attribute reads only, no stack walk)."""
        self._started = time.monotonic()
        self._allowed = allowed
        frame = sys._getframe(depth)
        self._line = (frame.f_code.co_filename, frame.f_lineno)
        return self

    def on_done(self, status: int, rows: np.ndarray, index: int) -> None:
        """See `Work.on_done`."""
        self.rows = rows
        self.index = index
        self.data = None
        self.out = None
        self.status = status
        self.owner._ended(self)
        callbacks = self._callbacks
        while callbacks:
            _call(callbacks.pop(), self)

    # -- the future ---------------------------------------------------------------------------------

    def result(self, timeout: float | None = None) -> Any:
        """Wait and return what the blocking verb would, or raise its error.

        Without `timeout` it waits until the operation's own deadline and then gives the operation up; with
        it, `DeadlineExceeded` is raised after so many seconds and the transfer goes on.
        """
        self._wait(timeout)
        self._seen = True
        if self.status:
            raise self.error()
        return self.outcome()

    def exception(self, timeout: float | None = None) -> UnimemError | None:
        """Wait, as `result` does, and return the error, or None when it went well."""
        self._wait(timeout)
        self._seen = True
        return self.error() if self.status else None

    def cancel(self) -> bool:
        """Take it back. True: it is cancelled and certainly did not happen.

        False: it is over, or under way; in the latter case its node stops what it can, and it ends as
        `Cancelled`, not definite, unless it was quicker. A get's buffer is not touched any more.
        """
        if self.status >= 0:
            return False
        self._seen = True
        self.out = None
        return self.owner._cancel(self)

    def add_done_callback(self, fn: Callable[[Transfer], object]) -> None:
        """Call `fn(self)` once when done: from the thread that completes it, or now if it is done already."""
        self._seen = True
        if self.status < 0:
            if self._callbacks is None:
                self._callbacks = []
            callbacks = self._callbacks
            callbacks.append(fn)
            if self.status < 0:
                return
            try:  # it ended meanwhile: whoever takes `fn` out of the list calls it
                callbacks.remove(fn)
            except ValueError:
                return
        _call(fn, self)

    def __await__(self) -> Generator[Any, None, Any]:
        if self.status < 0:
            yield from self.owner._wait_on_loop(self, self._left()).__await__()
        if self.status < 0:
            self._seen = True
            raise self.overdue(self._allowed)
        return self.result(0)

    def _left(self) -> float:
        return max(0.0, self._started + self._allowed - time.monotonic())

    def _wait(self, timeout: float | None) -> None:
        if self.status >= 0:
            return
        if not self.owner._blocking:
            raise UsageError(
                "not done yet, and an AsyncClient's transfer cannot block",
                op=self.verb,
                gva=self.gva,
                hint="await it",
            )
        allowed = self._left() if timeout is None else timeout
        if self.owner._drive(self.done, allowed) or self.status >= 0:
            return
        self._seen = True
        if timeout is None:
            raise self.overdue(self._allowed)
        raise DeadlineExceeded(
            f"not done after waiting {timeout:g} s; it goes on", op=self.verb, gva=self.gva, definite=False
        )

    # -- what it was --------------------------------------------------------------------------------

    @property
    def bytes(self) -> int:
        """Bytes delivered; 0 while it is under way."""
        return int(self.rows["bytes"][self.index]) if self.status >= 0 else 0

    @property
    def timing(self) -> dict[str, float]:
        """Simulated nanoseconds by part (`unimem.wire.TIMING_PARTS`); they add up to `simulated_ns`.

        Of a transfer that went in several pieces (more than 256 KiB over gRPC): the last piece's parts, with
        the time from the first piece's doorbell to the last one's added to `issue`.
        """
        if self.status < 0:
            return {}
        parts = self.rows["parts_ps"][self.index].tolist()
        return {name: ps / 1000 for name, ps in zip(TIMING_PARTS, parts, strict=True)}

    @property
    def simulated_ns(self) -> float:
        """Simulated time from the doorbell to the completion; staging the caller's bytes is not in it."""
        if self.status < 0:
            return 0.0
        row = self.rows[self.index]
        return (int(row["done_ps"]) - int(row["posted_ps"])) / 1000

    def __repr__(self) -> str:
        state = "under way" if self.status < 0 else "failed" if self.status else "done"
        return f"<Transfer {self.verb} of {self.length} bytes: {state}>"

    def __del__(self) -> None:
        # The interpreter may be going down, or __init__ may have failed: then nobody is there to tell.
        if not getattr(self, "_seen", True) and self.status >= 0:
            self.owner._abandoned(self)


class Early(Transfer):
    """What goes on after a put at level SOURCE: nobody holds it, and only its failure is of interest."""

    __slots__ = ()

    def on_done(self, status: int, rows: np.ndarray, index: int) -> None:
        """See `Work.on_done`."""
        self._seen = status == 0
        super().on_done(status, rows, index)


def _call(fn: Callable[[Transfer], object], transfer: Transfer) -> None:
    """Call a callback; what it raises is logged, as nobody is there to catch it."""
    try:
        fn(transfer)
    except Exception:
        log.exception("a callback of %r raised", transfer)
