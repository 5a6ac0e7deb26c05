"""However the bytes of commands arrive, one by one or together, replies and effects are the same, byte for byte."""

from __future__ import annotations

import asyncio
from itertools import pairwise
from typing import Any

import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st

from milena_common.api.durability import Durability
from milena_common.resp.encoding import command
from tests.cache.servers.resp.server_under_test import ServerUnderTest, WireClient

MAX_VALUE = 3000
Argv = list[bytes]

# Also one of another bucket, one that no object can have, and one that only the general path resolves.
keys = st.sampled_from([b"k", b"l", b"m", b"{k}1", b"s3://default/k", b"s3://other/k", b"", b"\xff"])
LIKE_A_SET = b"v\r\n*3\r\n$3\r\nSET\r\n$1\r\nk\r\n$1\r\nw"
values = st.sampled_from([b"", b"1", b"v", b"a\r\nb", LIKE_A_SET, bytes(1024), bytes(1025), bytes(MAX_VALUE + 1)])
numbers = st.sampled_from([b"100", b"0", b"-1", b"1e3", b"99999999999999999999"])
expiries = st.tuples(st.sampled_from([b"EX", b"PX", b"EXAT", b"px"]), numbers).map(list)
classes = st.sampled_from([b"back", b"memory", b"through", b"no-class"]).map(lambda name: [b"DURABILITY", name])
flags = st.sampled_from([[b"NX"], [b"XX"], [b"GET"], [b"KEEPTTL"], [b"BOGUS"], [b"EX"]])
options = st.lists(expiries | classes | flags, max_size=2).map(
    lambda parts: [word for part in parts for word in part]
)
plain_sets = st.tuples(keys, values).map(lambda made: [b"SET", *made])
sets = st.tuples(st.sampled_from([b"SET", b"SET", b"set"]), keys, values, options).map(
    lambda made: [made[0], made[1], made[2], *made[3]]
)
gets = keys.map(lambda key: [b"GET", key])
of_keys = st.tuples(
    st.sampled_from([b"MGET", b"DEL", b"EXISTS", b"UNLINK"]), st.lists(keys, min_size=1, max_size=4)
).map(lambda made: [made[0], *made[1]])
of_one = st.tuples(st.sampled_from([b"PTTL", b"STRLEN", b"INCR", b"PERSIST", b"GETDEL"]), keys).map(list)
msets = st.lists(st.tuples(keys, values), min_size=1, max_size=4).map(
    lambda pairs: [b"MSET", *(word for pair in pairs for word in pair)]
)
others = st.sampled_from(
    [[b"PING"], [b"ECHO", b"x"], [b"SET", b"k"], [b"GET"], [b"NONE", b"k"], [b"APPEND", b"k", b"2"]]
)
streams = st.lists(plain_sets | gets, min_size=1, max_size=12) | st.lists(
    plain_sets | sets | gets | of_keys | of_one | msets | others, min_size=1, max_size=12
)


async def server(mode: Durability) -> ServerUnderTest:
    made = ServerUnderTest(mode=mode, max_value_bytes=MAX_VALUE)
    await made.t.start()
    return made


def effects(made: ServerUnderTest) -> dict[str, Any]:
    """What the commands have left behind: dirty writes, counts, and no write in flight."""
    dirty = {
        entry.key: (entry.value, entry.deleted, entry.expires_at, entry.journaled)
        for entry in made.t.dirty.values()
    }
    operations = {
        name: (made.calls[name].requests, made.calls[name].errors, made.calls[name].durations.cumulative()[-1])
        for name in ("get", "put", "delete")
    }
    commands = {name: (each.calls, each.failed, each.rejected) for name, each in made.context.stats.items()}
    assert not [*made.t.writes.busy()]
    return {
        "dirty": dirty,
        "acknowledged": made.t.writes.acknowledged,
        "operations": operations,
        "commands": commands,
        "errors": made.context.stats.errors,
        "s3": dict(made.t.store.objects),
    }


async def one_by_one(mode: Durability, stream: list[Argv], *, resp3: bool) -> tuple[list[bytes], dict[str, Any]]:
    made = await server(mode)
    client = made.connect(resp3=resp3)
    replies = [await client.request(*argv) for argv in stream]
    await client.idle()
    return replies, effects(made)


async def in_pieces(
    mode: Durability, stream: list[Argv], pieces: list[bytes], *, resp3: bool, wait: bool
) -> tuple[bytes, dict[str, Any], WireClient]:
    """Deliver the stream in `pieces`; with `wait`, everything that is ready happens between two of them."""
    made = await server(mode)
    client = made.connect(resp3=resp3)
    for piece in pieces:
        client.send(piece)
        if wait:
            await asyncio.sleep(0)
    replies = await client.replies(len(stream))
    await client.idle()
    assert client.take() == b""
    return replies, effects(made), client


def split_at(data: bytes, places: list[int]) -> list[bytes]:
    cuts = sorted({0, len(data), *(place % (len(data) + 1) for place in places)})
    return [data[start:end] for start, end in pairwise(cuts)]


