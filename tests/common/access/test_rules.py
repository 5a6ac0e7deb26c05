"""A user's rules decide as Redis's do, for what both have."""

from __future__ import annotations

import shutil
import socket
import subprocess
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import hiredis
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from milena_cache.servers.resp.commands.registry import command_registry
from milena_cache.servers.resp.commands.server.command_docs import categories_of
from milena_common.access.commands import CATEGORIES_OF, NEEDS, Need, is_of_cluster
from milena_common.access.rules import ObjectName, RuleError, User, digest_of, parse_user
from milena_common.resp.encoding import command


def user(*rules: str) -> User:
    return parse_user("alice", rules, "main")


def of(key: str, bucket: str = "") -> ObjectName:
    return ObjectName(bucket, key.encode(), (f"s3://{bucket}/{key}" if bucket else key).encode())


def test_the_names_are_those_of_the_commands_of_a_node() -> None:
    commands = {
        each.name: frozenset(category[1:] for category in categories_of(each))
        for command in command_registry().values()
        for each in (command, *command.subcommands)
        if not is_of_cluster(each.name) and not each.name.startswith("milena.call")
    }
    known = {name: of for name, of in CATEGORIES_OF.items() if not name.startswith("milena.call")}
    assert known == commands
    assert set(NEEDS) <= set(CATEGORIES_OF)


def test_a_user_without_rules_may_nothing() -> None:
    alice = user()
    assert not alice.enabled
    assert not alice.may_run("get")
    assert not alice.allows("get", "r", [of("a")])
    assert alice.may_run("auth")
    assert not user("+@all", "~*").may_run("no such command")


@pytest.mark.parametrize("name", ["milena.handover|writes", "milena.copy", "milena.promise"])
def test_no_rule_allows_what_is_for_nodes(name: str) -> None:
    assert not user("+@all", "~*").may_run(name)
    with pytest.raises(RuleError, match="CLUSTER_TOKEN_FILE"):
        user(f"+{name}")


def test_patterns_are_of_cache_keys_and_with_buckets_of_keys() -> None:
    alice = user("~app/*", "+get")
    assert alice.allows("get", "r", [of("app/1")])
    assert not alice.allows("get", "r", [of("app/1", "other")])
    assert not alice.allows("get", "r", [of("app/1"), of("b")])
    bob = user("~app/*", "+get", "bucket:other")
    assert bob.allows("get", "r", [of("app/1", "other")])
    assert not bob.allows("get", "r", [of("app/1")])
    assert user("~*", "+get", "bucket:main").allows("get", "r", [of("x")])
    assert not user("~*", "+get", "bucket:main").allows("get", "r", [of("x", "other")])
    assert user("~*", "+get").allows("get", "r", [of("x", "other")])


def test_one_selector_has_to_allow_the_whole_request() -> None:
    alice = user("+get", "~a*", "(+set ~b*)")
    assert alice.allows("get", "r", [of("a")])
    assert alice.allows("set", "w", [of("b")])
    assert not alice.allows("get", "r", [of("b")])
    assert not alice.allows("set", "w", [of("a")])


def test_listings_are_filtered_by_what_may_be_read() -> None:
    alice = user("+scan", "%R~a/*", "%W~b/*", "(+get ~c/*)")
    assert alice.may_see("scan", of("a/1"))
    assert not alice.may_see("scan", of("b/1"))
    assert not alice.may_see("scan", of("c/1"))
    for prefix, seen in ((b"a/", True), (b"", True), (b"a/x/", True), (b"b/", False)):
        assert alice.may_see_prefix("scan", ObjectName("", prefix, prefix)) is seen


def test_passwords_are_kept_as_hashes_and_one_by_one() -> None:
    alice = user("on", ">one", ">two", "<one")
    assert alice.passwords == (digest_of(b"two"),)
    assert "two" not in repr(alice)
    assert user("nopass").no_password
    assert not user("nopass", ">x").no_password


def test_what_a_user_may_is_shown_as_rules_that_mean_the_same() -> None:
    rules = ("on", ">x", "%R~a*", "~b*", "+@read", "-scan", "+config|get", "(~c +@write)", "rate:10", "bytes:5000")
    alice = user(*rules)
    again = parse_user("alice", alice.described().split()[2:], "main")
    assert again == alice
    assert again.selectors[0].commands == alice.selectors[0].commands
    assert user("+@all", "~*", "&*").may_all
    assert not user("+@all", "~*", "&*", "rate:1").may_all
    assert not user("+@all", "-get", "~*", "&*").may_all


