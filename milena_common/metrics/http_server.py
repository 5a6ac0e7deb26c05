"""Shell. The HTTP server for operators: metrics, liveness, readiness, under the customary paths.

It must respond while the rest of the process is overloaded, and must not cause overload. So everything is bounded:

- A connection without a complete request is closed after IDLE_SECONDS, and any connection after a minute. A scraper
  opens the next one by itself.
- There are at most MAX_CONNECTIONS. A further one replaces the connection that has been idle for the longest, so
  that health checks are served however many idle connections clients hold.
- Requests are served even while the process has no file descriptor left: see
  `milena_common.network.spare_listener`.
- The text of all metrics is generated for one request at a time; concurrent requests get the same text. Generating
  it takes milliseconds of the event loop, which the data path needs, so it takes a tenth of the time at most.
- A job on a prefix goes on while its client reads its progress, MAX_JOBS at a time.
- A client that does not read its responses gets no further ones: the next request of a connection is read when the
  response before it was sent.
"""

from __future__ import annotations

import asyncio
import json
import logging
from collections.abc import AsyncIterator, Awaitable, Callable, Iterable, Mapping
from contextlib import suppress
from typing import Any, Protocol

from aiohttp import web
from aiohttp.http_exceptions import HttpProcessingError
from prometheus_client import CollectorRegistry
from prometheus_client.exposition import choose_encoder

from milena_common.access.access import Access
from milena_common.access.principals import Principal
from milena_common.api.credentials import AUTHORIZATION
from milena_common.api.errors import (
    AccessDenied,
    InvalidRequest,
    MilenaError,
    Overloaded,
    RateLimited,
    Unauthenticated,
)
from milena_common.network.addresses import Address
from milena_common.network.listening import bind
from milena_common.network.security import ServerSecurity
from milena_common.network.spare_listener import SpareListener
from milena_common.tls.chain import peer_chain
from milena_common.tls.peer import of_transport

log = logging.getLogger(__name__)

MAX_CONNECTION_SECONDS = 60.0
# A client sends its request right after connecting; one that keeps the connection between scrapes reconnects.
IDLE_SECONDS = 5.0
MAX_CONNECTIONS = 128
BACKLOG = 128
# After generating the metrics takes t seconds, they are not generated again for SCRAPE_PAUSES * t.
SCRAPE_PAUSES = 9

# The port's name in counts and logs, and the command whose permission metrics and reasons need.
PORT = "http"
COMMAND = "info"
MAX_LOGINS = 64

MAX_JOBS = 4
JOB_PATH = "/jobs/{action}"
# The HTTP status of errors with which a job does not begin; 503 of others.
_STATUS = {InvalidRequest: 400, Unauthenticated: 401, AccessDenied: 403, RateLimited: 429, Overloaded: 503}

LIVE_PATHS = ("/livez", "/health/quick", "/-/healthy")
READY_PATHS = ("/readyz", "/ready", "/health", "/-/ready")


class Jobs(Protocol):
    """Jobs of operators that run while their progress is read."""

    def begin(
        self, action: str, parameters: Mapping[str, str], principal: Principal, peer: str
    ) -> AsyncIterator[dict[str, Any]]:
        """Return a job's progress. Raises InvalidRequest at once; its iterator raises other errors."""


