"""The timing parameters of a platform's file, with the status and source that stand beside each.

A platform's file says of each value where it comes from. This reads it as text, comments included, and makes
the table of `docs/timing.md`; a test keeps the two equal and refuses a value of which nothing is said.
"""

from __future__ import annotations

import re
from collections.abc import Iterable
from dataclasses import dataclass
from importlib import resources
from typing import Final

#: What a value's name must look like to say how long something takes, or how much of it is under way.
_TIMING: Final = re.compile(
    r"(_ps|_ps_per_kib|_mhz|_cycles|_mb_per_s|_rounds|_pages|_bytes)$"
    r"|^(walk_slots|outstanding|retries|paths|width_bits)$"
)
#: Sizes that take no time.
_OTHER: Final = frozenset({"line_bytes", "fifo_bytes"})
_TABLE: Final = re.compile(r"^\[+([\w.]+)\]+")
_VALUE: Final = re.compile(r"^(\w+) = ([^#]*?)\s*(?:#\s*(.*))?$")
_NAME: Final = re.compile(r'^name = "([^"]+)"')

#: Marks in a comment, the strongest first, and what they say.
STATUSES: Final = {
    "calibrated": "calibrated",
    "[U]": "assumed",
    "[D]": "derived",
    "[2]": "two sources",
    "user's choice": "chosen",
}
#: Documents and devices that a comment may name as the source of a value.
_SOURCES: Final = re.compile(r"DDI0517|UG1085|AM011|\bDT\b|\bQD\b|\bHPS\b|\bAG\b|\bUB\b|arXiv|FPT|TPDS|DDR4")


@dataclass(frozen=True, slots=True)
class TimingValue:
    """A parameter: its table in the file, name, value as written, status, and the file's words on it."""

    table: str
    name: str
    value: str
    status: str  # a value of STATUSES, "sourced", or "" when the file does not say
    words: str


def timing_values(text: str) -> list[TimingValue]:
    """Every timing parameter of a platform's file, in its order. `text`: the file, comments included."""
    table, found = "", []
    for line in text.splitlines():
        if header := _TABLE.match(line):
            table = header[1]
        elif name := _NAME.match(line):
            table = f"{table.split(' ')[0]} {name[1]}" if table else table
        elif (value := _VALUE.match(line)) and _is_timing(table, value[1]):
            words = value[3] or ""
            found.append(TimingValue(table, value[1], value[2], _status(words), words))
    return found


def _is_timing(table: str, name: str) -> bool:
    return table == "dram_ports.ports" or (bool(_TIMING.search(name)) and name not in _OTHER)


def _status(words: str) -> str:
    for mark, status in STATUSES.items():
        if mark in words:
            return status
    return "sourced" if _SOURCES.search(words) else ""


def markdown(values: Iterable[TimingValue]) -> str:
    """The table, as Markdown."""
    lines = ["| table | parameter | value | status | source |", "|---|---|---|---|---|"]
    for value in values:
        words = value.words.replace("|", "\\|")
        lines.append(f"| `{value.table}` | `{value.name}` | `{value.value}` | {value.status} | {words} |")
    return "\n".join(lines)


def platform_text(name: str) -> str:
    """The file of a platform that comes with the package."""
    return (resources.files("unimem_node.mpsoc") / "platforms" / f"{name}.toml").read_text("utf-8")
