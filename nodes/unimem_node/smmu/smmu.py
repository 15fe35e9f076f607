"""The MMU-500 as a device: its register space, its TLBs, its faults and its interrupt.

Models Arm's SMMUv2 (IHI0062) as the MMU-500 implements it (DDI0517); what of it is not behaviour yet is
listed in `registers.py` and `streams.py`. Invalidations take effect at once, so sync registers read idle. A
terminated transaction either aborts or reads zeros (CFRE for a context bank, GFRE or GCFGFRE else).
"""

from __future__ import annotations

import logging
from dataclasses import dataclass
from typing import Final

import numpy as np

from unimem.addresses import fmt
from unimem_node.bus.interrupts import InterruptController
from unimem_node.bus.registers import RegisterFile
from unimem_node.clock import EventLog, Scheduler
from unimem_node.memory import PhysicalMemory
from unimem_node.mmu.regime import CFG_CFIE, CFG_CFRE, OK, R_CFG, signed
from unimem_node.smmu import banks, faults
from unimem_node.smmu._fast import translate
from unimem_node.smmu.arrays import BANK_COLS, C_FAULTS, Arrays
from unimem_node.smmu.faults import Fault, FaultKind
from unimem_node.smmu.maintenance import Maintenance
from unimem_node.smmu.registers import (
    ALIAS,
    ALIASED,
    CACHE_LOCK,
    FSR_FAULTS,
    FSR_FORMAT,
    FSR_FORMAT_AARCH64,
    FSR_MULTI,
    GFSR_FAULTS,
    GFSR_MULTI,
    smmu_table,
)
from unimem_node.smmu.spec import SmmuSpec
from unimem_node.smmu.streams import (
    STREAM_BITS,
    TBU_SHIFT,
    BankState,
    GlobalFault,
    RouteKind,
    StreamRoute,
    route,
)
from unimem_node.smmu.tlb import Int64s, Tlb
from unimem_node.smmu.wrapper import ISR_COMBINED_NS, ISR_GLOBAL_NS, SmmuWrapper

_log = logging.getLogger(__name__)

_CR0_CLIENTPD: Final = 1 << 0
_CR0_GLOBAL_REPORT: Final = 1 << 1 | 1 << 4  # GFRE, GCFGFRE
_CR0_GLOBAL_INTERRUPT: Final = 1 << 2 | 1 << 5  # GFIE, GCFGFIE
_CR0_USFCFG: Final = 1 << 10


@dataclass(frozen=True, slots=True)
class Translation:
    """One access that is allowed: `span` bytes from `pa` are contiguous."""

    pa: int
    span: int
    cost_ps: int
    context_bank: int  # -1: the stream bypasses


