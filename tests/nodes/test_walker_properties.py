"""The compiled walks, the same code uncompiled, and the reference walker agree: value and syndrome.

Tables are random: mostly good descriptors, both halves, every granule and input size, and stage-2 tables that
map most of what stage 1 points to. `support.reference_walker` was written from the architecture's rules.
"""

from __future__ import annotations

import os
import random
import subprocess
import sys
from collections import Counter
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from support.reference_walker import Fault, Found, level_shift, translate
from unimem_node._jit import COMPILED
from unimem_node.memory import MemoryBank, PhysicalMemory
from unimem_node.mmu import Regime, WalkResult, walk
from unimem_node.mmu.regime import (
    A_LEVEL2_SHIFT,
    A_LEVEL_SHIFT,
    A_MEMATTR_SHIFT,
    A_NOT_GLOBAL,
    A_NS,
    A_TYPE_SHIFT,
    STAGE_1,
    STAGE_2,
)

LOW, DRAM = 0x1_0000, 0x8_0000_0000
TABLES = 24  # tables of 64 KiB, the largest granule's
SIZES = ((LOW, 4 << 16), (DRAM, (TABLES - 4) << 16))
TABLE_BASES = [base + at for base, size in SIZES for at in range(0, size, 1 << 16)]
#: Where stage-2 roots lie: 1 MiB, room for sixteen concatenated tables of 64 KiB.
ROOT_2 = 0xC_0000_0000

GRANULES = (12, 12, 14, 16)
ALL_SIZES = [*SIZES, (ROOT_2, 1 << 20)]


@dataclass(frozen=True)
class Case:
    """Tables, regimes and accesses. `s1` or `s2` is None when that stage is not there."""

    memory: PhysicalMemory
    s1: Regime | None
    s2: Regime | None
    accesses: list[tuple[int, int]]

    def word(self, pa: int) -> int | None:
        """The 64-bit word at a physical address, as the reference asks for it."""
        there = any(base <= pa < base + size for base, size in ALL_SIZES)
        return int.from_bytes(self.memory.read(pa, 8), "little") if there else None


def as_written(descriptor: int, big_endian: bool) -> int:
    return int.from_bytes(descriptor.to_bytes(8, "big"), "little") if big_endian else descriptor


def a_table(rng: random.Random) -> int:
    return rng.choice(TABLE_BASES)


def random_descriptor(rng: random.Random, nested: bool) -> int:
    """Mostly tables and good leaves; sometimes anything. Of a nested stage 1, leaves too are IPAs."""
    noise: int = sum(1 << bit for bit in (*range(2, 10), 11, 51, 52, 53, 54) if rng.random() < 0.3)
    kind = rng.random()
    if kind < 0.55:
        above: int = sum(1 << bit for bit in range(59, 64) if rng.random() < 0.08)
        address = a_table(rng) if rng.random() < 0.95 else rng.getrandbits(48)
        return address & ~0xFFFF | above | 3
    if kind < 0.94:
        noise |= 1 << 10 if rng.random() < 0.9 else 0
        address = a_table(rng) if nested and rng.random() < 0.6 else rng.getrandbits(rng.choice((36, 40, 48)))
        return address & ~0xFFF | noise | rng.choice((1, 3))
    return rng.getrandbits(64)


SLOTS = (0, 1, 2, 5, 511)
STAGES = [STAGE_1, STAGE_2, STAGE_1 | STAGE_2]


def low_bits(rng: random.Random) -> int:
    """Of a base register: those below the start table's size are ignored."""
    return rng.choice((0, 0, 0, 0, 0, 0, 0, 0x38, 0x780, rng.getrandbits(16) & ~7))


def stage_1_regime(rng: random.Random, nested: bool) -> Regime:
    odd = rng.random() < (0.02 if nested else 0.1)
    granules = [rng.choice((*GRANULES, 0) if odd else GRANULES) for _ in range(2)]
    usual = (16, 16, 25, rng.randrange(16, 40), rng.randrange(16, 40))
    sizes = [rng.choice((rng.randrange(64), 16) if odd else usual) for _ in range(2)]
    return Regime(
        ttbr0=a_table(rng) | low_bits(rng), ttbr1=a_table(rng) | low_bits(rng),
        t0sz=sizes[0], t1sz=sizes[1], granule_shift0=granules[0], granule_shift1=granules[1],
        epd0=rng.random() < 0.03, epd1=rng.random() < 0.1,
        ips_bits=rng.choice((48, 48, 48, 36) if nested else (32, 36, 40, 42, 44, 48, 48, 48)),
        af_enabled=rng.random() < 0.8, wxn=rng.random() < 0.3,
        tbi0=rng.random() < 0.3, tbi1=rng.random() < 0.3,
        big_endian=rng.random() < 0.2, mair=rng.getrandbits(64),
    )  # fmt: skip


