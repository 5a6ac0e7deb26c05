"""A program that reads a large object as a file, and prints what memory that took:

    python -m tests.e2e.large_objects.read_program sync|async ADDRESS KEY BYTES CHUNK

reads the first BYTES of KEY, CHUNK at a time, and prints by how many bytes the peak of its memory is above what it
took when the file was open and had been read from once.
"""

from __future__ import annotations

import asyncio
import sys
from pathlib import Path

from milena_client import AsyncMilena, Milena


def memory(field: str) -> int:
    """Return this process's memory in bytes: `VmRSS`, current, or `VmHWM`, peak."""
    lines = Path("/proc/self/status").read_text().splitlines()
    return next(1024 * int(line.split()[1]) for line in lines if line.startswith(field + ":"))


def reset_peak() -> None:
    Path("/proc/self/clear_refs").write_text("5")


def read(address: str, key: str, size: int, chunk: int) -> int:
    with Milena(address, timeout=30) as m, m.open(key) as file:
        file.read(10)
        reset_peak()
        before = memory("VmRSS")
        while size > 0 and (data := file.read(min(size, chunk))):
            size -= len(data)
        return memory("VmHWM") - before


async def read_async(address: str, key: str, size: int, chunk: int) -> int:
    async with AsyncMilena(address, timeout=30) as m, await m.open(key) as file:
        await file.read(10)
        reset_peak()
        before = memory("VmRSS")
        while size > 0 and (data := await file.read(min(size, chunk))):
            size -= len(data)
        return memory("VmHWM") - before


if __name__ == "__main__":
    kind, address, key, size, chunk = sys.argv[1:]
    if kind == "sync":
        print(read(address, key, int(size), int(chunk)))
    else:
        print(asyncio.run(read_async(address, key, int(size), int(chunk))))
