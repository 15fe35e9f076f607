"""What two nodes say to each other before frames flow on a socket: who they are, and whom they want.

The dialler sends one `Hello`, the other side answers with one: accepted, refused for good, or busy (see
`unimem_node.service.transports.nodes`). A hello is a fixed record, little-endian, whose first 12 bytes
(magic, version, length) are the same in every version. It names both ends with their incarnations, as
gRPC's metadata does, so that nobody ends up with a node of an earlier life, or with another program.

For `shm` the file of the rings comes along with the dialler's hello (SCM_RIGHTS), so it needs no name.
"""

from __future__ import annotations

import asyncio
import os
import socket
import struct
from dataclasses import dataclass
from enum import IntEnum
from typing import Final

MAGIC: Final = b"UNIMEM\r\n"  # a connection that mangles line ends shows here
VERSION: Final = 1

_START: Final = struct.Struct("<8sHH")
# kind, word, flags, number, seen, ring bytes, incarnation, incarnation wanted, name, name wanted, text
_REST: Final = struct.Struct("<BBHIIQQQ64s64s128s")
HELLO_BYTES: Final = _START.size + _REST.size

STREAM: Final = 0
RINGS: Final = 1


class Word(IntEnum):
    """What a hello means."""

    DIAL = 0
    ACCEPTED = 1
    REFUSED = 2
    BUSY = 3  # our own dial to you is under way: wait for it


class HelloError(Exception):
    """The other end is no node of ours, or not the one that is meant, or it refuses. The text says which."""


class BusyError(HelloError):
    """The other end is dialling us."""


@dataclass(frozen=True, slots=True)
class Hello:
    """`number`: the dialler's running number of dials to this node; `seen`: the last it took from it."""

    name: str
    incarnation: int
    to_name: str
    to_incarnation: int
    kind: int = STREAM
    word: Word = Word.DIAL
    number: int = 0
    seen: int = 0
    ring_bytes: int = 0
    text: str = ""

    def pack(self) -> bytes:
        """The record."""
        return _START.pack(MAGIC, VERSION, HELLO_BYTES) + _REST.pack(
            self.kind,
            self.word,
            0,
            self.number,
            self.seen,
            self.ring_bytes,
            self.incarnation,
            self.to_incarnation,
            _text(self.name, 64),
            _text(self.to_name, 64),
            _text(self.text, 128),
        )

    def answer(self, word: Word, text: str = "", seen: int = 0) -> Hello:
        """An answer of the node this one was for."""
        return Hello(
            self.to_name,
            self.to_incarnation,
            self.name,
            self.incarnation,
            self.kind,
            word,
            self.number,
            seen,
            self.ring_bytes,
            text,
        )


def _text(value: str, size: int) -> bytes:
    """At most `size` bytes of UTF-8; a character is not cut."""
    data = value.encode()[:size]
    return data.decode(errors="ignore").encode()


def unpack(start: bytes, rest: bytes) -> Hello:
    """The hello of these bytes, whose first part has passed `check_start`. Raises `HelloError`."""
    kind, word, _, number, seen, ring, incarnation, wanted, name, to_name, text = _REST.unpack(rest)
    try:
        return Hello(
            name.rstrip(b"\0").decode(),
            incarnation,
            to_name.rstrip(b"\0").decode(),
            wanted,
            kind,
            Word(word),
            number,
            seen,
            ring,
            text.rstrip(b"\0").decode(),
        )
    except ValueError as error:  # no such word, or no UTF-8
        raise HelloError(f"a hello that makes no sense: {error}") from None


def check_start(start: bytes) -> None:
    """Raises `HelloError` unless the first bytes are those of a hello of this version."""
    magic, version, length = _START.unpack(start)
    if magic != MAGIC:
        raise HelloError(f"{magic.hex()} where a hello begins with {MAGIC.hex()}: this is no node")
    if version != VERSION:
        raise HelloError(f"a hello of version {version}; this node speaks version {VERSION}")
    if length != HELLO_BYTES:
        raise HelloError(f"a hello of {length} bytes; version {VERSION} has {HELLO_BYTES}")


async def read_hello(sock: socket.socket) -> tuple[Hello, list[int]]:
    """The hello that comes on a non-blocking socket, and the file descriptors that came along (caller's).

    Raises `HelloError`, or `OSError` when the connection breaks.
    """
    files: list[int] = []
    try:
        start = await _read(sock, _START.size, files)
        check_start(start)
        return unpack(start, await _read(sock, _REST.size, files)), files
    except BaseException:
        close_files(files)
        raise


async def _read(sock: socket.socket, size: int, files: list[int]) -> bytes:
    data = b""
    while len(data) < size:
        await _readable(sock)
        try:
            piece, got, _, _ = socket.recv_fds(sock, size - len(data), 4)
        except (BlockingIOError, InterruptedError):
            continue
        files += got
        if not piece:
            raise HelloError("it closed the connection without a word" if not data else "half a hello came")
        data += piece
    return data


async def _readable(sock: socket.socket) -> None:
    loop = asyncio.get_running_loop()
    ready = asyncio.Event()
    loop.add_reader(sock, ready.set)
    try:
        await ready.wait()
    finally:
        loop.remove_reader(sock)


def send_hello(sock: socket.socket, hello: Hello, files: list[int] | None = None) -> None:
    """Send on a fresh connection, which has room for it. Raises `OSError`."""
    data = hello.pack()
    sent = socket.send_fds(sock, [data], files) if files else sock.send(data)
    if sent != len(data):
        raise OSError("the connection takes no hello")


def close_files(files: list[int]) -> None:
    """Close what came along and is not wanted."""
    for file in files:
        os.close(file)
