"""The cluster as containers, on a real engine: four nodes, the README's example, telemetry, a node killed.

Builds the image from this tree. `PYTHON_IMAGE` names the base image where the public one cannot be pulled;
then the broker is built from Debian's package too.
"""

from __future__ import annotations

import asyncio
import json
import os
import re
import shutil
import subprocess
import time
from collections.abc import Iterator
from pathlib import Path

import aiomqtt
import pytest

import unimem
from support.require import require

ROOT = Path(__file__).resolve().parents[2]
PROJECT = "unimem-test"
MQTT_PORT = 18831

pytestmark = [pytest.mark.docker, pytest.mark.timeout(1500)]


def compose(*arguments: str, check: bool = True) -> str:
    plugin = (
        subprocess.run(["docker", "compose", "version"], capture_output=True, check=False).returncode == 0
    )
    command = ["docker", "compose"] if plugin else ["docker-compose"]
    done = subprocess.run(
        [*command, "-p", PROJECT, *arguments],
        cwd=ROOT,
        env=environment(),
        capture_output=True,
        text=True,
        check=False,
    )
    if check and done.returncode:
        pytest.fail(
            f"{' '.join([*command, *arguments])} ended with {done.returncode}:\n{done.stdout}\n{done.stderr}"
        )
    return done.stdout


def environment() -> dict[str, str]:
    env = os.environ | {"UNIMEM_IMAGE": "unimem-test-image", "UNIMEM_MQTT_PORT": str(MQTT_PORT)}
    if "PYTHON_IMAGE" in os.environ:
        env |= {"UNIMEM_BUILD_NETWORK": "host", "MOSQUITTO_IMAGE": "unimem-test-mosquitto"}
    return env


def containers(service: str) -> list[str]:
    return compose("ps", "-q", service).split()


def health(container: str) -> str:
    seen = subprocess.run(
        ["docker", "inspect", "-f", "{{.State.Status}}/{{.State.Health.Status}}", container],
        capture_output=True,
        text=True,
        check=True,
    )
    return seen.stdout.strip()


def wait_healthy(service: str, count: int, seconds: float) -> None:
    deadline = time.monotonic() + seconds
    states: list[str] = []
    while time.monotonic() < deadline:
        states = [health(c) for c in containers(service)]
        if len(states) == count and all(s == "running/healthy" for s in states):
            return
        time.sleep(1)
    pytest.fail(f"{service} is {states} after {seconds} s:\n{compose('logs', '--tail', '40', check=False)}")


def wait_for_nodes(count: int, state: str = "up", seconds: float = 30) -> list[unimem.NodeInfo]:
    deadline = time.monotonic() + seconds
    nodes: list[unimem.NodeInfo] = []
    while time.monotonic() < deadline:
        with unimem.connect("localhost:7400") as um:
            nodes = [n for n in um.nodes() if n.state == state]
        if len(nodes) == count:
            return nodes
        time.sleep(0.5)
    pytest.fail(f"{len(nodes)} nodes are {state}, not {count}")


@pytest.fixture(scope="module")
def cluster() -> Iterator[None]:
    require("docker")
    if "PYTHON_IMAGE" in os.environ:
        subprocess.run(
            [
                *("docker", "build", "--network", "host"),
                *("--build-arg", f"BASE_IMAGE={os.environ['PYTHON_IMAGE']}"),
                *("-f", "deploy/mosquitto.Dockerfile", "-t", "unimem-test-mosquitto", "deploy"),
            ],
            cwd=ROOT,
            check=True,
            capture_output=True,
        )
    compose("down", "-v", check=False)
    compose("build", "coordinator")
    compose("up", "-d", "--scale", "node=4")
    try:
        wait_healthy("node", 4, 120)
        yield
    finally:
        compose("down", "-v")


def readme_example() -> str:
    return next(
        b for b in re.findall(r"```python\n(.*?)```", (ROOT / "README.md").read_text(), re.S) if "7400" in b
    )


def test_the_readme_example_runs_against_the_containers(cluster: None) -> None:
    exec(compile(readme_example(), "README.md", "exec"), {})


def test_status_says_how_nodes_are_reached(cluster: None) -> None:
    unimem_command = shutil.which("unimem", path=f"{ROOT / '.venv/bin'}:{os.environ['PATH']}")
    assert unimem_command
    done = subprocess.run([unimem_command, "status", "--json"], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    nodes = json.loads(done.stdout)["nodes"]
    assert len(nodes) == 4
    assert {n["reached"] for n in nodes} <= {"direct", "relayed"}


def test_containers_are_hardened(cluster: None) -> None:
    for container in [*containers("node"), *containers("coordinator")]:
        seen = subprocess.run(
            ["docker", "inspect", "-f", "{{.HostConfig.ReadonlyRootfs}} {{.Config.User}}", container],
            capture_output=True,
            text=True,
            check=True,
        )
        assert seen.stdout.split() == ["true", "10001:10001"]


def test_nothing_is_compiled_at_start(cluster: None) -> None:
    assert "compiling the fast paths" not in compose("logs")


def provoke_a_fault() -> str:
    """A remote read of an address nobody mapped; returns the node whose SMMU refused it."""
    with unimem.connect("localhost:7400") as um:
        node = um.nodes()[-1]
        um.alloc(4096, node=node.name)  # so that this domain has page tables there
        with pytest.raises(unimem.TranslationFault):
            um.get(node.window.start + (1 << 30), 8)
        return node.name


def test_telemetry_reaches_a_real_client(cluster: None) -> None:
    nodes = {n.name for n in wait_for_nodes(4)}

    async def listen() -> dict[str, dict[str, object]]:
        seen: dict[str, dict[str, object]] = {"status": {}, "counters": {}, "faults": {}}
        async with asyncio.timeout(60), aiomqtt.Client("localhost", MQTT_PORT) as client:
            await client.subscribe("unimem/#")
            guilty = asyncio.create_task(asyncio.to_thread(provoke_a_fault))
            async for message in client.messages:
                *_, node, kind = str(message.topic).split("/")
                seen.setdefault(kind, {})[node] = json.loads(message.payload)  # type: ignore[arg-type]
                complete = seen["status"].keys() >= nodes and seen["counters"].keys() >= nodes
                if complete and guilty.done() and guilty.result() in seen["faults"]:
                    return seen
        raise AssertionError("the broker closed the connection")

    seen = asyncio.run(listen())
    assert all(status["state"] == "up" for status in seen["status"].values())  # type: ignore[index]
    assert "translation fault" in json.dumps(seen["faults"])


def test_a_killed_node_is_lost_and_comes_back_with_its_window(cluster: None) -> None:
    before = {n.name: n for n in wait_for_nodes(4)}
    victim = containers("node")[0]
    name = subprocess.run(
        ["docker", "inspect", "-f", "{{.Config.Hostname}}", victim],
        capture_output=True,
        text=True,
        check=True,
    ).stdout.strip()

    async def last_will() -> None:
        async with asyncio.timeout(30), aiomqtt.Client("localhost", MQTT_PORT) as client:
            await client.subscribe(f"unimem/+/{name}/status")
            await asyncio.to_thread(
                subprocess.run, ["docker", "kill", victim], check=True, capture_output=True
            )
            async for message in client.messages:
                if json.loads(message.payload)["state"] == "lost":  # type: ignore[arg-type]
                    return

    asyncio.run(last_will())
    wait_for_nodes(3)
    subprocess.run(["docker", "start", victim], check=True, capture_output=True)
    after = {n.name: n for n in wait_for_nodes(4, seconds=60)}
    assert after[name].window == before[name].window
    assert after[name].incarnation == before[name].incarnation + 1
