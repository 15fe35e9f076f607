"""Pages, swap slots, and the memory that areas look into: the books of paging.

A `Backing` is the content of an area by page number, resident or in swap: the anonymous pages of one process
(numbered by virtual address), a region's (virtual and global address are the same in every process), or a
file's page cache (numbered from its beginning). A page knows the backings it belongs to, and a backing who
looks into it and where: that is the reverse map (Linux: anon_vma and i_mmap). Both only say where a page
*may* be mapped; whether it is, the descriptor says.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Final

if TYPE_CHECKING:
    from unimem_node.kernel.files import File
    from unimem_node.kernel.processes import Process

PAGE_SHIFT: Final = 12


class Page:
    """A frame with content. `owners`: the (backing, number) it is; several after a fork. `pins`: as GUP's.

    `dirty`: a page of a file that the file does not have yet.
    """

    __slots__ = ("dirty", "owners", "pa", "pins")

    def __init__(self, pa: int, backing: Backing, number: int) -> None:
        self.pa = pa
        self.owners = [(backing, number)]
        self.pins = 0
        self.dirty = False

    def spots(self) -> list[tuple[Process, int]]:
        """(process, address) where it may be mapped."""
        return [
            (process, (number << PAGE_SHIFT) + delta)
            for backing, number in self.owners
            for process, delta in backing.views
        ]


class Slot:
    """A page in swap; `users` backings have it."""

    __slots__ = ("data", "users")

    def __init__(self, data: bytes, users: int) -> None:
        self.data = data
        self.users = users


class Backing:
    """Content by page number. `file`: it is that file's page cache. `shared`: several processes look at it.

    `views`: (process, delta) of those who look: number n is at address ``n * 4096 + delta``.
    """

    __slots__ = ("file", "pages", "shared", "views")

    def __init__(self, *, shared: bool = False, file: File | None = None) -> None:
        self.shared = shared
        self.file = file
        self.pages: dict[int, Page | Slot] = {}
        self.views: dict[tuple[Process, int], None] = {}
