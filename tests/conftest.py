"""Settings that hold for every test."""

from __future__ import annotations

import gc
import os
import signal
from collections.abc import Iterator

import pytest
from hypothesis import settings

# No deadline: a busy machine would fail an example that is right. In CI the examples are the same in every run,
# so that a failure there is about the change at hand; elsewhere they are new each time.
settings.register_profile("milena", deadline=None, derandomize=bool(os.environ.get("CI")))
settings.load_profile("milena")


def pytest_configure() -> None:
    """Heed Ctrl-C also in a shell's background job: it ignores it, as children would, and tests send it."""
    if signal.getsignal(signal.SIGINT) is signal.SIG_IGN:
        signal.signal(signal.SIGINT, signal.default_int_handler)


@pytest.fixture(autouse=True, scope="module")
def _what_has_run_costs_nothing() -> Iterator[None]:
    """Thousands of tests leave objects behind, and the collector would look through them again and again."""
    yield
    gc.collect()
    gc.freeze()
