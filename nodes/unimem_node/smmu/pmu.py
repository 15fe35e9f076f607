"""The performance monitor: groups of four counters, one group for each TBU (SMMUv2, "Performance monitors").

Nothing counts while it happens. Translation leaves totals for each lane (`Arrays.counters`), and what a
counter must show is worked out from their growth when somebody looks: before a counter is read or set, before
the monitor's or the streams' configuration changes, and at `poll`, which bus masters call after their
transfers so that an overflow interrupt comes when it is due.

A group counts for all traffic of its TBU (PMCGCR.TCEFCFG = 0), for the streams that PMCGSMR matches (1), or
for those that lead to the context bank NDX (2). Streams of a TBU beyond the fifteenth share a lane and are
counted with TCEFCFG = 0 only. Events: cycles, a 64th of them, refills of the TBU's TLB and accesses (all,
reads, writes each). PMEVTYPER's filters by privilege and security store and have no effect, as has export
(PMCGCR.X).

A group with CBAEN = 1 and TCEFCFG = 2 shows in the page of the bank NDX as well, there with a PMCR of its
own.
"""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from typing import Final

from unimem_node.bus.registers import RegisterFile
from unimem_node.clock import Scheduler
from unimem_node.smmu.arrays import C_BYPASSES, C_MACRO_HITS, C_UTLB_HITS, C_WALKS, LANE_TBU
from unimem_node.smmu.bank_registers import PM_VIEW_COUNTERS
from unimem_node.smmu.spec import SmmuSpec
from unimem_node.smmu.streams import Lanes
from unimem_node.smmu.tlb import Int64s

_PER_GROUP: Final = PM_VIEW_COUNTERS
_FULL: Final = 1 << 32
_PMCR_E: Final = 1 << 0
_PMCR_P: Final = 1 << 1
_PS_TIMES_MHZ: Final = 1_000_000

_REFILLS: Final = (C_MACRO_HITS, C_WALKS)
_ACCESSES: Final = (C_BYPASSES, C_UTLB_HITS, C_MACRO_HITS, C_WALKS)


def _both(columns: tuple[int, ...]) -> tuple[int, ...]:
    return tuple(column + kind for column in columns for kind in (0, 1))


def _writes(columns: tuple[int, ...]) -> tuple[int, ...]:
    return tuple(column + 1 for column in columns)


CYCLES: Final = 0x00
CYCLES_64: Final = 0x01
#: Columns of `Arrays.counters` that an event is the sum of.
EVENTS: Final = {
    0x08: _both(_REFILLS),
    0x09: _REFILLS,
    0x0A: _writes(_REFILLS),
    0x10: _both(_ACCESSES),
    0x11: _ACCESSES,
    0x12: _writes(_ACCESSES),
}


