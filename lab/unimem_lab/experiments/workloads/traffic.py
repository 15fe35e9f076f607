"""Traffic of many transfers at once, every byte of it checked: `put_get` and `flows`.

What must be in a slot afterwards follows from how its puts ended: after a success the new bytes; after a
failure that is *definite* the old ones; after another failure either, byte for byte.
"""

from __future__ import annotations

import time
from collections import deque
from collections.abc import Callable
from dataclasses import dataclass
from typing import TYPE_CHECKING, Annotated, ClassVar, Literal

import numpy as np
from pydantic import Field

from unimem import UnimemError
from unimem_lab.experiments.values import Count, Share, Size
from unimem_lab.experiments.workloads.base import NotHere, Outcome, Stage, Workload, traffic

if TYPE_CHECKING:
    from unimem import Client, GlobalPtr, Transfer


@dataclass(slots=True)
class _Slot:
    """Bytes that one operation at a time uses: what may be there now."""

    where: GlobalPtr
    node: str
    old: np.ndarray
    new: np.ndarray | None = None  # of a put that may or may not have happened, to any part

    def wrong(self, found: np.ndarray) -> int:
        """How many bytes cannot be."""
        fits = found == self.old
        if self.new is not None:
            fits |= found == self.new
        return int(np.count_nonzero(~fits))

    def ended(self, data: np.ndarray, error: UnimemError | None) -> None:
        """A put of `data` here is over."""
        if error is None:
            self.old, self.new = data, None
        elif not error.definite:
            self.new = data


class _Verified(Workload):
    """What both have: slots to put into, operations under way, a last look at every byte."""

    def _slots(self, stage: Stage, um: Client, node: str, count: int, size: int) -> list[_Slot]:
        base = um.alloc(count * size, node=node)
        stage.memory_in_use(node, int(base), count * size)
        um.put(base, bytes(count * size))
        return [_Slot(base + n * size, node, np.zeros(size, np.uint8)) for n in range(count)]

    def _report(self, stage: Stage, clients: dict[str, Client], slots: list[_Slot], wrong: int) -> Outcome:
        """Read everything back: what is unreadable is counted, not passed over."""
        unreadable = 0
        reader = next(iter(clients.values()))
        for slot in slots:
            try:
                found = reader.get(slot.where, len(slot.old))
            except UnimemError:
                unreadable += 1
            else:
                wrong += slot.wrong(found)
        quantities = traffic(stage.ops)
        quantities |= {"wrong_bytes": wrong, "unreadable": unreadable}
        return Outcome(quantities, expected={"failed": 0, "wrong_bytes": 0, "unreadable": 0})


class PutGetWorkload(_Verified):
    """Random puts and gets between all nodes: `operations` in all, `outstanding` at a time by each client.

    A client runs on every node (at most `clients`). Sizes are drawn from 1 to `bytes`; `reads` is the share
    of gets, whose bytes are checked when they come.
    """

    anywhere: ClassVar[bool] = True

    type: Literal["put_get"]
    operations: Count = 200
    clients: Count = 4
    outstanding: Count = 8
    bytes: Size = 16384
    reads: Share = 0.3

    def play(self, stage: Stage) -> Callable[[], Outcome]:
        """See `Workload.play`."""
        if len(stage.nodes) < 2:
            raise NotHere("put_get needs two nodes: set system.nodes")
        homes = stage.nodes[: self.clients]
        clients = {home: stage.client(home) for home in homes}
        free: list[_Slot] = []
        for node in stage.nodes:
            first = next(iter(clients.values()))
            free += self._slots(stage, first, node, 2 * self.outstanding, self.bytes)
        every = list(free)
        draw = stage.random("put_get")
        under_way: dict[str, deque[tuple[Transfer, _Slot, np.ndarray | None]]] = {
            home: deque() for home in homes
        }
        wrong = 0

        def settle(home: str) -> int:
            transfer, slot, data = under_way[home].popleft()
            error = stage.wait(transfer, "get" if data is None else "put", home, slot.node)
            free.append(slot)
            if data is None:
                return 0 if error else slot.wrong(transfer.result())
            padded = np.concatenate([data, slot.old[len(data) :]])
            slot.ended(padded, error)
            return 0

        stage.ready()
        for number in range(self.operations):
            home = homes[number % len(homes)]
            if len(under_way[home]) >= self.outstanding:
                wrong += settle(home)
            slot = free.pop(draw.randrange(len(free)))
            if draw.random() < self.reads:
                under_way[home].append((clients[home].get_async(slot.where, self.bytes), slot, None))
            else:
                data = np.frombuffer(draw.randbytes(draw.randint(1, self.bytes)), np.uint8)
                under_way[home].append((clients[home].put_async(slot.where, data), slot, data))
        for home in homes:
            while under_way[home]:
                wrong += settle(home)
        return lambda: self._report(stage, clients, every, wrong)


