"""An async client in a test that is not: both kinds of client can be put through the same suite."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from typing import Any

from milena_client import AsyncMilena, CommonPrefix, ObjectInfo


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

    def scan(self, *args: Any) -> list[ObjectInfo]:
        async def collect() -> list[ObjectInfo]:
            return [item async for item in self._client.scan(*args)]

        return self._runner.run(collect())

    def scan_level(self, *args: Any, **more: Any) -> list[ObjectInfo | CommonPrefix]:
        async def collect() -> list[ObjectInfo | CommonPrefix]:
            return [item async for item in self._client.scan_level(*args, **more)]

        return self._runner.run(collect())
