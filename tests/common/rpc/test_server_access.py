"""Logins over gRPC: nothing is read before one, a call has its user's permissions, a new table counts at once."""

from __future__ import annotations

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager, suppress
from pathlib import Path

import grpc
import pytest

from milena_common.access.access import Access, Tokens
from milena_common.access.acl_file import parse_users
from milena_common.access.api_guard import ApiGuard
from milena_common.access.principals import END_USER
from milena_common.api.credentials import END_USER_METADATA, Credentials
from milena_common.api.errors import AccessDenied, RateLimited, Unauthenticated
from milena_common.api.pb import cache_server_pb2 as pb
from milena_common.limits.byte_budget import ByteBudget
from milena_common.metrics.call_counts import CallCounts
from milena_common.network.addresses import Address
from milena_common.rpc.server import GrpcServer
from milena_common.rpc.status import from_grpc
from milena_common.tls.certificates import Certificates
from tests.support.certificates import Authority, write_files
from tests.support.fake_clock import FakeClock

SERVICE = "cache_server.Cache"
FILE = b"user app on >secret ~app/* +get +set +scan\nuser slow on >slow ~* +get rate:1\n"
APP = Credentials("app", "secret")


class Guarded:
    """A server with Get, Put and List, and users."""

    def __init__(self, access: Access, channel: grpc.aio.Channel) -> None:
        self.access = access
        self.channel = channel
        self.received: list[object] = []

    async def method(self, request: object, _: float | None) -> bytes:
        self.received.append(request)
        self.end_user = END_USER.get()
        if isinstance(request, pb.ListRequest):
            return pb.ListResponse(objects=[pb.ObjectInfo(key=key) for key in (b"app/1", b"x")]).SerializeToString()
        return b"done"

    async def call(
        self, method: str, request: object, credentials: Credentials | None, end_user: str = ""
    ) -> bytes:
        """The reply; raises what it means."""
        metadata: list[tuple[str, str | bytes]] = []
        if credentials is not None:
            metadata += credentials.call_metadata()
        if end_user:
            metadata.append((END_USER_METADATA, end_user.encode()))
        try:
            stub = self.channel.unary_unary(f"/{SERVICE}/{method}")
            return bytes(await stub(request.SerializeToString(), timeout=10, metadata=metadata))  # type: ignore[attr-defined]
        except grpc.aio.AioRpcError as error:
            raise from_grpc(error.code(), error.details(), error.trailing_metadata()) from None


@asynccontextmanager
async def guarded(content: bytes = FILE) -> AsyncIterator[Guarded]:
    access = Access(FakeClock(), parse_users(content), Tokens(("the-token",)))
    server = GrpcServer(SERVICE, 10**6, ByteBudget(10**8), 5, guard=ApiGuard(access, lambda: "main", lambda: 0.0))
    address = server.bind(Address("127.0.0.1", 0), "LISTEN_ADDR")
    async with grpc.aio.insecure_channel(str(address)) as channel:
        running = Guarded(access, channel)
        messages = {
            "Get": pb.GetRequest,
            "Put": pb.PutRequest,
            "List": pb.ListRequest,
            "Invalidate": pb.InvalidateRequest,
        }
        await server.start(
            {name: ("get", message, running.method) for name, message in messages.items()}, CallCounts(("get",))
        )
        try:
            yield running
        finally:
            await server.stop(0)


async def test_a_call_has_the_permissions_of_its_user() -> None:
    async with guarded() as server:
        for _ in range(2):  # the first call logs in, the next ones are known
            assert await server.call("Get", pb.GetRequest(key=b"app/1"), APP) == b"done"
            assert await server.call("Put", pb.PutRequest(key=b"app/1", value=b"v" * 100_000), APP) == b"done"
            with pytest.raises(AccessDenied):
                await server.call("Put", pb.PutRequest(key=b"x", value=b"v"), APP)
        assert await server.call("Get", pb.GetRequest(key=b"app/1"), Credentials.of_token("secret")) == b"done"
        page = pb.ListResponse.FromString(await server.call("List", pb.ListRequest(), APP))
        assert [each.key for each in page.objects] == [b"app/1"]
        with pytest.raises(AccessDenied):
            await server.call("Invalidate", pb.InvalidateRequest(key=b"app/1"), APP)
        cluster = Credentials.of_token("the-token")
        assert await server.call("Invalidate", pb.InvalidateRequest(key=b"app/1"), cluster) == b"done"


@pytest.mark.parametrize("credentials", [None, Credentials("app", "wrong"), Credentials.of_token("wrong")])
async def test_without_a_right_login_no_method_is_called(credentials: Credentials | None) -> None:
    async with guarded() as server:
        for method, request in (("Get", pb.GetRequest()), ("Put", pb.PutRequest(value=b"v" * 500_000))):
            with pytest.raises(Unauthenticated):
                await server.call(method, request, credentials)
        assert server.received == []
        assert sum(server.access.failures.values()) == 2


