"""Scenario files of the SMMU: tests/scenarios/smmu_*.txt (see `support.datadriven` for their form).

Commands: `do` runs its input lines, which show nothing; `table`, `map`, `unmap`, `protect` build page
tables (those of stage 2 page by page, `identity` for stage-1 tables to lie in); `bank`, `stream`, `free`,
`enable`, `poke`, `peek` program the SMMU through the bus; `read`, `write`, `fetch` are accesses of a stream;
`tlbi` invalidates and syncs; `clear` writes a fault status back, `resume` decides on a stalled access;
`registers`, `pending`, `counters` show what software sees.
"""

from __future__ import annotations

from pathlib import Path

import pytest

from support.datadriven import Command, run_file, scenario_files
from support.smmu_board import (
    BYPASS,
    CBFRSYNRA,
    CFCFG,
    CFIE,
    CFRE,
    CLIENTPD,
    FAR,
    FAULT,
    FSR,
    FSYNR0,
    GFAR,
    GFIE,
    GFRE,
    GFSR,
    GFSYNR0,
    GFSYNR1,
    HUPCF,
    IPAFAR,
    PAGE_2,
    RESUME,
    RETRY,
    SMCFCFG,
    SMR,
    TABLES,
    TERMINATE,
    TLBIALL,
    TLBIALLNSNH,
    TLBIASID,
    TLBIIPAS2,
    TLBIVA,
    TLBIVAA,
    TLBIVAAL,
    TLBIVAL,
    TLBIVMID,
    USFCFG,
    Board,
    M,
    RawTables,
    cb,
    occupancy,
)
from unimem.addresses import fmt
from unimem_node.mmu import PageTable
from unimem_node.mmu.regime import ACCESS_EXECUTE, ACCESS_PRIVILEGED, ACCESS_WRITE
from unimem_node.smmu import Blocked, Fault

CR0_FLAGS = {"usfcfg": USFCFG, "smcfcfg": SMCFCFG, "clientpd": CLIENTPD, "gfie": GFIE, "gfre": GFRE}
VERBS = {"read": 0, "write": ACCESS_WRITE, "fetch": ACCESS_EXECUTE}
BY_VA = {"va": TLBIVA, "vaa": TLBIVAA, "val": TLBIVAL, "vaal": TLBIVAAL}


