"""N21: no program of register accesses raises out of the model, whatever it writes, and wherever.

Reads and writes of any offset, size and value in the SMMU's space and SMMU_REG, accesses of any stream to any
address, stalls that are held or cancelled, time that passes. All that software may see of it is a `BusError`.
"""

from __future__ import annotations

from contextlib import suppress

from hypothesis import given, settings
from hypothesis import strategies as st

from support.smmu_board import BASE, HPC0, PAGE_1, PAGE_2, TABLES, Board, RawTables, cb
from support.smmu_register_list import SMMU
from unimem_node.bus import BusError
from unimem_node.smmu import Blocked, Fault, Hold, SmmuSpec, Translation

WRAPPER = 0xFD5F_0000
VA = 0x4000_0000
STREAMS = (HPC0, HPC0 + 1, HPC0 + 2, 0x14E8, 0x868, 0x3FF)
#: Values that switch something on: valid entries, types, enables, formats, sizes.
TELLING = [
    0, 1, 3, 0x10, 0x12, 0x40, 0x61, 0x80, 0xE1, 0x1E1, 0xC00, 0xE01, 0x1_0000, 0x1_0400, 0x3_0000, 0x3_0100,
    0x3_8015, 0x2B_5193, 0x8000_0200, 0x8000_0201, 0xFFFF_FFFF, 0xFFFF_FFFF_FFFF_FFFF,
    16 | 1 << 6 | 5 << 16, 25 | 1 << 6 | 5 << 16, TABLES, TABLES + 0x1000, VA, VA >> 12,
]  # fmt: skip

known = st.sampled_from([row.offset + n * row.stride for row in SMMU for n in range(min(row.count, 3))])
offsets = st.one_of(known, known, st.integers(0, 0x2_0010))
addresses = st.one_of(
    st.sampled_from([VA, VA + 0x1000, 0x5000_0000, 1 << 48, 1 << 47, 0]), st.integers(0, (1 << 64) - 1)
)
values = st.one_of(st.sampled_from(TELLING), st.integers(0, (1 << 64) - 1))
sizes = st.sampled_from([4, 4, 8])

steps = st.one_of(
    st.tuples(st.just("write"), offsets, sizes, values),
    st.tuples(st.just("write"), offsets, sizes, values),
    st.tuples(st.just("read"), offsets, sizes, st.just(0)),
    st.tuples(st.just("wrapper"), st.integers(0, 0x60), sizes, values),
    st.tuples(st.just("access"), addresses, st.integers(0, 7), st.sampled_from(STREAMS)),
    st.tuples(st.just("access"), addresses, st.integers(0, 7), st.sampled_from(STREAMS)),
    st.tuples(st.just("time"), st.integers(0, 1_000_000), st.just(0), st.just(0)),
    st.tuples(st.just("cancel"), st.integers(0, 5), st.just(0), st.just(0)),
)


class Anything:
    """A board with a bank of each kind in use, and a driver that does as it likes."""

    def __init__(self, address_translation: bool) -> None:
        self.board = board = Board(SmmuSpec(address_translation=address_translation, idr2=0xF555))
        one, two = RawTables(board), RawTables(board, 1)
        for page in range(4):
            one.put(VA + page * 0x1000, 0x5000_0000 + page * 0x1000 | PAGE_1)
            two.put(0x5000_0000 + page * 0x1000, 0x100_0000 + page * 0x1000 | PAGE_2)
        two.identity(TABLES, TABLES + 0xF000, PAGE_2)
        board.bank(0, one.root, sctlr=0xE1)
        board.stage_2_bank(1, two.root)
        board.bank(2, one.root, kind=3, stage_2=1, sctlr=0x1E1)
        for n in range(3):
            board.stream(n, HPC0 + n, n)
        board.enable()
        self.holds: list[Hold] = []
        board.interrupts.connect_cpu(self.handle)

    def handle(self, spi: int) -> None:
        """A driver that now and then clears and resumes."""
        if len(self.holds) % 3 == 1:
            for bank in range(3):
                self.board.write(cb(bank, 0x58), 0xFFFF_FFFF)
                self.board.write(cb(bank, 0x08), len(self.holds) & 1)

    def access(self, va: int, access: int, stream_id: int) -> None:
        smmu = self.board.smmu
        result = smmu.translate(stream_id, va, access)
        if isinstance(result, Translation):
            assert 0 <= result.pa < 1 << 48
            assert result.span > 0
        elif isinstance(result, Blocked):
            self.holds.append(smmu.wait(result.context_bank, lambda retry: None))
        else:
            assert isinstance(result, Fault)
            assert result.describe()
            if result.stalls:
                again = len(self.holds) < 20
                self.holds.append(
                    smmu.hold(
                        result, lambda retry: self.access(va, access, stream_id) if retry and again else None
                    )
                )
        smmu.pmu.poll()

    def step(self, what: str, first: int, second: int, third: int) -> None:
        bus = self.board.bus
        if what == "write":
            (bus.write64 if second == 8 else bus.write32)(BASE + first, third)
        elif what == "wrapper":
            (bus.write64 if second == 8 else bus.write32)(WRAPPER + first, third)
            (bus.read64 if second == 8 else bus.read32)(WRAPPER + first)
        elif what == "read":
            (bus.read64 if second == 8 else bus.read32)(BASE + first)
        elif what == "access":
            self.access(first, second, third)
        elif what == "time":
            self.board.scheduler.run(self.board.scheduler.now_ps + first)
        elif self.holds:
            self.holds[first % len(self.holds)].cancel()


@given(st.booleans(), st.lists(steps, min_size=1, max_size=40))
@settings(max_examples=250, deadline=None)
def test_n21_any_program(address_translation: bool, program: list[tuple[str, int, int, int]]) -> None:
    machine = Anything(address_translation)
    for step in program:
        with suppress(BusError):  # the bus' answer
            machine.step(*step)
    machine.board.smmu.reset()
    machine.board.run()
    assert machine.board.pending == []
    assert machine.board.pa(0x1234) == 0x1234, "out of reset all bypass"
