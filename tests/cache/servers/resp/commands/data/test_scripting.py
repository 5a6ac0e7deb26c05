"""Scripts as commands: atomic functions of the keys that they declare."""

from __future__ import annotations

import sys
from typing import Any

import pytest

from milena_common.access.acl_file import parse_users
from milena_common.access.commands import CALLED_BY_SCRIPTS
from milena_common.forwarding.scripts import MAX_SCRIPTS, MAX_SOURCE_BYTES, Scripts, digest_of
from milena_common.resp.redis_replies import CommandError
from tests.cache.node_under_test import BUCKET
from tests.cache.servers.resp.server_under_test import ServerUnderTest
from tests.support.fake_clock import run_ready_tasks

USERS = b"""
user all on >x ~own/* +@all
user reads on >x %R~own/* +@all
user most on >x ~own/* +@all -del
user none on >x ~own/* +@read +@write -@scripting
"""
CLASSES = pytest.mark.parametrize("durability", ["back", "memory"])


@pytest.fixture(autouse=True)
def lua() -> None:
    pytest.importorskip("lupa.lua54")


async def started(durability: str = "back") -> ServerUnderTest:
    server = ServerUnderTest(mode=durability)
    await server.t.start()
    return server


@CLASSES
async def test_it_reads_and_writes_all_of_its_keys_by_one_commit(durability: str) -> None:
    server = await started(durability)
    client = server.connect()
    server.t.in_s3("a", b"7")
    source = b"""
        redis.call('incr', KEYS[1])
        redis.call('setex', KEYS[2], 100, redis.call('get', KEYS[1]))
        redis.call('del', KEYS[3])
        return {redis.call('pttl', KEYS[2]) > 99000, redis.call('mget', KEYS[1], KEYS[2], KEYS[3]), ARGV[1]}
    """
    await client.value(b"SET", b"c", b"x")
    commits = server.t.disk.commits
    reply = await client.value(b"EVAL", source, b"3", b"a", f"s3://{BUCKET}/b".encode(), b"c", b"y")
    assert reply == [1, [b"8", b"8", None], b"y"]
    assert server.t.disk.commits - commits <= 1
    assert await client.value(b"MGET", b"a", b"b", b"c") == [b"8", b"8", None]
    await server.t.stop()


@CLASSES
async def test_in_a_transaction_it_is_one_of_the_commands(durability: str) -> None:
    server = await started(durability)
    client = server.connect()
    server.t.in_s3("a", b"7")
    digest = await client.value(b"SCRIPT", b"LOAD", b"return redis.call('incr', KEYS[1])")
    commits = server.t.disk.commits
    for argv in (
        (b"MULTI",),
        (b"INCR", b"a"),
        (b"EVAL", b"redis.call('append', KEYS[1], ARGV[1]) return {redis.call('get', KEYS[1])}", b"1", b"a", b"0"),
        (b"EVALSHA", digest, b"1", f"s3://{BUCKET}/a".encode()),
        (b"EVAL", b"redis.call('set', KEYS[1], 5) return redis.error_reply('ERR mine')", b"1", b"b"),
        (b"EVAL_RO", b"return {KEYS[1], redis.call('get', KEYS[1])}", b"1", f"s3://{BUCKET}/a".encode()),
        (b"EVAL", b"return #ARGV", b"0", b"x"),
        (b"ECHO", b"end"),
    ):
        await client.value(*argv)
    reply = await client.value(b"EXEC")
    assert [reply[0], reply[1], reply[2], *reply[4:]] == [
        8,
        [b"80"],
        81,
        [f"s3://{BUCKET}/a".encode(), b"81"],
        1,
        b"end",
    ]
    assert "mine" in str(reply[3])
    assert server.t.disk.commits - commits <= 1
    # What a script has written before its error stays, as in Redis.
    assert await client.value(b"MGET", b"a", b"b") == [b"81", b"5"]
    await server.t.stop()


