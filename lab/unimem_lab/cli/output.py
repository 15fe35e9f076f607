"""How commands answer: rich tables for people, one JSON object on stdout with --json."""

from __future__ import annotations

import json
import sys
from collections.abc import Iterable, Sequence
from typing import IO, Any

import typer
from rich.console import Console
from rich.table import Table

#: The check failed.
FAILED = 1
#: Nothing could be learnt: neither good nor bad.
UNKNOWN = 2
#: The command could not run at all.
COULD_NOT_RUN = 3

#: Columns of tables where no terminal says how many it has.
_WIDTH = 150

#: Cells up to this length stay on one line: addresses, names, sizes.
_UNBROKEN = 20


def _console(stream: IO[str], *, stderr: bool = False) -> Console:
    width = None if stream.isatty() else _WIDTH
    return Console(stderr=stderr, highlight=False, soft_wrap=True, width=width)


console = _console(sys.stdout)
errors = _console(sys.stderr, stderr=True)

#: Set by --json of the command that runs.
_json = False


def use_json(on: bool) -> bool:
    """Choose JSON for this process' answer (the callback of --json)."""
    global _json  # noqa: PLW0603 - one command a process
    _json = on
    return on


def as_json() -> bool:
    """Was --json given?"""
    return _json


def answer(value: dict[str, Any]) -> None:
    """Print the command's one JSON object."""
    json.dump(value, sys.stdout, indent=2, sort_keys=True)
    sys.stdout.write("\n")


def table(columns: Sequence[str], rows: Iterable[Sequence[Any]], title: str | None = None) -> None:
    """Print a table; cells are shown as text, never parsed as markup."""
    from rich.markup import escape  # noqa: PLC0415

    out = Table(title=title, title_justify="left", header_style="bold", pad_edge=False)
    cells = [[str(cell) for cell in row] for row in rows]
    for i, column in enumerate(columns):
        short = all(len(row[i]) <= _UNBROKEN for row in cells)
        out.add_column(column, overflow="fold", no_wrap=short)
    for row in cells:
        out.add_row(*map(escape, row))
    console.print(out)


def say(text: str) -> None:
    """A plain line for people; silent with --json."""
    if not _json:
        console.print(text, markup=False)


def fail(text: str, *, reason: str = "ERROR", code: int = COULD_NOT_RUN) -> int:
    """Report that the command did not do its work; returns the exit code."""
    if _json:
        answer({"error": {"reason": reason, "message": text}})
    else:
        errors.print(f"unimem: {text}", markup=False, style="red")
    return code


def size(text: str) -> int:
    """Bytes from `4096`, `0x1000`, `64K`, `1MiB`, `2G`; `typer.BadParameter` for anything else."""
    units = {"": 0, "K": 10, "M": 20, "G": 30, "T": 40}
    body = (
        text.strip().upper().removesuffix("IB").removesuffix("B")
        if not text.lower().startswith("0x")
        else text
    )
    unit = body[-1:] if body[-1:] in units else ""
    try:
        number = int(body.removesuffix(unit) if unit else body, 0)
    except ValueError:
        raise typer.BadParameter(f"{text!r} is no size: write bytes, or 64K, 1M, 2G") from None
    if number < 0:
        raise typer.BadParameter(f"{text!r}: a size is not negative")
    return number << units[unit]


def human(n: int) -> str:
    """`n` bytes with a binary unit."""
    value = float(n)
    for unit in ("B", "KiB", "MiB", "GiB"):
        if value < 1024:
            return f"{value:.0f} {unit}" if value == int(value) else f"{value:.1f} {unit}"
        value /= 1024
    return f"{value:.1f} TiB"
