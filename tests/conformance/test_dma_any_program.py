"""N20, N21: no program of registers, no descriptor raises out of an engine's model, and all of it ends.

Any register of any engine gets any value, memory any descriptors, bank 0 any way to treat a fault; time
passes. All that software may see of it is a `BusError`. Left alone, the machine comes to rest.
"""

from __future__ import annotations

from contextlib import suppress
from dataclasses import replace

from hypothesis import given, settings
from hypothesis import strategies as st

from support.bare_metal import Driver
from unimem_node import Mpsoc
from unimem_node.bus import BusError
from unimem_node.dma import AxiCdma, AxiDma, Loads, Patience, ZdmaChannel

VA = 0x40_0000_0000
LISTS, DATA = 0x1_0000, 0x2_0000  # 64 KiB each; VA maps both, but for a page of either
PATIENCE = Patience(descriptors=200, bytes=1 << 16)

addresses = st.one_of(
    st.integers(0, 0x2_FFFF),
    st.integers(0, 63).map(lambda n: LISTS + 16 * n),
    st.integers(0, 15).map(lambda n: LISTS + 64 * n),
    st.integers(0, 15).map(lambda n: VA + 64 * n),
    st.integers(0, 0x2_0000).map(lambda n: VA + n),
    st.integers(0, (1 << 49) - 1),
)
lengths = st.one_of(st.integers(0, 300), st.integers(0, 0x3000), st.just(0x3FFF_FFFF))
zdma_flags = st.integers(0, 0x1F)
bd_flags = st.sampled_from([0, 1 << 27, 1 << 26, 3 << 26])


def word(value: int, n: int = 4) -> bytes:
    return (value & (1 << 8 * n) - 1).to_bytes(n, "little")


zdma_descriptors = st.builds(
    lambda at, n, flags, link: word(at, 8) + word(n) + word(flags) + word(link, 8) + bytes(8),
    addresses, lengths, zdma_flags, addresses,
)  # fmt: skip
axi_descriptors = st.builds(
    lambda following, one, two, n, flags, status: (
        word(following, 8) + word(one, 8) + word(two, 8) + word(n & 0x3FF_FFFF | flags) + word(status)
    ).ljust(64, b"\0"),
    addresses, addresses, addresses, lengths, bd_flags, st.sampled_from([0, 0, 0, 1 << 31]),
)  # fmt: skip

#: Offsets that make something happen; engine 0 and 1 are ZDMA channels, 2 the CDMA, 3 and 4 AXI DMAs.
TELLING = (
    (0x110, 0x110, 0x120, 0x128, 0x130, 0x138, 0x140, 0x158, 0x160, 0x188, 0x190, 0x200, 0x200, 0x108),
    (0x110, 0x110, 0x120, 0x128, 0x130, 0x138, 0x140, 0x158, 0x160, 0x188, 0x190, 0x200, 0x200, 0x18C),
    (0x00, 0x00, 0x04, 0x08, 0x10, 0x10, 0x18, 0x20, 0x28, 0x28),
    (0x00, 0x04, 0x08, 0x10, 0x30, 0x34, 0x38, 0x40, 0x40, 0x10),
    (0x00, 0x04, 0x18, 0x28, 0x30, 0x34, 0x48, 0x58, 0x58, 0x28),
)
VALUES = [
    0, 1, 2, 4, 0x40, 0x42, 0x46, 0x50, 0x60, 0x80, 0xC0, 0xC2, 0xFFF, 0x0483_D20F, 0x0080_C20F, 8, 9, 0x19,
    0x38, 0x1_7009, 0x1_7019, 0x0201_7009, 0x7000, 0xFFFF_FFFF,
]  # fmt: skip

engines = st.integers(0, 4)
known = engines.flatmap(lambda n: st.tuples(st.just(n), st.sampled_from(TELLING[n])))
anywhere = st.tuples(engines, st.integers(0, 0x210))
values = st.one_of(st.sampled_from(VALUES), addresses, lengths, st.integers(0, (1 << 64) - 1))
sizes = st.sampled_from([4, 4, 8])
steps = st.one_of(
    st.tuples(st.just("write"), known, sizes, values),
    st.tuples(st.just("write"), known, sizes, values),
    st.tuples(st.just("write"), known, sizes, values),
    st.tuples(st.just("write"), anywhere, sizes, values),
    st.tuples(st.just("read"), st.one_of(known, anywhere), sizes, st.just(0)),
    st.tuples(st.just("lists"), st.tuples(st.integers(0, 40), st.just(0)), st.just(0), zdma_descriptors),
    st.tuples(st.just("lists"), st.tuples(st.integers(0, 20), st.just(0)), st.just(0), axi_descriptors),
    st.tuples(st.just("time"), st.tuples(st.just(0), st.just(0)), st.just(0), st.integers(0, 20_000)),
    st.tuples(st.just("resume"), st.tuples(st.just(0), st.just(0)), st.just(0), st.integers(0, 1)),
)


