"""What the coordinator accepts: every value from outside passes here before the core believes it.

Each function returns what it was given, or raises `CoordinatorError` with a BAD_ reason that names the value.
"""

from __future__ import annotations

import re
from typing import Final

from unimem.addresses import ADDRESS_BITS, GLOBAL_BASE, WINDOW_BYTES, fmt
from unimem_coordinator.errors import CoordinatorError, Reason

#: Host names, container names, and what can stand in gRPC metadata.
_NODE_NAME: Final = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]{0,62}")
_LONGEST_NAME: Final = 128
_LONGEST_ADDRESS: Final = 256
_LARGEST_PDID: Final = 0xFFFF

RIGHTS_READ: Final = 1
RIGHTS_READ_WRITE: Final = 3


def node_name(name: str) -> str:
    """A node's name."""
    if not _NODE_NAME.fullmatch(name):
        raise CoordinatorError(
            Reason.BAD_NAME,
            f"node name {name[:80]!r}: 1 to 63 letters, digits, '.', '_' or '-', a letter or digit first",
        )
    return name


def label(name: str, what: str) -> str:
    """The name of a domain or region (`what`), or nothing."""
    if len(name) > _LONGEST_NAME or not name.isprintable() or name != name.strip():
        raise CoordinatorError(
            Reason.BAD_NAME,
            f"{what} name {name[:80]!r}: up to {_LONGEST_NAME} printable characters, no space at either end",
        )
    return name


def host_port(address: str) -> str:
    """Where a node can be dialled."""
    host, _, port = address.rpartition(":")
    fine = host.isprintable() and not any(c.isspace() for c in host) and len(address) <= _LONGEST_ADDRESS
    if not (host and fine and port.isascii() and port.isdecimal() and 0 < int(port) < 1 << 16):
        raise CoordinatorError(
            Reason.BAD_ARGUMENT, f"node address {address[:80]!r}: host:port is needed, as others can dial it"
        )
    return address


def memory_bytes(value: int) -> int:
    """How much DRAM a node has."""
    if value > WINDOW_BYTES:
        raise CoordinatorError(
            Reason.BAD_ARGUMENT, f"memory of {value} bytes: a node's window has {WINDOW_BYTES}"
        )
    return value


def boot_id(value: int) -> str:
    """The number of a process start, as it is stored."""
    if value == 0:
        raise CoordinatorError(
            Reason.BAD_ARGUMENT,
            "boot_id 0: a random number of 64 bits, new with each process start, is needed",
        )
    return f"{value:016x}"


def region_length(value: int) -> int:
    """How long a region may be."""
    if not 0 < value <= WINDOW_BYTES:
        raise CoordinatorError(
            Reason.BAD_LENGTH,
            f"a region of {value} bytes: 1 to {WINDOW_BYTES} (a node's window) are possible",
            length=value,
        )
    return value


def global_address(value: int) -> int:
    """An address that can belong to a node."""
    if value >> ADDRESS_BITS:
        raise CoordinatorError(
            Reason.BAD_ADDRESS, f"{fmt(value)} has more than {ADDRESS_BITS} bits", gva=fmt(value)
        )
    if value < GLOBAL_BASE:
        raise CoordinatorError(
            Reason.BAD_ADDRESS,
            f"{fmt(value)} lies below {fmt(GLOBAL_BASE)}: it is private to each process, not global",
            gva=fmt(value),
        )
    return value


def rights(value: int) -> int:
    """Rights to grant; 0 takes them away. Page tables (AP) have no write-only."""
    if value not in (0, RIGHTS_READ, RIGHTS_READ_WRITE):
        raise CoordinatorError(
            Reason.BAD_RIGHTS,
            f"rights {value}: read (1), read and write (3), or none (0) can be granted",
            hint="a page that can be written can be read: there is no write-only in VMSAv8-64",
        )
    return value


def domain_number(value: int) -> int:
    """A protection domain's number."""
    if not 0 < value <= _LARGEST_PDID:
        raise CoordinatorError(
            Reason.BAD_ARGUMENT, f"protection domain {value}: numbers are 1 to {_LARGEST_PDID}"
        )
    return value


#: Numbers a protection domain can have.
DOMAIN_NUMBERS: Final = range(1, _LARGEST_PDID + 1)
