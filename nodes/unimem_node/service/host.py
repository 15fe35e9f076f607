"""The owner of a model node: the one place that rings its doorbell, hands it frames, and takes what it made.

Everything runs on the event loop's thread. Whatever happens to the node (a post, a frame, a lost peer, a
write to a register) asks for a *turn*, which comes before the loop waits again: ``pump`` once, then frames
to the transport and completions to their posters. So what arrives together is done together: sixty-four
posts that came in one wake-up of the loop leave as one frame.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Iterable, Sequence
from typing import TYPE_CHECKING, Protocol

import numpy as np
import structlog

from unimem_node.service.domains import Domains
from unimem_node.service.ledger import SLOT_BITS
from unimem_node.service.local import LocalPoster
from unimem_node.service.model import Model
from unimem_node.service.rows import at, by_value
from unimem_node.service.transports import Peer, ServiceTransport

if TYPE_CHECKING:
    from unimem.v1.types_pb2 import Node as NodeMessage

log = structlog.get_logger(__name__)


class Poster(Protocol):
    """Who posts work requests: a client's stream, or code in this process."""

    def complete(self, rows: np.ndarray) -> None:
        """Some of the poster's requests are complete (COMPLETION rows, the poster's to keep and change)."""


class NodeHost:
    """Drives `node`; frames go out through the transport given to `connect`.

    `failed` is done, with the error in words, when the model has raised where it must not.
    """

    def __init__(self, node: Model) -> None:
        self.node = node
        self.domains = Domains(node)
        self._transport: ServiceTransport | None = None
        self._loop = asyncio.get_running_loop()
        self._turn_asked = False
        self.failed: asyncio.Future[str] = self._loop.create_future()
        self._posters: dict[int, Poster] = {}
        self._enrolled = 0
        self._names: dict[int, str] = {node.index: node.name}
        self._observers: list[Callable[[], None]] = []
        self._local = LocalPoster(self)

    def connect(self, transport: ServiceTransport) -> None:
        """Send frames through `transport` from now on."""
        self._transport = transport

    @property
    def transport(self) -> ServiceTransport | None:
        """The transport given to `connect`."""
        return self._transport

    def observe(self, fn: Callable[[], None]) -> None:
        """Call `fn` after every turn."""
        self._observers.append(fn)

    # Posting -------------------------------------------------------------------------------------------

    def enroll(self, poster: Poster) -> int:
        """A number for `poster`: its requests carry it above the low `SLOT_BITS` bits of their ids."""
        self._enrolled += 1
        self._posters[self._enrolled] = poster
        return self._enrolled

    def dismiss(self, number: int) -> None:
        """Forget a poster that has nothing outstanding."""
        self._posters.pop(number, None)

    def post(self, wrs: np.ndarray) -> None:
        """Ring the doorbell for `wrs` (WORK_REQUEST, ids from a poster's ledger)."""
        self.node.post(wrs)
        self.ask_turn()

    def submit(self, wrs: np.ndarray) -> asyncio.Future[np.ndarray]:
        """Post `wrs` (WORK_REQUEST) from this process; the future holds their completions, in their order.

        `src` and `dst` are addresses, as for the network interface: there is no INLINE and no RETURN here
        (see `Model.stage`). `wrs` stays unchanged.
        """
        return self._local.post([wrs])[0]

    def post_many(self, batches: Sequence[np.ndarray]) -> list[asyncio.Future[np.ndarray]]:
        """As `submit` for each of `batches`, with one doorbell."""
        return self._local.post(batches)

    # What the transport brings (`FrameSink`) ---------------------------------------------------------

    def on_frame(self, peer_index: int, frame: np.ndarray) -> None:
        """A frame came from a peer. Raises ValueError when it is none."""
        self.node.on_frame(peer_index, frame)
        self._turn()

    def peer_lost(self, peer_index: int, reason: str) -> None:
        """The connection to a peer broke."""
        log.warning("peer lost", peer=self.name_of(peer_index), reason=reason)
        self.node.peer_lost(peer_index, reason)
        self.ask_turn()

    def peer_unreachable(self, peer_index: int, reason: str) -> None:
        """No connection to a peer could be made."""
        log.warning("peer unreachable", peer=self.name_of(peer_index), reason=reason)
        self.node.peer_unreachable(peer_index, reason)
        self.ask_turn()

    # Routes --------------------------------------------------------------------------------------------

    def set_routes(self, nodes: Iterable[NodeMessage]) -> None:
        """The cluster as the coordinator sees it. A peer's connection ends with its incarnation."""
        table = list(nodes)
        self._names = {node.index: node.name for node in table}
        if self._transport is not None:
            self._transport.set_peers(
                Peer(node.index, node.name, node.address, node.incarnation)
                for node in table
                if node.index != self.node.index
            )
        self.node.set_routes(
            [
                (node.index, node.name, node.window_base, node.window_size, node.incarnation, int(node.state))
                for node in table
            ]
        )
        self.ask_turn()

    def name_of(self, index: int) -> str:
        """The name of node `index`, or its number in words."""
        return self._names.get(index) or f"node {index}"

    def settle(self) -> None:
        """Software has touched the chip: let its engines do what they were started for, until idle."""
        self.node.soc.run()
        self.ask_turn()

    # The turn ------------------------------------------------------------------------------------------

    def ask_turn(self) -> None:
        """Let the node do what it can, before the loop waits again."""
        if not self._turn_asked:
            self._turn_asked = True
            self._loop.call_soon(self._turn)

    def _turn(self) -> None:
        self._turn_asked = False
        try:
            self._work()
        except Exception as error:
            # Its state is unknown: better no node, which its peers and clients notice, than half of one.
            log.critical("the node's model failed", exc_info=error)
            if not self.failed.done():
                self.failed.set_result(f"{type(error).__name__}: {error}")

    def _work(self) -> None:
        node, transport = self.node, self._transport
        node.pump()
        for peer, frame in node.take_frames():
            if transport is None:
                self.peer_unreachable(peer, "this node has no transport")
            else:
                transport.send(peer, frame)
        rows = node.take_completions()
        if len(rows):
            self._deliver(rows)
        for fn in self._observers:
            fn()

    def _deliver(self, rows: np.ndarray) -> None:
        if len(rows) == 1:
            self._posters[int(rows["wr_id"][0]) >> SLOT_BITS].complete(rows)
            return
        for number, where in by_value(rows["wr_id"] >> np.uint64(SLOT_BITS)):
            self._posters[number].complete(at(rows, where))
