"""Faults: which kind, what the registers say, the interrupt, what the master sees."""

from __future__ import annotations

import pytest

from support.smmu_board import (
    CBFRSYNRA,
    CFIE,
    CFRE,
    FAR,
    FSR,
    FSRRESTORE,
    FSYNR0,
    GFIE,
    GFRE,
    GFSR,
    HPC0,
    IPAFAR,
    SCTLR,
    SEP_UPSTREAM,
    SPI,
    TCR2,
    TTBR0,
    USFCFG,
    Board,
    M,
    cb,
)
from unimem_node.mmu.regime import ACCESS_EXECUTE, ACCESS_PRIVILEGED, ACCESS_WRITE
from unimem_node.smmu import FaultKind, GlobalFault, RouteKind, StreamRoute
from unimem_node.smmu.faults import access_words

VA, PA, PAGE = 0x4000_0000, 0x100_0000, 0x1000
READ, WRITE = 0, ACCESS_WRITE


def leaf(board: Board, va: int) -> int:
    """Physical address of the level-3 descriptor of `va`."""
    table = board.smmu.registers.peek("CB_TTBR0") & 0xFFFF_FFFF_F000
    for shift in (39, 30, 21):
        table = board.memory.read64(table + (va >> shift & 511) * 8) & 0xFFFF_FFFF_F000
    return table + (va >> 12 & 511) * 8


def test_n01_a_read_fills_the_tlb_and_the_write_still_faults() -> None:
    board = Board()
    board.simple(write=False)
    for _ in range(2):
        assert board.pa(VA, READ) == PA
        fault = board.fault(VA, WRITE)
        assert (fault.kind, fault.level) == (FaultKind.PERMISSION, 3)
    assert board.smmu.counters()["walks"] == 1, "the second pair was answered from the TLB"
    board.stream(1, 0x14E8, 0)
    assert board.fault(VA, WRITE, 0x14E8).kind is FaultKind.PERMISSION, "and so from the macro TLB"
    assert board.smmu.counters()["walks"] == 1


@pytest.mark.parametrize(
    ("access", "bits"),
    [
        (READ, 0),
        (WRITE, 1 << 4),
        (ACCESS_PRIVILEGED, 1 << 5),
        (ACCESS_EXECUTE, 1 << 6),
        (WRITE | ACCESS_PRIVILEGED, 3 << 4),
    ],
)
def test_n10_the_syndrome_of_an_unmapped_address(access: int, bits: int) -> None:
    board = Board()
    board.simple()
    va = VA + 0x20_0000 + 0x678  # the level-2 table has no entry for it
    fault = board.fault(va, access)
    assert fault.kind is FaultKind.TRANSLATION
    assert board.read(cb(0, FSR)) == 0x402
    assert board.read64(cb(0, FAR)) == va
    assert board.read(cb(0, FSYNR0)) == 2 | bits
    assert board.read(CBFRSYNRA) == HPC0
    assert board.read64(cb(0, IPAFAR)) == 0, "stage 1 leaves it alone"
    assert (fault.fsr, fault.fsynr0, fault.iova, fault.stage) == (0x402, 2 | bits, va, 1)


@pytest.mark.parametrize(
    ("va", "level"), [(VA + 0x20_0000, 2), (VA - PAGE, 1), (1 << 39, 0), (VA + 0x10_0000, 3), (1 << 48, 0)]
)
def test_n10_plvl_is_the_level_of_the_walk(va: int, level: int) -> None:
    board = Board()
    board.simple()
    assert board.fault(va).level == level
    assert board.read(cb(0, FSYNR0)) & 3 == level


