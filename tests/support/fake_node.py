"""A node small enough to be obviously right, with the interface of `unimem_node.mpsoc.node.Node`.

One flat array is its window of the global address space, another its processes' private memory; there are
no page tables. Work for another node travels as FABRIC frames whose records are the work requests
themselves, with the bytes of a write as payload; the answer's records are the completions, with the bytes
of a read.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from types import SimpleNamespace
from typing import Any

import numpy as np

from unimem.wire import (
    COMPLETION,
    FRAME_HEADER,
    HEADER_BYTES,
    WORK_REQUEST,
    CompletionFlags,
    FrameKind,
    Op,
    Status,
    new_frame,
    padded,
    parse_frame,
)
from unimem_node.bus import Bus
from unimem_node.bus.interrupts import InterruptController
from unimem_node.clock import Scheduler
from unimem_node.kernel.processes import KernelFault
from unimem_node.memory import MemoryBank, PhysicalMemory
from unimem_node.mpsoc.names import ChipPart, StreamRange

WINDOW = 1 << 36
PRIVATE_BASE = 0x10000


class FakeChip:
    def __init__(self) -> None:
        self.platform = SimpleNamespace(name="fake")
        self.parts = (ChipPart("device", "a device", (155,), (StreamRange(0x210, 16, "device", "slot"),)),)
        self.streams = self.parts[0].streams
        self.memory = PhysicalMemory([MemoryBank("ddr", 0, 1 << 20)])
        self.bus = Bus(self.memory)
        self.interrupts = InterruptController()
        self.scheduler = Scheduler()

    def run(self) -> None:
        self.scheduler.run()


@dataclass
class FakeNode:
    name: str = "n0"
    index: int = 0
    incarnation: int = 1
    region_bytes: int = 16 << 20
    private_bytes: int = 64 << 20
    hold: bool = False  # keep posted work until `release`
    soc: Any = field(default_factory=FakeChip)
    wake: Any = None
    timer_ps: int | None = None
    timers: int = 0  # how often `on_timer` was called

    def __post_init__(self) -> None:
        self.base = (self.index + 1) * WINDOW
        self.region = np.zeros(self.region_bytes, np.uint8)
        self.private = np.zeros(self.private_bytes, np.uint8)
        self.domains: set[int] = set()
        self.staged: dict[int, int] = {}
        self.routes: Sequence[Any] = ()
        self.calls: list[tuple[Any, ...]] = []
        self.reports: list[Any] = []
        self.posted: list[np.ndarray] = []
        self._top = PRIVATE_BASE
        self._held: list[np.ndarray] = []
        self._away: dict[int, dict[int, np.ndarray]] = {}
        self._frames: list[tuple[int, np.ndarray]] = []
        self._done: list[np.ndarray] = []

    @property
    def bus(self) -> Bus:
        bus: Bus = self.soc.bus
        return bus

    @property
    def interrupts(self) -> InterruptController:
        interrupts: InterruptController = self.soc.interrupts
        return interrupts

    @property
    def now_ps(self) -> int:
        now: int = self.soc.scheduler.now_ps
        return now

    # The kernel ----------------------------------------------------------------------------------------

    def open_domain(self, pdid: int) -> int:
        self.domains.add(pdid)
        return pdid & 0xFF

    def close_domain(self, pdid: int) -> None:
        self.domains.remove(pdid)

    def map_region(self, pdid: int, gva: int, length: int, rights: int, owner: bool) -> None:
        if length > self.region_bytes:
            raise MemoryError(f"{length} bytes, {self.region_bytes} are free")
        self.calls.append(("map_region", pdid, gva, length, rights, owner))

    def unmap_region(self, gva: int, pdid: int = 0) -> None:
        self.calls.append(("unmap_region", gva, pdid))

    def map_memory(self, pdid: int, length: int, va: int = 0, rights: int = 3) -> int:
        self.calls.append(("map_memory", pdid, length, va, rights))
        return va or 0x1000

    def unmap_memory(self, pdid: int, va: int, length: int) -> None:
        self.calls.append(("unmap_memory", pdid, va, length))

    def protect_memory(self, pdid: int, va: int, length: int, rights: int) -> None:
        self.calls.append(("protect_memory", pdid, va, length, rights))

    def read_memory(self, pdid: int, va: int, n: int) -> bytes:
        if va >= self.base + self.region_bytes:
            raise KernelFault(pdid, va, "unmapped", "read")
        return self.at(va, n).tobytes()

    def write_memory(self, pdid: int, va: int, data: bytes) -> None:
        self.at(va, len(data))[:] = np.frombuffer(data, np.uint8)

    def advise(self, pdid: int, va: int, length: int, advice: str) -> int:
        self.calls.append(("advise", pdid, va, length, advice))
        if not advice:
            raise ValueError("advice '' is unknown")
        return length // 4096

    def stage(self, pdid: int, n: int) -> tuple[int, np.ndarray]:
        assert pdid in self.domains
        if not self.staged:
            self._top = PRIVATE_BASE
        va = self._top
        self._top += padded(n)
        if self._top - PRIVATE_BASE > self.private_bytes:
            raise MemoryError(f"no {n} bytes for staging")
        self.staged[va] = n
        return va, self.at(va, n)

    def unstage(self, pdid: int, va: int) -> None:
        del self.staged[va]

    def at(self, va: int, n: int) -> np.ndarray:
        memory, offset = (self.region, va - self.base) if va >= WINDOW else (self.private, va - PRIVATE_BASE)
        assert 0 <= offset <= len(memory) - n, f"node {self.index} has no {n} bytes at {va:#x}"
        return memory[offset : offset + n]

    # The network interface -----------------------------------------------------------------------------

    def set_routes(self, rows: Sequence[Any]) -> None:
        self.routes = rows

    def post(self, wrs: np.ndarray) -> None:
        self.posted.append(wrs.copy())
        if self.hold:
            self._held.append(wrs.copy())
        else:
            self._execute(wrs)

    def cancel(self, wr_id: int) -> bool:
        for wrs in self._held:
            for wr in wrs[wrs["wr_id"] == wr_id]:
                self._complete(wr, Status.CANCELLED)
        before = sum(map(len, self._held))
        self._held = [wrs[wrs["wr_id"] != wr_id] for wrs in self._held]
        return sum(map(len, self._held)) < before

    def release(self) -> None:
        held, self._held = self._held, []
        for wrs in held:
            self._execute(wrs)

    def _execute(self, wrs: np.ndarray) -> None:
        for wr in wrs:
            op = int(wr["op"])
            if op not in set(Op):
                self._complete(wr, Status.MALFORMED)
                continue
            target = (int(wr["src"]) if op == Op.READ else int(wr["dst"])) // WINDOW - 1
            if target == self.index:
                row, data = self._serve(
                    wr, self.at(int(wr["src"]), int(wr["length"])) if op == Op.WRITE else None
                )
                self._land(wr, data)
                self._done.append(row)
                continue
            self._away.setdefault(target, {})[int(wr["wr_id"])] = wr.copy()
            payload = self.at(int(wr["src"]), int(wr["length"])) if op == Op.WRITE else b""
            frame = new_frame(FrameKind.FABRIC, np.array([wr]), len(payload), src_node=self.index)
            frame[HEADER_BYTES + WORK_REQUEST.itemsize :] = payload if len(payload) else 0
            self._frames.append((target, frame))

    def _serve(self, wr: np.ndarray, data: np.ndarray | None) -> tuple[np.ndarray, np.ndarray | None]:
        row = np.zeros(1, COMPLETION)
        op, length = int(wr["op"]), int(wr["length"])
        for name in ("wr_id", "op", "pdid"):
            row[name] = wr[name]
        row["bytes"], row["node"] = length, self.index
        row["done_ps"] = row["parts_ps"][0][0] = 1_234_567
        if op == Op.WRITE:
            assert data is not None
            self.at(int(wr["dst"]), length)[:] = data
            return row, None
        if op == Op.READ:
            return row, self.at(int(wr["src"]), length).copy()
        word = self.at(int(wr["dst"]), 8).view(np.uint64)
        row["value"] = word[0]
        if op == Op.FETCH_ADD:
            word[0] += wr["operand"]
        elif op == Op.SWAP or word[0] == wr["compare"]:
            word[0] = wr["operand"]
        return row, None

    def _land(self, wr: np.ndarray, data: np.ndarray | None) -> None:
        if data is not None:
            self.at(int(wr["dst"]), len(data))[:] = data

    def on_frame(self, peer_index: int, frame: np.ndarray) -> None:
        assert not frame.flags.writeable
        size = int(frame[:HEADER_BYTES].view(FRAME_HEADER)[0]["record_bytes"])
        _, records, end = parse_frame(
            frame, FrameKind.FABRIC, COMPLETION if size == COMPLETION.itemsize else WORK_REQUEST
        )
        if size == COMPLETION.itemsize:
            wr = self._away[peer_index].pop(int(records["wr_id"][0]))
            self._land(wr, frame[end:] if wr["op"] == Op.READ else None)
            self._done.append(records.copy())
            return
        row, data = self._serve(records[0], frame[end:])
        answer = new_frame(FrameKind.FABRIC, row, 0 if data is None else len(data), src_node=self.index)
        if data is not None:
            answer[HEADER_BYTES + COMPLETION.itemsize :] = data
        self._frames.append((peer_index, answer))

    def _complete(self, wr: np.ndarray, status: Status, definite: bool = True) -> None:
        row = np.zeros(1, COMPLETION)
        row["wr_id"], row["status"], row["op"] = wr["wr_id"], status, wr["op"]
        row["flags"] = CompletionFlags.DEFINITE if definite else 0
        self._done.append(row)

    def peer_lost(self, peer_index: int, reason: str) -> None:
        self.calls.append(("peer_lost", peer_index))
        for wr in self._away.pop(peer_index, {}).values():
            self._complete(wr, Status.PEER_LOST, definite=False)

    def peer_unreachable(self, peer_index: int, reason: str) -> None:
        self.calls.append(("peer_unreachable", peer_index))
        for wr in self._away.pop(peer_index, {}).values():
            self._complete(wr, Status.PEER_UNREACHABLE)

    def on_timer(self) -> None:
        self.timers += 1
        self.timer_ps = None

    def pump(self, frames: int = 0) -> bool:
        pass

    def take_frames(self) -> list[tuple[int, np.ndarray]]:
        frames, self._frames = self._frames, []
        return frames

    def take_completions(self) -> np.ndarray:
        done, self._done = self._done, []
        return np.concatenate(done) if done else np.empty(0, COMPLETION)

    # What is observed ----------------------------------------------------------------------------------

    def counters(self) -> dict[str, int]:
        return {"walks": 7}

    def faults(self) -> list[Any]:
        return self.reports

    def resident_bytes(self) -> int:
        return 4096
