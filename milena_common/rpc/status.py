"""Pure. Milena's errors as gRPC statuses, and back.

Beside the status goes trailing metadata: `milena-error`, the code word of the error's class, so that the
receiver raises the class that was meant, and can tell an answer of Milena's ("S3 is down") from one that the
transport made up ("connection refused"); `retry-after-ms` with a rate limit or an overload, and while a router that
has started does not know the ring yet; and `milena-moved`, slot and owner's address, with a key that another node
owns.
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


# Those that say more than a text can carry are raised where they happen, and never sent.
_LOCAL = (errors.BatchError, errors.ConfigError)
_CLASS_BY_WORD = {
    kind.code: kind for kind in _below(MilenaError) if kind.__module__ == errors.__name__ and kind not in _LOCAL
}


def to_grpc(error: MilenaError) -> tuple[grpc.StatusCode, str, Metadata]:
    """Status, details and trailing metadata that say `error`."""
    status = next((status for kind, status in _STATUS if isinstance(error, kind)), grpc.StatusCode.INTERNAL)
    metadata: Metadata = ((CODE_WORD, error.code),)
    if isinstance(error, errors.RateLimited | errors.Overloaded) or (
        isinstance(error, errors.NoNodes) and error.retry_after
    ):
        metadata += ((RETRY_AFTER_MS, str(ceil(error.retry_after * 1000))),)
    if isinstance(error, errors.Moved):
        metadata += ((MOVED_TO, f"{error.slot} {error.address}"),)
    return status, str(error), metadata


def from_grpc(
    status: grpc.StatusCode, details: str | None, metadata: Iterable[tuple[str, str | bytes]] | None
) -> MilenaError:
    """The error that a status with its details and trailing metadata means."""
    extra = {key: value for key, value in metadata or ()}
    text = details or status.name
    kind = _CLASS_BY_WORD.get(str(extra.get(CODE_WORD)))
    if kind is errors.RateLimited or kind is errors.NoNodes:
        return kind(text, _milliseconds(extra.get(RETRY_AFTER_MS)) / 1000)
    if kind is errors.Overloaded and RETRY_AFTER_MS in extra:
        return errors.Overloaded(text, _milliseconds(extra.get(RETRY_AFTER_MS)) / 1000)
    if kind is errors.Moved:
        slot, _, address = str(extra.get(MOVED_TO, "")).partition(" ")
        return errors.Moved(int(slot), address) if _is_slot(slot) and address else errors.Unavailable(text)
    if kind is None and status is grpc.StatusCode.RESOURCE_EXHAUSTED and "larger than max" in text:
        # gRPC itself refused a frame beyond the receiver's limit; both sizes are in its words.
        return errors.InvalidRequest(f"value: {text}")
    if kind is None:
        kind = _CLASS_BY_STATUS.get(status, errors.InternalError)
        text = f"{status.name}: {text}" if kind is errors.InternalError else text
    return kind(text)


def _milliseconds(text: str | bytes | None) -> int:
    """Zero for what is no such number: the other side may be anybody."""
    return int(text) if text is not None and len(text) < 10 and text.isdigit() else 0


def _is_slot(text: str) -> bool:
    return len(text) < 6 and text.isascii() and text.isdigit() and int(text) < SLOTS


def is_response(metadata: Iterable[tuple[str, str | bytes]] | None) -> bool:
    """Whether a failed call was answered by Milena, and not broken off by the transport."""
    return any(key == CODE_WORD for key, _ in metadata or ())
