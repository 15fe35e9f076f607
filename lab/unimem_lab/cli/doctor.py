"""doctor and healthcheck: is this machine, is that service, in order?"""

from __future__ import annotations

import os
import platform
import shutil
import sys
from dataclasses import asdict, dataclass
from pathlib import Path

from unimem_lab.cli import output

OK, NOTE, BAD = "ok", "note", "bad"


@dataclass(frozen=True, slots=True)
class Finding:
    """One thing looked at: `state` is ok, note (works without) or bad (does not work), `hint` the way out."""

    what: str
    state: str
    found: str
    hint: str = ""


def _python() -> Finding:
    good = sys.version_info >= (3, 11)
    return Finding(
        "python",
        OK if good else BAD,
        platform.python_version(),
        "" if good else "install Python 3.11 or newer",
    )


def _cpu() -> Finding:
    flags = Path("/proc/cpuinfo").read_text() if Path("/proc/cpuinfo").exists() else ""
    machine = platform.machine()
    good = "sse4_2" in flags if machine == "x86_64" else "crc32" in flags
    hint = "the fast paths use the processor's CRC-32C; set NUMBA_DISABLE_JIT=1 to run without compiled code"
    return Finding("CRC-32C instruction", OK if good else BAD, machine, "" if good else hint)


def _cache() -> Finding:
    from unimem_node._jit import cache_dir  # noqa: PLC0415

    where = cache_dir()
    probe = where if where.exists() else next(p for p in where.parents if p.exists())
    if not os.access(probe, os.W_OK):
        return Finding(
            "compiled code", BAD, f"{probe} is not writable", "set UNIMEM_CACHE_DIR to a folder that is"
        )
    count = len(list(where.rglob("*.nbc"))) if where.exists() else 0
    return Finding(
        "compiled code",
        OK if count else NOTE,
        f"{count} functions in {where}",
        "" if count else "`unimem warmup` compiles now; else the first use does",
    )


def _memory() -> Finding:
    setting = Path("/proc/sys/vm/overcommit_memory")
    strict = setting.exists() and setting.read_text().strip() == "2"
    hint = "nodes reserve what they never touch: sysctl vm.overcommit_memory=0, or give nodes less --memory"
    return Finding(
        "memory overcommit", NOTE if strict else OK, "strict" if strict else "allowed", hint if strict else ""
    )


def _tool(name: str, use: str) -> Finding:
    where = shutil.which(name)
    return Finding(name, OK if where else NOTE, where or "not here", "" if where else use)


def _cluster(on: str) -> Finding:
    from unimem.errors import TransportError  # noqa: PLC0415
    from unimem_lab.admin import Admin  # noqa: PLC0415

    try:
        with Admin(on, timeout=2) as admin:
            nodes = admin.nodes()
    except TransportError as error:
        return Finding("cluster", NOTE, f"{on}: {error.problem}", "`unimem up` starts one on this machine")
    if not nodes:
        return Finding("cluster", NOTE, f"{on}: no node has joined", "`unimem node` starts one")
    up = sum(n.state == "up" for n in nodes)
    state = OK if up == len(nodes) else BAD
    return Finding(
        "cluster",
        state,
        f"{on}: {up} of {len(nodes)} nodes up",
        "" if state == OK else "`unimem status` shows which",
    )


def run_doctor(on: str) -> int:
    """Print the findings; FAILED when one is bad."""
    findings = [
        _python(),
        _cpu(),
        _cache(),
        _memory(),
        _tool("cc", "benchmarks then have no C yardstick"),
        _tool("mosquitto", "tests of the telemetry are skipped"),
        _tool("docker", "tests of the containers are skipped"),
        _cluster(on),
    ]
    if output.as_json():
        output.answer({"findings": [asdict(f) for f in findings]})
    else:
        output.table(
            ["what", "state", "found", "way out"], [(f.what, f.state, f.found, f.hint) for f in findings]
        )
    return output.FAILED if any(f.state == BAD for f in findings) else 0


def check_health(address: str, timeout: float) -> int:
    """Ask `grpc.health.v1`: 0 serving, FAILED not serving, UNKNOWN no answer."""
    import grpc  # noqa: PLC0415
    from grpc_health.v1 import health_pb2, health_pb2_grpc  # noqa: PLC0415

    names = health_pb2.HealthCheckResponse.ServingStatus
    try:
        with grpc.insecure_channel(address) as channel:
            reply = health_pb2_grpc.HealthStub(channel).Check(
                health_pb2.HealthCheckRequest(), timeout=timeout
            )
        said, code = names.Name(reply.status), 0 if reply.status == names.SERVING else output.FAILED
    except grpc.RpcError as error:
        said, code = f"no answer: {error.details()}", output.UNKNOWN
    if output.as_json():
        output.answer({"address": address, "status": said})
    else:
        output.say(f"{address}: {said}")
    return code
