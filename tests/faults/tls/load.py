"""Clients of several kinds that make calls all the time, while something happens to the cluster."""

from __future__ import annotations

import asyncio
import threading

from milena_client import AsyncMilena, Milena
from milena_common.api.errors import MilenaError


class Load:
    """Calls of several clients of the cluster at `url`, which has parameters; `failures` has the texts of errors.

    They read and write straight at the nodes and through the router, for threads, where clients are new ones every
    25 rounds, and read in an event loop.
    """

    def __init__(self, url: str) -> None:
        self.failures: list[str] = []
        self.calls = 0
        self._url = url
        self._stop = threading.Event()
        self._threads = [
            threading.Thread(target=self._repeat, args=("direct", "&direct=true")),
            threading.Thread(target=self._repeat, args=("router", "&direct=false")),
            threading.Thread(target=lambda: asyncio.run(self._repeat_async())),
        ]

    def __enter__(self) -> Load:
        for thread in self._threads:
            thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._stop.set()
        for thread in self._threads:
            thread.join()

    def _repeat(self, way: str, more: str) -> None:
        key = f"{way} {id(self)}"  # another load may run at the same time
        while not self._stop.is_set():
            try:
                with Milena(self._url + more) as m:
                    for number in range(25):
                        m.set(key, b"%d" % number)
                        if m.get(key) != b"%d" % number:
                            self.failures.append(f"{key}: another value")
                        self.calls += 2
                        if self._stop.wait(0.01):
                            break
            except MilenaError as error:
                self.failures.append(f"{key}: {type(error).__name__}: {error}")

    async def _repeat_async(self) -> None:
        async with AsyncMilena(self._url) as m:
            while not self._stop.is_set():
                try:
                    await asyncio.gather(*(m.get(f"k{number}") for number in range(5)))
                    self.calls += 5
                except MilenaError as error:
                    self.failures.append(f"async: {type(error).__name__}: {error}")
                await asyncio.sleep(0.01)
