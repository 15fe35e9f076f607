"""How long an engine's transfers take: its data path, what may be outstanding, and the TBU it shares.

The time of a batch of bytes is the sum of

* the data path: the slowest of its width (a beat a clock), its transactions in flight (``outstanding`` bursts
  a direction, each in flight for the memory's latency; a TBU has 128 reads and 128 writes, shared evenly by
  the engines active on it), the rate control (a fixed distance of transactions), and DRAM;
* the translations that hit, one after another;
* the walks. A TBU has ``walk_slots``; an engine overlaps as many walks as it has transactions outstanding.
  They are served first come, first served: a walk that finds all slots taken waits for the first free one.

Where engines want more than a port of the DDR controller has, or than the controller itself, the batch takes
as long as its share says (`memory.dram_ports`).
"""

from __future__ import annotations

from unimem_node.dma.spec import DataPath
from unimem_node.memory import DramPorts, DramSpec
from unimem_node.smmu import SmmuSpec


class TbuLoad:
    """One TBU: who is active, and until when each slot for walks is taken.

    `number` is None for a master that does not pass the SMMU; `dram` is what all TBUs drain into.
    """

    __slots__ = ("_alone", "_free_at", "_idle_from", "_slots", "active", "dram", "number", "outstanding")

    def __init__(self, walk_slots: int, outstanding: int, dram: DramPorts, number: int | None = None) -> None:
        self.dram, self.number = dram, number
        self._slots = walk_slots
        self._free_at = [0] * walk_slots
        self._idle_from = 0  # from then on no slot is taken
        self._alone = 0  # slots taken until then by one reservation; 0: see `_free_at`
        self.outstanding = outstanding
        self.active = 0

    def share(self) -> int:
        """Transactions of one direction that each active engine may have outstanding."""
        return max(1, self.outstanding // max(1, self.active))

    def walk(self, now_ps: int, work_ps: int, parallel: int) -> int:
        """Reserve `work_ps` of walks, `parallel` at once; returns how long it takes until all are done."""
        slots = self._slots
        parallel = parallel if parallel < slots else slots
        each = -(-work_ps // parallel)
        if self._idle_from <= now_ps:  # the common case: nobody walks
            self._idle_from = now_ps + each
            self._alone = parallel
            return each
        free = self._free_at
        if self._alone:  # spell out what the common case left
            free[:] = [self._idle_from] * self._alone + [0] * (slots - self._alone)
            self._alone = 0
        free.sort()
        for i in range(parallel):
            free[i] = max(now_ps, free[i]) + each
        self._idle_from = max(self._idle_from, free[parallel - 1])
        return free[parallel - 1] - now_ps


class Loads:
    """The TBUs of one SMMU, and the DRAM behind; engines that share a `Loads` get in each other's way."""

    def __init__(self, spec: SmmuSpec, dram: DramPorts | None = None) -> None:
        timing = spec.timing
        self._dram = dram or DramPorts(DramSpec(timing.memory_ps_per_kib))
        self._tbus = [TbuLoad(timing.walk_slots, timing.outstanding, self._dram, n) for n in range(spec.tbus)]

    def of(self, stream_id: int | None) -> TbuLoad:
        """The TBU of a stream; a master that does not pass the SMMU has one for itself."""
        return TbuLoad(1, 128, self._dram) if stream_id is None else self._tbus[stream_id >> 10]


class Pace:
    """The speed of one engine, as its registers have it now; out of reset as its data path says."""

    __slots__ = ("_last", "_last_ps", "_limits", "path", "reads")

    def __init__(self, path: DataPath) -> None:
        self.path = path
        self._limits = (0, 0, 0, 0)
        self.configure(path.outstanding, path.outstanding, path.burst_beats * path.width_bytes)

    def configure(self, reads: int, writes: int, burst_bytes: int, rate_cycles: int = 0) -> None:
        """Transactions outstanding in each direction, bytes of each, cycles from one to the next (0: any)."""
        limits = (reads, writes, burst_bytes, rate_cycles)
        if limits != self._limits:
            self._limits = limits
            self.reads = reads
            self._last = (-1, -1, -1)
            self._last_ps = 0

    def data_ps(self, n: int, latency_ps: int, share: int) -> int:
        """Time of `n` bytes from memory to memory. The last answer is kept: transfers are cut alike."""
        asked = (n, latency_ps, share)
        if asked != self._last:
            self._last = asked
            reads, writes, burst_bytes, rate_cycles = self._limits
            bursts = -(-n // burst_bytes)
            cycles = max(-(-n // self.path.width_bytes), bursts * rate_cycles)
            in_flight = min(reads, writes, share)
            self._last_ps = max(self.path.cycles_ps(cycles), -(-bursts * latency_ps // in_flight))
        return self._last_ps
