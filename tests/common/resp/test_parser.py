"""Commands out of a stream: the same whatever pieces it comes in, and never more kept than was sent."""

from __future__ import annotations

from itertools import pairwise
from typing import Any

import hiredis
import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from milena_common.resp.encoding import command
from milena_common.resp.parser import (
    ARGUMENT_OVERHEAD,
    MAX_ARGUMENTS,
    MAX_INLINE,
    CommandReader,
    NoRoom,
    ProtocolError,
    TooLong,
    split_inline,
)
from milena_common.resp.plain_commands import MAX_BYTES, MAX_SETS, SETS_BYTES, commands_of

MAX_BULK = 1000
COMMAND_BYTES = 3000

Read = tuple[list[list[bytes]], str]


def feed(
    reader: CommandReader, data: bytes, commands: list[list[bytes]], max_arguments: int = MAX_ARGUMENTS
) -> None:
    """Feed `data`, and append to `commands` all that it completes, about `most` arguments at a time."""
    reader.feed(data)
    while reader.more:
        reader.read(commands.append, max_arguments)


def read(*pieces: bytes, max_bulk: int = MAX_BULK, max_bytes: int = COMMAND_BYTES) -> Read:
    """The commands in `pieces`, and the error that ended them, "" if none did."""
    reader = CommandReader(max_bulk, max_bytes)
    commands: list[list[bytes]] = []
    for piece in pieces:
        try:
            feed(reader, piece, commands)
        except ProtocolError as error:
            return commands, str(error)
    return commands, ""


def one_by_one(data: bytes) -> Read:
    return read(*(data[at : at + 1] for at in range(len(data))))


argv = st.lists(st.binary(max_size=12), min_size=1, max_size=4)
# What parsers look for, more often than chance would have it.
likely = st.sampled_from(
    (
        *(b"*", b"$", b"\r\n", b"\n", b"\r", b"*1\r\n", b"*2\r\n$3\r\nGET\r\n", b"$1\r\nk\r\n", b"$-1\r\n"),
        *(b"*-1\r\n", b"*0\r\n", b"0", b"1", b"9" * 12, b'"', b"'", b"\\x4", b" ", b"$0\r\n\r\n"),
        *(b"*1000000\r\n", b"$1001\r\n"),
    )
)
streams = st.lists(likely | st.binary(max_size=8), max_size=12).map(b"".join)
cuts = st.lists(st.integers(0, 200), max_size=8)


def cut(data: bytes, places: list[int]) -> list[bytes]:
    at = sorted({0, len(data), *(place % (len(data) + 1) for place in places)})
    return [data[start:end] for start, end in pairwise(at)]


@given(st.lists(argv, max_size=8), cuts)
def test_commands_come_out_as_they_went_in_however_they_are_split(
    sent: list[list[bytes]], places: list[int]
) -> None:
    data = b"".join(command(*each) for each in sent)
    assert read(*cut(data, places)) == (sent, "")
    assert one_by_one(data) == (sent, "")


@given(st.lists(argv, min_size=1, max_size=5))
def test_what_hiredis_writes_is_read(sent: list[list[bytes]]) -> None:
    pack: Any = hiredis.pack_command  # its types know commands of one word
    data = b"".join(pack(tuple(each)) for each in sent)
    assert read(data) == (sent, "")


@given(streams, cuts)
@example(b"*2\r\n$3\r\nGET\r\n$1\r\nk\r\nGET k\r\n*1\r\n$1\r\nx", [])
def test_any_bytes_mean_the_same_however_they_are_split(data: bytes, places: list[int]) -> None:
    whole = read(data)
    assert read(*cut(data, places)) == whole
    assert one_by_one(data) == whole


@given(streams | st.lists(argv, max_size=8).map(lambda sent: b"".join(command(*each) for each in sent)), cuts)
def test_any_bytes_mean_the_same_however_few_are_read_at_once(data: bytes, places: list[int]) -> None:
    reader = CommandReader(MAX_BULK, COMMAND_BYTES)
    commands: list[list[bytes]] = []
    error = ""
    try:
        for piece in cut(data, places):
            feed(reader, piece, commands, max_arguments=1)
    except ProtocolError as raised:
        error = str(raised)
    assert (commands, error) == read(data)


