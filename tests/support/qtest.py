"""A QEMU machine on its test socket: registers and memory without a guest.

QEMU's qtest protocol (docs/devel/testing/qtest.rst in its tree) is text, one line a command, one line an
answer: ``writel ADDR VALUE`` → ``OK``, ``readl ADDR`` → ``OK 0xVALUE``. Once the inputs of a device are
intercepted, lines ``IRQ raise N`` and ``IRQ lower N`` may come before an answer; of a GIC's, N is the SPI.

What a device does, it does before the answer. So commands are sent in batches, and QEMU's own limit is not
the round trip. A machine that dies, or that does not answer in time, is reported with what it said on stderr.
"""

from __future__ import annotations

import os
import socket
import subprocess
import time
from collections.abc import Sequence
from pathlib import Path
from types import TracebackType
from typing import Final

from support.require import qemu_binary

#: Starting takes 0.1 s, a command less than a millisecond, except on a machine busy with other things.
START_SECONDS: Final = 30.0
ANSWER_SECONDS: Final = 20.0

#: Commands under way at once: far fewer bytes than a socket's buffer has, so that neither side ever waits
#: for the other to read.
_BATCH: Final = 256


class QemuError(AssertionError):
    """QEMU refused a command, died, or did not answer; the text ends with its stderr."""


class QemuMachine:
    """`machine` without a guest, its processors stopped. A context manager; the process ends with it.

    `intercept` is the QOM path of the interrupt controller whose inputs `irqs` shows.
    """

    def __init__(
        self,
        folder: Path,
        machine: str,
        *arguments: str,
        intercept: str | None = None,
    ) -> None:
        binary = qemu_binary()
        assert binary is not None, "call require('qemu') first"
        self._errors = folder / "qemu-stderr.txt"
        self.patience_s = ANSWER_SECONDS  #: for each answer
        self._irqs: set[int] = set()
        self._received = b""
        path = folder / "qtest"
        with socket.socket(socket.AF_UNIX) as listener, self._errors.open("wb") as errors:
            listener.bind(str(path))
            listener.listen(1)
            self._process = subprocess.Popen(
                [
                    *(binary, "-machine", machine, "-S", "-display", "none", "-nodefaults", *arguments),
                    *("-qtest", f"unix:{path}", "-qtest-log", "none"),
                ],
                stdin=subprocess.DEVNULL,
                stdout=errors,
                stderr=errors,
                env={**os.environ, "QEMU_AUDIO_DRV": "none"},
            )
            try:
                self._socket = self._accept(listener)
                if intercept is not None:
                    self.command(f"irq_intercept_in {intercept}")
            except BaseException:
                self._kill()
                raise

    def __enter__(self) -> QemuMachine:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    def close(self) -> None:
        """End the process, whatever state it is in."""
        self._socket.close()
        self._kill()

    @property
    def pid(self) -> int:
        """The process."""
        return self._process.pid

    @property
    def irqs(self) -> frozenset[int]:
        """Inputs of the intercepted device that are high."""
        return frozenset(self._irqs)

    # ---- commands

    def command(self, line: str) -> str:
        """Send one line; what stands behind ``OK``."""
        return self.commands([line])[0]

    def commands(self, lines: Sequence[str]) -> list[str]:
        """Send lines, a batch at a time; the answers in order. Raises `QemuError` at the first refusal."""
        answers: list[str] = []
        for start in range(0, len(lines), _BATCH):
            batch = lines[start : start + _BATCH]
            self._send("".join(f"{line}\n" for line in batch).encode())
            answers += [self._answer(line) for line in batch]
        return answers

    def read32(self, address: int) -> int:
        return self.read_all([address])[0]

    def read_all(self, addresses: Sequence[int]) -> list[int]:
        """Return the 32-bit words at `addresses`, read in this order."""
        return [int(answer, 16) for answer in self.commands([f"readl {a:#x}" for a in addresses])]

    def write32(self, address: int, value: int) -> None:
        self.command(f"writel {address:#x} {value:#x}")

    def read(self, address: int, n: int) -> bytes:
        """Return `n` bytes, one or more."""
        return bytes.fromhex(self.command(f"read {address:#x} {n:#x}").removeprefix("0x"))

    def write(self, address: int, data: bytes) -> None:
        """Write one byte or more."""
        self.command(f"write {address:#x} {len(data):#x} 0x{data.hex()}")

    def fill(self, address: int, n: int, value: int = 0) -> None:
        self.command(f"memset {address:#x} {n:#x} {value:#x}")

    # ---- the socket

    def _accept(self, listener: socket.socket) -> socket.socket:
        """Wait for QEMU to call, as long as it lives."""
        listener.settimeout(0.05)
        deadline = time.monotonic() + START_SECONDS
        while True:
            try:
                return listener.accept()[0]
            except TimeoutError:
                if self._process.poll() is not None:
                    raise self._failure("ended before it was connected") from None
                if time.monotonic() > deadline:
                    raise self._failure(f"did not connect in {START_SECONDS:.0f} s") from None

    def _send(self, data: bytes) -> None:
        try:
            self._socket.settimeout(self.patience_s)
            self._socket.sendall(data)
        except OSError as error:
            raise self._failure(f"takes no commands: {error}") from error

    def _answer(self, line: str) -> str:
        """Read on to the answer; keep account of the interrupts on the way."""
        while True:
            word, _, rest = self._line(line).partition(" ")
            if word == "OK":
                return rest
            if word == "IRQ":
                verb, _, number = rest.partition(" ")
                (self._irqs.add if verb == "raise" else self._irqs.discard)(int(number))
            else:
                raise self._failure(f"answers {word} {rest} to {line[:80]!r}")

    def _line(self, command: str) -> str:
        while b"\n" not in self._received:
            try:
                self._socket.settimeout(self.patience_s)
                received = self._socket.recv(1 << 16)
            except TimeoutError:
                raise self._failure(f"has not answered {command[:80]!r} in {self.patience_s:g} s") from None
            except OSError as error:
                raise self._failure(f"gave no answer to {command[:80]!r}: {error}") from error
            if not received:
                raise self._failure(f"is gone, without an answer to {command[:80]!r}")
            self._received += received
        line, _, self._received = self._received.partition(b"\n")
        return line.decode()

    def _failure(self, what: str) -> QemuError:
        """Kill the machine, whose answers can no longer be told apart, and say what it said."""
        self._kill()
        said = self._errors.read_text(errors="replace").strip()
        return QemuError(f"QEMU {what} (exit code {self._process.returncode}); it said:\n{said[-2000:]}")

    def _kill(self) -> None:
        self._process.kill()
        self._process.wait()