@pytest.mark.parametrize(
    ("rules", "problem"),
    [
        (["hunter2"], "rule 1: is no rule"),
        (["on", ">", "hunter2"], "rule 3: is no rule"),
        (["+nosuch"], r"rule 1 '\+nosuch': Unknown command"),
        (["+@nosuch"], "Unknown command or category"),
        (["+get|x"], "Unknown command"),
        (["~*", "~a"], "Adding a pattern after"),
        (["#12"], "64 lower-case"),
        (["<x"], "is not a password"),
        (["(+get"], "Unmatched parenthesis"),
        (["rate:0"], "from 1 to"),
        (["bytes:many"], "from 1 to"),
        (["bucket:"], "name of a bucket"),
        (["~" + "a" * 5000], "at most 4096"),
    ],
)
def test_a_wrong_rule_is_named_without_what_may_be_a_password(rules: list[str], problem: str) -> None:
    with pytest.raises(RuleError, match=problem) as raised:
        user(*rules)
    assert "hunter2" not in str(raised.value)


@pytest.mark.parametrize("name", ["", "a b", "a\n", "Bearer"])
def test_names_are_restricted(name: str) -> None:
    with pytest.raises(RuleError):
        parse_user(name, ())


# The shared subset: commands whose keys and effects are the same, and all forms of rules about them.
SAMPLES: dict[str, tuple[Need, tuple[str, ...]]] = {
    "get": ("r", ()),
    "strlen": ("", ()),
    "exists": ("", ()),
    "ttl": ("r", ()),
    "set": ("w", ("v",)),
    "mset": ("w", ("v",)),
    "del": ("w", ()),
    "expire": ("w", ("1",)),
    "getdel": ("rw", ()),
    "getex": ("rw", ()),
}
KEYLESS = {"ping": (), "dbsize": (), "config|get": ("x",), "client|list": (), "client|id": (), "info": ()}
RULES = st.sampled_from(
    [
        *("+@all", "-@all", "+@read", "-@read", "+@write", "-@write", "+@admin", "-@admin", "+@fast", "-@fast"),
        *("+@dangerous", "-@dangerous", "+@keyspace", "-@keyspace", "+@connection", "-@string", "+@nosuch"),
        *(
            f"{sign}{name}"
            for sign in "+-"
            for name in ("get", "set", "del", "config", "config|get", "client|list")
        ),
        *("+client", "-client|id", "+nosuch", "allcommands", "nocommands", "allkeys", "resetkeys", "reset", "~*"),
        *("~a*", "%R~a*", "%W~a*", "%RW~b?", "%r~[ab]1", "%W~*", "%R~b1", "%x~a", "clearselectors"),
        *("(+get ~c*)", "(+@write %W~c*)", "(+@all ~*)", "(+get +@nosuch)", "on", "off", "nopass"),
    ]
)


@pytest.fixture(scope="module")
def redis(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Any]:
    """A function that sends a command to a Redis server."""
    server = shutil.which("redis-server")
    if server is None:
        pytest.skip("no redis-server")
    path = Path(tmp_path_factory.mktemp("redis")) / "socket"
    process = subprocess.Popen(
        [server, "--port", "0", "--unixsocket", str(path), "--save", "", "--appendonly", "no"],
        stdout=subprocess.PIPE,
        cwd=path.parent,
    )
    assert process.stdout is not None
    while line := process.stdout.readline():
        if b"Ready to accept connections" in line or b"ready to accept connections" in line:
            break
    connection = socket.socket(socket.AF_UNIX)
    connection.connect(str(path))
    reader = hiredis.Reader()

    def send(*argv: str) -> Any:
        connection.sendall(command(*(word.encode() for word in argv)))
        while (reply := reader.gets()) is False:
            reader.feed(connection.recv(65536))
        return reply

    yield send
    connection.close()
    process.terminate()
    process.wait()
    process.stdout.close()


@settings(max_examples=250, deadline=None)
@given(rules=st.lists(RULES, max_size=7), key=st.sampled_from(["a1", "b1", "b12", "c", "zz"]))
def test_decisions_are_those_of_redis(redis: Any, rules: list[str], key: str) -> None:
    reply = redis("ACL", "SETUSER", "alice", "reset", *rules)
    try:
        alice = user(*rules)
    except RuleError:
        assert isinstance(reply, hiredis.ReplyError)
        return
    assert reply == b"OK", rules
    for name, (need, ending) in SAMPLES.items():
        expected = redis("ACL", "DRYRUN", "alice", name, key, *ending) == b"OK"
        assert alice.allows(name, need, [of(key)]) is expected, name
    for name, arguments in KEYLESS.items():
        expected = redis("ACL", "DRYRUN", "alice", *name.split("|"), *arguments) == b"OK"
        assert alice.may_run(name) is expected, name
