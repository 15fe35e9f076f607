"""What the node says on the event bus: its status, its counters, its faults, its interrupts.

Topics: ``status`` (retained: ``up``, ``left``; the broker's will says ``lost``), ``counters`` every few
seconds, ``faults`` and ``interrupts`` as they happen. Events are handed to the bus after a turn, never
within the model's work.
"""

from __future__ import annotations

import asyncio
import dataclasses
import time
from typing import TYPE_CHECKING, Any, Final

from unimem.addresses import fmt
from unimem_node.kernel.faults import FaultReport
from unimem_node.service.events import EventBus

if TYPE_CHECKING:
    from unimem.v1.types_pb2 import Node as NodeMessage
    from unimem_node.service.host import NodeHost

#: Faults and interrupts told in one second; a client that does nothing but fault must not slow the others.
EVENTS_A_SECOND: Final = 200


class Telemetry:
    """Watches `host` for as long as it runs."""

    def __init__(self, bus: EventBus, host: NodeHost, about: NodeMessage, interval_s: float) -> None:
        self._bus, self._host, self._about, self._interval_s = bus, host, about, interval_s
        self._interrupts: list[tuple[int, bool, int]] = []
        self._reported = 0  # number of the newest fault told
        self._loop = asyncio.get_running_loop()
        self._second = self._told = 0
        self._suppressed = 0
        self._task: asyncio.Task[None] | None = None

    async def start(self) -> None:
        """Say that the node is up, and begin."""
        await self._bus.start()
        self._bus.publish("status", self.status("up"), retain=True)
        self._host.node.interrupts.subscribe(self._on_interrupt)
        self._host.observe(self._after_turn)
        self._task = asyncio.create_task(self._count())

    async def stop(self) -> None:
        """Say that the node has left of its own will, and end."""
        if self._task is not None:
            self._task.cancel()
            await asyncio.gather(self._task, return_exceptions=True)
        self._after_turn()
        self._bus.publish("counters", self.counters())
        await self._bus.stop(self.status("left"))

    def status(self, state: str) -> dict[str, Any]:
        """The status event."""
        about = self._about
        return {
            "state": state,
            "name": about.name,
            "index": about.index,
            "incarnation": about.incarnation,
            "address": about.address,
            "platform": about.platform,
            "window_base": f"{about.window_base:#x}",
            "window_size": about.window_size,
            "unix_time_s": round(time.time(), 3),
        }

    def counters(self) -> dict[str, Any]:
        """The counters event."""
        node = self._host.node
        return {
            "counters": node.counters(),
            "resident_bytes": node.resident_bytes(),
            "virtual_time_ns": node.now_ps // 1000,
            "events_dropped": self._bus.dropped,
            "events_suppressed": self._suppressed,
            "peers": self._host.transports(),
            "unix_time_s": round(time.time(), 3),
        }

    async def _count(self) -> None:
        while True:
            self._bus.publish("counters", self.counters())
            await asyncio.sleep(self._interval_s)

    def _on_interrupt(self, spi: int, level: bool) -> None:
        if not self._interrupts:
            self._host.ask_turn()
        self._interrupts.append((spi, level, self._host.node.now_ps))

    def _after_turn(self) -> None:
        if not self._interrupts:
            return  # faults are announced by interrupts
        for report in self._host.node.faults():
            if report.number > self._reported:
                self._reported = report.number
                if self._may_tell():
                    self._bus.publish("faults", fault_event(report))
        for spi, level, now_ps in self._interrupts:
            if self._may_tell():
                event = {"spi": spi, "level": level, "virtual_time_ns": now_ps // 1000}
                self._bus.publish("interrupts", event)
        self._interrupts.clear()

    def _may_tell(self) -> bool:
        """Whether this second has room for one more event: each takes the loop a tenth of a millisecond."""
        second = int(self._loop.time())
        if second != self._second:
            self._second, self._told = second, 0
        self._told += 1
        if self._told > EVENTS_A_SECOND:
            self._suppressed += 1
            return False
        return True


def fault_event(report: FaultReport) -> dict[str, Any]:
    """A fault report as JSON values: its fields, addresses in hex, and the one line that says it all."""
    event = dataclasses.asdict(report)
    event["iova"] = fmt(report.iova)
    event["ipa"] = None if report.ipa is None else fmt(report.ipa)
    event["fsr"], event["fsynr0"] = f"{report.fsr:#x}", f"{report.fsynr0:#x}"
    event["virtual_time_ns"] = event.pop("time_ps") // 1000
    return event | {"text": report.text}
