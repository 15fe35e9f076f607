"""What a client stands on: a *port* carries work requests to nodes and control calls to the coordinator.

Two kinds exist: the gRPC port of this package (`unimem._grpc_port`) and the simulated one of `unimem_lab`,
which drives a whole cluster in the caller's thread. `Client` and `AsyncClient` are the same code on either.

The contract, which holds also when something fails:

* `post` and `post_batch` never block and never raise for what happens later: each `Work` gets exactly one
  `on_done`, each request of a `Batch` appears in exactly one `on_rows`. That may happen before `post`
  returns (a simulation), from the port's own thread (gRPC, sync), or from `drive`.
* Work for one node starts in the order in which it was posted; nothing is promised between nodes.
* `rows` given to `on_done` / `on_rows` belong to the receiver: they may be kept, and they hold no payload.
* A READ's bytes are in `out` before `on_done`. The owner may set `out = None` at any time (its deadline has
  passed): then the bytes are dropped and nothing touches the caller's buffer any more.
* A failure invented by the port itself (a broken stream) is a COMPLETION row like any other, with
  `DEFINITE` set when the request certainly never left; `note` says what the port knows in words.
* `control` raises the errors of `unimem.errors` (made by `unimem._failures.refusal`), nothing else.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING, Protocol

if TYPE_CHECKING:
    import numpy as np
    from google.protobuf.message import Message


class Work:
    """One work request on its way through a port. Subclasses override `on_done`.

    ==========  ====================================================================================
    `op`        `unimem.wire.Op` as int
    `node`      name of the node that executes it; None = the home node (`copy`: the source's node)
    `src`       READ, COPY: GVA; WRITE without `data`: virtual address in the process on `node`
    `dst`       all but READ: GVA
    `length`    bytes; atomics: 4 or 8
    `data`      WRITE, SEND: the bytes (INLINE: the node stages them), any length; None for a copy
    `out`       READ: where the bytes go (RETURN), any length; may be withdrawn, see above
    `operand`   addend or new value, 0 .. 2**64 - 1
    `compare`   COMPARE_SWAP: expected value
    `fence`     starts when everything posted to the same node before is complete
    `flags`     `unimem.wire.WorkFlags` as int, beside INLINE, RETURN and FENCE, which the port sets
    `deadline`  µs from the doorbell at which the node gives up: TIMED_OUT; 0 = never
    `note`      set by the port on a failure of its own: one line for the error message
    ==========  ====================================================================================
    """

    __slots__ = (
        "compare",
        "data",
        "deadline",
        "dst",
        "fence",
        "flags",
        "length",
        "node",
        "note",
        "op",
        "operand",
        "out",
        "src",
    )

    def __init__(
        self,
        op: int,
        src: int = 0,
        dst: int = 0,
        length: int = 0,
        data: memoryview | None = None,
        out: memoryview | None = None,
        operand: int = 0,
        compare: int = 0,
        fence: bool = False,
        node: str | None = None,
        flags: int = 0,
        deadline: int = 0,
    ) -> None:
        self.op = op
        self.src = src
        self.dst = dst
        self.length = length
        self.data = data
        self.out = out
        self.operand = operand
        self.compare = compare
        self.fence = fence
        self.flags = flags
        self.deadline = deadline
        self.node = node
        self.note = ""

    def on_done(self, status: int, rows: np.ndarray, index: int) -> None:
        """Called once: `rows[index]` (dtype COMPLETION) is this request's completion, `status` its status."""
        raise NotImplementedError


class Batch:
    """Many work requests in one array, posted together: one Python object for thousands of requests.

    `requests`: WORK_REQUEST array. `wr_id`, `pdid` and `posted_ps` are the port's to fill; every WRITE and
    SEND is INLINE, every READ has RETURN, none of them is longer than 256 KiB. `payload`: uint8, the bytes of
    the writes in order, each padded to a multiple of 8. `out`: uint8, shape (requests, longest READ): row i
    takes the bytes of request i. `node` and `note` as in `Work`.
    """

    __slots__ = ("node", "note", "out", "payload", "requests")

    def __init__(
        self,
        requests: np.ndarray,
        payload: np.ndarray,
        out: np.ndarray | None = None,
        node: str | None = None,
    ) -> None:
        self.requests = requests
        self.payload = payload
        self.out = out
        self.node = node
        self.note = ""

    def on_rows(self, rows: np.ndarray, positions: np.ndarray) -> None:
        """Some of the batch are complete: `rows[i]` answers `requests[positions[i]]` (int64)."""
        raise NotImplementedError


class _PortBase(Protocol):
    """What both kinds of port have."""

    pdid: int
    home: str
    domain: str
    #: True: completions arrive by themselves (thread, running loop); False: only within `post` and `drive`.
    background: bool

    def post(self, work: Work) -> None:
        """Queue `work`; see the contract at the top of the module."""

    def post_batch(self, batch: Batch) -> None:
        """Queue many requests at once, ordered like single ones."""

    def cancel(self, work: Work) -> bool:
        """Take `work` back. True: it had not left, and `on_done` is called with CANCELLED first.

        False: it is under way, or over. A node that can is told to stop it: then it completes as CANCELLED,
        definite only when nothing of it had left.
        """


class Port(_PortBase, Protocol):
    """A port for the blocking `Client`."""

    def control(self, request: Message, timeout: float) -> Message:
        """Call the coordinator's method for `request` (`AllocateRegionRequest` -> `AllocateRegion`).

        The port fills in `session_id` and `token` where the request has these fields.
        """

    def drive(self, done: Callable[[], bool], timeout: float) -> bool:
        """Make progress until `done()` is true or `timeout` seconds are over; returns `done()`."""

    def reachability(self, nodes: Sequence[str], timeout: float) -> dict[str, str]:
        """How each of `nodes` is reached: `direct`, `relayed` (by the coordinator) or `simulated`.

        Nodes not used so far are dialled; nothing is posted.
        """

    def close(self) -> None:
        """End the session; work under way completes as CANCELLED. Idempotent."""


class AsyncPort(_PortBase, Protocol):
    """A port for `AsyncClient`: everything, `on_done` too, happens on the running event loop."""

    async def control(self, request: Message, timeout: float) -> Message:  # noqa: ASYNC109
        """As `Port.control`."""

    async def drive(self, done: Callable[[], bool], timeout: float) -> bool:  # noqa: ASYNC109
        """As `Port.drive`."""

    async def reachability(self, nodes: Sequence[str], timeout: float) -> dict[str, str]:  # noqa: ASYNC109
        """As `Port.reachability`."""

    async def close(self) -> None:
        """As `Port.close`."""
