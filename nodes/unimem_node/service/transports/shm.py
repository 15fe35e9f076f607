"""The transport `shm`: two rings in memory that both processes map, and a Unix socket as doorbell.

The dialler makes the memory (a memfd, or an unlinked file where there is none) and hands its descriptor over
with its hello: it has no name, needs no privileges, and is gone with the last process that maps it. Its pages
are allocated at once, so that a full /dev/shm is an error here and not a SIGBUS later; then smaller rings are
tried.

A receiver that has nothing to do says so in the ring and is woken by a byte on the socket. Before it sleeps
it looks into its rings for a while (`spinner`): an answer that comes within microseconds is then met awake,
which is what makes a blocking put faster than a bare socket's ping-pong.

The end of the socket is the end of the connection: a peer that is killed is seen at once. What it had
published is delivered before.
"""

from __future__ import annotations

import asyncio
import fcntl
import mmap
import os
import socket
import sys
import tempfile
from collections import deque
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path
from typing import Final

import numpy as np

from unimem.wire import HEADER_BYTES, FrameError
from unimem_node.service.framing import LARGEST_FRAME, fabric_total
from unimem_node.service.transports import QUEUE_LIMIT, ServiceSink
from unimem_node.service.transports.ring import LARGEST, SMALLEST, Receiver, Sender, bytes_for
from unimem_node.service.transports.spinner import Spinner

#: Of each direction, if the system has that much.
RING_BYTES: Final = 4 << 20

_FRAMES_AT_ONCE: Final = 64
_BELL: Final = b"\1"


def make_memory(ring_bytes: int) -> tuple[int, int]:
    """Shared memory for two rings of at most `ring_bytes`: (file descriptor, ring bytes).

    Raises `OSError` when there is not even room for the smallest.
    """
    while True:
        file = _anonymous_file()
        try:
            os.posix_fallocate(file, 0, 2 * bytes_for(ring_bytes))
            if hasattr(fcntl, "F_ADD_SEALS"):
                with suppress(OSError):  # a file of a file system has no seals
                    fcntl.fcntl(file, fcntl.F_ADD_SEALS, fcntl.F_SEAL_SHRINK | fcntl.F_SEAL_GROW)
            return file, ring_bytes
        except OSError:
            os.close(file)
            ring_bytes //= 2
            if ring_bytes < SMALLEST:
                raise
        except BaseException:
            os.close(file)
            raise


def _anonymous_file() -> int:
    if hasattr(os, "memfd_create"):
        return os.memfd_create("unimem", os.MFD_CLOEXEC | os.MFD_ALLOW_SEALING)
    folder = "/dev/shm" if Path("/dev/shm").is_dir() else None  # unlinked at once
    file, name = tempfile.mkstemp(prefix="unimem-", dir=folder)
    Path(name).unlink()
    return file


def map_memory(file: int, ring_bytes: int) -> mmap.mmap:
    """Map both rings. Raises `ValueError` for a file that is not what the hello says."""
    if not SMALLEST <= ring_bytes <= LARGEST or ring_bytes & (ring_bytes - 1):
        raise ValueError(f"rings of {ring_bytes} bytes")
    size = 2 * bytes_for(ring_bytes)
    if os.fstat(file).st_size != size:
        raise ValueError(f"shared memory of {os.fstat(file).st_size} bytes where {size} were announced")
    return mmap.mmap(file, size)


