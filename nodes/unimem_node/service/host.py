"""The owner of a model node: the one place that rings its doorbell, hands it frames, and takes what it made.

Everything runs on the event loop's thread. Whatever happens to the node (a post, a frame, a lost peer, a
write to a register) asks for a *turn*, which comes before the loop waits again: ``pump`` once, then frames
to the transport and completions to their posters. So what arrives together is done together: sixty-four
posts that came in one wake-up of the loop leave as one frame.

Timers of the protocol (retransmission, deadlines) run on the monotonic clock of the machine, in picoseconds:
the loop calls `on_timer` when the node's `timer_ps` has come, give or take the loop's millisecond.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Iterable, Sequence
from typing import TYPE_CHECKING, Protocol

import numpy as np
import structlog

from unimem_node.service.domains import Domains
from unimem_node.service.impaired import ImpairedSend
from unimem_node.service.ledger import SLOT_BITS
from unimem_node.service.local import LocalPoster
from unimem_node.service.model import Model
from unimem_node.service.real_time import monotonic_ps
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
        self._send: Callable[[int, np.ndarray], None] = self._no_transport
        self._impaired: ImpairedSend | None = None
        self._scheduler = node.soc.scheduler
        self._timer: asyncio.TimerHandle | None = None
        self._timer_ps = 0  # when it rings
        self._loop = asyncio.get_running_loop()
        self._turn_asked = False
        self.failed: asyncio.Future[str] = self._loop.create_future()
        self._posters: dict[int, Poster] = {}
        self._enrolled = 0
        self._names: dict[int, str] = {node.index: node.name}
        self._observers: list[Callable[[], None]] = []
        self._local = LocalPoster(self)
        node.wake = self.ask_turn

    def connect(self, transport: ServiceTransport, impair: str = "") -> None:
        """Send frames through `transport` from now on, over a network that does `impair` to them.

        Raises ValueError for impairments that are none.
        """
        self._transport, self._send = transport, transport.send
        if impair:
            self._send = self._impaired = ImpairedSend(
                impair, transport.send, transport.flush, monotonic_ps, self.name_of
            )

    def impairments(self) -> dict[str, int]:
        """Packets that were impaired on purpose, by kind."""
        return self._impaired.counts() if self._impaired is not None else {}

    def transports(self) -> dict[str, str]:
        """How frames travel to each peer that is connected now, by its name."""
        transport = self._transport
        if transport is None:
            return {}
        return {self.name_of(index): transport.kind(index) for index in transport.peers()}

    def _no_transport(self, peer: int, frame: np.ndarray) -> None:
        self.peer_unreachable(peer, "this node has no transport")

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

    # What the transport brings (`ServiceSink`) -------------------------------------------------------

    def on_frame(self, peer_index: int, frame: np.ndarray) -> None:
        """A frame came from a peer; `turn` follows. Raises ValueError when it is none."""
        self.node.on_frame(peer_index, frame)

    def turn(self) -> None:
        """What came together has been handed over."""
        self._turn()

    def peer_lost(self, peer_index: int, reason: str) -> None:
        """The connection to a peer broke: the protocol sends again what is unanswered, on the next one."""
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
            self._loop.call_soon(self._turn_if_asked)

    def _turn_if_asked(self) -> None:
        if self._turn_asked:  # else a turn for another reason has come first
            self._turn()

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
        node = self.node
        self._pump()
        while not self._scheduler.idle:  # the kernel is at work on page faults: virtual time is for nothing
            node.soc.run()
            self._pump()
        rows = node.take_completions()
        if len(rows):
            self._deliver(rows)
        for fn in self._observers:
            fn()
        due_ps = node.timer_ps
        if due_ps is not None and (self._timer is None or due_ps < self._timer_ps):
            self._set_timer(due_ps)

    def _pump(self) -> None:
        """Send one frame while the next is cut: the peer is at work on the first before the last is made."""
        node, more = self.node, True
        while more:
            more = node.pump(1)
            frames = node.take_frames()
            if frames:
                send = self._send
                for peer, frame in frames:
                    send(peer, frame)
                if self._transport is not None:
                    self._transport.flush()

    def _set_timer(self, due_ps: int) -> None:
        """Ring at `due_ps`. A timer that is set stays when its time moves back: it looks when it rings."""
        if self._timer is not None:
            self._timer.cancel()
        # Rounded up: the loop's clock ticks in milliseconds, and early would be once more.
        delay_s = max(due_ps - monotonic_ps(), 0) / 1e12 + 0.0005
        self._timer, self._timer_ps = self._loop.call_later(delay_s, self._on_timer), due_ps

    def _on_timer(self) -> None:
        self._timer = None
        node = self.node
        due_ps = node.timer_ps
        if due_ps is None:
            return
        if due_ps > monotonic_ps():
            self._set_timer(due_ps)
            return
        node.on_timer()
        self._turn()

    def close(self) -> None:
        """No timer rings any more."""
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None

    def _deliver(self, rows: np.ndarray) -> None:
        if len(rows) == 1:
            self._posters[int(rows["wr_id"][0]) >> SLOT_BITS].complete(rows)
            return
        for number, where in by_value(rows["wr_id"] >> np.uint64(SLOT_BITS)):
            self._posters[number].complete(at(rows, where))
