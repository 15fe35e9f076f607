"""A cluster of processes on this machine: a coordinator and nodes, real gRPC between them.

    with ProcessCluster(nodes=4) as cluster, unimem.connect(cluster.address) as um:
        ...

Each child is the `unimem` command itself. It says on its first line of output where it listens (port 0: any
free one); its log goes to a file, whose end is shown when it fails. Children die with their parent.
"""

from __future__ import annotations

import json
import os
import queue
import subprocess
import sys
import tempfile
import threading
import time
from pathlib import Path
from typing import TYPE_CHECKING, Any

from unimem_lab.parent import PARENT

if TYPE_CHECKING:
    from types import TracebackType

    from unimem import Client


class StartError(RuntimeError):
    """A child did not come up; the message has the end of its log."""


class Child:
    """One `unimem` process that says where it listens."""

    def __init__(self, name: str, arguments: list[str], log: Path) -> None:
        self.name, self.log = name, log
        environment = os.environ | {
            "MALLOC_MMAP_THRESHOLD_": os.environ.get("MALLOC_MMAP_THRESHOLD_", "16777216"),
            "MALLOC_TRIM_THRESHOLD_": os.environ.get("MALLOC_TRIM_THRESHOLD_", "67108864"),
            PARENT: str(os.getpid()),
        }
        with log.open("ab") as sink:
            self.process = subprocess.Popen(
                [sys.executable, "-m", "unimem_lab.cli", *arguments, "--json"],
                stdin=subprocess.DEVNULL,
                stdout=subprocess.PIPE,
                stderr=sink,
                env=environment,
                start_new_session=True,  # Ctrl-C is the parent's to handle, in order
            )
        self._lines: queue.Queue[bytes] = queue.Queue()
        threading.Thread(target=self._read, name=f"stdout of {name}", daemon=True).start()

    def _read(self) -> None:
        assert self.process.stdout is not None
        for line in self.process.stdout:
            self._lines.put(line)
        self._lines.put(b"")

    def address(self, timeout: float) -> str:
        """Where it listens, once it does. Raises `StartError` with the end of its log."""
        try:
            line = self._lines.get(timeout=timeout)
            return str(json.loads(line)["listening"])
        except (queue.Empty, json.JSONDecodeError, KeyError):
            state = self.process.poll()
            what = f"ended with code {state}" if state is not None else f"said nothing for {timeout:.0f} s"
            raise StartError(f"{self.name} {what}. The end of its log ({self.log}):\n{self.tail()}") from None

    def tail(self, lines: int = 15) -> str:
        """The end of its log."""
        return "\n".join(self.log.read_text(errors="replace").splitlines()[-lines:])

    def stop(self, timeout: float = 10.0) -> None:
        """SIGTERM, then SIGKILL when it does not follow."""
        if self.process.poll() is None:
            self.process.terminate()
        try:
            self.process.wait(timeout)
        except subprocess.TimeoutExpired:
            self.process.kill()
            self.process.wait()


class ProcessCluster:
    """A coordinator and `nodes` nodes as processes of this machine, named n0, n1, …

    Raises `StartError` when a child does not come up; then nothing is left running. `state` keeps the
    coordinator's database (by default a temporary one); `logs` the children's logs. `transport` is the best
    way between nodes that they may use, `impair` what the network does to their frames
    (`unimem_node.fabric.impair`).
    """

    def __init__(
        self,
        nodes: int = 4,
        *,
        platform: str = "zynqmp",
        topology: str = "full",
        policy: str = "abort",
        port: int = 0,
        state: Path | None = None,
        logs: Path | None = None,
        mqtt: str | None = None,
        memory: str = "4G",
        fast: bool = True,
        transport: str = "auto",
        impair: str = "",
        start_timeout: float = 120.0,
    ) -> None:
        self._folder = tempfile.TemporaryDirectory(prefix="unimem-")
        self.logs = logs or Path(self._folder.name)
        self.logs.mkdir(parents=True, exist_ok=True)
        self._state = state or Path(self._folder.name) / "coordinator.sqlite3"
        self._port, self._timeout = port, start_timeout
        self._options = ["--platform", platform, "--topology", topology, "--policy", policy]
        self._options += ["--memory", memory]
        self._options += ["--fast" if fast else "--no-fast"] + (["--mqtt", mqtt] if mqtt else [])
        self._options += ["--transport", transport] + (["--impair", impair] if impair else [])
        self._children: dict[str, Child] = {}
        self.nodes = tuple(f"n{i}" for i in range(nodes))
        self.address = ""
        try:
            self.start_coordinator()
            for name in self.nodes:
                self._launch(name)
            for name in self.nodes:
                self._children[name].address(start_timeout)
            self._wait_for_members()
        except BaseException:
            self.stop()
            raise

    def _spawn(self, name: str, arguments: list[str]) -> Child:
        self._children[name] = Child(name, arguments, self.logs / f"{name}.log")
        return self._children[name]

    def start_coordinator(self) -> None:
        """Start the coordinator, or start it again on the same port and database."""
        listen = self.address or f"127.0.0.1:{self._port}"
        child = self._spawn("coordinator", ["coordinator", "--listen", listen, "--state", str(self._state)])
        self.address = child.address(self._timeout)

    def _launch(self, name: str) -> None:
        self._spawn(name, ["node", "--coordinator", self.address, "--name", name, *self._options])

    def start_node(self, name: str) -> None:
        """Start a node again after `kill`: the same window, a new incarnation."""
        self._launch(name)
        self._children[name].address(self._timeout)

    def _wait_for_members(self) -> None:
        from unimem_lab.admin import Admin  # noqa: PLC0415

        deadline = time.monotonic() + self._timeout
        with Admin(self.address, self._timeout) as admin:
            while sum(n.state == "up" for n in admin.nodes()) < len(self.nodes):
                if time.monotonic() > deadline:
                    raise StartError(
                        f"not every node joined within {self._timeout:.0f} s; logs are in {self.logs}"
                    )
                time.sleep(0.05)

    def client(self, home: str | None = None, domain: str | None = None) -> Client:
        """A client of this cluster; close it, or use it as a context manager."""
        import unimem  # noqa: PLC0415

        return unimem.connect(self.address, home=home, domain=domain)

    def pid(self, name: str) -> int:
        """Process id of a node, or of `coordinator`."""
        return self._children[name].process.pid

    def kill(self, name: str) -> None:
        """SIGKILL a node, or `coordinator`: no goodbye, memory lost."""
        self._children[name].process.kill()
        self._children[name].process.wait()

    def poll(self) -> list[str]:
        """Names of children that have ended by themselves, with the end of their logs."""
        return [f"{c.name}: {c.tail(5)}" for c in self._children.values() if c.process.poll() is not None]

    def stop(self) -> None:
        """End every child, the nodes first; idempotent."""
        names = [n for n in self._children if n != "coordinator"]
        for name in names:
            if self._children[name].process.poll() is None:
                self._children[name].process.terminate()
        for name in [*names, *({"coordinator"} & self._children.keys())]:
            self._children.pop(name).stop()
        self._folder.cleanup()

    def __enter__(self) -> ProcessCluster:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.stop()


def describe(cluster: ProcessCluster) -> dict[str, Any]:
    """What `unimem up --json` prints."""
    return {"address": cluster.address, "nodes": list(cluster.nodes), "logs": str(cluster.logs)}
