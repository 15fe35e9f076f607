"""All schedules of a small network, driven through the real network interface (its readable paths).

Two nodes, a frame a packet. Frames lie on the wire in the order in which they were sent; every time one is
due, a schedule says what becomes of it: a dict from the number of the step to one of `ACTIONS`; steps it does
not mention deliver. `Pair.play` runs one schedule to the end, `all_schedules` enumerates them up to a number
of misfortunes.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from itertools import combinations, product

import numpy as np

from support.rdma import Cluster, RdmaSpec, TestNode

#: What may become of the frame that is due.
ACTIONS = (
    "drop",
    "twice",  # delivered, and again at once
    "late copy",  # delivered, and again after the next time-out, or when all is over
    "swap",  # the one behind it comes first
    "hold",  # comes after the next time-out
    "break",  # the connection breaks: nothing on the wire arrives, both ends are told
)

SPEC = RdmaSpec(block_bytes=64, frame_payload_bytes=64, frame_packets=1)


class StuckError(AssertionError):
    """Nothing is left to happen, and not everything has ended."""


class Pair:
    """Two nodes and the wire between them; used for many schedules, one after the other."""

    def __init__(self) -> None:
        self.cluster = Cluster(2, fast=False, spec=SPEC)
        self.nodes: list[TestNode] = self.cluster.nodes
        self.wire: list[tuple[int, int, np.ndarray]] = []
        self.held: list[tuple[int, int, np.ndarray]] = []
        self.steps = 0

    def play(self, schedule: dict[int, str], over: Callable[[], bool], limit: int = 500) -> None:
        """Let everything happen until `over()` and the wire is empty; `StuckError` when it never is."""
        self.steps = 0
        for _ in range(limit):
            self._send()
            if self.wire:
                self._step(schedule.get(self.steps, "deliver"))
                self.steps += 1
            elif over() and not self.held:
                return
            elif not self._time_passes() and not self.held:
                raise StuckError(f"after {self.steps} steps")
            else:
                self.wire, self.held = self.held, []
        raise StuckError(f"no end in {limit} turns")

    def _send(self) -> None:
        for node in self.nodes:
            node.pump()
            self.wire += [(node.index, peer, frame) for peer, frame in node.take_frames()]

    def _deliver(self, number: int = 0) -> None:
        source, target, frame = self.wire.pop(number)
        self.nodes[target].on_frame(source, frame)

    def _step(self, action: str) -> None:
        due = self.wire[0]
        if action == "drop":
            self.wire.pop(0)
        elif action == "hold":
            self.held.append(self.wire.pop(0))
        elif action == "break":
            self.wire.clear()
            for node in self.nodes:
                node.ni.connection_lost(1 - node.index, "cut")
        else:
            self._deliver(1 if action == "swap" and len(self.wire) > 1 else 0)
            if action == "twice":
                self.wire.insert(0, due)
                self._deliver()
            elif action == "late copy":
                self.held.append(due)

    def _time_passes(self) -> bool:
        """Let the next timer, or event, come; False when there is none."""
        scheduler = self.cluster.scheduler
        timers = [t for node in self.nodes if (t := node.ni.timer_ps) is not None]
        if scheduler.next_ps is not None:
            timers.append(scheduler.next_ps)
        if not timers:
            return False
        scheduler.run(until_ps=max(min(timers), scheduler.now_ps))
        for node in self.nodes:
            timer = node.ni.timer_ps
            if timer is not None and timer <= scheduler.now_ps:
                node.ni.on_timer()
        return True


def all_schedules(
    steps: int, misfortunes: int, actions: tuple[str, ...] = ACTIONS
) -> Iterator[dict[int, str]]:
    """Every choice of at most so many of the first `steps` steps, with every action at each."""
    for count in range(misfortunes + 1):
        for where in combinations(range(steps), count):
            for what in product(actions, repeat=count):
                yield dict(zip(where, what, strict=True))
