"""Freed memory stays with the allocator: it is not cleared anew by the system for each large value."""

from __future__ import annotations

import os
import platform
import subprocess
import sys

import pytest

# Page faults of taking and freeing values of 2 MiB, three at a time, as a reader of a large object does.
FAULTS = """
import resource, sys
from milena_common.process.freed_memory import keep_freed_memory
if sys.argv[1] == "keep":
    keep_freed_memory()
for _ in range(5):
    values = [bytes(2**21) * 1, b"x" * 2**21, b"y" * 2**21]
    del values
before = resource.getrusage(resource.RUSAGE_SELF).ru_minflt
for _ in range(50):
    values = [b"x" * 2**21, b"y" * 2**21, b"z" * 2**21]
    del values
print(resource.getrusage(resource.RUSAGE_SELF).ru_minflt - before)
"""


def faults(how: str) -> int:
    environment = {name: value for name, value in os.environ.items() if not name.startswith("MALLOC_")}
    done = subprocess.run(
        [sys.executable, "-c", FAULTS, how], capture_output=True, text=True, check=True, env=environment
    )
    return int(done.stdout)


@pytest.mark.skipif(platform.libc_ver()[0] != "glibc", reason="another allocator")
def test_large_values_take_memory_that_was_freed() -> None:
    kept, returned = faults("keep"), faults("do not")
    assert kept < returned / 10
