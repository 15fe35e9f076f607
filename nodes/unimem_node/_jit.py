"""Compiled fast paths: the decorator, the cache, and the few instructions Numba does not offer.

`njit` is Numba's, with a disk cache whose folder is named after the content of the fast paths and of all
modules whose constants are compiled into them (Numba alone would not see that a *callee* in another module
changed). The folder is ``$UNIMEM_CACHE_DIR`` or
``~/.cache/unimem``. The first compilation says so once, on stderr.

With ``NUMBA_DISABLE_JIT=1`` the same functions run as Python; `load64` and its kin are then slices.
"""

from __future__ import annotations

import hashlib
import os
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any, TypeVar

import numba
import numpy as np
from numba import config
from numba.core import cgutils, event, types
from numba.extending import intrinsic

F = TypeVar("F", bound=Callable[..., Any])

#: True when fast paths are machine code.
COMPILED: bool = not config.DISABLE_JIT


#: The floors that have fast paths, or constants that fast paths use.
_FLOORS = ("memory", "mmu", "smmu", "dma", "fabric")


def cache_dir() -> Path:
    """Where compiled code is kept: one folder for each content of what is compiled."""
    here = Path(__file__).resolve().parent
    digest = hashlib.sha256(numba.__version__.encode())
    baked_in = [here / "_jit.py", *(path for floor in _FLOORS for path in (here / floor).rglob("*.py"))]
    for source in sorted(baked_in):
        digest.update(source.read_bytes())
    root = os.environ.get("UNIMEM_CACHE_DIR") or Path.home() / ".cache" / "unimem"
    return Path(root) / digest.hexdigest()[:16]


class _Notice(event.Listener):  # type: ignore[misc]
    """Says once that compiling has begun: the user waits for some seconds and should know why."""

    said = False

    def on_start(self, event: Any) -> None:
        if not self.said and os.environ.get("UNIMEM_QUIET") != "1":
            type(self).said = True
            print(f"unimem: compiling the fast paths once into {_CACHE}", file=sys.stderr, flush=True)  # noqa: T201

    def on_end(self, event: Any) -> None:
        pass


_CACHE = cache_dir()
if COMPILED:
    event.register("numba:compile", _Notice())


def _compiled(function: F, **options: Any) -> F:
    before = config.CACHE_DIR
    config.CACHE_DIR = str(_CACHE)  # read when the cache object is made, that is here
    try:
        compiled: F = numba.njit(cache=True, nogil=True, error_model="numpy", **options)(function)
    finally:
        config.CACHE_DIR = before
    return compiled


def njit(function: F) -> F:
    """Compile without the GIL and cache on disk, in our folder; division and indices as in C.

    Never forced into its callers: Numba hands `forceinline` down from an `njit_inline` to all that it calls,
    which would put a copy of the largest and rarest functions at each call, and into every process.
    """
    return _compiled(function, forceinline=False)


def njit_inline(function: F) -> F:
    """Compile the innermost functions: inlined into whoever calls them, and without reference counts.

    Without both, a TLB hit costs ten times as much: `Arrays` by value is 64 words on the stack, and each
    array taken out of it an atomic increment. Such a function may look into arrays but not make any.
    """
    return _compiled(function, forceinline=True, _nrt=False)


def _pointer(context: Any, builder: Any, array_type: Any, array: Any, offset: Any, bits: int) -> Any:
    """Address of byte `offset` of a uint8 array, as a pointer to an integer of `bits`."""
    from llvmlite import ir  # noqa: PLC0415 - only needed while compiling

    data = context.make_array(array_type)(context, builder, array).data
    return builder.bitcast(builder.gep(data, [offset]), ir.IntType(bits).as_pointer())


def _load(bits: int, result: Any) -> Any:
    @intrinsic
    def load(typingctx: Any, array: Any, offset: Any) -> Any:
        def codegen(context: Any, builder: Any, signature: Any, args: Any) -> Any:
            pointer = _pointer(context, builder, signature.args[0], args[0], args[1], bits)
            value = builder.load(pointer)
            value.align = 1
            return value

        return result(array, types.int64), codegen

    return load


def _store(bits: int, kind: Any) -> Any:
    @intrinsic
    def store(typingctx: Any, array: Any, offset: Any, value: Any) -> Any:
        def codegen(context: Any, builder: Any, signature: Any, args: Any) -> Any:
            pointer = _pointer(context, builder, signature.args[0], args[0], args[1], bits)
            builder.store(args[2], pointer).align = 1
            return context.get_dummy_value()

        return types.void(array, types.int64, kind), codegen

    return store