class Smmu:
    """One SMMU on the bus. `arrays` is what compiled code translates with; `wrapper` is the block beside it.

    `epoch` grows with every write that changes the configuration or the TLBs: whoever keeps a `StreamRoute`
    or a physical address asks again when it has.
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
        self.registers = RegisterFile(f"{node}.smmu", spec.size, smmu_table(spec))
        self.tlb = Tlb(spec)
        self.wrapper = SmmuWrapper()
        self._scheduler = scheduler
        self._log = log
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
        self._banks: list[BankState] = []
        self._routes: dict[int, StreamRoute] = {}
        self._maintenance = Maintenance(self.registers, self.tlb, self._changed)
        self._attach_actions()
        self._decode_all()

    # ---- the bus side

    def read(self, offset: int, size: int) -> int:
        """Read a register as the bus does."""
        return self.registers.read(_unaliased(offset), size)

    def write(self, offset: int, size: int, value: int) -> None:
        """Write a register as the bus does."""
        self.registers.write(_unaliased(offset), size, value)

    def inspect(self, offset: int, size: int) -> int:
        """Read a register as a debugger does: without effects."""
        return self.registers.inspect(_unaliased(offset), size)

    def reset(self) -> None:
        """Reset state: everything bypasses, the TLBs are empty, no fault is recorded."""
        self.registers.reset()
        self.wrapper.registers.reset()
        self.tlb.invalidate_all()
        self._decode_all()
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
        if self.registers.peek("CR0") & _CR0_CLIENTPD:
            found = StreamRoute(RouteKind.BYPASS, stream_id >> TBU_SHIFT)
        else:
            groups = range(self.spec.stream_match_groups)
            found = route(
                stream_id,
                [self.registers.peek("SMR", n) for n in groups],
                [self.registers.peek("S2CR", n) for n in groups],
                usfcfg=bool(self.registers.peek("CR0") & _CR0_USFCFG),
                banks=self._banks,
            )
        self._routes[stream_id] = found
        return found

    def translate(self, stream_id: int, va: int, access: int) -> Translation | Fault:
        """Translate one access (ACCESS_* bits); a refused one is recorded as the hardware does."""
        way = self.resolve(stream_id)
        if way.kind is RouteKind.FAULT:
            return self.fault(stream_id, way, va, access, FaultKind.STREAM, 0)
        code, level, pa, span, cost = translate(self.arrays, way.tbu, way.cb, signed(va), access)
        if code != OK:
            return self.fault(stream_id, way, va, access, int(code), int(level))
        return Translation(int(pa), int(span), int(cost), way.cb)

    def fault(self, stream_id: int, way: StreamRoute, va: int, access: int, code: int, level: int) -> Fault:
        """Record a refused access and raise the interrupt if software asked for it: the one place that does.

        `code` is what `translate` returned; of a route that is a fault itself it does not matter. The first
        fault is kept until software clears it, later ones set MULTI.
        """
        if way.kind is RouteKind.TRANSLATE:
            fault = self._record_context(way.cb, FaultKind(code), level, access, stream_id, va)
        else:
            fault = self._record_global(way, code, access, stream_id, va)
        self.arrays.counters[way.tbu, C_FAULTS] += 1
        if self._log is not None:
            self._log.record(
                self._scheduler.now_ps,
                self.node,
                "smmu_fault",
                fault=fault.kind.name if fault.global_fault is None else fault.global_fault.name,
                stage=fault.stage,
                level=fault.level,
                access=faults.access_words(access),
                stream=stream_id,
                bank=fault.context_bank,
                iova=fault.iova,
                fsr=fault.fsr,
                fsynr0=fault.fsynr0,
                aborts=fault.aborts,
            )
        self._update_interrupt()
        return fault

    def counters(self) -> dict[str, int]:
        """Translations, hits, walks, descriptor reads by level, faults, invalidations, since the start."""
        return {**self.tlb.counters(), "invalidations": self._maintenance.operations}

    # ---- faults

    def _record_context(
        self, bank: int, kind: FaultKind, level: int, access: int, stream_id: int, va: int
    ) -> Fault:
        registers = self.registers
        fsr = registers.peek("CB_FSR", bank)
        multiple = bool(fsr & FSR_FAULTS)
        aborts = bool(self._regimes[bank, R_CFG] & CFG_CFRE)
        fault = faults.context_fault(
            kind, level, access, stream_id, bank, va, aborts=aborts, multiple=multiple
        )
        if multiple:
            registers.poke("CB_FSR", fsr | FSR_MULTI, bank)
        else:
            registers.poke("CB_FSR", fault.fsr, bank)
            registers.poke("CB_FAR", fault.iova, bank)
            registers.poke("CB_FSYNR0", fault.fsynr0, bank)
            registers.poke("CBFRSYNRA", stream_id, bank)
        return fault

    def _record_global(self, way: StreamRoute, code: int, access: int, stream_id: int, va: int) -> Fault:
        which, kind = way.fault, FaultKind.STREAM
        if which is None:  # a stream that bypasses: nothing there, or an address that 48 bits cannot carry
            kind = FaultKind(code)
            external = kind is FaultKind.EXTERNAL
            which = GlobalFault.EXTERNAL if external else GlobalFault.UNSUPPORTED_TRANSACTION
        registers = self.registers
        gfsr = registers.peek("GFSR")
        multiple = bool(gfsr & GFSR_FAULTS)
        fault = faults.global_fault(
            which,
            kind,
            access,
            stream_id,
            va,
            aborts=bool(registers.peek("CR0") & _CR0_GLOBAL_REPORT),
            multiple=multiple,
            reason=way.reason,
        )
        if multiple:
            registers.poke("GFSR", gfsr | GFSR_MULTI)
        else:
            registers.poke("GFSR", fault.fsr)
            registers.poke("GFAR", fault.iova)
            registers.poke("GFSYNR0", fault.fsynr0)
            registers.poke("GFSYNR1", stream_id)
        return fault

    def _update_interrupt(self) -> None:
        """Drive the combined line: any bank with a fault and CFIE, or a global fault and GFIE or GCFGFIE."""
        registers = self.registers
        globally = bool(
            registers.peek("GFSR") & GFSR_FAULTS and registers.peek("CR0") & _CR0_GLOBAL_INTERRUPT
        )
        level = globally or any(
            registers.peek("CB_FSR", n) & FSR_FAULTS and self._regimes[n, R_CFG] & CFG_CFIE
            for n in range(self.spec.context_banks)
        )
        self.wrapper.drive(ISR_COMBINED_NS * level | ISR_GLOBAL_NS * globally)
        self._line.set(bool(level))

    # ---- what writes do

    def _attach_actions(self) -> None:
        on_write = self.registers.on_write
        for name in banks.CONFIGURATION:
            on_write(name, self._bank_written)
        on_write("CR0", self._global_written)
        on_write("SMR", self._mapping_written)
        on_write("S2CR", self._mapping_written)
        on_write("GFSR", lambda index, old, written: self._update_interrupt())
        on_write("GFSRRESTORE", self._restore_global)
        on_write("CB_FSR", self._status_written)
        on_write("CB_FSRRESTORE", self._restore_status)
        on_write("ACR", lambda index, old, written: self._lock("ACR", index, old, written))
        on_write("NSACR", lambda index, old, written: self._lock("NSACR", index, old, written))
        on_write("CB_ACTLR", lambda index, old, written: self._lock("CB_ACTLR", index, old, written))

    def _changed(self) -> None:
        self.epoch += 1
        self._routes.clear()

    def _decode_all(self) -> None:
        self._banks = [
            banks.decode(self.registers, n, self.spec, self._regimes[n])
            for n in range(self.spec.context_banks)
        ]
        self._changed()

    def _bank_written(self, index: int, old: int, written: int) -> None:
        self._banks[index] = banks.decode(self.registers, index, self.spec, self._regimes[index])
        obstacle = self._banks[index].obstacle()
        if self._banks[index].enabled and obstacle:
            _log.info("%s: context bank %d cannot translate: %s", self.registers.name, index, obstacle)
        self._changed()
        self._update_interrupt()

    def _global_written(self, index: int, old: int, written: int) -> None:
        self._changed()
        self._update_interrupt()

    def _mapping_written(self, index: int, old: int, written: int) -> None:
        self._changed()

    def _status_written(self, index: int, old: int, written: int) -> None:
        fsr = self.registers.peek("CB_FSR", index)
        if not fsr & FSR_FAULTS:  # no fault, so nothing whose format could be told
            self.registers.poke("CB_FSR", fsr & ~FSR_FORMAT, index)
        self._update_interrupt()

    def _restore_status(self, index: int, old: int, written: int) -> None:
        fsr = self.registers.peek("CB_FSR", index) | written & (FSR_FAULTS | FSR_MULTI)
        self.registers.poke("CB_FSR", fsr | (FSR_FORMAT_AARCH64 if fsr & FSR_FAULTS else 0), index)
        self._update_interrupt()

    def _restore_global(self, index: int, old: int, written: int) -> None:
        self.registers.poke("GFSR", self.registers.peek("GFSR") | written & (GFSR_FAULTS | GFSR_MULTI))
        self._update_interrupt()

    def _lock(self, name: str, index: int, old: int, written: int) -> None:
        """Undo a write to an auxiliary control register while CACHE_LOCK holds.

        A write to ACR that clears CACHE_LOCK takes its other bits along, as Linux expects.
        """
        if name == "CB_ACTLR":  # whichever of the two copies software sees unlocks the banks
            held = self.registers.peek("ACR") & self.registers.peek("NSACR") & CACHE_LOCK
        else:
            held = old & written & CACHE_LOCK
        if held:
            self.registers.poke(name, old, index)
            _log.info("%s: write of %s to %s ignored: CACHE_LOCK", self.registers.name, fmt(written), name)


def _unaliased(offset: int) -> int:
    """The non-secure alias of a global register is that register."""
    return offset - ALIAS if offset - ALIAS in ALIASED else offset