@pytest.mark.parametrize(
    ("source", "said"),
    [
        (b"redis.call('set', KEYS[1], 1) while true do end", "the script was stopped"),
        (b"redis.call('set', KEYS[1], 'too long')", "the script writes more than"),
    ],
)
async def test_a_script_that_is_stopped_leaves_nothing_of_its_transaction_done(
    monkeypatch: pytest.MonkeyPatch, source: bytes, said: str
) -> None:
    monkeypatch.setattr("milena_cache.servers.resp.scripts.calls.MAX_WRITTEN_BYTES", 5)
    server = await started("memory")
    client = server.connect()
    await client.value(b"SET", b"a", b"before")
    await client.value(b"MULTI")
    await client.value(b"SET", b"b", b"1")
    await client.value(b"EVAL", source, b"1", b"a")
    assert said in str(await client.value(b"EXEC"))
    assert await client.value(b"MGET", b"a", b"b") == [b"before", None]
    await server.t.stop()


async def test_a_script_reads_what_a_failed_set_before_it_was_to_replace() -> None:
    server = await started("memory")
    client = server.connect()
    server.t.in_s3("a", b"7")
    await client.value(b"MULTI")
    await client.value(b"SET", b"a", b"x", b"EX", b"0")
    await client.value(b"EVAL", b"return redis.call('get', KEYS[1])", b"1", b"a")
    reply = await client.value(b"EXEC")
    assert "invalid expire time" in str(reply[0])
    assert reply[1] == b"7"
    await server.t.stop()


async def test_scripts_of_a_transaction_have_a_time_together(monkeypatch: pytest.MonkeyPatch) -> None:
    server = await started("memory")
    client = server.connect()
    sandbox = server.context.sandbox()
    run = sandbox.run

    def slowly(*arguments: Any) -> Any:
        server.t.clock.tick(0.06)
        return run(*arguments)

    monkeypatch.setattr(sandbox, "run", slowly)
    for number, said in ((2, [1, 1]), (3, "more than 0.1 s together; nothing was done")):
        await client.value(b"MULTI")
        for _ in range(number):
            await client.value(b"EVAL", b"redis.call('incr', KEYS[1]) return 1", b"1", b"a")
        reply = await client.value(b"EXEC")
        assert reply == said if isinstance(said, list) else said in str(reply)
    assert await client.value(b"GET", b"a") == b"2"
    await server.t.stop()


async def test_a_script_in_a_transaction_has_its_errors_when_it_is_carried_out() -> None:
    server = await started("memory")
    client = server.connect()
    await client.value(b"MULTI")
    for argv in (
        (b"EVALSHA", b"0" * 40, b"0"),
        (b"EVAL", b"return 1", b"2", b"a"),
        (b"EVAL", b"return 1", b"-1"),
        (b"SET", b"a", b"1"),
    ):
        assert await client.value(*argv) == b"QUEUED"
    reply = await client.value(b"EXEC")
    assert [str(each).partition(" ")[0] for each in reply[:3]] == ["NOSCRIPT", "ERR", "ERR"]
    assert reply[3] == b"OK"
    await client.value(b"MULTI")
    assert (await client.request(b"EVAL", b"return 1", b"1", b"s3://no-such/a")).startswith(b"-NOPERM")
    assert (await client.request(b"EXEC")).startswith(b"-EXECABORT")
    await server.t.stop()


async def test_a_read_only_script_reads_and_cannot_write() -> None:
    server = await started()
    client = server.connect()
    await client.value(b"SET", b"a", b"1")
    assert await client.value(b"EVAL_RO", b"return redis.call('get', KEYS[1])", b"1", b"a") == b"1"
    error = await client.value(b"EVAL_RO", b"return redis.call('incr', KEYS[1])", b"1", b"a")
    assert "Write commands are not allowed from read-only scripts" in str(error)
    digest = await client.value(b"SCRIPT", b"LOAD", b"return redis.pcall('del', KEYS[1])")
    assert "Write commands are not allowed" in str(await client.value(b"EVALSHA_RO", digest, b"1", b"a"))
    assert "NOSCRIPT" in str(await client.value(b"EVALSHA_RO", b"0" * 40, b"1", b"a"))
    assert await client.value(b"GET", b"a") == b"1"
    await server.t.stop()


