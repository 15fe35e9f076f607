"""Named files outside the simulated memory, for file-backed mappings; a stand-in for a file system.

Pages of a file that somebody has mapped are in its page cache (`File.cache`), in frames; what is on the
device is in `data`. Writing back makes the two the same.
"""

from __future__ import annotations

from collections.abc import Iterator

from unimem_node.kernel.frames import PAGE
from unimem_node.kernel.paging_memory import Backing


class File:
    """A file of a fixed length."""

    def __init__(self, name: str, data: bytes) -> None:
        self.name = name
        self.data = bytearray(data)
        self.cache = Backing(shared=True, file=self)
        self.reads = 0  # pages
        self.writes = 0

    @property
    def pages(self) -> int:
        """Pages that have a byte of it."""
        return -(-len(self.data) // PAGE)

    def read_page(self, number: int) -> bytes:
        """Return a page from the device, filled up with zeros."""
        self.reads += 1
        return bytes(self.data[number * PAGE : (number + 1) * PAGE]).ljust(PAGE, b"\0")

    def write_page(self, number: int, content: bytes) -> None:
        """Put a page on the device; what lies beyond the end is dropped."""
        self.writes += 1
        at = number * PAGE
        n = max(0, min(PAGE, len(self.data) - at))
        self.data[at : at + n] = content[:n]


class Files:
    """The files of a node, by name."""

    def __init__(self) -> None:
        self._files: dict[str, File] = {}

    def __iter__(self) -> Iterator[File]:
        return iter(self._files.values())

    def create(self, name: str, data: bytes) -> File:
        """Make a file; raises `ValueError` when there is one of that name, or for no name."""
        if not name or name in self._files:
            raise ValueError(f"file {name!r} exists already" if name else "a file needs a name")
        file = self._files[name] = File(name, data)
        return file

    def open(self, name: str) -> File:
        """Return a file; raises `ValueError` naming those there are."""
        file = self._files.get(name)
        if file is None:
            known = ", ".join(sorted(self._files)) or "none"
            raise ValueError(f"there is no file {name!r}; there are: {known}")
        return file