class FlowsWorkload(_Verified):
    """`flows` streams of puts at once, `puts` of `bytes` each, one of a flow following the other.

    `pattern`: `random` pairs of nodes; `neighbour`: each node to the next; `incast`: all to the first node.
    Quantities besides those of all traffic: `fairness` (Jain's index of the flows' goodputs).
    """

    anywhere: ClassVar[bool] = True

    type: Literal["flows"]
    flows: Annotated[int, Field(strict=True, ge=1, le=100_000)] = 64
    puts: Count = 4
    bytes: Size = 16384
    pattern: Literal["random", "neighbour", "incast"] = "random"

    def play(self, stage: Stage) -> Callable[[], Outcome]:
        """See `Workload.play`."""
        nodes = stage.nodes
        if len(nodes) < 2:
            raise NotHere("flows needs two nodes: set system.nodes")
        ends = [self._ends(stage, number) for number in range(self.flows)]
        clients = {home: stage.client(home) for home in nodes}
        places: dict[str, list[int]] = {}
        for number, (_, target) in enumerate(ends):
            places.setdefault(target, []).append(number)
        slots: dict[int, _Slot] = {}
        for target, numbers in places.items():
            made = self._slots(stage, clients[nodes[0]], target, len(numbers), self.bytes)
            slots |= dict(zip(numbers, made, strict=True))
        data = [np.frombuffer(stage.bytes(f"flow {n}", self.bytes), np.uint8) for n in range(self.flows)]
        left = dict.fromkeys(range(self.flows), self.puts)
        under_way: list[tuple[Transfer, int]] = []

        def go_on(number: int) -> None:
            """Post a flow's next put: the first one's end calls for it."""
            left[number] -= 1
            transfer = clients[ends[number][0]].put_async(slots[number].where, data[number])
            under_way.append((transfer, number))
            transfer.add_done_callback(lambda done: ended(number, done))

        def ended(number: int, done: Transfer) -> None:
            """One put of a flow is over; after a failure its flow ends."""
            if done.exception() is not None:
                left[number] = 0
            elif left[number]:
                go_on(number)

        stage.ready()
        for number in range(self.flows):
            go_on(number)
        at = 0
        while at < len(under_way) or any(left.values()):
            if at == len(under_way):  # on processes a callback is not done with its flow yet
                time.sleep(0.001)
                continue
            transfer, number = under_way[at]
            home, target = ends[number]
            slots[number].ended(data[number], stage.wait(transfer, f"flow {number}", home, target))
            at += 1

        def report() -> Outcome:
            outcome = self._report(stage, clients, list(slots.values()), 0)
            rates = _rates(stage)
            if rates:
                squares = len(rates) * sum(rate * rate for rate in rates)
                outcome.quantities["fairness"] = sum(rates) ** 2 / squares
            return outcome

        return report

    def _ends(self, stage: Stage, number: int) -> tuple[str, str]:
        nodes = stage.nodes
        if self.pattern == "incast":
            return nodes[1 + number % (len(nodes) - 1)], nodes[0]
        home = number % len(nodes)
        if self.pattern == "neighbour":
            return nodes[home], nodes[(home + 1) % len(nodes)]
        other = stage.random(f"flow {number}").randrange(len(nodes) - 1)
        return nodes[home], nodes[other if other < home else other + 1]


def _rates(stage: Stage) -> list[float]:
    """Goodput of each flow, bytes a µs."""
    spans: dict[str, tuple[int, int, int]] = {}
    for op in stage.ops:
        if op.outcome == "ok":
            first, last, moved = spans.get(op.label, (op.posted_ps, op.done_ps, 0))
            spans[op.label] = min(first, op.posted_ps), max(last, op.done_ps), moved + op.bytes
    return [moved * 1e6 / (last - first) for first, last, moved in spans.values() if last > first]
