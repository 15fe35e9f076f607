"""The event bus as the service sees it: publish and forget.

`publish` never blocks, never raises, and never waits for a broker: what cannot be kept is dropped and
counted. Topics are relative (``status``, ``counters``, ``faults``, ``interrupts``); where they hang is the
bus' business.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, Protocol


class EventBus(Protocol):
    """Carries events out."""

    #: Events that could not be kept.
    dropped: int

    async def start(self) -> None:
        """Begin; returns at once, whether or not a broker is there."""

    def publish(self, topic: str, event: Mapping[str, Any], *, retain: bool = False) -> None:
        """Send `event` (JSON values) under `topic`; `retain`: who subscribes later gets it too."""

    async def stop(self, last: Mapping[str, Any] | None = None) -> None:
        """Send `last` as the retained status, then end; bounded in time."""


class NullBus:
    """Nobody listens."""

    def __init__(self) -> None:
        self.dropped = 0

    async def start(self) -> None:
        """Nothing to do."""

    def publish(self, topic: str, event: Mapping[str, Any], *, retain: bool = False) -> None:
        """Nothing to do."""

    async def stop(self, last: Mapping[str, Any] | None = None) -> None:
        """Nothing to do."""


def make_bus(broker: str, cluster: str, node: str) -> EventBus:
    """The bus for `broker` (``host:port``), or for no broker at all (empty)."""
    if not broker:
        return NullBus()
    from unimem_node.service.events.mqtt import MqttBus  # noqa: PLC0415 - only those with a broker pay for it

    return MqttBus(broker, cluster, node)
