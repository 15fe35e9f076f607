"""From context banks' registers to what a walk and stream mapping need (SMMUv2, context bank registers).

CBAR.TYPE says of which kind a bank is: 0 stage 2 alone, 1 stage 1 alone, 2 stage 1 with a fault in place of
stage 2, 3 stage 1 nested in the stage 2 of the bank CBAR.CBNDX. SCTLR.M = 0 switches one stage off: of a
nested pair the other goes on translating. A bank that cannot translate has an `obstacle`, in words: streams
that lead to it end in an invalid context fault.

The ASID comes from TTBR0, or TTBR1 with TCR.A1; it has 8 bits unless TCR2.AS = 1. The VMID has 8 bits, of
CBAR, or with CR0.VMID16EN 16, of CBA2R. Banks of a hypervisor (CBAR.HYPC) and of a monitor (CBA2R.MONC) use
TTBR0 only, and have neither. Granules that IDR2 does not offer are decoded as reserved, so that every walk
with them ends in a translation fault; output sizes above IDR2.OAS are the latter.

A row changes as a whole, after the write of one register: who translates sees the configuration before or
after it, never a mixture.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Final, NamedTuple

from unimem_node.bus.registers import RegisterFile
from unimem_node.mmu.regime import (
    CFG_CFCFG,
    CFG_CFIE,
    CFG_CFRE,
    CFG_HUPCF,
    IPS_BITS,
    MODE_BLOCKED,
    MODE_BYPASS,
    MODE_SIGN,
    MODE_TRANSLATE,
    REGIME_COLS,
    STAGE_1,
    STAGE_2,
    TG0_SHIFTS,
    TG1_SHIFTS,
    Regime,
)
from unimem_node.smmu.arrays import INPUT_BITS, R_CONTEXT
from unimem_node.smmu.registers import CR0_VMID16EN
from unimem_node.smmu.spec import SmmuSpec
from unimem_node.smmu.tlb import Int64s, World, context_of

#: Registers of a bank, and of global space 1, that take part in translation.
CONFIGURATION: Final = (
    "CB_SCTLR",
    "CB_TCR",
    "CB_TCR2",
    "CB_TTBR0",
    "CB_TTBR1",
    "CB_MAIR0",
    "CB_MAIR1",
    "CBAR",
    "CBA2R",
)

TYPE_STAGE_2: Final = 0
TYPE_STAGE_1: Final = 1
TYPE_STAGE_2_FAULT: Final = 2
TYPE_NESTED: Final = 3

_M: Final = 1 << 0
_BASE: Final = 0xFFFF_FFFF_FFFF
#: Sign bit of an input address by TCR2.SEP; 7 is the upstream bus' (and so is 6, which is reserved).
_SIGN_BITS: Final = (31, 35, 39, 41, 43, 47)
_NO_AARCH32: Final = "AArch32 table formats are not modelled (CBA2R.VA64 = 0)"


class BankState(NamedTuple):
    """What stream mapping needs to know of a context bank."""

    kind: int  # CBAR.TYPE
    enabled: bool  # SCTLR.M
    obstacle: str = ""  # why the bank cannot translate


class Banks:
    """All context banks, decoded: `states` for stream mapping, rows of `regimes` for compiled code.

    `blocked` tells whether a stalled transaction holds up the others of a bank.
    """

    def __init__(
        self, registers: RegisterFile, spec: SmmuSpec, regimes: Int64s, blocked: Callable[[int], bool]
    ) -> None:
        self._registers = registers
        self._spec = spec
        self._regimes = regimes
        self._blocked = blocked
        self.states = [BankState(TYPE_STAGE_2_FAULT, False)] * spec.context_banks

    def decode_all(self) -> None:
        """Decode every bank."""
        for bank in range(self._spec.context_banks):
            self._decode(bank)

    def decode(self, bank: int) -> None:
        """Decode a bank after a write to its registers, and those that nest in it."""
        self._decode(bank)
        for other, state in enumerate(self.states):
            if state.kind == TYPE_NESTED and other != bank and self.stage_2_of(other) == bank:
                self._decode(other)

    def kind(self, bank: int) -> int:
        """CBAR.TYPE."""
        return self._registers.peek("CBAR", bank) >> 16 & 3

    def stage_2_of(self, bank: int) -> int:
        """CBAR.CBNDX of a nested bank."""
        return self._registers.peek("CBAR", bank) >> 8 & 0xFF

    def vmid(self, bank: int) -> int:
        """VMID of a bank's entries."""
        if self._registers.peek("CR0") & CR0_VMID16EN:
            return self._registers.peek("CBA2R", bank) >> 16
        return self._registers.peek("CBAR", bank) & 0xFF

    def world(self, bank: int) -> World:
        """Whose bank it is: only one of stage 1 alone can be a hypervisor's or a monitor's."""
        if self.kind(bank) != TYPE_STAGE_1:
            return World.NON_HYP
        if self._registers.peek("CBA2R", bank) >> 1 & 1:
            return World.MONITOR
        return World.HYP if self._registers.peek("CBAR", bank) >> 10 & 1 else World.NON_HYP

    def asid_mask(self, bank: int) -> int:
        """Bits of an ASID that count: 16 with TCR2.AS, else 8."""
        return 0xFFFF if self._registers.peek("CB_TCR2", bank) >> 4 & 1 else 0xFF

    # ---- the rest is private

    def _decode(self, bank: int) -> None:
        kind = self.kind(bank)
        obstacle = self._obstacle(bank, kind)
        enabled = bool(self._registers.peek("CB_SCTLR", bank) & _M)
        self.states[bank] = BankState(kind, enabled, obstacle)
        regime, context = self._stage_2(bank) if kind == TYPE_STAGE_2 else self._stage_1(bank, kind, obstacle)
        row = regime.row()
        self._regimes[bank, :REGIME_COLS] = row
        self._regimes[bank, R_CONTEXT] = context

    def _obstacle(self, bank: int, kind: int) -> str:
        spec = self._spec
        enabled = self._registers.peek("CB_SCTLR", bank) & _M
        if kind == TYPE_STAGE_2_FAULT:
            return "stage 1 with stage 2 fault (CBAR.TYPE = 2, the reset value)"
        if not spec.stages & (STAGE_2 if kind == TYPE_STAGE_2 else STAGE_1):
            return f"this SMMU has no such stage (CBAR.TYPE = {kind}, IDR0.S1TS, S2TS)"
        if enabled and not self._registers.peek("CBA2R", bank) & 1:
            return _NO_AARCH32
        if kind != TYPE_NESTED:
            return ""
        if not spec.nested:
            return "this SMMU nests no stages (CBAR.TYPE = 3, IDR0.NTS = 0)"
        other = self.stage_2_of(bank)
        if other >= spec.context_banks:
            return f"its stage 2 is bank {other}, of {spec.context_banks} context banks (CBAR.CBNDX)"
        if self.kind(other) != TYPE_STAGE_2:
            return f"its stage 2, bank {other}, has CBAR.TYPE = {self.kind(other)} and not 0"
        obstacle = self._obstacle(other, TYPE_STAGE_2)
        return f"its stage 2, bank {other}: {obstacle}" if obstacle else ""

    def _cfg(self, sctlr: int) -> int:
        return (
            CFG_CFRE * (sctlr >> 5 & 1)
            | CFG_CFIE * (sctlr >> 6 & 1)
            | CFG_CFCFG * (sctlr >> 7 & 1)
            | CFG_HUPCF * (sctlr >> 8 & 1)
        )

    def _granule(self, shift: int) -> int:
        return shift if shift in self._spec.granules else 0

    def _stage_1(self, bank: int, kind: int, obstacle: str) -> tuple[Regime, int]:
        """Regime and context of a bank whose own registers describe stage 1."""
        registers, spec = self._registers, self._spec
        sctlr, tcr, tcr2 = (registers.peek(name, bank) for name in ("CB_SCTLR", "CB_TCR", "CB_TCR2"))
        ttbr0, ttbr1 = registers.peek("CB_TTBR0", bank), registers.peek("CB_TTBR1", bank)
        world, vmid = self.world(bank), self.vmid(bank)
        alone = world != World.NON_HYP
        asid = 0 if alone else (ttbr1 if tcr >> 22 & 1 else ttbr0) >> 48 & self.asid_mask(bank)
        stages = STAGE_1 * (sctlr & _M)
        s2, blocked = -1, self._blocked(bank)
        if kind == TYPE_NESTED and not obstacle:
            s2 = self.stage_2_of(bank)
            stages |= STAGE_2 * (registers.peek("CB_SCTLR", s2) & _M)
            blocked = blocked or self._blocked(s2)
        sep = tcr2 >> 15 & 7
        sign = _SIGN_BITS[sep] if sep < len(_SIGN_BITS) else spec.upstream_bits - 1
        if not stages & STAGE_1:
            sign = INPUT_BITS - 1
        mode = MODE_TRANSLATE if sign == INPUT_BITS - 1 else MODE_SIGN
        if blocked:
            mode = MODE_BLOCKED
        elif not stages:
            mode = MODE_BYPASS
        granule0, granule1 = self._granule(TG0_SHIFTS[tcr >> 14 & 3]), self._granule(TG1_SHIFTS[tcr >> 30])
        if obstacle:  # no stream is led here; who had its way before must find nothing
            stages, mode, granule0, granule1 = STAGE_1, MODE_TRANSLATE, 0, 0
        regime = Regime(
            ttbr0=ttbr0 & _BASE,
            ttbr1=ttbr1 & _BASE,
            t0sz=tcr & 0x3F,
            t1sz=tcr >> 16 & 0x3F,
            granule_shift0=granule0,
            granule_shift1=granule1,
            epd0=bool(tcr >> 7 & 1),
            epd1=alone or bool(tcr >> 23 & 1),
            asid=asid,
            ips_bits=min(IPS_BITS[tcr2 & 7], spec.output_bits),
            af_enabled=not sctlr >> 3 & 1,
            wxn=bool(sctlr >> 9 & 1),
            tbi0=bool(tcr2 >> 5 & 1),
            tbi1=bool(tcr2 >> 6 & 1),
            big_endian=bool(sctlr >> 4 & 1),
            mode=mode,
            cfg=self._cfg(sctlr),
            vmid=vmid,
            stages=stages,
            s2=s2,
            sign_bit=sign,
            mair=registers.peek("CB_MAIR1", bank) << 32 | registers.peek("CB_MAIR0", bank),
            pa_max=spec.output_bits,
        )
        if stages == STAGE_2:  # what the nested pair caches now is stage 2's alone
            return regime, context_of(vmid, bank, 0, stage2=True)
        return regime, context_of(0 if alone else vmid, bank, asid, world)

    def _stage_2(self, bank: int) -> tuple[Regime, int]:
        """Regime and context of a bank whose registers describe stage 2."""
        registers, spec = self._registers, self._spec
        sctlr, tcr = registers.peek("CB_SCTLR", bank), registers.peek("CB_TCR", bank)
        enabled, obstacle = sctlr & _M, self.states[bank].obstacle
        mode = MODE_TRANSLATE if enabled or obstacle else MODE_BYPASS
        if self._blocked(bank) and not obstacle:
            mode = MODE_BLOCKED
        vmid = self.vmid(bank)
        regime = Regime(
            ttbr0=registers.peek("CB_TTBR0", bank) & _BASE,
            t0sz=tcr & 0x3F,
            granule_shift0=0 if obstacle else self._granule(TG0_SHIFTS[tcr >> 14 & 3]),
            ips_bits=min(IPS_BITS[tcr >> 16 & 7], spec.output_bits),
            af_enabled=not sctlr >> 3 & 1,
            big_endian=bool(sctlr >> 4 & 1),
            mode=mode,
            cfg=self._cfg(sctlr),
            vmid=vmid,
            stages=STAGE_2 if enabled or obstacle else 0,
            s2=bank,
            sl0=tcr >> 6 & 3,
            ptw=bool(sctlr >> 13 & 1),
            pa_max=spec.output_bits,
        )
        return regime, context_of(vmid, bank, 0, stage2=True)
