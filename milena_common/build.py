"""Shell. Which of the two builds runs: hot modules compiled by mypyc, or the same files as Python.

A wheel has both forms of a module side by side, and Python prefers the compiled one, unless `MILENA_PURE=1` is set.
pyproject.toml lists the compiled modules. Each package of Milena imports `milena_common` first, which calls
`heed_milena_pure`, before a module is looked for that may be compiled.
"""

from __future__ import annotations

import os
import sys
from collections.abc import Sequence
from importlib.machinery import SOURCE_SUFFIXES, FileFinder, ModuleSpec, SourceFileLoader
from importlib.util import find_spec
from types import ModuleType
from typing import TypeVar

VARIABLE = "MILENA_PURE"

_PACKAGES = ("milena_common.", "milena_client.", "milena_router.", "milena_cache.")

Class = TypeVar("Class", bound=type)


class SourceFinder:
    """Finds modules of Milena by their source alone, as an entry of `sys.meta_path`."""

    @staticmethod
    def find_spec(
        name: str, path: Sequence[str] | None = None, target: ModuleType | None = None
    ) -> ModuleSpec | None:
        """Return the source file of the module `name` in the package at `path`; None for others' modules."""
        if path is None or not name.startswith(_PACKAGES):
            return None
        for directory in path:
            found = FileFinder(directory, (SourceFileLoader, SOURCE_SUFFIXES)).find_spec(name)
            if found is not None:
                return found
        return None


def heed_milena_pure() -> None:
    """Let the whole process run the source, also of compiled modules, if MILENA_PURE is 1."""
    if os.environ.get(VARIABLE) == "1" and SourceFinder not in sys.meta_path:
        sys.meta_path.insert(0, SourceFinder)


def is_compiled() -> bool:
    """Return True if the compiled modules run. They are all compiled, or none of them is."""
    found = find_spec("milena_common.resp.parser")  # one of them
    return found is not None and not (found.origin or "").endswith(".py")


def interpreted(cls: Class) -> Class:
    """Mark a class of a compiled module that stays a Python class; does nothing else.

    mypyc leaves a class with a decorator that it does not know as it is. Needed for subclasses of built-in classes.
    """
    return cls
