"""Application-like workloads in bulk-synchronous steps: halo exchange, transpose, conjugate gradient (E8).

Each rank is a process' thread on a node (`ranks_per_node` of them), with buffers of its own in the global
address space; in a step all ranks put what others need, all wait for all, then compute for `compute`. What a
rank receives is checked against what was sent. Buffers are new when it begins: with `memory: fresh` their
pages are absent, and faults are what `system.policy` makes of them; with `memory: pinned` they are pinned
first, which takes its time, as a registration does; with `memory: present` they are simply there.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import TYPE_CHECKING, Annotated, ClassVar, Literal

import numpy as np
from pydantic import Field

from unimem_lab.experiments.values import Count, Size, Time, Whole
from unimem_lab.experiments.workloads.base import NotHere, Outcome, Stage, Workload, traffic
from unimem_lab.experiments.workloads.paging import pin, vacate

if TYPE_CHECKING:
    from unimem import Client, GlobalPtr


@dataclass(frozen=True, slots=True)
class Message:
    """`length` bytes from one rank to slot `slot` of another's buffer."""

    src: int
    dst: int
    slot: int
    length: int


class Application(Workload):
    """An application's `steps`, of which the first `simulate` are simulated (0: all).

    It runs for thousands that do not differ: the others are taken to last as long as the last one. Quantities
    besides those of all traffic: `run_ms` of all steps, with what pinning took; `set_up_ms`, that part;
    `first_step_ms`, `last_step_ms`; `steps`.
    """

    ranks_per_node: Annotated[int, Field(strict=True, ge=1, le=64)] = 4
    steps: Count = 10
    simulate: Whole = 0
    compute: Time = 200_000_000
    memory: Literal["present", "fresh", "pinned"] = "present"

    #: How many slots a rank's buffer has, and their size; `messages`: who puts what in step `step`.
    def layout(self, ranks: int) -> tuple[int, int]:
        """(slots, bytes of a slot) of a rank's buffer."""
        raise NotImplementedError

    def messages(self, step: int, ranks: int) -> Iterator[list[Message]]:
        """The rounds of a step: all messages of a round are under way at once."""
        raise NotImplementedError

    def play(self, stage: Stage) -> Callable[[], Outcome]:
        """See `Workload.play`."""
        nodes = stage.nodes
        ranks = len(nodes) * self.ranks_per_node
        if ranks < 2:
            raise NotHere("an application needs two ranks: set system.nodes, or workload.ranks_per_node")
        where = [nodes[rank // self.ranks_per_node] for rank in range(ranks)]
        clients = {node: stage.client(node) for node in nodes}
        slots, size = self.layout(ranks)
        buffers = [clients[node].alloc(slots * size, node=node) for node in where]
        data = np.frombuffer(stage.bytes("application", size), np.uint8)
        set_up = self._prepare(stage, clients, where, buffers, slots * size)
        stage.ready()
        stage.elapse(set_up)
        expected: dict[tuple[int, int], np.ndarray] = {}
        ends = [set_up]
        simulated = min(self.simulate or self.steps, self.steps)
        for step in range(simulated):
            for number, messages in enumerate(self.messages(step, ranks)):
                self._exchange(stage, clients, where, buffers, size, data, step, number, messages, expected)
            stage.elapse(self.compute)
            ends.append(stage.now_ps)
        first, last = ends[1] - ends[0], ends[-1] - ends[-2]
        run = ends[-1] + (self.steps - simulated) * last

        def report() -> Outcome:
            wrong = 0
            reader = clients[nodes[0]]
            for (rank, slot), sent in expected.items():
                found = reader.get(buffers[rank] + slot * size, len(sent))
                wrong += int(np.count_nonzero(found != sent))
            quantities = traffic(stage.ops)
            quantities |= {
                "run_ms": run / 1e9,
                "set_up_ms": set_up / 1e9,
                "first_step_ms": first / 1e9,
                "last_step_ms": last / 1e9,
                "steps": self.steps,
                "wrong_bytes": wrong,
            }
            return Outcome(quantities, expected={"failed": 0, "wrong_bytes": 0})

        return report

    def _prepare(
        self, stage: Stage, clients: dict[str, Client], where: list[str], buffers: list[GlobalPtr], n: int
    ) -> int:
        """Bring buffers into the state that `memory` says; how long that takes (ps), on all nodes at once."""
        took: dict[str, int] = {}
        for node, buffer in zip(where, buffers, strict=True):
            stage.memory_in_use(node, int(buffer), n)
            if self.memory != "present":
                vacate(stage, node, int(buffer), n)
            if self.memory == "pinned":
                cost = pin(stage, node, int(buffer), n)
                took[node] = max(took.get(node, 0), cost)  # a rank has a core of its own
        return max(took.values(), default=0)

    def _exchange(
        self,
        stage: Stage,
        clients: dict[str, Client],
        where: list[str],
        buffers: list[GlobalPtr],
        size: int,
        data: np.ndarray,
        step: int,
        number: int,
        messages: list[Message],
        expected: dict[tuple[int, int], np.ndarray],
    ) -> None:
        transfers = []
        for message in messages:
            sent = np.roll(data[: message.length], message.src + step + number)
            target = buffers[message.dst] + message.slot * size
            transfers.append((message, sent, clients[where[message.src]].put_async(target, sent)))
        for message, sent, transfer in transfers:
            label = f"step {step}: {message.src} → {message.dst}"
            error = stage.wait(transfer, label, where[message.src], where[message.dst])
            if error is None:
                expected[message.dst, message.slot] = sent
            else:
                expected.pop((message.dst, message.slot), None)


class HaloWorkload(Application):
    """A stencil in two dimensions: in each step a rank puts four edges of `edge` bytes to its neighbours."""

    type: Literal["halo"]
    edge: Size = 16384

    def layout(self, ranks: int) -> tuple[int, int]:
        """See `Application.layout`."""
        return 8, self.edge  # four edges, twice: what came in the last step is still being read

    def messages(self, step: int, ranks: int) -> Iterator[list[Message]]:
        """See `Application.messages`."""
        rows = next(side for side in range(int(ranks**0.5), 0, -1) if ranks % side == 0)
        columns = ranks // rows
        found = []
        for rank in range(ranks):
            row, column = divmod(rank, columns)
            around = (
                ((row - 1) % rows) * columns + column,
                ((row + 1) % rows) * columns + column,
                row * columns + (column - 1) % columns,
                row * columns + (column + 1) % columns,
            )
            found += [
                Message(rank, other, side + 4 * (step % 2), self.edge)
                for side, other in enumerate(around)
                if other != rank
            ]
        yield found


class TransposeWorkload(Application):
    """A distributed transpose, as in an FFT: in each step every rank puts `tile` bytes to every other."""

    type: Literal["transpose"]
    tile: Size = 4096

    def layout(self, ranks: int) -> tuple[int, int]:
        """See `Application.layout`."""
        return ranks, self.tile

    def messages(self, step: int, ranks: int) -> Iterator[list[Message]]:
        """See `Application.messages`."""
        yield [
            Message(rank, (rank + shift) % ranks, rank, self.tile)
            for shift in range(1, ranks)
            for rank in range(ranks)
        ]


class ReduceWorkload(Application):
    """A conjugate gradient's step: halo with two neighbours, then two reductions by recursive doubling.

    `edge`: bytes to each neighbour; `words`: of 8 bytes that a reduction sums.
    """

    type: Literal["reduce"]
    edge: Size = 16384
    words: Count = 1

    reductions: ClassVar[int] = 2

    def layout(self, ranks: int) -> tuple[int, int]:
        """See `Application.layout`."""
        rounds = max(1, (ranks - 1).bit_length())
        return 4 + self.reductions * rounds, max(self.edge, 8 * self.words)

    def messages(self, step: int, ranks: int) -> Iterator[list[Message]]:
        """See `Application.messages`."""
        halo = []
        for rank in range(ranks):
            for side, other in enumerate(((rank - 1) % ranks, (rank + 1) % ranks)):
                if other != rank:
                    halo.append(Message(rank, other, side + 2 * (step % 2), self.edge))
        yield halo
        rounds = max(1, (ranks - 1).bit_length())
        for reduction in range(self.reductions):
            for number in range(rounds):
                slot = 4 + reduction * rounds + number
                yield [
                    Message(rank, rank ^ 1 << number, slot, 8 * self.words)
                    for rank in range(ranks)
                    if rank ^ 1 << number < ranks
                ]
