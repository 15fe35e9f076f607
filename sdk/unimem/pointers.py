"""Global pointers: an address that knows how far it may go.

A `GlobalPtr` is one number, the global virtual address, with the bounds of the region it came from.
Arithmetic is in bytes. What leaves the bounds is refused here, with both ends in the message, and never sent.
"""

from __future__ import annotations

from unimem.addresses import ADDRESS_BITS, GLOBAL_BASE, WINDOW_SHIFT, fmt
from unimem.errors import OutOfBounds, UsageError

_END = 1 << ADDRESS_BITS


def check_address(gva: int, length: int, op: str) -> int:
    """`gva` again, when [gva, gva + length) lies in the node windows; else `UsageError`."""
    if gva < GLOBAL_BASE or gva + length > _END:
        if not 0 <= gva < _END:
            problem = f"{gva:#x} is not an address of {ADDRESS_BITS} bits"
        elif gva < GLOBAL_BASE:
            problem = f"{fmt(gva)} is private to each process; global addresses begin at {fmt(GLOBAL_BASE)}"
        else:
            problem = f"{length} bytes at {fmt(gva)} run past the end of the address space, {fmt(_END)}"
        raise UsageError(
            problem, op=op, reason="BAD_ADDRESS", hint="alloc() and array() give valid addresses"
        )
    return gva


class GlobalPtr:
    """A global virtual address with the bounds of its region: frozen, hashable, byte arithmetic.

    `gva` is the address, [`base`, `end`) the region, `node` its node's name. `p + n` and `p - n` are
    pointers, `p - q` is a distance in bytes, `int(p)` the bare address. A pointer may stand at `end`, like an
    iterator, but no access may pass it.

    >>> p = GlobalPtr(0x10_0000_1000, base=0x10_0000_1000, length=4096, node="n0")
    >>> p + 8
    GlobalPtr(0x10_0000_1008, 4088 bytes left of 4096, node='n0')
    >>> (p + 8) - p
    8
    """

    __slots__ = ("base", "end", "gva", "node")

    gva: int
    base: int
    end: int
    node: str

    def __init__(
        self, gva: int, *, base: int | None = None, length: int | None = None, node: str = ""
    ) -> None:
        """Raises `UsageError` when `gva` lies outside [base, base + length] or is no global address."""
        low = gva if base is None else base
        end = (((gva >> WINDOW_SHIFT) + 1) << WINDOW_SHIFT) if length is None else low + length
        check_address(low, end - low, "GlobalPtr")
        if not low <= gva <= end:
            raise OutOfBounds(f"{fmt(gva)} lies outside [{fmt(low)}, {fmt(end)})", op="GlobalPtr")
        put = object.__setattr__
        put(self, "gva", gva)
        put(self, "base", low)
        put(self, "end", end)
        put(self, "node", node)

    def __setattr__(self, name: str, value: object) -> None:
        raise AttributeError(f"a GlobalPtr is frozen: make another one instead of setting {name!r}")

    def __delattr__(self, name: str) -> None:
        raise AttributeError("a GlobalPtr is frozen")

    @property
    def left(self) -> int:
        """Bytes from here to the end of the region."""
        return self.end - self.gva

    @property
    def length(self) -> int:
        """Bytes of the whole region."""
        return self.end - self.base

    def check(self, length: int, op: str) -> int:
        """The address, when `length` bytes from here lie within the bounds; else `UsageError`."""
        if self.gva + length > self.end:
            raise OutOfBounds(
                f"{length} bytes, but only {self.left} are left before the region ends at {fmt(self.end)}",
                op=op,
                gva=self.gva,
                node=self.node,
            )
        return self.gva

    def __add__(self, n: int) -> GlobalPtr:
        gva = self.gva + int(n)
        if not self.base <= gva <= self.end:
            raise OutOfBounds(
                f"{fmt(self.gva)} {'+' if n >= 0 else '-'} {abs(n)} leaves the region"
                f" [{fmt(self.base)}, {fmt(self.end)})",
                op="GlobalPtr",
                node=self.node,
            )
        other = object.__new__(GlobalPtr)
        put = object.__setattr__
        put(other, "gva", gva)
        put(other, "base", self.base)
        put(other, "end", self.end)
        put(other, "node", self.node)
        return other

    __radd__ = __add__

    def __sub__(self, other: int | GlobalPtr) -> GlobalPtr | int:
        if isinstance(other, GlobalPtr):
            return self.gva - other.gva
        return self + -int(other)

    def __int__(self) -> int:
        return self.gva

    __index__ = __int__

    def __eq__(self, other: object) -> bool:
        if not isinstance(other, GlobalPtr):
            return NotImplemented
        return (self.gva, self.base, self.end) == (other.gva, other.base, other.end)

    def __lt__(self, other: GlobalPtr) -> bool:
        return self.gva < other.gva

    def __le__(self, other: GlobalPtr) -> bool:
        return self.gva <= other.gva

    def __gt__(self, other: GlobalPtr) -> bool:
        return self.gva > other.gva

    def __ge__(self, other: GlobalPtr) -> bool:
        return self.gva >= other.gva

    def __hash__(self) -> int:
        return hash((self.gva, self.base, self.end))

    def __reduce__(self) -> tuple[object, ...]:
        return _restore, (self.gva, self.base, self.length, self.node)

    def __repr__(self) -> str:
        return f"GlobalPtr({fmt(self.gva)}, {self.left} bytes left of {self.length}, node={self.node!r})"


def _restore(gva: int, base: int, length: int, node: str) -> GlobalPtr:
    """For pickle and copy."""
    return GlobalPtr(gva, base=base, length=length, node=node)
