"""The helper of compiled code: what Numba lacks, and that it is the same without Numba."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from unimem_node import _jit
from unimem_node._jit import (
    COMPILED,
    crc32c,
    load16,
    load32,
    load64,
    njit,
    store16,
    store32,
    store64,
)

copy_bytes: Any = _jit.copy_bytes  # an intrinsic: its type shows an argument that callers do not pass


@njit
def loads(data: Any, at: int) -> Any:
    return load64(data, at), load32(data, at), load16(data, at)


@njit
def stores(data: Any, at: int, value: Any) -> None:
    store64(data, at, value)
    store32(data, at + 8, np.uint32(value & np.uint64(0xFFFF_FFFF)))
    store16(data, at + 12, np.uint16(value & np.uint64(0xFFFF)))


@njit
def copies(dst: Any, dst_at: int, src: Any, src_at: int, n: int) -> None:
    copy_bytes(dst, dst_at, src, src_at, n)


def slow_crc(data: bytes, crc: int = 0) -> int:
    """CRC-32C bit by bit (RFC 3720, B.4: polynomial 0x1EDC6F41, reflected)."""
    crc ^= 0xFFFF_FFFF
    for byte in data:
        crc ^= byte
        for _ in range(8):
            crc = crc >> 1 ^ (0x82F6_3B78 if crc & 1 else 0)
    return crc ^ 0xFFFF_FFFF


@pytest.mark.parametrize("at", range(9))
def test_loads_at_any_alignment(at: int) -> None:
    data = np.arange(0xF0, 0xF0 + 16, dtype=np.uint64).astype(np.uint8) ^ 0x80
    raw = data.tobytes()
    values = loads(data, at)
    assert [int(v) for v in values] == [int.from_bytes(raw[at : at + n], "little") for n in (8, 4, 2)]


def test_loads_from_read_only_bytes() -> None:
    data = np.frombuffer(bytes(range(16)), np.uint8)
    assert int(loads(data, 1)[1]) == 0x0403_0201


@pytest.mark.parametrize("at", range(5))
def test_stores_at_any_alignment_touch_only_their_bytes(at: int) -> None:
    data = np.full(24, 0xEE, np.uint8)
    stores(data, at, np.uint64(0x8877_6655_4433_2211))
    word = (0x8877_6655_4433_2211).to_bytes(8, "little")
    assert data.tobytes() == (b"\xee" * at + word + word[:4] + word[:2]).ljust(24, b"\xee")


@given(st.binary(min_size=64, max_size=64), st.integers(0, 20), st.integers(0, 20), st.integers(0, 40))
def test_copies(data: bytes, dst_at: int, src_at: int, n: int) -> None:
    dst = np.zeros(64, np.uint8)
    copies(dst, dst_at, np.frombuffer(data, np.uint8), src_at, n)
    assert dst.tobytes() == (bytes(dst_at) + data[src_at : src_at + n]).ljust(64, b"\0")


@pytest.mark.parametrize(
    ("data", "crc"),
    [  # RFC 3720, B.4
        (bytes(32), 0x8A91_36AA),
        (b"\xff" * 32, 0x62A8_AB43),
        (bytes(range(32)), 0x46DD_794E),
        (bytes(reversed(range(32))), 0x113F_DB5C),
        (b"123456789", 0xE306_9283),
        (b"", 0),
    ],
)
def test_crc32c_of_known_messages(data: bytes, crc: int) -> None:
    assert int(crc32c(np.frombuffer(data, np.uint8), 0, len(data), 0)) == crc == slow_crc(data)


@given(st.binary(max_size=80), st.integers(0, 12), st.integers(0, 80))
def test_crc32c_can_be_continued_from_anywhere(data: bytes, start: int, cut: int) -> None:
    array = np.frombuffer(data, np.uint8)
    start = min(start, len(data))
    cut = max(start, min(cut, len(data)))
    first = int(crc32c(array, start, cut - start, 0))
    assert int(crc32c(array, cut, len(data) - cut, first)) == slow_crc(data[start:])


def test_the_folder_of_the_cache_follows_the_sources(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("UNIMEM_CACHE_DIR", str(tmp_path))
    folder = _jit.cache_dir()
    assert folder.parent == tmp_path
    assert folder == _jit.cache_dir()
    node = Path(_jit.__file__).parent
    original = Path.read_bytes
    monkeypatch.setattr(
        Path, "read_bytes", lambda path: original(path) + (b"#" if path == node / "mmu" / "_fast.py" else b"")
    )
    assert _jit.cache_dir() != folder


def run(code: str, **env: str) -> subprocess.CompletedProcess[str]:
    path = os.pathsep.join(sys.path)
    environment = {**os.environ, "PYTHONPATH": path, **env}
    return subprocess.run(
        [sys.executable, "-c", code], env=environment, capture_output=True, text=True, check=True
    )


USE = """
import numpy as np
from unimem_node._jit import crc32c
print(int(crc32c(np.frombuffer(b"123456789", np.uint8), 0, 9, 0)))
"""


@pytest.mark.skipif(not COMPILED, reason="nothing is compiled in this run")
def test_the_first_compilation_says_so_once_and_the_next_process_finds_it(tmp_path: Path) -> None:
    first = run(USE, UNIMEM_CACHE_DIR=str(tmp_path), UNIMEM_QUIET="0")
    assert first.stderr.count("compiling the fast paths once") == 1
    assert list(tmp_path.glob("*/**/*.nbc"))
    again = run(USE, UNIMEM_CACHE_DIR=str(tmp_path), UNIMEM_QUIET="0")
    assert again.stderr == ""
    assert first.stdout == again.stdout == f"{0xE306_9283}\n"


def test_without_numba_the_answers_are_the_same() -> None:
    """This whole module again in an interpreter that compiles nothing."""
    if not COMPILED:
        pytest.skip("this is that run")
    here = Path(__file__).resolve()
    code = f"import pytest, sys; sys.exit(pytest.main(['-q', '-p', 'no:cacheprovider', {str(here)!r}]))"
    assert "failed" not in run(code, NUMBA_DISABLE_JIT="1").stdout