gets_and_others = st.lists(
    st.lists(st.sampled_from((b"k", b"", b"*2\r\n$3\r\nGET\r\n$1", b"key" * 9)), min_size=1, max_size=40).map(
        lambda keys: b"".join(command(b"GET", key) for key in keys)
    )
    | st.sampled_from((b"PING\r\n", command(b"SET", b"k", b"v" * 30), command(b"get", b"k"))),
    max_size=5,
).map(b"".join)


@given(gets_and_others, cuts)
def test_pipelines_of_gets_are_recognized_wherever_the_reads_end(data: bytes, places: list[int]) -> None:
    reader = CommandReader(MAX_BULK, COMMAND_BYTES)
    commands: list[list[bytes]] = []
    for piece in cut(data, places):
        reader.feed(piece)
        while reader.more:
            keys = reader.read_gets()
            if keys is not None:
                commands.extend([b"GET", key] for key in keys)
            else:
                reader.read(commands.append, 2)
    assert commands == read(data)[0]
    assert reader.held == 0


def test_a_command_without_room_is_returned_at_once_skipped_and_the_next_one_is_read() -> None:
    for at in range(1, 60):
        reader = CommandReader(MAX_BULK, COMMAND_BYTES)
        commands: list[list[bytes]] = []
        data = command(b"MSET", b"k", b"v" * 20, b"l", b"w" * 20)
        feed(reader, data[:at], commands)
        begun = b"\r\n" in data[:at]
        for _ in range(2):
            reader.reject(commands.append)
            assert [type(argv[0]) for argv in commands] == [NoRoom] * begun
        feed(reader, data[at:] + command(b"PING"), commands)
        assert commands[-1] == [b"PING"]
        assert len(commands) == 2
        assert reader.held == 0


@pytest.mark.parametrize(
    "data",
    [
        b"*2\r\n$3\r\nGET\r\n$5\r\nhello\r\n*1\r\n$4\r\nPING\r\n",
        b'SET k "a \\x41"\r\nGET k\n*0\r\n*-1\r\n*1\r\n$0\r\n\r\n',
        b"*2\r\n$3\r\nGET\r\n$1\r\nk\r\n*1\r\n+OK\r\n",
        b"GET k\r\n*1\r\n$1001\r\n",
    ],
)
def test_a_split_anywhere_makes_no_difference(data: bytes) -> None:
    whole = read(data)
    for first in range(len(data) + 1):
        for second in range(first, len(data) + 1):
            assert read(data[:first], data[first:second], data[second:]) == whole


@given(st.lists(streams, max_size=6))
def test_no_more_is_kept_than_was_sent(pieces: list[bytes]) -> None:
    reader = CommandReader(MAX_BULK, COMMAND_BYTES)
    commands: list[list[bytes]] = []
    sent = 0
    for piece in pieces:
        sent += len(piece)
        try:
            feed(reader, piece, commands)
        except ProtocolError:
            return
        # An argument takes at least six bytes on the way.
        assert reader.held <= sent + sent // 6 * ARGUMENT_OVERHEAD


@pytest.mark.parametrize(
    ("data", "error"),
    [
        (b"*1048577\r\n", "invalid multibulk length"),
        (b"*" + b"9" * 30 + b"\r\n", "invalid multibulk length"),
        (b"*1x\r\n", "invalid multibulk length"),
        (b"*\r\n", "invalid multibulk length"),
        (b"*1\r\n$%d\r\n" % (2**29 + 1), "invalid bulk length 536870913, over MAX_VALUE_BYTES"),
        (b"*1\r\n$-1\r\n", "invalid bulk length"),
        (b"*1\r\n$" + b"9" * 30 + b"\r\n", "invalid bulk length"),
        (b"*1\r\n$\r\n", "invalid bulk length"),
        (b"*1\r\n!1\r\n", "expected '$', got '!'"),
        (b"*1\r\n\x00\r\n", "expected '$', got '?'"),
        (b"*" + b"1" * MAX_INLINE, "too big mbulk count string"),
        (b"*1\r\n$" + b"1" * MAX_INLINE, "too big bulk count string"),
        (b"x" * MAX_INLINE, "too big inline request"),
        (b'"x\r\n', "unbalanced quotes in request"),
        (b"*4\r\n" + b"$1000\r\n%b\r\n" % bytes(1000) * 4, f"a command has more than {COMMAND_BYTES} bytes"),
    ],
)
def test_what_is_no_command_is_rejected(data: bytes, error: str) -> None:
    assert read(command(b"GET", b"k") + data) == ([[b"GET", b"k"]], f"Protocol error: {error}")
    assert read(*(data[at : at + 1000] for at in range(0, len(data), 1000))) == ([], f"Protocol error: {error}")


