"""Errors as lines of the Redis protocol: every class comes back as itself, and no text breaks the line."""

from __future__ import annotations

import pytest
from redis.exceptions import MovedError

from milena_common.api import errors
from milena_common.resp.encoding import error_line
from milena_common.resp.errors import from_resp, to_resp

KINDS = [
    errors.AccessDenied,
    errors.ConditionFailed,
    errors.DeadlineExceeded,
    errors.FailedPrecondition,
    errors.InternalError,
    errors.InvalidRequest,
    errors.NodeLost,
    errors.NodeUnreachable,
    errors.NoNodes,
    errors.OriginUnavailable,
    errors.Overloaded,
    errors.Unavailable,
]


@pytest.mark.parametrize("kind", KINDS)
def test_an_error_comes_back_as_it_was(kind: type[errors.MilenaError]) -> None:
    back = from_resp(to_resp(kind("key: because")))
    assert (type(back), str(back)) == (kind, "key: because")


@pytest.mark.parametrize("kind", KINDS)
def test_a_text_with_line_ends_is_one_line(kind: type[errors.MilenaError]) -> None:
    assert to_resp(kind("one\r\n+OK\r\n two")) == f"{kind.code} one +OK two"
    assert error_line("ERR one\r\n+OK\r\n\udcff").count(b"\n") == 1


def test_when_to_come_again() -> None:
    line = to_resp(errors.RateLimited("too many", 0.0501))
    assert line == "RATELIMIT retry-after-ms=51 too many"
    back = from_resp(line)
    assert isinstance(back, errors.RateLimited)
    assert (str(back), back.retry_after) == ("too many", 0.051)
    assert isinstance(from_resp("RATELIMIT soon"), errors.RateLimited)


def test_when_to_come_again_to_a_slot_that_moves_and_to_a_node_that_is_fenced() -> None:
    for kind in (errors.TryAgain, errors.NoNodes):
        line = to_resp(kind("because", 0.25))
        assert line == f"{kind.code} retry-after-ms=250 because"
        back = from_resp(line)
        assert isinstance(back, kind)
        assert (str(back), back.retry_after) == ("because", 0.25)


@pytest.mark.parametrize(
    ("address", "line", "host"),
    [
        ("127.0.0.1:6379", "MOVED 5 127.0.0.1:6379", "127.0.0.1"),
        ("cache-1:6379", "MOVED 5 cache-1:6379", "cache-1"),
        ("[2001:db8::1]:6379", "MOVED 5 2001:db8::1:6379", "2001:db8::1"),
    ],
)
def test_a_redirection_has_the_form_of_redis(address: str, line: str, host: str) -> None:
    assert to_resp(errors.Moved(5, address)) == line
    back = from_resp(line)
    assert isinstance(back, errors.Moved)
    assert (back.slot, back.address) == (5, address)
    theirs = MovedError(line.removeprefix("MOVED "))
    assert (theirs.slot_id, theirs.host, theirs.port) == (5, host, 6379)


@pytest.mark.parametrize("line", ["", "NOSUCH word", "MOVED", "MOVED x a:1", "MOVED 5", "MOVED 5 a", "MOVED 5 a:b"])
def test_a_foreign_error_keeps_its_text(line: str) -> None:
    back = from_resp(line)
    assert isinstance(back, errors.InternalError)
    assert str(back) == line
