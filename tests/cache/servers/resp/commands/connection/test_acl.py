"""ACL, AUTH and HELLO AUTH: in whose name a connection makes its requests, and what it may do."""

from __future__ import annotations

from typing import Any

import pytest

from milena_common.access.access import LOGIN_BYTES, LOGIN_SECONDS, Tokens
from milena_common.access.acl_file import parse_users
from milena_common.api.errors import ConfigError
from milena_common.api.pb import cache_server_pb2 as pb
from milena_common.resp.encoding import command
from tests.cache.servers.resp.server_under_test import ServerUnderTest, WireClient
from tests.support.s3.memory_store import etag_of

WHOAMI = (b"ACL", b"WHOAMI")
DEFAULT = b"$7\r\ndefault\r\n"
FILE = b"""
user admin on >root ~* +@all
user app on >secret ~app/* %R~pub/* +@read +@write +@connection
user reader on >r1 >r2 %R~* +get +scan +client
user slow on >s ~* +@all rate:2
user heavy on >h ~* +@all bytes:1000
user gone off >x ~* +@all
user split on >p ~a* +get (~b* +set)
"""
WRONGPASS = b"-WRONGPASS invalid username-password pair or user is disabled.\r\n"


def guarded(content: bytes = FILE, *tokens: str, **node: Any) -> ServerUnderTest:
    server = ServerUnderTest(**node)
    access = server.servers.access
    access.replace_tokens(Tokens(tokens))
    access.protects_cluster = True
    access.replace_users(parse_users(content, server.t.buckets.default))
    return server


def logged_in(server: ServerUnderTest, name: bytes, password: bytes) -> WireClient:
    client = server.connect()
    assert client.now(b"AUTH", name, password) == b"+OK\r\n"
    return client


@pytest.mark.parametrize("line", [b"PING", b"AUTH default x", b"AUTH bob x", b"HELLO 2 AUTH default x", b"RESET"])
async def test_without_a_file_every_connection_is_the_default_user(line: bytes) -> None:
    client = ServerUnderTest().connect()
    client.now(*line.split())
    assert client.now(*WHOAMI) == DEFAULT
    assert client.session.plain
    assert client.session.guard is None


async def test_a_connection_has_its_user_until_it_logs_in_as_another_or_resets() -> None:
    server = guarded()
    client, other = server.connect(), logged_in(server, b"admin", b"root")
    client.now(b"AUTH", b"app", b"secret")
    assert client.now(*WHOAMI).startswith(b"-NOPERM User app has no permissions to run the 'acl|whoami' command")
    assert b" user=app " in client.now(b"CLIENT", b"INFO")
    assert client.now(b"HELLO", b"3", b"AUTH", b"admin", b"wrong") == WRONGPASS
    assert b" user=app " in client.now(b"CLIENT", b"INFO"), "a HELLO that fails changes nothing"
    assert client.now(b"HELLO", b"2", b"AUTH", b"admin", b"root", b"SETNAME", b"a b").startswith(b"-ERR Client")
    assert b" user=app " in client.now(b"CLIENT", b"INFO")
    client.now(b"HELLO", b"2", b"AUTH", b"admin", b"root")
    assert client.now(*WHOAMI) == b"$5\r\nadmin\r\n"
    client.now(b"RESET")
    assert client.now(b"PING").startswith(b"-NOAUTH ")
    app = logged_in(server, b"app", b"secret")
    assert other.now(b"CLIENT", b"KILL", b"USER", b"app") == b":1\r\n"
    assert app.transport.close_state
    assert other.now(b"CLIENT", b"KILL", b"USER", b"nosuch").startswith(b"-ERR No such user 'nosuch'")


@pytest.mark.parametrize("sent", [b"GET a", b"PING", b"CONFIG GET *", b"NOSUCH x", b"MILENA.CALL Get 1 x"])
async def test_nothing_is_done_before_a_login(sent: bytes) -> None:
    client = guarded().connect()
    assert client.now(*sent.split()).startswith(b"-NOAUTH ")
    assert client.now(b"HELLO", b"3").startswith(b"-NOAUTH HELLO must be called with")
    assert client.now(b"MILENA.HELLO", b"", b"", b"").startswith(b":")


