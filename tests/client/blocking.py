"""An async client in a test that is not: both kinds of client can be put through the same suite."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from typing import Any

from milena_client import AsyncMilena, CommonPrefix, ObjectInfo, Stat, Written
from milena_client.aio.files import AsyncObjectFile
from milena_client.aio.object_writer import AsyncObjectWriter


class BlockingFile:
    """A file of an async client whose methods are called as those of a sync client's file."""

    def __init__(self, file: AsyncObjectFile, runner: asyncio.Runner) -> None:
        self._file = file
        self._runner = runner
        self.seek, self.tell = file.seek, file.tell

    @property
    def stat(self) -> Stat:
        return self._file.stat

    def read(self, length: int = -1) -> bytes:
        return self._runner.run(self._file.read(length))

    def chunks(self, length: int) -> list[bytes]:
        async def collect() -> list[bytes]:
            return [chunk async for chunk in self._file.chunks(length)]

        return self._runner.run(collect())

    def close(self) -> None:
        self._runner.run(self._file.close())


class BlockingWriter:
    """A file that is written, of an async client, whose methods are called as those of a sync client's."""

    def __init__(self, file: AsyncObjectWriter, runner: asyncio.Runner) -> None:
        self._file = file
        self._runner = runner
        self.tell = file.tell

    @property
    def written(self) -> Written | None:
        return self._file.written

    def write(self, value: bytes) -> int:
        return self._runner.run(self._file.write(value))

    def close(self) -> None:
        self._runner.run(self._file.close())

    def abort(self) -> None:
        self._runner.run(self._file.abort())


class Blocking:
    """An async client whose methods are called as a sync client's."""

    def __init__(self, client: AsyncMilena, runner: asyncio.Runner) -> None:
        self._client = client
        self._runner = runner

    def __getattr__(self, name: str) -> Callable[..., Any]:
        method = getattr(self._client, name)

        def call(*args: Any, **more: Any) -> Any:
            return self._runner.run(method(*args, **more))

        return call

    def open(self, *args: Any, **more: Any) -> BlockingFile | BlockingWriter:
        file: AsyncObjectFile | AsyncObjectWriter = self._runner.run(self._client.open(*args, **more))
        if isinstance(file, AsyncObjectWriter):
            return BlockingWriter(file, self._runner)
        return BlockingFile(file, self._runner)

    def scan(self, *args: Any) -> list[ObjectInfo]:
        async def collect() -> list[ObjectInfo]:
            return [item async for item in self._client.scan(*args)]

        return self._runner.run(collect())

    def scan_level(self, *args: Any, **more: Any) -> list[ObjectInfo | CommonPrefix]:
        async def collect() -> list[ObjectInfo | CommonPrefix]:
            return [item async for item in self._client.scan_level(*args, **more)]

        return self._runner.run(collect())
