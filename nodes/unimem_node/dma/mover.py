"""The part all engines share: bytes moved at scheduler events, and what becomes of a refused access.

An engine describes its transfer in the row of `state.py` and starts the mover. After the set-up time the
mover lets `_fast_step.step` go on for up to `CHUNK_BYTES`, waits for as long as those bytes take (`pace.py`),
and goes on; when `step` needs the engine, the engine is told at that simulated time. So the data is in memory
before the engine shows a status, and a change of the SMMU's configuration or of a page table takes effect
between chunks, never inside one.

A refused access is reported to the SMMU at the simulated time at which it is made. Then

* the SMMU stalls it (CFCFG = 1): the transaction is held. RESUME lets it retry, and the transfer goes on
  exactly there, or terminates it;
* the bank is blocked by another stalled transaction (HUPCF = 0): this one waits and is then retried;
* the SMMU aborts (CFRE, GFRE = 1), or no memory is there: the engine gets a `Refusal`; the bytes before it
  are in memory, those after it are not;
* the SMMU does not abort: RAZ/WI. Data reads as zero and writes are dropped up to the next 4 KiB border
  (which no AXI burst crosses), and the transfer goes on. A descriptor reads as zeros: one without a length.
"""

from __future__ import annotations

import struct
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, Final, Literal, Protocol

import numpy as np

from unimem.addresses import fmt
from unimem_node.clock import Event, Scheduler
from unimem_node.dma import state as x
from unimem_node.dma._fast import NO_MEMORY, NO_ROUTE
from unimem_node.dma._fast_step import step as compiled_step
from unimem_node.dma.pace import Pace, TbuLoad
from unimem_node.dma.port import SmmuPort, Way
from unimem_node.dma.snoop import Snoop
from unimem_node.dma.spec import Patience
from unimem_node.mmu.regime import ACCESS_READ, ACCESS_WRITE
from unimem_node.smmu import Fault, Hold
from unimem_node.smmu.arrays import BLOCKED, T_DESCRIPTOR_READ, T_MEMORY_LATENCY

#: Bytes moved by one event: long enough that an event costs nothing beside them.
CHUNK_BYTES: Final = 1 << 20
#: No AXI burst crosses this border, so a refused one never reaches beyond it.
BURST_BORDER: Final = 4096

_WRITES: Final = frozenset({x.OP_WRITE, x.OP_UPDATE})
_NO_BYTES: Final = np.zeros(16, np.uint8)
_NO_FIFO: Final = np.zeros(x.FIFO_COLS, np.int64)
_ROW: Final = struct.Struct(f"{x.STATE_COLS}q")
_ENDS: Final = frozenset({x.STOP_DONE, x.STOP_PAUSED})


@dataclass(frozen=True, slots=True)
class Refusal:
    """The access that ended a transfer: a bus response, and the SMMU's fault when it was the SMMU's."""

    op: int  # OP_*
    address: int
    response: Literal["SLVERR", "DECERR"]
    fault: Fault | None

    def describe(self) -> str:
        """The refusal in one line of words."""
        why = self.fault.describe() if self.fault else "no memory there"
        words = ("read", "write", "descriptor read", "descriptor read", "status write")[self.op]
        return f"{words} at {fmt(self.address)}: {self.response}, {why}"


class Engine(Protocol):
    """Who owns a mover."""

    def stopped(self, mover: Mover, stop: int) -> None:
        """`step` returned STOP_* at this time; `Mover.go_on` if it shall continue."""

    def refused(self, mover: Mover, refusal: Refusal) -> None:
        """An access got a bus error."""