@pytest.mark.parametrize(
    "login", [b"AUTH app wrong", b"AUTH nosuch secret", b"AUTH gone x", b"AUTH wrong", b"AUTH Bearer nosuch"]
)
async def test_a_wrong_login_is_rejected_and_counted(login: bytes) -> None:
    server = guarded()
    client = server.connect()
    assert client.now(*login.split()) == WRONGPASS
    assert sum(server.servers.access.failures.values()) == 1
    admin = logged_in(server, b"admin", b"root")
    assert b"auth" in admin.now(b"ACL", b"LOG")
    assert b"wrong" not in admin.now(b"ACL", b"LOG"), "no password is kept"


async def test_a_token_logs_in_the_user_that_has_it_as_password_and_the_cluster() -> None:
    server = guarded(FILE, "new", "old")
    client = server.connect()
    for token in (b"new", b"old"):
        assert client.now(b"AUTH", b"Bearer", token) == b"+OK\r\n"
        assert client.session.principal.is_cluster
        assert client.session.guard is None
    assert client.now(b"AUTH", b"Bearer", b"r2") == b"+OK\r\n"
    assert client.session.principal.name == "reader"


async def test_logins_wait_after_some_that_failed_and_the_commands_behind_them_too() -> None:
    server = guarded()
    client = server.connect()
    wrong = command(b"AUTH", b"app", b"x")
    client.send(wrong * 6 + command(b"AUTH", b"app", b"secret") + command(b"GET", b"app/1"))
    await client.idle()
    assert client.take() == WRONGPASS * 5, "five at once"
    await server.t.clock.advance(0.3)
    assert client.take() == WRONGPASS
    await server.t.clock.advance(0.3)
    assert client.take() == b"+OK\r\n$-1\r\n", "the command behind the login is that of its user"
    client.send(wrong * 40)
    other = server.connect()
    other.send(command(b"AUTH", b"app", b"secret"))
    await server.t.clock.advance(60)
    assert b"RATELIMIT" not in client.take()


async def test_permissions_are_checked_for_commands_and_keys() -> None:
    server = guarded()
    app = logged_in(server, b"app", b"secret")
    assert await app.request(b"SET", b"app/1", b"v") == b"+OK\r\n"
    assert app.now(b"GET", b"app/1") == b"$1\r\nv\r\n"
    for denied in (
        (b"GET", b"other"),
        (b"SET", b"pub/1", b"v"),
        (b"MGET", b"app/1", b"other"),
        (b"GETDEL", b"pub/1"),
        (b"GET", b"s3://elsewhere/app/1"),
        (b"SET", b"pub/1", b"v", b"GET"),
    ):
        assert app.now(*denied) == b"-NOPERM No permissions to access a key\r\n", denied
    for name in (b"CONFIG GET *", b"DEBUG SLEEP 0", b"ACL LIST", b"INFO", b"CLUSTER SLOTS"):
        assert app.now(*name.split()).startswith(b"-NOPERM User app has no permissions to run the '"), name
    assert app.now(b"NOSUCH").startswith(b"-ERR unknown command")


async def test_a_user_that_may_read_and_write_everything_keeps_the_fast_paths() -> None:
    server = guarded(b"user app on >p ~* +@all -@admin")
    app = logged_in(server, b"app", b"p")
    assert app.session.plain
    assert app.now(b"CONFIG", b"GET", b"*").startswith(b"-NOPERM")
    await server.warm(app, "k", b"v")


async def test_commands_between_nodes_are_for_the_cluster() -> None:
    server = guarded(FILE, "token")
    admin = logged_in(server, b"admin", b"root")
    cluster = logged_in(server, b"Bearer", b"token")
    for client in (admin, cluster):
        client.now(b"MILENA.HELLO", b"", b"", b"")
    calls = ((b"MILENA.PEEK", b"1", b"k"), (b"MILENA.HANDOVER", b"HOT", b"1"), (b"MILENA.RING", b"x"))
    for call in calls:
        assert admin.now(*call).startswith(b"-NOPERM User admin"), call
        assert not cluster.now(*call).startswith(b"-NOPERM User"), call


