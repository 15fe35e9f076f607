"""Ports of the DDR controller, shared: alone, together, joining, leaving; fair, nothing wasted."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from support.zdma import CTRL0, CTRL2, FPD, ISR
from unimem_node import Mpsoc
from unimem_node.clock import Scheduler
from unimem_node.memory import DramPorts, DramPortSpec, DramSpec, DramStream
from unimem_node.mpsoc import platform as platforms
from unimem_node.mpsoc.platform import PlatformError

MIB = 1 << 20
#: A controller of 16 GiB/s, ports of 10 GiB/s each way: 16 and 10 bytes in 2^-30 s.
CONTROLLER = 10**12 // (16 << 20)  # picoseconds for a KiB
PORT = 10**12 // (10 << 20)


def ports(*specs: DramPortSpec) -> DramPorts:
    specs = specs or (DramPortSpec("a", (0,)), DramPortSpec("b", (1, 2)), DramPortSpec("c", (3,), lanes=2))
    return DramPorts(DramSpec(CONTROLLER, PORT, specs))


class Master:
    """Moves `total` bytes in pieces, each `read` : `written`, at its own speed where DRAM lets it."""

    def __init__(
        self,
        scheduler: Scheduler,
        dram: DramPorts,
        tbu: int | None,
        *,
        own_ps_per_kib: int,
        total: int = 4 * MIB,
        piece: int = MIB,
        both: bool = False,
    ) -> None:
        self.scheduler, self.own, self.left, self.piece, self.both = (
            scheduler,
            own_ps_per_kib,
            total,
            piece,
            both,
        )
        self.stream: DramStream = dram.stream(tbu, self._moved)
        self.done_ps = 0

    def start(self) -> None:
        n = min(self.left, self.piece)
        self.left -= n
        written = n if self.both else 0
        own = max(n * self.own >> 10, self.stream.alone_ps(n, written))
        now = self.scheduler.now_ps
        self._event = self.scheduler.at(self.stream.serve(now, own, n, written), self._over)

    def _moved(self, end_ps: int) -> None:
        self._event.cancel()
        self._event = self.scheduler.at(end_ps, self._over)

    def _over(self) -> None:
        if self.left:
            self.start()
        else:
            self.stream.end(self.scheduler.now_ps)
            self.done_ps = self.scheduler.now_ps


def run(*masters: Master) -> list[int]:
    for master in masters:
        master.start()
    masters[0].scheduler.run()
    return [master.done_ps for master in masters]


def kib_ps(total: int, ps_per_kib: int) -> int:
    return (total >> 10) * ps_per_kib


def close(found: int, expected: int) -> bool:
    return abs(found - expected) <= expected // 10_000


# ---- alone


@pytest.mark.parametrize(
    ("tbu", "both", "expected"),
    [
        (0, False, PORT),  # a port's read channel
        (3, False, CONTROLLER),  # two lanes: the controller is slower
        (0, True, 2 * CONTROLLER),  # the bus goes one way at a time
        (9, False, CONTROLLER),  # no port named
        (None, False, CONTROLLER),
    ],
)
def test_a_master_alone_is_limited_by_its_port_and_the_controller(
    tbu: int | None, both: bool, expected: int
) -> None:
    scheduler, dram = Scheduler(), ports()
    (done,) = run(Master(scheduler, dram, tbu, own_ps_per_kib=1, both=both))
    assert close(done, kib_ps(4 * MIB, expected))


def test_a_slow_master_has_its_own_speed() -> None:
    scheduler, dram = Scheduler(), ports()
    assert run(Master(scheduler, dram, 0, own_ps_per_kib=500_000)) == [kib_ps(4 * MIB, 500_000)]


# ---- together


def test_two_on_one_port_share_its_channel() -> None:
    scheduler, dram = Scheduler(), ports()
    both = run(*(Master(scheduler, dram, tbu, own_ps_per_kib=PORT) for tbu in (1, 2)))
    assert all(close(done, 2 * kib_ps(4 * MIB, PORT)) for done in both)


def test_two_on_different_ports_share_the_controller_only() -> None:
    scheduler, dram = Scheduler(), ports()
    both = run(*(Master(scheduler, dram, tbu, own_ps_per_kib=PORT) for tbu in (0, 1)))
    assert all(close(done, 2 * kib_ps(4 * MIB, CONTROLLER)) for done in both)


def test_one_that_reads_and_one_that_writes_do_not_share_a_channel() -> None:
    scheduler, dram = Scheduler(), ports()
    reads = Master(scheduler, dram, 1, own_ps_per_kib=2 * PORT)
    writes = dram.stream(2, lambda _: None)
    writes.serve(0, kib_ps(4 * MIB, 2 * PORT), 0, 4 * MIB)  # 5 GiB/s each: the port has 10 either way
    assert run(reads) == [kib_ps(4 * MIB, 2 * PORT)]


def test_what_a_slow_one_does_not_want_the_fast_ones_get() -> None:
    """Demands of 2, 10 and 10 GiB/s of 16: 2, 7 and 7."""
    scheduler, dram = Scheduler(), ports()
    slow = Master(scheduler, dram, 0, own_ps_per_kib=5 * PORT, total=2 * MIB)
    fast = [Master(scheduler, dram, tbu, own_ps_per_kib=PORT, total=7 * MIB) for tbu in (1, 3)]
    done = run(slow, *fast)
    assert all(close(ps, kib_ps(2 * MIB, 5 * PORT)) for ps in done)


def test_one_that_joins_slows_the_other_at_once_and_gives_back_when_it_leaves() -> None:
    """Within one piece: nobody has booked the port beforehand."""
    scheduler, dram = Scheduler(), ports()
    whole = kib_ps(16 * MIB, CONTROLLER)
    first = Master(scheduler, dram, 3, own_ps_per_kib=CONTROLLER, total=16 * MIB, piece=16 * MIB)
    second = Master(scheduler, dram, 9, own_ps_per_kib=CONTROLLER, total=2 * MIB, piece=2 * MIB)
    scheduler.at(whole // 4, second.start)
    run(first)
    assert close(second.done_ps, whole // 4 + 2 * kib_ps(2 * MIB, CONTROLLER))
    assert close(first.done_ps, whole + kib_ps(2 * MIB, CONTROLLER))


def test_sixteen_streams_end_together() -> None:
    scheduler, dram = Scheduler(), ports()
    done = run(*(Master(scheduler, dram, n % 4, own_ps_per_kib=PORT, piece=MIB // 4) for n in range(16)))
    assert max(done) - min(done) <= max(done) // 1000
    assert close(max(done), 16 * kib_ps(4 * MIB, CONTROLLER))


@given(
    st.lists(
        st.tuples(st.integers(0, 3), st.integers(30_000, 400_000), st.booleans(), st.integers(1, 64)),
        min_size=1,
        max_size=8,
    )
)
def test_rates_are_feasible_and_max_min_fair(wanted: list[tuple[int, int, bool, int]]) -> None:
    """No channel is overfull; who has less than it wants shares a full channel with nobody faster than it."""
    dram = ports()
    streams = []
    for tbu, own, both, kib in wanted:
        stream = dram.stream(tbu, lambda _: None)
        n = kib << 10
        written = n if both else 0
        stream.serve(0, max(kib * own, stream.alone_ps(n, written)), n, written)
        streams.append(stream)
    rates = dram.rates()
    capacities = [2**30 * 10] * 4 + [2**30 * 20] * 2 + [2**60] * 2 + [2**30 * 16]

    def load(row: int) -> int:
        total = 0
        for stream, rate in zip(streams, rates, strict=True):
            total += rate * share(stream, row) >> 20
        return total

    def share(stream: DramStream, row: int) -> int:
        if row == len(capacities) - 1:
            return 1 << 20
        parts = {stream.port: stream.read, stream.port + 1: stream.written}
        return (parts.get(row, 0) << 20) // (stream.read + stream.written)

    for row, capacity in enumerate(capacities):
        assert load(row) <= capacity + capacity // 1000
    for stream, rate in zip(streams, rates, strict=True):
        if rate >= stream.wants():
            continue
        full = [
            row
            for row, capacity in enumerate(capacities)
            if share(stream, row) and load(row) >= capacity - capacity // 1000
        ]
        assert any(
            rate >= other_rate - other_rate // 1000
            for row in full
            for other_rate in [max(r for s, r in zip(streams, rates, strict=True) if share(s, row))]
        ), (rates, [s.wants() for s in streams])


def round_robin(wanted: list[tuple[int, int, int]], burst_ps: int) -> list[int]:
    """An arbiter that serves whoever is ready in turn, a burst each: when the last burst of each is done.

    `wanted`: (start, bursts, picoseconds from one burst's request to the next one's) by master. A master that
    waits has at most eight bursts outstanding, and so not more to make up for.
    """
    ready = [start for start, _, _ in wanted]
    left = [bursts for _, bursts, _ in wanted]
    done, now, last = [0] * len(wanted), 0, -1
    while any(left):
        waiting = [n for n in range(len(wanted)) if left[n] and ready[n] <= now]
        if not waiting:
            now = min(ready[n] for n in range(len(wanted)) if left[n])
            continue
        last = min(waiting, key=lambda n: (n - last - 1) % len(wanted))
        left[last] -= 1
        pace = wanted[last][2]
        ready[last] = max(ready[last] + pace, now - 8 * pace)
        now += burst_ps
        done[last] = max(now, ready[last])
    return done


@settings(max_examples=40)
@given(
    st.lists(
        st.tuples(st.integers(0, 200), st.integers(200, 1500), st.integers(2, 80)), min_size=2, max_size=6
    )
)
def test_the_fluid_is_what_an_arbiter_of_bursts_comes_to(wanted: list[tuple[int, int, int]]) -> None:
    """One controller, 256 bytes a burst; starts and paces in bursts' times and tenths of them."""
    burst_ps = CONTROLLER // 4
    bursts = [(start * burst_ps, count, burst_ps * tenths // 10) for start, count, tenths in wanted]
    expected = round_robin([(start, n, max(own, burst_ps)) for start, n, own in bursts], burst_ps)
    scheduler, dram = Scheduler(), ports()
    masters = []
    for start, count, own in bursts:
        own_ps_per_kib = max(own, burst_ps) * 4
        size = count * 256
        master = Master(scheduler, dram, None, own_ps_per_kib=own_ps_per_kib, total=size, piece=size)
        scheduler.at(start, master.start)
        masters.append(master)
    scheduler.run()
    for (start, _, _), master, end in zip(bursts, masters, expected, strict=True):
        assert master.done_ps - start == pytest.approx(end - start, rel=0.1, abs=10 * burst_ps)


# ---- what is not modelled, and others that ask


def test_masters_that_are_not_modelled_take_their_part() -> None:
    gib_in_mb = (1 << 30) // 10**6
    dram = ports(DramPortSpec("a", (0,), busy_mb_per_s=5 * gib_in_mb), DramPortSpec("b", (1,)))
    scheduler = Scheduler()
    (reads,) = run(Master(scheduler, dram, 0, own_ps_per_kib=PORT))
    assert abs(reads - kib_ps(4 * MIB, 2 * PORT)) < reads // 1000
    with pytest.raises(ValueError, match="busy_mb_per_s takes all"):
        ports(DramPortSpec("a", (0,), busy_mb_per_s=20_000))


def test_a_further_master_is_told_the_speed_that_is_left_for_it() -> None:
    dram, timing = ports(), np.zeros(5, np.int64)
    dram.show(timing, 4)
    assert timing[4] == CONTROLLER
    streams = [dram.stream(n, lambda _: None) for n in range(3)]
    for n, stream in enumerate(streams):
        stream.serve(0, 10**6, 4096, 0)
        assert timing[4] == (2 + n) * CONTROLLER
    for stream in streams:
        stream.end(1)
    assert timing[4] == CONTROLLER


# ---- on the chip


def test_the_ports_of_a_zynqmp() -> None:
    """UG1085: HP1 and HP2 share a port, HP3 and the FPD DMA, the CCI's masters its two ports."""
    dram = platforms.load("zynqmp").dram_spec()
    assert {user: port.name for port in dram.ports for user in port.tbus} == {
        0: "CCI", 1: "CCI", 2: "CCI", 3: "DDR3", 4: "DDR4", 5: "DDR5"
    }  # fmt: skip
    assert [port.name for port in dram.ports if port.off_smmu] == ["CCI"]
    # 19.2 GB/s × 75 %, and 128 bit at 533 MHz.
    assert dram.ps_per_kib == pytest.approx(1024 / 14.4e9 * 1e12, rel=1e-4)
    assert dram.port_ps_per_kib == pytest.approx(1024 / (16 * 533e6) * 1e12, rel=1e-4)


@pytest.mark.parametrize(
    ("table", "complaint"),
    [
        ("[dram_ports.ports]\na = { tbus = [0] }\nb = { tbus = [0] }", "ports a and b both serve TBU 0"),
        ("[dram_ports.ports]\na = { tbus = [6] }", r"dram_ports\.ports\.a: tbu = 6"),
        ("[dram_ports.ports]\na = { tbus = [0], lanes = 0 }", r"lanes.*greater than or equal to 1"),
    ],
)
def test_ports_that_do_not_fit_are_refused(table: str, complaint: str) -> None:
    chip = """
        name = "mine"
        title = "t"
        [memory]
        dram = [{ base = 0, size = 0x10_0000 }]
        [smmu]
        base = 0xFD80_0000
        [smmu.block]
        [pl]
        spis = [89]
        width_bits = 128
        clock_mhz = 300
        [pl.ports]
        [dram_ports]
        peak_ps_per_kib = 53_334
        port_ps_per_kib = 120_076
        """
    with pytest.raises(PlatformError, match=complaint):
        platforms.parse(chip + table, "mine")


def channel(soc: Mpsoc, n: int, source: int, destination: int, size: int) -> int:
    base = FPD + n * 0x1_0000
    soc.bus.write64(base + 0x128, source)
    soc.bus.write64(base + 0x138, destination)
    soc.bus.write32(base + 0x130, size)
    soc.bus.write32(base + CTRL2, 1)
    return base


@pytest.mark.parametrize("fast", [True, False], ids=["fast", "readable"])
def test_two_channels_take_twice_the_time_and_the_network_interface_is_told(fast: bool) -> None:
    soc = Mpsoc(memory_bytes=16 << 20, fast=fast)
    shown = soc.arrays.timing[4:5]
    alone = int(shown[0])
    for n in range(2):
        channel(soc, n, n * 0x10_0000, 0x80_0000 + n * 0x10_0000, 0x8_0000)
    soc.run(until_ns=1000)
    assert shown[0] == 3 * alone
    soc.run()
    assert shown[0] == alone
    transfers = 2 * 2 * 0x8_0000  # two channels read and write
    expected = transfers / 14.4e9 * 1e12
    assert soc.scheduler.now_ps == pytest.approx(expected, rel=0.01)


def test_memory_on_the_chip_has_no_port() -> None:
    """DRAM into OCM: 128 bit at 533 MHz limits, not the controller's bus that would go both ways."""
    times = []
    for destination in (0xFFFC_0000, 0x80_0000):
        soc = Mpsoc(memory_bytes=16 << 20)
        channel(soc, 0, 0, destination, 0x4_0000)
        soc.run()
        assert soc.bus.read32(FPD + ISR) == 1 << 10
        times.append(soc.scheduler.now_ps)
    assert times[0] == pytest.approx(0x4_0000 / (16 * 533e6) * 1e12, rel=0.02)
    assert times[1] == pytest.approx(2 * 0x4_0000 / 14.4e9 * 1e12, rel=0.02)


def test_a_channel_that_is_stopped_gives_its_share_back() -> None:
    soc = Mpsoc(memory_bytes=16 << 20)
    base = channel(soc, 0, 0, 0x80_0000, 0x10_0000)
    channel(soc, 1, 0x10_0000, 0x90_0000, 0x4_0000)
    soc.run(until_ns=100)
    soc.bus.write32(base + CTRL2, 0)
    soc.run()
    assert soc.scheduler.now_ps == pytest.approx(2 * 0x4_0000 / 14.4e9 * 1e12, rel=0.02)
    assert soc.bus.read32(base + CTRL0) == 0x80
