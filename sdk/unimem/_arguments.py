"""What callers hand us, checked: buffers as flat bytes without a copy, addresses, words, levels."""

from __future__ import annotations

import operator
from enum import IntEnum
from typing import TYPE_CHECKING, Any, Final, SupportsIndex, TypeAlias

import numpy as np

from unimem.errors import UsageError
from unimem.pointers import GlobalPtr, check_address

if TYPE_CHECKING:
    import numpy.typing as npt

    from unimem.array import BaseArray

#: Where an operation happens: a pointer, an array (its first byte), or a bare global virtual address.
Address: TypeAlias = "GlobalPtr | BaseArray | SupportsIndex"


#: Seconds that a node gives up before its client does, at most.
_MARGIN: Final = 0.05
#: Seconds of the longest deadline that travels (32 bits of µs).
_LONGEST: Final = 4294.0


class At(IntEnum):
    """How far an operation must have come when it counts as done.

    What fails after a weaker level was reached is raised by `flush`.
    """

    SOURCE = 1  # the caller's buffer may be used again
    ACCEPTED = 2  # the target has the bytes, though a page fault may still keep them out of its memory
    DELIVERED = 3  # the bytes are visible in the target's memory


SOURCE, ACCEPTED, DELIVERED = At.SOURCE, At.ACCEPTED, At.DELIVERED


def flat(data: Any, op: str) -> memoryview:
    """The bytes of `data` (anything `memoryview()` takes, C-contiguous) as a flat view of format 'B'.

    Raises `UsageError` for what has no buffer, is not contiguous, or is empty.
    """
    kind = type(data)
    if kind is bytes or kind is bytearray:
        view = memoryview(data)
    else:
        view = data if kind is memoryview else _view_of(data, op)
        if view.format != "B" or view.ndim != 1 or not view.c_contiguous:
            view = _cast(view, data, op)
    if not view.nbytes:
        raise UsageError("zero bytes: there is nothing to transfer", op=op, reason="BAD_LENGTH")
    return view


def _view_of(data: Any, op: str) -> memoryview:
    """memoryview(data); structured, big-endian and datetime arrays, which have no simple format, as uint8."""
    if isinstance(data, np.ndarray) and data.dtype.hasobject:
        raise UsageError(
            "an array of Python objects has no bytes to send", op=op, hint="choose a plain dtype"
        )
    if isinstance(data, np.ndarray | np.generic) and data.dtype.kind not in "biufc":
        array = np.asarray(data)
        if not array.flags.c_contiguous:
            raise _not_contiguous(op)
        return array.reshape(-1).view(np.uint8).data
    try:
        return memoryview(data)
    except TypeError:
        raise UsageError(
            f"{type(data).__name__} has no buffer",
            op=op,
            hint="pass bytes, a NumPy array, or anything memoryview() takes",
        ) from None


def _cast(view: memoryview, data: Any, op: str) -> memoryview:
    if not view.c_contiguous:
        raise _not_contiguous(op)
    if not view.nbytes:
        return memoryview(b"")
    try:
        return view.cast("B")
    except (TypeError, ValueError):  # a format that memoryview cannot reinterpret, e.g. big-endian
        return np.asarray(data).reshape(-1).view(np.uint8).data


def _not_contiguous(op: str) -> UsageError:
    return UsageError("the buffer is not C-contiguous", op=op, hint="pass np.ascontiguousarray(data)")


def writable(out: Any, op: str) -> memoryview:
    """As `flat`, for a buffer that is written to."""
    view = flat(out, op)
    if view.readonly:
        raise UsageError("the buffer given as out= is read-only", op=op)
    return view


def whole(value: SupportsIndex, what: str, op: str) -> int:
    """`value` as an int; `UsageError` for anything that is none (a float, a str)."""
    try:
        return operator.index(value)
    except TypeError:
        raise UsageError(f"{what} is {value!r}, not an integer", op=op) from None


def word(value: SupportsIndex, what: str, op: str, width: int = 8) -> int:
    """`value` as the unsigned word of `width` bytes an atomic works on (-1 is 2**64 - 1)."""
    number, bits = whole(value, what, op), 8 * width
    if not -(1 << bits - 1) <= number < 1 << bits:
        raise UsageError(f"{what} {number} does not fit in {bits} bits", op=op, reason="BAD_OPERAND")
    return number & (1 << bits) - 1


def aligned(where: Address, width: SupportsIndex, what: str, op: str) -> int:
    """The address of a word of `width` bytes, 4 or 8, at a multiple of them; else `UsageError`."""
    if width not in (4, 8):
        raise UsageError(f"width {width!r}: a word has 4 or 8 bytes", op=op, reason="BAD_LENGTH")
    gva = locate(where, int(width), op)
    if gva & int(width) - 1:
        raise UsageError(
            f"{what} needs an address that is a multiple of {width}", op=op, gva=gva, reason="MISALIGNED"
        )
    return gva


def locate(where: Address, length: int, op: str) -> int:
    """The global virtual address of `length` bytes at `where`; `UsageError` when they are out of bounds."""
    if type(where) is GlobalPtr:
        gva = where.gva
        return where.check(length, op) if gva + length > where.end else gva
    pointer = getattr(where, "ptr", None)
    if isinstance(pointer, GlobalPtr):
        return pointer.check(length, op)
    return check_address(whole(where, "address", op), length, op)  # type: ignore[arg-type]


def at_least_one(size: int, op: str) -> int:
    if size <= 0:
        raise UsageError(f"length {size}: it must be at least 1 byte", op=op, reason="BAD_LENGTH")
    return size


def seconds(timeout: float) -> float:
    """`timeout` again, when it is a number above 0 (infinity means no deadline)."""
    if not isinstance(timeout, float | int) or not timeout > 0:  # not-a-number is not above 0, either
        raise UsageError(f"timeout {timeout!r} is not a number of seconds above 0", op="timeout")
    return timeout


def level(at: At | int) -> At:
    """The level of an `at=` other than the default."""
    try:
        return At(at)
    except ValueError:
        raise UsageError(f"at={at!r}: choose SOURCE, ACCEPTED or DELIVERED", op="at") from None


def limit_us(timeout: float, *, early: bool) -> int:
    """The deadline that travels to the node, in whole µs; 0 for none.

    `early`: the node's answer has to be here in time, so that the client learns whether anything happened.
    """
    if early:
        timeout -= min(timeout / 4, _MARGIN)
    us = int(timeout * 1e6) if timeout < _LONGEST else 0
    return max(us, 1) if timeout < _LONGEST else 0


def typed(raw: np.ndarray, dtype: npt.DTypeLike, shape: tuple[int, ...] | None) -> np.ndarray:
    try:
        array = raw.view(np.dtype(dtype))
    except (TypeError, ValueError) as error:
        raise UsageError(f"{len(raw)} bytes as {dtype!r}: {error}", op="get") from None
    return array if shape is None else array.reshape(shape)
