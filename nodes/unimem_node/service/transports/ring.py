"""One direction of the `shm` transport: a ring of frames in memory that two processes share.

The first page holds four words, each in a cache line of its own; the ring follows, a power of two of bytes.

=========  ==========  ==================================================================================
offset     written by
=========  ==========  ==================================================================================
0          sender      ``tail``: bytes ever written
64         receiver    ``head``: bytes ever released
128        both        ``asleep``: the receiver waits for the doorbell (it sets, who rings clears)
192        both        ``full``: the sender waits for room (it sets, who rings clears)
=========  ==========  ==================================================================================

A record is a line of 64 bytes that begins with a word (length in bytes; `MORE`: the frame goes on in the
next record), and its bytes, padded to a line. It lies in one piece, so that a frame is read where it lies:
`SKIP` says that the rest of the ring's end is unused. A frame larger than half the ring comes in several
records. The stores are ordinary ones: with non-temporal ones the sender is as quick, the receiver half.

The positions are published after the bytes. x86 keeps stores in order by itself; elsewhere, and where a store
must be seen before a later load (tell, then look whether the other sleeps), `fence` is the instruction that
Python has: taking and giving back a lock, twice.

What the peer writes is not trusted: `RingError` for positions and lengths that cannot be.
"""

from __future__ import annotations

import platform
import threading
from typing import Final

import numpy as np

PAGE: Final = 4096
TAIL, HEAD, ASLEEP, FULL = 0, 8, 16, 24  # indices of 64-bit words

MORE: Final = 1 << 63
SKIP: Final = (1 << 64) - 1
_LENGTH: Final = MORE - 1

#: A line of the cache. Copies that are not aligned to lines take two to three times as long.
LINE: Final = 64

#: A ring smaller than this is not worth it; a larger one only fills caches.
SMALLEST: Final = 64 << 10
LARGEST: Final = 1 << 30

_lock = threading.Lock()
_ORDERED: Final = platform.machine() in {"x86_64", "AMD64", "i686"}


class RingError(ValueError):
    """The peer has written what cannot be."""


def fence() -> None:
    """Everything before is visible to others before anything after begins."""
    _lock.acquire()
    _lock.release()
    if not _ORDERED:
        _lock.acquire()
        _lock.release()


def bytes_for(size: int) -> int:
    """Bytes of shared memory that a ring of `size` takes."""
    return PAGE + size


class _Side:
    """What both ends have: the words, the ring, our position."""

    def __init__(self, memory: memoryview) -> None:
        self.words = memory[:PAGE].cast("Q")
        self.data = memory[PAGE:]
        self.marks = self.data.cast("Q")
        self.size = len(self.data)
        if self.size & (self.size - 1) or not SMALLEST <= self.size <= LARGEST:
            raise ValueError(f"a ring of {self.size} bytes; a power of two from {SMALLEST} to {LARGEST}")
        self._mask = self.size - 1
        self.at = 0

    def close(self) -> None:
        """Let go of the memory."""
        for view in (self.words, self.marks, self.data):
            view.release()


def _room(n: int) -> int:
    """Bytes of the ring that a record of `n` takes."""
    return LINE + (n + LINE - 1 & -LINE)


class Sender(_Side):
    """The end that writes. One thread."""

    @property
    def longest(self) -> int:
        """Most bytes of one record."""
        return self.size // 2 - LINE

    def put(self, piece: np.ndarray, more: bool = False) -> bool:
        """Append a record (uint8), if there is room; `publish` makes it visible."""
        n = len(piece)
        need = _room(n)
        free = self.size - (self.at - self.words[HEAD])
        offset = self.at & self._mask
        skip = self.size - offset if offset + need > self.size else 0
        if need + skip > free:
            return False
        if skip:
            self.marks[offset >> 3] = SKIP
            self.at += skip
            offset = 0
        self.marks[offset >> 3] = n | MORE if more else n
        self.data[offset + LINE : offset + LINE + n] = piece.data
        self.at += need
        return True

    def publish(self) -> bool:
        """Show what was put; True when the receiver sleeps and the doorbell must be rung."""
        if not _ORDERED:
            fence()
        self.words[TAIL] = self.at
        fence()
        if self.words[ASLEEP]:
            self.words[ASLEEP] = 0
            return True
        return False

    def wait_for_room(self) -> None:
        """Ask for the doorbell when there is room again. Try once more after this."""
        self.words[FULL] = 1
        fence()


class Receiver(_Side):
    """The end that reads. One thread."""

    def __init__(self, memory: memoryview) -> None:
        super().__init__(memory)
        self.frames = np.frombuffer(self.data, np.uint8)
        self.frames.flags.writeable = False
        self.more = False

    @property
    def ready(self) -> bool:
        """There is something to get."""
        return self.words[TAIL] != self.at

    def get(self) -> np.ndarray | None:
        """The next record, a read-only view until `release`; `more`: its frame goes on. None: no more."""
        tail = self.words[TAIL]
        if not _ORDERED:
            fence()
        while (waiting := tail - self.at) != 0:
            offset = self.at & self._mask
            word = self.marks[offset >> 3]
            if not LINE <= waiting <= self.size:
                raise RingError(f"{waiting} bytes wait in a ring of {self.size}")
            if word == SKIP:
                self.at += self.size - offset
                continue
            n = word & _LENGTH
            need = _room(n)
            if need > waiting or offset + need > self.size:
                raise RingError(f"a record of {n} bytes at {offset}, where {waiting} wait")
            self.more = word >= MORE
            self.at += need
            return self.frames[offset + LINE : offset + LINE + n]
        return None

    def release(self) -> bool:
        """Give back what was got; True when the sender waits for room and the doorbell must be rung."""
        if not _ORDERED:
            fence()
        self.words[HEAD] = self.at
        fence()
        # Not for every byte: a sender that waits has much to send.
        if self.words[FULL] and self.words[TAIL] - self.at <= self.size // 2:
            self.words[FULL] = 0
            return True
        return False

    def sleep(self) -> bool:
        """Ask for the doorbell from now on; False when something has come meanwhile."""
        self.words[ASLEEP] = 1
        fence()
        if self.ready:
            self.words[ASLEEP] = 0
            return False
        return True

    def wake(self) -> None:
        """The doorbell is not needed: we look by ourselves."""
        self.words[ASLEEP] = 0

    def close(self) -> None:
        """Let go of the memory."""
        del self.frames
        super().close()
