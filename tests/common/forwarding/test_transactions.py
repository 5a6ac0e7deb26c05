"""The form in which a transaction is sent to another node: it comes out as it went in, and nothing else does."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from milena_cache.servers.resp.commands.registry import command_registry
from milena_cache.servers.resp.dispatch.admission import check_transaction
from milena_common.forwarding.routing import FORWARDED
from milena_common.forwarding.transactions import (
    MAX_COMMANDS,
    MAX_WATCHED,
    NOT_QUEUED,
    Queued,
    Transaction,
    decode_exec,
    decode_replies,
    decode_watched,
    encode_exec,
)
from milena_common.resp.encoding import encode
from milena_common.resp.redis_replies import CommandError

ARGUMENTS = st.binary(max_size=5)


@given(
    watched=st.dictionaries(ARGUMENTS, ARGUMENTS, max_size=4),
    commands=st.lists(st.lists(ARGUMENTS, min_size=1, max_size=4), max_size=4),
)
def test_what_is_encoded_is_decoded(watched: dict[bytes, bytes], commands: list[list[bytes]]) -> None:
    assert decode_exec(encode_exec(b"key", watched, commands)) == (watched, commands)


@given(argv=st.lists(st.one_of(ARGUMENTS, st.integers(-3, 5).map(lambda number: b"%d" % number)), min_size=1))
def test_anything_else_is_an_error_or_has_every_word(argv: list[bytes]) -> None:
    try:
        watched, commands = decode_exec([b"MILENA.EXEC", b"key", *argv])
    except CommandError:
        return
    pairs = int(argv[0])
    assert len(watched) <= pairs
    assert len(argv) == 1 + 2 * pairs + sum(1 + len(each) for each in commands)


@pytest.mark.parametrize(
    "argv",
    [[b"1", b"k"], [b"-1"], [b"x"], [b"0", b"2", b"GET"], [b"0", b"0"], [b"%d" % (MAX_WATCHED + 1)], [b"0", b""]],
)
def test_what_is_malformed_is_rejected(argv: list[bytes]) -> None:
    with pytest.raises(CommandError):
        decode_exec([b"MILENA.EXEC", b"key", *argv])
    with pytest.raises(CommandError):
        decode_exec([b"MILENA.EXEC", b"key", b"0", *[b"1", b"PING"] * (MAX_COMMANDS + 1)])


@pytest.mark.parametrize("protocol", [2, 3])
def test_replies_are_taken_apart(protocol: int) -> None:
    replies = [1, None, b"value", [b"a", [None, {"a": 1}]], b""]
    assert decode_replies(encode(replies, protocol)) == [encode(each, protocol) for each in replies]
    assert decode_replies(encode(None, protocol)) is None
    assert decode_replies(b"*0\r\n") == []
    with pytest.raises(ValueError, match="no array"):
        decode_replies(b"+OK\r\n")
    assert decode_watched(encode([b"x y", b""], protocol), [b"a", b"b"]) == {b"a": b"x y", b"b": b""}
    with pytest.raises(ValueError, match="shorter"):
        decode_watched(encode([b"x"], protocol), [b"a", b"b"])


def test_a_router_queues_the_commands_that_a_node_queues() -> None:
    node = {each.name: each for command in command_registry().values() for each in (command, *command.subcommands)}
    rejected = set()
    for command in FORWARDED.values():
        try:
            check_transaction(node[command.name], [])
        except CommandError:
            rejected.add(command.name)
    assert rejected == NOT_QUEUED


def test_a_queue_is_bounded() -> None:
    transaction: Transaction[str] = Transaction()
    transaction.queue("set", [b"SET", b"a", b"x" * 16_000_000])
    with pytest.raises(CommandError, match="at most 4096 commands and 16777216 bytes"):
        transaction.queue("set", [b"SET", b"a", b"x" * 800_000])
    for _ in range(MAX_COMMANDS - 1):
        transaction.queue("get", [b"GET", b"a"])
    with pytest.raises(CommandError, match="at most 4096 commands"):
        transaction.queue("get", [b"GET", b"a"])


def test_sets_are_queued_together_and_are_commands_like_others() -> None:
    transaction: Transaction[str] = Transaction()
    assert transaction.sets is None
    assert transaction.queue_sets("set", [b"a", b"b"], [b"1", b"2"])
    assert transaction.sets == ([b"a", b"b"], [b"1", b"2"])
    assert (transaction.number, transaction.bytes) == (2, 10)
    transaction.queue("get", [b"GET", b"a"])
    assert transaction.sets is None
    assert transaction.queue_sets("set", [b"c"], [b"3"])
    assert transaction.number == 4
    sets = [Queued("set", [b"SET", key, value]) for key, value in ((b"a", b"1"), (b"b", b"2"), (b"c", b"3"))]
    assert transaction.commands == [*sets[:2], Queued("get", [b"GET", b"a"]), sets[2]]
    assert transaction.number == 4


def test_sets_have_the_bounds_of_other_commands() -> None:
    transaction: Transaction[str] = Transaction()
    assert not transaction.queue_sets("set", [b"a"], [bytes(16 * 2**20)])
    assert transaction.queue_sets("set", [b"a"] * (MAX_COMMANDS - 1), [b""] * (MAX_COMMANDS - 1))
    assert not transaction.queue_sets("set", [b"a"] * 2, [b""] * 2)
    assert transaction.number == MAX_COMMANDS - 1
