"""A node's events on a real broker."""

from __future__ import annotations

import asyncio
import json
import signal
from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import aiomqtt
import grpc
import grpc.aio
import pytest

from support.broker import Broker
from support.fake_coordinator import FakeCoordinator
from support.node_process import Process
from support.require import require
from unimem.v1 import node_pb2, node_pb2_grpc
from unimem_node.service.events.mqtt import MqttBus

pytestmark = [pytest.mark.mosquitto, pytest.mark.asyncio]


@pytest.fixture
def broker(tmp_path: Path) -> Iterator[Broker]:
    require("mosquitto")
    one = Broker(tmp_path)
    one.start()
    yield one
    one.stop()


@asynccontextmanager
async def listener(broker: Broker, topic: str) -> AsyncIterator[AsyncIterator[tuple[str, bool, Any]]]:
    """(topic, retained, event) of what arrives."""
    async with aiomqtt.Client("127.0.0.1", broker.port) as client:
        await client.subscribe(topic)

        async def events() -> AsyncIterator[tuple[str, bool, Any]]:
            async for message in client.messages:
                assert isinstance(message.payload, bytes)
                yield str(message.topic), message.retain, json.loads(message.payload)

        yield events()


async def until(
    events: AsyncIterator[tuple[str, bool, Any]], topic: str, **expected: Any
) -> tuple[bool, Any]:
    """(retained, event) of the first event under `topic` that has the `expected` values."""
    async with asyncio.timeout(20):
        async for name, retained, event in events:
            if name.endswith(topic) and all(event.get(key) == value for key, value in expected.items()):
                return retained, event
    raise AssertionError("the broker closed the connection")


async def test_a_node_process_says_how_it_is_until_and_after_its_end(broker: Broker) -> None:
    coordinator = FakeCoordinator()
    await coordinator.start()
    arguments = ["--coordinator", coordinator.address, "--name", "n0", "--memory-bytes", "64MiB"]
    arguments += ["--mqtt", broker.address, "--cluster", "test", "--counters-interval-s", "0.1"]
    async with listener(broker, "unimem/test/n0/#") as events:
        async with await Process.start("unimem_node.service", *arguments) as node:
            address = (await node.line()).removeprefix("listening on ")
            _, status = await until(events, "/status", state="up")
            assert (status["address"], status["incarnation"]) == (address, 1)
            _, counted = await until(events, "/counters")
            assert counted["counters"]
            assert 0 < counted["virtual_time_ns"] < 100_000  # the kernel has waited for a TLB sync
            await node.end(signal.SIGKILL)
        await until(events, "/status", state="lost")
        async with await Process.start("unimem_node.service", *arguments) as node:
            await node.line()
            await until(events, "/status", state="up", incarnation=2)
            assert await node.end(signal.SIGTERM) == 0
        await until(events, "/status", state="left")
    async with listener(broker, "unimem/test/+/status") as events:
        assert (await until(events, "/status"))[0]  # who comes later is told
    await coordinator.stop()


async def test_a_faults_interrupt_rises_and_falls_on_the_broker(broker: Broker) -> None:
    """FPD DMA channel 0 runs with a stream that nobody routed; the kernel serves SMMU and channel."""
    coordinator = FakeCoordinator()
    await coordinator.start()
    arguments = ["--coordinator", coordinator.address, "--name", "n0", "--memory-bytes", "64MiB"]
    arguments += ["--mqtt", broker.address, "--cluster", "test", "--counters-interval-s", "60"]
    async with (
        listener(broker, "unimem/test/n0/#") as events,
        await Process.start("unimem_node.service", *arguments) as node,
    ):
        address = (await node.line()).removeprefix("listening on ")
        await until(events, "/status", state="up")
        async with grpc.aio.insecure_channel(address) as channel:
            bus: Any = node_pb2_grpc.BusServiceStub(channel)  # type: ignore[no-untyped-call]
            for offset, value in ((0x128, 0x10_0000), (0x138, 0x20_0000), (0x130, 64), (0x200, 1)):
                await bus.Write(node_pb2.WriteRequest(address=0xFD50_0000 + offset, width=4, value=value))
            _, fault = await until(events, "/faults")
            assert (fault["kind"], fault["stream_id"]) == ("unidentified stream", 0x14E8)
            _, risen = await until(events, "/interrupts", spi=155, level=True)
            _, fallen = await until(events, "/interrupts", spi=155, level=False)
            assert fallen["virtual_time_ns"] >= risen["virtual_time_ns"] > 0
            await until(events, "/interrupts", spi=124, level=True)
            await until(events, "/interrupts", spi=124, level=False)
        assert await node.end(signal.SIGTERM) == 0
    await coordinator.stop()


async def test_events_wait_for_a_broker_that_restarts(broker: Broker) -> None:
    bus = MqttBus(broker.address, "test", "n1")
    await bus.start()
    bus.publish("status", {"state": "up"}, retain=True)
    async with listener(broker, "unimem/test/#") as events:
        await until(events, "n1/status", state="up")
    broker.stop()
    async with asyncio.timeout(20):
        while bus.connected:
            bus.publish("faults", {"number": 1})
            await asyncio.sleep(0.01)
    bus.publish("faults", {"number": 2})
    broker.start()
    async with listener(broker, "unimem/test/#") as events:
        retained, _ = await until(events, "n1/status", state="up")
    await bus.stop({"state": "left"})
    async with listener(broker, "unimem/test/#") as events:
        retained, _ = await until(events, "n1/status")
        assert retained
    assert bus.dropped == 0


async def test_the_newest_status_is_the_one_retained(broker: Broker) -> None:
    bus = MqttBus(broker.address, "test", "n2")
    await bus.start()
    for state in ("starting", "up"):
        bus.publish("status", {"state": state}, retain=True)
    await bus.stop({"state": "left"})
    async with listener(broker, "unimem/test/n2/status") as events:
        assert await until(events, "/status") == (True, {"state": "left"})
