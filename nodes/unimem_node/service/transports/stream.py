"""The transports `tcp` and `unix`: frames back to back on a socket, nothing around them.

A frame announces its own length, so the stream needs no framing of its own. Frames are sent from where they
lie, several by one `sendmsg`; what the kernel does not take at once is left to the event loop. They are
received into a buffer of ours (`BufferedProtocol`) and handed over there, so that the sink must copy what it
wants to keep. The buffer starts again at its beginning whenever it is empty, which keeps it in the cache.

Memory is bounded: `QUEUE_LIMIT` bytes may wait for a peer that does not read, then the connection ends.
"""

from __future__ import annotations

import asyncio
import socket
from collections.abc import Callable
from typing import Any, Final

import numpy as np

from unimem.wire import HEADER_BYTES
from unimem_node.service.framing import fabric_total
from unimem_node.service.transports import QUEUE_LIMIT, ServiceSink
from unimem_node.service.transports.spinner import Spinner

#: What is received by one call at most, and the buffer between large frames.
BUFFER_BYTES: Final = 640 << 10

#: So much waits for `flush` at most.
FLUSH_BYTES: Final = 64 << 10

_MOST_PIECES: Final = 256  # of one sendmsg; the kernel takes 1,024
_KERNEL_BUFFER: Final = 2 << 20
_SILENCE_MS: Final = 15_000


class FrameBuffer:
    """Bytes come in, frames of node `sender` go out."""

    def __init__(self, sender: int, size: int = BUFFER_BYTES) -> None:
        self._sender, self._size = sender, size
        self._allocate(size)
        self._start = self._end = 0

    def _allocate(self, size: int) -> None:
        self._array = np.empty(size, np.uint8)
        self._view = self._array.data
        self._frames = self._array[:]
        self._frames.flags.writeable = False

    @property
    def room(self) -> memoryview:
        """Where the next bytes go; never empty."""
        return self._view[self._end :]

    def take(self, n: int, deliver: Callable[[np.ndarray], None]) -> None:
        """`n` bytes have come into `room`: deliver each frame that is whole, as a view.

        Raises `FrameError` for what is none.
        """
        self._end += n
        while (waiting := self._end - self._start) >= HEADER_BYTES:
            total = fabric_total(self._view, self._start, self._sender)
            if total > waiting:
                break
            start = self._start
            self._start += total
            deliver(self._frames[start : start + total])
        else:
            total = HEADER_BYTES
        if self._start == self._end:
            self._start = self._end = 0
            if len(self._array) > self._size:
                self._allocate(self._size)  # a very large frame was here
        elif self._start + total > len(self._array):
            self._move(total)

    def _move(self, total: int) -> None:
        """Make room for a frame of `total` bytes, the beginning of which is here."""
        rest = self._array[self._start : self._end]
        if total > len(self._array):
            self._allocate(total)
        self._array[: len(rest)] = rest
        self._start, self._end = 0, len(rest)

    def clear(self) -> None:
        """Deliver nothing more."""
        self._start = self._end = 0


def unsent(frames: list[np.ndarray], sent: int) -> list[memoryview]:
    """What is left of `frames` when `sent` bytes of them have gone."""
    for i, frame in enumerate(frames):
        if sent < len(frame):
            return [frame.data[sent:], *(later.data for later in frames[i + 1 :])]
        sent -= len(frame)
    return []


def tune(sock: socket.socket) -> None:
    """Small messages at once, large ones by the megabyte, and an end for a peer that has vanished."""
    sock.setblocking(False)
    if sock.family == socket.AF_UNIX:
        for option in (socket.SO_SNDBUF, socket.SO_RCVBUF):  # TCP sizes its own
            sock.setsockopt(socket.SOL_SOCKET, option, _KERNEL_BUFFER)
        return
    sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
    sock.setsockopt(socket.SOL_SOCKET, socket.SO_KEEPALIVE, 1)
    for name, value in (
        ("TCP_KEEPIDLE", 5),
        ("TCP_KEEPINTVL", 5),
        ("TCP_KEEPCNT", 2),
        ("TCP_USER_TIMEOUT", _SILENCE_MS),
    ):
        if hasattr(socket, name):  # not every system has them all
            sock.setsockopt(socket.IPPROTO_TCP, getattr(socket, name), value)


