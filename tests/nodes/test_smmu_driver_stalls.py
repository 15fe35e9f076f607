"""Banks that stall: what the driver writes when it holds an access, resumes it, or takes its bank away."""

from __future__ import annotations

import pytest

from nodes.test_smmu_driver import BASE, Machine
from unimem_node.kernel import smmu_registers as reg
from unimem_node.kernel.frames import PAGE
from unimem_node.smmu import Blocked, Fault, Translation

FPD, HPC0 = 0x14E8, 0x210
CFCFG, HUPCF, CFIE = 1 << 7, 1 << 8, 1 << 6
SS, MULTI = 1 << 30, 1 << 31


class Engine:
    """Accesses one address, waits when it is told to, and notes how it ends."""

    def __init__(self, machine: Machine, stream: int, va: int) -> None:
        self.machine, self.stream, self.va = machine, stream, va
        self.log: list[str] = []
        self.go()

    def go(self) -> None:
        smmu = self.machine.smmu
        found = smmu.translate(self.stream, self.va, 0)
        if isinstance(found, Translation):
            self.log.append("done")
        elif isinstance(found, Blocked):
            self.log.append("blocked")
            smmu.wait(found.context_bank, self.resumed)
        elif isinstance(found, Fault) and found.stalls:
            self.log.append("stalled")
            smmu.hold(found, self.resumed)
        else:
            self.log.append("refused")

    def resumed(self, retry: bool) -> None:
        if retry:
            self.go()
        else:
            self.log.append("terminated")


@pytest.fixture
def machine() -> Machine:
    machine = Machine().up()
    machine.hold = True
    return machine


def page_of(machine: Machine, bank: int) -> int:
    return BASE + 0x1_0000 + 0x1000 * bank


def test_policies_reach_banks_in_use_and_banks_to_come(machine: Machine) -> None:
    first = machine.driver.attach(FPD, 0, machine.process())
    machine.driver.set_stall(True)
    second = machine.driver.attach(HPC0, 0, machine.process(8))
    static = machine.driver.attach_static(0x300).bank
    controls = [machine.bus.read32(page_of(machine, bank) + reg.SCTLR) for bank in (first, second, static)]
    assert [control & (CFCFG | HUPCF | CFIE) for control in controls] == [CFCFG | CFIE, CFCFG | CFIE, CFIE]
    machine.driver.set_stall(True, hupcf=True)
    assert machine.bus.read32(page_of(machine, first) + reg.SCTLR) & HUPCF
    machine.driver.set_stall(False)
    assert not machine.bus.read32(page_of(machine, first) + reg.SCTLR) & (CFCFG | HUPCF)


def test_a_held_access_waits_with_its_banks_interrupt_off(machine: Machine) -> None:
    """FSR.SS holds the line until RESUME, and other banks share the line."""
    machine.driver.set_stall(True)
    process, other = machine.process(), machine.process(8)
    page = page_of(machine, machine.driver.attach(FPD, 0, process))
    machine.driver.attach(HPC0, 0, other)
    engine = Engine(machine, FPD, 0x5000)
    assert machine.bus.read32(page + reg.FSR) == SS
    assert not machine.bus.read32(page + reg.SCTLR) & CFIE
    assert machine.interrupts.pending() == []
    assert (machine.driver.stalled(process.asid), machine.driver.stalled(other.asid)) == (True, False)
    Engine(machine, HPC0, 0x6000)  # another bank's fault is seen meanwhile
    assert [report.iova for report in machine.reports] == [0x5000, 0x6000]
    process.map(PAGE, va=0x5000)
    machine.driver.resume(process.asid, retry=True)
    assert machine.bus.read32(page + reg.FSR) == 0
    assert machine.bus.read32(page + reg.SCTLR) & CFIE
    machine.clock.run()
    assert engine.log == ["stalled", "done"]
    machine.driver.resume(process.asid, retry=True)  # nothing is held: nothing happens
    assert len(machine.reports) == 2


def test_a_held_access_may_end(machine: Machine) -> None:
    machine.driver.set_stall(True)
    process = machine.process()
    machine.driver.attach(FPD, 0, process)
    engine = Engine(machine, FPD, 0x5000)
    machine.driver.resume(process.asid, retry=False)
    machine.clock.run()
    assert engine.log == ["stalled", "terminated"]


def test_with_hupcf_what_faults_behind_is_recorded_when_it_tries_again(machine: Machine) -> None:
    machine.driver.set_stall(True, hupcf=True)
    process = machine.process()
    va = process.map(PAGE, va=0x9000)
    page = page_of(machine, machine.driver.attach(FPD, 0, process))
    first, second, third = (Engine(machine, FPD, at) for at in (0x5000, 0x6000, 0x7000))
    passing = Engine(machine, FPD, va)
    assert passing.log == ["done"]
    assert machine.bus.read32(page + reg.FSR) & (SS | MULTI) == SS | MULTI  # two more, one of them in FAR
    assert [report.iova for report in machine.reports] == [0x5000]
    for at in (0x5000, 0x6000, 0x7000):
        process.map(PAGE, va=at)
        machine.driver.resume(process.asid, retry=True)
        machine.clock.run()
    assert [report.iova for report in machine.reports] == [0x5000, 0x6000, 0x7000]
    assert [engine.log[-1] for engine in (first, second, third)] == ["done"] * 3
    assert machine.interrupts.pending() == []


def test_without_hupcf_what_is_behind_is_blocked_and_tries_again(machine: Machine) -> None:
    machine.driver.set_stall(True)
    process = machine.process()
    process.map(PAGE, va=0x9000)
    machine.driver.attach(FPD, 0, process)
    first, second = Engine(machine, FPD, 0x5000), Engine(machine, FPD, 0x9000)
    assert (first.log, second.log) == (["stalled"], ["blocked"])
    process.map(PAGE, va=0x5000)
    machine.driver.resume(process.asid, retry=True)
    machine.clock.run()
    assert (first.log, second.log) == (["stalled", "done"], ["blocked", "done"])


def test_a_bank_that_goes_ends_what_waits_in_it_and_lets_nothing_through(machine: Machine) -> None:
    """The retried access must find neither the bank, now off, nor its next owner's tables."""
    machine.driver.set_stall(True)
    process, heir = machine.process(), machine.process(8)
    heir.map(2 * PAGE, va=0x5000)
    bank = machine.driver.attach(FPD, 0, process)
    first, second = Engine(machine, FPD, 0x5000), Engine(machine, FPD, 0x6000)
    machine.driver.detach(FPD)
    assert machine.driver.attach(HPC0, 0, heir) == bank
    machine.clock.run()
    assert first.log == ["stalled", "terminated"]
    assert second.log == ["blocked", "refused"]
    assert not machine.driver.stalled(heir.asid)
    fresh = Engine(machine, HPC0, 0x5000)
    assert fresh.log == ["done"]
    assert machine.bus.read32(page_of(machine, bank) + reg.SCTLR) & CFIE


def test_interrupts_that_were_off_find_the_first_record_and_that_there_were_more(machine: Machine) -> None:
    process = machine.process()
    machine.driver.attach(FPD, 0, process)
    machine.interrupts.connect_cpu(lambda spi: None)
    for at in (0x5000, 0x6000, 0x7000):
        Engine(machine, FPD, at)
    assert machine.reports == []
    machine.driver.interrupt()
    (report,) = machine.reports
    assert (report.iova, report.multiple) == (0x5000, True)
