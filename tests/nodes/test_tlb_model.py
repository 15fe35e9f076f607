"""TLBs against models that are obviously right: lists of pages, and ranges of addresses."""

from __future__ import annotations

from hypothesis import given, settings
from hypothesis import strategies as st

from support.smmu_board import TLBIASID, TLBIVA, Board, cb
from unimem_node.smmu import SmmuSpec
from unimem_node.smmu.arrays import (
    BUCKETS,
    CLASS_GLOBAL,
    M_LINKS,
    STATE_TBU,
    T_CONTEXT,
    T_PAGE,
    U_COLS,
    U_ENTRIES,
    U_FIRST,
    U_HEADS,
)

VA = 0x4000_0000
PA = 0x100_0000
PAGE = 0x1000


class Model:
    """A fully associative FIFO per TBU in front of a set-associative FIFO, as plain lists of pages."""

    def __init__(self, micro: int, sets: int, ways: int, tbus: int) -> None:
        self.micro_size, self.sets, self.ways = micro, sets, ways
        self.micro: list[list[tuple[int, int]]] = [[] for _ in range(tbus)]
        self.macro: list[list[tuple[int, int]]] = [[] for _ in range(sets)]
        self.utlb_hits = self.macro_hits = self.walks = 0

    def access(self, tbu: int, bank: int, page: int) -> None:
        tag = bank, page
        if tag in self.micro[tbu]:
            self.utlb_hits += 1
            return
        group = self.macro[page % self.sets]
        if tag in group:
            self.macro_hits += 1
        else:
            self.walks += 1
            group.append(tag)
            del group[: -self.ways]
        self.micro[tbu].append(tag)
        del self.micro[tbu][: -self.micro_size]

    def forget(self, bank: int, page: int | None) -> None:
        for entries in (*self.micro, *self.macro):
            entries[:] = [e for e in entries if e[0] != bank or page not in (None, e[1])]


PAGES = 24
steps = st.lists(
    st.one_of(
        st.tuples(st.just("go"), st.integers(0, 1), st.integers(0, 1), st.integers(0, PAGES - 1)),
        st.tuples(st.just("va"), st.just(0), st.integers(0, 1), st.integers(0, PAGES - 1)),
        st.tuples(st.just("asid"), st.just(0), st.integers(0, 1), st.just(0)),
    ),
    max_size=120,
)


def check_index(board: Board) -> None:
    """Every valid µTLB entry is in exactly the chain of its tag, and no chain holds anything else."""
    tlb = board.smmu.tlb
    for tbu in range(board.spec.tbus):
        unit = STATE_TBU + tbu * U_COLS
        first = int(tlb.state[unit + U_FIRST])
        rows = range(first, first + int(tlb.state[unit + U_ENTRIES]))
        chained = []
        for bucket in range(BUCKETS):
            row = int(tlb.state[unit + U_HEADS + bucket])
            while row:
                chained.append(row)
                row = int(tlb.state[int(tlb.state[M_LINKS]) + row])
        assert sorted(chained) == [row for row in rows if tlb.rows[row, T_PAGE]]


@given(steps)
@settings(max_examples=60)
def test_micro_and_macro_tlb_agree_with_the_model(program: list[tuple[str, int, int, int]]) -> None:
    spec = SmmuSpec(micro_tlb_entries=(3, 5), macro_tlb_entries=8, macro_tlb_ways=2)
    board = Board(spec)
    table = board.table()
    table.map(VA, PA, PAGES * PAGE)
    streams = (0x200, 0x600)  # TBU 0 and 1
    for bank in (0, 1):
        board.bank(bank, table.root)
        board.stream(2 * bank, streams[0] + bank, bank)
        board.stream(2 * bank + 1, streams[1] + bank, bank)
    board.enable()
    models = [Model(size, 4, 2, 1) for size in spec.micro_tlb_entries]
    models[1].macro = models[0].macro  # one macro TLB behind both
    for verb, tbu, bank, page in program:
        if verb == "go":
            assert board.pa(VA + page * PAGE, 0, streams[tbu] + bank) == PA + page * PAGE
            models[tbu].access(0, bank, page)
            continue
        if verb == "va":
            board.write64(cb(bank, TLBIVA), (bank + 1) << 48 | VA + page * PAGE >> 12)
        else:
            board.write(cb(bank, TLBIASID), bank + 1)
        board.sync(bank)
        for model in models:
            model.forget(bank, page if verb == "va" else None)
        check_index(board)
    check_index(board)
    counters = board.smmu.counters()
    assert (counters["utlb_hits"], counters["macro_hits"], counters["walks"]) == (
        sum(m.utlb_hits for m in models),
        sum(m.macro_hits for m in models),
        sum(m.walks for m in models),
    )


@given(
    st.lists(
        st.tuples(
            st.sampled_from([12, 16, 21, 30]),
            st.booleans(),
            st.integers(0, 3),
            st.integers(-(1 << 20), 1 << 20),
        ),
        max_size=40,
    ),
    st.integers(-(1 << 33), 1 << 33),
    st.integers(0, 3),
    st.booleans(),
)
@settings(max_examples=100)
def test_invalidation_removes_what_covers_the_address(
    entries: list[tuple[int, bool, int, int]], va: int, asid: int, by_asid: bool
) -> None:
    board = Board(SmmuSpec(micro_tlb_entries=(1,), macro_tlb_entries=64, macro_tlb_ways=64))
    tlb = board.smmu.tlb
    kept = []
    first = int(tlb.state[0])
    for i, (shift, is_global, owner, page) in enumerate(entries):
        base = (page << 12) >> shift << shift
        tlb.rows[first + i, T_PAGE] = base | shift | (CLASS_GLOBAL if is_global else 0)
        tlb.rows[first + i, T_CONTEXT] = 5 << 32 | (0xFFFF if is_global else owner)
        covered = base <= va < base + (1 << shift)
        if not covered or (by_asid and not is_global and owner != asid):
            kept.append(int(tlb.rows[first + i, T_PAGE]))
    tlb.invalidate_va(5, asid if by_asid else None, va)
    left = [int(row[T_PAGE]) for row in tlb.rows[first:] if row[T_PAGE]]
    assert left == kept
