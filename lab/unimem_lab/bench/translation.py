"""Translations a second: the compiled model beside the same algorithm in C, over the same tables and TLBs.

Four patterns, all in batches of 4,096 addresses (what a frame of small writes asks for) through one TBU:
``hit``: sixteen pages, so every access hits the micro-TLB; ``sequential``: each access the next 4 KiB page of
1 GiB, so every access walks; ``random_64MiB`` and ``random_1GiB``: random pages of a range larger than
the macro TLB reaches. Both sides start with empty TLBs and must count the same hits, walks and reads.
"""

from __future__ import annotations

import statistics
import time
from collections.abc import Callable, Iterator

import numpy as np

from unimem_lab.bench.c_walk import CWalk
from unimem_lab.bench.result import Figure
from unimem_node import Mpsoc
from unimem_node.mmu.tables import PageTable
from unimem_node.smmu._fast import translate_many

_SMMU = 0xFD80_0000
_STREAM = 0x14E8  # FPD DMA channel 0
_BANK0 = _SMMU + 0x1_0000
_VA = 0x40_0000_0000
_PAGE = 4096
BATCH = 4096


def chip_with_one_gibibyte_mapped() -> Mpsoc:
    """A chip whose SMMU translates stream 0x14E8: 1 GiB of 4 KiB pages at 0x40_0000_0000."""
    soc = Mpsoc()
    taken = iter(range(0x10_0000, 0x1000_0000, _PAGE))
    table = PageTable(soc.bus, lambda: next(taken), lambda pa: None)
    table.map(_VA, 0x8_0000_0000, 1 << 30, blocks=False)
    write32, write64 = soc.bus.write32, soc.bus.write64
    write32(_SMMU + 0x800, 0x8000_0000 | _STREAM)  # SMR0
    write32(_SMMU + 0xC00, 0)  # S2CR0: translate with bank 0
    write32(_SMMU + 0x1000, 0x0001_0000)  # CBAR0: stage 1, stage 2 bypassed
    write32(_SMMU + 0x1800, 1)  # CBA2R0: AArch64 tables
    write32(_BANK0 + 0x10, 0x5 | 7 << 15)  # TCR2: 48-bit output, sign of the upstream bus
    write32(_BANK0 + 0x30, 16 | 1 << 23)  # TCR: T0SZ 16, 4 KiB, no TTBR1
    write64(_BANK0 + 0x20, 1 << 48 | table.root)  # TTBR0, ASID 1
    write32(_BANK0 + 0x0, 0x61)  # SCTLR: M, CFRE, CFIE
    write32(_SMMU + 0x0, 0x0020_0400)  # CR0: clients translated, unknown streams fault
    return soc


def patterns() -> dict[str, np.ndarray]:
    """Addresses of each pattern, uint64, a multiple of BATCH of them."""
    rng = np.random.default_rng(1)
    count = 64 * BATCH
    pages = {
        "hit": np.arange(count) % 16,
        "sequential": np.arange(count),
        "random_64MiB": rng.integers(0, (64 << 20) // _PAGE, count),
        "random_1GiB": rng.integers(0, (1 << 30) // _PAGE, count),
    }
    return {name: (_VA + page * _PAGE).astype(np.uint64) for name, page in pages.items()}


def _invalidate(soc: Mpsoc) -> None:
    soc.bus.write32(_BANK0 + 0x618, 0)  # TLBIALL
    soc.bus.write32(_BANK0 + 0x7F0, 0)  # TLBSYNC
    while soc.bus.read32(_BANK0 + 0x7F4) & 1:  # TLBSTATUS
        pass


def _run(
    soc: Mpsoc, function: Callable[..., int], route: tuple[int, int], vas: np.ndarray, out: np.ndarray
) -> tuple[float, dict[str, int]]:
    """(seconds, counters) of one pass over `vas` with cold TLBs."""
    _invalidate(soc)
    before = soc.counters()
    started = time.perf_counter()
    for at in range(0, len(vas), BATCH):
        done = function(soc.arrays, *route, vas[at : at + BATCH], 0, out[at : at + BATCH])
        if done != BATCH:
            raise AssertionError(f"translation {at + done} of the benchmark faulted")
    seconds = time.perf_counter() - started
    return seconds, {name: value - before[name] for name, value in soc.counters().items()}


def measure(quick: bool) -> Iterator[Figure]:
    """The four patterns, model and C in turn, medians."""
    soc = chip_with_one_gibibyte_mapped()
    resolved = soc.smmu.resolve(_STREAM)
    route = (soc.smmu.lane_of(_STREAM), resolved.cb)
    c = CWalk.build()
    rounds = 5 if quick else 15
    for name, vas in patterns().items():
        ours, theirs = np.empty_like(vas), np.empty_like(vas)
        _run(soc, translate_many, route, vas[:BATCH], ours)
        model: list[float] = []
        yardstick: list[float] = []
        for _ in range(rounds):
            seconds, counted = _run(soc, translate_many, route, vas, ours)
            model.append(seconds)
            if c is not None:
                seconds, counted_by_c = _run(soc, c.translate_many, route, vas, theirs)
                yardstick.append(seconds)
                if counted != counted_by_c or not np.array_equal(ours, theirs):
                    raise AssertionError(f"{name}: C and the model disagree: {counted_by_c} and {counted}")
        yield Figure(
            name,
            len(vas) / statistics.median(model),
            "1/s",
            "C" if c else "no C compiler here",
            len(vas) / statistics.median(yardstick) if yardstick else None,
            wanted=0.5,
        )
