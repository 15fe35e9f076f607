"""The client of QEMU's test socket: what it does when QEMU does not do what it should."""

from __future__ import annotations

import os
import signal
from collections.abc import Iterator
from pathlib import Path

import pytest

from support.qtest import QemuError, QemuMachine
from support.require import require

pytestmark = pytest.mark.qemu


@pytest.fixture
def machine(tmp_path: Path) -> Iterator[QemuMachine]:
    require("qemu")
    with QemuMachine(tmp_path, "xlnx-zcu102", "-m", "128M", intercept="/machine/soc/gic") as machine:
        yield machine


def test_memory_registers_and_interrupts(machine: QemuMachine) -> None:
    machine.write(0x1001, b"\1\2\3")
    machine.fill(0x1004, 2, 0xA5)
    assert machine.read(0x1000, 6) == b"\0\1\2\3\xa5\xa5"
    machine.write32(0xFFA8_0108, 1 << 10)  # LPD DMA channel 0: IEN.DMA_DONE,
    machine.write32(0xFFA8_0110, 0x20)  # read-only mode,
    assert machine.irqs == frozenset()
    machine.write32(0xFFA8_0200, 1)  # CTRL2.EN, with a size of zero
    assert machine.irqs == {77}
    machine.write32(0xFFA8_0100, 1 << 10)
    assert machine.irqs == frozenset()
    assert machine.read_all([0xFFA8_0104, 0xFFA8_0110] * 400) == [0xBFF, 0x20] * 400


def test_a_refused_command_says_which(machine: QemuMachine) -> None:
    with pytest.raises(QemuError, match="answers FAIL Unknown command 'jump' to 'jump high'"):
        machine.commands(["readl 0x0", "jump high", "readl 0x0"])


def test_a_death_is_reported_with_what_qemu_said(machine: QemuMachine) -> None:
    os.kill(machine.pid, signal.SIGKILL)
    with pytest.raises(QemuError, match=r"(?s)exit code -9\); it said:\n.*cadence_gem"):
        machine.read32(0)


def test_a_silence_is_bounded(tmp_path: Path) -> None:
    require("qemu")
    with QemuMachine(tmp_path, "xlnx-zcu102") as machine:
        machine.patience_s = 0.3
        os.kill(machine.pid, signal.SIGSTOP)
        with pytest.raises(QemuError, match=r"has not answered 'readl 0x0' in 0.3 s \(exit code -9\)"):
            machine.read32(0)


def test_a_machine_that_does_not_start_says_why(tmp_path: Path) -> None:
    require("qemu")
    with pytest.raises(QemuError, match=r"(?s)ended before it was connected.*unsupported machine type"):
        QemuMachine(tmp_path, "no-such-machine")


def test_the_process_ends_with_the_context(tmp_path: Path) -> None:
    require("qemu")
    with QemuMachine(tmp_path, "xlnx-zcu102") as machine:
        os.kill(machine.pid, 0)
    with pytest.raises(ProcessLookupError):
        os.kill(machine.pid, 0)
