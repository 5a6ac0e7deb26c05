"""The split of commands by key, and the merge of replies: together they reply as one server with all keys."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from milena_cache.servers.resp.commands.registry import command_registry
from milena_common.api.errors import InvalidRequest
from milena_common.forwarding import transactions
from milena_common.forwarding.routing import FORWARDED, MAX_KEYS, canonical, find, merge, split
from milena_common.resp.encoding import encode
from milena_common.resp.redis_replies import CommandError
from milena_router.redis.local_commands import LOCAL

KEYS = st.sampled_from([b"a", b"b", b"{a}c", b"d"])
NAMES = st.sampled_from([b"MGET", b"MSET", b"DEL", b"UNLINK", b"EXISTS", b"TOUCH"])


class OneServer:
    """What a Redis server with these values does, in RESP3."""

    def __init__(self, values: dict[bytes, bytes]) -> None:
        self.values = dict(values)

    def run(self, argv: list[bytes], protocol: int = 3) -> bytes:
        values, name, keys = self.values, argv[0].upper(), argv[1:]
        match name:
            case b"GET":
                return encode(values.get(keys[0]), protocol)
            case b"MGET":
                return encode([values.get(key) for key in keys], protocol)
            case b"SET":
                values[keys[0]] = keys[1]
                return b"+OK\r\n"
            case b"MSET":
                values.update(zip(keys[::2], keys[1::2], strict=True))
                return b"+OK\r\n"
            case b"DEL" | b"UNLINK":
                return b":%d\r\n" % sum(values.pop(key, None) is not None for key in keys)
            case _:
                return b":%d\r\n" % sum(key in values for key in keys)


@given(
    values=st.dictionaries(KEYS, st.binary(max_size=3)),
    name=NAMES,
    keys=st.lists(KEYS, min_size=1, max_size=6),
    protocol=st.sampled_from([2, 3]),
)
def test_the_merged_reply_and_its_effect_are_those_of_one_server(
    values: dict[bytes, bytes], name: bytes, keys: list[bytes], protocol: int
) -> None:
    arguments = (
        [word for place, key in enumerate(keys) for word in (key, b"%d" % place)] if name == b"MSET" else keys
    )
    argv = [name, *arguments]
    one, parted = OneServer(values), OneServer(values)
    command = find(argv)
    assert command is not None
    replies = [parted.run(part) for _, part in split(command, argv)]
    assert merge(command, replies, protocol) == one.run(argv, protocol)
    assert parted.values == one.values


@given(keys=st.lists(KEYS, min_size=1, max_size=5), failed=st.integers(0, 4))
def test_the_first_error_is_the_reply(keys: list[bytes], failed: int) -> None:
    command = FORWARDED[b"MGET"]
    replies = [b"$1\r\nx\r\n"] * len(keys)
    replies[failed % len(keys)] = b"-BUSY no room\r\n"
    assert merge(command, replies, 2) == b"-BUSY no room\r\n"


def test_a_part_has_the_key_by_which_it_is_sent() -> None:
    argv = [b"MSET", b"a", b"1", b"b", b"2", b"a", b"3"]
    assert split(FORWARDED[b"MSET"], argv) == [(b"a", [b"SET", b"a", b"3"]), (b"b", [b"SET", b"b", b"2"])]
    argv = [b"object", b"encoding", b"k"]
    command = find(argv)
    assert command is not None
    assert split(command, argv) == [(b"k", argv)]


def test_nothing_is_sent_of_a_command_with_a_wrong_key_or_number_of_arguments() -> None:
    with pytest.raises(InvalidRequest, match="NUL"):
        split(FORWARDED[b"DEL"], [b"DEL", b"a", b"\0"])
    with pytest.raises(CommandError, match="wrong number of arguments for 'mset'"):
        split(FORWARDED[b"MSET"], [b"MSET", b"a", b"1", b"b"])
    with pytest.raises(CommandError, match="clock of one"):
        split(FORWARDED[b"SET"], [b"SET", b"a", b"1", b"RECEIPT", b"within", b"100", b"5"])
    with pytest.raises(CommandError, match="allowed are at most"):
        split(FORWARDED[b"DEL"], [b"DEL", *[b"a"] * (MAX_KEYS + 1)])


def test_a_key_of_the_default_bucket_has_one_slot_however_it_is_spelled() -> None:
    assert canonical(b"s3://photos/a/b", "photos") == b"a/b"
    assert canonical(b"s3://other/a/b", "photos") == b"s3://other/a/b"
    assert canonical(b"a/b", "photos") == b"a/b"
    assert canonical(b"s3://\xff/a", "photos") == b"s3://\xff/a"


def test_the_table_is_that_of_a_node() -> None:
    node = {}
    for command in command_registry().values():
        node[command.name] = command
        node.update({each.name: each for each in command.subcommands})
    for command in (*FORWARDED.values(), transactions.WATCH, transactions.EXEC):
        theirs = node[command.name]
        assert command.arity == theirs.arity, command.name
        assert (command.first, command.last, command.step) == theirs.keys, command.name
        assert command.access == theirs.access, command.name
        assert command.operation == theirs.operation, command.name
        assert command.numbered_keys == theirs.numbered_keys, command.name
    with_keys = {name for name, each in node.items() if each.has_keys and not each.subcommands}
    by_transactions = {"watch", transactions.WATCH.name, transactions.EXEC.name}
    assert with_keys - by_transactions == {command.name for command in FORWARDED.values()}


def test_every_command_of_a_node_is_known_or_only_for_the_cluster() -> None:
    known = {name.lower() for name in (*FORWARDED, *LOCAL)} | {b"milena.call"}
    unknown = {name.lower().decode() for name in command_registry()} - {name.decode() for name in known}
    assert {name.partition(".")[0] for name in unknown} == {"milena"}