def test_a_script_is_forwarded_by_its_source_in_the_form_in_which_it_was_called() -> None:
    scripts = Scripts()
    digest = scripts.add(b"return 1")
    assert scripts.as_eval([b"evalsha_ro", digest, b"0"]) == [b"EVAL_RO", b"return 1", b"0"]
    assert scripts.as_eval([b"EVALSHA", digest, b"0"]) == [b"EVAL", b"return 1", b"0"]
    assert scripts.as_eval([b"EVAL_RO", b"return 2", b"0"]) == [b"EVAL_RO", b"return 2", b"0"]


async def test_its_writes_are_seen_when_they_are_durable_and_not_before() -> None:
    server = await started()
    client, other = server.connect(), server.connect()
    server.t.disk.gate.clear()
    client.send(b"EVAL \"redis.call('set', KEYS[1], 1) redis.call('set', KEYS[2], 2)\" 2 a b\r\n")
    await run_ready_tasks()
    assert await other.value(b"MGET", b"a", b"b") == [None, None]
    server.t.disk.gate.set()
    assert await client.replies(1) == b"$-1\r\n"
    assert await other.value(b"MGET", b"a", b"b") == [b"1", b"2"]
    await server.t.stop()


@CLASSES
async def test_of_scripts_of_many_connections_no_increment_is_lost(durability: str) -> None:
    server = await started(durability)
    clients = [server.connect() for _ in range(5)]
    source = b"redis.call('set', KEYS[1], (redis.call('get', KEYS[1]) or 0) + 1)"
    for client in clients:
        client.send(b'EVAL "%b" 1 a\r\n' % source * 10)
    for client in clients:
        await client.replies(10)
    assert await clients[0].value(b"GET", b"a") == b"50"
    await server.t.stop()


async def test_an_error_leaves_the_writes_before_it_done_and_a_stopped_script_none() -> None:
    server = await started()
    client = server.connect()
    for raised, said in (
        (b"error('no')", "ERR user_script:1: no script: {}, on @user_script:1."),
        (
            b"return redis.call('incr', KEYS[2])",
            "ERR value is not an integer or out of range script: {}, on @user_script:1.",
        ),
        (b"return redis.error_reply('MY own')", "MY own"),
    ):
        await client.value(b"MSET", b"a", b"0", b"b", b"x")
        source = b"redis.call('set', KEYS[1], 1) " + raised
        expected = said.format(digest_of(source).decode())
        assert str(await client.value(b"EVAL", source, b"2", b"a", b"b")) == expected
        assert await client.value(b"GET", b"a") == b"1"
    source = b"redis.call('set', KEYS[1], 2) while true do end"
    assert str(await client.value(b"EVAL", source, b"1", b"a")).endswith("instructions; nothing was done")
    assert await client.value(b"GET", b"a") == b"1"
    await server.t.stop()


async def test_what_it_may_not_call() -> None:
    server = await started("memory")
    client = server.connect()
    for call, said in (
        (b"'get', 'b'", "does not declare"),
        (b"'rename', KEYS[1], 'b'", "does not declare"),
        (b"'nosuch'", "Unknown Redis command"),
        (b"'get'", "Wrong number of args"),
        (b"'publish', 'c', 'm'", "not allowed from script"),
        (b"'eval', 'return 1', 0", "not allowed from script"),
        (b"'flushall'", "not allowed from script"),
        (b"'multi'", "not allowed from script"),
        (b"'memory', 'usage', KEYS[1]", "not available in a transaction"),
        (b"'milena.exec', KEYS[1], 0", "not available in a transaction"),
        (b"'set', KEYS[1], 1, 'durability', 'back'", "not available in a transaction"),
    ):
        assert said in str(await client.value(b"EVAL", b"return redis.call(%b)" % call, b"1", b"a")), call
    assert await client.value(b"EVAL", b"return redis.call('time')[1] + 0", b"0") > 0
    assert await client.value(b"EVAL", b"return redis.call('ping')", b"0") == b"PONG"
    assert str(await client.value(b"EVAL", b"return 1", b"1", b"s3://no-such/a")).startswith("NOPERM")
    await server.t.stop()