def stage_2_regime(rng: random.Random, nested: bool) -> Regime:
    """A legal start level as a rule; input sizes that hold the tables' IPAs, when stage 1 nests in it."""
    g = rng.choice((12, 14, 16))
    low = 0 if g == 12 else 1
    legal = [
        (n, level)
        for n in range(36 if nested else 25, 49)
        for level in range(low, low + 3)
        if 1 <= n - level_shift(g, level) <= g - 3 + 4
    ]
    n, level = rng.choice(legal)
    sl0 = low + 2 - level
    if rng.random() < 0.08:
        n, sl0 = rng.randrange(1, 65), rng.randrange(4)
    return Regime(
        stages=STAGE_2, ttbr0=ROOT_2 | low_bits(rng), t0sz=64 - n, granule_shift0=g, sl0=sl0,
        ips_bits=rng.choice((32, 36, 40, 44, *[48] * (16 if nested else 5))),
        pa_max=rng.choice((40, 42, 44, *[48] * (16 if nested else 4))),
        af_enabled=rng.random() < 0.8, ptw=rng.random() < 0.15, big_endian=rng.random() < 0.2,
    )  # fmt: skip


def stage_2_descriptor(rng: random.Random, ipa: int, shift: int) -> int:
    """A leaf that lets much through; identity as a rule, so that stage 1 finds its tables."""
    bits: int = sum(1 << bit for bit, p in ((6, 0.97), (7, 0.7), (10, 0.96), (52, 0.3), (54, 0.3))
                    if rng.random() < p)  # fmt: skip
    bits |= rng.choice((0xF, 0xF, 0xF, 0x5, 0x1, rng.randrange(16))) << 2 | rng.randrange(4) << 8
    kind = rng.random()
    if kind < 0.03:
        return rng.getrandbits(64)
    address = ipa if kind < 0.94 else rng.getrandbits(48)
    return (address >> shift << shift) % (1 << 48) | bits | 1


def fill_stage_2(rng: random.Random, memory: PhysicalMemory, r: Regime, addresses: list[int]) -> None:
    """Tables in which walks for `addresses` get somewhere: their own small allocator, after the roots."""
    g, n = r.granule_shift0, 64 - r.t0sz
    level = (2 if g == 12 else 3) - r.sl0
    if level < 0 or not 0 < n <= 48 or n - level_shift(g, level) > 17:
        return
    spare = iter([ROOT_2 + at for at in range(1 << 19, 1 << 20, 1 << g)])
    start = ROOT_2 | r.ttbr0 & 0xFFFF
    root_bytes = max(8 << max(n - level_shift(g, level), 0), 64)
    for ipa in addresses:
        table, width, depth = start // root_bytes * root_bytes, n - level_shift(g, level), level
        while width > 0:
            shift = level_shift(g, depth)
            where = table + 8 * ((ipa >> shift) % (1 << width))
            if memory.find(where, 8) < 0:
                break
            there = as_written(memory.read64(where), r.big_endian)
            if not there & 3:
                blocks = depth == 2 or (depth == 1 and g == 12)
                below = None if depth == 3 or (blocks and rng.random() < 0.4) else next(spare, None)
                if below is None:
                    descriptor = stage_2_descriptor(rng, ipa, shift) | (2 if depth == 3 else 0)
                else:
                    descriptor = below | 3 | (rng.getrandbits(5) << 59 if rng.random() < 0.2 else 0)
                memory.write64(where, as_written(descriptor, r.big_endian))
                there = descriptor
            if there & 3 != 3 or depth == 3:
                break
            table, width, depth = there % (1 << 48) >> g << g, g - 3, depth + 1


