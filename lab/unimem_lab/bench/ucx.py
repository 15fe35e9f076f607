"""UCX on this machine, when its headers and a C compiler are there: `ucx_put.c`, compiled on the spot.

Over TCP a put of UCX is software at both ends, over shared memory a store into the peer's mapping with no
software at the target at all. The C program says more.
"""

from __future__ import annotations

import os
import shutil
import subprocess
import tempfile
from pathlib import Path
from typing import Final

SOURCE: Final = Path(__file__).with_name("ucx_put.c")

#: UCX_TLS by our name of the transport.
_TLS: Final = {"tcp": "tcp", "shm": "posix,self"}


def measure_ucx(kind: str, rounds: int) -> dict[str, float] | None:
    """Seconds of ``put_8B``, ``put_64KiB``, ``put_1MiB``, ``put_16MiB``, rates of ``rate_64``, ``rate_4096``.

    None: UCX or a compiler is not installed, or it does not run here.
    """
    compiler = shutil.which("cc") or shutil.which("gcc") or shutil.which("clang")
    if compiler is None:
        return None
    with tempfile.TemporaryDirectory() as folder:
        program = Path(folder) / "ucx_put"
        command = [compiler, "-O2", "-D_GNU_SOURCE", str(SOURCE), "-o", str(program), "-lucp", "-lucs"]
        if subprocess.run(command, capture_output=True, check=False).returncode:
            return None
        try:
            ran = subprocess.run(
                [str(program), str(rounds)],
                env=os.environ | {"UCX_TLS": _TLS[kind], "UCX_LOG_LEVEL": "error"},
                capture_output=True,
                text=True,
                check=True,
                timeout=120,
            )
        except (subprocess.CalledProcessError, subprocess.TimeoutExpired):
            return None
    lines = [line.split() for line in ran.stdout.splitlines()]
    return {name: float(value) for name, value in lines}
