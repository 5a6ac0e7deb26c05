"""What is written to a node, and how its replies are read."""

from __future__ import annotations

import hiredis
import pytest
from hypothesis import given
from hypothesis import strategies as st

from milena_common.api.errors import InternalError, Moved, NodeLost, OriginUnavailable
from milena_common.api.pb import router_server_pb2 as pb
from milena_common.resp import client_commands
from milena_common.resp.client_commands import NOT_SENT

KEYS = st.lists(st.binary(min_size=1, max_size=1500), min_size=1, max_size=20)


def parsed(command: bytes) -> object:
    reader = hiredis.Reader()
    reader.feed(command)
    argv = reader.gets()
    assert not reader.has_data()
    return argv


@given(KEYS)
def test_commands_are_what_they_say(keys: list[bytes]) -> None:
    assert parsed(client_commands.get(keys[0])) == [b"GET", keys[0]]
    assert parsed(client_commands.mget(keys)) == [b"MGET", *keys]
    assert parsed(client_commands.call("Get", 1.5, keys[0])) == [b"MILENA.CALL", b"Get", b"1500", keys[0]]


def test_a_call_has_some_time_at_least() -> None:
    assert parsed(client_commands.call("Get", 0.0, b"")) == [b"MILENA.CALL", b"Get", b"1", b""]


def test_a_deferred_reply_is_distinguished_from_an_error() -> None:
    deferred = client_commands.error_of("DEFERRED 17")
    assert isinstance(deferred, client_commands.Deferred)
    assert deferred == 17
    assert isinstance(client_commands.error_of("DEFERRED soon"), InternalError)
    assert isinstance(client_commands.error_of("MOVED 5 a:1"), Moved)
    assert isinstance(client_commands.error_of("NODELOST gone"), NodeLost)


def test_a_reply_is_the_methods_message() -> None:
    response = pb.PutResponse(successful=True, etag='"e"')
    assert client_commands.decode_response("Put", response.SerializeToString()) == response


@pytest.mark.parametrize("reply", [None, 5, [b"a"], b"\xff\xff"])
def test_what_is_no_message_is_a_defect(reply: object) -> None:
    with pytest.raises(InternalError, match="is not a GetResponse"):
        client_commands.decode_response("Get", reply)


def test_values_are_one_for_each_key() -> None:
    assert client_commands.values([b"1", None], 2) == [b"1", None]
    lost = NodeLost("gone")
    assert client_commands.values(lost, 2) == [lost, lost]
    assert client_commands.values([b"1", b"2"], 1) == [NOT_SENT]
    assert client_commands.values(OriginUnavailable("one of the two"), 2) == [NOT_SENT] * 2
