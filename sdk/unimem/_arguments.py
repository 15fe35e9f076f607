"""What callers hand us, checked: buffers as flat bytes without a copy, addresses, words, levels."""

from __future__ import annotations

import operator
from enum import IntEnum
from typing import TYPE_CHECKING, Any, SupportsIndex, TypeAlias

import numpy as np

from unimem.errors import UsageError
from unimem.pointers import GlobalPtr, check_address

if TYPE_CHECKING:
    import numpy.typing as npt

    from unimem.array import BaseArray

#: Where an operation happens: a pointer, an array (its first byte), or a bare global virtual address.
Address: TypeAlias = "GlobalPtr | BaseArray | SupportsIndex"


class At(IntEnum):
    """How far an operation must have come when it counts as done.

    All three are accepted everywhere; every verb waits for DELIVERED, which satisfies the weaker two.
    """

    SOURCE = 1  # the caller's buffer may be used again
    ACCEPTED = 2  # the target has the bytes
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


def word(value: SupportsIndex, what: str, op: str) -> int:
    """`value` as the unsigned 64-bit word an atomic works on (-1 is 2**64 - 1)."""
    number = whole(value, what, op)
    if not -(1 << 63) <= number < 1 << 64:
        raise UsageError(f"{what} {number} does not fit in 64 bits", op=op, reason="BAD_OPERAND")
    return number & 0xFFFF_FFFF_FFFF_FFFF


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


def level(at: At | int) -> None:
    """Check an `at=` other than the default: each level is satisfied by waiting for DELIVERED."""
    try:
        At(at)
    except ValueError:
        raise UsageError(f"at={at!r}: choose SOURCE, ACCEPTED or DELIVERED", op="at") from None


def typed(raw: np.ndarray, dtype: npt.DTypeLike, shape: tuple[int, ...] | None) -> np.ndarray:
    try:
        array = raw.view(np.dtype(dtype))
    except (TypeError, ValueError) as error:
        raise UsageError(f"{len(raw)} bytes as {dtype!r}: {error}", op="get") from None
    return array if shape is None else array.reshape(shape)
