"""Paging as a state machine against a short model: bytes by process and page, whatever the kernel does.

After every step the books agree, and the SMMU, through real tables and its TLBs, sees what the tables say and
the bytes that the model says.
"""

from __future__ import annotations

import random
from typing import Any

import pytest
from hypothesis import HealthCheck, settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, precondition, rule

from support.paging_books import check_books, check_smmu, smmu_page
from support.paging_model import PAGE, Mapping
from unimem_node.kernel import READ, READ_WRITE, KernelFault, Process
from unimem_node.kernel.frames import BLOCK
from unimem_node.mmu.regime import ACCESS_WRITE
from unimem_node.mpsoc.node import boot
from unimem_node.mpsoc.soc import Mpsoc

FIRST_STREAM = 0x14E8  # of the eight LPD... FPD DMA channels
LAZY = 64 * BLOCK
LAZY_PAGES = 1024
EAGER = 80 * BLOCK + 7 * PAGE
EAGER_PAGES = 600  # not aligned: a block in the middle of small pages cannot be
ALIGNED = 96 * BLOCK
SHARED_FILE = 100 * BLOCK
PRIVATE_FILE = 101 * BLOCK
FILE_PAGES = 12
REGION = 1 << 36
REGION_PAGES = 516
ADVICE = [
    "DONTNEED", "WILLNEED", "PAGEOUT", "COLD", "HUGEPAGE", "NOHUGEPAGE", "COLLAPSE", "SPLIT", "MIGRATE",
    "LOCK", "UNLOCK",
]  # fmt: skip
SPOTS = st.integers(0, 1 << 20)
COUNTS = st.sampled_from([1, 1, 2, 7, 64, 512, 1024])


