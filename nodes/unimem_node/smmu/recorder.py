"""Recording faults: which bank, which registers, which interrupt (SMMUv2, "Fault handling").

A fault of stage 1 is recorded in the stream's bank; one of stage 2, when that is nested, in the stage-2 bank,
whose FSYNR0.S1CBNDX names the other, with the VA in FAR and the IPA in IPAFAR. The recording bank's SCTLR
decides what happens: CFCFG terminate or stall, CFRE bus error, CFIE interrupt. The first fault is kept until
software clears it; later ones set MULTI. What reaches no bank is a global fault: it never stalls; CR0.GFRE
makes it a bus error, GFIE an interrupt.
"""

from __future__ import annotations

from collections.abc import Callable

from unimem_node.bus.registers import RegisterFile
from unimem_node.clock import EventLog, Scheduler
from unimem_node.mmu.regime import CFG_CFCFG, CFG_CFIE, CFG_CFRE, R_CFG, R_S2, S_STAGE_2
from unimem_node.smmu import faults
from unimem_node.smmu.bank_registers import (
    FSR_FAULTS,
    FSR_FORMAT,
    FSR_FORMAT_AARCH64,
    FSR_MULTI,
    FSR_SS,
)
from unimem_node.smmu.faults import Fault, FaultKind
from unimem_node.smmu.registers import CR0_GFIE, CR0_GFRE, GFSR_FAULTS, GFSR_MULTI
from unimem_node.smmu.stalls import Stalls
from unimem_node.smmu.streams import GlobalFault, RouteKind, StreamRoute
from unimem_node.smmu.tlb import Int64s


class FaultRecorder:
    """Writes fault registers. `stalled` is called with the bank when a transaction begins to wait."""

    def __init__(
        self,
        node: str,
        registers: RegisterFile,
        regimes: Int64s,
        stalls: Stalls,
        scheduler: Scheduler,
        log: EventLog | None,
        stalled: Callable[[int], None],
    ) -> None:
        self._node = node
        self._registers = registers
        self._regimes = regimes
        self._stalls = stalls
        self._scheduler = scheduler
        self._log = log
        self._stalled = stalled

    def record(
        self, way: StreamRoute, code: int, syndrome: int, access: int, stream_id: int, va: int
    ) -> Fault:
        """Record a refused access; `code` and `syndrome` are what `translate` returned."""
        access = way.access(access)
        if way.kind is RouteKind.TRANSLATE:
            fault = self._context(way.cb, FaultKind(code), syndrome, access, stream_id, va)
        else:
            fault = self._global(way, code, access, stream_id, va)
        self._note(fault)
        return fault

    def context_pending(self) -> bool:
        """Whether a bank asks for the interrupt: a fault or a stalled transaction, and CFIE."""
        return any(
            self._registers.peek("CB_FSR", bank) & (FSR_FAULTS | FSR_SS) and row[R_CFG] & CFG_CFIE
            for bank, row in enumerate(self._regimes)
        )

    def global_pending(self) -> bool:
        """Whether a global fault asks for the interrupt."""
        return bool(self._registers.peek("GFSR") & GFSR_FAULTS and self._registers.peek("CR0") & CR0_GFIE)

    def cleared(self, bank: int) -> None:
        """FSR was written: without a fault there is nothing whose format could be told."""
        fsr = self._registers.peek("CB_FSR", bank)
        if not fsr & FSR_FAULTS:
            self._registers.poke("CB_FSR", fsr & ~FSR_FORMAT, bank)

    def restore(self, bank: int, written: int) -> None:
        """FSRRESTORE sets bits; SS is not among them, since it tells of a transaction."""
        fsr = self._registers.peek("CB_FSR", bank) | written & (FSR_FAULTS | FSR_MULTI)
        self._registers.poke("CB_FSR", fsr | (FSR_FORMAT_AARCH64 if fsr & FSR_FAULTS else 0), bank)

    def restore_global(self, written: int) -> None:
        """GFSRRESTORE sets bits."""
        gfsr = self._registers.peek("GFSR") | written & (GFSR_FAULTS | GFSR_MULTI)
        self._registers.poke("GFSR", gfsr)

    # ---- the rest is private

    def _context(
        self, cb: int, kind: FaultKind, syndrome: int, access: int, stream_id: int, va: int
    ) -> Fault:
        registers = self._registers
        bank, s1_bank = cb, -1
        if syndrome & S_STAGE_2 and self._regimes[cb, R_S2] not in (-1, cb):
            bank, s1_bank = int(self._regimes[cb, R_S2]), cb
        cfg = int(self._regimes[bank, R_CFG])
        fsr = registers.peek("CB_FSR", bank)
        multiple = bool(fsr & FSR_FAULTS)
        first_stall = bool(cfg & CFG_CFCFG) and not self._stalls.outstanding(bank)
        fault = faults.context_fault(
            kind,
            syndrome,
            access,
            stream_id,
            bank,
            va,
            s1_bank=s1_bank,
            aborts=bool(cfg & CFG_CFRE),
            multiple=multiple,
            hold=self._stalls.fault(bank) if cfg & CFG_CFCFG else None,
        )
        if multiple:
            fsr |= FSR_MULTI
        else:
            fsr |= fault.fsr
            registers.poke("CB_FAR", fault.iova, bank)
            registers.poke("CB_FSYNR0", fault.fsynr0, bank)
            registers.poke("CBFRSYNRA", stream_id, bank)
            if fault.ipa is not None:
                registers.poke("CB_IPAFAR", fault.ipa, bank)
        registers.poke("CB_FSR", fsr | (FSR_SS if fault.stalls else 0), bank)
        if first_stall:
            self._stalled(bank)
        return fault

    def _global(self, way: StreamRoute, code: int, access: int, stream_id: int, va: int) -> Fault:
        which, kind = way.fault, FaultKind.STREAM
        if which is None:  # a stream that bypasses: nothing there, or an address that 48 bits cannot carry
            kind = FaultKind(code)
            external = kind is FaultKind.EXTERNAL
            which = GlobalFault.EXTERNAL if external else GlobalFault.UNSUPPORTED_TRANSACTION
        registers = self._registers
        gfsr = registers.peek("GFSR")
        multiple = bool(gfsr & GFSR_FAULTS)
        fault = faults.global_fault(
            which,
            kind,
            access,
            stream_id,
            va,
            aborts=bool(registers.peek("CR0") & CR0_GFRE),
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

    def _note(self, fault: Fault) -> None:
        if self._log is None:
            return
        more: dict[str, int] = {"stalls": True} if fault.stalls else {}
        if fault.ipa is not None:
            more |= {"ipa": fault.ipa, "ptwf": fault.ptwf, "s1_bank": fault.s1_bank}
        self._log.record(
            self._scheduler.now_ps,
            self._node,
            "smmu_fault",
            fault=fault.kind.name if fault.global_fault is None else fault.global_fault.name,
            stage=fault.stage,
            level=fault.level,
            access=faults.access_words(fault.access),
            stream=fault.stream_id,
            bank=fault.context_bank,
            iova=fault.iova,
            fsr=fault.fsr,
            fsynr0=fault.fsynr0,
            aborts=fault.aborts,
            **more,
        )