class Machine:
    """One engine of each kind with little patience, behind a bank that stalls, aborts or does neither."""

    def __init__(self, fault_bits: int, fast: bool) -> None:
        masters = [
            {"type": "axi_cdma", "port": "HPC0", "base": 0xA000_0000},
            {"type": "axi_dma", "port": "HP0", "base": 0xA001_0000},
        ]
        self.soc = soc = Mpsoc(memory_bytes=1 << 20, pl_masters=masters)
        self.driver = driver = Driver(soc, heap=0x8_0000)
        driver.bring_up(unmatched_fault=False)
        root = driver.new_table()
        for page in range(32):
            if page not in (5, 20):
                driver.map(root, VA + page * 0x1000, LISTS + page * 0x1000, read_only=page % 7 == 6)
        driver.set_bank(0, root)
        for group, stream in enumerate((0x14E9, 0x200)):  # the other engines bypass
            driver.route(group, stream, 0)
        at = driver.register(0, 0)
        soc.bus.write32(at, soc.bus.read32(at) & ~(7 << 5 | 1 << 8) | fault_bits)
        loads = Loads(soc.smmu.spec)
        specs = [soc.zdma["fpd0"].spec, soc.zdma["fpd1"].spec]
        line = soc.interrupts.line
        self.engines = [
            *(
                ZdmaChannel(
                    soc.smmu,
                    soc.scheduler,
                    line(spec.spi),
                    replace(spec, patience=PATIENCE),
                    loads=loads,
                    fast=fast,
                )
                for spec in specs
            ),
            AxiCdma(
                soc.smmu,
                soc.scheduler,
                line(89),
                replace(soc.pl["cdma0"].spec, patience=PATIENCE),
                loads=loads,
            ),
        ]
        spec = replace(soc.axi_dma["dma0"].spec, patience=PATIENCE, fifo_bytes=256)
        for each in (spec, replace(spec, scatter_gather=False)):
            self.engines.append(AxiDma(soc.smmu, soc.scheduler, (line(95), line(96)), each, loads=loads))

    def do(self, what: str, where: tuple[int, int], size: int, value: int | bytes) -> None:
        if what == "lists":
            self.soc.memory.write(LISTS + where[0] * len(value) // 2, value)
        elif what == "time":
            self.soc.run(until_ns=self.soc.now_ns + value)
        elif what == "resume":
            self.driver.clear_fault(0)
            self.soc.bus.write32(self.driver.register(0, 8), value)
        else:
            engine, offset = self.engines[where[0]], where[1]
            with suppress(BusError):
                if what == "read":
                    assert 0 <= engine.read(offset, size) < 1 << 8 * size
                else:
                    engine.write(offset, size, value & (1 << 8 * size) - 1)


@settings(max_examples=150)
@given(
    st.sampled_from([0, 1 << 5, 1 << 5 | 1 << 7, 1 << 5 | 1 << 7 | 1 << 8, 1 << 7 | 1 << 8]),
    st.booleans(),
    st.lists(steps, max_size=40),
)
def test_n20_n21_any_program_ends_and_raises_nothing(
    fault_bits: int, fast: bool, program: list[tuple]
) -> None:
    machine = Machine(fault_bits, fast)
    for step in program:
        machine.do(*step)
    before = machine.soc.now_ns
    machine.soc.run()
    assert machine.soc.now_ns - before < 1e9, "a second of simulated time"
    for _ in range(200):  # whatever the SMMU still holds ends by software's word
        if not any(engine.busy for engine in machine.engines[:3]):
            break
        machine.do("resume", (0, 0), 0, 1)
        machine.soc.run()
    assert machine.soc.scheduler.idle


@settings(max_examples=60)
@given(
    st.lists(st.tuples(st.integers(0, 15), axi_descriptors), max_size=12), addresses, addresses, st.booleans()
)
def test_n20_any_list_of_the_axi_engines_ends(
    descriptors: list[tuple[int, bytes]], first: int, tail: int, cyclic: bool
) -> None:
    machine = Machine(1 << 5, True)
    for place, descriptor in descriptors:
        machine.soc.memory.write(LISTS + 64 * place, descriptor)
    cdma, dma = machine.engines[2], machine.engines[3]
    cdma.write(0x00, 4, 0x1_0008)
    for engine, base, control in ((cdma, 0, 0x1_0008), (dma, 0x30, 0x1_0001), (dma, 0, 0x1_0001)):
        engine.write(base + 0x08, 8, first)
        engine.write(base, 4, control | cyclic << 4)
        engine.write(base + 0x10, 8, tail)
    machine.soc.run()
    assert not cdma.busy


@settings(max_examples=60)
@given(st.lists(st.tuples(st.integers(0, 31), zdma_descriptors), max_size=12), addresses, addresses)
def test_n20_any_list_of_a_zdma_channel_ends(
    descriptors: list[tuple[int, bytes]], src: int, dst: int
) -> None:
    machine = Machine(1 << 5, True)
    for place, descriptor in descriptors:
        machine.soc.memory.write(LISTS + 32 * place, descriptor)
    for channel in machine.engines[:2]:
        channel.write(0x158, 8, src)
        channel.write(0x160, 8, dst)
        channel.write(0x110, 4, 0x40)
        channel.write(0x200, 4, 1)
    machine.soc.run()
    assert [channel.busy for channel in machine.engines[:2]] == [False] * 2
    assert all(channel.read(0x11C, 4) in (0, 1, 3) for channel in machine.engines[:2])
