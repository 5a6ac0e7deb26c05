"""Shell. Runs work in its own process, which measures it and prints the samples on one line.

So the measured program has its own interpreter, event loop and heap, as in production, and no work continues during
the next variant.
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
    """Run `work` and print its samples: on uvloop, as Milena's processes, or on Python's own event loop."""
    print_samples(uvloop.run(work) if fast else asyncio.run(work))


def print_samples(samples: Samples) -> None:
    """Print the samples of work without an event loop."""
    print(_MARK + json.dumps(samples), flush=True)


def printed(line: str) -> Samples:
    """Return the samples in such a line."""
    samples: Samples = json.loads(line.partition(_MARK)[2])
    return samples
