"""Errors over the wire and back: the receiver raises the class that the sender did."""

from __future__ import annotations

from collections.abc import Iterator

import grpc
import pytest

from milena_common.api import errors
from milena_common.api.errors import MilenaError
from milena_common.rpc.status import from_grpc, is_response, to_grpc

StatusCode = grpc.StatusCode

STATUSES = {
    errors.InvalidRequest: StatusCode.INVALID_ARGUMENT,
    errors.RangeNotSatisfiable: StatusCode.INVALID_ARGUMENT,
    errors.AccessDenied: StatusCode.PERMISSION_DENIED,
    errors.Unauthenticated: StatusCode.UNAUTHENTICATED,
    errors.RateLimited: StatusCode.RESOURCE_EXHAUSTED,
    errors.Overloaded: StatusCode.RESOURCE_EXHAUSTED,
    errors.FailedPrecondition: StatusCode.FAILED_PRECONDITION,
    errors.ConditionFailed: StatusCode.FAILED_PRECONDITION,
    errors.KeyNotFound: StatusCode.INTERNAL,
    errors.Unavailable: StatusCode.UNAVAILABLE,
    errors.NoNodes: StatusCode.UNAVAILABLE,
    errors.TryAgain: StatusCode.UNAVAILABLE,
    errors.NodeLost: StatusCode.UNAVAILABLE,
    errors.WrongNode: StatusCode.UNAVAILABLE,
    errors.NodeUnreachable: StatusCode.UNAVAILABLE,
    errors.OriginUnavailable: StatusCode.UNAVAILABLE,
    errors.DeadlineExceeded: StatusCode.DEADLINE_EXCEEDED,
    errors.InternalError: StatusCode.INTERNAL,
}
LOCAL = {errors.ConfigError, errors.BatchError}
WITH_FIELDS = {errors.Moved}


def tree(kind: type[MilenaError] = MilenaError) -> Iterator[type[MilenaError]]:
    for child in kind.__subclasses__():
        if child.__module__ == errors.__name__:
            yield child
            yield from tree(child)


def test_every_error_class_is_covered_here() -> None:
    assert set(tree()) == {*STATUSES, *LOCAL, *WITH_FIELDS}


def test_a_router_that_does_not_know_the_ring_yet_says_when_to_come_again() -> None:
    status, details, metadata = to_grpc(errors.NoNodes("recovers", retry_after=0.5))
    assert ("retry-after-ms", "500") in metadata
    back = from_grpc(status, details, metadata)
    assert isinstance(back, errors.NoNodes)
    assert back.retry_after == 0.5


def test_a_slot_that_moves_says_when_to_come_again() -> None:
    status, details, metadata = to_grpc(errors.TryAgain("slot 5 moves", retry_after=0.1))
    assert ("retry-after-ms", "100") in metadata
    back = from_grpc(status, details, metadata)
    assert isinstance(back, errors.TryAgain)
    assert back.retry_after == 0.1


def test_error_codes_are_unique() -> None:
    words = [MilenaError.code, *(kind.code for kind in tree())]
    assert len(set(words)) == len(words)


@pytest.mark.parametrize(("kind", "status"), STATUSES.items())
def test_an_error_arrives_as_what_it_was(kind: type[MilenaError], status: grpc.StatusCode) -> None:
    sent, details, metadata = to_grpc(kind("because"))
    assert sent is status
    assert details == "because"
    assert is_response(metadata)
    arrived = from_grpc(sent, details, metadata)
    assert type(arrived) is kind
    assert str(arrived) == "because"


@pytest.mark.parametrize(
    "error", [errors.ConfigError(["A: wrong", "B: wrong"]), errors.BatchError({"k": errors.NodeLost("gone")}, {})]
)
def test_errors_that_a_text_cannot_carry_arrive_as_internal(error: MilenaError) -> None:
    arrived = from_grpc(*to_grpc(error))
    assert type(arrived) is errors.InternalError
    assert str(error) in str(arrived)


@pytest.mark.parametrize(
    ("seconds", "milliseconds", "read"), [(0.25, "250", 0.25), (0.0001, "1", 0.001), (0, "0", 0)]
)
def test_retry_after_is_rounded_up_to_milliseconds(seconds: float, milliseconds: str, read: float) -> None:
    status, details, metadata = to_grpc(errors.RateLimited("slow down", seconds))
    assert ("retry-after-ms", milliseconds) in metadata
    arrived = from_grpc(status, details, metadata)
    assert isinstance(arrived, errors.RateLimited)
    assert arrived.retry_after == read


