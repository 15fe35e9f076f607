"""Two machines that run ZDMA programs, QEMU's and ours, and what a run shows.

A run is what software can see after each of its steps. QEMU's channel has done everything it will do when the
step is answered; ours is given time until it has nothing left to do.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Final

from differential.programs import (
    CMD_PAUSE,
    CONT,
    CTRL0,
    CTRL1,
    CTRL2,
    DATA,
    DATA_ATTR,
    DSCR_ATTR,
    ERR_CTRL,
    FCI,
    IDS,
    IRQ_DST_ACCT,
    IRQ_SRC_ACCT,
    ISR,
    NAMES,
    OVR_FETCH,
    RATE_CNTL,
    READ_ONLY,
    SOURCE,
    SPI,
    SRC_WORD,
    TOTAL_BYTE,
    Program,
    Read,
    Step,
    Store,
    Write,
)
from support.qtest import QemuMachine
from unimem_node import Mpsoc

#: 2 GiB of low memory and some of high memory.
MEMORY_MIB: Final = 2048 + 32
#: Registers seen after each step: all that have no effect when they are read.
SEEN: Final = tuple(at for at in NAMES if at not in (IRQ_SRC_ACCT, IRQ_DST_ACCT))


@dataclass(slots=True)
class Moment:
    """After a step: what it read, the registers by name, the interrupt."""

    step: Step | None
    value: int | None
    registers: dict[str, int]
    irq: bool


@dataclass(slots=True)
class Run:
    """All moments, that before the first step included, and the windows of memory at the end."""

    moments: list[Moment]
    memory: list[bytes]

    def differences(self, other: Run) -> dict[str, tuple[object, object]]:
        """What the first moment at which two runs differ shows in both, by name; else, the end's memory."""
        for mine, theirs in zip(self.moments, other.moments, strict=True):
            found: dict[str, tuple[object, object]] = {
                name: (value, theirs.registers[name])
                for name, value in mine.registers.items()
                if value != theirs.registers[name]
            }
            if mine.value != theirs.value:
                found["read"] = (mine.value, theirs.value)
            if mine.irq != theirs.irq:
                found["irq"] = (mine.irq, theirs.irq)
            if found:
                found["after"] = (str(mine.step), self.moments.index(mine))
                return found
        for n, (mine_bytes, their_bytes) in enumerate(zip(self.memory, other.memory, strict=True)):
            if mine_bytes != their_bytes:
                at = next(
                    i
                    for i, pair in enumerate(zip(mine_bytes, their_bytes, strict=True))
                    if pair[0] != pair[1]
                )
                return {
                    f"window {n} at {at:#x}": (
                        mine_bytes[at : at + 16].hex(),
                        their_bytes[at : at + 16].hex(),
                    )
                }
        return {}


class QemuZdma:
    """ZDMA channels of QEMU's xlnx-zcu102, one machine for many programs."""

    def __init__(self, folder: Path) -> None:
        self.qemu = QemuMachine(folder, "xlnx-zcu102", "-m", f"{MEMORY_MIB}M", intercept="/machine/soc/gic")

    def run(self, program: Program, *, patience_s: float | None = None) -> Run:
        """Run it on a channel and memory made as new; `patience_s` for the last step."""
        self._renew(program.base)
        lines = []
        for address, n in program.windows:
            lines.append(f"memset {address:#x} {n:#x} 0")
        for address, data in ((SOURCE, DATA), *program.memory):
            lines.append(f"write {address:#x} {len(data):#x} 0x{data.hex()}")
        self.qemu.commands(lines)
        spi = SPI[program.base]
        addresses = [program.base + at for at in SEEN]
        moments = []
        for step in (None, *program.steps):
            value = None
            if patience_s is not None and step is program.steps[-1]:
                self.qemu.patience_s = patience_s
            match step:
                case Write(at, word):
                    self.qemu.write32(program.base + at, word)
                case Read(at):
                    value = self.qemu.read32(program.base + at)
                case Store(address, data):
                    self.qemu.write(address, data)
            words = self.qemu.read_all(addresses)
            registers = {NAMES[at]: word for at, word in zip(SEEN, words, strict=True)}
            moments.append(Moment(step, value, registers, spi in self.qemu.irqs))
        return Run(moments, [self.qemu.read(address, n) for address, n in program.windows])

    def _renew(self, base: int) -> None:
        """Put a channel into its state after reset, out of any state that a program may leave.

        QEMU's system reset is not enough: it forgets neither a pause nor an error. So: leave the pause; move
        nothing, which ends what an error left; once more with PAUSE, the one command after which SRC_CUR_DSCR
        stays at SRC_START; and leave that pause.
        """
        zeros = [(at, 0) for at in range(SRC_WORD, 0x168, 4)]
        nothing = OVR_FETCH | READ_ONLY
        writes = [
            (CTRL2, 0), (CTRL0, CONT), *zeros, (CTRL0, nothing), (CTRL2, 1), (SRC_WORD + 12, CMD_PAUSE),
            (CTRL2, 1), (CTRL0, nothing | CONT), (SRC_WORD + 12, 0), (CTRL0, OVR_FETCH), (CTRL1, 0x3FF),
            (FCI, 0), (DATA_ATTR, 0x0483_D20F), (DSCR_ATTR, 0), (RATE_CNTL, 0), (ERR_CTRL, 0),
            (TOTAL_BYTE, 0xFFFF_FFFF), (IDS, 0xFFF), (ISR, 0xFFF),
        ]  # fmt: skip
        self.qemu.commands([f"writel {base + at:#x} {value:#x}" for at, value in writes])
        self.qemu.read_all([base + IRQ_SRC_ACCT, base + IRQ_DST_ACCT])


def run_model(program: Program, *, fast: bool = True) -> Run:
    """Run a program on a chip of ours, out of reset: its SMMU lets everything pass."""
    soc = Mpsoc(memory_bytes=MEMORY_MIB << 20, fast=fast)
    try:
        for address, data in ((SOURCE, DATA), *program.memory):
            soc.memory.write(address, data)
        moments = list(_moments(soc, program))
        return Run(moments, [bytes(soc.memory.read(address, n)) for address, n in program.windows])
    finally:
        soc.close()


def _moments(soc: Mpsoc, program: Program) -> Iterator[Moment]:
    spi = SPI[program.base]
    for step in (None, *program.steps):
        value = None
        match step:
            case Write(at, word):
                soc.bus.write32(program.base + at, word)
            case Read(at):
                value = soc.bus.read32(program.base + at)
            case Store(address, data):
                soc.memory.write(address, data)
        soc.run()
        registers = {NAMES[at]: soc.bus.read32(program.base + at) for at in SEEN}
        yield Moment(step, value, registers, spi in soc.interrupts.pending())
