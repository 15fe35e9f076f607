"""Events over MQTT: topics ``unimem/<cluster>/<node>/...``, JSON payloads.

``status`` is retained, and the broker replaces it by ``{"state": "lost"}`` when the node goes without a
word (the last will). One task owns the connection and takes from a bounded queue: when the broker is slow
or away, the oldest events are dropped and counted; retained ones (the state of things) are kept and sent
again after each reconnection.
"""

from __future__ import annotations

import asyncio
import json
from collections import deque
from collections.abc import Mapping
from contextlib import suppress
from typing import Any, Final

import aiomqtt
import structlog

log = structlog.get_logger(__name__)

#: Events kept for a broker that is slow or away.
QUEUE_LIMIT: Final = 1024
_FIRST_DELAY_S: Final = 0.2
_LONGEST_DELAY_S: Final = 10.0
_STOP_S: Final = 2.0
_DEFAULT_PORT: Final = 1883


class MqttBus:
    """An `EventBus` on the broker at ``host[:port]``."""

    def __init__(self, broker: str, cluster: str, node: str, *, queue_limit: int = QUEUE_LIMIT) -> None:
        host, _, port = broker.removeprefix("mqtt://").rpartition(":")
        self._host, self._port = (host, int(port)) if host else (port, _DEFAULT_PORT)
        self._prefix = f"unimem/{cluster}/{node}"
        self._limit = queue_limit
        self._queue: deque[tuple[str, Mapping[str, Any] | None]] = deque()
        self._retained: dict[str, Mapping[str, Any]] = {}  # the newest of each; in the queue they are None
        self._ready = asyncio.Event()
        self._sent = asyncio.Event()
        self._task: asyncio.Task[None] | None = None
        self._connecting = False  # or connected
        self.connected = False
        self.dropped = 0

    async def start(self) -> None:
        """See `EventBus`."""
        self._connecting = True
        self._task = asyncio.create_task(self._run())

    def publish(self, topic: str, event: Mapping[str, Any], *, retain: bool = False) -> None:
        """See `EventBus`."""
        if retain:
            self._retained[topic] = event
        if len(self._queue) >= self._limit:
            self._queue.popleft()
            self.dropped += 1
        self._queue.append((topic, None if retain else event))
        self._ready.set()

    async def stop(self, last: Mapping[str, Any] | None = None) -> None:
        """See `EventBus`. Waits a little for what is queued, not for a broker that is away."""
        if self._task is None:
            return
        if last is not None:
            self.publish("status", last, retain=True)
        with suppress(TimeoutError):
            async with asyncio.timeout(_STOP_S):
                while self._connecting and self._queue:
                    self._sent.clear()
                    await self._sent.wait()
        self._task.cancel()
        await asyncio.gather(self._task, return_exceptions=True)
        self._task = None

    async def _run(self) -> None:
        delay, broker = _FIRST_DELAY_S, f"{self._host}:{self._port}"
        while True:
            self._connecting = True
            try:
                async with self._client() as client:
                    self.connected, delay = True, _FIRST_DELAY_S
                    log.info("event bus connected", broker=broker)
                    async with asyncio.TaskGroup() as group:
                        group.create_task(self._send_all(client))
                        group.create_task(_until_disconnected(client))
            except* (aiomqtt.MqttError, OSError) as errors:
                why = str(errors.exceptions[0])
                log.warning("event bus lost", broker=broker, error=why, retry_in_s=delay)
            finally:
                self.connected = self._connecting = False
                self._sent.set()
            await asyncio.sleep(delay)
            delay = min(2 * delay, _LONGEST_DELAY_S)

    def _client(self) -> aiomqtt.Client:
        will = aiomqtt.Will(f"{self._prefix}/status", json.dumps({"state": "lost"}), qos=1, retain=True)
        return aiomqtt.Client(self._host, self._port, will=will, keepalive=5, timeout=5)

    async def _send_all(self, client: aiomqtt.Client) -> None:
        for topic in self._retained:  # the broker's will may have replaced them
            self._queue.appendleft((topic, None))
        while True:
            while self._queue:
                topic, event = self._queue.popleft()
                try:
                    await self._send(client, topic, event)
                except BaseException:
                    self._queue.appendleft((topic, event))
                    raise
            self._sent.set()
            self._ready.clear()
            await self._ready.wait()

    async def _send(self, client: aiomqtt.Client, topic: str, event: Mapping[str, Any] | None) -> None:
        # States are worth an acknowledgement; a measurement that is lost is followed by the next.
        name, retain = f"{self._prefix}/{topic}", event is None
        payload = json.dumps(self._retained[topic] if event is None else event, default=str)
        await client.publish(name, payload, qos=1 if retain else 0, retain=retain)


async def _until_disconnected(client: aiomqtt.Client) -> None:
    """Nothing is subscribed to: the iteration only ends, by an error, when the connection does."""
    async for _ in client.messages:
        pass
