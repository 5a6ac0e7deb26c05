"""Coordination. Reads an object of any size, or a slice of it, as a value: in as many requests as that takes."""

from __future__ import annotations

from contextlib import suppress

from milena_client.aio.client import AsyncMilena
from milena_client.aio.files import AsyncObjectFile
from milena_client.core.values import Key
from milena_common.api.errors import FailedPrecondition, KeyNotFound, RangeNotSatisfiable


async def read_slice(
    client: AsyncMilena, key: Key, start: int | None = None, end: int | None = None
) -> bytes | None:
    """Return ``value[start:end]`` of the object `key`; None if there is none. Raises MilenaError.

    What is more than one request may return (MAX_VALUE_BYTES) is read in parts, of one version of the object:
    ConditionFailed is raised if it is replaced meanwhile.
    """
    first = start or 0
    with suppress(FailedPrecondition):  # it may be too large
        if start is None and end is None:
            return await client.get(key)
        if end is None or 0 <= first < end:
            try:
                entry = await client.get_range(key, first, None if end is None else end - first)
            except RangeNotSatisfiable:
                return b""
            return None if entry is None else entry.value
    try:
        async with await client.open(key) as file:
            return await slice_of(file, start, end)
    except KeyNotFound:
        return None


async def slice_of(file: AsyncObjectFile, start: int | None, end: int | None) -> bytes:
    """Return ``value[start:end]`` of an open file. Raises as its `read`."""
    first, last, _ = slice(start, end).indices(file.stat.size)
    file.seek(first)
    return await file.read(max(0, last - first))
