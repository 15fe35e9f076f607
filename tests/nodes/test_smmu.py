"""The SMMU as a whole: addresses and permissions, isolation, the upper half, any program of writes."""

from __future__ import annotations

from contextlib import suppress

import numpy as np
import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st

from support.smmu_board import BASE, BYPASS, CLIENTPD, CR0, HPC0, TCR, TCR2, TTBR1, Board, cb
from unimem_node.bus import BusError
from unimem_node.mmu.regime import (
    ACCESS_EXECUTE,
    ACCESS_PRIVILEGED,
    ACCESS_WRITE,
    MODE_SIGN,
    REGIME_COLS,
    STAGE_1,
    Regime,
)
from unimem_node.smmu import Blocked, Fault, FaultKind, SmmuSpec, Translation
from unimem_node.smmu._fast import translate, translate_many
from unimem_node.smmu.arrays import BANK_COLS, R_CONTEXT

VA, PA, PAGE = 0x4000_0000, 0x100_0000, 0x1000


def test_a_translation_names_what_is_contiguous() -> None:
    board = Board()
    board.simple()
    result = board.go(VA + 0x123)
    assert result == Translation(PA + 0x123, PAGE - 0x123, result.cost_ps, 0)  # type: ignore[union-attr]


@pytest.mark.parametrize("access", range(8))
@pytest.mark.parametrize("user", [False, True])
@pytest.mark.parametrize("write", [False, True])
@pytest.mark.parametrize("execute", [False, True])
def test_permissions(access: int, user: bool, write: bool, execute: bool) -> None:
    """The table of the facts (chip.md §8), for every access, cold and from the TLB."""
    board = Board()
    board.simple(user=user, write=write, execute=execute)
    if access & ACCESS_EXECUTE:  # what is writable without privilege is not executable with it
        allowed = execute and not (access & ACCESS_PRIVILEGED and user and write)
    elif access & ACCESS_PRIVILEGED:
        allowed = write or not access & ACCESS_WRITE
    else:
        allowed = user and (write or not access & ACCESS_WRITE)
    for _ in range(2):
        result = board.go(VA, access)
        assert isinstance(result, Translation) is allowed
        if isinstance(result, Fault):
            assert (result.kind, result.level) == (FaultKind.PERMISSION, 3)


def test_wxn() -> None:
    board = Board()
    board.simple(write=True, execute=True)
    assert board.pa(VA, ACCESS_EXECUTE) == PA
    board.write(cb(0), 0x261)  # WXN
    assert board.pa(VA, ACCESS_EXECUTE) == PA, "the entry keeps the permissions it was made with"
    board.write(cb(0, 0x618), 0)
    board.sync(0)
    assert board.fault(VA, ACCESS_EXECUTE).kind is FaultKind.PERMISSION
    assert board.pa(VA, ACCESS_WRITE) == PA


def test_n22_two_nodes_with_the_same_stream_asid_and_address() -> None:
    boards = [Board(node=f"n{n}") for n in range(2)]
    for n, board in enumerate(boards):
        board.simple(pa=PA + n * 0x20_0000)
    for _ in range(2):
        for n, board in enumerate(boards):
            assert board.pa(VA) == PA + n * 0x20_0000
    boards[0].write(cb(0, 0x618), 0)
    boards[0].sync(0)
    assert boards[0].smmu.tlb.occupancy() == 0
    assert boards[1].smmu.tlb.occupancy() == 1, "an invalidation stays on its node"


def test_n22_two_banks_with_the_same_vmid_asid_and_address() -> None:
    board = Board()
    for bank in (0, 1):
        table = board.table()
        table.map(VA, PA + bank * 0x20_0000, PAGE, write=bank == 0)
        board.bank(bank, table.root, asid=3, vmid=3)
        board.stream(bank, HPC0 + bank, bank)
    board.enable()
    for _ in range(2):
        for bank in (0, 1):
            assert board.pa(VA, 0, HPC0 + bank) == PA + bank * 0x20_0000
    assert board.pa(VA, ACCESS_WRITE, HPC0) == PA
    assert board.fault(VA, ACCESS_WRITE, HPC0 + 1).context_bank == 1


