"""The MMU-500 as a device: its register space, its TLBs, its faults and its interrupt.

Models Arm's SMMUv2 (IHI0062) as the MMU-500 implements it (DDI0517); what a register has no behaviour for is
listed where it is described (`registers`, `bank_registers`, `pmu`). This module joins the parts: `streams`
and `banks` say where an access goes, compiled code (`_fast`) translates it, `recorder` and `stalls` deal with
what is refused, `maintenance`, `ats` and `pmu` with what software asks for.
"""

from __future__ import annotations

import logging
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Final

import numpy as np

from unimem.addresses import fmt
from unimem_node.bus.interrupts import InterruptController
from unimem_node.bus.registers import RegisterFile, WriteAction
from unimem_node.clock import EventLog, Scheduler
from unimem_node.memory import PhysicalMemory
from unimem_node.mmu.regime import OK, R_S2, signed
from unimem_node.smmu._fast import translate
from unimem_node.smmu.arrays import BANK_COLS, BLOCKED, C_FAULTS, Arrays
from unimem_node.smmu.ats import AddressTranslation
from unimem_node.smmu.bank_registers import FSR_SS
from unimem_node.smmu.banks import CONFIGURATION, Banks
from unimem_node.smmu.faults import Fault, FaultKind
from unimem_node.smmu.maintenance import Maintenance
from unimem_node.smmu.pmu import PerformanceMonitor
from unimem_node.smmu.recorder import FaultRecorder
from unimem_node.smmu.registers import (
    ACR_IPA2PA_CEN,
    ACR_S1WC2EN,
    ACR_S2WC2EN,
    ALIAS,
    ALIASED,
    CACHE_LOCK,
    CR0_CLIENTPD,
    CR0_USFCFG,
    CR0_VMID16EN,
    smmu_table,
)
from unimem_node.smmu.spec import SmmuSpec
from unimem_node.smmu.stalls import Hold, Resumed, Stalls
from unimem_node.smmu.streams import STREAM_BITS, TBU_SHIFT, Lanes, RouteKind, StreamRoute, route
from unimem_node.smmu.tlb import Int64s, Tlb
from unimem_node.smmu.wrapper import ISR_COMBINED_NS, ISR_GLOBAL_NS, ISR_PERFORMANCE, SmmuWrapper

_log = logging.getLogger(__name__)

_RESUME_TERMINATE: Final = 1 << 0
_SCTLR_HUPCF: Final = 1 << 8


@dataclass(frozen=True, slots=True)
class Translation:
    """One access that is allowed: `span` bytes from `pa` are contiguous."""

    pa: int
    span: int
    cost_ps: int
    context_bank: int  # -1: the stream bypasses
    attrs: int = field(default=0, compare=False)  # A_* of floor 1; 0: none, a bypass


@dataclass(frozen=True, slots=True)
class Blocked:
    """One access that is held up: `Smmu.wait` tells when the bank is free again."""

    context_bank: int


