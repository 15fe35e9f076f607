"""The `memory` transport: frames between nodes of one process, delivered at their virtual time.

All nodes share one scheduler. A frame is delivered when the last of its packets has arrived (the sender's
link model says when, in the frame's header), so no effect is seen before its time; two frames that arrive
at the same time are delivered in the order in which they were sent. That makes a run a function of its
inputs. What a frame causes at its receiver (acknowledgements, further blocks) is carried on at once.

The network may be bad (`impair`), links may be cut (`partition`), and a node's interface may stand still or
be slow (`pause`, `slow`): frames then wait in front of it. A node's timer runs when nothing else is due any
more at its time; the clock never moves for a timer that nobody wants any more.

This is the readable event loop. Frames between nodes that run compiled go through `_fast_network`, which does
the same in the same order, and comes back here at whatever is unusual.
"""

from __future__ import annotations

import struct
from collections.abc import Iterable
from functools import partial
from heapq import heappop, heappush
from typing import Any, Final

import numpy as np

from unimem_node._jit import COMPILED
from unimem_node.clock import Scheduler

from . import _fast_network as fast
from ._fast_columns import H_TIME, HEADER
from .arena import Arena
from .impair_rules import later
from .port import Bytes, Impairment, Port
from .transport import FrameSource

_arrival: Final = struct.Struct("<Q").unpack_from
_NEVER: Final = fast.NEVER


