"""From stream ID to context bank: matching, S2CR types, banks that cannot translate."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from support.smmu_board import (
    BYPASS,
    CBA2R,
    CBAR,
    FAULT,
    HPC0,
    SCTLR,
    SMCFCFG,
    SMR,
    USFCFG,
    Board,
    cb,
)
from unimem_node.mmu.regime import ACCESS_EXECUTE, ACCESS_PRIVILEGED, ACCESS_WRITE
from unimem_node.smmu import FaultKind, GlobalFault, RouteKind, SmmuSpec, StreamRoute
from unimem_node.smmu.streams import matches

VA, PA = 0x4000_0000, 0x100_0000
HIGH = 0x1F_0000_0000


@given(
    st.integers(0, 0x7FFF),
    st.integers(0, 0x7FFF),
    st.one_of(st.just(0), st.just(0x7FFF), st.integers(0, 0x7FFF)),
)
def test_an_entry_matches_when_the_unmasked_bits_agree(stream_id: int, entry: int, mask: int) -> None:
    expected = all(mask >> bit & 1 or (stream_id ^ entry) >> bit & 1 == 0 for bit in range(15))
    assert matches(1 << 31 | mask << 16 | entry, stream_id) is expected
    assert not matches(mask << 16 | entry, stream_id), "not VALID"


def test_out_of_reset_everything_bypasses() -> None:
    board = Board()
    for stream_id in (HPC0, 0x14E8, 0):
        assert board.smmu.resolve(stream_id) == StreamRoute(RouteKind.BYPASS, stream_id >> 10)
    assert board.pa(HIGH) == HIGH


def test_clientpd_bypasses_what_would_be_translated() -> None:
    board = Board()
    board.simple()
    assert board.pa(VA) == PA
    board.enable(1)
    assert board.pa(VA) == VA


def test_a_mask_covers_a_port() -> None:
    board = Board()
    table = board.simple()
    board.bank(1, table.root)
    board.stream(1, 0x1300, 1, mask=0x3F)  # S_AXI_HP2
    for axi_id in (0, 1, 0x3F):
        assert board.smmu.resolve(0x1300 | axi_id).cb == 1
    assert board.smmu.resolve(0x1340).fault is GlobalFault.UNIDENTIFIED_STREAM


def test_n04_s2cr_bypass() -> None:
    board = Board()
    board.simple()
    board.stream(1, 0x868, BYPASS)
    assert board.smmu.resolve(0x868).kind is RouteKind.BYPASS
    assert board.pa(VA, 1, 0x868) == VA
    assert board.pa(VA, 1) == PA, "the other stream is still translated"


def test_n04_s2cr_fault() -> None:
    board = Board()
    board.simple()
    board.stream(1, 0x868, FAULT)
    fault = board.fault(VA, 1, 0x868)
    assert (fault.global_fault, fault.context_bank) == (GlobalFault.INVALID_CONTEXT, -1)
    assert board.read(0x48) == 1 << 0
    assert board.read64(0x40) == VA
    assert board.read(0x54) == 0x868


def test_n05_unmatched_stream_faults_with_usfcfg() -> None:
    board = Board()
    board.simple()
    board.enable(USFCFG)
    fault = board.fault(HIGH, 1, 0x201)
    assert fault.global_fault is GlobalFault.UNIDENTIFIED_STREAM
    assert board.read(0x48) == 1 << 1
    assert board.read64(0x40) == HIGH
    assert board.read(0x54) == 0x201
    assert board.read(0x50) == 1 << 1, "WNR"
    board.enable(0)
    assert board.pa(HIGH, 1, 0x201) == HIGH, "USFCFG = 0: it bypasses"


@pytest.mark.parametrize("smcfcfg", [0, SMCFCFG])
def test_n05_two_matches_conflict(smcfcfg: int) -> None:
    board = Board()
    table = board.simple()
    board.bank(1, table.root)
    board.stream(1, 0x200, 1, mask=0x3F)
    board.enable(smcfcfg)
    fault = board.fault(VA)
    assert fault.global_fault is GlobalFault.STREAM_MATCH_CONFLICT
    assert "0, 1" in fault.reason
    assert board.read(0x48) == 1 << 2
    assert board.pa(VA, 0, 0x201) == PA, "only the second entry matches this one"


def test_an_entry_out_of_use_does_not_count() -> None:
    board = Board()
    board.simple()
    board.stream(1, HPC0, FAULT)
    board.write(SMR + 4, HPC0)  # VALID = 0
    assert board.pa(VA) == PA


@pytest.mark.parametrize("bank", [16, 17, 255])
def test_a_bank_that_is_not_there(bank: int) -> None:
    board = Board()
    board.simple()
    board.stream(1, 0x868, bank)
    fault = board.fault(VA, 0, 0x868)
    assert fault.global_fault is GlobalFault.UNIMPLEMENTED_BANK
    assert board.read(0x48) == 1 << 3


def test_s2cr_type_3_is_a_fault() -> None:
    board = Board()
    board.simple()
    board.stream(1, 0x868, 3 << 16)
    assert board.fault(VA, 0, 0x868).global_fault is GlobalFault.INVALID_CONTEXT


@pytest.mark.parametrize(
    ("offset", "value", "reason"),
    [
        (CBAR, 2 << 16, "stage 2 fault"),
        (CBAR, 3 << 16 | 16 << 8, "its stage 2 is bank 16, of 16 context banks"),
        (CBAR, 3 << 16 | 0xFF << 8, "its stage 2 is bank 255"),
        (CBAR, 3 << 16 | 5 << 8, "its stage 2, bank 5, has CBAR.TYPE = 2 and not 0"),
        (CBAR, 3 << 16, "its stage 2, bank 0, has CBAR.TYPE = 3 and not 0"),
        (CBA2R, 0, "AArch32"),
    ],
)
def test_a_bank_that_cannot_translate_says_why(offset: int, value: int, reason: str) -> None:
    board = Board()
    board.simple()
    board.write(offset, value)
    fault = board.fault(VA)
    assert fault.global_fault is GlobalFault.INVALID_CONTEXT
    assert reason in fault.reason
    assert reason in fault.describe()


def test_stage_1_switched_off_is_an_identity() -> None:
    board = Board()
    board.simple()
    board.write(cb(0, SCTLR), 0x60)
    route = board.smmu.resolve(HPC0)
    assert (route.kind, route.cb) == (RouteKind.TRANSLATE, 0)
    assert board.pa(HIGH) == HIGH
    board.write(CBA2R, 0)
    assert board.pa(HIGH) == HIGH, "no tables are walked: their format does not matter"
    assert board.smmu.counters()["bypasses"] == 2


@pytest.mark.parametrize("stream_id", [-1, 0x8000, 6 << 10])
def test_an_id_that_no_tbu_presents(stream_id: int) -> None:
    with pytest.raises(ValueError, match="TBU"):
        Board().smmu.resolve(stream_id)


def test_a_route_is_found_again_after_each_change() -> None:
    """N23 as far as one thread goes: an observer sees the old or the new configuration."""
    board = Board()
    table = board.simple()
    other = board.table()
    other.map(VA, 0x300_0000, 0x1000)
    board.bank(1, other.root)
    epochs = [board.smmu.epoch]
    assert board.pa(VA) == PA
    board.write(0xC00, 1)
    epochs.append(board.smmu.epoch)
    assert board.pa(VA) == 0x300_0000
    board.write(0xC00, 0)
    board.write64(cb(0, 0x20), 7 << 48 | other.root)
    epochs.append(board.smmu.epoch)
    assert board.pa(VA) == 0x300_0000
    board.write64(cb(0, 0x20), 1 << 48 | table.root)
    assert board.pa(VA) == PA
    assert epochs == sorted(set(epochs)), "every change grows the epoch"


@pytest.mark.parametrize(
    ("s2cr", "access", "counts_as"),
    [
        (0, 0b111, 0b111),
        (1 << 24, ACCESS_PRIVILEGED, ACCESS_PRIVILEGED),  # reserved: as the master says
        (2 << 24, ACCESS_PRIVILEGED | ACCESS_WRITE, ACCESS_WRITE),
        (3 << 24, ACCESS_WRITE, ACCESS_PRIVILEGED | ACCESS_WRITE),
        (2 << 26, ACCESS_EXECUTE, 0),
        (3 << 26, 0, ACCESS_EXECUTE),
        (3 << 26, ACCESS_WRITE, ACCESS_WRITE),  # a write is never a fetch
        (3 << 26 | 3 << 24, 0, ACCESS_EXECUTE | ACCESS_PRIVILEGED),
    ],
)
def test_s2cr_overrides_privilege_and_instruction(s2cr: int, access: int, counts_as: int) -> None:
    board = Board()
    board.simple()
    board.stream(0, HPC0, s2cr)
    assert board.smmu.resolve(HPC0).access(access) == counts_as


def test_privcfg_decides_on_privileged_pages() -> None:
    board = Board()
    board.simple(user=False)
    assert board.fault(VA).kind is FaultKind.PERMISSION
    board.stream(0, HPC0, 3 << 24)
    assert board.pa(VA) == PA
    board.write(cb(0, 0x58), 0xFFFF_FFFF)
    board.stream(0, HPC0, 2 << 24)
    fault = board.fault(VA, ACCESS_PRIVILEGED)
    assert board.read(cb(0, 0x68)) == 3, "the syndrome tells what the access counted as"
    assert fault.access == 0


def test_match_registers_compare_the_bits_there_are() -> None:
    board = Board(SmmuSpec(stream_id_bits=10, micro_tlb_entries=(16,)))
    board.simple()
    assert board.pa(VA) == PA
    assert board.read(SMR) == 1 << 31 | HPC0