@pytest.mark.parametrize("at", [0, 1, 2])
@pytest.mark.parametrize("piece", [1, 7, 500, 2000])
def test_an_argument_that_is_too_long_is_skipped_and_reported(at: int, piece: int) -> None:
    argv = [b"SET", b"k", b"v"]
    argv[at] = bytes(MAX_BULK + 1)
    data = command(*argv) + command(b"SET", *[bytes(MAX_BULK + 2)] * 2) + command(b"GET", b"k")
    reader = CommandReader(MAX_BULK, COMMAND_BYTES)
    commands: list[list[bytes]] = []
    feed(reader, data[: data.index(b"$1001\r\n") + len(b"$1001\r\n")], commands)
    assert isinstance(commands[0][0], TooLong), "it is reported before the rest has come"
    reader = CommandReader(MAX_BULK, COMMAND_BYTES)
    commands.clear()
    for start in range(0, len(data), piece):
        feed(reader, data[start : start + piece], commands)
        assert reader.pending <= piece + len(b"*3\r\n$1001\r\n")
    sizes = [argv[0].size for argv in commands[:2] if isinstance(argv[0], TooLong)]
    assert sizes == [MAX_BULK + 1, MAX_BULK + 2]
    assert [len(argv) for argv in commands] == [1, 1, 2]
    assert commands[2] == [b"GET", b"k"]
    assert reader.held == 0


def test_what_is_only_announced_takes_no_room() -> None:
    reader = CommandReader(2**30, 2**31)
    feed(reader, b"*%d\r\n$%d\r\n" % (MAX_ARGUMENTS, 2**30), [])
    assert reader.held == 0
    feed(reader, b"abc", [])
    assert reader.held == 3


def test_arguments_that_are_empty_take_room_too() -> None:
    reader = CommandReader(MAX_BULK, COMMAND_BYTES)
    feed(reader, b"*1000\r\n" + b"$0\r\n\r\n" * 999, [])
    assert reader.held == 999 * ARGUMENT_OVERHEAD


def test_a_value_in_small_pieces_is_kept_as_few() -> None:
    reader = CommandReader(10**6, 10**6)
    commands: list[list[bytes]] = []
    value = bytes(range(256)) * 400
    data = command(b"SET", b"k", value)
    for at in range(0, len(data), 2):
        feed(reader, data[at : at + 2], commands)
        assert reader.pieces <= 3
    assert commands == [[b"SET", b"k", value]]
    assert reader.held == 0


values_of_sets = st.binary(max_size=40) | st.sampled_from(
    (b"\r\n*3\r\n$3\r\nSET\r\n$1\r\nk\r\n$1\r\nv", b"a\r\nb", bytes(120), b"\r\n*3\r\n$3\r\nSET\r\n")
)
sets_and_others = st.lists(
    st.lists(
        st.tuples(st.sampled_from((b"k", b"", b"key" * 9, b"k\r\n")), values_of_sets), min_size=1, max_size=20
    ).map(lambda pairs: b"".join(command(b"SET", key, value) for key, value in pairs))
    | st.sampled_from(
        (b"PING\r\n", command(b"GET", b"k"), command(b"SET", b"k", b"v", b"EX", b"1"), command(b"set", b"k", b"v"))
    ),
    max_size=5,
).map(b"".join)


def with_upper_set(commands: list[list[bytes]]) -> list[list[bytes]]:
    return [[b"SET", *argv[1:]] if argv[0] == b"set" else argv for argv in commands]


@given(sets_and_others, cuts)
@example(command(b"SET", b"k", b"v") * 3 + command(b"SET", b"k", bytes(MAX_BULK)) + command(b"SET", b"k", b"w"), [])
@example(command(b"SET", b"k", b"v") * (2 * MAX_SETS + 1), [])
def test_pipelines_of_sets_are_recognized_wherever_the_reads_end(data: bytes, places: list[int]) -> None:
    reader = CommandReader(MAX_BULK, COMMAND_BYTES)
    commands: list[list[bytes]] = []

    def take(found: tuple[list[bytes], list[bytes]]) -> None:
        assert 1 <= len(found[0]) <= MAX_SETS
        commands.extend([b"SET", key, value] for key, value in zip(*found, strict=True))

    for piece in cut(data, places):
        found = None if reader.more else reader.sets(piece)
        if found is not None:
            take(found)
        else:
            reader.feed(piece)
        while reader.more:
            keys = reader.read_gets()
            sets = reader.read_sets() if keys is None else None
            if keys is not None:
                commands.extend([b"GET", key] for key in keys)
            elif sets is not None:
                take(sets)
            else:
                reader.read(commands.append, 2)
    assert with_upper_set(commands) == with_upper_set(read(data)[0])
    assert reader.held == 0


