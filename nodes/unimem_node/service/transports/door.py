"""Where other nodes find the fast transports of this one: listening sockets, and what is said of them.

A Unix socket lives in Linux' abstract namespace under a random name: nothing is left behind by a node that is
killed, and whoever can connect to the name is on this host and in this network namespace, which is all that
"the same host" needs to mean. It has no permissions, so each connection's user is checked. Elsewhere than on
Linux it is a file in a folder that only this user may enter.
"""

from __future__ import annotations

import asyncio
import os
import secrets
import socket
import struct
import sys
import tempfile
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Final

import structlog

from unimem_node.service.transports.hello import HelloError
from unimem_node.service.transports.stream import tune

log = structlog.get_logger(__name__)

#: Best first. Each name allows itself and those after it, as what is left when it cannot be had.
KINDS: Final = ("shm", "unix", "tcp", "grpc")

_BACKLOG: Final = 128


@dataclass(frozen=True, slots=True)
class Offer:
    """What a node says of its transports: kinds, the port at the host of its address, the socket's name."""

    kinds: tuple[str, ...] = ()
    tcp_port: int = 0
    unix_socket: str = ""  # begins with @: abstract


def kinds_from(prefer: str) -> tuple[str, ...]:
    """The kinds that the option ``--transport`` allows, best first."""
    return KINDS if prefer == "auto" else KINDS[KINDS.index(prefer) :]


class Door:
    """Listens for the kinds it can listen for; `guest` gets (socket, is it Unix) of each caller."""

    def __init__(self, guest: Callable[[socket.socket, bool], None]) -> None:
        self._guest = guest
        self._loop = asyncio.get_running_loop()
        self._sockets: list[socket.socket] = []
        self._folder: tempfile.TemporaryDirectory[str] | None = None
        self.offer = Offer()

    def open(self, kinds: Sequence[str], host: str) -> None:
        """Listen; what cannot be is not offered, and the log says why."""
        port, name = 0, ""
        if "unix" in kinds or "shm" in kinds:
            try:
                name = self._open_unix()
            except (OSError, AttributeError) as error:  # no such sockets here
                log.warning("no Unix socket", error=str(error))
        if "tcp" in kinds:
            try:
                port = self._open_tcp(host)
            except OSError as error:
                log.warning("no TCP port for frames", host=host, error=str(error))
        have = {"shm": name and hasattr(socket, "send_fds"), "unix": name, "tcp": port}
        self.offer = Offer(tuple(kind for kind in kinds if have.get(kind, True)), port, name)

    def _open_tcp(self, host: str) -> int:
        found = socket.getaddrinfo(host.strip("[]"), 0, type=socket.SOCK_STREAM, flags=socket.AI_PASSIVE)
        family, kind, protocol, _, address = found[0]
        sock = socket.socket(family, kind, protocol)
        self._listen(sock, address)
        return int(sock.getsockname()[1])

    def _open_unix(self) -> str:
        sock = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
        if sys.platform == "linux":
            name = f"@unimem-{secrets.token_hex(16)}"
        else:
            self._folder = tempfile.TemporaryDirectory(prefix="unimem-")
            name = f"{self._folder.name}/node"
        self._listen(sock, unix_address(name))
        return name

    def _listen(self, sock: socket.socket, address: object) -> None:
        try:
            sock.setblocking(False)
            sock.bind(address)  # type: ignore[arg-type]
            sock.listen(_BACKLOG)
        except BaseException:
            sock.close()
            raise
        self._sockets.append(sock)
        self._loop.add_reader(sock, self._accept, sock)

    def _accept(self, listening: socket.socket) -> None:
        try:
            sock, _ = listening.accept()
        except OSError:  # the caller has thought better of it, or there are no descriptors left
            return
        is_unix = sock.family == socket.AF_UNIX
        if is_unix and not same_user(sock):
            log.warning("a connection of another user was refused")
            sock.close()
            return
        tune(sock)
        self._guest(sock, is_unix)

    def close(self) -> None:
        """Listen no more."""
        for sock in self._sockets:
            self._loop.remove_reader(sock)
            sock.close()
        self._sockets.clear()
        if self._folder is not None:
            self._folder.cleanup()


def unix_address(name: str) -> str:
    """The address of a Unix socket's name."""
    return "\0" + name[1:] if name.startswith("@") else name


def same_user(sock: socket.socket) -> bool:
    """Whether the process at the other end of a Unix socket runs as this one's user, or as root."""
    if not hasattr(socket, "SO_PEERCRED"):
        return True  # the folder's permissions have seen to it
    size = struct.calcsize("3i")
    _, user, _ = struct.unpack("3i", sock.getsockopt(socket.SOL_SOCKET, socket.SO_PEERCRED, size))
    return user in (os.getuid(), 0)


async def connect(kind: str, host: str, offer: Offer) -> socket.socket:
    """A connected socket to a node that made this offer. Raises `OSError` or `HelloError`."""
    loop = asyncio.get_running_loop()
    if kind in ("shm", "unix"):
        sock = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
        try:
            tune(sock)
            await loop.sock_connect(sock, unix_address(offer.unix_socket))
            if not same_user(sock):
                raise HelloError("its process is another user's")
        except (ConnectionRefusedError, FileNotFoundError):
            sock.close()
            raise HelloError("it is on another host, or in another network namespace") from None
        except BaseException:
            sock.close()
            raise
        return sock
    found = await loop.getaddrinfo(host.strip("[]"), offer.tcp_port, type=socket.SOCK_STREAM)
    failed: OSError = OSError(f"{host} has no address")
    for family, sort, protocol, _, address in found:
        sock = socket.socket(family, sort, protocol)
        try:
            tune(sock)
            await loop.sock_connect(sock, address)
        except OSError as error:
            sock.close()
            failed = error
        except BaseException:
            sock.close()
            raise
        else:
            return sock
    raise failed
