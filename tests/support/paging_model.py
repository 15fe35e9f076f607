"""What memory has to contain, as short as it can be said: bytes by process and page, files, a region.

No frames, no tables, no swap: advice, reclaim and moving pages must not be visible here at all.
"""

from __future__ import annotations

from dataclasses import dataclass, field

PAGE = 4096


@dataclass
class Mapping:
    """Pages of one process. `source`: a file's or a region's bytes, shared; None: pages of zeros."""

    va: int
    pages: int
    source: bytearray | None = None
    private: bool = True
    own: dict[int, bytearray] = field(default_factory=dict)  # page number -> content, where written
    read_only: set[int] = field(default_factory=set)
    locked: set[int] = field(default_factory=set)
    gone: set[int] = field(default_factory=set)

    def read(self, number: int) -> bytes:
        if number in self.own:
            return bytes(self.own[number])
        if self.source is None:
            return bytes(PAGE)
        return bytes(self.source[number * PAGE : (number + 1) * PAGE])

    def write(self, number: int, at: int, data: bytes) -> None:
        if not self.private:
            assert self.source is not None
            self.source[number * PAGE + at : number * PAGE + at + len(data)] = data
            return
        page = self.own.setdefault(number, bytearray(self.read(number)))
        page[at : at + len(data)] = data

    def claim(self, number: int) -> None:
        """A write fault that writes nothing: a private page of a file is a copy from now on."""
        if self.private and self.source is not None:
            self.own.setdefault(number, bytearray(self.read(number)))

    def drop(self, number: int, *, owner: bool) -> None:
        """MADV_DONTNEED."""
        self.own.pop(number, None)
        if not self.private and owner:
            assert self.source is not None
            self.source[number * PAGE : (number + 1) * PAGE] = bytes(PAGE)

    def copy(self) -> Mapping:
        """A child's: pages of its own, or the same file."""
        return Mapping(
            self.va,
            self.pages,
            self.source,
            self.private,
            {number: bytearray(page) for number, page in self.own.items()},
            set(self.read_only),
            set(),
            set(self.gone),
        )
