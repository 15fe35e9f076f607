"""The RDMA exchange as scenario files: commands, then what must be seen; compiled and readable alike.

Frames stay in the hands of the scenario: `pump` shows what a node wants to send, `deliver` hands the oldest
frame of a direction over (or drops, repeats, or damages it), `run` lets everything go its way, `do` is for
several commands, one a line. Addresses are numbers, or ``n1+0x100``: in the window of node 1.
"""

from __future__ import annotations

from collections import defaultdict, deque
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from support.datadriven import Command, parse, run_file, scenario_files
from support.rdma import SMALL, Cluster, TestNode, work
from support.rdma_invariants import check_tables
from unimem.addresses import fmt, window_of
from unimem.wire import TIMING_PARTS, CompletionFlags, Op, Side, Status, WorkFlags
from unimem_node.fabric import RdmaSpec
from unimem_node.fabric.network import Network
from unimem_node.fabric.packets import ATOMICS, PACKET, describe, seal_header, seal_packet

_FLAGS = (WorkFlags.FENCE, WorkFlags.ORDERED, WorkFlags.ACCEPTED)


class Machine:
    """What the commands of one file act on."""

    def __init__(self, fast: bool) -> None:
        self.fast = fast
        self.cluster = Cluster(0)
        self.network = Network("pair", 2, RdmaSpec())
        self.wires: dict[tuple[int, int], deque[np.ndarray]] = defaultdict(deque)
        self.delivered: dict[tuple[int, int], np.ndarray] = {}

    def handle(self, command: Command) -> str:
        output = str(getattr(self, f"do_{command.name.replace('-', '_')}")(command))
        for node in self.cluster.nodes:
            check_tables(node.ni)
        return output

    # ---- helpers

    def node(self, command: Command, key: str | int = 0) -> TestNode:
        return self.cluster.nodes[int(command.text(key).removeprefix("n"))]

    def address(self, text: str) -> int:
        if text.startswith("n"):
            index, _, offset = text[1:].partition("+")
            return window_of(int(index)).start + int(offset or "0", 0)
        return int(text, 0)

    def completions(self) -> str:
        return "\n".join(
            f"n{node.index}: {self.completion(row)}"
            for node in self.cluster.nodes
            for row in node.ni.take_completions()
        )

    def completion(self, row: np.void) -> str:
        parts = [int(ps) for ps in row["parts_ps"]]
        assert sum(parts) == row["done_ps"] - row["posted_ps"], "the parts do not add up"
        head = f"#{row['wr_id']} {Op(int(row['op'])).name if row['op'] in list(Op) else row['op']}"
        if row["status"] == Status.OK:
            value = f", found {int(row['value']):#x}" if row["op"] in ATOMICS else ""
            return f"{head} OK, {row['bytes']} bytes{value}"
        verdict = "definite" if row["flags"] & CompletionFlags.DEFINITE else "INDEFINITE"
        text = f"{head} {Status(int(row['status'])).name}, {verdict}, {row['bytes']} bytes done"
        if row["side"]:
            text += f"; {Side(int(row['side'])).name.lower()} n{row['node']}"
        if row["fsr"]:
            access = "write" if row["access"] else "read"
            text += (
                f", {access} of {fmt(row['iova'])} by stream {row['stream_id']:#x} bank {row['context_bank']}"
            )
            text += (
                f", stage {row['stage']} level {row['level']}, FSR {row['fsr']:#x} FSYNR0 {row['fsynr0']:#x}"
            )
        return text

    # ---- commands

    def do_do(self, command: Command) -> str:
        """Several commands, one a line."""
        blocks, _ = parse("".join(f"{line}\n----\n\n" for line in command.input.splitlines()), command.where)
        return "\n".join(filter(None, map(self.handle, blocks)))

    def do_cluster(self, command: Command) -> str:
        spec = SMALL if command.has("small") else RdmaSpec()
        numbers = {key: int(value, 0) for key, value in command.options.items() if key != "nodes"}
        spec = replace(spec, **numbers)  # type: ignore[arg-type]
        self.cluster = Cluster(command.integer("nodes", 2), fast=self.fast, spec=spec)
        return ""

    def do_open(self, command: Command) -> str:
        self.node(command).open(command.integer("pdid"))
        return ""

    def do_map(self, command: Command) -> str:
        at = self.address(command.text("at"))
        self.node(command).map(
            command.integer("pdid", 7), at, command.integer("length"), write=not command.has("ro")
        )
        return ""

    def do_map_physical(self, command: Command) -> str:
        """One page at a physical address of one's choice."""
        node, at = self.node(command), self.address(command.text("at"))
        node.processes[command.integer("pdid", 7)].table.map(at, command.integer("pa"), 4096)
        return ""

    def do_clear_fault(self, command: Command) -> str:
        self.node(command).clear_fault(command.integer("pdid", 7))
        return ""

    def do_forget_stream(self, command: Command) -> str:
        self.node(command).forget_stream(command.integer("slot"))
        return ""

    def do_share(self, command: Command) -> str:
        at = self.address(command.text("at"))
        node, length = self.node(command), command.integer("length")
        node.share(
            command.integer("owner", 7), command.integer("pdid"), at, length, write=not command.has("ro")
        )
        return ""

    def do_unmap(self, command: Command) -> str:
        at = self.address(command.text("at"))
        self.node(command).unmap(command.integer("pdid", 7), at, command.integer("length"))
        return ""

    def do_poke(self, command: Command) -> str:
        data = (
            command.text("text").encode() if "text" in command.options else bytes.fromhex(command.text("hex"))
        )
        at = self.address(command.text("at"))
        self.node(command).poke(command.integer("pdid", 7), at, data * command.integer("times", 1))
        return ""

    def do_peek(self, command: Command) -> str:
        at = self.address(command.text("at"))
        data = self.node(command).peek(command.integer("pdid", 7), at, command.integer("length"))
        return data.decode() if data.isascii() and data.decode().isprintable() else data.hex(" ", 4)

    def do_post(self, command: Command) -> str:
        op = Op[command.text(1)]
        flags = sum(int(flag) for flag in _FLAGS if command.has((flag.name or "").lower()))
        fields = {
            "wr_id": command.integer("id", 1),
            "pdid": command.integer("pdid", 7),
            "src": self.address(command.text("src", "0")),
            "dst": self.address(command.text("dst", "0")),
            "length": command.integer("length", 8),
            "operand": command.integer("operand", 0),
            "compare": command.integer("compare", 0),
            "flags": flags,
            "deadline_us": command.integer("deadline", 0),
        }
        if "signal" in command.options:  # the word that becomes `operand` after the data
            fields["flags"] |= int(WorkFlags.SIGNAL)
            fields["compare"] = self.address(command.text("signal"))
        self.node(command).ni.post(work(op, **fields))
        return ""

    def do_run(self, command: Command) -> str:
        self.cluster.run()
        return self.completions()

    def do_completions(self, command: Command) -> str:
        return self.completions()

    def do_timing(self, command: Command) -> str:
        self.cluster.run()
        rows = [row for node in self.cluster.nodes for row in node.ni.take_completions()]
        assert len(rows) == 1
        parts = dict(zip(TIMING_PARTS, (int(ps) for ps in rows[0]["parts_ps"]), strict=True))
        lines = [f"{name} {ps} ps" for name, ps in parts.items()]
        return "\n".join([self.completion(rows[0]), *lines, f"total {sum(parts.values())} ps"])

    def do_pump(self, command: Command) -> str:
        node = self.node(command)
        node.pump()
        lines = []
        for peer, frame in node.take_frames():
            self.wires[node.index, peer].append(frame)
            lines += describe(frame)
        return "\n".join(lines)

    def do_deliver(self, command: Command) -> str:
        source, target = (int(name.removeprefix("n")) for name in command.text(0).split("->"))
        wire = self.wires[source, target]
        if command.has("again"):  # the last one that was delivered
            wire.appendleft(self.delivered[source, target])
        elif command.has("later"):  # the one that was sent last overtakes the others
            wire.rotate(1)
        frame = wire.popleft()
        self.delivered[source, target] = frame
        if command.has("drop"):
            return ""
        if command.has("twice"):
            wire.appendleft(frame)
        frame = frame.copy()
        for change in (word for word in command.words[1:] if word.startswith("packet")):
            self.damage(frame, change, sealed=command.has("sealed"))
        receiver = self.cluster.nodes[target]
        receiver.on_frame(source, frame)
        return self.do_pump(Command("pump", [f"n{target}"])) if not command.has("quietly") else ""

    def damage(self, frame: np.ndarray, change: str, *, sealed: bool) -> None:
        """``packet0.va:=0x10``: overwrite a field; sealed: and correct the CRC, as a liar would."""
        where, _, value = change.partition(":")
        number, _, name = where.removeprefix("packet").partition(".")
        packets = frame[64 : 64 + 64 * int.from_bytes(frame[8:12], "little")].view(PACKET)
        packets[int(number)][name] = int(value, 0)
        if sealed:
            seal_packet(frame, int(number))
            seal_header(frame)

    def do_lose(self, command: Command) -> str:
        node, peer = self.node(command), int(command.text(1).removeprefix("n"))
        if command.has("unreachable"):
            node.peer_unreachable(peer, "refused")
        else:
            node.peer_lost(peer, "reset")
        return self.completions()

    def do_network(self, command: Command) -> str:
        """Links of a topology, shared by all nodes, with so many paths for each pair."""
        nodes = self.cluster.nodes
        spec, paths = nodes[0].ni.spec, command.integer("paths", 1)
        self.network = Network(command.text(0), len(nodes), spec, paths=paths)
        for node in nodes:
            node.ni.set_network(self.network.links, self.network.ways(node.index))
            node.ni.set_pacing(command.integer("lookahead", 0))
        return ""

    def do_loads(self, command: Command) -> str:
        """What the links have carried, and how long packets waited for them."""
        loads = sorted(self.network.loads(), key=lambda load: load.link)
        return "\n".join(f"n{r.src}->n{r.dst} {r.bytes} bytes, waited {r.wait_ps} ps" for r in loads)

    def do_stall(self, command: Command) -> str:
        """Accesses of a process that fault wait for RESUME; `others`: what does not fault goes on."""
        pdid = command.integer("pdid", 7)
        self.node(command).set_stalling(pdid, others_go_on=command.has("others"))
        return ""

    def do_resume(self, command: Command) -> str:
        self.node(command).resume(command.integer("pdid", 7), terminate=command.has("terminate"))
        return self.do_pump(command)

    def do_timer(self, command: Command) -> str:
        """Let time pass until a node's timer makes it send or end something. Timers may ring for nothing."""
        node = self.node(command)
        for _ in range(10):
            due = node.timer_ps
            if due is None:
                return "no timer"
            self.cluster.scheduler.advance_to(due)
            node.on_timer()
            happened = "\n".join(filter(None, [self.do_pump(command), self.completions()]))
            if happened:
                return f"at {self.cluster.scheduler.now_ps} ps\n{happened}"
        return "a timer that rings for nothing"

    def do_wait(self, command: Command) -> str:
        """Let time pass."""
        self.cluster.scheduler.advance_to(self.cluster.scheduler.now_ps + command.integer("us") * 10**6)
        return ""

    def do_cancel(self, command: Command) -> str:
        known = self.node(command).ni.cancel(command.integer("id"))
        return "\n".join(filter(None, ["" if known else "not under way", self.completions()]))

    def do_gone(self, command: Command) -> str:
        """The authority says that a peer is no more."""
        self.node(command).ni.peer_gone(int(command.text(1).removeprefix("n")), "its lease ran out")
        return self.completions()

    def do_faults(self, command: Command) -> str:
        """What software says of accesses that are refused from now on: pending, refuse, nothing."""
        self.node(command).verdict = ("nothing", "pending", "refuse").index(command.text(1))
        return ""

    def do_resolve(self, command: Command) -> str:
        """Software has brought pages."""
        at = self.address(command.text("at"))
        node = self.node(command)
        node.resolve(command.integer("pdid", 7), at, command.integer("length", 4096))
        return self.do_pump(command)

    def do_counters(self, command: Command) -> str:
        counters = self.node(command).ni.counters()
        return "\n".join(f"{name} {value}" for name, value in counters.items() if value)

    def do_reporting(self, command: Command) -> str:
        self.node(command).set_reporting(command.integer("pdid", 7), command.text(1) == "on")
        return ""

    def do_fsr(self, command: Command) -> str:
        return f"{self.node(command).fsr(command.integer('pdid', 7)):#x}"

    def do_routes(self, command: Command) -> str:
        self.cluster.route(**{name: int(state) for name, state in command.options.items()})
        return ""


@pytest.mark.parametrize("fast", [True, False], ids=["compiled", "readable"])
@pytest.mark.parametrize("path", scenario_files("rdma_*.txt"), ids=lambda path: path.stem)
def test_scenario(path: Path, fast: bool) -> None:
    run_file(path, Machine(fast).handle)
