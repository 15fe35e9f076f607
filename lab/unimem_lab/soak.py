"""Soak: random operations over a bad network and moving pages, checked byte for byte against a reference.

A few clients on different nodes put, get, copy, add and signal in regions of all nodes, many at once, while
packets are lost, doubled, overtaken and damaged, nodes stand still, and kernels take pages away. The
reference is an array of bytes a region. No two operations under way touch the same bytes, so that it knows
what must be there:

* after a success the new bytes;
* after a failure that is *definite* the old ones;
* after any other failure each byte is old or new, and stays in doubt until the end: a copy of the packet may
  still be under way.

Counters are shared by all clients: the values that fetch-and-adds returned are all different, and the sum is
that of the successes, plus at most the doubtful ones. Between regions lie guards, which nobody writes.
"""

from __future__ import annotations

import random
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, Final, Protocol

import numpy as np

from unimem.errors import DeadlineExceeded, UnimemError
from unimem_node.clock import named_stream

if TYPE_CHECKING:
    from unimem import Client, GlobalPtr, Transfer

GUARD: Final = 4096
COUNTERS: Final = 4
DOMAIN: Final = "soak"
ADVICE: Final = ("PAGEOUT", "COLD", "COLLAPSE", "SPLIT", "MIGRATE")


@dataclass(frozen=True, slots=True)
class SoakPlan:
    """How much of what; sizes in bytes."""

    clients: int = 3
    operations: int = 120
    outstanding: int = 12
    region_bytes: int = 128 << 10
    largest: int = 40 << 10
    disturbances: float = 0.2  # for each operation, on average
    timeout: float = 60.0  # of one operation, seconds; without meaning in a simulation


class Grounds(Protocol):
    """Where a soak runs: a cluster, and what can be done to it."""

    nodes: tuple[str, ...]

    def client(self, home: str, domain: str) -> Client:
        """A client on that node."""

    def pause(self, node: str, microseconds: int) -> None:
        """Let a node stand still for a while; returns at once."""

    def advise(self, node: str, pdid: int, va: int, length: int, advice: str) -> None:
        """madvise on a node; what the kernel refuses is no error here."""

    def heal(self) -> None:
        """End every disturbance, and wait for quiet."""


@dataclass(slots=True)
class Region:
    """A region and what must be in it."""

    node: str
    whole: GlobalPtr  # with a guard at either end
    pdid: int
    expected: np.ndarray
    busy: list[tuple[int, int]] = field(default_factory=list)
    doubtful: list[tuple[int, np.ndarray, np.ndarray]] = field(default_factory=list)

    @property
    def ptr(self) -> GlobalPtr:
        """Where the bytes between the guards begin."""
        return self.whole + GUARD

    def free(self, start: int, length: int) -> bool:
        """Whether nobody uses the range, and nothing in it is in doubt."""
        end = start + length
        return all(end <= a or b <= start for a, b in self.busy) and all(
            end <= at or at + len(old) <= start for at, old, _ in self.doubtful
        )


@dataclass(slots=True)
class _UnderWay:
    """An operation: what to do when it has ended."""

    transfer: Transfer
    text: str
    settle: Callable[[UnimemError | None, Any], None]


@dataclass(slots=True)
class SoakReport:
    """What happened: counts by verb and outcome, disturbances, and what was wrong (nothing, one hopes)."""

    seed: int
    operations: dict[str, int] = field(default_factory=dict)
    disturbances: dict[str, int] = field(default_factory=dict)
    wrong: list[str] = field(default_factory=list)

    def count(self, table: dict[str, int], name: str) -> None:
        """One more of `name`."""
        table[name] = table.get(name, 0) + 1

    @property
    def succeeded(self) -> int:
        """Operations that were successful."""
        return sum(n for name, n in self.operations.items() if name.endswith(" ok"))