async def test_listings_show_what_may_be_read() -> None:
    server = guarded()
    for key in ("app/1", "pub/1", "other"):
        server.t.in_s3(key, b"v")
    app = logged_in(server, b"app", b"secret")
    assert await app.request(b"SCAN", b"0") == b"*2\r\n$1\r\n0\r\n*2\r\n$5\r\napp/1\r\n$5\r\npub/1\r\n"
    admin = logged_in(server, b"admin", b"root")
    await server.warm(admin, "other", b"v")
    assert app.now(b"RANDOMKEY") == b"$-1\r\n"
    assert admin.now(b"RANDOMKEY") == b"$5\r\nother\r\n"


async def test_invalidations_are_of_keys_that_may_be_read() -> None:
    server = guarded(FILE + b"user tracker on >t ~app/* +@all\n")
    tracker = logged_in(server, b"tracker", b"t")
    tracker.now(b"HELLO", b"3")
    assert tracker.now(b"CLIENT", b"TRACKING", b"ON", b"BCAST") == b"+OK\r\n"
    admin = logged_in(server, b"admin", b"root")
    assert await admin.request(b"SET", b"other", b"v") == b"+OK\r\n"
    assert await admin.request(b"SET", b"app/1", b"v") == b"+OK\r\n"
    await tracker.idle()
    pushed = tracker.take()
    assert b"app/1" in pushed
    assert b"other" not in pushed


async def test_limits_of_users_are_shared_by_their_connections() -> None:
    server = guarded()
    one, two = logged_in(server, b"slow", b"s"), logged_in(server, b"slow", b"s")
    await one.request(b"GET", b"a")
    await two.request(b"GET", b"a")
    assert one.now(b"GET", b"a").startswith(b"-RATELIMIT retry-after-ms=")
    heavy = logged_in(server, b"heavy", b"h")
    assert await heavy.request(b"SET", b"a", b"v" * 5000) == b"+OK\r\n"
    assert heavy.now(b"GET", b"a").startswith(b"-RATELIMIT retry-after-ms=")


async def test_a_new_table_is_that_of_open_connections() -> None:
    server = guarded()
    app, reader = logged_in(server, b"app", b"secret"), logged_in(server, b"reader", b"r1")
    access = server.servers.access
    access.replace_users(parse_users(b"user app on >secret ~* +@all\nuser reader on >r2 ~* +@all"))
    assert app.session.plain
    assert await app.request(b"GET", b"other") == b"$-1\r\n"
    assert reader.transport.close_state, "its password is gone"


async def test_passwords_are_replaced_under_load_without_a_failed_request() -> None:
    server = guarded(b"user app on >p0 ~* +@all")
    access = server.servers.access
    client = logged_in(server, b"app", b"p0")
    for number in range(1, 51):
        old, new = b"p%d" % (number - 1), b"p%d" % number
        access.replace_users(parse_users(b"user app on >%b >%b ~* +@all" % (old, new)))
        assert await client.request(b"SET", b"k", new) == b"+OK\r\n"
        newer = logged_in(server, b"app", new)
        client.send(command(b"SET", b"k", b"in flight"))
        access.replace_users(parse_users(b"user app on >%b ~* +@all" % new))
        assert await client.replies(1) == b"+OK\r\n", "what was in flight has its reply"
        await client.idle()
        assert client.transport.close_state
        assert await newer.request(b"GET", b"k") == b"$9\r\nin flight\r\n"
        client = newer


async def test_what_has_not_logged_in_is_ended_by_time_and_by_size() -> None:
    server = guarded()
    silent, large = server.connect(), server.connect()
    large.send(b"*2\r\n$3\r\nGET\r\n$%d\r\n" % 10**6)
    large.send(b"x" * LOGIN_BYTES)
    assert large.transport.close_state == "aborted"
    server.server.sweep()
    assert not silent.transport.close_state
    await server.t.clock.advance(LOGIN_SECONDS + 0.1)
    server.server.sweep()
    assert silent.transport.close_state == "aborted"
    assert server.servers.access.failures["resp", "timeout"] == 2


