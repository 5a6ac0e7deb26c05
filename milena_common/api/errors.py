"""Pure. Every error that Milena raises or sends, in one tree.

    MilenaError
    ├── InvalidRequest      ValueError        INVALID_ARGUMENT      ERR
    │   └── RangeNotSatisfiable                                     RANGE
    ├── ConfigError         ValueError        (exit 2)              CONFIG
    ├── AccessDenied        PermissionError   PERMISSION_DENIED     NOPERM
    ├── Unauthenticated     PermissionError   UNAUTHENTICATED       NOAUTH
    ├── RateLimited                           RESOURCE_EXHAUSTED    RATELIMIT
    ├── Overloaded                            RESOURCE_EXHAUSTED    BUSY
    ├── FailedPrecondition                    FAILED_PRECONDITION   PRECONDITION
    │   └── ConditionFailed                                         CONDITION
    ├── KeyNotFound         KeyError          (never on the wire)   NOTFOUND
    ├── Unavailable         ConnectionError   UNAVAILABLE           UNAVAILABLE
    │   ├── NoNodes                                                 CLUSTERDOWN
    │   ├── TryAgain                                                TRYAGAIN
    │   ├── NodeLost                                                NODELOST
    │   │   └── NodeUnreachable                                     NODEUNREACHABLE
    │   ├── WrongNode                                               WRONGNODE
    │   ├── Moved                                                   MOVED
    │   └── OriginUnavailable                                       ORIGINDOWN
    ├── DeadlineExceeded    TimeoutError      DEADLINE_EXCEEDED     TIMEOUT
    ├── InternalError                         INTERNAL              INTERNAL
    └── BatchError                            (of the *_many calls) BATCH

The last column is the error's code word: stable, one for each class, sent beside the status so that the
receiver raises the same class that the sender did. Where a builtin fits, an error is one, so that
``except TimeoutError`` works in code that does not import Milena.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, ClassVar


class MilenaError(Exception):
    """Root of the tree.

    Every error can be pickled and copied, including one whose constructor takes other arguments than `args`:
    process pools send errors to their parent that way, and a pool whose result cannot be unpickled hangs or breaks.
    """

    code: ClassVar[str] = "ERROR"

    def __str__(self) -> str:
        # KeyError would print the repr of its argument.
        return str(self.args[0]) if self.args else ""

    def __reduce__(self) -> tuple[Any, ...]:
        # The default calls the class with `args`, which not every constructor accepts.
        return _restored, (type(self), self.args), self.__dict__ or None


def _restored(kind: type[MilenaError], args: tuple[Any, ...]) -> MilenaError:
    """Return an error of `kind` without calling its constructor; pickle sets its attributes afterwards."""
    error = kind.__new__(kind, *args)
    error.args = args
    return error


class InvalidRequest(MilenaError, ValueError):
    """A field of the request is outside its allowed range; repeating the request cannot succeed."""

    code = "ERR"


class RangeNotSatisfiable(InvalidRequest):
    """The range of bytes begins behind the end of the object, or ends before its beginning."""

    code = "RANGE"


class ConfigError(MilenaError, ValueError):
    """The environment is not a valid configuration, or a URL is not a valid cluster address.

    `problems` has one line for each variable, or part of the URL, that is invalid.
    """

    code = "CONFIG"

    def __init__(self, problems: list[str]) -> None:
        super().__init__("\n".join(problems))
        self.problems = problems


class AccessDenied(MilenaError, PermissionError):
    """The user may not do this, the nodes do not serve the bucket, or S3 denies Milena access to it."""

    code = "NOPERM"


class Unauthenticated(MilenaError, PermissionError):
    """User name, password or token are missing or wrong; nothing was done."""

    code = "NOAUTH"


class RateLimited(MilenaError):
    """More requests than `RATE_LIMIT` allows; nothing was done.

    `retry_after` is the number of seconds after which to try again.
    """

    code = "RATELIMIT"

    def __init__(self, message: str, retry_after: float = 0.0) -> None:
        super().__init__(message)
        self.retry_after = retry_after


class Overloaded(MilenaError):
    """The process has reached its limit of requests or bytes in flight; nothing was done.

    `retry_after` is the number of seconds after which to try again.
    """

    code = "BUSY"

    def __init__(self, message: str, retry_after: float = 0.1) -> None:
        super().__init__(message, retry_after)
        self.retry_after = retry_after


class FailedPrecondition(MilenaError):
    """The state of the system does not allow the request, or the client is closed; repeating it does not help."""

    code = "PRECONDITION"


class ConditionFailed(FailedPrecondition):
    """The object does not satisfy `if_match` or `if_none_match`; nothing was written."""

    code = "CONDITION"


class KeyNotFound(MilenaError, KeyError):
    """The object does not exist; raised only by `cache[key]` and `open`."""

    code = "NOTFOUND"


class Unavailable(MilenaError, ConnectionError):
    """The request cannot be served at present. A read may be repeated; a write may or may not have happened."""

    code = "UNAVAILABLE"
    # True if it is certain that nothing was sent, so that a write may be repeated.
    nothing_sent = False


class NoNodes(Unavailable):
    """The ring has no node, or is not known yet; nothing was done.

    `retry_after` is the number of seconds after which to try again; 0 if unknown.
    """

    code = "CLUSTERDOWN"

    def __init__(self, message: str, retry_after: float = 0.0) -> None:
        super().__init__(message)
        self.retry_after = retry_after


class TryAgain(Unavailable):
    """The key's slot moves between nodes, or its new owner may not serve it yet; nothing was done.

    `retry_after` is the number of seconds after which to try again.
    """

    code = "TRYAGAIN"

    def __init__(self, message: str, retry_after: float = 0.0) -> None:
        super().__init__(message)
        self.retry_after = retry_after


class NodeLost(Unavailable):
    """The node that owns the key cannot be reached, or does not respond."""

    code = "NODELOST"


class NodeUnreachable(NodeLost):
    """No connection to the node that owns the key can be made; nothing was sent, so nothing was done."""

    code = "NODEUNREACHABLE"


class WrongNode(Unavailable):
    """The address belongs to another node, cluster or bucket than the caller named; nothing was done."""

    code = "WRONGNODE"


class Moved(Unavailable):
    """The node that received the request does not own the key's slot; nothing was done.

    `slot` is the slot, and `address` the host:port of its owner's RESP server; `tls_address` is the one with TLS,
    "" where there is none. If the owner serves TLS only, both are that.
    """

    code = "MOVED"

    def __init__(self, slot: int, address: str, tls_address: str = "") -> None:
        super().__init__(f"slot {slot} is owned by the node at {address}")
        self.slot = slot
        self.address = address
        self.tls_address = tls_address


class OriginUnavailable(Unavailable):
    """S3 does not respond, or responds with errors, and there is no cached entry to serve."""

    code = "ORIGINDOWN"


class DeadlineExceeded(MilenaError, TimeoutError):
    """Not finished within the `timeout`; a write may or may not have happened."""

    code = "TIMEOUT"


class InternalError(MilenaError):
    """A defect of Milena; its log has the traceback."""

    code = "INTERNAL"


class BatchError(MilenaError):
    """Some keys of a ``*_many`` call failed; the others were done.

    `errors` maps each key that failed, as the caller gave it, to its error. `results` maps each other key to its
    result; None for a key that does not exist.
    """

    code = "BATCH"

    def __init__(self, errors: Mapping[Any, MilenaError], results: Mapping[Any, Any]) -> None:
        key, first = next(iter(errors.items()))
        super().__init__(f"{len(errors)} keys failed; the first, {key!r}: {first}")
        self.errors = dict(errors)
        self.results = dict(results)
