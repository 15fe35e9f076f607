"""A ZDMA channel beside the plain copy it stands for: 1 MiB through the SMMU, 4 KiB pages, no fault.

Measured from the write of CTRL2.EN to the end of `Mpsoc.run`, so with the channel's registers, its events and
its interrupt state. The yardstick is NumPy's copy between the same places in DRAM plus the translation of the
2 × 256 pages by `translate_many`, from the same state of the TLBs (empty).

``zdma_1MiB``: simple mode, each transfer from and to another MiB, as data that a device moves is not in the
processor's cache; ``..._in_cache``: always the same two MiB, where the copy is so fast that the channel's
events show; ``zdma_sg_256x4KiB``: those by 256 descriptors of 4 KiB on either side.
"""

from __future__ import annotations

import statistics
import time
from collections.abc import Callable, Iterator

import numpy as np

from unimem_lab.bench.result import Figure
from unimem_lab.bench.translation import chip_with_one_gibibyte_mapped
from unimem_node.smmu._fast import translate_many

_CHANNEL = 0xFD50_0000  # FPD DMA channel 0
_STREAM = 0x14E8
_BANK0 = 0xFD81_0000
_CTRL0, _ISR, _CTRL2 = 0x110, 0x100, 0x200
_SRC_WORDS, _DST_WORDS, _SRC_START, _DST_START = 0x128, 0x138, 0x158, 0x160
_DONE = 1 << 10
_VA, _PA = 0x40_0000_0000, 0x8_0000_0000
_SOURCE, _DESTINATION, _LISTS = 16 << 20, 512 << 20, 768 << 20  # offsets into the mapped gibibyte
_PAGE = 4096
BYTES = 1 << 20
#: MiB on either side that transfers go through in turn: more than caches hold; odd, so that both meet all.
_PLACES = 127


def _seconds(work: Callable[[], object]) -> float:
    started = time.perf_counter()
    work()
    return time.perf_counter() - started


class _Bench:
    """A chip, and one transfer of it beside what it stands for, at any of `places` MiB."""

    def __init__(self) -> None:
        self.soc = chip_with_one_gibibyte_mapped()
        route = self.soc.smmu.resolve(_STREAM)
        self._way = self.soc.smmu.lane_of(_STREAM), route.cb
        self._pages = np.arange(BYTES // _PAGE, dtype=np.uint64) * np.uint64(_PAGE)
        self._found = np.empty_like(self._pages)
        for at in (_SRC_WORDS, _DST_WORDS):
            self.soc.bus.write32(_CHANNEL + at + 8, BYTES)

    def aim(self, place: int) -> None:
        """Let the next transfers go from and to the `place`-th MiB of the two buffers."""
        bus, memory = self.soc.bus, self.soc.memory
        source, destination = (base + place * BYTES for base in (_SOURCE, _DESTINATION))
        bus.write64(_CHANNEL + _SRC_WORDS, _VA + source)
        bus.write64(_CHANNEL + _DST_WORDS, _VA + destination)
        self._reads = self._pages + np.uint64(_VA + source)
        self._writes = self._pages + np.uint64(_VA + destination)
        self.source = memory.view(_PA + source, BYTES)
        self.destination = memory.view(_PA + destination, BYTES)

    def plain(self) -> None:
        """The copy, and the translation of its pages."""
        translate_many(self.soc.arrays, *self._way, self._reads, 0, self._found)
        translate_many(self.soc.arrays, *self._way, self._writes, 1, self._found)
        self.destination[:] = self.source

    def transfer(self) -> None:
        """The channel, from EN to the end."""
        self.soc.bus.write32(_CHANNEL + _CTRL2, 1)
        self.soc.run()

    def cold(self) -> None:
        """Empty the TLBs, and let that take its simulated time."""
        self.soc.bus.write32(_CHANNEL + _ISR, 0xFFF)
        self.soc.bus.write32(_BANK0 + 0x618, 0)  # TLBIALL
        self.soc.bus.write32(_BANK0 + 0x7F0, 0)  # TLBSYNC
        self.soc.run()

    def lists(self) -> None:
        """Two linear lists of 256 descriptors for the first place; the source's last one stops."""
        for n, (place, data) in enumerate(((_LISTS, _SOURCE), (_LISTS + 0x1_0000, _DESTINATION))):
            words = np.zeros((BYTES // _PAGE, 4), np.uint32)
            address = _VA + data + np.arange(BYTES // _PAGE, dtype=np.int64) * _PAGE
            words[:, 0], words[:, 1], words[:, 2] = address & 0xFFFF_FFFF, address >> 32, _PAGE
            words[-1, 3] = 2 << 3 if n == 0 else 0
            self.soc.memory.write(_PA + place, words)
            self.soc.bus.write64(_CHANNEL + (_SRC_START, _DST_START)[n], _VA + place)

    def compare(self, name: str, places: int, rounds: int, wanted: float | None, note: str) -> Figure:
        """Both in turn, each at a place of its own unless there is but one; medians."""
        ours: list[float] = []
        yardstick: list[float] = []
        for n in range(2 * rounds):
            self.aim(n % places)
            self.cold()
            work, seconds = (self.transfer, ours) if n % 2 else (self.plain, yardstick)
            seconds.append(_seconds(work))
            if work == self.transfer and self.soc.bus.read32(_CHANNEL + _ISR) != _DONE:
                raise AssertionError(f"{name}: the transfer was refused")
        if not np.array_equal(self.source, self.destination):
            raise AssertionError(f"{name}: the bytes did not arrive")
        return Figure(
            name,
            BYTES / statistics.median(ours),
            "B/s",
            "NumPy copy + translate_many",
            BYTES / statistics.median(yardstick),
            wanted,
            note=note,
        )


def measure(quick: bool) -> Iterator[Figure]:
    """Simple mode over fresh and over cached memory, then the same bytes by descriptors."""
    bench = _Bench()
    rounds = 100 if quick else 400
    rng = np.random.default_rng(1)
    for place in range(_PLACES):
        bench.aim(place)
        bench.source[:] = rng.integers(0, 256, BYTES, np.uint8)
        bench.destination[:] = 0
    yield bench.compare("zdma_1MiB", _PLACES, rounds, 1 / 1.15, f"over {_PLACES} MiB of buffers")
    yield bench.compare("zdma_1MiB_in_cache", 1, rounds, None, "the same MiB again and again")
    bench.soc.bus.write32(_CHANNEL + _CTRL0, 1 << 6)
    bench.lists()
    yield bench.compare("zdma_sg_256x4KiB", 1, rounds, None, "the same MiB, 256 descriptors a side")
    bench.soc.close()
