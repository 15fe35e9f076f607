"""What the service needs of a model node: the interface between floor 7 and floor 6.

`unimem_node.mpsoc.node.Node` has it; tests put smaller things in its place. Everything here is called on the
event loop's thread only, returns at once, and does no I/O: frames and completions are *taken* from the node
after each call, by `unimem_node.service.host.NodeHost` and nobody else.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING, Any, Protocol

if TYPE_CHECKING:
    import numpy as np


#: One node of the cluster: index, name, window base and size, incarnation, state (unimem.v1.NodeState).
Route = tuple[int, str, int, int, int, int]


class Model(Protocol):
    """One node: a chip, its kernel, its RDMA network interface."""

    name: str
    index: int
    incarnation: int

    soc: Any  # unimem_node.mpsoc.soc.Mpsoc: `run` lets virtual time pass until nothing is left to do

    @property
    def bus(self) -> Any:
        """The chip's registers and memory by physical address (`unimem_node.bus.Bus`)."""

    @property
    def interrupts(self) -> Any:
        """The chip's `unimem_node.bus.interrupts.InterruptController`."""

    @property
    def now_ps(self) -> int:
        """The node's virtual clock."""

    def open_domain(self, pdid: int) -> int:
        """A process for protection domain `pdid`, made when it is not there yet; returns its ASID."""

    def close_domain(self, pdid: int) -> None:
        """End the process; its memory is free again."""

    def map_region(self, pdid: int, gva: int, length: int, rights: int, owner: bool) -> None:
        """Allocate (owner) or map the owner's frames at VA = GVA. Idempotent."""

    def unmap_region(self, gva: int, pdid: int = 0) -> None:
        """Undo `map_region` for one domain, or (0) for all and free the frames. Idempotent."""

    def map_memory(self, pdid: int, length: int, va: int = 0, rights: int = 3) -> int:
        """Private memory of the process; returns its address."""

    def unmap_memory(self, pdid: int, va: int, length: int) -> None:
        """Undo `map_memory`."""

    def protect_memory(self, pdid: int, va: int, length: int, rights: int) -> None:
        """Change the rights of private memory."""

    def read_memory(self, pdid: int, va: int, n: int) -> bytes:
        """As the CPU reads, through the page tables of the process."""

    def write_memory(self, pdid: int, va: int, data: bytes) -> None:
        """As the CPU writes, through the page tables of the process."""

    def advise(self, pdid: int, va: int, length: int, advice: str) -> int:
        """What the kernel shall do with memory (DONTNEED, PAGEOUT, LOCK ...); returns pages concerned."""

    def stage(self, pdid: int, n: int) -> tuple[int, np.ndarray]:
        """A buffer of `n` bytes in the process: its VA and its bytes in DRAM (uint8 view)."""

    def unstage(self, pdid: int, va: int) -> None:
        """Give the buffer at `va` back."""

    def set_routes(self, rows: Sequence[Route]) -> None:
        """The route table."""

    def post(self, wrs: np.ndarray) -> None:
        """The doorbell: WORK_REQUEST rows."""

    def cancel(self, wr_id: int) -> bool:
        """End a work request that is under way, CANCELLED; False: it is over."""

    def on_frame(self, peer_index: int, frame: np.ndarray) -> None:
        """A frame from a peer (uint8, read-only, any alignment). Raises ValueError when it is none."""

    def peer_lost(self, peer_index: int, reason: str) -> None:
        """The connection broke; frames handed over may or may not have arrived. The next one serves them."""

    def peer_unreachable(self, peer_index: int, reason: str) -> None:
        """There never was a connection: nothing has left."""

    wake: Callable[[], object] | None  # is called when `pump` is wanted although nobody has called anything

    @property
    def timer_ps(self) -> int | None:
        """When `on_timer` is wanted, on the clock of `real_time.monotonic_ps`; None: not at all."""

    def on_timer(self) -> None:
        """The time has come."""

    def pump(self, frames: int = 0) -> bool:
        """Do what can be done now; with `frames`, stop when so many wait to be taken (returns whether so)."""

    def take_frames(self) -> list[tuple[int, np.ndarray]]:
        """Frames to send, in order for each peer."""

    def take_completions(self) -> np.ndarray:
        """COMPLETION rows since the last call."""

    def counters(self) -> dict[str, int]:
        """Everything counted, by name."""

    def faults(self) -> Sequence[Any]:
        """FaultReports of the kernel, oldest first."""

    def resident_bytes(self) -> int:
        """Bytes of simulated memory that have been touched."""


#: Makes the model of a node once the coordinator has said which it is: (name, index, incarnation) -> Model.
Builder = Callable[[str, int, int], Model]