def test_n11_kinds_are_different_bits_in_the_order_of_the_checks() -> None:
    """One page that is wrong in every way; cured one thing after the other, it shows the next."""
    board = Board()
    board.simple()
    board.write(cb(0, TCR2), 0 | 1 << 4 | SEP_UPSTREAM)  # 32 bits out
    at = leaf(board, VA)
    seen = []

    def attempt(descriptor: int) -> None:
        board.memory.write64(at, descriptor)
        fault = board.fault(VA, WRITE)
        assert fault.level == 3
        seen.append(fault.kind)
        assert board.read(cb(0, FSR)) == 0x400 | 1 << fault.kind
        board.write(cb(0, FSR), 0xFFFF_FFFF)

    high, user, read_only, af, ng = 0x8_0000_0000, 1 << 6, 1 << 7, 1 << 10, 1 << 11
    attempt(high | user | read_only | ng | 1)  # reserved at level 3
    attempt(high | user | read_only | ng | 3)
    attempt(high | user | read_only | ng | af | 3)
    attempt(high | user | ng | af | 3)
    assert seen == [
        FaultKind.TRANSLATION,
        FaultKind.ACCESS_FLAG,
        FaultKind.PERMISSION,
        FaultKind.ADDRESS_SIZE,
    ]
    board.memory.write64(at, PA | user | ng | af | 3)
    assert board.pa(VA, WRITE) == PA


def test_n11_a_table_that_is_not_in_memory_is_an_external_fault() -> None:
    board = Board()
    board.simple()
    board.write64(cb(0, TTBR0), 1 << 48 | 0x7_0000_0000)
    fault = board.fault(VA)
    assert (fault.kind, fault.level) == (FaultKind.EXTERNAL, 0)
    assert board.read(cb(0, FSR)) == 0x410


def test_n11_affd_switches_access_flag_faults_off() -> None:
    board = Board()
    board.simple(access_flag=False)
    assert board.fault(VA).kind is FaultKind.ACCESS_FLAG
    board.write(cb(0, SCTLR), M | CFRE | CFIE | 1 << 3)
    assert board.pa(VA) == PA


def test_n12_a_second_fault_sets_multi_and_leaves_the_first() -> None:
    board = Board()
    board.simple(write=False)
    board.stream(1, 0x14E8, 0)
    first = board.fault(VA + 8, WRITE)
    second = board.fault(VA - PAGE, READ, 0x14E8)
    assert (first.multiple, second.multiple) == (False, True)
    assert second.fsr == 0x402, "the value describes the second"
    assert board.read(cb(0, FSR)) == 0x8000_0408
    assert board.read64(cb(0, FAR)) == VA + 8
    assert board.read(cb(0, FSYNR0)) == 3 | 1 << 4
    assert board.read(CBFRSYNRA) == HPC0
    board.write(cb(0, FSR), board.read(cb(0, FSR)))
    assert board.read(cb(0, FSR)) == 0
    assert not board.fault(VA - PAGE, READ, 0x14E8).multiple
    assert board.read64(cb(0, FAR)) == VA - PAGE


def test_n12_a_second_global_fault_sets_multi() -> None:
    board = Board()
    board.simple()
    board.fault(VA, 0, 0x201)
    board.fault(VA + 8, WRITE, 0x202)
    assert board.read(GFSR) == 0x8000_0002
    assert board.read64(0x40) == VA
    assert board.read(0x54) == 0x201


@pytest.mark.parametrize(("sctlr", "aborts"), [(M, False), (M | CFRE, True)])
def test_cfre_says_what_the_master_sees(sctlr: int, aborts: bool) -> None:
    board = Board()
    board.simple()
    board.write(cb(0, SCTLR), sctlr)
    fault = board.fault(0)
    assert fault.aborts is aborts
    assert ("bus error" if aborts else "reads zeros") in fault.describe()
    assert board.read(cb(0, FSR)) == 0x402, "recorded either way"


@pytest.mark.parametrize(
    ("flags", "aborts"), [(USFCFG, False), (USFCFG | GFRE, True), (USFCFG | 1 << 4, False)]
)
def test_global_faults_abort_with_gfre(flags: int, aborts: bool) -> None:
    """GCFGFRE is about faults of configuration accesses, which the MMU-500 does not have."""
    board = Board()
    board.enable(flags)
    assert board.fault(0, 0, 0x201).aborts is aborts