class Soak:
    """One run with one seed."""

    def __init__(self, grounds: Grounds, seed: int, plan: SoakPlan | None = None) -> None:
        self.grounds, self.plan = grounds, plan or SoakPlan()
        self.report = SoakReport(seed)
        self._random: random.Random = named_stream(seed, "soak")
        self._noise = np.random.default_rng(seed)
        self._clients: list[Client] = []
        self._regions: list[Region] = []
        self._under_way: list[_UnderWay] = []
        self._counters: Any = None
        self._added: list[list[int]] = [[] for _ in range(COUNTERS)]  # values that were found
        self._doubtful_adds = [0] * COUNTERS
        self._signals = 0
        self._box: Any = None
        self._sent: set[int] = set()
        self._doubtful_sends: set[int] = set()

    def run(self) -> SoakReport:
        """Everything, to the final check. What is wrong is in the report's `wrong`."""
        self._open()
        plan, pick = self.plan, self._random
        actions = (
            self._put,
            self._put,
            self._put,
            self._get,
            self._copy,
            self._add,
            self._put_signal,
            self._send,
        )
        for _ in range(plan.operations):
            pick.choice(actions)(pick.choice(self._clients))
            if pick.random() < plan.disturbances:
                self._disturb()
            if pick.random() < 0.05:
                self._doomed(pick.choice(self._clients))
            self._sweep()
            while len(self._under_way) >= plan.outstanding:
                self._finish(self._under_way[pick.randrange(len(self._under_way))])
        for left in list(self._under_way):
            self._finish(left)
        self.grounds.heal()
        self._check()
        for client in self._clients:
            client.close()
        return self.report

    # ---- the scene

    def _open(self) -> None:
        names, plan = self.grounds.nodes, self.plan
        self._clients = [self.grounds.client(names[i % len(names)], DOMAIN) for i in range(plan.clients)]
        first = self._clients[0]
        for node in names:
            whole = first.alloc(plan.region_bytes + 2 * GUARD, node=node)
            self._regions.append(Region(node, whole, first.pdid, np.zeros(plan.region_bytes, np.uint8)))
        self._counters = first.alloc(4096, node=names[-1])
        self._box = first.mailbox(node=names[-1], slots=plan.operations)

    def _wrong(self, text: str) -> None:
        self.report.wrong.append(text)

    def _place(self, length: int) -> tuple[Region, int] | None:
        """A range that nobody uses; taken now."""
        region = self._random.choice(self._regions)
        for _ in range(8):
            start = self._random.randrange(len(region.expected) - length + 1)
            if region.free(start, length):
                region.busy.append((start, start + length))
                return region, start
        return None

    def _length(self) -> int:
        """Mostly small, sometimes several blocks; at borders of words, pages and blocks, and beside them."""
        pick = self._random
        base = pick.choice((1, 8, 64, 4096, 16384, self.plan.largest))
        return max(1, min(self.plan.largest, base + pick.choice((0, 0, -1, 1, 7))))

    def _new_bytes(self, length: int) -> np.ndarray:
        return self._noise.integers(0, 256, length, np.uint8)

    # ---- operations

    def _start(
        self, transfer: Transfer, text: str, settle: Callable[[UnimemError | None, Any], None]
    ) -> None:
        self._under_way.append(_UnderWay(transfer, text, settle))

    def _put(self, client: Client) -> None:
        length = self._length()
        found = self._place(length)
        if found is not None:
            region, start = found
            data = self._new_bytes(length)
            transfer = client.put_async(region.ptr + start, data, timeout=self.plan.timeout)
            self._start(
                transfer, f"put {length} at {region.node}+{start}", self._wrote("put", region, start, data)
            )

    def _wrote(
        self, verb: str, region: Region, start: int, data: np.ndarray
    ) -> Callable[[UnimemError | None, Any], None]:
        def settle(error: UnimemError | None, _: Any) -> None:
            end = start + len(data)
            region.busy.remove((start, end))
            if error is None:
                region.expected[start:end] = data
            elif not error.definite:
                region.doubtful.append((start, region.expected[start:end].copy(), data))
            self._outcome(verb, error)

        return settle

    def _get(self, client: Client) -> None:
        length = self._length()
        found = self._place(length)
        if found is None:
            return
        region, start = found
        text = f"get {length} at {region.node}+{start}"

        def settle(error: UnimemError | None, result: Any) -> None:
            region.busy.remove((start, start + length))
            if error is None and not np.array_equal(result, region.expected[start : start + length]):
                self._wrong(f"{text}: {_difference(result, region.expected[start : start + length])}")
            self._outcome("get", error)

        self._start(client.get_async(region.ptr + start, length, timeout=self.plan.timeout), text, settle)

    def _copy(self, client: Client) -> None:
        length = self._length()
        source = self._place(length)
        if source is None:
            return
        target = self._place(length)
        if target is None:
            source[0].busy.remove((source[1], source[1] + length))
            return
        (src, at), (dst, to) = source, target
        wrote = self._wrote("copy", dst, to, src.expected[at : at + length].copy())

        def settle(error: UnimemError | None, result: Any) -> None:
            src.busy.remove((at, at + length))
            wrote(error, result)

        transfer = client.copy_async(dst.ptr + to, src.ptr + at, length, timeout=self.plan.timeout)
        self._start(transfer, f"copy {length} from {src.node}+{at} to {dst.node}+{to}", settle)

    def _add(self, client: Client) -> None:
        which = self._random.randrange(COUNTERS)
        try:
            found = client.fetch_add(self._counters + 64 * which, 1, timeout=self.plan.timeout)
        except UnimemError as error:
            self._doubtful_adds[which] += not error.definite
            self._outcome("fetch_add", error)
            return
        self._added[which].append(found)
        self._outcome("fetch_add", None)

    def _send(self, client: Client) -> None:
        """A numbered message into the mailbox that all share."""
        number = len(self._sent) + len(self._doubtful_sends) + 1
        try:
            client.mailbox_at(self._box.ptr).send(number.to_bytes(8, "little"), timeout=self.plan.timeout)
        except UnimemError as error:
            if not error.definite:
                self._doubtful_sends.add(number)
            self._outcome("send", error)
            return
        self._sent.add(number)
        self._outcome("send", None)

    def _put_signal(self, client: Client) -> None:
        """Who sees the signal sees the data; the signal's word is the run's own."""
        length = self._length()
        found = self._place(length)
        if found is None:
            return
        region, start = found
        data, end = self._new_bytes(length), start + length
        self._signals += 1
        flag = self._counters + 64 * COUNTERS
        wrote = self._wrote("put_signal", region, start, data)
        text = f"put_signal {length} at {region.node}+{start}"
        failed: UnimemError | None = None
        try:
            client.put_signal(region.ptr + start, data, flag, self._signals, timeout=self.plan.timeout)
            seen = client.get(region.ptr + start, length, timeout=self.plan.timeout)
            if not np.array_equal(seen, data):
                self._wrong(f"{text}: signalled, but {_difference(seen, data)}")
        except UnimemError as error:
            failed = error
        assert (start, end) in region.busy
        wrote(failed, None)

    def _doomed(self, client: Client) -> None:
        """A region is freed with writes to it under way: they end, well or not, and harm nobody else."""
        node = self._random.choice(self.grounds.nodes)
        try:
            region = client.alloc(64 << 10, node=node)
        except UnimemError as error:
            self._outcome("alloc", error)
            return
        for i in range(3):
            transfer = client.put_async(region + i * 16384, self._new_bytes(16384), timeout=self.plan.timeout)
            self._start(transfer, f"put to a region of {node} that is freed", self._ended("doomed put"))
        client.free(region)
        self.report.count(self.report.disturbances, "unmap")

    def _ended(self, verb: str) -> Callable[[UnimemError | None, Any], None]:
        return lambda error, _: self._outcome(verb, error)

    def _outcome(self, verb: str, error: UnimemError | None) -> None:
        how = "ok" if error is None else f"{error.reason}{' definite' if error.definite else ''}"
        self.report.count(self.report.operations, f"{verb} {how}")

    def _finish(self, operation: _UnderWay) -> None:
        """Wait for one operation, and hear how it ended."""
        self._under_way.remove(operation)
        error = operation.transfer.exception()
        operation.settle(error, None if error is not None else operation.transfer.result())

    def _sweep(self) -> None:
        """Hear of everything that has ended by itself."""
        for operation in [o for o in self._under_way if o.transfer.done()]:
            self._finish(operation)

    # ---- disturbances

    def _disturb(self) -> None:
        pick = self._random
        region = pick.choice(self._regions)
        if pick.random() < 0.2:
            self.grounds.pause(region.node, pick.randrange(10, 2000))
            self.report.count(self.report.disturbances, "pause")
            return
        advice = pick.choice(ADVICE)
        first = pick.randrange(len(region.expected) // 4096) * 4096
        length = min(pick.choice((4096, 16384, 65536)), len(region.expected) - first)
        self.grounds.advise(region.node, region.pdid, int(region.ptr) + first, length, advice)
        self.report.count(self.report.disturbances, advice)

    # ---- the verdict

    def _check_mailbox(self) -> None:
        """Every message that was sent is there, once; one in doubt may be."""
        found: list[int] = []
        for _ in range(len(self._sent) + len(self._doubtful_sends)):
            try:
                message = self._box.receive(timeout=0.05)
            except DeadlineExceeded:
                break
            found.append(int.from_bytes(message[:8], "little"))
        if len(set(found)) != len(found):
            self._wrong("a message was received twice")
        if not self._sent <= set(found) <= self._sent | self._doubtful_sends:
            self._wrong(f"{len(self._sent)} messages were sent, {len(found)} received")

    def _check(self) -> None:
        self._check_mailbox()
        client = self._clients[0]
        for region in self._regions:
            n = len(region.expected)
            everything = client.get(region.whole, n + 2 * GUARD, timeout=self.plan.timeout)
            if everything[:GUARD].any() or everything[GUARD + n :].any():
                self._wrong(f"{region.node}: a guard beside the region was written")
            seen = everything[GUARD : GUARD + n]
            expected = region.expected.copy()
            for start, old, new in region.doubtful:
                part = seen[start : start + len(old)]
                odd = np.flatnonzero((part != old) & (part != new))
                if len(odd):
                    self._wrong(f"{region.node}+{start + int(odd[0])}: neither the old byte nor the new one")
                expected[start : start + len(old)] = part
            if not np.array_equal(seen, expected):
                self._wrong(f"{region.node}: {_difference(seen, expected)}")
        for which, values in enumerate(self._added):
            total = int(client.get(self._counters + 64 * which, 8, dtype="<u8", timeout=self.plan.timeout)[0])
            if len(set(values)) != len(values):
                self._wrong(f"counter {which}: two fetch_adds found the same value")
            if not len(values) <= total <= len(values) + self._doubtful_adds[which]:
                self._wrong(
                    f"counter {which} is {total} after {len(values)} successes "
                    f"and {self._doubtful_adds[which]} in doubt"
                )


def _difference(seen: np.ndarray, expected: np.ndarray) -> str:
    odd = np.flatnonzero(seen != expected)
    return f"{len(odd)} of {len(expected)} bytes are wrong, the first at {int(odd[0])}"