async def test_what_a_script_leaves_changed_is_bounded(monkeypatch: pytest.MonkeyPatch) -> None:
    # Few bytes: with as many as are allowed a script exceeds its time first where the machine is busy.
    monkeypatch.setattr("milena_cache.servers.resp.scripts.calls.MAX_WRITTEN_BYTES", 1000)
    server = ServerUnderTest(mode="memory")
    client = server.connect()
    source = b"for at = 1, #KEYS do redis.call('setrange', KEYS[at], ARGV[1], 'x') end"
    reply = await client.value(b"EVAL", source, b"3", b"a", b"b", b"c", b"500")
    assert "writes more than" in str(reply)
    assert await client.value(b"EXISTS", b"a", b"b", b"c") == 0


async def test_scripts_are_known_by_their_digests() -> None:
    server = await started("memory")
    client = server.connect()
    digest = await client.value(b"SCRIPT", b"LOAD", b"return KEYS[1]")
    assert await client.value(b"SCRIPT", b"EXISTS", digest, digest.upper(), b"x") == [1, 1, 0]
    assert await client.value(b"EVALSHA", digest.upper(), b"1", b"a") == b"a"
    assert await client.value(b"SCRIPT", b"FLUSH", b"ASYNC") == b"OK"
    assert str(await client.value(b"EVALSHA", digest, b"1", b"a")).startswith("NOSCRIPT ")
    assert "compiling" in str(await client.value(b"SCRIPT", b"LOAD", b"return ("))
    assert "SYNC|ASYNC" in str(await client.value(b"SCRIPT", b"FLUSH", b"NOW"))
    assert str(await client.value(b"COMMAND", b"GETKEYS", b"EVAL", b"x", b"2", b"a", b"b", b"c")) == "[b'a', b'b']"
    await server.t.stop()


async def test_without_lua_it_says_what_is_missing(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "lupa", None)
    server = await started("memory")
    client = server.connect()
    for line in ((b"EVAL", b"return 1", b"0"), (b"SCRIPT", b"LOAD", b"return 1")):
        assert "pip install 'milena-cache[lua]'" in str(await client.value(*line))
    await server.t.stop()


def test_the_scripts_that_are_kept_are_bounded() -> None:
    scripts = Scripts()
    first = scripts.add(b"return 0")
    for number in range(1, MAX_SCRIPTS):
        scripts.add(b"return %d" % number)
    scripts.source_of(first)
    scripts.add(b"one more")
    assert scripts.has(first)
    assert not scripts.has(digest_of(b"return 1"))
    with pytest.raises(CommandError, match="NOSCRIPT"):
        scripts.as_eval([b"EVALSHA", b"x" * 40, b"0"])
    large = [scripts.add(b"%d" % number + b" " * (MAX_SOURCE_BYTES - 5)) for number in range(70)]
    assert [scripts.has(digest) for digest in large].count(True) == 64
    with pytest.raises(CommandError, match="at most 65536"):
        scripts.add(b" " * (MAX_SOURCE_BYTES + 1))


async def test_a_user_needs_permission_for_all_that_scripts_may_call() -> None:
    server = ServerUnderTest(mode="memory")
    registry = server.context.commands
    named = {each.name: each for command in registry.values() for each in (command, *command.subcommands)}
    callable_ = {each.name for each in named.values() if each.has_keys and each.decide is not None}
    assert callable_ == set(CALLED_BY_SCRIPTS)
    server.servers.access.replace_users(parse_users(USERS, server.t.buckets.default))
    for name, key, said in (
        (b"all", b"own/a", b":1"),
        (b"all", b"other/a", b"-NOPERM"),
        (b"reads", b"own/a", b"-NOPERM"),
        (b"most", b"own/a", b"-NOPERM"),
        (b"none", b"own/a", b"-NOPERM"),
    ):
        client = server.connect()
        await client.request(b"AUTH", name, b"x")
        reply = await client.request(b"EVAL", b"return redis.call('incr', KEYS[1])", b"1", key)
        assert reply.startswith(said), (name, key, reply)