class Paging(RuleBasedStateMachine):
    def __init__(self) -> None:
        super().__init__()
        self.soc = Mpsoc(memory_bytes=20 << 20)
        self.kernel = boot(self.soc)
        self.start = self.kernel.frames.free_bytes
        self.file = bytearray(random.Random(3).randbytes(FILE_PAGES * PAGE))
        self.kernel.paging.files.create("data", bytes(self.file))
        self.region = bytearray(REGION_PAGES * PAGE)
        self.model: dict[Process, dict[str, Mapping]] = {}
        self.streams: dict[Process, int] = {}
        self.pins: list[tuple[Process, int, int]] = []
        self.pdids = iter(range(2, 1000))

    @initialize()
    def begin(self) -> None:
        process = self.kernel.spawn(1)
        process.map(LAZY_PAGES * PAGE, va=LAZY, lazy=True)
        process.map(EAGER_PAGES * PAGE, va=EAGER)
        process.map(BLOCK, va=ALIGNED)
        process.map(FILE_PAGES * PAGE, va=SHARED_FILE, file="data", shared=True, lazy=True)
        process.map(FILE_PAGES * PAGE, va=PRIVATE_FILE, file="data")
        self.kernel.regions.create(process, REGION, REGION_PAGES * PAGE, READ_WRITE)
        self._attach(process)
        self.model[process] = {
            "lazy": Mapping(LAZY, LAZY_PAGES),
            "eager": Mapping(EAGER, EAGER_PAGES),
            "aligned": Mapping(ALIGNED, BLOCK // PAGE),
            "shared file": Mapping(SHARED_FILE, FILE_PAGES, self.file, private=False),
            "private file": Mapping(PRIVATE_FILE, FILE_PAGES, self.file),
            "region": Mapping(REGION, REGION_PAGES, self.region, private=False),
        }

    # ---- helpers

    def _attach(self, process: Process) -> None:
        stream = next(s for s in range(FIRST_STREAM, FIRST_STREAM + 8) if s not in self.streams.values())
        self.kernel.smmu.attach(stream, 0, process)
        self.streams[process] = stream

    def _pick(self, spot: int) -> tuple[Process, str, Mapping, int]:
        """A page that is mapped: few of them, so that operations meet."""
        process = list(self.model)[spot % len(self.model)]
        name = list(self.model[process])[spot // 7 % len(self.model[process])]
        mapping = self.model[process][name]
        near = [0, 1, 2, 5, 511, 512, 513, 600, mapping.pages - 1]
        number = near[spot // 64 % len(near)] % mapping.pages
        return process, name, mapping, number

    def _try(self, call: Any, *args: Any, **kwargs: Any) -> Any:
        """Memory may always be too short; then contents are what they were."""
        try:
            return call(*args, **kwargs)
        except MemoryError as error:
            assert "out of memory" in str(error)  # noqa: PT017
            return None

    def _claim(self, process: Process, mapping: Mapping, numbers: range) -> None:
        """Pages that were touched for writing, as far as memory sufficed."""
        for number in numbers:
            area = process.areas.at(mapping.va + number * PAGE)
            backing = area.backing if area is not None else None
            if backing is not None and (mapping.va >> 12) + number in backing.pages:
                mapping.claim(number)

    # ---- accesses

    @rule(spot=SPOTS, at=st.sampled_from([0, 1, 2000, PAGE - 3]), value=st.binary(min_size=1, max_size=3))
    def cpu_writes(self, spot: int, at: int, value: bytes) -> None:
        process, _, mapping, number = self._pick(spot)
        va = mapping.va + number * PAGE + at
        if number in mapping.gone or number in mapping.read_only:
            with pytest.raises(KernelFault):
                process.write(va, value)
            return
        process.write(va, value)
        mapping.write(number, at, value)

    @rule(spot=SPOTS, count=COUNTS)
    def cpu_reads(self, spot: int, count: int) -> None:
        process, _, mapping, number = self._pick(spot)
        numbers = range(number, min(number + count, mapping.pages))
        if mapping.gone & set(numbers):
            with pytest.raises(KernelFault, match="unmapped"):
                process.read(mapping.va + number * PAGE, len(numbers) * PAGE)
            return
        found = process.read(mapping.va + number * PAGE, len(numbers) * PAGE)
        assert found == b"".join(mapping.read(n) for n in numbers)

    @rule(spot=SPOTS, value=st.binary(min_size=4, max_size=4), write=st.booleans())
    def engine_accesses(self, spot: int, value: bytes, write: bool) -> None:
        """An access through the SMMU, and what the kernel does about its fault."""
        process, _, mapping, number = self._pick(spot)
        va = mapping.va + number * PAGE
        stream, access = self.streams[process], ACCESS_WRITE if write else 0
        pa = smmu_page(self.soc, stream, va, access)
        if pa is None:
            paging = self.kernel.paging
            # Unless something else happens first: a collapse ends, or memory is short.
            certain = not paging._collapses and self.kernel.frames.free_bytes // PAGE > paging.watermarks[2]
            expected = paging.survey(process, va, 1, write)
            fault = self.kernel.paging.fault(process, va, write)
            if number in mapping.gone:
                assert fault.kind == "gone"
                return
            if write and number in mapping.read_only:
                assert fault.kind == "denied"
                return
            kind = "major" if expected.major else "minor"
            assert fault.kind == kind or not certain
            pa = smmu_page(self.soc, stream, va, access)
        assert pa is not None
        if write:
            self.soc.memory.write(pa + 100, value)
            mapping.write(number, 100, value)
        else:
            assert self.soc.memory.read(pa, PAGE) == mapping.read(number)

    @rule(spot=SPOTS, count=COUNTS, write=st.booleans())
    def touch(self, spot: int, count: int, write: bool) -> None:
        process, _, mapping, number = self._pick(spot)
        numbers = range(number, min(number + count, mapping.pages))
        va = mapping.va + number * PAGE
        touched = self._try(self.kernel.paging.touch, process, va, len(numbers) * PAGE, write)
        bad = mapping.gone | (mapping.read_only if write else set())
        gone = [n for n in numbers if n in bad]
        if touched is not None:
            assert touched.gone_at == (mapping.va + gone[0] * PAGE if gone else None)
        if write:
            self._claim(process, mapping, numbers)

    # ---- advice, locks, pins

    @rule(spot=SPOTS, count=COUNTS, advice=st.sampled_from(ADVICE))
    def advise(self, spot: int, count: int, advice: str) -> None:
        process, name, mapping, number = self._pick(spot)
        numbers = range(number, min(number + count, mapping.pages))
        call = (mapping.va + number * PAGE, len(numbers) * PAGE, advice)
        if mapping.gone & set(numbers):
            with pytest.raises(ValueError, match="nothing is mapped"):
                process.madvise(*call)
        elif advice == "DONTNEED" and mapping.locked & set(numbers):
            with pytest.raises(ValueError, match="is locked in memory"):
                process.madvise(*call)
        elif self._try(process.madvise, *call) is not None:
            if advice == "DONTNEED":
                for n in numbers:
                    mapping.drop(n, owner=name == "region" and process.pdid == 1)
            elif advice == "LOCK":
                mapping.locked |= set(numbers)
            elif advice == "UNLOCK":
                mapping.locked -= set(numbers)
        elif advice == "LOCK":
            mapping.locked -= set(numbers)

    @rule(spot=SPOTS, count=st.sampled_from([1, 3, 100]))
    def pin(self, spot: int, count: int) -> None:
        process, _, mapping, number = self._pick(spot)
        numbers = range(number, min(number + count, mapping.pages))
        va, length = mapping.va + number * PAGE, len(numbers) * PAGE
        if (mapping.gone | mapping.read_only) & set(numbers):
            with pytest.raises(ValueError, match=r"nothing is mapped|cannot be pinned"):
                process.pin(va, length)
        elif self._try(process.pin, va, length) is not None:
            self.pins.append((process, va, length))
        self._claim(process, mapping, numbers)

    @precondition(lambda self: self.pins)
    @rule(spot=SPOTS)
    def unpin(self, spot: int) -> None:
        process, va, length = self.pins.pop(spot % len(self.pins))
        process.unpin(va, length)

    @rule(count=st.sampled_from([1, 20, 500, 4000]))
    def reclaim(self, count: int) -> None:
        free = self.kernel.frames.free_bytes
        freed = self.kernel.paging.reclaim(count)
        assert self.kernel.frames.free_bytes >= free + (freed - 16) * PAGE  # tables for blocks that split

    @rule()
    def compact(self) -> None:
        self.kernel.paging.compact()

    @rule(spot=SPOTS)
    def collapse_stops_half_way(self, spot: int) -> None:
        process, _, mapping, number = self._pick(spot)
        if number not in mapping.gone:
            self._try(self.kernel.paging.begin_collapse, process, mapping.va + number * PAGE)

    # ---- mappings and processes

    @rule(spot=SPOTS, count=COUNTS)
    def unmap_and_map(self, spot: int, count: int) -> None:
        process, name, mapping, number = self._pick(spot)
        if name in ("region", "shared file", "private file"):
            return
        numbers = set(range(number, min(number + count, mapping.pages)))
        va, length = mapping.va + number * PAGE, len(numbers) * PAGE
        if mapping.gone & numbers:
            if mapping.gone >= numbers and self._try(process.map, length, va, lazy=bool(spot % 2)):
                mapping.gone -= numbers
            return
        process.unmap(va, length)
        mapping.gone |= numbers
        mapping.read_only -= numbers
        mapping.locked -= numbers
        for n in numbers:
            mapping.own.pop(n, None)

    @rule(spot=SPOTS, count=COUNTS, write=st.booleans())
    def protect(self, spot: int, count: int, write: bool) -> None:
        process, name, mapping, number = self._pick(spot)
        numbers = set(range(number, min(number + count, mapping.pages)))
        if name == "region" or mapping.gone & numbers:
            return
        process.protect(mapping.va + number * PAGE, len(numbers) * PAGE, READ_WRITE if write else READ)
        mapping.read_only = mapping.read_only - numbers if write else mapping.read_only | numbers

    @precondition(lambda self: len(self.model) < 4)
    @rule(spot=SPOTS)
    def fork(self, spot: int) -> None:
        parent = list(self.model)[spot % len(self.model)]
        child = self._try(parent.fork, next(self.pdids))
        if child is None:
            return
        self._attach(child)
        copies = {name: m.copy() for name, m in self.model[parent].items() if name != "region"}
        self.model[child] = copies
        if spot % 2:
            self.kernel.regions.share(child, REGION, REGION_PAGES * PAGE, READ_WRITE)
            copies["region"] = Mapping(REGION, REGION_PAGES, self.region, private=False)

    @precondition(lambda self: len(self.model) > 1)
    @rule(spot=SPOTS)
    def exit(self, spot: int) -> None:
        process = list(self.model)[1:][spot % (len(self.model) - 1)]
        self._end(process)

    def _end(self, process: Process) -> None:
        self.kernel.exit(process)
        del self.model[process], self.streams[process]
        self.pins = [pin for pin in self.pins if pin[0] is not process]

    @rule()
    def sync(self) -> None:
        self.kernel.paging.sync("data")
        assert self.kernel.paging.files.open("data").data == self.file

    # ---- what always holds

    @invariant()
    def books_agree(self) -> None:
        if not self.kernel.paging._collapses:
            check_books(self.kernel)

    @invariant()
    def engines_see_what_the_tables_say(self) -> None:
        for process, mappings in self.model.items():
            for mapping in mappings.values():
                for number in {0, 1, 2, 5, 511 % mapping.pages, 512 % mapping.pages, 513 % mapping.pages,
                               600 % mapping.pages, mapping.pages - 1}:  # fmt: skip
                    va = mapping.va + number * PAGE
                    found = check_smmu(self.soc, process, self.streams[process], va)
                    assert found is None or found == mapping.read(number)

    def teardown(self) -> None:
        for process in list(self.model):
            for mapping in self.model[process].values():
                for number in {0, 1, 2, mapping.pages - 1} - mapping.gone:
                    found = process.read(mapping.va + number * PAGE, PAGE)
                    assert found == mapping.read(number)
        for process in reversed(list(self.model)):
            self._end(process)
        cached = len(self.kernel.paging.files.open("data").cache.pages)
        assert self.kernel.frames.free_bytes == self.start - cached * PAGE
        assert self.kernel.paging.swap.used == 0


TestPaging = pytest.mark.timeout(300)(Paging.TestCase)
TestPaging.settings = settings(
    max_examples=25, stateful_step_count=30, deadline=None, suppress_health_check=list(HealthCheck)
)
