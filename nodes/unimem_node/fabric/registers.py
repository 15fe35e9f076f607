"""Register block of the RDMA network interface, a device in the programmable logic.

Ours, not a vendor's: the published interface (EuroEXA's) has no public register map. It has what a driver
needs: PD slots, which bind a protection domain to an AXI ID and so to a stream; when each was last used, so
that the driver can evict; and the miss interrupt, raised for a domain without a slot.

The interface waits for nobody: after the interrupt handler has run (the CPU takes it at once in this
model) the domain has a slot, or the request is refused with the status in MISS_REASON.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Final

from unimem.wire import Status
from unimem_node.bus.interrupts import Line
from unimem_node.bus.registers import Field, Register, RegisterFile

from . import _fast_columns as col
from .core import Core, Verdict

IDENTITY: Final = 0x494E_4D55  # "UMNI"
SLOT_VALID: Final = 1 << 31

REGISTERS: Final = (
    Register("ID", 0x000, reset=IDENTITY, writable=0, doc="UMNI"),
    Register("VERSION", 0x004, reset=1, writable=0),
    Register(
        "CTRL",
        0x008,
        reset=3,
        writable=3,
        fields=(Field("MISS_IE", 1, 1, "raise the interrupt on a miss"), Field("ENABLE", 0, 0)),
        doc="while disabled, every request is refused with ACCESS_DENIED",
    ),
    Register("MISS_STATUS", 0x010, w1c=1, writable=1, fields=(Field("MISS", 0, 0),)),
    Register("MISS_PDID", 0x014, writable=0, doc="the domain that has no slot"),
    Register(
        "MISS_REASON",
        0x018,
        reset=Status.ACCESS_DENIED,
        writable=0xFFFF,
        doc="status of the refusal, should the domain have no slot when MISS is served; reset by each miss",
    ),
    Register("WINDOW_BASE", 0x020, size=8, doc="first global virtual address of this node"),
    Register("WINDOW_SIZE", 0x028, size=8),
    Register("SLOTS", 0x030, writable=0, doc="number of PD slots"),
    Register("BLOCK_BYTES", 0x034, writable=0, doc="unit of acknowledgement"),
    Register("CLOCK", 0x040, size=8, writable=0, doc="virtual time, ps"),
    Register(
        "FAULT_CTRL",
        0x050,
        writable=3,
        fields=(
            Field("HOLD", 1, 1, "stalled accesses wait for RESUME; else they are refused"),
            Field("RETRY", 0, 0, "a refused access of which software has said nothing is tried again"),
        ),
    ),
    Register(
        "FAULT_VERDICT",
        0x054,
        writable=3,
        fields=(Field("VERDICT", 1, 0, "1: the page will come; 2: it will not"),),
        doc="what software makes of the access that was just refused; reset by each",
    ),
    Register("RESOLVED_PDID", 0x058, writable=0xFFFF),
    Register("RESOLVED_VA", 0x060, size=8),
    Register("RESOLVED_LENGTH", 0x068, size=8),
    Register("RESOLVED", 0x070, writable=1, doc="write 1: what waits for these pages is tried again"),
    Register(
        "PD_SLOT",
        0x100,
        writable=SLOT_VALID | 0xFFFF,
        count=64,
        fields=(Field("VALID", 31, 31), Field("PDID", 15, 0)),
        doc="the protection domain that uses this AXI ID",
    ),
    Register(
        "PD_USED", 0x200, size=8, writable=0, count=64, stride=8, doc="virtual ps of the slot's last use"
    ),
)


class NiRegisters:
    """The block, wired to the interface's tables."""

    def __init__(self, core: Core, irq_line: Line) -> None:
        self._core, self._line = core, irq_line
        self.file = RegisterFile(core.spec.name, core.spec.size, REGISTERS)
        node = core.node
        self.file.poke("WINDOW_BASE", node[col.N_WINDOW_BASE])
        self.file.poke("WINDOW_SIZE", node[col.N_WINDOW_END] - node[col.N_WINDOW_BASE])
        self.file.poke("SLOTS", core.spec.slots)
        self.file.poke("BLOCK_BYTES", core.spec.block_bytes)
        self.file.on_write("CTRL", self._control)
        self.file.on_write("MISS_STATUS", lambda index, old, written: self._drive())
        self.file.on_write("WINDOW_BASE", self._window)
        self.file.on_write("WINDOW_SIZE", self._window)
        self.file.on_write("PD_SLOT", self._bind)
        self.file.on_read("PD_USED", self._used, refreshes=True)
        self.file.on_read("CLOCK", self._clock, refreshes=True)
        self.file.on_write("RESOLVED", self._doorbell)
        #: Called with (pdid, va, length) when software has rung RESOLVED.
        self.on_resolved: Callable[[int, int, int], object] = lambda pdid, va, length: None
        core.miss = self.miss
        core.verdict = self.verdict
        core.holds = lambda: bool(self.file.peek("FAULT_CTRL") & 2)

    def miss(self, domain: int) -> Status:
        """Ask the kernel for a slot for `domain`; returns what to refuse with if there is none afterwards."""
        self.file.poke("MISS_PDID", domain)
        self.file.poke("MISS_REASON", Status.ACCESS_DENIED)
        self.file.poke("MISS_STATUS", 1)
        self._drive()
        reason = self.file.peek("MISS_REASON")
        return Status(reason) if reason in _REASONS else Status.ACCESS_DENIED

    def verdict(self, refuse: Callable[[], None]) -> Verdict:
        """Have an access refused, interrupt and all, and return what software makes of it."""
        self.file.poke("FAULT_VERDICT", Verdict.NONE)
        refuse()
        found = self.file.peek("FAULT_VERDICT")
        if found == Verdict.NONE:
            return Verdict.PENDING if self.file.peek("FAULT_CTRL") & 1 else Verdict.REFUSE
        return Verdict.PENDING if found == Verdict.PENDING else Verdict.REFUSE

    def _doorbell(self, index: int, old: int, written: int) -> None:
        self.file.poke("RESOLVED", 0)
        if written & 1:
            limit = (1 << 63) - 1
            self.on_resolved(
                self.file.peek("RESOLVED_PDID"),
                min(self.file.peek("RESOLVED_VA"), limit),
                min(self.file.peek("RESOLVED_LENGTH"), limit),
            )

    def _drive(self) -> None:
        enabled = self.file.peek("CTRL") & 2
        self._line.set(bool(enabled and self.file.peek("MISS_STATUS")))

    def _control(self, index: int, old: int, written: int) -> None:
        self._core.node[col.N_ENABLED] = self.file.peek("CTRL") & 1
        self._drive()

    def _window(self, index: int, old: int, written: int) -> None:
        base, size = self.file.peek("WINDOW_BASE"), self.file.peek("WINDOW_SIZE")
        limit = (1 << 63) - 1
        self._core.node[col.N_WINDOW_BASE] = min(base, limit)
        self._core.node[col.N_WINDOW_END] = min(base + size, limit)

    def _bind(self, index: int, old: int, written: int) -> None:
        if index >= self._core.spec.slots:
            self.file.poke("PD_SLOT", 0, index)
            return
        value = self.file.peek("PD_SLOT", index)
        row = self._core.state.slots[index]
        row[col.S_PDID] = value & 0xFFFF if value & SLOT_VALID else 0
        row[col.S_ROUTE] = col.ROUTE_UNKNOWN
        row[col.S_USED] = self._core.node[col.N_CLOCK]

    def _clock(self, index: int) -> None:
        self._core.tick()
        self.file.poke("CLOCK", self._core.node[col.N_CLOCK])

    def _used(self, index: int) -> None:
        if index < self._core.spec.slots:
            self.file.poke("PD_USED", int(self._core.state.slots[index, col.S_USED]), index)


_REASONS = frozenset(int(status) for status in Status if status)
