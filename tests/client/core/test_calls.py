"""Retries and deadlines of single calls, on the sync and the async client alike."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from typing import Any

import pytest
from google.protobuf.message import Message

from milena_client import AsyncMilena, Flushed, Milena
from milena_client.aio.caller import AsyncCaller
from milena_client.core import operations
from milena_client.core.calls import FailedAttempt, Retries, failed_attempt
from milena_client.core.limits import DEFAULT_TIMEOUT
from milena_client.core.rate_limit_queue import RateLimitQueue
from milena_client.core.retry import DEFAULT_RETRY, Attempts, RetryBudget
from milena_client.sync.caller import Caller
from milena_client.testing import FakeAsyncClock, FakeClock
from milena_common.api.errors import (
    ConditionFailed,
    DeadlineExceeded,
    FailedPrecondition,
    InternalError,
    InvalidRequest,
    MilenaError,
    Moved,
    NodeLost,
    NoNodes,
    RateLimited,
    Unavailable,
)
from milena_common.api.pb import router_server_pb2 as pb
from milena_common.process.env import Environment
from milena_common.resp.client_commands import NOT_SENT
from milena_router import config as router_config
from tests.client.scripted import FOUND, WRITTEN, Reply, Script, ScriptedAsyncTransport, ScriptedTransport

Do = Callable[..., Any]


@pytest.fixture(params=["sync", "async"])
def client(request: pytest.FixtureRequest) -> Callable[..., tuple[Do, Script]]:
    """Makes (a way to call a method, the script behind it)."""

    def make(*replies: Reply, seconds: float = 0.0, timeout: float = 5.0) -> tuple[Do, Script]:
        if request.param == "sync":
            clock = FakeClock()
            script = Script(clock, *replies, seconds=seconds)
            sync = Milena(timeout=timeout, transport=ScriptedTransport(script), clock=clock)
            return (lambda name, *args, **more: getattr(sync, name)(*args, **more)), script
        async_clock = FakeAsyncClock()
        script = Script(async_clock, *replies, seconds=seconds)
        client = AsyncMilena(timeout=timeout, transport=ScriptedAsyncTransport(script), clock=async_clock)
        return (lambda name, *args, **more: asyncio.run(getattr(client, name)(*args, **more))), script

    return make


def test_one_success_is_one_call_with_the_whole_time(client: Any) -> None:
    do, script = client(FOUND)
    assert do("get", "k") == b"v"
    assert script.timeouts == [5.0]


def test_a_read_survives_a_lost_node(client: Any) -> None:
    do, script = client(NodeLost("a"), NodeLost("b"), FOUND)
    assert do("get", "k") == b"v"
    assert len(script.timeouts) == 3


def test_each_attempt_has_the_time_that_is_left(client: Any) -> None:
    do, script = client(Unavailable("a"), FOUND, seconds=1.0)
    do("get", "k")
    pause = script.clock.time - 2.0
    assert 0 < pause <= 0.05
    assert script.timeouts == pytest.approx([5.0, 4.0 - pause])


def test_a_write_of_unknown_outcome_is_not_repeated(client: Any) -> None:
    do, script = client(NodeLost("gone"), WRITTEN)
    with pytest.raises(NodeLost, match="gone"):
        do("set", "k", b"v")
    assert len(script.timeouts) == 1


@pytest.mark.parametrize("error", [NodeLost("gone"), ConditionFailed("if_match: another")])
def test_a_conditional_write_is_never_repeated(client: Any, error: MilenaError) -> None:
    """The first attempt may have been made, and would be what the second one finds."""
    do, script = client(error, WRITTEN)
    with pytest.raises(type(error)):
        do("set", "k", b"v", if_none_match="*")
    assert len(script.timeouts) == 1


@pytest.mark.parametrize(
    ("name", "more", "request_"),
    [
        ("set", {}, pb.PutRequest(key=b"k", value=b"v")),
        (
            "set",
            {"durability": "through", "if_match": '"e"'},
            pb.PutRequest(key=b"k", value=b"v", durability="through", if_match='"e"'),
        ),
        ("set", {"if_none_match": "*"}, pb.PutRequest(key=b"k", value=b"v", if_none_match="*")),
        ("delete", {}, pb.DeleteRequest(key=b"k")),
        (
            "delete",
            {"durability": "memory", "if_match": '"e"'},
            pb.DeleteRequest(key=b"k", durability="memory", if_match='"e"'),
        ),
    ],
)
def test_the_conditions_of_a_write_are_sent(client: Any, name: str, more: Any, request_: Message) -> None:
    do, script = client(WRITTEN)
    assert do(name, "k", *([b"v"] if name == "set" else []), **more).durability == "back"
    assert script.requests == [request_]


def test_what_is_waited_for_travels(client: Any) -> None:
    do, script = client(pb.FlushResponse())
    do("flush")
    do("wait_durable", "k", b"l")
    assert script.requests == [pb.FlushRequest(), pb.FlushRequest(keys=[b"k", b"l"])]


def test_an_entry_says_whether_s3_has_it(client: Any) -> None:
    do, _ = client(pb.GetResponse(successful=True, value=b"v", dirty=True), FOUND)
    assert do("get_entry", "k").dirty is True
    assert do("get_entry", "k").dirty is False


def test_flush_reports_what_remains(client: Any) -> None:
    do, script = client(pb.FlushResponse(remaining=1, failed=2, flushed=3))
    assert do("flush") == Flushed(remaining=1, failed=2, flushed=3)
    assert script.timeouts == [60.0]


def test_flush_survives_a_lost_node(client: Any) -> None:
    do, script = client(NodeLost("gone"), pb.FlushResponse(flushed=3))
    assert do("flush", timeout=10.0).flushed == 3
    assert len(script.timeouts) == 2


def test_what_is_not_durable_in_time_says_how_much(client: Any) -> None:
    do, _ = client(pb.FlushResponse(remaining=2))
    with pytest.raises(DeadlineExceeded, match=r"2 writes are not in S3 after 1\.5 s"):
        do("wait_durable", "k", "l", "m", timeout=1.5)


def test_a_rejection_by_s3_is_not_waited_for(client: Any) -> None:
    do, _ = client(pb.FlushResponse(remaining=2, failed=1))
    with pytest.raises(
        FailedPrecondition, match=r"S3 rejects 1 of these writes permanently.*milena writeback failed"
    ):
        do("wait_durable", "k")


def test_a_write_waits_for_the_rate_limit(client: Any) -> None:
    do, script = client(RateLimited("slow down", 1.5), WRITTEN)
    assert do("set", "k", b"v").etag == '"e"'
    assert script.clock.time >= 1.5


def test_a_rate_limit_beyond_the_deadline_is_raised_at_once(client: Any) -> None:
    do, script = client(RateLimited("slow down", 10.0))
    with pytest.raises(RateLimited) as error:
        do("get", "k")
    assert error.value.retry_after == 10.0
    assert script.clock.time == 0


def test_retries_end_with_the_cause_and_within_the_time(client: Any) -> None:
    do, script = client(Unavailable("S3 is down"))
    with pytest.raises(Unavailable, match="S3 is down"):
        do("get", "k", timeout=2.0)
    assert len(script.timeouts) > 2
    assert script.clock.time < 2.0


def test_a_last_attempt_that_hangs_reports_the_cause(client: Any) -> None:
    do, _ = client(Unavailable("S3 is down"), DeadlineExceeded("Deadline Exceeded"))
    with pytest.raises(Unavailable, match="S3 is down"):
        do("get", "k")


def test_a_timeout_names_operation_key_and_seconds(client: Any) -> None:
    do, _ = client(DeadlineExceeded("Deadline Exceeded"))
    with pytest.raises(DeadlineExceeded, match=r"set 'a/ü': not finished within 0\.25 s") as error:
        do("set", "a/ü", b"", timeout=0.25)
    assert isinstance(error.value, TimeoutError)


@pytest.mark.parametrize("timeout", [0, -1, float("nan"), float("inf")])
def test_a_timeout_that_is_none_is_rejected(client: Any, timeout: float) -> None:
    do, script = client(FOUND)
    with pytest.raises(InvalidRequest, match="timeout"):
        do("get", "k", timeout=timeout)
    assert not script.timeouts


@pytest.mark.parametrize("name", ["set", "delete"])
def test_a_write_without_success_and_without_reason_is_an_error(client: Any, name: str) -> None:
    do, _ = client(pb.PutResponse(successful=False))
    with pytest.raises(InternalError, match=name):
        do(name, "k", *([b"v"] if name == "set" else []))


def test_calls_share_the_budget(client: Any) -> None:
    do, script = client(Unavailable("down"))
    for _ in range(40):
        with pytest.raises(MilenaError):
            do("get", "k")
    assert len(script.timeouts) == 40 + DEFAULT_RETRY.tokens


def test_the_bucket_travels_with_every_request() -> None:
    clock = FakeClock()
    script = Script(clock, FOUND)
    Milena(bucket="logs", transport=ScriptedTransport(script), clock=clock).get("k")
    (request,) = script.requests
    assert isinstance(request, pb.GetRequest)
    assert (request.key, request.bucket, request.metadata_only) == (b"k", "logs", False)


def test_exists_does_not_transfer_the_value() -> None:
    clock = FakeClock()
    script = Script(clock, FOUND)
    assert "k" in Milena(transport=ScriptedTransport(script), clock=clock)
    (request,) = script.requests
    assert isinstance(request, pb.GetRequest)
    assert request.metadata_only


def test_a_wrong_bucket_or_timeout_is_rejected_when_the_client_is_made() -> None:
    for kind in (Milena, AsyncMilena):
        with pytest.raises(InvalidRequest, match="bucket"):
            kind(bucket="No")
        with pytest.raises(InvalidRequest, match="timeout"):
            kind(timeout=0)


@pytest.mark.parametrize("kind", ["sync", "async"])
def test_a_call_may_begin_with_an_attempt_that_was_made_outside(kind: str) -> None:
    """It counts as the first one: for what may be repeated, for the time that is left, and for the pause."""
    clock: Any = FakeClock() if kind == "sync" else FakeAsyncClock()
    script = Script(clock, FOUND)
    retries = Retries(5.0, DEFAULT_RETRY)
    caller: Any
    if kind == "sync":
        caller = Caller(ScriptedTransport(script), retries, clock)
    else:
        caller = AsyncCaller(ScriptedAsyncTransport(script), retries, clock)

    def run(*args: Any) -> Any:
        return caller.run(*args) if kind == "sync" else asyncio.run(caller.run(*args))

    clock.time = 12.0
    assert run(operations.get("k", ""), None, FailedAttempt(10.0, NodeLost("gone"))) == b"v"
    assert clock.time > 12.0
    assert script.timeouts == [pytest.approx(15.0 - clock.time)]
    with pytest.raises(NodeLost, match="gone"):
        run(operations.put("k", b"v", ""), None, FailedAttempt(clock.time, NodeLost("gone")))
    with pytest.raises(DeadlineExceeded, match=r"get 'k': not finished within 5 s \(silence\)"):
        run(operations.get("k", ""), None, FailedAttempt(clock.time, DeadlineExceeded("silence")))
    assert len(script.timeouts) == 1


def test_a_call_has_time_for_the_loss_of_a_node_by_default() -> None:
    """A node that dies holds its slots until its lease is over; then there has to be time with the next owner."""
    assert 2 * router_config.load(Environment({}), 2**30).lease_seconds <= DEFAULT_TIMEOUT
    clock = FakeClock()
    policy, rng = DEFAULT_RETRY, lambda: 0.999
    calls = Attempts(
        policy, RetryBudget(policy), RateLimitQueue(), repeatable=True, deadline=DEFAULT_TIMEOUT, rng=rng
    )
    while clock.time < router_config.load(Environment({}), 2**30).lease_seconds + 1:
        delay = calls.next_delay(NodeLost("gone"), clock.time)
        assert delay is not None
        clock.sleep(delay)


def test_what_a_first_attempt_came_to() -> None:
    lost = NodeLost("gone")
    assert failed_attempt(1.0, lost) == FailedAttempt(1.0, lost)
    for nothing_done in (NOT_SENT, Moved(5, "a:1"), NoNodes("no ring"), [b"not", b"a value"]):
        assert failed_attempt(1.0, nothing_done) is None
