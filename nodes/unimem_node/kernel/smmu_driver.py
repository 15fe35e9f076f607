"""The SMMU driver: streams to context banks, context banks to page tables (MMU-500).

Bring-up, the order of writes to a context bank, and the rule for overlapping stream entries are those of
Linux' arm-smmu (`arm_smmu_device_reset`, `arm_smmu_write_context_bank`, `arm_smmu_find_sme`). How many banks
and stream match groups there are is read from the ID registers.

Two ways to give an engine addresses, as in the thesis. *Dynamic*: the engine's stream leads to a bank whose
TTBR0 is the root of a process' own page tables, with the process' ASID, so every address the process has
works, and nothing is mapped for the engine. *Static*: the bank has page tables of its own, into which
mappings are inserted beforehand (`StaticDomain`).
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from typing import Final

from unimem.addresses import fmt
from unimem_node.bus import Bus
from unimem_node.kernel import smmu_registers as reg
from unimem_node.kernel.asids import Asids
from unimem_node.kernel.context_bank import (
    Bank,
    NoContextBank,
    NoStreamMatch,
    SmmuTimeout,
    SmmuUnsuited,
    StreamConflict,
    Tables,
    write_bank,
    write_control,
)
from unimem_node.kernel.faults import FaultReport, read_context_fault, read_global_fault
from unimem_node.kernel.frames import PAGE, FrameAllocator
from unimem_node.kernel.processes import Process
from unimem_node.kernel.smmu_probe import probe, probe_stream_bits
from unimem_node.kernel.static_domain import StaticDomain
from unimem_node.kernel.table_bus import TableBus

#: A sync that is not done after this many polls never will be.
_POLLS: Final = 10_000
#: Invalidate page by page up to this many pages, beyond it everything of the ASID at once.
_SINGLE_PAGES: Final = 16


class _Entry:
    """A stream match group in use. `users`: the streams (id, mask) that were attached through it."""

    __slots__ = ("bank", "mask", "stream_id", "users")

    def __init__(self, stream_id: int, mask: int, bank: Bank) -> None:
        self.stream_id = stream_id
        self.mask = mask
        self.bank = bank
        self.users = {(stream_id, mask)}


class SmmuDriver:
    """Drives the SMMU at `base` through the bus. Call `reset` once; until then everything bypasses.

    `stream_name` says what a stream ID is, for messages. `on_fault` is called with each `FaultReport`, and
    says whether a stalled access stays held, until `resume`.
    `clean_tables` = False forgets to clean page tables where the walks are not coherent.
    """

    def __init__(
        self,
        bus: Bus,
        base: int,
        frames: FrameAllocator,
        asids: Asids,
        *,
        on_fault: Callable[[FaultReport], bool],
        stream_name: Callable[[int], str] = lambda _: "",
        now: Callable[[], int] = lambda: 0,
        clean_tables: bool = True,
    ) -> None:
        self._bus = bus
        self._base = base
        self._frames = frames
        self._asids = asids
        self._on_fault = on_fault
        self._stream_name = stream_name
        self._now = now
        self._reports = 0
        self._process_faults = 0  # CFCFG and HUPCF of SCTLR, for banks of processes
        self.syncs = 0  # TLB syncs waited for
        #: What the SMMU is.
        self.features = features = probe(bus, base)
        if not (features.stage_1 and features.stream_matching and PAGE.bit_length() - 1 in features.granules):
            raise SmmuUnsuited(
                f"the SMMU at {fmt(base)} needs stage 1, stream matching and 4 KiB granules: {features}"
            )
        self.match_groups = features.match_groups
        self.context_banks = features.context_banks
        self._page = features.page
        self._banks_at = base + features.banks_at
        self._stream_bits = self._mask_bits = reg.STREAM_MASK
        #: Memory for page tables that this SMMU walks.
        self.tables = TableBus(bus, clean=clean_tables and not features.coherent_walks)
        self._banks: dict[int, Bank] = {}
        self._by_asid: dict[int, Bank] = {}
        self._entries: dict[int, _Entry] = {}

    # ---- bring-up

    def reset(self, *, strict: bool = True) -> None:
        """Bring the SMMU up: no stream is routed. Such a stream faults or, unless `strict`, bypasses.

        Nothing that a stream may do changes before the last write, of sCR0: until then all bypass, unless who
        was here before had switched translation on.
        """
        bus, base = self._bus, self._base
        bus.write32(base + reg.GFSR, bus.read32(base + reg.GFSR))
        for n in range(self.match_groups):
            bus.write32(base + reg.SMR + 4 * n, 0)
            bus.write32(base + reg.S2CR + 4 * n, reg.S2CR_FAULT)
        self._stream_bits, self._mask_bits = probe_stream_bits(bus, base, 0)
        for n in range(self.context_banks):
            bank = self._bank(n)
            bus.write32(bank + reg.SCTLR, 0)
            bus.write32(bank + reg.FSR, reg.FSR_FAULTS | reg.MULTI)
        self._reset_implementation()
        bus.write32(base + reg.TLBIALLH, 0)
        bus.write32(base + reg.TLBIALLNSNH, 0)
        self._sync(base + reg.TLBGSYNC, base + reg.TLBGSTATUS)
        cr0 = bus.read32(base + reg.CR0)
        cr0 |= reg.CR0_GFRE | reg.CR0_GFIE | reg.CR0_GCFGFRE | reg.CR0_GCFGFIE | reg.CR0_VMIDPNE | reg.CR0_PTM
        cr0 &= ~(reg.CR0_CLIENTPD | reg.CR0_FB | reg.CR0_BSU | reg.CR0_USFCFG)
        bus.write32(base + reg.CR0, cr0 | (reg.CR0_USFCFG if strict else 0))

    def _reset_implementation(self) -> None:
        """What the MMU-500 wants besides (Linux' `arm_mmu500_reset`).

        From r2 on CACHE_LOCK ignores writes to ACR and to the banks' ACTLR. There are two copies of ACR: this
        one, and the non-secure one that counts for non-secure streams; to a non-secure CPU they are one.
        """
        bus, base = self._bus, self._base
        for copy in (reg.ACR, reg.NSACR):
            acr = bus.read32(base + copy)
            if self.features.major >= 2:
                acr &= ~reg.ACR_CACHE_LOCK
            bus.write32(base + copy, acr | reg.ACR_SMTNMB_TLBEN | reg.ACR_S2CRB_TLBEN)
        for n in range(self.context_banks):  # no prefetch: errata 841119, 826419
            actlr = self._bank(n) + reg.ACTLR
            bus.write32(actlr, bus.read32(actlr) & ~reg.ACTLR_CPRE)

    def set_strict(self, strict: bool) -> None:
        """Let a stream without a route fault (sCR0.USFCFG = 1), or bypass the SMMU."""
        cr0 = self._bus.read32(self._base + reg.CR0) & ~reg.CR0_USFCFG
        self._bus.write32(self._base + reg.CR0, cr0 | (reg.CR0_USFCFG if strict else 0))

    # ---- streams

    def attach(self, stream_id: int, mask: int, process: Process) -> int:
        """Lead a stream (those equal to `stream_id` but for the bits of `mask`) to `process`' page tables.

        Returns the context bank; all streams of a process share one. Attaching again is without effect.
        Raises `StreamConflict`, `NoStreamMatch` or `NoContextBank`, and has changed nothing then.
        """
        owner = f"process {process.pdid}" if process.pdid else f"ASID {process.asid}"
        return self._attach(stream_id, mask, Tables(owner, process.asid, process.table.root, process)).index

    def attach_static(self, stream_id: int, mask: int = 0) -> StaticDomain:
        """Lead a stream to page tables of its own, empty at first; errors as `attach`."""
        asid = self._asids.allocate()
        domain = None
        try:
            domain = StaticDomain(self, asid, self.tables, self._frames)
            tables = Tables(f"the static domain of stream {stream_id:#x}", asid, domain.table.root, None)
            domain.bank = self._attach(stream_id, mask, tables).index
        except BaseException:
            if domain is not None:
                domain.discard()
            self._asids.free(asid)
            raise
        return domain

    def detach(self, stream_id: int, mask: int = 0) -> None:
        """Undo `attach`; the last stream of a bank frees it and its TLB entries. Raises `ValueError`."""
        for number, entry in self._entries.items():
            if (stream_id, mask) in entry.users:
                entry.users.remove((stream_id, mask))
                if not entry.users:
                    self._drop(number)
                return
        raise ValueError(f"stream {stream_id:#x} with mask {mask:#x} is not attached")

    def detach_all(self, asid: int) -> None:
        """Detach every stream that leads to the tables with this ASID."""
        for number in [n for n, entry in self._entries.items() if entry.bank.tables.asid == asid]:
            self._drop(number)

    def release(self, domain: StaticDomain) -> None:
        """Detach a static domain; its ASID is free again."""
        self.detach_all(domain.asid)
        self._asids.free(domain.asid)

    def bank_of(self, asid: int) -> int | None:
        """Return the context bank that walks the tables with this ASID, or None."""
        bank = self._by_asid.get(asid)
        return None if bank is None else bank.index

    def streams_of(self, asid: int) -> int:
        """Return how many stream entries lead to the tables with this ASID."""
        bank = self._by_asid.get(asid)
        return 0 if bank is None else bank.entries

    def banks(self) -> list[Bank]:
        """Return the context banks in use, by index."""
        return [self._banks[n] for n in sorted(self._banks)]

    @property
    def free_match_groups(self) -> int:
        """Number of stream match groups not in use."""
        return self.match_groups - len(self._entries)

    # ---- translations changed

    def invalidate(self, asid: int, va: int, length: int) -> None:
        """Make the TLBs forget ``[va, va + length)`` of an ASID, and wait until they have."""
        bank = self._by_asid.get(asid)
        if bank is None:
            return
        page = bank.page
        if length > _SINGLE_PAGES * PAGE:
            self._bus.write32(page + reg.TLBIASID, asid)
        else:
            for at in range(va, va + length, PAGE):
                self._bus.write64(page + reg.TLBIVA, asid << reg.TTBR_ASID_SHIFT | at >> 12)
        self._sync(page + reg.TLBSYNC, page + reg.TLBSTATUS)

    # ---- faults

    def set_stall(self, stall: bool, *, hupcf: bool = False) -> None:
        """Let faults of processes stall (SCTLR.CFCFG), or terminate; `hupcf`: others may pass a stalled one.

        Static domains always terminate: nothing would be mapped for them meanwhile.
        """
        self._process_faults = (reg.SCTLR_CFCFG | (reg.SCTLR_HUPCF if hupcf else 0)) if stall else 0
        for bank in self._banks.values():
            write_control(self._bus, bank, self._on_fault_of(bank))

    def stalled(self, asid: int) -> bool:
        """Whether an access is stalled in the bank that walks the tables with this ASID."""
        bank = self._by_asid.get(asid)
        return bank is not None and bool(self._bus.read32(bank.page + reg.FSR) & reg.FSR_SS)

    def resume(self, asid: int, *, retry: bool) -> None:
        """Let the held access of the bank of `asid` try again, or end; others behind it try again after it.

        What they recorded while it was held is cleared: it will be recorded anew.
        """
        bank = self._by_asid.get(asid)
        if bank is None or not bank.held:
            return
        bank.held = False
        self._bus.write32(bank.page + reg.FSR, reg.FSR_FAULTS | reg.MULTI)
        self._bus.write32(bank.page + reg.RESUME, reg.RESUME_RETRY if retry else reg.RESUME_TERMINATE)
        write_control(self._bus, bank, self._on_fault_of(bank))  # the interrupt is on again

    def interrupt(self) -> None:
        """Serve the interrupt: report what each bank and the global registers recorded, and clear it.

        A stalled access that nobody holds is terminated, since nobody else would end the wait.
        """
        bus, base = self._bus, self._base
        for index in range(self.context_banks):  # all: what is left recorded would hold the line for ever
            page = self._bank(index)
            fsr = bus.read32(page + reg.FSR)
            bank = self._banks.get(index)
            if not fsr & (reg.FSR_FAULTS | reg.FSR_SS) or (bank is not None and bank.held):
                continue
            keep = self._report(read_context_fault(bus, page, base + self._page, index, fsr), bank)
            bus.write32(page + reg.FSR, fsr)
            if fsr & reg.FSR_SS and keep and bank is not None:
                bank.held = True
                write_control(bus, bank, self._on_fault_of(bank))
            elif fsr & reg.FSR_SS:
                bus.write32(page + reg.RESUME, reg.RESUME_TERMINATE)
        gfsr = bus.read32(base + reg.GFSR)
        if gfsr & reg.GFSR_FAULTS:
            self._report(read_global_fault(bus, base, gfsr), None)
            bus.write32(base + reg.GFSR, gfsr)

    def _report(self, record: FaultReport, bank: Bank | None) -> bool:
        """Add what only the driver knows: whose bank it is, what the stream is called, when, which number."""
        self._reports += 1
        tables = bank.tables if bank is not None else None
        return self._on_fault(
            replace(
                record,
                number=self._reports,
                time_ps=self._now(),
                stream_name=self._stream_name(record.stream_id),
                asid=tables.asid if tables is not None else None,
                pdid=tables.process.pdid if tables is not None and tables.process is not None else None,
            )
        )

    # ---- the rest is private

    def _attach(self, stream_id: int, mask: int, tables: Tables) -> Bank:
        if stream_id & ~self._stream_bits or mask & ~self._mask_bits:
            bits = self._stream_bits.bit_length()
            raise ValueError(f"stream {stream_id:#x}, mask {mask:#x}: stream IDs have {bits} bits")
        bank = self._by_asid.get(tables.asid)
        entry = self._find_entry(stream_id, mask, bank)
        if entry is not None:
            entry.users.add((stream_id, mask))
            return entry.bank
        number = next((n for n in range(self.match_groups) if n not in self._entries), None)
        if number is None:
            raise NoStreamMatch(
                f"stream {stream_id:#x}: all {self.match_groups} stream match groups are in use; "
                "one entry with a mask (0x3f for a PL port) covers many streams"
            )
        if bank is None:
            bank = self._new_bank(tables)
        self._entries[number] = _Entry(stream_id, mask, bank)
        bank.entries += 1
        self._bus.write32(self._base + reg.S2CR + 4 * number, reg.S2CR_TRANSLATE | bank.index)
        self._bus.write32(self._base + reg.SMR + 4 * number, reg.SMR_VALID | mask << 16 | stream_id)
        return bank

    def _find_entry(self, stream_id: int, mask: int, bank: Bank | None) -> _Entry | None:
        """Return the entry that covers the stream and leads to `bank`; refuse overlaps (`find_sme`)."""
        for entry in self._entries.values():
            if (entry.stream_id ^ stream_id) & ~(entry.mask | mask) & reg.STREAM_MASK:
                continue  # no stream matches both
            owner = entry.bank.tables.owner
            known = f"stream {entry.stream_id:#x} with mask {entry.mask:#x}, which leads to {owner}"
            if mask & ~entry.mask:
                raise StreamConflict(f"stream {stream_id:#x} with mask {mask:#x} overlaps {known}")
            if entry.bank is not bank:
                raise StreamConflict(f"stream {stream_id:#x} is taken: it matches {known}")
            return entry
        return None

    def _new_bank(self, tables: Tables) -> Bank:
        index = next((n for n in range(self.context_banks) if n not in self._banks), None)
        if index is None:
            owners = ", ".join(bank.tables.owner for bank in self.banks())
            raise NoContextBank(
                f"{tables.owner} finds no context bank: all {self.context_banks} are in use, by {owners}"
            )
        bank = self._banks[index] = self._by_asid[tables.asid] = Bank(index, self._bank(index), tables)
        space_1 = self._base + self._page
        write_bank(self._bus, bank, space_1, self.features.output_code, self._on_fault_of(bank))
        return bank

    def _on_fault_of(self, bank: Bank) -> int:
        """CFCFG and HUPCF of a bank's SCTLR."""
        return self._process_faults if bank.tables.process is not None else 0

    def _drop(self, number: int) -> None:
        """Take a stream entry out of service, and its bank when it was the last."""
        entry = self._entries.pop(number)
        self._bus.write32(self._base + reg.SMR + 4 * number, 0)
        self._bus.write32(self._base + reg.S2CR + 4 * number, reg.S2CR_FAULT)
        bank = entry.bank
        bank.entries -= 1
        if bank.entries:
            return
        page = bank.page
        if self._bus.read32(page + reg.FSR) & reg.FSR_SS:  # what waits in the bank ends with it
            self._bus.write32(page + reg.RESUME, reg.RESUME_TERMINATE)
        self._bus.write32(page + reg.TLBIASID, bank.tables.asid)
        self._sync(page + reg.TLBSYNC, page + reg.TLBSTATUS)
        self._bus.write32(page + reg.SCTLR, 0)
        self._bus.write32(page + reg.FSR, reg.FSR_FAULTS | reg.MULTI)
        del self._banks[bank.index], self._by_asid[bank.tables.asid]

    def _bank(self, index: int) -> int:
        """Return the address of a context bank's page."""
        return self._banks_at + index * self._page

    def _sync(self, command: int, status: int) -> None:
        self.syncs += 1
        self._bus.write32(command, 0)
        for _ in range(_POLLS):
            if not self._bus.read32(status) & 1:
                return
        raise SmmuTimeout(f"TLB sync at {fmt(command)} does not end")
