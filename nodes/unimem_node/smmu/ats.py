"""Address translation operations: software asks what the SMMU would make of an address (SMMUv2, "ATOS").

GATS1* and GATS12* name a context bank and answer in GPAR, CB_ATS1* ask of their own bank and answer in its
PAR: stage 1, or both stages. Offered when IDR0.ATOSNS = 0 (`SmmuSpec.address_translation`), else RAZ/WI.

An operation walks the tables as they are, past all TLBs, and records no fault. F = 0: PA in bits 47:12 (the
IPA, for stage 1 of a nested bank), shareability, memory type, NS. F = 1: the bits of FSR that the access
would have set, the level in 35:32, bit 36 for stage 2; only F is the specification's word, the rest is ours.
The result is there when the walk's time has passed; a poll of GATSR or ATSR costs the CPU time, as one of
TLBSTATUS does.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, Final

import numpy as np

from unimem_node.bus.registers import RegisterFile
from unimem_node.clock import Scheduler
from unimem_node.clock.scheduler import Event
from unimem_node.mmu._fast import FETCHED, permitted, settle, walk
from unimem_node.mmu._fast_cache import NO_ROWS, NO_STATE
from unimem_node.mmu._fast_stage2 import walk_nested, walk_stage2
from unimem_node.mmu.regime import (
    A_NS,
    A_SH_SHIFT,
    A_TYPE_SHIFT,
    ACCESS_PRIVILEGED,
    ACCESS_WRITE,
    OK,
    PF,
    R_S2,
    R_SIGN_BIT,
    R_STAGES,
    S_LEVEL,
    S_STAGE_2,
    STAGE_1,
    STAGE_2,
    TF,
    signed,
)
from unimem_node.smmu._fast import sign_extended, upper_half
from unimem_node.smmu.arrays import INPUT_BITS, T_DESCRIPTOR_READ, T_MACRO_HIT, Arrays
from unimem_node.smmu.banks import TYPE_STAGE_2, Banks
from unimem_node.smmu.spec import SmmuTiming

_PAR_FAULT: Final = 1 << 0
_PAR_LEVEL_SHIFT: Final = 32
_PAR_STAGE_2: Final = 1 << 36
_PAR_NS: Final = 1 << 9
_PAGES: Final = 0xFFFF_FFFF_F000
_KINDS: Final = {
    "UR": 0,
    "UW": ACCESS_WRITE,
    "PR": ACCESS_PRIVILEGED,
    "PW": ACCESS_PRIVILEGED | ACCESS_WRITE,
}


class _Port:
    """One place where results appear: GPAR, or a bank's PAR."""

    def __init__(self, par: str, status: str, index: int) -> None:
        self.par, self.status, self.index = par, status, index
        self.due_ps = -1  # -1: idle
        self.result = 0
        self.event: Event | None = None


