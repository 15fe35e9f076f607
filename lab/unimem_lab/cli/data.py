"""status, alloc, free, regions, put, get: the SDK's verbs as commands."""

from __future__ import annotations

import sys
import time
from contextlib import nullcontext
from dataclasses import asdict
from pathlib import Path
from typing import Any

import unimem
from unimem.addresses import fmt, parse_address
from unimem.cluster import NodeInfo
from unimem.v1 import node_pb2
from unimem_lab.admin import Admin
from unimem_lab.cli import output
from unimem_lab.cli.progress import progress

#: A file moves in pieces of this many bytes: memory stays bounded and the bar moves.
PIECE = 8 << 20


def _address(text: str) -> int:
    try:
        return parse_address(text)
    except ValueError as error:
        raise unimem.UsageError(str(error), op="gva") from None


def show_status(on: str) -> int:
    """Print the nodes; FAILED when one that ever joined is not up, UNKNOWN when there is none."""
    with Admin(on) as admin:
        nodes = admin.nodes()
        seen = {n.name: admin.node_status(n) if n.state == "up" else (None, "-") for n in nodes}
    rows = [_node_row(n, *seen[n.name]) for n in nodes]
    if output.as_json():
        output.answer({"coordinator": on, "nodes": rows})
    else:
        output.table(
            ["node", "state", "window", "platform", "reached", "address", "touched", "faults", "peers"],
            [
                (
                    row["name"],
                    row["state"],
                    fmt(row["window"][0]),
                    row["platform"],
                    row["reached"],
                    row["address"],
                    output.human(row["resident_bytes"]) if "resident_bytes" in row else "-",
                    row.get("counters", {}).get("faults", "-"),
                    " ".join(f"{k}:{v}" for k, v in sorted(row.get("peers", {}).items())) or "-",
                )
                for row in rows
            ],
        )
    if not nodes:
        output.say("no node has joined yet")
        return output.UNKNOWN
    return 0 if all(row["state"] == "up" and "counters" in row for row in rows) else output.FAILED


def _node_row(node: NodeInfo, status: node_pb2.GetStatusResponse | None, reached: str) -> dict[str, Any]:
    row: dict[str, Any] = {
        "name": node.name,
        "state": node.state,
        "window": [node.window.start, len(node.window)],
        "platform": node.platform,
        "incarnation": node.incarnation,
        "address": node.address,
        "memory_bytes": node.memory_bytes,
        "reached": reached,
    }
    if status is not None:
        row |= {
            "counters": dict(status.counters),
            "virtual_time_ns": status.virtual_time_ns,
            "resident_bytes": status.resident_bytes,
            "peers": dict(status.peers),
            "pending_interrupts": list(status.pending_interrupts),
        }
    return row


def allocate(on: str, domain: str, length: int, node: str, name: str) -> int:
    """Allocate and print the address alone, so that a shell can use it."""
    with unimem.connect(on, domain=domain) as um:
        pointer = um.alloc(length, node=node or None, name=name)
    if output.as_json():
        output.answer({"gva": int(pointer), "length": length, "domain": domain, "name": name})
    else:
        output.say(fmt(int(pointer)))
    return 0


def free_region(on: str, domain: str, gva: str) -> int:
    """Free the region that starts at `gva`."""
    address = _address(gva)
    with unimem.connect(on, domain=domain) as um:
        um.free(address)
    if output.as_json():
        output.answer({"freed": address})
    else:
        output.say(f"freed {fmt(address)}")
    return 0


def show_regions(on: str) -> int:
    """Print every region with its owner, state and grants."""
    with Admin(on) as admin:
        regions = admin.regions()
    if output.as_json():
        output.answer({"regions": [asdict(r) for r in regions]})
        return 0
    output.table(
        ["address", "length", "node", "domain", "name", "state", "shared with"],
        [
            (
                fmt(r.gva),
                output.human(r.length),
                r.node,
                r.pdid,
                r.name or "-",
                r.state,
                ", ".join(f"{g.domain or g.pdid}:{g.rights.name}" for g in r.grants) or "-",
            )
            for r in regions
        ],
    )
    return 0


def put_file(on: str, domain: str, file: Path, gva: str) -> int:
    """Write a file (or standard input) to `gva`, piece by piece; 0: all of it is delivered."""
    address = _address(gva)
    from_stdin = str(file) == "-"
    size = None if from_stdin else file.stat().st_size
    at = 0
    started = time.perf_counter()
    with (
        nullcontext(sys.stdin.buffer) if from_stdin else file.open("rb") as source,
        unimem.connect(on, domain=domain) as um,
        progress("put", size) as advance,
    ):
        while piece := source.read(PIECE):
            um.put(address + at, piece, timeout=30)
            at += len(piece)
            advance(len(piece))
    return _moved("put", address, at, time.perf_counter() - started)


def get_file(on: str, domain: str, gva: str, length: int, file: Path) -> int:
    """Read `length` bytes at `gva` into a file; the file appears only when it is whole."""
    address = _address(gva)
    started = time.perf_counter()
    to_stdout = str(file) == "-"
    part = file.with_name(file.name + ".part")
    sink = sys.stdout.buffer if to_stdout else part.open("wb")
    try:
        with unimem.connect(on, domain=domain) as um, progress("get", length) as advance:
            for at in range(0, length, PIECE):
                piece = um.get(address + at, min(PIECE, length - at), timeout=30)
                sink.write(memoryview(piece))
                advance(len(piece))
        if not to_stdout:
            sink.close()
            part.replace(file)
    finally:
        if not to_stdout:
            sink.close()
            part.unlink(missing_ok=True)
    return 0 if to_stdout else _moved("get", address, length, time.perf_counter() - started)


def _moved(verb: str, address: int, total: int, seconds: float) -> int:
    if output.as_json():
        output.answer({"op": verb, "gva": address, "bytes": total, "seconds": seconds})
    else:
        output.say(f"{verb} {output.human(total)} at {fmt(address)} in {seconds:.3f} s")
    return 0
