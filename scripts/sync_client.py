"""Writes modules of milena_client/sync from those of milena_client/aio; `--check` compares instead.

Run by scripts/sync-client, as httpcore and elasticsearch-py make their sync clients. The change is of tokens:
`async` and `await` are removed, and names become those of the sync twins (`AsyncFoo` becomes `Foo`, the others are
in `NAMES`). Texts that no rule can derive, such as those about threads, are in `MODULES`: each must occur exactly
once. ruff sorts the imports and formats the result. So the result depends on the async module, on this file and on
ruff alone.
"""

from __future__ import annotations

import difflib
import io
import re
import subprocess
import sys
import token
import tokenize
from pathlib import Path
from typing import NamedTuple

ROOT = Path(__file__).resolve().parents[1]
ASYNC = ROOT / "milena_client" / "aio"
SYNC = ROOT / "milena_client" / "sync"
HEADER = "# Made from {source} by scripts/sync-client: change that file, and run the script.\n"
# A line of each async module that its twin does not have.
SAYS_SO = "Its sync twin is made from this file by scripts/sync-client.\n"

# Names in async modules and those of their sync twins, where the rule for `AsyncFoo` does not apply.
NAMES = {
    "AsyncIterator": "Iterator",
    "Clock": "BlockingClock",
    "SystemClock": "BlockingSystemClock",
    "__aenter__": "__enter__",
    "__aexit__": "__exit__",
    "async_router_transport": "router_transport",
}
# Imports: async modules and their sync twins.
IMPORTS = {
    "milena_client.aio": "milena_client.sync",
    "milena_common.runtime.clock": "milena_common.runtime.blocking_clock",
}
# Keywords that are removed, with the blank behind them.
DROPPED = {"async", "await"}


class Twin(NamedTuple):
    """A module of `aio` that has a twin of the same name in `sync`, and pairs of its text and the twin's text."""

    name: str
    texts: tuple[tuple[str, str], ...]


MODULES = (
    Twin(
        "admin",
        (
            ("The admin client for an event loop", "The admin client for threads"),
            (", for asyncio: the methods of `Admin`, to be awaited.", ". Thread-safe."),
        ),
    ),
    Twin("cached_function", (("A coroutine function whose results", "A function whose results"),)),
    Twin("caller", (("for the tasks of one event loop", "in the calling thread. Thread-safe"),)),
    Twin(
        "client",
        (
            (
                "The client for an event loop: names operations, and runs them through an `AsyncCaller`.",
                "The client for threads: names operations, and runs them through a `Caller`.",
            ),
            (
                """\
 for asyncio: the methods of `Milena`, to be awaited.

    It belongs to the event loop of its first call, and to the next loop when that one is closed. A call that is
    cancelled is given up; a write may have happened then.
""",
                ". Thread-safe; a process needs one.\n",
            ),
            ("class AsyncMilena:", "class AsyncMilena(ItemAccess):"),
            (
                "from milena_client.aio.direct import AsyncDirectTransport\n",
                "from milena_client.aio.direct import AsyncDirectTransport\n"
                "from milena_client.sync.items import ItemAccess\n",
            ),
        ),
    ),
)


def replace_texts(source: str, texts: tuple[tuple[str, str], ...]) -> str:
    """Return `source` with the first text of each pair replaced by the second.

    Raises ValueError if the first one does not occur exactly once.
    """
    for old, new in texts:
        if source.count(old) != 1:
            raise ValueError(f"occurs {source.count(old)} times and not once: {old!r}")
        source = source.replace(old, new)
    return source


def sync_name(name: str) -> str:
    """Return the name of the sync twin of the async `name`."""
    return NAMES.get(name) or re.sub(r"^(_?)Async(?=[A-Z])", r"\1", name)


def sync_words(text: str) -> str:
    """Return a comment or a string with the names in it changed."""
    for old, new in IMPORTS.items():
        text = re.sub(rf"\b{re.escape(old)}\b", new, text)
    return re.sub(r"\b_?Async[A-Z]\w*", lambda found: sync_name(found[0]), text)


def sync_tokens(source: str) -> str:
    """Return `source`, a module for an event loop, as one for threads."""
    for old, new in IMPORTS.items():
        source = re.sub(rf"^from {re.escape(old)}(?=[. ])", f"from {new}", source, flags=re.MULTILINE)
    lines = source.splitlines(keepends=True)
    made: list[str] = []
    row, column = 1, 0  # up to where `source` was taken over
    for each in tokenize.generate_tokens(io.StringIO(source).readline):
        if each.type not in (token.NAME, token.STRING, token.COMMENT):
            continue
        made += _between(lines, (row, column), each.start)
        row, column = each.end
        if each.string in DROPPED:
            column += 1
        else:
            made.append(sync_name(each.string) if each.type == token.NAME else sync_words(each.string))
    made += _between(lines, (row, column), (len(lines) + 1, 0))
    return "".join(made)


def _between(lines: list[str], start: tuple[int, int], end: tuple[int, int]) -> list[str]:
    """Return the text from `start` to `end`: lines counted from 1, columns from 0."""
    if start[0] == end[0]:
        return [lines[start[0] - 1][start[1] : end[1]]]
    whole = lines[start[0] : end[0] - 1]
    last = [lines[end[0] - 1][: end[1]]] if end[1] else []
    return [lines[start[0] - 1][start[1] :], *whole, *last]


def ruff(arguments: list[str], path: Path, source: str) -> str:
    """Return the output of ruff, run with `arguments` on `source` as the content of the file `path`."""
    command = [sys.executable, "-m", "ruff", *arguments, "--stdin-filename", str(path), "-"]
    return subprocess.run(command, input=source, capture_output=True, text=True, check=True, cwd=ROOT).stdout


def sync_module(twin: Twin) -> str:
    """Return the text of the sync module. Raises ValueError if a text of `twin` is not in the async one."""
    source, target = ASYNC / f"{twin.name}.py", SYNC / f"{twin.name}.py"
    try:
        made = sync_tokens(replace_texts(source.read_text(), ((SAYS_SO, ""), *twin.texts)))
    except ValueError as error:
        raise ValueError(f"{source.relative_to(ROOT)}: {error}; see scripts/sync_client.py") from None
    made = ruff(["check", "--select", "I", "--fix", "--quiet"], target, made)
    return HEADER.format(source=source.relative_to(ROOT)) + ruff(["format", "--quiet"], target, made)


def main(arguments: list[str], folder: Path = SYNC) -> int:
    """Write the modules to `folder`, or with --check compare them; return the exit code."""
    status = 0
    for twin in MODULES:
        target = folder / f"{twin.name}.py"
        made = sync_module(twin)
        kept = target.read_text() if target.exists() else ""
        if arguments != ["--check"]:
            target.write_text(made)
        elif kept != made:
            name = f"{target.parent.name}/{target.name}"
            sys.stderr.writelines(difflib.unified_diff(kept.splitlines(True), made.splitlines(True), name, "made"))
            print(f"{name} differs from what its async twin generates: run scripts/sync-client", file=sys.stderr)
            status = 1
    if arguments == ["--check"] and not status:
        print("the sync client is up to date")
    return status


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
