"""Node processes as a user starts them."""

from __future__ import annotations

import asyncio
import os
import signal
import sys
from pathlib import Path
from typing import Any

ROOT = Path(__file__).resolve().parents[2]
PYTHONPATH = os.pathsep.join(str(ROOT / folder) for folder in ("sdk", "nodes", "coordinator", "lab"))


class Process:
    """A child of this test: ``await Process.start("unimem_node.service", "--name", "n0", ...)``."""

    def __init__(self, process: asyncio.subprocess.Process) -> None:
        self._process = process
        self.log: list[str] = []
        self._reading = asyncio.create_task(self._read_log())

    @classmethod
    async def start(cls, module: str, *arguments: str, **environment: str) -> Process:
        env = os.environ | {"PYTHONPATH": PYTHONPATH, "PYTHONUNBUFFERED": "1"} | environment
        return cls(
            await asyncio.create_subprocess_exec(
                sys.executable,
                "-m",
                module,
                *arguments,
                env=env,
                stdout=asyncio.subprocess.PIPE,
                stderr=asyncio.subprocess.PIPE,
            )
        )

    async def line(self, within_s: float = 60) -> str:
        """The next line on stdout."""
        assert self._process.stdout is not None
        try:
            line = await asyncio.wait_for(self._process.stdout.readline(), within_s)
        except TimeoutError:
            line = b""
        assert line, "no word from the process; its log:\n" + "".join(self.log)
        return line.decode().rstrip("\n")

    async def _read_log(self) -> None:
        assert self._process.stderr is not None
        async for line in self._process.stderr:
            self.log.append(line.decode(errors="replace"))

    def send(self, number: int) -> None:
        """Send a signal."""
        self._process.send_signal(number)

    async def end(self, number: int | None = signal.SIGTERM, within_s: float = 20) -> int:
        """Send a signal (None: none) and wait; returns the exit code."""
        if number is not None and self._process.returncode is None:
            self._process.send_signal(number)
        code = await asyncio.wait_for(self._process.wait(), within_s)
        await self._reading
        return code

    async def __aenter__(self) -> Process:
        return self

    async def __aexit__(self, *_: Any) -> None:
        if self._process.returncode is None:
            self._process.kill()
        await self.end(None)
