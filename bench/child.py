"""Shell. Work in a process of its own, which measures it and tells the figures in a line of its output.

So that what is measured has an interpreter, an event loop and a heap to itself, as it has in production, and leaves
nothing behind that would go on in the next variant's time.
"""

from __future__ import annotations

import asyncio
import json
from collections.abc import Coroutine
from typing import Any

import uvloop

from bench.case import Figures

_MARK = "figures: "


def tell(work: Coroutine[Any, Any, Figures], *, fast: bool = True) -> None:
    """Do `work` and print what it brings: on uvloop, as Milena's processes, or on Python's own event loop."""
    tell_figures(uvloop.run(work) if fast else asyncio.run(work))


def tell_figures(figures: Figures) -> None:
    """Print what work without an event loop has brought."""
    print(_MARK + json.dumps(figures), flush=True)


def told(line: str) -> Figures:
    """The figures in such a line."""
    figures: Figures = json.loads(line.partition(_MARK)[2])
    return figures
