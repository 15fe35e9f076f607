"""Stalled transactions: SS, RESUME, HUPCF, MULTI, who is told what in which order (SMMUv2, "Stalling")."""

from __future__ import annotations

import pytest

from support.smmu_board import (
    CFCFG,
    CFIE,
    CFRE,
    FAR,
    FPD_DMA,
    FSR,
    FSRRESTORE,
    HPC0,
    HUPCF,
    PAGE_1,
    PAGE_2,
    RESUME,
    RETRY,
    SCTLR,
    SPI,
    TABLES,
    TERMINATE,
    TLBIVA,
    Board,
    M,
    RawTables,
    cb,
)
from unimem_node.smmu import Blocked, Fault, Translation

VA, PA, PAGE = 0x4000_0000, 0x100_0000, 0x1000
SS = 1 << 30
UNMAPPED = VA + 0x20_0000
STALL = M | CFRE | CFIE | CFCFG


class Master:
    """Accesses memory as an engine does: waits when it is told to, tries again when it may."""

    def __init__(self, board: Board, name: str, log: list[str], stream_id: int = HPC0) -> None:
        self.board, self.name, self.log, self.stream_id = board, name, log, stream_id
        self.faults: list[Fault] = []

    def go(self, va: int, access: int = 0) -> None:
        smmu = self.board.smmu
        result = smmu.translate(self.stream_id, va, access)
        if isinstance(result, Translation):
            self.log.append(f"{self.name} done at {result.pa:#x}")
        elif isinstance(result, Blocked):
            self.log.append(f"{self.name} blocked")
            self.hold = smmu.wait(result.context_bank, lambda retry: self.resumed(va, access, retry))
        elif result.stalls:
            self.faults.append(result)
            self.log.append(f"{self.name} stalled")
            self.hold = smmu.hold(result, lambda retry: self.resumed(va, access, retry))
        else:
            self.log.append(f"{self.name} terminated")

    def resumed(self, va: int, access: int, retry: bool) -> None:
        if retry:
            self.go(va, access)
        else:
            self.log.append(f"{self.name} aborts")


class Machine:
    """Stream HPC0 and FPD_DMA in one bank that stalls."""

    def __init__(self, hupcf: bool) -> None:
        self.board = board = Board()
        self.table = board.simple()
        board.stream(1, FPD_DMA, 0)
        self.sctlr = STALL | (HUPCF if hupcf else 0)
        board.write(cb(0, SCTLR), self.sctlr)
        self.log: list[str] = []
        self.one = Master(board, "one", self.log)
        self.two = Master(board, "two", self.log, FPD_DMA)

    def map(self, va: int = UNMAPPED) -> None:
        self.table.map(va, PA + 0x10_0000, PAGE)

    def clear(self, bank: int = 0) -> None:
        self.board.write(cb(bank, FSR), self.board.read(cb(bank, FSR)))

    def resume(self, how: int) -> list[str]:
        """RESUME, and what happens then."""
        before = len(self.log)
        self.board.write(cb(0, RESUME), how)
        assert len(self.log) == before, "the write itself runs no engine"
        self.board.run()
        return self.log[before:]


@pytest.mark.parametrize("hupcf", [False, True])
def test_n13_retry_after_mapping_completes_it(hupcf: bool) -> None:
    machine = Machine(hupcf)
    board = machine.board
    machine.one.go(UNMAPPED, 1)
    assert machine.log == ["one stalled"]
    assert board.read(cb(0, FSR)) == SS | 0x402
    assert board.read64(cb(0, FAR)) == UNMAPPED
    assert board.pending == [SPI]
    machine.map()
    board.write64(cb(0, TLBIVA), 1 << 48 | UNMAPPED >> 12)
    board.sync(0)  # TLB maintenance works meanwhile
    machine.clear()
    assert board.read(cb(0, FSR)) == SS, "SS is read-only"
    assert board.pending == [SPI], "SS holds the line"
    assert machine.resume(RETRY) == ["one done at 0x1100000"]
    assert board.read(cb(0, FSR)) == 0
    assert board.pending == []


@pytest.mark.parametrize("hupcf", [False, True])
def test_n13_terminate_gives_a_bus_error(hupcf: bool) -> None:
    machine = Machine(hupcf)
    machine.one.go(UNMAPPED)
    assert machine.one.faults[0].aborts
    machine.clear()
    assert machine.resume(TERMINATE) == ["one aborts"]
    assert machine.board.read(cb(0, FSR)) == 0
    assert machine.log == ["one stalled", "one aborts"]


def test_n13_retry_without_mapping_stalls_again() -> None:
    machine = Machine(True)
    machine.one.go(UNMAPPED)
    machine.clear()
    assert machine.resume(RETRY) == ["one stalled"]
    assert machine.board.read(cb(0, FSR)) == SS | 0x402