class Machine:
    """A board and the names its scenario gives to tables."""

    def __init__(self) -> None:
        self.board = Board()
        self.tables: dict[str, PageTable] = {}
        self.stage_2: dict[str, RawTables] = {}
        self.events: list[str] = []

    def handle(self, command: Command) -> str:
        name = command.name
        if name in VERBS:
            return self.access(command, VERBS[name])
        return str(getattr(self, f"do_{name}")(command) or "")

    def do_do(self, command: Command) -> None:
        for inner in command.inner():
            assert self.handle(inner) == "", f"{inner.where} shows something: it needs a block of its own"

    # ---- tables

    def do_table(self, command: Command) -> None:
        if command.integer("stage", 1) == 2:
            self.stage_2[command.text(0)] = RawTables(self.board, 1)
            return
        self.tables[command.text(0)] = self.board.table()

    def do_identity(self, command: Command) -> None:
        self.stage_2[command.text(0)].identity(TABLES, TABLES + 0x1_F000, PAGE_2)

    def do_map(self, command: Command) -> None:
        second = self.stage_2.get(command.text(0))
        if second is not None:
            bits = PAGE_2 & ~(1 << 6 if command.has("no-read") else 0)
            bits &= ~(1 << 7 if command.has("read-only") else 0)
            second.put(command.integer(1), command.integer("to") | bits)
            return
        self.tables[command.text(0)].map(
            command.integer(1),
            command.integer("to"),
            command.integer("length", 0x1000),
            write=not command.has("read-only"),
            user=not command.has("privileged"),
            execute=command.has("executable"),
            access_flag=not command.has("no-af"),
            global_=command.has("global"),
        )

    def do_unmap(self, command: Command) -> None:
        second = self.stage_2.get(command.text(0))
        if second is not None:
            second.put(command.integer(1), 0)
            return
        self.tables[command.text(0)].unmap(command.integer(1), command.integer("length", 0x1000))

    def do_protect(self, command: Command) -> None:
        self.tables[command.text(0)].protect(
            command.integer(1), command.integer("length", 0x1000), write=not command.has("read-only")
        )

    # ---- the SMMU

    def do_bank(self, command: Command) -> None:
        sctlr = M * (not command.has("off")) | CFRE * (not command.has("no-cfre"))
        sctlr |= CFIE * (not command.has("no-cfie"))
        sctlr |= CFCFG * command.has("stall") | HUPCF * command.has("hupcf")
        second = self.stage_2.get(command.text("table"))
        if second is not None:
            self.board.stage_2_bank(
                command.integer(0), second.root, vmid=command.integer("vmid"), sctlr=sctlr
            )
            return
        self.board.bank(
            command.integer(0),
            self.tables[command.text("table")].root,
            asid=command.integer("asid", command.integer(0) + 1),
            vmid=command.integer("vmid", command.integer(0) + 1),
            kind=command.integer("type", 3 if "stage2" in command.options else 1),
            stage_2=command.integer("stage2", 0),
            sctlr=sctlr,
        )

    def do_stream(self, command: Command) -> None:
        where = command.text("to")
        s2cr = {"bypass": BYPASS, "fault": FAULT}.get(where)
        if s2cr is None:
            s2cr = int(where.removeprefix("bank"), 0)
        self.board.stream(command.integer(0), command.integer(1), s2cr, command.integer("mask", 0))

    def do_free(self, command: Command) -> None:
        self.board.write(SMR + 4 * command.integer(0), 0)

    def do_enable(self, command: Command) -> None:
        flags = 0
        for word in command.words:
            flags |= CR0_FLAGS[word]
        self.board.enable(flags)

    def do_poke(self, command: Command) -> None:
        self.board.write(command.integer(0), command.integer(1))

    def do_peek(self, command: Command) -> str:
        return f"{self.board.read(command.integer(0)):#x}"

    def do_tlbi(self, command: Command) -> str:
        kind, bank = command.text(0), command.integer("bank", 0)
        before = occupancy(self.board.smmu)
        if kind in BY_VA:
            operand = command.integer("asid", 0) << 48 | command.integer(1) >> 12
            self.board.write64(cb(bank, BY_VA[kind]), operand)
        elif kind == "asid":
            self.board.write(cb(bank, TLBIASID), command.integer(1))
        elif kind == "ipa":
            self.board.write64(cb(bank, TLBIIPAS2), command.integer(1) >> 12)
        elif kind == "vmid":
            self.board.write(TLBIVMID, command.integer(1))
        else:
            self.board.write({"bank": cb(bank, TLBIALL), "all": TLBIALLNSNH}[kind], 0)
        self.board.sync(bank)
        return f"{before - occupancy(self.board.smmu)} entries gone"

    # ---- what happens

    def access(self, command: Command, access: int) -> str:
        access |= ACCESS_PRIVILEGED * command.has("privileged")
        return self.go(command.integer(0), command.integer(1), access)

    def go(self, stream_id: int, va: int, access: int) -> str:
        before = self.board.smmu.counters()
        result = self.board.go(va, access, stream_id)
        after = self.board.smmu.counters()
        reads = {
            stage: sum(after[f"reads_{stage}l{n}"] - before[f"reads_{stage}l{n}"] for n in range(4))
            for stage in ("", "s2_")
        }
        second = f" and {reads['s2_']} of stage 2" if reads["s2_"] else ""
        how = {
            "bypasses": "bypass",
            "utlb_hits": "micro TLB",
            "macro_hits": "macro TLB",
            "walks": f"walk of {reads['']} reads{second}",
        }
        way = ", ".join(text for name, text in how.items() if after[name] > before[name]) or "no translation"

        def resumed(retry: bool) -> None:
            text = self.go(stream_id, va, access) if retry else "terminated"
            self.events.append(f"stream {stream_id:#x}: {text}")

        if isinstance(result, Blocked):
            self.board.smmu.wait(result.context_bank, resumed)
            return f"blocked in context bank {result.context_bank}"
        if isinstance(result, Fault):
            if result.stalls:
                self.board.smmu.hold(result, resumed)
            return f"{result.describe()}\n  {way}"
        return f"{fmt(result.pa)} ({way})"

    def do_resume(self, command: Command) -> str:
        self.events.clear()
        how = {"retry": RETRY, "terminate": TERMINATE}[command.text(1)]
        self.board.write(cb(command.integer(0), RESUME), how)
        self.board.run()
        return "\n".join(self.events)

    def do_registers(self, command: Command) -> str:
        board = self.board
        if command.text(0) == "global":
            return (
                f"GFSR {board.read(GFSR):#x} GFAR {fmt(board.read64(GFAR))} "
                f"GFSYNR0 {board.read(GFSYNR0):#x} GFSYNR1 {board.read(GFSYNR1):#x}"
            )
        bank = command.integer(0)
        ipa = board.read64(cb(bank, IPAFAR))
        return (
            f"FSR {board.read(cb(bank, FSR)):#x} FAR {fmt(board.read64(cb(bank, FAR)))} "
            f"FSYNR0 {board.read(cb(bank, FSYNR0)):#x} CBFRSYNRA {board.read(CBFRSYNRA + 4 * bank):#x}"
            + (f" IPAFAR {fmt(ipa)}" if ipa else "")
        )

    def do_clear(self, command: Command) -> None:
        where = GFSR if command.text(0) == "global" else cb(command.integer(0), FSR)
        self.board.write(where, self.board.read(where))

    def do_pending(self, command: Command) -> str:
        return ", ".join(f"SPI {spi}" for spi in self.board.pending) or "none"

    def do_counters(self, command: Command) -> str:
        counters = self.board.smmu.counters()
        return "\n".join(f"{name} {counters[name]}" for name in command.words)


@pytest.mark.parametrize("path", scenario_files("smmu_*.txt"), ids=lambda path: path.stem)
def test_scenario(path: Path) -> None:
    run_file(path, Machine().handle)