async def test_the_table_is_shown_as_redis_shows_it() -> None:
    server = guarded()
    admin = logged_in(server, b"admin", b"root")
    listed = admin.now(b"ACL", b"LIST")
    assert b"user split on #" in listed
    assert b"~a* -@all +get (~b* -@all +set)" in listed
    assert b"secret" not in listed
    assert b"$3\r\napp\r\n" in admin.now(b"ACL", b"USERS")
    assert b"%R~pub/*" in admin.now(b"ACL", b"GETUSER", b"app")
    assert admin.now(b"ACL", b"GETUSER", b"nosuch") in (b"$-1\r\n", b"*-1\r\n", b"_\r\n")
    assert b"$7\r\nscripting" not in admin.now(b"ACL", b"CAT", b"read")
    assert admin.now(b"ACL", b"CAT", b"nosuch").startswith(b"-ERR Unknown category")
    assert len(admin.now(b"ACL", b"GENPASS")) == 64 + 7
    assert len(admin.now(b"ACL", b"GENPASS", b"5")) == 2 + 6
    assert admin.now(b"ACL", b"GENPASS", b"0").startswith(b"-ERR ACL GENPASS argument must be")


async def test_dryrun_and_log_say_what_is_denied() -> None:
    server = guarded()
    admin, app = logged_in(server, b"admin", b"root"), logged_in(server, b"app", b"secret")
    assert admin.now(b"ACL", b"DRYRUN", b"app", b"GET", b"app/1") == b"+OK\r\n"
    assert b"no permissions to access the 'x' key" in admin.now(b"ACL", b"DRYRUN", b"app", b"MGET", b"app/1", b"x")
    assert b"no permissions to run the 'info'" in admin.now(b"ACL", b"DRYRUN", b"app", b"INFO")
    assert admin.now(b"ACL", b"DRYRUN", b"nosuch", b"GET", b"a").startswith(b"-ERR User 'nosuch' not found")
    assert admin.now(b"ACL", b"DRYRUN", b"app", b"NOSUCH").startswith(b"-ERR Command 'NOSUCH' not found")
    assert admin.now(b"ACL", b"LOG") == b"*0\r\n", "a dry run is no rejection"
    for _ in range(3):
        app.now(b"GET", b"x")
    log = admin.now(b"ACL", b"LOG", b"1")
    assert b"$5\r\ncount\r\n:3\r\n" in log
    assert b"$3\r\nkey\r\n" in log
    assert admin.now(b"ACL", b"LOG", b"RESET") == b"+OK\r\n"
    assert admin.now(b"ACL", b"LOG") == b"*0\r\n"


async def test_users_are_changed_in_the_file_only() -> None:
    server = guarded()
    admin = logged_in(server, b"admin", b"root")
    for change in (b"ACL SETUSER bob on", b"ACL DELUSER app", b"ACL SAVE"):
        assert b"users are in the file ACL_FILE" in admin.now(*change.split())
    assert admin.now(b"ACL", b"LOAD").startswith(b"-ERR This Milena node is not configured to use an ACL file")

    def load() -> None:
        raise ConfigError(["ACL_FILE: line 3: no"])

    server.servers.access.load = load
    assert b"ACL_FILE: line 3: no. The users stay as they were" in admin.now(b"ACL", b"LOAD")
    assert b"WHOAMI" in admin.now(b"ACL", b"HELP")


TOKEN = "the-token-of-this-cluster"


def put_for(user: bytes, key: bytes, size: int = 1) -> tuple[bytes, ...]:
    request = pb.PutRequest(key=key, value=b"v" * size).SerializeToString()
    return b"MILENA.CALL", b"Put", b"5000", request, b"", user


def get_for(user: bytes, key: bytes) -> tuple[bytes, ...]:
    return b"MILENA.CALL", b"Get", b"5000", pb.GetRequest(key=key).SerializeToString(), b"", user


