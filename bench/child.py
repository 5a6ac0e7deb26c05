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

from bench.case import Samples

_MARK = "figures: "


def run_and_print(work: Coroutine[Any, Any, Samples], *, fast: bool = True) -> None:
    """Do `work` and print what it brings: on uvloop, as Milena's processes, or on Python's own event loop."""
    print_samples(uvloop.run(work) if fast else asyncio.run(work))


def print_samples(samples: Samples) -> None:
    """Print what work without an event loop has brought."""
    print(_MARK + json.dumps(samples), flush=True)


def printed(line: str) -> Samples:
    """The figures in such a line."""
    samples: Samples = json.loads(line.partition(_MARK)[2])
    return samples