class Smmu:
    """One SMMU on the bus. `arrays` is what compiled code translates with; `wrapper` is the block beside it.

    `epoch` grows with every change of the configuration or of the TLBs: whoever keeps a `StreamRoute` or a
    physical address asks again when it has. `pmu.poll()` is for bus masters, after they moved something.
    """

    def __init__(
        self,
        memory: PhysicalMemory,
        spec: SmmuSpec,
        interrupts: InterruptController,
        scheduler: Scheduler,
        log: EventLog | None = None,
        *,
        node: str = "n0",
    ) -> None:
        self.spec = spec
        self.node = node
        self.epoch = 0
        #: Called at each write of a register and each change of `epoch`.
        self.on_change: Callable[[], object] = lambda: None
        self.registers = RegisterFile(f"{node}.smmu", spec.size, smmu_table(spec))
        self.tlb = Tlb(spec)
        self.wrapper = SmmuWrapper()
        self._line = interrupts.line(spec.spi)
        self._regimes: Int64s = np.zeros((spec.context_banks, BANK_COLS), np.int64)
        timing = spec.timing
        self.arrays = Arrays(
            memory.view8,
            memory.view64,
            memory.geometry,
            self.tlb.rows,
            self.tlb.state,
            self._regimes,
            np.array(timing.row(), np.int64),
            self.tlb.counts,
        )
        self._routes: dict[int, StreamRoute] = {}
        self._lanes = Lanes()
        self._stalls = Stalls(scheduler, spec.context_banks)
        self._banks = Banks(self.registers, spec, self._regimes, self._blocked)
        self._recorder = FaultRecorder(
            node, self.registers, self._regimes, self._stalls, scheduler, log, self._stalled
        )
        self._maintenance = Maintenance(
            self.registers, self.tlb, self._banks, scheduler, timing, self._tlbs_changed
        )
        self._ats = (
            AddressTranslation(self.registers, self.arrays, self._banks, scheduler, timing)
            if spec.address_translation
            else None
        )
        self.pmu = PerformanceMonitor(
            spec,
            self.registers,
            self.tlb.counts,
            self._lanes,
            self._bank_of,
            scheduler,
            self._update_interrupt,
        )
        self._attach_actions()
        self._decode_all()

    # ---- the bus side

    def read(self, offset: int, size: int) -> int:
        """Read a register as the bus does."""
        return self.registers.read(_unaliased(offset), size)

    def write(self, offset: int, size: int, value: int) -> None:
        """Write a register as the bus does."""
        self.on_change()
        self.registers.write(_unaliased(offset), size, value)

    def inspect(self, offset: int, size: int) -> int:
        """Read a register as a debugger does: without effects."""
        return self.registers.inspect(_unaliased(offset), size)

    def reset(self) -> None:
        """Reset state: everything bypasses, TLBs are empty, no fault is recorded, what waited has ended."""
        self.registers.reset()
        self.wrapper.reset()
        self._maintenance.reset()
        if self._ats is not None:
            self._ats.reset()
        self._stalls.reset()
        self.tlb.invalidate_all()
        self._decode_all()
        self.pmu.reset()
        self._update_interrupt()

    # ---- translation

    def resolve(self, stream_id: int) -> StreamRoute:
        """What happens to a stream; records nothing. Raises `ValueError` for an ID that no TBU has."""
        known = self._routes.get(stream_id)
        if known is not None:
            return known
        if not 0 <= stream_id < 1 << STREAM_BITS or stream_id >> TBU_SHIFT >= self.spec.tbus:
            raise ValueError(
                f"stream {stream_id:#x}: this SMMU has {self.spec.tbus} TBUs of 10-bit master IDs"
            )
        cr0 = self.registers.peek("CR0")
        if cr0 & CR0_CLIENTPD:
            found = StreamRoute(RouteKind.BYPASS, stream_id >> TBU_SHIFT)
        else:
            groups = range(self.spec.stream_match_groups)
            found = route(
                stream_id,
                [self.registers.peek("SMR", n) for n in groups],
                [self.registers.peek("S2CR", n) for n in groups],
                usfcfg=bool(cr0 & CR0_USFCFG),
                banks=self._banks.states,
            )
        self._routes[stream_id] = found
        return found

    def lane_of(self, stream_id: int) -> int:
        """The stream's way through its TBU, for `translate`: the same for ever."""
        return self._lanes.of(stream_id)

    def translate(self, stream_id: int, va: int, access: int) -> Translation | Blocked | Fault:
        """Translate one access (ACCESS_* bits); a refused one is recorded as the hardware does."""
        way = self.resolve(stream_id)
        if way.kind is RouteKind.FAULT:
            return self.fault(stream_id, way, va, access, FaultKind.STREAM, 0)
        lane = self.lane_of(stream_id)
        code, info, pa, span, cost = translate(self.arrays, lane, way.cb, signed(va), way.access(access))
        if code == BLOCKED:
            return Blocked(way.cb)
        if code != OK:
            return self.fault(stream_id, way, va, access, int(code), int(info))
        return Translation(int(pa), int(span), int(cost), way.cb, int(info))

    def fault(
        self, stream_id: int, way: StreamRoute, va: int, access: int, code: int, syndrome: int
    ) -> Fault:
        """Record a refused access and raise the interrupt if software asked for it: the one place that does.

        `code` and `syndrome` are what `translate` returned; of a route that is a fault itself they do not
        matter. If the fault `stalls`, the transaction has not ended: see `hold`.
        """
        fault = self._recorder.record(way, code, syndrome, access, stream_id, va)
        self.arrays.counters[self.lane_of(stream_id), C_FAULTS] += 1
        self._update_interrupt()
        return fault

    # ---- transactions that wait

    def hold(self, fault: Fault, resumed: Resumed) -> Hold:
        """Hold the transaction of a fault that `stalls`; ``resumed(retry)``: an event after RESUME."""
        if fault.hold is None:
            raise ValueError(f"this fault ends its transaction: {fault.describe()}")
        fault.hold.attach(resumed)
        return fault.hold

    def wait(self, bank: int, resumed: Resumed) -> Hold:
        """Hold up an access that was BLOCKED; ``resumed(True)``: an event when the bank is free again."""
        s2 = int(self._regimes[bank, R_S2])
        return self._stalls.wait(s2 if s2 >= 0 and self._blocked(s2) else bank, resumed)

    def counters(self) -> dict[str, int]:
        """Translations, hits, walks, descriptor reads by level, faults, invalidations, since the start."""
        return {**self.tlb.counters(), "invalidations": self._maintenance.operations}

    # ---- the rest is private

    def _blocked(self, bank: int) -> bool:
        """A stalled transaction is outstanding, and others may not pass it."""
        return self._stalls.outstanding(bank) and not self.registers.peek("CB_SCTLR", bank) & _SCTLR_HUPCF

    def _bank_of(self, stream_id: int) -> int:
        way = self._routes.get(stream_id)
        return -1 if way is None else way.cb

    def _update_interrupt(self) -> None:
        """Drive the combined line: context faults, global faults, counters that overflowed."""
        globally = self._recorder.global_pending()
        faults = globally or self._recorder.context_pending()
        overflow = self.pmu.interrupt
        self.wrapper.drive(ISR_COMBINED_NS * faults | ISR_GLOBAL_NS * globally | ISR_PERFORMANCE * overflow)
        self._line.set(faults or overflow)

    # ---- what writes do

    def _attach_actions(self) -> None:
        on_write = self.registers.on_write
        for name in CONFIGURATION:
            on_write(name, self._bank_written)
        on_write("CR0", self._global_written)
        on_write("SMR", self._mapping_written)
        on_write("S2CR", self._mapping_written)
        on_write("GFSR", lambda index, old, written: self._update_interrupt())
        on_write("GFSRRESTORE", self._restore_global)
        on_write("CB_FSR", self._status_written)
        on_write("CB_FSRRESTORE", self._restore_status)
        on_write("CB_RESUME", self._resume)
        on_write("ACR", self._auxiliary_written("ACR"))
        on_write("NSACR", self._auxiliary_written("NSACR"))
        on_write("CB_ACTLR", self._bank_auxiliary_written)

    def _mapping_changed(self) -> None:
        """Streams may lead elsewhere; what happened until now was counted for where they led."""
        self.pmu.poll()
        self._routes.clear()
        self._tlbs_changed()

    def _tlbs_changed(self) -> None:
        self.epoch += 1
        self.on_change()

    def _decode_all(self) -> None:
        self._banks.decode_all()
        self._set_walk_caches()
        self._mapping_changed()

    def _bank_written(self, index: int, old: int, written: int) -> None:
        self._decode(index)
        if self._stalls.outstanding(index) and not self._blocked(index):
            self._stalls.unblock(index)
        state = self._banks.states[index]
        if state.enabled and state.obstacle:
            _log.info("%s: context bank %d cannot translate: %s", self.registers.name, index, state.obstacle)
        self._update_interrupt()

    def _decode(self, bank: int) -> None:
        self._banks.decode(bank)
        self._mapping_changed()

    def _global_written(self, index: int, old: int, written: int) -> None:
        if (old ^ self.registers.peek("CR0")) & CR0_VMID16EN:
            self._banks.decode_all()
        self._mapping_changed()
        self._update_interrupt()

    def _mapping_written(self, index: int, old: int, written: int) -> None:
        self._mapping_changed()

    def _status_written(self, index: int, old: int, written: int) -> None:
        self._recorder.cleared(index)
        self._update_interrupt()

    def _restore_status(self, index: int, old: int, written: int) -> None:
        self._recorder.restore(index, written)
        self._update_interrupt()

    def _restore_global(self, index: int, old: int, written: int) -> None:
        self._recorder.restore_global(written)
        self._update_interrupt()

    def _stalled(self, bank: int) -> None:
        """A transaction began to wait: with HUPCF = 0 nothing of the bank passes it."""
        if self._blocked(bank):
            self._decode(bank)

    def _resume(self, bank: int, old: int, written: int) -> None:
        if not self._stalls.outstanding(bank):
            return
        self.registers.poke("CB_FSR", self.registers.peek("CB_FSR", bank) & ~FSR_SS, bank)
        self._stalls.resume(bank, retry=not written & _RESUME_TERMINATE)
        self._decode(bank)
        self._update_interrupt()

    def _auxiliary_written(self, name: str) -> WriteAction:
        """A write to a copy of ACR: undone while CACHE_LOCK holds.

        One that clears CACHE_LOCK takes its other bits along, as Linux expects.
        """

        def action(index: int, old: int, written: int) -> None:
            if old & written & CACHE_LOCK:
                self._undo(name, index, old, written)
            self._set_walk_caches()

        return action

    def _bank_auxiliary_written(self, index: int, old: int, written: int) -> None:
        """A write to CB_ACTLR: undone while CACHE_LOCK holds in both copies of ACR."""
        if self.registers.peek("ACR") & self.registers.peek("NSACR") & CACHE_LOCK:
            self._undo("CB_ACTLR", index, old, written)

    def _undo(self, name: str, index: int, old: int, written: int) -> None:
        self.registers.poke(name, old, index)
        _log.info("%s: write of %s to %s ignored: CACHE_LOCK", self.registers.name, fmt(written), name)

    def _set_walk_caches(self) -> None:
        """NSACR says which: all streams are non-secure. Both copies can switch stage 1's walk cache off."""
        acr, nsacr = self.registers.peek("ACR"), self.registers.peek("NSACR")
        self.tlb.set_walk_caches(
            stage1=bool(acr & nsacr & ACR_S1WC2EN),
            stage2=bool(nsacr & ACR_S2WC2EN),
            ipa=bool(nsacr & ACR_IPA2PA_CEN),
        )


def _unaliased(offset: int) -> int:
    """The non-secure alias of a global register is that register."""
    return offset - ALIAS if offset - ALIAS in ALIASED else offset