def test_the_interrupt_is_level_sensitive() -> None:
    board = Board()
    board.simple()
    assert board.pending == []
    board.fault(0)
    assert board.pending == [SPI]
    board.write(cb(0, SCTLR), M | CFRE)
    assert board.pending == [], "CFIE = 0"
    board.write(cb(0, SCTLR), M | CFRE | CFIE)
    assert board.pending == [SPI], "the fault is still recorded"
    board.write(cb(0, FSR), 0x402)
    assert board.pending == []
    board.write(cb(0, FSRRESTORE), 0x8)
    assert board.pending == [SPI]


def test_all_banks_share_the_line() -> None:
    board = Board()
    table = board.simple()
    board.bank(5, table.root)
    board.stream(1, 0x14E8, 5)
    board.fault(0)
    board.fault(0, 0, 0x14E8)
    board.write(cb(0, FSR), 0x402)
    assert board.pending == [SPI]
    board.write(cb(5, FSR), 0x402)
    assert board.pending == []


def test_global_faults_interrupt_with_gfie() -> None:
    board = Board()
    board.enable(USFCFG)
    board.fault(0, 0, 0x201)
    assert board.pending == []
    board.enable(USFCFG | 1 << 5)
    assert board.pending == [], "GCFGFIE is read-only zero"
    board.enable(USFCFG | GFIE)
    assert board.pending == [SPI]
    board.write(GFSR, 0x2)
    assert board.pending == []


def test_a_handler_may_read_and_clear_while_the_fault_is_raised() -> None:
    board = Board()
    board.simple()
    taken = []

    def handler(spi: int) -> None:
        taken.append((spi, board.read(cb(0, FSR)), board.read64(cb(0, FAR))))
        board.write(cb(0, FSR), taken[-1][1])

    board.interrupts.connect_cpu(handler)
    for va in (0x1000, 0x2000):
        board.fault(va)
    assert taken == [(SPI, 0x402, 0x1000), (SPI, 0x402, 0x2000)]
    assert board.pending == []


def test_memory_that_is_not_there_under_a_bypass_is_a_global_external_fault() -> None:
    board = Board()
    board.enable(0)
    route = board.smmu.resolve(HPC0)
    assert route == StreamRoute(RouteKind.BYPASS, 0)
    fault = board.smmu.fault(HPC0, route, 0x9_9999_0000, WRITE, FaultKind.EXTERNAL, 0)
    assert (fault.kind, fault.global_fault) == (FaultKind.EXTERNAL, GlobalFault.EXTERNAL)
    assert board.read(GFSR) == 1 << 6


def test_an_address_beyond_48_bits_cannot_bypass() -> None:
    board = Board()
    board.enable(0)
    fault = board.fault(1 << 48)
    assert (fault.kind, fault.global_fault) == (FaultKind.ADDRESS_SIZE, GlobalFault.UNSUPPORTED_TRANSACTION)


def test_a_fault_is_an_event_and_a_count() -> None:
    board = Board()
    board.simple()
    board.fault(VA - PAGE, WRITE)
    board.fault(VA, READ, 0x201)
    assert board.smmu.counters()["faults"] == 2
    first, second = board.log.rows
    assert (first.node, first.kind) == ("n0", "smmu_fault")
    assert first.fields["fault"] == "TRANSLATION"
    assert (first.fields["iova"], first.fields["stream"], first.fields["bank"]) == (VA - PAGE, HPC0, 0)
    assert (second.fields["fault"], second.fields["bank"]) == ("UNIDENTIFIED_STREAM", -1)


def test_descriptions_say_everything_in_one_line() -> None:
    board = Board()
    board.simple(write=False)
    text = board.fault(VA + 0x10, WRITE).describe()
    assert text == (
        "permission fault, stage 1 level 3, write of 0x4000_0010 by stream 0x200 (TBU 0), context bank 0 "
        "[FSR 0x408 FSYNR0 0x13; bus error]"
    )
    assert "earlier fault" in board.fault(0).describe()
    assert "no stream match register matches" in board.fault(0, 0, 0x201).describe()
    assert access_words(ACCESS_PRIVILEGED | ACCESS_EXECUTE) == "privileged execute"