class AddressTranslation:
    """Runs the operations written to the registers."""

    def __init__(
        self,
        registers: RegisterFile,
        arrays: Arrays,
        banks: Banks,
        scheduler: Scheduler,
        timing: SmmuTiming,
    ) -> None:
        self._registers = registers
        self._arrays = arrays
        self._banks = banks
        self._scheduler = scheduler
        self._timing = timing
        self._global = _Port("GPAR", "GATSR", 0)
        self._of_bank = [_Port("CB_PAR", "CB_ATSR", bank) for bank in range(len(banks.states))]
        for kind, access in _KINDS.items():
            for name, stages in (("GATS1", STAGE_1), ("GATS12", STAGE_1 | STAGE_2)):
                registers.on_write(f"{name}{kind}", self._for_all(access, stages))
            registers.on_write(f"CB_ATS1{kind}", self._for_bank(access))
        registers.on_read("GATSR", lambda index: self._poll(self._global))
        registers.on_read("CB_ATSR", lambda index: self._poll(self._of_bank[index]))

    def reset(self) -> None:
        """Forget what is under way."""
        for port in (self._global, *self._of_bank):
            if port.event is not None:
                port.event.cancel()
            port.due_ps = -1

    # ---- registers

    def _for_all(self, access: int, stages: int) -> Callable[[int, int, int], None]:
        return lambda index, old, value: self._start(self._global, value & 0xFFF, value, access, stages)

    def _for_bank(self, access: int) -> Callable[[int, int, int], None]:
        return lambda bank, old, value: self._start(self._of_bank[bank], bank, value, access, STAGE_1)

    def _start(self, port: _Port, bank: int, value: int, access: int, stages: int) -> None:
        fetched = np.zeros(FETCHED, np.int64)
        port.result = self._translate(bank, value & ~0xFFF, access, stages, fetched)
        reads = int(fetched[:8].sum())
        timing = self._arrays.timing
        cost = int(timing[T_MACRO_HIT]) + reads * int(timing[T_DESCRIPTOR_READ])
        if port.event is not None:
            port.event.cancel()
        port.due_ps = self._scheduler.now_ps + cost
        port.event = self._scheduler.at(port.due_ps, lambda: self._finish(port))
        self._registers.poke(port.status, 1, port.index)

    def _finish(self, port: _Port) -> None:
        if 0 <= port.due_ps <= self._scheduler.now_ps:
            port.due_ps = -1
            if port.event is not None:
                port.event.cancel()
            self._registers.poke(port.par, port.result, port.index)
            self._registers.poke(port.status, 0, port.index)

    def _poll(self, port: _Port) -> None:
        self._scheduler.advance_to(self._scheduler.now_ps + self._timing.status_read_ps)
        self._finish(port)

    # ---- translation

    def _translate(self, bank: int, va: int, access: int, stages: int, fetched: Any) -> int:
        """PAR of an address: see the module's head."""
        if bank >= len(self._banks.states):
            return _PAR_FAULT | 1 << TF
        state = self._banks.states[bank]
        if state.obstacle or (state.kind == TYPE_STAGE_2 and not stages & STAGE_2):
            return _PAR_FAULT | 1 << TF
        row = self._arrays.regimes[bank]
        stages &= int(row[R_STAGES])
        if not stages:
            return va & _PAGES
        code, syndrome, pa, attrs = self._walk(row, stages, _extended(va, int(row[R_SIGN_BIT])), fetched)
        code, syndrome = map(int, settle(code, syndrome, attrs, access))
        if code == OK and not permitted(attrs, access):
            code, syndrome = PF, syndrome | S_STAGE_2
        if code != OK:
            stage = _PAR_STAGE_2 if syndrome & S_STAGE_2 else 0
            return _PAR_FAULT | 1 << code | (syndrome & S_LEVEL) << _PAR_LEVEL_SHIFT | stage
        shareable, kind = attrs >> A_SH_SHIFT & 3, attrs >> A_TYPE_SHIFT & 0xFF
        return pa & _PAGES | shareable << 7 | (_PAR_NS if attrs & A_NS else 0) | kind << 56

    def _walk(self, row: Any, stages: int, va: int, fetched: Any) -> tuple[int, int, int, int]:
        """(code, syndrome, address, attrs) of a walk without caches."""
        mem64, geometry, regimes = self._arrays.mem64, self._arrays.geometry, self._arrays.regimes
        if stages == STAGE_1:
            found = walk(mem64, geometry, row, va, fetched)
        elif stages == STAGE_2:
            found = walk_stage2(mem64, geometry, regimes[row[R_S2]], va, fetched, NO_ROWS, NO_STATE, 0, 0)
        else:
            found = walk_nested(
                mem64, geometry, row, regimes[row[R_S2]], va, fetched, NO_ROWS, NO_STATE, 0, 0, 0
            )[:5]
        code, syndrome, base, shift, attrs = map(int, found)
        return code, syndrome, base | va & (1 << shift) - 1, attrs


def _extended(va: int, sign_bit: int) -> int:
    """The 64-bit address that a TBU makes of an input (TCR2.SEP)."""
    address: Any = np.int64(signed(va))  # the width matters: bits are shifted out
    return int(upper_half(address) if sign_bit == INPUT_BITS - 1 else sign_extended(address, sign_bit))
