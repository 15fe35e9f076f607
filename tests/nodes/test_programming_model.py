"""The examples of ``docs/programming-model.md``, as they stand: each section in a namespace of its own.

A block of Python that is followed by a block of text prints that text. Blocks marked as excerpts are lines of
``docs/programming/mmu500.py``, which the examples import.
"""

from __future__ import annotations

import contextlib
import io
import re
from pathlib import Path
from typing import Any, NamedTuple

import pytest

DOCS = Path(__file__).resolve().parents[2] / "docs"
GUIDE = DOCS / "programming-model.md"
DRIVER = DOCS / "programming" / "mmu500.py"
_FENCE = re.compile(r"^```(\w+)( excerpt)?\n(.*?)^```$", re.M | re.S)


class Block(NamedTuple):
    language: str
    excerpt: bool
    text: str
    line: int


class Section(NamedTuple):
    title: str
    text: str
    blocks: tuple[Block, ...]


def sections(text: str) -> list[Section]:
    """The parts under headings of the second level, with their fenced blocks."""
    found = []
    starts = [m.start() for m in re.finditer(r"^## ", text, re.M)]
    for start, end in zip(starts, [*starts[1:], len(text)], strict=True):
        part = text[start:end]
        blocks = tuple(
            Block(m[1], bool(m[2]), m[3], text.count("\n", 0, start + m.start()) + 2)
            for m in _FENCE.finditer(part)
        )
        found.append(Section(part.split("\n", 1)[0].removeprefix("## "), part, blocks))
    return found


SECTIONS = sections(GUIDE.read_text(encoding="utf-8"))
TASKS = [section for section in SECTIONS if section.title[0].isdigit()]


@pytest.mark.parametrize("section", TASKS, ids=lambda section: section.title)
def test_the_examples_do_what_they_say(section: Section, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.syspath_prepend(str(DRIVER.parent))
    names: dict[str, Any] = {"__name__": "example"}
    blocks = [block for block in section.blocks if not block.excerpt]
    for block, following in zip(blocks, [*blocks[1:], None], strict=True):
        if block.language != "python":
            continue
        printed = io.StringIO()
        code = "\n" * (block.line - 1) + block.text  # so that a failure names the line of the guide
        with contextlib.redirect_stdout(printed):
            exec(compile(code, str(GUIDE), "exec"), names)
        expected = following.text if following is not None and following.language == "text" else ""
        assert printed.getvalue() == expected, f"{GUIDE.name}:{block.line}"


@pytest.mark.parametrize("section", TASKS, ids=lambda section: section.title)
def test_every_task_is_complete(section: Section) -> None:
    """What the hardware does, an example that is run, and what goes wrong usually."""
    assert any(block.language in ("python", "console") for block in section.blocks)
    assert "**Goes wrong**" in section.text


def test_excerpts_are_those_of_the_driver() -> None:
    driver = DRIVER.read_text(encoding="utf-8")
    excerpts = [block for section in SECTIONS for block in section.blocks if block.excerpt]
    assert len(excerpts) >= 4
    for block in excerpts:
        assert block.text in driver, f"{GUIDE.name}:{block.line}"


def test_what_the_guide_refers_to_is_there() -> None:
    """Files of the repository, and functions in them."""
    text = GUIDE.read_text(encoding="utf-8")
    for link in re.findall(r"\]\(([^)#]+)\)", text):
        assert (DOCS / link).exists(), link
    named = re.findall(r"`(kernel/\w+\.py)`(?: \(((?:`[\w.]+`(?:, )?)+)\))?", text)
    assert len(named) >= 8
    for file, functions in named:
        source = (DOCS.parent / "nodes" / "unimem_node" / file).read_text(encoding="utf-8")
        for name in re.findall(r"[\w.]+", functions):
            for part in name.split("."):
                assert re.search(rf"^\s*(?:def|class) {part}\b", source, re.M), f"{name} in {file}"


def test_the_contents_are_the_sections() -> None:
    contents = re.findall(r"^\d+\. \[([^\]]+)\]\(#([^)]+)\)", GUIDE.read_text(encoding="utf-8"), re.M)
    assert [f"{n}. {title}" for n, (title, _) in enumerate(contents, 1)] == [s.title for s in TASKS]
    for title, anchor in contents:
        section = next(s for s in TASKS if s.title.endswith(title))
        slug = re.sub(r"[^\w\- ]", "", section.title.lower()).replace(" ", "-")
        assert anchor == slug


def test_command_lines_answer_as_shown(capsys: pytest.CaptureFixture[str]) -> None:
    """Of the `unimem` commands, those that need no cluster."""
    cli = pytest.importorskip("unimem_lab.cli.app")
    shown = [block for section in SECTIONS for block in section.blocks if block.language == "console"]
    ran = 0
    for block in shown:
        lines = block.text.splitlines()
        for command, answer in zip(lines, [*lines[1:], ""], strict=True):
            if not command.startswith("$ unimem stream"):
                continue
            assert cli.app(command.split()[2:], standalone_mode=False) == 0
            assert capsys.readouterr().out.strip() == answer
            ran += 1
    assert ran >= 2