@pytest.mark.parametrize("retry_after", ["", "soon", "-1", "1e3", "9" * 5000, b"12", b"\xff"])
def test_any_retry_after_is_survived(retry_after: str | bytes) -> None:
    metadata = (("milena-error", "RATELIMIT"), ("retry-after-ms", retry_after))
    arrived = from_grpc(StatusCode.RESOURCE_EXHAUSTED, "x", metadata)
    assert isinstance(arrived, errors.RateLimited)
    assert arrived.retry_after == (0.012 if retry_after == b"12" else 0)


def test_where_a_key_moved_to_arrives() -> None:
    sent = errors.Moved(5, "[::1]:6379")
    status, details, metadata = to_grpc(sent)
    assert status is StatusCode.UNAVAILABLE
    assert is_response(metadata)
    arrived = from_grpc(status, details, metadata)
    assert isinstance(arrived, errors.Moved)
    assert (str(arrived), arrived.slot, arrived.address) == (str(sent), 5, "[::1]:6379")


@pytest.mark.parametrize("moved", ["", " ", "5", "5 ", "-1 a:1", "16384 a:1", "9" * 5000, "² a:1", b"\xff"])
def test_where_a_key_moved_to_may_be_anything(moved: str | bytes) -> None:
    arrived = from_grpc(StatusCode.UNAVAILABLE, "x", (("milena-error", "MOVED"), ("milena-moved", moved)))
    assert type(arrived) is errors.Unavailable
    assert str(arrived) == "x"


@pytest.mark.parametrize("metadata", [None, (), (("milena-error", "NEWWORD"),), (("other", b"\xff"),)])
@pytest.mark.parametrize(
    ("status", "kind"),
    [
        (StatusCode.INVALID_ARGUMENT, errors.InvalidRequest),
        (StatusCode.PERMISSION_DENIED, errors.AccessDenied),
        (StatusCode.RESOURCE_EXHAUSTED, errors.Overloaded),
        (StatusCode.FAILED_PRECONDITION, errors.FailedPrecondition),
        (StatusCode.UNAVAILABLE, errors.Unavailable),
        (StatusCode.DEADLINE_EXCEEDED, errors.DeadlineExceeded),
    ],
)
def test_a_status_without_a_word_of_ours_is_the_nearest_class(
    status: grpc.StatusCode, kind: type[MilenaError], metadata: tuple[tuple[str, str | bytes], ...] | None
) -> None:
    arrived = from_grpc(status, "text", metadata)
    assert type(arrived) is kind
    assert str(arrived) == "text"


@pytest.mark.parametrize("status", [StatusCode.UNKNOWN, StatusCode.UNIMPLEMENTED, StatusCode.DATA_LOSS])
def test_a_status_that_we_never_send_is_internal_and_named(status: grpc.StatusCode) -> None:
    arrived = from_grpc(status, "what?", None)
    assert type(arrived) is errors.InternalError
    assert str(arrived) == f"{status.name}: what?"


def test_without_details_the_status_is_the_text() -> None:
    assert str(from_grpc(StatusCode.UNAVAILABLE, None, None)) == "UNAVAILABLE"


def test_a_frame_that_grpc_rejected_is_a_value_that_is_too_large() -> None:
    words = "SERVER: Received message larger than max (70000000 vs. 67174400)"
    arrived = from_grpc(StatusCode.RESOURCE_EXHAUSTED, words, ())
    assert type(arrived) is errors.InvalidRequest
    assert str(arrived) == f"value: {words}"


def test_a_status_made_by_the_transport_is_no_reply() -> None:
    assert not is_response(None)
    assert not is_response((("grpc-status-details", b"x"),))


@pytest.mark.parametrize(
    ("kind", "builtin"),
    [
        (errors.InvalidRequest, ValueError),
        (errors.AccessDenied, PermissionError),
        (errors.KeyNotFound, KeyError),
        (errors.NodeLost, ConnectionError),
        (errors.DeadlineExceeded, TimeoutError),
    ],
)
def test_an_error_is_a_builtin_where_one_fits(kind: type[MilenaError], builtin: type[Exception]) -> None:
    assert issubclass(kind, builtin)
    assert str(kind("plain words")) == "plain words"


def test_a_batch_error_names_its_first_key() -> None:
    error = errors.BatchError({b"a": errors.NodeLost("gone"), "b": errors.NoNodes("none")}, {"c": 1})
    assert str(error) == "2 keys failed; the first, b'a': gone"
    assert set(error.errors) == {b"a", "b"}