@given(st.lists(likely | st.binary(max_size=8), max_size=6).map(b"".join))
@example(b"$1\r\nk\r\n$21x")
@example(b"$1\r\nk\r\n$+1\r\nx\r\n")
@example(b"$1\r\nk\r\n$1_0\r\n0123456789\r\n")
def test_the_short_way_of_sets_never_finds_what_the_long_way_does_not(data: bytes) -> None:
    for name in (b"SET", b"set"):
        begun = b"*3\r\n$3\r\n" + name + b"\r\n"
        for stream in (data, begun + data, begun + b"$1\r\nk\r\n" + data, command(name, b"k", b"v") + begun + data):
            found = CommandReader(MAX_BULK, COMMAND_BYTES).sets(stream)
            if found is not None:
                number = len(found[0])
                assert [[name, *pair] for pair in zip(*found, strict=True)] == read(stream)[0][:number]


@pytest.mark.parametrize("value", [b"v", b"", b"\r\n", bytes(50)])
def test_one_set_by_a_client_that_sends_lower_case_takes_the_short_way(value: bytes) -> None:
    reader = CommandReader(MAX_BULK, COMMAND_BYTES)
    one = command(b"set", b"k", value)
    assert reader.sets(one) == ([b"k"], [value])
    assert reader.sets(one + one) is None, "only a single one does"
    assert reader.held == 0, "nothing was consumed"
    assert reader.sets(one[:-1]) is None


def test_gets_behind_a_set_are_read_and_not_skipped() -> None:
    reader = CommandReader(MAX_BULK, COMMAND_BYTES)
    gets_ = command(b"GET", b"k") * 2
    assert reader.sets(command(b"SET", b"k", b"v") + gets_) == ([b"k"], [b"v"])
    assert reader.skip_gets() == 0
    assert reader.read_gets() == [b"k", b"k"]
    reader.feed(gets_)
    assert reader.skip_gets() == 2


# The short way: reads that hold nothing but GETs.


def gets(data: bytes) -> list[bytes] | None:
    return CommandReader(MAX_BULK, COMMAND_BYTES).gets(data)


@given(st.lists(st.binary(max_size=20), min_size=1, max_size=8))
def test_keys_of_gets_are_those_that_the_long_way_finds_or_none(keys: list[bytes]) -> None:
    for name in (b"GET", b"get"):
        data = b"".join(command(name, key) for key in keys)
        found = gets(data)
        assert found in (keys, None)
        if not any(b"\r\n" in key for key in keys):
            assert found == keys


@given(st.lists(likely | st.binary(max_size=8), max_size=6).map(b"".join))
def test_the_short_way_never_finds_what_the_long_way_does_not(data: bytes) -> None:
    for name in (b"GET", b"get"):
        begun = b"*2\r\n$3\r\n" + name + b"\r\n"
        for stream in (data, command(name, data), command(name, b"k") + data, begun + data):
            found = gets(stream)
            if found is not None:
                commands, error = read(stream)
                assert ([[each.upper(), key] for each, key in commands], error) == (
                    [[b"GET", key] for key in found],
                    "",
                )


def put(data: bytes) -> list[bytes] | None:
    return CommandReader(MAX_BULK, COMMAND_BYTES).one(data)


@given(st.binary(max_size=20), st.binary(max_size=20) | st.just(bytes(MAX_BULK)))
def test_the_arguments_of_one_set_are_those_of_the_full_parser(key: bytes, value: bytes) -> None:
    found = put(command(b"SET", key, value))
    assert found in ([b"SET", key, value], None)
    assert found is not None or b"\r\n" in key  # such a key goes the long way


