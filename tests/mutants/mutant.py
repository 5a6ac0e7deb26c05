"""Pure. What a deliberate fault is."""

from __future__ import annotations

from typing import NamedTuple


class Change(NamedTuple):
    """In `file`, `old` stands exactly once; `new` takes its place."""

    file: str
    old: str
    new: str


class Bug(NamedTuple):
    """`tests` are pytest's names: a file, or a test in it. At least one must fail."""

    name: str
    changes: tuple[Change, ...]
    tests: tuple[str, ...]