def test_n12_resume_before_the_clear_keeps_the_record() -> None:
    machine = Machine(True)
    machine.one.go(UNMAPPED)
    assert machine.resume(RETRY) == ["one stalled"]
    assert machine.board.read(cb(0, FSR)) == 1 << 31 | SS | 0x402, "the second fault only sets MULTI"
    assert machine.one.faults[1].multiple


def test_n13_hupcf_0_blocks_every_tbu_that_shares_the_bank() -> None:
    machine = Machine(False)
    board = machine.board
    other = board.table()
    other.map(VA, 0x300_0000, PAGE)
    board.bank(1, other.root)
    board.stream(2, 0x868, 1)
    assert board.pa(VA, 0, FPD_DMA) == PA
    machine.one.go(UNMAPPED)
    machine.two.go(VA)
    machine.one.go(VA)
    assert machine.log == ["one stalled", "two blocked", "one blocked"], "although the TLB has the page"
    assert board.pa(VA, 0, 0x868) == 0x300_0000, "another bank goes on"
    assert board.read(cb(0, FSR)) == SS | 0x402, "a blocked access is no fault"
    machine.clear()
    machine.map()
    assert machine.resume(RETRY) == [
        "one done at 0x1100000",
        "two done at 0x1000000",
        "one done at 0x1000000",
    ]


def test_n13_hupcf_0_the_next_fault_blocks_again() -> None:
    machine = Machine(False)
    machine.one.go(UNMAPPED)
    machine.two.go(UNMAPPED + PAGE)
    machine.clear()
    machine.map()
    assert machine.resume(RETRY) == ["one done at 0x1100000", "two stalled"]
    assert machine.board.read64(cb(0, FAR)) == UNMAPPED + PAGE
    machine.clear()
    assert machine.resume(TERMINATE) == ["two aborts"]


def test_n13_hupcf_1_lets_others_proceed() -> None:
    machine = Machine(True)
    machine.one.go(UNMAPPED)
    machine.two.go(VA)
    machine.one.go(VA + PAGE)
    assert machine.log == ["one stalled", "two done at 0x1000000", "one done at 0x1001000"]


def test_n12_hupcf_1_a_second_stall_sets_multi_and_waits_behind() -> None:
    machine = Machine(True)
    board = machine.board
    machine.one.go(UNMAPPED)
    machine.two.go(UNMAPPED + PAGE, 1)
    assert board.read(cb(0, FSR)) == 1 << 31 | SS | 0x402
    assert board.read64(cb(0, FAR)) == UNMAPPED
    machine.map()
    machine.map(UNMAPPED + PAGE)
    machine.clear()
    assert machine.resume(TERMINATE) == ["one aborts", "two done at 0x1100000"], "RESUME is the first's"


def test_hupcf_set_meanwhile_frees_those_that_only_waited() -> None:
    machine = Machine(False)
    machine.one.go(UNMAPPED)
    machine.two.go(VA)
    machine.board.write(cb(0, SCTLR), machine.sctlr | HUPCF)
    machine.board.run()
    assert machine.log == ["one stalled", "two blocked", "two done at 0x1000000"]
    assert machine.board.read(cb(0, FSR)) & SS


def test_hupcf_cleared_meanwhile_blocks() -> None:
    machine = Machine(True)
    machine.one.go(UNMAPPED)
    machine.board.write(cb(0, SCTLR), machine.sctlr & ~HUPCF)
    machine.two.go(VA)
    assert machine.log[-1] == "two blocked"
    machine.clear()
    assert machine.resume(TERMINATE) == ["one aborts", "two done at 0x1000000"]


def test_hupcf_has_no_effect_on_terminated_faults() -> None:
    machine = Machine(False)
    machine.board.write(cb(0, SCTLR), M | CFRE)
    machine.one.go(UNMAPPED)
    machine.two.go(VA)
    assert machine.log == ["one terminated", "two done at 0x1000000"]


def test_resume_with_nothing_outstanding_has_no_effect() -> None:
    machine = Machine(True)
    epoch = machine.board.smmu.epoch
    assert machine.resume(RETRY) == machine.resume(TERMINATE) == []
    assert machine.board.smmu.epoch == epoch


def test_ss_cannot_be_written() -> None:
    board = Board()
    board.write(cb(0, FSR), SS)
    board.write(cb(0, FSRRESTORE), SS)
    assert board.read(cb(0, FSR)) == 0


def test_cfie_decides_on_the_interrupt_of_ss() -> None:
    machine = Machine(True)
    machine.board.write(cb(0, SCTLR), machine.sctlr & ~CFIE)
    machine.one.go(UNMAPPED)
    assert machine.board.pending == []
    machine.clear()
    machine.board.write(cb(0, SCTLR), machine.sctlr)
    assert machine.board.pending == [SPI]