class MemoryFabric:
    """Connects the nodes of one process. `fast=False`: every frame is delivered by Python."""

    name = "memory"

    def __init__(self, scheduler: Scheduler, *, fast: bool = True) -> None:
        self._scheduler = scheduler
        self._ports: dict[int, Port] = {}
        self._rows: list[Port] = []
        self._timers: list[tuple[int, int]] = []  # (time, row)
        self._impair: Impairment | None = None
        self._cuts: set[tuple[int, int]] = set()
        self._arena = Arena() if COMPILED and fast else None
        #: Nodes that are watched and may have completions, to be emptied by who watches.
        self.ended: list[FrameSource] = []
        scheduler.attach(self)

    # ---- nodes ----------------------------------------------------------------------------------------

    def attach(self, index: int, node: FrameSource) -> None:
        """Connect a node; an index whose node was cut may be attached again."""
        port = self._ports.get(index)
        if port is not None and port.node is not None:
            raise ValueError(f"node {index} is attached already")
        port = self._ports[index] = Port(index, node, len(self._rows))
        self._rows.append(port)
        if self._arena is not None:
            self._arena.add_port(index)
            core = getattr(node, "direct", None)
            if core is not None:
                port.core = core
                core.on_handle = partial(self._arena.bind, port.row, core)
                core.smmu.on_change = partial(self._by_python, port.row)
                core.on_handle()
        if hasattr(node, "wake"):
            node.wake = partial(self._wake, port)
        self._settle(port)

    def watch(self, index: int) -> None:
        """Say in `ended` when node `index` may have completions."""
        port = self._ports[index]
        port.watched = True
        if self._arena is not None:
            self._arena.ports[port.row, fast.Q_WATCHED] = 1

    def pause(self, index: int) -> None:
        """Let a node's interface stand still: it takes and sends no frames, and its timer does not run."""
        port = self._ports[index]
        port.paused = True
        self._by_python(port.row)

    def resume(self, index: int) -> None:
        """End `pause`: everything that has come meanwhile is taken now, in order."""
        port = self._ports[index]
        if port.paused:
            port.paused = False
            self._wake(port)
            self._drain_at(port)

    def slow(self, index: int, gap_ps: int) -> None:
        """Let a node take one frame in `gap_ps` at most; 0: as fast as they come."""
        if gap_ps < 0:
            raise ValueError(f"a gap of {gap_ps} ps between frames")
        self._ports[index].gap_ps = gap_ps
        self._by_python(self._ports[index].row)

    def cut(self, index: int, reason: str = "the node was cut off") -> None:
        """End a node: what is under way to it is dropped, and everybody it has spoken with loses it.

        Frames it has sent before still arrive.
        """
        port = self._ports[index]
        if port.node is None:
            return
        port.node = None
        port.queue.clear()
        if self._arena is not None:
            self._learn_who_spoke()
            self._arena.drop_port(port.row)
        for other in list(self._ports.values()):
            if other.node is not None and (index in other.spoken or other.index in port.spoken):
                other.spoken.discard(index)
                other.node.peer_lost(index, reason)
                self._turn(other)

    def close(self) -> None:
        """Detach all nodes; frames under way are dropped and nobody is told."""
        for port in self._rows:
            port.node = None
            port.queue.clear()
        if self._arena is not None:
            self._arena.close()
        self._ports.clear()
        self._timers.clear()

    # ---- the network between them -------------------------------------------------------------------------

    @property
    def impair(self) -> Impairment | None:
        """What happens to frames that are sent from now on; None: nothing."""
        return self._impair

    @impair.setter
    def impair(self, impair: Impairment | None) -> None:
        self._impair = impair
        self._plain()

    def partition(self, sources: Iterable[int], targets: Iterable[int], *, oneway: bool = False) -> None:
        """Drop what nodes of one group send to the other from now on, and (not `oneway`) the reverse."""
        targets = tuple(targets)
        for a in sources:
            for b in targets:
                self._cuts.add((a, b))
                if not oneway:
                    self._cuts.add((b, a))
        self._plain()

    def heal(self) -> None:
        """End all partitions."""
        self._cuts.clear()
        self._plain()

    def _plain(self) -> None:
        if self._arena is not None:
            self._arena.x[fast.X_PLAIN] = int(self._impair is None and not self._cuts)

    # ---- frames ---------------------------------------------------------------------------------------

    def turn(self, index: int) -> None:
        """Let node `index` do what it can now, and put its frames on their way."""
        port, arena = self._ports[index], self._arena
        if arena is not None and arena.ports[port.row, fast.Q_LIFE] == fast.DIRECT:
            port.core.tick()
            self._enter(arena)
            stop = fast.turn(arena.net, port.row)
            self._leave(arena)
            if stop == fast.STOP_LIMIT:
                self._settle(port)
            else:
                self._go_on(arena, stop)
        else:
            self._turn(port)

    def carry(self, index: int | None = None) -> None:
        """Take the frames of node `index` (None: of all nodes) and put them on their way."""
        for port in list(self._ports.values()) if index is None else (self._ports[index],):
            self._take(port)

    def send(self, src: int, peer: int, frame: Bytes) -> None:
        """Put one frame on its way, as if node `src` had sent it; raises `ValueError` for an empty one."""
        self._send(self._ports[src], peer, frame)

    def _turn(self, port: Port) -> None:
        """As `turn`, readable."""
        if port.node is not None and not port.paused:
            port.node.pump()
            self._take(port)

    def _take(self, port: Port) -> None:
        if port.node is not None and not port.paused:
            for peer, frame in port.node.take_frames():
                self._send(port, peer, frame)
            self._settle(port)

    def _send(self, port: Port, peer: int, frame: Bytes) -> None:
        if len(frame) < HEADER:
            raise ValueError(f"a frame of {len(frame)} bytes from node {port.index} has no header")
        scheduler = self._scheduler
        to = self._ports.get(peer)
        if to is None or to.node is None:
            # Told at once, but not from inside the sender's own call.
            scheduler.at(scheduler.now_ps, lambda: self._unreachable(port, peer))
            return
        port.spoken.add(peer)
        if (port.index, peer) in self._cuts:
            return
        if self._impair:
            for delay, arriving in self._impair.apply(frame, scheduler.now_ps):
                self._put(port, to, arriving, scheduler.now_ps + delay)
        else:
            self._put(port, to, frame, scheduler.now_ps)

    def _put(self, port: Port, to: Port, frame: Bytes, earliest: int) -> None:
        """Have a frame arrive at its time."""
        (arrival,) = _arrival(frame.data, H_TIME)
        due = max(arrival, earliest)
        if self._arena is None or to.core is None:
            self._scheduler.at(due, partial(self._deliver, port.index, to, frame))
        else:
            self._enter(self._arena)
            self._arena.put(due, port.row, to.row, frame)
            self._scheduler.number = self._arena.x[fast.X_NUMBER]

    def _deliver(self, src: int, port: Port, frame: Bytes) -> None:
        node = port.node
        if node is None:
            return
        if port.paused or port.queue or port.free_ps > self._scheduler.now_ps:
            port.queue.append((src, frame))
            self._drain_at(port)
            return
        if port.gap_ps:
            port.free_ps = self._scheduler.now_ps + port.gap_ps
        node.on_frame(src, frame)
        self._turn(port)

    def _drain_at(self, port: Port) -> None:
        """Have the first frame of a node's queue taken as soon as it may be."""
        if port.queue and not port.paused and port.drain is None:
            due = max(port.free_ps, self._scheduler.now_ps)
            port.drain = self._scheduler.at(due, partial(self._drain, port))

    def _drain(self, port: Port) -> None:
        port.drain = None
        if port.node is None or port.paused or not port.queue:
            return
        src, frame = port.queue.popleft()
        now = self._scheduler.now_ps
        port.free_ps = now + port.gap_ps
        self._drain_at(port)
        (arrival,) = _arrival(frame.data, H_TIME)
        port.node.on_frame(src, later(frame, now - arrival))  # nothing is served before it was taken
        self._turn(port)

    def _unreachable(self, port: Port, peer: int) -> None:
        if port.node is not None:
            port.node.peer_unreachable(peer, f"node {peer} is not attached")
            self._turn(port)

    def _wake(self, port: Port) -> None:
        """Give a node a turn, but not from inside its own call."""
        self._scheduler.at(self._scheduler.now_ps, partial(self._turn, port))

    # ---- timers ---------------------------------------------------------------------------------------

    def _settle(self, port: Port) -> None:
        """After a node did something: its timer, its completions, and who runs it next."""
        node = port.node
        if node is None:
            return
        if port.watched:
            self.ended.append(node)
        due = node.timer_ps
        if due is not None:
            due = max(due, self._scheduler.now_ps)
        arena = self._arena
        if arena is not None:
            if due is not None:
                arena.arm(port.row, due)
            core = port.core
            if core is not None and not port.paused and not port.gap_ps and not port.queue:
                life = fast.DIRECT if core.settled and port.free_ps == 0 else fast.PYTHON
                arena.ports[port.row, fast.Q_LIFE] = life
        elif due is not None and due < port.armed_ps:
            port.armed_ps = due
            heappush(self._timers, (due, port.row))

    def _expire(self, port: Port, due: int) -> bool:
        """The timer in the queue for `due` is next: run it if the node still wants it."""
        node = port.node
        if node is None or port.paused:  # `resume` gives it a turn
            return False
        wanted = node.timer_ps
        if wanted is None or wanted > due:
            if wanted is not None:
                self._settle(port)
            return False
        self._scheduler.advance_to(due)
        node.on_timer()
        self._turn(port)
        return True

    # ---- a source of events -----------------------------------------------------------------------------

    def due(self) -> tuple[int, int] | None:
        """(time, number) of the next timer or, when compiled, frame."""
        if self._arena is not None:
            return self._arena.due()
        return (self._timers[0][0], fast.TIMERS + self._timers[0][1]) if self._timers else None

    def step(self, before: tuple[int, int]) -> bool:
        """Run the next timer or frame that is due before `before`; see `clock.scheduler.Source`."""
        if self._arena is not None:
            return self._step_compiled(self._arena, before)
        while self._timers and (self._timers[0][0], fast.TIMERS + self._timers[0][1]) < before:
            due, row = heappop(self._timers)
            port = self._rows[row]
            if due == port.armed_ps:
                port.armed_ps = _NEVER
                if self._expire(port, due):
                    return True
        return False

    def _enter(self, arena: Arena) -> None:
        x, scheduler = arena.x, self._scheduler
        x[fast.X_NOW], x[fast.X_NUMBER] = scheduler.now_ps, scheduler.number

    def _leave(self, arena: Arena) -> None:
        x, scheduler = arena.x, self._scheduler
        scheduler.now_ps, scheduler.number = x[fast.X_NOW], x[fast.X_NUMBER]
        if x[fast.X_RELEASED] >= 0:
            arena.sweep()

    def _step_compiled(self, arena: Arena, before: tuple[int, int]) -> bool:
        x = arena.x
        x[fast.X_LIMIT_TIME], x[fast.X_LIMIT_NUMBER] = before
        ran = x[fast.X_RAN]
        while x[fast.X_COUNT]:
            self._enter(arena)
            stop = fast.run(arena.net)
            self._leave(arena)
            if stop == fast.STOP_LIMIT:
                break
            if stop == fast.STOP_COMPLETION:
                node = self._rows[x[fast.X_PORT]].node
                assert node is not None
                self.ended.append(node)
                return True
            if self._go_on(arena, stop):
                return True
        return x[fast.X_RAN] != ran

    def _go_on(self, arena: Arena, stop: int) -> bool:
        """Do what compiled code has left; False when that was not worth a step."""
        x = arena.x
        port = self._rows[x[fast.X_PORT]]
        if stop == fast.STOP_ROOM:
            arena.make_room()
            return False
        if stop == fast.STOP_TIMER:
            return self._expire(port, x[fast.X_DUE])
        if stop == fast.STOP_FRAME:
            src, frame = arena.frame()
            self._deliver(self._rows[src].index, port, frame)
            self._introduce(arena, port, self._rows[src])
            return True
        ni: Any = port.node
        if stop == fast.STOP_WAKE:
            pass
        elif stop == fast.STOP_RECEIVE:
            src, frame = arena.frame()
            ni.go_on_receiving(self._rows[src].index, frame, x[fast.X_SIZE])
        elif stop == fast.STOP_CUT:
            ni.go_on_cutting(x[fast.X_SIZE])
        elif stop == fast.STOP_SEND:
            ni.forward(x[fast.X_PEER], x[fast.X_SIZE])
            arena.make_room()
        self._turn(port)
        return True

    def _introduce(self, arena: Arena, port: Port, src: Port) -> None:
        """Let compiled code know by which row a node knows the sender of a frame."""
        if port.core is not None and not arena.known(port.row, src.row):
            row = port.core.peer_rows.get(src.index)
            if row is not None:
                arena.introduce(port.row, src.row, row)

    def _by_python(self, row: int) -> None:
        """A node's next event is Python's."""
        if self._arena is not None:
            ports = self._arena.ports
            if ports[row, fast.Q_LIFE] == fast.DIRECT:
                ports[row, fast.Q_LIFE] = fast.PYTHON

    def _learn_who_spoke(self) -> None:
        """Who sent frames to whom from compiled code."""
        assert self._arena is not None
        for a, b in zip(*np.nonzero(self._arena.spoken), strict=True):
            self._rows[a].spoken.add(self._rows[b].index)
        self._arena.spoken[:] = 0
