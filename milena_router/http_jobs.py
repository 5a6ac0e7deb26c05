"""Coordination. Jobs on all keys below a prefix that are begun over HTTP, at the port of metrics and health.

They are those of `Admin`, whose calls are made to the router's own service, each with the permission that it needs
over gRPC. Nothing of a job runs but the call in progress, so that it ends with its connection.
"""

from __future__ import annotations

from collections.abc import AsyncIterator, Mapping
from dataclasses import asdict
from math import isfinite
from typing import Any, Final

from milena_client.aio.admin import AsyncAdmin
from milena_client.core.jobs import Swept, Warmed
from milena_common.access.api_guard import ApiGuard
from milena_common.access.principals import END_USER, Principal
from milena_common.api.errors import InvalidRequest, MilenaError
from milena_common.api.keys import MAX_KEY_BYTES
from milena_common.api.methods import METHODS
from milena_common.metrics.call_counts import CallCounts
from milena_common.metrics.http_server import PORT
from milena_common.rpc.calls import Message, Method
from milena_common.runtime.clock import Clock

ACTIONS: Final = ("warm", "pin", "unpin", "purge", "invalidate")
PARAMETERS: Final = ("prefix", "bucket", "rate", "dry_run")
_RESPONSES: Final = {method.name: method.router.response for method in METHODS if method.router}


class OwnService:
    """The calls of one caller to the router's own service; implements `AsyncTransport`. `peer`: its address."""

    def __init__(
        self,
        methods: Mapping[str, tuple[str, type[Message], Method]],
        guard: ApiGuard,
        calls: CallCounts,
        clock: Clock,
        principal: Principal,
        peer: str,
    ) -> None:
        self._methods = methods
        self._guard = guard
        self._calls = calls
        self._clock = clock
        self._principal = principal
        self._peer = peer

    async def call(self, method: str, request: Any, timeout: float) -> Any:
        """Return the response to a method that the caller may use, and count it as one over gRPC."""
        END_USER.set(self._guard.access.forwarded_name(self._principal))
        filtered = self._guard.authorize(self._principal, method, request, self._peer, PORT)
        operation, _, handler = self._methods[method]
        counts, began = self._calls[operation], self._clock.now()
        counts.requests += 1
        try:
            response = await handler(request, timeout)
        except MilenaError as error:
            counts.count_error(error.code)
            raise
        finally:
            counts.durations.observe(self._clock.now() - began)
        return _RESPONSES[method].FromString(response if filtered is None else filtered(response))

    async def close(self) -> None:
        """Do nothing: there is no connection."""


class HttpJobs:
    """The jobs of one router. `methods` are those of its gRPC service, by name."""

    def __init__(
        self,
        methods: Mapping[str, tuple[str, type[Message], Method]],
        guard: ApiGuard,
        calls: CallCounts,
        clock: Clock,
    ) -> None:
        self._methods = methods
        self._guard = guard
        self._calls = calls
        self._clock = clock

    def begin(
        self, action: str, parameters: Mapping[str, str], principal: Principal, peer: str
    ) -> AsyncIterator[dict[str, Any]]:
        """Return the progress of a job, which goes on while it is iterated over. Raises InvalidRequest.

        The iterator raises as the methods of the API: AccessDenied before anything is done.
        """
        if action not in ACTIONS:
            raise InvalidRequest(f"action: got {action[:80]!r}; allowed: {', '.join(ACTIONS)}")
        for name in parameters:
            if name not in PARAMETERS:
                raise InvalidRequest(f"{name[:80]}: is no parameter; allowed: {', '.join(PARAMETERS)}")
        if "prefix" not in parameters:
            raise InvalidRequest("prefix: is missing; allowed is what keys begin with, and `prefix=` for all keys")
        size = len(parameters["prefix"].encode(errors="surrogatepass"))
        if size > MAX_KEY_BYTES:
            raise InvalidRequest(f"prefix: has {size} bytes; allowed are at most {MAX_KEY_BYTES}")
        service = OwnService(self._methods, self._guard, self._calls, self._clock, principal, peer)
        admin = AsyncAdmin(bucket=parameters.get("bucket", ""), transport=service, clock=self._clock)
        job: AsyncIterator[Swept | Warmed] = getattr(admin, action)(
            parameters["prefix"], rate=_rate(parameters.get("rate")), dry_run=_is_dry_run(parameters.get("dry_run"))
        )
        return _progress(job)


async def _progress(job: Any) -> AsyncIterator[dict[str, Any]]:
    try:
        async for progress in job:
            yield asdict(progress)
    finally:
        # Ends the job at the nodes too, wherever it is.
        await job.aclose()


def _rate(text: str | None) -> float | None:
    if text is None:
        return None
    try:
        rate = float(text)
    except ValueError:
        rate = 0.0
    if not (isfinite(rate) and rate > 0):
        raise InvalidRequest(f"rate: got {text[:80]!r}; allowed are numbers over 0, of objects a second")
    return rate


def _is_dry_run(text: str | None) -> bool:
    if text not in (None, "true", "false"):
        raise InvalidRequest(f"dry_run: got {text[:80]!r}; allowed: true, false")
    return text == "true"