class PerformanceMonitor:
    """`counts` are the totals of translation, `bank_of` tells the bank of a stream now (-1: none)."""

    def __init__(
        self,
        spec: SmmuSpec,
        registers: RegisterFile,
        counts: Int64s,
        lanes: Lanes,
        bank_of: Callable[[int], int],
        scheduler: Scheduler,
        changed: Callable[[], None],
    ) -> None:
        self._registers = registers
        self._counts = counts
        self._before = counts.copy()
        self._lanes = lanes
        self._bank_of = bank_of
        self._scheduler = scheduler
        self._clock_mhz = spec.timing.clock_mhz
        self._cycles = 0
        self._groups = spec.tbus
        self._counters = _PER_GROUP * spec.tbus
        self._changed = changed
        self._bank_enables = 0  # PMCR.E of the banks' views, a bit each
        self._enabled = self._interrupts = self._overflows = 0  # a bit for each counter
        self._counting: list[tuple[int, int]] = []  # (group, counters of it that count)
        self._attach()
        self._attach_views(spec.context_banks)

    @property
    def interrupt(self) -> bool:
        """Whether a counter that overflowed asks for the interrupt."""
        return bool(self._overflows & self._interrupts)

    @property
    def counting(self) -> bool:
        """Whether any counter is enabled."""
        return bool(self._counting)

    def poll(self) -> None:
        """Take over what happened; next to nothing to do while no counter is enabled."""
        if self._counting:
            self.sync()

    def reset(self) -> None:
        """Out of reset nothing counts."""
        self._enabled = self._interrupts = self._overflows = self._bank_enables = 0
        self._show()
        self._configure()

    def sync(self) -> None:
        """Add to the counters what happened since the last time, by the configuration that was in force."""
        now = self._cycle()
        cycles, cycles_64 = now - self._cycles, now // 64 - self._cycles // 64
        self._cycles = now
        growth = self._counts - self._before
        self._before[:] = self._counts
        overflows = self._overflows
        for group, counters in self._counting:
            rows = growth[self._lanes_of(group)].sum(axis=0).tolist()
            for counter in range(_PER_GROUP * group, _PER_GROUP * (group + 1)):
                if not counters >> counter & 1:
                    continue
                event = self._registers.peek("PMEVTYPER", counter) & 0xFFFF
                if event == CYCLES:
                    more = cycles
                elif event == CYCLES_64:
                    more = cycles_64
                else:
                    more = sum(rows[column] for column in EVENTS.get(event, ()))
                total = self._registers.peek("PMEVCNTR", counter) + more
                self._registers.poke("PMEVCNTR", total % _FULL, counter)
                if total >= _FULL:
                    self._overflows |= 1 << counter
        if self._overflows != overflows:
            self._show()
            self._changed()

    # ---- counting

    def _cycle(self) -> int:
        return self._scheduler.now_ps * self._clock_mhz // _PS_TIMES_MHZ

    def _lanes_of(self, group: int) -> list[int]:
        """Lanes whose traffic a group counts."""
        filtered = self._registers.peek("PMCGCR", group) >> 8 & 3
        own = [lane for lane in self._lanes.streams if lane & LANE_TBU == group]
        if filtered == 0:
            return [group, *own]
        streams = self._lanes.streams
        if filtered == 1:
            smr = self._registers.peek("PMCGSMR", group)
            return [lane for lane in own if not (streams[lane] ^ smr) & ~(smr >> 16) & 0x7FFF]
        bank = self._registers.peek("PMCGCR", group) & 0xFF
        return [lane for lane in own if self._bank_of(streams[lane]) == bank] if filtered == 2 else []

    def _configure(self) -> None:
        """Work out which counters count from now on."""
        everything = self._registers.peek("PMCR") & _PMCR_E
        counting = []
        for group in range(self._groups):
            cgcr = self._registers.peek("PMCGCR", group)
            own = _in_view(cgcr) and self._bank_enables >> (cgcr & 0xFF) & 1
            counters = self._enabled & 0xF << _PER_GROUP * group
            if cgcr >> 11 & 1 and counters and (everything or own):
                counting.append((group, counters))
        if counting and not self._counting:
            self._before[:] = self._counts
            self._cycles = self._cycle()
        self._counting = counting

    def _show(self) -> None:
        """Let the registers of one bit for each counter show their masks."""
        for names, mask in (
            (("PMCNTENSET", "PMCNTENCLR"), self._enabled),
            (("PMINTENSET", "PMINTENCLR"), self._interrupts),
            (("PMOVSCLR", "PMOVSSET"), self._overflows),
        ):
            for name in names:
                for word in range(self._registers.register(name).count):
                    self._registers.poke(name, mask >> 32 * word, word)

    # ---- registers

    def _attach(self) -> None:
        registers = self._registers
        registers.on_read("PMEVCNTR", lambda index: self.poll(), refreshes=True)
        registers.on_write("PMEVCNTR", self._set_counter)
        for name in ("PMEVTYPER", "PMCGCR", "PMCGSMR"):
            registers.on_write(name, self._reconfigured(name))
        registers.on_write("PMCR", self._control)
        for name in _SWITCHES:
            registers.on_write(name, partial(self._switch_written, name))
            registers.on_read(name, lambda word: self.poll(), refreshes=True)

    def _set_counter(self, index: int, old: int, written: int) -> None:
        self._registers.poke("PMEVCNTR", old, index)
        self.poll()
        self._registers.poke("PMEVCNTR", written, index)

    def _reconfigured(self, name: str) -> Callable[[int, int, int], None]:
        def action(index: int, old: int, written: int) -> None:
            new = self._registers.peek(name, index)
            self._registers.poke(name, old, index)
            self.poll()
            self._registers.poke(name, new, index)
            self._configure()

        return action

    def _control(self, index: int, old: int, written: int) -> None:
        self.poll()
        if written & _PMCR_P:
            self._clear(range(self._counters))
        self._configure()

    def _clear(self, counters: range) -> None:
        for counter in counters:
            self._registers.poke("PMEVCNTR", 0, counter)

    def _switch_written(self, name: str, word: int, old: int, written: int) -> None:
        self._switch(name, written << 32 * word)

    def _switch(self, name: str, bits: int) -> None:
        """A write to one of the registers with a bit for each counter."""
        self.poll()
        bits &= (1 << self._counters) - 1
        if name == "PMCNTENSET":
            self._enabled |= bits
        elif name == "PMCNTENCLR":
            self._enabled &= ~bits
        elif name == "PMINTENSET":
            self._interrupts |= bits
        elif name == "PMINTENCLR":
            self._interrupts &= ~bits
        elif name == "PMOVSSET":
            self._overflows |= bits
        else:
            self._overflows &= ~bits
        self._show()
        self._configure()
        self._changed()

    # ---- the banks' views

    def _attach_views(self, banks: int) -> None:
        registers = self._registers
        for n in range(_PER_GROUP):
            for name in ("PMEVCNTR", "PMEVTYPER"):
                registers.on_read(f"CB_{name}{n}", self._view_read(name, n), refreshes=True)
                registers.on_write(f"CB_{name}{n}", self._view_write(name, n))
        for name in _SWITCHES:
            registers.on_read(f"CB_{name}", partial(self._view_mask, name), refreshes=True)
            registers.on_write(f"CB_{name}", partial(self._view_switch, name))
        registers.on_read("CB_PMCR", self._view_shows_control, refreshes=True)
        registers.on_write("CB_PMCR", self._view_control)

    def _group_of(self, bank: int) -> int | None:
        """The group that shows in a bank's page: the first that names it."""
        for group in range(self._groups):
            cgcr = self._registers.peek("PMCGCR", group)
            if _in_view(cgcr) and cgcr & 0xFF == bank:
                return group
        return None

    def _view_read(self, name: str, n: int) -> Callable[[int], None]:
        def action(bank: int) -> None:
            group, value = self._group_of(bank), 0
            if group is not None:
                self.poll()
                value = self._registers.peek(name, _PER_GROUP * group + n)
            self._registers.poke(f"CB_{name}{n}", value, bank)

        return action

    def _view_write(self, name: str, n: int) -> Callable[[int, int, int], None]:
        def action(bank: int, old: int, written: int) -> None:
            group = self._group_of(bank)
            if group is not None:
                register = self._registers.register(name)
                self._registers.write(register.at(_PER_GROUP * group + n), 4, written & 0xFFFF_FFFF)

        return action

    def _view_mask(self, name: str, bank: int) -> None:
        group, value = self._group_of(bank), 0
        if group is not None:
            self.poll()
            at = _PER_GROUP * group
            value = self._registers.peek(name, at // 32) >> at % 32 & 0xF
        self._registers.poke(f"CB_{name}", value, bank)

    def _view_switch(self, name: str, bank: int, old: int, written: int) -> None:
        group = self._group_of(bank)
        if group is not None:
            self._switch(name, (written & 0xF) << _PER_GROUP * group)

    def _view_shows_control(self, bank: int) -> None:
        self._registers.poke("CB_PMCR", self._bank_enables >> bank & 1, bank)

    def _view_control(self, bank: int, old: int, written: int) -> None:
        group = self._group_of(bank)
        if group is None:
            return
        self.poll()
        self._bank_enables = self._bank_enables & ~(1 << bank) | (written & _PMCR_E) << bank
        if written & _PMCR_P:
            self._clear(range(_PER_GROUP * group, _PER_GROUP * (group + 1)))
        self._configure()


_SWITCHES: Final = ("PMCNTENSET", "PMCNTENCLR", "PMINTENSET", "PMINTENCLR", "PMOVSCLR", "PMOVSSET")


def _in_view(cgcr: int) -> bool:
    """CBAEN, for a group that counts a bank's traffic."""
    return bool(cgcr >> 10 & 1) and cgcr >> 8 & 3 == 2