class OpsServer:
    """Serves `registry` and the reasons that `not_ready` and `degraded` return.

    A degraded process is ready: it serves requests, but an operator should look at it. What `remarks` returns is
    shown by a process that is ready and not degraded.

    - `access`: where a login is required, metrics and reasons are for users who may run INFO, by Basic or Bearer.
      Liveness and readiness themselves are for all, since probes of Kubernetes have no password.
    - `security`: encrypts connections; None: they are plain.
    - `plain_too`: take plain connections as well.
    - `certificate_required`: metrics are shown over encrypted connections only to clients with a certificate.
      Health is shown to all, since what probes it has none, as in Kubernetes.
    - `before_metrics`, `before_ready`: awaited before the metrics are generated, and before `not_ready` is called;
      None: nothing is.
    - `jobs`: what `POST /jobs/ACTION` runs for clients that have logged in; None: nothing.
    """

    def __init__(
        self,
        registry: CollectorRegistry,
        not_ready: Callable[[], list[str]],
        degraded: Callable[[], list[str]] = list,
        access: Access | None = None,
        *,
        security: ServerSecurity | None = None,
        plain_too: bool = False,
        certificate_required: bool = False,
        before_metrics: Callable[[], Awaitable[None]] | None = None,
        before_ready: Callable[[], Awaitable[None]] | None = None,
        remarks: Callable[[], list[str]] = list,
        jobs: Jobs | None = None,
    ) -> None:
        self._before_metrics = before_metrics
        self._before_ready = before_ready
        self._access = access
        self._security = security
        self._plain_too = plain_too
        self._certificate_required = certificate_required
        self._registry = registry
        self._not_ready = not_ready
        self._degraded = degraded
        self._remarks = remarks
        self._listener: SpareListener | None = None
        application = web.Application()
        application.router.add_get("/metrics", self._metrics)
        for path in LIVE_PATHS:
            application.router.add_get(path, self._live)
        for path in READY_PATHS:
            application.router.add_get(path, self._ready)
        self._jobs = jobs
        self._running: set[web.RequestHandler] = set()  # connections of jobs
        if jobs is not None:
            application.router.add_post(JOB_PATH, self._job)
        log.addFilter(_is_ours)
        self._runner = web.AppRunner(
            application,
            access_log=None,
            logger=log,
            handle_signals=False,
            keepalive_timeout=IDLE_SECONDS,
            handler_cancellation=True,  # ends a job with its connection, also in a pause
        )
        # Connections, the longest idle one first; False until the connection was seen open.
        self._connections: dict[asyncio.BaseProtocol, bool] = {}
        self._scraping = asyncio.Lock()
        self._logged_in: dict[str, Principal] = {}  # by header
        if access is not None:
            access.on_change += [self._logged_in.clear, self._end_jobs]
        self._texts: dict[str, tuple[float, bytes]] = {}  # by content type: when it was begun, and what it is
        self._next_text_at = 0.0

    async def start(self, address: Address, variable: str) -> Address:
        """Listen, and return the address with the real port. Raises CannotListen, naming `variable`."""
        await self._runner.setup()
        handler = self._runner.server
        assert handler is not None
        loop = asyncio.get_running_loop()

        def connection() -> asyncio.Protocol:
            self._make_room(handler.connections)
            protocol: web.RequestHandler = handler()
            self._connections[protocol] = False
            loop.call_later(MAX_CONNECTION_SECONDS, self._end, protocol)
            return protocol

        sockets = bind(address, variable)
        self._listener = SpareListener(sockets, connection, self._security, plain_too=self._plain_too)
        self._listener.start(BACKLOG)
        return Address(address.host, sockets[0].getsockname()[1])

    async def stop(self) -> None:
        if self._listener is not None:
            self._listener.close()
            self._listener = None
        await self._runner.cleanup()

    def _make_room(self, opened: Iterable[asyncio.BaseProtocol]) -> None:
        """Close the connection that has been idle for the longest, if there are too many."""
        now_open = set(opened)
        for protocol, seen in tuple(self._connections.items()):
            if protocol in now_open:
                self._connections[protocol] = True
            elif seen:
                del self._connections[protocol]
        while len(self._connections) >= MAX_CONNECTIONS:
            self._end(next(iter(self._connections)))

    def _end(self, protocol: asyncio.BaseProtocol) -> None:
        if protocol in self._running:
            return
        self._connections.pop(protocol, None)
        assert isinstance(protocol, web.RequestHandler)
        if protocol.transport is not None:
            protocol.transport.abort()

    async def _turn(self, request: web.Request) -> None:
        """Return when the client has read the connection's earlier responses, or nearly all of them."""
        protocol = request.protocol
        self._connections.pop(protocol, None)
        self._connections[protocol] = True
        await request.writer.drain()

    async def _permitted(self, request: web.Request, *, required: bool) -> bool:
        """Return True if the caller may see details. Raises Unauthenticated or RateLimited for a wrong login.

        `required`: a caller without a login gets nothing, and is counted; probes of readiness have none.
        """
        access = self._access
        if access is None or access.is_open:
            return True
        principal, address = await self._login(access, request)
        user = principal.guard
        if user is None or user.may_run(COMMAND):
            return True
        if not user.enabled:
            if required:
                access.missing(address, PORT)
        else:
            access.denied(principal, "command", COMMAND, request.path, address, PORT)
        return False

    async def _login(self, access: Access, request: web.Request) -> tuple[Principal, str]:
        """Return who makes a request, and its address. Raises Unauthenticated or RateLimited for a wrong login."""
        address = _peer_of(request)
        header = request.headers.get(AUTHORIZATION, "")
        known = self._logged_in.get(header)
        if not header:
            transport = request.transport if self._accepted(request) else None
            found = of_transport(transport.get_extra_info("peercert")) if transport is not None else None
            return access.principal_of(found.names if found is not None else ()), address
        if known is not None:
            return known, address
        seconds = access.wait(address, PORT)
        if seconds:
            await asyncio.sleep(seconds)
        principal = access.login_header(header, address, PORT, waited=bool(seconds))
        if len(self._logged_in) >= MAX_LOGINS:
            self._logged_in.clear()
        self._logged_in[header] = principal
        return principal, address

    async def _job(self, request: web.Request) -> web.StreamResponse:
        """Run a job of a client that has logged in, and write a line of JSON whenever it has got further.

        None begins without a login, also where all other ports are open: metrics are often shown to more
        machines than those. Nor does a page of another site in an operator's browser.
        """
        jobs, access = self._jobs, self._access
        assert jobs is not None
        await self._turn(request)
        protocol = request.protocol
        try:
            if "Origin" in request.headers:
                raise AccessDenied("jobs are not for pages in browsers, which send Origin")
            principal, address = (None, "") if access is None else await self._login(access, request)
            if access is None or principal is None or principal == access.anonymous:
                if access is not None:
                    access.missing(_peer_of(request), PORT)
                raise Unauthenticated(
                    "jobs over HTTP need the login of a user (ACL_FILE) or a client certificate (TLS_CLIENT_AUTH); "
                    "without either, use the command milena"
                )
            if len(self._running) >= MAX_JOBS:
                raise Overloaded(f"{MAX_JOBS} jobs over HTTP are in progress; nothing was done: repeat it later")
            parameters = dict(request.query)
            if len(parameters) < len(request.query):
                raise InvalidRequest("a parameter is given twice; allowed is once")
            job = jobs.begin(request.match_info["action"], parameters, principal, address)
            self._running.add(protocol)
            self._connections.pop(protocol, None)
        except MilenaError as error:
            return _job_error(error)
        try:
            return await self._stream(request, job)
        finally:
            await job.aclose()  # type: ignore[attr-defined]
            self._running.discard(protocol)

    def _end_jobs(self) -> None:
        """End all jobs, since their users may have been removed, or changed."""
        for protocol in self._running:
            if protocol.transport is not None:
                protocol.transport.abort()

    async def _stream(self, request: web.Request, job: AsyncIterator[dict[str, Any]]) -> web.StreamResponse:
        response = web.StreamResponse(headers={"Content-Type": "application/x-ndjson"})
        # The connection may be older than MAX_CONNECTION_SECONDS when the job is done.
        response.force_close()
        try:
            async for progress in job:
                if not response.prepared:
                    await response.prepare(request)
                # Raises ConnectionResetError if the client has gone, which ends the job.
                await response.write(json.dumps(progress).encode() + b"\n")
        except MilenaError as error:
            if not response.prepared:
                return _job_error(error)
            await response.write(json.dumps({"error": str(error), "code": error.code}).encode() + b"\n")
        except ConnectionError:
            return response
        with suppress(ConnectionError):
            await response.write_eof()
        return response

    def _accepted(self, request: web.Request) -> bool:
        """Return False if the certificate of the connection would not be accepted any more."""
        transport = request.transport
        if self._security is None or transport is None or not transport.get_extra_info("peercert"):
            return True
        chain = peer_chain(transport.get_extra_info("ssl_object"))
        return chain is None or self._security.accepts(chain)

    async def _metrics(self, request: web.Request) -> web.Response:
        if not self._accepted(request):
            # The client connects again, and is verified. One without requests is closed as idle before long.
            response = web.Response(
                status=403, text="the certificate of this connection is not accepted any more\n"
            )
            response.force_close()
            return response
        try:
            if not await self._permitted(request, required=True):
                return _unauthorized("a login of a user who may run INFO is required")
        except MilenaError as error:
            return _unauthorized(str(error))
        loop = asyncio.get_running_loop()
        arrived = loop.time()
        await self._turn(request)
        if self._certificate_required and not _may_see_metrics(request):
            return web.Response(status=403, text="metrics are for clients with a certificate (TLS_CLIENT_AUTH)\n")
        encode, content_type = choose_encoder(request.headers.get("Accept", ""))
        async with self._scraping:
            begun, text = self._texts.get(content_type, (-1.0, b""))
            if begun < arrived:
                await asyncio.sleep(max(0.0, self._next_text_at - loop.time()))
                begun = loop.time()
                if self._before_metrics is not None:
                    await self._before_metrics()
                text = encode(self._registry)
                self._texts[content_type] = (begun, text)
                finished = loop.time()
                self._next_text_at = finished + SCRAPE_PAUSES * (finished - begun)
            else:
                await asyncio.sleep(0)  # one response in one iteration of the loop
        return web.Response(body=text, headers={"Content-Type": content_type})

    async def _live(self, request: web.Request) -> web.Response:
        await self._turn(request)
        return web.json_response({"status": "ok"})

    async def _ready(self, request: web.Request) -> web.Response:
        await self._turn(request)
        if self._before_ready is not None:
            await self._before_ready()
        try:
            shown = self._access is None or self._access.is_open or await self._permitted(request, required=False)
        except MilenaError as error:
            return _unauthorized(str(error))
        reasons = self._not_ready()
        if reasons:
            described = {"reasons": reasons} if shown else {}
            return web.json_response({"status": "not ready", **described}, status=503)
        degraded = self._degraded()
        if degraded:
            return web.json_response({"status": "degraded", **({"reasons": degraded} if shown else {})})
        remarks = self._remarks()
        return web.json_response({"status": "ok", **({"notes": remarks} if remarks and shown else {})})


