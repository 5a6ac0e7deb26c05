"""Coordination. The clients of one cluster for a program that has several event loops, and reads several buckets.

Libraries that know files run coroutines in event loops of their own, and often in those of their callers too, while
an `AsyncMilena` belongs to one loop and has one bucket.
"""

from __future__ import annotations

import asyncio
import threading
from weakref import finalize

from milena_client.aio.client import AsyncMilena
from milena_client.core.limits import DEFAULT_TIMEOUT
from milena_client.core.url import Target
from milena_common.runtime.forks import leak, survive_forks

_Clients = dict[asyncio.AbstractEventLoop, dict[str, AsyncMilena]]


class LoopClients:
    """The clients of the cluster `target`, by running event loop and bucket. Thread-safe, and usable after a fork.

    `timeout`: the seconds of a call; None: the target's. There are as many clients as loops that are not closed,
    times buckets.
    """

    def __init__(self, target: Target, timeout: float | None = None) -> None:
        self._target = target
        self._timeout = target.seconds(timeout, DEFAULT_TIMEOUT)
        self._lock = threading.Lock()
        self._clients: _Clients = {}
        finalize(self, _close_all, self._clients).atexit = False
        survive_forks(self)

    @property
    def address(self) -> str:
        """The addresses of the routers."""
        return self._target.address

    def here(self, bucket: str) -> AsyncMilena:
        """Return the running event loop's client of `bucket`. Raises InvalidRequest for an invalid bucket."""
        loop = asyncio.get_running_loop()
        found = self._clients.get(loop, {}).get(bucket)
        if found is not None:
            return found
        target = self._target
        client = AsyncMilena(
            target.address,
            bucket=bucket,
            timeout=self._timeout,
            direct=target.direct,
            note=target.note,
            tls=target.tls,
            credentials=target.credentials,
        )
        with self._lock:
            # A client refers to its loop, so closed ones would be kept for ever.
            for closed in [each for each in self._clients if each.is_closed()]:
                del self._clients[closed]
            return self._clients.setdefault(loop, {}).setdefault(bucket, client)

    def forked(self) -> None:
        # The loops run in the parent. Their clients would be closed there, through the pipe that wakes a loop and
        # that both processes have.
        leak(dict(self._clients))
        self._lock = threading.Lock()
        self._clients.clear()

    def close(self) -> None:
        """Begin to close the clients of all event loops that run. Later calls make new ones."""
        with self._lock:
            clients = dict(self._clients)
            self._clients.clear()
        _close_all(clients)

    async def close_here(self) -> None:
        """Close the clients of the running event loop. Later calls make new ones."""
        with self._lock:
            clients = self._clients.pop(asyncio.get_running_loop(), {})
        await asyncio.gather(*[client.close() for client in clients.values()])


def _close_all(clients: _Clients) -> None:
    """Close the clients of an object that is gone, each in its event loop."""
    for loop, of_loop in clients.items():
        if loop.is_running():
            for client in of_loop.values():
                asyncio.run_coroutine_threadsafe(client.close(), loop)
    clients.clear()
