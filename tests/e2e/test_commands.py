"""The `unimem` command as a user types it, against a cluster of processes."""

from __future__ import annotations

import json
import socket
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from unimem_lab import ProcessCluster

pytestmark = pytest.mark.timeout(180)


def unimem(*arguments: str, stdin: bytes | None = None) -> subprocess.CompletedProcess[bytes]:
    return subprocess.run(
        [sys.executable, "-m", "unimem_lab.cli", *arguments],
        input=stdin,
        capture_output=True,
        timeout=120,
        check=False,
    )


@pytest.fixture(scope="module")
def cluster() -> Iterator[ProcessCluster]:
    with ProcessCluster(nodes=2) as running:
        yield running


def answer(cluster: ProcessCluster, *arguments: str) -> Any:
    done = unimem(*arguments, "--on", cluster.address, "--json")
    assert done.returncode == 0, done.stderr.decode() + done.stdout.decode()
    return json.loads(done.stdout)


def test_a_file_goes_there_and_comes_back(cluster: ProcessCluster, tmp_path: Path) -> None:
    sent, got = tmp_path / "sent", tmp_path / "got"
    sent.write_bytes(bytes(range(256)) * 5000)
    length = str(sent.stat().st_size)
    gva = hex(answer(cluster, "alloc", length, "--node", "n1", "--name", "file")["gva"])
    assert answer(cluster, "put", str(sent), gva)["bytes"] == int(length)
    answer(cluster, "get", gva, length, str(got))
    assert got.read_bytes() == sent.read_bytes()
    assert [p.name for p in tmp_path.iterdir() if p.suffix == ".part"] == []
    (region,) = answer(cluster, "regions")["regions"]
    assert (region["name"], region["node"], region["state"]) == ("file", "n1", "active")
    answer(cluster, "free", gva)
    assert answer(cluster, "regions")["regions"] == []


def test_standard_input_and_output(cluster: ProcessCluster) -> None:
    gva = hex(answer(cluster, "alloc", "4K")["gva"])
    assert unimem("put", "-", gva, "--on", cluster.address, stdin=b"piped").returncode == 0
    assert unimem("get", gva, "5", "-", "--on", cluster.address).stdout == b"piped"
    answer(cluster, "free", gva)


def test_status_counts_and_says_how_nodes_are_reached(cluster: ProcessCluster) -> None:
    nodes = answer(cluster, "status")["nodes"]
    assert {(n["name"], n["state"], n["reached"]) for n in nodes} == {
        ("n0", "up", "direct"),
        ("n1", "up", "direct"),
    }
    assert all("walks" in n["counters"] for n in nodes)
    shown = unimem("status", "--on", cluster.address).stdout.decode()
    assert "0x10_0000_0000" in shown


def test_healthcheck(cluster: ProcessCluster) -> None:
    node = answer(cluster, "status")["nodes"][0]["address"]
    assert unimem("healthcheck", cluster.address).returncode == 0
    assert unimem("healthcheck", node).returncode == 0
    with socket.socket() as nobody:
        nobody.bind(("127.0.0.1", 0))
        assert unimem("healthcheck", f"127.0.0.1:{nobody.getsockname()[1]}", "--timeout", "1").returncode == 2


@pytest.mark.parametrize(
    ("arguments", "says"),
    [
        (["get", "0x10_0000_0000_zz", "8", "-"], "address"),
        (["get", "0x1000", "8", "-"], "0x1000"),
        (["put", "/nowhere/file", "0x10_0000_0000"], "/nowhere/file"),
        (["alloc", "1Q"], "1Q"),
        (["alloc", "0"], "0"),
        (["alloc", "4K", "--node", "n9"], "n9"),
        (["free", "0x10_0000_1000"], "0x10_0000_1000"),
        (["alloc"], "LENGTH"),
        (["nosuch"], "nosuch"),
    ],
)
def test_bad_input_is_one_clear_line(cluster: ProcessCluster, arguments: list[str], says: str) -> None:
    on = ["--on", cluster.address] if arguments != ["nosuch"] else []
    done = unimem(*arguments, *on)
    text = done.stderr.decode()
    assert done.returncode >= 3
    assert says.lower() in text.lower()
    assert "Traceback" not in text
    as_json = unimem(*arguments, *on, "--json") if arguments not in (["alloc"], ["nosuch"]) else None
    if as_json is not None:
        assert json.loads(as_json.stdout)["error"]["message"]


def test_no_coordinator_is_said_with_the_way_out() -> None:
    with socket.socket() as nobody:
        nobody.bind(("127.0.0.1", 0))
        address = f"127.0.0.1:{nobody.getsockname()[1]}"
        done = unimem("status", "--on", address)
        assert done.returncode >= 3
        assert address in done.stderr.decode()
        assert "unimem up" in done.stderr.decode()


def test_a_port_in_use_is_said_with_the_way_out(cluster: ProcessCluster, tmp_path: Path) -> None:
    done = unimem("coordinator", "--listen", cluster.address, "--state", str(tmp_path / "c.sqlite3"))
    assert done.returncode >= 3
    assert cluster.address.rpartition(":")[2] in done.stderr.decode()
    node = unimem("node", "--coordinator", cluster.address, "--listen", cluster.address, "--name", "late")
    assert node.returncode >= 3
    assert "another program uses it" in node.stderr.decode()


def test_doctor_looks_at_machine_and_cluster(cluster: ProcessCluster) -> None:
    findings = {f["what"]: f for f in answer(cluster, "doctor")["findings"]}
    assert findings["cluster"]["state"] == "ok"
    assert findings["CRC-32C instruction"]["state"] == "ok"


def test_up_runs_until_it_is_told_to_stop() -> None:
    up = subprocess.Popen(
        [
            sys.executable,
            "-m",
            "unimem_lab.cli",
            "up",
            "--nodes",
            "2",
            "--port",
            "0",
            "--topology",
            "ring",
            "--json",
        ],
        stdout=subprocess.PIPE,
    )
    assert up.stdout is not None
    try:
        about = json.loads(up.stdout.readline())
        done = unimem("status", "--on", about["address"], "--json")
        assert [n["state"] for n in json.loads(done.stdout)["nodes"]] == ["up", "up"]
    finally:
        up.terminate()
        assert up.wait(30) == 0
