"""BusService.WatchInterrupts over real gRPC: levels, filters, slow and many readers, the node's end."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from typing import Any

import grpc
import grpc.aio
import pytest
import pytest_asyncio

from support.fake_coordinator import FakeCoordinator
from support.service_harness import error_info, eventually, node_server
from unimem.v1 import node_pb2 as pb
from unimem_node.bus.interrupts import InterruptController
from unimem_node.bus.registers import Register, RegisterFile
from unimem_node.service import bus_service
from unimem_node.service.interrupt_watch import Change, InterruptWatch
from unimem_node.service.rpc import Refusal

pytestmark = pytest.mark.asyncio
DEVICE = 0x9000_0000


@pytest_asyncio.fixture
async def served() -> AsyncIterator[Any]:
    coordinator = FakeCoordinator()
    await coordinator.start()
    async with node_server(coordinator) as running:
        yield running
    await coordinator.stop()


async def watch(stubs: Any, *spis: int) -> Any:
    """A call that watches already."""
    call = stubs.bus.WatchInterrupts(pb.WatchInterruptsRequest(spis=spis))
    metadata = dict(await call.initial_metadata())
    assert metadata["unimem-node"] == "n0"
    return call


async def told(call: Any, count: int) -> list[tuple[int, bool]]:
    """The next messages; none of them says that something was left out."""
    async with asyncio.timeout(10):
        messages = [await call.read() for _ in range(count)]
    assert all(isinstance(one, pb.WatchInterruptsResponse) and one.dropped == 0 for one in messages)
    return [(one.spi, one.level) for one in messages]


def latching_device(node: Any, spi: int) -> RegisterFile:
    """A device whose interrupt is high while its status is not cleared; writing GO makes something happen."""
    line = node.soc.interrupts.line(spi)
    registers = RegisterFile("device", 0x1000, (Register("ISR", 0, w1c=1, writable=1), Register("GO", 4)))
    registers.on_write("ISR", lambda *_: line.set(bool(registers.peek("ISR"))))

    def happen() -> None:
        registers.poke("ISR", 1)
        line.set(True)

    registers.on_write("GO", lambda *_: node.soc.scheduler.after(7_000, happen))
    node.soc.bus.attach("device", DEVICE, 0x1000, registers)
    return registers


async def test_a_level_rises_stays_while_uncleared_and_falls_with_the_status(served: Any) -> None:
    _, node, stubs = served
    latching_device(node, 90)
    call = await watch(stubs)
    await stubs.bus.Write(pb.WriteRequest(address=DEVICE + 4, width=4, value=1))
    rising = await call.read()
    assert (rising.spi, rising.level, rising.virtual_time_ns) == (90, True, 7)
    # What happens again while it is high is no change of the line.
    await stubs.bus.Write(pb.WriteRequest(address=DEVICE + 4, width=4, value=1))
    await stubs.bus.Write(pb.WriteRequest(address=DEVICE, width=4, value=0))
    assert list((await stubs.node.GetStatus(pb.GetStatusRequest())).pending_interrupts) == [90]
    await stubs.bus.Write(pb.WriteRequest(address=DEVICE, width=4, value=1))
    assert await told(call, 1) == [(90, False)]
    assert list((await stubs.node.GetStatus(pb.GetStatusRequest())).pending_interrupts) == []
    call.cancel()


async def test_who_comes_later_is_first_told_what_is_asserted(served: Any) -> None:
    _, node, stubs = served
    lines = {spi: node.soc.interrupts.line(spi) for spi in (155, 77, 200)}
    lines[155].set(True)
    lines[77].set(True)
    call = await watch(stubs)
    lines[200].set(True)
    lines[77].set(False)
    assert await told(call, 4) == [(77, True), (155, True), (200, True), (77, False)]
    call.cancel()


async def test_only_the_interrupts_asked_for_are_told(served: Any) -> None:
    _, node, stubs = served
    wanted, other = node.soc.interrupts.line(89), node.soc.interrupts.line(90)
    other.set(True)
    call = await watch(stubs, 89, 91)
    other.set(False)
    wanted.set(True)
    other.set(True)
    wanted.set(False)
    assert await told(call, 2) == [(89, True), (89, False)]
    call.cancel()


async def test_two_devices_on_one_line_are_one_level(served: Any) -> None:
    _, node, stubs = served
    one, two = node.soc.interrupts.line(60), node.soc.interrupts.line(60)
    call = await watch(stubs)
    for line, level in ((one, True), (two, True), (one, False), (two, False), (two, True)):
        line.set(level)
    assert await told(call, 3) == [(60, True), (60, False), (60, True)]
    call.cancel()


async def test_many_watch_and_one_that_leaves_disturbs_nobody(served: Any) -> None:
    _, node, stubs = served
    line = node.soc.interrupts.line(5)
    before = len(node.soc.interrupts._observers)
    calls = [await watch(stubs) for _ in range(40)]
    assert len(node.soc.interrupts._observers) == before + 40
    line.set(True)
    for call in calls:
        assert await told(call, 1) == [(5, True)]
    for call in calls[:39]:
        call.cancel()
    await eventually(lambda: len(node.soc.interrupts._observers) == before + 1)
    line.set(False)
    assert await told(calls[39], 1) == [(5, False)]
    calls[39].cancel()


async def test_a_caller_that_does_not_read_ends_up_with_the_newest_levels(served: Any) -> None:
    _, node, stubs = served
    lines = [node.soc.interrupts.line(spi) for spi in range(20)]
    call = stubs.bus.WatchInterrupts(pb.WatchInterruptsRequest())
    await call.initial_metadata()
    changes = 0
    for round_ in range(30_000):  # nobody reads meanwhile
        lines[round_ % 19].set(round_ // 19 % 2 == 0)
        changes += 1
        if round_ % 500 == 0:
            await asyncio.sleep(0)
    lines[19].set(True)
    changes += 1
    levels: dict[int, bool] = {}
    heard = 0
    async with asyncio.timeout(30):
        while 19 not in levels:
            message = await call.read()
            levels[message.spi] = message.level
            heard += 1 + message.dropped
    assert heard == changes
    assert sorted(spi for spi, level in levels.items() if level) == node.soc.interrupts.pending()
    call.cancel()


async def test_the_end_of_the_node_ends_the_watch_with_the_reason() -> None:
    coordinator = FakeCoordinator()
    await coordinator.start()
    async with node_server(coordinator) as (server, node, stubs):
        call = await watch(stubs)
        node.soc.interrupts.line(4).set(True)
        await server.stop()
        assert await told(call, 1) == [(4, True)]  # what was there before is told before
        with pytest.raises(grpc.aio.AioRpcError) as ended:
            await call.read()
        assert ended.value.code() is grpc.StatusCode.UNAVAILABLE
        assert error_info(ended.value.trailing_metadata())[0] == "STOPPING"
    await coordinator.stop()


async def refused(call: Any) -> tuple[grpc.StatusCode, str, str]:
    with pytest.raises(grpc.aio.AioRpcError) as caught:
        await call.read()
    return caught.value.code(), error_info(caught.value.trailing_metadata())[0], str(caught.value.details())


async def test_interrupts_that_a_gic_does_not_have_are_refused(served: Any) -> None:
    stubs = served[2]
    call = stubs.bus.WatchInterrupts(pb.WatchInterruptsRequest(spis=[3, 988]))
    code, reason, text = await refused(call)
    assert (code, reason) == (grpc.StatusCode.INVALID_ARGUMENT, "INVALID_ARGUMENT")
    assert "SPI 988" in text


async def test_too_many_watches_are_refused(served: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    stubs = served[2]
    monkeypatch.setattr(bus_service, "WATCHES", 2)
    calls = [await watch(stubs) for _ in range(2)]
    code, reason, text = await refused(stubs.bus.WatchInterrupts(pb.WatchInterruptsRequest()))
    assert (code, reason) == (grpc.StatusCode.RESOURCE_EXHAUSTED, "TOO_MANY_WATCHES")
    assert "2 callers" in text
    for call in calls:
        call.cancel()


async def test_the_newest_change_of_each_interrupt_outlives_the_limit() -> None:
    gic = InterruptController()
    lines = {spi: gic.line(spi) for spi in (1, 2, 3)}
    lines[3].set(True)
    one = InterruptWatch(gic, (), lambda: 0, limit=4)
    for _ in range(5):
        lines[1].set(True)
        lines[1].set(False)
    lines[2].set(True)
    one.end(Refusal(grpc.StatusCode.UNAVAILABLE, "END", "the end"))
    heard: list[Change] = []

    async def listen() -> None:
        async for change in one.changes():
            heard.append(change)

    with pytest.raises(Refusal, match="the end"):
        await listen()
    assert sum(1 + change.dropped for change in heard) == 12
    assert {change.spi: change.level for change in heard} == {1: False, 2: True, 3: True}
    assert len(heard) <= 4
    one.close()
