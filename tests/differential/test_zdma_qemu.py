"""ZDMA channels against QEMU's xlnx-zcu102, a machine nobody here wrote.

Both run the same programs; after every step of software all registers that can be read without effect, and
the interrupt's level, agree; in the end memory does. Deviations are in `deviations.py`, each with its reason.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import pytest
from hypothesis import given, settings

from differential.deviations import DEVIATIONS, Deviation, adjust
from differential.machines import QemuZdma, Run, run_model
from differential.programs import (
    CTRL2,
    DONE,
    DST_ACCT_ERR,
    DST_DONE,
    DST_WORD,
    FPD,
    IDS,
    IEN,
    INTR,
    INV_APB,
    ISR,
    LPD,
    NAMES,
    PAUSE,
    SRC_ACCT_ERR,
    SRC_DONE,
    TOTAL_BYTE,
    Program,
    Read,
    Write,
    accounts,
    program,
    resume,
    simple,
    start,
)
from differential.random_programs import scatter_gather_programs, simple_programs
from differential.written_programs import LISTS, SIMPLE, TWO_PAUSES, destinations, sources
from support.qtest import QemuError
from support.require import require

pytestmark = pytest.mark.qemu

#: What decides between the machines.
SOURCES = ("UG1085", "xzdma_hw.h", "xzdma.h", "AXI")


@pytest.fixture(scope="module")
def qemu(tmp_path_factory: pytest.TempPathFactory) -> Iterator[QemuZdma]:
    require("qemu")
    zdma = QemuZdma(tmp_path_factory.mktemp("qemu"))
    yield zdma
    zdma.qemu.close()


def agree(qemu: QemuZdma, program: Program) -> Run:
    """Run a program on both; what QEMU showed, adjusted."""
    expected = adjust(qemu.run(program))
    differences = expected.differences(run_model(program))
    assert not differences, f"(QEMU, ours): {differences}\n{program}"
    return expected


def last(run: Run, name: str) -> int:
    return run.moments[-1].registers[name]


@pytest.mark.parametrize("base", FPD + LPD, ids=hex)
def test_out_of_reset(qemu: QemuZdma, base: int) -> None:
    run = agree(qemu, program(base=base))
    words = {"IMR": 0xFFF, "CTRL0": 0x80, "CTRL1": 0x3FF, "DATA_ATTR": 0x0483_D20F, "DBG0": 0x100}
    seen = {name: word for name, word in run.moments[0].registers.items() if word}
    assert seen == words


# ---- simple mode


@pytest.mark.parametrize("bases", [FPD, LPD], ids=["128 bit", "64 bit"])
@pytest.mark.parametrize("name", SIMPLE)
def test_simple_mode(qemu: QemuZdma, name: str, bases: tuple[int, ...]) -> None:
    program, expected = SIMPLE[name]
    run = agree(qemu, replace(program, base=bases[len(name) % 8]))
    assert {register: last(run, register) for register in expected} == expected


# ---- scatter-gather


@pytest.mark.parametrize("bases", [FPD, LPD], ids=["128 bit", "64 bit"])
@pytest.mark.parametrize("name", LISTS)
def test_scatter_gather(qemu: QemuZdma, name: str, bases: tuple[int, ...]) -> None:
    program, expected = LISTS[name]
    run = agree(qemu, replace(program, base=bases[len(name) % 8]))
    assert {register: last(run, register) for register in expected} == expected


# ---- interrupts and counters


def test_accounts_clear_on_read_and_overflow_at_eight_bits(qemu: QemuZdma) -> None:
    ones = [(n, 1) for n in range(300)]
    run = agree(
        qemu,
        program(
            start(),
            accounts(),
            accounts(),
            src=sources(*ones, flags=INTR),
            dst=destinations(*ones, flags=INTR),
        ),
    )
    assert last(run, "ISR") == DONE | SRC_DONE | DST_DONE | SRC_ACCT_ERR | DST_ACCT_ERR
    assert [moment.value for moment in run.moments[-4:]] == [300 - 256, 300 - 256, 0, 0]


def test_masks_and_the_interrupt(qemu: QemuZdma) -> None:
    steps = [
        *simple(64, src_flags=INTR),
        Write(IEN, SRC_DONE),
        Write(IDS, SRC_DONE),
        Write(IEN, DONE | PAUSE),
        Write(ISR, SRC_DONE),
        Write(IEN, 0xFFF),
        Write(ISR, DONE),
        Write(IDS, 0x0F0),
        *simple(64),
        Write(ISR, 0),
        Write(IDS, 0xFFF),
    ]
    run = agree(qemu, program(steps, base=LPD[5]))
    after = {str(moment.step): moment.irq for moment in run.moments[len(simple(0)) :]}
    assert after["IEN := 0x2"] is True
    assert after["IDS := 0x2"] is False
    assert after["ISR := 0x2"] is True
    assert after["ISR := 0x400"] is False
    assert after["ISR := 0x0"] is True
    assert after["IDS := 0xfff"] is False


def test_an_interrupt_of_a_pause(qemu: QemuZdma) -> None:
    run = agree(
        qemu, program(Write(IEN, PAUSE), start(), Write(ISR, PAUSE), resume(), resume(), **TWO_PAUSES)
    )
    assert [moment.irq for moment in run.moments[-4:]] == [True, False, True, True]


def test_counters_are_cleared_by_ones(qemu: QemuZdma) -> None:
    run = agree(
        qemu,
        program(
            simple(0x155), Write(TOTAL_BYTE, 0x0F), Write(ISR, 0), Write(ISR, DONE), Write(TOTAL_BYTE, 0x150)
        ),
    )
    assert [moment.registers["TOTAL_BYTE"] for moment in run.moments[-5:]] == [0x155, 0x150, 0x150, 0x150, 0]


@pytest.mark.parametrize("at", sorted(set(NAMES) - {DST_WORD + 12, CTRL2}), ids=lambda at: NAMES[at])
@pytest.mark.parametrize("value", [0xFFFF_FFFF, 0xA5A5_A5A5, 0])
def test_what_software_may_write(qemu: QemuZdma, at: int, value: int) -> None:
    agree(qemu, program(Write(at, value), Write(at, ~value & 0xFFFF_FFFF), Read(at), base=LPD[7]))


def test_a_register_that_is_not_there(qemu: QemuZdma) -> None:
    for at in (0x008, 0x0FC, 0x1A0, 0x1FC):
        run = agree(
            qemu, program(Write(IEN, INV_APB), Read(at), Write(ISR, 0xFFF), Write(at, 5), base=FPD[1])
        )
        assert [(moment.registers["ISR"], moment.irq) for moment in run.moments[-3:]] == [
            (INV_APB, True),
            (0, False),
            (INV_APB, True),
        ]


# ---- random programs


@settings(max_examples=250)
@given(program=simple_programs())
def test_random_transfers_by_registers(qemu: QemuZdma, program: Program) -> None:
    run = agree(qemu, program)
    assert any(moment.registers["TOTAL_BYTE"] for moment in run.moments)


@settings(max_examples=350)
@given(program=scatter_gather_programs())
def test_random_lists_of_descriptors(qemu: QemuZdma, program: Program) -> None:
    run = agree(qemu, program)
    assert any(moment.registers["TOTAL_BYTE"] for moment in run.moments)


@settings(max_examples=40)
@given(program=scatter_gather_programs())
def test_random_lists_on_the_readable_path(qemu: QemuZdma, program: Program) -> None:
    expected = adjust(qemu.run(program))
    assert not expected.differences(run_model(program, fast=False)), str(program)


# ---- deviations


@pytest.mark.parametrize("deviation", [d for d in DEVIATIONS if not d.hangs], ids=lambda d: d.name)
def test_a_deviation_is_what_its_row_says(qemu: QemuZdma, deviation: Deviation) -> None:
    seen = adjust(qemu.run(deviation.witness), but=deviation.name)
    differences = seen.differences(run_model(deviation.witness))
    differences.pop("after", None)
    assert differences == deviation.differs
    if deviation.adjust is not None:
        agree(qemu, deviation.witness)


@pytest.mark.parametrize("deviation", [d for d in DEVIATIONS if d.hangs], ids=lambda d: d.name)
def test_qemu_never_answers_and_we_do(tmp_path: Path, deviation: Deviation) -> None:
    require("qemu")
    own = QemuZdma(tmp_path)
    try:
        with pytest.raises(QemuError, match="has not answered 'writel 0xfd500200 0x1'"):
            own.run(deviation.witness, patience_s=1.0)
    finally:
        own.qemu.close()
    run = run_model(deviation.witness)
    assert {name: last(run, name) for name in deviation.differs} == {
        name: ours for name, (_, ours) in deviation.differs.items()
    }


def test_every_deviation_says_what_decides() -> None:
    assert len({deviation.name for deviation in DEVIATIONS}) == len(DEVIATIONS)
    for deviation in DEVIATIONS:
        assert deviation.qemu != deviation.ours, deviation.name
        assert any(source in deviation.decides for source in SOURCES), deviation.name