async def test_what_a_router_forwards_has_the_permissions_and_limits_of_its_user() -> None:
    server = guarded(FILE, TOKEN)
    router = logged_in(server, b"Bearer", TOKEN.encode())
    assert pb.PutResponse.FromString(await router.value(*put_for(b"app", b"app/1"))).successful
    assert pb.GetResponse.FromString(await router.value(*get_for(b"app", b"app/1"))).value == b"v"
    assert str(await router.value(*put_for(b"app", b"pub/1"))) == "NOPERM No permissions to access a key"
    rejection = server.servers.access.log.entries[0]
    assert (rejection.user, rejection.what) == ("app", "pub/1")
    listed = (b"MILENA.CALL", b"List", b"5000", pb.ListRequest().SerializeToString(), b"", b"app")
    await router.value(*put_for(b"admin", b"other"))
    page = pb.ListResponse.FromString(await router.value(*listed))
    assert [each.key for each in page.objects] == [b"app/1"]
    for _ in range(2):
        assert isinstance(await router.value(*get_for(b"slow", b"app/1")), bytes)
    assert str(await router.value(*get_for(b"slow", b"app/1"))).startswith("RATELIMIT ")
    await router.value(*put_for(b"heavy", b"large", 3000))
    assert str(await router.value(*get_for(b"heavy", b"app/1"))).startswith("RATELIMIT ")
    for unknown in (b"gone", b"other_user", b"\xff"):
        assert "does not know" in str(await router.value(*get_for(unknown, b"app/1")))
    # Without a user it is the cluster's own call.
    assert isinstance(await router.value(*put_for(b"", b"pub/1")[:4]), bytes)
    assert "wrong number" in str(await router.value(*put_for(b"app", b"app/1"), b"more"))


async def test_blocks_of_a_large_object_need_the_permission_to_read_the_object() -> None:
    server = guarded(block_threshold=100, block_bytes=10)
    value = bytes(range(200))
    server.t.in_s3("app/1", value)
    server.t.in_s3("other", value)

    def blocks_of(key: bytes) -> tuple[bytes, ...]:
        blocks = pb.BlockRead(size=200, group_bytes=80)
        request = pb.GetRequest(key=key, offset=80, length=20, if_match=etag_of(value), blocks=blocks)
        return b"MILENA.CALL", b"Get", b"5000", request.SerializeToString()

    client = logged_in(server, b"app", b"secret")
    for _ in range(2):
        assert pb.GetResponse.FromString(await client.value(*blocks_of(b"app/1"))).value == value[80:100]
        assert str(await client.value(*blocks_of(b"other"))) == "NOPERM No permissions to access a key"
        admin = logged_in(server, b"admin", b"root")
        assert pb.GetResponse.FromString(await admin.value(*blocks_of(b"other"))).value == value[80:100]
    assert server.t.parts.part_reads.direct == 4
    assert str(await server.connect().value(*blocks_of(b"other"))).startswith("NOAUTH ")


async def test_users_make_no_calls_for_others() -> None:
    server = guarded(FILE, TOKEN)
    attempts = ((b"app", b"secret", b"admin"), (b"admin", b"root", b"app"), (b"app", b"secret", b"app"))
    for name, password, end_user in attempts:
        client = logged_in(server, name, password)
        rejected = str(await client.value(*put_for(end_user, b"app/1")))
        assert rejected == f"NOPERM User {name.decode()} may not make requests for other users"
    assert str(await server.connect().value(*put_for(b"admin", b"app/1"))).startswith("NOAUTH ")


async def test_channels_are_those_of_the_rules() -> None:
    server = guarded(b"user app on >p ~* &news:* +@all -@admin\nuser none on >p ~* +@all")
    client = server.connect()
    client.now(b"AUTH", b"app", b"p")
    assert b":1" in client.now(b"SUBSCRIBE", b"news:a")
    assert b":2" in client.now(b"PSUBSCRIBE", b"news:*")
    other = server.connect()
    other.now(b"AUTH", b"app", b"p")
    for line in (
        b"SUBSCRIBE other",
        b"PSUBSCRIBE news:a*",
        b"PUBLISH other x",
        b"SSUBSCRIBE other",
        b"SPUBLISH other x",
    ):
        assert other.now(*line.split()) == b"-NOPERM No permissions to access a channel\r\n", line
    assert other.now(b"PUBLISH", b"news:a", b"x") == b":2\r\n"
    other_user = server.connect()
    other_user.now(b"AUTH", b"none", b"p")
    assert other_user.now(b"PUBLISH", b"news:a", b"x").startswith(b"-NOPERM")
    assert b":1" in other_user.now(b"SUBSCRIBE", b"__redis__:invalidate"), "which has its own invalidations"
    users = server.context.permissions.access
    users.replace_users(parse_users(b"user app on >p ~* &news:* +@all -psubscribe\nuser none on >p ~* +@all"))
    assert client.transport.close_state, "it may not keep its pattern"
    assert not other_user.transport.close_state