def an_address(rng: random.Random, r: Regime, slots: tuple[int, ...]) -> int:
    """A VA whose indices are slots that were filled, as a rule."""
    upper = rng.random() < 0.4
    g = (r.granule_shift1 if upper else r.granule_shift0) or 12
    n = max(1, min(64 - (r.t1sz if upper else r.t0sz), 64))
    va = rng.getrandbits(g)
    for level in range(4):
        va |= rng.choice(slots) << level_shift(g, level)
    va %= 1 << n
    if upper:
        va |= (1 << 64) - (1 << n)
    if rng.random() < 0.1:
        va ^= rng.choice((0xFF << 56, 1 << 55, 1 << 48, rng.getrandbits(64)))
    return va % (1 << 64)


def random_case(seed: int, stages: int) -> Case:
    """Few entries are filled, and addresses use those: walks get deep."""
    rng = random.Random(f"{stages} {seed}")
    memory = PhysicalMemory([MemoryBank(f"bank{i}", base, size) for i, (base, size) in enumerate(ALL_SIZES)])
    nested = stages == STAGE_1 | STAGE_2
    s1 = stage_1_regime(rng, nested) if stages & STAGE_1 else None
    s2 = stage_2_regime(rng, nested) if stages & STAGE_2 else None
    slots = (*SLOTS, rng.randrange(512))
    if s1 is not None:
        for base in TABLE_BASES:
            for slot in slots:
                descriptor = random_descriptor(rng, nested)
                memory.write64(base + 8 * slot, as_written(descriptor, s1.big_endian))
        addresses = [an_address(rng, s1, slots) for _ in range(24)]
    else:
        assert s2 is not None
        n = 64 - s2.t0sz
        addresses = [rng.getrandbits(max(n, 1) if rng.random() < 0.9 else 49) for _ in range(24)]
    if s2 is not None:
        ipas = addresses[:18] if s1 is None else [b + 8 * slot for b in TABLE_BASES for slot in slots]
        if s1 is not None:
            ipas += [rng.getrandbits(40) for _ in range(8)]
        fill_stage_2(rng, memory, s2, ipas)
    return Case(memory, s1, s2, [(va, rng.randrange(8)) for va in addresses])


def agree(result: WalkResult, expected: Found | Fault) -> None:
    if isinstance(expected, Fault):
        assert result.fault == expected.kind
        assert (result.stage, result.level, result.ipa, result.ptwf) == (
            expected.stage, expected.level, expected.ipa, expected.ptwf,
        )  # fmt: skip
        assert result.pa is None
        return
    assert result.fault is None
    assert result.pa == expected.pa
    assert expected.size <= result.size <= expected.largest
    assert result.size & (result.size - 1) == 0
    attrs = result.attrs
    assert attrs >> A_MEMATTR_SHIFT & 0xF == expected.memattr
    assert attrs >> A_LEVEL2_SHIFT & 3 == expected.level2
    if result.stage == STAGE_1:
        assert attrs >> A_LEVEL_SHIFT & 3 == result.level == expected.level
        assert attrs >> A_TYPE_SHIFT & 0xFF == expected.memory_type
        assert (not attrs & A_NOT_GLOBAL, bool(attrs & A_NS)) == (expected.global_, expected.ns)


def compare(seed: int, stages: int) -> list[tuple[WalkResult, Found | Fault]]:
    case = random_case(seed, stages)
    outcomes = []
    for va, access in case.accesses:
        expected = translate(case.word, va, access, s1=case.s1, s2=case.s2)
        first = case.s1 or case.s2
        assert first is not None
        result = walk(case.memory, first, va, access, stage_2=case.s2 if case.s1 else None)
        try:
            agree(result, expected)
        except AssertionError as error:
            error.add_note(f"seed {seed}, stages {stages}, {va:#x}, access {access}; reference: {expected}")
            error.add_note(result.describe())
            raise
        outcomes.append((result, expected))
    return outcomes


@pytest.mark.parametrize("stages", STAGES)
@settings(max_examples=200)
@given(seed=st.integers(0, 1 << 32))
def test_walks_agree_with_the_reference(stages: int, seed: int) -> None:
    compare(seed, stages)