def test_a_handler_may_resume_before_the_engine_has_asked() -> None:
    """The CPU takes the interrupt inside the access; the decision is kept for the engine."""
    machine = Machine(False)
    board = machine.board

    def handler(spi: int) -> None:
        machine.map()
        machine.clear()
        board.write(cb(0, RESUME), RETRY)

    board.interrupts.connect_cpu(handler)
    machine.one.go(UNMAPPED)
    assert machine.log == ["one stalled"]
    board.run()
    assert machine.log == ["one stalled", "one done at 0x1100000"]


def test_what_nobody_holds_ends_with_resume() -> None:
    """A master that cannot wait treats it as terminated: SS stays until RESUME all the same."""
    machine = Machine(False)
    assert machine.board.fault(UNMAPPED).stalls
    machine.two.go(VA)
    machine.clear()
    assert machine.resume(RETRY) == ["two done at 0x1000000"]


def test_a_cancelled_hold_is_never_told() -> None:
    machine = Machine(True)
    machine.one.go(UNMAPPED)
    machine.two.go(UNMAPPED)
    machine.one.hold.cancel()
    machine.clear()
    machine.board.write(cb(0, RESUME), TERMINATE)
    machine.two.hold.cancel()  # decided, but not told yet
    machine.board.run()
    assert machine.log == ["one stalled", "two stalled"]


def test_waiting_for_a_bank_that_is_free_goes_on_at_once() -> None:
    machine = Machine(False)
    told: list[bool] = []
    machine.board.smmu.wait(0, told.append)
    machine.board.run()
    assert told == [True]


def test_only_faults_that_stall_can_be_held() -> None:
    board = Board()
    board.simple()
    with pytest.raises(ValueError, match="this fault ends its transaction: translation fault"):
        board.smmu.hold(board.fault(UNMAPPED), lambda retry: None)


def test_reset_of_the_smmu_ends_what_waits() -> None:
    machine = Machine(False)
    machine.one.go(UNMAPPED)
    machine.two.go(VA)
    machine.board.smmu.reset()
    machine.board.run()
    assert machine.log == ["one stalled", "two blocked", "one aborts", "two aborts"]
    assert machine.board.pa(VA) == VA, "CLIENTPD"


def test_global_faults_never_stall() -> None:
    machine = Machine(False)
    fault = machine.board.fault(VA, 0, 0x3FF)
    assert not fault.stalls
    assert machine.board.pa(VA) == PA


def test_the_description_says_that_it_waits() -> None:
    machine = Machine(False)
    assert (
        machine.board.fault(UNMAPPED).describe().endswith("[FSR 0x402 FSYNR0 0x2; stalled: waits for RESUME]")
    )
    assert machine.board.log.rows[-1].fields["stalls"] is True


# ---- nested: the bank that records stalls, and blocks all that nest in it


class Nested(Machine):
    """Banks 0 and 2 nest in bank 1, which stalls."""

    def __init__(self, hupcf: bool) -> None:
        self.board = board = Board()
        one, self.two_ = RawTables(board), RawTables(board, 1)
        one.put(VA, 0x5000_0000 | PAGE_1)
        one.put(VA + PAGE, 0x5000_1000 | PAGE_1)
        self.two_.identity(TABLES, TABLES + 0x1_F000, PAGE_2)
        self.two_.put(0x5000_0000, PA | PAGE_2)
        board.stage_2_bank(1, self.two_.root, sctlr=STALL | (HUPCF if hupcf else 0))
        for bank, stream_id in ((0, HPC0), (2, FPD_DMA)):
            board.bank(bank, one.root, kind=3, stage_2=1, vmid=2)
            board.stream(bank, stream_id, bank)
        board.enable()
        self.log = []
        self.one = Master(board, "one", self.log)
        self.two = Master(board, "two", self.log, FPD_DMA)


@pytest.mark.parametrize("hupcf", [False, True])
def test_a_stage_2_fault_stalls_in_the_bank_that_records(hupcf: bool) -> None:
    machine = Nested(hupcf)
    board = machine.board
    machine.one.go(VA + PAGE)
    assert (board.read(cb(0, FSR)), board.read(cb(1, FSR))) == (0, SS | 0x402)
    machine.two.go(VA)
    assert machine.log[-1] == ("two done at 0x1000000" if hupcf else "two blocked")
    board.write(cb(0, RESUME), RETRY)
    board.run()
    assert len(machine.log) == 2, "bank 0 has nothing to resume"
    machine.two_.put(0x5000_1000, PA + PAGE | PAGE_2)
    machine.clear(1)
    board.write(cb(1, RESUME), RETRY)
    board.run()
    assert machine.log[2:] == ["one done at 0x1001000"] + ([] if hupcf else ["two done at 0x1000000"])
