"""Shell. The operators' HTTP port: metrics, liveness, readiness, under the paths that people try first.

Every connection is closed after a minute, whatever it does. A scraper opens the next one without noticing, and
somebody who sends half a request, or nothing, cannot hold sockets for long. Nor can there be very many.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Callable

from aiohttp import web
from aiohttp.http_exceptions import HttpProcessingError
from prometheus_client import CollectorRegistry
from prometheus_client.exposition import choose_encoder

from milena_common.addresses import Address
from milena_common.listening import listen

log = logging.getLogger(__name__)

MAX_CONNECTION_SECONDS = 60.0
MAX_CONNECTIONS = 128

LIVE_PATHS = ("/livez", "/health/quick", "/-/healthy")
READY_PATHS = ("/readyz", "/ready", "/health", "/-/ready")


class OpsServer:
    """Serves `registry` and the answers of `not_ready` and `degraded`, which list why the process is so.

    A degraded process is ready: it serves, and somebody should look at it.
    """

    def __init__(
        self,
        registry: CollectorRegistry,
        not_ready: Callable[[], list[str]],
        degraded: Callable[[], list[str]] = list,
    ) -> None:
        self._registry = registry
        self._not_ready = not_ready
        self._degraded = degraded
        self._server: asyncio.Server | None = None
        application = web.Application()
        application.router.add_get("/metrics", self._metrics)
        for path in LIVE_PATHS:
            application.router.add_get(path, self._live)
        for path in READY_PATHS:
            application.router.add_get(path, self._ready)
        log.addFilter(_is_ours)
        self._runner = web.AppRunner(application, access_log=None, logger=log, handle_signals=False)

    async def start(self, address: Address, variable: str) -> Address:
        """Listen; the address returned has the real port. Raises CannotListen, naming `variable`."""
        await self._runner.setup()
        handler = self._runner.server
        assert handler is not None
        loop = asyncio.get_running_loop()

        def connection() -> asyncio.Protocol:
            if len(handler.connections) >= MAX_CONNECTIONS:
                return _TurnedAway()
            protocol: web.RequestHandler = handler()
            loop.call_later(MAX_CONNECTION_SECONDS, _abort, protocol)
            return protocol

        self._server, listens = await listen(connection, address, variable)
        return listens

    async def stop(self) -> None:
        if self._server is not None:
            self._server.close()
        await self._runner.cleanup()

    async def _metrics(self, request: web.Request) -> web.Response:
        encode, content_type = choose_encoder(request.headers.get("Accept", ""))
        return web.Response(body=encode(self._registry), headers={"Content-Type": content_type})

    async def _live(self, _: web.Request) -> web.Response:
        return web.json_response({"status": "ok"})

    async def _ready(self, _: web.Request) -> web.Response:
        reasons = self._not_ready()
        if reasons:
            return web.json_response({"status": "not ready", "reasons": reasons}, status=503)
        degraded = self._degraded()
        if degraded:
            return web.json_response({"status": "degraded", "reasons": degraded})
        return web.json_response({"status": "ok"})


class _TurnedAway(asyncio.Protocol):
    """A connection too many: it must not take the file descriptors that callers of the gRPC port need."""

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        assert isinstance(transport, asyncio.Transport)
        transport.abort()


def _is_ours(record: logging.LogRecord) -> bool:
    """Not what somebody sent that is no HTTP: they get their 400, and it is no event for the log."""
    error = record.exc_info[1] if record.exc_info else None
    return not isinstance(error, HttpProcessingError)


def _abort(protocol: web.RequestHandler) -> None:
    if protocol.transport is not None:
        protocol.transport.abort()
