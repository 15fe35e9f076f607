"""The log of a run: what happened, where, at which virtual time; the same seed gives the same bytes."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np


class LogRow(NamedTuple):
    """One event. `fields` are plain values: int, float, str, bool, None, bytes, or lists of them."""

    time_ps: int
    node: str
    kind: str
    fields: dict[str, Any]


class EventLog:
    """Events in the order in which they were recorded. Recording costs one tuple."""

    def __init__(self) -> None:
        self._rows: list[tuple[int, str, str, dict[str, Any]]] = []

    def record(self, time_ps: int, node: str, kind: str, **fields: Any) -> None:
        """Append an event."""
        self._rows.append((time_ps, node, kind, fields))

    def __len__(self) -> int:
        return len(self._rows)

    @property
    def rows(self) -> list[LogRow]:
        """What was recorded, in order."""
        return [LogRow(*row) for row in self._rows]

    def lines(self) -> Iterator[str]:
        """Yield each event as one line of JSON with sorted keys."""
        for time_ps, node, kind, fields in self._rows:
            row = {**fields, "time_ps": time_ps, "node": node, "kind": kind}
            yield json.dumps(row, sort_keys=True, separators=(",", ":"), default=_plain)

    def dump(self, path: str | Path) -> None:
        """Write the events as JSON lines."""
        with Path(path).open("w", encoding="utf-8", newline="\n") as file:
            file.writelines(line + "\n" for line in self.lines())


def _plain(value: Any) -> Any:
    """Turn what NumPy and the wire hand us into what JSON knows."""
    if isinstance(value, np.generic):
        return value.item()
    if isinstance(value, np.ndarray):
        return value.tolist()
    if isinstance(value, bytes | bytearray | memoryview):
        return bytes(value).hex()
    raise TypeError(f"an event's field cannot be a {type(value).__name__}")
