"""Scenario files: commands, then the log they must produce, in the manner of etcd's *datadriven*.

A file is a list of blocks, separated by blank lines; lines starting with ``#`` are comments::

    # what this block shows
    command positional key=value flag
    optional input lines, handed to the handler as they are
    ----
    expected output

The handler gets one `Command` per block and returns the text which the block must show. An empty result is
written as ``(nothing)``, so that a block never looks forgotten; output with blank lines in it stands
between double ``----`` lines. With ``UNIMEM_REGENERATE=1`` in the environment the files are rewritten with
what was returned (comments and commands stay), and the change is reviewed as a diff::

    def handler(command: Command) -> str:
        if command.name == "write32":
            bus.write32(command.integer(0), command.integer(1))
            return ""
        ...

    @pytest.mark.parametrize("path", scenario_files("smmu_*.txt"), ids=lambda path: path.stem)
    def test_scenario(path: Path) -> None:
        run_file(path, Machine().handle)      # a fresh machine for each file

A handler that raises is shown as ``error: <type>: <text>``; only `AssertionError` passes through, since that
is the test's own.
"""

from __future__ import annotations

import os
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path

SEPARATOR = "----"
NOTHING = "(nothing)"
SCENARIOS = Path(__file__).resolve().parents[1] / "scenarios"


@dataclass(slots=True)
class Command:
    """One block: a command line, its input lines, and the output the file expects."""

    name: str
    words: list[str] = field(default_factory=list)
    options: dict[str, str] = field(default_factory=dict)
    input: str = ""
    expected: str = ""
    where: str = ""
    comment: list[str] = field(default_factory=list)
    line: str = ""

    def has(self, word: str) -> bool:
        """Whether the flag `word` stands on the command line."""
        return word in self.words

    def text(self, key: str | int, default: str | None = None) -> str:
        """The option `key`, or the positional word number `key`."""
        if isinstance(key, int):
            if key < len(self.words):
                return self.words[key]
        elif key in self.options:
            return self.options[key]
        if default is None:
            raise AssertionError(f"{self.where}: `{self.line}` lacks {key!r}")
        return default

    def inner(self) -> list[Command]:
        """The input lines as commands, for a command that runs several."""
        return [parse_line(line, f"{self.where}, {line}") for line in self.input.splitlines()]

    def integer(self, key: str | int, default: int | None = None) -> int:
        """Like `text`, as a number in any base Python writes (0x8_0000_0000)."""
        return int(self.text(key, None if default is None else str(default)), 0)


def scenario_files(pattern: str) -> list[Path]:
    """Scenario files of ``tests/scenarios`` by glob, sorted; finding none is an error, not a green test."""
    found = sorted(SCENARIOS.glob(pattern))
    assert found, f"no scenario file matches {pattern!r}"
    return found


def parse_line(line: str, where: str = "<line>") -> Command:
    """A command line by itself."""
    words = line.split()
    command = Command(words[0], where=where, line=line)
    for word in words[1:]:
        key, equals, value = word.partition("=")
        if equals:
            command.options[key] = value
        else:
            command.words.append(word)
    return command


def parse(text: str, name: str = "<text>") -> tuple[list[Command], list[str]]:
    """The blocks of a file, and the comment lines after the last one."""
    lines = text.splitlines()
    blocks: list[Command] = []
    comment: list[str] = []
    i = 0
    while i < len(lines):
        line = lines[i]
        if not line.strip() or line.startswith("#"):
            comment.append(line)
            i += 1
            continue
        command = parse_line(line, f"{name}:{i + 1}")
        command.comment = comment
        comment = []
        i += 1
        start = i
        while i < len(lines) and lines[i] != SEPARATOR:
            if not lines[i].strip():
                raise AssertionError(f"{command.where}: no {SEPARATOR} before the blank line {i + 1}")
            i += 1
        if i == len(lines):
            raise AssertionError(f"{command.where}: no {SEPARATOR}")
        command.input = "\n".join(lines[start:i])
        i += 1
        start = i
        if i < len(lines) and lines[i] == SEPARATOR:  # output with blank lines in it
            i = start = i + 1
            while i < len(lines) and lines[i : i + 2] != [SEPARATOR, SEPARATOR]:
                i += 1
            command.expected = "\n".join(lines[start:i])
            i += 2
        else:
            while i < len(lines) and lines[i].strip():
                i += 1
            command.expected = "\n".join(lines[start:i])
        blocks.append(command)
    return blocks, comment


def _render(command: Command, output: str) -> list[str]:
    lines = [*command.comment, command.line]
    if command.input:
        lines += command.input.splitlines()
    lines.append(SEPARATOR)
    shown = output or NOTHING
    if any(not line.strip() for line in shown.splitlines()):
        return [*lines, SEPARATOR, *shown.splitlines(), SEPARATOR, SEPARATOR]
    return [*lines, *shown.splitlines()]


def run_file(path: Path, handler: Callable[[Command], str]) -> None:
    """Run every block of `path`; compare with the expected output, or rewrite it (UNIMEM_REGENERATE=1)."""
    regenerate = os.environ.get("UNIMEM_REGENERATE") == "1"
    blocks, tail = parse(path.read_text(encoding="utf-8"), path.name)
    assert blocks, f"{path.name} has no command"
    rendered: list[str] = []
    for command in blocks:
        try:
            output = handler(command).rstrip("\n")
        except AssertionError:
            raise
        except Exception as error:  # what a scenario provokes is part of its log
            output = f"error: {type(error).__name__}: {error}"
        output = "\n".join(line.rstrip() for line in output.splitlines())
        if regenerate:
            rendered += _render(command, output)
        else:
            shown = output or NOTHING
            assert shown == command.expected, (
                f"{command.where}: `{command.line}`\n--- expected\n{command.expected}\n--- got\n{shown}\n"
                "(UNIMEM_REGENERATE=1 rewrites the file)"
            )
    if regenerate:
        path.write_text("\n".join([*rendered, *tail]).rstrip("\n") + "\n", encoding="utf-8")
