"""The C yardstick of the translation benchmark does the same as the compiled Python, entry for entry."""

from __future__ import annotations

import numpy as np
import pytest

from support.smmu_board import Board
from unimem_lab.bench.c_walk import CWalk
from unimem_node.smmu import SmmuSpec
from unimem_node.smmu._fast import translate_many

PAGE = 0x1000
VA = 0x4000_0000


def board() -> Board:
    """4 KiB pages, 2 MiB blocks, global, read-only and unmapped ones, and small TLBs."""
    made = Board(SmmuSpec(micro_tlb_entries=(5, 3), macro_tlb_entries=32, macro_tlb_ways=4))
    table = made.simple(length=64 * PAGE)
    table.map(VA + 0x10_0000, 0x200_0000, 8 * PAGE, global_=True)
    table.map(VA + 0x20_0000, 0x20_0000, 0x40_0000)
    table.map(VA + 0x80_0000, 0x200_0000, 8 * PAGE, write=False)
    return made


@pytest.mark.parametrize("access", [0, 1, 2, 5])
def test_c_and_compiled_python_leave_the_same_state(access: int) -> None:
    c = CWalk.build()
    if c is None:
        pytest.skip("no C compiler here")
    ours, theirs = board(), board()
    rng = np.random.default_rng(access)
    for tbu in (0, 1, 0):
        vas = (VA + rng.integers(0, 0x90_0000, 400)).astype(np.uint64)
        done = 0
        while done < len(vas):  # each stops at the first fault; go on after it
            rest = vas[done:]
            pas = [np.zeros(len(rest), np.uint64) for _ in range(2)]
            n = translate_many(ours.smmu.arrays, tbu, 0, rest, access, pas[0])
            assert c.translate_many(theirs.smmu.arrays, tbu, 0, rest, access, pas[1]) == n
            assert (pas[0] == pas[1]).all()
            done += n + 1
    for name in ("tlb", "tlb_state", "counters"):
        assert (getattr(ours.smmu.arrays, name) == getattr(theirs.smmu.arrays, name)).all(), name
    assert ours.smmu.counters()["walks"] > 100
