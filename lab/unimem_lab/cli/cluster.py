"""up, node, coordinator: run a cluster, or one part of it, until told to stop."""

from __future__ import annotations

import json
import os
import signal
import sys
import threading
from pathlib import Path
from typing import Any

from unimem_lab.cli import output


def _listening(address: str) -> None:
    """The first line of a service's output: `unimem up`, and scripts, wait for it."""
    if output.as_json():
        sys.stdout.write(json.dumps({"listening": address}) + "\n")
        sys.stdout.flush()
    else:
        output.say(f"listening on {address}")


def run_one_node(
    *,
    coordinator: str,
    listen: str,
    advertise: str,
    name: str,
    platform: str,
    topology: str,
    policy: str,
    memory_bytes: int,
    mqtt: str | None,
    wait: float,
    reflection: bool,
    fast: bool,
    transport: str,
    impair: str,
) -> int:
    """Become a node process. Returns only when the flags cannot be.

    By exec, not by a call: the command line's own modules would cost every node some megabytes.
    """
    from unimem_node.service.config import SettingsError, load_settings  # noqa: PLC0415

    flags: dict[str, Any] = {
        "coordinator": coordinator,
        "listen": listen,
        "advertise": advertise,
        "name": name,
        "platform": platform,
        "topology": topology,
        "policy": policy,
        "memory_bytes": memory_bytes,
        "mqtt": mqtt or "",
        "coordinator_timeout_s": wait,
        "reflection": reflection,
        "fast": fast,
        "transport": transport,
        "impair": impair,
        "announce": "json" if output.as_json() else "text",
    }
    try:
        load_settings(flags)
    except SettingsError as error:
        return output.fail(str(error), reason="USAGE")
    command = [sys.executable, "-X", "no_debug_ranges", "-m", "unimem_node.service"]
    for field, value in flags.items():
        flag = field.replace("_", "-")
        if isinstance(value, bool):
            command.append(f"--{flag}" if value else f"--no-{flag}")
        elif value != "":
            command += [f"--{flag}", str(value)]
    return os.execv(sys.executable, command)


def run_the_coordinator(*, listen: str, state: Path, lease_ttl: float, reflection: bool) -> int:
    """Run a coordinator until SIGTERM; its exit code."""
    from unimem_coordinator.server import run_coordinator  # noqa: PLC0415
    from unimem_node.service.process import configure_logging  # noqa: PLC0415

    configure_logging("info", as_json=False)
    return run_coordinator(
        listen, state, node_ttl=lease_ttl, enable_reflection=reflection, on_ready=_listening
    )


def run_up(
    *,
    nodes: int,
    platform: str,
    topology: str,
    policy: str,
    port: int,
    state: Path | None,
    mqtt: str | None,
    transport: str,
    impair: str,
) -> int:
    """Start a cluster of processes, say where it is, and keep it until Ctrl-C or SIGTERM."""
    from unimem_lab.processes import ProcessCluster, StartError, describe  # noqa: PLC0415

    ended = threading.Event()
    for number in (signal.SIGINT, signal.SIGTERM):
        signal.signal(number, lambda *_: ended.set())
    try:
        cluster = ProcessCluster(
            nodes,
            platform=platform,
            topology=topology,
            policy=policy,
            port=port,
            state=state,
            mqtt=mqtt,
            transport=transport,
            impair=impair,
        )
    except StartError as error:
        return output.fail(str(error), reason="START_FAILED")
    with cluster:
        if output.as_json():
            sys.stdout.write(json.dumps(describe(cluster)) + "\n")
            sys.stdout.flush()
        else:
            output.say(
                f"{nodes} nodes are up; the coordinator is {cluster.address}; logs are in {cluster.logs}"
            )
            output.say(f'  python: unimem.connect("{cluster.address}")    Ctrl-C stops it')
        while not ended.wait(1.0):
            dead = cluster.poll()
            if dead:
                return output.fail(
                    "a process of the cluster ended by itself: " + "; ".join(dead), reason="CHILD_DIED"
                )
    output.say("stopped")
    return 0
