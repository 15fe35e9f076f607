"""TLB maintenance registers: which write removes what, and when (SMMUv2, "TLB maintenance operations").

Operations take simulated time: entries leave when their operation completes, one operation after another; a
sync ends some time after the last of them, and its status register says so. Reading a status register costs
the CPU that polls its time, so that a loop of polls ends by itself.

Operations of a context bank reach every bank with the same VMID, since that and the ASID are what a TLB entry
carries by the specification; those of a hypervisor's or monitor's bank reach what is the hypervisor's or the
monitor's. The last-level forms leave the walk cache. TLBIALL of a stage-2 bank removes both stages of its
VMID, that of a stage-1 bank stage 1 only. Operations by VA or ASID of a stage-2 bank, and those by IPA of a
stage-1 bank, have nothing to remove. STLBIALL removes secure entries: no stream is secure, so there are none.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Callable
from typing import Final, NamedTuple

from unimem_node.bus.registers import RegisterFile
from unimem_node.clock import Scheduler
from unimem_node.clock.scheduler import Event
from unimem_node.smmu.banks import TYPE_STAGE_2, Banks
from unimem_node.smmu.registers import CR0_VMID16EN
from unimem_node.smmu.spec import SmmuTiming
from unimem_node.smmu.tlb import Tlb, World

_ASID_SHIFT: Final = 48
_VA_PAGES: Final = (1 << 44) - 1  # VA[55:12] in bits 43:0
_IPA_PAGES: Final = (1 << 36) - 1  # IPA[47:12] in bits 35:0

#: Removes entries; returns how many.
Operation = Callable[[], int]


class _Pending(NamedTuple):
    due_ps: int
    operation: Operation
    event: Event


class _Sync(NamedTuple):
    due_ps: int
    event: Event


class Maintenance:
    """Runs TLB operations written to the registers; `operations` counts them."""

    def __init__(
        self,
        registers: RegisterFile,
        tlb: Tlb,
        banks: Banks,
        scheduler: Scheduler,
        timing: SmmuTiming,
        changed: Callable[[], None],
    ) -> None:
        self._registers = registers
        self._tlb = tlb
        self._banks = banks
        self._scheduler = scheduler
        self._timing = timing
        self._changed = changed
        self._pending: deque[_Pending] = deque()
        self._free_ps = 0  # when the last operation completes
        self._syncs: dict[tuple[str, int], _Sync] = {}  # by status register
        self.operations = 0
        self._attach_global()
        self._attach_banks()

    def reset(self) -> None:
        """Forget what is under way."""
        for pending in self._pending:
            pending.event.cancel()
        self._pending.clear()
        for sync in self._syncs.values():
            sync.event.cancel()
        self._syncs.clear()
        self._free_ps = 0

    def settle(self) -> None:
        """Do what is due."""
        done = False
        while self._pending and self._pending[0].due_ps <= self._scheduler.now_ps:
            pending = self._pending.popleft()
            pending.event.cancel()
            pending.operation()
            done = True
        if done:
            self._changed()

    # ---- registers

    def _attach_global(self) -> None:
        tlb = self._tlb
        self._command("STLBIALL", lambda bank, value: lambda: 0)
        self._command("TLBIVMID", lambda bank, value: self._of_vmid(value, stage1_only=False))
        self._command("TLBIVMIDS1", lambda bank, value: self._of_vmid(value, stage1_only=True))
        for name, world in (
            ("TLBIALLNSNH", World.NON_HYP),
            ("TLBIALLH", World.HYP),
            ("STLBIALLM", World.MONITOR),
        ):
            self._command(name, lambda bank, value, world=world: lambda: tlb.invalidate_world(world))
        self._command(
            "TLBIVAH", lambda bank, value: self._of_world(World.HYP, value & 0xFFFF_F000, leaf=False)
        )
        for name, world, leaf in (
            ("TLBIVAH64", World.HYP, False),
            ("TLBIVALH64", World.HYP, True),
            ("STLBIVAM", World.MONITOR, False),
            ("STLBIVALM", World.MONITOR, True),
        ):
            self._command(
                name,
                lambda bank, value, world=world, leaf=leaf: self._of_world(world, _va(value), leaf=leaf),
            )
        self._registers.on_write("TLBGSYNC", lambda index, old, written: self._sync("TLBGSTATUS", 0))
        self._registers.on_read("TLBGSTATUS", lambda index: self._poll("TLBGSTATUS", 0))

    def _attach_banks(self) -> None:
        self._command("CB_TLBIALL", self._all_of_bank)
        self._command("CB_TLBIASID", self._of_asid)
        for name, asid, leaf in (
            ("TLBIVA", True, False),
            ("TLBIVAA", False, False),
            ("TLBIVAL", True, True),
            ("TLBIVAAL", False, True),
        ):
            self._command(
                f"CB_{name}", lambda bank, value, asid=asid, leaf=leaf: self._of_va(bank, value, asid, leaf)
            )
        for name, leaf in (("TLBIIPAS2", False), ("TLBIIPAS2L", True)):
            self._command(f"CB_{name}", lambda bank, value, leaf=leaf: self._of_ipa(bank, value, leaf))
        self._registers.on_write("CB_TLBSYNC", lambda bank, old, written: self._sync("CB_TLBSTATUS", bank))
        self._registers.on_read("CB_TLBSTATUS", lambda bank: self._poll("CB_TLBSTATUS", bank))

    def _command(self, name: str, operation_of: Callable[..., Operation]) -> None:
        """Queue the operation a written value stands for, as registers are now."""

        def written(index: int, old: int, value: int) -> None:
            self.operations += 1
            self._free_ps = max(self._free_ps, self._scheduler.now_ps) + self._timing.invalidate_ps
            event = self._scheduler.at(self._free_ps, self.settle)
            self._pending.append(_Pending(self._free_ps, operation_of(index, value), event))

        self._registers.on_write(name, written)

    def _sync(self, status: str, index: int) -> None:
        """Begin a sync: its status register reads 1 until all operations so far are done, and a little on."""
        self._end(status, index)
        due_ps = max(self._free_ps, self._scheduler.now_ps) + self._timing.sync_ps
        event = self._scheduler.at(due_ps, lambda: self._end(status, index))
        self._syncs[status, index] = _Sync(due_ps, event)
        self._registers.poke(status, 1, index)

    def _end(self, status: str, index: int) -> None:
        sync = self._syncs.pop((status, index), None)
        if sync is not None:
            sync.event.cancel()
        self._registers.poke(status, 0, index)

    def _poll(self, status: str, index: int) -> None:
        self._scheduler.advance_to(self._scheduler.now_ps + self._timing.status_read_ps)
        self.settle()
        sync = self._syncs.get((status, index))
        if sync is not None and sync.due_ps <= self._scheduler.now_ps:
            self._end(status, index)

    # ---- operations

    def _of_vmid(self, value: int, *, stage1_only: bool) -> Operation:
        vmid = value & (0xFFFF if self._registers.peek("CR0") & CR0_VMID16EN else 0xFF)
        return lambda: self._tlb.invalidate_vmid(vmid, stage1_only=stage1_only)

    def _of_world(self, world: World, va: int, *, leaf: bool) -> Operation:
        return lambda: self._tlb.invalidate_va(0, None, va, leaf=leaf, world=world)

    def _all_of_bank(self, bank: int, value: int) -> Operation:
        vmid, world = self._banks.vmid(bank), self._banks.world(bank)
        if world != World.NON_HYP:
            return lambda: self._tlb.invalidate_world(world)
        stage1_only = self._banks.kind(bank) != TYPE_STAGE_2
        return lambda: self._tlb.invalidate_vmid(vmid, stage1_only=stage1_only)

    def _of_asid(self, bank: int, value: int) -> Operation:
        if self._banks.kind(bank) == TYPE_STAGE_2:
            return lambda: 0
        vmid, world = self._banks.vmid(bank), self._banks.world(bank)
        asid = value & self._banks.asid_mask(bank)
        return lambda: self._tlb.invalidate_asid(vmid, asid, world)

    def _of_va(self, bank: int, value: int, by_asid: bool, leaf: bool) -> Operation:
        if self._banks.kind(bank) == TYPE_STAGE_2:
            return lambda: 0
        vmid, world = self._banks.vmid(bank), self._banks.world(bank)
        by_asid = by_asid and world == World.NON_HYP
        asid = value >> _ASID_SHIFT & self._banks.asid_mask(bank) if by_asid else None
        return lambda: self._tlb.invalidate_va(vmid, asid, _va(value), leaf=leaf, world=world)

    def _of_ipa(self, bank: int, value: int, leaf: bool) -> Operation:
        if self._banks.kind(bank) != TYPE_STAGE_2:
            return lambda: 0
        vmid = self._banks.vmid(bank)
        return lambda: self._tlb.invalidate_ipa(vmid, (value & _IPA_PAGES) << 12, leaf=leaf)


def _va(value: int) -> int:
    return (value & _VA_PAGES) << 12
