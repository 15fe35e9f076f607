"""Global virtual addresses: how they are written, and which node's window one lies in.

The address space has 48 bits (VMSAv8-64 with T0SZ = 16). Node *i* owns the window
``[(i + 1) << 36, (i + 2) << 36)``, 64 GiB; what lies below the first window is private to a process.

>>> fmt(window_of(0).start)
'0x10_0000_0000'
>>> parse_address("0x10_0000_0040") - window_of(0).start
64
"""

from __future__ import annotations

from typing import Final

#: Bits of a virtual address.
ADDRESS_BITS: Final = 48

#: log2 of the bytes of one node's window.
WINDOW_SHIFT: Final = 36

#: Bytes of one node's window.
WINDOW_BYTES: Final = 1 << WINDOW_SHIFT

#: First address that is not private to a process.
GLOBAL_BASE: Final = WINDOW_BYTES

#: Nodes that have a window.
MAX_NODES: Final = (1 << (ADDRESS_BITS - WINDOW_SHIFT)) - 1


def fmt(address: int) -> str:
    """Return the address as hexadecimal digits in groups of four, `0x8_0000_0000`."""
    return f"{int(address):#_x}"


def parse_address(text: str) -> int:
    """Read an address: hexadecimal after `0x`, else decimal; underscores may stand between digits.

    Raises `ValueError` saying what was wrong; negative numbers and more than 64 bits are refused.
    """
    word = text.strip()
    base = 16 if word[:2].lower() == "0x" else 10
    if not word or not (word[0].isascii() and word[0].isdigit()):
        raise ValueError(f"not an address: {text!r} (write 0x8_0000_0000 or a decimal number)")
    try:
        value = int(word, base)
    except ValueError:
        hint = "; hexadecimal starts with 0x" if base == 10 else ""
        raise ValueError(
            f"not an address: {text!r} (write 0x8_0000_0000 or a decimal number{hint})"
        ) from None
    if value >> 64:
        raise ValueError(f"address {text!r} has more than 64 bits")
    return value


def window_of(index: int) -> range:
    """Return the addresses that node `index` owns; raises `ValueError` for an index without a window."""
    if not 0 <= index < MAX_NODES:
        raise ValueError(f"node index {index} has no window (0 to {MAX_NODES - 1})")
    return range((index + 1) << WINDOW_SHIFT, (index + 2) << WINDOW_SHIFT)


def index_of(address: int) -> int | None:
    """Return the index of the node whose window holds `address`, or None where no window is."""
    if address < GLOBAL_BASE or address >> ADDRESS_BITS:
        return None
    return (address >> WINDOW_SHIFT) - 1


def align_down(address: int, unit: int) -> int:
    """Return the largest multiple of `unit` that is not above `address`."""
    return address - address % unit


def align_up(address: int, unit: int) -> int:
    """Return the smallest multiple of `unit` that is not below `address`."""
    return address + -address % unit
