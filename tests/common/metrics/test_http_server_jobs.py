"""Jobs at the operators' HTTP port: who may begin them, what their clients see, and when they end."""

from __future__ import annotations

import asyncio
import json
from base64 import b64encode
from collections.abc import AsyncIterator, Mapping
from contextlib import asynccontextmanager
from typing import Any

import aiohttp
import pytest
from prometheus_client import CollectorRegistry

from milena_common.access.access import Access
from milena_common.access.acl_file import parse_users
from milena_common.access.principals import Principal
from milena_common.api.errors import AccessDenied, InvalidRequest, NodeLost
from milena_common.metrics import http_server
from milena_common.metrics.http_server import MAX_JOBS, OpsServer
from milena_common.network.addresses import Address
from milena_common.runtime.clock import SystemClock

USERS = b"user ops on >ops-password ~* +@all\nuser default on nopass ~* +@all\n"
LOGIN = {"Authorization": "Basic " + b64encode(b"ops:ops-password").decode()}
WRONG = {"Authorization": "Basic " + b64encode(b"ops:wrong").decode()}


class FakeJobs:
    """Jobs of as many parts as `parts`; the part behind them waits, or raises `error`."""

    def __init__(self) -> None:
        self.begun: list[tuple[str, dict[str, str], str]] = []
        self.parts = 2
        self.error: Exception | None = None
        self.waits = False
        self.closed = asyncio.Event()

    def begin(
        self, action: str, parameters: Mapping[str, str], principal: Principal, peer: str
    ) -> AsyncIterator[dict[str, Any]]:
        if action != "purge":
            raise InvalidRequest("action: allowed is purge")
        self.begun.append((action, dict(parameters), principal.name))
        return self._parts()

    async def _parts(self) -> AsyncIterator[dict[str, Any]]:
        try:
            for number in range(self.parts):
                yield {"changed": number}
            if self.error is not None:
                raise self.error
            if self.waits:
                await asyncio.Event().wait()
        finally:
            self.closed.set()


class Running:
    """A server with jobs. `users`: its file of users; b"" if no login is required."""

    def __init__(self, address: Address, jobs: FakeJobs, access: Access) -> None:
        self.jobs = jobs
        self.access = access
        self.url = f"http://{address}/jobs/"


@asynccontextmanager
async def running(users: bytes = USERS) -> AsyncIterator[Running]:
    jobs = FakeJobs()
    access = Access(SystemClock(), parse_users(users, "b")) if users else Access(SystemClock())
    server = OpsServer(CollectorRegistry(), list, access=access, jobs=jobs)
    address = await server.start(Address("127.0.0.1", 0), "METRICS_PORT")
    try:
        yield Running(address, jobs, access)
    finally:
        await server.stop()


async def post(url: str, **options: Any) -> tuple[int, list[dict[str, Any]]]:
    """Return the status, and the lines of the reply."""
    options.setdefault("headers", LOGIN)
    async with aiohttp.ClientSession() as session, session.post(url, **options) as reply:
        return reply.status, [json.loads(line) for line in (await reply.text()).splitlines()]


async def test_a_job_writes_a_line_for_each_part() -> None:
    async with running() as t:
        status, lines = await post(f"{t.url}purge?prefix=a%2Fb+c&dry_run=true")
        assert (status, lines) == (200, [{"changed": 0}, {"changed": 1}])
        assert t.jobs.begun == [("purge", {"prefix": "a/b c", "dry_run": "true"}, "ops")]


@pytest.mark.parametrize("users", [USERS, b""], ids=["a default user who may do everything", "no users"])
async def test_without_a_login_no_job_begins(users: bytes) -> None:
    async with running(users) as t:
        status, (error,) = await post(f"{t.url}purge?prefix=a", headers={})
        assert status == 401
        assert "ACL_FILE" in error["error"]
        status, _ = await post(f"{t.url}purge?prefix=a", headers=WRONG)
        assert status == 401
        assert t.jobs.begun == []


async def test_a_page_in_a_browser_begins_none() -> None:
    async with running() as t:
        status, _ = await post(f"{t.url}purge?prefix=a", headers={**LOGIN, "Origin": "https://elsewhere.example"})
        assert (status, t.jobs.begun) == (403, [])


@pytest.mark.parametrize("query", ["purge?prefix=a&prefix=b", "drop?prefix=a"])
async def test_a_wrong_request_says_what_is_allowed(query: str) -> None:
    async with running() as t:
        status, (error,) = await post(f"{t.url}{query}")
        assert (status, error["code"]) == (400, InvalidRequest("").code)
        assert "allowed is" in error["error"]


async def test_an_error_before_the_first_part_is_the_status_and_a_later_one_the_last_line() -> None:
    async with running() as t:
        t.jobs.parts, t.jobs.error = 0, AccessDenied("no")
        assert (await post(f"{t.url}purge?prefix=a"))[0] == 403
        t.jobs.parts, t.jobs.error = 1, NodeLost("a node is gone")
        status, lines = await post(f"{t.url}purge?prefix=a")
        assert (status, lines[0], lines[-1]["error"]) == (200, {"changed": 0}, "a node is gone")


async def test_a_job_ends_with_its_connection_also_while_it_waits() -> None:
    async with running() as t:
        t.jobs.waits = True
        async with aiohttp.ClientSession(headers=LOGIN) as session:
            reply = await session.post(f"{t.url}purge?prefix=a")
            await reply.content.readline()
            assert not t.jobs.closed.is_set()
            reply.close()
            await asyncio.wait_for(t.jobs.closed.wait(), 10)


async def test_a_job_ends_when_users_change() -> None:
    async with running() as t:
        t.jobs.waits = True
        async with aiohttp.ClientSession(headers=LOGIN) as session:
            reply = await session.post(f"{t.url}purge?prefix=a")
            await reply.content.readline()
            t.access.replace_users(parse_users(b"user other on >another-password ~* +@all", "b"))
            await asyncio.wait_for(t.jobs.closed.wait(), 10)
            reply.close()


async def test_jobs_are_few_and_their_connections_are_not_ended_for_others(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(http_server, "MAX_CONNECTION_SECONDS", 0.05)
    monkeypatch.setattr(http_server, "MAX_CONNECTIONS", 2)
    async with running() as t:
        t.jobs.waits = True
        async with aiohttp.ClientSession(headers=LOGIN) as session:
            replies = [await session.post(f"{t.url}purge?prefix=a") for _ in range(MAX_JOBS)]
            status, (error,) = await post(f"{t.url}purge?prefix=a")
            assert (status, str(MAX_JOBS) in error["error"]) == (503, True)
            for _ in range(5):
                async with session.get(t.url.replace("/jobs/", "/livez")) as live:
                    assert live.status == 200
            assert not t.jobs.closed.is_set(), "their connections are older than others may be"
            for reply in replies:
                reply.close()
