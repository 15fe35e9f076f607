"""Driver for the RDMA network interface: which protection domains may use it now, and what of faults.

The interface has a few PD slots; each presents a stream of its own. A packet, or a work request, of a domain
without a slot raises the miss interrupt; the driver then leads a slot's stream to a context bank that walks
the domain's page tables. There are no more banks than slots, and other engines want some too: the slot that
was used least recently gives way, its TLB entries invalidated. A domain this node does not know stays out.

A bank in which an access is stalled never gives way: the access would end with it. If that is so of all of
them, a domain without one is told to come again, and called when an access goes on. What is queued in the
kernel for a domain needs no bank: its pages become present, and its requests load one when they come again.

What the SMMU refuses the interface may keep for later: after the fault's interrupt handler has run it reads
its verdict, and when pages are present, it is told so (docs/protocol.md).
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Final

from unimem.wire import Status
from unimem_node.bus import Bus
from unimem_node.kernel.board import NiNode
from unimem_node.kernel.context_bank import NoContextBank, NoStreamMatch, SmmuError
from unimem_node.kernel.processes import Process
from unimem_node.kernel.smmu_driver import SmmuDriver

_CTRL: Final = 0x008
_CTRL_ENABLE: Final = 1 << 0
_CTRL_MISS_IE: Final = 1 << 1
_MISS_STATUS: Final = 0x010  # write one to clear
_MISS_PDID: Final = 0x014
_MISS_REASON: Final = 0x018
_WINDOW_BASE: Final = 0x020  # 64 bits
_WINDOW_SIZE: Final = 0x028  # 64 bits
_FAULT_CTRL: Final = 0x050
_FAULT_CTRL_RETRY: Final = 1 << 0  # refused accesses come again, unless the verdict says otherwise
_FAULT_CTRL_HOLD: Final = 1 << 1  # stalled accesses are held
_FAULT_VERDICT: Final = 0x054
_VERDICT_PENDING: Final = 1
_VERDICT_REFUSE: Final = 2
_RESOLVED_PDID: Final = 0x058
_RESOLVED_VA: Final = 0x060  # 64 bits
_RESOLVED_LENGTH: Final = 0x068  # 64 bits
_RESOLVED: Final = 0x070
_PD_SLOT: Final = 0x100  # + 4 s
_PD_VALID: Final = 1 << 31
_PD_USED: Final = 0x200  # + 8 s, 64 bits: when it was last used

#: All addresses of a process.
EVERYWHERE: Final = range(1 << 48)


class RdmaDriver:
    """Drives the network interface at `node`. `find` tells the process of a protection domain."""

    def __init__(
        self, bus: Bus, node: NiNode, smmu: SmmuDriver, find: Callable[[int], Process | None]
    ) -> None:
        self.node = node
        self.attached = 0
        self.evicted = 0
        self._bus = bus
        self._smmu = smmu
        self._find = find
        self._slots: list[Process | None] = [None] * node.slots
        self._retries = False
        self._waiting: dict[int, None] = {}  # domains that wait for a bank, by PDID, oldest first
        base, size = bus.read64(node.base + _WINDOW_BASE), bus.read64(node.base + _WINDOW_SIZE)
        self.window = range(base, base + size)

    def reset(self) -> None:
        """Empty every slot and take misses from now on."""
        for slot in range(self.node.slots):
            self._bus.write32(self.node.base + _PD_SLOT + 4 * slot, 0)
        self._bus.write32(self.node.base + _MISS_STATUS, 1)
        self._bus.write32(self.node.base + _CTRL, _CTRL_ENABLE | _CTRL_MISS_IE)

    def interrupt(self) -> None:
        """Serve a miss: attach the domain, or say why not; the interface then goes on."""
        base = self.node.base
        process = self._find(self._bus.read32(base + _MISS_PDID))
        if process is not None:
            try:
                self.attach(process)
            except (NoContextBank, NoStreamMatch):
                reason = Status.NO_CONTEXT_BANK
                if self._retries and any(other and self._smmu.stalled(other.asid) for other in self._slots):
                    reason = Status.PAGE_PENDING  # a bank will come free
                    self._waiting[process.pdid] = None
                self._bus.write32(base + _MISS_REASON, reason)
            except SmmuError:  # software routed our stream elsewhere
                self._bus.write32(base + _MISS_REASON, Status.STREAM_FAULT)
        self._bus.write32(base + _MISS_STATUS, 1)

    def attach(self, process: Process) -> int:
        """Give a domain a slot and a context bank, taking them from others if need be; returns the slot.

        Raises `NoContextBank` when other engines hold all banks, `StreamConflict` when somebody else has
        routed the slot's stream.
        """
        if process in self._slots:
            return self._slots.index(process)
        slot = self._slots.index(None) if None in self._slots else self._evict(lambda _: True)
        if slot < 0:
            raise NoContextBank(f"process {process.pdid}: an access is stalled in the bank of every PD slot")
        while True:
            try:
                self._smmu.attach(self.node.stream_base + slot, 0, process)
                break
            except NoContextBank:
                # A bank that another engine's stream uses too would not come free.
                if self._evict(lambda other: self._smmu.streams_of(other.asid) == 1) < 0:
                    raise
            except NoStreamMatch:
                if self._evict(lambda _: True) < 0:
                    raise
        self._slots[slot] = process
        self._bus.write32(self.node.base + _PD_SLOT + 4 * slot, _PD_VALID | process.pdid)
        self.attached += 1
        return slot

    def detach(self, process: Process) -> None:
        """Take a domain's slot away: the slot first, so that no request is under way through it."""
        if process not in self._slots:
            return
        slot = self._slots.index(process)
        self._bus.write32(self.node.base + _PD_SLOT + 4 * slot, 0)
        self._slots[slot] = None
        self._smmu.detach(self.node.stream_base + slot)

    def slot_of(self, process: Process) -> int | None:
        """Return the slot a domain has now, or None."""
        return self._slots.index(process) if process in self._slots else None

    # ---- faults

    def set_faults(self, *, retry: bool, hold: bool) -> None:
        """Let refused accesses come again (`retry`), and the interface keep stalled ones (`hold`)."""
        self._retries = retry
        control = (_FAULT_CTRL_RETRY if retry else 0) | (_FAULT_CTRL_HOLD if hold else 0)
        self._bus.write32(self.node.base + _FAULT_CTRL, control)

    def owns(self, stream_id: int) -> bool:
        """Whether a stream is one of the interface's."""
        return 0 <= stream_id - self.node.stream_base < self.node.slots

    def pending(self) -> None:
        """The access that was just refused may come again; called from its interrupt handler."""
        self._bus.write32(self.node.base + _FAULT_VERDICT, _VERDICT_PENDING)

    def refuse(self) -> None:
        """The access that was just refused is not to come again."""
        self._bus.write32(self.node.base + _FAULT_VERDICT, _VERDICT_REFUSE)

    def resolved(self, pdid: int, pages: range) -> None:
        """Accesses of a domain to `pages` may come again; so may domains that wait for a bank."""
        self._call(pdid, pages)
        waiting, self._waiting = self._waiting, {}
        for other in waiting:
            self._call(other, EVERYWHERE)

    def _call(self, pdid: int, pages: range) -> None:
        base = self.node.base
        self._bus.write32(base + _RESOLVED_PDID, pdid)
        self._bus.write64(base + _RESOLVED_VA, pages.start)
        self._bus.write64(base + _RESOLVED_LENGTH, pages.stop - pages.start)
        self._bus.write32(base + _RESOLVED, 1)

    def _evict(self, may: Callable[[Process], bool]) -> int:
        """Detach the domain that was used least recently among those that `may` go; its slot, or -1."""
        taken = [
            (self._bus.read64(self.node.base + _PD_USED + 8 * slot), slot, process)
            for slot, process in enumerate(self._slots)
            if process is not None and may(process) and not self._smmu.stalled(process.asid)
        ]
        if not taken:
            return -1
        _, slot, process = min(taken, key=lambda candidate: candidate[:2])
        self.detach(process)
        self.evicted += 1
        return slot
