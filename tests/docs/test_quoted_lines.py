"""Log lines, errors and reasons that the guide quotes are what the code writes: operators search for them."""

from __future__ import annotations

import ast
import re
from collections.abc import Iterator

import pytest

from tests.docs.documents import ROOT, blocks, prose

GUIDE = ROOT / "docs" / "operations.md"
PACKAGES = ("milena_common", "milena_client", "milena_router", "milena_cache")

# Stands for a value in a text of the code.
VALUE = "\0"
_FORMAT = re.compile(r"%[-.\d]*[sdrgfx]")
# Words of a quotation that may be values: numbers, names, addresses, and what is left out.
_MAY_BE_VALUE = re.compile(r"[\d…=/@\"'<>\\]|\.\w+\.|^my-|^milena-|^\(|^SIG|^[A-Z]+_[A-Z_]+")

# Quoted, and written by others: S3's words, gRPC's, the system's.
FOREIGN = {
    "SlowDown: Please reduce your request rate",
    "Domain name not found",
    "Address already in use",
    "Connection refused",
}
# Quoted, and nothing that a process writes.
COMMANDS = (
    "milena ",
    "redis-cli ",
    "docker ",
    "kubectl ",
    "systemctl ",
    "curl ",
    "rm ",
    "rate(",
    "ulimit ",
    "python ",
    "CLIENT ",
)


def template(node: ast.AST) -> str:
    """Return a string of the code with VALUE for what is filled in, "" for anything else."""
    if isinstance(node, ast.Constant) and isinstance(node.value, str):
        return _FORMAT.sub(VALUE, node.value)
    if isinstance(node, ast.JoinedStr):
        return "".join(part.value if isinstance(part, ast.Constant) else VALUE for part in node.values)  # type: ignore[misc]
    return ""


@pytest.fixture(scope="module")
def written() -> str:
    """Return every text of the code, one a line."""
    files = [path for package in PACKAGES for path in (ROOT / package).rglob("*.py") if "pb" not in path.parts]
    texts: list[str] = []
    for path in files:
        nodes = list(ast.walk(ast.parse(path.read_text())))
        docstrings = {id(node.value) for node in nodes if isinstance(node, ast.Expr)}
        texts += [template(node) for node in nodes if id(node) not in docstrings]
    return "\n".join(sorted({" ".join(text.split()) for text in texts} - {""}))


def quotations() -> list[str]:
    """Return what the guide quotes in three words or more, and is no command."""
    spans = re.findall(r"`([^`]+)`", re.sub(r"^ +```.*?^ +```$", "", prose(GUIDE), flags=re.M | re.S))
    spans += [
        line
        for block in blocks("")
        if block.document == GUIDE and block.language == ""
        for line in block.text.splitlines()
    ]
    return [
        text
        for text in (" ".join(span.split()) for span in spans)
        if len(text.split()) >= 3 and not text.startswith(COMMANDS)
    ]


def phrases(quotation: str) -> Iterator[list[str]]:
    """Yield the runs of words between those that may be values."""
    for foreign in FOREIGN:
        quotation = quotation.replace(foreign, "…")
    run: list[str] = []
    for word in [*quotation.split(), "…"]:
        if not _MAY_BE_VALUE.search(word):
            run.append(word)
        elif run:
            yield run
            run = []


def is_written(words: list[str], written: str) -> bool:
    """True if the code writes these words in one text, or in several that follow each other."""
    texts = " ".join(words).strip("`.,:;()")
    if texts in written:
        return True
    return any(
        " ".join(words[:cut]).strip(":,;") in written and is_written(words[cut:], written)
        for cut in range(2, len(words) - 1)
    )


@pytest.mark.parametrize("quotation", quotations())
def test_what_the_guide_quotes_is_written_by_the_code(quotation: str, written: str) -> None:
    assert [" ".join(run) for run in phrases(quotation) if len(run) > 2 and not is_written(run, written)] == []


def test_a_line_that_the_code_does_not_write_would_be_noticed(written: str) -> None:
    assert not is_written(["the", "router", "keeps", "the", "ring"], written)
    assert not is_written(["the", "disk", "of", "the", "journal", "was", "lost"], written)
    assert is_written(["the", "router", "withholds", "its", "ring"], written)