@intrinsic
def _memcpy(typingctx: Any, dst: Any, dst_offset: Any, src: Any, src_offset: Any, n: Any) -> Any:
    def codegen(context: Any, builder: Any, signature: Any, args: Any) -> Any:
        to = _pointer(context, builder, signature.args[0], args[0], args[1], 8)
        of = _pointer(context, builder, signature.args[2], args[2], args[3], 8)
        cgutils.raw_memcpy(builder, to, of, args[4], 1, align=1)
        return context.get_dummy_value()

    return types.void(dst, types.int64, src, types.int64, types.int64), codegen


@intrinsic
def _crc32c_8(typingctx: Any, crc: Any, value: Any) -> Any:
    """The processor's CRC32C step over 8 bytes (SSE 4.2 or Armv8 CRC)."""
    import platform  # noqa: PLC0415

    from llvmlite import ir  # noqa: PLC0415

    def codegen(context: Any, builder: Any, signature: Any, args: Any) -> Any:
        i64, i32 = ir.IntType(64), ir.IntType(32)
        if platform.machine() == "x86_64":
            step = cgutils.get_or_insert_function(
                builder.module, ir.FunctionType(i64, [i64, i64]), "llvm.x86.sse42.crc32.64.64"
            )
            return builder.call(step, args)
        step = cgutils.get_or_insert_function(
            builder.module, ir.FunctionType(i32, [i32, i64]), "llvm.aarch64.crc32cx"
        )
        return builder.zext(builder.call(step, [builder.trunc(args[0], i32), args[1]]), i64)

    return types.uint64(types.uint64, types.uint64), codegen


def _table() -> np.ndarray:
    table = np.zeros(256, np.uint64)
    for i in range(256):
        c = i
        for _ in range(8):
            c = (c >> 1) ^ (0x82F63B78 if c & 1 else 0)
        table[i] = c
    return table


_TABLE = _table()  # CRC-32C (Castagnoli, reflected), RFC 3720 appendix B.4

if COMPILED:
    load64, load32, load16 = _load(64, types.uint64), _load(32, types.uint32), _load(16, types.uint16)
    store64, store32, store16 = _store(64, types.uint64), _store(32, types.uint32), _store(16, types.uint16)
    copy_bytes = _memcpy
else:

    def load64(array: Any, offset: int) -> Any:
        return np.uint64(int.from_bytes(array[offset : offset + 8].tobytes(), "little"))

    def load32(array: Any, offset: int) -> Any:
        return np.uint32(int.from_bytes(array[offset : offset + 4].tobytes(), "little"))

    def load16(array: Any, offset: int) -> Any:
        return np.uint16(int.from_bytes(array[offset : offset + 2].tobytes(), "little"))

    def store64(array: Any, offset: int, value: int) -> None:
        word = (int(value) & (1 << 64) - 1).to_bytes(8, "little")
        array[offset : offset + 8] = np.frombuffer(word, np.uint8)

    def store32(array: Any, offset: int, value: int) -> None:
        array[offset : offset + 4] = np.frombuffer((int(value) & 0xFFFF_FFFF).to_bytes(4, "little"), np.uint8)

    def store16(array: Any, offset: int, value: int) -> None:
        array[offset : offset + 2] = np.frombuffer((int(value) & 0xFFFF).to_bytes(2, "little"), np.uint8)

    def copy_bytes(dst: Any, dst_offset: int, src: Any, src_offset: int, n: int) -> None:
        dst[dst_offset : dst_offset + n] = src[src_offset : src_offset + n]

    def _crc32c_8(crc: Any, value: Any) -> Any:
        c = int(crc) ^ int(value)
        for _ in range(8):
            c = int(_TABLE[c & 0xFF]) ^ (c >> 8)
        return np.uint64(c)


@njit
def crc32c(data: Any, start: int, n: int, crc: int) -> Any:
    """CRC-32C of ``data[start:start+n]`` (uint8), continued from `crc` (0 at first); uint64 < 2**32."""
    c = np.uint64(crc) ^ np.uint64(0xFFFF_FFFF)
    i = start
    end = start + n
    while i + 8 <= end:
        c = _crc32c_8(c, load64(data, i))
        i += 8
    while i < end:
        c = _TABLE[np.int64((c ^ np.uint64(data[i])) & np.uint64(0xFF))] ^ (c >> np.uint64(8))
        i += 1
    return c ^ np.uint64(0xFFFF_FFFF)
