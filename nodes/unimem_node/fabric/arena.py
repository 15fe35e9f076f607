"""The tables of the compiled event loop (`_fast_network`), and what Python does with them.

An `Arena` is the queue of frames under way, with a row for each node that was ever attached. Frames that
Python hands in stay Python's arrays; frames that compiled code makes live in blocks that the arena owns.
"""

from __future__ import annotations

import ctypes
from typing import TYPE_CHECKING, Any, Final

import numpy as np
import numpy.typing as npt

from . import _fast_network as fast

if TYPE_CHECKING:
    from .core import Core

Bytes = npt.NDArray[np.uint8]

_FIRST_PORTS: Final = 8
_FIRST_EVENTS: Final = 256
#: Blocks are allocated by so many bytes.
_CHUNK: Final = 1 << 18
_UINT8: Final = np.dtype(np.uint8)


class Arena:
    """See the module's text. Rows of nodes are called ports here, as in `MemoryFabric`."""

    def __init__(self) -> None:
        self.scalars = np.zeros(fast.SCALARS, np.int64)
        self.scalars[[fast.X_FREE, fast.X_RELEASED]] = -1
        self.scalars[fast.X_PLAIN] = 1
        self.x: memoryview[int] = memoryview(self.scalars)  # type: ignore[arg-type]  # a buffer since PEP 688
        self.ports = np.zeros((_FIRST_PORTS, fast.PORT_COLS), np.int64)
        self._heap = np.zeros((_FIRST_EVENTS, fast.EVENT_COLS), np.int64)
        self._frames = np.zeros((0, fast.FRAME_COLS), np.int64)
        self._places = np.zeros(_FIRST_PORTS, np.int64)
        self._rows = np.zeros((_FIRST_PORTS, _FIRST_PORTS), np.int64)
        self.spoken = np.zeros((_FIRST_PORTS, _FIRST_PORTS), np.uint8)
        self._count = 0
        self._held: dict[int, Bytes] = {}
        self._chunks: list[Bytes] = []
        self._kept: dict[int, Any] = {}  # handles, by port
        self.net: Any = None
        self._grow_events()

    def _refresh(self) -> None:
        """Tables were replaced: make the handle anew."""
        rows = []
        tables: list[Any] = [self.scalars, self.ports, self._heap, self._frames, self._places, self._rows]
        for table in tables:
            rows.append((table.ctypes.data, table.shape[0], table.shape[1] if table.ndim == 2 else 0))
        rows.append((self.spoken.ctypes.data, self.spoken.size, 0))
        self.net = np.array(rows, np.int64).reshape(-1)

    def _grow_events(self) -> None:
        """Twice as much room for events and frames."""
        before, heap = len(self._frames), self._heap
        if self.x[fast.X_COUNT] + 2 > len(heap):
            self._heap = np.zeros((2 * len(heap), fast.EVENT_COLS), np.int64)
            self._heap[: len(heap)] = heap
        frames = np.zeros((max(2 * before, _FIRST_EVENTS), fast.FRAME_COLS), np.int64)
        frames[:before] = self._frames
        frames[before:, fast.F_NEXT] = np.arange(before + 1, len(frames) + 1)
        frames[-1, fast.F_NEXT] = self.x[fast.X_FREE]
        self.x[fast.X_FREE] = before
        self._frames = frames
        self._refresh()

    def make_room(self) -> None:
        """After compiled code could not put a frame away: give it what it may have lacked."""
        x = self.x
        if x[fast.X_FREE] < 0 or x[fast.X_COUNT] + 2 > len(self._heap):
            self._grow_events()
        for kind in range(fast.KINDS):
            if x[fast.X_BLOCKS + kind] == 0:
                size = fast.SMALLEST << 2 * kind
                chunk = np.empty(_CHUNK, np.uint8)
                starts = chunk.ctypes.data + np.arange(0, _CHUNK, size)
                chunk.view(np.int64)[:: size // 8] = np.append(starts[1:], 0)
                x[fast.X_BLOCKS + kind] = int(starts[0])
                self._chunks.append(chunk)

    # ---- nodes ----------------------------------------------------------------------------------------

    def add_port(self, index: int) -> int:
        """A row for node `index`; frames to it go there from now on."""
        port, self._count = self._count, self._count + 1
        if port == len(self.ports):
            n = 2 * port
            ports, rows = np.zeros((n, fast.PORT_COLS), np.int64), np.zeros((n, n), np.int64)
            spoken = np.zeros((n, n), np.uint8)
            ports[:port], rows[:port, :port], spoken[:port, :port] = self.ports, self._rows, self.spoken
            self.ports, self._rows, self.spoken = ports, rows, spoken
        if index >= len(self._places):
            places = np.zeros(max(2 * len(self._places), index + 1), np.int64)
            places[: len(self._places)] = self._places
            self._places = places
        self._places[index] = port + 1
        row = self.ports[port]
        row[fast.Q_INDEX], row[fast.Q_LIFE], row[fast.Q_ARMED] = index, fast.PYTHON, fast.NEVER
        self._refresh()
        return port

    def bind(self, port: int, core: Core) -> None:
        """Let compiled code find a node's tables, which have moved."""
        row, handle, scratch = self.ports[port], core.handle, core.scratch
        row[fast.Q_HANDLE], row[fast.Q_HANDLE_WORDS] = handle.ctypes.data, len(handle)
        row[fast.Q_SCRATCH], row[fast.Q_SCRATCH_BYTES] = scratch.ctypes.data, len(scratch)
        self._kept[port] = handle, scratch

    def introduce(self, port: int, peer_port: int, row: int) -> None:
        """Node `port` knows the node of `peer_port` as row `row` of its peers."""
        self._rows[port, peer_port] = row + 1

    def known(self, port: int, peer_port: int) -> bool:
        """Whether that was said."""
        return bool(self._rows[port, peer_port])

    def drop_port(self, port: int) -> None:
        """The node is no more: what is under way to it is dropped when it is due."""
        self.ports[port, fast.Q_LIFE] = fast.DEAD
        self._kept.pop(port, None)

    # ---- frames ---------------------------------------------------------------------------------------

    def put(self, time_ps: int, src: int, dst: int, frame: Bytes) -> None:
        """Add a frame of Python's."""
        address = frame.__array_interface__["data"][0]
        row = fast.put(self.net, time_ps, src, dst, address, len(frame))
        if row < 0:
            self._grow_events()
            row = fast.put(self.net, time_ps, src, dst, address, len(frame))
        self._held[row] = frame

    def arm(self, port: int, time_ps: int) -> None:
        """Wake a node at a time, unless that is arranged already for an earlier one."""
        if self.x[fast.X_COUNT] + 2 > len(self._heap):
            self._grow_events()
        fast.arm(self.net, port, time_ps)

    def frame(self) -> tuple[int, Bytes]:
        """(sender's port, read-only bytes) of the frame that the loop stopped at: Python's from now on."""
        row = self.x[fast.X_FRAME]
        record = self._frames[row]
        src = int(record[fast.F_SRC])
        frame = self._held.pop(row, None)
        if frame is None:
            data = ctypes.string_at(int(record[fast.F_ADDRESS]), int(record[fast.F_SIZE]))
            frame = np.frombuffer(data, _UINT8)
        fast.done_with(self.net, row)
        return src, frame

    def sweep(self) -> None:
        """Let go of frames of Python's that compiled code is done with."""
        x, frames = self.x, self._frames
        while (row := x[fast.X_RELEASED]) >= 0:
            x[fast.X_RELEASED] = frames[row, fast.F_NEXT]
            frames[row, fast.F_NEXT] = x[fast.X_FREE]
            x[fast.X_FREE] = row
            self._held.pop(row, None)

    def due(self) -> tuple[int, int] | None:
        """(time, number) of the first event."""
        if self.x[fast.X_COUNT] == 0:
            return None
        return int(self._heap[0, fast.E_TIME]), int(self._heap[0, fast.E_NUMBER])

    def close(self) -> None:
        """Forget everything."""
        self._held.clear()
        self._kept.clear()
        self.ports[:, fast.Q_LIFE] = fast.DEAD
        self.x[fast.X_COUNT] = 0