@pytest.mark.parametrize("va", [0xFFFF_8000_0000_0000, 0x1_8000_0000_0000])
def test_the_upper_half_goes_through_ttbr1(va: int) -> None:
    """49 bits arrive at a TBU: bit 48 selects the table, whoever sign-extended the address or not."""
    board = Board()
    board.simple()
    upper = board.table()
    upper.map(va & 0x7FFF_FFFF_F000 | 0x8000_0000_0000, 0x200_0000, PAGE)
    board.write(cb(0, TCR), 16 | 16 << 16 | 2 << 30)  # T1SZ = 16, TG1 = 4 KiB, EPD1 = 0
    board.write64(cb(0, TTBR1), upper.root)
    for _ in range(2):
        assert board.pa(va) == 0x200_0000
    board.write64(cb(0, 0x600), 1 << 48 | (va >> 12 & 0xFFF_FFFF_FFFF))
    board.sync(0)
    before = board.smmu.counters()["walks"]
    board.pa(va)
    assert board.smmu.counters()["walks"] == before + 1, "TLBIVA finds it"
    assert board.fault(1 << 63).kind is FaultKind.TRANSLATION, "the hole"


def test_granules_that_idr2_does_not_offer_are_refused() -> None:
    board = Board()
    board.simple()
    board.write(cb(0, TCR), 16 | 2 << 14)  # 16 KiB
    assert board.fault(VA).kind is FaultKind.TRANSLATION
    assert SmmuSpec().granules == {12, 16}
    assert SmmuSpec(idr2=0x7555).granules == {12, 14, 16}


def test_a_bank_is_decoded_into_its_row() -> None:
    board = Board()
    board.bank(
        2,
        0x1234_5000,
        asid=0x777,
        vmid=0x42,
        sctlr=0x261,
        tcr=25 | 1 << 7 | 1 << 14 | 30 << 16 | 1 << 30,
        tcr2=2 | 1 << 4 | 1 << 5 | 2 << 15,
    )
    board.write(cb(2, 0x38), 0x0004_FF44)
    board.write(cb(2, 0x3C), 0x8000_0000)
    expected = Regime(
        ttbr0=0x1234_5000,
        t0sz=25,
        t1sz=30,
        granule_shift0=16,
        granule_shift1=0,  # 16 KiB: not offered
        epd0=True,
        epd1=False,
        asid=0x777,
        ips_bits=40,
        wxn=True,
        tbi0=True,
        cfg=3,
        vmid=0x42,
        mode=MODE_SIGN,
        stages=STAGE_1,
        sign_bit=39,
        mair=0x8000_0000_0004_FF44,
    )
    row = board.smmu.arrays.regimes[2]
    assert row[:REGIME_COLS].tolist() == expected.row().tolist()
    assert row[R_CONTEXT] == 0x42 << 32 | 2 << 16 | 0x777
    assert len(row) == BANK_COLS


def test_compiled_and_plain_python_agree() -> None:
    boards = [Board(SmmuSpec(micro_tlb_entries=(4,) * 6)) for _ in range(2)]
    for board in boards:
        board.simple(length=0x40_0000, pa=0x40_0000)
        board.smmu.tlb.invalidate_all()
    rng = np.random.default_rng(7)
    vas = VA + rng.integers(0, 0x42_0000, 300)
    plain = getattr(translate, "py_func", translate)
    for va in vas.tolist():
        for access in (0, 1):
            results = [
                f(b.smmu.arrays, 0, 0, va, access) for f, b in zip((translate, plain), boards, strict=True)
            ]
            assert tuple(map(int, results[0])) == tuple(map(int, results[1]))
    for one, other in zip(boards[0].smmu.arrays[3:], boards[1].smmu.arrays[3:], strict=True):
        assert (one == other).all()