class ShmLink:
    """A connection to one peer. `on_over` hears once why it ended."""

    kind = "shm"

    def __init__(
        self,
        memory: mmap.mmap,
        sock: socket.socket,
        peer: int,
        sink: ServiceSink,
        on_over: Callable[[ShmLink, str], None],
        spinner: Spinner,
        *,
        dialler: bool,
    ) -> None:
        self._sock, self._peer, self._sink, self._on_over, self._spinner = sock, peer, sink, on_over, spinner
        whole = memoryview(memory)
        half = len(whole) // 2
        first, second = whole[:half], whole[half:]
        self.sender = Sender(first if dialler else second)
        self.receiver = Receiver(second if dialler else first)
        self._queue: deque[np.ndarray] = deque()
        self._queued = 0
        self._sent = 0  # bytes of the queue's first frame that are in the ring
        self._parts: list[np.ndarray] = []
        self._over = False
        self._loop = asyncio.get_running_loop()
        self._kept = sys.getrefcount(self.receiver.frames)

    async def start(self) -> None:
        """Listen to the doorbell."""
        self._loop.add_reader(self._sock, self._on_bell)
        self._spinner.wake(self)

    # Sending -------------------------------------------------------------------------------------------

    def send(self, frame: np.ndarray) -> None:
        """Put a frame into the ring, or into the queue when the ring is full."""
        if self._over:
            return
        if self._queue or not self._put(frame):
            self._queue.append(frame)
            self._queued += len(frame)
            if len(self._queue) == 1:
                self._push()
            if self._queued > QUEUE_LIMIT:
                self._end_soon("the peer does not read")
                return
        self._show()

    def _put(self, frame: np.ndarray) -> bool:
        """The whole frame as one record; False: no room, or it takes several."""
        return len(frame) <= self.sender.longest and self.sender.put(frame)

    def flush(self) -> None:
        """Nothing waits here for more."""

    def _show(self) -> None:
        if self.sender.publish():
            self._ring()
        self._spinner.wake(self)

    def _push(self) -> None:
        """Move what waits into the ring; when that is full, ask to be told of room."""
        sender, asked = self.sender, False
        while self._queue:
            frame = self._queue[0]
            end = min(self._sent + sender.longest, len(frame))
            if sender.put(frame[self._sent : end], more=end < len(frame)):
                self._sent = end
                if end == len(frame):
                    self._queue.popleft()
                    self._queued -= len(frame)
                    self._sent = 0
            elif asked:
                return
            else:
                if sender.publish():
                    self._ring()
                sender.wait_for_room()
                asked = True

    def _ring(self) -> None:
        try:
            self._sock.send(_BELL)
        except (BlockingIOError, InterruptedError):
            pass  # the bell is full of rings not heard yet
        except OSError as error:
            self._end_soon(f"the peer is gone: {error}")

    # Receiving -----------------------------------------------------------------------------------------

    def drain(self) -> None:
        """Hand over what is in the ring, then let the sink act; go on sending what waited for room."""
        receiver, got = self.receiver, False
        try:
            for _ in range(_FRAMES_AT_ONCE):
                if self._over or (record := receiver.get()) is None:
                    break
                self._take(record, receiver.more)
                got = True
                del record
                if self._over:
                    return
                if sys.getrefcount(receiver.frames) != self._kept:
                    raise RuntimeError("a frame was kept beyond on_frame: its bytes will change")
                if receiver.release():
                    self._ring()
        except (ValueError, RuntimeError) as error:
            self._end(f"what came is no frame: {error}" if isinstance(error, ValueError) else str(error))
            return
        if self._queue:
            self._push()
            self._show()
        if got:
            self._sink.turn()

    def _take(self, record: np.ndarray, more: bool) -> None:
        if more or self._parts:
            self._parts.append(record.copy())
            if sum(map(len, self._parts)) > LARGEST_FRAME:
                raise FrameError(f"a frame of more than {LARGEST_FRAME} bytes")
            if more:
                return
            record = np.concatenate(self._parts)
            record.flags.writeable = False
            self._parts = []
        if len(record) < HEADER_BYTES or fabric_total(record.data, 0, self._peer) != len(record):
            raise FrameError(f"a record of {len(record)} bytes is no frame of that length")
        self._sink.on_frame(self._peer, record)

    @property
    def ready(self) -> bool:
        """There is something to drain."""
        return self.receiver.ready

    def awake(self) -> None:
        """The doorbell is not needed: we look by ourselves."""
        self.receiver.wake()

    def sleep(self) -> bool:
        """Ask for the doorbell; False when something has come meanwhile."""
        return self.receiver.sleep()

    def _on_bell(self) -> None:
        try:
            heard = self._sock.recv(4096)
        except (BlockingIOError, InterruptedError):
            return
        except OSError as error:
            heard, why = b"", f"the connection broke: {error}"
        else:
            why = "the peer closed the connection"
        if not heard:
            while not self._over and self.receiver.ready:
                self.drain()
            self._end(why)
            return
        self.drain()
        if not self._over:
            self._spinner.heard(self)

    # The end -------------------------------------------------------------------------------------------

    def close(self) -> None:
        """End it; `on_over` is not called."""
        if self._over:
            return
        self._over = True
        self._spinner.forget(self)
        self._loop.remove_reader(self._sock)
        self._sock.close()
        self._queue.clear()
        self._loop.call_soon(self._unmap)  # not under the feet of who is just reading

    def _unmap(self) -> None:
        with suppress(BufferError):  # somebody looks at it still: it goes with the last view
            self.sender.close()
            self.receiver.close()

    def _end_soon(self, why: str) -> None:
        self._loop.call_soon(self._end, why)

    def _end(self, why: str) -> None:
        if not self._over:
            self.close()
            self._on_over(self, why)
