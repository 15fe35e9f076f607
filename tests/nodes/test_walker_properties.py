"""The compiled walk, the same code uncompiled, and a short reference walker agree on random tables.

The reference below was written from the architecture's rules (chip facts, section 8), not from our walk: it
computes the start level by the closed formula and looks at whole descriptors in Python's integers.
"""

from __future__ import annotations

import os
import random
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from unimem_node._jit import COMPILED
from unimem_node.memory import MemoryBank, PhysicalMemory
from unimem_node.mmu import Regime, _fast
from unimem_node.mmu.regime import (
    A_AF,
    A_CONTIGUOUS,
    A_LEAF,
    A_NOT_GLOBAL,
    A_NS,
    A_PXN,
    A_READ_ONLY,
    A_USER,
    A_UXN,
    R_WXN,
    signed,
)

LOW, DRAM = 0x1_0000, 0x8_0000_0000
TABLES = 24  # tables of 64 KiB, the largest granule's
SIZES = ((LOW, 4 << 16), (DRAM, (TABLES - 4) << 16))
TABLE_BASES = [base + at for base, size in SIZES for at in range(0, size, 1 << 16)]

#: code, level, pa, size, attributes that decide
Outcome = tuple[int, int, int, int, int]


def reference(memory: dict[int, int], regime: Regime, va: int, access: int) -> Outcome:
    """Walk as the book says."""
    upper = va >> 55 & 1
    size = regime.t1sz if upper else regime.t0sz
    g = regime.granule_shift1 if upper else regime.granule_shift0
    base = regime.ttbr1 if upper else regime.ttbr0
    n = 64 - size
    if regime.tbi1 if upper else regime.tbi0:
        va = va % (1 << 56) | (0xFF << 56 if upper else 0)
    if g == 0 or not 25 <= n <= 48 or va >> n != ((1 << (64 - n)) - 1 if upper else 0):
        return 1, 0, 0, 0, 0
    if regime.epd1 if upper else regime.epd0:
        return 1, 0, 0, 0, 0
    s = g - 3
    level = 4 - -(-(n - g) // s)
    width = n - (g + (3 - level) * s)
    table = base % (1 << 48) // max(64, 8 << width) * max(64, 8 << width)
    if table >= 1 << regime.ips_bits:
        return 7, 0, 0, 0, 0
    pxn = xn = ro = nouser = ns = 0
    while True:
        shift = g + (3 - level) * s
        where = table + 8 * (va >> shift & (1 << width) - 1)
        if not any(b <= where < b + size for b, size in SIZES):
            return 4, level, 0, 0, 0
        desc = memory.get(where, 0)
        kind = desc & 3
        is_table = kind == 3 and level < 3
        is_page = kind == 3 and level == 3
        is_block = kind == 1 and (level == 2 or (level == 1 and g == 12))
        if not (is_table or is_page or is_block):
            return 1, level, 0, 0, 0
        if not is_table:
            break
        table = desc % (1 << 48) >> g << g
        if table >= 1 << regime.ips_bits:
            return 7, level, 0, 0, 0
        pxn |= desc >> 59 & 1
        xn |= desc >> 60 & 1
        nouser |= desc >> 61 & 1
        ro |= desc >> 62 & 1
        ns |= desc >> 63 & 1
        level, width = level + 1, s
    user = bool(desc >> 6 & 1) and not nouser
    ro |= desc >> 7 & 1
    pxn |= desc >> 53 & 1
    xn |= desc >> 54 & 1
    attrs = sum(
        bit
        for bit, is_set in (
            (A_LEAF, True),
            (A_USER, user),
            (A_READ_ONLY, ro),
            (A_PXN, pxn),
            (A_UXN, xn),
            (A_AF, desc >> 10 & 1),
            (A_NOT_GLOBAL, desc >> 11 & 1),
            (A_CONTIGUOUS, desc >> 52 & 1),
            (A_NS, ns or desc >> 5 & 1),
        )
        if is_set
    )
    if not desc >> 10 & 1 and regime.af_enabled:
        return 2, level, 0, 1 << shift, attrs
    write, privileged, execute = access & 1, access & 2, access & 4
    readable = bool(privileged) or user
    writable = readable and not ro
    if execute:
        allowed = not (pxn if privileged else xn) and not (regime.wxn and writable)
    else:
        allowed = writable if write else readable
    pa = desc % (1 << 48) >> shift << shift
    code = 3 if not allowed else 7 if pa >= 1 << regime.ips_bits else 0
    return code, level, 0 if pa >= 1 << regime.ips_bits else pa, 1 << shift, attrs


DECIDING = A_LEAF | A_USER | A_READ_ONLY | A_PXN | A_UXN | A_AF | A_NOT_GLOBAL | A_CONTIGUOUS | A_NS


def ours(walk, memory: PhysicalMemory, regime: Regime, va: int, access: int) -> tuple[Outcome, list[int]]:  # type: ignore[no-untyped-def]
    reads = np.zeros(4, np.int64)
    row = regime.row()
    code, level, pa, shift, attrs = walk(memory.view64, memory.geometry, row, signed(va), reads)
    code = _fast.settle(code, attrs, access, row[R_WXN])
    size = 1 << int(shift) if attrs else 0
    return (int(code), int(level), int(pa), size, int(attrs) & DECIDING), reads.tolist()


def table_address(rng: random.Random) -> int:
    return rng.choice(TABLE_BASES)


def random_descriptor(rng: random.Random) -> int:
    """Mostly tables and good leaves; sometimes anything."""
    noise: int = sum(1 << bit for bit in (*range(2, 10), 11, 52, 53, 54) if rng.random() < 0.3)
    kind = rng.random()
    if kind < 0.55:
        above: int = sum(1 << bit for bit in range(59, 64) if rng.random() < 0.08)
        address = table_address(rng) if rng.random() < 0.95 else rng.getrandbits(48)
        return address & ~0xFFFF | above | 3
    if kind < 0.92:
        noise |= 1 << 10 if rng.random() < 0.9 else 0
        address = rng.getrandbits(rng.choice((36, 40, 48)))
        return address & ~0xFFF | noise | rng.choice((1, 3))
    return rng.getrandbits(64)


def random_case(seed: int) -> tuple[PhysicalMemory, dict[int, int], Regime, list[tuple[int, int]]]:
    """Tables, a regime and accesses. Few entries are filled, and VAs use those: walks get deep."""
    rng = random.Random(seed)
    memory = PhysicalMemory([MemoryBank("low", *SIZES[0]), MemoryBank("dram", *SIZES[1])])
    flat: dict[int, int] = {}
    slots = [0, 1, 2, 5, 511, rng.randrange(512)]
    for base in TABLE_BASES:
        for slot in slots:
            flat[base + 8 * slot] = random_descriptor(rng)
            memory.write64(base + 8 * slot, flat[base + 8 * slot])
    odd = rng.random() < 0.1
    granules = [rng.choice((12, 12, 12, 14, 16, 0) if odd else (12, 12, 14, 16)) for _ in range(2)]
    usual = (16, 16, 25, rng.randrange(16, 40), rng.randrange(16, 40))
    sizes = [rng.choice((rng.randrange(64), 16) if odd else usual) for _ in range(2)]
    regime = Regime(
        ttbr0=table_address(rng) | rng.choice((0, 0, 0x38)), ttbr1=table_address(rng),
        t0sz=sizes[0], t1sz=sizes[1], granule_shift0=granules[0], granule_shift1=granules[1],
        epd0=rng.random() < 0.03, epd1=rng.random() < 0.1,
        ips_bits=rng.choice((32, 36, 40, 42, 44, 48, 48, 48)),
        af_enabled=rng.random() < 0.8, wxn=rng.random() < 0.3,
        tbi0=rng.random() < 0.3, tbi1=rng.random() < 0.3,
    )  # fmt: skip
    accesses = []
    for _ in range(24):
        upper = rng.random() < 0.4
        g, n = granules[upper] or 12, max(1, min(64 - sizes[upper], 64))
        va = rng.getrandbits(g)
        for level in range(4):
            va |= rng.choice(slots) << (g + (3 - level) * (g - 3))
        va %= 1 << n
        if upper:
            va |= (1 << 64) - (1 << n)
        if rng.random() < 0.15:
            va ^= rng.choice((0xFF << 56, 1 << 55, 1 << 48, rng.getrandbits(64)))
        accesses.append((va % (1 << 64), rng.randrange(8)))
    return memory, flat, regime, accesses


UNCOMPILED = getattr(_fast.walk, "py_func", _fast.walk)


def compare(seed: int) -> list[Outcome]:
    memory, flat, regime, accesses = random_case(seed)
    outcomes = []
    for va, access in accesses:
        expected = reference(flat, regime, va, access)
        compiled = ours(_fast.walk, memory, regime, va, access)
        assert compiled[0] == expected, (seed, hex(va), access)
        assert ours(UNCOMPILED, memory, regime, va, access) == compiled, (seed, hex(va), access)
        outcomes.append(expected)
    return outcomes


@settings(max_examples=300)
@given(st.integers(0, 1 << 32))
def test_compiled_uncompiled_and_reference_walks_agree(seed: int) -> None:
    compare(seed)


def test_the_random_tables_reach_every_outcome() -> None:
    """Guards the generator: a property that only ever sees level 0 proves nothing."""
    seen = {(code, level) for seed in range(150) for code, level, *_ in compare(seed)}
    assert {level for code, level in seen if code == 0} == {1, 2, 3}
    assert {level for code, level in seen if code == 1} == {0, 1, 2, 3}
    assert {level for code, level in seen if code == 2} >= {2, 3}
    assert {level for code, level in seen if code == 3} == {1, 2, 3}
    assert {level for code, level in seen if code == 4} >= {1, 2, 3}
    assert {level for code, level in seen if code == 7} == {0, 1, 2, 3}


@pytest.mark.skipif(not COMPILED, reason="this is the uncompiled run")
def test_the_same_source_as_python_agrees() -> None:
    """The whole comparison again in an interpreter with NUMBA_DISABLE_JIT=1, over fixed seeds."""
    here = Path(__file__).resolve()
    code = (
        "import test_walker_properties as t; assert not t.COMPILED; "
        "print(sum(len(t.compare(s)) for s in range(40)))"
    )
    env = {**os.environ, "NUMBA_DISABLE_JIT": "1"}
    env["PYTHONPATH"] = os.pathsep.join([str(here.parent), *sys.path])
    done = subprocess.run([sys.executable, "-c", code], env=env, capture_output=True, text=True, check=False)
    assert (done.returncode, done.stdout.strip()) == (0, str(40 * 24)), done.stderr


def test_reads_are_counted_by_level() -> None:
    for seed in range(60):
        memory, _, regime, accesses = random_case(seed)
        for va, access in accesses:
            (code, level, *_), reads = ours(_fast.walk, memory, regime, va, access)
            visited = [n for n in range(4) if reads[n]]
            assert set(reads) <= {0, 1}
            assert not visited or visited == list(range(visited[0], level + 1))
            assert visited or (code in (1, 7) and level == 0)
