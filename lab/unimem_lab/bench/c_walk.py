"""The C yardstick of translation: compiles walk.c on the spot and runs it over a node's own arrays.

    c = CWalk.build()            # None when there is no C compiler
    done = c.translate_many(smmu.arrays, tbu, cb, vas, access, pas_out)

Both sides share memory, TLBs and counters, so that a run of one can be checked against a run of the other.
"""

from __future__ import annotations

import ctypes
import shutil
import subprocess
import tempfile
from pathlib import Path
from typing import Any

from unimem_node.mmu import _fast_cache, regime
from unimem_node.smmu import arrays as layout
from unimem_node.smmu.arrays import Arrays

SOURCE = Path(__file__).with_name("walk.c")
_FLAGS = ["-O2", "-std=c11", "-shared", "-fPIC", "-Wall", "-Wextra", "-Werror"]


class _Node(ctypes.Structure):
    _fields_ = [
        (name, ctypes.c_void_p)
        for name in ("mem64", "geometry", "tlb", "state", "regimes", "timing", "counters")
    ]


def _definitions() -> list[str]:
    """Every integer constant of the layouts as a -D definition."""
    return [
        f"-D{name}={value}"
        for module in (regime, layout, _fast_cache)
        for name, value in vars(module).items()
        if name.isupper() and isinstance(value, int)
    ]


class CWalk:
    """`translate_many` of walk.c."""

    def __init__(self, library: ctypes.CDLL) -> None:
        self._run = library.translate_many
        self._run.restype = ctypes.c_int64
        i64, pointer = ctypes.c_int64, ctypes.c_void_p
        self._run.argtypes = [pointer, i64, i64, pointer, i64, i64, pointer]

    @classmethod
    def build(cls, compiler: str | None = None) -> CWalk | None:
        """Compile and load; None when no compiler is found, `CalledProcessError` when it refuses."""
        compiler = compiler or shutil.which("cc") or shutil.which("gcc") or shutil.which("clang")
        if compiler is None:
            return None
        with tempfile.TemporaryDirectory() as folder:
            library = Path(folder) / "walk.so"
            command = [compiler, *_FLAGS, *_definitions(), str(SOURCE), "-o", str(library)]
            subprocess.run(command, check=True, capture_output=True, text=True)
            return cls(ctypes.CDLL(str(library)))

    def translate_many(self, arrays: Arrays, lane: int, cb: int, vas: Any, access: int, pas_out: Any) -> int:
        """As the function of that name in `unimem_node.smmu._fast`."""
        node = _Node(
            arrays.mem64.ctypes.data,
            arrays.geometry.ctypes.data,
            arrays.tlb.ctypes.data,
            arrays.tlb_state.ctypes.data,
            arrays.regimes.ctypes.data,
            arrays.timing.ctypes.data,
            arrays.counters.ctypes.data,
        )
        return int(
            self._run(ctypes.byref(node), lane, cb, vas.ctypes.data, len(vas), access, pas_out.ctypes.data)
        )
