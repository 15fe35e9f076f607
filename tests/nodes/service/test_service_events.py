"""Telemetry and the event bus without a broker; with one: tests/e2e/test_mqtt.py."""

from __future__ import annotations

import asyncio
from collections.abc import Mapping
from typing import Any

import pytest

from support.fake_node import FakeNode
from support.service_harness import requests
from unimem.v1 import types_pb2
from unimem.wire import Op
from unimem_node.kernel.faults import FaultReport
from unimem_node.service import NodeHost
from unimem_node.service.events import NullBus, make_bus
from unimem_node.service.events.mqtt import MqttBus
from unimem_node.service.telemetry import EVENTS_A_SECOND, Telemetry

pytestmark = pytest.mark.asyncio


class Recorder:
    dropped = 0

    def __init__(self) -> None:
        self.events: list[tuple[str, dict[str, Any]]] = []
        self.retained: dict[str, dict[str, Any]] = {}

    async def start(self) -> None:
        pass

    def publish(self, topic: str, event: Mapping[str, Any], *, retain: bool = False) -> None:
        self.events.append((topic, dict(event)))
        if retain:
            self.retained[topic] = dict(event)

    async def stop(self, last: Mapping[str, Any] | None = None) -> None:
        if last is not None:
            self.publish("status", last, retain=True)

    def of(self, topic: str) -> list[dict[str, Any]]:
        return [event for kind, event in self.events if kind == topic]


def report(number: int) -> FaultReport:
    return FaultReport(
        number=number,
        kind="translation fault",
        access="write",
        iova=0x10_0000_0000,
        stream_id=0x200,
        stream_name="rdma",
        context_bank=1,
        asid=1,
        pdid=5,
        stage=1,
        level=3,
        privileged=False,
        multiple=False,
        fsr=0x2,
        fsynr0=0x13,
        time_ps=7_000,
    )


async def test_status_counters_faults_and_interrupts() -> None:
    node, bus = FakeNode(), Recorder()
    host = NodeHost(node)
    telemetry = Telemetry(bus, host, types_pb2.Node(name="n0", index=0, incarnation=3), interval_s=60)
    await telemetry.start()
    await asyncio.sleep(0)
    assert bus.retained["status"]["state"] == "up"
    assert bus.retained["status"]["incarnation"] == 3
    assert bus.of("counters")[0]["counters"] == {"walks": 7}

    line = node.soc.interrupts.line(155)
    for number in (1, 2):
        node.reports.append(report(number))
        line.set(True)
        line.set(False)
        await asyncio.sleep(0)
    await asyncio.sleep(0)
    assert [event["number"] for event in bus.of("faults")] == [1, 2]
    assert bus.of("faults")[0]["iova"] == "0x10_0000_0000"
    assert "translation fault" in bus.of("faults")[0]["text"]
    assert [event["level"] for event in bus.of("interrupts")] == [True, False] * 2

    await host.submit(requests(1, op=Op.SWAP, dst=node.base, length=8))
    assert len(bus.of("faults")) == 2  # each is told once
    await telemetry.stop()
    assert bus.retained["status"]["state"] == "left"


async def test_a_storm_of_faults_is_told_in_part_and_counted() -> None:
    node, bus = FakeNode(), Recorder()
    host = NodeHost(node)
    telemetry = Telemetry(bus, host, types_pb2.Node(name="n0"), interval_s=60)
    await telemetry.start()
    node.reports.extend(report(number) for number in range(1, 5001))
    node.soc.interrupts.line(155).set(True)
    await asyncio.sleep(0)
    await asyncio.sleep(0)
    assert 0 < len(bus.of("faults")) <= 2 * EVENTS_A_SECOND  # the second may have changed meanwhile
    assert telemetry.counters()["events_suppressed"] > 4000
    await telemetry.stop()


async def test_without_a_broker_nothing_is_kept() -> None:
    bus = make_bus("", "unimem", "n0")
    assert isinstance(bus, NullBus)
    await bus.start()
    bus.publish("faults", {})
    await bus.stop({"state": "left"})


async def test_a_broker_that_is_away_costs_the_oldest_events_and_no_time() -> None:
    bus = MqttBus("127.0.0.1:1", "unimem", "n0", queue_limit=10)
    await bus.start()
    loop = asyncio.get_running_loop()
    start = loop.time()
    for i in range(100):
        bus.publish("faults", {"i": i})
    assert bus.dropped == 90
    await asyncio.sleep(0.01)
    assert not bus.connected
    await bus.stop({"state": "left"})
    assert loop.time() - start < 1
