"""A bad network between the nodes of `support.rdma`, and the clock that moves when nothing else does.

Frames are lost, doubled, delayed past others and damaged, each with its probability, and connections break;
what happens is a function of the seed. Timers of the interfaces are served when nothing is on the wire.
"""

from __future__ import annotations

import random
from dataclasses import dataclass, field

import numpy as np

from support.rdma import Cluster


@dataclass
class LossyNet:
    """Drives a `Cluster` to its end through a network with these faults (probabilities of each frame)."""

    cluster: Cluster
    seed: int = 0
    loss: float = 0.0
    twice: float = 0.0
    reorder: float = 0.0
    damage: float = 0.0
    breaks: float = 0.0  # ... that the connection breaks instead of bringing it
    dead: set[int] = field(default_factory=set)  # nodes whose frames go nowhere
    frames: int = 0
    wire: list[tuple[int, int, np.ndarray]] = field(default_factory=list)

    def __post_init__(self) -> None:
        self._random = random.Random(self.seed)

    def run(self, turns: int = 20_000) -> None:
        """Until nothing is left to happen. `AssertionError` after so many frames and timers."""
        for _ in range(turns):
            for node in self.cluster.nodes:
                node.pump()
                self.wire += [(node.index, peer, frame) for peer, frame in node.take_frames()]
            if self.wire:
                self._carry()
            elif not self._time_passes():
                return
        raise AssertionError(f"no end in {turns} turns")

    def completions(self, index: int = 0) -> np.ndarray:
        """Of a node, by `wr_id`, when everything is over."""
        self.run()
        rows = self.cluster.nodes[index].ni.take_completions()
        return rows[np.argsort(rows["wr_id"], kind="stable")]

    def _carry(self) -> None:
        dice = self._random.random
        number = 0
        if dice() < self.reorder:
            number = self._random.randrange(len(self.wire))
        source, target, frame = self.wire.pop(number)
        self.frames += 1
        if dice() < self.breaks:
            self.wire = [w for w in self.wire if {w[0], w[1]} != {source, target}]
            self.cluster.nodes[source].ni.connection_lost(target, "it broke")
            self.cluster.nodes[target].ni.connection_lost(source, "it broke")
            return
        if dice() < self.loss or source in self.dead or target in self.dead:
            return
        if dice() < self.twice:
            self.wire.append((source, target, frame))
        if dice() < self.damage:
            frame = frame.copy()
            frame[self._random.randrange(len(frame))] ^= 1 << self._random.randrange(8)
            frame.setflags(write=False)
        self.cluster.nodes[target].on_frame(source, frame)

    def _time_passes(self) -> bool:
        """Let the next timer or event come; False when there is none."""
        scheduler = self.cluster.scheduler
        due = [t for node in self.cluster.nodes if (t := node.ni.timer_ps) is not None]
        if scheduler.next_ps is not None:
            due.append(scheduler.next_ps)
        if not due:
            return False
        scheduler.run(until_ps=max(min(due), scheduler.now_ps))
        for node in self.cluster.nodes:
            timer = node.ni.timer_ps
            if timer is not None and timer <= scheduler.now_ps:
                node.ni.on_timer()
        return True
