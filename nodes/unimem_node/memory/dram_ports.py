"""The DDR controller and its AXI ports, as what several masters share (AMD UG1085, "DDR memory controller").

A port has a read and a write channel, each of the port's width; behind the ports is one controller, whose
data bus goes one way at a time. Masters whose TBUs drain into one port share its channels, and all of them
share the controller. Memory's latency is not here: it is the masters' own.

Sharing is a fluid: an engine that moves bytes is a `DramStream` with a demand, the rate at which it would go
alone. While every channel and the controller have room for all demands, each stream has its own. Where they
have not, the rates are max-min fair: all streams get the same, but those that want less, or that another
channel limits already, and these leave the rest to the others. That is what an arbiter comes to that serves
ports and masters in turn, a burst each. Rates are settled anew when a stream begins, goes on with another
demand, or ends; work under way then ends earlier or later, so nothing is ever booked ahead. The network
simulators SimGrid and ns-2's fluid models share links in this way.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from operator import gt
from typing import Any, Final

_PS_PER_S: Final = 10**12
_MB: Final = 10**6
#: Parts of a stream's bytes on a channel are fixed-point numbers.
_ONE: Final = 1 << 20
#: Without a limit: no port of that speed exists, and products stay small.
_UNLIMITED: Final = 1 << 60


@dataclass(frozen=True, slots=True)
class DramPortSpec:
    """A port of the controller: the masters behind it, its speed, and what others take of it.

    `off_smmu`: masters that do not pass the SMMU use it too. `lanes`: AXI ports of the controller that share
    the load. `busy_mb_per_s`: read by masters that are not modelled.
    """

    name: str
    tbus: tuple[int, ...] = ()
    off_smmu: bool = False
    lanes: int = 1
    busy_mb_per_s: int = 0


@dataclass(frozen=True, slots=True)
class DramSpec:
    """The controller: picoseconds for a KiB, reads and writes together; a port's for a KiB each way.

    Masters that no port names have the controller's speed for their limit.
    """

    ps_per_kib: int
    port_ps_per_kib: int = 0
    ports: tuple[DramPortSpec, ...] = ()


class DramStream:
    """One engine's traffic. `ends_at` is told the new time when work under way is done at another time."""

    __slots__ = (
        "_answered",
        "_asked",
        "_ends_at",
        "_left",
        "_left_ps",
        "_ports",
        "_since_ps",
        "active",
        "demand",
        "end_ps",
        "own_ps",
        "port",
        "read",
        "written",
    )

    def __init__(self, ports: DramPorts, port: int, ends_at: Callable[[int], None]) -> None:
        self._ports = ports
        self._ends_at = ends_at
        self.port = port  # row of the port's read channel; the write channel is the next
        self.active = False
        self.read = self.written = self.own_ps = 0  # the work under way: bytes, and its time alone
        self.demand = 0  # ... bytes a second by that; 0: nobody has asked yet
        self._since_ps = 0  # from then on:
        self._left_ps = self._left = 0  # time alone, and bytes; known once `demand` is
        self.end_ps = 0
        self._asked = (0, 0)  # what `alone_ps` answered last: transfers are cut alike
        self._answered = 0

    def alone_ps(self, read: int, written: int) -> int:
        """Time of that many bytes of DRAM, picoseconds, if there is no other stream."""
        asked = (read, written)
        if asked != self._asked:
            ports = self._ports
            channel = ports.channel_ps[self.port]
            self._asked = asked
            self._answered = max((read + written) * ports.ps_per_kib, read * channel, written * channel) >> 10
        return self._answered

    def serve(self, now_ps: int, own_ps: int, read: int, written: int) -> int:
        """Go on with that many bytes, which alone take `own_ps`; returns when they are done, as it stands."""
        end_ps = self.end_ps = now_ps + own_ps
        if own_ps == 0 or read + written == 0:
            self.end(now_ps)
            return end_ps
        self.read, self.written, self.own_ps = read, written, own_ps
        self.demand = 0
        self._since_ps = now_ps
        ports = self._ports
        if not self.active:
            self.active = True
            ports.streams.append(self)
            ports.changed()
        if ports.shared:
            ports.settle(self, now_ps)
            return self.end_ps
        return end_ps

    def end(self, now_ps: int) -> None:
        """Stop: others may have what this one had."""
        if self.active:
            self.active = False
            ports = self._ports
            ports.streams.remove(self)
            if ports.short:
                ports.settle(None, now_ps)
            ports.changed()

    def wants(self) -> int:
        """Bytes a second that it would have alone."""
        if self.demand == 0:
            self._left_ps, self._left = self.own_ps, self.read + self.written
            self.demand = self._left * _PS_PER_S // self.own_ps
        return self.demand

    def has(self, now_ps: int, rate: int) -> bool:
        """Go on at `rate` from now on; True when the work under way is done at another time by that."""
        before = self.end_ps
        if before <= now_ps:  # done; its owner has not been told yet
            return False
        if now_ps > self._since_ps:
            left, whole = before - now_ps, before - self._since_ps
            self._left_ps = -(-self._left_ps * left // whole)
            self._left = -(-self._left * left // whole)
            self._since_ps = now_ps
        needed = self._left_ps if rate >= self.demand else -(-self._left * _PS_PER_S // rate)
        self.end_ps = now_ps + max(self._left_ps, needed)
        return self.end_ps != before

    def tell(self) -> None:
        """Tell the owner when its work is done now."""
        self._ends_at(self.end_ps)


class DramPorts:
    """All streams of one chip. `timing`, `column`: where others read the speed that memory has for them.

    Rows are channels: two a port, those of masters without a port, and the controller as the last.
    """

    def __init__(self, spec: DramSpec, *, size: int = 1 << 62) -> None:
        self.spec = spec
        #: Bytes of memory that are DRAM: places from there on are memory on the chip, which has no port here.
        self.size = size
        self._rows: dict[int | None, int] = {}
        capacities: list[int] = []  # bytes a second
        controller = _bytes_per_s(spec.ps_per_kib)
        for port in spec.ports:
            for user in (*port.tbus, *((None,) if port.off_smmu else ())):
                self._rows[user] = len(capacities)
            whole = _bytes_per_s(spec.port_ps_per_kib) * port.lanes
            busy = port.busy_mb_per_s * _MB
            capacities += [whole - busy, whole]
            controller -= busy
        if min([controller, *capacities]) <= 0:
            raise ValueError("DRAM ports: busy_mb_per_s takes all of a port, or of the controller")
        self.ps_per_kib = _bytes_per_s(controller)
        #: Picoseconds for a KiB through a channel.
        self.channel_ps = [*map(_bytes_per_s, capacities), 0, 0]
        self._no_port = len(capacities)
        self._capacities = [*capacities, _UNLIMITED, _UNLIMITED, controller]
        self.streams: list[DramStream] = []  # those under way
        self.short = False  # some channel could not serve all demands
        self.shared = False  # there are several streams
        self._shown: memoryview | None = None
        self._column = 0

    def show(self, timing: Any, column: int) -> None:
        """Keep `timing[column]` at the time of a KiB for one more master, to whom an arbiter gives its turns.

        The network interface, whose blocks are too small to be streams, pays that for its bytes.
        """
        self._shown, self._column = memoryview(timing), column
        self.changed()

    def stream(self, tbu: int | None, ends_at: Callable[[int], None]) -> DramStream:
        """Traffic of a master behind that TBU, or (None) of one that does not pass the SMMU."""
        return DramStream(self, self._rows.get(tbu, self._no_port), ends_at)

    def changed(self) -> None:
        """A stream has begun or ended."""
        count = len(self.streams)
        self.shared = count > 1
        if self._shown is not None:
            self._shown[self._column] = self.ps_per_kib * (1 + count)

    def settle(self, stream: DramStream | None, now_ps: int) -> None:
        """Give every stream its rate; all but `stream` are told when their work is done at another time."""
        streams, was_short = self.streams, self.short
        used = [0] * len(self._capacities)
        for other in streams:
            own_ps, row = other.own_ps, other.port
            used[row] += other.read * _PS_PER_S // own_ps
            used[row + 1] += other.written * _PS_PER_S // own_ps
            used[-1] += other.wants()
        self.short = len(streams) > 1 and any(map(gt, used, self._capacities))
        if not self.short and not was_short:
            return
        told = [
            other
            for other, rate in zip(streams, self.rates(), strict=True)
            if other.has(now_ps, rate) and other is not stream
        ]
        for other in told:
            other.tell()

    def rates(self) -> list[int]:
        """Bytes a second of each stream that is active: progressive filling.

        Everybody's rate rises alike, until a stream has what it wants or a channel is full; those it concerns
        stay there, and the others rise further.
        """
        left = list(self._capacities)
        rates = [0] * len(self.streams)
        rising = list(range(len(rates)))
        demands = [stream.wants() for stream in self.streams]
        uses = [_uses(stream, len(left) - 1) for stream in self.streams]
        while rising:
            weights: dict[int, int] = {}
            for n in rising:
                for row, share in uses[n]:
                    weights[row] = weights.get(row, 0) + share
            level, full = min(
                (left[row] * _ONE // weight, row) for row, weight in weights.items() if weight > 0
            )
            content = [n for n in rising if demands[n] <= level]
            stays = content or [n for n in rising if any(row == full and share for row, share in uses[n])]
            for n in stays:
                rates[n] = max(1, min(level, demands[n]))
                for row, share in uses[n]:
                    left[row] = max(0, left[row] - (rates[n] * share >> 20))
            rising = [n for n in rising if n not in stays]
        return rates


def _uses(stream: DramStream, controller: int) -> tuple[tuple[int, int], ...]:
    """(row, part of the stream's bytes) of each channel."""
    total = stream.read + stream.written
    row = stream.port
    return (row, stream.read * _ONE // total), (row + 1, stream.written * _ONE // total), (controller, _ONE)


def _bytes_per_s(ps_per_kib: int) -> int:
    """Bytes a second from picoseconds for a KiB, and the other way round; to the nearest."""
    return (_PS_PER_S * 1024 + ps_per_kib // 2) // ps_per_kib
