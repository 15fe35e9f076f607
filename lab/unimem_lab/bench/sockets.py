"""The yardstick of `tcp` and `shm`: bare Python sockets between two processes, blocking, nothing around them.

The near end sends chunks as large as our frames with `sendmsg`, the far end takes them with `recv_into` and
answers 8 bytes when all are there: the same bytes, the same number of system calls, no protocol.
``python -m unimem_lab.bench.sockets tcp`` (or ``unix``) is the far end. The near end says first, as two
64-bit numbers, how many bytes come and how many times.
"""

from __future__ import annotations

import os
import socket
import struct
import subprocess
import sys
import time
from typing import Self

from unimem_lab.bench.pair import pin

#: A frame: 256 KiB of payload, sixteen blocks.
CHUNK = (256 << 10) + 64 + 16 * 64
_ORDER = struct.Struct("<QQ")
_ANSWER = b"12345678"


def _tuned(sock: socket.socket) -> socket.socket:
    if sock.family == socket.AF_UNIX:
        for option in (socket.SO_SNDBUF, socket.SO_RCVBUF):
            sock.setsockopt(socket.SOL_SOCKET, option, 2 << 20)
    else:
        sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
    return sock


def serve(kind: str) -> None:
    """The far end, for one caller."""
    if kind == "tcp":
        listening = socket.create_server(("127.0.0.1", 0))
        where = str(listening.getsockname()[1])
    else:
        listening = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
        listening.bind(b"\0unimem-bench-%d" % os.getpid())
        listening.listen()
        where = str(os.getpid())
    print(where, flush=True)  # noqa: T201 - how the parent learns it
    sock = _tuned(listening.accept()[0])
    space = memoryview(bytearray(16 << 20))
    order = memoryview(bytearray(_ORDER.size))
    while sock.recv_into(order, flags=socket.MSG_WAITALL) == _ORDER.size:
        size, times = _ORDER.unpack(order)
        for _ in range(times):
            got = 0
            while got < size:
                got += sock.recv_into(space[got:size])
            sock.send(_ANSWER)


class BareSockets:
    """The near end; a context manager. Both ends are pinned, as the nodes beside them are."""

    def __init__(self, kind: str) -> None:
        self._far = subprocess.Popen(
            [sys.executable, "-m", "unimem_lab.bench.sockets", kind], stdout=subprocess.PIPE, text=True
        )
        assert self._far.stdout is not None
        where = self._far.stdout.readline().strip()
        if kind == "tcp":
            self._sock = _tuned(socket.create_connection(("127.0.0.1", int(where))))
        else:
            self._sock = _tuned(socket.socket(socket.AF_UNIX, socket.SOCK_STREAM))
            self._sock.connect(b"\0unimem-bench-" + where.encode())
        pin(self._far.pid, 1)
        self._data = memoryview(bytes(16 << 20))
        self._answer = memoryview(bytearray(8))

    def puts(self, size: int, times: int) -> list[float]:
        """Seconds of each of `times` puts of `size` bytes."""
        sock, data, answer = self._sock, self._data, self._answer
        sock.send(_ORDER.pack(size, times))
        seconds = []
        for _ in range(times):
            started = time.perf_counter()
            at = 0
            while at < size:
                at += sock.sendmsg([data[at : min(at + CHUNK, size)]])
            sock.recv_into(answer)
            seconds.append(time.perf_counter() - started)
        return seconds

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *exc: object) -> None:
        self._sock.close()
        self._far.wait()


if __name__ == "__main__":
    serve(sys.argv[1])
