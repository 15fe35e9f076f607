"""Breadth-first exploration of a model: every state that can be reached, and what is wrong with it."""

from __future__ import annotations

from collections import deque
from dataclasses import dataclass, field
from typing import Any


@dataclass
class Explored:
    """`states` were seen; `violation` (empty: none) was found in `state`, `depth` steps from the start."""

    states: int = 0
    violation: str = ""
    trace: list[Any] = field(default_factory=list)


def explore(model: Any, start: Any, *, limit: int = 2_000_000, live: bool = True) -> Explored:
    """Look at everything reachable from `start`; stop at the first violation, with the shortest way to it.

    `live`: check, too, that from every state all can still end well or badly without any further misfortune.
    Raises `AssertionError` when there are more than `limit` states.
    """
    numbers = {start: 0}
    parents = [-1]
    states = [start]
    backwards: list[list[int]] = [[]]
    queue = deque([0])
    done: list[int] = []

    def trace(number: int) -> list[Any]:
        way = []
        while number >= 0:
            way.append(states[number])
            number = parents[number]
        return way[::-1]

    while queue:
        here = queue.popleft()
        state = states[here]
        wrong = model.violation(state)
        if wrong:
            return Explored(len(states), wrong, trace(here))
        if model.settled(state):
            done.append(here)
        for misfortune, after in model.steps(state):
            number = numbers.get(after)
            if number is None:
                number = numbers[after] = len(states)
                assert number < limit, f"more than {limit} states"
                states.append(after)
                parents.append(here)
                backwards.append([])
                queue.append(number)
            if live and not misfortune and number != here:
                backwards[number].append(here)
    if live:
        ends = set(done)
        pending = list(done)
        while pending:
            for before in backwards[pending.pop()]:
                if before not in ends:
                    ends.add(before)
                    pending.append(before)
        if len(ends) < len(states):
            lost = next(i for i in range(len(states)) if i not in ends)
            return Explored(len(states), "a request can never end", trace(lost))
    return Explored(len(states))