def test_bulk_and_single_translation_agree() -> None:
    boards = [Board(), Board()]
    for board in boards:
        board.simple(length=0x40_0000, pa=0x40_0000)
    vas = (VA + np.random.default_rng(3).integers(0, 0x40_0000, 500)).astype(np.uint64)
    pas = np.zeros(500, np.uint64)
    assert translate_many(boards[0].smmu.arrays, 0, 0, vas, 0, pas) == 500
    assert pas.tolist() == [boards[1].pa(int(va)) for va in vas]
    assert boards[0].smmu.counters() == boards[1].smmu.counters()


# ---- N21

OFFSETS = st.one_of(
    st.sampled_from(
        [
            0x0,
            0x400,
            0x10,
            0x48,
            0x4C,
            0x64,
            0x68,
            0x70,
            0x800,
            0x804,
            0xC00,
            0xC04,
            0x1000,
            0x1004,
            0x1800,
            0x1804,
        ]
        + [
            cb(bank, at)
            for bank in (0, 1)
            for at in (0, 4, 8, 0x10, 0x20, 0x28, 0x30, 0x58, 0x5C, 0x600, 0x610, 0x618)
        ]
    ),
    st.integers(0, 0x1_FFFF),
)
VALUES = st.one_of(
    st.integers(0, (1 << 64) - 1),
    st.sampled_from([0, 1, 0xFFFF_FFFF, 0x8000_0200, 0x1_0000, 0x61, 16, 0x2B_5193, (1 << 64) - 1]),
)
WRITES = st.lists(st.tuples(OFFSETS, st.sampled_from([4, 8]), VALUES), max_size=40)
ADDRESSES = st.one_of(
    st.integers(0, (1 << 64) - 1), st.integers(0, 1 << 32), st.sampled_from([VA, 1 << 48, 0])
)


@given(
    WRITES, st.lists(st.tuples(ADDRESSES, st.integers(0, 7)), min_size=1, max_size=8), st.binary(max_size=256)
)
@example([(cb(0, TCR2), 4, 0xFFFF_FFFF), (cb(0, TCR), 4, 0x8080_0027)], [(VA, 1)], b"\xff" * 256)
@settings(max_examples=150)
def test_n21_no_program_of_writes_raises(
    program: list[tuple[int, int, int]], accesses: list[tuple[int, int]], table: bytes
) -> None:
    board = Board()
    board.simple()
    for n in range(0, 0x1000, 256):  # and any table
        board.memory.write(0x20_0000 + n, table)
    board.bank(1, 0x20_0000)
    board.stream(1, 0x14E8, 1)
    for offset, size, value in program:
        with suppress(BusError):  # the bus' answer to a misaligned access, not the model's failure
            (board.bus.write64 if size == 8 else board.bus.write32)(BASE + offset, value)
        for va, access in accesses:
            for stream_id in (HPC0, 0x14E8, 0x868):
                result = board.go(va, access, stream_id)
                assert isinstance(result, (Translation, Blocked, Fault))
                if isinstance(result, Fault):
                    assert result.describe()
    for offset in range(0, 0x1_0000, 0x404):
        board.read(offset & ~3)


@given(st.lists(st.tuples(st.integers(0, 0xFFF), st.integers(0, 0xFFFF_FFFF)), max_size=30))
@settings(max_examples=60)
def test_n21_a_bank_in_disorder_does_not_disturb_another(program: list[tuple[int, int]]) -> None:
    board = Board()
    board.simple()
    other = board.table()
    other.map(VA, 0x300_0000, PAGE)
    board.bank(1, other.root)
    board.stream(1, 0x14E8, 1)
    for offset, value in program:
        board.write(cb(1, offset & ~3), value)
        board.go(VA, 1, 0x14E8)
        assert board.pa(VA, 1) == PA


def test_bypass_of_one_stream_leaves_the_rest() -> None:
    board = Board()
    board.simple()
    board.stream(1, 0x14E8, BYPASS)
    assert (board.pa(VA), board.pa(VA, 0, 0x14E8)) == (PA, VA)
    board.write(CR0, CLIENTPD)
    assert board.pa(VA) == VA
