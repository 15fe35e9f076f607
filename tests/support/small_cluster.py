"""A coordinator's core with two nodes of `kernel_books`, driven in the caller's thread."""

from __future__ import annotations

import itertools
from collections.abc import Callable

from support.kernel_books import Machines
from unimem_coordinator import Coordinator, MemoryStore, SessionInfo, Store, drive
from unimem_coordinator.values import Change, Registration, T

SECOND = 1_000_000_000


def counted_tokens() -> Callable[[], str]:
    """Tokens that do not repeat."""
    numbers = itertools.count(1)
    return lambda: f"token-{next(numbers)}"


class SmallCluster:
    """Nodes n0 and n1; `now` is moved by hand."""

    def __init__(self, store: Store | None = None, nodes: int = 2) -> None:
        self.store = store or MemoryStore()
        self.machines = Machines()
        self.now = 0
        self._tokens = counted_tokens()
        self._boot_ids = itertools.count(1 << 32)
        self.core = self._core()
        self.joined: dict[str, Registration] = {}
        for index in range(nodes):
            self.join(f"n{index}")

    def _core(self) -> Coordinator:
        return Coordinator(self.store, new_token=self._tokens, now_ns=self.now)

    def restart(self) -> None:
        """The coordinator's process is gone; another one reads the store."""
        self.core = self._core()

    def join(self, name: str, boot_id: int | None = None) -> Registration:
        """A node registers; without `boot_id` it is a new process, with empty books."""
        if boot_id is None:
            self.machines.start(name)
            boot_id = next(self._boot_ids)
        joined = self.core.register_node(
            name,
            address=f"{name}.example:7410",
            platform="zynqmp",
            memory_bytes=4 << 30,
            boot_id=boot_id,
            now_ns=self.now,
        )
        self.joined[name] = joined
        return joined

    def do(self, change: Change[T]) -> T:
        return drive(self.core, change, self.machines.perform)

    def settle(self) -> None:
        for node in self.core.unfinished():
            self.do(self.core.repair(node))

    def open(self, home: str = "n0", domain: str = "") -> SessionInfo:
        return self.do(self.core.open_session(home, domain, self.now))