class StreamLink(asyncio.BufferedProtocol):
    """A connection to one peer over a connected, introduced socket. `on_over` hears once why it ended."""

    def __init__(
        self,
        kind: str,
        sock: socket.socket,
        peer: int,
        sink: ServiceSink,
        on_over: Callable[[StreamLink, str], None],
        spinner: Spinner,
    ) -> None:
        self._spinner = spinner
        self.kind, self._sock, self._peer, self._sink, self._on_over = kind, sock, peer, sink, on_over
        self._buffer = FrameBuffer(peer)
        self._queue: list[np.ndarray] = []
        self._queued = 0
        self._over = False
        self._transport: Any = None

    async def start(self) -> None:
        """Let the running loop have the socket."""
        await asyncio.get_running_loop().connect_accepted_socket(lambda: self, self._sock)

    # What the loop calls -------------------------------------------------------------------------------

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        """Ready to send."""
        self._transport = transport
        self.flush()

    def get_buffer(self, sizehint: int) -> memoryview:
        """Where to receive."""
        return self._buffer.room

    def buffer_updated(self, nbytes: int) -> None:
        """Hand over what is whole."""
        try:
            self._buffer.take(nbytes, self._deliver)
        except ValueError as error:
            self._end(f"what came is no frame: {error}")
            return
        self._sink.turn()
        if not self._over:
            self._spinner.heard(self)

    def _deliver(self, frame: np.ndarray) -> None:
        self._sink.on_frame(self._peer, frame)

    def eof_received(self) -> bool:
        """A peer that sends no more is of no use: half a connection is none."""
        return False

    def connection_lost(self, exc: Exception | None) -> None:
        """The end, whoever wanted it."""
        self._end(f"the connection broke: {exc}" if exc else "the peer closed the connection")

    # What the owner calls ------------------------------------------------------------------------------

    def send(self, frame: np.ndarray) -> None:
        """Queue a frame; it leaves by the next `flush` at the latest."""
        self._queue.append(frame)
        self._queued += len(frame)
        if self._queued >= FLUSH_BYTES:
            self.flush()

    def flush(self) -> None:
        """Send what is queued, from where it lies."""
        queue, transport = self._queue, self._transport
        if not queue or transport is None or self._over:
            return
        self._queue, self._queued = [], 0
        sent = 0
        if transport.get_write_buffer_size() == 0:
            try:
                sent = self._sock.sendmsg(queue[:_MOST_PIECES])  # type: ignore[arg-type]
            except (BlockingIOError, InterruptedError):
                pass
            except OSError as error:
                self._end_soon(f"sending failed: {error}")
                return
        self._spinner.wake(self)
        rest = unsent(queue, sent)
        if rest:
            transport.writelines(rest)
            if transport.get_write_buffer_size() > QUEUE_LIMIT:
                self._end_soon("the peer does not read")

    def _end_soon(self, why: str) -> None:
        """The sink is in the middle of its work: it hears of the end afterwards."""
        asyncio.get_running_loop().call_soon(self._end, why)

    # What the spinner asks: the loop sees for itself what comes on a socket

    @property
    def ready(self) -> bool:
        """See `Watched`."""
        return False

    def drain(self) -> None:
        """See `Watched`."""

    def awake(self) -> None:
        """See `Watched`."""

    def sleep(self) -> bool:
        """See `Watched`."""
        return True

    def close(self) -> None:
        """End it; `on_over` is not called."""
        self._over = True
        self._spinner.forget(self)
        self._buffer.clear()
        self._queue.clear()
        if self._transport is None:
            self._sock.close()
        else:
            self._transport.abort()

    def _end(self, why: str) -> None:
        if not self._over:
            self.close()
            self._on_over(self, why)