def seen(stages: int, seeds: int = 150) -> Counter[Any]:
    """(kind, stage, level, ptwf) of faults, (0, level, level2) of translations, how often."""
    found: Counter[Any] = Counter()
    for seed in range(seeds):
        for _, outcome in compare(seed, stages):
            if isinstance(outcome, Fault):
                found[outcome.kind, outcome.stage, outcome.level, outcome.ptwf] += 1
            else:
                found[0, outcome.level, outcome.level2] += 1
    return found


TF, AFF, PF, EF, ASF = 1, 2, 3, 4, 7
ONE_STAGE = [
    *((TF, level) for level in range(4)), (AFF, 2), (AFF, 3), (PF, 1), (PF, 2), (PF, 3),
    *((EF, level) for level in (1, 2, 3)), *((ASF, level) for level in range(4)),
]  # fmt: skip


def test_the_random_tables_reach_every_outcome_of_stage_1() -> None:
    """Guards the generator: a property that only ever sees level 0 proves nothing."""
    found = seen(STAGE_1)
    assert {(kind, 1, level, False) for kind, level in ONE_STAGE} <= found.keys()
    assert {(0, level, 0) for level in (1, 2, 3)} <= found.keys()


def test_the_random_tables_reach_every_outcome_of_stage_2() -> None:
    found = seen(STAGE_2, 400)
    wanted = {(kind, 2, level, False) for kind in (TF, AFF, PF, ASF) for level in (1, 2, 3)}
    assert wanted | {(TF, 2, 0, False), (ASF, 2, 0, False)} <= found.keys()
    assert {(0, level, level) for level in (1, 2, 3)} <= found.keys()


def test_the_random_tables_reach_every_outcome_of_nested_walks() -> None:
    found = seen(STAGE_1 | STAGE_2, 500)
    assert {(kind, 1, level, False) for kind in (TF, AFF, PF) for level in (2, 3)} <= found.keys()
    assert {(kind, 2, level, ptwf) for kind in (TF, PF) for level in (1, 2, 3) for ptwf in (False, True)} <= (
        found.keys()
    )
    assert {(0, level, level2) for level in (1, 2, 3) for level2 in (1, 2, 3)} <= found.keys()


@pytest.mark.skipif(not COMPILED, reason="this is the uncompiled run")
def test_the_same_source_as_python_agrees() -> None:
    """The whole comparison again in an interpreter with NUMBA_DISABLE_JIT=1, over fixed seeds."""
    here = Path(__file__).resolve()
    code = (
        "import test_walker_properties as t; assert not t.COMPILED; "
        "print(sum(len(t.compare(s, stages)) for s in range(40) for stages in (1, 2, 3)))"
    )
    env = {**os.environ, "NUMBA_DISABLE_JIT": "1"}
    env["PYTHONPATH"] = os.pathsep.join([str(here.parent), *sys.path])
    done = subprocess.run([sys.executable, "-c", code], env=env, capture_output=True, text=True, check=False)
    assert (done.returncode, done.stdout.strip()) == (0, str(3 * 40 * 24)), done.stderr


@pytest.mark.parametrize("stages", STAGES)
def test_steps_are_what_the_walk_fetched(stages: int) -> None:
    """The retraced steps end where the verdict says, and each stage's levels count up from its start."""
    for seed in range(60):
        for result, expected in compare(seed, stages):
            if not result.steps:
                assert isinstance(expected, Fault)
                assert expected.level == 0
                continue
            last = result.steps[-1]
            if result.fault is None:
                assert last.value is not None
                assert last.value & 1
            else:
                assert (last.stage, last.level) == (result.stage, result.level) or result.level == 0
            if result.fault == EF:
                assert last.value is None
            mine = [step.level for step in result.steps if step.stage == STAGE_1]
            assert mine == list(range(mine[0], mine[0] + len(mine))) if mine else True


def test_descriptor_fetches_are_counted_by_level() -> None:
    from unimem_node.mmu import _fast

    for seed in range(40):
        case = random_case(seed, STAGE_1)
        assert case.s1 is not None
        for va, _ in case.accesses:
            fetched = np.zeros(_fast.FETCHED, np.int64)
            signed = va - (1 << 64) if va >> 63 else va
            _fast.walk(case.memory.view64, case.memory.geometry, case.s1.row(), signed, fetched)
            steps = walk(case.memory, case.s1, va, 0).steps
            assert [level for level in range(4) if fetched[level]] == [step.level for step in steps]
            assert set(fetched.tolist()) <= {0, 1}
