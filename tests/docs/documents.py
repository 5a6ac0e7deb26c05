"""Shell. The project's documents, and the parts of them that can be wrong: blocks, links, tables, names."""

from __future__ import annotations

import re
import shlex
from collections.abc import Iterator
from functools import cache
from pathlib import Path
from typing import NamedTuple

ROOT = Path(__file__).parents[2]
DOCUMENTS = sorted([*ROOT.glob("*.md"), *(ROOT / "docs").glob("*.md")])

_FENCE = re.compile(r"^```(\w*)\n(.*?)^```$", re.MULTILINE | re.DOTALL)
_LINK = re.compile(r"\[[^]]*\]\(([^)\s]+)\)")
_HEADING = re.compile(r"^#+ (.+)$", re.MULTILINE)
_ASSIGNMENT = re.compile(r"[A-Z_]+=")


class Block(NamedTuple):
    """A fenced block: the document it is in, its language ("" if none is named) and its text."""

    document: Path
    language: str
    text: str


class Row(NamedTuple):
    """A row of a table of variables: the name, and the cells for its default and what is allowed."""

    name: str
    default: str
    allowed: str


@cache
def text(document: Path) -> str:
    return document.read_text()


@cache
def prose(document: Path) -> str:
    """The text without its fenced blocks."""
    return _FENCE.sub("", text(document))


def blocks(*languages: str) -> list[Block]:
    """The fenced blocks in these languages, of all documents; all blocks if none is named."""
    return [
        Block(document, language, content)
        for document in DOCUMENTS
        for language, content in _FENCE.findall(text(document))
        if language in languages or not languages
    ]


def links(document: Path) -> list[str]:
    """What the links of `document` point at, except other sites."""
    return [target for target in _LINK.findall(prose(document)) if not re.match(r"https?:", target)]


@cache
def anchors(document: Path) -> frozenset[str]:
    """The fragments by which the headings of `document` can be linked to, as GitHub makes them."""
    return frozenset(
        re.sub(r"[^\w\- ]", "", heading.lower()).replace(" ", "-") for heading in _HEADING.findall(prose(document))
    )


def section(document: Path, heading: str) -> str:
    """The text from a second-level heading to the next."""
    found = re.search(rf"^## {re.escape(heading)}$(.*?)(?=^## |\Z)", text(document), re.MULTILINE | re.DOTALL)
    assert found, f"{document.name} has no section {heading!r}"
    return found[1]


def rows(document: Path, heading: str) -> list[Row]:
    """The rows of a section's tables whose first cell is one variable."""
    found = re.findall(
        r"^\| `([A-Z][A-Z0-9_]*)` \| ([^|]*) \| ([^|]*) \| [^|]+ \|$", section(document, heading), re.MULTILINE
    )
    return [Row(*(cell.strip() for cell in cells)) for cells in found]


def commands(program: str) -> Iterator[tuple[Path, list[str]]]:
    """The arguments of every call of `program` in blocks of shell: one for each, as a shell would split them."""
    for block in blocks("sh"):
        for line in block.text.replace("\\\n", " ").splitlines():
            for command in _split(line):
                while command and _ASSIGNMENT.match(command[0]):
                    command = command[1:]
                if command and command[0].rpartition("/")[2] == program:
                    yield block.document, command[1:]


def _split(line: str) -> Iterator[list[str]]:
    """The words of each command of `line`: pipes and `&&` are between them, a comment is none."""
    words = shlex.shlex(line, posix=True, punctuation_chars="|&;")
    words.whitespace_split = True
    command: list[str] = []
    for word in words:
        if set(word) <= set("|&;"):
            yield command
            command = []
        else:
            command.append(word)
    yield command