class Mover:
    """Runs one state row through a port; `bytes_` and `fifo` as `step` wants them.

    `snoop`: accesses of coherent masters ask the CPU's cache, and `step` runs as Python.
    `tell_all`: the engine is told of each chunk too (STOP_BUDGET), as a stream's other end waits for it.
    """

    __slots__ = (
        "_buffer",
        "_bytes",
        "_descriptors",
        "_dram",
        "_dram_end",
        "_engine",
        "_event",
        "_fifo",
        "_first_ps",
        "_hold",
        "_latency_ps",
        "_load",
        "_patience",
        "_port",
        "_read_ps",
        "_refusal",
        "_scheduler",
        "_setup_ps",
        "_sides",
        "_step",
        "_stop",
        "_tell_all",
        "_way",
        "attended",
        "bytes_",
        "moved",
        "pace",
        "st",
    )

    def __init__(
        self,
        engine: Engine,
        port: SmmuPort,
        scheduler: Scheduler,
        load: TbuLoad,
        pace: Pace,
        patience: Patience,
        *,
        fast: bool = True,
        snoop: Snoop | None = None,
        tell_all: bool = False,
        bytes_: Any = _NO_BYTES,
        fifo: Any = _NO_FIFO,
    ) -> None:
        self._engine = engine
        self._port = port
        self._scheduler = scheduler
        self._load = load
        self._dram = load.dram.stream(load.number, self._ends_at)
        self._dram_end = load.dram.size
        self._patience = patience
        self._tell_all = tell_all
        self.pace = pace
        self.st: Any = np.zeros(x.STATE_COLS, np.int64)
        self._buffer = memoryview(self.st.data).cast("B")
        self.bytes_, self._fifo = bytes_, fifo
        self._step: Any = compiled_step if fast else getattr(compiled_step, "py_func", compiled_step)
        if snoop is not None:
            self._step = snoop.step(compiled_step)
        self._latency_ps = int(port.arrays.timing[T_MEMORY_LATENCY])
        self._read_ps = int(port.arrays.timing[T_DESCRIPTOR_READ])
        self._event: Event | None = None
        self._hold: Hold | None = None
        self._way: Way = port.way()
        self._refusal: Refusal | None = None  # of the access that is held; None: it only waits
        self._stop = x.STOP_BUDGET
        self._bytes = self._descriptors = 0  # since software last looked
        self.attended = False  # software has looked at the engine: its patience begins anew
        self._setup_ps = self._first_ps = pace.path.setup_ps
        self._sides = 2
        self.moved = 0

    @property
    def busy(self) -> bool:
        """True from the start to the end, also while an access is held by the SMMU."""
        return self._event is not None or self._hold is not None

    def load(self, head: x.Head, source: x.Side, destination: x.Side) -> None:
        """Set the whole state row (see `state.head` and `state.side`)."""
        _ROW.pack_into(self._buffer, 0, *head, *source, *destination)
        self._sides = (source[x.D_KIND] == x.KIND_MEMORY) + (destination[x.D_KIND] == x.KIND_MEMORY)
        self._first_ps = self._setup_ps
        if head[x.X_LIST]:  # the first descriptor is waited for; later ones are fetched ahead
            self._first_ps += self._latency_ps

    def start(self) -> None:
        """Begin with what the state row says, after the set-up time."""
        assert not self.busy, "an engine has one transfer at a time"
        self._load.active += 1
        scheduler = self._scheduler
        self._event = scheduler.at(scheduler.now_ps + self._first_ps, self._advance)

    def go_on(self) -> None:
        """Continue where `step` stopped, at this time."""
        self._load.active += 1
        self._event = self._scheduler.after(0, self._advance)

    def cancel(self) -> None:
        """Stop; bytes moved so far stay where they are, an access that is held is dropped."""
        if self._event is not None:
            self._event.cancel()
            self._idle()
        if self._hold is not None:
            self._hold.cancel()
            self._hold = None

    def take_moved(self) -> int:
        """Bytes moved since this was asked last."""
        moved, self.moved = self.moved, 0
        return moved

    def take(self, column: int) -> int:
        """Read a counter of the state row and clear it."""
        value = int(self.st[column])
        if value:
            self.st[column] = 0
        return value

    def address(self, side: int) -> int:
        """Address that a side has reached."""
        st = self.st
        return int(st[side + x.D_BASE]) + (0 if st[side + x.D_FIXED] else int(st[side + x.D_POS]))

    def log(self, record: Callable[..., None] | None, kind: str, ran: int, reason: str | None) -> None:
        """Note how a transfer of `ran` bytes ended, and between which addresses, if that is recorded."""
        if record is not None:
            record(
                time_ps=self._scheduler.now_ps,
                kind=kind,
                source=int(self.st[x.SRC + x.D_BASE]),
                destination=int(self.st[x.DST + x.D_BASE]),
                bytes=ran,
                reason=reason,
            )

    def _advance(self) -> None:
        """Move the next chunk, then wait for as long as it takes."""
        if self.attended:
            self.attended = False
            self._bytes = self._descriptors = 0
        elif self._bytes > self._patience.bytes or self._descriptors > self._patience.descriptors:
            self.attended = True
            self._idle()
            self._engine.stopped(self, x.STOP_RUNAWAY)
            return
        way = self._way = self._port.way()
        stop, moved, fetched, cost, reads, walks, dram_read, dram_written = self._step(
            self._port.arrays,
            self.st,
            self.bytes_,
            self._fifo,
            way.lane,
            way.cb if way.open else x.REFUSED,
            way.read,
            way.write,
            CHUNK_BYTES,
            self._dram_end,
        )
        load, pace = self._load, self.pace
        spent, moved = int(cost), int(moved)
        share = load.outstanding if load.active <= 1 else load.share()
        dram, read, written = self._dram, int(dram_read), int(dram_written)
        if moved:
            spent += max(pace.data_ps(moved, self._latency_ps, share), dram.alone_ps(read, written))
            self._bytes += moved
            self.moved += moved
        if fetched:  # one beat each on the read side; their latency is hidden behind the data
            spent += pace.path.cycles_ps(int(fetched))
            self._descriptors += int(fetched)
        if reads:
            work = int(reads) * self._read_ps
            spent += load.walk(self._scheduler.now_ps, work, min(pace.reads, share, int(walks))) - work
        if stop in _ENDS:
            spent += self._sides * self._latency_ps
        self._stop = int(stop)
        scheduler = self._scheduler
        self._event = scheduler.at(dram.serve(scheduler.now_ps, spent, read, written), self._settle)

    def _ends_at(self, time_ps: int) -> None:
        """The chunk under way is done at another time: DRAM is shared among more, or fewer, than before."""
        assert self._event is not None
        self._event.cancel()
        self._event = self._scheduler.at(time_ps, self._settle)

    def _settle(self) -> None:
        """The time of the chunk has passed: tell the engine, or go on."""
        self._port.moved()
        stop = self._stop
        if stop == x.STOP_BUDGET and not self._tell_all:
            self._advance()
        elif stop == x.STOP_REFUSED:
            self._idle()
            self._refused()
        else:
            self._idle()
            self._engine.stopped(self, stop)

    def _idle(self) -> None:
        self._event = None
        self._load.active -= 1
        self._dram.end(self._scheduler.now_ps)

    # ---- refused accesses

    def _refused(self) -> None:
        """Have a refused access recorded, and find out what becomes of it."""
        st = self.st
        op, va, code, info = (int(st[column]) for column in (x.X_OP, x.X_VA, x.X_CODE, x.X_INFO))
        if code == BLOCKED:
            self._refusal = None
            self._hold = self._port.wait(self._way, self._resumed)
            return
        access = ACCESS_WRITE if op in _WRITES else ACCESS_READ
        if code == NO_MEMORY:
            fault = self._port.no_memory(va, access, info, self._way)
            self._refusal = Refusal(op, va, "DECERR", fault)
        else:
            fault = self._port.refused(va, access, 0 if code == NO_ROUTE else code, info, self._way)
            self._refusal = Refusal(op, va, "SLVERR", fault)
        if fault is not None and fault.stalls:
            self._hold = self._port.hold(fault, self._resumed)
        else:
            self._terminated()

    def _resumed(self, retry: bool) -> None:
        """The SMMU lets go of an access that it held: again from there, or as if it had not stalled."""
        self._hold = None
        if retry or self._refusal is None:
            self._load.active += 1
            self._advance()
        else:
            self._terminated()

    def _terminated(self) -> None:
        """The access is terminated: a bus error, or zeros for reads and nothing for writes."""
        refusal, st = self._refusal, self.st
        assert refusal is not None
        if refusal.fault is None or refusal.response == "DECERR" or refusal.fault.aborts:
            self._engine.refused(self, refusal)
            return
        op = refusal.op
        if op == x.OP_UPDATE:
            st[x.X_UPDATING] = 2
        elif op in (x.OP_READ, x.OP_WRITE):
            side = x.SRC if op == x.OP_READ else x.DST
            left = int(st[side + x.D_SIZE] - st[side + x.D_POS])
            st[side + x.D_SKIP] = min(BURST_BORDER - refusal.address % BURST_BORDER, left)
        else:  # a descriptor of zeros
            st[x.X_CODE] = x.BAD_LENGTH
            self._engine.stopped(self, x.STOP_BAD)
            return
        self._load.active += 1
        self._advance()
