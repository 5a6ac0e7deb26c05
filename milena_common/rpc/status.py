"""Pure. Converts Milena's errors to gRPC statuses, and back.

The status has trailing metadata: `milena-error`, the code word of the error's class, so that the receiver raises
the same class, and can distinguish a reply of Milena ("S3 is down") from a failure of the transport ("connection
refused"); `retry-after-ms` with a rate limit or an overload, while a slot moves, and while a restarted router has
no ring yet; and `milena-moved`, slot and owner's address, for a key that another node owns.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from math import ceil

import grpc

from milena_common.api import errors
from milena_common.api.errors import MilenaError
from milena_common.cluster.slots import SLOTS

CODE_WORD = "milena-error"
RETRY_AFTER_MS = "retry-after-ms"
MOVED_TO = "milena-moved"

Metadata = tuple[tuple[str, str], ...]

_STATUS: tuple[tuple[type[MilenaError], grpc.StatusCode], ...] = (
    (errors.InvalidRequest, grpc.StatusCode.INVALID_ARGUMENT),
    (errors.AccessDenied, grpc.StatusCode.PERMISSION_DENIED),
    (errors.Unauthenticated, grpc.StatusCode.UNAUTHENTICATED),
    (errors.RateLimited, grpc.StatusCode.RESOURCE_EXHAUSTED),
    (errors.Overloaded, grpc.StatusCode.RESOURCE_EXHAUSTED),
    (errors.FailedPrecondition, grpc.StatusCode.FAILED_PRECONDITION),
    (errors.Unavailable, grpc.StatusCode.UNAVAILABLE),
    (errors.DeadlineExceeded, grpc.StatusCode.DEADLINE_EXCEEDED),
)
_CLASS_BY_STATUS: dict[grpc.StatusCode, type[MilenaError]] = {
    grpc.StatusCode.RESOURCE_EXHAUSTED: errors.Overloaded,
    **{status: kind for kind, status in _STATUS if kind is not errors.RateLimited},
}


def _below(kind: type[MilenaError]) -> Iterator[type[MilenaError]]:
    for child in kind.__subclasses__():
        yield child
        yield from _below(child)


# Errors with more content than a text can carry are raised where they occur, and never sent.
_LOCAL = (errors.BatchError, errors.ConfigError)
_CLASS_BY_WORD = {
    kind.code: kind for kind in _below(MilenaError) if kind.__module__ == errors.__name__ and kind not in _LOCAL
}


def to_grpc(error: MilenaError) -> tuple[grpc.StatusCode, str, Metadata]:
    """Return status, details and trailing metadata for `error`."""
    status = next((status for kind, status in _STATUS if isinstance(error, kind)), grpc.StatusCode.INTERNAL)
    metadata: Metadata = ((CODE_WORD, error.code),)
    if isinstance(error, errors.RateLimited | errors.Overloaded | errors.TryAgain) or (
        isinstance(error, errors.NoNodes) and error.retry_after
    ):
        metadata += ((RETRY_AFTER_MS, str(ceil(error.retry_after * 1000))),)
    if isinstance(error, errors.Moved):
        metadata += ((MOVED_TO, f"{error.slot} {error.address}"),)
    return status, str(error), metadata


def from_grpc(
    status: grpc.StatusCode, details: str | None, metadata: Iterable[tuple[str, str | bytes]] | None
) -> MilenaError:
    """Return the error for a status with its details and trailing metadata."""
    extra = {key: value for key, value in metadata or ()}
    text = details or status.name
    kind = _CLASS_BY_WORD.get(str(extra.get(CODE_WORD)))
    if kind is errors.RateLimited or kind is errors.NoNodes or kind is errors.TryAgain:
        return kind(text, _milliseconds(extra.get(RETRY_AFTER_MS)) / 1000)
    if kind is errors.Overloaded and RETRY_AFTER_MS in extra:
        return errors.Overloaded(text, _milliseconds(extra.get(RETRY_AFTER_MS)) / 1000)
    if kind is errors.Moved:
        slot, _, address = str(extra.get(MOVED_TO, "")).partition(" ")
        return errors.Moved(int(slot), address) if _is_slot(slot) and address else errors.Unavailable(text)
    if kind is None and status is grpc.StatusCode.RESOURCE_EXHAUSTED and "larger than max" in text:
        # gRPC itself rejected a frame beyond the receiver's limit; its text has both sizes.
        return errors.InvalidRequest(f"value: {text}")
    if kind is None:
        kind = _CLASS_BY_STATUS.get(status, errors.InternalError)
        text = f"{status.name}: {text}" if kind is errors.InternalError else text
    return kind(text)


def is_shed(status: grpc.StatusCode, details: str | None) -> bool:
    """True if the server's gRPC ended a call that had waited MAX_PENDING_SECONDS to begin: nothing was done.

    Its details are this word alone. A call that has begun never ends so: if its server stops, it is UNAVAILABLE.
    What a proxy breaks off has other details, and may have been done.
    """
    return status is grpc.StatusCode.CANCELLED and details == "CANCELLED"


def _milliseconds(text: str | bytes | None) -> int:
    """Return the number; 0 for an invalid one, since the peer may be any program."""
    return int(text) if text is not None and len(text) < 10 and text.isdigit() else 0


def _is_slot(text: str) -> bool:
    return len(text) < 6 and text.isascii() and text.isdigit() and int(text) < SLOTS


def is_response(metadata: Iterable[tuple[str, str | bytes]] | None) -> bool:
    """True if Milena sent the status of a failed call, and not the transport."""
    return any(key == CODE_WORD for key, _ in metadata or ())