def _may_see_metrics(request: web.Request) -> bool:
    """Return True if the connection is plain, or its client has a verified certificate."""
    transport = request.transport
    return transport is not None and bool(
        transport.get_extra_info("sslcontext") is None or transport.get_extra_info("peercert")
    )


def _unauthorized(reason: str) -> web.Response:
    headers = {"WWW-Authenticate": 'Basic realm="milena", Bearer realm="milena"'}
    return web.json_response({"status": "unauthorized", "reasons": [reason]}, status=401, headers=headers)


def _is_ours(record: logging.LogRecord) -> bool:
    """Return False for records about malformed requests: the client gets a 400, and the log no line."""
    error = record.exc_info[1] if record.exc_info else None
    return not isinstance(error, HttpProcessingError)


def _peer_of(request: web.Request) -> str:
    peer = request.transport.get_extra_info("peername") if request.transport is not None else None
    return str(Address(*peer[:2])) if peer else "?"


def _job_error(error: MilenaError) -> web.Response:
    status = next((status for kind, status in _STATUS.items() if isinstance(error, kind)), 503)
    response = web.json_response({"error": str(error), "code": error.code}, status=status)
    if status == 401:
        response.headers["WWW-Authenticate"] = 'Basic realm="milena", Bearer realm="milena"'
    return response