@pytest.mark.parametrize("mode", ["memory", "back", "through"])
@settings(max_examples=150, deadline=None)
@given(stream=streams, places=st.lists(st.integers(0, 2**20), max_size=6), resp3=st.booleans(), wait=st.booleans())
@example(
    stream=[[b"SET", b"k", b"1"], [b"SET", b"k", b"2"], [b"GET", b"k"], [b"SET", b"", b"x"], [b"SET", b"l", b"3"]],
    places=[],
    resp3=False,
    wait=False,
)
@example(
    stream=[[b"SET", b"k", LIKE_A_SET], [b"SET", b"k", b"2"], [b"GET", b"k"], [b"INCR", b"k"], [b"GET", b"k"]],
    places=[60],
    resp3=True,
    wait=True,
)
def test_a_pipeline_is_replied_to_as_its_commands_one_by_one(
    mode: Durability, stream: list[Argv], places: list[int], resp3: bool, wait: bool
) -> None:
    async def test() -> None:
        expected, left = await one_by_one(mode, stream, resp3=resp3)
        data = b"".join(command(*argv) for argv in stream)
        replies, found, _ = await in_pieces(mode, stream, split_at(data, places), resp3=resp3, wait=wait)
        assert replies == b"".join(expected)
        assert found == left

    asyncio.run(test())


ends = st.sampled_from([[b"EXEC"], [b"EXEC"], [b"EXEC"], [b"DISCARD"]])
transactions = st.tuples(
    st.sampled_from([[], [], [], [[b"WATCH", b"k"]], [[b"WATCH", b"k"], [b"SET", b"k", b"w"]]]),
    st.lists(plain_sets, max_size=8) | st.lists(plain_sets | sets | gets | of_keys | others, max_size=6),
    ends,
).map(lambda made: [*made[0], [b"MULTI"], *made[1], made[2]])


@pytest.mark.parametrize("mode", ["memory", "back", "through"])
@settings(max_examples=60, deadline=None)
@given(
    parts=st.lists(transactions | plain_sets.map(lambda argv: [argv]), min_size=1, max_size=4),
    places=st.lists(st.integers(0, 2**20), max_size=6),
    resp3=st.booleans(),
    wait=st.booleans(),
)
@example(
    parts=[[[b"MULTI"], [b"SET", b"k", b"1"], [b"SET", b"l", b"2"], [b"SET", b"k", bytes(1025)], [b"EXEC"]]] * 2,
    places=[],
    resp3=False,
    wait=False,
)
@example(
    parts=[[[b"MULTI"], [b"SET", b"k", b"1"], [b"SET", b"l", bytes(MAX_VALUE + 1)], [b"EXEC"]]],
    places=[60],
    resp3=False,
    wait=False,
)
@example(
    parts=[
        [[b"MULTI"], [b"SET", b"k", b"1"], [b"GET", b"k"], [b"SET", b"l", b"1"], [b"SET", b"m", b"1"], [b"EXEC"]]
    ],
    places=[],
    resp3=False,
    wait=False,
)
def test_a_transaction_is_replied_to_as_that_of_a_client_that_writes_names_in_lower_case(
    mode: Durability, parts: list[list[Argv]], places: list[int], resp3: bool, wait: bool
) -> None:
    # Those are recognised by no fast path.
    stream = [argv for part in parts for argv in part]
    lower = [[argv[0].lower() if argv[0] in (b"SET", b"MULTI") else argv[0], *argv[1:]] for argv in stream]

    async def test() -> None:
        expected, left = await one_by_one(mode, lower, resp3=resp3)
        data = b"".join(command(*argv) for argv in stream)
        replies, found, _ = await in_pieces(mode, stream, split_at(data, places), resp3=resp3, wait=wait)
        assert replies == b"".join(expected)
        # A key that a transaction sets twice is written once, or twice.
        del found["acknowledged"], left["acknowledged"]
        assert found == left

    asyncio.run(test())


MIXED: list[Argv] = [
    [b"SET", b"k", b"1"],
    [b"SET", b"l", b"a\r\nb", b"EX", b"100"],
    [b"GET", b"k"],
    [b"SET", b"k", b"2", b"DURABILITY", b"memory"],
    [b"SET", b"", b"2"],
    [b"MSET", b"k", b"3", b"m", b"4"],
    [b"SET", b"m", LIKE_A_SET],
    [b"MGET", b"k", b"l", b"m", b"n"],
    [b"DEL", b"k", b"n"],
    [b"GET", b"k"],
]


@pytest.mark.parametrize("mode", ["memory", "back"])
async def test_the_same_bytes_split_at_any_place(mode: Durability) -> None:
    expected, left = await one_by_one(mode, MIXED, resp3=False)
    data = b"".join(command(*argv) for argv in MIXED)
    for place in range(1, len(data)):
        replies, found, _ = await in_pieces(
            mode, MIXED, [data[:place], data[place:]], resp3=False, wait=bool(place % 2)
        )
        assert replies == b"".join(expected), place
        assert found == left, place
    every_byte = [data[at : at + 1] for at in range(len(data))]
    assert (await in_pieces(mode, MIXED, every_byte, resp3=False, wait=False))[:2] == (b"".join(expected), left)