@given(st.lists(likely | st.binary(max_size=8), max_size=6).map(b"".join))
@example(b"$1\r\nk\r\n$21x")
@example(b"$+1\r\nk\r\n$1\r\nx\r\n")
@example(b"$1\r\nk\r\n$1_0\r\n0123456789\r\n")
@example(b"$18")
def test_the_short_way_of_a_set_never_finds_what_the_long_way_does_not(data: bytes) -> None:
    begun = b"*3\r\n$3\r\nSET\r\n"
    for stream in (data, begun + data, begun + b"$1\r\nk\r\n" + data, command(b"SET", b"k", b"v") + data):
        found = put(stream)
        if found is not None:
            assert read(stream) == ([found], "")


@given(st.lists(st.lists(st.binary(max_size=20), min_size=1, max_size=4), max_size=5), st.binary(max_size=30))
@example([[b"SET", b"k", b"a\r\n$1\r\nb"], [b"GET", b"k"]], b"")
@example([[b"GET", b"k"]], b"*1\r\n$4\r\nPIN")
def test_commands_of_short_arguments_are_those_of_the_full_parser(sent: list[list[bytes]], rest: bytes) -> None:
    data = b"".join(command(*argv) for argv in sent) + rest
    found, at = commands_of(data, 0, MAX_BYTES, MAX_ARGUMENTS)
    assert data[:at] == b"".join(command(*argv) for argv in found)
    whole, _ = one_by_one(data)
    assert found == whole[: len(found)]


def test_a_command_of_many_arguments_behind_many_others_is_recognized() -> None:
    many = [b"MGET", *[b"k"] * 1023]
    for number in (0, 1, 200):
        sent = [*[[b"PING"]] * number, many, [b"PING"]]
        data = b"".join(command(*argv) for argv in sent)
        found, at = commands_of(data, 0, SETS_BYTES, 512)
        assert found == sent[: len(found)]
        assert len(found) >= min(number + 1, 171)
        assert data[:at] == b"".join(command(*argv) for argv in found)


def test_incomplete_sets_are_none_wherever_they_end() -> None:
    whole = command(b"SET", b"key", bytes(120))
    for digits in range(200):
        for end in range(len(whole)):
            stream = whole[:end] + b"%d" % digits
            found = put(stream)
            assert found is None or read(stream) == ([found], "")
    assert [end for end in range(len(whole)) if put(whole[:end]) is not None] == []
    for length in range(1100):
        head = b"*3\r\n$3\r\nSET\r\n$1\r\nk\r\n$%d\r\n" % length
        for begun in (head, head + b"v\r\n", head + b"\r\n"):
            assert put(begun) is None or read(begun) == ([put(begun)], "")


def test_the_short_ways_are_not_taken_in_the_middle_of_a_command() -> None:
    reader = CommandReader(MAX_BULK, COMMAND_BYTES)
    commands: list[list[bytes]] = []
    get, set_ = command(b"GET", b"k"), command(b"SET", b"k", b"v")
    feed(reader, b"*2\r\n$3\r\nSET\r\n", commands)
    assert reader.gets(get) is None
    assert reader.one(set_) is None
    feed(reader, b"$1", commands)
    assert reader.gets(get) is None
    assert reader.one(set_) is None
    feed(reader, b"\r\nx\r\n", commands)
    assert reader.gets(get) == [b"k"]
    assert reader.one(set_) == [b"SET", b"k", b"v"]


# Words of a line.


@pytest.mark.parametrize(
    ("line", "found"),
    [
        (b"", []),
        (b"  \t ", []),
        (b"GET k", [b"GET", b"k"]),
        (b' GET  "a b" ', [b"GET", b"a b"]),
        (b'"\\x41\\x4a\\n\\r\\t\\b\\a\\\\\\"\\q"', [b'AJ\n\r\t\b\a\\"q']),
        (b'"\\xzz"', [b"xzz"]),
        (b"'a\\'b\\n'", [b"a'b\\n"]),
        (b'a"b c"', [b"ab c"]),
        (b"\"\" ''", [b"", b""]),
        (b'"a', None),
        (b"'a", None),
        (b'"a"b', None),
        (b"'a'b", None),
        (b'"a\\"', None),
    ],
)
def test_arguments_of_a_line(line: bytes, found: list[bytes] | None) -> None:
    assert split_inline(line) == found


@given(st.binary(max_size=40))
def test_any_line_has_arguments_or_none(line: bytes) -> None:
    found = split_inline(line)
    assert found is None or all(isinstance(word, bytes) for word in found)