async def test_a_new_table_counts_for_the_next_call() -> None:
    async with guarded() as server:
        assert await server.call("Get", pb.GetRequest(key=b"app/1"), APP) == b"done"
        server.access.replace_users(parse_users(b"user app on >secret ~other/* +get"))
        with pytest.raises(AccessDenied):
            await server.call("Get", pb.GetRequest(key=b"app/1"), APP)
        server.access.replace_users(parse_users(b"user app on >new ~* +get"))
        with pytest.raises(Unauthenticated):
            await server.call("Get", pb.GetRequest(key=b"app/1"), APP)


async def test_limits_of_users_have_a_retry_hint() -> None:
    async with guarded() as server:
        slow = Credentials("slow", "slow")
        assert await server.call("Get", pb.GetRequest(key=b"a"), slow) == b"done"
        with pytest.raises(RateLimited) as raised:
            await server.call("Get", pb.GetRequest(key=b"a"), slow)
        assert raised.value.retry_after == 1


async def test_a_client_certificate_is_a_login_too(tmp_path: Path) -> None:
    authority = Authority()
    files = write_files(tmp_path, authority.pem, authority.issue(), client_auth="required")
    access = Access(FakeClock(), parse_users(FILE), cluster_names=("spiffe://milena/*",))
    server = GrpcServer(SERVICE, 10**6, ByteBudget(10**8), 5, guard=ApiGuard(access, lambda: "main", lambda: 0.0))
    address = server.bind(Address("127.0.0.1", 0), "LISTEN_ADDR", Certificates(files))

    async def method(_: object, __: float | None) -> bytes:
        return b"done"

    messages = {"Get": pb.GetRequest, "Invalidate": pb.InvalidateRequest}
    await server.start({name: ("get", message, method) for name, message in messages.items()}, CallCounts(("get",)))
    try:
        for pair, key, allowed in (
            (authority.issue("app"), b"app/1", ["Get"]),
            (authority.issue("other", hosts=["app"]), b"app/1", ["Get"]),
            (authority.issue("app"), b"x", []),
            (authority.issue("unknown"), b"app/1", []),
            (authority.issue("x", uris=["spiffe://milena/cache"]), b"x", ["Get", "Invalidate"]),
        ):
            shown = grpc.ssl_channel_credentials(authority.pem, pair[1], pair[0])
            async with grpc.aio.secure_channel(str(address), shown) as channel:
                client = Guarded(access, channel)
                done = []
                for name, message in messages.items():
                    with suppress(AccessDenied, Unauthenticated):
                        await client.call(name, message(key=key), None)
                        done.append(name)
                assert done == allowed
    finally:
        await server.stop(0)


async def test_a_process_of_the_cluster_makes_calls_for_users() -> None:
    cluster = Credentials.of_token("the-token")
    async with guarded(FILE + "user jörg on >pw ~* +get".encode()) as server:
        for _ in range(2):
            assert await server.call("Put", pb.PutRequest(key=b"app/1"), cluster, "app") == b"done"
            with pytest.raises(AccessDenied, match="access a key"):
                await server.call("Put", pb.PutRequest(key=b"x"), cluster, "app")
            assert await server.call("Get", pb.GetRequest(key=b"x"), cluster, "jörg") == b"done"
            with pytest.raises(Unauthenticated, match="does not know"):
                await server.call("Get", pb.GetRequest(key=b"x"), cluster, "nobody")
            with pytest.raises(AccessDenied, match="may not make requests for other users"):
                await server.call("Get", pb.GetRequest(key=b"app/1"), APP, "jörg")
        assert await server.call("Get", pb.GetRequest(key=b"x"), cluster, "slow") == b"done"
        with pytest.raises(RateLimited):
            await server.call("Get", pb.GetRequest(key=b"x"), cluster, "slow")


async def test_methods_know_for_whom_they_are_called() -> None:
    async with guarded() as server:
        await server.call("Get", pb.GetRequest(key=b"app/1"), APP)
        assert server.end_user == "app"
        await server.call("Invalidate", pb.InvalidateRequest(key=b"x"), Credentials.of_token("the-token"))
        assert server.end_user == ""


async def test_bytes_of_a_user_with_a_certificate_count_where_the_default_user_needs_no_login(
    tmp_path: Path,
) -> None:
    authority = Authority()
    files = write_files(tmp_path, authority.pem, authority.issue(), client_auth="required")
    content = b"user default on nopass ~* +get\nuser heavy on ~* +get bytes:1000\n"
    access = Access(FakeClock(), parse_users(content))
    server = GrpcServer(SERVICE, 10**6, ByteBudget(10**8), 5, guard=ApiGuard(access, lambda: "main", lambda: 0.0))
    address = server.bind(Address("127.0.0.1", 0), "LISTEN_ADDR", Certificates(files))

    async def method(_: object, __: float | None) -> bytes:
        return b"v" * 3000

    await server.start({"Get": ("get", pb.GetRequest, method)}, CallCounts(("get",)))
    pair = authority.issue("heavy")
    shown = grpc.ssl_channel_credentials(authority.pem, pair[1], pair[0])
    try:
        async with grpc.aio.secure_channel(str(address), shown) as channel:
            client = Guarded(access, channel)
            assert len(await client.call("Get", pb.GetRequest(key=b"k"), None)) == 3000
            with pytest.raises(RateLimited):
                await client.call("Get", pb.GetRequest(key=b"k"), None)
    finally:
        await server.stop(0)
