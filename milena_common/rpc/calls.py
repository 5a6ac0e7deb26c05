"""Shell. What the handlers of gRPC calls share: who calls, the time that is left, errors, and what is open."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import AsyncGenerator, Awaitable, Callable
from typing import Any, Final, NamedTuple, Protocol

import grpc
from google.protobuf.message import DecodeError

from milena_common.access.api_guard import ApiGuard, Filter
from milena_common.access.principals import END_USER, Principal
from milena_common.access.rules import User
from milena_common.api.errors import DeadlineExceeded, InternalError, InvalidRequest, MilenaError, Moved, Overloaded
from milena_common.metrics.call_counts import OperationCounts
from milena_common.rpc.status import to_grpc
from milena_common.tls.peer import of_grpc

log = logging.getLogger(__name__)

# The port's name in counts and logs.
PORT: Final = "grpc"
# Details are sent in a header, three bytes for each that is not ASCII; beyond 8 KiB of headers the response is
# lost.
MAX_DETAILS_BYTES = 1500


class Message(Protocol):
    """The part of a protobuf message class that is used here."""

    @classmethod
    def FromString(cls, data: bytes) -> Any: ...


# Takes the request and its remaining seconds (None: no deadline); returns the serialized response.
Method = Callable[[Any, float | None], Awaitable[bytes]]
# As a `Method`, but yields any number of serialized responses.
StreamMethod = Callable[[Any, float | None], AsyncGenerator[bytes, None]]


class Allowed(NamedTuple):
    """A call that is allowed: to whom its bytes are charged (None: no user), and how its response is filtered."""

    user: User | None
    filter: Filter | None


class Caller:
    """The calls of one principal to one method. `end_user`: for whom they say to be made; "": the principal."""

    def __init__(self, guard: ApiGuard, principal: Principal, method: str, end_user: str = "") -> None:
        self._guard = guard
        self._principal = principal
        self._method = method
        self._end_user = end_user

    def authorize(self, request: Any, context: grpc.aio.ServicerContext[Any, Any]) -> Allowed:
        """Return what is allowed. Raises as `ApiGuard.authorize`, and as `Access.on_behalf_of`."""
        principal, access = self._principal, self._guard.access
        if principal.how == "none" and (certificate := of_grpc(context.auth_context())) is not None:
            principal = access.principal_of(certificate.names)
        if self._end_user:
            principal = access.on_behalf_of(principal, self._end_user, context.peer(), PORT)
        END_USER.set(access.forwarded_name(principal))
        filtered = self._guard.authorize(principal, self._method, request, context.peer(), PORT)
        return Allowed(principal.guard, filtered)

    def finished(self, allowed: Allowed, request_bytes: int, response: bytes) -> bytes:
        """Return the response as the principal may have it, and charge its limit with both sizes."""
        if allowed.user is not None:
            self._guard.charge(allowed.user, request_bytes + len(response))
        return allowed.filter(response) if allowed.filter is not None else response


def remaining_seconds(context: grpc.aio.ServicerContext[Any, Any]) -> float | None:
    """Return the call's remaining seconds, None without a deadline. Raises DeadlineExceeded if it has passed."""
    remaining = context.time_remaining()
    if remaining is not None and remaining <= 0:
        raise DeadlineExceeded("the call's time was over before it was begun")
    return remaining


def parse(kind: type[Message], received: bytes) -> Any:
    try:
        return kind.FromString(received)
    except DecodeError as error:
        raise InvalidRequest(f"request: is not a message of this method ({error})") from None


async def write(context: grpc.aio.ServicerContext[Any, Any], message: bytes) -> None:
    """Send a response of a stream. Raises CancelledError if the caller has gone.

    gRPC cancels the handler of such a call, but when it is writing the failure may come first.
    """
    try:
        await context.write(message)
    except grpc.aio.InternalError:
        raise asyncio.CancelledError from None


def reject(problem: Exception, context: grpc.aio.ServicerContext[Any, Any], counts: OperationCounts) -> None:
    """Set the status of `problem`, with which the call ends when its handler returns."""
    if not isinstance(problem, MilenaError):
        log.error("a call failed by a defect of this program", exc_info=problem)
    # The frames of `problem`, and of the errors in its context (which `from None` hides and keeps), reference the
    # request and the node's copy of it.
    problem.__traceback__ = problem.__context__ = problem.__cause__ = None
    if not isinstance(problem, MilenaError):
        problem = InternalError("a defect of Milena; the process's log has the details")
    status, details, metadata = to_grpc(problem)
    if isinstance(problem, Moved):
        counts.moved += 1
    else:
        counts.count_error(status.name.lower())
    details = details.encode(errors="replace")[:MAX_DETAILS_BYTES].decode(errors="ignore")
    # Not `context.abort`: gRPC keeps the error that it raises, whose frames keep the call's context. That cycle
    # lasts until the garbage collector runs, for minutes, and the call counts for MAX_CALLS_PER_CONNECTION until
    # then: after so many failed calls the connection would reject all that follow.
    context.set_code(status)
    context.set_details(details)
    context.set_trailing_metadata(metadata)


class Calls:
    """The number of calls in progress."""

    def __init__(self) -> None:
        self.number = 0
        self._none: asyncio.Event | None = None

    def begin(self) -> None:
        self.number += 1

    def end(self) -> None:
        self.number -= 1
        if self._none is not None and not self.number:
            self._none.set()

    async def none(self) -> None:
        """Return when no call is in progress."""
        if self.number:
            self._none = asyncio.Event()
            await self._none.wait()


class Streams:
    """The number of open streams, and its limit; as a context manager, it counts one more stream."""

    def __init__(self, max_open: int) -> None:
        self.max_open = max_open
        self.open = 0

    def __enter__(self) -> None:
        """Count a stream. Raises Overloaded at the limit."""
        if self.open >= self.max_open:
            raise Overloaded(f"open streams {self.open} are at the limit {self.max_open}")
        self.open += 1

    def __exit__(self, *_: object) -> None:
        self.open -= 1
